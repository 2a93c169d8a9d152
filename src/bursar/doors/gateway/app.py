"""The gateway: one request in, one call through the engine, one answer out.

Rule 1: a door translates. What happens to a call is decided in ``core``, in which order in ``engine``.
Rule 2: same-dialect calls pass byte for byte; only the model, the key, ``stream_options.include_usage`` and what a budget
        lowers may change.
Rule 3: an answer is sent when its call is settled: what a client has seen is in the books. A stream is settled at its end.
Rule 4: errors of ours speak the client's dialect and carry a ``bursar`` object; secrets are in none of them.
Rule 5: every loop and buffer has a limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

from bursar.core.admission import Claim
from bursar.core.call import Arrived, Refused, Settled
from bursar.core.errors import BooksError
from bursar.core.ledger import Opening
from bursar.core.money import decimal_text
from bursar.core.prices import MODEL_LENGTH_MAX
from bursar.core.refusals import refusal_details, refusal_text
from bursar.core.scopes import NOBODY, Scope
from bursar.core.tallies import Tallies
from bursar.engine.asks import asking_of, estimate_of, price_reply
from bursar.engine.callers import Caller, Unauthorized, identify
from bursar.engine.claims import Claims, decision
from bursar.engine.drive import drive
from bursar.engine.ports import Books, HttpClient, HttpRequest, HttpUpstream, Keys
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.engine.rulebook import Rulebook
from bursar.wire.context import attribute, read_trace
from bursar.wire.dialect import BadRequest, RequestFacts
from bursar.wire.providers import dialect_by_id
from bursar.wire.requests import free_facts, is_free, read_facts

from .attribution import is_final, read_task
from .auth import upstream_headers
from .metrics import Metrics
from .outgoing import Outgoing, budget_headers
from .routes import Route, model_provider, resolve
from .sink import Sink

__all__ = ["Clock", "Gateway"]

_log = logging.getLogger("bursar.gateway")

_JSON: Final = [("content-type", "application/json")]
_REASON_LENGTH_MAX: Final = 400
_DISCARD_BYTES_MAX: Final = 256 * 1024 * 1024
_DISCARD_S_MAX: Final = 10
# The SDKs of OpenAI and Anthropic obey it; 402 is none that they would send again by themselves.
_NO_RETRY: Final = (("x-should-retry", "false"),)


class Clock(NamedTuple):
    """Time and ids, from outside: ``now_us`` is microseconds since 1970, ``new_id`` a new call's id."""

    now_us: Callable[[], int]
    new_id: Callable[[], str]


class _Request:
    """A request's head, taken over once: each look into the server's own objects costs more than one into these."""

    __slots__ = ("headers", "items", "method", "path", "query")

    def __init__(self, scope: HttpScope) -> None:
        self.method = scope.method
        self.path = scope.path
        self.query = scope.query_string
        self.items = scope.headers.items()
        self.headers: Mapping[str, str] = dict(self.items)


