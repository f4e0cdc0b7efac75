"""What a recipe says in one place must agree with what it says in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfcompress.contracts import CalibratedOptions, Format
from hfcompress.errors import UsageError
from hfcompress.registry import TASKS, did_you_mean
from hfcompress.validation import Mistake

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hfcompress.recipe import DataReference, Gate, Recipe
    from hfcompress.yaml_text import KeyPath

__all__ = ["contradictions", "replaced_source"]

_COSTS = ("size_bytes", "parameters", "flops", "latency_ms", "latency_p90_ms")
"""Measurements that every run gives, whatever its tasks and its benchmark."""
_MEMORY = ("peak_memory_bytes", "model_memory_bytes")


def contradictions(recipe: Recipe) -> list[Mistake]:
    """Return every mistake of a recipe whose parts are right each by itself."""
    return [
        *_names_of_data(recipe),
        *_rows_used_twice(recipe),
        *_chain(recipe),
        *_columns(recipe),
        *_gates(recipe),
        *_push(recipe),
    ]


def _uses(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Yield every key that names an entry of `data`, and the name."""
    yield from _calibrations(recipe)
    for index, spec in enumerate(recipe.evaluate):
        yield ("evaluate", index, "data"), spec.options.data


def _calibrations(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    for index, spec in enumerate(recipe.steps):
        if isinstance(spec.options, CalibratedOptions) and spec.options.calibration is not None:
            yield ("steps", index, "calibration"), spec.options.calibration


def _names_of_data(recipe: Recipe) -> Iterator[Mistake]:
    used = {name for _, name in _uses(recipe)}
    unknown = used - recipe.data.keys()
    for path, name in _uses(recipe):
        if name in unknown:
            known = f"known: {', '.join(recipe.data)}" if recipe.data else "`data` is empty"
            yield Mistake(path, f"`data` has no entry {name!r}{did_you_mean(name, recipe.data)}; {known}")
    for name in recipe.data:
        if name not in used and not unknown:  # a misspelt name leaves its entry unused: one mistake, not two
            message = "nothing uses it; name it in a step's `calibration` or a task's `data`, or remove it"
            yield Mistake(("data", name), message)


def _rows_used_twice(recipe: Recipe) -> Iterator[Mistake]:
    calibrating = {_identity(recipe.data[name]): path for path, name in _calibrations(recipe) if name in recipe.data}
    for index, spec in enumerate(recipe.evaluate):
        reference = recipe.data.get(spec.options.data)
        path = calibrating.get(_identity(reference)) if reference else None
        if reference and path:
            message = (
                f"evaluates on the rows that steps[{path[1]}] calibrates on "
                f"({reference.split} of {reference.dataset}); expected other rows"
            )
            yield Mistake(("evaluate", index, "data"), message)


def _identity(reference: DataReference) -> tuple[str | None, ...]:
    return reference.dataset, reference.config, reference.split, reference.revision


def _chain(recipe: Recipe) -> Iterator[Mistake]:
    """Yield the steps that cannot take what the step before them gives."""
    given: Format = "transformers"
    giver = "the source"
    for index, spec in enumerate(recipe.steps):
        try:
            step = spec.build()
        except UsageError as error:
            yield Mistake(("steps", index), str(error))
            return
        if given not in step.accepts:
            takes = " or ".join(sorted(step.accepts))
            yield Mistake(("steps", index), f"{spec.use!r} takes {takes}, but {giver} gives {given}")
        given = step.produces
        giver = f"{spec.use!r} (steps[{index}])"


def _columns(recipe: Recipe) -> Iterator[Mistake]:
    for spec in recipe.evaluate:
        reference = recipe.data.get(spec.options.data)
        if reference is None or not reference.columns:
            continue
        for column in sorted(TASKS.get(spec.task).columns - reference.columns.keys()):
            message = f"the task {spec.task!r} needs the column {column!r}; got {', '.join(reference.columns)}"
            yield Mistake(("data", spec.options.data, "columns"), message)


def _gates(recipe: Recipe) -> Iterator[Mistake]:
    measures = [name for spec in recipe.evaluate for name in TASKS.get(spec.task).measures]
    compared = {name for spec in recipe.evaluate for name in TASKS.get(spec.task).compared}
    costs = (*_COSTS, *recipe.benchmark.throughput_names, *(_MEMORY if recipe.benchmark.memory else ()))
    known = [*dict.fromkeys(measures), *costs]
    for name, gate in recipe.gates.items():
        if name in _MEMORY and name not in known:
            yield Mistake(("gates", name), "`benchmark.memory` is false, so nothing measures it; remove one of the two")
        elif name not in known:
            message = f"this recipe measures no {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}"
            yield Mistake(("gates", name), message)
        elif gate is not None:
            yield from _limits(name, gate, measures, costs)
            if gate.max_drop is not None and name in compared:
                message = f"{name} compares the result with the source, which has none to drop from; expected "
                yield Mistake(("gates", name, "max_drop"), message + "min_value or max_value")


def _limits(name: str, gate: Gate, measures: Iterable[str], costs: tuple[str, ...]) -> Iterator[Mistake]:
    times = list(measures).count(name)
    if times > 1:
        yield Mistake(
            ("gates", name), f"{times} evaluations of this recipe measure it, expected one; remove the others"
        )
    if gate.max_drop is not None and name in costs:
        bound = "min_value" if name.startswith("throughput") else "max_value"
        message = f"{name} is a cost, not a score; expected min_ratio (times better than the source) or {bound}"
        yield Mistake(("gates", name, "max_drop"), message)
    if gate.min_ratio is not None and name not in costs:
        message = f"only {', '.join(costs)} have a ratio; expected max_drop or min_value"
        yield Mistake(("gates", name, "min_ratio"), message)


def replaced_source(recipe: Recipe, repo: str) -> str | None:
    """Return what is wrong with a push to a repository, if it is the source's and no pull request is asked for."""
    if recipe.push is None or recipe.push.create_pr or repo.lower() != recipe.model.id.lower():
        return None
    return (
        f"{repo} is the repository of the source, whose card and weights a push would replace; expected another "
        "repository, or `create_pr: true` to open a pull request"
    )


def _push(recipe: Recipe) -> Iterator[Mistake]:
    push = recipe.push
    if push is None:
        return
    if (message := replaced_source(recipe, push.repo)) is not None:
        yield Mistake(("push", "repo"), message)
    if push.create_pr and push.revision not in (None, "main"):
        message = (
            f"got {push.revision!r} beside `create_pr: true`, and a pull request goes to the main branch; remove one"
        )
        yield Mistake(("push", "revision"), message)
