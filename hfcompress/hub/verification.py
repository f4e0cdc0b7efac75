"""Whether a file is, byte for byte, the one that the Hub has: the client compares sizes alone."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfcompress.checksums import file_digest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RemoteFile", "is_blob_intact"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit, as the Hub describes it.

    Attributes:
        path: Path in the repository.
        size_bytes: Its size.
        sha256: SHA-256 of a file that is stored with LFS.
        blob_id: SHA-1 of the git blob; of an LFS file, of its pointer.
    """

    path: str
    size_bytes: int
    sha256: str | None
    blob_id: str

    def is_same(self, file: Path) -> bool:
        """Return whether a local file has the same content."""
        if not file.is_file() or file.stat().st_size != self.size_bytes:
            return False
        if self.sha256 is not None:
            return file_digest(file) == self.sha256
        return _git_blob(file) == self.blob_id


def is_blob_intact(file: Path) -> bool:
    """Return whether a file of the client's cache has the digest that its blob is named by; true where it has no such.

    This is what can be known without the Hub.
    """
    name = file.resolve().name
    if _SHA256.fullmatch(name):
        return file_digest(file) == name
    return _git_blob(file) == name if _SHA1.fullmatch(name) else True


def _git_blob(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
