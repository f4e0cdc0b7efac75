"""Promises of `hfcompress.flops`: what is counted equals what torch counts, and what cannot be counted is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel

import hfcompress
from hfcompress.errors import CheckpointError
from hfcompress.flops import flops_by_tower
from hfcompress.probes import example_inputs
from hfcompress.twin import FLOP_TOKENS
from tests.families import FAMILIES, build

if TYPE_CHECKING:
    from pathlib import Path


def _saved(family: str, folder: Path) -> Path:
    model = build(FAMILIES[family])
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_counts_are_those_of_torch_on_the_real_model(clip: Path) -> None:
    """Total and towers are what torch's counter finds when the trained model itself is run."""
    model = CLIPModel.from_pretrained(clip, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**example_inputs(model, 1, FLOP_TOKENS))
    modules = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    found = flops_by_tower(clip)

    assert (found.total, found.is_whole) == (counter.get_total_flops(), True)
    towers = {name: modules[f"CLIPModel.{name}_model"] for name in ("text", "vision")}
    assert found.towers == towers


def test_fewer_units_are_fewer_operations_and_fewer_bits_are_not(clip: Path, tmp_path: Path) -> None:
    """Pruning a tower lowers its count alone; weights in 16 bits change nothing."""
    hfcompress.prune(clip, towers={"vision": {"ffn": 0.5}}, importance="magnitude", output=tmp_path / "pruned")
    hfcompress.cast(tmp_path / "pruned", dtype="bfloat16", output=tmp_path / "cast")
    before, after, cast = (flops_by_tower(folder) for folder in (clip, tmp_path / "pruned", tmp_path / "cast"))

    assert after == cast
    assert after.towers["text"] == before.towers["text"]
    assert after.towers["vision"] < before.towers["vision"]
    assert after.total - before.total == after.towers["vision"] - before.towers["vision"]


def test_uneven_layers_are_counted_as_they_are(clip: Path, tmp_path: Path) -> None:
    """Shapes that only a record says count too."""
    hfcompress.prune(clip, towers={"vision": {"heads": 0.5}}, importance="magnitude", output=tmp_path / "pruned")
    assert flops_by_tower(tmp_path / "pruned").total < flops_by_tower(clip).total


def test_towers_that_run_alone_are_summed(tmp_path: Path) -> None:
    """A model that wants image tokens in the right places is the sum of its towers, and is said to be no whole."""
    found = flops_by_tower(_saved("llava", tmp_path))
    assert (found.towers.keys(), found.is_whole) == ({"vision", "text"}, False)
    assert found.total == sum(found.towers.values())


def test_modules_of_one_tower_count_together(tmp_path: Path) -> None:
    """A tower of which two modules hold the configuration is both of them."""
    found = flops_by_tower(_saved("clap", tmp_path))
    assert found.total > sum(found.towers.values()) > 0.99 * found.total


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("lxmert", r"^no part of this LxmertForPreTraining runs on inputs"),
        ("mllama", r"^no inputs made from the configuration run through vision of MllamaForConditionalGeneration$"),
    ],
)
def test_what_cannot_be_counted(family: str, message: str, tmp_path: Path) -> None:
    """A model or a tower that runs on no made-up inputs is an error, never a smaller number."""
    with pytest.raises(CheckpointError, match=message):
        flops_by_tower(_saved(family, tmp_path))
