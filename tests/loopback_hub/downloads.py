"""Routes that give files: regular ones from the API's host, large ones by a link to storage."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from .access import Gatekeeper, parameter
from .errors import HubError
from .links import Links
from .store import Commit, Repository, Store, StoredFile

READ = ["GET", "HEAD"]


class Downloads:
    """Routes that resolve a file of a revision."""

    def __init__(self, store: Store, gate: Gatekeeper, storage: Links) -> None:
        """Large files are given by links of `storage`."""
        self._store = store
        self._gate = gate
        self._storage = storage

    def routes(self) -> list[Route]:
        """All routes of this file."""
        resolve = "{namespace}/{name}/resolve/{revision}/{path:path}"
        cached = "/api/resolve-cache/{kind:kind}/{namespace}/{name}/{revision}/{path:path}"
        return [
            Route(cached, self.cached, methods=READ),
            Route(f"/{{kind:kind}}/{resolve}", self.resolve, methods=READ),
            Route(f"/{resolve}", self.resolve, methods=READ),
            Route("/{name}/resolve/{revision}/{path:path}", self.resolve, methods=READ),
        ]

    async def resolve(self, request: Request) -> Response:
        """A redirect to the content: relative for a regular file, to storage for a large one."""
        repo, commit, path, file = self._find(request)
        headers = {"X-Repo-Commit": commit.oid}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size_bytes)}
            link = self._storage.sign("GET", f"/storage/{repo.repo_type}s/{repo.repo_id}/{file.sha256}")
            return RedirectResponse(link, status_code=302, headers=headers)
        location = f"/api/resolve-cache/{repo.repo_type}s/{repo.repo_id}/{commit.oid}/{quote(path)}"
        return RedirectResponse(location, status_code=307, headers=headers)

    async def cached(self, request: Request) -> Response:
        """The content of a regular file."""
        _, commit, path, file = self._find(request)
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.git_oid}"'}
        return FileResponse(self._store.blob_path(file.sha256), headers=headers, filename=path.rsplit("/", 1)[-1])

    def _find(self, request: Request) -> tuple[Repository, Commit, str, StoredFile]:
        repo = self._gate.readable(request)
        commit = self._store.resolve(repo, parameter(request, "revision"))
        path = parameter(request, "path")
        if path not in commit.files:
            raise HubError(404, "Entry not found", code="EntryNotFound", commit=commit.oid)
        return repo, commit, path, commit.files[path]
