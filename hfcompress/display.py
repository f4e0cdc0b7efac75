"""How the command line shows a run: a live display on a terminal, plain lines elsewhere, and tables."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from hfcompress.contracts import Measurement, Progress
from hfcompress.report import describe_change, format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import TaskID

    from hfcompress.contracts import Value
    from hfcompress.inspection import Anatomy
    from hfcompress.pipeline import Plan
    from hfcompress.report import Report

__all__ = ["LineProgress", "TerminalProgress", "anatomy_tables", "plan_table", "report_table"]

_MEGA = 1e6


class LineProgress(Progress):
    """One line for each stage, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def stage(self, name: str) -> None:
        """Print the stage and the seconds since the start."""
        self._console.print(f"[{time.monotonic() - self._start:7.1f} s] {name}", markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Print the note under its stage."""
        self._console.print(f"            {text}", markup=False, highlight=False, soft_wrap=True)


class TerminalProgress(Progress):
    """A live display: every stage with its time, and a bar for the rows, batches or layers of the current one."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._stage: TaskID | None = None

    def __enter__(self) -> TerminalProgress:
        """Start the display."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        self._bars.stop()

    def stage(self, name: str) -> None:
        """Tick off the stage before and show this one."""
        self.finish()
        self._stage = self._bars.add_task(f"[bold]{escape(name)}[/]", total=1)

    def finish(self) -> None:
        """Tick off the last stage."""
        if self._stage is not None:
            self._bars.update(self._stage, completed=1)
            self._stage = None

    def track(self, items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        """Show a bar while the items are worked through."""
        bar = self._bars.add_task(f"  {escape(label)}", total=total)
        for item in items:
            yield item
            self._bars.advance(bar)
        self._bars.remove_task(bar)

    def note(self, text: str) -> None:
        """Print the note above the bars."""
        self._bars.console.print(f"  {escape(text)}", highlight=False)


def report_table(report: Report) -> Table:
    """Return source, result and change of every measurement."""
    table = Table(title=escape(f"{report.source.id} → {report.artifact.format}"), title_justify="left")
    table.add_column("measurement")
    published = any(row.as_published is not None for row in report.measurements)
    if published:
        table.add_column("source, as published", justify="right")
    table.add_column("source, float32 in this runtime" if published else "source", justify="right")
    table.add_column("compressed", justify="right")
    table.add_column("change")
    for row in report.measurements:
        values = [row.as_published] if published else []
        cells = [_cell(row, value) for value in (*values, row.source, row.compressed)]
        table.add_row(row.label + (f" (n = {row.n})" if row.n else ""), *cells, describe_change(row))
    for gate in report.failed_gates:
        table.caption = f"[bold red]gate not met:[/] {escape(gate.detail)}"
    return table


def _cell(row: Measurement, value: Value | None) -> str:
    return "" if value is None else format_value(value.value, row.unit)


def plan_table(plan: Plan) -> Table:
    """Return what each step will change, and the predicted parameters and size after it."""
    table = Table(title=escape(f"{plan.source.id} @ {plan.source.revision[:12]}"), title_justify="left")
    for name in ("step", "what it will change"):
        table.add_column(name)
    for name in ("parameters", "weights, predicted"):
        table.add_column(name, justify="right")
    for index, forecast in enumerate(plan.forecasts):
        table.add_row(
            str(index) if index else "source",
            escape("\n".join(forecast.changes)) if index else escape(forecast.config.model_type),
            f"{forecast.parameters:,}",
            f"{forecast.size_bytes / _MEGA:.1f} MB",
        )
    return table


def anatomy_tables(anatomy: Anatomy) -> tuple[Table, Table]:
    """Return the towers with their axes, and the runtimes."""
    towers = Table(
        title=escape(f"{anatomy.id} ({anatomy.architecture}, {anatomy.parameters:,} parameters)"), title_justify="left"
    )
    for name in ("tower", "module", "parameters", "axis", "sizes", "stock configuration"):
        towers.add_column(name)
    for tower in anatomy.towers:
        for axis in tower.axes:
            towers.add_row(
                tower.name,
                escape(tower.module),
                f"{tower.parameters:,}",
                axis.name,
                _runs(axis.sizes),
                escape(axis.obstacle or "\n".join(axis.config_edits)),
            )
    runtimes = Table()
    for name in ("runtime", "available", "how"):
        runtimes.add_column(name)
    for runtime in anatomy.runtimes:
        runtimes.add_row(runtime.name, "yes" if runtime.available else "no", escape(runtime.detail))
    return towers, runtimes


def _runs(sizes: tuple[int, ...]) -> str:
    """Write "3072 x 12" instead of twelve numbers."""
    distinct = dict.fromkeys(sizes)
    return ", ".join(f"{size} x {sizes.count(size)}" for size in distinct)
