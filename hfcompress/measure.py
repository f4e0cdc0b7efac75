"""What a run measures of source and result, and the records that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfcompress.benchmark import alternate, default_threads, latency, parameters_of, size_bytes
from hfcompress.contracts import Checkpoint, Measurement, Value
from hfcompress.environment import environment_record
from hfcompress.errors import DataError, RecipeError
from hfcompress.report import ArtifactRecord, SourceRecord, TowerBytes
from hfcompress.runtimes import runtime_of
from hfcompress.tower_bytes import tower_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PretrainedConfig

    from hfcompress.contracts import Forecast, Progress, Rows, Task
    from hfcompress.hub import Source
    from hfcompress.recipe import BenchmarkOptions, Recipe

__all__ = ["Costs", "Evaluation", "artifact_record", "cost_measurements", "source_record"]

_CALL_TOKENS = 77
"""Length of the texts in a timed call: what CLIP pads to. A model that takes fewer gets fewer."""


class Evaluation:
    """The evaluations of a recipe: the source once, then whatever is compared with it, on the same rows."""

    def __init__(self, recipe: Recipe, rows: Mapping[str, Rows], progress: Progress) -> None:
        self._tasks: list[tuple[Task, Rows]] = [(spec.build(), rows[spec.options.data]) for spec in recipe.evaluate]
        self._recipe = recipe
        self._progress = progress
        self._baseline: list[Any] = []

    def take_source(self, source: Checkpoint) -> None:
        """Run the source over all rows, in torch.

        Raises:
            RecipeError: The rows of an evaluation are not what its task needs.
        """
        self._baseline = self._predict(source)

    def compare_with(self, artifact: Checkpoint) -> list[Measurement]:
        """Load the artifact from disk, run it over the same rows, and measure both."""
        predictions = self._predict(artifact, self._baseline)
        return [
            measurement
            for (task, rows), before, after in zip(self._tasks, self._baseline, predictions, strict=True)
            for measurement in task.compare(before, after, rows)
        ]

    def _predict(self, checkpoint: Checkpoint, leaders: list[Any] | None = None) -> list[Any]:
        if not self._tasks:
            return []
        model = runtime_of(checkpoint.format).load(checkpoint.path)
        predictions = []
        for index, (task, rows) in enumerate(self._tasks):
            try:
                predictions.append(
                    task.predict(model, rows, self._progress)
                    if leaders is None
                    else task.follow(model, rows, leaders[index], self._progress)
                )
            except DataError as error:
                raise RecipeError([self._recipe.problem(("evaluate", index), str(error))]) from error
        return predictions


@dataclass(frozen=True)
class Costs:
    """Size, by tower too, and speed of source and result, and the machine they were measured on."""

    measurements: tuple[Measurement, ...]
    environment: dict[str, str | int]
    towers: tuple[TowerBytes, ...]


def cost_measurements(
    options: BenchmarkOptions,
    source: Checkpoint,
    artifact: Checkpoint,
    weights: Path,
    float32: Path,
    progress: Progress,
) -> Costs:
    """Measure size, parameters and latency of the source, in torch and in the artifact's runtime, and of the artifact.

    Args:
        options: How latency is measured.
        source: The source as it was downloaded.
        artifact: The result.
        weights: The last folder in which the result has its weights in safetensors.
        float32: Scratch folder for the source's float32 form in the artifact's runtime.
        progress: Hears how far the timing is.
    """
    from hfcompress.anatomy import load_config, meta_model
    from hfcompress.probes import example_inputs

    runtime, published = runtime_of(artifact.format), runtime_of(source.format)
    threads = options.threads or default_threads()
    same = artifact.format == source.format
    baseline = runtime.export(source, float32)
    models = {
        "source": runtime.load(baseline.path, threads),
        "compressed": runtime.load(artifact.path, threads),
    } | ({} if same else {"published": published.load(source.path, threads)})
    arrays = {
        name: tensor.numpy()
        for name, tensor in example_inputs(
            meta_model(load_config(source.path)), options.batch_size, _CALL_TOKENS
        ).items()
    }
    times = alternate(models, arrays, options.repeats, progress)

    def timed(name: str, label: str, percentile: float) -> Measurement:
        values = {model: latency(samples, percentile) for model, samples in times.items()}
        return Measurement(
            name,
            label,
            "ms",
            higher_is_better=False,
            compressed=values["compressed"],
            source=values["source"],
            as_published=values.get("published"),
            n=options.repeats,
        )

    measurements = (
        Measurement(
            "size_bytes",
            "size on disk",
            "bytes",
            higher_is_better=False,
            compressed=Value(size_bytes(artifact)),
            source=Value(size_bytes(baseline)),
            as_published=None if same else Value(size_bytes(source)),
        ),
        Measurement(
            "parameters",
            "parameters",
            "count",
            higher_is_better=False,
            compressed=Value(parameters_of(weights)),
            source=Value(parameters_of(source.path)),
        ),
        timed("latency_ms", f"latency, p50, {_rows(options.batch_size)}", 50),
        timed("latency_p90_ms", f"latency, p90, {_rows(options.batch_size)}", 90),
    )
    before, after = (tower_bytes(checkpoint, source.path) for checkpoint in (baseline, artifact))
    towers = tuple(TowerBytes(name, before.get(name, 0), after.get(name, 0)) for name in sorted(before | after))
    return Costs(measurements, environment_record(threads), towers)


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


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
