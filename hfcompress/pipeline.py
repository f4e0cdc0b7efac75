"""The whole story: from a recipe to a smaller checkpoint, with the proof of what was kept."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfcompress.cache import Cache, cache_home
from hfcompress.chain import Chain
from hfcompress.checksums import verify_folder, write_manifest
from hfcompress.contracts import Checkpoint, Forecast, Progress
from hfcompress.data import load_rows
from hfcompress.errors import (
    CheckpointError,
    DataError,
    HfcompressError,
    HubError,
    MissingExtraError,
    NotOnHubError,
    PushError,
    RecipeError,
)
from hfcompress.extras import require_extra
from hfcompress.gates import check_gates
from hfcompress.hub import Pushed, Source, download_weights, full_name, require_access, resolve_model
from hfcompress.imports import uncollected
from hfcompress.ingredients import Ingredients
from hfcompress.licenses import license_warning
from hfcompress.measure import Evaluation, artifact_record, data_records, source_record
from hfcompress.needs import benchmark_bytes, memory_bytes, memory_warning
from hfcompress.overlap import shared_rows
from hfcompress.processes import led_by_main
from hfcompress.recipe import Recipe, load_recipe
from hfcompress.recipe_checks import replaced_source
from hfcompress.registry import TASKS
from hfcompress.report import CardRecord, RecipeRecord, Report
from hfcompress.reuse import Reuse
from hfcompress.shards import check_weights
from hfcompress.space import SpaceExplained, require_space
from hfcompress.staging import check_output, default_output, staging

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hfcompress.contracts import Rows, Step
    from hfcompress.errors import Problem
    from hfcompress.recipe import Push
    from hfcompress.yaml_text import KeyPath

__all__ = ["Plan", "plan", "run"]


@dataclass(frozen=True)
class Plan:
    """What a run will do, read from configurations alone.

    Attributes:
        source: The model, with its revision resolved.
        forecasts: The source, and what each step makes of it.
    """

    source: Source
    forecasts: tuple[Forecast, ...]

    @property
    def memory_bytes(self) -> int:
        """What the run is estimated to need of the machine's memory at its peak."""
        return memory_bytes(self.forecasts)


