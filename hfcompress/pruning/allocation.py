"""How many units go from each layer, where a ratio alone does not say it: by rank, by threshold, or by budget."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from hfcompress.errors import PruningError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from hfcompress.pruning.axes import Axis
    from hfcompress.pruning.plan import Cut

__all__ = ["Place", "by_rank", "by_threshold", "least_kept", "place_of", "spend", "thinned"]

Place: TypeAlias = "tuple[str, Axis]"
"""A tower and an axis."""

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


def place_of(cut: Cut) -> Place:
    """Return where a cut is made."""
    return cut.tower, cut.axis


def least_kept(cut: Cut, multiple_of: int) -> int:
    """Return how many units a layer keeps at least: never none, and as many as a multiple asks for."""
    return min(cut.size, multiple_of if cut.axis == "ffn" else 1)


def _rounded(cut: Cut, keep: int, multiple_of: int) -> Cut:
    """Return the cut with a number of units that stay, rounded up to what hardware likes."""
    step = multiple_of if cut.axis == "ffn" else 1
    return replace(cut, keep=min(cut.size, max(math.ceil(keep / step) * step, least_kept(cut, multiple_of))))


def by_rank(cuts: Sequence[Cut], scores: Sequence[Tensor], multiple_of: int) -> tuple[Cut, ...]:
    """Remove from each tower as many units as the cuts do together, those of the lowest scores in any layer.

    What a layer rounds up is made up for by the units that are next in rank, as far as there are any.

    Args:
        cuts: What goes where every layer loses alike.
        scores: For each cut, how much each unit matters, of shape (units,), on a scale that layers share.
        multiple_of: Kept numbers of feed-forward units are rounded up to a multiple of this.
    """
    ranked = list(cuts)
    for place in dict.fromkeys(map(place_of, cuts)):
        here = [index for index, cut in enumerate(cuts) if place_of(cut) == place]
        asked = sum(cuts[index].size - cuts[index].keep for index in here)
        waiting = sorted(
            (float(score), index)
            for index in here
            for score in scores[index].sort().values[: cuts[index].size - least_kept(cuts[index], multiple_of)]
        )
        kept = {index: cuts[index].size for index in here}
        for index in here:
            ranked[index] = replace(cuts[index], keep=cuts[index].size)
        for _, index in waiting:
            if asked <= 0:
                break
            kept[index] -= 1
            asked += _rounded(cuts[index], kept[index], multiple_of).keep - ranked[index].keep
            ranked[index] = _rounded(cuts[index], kept[index], multiple_of)
    return tuple(ranked)


def by_threshold(
    cuts: Sequence[Cut], scores: Sequence[Tensor], threshold: float, multiple_of: int, *, is_uniform: bool
) -> tuple[Cut, ...]:
    """Remove the units whose score is below a threshold, but no more than the cuts do.

    Args:
        cuts: The most that may go.
        scores: For each cut, how much each unit matters, of shape (units,).
        threshold: The threshold.
        multiple_of: Kept numbers of feed-forward units are rounded up to a multiple of this.
        is_uniform: All layers of a tower lose as many as the one that loses fewest, so that no unit goes that the
            threshold spares.

    Raises:
        PruningError: No unit of any layer is below the threshold, or all units of a layer are.
    """
    below = [int((some < threshold).sum()) for some in scores]
    # `obs` gives the last unit of a layer, which never goes, no finite score
    most = [int(some.isfinite().sum()) for some in scores]
    full = next((cut for cut, count, finite in zip(cuts, below, most, strict=True) if count == finite), None)
    if full is not None or not any(below):
        what = "nothing" if full is None else f"everything in {full.couplings[0].name}"
        known = torch.cat([some[some.isfinite()] for some in scores]).double()
        points = torch.quantile(known, torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()
        shown = ", ".join(f"{share:.0%} {value:.4g}" for share, value in zip(_QUANTILES, points, strict=True))
        msg = f"the threshold {threshold:g} would remove {what}; the quantiles of the importance are: {shown}"
        raise PruningError(msg)
    gone = []
    for cut, count in zip(cuts, below, strict=True):
        alike = [
            other
            for one, other in zip(cuts, below, strict=True)
            if place_of(one) == place_of(cut) and one.size == cut.size
        ]
        gone.append(min(cut.size - cut.keep, min(alike) if is_uniform else count))
    settled = [_rounded(cut, cut.size - count, multiple_of) for cut, count in zip(cuts, gone, strict=True)]
    if all(cut.keep == cut.size for cut in settled):
        msg = (
            f"below the threshold {threshold:g} are at least {min(below)} and at most {max(below)} units a layer, "
            f"too few in some layer to remove any alike (multiple_of: {multiple_of}); raise it, or say `allocation: "
            f"global`"
        )
        raise PruningError(msg)
    return tuple(settled)


def thinned(cuts: Sequence[Cut], shares: Mapping[Place, float], multiple_of: int) -> tuple[Cut, ...]:
    """Return cuts that take a share of what they took, at least nothing and at most all of it."""
    return tuple(
        _rounded(cut, cut.size - math.floor((cut.size - cut.keep) * shares[place_of(cut)]), multiple_of) for cut in cuts
    )


@dataclass(frozen=True)
class _Piece:
    """A stretch of a place's curve: from one share to the next, what it saves and what it costs."""

    place: Place
    start: float
    stop: float
    saving: float
    cost: float


def spend(
    budget: float, curves: Mapping[Place, Sequence[tuple[float, float]]], savings: Mapping[Place, float]
) -> dict[Place, float]:
    """Split a budget over places so that together they cost least.

    The cost of each place is taken as the largest convex curve below what was measured, so the cheapest stretches can
    be taken one after the other until the budget is met.

    Args:
        budget: What has to be saved.
        curves: For each place, pairs (share of what could go, measured cost), shares ascending in (0, 1].
        savings: For each place, what it saves when all that could go goes.

    Returns:
        For each place the share of what could go, in [0, 1].

    Raises:
        PruningError: All places together cannot save so much.
    """
    most = sum(savings.values())
    if budget > most:
        msg = (
            f"the budget asks for {budget:.1%} less, and all that `towers` allows to remove is {most:.1%}; "
            f"raise the ratios there"
        )
        raise PruningError(msg)
    pieces = [
        _Piece(place, start[0], stop[0], savings[place] * (stop[0] - start[0]), stop[1] - start[1])
        for place, curve in curves.items()
        for start, stop in _hull(curve)
    ]
    shares = dict.fromkeys(curves, 0.0)
    left = budget
    for piece in sorted(pieces, key=lambda piece: piece.cost / max(piece.saving, 1e-12)):
        taken = min(1.0, left / piece.saving) if piece.saving > 0 else 0.0
        shares[piece.place] = piece.start + taken * (piece.stop - piece.start)
        left -= taken * piece.saving
        if left <= 0:
            break
    return shares


def _hull(curve: Sequence[tuple[float, float]]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the stretches of the lower convex hull of a curve that starts at (0, 0)."""
    points: list[tuple[float, float]] = []
    for point in ((0.0, 0.0), *curve):
        while len(points) > 1 and _slope(points[-2], point) <= _slope(points[-2], points[-1]):
            points.pop()
        points.append(point)
    return list(itertools.pairwise(points))


def _slope(start: tuple[float, float], stop: tuple[float, float]) -> float:
    return (stop[1] - start[1]) / (stop[0] - start[0])
