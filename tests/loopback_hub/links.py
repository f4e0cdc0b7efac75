"""Signed links to the storage host: whoever has the link needs no token, as with a pre-signed URL."""

import hashlib
import hmac
import secrets
from urllib.parse import urlencode

from starlette.requests import Request

from .errors import HubError


class Links:
    """Makes and checks links under one host."""

    def __init__(self, host: str) -> None:
        """`host` is `http://name:port`."""
        self._host = host
        self._key = secrets.token_bytes(16)

    def sign(self, method: str, path: str) -> str:
        """A link that allows `method` on `path` and nothing else."""
        return f"{self._host}{path}?{urlencode({'signature': self._signature(method, path)})}"

    def check(self, request: Request) -> None:
        """Refuses a request without the signature, and one with a token: storage must never see it."""
        if "authorization" in request.headers:
            raise HubError(400, "Only one auth mechanism allowed: the link is signed, and a token was sent")
        method = "GET" if request.method == "HEAD" else request.method
        expected = self._signature(method, request.scope["path"])
        if not hmac.compare_digest(expected, request.query_params.get("signature", "")):
            raise HubError(403, "The request signature does not match")

    def _signature(self, method: str, path: str) -> str:
        return hmac.new(self._key, f"{method} {path}".encode(), hashlib.sha256).hexdigest()
