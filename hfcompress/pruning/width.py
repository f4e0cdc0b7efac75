"""How a tower becomes narrower: what depends on the width of its residual stream, and which configuration says less.

Nothing here knows a model. Two models are built on the meta device, one of the configuration as it is and one in which
the field that holds the width is doubled, with the numbers of attention heads in step where the width ties them. Every
dimension that has grown depends on the width. `attention_couplings` tells which of those are heads, and
`feed_forward_couplings` which are hidden units, which stay as many as they were; all others are the residual stream, or
several of it side by side. It may take more than one field, as where a second tower reads what the first one gives; a
choice of fields counts when the wider model still has the same parameters and still runs.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError

from hfcompress.anatomy import find_towers, meta_model, shapes_of, sub_configs
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.narrowing import record_in
from hfcompress.probes import find_probes
from hfcompress.pruning.attention import attention_couplings
from hfcompress.pruning.config_surgery import Edit, fit_config
from hfcompress.pruning.coupling import Coupling, Member, layer_parameters
from hfcompress.pruning.graph import feed_forward_couplings, zero_twin
from hfcompress.pruning.surgery import Removal, slice_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.anatomy import Tower

    Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
    Place: TypeAlias = tuple[str, int]
    """A parameter and one of its dimensions."""

__all__ = ["HeadCut", "WidthPlan", "plan_width"]

_REFUSALS = (CheckpointError, StrictDataclassError, ValueError, TypeError, KeyError, AttributeError)
"""What a configuration raises on fields that contradict each other."""


@dataclass(frozen=True)
class HeadCut:
    """Attention heads that go in step with the width.

    Attributes:
        couplings: One, or all that share a table or a layer, and so must keep the same heads.
        keep: Number of units that stay.
    """

    couplings: tuple[Coupling, ...]
    keep: int

    @property
    def size(self) -> int:
        """Number of units before."""
        return self.couplings[0].size

    def removals(self, kept: torch.Tensor) -> list[Removal]:
        """Return what goes when these units stay."""
        return [Removal(coupling, kept) for coupling in self.couplings]


@dataclass(frozen=True)
class WidthPlan:
    """How much narrower a residual stream becomes, and the configuration that says it.

    Attributes:
        width: Channels of the residual stream before.
        keep: Channels that stay.
        places: Dimension of each entry of the state dict that holds channels of the stream → how many times it holds
            all of them, side by side.
        heads: Attention heads that go in step.
        config: The stock configuration of the narrower model.
        edits: How it differs from that of the source.
        shapes: Shape of each entry of the source's state dict.
    """

    width: int
    keep: int
    places: Mapping[Place, int]
    heads: tuple[HeadCut, ...]
    config: PretrainedConfig
    edits: tuple[Edit, ...]
    shapes: Shapes

    def blocks(self, channels: torch.Tensor, count: int) -> torch.Tensor:
        """Return where these channels of the stream lie in a dimension that holds all of them `count` times."""
        return (torch.arange(count)[:, None] * self.width + channels).flatten()

    @property
    def removed_parameters(self) -> int:
        """Number of parameters that go."""
        after = _sliced(self.shapes, self.places, self.width - self.keep, self.heads)
        return sum(math.prod(self.shapes[name]) - math.prod(shape) for name, shape in after.items())


@dataclass(frozen=True)
class _Slot:
    """A field of a configuration, or an entry of one, that holds an integer."""

    part: str
    field: str
    index: int | None
    value: int

    def scaled(self, factor: Fraction) -> Edit:
        """Return the edit that makes it so many times as large."""
        return Edit(self.part, self.field, self.value, int(self.value * factor), self.index)


@dataclass(frozen=True)
class _Source:
    """The model as it is, on the meta device."""

    config: PretrainedConfig
    model: PreTrainedModel
    shapes: Shapes
    buffers: Shapes
    probed: frozenset[str]
    heads: Mapping[str, Coupling]
    hidden: tuple[Coupling, ...]
    between: frozenset[str]
    """Parameters that belong to no tower."""


@dataclass(frozen=True)
class _Dependence:
    """What grows with some fields of a configuration."""

    places: Mapping[Place, int]
    tied: tuple[Coupling, ...]
    fields: tuple[_Slot, ...]
    heads: tuple[_Slot, ...]


def plan_width(config: PretrainedConfig, tower: Tower, ratio: float, multiple_of: int = 8) -> WidthPlan:
    """Settle how much narrower a tower becomes, and prove on the meta device that a stock configuration says it.

    Towers that share a width become narrower together: the plan of either is the same.

    Args:
        config: The configuration of the model; left as it is.
        tower: The tower.
        ratio: Fraction of the channels of its residual stream that go.
        multiple_of: The kept width is rounded up to a multiple of this, and of the heads that it is tied to.

    Raises:
        PruningError: No stock configuration says a narrower tower, or nothing would be removed.
    """
    if record_in(config) is not None:
        msg = (
            f"the width of the tower {tower.name!r} cannot change once another pruning has left shapes that stand beside "
            f"the configuration; remove `width` first"
        )
        raise PruningError(msg)
    source = _source_of(_reread(config))
    reasons: list[str] = []
    if not any(isinstance(module, torch.nn.ModuleList) for module in source.model.get_submodule(tower.module).modules()):
        msg = f"the tower {tower.name!r} has no blocks, so it has no residual stream to make narrower"
        raise PruningError(msg)
    for fields in _field_choices(source, tower):
        try:
            return _plan(source, _dependence(source, fields), ratio, multiple_of)
        except _Unfit as error:
            reasons.append(str(error))
    why = reasons[0] if reasons else "no field of its configuration is a dimension of most of its parameters"
    msg = f"the width of the tower {tower.name!r} cannot change: {why}"
    raise PruningError(msg)


class _Unfit(Exception):  # noqa: N818 - no error: another choice of fields may do
    """A choice of fields that does not make a narrower model."""


def _source_of(config: PretrainedConfig) -> _Source:
    model = meta_model(config)
    twin = zero_twin(model)
    inside = [f"{tower.module}." for tower in find_towers(model) if tower.module]
    return _Source(
        config,
        model,
        shapes_of(model),
        _buffers(model),
        frozenset(probe.module for probe in find_probes(twin)),
        _heads(model),
        feed_forward_couplings(model, twin),
        frozenset(name for name in shapes_of(model) if not any(name.startswith(prefix) for prefix in inside)),
    )


def _buffers(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a model computes for itself when it is made."""
    saved = model.state_dict().keys()
    return {name: tuple(buffer.shape) for name, buffer in model.named_buffers() if name not in saved}


