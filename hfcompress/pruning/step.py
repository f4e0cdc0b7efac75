"""The `prune` step: what a recipe can say, and the way from one folder to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import AfterValidator, Field, model_validator

from hfcompress.contracts import CalibratedOptions, Forecast, Format, Json, Options, Progress, Ratio, Step
from hfcompress.processes import leads, together
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

    from hfcompress.contracts import Checkpoint, StepContext
    from hfcompress.pruning.axes import Axis
    from hfcompress.pruning.calibration import Calibration
    from hfcompress.pruning.passes import Pass, Pruned

__all__ = ["BudgetOptions", "Prune", "PruneOptions", "TowerRatios"]


_CALIBRATED = {"activation", "gradient", "obs", "taylor", "bias", "least_squares"}
"""Importances and compensations that look at calibration rows."""


def _known_importance(name: str) -> str:
    IMPORTANCES.provider(name)
    return name


class TowerRatios(Options):
    """How much of each axis of one tower is removed."""

    ffn: Ratio | None = Field(
        None, description="Fraction of the feed-forward hidden units of every block that is removed."
    )
    heads: Ratio | None = Field(
        None,
        description="Fraction of the attention heads of every block that is removed; where heads share keys and "
        "values, whole groups go.",
    )
    layers: Ratio | None = Field(None, description="Fraction of the blocks that is removed, whole.")
    width: Ratio | None = Field(
        None,
        description="Fraction of the channels of the residual stream that is removed, attention heads in step where "
        "the configuration ties the two.",
    )

    @model_validator(mode="after")
    def _names_an_axis(self) -> TowerRatios:
        if all(value is None for value in dict(self).values()):
            msg = f"name at least one axis: {', '.join(type(self).model_fields)}"
            raise ValueError(msg)
        return self


class BudgetOptions(Options):
    """How much less the whole model has to be; one of the two."""

    parameters: Ratio | None = Field(None, description="Fraction of the model's parameters that goes.")
    flops: Ratio | None = Field(
        None, description="Fraction of the floating-point operations of a forward pass that goes."
    )

    @model_validator(mode="after")
    def _names_one(self) -> BudgetOptions:
        if (self.parameters is None) == (self.flops is None):
            msg = "name one of `parameters` and `flops`"
            raise ValueError(msg)
        if not (self.parameters or self.flops):
            msg = "a budget of 0 removes nothing; name a fraction above 0"
            raise ValueError(msg)
        return self


class PruneOptions(CalibratedOptions):
    """What a recipe can say of `use: prune`."""

    towers: dict[str, TowerRatios] = Field(
        min_length=1, description="Tower name, or `all` for every tower that is not named, → what is removed there."
    )
    importance: Annotated[str, AfterValidator(_known_importance)] | None = Field(
        None,
        description="How the units to remove are chosen; `hfcompress list` names all importances. "
        "By default `obs` where there are calibration rows, `magnitude` where there are none.",
    )
    power: Literal[1, 2] = Field(2, description="Whether `importance: gradient` sums |g| (1) or g² (2).")
    threshold: float | None = Field(
        None,
        gt=0,
        description="Heads and feed-forward units of less importance than this go, and the ratios are the most that "
        "may go. 1 is the importance of a layer's mean unit; for `obs` it is an error relative to the layer's output.",
    )
    allocation: Literal["uniform", "global"] = Field(
        "uniform",
        description="uniform: every layer of a tower loses alike, which a stock configuration can say. global: one "
        "ranking across a tower's layers; the result loads once hfcompress is imported.",
    )
    budget: BudgetOptions | None = Field(
        None,
        description="How much less the whole model has to be: the split between towers and axes is found from what "
        "each loses when some of it goes, and the ratios are the most that may go.",
    )
    compensate: Literal["least_squares", "bias", "none"] | None = Field(
        None,
        description="How the layers that read the removed units make up for them: refitted on the calibration rows in "
        "closed form, with the mean of what was removed folded into the bias, or not at all. "
        "By default `least_squares` where there are calibration rows, `none` where there are none.",
    )
    multiple_of: int = Field(8, ge=1, description="Kept sizes are rounded up to a multiple of this.")
    batch_size: int = Field(16, ge=1, description="Calibration rows that go through the model at once.")

    @property
    def chosen_importance(self) -> str:
        """The importance that is used."""
        return self.importance or ("obs" if self.calibration else "magnitude")

    @property
    def chosen_compensation(self) -> str:
        """The compensation that is used."""
        return self.compensate or ("least_squares" if self.calibration else "none")

    @model_validator(mode="after")
    def _calibrated_where_needed(self) -> PruneOptions:
        if self.calibration is None:
            for key, value in (("importance", self.importance), ("compensate", self.compensate)):
                if value in _CALIBRATED:
                    msg = f"`{key}: {value}` needs `calibration`, the name of an entry of `data`"
                    raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _decides_something(self) -> PruneOptions:
        asked = {
            "threshold": self.threshold is not None,
            "allocation: global": self.allocation == "global",
            "budget": self.budget is not None,
        }
        if not any(ratios.heads or ratios.ffn for ratios in self.towers.values()):
            for key in (key for key, is_there in asked.items() if is_there):
                msg = f"`{key}` says how `heads` and `ffn` are split, and `towers` removes neither; add one of them"
                raise ValueError(msg)
        if self.threshold is not None and self.budget is not None:
            msg = "`threshold` and `budget` both say how much goes; name one of them"
            raise ValueError(msg)
        return self


class Prune(Step):
    """Removes blocks, attention heads and feed-forward units from the towers of a transformers checkpoint."""

    Options: ClassVar[type[PruneOptions]] = PruneOptions
    options: PruneOptions

    @property
    def accepts(self) -> frozenset[Format]:
        """Only a transformers checkpoint has modules to slice."""
        return frozenset({"transformers"})

    @property
    def produces(self) -> Format:
        """A transformers checkpoint again."""
        return "transformers"

    def forecast(self, before: Forecast) -> Forecast:
        """Prune the model on the meta device: the same slices and the same configuration, without the weights."""
        config, parameters, changes = before.config, before.parameters, []
        for one in self._passes():
            outcome = one.plan(config)
            config = outcome.config
            parameters -= outcome.removed_parameters
            changes += [*outcome.changes, *(f"config: {edit}" for edit in outcome.edits)]
        return replace(
            before,
            config=config,
            parameters=parameters,
            size_bytes=round(before.size_bytes * parameters / before.parameters),
            changes=tuple(changes),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Remove what was asked for, prove after each pass that nothing else changed, and save the result.

        Raises:
            ProofError: The pruned model is not the masked model, or the saved folder is not the pruned model.
        """
        silent = replace(context, progress=Progress())
        return together(_prune, context.progress, self, checkpoint, output, silent)

    def _prune(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        from hfcompress.anatomy import copy_processor, load_model, stored_dtype
        from hfcompress.probes import find_probes
        from hfcompress.pruning.passes import Workbench
        from hfcompress.pruning.proof import saved_and_proven

        dtype = stored_dtype(checkpoint.path)
        model = load_model(checkpoint.path)
        bench = Workbench(lambda pruned: self._calibration(pruned, checkpoint, context), context.progress, context.seed)
        done: list[Pruned] = []
        for step in self._passes():
            done.append(step.apply(model, bench))
            model = done[-1].model
        if leads():
            saved_and_proven(model, output, dtype, find_probes(model, seed=context.seed))
            copy_processor(checkpoint.path, output)
        detail: dict[str, Json] = {
            "importance": self.options.chosen_importance,
            "compensate": self.options.chosen_compensation,
            "calibration_rows": len(context.calibration) if context.calibration else 0,
            "changes": [change for one in done for change in one.outcome.changes],
            "config_edits": [str(edit) for one in done for edit in one.outcome.edits],
            "removed_parameters": sum(one.outcome.removed_parameters for one in done),
            "proof_max_difference": max(one.difference for one in done),
        }
        for one in done:
            detail |= one.detail
        return detail

    def _passes(self) -> Iterator[Pass]:
        """Yield what is done, in order: blocks go first, so that nothing is chosen in a block that goes."""
        from hfcompress.pruning.depth_pass import DepthPass
        from hfcompress.pruning.selection import Method
        from hfcompress.pruning.units_pass import Allocation, Budget, UnitsPass
        from hfcompress.pruning.width_pass import WidthPass

        options = self.options
        towers: dict[str, dict[Axis, float]] = {
            name: cast("dict[Axis, float]", ratios.model_dump(exclude_none=True))
            for name, ratios in options.towers.items()
        }
        if blocks := _of_axes(towers, "layers"):
            yield DepthPass({name: some.get("layers", 0.0) for name, some in blocks.items()})
        method = Method(options.chosen_importance, options.chosen_compensation, options.power)
        if widths := _of_axes(towers, "width"):
            ratios = {name: some.get("width", 0.0) for name, some in widths.items()}
            yield WidthPass(ratios, method, options.multiple_of)
        if units := _of_axes(towers, "heads", "ffn"):
            budget = None
            if options.budget is not None:
                ((of, less),) = options.budget.model_dump(exclude_none=True).items()
                budget = Budget(cast("Literal['parameters', 'flops']", of), less)
            yield UnitsPass(
                units,
                method,
                Allocation(options.allocation, options.threshold, budget, options.multiple_of),
            )

    def _calibration(self, model: PreTrainedModel, checkpoint: Checkpoint, context: StepContext) -> Calibration | None:
        """Make the calibration rows ready, if there are any."""
        from hfcompress.inputs import load_processor
        from hfcompress.pruning.calibration import Calibration

        if context.calibration is None:
            return None
        return Calibration(model, load_processor(checkpoint.path), context.calibration, self.options.batch_size)


def _prune(
    progress: Progress, step: Prune, checkpoint: Checkpoint, output: Path, context: StepContext
) -> dict[str, Json]:
    """Prune in all processes, so that each has the model that the next calibration batches go through."""
    return step._prune(checkpoint, output, replace(context, progress=progress))  # noqa: SLF001 - its own step


def _of_axes(towers: Mapping[str, Mapping[Axis, float]], *axes: Axis) -> dict[str, dict[Axis, float]]:
    """Return the towers of which something goes along these axes, and what.

    A tower that is named is not covered by `all`, whatever it is named for.
    """
    found = {name: {axis: ratio for axis, ratio in ratios.items() if axis in axes} for name, ratios in towers.items()}
    return found if any(found.values()) else {}
