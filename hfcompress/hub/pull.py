"""What a name stands for on the Hub, and its files: fetched at one commit, and compared with what the Hub has."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, RepoCard, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined] # it is in its documentation

from hfcompress.checksums import file_digest
from hfcompress.errors import CheckpointError, HubError
from hfcompress.hub.conversion import conversion
from hfcompress.hub.descriptions import absent_bytes, described
from hfcompress.hub.explanations import explained
from hfcompress.hub.pickles import PICKLES, WEIGHTS, write_safetensors
from hfcompress.hub.references import keep_commit, keep_conversion, kept_commit, kept_conversion, storage
from hfcompress.hub.retries import repeated
from hfcompress.hub.verification import is_blob_intact
from hfcompress.remote_code import trust, wants_code
from hfcompress.space import require_space

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfcompress.hub.descriptions import RepoType
    from hfcompress.hub.verification import RemoteFile

__all__ = [
    "Source",
    "content_revision",
    "download_all",
    "download_weights",
    "drop_damaged",
    "missing_bytes",
    "resolve_dataset",
    "resolve_model",
]

_LIGHT = ["*.json", "*.txt", "*.model", "*.jinja", "README.md"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """A model that was looked up: its configuration is on disk, its weights need not be.

    Attributes:
        id: Hub id, or the folder's name.
        revision: Commit sha on the Hub, or the content fingerprint of a local folder.
        path: The folder that holds what has been downloaded.
        on_hub: Whether it came from the Hub.
        license: License that its card names; `license_name` and `license_link` describe one that is `other`.
        remote_code: Whether code that comes with it runs, as the recipe allows.
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
    remote_code: bool = False
    converted: str | None = None


def content_revision(folder: Path) -> str:
    """Return a fingerprint of everything in a folder: the SHA-256 over names and contents, in hexadecimal."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{file.relative_to(folder).as_posix()}\0{file_digest(file)}\n".encode())
    return total.hexdigest()


def resolve_model(name: str, revision: str, *, trust_remote_code: bool = False) -> Source:
    """Look a model up, resolve its revision to a commit, and fetch everything but the weights.

    A main branch that holds pickles and no safetensors stands for the open pull request in which the Hub's own
    converter offers them, if that was made from the branch as it is. In offline mode a revision stands for what it
    stood for when it was last asked for.

    Args:
        name: Hub id, or a folder; a relative one wins over a Hub id if it exists.
        revision: Branch, tag or commit; of no meaning for a folder.
        trust_remote_code: Whether the checkpoint's own code, which is then fetched too, may run in this process.

    Raises:
        HubError: The Hub refused or could not be reached, or gave other bytes than it describes.
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
        if trust_remote_code:
            trust(folder)
        own = trust_remote_code and wants_code(folder)
        return Source(folder.name, content_revision(folder), folder, on_hub=False, remote_code=own, **_license(folder))
    sha, converted = _commit_of(name, revision)
    folder = _fetched(name, sha, [*_LIGHT, *(["*.py"] if trust_remote_code else [])])
    if not (folder / "config.json").is_file():
        msg = f"the repository {name} holds no config.json, so it is not a transformers checkpoint"
        raise CheckpointError(msg)
    if trust_remote_code:
        trust(folder)
    own = trust_remote_code and wants_code(folder)
    return Source(name, sha, folder, on_hub=True, remote_code=own, converted=converted, **_license(folder))


