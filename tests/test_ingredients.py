"""Promises of the keys of results: what matters changes them, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hfcompress.contracts import Rows
from hfcompress.hub import Source
from hfcompress.ingredients import Ingredients
from hfcompress.recipe import ModelReference, Recipe

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE = Source("me/model", "1" * 40, Path("/somewhere"), on_hub=True)
REFERENCE = ModelReference(id="me/model")


def _rows(
    texts: tuple[str, ...] = ("one", "two"), names: tuple[str, ...] = ("cat", "dog"), split: str = "test"
) -> Rows:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    dataset = Dataset.from_dict({"text": list(texts), "label": [0, 1][: len(texts)]}, features=features)
    return Rows(dataset, "me/data", "2" * 40, split)


def _recipe(step: dict[str, Any] | None = None, task: dict[str, Any] | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "model": {"id": "me/model"},
            "steps": [
                {"use": "prune", "towers": {"all": {"ffn": 0.5}}, "importance": "magnitude", "calibration": "rows"}
                | (step or {})
            ],
            "evaluate": [{"task": "zero-shot-image-classification", "data": "rows"} | (task or {})],
        }
    )


def _step_key(
    rows: Rows | None = None, source: Source = SOURCE, *, before: str | None = None, seed: int = 0, **step: object
) -> str:
    ingredients = Ingredients(source, REFERENCE, {"rows": rows or _rows()})
    return ingredients.step(before or ingredients.source, _recipe(step).steps[0], seed)


STEP_CHANGES: dict[str, Callable[[], str]] = {
    "the source": lambda: _step_key(source=replace(SOURCE, revision="3" * 40)),
    "the step before": lambda: _step_key(before="a"),
    "the seed": lambda: _step_key(seed=1),
    "an option": lambda: _step_key(multiple_of=16),
    "no calibration": lambda: _step_key(calibration=None),
    "a row": lambda: _step_key(_rows(("one", "three"))),
    "fewer rows": lambda: _step_key(_rows(("one",))),
    "another importance": lambda: _step_key(importance="random"),
    "what the report says of the rows": lambda: _step_key(_rows(split="train")),
}


@pytest.mark.parametrize("change", STEP_CHANGES)
def test_what_matters_to_a_step_changes_its_key(change: str) -> None:
    """Another input, option, seed or row is another result."""
    assert STEP_CHANGES[change]() != _step_key()


def test_what_does_not_matter_to_a_step() -> None:
    """The same in other words, defaults written out, and the model's name and place, are the same result."""
    moved = replace(SOURCE, id="other/name", path=Path("/elsewhere"))
    assert len({_step_key(), _step_key(source=moved), _step_key(multiple_of=8, power=2)}) == 1


def _predictions_key(rows: Rows | None = None, *, source: str | None = None, **task: object) -> str:
    ingredients = Ingredients(SOURCE, REFERENCE, {"rows": rows or _rows()})
    return ingredients.predictions(ingredients.source, _recipe(task=task).evaluate[0], source)


def test_what_matters_to_predictions() -> None:
    """Another row, class name, option or leader is another prediction; the split's name is not."""
    others = [
        _predictions_key(_rows(("one", "three"))),
        _predictions_key(_rows(names=("cat", "cow"))),
        _predictions_key(batch_size=8),
        _predictions_key(templates=["{label}"]),
        _predictions_key(source="a"),
    ]
    assert len({_predictions_key(), *others}) == 6
    assert _predictions_key(_rows(split="train")) == _predictions_key()


def test_what_is_trusted_matters() -> None:
    """What else the recipe says of the model takes part, its revision's name does not: the commit does."""
    named = Ingredients(SOURCE, ModelReference(id="me/model", revision="v1"), {})
    assert named.source == Ingredients(SOURCE, REFERENCE, {}).source
