"""Pictures for the model card, drawn from a report alone and the same for equal reports.

Each picture brings its own white ground, so it reads on light and dark pages alike. The colours are those of Okabe
and Ito (2008), which readers with any kind of colour vision can tell apart; shape or position tells the same again.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hfcompress.changes import describe_change, format_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from hfcompress.contracts import Measurement, Value
    from hfcompress.report import Report

__all__ = ["EXPORTS", "Picture", "draw_pictures", "shown"]

SOURCE, PUBLISHED, RESULT, INK, GRID = "#0072B2", "#7F7F7F", "#D55E00", "#1A1A1A", "#D9D9D9"
EXPORTS = {"onnx": "float32 ONNX", "openvino": "float32 OpenVINO", "transformers": "torch"}
"""What the source is called in the artifact's own runtime."""
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "text.parse_math": False,
}
LOSSES = {
    "cosine": "1 \u2212 mean cosine to the float graph's outputs",
    "top1_agreement": "share of outputs whose largest entry moves",
    "sqnr": "power of the error as a share of the signal's",
}
"""What a loss of each metric of an accuracy budget is."""
OPERATORS = ("/MatMul", "/Gemm", "/Gather", "/Conv")
MOST_BARS = 20
LABEL_LENGTH = 52
WIDTH_INCHES = 8.0
DPI = 150


@dataclass(frozen=True)
class Picture:
    """A picture beside the card.

    Attributes:
        path: Where it lies, relative to the card.
        alt: What it shows, in words, for readers who do not see it.
    """

    path: str
    alt: str


def draw_pictures(report: Report, folder: Path) -> tuple[Picture, ...]:
    """Draw what the report allows into `folder/assets`, and return the pictures in the order of the card.

    `before_after.png` shows each quality measure with its 95 % interval, `size_latency.png` size and latency of the
    source as published, the source in float32 in the artifact's runtime, and the result, `sensitivity.png` what it
    costs to quantize each node or block alone. A picture for which the report has no numbers is left out.
    """
    quality = [row for row in report.measurements if row.task is not None]
    costs = [row for row in report.measurements if row.name in {"size_bytes", "latency_ms"}]
    pictures = []
    with style.context(["default", STYLE]):
        if quality:
            _save(_before_after(quality), folder / "assets" / "before_after.png")
            alt = "Quality before and after. " + " ".join(_in_words(row) for row in quality)
            pictures.append(Picture("assets/before_after.png", alt))
        if costs:
            name = EXPORTS[report.artifact.format]
            _save(_size_latency(costs, name), folder / "assets" / "size_latency.png")
            alt = "Size and speed. " + " ".join(_in_words(row, name) for row in costs)
            pictures.append(Picture("assets/size_latency.png", alt))
        if measured := list(_sensitivities(report)):
            _save(_costs(measured), folder / "assets" / "sensitivity.png")
            alt = "What it costs to quantize each part alone. " + " ".join(row.in_words() for row in measured)
            pictures.append(Picture("assets/sensitivity.png", alt))
    return tuple(pictures)


