"""What `report.json` promises."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hfcompress.contracts import Measurement, StepRecord, Value
from hfcompress.display import report_table
from hfcompress.errors import CheckpointError, RunError, UnknownNameError
from hfcompress.report import (
    ArtifactRecord,
    GateResult,
    RecipeRecord,
    Report,
    SourceRecord,
    public_id,
)

if TYPE_CHECKING:
    from pathlib import Path

ACCURACY = Measurement(
    "zero_shot_accuracy",
    "top-1 accuracy",
    "ratio",
    higher_is_better=True,
    compressed=Value(0.96875, 0.95, 0.98),
    source=Value(0.984375, 0.955, 0.985),
    n=540,
    task="zero-shot-image-classification",
    dataset="data",
    revision="3f2a",
    split="test",
)
SIZE = Measurement("size_bytes", "size", "bytes", higher_is_better=False, compressed=Value(100), source=Value(400))


def report(*measurements: Measurement, **changed: object) -> Report:
    """Return a small report."""
    parts = {
        "source": SourceRecord("owner/model", "3d74", on_hub=True, license="mit"),
        "recipe": RecipeRecord.of("version: 1\n"),
        "steps": (StepRecord("prune", 2.0, cached=False, detail={"kept": [1, 2.0, None, {"é": True}]}),),
        "measurements": measurements or (ACCURACY, SIZE),
        "gates": (GateResult("size_bytes", "min_ratio 4", held=True, got=4.0, detail="It holds."),),
        "artifact": ArtifactRecord(".", "onnx", {"onnx/model.onnx": 100}, "optimum.onnxruntime.ORTModel"),
        "environment": {"cpu": "a CPU", "threads": 2},
    }
    return Report(**(parts | changed))  # type: ignore[arg-type]


def test_round_trip() -> None:
    """Text and object turn into each other without loss."""
    text = report().to_json()
    assert (report(), text) == (Report.from_json(text), Report.from_json(text).to_json())


def test_save_and_load(tmp_path: Path) -> None:
    """A saved report is the only new file of its folder and loads again as the same."""
    path = report().save(tmp_path)
    assert ([path], report()) == (list(tmp_path.iterdir()), Report.load(tmp_path))


def test_save_replaces(tmp_path: Path) -> None:
    """Saving again replaces the file as a whole."""
    report().save(tmp_path)
    report(SIZE).save(tmp_path)
    assert report(SIZE) == Report.load(tmp_path)


def test_save_without_folder(tmp_path: Path) -> None:
    """A folder that is not there is one error, not a traceback."""
    with pytest.raises(RunError, match=r"report\.json cannot be written: No such file"):
        report().save(tmp_path / "absent")


def test_load_without_report(tmp_path: Path) -> None:
    """A folder without a report is said to be none of ours."""
    with pytest.raises(CheckpointError, match=r"is .* an artifact of hfcompress"):
        Report.load(tmp_path)


def test_whole_numbers() -> None:
    """Bytes are written as whole numbers, whether they were ints or floats."""
    floats = Measurement(
        "size_bytes", "size", "bytes", higher_is_better=False, compressed=Value(100.0), source=Value(4e2)
    )
    assert report(SIZE).to_json() == report(floats).to_json()
    assert isinstance(json.loads(report(SIZE).to_json())["measurements"][0]["compressed"]["value"], int)


def test_measurement_by_name() -> None:
    """A report gives its measurements by name."""
    assert report()["zero_shot_accuracy"] == ACCURACY


def test_unknown_measurement() -> None:
    """A wrong name is answered with the nearest and all known ones."""
    with pytest.raises(
        UnknownNameError, match=r"did you mean 'zero_shot_accuracy'\?\); it has: zero_shot_accuracy, size"
    ):
        report()["zero_shot_acuracy"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"held": true', '"held": "yes"', r"gates\.0\.held: Input should be a valid boolean"),
        ('"n": 540', '"n": "540"', r"measurements\.0\.n: Input should be a valid integer"),
        ('"seconds": 2', '"seconds": "2"', r"steps\.0\.seconds: Input should be a valid number"),
        ('"label"', '"labels"', r"measurements\.0\.label: Field required"),
        ('"low": 0.95,', '"low": 0.95, "mean": 1,', r"measurements\.0\.compressed\.mean: Unexpected keyword"),
        ('"format": "onnx"', '"format": "tflite"', r"artifact\.format: Input should be 'transformers'"),
        ('"schema_version": 1', '"schema_version": 2', r"schema_version: got 2, this hfcompress reads 1"),
        ("version: 1", "version: 2", r"recipe\.sha256: it is not that of recipe\.text"),
        ("0.96875", "0.99", "changes: they do not follow from the measurements"),
        ("0.96875", "NaN", "is not JSON: NaN is not a number"),
        ('"schema_version": 1,', "", "schema_version: got None"),
        ("{", "[", "is not JSON"),
    ],
)
def test_refused(old: str, new: str, message: str) -> None:
    """Wrong types, unknown keys, other versions and edited numbers are refused with the place of the mistake."""
    with pytest.raises(CheckpointError, match=message):
        Report.from_json(report().to_json().replace(old, new, 1))


def test_not_finite() -> None:
    """A number that JSON cannot hold stops the report."""
    broken = Measurement("wer", "word error rate", "ratio", higher_is_better=False, compressed=Value(float("nan")))
    with pytest.raises(RunError, match="every number must be finite"):
        report(broken).to_json()


def test_no_machine_paths() -> None:
    """Neither the source nor a dataset tells a path of the machine."""
    row = Measurement("wer", "wer", "ratio", higher_is_better=False, compressed=Value(0.1), dataset="/home/me/my data")
    text = report(row, source=SourceRecord("/home/me/model", "3f", on_hub=False)).to_json()
    assert (Report.from_json(text).source.id, Report.from_json(text)["wer"].dataset) == ("model", "my data")
    assert "home" not in text


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("openai/clip", "openai/clip"),
        ("gpt2", "gpt2"),
        ("/home/me/model", "model"),
        ("./model/", "model"),
        ("../../model", "model"),
        ("~/model", "model"),
        (r"C:\Users\me\model", "model"),
        ("recipes/quickstart/model", "model"),
        ("/", "local"),
    ],
)
def test_public_id(name: str, public: str) -> None:
    """Ids are kept; of a path the last folder's name is."""
    assert public == public_id(name)


def test_shortfalls_stand_in_the_first_line() -> None:
    """A result that is no smaller or no faster says so in the title of its table; one that is says nothing."""
    latency = replace(SIZE, name="latency_ms", unit="ms", compressed=Value(4.4), source=Value(4.0))
    larger = replace(SIZE, compressed=Value(400))
    assert report(SIZE, replace(latency, compressed=Value(2.0))).shortfalls == ()
    assert report(larger, latency).shortfalls == ("no smaller", "1.1\u00d7 slower")
    assert str(report_table(report(SIZE, latency)).title).endswith(": [bold red]1.1\u00d7 slower[/]")


def test_table_tells_noise() -> None:
    """A change that can be chance is said to be one in the terminal's table too."""
    noisy = replace(ACCURACY, difference=Value(-0.015625, -0.03, 0.001))
    changes = list(report_table(report(noisy, ACCURACY)).columns[-1].cells)
    assert changes == ["\u22121.56\u00a0points, within noise", "\u22121.56\u00a0points"]


def test_light_import() -> None:
    """Reading a report needs neither torch nor transformers."""
    script = "import hfcompress.report, hfcompress.gates, sys; print({'torch', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout == "set()\n"
