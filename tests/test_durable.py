"""Promises of files and folders that are whole whenever a process is killed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from hfcompress.durable import exchange, move, remove, sync_tree

if TYPE_CHECKING:
    from pathlib import Path


def _folder(path: Path, text: str) -> Path:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text(text, encoding="utf-8")
    return path


def _text(path: Path) -> str:
    return (path / "deep" / "file").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two names at once")
def test_exchange_swaps_two_folders(tmp_path: Path) -> None:
    """Both folders are there afterwards, each under the other's name."""
    one, other = _folder(tmp_path / "one", "1"), _folder(tmp_path / "other", "2")
    assert exchange(one, other)
    assert (_text(one), _text(other)) == ("2", "1")


def test_exchange_with_nothing(tmp_path: Path) -> None:
    """Where there are no two names to swap, nothing happens, and the answer says so."""
    one = _folder(tmp_path / "one", "1")
    assert not exchange(one, tmp_path / "none")
    assert _text(one) == "1"


def test_move_renames(tmp_path: Path) -> None:
    """A folder that is on the disk is there under its new name."""
    folder = _folder(tmp_path / "one", "1")
    sync_tree(folder)
    move(folder, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert _text(tmp_path / "other") == "1"


def test_remove_does_not_follow_links(tmp_path: Path) -> None:
    """A link goes and what it points to stays; what is not there needs no removal."""
    kept = _folder(tmp_path / "kept", "1")
    (tmp_path / "link").symlink_to(kept)
    for name in ("link", "none"):
        remove(tmp_path / name)
    remove(_folder(tmp_path / "gone", "2"))

    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert _text(kept) == "1"
