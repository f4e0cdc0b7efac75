"""Promises of a quantization that cannot be made: the reason is said, and nothing half-written is left behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import datasets
import pytest
from safetensors.torch import load_file, save_file

import hfcompress
from hfcompress.errors import CheckpointError, QuantizationError, RecipeError

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from tests.conftest import Cli, Write

    Recipe = Callable[..., dict[str, Any]]

STATIC = {"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration": "rows"}
FEED_FORWARD = "vision_model.encoder.layers.1.mlp.fc1"


@pytest.fixture
def rows(quickstart_folder: Path) -> datasets.Dataset:
    """Return calibration rows."""
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="calibration[:8]")
    return rows.rename_column("caption", "text").remove_columns("label")


def changed(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Copy a checkpoint with other weights."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def static(recipe: Recipe, split: str) -> dict[str, Any]:
    """Return a recipe of a static quantization that calibrates on a split."""
    data = recipe()["data"]
    columns = {"image": "image", "text": "caption"}
    return recipe(data={**data, "rows": {**data["test"], "split": split, "columns": columns}}, steps=[STATIC])


def test_fewer_rows_than_asked_for(recipe: Recipe, tmp_path: Path) -> None:
    """A split that holds fewer calibration rows than it asks for ends the run before anything is written."""
    with pytest.raises(RecipeError, match=r"data\.rows\.split: .*'calibration\[:9999\]' asks for 9999 rows and holds"):
        hfcompress.run(static(recipe, "calibration[:9999]"), output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_calibration_on_the_rows_of_the_benchmark(recipe: Recipe, tmp_path: Path) -> None:
    """Rows that calibrate and evaluate alike are refused before anything is written."""
    with pytest.raises(
        RecipeError, match=r"evaluates on the rows that steps\[0\] calibrates on \(test\[:60\] of .+; exp"
    ):
        hfcompress.run(static(recipe, "test[:60]"), output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_activations_that_are_no_numbers(method: str, clip: Path, rows: datasets.Dataset, tmp_path: Path) -> None:
    """Where finite weights make an activation overflow on the calibration rows, the first one that does is named."""
    source = changed(clip, tmp_path / "source", lambda weights: weights[f"{FEED_FORWARD}.weight"].fill_(3e38))
    with pytest.raises(
        QuantizationError,
        match=r"^the activation \S*/layers\.1/mlp/\S+ of model\.onnx is not finite on the calibration",
    ):
        hfcompress.quantize(
            source,
            output=tmp_path / "out",
            runtime="onnxruntime",
            mode="static",
            calibration=rows,
            calibration_method=method,
        )
    assert [file.name for file in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_activations_that_are_constant(method: str, clip: Path, rows: datasets.Dataset, tmp_path: Path) -> None:
    """An activation that is always zero is no error: it has an exact range, which is counted, and the result runs."""
    import torch

    from hfcompress.anatomy import load_model
    from hfcompress.inputs import load_processor, possible_inputs

    def silence(weights: dict[str, torch.Tensor]) -> None:
        weights[f"{FEED_FORWARD}.weight"].zero_()
        weights[f"{FEED_FORWARD}.bias"].zero_()

    source = changed(clip, tmp_path / "source", silence)
    detail: Any = hfcompress.quantize(
        source,
        output=tmp_path / "out",
        runtime="onnxruntime",
        mode="static",
        calibration=rows,
        calibration_method=method,
    )
    made = possible_inputs(load_processor(source), rows[:])
    with torch.no_grad():
        expected = load_model(source)(**{name: torch.from_numpy(array) for name, array in made.items()}).image_embeds
    found = torch.as_tensor(hfcompress.load(tmp_path / "out")(**made).image_embeds)

    assert detail["graphs"]["model.onnx"].get("exact_ranges", 1) == 1
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.99


def test_graph_that_the_runtime_cannot_load(clip: Path, tmp_path: Path) -> None:
    """A graph with an operator that the runtime does not know is named by the class that was to load it."""
    out = tmp_path / "out"
    hfcompress.quantize(clip, output=out, runtime="onnxruntime", mode="dynamic")
    (graph,) = (out / "onnx").iterdir()
    graph.write_bytes(graph.read_bytes().replace(b"MatMulInteger", b"MatMulIntegex"))
    (out / "SHA256SUMS").unlink()  # which would tell of the damage first
    with pytest.raises(CheckpointError, match=r"^ORTModelForZeroShotImageClassification cannot load \S+/out: "):
        hfcompress.load(out)


def test_missing_extra(cli: Cli, write: Write, tmp_path: Path) -> None:
    """Where a package of the extra is too old, the run ends with the command that installs it, before it begins."""
    old = tmp_path / "old" / "optimum_onnx-0.0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: optimum-onnx\nVersion: 0.0.1\n", encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(old.parent), os.environ.get("PYTHONPATH")]))
    recipe = write(steps=[{"use": "quantize", "runtime": "onnxruntime", "mode": "dynamic"}])
    done = cli("run", recipe, "-o", tmp_path / "out", PYTHONPATH=paths)
    assert done.returncode == 2
    assert "this needs the extra 'onnxruntime' (optimum-onnx 0.0.1 is installed): pip install" in " ".join(
        done.stderr.split()
    )
    assert not (tmp_path / "out").exists()
