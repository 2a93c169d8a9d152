"""One request of a client that may cost money, and what all of them need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from bursar.core.budgets import TaskLimit
from bursar.core.call import Arrived, Done, NeedsSettlement, Refused
from bursar.core.ledger import Opening
from bursar.core.refusals import refusal_details, refusal_text
from bursar.core.scopes import NOBODY, Scope
from bursar.core.tallies import Tallies
from bursar.engine.asks import asking_of, price_reply
from bursar.engine.callers import Caller
from bursar.engine.claims import Claims
from bursar.engine.drive import drive
from bursar.engine.ports import Books, HttpClient, Upstream
from bursar.engine.prompt_cache import PromptCaching
from bursar.engine.rsgi import HttpProtocol
from bursar.engine.rulebook import Rulebook
from bursar.wire.context import Trace, attribute
from bursar.wire.dialect import RequestFacts

from .bodies import Head
from .destinations import Destination
from .metrics import Metrics
from .problems import NO_RETRY, Problem
from .sink import Sink

__all__ = ["Calls", "Clock", "Request", "scope_of"]


class Clock(NamedTuple):
    """Time and ids, from outside: ``now_us`` is microseconds since 1970, ``new_id`` a new call's id."""

    now_us: Callable[[], int]
    new_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was understood. ``to`` is where the client sent it, ``facts`` what its body says."""

    head: Head
    protocol: HttpProtocol
    sink: Sink
    to: Destination
    facts: RequestFacts
    body: bytes
    caller: Caller
    scope: Scope
    trace: Trace
    rulebook: Rulebook


@dataclass(frozen=True, slots=True)
class Calls:
    """What calls are made with. ``alive`` are the attempts under way."""

    books: Books
    client: HttpClient
    clock: Clock
    metrics: Metrics
    claims: Claims
    tallies: Tallies
    alive: set[str]
    prompt_caching: PromptCaching

    def refused(self, done: Refused) -> Problem:
        """The answer to a call that a budget, or failing books, did not let go."""
        more: dict[str, object] = {"call_id": done.opening.call_id}
        refusal = done.refusal
        if refusal is None:
            return Problem(503, "books_unavailable", done.reason, more, retry_after_s=1)
        self.metrics.denied(refusal.budget, refusal.code)
        self.tallies.add("denied", done.opening.provider, self.clock.now_us())
        more |= refusal_details(refusal)
        status = 400 if refusal.code == "too_deep" else 402
        return Problem(status, refusal.code, refusal_text(refusal), more, headers=NO_RETRY)

    async def make(
        self,
        opening: Opening,
        upstream: Upstream,
        rulebook: Rulebook,
        to: Destination,
        facts: RequestFacts,
        *,
        task: TaskLimit | None = None,
        final: bool = False,
        sent: Callable[[], RequestFacts] | None = None,
    ) -> Done:
        """Take one attempt from its hold to its settlement; count it, and learn from it, whatever becomes of it. ``sent`` gives
        the facts of the request as it was sent, where a budget may have changed it."""
        can_cap = to.dialect.can_cap
        asking = asking_of(rulebook, opening.provider, to.path, facts, opening.started_us, can_cap=can_cap)
        claim = self.claims.claim(rulebook, opening, asking, task=task, final=final)

        def settled(settlement: NeedsSettlement) -> None:
            attempt = settlement.attempt
            self.metrics.settled(opening.provider, attempt)
            if attempt is not None:
                self.claims.learn(attempt, facts if sent is None else sent())
                self.tallies.settled(attempt, self.clock.now_us())

        self.alive.add(opening.attempt_id)
        try:
            return await drive(
                Arrived(opening, claim),
                self.books,
                upstream,
                lambda o, r: price_reply(rulebook, o, r, to.path),
                settled,
            )
        finally:
            self.alive.discard(opening.attempt_id)


def scope_of(head: Head, facts: RequestFacts, caller: Caller) -> Scope:
    """Who a request is for."""
    defaults = caller.key.scope if caller.key else NOBODY
    found = attribute(head.items, head.headers.get("baggage", ""), facts, defaults)
    return found.pinned(defaults, caller.key.pinned) if caller.key else found
