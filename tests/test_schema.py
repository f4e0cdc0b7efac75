"""Promises of `hfcompress.schema`."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from hfcompress.registry import QUANTIZERS, STEPS, TASKS
from hfcompress.schema import recipe_schema

STEP = {"use": "round-weights"}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """Return a validator of the recipe schema, which itself is valid JSON Schema."""
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _recipe(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any key of a recipe
    return {"version": 1, "model": {"id": "me/clip"}, "steps": [STEP], **changes}


@pytest.mark.parametrize(
    "recipe",
    [
        _recipe(),
        _recipe(steps=[{"use": "prune", "towers": {"vision": {"ffn": 0.5}}}, {**STEP, "bits": 3}]),
        _recipe(steps=[{"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration": "rows"}]),
        _recipe(evaluate=[{"task": "zero-shot-image-classification", "data": "photos"}]),
        _recipe(gates={"latency_ms": None, "size_bytes": {"min_ratio": 2}}, push={"repo": "me/small"}),
        {"include": ["base.yaml"], "seed": 3},
    ],
)
def test_good_recipes_fit(recipe: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    """An editor shows no error in a recipe that loads."""
    validator.validate(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        _recipe(version=2),
        _recipe(stepz=[]),
        _recipe(steps=[]),
        _recipe(steps=[{"bits": 3}]),
        _recipe(steps=[{**STEP, "bits": 99}]),
        _recipe(steps=[{**STEP, "bit": 3}]),
        _recipe(steps=[{"use": "prune", "towers": {"vision": {"ffn": 1.0}}}]),
        _recipe(steps=[{"use": "quantize", "runtime": "onnx", "mode": "static"}]),
        _recipe(evaluate=[{"task": "zero-shot-image-classification"}]),
        _recipe(gates={"size_bytes": {"min_ratio": 0}}),
    ],
)
def test_bad_recipes_do_not_fit(recipe: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    """An editor underlines unknown keys, wrong types and values out of range."""
    with pytest.raises(jsonschema.ValidationError, match=r".+"):
        validator.validate(recipe)


def test_every_registered_name_is_offered_with_its_options() -> None:
    """Steps and tasks of other distributions are completed like the builtin ones, each quantizer by its runtime."""
    definitions = recipe_schema()["$defs"]
    steps = [variant["properties"] for variant in definitions["StepSpec"]["oneOf"]]

    assert {step["use"]["const"] for step in steps} == set(STEPS)
    assert {step["runtime"]["const"] for step in steps if step["use"]["const"] == "quantize"} == set(QUANTIZERS)
    assert {task["properties"]["task"]["const"] for task in definitions["TaskSpec"]["oneOf"]} == set(TASKS)
    assert next(step for step in steps if step["use"]["const"] == "round-weights")["bits"]["maximum"] == 22


def test_every_key_is_described() -> None:
    """An editor has a sentence to show for each key."""
    schema = recipe_schema()
    keys = {**schema["properties"], **schema["$defs"]["Gate"]["properties"], **schema["$defs"]["Push"]["properties"]}

    assert [key for key, value in keys.items() if not {"description", "$ref"} & value.keys()] == []
