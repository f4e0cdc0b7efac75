"""Fusing the nodes of a float32 export before quantization, with optimum's `ORTOptimizer`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer
from optimum.onnxruntime.utils import ORTConfigManager

from hfcompress.errors import QuantizationError
from hfcompress.quantization.onnx_graph import load_graph
from hfcompress.runtimes.onnx_files import save_graph
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx
    from transformers import PretrainedConfig

__all__ = ["check_optimizable", "optimize", "with_types"]


def check_optimizable(config: PretrainedConfig) -> None:
    """Check that optimum knows how to fuse the nodes of an architecture.

    Raises:
        QuantizationError: It does not; the text names what it knows.
    """
    try:
        ORTConfigManager.check_optimization_supported_model(config.model_type, None)
        ORTOptimizer([], config)
    except (KeyError, NotImplementedError) as error:
        known = ", ".join(sorted(ORTConfigManager._conf))  # noqa: SLF001 - it is published nowhere else
        msg = f"optimize: optimum's ORTOptimizer does not know {config.model_type!r} models; it knows {known}"
        raise QuantizationError(msg) from error


def optimize(graphs: Iterable[Path], config: PretrainedConfig, level: Literal["O1", "O2", "O3"]) -> None:
    """Fuse the nodes of float32 graphs in place.

    Attention and embeddings are not fused into single nodes, whose weights no quantizer of ONNX Runtime's static mode
    reaches.

    Raises:
        QuantizationError: optimum does not know the architecture, or ONNX Runtime cannot optimize a graph.
    """
    check_optimizable(config)
    settings = AutoOptimizationConfig.with_optimization_level(
        level, disable_attention_fusion=True, disable_embed_layer_norm_fusion=True
    )
    for graph in graphs:
        with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
            try:
                ORTOptimizer([graph], config).optimize(settings, scratch, file_suffix="")
            except RUNTIME_ERRORS as error:
                msg = f"ONNX Runtime cannot optimize {graph.name} ({level}): {error}"
                raise QuantizationError(msg) from error
            save_graph(with_types(Path(scratch) / graph.name), graph)


def with_types(graph: Path) -> onnx.ModelProto:
    """Return a graph with the types of all its tensors, also those of ONNX Runtime's fused operators.

    ONNX's own inference does not know them, and what has no type gets no range. ONNX Runtime's tool runs in a process
    of its own, in a temporary folder beside the graph, because where it fails it leaves a file in its working folder.

    Raises:
        QuantizationError: A type cannot be told.
    """
    with tempfile.TemporaryDirectory(dir=graph.parent) as folder:
        options = {"input": graph.resolve(), "output": graph.name, "external_data_location": f"{graph.name}_data"}
        command = [sys.executable, "-m", "onnxruntime.tools.symbolic_shape_infer", "--auto_merge"]
        command += ["--save_as_external_data", "--all_tensors_to_one_file"]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            msg = f"ONNX Runtime cannot tell the types of the tensors of {graph.name}, fused: {why}; remove `optimize`"
            raise QuantizationError(msg)
        return load_graph(Path(folder) / graph.name)
