"""Promises of the classes that a third party extends."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from datasets import Dataset

from hfcompress.contracts import Measurement, Model, Progress, Rows, Task, TaskOptions, Value
from hfcompress.runtimes import runtime_of

if TYPE_CHECKING:
    from pathlib import Path


class Weights(Task):
    """A task that says what a task has to say and no more: how many parameters a model has, and which share is left."""

    Options: ClassVar[type[TaskOptions]] = TaskOptions
    columns: ClassVar[frozenset[str]] = frozenset({"image"})
    measures: ClassVar[tuple[str, ...]] = ("weights", "weights_kept")

    def predict(self, model: Model, rows: Rows, progress: Progress) -> int:
        """Count."""
        del rows, progress
        return int(model.stock.num_parameters())

    def compare(self, source: int, compressed: int, rows: Rows) -> list[Measurement]:
        """Compare."""
        counted = Measurement(
            "weights",
            "weights",
            "count",
            higher_is_better=False,
            compressed=Value(compressed),
            source=Value(source),
            difference=Value(compressed - source),
        )
        kept = Measurement(
            "weights_kept",
            "kept",
            "ratio",
            higher_is_better=True,
            compressed=Value(compressed / source),
            dataset=rows.name,
        )
        return [counted, kept]


@pytest.fixture
def rows() -> Rows:
    """Return one row."""
    return Rows(Dataset.from_dict({"image": [0]}), "rows", "0", "all")


def test_a_task_of_two_methods_is_whole(clip: Path, rows: Rows) -> None:
    """Without more, a result is run as the source is, and one model's measurements are those that need no other."""
    model, task = runtime_of("transformers").load(clip), Weights(TaskOptions(data="rows"))
    count = task.predict(model, rows, Progress())
    assert task.follow(model, rows, count - 1, Progress()) == count
    (alone,) = task.measure(count, rows)
    assert (alone.name, alone.compressed, alone.source, alone.difference) == ("weights", Value(count), None, None)
