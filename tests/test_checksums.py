"""Promises of the checksums: what was written can be told from what has changed since, by file."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from hfcompress.checksums import MANIFEST, folder_digests, read_manifest, verify_folder, write_manifest
from hfcompress.errors import CheckpointError, RunError

if TYPE_CHECKING:
    from pathlib import Path

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a manifest, whose README is no part of it."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model with spaces.onnx").write_bytes(b"graph")
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "README.md").write_bytes(b"card")
    write_manifest(tmp_path)
    return tmp_path


def test_manifest_is_that_of_sha256sum(folder: Path) -> None:
    """The tool that everybody has checks a manifest."""
    tool = shutil.which("sha256sum")
    assert tool is not None
    done = subprocess.run([tool, "-c", MANIFEST], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - a tool of the system
    assert (done.returncode, done.stdout) == (0, "config.json: OK\nonnx/model with spaces.onnx: OK\n")


def test_manifest_reads_back(folder: Path) -> None:
    """What was written is what is read, and it is what the files hold; writing it again changes nothing."""
    digests = folder_digests(folder, ["README.md", MANIFEST])
    assert (read_manifest(folder), list(digests)) == (digests, ["config.json", "onnx/model with spaces.onnx"])
    before = (folder / MANIFEST).read_bytes()
    write_manifest(folder)
    assert (folder / MANIFEST).read_bytes() == before


def test_what_is_as_it_was_written_passes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An edited card, a file that somebody added and a folder without a manifest are no mistakes."""
    (folder / "README.md").write_bytes(b"another card")
    (folder / "notes.txt").write_bytes(b"mine")
    verify_folder(folder)
    verify_folder(tmp_path_factory.mktemp("bare"))


def test_every_file_that_changed_is_named(folder: Path) -> None:
    """What is missing and what has changed are told apart, with what to do."""
    (folder / "config.json").write_bytes(b"[]")
    (folder / "onnx" / "model with spaces.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"config.json has changed, onnx/model with spaces.onnx is missing"):
        verify_folder(folder)


@pytest.mark.parametrize(
    "line",
    [
        f"{EMPTY}  ../outside",
        f"{EMPTY}  /etc/hostname",
        f"{EMPTY}  a/../../b",
        f"{EMPTY}  \x1b[31mred",
        f"{EMPTY.upper()}  a",
        f"{EMPTY[1:]}  a",
        f"{EMPTY}  config.json\n{EMPTY}  config.json",
        f"\\{EMPTY}  a",
        "",
        "\xff",
    ],
)
def test_what_is_no_manifest_is_refused(line: str, folder: Path) -> None:
    """A line that names a file elsewhere, or that is none, is refused with its place; nothing outside is read."""
    (folder / MANIFEST).write_bytes(f"{line}\n\n".encode("latin-1"))
    with pytest.raises(CheckpointError, match=f"{MANIFEST}.*fetch or make it again"):
        verify_folder(folder)


def test_names_that_no_manifest_can_hold(tmp_path: Path) -> None:
    """A file whose name would break the lines of a manifest is named, and no manifest is written."""
    (tmp_path / "two\nlines").write_bytes(b"")
    with pytest.raises(RunError, match=r"'two\\nlines'; expected a name"):
        write_manifest(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["two\nlines"]
