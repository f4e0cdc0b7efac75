"""Promises of error correction on a small trained CLIP: what each brings, and what is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.contracts import Checkpoint, Progress
from hfcompress.data import load_rows
from hfcompress.errors import QuantizationError
from hfcompress.quantization.correction_options import CorrectionOptions
from hfcompress.recipe import DataReference
from tests.onnx_graphs import calibrated, quantize_static

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from onnxruntime.quantization import TensorsData


class Int8:
    """Quantizes the products with weights, per tensor."""

    def __init__(self, batches: Any) -> None:  # noqa: ANN401 - a function
        self.batches = batches

    def ranges(self, graph: Path) -> TensorsData:
        """Return the ranges on the rows."""
        return calibrated(graph, self.batches)

    def quantize(self, graph: Path, output: Path, ranges: TensorsData | None, floating: Collection[str]) -> None:
        """Write the quantized graph."""
        quantize_static(graph, output, self.batches, [*floating, "/MatMul", *_attention(graph)], ranges)


def _attention(graph: Path) -> list[str]:
    return [name for name in _names(graph, weighted=False) if "self_attn" in name]


def _names(graph: Path, *, weighted: bool) -> tuple[str, ...]:
    from hfcompress.quantization.onnx_graph import survey

    found = survey(graph, ["MatMul", "Gemm"])
    return found.weighted if weighted else found.unweighted


@pytest.fixture(scope="module")
def batches(clip: Path, quickstart_folder: Path, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401
    """Return calibration batches of the model's inputs."""
    from hfcompress.quantization.feeds import feeds
    from hfcompress.quantization.spool import Spool

    columns = {"image": "image", "text": "caption"}
    reference = DataReference(dataset=str(quickstart_folder / "data"), split="calibration[:32]", columns=columns)
    rows = load_rows(reference, ("image", "text"))
    found: Iterator[Any] = feeds(Checkpoint(exported.parents[1], "onnx"), rows, 16, Progress())
    return Spool(tmp_path_factory.mktemp("rows"), (inputs for _, inputs in found))


@pytest.fixture(scope="module")
def exported(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the float graph of a small trained CLIP."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    folder = tmp_path_factory.mktemp("float32")
    OnnxRuntime().export(Checkpoint(clip, "transformers"), folder)
    return folder / "onnx" / "model.onnx"


@pytest.fixture(scope="module")
def outlying(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same CLIP with an outlier in every normalization that linear maps read; in float it is the same."""
    import onnx
    from onnx import numpy_helper

    from hfcompress.quantization.wiring import Wiring, linear_maps

    model = onnx.load(exported)
    wiring = Wiring(model)
    for item in linear_maps(model, wiring):
        node = wiring.producers[item.activation]
        if node.op_type != "LayerNormalization" or "encoder" not in node.name:
            continue
        scaled = wiring.array(item.weight).copy()
        scaled[5] /= 100
        wiring.initializers[item.weight].CopyFrom(numpy_helper.from_array(scaled, item.weight))
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and "encoder" in node.name:
            for name in node.input[1:]:
                scaled = wiring.array(name).copy()
                scaled[5] *= 100
                wiring.initializers[name].CopyFrom(numpy_helper.from_array(scaled, name))
    path: Path = tmp_path_factory.mktemp("outlying") / "model.onnx"
    onnx.save(model, path)
    return path


def corrected(graph: Path, batches: Any, folder: Path, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - any option
    """Quantize a graph with corrections, and return the detail."""
    from hfcompress.quantization.correction import Corrector

    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    nodes = _names(graph, weighted=True)
    made = Corrector(graph, nodes, CorrectionOptions(**options), Int8(batches), batches, scratch, Progress())
    return made.run(folder / "model_quantized.onnx")


def test_smoothing_restores_what_outliers_cost(outlying: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Of several alphas the best is kept, and outliers then cost less than a twentieth of what they did."""
    detail = corrected(outlying, batches, tmp_path, smooth="auto")
    losses = detail["smooth"]["losses"]
    assert detail["loss"]["value"] == pytest.approx(min(losses.values()), rel=0.01)
    assert detail["loss"]["value"] < losses["none"] / 20
    assert (detail["smooth"]["activations"] >= 13, detail["smooth"]["alpha"] in (0.2, 0.35, 0.5, 0.65, 0.8)) == (
        True,
        True,
    )


def test_one_alpha(outlying: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """A number is the alpha that is used, and nothing else is tried."""
    detail = corrected(outlying, batches, tmp_path, smooth=0.5)
    assert (detail["smooth"]["alpha"], "losses" in detail["smooth"]) == (0.5, False)
    assert detail["loss"]["value"] < 1e-3


def test_biases(exported: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Bias correction lowers the loss by a tenth and adds nodes to the two projections alone, which have no bias."""
    detail = corrected(exported, batches, tmp_path, bias_correction=True)
    found = detail["bias_correction"]
    assert (found["maps"], found["biases_added"], found["kept"]) == (38, 2, True)
    assert detail["loss"]["value"] == pytest.approx(found["loss"]["after"])
    assert found["loss"]["after"] < 0.9 * found["loss"]["before"]


def test_a_budget(outlying: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """The whole graph stays inside the budget, what is in float costs most, and all costs are in the report."""
    import onnx

    detail = corrected(outlying, batches, tmp_path, sensitivity={"max_drop": 0.002})
    found = detail["sensitivity"]
    costs = [row["cost"] for row in found["costs"]]
    in_float = [row["name"] for row in found["in_float"]]
    weights = {item.name for item in onnx.load(tmp_path / "model_quantized.onnx").graph.initializer}
    assert found["loss"]["after"] <= 0.002 < found["loss"]["before"]
    assert detail["loss"]["value"] == pytest.approx(found["loss"]["after"])
    assert 0 < len(in_float) < len(costs) / 2
    assert costs == sorted(costs, reverse=True)
    assert [row["name"] for row in found["costs"] if row["in_float"]] == in_float
    assert sum(
        name.startswith("onnx::MatMul") and not name.endswith(("_quantized", "_scale", "_zero_point"))
        for name in weights
    ) == len(in_float)


def test_a_budget_by_blocks_with_all_else(outlying: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Smoothed and corrected, the same model needs nothing in float for the same budget."""
    options = {"smooth": "auto", "bias_correction": True, "sensitivity": {"max_drop": 0.002, "by": "block"}}
    detail = corrected(outlying, batches, tmp_path, **options)
    assert (detail["sensitivity"]["in_float"], len(detail["sensitivity"]["costs"])) == ([], 8)
    assert detail["loss"]["value"] <= 0.002


def test_a_budget_out_of_reach(exported: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """A budget that nothing meets is an error that says what can be met, and no file is left."""
    match = r"^the budget of 1e-12 \(cosine\) cannot be reached: quantizing /\S+ alone, which costs least, loses"
    with pytest.raises(QuantizationError, match=match):
        corrected(exported, batches, tmp_path, sensitivity={"max_drop": 1e-12})
    assert [file.name for file in tmp_path.iterdir()] == ["scratch"]


def test_agreement_of_logits_is_not_for_embeddings(exported: Path, batches: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """With the logits of a dual encoder the largest entry among the batch's rows counts."""
    detail = corrected(exported, batches, tmp_path, sensitivity={"max_drop": 0.5, "metric": "top1_agreement"})
    assert detail["sensitivity"]["in_float"] == []
    assert np.isfinite(detail["loss"]["value"])
