"""The tiny models that the pruning engine is tested on are themselves sound."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from hfcompress.anatomy import meta_model
from tests.families import FAMILIES, Family, build

pytestmark = [
    # transformers 4.57, modeling_utils.get_extended_attention_mask: its own BERT-like classes still pass `device`
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]

# its scores of absent words and its boxes on the border are infinite by design
UNBOUNDED = {"grounding_dino"}


def floats(value: object) -> Iterator[Tensor]:
    """Yield the floating point tensors of a model's outputs, in their order."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from floats(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from floats(item)


def outputs(family: Family, model: PreTrainedModel) -> list[Tensor]:
    """Return what the model gives for the family's inputs; ViLT draws the order of its patches."""
    torch.manual_seed(0)
    with torch.no_grad():
        return list(floats(model(**family.inputs(model.config))))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_tiny_model_runs_and_survives_the_disk(family: Family, tmp_path: Path) -> None:
    """A family's model is of the class its config names, small, finite, and the same after a save and a load."""
    model = build(family)
    (architecture,) = model.config.architectures
    assert type(model).__name__ == architecture
    assert meta_model(model.config).num_parameters() == model.num_parameters() < 1_200_000
    assert all(parameter.abs().sum() > 0 for parameter in model.parameters())

    before = outputs(family, model)
    assert before
    assert not any(tensor.isnan().any() for tensor in before)
    assert family.name in UNBOUNDED or all(tensor.isfinite().all() for tensor in before)

    model.save_pretrained(tmp_path)
    after = outputs(family, getattr(transformers, architecture).from_pretrained(tmp_path).eval())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_the_same_seed_builds_the_same_model() -> None:
    """Two builds from one seed are equal, from two seeds are not, and the global generator is left alone."""
    family = FAMILIES["clip"]
    state = torch.get_rng_state()
    first, again, other = build(family), build(family), build(family, seed=1)
    assert torch.equal(first.logit_scale, again.logit_scale)
    assert not torch.equal(first.logit_scale, other.logit_scale)
    assert torch.equal(torch.get_rng_state(), state)
