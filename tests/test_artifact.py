"""Promises of what tells about an artifact: it names its repository once, and nothing that is not ours is touched."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from hfcompress.artifact import name_repository
from hfcompress.errors import CheckpointError
from hfcompress.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Ran


def test_repository_is_named_once(pruned: Ran, tmp_path: Path) -> None:
    """Naming the repository changes card and report alone, and no number of them."""
    folder = shutil.copytree(pruned.folder, tmp_path / "out")
    name_repository(folder, "me/small")
    report = Report.load(folder)

    assert report.artifact.repo == "me/small"
    assert report.measurements == Report.load(pruned.folder).measurements
    assert (folder / "README.md").read_text(encoding="utf-8").count('model_id = "me/small"') == 1


def test_repository_of_no_artifact(tmp_path: Path) -> None:
    """A folder without a report is not ours to describe."""
    with pytest.raises(CheckpointError, match=r"is .* an artifact of hfcompress\?$"):
        name_repository(tmp_path, "me/small")


@pytest.mark.parametrize("name", ["README.md", "assets", "tokenizer.json"])
def test_links_are_refused(name: str, pruned: Ran, tmp_path: Path) -> None:
    """What a link in an artifact leads to is neither written to nor published."""
    folder = shutil.copytree(pruned.folder, tmp_path / "out")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{name} is a symbolic link, .*`cp -rL`"):
        name_repository(folder, "me/small")
    assert Report.load(folder).artifact.repo is None


def test_damaged_artifact_is_not_published(pruned: Ran, tmp_path: Path) -> None:
    """A file that has changed since the run is named before anything is written or pushed."""
    folder = shutil.copytree(pruned.folder, tmp_path / "out")
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match=r"is not as it was written: model.safetensors has changed"):
        name_repository(folder, "me/small")
    assert Report.load(folder).artifact.repo is None
