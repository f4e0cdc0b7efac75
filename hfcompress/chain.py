"""The steps of a recipe, one after the other, each from the cache where it has been taken before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.errors import DataError, RecipeError
from hfcompress.needs import step_bytes
from hfcompress.space import require_space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hfcompress.contracts import Forecast, Json, Progress, Rows, StepRecord
    from hfcompress.ingredients import Ingredients
    from hfcompress.recipe import Recipe, StepSpec
    from hfcompress.reuse import Reuse

__all__ = ["Chain", "Taken"]


@dataclass(frozen=True)
class Taken:
    """Where the steps led.

    Attributes:
        artifact: The last checkpoint.
        key: The hash of everything that went into it.
        records: The record of each step.
        weights: The last folder with weights in safetensors.
    """

    artifact: Checkpoint
    key: str
    records: tuple[StepRecord, ...]
    weights: Path


@dataclass(frozen=True)
class Chain:
    """The steps of a recipe, and what each needs.

    Attributes:
        recipe: The recipe.
        forecasts: The source, and what each step makes of it.
        rows: The rows under each name of the recipe's `data`.
        ingredients: Keys of the steps' results.
        reuse: Gives results of earlier runs.
        progress: Hears how far the steps are.
    """

    recipe: Recipe
    forecasts: Sequence[Forecast]
    rows: Mapping[str, Rows]
    ingredients: Ingredients
    reuse: Reuse
    progress: Progress

    def take(self, source: Checkpoint, scratch: Path) -> Taken:
        """Take the source through all steps; the last checkpoint is `scratch/artifact`.

        Raises:
            RecipeError: The calibration rows are not what a step needs.
            SpaceError: There is no room for a step's result.
            RunError: A step failed.
        """
        checkpoint, weights, key = source, source.path, self.ingredients.source
        records: list[StepRecord] = []
        for index, spec in enumerate(self.recipe.steps):
            self.progress.stage(f"step {index + 1}/{len(self.recipe.steps)}: {spec.use}")
            folder = scratch / ("artifact" if index + 1 == len(self.recipe.steps) else f"step-{index + 1}")
            folder.mkdir()
            before, after = self.forecasts[index : index + 2]
            needs = {scratch: step_bytes(before, after)} | self.reuse.room_for(after.size_bytes)
            require_space(needs, f"take step {index + 1}, {spec.use}")
            try:
                key = self.ingredients.step(key, spec, self.recipe.seed)
                records.append(self.reuse.step(key, spec.use, folder, partial(self._apply, spec, checkpoint, folder)))
            except DataError as error:
                name = getattr(spec.options, "calibration", None)
                raise (self._misplaced(name, error) if name else error) from error
            checkpoint = Checkpoint(folder, spec.build().produces)
            weights = folder if checkpoint.format == "transformers" else weights
        return Taken(checkpoint, key, tuple(records), weights)

    def _apply(self, spec: StepSpec, checkpoint: Checkpoint, folder: Path, progress: Progress) -> dict[str, Json]:
        name = getattr(spec.options, "calibration", None)
        context = StepContext(self.rows[name] if name else None, self.recipe.seed, progress)
        return spec.build().apply(checkpoint, folder, context)

    def _misplaced(self, name: str, error: DataError) -> RecipeError:
        return RecipeError([self.recipe.problem(("data", name), str(error))])
