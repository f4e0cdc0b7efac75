"""The JSON Schema of recipes, with the options of every registered step and task, for completion in editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from hfcompress.recipe import Recipe
from hfcompress.registry import QUANTIZERS, STEPS, TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from hfcompress.contracts import Options

__all__ = ["recipe_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INCLUDE = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Other recipes to start from, relative to this file; keys of this file win.",
}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a recipe file, third parties' steps and tasks included.

    Raises:
        UsageError: The module of a registered step or task cannot be imported.
    """
    steps = list(_step_options())
    tasks: list[tuple[str, type[Options]]] = [(name, TASKS.get(name).Options) for name in TASKS]
    models = {model for _, model in (*steps, *tasks)}
    described: list[type[BaseModel]] = [Recipe, *sorted(models, key=str)]
    refs, shared = models_json_schema([(model, "validation") for model in described])
    definitions: dict[str, Any] = shared["$defs"]

    def flat(key: str, name: str, model: type[Options]) -> dict[str, Any]:
        own = definitions[_name(refs[(model, "validation")])]
        return {
            **own,
            "title": f"{key}: {name}",
            "properties": {key: {"const": name, "type": "string"}, **own.get("properties", {})},
            "required": [key, *own.get("required", [])],
        }

    recipe = definitions.pop(_name(refs[(Recipe, "validation")]))
    definitions["StepSpec"] = {"oneOf": [flat("use", name, model) for name, model in steps]}
    definitions["TaskSpec"] = {"oneOf": [flat("task", name, model) for name, model in tasks]}
    for model in models:
        definitions.pop(_name(refs[(model, "validation")]), None)
    required = recipe.pop("required")
    return {
        "$schema": _DIALECT,
        **recipe,
        "properties": {"include": _INCLUDE, **recipe["properties"]},
        "anyOf": [{"required": ["include"]}, {"required": required}],
        "$defs": definitions,
    }


def _step_options() -> Iterator[tuple[str, type[Options]]]:
    """Yield every step with its options; `quantize` once for each runtime."""
    for name in STEPS:
        if name == "quantize":
            for runtime in QUANTIZERS:
                yield name, STEPS.get(name).options_model({"runtime": runtime})
        else:
            yield name, STEPS.get(name).options_model({})


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]
