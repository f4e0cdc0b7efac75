"""Routes that change files: preupload, the LFS batch, and the commit."""

import base64
import json
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .access import Gatekeeper, Token, parameter
from .errors import HubError
from .links import Links
from .repositories import REPO
from .store import MAIN, Commit, Repository, Store, StoredFile, is_large

OBJECTS = "{namespace}/{name}.git/info/lfs/objects"


class Uploads:
    """Routes that lead to a commit."""

    def __init__(
        self, store: Store, gate: Gatekeeper, endpoint: str, storage: Links, part_size_bytes: int | None
    ) -> None:
        """Large files over `part_size_bytes` are asked for in parts; None never asks for parts."""
        self._store = store
        self._gate = gate
        self._endpoint = endpoint
        self._storage = storage
        self._part_size_bytes = part_size_bytes
        self.spoiled: set[str] = set()
        """Paths whose content the next commit that holds them is to lose."""

    def routes(self) -> list[Route]:
        """All routes of this file."""
        return [
            Route(f"{REPO}/preupload/{{revision}}", self.preupload, methods=["POST"]),
            Route(f"{REPO}/commit/{{revision}}", self.commit, methods=["POST"]),
            *(
                Route(f"{prefix}{OBJECTS}/{action}", answer, methods=["POST"])
                for prefix in ("/", "/{kind:kind}/")
                for action, answer in (("batch", self.batch), ("verify", self.verify))
            ),
        ]

    async def preupload(self, request: Request) -> Response:
        """How each file is to be sent, and the identity of what is there, so that the same is not sent again."""
        repo, _ = self._gate.writable(request)
        files = self._store.resolve(repo, parameter(request, "revision")).files

        def answer(path: str, size_bytes: int) -> dict[str, Any]:
            mode = "lfs" if is_large(path, size_bytes) else "regular"
            known = {"oid": files[path].etag} if path in files else {}
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, **known}

        asked = (await request.json())["files"]
        return JSONResponse({"files": [answer(item["path"], item["size"]) for item in asked]})

    async def batch(self, request: Request) -> Response:
        """Where to send each large file; no action for one that this repository has."""
        repo, _ = self._gate.writable(request)
        body = await request.json()
        objects = [self._upload(repo, item["oid"], item["size"]) for item in body["objects"]]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def verify(self, request: Request) -> Response:
        """Whether a large file arrived."""
        repo, _ = self._gate.writable(request)
        body = await request.json()
        self._uploaded(repo, body["oid"], body["size"])
        return JSONResponse({"success": True})

    async def commit(self, request: Request) -> Response:
        """Makes a commit on a branch, or on a new pull request."""
        repo, token = self._gate.writable(request)
        parent = self._store.resolve(repo, parameter(request, "revision"))
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
        header = next(line["value"] for line in lines if line["key"] == "header")
        self._check_parent(parent, header.get("parentCommit"))
        files = self._changed(repo, parent, (line for line in lines if line["key"] != "header"))
        for path in self.spoiled & files.keys():
            files[path] = self._store.file_of(path, b"spoiled")
            self.spoiled.remove(path)
        if request.query_params.get("create_pr") == "1":
            reference = self._next_pull_request(repo)
        else:
            reference = self._branch(repo, parameter(request, "revision"))
        return self._answer(repo, token, parent, files, header, reference=reference)

    def _answer(
        self,
        repo: Repository,
        token: Token,
        parent: Commit,
        files: dict[str, StoredFile],
        header: dict[str, str],
        *,
        reference: str,
    ) -> Response:
        title, description = header["summary"], header.get("description", "")
        commit = self._store.commit(
            repo, reference, parent.oid, files, title=title, description=description, author=token.user
        )
        page = f"{self._endpoint}/{repo.page}"
        body = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}", "hookOutput": ""}
        if reference.startswith("refs/pr/"):
            body["pullRequestUrl"] = f"{page}/discussions/{reference.removeprefix('refs/pr/')}"
        return JSONResponse(body)

    def _changed(self, repo: Repository, parent: Commit, operations: Iterable[dict[str, Any]]) -> dict[str, StoredFile]:
        """The files of `parent` after the operations of a commit."""
        files = dict(parent.files)
        for operation in operations:
            value = operation["value"]
            path: str = value["path"]
            match operation["key"]:
                case "file":
                    content = base64.b64decode(value["content"])
                    if is_large(path, len(content)):
                        raise HubError(400, f"{path} must be uploaded as a large file")
                    files[path] = self._store.file_of(path, content)
                case "lfsFile":
                    files[path] = self._uploaded(repo, value["oid"], value.get("size"))
                case "deletedFile" | "deletedFolder":
                    prefix = f"{path.rstrip('/')}/"
                    is_folder = operation["key"] == "deletedFolder"
                    gone = [name for name in files if (name.startswith(prefix) if is_folder else name == path)]
                    if not gone:
                        message = f"A file with this name doesn't exist: {path}"
                        raise HubError(404, message, code="EntryNotFound", commit=parent.oid)
                    for name in gone:
                        del files[name]
                case unknown:
                    raise HubError(400, f"Unknown operation in a commit: {unknown}")
        return files

    def _upload(self, repo: Repository, sha256: str, size_bytes: int) -> dict[str, Any]:
        """One object of the answer to a batch."""
        answer: dict[str, Any] = {"oid": sha256, "size": size_bytes}
        if self._store.is_uploaded(repo, sha256):
            return answer
        content = f"/storage/{repo.repo_type}s/{repo.repo_id}/{sha256}"
        upload: dict[str, Any] = {"href": self._storage.sign("PUT", content)}
        if self._part_size_bytes is not None and size_bytes > self._part_size_bytes:
            count = -(-size_bytes // self._part_size_bytes)
            parts = {f"{n:05}": self._storage.sign("PUT", f"{content}/parts/{n}") for n in range(1, count + 1)}
            upload = {
                "href": self._storage.sign("POST", f"{content}/complete"),
                "header": {"chunk_size": str(self._part_size_bytes), **parts},
            }
        verify = {"href": f"{self._endpoint}/{repo.page}.git/info/lfs/objects/verify"}
        return {**answer, "authenticated": True, "actions": {"upload": upload, "verify": verify}}

    def _uploaded(self, repo: Repository, sha256: str, size_bytes: int | None) -> StoredFile:
        """The large file; 400 when it did not arrive, or has another size (a copied file comes without one)."""
        if not self._store.is_uploaded(repo, sha256):
            raise HubError(400, f"Large file {sha256} was not uploaded to {repo.repo_id}")
        file = self._store.large_file(sha256)
        if size_bytes not in (None, file.size_bytes):
            raise HubError(400, f"Large file {sha256} has {file.size_bytes} bytes, expected {size_bytes}")
        return file

    def _branch(self, repo: Repository, revision: str) -> str:
        """The reference that a commit moves: a branch or an open pull request, never a tag or an oid."""
        references = self._store.references(repo)
        for name in (revision, f"refs/heads/{revision}"):
            if name in references and not name.startswith("refs/tags/"):
                return name
        raise HubError(400, f"Not a branch: {revision}. Expected one such as {MAIN}")

    def _next_pull_request(self, repo: Repository) -> str:
        names = [name for name in self._store.references(repo) if name.startswith("refs/pr/")]
        return f"refs/pr/{len(names) + 1}"

    @staticmethod
    def _check_parent(parent: Commit, expected: str | None) -> None:
        if expected is not None and not parent.oid.startswith(expected):
            raise HubError(412, f"A commit has happened since: the parent is {parent.oid}, not {expected}")
