"""Removing whole blocks: what goes, and what is said of it."""

import pytest
import torch

from hfcompress.anatomy import meta_model
from hfcompress.contracts import Progress
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.pruning.depth_pass import DepthPass, tower_stacks
from hfcompress.pruning.passes import Workbench
from hfcompress.pruning.surgery import TOLERANCE
from tests.families import FAMILIES, build

BENCH = Workbench(lambda _: None, Progress(), 0)


def test_stacks_of_towers() -> None:
    """Each tower has its own stacks of blocks."""
    found = tower_stacks(meta_model(FAMILIES["llava"].config()))
    # where the blocks of the vision tower stand differs between versions of transformers
    assert {
        tower.name: [(stack.name.rpartition(".")[2], stack.size) for stack in stacks] for tower, stacks in found.items()
    } == {"vision": [("layers", 3)], "text": [("layers", 4)]}


def test_idle_block_goes() -> None:
    """The block that changes nothing goes, its siblings move up, and all of it is told."""
    model = build(FAMILIES["clip"])
    with torch.no_grad():
        for name in ("self_attn.out_proj", "mlp.fc2"):
            for parameter in model.get_submodule(f"text_model.encoder.layers.2.{name}").parameters():
                parameter.zero_()
    old = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned = DepthPass({"text": 0.25}).apply(model, BENCH)
    assert pruned.detail == {
        "blocks": {"text_model.encoder.layers": [2]},
        "block_counts": {"text_model.encoder.layers": {"before": 4, "after": 3}},
    }
    assert pruned.outcome.changes == ("text: 4 → 3 blocks",)
    assert [str(edit) for edit in pruned.outcome.edits] == ["text_config.num_hidden_layers: 4 → 3"]
    assert pruned.difference <= TOLERANCE
    new = pruned.model.state_dict()
    block = "text_model.encoder.layers.{}.mlp.fc1.weight"
    assert torch.equal(new[block.format(2)], old[block.format(3)])
    gone = sum(tensor.numel() for name, tensor in old.items() if name.startswith("text_model.encoder.layers.2."))
    assert pruned.outcome.removed_parameters == gone


def test_plan_is_what_comes_out() -> None:
    """Without weights the pass says the same numbers."""
    plan = DepthPass({"all": 0.34}).plan(FAMILIES["clip"].config())
    pruned = DepthPass({"all": 0.34}).apply(build(FAMILIES["clip"]), BENCH)
    assert plan.changes == pruned.outcome.changes == ("text: 4 → 3 blocks", "vision: 3 → 2 blocks")
    assert plan.removed_parameters == pruned.outcome.removed_parameters


def test_unknown_tower() -> None:
    """A tower that the model lacks is refused with the nearest name."""
    with pytest.raises(CheckpointError, match=r"no tower 'txt'.*did you mean 'text'"):
        DepthPass({"txt": 0.5}).plan(FAMILIES["clip"].config())


@pytest.mark.parametrize(
    ("ratios", "why"),
    [
        ({"text": 0.25, "vision": 0.25}, r"from the tower 'vision': 0\.25 of its 3 blocks is less than one; raise"),
        ({"all": 0.2}, r"less than one block of any stack \(text 4, vision 3\)"),
    ],
)
def test_less_than_a_block(ratios: dict[str, float], why: str) -> None:
    """A ratio of less than one block is refused for a named tower, and where no tower would lose any."""
    with pytest.raises(PruningError, match=why):
        DepthPass(ratios).plan(FAMILIES["clip"].config())


def test_tower_named_for_another_axis() -> None:
    """A tower of which no block is asked for keeps all, whatever it has."""
    assert DepthPass({"text": 0.25, "vision": 0.0}).plan(FAMILIES["clip"].config()).changes == ("text: 4 → 3 blocks",)
