"""The Hub, through `huggingface_hub` alone: what a name stands for, what to download, and the push."""

from __future__ import annotations

import fnmatch
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hfcompress.errors import CheckpointError, HubError, NotOnHubError, PushError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from huggingface_hub import ModelInfo

__all__ = [
    "Pushed",
    "Source",
    "content_revision",
    "download_all",
    "download_weights",
    "missing_bytes",
    "push_folder",
    "resolve_dataset",
    "resolve_model",
]

_LIGHT = ["*.json", "*.txt", "*.model", "*.jinja", "README.md"]
_WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors"]
_PICKLES = "pytorch_model*.bin"
_MAIN = "main"
_BOT, _OFFER = "SFconvertbot", "Adding `safetensors` variant of this model"
"""Who offers safetensors in a pull request to repositories that hold none, and its title: the Hub's own converter."""
_CHUNK = 1 << 20
_REFUSED = {401, 403}


@dataclass(frozen=True)
class Source:
    """A model that was looked up: its configuration is on disk, its weights need not be.

    Attributes:
        id: Hub id, or the folder's name.
        revision: Commit sha on the Hub, or the content fingerprint of a local folder.
        path: The folder that holds what has been downloaded.
        on_hub: Whether it came from the Hub.
        license: License that its card names; `license_name` and `license_link` describe one that is `other`.
        converted: The pull request of the Hub's converter that it is taken from, because the main branch holds no
            safetensors ("refs/pr/66").
    """

    id: str
    revision: str
    path: Path
    on_hub: bool
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    converted: str | None = None


@dataclass(frozen=True)
class Pushed:
    """Where a folder went: the repository's page, and the pull request's where one was opened."""

    url: str
    commit: str


def content_revision(folder: Path) -> str:
    """Return a fingerprint of everything in a folder: the SHA-256 over names and contents, in hexadecimal."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        total.update(f"{file.relative_to(folder).as_posix()}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def resolve_model(name: str, revision: str) -> Source:
    """Look a model up, resolve its revision to a commit, and fetch everything but the weights.

    A main branch that holds pickles and no safetensors stands for the open pull request in which the Hub's own
    converter offers them, if that was made from the branch as it is.

    Args:
        name: Hub id, or a folder; a relative one wins over a Hub id if it exists.
        revision: Branch, tag or commit; of no meaning for a folder.

    Raises:
        HubError: The Hub refused or could not be reached.
        CheckpointError: The folder does not exist or holds no configuration.
    """
    folder = Path(name)
    if folder.is_absolute() or folder.is_dir():
        folder = folder.resolve()
        if not (folder / "config.json").is_file():
            msg = (
                f"{folder} holds no config.json, so it is not a checkpoint; give a folder that `save_pretrained` wrote"
            )
            raise CheckpointError(msg)
        return Source(folder.name, content_revision(folder), folder, on_hub=False, **_license(folder))
    with _explained(f"model {name}", revision):
        api = HfApi()
        found = api.model_info(name, revision=revision)
        converted = _conversion(api, found) if revision == _MAIN else None
        sha = (found if converted is None else api.model_info(name, revision=converted)).sha or revision
        folder = Path(snapshot_download(name, revision=sha, allow_patterns=_LIGHT))
    if not (folder / "config.json").is_file():
        msg = f"the repository {name} holds no config.json, so it is not a transformers checkpoint"
        raise CheckpointError(msg)
    return Source(name, sha, folder, on_hub=True, converted=converted, **_license(folder))


def _conversion(api: HfApi, found: ModelInfo) -> str | None:
    """Return the pull request that adds safetensors to this commit of a model without any, where there is one."""
    files = [file.rfilename for file in found.siblings or []]
    if not fnmatch.filter(files, _PICKLES) or any(fnmatch.filter(files, pattern) for pattern in _WEIGHTS):
        return None
    offers = api.get_repo_discussions(found.id, author=_BOT, discussion_type="pull_request", discussion_status="open")
    for offer in offers:
        if offer.title == _OFFER and offer.git_reference is not None:
            commits = api.list_repo_commits(found.id, revision=offer.git_reference)
            if found.sha in [commit.commit_id for commit in commits[1:]]:
                return offer.git_reference
    return None


def download_weights(source: Source) -> Path:
    """Return the folder with the weights in it, fetching them where they are not there yet.

    Raises:
        HubError: The Hub refused or could not be reached.
        CheckpointError: There are no safetensors weights.
    """
    if source.on_hub:
        with _explained(f"model {source.id}", source.revision):
            snapshot_download(source.id, revision=source.revision, allow_patterns=[*_LIGHT, *_WEIGHTS])
    if not any(match for pattern in _WEIGHTS for match in source.path.glob(pattern)):
        msg = (
            f"{source.id} holds no model.safetensors; hfcompress loads nothing but safetensors: look on its page for a "
            f"pull request that adds them, and name it with `revision: refs/pr/...`"
        )
        raise CheckpointError(msg)
    return source.path


def missing_bytes(source: Source) -> int:
    """Return how many bytes of a source's weights are still to be downloaded.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    if not source.on_hub:
        return 0
    with _explained(f"model {source.id}", source.revision):
        files = HfApi().model_info(source.id, revision=source.revision, files_metadata=True).siblings or []
    return sum(
        file.size or 0
        for file in files
        if any(PurePosixPath(file.rfilename).match(pattern) for pattern in _WEIGHTS)
        and not (source.path / file.rfilename).exists()
    )


