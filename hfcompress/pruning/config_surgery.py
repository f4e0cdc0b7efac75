"""Saying a pruned shape in a stock configuration, by search and proof.

No table of field names: an edit of a tower's configuration counts when a model built from it on the meta device is
nearer to the wanted shapes, and the configuration is accepted when every shape is exactly right.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError

from hfcompress.anatomy import meta_model, shapes_of, sub_configs
from hfcompress.errors import CheckpointError, PruningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PretrainedConfig

    Shapes = Mapping[str, tuple[int, ...]]

__all__ = ["Edit", "Fit", "fit_config"]


_NO_SIZES = frozenset({"architectures", "dtype", "torch_dtype", "model_type", "name_or_path", "problem_type"})
"""Fields of every configuration that never set a shape."""


@dataclass(frozen=True)
class Edit:
    """One changed field of a configuration: `vision_config.intermediate_size: 3072 → 1536`."""

    part: str
    field: str
    before: float | None
    after: float
    index: int | None = None

    def __str__(self) -> str:
        """Return the edit as a person would write it."""
        place = f"{self.part}.{self.field}" if self.part else self.field
        entry = "" if self.index is None else f"[{self.index}]"
        return f"{place}{entry}: {'unset' if self.before is None else self.before} → {self.after}"


@dataclass(frozen=True)
class Fit:
    """The configuration that is nearest to the wanted shapes.

    Attributes:
        config: The edited copy.
        edits: How it differs, in the order in which the edits were found.
        wrong: Parameters whose wanted shapes it still does not give; none where it says exactly what was wanted.
    """

    config: PretrainedConfig
    edits: tuple[Edit, ...]
    wrong: frozenset[str]

    def require_exact(self, wanted: Shapes) -> None:
        """Make sure that every shape is right.

        Raises:
            PruningError: One is not; no edit of integer or ratio fields gives it.
        """
        if self.wrong:
            example = min(self.wrong)
            built = shapes_of(meta_model(self.config)).get(example)
            msg = (
                f"no stock configuration of {self.config.model_type!r} has these shapes: {example} would be "
                f"{built} and must be {wanted.get(example)} (and {len(self.wrong) - 1} more). "
                f"The field that governs it may be shared with another part: prune the parts that share it alike"
            )
            raise PruningError(msg)


def fit_config(config: PretrainedConfig, wanted: Shapes) -> Fit:
    """Find the edits of a configuration that bring its model nearest to the wanted shapes.

    Args:
        config: The configuration of the model before it was sliced; left as it is.
        wanted: Shape of each entry of the sliced state dict.
    """
    best = copy.deepcopy(config)
    built: Shapes = shapes_of(meta_model(best))
    edits: list[Edit] = []
    while wrong := _mismatches(built, wanted):
        step = _best_edit(best, built, wanted, wrong)
        if step is None:
            break
        best, built, edit = step
        edits.append(edit)
    return Fit(best, tuple(edits), frozenset(wrong))


def _mismatches(built: Shapes, wanted: Shapes) -> set[str]:
    return {name for name in {*built, *wanted} if built.get(name) != wanted.get(name)}


def _best_edit(
    config: PretrainedConfig, built: Shapes, wanted: Shapes, wrong: set[str]
) -> tuple[PretrainedConfig, Shapes, Edit] | None:
    """Return the edit that leaves the fewest mismatched shapes, if any leaves fewer than there are."""
    candidates = list(_candidates(config, built, wanted, wrong))
    for likely in (
        [edit for edit in candidates if isinstance(edit.before, int) and edit.index is None],
        [edit for edit in candidates if edit.before is not None],
        [edit for edit in candidates if edit.before is None],
    ):
        best: tuple[PretrainedConfig, Shapes, Edit] | None = None
        fewest = len(wrong)
        for edit in likely:
            edited = copy.deepcopy(config)
            try:
                _apply(edit, edited)
                shapes = shapes_of(meta_model(edited))
            except (CheckpointError, StrictDataclassError):
                continue
            left = len(_mismatches(shapes, wanted))
            if left < fewest:
                best, fewest = (edited, shapes, edit), left
        if best is not None:
            return best
    return None


def _apply(edit: Edit, config: PretrainedConfig) -> None:
    holder = config
    for name in filter(None, edit.part.split(".")):
        holder = getattr(holder, name)
    if edit.index is None:
        setattr(holder, edit.field, edit.after)
    else:
        values = list(getattr(holder, edit.field))
        values[edit.index] = edit.after
        setattr(holder, edit.field, values)


def _holders(config: PretrainedConfig, path: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    yield path, config
    for key, part in sub_configs(config).items():
        yield from _holders(part, f"{path}.{key}" if path else key)


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
    for part, holder in _holders(config):
        for field, value in list(vars(holder).items()):
            if field.startswith("_") or field in _NO_SIZES or field.endswith(("_id", "_ids", "_token_index")):
                continue
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
