"""Edits of a configuration: one changed field, or several that only make sense together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.anatomy import sub_configs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PretrainedConfig

__all__ = ["Edit", "apply_edits", "fields", "holder_of", "holders"]

_NO_SIZES = frozenset({"architectures", "dtype", "torch_dtype", "model_type", "name_or_path", "problem_type"})
"""Fields of every configuration that never set a shape."""


@dataclass(frozen=True)
class Edit:
    """One changed field of a configuration: `vision_config.intermediate_size: 3072 → 1536`.

    Attributes:
        part: Dotted path of the part of the configuration, empty for the whole.
        field: The field there.
        before: Its value, or that of its entry.
        after: What it becomes.
        index: Which entry of a list is changed, `None` for the whole field.
    """

    part: str
    field: str
    before: object
    after: object
    index: int | None = None

    def same_place(self, other: Edit) -> bool:
        """Whether another edit changes the same field, or the same entry of it."""
        return (self.part, self.field, self.index) == (other.part, other.field, other.index)

    @property
    def place(self) -> str:
        """The field's path."""
        entry = "" if self.index is None else f"[{self.index}]"
        return f"{self.part}.{self.field}{entry}" if self.part else f"{self.field}{entry}"

    def __str__(self) -> str:
        """Return the edit as a person would write it."""
        before, after = self.before, self.after
        if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)) and len(before) != len(after):
            return f"{self.place}: {len(before)} → {len(after)} entries"
        return f"{self.place}: {'unset' if before is None else before} → {after}"


def apply_edits(config: PretrainedConfig, edits: Iterable[Edit]) -> None:
    """Change the fields in place, all of them before anything looks at the configuration."""
    for edit in edits:
        holder = holder_of(config, edit.part)
        if edit.index is None:
            setattr(holder, edit.field, edit.after)
        else:
            values = list(getattr(holder, edit.field))
            values[edit.index] = edit.after
            setattr(holder, edit.field, values)


def holder_of(config: PretrainedConfig, part: str) -> PretrainedConfig:
    """Return a part of a configuration by its path."""
    for name in filter(None, part.split(".")):
        config = getattr(config, name)
    return config


def holders(config: PretrainedConfig, path: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    """Yield the path of every part of a configuration, and the part."""
    yield path, config
    for key, part in sub_configs(config).items():
        yield from holders(part, f"{path}.{key}" if path else key)


def fields(holder: PretrainedConfig) -> Iterator[tuple[str, object]]:
    """Yield the fields of one part that could say how the model is built."""
    for field, value in list(vars(holder).items()):
        named = field.startswith("_") or field in _NO_SIZES or field.endswith(("_id", "_ids", "_token_index"))
        if not named:
            yield field, value
