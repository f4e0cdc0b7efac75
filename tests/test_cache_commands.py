"""Promises of `hfcompress cache`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hfcompress.cache import About, Cache

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Cli

KEYS = ("0a" * 32, "0b" * 32, "1c" * 32)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache with three entries."""
    made = Cache(tmp_path / "cache")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}", encoding="utf-8")
    for key, title in zip(KEYS, ("prune", "quantize", "image-to-text"), strict=True):
        kind = "predictions" if title == "image-to-text" else "step"
        with made.hold(key):
            made.store(key, tmp_path / "source", About(kind, title, "me/[model]", 1.0))
    return made


@pytest.fixture
def command(cache: Cache, cli: Cli) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `hfcompress cache` on it."""
    return lambda *arguments: cli("cache", *arguments, HFCOMPRESS_CACHE=str(cache.root))


def test_list(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`ls` shows key, step, model, size and age, and the total on standard error; `--json` the same."""
    shown = command("ls")
    rows = json.loads(command("ls", "--json").stdout)

    assert shown.returncode == 0
    assert all(word in shown.stdout for word in (KEYS[0][:12], "prune", "quantize", "image-to-text", "me/[model]"))
    assert shown.stderr.startswith("3 results, ")
    assert sorted(row["key"] for row in rows) == sorted(KEYS)
    assert {row["title"] for row in rows if row["kind"] == "step"} == {"prune", "quantize"}


def test_remove_by_prefix(cache: Cache, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`rm` takes the beginning of keys; one that fits none is a mistake, and then nothing goes."""
    assert command("rm", "0a", "ff").returncode == 2
    assert cache.keys() == sorted(KEYS)
    done = command("rm", "0")
    assert (done.returncode, done.stdout[:17]) == (0, "removed 2 results")
    assert cache.keys() == [KEYS[2]]


def test_remove_by_age_and_all(cache: Cache, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`--older-than` spares what is younger, `--all` nothing."""
    assert json.loads(command("rm", "--older-than", "1h", "--json").stdout) == []
    assert sorted(json.loads(command("rm", "--all", "--json").stdout)) == sorted(KEYS)
    assert cache.keys() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to remove is named; give keys that `hfcompress cache ls` lists, --older-than AGE, or --all"),
        (["--older-than", "soon"], "--older-than: got 'soon', expected a number with its unit: 30m, 12h, 7d or 4w"),
        (["zz"], "no cached result has a key that begins with 'zz'; `hfcompress cache ls` lists them"),
    ],
)
def test_mistakes(arguments: list[str], message: str, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """What cannot be done as written is said in one line, with exit code 2."""
    done = command("rm", *arguments)
    assert (done.returncode, done.stderr.strip()) == (2, message)


def test_verify(cache: Cache, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """`verify` is content with whole entries, and names the others, the damage, and the command that removes them."""
    whole = command("verify")
    assert (whole.returncode, whole.stdout) == (0, "3 results checked, 0 corrupt\n")
    (cache.root / "entries" / KEYS[1] / "files" / "config.json").write_text("{!", encoding="utf-8")
    found = command("verify", "--json")

    assert found.returncode == 1
    assert json.loads(found.stdout)["corrupt"] == {KEYS[1]: "config.json is not what was written"}
    assert found.stderr == (
        f"{KEYS[1][:12]}: config.json is not what was written\nTo remove them:\n  hfcompress cache rm {KEYS[1][:12]}\n"
    )


def test_entry_in_use_stays(cache: Cache, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """What a run is using is not removed, and the command says so; the rest goes."""
    with cache.hold(KEYS[0]):
        done = command("rm", "--all")
    assert done.returncode == 1
    assert f"the cached result {KEYS[0][:12]} is in use by another run (process" in done.stderr
    assert cache.keys() == [KEYS[0]]
