"""What tells about an artifact and stands in its folder: the report, the recipe, the pictures and the card."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfcompress.card import render_card
from hfcompress.plots import draw_pictures
from hfcompress.report import FILE_NAME, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["describe", "name_repository", "named_for"]

RECIPE_NAME = "recipe.yaml"
CARD_NAME = "README.md"


def describe(report: Report, folder: Path) -> None:
    """Write what tells about an artifact: the recipe as run, the pictures, the card, and `report.json`.

    The report comes last: what it says is then true of the card too, also where something ended this before.
    """
    (folder / RECIPE_NAME).write_text(report.recipe.text, encoding="utf-8")
    shutil.rmtree(folder / "assets", ignore_errors=True)
    (folder / "assets").mkdir()
    pictures = draw_pictures(report, folder)
    (folder / CARD_NAME).write_text(render_card(report, pictures), encoding="utf-8")
    report.save(folder)


def name_repository(folder: Path, repo: str) -> None:
    """Write the repository that an artifact is pushed to into its report and card, where it is not there yet.

    Raises:
        CheckpointError: The folder is not an artifact of hfcompress.
    """
    report = Report.load(folder)
    if report.artifact.repo != repo:
        describe(replace(report, artifact=replace(report.artifact, repo=repo)), folder)


@contextmanager
def named_for(folder: Path, repo: str) -> Iterator[Path]:
    """Give an artifact as `name_repository` would leave it, in a folder with links that is gone after the block.

    Raises:
        CheckpointError: The folder is not an artifact of hfcompress.
    """
    written = {FILE_NAME, RECIPE_NAME, CARD_NAME}

    def copy(source: str, target: str) -> None:
        if Path(source).name in written:
            shutil.copyfile(source, target)
        else:
            Path(target).symlink_to(source)

    with tempfile.TemporaryDirectory(prefix="hfcompress-") as scratch:
        named = Path(scratch, "artifact")
        shutil.copytree(folder.resolve(), named, copy_function=copy)
        name_repository(named, repo)
        yield named
