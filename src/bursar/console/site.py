"""The console over HTTP: health, metrics, pages and REST API on the gateway's port.

Rule 1: on loopback only requests that name a loopback host are answered, so that no web page can reach in by a DNS name
        of its own (https://en.wikipedia.org/wiki/DNS_rebinding); nothing here changes anything.
Rule 2: elsewhere the admin token is needed, as a bearer token or as the password of basic authentication.
Rule 3: health and metrics hold no names of people or tasks and need no token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from bursar.core.errors import LedgerError
from bursar.engine.ports import Queries
from bursar.engine.rsgi import HttpProtocol, HttpScope

from .answers import ApiAnswer, failure, json_answer
from .api import handle
from .dashboard import page

__all__ = ["Ask", "Site"]

_log = logging.getLogger("bursar.console")

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_METRICS_TYPE: Final = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}


class Ask(Protocol):
    """Puts a question to the ledger, away from the event loop."""

    def __call__(self, question: Callable[[Queries], ApiAnswer], /) -> Awaitable[ApiAnswer]: ...


class Site:
    """An RSGI application for the paths it owns. ``token`` None: on loopback, no token is needed."""

    def __init__(
        self, *, ask: Ask, ready: Callable[[], str | None], metrics: Callable[[], bytes], token: str | None
    ) -> None:
        self._ask = ask
        self._ready = ready
        self._metrics = metrics
        self._token = token

    def owns(self, path: str) -> bool:
        """Whether a path is the console's and not a provider's."""
        return path in ("/", "/healthz", "/readyz", "/metrics", "/favicon.ico") or path.startswith(
            ("/api/", "/console/")
        )

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        answer = await self._answer(scope)
        protocol.response_bytes(answer.status, list(answer.headers.items()), answer.body)

    async def _answer(self, scope: HttpScope) -> ApiAnswer:
        match scope.path:
            case "/healthz":
                return json_answer({"status": "ok"})
            case "/readyz":
                problem = self._ready()
                return json_answer({"status": "ready"}) if problem is None else failure(503, problem)
            case "/metrics":
                return ApiAnswer(200, _METRICS_TYPE, self._metrics())
            case _:
                refused = self._refusal(scope)
                return refused if refused is not None else await self._inside(scope)

    async def _inside(self, scope: HttpScope) -> ApiAnswer:
        found = page(scope.path)
        if found is not None:
            return found
        if not scope.path.startswith("/api/"):
            return failure(404, f"there is nothing at {scope.path[:100]!r}; the console is at /")
        try:
            return await self._ask(lambda queries: handle(scope.method, scope.path, scope.query_string, queries))
        except LedgerError as error:
            _log.warning("%s", error)
            return failure(503, f"the ledger cannot answer now: {error}", headers={"retry-after": "1"})

    def _refusal(self, scope: HttpScope) -> ApiAnswer | None:
        if self._token is not None:
            if _token_of(scope.headers.get("authorization", ""), self._token):
                return None
            challenge = {"www-authenticate": 'Basic realm="Bursar", charset="UTF-8"'}
            text = "the console needs the admin token here; it is in admin.token in the server's data directory"
            return failure(401, text, field="authorization", headers=challenge)
        host = scope.headers.get("host") or scope.authority or ""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() in _LOOPBACK:
            return None
        return failure(403, f"this console answers on localhost only, not as {name[:100]!r}", field="host")


def _token_of(authorization: str, token: str) -> bool:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())
