"""Calls of the Hub that are safe to repeat, repeated while the Hub or the network is out of order."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from hfcompress.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ATTEMPTS", "LONGEST_WAIT_S", "TransportError", "is_passing", "repeated", "status_of", "wait_s"]

T = TypeVar("T")

ATTEMPTS = 5
LONGEST_WAIT_S = 60.0
WAIT_VARIABLE = "HFCOMPRESS_RETRY_WAIT_S"

_TRY_LATER = {408, 429}
_SERVER_ERROR = 500
_HTTP_LIBRARIES = {"requests", "httpx", "httpx2"}

TransportError: type[Exception] = [
    kind for kind in HfHubHTTPError.__mro__ if kind.__module__.split(".")[0] in _HTTP_LIBRARIES
][-1]
"""Base of every error of the HTTP library that this version of the client uses; there are three."""


def repeated(call: Callable[[], T], when: Callable[[BaseException], bool] | None = None) -> T:
    """Return what a call returns, making it up to `ATTEMPTS` times.

    Args:
        call: The call; a second one must do no harm where the first one was carried out.
        when: Which errors are worth another attempt; `is_passing` by default.

    Raises:
        UsageError: `HFCOMPRESS_RETRY_WAIT_S` is no number of seconds.
    """
    base_s = _base_wait_s()

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return wait_s(error, state.attempt_number, base_s)

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS), wait=wait, retry=retry_if_exception(when or is_passing), reraise=True
    )
    return retrying(call)


def wait_s(error: BaseException | None, attempt: int, base_s: float) -> float:
    """Return how many seconds to wait after an attempt, counted from 1: what `Retry-After` says, or twice as long each.

    Neither is longer than `LONGEST_WAIT_S`.
    """
    asked = _retry_after_s(error)
    return min(LONGEST_WAIT_S, asked if asked is not None else base_s * 2 ** (attempt - 1))


def is_passing(error: BaseException) -> bool:
    """Return whether the same call may succeed later: the Hub was busy or failed, or the connection broke."""
    status = status_of(error)
    if status is not None:
        return status in _TRY_LATER or status >= _SERVER_ERROR
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, (LocalEntryNotFoundError, RuntimeError)):  # the client's own wrapping of what went wrong
        return error.__cause__ is not None and is_passing(error.__cause__)
    if isinstance(error, (TransportError, ConnectionError, TimeoutError, json.JSONDecodeError)):
        return True
    return isinstance(error, OSError) and "Consistency check failed" in str(error)  # a download that was cut


def status_of(error: BaseException | None) -> int | None:
    """Return the status that the Hub answered with, where it answered."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _retry_after_s(error: BaseException | None) -> float | None:
    while error is not None and status_of(error) is None:
        error = error.__cause__
    text = None if error is None else error.response.headers.get("Retry-After")  # type: ignore[attr-defined]
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


def _base_wait_s() -> float:
    text = os.environ.get(WAIT_VARIABLE, "1")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_WAIT_S:
        msg = f"{WAIT_VARIABLE} is {text!r}; expected a number of seconds from 0 to {LONGEST_WAIT_S:g}"
        raise UsageError(msg)
    return seconds
