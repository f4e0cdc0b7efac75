"""Predictions of a task on disk: a dataclass of arrays, texts and numbers as one safetensors file and one JSON file."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from hfcompress.errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import numpy as np

    from hfcompress.contracts import Json

__all__ = ["load_predictions", "save_predictions"]

_TREE = "predictions.json"
_ARRAYS = "arrays.safetensors"


def save_predictions(value: Any, folder: Path) -> None:  # noqa: ANN401 - the task's own dataclass
    """Write predictions into an existing folder.

    Raises:
        CacheError: They hold something that is neither an array of numbers, a text, a number, a list, a tuple, a
            mapping from texts, nor a dataclass of such.
    """
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tree = _written(value, arrays)
    save_file(arrays, folder / _ARRAYS)
    (folder / _TREE).write_text(json.dumps(tree), encoding="utf-8")


def load_predictions(folder: Path, packages: Collection[str]) -> Any:  # noqa: ANN401 - the task's own dataclass
    """Return the predictions that `save_predictions` wrote.

    Args:
        folder: Where they are.
        packages: The packages whose dataclasses may be among them; no other module is imported.

    Raises:
        CacheError: They hold a class of another package, or one that is not what it was.
    """
    from safetensors.numpy import load_file

    return _read(json.loads((folder / _TREE).read_text(encoding="utf-8")), load_file(folder / _ARRAYS), packages)


def _written(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Json:  # noqa: ANN401 - any part of predictions
    """Return a value as JSON; what is an array goes to `arrays` under the name that stands in its place."""
    import numpy as np

    if value is None or type(value) in {str, int, float, bool}:
        return value  # type: ignore[no-any-return] # one of these types
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
        name = str(len(arrays))
        arrays[name] = np.array(value, order="C")
        return {"array" if isinstance(value, np.ndarray) else "number": name}
    if type(value) in {list, tuple}:
        return {type(value).__name__: [_written(part, arrays) for part in value]}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _written(part, arrays) for key, part in value.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: _written(getattr(value, part.name), arrays) for part in fields(value)}
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": parts}
    msg = f"a {type(value).__module__}.{type(value).__qualname__} among them has no form in safetensors and JSON"
    raise CacheError(msg)


def _read(tree: Any, arrays: dict[str, np.ndarray[Any, Any]], packages: Collection[str]) -> Any:  # noqa: ANN401
    if not isinstance(tree, dict):
        return tree
    if "class" in tree:
        parts = {name: _read(part, arrays, packages) for name, part in tree["fields"].items()}
        return _class_of(tree["class"], parts, packages)(**parts)
    ((kind, held),) = tree.items()
    if kind == "array":
        return arrays[held]
    if kind == "number":
        return arrays[held][()]
    if kind == "dict":
        return {key: _read(part, arrays, packages) for key, part in held.items()}
    return {"list": list, "tuple": tuple}[kind](_read(part, arrays, packages) for part in held)


def _class_of(name: str, parts: Collection[str], packages: Collection[str]) -> type[Any]:
    """Return a dataclass of one of the packages by its name.

    Raises:
        CacheError: There is none with these fields.
    """
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute, None) if module.split(".")[0] in packages else None
    if not isinstance(found, type) or not is_dataclass(found) or {part.name for part in fields(found)} != set(parts):
        msg = f"{name} is no dataclass of {' or '.join(sorted(packages))} with the fields {', '.join(parts)}"
        raise CacheError(msg)
    return found
