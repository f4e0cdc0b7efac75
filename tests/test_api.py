"""Promises of the Python API: every step is a function, and whatever came out loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import datasets
import pytest

import hfcompress
from hfcompress.errors import CheckpointError, DataError, UnknownNameError, UsageError
from hfcompress.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Python, Ran

HALF = {"all": {"ffn": 0.5}}


def test_prune_is_a_function(clip: Path, tmp_path: Path) -> None:
    """`prune` writes a checkpoint with its processor and returns what it says of its work."""
    detail = hfcompress.prune(clip, towers=HALF, importance="magnitude", output=tmp_path / "small")

    assert "text: 256 → 128 feed-forward units in 3 layers" in json.dumps(detail, ensure_ascii=False)
    assert hfcompress.load(tmp_path / "small").config.text_config.intermediate_size == 128
    assert (tmp_path / "small/tokenizer.json").read_bytes() == (clip / "tokenizer.json").read_bytes()


def test_evaluate_measures_one_model(clip: Path, quickstart_folder: Path, pruned: Ran) -> None:
    """`evaluate` gives the numbers that a run reports for that model, without anything to compare it with."""
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="test[:60]")
    templates = ["a photo of the digit {label}.", "a handwritten {label}."]
    found = {
        folder: hfcompress.evaluate(folder, "zero-shot-image-classification", rows, templates=templates)
        for folder in (clip, pruned.folder)
    }
    report = Report.load(pruned.folder)
    names = ["zero_shot_accuracy", "zero_shot_top5_accuracy", "mean_per_class_recall", "worst_class_recall"]
    for row, other in zip(found[clip], found[pruned.folder], strict=True):
        assert (row.compressed, other.compressed) == (report[row.name].source, report[row.name].compressed)
        assert row.source is row.difference is None
    assert [row.name for row in found[clip]] == names


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_evaluate_runs_an_export(quickstart_folder: Path, quickstart: Ran) -> None:
    """An artifact for ONNX Runtime is measured in ONNX Runtime, with the numbers of its report."""
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="test")
    templates = ["a photo of the digit {label}.", "a handwritten {label}."]
    found = hfcompress.evaluate(quickstart.folder, "zero-shot-image-classification", rows, templates=templates)
    report = Report.load(quickstart.folder)
    assert {row.name: row.compressed for row in found} == {row.name: report[row.name].compressed for row in found}


@pytest.mark.parametrize(
    ("task", "options", "error", "match"),
    [
        ("image-to-txt", {}, UnknownNameError, r"^there is no task 'image-to-txt' \(did you mean 'image-to-text'\?\)"),
        ("image-text-retrieval", {"k": 3}, UsageError, r"^image-text-retrieval: k: Extra inputs are not permitted$"),
        ("image-text-retrieval", {}, DataError, r"^dataset gives no 'text': name it so with `dataset.rename_column"),
    ],
)
def test_evaluate_says_what_is_wrong(
    task: str, options: dict[str, int], error: type[Exception], match: str, clip: Path, quickstart_folder: Path
) -> None:
    """A task that there is not, options of another and columns that lack are told."""
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="test[:6]")
    with pytest.raises(error, match=match):
        hfcompress.evaluate(clip, task, rows, **options)


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_functions_make_what_the_recipe_makes(clip: Path, quickstart: Ran, tmp_path: Path) -> None:
    """The steps of the quickstart, called one by one, give its graph byte for byte: nothing of a run is random."""
    towers = {"vision": {"ffn": 0.6}, "text": {"ffn": 0.5}}
    hfcompress.prune(clip, towers=towers, importance="magnitude", output=tmp_path / "pruned")
    hfcompress.quantize(tmp_path / "pruned", runtime="onnxruntime", mode="dynamic", output=tmp_path / "int8")

    graph = "onnx/model_quantized.onnx"
    assert (tmp_path / "int8" / graph).read_bytes() == (quickstart.folder / graph).read_bytes()
    assert type(hfcompress.load(tmp_path / "int8")).__name__ == "ORTModelForZeroShotImageClassification"


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_quantize_takes_calibration_rows(clip: Path, quickstart_folder: Path, tmp_path: Path) -> None:
    """Rows of a `Dataset` calibrate; how many they were is in what comes back."""
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="calibration[:8]")
    rows = rows.select_columns(["image", "caption"]).rename_column("caption", "text")
    detail = hfcompress.quantize(
        clip, runtime="onnxruntime", mode="static", calibration=rows, output=tmp_path / "int8", batch_size=4
    )
    assert isinstance(detail["calibration"], dict)
    assert detail["calibration"]["rows"] == 8


def test_unknown_step(clip: Path, tmp_path: Path) -> None:
    """A step that nobody registered lists those that are."""
    with pytest.raises(UnknownNameError, match=r"^there is no step 'prun' \(did you mean 'prune'\?\); known: cast"):
        hfcompress.apply_step("prun", clip, output=tmp_path / "out")


def test_wrong_options_are_named(clip: Path, tmp_path: Path) -> None:
    """Every wrong option is told, and nothing is written."""
    with pytest.raises(UsageError, match=r"prune: .*ffn.*\n?prune: .*ratio") as caught:
        hfcompress.prune(clip, towers={"all": {"ffn": 2}}, ratio=0.5, output=tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 2
    assert not (tmp_path / "out").exists()


def test_output_must_be_empty(clip: Path, tmp_path: Path) -> None:
    """A step writes into a new folder and over nothing."""
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^the output folder .* is not empty; choose another one$"):
        hfcompress.prune(clip, towers=HALF, output=tmp_path)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("file/out", "Not a directory; choose another folder$"),
        ("gone", "it is a symbolic link that leads nowhere; choose another folder$"),
        ("/proc/out", "No such file or directory; choose another folder$"),
        ("x" * 300, "File name too long; choose another folder$"),
    ],
    ids=["below a file", "dangling link", "read-only", "name"],
)
def test_output_that_cannot_be_written(output: str, expected: str, clip: Path, tmp_path: Path) -> None:
    """An output that cannot be written is told before the model is read, as the command tells it."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=f"out cannot be written: {expected}" if "out" in output else expected):
        hfcompress.prune(clip, towers=HALF, output=tmp_path / output)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "gone"}


