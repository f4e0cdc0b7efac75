"""Promises of the model with few blocks, on which `inspect` tries things."""

from hfcompress.anatomy import meta_model
from hfcompress.pruning.depth import find_stacks
from hfcompress.pruning.shallow import shallow
from tests.families import FAMILIES


def test_two_blocks_stay() -> None:
    """Every stack that a configuration says shorter has two blocks left, and the configuration is told."""
    found = shallow(FAMILIES["clip"].config())
    assert {stack.size for stack in find_stacks(meta_model(found.config))} == {2} == set(found.left.values())
    assert found.edits.keys() == found.depths.keys()
    assert not found.obstacles


def test_what_no_configuration_says_stays() -> None:
    """A stack of blocks that no field counts is left as it is, with the reason."""
    found = shallow(FAMILIES["clipseg"].config())
    assert "no field of the configuration" in found.obstacles["decoder.layers"]
    assert found.left.keys() == found.depths.keys() - {"decoder.layers"}