def download_all(source: Source) -> Path:
    """Return the folder with everything that the repository holds.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    if source.on_hub:
        with _explained(f"model {source.id}", source.revision):
            snapshot_download(source.id, revision=source.revision)
    return source.path


def resolve_dataset(name: str, revision: str | None) -> str:
    """Return the commit that a dataset's revision stands for.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    with _explained(f"dataset {name}", revision):
        return HfApi().dataset_info(name, revision=revision).sha or str(revision)


def push_folder(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload an artifact in one commit, to a repository that is made when it does not exist.

    Args:
        folder: The artifact's folder.
        repo: `owner/name`.
        private: Whether a new repository is private.
        create_pr: Open a pull request instead of committing to the branch.
        revision: Branch to commit to.
        message: Message of the commit.

    Raises:
        PushError: The Hub refused or could not be reached; the folder is as it was.
        CheckpointError: There is no such folder.
    """
    if not folder.is_dir():
        msg = f"there is no folder {folder} to push"
        raise CheckpointError(msg)
    operations = [
        CommitOperationAdd(file.relative_to(folder).as_posix(), file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    with _push_explained(), _explained(f"model {repo}", revision):
        api = HfApi()
        repo = api.create_repo(repo, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo,
            operations,
            commit_message=message or f"Upload {folder.name} with hfcompress",
            create_pr=create_pr,
            revision=revision,
        )
    return Pushed(commit.pr_url or f"{api.endpoint}/{repo}", commit.oid)


def _license(folder: Path) -> dict[str, str | None]:
    card = folder / "README.md"
    if not card.is_file():
        return {}
    try:
        data = RepoCard.load(card).data.to_dict()
    except ValueError:
        return {}
    return {key: str(data[key]) for key in ("license", "license_name", "license_link") if data.get(key)}


@contextmanager
def _push_explained() -> Iterator[None]:
    try:
        yield
    except HubError as error:
        raise PushError(str(error)) from error


@contextmanager
def _explained(what: str, revision: str | None) -> Iterator[None]:
    """Turn what the client raises into one sentence that says what to do next."""
    try:
        yield
    except GatedRepoError as error:
        msg = f"the {what} is gated: ask for access on its page, then log in with `hf auth login`"
        raise HubError(msg) from error
    except RevisionNotFoundError as error:
        msg = f"the {what} has no revision {revision!r}; look at its branches and tags on its page"
        raise NotOnHubError(msg, "revision") from error
    except RepositoryNotFoundError as error:
        msg = f"there is no {what} on the Hub, or it is private: check the name, or log in with `hf auth login`"
        raise NotOnHubError(msg, "repository") from error
    except OfflineModeIsEnabled as error:
        msg = f"the {what} was asked for in offline mode; unset HF_HUB_OFFLINE"
        raise HubError(msg) from error
    except LocalEntryNotFoundError as error:
        msg = f"the {what} is not in the cache and the Hub cannot be reached: check the network and HF_ENDPOINT"
        raise HubError(msg) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = "log in with `hf auth login`, with a token that may write" if status in _REFUSED else "try again"
        msg = f"the Hub refused the {what} ({status}): {error.server_message or error}; {hint}"
        raise HubError(msg) from error
    except HFValidationError as error:
        msg = f"the {what}: {error}"
        raise HubError(msg) from error
    except (OSError, RuntimeError) as error:
        msg = f"the Hub could not be reached for the {what}: {error}; check the network and HF_ENDPOINT, then try again"
        raise HubError(msg) from error
