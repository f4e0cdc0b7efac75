"""Locks that tell who holds them, and that a killed process lets go of."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from hfcompress.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["held"]


@contextmanager
def held(file: Path, what: str, waiting: Callable[[BusyError], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file while the block runs. The file is gone afterwards.

    The operating system takes the lock from a process that ends, however it ends, so a file that a killed one left
    behind keeps nobody out.

    Args:
        file: The lock; its folder exists.
        what: What the lock is for, as the error names it.
        waiting: Called once before waiting for another holder; without it, nobody waits.

    Raises:
        BusyError: Another one holds the lock, and `waiting` is not given.
    """
    lock, note = FileLock(file), file.with_suffix(".pid")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        busy = BusyError(what, _holder(note))
        if waiting is None:
            raise busy from None
        waiting(busy)
        lock.acquire()
    try:
        note.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        note.unlink(missing_ok=True)
        # while it is held: who opened this file before finds it without a name, and opens the next one
        file.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> int | None:
    """Return the number of the process that holds a lock, where it has said so by now."""
    try:
        return int(note.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
