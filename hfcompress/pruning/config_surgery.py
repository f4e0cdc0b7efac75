"""Saying a pruned shape in a stock configuration, by search and proof.

No table of field names: an edit of a tower's configuration counts when a model built from it on the meta device is
nearer to the wanted shapes, and the configuration is accepted when every shape is exactly right.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.anatomy import meta_model, shapes_of, sub_configs
from hfcompress.errors import CheckpointError, PruningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PretrainedConfig

    Shapes = Mapping[str, tuple[int, ...]]

__all__ = ["Edit", "fit_config"]


@dataclass(frozen=True)
class Edit:
    """One changed field of a configuration: `vision_config.intermediate_size: 3072 → 1536`."""

    part: str
    field: str
    before: int | float
    after: int | float

    def __str__(self) -> str:
        """Return the edit as a person would write it."""
        place = f"{self.part}.{self.field}" if self.part else self.field
        return f"{place}: {self.before} → {self.after}"


def fit_config(config: PretrainedConfig, wanted: Shapes) -> tuple[PretrainedConfig, tuple[Edit, ...]]:
    """Find the edits of a configuration whose model has exactly the wanted shapes.

    Args:
        config: The configuration of the model before it was sliced; left as it is.
        wanted: Shape of each entry of the sliced state dict.

    Returns:
        The edited copy and the edits, in the order in which they were found.

    Raises:
        PruningError: No edit of integer or ratio fields gives these shapes.
    """
    best = copy.deepcopy(config)
    built = shapes_of(meta_model(best))
    edits: list[Edit] = []
    while wrong := _mismatches(built, wanted):
        step = _best_edit(best, built, wanted, wrong)
        if step is None:
            example = sorted(wrong)[0]
            msg = (
                f"no stock configuration of {config.model_type!r} has these shapes: {example} would be "
                f"{built.get(example)} and must be {wanted.get(example)} (and {len(wrong) - 1} more). "
                f"The field that governs it may be shared with another part; prune the parts that share it by the same ratio"
            )
            raise PruningError(msg)
        best, built, edit = step
        edits.append(edit)
    return best, tuple(edits)


def _mismatches(built: Shapes, wanted: Shapes) -> set[str]:
    return {name for name in {*built, *wanted} if built.get(name) != wanted.get(name)}


def _best_edit(
    config: PretrainedConfig, built: Shapes, wanted: Shapes, wrong: set[str]
) -> tuple[PretrainedConfig, Shapes, Edit] | None:
    """Return the edit that leaves the fewest mismatched shapes, if any leaves fewer than there are."""
    best: tuple[PretrainedConfig, Shapes, Edit] | None = None
    fewest = len(wrong)
    for edit in _candidates(config, built, wanted, wrong):
        edited = copy.deepcopy(config)
        setattr(sub_configs(edited)[edit.part] if edit.part else edited, edit.field, edit.after)
        try:
            shapes = shapes_of(meta_model(edited))
        except CheckpointError:
            continue
        left = len(_mismatches(shapes, wanted))
        if left < fewest:
            best, fewest = (edited, shapes, edit), left
    return best


def _candidates(config: PretrainedConfig, built: Shapes, wanted: Shapes, wrong: set[str]) -> Iterator[Edit]:
    """Yield the edits that could turn a built dimension into the wanted one: equal integers, and ratios in proportion."""
    changes = {
        (before, after)
        for name in wrong
        if name in built and name in wanted and len(built[name]) == len(wanted[name])
        for before, after in zip(built[name], wanted[name], strict=True)
        if before != after
    }
    for part, holder in (("", config), *sub_configs(config).items()):
        for field, value in list(vars(holder).items()):
            if isinstance(value, bool) or field.startswith("_"):
                continue
            for before, after in sorted(changes):
                if isinstance(value, int) and value == before:
                    yield Edit(part, field, value, after)
                elif isinstance(value, float) and value > 0 and (before / value).is_integer():
                    yield Edit(part, field, value, value * after / before)
