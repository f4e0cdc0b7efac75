"""Pictures for the model card, drawn from a report alone and the same for equal reports.

`canvas` says how they look; pictures of a model's parts are in `part_plots`.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from matplotlib import style
from matplotlib.lines import Line2D

from hfcompress.canvas import (
    GRID,
    INK,
    PUBLISHED,
    RESULT,
    SOURCE,
    STYLE,
    Picture,
    blank,
    save,
    shown,
    tidy,
    write_number,
    write_title,
)
from hfcompress.changes import describe_change, format_value
from hfcompress.part_plots import (
    draw_bytes,
    draw_costs,
    draw_removals,
    removals,
    sensitivities,
    tower_in_words,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hfcompress.contracts import Measurement, Value
    from hfcompress.report import Report

__all__ = ["EXPORTS", "draw_pictures"]

EXPORTS = {"onnx": "float32 ONNX", "openvino": "float32 OpenVINO", "transformers": "torch"}
"""What the source is called in the artifact's own runtime."""


def draw_pictures(report: Report, folder: Path) -> tuple[Picture, ...]:
    """Draw what the report allows into `folder/assets`, and return the pictures in the order of the card.

    `before_after.png` shows each quality measure with its 95 % interval, `size_latency.png` size and latency of the
    source as published, the source in float32 in the artifact's runtime, and the result, `tradeoff.png` the first
    score against latency, `bytes.png` what the weights of each tower take, `removal.png` what pruning removed of each
    layer, and `sensitivity.png` what it costs to quantize each node or block alone. A picture for which the report has
    no numbers is left out.
    """
    quality = [row for row in report.measurements if row.task is not None]
    costs = [row for row in report.measurements if row.name in {"size_bytes", "latency_ms"}]
    pictures = []
    with style.context(["default", STYLE]):
        if quality:
            save(_before_after(quality), folder / "assets" / "before_after.png")
            alt = "Quality before and after. " + " ".join(_in_words(row) for row in quality)
            pictures.append(Picture("assets/before_after.png", alt))
        if costs:
            name = EXPORTS[report.artifact.format]
            save(_size_latency(costs, name), folder / "assets" / "size_latency.png")
            alt = "Size and speed. " + " ".join(_in_words(row, name) for row in costs)
            pictures.append(Picture("assets/size_latency.png", alt))
        if both := _scored_and_timed(report):
            save(_tradeoff(*both), folder / "assets" / "tradeoff.png")
            alt = "Quality against speed. " + " ".join(_in_words(row) for row in both)
            pictures.append(Picture("assets/tradeoff.png", alt))
        if len(report.towers) > 1:
            save(draw_bytes(report.towers), folder / "assets" / "bytes.png")
            alt = "Where the bytes are. " + " ".join(map(tower_in_words, report.towers))
            pictures.append(Picture("assets/bytes.png", alt))
        if removed := removals(report):
            save(draw_removals(removed), folder / "assets" / "removal.png")
            alt = "What pruning removed of each layer. " + " ".join(row.in_words() for row in removed)
            pictures.append(Picture("assets/removal.png", alt))
        if measured := list(sensitivities(report)):
            save(draw_costs(measured), folder / "assets" / "sensitivity.png")
            alt = "What it costs to quantize each part alone. " + " ".join(row.in_words() for row in measured)
            pictures.append(Picture("assets/sensitivity.png", alt))
    return tuple(pictures)