def _heads(model: PreTrainedModel) -> dict[str, Coupling]:
    """Return the attention heads of a model by name, those of torch's own module included, which hides its softmax."""
    found = {coupling.name: coupling for coupling in attention_couplings(model, zero_twin(model))}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.MultiheadAttention) and module.in_proj_weight is not None:
            rows = [("in_proj_weight", 0)] + [("in_proj_bias", 0)] * (module.in_proj_bias is not None)
            width = module.head_dim
            produced = [
                Member(name, "produces", tuple(rows), block * module.embed_dim, width, width) for block in range(3)
            ]
            reader = layer_parameters(module.out_proj, "consumes")
            consumer = Member(f"{name}.out_proj", "consumes", reader, 0, width, width)
            found[name] = Coupling(name, "heads", module.num_heads, (*produced, consumer))
    return found


def _parts(config: PretrainedConfig, path: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    yield path, config
    for key, part in sub_configs(config).items():
        yield from _parts(part, f"{path}.{key}" if path else key)


def _slots(config: PretrainedConfig) -> Iterator[_Slot]:
    """Yield every integer of a configuration."""
    for part, holder in _parts(config):
        for field, value in vars(holder).items():
            if field.startswith("_") or field.endswith(("_id", "_ids", "_token_index")):
                continue
            for index, entry in enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]:
                if type(entry) is int and entry > 0:
                    yield _Slot(part, field, index, entry)


def _reread(config: PretrainedConfig, edits: Sequence[Edit] = ()) -> PretrainedConfig:
    """Return a configuration as it is once it has been edited, saved and loaded: some set fields from other fields."""
    edited = copy.deepcopy(config)
    for edit in edits:
        holder = edited
        for name in filter(None, edit.part.split(".")):
            holder = getattr(holder, name)
        value = edit.after
        if edit.index is not None:
            value = [*getattr(holder, edit.field)]
            value[edit.index] = edit.after
        setattr(holder, edit.field, value)
    return type(config).from_dict(edited.to_dict())


def _model_of(config: PretrainedConfig, edits: Sequence[Edit]) -> PreTrainedModel:
    """Build the model of an edited configuration on the meta device."""
    try:
        return meta_model(_reread(config, edits))
    except _REFUSALS as error:
        changed = ", ".join(map(str, edits))
        msg = f"no model can be built with {changed} ({error})"
        raise _Unfit(msg) from error


