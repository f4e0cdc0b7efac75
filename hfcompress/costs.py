"""What source and result cost: size, operations, time and memory, measured side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from hfcompress.call_inputs import call_inputs
from hfcompress.contracts import Checkpoint, Measurement, Value
from hfcompress.cost_details import CostDetails, TowerFlops, Unmeasured
from hfcompress.environment import environment_record
from hfcompress.errors import HfcompressError
from hfcompress.flops import FlopCount, flops_by_tower
from hfcompress.peak_memory import peak_memory
from hfcompress.report import TowerBytes
from hfcompress.runtimes import runtime_of
from hfcompress.sizes import files_of, parameters_of
from hfcompress.timing import alternate, default_threads, latency, throughput, throughput_calls
from hfcompress.tower_bytes import tower_bytes
from hfcompress.twin import FLOP_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np

    from hfcompress.contracts import Progress
    from hfcompress.recipe import BenchmarkOptions

    Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]

__all__ = [
    "FLOPS_LABELS",
    "Contender",
    "Costs",
    "cost_measurements",
    "flop_measurements",
    "row_of",
    "run_measurements",
    "threads_of",
]

FLOPS_LABELS = {True: "FLOPs, 1 row", False: "FLOPs of the towers, 1 row"}
"""What a table shows where the whole model was counted, and where each tower was run alone."""


@dataclass(frozen=True)
class Contender:
    """A model that is run beside others.

    Attributes:
        checkpoint: Its folder.
        described_by: The folder whose configuration says what inputs look like; the contenders of a run share one.
    """

    checkpoint: Checkpoint
    described_by: Path

    def inputs(self, rows: int) -> Arrays:
        """Return random inputs for a call."""
        return call_inputs(self.described_by, rows)

    def shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input of a call."""
        return {name: array.shape for name, array in self.inputs(rows).items()}


@dataclass(frozen=True)
class Costs:
    """What source and result cost, what stands behind that, and the machine on which it was measured."""

    measurements: tuple[Measurement, ...]
    environment: dict[str, str | int]
    towers: tuple[TowerBytes, ...]
    details: CostDetails


def cost_measurements(
    options: BenchmarkOptions,
    source: Checkpoint,
    artifact: Checkpoint,
    weights: Path,
    float32: Path,
    progress: Progress,
) -> Costs:
    """Measure what the source, in torch and in the artifact's runtime, and the artifact cost.

    Args:
        options: How it is measured.
        source: The source as it was downloaded.
        artifact: The result.
        weights: The last folder in which the result has its weights in safetensors.
        float32: Scratch folder for the source's float32 form in the artifact's runtime.
        progress: Hears how far the timing is.

    Raises:
        CheckpointError: A model cannot be loaded, or no inputs can be made for it.
        RunError: A process that measures memory failed.
    """
    baseline = runtime_of(artifact.format).export(source, float32)
    checkpoints = {"source": baseline, "compressed": artifact}
    if artifact.format != source.format:
        checkpoints["published"] = source
    files = {role: files_of(checkpoint) for role, checkpoint in checkpoints.items()}
    parameters = {"source": Value(parameters_of(source.path)), "compressed": Value(parameters_of(weights))}
    operations, tower_flops, unmeasured = flop_measurements(
        {"the source": partial(flops_by_tower, source.path), "the result": partial(flops_by_tower, weights)}
    )
    measurements = (
        row_of("size_bytes", "size on disk", "bytes", {role: Value(sum(of.values())) for role, of in files.items()}),
        row_of("parameters", "parameters", "count", parameters),
        *operations,
        *run_measurements(
            options, {role: Contender(checkpoint, source.path) for role, checkpoint in checkpoints.items()}, progress
        ),
    )
    before, after = (tower_bytes(checkpoint, source.path) for checkpoint in (baseline, artifact))
    towers = tuple(TowerBytes(name, before.get(name, 0), after.get(name, 0)) for name in sorted(before | after))
    details = CostDetails(
        files["source"],
        Contender(source, source.path).shapes(options.batch_size),
        FLOP_TOKENS,
        tower_flops,
        unmeasured,
        files.get("published"),
    )
    return Costs(measurements, environment_record(threads_of(options)), towers, details)