def test_output_is_a_link_to_an_empty_folder(clip: Path, tmp_path: Path) -> None:
    """The result takes the place of the link, and what it led to is left alone."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    hfcompress.cast(clip, dtype="bfloat16", output=tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()
    assert not (tmp_path / "out").is_symlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_full_disk(clip: Path, tmp_path: Path, python: Python) -> None:
    """A result that does not fit on the disk is one error that says so, and nothing of it is left."""
    program = (
        "import resource, sys, hfcompress\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "try: hfcompress.cast(sys.argv[1], dtype='bfloat16', output=sys.argv[2])\n"
        "except hfcompress.HfcompressError as error: print(type(error).__name__, error)"
    )
    done = python("-c", program, clip, tmp_path / "out")
    assert done.stdout.startswith("SpaceError a disk is full, or a file larger than it may be"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_failed_step_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    """A step that fails leaves no folder that looks like a result."""
    with pytest.raises(CheckpointError, match="there is no tower 'audio'; this model has: text, vision"):
        hfcompress.prune(clip, towers={"audio": {"ffn": 0.5}}, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_inspect_reads_no_weights(clip: Path, tmp_path: Path) -> None:
    """The anatomy comes from the configuration alone."""
    (tmp_path / "config.json").write_bytes((clip / "config.json").read_bytes())
    anatomy = hfcompress.inspect(tmp_path)

    assert (anatomy.architecture, anatomy.parameters) == ("CLIPModel", 973489)
    sizes = {tower.name: tower.axes[0].sizes for tower in anatomy.towers}
    assert sizes == {"text": (256,) * 3, "vision": (896,) * 3}


def test_load_of_nothing(tmp_path: Path) -> None:
    """A folder without a checkpoint says so."""
    with pytest.raises(CheckpointError, match=r"holds no config\.json, so it is not a checkpoint"):
        hfcompress.load(tmp_path)