def download_weights(source: Source, converted: Path | None = None) -> Path:
    """Return the folder with the weights in it, in safetensors, fetching them where they are not there yet.

    Args:
        source: The model.
        converted: Where weights may come from `pytorch_model.bin` if there are no safetensors: the folder, which does
            not exist yet, to which they are then written in safetensors.

    Raises:
        HubError: The Hub refused or could not be reached, or gave other bytes than it describes.
        CheckpointError: There are no weights that may be read.
        SpaceError: There is too little room for them.
    """
    fetching = f"download the weights of {source.id}"
    _fetch(source, WEIGHTS, fetching)
    if not _holds(source.path, WEIGHTS):
        if converted is not None:
            _fetch(source, PICKLES, fetching)
            if _holds(source.path, PICKLES):
                write_safetensors(source.path, converted)
                return converted
        where = f"the cache's copy of {source.id}" if source.on_hub and constants.HF_HUB_OFFLINE else source.id
        hint = "; unset HF_HUB_OFFLINE to fetch what is missing" if where != source.id else ""
        pickles = "" if converted is None else " or pytorch_model.bin"
        hint = hint or (
            ""
            if converted is not None
            else ": look on its page for a pull request that adds them, and name it with `revision: refs/pr/...`; or "
            "allow pytorch_model.bin with `allow_pickle: true` under the recipe's `model`"
        )
        msg = f"{where} holds no model.safetensors{pickles}; hfcompress loads nothing but safetensors{hint}"
        raise CheckpointError(msg)
    return source.path


def missing_bytes(source: Source, patterns: Sequence[str]) -> int:
    """Return how many bytes of files that match are still to be downloaded; in offline mode there are none to come.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    if not source.on_hub or constants.HF_HUB_OFFLINE:
        return 0
    files = filter_repo_objects(described(source.id, "model", source.revision), allow_patterns=[*patterns])
    return absent_bytes(source.id, "model", source.revision, files)


def download_all(source: Source) -> Path:
    """Return the folder with everything that the repository holds.

    Raises:
        HubError: The Hub refused or could not be reached, or gave other bytes than it describes.
        SpaceError: There is too little room for it.
    """
    _fetch(source, ["*"], f"download {source.id}")
    return source.path


def resolve_dataset(name: str, revision: str | None) -> str:
    """Return the commit that a dataset's revision stands for.

    In offline mode it is the one that the revision stood for when it was last asked for.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    return _resolved(name, "dataset", revision or "main")


def drop_damaged(name: str, sha: str) -> list[str]:
    """Remove every file of a dataset from the client's cache that is not what the Hub has, and return their paths.

    Args:
        name: Hub id of the dataset.
        sha: Its commit.

    Raises:
        HubError: The Hub refused or could not be reached.
    """
    snapshot = storage(name, "dataset") / "snapshots" / sha
    files = {file.relative_to(snapshot).as_posix(): file for file in snapshot.rglob("*") if file.is_file()}
    if constants.HF_HUB_OFFLINE:
        damaged = [path for path, file in files.items() if not is_blob_intact(file)]
    else:
        expected = described(name, "dataset", sha)
        damaged = [path for path, file in files.items() if path in expected and not expected[path].is_same(file)]
    for path in damaged:
        _remove(files[path])
    return damaged


def _commit_of(name: str, revision: str) -> tuple[str, str | None]:
    """Return the commit that a model's revision stands for, and the converter's pull request that it is of, if any."""
    if revision != "main":
        return _resolved(name, "model", revision), None
    if constants.HF_HUB_OFFLINE:
        with explained(f"model {name}", revision):  # a name that is none
            converted = kept_conversion(name)
        return _resolved(name, "model", converted or revision), converted
    sha = _asked(name, "model", revision)
    with explained(f"model {name}", revision):
        converted = conversion(HfApi(), name, sha, described(name, "model", sha))
    if converted is None:
        keep_commit(name, "model", revision, sha)
    else:
        sha = _resolved(name, "model", converted)
    keep_conversion(name, converted)
    return sha, converted


def _resolved(name: str, repo_type: RepoType, revision: str) -> str:
    """Return the commit of a revision, and keep it for offline mode, in which it is the one that was kept."""
    if not constants.HF_HUB_OFFLINE:
        sha = _asked(name, repo_type, revision)
        if sha != revision:
            keep_commit(name, repo_type, revision, sha)
        return sha
    if _COMMIT.fullmatch(revision):
        return revision
    what = f"{repo_type} {name}"
    with explained(what, revision):  # a name that is none
        kept = kept_commit(name, repo_type, revision)
    if kept is None:
        msg = (
            f"the {what} is not in the cache at {revision!r} and offline mode is on; "
            f"unset HF_HUB_OFFLINE, or run once without it"
        )
        raise HubError(msg)
    return kept


