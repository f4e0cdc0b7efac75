"""Promises of weights that torchao quantizes: what is quantized, that stock transformers loads it, what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel

import hfcompress
from hfcompress.anatomy import load_config
from hfcompress.contracts import Checkpoint, Forecast, StepContext
from hfcompress.errors import CheckpointError, QuantizationError, RecipeError
from hfcompress.narrowing import record_in
from hfcompress.quantization.torchao import TorchAoOptions, TorchAoQuantizer
from hfcompress.quantized import quantization_method
from hfcompress.report import Report
from hfcompress.sizes import parameters_of, size_bytes
from tests.families import FAMILIES, build

pytestmark = [pytest.mark.torchao, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel

    from tests.conftest import Python

BLOCKED = "import sys; sys.modules['hfcompress'] = None\n"
"""First line of a program in which hfcompress cannot be imported."""
MODES = [
    pytest.param({"mode": "weight_only"}, 0.01, id="weight_only"),
    pytest.param({"mode": "weight_only", "group_size": 16}, 0.01, id="groups"),
    pytest.param({"mode": "weight_only", "weights": "int4", "group_size": 16}, 0.2, id="int4"),
    pytest.param({"mode": "dynamic"}, 0.05, id="dynamic"),
]


def quantize(source: Path, output: Path, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - any option
    """Quantize a checkpoint, processor or not, into a new folder."""
    output.mkdir()
    step = TorchAoQuantizer(TorchAoOptions(runtime="torchao", **options))
    return dict(step.apply(Checkpoint(source, "transformers"), output, StepContext()))


@torch.no_grad()
def embeddings(model: PreTrainedModel) -> torch.Tensor:
    """Return what a CLIP says of noise."""
    vision = model.config.vision_config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, vision.image_size, vision.image_size, generator=generator)
    found: torch.Tensor = model.eval()(pixel_values=pixels, input_ids=torch.arange(3, 9)[None]).image_embeds
    return found


@pytest.fixture(scope="module")
def quantized(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the quickstart's model with weights of 8 bits."""
    folder = tmp_path_factory.mktemp("torchao") / "int8"
    hfcompress.quantize(clip, runtime="torchao", mode="weight_only", output=folder)
    return folder


def test_stock_transformers_loads_it(quantized: Path, python: Python) -> None:
    """`AutoModel` loads the folder where hfcompress cannot be imported, with weights of 8 bits."""
    code = "from transformers import AutoModel; print(AutoModel.from_pretrained('.').text_projection)"
    done = python("-W", "ignore", "-c", BLOCKED + code, cwd=quantized)
    assert done.returncode == 0, done.stderr
    assert "weight=Int8Tensor" in done.stdout


def test_no_pickle(quantized: Path) -> None:
    """All weights are in safetensors: those of linear layers one byte each, with one scale for each output channel."""
    assert {file.suffix for file in quantized.iterdir() if file.name != "SHA256SUMS"} <= {
        ".safetensors",
        ".json",
        ".txt",
    }
    tensors = load_file(quantized / "model.safetensors")
    layer = "vision_model.encoder.layers.0.mlp.fc1"
    assert tensors[f"{layer}._weight_qdata"].dtype == torch.int8
    assert tensors[f"{layer}._weight_scale"].shape == (896, 1)
    assert tensors["text_model.embeddings.token_embedding.weight"].dtype == torch.float32


@pytest.mark.parametrize(("options", "most"), MODES)
def test_modes(clip: Path, tmp_path: Path, options: dict[str, Any], most: float) -> None:
    """Every mode stays near the source, and the folder gives what the quantized model gave."""
    quantize(clip, tmp_path / "out", **options)
    source, result = (embeddings(AutoModel.from_pretrained(path)) for path in (clip, tmp_path / "out"))
    assert 0 < (result - source).norm() / source.norm() < most


