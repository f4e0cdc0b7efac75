"""Promises of `hfcompress.tower_bytes`: no byte of the weights is forgotten or put into the wrong tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import hfcompress
from hfcompress.anatomy import load_model
from hfcompress.contracts import Checkpoint, Format
from hfcompress.registry import RUNTIMES
from hfcompress.tower_bytes import tower_bytes
from tests.checkpoints import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # of exporters


def weights_of(folder: Path, *modules: str) -> dict[str, int]:
    """Return the bytes of modules' parameters and buffers as torch holds them."""
    model = load_model(folder)
    return {
        module: sum(tensor.nbytes for name, tensor in model.state_dict().items() if f"{module}." in name)
        for module in modules
    }


def stored(folder: Path, *patterns: str) -> int:
    """Return the bytes of files."""
    return sum(file.stat().st_size for pattern in patterns for file in folder.rglob(pattern))


def test_checkpoint(clip: Path) -> None:
    """In a torch checkpoint every tensor is in the tower of its module, and the sum is the file."""
    found = tower_bytes(Checkpoint(clip, "transformers"), clip)
    expected = weights_of(clip, "vision_model", "text_model")
    assert (found["vision"], found["text"]) == (expected["vision_model"], expected["text_model"])
    assert sum(found.values()) == stored(clip, "*.safetensors")


def test_checkpoint_with_names_of_another_version(tmp_path: Path) -> None:
    """A checkpoint whose tensors hang elsewhere than the model's modules is told apart all the same."""
    checkpoint = save_checkpoint("llava", tmp_path / "llava")
    found = tower_bytes(checkpoint, checkpoint.path)
    assert min(found["vision"], found["text"]) > found.get("other", 0)


def test_encoder_and_decoder(tmp_path: Path) -> None:
    """Where the configuration has no towers, encoder and decoder are told apart."""
    checkpoint = save_checkpoint("whisper", tmp_path / "whisper")
    found = tower_bytes(checkpoint, checkpoint.path)
    expected = weights_of(checkpoint.path, "encoder", "decoder")
    assert (found["encoder"], found["decoder"]) == (expected["encoder"], expected["decoder"])


@pytest.mark.parametrize(
    ("runtime", "options", "files"),
    [
        pytest.param("onnxruntime", {"mode": "dynamic"}, ("*.onnx",), marks=pytest.mark.onnxruntime),
        pytest.param(
            "openvino", {"mode": "weight_only"}, ("openvino*.xml", "openvino*.bin"), marks=pytest.mark.openvino
        ),
    ],
)
def test_exports(runtime: str, options: dict[str, str], files: tuple[str, ...], clip: Path, tmp_path: Path) -> None:
    """In an export each tower takes what it takes in torch; quantized, a good quarter of that; the sum is the files."""
    source = Checkpoint(clip, "transformers")
    exported = RUNTIMES.get(runtime)().export(source, tmp_path / "float32")
    hfcompress.quantize(clip, runtime=runtime, output=tmp_path / "int8", **options)
    form: Format = exported.format
    floats, ints = (tower_bytes(Checkpoint(tmp_path / name, form), clip) for name in ("float32", "int8"))
    expected = weights_of(clip, "vision_model", "text_model")

    for tower in ("vision", "text"):
        assert floats[tower] == pytest.approx(expected[f"{tower}_model"], rel=0.01)
        assert 0.25 < ints[tower] / floats[tower] < 0.3
    assert sum(floats.values()) == pytest.approx(stored(tmp_path / "float32", *files), rel=0.01)
    assert sum(ints.values()) == pytest.approx(stored(tmp_path / "int8", *files), rel=0.01)


@pytest.mark.onnxruntime
def test_files_of_encoder_and_decoder(tmp_path: Path) -> None:
    """Graphs in files of their own are told apart by them, and weights that two files hold count twice."""
    checkpoint = save_checkpoint("whisper", tmp_path / "whisper")
    exported = RUNTIMES.get("onnxruntime")().export(checkpoint, tmp_path / "out")
    found = tower_bytes(exported, checkpoint.path)
    graphs = exported.path / "onnx"
    assert found == {
        "encoder": pytest.approx(stored(graphs, "encoder_model.onnx"), rel=0.01),
        "decoder": pytest.approx(stored(graphs, "decoder_*.onnx"), rel=0.01),
    }
