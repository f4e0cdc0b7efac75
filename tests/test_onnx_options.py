"""Promises of the options of `runtime: onnxruntime`: each one changes the graph as it says, and only so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest

import hfcompress

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnx

    from hfcompress.contracts import Json

SIMILARITY = "/MatMul"
"""Name of the product of the two embeddings in optimum's export of a CLIP."""


@pytest.fixture
def quantize(clip: Path, quickstart_folder: Path, tmp_path: Path) -> Callable[..., tuple[Any, dict[str, Json]]]:
    """Return a function from options to the quantized graph of the quickstart's model, and what is said of it."""
    import onnx

    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="calibration[:12]")
    rows = rows.rename_column("caption", "text").remove_columns("label")

    def run(mode: str, **options: Any) -> tuple[Any, dict[str, Json]]:  # noqa: ANN401 - any option
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        calibration = rows if mode == "static" else None
        detail = hfcompress.quantize(
            clip, output=out, runtime="onnxruntime", mode=mode, calibration=calibration, **options
        )
        (file,) = (out / "onnx").iterdir()
        graphs = detail["graphs"]
        assert isinstance(graphs, dict)
        (found,) = graphs.values()
        assert isinstance(found, dict)
        return onnx.load(file), {**detail, **found}

    return run


def reads_8_bits(graph: onnx.GraphProto, operator: str) -> dict[str, bool]:
    """Return, for every node of a type, whether what it reads comes out of 8 bits."""
    expanded = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.name: set(node.input) <= expanded for node in graph.node if node.op_type == operator}


def largest_weights(graph: onnx.GraphProto) -> list[int]:
    """Return the largest magnitude in each 8-bit weight of a product."""
    from onnx import numpy_helper

    return [
        int(np.abs(numpy_helper.to_array(tensor).astype(int)).max())
        for tensor in graph.initializer
        if tensor.data_type == tensor.INT8 and len(tensor.dims) == 2 and "MatMul" in tensor.name
    ]


def test_similarity_is_float_and_ties_nothing(quantize: Any, quickstart_folder: Path) -> None:  # noqa: ANN401
    """By default the similarity reads floats, and no two classes of an image have the same score."""
    import onnxruntime

    from hfcompress.inputs import load_processor, possible_inputs

    model, detail = quantize("static")
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="test[:60]")
    texts = [f"a photo of the digit {name}." for name in rows.features["label"].names]
    inputs = possible_inputs(load_processor(quickstart_folder / "clip-digits"), {"image": rows["image"], "text": texts})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    logits = session.run(["logits_per_image"], {put.name: inputs[put.name] for put in session.get_inputs()})[0]

    assert not reads_8_bits(model.graph, "MatMul")[SIMILARITY]
    assert [len(set(row)) for row in logits.tolist()] == [len(texts)] * len(rows)
    assert (detail["computed_in_low_precision"], detail["float_nodes"]) == (38, 13)


def test_products_of_activations(quantize: Any) -> None:  # noqa: ANN401
    """`products_of_activations` makes every product read 8 bits, the similarity too."""
    model, detail = quantize("static", products_of_activations=True)
    found = reads_8_bits(model.graph, "MatMul")
    assert found[SIMILARITY]
    assert all(found.values())
    assert (detail["computed_in_low_precision"], detail["float_nodes"]) == (len(found), 0)


@pytest.mark.parametrize(("target", "bits"), [("auto", 7), ("avx512_vnni", 8)])
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_bits_of_weights(mode: str, target: str, bits: int, quantize: Any) -> None:  # noqa: ANN401
    """Where products may saturate no weight of theirs is larger than 64; where they cannot, the whole byte is used."""
    model, detail = quantize(mode, target=target)
    found = largest_weights(model.graph)
    assert detail["weight_bits"] == bits
    assert len(found) == 38
    assert set(found) <= ({63, 64} if bits == 7 else {127, 128})


@pytest.mark.parametrize(("activations", "kind"), [("int8", "INT8"), ("uint16", "UINT16")])
def test_width_of_activations(activations: str, kind: str, quantize: Any) -> None:  # noqa: ANN401
    """The activations of static mode have the type that the recipe names."""
    from onnx import TensorProto

    model, detail = quantize("static", activations=activations)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {types[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert detail["activations"] == activations
    assert found == {getattr(TensorProto, kind)}
    assert all(
        reads_8_bits(model.graph, "MatMul")[name] for name in reads_8_bits(model.graph, "MatMul") if "mlp" in name
    )


def test_more_operators(quantize: Any) -> None:  # noqa: ANN401
    """An operator beside the products is quantized where `operators` names it, and what it leaves out is not."""
    model, detail = quantize("static", operators=["MatMul", "Sigmoid"])
    sigmoid = reads_8_bits(model.graph, "Sigmoid")
    assert len(sigmoid) > 0
    assert all(sigmoid.values())
    assert detail["computed_in_low_precision"] == 38 + len(sigmoid)
    assert detail["stored_in_8_bits"] == 0


def test_excluded_nodes(quantize: Any) -> None:  # noqa: ANN401
    """What `exclude` names keeps its float weight and is listed; the rest is quantized as before."""
    model, detail = quantize("static", exclude=["*/mlp/fc2/*"])
    found = reads_8_bits(model.graph, "MatMul")
    left = sorted(name for name in found if "/mlp/fc2/" in name)
    assert detail["excluded"] == left
    assert not any(found[name] for name in left)
    assert (len(left), detail["computed_in_low_precision"]) == (6, 38 - 6)
    assert sum(found.values()) == 38 - 6
