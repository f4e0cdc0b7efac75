"""Fusing the nodes of a float32 export before quantization, with optimum's `ORTOptimizer`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference
from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer
from optimum.onnxruntime.utils import ORTConfigManager

from hfcompress.errors import QuantizationError
from hfcompress.quantization.onnx_graph import load_graph
from hfcompress.runtimes.onnx_files import save_graph
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PretrainedConfig

__all__ = ["check_optimizable", "optimize"]


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
            fused = load_graph(Path(scratch) / graph.name)
            # ONNX's own inference does not know the fused operators, and what has no type gets no range
            save_graph(SymbolicShapeInference.infer_shapes(fused, auto_merge=True), graph)
