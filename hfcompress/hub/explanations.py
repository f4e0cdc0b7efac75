"""What the client raises, as one sentence that names the repository and the next thing to do."""

from __future__ import annotations

import errno
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hfcompress.errors import HubError, NotOnHubError
from hfcompress.hub.retries import TransportError, status_of
from hfcompress.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["explained", "without_secrets"]

_UNAUTHORIZED = 401
_FORBIDDEN = 403
_TOO_MANY = 429
_FULL = {402, 413, 507}
_QUOTA = re.compile(r"quota|storage limit|limit (?:was |is )?(?:reached|exceeded)|payment|billing", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\")]+")


@contextmanager
def explained(what: str, revision: str | None) -> Iterator[None]:
    """Turn what the client raises into one sentence that says what to do next.

    Args:
        what: Kind and name of the repository ("model acme/clip").
        revision: What was asked of it.

    Raises:
        HubError: The block failed in a way that has to do with the Hub.
    """
    try:
        yield
    except GatedRepoError as error:
        msg = f"the {what} is gated: ask for access on its page, then {_log_in()}"
        raise HubError(msg) from error
    except RevisionNotFoundError as error:
        msg = f"the {what} has no revision {revision!r}; look at its branches and tags on its page"
        raise NotOnHubError(msg, "revision") from error
    except RepositoryNotFoundError as error:
        msg = f"there is no {what} on the Hub, or it is private: check the name, or {_log_in()}"
        raise NotOnHubError(msg, "repository") from error
    except OfflineModeIsEnabled as error:
        raise HubError(_offline(what)) from error
    except LocalEntryNotFoundError as error:
        msg = _offline(what) if isinstance(error.__cause__, OfflineModeIsEnabled) else _unreachable(what, error)
        raise HubError(msg) from error
    except HfHubHTTPError as error:
        raise HubError(_refused(what, error)) from error
    except json.JSONDecodeError as error:
        msg = f"the Hub did not answer as it should for the {what}; try again"
        raise HubError(msg) from error
    except (OSError, RuntimeError, TransportError) as error:
        raise HubError(_unreachable(what, error)) from error
    except ValueError as error:
        raise _unusable(what, error) from error


def _unusable(what: str, error: ValueError) -> HubError:
    said = without_secrets(str(error))
    if isinstance(error, HFValidationError):
        return NotOnHubError(f"there is no {what}, neither as a folder nor on the Hub: {said}", "repository")
    return HubError(f"the {what}: {said}")


def without_secrets(text: str) -> str:
    """Return a text without tokens, the client's stored one included, and without the queries of addresses.

    Storage has its signatures in those.
    """
    token = get_token()
    return redacted(_QUERY.sub(r"\1", text), [] if token is None else [token])


def _log_in() -> str:
    return "log in with `hf auth login`" + ("" if get_token() is None else ", with a token that may see it")


def _offline(what: str) -> str:
    return f"the {what} is not in the cache and offline mode is on; unset HF_HUB_OFFLINE, or run once without it"


def _unreachable(what: str, error: BaseException) -> str:
    if isinstance(error.__cause__, HfHubHTTPError) and status_of(error.__cause__) is not None:
        return _refused(what, error.__cause__)
    cause = error.__cause__ if isinstance(error, (LocalEntryNotFoundError, RuntimeError)) else None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full, so the {what} cannot be stored; free some space, or set HF_HOME to another disk"
    text = without_secrets(str(cause or error))
    return f"the Hub could not be reached for the {what}: {text}; check the network and HF_ENDPOINT, then try again"


def _refused(what: str, error: HfHubHTTPError) -> str:
    status = status_of(error)
    said = without_secrets(error.server_message or str(error))
    if status in _FULL or (status == _FORBIDDEN and _QUOTA.search(said)):
        hint = "free storage or raise the limit in the settings of the account, or use a repository of another account"
    elif status == _UNAUTHORIZED and get_token() is None:
        hint = "there is no token: set HF_TOKEN, or log in with `hf auth login`, with a token that may write"
    elif status in (_UNAUTHORIZED, _FORBIDDEN):
        hint = "log in with `hf auth login`, with a token that may write"
    elif status == _TOO_MANY:
        hint = "wait some minutes, then try again"
    else:
        hint = "try again"
    return f"the Hub refused the {what} ({status}): {said}; {hint}"
