"""Promises of the cache: what comes out is what went in, or nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfcompress.cache import About, Cache, cache_home
from hfcompress.errors import CacheError, CorruptEntryError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "0123456789abcdef" * 4
ABOUT = About("step", "prune", "me/model", 1.5, {"layers": [1, 2.5, None]}, ("a note",))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache with one entry of two files."""
    made = Cache(tmp_path / "cache")
    source = tmp_path / "source"
    (source / "onnx").mkdir(parents=True)
    (source / "config.json").write_text("{}", encoding="utf-8")
    (source / "onnx" / "model.onnx").write_bytes(bytes(range(256)) * 10)
    with made.hold(KEY):
        made.store(KEY, source, ABOUT)
    return made


def _entry(cache: Cache) -> Path:
    return cache.root / "entries" / KEY


def test_what_is_stored_comes_back(cache: Cache, tmp_path: Path) -> None:
    """Files and description are those that were stored; nothing half done is left."""
    assert cache.fetch(KEY, tmp_path / "copy") == ABOUT
    assert (tmp_path / "copy" / "onnx" / "model.onnx").read_bytes() == bytes(range(256)) * 10
    assert (tmp_path / "copy" / "config.json").read_text(encoding="utf-8") == "{}"
    assert list((cache.root / "partial").iterdir()) == []
    assert list((cache.root / "locks").iterdir()) == []


def test_unknown_key(cache: Cache, tmp_path: Path) -> None:
    """Nothing comes back under another key."""
    assert cache.fetch("f" * 64, tmp_path / "copy") is None


def test_copy_is_its_own(cache: Cache, tmp_path: Path) -> None:
    """Who changes what came back does not change the entry."""
    cache.fetch(KEY, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("changed", encoding="utf-8")
    cache.check(KEY)


def _flip(entry: Path) -> None:
    file = entry / "files" / "onnx" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)


def _edit(entry: Path) -> None:
    record = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
    record["text"] = record["text"].replace("2.5", "3.5")
    (entry / "manifest.json").write_text(json.dumps(record), encoding="utf-8")


def _link(entry: Path) -> None:
    (entry / "files" / "config.json").unlink()
    (entry / "files" / "config.json").symlink_to("/dev/null")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (_flip, r"onnx/model\.onnx is not what was written"),
    "an edited number": (_edit, r"manifest\.json is not what was written"),
    "a file that is gone": (lambda entry: (entry / "files" / "config.json").unlink(), r"not those .* \(config\.json\)"),
    "a file more": (lambda entry: (entry / "files" / "x").touch(), r"its files are not those .* \(x\)"),
    "a link": (_link, r"its files are not those that were written"),
    "a cut manifest": (lambda entry: os.truncate(entry / "manifest.json", 50), r"manifest\.json cannot be read"),
    "no manifest": (lambda entry: (entry / "manifest.json").unlink(), r"manifest\.json cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(damage: str, cache: Cache, tmp_path: Path) -> None:
    """Whatever happens to an entry, it is found out before the entry is used, and by a check."""
    harm, message = DAMAGES[damage]
    harm(_entry(cache))
    with pytest.raises(CorruptEntryError, match=message):
        cache.fetch(KEY, tmp_path / "copy")
    with pytest.raises(CorruptEntryError, match=message):
        cache.check(KEY)


def test_entry_under_another_key(cache: Cache, tmp_path: Path) -> None:
    """An entry that was renamed is not taken for another one."""
    _entry(cache).rename(cache.root / "entries" / ("f" * 64))
    with pytest.raises(CorruptEntryError, match="is not what was written"):
        cache.fetch("f" * 64, tmp_path / "copy")


def test_dropped_entry_is_gone(cache: Cache) -> None:
    """An entry that is dropped leaves nothing, and one that is not there can be dropped."""
    for _ in range(2):
        cache.drop(KEY)
    assert cache.keys() == []
    assert list((cache.root / "partial").iterdir()) == []


def test_half_an_entry_is_swept_away(cache: Cache) -> None:
    """What a killed process left half done is removed by whoever opens the cache next, unless its process lives."""
    for key in (KEY, "e" * 64):
        (cache.root / "partial" / key).mkdir()
    with cache.hold(KEY):
        Cache(cache.root)
        assert [path.name for path in (cache.root / "partial").iterdir()] == [KEY]
    Cache(cache.root)
    assert list((cache.root / "partial").iterdir()) == []
    assert cache.keys() == [KEY]


def test_failed_store_leaves_no_entry(cache: Cache, tmp_path: Path) -> None:
    """An entry whose files cannot all be written does not exist."""
    folder = tmp_path / "endless"
    folder.mkdir()
    (folder / "config.json").symlink_to("/proc/self/mem")  # its first bytes cannot be read
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), cache.hold("e" * 64):
        cache.store("e" * 64, folder, ABOUT)
    assert cache.keys() == [KEY]
    assert list((cache.root / "partial").iterdir()) == []


def test_listed_entry(cache: Cache) -> None:
    """A list tells what an entry is and what it takes; a corrupt one is listed too."""
    entry = cache.entry(KEY)
    assert (entry.about, entry.key) == (ABOUT, KEY)
    assert entry.size_bytes == sum(file.stat().st_size for file in _entry(cache).rglob("*") if file.is_file()) > 2560
    _edit(_entry(cache))
    assert cache.entry(KEY).about is None


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A cache that cannot be written is an error that says how to name another one."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cannot be made: .*HFCOMPRESS_CACHE, or run with --no-cache"):
        Cache(tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HFCOMPRESS_CACHE": "/own", "HF_HOME": "/hf"}, "/own"),
        ({"HF_HOME": "/hf"}, "/hf/hfcompress"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface/hfcompress"),
        ({"HOME": "/me"}, "/me/.cache/huggingface/hfcompress"),
    ],
)
def test_home(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache lies under the Hugging Face home unless HFCOMPRESS_CACHE names another folder."""
    for name in ("HFCOMPRESS_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_home() == Path(expected)
