"""What leaves for the provider: the client's request, as the budgets let it go.

Rule 1: nothing is changed unless a budget says so; what is changed is said in the answer's headers.
Rule 2: a stream whose hold does not cover its whole length asks for more before it gets there (``LOOK_AHEAD_TOKENS``), and
        ends cleanly when it gets none: what came until then is the client's, and is paid for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bursar.core.admission import Admitted
from bursar.core.alert_text import percent_text
from bursar.core.budget_fields import amount_text
from bursar.core.call import Held, NeedsMore, NeedsProvider, Reply
from bursar.core.ladder import UNCHANGED
from bursar.core.ledger import Opening
from bursar.core.money import decimal_text
from bursar.core.prices import Charge, Reading
from bursar.core.refusals import refusal_text
from bursar.engine.permits import CHUNK_TOKENS, LOOK_AHEAD_TOKENS, final_changes
from bursar.engine.ports import Books, HttpAnswer, HttpClient, HttpRequest, HttpUpstream
from bursar.wire.dialect import RequestFacts

from .destinations import Destination
from .gate import Gate
from .sink import Sink

__all__ = ["Outgoing", "budget_headers"]

Header = tuple[str, str]


class Outgoing:
    """``engine.ports.Upstream`` for one attempt of the gateway. ``sent`` is the attempt once it was made, ``reply`` what came
    of it; ``stopped`` is why we ended it, where we did, ``passed_over`` why it was not made after all."""

    def __init__(
        self,
        to: Destination,
        facts: RequestFacts,
        request: Callable[[Destination, bytes], HttpRequest],
        body: bytes,
        sink: Sink | Gate,
        client: HttpClient,
        books: Books,
        *,
        hide_usage: bool,
        budget_at: int | None = None,
        leaves: Callable[[], None] = lambda: None,
    ) -> None:
        """``budget_at`` is the share used of its tightest budget (thousandths) from which the attempt is not made after all;
        ``leaves`` is called when it is."""
        self._to = to
        self.facts = facts
        self._request = request
        self._body = body
        self._sink = sink
        self._client = client
        self._books = books
        self._hide_usage = hide_usage
        self._budget_at = budget_at
        self._leaves = leaves
        self.sent: HttpUpstream | None = None
        self.reply: Reply | None = None
        self.passed_over = ""
        self.stopped = ""

    async def send(self, need: NeedsProvider, /) -> Reply:
        admitted = need.held.admitted
        allowance = None
        if admitted is not None:
            if self._budget_at is not None and admitted.share >= self._budget_at:
                name = admitted.tightest.budget.name if admitted.tightest is not None else ""
                at, limit = percent_text(admitted.share), percent_text(self._budget_at)
                self.passed_over = f"budget {name} is used to {at}, budget_at is {limit}"
                return Reply(Reading(error=self.passed_over), "error", left=False)
            self._sink.headers += budget_headers(admitted, charge=None)
            self._shape(admitted)
            if admitted.extend:
                allowance = _Allowance(self._books, need.opening, need.held, admitted)
        self.sent = self._client.attempt(
            self._request(self._to, self._body),
            self._to.dialect,
            self.facts,
            self._sink,
            hide_usage=self._hide_usage,
            allowance=allowance,
        )
        self._leaves()
        self.reply = await self.sent.send(need)
        return self.reply

    def interrupted(self) -> Reply:
        if self.sent is None:
            return Reply(Reading(), "error", left=False)
        reply = self.sent.interrupted()
        if reply.status == "ok" and (self.showing or not self.stopped):
            self.reply = reply
            return reply  # all of it had come, and the client has it
        if not self.stopped:
            return reply
        return replace(reply, status="cancelled", reading=replace(reply.reading, error=self.stopped))

    @property
    def showing(self) -> bool:
        """Whether the provider has said something that counts."""
        return self.sent is not None and self.sent.showing

    @property
    def answer(self) -> HttpAnswer | None:
        return self.sent.answer if self.sent else None

    @property
    def failure(self) -> str:
        return self.sent.failure if self.sent else ""

    def _shape(self, admitted: Admitted) -> None:
        changes = final_changes(admitted)
        if changes == UNCHANGED:
            return
        dialect = self._to.dialect
        model = changes.model or self.facts.model
        self._body = dialect.prepare(self._body, model=model, ask_usage=False, changes=changes)
        if changes.model:
            self._to = replace(self._to, path=dialect.with_model(self._to.path, model))
            self.facts = replace(self.facts, model=model)


class _Allowance:
    """``engine.ports.Allowance``: output tokens that are paid for, a chunk at a time."""

    def __init__(self, books: Books, opening: Opening, held: Held, admitted: Admitted) -> None:
        self._books = books
        self._opening = opening
        self._held = held
        self._offer = admitted.offer
        self._tokens = admitted.output_tokens
        self.refusal = ""

    async def covers(self, tokens: int) -> bool:
        while tokens + LOOK_AHEAD_TOKENS > self._tokens < self._offer.output_tokens:
            to = min(self._tokens + CHUNK_TOKENS, self._offer.output_tokens)
            amount = 0
            if self._offer.input is not None:
                amount = self._offer.cost(to) - self._offer.cost(self._tokens)
            need = NeedsMore(self._opening, self._held, amount, (to - self._tokens) * self._offer.choices)
            refusal = await self._books.extend(need)
            if refusal is not None:
                self.refusal = refusal_text(refusal)
                return False
            self._tokens = to
        return True


def budget_headers(admitted: Admitted, *, charge: Charge | None) -> list[Header]:
    """What a client is told of its tightest budget. ``charge`` is what the call cost, None while only its hold is known."""
    check, left = admitted.tightest, admitted.left
    if check is None or left is None:
        return []
    unit = check.budget.unit
    if unit == "usd" and charge is not None and charge.amount is not None:
        left += (admitted.amount or 0) - charge.amount
    if unit == "tokens" and charge is not None and charge.usage is not None:
        left += admitted.tokens - charge.usage.input_tokens - charge.usage.output_tokens
    remaining = decimal_text(left) if unit == "usd" else amount_text(unit, left)
    headers = [("x-bursar-budget", check.budget.name), ("x-bursar-budget-remaining", remaining)]
    if admitted.output_cap is not None:
        headers.append(("x-bursar-output-cap", str(admitted.output_cap)))
    if admitted.rungs:
        headers.append(("x-bursar-budget-changed", ",".join(admitted.rungs)))
    return headers
