"""The rungs of a route as attempts of one request of a client.

Rule 1: a rung that speaks the client's dialect gets the client's own bytes, but for the model's name; another one a translation,
        where both can say all of it. What cannot be said is known before anything is held.
Rule 2: the client's own key goes only to the provider that it was sent to. Every other one is asked with a key of the server's.
Rule 3: what a request can cost is read from the bytes that are sent, not from those that came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bursar.core.call import Done, Refused, Settled
from bursar.core.failures import Cause
from bursar.core.ladder import Changes
from bursar.core.ledger import Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.routes import Route, RouteRung
from bursar.engine.asks import estimate_of
from bursar.engine.claims import thread_of
from bursar.engine.health import Target
from bursar.engine.permits import time_of
from bursar.engine.ports import ClientGoneError, HttpRequest
from bursar.engine.prompt_cache import Planned
from bursar.engine.survey import Barred, Candidate, Why
from bursar.wire.dialect import BadRequest, RequestFacts
from bursar.wire.failures import cause_of, retry_after_s
from bursar.wire.providers import Provider
from bursar.wire.requests import read_facts
from bursar.wire.translate.anthropic_marks import without_foreign_thinking
from bursar.wire.translate.conversation import Sent, Speaker, StreamWriter, Untranslatable
from bursar.wire.translate.gemini import GeminiSpeaker, wants_array
from bursar.wire.translate.gemini_marks import without_foreign_thoughts
from bursar.wire.translate.openai_thoughts import without_traces
from bursar.wire.translate.speakers import SPEAKERS, StreamTranslation, speaker, translate_answer

from .attribution import is_final, read_task
from .auth import NoKeyError, fallback_headers, upstream_headers
from .continuing import Continuation, Part
from .destinations import Destination, destination
from .gate import Gate
from .outgoing import Outgoing
from .request import Calls, Request
from .tenants import client_digest, key_digest, tenant_of

__all__ = ["Attempting", "RungsOf", "native"]

_KEEP_BYTES_MAX: Final = 8 * 1024 * 1024
_OWN_PATHS: Final = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "openai_embeddings": "/v1/embeddings",
    "anthropic": "/v1/messages",
}


class RungsOf:
    """``engine.climb.Candidates``: the rungs of ``route`` for one request."""

    def __init__(self, calls: Calls, request: Request, route: Route, call_id: str, started_us: int, cache: str) -> None:
        self.calls = calls
        self.request = request
        self.asked = request.facts.operation
        self.call_id = call_id
        self.started_us = started_us
        self.cache = cache
        self.route = route
        headers = request.head.headers
        # Before any attempt: a bad one is a bad request, and nobody's failure.
        self.task = read_task(headers, request.scope)
        self.final = is_final(headers)
        self.continuation = self._continuation()

    def _continuation(self) -> Continuation | None:
        request = self.request
        ours = speaker(request.to.dialect)
        if self.route.mid_stream == "end" or ours is None or not request.facts.stream:
            return None
        read = partial(ours.read_request, request.to.path, request.caller.query, request.body)
        return Continuation(self._writer(ours), read)

    def translation(self, theirs: Speaker | None) -> StreamTranslation | Part | None:
        """What turns a provider's stream into the client's; ``theirs`` None: nothing needs to."""
        ours = speaker(self.request.to.dialect)
        if ours is None or not self.request.facts.stream:
            return None
        if self.continuation is not None:
            return Part((theirs or ours).reader(), self.continuation, same=theirs is None)
        return None if theirs is None else StreamTranslation(theirs.reader(), self._writer(ours))

    def _writer(self, ours: Speaker) -> StreamWriter:
        facts = self.request.facts
        if isinstance(ours, GeminiSpeaker):
            array = wants_array(self.request.caller.query)
            return ours.writer(model=facts.model, created_s=self.started_us // 1_000_000, asks_usage=False, array=array)
        return ours.writer(model=facts.model, created_s=self.started_us // 1_000_000, asks_usage=facts.asks_usage)

    def headers(self, rung: str) -> list[tuple[str, str]]:
        """What a client is told of where its answer comes from."""
        headers = [("x-bursar-call-id", self.call_id), ("x-bursar-rung", rung)]
        if self.cache:
            headers.append(("x-bursar-cache", self.cache))
        return headers

    def ready(self, index: int) -> Candidate | Barred:
        rung = self.route.rungs[index]
        try:
            return self._ready(rung)
        except NoKeyError as error:
            return Barred(str(error))
        except Untranslatable as error:
            return Barred(str(error), by_request=True)
        except BadRequest as error:
            return Barred(f"the request cannot be written for it: {error}", by_request=True)

    def _ready(self, rung: RouteRung) -> Attempting:
        request = self.request
        rule = request.to.rule if rung.is_asked else request.rulebook.providers[rung.provider]
        model = request.facts.model if rung.is_asked else rung.model
        same_provider = rule.provider.id == request.to.rule.provider.id
        goes_on = self.continuation is not None and self.continuation.can_go_on
        translated = goes_on or not (same_provider or _speaks(rule.provider, request.to))
        if translated:
            sent = _translated(request, rule.provider, model, self.continuation if goes_on else None)
            to, body, query = destination(rule, sent.path, named=True), sent.body, sent.query
        else:
            sent = None
            path = request.to.path if same_provider else _OWN_PATHS.get(request.to.dialect.id, request.to.path)
            dialect = request.to.dialect
            if model != request.facts.model:
                path = dialect.with_model(path, model)
            body = _UNTRACED.get(dialect.id, bytes)(request.body)
            to, query = destination(rule, path, named=True), request.caller.query
        if same_provider:
            headers = upstream_headers(request.head.items, request.caller, rule)
        else:
            headers = fallback_headers(
                request.head.items, rule, own=() if sent is None else sent.headers, kept=sent is None
            )
        facts = request.facts if sent is None else read_facts(to.dialect, to.path, "application/json", body)
        ask_usage = request.facts.stream and not facts.asks_usage and to.must_ask_usage
        changes = Changes(output_cap=rung.output_cap, effort=rung.effort)
        body = to.dialect.prepare(
            body, model=model if model != facts.model else None, ask_usage=ask_usage, changes=changes
        )
        facts = replace(facts, model=model)
        if rung.output_cap is not None or rung.effort:
            facts = replace(read_facts(to.dialect, to.path, "application/json", body), model=model)
        if rule.terms:
            facts = replace(facts, terms=tuple(sorted({**dict(facts.terms), **dict(rule.terms)}.items())))
        return Attempting(
            self,
            rung,
            to,
            body,
            query,
            headers,
            facts,
            hide_usage=ask_usage and sent is None,
            translated=translated,
        )


class Attempting:
    """``engine.climb.Candidate``: one attempt of one request. ``said`` is its whole answer in the client's dialect, where it was
    another."""

    def __init__(
        self,
        rungs: RungsOf,
        rung: RouteRung,
        to: Destination,
        body: bytes,
        query: str,
        headers: tuple[tuple[str, str], ...],
        facts: RequestFacts,
        *,
        hide_usage: bool,
        translated: bool,
    ) -> None:
        self.to = to
        self.facts = facts
        self.translated = translated
        self._rungs = rungs
        self._rung = rung
        self._body = body
        self._query = query
        self._headers = headers
        self._hide_usage = hide_usage
        self.outgoing: Outgoing | None = None
        self.gate: Gate | None = None
        self.said: bytes | None = None
        self._late = False
        rule, request = to.rule, rungs.request
        own = request.caller.key is None and rule.provider.id == request.to.rule.provider.id
        key = client_digest(request.caller, request.head.headers) if own else key_digest(rule.key or "")
        self.target = Target(rule.provider.id, facts.model, key, urlsplit(rule.base_url).netloc)
        self._estimate: Charge = estimate_of(
            rungs.request.rulebook, to.rule.provider.id, to.path, facts, rungs.started_us
        )

    @property
    def expected(self) -> NanoUSD | None:
        return self._estimate.amount

    @property
    def context_window(self) -> int | None:
        rule = self.to.rule
        prices = self._rungs.request.rulebook.book.find(rule.provider.price_id(self.to.path), self.facts.model)
        return prices.context_window if prices else None

    @property
    def left(self) -> bool:
        if self.outgoing is None or self.outgoing.sent is None:
            return False
        return self.outgoing.reply is None or self.outgoing.reply.left

    @property
    def replied(self) -> bool:
        return self.outgoing is not None and self.outgoing.reply is not None

    async def make(self, why: Why, leaves: Callable[[], None], shows: Callable[[], bool]) -> Done:
        rungs, calls = self._rungs, self._rungs.calls
        request, rulebook = rungs.request, rungs.request.rulebook
        planned = self._plan()
        opening = self._opening(why, planned)
        gate = self.gate = Gate(
            request.sink,
            shows,
            lambda: self.outgoing is not None and self.outgoing.showing,
            translation=rungs.translation(speaker(self.to.dialect) if self.translated else None),
            keep_max=_KEEP_BYTES_MAX,
        )
        gate.headers += rungs.headers(why.rung)
        self.outgoing = Outgoing(
            self.to, self.facts, self._http_request, self._body, gate, calls.client, calls.books,
            hide_usage=self._hide_usage, budget_at=self._rung.budget_at, leaves=leaves,
        )  # fmt: skip
        outgoing = self.outgoing
        try:
            done = await calls.make(
                opening, outgoing, rulebook, self.to, self.facts, task=rungs.task, final=rungs.final,
                sent=lambda: outgoing.facts,
            )  # fmt: skip
            with suppress(ClientGoneError):
                await gate.finish()
        except asyncio.CancelledError:
            if self._late:
                calls.tallies.add("failed", opening.provider, calls.clock.now_us())
            raise
        if planned is not None and not isinstance(done, Refused) and done.attempt is not None:
            charge = done.attempt.charge
            calls.prompt_caching.settled(planned, None if charge.estimated else charge.usage)
        return done

    def _plan(self) -> Planned | None:
        """Where the route asks for it, let the provider keep what is expected to come again."""
        rungs = self._rungs
        if not rungs.route.prompt_cache:
            return None
        rule, facts = self.to.rule, self.facts
        book, price_id = rungs.request.rulebook.book, rule.provider.price_id(self.to.path)
        at_us = rungs.calls.clock.now_us()
        scope, thread = rungs.request.scope, thread_of(rungs.request.scope)
        tenant = tenant_of(rungs.request.caller, rungs.request.head.headers, scope, "user")
        planned = rungs.calls.prompt_caching.plan(
            f"{tenant} {thread}" if thread else "",
            facts,
            self.to.dialect.id,
            self._body,
            book.card(price_id, facts.model, time_of(at_us), facts.terms),
            at_us,
            takes_key=rule.provider.cache_key,
            group=f"{tenant} {scope.agent}",
            owner=self.target.key,
        )
        self._body, self.facts = planned.body, planned.facts
        return planned

    def cause(self, done: Settled) -> Cause | None:
        outgoing = self.outgoing
        assert outgoing is not None
        if outgoing.passed_over:
            return "budget"
        if done.attempt is not None and done.attempt.status in ("cancelled", "ended"):
            return None
        if outgoing.reply is None:
            return "connect"
        answer = outgoing.answer
        found = cause_of(outgoing.reply, answer.body if answer is not None and answer.status >= 400 else b"")
        if self.translated and answer is not None and answer.status < 400 and found in (None, "content_policy"):
            self.said = self._in_their_dialect(answer.body)  # a refusal too: nothing else may be left
            return "invalid" if found is None and self.said is None else found
        return found

    def _in_their_dialect(self, body: bytes) -> bytes | None:
        theirs, ours = speaker(self.to.dialect), speaker(self._rungs.request.to.dialect)
        assert theirs is not None
        assert ours is not None
        try:
            return translate_answer(theirs, ours, body, created_s=self._rungs.started_us // 1_000_000)
        except ValueError:
            return None

    @property
    def passed_over(self) -> str:
        return "" if self.outgoing is None else self.outgoing.passed_over

    def goes_on(self) -> bool:
        continuation = self._rungs.continuation
        return continuation is not None and continuation.can_go_on

    def retry_after_s(self) -> float | None:
        answer = self.outgoing.answer if self.outgoing is not None else None
        if answer is None or answer.status < 400:
            return None
        return retry_after_s(answer.headers, answer.body, time.time())

    def headers(self, rung: str) -> list[tuple[str, str]]:
        return self._rungs.headers(rung)

    def stopping(self, reason: str, *, failed: bool) -> None:
        self._late = failed
        if self.outgoing is not None and not self.outgoing.stopped:
            self.outgoing.stopped = reason

    def _http_request(self, to: Destination, body: bytes) -> HttpRequest:
        url = f"{to.url}?{self._query}" if self._query else to.url
        return HttpRequest("POST", url, self._headers, body, self._rungs.request.facts.stream)

    def _opening(self, why: Why, planned: Planned | None) -> Opening:
        rungs = self._rungs
        request = rungs.request
        asked = request.facts.model
        return Opening(
            attempt_id=f"{rungs.call_id}.{why.serial}",
            call_id=rungs.call_id,
            kind="model",
            door="gateway",
            operation=self.facts.operation,
            started_us=rungs.calls.clock.now_us(),
            provider=self.to.rule.provider.id,
            model_asked=asked,
            scope=request.scope,
            estimate=self._estimate,
            number=why.number,
            stream=request.facts.stream,
            trace_id=request.trace.trace_id,
            span_id=request.trace.span_id,
            decision=why.decision if planned is None else _with_note(why.decision, planned.note),
            model_sent="" if self.facts.model == asked else self.facts.model,
            rung=why.rung,
            cache=rungs.cache,
            cause=why.cause,
        )


def _with_note(decision: str, note: Mapping[str, Any] | None) -> str:
    if note is None:
        return decision
    return msgspec.json.encode(msgspec.json.decode(decision) | {"prompt_cache": note}).decode()


def _speaks(provider: Provider, asked: Destination) -> bool:
    """Whether a provider takes the client's own bytes. Where it offers another's dialect beside its own, its own says more."""
    own = native(provider)
    if asked.dialect.id in SPEAKERS:
        return own == asked.dialect.id
    return own == "openai_chat" and provider.dialect(asked.path).id == asked.dialect.id


def native(provider: Provider) -> str:
    """The first of the translated dialects that a provider speaks, "" where it speaks none."""
    return next((dialect for _, dialect in provider.paths if dialect in SPEAKERS), "")


def _translated(request: Request, provider: Provider, model: str, goes_on: Continuation | None) -> Sent:
    theirs, ours = speaker(provider.dialects[native(provider) or "generic"]), speaker(request.to.dialect)
    if ours is None or request.facts.operation not in _GENERATIONS:
        what = f"{request.facts.operation} of {request.to.dialect.id}"
        raise Untranslatable("", f"{what} is not translated for {provider.id}")
    if theirs is None:
        raise Untranslatable("", f"nothing is translated for {provider.id}")
    asked = ours.read_request(request.to.path, request.caller.query, request.body)
    return theirs.write_request(asked if goes_on is None else goes_on.asked(asked), model)


# A conversation that another provider has had a part in: what only that one can read would be refused by this one.
_UNTRACED: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "openai_chat": without_traces,
    "anthropic": without_foreign_thinking,
    "gemini": without_foreign_thoughts,
}

_GENERATIONS: Final = frozenset({"chat_completions", "messages", "generate_content"})
