"""Promises of int8 for ONNX Runtime: what is quantized, what stays in float, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import BertConfig, SiglipConfig

import hfcompress
from hfcompress.contracts import Checkpoint, Forecast, StepContext
from hfcompress.data import load_rows
from hfcompress.errors import HfcompressError, QuantizationError, RecipeError
from hfcompress.recipe import DataReference, load_recipe

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hfcompress.contracts import Rows, Step
    from tests.conftest import Ran

    Recipe = Callable[..., dict[str, Any]]

DYNAMIC = {"use": "quantize", "runtime": "onnxruntime", "mode": "dynamic"}
STATIC = {**DYNAMIC, "mode": "static", "calibration": "rows"}


@pytest.fixture(scope="module")
def rows(quickstart_folder: Path) -> Rows:
    """Return calibration rows."""
    columns = {"image": "image", "text": "caption"}
    reference = DataReference(dataset=str(quickstart_folder / "data"), split="calibration[:12]", columns=columns)
    return load_rows(reference, ("image", "text"))


def step(recipe: Recipe, **options: Any) -> Step:  # noqa: ANN401 - any option
    """Return the quantizing step of a recipe."""
    data = recipe()["data"]
    data["rows"] = {**data["test"], "split": "calibration"}
    used = data if options["mode"] == "static" else {"test": data["test"]}
    return load_recipe(recipe(data=used, steps=[options])).steps[0].build()


def operators(folder: Path) -> dict[str, int]:
    """Return how often each operator stands in the only graph of a folder."""
    import onnx

    (graph,) = folder.glob("onnx/*.onnx")
    names = [node.op_type for node in onnx.load(graph).graph.node]
    return {name: names.count(name) for name in set(names)}


def test_survey_tells_weights_from_activations(tmp_path: Path) -> None:
    """A product with a weight, transposed or not, is quantized; one of two activations is not."""
    import onnx
    from onnx import TensorProto, helper

    from hfcompress.quantization.onnx_graph import survey

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "with a weight"),
        helper.make_node("Transpose", ["w"], ["t"], "transpose"),
        helper.make_node("MatMul", ["a", "t"], ["b"], "with a transposed weight"),
        helper.make_node("MatMul", ["b", "b"], ["c"], "of two activations"),
        helper.make_node("Gather", ["w", "ids"], ["d"], "of a weight"),
        helper.make_node("Gather", ["c", "ids"], ["e"], "of an activation"),
        helper.make_node("Add", ["d", "e"], ["y"], "not asked for"),
    ]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [0.0] * 4)
    ids = helper.make_tensor("ids", TensorProto.INT64, [1], [0])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, ids])
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    found = survey(tmp_path / "g.onnx", ["MatMul", "Gather"])

    assert found.weighted == ("with a weight", "with a transposed weight", "of a weight")
    assert found.unweighted == ("of two activations", "of an activation")


def test_weights_are_int8_and_the_similarity_is_float(quickstart: Ran) -> None:
    """In the artifact all large weights are 8-bit; the similarity, of two activations, is float."""
    import onnx

    (graph,) = quickstart.folder.glob("onnx/*.onnx")
    model = onnx.load(graph).graph
    large = [tensor for tensor in model.initializer if int(np.prod(tensor.dims)) > 2000]
    products = [node for node in model.node if node.op_type == "MatMul"]

    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.INT8}
    assert not {name for node in products for name in node.input} & {tensor.name for tensor in model.initializer}
    assert "/MatMul" in {node.name for node in products if "text_embeds" in node.input}


def test_static_has_ranges_in_the_graph(static: Ran) -> None:
    """A static export carries its ranges; nothing is measured at run time."""
    found = operators(static.folder)
    assert found["QuantizeLinear"] > 0
    assert "DynamicQuantizeLinear" not in found


def test_one_scale_for_each_channel_or_weight(clip: Path, recipe: Recipe, tmp_path: Path) -> None:
    """`per_channel: false` gives each weight one scale, where the default gives one for each output."""
    import onnx

    shapes = {}
    for per_channel in (True, False):
        folder = tmp_path / str(per_channel)
        folder.mkdir()
        options = {**DYNAMIC, "per_channel": per_channel}
        detail = step(recipe, **options).apply(Checkpoint(clip, "transformers"), folder, StepContext())
        (graph,) = folder.glob("onnx/*.onnx")
        scales = [tensor for tensor in onnx.load(graph).graph.initializer if tensor.name.endswith("_scale")]
        shapes[per_channel] = {tuple(tensor.dims) for tensor in scales if "MatMul" in tensor.name}
        assert detail["per_channel"] is per_channel
        assert sorted(file.name for file in folder.iterdir() if file.name.startswith("tmp")) == []
    assert all(shape in {(), (1,)} for shape in shapes[False])
    assert max(int(np.prod(shape)) for shape in shapes[True]) > 100


def test_calibration_does_not_depend_on_the_batches(clip: Path, rows: Rows, recipe: Recipe, tmp_path: Path) -> None:
    """Ranges are those of all rows together, however many go through the model at once."""
    graphs = []
    for batch_size in (4, 12):
        folder = tmp_path / str(batch_size)
        folder.mkdir()
        options = {**STATIC, "batch_size": batch_size}
        step(recipe, **options).apply(Checkpoint(clip, "transformers"), folder, StepContext(rows))
        (graph,) = folder.glob("onnx/*.onnx")
        graphs.append(_scales(graph))
    assert graphs[0].keys() == graphs[1].keys()
    for name, scale in graphs[0].items():
        np.testing.assert_allclose(scale, graphs[1][name], rtol=1e-4, atol=1e-9)


def _scales(graph: Path) -> dict[str, np.ndarray[Any, Any]]:
    import onnx
    from onnx import numpy_helper

    tensors = onnx.load(graph).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith("_scale")}


def test_weights_that_are_not_finite(clip: Path, rows: Rows, recipe: Recipe, tmp_path: Path) -> None:
    """A weight that is not finite ends the run before anything is quantized, and the run says which it is."""
    broken, out = tmp_path / "broken", tmp_path / "out"
    broken.mkdir()
    out.mkdir()
    for file in clip.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["vision_model.encoder.layers.1.mlp.fc1.weight"].fill_(float("inf"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})

    with pytest.raises(
        QuantizationError,
        match=r"^[\d,]+ values of the weight \S+, which \S+/layers\.1/mlp/fc1/MatMul of model\.onnx reads",
    ):
        step(recipe, **STATIC).apply(Checkpoint(broken, "transformers"), out, StepContext(rows))


def test_static_without_rows(clip: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Static quantization without rows is an error and not a guess."""
    with pytest.raises(QuantizationError, match=r"^static quantization needs calibration rows$"):
        step(recipe, **STATIC).apply(Checkpoint(clip, "transformers"), tmp_path, StepContext())


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (
            SiglipConfig(architectures=["SiglipModel"], model_type="no-such-type"),
            r"^optimum's ONNX exporter has no export for '.+' models; of those that its classes load it exports .*clip",
        ),
        (
            BertConfig(architectures=["BertForNextSentencePrediction"]),
            r"^optimum exports 'bert' models \(.+\), but has no",
        ),
    ],
    ids=["no export", "no class"],
)
def test_architecture_that_cannot_be_exported(config: Any, match: str, recipe: Recipe) -> None:  # noqa: ANN401
    """What optimum cannot export or load is refused in the plan, before any weights are read."""
    with pytest.raises(HfcompressError, match=match):
        step(recipe, **DYNAMIC).forecast(Forecast(config, "transformers", 10, 40))


