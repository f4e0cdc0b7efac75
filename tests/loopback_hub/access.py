"""Who may do what: tokens, and the errors that the Hub hides or shows repositories with."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import unquote

from starlette.requests import Request

from .errors import HubError
from .store import Repository, RepoType, Store

REPO_TYPES: dict[str, RepoType] = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class Token:
    """An access token of a user."""

    value: str
    user: str
    role: Literal["read", "write"]
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        """Whether the user is, or is a member of, `namespace`."""
        return namespace == self.user or namespace in self.organizations


OWNER = Token("hf_loopback_owner", "alice", "write", ("acme",))
"""May write to `alice/*` and `acme/*`."""
READER = Token("hf_loopback_reader", "alice", "read", ("acme",))
"""The same user, who may only read."""
MEMBER = Token("hf_loopback_member", "carol", "write", ("acme",))
"""Another member of `acme`."""
STRANGER = Token("hf_loopback_stranger", "mallory", "write")
"""A user who owns none of it."""


def parameter(request: Request, name: str) -> str:
    """A part of the path, decoded. Parts arrive quoted, for a revision may hold a slash."""
    return unquote(cast("str", request.path_params[name]))


class Gatekeeper:
    """Finds the repository of a request and refuses as the Hub does."""

    def __init__(self, store: Store, tokens: Iterable[Token]) -> None:
        """Knows `tokens` and no other."""
        self._store = store
        self._tokens = {token.value: token for token in tokens}

    def add(self, token: Token) -> None:
        """Makes `token` valid."""
        self._tokens[token.value] = token

    def token(self, request: Request) -> Token | None:
        """The token of the request, None without one; 401 when it is not valid."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        token = self._tokens.get(header.removeprefix("Bearer "))
        if token is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return token

    def user(self, request: Request) -> Token:
        """The token of the request; 401 without one."""
        token = self.token(request)
        if token is None:
            raise HubError(401, "Invalid username or password.")
        return token

    def writer(self, request: Request, namespace: str) -> Token:
        """The token of the request, which may write under `namespace`; 401 or 403 otherwise."""
        token = self.user(request)
        if token.role != "write":
            raise HubError(403, "This token has the role 'read': it cannot write")
        if not token.owns(namespace):
            raise HubError(403, f'You don\'t have the rights to write under the namespace "{namespace}"')
        return token

    def visible(self, request: Request) -> Repository:
        """The repository of the request. One that is private looks like one that does not exist."""
        kind = REPO_TYPES[request.path_params.get("kind", "models")]
        # A path without a namespace is one of a legacy name, such as `gpt2`.
        repo_id = "/".join(parameter(request, key) for key in ("namespace", "name") if key in request.path_params)
        return self.visible_named(request, kind, repo_id)

    def visible_named(self, request: Request, repo_type: RepoType, repo_id: str) -> Repository:
        """As `visible`, for a repository that the path does not name."""
        token = self.token(request)
        repo = self._store.find(repo_type, repo_id)
        if repo is not None and (not repo.private or (token is not None and token.owns(repo.namespace))):
            return repo
        if token is None:
            raise HubError(401, "Invalid username or password.", code="RepoNotFound")
        raise HubError(404, "Repository not found", code="RepoNotFound")

    def readable(self, request: Request) -> Repository:
        """The repository of the request, whose files may be read: visible, and the gate is passed."""
        repo = self.visible(request)
        token = self.token(request)
        if repo.gated is False or (token is not None and (token.owns(repo.namespace) or token.user in repo.admitted)):
            return repo
        if token is None:
            message = f"Access to {repo.repo_type} {repo.repo_id} is restricted. Please log in."
            raise HubError(401, message, code="GatedRepo")
        message = f"Access to {repo.repo_type} {repo.repo_id} is restricted and you are not in the authorized list."
        raise HubError(403, message, code="GatedRepo")

    def writable(self, request: Request) -> tuple[Repository, Token]:
        """The repository of the request, and the token that may write to it."""
        repo = self.visible(request)
        return repo, self.writer(request, repo.namespace)
