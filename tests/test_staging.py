"""Promises of the artifact's folder: written whole or not at all, and never over something that is not ours."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from hfcompress.errors import BusyError, OutputError
from hfcompress.report import Report
from hfcompress.staging import check_output, staging

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Ran


def test_new_and_empty_folders_may_be_written(tmp_path: Path) -> None:
    """A folder that does not exist, or is empty, is free."""
    check_output(tmp_path)
    check_output(tmp_path / "new")


@pytest.mark.parametrize("name", ["notes.txt", "report.json"])
def test_what_is_not_ours_is_refused(name: str, tmp_path: Path) -> None:
    """Neither a folder with other files nor one with another program's report is ours."""
    (tmp_path / name).write_text('{"schema_version": 9}', encoding="utf-8")
    with pytest.raises(OutputError, match="already exists and is not an artifact of hfcompress"):
        check_output(tmp_path)


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    """A file is not a folder to write to."""
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="already exists"):
        check_output(tmp_path / "out")


def test_artifact_appears_at_the_end(tmp_path: Path) -> None:
    """The folder is there when all is done, and no scratch beside it."""
    with staging(tmp_path / "a" / "out") as scratch:
        (scratch / "artifact").mkdir()
        (scratch / "artifact" / "x").write_text("1", encoding="utf-8")
        assert not (tmp_path / "a" / "out").exists()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "x").read_text(encoding="utf-8") == "1"


def test_failure_leaves_what_was_there(pruned: Ran, tmp_path: Path) -> None:
    """A run that fails keeps the artifact of the run before."""
    folder = shutil.copytree(pruned.folder, tmp_path / "out")

    def fail() -> None:
        with staging(folder) as scratch:
            (scratch / "artifact").mkdir()
            message = "no"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=r"^no$"):
        fail()
    assert Report.load(folder) == Report.load(pruned.folder)
    assert list(tmp_path.iterdir()) == [folder]


def _replaced(folder: Path, text: str) -> None:
    """Replace an artifact by one with another card."""
    with staging(folder) as scratch:
        shutil.copytree(folder, scratch / "artifact")
        (scratch / "artifact" / "README.md").write_text(text, encoding="utf-8")


def test_artifact_is_replaced(pruned: Ran, tmp_path: Path) -> None:
    """The new artifact takes the place of the old one, of which nothing is left."""
    folder = shutil.copytree(pruned.folder, tmp_path / "out")
    _replaced(folder, "new")
    assert (folder / "README.md").read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_artifact_that_is_not_there(pruned: Ran, tmp_path: Path) -> None:
    """Where the new artifact cannot take the place of the old one, the old one is there again."""
    folder = shutil.copytree(pruned.folder, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"artifact"), staging(folder):
        pass
    assert Report.load(folder) == Report.load(pruned.folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_kill_between_two_renames(pruned: Ran, tmp_path: Path) -> None:
    """Where names cannot be swapped at once, a run that was killed between its two renames is finished by the next."""
    scratch = tmp_path / ".out.partial"
    for name in ("artifact", "replaced"):
        shutil.copytree(pruned.folder, scratch / name)
    (scratch / "artifact" / "README.md").write_text("new", encoding="utf-8")
    message = "no"
    with pytest.raises(RuntimeError, match=r"^no$"), staging(tmp_path / "out"):
        raise RuntimeError(message)

    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_scratch_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    """What a killed run left beside the output goes, and nothing of it gets into the artifact."""
    (tmp_path / ".out.partial" / "artifact").mkdir(parents=True)
    (tmp_path / ".out.partial" / "artifact" / "half").touch()
    (tmp_path / ".out.lock").touch()
    with staging(tmp_path / "out") as scratch:
        assert list(scratch.iterdir()) == []
        (scratch / "artifact").mkdir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_second_run_is_refused(tmp_path: Path) -> None:
    """Two runs cannot write one folder: the second is told which process has it."""
    busy = rf"out is in use by another run \(process {os.getpid()}\); wait for it"
    with staging(tmp_path / "out") as scratch:
        (scratch / "artifact").mkdir()
        with pytest.raises(BusyError, match=busy), staging(tmp_path / "out"):
            pass
        assert (scratch / "artifact").is_dir()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
