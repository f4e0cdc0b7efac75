"""What a checkpoint is made of and what can be done to it, from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.anatomy import find_towers, load_config, meta_model, model_class
from hfcompress.errors import HfcompressError
from hfcompress.extras import EXTRAS, require_extra
from hfcompress.hub import resolve_model
from hfcompress.pruning.plan import plan_pruning, tower_couplings
from hfcompress.registry import RUNTIMES

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

    from hfcompress.anatomy import Tower
    from hfcompress.pruning.coupling import Coupling

__all__ = ["Anatomy", "AxisRecord", "RuntimeRecord", "TowerRecord", "inspect"]

_TRIAL_RATIO = 0.5


@dataclass(frozen=True)
class AxisRecord:
    """One way in which a tower can shrink.

    Attributes:
        name: "ffn".
        sizes: Units in each layer.
        config_edits: What half of it would change in the configuration; empty where no configuration can say it.
        obstacle: Why it cannot be pruned, if it cannot.
    """

    name: str
    sizes: tuple[int, ...]
    config_edits: tuple[str, ...] = ()
    obstacle: str | None = None


@dataclass(frozen=True)
class TowerRecord:
    """A tower: the module it is, its parameters, and the axes along which it can be pruned."""

    name: str
    module: str
    parameters: int
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
    try:
        couplings: dict[Tower, tuple[Coupling, ...]] = tower_couplings(built)
        obstacle = None
    except HfcompressError as error:
        couplings = dict.fromkeys(find_towers(built), ())
        obstacle = str(error)
    return Anatomy(
        source.id,
        source.revision,
        model_class(config).__name__,
        built.num_parameters(),
        tuple(
            TowerRecord(tower.name, tower.module, tower.parameters, (_feed_forward(config, tower, found, obstacle),))
            for tower, found in couplings.items()
        ),
        tuple(_runtime(name, config) for name in RUNTIMES),
    )


def _feed_forward(
    config: PretrainedConfig, tower: Tower, couplings: tuple[Coupling, ...], obstacle: str | None
) -> AxisRecord:
    """Try to prune half of the tower's feed-forward units and say what that takes."""
    sizes = tuple(coupling.size for coupling in couplings)
    if not sizes:
        return AxisRecord("ffn", (), obstacle=obstacle or "no feed-forward layer was found")
    try:
        trial = plan_pruning(config, {tower.name: {"ffn": _TRIAL_RATIO}}, multiple_of=1)
    except HfcompressError as error:
        return AxisRecord("ffn", sizes, obstacle=str(error))
    return AxisRecord("ffn", sizes, tuple(str(edit) for edit in trial.edits))


def _runtime(name: str, config: PretrainedConfig) -> RuntimeRecord:
    try:
        if name in EXTRAS:
            require_extra(name)
        return RuntimeRecord(name, available=True, detail=RUNTIMES.get(name)().describe(config))
    except HfcompressError as error:
        return RuntimeRecord(name, available=False, detail=str(error))
