"""What a configuration says about single blocks: how many there are, one entry for each, and numbers that name some.

A number of a block or of a hidden state is told by its field's name alone ("vision_feature_layer",
"fullatt_block_indexes"), by no list of known fields. Whether it is read as the number of a block or of a hidden state
does not matter: the k-th hidden state is what block k reads, and it is what the block that comes to stand in its place
reads. A block that a list of numbers names must stay.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, TypeGuard

from huggingface_hub.errors import StrictDataclassError

from hfcompress.anatomy import meta_model
from hfcompress.errors import CheckpointError, PruningError
from hfcompress.pruning.config_edits import Edit, apply_edits, fields, holder_of, holders
from hfcompress.pruning.depth import Blocks, Stack, blocks_of, find_stacks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PretrainedConfig

__all__ = [
    "count_edits",
    "count_field",
    "derived_edits",
    "index_edits",
    "indexed_blocks",
    "known_counts",
    "stack_groups",
    "unsettled",
]

_NUMBERED = frozenset({"layer", "layers", "block", "blocks", "index", "indexes", "indices", "idx"})
"""Words in the names of fields that list blocks by number."""
_NUMBER = frozenset({"layer", "index", "idx"})
"""Words in the names of fields that hold the number of one block."""
_PER_BLOCK = frozenset({"layer", "layers", "block", "blocks"})
"""Words in the names of fields with one entry for each block."""
_NO_NUMBER = frozenset(
    {
        *("num", "n", "size", "sizes", "type", "types", "dim", "dims", "token", "tokens", "kernel", "repeats", "count"),
        *("freq", "frequency", "period", "offset", "group", "groups", "ignore", "norm", "drop", "dropout", "per"),
        *("multiple", "ratio", "channels", "step", "pattern", "interval", "scale", "init"),
    }
)
"""Words that tell of a field that it holds a size or a count."""


def _words(name: str) -> set[str]:
    return set(re.split(r"[_.]", name.lower()))


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def count_edits(
    config: PretrainedConfig, blocks: Sequence[Blocks], counts: Mapping[str, Edit] | None = None
) -> Iterator[tuple[Edit, ...]]:
    """Yield the ways in which a configuration could say that a stack has fewer blocks.

    A field or an entry of a list that equals their number becomes what is left. Fields with one entry for each block
    lose those of the removed ones at once, for some configurations must never disagree with themselves. A field that
    numbers blocks may set shapes too, so the numbers alone are a way as well.

    Args:
        config: The configuration, as edited so far.
        blocks: The stacks that lose blocks, and which blocks stay.
        counts: Name of a stack → an edit of the field that says how many blocks it has, where that is known.
    """
    for stack, kept in blocks:
        count = (counts or {}).get(stack.name)
        for move in _ways(config, stack, kept):
            numbers = move[0].before != stack.size and move[0].before is not None
            if count is None or move[0].same_place(count) or (numbers and move[0].part == count.part):
                yield move


def _ways(config: PretrainedConfig, stack: Stack, kept: Sequence[int]) -> Iterator[tuple[Edit, ...]]:
    """Yield the ways in which some field could say that one stack has fewer blocks."""
    for part, holder in holders(config):
        cuts = tuple(_cuts(part, holder, stack, kept))
        for field, value in fields(holder):
            if _whole(value) and value == stack.size:
                yield (Edit(part, field, value, len(kept)), *cuts)
            elif value is None and _words(field) & _PER_BLOCK:
                yield (Edit(part, field, None, len(kept)), *cuts)
            elif isinstance(value, (list, tuple)):
                for index, entry in enumerate(value):
                    if _whole(entry) and entry == stack.size:
                        yield (Edit(part, field, entry, len(kept), index),)
        for edit in _renumbered(part, holder, stack, kept):
            yield (edit,)


def _cuts(part: str, holder: PretrainedConfig, stack: Stack, kept: Sequence[int]) -> Iterator[Edit]:
    """Yield the lists of one part with an entry for each block, without those of the removed ones."""
    for field, value in fields(holder):
        if not isinstance(value, (list, tuple)) or len(value) != stack.size or not _words(field) & _PER_BLOCK:
            continue
        numbers = _whole(value[0]) and list(value) == sorted(set(value)) and not _words(field) & _NO_NUMBER
        if not numbers:
            yield Edit(part, field, value, type(value)(value[block] for block in kept))


def _numbers(holder: PretrainedConfig, stack: Stack) -> Iterator[tuple[str, int | list[int] | tuple[int, ...]]]:
    """Yield the fields of one part that hold what could be numbers of blocks of the stack."""
    for field, value in fields(holder):
        words = _words(field)
        if words & _NO_NUMBER:
            continue
        entries: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
        if not words & (_NUMBERED if isinstance(value, (list, tuple)) else _NUMBER):
            continue
        numbers = [entry for entry in entries if _whole(entry) and -stack.size - 1 <= entry <= stack.size]
        if entries and len(numbers) == len(entries):
            yield field, value if isinstance(value, (list, tuple)) else numbers[0]


def _renumbered(part: str, holder: PretrainedConfig, stack: Stack, kept: Sequence[int]) -> Iterator[Edit]:
    """Yield the numbers of one part as they must be if they number blocks of the stack, where that changes them."""

    def moved(number: int) -> int:
        counted = number if number >= 0 else stack.size + 1 + number
        place = sum(block < counted for block in kept)
        return place if number >= 0 else place - len(kept) - 1

    for field, value in _numbers(holder, stack):
        after = moved(value) if isinstance(value, int) else type(value)(moved(number) for number in value)
        if after != value:
            yield Edit(part, field, value, after)


def derived_edits(config: PretrainedConfig, edit: Edit) -> Iterator[Edit]:
    """Yield the fields that the configuration's own class works out from the edited one, such as a second name of it.

    Args:
        config: The configuration before the edit.
        edit: An edit of a number of blocks.
    """
    holder = holder_of(config, edit.part)
    edited = copy.deepcopy(config)
    apply_edits(edited, [edit])
    before, after = holder.to_dict(), holder_of(edited, edit.part).to_dict()
    for field, value in fields(holder):
        if field == edit.field or field not in before or not (_whole(value) or isinstance(value, dict)):
            continue
        try:
            was, becomes = (
                getattr(type(holder).from_dict({key: item for key, item in said.items() if key != field}), field, None)
                for said in (before, after)
            )
        except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError):
            continue
        if was == value and becomes != value:
            yield Edit(edit.part, field, value, becomes)


def count_field(config: PretrainedConfig, stack: Stack) -> tuple[Edit, tuple[Stack, ...]] | None:
    """Find the field that says how many blocks a stack has, by making it say one less.

    Returns:
        That edit, and every stack that is shorter with it, as they are before; `None` where no field says it.
    """
    stacks = find_stacks(meta_model(config))
    for edits in count_edits(config, [(stack, range(stack.size - 1))]):
        if not _whole(edits[0].after) or edits[0].after != stack.size - 1:
            continue
        edited = copy.deepcopy(config)
        try:
            apply_edits(edited, edits)
            model = meta_model(edited)
            shorter = tuple(other for other in stacks if len(blocks_of(model, other)) == other.size - 1)
        except (CheckpointError, StrictDataclassError, AttributeError):
            continue
        if stack in shorter:
            return edits[0], shorter
    return None


def known_counts(config: PretrainedConfig, blocks: Sequence[Blocks]) -> dict[str, Edit]:
    """Return the field that says how many blocks there are for each stack of which another is as large."""
    sizes = [stack.size for stack, _ in blocks]
    found = {stack.name: count_field(config, stack) for stack, _ in blocks if sizes.count(stack.size) > 1}
    return {name: field[0] for name, field in found.items() if field is not None}


def stack_groups(config: PretrainedConfig) -> tuple[tuple[Stack, ...], ...]:
    """Return the stacks whose number of blocks one field says: they can only be shortened together, to one size."""
    groups: list[tuple[Stack, ...]] = []
    for stack in find_stacks(meta_model(config)):
        if not any(stack in group for group in groups):
            found = count_field(config, stack)
            groups.append(found[1] if found else (stack,))
    return tuple(groups)


def _owned(config: PretrainedConfig, stack: Stack, count: Edit) -> Iterator[tuple[str, bool]]:
    """Yield the parts whose numbers may be those of the stack's blocks, and whether no other stack is in question.

    Those of the part that says how many blocks there are. And those of the parts around it, where the field's name
    begins as that part's does: `vision_feature_layer` beside `vision_config`.
    """
    if count.index is not None:
        return  # one stage of several: whoever numbers layers there numbers stages
    rivals = False
    for other in find_stacks(meta_model(config)):
        if other != stack and other.size != 1:
            found = count_field(config, other)
            rivals |= found is not None and found[0].part == count.part
    for part, _ in holders(config):
        if part == count.part or not part or count.part.startswith(f"{part}."):
            yield part, not rivals


def _belongs(config: PretrainedConfig, part: str, field: str, count: Edit) -> bool | None:
    """Whether a number in a part around the stack's own is one of the stack's, as far as its name tells."""
    if part == count.part:
        return True
    inner = count.part.removeprefix(f"{part}.").partition(".")[0]
    first = field.partition("_")[0]
    siblings = [key for key, _ in holders(holder_of(config, part)) if key and "." not in key]
    if inner.partition("_")[0] == first:
        return True
    return False if any(key.partition("_")[0] == first for key in siblings) else None


def index_edits(
    config: PretrainedConfig, stack: Stack, kept: Sequence[int], count: Edit
) -> tuple[tuple[Edit, ...], tuple[Edit, ...]]:
    """Find the numbers of blocks and hidden states that change when blocks go.

    Args:
        config: The configuration before any edit.
        stack: The stack.
        kept: Numbers of the blocks that stay, ascending.
        count: The edit of the field that says how many blocks there are.

    Returns:
        The edits that must be made, and those of which only outputs can tell whether they must.

    Raises:
        PruningError: A block goes that a list of numbers names.
    """
    sure: list[Edit] = []
    open_: list[Edit] = []
    possible = [
        (part, edit)
        for part, holder in holders(config)
        for edit in _renumbered(part, holder, stack, kept)
        if edit.field != count.field or edit.part != count.part
    ]
    named = [
        (part, field, value)
        for part, holder in holders(config)
        for field, value in _numbers(holder, stack)
        if isinstance(value, (list, tuple)) and any(0 <= k < stack.size and k not in kept for k in value)
    ]
    if not possible and not named:
        return (), ()
    alone = dict(_owned(config, stack, count))
    for part, field, value in named:
        if alone.get(part) and _belongs(config, part, field, count):
            gone = [k for k in value if 0 <= k < stack.size and k not in kept]
            msg = (
                f"{Edit(part, field, 0, 0).place} names block {gone[0]} of {stack.name}, which would be removed; "
                f"blocks that a field names must stay"
            )
            raise PruningError(msg)
    for part, edit in possible:
        if part in alone and (mine := _belongs(config, part, edit.field, count)) is not False:
            (sure if mine and alone[part] else open_).append(edit)
    return tuple(sure), tuple(open_)


def indexed_blocks(config: PretrainedConfig, stack: Stack) -> frozenset[int]:
    """Return the blocks that must stay, for a field of the configuration lists them by number.

    A field that may belong to another stack counts as well, so that no block goes that something reads.
    """
    lists = [
        (part, field, [number for number in value if 0 <= number < stack.size])
        for part, holder in holders(config)
        for field, value in _numbers(holder, stack)
        if isinstance(value, (list, tuple))
    ]
    if not lists or (found := count_field(config, stack)) is None:
        return frozenset()
    parts = dict(_owned(config, stack, found[0]))
    return frozenset(
        number
        for part, field, numbers in lists
        if part in parts and _belongs(config, part, field, found[0]) is not False
        for number in numbers
    )


def unsettled(edits: Sequence[Edit], stacks: Sequence[str], why: str) -> PruningError:
    """Return the error that says which fields may or may not number blocks of the stacks."""
    names = ", ".join(edit.place for edit in edits)
    return PruningError(
        f"{names} may or may not name layers of {', '.join(stacks)}, and {why}; removing blocks there could make the "
        f"model read other layers than before"
    )
