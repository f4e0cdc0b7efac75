"""One float32 ONNX graph to one quantized graph, through ONNX Runtime's quantizers."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from onnx import TensorProto
from onnxruntime.quantization import QuantizationMode, QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry, QLinearOpsRegistry

from hfcompress.errors import QuantizationError
from hfcompress.quantization.onnx_graph import FLOAT_OUTPUT, load_graph
from hfcompress.quantization.stored_weights import STORED_OPERATORS, store_weights
from hfcompress.runtimes.onnx_files import EXTERNAL_DATA_BYTES, save_graph
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS, session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnx
    from onnxruntime.quantization import TensorsData

__all__ = ["Activations", "GraphSettings", "Mode", "Weights", "quantizable_operators", "quantize_graph"]

Mode: TypeAlias = Literal["dynamic", "static", "weight_only"]
Weights: TypeAlias = Literal["int8", "int4"]
Activations: TypeAlias = Literal["uint8", "int8", "uint16"]

_ACTIVATION_TYPES: dict[Activations, QuantType] = {
    "uint8": QuantType.QUInt8,
    "int8": QuantType.QInt8,
    "uint16": QuantType.QUInt16,
}


@dataclass(frozen=True)
class GraphSettings:
    """How to quantize one graph.

    Attributes:
        mode: Where the ranges of activations come from: taken at run time, given, or none as activations stay in float.
        weights: Width of the weights of products; 4 bits with `weight_only` alone.
        activations: Width of the activations where the mode is static.
        per_channel: One scale for each output channel instead of one for each weight.
        reduce_range: Use 7 of the 8 bits of a weight, so that products do not saturate without VNNI instructions.
        block_size: Weights that share a scale where the mode is `weight_only`; a power of two of at least 16.
        computed: Names of the nodes that compute in low precision.
        stored: Names of the nodes whose weights are stored in 8 bits and which compute in float.
    """

    mode: Mode
    weights: Weights
    activations: Activations
    per_channel: bool
    reduce_range: bool
    block_size: int
    computed: frozenset[str]
    stored: frozenset[str]


def quantizable_operators(mode: Mode) -> frozenset[str]:
    """Return the operator types that can be quantized in a mode."""
    if mode == "static":
        return frozenset(QDQRegistry) | frozenset(QLinearOpsRegistry) | STORED_OPERATORS
    if mode == "dynamic":
        return frozenset(IntegerOpsRegistry) - {"Transpose"} | {"Gemm"} | STORED_OPERATORS
    return frozenset({"MatMul", "Gemm"}) | STORED_OPERATORS


def quantize_graph(
    graph: Path,
    settings: GraphSettings,
    ranges: TensorsData | None,
    output: Path,
    limit_bytes: int = EXTERNAL_DATA_BYTES,
) -> bool:
    """Quantize one graph and make sure that ONNX Runtime loads the result.

    The products' results stay in float. optimum's `ORTQuantizer` has no way to ask for that (it quantizes them to 8
    bits, to expand them for the addition of the bias), so its quantizer underneath is driven here; it costs neither
    size nor time, and accuracy is better.

    Args:
        graph: A float32 graph in the form that `prepare` gives.
        settings: What is quantized, and how.
        ranges: The ranges of the activations, where the mode is static.
        output: The file to write.
        limit_bytes: A larger result has its weights in a file beside it.

    Returns:
        Whether the weights lie in a file beside it.

    Raises:
        QuantizationError: The graph cannot be read, ONNX Runtime's quantizer refuses it, or the result does not load.
    """
    model = load_graph(graph)
    store_weights(model, settings.stored, per_channel=settings.per_channel)
    try:
        with _quiet():
            model = _computed(model, settings, ranges)
    except RUNTIME_ERRORS as error:
        msg = f"ONNX Runtime's quantizer cannot quantize {graph.name} ({settings.mode}): {error}"
        raise QuantizationError(msg) from error
    external = save_graph(model, output, limit_bytes)
    session(output)
    return external


def _computed(model: onnx.ModelProto, settings: GraphSettings, ranges: TensorsData | None) -> onnx.ModelProto:
    """Quantize the nodes that compute in low precision."""
    if not settings.computed:
        return model
    operators = sorted({node.op_type for node in model.graph.node if node.name in settings.computed})
    others = [node.name for node in model.graph.node if node.name not in settings.computed]
    if settings.mode == "weight_only":
        return _weight_only(model, settings, others)
    quantizer: ONNXQuantizer | QDQQuantizer
    if settings.mode == "dynamic":
        quantizer = ONNXQuantizer(
            model,
            settings.per_channel,
            settings.reduce_range,
            QuantizationMode.IntegerOps,
            static=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=None,
            nodes_to_quantize=[],
            nodes_to_exclude=others,
            op_types_to_quantize=operators,
            extra_options={"WeightSymmetric": True, "DefaultTensorType": TensorProto.FLOAT},
        )
    else:
        quantizer = QDQQuantizer(
            model,
            settings.per_channel,
            settings.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=_ACTIVATION_TYPES[settings.activations],
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=others,
            op_types_to_quantize=operators,
            extra_options={
                "WeightSymmetric": True,
                "ActivationSymmetric": False,
                "OpTypesToExcludeOutputQuantization": [*FLOAT_OUTPUT],
            },
        )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _weight_only(model: onnx.ModelProto, settings: GraphSettings, others: list[str]) -> onnx.ModelProto:
    """Replace products by those of small weights, in blocks along the input, each with a scale and a zero point."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=settings.block_size, bits=4 if settings.weights == "int4" else 8)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=config)
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what ONNX Runtime's quantizers log about their own surroundings ("consider pre-processing")."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
