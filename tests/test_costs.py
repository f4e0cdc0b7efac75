"""Promises of `hfcompress.costs`: what a run and a comparison measure, and what they say they cannot."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hfcompress.contracts import Checkpoint, Progress
from hfcompress.cost_details import Unmeasured
from hfcompress.costs import FLOPS_LABELS, Contender, flop_measurements, run_measurements
from hfcompress.errors import CheckpointError
from hfcompress.flops import FlopCount
from hfcompress.recipe import BenchmarkOptions
from hfcompress.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli, Ran, Write

COSTS = ["size_bytes", "parameters", "flops", "latency_ms", "latency_p90_ms", "throughput_per_s"]
MEMORY = ["peak_memory_bytes", "model_memory_bytes"]


def test_every_run_reports_its_costs(pruned: Ran) -> None:
    """Source and result have every cost, the towers their operations, and each file its bytes."""
    report = Report.load(pruned.folder)
    costs = [row for row in report.measurements if row.task is None]
    assert [row.name for row in costs] == COSTS
    assert all(row.source is not None and row.source.value > 0 < row.compressed.value for row in costs)
    assert report["flops"].compressed.value < report["flops"].source.value  # type: ignore[union-attr]
    details = report.cost_details
    assert details is not None
    assert {row.name for row in details.tower_flops} == {"text", "vision"}
    assert sum(details.source_files.values()) == report["size_bytes"].source.value  # type: ignore[union-attr]
    assert (details.published_files, details.unmeasured) == (None, ())
    assert details.inputs == {"input_ids": (1, 22), "pixel_values": (1, 3, 32, 32)}
    assert {"cpu", "threads"} <= report.environment.keys()


def test_memory_and_throughput_as_the_recipe_asks(cli: Cli, write: Write, tmp_path: Path) -> None:
    """A run measures throughput at each batch size, memory in processes of their own, and holds gates on all of it."""
    benchmark = {"repeats": 3, "threads": 1, "throughput_batch_sizes": [2, 4]}
    gates = {
        "latency_ms": None,
        "flops": {"min_ratio": 1.01},
        "throughput_per_s_at_2": {"min_value": 1e-6},
        "throughput_per_s": {"min_ratio": 1e-6},
        "peak_memory_bytes": {"max_value": 1e11, "min_ratio": 0.1},
    }
    done = cli("run", write(benchmark=benchmark, gates=gates, evaluate=[], data={}), "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr

    report = Report.load(tmp_path / "out")
    assert [row.name for row in report.measurements] == [*COSTS[:-1], "throughput_per_s_at_2", COSTS[-1], *MEMORY]
    assert (report["throughput_per_s"].label, report["throughput_per_s"].n) == ("throughput, 4 rows a call", 3)
    assert [gate.name for gate in report.gates] == [*list(gates)[1:], "peak_memory_bytes", "size_bytes"]
    for side in ("source", "compressed"):
        peak, model = (getattr(report[name], side).value for name in MEMORY)
        assert 0 < model < peak
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    first, _, rest = card.partition("## How to use it")
    assert "| peak memory, 4 rows |" in first
    assert "| memory beyond the libraries |" in rest
    assert "| FLOPs, vision |" in rest


def test_speed_is_measured_for_each_batch_size(clip: Path) -> None:
    """Latency has the calls that were asked for, throughput as many rows; without batch sizes there is none."""
    contender = Contender(Checkpoint(clip, "transformers"), clip)
    both = {"source": contender, "compressed": contender}
    options = BenchmarkOptions(repeats=12, threads=1, throughput_batch_sizes=(2,), memory=False)
    rows = run_measurements(options, both, Progress())
    assert [(row.name, row.n) for row in rows] == [("latency_ms", 12), ("latency_p90_ms", 12), ("throughput_per_s", 6)]
    none = run_measurements(options.model_copy(update={"throughput_batch_sizes": ()}), both, Progress())
    assert [row.name for row in none] == ["latency_ms", "latency_p90_ms"]


def _refuses(message: str) -> FlopCount:
    raise CheckpointError(message)


def test_operations_that_cannot_be_counted_have_a_reason() -> None:
    """Where one of the two cannot be counted there is no number, but whose fault it is and why."""
    counted = partial(FlopCount, 10, {"vision": 10}, is_whole=True)
    found = flop_measurements({"the source": counted, "the result": partial(_refuses, "no inputs")})
    assert found == ((), (), (Unmeasured("flops", "they cannot be counted for the result: no inputs"),))


@pytest.mark.parametrize("is_whole", [True, False])
def test_operations_are_named_for_what_was_run(is_whole: bool) -> None:  # noqa: FBT001 - a case of the table
    """A sum over towers is not called the whole; a tower of one side alone is kept."""
    before = partial(FlopCount, 10, {"vision": 6, "text": 4}, is_whole=True)
    after = partial(FlopCount, 5, {"vision": 5}, is_whole=is_whole)
    (row,), towers, unmeasured = flop_measurements({"the source": before, "the result": after})
    assert (row.label, row.compressed.value, unmeasured) == (FLOPS_LABELS[is_whole], 5, ())
    assert [(tower.name, tower.source, tower.compressed) for tower in towers] == [("vision", 6, 5), ("text", 4, None)]


@pytest.mark.onnxruntime
def test_source_as_published_has_speed_and_files(quickstart: Ran) -> None:
    """Where the artifact has another runtime, speed and files of the source in torch stand beside its export's."""
    report = json.loads((quickstart.folder / "report.json").read_text(encoding="utf-8"))
    published = {row["name"] for row in report["measurements"] if row["as_published"] is not None}
    assert published == {"size_bytes", "latency_ms", "latency_p90_ms", "throughput_per_s"}
    assert "model.safetensors" in report["cost_details"]["published_files"]
    assert "onnx/model.onnx" in report["cost_details"]["source_files"]
