"""Saying a pruned shape in a stock configuration, by search and proof.

No table of field names: an edit of a tower's configuration counts when a model built from it on the meta device is
nearer to the wanted shapes, and the configuration is accepted when every shape is exactly right. Where whole blocks
went, what no shape tells must be right as well: each block that stays is still of the same kind, and every field that
numbers blocks numbers the same ones as before, which outputs prove where names do not tell.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError

from hfcompress.anatomy import meta_model, model_class, shapes_of
from hfcompress.errors import CheckpointError, ProofError, PruningError
from hfcompress.outputs import run
from hfcompress.probes import find_probes
from hfcompress.pruning.config_edits import Edit, apply_edits, fields, holders
from hfcompress.pruning.depth import Blocks, blocks_of, drop_blocks, traits, varying_traits
from hfcompress.pruning.layer_fields import count_edits, derived_edits, index_edits, known_counts, unsettled
from hfcompress.pruning.skipping import run_features, shared_outputs, skip_blocks
from hfcompress.pruning.surgery import compare_outputs, rebuild

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    Shapes = Mapping[str, tuple[int, ...]]

__all__ = ["Edit", "Fit", "fit_config"]

Move: TypeAlias = "tuple[Edit, ...]"
"""Edits that are made at once."""


_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
"""What a model raises whose configuration numbers layers that it does not have."""


@dataclass(frozen=True)
class Fit:
    """The configuration that is nearest to the wanted shapes.

    Attributes:
        config: The edited copy.
        edits: How it differs, in the order in which the edits were found.
        wrong: Parameters whose wanted shapes it still does not give, and traits of blocks ("layers.3: shift_size")
            that it would change; none where it says exactly what was wanted.
    """

    config: PretrainedConfig
    edits: tuple[Edit, ...]
    wrong: frozenset[str]

    def require_exact(self, wanted: Shapes) -> None:
        """Make sure that every shape is right, and every block still of its kind.

        Raises:
            PruningError: One is not; no edit of integer or ratio fields gives it.
        """
        if not self.wrong:
            return
        built = shapes_of(meta_model(self.config))
        misshapen = self.wrong & {*built, *wanted}
        if misshapen:
            example = min(misshapen)
            msg = (
                f"no stock configuration of {self.config.model_type!r} has these shapes: {example} would be "
                f"{built.get(example)} and must be {wanted.get(example)} (and {len(self.wrong) - 1} more). "
                f"The field that governs it may be shared with another part: prune the parts that share it alike"
            )
        else:
            msg = (
                f"no stock configuration of {self.config.model_type!r} keeps every block what it is: "
                f"{min(self.wrong)} would change. Remove blocks so that the pattern of those that stay does not"
            )
        raise PruningError(msg)


@dataclass(frozen=True)
class _Target:
    """What a configuration must give: shapes, and the traits of the blocks of each stack."""

    shapes: Shapes
    traits: Mapping[str, tuple[Mapping[str, object], ...]]

    def mismatches(self, model: PreTrainedModel, built: Shapes) -> set[str]:
        """Return the names of everything that a model on the meta device does not have as it must."""
        wrong = {name for name in {*built, *self.shapes} if built.get(name) != self.shapes.get(name)}
        for stack, kinds in self.traits.items():
            blocks = dict(model.named_modules()).get(stack, ())
            for place, (kind, block) in enumerate(zip(kinds, blocks, strict=False)):
                has = traits(block)
                wrong |= {f"{stack}.{place}: {name}" for name, value in kind.items() if has.get(name) != value}
        return wrong


def fit_config(
    config: PretrainedConfig,
    wanted: Shapes,
    blocks: Sequence[Blocks] = (),
    numbers: Collection[tuple[int, int]] | None = None,
) -> Fit:
    """Find the edits of a configuration that bring its model nearest to the wanted shapes.

    Args:
        config: The configuration of the model before it was sliced; left as it is.
        wanted: Shape of each entry of the sliced state dict.
        blocks: The stacks that lost blocks, and which blocks stayed; the wanted shapes are without them.
        numbers: Where given, the only edits are of fields that equal the first of a pair and become the second: what
            says a number of heads, and not a size that would give the same shapes.

    Raises:
        PruningError: A field numbers a block that is gone, or may number some and nothing tells of which stack.
    """
    best = copy.deepcopy(config)
    model = meta_model(best)
    built: Shapes = shapes_of(model)
    kinds = {stack.name: varying_traits(list(blocks_of(model, stack))) for stack, _ in blocks}
    target = _Target(wanted, {stack.name: tuple(kinds[stack.name][block] for block in kept) for stack, kept in blocks})
    counts = known_counts(config, blocks)
    edits: list[Edit] = []
    while wrong := target.mismatches(model, built):
        moves = list(count_edits(best, blocks, counts))
        if numbers is None:
            moves += [(edit,) for edit in _candidates(best, built, target.shapes, wrong)]
        else:
            moves += [(edit,) for edit in _renumberings(best, numbers)]
        step = _best_move(best, target, wrong, moves)
        if step is None:
            break
        best, model, built, move = step
        edits += move
    if blocks and not wrong:
        for edit in _silent_edits(config, edits, blocks, counts):
            edited = copy.deepcopy(best)
            apply_edits(edited, [edit])
            model = meta_model(edited)
            # what sets a shape is no number of a block, nor a second name of the count: all shapes are right already
            if not target.mismatches(model, shapes_of(model)):
                best = edited
                edits.append(edit)
    return Fit(best, tuple(edits), frozenset(wrong))


def _best_move(
    config: PretrainedConfig, target: _Target, wrong: set[str], moves: list[Move]
) -> tuple[PretrainedConfig, PreTrainedModel, Shapes, Move] | None:
    """Return the move that leaves the fewest mismatches, if any leaves fewer than there are."""
    for likely in (
        [move for move in moves if isinstance(move[0].before, int) and move[0].index is None],
        [move for move in moves if move[0].before is not None],
        [move for move in moves if move[0].before is None],
    ):
        best: tuple[PretrainedConfig, PreTrainedModel, Shapes, Move] | None = None
        fewest = len(wrong)
        for move in likely:
            edited = copy.deepcopy(config)
            try:
                apply_edits(edited, move)
                model = meta_model(edited)
            except (CheckpointError, StrictDataclassError):
                continue
            shapes = shapes_of(model)
            left = len(target.mismatches(model, shapes))
            if left < fewest:
                best, fewest = (edited, model, shapes, move), left
        if best is not None:
            return best
    return None


def _renumberings(config: PretrainedConfig, numbers: Collection[tuple[int, int]]) -> Iterator[Edit]:
    """Yield the edits of whole fields, and of entries of lists, that equal a number."""
    for part, holder in holders(config):
        for field, value in fields(holder):
            entries = enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]
            for index, entry in entries:
                for before, after in numbers:
                    if type(entry) is int and entry == before:
                        yield Edit(part, field, entry, after, index)


def _candidates(config: PretrainedConfig, built: Shapes, wanted: Shapes, wrong: set[str]) -> Iterator[Edit]:
    """Yield the edits that could turn a built dimension into the wanted one.

    An integer that equals it becomes the wanted one, a ratio changes in proportion, and a field that says nothing (the
    model takes a multiple of its width then) says it.
    """
    changes = {
        (before, after)
        for name in wrong
        if name in built and name in wanted and len(built[name]) == len(wanted[name])
        for before, after in zip(built[name], wanted[name], strict=True)
        if before != after
    }
    for part, holder in holders(config):
        for field, value in fields(holder):
            entries = enumerate(value) if isinstance(value, (list, tuple)) else [(None, value)]
            for index, entry in entries:
                for before, after in sorted(changes):
                    if (edited := _edited(entry, before, after)) is not None:
                        yield Edit(part, field, entry, edited, index)


def _edited(value: object, before: int, after: int) -> int | float | None:
    """Return what a field's value could become, or `None` where it cannot be what set the dimension."""
    if value is None:
        return after
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return None
    if value == before:
        return after
    ratio = value * after / before
    if not (before / value).is_integer():
        return None
    if isinstance(value, int):
        return int(ratio) if ratio.is_integer() else None
    # a hair more than the quotient, so that cutting width * ratio off to an integer does not lose a unit
    return ratio if ratio.is_integer() else math.nextafter(ratio, math.inf)


