"""Runs the cases of `tests/bad`: each a command on inputs with a mistake in them, in a folder of its own.

`python -m tests.bad_inputs FILE` runs the cases of one file in one process, so that libraries are imported once, and
prints a line of JSON for each: what it told, its exit code, the files that it left behind, and its seconds.

A case has a `name`; `files`, texts by path; `make`, further files, by the functions of `tests.bad_files`; its
`command`; its `exit` code; and `message`, which standard error must hold, or a list of such texts. `{clip}` and
`{data}` in texts and commands are the quickstart's model and data. `good.yaml`, a recipe in which nothing is wrong, is
always there.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hfcompress.cli import main as hfcompress_main
from tests import bad_files

__all__ = ["FOLDER", "Case", "cases", "named", "prepare"]

FOLDER = Path(__file__).parent / "bad"
_QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart"
_NAMES = {"{clip}": str(_QUICKSTART / "clip-digits"), "{data}": str(_QUICKSTART / "data")}
_GOOD = """\
version: 1
model: {id: "{clip}"}
data:
  test: {dataset: "{data}", split: "test[:8]", columns: {image: image, label: label}}
steps:
  - {use: prune, towers: {all: {ffn: 0.5}}, importance: magnitude}
evaluate:
  - {task: zero-shot-image-classification, data: test}
gates: {latency_ms: null, size_bytes: null}
benchmark: {repeats: 5}
"""


@dataclass(frozen=True)
class Case:
    """One mistake: see the module."""

    name: str
    command: list[str]
    exit: int
    message: str | list[str]
    files: dict[str, str]
    make: list[dict[str, list[Any]]]


def cases(file: Path) -> list[Case]:
    """Read the cases of a file."""
    rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [Case(**{"files": {}, "make": [], **row}) for row in rows]


def named(text: str) -> str:
    """Return a text with what `{clip}` and `{data}` stand for."""
    for name, path in _NAMES.items():
        text = text.replace(name, path)
    return text


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Return every path below a folder, with what is in it where it is a file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
        for path in folder.rglob("*")
    }


def prepare(case: Case, folder: Path) -> None:
    """Make the files of a case."""
    for name, text in {"good.yaml": _GOOD, **case.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(named(text), encoding="utf-8")
    for step in case.make:
        for maker, arguments in step.items():
            getattr(bad_files, maker)(folder, *(named(a) if isinstance(a, str) else a for a in arguments))


def run(case: Case) -> dict[str, Any]:
    """Run a case and tell what came of it."""
    told = {"out": io.StringIO(), "err": io.StringIO()}
    with tempfile.TemporaryDirectory(prefix="hfcompress-bad-") as name:
        folder = Path(name).resolve()
        prepare(case, folder)
        before = _tree(folder)
        sys.argv = ["hfcompress", *map(named, case.command)]
        code: object = None
        start = time.perf_counter()
        os.chdir(folder)
        with contextlib.redirect_stdout(told["out"]), contextlib.redirect_stderr(told["err"]):
            try:
                hfcompress_main()
            except SystemExit as leaving:
                code = leaving.code
        os.chdir("/")
        seconds = time.perf_counter() - start
        after = _tree(folder)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path, b"") != after.get(path, b""))
        error = told["err"].getvalue().replace(f"{folder}/", "")
    return {"exit": code, "stdout": told["out"].getvalue(), "stderr": error, "changed": changed, "seconds": seconds}


if __name__ == "__main__":
    wanted = sys.argv[2:]
    for one in cases(FOLDER / sys.argv[1]):
        if not wanted or one.name in wanted:
            print(json.dumps({"name": one.name, **run(one)}), flush=True)  # noqa: T201 - what it is for