def shown(text: str, limit: int = 60) -> str:
    """Return text from outside as one line of printable characters, cut to `limit` of them."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def _before_after(rows: list[Measurement]) -> Figure:
    """Draw points with intervals, one line a measure and one panel a unit."""
    units = list(dict.fromkeys(row.unit for row in rows))
    panels = [[row for row in rows if row.unit == unit] for unit in units]
    figure = _figure(0.75 + sum(0.6 * len(panel) + 0.45 for panel in panels))
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
        _tidy(axis)
    handles = [
        Line2D([], [], color=SOURCE, marker="o", label="source"),
        Line2D([], [], color=RESULT, marker="D", label="compressed"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    figure.suptitle("Quality, with 95 % intervals", x=0.012, ha="left", fontweight="bold", fontsize=11)
    return figure


def _point(axis: Axes, value: Value, unit: str, *, height: float, colour: str, marker: str) -> None:
    right = value.value
    if value.low is not None and value.high is not None:
        right = value.high
        axis.plot([value.low, value.high], [height, height], color=colour, linewidth=2.2)
    axis.plot([value.value], [height], color=colour, marker=marker, markersize=7, linestyle="none")
    _number(axis, format_value(value.value, unit), (right, height), colour)


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
    figure = _figure(0.65 + 0.5 * len(kinds))
    axes = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for column, (axis, row) in enumerate(zip(axes, rows, strict=True)):
        most = 0.0
        for line, (values, colour) in enumerate(kinds.values()):
            value = values[column]
            if value is None:
                _number(axis, "not measured", (0.0, line), INK)
                continue
            right = value.value
            axis.barh(line, value.value, color=colour, height=0.62)
            if value.low is not None and value.high is not None:
                right = value.high
                axis.plot([value.low, value.high], [line, line], color=INK, linewidth=1.6)
            _number(axis, format_value(value.value, row.unit), (right, line), INK)
            most = max(most, right)
        axis.set_xlim(0, 1.35 * most or 1.0)
        axis.set_ylim(len(kinds) - 0.45, -0.55)
        axis.set_xticks([])
        axis.set_yticks(range(len(kinds)), list(kinds))
        axis.set_title(textwrap.fill(_with_n(row), 36), loc="left", fontsize=10, fontweight="bold")
        _tidy(axis)
        axis.spines["bottom"].set_visible(False)
    return figure


@dataclass(frozen=True)
class _Sensitivity:
    """What a quantizing step found of one graph.

    Attributes:
        graph: The graph's file.
        metric: What a loss is measured in.
        costs: Name of each part, its loss when quantized alone, and whether it was left in float, costliest first.
        before: Loss of the whole with all parts quantized.
        after: Loss of the whole as it is.
        max_drop: The most that it was allowed to be.
    """

    graph: str
    metric: str
    costs: list[tuple[str, float, bool]]
    before: float
    after: float
    max_drop: float

    def in_words(self) -> str:
        in_float = [_part(name) for name, _, left in self.costs if left]
        left = f"in float stay {', '.join(in_float)}" if in_float else "none stays in float"
        return (
            f"{shown(self.graph)}: of {len(self.costs)} parts {left}; the loss ({shown(self.metric)}) of the whole is "
            f"{self.after:.3g}, at most {self.max_drop:g} was allowed; all parts quantized would lose "
            f"{self.before:.3g}."
        )


def _sensitivities(report: Report) -> Iterator[_Sensitivity]:
    """Yield what the steps of a report found of each graph for which an accuracy budget was given."""
    for step in report.steps:
        graphs = step.detail.get("graphs")
        for graph, detail in graphs.items() if isinstance(graphs, dict) else ():
            found: Any = detail.get("sensitivity") if isinstance(detail, dict) else None
            if found:
                left = {row["name"] for row in found["in_float"]}
                costs = [(str(row["name"]), float(row["cost"]), row["name"] in left) for row in found["costs"]]
                loss = found["loss"]
                yield _Sensitivity(graph, found["metric"], costs, loss["before"], loss["after"], found["max_drop"])


def _costs(rows: list[_Sensitivity]) -> Figure:
    """Draw a bar for each of the costliest parts, one panel a graph."""
    shares = [row.costs[:MOST_BARS] for row in rows]
    figure = _figure(0.8 + sum(0.26 * len(share) + 0.75 for share in shares))
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=[len(share) + 2 for share in shares])[:, 0]
    for axis, row, share in zip(axes, rows, shares, strict=True):
        for line, (_, cost, in_float) in enumerate(share):
            axis.barh(
                line,
                cost,
                height=0.66,
                color=RESULT if in_float else SOURCE,
                hatch="///" if in_float else None,
                edgecolor="white",
                linewidth=0,
            )
            _number(axis, f"{cost:.2g}", (max(cost, 0.0), line), INK)
        axis.set_xlim(0, 1.15 * max(cost for _, cost, _ in share) or 1.0)
        axis.set_ylim(len(share) - 0.45, -0.55)
        axis.set_yticks(range(len(share)), [_part(name) for name, _, _ in share])
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
        hidden = len(row.costs) - len(share)
        more = f"\n{hidden} more cost {row.costs[len(share)][1]:.1g} or less each" if hidden else ""
        axis.set_xlabel(f"{LOSSES.get(row.metric, shown(row.metric, 30))}{more}", loc="left")
        axis.set_title(shown(row.graph), loc="left", fontsize=10, fontweight="bold")
        _tidy(axis)
    handles = [
        Patch(facecolor=SOURCE, label="quantized"),
        Patch(facecolor=RESULT, hatch="///", edgecolor="white", linewidth=0, label="left in float"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    figure.suptitle("What quantizing each part alone costs", x=0.012, ha="left", fontweight="bold", fontsize=11)
    return figure


def _part(name: str) -> str:
    """Return the name of a node or block without what all names share, cut from the left where it is long."""
    path = shown(name, 500).strip("/")
    path = path.rpartition("/")[0] or path if path.endswith(OPERATORS) else path
    return path if len(path) <= LABEL_LENGTH else "\u2026" + path[-LABEL_LENGTH + 1 :]


def _figure(height_inches: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    return Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout=layout, facecolor="white")


def _number(axis: Axes, text: str, at: tuple[float, float], colour: str) -> None:
    axis.annotate(text, at, xytext=(8, 0), textcoords="offset points", va="center", color=colour, fontsize=9.5)


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(length=0)
    axis.grid(visible=True, axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})


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
