"""Promises of the step `cast`: what is rounded and by how much, that the result runs in its type, what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel

import hfcompress
from hfcompress.anatomy import load_config, load_model, stored_dtype
from hfcompress.casting import Cast, CastOptions, rounding
from hfcompress.contracts import Checkpoint, Forecast, StepContext
from hfcompress.errors import QuantizationError
from hfcompress.narrowing import record_in
from hfcompress.probes import example_inputs
from hfcompress.runtimes import runtime_of
from hfcompress.sizes import parameters_of
from tests.families import FAMILIES, build

pytestmark = pytest.mark.filterwarnings("ignore")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Python

DTYPES = ["float16", "bfloat16"]
TABLE = "text_model.embeddings.token_embedding.weight"


def cast(source: Path, output: Path, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - any option
    """Cast a checkpoint, processor or not, into a new folder."""
    output.mkdir()
    step = Cast(CastOptions(**options))
    return dict(step.apply(Checkpoint(source, "transformers"), output, StepContext()))


def with_weight(clip: Path, folder: Path, value: float) -> Path:
    """Return a copy of a checkpoint, processor and all, in which one weight has this value."""
    folder.mkdir()
    for file in clip.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights[TABLE][3, 5] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_stock_class_loads_it_in_its_type(clip: Path, python: Python, tmp_path: Path, dtype: str) -> None:
    """`dtype="auto"`, version 5's default, gives the type, without hfcompress; every weight is the rounded one."""
    hfcompress.cast(clip, dtype=dtype, output=tmp_path / "out")
    code = "import sys; sys.modules['hfcompress'] = None\nfrom transformers import AutoModel\n"
    code += "print({str(weight.dtype) for weight in AutoModel.from_pretrained('.', dtype='auto').parameters()})"
    done = python("-W", "ignore", "-c", code, cwd=tmp_path / "out")

    assert (done.returncode, done.stdout.strip()) == (0, f"{{'torch.{dtype}'}}"), done.stderr
    source, result = load_file(clip / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(result[name], weight.to(getattr(torch, dtype))) for name, weight in source.items())
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (clip / "tokenizer.json").read_bytes()