def test_dynamic_cannot_saturate(clip: Path, tmp_path: Path) -> None:
    """Where activations have 8 bits too, weights use 7, so that no processor's sum of products overflows."""
    quantize(clip, tmp_path / "out", mode="dynamic")
    weights = [value for name, value in load_file(tmp_path / "out/model.safetensors").items() if name.endswith("qdata")]
    assert max(int(weight.abs().max()) for weight in weights) <= 64


def test_parameters_are_those_of_the_source(clip: Path, quantized: Path, tmp_path: Path) -> None:
    """Scales and zero points are no parameters, in however many files they lie."""
    tensors = load_file(quantized / "model.safetensors")
    for shard in (0, 1):  # the values of a weight in one, its scales in the other
        some = dict(sorted(tensors.items(), key=lambda item: item[0].endswith("qdata"))[shard::2])
        save_file(some, tmp_path / f"model-0000{shard + 1}-of-00002.safetensors")
    assert parameters_of(clip) == parameters_of(quantized) == parameters_of(tmp_path)


@pytest.mark.parametrize("options", [options for options, _ in (mode.values for mode in MODES)])
def test_forecast(clip: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """The predicted size is that of the tensors, to the byte."""
    step = TorchAoQuantizer(TorchAoOptions(runtime="torchao", **options))
    count = parameters_of(clip)
    forecast = step.forecast(Forecast(load_config(clip), "transformers", count, 4 * count))
    quantize(clip, tmp_path / "out", **options)

    with safe_open(tmp_path / "out/model.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    assert forecast.size_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert (forecast.parameters, quantization_method(forecast.config)) == (count, "torchao")


@pytest.mark.parametrize("family", ["clip", "siglip", "whisper", "llava", "blip_captioning", "clap", "qwen2_vl"])
def test_families(family: str, tmp_path: Path) -> None:
    """Models of every kind load again with their stock class; what shares its weight with an embedding is left."""
    model = build(FAMILIES[family])
    model.save_pretrained(tmp_path / "source")
    detail = quantize(tmp_path / "source", tmp_path / "out", mode="weight_only")
    loaded, loading = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)

    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    kinds = [type(parameter).__name__ for parameter in loaded.parameters()]
    assert kinds.count("Int8Tensor") == detail["quantized_layers"] > 20
    shared = {"whisper": ["proj_out"], "blip_captioning": ["text_decoder.cls.predictions.decoder"]}
    assert detail["left_as_they_are"].get("shares its weight") == shared.get(family)
    assert parameters_of(tmp_path / "out") == parameters_of(tmp_path / "source")


def test_half_precision_stays(clip: Path, tmp_path: Path) -> None:
    """What is not quantized keeps the type that it was cast to, and the model computes in it."""
    hfcompress.load(clip).to(torch.bfloat16).save_pretrained(tmp_path / "source")
    quantize(tmp_path / "source", tmp_path / "out", mode="weight_only")
    model = CLIPModel.from_pretrained(tmp_path / "out", dtype="auto")

    assert model.text_model.embeddings.token_embedding.weight.dtype == torch.bfloat16
    assert model.dtype == torch.bfloat16
    assert load_file(tmp_path / "out/model.safetensors")["logit_scale"].dtype == torch.bfloat16


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_after_pruning(clip: Path, tmp_path: Path, allocation: str) -> None:
    """A pruned model is quantized as any other; where it has a record of shapes, that holds the quantization too."""
    towers = {"vision": {"ffn": 0.3}}
    hfcompress.prune(
        clip, towers=towers, allocation=allocation, importance="magnitude", output=tmp_path / "small", multiple_of=1
    )
    hfcompress.quantize(tmp_path / "small", runtime="torchao", mode="weight_only", output=tmp_path / "out")
    small, result = AutoModel.from_pretrained(tmp_path / "small"), AutoModel.from_pretrained(tmp_path / "out")
    config = load_config(tmp_path / "out")

    assert (embeddings(result) - embeddings(small)).norm() / embeddings(small).norm() < 0.01
    assert quantization_method(config) == "torchao"
    assert (record_in(config) is not None) == (allocation == "global")
    assert parameters_of(tmp_path / "out") == parameters_of(tmp_path / "small")


def test_narrow_model_is_saved_again(clip: Path, tmp_path: Path) -> None:
    """What was loaded with a record of shapes and quantized weights can be saved, and loads again."""
    towers = {"vision": {"ffn": 0.3}}
    hfcompress.prune(clip, towers=towers, allocation="global", importance="magnitude", output=tmp_path / "small")
    hfcompress.quantize(tmp_path / "small", runtime="torchao", mode="weight_only", output=tmp_path / "out")
    model = CLIPModel.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "again", save_original_format=False)  # transformers turns none of torchao's back

    assert load_config(tmp_path / "again").quantization_config == load_config(tmp_path / "out").quantization_config
    assert torch.equal(embeddings(CLIPModel.from_pretrained(tmp_path / "again")), embeddings(model))