def _before_after(rows: list[Measurement]) -> Figure:
    """Draw points with intervals, one line a measure and one panel a unit."""
    units = list(dict.fromkeys(row.unit for row in rows))
    panels = [[row for row in rows if row.unit == unit] for unit in units]
    figure = blank(0.75 + sum(0.6 * len(panel) + 0.45 for panel in panels))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(panel) for panel in panels])[:, 0]
    for axis, panel, unit in zip(axes, panels, units, strict=True):
        for line, row in enumerate(panel):
            apart = 0.0 if row.source is None else 0.17
            if row.source is not None:
                _point(axis, row.source, unit, height=line - apart, colour=SOURCE, marker="o")
            _point(axis, row.compressed, unit, height=line + apart, colour=RESULT, marker="D")
        axis.set_ylim(len(panel) - 0.45, -0.55)
        axis.set_yticks(range(len(panel)), [_with_n(row) for row in panel])
        _score_axis(axis, panel, unit)
        tidy(axis)
    handles = [
        Line2D([], [], color=SOURCE, marker="o", label="source"),
        Line2D([], [], color=RESULT, marker="D", label="compressed"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    write_title(figure, "Quality, with 95 % intervals")
    return figure


def _point(axis: Axes, value: Value, unit: str, *, height: float, colour: str, marker: str) -> None:
    right = value.value
    if value.low is not None and value.high is not None:
        right = value.high
        axis.plot([value.low, value.high], [height, height], color=colour, linewidth=2.2)
    axis.plot([value.value], [height], color=colour, marker=marker, markersize=7, linestyle="none")
    write_number(axis, format_value(value.value, unit), (right, height), colour)


def _score_axis(axis: Axes, rows: list[Measurement], unit: str) -> None:
    """Fit the axis to the numbers, with room for the rightmost label and no tick beyond a perfect score."""
    numbers = [number for row in rows for number in _numbers(row)]
    low, high = min(numbers), max(numbers)
    pad = 0.08 * (high - low) or 0.01
    axis.set_xlim(low - pad, high + 3.2 * pad)
    most = 1.0 if unit in {"ratio", "cosine"} and high <= 1.0 else high + 3.2 * pad
    ticks = [float(tick) for tick in axis.get_xticks() if low - pad <= tick <= most]
    if unit == "ratio":
        axis.set_xticks(ticks, [f"{100 * tick:.4g} %" for tick in ticks])
    else:
        axis.set_xticks(ticks)
    if unit not in {"ratio", "cosine"}:
        axis.set_xlabel(shown(unit, 20), loc="right")


def _size_latency(rows: list[Measurement], export: str) -> Figure:
    """Draw horizontal bars from zero, one panel a quantity."""
    kinds: dict[str, tuple[list[Value | None], str]] = {
        "source, as published (torch)": ([row.as_published for row in rows], PUBLISHED),
        f"source, {export}": ([row.source for row in rows], SOURCE),
        "compressed": ([row.compressed for row in rows], RESULT),
    }
    kinds = {name: bars for name, bars in kinds.items() if any(bars[0])}
    figure = blank(0.65 + 0.5 * len(kinds))
    axes = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for column, (axis, row) in enumerate(zip(axes, rows, strict=True)):
        most = 0.0
        for line, (values, colour) in enumerate(kinds.values()):
            value = values[column]
            if value is None:
                write_number(axis, "not measured", (0.0, line), INK)
                continue
            right = value.value
            axis.barh(line, value.value, color=colour, height=0.62)
            if value.low is not None and value.high is not None:
                right = value.high
                axis.plot([value.low, value.high], [line, line], color=INK, linewidth=1.6)
            write_number(axis, format_value(value.value, row.unit), (right, line), INK)
            most = max(most, right)
        axis.set_xlim(0, 1.35 * most or 1.0)
        axis.set_ylim(len(kinds) - 0.45, -0.55)
        axis.set_xticks([])
        axis.set_yticks(range(len(kinds)), list(kinds))
        axis.set_title(textwrap.fill(_with_n(row), 36), loc="left", fontsize=10, fontweight="bold")
        tidy(axis)
        axis.spines["bottom"].set_visible(False)
    return figure


def _scored_and_timed(report: Report) -> tuple[Measurement, Measurement] | None:
    """Return the first score that the source has too, and the latency, where both were measured."""
    score = next((row for row in report.measurements if row.task is not None and row.source is not None), None)
    timed = next((row for row in report.measurements if row.name == "latency_ms" and row.source is not None), None)
    return None if score is None or timed is None else (score, timed)


def _tradeoff(score: Measurement, timed: Measurement) -> Figure:
    """Draw source and result as points with intervals both ways, time to the right and quality upwards."""
    figure = blank(3.4)
    axis = figure.subplots()
    models = [(score.compressed, timed.compressed, "compressed", RESULT, "D")]
    if score.source is not None and timed.source is not None:
        models.insert(0, (score.source, timed.source, "source", SOURCE, "o"))
    for quality, time, _, colour, _ in models:
        if time.low is not None and time.high is not None:
            axis.plot([time.low, time.high], [quality.value] * 2, color=colour, linewidth=2.2)
        if quality.low is not None and quality.high is not None:
            axis.plot([time.value] * 2, [quality.low, quality.high], color=colour, linewidth=2.2)
    for quality, time, name, colour, marker in models:
        axis.plot([time.value], [quality.value], color=colour, marker=marker, markersize=8, linestyle="none")
        told = f"{name}\n{format_value(quality.value, score.unit)}, {format_value(time.value, timed.unit)}"
        axis.annotate(
            told, (time.value, quality.value), (10, 9), textcoords="offset points", color=colour, fontsize=9.5
        )
    most = max(time.high or time.value for _, time, *_ in models)
    axis.set_xlim(0, 1.3 * most or 1.0)
    axis.margins(y=0.3)
    if score.unit == "ratio":
        low, high = axis.get_ylim()
        best = max(quality.high or quality.value for quality, *_ in models)
        ticks = [float(tick) for tick in axis.get_yticks() if low <= tick <= max(1.0, best)]
        axis.set_yticks(ticks, [f"{100 * tick:.4g} %" for tick in ticks])
        axis.set_ylim(low, high)
    if not score.higher_is_better:
        axis.invert_yaxis()
    axis.set_xlabel(f"{shown(timed.label)} ({timed.unit}); further left is faster", loc="left")
    axis.set_title(f"{_with_n(score)}; further up is better", loc="left", fontsize=10, fontweight="bold")
    tidy(axis)
    axis.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    return figure


def _numbers(row: Measurement) -> Iterator[float]:
    for value in (row.source, row.compressed):
        if value is not None:
            yield from (number for number in (value.low, value.value, value.high) if number is not None)


def _with_n(row: Measurement) -> str:
    label = shown(row.label)
    return label if row.n is None else f"{label} (n = {row.n})"


def _in_words(row: Measurement, export: str = "") -> str:
    """Return one sentence with the row's values."""
    values = [("compressed", row.compressed)]
    if row.source is not None:
        values.insert(0, (f"source in {export}" if export else "source", row.source))
    if row.as_published is not None:
        values.insert(0, ("source as published", row.as_published))
    told = ", ".join(f"{name} {format_value(value.value, row.unit)}" for name, value in values)
    outcome = describe_change(row)
    return f"{shown(row.label)}: {told}{f', {outcome}' if outcome else ''}."