def test_rounding_is_exact() -> None:
    """The record counts the weights and those that changed, and names the tensor with the largest difference."""
    model = build(FAMILIES["clip"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
        model.text_projection.weight[0, :2] = torch.tensor([2048.75, 1.0 + 2**-12])
    found = rounding(model, torch.float16)

    assert (found.weights, found.changed) == (model.num_parameters(), 2)
    assert (found.largest_error, found.largest_error_of) == (0.75, "text_projection.weight")
    assert rounding(model, torch.float16, {"text_projection.weight"}).changed == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_runtime_computes_in_the_type(clip: Path, tmp_path: Path, dtype: str) -> None:
    """The torch runtime takes float32 arrays, runs the model in its type, and gives float32 arrays back."""
    hfcompress.cast(clip, dtype=dtype, output=tmp_path / "out")
    runtime = runtime_of("transformers")
    source, result = runtime.load(clip), runtime.load(tmp_path / "out")
    inputs = {name: tensor.numpy() for name, tensor in example_inputs(source.stock).items()}
    expected, got = (model(inputs)["image_embeds"] for model in (source, result))

    assert result.stock.dtype == getattr(torch, dtype)
    assert got.dtype == np.float32
    assert 0 < np.linalg.norm(got - expected) / np.linalg.norm(expected) < {"float16": 0.005, "bfloat16": 0.05}[dtype]


@pytest.mark.parametrize("family", ["clip", "siglip", "whisper", "llava", "blip2", "clap"])
def test_families(family: str, tmp_path: Path) -> None:
    """Models of every kind are cast; the forecast of the size is that of the tensors, to the byte."""
    model = build(FAMILIES[family])
    model.save_pretrained(tmp_path / "source")
    count = model.num_parameters()
    step = Cast(CastOptions(dtype="float16"))
    forecast = step.forecast(Forecast(load_config(tmp_path / "source"), "transformers", count, 4 * count))
    detail = cast(tmp_path / "source", tmp_path / "out", dtype="float16")
    weights = load_file(tmp_path / "out/model.safetensors")

    parameters = {name for name, _ in load_model(tmp_path / "out").named_parameters()}
    assert forecast.size_bytes == 2 * detail["weights"] + 4 * detail["kept_in_float32"]
    assert detail["weights"] + detail["kept_in_float32"] == count
    assert sum(tensor.nbytes for tensor in weights.values() if tensor.is_floating_point()) >= forecast.size_bytes
    assert len(weights) >= len(parameters)
    assert forecast.config.dtype == torch.float16


def test_what_transformers_keeps_in_float32(tmp_path: Path) -> None:
    """A module that overflows in float16 wherever its model is used stays float32, on disk as in memory."""
    build(FAMILIES["blip2_t5"]).save_pretrained(tmp_path / "source")
    detail = cast(tmp_path / "source", tmp_path / "out", dtype="float16")
    weights = load_file(tmp_path / "out/model.safetensors")

    kept = {name for name, weight in weights.items() if weight.dtype == torch.float32}
    assert kept
    assert all(re.search(r"\.wo\.weight$|query_tokens|qformer", name) for name in kept)
    assert detail["kept_in_float32"] == sum(weights[name].numel() for name in kept)


def test_weight_beyond_the_type(clip: Path, tmp_path: Path) -> None:
    """What float16 cannot hold is named with its value, and bfloat16 holds it."""
    source = with_weight(clip, tmp_path / "source", 70000.0)
    match = rf"^{re.escape(TABLE)} holds 70000, and float16 ends at 65504; use `dtype: bfloat16`"
    with pytest.raises(QuantizationError, match=match):
        hfcompress.cast(source, dtype="float16", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert hfcompress.cast(source, dtype="bfloat16", output=tmp_path / "out")["largest_error"] > 100


def test_weight_that_is_not_finite(clip: Path, tmp_path: Path) -> None:
    """A checkpoint that is broken before is not the type's fault."""
    source = with_weight(clip, tmp_path / "source", float("nan"))
    with pytest.raises(QuantizationError, match=rf"^{re.escape(TABLE)} holds values that are not finite; repair"):
        hfcompress.cast(source, dtype="bfloat16", output=tmp_path / "out")


def test_activation_beyond_the_type(tmp_path: Path) -> None:
    """A product that float16 cannot hold is found, though every weight fits."""
    model = build(FAMILIES["clip"])
    with torch.no_grad():
        model.vision_model.post_layernorm.weight.fill_(60000.0)
        model.visual_projection.weight.fill_(60000.0)
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(
        QuantizationError, match=r"^the output '\S+' is not finite in float16, .+ use `dtype: bfloat16`"
    ):
        cast(tmp_path / "source", tmp_path / "out", dtype="float16")
    cast(tmp_path / "source", tmp_path / "again", dtype="bfloat16")


def test_narrow_checkpoint(clip: Path, tmp_path: Path) -> None:
    """A record of shapes outlives the cast, and a checkpoint that was cast can be pruned: it keeps its type."""
    towers = {"vision": {"heads": 0.5}}
    hfcompress.prune(clip, towers=towers, importance="magnitude", output=tmp_path / "small")
    hfcompress.cast(tmp_path / "small", dtype="bfloat16", output=tmp_path / "cast")
    towers = {"text": {"ffn": 0.5}}
    hfcompress.prune(tmp_path / "cast", towers=towers, importance="magnitude", output=tmp_path / "smaller")

    assert record_in(load_config(tmp_path / "cast")) == record_in(load_config(tmp_path / "small"))
    assert hfcompress.load(tmp_path / "smaller").dtype == stored_dtype(tmp_path / "smaller") == torch.bfloat16
    assert parameters_of(tmp_path / "smaller") < parameters_of(tmp_path / "cast") < parameters_of(clip)


def test_exports_are_float16() -> None:
    """No export runs in bfloat16, and the refusal says what does."""
    with pytest.raises(ValidationError, match="`runtime: onnxruntime` runs exports in float16; use `dtype: float16`"):
        CastOptions(dtype="bfloat16", runtime="onnxruntime")


@pytest.mark.onnxruntime
def test_onnx(clip: Path, recipe: Callable[..., Any], tmp_path: Path) -> None:
    """The graph has weights of 16 bits, inputs and outputs of 32, and the name that transformers.js looks for."""
    import onnx
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    hfcompress.cast(clip, dtype="float16", runtime="onnxruntime", output=tmp_path / "out")
    (graph,) = (tmp_path / "out").rglob("*.onnx")
    model = onnx.load(graph).graph
    inputs = example_inputs(load_model(clip))
    got = ORTModelForZeroShotImageClassification.from_pretrained(tmp_path / "out")(**inputs)
    expected = load_model(clip)(**inputs)

    assert graph.relative_to(tmp_path / "out").as_posix() == "onnx/model_fp16.onnx"
    assert onnx.TensorProto.FLOAT not in {tensor.data_type for tensor in model.initializer if np.prod(tensor.dims) > 1}
    assert {put.type.tensor_type.elem_type for put in model.output} == {onnx.TensorProto.FLOAT}
    torch.testing.assert_close(got.logits_per_image, expected.logits_per_image, rtol=0.01, atol=0.05)
    forecast = hfcompress.plan(recipe(steps=[{"use": "cast", "dtype": "float16", "runtime": "onnxruntime"}]))
    assert forecast.forecasts[-1].size_bytes == pytest.approx(graph.stat().st_size, rel=0.2)


@pytest.mark.onnxruntime
def test_quantized_after_the_cast(clip: Path, tmp_path: Path) -> None:
    """A checkpoint of 16 bits is quantized for ONNX Runtime as one of 32 is."""
    hfcompress.cast(clip, dtype="float16", output=tmp_path / "cast")
    hfcompress.quantize(tmp_path / "cast", runtime="onnxruntime", mode="dynamic", output=tmp_path / "out")
    inputs = example_inputs(load_model(clip))
    got = hfcompress.load(tmp_path / "out")(**inputs).image_embeds
    expected = load_model(clip)(**inputs).image_embeds
    assert torch.nn.functional.cosine_similarity(got, expected).min() > 0.95


@pytest.mark.openvino
def test_openvino(clip: Path, tmp_path: Path) -> None:
    """The graph has half the bytes of float32, and its stock class loads it."""
    import openvino
    from optimum.intel import OVModelForZeroShotImageClassification

    hfcompress.cast(clip, dtype="float16", runtime="openvino", output=tmp_path / "out")
    inputs = example_inputs(load_model(clip))
    got = OVModelForZeroShotImageClassification.from_pretrained(tmp_path / "out")(**inputs)
    graph = openvino.Core().read_model(tmp_path / "out/openvino_model.xml")
    large = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant" and node.data.size > 1000]

    assert {node.get_element_type() for node in large if node.data.dtype.kind == "f"} == {openvino.Type.f16}
    expected = load_model(clip)(**inputs).logits_per_image
    torch.testing.assert_close(torch.as_tensor(got.logits_per_image), expected, rtol=0.02, atol=0.1)


def test_run(recipe: Callable[..., Any], python: Python, tmp_path: Path) -> None:
    """A run measures the model in its type, tells the type, and the card's snippet runs in it."""
    steps = [{"use": "cast", "dtype": "bfloat16"}]
    report = hfcompress.run(recipe(steps=steps), output=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = python("-W", "ignore", "-c", code + "print(model.dtype)", cwd=tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "torch.bfloat16"
    assert "\n- half-precision\n- bfloat16\n" in card
    assert json.loads(report.to_json())["artifact"]["dtype"] == "bfloat16"
    size = report["size_bytes"]
    assert size.source is not None
    assert size.source.value / size.compressed.value > 1.9


def test_type_of_the_source_counts(clip: Path, recipe: Callable[..., Any], tmp_path: Path) -> None:
    """A source of 16 bits is forecast and loaded as it is stored, not twice as large."""
    CLIPModel.from_pretrained(clip, dtype=torch.float16).save_pretrained(tmp_path / "half")
    forecast = hfcompress.plan(recipe(model={"id": str(tmp_path / "half")})).forecasts[0]
    assert forecast.size_bytes == 2 * forecast.parameters
    assert AutoModel.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.float16
