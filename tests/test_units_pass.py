"""Removing heads and feed-forward units: what goes, what is left, and what is said of it."""

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from hfcompress.anatomy import meta_model
from hfcompress.contracts import Progress
from hfcompress.errors import PruningError
from hfcompress.narrowing import record_in
from hfcompress.pruning.axes import Axis
from hfcompress.pruning.passes import Pruned, Workbench
from hfcompress.pruning.selection import Method
from hfcompress.pruning.surgery import TOLERANCE
from hfcompress.pruning.units_pass import Allocation, Budget, UnitsPass
from hfcompress.twin import count_flops, zero_twin
from tests.families import FAMILIES, build

BENCH = Workbench(lambda _: None, Progress(), 0)
MAGNITUDE = Method("magnitude", "none", 2)
UNIFORM = Allocation("uniform", None, None, 8)
MOST: dict[str, dict[Axis, float]] = {"all": {"heads": 0.9, "ffn": 0.9}}

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def prune(
    model: PreTrainedModel, towers: dict[str, dict[Axis, float]], allocation: Allocation = UNIFORM
) -> tuple[Pruned, int]:
    """Prune a model by magnitude; also returns how many parameters it had."""
    before = model.num_parameters()
    return UnitsPass(towers, MAGNITUDE, allocation).apply(model, BENCH), before


def test_heads_that_go() -> None:
    """The heads of the smallest weights go from all four layers, and the record says which channels are left."""
    model = build(FAMILIES["clip"])
    name = "text_model.encoder.layers.1.self_attn"
    old = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned, _ = prune(model, {"text": {"heads": 0.5}})
    rows = [old[f"{name}.{side}.weight"].view(6, -1).square().sum(1) for side in ("q_proj", "k_proj", "v_proj")]
    columns = old[f"{name}.out_proj.weight"].T.reshape(6, -1).square().sum(1)
    kept = (sum(rows) + columns).topk(3).indices.sort().values
    channels = (kept[:, None] * 8 + torch.arange(8)).flatten()
    new = pruned.model.state_dict()
    assert torch.equal(new[f"{name}.q_proj.weight"], old[f"{name}.q_proj.weight"][channels])
    assert torch.equal(new[f"{name}.v_proj.bias"], old[f"{name}.v_proj.bias"][channels])
    assert torch.equal(new[f"{name}.out_proj.weight"], old[f"{name}.out_proj.weight"][:, channels])
    record = record_in(pruned.outcome.config)
    assert record is not None
    assert len(record.modules) == 4 * 4
    for side in ("q_proj", "k_proj", "v_proj", "out_proj"):
        module = record.modules[f"{name}.{side}"]
        ranges = module.inputs if side == "out_proj" else module.outputs
        assert ranges is not None
        assert [channel for start, stop in ranges for channel in range(start, stop)] == channels.tolist()
    assert pruned.difference <= TOLERANCE


def test_what_is_said() -> None:
    """Each tower and axis has its sentence, each layer its numbers, and the parameters are counted."""
    pruned, before = prune(build(FAMILIES["llava"]), {"text": {"heads": 0.5, "ffn": 0.5}, "vision": {"heads": 0.25}})
    beside = ", which loads once hfcompress is imported: no stock configuration says it"
    assert sorted(pruned.outcome.changes) == [
        "text: 104 → 56 feed-forward units in 4 layers",
        "text: 2 → 1 attention heads in 4 layers",
        f"vision: 4 → 3 attention heads in 3 layers{beside}",
    ]
    layers = pruned.detail["layers"]
    assert isinstance(layers, list)
    assert len(layers) == 4 + 4 + 3
    first = "model.language_model.layers.0.self_attn.k_proj"
    assert {"name": first, "axis": "heads", "before": 2, "after": 1} in layers
    assert before - pruned.outcome.removed_parameters == pruned.model.num_parameters()
    assert {edit.field for edit in pruned.outcome.edits} >= {"num_key_value_heads", "intermediate_size"}


def test_plan_is_what_comes_out() -> None:
    """Without weights the pass says the same changes and the same number of parameters."""
    config = FAMILIES["clip"].config()
    plan = UnitsPass(MOST, MAGNITUDE, UNIFORM).plan(config)
    pruned, _ = prune(build(FAMILIES["clip"]), MOST)
    assert plan.changes == pruned.outcome.changes
    assert plan.removed_parameters == pruned.outcome.removed_parameters


def test_plan_says_what_weights_decide() -> None:
    """Where the weights decide how much goes, the plan says the most that may."""
    allocation = replace(UNIFORM, budget=Budget("parameters", 0.1))
    changes = UnitsPass({"text": {"ffn": 0.5}}, MAGNITUDE, allocation).plan(FAMILIES["clip"].config()).changes
    assert changes == (
        "at most: text: 104 → 56 feed-forward units in 4 layers; how much of it is decided on the weights",
    )


def test_ranked_over_layers() -> None:
    """`allocation: global` takes as many units as uniform, and more of them where they matter less."""
    model = build(FAMILIES["clip"])
    with torch.no_grad():
        for side in ("fc1", "fc2"):  # three quarters of this layer's units are much smaller than the others
            weight = model.get_parameter(f"text_model.encoder.layers.2.mlp.{side}.weight")
            (weight if side == "fc1" else weight.T)[:78] *= 0.01
    pruned, _ = prune(model, {"text": {"ffn": 0.25}}, replace(UNIFORM, kind="global"))
    layers = pruned.detail["layers"]
    assert isinstance(layers, list)
    after = [layer["after"] for layer in layers if isinstance(layer, dict)]
    assert sum(int(str(number)) for number in after) + 96 == 4 * 104
    assert min(after) == 32
    assert record_in(pruned.outcome.config) is not None


