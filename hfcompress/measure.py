"""What a run evaluates of source and result, and the records of the two."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from hfcompress.contracts import Progress
from hfcompress.errors import DataError, RecipeError
from hfcompress.processes import together
from hfcompress.report import ArtifactRecord, DataRecord, SourceRecord
from hfcompress.runtimes import runtime_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig

    from hfcompress.contracts import Checkpoint, Forecast, Measurement, Model, Rows, Task
    from hfcompress.hub import Source
    from hfcompress.ingredients import Ingredients
    from hfcompress.recipe import Recipe
    from hfcompress.reuse import Reuse

__all__ = ["Evaluation", "artifact_record", "data_records", "source_record"]


class Evaluation:
    """The evaluations of a recipe: the source once, then whatever is compared with it, on the same rows."""

    def __init__(self, recipe: Recipe, rows: Mapping[str, Rows], ingredients: Ingredients, reuse: Reuse) -> None:
        self._tasks: list[tuple[Task, Rows]] = [(spec.build(), rows[spec.options.data]) for spec in recipe.evaluate]
        self._recipe = recipe
        self._ingredients = ingredients
        self._reuse = reuse
        self._baseline: list[Any] = []

    def take_source(self, source: Checkpoint) -> None:
        """Run the source over all rows, in torch.

        Raises:
            RecipeError: The rows of an evaluation are not what its task needs.
        """
        self._baseline = self._predict(source, self._ingredients.source)

    def compare_with(self, artifact: Checkpoint, key: str) -> list[Measurement]:
        """Load the artifact from disk, run it over the same rows, and measure both.

        Args:
            artifact: The result.
            key: The hash of everything that went into it.
        """
        predictions = self._predict(artifact, key, self._baseline)
        return [
            measurement
            for (task, rows), before, after in zip(self._tasks, self._baseline, predictions, strict=True)
            for measurement in task.compare(before, after, rows)
        ]

    def _predict(self, checkpoint: Checkpoint, key: str, leaders: list[Any] | None = None) -> list[Any]:
        """Return what a checkpoint predicts; it is loaded only if not all of it comes from the cache."""

        def predict(index: int, progress: Progress) -> Any:  # noqa: ANN401 - the task's own dataclass
            task, rows = self._tasks[index]
            return together(_prediction, progress, task, rows, checkpoint, None if leaders is None else leaders[index])

        predictions = []
        for index, spec in enumerate(self._recipe.evaluate):
            try:
                source = None if leaders is None else self._ingredients.predictions(self._ingredients.source, spec)
                name = self._ingredients.predictions(key, spec, source)
                task, _ = self._tasks[index]
                predictions.append(self._reuse.predictions(name, spec.task, task, partial(predict, index)))
            except DataError as error:
                raise RecipeError([self._recipe.problem(("evaluate", index), str(error))]) from error
        together(_forget_model, Progress())
        return predictions


def _prediction(progress: Progress, task: Task, rows: Rows, checkpoint: Checkpoint, leader: Any) -> Any:  # noqa: ANN401 - the task's own dataclass
    """Return what a task makes of a checkpoint, given what it made of the source, where it is another one."""
    model = _model(checkpoint)
    return task.predict(model, rows, progress) if leader is None else task.follow(model, rows, leader, progress)


@lru_cache(maxsize=1)
def _model(checkpoint: Checkpoint) -> Model:
    return runtime_of(checkpoint.format).load(checkpoint.path)


def _forget_model(_: Progress) -> None:
    """Let the memory of the model go, in each process."""
    _model.cache_clear()


def source_record(source: Source, forecast: Forecast) -> SourceRecord:
    """Return what the report says of the source."""
    return SourceRecord(
        source.id,
        source.revision,
        source.on_hub,
        license=source.license,
        license_name=source.license_name,
        license_link=source.license_link,
        architecture=_architecture(forecast.config),
        parameters=forecast.parameters,
        remote_code=source.remote_code,
    )


def data_records(recipe: Recipe, rows: Mapping[str, Rows]) -> tuple[DataRecord, ...]:
    """Return what the report says of the rows that the run read."""
    return tuple(
        DataRecord(
            name,
            rows[name].name,
            reference.config,
            reference.split,
            rows[name].revision,
            on_hub=not reference.is_local,
            requested=rows[name].requested,
            used=len(rows[name]),
        )
        for name, reference in recipe.data.items()
    )


def artifact_record(recipe: Recipe, artifact: Checkpoint, repo: str | None) -> ArtifactRecord:
    """Return what the report says of the artifact; its files are those that loading needs."""
    from hfcompress.anatomy import dtype_of, load_config
    from hfcompress.narrowing import record_in
    from hfcompress.quantized import quantization_method, readers

    config = load_config(artifact.path)
    in_torch, dtype = artifact.format == "transformers", str(dtype_of(config)).removeprefix("torch.")
    return ArtifactRecord(
        path=".",
        format=artifact.format,
        files={
            file.relative_to(artifact.path).as_posix(): file.stat().st_size
            for file in sorted(artifact.path.rglob("*"))
            if file.is_file()
        },
        load_with=runtime_of(artifact.format).load_class(artifact.path),
        pipeline_tag=recipe.evaluate[0].task if recipe.evaluate else None,
        architecture=_architecture(config),
        repo=repo,
        imports_hfcompress=in_torch and record_in(config) is not None,
        requires=readers(quantization_method(config)) if in_torch else (),
        dtype=dtype if in_torch and dtype != "float32" else None,
    )


def _architecture(config: PretrainedConfig) -> str | None:
    return config.architectures[0] if config.architectures else None
