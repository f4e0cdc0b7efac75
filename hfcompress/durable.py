"""Files and folders that are whole whenever a process is killed or the power goes."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

__all__ = ["exchange", "move", "remove", "sync", "sync_tree"]

_CURRENT_FOLDER = -100  # AT_FDCWD of fcntl.h
_EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(place, name))
        sync(Path(place))


def move(source: Path, target: Path) -> None:
    """Rename a file or folder within a file system, and wait until the names are on the disk."""
    source.rename(target)
    for parent in {source.parent, target.parent}:
        sync(parent)


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one indivisible step.

    Returns:
        Whether it was done; not every operating system and file system can.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    if rename(_CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE) != 0:
        return False
    for parent in {one.parent, other.parent}:
        sync(parent)
    return True


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there; what a link points to is left alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
