"""The folder that a run leaves: written whole or not at all, and never over something that is not ours."""

from __future__ import annotations

import errno
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hfcompress.durable import exchange, move, remove, sync_tree
from hfcompress.errors import CheckpointError, OutputError, UsageError
from hfcompress.locks import held
from hfcompress.report import Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfcompress.recipe import Recipe

__all__ = ["check_new_output", "check_output", "default_output", "staging"]

_REPLACED = "replaced"


def default_output(recipe: Recipe) -> Path:
    """Return where the artifact goes if nobody says: `out/` and the recipe's name, in the current folder."""
    return Path("out", recipe.name)


def check_output(folder: Path) -> None:
    """Make sure that a run may write a folder.

    Raises:
        OutputError: It exists, is not empty, and is not an artifact of hfcompress.
        UsageError: Nobody can write there.
    """
    with _explained(folder, "choose another folder with -o"):
        if _is_taken(folder):
            _require_report(folder)
        _try_to_write(folder)


def check_new_output(folder: Path) -> None:
    """Make sure that a folder, which must not exist or be empty, can be written.

    Raises:
        UsageError: It is taken, or nobody can write there.
    """
    with _explained(folder, "choose another folder"):
        if _is_taken(folder):
            msg = f"the output folder {folder} is not empty; choose another one"
            raise UsageError(msg)
        _try_to_write(folder)


@contextmanager
def _explained(folder: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{folder} cannot be written: {error.strerror}; {advice}"
        raise UsageError(msg) from error


def _is_taken(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def _require_report(folder: Path) -> None:
    try:
        Report.load(folder)
    except CheckpointError as error:
        raise OutputError(folder) from error


def _try_to_write(folder: Path) -> None:
    """Make a folder where the scratch of a run is going to be, or in the nearest folder above it that is there."""
    if folder.is_symlink() and not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "it is a symbolic link that leads nowhere")
    above = next(path for path in folder.absolute().parents if path.is_symlink() or path.exists())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=above):
        pass


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Give a scratch folder beside `folder`; its `artifact` becomes `folder` when the block ends without an error.

    At any moment, `folder` is what it was before or all of the new artifact. Where the file system cannot swap two
    names at once, a kill between two renames leaves both in the scratch folder, and the next run brings the new one to
    its place. What a killed run has left of the scratch folder goes at the same time.

    Raises:
        OutputError: `folder` is not ours to replace.
        BusyError: Another run writes it.
    """
    folder = folder.absolute()
    check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.partial"
    with held(folder.parent / f".{folder.name}.lock", f"the output folder {folder}"):
        _recover(folder, scratch)
        check_output(folder)
        scratch.mkdir()
        try:
            yield scratch
            artifact = scratch / "artifact"
            sync_tree(artifact)
            _put(artifact, folder, scratch / _REPLACED)
        finally:
            remove(scratch)


def _put(artifact: Path, folder: Path, replaced: Path) -> None:
    """Make a complete artifact `folder`; what `folder` was before goes to `replaced`, or where the artifact was."""
    if not folder.exists():
        move(artifact, folder)
    elif not exchange(artifact, folder):
        try:
            move(folder, replaced)
            move(artifact, folder)
        finally:
            if not folder.exists():
                replaced.rename(folder)


def _recover(folder: Path, scratch: Path) -> None:
    """Finish what a killed run began, and remove the rest of it; its lock is ours by now."""
    artifact = scratch / "artifact"
    if (scratch / _REPLACED).exists() and artifact.exists() and not folder.exists():
        # the old one was moved away once the artifact was complete
        move(artifact, folder)
    remove(scratch)
