"""Promises of what is said when there is no room."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from hfcompress.errors import SpaceError
from hfcompress.space import SpaceExplained, require_space


def test_room_there_is(tmp_path: Path) -> None:
    """Where there is room, nothing is said; folders need not exist."""
    require_space({tmp_path / "a" / "b": 1, tmp_path: 0}, "go on")


def test_too_little_room(tmp_path: Path) -> None:
    """The error names the disk, what it takes, what is free and what to do."""
    need = 2 * shutil.disk_usage(tmp_path).total
    match = rf"on the disk of {tmp_path} to take step 1: it takes about .*B, and .*B are free; free some, .*cache rm"
    with pytest.raises(SpaceError, match=match):
        require_space({tmp_path / "new": need}, "take step 1")


def test_folders_on_one_disk_share_its_room(tmp_path: Path) -> None:
    """Two folders that each would fit alone do not fit together."""
    most = shutil.disk_usage(tmp_path).free * 3 // 5
    require_space({tmp_path / "a": most}, "go on")
    with pytest.raises(SpaceError, match="too little room"):
        require_space({tmp_path / "a": most, tmp_path / "b": most}, "go on")


def test_full_disk_is_explained() -> None:
    """A write to a full disk becomes an error that names the cause, the file and what to do."""
    with (
        pytest.raises(SpaceError, match=r"a disk is full.*: No space left on device\. .*run the same command again"),
        SpaceExplained(),
        Path("/dev/full").open("w", encoding="utf-8") as full,
    ):
        full.write("x")


def test_wrapped_errors_are_explained() -> None:
    """So does one that a library wrapped in an error of its own, or told in words alone."""

    @SpaceExplained()
    def write(*, in_words: bool) -> None:
        if in_words:
            message = "I/O error: File too large (os error 27)"
            raise RuntimeError(message)
        message = "cannot be saved"
        raise ValueError(message) from OSError(errno.EDQUOT, "Disk quota exceeded", "/data/x")

    with pytest.raises(SpaceError, match="File too large"):
        write(in_words=True)
    with pytest.raises(SpaceError, match="Disk quota exceeded of /data/x"):
        write(in_words=False)


def test_other_errors_pass() -> None:
    """What has nothing to do with room is left as it is."""
    with pytest.raises(FileNotFoundError, match="none"), SpaceExplained():
        Path("/none").read_bytes()
