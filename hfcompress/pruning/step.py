"""The `prune` step: what a recipe can say, and the way from one folder to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from hfcompress.contracts import CalibratedOptions, Forecast, Format, Json, Options, Ratio, Step
from hfcompress.pruning.axes import AXIS_UNITS
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.contracts import Checkpoint, StepContext
    from hfcompress.pruning.axes import Axis
    from hfcompress.pruning.calibration import Calibration
    from hfcompress.pruning.plan import PruningPlan

__all__ = ["Prune", "PruneOptions", "TowerRatios"]


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
        description="Fraction of the attention heads of every block that is removed; where heads share keys and values, "
        "whole groups go.",
    )

    @model_validator(mode="after")
    def _names_an_axis(self) -> TowerRatios:
        if all(value is None for value in dict(self).values()):
            msg = f"name at least one axis: {', '.join(type(self).model_fields)}"
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
                if value in {"activation", "obs", "bias", "least_squares"}:
                    msg = f"`{key}: {value}` needs `calibration`, the name of an entry of `data`"
                    raise ValueError(msg)
        return self


class Prune(Step):
    """Removes feed-forward units from the towers of a transformers checkpoint."""

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
        plan = self._plan(before.config)
        parameters = before.parameters - plan.removed_parameters
        return replace(
            before,
            config=plan.config_of(plan.first_units),
            parameters=parameters,
            size_bytes=round(before.size_bytes * parameters / before.parameters),
            changes=(*_sentences(plan), *(f"config: {edit}" for edit in plan.edits)),
        )

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Slice the checkpoint, prove that nothing else changed, and save it with its pruned configuration.

        Raises:
            ProofError: The sliced model is not the masked model.
        """
        from hfcompress.anatomy import copy_processor, load_model
        from hfcompress.probes import find_probes
        from hfcompress.pruning import surgery
        from hfcompress.pruning.selection import Selection

        model = load_model(checkpoint.path)
        plan = self._plan(model.config)
        selection = Selection(
            self.options.chosen_importance,
            self.options.chosen_compensation,
            self._calibration(model, checkpoint, context),
            context.seed,
        )
        kept = selection.apply(model, plan.cuts, context.progress)
        removals = plan.removals(kept)
        probes = find_probes(model, seed=context.seed)
        state = surgery.slice_state(model.state_dict(), removals)
        surgery.mask(model, removals)
        masked = surgery.run(model, probes)
        pruned = surgery.rebuild(plan.config_of(kept), state)
        difference = surgery.compare_outputs(masked, surgery.run(pruned, probes))
        pruned.save_pretrained(output)
        copy_processor(checkpoint.path, output)
        return {
            "importance": self.options.chosen_importance,
            "compensate": self.options.chosen_compensation,
            "calibration_rows": len(context.calibration) if context.calibration else 0,
            "changes": list(_sentences(plan)),
            "config_edits": [str(edit) for edit in plan.edits],
            "removed_parameters": plan.removed_parameters,
            "proof_max_difference": difference,
        }

    def _plan(self, config: PretrainedConfig) -> PruningPlan:
        from hfcompress.pruning.plan import plan_pruning

        return plan_pruning(config, self.options.towers, self.options.multiple_of)

    def _calibration(self, model: PreTrainedModel, checkpoint: Checkpoint, context: StepContext) -> Calibration | None:
        """Make the calibration rows ready, if there are any."""
        from hfcompress.inputs import load_processor
        from hfcompress.pruning.calibration import Calibration

        if context.calibration is None:
            return None
        return Calibration(model, load_processor(checkpoint.path), context.calibration, self.options.batch_size)


def _sentences(plan: PruningPlan) -> tuple[str, ...]:
    """Say what goes: one sentence for each tower and size."""
    counts: dict[tuple[str, Axis, int, int, bool], int] = {}
    for index, cut in enumerate(plan.cuts):
        key = (cut.tower, cut.axis, cut.size, cut.keep, index in plan.recorded)
        counts[key] = counts.get(key, 0) + len(cut.couplings)
    return tuple(
        f"{tower}: {before} → {after} {AXIS_UNITS[axis]} in {layers} layers"
        + (", which loads once hfcompress is imported: no stock configuration says it" if recorded else "")
        for (tower, axis, before, after, recorded), layers in counts.items()
    )