def test_int4_is_packed(clip: Path, tmp_path: Path) -> None:
    """Two values share a byte on disk and are counted as two; the folder loads once hfcompress is imported."""
    detail = hfcompress.quantize(clip, runtime="torchao", mode="weight_only", weights="int4", output=tmp_path / "out")
    layer = "text_model.encoder.layers.0.mlp.fc1"
    values = load_file(tmp_path / "out/model.safetensors")[f"{layer}._weight_qdata"]
    model = AutoModel.from_pretrained(tmp_path / "out")
    loaded = model.get_submodule(layer).weight

    assert (values.dtype, tuple(values.shape), tuple(loaded.shape)) == (torch.uint8, (256, 32), (256, 64))
    assert type(loaded).__name__ == "IntxUnpackedToInt8Tensor"
    assert set(loaded.qdata.unique().tolist()) <= set(range(-8, 8))
    assert parameters_of(tmp_path / "out") == parameters_of(clip)
    assert "its 112 inputs are no multiple of group_size 32" in detail["left_as_they_are"]
    assert (quantization_method(load_config(tmp_path / "out")), record_in(load_config(clip))) == ("torchao", None)
    model.save_pretrained(tmp_path / "again", save_original_format=False)
    assert torch.equal(embeddings(CLIPModel.from_pretrained(tmp_path / "again")), embeddings(model))


def test_narrow_heads(clip: Path, tmp_path: Path) -> None:
    """Layers that keep a part of their channels are quantized too, and stay narrow when loaded."""
    hfcompress.prune(clip, towers={"vision": {"heads": 0.5}}, importance="magnitude", output=tmp_path / "small")
    detail = hfcompress.quantize(tmp_path / "small", runtime="torchao", mode="dynamic", output=tmp_path / "out")
    layer = hfcompress.load(tmp_path / "out").vision_model.encoder.layers[0].self_attn.q_proj

    assert detail["quantized_layers"] == 38
    assert (type(layer).__name__, type(layer.weight).__name__) == ("NarrowLinear", "Int8Tensor")
    assert layer.weight.shape[0] == layer.out_features / 2


def test_exclude(clip: Path, tmp_path: Path) -> None:
    """Layers that a pattern names keep their weights to the last bit, and the report says which they are."""
    detail = quantize(clip, tmp_path / "out", mode="weight_only", exclude=("*.layers.0.mlp.*", "text_projection"))
    before, after = load_file(clip / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")

    left = detail["left_as_they_are"]["excluded"]
    assert len(left) == 5
    assert all(torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]) for name in left)
    assert detail["quantized_layers"] == 33
    settings = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert sorted(settings["modules_to_not_convert"]) == sorted(left)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"exclude": ("text_projektion",)},
            r"matches none of the .+CLIPModel \(did you mean 'text_projec",
        ),
        ({"exclude": ("*",)}, r"this CLIPModel has no linear layer to quantize: .+ excluded$"),
        ({"group_size": 1000}, r"no linear layer to quantize: .+ its 64 inputs are no multiple of group_size 1000$"),
    ],
    ids=["pattern", "everything", "groups"],
)
def test_nothing_to_quantize(clip: Path, recipe: Callable[..., Any], options: dict[str, Any], match: str) -> None:
    """A pattern without a layer, and a model without a layer that is left, are refused in the plan."""
    step = {"use": "quantize", "runtime": "torchao", "mode": "weight_only", **options}
    step["exclude"] = list(step.get("exclude", ()))
    with pytest.raises(RecipeError, match=match):
        hfcompress.plan(recipe(model={"id": str(clip)}, steps=[step]))


