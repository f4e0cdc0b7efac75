"""Safetensors for a model whose main branch holds pickles alone: the pull request of the Hub's own converter."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from hfcompress.hub.pickles import PICKLES, WEIGHTS
from hfcompress.hub.retries import repeated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from huggingface_hub import HfApi

__all__ = ["conversion"]

_BOT, _OFFER = "SFconvertbot", "Adding `safetensors` variant of this model"
"""Who offers safetensors in a pull request to repositories that hold none, and its title: the Hub's own converter."""


def conversion(api: HfApi, name: str, sha: str, files: Iterable[str]) -> str | None:
    """Return the pull request that adds safetensors to this commit of a model without any, where there is one."""
    files = list(files)

    def holds(patterns: list[str]) -> bool:
        return any(fnmatch.filter(files, pattern) for pattern in patterns)

    if not holds(PICKLES) or holds(WEIGHTS):
        return None
    offers = repeated(
        lambda: list(
            api.get_repo_discussions(name, author=_BOT, discussion_type="pull_request", discussion_status="open")
        )
    )
    for offer in offers:
        reference = offer.git_reference
        if offer.title == _OFFER and reference is not None:
            commits = repeated(lambda reference=reference: api.list_repo_commits(name, revision=reference))  # type: ignore[misc]
            if sha in [commit.commit_id for commit in commits[1:]]:
                return reference
    return None
