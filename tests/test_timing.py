"""Promises of `hfcompress.timing`: in which order calls are timed and what is made of the times; never how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.contracts import Model, Progress, Value
from hfcompress.timing import alternate, default_threads, latency, throughput, throughput_calls

if TYPE_CHECKING:
    from collections.abc import Mapping


class Recorder(Model):
    """A model that writes down when it was called and with what."""

    def __init__(self, name: str, inputs: set[str], calls: list[tuple[str, list[str]]]) -> None:
        self.name, self.inputs, self.calls = name, frozenset(inputs), calls

    def __call__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Write the call down."""
        self.calls.append((self.name, sorted(inputs)))
        return {}


def test_calls_alternate_and_are_as_many_as_asked() -> None:
    """Models take turns of at most five timed calls, each after one that is not timed, with the inputs they take."""
    calls: list[tuple[str, list[str]]] = []
    models = {"a": Recorder("a", {"x"}, calls), "b": Recorder("b", {"x", "y"}, calls)}
    inputs = {"a": {"x": np.zeros(1), "y": np.zeros(1)}, "b": {"x": np.zeros(2), "y": np.zeros(1), "z": np.zeros(1)}}
    times = alternate(models, inputs, 7, Progress())

    assert {name: len(values) for name, values in times.items()} == {"a": 7, "b": 7}
    assert [name for name, _ in calls] == ["a"] * 6 + ["b"] * 6 + ["a"] * 3 + ["b"] * 3
    assert dict(calls) == {"a": ["x"], "b": ["x", "y"]}


def test_latency_is_the_percentile_with_its_interval() -> None:
    """The value is numpy's percentile, inside of its interval."""
    times = np.arange(1.0, 101.0)
    for percentile in (50, 90):
        found = latency(times, percentile)
        assert found.value == np.percentile(times, percentile)
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high


def test_throughput_is_rows_by_time() -> None:
    """All rows by all seconds, inside of its interval; calls that took alike have no width."""
    times = np.asarray([10.0, 20.0, 30.0])
    found = throughput(times, 6)
    assert found.value == pytest.approx(18 / 0.06)
    assert found.low is not None
    assert found.high is not None
    assert 200 <= found.low < found.value < found.high <= 600
    assert throughput(np.asarray([4.0, 4.0]), 2) == Value(500.0, 500.0, 500.0)


@pytest.mark.parametrize(
    ("repeats", "rows", "calls"), [(50, 1, 50), (50, 8, 7), (50, 64, 5), (3, 8, 3), (1, 1, 1), (1000, 8, 125)]
)
def test_larger_calls_are_fewer(repeats: int, rows: int, calls: int) -> None:
    """As many rows are timed as `repeats` has, in five calls at least, and in no more calls than were asked for."""
    assert throughput_calls(repeats, rows) == calls


def test_threads_are_those_of_this_process() -> None:
    """There is at least one."""
    assert default_threads() >= 1
