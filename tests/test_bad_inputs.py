"""Promises of mistakes: each of `tests/bad` is told in words, with the exit code of its kind, and leaves no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bad_inputs import FOLDER, Case, cases

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Python

CASES = {(file.name, case.name): case for file in sorted(FOLDER.glob("*.yaml")) for case in cases(file)}


@pytest.fixture(scope="module")
def told(python: Python) -> Callable[[str], dict[str, dict[str, Any]]]:
    """Return a function that runs all cases of a file, once, and gives what came of each by its name."""
    done: dict[str, dict[str, dict[str, Any]]] = {}

    def run(file: str) -> dict[str, dict[str, Any]]:
        if file not in done:
            ran = python("-m", "tests.bad_inputs", file, cwd=Path(__file__).parents[1])
            rows = [json.loads(line) for line in ran.stdout.splitlines()]
            done[file] = {row["name"]: row for row in rows}
            assert ran.returncode == 0, f"it died after {rows[-1]['name'] if rows else 'nothing'}: {ran.stderr[-2000:]}"
        return done[file]

    return run


def test_corpus_is_large() -> None:
    """There are more than sixty mistakes, each with a name of its own and a message."""
    every = [case for file in FOLDER.glob("*.yaml") for case in cases(file)]
    assert len(CASES) == len(every) > 60
    assert all(case.message for case in every)


@pytest.mark.parametrize(("file", "name"), CASES)
def test_mistake_is_told(file: str, name: str, told: Callable[[str], dict[str, dict[str, Any]]]) -> None:
    """What is wrong is said on standard error, with its exit code; no traceback, no result, and no file is left."""
    case: Case = CASES[file, name]
    found = told(file)[name]
    messages = [case.message] if isinstance(case.message, str) else case.message

    assert [text for text in messages if text not in found["stderr"]] == [], found["stderr"]
    assert (found["exit"], found["stdout"], found["changed"]) == (case.exit, "", [])
    assert not any(sign in found["stderr"] for sign in ("Traceback", "hfcompress failed", "\x1b"))
