"""Small ONNX graphs for the tests, made by hand, and their static quantization by ONNX Runtime itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from onnxruntime.quantization import TensorsData

    Array = np.ndarray[Any, Any]
    Batches = Callable[[], Iterator[dict[str, Array]]]


PRODUCTS = ["MatMul", "Gemm"]


def write_graph(
    path: Path,
    nodes: Sequence[tuple[str, Sequence[str], str] | tuple[str, Sequence[str], str, dict[str, Any]]],
    weights: Mapping[str, Array],
    width: int,
    output_widths: Mapping[str, int],
    opset: int = 18,
) -> Path:
    """Write a graph from (operator, inputs, output, attributes); a node has the name of its output.

    The input is `x`, of shape (batch, tokens, width).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    made = [
        helper.make_node(kind, list(inputs), [output], output, **(rest[0] if rest else {}))
        for kind, inputs, output, *rest in nodes
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", size])
        for name, size in output_widths.items()
    ]
    put = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", width])
    constants = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    model = helper.make_model(
        helper.make_graph(made, "graph", [put], outputs, constants),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def random_batches(width: int, scales: Array | float = 1.0, count: int = 3) -> Batches:
    """Return a function that gives the same random batches of (4, 5, width) each time."""
    random = np.random.default_rng(7)
    made = [{"x": (random.normal(size=(4, 5, width)) * scales).astype(np.float32)} for _ in range(count)]
    return lambda: iter(made)


def calibrated(path: Path, batches: Batches) -> TensorsData:
    """Return the range of each tensor of a float graph."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = batches()

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    calibrator = create_calibrator(path, PRODUCTS, str(path.with_suffix(".augmented.onnx")))
    calibrator.collect_data(Reader())
    return calibrator.compute_data()


def quantize_static(
    path: Path,
    output: Path,
    batches: Batches,
    floating: Collection[str] = (),
    ranges: TensorsData | None = None,
) -> Path:
    """Quantize the products with weights to 8 bits, without the named nodes, with ranges of its own or those given."""
    import onnx
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    quantizer = QDQQuantizer(
        onnx.load(path),
        per_channel=False,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=calibrated(path, batches) if ranges is None else ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(floating),
        op_types_to_quantize=PRODUCTS,
        extra_options={"OpTypesToExcludeOutputQuantization": PRODUCTS},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(output))
    return output


def run(path: Path, batch: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of a graph."""
    from hfcompress.runtimes.onnx_session import session

    outputs: list[Array] = session(path).run(None, dict(batch))
    return outputs
