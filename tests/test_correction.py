"""Promises of error correction and of the accuracy budget on a small trained CLIP: what each brings and leaves."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from safetensors.torch import load_file, save_file

from hfcompress.anatomy import load_config
from hfcompress.contracts import Checkpoint, Forecast, Progress, StepContext
from hfcompress.data import load_rows
from hfcompress.errors import QuantizationError, RecipeError
from hfcompress.quantization.correction_options import CorrectionOptions, SensitivityOptions
from hfcompress.quantization.onnxruntime import OnnxRuntimeOptions, OnnxRuntimeQuantizer
from hfcompress.recipe import DataReference, load_recipe

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hfcompress.contracts import Rows

STATIC = {"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration": "test"}
READERS = {
    "layer_norm1": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "layer_norm2": ("mlp.fc1",),
}


@pytest.fixture(scope="module")
def rows(quickstart_folder: Path) -> Rows:
    """Return calibration rows."""
    columns = {"image": "image", "text": "caption"}
    reference = DataReference(dataset=str(quickstart_folder / "data"), split="calibration[:16]", columns=columns)
    return load_rows(reference, ("image", "text"))


@pytest.fixture(scope="module")
def outlying(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the CLIP with an outlier channel in the first block of each tower; in float it computes the same."""
    folder: Path = tmp_path_factory.mktemp("outlying")
    for file in clip.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for tower in ("vision_model", "text_model"):
        for norm, readers in READERS.items():
            for part in ("weight", "bias"):
                weights[f"{tower}.encoder.layers.0.{norm}.{part}"][5] *= 100
            for reader in readers:
                weights[f"{tower}.encoder.layers.0.{reader}.weight"][:, 5] /= 100
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def quantized(source: Path, rows: Rows, folder: Path, mode: str = "static", **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Quantize a checkpoint into a folder, and return what the report tells of its graph."""
    wanted = OnnxRuntimeOptions(runtime="onnxruntime", mode=mode, calibration="rows", **options)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    detail: Any = OnnxRuntimeQuantizer(wanted).apply(Checkpoint(source, "transformers"), folder, StepContext(rows))
    found: dict[str, Any] = detail["graphs"]["model.onnx"]
    return found


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_smoothing_restores_what_outliers_cost(mode: str, outlying: Path, rows: Rows, tmp_path: Path) -> None:
    """Of several alphas the best is kept, and outliers then cost less than a tenth of what they did."""
    found = quantized(outlying, rows, tmp_path / "out", mode, smooth="auto")
    losses, chosen = found["smooth"]["losses"], found["smooth"]["alpha"]
    assert (found["smooth"]["activations"], found["smooth"]["left"]) == (19, 7)
    assert found["loss"]["value"] == pytest.approx(losses[f"{chosen:g}"]) == min(losses.values())
    assert found["loss"]["value"] < losses["none"] / 10
    assert sorted(file.name for file in (tmp_path / "out").iterdir() if file.is_dir()) == ["onnx"]
    assert [file.name for file in (tmp_path / "out" / "onnx").iterdir()] == ["model_quantized.onnx"]


def test_few_copies(outlying: Path, rows: Rows, tmp_path: Path) -> None:
    """Of all that is tried, the float graph, its probe and the best candidate lie on the disk at once."""

    class Counting(Progress):
        files: ClassVar[list[set[str]]] = []

        def track(self, items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
            del total
            for item in items:
                yield item
                if label == "smooth":
                    self.files.append({file.name for file in tmp_path.rglob("*.onnx") if file.is_file()})

    wanted = OnnxRuntimeOptions(runtime="onnxruntime", mode="static", calibration="rows", smooth="auto")
    context = StepContext(rows, progress=Counting())
    OnnxRuntimeQuantizer(wanted).apply(Checkpoint(outlying, "transformers"), tmp_path, context)
    assert [len(files - {"model.onnx", "probed.onnx"}) for files in Counting.files] == [1, 1, 1, 1, 1]


def test_one_alpha(outlying: Path, rows: Rows, tmp_path: Path) -> None:
    """A number is the alpha that is used, and nothing else is tried."""
    found = quantized(outlying, rows, tmp_path / "out", smooth=0.5)
    assert (found["smooth"]["alpha"], "losses" in found["smooth"]) == (0.5, False)
    assert found["loss"]["value"] < 2e-4


def test_biases(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """Bias correction lowers the loss by a tenth, and only the two projections, which have no bias, get a node more."""
    import onnx

    found = quantized(clip, rows, tmp_path / "out", bias_correction=True)
    biases = found["bias_correction"]
    (graph,) = (tmp_path / "out").glob("onnx/*.onnx")
    added = [node.name for node in onnx.load(graph).graph.node if node.name.endswith("/MatMul/bias")]
    assert (biases["maps"], biases["biases_added"], biases["kept"]) == (38, 2, True)
    assert sorted(added) == ["/text_projection/MatMul/bias", "/visual_projection/MatMul/bias"]
    assert found["loss"]["value"] == pytest.approx(biases["loss"]["after"])
    assert biases["loss"]["after"] < 0.9 * biases["loss"]["before"]


def test_a_budget(outlying: Path, rows: Rows, tmp_path: Path) -> None:
    """The whole stays inside the budget, what is in float costs most, and the report tells the costs of all nodes."""
    import onnx

    found = quantized(outlying, rows, tmp_path / "out", sensitivity={"max_drop": 0.001})
    chosen = found["sensitivity"]
    costs, in_float = [row["cost"] for row in chosen["costs"]], [row["name"] for row in chosen["in_float"]]
    (graph,) = (tmp_path / "out").glob("onnx/*.onnx")
    weights = [item.name for item in onnx.load(graph).graph.initializer if re.fullmatch(r"onnx::MatMul_\d+", item.name)]
    assert chosen["loss"]["after"] <= 0.001 < chosen["loss"]["before"]
    assert found["loss"]["value"] == pytest.approx(chosen["loss"]["after"])
    assert (len(costs), costs) == (found["quantized_nodes"] + len(in_float), sorted(costs, reverse=True))
    assert set(in_float) <= {row["name"] for row in chosen["costs"]}
    assert 0 < len(in_float) == len(weights) <= 8
    assert all("/layers.0/" in name for name in in_float)


def test_a_budget_with_everything_else(outlying: Path, rows: Rows, tmp_path: Path) -> None:
    """Smoothed and corrected, the same model meets the same budget with nothing in float."""
    options = {"smooth": 0.5, "bias_correction": True, "sensitivity": {"max_drop": 0.001, "by": "block"}}
    found = quantized(outlying, rows, tmp_path / "out", **options)
    assert (found["sensitivity"]["in_float"], found["bias_correction"]["kept"]) == ([], True)
    assert [row["name"] for row in found["sensitivity"]["costs"]].count("/vision_model/encoder/layers.0") == 1
    assert found["loss"]["value"] <= 0.001


def test_a_budget_out_of_reach(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """A budget that nothing meets is an error that says what can be met, and no graph is left."""
    match = r"^the budget of 1e-14 \(sqnr\) cannot be reached: quantizing /\S+ alone, which costs least, loses"
    with pytest.raises(QuantizationError, match=match):
        quantized(clip, rows, tmp_path / "out", sensitivity={"max_drop": 1e-14, "metric": "sqnr", "by": "block"})
    assert list((tmp_path / "out").rglob("*.onnx")) == []


def test_agreement_and_weights_alone(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """A budget in the agreement of logits works too, also where only weights are quantized."""
    budget = {"max_drop": 0.5, "metric": "top1_agreement", "by": "block"}
    found = quantized(clip, rows, tmp_path / "out", "weight_only", weights="int4", sensitivity=budget)
    assert (found["sensitivity"]["in_float"], found["loss"]["metric"]) == ([], "top1_agreement")


def test_agreement_in_graphs_without_logits(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """Towers beside the whole are held to the cosine, and each graph names its metric."""
    budget = {"max_drop": 0.5, "metric": "top1_agreement", "by": "block"}
    options: Any = {"mode": "dynamic", "calibration": "rows", "layout": "both", "sensitivity": budget}
    wanted = OnnxRuntimeOptions(runtime="onnxruntime", **options)
    detail: Any = OnnxRuntimeQuantizer(wanted).apply(Checkpoint(clip, "transformers"), tmp_path, StepContext(rows))
    for name, metric in (("model", "top1_agreement"), ("text_model", "cosine"), ("vision_model", "cosine")):
        found = detail["graphs"][f"{name}.onnx"]
        assert (found["sensitivity"]["metric"], found["loss"]["metric"]) == (metric, metric)


def test_agreement_without_any_logits(clip: Path, rows: Rows, tmp_path: Path) -> None:
    """Where no graph has logits, their agreement is refused by the plan, and before anything is quantized."""
    options: Any = {"layout": "towers", "sensitivity": {"max_drop": 0.5, "metric": "top1_agreement"}}
    wanted = OnnxRuntimeOptions(runtime="onnxruntime", mode="dynamic", calibration="rows", **options)
    quantizer = OnnxRuntimeQuantizer(wanted)
    with pytest.raises(
        QuantizationError, match=r"^`metric: top1_agreement` compares logits, and towers give embeddings"
    ):
        quantizer.forecast(Forecast(load_config(clip), "transformers", 10, 40))
    with pytest.raises(QuantizationError, match=r"no graph has any \(text_model\.onnx gives text_embeds; vision_model"):
        quantizer.apply(Checkpoint(clip, "transformers"), tmp_path, StepContext(rows))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "dynamic", "bias_correction": True}, "error correction needs `calibration`"),
        ({"mode": "weight_only", "calibration": "test", "smooth": 0.5}, "no outliers to smooth; remove `smooth`"),
        ({**STATIC, "smooth": 1.5}, r"steps\[0\]\.smooth"),
        ({**STATIC, "sensitivity": {"max_drop": 0.0}}, r"steps\[0\]\.sensitivity\.max_drop"),
        ({**STATIC, "sensitivity": {"max_drop": 0.1, "metric": "cosin"}}, r"steps\[0\]\.sensitivity\.metric"),
    ],
)
def test_mistakes(options: dict[str, Any], match: str, recipe: Callable[..., dict[str, Any]]) -> None:
    """What makes no sense is refused when the recipe is read."""
    with pytest.raises(RecipeError, match=match):
        load_recipe(recipe(steps=[{"use": "quantize", "runtime": "onnxruntime", **options}]))


def test_plan() -> None:
    """A plan says what will be corrected."""
    options = CorrectionOptions(smooth="auto", bias_correction=True, sensitivity=SensitivityOptions(max_drop=0.01))
    assert options.correction_words() == (
        "smooth outliers of activations (alpha auto)",
        "correct the biases of linear maps",
        "leave nodes in float until a graph loses at most 0.01 (cosine)",
    )
    assert (CorrectionOptions().corrects, CorrectionOptions().correction_words()) == (False, ())
