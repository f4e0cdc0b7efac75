"""What a replay promises: the very inputs that a plain forward pass of the model as it is now would give each layer."""

import pytest
import torch
from transformers import PreTrainedModel

from hfcompress.pruning.replay import Replay
from tests.families import FAMILIES, build

pytestmark = [
    # classes of transformers 4 that warn of arguments which other classes of transformers still give them
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def linear_maps(model: PreTrainedModel, every: int = 1) -> list[str]:
    """Return the names of every n-th linear layer that maps to another width."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.in_features != module.out_features
    ]
    return names[::every]


@torch.no_grad()
def plain_inputs(model: PreTrainedModel, layer: str, batch: dict[str, torch.Tensor], seed: int) -> torch.Tensor | None:
    """Return what a layer is first called with in a full forward pass."""
    heard: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, arguments: heard.append(arguments[0].clone())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model(**batch)
    handle.remove()
    return heard[0] if heard else None


@torch.no_grad()
def spoil(model: PreTrainedModel, layer: str) -> None:
    """Change a layer in place, as pruning does."""
    model.get_submodule(layer).get_parameter("weight").detach().T[::2] *= 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_inputs_are_those_of_a_full_pass(name: str) -> None:
    """Whatever the architecture, each layer sees what the model as changed so far gives it, in every batch."""
    model = build(FAMILIES[name])
    inputs = FAMILIES[name].inputs(model.config)
    batches = [inputs, inputs]
    replay = Replay(model, batches)
    for layer in linear_maps(model, every=3):
        expected = [plain_inputs(model, layer, batch, seed) for seed, batch in enumerate(batches)]
        got = list(replay.inputs(layer))
        assert len(got) == len([tensor for tensor in expected if tensor is not None])
        for one, other in zip(got, expected, strict=False):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        spoil(model, layer)


def test_a_block_runs_twice_however_deep_the_model_is() -> None:
    """Asked in the order in which they run, the layers cost two runs of each block, not one for each later layer."""
    model = build(FAMILIES["clip"])
    inputs = FAMILIES["clip"].inputs(model.config)
    firsts = [name for name, _ in model.named_modules() if name.endswith("fc1")]
    runs = dict.fromkeys(firsts, 0)

    def count(name: str) -> None:
        runs[name] += 1

    for name in firsts:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: count(name))
    replay = Replay(model, [inputs])
    stacks = sorted((name for name in linear_maps(model) if name.endswith("fc2")), key=lambda name: "text" in name)
    for layer in stacks:
        list(replay.inputs(layer))
        spoil(model, layer)
    assert set(runs.values()) <= {1, 2}


def test_an_unchanged_model_is_not_run_again() -> None:
    """A layer that is asked for twice runs only its own block again."""
    model = build(FAMILIES["clip"])
    replay = Replay(model, [FAMILIES["clip"].inputs(model.config)])
    (first,) = replay.inputs("vision_model.encoder.layers.1.mlp.fc2")
    runs: list[object] = []
    model.get_submodule("vision_model.encoder.layers.0.mlp.fc1").register_forward_hook(lambda *_: runs.append(None))
    (again,) = replay.inputs("vision_model.encoder.layers.1.mlp.fc2")
    assert torch.equal(first, again)
    assert not runs


def test_the_model_is_left_as_it_was() -> None:
    """After a replay the model's own forward passes are its own again, and so is the random generator."""
    family = FAMILIES["llava"]
    model = build(family)
    before, state = model(**family.inputs(model.config)).logits, torch.get_rng_state()
    list(Replay(model, [family.inputs(model.config)]).inputs(linear_maps(model)[-1]))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(model(**family.inputs(model.config)).logits, before)