def _field_choices(source: _Source, tower: Tower) -> Iterator[tuple[_Slot, ...]]:
    """Yield the fields that could hold the width of a tower's residual stream, most likely first."""
    inside = {name: shape for name, shape in source.shapes.items() if name.startswith(_prefix(tower.module))}
    slots = [slot for slot in _slots(source.config) if slot.index is None]
    here = [slot for slot in slots if f"{slot.part}.".startswith(_prefix(tower.config_key))]
    likely = [slot for slot in here if _most(slot.value in shape for shape in inside.values())]
    grown: dict[_Slot, int] = {}
    for slot in likely:
        try:
            wide = shapes_of(_model_of(source.config, [slot.scaled(Fraction(2))]))
        except _Unfit:
            grown[slot] = 0  # another field may have to change with it
            continue
        if _most(wide.get(name) != shape for name, shape in inside.items()):
            grown[slot] = sum(wide.get(name) != shape for name, shape in source.shapes.items())
    for first in sorted(grown, key=lambda slot: -grown[slot]):
        others = [slot for slot in slots if slot.value == first.value and slot != first]
        yield (first,)
        for other in others:
            yield (first, other)
        if len(others) > 1:
            yield (first, *(slot for slot in others if slot.part == first.part))
            yield (first, *others)


def _prefix(path: str) -> str:
    return f"{path}." if path else ""


def _most(answers: Iterable[bool]) -> bool:
    counted = Counter(answers)
    return counted[True] > counted[False]


def _dependence(source: _Source, fields: tuple[_Slot, ...]) -> _Dependence:
    """Find what depends on some fields that all hold the width."""
    width = fields[0].value
    doubled = [slot.scaled(Fraction(2)) for slot in fields]
    grown = _grown(source, _model_of(source.config, doubled))
    tied = tuple(coupling for coupling in source.heads.values() if _places_of([coupling]) & grown.keys())
    heads = _head_fields(source, fields, doubled, tied)
    wide = _model_of(source.config, [*doubled, *(slot.scaled(Fraction(2)) for slot in heads)])
    grown = _grown(source, wide)
    buffers = _buffers(wide)
    if changed := [name for name, shape in source.buffers.items() if buffers.get(name) != shape]:
        msg = f"{changed[0]} is computed from the width when the model is made, and no weight says it"
        raise _Unfit(msg)
    _require_runs(source, wide, fields)
    settled = _places_of([*tied, *source.hidden])
    places = {}
    for (name, dimension), more in grown.items():
        if (name, dimension) not in settled:
            if more % width or more != source.shapes[name][dimension]:
                msg = (
                    f"dimension {dimension} of {name} has {source.shapes[name][dimension]} channels, and it cannot be told "
                    f"which of them are the {width} channels of the residual stream"
                )
                raise _Unfit(msg)
            places[name, dimension] = more // width
    return _Dependence(places, tied, fields, heads)


def _grown(source: _Source, wide: PreTrainedModel) -> dict[Place, int]:
    """Return the dimensions that have grown, and by how much."""
    shapes = shapes_of(wide)
    if shapes.keys() != source.shapes.keys():
        example = min(shapes.keys() ^ source.shapes.keys())
        msg = f"another width changes which parameters there are ({example})"
        raise _Unfit(msg)
    return {
        (name, dimension): after - before
        for name, shape in source.shapes.items()
        for dimension, (before, after) in enumerate(zip(shape, shapes[name], strict=True))
        if after != before
    }


def _places_of(couplings: Sequence[Coupling]) -> set[Place]:
    return {
        (f"{member.module}.{name}", dimension)
        for coupling in couplings
        for member in coupling.members
        for name, dimension in member.parameters
    }


def _head_fields(
    source: _Source, fields: tuple[_Slot, ...], doubled: list[Edit], tied: tuple[Coupling, ...]
) -> tuple[_Slot, ...]:
    """Find the fields to double with the width so that each head keeps its size and there are twice as many.

    Shapes do not tell: a model with the same heads twice as wide has the same ones.
    """
    counts = {coupling.size * group for coupling in tied for group in _group_sizes(coupling)}
    lists: dict[tuple[str, str], list[_Slot]] = {}
    for slot in _slots(source.config):
        if slot.value in counts:
            lists.setdefault((slot.part, slot.field), []).append(slot)
    groups = [tuple(group) for group in lists.values()]
    pairs = [one + other for one, other in itertools.combinations(groups, 2) if one[0].part == other[0].part]
    chosen: tuple[_Slot, ...] = ()
    right = _right_heads(source, doubled, tied)
    for group in (*groups, *pairs):
        if right == len(tied):
            break
        if any(slot in chosen for slot in group):
            continue
        now = _right_heads(source, [*doubled, *(slot.scaled(Fraction(2)) for slot in (*chosen, *group))], tied)
        if now > right:
            chosen, right = (*chosen, *group), now
    if right < len(tied):
        _require_runs(source, _model_of(source.config, doubled), fields)
        msg = (
            f"the width sets the size of attention heads, and no field of the configuration sets their number "
            f"({tied[0].name} has {tied[0].size})"
        )
        raise _Unfit(msg)
    return chosen


