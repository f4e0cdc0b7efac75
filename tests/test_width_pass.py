"""Narrowing the residual streams of several towers."""

import pytest

from hfcompress.contracts import Progress
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.pruning.passes import Workbench
from hfcompress.pruning.selection import Method
from hfcompress.pruning.surgery import TOLERANCE
from hfcompress.pruning.width_pass import WidthPass
from tests.families import FAMILIES, build

BENCH = Workbench(lambda _: None, Progress(), 0)
MAGNITUDE = Method("magnitude", "none", 2)


def test_towers_one_after_the_other() -> None:
    """Both towers of a CLIP become narrower, each is told, and the parameters are counted."""
    model = build(FAMILIES["clip"])
    before = model.num_parameters()
    pruned = WidthPass({"all": 0.5}, MAGNITUDE, 8).apply(model, BENCH)
    assert pruned.detail == {"widths": {"text": 24, "vision": 16}}
    assert pruned.outcome.changes == (
        "text: 48 → 24 channels of the residual stream, 6 → 3 attention heads",
        "vision: 32 → 16 channels of the residual stream, 4 → 2 attention heads",
    )
    assert before - pruned.outcome.removed_parameters == pruned.model.num_parameters()
    assert pruned.difference <= TOLERANCE
    assert pruned.outcome.config.text_config.hidden_size == 24


def test_plan_is_what_comes_out() -> None:
    """Without weights the pass says the same."""
    step = WidthPass({"text": 0.5}, MAGNITUDE, 8)
    plan = step.plan(FAMILIES["clip"].config())
    outcome = step.apply(build(FAMILIES["clip"]), BENCH).outcome
    assert (plan.changes, plan.removed_parameters) == (outcome.changes, outcome.removed_parameters)


def test_what_all_passes_over() -> None:
    """A tower that cannot become narrower is told where `all` asks for it, and refused where its name does."""
    config = FAMILIES["clap"].config()
    told, *_ = [line for line in WidthPass({"all": 0.5}, MAGNITUDE, 8).plan(config).changes if "left as wide" in line]
    name = told.partition(":")[0]
    with pytest.raises(PruningError, match=f"the tower '{name}' "):
        WidthPass({name: 0.5}, MAGNITUDE, 8).plan(config)


def test_unknown_tower() -> None:
    """A tower that the model lacks is refused."""
    with pytest.raises(CheckpointError, match="no tower 'visoin'"):
        WidthPass({"visoin": 0.5}, MAGNITUDE, 8).plan(FAMILIES["clip"].config())
