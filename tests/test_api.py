"""Promises of the Python API: every step is a function, and whatever came out loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import datasets
import pytest

import hfcompress
from hfcompress.errors import CheckpointError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Ran

HALF = {"all": {"ffn": 0.5}}


def test_prune_is_a_function(clip: Path, tmp_path: Path) -> None:
    """`prune` writes a checkpoint with its processor and returns what it says of its work."""
    detail = hfcompress.prune(clip, towers=HALF, importance="magnitude", output=tmp_path / "small")

    assert "text: 256 → 128 feed-forward units in 3 layers" in json.dumps(detail, ensure_ascii=False)
    assert hfcompress.load(tmp_path / "small").config.text_config.intermediate_size == 128
    assert (tmp_path / "small/tokenizer.json").read_bytes() == (clip / "tokenizer.json").read_bytes()


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
