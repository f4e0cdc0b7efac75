"""A folder on its way to the Hub: looked through first, then named after its repository, then pushed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from hfcompress.artifact import name_repository, named_for
from hfcompress.checksums import verify_folder
from hfcompress.errors import CheckpointError, UsageError
from hfcompress.hub import full_name, plan_push, push_folder
from hfcompress.redaction import holds_token
from hfcompress.report import FILE_NAME, Report
from hfcompress.snippet import is_repo_id
from hfcompress.space import SpaceExplained

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.hub import Pushed, PushPlan

__all__ = ["plan_publication", "publish"]


def publish(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload a folder in one commit, to a repository that is made when it does not exist.

    The report and the card of an artifact name the repository from then on.

    Args:
        folder: The artifact of a run, or the result of a step function.
        repo: `owner/name`; the owner is the user where none is named.
        private: Whether a new repository is private.
        create_pr: Open a pull request instead of committing to the branch.
        revision: Branch to commit to; it is made when it does not exist.
        message: Message of the commit; by default it names the source's commit and the recipe's hash.

    Raises:
        UsageError: The repository's name can be none; it is the repository that the artifact was made from, and no
            pull request is asked for; a pull request is asked for against a branch other than the main one; what
            everybody can read holds an access token; or the report and the card cannot be written.
        PushError: The Hub refused or could not be reached, or holds other bytes than were sent.
        CheckpointError: There is no such folder, its report cannot be read, it holds a symbolic link, or a file is not
            what its `SHA256SUMS` tells.
        SpaceError: The disk is full where the report and the card are to be written.
    """
    repo = _checked(folder, repo, create_pr=create_pr, revision=revision, message=message)
    if _is_artifact(folder):
        try:
            with SpaceExplained():
                name_repository(folder, repo)
        except OSError as error:
            msg = (
                f"{folder} cannot be written: {error.strerror}; its report and card are to name {repo}: push a copy "
                "of the folder that you may write"
            )
            raise UsageError(msg) from error
    return push_folder(folder, repo, private=private, create_pr=create_pr, revision=revision, message=message)


def plan_publication(
    folder: Path, repo: str, *, create_pr: bool = False, revision: str | None = None, message: str | None = None
) -> PushPlan:
    """Say what `publish` would do, with its arguments, and change nothing.

    Raises:
        UsageError: The push would be refused.
        PushError: The Hub refused or could not be reached.
        CheckpointError: The folder would be refused.
    """
    repo = _checked(folder, repo, create_pr=create_pr, revision=revision, message=message)
    with named_for(folder, repo) if _is_artifact(folder) else nullcontext(folder) as named:
        return plan_push(named, repo, create_pr=create_pr, revision=revision, message=message)


def _is_artifact(folder: Path) -> bool:
    return (folder / FILE_NAME).is_file()


def _checked(folder: Path, repo: str, *, create_pr: bool, revision: str | None, message: str | None) -> str:
    """Return `owner/name` of a repository that a folder may be pushed to; what is known here is looked at first."""
    for what, text in (("repository", repo), ("branch", revision), ("message of the commit", message)):
        if text is not None and holds_token(text):
            msg = f"the {what} holds what looks like an access token, and everybody can read it; expected other words"
            raise UsageError(msg)
    if not is_repo_id(repo):
        msg = f"got {repo!r}, expected the name of a Hub repository, as in owner/name"
        raise UsageError(msg)
    if create_pr and revision not in (None, "main"):
        msg = f"a pull request goes to the main branch of {repo}; drop --revision {revision}, or drop --pr"
        raise UsageError(msg)
    _require_whole(folder)
    repo = full_name(repo)
    if _is_artifact(folder) and not create_pr:
        source = Report.load(folder).source
        if source.on_hub and source.id.lower() == repo.lower():
            msg = (
                f"{repo} is the repository that the artifact was made from: a push would replace its card and weights; "
                "open a pull request with --pr (create_pr: true in a recipe), or push to another repository"
            )
            raise UsageError(msg)
    return repo


def _require_whole(folder: Path) -> None:
    """Make sure that what is written and pushed lies in the folder itself, and is what hfcompress wrote.

    Raises:
        CheckpointError: There is no folder, a file or folder in it is a symbolic link, or a file has changed.
    """
    if not folder.is_dir():
        msg = f"there is no folder {folder} to push"
        raise CheckpointError(msg)
    for file in sorted(folder.rglob("*")):
        if file.is_symlink():
            msg = (
                f"{file} is a symbolic link, and what it leads to would be changed or published; expected plain files "
                f"alone: make a copy of the folder with `cp -rL`"
            )
            raise CheckpointError(msg)
    verify_folder(folder)
