"""What a checkpoint is made of and what can be done to it, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from hfcompress.anatomy import find_towers, load_config, meta_model, model_class
from hfcompress.errors import HfcompressError
from hfcompress.extras import EXTRAS, require_extra
from hfcompress.hub import resolve_model
from hfcompress.pruning.plan import plan_pruning, tower_couplings
from hfcompress.pruning.shallow import shallow
from hfcompress.pruning.step import PruneOptions
from hfcompress.pruning.width import plan_width
from hfcompress.registry import RUNTIMES
from hfcompress.twin import FLOP_TOKENS, count_flops, flops_of, zero_twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.anatomy import Tower
    from hfcompress.pruning.axes import Axis
    from hfcompress.pruning.config_edits import Edit
    from hfcompress.pruning.coupling import Coupling
    from hfcompress.pruning.shallow import Shallow

__all__ = ["Anatomy", "AxisRecord", "RuntimeRecord", "TowerRecord", "Verdict", "inspect"]

Verdict: TypeAlias = Literal["stock", "with import hfcompress", "not possible"]
"""What a pruned tower takes to load: a stock configuration says it, or it stands beside one, or nothing can go."""

_TRIAL_RATIO = 0.5
_MULTIPLE_OF: int = PruneOptions.model_fields["multiple_of"].default


@dataclass(frozen=True)
class AxisRecord:
    """One way in which a tower can shrink.

    Attributes:
        name: "ffn", "heads", "layers" or "width".
        sizes: Units in each layer, or in each place of which there are several.
        granularity: What goes at once.
        verdict: What the tower takes to load once half of the axis is gone, or as many blocks as can go.
        config_keys: The fields that say it.
        config_edits: How they change then.
        obstacle: Why it cannot be pruned, if it cannot.
    """

    name: Axis
    sizes: tuple[int, ...]
    granularity: str
    verdict: Verdict
    config_keys: tuple[str, ...] = ()
    config_edits: tuple[str, ...] = ()
    obstacle: str | None = None


@dataclass(frozen=True)
class TowerRecord:
    """A tower.

    Attributes:
        name: Its name in a recipe.
        module: Dotted name of the module it is, empty for the whole model.
        parameters: Number of its parameters.
        flops: Floating-point operations of one row, texts of `flop_tokens` tokens, two for each product; `None` where
            they cannot be counted.
        axes: The ways in which it can shrink.
    """

    name: str
    module: str
    parameters: int
    flops: int | None
    axes: tuple[AxisRecord, ...]


@dataclass(frozen=True)
class RuntimeRecord:
    """Whether a checkpoint can be turned into a runtime's format here, and why not if it cannot."""

    name: str
    available: bool
    detail: str


@dataclass(frozen=True)
class Anatomy:
    """What `hfcompress inspect` shows."""

    id: str
    revision: str
    architecture: str
    parameters: int
    flops: int | None
    flop_tokens: int
    towers: tuple[TowerRecord, ...]
    runtimes: tuple[RuntimeRecord, ...]


def inspect(model: str | Path, revision: str = "main") -> Anatomy:
    """Look at a checkpoint without reading its weights.

    Args:
        model: Hub id or folder.
        revision: Branch, tag or commit on the Hub.

    Raises:
        HubError: The Hub refused or could not be reached.
        CheckpointError: It is not a transformers checkpoint.
    """
    source = resolve_model(str(model), revision)
    config = load_config(source.path)
    built = meta_model(config)
    flops = _flops(built)
    return Anatomy(
        source.id,
        source.revision,
        model_class(config).__name__,
        built.num_parameters(),
        flops.get(""),
        FLOP_TOKENS,
        tuple(_tower(built, tower, axes, flops) for tower, axes in tower_axes(config).items()),
        tuple(_runtime(name, config) for name in RUNTIMES),
    )


def _flops(model: PreTrainedModel) -> Mapping[str, int]:
    try:
        return count_flops(zero_twin(model))
    except HfcompressError:
        return {}


