"""Promises of the steps of a run: taken once, taken again where something they depend on has changed, never half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import hfcompress
from hfcompress.cache import Cache
from hfcompress.contracts import Progress
from hfcompress.errors import SpaceError
from hfcompress.locks import held
from hfcompress.report import Report
from tests.conftest import QUICKSTART
from tests.kill_driver import contents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Cli, Python, Write

Changed = dict[str, Any]

LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from hfcompress.cli import main
main()
"""
"""The command line, with no file larger than its first argument."""


class Heard(Progress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a cache of this test's own."""
    monkeypatch.setenv("HFCOMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def steps() -> list[dict[str, Any]]:
    """Return two steps in torch."""
    return [
        {"use": "prune", "towers": {"all": {"ffn": 0.5}}, "importance": "magnitude"},
        {"use": "cast", "dtype": "float16"},
    ]


@pytest.fixture
def again(
    own_cache: Path, recipe: Callable[..., Changed], steps: list[Changed], tmp_path: Path
) -> Callable[..., tuple[list[bool], Heard]]:
    """Return a function that runs a recipe of two steps, with keys replaced, and says which were reused."""
    del own_cache

    def run(*overrides: str) -> tuple[list[bool], Heard]:
        values, heard = recipe(steps=steps), Heard()
        values["data"]["test"]["split"] = "test[:20]"
        report = hfcompress.run(values, overrides=overrides, output=tmp_path / "out", progress=heard)
        return [step.cached for step in report.steps], heard

    return run


@pytest.mark.filterwarnings("ignore")
def test_only_what_depends_on_a_change_runs_again(
    again: Callable[..., tuple[list[bool], Heard]], tmp_path: Path
) -> None:
    """The same recipe takes no step again; a changed option reruns its step and those after it, and no other."""
    assert again()[0] == [False, False]
    first = contents(tmp_path / "out")
    reused, heard = again()
    assert reused == [True, True]
    assert heard.notes.count("zero-shot-image-classification: predictions of an earlier run, from the cache") == 2
    assert contents(tmp_path / "out")["model.safetensors"] == first["model.safetensors"]
    assert Report.load(tmp_path / "out").steps[0].detail

    assert again("steps.1.dtype=bfloat16")[0] == [True, False]
    assert again("steps.0.multiple_of=16")[0] == [False, False]
    reused, heard = again("evaluate.0.templates=['{label}']")
    assert reused == [True, True]
    assert not [note for note in heard.notes if note.startswith("zero-shot")]


@pytest.mark.filterwarnings("ignore")
def test_damaged_step_runs_again(again: Callable[..., tuple[list[bool], Heard]], own_cache: Path) -> None:
    """A step whose cached result is damaged is taken again, which the user is told, and the others are not."""
    again()
    cache = Cache(own_cache)
    entries = {about.title: key for key in cache.keys() if (about := cache.entry(key).about)}  # noqa: SIM118
    key = entries["prune"]
    weights = own_cache / "entries" / key / "files" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    reused, heard = again()

    assert reused == [False, True]
    assert f"the cached result {key[:12]} is removed and made again: model.safetensors is not what was written" in [
        note for note in heard.notes if "removed" in note
    ]
    cache.check(key)


def test_run_without_cache(cli: Cli, write: Write, own_cache: Path, tmp_path: Path) -> None:
    """With `--no-cache` nothing is kept."""
    done = cli("run", write(), "-o", tmp_path / "out", "--no-cache")
    assert done.returncode == 0, done.stderr
    assert [step.cached for step in Report.load(tmp_path / "out").steps] == [False]
    assert not own_cache.exists()


def test_second_run_on_one_output_is_refused(cli: Cli, write: Write, tmp_path: Path) -> None:
    """A run whose output folder another one is writing ends at once, and says which process that is."""
    with held(tmp_path / ".out.lock", "it"):
        done = cli("run", write(evaluate=[], data={}), "-o", tmp_path / "out")
    assert done.returncode == 1
    expected = f"the output folder {tmp_path / 'out'} is in use by another run (process {os.getpid()})"
    assert done.stderr.splitlines()[-1] == f"{expected}; wait for it to end, or stop it"
    assert not (tmp_path / "out").exists()


def test_two_runs_at_once_share_their_results(write: Write, own_cache: Path, cli: Cli, tmp_path: Path) -> None:
    """Of two runs at once that need the same result one makes it, the other waits and takes it; both end alike."""
    recipe = write()
    outputs = [tmp_path / "one", tmp_path / "two"]
    runs = [
        subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-m", "hfcompress", "run", str(recipe), "-o", str(output)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for output in outputs
    ]
    assert [run.wait() for run in runs] == [0, 0]
    assert sorted(Report.load(output).steps[0].cached for output in outputs) == [False, True]
    assert (outputs[0] / "model.safetensors").read_bytes() == (outputs[1] / "model.safetensors").read_bytes()
    assert json.loads(cli("cache", "verify", "--json").stdout)["corrupt"] == {}
    assert len(Cache(own_cache).keys()) == 3


@pytest.mark.parametrize("limit", [600_000, 1_500_000])
def test_full_disk(limit: int, python: Python, cli: Cli, write: Write, own_cache: Path, tmp_path: Path) -> None:
    """A file that cannot be written whole is one clear error; no artifact is left, and the cache is valid.

    The first limit is met by the rows as `datasets` prepares them, the second by the step's result.
    """
    recipe, home = write(), {"HF_HOME": str(tmp_path / "home")}
    full = python("-c", LIMITED, str(limit), "run", recipe, "-o", tmp_path / "out", **home)

    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("a disk is full, or a file larger than it may be: File too large"), (
        full.stderr
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "home", "cache"}
    assert not own_cache.exists() or list((own_cache / "partial").iterdir()) == []
    assert cli("cache", "verify").returncode == 0
    done = cli("run", recipe, "-o", tmp_path / "out", **home)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore")
def test_room_is_looked_for_before_a_step(recipe: Callable[..., Changed], own_cache: Path, tmp_path: Path) -> None:
    """A step whose result fits on no disk is not begun: the error names it, the need, what is free and the folder."""
    vast = tmp_path / "vast"
    vast.mkdir()
    for file in (QUICKSTART / "clip-digits").iterdir():
        (vast / file.name).write_bytes(file.read_bytes())
    config = json.loads((vast / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["intermediate_size"] = 10**11
    (vast / "config.json").write_text(json.dumps(config), encoding="utf-8")
    values = recipe(model={"id": str(vast)}, data={}, evaluate=[], steps=[{"use": "cast", "dtype": "float16"}])

    match = r"too little room on the disk of .* to take step 1, cast: it takes about .*TB, and .*B are free; free some"
    with pytest.raises(SpaceError, match=match):
        hfcompress.run(values, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert Cache(own_cache).keys() == []
