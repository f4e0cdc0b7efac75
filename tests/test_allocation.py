"""How many units go from each layer, where a ratio alone does not say it."""

import pytest
import torch

from hfcompress.errors import PruningError
from hfcompress.pruning.allocation import by_rank, by_threshold, least_kept, spend, thinned
from hfcompress.pruning.axes import Axis
from hfcompress.pruning.coupling import Coupling, Member
from hfcompress.pruning.plan import Cut

TEXT: tuple[str, Axis] = ("text", "ffn")
VISION: tuple[str, Axis] = ("vision", "ffn")


def cut(size: int, keep: int, tower: str = "text", axis: Axis = "ffn") -> Cut:
    """Return a cut of one layer."""
    members = (Member("fc1", "produces", (("weight", 0),)), Member("fc2", "consumes", (("weight", 1),)))
    return Cut(tower, (Coupling(f"{tower}.fc1", axis, size, members),), keep)


def kept(cuts: tuple[Cut, ...]) -> list[int]:
    """Return how many units of each layer stay."""
    return [one.keep for one in cuts]


LOW, HIGH = torch.arange(16.0), torch.arange(16.0) + 10


def test_least_kept() -> None:
    """A layer keeps one head, or one multiple of feed-forward units, and no more than it has."""
    assert [least_kept(cut(16, 8), 8), least_kept(cut(4, 2), 8), least_kept(cut(16, 8, axis="heads"), 8)] == [8, 4, 1]


def test_rank_over_layers() -> None:
    """As many units go as where all layers lose alike, from the layers whose units matter least."""
    assert kept(by_rank([cut(16, 8), cut(16, 8)], [LOW, HIGH], 1)) == [3, 13]


def test_rank_leaves_the_least() -> None:
    """No layer is emptied, however little it matters."""
    assert kept(by_rank([cut(16, 4), cut(16, 4)], [LOW, LOW + 100], 4)) == [4, 4]
    assert kept(by_rank([cut(16, 8), cut(16, 8)], [LOW, LOW + 100], 4)) == [4, 12]


def test_rank_makes_up_for_rounding() -> None:
    """What multiples keep of one layer goes from the next in rank."""
    assert kept(by_rank([cut(16, 8), cut(16, 8)], [LOW, LOW + 0.5], 8)) == [8, 8]
    assert kept(by_rank([cut(16, 12), cut(16, 12)], [LOW, HIGH], 8)) == [8, 16]


def test_towers_are_ranked_apart() -> None:
    """What one tower loses does not depend on how much another one matters."""
    cuts = [cut(16, 8), cut(16, 12, "vision")]
    assert kept(by_rank(cuts, [LOW, LOW - 100], 1)) == [8, 12]


def test_threshold_within_the_ratios() -> None:
    """What is below the threshold goes, and no more than the ratios say."""
    cuts = [cut(16, 4), cut(16, 14)]
    assert kept(by_threshold(cuts, [LOW, LOW], 6.0, 1, is_uniform=False)) == [10, 14]


def test_uniform_threshold() -> None:
    """Where all layers lose alike, they lose what the threshold takes from the one that has least below it."""
    cuts = [cut(16, 4), cut(16, 4), cut(16, 4, "vision")]
    assert kept(by_threshold(cuts, [LOW, HIGH, LOW], 12.0, 1, is_uniform=True)) == [14, 14, 4]


@pytest.mark.parametrize(("threshold", "what"), [(100.0, "everything in text.fc1"), (0.5, "nothing")])
def test_threshold_extremes(threshold: float, what: str) -> None:
    """A threshold that removes everything, or nothing, is refused with the quantiles of the importance."""
    shown = r"0% 1, 10% 2\.5, 25% 4\.75, 50% 8\.5, 75% 12\.25, 90% 14\.5, 100% 16"
    with pytest.raises(PruningError, match=rf"{threshold:g} would remove {what}; the quantiles .*: {shown}"):
        by_threshold([cut(16, 4)], [LOW + 1], threshold, 1, is_uniform=False)


def test_threshold_above_all_that_can_go() -> None:
    """Scores that are infinite for the last unit, which never goes, do not hide that all others are below."""
    scores = torch.cat([LOW[:-1], torch.tensor([torch.inf])])
    with pytest.raises(PruningError, match=r"would remove everything in text\.fc1"):
        by_threshold([cut(16, 4)], [scores], 1e9, 1, is_uniform=True)


def test_threshold_that_one_layer_hinders() -> None:
    """A layer with nothing below the threshold keeps the others as they are, which is said."""
    with pytest.raises(PruningError, match=r"at least 0 and at most 6 units a layer.*say `allocation: global`"):
        by_threshold([cut(16, 4), cut(16, 4)], [LOW, HIGH], 6.0, 1, is_uniform=True)


def test_thinned() -> None:
    """A share of a cut is rounded to keep more, and all of it is the cut itself."""
    cuts = [cut(16, 6), cut(64, 16, "vision"), cut(6, 3, "vision", "heads")]
    shares: dict[tuple[str, Axis], float] = {TEXT: 0.0, VISION: 0.5, ("vision", "heads"): 0.5}
    assert kept(thinned(cuts, shares, 8)) == [16, 40, 5]
    assert kept(thinned(cuts, dict.fromkeys(shares, 1.0), 1)) == [6, 16, 3]


def test_spending_takes_the_cheapest_first() -> None:
    """The tower that loses less gives until the budget is met."""
    curves = {TEXT: [(0.5, 1.0), (1.0, 2.0)], VISION: [(0.5, 0.1), (1.0, 0.2)]}
    assert spend(0.3, curves, {TEXT: 0.4, VISION: 0.4}) == {TEXT: 0.0, VISION: pytest.approx(0.75)}
    assert spend(0.6, curves, {TEXT: 0.4, VISION: 0.4}) == {TEXT: pytest.approx(0.5), VISION: 1.0}


def test_spending_weighs_cost_by_what_is_saved() -> None:
    """A stretch that costs more is the cheaper one if it saves more still."""
    curves = {TEXT: [(1.0, 1.0)], VISION: [(1.0, 2.0)]}
    assert spend(0.3, curves, {TEXT: 0.1, VISION: 0.4}) == {TEXT: 0.0, VISION: pytest.approx(0.75)}


def test_spending_follows_the_convex_hull() -> None:
    """A step that looks dear and leads to a cheap one is judged with it: half of the way at half of the whole cost."""
    curves = {TEXT: [(0.5, 10.0), (1.0, 10.0)], VISION: [(0.5, 6.0), (1.0, 12.0)]}
    assert spend(0.4, curves, {TEXT: 0.4, VISION: 0.4}) == {TEXT: pytest.approx(1.0), VISION: 0.0}


def test_spending_all() -> None:
    """A budget of all that can be saved takes everything."""
    curves = {TEXT: [(1.0, 1.0)], VISION: [(0.5, 0.5), (1.0, 3.0)]}
    assert spend(0.8, curves, {TEXT: 0.4, VISION: 0.4}) == {TEXT: pytest.approx(1.0), VISION: pytest.approx(1.0)}


def test_spending_too_much() -> None:
    """A budget that all towers together cannot save is refused."""
    with pytest.raises(PruningError, match=r"asks for 50\.0% less, and all that `towers` allows to remove is 40\.0%"):
        spend(0.5, {TEXT: [(1.0, 1.0)]}, {TEXT: 0.4})
