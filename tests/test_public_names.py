"""Promises of the public names, and of whatever anybody registers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import hfcompress
from hfcompress.contracts import Runtime, Step, Task
from hfcompress.registry import EXPORTS, IMPORTANCES, QUANTIZERS, REGISTRIES, RUNTIMES, STEPS, TASKS


def _extra(registry: object, name: str) -> str | None:
    """Return the extra without which a module of ours cannot be imported."""
    if registry is EXPORTS:
        return "onnxruntime"
    return name if registry is RUNTIMES and name in {"onnxruntime", "openvino"} else None


OPTIONS = [
    pytest.param(
        registry,
        name,
        id=f"{registry.noun}-{name}",
        marks=[getattr(pytest.mark, extra)] if (extra := _extra(registry, name)) else [],
    )
    for registry in REGISTRIES
    for name in registry
]
"""Every registered name; the modules of runtimes and exports import the runtime itself, so those need their extra."""


def test_all_is_what_is_public() -> None:
    """`__all__`, the lazy table and the names that type checkers see are the same."""
    text = Path(hfcompress.__file__).read_text(encoding="utf-8")
    block = text[text.index("if TYPE_CHECKING:") : text.index("__version__")]
    checked = {
        name.strip().rpartition(" ")[2]
        for names in re.findall(r"import (.+)", block.partition("\n")[2])
        for name in names.split(",")
    }
    table = hfcompress._PUBLIC  # noqa: SLF001 - the table behind `__getattr__`
    assert hfcompress.__all__ == sorted(table) == sorted(checked)


@pytest.mark.parametrize("name", hfcompress.__all__)
def test_public_name_is_described(name: str) -> None:
    """Every public name resolves and says what it is."""
    assert len(inspect.getdoc(getattr(hfcompress, name)) or "") > 20


def test_unknown_name() -> None:
    """A misspelt name is Python's own error."""
    with pytest.raises(AttributeError, match="module 'hfcompress' has no attribute 'prunee'"):
        _ = hfcompress.prunee


@pytest.mark.parametrize(("registry", "name"), OPTIONS)
def test_registered_object_is_described(registry: hfcompress.registry.Registry[object], name: str) -> None:
    """Whatever is registered resolves, is of the right kind, and has a docstring of its own."""
    found = registry.get(name)
    base = {"step": Step, "quantizer": Step, "task": Task, "runtime": Runtime}.get(registry.noun)

    assert base is None or (isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found))
    assert base is not None or callable(found)
    assert found.__doc__
    assert found.__doc__ != getattr(base, "__doc__", None)


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model and the models inside of it."""
    found = {model}
    for field in model.model_fields.values():
        for part in (field.annotation, *_arguments(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                found |= _models(part)
    return found


def _arguments(annotation: object) -> list[object]:
    inner = list(getattr(annotation, "__args__", ()))
    return inner + [deeper for part in inner for deeper in _arguments(part)]


@pytest.mark.parametrize(
    ("registry", "name"), [item for item in OPTIONS if item.values[0] in (STEPS, QUANTIZERS, TASKS)]
)
def test_every_option_is_described(registry: hfcompress.registry.Registry[type[Step]], name: str) -> None:
    """Each option of each step and task says what it is for, forbids unknown keys or hands them on, and is frozen."""
    models = _models(registry.get(name).Options)
    undescribed = [
        f"{model.__name__}.{key}"
        for model in models
        for key, field in model.model_fields.items()
        if not field.description
    ]
    assert undescribed == []
    assert all(model.model_config.get("frozen") for model in models)
    assert all(model.model_config.get("extra") in {"forbid", "allow"} for model in models)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_task_names_its_columns_and_measures(name: str) -> None:
    """A task says which columns it reads and, in snake case, what it measures."""
    task = TASKS.get(name)
    assert task.columns
    assert task.measures
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", measure) for measure in task.measures)
    assert set(task.compared) < set(task.measures)


def test_importances_are_functions() -> None:
    """An importance is a function; what it is named is what a recipe says."""
    assert all(callable(IMPORTANCES.get(name)) for name in IMPORTANCES)
