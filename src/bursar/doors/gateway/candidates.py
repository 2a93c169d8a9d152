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
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from bursar.core.call import Arrived, Done, Refused, Settled
from bursar.core.failures import Cause
from bursar.core.ladder import Changes
from bursar.core.ledger import Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.routes import Route, RouteRung
from bursar.engine.asks import asking_of, estimate_of, price_reply
from bursar.engine.claims import thread_of
from bursar.engine.drive import drive
from bursar.engine.health import Target
from bursar.engine.permits import time_of
from bursar.engine.ports import ClientGoneError, HttpRequest
from bursar.engine.prompt_cache import Planned
from bursar.engine.survey import Candidate, Why
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
from .tenants import client_digest, key_digest

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
        self.call_id = call_id
        self.started_us = started_us
        self.cache = cache
        self.route = route
        self.continuation = self._continuation()

    def _continuation(self) -> Continuation | None:
        ours = speaker(self.request.to.dialect)
        if self.route.mid_stream == "end" or ours is None or not self.request.facts.stream:
            return None
        return Continuation(self._writer(ours))

    def translation(self, theirs: Speaker | None) -> StreamTranslation | Part | None:
        """What turns a provider's stream into the client's; ``theirs`` None: nothing needs to."""
        ours = speaker(self.request.to.dialect)
        if ours is None or not self.request.facts.stream:
            return None
        if self.continuation is not None:
            return Part((theirs or ours).reader(), self.continuation)
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

    def ready(self, index: int) -> Candidate | str:
        rung = self.route.rungs[index]
        try:
            return self._ready(rung)
        except (Untranslatable, NoKeyError) as error:
            return str(error)
        except BadRequest as error:
            return f"the request cannot be written for it: {error}"

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
            hide_usage=ask_usage and sent is None and self.continuation is None,
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

    async def make(self, why: Why, shows: Callable[[], bool]) -> Done:
        rungs, calls = self._rungs, self._rungs.calls
        request, rulebook = rungs.request, rungs.request.rulebook
        planned = self._plan()
        opening = self._opening(why, planned)
        asking = asking_of(
            rulebook, opening.provider, self.to.path, self.facts, opening.started_us, can_cap=self.to.dialect.can_cap
        )
        claim = calls.claims.claim(
            rulebook,
            opening,
            asking,
            task=read_task(request.head.headers, opening.scope),
            final=is_final(request.head.headers),
        )
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
            hide_usage=self._hide_usage, budget_at=self._rung.budget_at,
        )  # fmt: skip
        calls.alive.add(opening.attempt_id)
        try:
            done = await drive(
                Arrived(opening, claim),
                calls.books,
                self.outgoing,
                lambda o, r: price_reply(rulebook, o, r, self.to.path),
            )
            with suppress(ClientGoneError):
                await gate.finish()
        except asyncio.CancelledError:
            calls.metrics.cancelled(opening.provider)
            raise
        finally:
            calls.alive.discard(opening.attempt_id)
        if not isinstance(done, Refused):
            calls.settled(done, self.outgoing.facts)
            if planned is not None and done.attempt is not None:
                calls.prompt_caching.settled(planned, done.attempt.charge.usage)
        return done

    def _plan(self) -> Planned | None:
        """Where the route asks for it, let the provider keep what is expected to come again."""
        rungs = self._rungs
        if not rungs.route.prompt_cache:
            return None
        rule, facts = self.to.rule, self.facts
        book, price_id = rungs.request.rulebook.book, rule.provider.price_id(self.to.path)
        at_us = rungs.calls.clock.now_us()
        scope = rungs.request.scope
        planned = rungs.calls.prompt_caching.plan(
            thread_of(scope),
            facts,
            self.to.dialect.id,
            self._body,
            book.card(price_id, facts.model, time_of(at_us), facts.terms),
            at_us,
            takes_key=rule.provider.cache_key,
            group=scope.agent,
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
        if found is None and self.translated and answer is not None:
            self.said = self._in_their_dialect(answer.body)
            return None if self.said is not None else "invalid"
        return found

    def _in_their_dialect(self, body: bytes) -> bytes | None:
        theirs, ours = speaker(self.to.dialect), speaker(self._rungs.request.to.dialect)
        assert theirs is not None
        assert ours is not None
        try:
            return translate_answer(theirs, ours, body, created_s=self._rungs.started_us // 1_000_000)
        except ValueError:
            return None

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

    def stopping(self, reason: str) -> None:
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
