"""The console over HTTP: health, metrics, pages and REST API on the gateway's port.

Rule 1: who may ask, and who may change something, is decided first (``guard``): on loopback the request must name a
        loopback host, elsewhere the admin token is needed; a change must come from the console's own page or from
        none.
Rule 2: only what is about budgets and the cache changes anything, and the server is told at once. All else only asks.
Rule 3: health and metrics hold no names of people or tasks and need no token.
Rule 4: a body is small and comes soon, or it is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeAlias

from bursar.core.errors import BooksError, BursarError, LedgerError
from bursar.engine.ports import BudgetDesk, CacheDesk, Queries
from bursar.engine.rsgi import HttpProtocol, HttpScope

from .answers import ApiAnswer, failure, json_answer
from .api import Request, handle, handle_budgets, methods_of
from .api.budgets import BODY_BYTES_MAX
from .api.cache import cache_methods, handle_cache
from .dashboard import page
from .guard import refused, refused_change

__all__ = ["Ask", "AskDesk", "Site"]

_log = logging.getLogger("bursar.console")

_METRICS_TYPE: Final = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
_BODY_WAIT_S: Final = 10.0

_Steer: TypeAlias = Callable[[Request], Awaitable[ApiAnswer]]


class Ask(Protocol):
    """Puts a question to the ledger, away from the event loop."""

    def __call__(self, question: Callable[[Queries], ApiAnswer], /) -> Awaitable[ApiAnswer]: ...


class AskDesk(Protocol):
    """Puts a question, or a change, to the desk of budgets, away from the event loop."""

    def __call__(self, question: Callable[[BudgetDesk], ApiAnswer], /) -> Awaitable[ApiAnswer]: ...


class Site:
    """An RSGI application for the paths it owns. ``token`` None: on loopback, no token is needed.

    ``changed`` is called in the event loop after something was changed.
    """

    def __init__(
        self,
        *,
        ask: Ask,
        ask_desk: AskDesk,
        cache: CacheDesk,
        changed: Callable[[], None],
        ready: Callable[[], str | None],
        metrics: Callable[[], bytes],
        token: str | None,
    ) -> None:
        self._ask = ask
        self._ask_desk = ask_desk
        self._cache = cache
        self._changed = changed
        self._ready = ready
        self._metrics = metrics
        self._token = token

    def owns(self, path: str) -> bool:
        """Whether a path is the console's and not a provider's."""
        return path in ("/", "/healthz", "/readyz", "/metrics", "/favicon.ico") or path.startswith(
            ("/api/", "/console/")
        )

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        answer = await self._answer(scope, protocol)
        protocol.response_bytes(answer.status, list(answer.headers.items()), answer.body)

    async def _answer(self, scope: HttpScope, protocol: HttpProtocol) -> ApiAnswer:
        match scope.path:
            case "/healthz":
                return json_answer({"status": "ok"})
            case "/readyz":
                problem = self._ready()
                return json_answer({"status": "ready"}) if problem is None else failure(503, problem)
            case "/metrics":
                return ApiAnswer(200, _METRICS_TYPE, self._metrics())
            case _:
                refusal = refused(scope, self._token)
                return refusal if refusal is not None else await self._inside(scope, protocol)

    async def _inside(self, scope: HttpScope, protocol: HttpProtocol) -> ApiAnswer:
        found = page(scope.path)
        if found is not None:
            return found
        if not scope.path.startswith("/api/"):
            return failure(404, f"there is nothing at {scope.path[:100]!r}; the console is at /")
        try:
            if methods := methods_of(scope.path):
                return await self._steered(scope, protocol, methods, self._budgets, self._tell)
            if methods := cache_methods(scope.path):
                return await self._steered(scope, protocol, methods, self._cached, lambda: None)
            return await self._ask(lambda queries: handle(scope.method, scope.path, scope.query_string, queries))
        except LedgerError as error:
            _log.warning("%s", error)
            return failure(503, f"the ledger cannot answer now: {error}", headers={"retry-after": "1"})
        except BooksError as error:
            _log.warning("%s", error)
            return failure(503, f"the books cannot answer now: {error}", headers={"retry-after": "1"})

    async def _steered(
        self,
        scope: HttpScope,
        protocol: HttpProtocol,
        methods: Sequence[str],
        steer: _Steer,
        changed: Callable[[], None],
    ) -> ApiAnswer:
        """What may change something: its body is taken where it may, and ``changed`` is told where it has."""
        writes = scope.method in set(methods) - {"GET", "HEAD"}
        body: bytes | ApiAnswer = b""
        if writes:
            body = refused_change(scope) or await _body(scope, protocol)
            if isinstance(body, ApiAnswer):
                return body
        answer = await steer(Request(scope.method, scope.path, scope.query_string, body))
        if writes and answer.status < 300:
            _log.info("%s %s", scope.method, scope.path)
            changed()
        return answer

    async def _budgets(self, request: Request) -> ApiAnswer:
        return await self._ask_desk(lambda desk: handle_budgets(request, desk, now_us=time.time_ns() // 1_000))

    async def _cached(self, request: Request) -> ApiAnswer:
        return await handle_cache(request, self._cache)

    def _tell(self) -> None:
        try:
            self._changed()
        except BursarError as error:  # it is in the books: the server's next look finds it
            _log.warning("a change is not in force yet: %s", error)


async def _body(scope: HttpScope, protocol: HttpProtocol) -> bytes | ApiAnswer:
    """The whole body, or why not (rule 4)."""
    stated: str = scope.headers.get("content-length", "0")
    too_large = failure(413, f"the body is larger than {BODY_BYTES_MAX} bytes; a budget needs a few hundred")
    if not stated.isdigit() or int(stated) > BODY_BYTES_MAX:
        return too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_WAIT_S):
            async for chunk in protocol:
                size += len(chunk)
                if size > BODY_BYTES_MAX:
                    return too_large
                parts.append(chunk)
    except TimeoutError:
        return failure(408, f"the body did not arrive within {_BODY_WAIT_S:.0f} s; send it again")
    return b"".join(parts)