def _tower(model: PreTrainedModel, tower: Tower, axes: tuple[AxisRecord, ...], flops: Mapping[str, int]) -> TowerRecord:
    module = model.get_submodule(tower.module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return TowerRecord(tower.name, tower.module, parameters, flops_of(flops, tower.module) if flops else None, axes)


def tower_axes(config: PretrainedConfig) -> dict[Tower, tuple[AxisRecord, ...]]:
    """Return what each tower of a model can lose, tried on the same model with as few blocks as it can have.

    Args:
        config: The configuration of the model; left as it is.
    """
    short = shallow(config)
    model = meta_model(short.config)
    try:
        couplings = tower_couplings(model)
        why = ""
    except HfcompressError as error:
        couplings = dict.fromkeys(find_towers(model), ())
        why = str(error)
    return {
        tower: (
            _units(short, tower, "ffn", found, why),
            _units(short, tower, "heads", found, why),
            _layers(short, tower, couplings),
            _width(short, tower),
        )
        for tower, found in couplings.items()
    }


def _units(short: Shallow, tower: Tower, axis: Axis, couplings: Iterable[Coupling], why: str) -> AxisRecord:
    """Try to remove half of the tower's heads or feed-forward units."""
    found = [coupling for coupling in couplings if coupling.axis == axis]
    groups = sorted({coupling.heads for coupling in found})
    granularity = f"multiple of {_MULTIPLE_OF}"
    if axis == "heads":
        shared = [group for group in groups if group > 1]
        granularity = "head" if not shared else f"key/value group of {' or '.join(map(str, shared))} heads"
    sizes = tuple(size for coupling in found for size in [coupling.size] * _repeats(short, coupling.name))
    if not found:
        why = why or f"no {'feed-forward layer' if axis == 'ffn' else 'attention with several heads'} was found"
        return AxisRecord(axis, (), granularity, "not possible", obstacle=why)
    try:
        trial = plan_pruning(short.config, {tower.name: {axis: _TRIAL_RATIO}}, multiple_of=1)
    except HfcompressError as error:
        return AxisRecord(axis, sizes, granularity, "not possible", obstacle=str(error))
    if trial.recorded:
        return AxisRecord(axis, sizes, granularity, "with import hfcompress")
    return _stock(axis, sizes, granularity, trial.edits)


def _layers(short: Shallow, tower: Tower, towers: Iterable[Tower]) -> AxisRecord:
    """Tell how the stacks of a tower became shorter."""

    def owner(stack: str) -> Tower:
        around = [one for one in towers if not one.module or f"{stack}.".startswith(f"{one.module}.")]
        return max(around, key=lambda one: len(one.module), default=tower)

    stacks = [stack for stack in short.depths if owner(stack) == tower]
    sizes = tuple(short.depths[stack] for stack in stacks)
    if not stacks:
        why = "it has no stack of two blocks or more"
        return AxisRecord("layers", (), "block", "not possible", obstacle=why)
    if obstacles := [short.obstacles[stack] for stack in stacks if stack in short.obstacles]:
        return AxisRecord("layers", sizes, "block", "not possible", obstacle=obstacles[0])
    return _stock("layers", sizes, "block", dict.fromkeys(edit for stack in stacks for edit in short.edits[stack]))


def _width(short: Shallow, tower: Tower) -> AxisRecord:
    """Try to make a tower half as wide."""
    try:
        trial = plan_width(short.config, tower, _TRIAL_RATIO, _MULTIPLE_OF)
    except HfcompressError as error:
        return AxisRecord("width", (), "", "not possible", obstacle=str(error))
    return _stock("width", (trial.width,), f"multiple of {trial.step}", trial.edits)


def _stock(axis: Axis, sizes: tuple[int, ...], granularity: str, edits: Iterable[Edit]) -> AxisRecord:
    keys = tuple(dict.fromkeys(edit.place for edit in edits))
    return AxisRecord(axis, sizes, granularity, "stock", keys, tuple(map(str, edits)))


def _repeats(short: Shallow, name: str) -> int:
    """Return how many layers of the model one layer of the shallow one stands for: those of the first block for all."""
    for stack, left in short.left.items():
        number, _, inside = name.removeprefix(f"{stack}.").partition(".")
        if name.startswith(f"{stack}.") and inside and left:
            return short.depths[stack] if number == "0" else 0
    return 1


def _runtime(name: str, config: PretrainedConfig) -> RuntimeRecord:
    try:
        if name in EXTRAS:
            require_extra(name)
        return RuntimeRecord(name, available=True, detail=RUNTIMES.get(name)().describe(config))
    except HfcompressError as error:
        return RuntimeRecord(name, available=False, detail=str(error))
