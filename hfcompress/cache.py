"""Results of earlier runs, each under the hash of everything that went into it.

::

    CACHE/entries/KEY/manifest.json    what the entry is, and the SHA-256 of each of its files
    CACHE/entries/KEY/files/...        the result: a checkpoint folder, or the predictions of a model
    CACHE/partial/KEY...               an entry that is being written, read or removed
    CACHE/locks/KEY.lock               held by whoever makes, reads or removes the entry

An entry gets its name once all of it is on the disk, and is read against its manifest. Whatever a killed run left half
done lies under `partial`, where the next one removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from hfcompress.checksums import file_digest
from hfcompress.durable import move, remove, sync_tree
from hfcompress.errors import BusyError, CacheError, CorruptEntryError
from hfcompress.locks import held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["About", "Cache", "Entry", "Kind", "cache_home"]

Kind = Literal["step", "predictions"]
_SCHEMA_VERSION: Final = 1
_MANIFEST = "manifest.json"
_FILES = "files"
_CHUNK = 1 << 20
_STRICT = ConfigDict(extra="forbid", strict=True)


def cache_home() -> Path:
    """Return the folder of cached results: `HFCOMPRESS_CACHE`, else `hfcompress` under the Hugging Face home."""
    own = os.environ.get("HFCOMPRESS_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    # the rule of huggingface_hub, which is not imported for a look at the cache
    everyone = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(everyone, "huggingface"))
    return (Path(os.path.expandvars(home)).expanduser() / "hfcompress").absolute()


@dataclass(frozen=True)
class About:
    """What a result is.

    Attributes:
        kind: A step's checkpoint, or a model's predictions.
        title: The step or the task ("prune").
        model: The model it began with.
        seconds: How long it took to make.
        detail: What the step says of its work.
        notes: What the user was told meanwhile.
    """

    __pydantic_config__ = _STRICT

    kind: Kind
    title: str
    model: str
    seconds: float
    detail: JsonValue = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Manifest:
    __pydantic_config__ = _STRICT

    schema_version: Literal[1]
    key: str
    created: float
    about: About
    files: dict[str, str] = field(default_factory=dict)
    """Path, from `files/` on → SHA-256 in hexadecimal."""


@dataclass(frozen=True)
class Entry:
    """One cached result.

    Attributes:
        key: The hash of everything that went into it, in hexadecimal.
        about: What it is; `None` if its manifest cannot be read.
        size_bytes: What it takes on the disk.
        created: When it was made, in seconds since 1970.
    """

    key: str
    about: About | None
    size_bytes: int
    created: float


class Cache:
    """The cached results under one folder, which is made when it is not there.

    Raises:
        CacheError: The folder cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries, self._partial, self._locks = (root / name for name in ("entries", "partial", "locks"))
        try:
            for folder in (self._entries, self._partial, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = (
                f"the folder of cached results, {root}, cannot be made: {error.strerror}; name another one with "
                f"HFCOMPRESS_CACHE, or run with --no-cache"
            )
            raise CacheError(msg) from error
        self._sweep()

    @contextmanager
    def hold(self, key: str, waiting: Callable[[BusyError], None] | None = None) -> Iterator[None]:
        """Keep every other process from making, reading or removing an entry while the block runs.

        Args:
            key: The entry, which need not exist.
            waiting: Called once before waiting for another process.

        Raises:
            BusyError: Another process holds it, and `waiting` is not given.
        """
        with held(self._locks / f"{key}.lock", f"the cached result {key[:12]}", waiting):
            yield

    def fetch(self, key: str, output: Path) -> About | None:
        """Copy an entry's files into the empty folder `output`, each checked; the caller holds the entry.

        Returns:
            What the entry is, or `None` if there is none.

        Raises:
            CorruptEntryError: It is not what its manifest says; `output` may hold some of its files.
        """
        if not (self._entries / key).exists():
            return None
        manifest = self._read(key)
        for name, sha256 in manifest.files.items():
            if _copy(self._entries / key / _FILES / name, output / name) != sha256:
                msg = f"{name} is not what was written"
                raise CorruptEntryError(msg)
        return manifest.about

    def store(self, key: str, folder: Path, about: About) -> None:
        """Keep the files of a folder as an entry; the caller holds it, and there is none yet."""
        partial = self._partial / key
        remove(partial)
        try:
            (partial / _FILES).mkdir(parents=True)
            names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            files = {name: _copy(folder / name, partial / _FILES / name) for name in names}
            manifest = _Manifest(_SCHEMA_VERSION, key, round(time.time(), 3), about, files)
            text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
            record = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
            (partial / _MANIFEST).write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
            sync_tree(partial)
            move(partial, self._entries / key)
        finally:
            remove(partial)

    def drop(self, key: str) -> None:
        """Remove an entry, if there is one; the caller holds it."""
        if (self._entries / key).exists():
            remove(self._partial / key)
            move(self._entries / key, self._partial / key)
            remove(self._partial / key)

    def check(self, key: str) -> None:
        """Read all of an entry and compare it with its manifest; the caller holds it.

        Raises:
            CorruptEntryError: It differs.
        """
        for name, sha256 in self._read(key).files.items():
            if file_digest(self._entries / key / _FILES / name) != sha256:
                msg = f"{name} is not what was written"
                raise CorruptEntryError(msg)

    @contextmanager
    def workspace(self, key: str) -> Iterator[Path]:
        """Give an empty folder for as long as the block runs; the caller holds the entry."""
        folder = self._partial / f"{key}.work"
        remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            remove(folder)

    def keys(self) -> list[str]:
        """Return the keys of all entries."""
        return sorted(folder.name for folder in self._entries.iterdir())

    def entry(self, key: str) -> Entry:
        """Return what is known of an entry; its files are not read."""
        folder = self._entries / key
        size = sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
        try:
            manifest = self._read(key)
        except CorruptEntryError:
            return Entry(key, None, size, folder.stat().st_mtime)
        return Entry(key, manifest.about, size, manifest.created)

    def _read(self, key: str) -> _Manifest:
        """Return the manifest of an entry, once it is known to be whole and to name the files that are there."""
        folder = self._entries / key
        try:
            record = json.loads((folder / _MANIFEST).read_bytes())
            text, sha256 = str(record["text"]), record["sha256"]
            manifest = TypeAdapter(_Manifest).validate_json(text)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            msg = f"{_MANIFEST} cannot be read"
            raise CorruptEntryError(msg) from error
        if hashlib.sha256(text.encode()).hexdigest() != sha256 or manifest.key != key:
            msg = f"{_MANIFEST} is not what was written"
            raise CorruptEntryError(msg)
        for name in manifest.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                msg = f"{_MANIFEST} names {name!r}, which is outside of the entry"
                raise CorruptEntryError(msg)
        there = {
            path.relative_to(folder / _FILES).as_posix()
            for path in (folder / _FILES).rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
        if any(path.is_symlink() for path in folder.rglob("*")) or there != set(manifest.files):
            odd = ", ".join(sorted(there ^ set(manifest.files))) or "a link"
            msg = f"its files are not those that were written ({odd})"
            raise CorruptEntryError(msg)
        return manifest

    def _sweep(self) -> None:
        """Remove what processes that live no more left half done."""
        for folder in self._partial.iterdir():
            try:
                with self.hold(folder.name.partition(".")[0]):
                    remove(folder)
            except BusyError:
                continue  # its process lives


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the SHA-256 of what was read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
