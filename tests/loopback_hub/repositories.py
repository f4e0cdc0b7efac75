"""Routes about a repository as a whole: who am I, create, delete, settings, what it is, its references."""

import json
from dataclasses import replace
from typing import Any, cast

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import card
from .access import Gatekeeper, parameter
from .errors import HubError
from .store import Commit, Repository, RepoType, Store, StoredFile, now

REPO = "/api/{kind:kind}/{namespace}/{name}"


class Repositories:
    """Routes that create, describe and remove repositories, branches and tags."""

    def __init__(self, store: Store, gate: Gatekeeper, endpoint: str) -> None:
        """Answers from `store`, with URLs under `endpoint`."""
        self._store = store
        self._gate = gate
        self._endpoint = endpoint
        self.claimed: dict[str, int] = {}
        """Path → size in bytes that its file is described with, whatever it is."""

    def routes(self) -> list[Route]:
        """All routes of this file."""
        return [
            Route("/api/whoami-v2", self.whoami, methods=["GET"]),
            Route("/api/validate-yaml", self.validate_yaml, methods=["POST"]),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/repos/delete", self.delete, methods=["DELETE"]),
            Route(REPO, self.info, methods=["GET"]),
            Route(f"{REPO}/revision/{{revision}}", self.info, methods=["GET"]),
            Route("/api/{kind:kind}/{name}", self.info, methods=["GET"]),
            Route("/api/{kind:kind}/{name}/revision/{revision}", self.info, methods=["GET"]),
            Route(f"{REPO}/settings", self.settings, methods=["PUT"]),
            Route(f"{REPO}/auth-check", self.check_read, methods=["GET"]),
            Route(f"{REPO}/auth-check/write", self.check_write, methods=["GET"]),
            Route(f"{REPO}/refs", self.references, methods=["GET"]),
            Route(f"{REPO}/branch/{{branch}}", self.create_branch, methods=["POST"]),
            Route(f"{REPO}/branch/{{branch}}", self.delete_branch, methods=["DELETE"]),
            Route(f"{REPO}/tag/{{revision}}", self.create_tag, methods=["POST"]),
            Route(f"{REPO}/tag/{{revision}}", self.delete_tag, methods=["DELETE"]),
        ]

    async def whoami(self, request: Request) -> Response:
        """The user behind the token."""
        token = self._gate.user(request)
        return JSONResponse(
            {
                "type": "user",
                "id": token.user,
                "name": token.user,
                "fullname": token.user,
                "isPro": False,
                "orgs": [{"type": "org", "name": name, "fullname": name} for name in token.organizations],
                "auth": {"type": "access_token", "accessToken": {"displayName": "loopback", "role": token.role}},
            }
        )

    async def validate_yaml(self, request: Request) -> Response:
        """What is wrong with the head of a card."""
        errors, warnings = card.problems((await request.json())["content"])
        body = {
            "errors": [{"message": message} for message in errors],
            "warnings": [{"message": message} for message in warnings],
        }
        return JSONResponse(body, status_code=400 if errors else 200)

    async def create(self, request: Request) -> Response:
        """Creates a repository; 409, with the same URL, when it exists."""
        fields = await request.json()
        repo_type, repo_id = self._named(request, fields)
        self._gate.writer(request, repo_id.split("/")[0])
        existing = self._store.find(repo_type, repo_id)
        private = fields.get("private", False) or fields.get("visibility") == "private"
        repo = existing or Repository(repo_id, repo_type, private, gated=False, admitted=(), created_at=now())
        body = {"url": f"{self._endpoint}/{repo.page}", "name": repo_id, "id": repo_id}
        if existing is not None:
            message = f"You already created this {repo_type} repo: {repo_id}"
            return JSONResponse({**body, "error": message}, status_code=409, headers={"X-Error-Message": message})
        self._store.create(repo)
        return JSONResponse(body)

    async def delete(self, request: Request) -> Response:
        """Deletes a repository."""
        repo_type, repo_id = self._named(request, await request.json())
        repo = self._gate.visible_named(request, repo_type, repo_id)
        self._gate.writer(request, repo.namespace)
        self._store.delete(repo)
        return Response("OK")

    async def settings(self, request: Request) -> Response:
        """Changes who may see a repository."""
        repo, _ = self._gate.writable(request)
        fields = await request.json()
        if "visibility" in fields:
            repo = replace(repo, private=fields["visibility"] == "private")
        if "private" in fields:
            repo = replace(repo, private=fields["private"])
        if "gated" in fields:
            repo = replace(repo, gated=fields["gated"])
        self._store.save(repo)
        return JSONResponse({"private": repo.private, "gated": repo.gated})

    async def check_read(self, request: Request) -> Response:
        """Whether the files may be read."""
        self._gate.readable(request)
        return JSONResponse({"ok": True})

    async def check_write(self, request: Request) -> Response:
        """Whether the files may be written."""
        self._gate.writable(request)
        return JSONResponse({"ok": True})

    async def info(self, request: Request) -> Response:
        """What the repository is at a revision. A gate hides files, not this."""
        repo = self._gate.visible(request)
        revision = parameter(request, "revision") if "revision" in request.path_params else "main"
        commit = self._store.resolve(repo, revision)
        query = request.query_params
        body = self._describe(repo, commit, with_blobs=query.get("blobs", "").lower() in ("1", "true"))
        expand = query.getlist("expand") + query.getlist("expand[]")
        return JSONResponse({key: body[key] for key in ("id", *expand) if key in body} if expand else body)

    async def references(self, request: Request) -> Response:
        """Branches, tags and, on demand, pull requests."""
        repo = self._gate.visible(request)
        references = self._store.references(repo)

        def under(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": name.removeprefix(prefix), "ref": name, "targetCommit": oid}
                for name, oid in references.items()
                if name.startswith(prefix)
            ]

        body = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": under("refs/convert/")}
        if "include_prs" in request.query_params:
            body["pullRequests"] = under("refs/pr/")
        return JSONResponse(body)

    async def create_branch(self, request: Request) -> Response:
        """A branch, from another revision or from main."""
        repo, _ = self._gate.writable(request)
        fields = await request.json()
        name = f"refs/heads/{parameter(request, 'branch')}"
        return self._add_reference(repo, name, fields.get("startingPoint", "main"))

    async def create_tag(self, request: Request) -> Response:
        """A tag on a revision."""
        repo, _ = self._gate.writable(request)
        name = f"refs/tags/{(await request.json())['tag']}"
        return self._add_reference(repo, name, parameter(request, "revision"))

    async def delete_branch(self, request: Request) -> Response:
        """Removes a branch, but for main."""
        repo, _ = self._gate.writable(request)
        branch = parameter(request, "branch")
        if branch == "main":
            raise HubError(403, "The main branch cannot be deleted")
        return self._remove_reference(repo, f"refs/heads/{branch}")

    async def delete_tag(self, request: Request) -> Response:
        """Removes a tag."""
        repo, _ = self._gate.writable(request)
        return self._remove_reference(repo, f"refs/tags/{parameter(request, 'revision')}")

    def _add_reference(self, repo: Repository, name: str, revision: str) -> Response:
        if name in self._store.references(repo):
            raise HubError(409, f"Reference already exists: {name}")
        self._store.move_reference(repo, name, self._store.resolve(repo, revision).oid)
        return Response("OK")

    def _remove_reference(self, repo: Repository, name: str) -> Response:
        if name not in self._store.references(repo):
            raise HubError(404, f"Invalid rev id: {name}", code="RevisionNotFound")
        self._store.move_reference(repo, name, None)
        return Response("OK")

    def _named(self, request: Request, fields: dict[str, Any]) -> tuple[RepoType, str]:
        """The repository that a body names; without an organization it is the user's own."""
        namespace = fields.get("organization") or self._gate.user(request).user
        return cast("RepoType", fields.get("type", "model")), f"{namespace}/{fields['name']}"

    def _describe(self, repo: Repository, commit: Commit, *, with_blobs: bool) -> dict[str, Any]:
        head = self._card_metadata(commit)
        body = {
            "_id": commit.oid[:24],
            "id": repo.repo_id,
            "author": repo.namespace,
            "sha": commit.oid,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "createdAt": repo.created_at,
            "lastModified": commit.date,
            "downloads": 0,
            "likes": 0,
            "tags": card.tags(head, list(commit.files)),
            "cardData": head,
            "usedStorage": sum(file.size_bytes for file in commit.files.values()),
            "siblings": [
                {"rfilename": path, **(self._blob(path, file) if with_blobs else {})}
                for path, file in commit.files.items()
            ],
        }
        if repo.repo_type == "model":
            body |= {"modelId": repo.repo_id, "config": self._config(commit)}
            body |= {key: head[key] for key in ("library_name", "pipeline_tag", "model-index") if key in head}
        return body

    def _card_metadata(self, commit: Commit) -> dict[str, Any]:
        """The head of the README at `commit`, {} when it has none that can be read."""
        if "README.md" not in commit.files:
            return {}
        text = self._store.blob_path(commit.files["README.md"].sha256).read_text(encoding="utf-8")
        try:
            head = card.metadata(text)
        except yaml.YAMLError:
            return {}
        # YAML has dates, JSON has none.
        return cast("dict[str, Any]", json.loads(json.dumps(head, default=str))) if isinstance(head, dict) else {}

    def _config(self, commit: Commit) -> dict[str, Any]:
        """The part of config.json that the Hub shows."""
        if "config.json" not in commit.files:
            return {}
        config = json.loads(self._store.blob_path(commit.files["config.json"].sha256).read_bytes())
        return {key: config[key] for key in ("architectures", "model_type") if key in config}

    def _blob(self, path: str, file: StoredFile) -> dict[str, Any]:
        size_bytes = self.claimed.get(path, file.size_bytes)
        blob: dict[str, Any] = {"size": size_bytes, "blobId": file.git_oid}
        if file.large:
            blob["lfs"] = {"sha256": file.sha256, "size": size_bytes, "pointerSize": file.pointer_size_bytes}
        return blob
