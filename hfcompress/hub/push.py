"""The push: one commit with what changed, made once, and compared with the folder afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from hfcompress.errors import HubError, PushError
from hfcompress.hub.explanations import explained
from hfcompress.hub.retries import TransportError, is_passing, repeated, status_of
from hfcompress.hub.verification import RemoteFile
from hfcompress.report import FILE_NAME, Report

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["FileChange", "PushPlan", "Pushed", "full_name", "plan_push", "push_folder", "require_access"]

_BATCH = 500
_PARENT_MOVED = 412
_SHORT = 12


@dataclass(frozen=True)
class Pushed:
    """Where a folder went.

    Attributes:
        url: The repository's page, or the pull request's where one was opened.
        commit: The commit that holds the folder.
        files: Paths of the files that the push made or replaced; empty where the Hub had all of them already.
    """

    url: str
    commit: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class FileChange:
    """What a push does to one file of the repository."""

    path: str
    size_bytes: int
    state: Literal["new", "changed", "unchanged"]


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        repo: `owner/name`.
        exists: Whether the repository is there already.
        message: Message of the commit.
        files: Every file of the folder.
        card: Text of its README.md; empty where it has none.
    """

    repo: str
    exists: bool
    message: str
    files: tuple[FileChange, ...]
    card: str


@dataclass(frozen=True)
class _Target:
    """What is pushed and where to.

    Attributes:
        folder: The artifact.
        paths: Its files, relative to it.
        repo: `owner/name`.
        branch: Branch that is committed to, or that the pull request is against.
        create_pr: Whether a pull request is opened.
        title: First line of the commit's message.
        description: The rest of it.
    """

    folder: Path
    paths: tuple[str, ...]
    repo: str
    branch: str
    create_pr: bool
    title: str
    description: str


class _UnansweredError(Exception):
    """A commit ended without an answer, so nobody knows yet whether it was made; its cause is what happened."""


def require_access(repo: str) -> None:
    """Make sure that a push can be tried: there is an access token, whatever it allows. The Hub is not asked.

    Raises:
        PushError: There is none, or offline mode is on.
    """
    if constants.HF_HUB_OFFLINE:
        msg = f"nobody can push to {repo} in offline mode; unset HF_HUB_OFFLINE"
        raise PushError(msg)
    if get_token() is None:
        msg = (
            f"nobody can push to {repo} without an access token; set HF_TOKEN, or log in with `hf auth login`, with a "
            "token that may write"
        )
        raise PushError(msg)


def full_name(repo: str) -> str:
    """Return `owner/name` of a repository; the owner is the user where none is named.

    Raises:
        PushError: The Hub refused to say who that is, or could not be reached.
    """
    if "/" in repo:
        return repo
    with _push_explained(repo, None):
        return f"{repeated(HfApi().whoami)['name']}/{repo}"


