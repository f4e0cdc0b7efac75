"""Promises of predictions on disk: what is read is what was written, to the last bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.errors import CacheError
from hfcompress.evaluation.generation import Generated, Likely, Row
from hfcompress.evaluation.image_text_retrieval import RetrievalPredictions
from hfcompress.evaluation.ranking import Places
from hfcompress.evaluation.zero_shot import ZeroShotPredictions
from hfcompress.predictions import load_predictions, save_predictions

if TYPE_CHECKING:
    from pathlib import Path


def _array(*shape: int, kind: str = "float32") -> np.ndarray[Any, Any]:
    return (np.random.default_rng(0).normal(size=shape) * 100).astype(kind)


def _places(count: int) -> Places:
    return Places(*(_array(count, kind="int64") for _ in range(4)))


ALL = {
    "zero-shot": ZeroShotPredictions(_array(5, 3), _array(4, 3), _places(5), 2),
    "retrieval": RetrievalPredictions(_array(2, 3), _array(4, 3), _array(4, kind="int64"), _places(2), _places(4)),
    "texts": Generated(
        (
            Row("ein \u00fc\n", _array(3, kind="int64"), Likely(_array(3, 2, kind="int64"), _array(3, 2), _array(3))),
            Row("", _array(0, kind="int64")),
        ),
        hits=_array(2),
    ),
}


def assert_same(found: Any, expected: Any) -> None:  # noqa: ANN401 - any part of predictions
    """Compare two trees of dataclasses, arrays and plain values, types and bits."""
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif hasattr(expected, "__dataclass_fields__"):
        assert_same(list(vars(found).values()), list(vars(expected).values()))
    else:
        assert found == expected


@pytest.mark.parametrize("name", ALL)
def test_predictions_come_back(name: str, tmp_path: Path) -> None:
    """The predictions of every kind of task are what they were."""
    save_predictions(ALL[name], tmp_path)
    assert_same(load_predictions(tmp_path, {"hfcompress"}), ALL[name])


def test_plain_values_come_back(tmp_path: Path) -> None:
    """So are lists, tuples, mappings, single numbers, and an array that is not stored row by row."""
    value = [(1, 2.5, True, None, "x"), {"a": [np.float32(0.1)], "b": {}}, _array(3, 4).T]
    save_predictions(value, tmp_path)
    found = load_predictions(tmp_path, {"hfcompress"})

    assert_same(found[0], value[0])
    assert found[1] == value[1]
    assert np.array_equal(found[2], value[2])


@dataclass(frozen=True)
class Odd:
    """Predictions with something that has no form on disk."""

    something: object


@pytest.mark.parametrize("value", [{1}, object(), {1: 2}, np.array(["text"]), 1j])
def test_what_has_no_form_is_refused(value: object, tmp_path: Path) -> None:
    """Predictions that would come back as something else are not written."""
    with pytest.raises(CacheError, match="among them has no form in safetensors and JSON"):
        save_predictions(Odd(value), tmp_path)


@pytest.mark.parametrize(
    "name", ["subprocess:Popen", "os:system", "hfcompress.cli:main", "hfcompress.evaluation.generation:Row"]
)
def test_no_other_class_is_made(name: str, tmp_path: Path) -> None:
    """A file can name only dataclasses of the task's packages, with their own fields, and imports nothing else."""
    save_predictions(Odd(None), tmp_path)
    (tmp_path / "predictions.json").write_text(json.dumps({"class": name, "fields": {"args": 1}}), encoding="utf-8")
    with pytest.raises(CacheError, match=rf"^{name} is no dataclass of hfcompress with the fields args$"):
        load_predictions(tmp_path, {"hfcompress"})
