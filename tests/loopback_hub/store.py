"""Repositories on disk: content-addressed blobs, commits as JSON, references by full git name.

    blobs/<sha-256>
    models/<namespace>--<name>/repository.json    who may see it
    models/<namespace>--<name>/references.json    {"refs/heads/main": oid, ...}
    models/<namespace>--<name>/commits/<oid>.json a snapshot: path -> file
    models/<namespace>--<name>/objects/<sha-256>  empty: the large file was uploaded to this repository

Every file is written in one step, so a killed server leaves a store that another can serve.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from .errors import HubError

RepoType = Literal["model", "dataset", "space"]
Gated = Literal["auto", "manual", False]

MAIN = "refs/heads/main"
LARGE_SUFFIXES = frozenset(
    {".arrow", ".bin", ".gguf", ".npy", ".npz", ".onnx", ".onnx_data", ".parquet", ".pt", ".pth", ".safetensors"}
)
LARGE_SIZE_BYTES = 10 * 1024**2
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LARGE_SUFFIXES))


def is_large(path: str, size_bytes: int) -> bool:
    """Whether a file of this name and size is kept as a large file (LFS) and not as a regular git blob."""
    return size_bytes > 0 and (Path(path).suffix.lower() in LARGE_SUFFIXES or size_bytes >= LARGE_SIZE_BYTES)


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit."""

    sha256: str
    size_bytes: int
    git_oid: str
    """Sha-1 of the git blob; for a large file, of its pointer."""
    large: bool

    @property
    def etag(self) -> str:
        """What the client takes as the file's identity."""
        return self.sha256 if self.large else self.git_oid

    @property
    def pointer_size_bytes(self) -> int:
        """Length of the text that git holds in place of a large file."""
        return len(lfs_pointer(self.sha256, self.size_bytes))


@dataclass(frozen=True)
class Commit:
    """One snapshot of a repository."""

    oid: str
    parent: str | None
    title: str
    description: str
    author: str
    date: str
    files: Mapping[str, StoredFile]


@dataclass(frozen=True)
class Repository:
    """A repository and who may see it."""

    repo_id: str
    repo_type: RepoType
    private: bool
    gated: Gated
    admitted: tuple[str, ...]
    """Users who may read the files of a gated repository, besides its owners."""
    created_at: str

    @property
    def namespace(self) -> str:
        """The user or organization that owns it."""
        return self.repo_id.split("/")[0]

    @property
    def page(self) -> str:
        """Its path on the site: models have no prefix."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"


def lfs_pointer(sha256: str, size_bytes: int) -> bytes:
    """The text that git holds in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size_bytes}\n".encode()