def flop_measurements(
    counts_of: Mapping[str, Callable[[], FlopCount]],
) -> tuple[tuple[Measurement, ...], tuple[TowerFlops, ...], tuple[Unmeasured, ...]]:
    """Count the operations of two models; say why where that is not possible.

    Args:
        counts_of: What a reason calls each → what counts them, the source first.

    Returns:
        The measurement, the counts by tower, and the reason: either the first two or the third is there.
    """
    counts: list[FlopCount] = []
    for name, count in counts_of.items():
        try:
            counts.append(count())
        except HfcompressError as error:
            return (), (), (Unmeasured("flops", f"they cannot be counted for {name}: {error}"),)
    before, after = counts
    values = {"source": Value(before.total), "compressed": Value(after.total)}
    label = FLOPS_LABELS[before.is_whole and after.is_whole]
    towers = dict.fromkeys([*before.towers, *after.towers])
    return (
        (row_of("flops", label, "count", values),),
        tuple(TowerFlops(name, before.towers.get(name), after.towers.get(name)) for name in towers),
        (),
    )


def run_measurements(
    options: BenchmarkOptions, contenders: Mapping[str, Contender], progress: Progress
) -> tuple[Measurement, ...]:
    """Run models side by side: latency and throughput in turns, then peak memory one after another.

    Args:
        options: How it is measured.
        contenders: "source", "compressed" and, where there is one, "published" → the model. The memory of the last
            is not measured.
        progress: Hears how far it is.
    """
    sizes = dict.fromkeys([options.batch_size, *options.throughput_batch_sizes])
    inputs = {rows: {role: contender.inputs(rows) for role, contender in contenders.items()} for rows in sizes}
    measured = _speed(options, contenders, inputs, progress)
    if options.memory:
        measured += _memory(options, contenders, inputs, progress)
    return tuple(measured)


def _speed(
    options: BenchmarkOptions,
    contenders: Mapping[str, Contender],
    inputs: Mapping[int, Mapping[str, Arrays]],
    progress: Progress,
) -> list[Measurement]:
    threads, rows = threads_of(options), options.batch_size
    models = {
        role: runtime_of(contender.checkpoint.format).load(contender.checkpoint.path, threads)
        for role, contender in contenders.items()
    }
    times = alternate(models, inputs[rows], options.repeats, progress)
    measured = [
        row_of(
            name,
            f"latency, p{percentile}, {_rows(rows)}",
            "ms",
            {role: latency(samples, percentile) for role, samples in times.items()},
            n=options.repeats,
        )
        for name, percentile in (("latency_ms", 50), ("latency_p90_ms", 90))
    ]
    for name, size in options.throughput_names.items():
        calls = throughput_calls(options.repeats, size)
        times = alternate(models, inputs[size], calls, progress)
        values = {role: throughput(samples, size) for role, samples in times.items()}
        label = f"throughput, {_rows(size)} a call"
        measured.append(row_of(name, label, "rows/s", values, higher_is_better=True, n=calls))
    return measured


def _memory(
    options: BenchmarkOptions,
    contenders: Mapping[str, Contender],
    inputs: Mapping[int, Mapping[str, Arrays]],
    progress: Progress,
) -> list[Measurement]:
    roles = [role for role in contenders if role != "published"]
    used = {
        role: peak_memory(
            contenders[role].checkpoint, [arrays[role] for arrays in inputs.values()], threads_of(options)
        )
        for role in progress.track(roles, len(roles), "processes for memory")
    }
    most = _rows(max(inputs))
    whole = {role: Value(use.peak_bytes) for role, use in used.items()}
    model = {role: Value(use.model_bytes) for role, use in used.items()}
    return [
        row_of("peak_memory_bytes", f"peak memory, {most}", "bytes", whole),
        row_of("model_memory_bytes", "memory beyond the libraries", "bytes", model),
    ]


def row_of(
    name: str,
    label: str,
    unit: str,
    values: Mapping[str, Value],
    *,
    higher_is_better: bool = False,
    n: int | None = None,
) -> Measurement:
    """Return a cost from its values by role."""
    return Measurement(
        name,
        label,
        unit,
        higher_is_better=higher_is_better,
        compressed=values["compressed"],
        source=values["source"],
        as_published=values.get("published"),
        n=n,
    )


def threads_of(options: BenchmarkOptions) -> int:
    """Return the threads that calls use."""
    return options.threads or default_threads()


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
