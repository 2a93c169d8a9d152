"""Calls on a route: from the cache, or up its rungs; then to the client, into the books, into the cache.

Rule 1: a cached answer is a ledger row of cost 0, with what it would have cost beside it, and is booked before it is sent.
Rule 2: what is kept is what the client was sent, byte for byte; it is sent again as it was, a stream all at once.
Rule 3: of several calls that ask the same at once one asks the provider.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from bursar.core.caching import CacheEntry, CacheTier, read_directive
from bursar.core.call import NeedsSettlement, Refused, Settled
from bursar.core.errors import BursarError
from bursar.core.ledger import Attempt, Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.routes import Route
from bursar.core.usage import NO_USAGE
from bursar.engine.climb import Climb, Climbed, RouteStates
from bursar.engine.health import Health
from bursar.engine.permits import is_degraded
from bursar.engine.ports import ClientGoneError, HttpAnswer
from bursar.engine.response_cache import NOTHING_KEPT, CacheAsk, Flight, ResponseCache, keepable
from bursar.engine.survey import Kept
from bursar.wire.canonical import cache_key
from bursar.wire.dialect import BadRequest
from bursar.wire.questions import answer_text, question_of
from bursar.wire.translate.speakers import speaker

from .answers import answer, is_gone, our_headers, until_gone
from .candidates import Attempting, RungsOf
from .problems import NO_RETRY, Problem
from .request import Calls, Request
from .side_calls import EmbedderOf, SideCalls
from .tenants import tenant_of

if TYPE_CHECKING:  # it loads numpy, which only routes with similar questions need
    from bursar.engine.similar import Asked, Similar

__all__ = ["RoutedCalls", "Routing"]

CACHE_HEADER: Final = "x-bursar-cache"
TAG_HEADER: Final = "x-bursar-cache-tag"
_US: Final = 1_000_000
_PATIENT_S: Final = 1.0
_TAGS_MAX: Final = 16
# Headers that say what of an API is asked for, and so change answers.
_TELLING: Final = ("anthropic-version", "anthropic-beta", "openai-beta")
_encode: Final = msgspec.json.Encoder().encode
_CACHED: Final = frozenset({"chat_completions", "messages", "generate_content", "responses", "embeddings"})


class Routing(NamedTuple):
    """What calls on routes share: how targets are doing, what is left of retries, what is kept. ``similar`` is made when a route
    asks for it."""

    health: Health
    states: RouteStates
    cache: ResponseCache
    similar: Callable[[], Similar]
    embedder_of: EmbedderOf


class _Call(NamedTuple):
    """One call on a route."""

    request: Request
    route: Route
    id: str
    started_us: int


class _Said(NamedTuple):
    """What a provider answered, and the client has. ``entry`` None: it could not be kept; ``kept`` False: it was not."""

    attempt: Attempt
    entry: CacheEntry | None = None
    kept: bool = False


class RoutedCalls:
    """Takes requests up the rungs of their routes."""

    def __init__(self, calls: Calls, routing: Routing) -> None:
        self._calls = calls
        self._routing = routing

    async def handle(self, request: Request, route: Route) -> None:
        """Answers, or raises Problem."""
        try:
            with until_gone(request.protocol, watched=request.facts.stream):
                learned = await self._handle(request, route)
        except ClientGoneError:
            return
        finally:
            request.sink.close()
        if learned is not None:
            await self._learn(request, *learned)

    async def _handle(self, request: Request, route: Route) -> tuple[Asked, _Said] | None:
        """Answer. Returns a question that is to be learned from, with what was said."""
        call = _Call(request, route, self._calls.clock.new_id(), self._calls.clock.now_us())
        ask = self._ask(request, route)
        if ask is None:
            await self._climb(call, None, NOTHING_KEPT)
            return None
        kept = await self._routing.cache.look(ask)
        similar: Asked | None = None
        told: Callable[[], None] | None = None
        if kept.fresh is None and (similar := await self._similar(request, ask, route)) is not None:
            kept, similar = await self._matched(ask, kept, similar)
            if kept.fresh is not None:
                told = partial(self._routing.similar().wrong, similar)
        if kept.fresh is not None and (route.cache_first or ask.directive == "only"):
            await self._hit(call, ask, kept, kept.fresh, kept.tier, told)
            return None
        if ask.directive == "only":
            self._routing.cache.looked(route.name, "miss")
            message = f"nothing fresh is kept for this request, and {CACHE_HEADER}: only asks no provider"
            raise Problem(504, "cache_miss", message, {"call_id": call.id}, headers=NO_RETRY)
        said = await self._asked_once(call, ask, kept, told)
        return None if similar is None or said is None else (similar, said)

    async def _matched(self, ask: CacheAsk, kept: Kept, similar: Asked) -> tuple[Kept, Asked]:
        """What is kept, with the answer to a similar question where that may be given."""
        kept = replace(kept, said={**kept.said, **similar.said})
        if similar.match is None or not similar.match.serve:
            return kept, similar
        entry = await self._routing.cache.entry(similar.match.key, ask.tenant)
        if entry is None:
            self._routing.similar().forget(similar.match.key)
            return kept, replace(similar, match=None)
        return replace(kept, fresh=entry, tier="semantic", said=self._found(kept, "similar", entry)), similar

    async def _asked_once(
        self, call: _Call, ask: CacheAsk, kept: Kept, told: Callable[[], None] | None
    ) -> _Said | None:
        """Rule 3. Returns what was said to this call, if it has asked for it."""
        cache = self._routing.cache
        if not ask.looks or not call.route.cache_first:
            return await self._climb(call, ask, kept, told=told)
        flight = cache.flight(ask.key)
        while not flight.leads:
            entry = await flight.wait(self._patience_s(call))
            if entry is not None:
                kept = replace(kept, said=self._found(kept, "coalesced", entry))
                await self._hit(call, ask, kept, entry, "coalesced")
                return None
            if not flight.left:
                return await self._climb(call, ask, kept)
            flight = cache.flight(ask.key)
        try:
            return await self._climb(call, ask, kept, flight)
        except (asyncio.CancelledError, ClientGoneError):
            flight.leave()
            raise
        finally:
            flight.land(None)

    def _patience_s(self, call: _Call) -> float | None:
        """How long a call waits for the answer to another: half of its own time that is left, for it may have to ask itself."""
        deadline_ms = call.route.deadline_ms
        return None if deadline_ms is None else max(0.0, (deadline_ms / 1_000 - self._spent_s(call)) / 2)

    def _spent_s(self, call: _Call) -> float:
        return (self._calls.clock.now_us() - call.started_us) / _US

    def _found(self, kept: Kept, found: str, entry: CacheEntry) -> Mapping[str, Any]:
        """What is said of an answer that is not the one that was looked for by its own key."""
        return {**kept.said, "found": found, "age_s": self._age_s(entry)}

    def _age_s(self, entry: CacheEntry) -> int:
        return max(0, (self._calls.clock.now_us() - entry.stored_us) // _US)

    async def _hit(
        self,
        call: _Call,
        ask: CacheAsk,
        kept: Kept,
        entry: CacheEntry,
        tier: CacheTier,
        wrong: Callable[[], None] | None = None,
    ) -> None:
        """Answer from the cache before anything else. A tag of the request is one of the answer's from now on."""
        await self._give(call, entry, tier, _hit_decision(call.route, kept), rung="cached", wrong=wrong)
        if ask.keeps and not set(ask.policy.tags) <= set(entry.tags):
            tags = tuple(dict.fromkeys((*entry.tags, *ask.policy.tags)))
            await self._routing.cache.keep(replace(entry, tags=tags))

    async def _similar(self, request: Request, ask: CacheAsk, route: Route) -> Asked | None:
        """What is known of similar questions, None where the route does not ask or the request has no question."""
        policy = ask.policy.semantic
        theirs = speaker(request.to.dialect) if policy is not None and ask.looks else None
        if policy is None or theirs is None or (ask.directive == "only" and "/" in policy.embed):
            return None  # who asks the cache alone pays no provider for a vector either
        question = question_of(theirs, request.to.path, request.caller.query, request.body)
        if question is None:
            return None
        side = SideCalls(self._calls, request, self._routing.embedder_of)
        try:
            vectors = side.vectors(policy.embed)
        except BursarError as error:
            self._routing.cache.trouble(error)
            return None
        path = f"{ask.meant}\n{request.facts.stream}"
        return await self._routing.similar().look(
            question, policy, vectors, tenant=ask.tenant, route=route.name, path=path, made="\n".join(_rungs(route))
        )

    async def _learn(self, request: Request, asked: Asked, said: _Said) -> None:
        """Compare what was answered with what would have been given, and keep the question where the answer is."""
        theirs, entry = speaker(request.to.dialect), said.entry
        text = None if theirs is None or entry is None else answer_text(theirs, entry.body, stream=entry.stream)
        if theirs is None or entry is None or text is None:
            self._routing.similar().differed(asked, said.attempt)
            return
        other: str | None = None
        if asked.match is not None and (asked.compared or asked.policy.judge):
            matched = await self._routing.cache.entry(asked.match.key, entry.tenant)
            other = None if matched is None else answer_text(theirs, matched.body, stream=matched.stream)
        side = SideCalls(self._calls, request, self._routing.embedder_of)

        async def judge(question: str, one: str, two: str) -> bool | None:
            return await side.same(asked.policy.judge, question, one, two)

        await self._routing.similar().learn(asked, entry.key if said.kept else None, text, other, judge)

    def _ask(self, request: Request, route: Route) -> CacheAsk | None:
        """The request as the cache knows it, None where the route keeps nothing. Raises BadRequest."""
        policy = route.cache
        if policy is None:
            return None
        headers = request.head.headers
        try:
            directive = read_directive(headers.get(CACHE_HEADER))
        except ValueError as error:
            raise BadRequest(CACHE_HEADER, str(error)) from None
        tags = tuple(tag.strip() for tag in headers.get(TAG_HEADER, "").split(",") if tag.strip())
        if len(tags) > _TAGS_MAX:
            raise BadRequest(TAG_HEADER, f"{len(tags)} tags: at most {_TAGS_MAX} are kept")
        policy = replace(policy, tags=policy.tags + tags) if tags else policy
        tenant = tenant_of(request.caller, headers, request.scope, policy.share)
        facts = request.facts
        if facts.operation not in _CACHED:
            return CacheAsk(
                "", "exact", tenant, route.name, policy, directive, why_not=f"{facts.operation} is not kept"
            )
        meant = _meant(request, route)
        found = cache_key(
            request.body, tenant=tenant, route=route.name, path=meant, stream=facts.stream, volatile=policy.volatile
        )
        why = ""
        if found.stateful:
            why = f"its answer depends on what the provider keeps: {found.stateful}"
        elif found.sampled and not policy.sampled and facts.operation != "embeddings":
            why = "its answer is drawn at random (temperature is not 0): cache: {sampled: true} keeps those too"
        if why:
            return CacheAsk("", "exact", tenant, route.name, policy, directive, why_not=why)
        tier: CacheTier = "template" if found.templated else "exact"
        return CacheAsk(found.key, tier, tenant, route.name, policy, directive, meant=meant)

    async def _climb(
        self,
        call: _Call,
        ask: CacheAsk | None,
        kept: Kept,
        flight: Flight | None = None,
        told: Callable[[], None] | None = None,
    ) -> _Said | None:
        """Returns what was said, None where that was no answer or broke off. ``told`` is to be told if a similar answer was given, and
        is said to be wrong."""
        request, route = call.request, call.route
        cache = "" if ask is None or not ask.looks else "miss"
        clears = self._routing.cache.clears
        rungs = RungsOf(self._calls, request, route, call.id, call.started_us, cache)
        climb = Climb(
            route,
            rungs,
            self._routing.health,
            self._routing.states,
            kept=kept,
            stream=request.facts.stream,
            now_us=self._calls.clock.now_us,
            draw=random.random,
            spent_s=self._spent_s(call),
            gone=None if request.facts.stream else partial(self._has_left, call),
        )
        climbed = await climb.run()
        self._count(route, climbed)
        if cache and climbed.kept is None:
            self._routing.cache.looked(route.name, cache)
        if climbed.kept is not None and climbed.tier is not None:
            wrong = told if climbed.tier == "semantic" else None
            await self._give(
                call, climbed.kept, climbed.tier, climbed.decision, rung=climbed.rung, climbed=climbed, wrong=wrong
            )
            return None
        by, done = climbed.by, climbed.done
        whole = rungs.continuation
        if whole is not None and request.sink.started and not whole.finished:
            await request.sink.write(whole.break_off())
            return None
        if isinstance(done, Refused):
            raise self._calls.refused(done)
        if by is None or done is None:
            raise self._nothing(route, climbed, call.id)
        assert isinstance(by, Attempting)
        body, content_type = await self._pass(request, by, done, climbed)
        if whole is not None and request.sink.started and not whole.finished:
            await request.sink.write(whole.break_off())
            return None
        if whole is not None and whole.parts > 1:
            return None
        if ask is None or done.attempt is None:
            return None
        if not ask.keeps or climbed.cause is not None or body is None or keepable(ask.policy, done, body):
            return _Said(done.attempt)
        entry = self._entry(request, ask, done.attempt, body, content_type)
        if is_degraded(done.admitted):
            return _Said(done.attempt, entry)
        if flight is not None:
            flight.land(entry)
        if self._routing.cache.clears != clears:  # perhaps this one was meant: it is asked for again
            return _Said(done.attempt, entry)
        await self._routing.cache.keep(entry)
        return _Said(done.attempt, entry, kept=True)

    async def _has_left(self, call: _Call) -> bool:
        """Whether the client of a whole answer has left. One that has waited for a moment only has not."""
        return self._spent_s(call) > _PATIENT_S and await is_gone(call.request.protocol)

    async def _pass(
        self, request: Request, by: Attempting, done: Settled, climbed: Climbed
    ) -> tuple[bytes | None, str]:
        """Send the answer, where it was not streamed already. Returns what was sent, None where it was too much to keep."""
        gate, outgoing = by.gate, by.outgoing
        assert gate is not None
        assert outgoing is not None
        given = outgoing.answer
        failure = outgoing.failure
        if given is None and not gate.opened:
            if climbed.cause == "cut":  # the beginning of nothing is no answer
                failure = failure or "the provider's stream broke off before it had said anything"
            else:
                await gate.flush()
        if gate.opened:
            return gate.sent, gate.content_type
        headers = [*by.headers(climbed.rung), *our_headers(done, climbed.rung)[2:]]
        if given is not None and climbed.cause == "invalid" and not _is_json(given.body):
            more = {"call_id": done.opening.call_id, "provider": done.opening.provider}
            raise Problem(502, "upstream_unreadable", "the provider's answer cannot be read", more, headers=headers)
        if given is not None and by.translated:
            given = _translated(request, by, done, given)
        answer(request, given, failure, done, headers)
        assert given is not None
        return given.body, next((value for name, value in given.headers if name == "content-type"), "")

    async def _give(
        self,
        call: _Call,
        entry: CacheEntry,
        tier: CacheTier,
        decision: str,
        *,
        rung: str,
        climbed: Climbed | None = None,
        wrong: Callable[[], None] | None = None,
    ) -> None:
        """Answer from the cache. ``wrong`` is to be told if somebody says that the answer was."""
        request, now_us = call.request, self._calls.clock.now_us()
        serial, number = (climbed.serial, climbed.number) if climbed else (1, 1)
        started_us = call.started_us if number == 1 else now_us  # what failed before it has its own time
        free = _free(entry, tier)
        opening = Opening(
            attempt_id=f"{call.id}.{serial}",
            call_id=call.id,
            kind="model",
            door="gateway",
            operation=request.facts.operation,
            started_us=started_us,
            provider=entry.provider,
            model_asked=request.facts.model,
            scope=request.scope,
            estimate=free,
            number=number,
            stream=request.facts.stream,
            trace_id=request.trace.trace_id,
            span_id=request.trace.span_id,
            decision=decision,
            model_sent=entry.model,
            rung=rung,
            cache=tier,
            cause=climbed.left_for if climbed else "",
        )
        attempt = Attempt(
            opening,
            "ok",
            free,
            latency_ms=(now_us - started_us) / 1_000,
            finish=entry.finish,
            avoided=None if entry.cost is None else NanoUSD(entry.cost),
        )
        await self._calls.books.settle(NeedsSettlement(opening, attempt))
        self._routing.cache.looked(call.route.name, tier)
        self._routing.cache.given(call.id, entry.key, wrong)
        self._calls.metrics.avoided(tier, entry.cost)
        headers = [
            ("content-type", entry.content_type),
            ("x-bursar-call-id", call.id),
            ("x-bursar-rung", rung),
            ("x-bursar-cache", tier),
            ("x-bursar-cost-usd", "0"),
            ("age", str(self._age_s(entry))),
        ]
        if request.facts.stream:
            await request.sink.start(200, tuple(headers))
            await request.sink.write(entry.body)
        else:
            request.protocol.response_bytes(200, headers, entry.body)

    def _count(self, route: Route, climbed: Climbed) -> None:
        self._calls.metrics.routed(route.name, climbed.rung, climbed.left_for)
        if climbed.left_for and climbed.cause is None:
            self._calls.tallies.add("fallback", climbed.left_provider, self._calls.clock.now_us())

    def _nothing(self, route: Route, climbed: Climbed, call_id: str) -> Problem:
        wait_s = None
        if climbed.wait_us:
            wait_s = max(1, -(-(climbed.wait_us - self._calls.clock.now_us()) // _US))
        message = f"route {route.name!r} has no rung left for this call: {climbed.reason or 'none could be taken'}"
        more: dict[str, object] = {"call_id": call_id, "route": route.name}
        if climbed.barred is not None:
            status, code = (400, "cannot_be_asked") if climbed.barred.by_request else (503, "no_rung")
            return Problem(status, code, message, more, headers=NO_RETRY)
        if climbed.cause == "budget":
            code = "budget_held" if climbed.waited else "budget_at"
            return Problem(402, code, message, more, headers=NO_RETRY)
        if climbed.cause in ("first_token", "slow"):
            return Problem(504, "too_slow", message, more, retry_after_s=wait_s)
        return Problem(503, "no_rung", message, more, retry_after_s=wait_s)

    def _entry(self, request: Request, ask: CacheAsk, attempt: Attempt, body: bytes, content_type: str) -> CacheEntry:
        now_us, policy, charge = self._calls.clock.now_us(), ask.policy, attempt.charge
        expires_us = now_us + policy.ttl_s * _US
        return CacheEntry(
            key=ask.key,
            tenant=ask.tenant,
            route=ask.route,
            body=body,
            content_type=content_type,
            stream=request.facts.stream,
            provider=attempt.opening.provider,
            model=charge.model or attempt.opening.model,
            cost=charge.amount,
            usage=tuple(sorted(charge.usage.counts().items())) if charge.usage is not None else (),
            attempt_id=attempt.opening.attempt_id,
            stored_us=attempt.opening.started_us,  # what was forgotten since then stays forgotten
            expires_us=expires_us,
            stale_us=expires_us + policy.stale_s * _US,
            tags=policy.tags,
            response_id=attempt.response_id,
            finish=attempt.finish,
            operation=attempt.opening.operation,
        )


def _meant(request: Request, route: Route) -> str:
    """What says beside the body which answer is meant: whom it is asked of, in which version, and what the route makes of it. A
    route that says something else by now means other answers."""
    headers, policy = request.head.headers, route.cache
    asked = [headers.get(name, "") for name in _TELLING]
    kept = f"{policy.ttl_s} {policy.stale_s} {policy.tool_calls}" if policy is not None else ""
    usage = "usage" if request.facts.asks_usage else ""
    path = f"{request.to.rule.provider.id} {request.to.path}?{request.caller.query}"
    return "\n".join((path, usage, *asked, kept, *_rungs(route)))


def _rungs(route: Route) -> list[str]:
    """What a route makes of a request."""
    return [f"{rung.kind} {rung.provider}/{rung.model} {rung.output_cap} {rung.effort}" for rung in route.rungs]


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return False
    return True


def _free(entry: CacheEntry, tier: CacheTier) -> Charge:
    return Charge(
        NanoUSD(0),
        None,
        NO_USAGE,
        provider=entry.provider,
        model=entry.model,
        notes=(f"answered by the cache: {tier}",),
    )


def _hit_decision(route: Route, kept: Kept) -> str:
    found: dict[str, Any] = {
        "rung": "cached", "why": "kept", "route": route.name, "candidates": [], "propensity": 1, "cache": kept.said,
    }  # fmt: skip
    return _encode(found).decode()


def _translated(request: Request, by: Attempting, done: Settled, given: HttpAnswer) -> HttpAnswer:
    """An answer, or an error, in the client's dialect."""
    dialect = request.to.dialect
    if given.status >= 400:
        text = done.attempt.error if done.attempt else ""
        more = {"code": "upstream_refused", "call_id": done.opening.call_id, "provider": done.opening.provider}
        body = dialect.error_body(given.status, "upstream_refused", text or f"HTTP {given.status}", more)
    else:
        if by.said is None:
            more = {"call_id": done.opening.call_id, "provider": done.opening.provider}
            raise Problem(502, "upstream_unreadable", "the provider's answer cannot be translated", more)
        body = by.said
    kept = tuple(pair for pair in given.headers if pair[0] in ("retry-after", "request-id", "x-request-id"))
    return HttpAnswer(given.status, (("content-type", "application/json"), *kept), body)
