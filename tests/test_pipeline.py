"""Promises of a run from end to end, on the trained checkpoint of the quickstart."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPModel

import hfcompress
from hfcompress.errors import OutputError, RecipeError
from hfcompress.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Cli, Python, Ran, Write

TEMPLATES = ("a photo of the digit {label}.", "a handwritten {label}.")
BLOCKED = "import sys; sys.modules['hfcompress'] = None\n"
"""First line of a program in which hfcompress cannot be imported."""


def digits(quickstart_folder: Path, split: str) -> datasets.Dataset:
    """Return rows of the quickstart's data, with plain `datasets`."""
    return datasets.load_dataset(str(quickstart_folder / "data"), split=split)


def top1(model: Any, folder: Path, rows: datasets.Dataset) -> float:  # noqa: ANN401 - a CLIPModel or optimum's
    """Return zero-shot accuracy with stock classes alone: every image with every sentence, mean of the embeddings."""
    processor = AutoProcessor.from_pretrained(folder, use_fast=False)
    names = rows.features["label"].names
    sentences = [template.replace("{label}", name) for name in names for template in TEMPLATES]
    images = [image.convert("RGB") for image in rows["image"]]
    inputs = processor(text=sentences, images=images, padding="max_length", return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    texts = torch.nn.functional.normalize(torch.as_tensor(outputs.text_embeds), dim=-1)
    anchors = torch.nn.functional.normalize(texts.view(len(names), len(TEMPLATES), -1).mean(1), dim=-1)
    predicted = (torch.nn.functional.normalize(torch.as_tensor(outputs.image_embeds), dim=-1) @ anchors.T).argmax(-1)
    return (predicted == torch.tensor(rows["label"])).double().mean().item()


def snippet(folder: Path) -> str:
    """Return the Python code of an artifact's card."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()
    }


# The quickstart


@pytest.mark.onnxruntime
def test_quickstart_keeps_its_promise(quickstart: Ran) -> None:
    """The shipped recipe ends well: its gates hold, top-1 drops by at most 0.01, the size is at most 1/3.5."""
    assert (quickstart.code, quickstart.stderr.count("Warning")) == (0, 0), quickstart.stderr
    report = Report.load(quickstart.folder)
    accuracy, size = report["zero_shot_accuracy"], report["size_bytes"]

    assert report.failed_gates == ()
    assert accuracy.source is not None
    assert accuracy.source.value - accuracy.compressed.value <= 0.01
    assert size.source is not None
    assert size.compressed.value <= size.source.value / 3.5


@pytest.mark.onnxruntime
def test_stdout_is_the_report_alone(quickstart: Ran) -> None:
    """With `--json` standard output is `report.json`, byte for byte."""
    assert quickstart.stdout == (quickstart.folder / "report.json").read_text(encoding="utf-8")


@pytest.mark.onnxruntime
def test_stages_go_to_stderr_in_order(quickstart: Ran) -> None:
    """Away from a terminal each stage is one plain line on standard error, and no third party speaks between."""
    lines = quickstart.stderr.splitlines()
    stages = [match[1] for line in lines if (match := re.fullmatch(r"\[ *\d+\.\d s\] (.+)", line))]

    assert stages == [
        "validate",
        "plan",
        "load",
        "evaluate the source",
        "step 1/2: prune",
        "step 2/2: quantize",
        "evaluate the result",
        "benchmark",
        "report",
        "push",
    ]
    rest = [line for line in lines if not line.startswith(("[", " " * 12))]
    assert rest == [f"The artifact and its card are in {quickstart.folder}"]


@pytest.mark.onnxruntime
def test_artifact_holds_what_it_should(quickstart: Ran) -> None:
    """The folder is what optimum and the Hub read, with the card, the report and the recipe; no scratch is left."""
    assert set(contents(quickstart.folder)) == {
        "README.md",
        "SHA256SUMS",
        "assets/before_after.png",
        "assets/bytes.png",
        "assets/removal.png",
        "assets/size_latency.png",
        "assets/tradeoff.png",
        "config.json",
        "merges.txt",
        "onnx/model_quantized.onnx",
        "preprocessor_config.json",
        "recipe.yaml",
        "report.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }
    assert list(quickstart.folder.parent.iterdir()) == [quickstart.folder]


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_accuracy_is_what_plain_code_finds(quickstart: Ran, quickstart_folder: Path) -> None:
    """Top-1 of source and result is what transformers and optimum alone give on the same rows."""
    from optimum.onnxruntime import ORTModelForZeroShotImageClassification

    rows = digits(quickstart_folder, "test")
    source = top1(
        CLIPModel.from_pretrained(quickstart_folder / "clip-digits").eval(), quickstart_folder / "clip-digits", rows
    )
    stock = ORTModelForZeroShotImageClassification.from_pretrained(quickstart.folder)
    found = Report.load(quickstart.folder)["zero_shot_accuracy"]

    assert found.source is not None
    assert found.source.value == pytest.approx(source, abs=1e-6)
    assert found.compressed.value == pytest.approx(top1(stock, quickstart.folder, rows), abs=1e-6)
    assert found.n == len(rows) == 540
    assert source >= 0.95


@pytest.mark.onnxruntime
def test_size_is_that_of_the_files(quickstart: Ran, quickstart_folder: Path) -> None:
    """`size_bytes` is what lies on disk, without the card, the report, the recipe and the pictures."""
    about = {"README.md", "report.json", "recipe.yaml", "SHA256SUMS"}

    def on_disk(folder: Path) -> int:
        return sum(
            len(content)
            for name, content in contents(folder).items()
            if name not in about and not name.startswith("assets/")
        )

    report = Report.load(quickstart.folder)
    assert report["size_bytes"].compressed.value == on_disk(quickstart.folder) == sum(report.artifact.files.values())
    assert report["size_bytes"].as_published is not None
    assert report["size_bytes"].as_published.value == on_disk(quickstart_folder / "clip-digits")


@pytest.mark.onnxruntime
def test_parameters_are_what_torch_counts(quickstart: Ran, quickstart_folder: Path) -> None:
    """`parameters` of the source is torch's own count, and the plan had predicted that of the result."""
    model = CLIPModel.from_pretrained(quickstart_folder / "clip-digits")
    report = Report.load(quickstart.folder)
    forecast = hfcompress.plan(quickstart_folder / "recipe.yaml").forecasts[-1]

    assert report["parameters"].source is not None
    assert report["parameters"].source.value == model.num_parameters() == report.source.parameters
    assert report["parameters"].compressed.value == forecast.parameters


@pytest.mark.onnxruntime
@pytest.mark.parametrize("ran", ["quickstart", "static"])
def test_artifact_loads_without_hfcompress(ran: str, request: pytest.FixtureRequest, python: Python) -> None:
    """Stock optimum loads the folder, and the card's snippet runs, where hfcompress cannot be imported."""
    folder = request.getfixturevalue(ran).folder
    load = (
        "from optimum.onnxruntime import ORTModelForZeroShotImageClassification as Stock\n"
        f"print(Stock.from_pretrained({str(folder)!r}).config.model_type)\n"
    )
    done = python("-W", "ignore", "-c", BLOCKED + load + snippet(folder), cwd=folder)
    architecture, *probabilities = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert architecture == "clip"
    assert sum(float(line.rpartition(" ")[2]) for line in probabilities) == pytest.approx(1, abs=2e-3)


@pytest.mark.onnxruntime
def test_static_says_what_it_was_calibrated_with(static: Ran) -> None:
    """A static run names its calibration rows, takes part of the matrix products as 8-bit, and keeps the rest float."""
    assert static.code == 0, static.stderr
    (step,) = Report.load(static.folder).steps

    assert isinstance(step.detail["calibration"], dict)
    assert {key: step.detail["calibration"][key] for key in ("dataset", "split", "rows")} == {
        "dataset": "data",
        "split": "calibration[:32]",
        "rows": 32,
    }
    assert json.loads(static.stdout)["steps"][0]["detail"] == step.detail


# In torch alone


def test_pruned_artifact_loads_without_hfcompress(pruned: Ran, python: Python) -> None:
    """What `prune` alone leaves loads with plain `CLIPModel.from_pretrained`, as the card's snippet says."""
    assert pruned.code == 0, pruned.stderr
    load = f"import transformers as t\nprint(t.CLIPModel.from_pretrained({str(pruned.folder)!r}).num_parameters())\n"
    done = python("-W", "ignore", "-c", BLOCKED + load + snippet(pruned.folder), cwd=pruned.folder)
    parameters, *probabilities = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert int(parameters) == Report.load(pruned.folder)["parameters"].compressed.value
    assert sum(float(line.rpartition(" ")[2]) for line in probabilities) == pytest.approx(1, abs=2e-3)


@pytest.mark.filterwarnings("ignore")
def test_pruned_accuracy_is_what_plain_code_finds(pruned: Ran, quickstart_folder: Path) -> None:
    """Top-1 of the pruned checkpoint is what transformers alone gives on the same rows."""
    found = Report.load(pruned.folder)["zero_shot_accuracy"]
    model = CLIPModel.from_pretrained(pruned.folder).eval()

    expected = top1(model, pruned.folder, digits(quickstart_folder, "test[:60]"))
    assert found.compressed.value == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_run_from_python(pruned: Ran, recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """`hfcompress.run` of the same values gives the same weights, and a report that knows its measurements by name."""
    report = hfcompress.run(recipe(), output=tmp_path / "out")
    first, second = (load_file(folder / "model.safetensors") for folder in (pruned.folder, tmp_path / "out"))

    assert all(torch.equal(first[name], second[name]) for name in first | second)
    assert (pruned.folder / "model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()
    assert report["zero_shot_accuracy"] == Report.load(pruned.folder)["zero_shot_accuracy"]


def test_foreign_folder_is_left_alone(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A folder that is not an artifact of ours is never written to."""
    (tmp_path / "diary.txt").write_text("Dear diary", encoding="utf-8")
    with pytest.raises(OutputError, match="already exists and is not an artifact of hfcompress"):
        hfcompress.run(recipe(), output=tmp_path)

    assert contents(tmp_path) == {"diary.txt": b"Dear diary"}


# Mistakes that show once the model and its data are looked at


def _mistakes(recipe_file: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError, match=r".+") as caught:
        hfcompress.run(recipe_file, overrides=overrides, output=recipe_file.parent / "out")
    assert [file.name for file in recipe_file.parent.iterdir() if file.name.startswith((".", "out"))] == []
    return str(caught.value).replace(f"{recipe_file.parent}/", "").splitlines()


def test_column_that_the_dataset_lacks(write: Callable[..., Path], recipe: Callable[..., dict[str, Any]]) -> None:
    """A column that is not there is placed, with the nearest and all that are."""
    data = recipe()["data"]
    data["test"]["columns"]["label"] = "lable"

    expected = "recipe.yaml:10:7: data.test.columns.label: data has no column 'lable' (did you mean 'label'?); "
    assert _mistakes(write(data=data)) == [expected + "it has: image, label, caption"]


def test_column_that_nobody_maps(write: Callable[..., Path], recipe: Callable[..., dict[str, Any]]) -> None:
    """A dataset whose own columns lack what a task needs is told how to map one, with those there are."""
    data = recipe()["data"]
    data["test"].pop("columns")
    rows = datasets.Dataset.from_dict({"photo": [1], "label": [0]})
    rows.to_parquet(write().parent / "rows" / "test.parquet")
    data["test"] |= {"dataset": "rows", "split": "test"}

    expected = "recipe.yaml:5:3: data.test: rows gives no 'image': map one of its columns with "
    assert _mistakes(write(data=data)) == [expected + "`columns: {image: ...}`; it has: photo, label"]


def test_all_mistakes_of_the_data_at_once(write: Callable[..., Path], recipe: Callable[..., dict[str, Any]]) -> None:
    """Every entry of `data` is looked at: a split and a configuration that do not exist, each with those that do."""
    data = recipe()["data"]
    data["other"] = {**data["test"], "config": "defualt", "columns": dict(data["test"]["columns"])}
    data["test"]["split"] = "tset"
    task = recipe()["evaluate"][0]

    first, second = _mistakes(write(data=data, evaluate=[task, {**task, "data": "other"}]))
    expected = "data has no split 'tset' (did you mean 'test'?); it has: train, calibration, test"
    assert first == f"recipe.yaml:7:5: data.test.split: {expected}"
    expected = "data has no configuration 'defualt' (did you mean 'default'?); it has: default"
    assert second == f"recipe.yaml:17:5: data.other.config: {expected}"


def test_split_without_rows(write: Callable[..., Path]) -> None:
    """A slice that holds nothing is no split to measure on."""
    expected = "--set data.test.split: data.test.split: data: the split 'test[:0]' cannot be read: "
    (mistake,) = _mistakes(write(), "data.test.split=test[:0]")
    assert mistake.startswith(expected)


def test_rows_that_a_step_calibrates_on(write: Callable[..., Path], recipe: Callable[..., dict[str, Any]]) -> None:
    """An evaluation on images that a step has seen is a mistake, though its split is called otherwise."""
    data = recipe()["data"]
    data["seen"] = {**data["test"], "split": "test[55:100]", "columns": {"image": "image", "text": "caption"}}
    steps = [{"use": "prune", "towers": {"all": {"ffn": 0.5}}, "calibration": "seen"}]

    (mistake,) = _mistakes(write(data=data, steps=steps))
    place, _, message = mistake.partition(": ")
    assert re.fullmatch(r"recipe\.yaml:\d+:\d+", place)
    assert message == (
        "evaluate[0].data: 5 of its 60 rows (the first is row 55) hold what rows of `seen` hold, on which steps[0] "
        "calibrates; expected other rows"
    )


def test_labels_without_names(write: Callable[..., Path], recipe: Callable[..., dict[str, Any]]) -> None:
    """Classes that nobody names are a mistake of the evaluation, found before anything is compressed."""
    file = write(evaluate=[{**recipe()["evaluate"][0], "labels": ["zero", "one"]}])
    (mistake,) = _mistakes(file)
    assert re.fullmatch(
        r"recipe\.yaml:18:3: evaluate\[0\]: row \d+ of data has the label \d, expected an integer from 0 to 1", mistake
    )


def test_folder_without_configuration(write: Callable[..., Path]) -> None:
    """A model folder that is no checkpoint is placed at the model."""
    (write().parent / "bare").mkdir()
    (mistake,) = _mistakes(write(model={"id": "bare"}))
    assert mistake == (
        "recipe.yaml:3:3: model.id: bare holds no config.json, so it is not a checkpoint; "
        "give a folder that `save_pretrained` wrote"
    )


def test_folder_without_weights(write: Callable[..., Path], clip: Path) -> None:
    """A checkpoint without safetensors is a mistake of the recipe, not a failure in the middle of the run."""
    (write().parent / "bare").mkdir()
    (write().parent / "bare" / "config.json").write_bytes((clip / "config.json").read_bytes())
    (mistake,) = _mistakes(write(model={"id": "bare"}))
    assert mistake.startswith("recipe.yaml:3:3: model.id: bare holds no model.safetensors; ")


def test_step_that_cannot_be_applied(write: Callable[..., Path]) -> None:
    """A step that this model cannot take is placed at the step."""
    steps = [{"use": "prune", "towers": {"audio": {"ffn": 0.5}}, "importance": "magnitude"}]
    (mistake,) = _mistakes(write(steps=steps))
    assert mistake.startswith("recipe.yaml:12:3: steps[0]: there is no tower 'audio'; this model has: text, vision")


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_calibration_rows_without_text(write: Callable[..., Path], recipe: Callable[..., dict[str, Any]]) -> None:
    """Calibration rows that lack an input of the model are a mistake of the recipe, with the columns they have."""
    rows = {**recipe()["data"]["test"], "split": "calibration[:4]", "columns": {"image": "image"}}
    steps = [{"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration": "rows"}]
    (mistake,) = _mistakes(write(data={"rows": rows}, steps=steps, evaluate=[]))
    assert mistake.startswith("recipe.yaml:5:3: data.rows: ")
    assert "input_ids" in mistake


def test_recorded_shapes_load_as_the_card_says(cli: Cli, write: Write, python: Python, tmp_path: Path) -> None:
    """Where no stock configuration says what is left, the card's snippet imports hfcompress, and then it runs."""
    recipe = write(steps=[{"use": "prune", "towers": {"vision": {"heads": 0.5}}, "importance": "magnitude"}])
    ran = cli("run", recipe, "-o", tmp_path / "out", "--set", "gates.latency_ms=null")
    assert ran.returncode == 0, ran.stderr
    artifact = Report.load(tmp_path / "out").artifact
    assert (artifact.load_with, artifact.imports_hfcompress) == ("transformers.CLIPModel", True)
    code = snippet(tmp_path / "out")
    assert code.startswith("import hfcompress")
    done = python("-W", "ignore", "-c", code, cwd=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