def test_groups_belong_to_weight_only() -> None:
    """Torchao has no groups where activations are quantized too."""
    with pytest.raises(ValidationError, match="`mode: dynamic` has one scale for each output channel; remove"):
        TorchAoOptions(runtime="torchao", mode="dynamic", group_size=32)


def test_int4_belongs_to_weight_only() -> None:
    """There are no products of 8-bit activations and 4-bit weights."""
    with pytest.raises(ValidationError, match="`mode: dynamic` multiplies weights of 8 bits; use `weights: int8`"):
        TorchAoOptions(runtime="torchao", mode="dynamic", weights="int4")


def test_weights_that_are_not_finite(clip: Path, tmp_path: Path) -> None:
    """A weight that is not finite is named, and has no scale."""
    source = tmp_path / "source"
    CLIPModel.from_pretrained(clip).save_pretrained(source)
    tensors = load_file(source / "model.safetensors")
    tensors["text_projection.weight"][0, 0] = float("nan")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(QuantizationError, match=r"^text_projection\.weight holds values that are not finite"):
        quantize(source, tmp_path / "out", mode="weight_only")


def test_weight_that_is_read_as_a_table(tmp_path: Path) -> None:
    """A layer whose weight is not only multiplied with is refused with what to do, and then it works."""
    build(FAMILIES["layoutlmv3"]).save_pretrained(tmp_path / "source")
    with pytest.raises(QuantizationError, match=r"LayoutLMv3\w+ reads a weight otherwise .+ into `exclude`"):
        quantize(tmp_path / "source", tmp_path / "out", mode="weight_only")
    detail = quantize(tmp_path / "source", tmp_path / "again", mode="weight_only", exclude=("*rel_pos*",))
    assert len(detail["left_as_they_are"]["excluded"]) == 3


def test_no_step_follows(quantized: Path, recipe: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing can be pruned or quantized once more, in a recipe or from Python."""
    step = {"use": "quantize", "runtime": "torchao", "mode": "weight_only"}
    with pytest.raises(RecipeError, match=r"steps\[1\]: the weights are quantized with 'torchao', and a step takes"):
        hfcompress.plan(recipe(steps=[step, *recipe()["steps"]]))
    with pytest.raises(CheckpointError, match="the weights are quantized with 'torchao'"):
        hfcompress.quantize(quantized, runtime="torchao", mode="dynamic", output=tmp_path / "out")


def test_run(recipe: Callable[..., Any], python: Python, tmp_path: Path) -> None:
    """A run measures the artifact as it loads, and its card's snippet runs with what the card installs."""
    step = {"use": "quantize", "runtime": "torchao", "mode": "weight_only"}
    report = hfcompress.run(recipe(steps=[step]), output=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = python("-W", "ignore", "-c", BLOCKED + code, cwd=tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert 'pip install torch "transformers>=5" pillow "torchao>=0.18"\n' in card
    assert "\n- quantized\n- torchao\n" in card
    assert report["parameters"].compressed.value == report["parameters"].source.value
    assert report["size_bytes"].compressed.value == size_bytes(Checkpoint(tmp_path / "out", "transformers"))
    assert report["top1_agreement"].compressed.value > 0.95
    assert Report.load(tmp_path / "out") == report
    assert transformers.__version__ == report.environment["transformers"]
