"""Routes about what a revision holds: tree, named paths, history, pull requests."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .access import Gatekeeper, parameter
from .errors import HubError
from .repositories import REPO
from .store import Commit, Repository, Store

EXPANDED_PAGE_SIZE = 50
Item = TypeVar("Item")


class Contents:
    """Routes that list files and commits."""

    def __init__(self, store: Store, gate: Gatekeeper, endpoint: str, page_size: int) -> None:
        """Answers from `store`, at most `page_size` entries at a time."""
        self._store = store
        self._gate = gate
        self._endpoint = endpoint
        self._page_size = page_size

    def routes(self) -> list[Route]:
        """All routes of this file."""
        return [
            Route(f"{REPO}/tree/{{revision}}", self.tree, methods=["GET"]),
            Route(f"{REPO}/tree/{{revision}}/{{path:path}}", self.tree, methods=["GET"]),
            Route(f"{REPO}/paths-info/{{revision}}", self.paths_info, methods=["POST"]),
            Route(f"{REPO}/commits/{{revision}}", self.commits, methods=["GET"]),
            Route(f"{REPO}/discussions", self.pull_requests, methods=["GET"]),
            Route(f"{REPO}/discussions/{{number:int}}", self.pull_request, methods=["GET"]),
        ]

    async def tree(self, request: Request) -> Response:
        """Files and folders under a path, by pages."""
        repo = self._gate.visible(request)
        commit = self._store.resolve(repo, parameter(request, "revision"))
        folder = parameter(request, "path").strip("/") if "path" in request.path_params else ""
        prefix = f"{folder}/" if folder else ""
        expand = _is_true(request.query_params.get("expand"))
        found = [path for path in _with_folders(commit) if path.startswith(prefix)]
        if not found and folder:
            message = f'"{folder}" does not exist on "{parameter(request, "revision")}"'
            raise HubError(404, message, code="EntryNotFound", commit=commit.oid)
        if not _is_true(request.query_params.get("recursive")):
            found = [path for path in found if "/" not in path.removeprefix(prefix)]
        page, headers = self._page(request, found, EXPANDED_PAGE_SIZE if expand else self._page_size)
        return JSONResponse([self._entry(repo, commit, path, expand=expand) for path in page], headers=headers)

    async def paths_info(self, request: Request) -> Response:
        """The entries for named paths; what does not exist is left out."""
        repo = self._gate.visible(request)
        commit = self._store.resolve(repo, parameter(request, "revision"))
        form = parse_qs((await request.body()).decode())
        expand = _is_true(form.get("expand", [""])[0])
        known = set(_with_folders(commit))
        paths = [path.strip("/") for path in form.get("paths", [])]
        return JSONResponse([self._entry(repo, commit, path, expand=expand) for path in paths if path in known])

    async def commits(self, request: Request) -> Response:
        """The history of a revision, newest first."""
        repo = self._gate.visible(request)
        commit = self._store.resolve(repo, parameter(request, "revision"))
        page, headers = self._page(request, self._store.history(repo, commit), self._page_size)
        body = [
            {
                "id": item.oid,
                "title": item.title,
                "message": item.description,
                "authors": [{"user": item.author}],
                "date": item.date,
            }
            for item in page
        ]
        return JSONResponse(body, headers=headers)

    async def pull_requests(self, request: Request) -> Response:
        """Pull requests, all of them open: this Hub neither merges nor closes."""
        repo = self._gate.visible(request)
        author = request.query_params.get("author")
        wanted = request.query_params.get("type") in (None, "all", "pull_request")
        wanted = wanted and request.query_params.get("status") in (None, "all", "open")
        found = [item for item in self._open_requests(repo) if author in (None, item["author"]["name"])]
        discussions = found if wanted else []
        return JSONResponse({"discussions": discussions, "count": len(discussions), "start": 0})

    async def pull_request(self, request: Request) -> Response:
        """One pull request."""
        repo = self._gate.visible(request)
        number = request.path_params["number"]
        for item in self._open_requests(repo):
            if item["num"] == number:
                details = {"events": [], "filesWithConflicts": [], "changes": {"base": "refs/heads/main"}}
                return JSONResponse({**item, **details})
        raise HubError(404, f"Discussion {number} not found")

    def _open_requests(self, repo: Repository) -> list[dict[str, Any]]:
        """Newest first, as the Hub lists them."""
        numbered = [
            (int(name.removeprefix("refs/pr/")), self._store.load_commit(repo, oid))
            for name, oid in self._store.references(repo).items()
            if name.startswith("refs/pr/")
        ]
        return [
            {
                "num": number,
                "title": commit.title,
                "author": {"name": commit.author},
                "createdAt": commit.date,
                "status": "open",
                "isPullRequest": True,
                "repo": {"name": repo.repo_id, "type": repo.repo_type},
            }
            for number, commit in sorted(numbered, key=lambda item: -item[0])
        ]

    def _page(self, request: Request, items: Sequence[Item], page_size: int) -> tuple[Sequence[Item], dict[str, str]]:
        """The page that the request asks for, and the header that leads to the next."""
        start = int(request.query_params.get("cursor", "0"))
        end = start + page_size
        if end >= len(items):
            return items[start:], {}
        query = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        url = f"{self._endpoint}{request.scope['path']}?{urlencode([*query, ('cursor', str(end))])}"
        return items[start:end], {"Link": f'<{url}>; rel="next"'}

    def _entry(self, repo: Repository, commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
        file = commit.files.get(path)
        entry: dict[str, Any]
        if file is None:
            oid = hashlib.sha1(f"{commit.oid}/{path}".encode(), usedforsecurity=False).hexdigest()
            entry = {"type": "directory", "oid": oid, "size": 0, "path": path}
        else:
            entry = {"type": "file", "oid": file.git_oid, "size": file.size_bytes, "path": path}
            if file.large:
                pointer_size = file.pointer_size_bytes
                entry["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": pointer_size}
        if expand:
            last = self._last_change(repo, commit, path)
            entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
            if file is not None:
                entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
        return entry

    def _last_change(self, repo: Repository, commit: Commit, path: str) -> Commit:
        """The newest commit, from `commit` back, that touched a file or what is under a folder."""
        history = self._store.history(repo, commit)
        for newer, older in pairwise(history):
            if _below(newer, path) != _below(older, path):
                return newer
        return history[-1]


def _below(commit: Commit, path: str) -> dict[str, str]:
    return {name: file.sha256 for name, file in commit.files.items() if name == path or name.startswith(f"{path}/")}


def _with_folders(commit: Commit) -> list[str]:
    """All files and the folders above them, sorted."""
    folders = {path.rsplit("/", depth)[0] for path in commit.files for depth in range(1, path.count("/") + 1)}
    return sorted({*commit.files, *folders})


def _is_true(value: str | None) -> bool:
    return value is not None and value.lower() in ("1", "true")
