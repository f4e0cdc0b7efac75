"""Promises of `hfcompress.overlap`: rows are the same if they hold the same, whatever their split is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Audio, Dataset, Image, load_dataset

from hfcompress.contracts import Rows
from hfcompress.errors import DataError
from hfcompress.overlap import shared_rows
from tests.checkpoints import pictures, sounds

DIGITS = "recipes/quickstart/data"


def rows(dataset: Dataset) -> Rows:
    """Return rows of a dataset."""
    return Rows(dataset, "rows", "0", "all")


def test_rows_under_another_name_and_in_another_order() -> None:
    """Images are found again in a shuffled slice with other columns; those of another split are not."""
    test, other = (load_dataset(DIGITS, split=split) for split in ("test[:50]", "calibration[:50]"))
    slice_ = test.select([41, 7, 13]).remove_columns("label")
    assert shared_rows(rows(test), rows(slice_)) == [7, 13, 41]
    assert shared_rows(rows(test), rows(other)) == []


def test_files_on_disk_are_read(tmp_path: Path) -> None:
    """An image that a row names by its path is the same as one with those bytes."""
    paths = []
    for index, picture in enumerate(pictures(3)):
        picture.save(tmp_path / f"{index}.png")
        paths.append(str(tmp_path / f"{index}.png"))
    named = Dataset.from_dict({"image": paths}).cast_column("image", Image())
    held = Dataset.from_dict({"image": [{"bytes": Path(paths[1]).read_bytes(), "path": None}]}, named.features)
    assert shared_rows(rows(named), rows(held)) == [1]
    Path(paths[2]).unlink()
    with pytest.raises(DataError, match=r"^rows names the file .*2.png, which cannot be read: No such file"):
        shared_rows(rows(named), rows(held))


def test_sounds_and_texts() -> None:
    """Sounds are compared by their files; texts only where there is nothing else, for captions repeat."""
    some = Dataset.from_dict({"audio": sounds(4), "text": list("abcd")}).cast_column("audio", Audio(decode=False))
    assert shared_rows(rows(some), rows(some.select([2]))) == [2]
    texts = some.remove_columns("audio")
    assert shared_rows(rows(texts), rows(texts.select([0, 3]))) == [0, 3]
    assert shared_rows(rows(some), rows(texts)) == []
