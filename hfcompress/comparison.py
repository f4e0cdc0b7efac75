"""Two models of any runtimes side by side: what each costs on this machine."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hfcompress.changes import change
from hfcompress.contracts import Format, Measurement, Progress, Value
from hfcompress.cost_details import TowerFlops, Unmeasured
from hfcompress.costs import FLOPS_LABELS, Contender, flop_measurements, row_of, run_measurements, threads_of
from hfcompress.environment import environment_record
from hfcompress.errors import CheckpointError, UnknownNameError, UsageError
from hfcompress.flops import FlopCount, flops_by_tower
from hfcompress.hub import download_all, resolve_model
from hfcompress.recipe import BenchmarkOptions
from hfcompress.registry import did_you_mean
from hfcompress.report import FILE_NAME, Report
from hfcompress.runtimes import checkpoint_at, runtime_of
from hfcompress.sizes import files_of, parameters_of
from hfcompress.validation import mistakes_of, validated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfcompress.contracts import Checkpoint

__all__ = ["Compared", "Comparison", "benchmark"]


@dataclass(frozen=True)
class Compared:
    """One of the two models.

    Attributes:
        id: Hub id, or the folder's name.
        revision: Commit sha of a Hub repository, the content fingerprint of a local folder.
        format: What kind of checkpoint it is.
        load_with: The class that loads it.
        inputs: Shape of each input of a call whose latency is measured.
        files: Bytes of each file that loading it takes.
    """

    id: str
    revision: str
    format: Format
    load_with: str
    inputs: dict[str, tuple[int, ...]]
    files: dict[str, int]


@dataclass(frozen=True)
class Comparison:
    """What two models cost; `comparison["latency_ms"]` is one of the measurements.

    Attributes:
        a: The model that the other is compared with.
        b: The other.
        measurements: In each of them `source` is the value of `a` and `compressed` that of `b`.
        tower_flops: Operations by tower, in the same way; empty where they could not be counted.
        unmeasured: What is missing among the measurements, and why.
        environment: The machine and the versions of libraries.
    """

    a: Compared
    b: Compared
    measurements: tuple[Measurement, ...]
    tower_flops: tuple[TowerFlops, ...]
    unmeasured: tuple[Unmeasured, ...]
    environment: dict[str, str | int]

    def __getitem__(self, name: str) -> Measurement:
        """Return the measurement of that name.

        Raises:
            UnknownNameError: It was not measured.
        """
        named = {row.name: row for row in self.measurements}
        if name not in named:
            why = "".join(f" ({row.reason})" for row in self.unmeasured if row.name == name)
            msg = f"{name!r} was not measured{why}{did_you_mean(name, named)}; there are: {', '.join(named)}"
            raise UnknownNameError(msg)
        return named[name]

    def to_json(self) -> str:
        """Return all of it as JSON: each measurement has the values of `a` and `b` and how many times better `b` is."""
        record: dict[str, Any] = dataclasses.asdict(self)
        record["measurements"] = [
            {
                "name": row.name,
                "label": row.label,
                "unit": row.unit,
                "higher_is_better": row.higher_is_better,
                "n": row.n,
                "a": None if row.source is None else dataclasses.asdict(row.source),
                "b": dataclasses.asdict(row.compressed),
                "ratio": change(row).ratio,
            }
            for row in self.measurements
        ]
        record["tower_flops"] = [{"name": row.name, "a": row.source, "b": row.compressed} for row in self.tower_flops]
        return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def benchmark(
    a: str | Path,
    b: str | Path,
    *,
    progress: Progress | None = None,
    **options: Any,  # noqa: ANN401 - validated by the recipe's own options
) -> Comparison:
    """Measure what two models cost, side by side on this machine: size, operations, latency, throughput, memory.

    Each is run in the runtime that its folder is for, on random inputs of its own shape, so that an ONNX export can be
    compared with a torch checkpoint, or two models of different sizes with each other. Parameters and operations of
    an export are those of its report. What the models are worth is `hfcompress.evaluate`'s to tell.

    Args:
        a: Folder or Hub id; `id@revision` for a branch, tag or commit of the latter.
        b: What is compared with it.
        progress: Hears how far it is.
        options: Those of `benchmark` in a recipe: `batch_size`, `repeats`, `threads`, `throughput_batch_sizes`,
            `memory`.

    Raises:
        UsageError: An option is none of these, or a value is not what it takes.
        CheckpointError: One of the two holds nothing that can be loaded.
        HubError: The Hub refused or could not be reached.
        RunError: A process that measures memory failed.
    """
    chosen, progress = _chosen(options), progress or Progress()
    progress.stage("load")
    named = {role: _looked_up(name, chosen) for role, name in (("source", a), ("compressed", b))}
    contenders = {role: contender for role, (contender, _) in named.items()}
    progress.stage("count")
    counted, tower_flops, unmeasured = _counts({role: contender.checkpoint for role, contender in contenders.items()})
    sizes = {role: Value(sum(compared.files.values())) for role, (_, compared) in named.items()}
    progress.stage("benchmark")
    measured = run_measurements(chosen, contenders, progress)
    return Comparison(
        named["source"][1],
        named["compressed"][1],
        (row_of("size_bytes", "size on disk", "bytes", sizes), *counted, *measured),
        tower_flops,
        unmeasured,
        environment_record(threads_of(chosen)),
    )


def _chosen(options: dict[str, Any]) -> BenchmarkOptions:
    try:
        return validated(BenchmarkOptions, options)
    except ValidationError as error:
        mistakes = mistakes_of(error, BenchmarkOptions, options)
        lines = [f"{'.'.join(map(str, mistake.path))}: {mistake.message}" for mistake in mistakes]
        raise UsageError("\n".join(lines)) from error


def _looked_up(name: str | Path, options: BenchmarkOptions) -> tuple[Contender, Compared]:
    """Fetch a model and say what it is."""
    repo, _, revision = str(name).partition("@")
    if Path(name).is_dir():
        repo, revision = str(name), ""
    source = resolve_model(repo, revision or "main")
    checkpoint = checkpoint_at(download_all(source))
    contender = Contender(checkpoint, checkpoint.path)
    load_with = runtime_of(checkpoint.format).load_class(checkpoint.path)
    return contender, Compared(
        source.id,
        source.revision,
        checkpoint.format,
        load_with,
        contender.shapes(options.batch_size),
        files_of(checkpoint),
    )


def _counts(
    checkpoints: Mapping[str, Checkpoint],
) -> tuple[tuple[Measurement, ...], tuple[TowerFlops, ...], tuple[Unmeasured, ...]]:
    """Count parameters and operations, or say why that cannot be."""
    named = dict(zip(("A", "B"), checkpoints.values(), strict=True))
    operations, towers, unmeasured = flop_measurements(
        {name: partial(_flops, checkpoint) for name, checkpoint in named.items()}
    )
    values: dict[str, Value] = {}
    for role, name in zip(checkpoints, named, strict=True):
        try:
            values[role] = Value(_parameters(named[name]))
        except CheckpointError as error:
            reason = Unmeasured("parameters", f"they cannot be counted for {name}: {error}")
            return operations, towers, (reason, *unmeasured)
    return (row_of("parameters", "parameters", "count", values), *operations), towers, unmeasured


def _parameters(checkpoint: Checkpoint) -> float:
    if checkpoint.format == "transformers":
        return parameters_of(checkpoint.path)
    return _own_report(checkpoint)["parameters"].compressed.value


def _flops(checkpoint: Checkpoint) -> FlopCount:
    if checkpoint.format == "transformers":
        return flops_by_tower(checkpoint.path)
    report = _own_report(checkpoint)
    total, towers = report["flops"], report.cost_details.tower_flops if report.cost_details else ()
    return FlopCount(
        int(total.compressed.value),
        {row.name: row.compressed for row in towers if row.compressed is not None},
        is_whole=total.label == FLOPS_LABELS[True],
    )


def _own_report(checkpoint: Checkpoint) -> Report:
    """Return the report that an export of hfcompress brings along, where it tells of the very files that lie there.

    Raises:
        CheckpointError: There is none, or it tells of others.
    """
    if not (checkpoint.path / FILE_NAME).is_file():
        msg = f"it is an export ({checkpoint.format}), of which only a {FILE_NAME} of hfcompress would tell"
        raise CheckpointError(msg)
    report = Report.load(checkpoint.path)
    if not files_of(checkpoint).items() <= report.artifact.files.items():
        msg = f"it is an export ({checkpoint.format}) whose files are not those of its {FILE_NAME}"
        raise CheckpointError(msg)
    return report
