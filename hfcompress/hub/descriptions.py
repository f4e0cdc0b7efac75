"""What a commit holds, as the Hub describes it."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from huggingface_hub import HfApi

from hfcompress.hub.explanations import explained
from hfcompress.hub.retries import repeated
from hfcompress.hub.verification import RemoteFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from huggingface_hub.hf_api import RepoSibling

__all__ = ["RepoType", "described"]

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