def test_refused_architecture_is_placed_in_the_recipe(recipe: Recipe, tmp_path: Path) -> None:
    """The plan of a recipe puts the refusal at its step."""
    (tmp_path / "bert").mkdir()
    BertConfig(architectures=["BertForNextSentencePrediction"], num_hidden_layers=1).save_pretrained(tmp_path / "bert")
    values = recipe(model={"id": "bert"}, steps=[DYNAMIC])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:12:3: steps\[0\]: optimum exports 'bert' models"):
        hfcompress.plan(tmp_path / "recipe.yaml")


def test_forecast_counts_what_becomes_a_byte(clip: Path, recipe: Recipe) -> None:
    """The predicted size is within a tenth of what quantization then gives."""
    forecast = hfcompress.plan(recipe(steps=[DYNAMIC])).forecasts[-1]
    assert (forecast.format, forecast.parameters) == ("onnx", 973489)
    assert forecast.size_bytes < (clip / "model.safetensors").stat().st_size / 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "static"}, "`mode: static` needs `calibration`"),
        ({"weights": "int4"}, "`mode: dynamic` computes in 8 bits; `weights: int4` needs `mode: weight_only`"),
        ({"activations": "int8"}, "`mode: dynamic` does not read `activations`; remove it, or use `mode: static`"),
        ({"block_size": 64}, "`mode: dynamic` does not read `block_size`; remove it, or use `mode: weight_only`"),
        ({"mode": "weight_only", "target": "arm64"}, "`mode: weight_only` does not read `target`"),
        ({"mode": "weight_only", "block_size": 48}, "48 is not a power of two"),
        ({"mode": "weight_only", "products_of_activations": True}, "`mode: weight_only` computes in float"),
        ({"operators": []}, "names no operator"),
    ],
)
def test_options_that_make_no_sense_together(options: dict[str, Any], match: str, recipe: Recipe) -> None:
    """What a mode does not read is refused with the reason."""
    with pytest.raises(RecipeError, match=match):
        load_recipe(recipe(steps=[{**DYNAMIC, **options}]))


