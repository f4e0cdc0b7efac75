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
