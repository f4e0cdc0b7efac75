"""Promises of `hfcompress.benchmark`: what is counted and in which order it is timed; never how long it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hfcompress.benchmark import alternate, default_threads, latency, parameters_of, size_bytes
from hfcompress.contracts import Checkpoint, Model, Progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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
    times = alternate(models, {"x": np.zeros(1), "y": np.zeros(1)}, 7, Progress())

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a checkpoint with weights for several libraries."""
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(100)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "onnx").mkdir()
    for name, size in {"config.json": 10, "README.md": 999, "report.json": 999, "flax_model.msgpack": 999}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x" * 70)
    return tmp_path


def test_size_is_what_loading_needs(folder: Path) -> None:
    """Weights in the checkpoint's own format count, and what describes them; other libraries' weights do not."""
    weights = (folder / "model.safetensors").stat().st_size
    assert size_bytes(Checkpoint(folder, "transformers")) == weights + 10
    assert size_bytes(Checkpoint(folder, "onnx")) == 70 + 10


def test_parameters_are_read_from_headers(folder: Path) -> None:
    """The weights that transformers loads are counted, whatever else lies there."""
    assert parameters_of(folder) == 17


def test_sharded_weights_count_once(tmp_path: Path) -> None:
    """Shards add up."""
    for shard in (1, 2):
        save_file({f"a{shard}": torch.zeros(shard, 10)}, tmp_path / f"model-0000{shard}-of-00002.safetensors")
    assert parameters_of(tmp_path) == 30


def test_scales_of_quantized_weights_do_not_count(tmp_path: Path) -> None:
    """Values are weights, two in a byte where they are packed; what lies beside them, in whatever file, is none."""
    packed = {"a._weight_qdata": torch.zeros(4, 8, dtype=torch.uint8), "b._weight_scale": torch.zeros(4, 1)}
    plain = {"b._weight_qdata": torch.zeros(4, 8, dtype=torch.int8), "a._weight_scale": torch.zeros(4, 1)}
    save_file({**packed, "a.bias": torch.zeros(4)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({**plain, "c._weight_scale": torch.zeros(3)}, tmp_path / "model-00002-of-00002.safetensors")
    assert parameters_of(tmp_path) == 64 + 32 + 4 + 3  # no values lie beside the last, so it is a weight of that name


def test_threads_are_those_of_this_process() -> None:
    """There is at least one."""
    assert default_threads() >= 1