def test_operator_that_cannot_be_quantized(clip: Path, recipe: Recipe) -> None:
    """The plan refuses an operator that ONNX Runtime does not quantize, and names the nearest."""
    del clip
    with pytest.raises(RecipeError, match=r"operators: ONNX Runtime quantizes no 'MatMull' in mode dynamic \(did you"):
        hfcompress.plan(recipe(steps=[{**DYNAMIC, "operators": ["MatMull"]}]))


def test_optimization_of_an_unknown_architecture() -> None:
    """An architecture whose nodes optimum cannot fuse is refused, with those that it knows."""
    from hfcompress.quantization.onnx_optimizer import check_optimizable

    with pytest.raises(QuantizationError, match=r"does not know 'siglip' models; it knows albert, .*clip"):
        check_optimizable(SiglipConfig())


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_small_weights_alone(weights: str, clip: Path, recipe: Recipe, tmp_path: Path) -> None:
    """`mode: weight_only` gives a model that loads with its stock class, as small as forecast."""
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    options = {"use": "quantize", "runtime": "onnxruntime", "mode": "weight_only", "weights": weights}
    detail = step(recipe, **options).apply(Checkpoint(clip, "transformers"), tmp_path, StepContext())
    (graph,) = tmp_path.glob("onnx/*.onnx")
    ORTModelForZeroShotImageClassification.from_pretrained(tmp_path, file_name=graph.name)
    forecast = hfcompress.plan(recipe(steps=[options])).forecasts[-1]
    assert detail["weights"] == weights
    assert operators(tmp_path)["MatMulNBits"] == 38
    assert graph.stat().st_size == pytest.approx(forecast.size_bytes, rel=0.2)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_of_calibration(method: str, clip: Path, rows: Rows, recipe: Recipe, tmp_path: Path) -> None:
    """The histogram methods quantize what `minmax` does, and tell which tensors were too flat for them."""
    options = {**STATIC, "calibration_method": method, "optimize": "O2"}
    detail = step(recipe, **options).apply(Checkpoint(clip, "transformers"), tmp_path, StepContext(rows))
    (found,) = detail["graphs"].values()
    assert (found["computed_in_low_precision"], found["exact_ranges"]) == (38, len(found["exact_range_tensors"]))
    assert operators(tmp_path)["QuantizeLinear"] > 20
