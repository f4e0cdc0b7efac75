"""Promises of ONNX Runtime as a place where checkpoints run: what was quantized loads in stock classes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hfcompress.anatomy import load_model
from hfcompress.card import render_card
from hfcompress.contracts import Checkpoint, Progress, StepContext
from hfcompress.data import load_rows
from hfcompress.errors import CheckpointError
from hfcompress.evaluation.zero_shot_image_classification import ZeroShotImageClassification, ZeroShotOptions
from hfcompress.inputs import load_processor, possible_inputs
from hfcompress.recipe import DataReference, load_recipe
from hfcompress.runtimes import runtime_of
from tests.checkpoints import image_rows, save_checkpoint, sound_rows
from tests.test_card import report

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Rows
    from tests.conftest import Cli, Python

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

STOCK = {
    "siglip": "ORTModelForZeroShotImageClassification",
    "clap": "ORTModelForCustomTasks",
    "whisper": "ORTModelForSpeechSeq2Seq",
    "trocr": "ORTModelForVision2Seq",
    "blip_captioning": "ORTModelForVision2Seq",
}
ONE_FILE = ["model_quantized.onnx"]
SEVERAL_FILES = [
    "decoder_model_quantized.onnx",
    "decoder_with_past_model_quantized.onnx",
    "encoder_model_quantized.onnx",
]


def rows_for(name: str) -> Rows:
    """Return rows that a family reads."""
    return sound_rows(6) if name in {"whisper", "clap"} else image_rows(6)


def quantized(source: Checkpoint, folder: Path, mode: str, rows: Rows) -> Path:
    """Quantize a checkpoint into a folder."""
    static = mode == "static"
    step = {"use": "quantize", "runtime": "onnxruntime", "mode": mode, **({"calibration": "rows"} if static else {})}
    recipe = {
        "version": 1,
        "model": {"id": str(source.path)},
        "steps": [step],
        "data": {"rows": {"dataset": "someone/rows", "split": "train"}} if static else {},
    }
    folder.mkdir()
    load_recipe(recipe).steps[0].build().apply(source, folder, StepContext(rows if static else None))
    return folder


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("name", sorted(STOCK))
def test_quantized_models_load_in_stock_classes(name: str, mode: str, tmp_path: Path) -> None:
    """A stock class loads the 8-bit files without arguments, and their outputs are near those of torch."""
    import optimum.onnxruntime

    source, rows = save_checkpoint(name, tmp_path / "source"), rows_for(name)
    folder = quantized(source, tmp_path / "out", mode, rows)
    stock = getattr(optimum.onnxruntime, STOCK[name]).from_pretrained(folder)
    several = hasattr(stock, "encoder")
    files = sorted(file.name for file in (folder / "onnx").glob("*.onnx"))
    model, inputs = load_model(source.path), _inputs(source, rows)
    with torch.no_grad():
        expected = model(**inputs)
    if several:
        inputs["decoder_input_ids"] = inputs.pop("input_ids", inputs.get("decoder_input_ids"))
        inputs.pop("attention_mask", None)
        found = {"logits": stock(**inputs).logits}
    else:
        found = dict(stock(**{key: inputs[key] for key in stock.input_names}).items())

    assert files == (SEVERAL_FILES if several else ONE_FILE)
    for key, value in found.items():
        assert torch.nn.functional.cosine_similarity(value.flatten(), expected[key].flatten(), dim=0) > 0.97, key


def _inputs(source: Checkpoint, rows: Rows) -> dict[str, Any]:
    """Return inputs of all rows, with tokens for a decoder where the model has one."""
    made = possible_inputs(load_processor(source.path), rows.dataset[:])
    inputs: dict[str, Any] = {name: torch.from_numpy(array) for name, array in made.items()}
    architecture = type(load_model(source.path)).__name__
    if architecture in {"WhisperForConditionalGeneration", "VisionEncoderDecoderModel"}:
        read = {name: tensor for name, tensor in inputs.items() if name in {"input_features", "pixel_values"}}
        return {**read, "decoder_input_ids": inputs["input_ids"]}
    wanted = {"input_ids", "attention_mask", "pixel_values", "input_features"}
    return {name: tensor for name, tensor in inputs.items() if name in wanted}


@pytest.mark.parametrize("name", ["whisper", "blip_captioning"])
def test_run_of_a_model_that_writes(name: str, tmp_path: Path, cli: Cli) -> None:
    """`hfcompress run` quantizes such a model and measures its size and speed beside torch and float32 ONNX."""
    save_checkpoint(name, tmp_path / "source")
    recipe = {
        "version": 1,
        "model": {"id": "source"},
        "steps": [{"use": "quantize", "runtime": "onnxruntime", "mode": "dynamic"}],
        "gates": {"size_bytes": None, "latency_ms": None},
        "benchmark": {"repeats": 3, "threads": 1, "memory": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = cli("run", tmp_path / "recipe.yaml", "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {row["name"]: row for row in report["measurements"]}
    assert {"size_bytes", "latency_ms"} <= found.keys()
    assert found["size_bytes"]["compressed"]["value"] < found["size_bytes"]["source"]["value"]
    assert report["artifact"]["load_with"] == f"optimum.onnxruntime.{STOCK[name]}"
    assert [f"onnx/{file}" for file in SEVERAL_FILES] == sorted(
        file for file in report["artifact"]["files"] if file.endswith(".onnx")
    )


def test_towers_alone_are_evaluated_as_the_whole(clip: Path, quickstart_folder: Path, tmp_path: Path) -> None:
    """A folder that holds towers and no graph of both classifies images as torch does."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    exported = OnnxRuntime().export(Checkpoint(clip, "transformers"), tmp_path / "out", "towers")
    columns = {"image": "image", "label": "label"}
    reference = DataReference(dataset=str(quickstart_folder / "data"), split="test[:20]", columns=columns)
    rows = load_rows(reference, ("image", "label"))
    task = ZeroShotImageClassification(ZeroShotOptions(data="rows", templates=("a photo of the digit {label}.",)))
    ours, torchs = (
        task.predict(runtime_of(found.format).load(found.path), rows, Progress())
        for found in (exported, Checkpoint(clip, "transformers"))
    )
    np.testing.assert_allclose(ours.media, torchs.media, atol=1e-5)
    np.testing.assert_allclose(ours.texts, torchs.texts, atol=1e-5)
    assert OnnxRuntime().load_class(exported.path) == "optimum.onnxruntime.ORTModelForCustomTasks"


