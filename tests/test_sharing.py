"""What a model holds under several names cannot be pruned in one of the places alone."""

import pytest
import torch
from transformers import PreTrainedModel

from hfcompress.anatomy import meta_model
from hfcompress.contracts import Progress
from hfcompress.errors import PruningError
from hfcompress.pruning.passes import Workbench
from hfcompress.pruning.plan import find_cuts
from hfcompress.pruning.selection import Method
from hfcompress.pruning.sharing import other_names, require_own
from hfcompress.pruning.units_pass import Allocation, UnitsPass
from tests.families import FAMILIES, build

LAYER = "encoder.layers.1.mlp.fc1.weight"


def tied(model: PreTrainedModel) -> PreTrainedModel:
    """Let the vision tower of a CLIP of equal towers hold the weight of a layer of the text tower."""
    text, vision = (getattr(model, f"{name}_model").encoder.layers[1].mlp.fc1 for name in ("text", "vision"))
    vision.weight = text.weight
    return model


def test_tied_embeddings_are_told() -> None:
    """A head that is tied to the embeddings is known by two names, and no layer of a block is."""
    embeddings = "model.language_model.embed_tokens.weight"
    assert other_names(meta_model(FAMILIES["gemma3"].config())) == {
        embeddings: ("lm_head.weight",),
        "lm_head.weight": (embeddings,),
    }


def test_shared_by_two_towers() -> None:
    """A layer that two towers hold is refused with both names while the pruning is planned."""
    model = tied(meta_model(FAMILIES["clip"].config()))
    both = rf"text_model\.{LAYER} and vision_model\.{LAYER} are one parameter"
    with pytest.raises(PruningError, match=f"{both}, so removing feed-forward units of the tower 'text' would change"):
        find_cuts(model, {"text": {"ffn": 0.5}}, 8)
    assert find_cuts(model, {"text": {"heads": 0.5}}, 8)


def test_shared_after_loading() -> None:
    """Weights that were tied when the model was loaded are refused too, and none of them has changed."""
    model = tied(build(FAMILIES["clip"]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step = UnitsPass({"all": {"ffn": 0.5}}, Method("magnitude", "none", 2), Allocation("uniform", None, None, 8))
    with pytest.raises(PruningError, match="are one parameter"):
        step.apply(model, Workbench(lambda _: None, Progress(), 0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_shared_inside() -> None:
    """Names inside of what is removed as a whole do no harm, and names outside of it do."""
    model = meta_model(FAMILIES["clip"].config())
    layers = model.text_model.encoder.layers
    layers[0].mlp.fc1.weight = layers[1].mlp.fc1.weight
    name = f"text_model.{LAYER}"
    require_own(model, [name], "removing blocks", "text_model.encoder.layers")
    with pytest.raises(PruningError, match="so removing blocks would change both"):
        require_own(model, [name], "removing blocks", "text_model.encoder.layers.1")
