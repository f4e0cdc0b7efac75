"""How the command line shows a run: a live display on a terminal, plain lines elsewhere, and tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape as literal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from hfcompress.changes import describe_change, format_value, is_within_noise
from hfcompress.contracts import Format, Measurement, Progress
from hfcompress.redaction import readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console, RenderableType
    from rich.progress import Task, TaskID
    from typing_extensions import Self

    from hfcompress.comparison import Comparison
    from hfcompress.contracts import Value
    from hfcompress.cost_details import Unmeasured
    from hfcompress.hub import PushPlan
    from hfcompress.inspection import Anatomy, TowerRecord
    from hfcompress.pipeline import Plan
    from hfcompress.registry import Registry
    from hfcompress.report import Report
    from hfcompress.reproduction import Reproduction

__all__ = [
    "LineProgress",
    "TerminalProgress",
    "anatomy_tables",
    "comparison_table",
    "plan_table",
    "push_lines",
    "registry_table",
    "report_table",
    "reproduction_table",
]

_MEGA = 1e6
_SOURCES: dict[Format, str] = {"transformers": "source", "onnx": "float32 ONNX", "openvino": "float32 OpenVINO"}
"""Title of the column with the source's values: what it is in the artifact's own runtime."""


def _text(text: str) -> str:
    """Return text from outside as a terminal may show it: neither rich's markup nor its own codes act."""
    return literal(readable(text))


class LineProgress(Progress):
    """One line for each stage, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def stage(self, name: str) -> None:
        """Print the stage and the seconds since the start."""
        self._console.print(
            f"[{time.monotonic() - self._start:7.1f} s] {readable(name)}", markup=False, highlight=False
        )

    def note(self, text: str) -> None:
        """Print the note under its stage."""
        self._console.print(f"            {readable(text)}", markup=False, highlight=False, soft_wrap=True)


class _Counted(ProgressColumn):
    """A column that is empty for a stage, of which nobody knows how much is done."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> RenderableType:
        """Return the column's cell for what is counted."""
        return self._column.render(task) if task.fields.get("counted") else ""


