"""Promises of `hfcompress.cost_details`: what stands behind the costs survives the file, and says what is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hfcompress.contracts import Measurement, Value
from hfcompress.cost_details import CostDetails, TowerFlops, Unmeasured
from hfcompress.errors import CheckpointError
from hfcompress.report import Report
from tests.test_report import report

DETAILS = CostDetails(
    {"model.safetensors": 400},
    {"input_ids": (1, 22)},
    64,
    (TowerFlops("vision", 200, 100), TowerFlops("text", None, 50), TowerFlops("audio", 70, None)),
    (Unmeasured("parameters", "no weights"),),
)


def test_round_trip() -> None:
    """A report with the details is read as it was written; one without them, as older ones are, loads too."""
    written = replace(report(), cost_details=DETAILS)
    assert Report.from_json(written.to_json()) == written
    rows = json.loads(report().to_json())
    del rows["cost_details"]
    assert Report.from_json(json.dumps(rows)).cost_details is None


def test_unknown_field() -> None:
    """A field that nobody wrote is refused, as everywhere in a report."""
    text = replace(report(), cost_details=DETAILS).to_json().replace('"flop_tokens"', '"flop_words": 1, "flop_tokens"')
    with pytest.raises(CheckpointError, match=r"cost_details\.flop_words: Unexpected keyword argument"):
        Report.from_json(text)


def test_towers_as_measurements() -> None:
    """Each tower of the result is a measurement; a tower that the source lacks has no value there."""
    vision, text = DETAILS.tower_measurements
    expected = Measurement(
        "flops", "FLOPs, vision", "count", higher_is_better=False, compressed=Value(100), source=Value(200)
    )
    assert (vision, text.label, text.source) == (expected, "FLOPs, text", None)


def test_reason() -> None:
    """What is missing has a reason, what is not has none."""
    assert (DETAILS.reason("parameters"), DETAILS.reason("flops")) == ("no weights", None)
