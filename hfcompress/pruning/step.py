"""The `prune` step: what a recipe can say, and the way from one folder to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator, Field

from hfcompress.contracts import CalibratedOptions, Forecast, Format, Json, Options, Ratio, Step
from hfcompress.registry import IMPORTANCES

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.contracts import Checkpoint, StepContext
    from hfcompress.pruning.plan import PruningPlan
    from hfcompress.pruning.surgery import Removal

__all__ = ["Prune", "PruneOptions", "TowerRatios"]


def _known_importance(name: str) -> str:
    IMPORTANCES.provider(name)
    return name


class TowerRatios(Options):
    """How much of each axis of one tower is removed."""

    ffn: Ratio = Field(description="Fraction of the feed-forward hidden units of every block that is removed.")


class PruneOptions(CalibratedOptions):
    """What a recipe can say of `use: prune`."""

    towers: dict[str, TowerRatios] = Field(
        min_length=1, description="Tower name, or `all` for every tower that is not named, → what is removed there."
    )
    importance: Annotated[str, AfterValidator(_known_importance)] = Field(
        "magnitude", description="How the units to remove are chosen; `hfcompress list` names all importances."
    )
    multiple_of: int = Field(8, ge=1, description="Kept sizes are rounded up to a multiple of this.")


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
            config=plan.config,
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
        from hfcompress.inputs import example_inputs
        from hfcompress.pruning import surgery

        model = load_model(checkpoint.path)
        plan = self._plan(model.config)
        removals = self._choose(model, plan, context)
        inputs = example_inputs(model, seed=context.seed)
        state = surgery.slice_state(model.state_dict(), removals)
        surgery.mask(model, removals)
        masked = surgery.run(model, inputs)
        pruned = surgery.rebuild(plan.config, state)
        difference = surgery.compare_outputs(masked, surgery.run(pruned, inputs))
        pruned.save_pretrained(output)
        copy_processor(checkpoint.path, output)
        return {
            "importance": self.options.importance,
            "changes": list(_sentences(plan)),
            "config_edits": [str(edit) for edit in plan.edits],
            "removed_parameters": plan.removed_parameters,
            "proof_max_difference": difference,
        }

    def _plan(self, config: PretrainedConfig) -> PruningPlan:
        from hfcompress.pruning.plan import plan_pruning

        return plan_pruning(config, self.options.towers, self.options.multiple_of)

    def _choose(self, model: PreTrainedModel, plan: PruningPlan, context: StepContext) -> list[Removal]:
        """Score the units of every coupling and keep the best."""
        import torch

        from hfcompress.pruning.surgery import Removal, unit_weights

        importance = IMPORTANCES.get(self.options.importance)
        generator = torch.Generator().manual_seed(context.seed)
        removals = []
        for cut in context.progress.track(plan.cuts, len(plan.cuts), "layers"):
            scores = importance(unit_weights(model, cut.coupling), generator)
            removals.append(Removal(cut.coupling, scores.topk(cut.keep).indices.sort().values))
        return removals


def _sentences(plan: PruningPlan) -> tuple[str, ...]:
    """Say what goes: one sentence for each tower and size."""
    counts: dict[tuple[str, int, int], int] = {}
    for cut in plan.cuts:
        key = (cut.tower, cut.coupling.size, cut.keep)
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        f"{tower}: {before} → {after} feed-forward units in {layers} layers"
        for (tower, before, after), layers in counts.items()
    )
