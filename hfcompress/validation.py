"""What pydantic found wrong → sentences for people: where, what was got, what was expected, the nearest valid name.

The expectation is read off the JSON Schema of the field, so every option anybody declares, a third party included,
is explained in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ErrorType

from hfcompress.registry import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

    from hfcompress.yaml_text import KeyPath

__all__ = ["Mistake", "mistakes_error", "mistakes_of", "shown", "validated"]

M = TypeVar("M", bound=BaseModel)
_Schema: TypeAlias = "dict[str, Any]"
_LONGEST_SHOWN = 60
_NESTED = "hfcompress_mistakes"


@dataclass(frozen=True)
class Mistake:
    """A key and what is wrong with it; the place in the file comes later."""

    path: KeyPath
    message: str


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """Return `values` as an instance of `model`, under JSON's rules: no text for numbers, no numbers for booleans.

    Raises:
        pydantic.ValidationError: The values do not fit; `mistakes_of` puts it into words.
    """
    return model.model_validate_json(json.dumps(values), strict=True)


def mistakes_error(mistakes: Iterable[Mistake]) -> PydanticCustomError:
    """Return what a pydantic validator raises in order to report several mistakes below its own key."""
    return PydanticCustomError(_NESTED, "see the mistakes below", {"mistakes": tuple(mistakes)})


def mistakes_of(
    error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], also: tuple[str, ...] = ()
) -> list[Mistake]:
    """Return the root causes of a validation error, one for each key.

    Args:
        error: What pydantic raised.
        model: The model that was validated.
        values: What was validated.
        also: Keys that are valid beside the fields of `model`.
    """
    schema = _schema_of(model)
    messages: dict[KeyPath, str] = {}
    for item in error.errors(include_url=False):
        path = _path(item, values)
        if item["type"] == _NESTED:
            for mistake in item["ctx"]["mistakes"]:
                messages.setdefault((*path, *mistake.path), mistake.message)
        else:
            sentence = _SENTENCES.get(item["type"], _mismatch if item["type"] in _PYDANTIC_TYPES else _own_words)
            messages.setdefault(path, sentence(item, path, schema, also))
    deepest = [path for path in messages if not any(other[: len(path)] == path != other for other in messages)]
    return [Mistake(path, messages[path]) for path in deepest]


def shown(value: object) -> str:
    """Return a value as a message quotes it: as YAML writes it, long texts cut."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {_count(len(value), 'item')}" if value else "an empty list"
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _schema_of(model: type[BaseModel]) -> _Schema:
    try:
        return model.model_json_schema()
    except PydanticInvalidForJsonSchema:
        return {}


def _path(item: ErrorDetails, values: object) -> KeyPath:
    """Return pydantic's location without its names of union members, which are no keys of the recipe."""
    path: list[str | int] = []
    last = len(item["loc"]) - 1
    here: Any = values
    for index, part in enumerate(item["loc"]):
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, Mapping) and part in here):
            here = here[part]
        elif index != last or item["type"] != "missing":
            continue
        path.append(part)
    return tuple(path)


def _members(schema: _Schema, root: _Schema) -> list[_Schema]:
    """Return the schema's alternatives with all references followed."""
    if "$ref" in schema:
        return _members(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return [member for each in schema[union] for member in _members(each, root)]
    return [schema]


def _at(path: KeyPath, root: _Schema) -> list[_Schema]:
    """Return the alternatives of the schema that describes `path`; none where the schema says nothing of it."""
    here = _members(root, root)
    for part in path:
        inner: list[_Schema] = []
        for schema in here:
            child = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
            if child is None and isinstance(schema.get("additionalProperties"), dict):
                child = schema["additionalProperties"]
            if isinstance(child, dict):
                inner.extend(_members(child, root))
        here = inner
    return here


def _expected(path: KeyPath, root: _Schema) -> str:
    words = dict.fromkeys(_described(schema, root) for schema in _at(path, root))
    return " or ".join(word for word in words if word)


def _described(schema: _Schema, root: _Schema) -> str:
    """Return what a schema without alternatives accepts, as the end of "expected ..."."""
    if "const" in schema:
        return shown(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(shown(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        least = f" of at least {_count(schema['minItems'], 'item')}" if schema.get("minItems") else ""
        items = [item for item in _members(schema.get("items") or {}, root) if item.get("type") != "object"]
        each = " or ".join(_described(item, root) for item in items)
        return f"a list{least}" + (f", each {each}" if each else "")
    not_empty = " that is not empty" if schema.get("minLength") or schema.get("minProperties") else ""
    keys = ", ".join(schema.get("properties", {}))
    words = {
        "integer": f"an integer{_bounds(schema)}",
        "number": f"a number{_bounds(schema)}",
        "string": f"text{not_empty}",
        "object": f"a mapping with the keys {keys}" if keys else f"a mapping{not_empty}",
        "boolean": "true or false",
        "null": "null",
    }
    return words.get(str(kind), "")


def _bounds(schema: _Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    left = f"[{_short(low)}" if low is not None else f"({_short(above)}" if above is not None else None
    right = f"{_short(high)}]" if high is not None else f"{_short(below)})" if below is not None else None
    if left and right:
        return f" in {left}, {right}"
    words = ((low, "of at least"), (above, "above"), (high, "of at most"), (below, "below"))
    return "".join(f" {word} {_short(bound)}" for bound, word in words if bound is not None)


def _short(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _mismatch(item: ErrorDetails, path: KeyPath, root: _Schema, also: tuple[str, ...]) -> str:
    del also
    got = item["input"]
    expected = _expected(path, root)
    if not expected:
        return f"got {shown(got)}: {item['msg']}"
    kinds = {schema.get("type") for schema in _at(path, root)}
    hint = ""
    if isinstance(got, bool) and "string" in kinds:
        hint = "; YAML reads yes, no, on and off as true or false: put it in quotes"
    elif isinstance(got, (int, float)) and "string" in kinds:
        hint = "; put it in quotes"
    elif isinstance(got, str) and kinds & {"integer", "number"} and _is_number(got):
        hint = "; write it without quotes"
    elif isinstance(got, str):
        choices = [value for schema in _at(path, root) for value in (schema.get("enum") or [schema.get("const")])]
        hint = did_you_mean(got, [value for value in choices if isinstance(value, str)])
    return f"got {shown(got)}, expected {expected}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _missing(item: ErrorDetails, path: KeyPath, root: _Schema, also: tuple[str, ...]) -> str:
    del item, also
    expected = _expected(path, root)
    return f"missing; expected {expected}" if expected else "missing"


def _unknown(item: ErrorDetails, path: KeyPath, root: _Schema, also: tuple[str, ...]) -> str:
    del item
    known = [
        *(also if len(path) == 1 else ()),
        *dict.fromkeys(key for schema in _at(path[:-1], root) for key in schema.get("properties", {})),
    ]
    return f"unknown key {path[-1]!r}{did_you_mean(str(path[-1]), known)}; known keys: {', '.join(known)}"


def _own_words(item: ErrorDetails, path: KeyPath, root: _Schema, also: tuple[str, ...]) -> str:
    del path, root, also
    error = item.get("ctx", {}).get("error")
    return item["msg"] if error is None else str(error)


_PYDANTIC_TYPES = frozenset(get_args(ErrorType))
_SENTENCES: dict[str, Callable[[ErrorDetails, KeyPath, _Schema, tuple[str, ...]], str]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "value_error": _own_words,
    "assertion_error": _own_words,
}
