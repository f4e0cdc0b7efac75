"""Faults that a test orders, and the log of what was asked. Both sit in front of every route.

A fault applies to the requests of one method (`*` for all) whose path matches a pattern of the shell
(`*` matches slashes too), the first `times` of them, or all with None. Of several, the first ordered wins.
"""

import asyncio
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

TRANSPORT = "loopback_hub.transport"


@dataclass(frozen=True)
class Refuse:
    """Answers with a status in place of the route."""

    status: int
    retry_after_s: int | None
    error_code: str | None
    message: str


@dataclass(frozen=True)
class Drop:
    """Cuts the connection after so many bytes: of the body that is sent, or of the one that is answered."""

    after_bytes: int


@dataclass(frozen=True)
class LoseAnswer:
    """Does the work, then cuts the connection in place of the answer."""


@dataclass(frozen=True)
class Corrupt:
    """Flips a bit in the middle of an answered body, or leaves its second half out."""

    how: Literal["flip", "truncate"]


@dataclass(frozen=True)
class Delay:
    """Answers late, or not at all when the client leaves before."""

    seconds: float


Fault = Refuse | Drop | LoseAnswer | Corrupt | Delay


@dataclass(frozen=True)
class Order:
    """A fault, and the requests that it applies to."""

    method: str
    path_pattern: str
    fault: Fault
    times: int | None

    def applies(self, method: str, path: str) -> bool:
        """Whether a request meets this fault."""
        return self.times != 0 and self.method in ("*", method) and fnmatchcase(path, self.path_pattern)


@dataclass(frozen=True)
class LoggedRequest:
    """One request, as it came, and how it was answered."""

    method: str
    host: str
    path: str
    query: str
    authorization: str | None
    user_agent: str | None
    range: str | None
    status: int | None
    """None when no answer was given, or not yet."""


class Disturbance:
    """An ASGI layer that logs each request and applies the faults that were ordered."""

    def __init__(self, app: ASGIApp) -> None:
        """Wraps `app`."""
        self._app = app
        self.orders: list[Order] = []
        self.log: list[LoggedRequest] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        # A quoted slash is part of a revision's name, so routes see the path undecoded.
        scope["path"] = scope["raw_path"].decode("ascii")
        index = len(self.log)
        self.log.append(_logged(scope))

        async def send_logged(message: Message) -> None:
            if message["type"] == "http.response.start" and self.log[index].status is None:
                self.log[index] = replace(self.log[index], status=message["status"])
            await send(message)

        match self._take(scope["method"], unquote(scope["path"])):
            case None:
                await self._app(scope, receive, send_logged)
            case Refuse() as refuse:
                await _read_all(receive)
                await _refusal(refuse)(scope, receive, send_logged)
            case Drop(after_bytes) if scope["method"] in ("GET", "HEAD"):
                await self._app(scope, receive, _cut_send(send_logged, scope[TRANSPORT], after_bytes))
            case Drop(after_bytes):
                await _read_some(receive, after_bytes)
                scope[TRANSPORT].close()
            case LoseAnswer():
                await self._app(scope, receive, _swallow)
                scope[TRANSPORT].close()
            case Corrupt(how):
                await self._app(scope, receive, _corrupting_send(send_logged, how))
            case Delay(seconds):
                await self._answer_late(scope, receive, send_logged, seconds)

    def _take(self, method: str, path: str) -> Fault | None:
        """The fault for a request, which is then used up by one."""
        for position, order in enumerate(self.orders):
            if order.applies(method, path):
                if order.times is not None:
                    self.orders[position] = replace(order, times=order.times - 1)
                return order.fault
        return None

    async def _answer_late(self, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
        body = await _read_all(receive)
        leaving = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait([leaving], timeout=seconds)
        if done:
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await leaving

        await self._app(scope, replay, send)
        leaving.cancel()


class DroppableProtocol(H11Protocol):
    """Hands the transport to the application, so that a fault can close it. ASGI itself has no such thing."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wraps the application of this one connection."""
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await app(scope, receive, send)
            # Without an answer the server would write one of its own to the closed connection.
            while transport.is_closing() and (await receive())["type"] != "http.disconnect":
                pass

        self.app = with_transport


def _logged(scope: Scope) -> LoggedRequest:
    headers = Headers(scope=scope)
    return LoggedRequest(
        method=scope["method"],
        host=headers.get("host", "").split(":")[0],
        path=unquote(scope["path"]),
        query=scope["query_string"].decode("ascii"),
        authorization=headers.get("authorization"),
        user_agent=headers.get("user-agent"),
        range=headers.get("range"),
        status=None,
    )


def _refusal(refuse: Refuse) -> JSONResponse:
    headers = {"X-Error-Message": refuse.message}
    if refuse.retry_after_s is not None:
        headers["Retry-After"] = str(refuse.retry_after_s)
    if refuse.error_code is not None:
        headers["X-Error-Code"] = refuse.error_code
    return JSONResponse({"error": refuse.message}, status_code=refuse.status, headers=headers)


async def _read_all(receive: Receive) -> bytes:
    """The whole body: a client that is refused in the middle of sending sees a cut connection instead."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


async def _read_some(receive: Receive, size_bytes: int) -> None:
    received = 0
    while received < size_bytes and (message := await receive())["type"] == "http.request":
        received += len(message.get("body", b""))
        if not message.get("more_body", False):
            break


async def _swallow(message: Message) -> None:
    del message


def _cut_send(send: Send, transport: asyncio.Transport, after_bytes: int) -> Send:
    """A `send` that passes so many bytes of the body, then closes the connection."""
    left = after_bytes

    async def cut(message: Message) -> None:
        nonlocal left
        if transport.is_closing():
            return
        if message["type"] == "http.response.start":
            if after_bytes == 0:
                transport.close()
                return
        else:
            body = message.get("body", b"")
            if len(body) >= left:
                await send({**message, "body": body[:left], "more_body": True})
                transport.close()
                return
            left -= len(body)
        await send(message)

    return cut


def _corrupting_send(send: Send, how: Literal["flip", "truncate"]) -> Send:
    """A `send` that holds the whole answer back, and damages it if it is a success."""
    start: Message = {}
    body = bytearray()

    async def corrupt(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body", False):
            return
        if body and start["status"] in (200, 206):
            if how == "flip":
                body[len(body) // 2] ^= 1
            else:
                del body[len(body) // 2 :]
                headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
                start["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        await send(start)
        await send({"type": "http.response.body", "body": bytes(body), "more_body": False})

    return corrupt
