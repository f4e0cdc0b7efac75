"""What the Hub answers when it refuses: a status, a code the client maps to a class, and a sentence."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class HubError(Exception):
    """A refusal, raised anywhere under a route and turned into a response by `answer_hub_error`."""

    def __init__(self, status: int, message: str, *, code: str | None = None, commit: str | None = None) -> None:
        """Keeps `status`, `message`, `code` (`X-Error-Code`) and `commit` (`X-Repo-Commit`)."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.commit = commit


async def answer_hub_error(request: Request, error: Exception) -> Response:
    """The response for a `HubError`; the client reads the headers, people read the body."""
    del request
    if not isinstance(error, HubError):
        raise error
    headers = {"X-Error-Message": error.message}
    if error.code is not None:
        headers["X-Error-Code"] = error.code
    if error.commit is not None:
        headers["X-Repo-Commit"] = error.commit
    return JSONResponse({"error": error.message}, status_code=error.status, headers=headers)
