"""What in a model depends on the width of a tower's residual stream, and which fields of its configuration set it.

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
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError

from hfcompress.anatomy import find_towers, meta_model, shapes_of, sub_configs
from hfcompress.errors import CheckpointError
from hfcompress.pruning.attention import attention_couplings
from hfcompress.pruning.config_surgery import Edit
from hfcompress.pruning.coupling import Coupling, Member, enclosing_stack, layer_parameters
from hfcompress.pruning.graph import feed_forward_couplings
from hfcompress.twin import probes_of, zero_twin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.anatomy import Tower

    Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
    Place: TypeAlias = tuple[str, int]
    """A parameter and one of its dimensions."""

__all__ = [
    "REFUSALS",
    "Dependence",
    "Slot",
    "Source",
    "Unfit",
    "field_choices",
    "find_dependence",
    "model_of",
    "named",
    "places_of",
    "reread",
    "source_of",
    "sub_parts",
]

REFUSALS = (CheckpointError, StrictDataclassError, ValueError, TypeError, KeyError, AttributeError)
"""What a configuration raises on fields that contradict each other."""


@dataclass(frozen=True)
class Slot:
    """A field of a configuration, or an entry of one, that holds an integer."""

    part: str
    field: str
    index: int | None
    value: int

    def scaled(self, factor: Fraction) -> Edit:
        """Return the edit that makes it so many times as large."""
        return Edit(self.part, self.field, self.value, int(self.value * factor), self.index)


@dataclass(frozen=True)
class Source:
    """The model as it is, on the meta device."""

    config: PretrainedConfig
    model: PreTrainedModel
    shapes: Shapes
    buffers: Shapes
    probed: frozenset[str]
    heads: Mapping[str, Coupling]
    hidden: tuple[Coupling, ...]
    prefixes: tuple[str, ...]
    """What the names of each tower's parameters begin with."""


@dataclass(frozen=True)
class Dependence:
    """What grows with some fields of a configuration."""

    places: Mapping[Place, int]
    tied: tuple[Coupling, ...]
    fields: tuple[Slot, ...]
    heads: tuple[Slot, ...]


class Unfit(Exception):  # noqa: N818 - no error: another choice of fields may do
    """A choice of fields that does not make a narrower model."""


def source_of(config: PretrainedConfig) -> Source:
    """Build the model of a configuration and look at what it is made of.

    What it was before is kept: each tower of a model asks again.
    """
    described = f"{type(config).__name__} {config.to_json_string(use_diff=False)}"
    if described not in _SOURCES:
        _SOURCES[described] = _look(config)
    return _SOURCES[described]


def _look(config: PretrainedConfig) -> Source:
    model = meta_model(config)
    twin = zero_twin(model)
    inside = [f"{tower.module}." for tower in find_towers(model) if tower.module]
    return Source(
        config,
        model,
        shapes_of(model),
        _buffers(model),
        frozenset(probe.module for probe in probes_of(twin)),
        _heads(model, twin),
        feed_forward_couplings(model, twin),
        tuple(inside),
    )


_SOURCES: dict[str, Source] = {}
"""Class and configuration → the model, for that of the last towers is asked for again and again."""


