"""Promises of `hfcompress.call_inputs`: a model runs on them, or it is said why there are none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import hfcompress
from hfcompress.call_inputs import call_inputs
from hfcompress.errors import CheckpointError
from hfcompress.runtimes import runtime_of
from tests.checkpoints import save_checkpoint
from tests.families import FAMILIES, build

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", ["siglip", "whisper", "blip_captioning", "llava"])
def test_a_model_runs_on_them(family: str, tmp_path: Path) -> None:
    """Each row is one of the batch, and the whole model runs on all of them, whoever made them."""
    checkpoint = save_checkpoint(family, tmp_path / family)
    model = runtime_of("transformers").load(checkpoint.path, threads=1)
    inputs = {name: array for name, array in call_inputs(checkpoint.path, 3).items() if name in model.inputs}
    outputs = model(inputs)
    assert all(len(array) == 3 for array in inputs.values())
    assert any(np.isfinite(array).all() and array.size for array in outputs.values())


@pytest.mark.parametrize(("name", "frames"), [("clap", 201), ("whisper", 40)])
def test_sounds(name: str, frames: int, tmp_path: Path) -> None:
    """A model that hears gets as many frames as its feature extractor makes, which an export may have fixed."""
    made = call_inputs(save_checkpoint(name, tmp_path / name).path, 2)
    assert made["input_features"].shape[0] == 2
    assert frames in made["input_features"].shape


def test_a_vision_language_model_sees_its_image(tmp_path: Path) -> None:
    """A model that wants image tokens in the right places is benchmarked with those of its own processor."""
    save_checkpoint("llava", tmp_path / "llava")
    found = hfcompress.benchmark(tmp_path / "llava", tmp_path / "llava", repeats=1, threads=1, memory=False)
    config = FAMILIES["llava"].config()
    tokens = call_inputs(tmp_path / "llava", 1)["input_ids"]
    images = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    assert (tokens == config.image_token_index).sum() == images
    assert found["latency_ms"].label == "latency, p50, 1 row"
    assert found["flops"].label == "FLOPs of the towers, 1 row"


def test_no_inputs(tmp_path: Path) -> None:
    """A model for which neither configuration nor processor makes inputs is one sentence."""
    model = build(FAMILIES["lxmert"])
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"^LxmertForPreTraining runs on no inputs that its configuration tells"):
        call_inputs(tmp_path, 1)
