"""Promises of `hfcompress.timed_inputs`: inputs that a model takes, in the shapes that it meets in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from hfcompress.anatomy import load_config, load_model
from hfcompress.timed_inputs import timed_inputs
from tests.checkpoints import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_random_inputs(clip: Path) -> None:
    """Inputs whose shapes the configuration tells are random, of as many rows and tokens as asked for."""
    made = timed_inputs(clip, 3, 9)
    assert (made["pixel_values"].shape, made["input_ids"].shape) == ((3, 3, 32, 32), (3, 9))


@pytest.mark.filterwarnings("ignore")
def test_questions_about_images(tmp_path: Path) -> None:
    """A model that reads images among words gets the image tokens that its processor puts there, and runs."""
    checkpoint = save_checkpoint("llava", tmp_path / "llava")
    made = timed_inputs(checkpoint.path, 2, 77)
    with torch.no_grad():
        logits = load_model(checkpoint.path)(**{name: torch.from_numpy(array) for name, array in made.items()}).logits

    assert logits.shape[:2] == made["input_ids"].shape
    assert (made["input_ids"] == load_config(checkpoint.path).image_token_id).sum() == 2 * 16


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "frames"), [("clap", 201), ("whisper", 40)])
def test_sounds(name: str, frames: int, tmp_path: Path) -> None:
    """A model that hears gets as many frames as its feature extractor makes, which an export may have fixed."""
    made = timed_inputs(save_checkpoint(name, tmp_path / name).path, 2, 8)
    assert made["input_features"].shape[0] == 2
    assert frames in made["input_features"].shape
