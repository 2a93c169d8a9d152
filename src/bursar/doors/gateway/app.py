"""The gateway: one request in, one call through the engine, one answer out.

Rule 1: a door translates. What happens to a call is decided in ``core``, in which order in ``engine``.
Rule 2: same-dialect calls pass byte for byte; only the model, the key, ``stream_options.include_usage`` and what a budget
        lowers may change.
Rule 3: an answer is sent when its call is settled: what a client has seen is in the books. A stream is settled at its end.
Rule 4: a model that a route of bursar.yaml names goes up its rungs (``routed``); any other goes where it was sent, once.
Rule 5: errors of ours speak the client's dialect and carry a ``bursar`` object; secrets are in none of them.
Rule 6: every loop and buffer has a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from bursar.core.call import Refused
from bursar.core.errors import BooksError
from bursar.core.ledger import Opening
from bursar.core.prices import MODEL_LENGTH_MAX
from bursar.core.tallies import Tallies
from bursar.engine.asks import estimate_of
from bursar.engine.callers import Caller, Unauthorized, identify
from bursar.engine.claims import Claims, decision
from bursar.engine.ports import Books, ClientGoneError, HttpClient, HttpRequest, Keys
from bursar.engine.prompt_cache import PromptCaching
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.engine.rulebook import Rulebook
from bursar.wire.context import read_trace
from bursar.wire.dialect import BadRequest, RequestFacts
from bursar.wire.providers import dialect_by_id
from bursar.wire.requests import free_facts, is_free, read_facts

from .answers import answer, failure_text, our_headers, until_gone
from .attribution import is_final, read_task
from .auth import upstream_headers
from .bodies import Head, discard, read_body
from .destinations import Destination, model_provider, resolve
from .metrics import Metrics
from .outgoing import Outgoing
from .problems import Problem
from .request import Calls, Clock, Request, scope_of
from .routed import RoutedCalls, Routing
from .sink import Sink

__all__ = ["Gateway"]

_log = logging.getLogger("bursar.gateway")

_JSON: Final = [("content-type", "application/json")]
_REASON_LENGTH_MAX: Final = 400


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
        routing: Routing,
    ) -> None:
        self._rulebook = rulebook
        self._keys = keys
        self._metrics = metrics
        self.alive: set[str] = set()
        self._calls = Calls(books, client, clock, metrics, claims, tallies, self.alive, PromptCaching())
        self._routed = RoutedCalls(self._calls, routing)
        self._running = 0
        self.draining = False

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        rulebook = self._rulebook()
        request = Head(scope)
        try:
            to = resolve(request.path, request.headers, rulebook)
        except BadRequest as error:
            problem = Problem(400, "bad_request", str(error), {"field": error.field})
            self._refuse(protocol, dialect_by_id("openai_chat").error_body, problem)
            return
        try:
            if self.draining:
                raise Problem(503, "shutting_down", "this gateway is shutting down; try again", {}, retry_after_s=1)
            if self._running >= rulebook.concurrency_max:
                limit = (
                    f"{self._running} calls are running, the limit is server.concurrency_max={rulebook.concurrency_max}"
                )
                raise Problem(503, "too_many_calls", f"{limit}; try again", {}, retry_after_s=1)
            self._running += 1
            try:
                await self._handle(request, protocol, to, rulebook)
            finally:
                self._running -= 1
        except ClientGoneError:
            return
        except Problem as problem:
            self._refuse(protocol, to.dialect.error_body, problem)
            if problem.rest is not None:
                await discard(problem.rest)
        except BadRequest as error:
            self._refuse(
                protocol, to.dialect.error_body, Problem(400, "bad_request", str(error), {"field": error.field})
            )
        except BooksError as error:
            problem = Problem(503, "books_unavailable", f"keys cannot be looked up: {error}", {}, retry_after_s=1)
            self._refuse(protocol, to.dialect.error_body, problem)
        except Unauthorized as error:
            self._refuse(protocol, to.dialect.error_body, Problem(401, "unauthorized", str(error), {}))
        except Exception:  # noqa: BLE001 - a bug of ours: the client is told in its dialect, and the log how it came
            _log.exception("a call failed inside Bursar")
            with suppress(RuntimeError):  # a stream that has begun breaks off
                problem = Problem(500, "internal_error", "this gateway has a bug: its log says which", {})
                self._refuse(protocol, to.dialect.error_body, problem)

    @property
    def running(self) -> int:
        return self._running

    async def _handle(self, head: Head, protocol: HttpProtocol, to: Destination, rulebook: Rulebook) -> None:
        caller = identify(head.headers, head.query, self._keys, require_keys=rulebook.require_keys)
        body = await read_body(head, protocol, rulebook.body_bytes_max, rulebook.body_timeout_s)
        if is_free(head.method, to.path):
            await self._pass_on(head, protocol, to, caller, body)
            return
        facts = read_facts(to.dialect, to.path, head.headers.get("content-type", ""), body)
        if len(facts.model) > MODEL_LENGTH_MAX:
            raise BadRequest(
                "model", f"its name has {len(facts.model)} characters, at most {MODEL_LENGTH_MAX} are taken"
            )
        route = rulebook.routes.find(facts.model)
        to, model = model_provider(to, facts.model, rulebook)
        ask_usage = route is None and facts.stream and not facts.asks_usage and to.must_ask_usage
        if model != facts.model or ask_usage:
            body = to.dialect.prepare(body, model=model if model != facts.model else None, ask_usage=ask_usage)
            facts = replace(facts, model=model)
        trace = read_trace(head.headers.get("traceparent"))
        scope = scope_of(head, facts, caller)
        request = Request(head, protocol, Sink(protocol), to, facts, body, caller, scope, trace, rulebook)
        if route is not None:
            await self._routed.handle(request, route)
        else:
            await self._call(request, ask_usage=ask_usage)

    # --- a call without a route -----------------------------------------------------------------------------------

    async def _call(self, request: Request, *, ask_usage: bool) -> None:
        to, sink, rulebook = request.to, request.sink, request.rulebook
        facts = request.facts
        if to.rule.terms:
            facts = replace(facts, terms=tuple(sorted({**dict(facts.terms), **dict(to.rule.terms)}.items())))
        headers = upstream_headers(request.head.items, request.caller, to.rule)

        def outgoing(to: Destination, body: bytes) -> HttpRequest:
            return HttpRequest(
                request.head.method, _with_query(to.url, request.caller.query), headers, body, facts.stream
            )

        calls = self._calls
        upstream = Outgoing(to, facts, outgoing, request.body, sink, calls.client, calls.books, hide_usage=ask_usage)
        opening = self._open(request, facts)
        task = read_task(request.head.headers, opening.scope)
        final = is_final(request.head.headers)
        sink.headers += [("x-bursar-call-id", opening.call_id), ("x-bursar-rung", "primary")]
        try:
            with until_gone(request.protocol, watched=facts.stream):
                done = await calls.make(opening, upstream, rulebook, to, facts, task=task, final=final)
        except ClientGoneError:
            return
        if isinstance(done, Refused):
            raise calls.refused(done)
        if not sink.started:
            answer(request, upstream.answer, upstream.failure, done, our_headers(done, "primary"))

    def _open(self, request: Request, facts: RequestFacts) -> Opening:
        now_us = self._calls.clock.now_us()
        call_id = self._calls.clock.new_id()
        provider = request.to.rule.provider
        return Opening(
            attempt_id=f"{call_id}.1",
            call_id=call_id,
            kind="model",
            door="gateway",
            operation=facts.operation,
            started_us=now_us,
            provider=provider.id,
            model_asked=facts.model,
            scope=request.scope,
            estimate=estimate_of(request.rulebook, provider.id, request.to.path, facts, now_us),
            stream=facts.stream,
            trace_id=request.trace.trace_id,
            span_id=request.trace.span_id,
            decision=decision(provider.id, facts.model),
        )

    # --- a request that costs nothing -----------------------------------------------------------------------------

    async def _pass_on(self, head: Head, protocol: HttpProtocol, to: Destination, caller: Caller, body: bytes) -> None:
        facts = free_facts(to.dialect, to.path)
        headers = upstream_headers(head.items, caller, to.rule)
        sent = HttpRequest(head.method, _with_query(to.url, caller.query), headers, body, facts.stream)
        sink = Sink(protocol)
        attempt = self._calls.client.attempt(sent, to.dialect, facts, sink, hide_usage=False, allowance=None)
        await attempt.exchange()
        if sink.started:
            return
        if attempt.answer is None:
            raise Problem(502, "upstream_unreachable", failure_text(attempt.failure), {"provider": to.rule.provider.id})
        protocol.response_bytes(attempt.answer.status, list(attempt.answer.headers), attempt.answer.body)

    def _refuse(self, protocol: HttpProtocol, error_body: _ErrorBody, problem: Problem) -> None:
        self._metrics.refused(problem.code)
        details = {"code": problem.code, **problem.more}
        headers = [*_JSON, *problem.headers]
        call_id = problem.more.get("call_id")
        if call_id is not None and all(name != "x-bursar-call-id" for name, _ in headers):
            headers.append(("x-bursar-call-id", str(call_id)))
        if problem.retry_after_s is not None:
            headers.append(("retry-after", str(problem.retry_after_s)))
        protocol.response_bytes(
            problem.status, headers, error_body(problem.status, problem.code, problem.message, details)
        )


_ErrorBody = Callable[[int, str, str, Mapping[str, object]], bytes]


def _with_query(url: str, query: str) -> str:
    return f"{url}?{query}" if query else url