def push_folder(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload a folder as it is in one commit, to a repository that is made when it does not exist.

    Whether it is fit for that, `hfcompress.publication` looks first, through which every push goes. Files that the
    repository holds already are not sent again, and where it holds all of them there is no commit. A commit whose
    answer is lost is looked up before it is made again. At the end the Hub's digests of all files are compared with
    the folder.

    Args:
        folder: The folder.
        repo: `owner/name`.
        private: Whether a new repository is private.
        create_pr: Open a pull request instead of committing to the branch.
        revision: Branch to commit to; it is made when it does not exist.
        message: Message of the commit; by default it names the source's commit and the recipe's hash.

    Raises:
        PushError: The Hub refused or could not be reached, or holds other bytes than were sent.
        CheckpointError: The folder's report cannot be read.
    """
    target = _target(folder, repo, create_pr=create_pr, revision=revision, message=message)
    with _push_explained(repo, revision):
        api = HfApi()
        _open(api, target, private=private)
        pushed = _committed(api, target)
        _verify(api, target, pushed)
    return pushed


def plan_push(
    folder: Path, repo: str, *, create_pr: bool = False, revision: str | None = None, message: str | None = None
) -> PushPlan:
    """Say what a push would do, with the arguments of `push_folder`, and change nothing.

    Raises:
        PushError: The Hub refused or could not be reached.
        CheckpointError: The folder's report cannot be read.
    """
    target = _target(folder, repo, create_pr=create_pr, revision=revision, message=message)
    with _push_explained(repo, revision):
        api = HfApi()
        exists = True
        there: Mapping[str, RemoteFile] = {}
        try:
            branch = target.branch if _has_branch(api, target) else "main"
            there = _remote(api, target, branch)
        except RepositoryNotFoundError:
            exists = False
    changes = []
    for path in target.paths:
        file = folder / path
        same = path in there and there[path].is_same(file)
        state: Literal["new", "changed", "unchanged"] = "new" if path not in there else "changed"
        changes.append(FileChange(path, file.stat().st_size, "unchanged" if same else state))
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return PushPlan(target.repo, exists, target.title, tuple(changes), text)


def _target(folder: Path, repo: str, *, create_pr: bool, revision: str | None, message: str | None) -> _Target:
    paths = tuple(sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()))
    title, description = f"Upload {folder.name} with hfcompress", ""
    if (folder / FILE_NAME).is_file():
        report = Report.load(folder)
        source = report.source
        short = f"{source.id} at {source.revision[:_SHORT]}, recipe {report.recipe.sha256[:_SHORT]}"
        title = f"Compress {short}"
        description = f"Source: {source.id} at {source.revision}\nRecipe: sha-256 {report.recipe.sha256}"
    if message:
        title, _, rest = message.partition("\n")
        description = rest.strip() or description
    return _Target(folder, paths, repo, revision or "main", create_pr, title, description)


def _open(api: HfApi, target: _Target, *, private: bool) -> None:
    """Make the repository and the branch where they do not exist."""
    try:
        info = repeated(lambda: api.model_info(target.repo))
    except RepositoryNotFoundError:
        repeated(lambda: api.create_repo(target.repo, private=private, exist_ok=True))
    else:
        if private and info.private is False:
            msg = f"{target.repo} is there already and is public; make it private in its settings, or drop --private"
            raise PushError(msg)
    if not _has_branch(api, target):
        repeated(lambda: api.create_branch(target.repo, branch=target.branch, exist_ok=True))


def _has_branch(api: HfApi, target: _Target) -> bool:
    try:
        repeated(lambda: api.model_info(target.repo, revision=target.branch))
    except RevisionNotFoundError:
        return False
    return True


def _committed(api: HfApi, target: _Target) -> Pushed:
    """Make the commit once, however often its answer is lost."""
    operations = {path: CommitOperationAdd(path, target.folder / path) for path in target.paths}
    sent: set[str] = set()

    def attempt() -> Pushed:
        head = _head(api, target)
        there = _remote(api, target, head)
        changed = _different(target, there)
        if (found := _landed(api, target, head, changed, sent)) is not None:
            return found
        sent.update(changed)
        additions = [operations[path] for path in changed]
        repeated(
            lambda: api.preupload_lfs_files(
                target.repo, additions, revision=target.branch, create_pr=target.create_pr, free_memory=False
            )
        )
        try:
            # with its parent named, a commit that landed unseen cannot land a second time
            commit = api.create_commit(
                target.repo,
                additions,
                commit_message=target.title,
                commit_description=target.description,
                create_pr=target.create_pr,
                revision=target.branch,
                parent_commit=head,
            )
        except (OSError, RuntimeError, ValueError, TransportError) as error:
            if is_passing(error) or status_of(error) == _PARENT_MOVED:
                raise _UnansweredError from error
            raise
        return Pushed(commit.pr_url or f"{api.endpoint}/{target.repo}", commit.oid, tuple(changed))

    try:
        return repeated(attempt, when=lambda error: isinstance(error, _UnansweredError))
    except _UnansweredError as error:
        head = _head(api, target)
        changed = _different(target, _remote(api, target, head))
        if (found := _landed(api, target, head, changed, sent)) is not None:
            return found
        raise error.__cause__ or error from None


def _landed(api: HfApi, target: _Target, head: str, changed: Sequence[str], sent: set[str]) -> Pushed | None:
    """Return the push as made where the Hub holds the folder: on the branch, or in an open pull request of ours."""
    files = tuple(sorted(sent))
    if not changed:
        return Pushed(f"{api.endpoint}/{target.repo}", head, files)
    if not target.create_pr:
        return None
    user = repeated(api.whoami)["name"]
    opened = repeated(
        lambda: list(
            api.get_repo_discussions(target.repo, author=user, discussion_type="pull_request", discussion_status="open")
        )
    )
    for request in opened:
        reference = f"refs/pr/{request.num}"
        if request.title == target.title and not _different(target, _remote(api, target, reference)):
            return Pushed(request.url, _head(api, replace(target, branch=reference)), files)
    return None


def _head(api: HfApi, target: _Target) -> str:
    sha = repeated(lambda: api.model_info(target.repo, revision=target.branch)).sha
    if sha is None:
        msg = f"the Hub names no commit of {target.repo} at {target.branch}"
        raise PushError(msg)
    return sha


def _remote(api: HfApi, target: _Target, revision: str) -> Mapping[str, RemoteFile]:
    """Return those of the folder's files that the repository has at a revision, as the Hub describes them."""
    found = {}
    for start in range(0, len(target.paths), _BATCH):
        batch = list(target.paths[start : start + _BATCH])
        ask = partial(api.get_paths_info, target.repo, batch, revision=revision)
        for file in repeated(ask):
            if isinstance(file, RepoFile):
                sha256 = None if file.lfs is None else file.lfs.sha256
                found[file.path] = RemoteFile(file.path, file.size, sha256, file.blob_id)
    return found


def _different(target: _Target, there: Mapping[str, RemoteFile]) -> list[str]:
    return [path for path in target.paths if path not in there or not there[path].is_same(target.folder / path)]


def _verify(api: HfApi, target: _Target, pushed: Pushed) -> None:
    """Compare what the Hub holds after the push with the folder.

    Raises:
        PushError: A file is missing or has other bytes.
    """
    reference = f"refs/pr/{pushed.url.rsplit('/', 1)[-1]}" if "/discussions/" in pushed.url else pushed.commit
    there = _remote(api, target, reference)
    for path in _different(target, there):
        got = "is missing" if path not in there else "has other bytes"
        msg = (
            f"after the push, {path} {got} in {target.repo} at {pushed.commit}, compared with {target.folder / path}; "
            "do not use that commit, and push again"
        )
        raise PushError(msg)


@contextmanager
def _push_explained(repo: str, revision: str | None) -> Iterator[None]:
    try:
        with explained(f"model {repo}", revision):
            yield
    except PushError:
        raise
    except HubError as error:
        raise PushError(str(error)) from error