class TerminalProgress(Progress):
    """A live display: every stage with its time; for the current one what is done, of how much, and the time left."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            *(_Counted(column) for column in (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())),
            console=console,
        )
        self._stage: TaskID | None = None

    def __enter__(self) -> Self:
        """Start the display."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        self._bars.stop()

    def stage(self, name: str) -> None:
        """Tick off the stage before and show this one."""
        self.finish()
        self._stage = self._bars.add_task(f"[bold]{_text(name)}[/]", total=1)

    def finish(self) -> None:
        """Tick off the last stage."""
        if self._stage is not None:
            self._bars.update(self._stage, completed=1)
            self._stage = None

    def track(self, items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        """Show a bar while the items are worked through."""
        bar = self._bars.add_task(f"  {_text(label)}", total=total, counted=True)
        for item in items:
            yield item
            self._bars.advance(bar)
        self._bars.remove_task(bar)

    def note(self, text: str) -> None:
        """Print the note above the bars."""
        self._bars.console.print(f"  {_text(text)}", highlight=False)


def report_table(report: Report) -> Table:
    """Return source, result and change of every measurement."""
    published = any(row.as_published is not None for row in report.measurements)
    title = _text(f"{report.source.id} → {report.artifact.format}")
    table = _table(f"{title}: [bold red]{' and '.join(report.shortfalls)}[/]" if report.shortfalls else title)
    table.add_column("")
    for name in ("n", *(["torch"] if published else []), _SOURCES[report.artifact.format], "compressed"):
        table.add_column(name, justify="right")
    table.add_column("change")
    for row in report.measurements:
        values = (*([row.as_published] if published else []), row.source, row.compressed)
        table.add_row(
            _text(row.label),
            "" if row.n is None else str(row.n),
            *(_cell(row, value) for value in values),
            _change(row),
        )
    _write_below(table, _missing(report.cost_details.unmeasured if report.cost_details else ()))
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return what two models cost, and what becomes of it from the first to the second."""
    sides = {"A": comparison.a, "B": comparison.b}
    table = _table("\n".join(_text(f"{name}: {side.id}, {side.load_with}") for name, side in sides.items()))
    table.add_column("")
    for name in ("n", *sides):
        table.add_column(name, justify="right")
    table.add_column("change")
    for row in comparison.measurements:
        n = "" if row.n is None else str(row.n)
        table.add_row(_text(row.label), n, _cell(row, row.source), _cell(row, row.compressed), _change(row))
    machine = f"{comparison.environment['cpu']}, threads: {comparison.environment['threads']}"
    shapes = [f"{name} takes {_shapes(side.inputs)}" for name, side in sides.items()]
    apart = shapes if comparison.a.inputs != comparison.b.inputs else []
    _write_below(table, [machine, *apart, *_missing(comparison.unmeasured)])
    return table


def _shapes(inputs: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in inputs.items())


def _missing(unmeasured: Iterable[Unmeasured]) -> list[str]:
    return [f"no {row.name}: {row.reason}" for row in unmeasured]


def _write_below(table: Table, lines: list[str]) -> None:
    table.caption = _text("\n".join(lines)) or None
    table.caption_justify = "left"


def _change(row: Measurement) -> str:
    """Return what became of a quantity, and whether that can be chance."""
    told = describe_change(row)
    return f"{told}, within noise" if row.difference and row.difference.value and is_within_noise(row) else told


def _table(title: str | None = None) -> Table:
    """Return a table that leaves the width of a small terminal to its cells."""
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _cell(row: Measurement, value: Value | None) -> str:
    return "" if value is None else _text(format_value(value.value, row.unit))


def reproduction_table(found: Reproduction) -> Table:
    """Return each published value, its interval, and the same measured again."""
    artifact = found.published.artifact
    table = _table(_text(f"{artifact.repo or found.published.source.id}, measured again"))
    for name in ("", "of"):
        table.add_column(name)
    for name in ("published", "95 % interval", "again"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in found.rows:
        low, high = row.published.low, row.published.high
        interval = (
            "" if low is None or high is None else " to ".join(format_value(end, row.unit) for end in (low, high))
        )
        table.add_row(
            _text(row.label),
            row.model,
            format_value(row.published.value, row.unit),
            interval,
            "" if row.again is None else format_value(row.again.value, row.unit),
            f"[bold red]{row.verdict}[/]" if row in found.differing else row.verdict,
        )
    return table


def plan_table(plan: Plan) -> Table:
    """Return what each step will change, and the predicted parameters and size after it."""
    table = _table(_text(f"{plan.source.id} @ {plan.source.revision[:12]}"))
    table.add_column("step")
    table.add_column("what it will change", overflow="fold")
    for name in ("parameters", "weights"):
        table.add_column(name, justify="right")
    for index, forecast in enumerate(plan.forecasts):
        table.add_row(
            str(index) if index else "source",
            _text("\n".join(forecast.changes)) if index else _text(forecast.config.model_type),
            f"{forecast.parameters:,}",
            f"{forecast.size_bytes / _MEGA:.1f} MB",
        )
    memory = f"memory at the peak of the run, estimated: {format_value(plan.memory_bytes, 'bytes')}"
    code = "trust_remote_code: the source's own code runs\n" if plan.source.remote_code else ""
    table.caption = code + memory
    table.caption_justify = "left"
    return table


def push_lines(plan: PushPlan) -> Iterator[str]:
    """Yield what a push would do: where to, its commit, and a line for each file."""
    yield f"{plan.repo} ({'exists' if plan.exists else 'would be made'}), in one commit: {plan.message}"
    for file in plan.files:
        yield f"{file.state:<9}  {file.size_bytes:>14,} bytes  {file.path}"
    yield ""


def anatomy_tables(anatomy: Anatomy) -> tuple[Table, ...]:
    """Return a table of each tower's axes, and one of the runtimes."""
    towers = [_tower_table(tower, anatomy.flop_tokens) for tower in anatomy.towers]
    runtimes = _table(_text(f"{anatomy.id} ({_cost(anatomy.architecture, anatomy.parameters, anatomy.flops)})"))
    for name in ("runtime", "available", "how"):
        runtimes.add_column(name)
    for runtime in anatomy.runtimes:
        runtimes.add_row(runtime.name, "yes" if runtime.available else "no", _text(runtime.detail))
    return runtimes, *towers


def _tower_table(tower: TowerRecord, flop_tokens: int) -> Table:
    """Return what a tower can lose, and what it takes to load afterwards."""
    costs = _cost(tower.module or "the whole model", tower.parameters, tower.flops)
    table = _table(f"[bold]{_text(tower.name)}[/] ({_text(costs)})")
    table.caption = f"FLOPs: one row, texts of {flop_tokens} tokens" if tower.flops is not None else None
    table.caption_justify = "left"
    for name in ("axis", "sizes", "goes by", "pruned, it loads"):
        table.add_column(name, overflow="fold")
    table.add_column("for example half of it, or most blocks", overflow="fold", ratio=1)
    for axis in tower.axes:
        how = axis.obstacle or "\n".join(axis.config_edits) or "recorded beside the configuration"
        table.add_row(_text(axis.name), _runs(axis.sizes), axis.granularity, axis.verdict, _text(how))
    return table


def _cost(what: str, parameters: int, flops: int | None) -> str:
    operations = "" if flops is None else f", {format_value(flops, 'count')}FLOPs"
    return f"{what}, {parameters:,} parameters{operations}"


def registry_table(registries: Iterable[Registry[object]]) -> Table:
    """Return every registered name and who provides it."""
    table = _table()
    for column in ("kind", "name", "provider"):
        table.add_column(column, overflow="fold")
    for registry in registries:
        for name in registry:
            table.add_row(registry.noun, _text(name), _text(registry.provider(name)))
    return table


def _runs(sizes: tuple[int, ...]) -> str:
    """Write "3072 x 12" instead of twelve numbers."""
    distinct = dict.fromkeys(sizes)
    return ", ".join(f"{size} x {sizes.count(size)}" for size in distinct)
