"""The server object that tests hold: start and stop, seed, break, look inside."""

import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal

import uvicorn
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import Host, Router
from typing_extensions import Self

from .access import MEMBER, OWNER, READER, STRANGER, Gatekeeper, Token
from .contents import Contents
from .downloads import Downloads
from .errors import HubError, answer_hub_error
from .faults import (
    Corrupt,
    Delay,
    Disturbance,
    Drop,
    DroppableProtocol,
    Fault,
    LoggedRequest,
    LoseAnswer,
    Order,
    Refuse,
)
from .links import Links
from .repositories import Repositories
from .storage import Storage
from .store import MAIN, Commit, Gated, Repository, RepoType, Store, now
from .uploads import Uploads

API_HOST = "127.0.0.1"
STORAGE_HOST = "localhost"
TREE_PAGE_SIZE = 1000


class _KindConvertor(StringConvertor):
    regex = "models|datasets|spaces"


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class LoopbackHub:
    """A Hub in a thread of this process, on this machine only, as a context manager."""

    def __init__(
        self,
        root: Path,
        *,
        port: int = 0,
        tokens: Iterable[Token] = (OWNER, READER, MEMBER, STRANGER),
        part_size_bytes: int | None = None,
        page_size: int = TREE_PAGE_SIZE,
    ) -> None:
        """Prepares a Hub; `with` starts it.

        Args:
            root: Folder of the repositories. One that a Hub wrote before is served as it is.
            port: 0 takes a free one.
            tokens: Those that are valid; any other is refused.
            part_size_bytes: Large files above this size are uploaded in parts of it. None: never in parts.
            page_size: Most entries of a tree or a history in one answer.

        """
        self._socket = socket.create_server((API_HOST, port))
        self._port: int = self._socket.getsockname()[1]
        self._store = Store(root)
        self._gate = Gatekeeper(self._store, tokens)
        register_url_convertor("kind", _KindConvertor())
        self._disturbance = Disturbance(self._application(root / "parts", part_size_bytes, page_size))
        config = uvicorn.Config(
            self._disturbance, http=DroppableProtocol, lifespan="off", log_level="error", access_log=False, ws="none"
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="loopback-hub")

    def __enter__(self) -> Self:
        """Starts answering."""
        self._thread.start()
        self._server.ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops, without waiting for open connections."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join()
        self._socket.close()

    # Where it is

    @property
    def endpoint(self) -> str:
        """URL of the API, for `HF_ENDPOINT` or `HfApi(endpoint=...)`."""
        return f"http://{API_HOST}:{self._port}"

    @property
    def storage_endpoint(self) -> str:
        """URL of the host that keeps large files."""
        return f"http://{STORAGE_HOST}:{self._port}"

    def environment(self, home: Path, token: Token | None = OWNER) -> dict[str, str]:
        """Variables to set before a process imports `huggingface_hub`.

        Args:
            home: Fresh folder for caches and the stored token of the client.
            token: Sent with each request. None: anonymous, whatever the surrounding environment says.

        """
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_DATASETS_CACHE": str(home / "datasets"),
            "HF_TOKEN": "" if token is None else token.value,
            "HUGGING_FACE_HUB_TOKEN": "",
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": f"{API_HOST},{STORAGE_HOST}",
            "no_proxy": f"{API_HOST},{STORAGE_HOST}",
        }

    # Seed

    def add_repo(
        self,
        repo_id: str,
        folder: Path | None = None,
        *,
        repo_type: RepoType = "model",
        private: bool = False,
        gated: Gated = False,
        admitted: tuple[str, ...] = (),
    ) -> Commit:
        """Creates a repository, commits all files of `folder` to it, and returns its newest commit.

        Args:
            repo_id: `namespace/name`; the namespace need not belong to a token.
            folder: Files to commit. None leaves only what the Hub puts into a new repository.
            repo_type: `model`, `dataset` or `space`.
            private: Hides it from all but the members of the namespace.
            gated: Shows it to all, and its files to members and to `admitted`.
            admitted: Names of users who passed the gate.

        """
        repo = Repository(repo_id, repo_type, private, gated, admitted, created_at=now())
        first = self._store.create(repo)
        if folder is None:
            return first
        files = {
            path.relative_to(folder).as_posix(): self._store.file_of(path.name, path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        for file in files.values():
            if file.large:
                self._store.mark_uploaded(repo, file.sha256)
        return self._store.commit(
            repo, MAIN, first.oid, {**first.files, **files}, title="Add files", description="", author=repo.namespace
        )

    def offer(
        self, repo_id: str, files: dict[str, bytes], *, title: str, author: str, repo_type: RepoType = "model"
    ) -> Commit:
        """Opens a pull request that adds `files` to the main branch, in the name of a user who needs no token."""
        repo = self.repository(repo_id, repo_type)
        added = {path: self._store.file_of(path, content) for path, content in files.items()}
        base = self._store.resolve(repo, MAIN)
        number = 1 + sum(name.startswith("refs/pr/") for name in self._store.references(repo))
        return self._store.commit(
            repo,
            f"refs/pr/{number}",
            base.oid,
            {**base.files, **added},
            title=title,
            description="",
            author=author,
        )

    def add_token(self, token: Token) -> None:
        """Makes `token` valid."""
        self._gate.add(token)

    def admit(self, repo_id: str, user: str, repo_type: RepoType = "model") -> None:
        """Lets `user` through the gate of a repository."""
        self._store.admit(self.repository(repo_id, repo_type), user)

    def expel(self, repo_id: str, user: str, repo_type: RepoType = "model") -> None:
        """Shuts the gate of a repository for `user`."""
        self._store.expel(self.repository(repo_id, repo_type), user)

    # Look inside

    @property
    def requests(self) -> list[LoggedRequest]:
        """All requests so far, in order of arrival."""
        return list(self._disturbance.log)

    def forget_requests(self) -> None:
        """Empties the log. Only while no request is open."""
        self._disturbance.log.clear()

    def repository(self, repo_id: str, repo_type: RepoType = "model") -> Repository:
        """The settings of a repository; `KeyError` when there is none."""
        repo = self._store.find(repo_type, repo_id)
        if repo is None:
            message = f"no {repo_type} {repo_id} on this Hub"
            raise KeyError(message)
        return repo

    def commits(self, repo_id: str, repo_type: RepoType = "model", revision: str = "main") -> list[Commit]:
        """The history of a revision, newest first; the last one is the commit that creation made."""
        repo = self.repository(repo_id, repo_type)
        return self._store.history(repo, self._store.resolve(repo, revision))

    def references(self, repo_id: str, repo_type: RepoType = "model") -> dict[str, str]:
        """Full git name (`refs/heads/main`, `refs/tags/v1`, `refs/pr/1`) to commit oid."""
        return self._store.references(self.repository(repo_id, repo_type))

    def read(self, repo_id: str, path: str, repo_type: RepoType = "model", revision: str = "main") -> bytes:
        """The content of one file."""
        return self._store.blob_path(self.commits(repo_id, repo_type, revision)[0].files[path].sha256).read_bytes()

    # Break

    def fail(
        self,
        method: str,
        path_pattern: str,
        *,
        status: int,
        times: int | None = 1,
        retry_after_s: int | None = None,
        error_code: str | None = None,
        message: str = "Ordered by the test",
    ) -> None:
        """Answers with `status`, and changes nothing.

        Args:
            method: HTTP method, `*` for all.
            path_pattern: Shell pattern for the whole decoded path; `*` matches slashes too.
            status: HTTP status.
            times: How many requests it is for. None: all.
            retry_after_s: Value of `Retry-After`. None: no such header.
            error_code: Value of `X-Error-Code`. None: no such header.
            message: Value of `X-Error-Message`.

        """
        self._order(method, path_pattern, Refuse(status, retry_after_s, error_code, message), times)

    def drop(self, method: str, path_pattern: str, *, after_bytes: int = 0, times: int | None = 1) -> None:
        """Cuts the connection once `after_bytes` of the body were sent: by the server on GET, by the client else."""
        self._order(method, path_pattern, Drop(after_bytes), times)

    def lose_answer(self, method: str, path_pattern: str, *, times: int | None = 1) -> None:
        """Does what is asked, and cuts the connection in place of the answer."""
        self._order(method, path_pattern, LoseAnswer(), times)

    def corrupt(
        self, path_pattern: str, *, how: Literal["flip", "truncate"] = "flip", times: int | None = None
    ) -> None:
        """Damages what GET answers: one bit flipped in the middle, or the second half left out."""
        self._order("GET", path_pattern, Corrupt(how), times)

    def delay(self, method: str, path_pattern: str, *, seconds: float, times: int | None = 1) -> None:
        """Answers only after `seconds`; a request whose client leaves before is not carried out."""
        self._order(method, path_pattern, Delay(seconds), times)

    def spoil(self, path: str) -> None:
        """Keeps other bytes than were sent, of the file of this path in the next commit that holds it."""
        self._uploads.spoiled.add(path)

    def claim_size(self, path: str, size_bytes: int) -> None:
        """Describes the file of this path, in every repository, with another size than it has."""
        self._repositories.claimed[path] = size_bytes

    @property
    def waiting_faults(self) -> int:
        """How many faults of a given number have not been met yet."""
        return sum(order.times or 0 for order in self._disturbance.orders)

    def heal(self) -> None:
        """Takes all faults back."""
        self._disturbance.orders.clear()
        self._uploads.spoiled.clear()
        self._repositories.claimed.clear()

    def _order(self, method: str, path_pattern: str, fault: Fault, times: int | None) -> None:
        self._disturbance.orders.append(Order(method, path_pattern, fault, times))

    def _application(self, parts: Path, part_size_bytes: int | None, page_size: int) -> Starlette:
        links = Links(self.storage_endpoint)
        self._uploads = Uploads(self._store, self._gate, self.endpoint, links, part_size_bytes)
        self._repositories = Repositories(self._store, self._gate, self.endpoint)
        api = Router(
            [
                *self._repositories.routes(),
                *Contents(self._store, self._gate, self.endpoint, page_size).routes(),
                *self._uploads.routes(),
                *Downloads(self._store, self._gate, links).routes(),
            ]
        )
        storage = Router(Storage(self._store, links, parts).routes())
        return Starlette(
            routes=[Host(API_HOST, api), Host(STORAGE_HOST, storage)],
            exception_handlers={HubError: answer_hub_error},
        )
