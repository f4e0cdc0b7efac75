"""Promises of `exclude`: what a pattern names is left out, and one that names nothing is an error."""

import pytest

from hfcompress.errors import QuantizationError
from hfcompress.quantization.exclusion import excluded

NAMES = ("text.mlp.fc1", "text.mlp.fc2", "vision.mlp.fc2")


def test_what_one_of_the_patterns_matches() -> None:
    """A star stands for anything, and patterns add up."""
    assert excluded(("*.fc2",), NAMES, "layers") == {"text.mlp.fc2", "vision.mlp.fc2"}
    assert excluded(("text.mlp.fc1", "vision.*"), NAMES, "layers") == {"text.mlp.fc1", "vision.mlp.fc2"}
    assert excluded((), NAMES, "layers") == frozenset()


def test_a_pattern_that_matches_nothing() -> None:
    """The error says how many names there are, and which are near."""
    expected = (
        r"^exclude: 'text\.mlp\.fc3' matches none of the 3 layers \(did you mean 'text\.mlp\.fc[12]'\?\); "
        r"expected a pattern of names such as text\.mlp\.fc"
    )
    with pytest.raises(QuantizationError, match=expected):
        excluded(("text.mlp.fc3",), NAMES, "layers")
