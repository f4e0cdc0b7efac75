"""What a revision stood for when the Hub was last asked, kept beside the client's files for offline mode."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

if TYPE_CHECKING:
    from hfcompress.hub.descriptions import RepoType

__all__ = ["keep_commit", "keep_conversion", "kept_commit", "kept_conversion", "storage"]

_REQUEST = re.compile(r"refs/pr/\d+", re.ASCII)


def storage(name: str, repo_type: RepoType) -> Path:
    """Return the folder in which the client keeps a repository."""
    return Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type=repo_type))


def keep_commit(name: str, repo_type: RepoType, revision: str, sha: str) -> None:
    """Keep the commit of a branch, tag or reference where the client keeps it too."""
    file = _reference(name, repo_type, revision)
    if file is not None:
        _write(file, sha)


def kept_commit(name: str, repo_type: RepoType, revision: str) -> str | None:
    """Return the commit that a branch, tag or reference last stood for, where that is known."""
    file = _reference(name, repo_type, revision)
    return None if file is None else _read(file)


def keep_conversion(name: str, request: str | None) -> None:
    """Keep the pull request that a model's main branch stands for; `None` if it stands for itself.

    It goes with the client's folder of the model, but not under `refs`: the client takes every file there for the name
    of a commit, and a folder with a reference to a commit that it does not hold for damaged.
    """
    file = _conversion(name)
    if request is None:
        file.unlink(missing_ok=True)
    else:
        _write(file, request)


def kept_conversion(name: str) -> str | None:
    """Return the pull request that a model's main branch last stood for, if it was not itself."""
    request = _read(_conversion(name))
    return request if request is not None and _REQUEST.fullmatch(request) else None


def _reference(name: str, repo_type: RepoType, revision: str) -> Path | None:
    """Return the client's file of a reference; there is none for a text that would lead out of its folder."""
    if Path(revision).is_absolute() or ".." in Path(revision).parts:
        return None
    return storage(name, repo_type) / "refs" / revision


def _conversion(name: str) -> Path:
    return storage(name, "model") / ".hfcompress" / "main"


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def _write(file: Path, text: str) -> None:
    """Write a whole file or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