def test_card_of_towers_has_code_that_runs(clip: Path, tmp_path: Path, python: Python) -> None:
    """The snippet on a card of towers loads each with a stock class and prints the cosines of torch's vectors."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    exported = OnnxRuntime().export(Checkpoint(clip, "transformers"), tmp_path / "out", "towers")
    full = report()
    files = {file.relative_to(exported.path).as_posix(): 1 for file in exported.path.rglob("*") if file.is_file()}
    artifact = replace(full.artifact, files=files, load_with=OnnxRuntime().load_class(exported.path), repo=None)
    card = render_card(replace(full, artifact=artifact), ())
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = python("-W", "ignore", "-c", code, cwd=exported.path)

    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["a photo of a cat", "a photo of a dog"]
    model, processor = load_model(clip), load_processor(clip)
    labels = ["a photo of a cat", "a photo of a dog"]
    read: Any = processor
    inputs = read(text=labels, images=Image.new("RGB", (224, 224), "white"), padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    expected = (outputs.image_embeds @ outputs.text_embeds.T)[0].tolist()
    found = [float(line.partition(": ")[2]) for line in done.stdout.splitlines()]
    assert found == pytest.approx(expected, abs=2e-3)


def test_towers_run_on_what_is_given(clip: Path, tmp_path: Path) -> None:
    """Given images alone, a model of towers gives their embeddings alone; a mask that is missing attends to all."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    exported = OnnxRuntime().export(Checkpoint(clip, "transformers"), tmp_path / "out", "towers")
    model = OnnxRuntime().load(exported.path)
    made = possible_inputs(model.processor, {"text": ["a digit"]})
    size = model.config.vision_config.image_size
    images = np.zeros((1, model.config.vision_config.num_channels, size, size), np.float32)
    every = np.ones_like(made["attention_mask"])
    texts = model({"input_ids": made["input_ids"]})

    assert model({"pixel_values": images}).keys() == {"image_embeds"}
    assert texts.keys() == {"text_embeds"}
    np.testing.assert_array_equal(
        texts["text_embeds"], model({"input_ids": made["input_ids"], "attention_mask": every})["text_embeds"]
    )


def test_both_layouts_in_one_folder_run_as_the_whole(clip: Path, tmp_path: Path) -> None:
    """Where the graph of the whole lies beside the towers, it is the one that runs."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    exported = OnnxRuntime().export(Checkpoint(clip, "transformers"), tmp_path / "out", "both")
    for file in (exported.path / "onnx").iterdir():
        file.rename(file.with_name(f"{file.stem}_quantized.onnx"))
    model = OnnxRuntime().load(exported.path)
    assert model.stock.session._model_path.endswith("model_quantized.onnx")  # noqa: SLF001 - which file it was
    assert "text" not in model.stock.session._model_path.rpartition("/")[2]  # noqa: SLF001
    assert model.inputs >= {"pixel_values", "input_ids"}


def test_graph_that_cannot_be_loaded(clip: Path, tmp_path: Path) -> None:
    """A file that is no graph is an error which names the file."""
    from hfcompress.runtimes.onnxruntime import OnnxRuntime

    exported = OnnxRuntime().export(Checkpoint(clip, "transformers"), tmp_path / "out")
    (exported.path / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"out/onnx/model.onnx is not an ONNX graph: "):
        OnnxRuntime().load(exported.path)
