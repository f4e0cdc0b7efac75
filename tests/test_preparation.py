"""Promises of the preparation of rows: in order, once, and the same in whatever process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import datasets
import numpy as np
import pytest

from hfcompress.contracts import Rows
from hfcompress.errors import DataError
from hfcompress.evaluation.preparation import Preparation
from hfcompress.inputs import load_processor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def preparation(quickstart_folder: Path, clip: Path) -> Preparation:
    """Return what prepares 11 digits in batches of 4."""
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="test[:11]")
    return Preparation.of(load_processor(clip), Rows(rows, "digits", "1", "test"), "image", 4)


@pytest.fixture(scope="module")
def broken(preparation: Preparation) -> Preparation:
    """Return what prepares the same digits, the tenth of which is missing."""
    rows = preparation.rows.dataset.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[9]["image"] = None
    dataset = datasets.Dataset.from_list(rows, preparation.rows.dataset.features)
    return replace(preparation, rows=replace(preparation.rows, dataset=dataset))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order(preparation: Preparation, workers: int) -> None:
    """Whoever makes them, the batches that were asked for come in that order, the last one short."""
    found = [batch["pixel_values"] for batch in preparation.batches([2, 0, 1], workers)]
    wanted = [preparation.batch(number)["pixel_values"] for number in (2, 0, 1)]
    assert [len(batch) for batch in found] == [3, 4, 4]
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_row_is_the_same_error_everywhere(broken: Preparation, workers: int) -> None:
    """An error of a worker process is the error that there is without it, after the batches before it."""
    batches = broken.batches([0, 1, 2], workers)
    assert len(next(batches)["pixel_values"]) == len(next(batches)["pixel_values"]) == 4
    with pytest.raises(DataError, match="row 1 of this batch holds NoneType where an image was expected"):
        next(batches)


def test_what_is_not_wanted_any_more_is_not_made(preparation: Preparation) -> None:
    """Whoever stops early leaves no worker with work."""
    batches = preparation.batches([0, 1, 2] * 4, 2)
    assert len(next(batches)["pixel_values"]) == 4
    batches.close()
    assert len([*preparation.batches([0], 2)]) == 1
