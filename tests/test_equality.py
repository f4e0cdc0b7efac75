"""Promises of the comparison of an export with its model."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from hfcompress.runtimes.equality import TOLERANCE, check_equal

SCALE = 50.0
EXPECTED = np.array([[1.0, -SCALE, 3.0]], np.float32)


def test_rounding_is_accepted() -> None:
    """Outputs that differ by less than the tolerance of their scale are the same."""
    check_equal("CLIPModel", {"logits": EXPECTED}, {"logits": EXPECTED + 0.9 * TOLERANCE * SCALE})


@pytest.mark.parametrize(
    ("expected", "found", "match"),
    [
        (
            EXPECTED,
            EXPECTED + 1.1 * TOLERANCE * SCALE,
            "the export is not the CLIPModel: its output 'logits' differs by",
        ),
        (EXPECTED, EXPECTED * np.nan, "its output 'logits' differs by nan of its scale"),
        (EXPECTED, EXPECTED[0], "its output 'logits' is (3,) and not (1, 3)"),
        (EXPECTED * np.inf, EXPECTED, "the output 'logits' of the CLIPModel itself is not finite"),
    ],
    ids=["off", "not finite", "shape", "broken model"],
)
def test_difference_is_refused(expected: np.ndarray, found: np.ndarray, match: str) -> None:
    """What differs by more is refused, with the output and by how much."""
    with pytest.raises(QuantizationError, match=re.escape(match)):
        check_equal("CLIPModel", {"logits": expected}, {"logits": found})
