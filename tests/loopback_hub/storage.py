"""The storage host: large files, by signed link only. It refuses tokens and wrong digests."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .access import REPO_TYPES, parameter
from .errors import HubError
from .links import Links
from .store import Repository, RepoType, Store


class Storage:
    """Routes of the storage host."""

    def __init__(self, store: Store, links: Links, parts: Path) -> None:
        """Parts of unfinished uploads are kept under `parts`."""
        self._store = store
        self._links = links
        self._parts = parts

    def routes(self) -> list[Route]:
        """All routes of this file."""
        content = "/storage/{kind:kind}/{namespace}/{name}/{sha256}"
        return [
            Route(content, self.get, methods=["GET", "HEAD"]),
            Route(content, self.put, methods=["PUT"]),
            Route(f"{content}/parts/{{number:int}}", self.put_part, methods=["PUT"]),
            Route(f"{content}/complete", self.complete, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """The content, or a range of it."""
        self._links.check(request)
        sha256 = parameter(request, "sha256")
        return FileResponse(self._store.blob_path(sha256), headers={"ETag": f'"{sha256}"'})

    async def put(self, request: Request) -> Response:
        """Takes a whole file; 400 unless it has the digest that the link is for."""
        self._links.check(request)
        self._keep(request, await request.body())
        return Response(headers={"ETag": f'"{parameter(request, "sha256")}"'})

    async def put_part(self, request: Request) -> Response:
        """Takes one part of a file."""
        self._links.check(request)
        content = await request.body()
        path = self._part(request, request.path_params["number"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return Response(headers={"ETag": _part_etag(content)})

    async def complete(self, request: Request) -> Response:
        """Joins the parts; 400 unless their ETags and the digest of the whole are right."""
        self._links.check(request)
        whole = b""
        for part in (await request.json())["parts"]:
            path = self._part(request, part["partNumber"])
            content = path.read_bytes() if path.exists() else b""
            if part["etag"] != _part_etag(content):
                raise HubError(400, f"Part {part['partNumber']} is missing or has another ETag")
            whole += content
        self._keep(request, whole)
        return JSONResponse({"success": True})

    def _keep(self, request: Request, content: bytes) -> None:
        expected = parameter(request, "sha256")
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise HubError(400, f"The sha-256 of the content is {actual}, expected {expected}")
        kind = REPO_TYPES[request.path_params["kind"]]
        repo_id = f"{parameter(request, 'namespace')}/{parameter(request, 'name')}"
        self._store.put_blob(content)
        self._store.mark_uploaded(self._repository(kind, repo_id), expected)

    def _repository(self, kind: RepoType, repo_id: str) -> Repository:
        repo = self._store.find(kind, repo_id)
        if repo is None:
            raise HubError(404, "The repository was deleted during the upload", code="RepoNotFound")
        return repo

    def _part(self, request: Request, number: int) -> Path:
        return self._parts / parameter(request, "sha256") / f"{number:05}"


def _part_etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