def _asked(name: str, repo_type: RepoType, revision: str) -> str:
    """Return the commit of a revision, as the Hub says now."""
    what = f"{repo_type} {name}"
    api = HfApi()
    with explained(what, revision):
        info = repeated(lambda: api.repo_info(name, repo_type=repo_type, revision=revision))
        if info.gated:  # the client and `datasets` fall back on their caches where the gate is shut
            repeated(lambda: api.auth_check(name, repo_type=repo_type))
    if info.sha is None:
        msg = f"the Hub names no commit of the {what} at {revision!r}; give the full sha as revision"
        raise HubError(msg)
    return str(info.sha)


def _fetch(source: Source, patterns: Sequence[str], doing: str) -> None:
    """Fetch what else a source of the Hub holds that matches, once there is room for it; of a folder, nothing."""
    if source.on_hub:
        require_space({source.path: missing_bytes(source, patterns)}, doing)
        _fetched(source.id, source.revision, [*_LIGHT, *patterns])


def _fetched(name: str, sha: str, patterns: list[str]) -> Path:
    """Return the client's folder of a model at a commit, with the files that match, each as the Hub describes it."""
    if constants.HF_HUB_OFFLINE:
        return _cached(name, sha, patterns)
    expected = described(name, "model", sha)
    wanted = list(filter_repo_objects(expected, allow_patterns=patterns))

    def download() -> Path:
        return Path(snapshot_download(name, revision=sha, allow_patterns=patterns))

    with explained(f"model {name}", sha):
        folder = repeated(download)
        damaged = _damaged(folder, [expected[path] for path in wanted])
        if damaged:
            for file in damaged:
                _remove(folder / file.path)
            repeated(download)
            damaged = _damaged(folder, damaged)
    if damaged:
        for file in damaged:
            _remove(folder / file.path)
        file = damaged[0]
        msg = (
            f"{file.path} of the model {name} came twice with other bytes than the Hub says ({_identity(file)}), so it "
            "was removed from the cache; check the network and HF_ENDPOINT, then try again"
        )
        raise HubError(msg)
    return folder


def _cached(name: str, sha: str, patterns: list[str]) -> Path:
    """Return the client's folder of a model without a question to the Hub."""
    try:
        folder = Path(snapshot_download(name, revision=sha, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError as error:
        msg = (
            f"the model {name} is not in the cache at {sha} and offline mode is on; unset HF_HUB_OFFLINE, "
            f"or run once without it"
        )
        raise HubError(msg) from error
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    for path in filter_repo_objects(sorted(files), allow_patterns=patterns):
        if not is_blob_intact(files[path]):
            msg = f"{path} of the model {name} is damaged in the cache; unset HF_HUB_OFFLINE, so that it comes again"
            raise HubError(msg)
    return folder


def _damaged(folder: Path, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    return [file for file in files if not file.is_same(folder / file.path)]


def _holds(folder: Path, patterns: Sequence[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _identity(file: RemoteFile) -> str:
    return f"sha-256 {file.sha256}" if file.sha256 is not None else f"git blob {file.blob_id}"


def _remove(file: Path) -> None:
    """Remove a file of the client's cache, the blob too that it points to."""
    blob = file.resolve()
    file.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _license(folder: Path) -> dict[str, str | None]:
    card = folder / "README.md"
    if not card.is_file():
        return {}
    try:
        data = RepoCard.load(card).data.to_dict()
    except ValueError:
        return {}
    return {key: str(data[key]) for key in ("license", "license_name", "license_link") if data.get(key)}
