"""Pruning the feed-forward layers of every family, with no code for any of them in the package."""

import json
from pathlib import Path

import pytest

from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.pruning.step import Prune, PruneOptions, TowerRatios
from hfcompress.pruning.surgery import TOLERANCE
from tests.families import FAMILIES, build

pytestmark = [
    # transformers tells, on loading, of arguments that its own classes still use
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_feed_forward_of_every_tower(name: str, tmp_path: Path) -> None:
    """A quarter of the feed-forward units of all towers goes, exactly, and the stock class loads what is left."""
    build(FAMILIES[name]).save_pretrained(tmp_path / "source")
    step = Prune(PruneOptions(towers={"all": TowerRatios(ffn=0.25)}))
    (tmp_path / "pruned").mkdir()
    detail = step.apply(Checkpoint(tmp_path / "source", "transformers"), tmp_path / "pruned", StepContext())
    assert isinstance(detail["removed_parameters"], int)
    assert detail["removed_parameters"] > 0
    assert isinstance(detail["proof_max_difference"], float)
    assert detail["proof_max_difference"] <= TOLERANCE
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    assert "quantization_config" not in config
