"""What a commit holds, as the Hub describes it."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from huggingface_hub import HfApi

from hfcompress.hub.explanations import explained
from hfcompress.hub.references import storage
from hfcompress.hub.retries import repeated
from hfcompress.hub.verification import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from huggingface_hub.hf_api import RepoSibling

__all__ = ["RepoType", "absent_bytes", "described"]

RepoType: TypeAlias = Literal["model", "dataset"]

_REMEMBERED = 32
"""Commits whose files are kept in memory: a run asks for those of its model and of its datasets, several times each."""


def described(name: str, repo_type: RepoType, sha: str) -> Mapping[str, RemoteFile]:
    """Return every file of a repository at a commit, by its path.

    A commit never changes, so the Hub is asked once in the life of the process. Whether the repository may still be
    read is no part of the answer: that is asked each time a name is resolved.

    Args:
        name: Hub id.
        repo_type: What it is the id of.
        sha: The full commit.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    return _described(HfApi().endpoint, name, repo_type, sha)


def absent_bytes(name: str, repo_type: RepoType, sha: str, paths: Iterable[str]) -> int:
    """Return how many bytes of a commit's files the client does not hold, neither of this commit nor of another one.

    Args:
        name: Hub id.
        repo_type: What it is the id of.
        sha: The full commit.
        paths: Files that it holds.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    folder, files = storage(name, repo_type), described(name, repo_type, sha)
    absent = 0
    for file in (files[path] for path in paths):
        here = folder / "snapshots" / sha / file.path, folder / "blobs" / (file.sha256 or file.blob_id)
        if not any(place.exists() for place in here):
            absent += file.size_bytes
    return absent


@lru_cache(maxsize=_REMEMBERED)
def _described(endpoint: str, name: str, repo_type: RepoType, sha: str) -> Mapping[str, RemoteFile]:
    api = HfApi(endpoint)
    with explained(f"{repo_type} {name}", sha):
        info = repeated(lambda: api.repo_info(name, repo_type=repo_type, revision=sha, files_metadata=True))
    siblings: Sequence[RepoSibling] = info.siblings or ()
    found = {}
    for file in siblings:
        sha256 = None if file.lfs is None else str(file.lfs["sha256"])
        found[file.rfilename] = RemoteFile(file.rfilename, file.size or 0, sha256, file.blob_id or "")
    return MappingProxyType(found)
