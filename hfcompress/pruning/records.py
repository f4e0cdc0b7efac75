"""What stands beside a configuration that cannot say the shapes of a pruned model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfcompress.narrowing import NarrowModule, NarrowRecord
from hfcompress.pruning.compensation import complement
from hfcompress.pruning.surgery import removed_channels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from hfcompress.pruning.surgery import Removal

__all__ = ["record_of"]


def record_of(
    before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
    removals: Iterable[Removal],
    earlier: NarrowRecord | None = None,
) -> NarrowRecord:
    """Return the record of every module that loses units which no stock configuration can do without.

    Args:
        before: Shape of each entry of the source's state dict.
        after: Shape of each entry of the pruned state dict.
        removals: What goes and cannot be said.
        earlier: The record that the source had.
    """
    modules = {} if earlier is None else dict(earlier.modules)
    for removal in removals:
        for module in {member.module for member in removal.members}:
            old = modules.get(module)
            modules[module] = NarrowModule(
                shapes=_shapes_in(module, after),
                inputs=_ranges(removal, module, "consumes", before) if removal.padded else old and old.inputs,
                outputs=_ranges(removal, module, "produces", before) if removal.padded else old and old.outputs,
            )
    return NarrowRecord(
        modules={
            name: module.model_copy(update={"shapes": {key: after[f"{name}.{key}"] for key in module.shapes}})
            for name, module in modules.items()
        }
    )


def _shapes_in(module: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's own parameters."""
    return {name.rpartition(".")[2]: shape for name, shape in shapes.items() if name.rpartition(".")[0] == module}


def _ranges(
    removal: Removal, module: str, role: str, before: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[int, int], ...] | None:
    """Return the ranges of a layer's outputs or inputs that stay, `None` where it loses none on that side."""
    here = [member for member in removal.members if member.module == module and member.role == role]
    if not here:
        return None
    dimension = dict(here[0].parameters)["weight"]
    gone = removed_channels([removal])[f"{module}.weight", dimension]
    return _runs(complement(gone, before[f"{module}.weight"][dimension]))


def _runs(channels: Tensor) -> tuple[tuple[int, int], ...]:
    """Return ascending channels as ranges [start, stop)."""
    breaks = (channels.diff() > 1).nonzero().flatten() + 1
    runs = channels.tensor_split(breaks.tolist())
    return tuple((int(run[0]), int(run[-1]) + 1) for run in runs)
