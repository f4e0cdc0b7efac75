"""Promises of reading recipes that are wrong in any way: exit code 2 and a message, or a recipe that is right."""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfcompress.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import DataObject

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart"
RECIPES = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(QUICKSTART.glob("*.yaml"))]
FULL: dict[str, Any] = {
    "version": 1,
    "model": {"id": "clip-digits"},
    "data": {
        "cal": {"dataset": "data", "split": "train[:8]", "columns": {"image": "image"}},
        "test": {"dataset": "data", "split": "test", "columns": {"image": "image", "label": "label"}},
    },
    "steps": [
        {
            "use": "prune",
            "towers": {"vision": {"ffn": 0.6, "heads": 0.25, "layers": 0.3}, "all": {"width": 0.1}},
            "importance": "obs",
            "calibration": "cal",
            "budget": {"flops": 0.2},
        },
        {"use": "cast", "dtype": "float16"},
        {"use": "quantize", "runtime": "openvino", "mode": "weight_only", "weights": "int4", "exclude": ["*.a"]},
    ],
    "evaluate": [
        {"task": "zero-shot-image-classification", "data": "test", "templates": ["a {label}"], "labels": ["x", "y"]}
    ],
    "gates": {"zero_shot_accuracy": {"max_drop": 0.01}, "size_bytes": {"min_ratio": 4.0}, "latency_ms": None},
    "benchmark": {"batch_size": 2, "repeats": 5, "threads": 1},
    "push": {"repo": "me/x", "private": True, "revision": "a", "message": "b"},
    "card": {"text": "*words*", "tags": ["digits"]},
    "seed": 3,
}
QUICK = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text(encoding="utf-8"))
SOURCES = [*RECIPES, FULL]
PROGRAM_ERROR = ("Traceback", "hfcompress failed")

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**63, -(2**63) - 1, 2**31, 10**400]),
    st.floats(),
    st.sampled_from(
        ["", " ", ".", "..", "/", "~", "~nobody", "-", "null", "\x00", "\x1b[31m", "[red]", "{label}", "{", "{0}"]
    ),
    st.sampled_from(
        ["all", "text", "prune", "onnxruntime", "test", "a/b", "../x", "/dev/null", "*", "test[:", "a" * 5000]
    ),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=3),
)
KEYS = st.one_of(
    st.sampled_from(["use", "ffn", "id", "include", "options", "data", "all", "version", "task", "<<", "", "0", "a.b"]),
    st.text(max_size=8),
)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything inside of a recipe."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def holder(recipe: Any, path: tuple[Any, ...]) -> Any:  # noqa: ANN401 - a list or a mapping
    """Return what holds the last key of a path."""
    for key in path[:-1]:
        recipe = recipe[key]
    return recipe


def mutate(recipe: dict[str, Any], data: DataObject) -> None:
    """Change one thing in a recipe."""
    everywhere = list(places(recipe))
    if not everywhere:
        return
    path = data.draw(st.sampled_from(everywhere))
    held, key = holder(recipe, path), path[-1]
    how = data.draw(st.sampled_from(["replace", "replace", "delete", "rename", "add", "swap", "wrap", "double"]))
    if how == "replace":
        held[key] = data.draw(ODD)
    elif how == "delete":
        del held[key]
    elif how in {"rename", "add"} and isinstance(held, dict):
        held[data.draw(KEYS)] = held.pop(key) if how == "rename" else data.draw(ODD)
    elif how == "swap":
        other = data.draw(st.sampled_from(everywhere))
        held[key] = copy.deepcopy(holder(recipe, other)[other[-1]])
    elif how == "wrap":
        held[key] = data.draw(st.sampled_from([[held[key]], {"x": held[key]}, [[held[key]] * 3]]))
    elif isinstance(held, list):
        held.append(copy.deepcopy(held[key]))


def called(*arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    before, sys.argv = sys.argv, ["hfcompress", *arguments]
    try:
        with pytest.raises(SystemExit) as leaving:
            main()
    finally:
        sys.argv = before
    code = leaving.value.code
    assert isinstance(code, int)
    return code


def written(recipe: dict[str, Any], folder: Path) -> str:
    """Write a recipe beside the quickstart's model and data, and return its path."""
    for name in ("clip-digits", "data", "recipe.yaml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(QUICKSTART / name)
    text = yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False)
    (folder / "mutated.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    return str(folder / "mutated.yaml")


def mutated(data: DataObject, most: int, sources: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a recipe with one change or several."""
    recipe = copy.deepcopy(data.draw(st.sampled_from(sources)))
    for _ in range(data.draw(st.integers(1, most))):
        mutate(recipe, data)
    return recipe


REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("recipe", SOURCES)
def test_sources_are_right(recipe: dict[str, Any], tmp_path: Path) -> None:
    """What is changed below is right before."""
    assert called("validate", written(recipe, tmp_path)) == 0


@settings(REPEATABLE, max_examples=2000)
@given(data=st.data())
def test_validate_never_fails(data: DataObject, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whatever is deleted, renamed, doubled, swapped or replaced: exit code 0, or 2 and a message, no traceback."""
    code = called("validate", written(mutated(data, 3, SOURCES), tmp_path))
    told = capsys.readouterr()

    assert code in {0, 2}, told.err
    assert not any(sign in told.err + told.out for sign in PROGRAM_ERROR), told.err
    assert (told.err == "") == (code == 0)
    assert "\x1b" not in told.err


@pytest.fixture
def _logging_again() -> Iterator[None]:
    """Undo that the command line silences other libraries for the rest of its process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_logging_again")
@settings(REPEATABLE, max_examples=25)
@given(data=st.data())
def test_plan_never_fails(data: DataObject, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A recipe with one change is planned, or what in it is wrong, or what the model cannot do, is told."""
    code = called("plan", written(mutated(data, 1, [QUICK]), tmp_path))
    told = capsys.readouterr()
    assert code in {0, 2}, told.err
    assert not any(sign in told.err + told.out for sign in PROGRAM_ERROR), told.err
