"""The folder that a run leaves: written whole or not at all, and never over something that is not ours."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfcompress.card import render_card
from hfcompress.errors import CheckpointError, OutputError
from hfcompress.plots import draw_pictures
from hfcompress.report import FILE_NAME, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_output", "describe", "name_repository", "named_for", "staging"]

RECIPE_NAME = "recipe.yaml"
CARD_NAME = "README.md"


def check_output(folder: Path) -> None:
    """Make sure that a run may write a folder.

    Raises:
        OutputError: It exists, is not empty, and is not an artifact of hfcompress.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        try:
            Report.load(folder)
        except CheckpointError as error:
            raise OutputError(folder) from error


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a scratch folder beside `folder`; its `artifact` becomes `folder` when the block ends without an error.

    Raises:
        OutputError: `folder` is not ours to replace.
    """
    check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        scratch = Path(name)
        yield scratch
        if folder.exists():
            folder.rename(scratch / "replaced")
        (scratch / "artifact").rename(folder)


def describe(report: Report, folder: Path) -> None:
    """Write what tells about an artifact: `report.json`, the recipe as run, the pictures and the card."""
    report.save(folder)
    (folder / RECIPE_NAME).write_text(report.recipe.text, encoding="utf-8")
    shutil.rmtree(folder / "assets", ignore_errors=True)
    (folder / "assets").mkdir()
    pictures = draw_pictures(report, folder)
    (folder / CARD_NAME).write_text(render_card(report, pictures), encoding="utf-8")


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
    Report.load(folder)
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