def _group_sizes(coupling: Coupling) -> set[int]:
    """Return how many heads a unit can be: one, or as many as share a key."""
    widths = {member.width for member in coupling.members if member.role != "follows"}
    return {1, max(widths) // min(widths)}


def _right_heads(source: _Source, edits: list[Edit], tied: tuple[Coupling, ...]) -> int:
    """Count the heads that are twice as many and no wider than they were."""
    try:
        wide = _model_of(source.config, edits)
        if shapes_of(wide).keys() != source.shapes.keys():
            return 0
        found = _heads(wide)
    except (_Unfit, CheckpointError):
        return 0
    return sum(
        coupling.name in found
        and found[coupling.name].size == 2 * coupling.size
        and _widths(found[coupling.name]) == _widths(coupling)
        for coupling in tied
    )


def _widths(coupling: Coupling) -> Counter[tuple[str, str, int]]:
    return Counter((member.module, member.role, member.width) for member in coupling.members)


def _require_runs(source: _Source, wide: PreTrainedModel, fields: tuple[_Slot, ...]) -> None:
    """Make sure that the parts of a wider model still fit together."""
    try:
        probed = frozenset(probe.module for probe in find_probes(zero_twin(wide)))
    except CheckpointError:
        probed = frozenset()
    if probed != source.probed:
        msg = f"a part of the model that reads the residual stream has its width from elsewhere than {_named(fields)}"
        raise _Unfit(msg)
    if "" in probed:
        return
    # the parts were run one by one, so nothing has shown whether what joins them still fits
    width = fields[0].value
    after = shapes_of(wide)
    for name in source.between:
        for before, now in zip(source.shapes[name], after[name], strict=True):
            if before == width == now:
                msg = f"{name} has a dimension of {width} that does not follow {_named(fields)}"
                raise _Unfit(msg)


def _named(fields: tuple[_Slot, ...]) -> str:
    return " and ".join(f"{slot.part}.{slot.field}".strip(".") for slot in fields)


def _plan(source: _Source, found: _Dependence, ratio: float, multiple_of: int) -> WidthPlan:
    """Find the narrower configuration."""
    width = found.fields[0].value
    step = math.lcm(multiple_of, *(width // math.gcd(width, coupling.size) for coupling in found.tied))
    keep = math.ceil((width - math.floor(width * ratio)) / step) * step
    if keep >= width:
        msg = (
            f"nothing would be removed: {_named(found.fields)} is {width}, can only become a multiple of {step} "
            f"(multiple_of: {multiple_of}, and whole attention heads where it is tied to them), and a ratio of {ratio} "
            f"leaves {math.ceil(width * (1 - ratio))}, which rounds up"
        )
        raise PruningError(msg)
    share = Fraction(keep, width)
    edits = [slot.scaled(share) for slot in (*found.fields, *found.heads)]
    heads = tuple(HeadCut(joint, int(joint[0].size * share)) for joint in _joint(found.tied))
    wanted = _sliced(source.shapes, found.places, width - keep, heads)
    _model_of(source.config, edits)  # refuses where it cannot be built
    fit = fit_config(_reread(source.config, edits), wanted)
    config = _reread(fit.config)
    if shapes_of(_model_of(config, ())) != wanted:
        example = min(fit.wrong, default="a parameter")
        msg = f"with {', '.join(map(str, edits))}, {example} has a shape that no other field sets right"
        raise _Unfit(msg)
    return WidthPlan(width, keep, found.places, heads, config, (*edits, *fit.edits), source.shapes)


def _sliced(shapes: Shapes, places: Mapping[Place, int], gone: int, heads: Sequence[HeadCut]) -> dict[str, tuple[int, ...]]:
    """Return the shapes once `gone` channels of the residual stream and the heads in step are removed."""
    sliced = slice_shapes(shapes, [removal for cut in heads for removal in cut.removals(torch.arange(cut.keep))])
    for (name, dimension), blocks in places.items():
        shape = sliced[name]
        sliced[name] = (*shape[:dimension], shape[dimension] - blocks * gone, *shape[dimension + 1 :])
    return sliced


def _joint(couplings: Sequence[Coupling]) -> list[tuple[Coupling, ...]]:
    """Bring together the couplings that share a parameter, and so must keep the same heads."""
    groups: list[tuple[set[Place], tuple[Coupling, ...]]] = []
    for coupling in couplings:
        places = _places_of([coupling])
        sharing = [group for group in groups if group[0] & places]
        groups = [group for group in groups if not group[0] & places]
        merged = tuple(one for group in sharing for one in group[1])
        groups.append((places.union(*(group[0] for group in sharing)), (*merged, coupling)))
    return [group[1] for group in groups]
