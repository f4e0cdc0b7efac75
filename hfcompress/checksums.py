"""The SHA-256 of every file of a folder: what tells a folder as it was written from one that has changed since.

They stand in a file `SHA256SUMS`, in the form that `sha256sum -c SHA256SUMS` reads.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hfcompress.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["MANIFEST", "UNCHECKED", "file_digest", "folder_digests", "read_manifest", "verify_folder", "write_manifest"]

MANIFEST = "SHA256SUMS"
UNCHECKED = ("README.md", "report.json", "recipe.yaml", "assets", MANIFEST)
"""What a manifest of a checkpoint leaves out: the manifest itself, and what is written again when a card is."""

_CHUNK = 1 << 20
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\n\\]+)", re.ASCII)


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def folder_digests(folder: Path, apart: Iterable[str] = ()) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, by path relative to it, in order of the paths.

    Args:
        folder: The folder, read with all folders in it.
        apart: Files and folders directly in it that are left out.
    """
    left_out = set(apart)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {file.as_posix(): file_digest(folder / file) for file in files if file.parts[0] not in left_out}


def write_manifest(folder: Path, apart: Iterable[str] = UNCHECKED) -> dict[str, str]:
    """Write the `SHA256SUMS` of a folder, whole or not at all, and return what it holds.

    Args:
        folder: The folder; a manifest that it holds is replaced.
        apart: Files and folders directly in it that are left out.

    Raises:
        RunError: A file's name cannot stand in a manifest, or the manifest cannot be written.
    """
    digests = folder_digests(folder, {*apart, MANIFEST})
    for name in digests:
        if not name.isprintable() or "\\" in name:
            msg = f"{folder} holds the file {name!r}; expected a name of printable characters without backslashes"
            raise RunError(msg)
    draft = folder / f".{MANIFEST}.{os.getpid()}.tmp"
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{digest}  {name}\n" for name, digest in digests.items())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / MANIFEST)
    except OSError as error:
        draft.unlink(missing_ok=True)
        msg = f"{folder / MANIFEST} cannot be written: {error.strerror}"
        raise RunError(msg) from error
    return digests


def read_manifest(folder: Path) -> dict[str, str] | None:
    """Return what the `SHA256SUMS` of a folder holds, `None` where there is none.

    Raises:
        CheckpointError: It is not one, or it names a file outside of the folder.
    """
    path = folder / MANIFEST
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}; {_ADVICE}"
        raise CheckpointError(msg) from error
    digests: dict[str, str] = {}
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None or not _is_inside(found[2]) or found[2] in digests:
            msg = (
                f"{path}:{number}: got {line[:80]!r}, expected a SHA-256, two spaces and the path of another file in "
                f"this folder; {_ADVICE}"
            )
            raise CheckpointError(msg)
        digests[found[2]] = found[1]
    return digests


def verify_folder(folder: Path) -> None:
    """Make sure that the files of a folder are those that its `SHA256SUMS` tells of; a folder without one passes.

    Files beside them pass too, as the README does.

    Raises:
        CheckpointError: A file is missing or has changed, or the manifest is not one; every such file is named.
    """
    wrong = [f"{name} {how}" for name, how in _differences(folder, read_manifest(folder) or {})]
    if wrong:
        msg = f"{folder} is not as it was written: {', '.join(wrong)} ({MANIFEST}); {_ADVICE}"
        raise CheckpointError(msg)


_ADVICE = (
    f"fetch or make it again, or, if you changed it on purpose, remove {MANIFEST}: nothing vouches for its files then"
)


def _differences(folder: Path, digests: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, digest in digests.items():
        file = folder / name
        try:
            if not file.is_file():
                yield name, "is missing"
            elif file_digest(file) != digest:
                yield name, "has changed"
        except OSError as error:
            yield name, f"cannot be read ({error.strerror})"


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and name.isprintable() and str(path) == name
