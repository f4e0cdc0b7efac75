"""A card computes nothing: every number that a real run's card shows is one of its report's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.card_numbers import numbers_without_source
from tests.conftest import QUICKSTART, small_recipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Cli, Ran

pytestmark = pytest.mark.onnxruntime


def read(folder: Path) -> tuple[str, str]:
    """Return the card and the report of an artifact."""
    return (folder / "README.md").read_text("utf-8"), (folder / "report.json").read_text("utf-8")


def test_quickstart(quickstart: Ran) -> None:
    """Front matter, headline, tables and text of the quickstart's card show what stands in its report."""
    assert numbers_without_source(*read(quickstart.folder)) == []


def test_pruned_and_static(cli: Cli, write: Callable[..., Path], tmp_path: Path) -> None:
    """So does a card that tells of pruning by calibration rows, ranges, and the nodes that stay in float."""
    rows = {"dataset": str(QUICKSTART / "data"), "split": "calibration[:32]"}
    data: dict[str, Any] = small_recipe()["data"]
    data["calibration"] = {**rows, "columns": {"image": "image", "text": "caption"}}
    sensitive = {"mode": "static", "sensitivity": {"max_drop": 0.001, "by": "block"}, "smooth": 0.5}
    steps = [
        {"use": "prune", "towers": {"all": {"ffn": 0.5}}, "calibration": "calibration"},
        {"use": "quantize", "runtime": "onnxruntime", "calibration": "calibration", **sensitive},
    ]
    gates = {"latency_ms": None, "zero_shot_accuracy": {"max_drop": 0.5}}
    done = cli("run", write(data=data, steps=steps, gates=gates), "-o", tmp_path / "out")
    card, report = read(tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert "static" in card
    assert numbers_without_source(card, report) == []


@pytest.mark.parametrize(
    "pattern", [r"(?<=\*\*)\d\.\d(?=\u00d7)", r"\d+\.\d(?=\u00a0%)", r"\d+(?=\u00a0kB)", r"(?<=value: )\d\.\d+"]
)
def test_a_number_of_the_cards_own(pattern: str, quickstart: Ran) -> None:
    """The check sees a number that the report does not hold: a factor, a share, a size, a value of the front matter."""
    card, report = read(quickstart.folder)
    found = re.search(pattern, card)
    assert found is not None
    other = f"{float(found[0]) * 1.0371 + 0.0731:.{len(found[0].partition('.')[2])}f}"
    assert numbers_without_source(card[: found.start()] + other + card[found.end() :], report) != []