@pytest.mark.parametrize(("kind", "expected"), [("uniform", [96]), ("global", [48, 72, 96])])
def test_threshold(kind: str, expected: list[int]) -> None:
    """Units below the threshold go: as many everywhere, or those of each layer, and no more than the ratio says."""
    model = build(FAMILIES["clip"])
    with torch.no_grad():
        for layer, small in enumerate((8, 32, 8, 80)):
            mlp = model.get_submodule(f"text_model.encoder.layers.{layer}.mlp")
            mlp.fc1.weight[:small] *= 0.01
            mlp.fc2.weight[:, :small] *= 0.01
            mlp.fc1.weight[small:] = mlp.fc2.weight[:, small:] = 1.0
    allocation = Allocation("global" if kind == "global" else "uniform", 0.5, None, 8)
    pruned, _ = prune(model, {"text": {"ffn": 0.54}}, allocation)
    layers = pruned.detail["layers"]
    assert isinstance(layers, list)
    assert sorted({layer["after"] for layer in layers if isinstance(layer, dict)}) == expected


@pytest.mark.parametrize("kind", ["uniform", "global"])
@pytest.mark.parametrize("less", [0.1, 0.31])
def test_budget_of_parameters(kind: str, less: float) -> None:
    """At least as many parameters go as the budget says, however heads and multiples round."""
    allocation = Allocation("global" if kind == "global" else "uniform", None, Budget("parameters", less), 8)
    pruned, before = prune(build(FAMILIES["clip"]), MOST, allocation)
    assert less <= 1 - pruned.model.num_parameters() / before < less + 0.06


def test_budget_of_flops() -> None:
    """At least as many operations go as the budget says."""
    config = FAMILIES["clip"].config()
    before = count_flops(zero_twin(meta_model(config)))[""]
    allocation = replace(UNIFORM, budget=Budget("flops", 0.3))
    pruned, _ = prune(build(FAMILIES["clip"]), MOST, allocation)
    after = count_flops(zero_twin(meta_model(pruned.outcome.config)))[""]
    assert 0.3 <= 1 - after / before < 0.36


def test_budget_goes_where_it_costs_least() -> None:
    """A tower whose units do nothing gives all that is asked for."""
    model = build(FAMILIES["clip"])
    with torch.no_grad():
        for block in model.vision_model.encoder.layers:
            block.mlp.fc2.weight.zero_()
    allocation = replace(UNIFORM, budget=Budget("parameters", 0.05))
    pruned, _ = prune(model, {"all": {"ffn": 0.9}}, allocation)
    assert [change.partition(":")[0] for change in pruned.outcome.changes] == ["vision"]


def test_budget_of_more_than_the_ratios_allow() -> None:
    """A budget that all ratios together do not meet is refused with what they allow, and nothing has changed."""
    model = build(FAMILIES["clip"])
    old = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    allocation = replace(UNIFORM, budget=Budget("parameters", 0.5))
    with pytest.raises(PruningError, match=r"asks for 50\.0% less parameters, and all that .* is \d\.\d%; raise"):
        prune(model, {"text": {"ffn": 0.25}}, allocation)
    assert all(torch.equal(tensor, old[key]) for key, tensor in model.state_dict().items())


def test_one_table_keeps_the_same_heads() -> None:
    """Layers that add one table of position biases keep the same heads, and those columns of the table."""
    model = build(FAMILIES["blip2_t5"])
    old = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned, _ = prune(model, {"text_encoder": {"heads": 0.5}, "text_decoder": {"heads": 0.5}})
    new = pruned.model.state_dict()

    def kept(name: str, width: int, dimension: int) -> list[int]:
        before, after = (
            state[f"language_model.encoder.block.{name}.weight"].movedim(dimension, 0).unflatten(0, (-1, width))
            for state in (old, new)
        )
        return [index for unit in after for index, one in enumerate(before) if torch.equal(unit, one)]

    heads = kept("0.layer.0.SelfAttention.relative_attention_bias", 1, 1)
    assert len(heads) == 3
    for layer in range(4):
        assert kept(f"{layer}.layer.0.SelfAttention.q", 16, 0) == heads


def test_named_axis_that_the_tower_lacks() -> None:
    """A tower without heads that can go is refused by name; `all` passes over it."""
    config = FAMILIES["align"].config()
    with pytest.raises(PruningError, match="the tower 'vision' has no attention heads that can be removed"):
        UnitsPass({"vision": {"heads": 0.5}}, MAGNITUDE, UNIFORM).plan(config)
    assert UnitsPass({"all": {"heads": 0.5}}, MAGNITUDE, UNIFORM).plan(config).changes


def test_named_tower_that_would_lose_nothing() -> None:
    """A ratio of less than a head in a named tower is refused, though another axis would lose some."""
    with pytest.raises(PruningError, match=r"from the tower 'vision': 0\.2 of 4 attention heads a layer is none"):
        UnitsPass({"vision": {"heads": 0.2, "ffn": 0.5}}, MAGNITUDE, UNIFORM).plan(FAMILIES["clip"].config())