def _silent_edits(
    config: PretrainedConfig, edits: Sequence[Edit], blocks: Sequence[Blocks], counts: Mapping[str, Edit]
) -> list[Edit]:
    """Return the edits that blocks which went need and no shape tells of.

    Raises:
        PruningError: A field numbers a block that is gone, or may number some and nothing tells of which stack.
    """
    sure: list[Edit] = []
    doubtful: list[Edit] = []
    for stack, kept in blocks:
        field = counts.get(stack.name)
        says = [
            edit
            for edit in edits
            if (edit.before in (stack.size, None) and edit.after == len(kept))
            and (field is None or edit.same_place(field))
        ]
        count = next(iter(says), None)
        if count is not None:
            settled, open_ = index_edits(config, stack, kept, count)
            sure += [*derived_edits(config, count), *settled]
            doubtful += open_
    done: set[tuple[str, str]] = {(edit.part, edit.field) for edit in edits}
    found: list[Edit] = []
    for edit in sure:
        if (edit.part, edit.field) not in done:
            done.add((edit.part, edit.field))
            found.append(edit)
    if doubtful := [edit for edit in doubtful if (edit.part, edit.field) not in done]:
        of_blocks = [edit for move in count_edits(config, blocks) for edit in move]
        found += _settled(config, [*(edit for edit in edits if edit in of_blocks), *found], doubtful, blocks)
    return found


def _settled(
    config: PretrainedConfig, edits: Sequence[Edit], doubtful: Sequence[Edit], blocks: Sequence[Blocks]
) -> tuple[Edit, ...]:
    """Return those of the doubtful edits without which the model is another one, by building it with random weights.

    The one combination counts whose outputs are those of the whole model with the same blocks skipped.

    Raises:
        PruningError: No combination gives them, or several do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(config)(copy.deepcopy(config)).eval()
    state = model.state_dict()
    for stack, kept in blocks:
        state = drop_blocks(state, stack, kept)
        skip_blocks(model, stack, sorted(set(range(stack.size)) - set(kept)))
    probes = find_probes(model)
    outputs = {**run(model, probes), **run_features(model, probes)}
    right: list[tuple[Edit, ...]] = []
    for chosen in product((False, True), repeat=len(doubtful)):
        some = tuple(edit for edit, made in zip(doubtful, chosen, strict=True) if made)
        if len({edit.place for edit in some}) < len(some):
            continue
        edited = copy.deepcopy(config)
        try:
            apply_edits(edited, [*edits, *some])
            short = rebuild(edited, dict(state))
            compare_outputs(*shared_outputs(outputs, {**run(short, probes), **run_features(short, probes)}))
        except (CheckpointError, StrictDataclassError, ProofError, *_REFUSALS):
            continue
        right.append(some)
    if len(right) != 1:
        why = "no output tells which" if right else "neither reading of it gives the same outputs as before"
        raise unsettled(doubtful, [stack.name for stack, _ in blocks], why)
    return right[0]
