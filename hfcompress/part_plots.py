"""Pictures of a model's parts: where the bytes went, what pruning removed, what quantizing each part costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Patch

from hfcompress.canvas import GRID, INK, RESULT, SOURCE, blank, shown, tidy, write_number, write_title
from hfcompress.changes import format_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hfcompress.report import Report, TowerBytes

__all__ = [
    "Removal",
    "Sensitivity",
    "draw_bytes",
    "draw_costs",
    "draw_removals",
    "removals",
    "sensitivities",
    "tower_in_words",
]

LOSSES = {
    "cosine": "1 \u2212 mean cosine to the float graph's outputs",
    "top1_agreement": "share of outputs whose largest entry moves",
    "sqnr": "power of the error as a share of the signal's",
}
"""What a loss of each metric of an accuracy budget is."""
OPERATORS = ("/MatMul", "/Gemm", "/Gather", "/Conv")
MOST_BARS = 20
LABEL_LENGTH = 52
UNITS = {"heads": "attention heads", "ffn": "feed-forward units", "layers": "blocks"}


@dataclass(frozen=True)
class Sensitivity:
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
        """Return one sentence with what stays in float and what the whole loses."""
        in_float = [_part(name) for name, _, left in self.costs if left]
        left = f"in float stay {', '.join(in_float)}" if in_float else "none stays in float"
        return (
            f"{shown(self.graph)}: of {len(self.costs)} parts {left}; the loss ({shown(self.metric)}) of the whole is "
            f"{self.after:.3g}, at most {self.max_drop:g} was allowed; all parts quantized would lose "
            f"{self.before:.3g}."
        )


def sensitivities(report: Report) -> Iterator[Sensitivity]:
    """Yield what the steps of a report found of each graph for which an accuracy budget was given."""
    for step in report.steps:
        graphs = step.detail.get("graphs")
        for graph, detail in graphs.items() if isinstance(graphs, dict) else ():
            found: Any = detail.get("sensitivity") if isinstance(detail, dict) else None
            if found:
                left = {row["name"] for row in found["in_float"]}
                costs = [(str(row["name"]), float(row["cost"]), row["name"] in left) for row in found["costs"]]
                loss = found["loss"]
                yield Sensitivity(graph, found["metric"], costs, loss["before"], loss["after"], found["max_drop"])


def draw_costs(rows: list[Sensitivity]) -> Figure:
    """Draw a bar for each of the costliest parts, one panel a graph."""
    shares = [row.costs[:MOST_BARS] for row in rows]
    figure = blank(0.8 + sum(0.26 * len(share) + 0.75 for share in shares))
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
            write_number(axis, f"{cost:.2g}", (max(cost, 0.0), line), INK)
        axis.set_xlim(0, 1.15 * max(cost for _, cost, _ in share) or 1.0)
        axis.set_ylim(len(share) - 0.45, -0.55)
        axis.set_yticks(range(len(share)), [_part(name) for name, _, _ in share])
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3))
        hidden = len(row.costs) - len(share)
        more = f"\n{hidden} more cost {row.costs[len(share)][1]:.1g} or less each" if hidden else ""
        axis.set_xlabel(f"{LOSSES.get(row.metric, shown(row.metric, 30))}{more}", loc="left")
        axis.set_title(shown(row.graph), loc="left", fontsize=10, fontweight="bold")
        tidy(axis)
    _write_legend(figure, "quantized", "left in float")
    write_title(figure, "What quantizing each part alone costs")
    return figure


def _write_legend(figure: Figure, kept: str, hatched: str) -> None:
    """Name the two kinds of bars: the plain ones of what was kept or quantized, and the hatched ones."""
    handles = [
        Patch(facecolor=SOURCE, label=kept),
        Patch(facecolor=RESULT, hatch="///", edgecolor="white", linewidth=0, label=hatched),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)


def _part(name: str) -> str:
    """Return the name of a node or block without what all names share, cut from the left where it is long."""
    path = shown(name, 500).strip("/")
    path = path.rpartition("/")[0] or path if path.endswith(OPERATORS) else path
    return path if len(path) <= LABEL_LENGTH else "\u2026" + path[-LABEL_LENGTH + 1 :]


def draw_bytes(towers: tuple[TowerBytes, ...]) -> Figure:
    """Draw for each tower what its weights took and what they take."""
    rows = sorted(towers, key=lambda tower: (tower.name == "other", -tower.source))
    figure = blank(0.9 + 0.72 * len(rows))
    axis = figure.subplots()
    for line, row in enumerate(rows):
        for size, apart, colour in ((row.source, -0.19, SOURCE), (row.compressed, 0.19, RESULT)):
            axis.barh(line + apart, size, height=0.34, color=colour)
            write_number(axis, format_value(size, "bytes"), (size, line + apart), INK)
    axis.set_xlim(0, 1.18 * max(max(row.source, row.compressed) for row in rows) or 1.0)
    axis.set_ylim(len(rows) - 0.45, -0.55)
    axis.set_yticks(
        range(len(rows)), ["other and\nunnamed" if row.name == "other" else shown(row.name) for row in rows]
    )
    axis.set_xticks([])
    tidy(axis)
    axis.spines["bottom"].set_visible(False)
    handles = [Patch(facecolor=SOURCE, label="source"), Patch(facecolor=RESULT, label="compressed")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    write_title(figure, "Where the bytes are")
    return figure


def tower_in_words(row: TowerBytes) -> str:
    """Return one sentence with the bytes of a tower."""
    before, after = (format_value(size, "bytes") for size in (row.source, row.compressed))
    return f"{shown(row.name)}: {before} before, {after} after."


@dataclass(frozen=True)
class Removal:
    """What pruning left of the layers of one stack along one axis.

    Attributes:
        stack: Name of the layers, with a star for their numbers.
        axis: "heads", "ffn" or "layers".
        before: Units of each layer before, in the order of the model.
        after: Units that stayed.
    """

    stack: str
    axis: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def unit(self) -> str:
        """What the units are."""
        return UNITS.get(self.axis, shown(self.axis, 30))

    def in_words(self) -> str:
        """Return one sentence with what stayed of all layers."""
        return f"{shown(self.stack, 80)}: {sum(self.after):,} of {sum(self.before):,} {self.unit} stay."


def removals(report: Report) -> list[Removal]:
    """Return what the steps of a report removed of each stack and axis; nothing for steps that tell nothing of it."""
    found: dict[tuple[int, str, str], list[tuple[int, int]]] = {}
    for index, step in enumerate(report.steps):
        blocks: Any = step.detail.get("blocks")
        counts: Any = step.detail.get("block_counts")
        if isinstance(blocks, dict) and isinstance(counts, dict):
            for stack, gone in blocks.items():
                before = int(counts[stack]["before"])
                found[index, str(stack), "layers"] = [(1, int(block not in gone)) for block in range(before)]
        layers: Any = step.detail.get("layers")
        for layer in layers if isinstance(layers, list) else ():
            stack = re.sub(r"\.\d+(?=\.|$)", ".*", str(layer["name"]))
            found.setdefault((index, stack, str(layer["axis"])), []).append((int(layer["before"]), int(layer["after"])))
    return [
        Removal(stack, axis, tuple(before for before, _ in sizes), tuple(after for _, after in sizes))
        for (_, stack, axis), sizes in found.items()
    ]


def draw_removals(rows: list[Removal]) -> Figure:
    """Draw a column for each layer with what stayed below what went, one panel a stack and axis."""
    figure = blank(0.7 + 1.6 * len(rows))
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, row in zip(panels, rows, strict=True):
        _columns(axis, row)
    _write_legend(figure, "stays", "removed")
    write_title(figure, "What pruning removed of each layer")
    return figure


def _columns(axis: Axes, row: Removal) -> None:
    places = range(len(row.before))
    gone = [before - after for before, after in zip(row.before, row.after, strict=True)]
    axis.bar(places, row.after, width=0.72, color=SOURCE)
    axis.bar(places, gone, bottom=row.after, width=0.72, color=RESULT, hatch="///", edgecolor="white", linewidth=0)
    axis.set_xlim(-0.6, max(len(places), 12) - 0.4)
    axis.set_ylim(0, 1.05 * max(row.before))
    step = 1 if len(places) <= MOST_BARS else 4
    axis.set_xticks(places[::step])
    axis.set_yticks([] if row.axis == "layers" else sorted({0, max(row.before)} | _apart(row)))
    axis.set_title(
        f"{row.unit[0].upper()}{row.unit[1:]} of {_part(row.stack)}, {sum(row.after):,} of {sum(row.before):,} stay",
        loc="left",
        fontsize=10,
    )
    tidy(axis)
    axis.grid(visible=False, axis="x")
    axis.grid(visible=True, axis="y", color=GRID, linewidth=0.8)


def _apart(row: Removal) -> set[int]:
    """Return the number that every layer keeps, where it is one and can be written beside the other ticks."""
    (kept, *others) = set(row.after)
    return set() if others or not 0.1 < kept / max(row.before) < 0.9 else {kept}  # noqa: PLR2004 - room for the letters
