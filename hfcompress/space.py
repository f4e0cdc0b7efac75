"""Room on disks: asked for before it is used, and named when it has run out."""

from __future__ import annotations

import errno
import shutil
from contextlib import ContextDecorator
from typing import TYPE_CHECKING

from hfcompress.changes import format_value
from hfcompress.errors import SpaceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["SpaceExplained", "require_space"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large")
"""What the C library says of these, in the errors of libraries that keep no number."""

_ADVICE = (
    "free some, for example with `hfcompress cache rm --all`, or choose other disks with -o, HFCOMPRESS_CACHE and "
    "HF_HOME"
)


def require_space(needs: Mapping[Path, int], doing: str) -> None:
    """Make sure that there is room before something is written.

    Args:
        needs: Folder, which need not exist yet → bytes that will be written there. Folders on one file system share
            its room.
        doing: What will be done, as the error says it ("download the model").

    Raises:
        SpaceError: There is not.
    """
    shared: dict[int, list[tuple[Path, int]]] = {}
    for folder, need in needs.items():
        place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        shared.setdefault(place.stat().st_dev, []).append((place, need))
    for places in shared.values():
        need, place = sum(need for _, need in places), places[0][0]
        free = shutil.disk_usage(place).free
        if need > free:
            msg = (
                f"there is too little room on the disk of {place} to {doing}: it takes about {_bytes(need)}, and "
                f"{_bytes(free)} are free; {_ADVICE}"
            )
            raise SpaceError(msg)


class SpaceExplained(ContextDecorator):
    """Turns whatever a full disk makes of a function or a block into a `SpaceError`.

    Libraries wrap the system's error in one of their own, so causes and texts are looked at too.
    """

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise the error that says what to do, if a disk is full.

        Raises:
            SpaceError: It is.
        """
        full = None if isinstance(error, SpaceError) else _full(error)
        if full is not None:
            name = getattr(full, "filename", None)
            place = f" of {name}" if name else ""
            msg = (
                f"a disk is full, or a file larger than it may be: {_reason(full)}{place}. Nothing half written is "
                f"kept: {_ADVICE}, then run the same command again, which goes on after the last step that ended"
            )
            raise SpaceError(msg) from error


def _full(error: BaseException | None) -> BaseException | None:
    """Return the error, of this one and those that led to it, which says that a disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = error.errno if isinstance(error, OSError) else None
        if number in _FULL or (number is None and any(text in str(error) for text in _FULL_TEXTS)):
            return error
        error = error.__cause__ or error.__context__
    return None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(text for text in _FULL_TEXTS if text in str(error))


def _bytes(count: int) -> str:
    return format_value(count, "bytes")