def git_blob_oid(content: bytes) -> str:
    """Sha-1 that git gives to a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(tz=timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Store:
    """All repositories under one folder. Not for concurrent writers."""

    def __init__(self, root: Path) -> None:
        """Keeps everything under `root`, which is created."""
        self._root = root
        (root / "blobs").mkdir(parents=True, exist_ok=True)

    # Blobs

    def blob_path(self, sha256: str) -> Path:
        """Where the content with this digest is, or would be."""
        return self._root / "blobs" / sha256

    def put_blob(self, content: bytes) -> str:
        """Keeps `content` and returns its sha-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        _write(self.blob_path(sha256), content)
        return sha256

    def file_of(self, path: str, content: bytes) -> StoredFile:
        """Keeps `content` as the Hub would under this name."""
        sha256 = self.put_blob(content)
        if is_large(path, len(content)):
            return self.large_file(sha256)
        return StoredFile(sha256, len(content), git_blob_oid(content), large=False)

    def large_file(self, sha256: str) -> StoredFile:
        """The entry for a large file whose content is stored already."""
        size_bytes = self.blob_path(sha256).stat().st_size
        return StoredFile(sha256, size_bytes, git_blob_oid(lfs_pointer(sha256, size_bytes)), large=True)

    def mark_uploaded(self, repo: Repository, sha256: str) -> None:
        """Notes that the large file belongs to `repo`: what one repository holds, another must upload."""
        _write(self._folder(repo.repo_type, repo.repo_id) / "objects" / sha256, b"")

    def is_uploaded(self, repo: Repository, sha256: str) -> bool:
        """Whether a commit to `repo` may name this large file."""
        return (self._folder(repo.repo_type, repo.repo_id) / "objects" / sha256).exists()

    # Repositories

    def find(self, repo_type: RepoType, repo_id: str) -> Repository | None:
        """The repository, or None."""
        path = self._folder(repo_type, repo_id) / "repository.json"
        if not path.exists():
            return None
        fields = json.loads(path.read_bytes())
        return Repository(**{**fields, "admitted": tuple(fields["admitted"])})

    def create(self, repo: Repository) -> Commit:
        """Creates `repo` with the first commit that the Hub makes, which holds `.gitattributes`."""
        self.save(repo)
        self._save_references(repo, {})
        files = {".gitattributes": self.file_of(".gitattributes", GIT_ATTRIBUTES.encode())}
        return self.commit(repo, MAIN, None, files, title="initial commit", description="", author=repo.namespace)

    def save(self, repo: Repository) -> None:
        """Writes the settings of `repo`."""
        content = json.dumps(asdict(repo)).encode()
        _write(self._folder(repo.repo_type, repo.repo_id) / "repository.json", content)

    def admit(self, repo: Repository, user: str) -> None:
        """Lets `user` read the files of a gated `repo`."""
        self.save(replace(repo, admitted=(*repo.admitted, user)))

    def expel(self, repo: Repository, user: str) -> None:
        """Lets `user` no longer read the files of a gated `repo`."""
        self.save(replace(repo, admitted=tuple(name for name in repo.admitted if name != user)))

    def delete(self, repo: Repository) -> None:
        """Removes `repo`; its blobs stay."""
        shutil.rmtree(self._folder(repo.repo_type, repo.repo_id))

    # Commits

    def commit(
        self,
        repo: Repository,
        reference: str,
        parent: str | None,
        files: Mapping[str, StoredFile],
        *,
        title: str,
        description: str,
        author: str,
    ) -> Commit:
        """Adds a commit after `parent` and moves `reference` to it."""
        fields = {
            "parent": parent,
            "title": title,
            "description": description,
            "author": author,
            "date": now(),
            "files": {path: asdict(file) for path, file in sorted(files.items())},
        }
        oid = hashlib.sha1(json.dumps(fields).encode(), usedforsecurity=False).hexdigest()
        folder = self._folder(repo.repo_type, repo.repo_id)
        _write(folder / "commits" / f"{oid}.json", json.dumps({"oid": oid, **fields}).encode())
        self.move_reference(repo, reference, oid)
        return self.load_commit(repo, oid)

    def load_commit(self, repo: Repository, oid: str) -> Commit:
        """The commit with this full oid."""
        path = self._folder(repo.repo_type, repo.repo_id) / "commits" / f"{oid}.json"
        fields = json.loads(path.read_bytes())
        files = {path: StoredFile(**file) for path, file in fields.pop("files").items()}
        return Commit(files=files, **fields)

    def resolve(self, repo: Repository, revision: str) -> Commit:
        """The commit that a branch, tag, full reference or (shortened) oid names; 404 when there is none."""
        references = self.references(repo)
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in references:
                return self.load_commit(repo, references[name])
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            folder = self._folder(repo.repo_type, repo.repo_id) / "commits"
            found = list(folder.glob(f"{revision}*.json"))
            if len(found) == 1:
                return self.load_commit(repo, found[0].stem)
        raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def history(self, repo: Repository, commit: Commit) -> list[Commit]:
        """`commit` and all before it, newest first."""
        commits = [commit]
        while commits[-1].parent is not None:
            commits.append(self.load_commit(repo, commits[-1].parent))
        return commits

    # References

    def references(self, repo: Repository) -> dict[str, str]:
        """Full git name to oid."""
        path = self._folder(repo.repo_type, repo.repo_id) / "references.json"
        references: dict[str, str] = json.loads(path.read_bytes())
        return references

    def move_reference(self, repo: Repository, name: str, oid: str | None) -> None:
        """Points `name` to `oid`; None removes it."""
        references = self.references(repo)
        if oid is None:
            del references[name]
        else:
            references[name] = oid
        self._save_references(repo, references)

    def _save_references(self, repo: Repository, references: Mapping[str, str]) -> None:
        path = self._folder(repo.repo_type, repo.repo_id) / "references.json"
        _write(path, json.dumps(references).encode())

    def _folder(self, repo_type: RepoType, repo_id: str) -> Path:
        return self._root / f"{repo_type}s" / repo_id.replace("/", "--")


def _write(path: Path, content: bytes) -> None:
    """Writes a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