def _buffers(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what a model computes for itself when it is made."""
    saved = model.state_dict().keys()
    return {name: tuple(buffer.shape) for name, buffer in model.named_buffers() if name not in saved}


def _heads(model: PreTrainedModel, twin: PreTrainedModel) -> dict[str, Coupling]:
    """Return the attention heads of a model by name, those of torch's own module included, which hides its softmax."""
    found = {coupling.name: coupling for coupling in attention_couplings(model, twin)}
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


def sub_parts(config: PretrainedConfig, path: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    """Yield a configuration and those inside of it, each with its dotted path."""
    yield path, config
    for key, part in sub_configs(config).items():
        yield from sub_parts(part, f"{path}.{key}" if path else key)


def _slots(config: PretrainedConfig) -> Iterator[Slot]:
    """Yield every integer of a configuration."""
    for part, holder in sub_parts(config):
        for field, value in vars(holder).items():
            if field.startswith("_") or field.endswith(("_id", "_ids", "_token_index")):
                continue
            for index, entry in enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]:
                if type(entry) is int and entry > 0:
                    yield Slot(part, field, index, entry)


def reread(config: PretrainedConfig, edits: Sequence[Edit] = ()) -> PretrainedConfig:
    """Return a configuration as it is once it has been edited, saved and loaded: some set fields from other fields."""
    edited = copy.deepcopy(config)
    for edit in edits:
        holder = edited
        for name in filter(None, edit.part.split(".")):
            holder = getattr(holder, name)
        if edit.index is None:
            setattr(holder, edit.field, edit.after)
        else:
            entries = [*getattr(holder, edit.field)]
            entries[edit.index] = edit.after
            setattr(holder, edit.field, entries)
    return type(config).from_dict(edited.to_dict())


def model_of(config: PretrainedConfig, edits: Sequence[Edit]) -> PreTrainedModel:
    """Build the model of an edited configuration on the meta device."""
    try:
        return meta_model(reread(config, edits))
    except REFUSALS as error:
        changed = ", ".join(map(str, edits))
        msg = f"no model can be built with {changed} ({error})"
        raise Unfit(msg) from error


def field_choices(source: Source, tower: Tower) -> Iterator[tuple[Slot, ...]]:
    """Yield the fields that could hold the width of a tower's residual stream, most likely first."""
    inside = {name: shape for name, shape in source.shapes.items() if name.startswith(_prefix(tower.module))}
    slots = [slot for slot in _slots(source.config) if slot.index is None]
    here = [slot for slot in slots if f"{slot.part}.".startswith(_prefix(tower.config_key))]
    likely = [slot for slot in here if _most(slot.value in shape for shape in inside.values())]
    grown: dict[Slot, int] = {}
    for slot in likely:
        try:
            wide = shapes_of(model_of(source.config, [slot.scaled(Fraction(2))]))
        except Unfit:
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


def find_dependence(source: Source, fields: tuple[Slot, ...]) -> Dependence:
    """Find what depends on some fields that all hold the width."""
    width = fields[0].value
    doubled = [slot.scaled(Fraction(2)) for slot in fields]
    grown = _grown(source, model_of(source.config, doubled))
    tied = tuple(coupling for coupling in source.heads.values() if places_of([coupling]) & grown.keys())
    heads = _head_fields(source, fields, doubled, tied)
    wide = model_of(source.config, [*doubled, *(slot.scaled(Fraction(2)) for slot in heads)])
    grown = _grown(source, wide)
    buffers = _buffers(wide)
    if changed := [name for name, shape in source.buffers.items() if buffers.get(name) != shape]:
        msg = f"{changed[0]} is computed from the width when the model is made, and no weight says it"
        raise Unfit(msg)
    _require_runs(source, wide, fields)
    settled = places_of([*tied, *source.hidden])
    places = {}
    for (name, dimension), more in grown.items():
        if (name, dimension) not in settled:
            if more % width or more != source.shapes[name][dimension]:
                msg = (
                    f"dimension {dimension} of {name} has {source.shapes[name][dimension]} channels, and it cannot be "
                    f"told which of them are the {width} channels of the residual stream"
                )
                raise Unfit(msg)
            places[name, dimension] = more // width
    return Dependence(places, tied, fields, heads)


def _grown(source: Source, wide: PreTrainedModel) -> dict[Place, int]:
    """Return the dimensions that have grown, and by how much."""
    shapes = shapes_of(wide)
    if shapes.keys() != source.shapes.keys():
        example = min(shapes.keys() ^ source.shapes.keys())
        msg = f"another width changes which parameters there are ({example})"
        raise Unfit(msg)
    return {
        (name, dimension): after - before
        for name, shape in source.shapes.items()
        for dimension, (before, after) in enumerate(zip(shape, shapes[name], strict=True))
        if after != before
    }


def places_of(couplings: Sequence[Coupling]) -> set[Place]:
    """Return the parameters, and their dimensions, that hold the units."""
    return {
        (f"{member.module}.{name}", dimension)
        for coupling in couplings
        for member in coupling.members
        for name, dimension in member.parameters
    }


def _head_fields(
    source: Source, fields: tuple[Slot, ...], doubled: list[Edit], tied: tuple[Coupling, ...]
) -> tuple[Slot, ...]:
    """Find the fields to double with the width so that each head keeps its size and there are twice as many.

    Shapes do not tell: a model with the same heads twice as wide has the same ones.
    """
    counts = {coupling.size * group for coupling in tied for group in _group_sizes(coupling)}
    lists: dict[tuple[str, str], list[Slot]] = {}
    for slot in _slots(source.config):
        if slot.value in counts:
            lists.setdefault((slot.part, slot.field), []).append(slot)
    groups = [tuple(group) for group in lists.values()]
    pairs = [one + other for one, other in itertools.combinations(groups, 2) if one[0].part == other[0].part]
    chosen: tuple[Slot, ...] = ()
    right = 0
    for group in (*groups, *pairs):
        if right == len(tied):
            break
        if any(slot in chosen for slot in group):
            continue
        now = _right_heads(source, [*doubled, *(slot.scaled(Fraction(2)) for slot in (*chosen, *group))], tied)
        if now > right:
            chosen, right = (*chosen, *group), now
    if right < len(tied):
        _require_runs(source, model_of(source.config, doubled), fields)
        msg = (
            f"the width sets the size of attention heads, and no field of the configuration sets their number "
            f"({tied[0].name} has {tied[0].size})"
        )
        raise Unfit(msg)
    return chosen


def _group_sizes(coupling: Coupling) -> set[int]:
    """Return how many heads a unit can be: one, or as many as share a key."""
    widths = {member.width for member in coupling.members if member.role != "follows"}
    return {1, max(widths) // min(widths)}


def _right_heads(source: Source, edits: list[Edit], tied: tuple[Coupling, ...]) -> int:
    """Count the heads that are twice as many and no wider than they were."""
    try:
        wide = model_of(source.config, edits)
        if shapes_of(wide).keys() != source.shapes.keys():
            return 0
        found = _heads(wide, zero_twin(wide))
    except (Unfit, CheckpointError):
        return 0
    return sum(
        coupling.name in found
        and found[coupling.name].size == 2 * coupling.size
        and _widths(found[coupling.name]) == _widths(coupling)
        for coupling in tied
    )


def _widths(coupling: Coupling) -> Counter[tuple[str, str, int]]:
    return Counter((member.module, member.role, member.width) for member in coupling.members)


def _require_runs(source: Source, wide: PreTrainedModel, fields: tuple[Slot, ...]) -> None:
    """Make sure that the parts of a wider model still fit together."""
    try:
        probed = frozenset(probe.module for probe in probes_of(zero_twin(wide)))
    except CheckpointError:
        probed = frozenset()
    if probed != source.probed:
        msg = f"a part of the model that reads the residual stream has its width from elsewhere than {named(fields)}"
        raise Unfit(msg)
    if "" in probed:
        return
    # the parts were run one by one, so nothing has shown whether what joins them still fits
    width = fields[0].value
    after = shapes_of(wide)
    modules = dict(source.model.named_modules())
    towers = [[name for name in after if name.startswith(prefix)] for prefix in source.prefixes]
    grown = {name for names in towers if _most(after[name] != source.shapes[name] for name in names) for name in names}
    for name in after.keys() - grown:
        # inside of another tower only a linear map can hand over what it gives, and one that is in no block
        if any(name.startswith(prefix) for prefix in source.prefixes) and len(after[name]) != 2:  # noqa: PLR2004
            continue
        for before, now in zip(source.shapes[name], after[name], strict=True):
            if before == width == now and enclosing_stack(name, modules) is None:
                msg = f"{name} has a dimension of {width} that does not follow {named(fields)}"
                raise Unfit(msg)


def named(fields: tuple[Slot, ...]) -> str:
    """Return the fields as a person would write them."""
    return " and ".join(f"{slot.part}.{slot.field}".strip(".") for slot in fields)
