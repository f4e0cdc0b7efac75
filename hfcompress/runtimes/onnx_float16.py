"""Float32 exports to ONNX written again with weights of 16 bits, what that did to them, and whether they still run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from hfcompress.errors import QuantizationError
from hfcompress.graph_names import ONNX_FOLDER, graph_file
from hfcompress.runtimes.onnx_files import remove_graph, save_graph
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS
from hfcompress.runtimes.onnxruntime import load_stock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Array: TypeAlias = np.ndarray[Any, Any]
    Tensors: TypeAlias = Mapping[str, torch.Tensor]

__all__ = ["check_finite", "kept_in_float32", "outputs_of", "rounded_weights", "write_float16"]

_LARGEST = float(np.finfo(np.float16).max)


def write_float16(graphs: Path, output: Path) -> None:
    """Write each graph of a folder in float16, with inputs and outputs of float32, under the name for transformers.js.

    Operators that ONNX Runtime's converter does not trust in float16 compute in float32, and keep their weights.

    Args:
        graphs: Folder of float32 graphs.
        output: Folder of the new ones, another than `graphs`.
    """
    output.mkdir(parents=True, exist_ok=True)
    for graph in sorted(graphs.glob("*.onnx")):
        typed = graph.with_name(f"typed_{graph.name}")
        # by path, for a model of more than 2 GB has no other way; the conversion looks types up where it casts back
        onnx.shape_inference.infer_shapes_path(str(graph), str(typed))
        model = onnx.load(typed)
        remove_graph(typed)
        save_graph(
            convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True),
            output / graph_file(graph.stem, "float16"),
        )


def rounded_weights(graphs: Path, output: Path) -> Iterator[tuple[str, Array, Array]]:
    """Yield each weight that is float16 in the written graphs: its name, its values before, and those after.

    A weight that several graphs hold comes once for each of them. Constants beyond the type, which attention masks
    are, are none.
    """
    for name, before, after in _weights(graphs, output):
        if after.dtype == np.float16 and np.abs(before).max(initial=0) <= _LARGEST:
            yield name, before, after.astype(np.float32)


def kept_in_float32(graphs: Path, output: Path) -> int:
    """Return the number of weights that the written graphs hold in float32."""
    return sum(after.size for _, _, after in _weights(graphs, output) if after.dtype == np.float32)


def _weights(graphs: Path, output: Path) -> Iterator[tuple[str, Array, Array]]:
    """Yield each float32 weight of the graphs, and what is in its place in those that were written."""
    for graph in sorted(graphs.glob("*.onnx")):
        written = output / graph_file(graph.stem, "float16")
        new = {tensor.name: tensor for tensor in onnx.load(written, load_external_data=False).graph.initializer}
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and tensor.name in new:
                after = numpy_helper.to_array(new[tensor.name], str(output))
                yield tensor.name, numpy_helper.to_array(tensor, str(graphs)), after


def outputs_of(export: Path, inputs: Tensors) -> dict[str, torch.Tensor]:
    """Run every graph of an export once, in its stock class, and return what comes out by name.

    Args:
        export: The export: graphs under `onnx/`, configuration beside them.
        inputs: Example inputs of the model; those whose shape is fixed in a graph are repeated or cut to it.

    Raises:
        CheckpointError: The class cannot load the graphs.
        QuantizationError: ONNX Runtime cannot run them.
    """
    stock: Any = load_stock(export)
    try:
        with torch.inference_mode():
            if hasattr(stock, "encoder"):
                return _written(stock, inputs)
            return _tensors(stock(**_fitted(stock.session, inputs)))
    except RUNTIME_ERRORS as error:
        msg = f"ONNX Runtime cannot run the graphs of {export / ONNX_FOLDER}: {error}"
        raise QuantizationError(msg) from error


def check_finite(expected: Tensors, got: Tensors) -> None:
    """Check that whatever the float32 graphs put out as finite numbers those in float16 do too.

    ONNX Runtime computes most of such a graph in float32 where the processor has no products of 16 bits, so a value
    inside that is beyond the type need not show here: torch, in float16 throughout, is what finds it.

    Raises:
        QuantizationError: An output is not finite.
    """
    for name, reference in expected.items():
        if reference.isfinite().all() and not got[name].isfinite().all():
            msg = (
                f"the output {name!r} of the ONNX graph is not finite in float16, for some value inside is beyond the "
                f"type; use `dtype: bfloat16` with `runtime: torch`, or `use: quantize`"
            )
            raise QuantizationError(msg)


def _written(stock: Any, inputs: Tensors) -> dict[str, torch.Tensor]:  # noqa: ANN401 - a class of optimum's
    """Run an encoder, and its decoders from the beginning and from a cache."""
    read = _fitted(stock.encoder.session, inputs)
    ids = inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"]
    begun = stock(**read, decoder_input_ids=ids, use_cache=True)
    found = _tensors(begun)
    if stock.decoder_with_past is not None:
        going = stock(**read, decoder_input_ids=ids[:, -1:], past_key_values=begun.past_key_values, use_cache=True)
        found |= {f"{name} with past": value for name, value in _tensors(going).items()}
    return found


def _tensors(outputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def _fitted(session: Any, inputs: Tensors) -> dict[str, torch.Tensor]:  # noqa: ANN401 - onnxruntime has no types
    """Return a graph's inputs in the shapes that it fixes; a mask attends to everything."""
    found = {}
    for put in session.get_inputs():
        if put.name in inputs:
            values = inputs[put.name].numpy()
            shape = [
                fixed if isinstance(fixed, int) else size for fixed, size in zip(put.shape, values.shape, strict=True)
            ]
            found[put.name] = torch.from_numpy(np.resize(values, shape))
    if any(put.name == "attention_mask" for put in session.get_inputs()):
        masked = next(found[name] for name in ("input_ids", "input_features", "input_values") if name in found)
        found["attention_mask"] = torch.ones(masked.shape[:2], dtype=torch.long)
    return found