def plan(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Plan:
    """Say what a recipe will change, without reading any weights.

    Raises:
        RecipeError: The recipe has mistakes, the model does not exist or is no checkpoint, a step cannot be applied to
            it, or a step needs an extra that is not installed.
        HubError: The Hub refused or could not be reached.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    steps = [spec.build() for spec in recipe.steps]
    _require_extras(recipe, steps)
    with _placed(recipe, ("model",), "id"):
        source = resolve_model(recipe.model.id, recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code)
    return Plan(source, _forecasts(recipe, source, steps))


@uncollected()
def _forecasts(recipe: Recipe, source: Source, steps: Sequence[Step]) -> tuple[Forecast, ...]:
    """Return what the source is and what each step makes of it."""
    from hfcompress.anatomy import dtype_of, load_config, meta_model
    from hfcompress.quantized import require_float

    with _placed(recipe, ("model",), "id"):
        config = load_config(source.path)
        parameters = meta_model(config).num_parameters()
    forecasts = [Forecast(config, "transformers", parameters, dtype_of(config).itemsize * parameters)]
    for index, step in enumerate(steps):
        try:
            require_float(forecasts[-1].config)
            forecasts.append(step.forecast(forecasts[-1]))
        except HfcompressError as error:
            raise _at(recipe, ("steps", index), error) from error
    return tuple(forecasts)


def _require_extras(recipe: Recipe, steps: Sequence[Step]) -> None:
    """Make sure that everything the steps need is installed; say of all at once what is not."""
    problems = []
    for index, step in enumerate(steps):
        try:
            if step.extra is not None:
                require_extra(step.extra)
        except MissingExtraError as error:
            problems.append(recipe.problem(("steps", index), str(error)))
    if problems:
        raise RecipeError(problems)


@led_by_main
@SpaceExplained()
def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    push: bool = True,
    cache: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Compress a model as a recipe says, measure what was gained and lost, and leave an artifact.

    Args:
        recipe: A YAML file, its values, or a loaded recipe.
        overrides: Each `a.b.0.c=value`, applied to the recipe.
        output: The artifact's folder; by default `out/` and the recipe's name.
        push: Whether a `push` block of the recipe is followed.
        cache: Whether results of earlier runs are used, and those of this one kept for later ones.
        progress: Hears how far the run is.

    Returns:
        The report, which is also in the artifact's folder. Its `failed_gates` are empty if all gates hold; nothing is
        pushed if one does not.

    Raises:
        UsageError: The recipe, the output folder or the installation does not allow the run.
        RunError: The run failed; no artifact is left.
    """
    progress = progress or Progress()
    progress.stage("validate")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    folder = Path(output) if output is not None else default_output(recipe)
    check_output(folder)
    repo = _repository(recipe) if push else None
    # what lies on this machine is looked at before the seconds that torch, transformers and a plan take
    _check_folder(recipe)
    rows = _load_data(recipe, local=True)

    progress.stage("plan")
    the_plan = plan(recipe)
    for note in _notes(the_plan, recipe.push if push else None):
        progress.note(note)

    progress.stage("load")
    rows |= _load_data(recipe, local=False)
    _refuse_seen_rows(recipe, rows)

    ingredients = Ingredients(the_plan.source, recipe.model, rows)
    reuse = Reuse(Cache(cache_home()) if cache else None, the_plan.source.id, progress)
    with staging(folder) as scratch:
        source = _load_source(recipe, the_plan.source, scratch)

        progress.stage("evaluate the source")
        evaluation = Evaluation(recipe, rows, ingredients, reuse)
        evaluation.take_source(source)

        taken = Chain(recipe, the_plan.forecasts, rows, ingredients, reuse, progress).take(source, scratch)
        artifact = taken.artifact

        progress.stage("evaluate the result")
        quality = evaluation.compare_with(artifact, taken.key)

        from hfcompress.costs import cost_measurements

        progress.stage("benchmark")
        require_space({scratch: benchmark_bytes(the_plan.forecasts)}, "benchmark the source in the artifact's runtime")
        costs = cost_measurements(recipe.benchmark, source, artifact, taken.weights, scratch / "float32", progress)

        progress.stage("report")
        measurements = (*costs.measurements, *quality)
        gates = check_gates(recipe.gates, measurements, costs.details.reason)
        held = all(gate.held for gate in gates)
        report = Report(
            source=source_record(the_plan.source, the_plan.forecasts[0]),
            recipe=RecipeRecord.of(recipe.text),
            steps=taken.records,
            measurements=measurements,
            gates=gates,
            artifact=artifact_record(recipe, artifact, repo if held else None),
            environment=costs.environment,
            towers=costs.towers,
            cost_details=costs.details,
            card=CardRecord(recipe.card.text, recipe.card.tags),
            data=data_records(recipe, rows),
        )
        from hfcompress.artifact import describe

        write_manifest(artifact.path)
        describe(report, artifact.path)

    if held and repo is not None and recipe.push is not None:
        progress.stage("push")
        pushed = _push(recipe.push, repo, folder)
        progress.note(f"pushed to {pushed.url}" if pushed.files else f"nothing changed, so no commit: {pushed.url}")
    return report


def _notes(the_plan: Plan, push: Push | None) -> Iterator[str]:
    """Yield what whoever starts the run should know before it works for long."""
    source = the_plan.source
    for forecast in the_plan.forecasts[1:]:
        yield from forecast.changes
    if source.converted is not None:
        yield f"{source.id}: its main branch holds no safetensors; taken from {source.converted} by SFconvertbot"
    warning = None if push is None else license_warning(source.license, source.license_name)
    if push is not None and warning is not None:
        yield f"push to {push.repo}: {warning}"
    memory = memory_warning(the_plan.memory_bytes)
    if memory is not None:
        yield memory


def _check_folder(recipe: Recipe) -> None:
    """Make sure that a model that is a folder is what was written there, and that its weights can be opened."""
    folder = Path(recipe.model.id)
    if folder.is_dir():
        with _placed(recipe, ("model",), "id"):
            check_weights(folder)
            verify_folder(folder)


def _load_source(recipe: Recipe, source: Source, scratch: Path) -> Checkpoint:
    """Return the checkpoint that a run begins with, downloaded."""
    with _placed(recipe, ("model",), "id"):
        converted = scratch / "source" if recipe.model.allow_pickle else None
        return Checkpoint(download_weights(source, converted), "transformers")


def _load_data(recipe: Recipe, *, local: bool) -> dict[str, Rows]:
    """Load the entries of `data` that lie on this machine, or those that do not, with the columns that tasks need.

    Raises:
        RecipeError: A dataset, a split or a column does not exist; all such mistakes at once.
    """
    needed: dict[str, set[str]] = {name: set() for name in recipe.data}
    for spec in recipe.evaluate:
        needed[spec.options.data] |= TASKS.get(spec.task).columns
    rows: dict[str, Rows] = {}
    problems: list[Problem] = []
    for name, reference in recipe.data.items():
        if reference.is_local != local:
            continue
        try:
            # here, because the mistakes that are gathered do not tell what led to them
            with SpaceExplained(), _placed(recipe, ("data", name), "dataset"):
                rows[name] = load_rows(reference, needed[name])
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return rows


def _refuse_seen_rows(recipe: Recipe, rows: Mapping[str, Rows]) -> None:
    """Make sure that nothing is evaluated on what a step calibrates on.

    Raises:
        RecipeError: Rows of two entries of `data` hold the same; all such evaluations at once.
    """
    problems: list[Problem] = []
    for step, spec in enumerate(recipe.steps):
        name = getattr(spec.options, "calibration", None)
        if name is None:
            continue
        for index, evaluation in enumerate(recipe.evaluate):
            tested = rows[evaluation.options.data]
            with _placed(recipe, ("data", evaluation.options.data), "dataset"):
                shared = shared_rows(tested, rows[name])
            if shared:
                message = (
                    f"{len(shared)} of its {len(tested)} rows (the first is row {shared[0]}) hold what rows of "
                    f"`{name}` hold, on which steps[{step}] calibrates; expected other rows"
                )
                problems.append(recipe.problem(("evaluate", index, "data"), message))
    if problems:
        raise RecipeError(problems)


def _repository(recipe: Recipe) -> str | None:
    """Return `owner/name` of the repository that the artifact is to be pushed to, if it is to be pushed.

    Raises:
        RecipeError: It is the repository of the source, which only a pull request may change.
        HubError: There is no access token, or no owner is named, and the Hub does not tell who the user is.
    """
    if recipe.push is None:
        return None
    try:
        require_access(recipe.push.repo)
        repo = full_name(recipe.push.repo)
    except PushError as error:  # there is no artifact yet whose push has failed
        msg = f"{error}; or run with --no-push"
        raise HubError(msg) from error
    if (message := replaced_source(recipe, repo)) is not None:
        raise RecipeError([recipe.problem(("push", "repo"), message)])
    return repo


def _push(wanted: Push, repo: str, folder: Path) -> Pushed:
    from hfcompress.publication import publish

    return publish(
        folder,
        repo,
        private=wanted.private,
        create_pr=wanted.create_pr,
        revision=wanted.revision,
        message=wanted.message,
    )


@contextmanager
def _placed(recipe: Recipe, path: KeyPath, field: str) -> Iterator[None]:
    """Turn what is wrong with a model or a dataset that the recipe names into a mistake of the recipe.

    What is wrong with the Hub or the network is none, and passes.
    """
    try:
        yield
    except NotOnHubError as error:
        raise _at(recipe, (*path, field if error.part == "repository" else "revision"), error) from error
    except DataError as error:
        raise _at(recipe, (*path, *error.key), error) from error
    except CheckpointError as error:
        raise _at(recipe, (*path, field), error) from error


def _at(recipe: Recipe, path: KeyPath, error: HfcompressError) -> RecipeError:
    """Return the error as a mistake of the recipe, with its place."""
    return RecipeError([recipe.problem(path, str(error))])