class _Problem(Exception):  # noqa: N818 - it becomes an answer, not a failure of the program
    """An answer of ours instead of the provider's."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        more: Mapping[str, object],
        *,
        retry_after_s: int | None = None,
        rest: AsyncIterator[bytes] | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = more
        self.retry_after_s = retry_after_s
        self.rest = rest
        self.headers = headers


class Gateway:
    """An RSGI application. ``rulebook`` is asked for once per call, so that a new one takes effect with the next."""

    def __init__(
        self,
        rulebook: Callable[[], Rulebook],
        books: Books,
        client: HttpClient,
        keys: Keys,
        clock: Clock,
        metrics: Metrics,
        claims: Claims,
        tallies: Tallies,
    ) -> None:
        self._rulebook = rulebook
        self._books = books
        self._client = client
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._claims = claims
        self._tallies = tallies
        self._running = 0
        self.alive: set[str] = set()
        self.draining = False

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        rulebook = self._rulebook()
        request = _Request(scope)
        try:
            route = resolve(request.path, request.headers, rulebook)
        except BadRequest as error:
            problem = _Problem(400, "bad_request", str(error), {"field": error.field})
            self._refuse(protocol, dialect_by_id("openai_chat").error_body, problem)
            return
        try:
            if self.draining:
                raise _Problem(503, "shutting_down", "this gateway is shutting down; try again", {}, retry_after_s=1)
            if self._running >= rulebook.concurrency_max:
                limit = (
                    f"{self._running} calls are running, the limit is server.concurrency_max={rulebook.concurrency_max}"
                )
                raise _Problem(503, "too_many_calls", f"{limit}; try again", {}, retry_after_s=1)
            self._running += 1
            try:
                await self._handle(request, protocol, route, rulebook)
            finally:
                self._running -= 1
        except _Problem as problem:
            self._refuse(protocol, route.dialect.error_body, problem)
            if problem.rest is not None:
                await _discard(problem.rest)
        except BadRequest as error:
            self._refuse(
                protocol, route.dialect.error_body, _Problem(400, "bad_request", str(error), {"field": error.field})
            )
        except BooksError as error:
            problem = _Problem(503, "books_unavailable", f"keys cannot be looked up: {error}", {}, retry_after_s=1)
            self._refuse(protocol, route.dialect.error_body, problem)
        except Unauthorized as error:
            self._refuse(protocol, route.dialect.error_body, _Problem(401, "unauthorized", str(error), {}))

    @property
    def running(self) -> int:
        return self._running

    async def _handle(self, request: _Request, protocol: HttpProtocol, route: Route, rulebook: Rulebook) -> None:
        caller = identify(request.headers, request.query, self._keys, require_keys=rulebook.require_keys)
        body = await _read_body(request, protocol, rulebook.body_bytes_max, rulebook.body_timeout_s)
        free = is_free(request.method, route.path)
        facts = (
            free_facts(route.dialect, route.path)
            if free
            else read_facts(route.dialect, route.path, request.headers.get("content-type", ""), body)
        )
        if len(facts.model) > MODEL_LENGTH_MAX:
            raise BadRequest(
                "model", f"its name has {len(facts.model)} characters, at most {MODEL_LENGTH_MAX} are taken"
            )
        route, model = model_provider(route, facts.model, rulebook)
        ask_usage = facts.stream and not facts.asks_usage and route.must_ask_usage
        if model != facts.model or ask_usage:
            body = route.dialect.prepare(body, model=model if model != facts.model else None, ask_usage=ask_usage)
            facts = replace(facts, model=model)
        if route.rule.terms:
            facts = replace(facts, terms=tuple(sorted({**dict(facts.terms), **dict(route.rule.terms)}.items())))
        headers = upstream_headers(request.items, caller, route.rule)

        def outgoing(route: Route, body: bytes) -> HttpRequest:
            return HttpRequest(request.method, _with_query(route.url, caller.query), headers, body, facts.stream)

        sink = Sink(protocol)
        if free:
            attempt = self._client.attempt(
                outgoing(route, body), route.dialect, facts, sink, hide_usage=ask_usage, allowance=None
            )
            await self._pass_on(protocol, sink, attempt, route)
            return
        upstream = Outgoing(route, facts, outgoing, body, sink, self._client, self._books, hide_usage=ask_usage)
        await self._call(request, protocol, route, facts, caller, sink, upstream, rulebook)

    # --- a call that may cost money -------------------------------------------------------------------------------

    async def _call(
        self,
        request: _Request,
        protocol: HttpProtocol,
        route: Route,
        facts: RequestFacts,
        caller: Caller,
        sink: Sink,
        upstream: Outgoing,
        rulebook: Rulebook,
    ) -> None:
        opening = self._open(request, route, facts, caller, rulebook)
        claim = self._claim(request, opening, route, facts, rulebook)
        sink.headers.append(("x-bursar-call-id", opening.call_id))
        self.alive.add(opening.attempt_id)
        watcher = _watch(protocol) if facts.stream else None
        try:
            done = await drive(
                Arrived(opening, claim), self._books, upstream, lambda o, r: price_reply(rulebook, o, r, route.path)
            )
        except asyncio.CancelledError:
            self._metrics.cancelled(route.rule.provider.id)
            if watcher is None or not watcher.done():
                raise  # the server is stopping; a client that left is no reason to
            return
        finally:
            self.alive.discard(opening.attempt_id)
            if watcher is not None:
                watcher.cancel()
        if isinstance(done, Refused):
            raise self._refused(done)
        self._metrics.settled(route.rule.provider.id, done.attempt)
        if done.attempt is not None:
            self._claims.learn(done.attempt, facts)
            self._tallies.settled(done.attempt, self._clock.now_us())
        self._answer(protocol, sink, upstream, done)

    def _claim(
        self, request: _Request, opening: Opening, route: Route, facts: RequestFacts, rulebook: Rulebook
    ) -> Claim | None:
        task = read_task(request.headers, opening.scope)
        asking = asking_of(
            rulebook, opening.provider, route.path, facts, opening.started_us, can_cap=route.dialect.can_cap
        )
        return self._claims.claim(rulebook, opening, asking, task=task, final=is_final(request.headers))

    def _refused(self, done: Refused) -> _Problem:
        more: dict[str, object] = {"call_id": done.opening.call_id}
        refusal = done.refusal
        if refusal is None:
            return _Problem(503, "books_unavailable", done.reason, more, retry_after_s=1)
        self._metrics.denied(refusal.budget, refusal.code)
        self._tallies.add("denied", done.opening.provider, self._clock.now_us())
        more |= refusal_details(refusal)
        status = 400 if refusal.code == "too_deep" else 402
        return _Problem(status, refusal.code, refusal_text(refusal), more, headers=_NO_RETRY)

    def _open(
        self, request: _Request, route: Route, facts: RequestFacts, caller: Caller, rulebook: Rulebook
    ) -> Opening:
        now_us = self._clock.now_us()
        call_id = self._clock.new_id()
        provider = route.rule.provider
        trace = read_trace(request.headers.get("traceparent"))
        return Opening(
            attempt_id=f"{call_id}.1",
            call_id=call_id,
            kind="model",
            door="gateway",
            operation=facts.operation,
            started_us=now_us,
            provider=provider.id,
            model_asked=facts.model,
            scope=_scope(request, facts, caller),
            estimate=estimate_of(rulebook, provider.id, route.path, facts, now_us),
            stream=facts.stream,
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            decision=decision(provider.id, facts.model),
        )

    def _answer(self, protocol: HttpProtocol, sink: Sink, attempt: Outgoing, done: Settled) -> None:
        if sink.started:
            return
        answer = attempt.answer
        if answer is not None:
            headers = [*answer.headers, *_our_headers(done)]
            protocol.response_bytes(answer.status, headers, answer.body)
            return
        code = "upstream_failed" if done.attempt else "upstream_unreachable"
        more = {"call_id": done.opening.call_id, "provider": done.opening.provider}
        raise _Problem(502, code, attempt.failure[:_REASON_LENGTH_MAX], more)

    # --- a request that costs nothing -----------------------------------------------------------------------------

    async def _pass_on(self, protocol: HttpProtocol, sink: Sink, attempt: HttpUpstream, route: Route) -> None:
        await attempt.exchange()
        if sink.started:
            return
        answer = attempt.answer
        if answer is None:
            more = {"provider": route.rule.provider.id}
            raise _Problem(502, "upstream_unreachable", attempt.failure[:_REASON_LENGTH_MAX], more)
        protocol.response_bytes(answer.status, list(answer.headers), answer.body)

    def _refuse(self, protocol: HttpProtocol, error_body: _ErrorBody, problem: _Problem) -> None:
        self._metrics.refused(problem.code)
        details = {"code": problem.code, **problem.more}
        headers = [*_JSON, *problem.headers]
        if problem.retry_after_s is not None:
            headers.append(("retry-after", str(problem.retry_after_s)))
        protocol.response_bytes(
            problem.status, headers, error_body(problem.status, problem.code, problem.message, details)
        )


_ErrorBody = Callable[[int, str, str, Mapping[str, object]], bytes]


def _watch(protocol: HttpProtocol) -> asyncio.Task[None]:
    """Cancels the current task when its client goes away, however long the provider stays silent.

    A stream that has begun is stopped with it. Before its first byte the HTTP client cannot abort the provider's
    request: that one ends when the provider begins to answer, or at the read timeout.
    """
    call = asyncio.current_task()
    assert call is not None

    async def watch() -> None:
        await protocol.client_disconnect()
        call.cancel()

    return asyncio.create_task(watch())


async def _read_body(request: _Request, protocol: HttpProtocol, limit: int, timeout_s: float) -> bytes:
    if request.method in ("GET", "HEAD"):
        return b""
    # What asyncio.timeout does, at a third of its price: every call passes here.
    task = asyncio.current_task()
    assert task is not None
    late: list[bool] = []
    timer = task.get_loop().call_later(timeout_s, lambda: (late.append(True), task.cancel()))
    try:
        return await _receive(request, protocol, limit)
    except asyncio.CancelledError:
        if not late:
            raise
        task.uncancel()
        message = f"the body did not arrive within server.body_timeout_s={timeout_s}; send it faster or raise the limit"
        raise _Problem(408, "body_timeout", message, {"limit_s": timeout_s}) from None
    finally:
        timer.cancel()


async def _chunks(protocol: HttpProtocol) -> AsyncIterator[bytes]:
    """A body piece by piece. The server begins an iteration only once; this one can be gone on with."""
    chunks = aiter(protocol)
    with suppress(StopAsyncIteration):
        while True:
            yield await anext(chunks)


async def _receive(request: _Request, protocol: HttpProtocol, limit: int) -> bytes:
    stated = request.headers.get("content-length")
    if stated is not None and "transfer-encoding" not in request.headers:  # with both, the length says nothing
        if not stated.isdigit():
            raise _Problem(400, "bad_request", f"content-length {stated[:40]!r} is not a number", {})
        if int(stated) > limit:
            raise _too_large(int(stated), limit, _chunks(protocol))
        body = await protocol()
        if len(body) != int(stated):
            raise _Problem(400, "bad_request", f"the body ended after {len(body)} of {int(stated)} bytes", {})
        return body
    parts: list[bytes] = []
    size = 0
    chunks = _chunks(protocol)
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large(size, limit, chunks)
        parts.append(chunk)
    return b"".join(parts)


async def _discard(rest: AsyncIterator[bytes]) -> None:
    """Take in what a refused client still sends, within limits: most clients read no answer before they have sent all."""
    size = 0
    try:
        async with asyncio.timeout(_DISCARD_S_MAX):
            async for chunk in rest:
                size += len(chunk)
                if size > _DISCARD_BYTES_MAX:
                    return
    except (TimeoutError, RuntimeError, asyncio.CancelledError):  # the server cancels it when the client has gone
        return


def _too_large(size: int, limit: int, rest: AsyncIterator[bytes]) -> _Problem:
    message = f"the body has {size} bytes, the limit is server.body_bytes_max={limit}; raise it in bursar.yaml"
    return _Problem(413, "body_too_large", message, {"limit_bytes": limit}, rest=rest)


def _scope(request: _Request, facts: RequestFacts, caller: Caller) -> Scope:
    defaults = caller.key.scope if caller.key else NOBODY
    found = attribute(request.items, request.headers.get("baggage", ""), facts, defaults)
    return found.pinned(defaults, caller.key.pinned) if caller.key else found


def _our_headers(done: Settled) -> list[tuple[str, str]]:
    headers = [("x-bursar-call-id", done.opening.call_id)]
    amount = done.attempt.charge.amount if done.attempt is not None else None
    if amount is not None:
        headers.append(("x-bursar-cost-usd", decimal_text(amount)))
    if done.admitted is not None:
        headers += budget_headers(done.admitted, charge=done.attempt.charge if done.attempt else None)
    return headers


def _with_query(url: str, query: str) -> str:
    return f"{url}?{query}" if query else url
