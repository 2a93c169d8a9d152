"""Calls as the budgets see them: what a request can cost, what it asks, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bursar.adapters.zones import zone_of
from bursar.core.admission import Admitted, Claim, Offer
from bursar.core.budget_fields import parse_budget
from bursar.core.budgets import Budget, TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsSettlement
from bursar.core.ladder import Changes
from bursar.core.ledger import Attempt, Opening, Status
from bursar.core.money import NanoUSD, Rate
from bursar.core.prices import Charge
from bursar.core.scopes import Scope
from bursar.core.usage import Usage

UTC_2026 = int(datetime.fromisoformat("2026-11-25T12:00:00+00:00").timestamp()) * 1_000_000


def at_us(text: str) -> int:
    """The moment of an ISO text with its offset."""
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


def a_budget(name: str = "purse", **spec: Any) -> Budget:
    return parse_budget(name, {"limit": "$1", "floor_tokens": 16, **spec}, zone_of)


def nano(amount: int) -> str:
    """An amount of nano-USD as people write it."""
    return f"${amount / 1_000_000_000:.9f}"


@dataclass(frozen=True)
class Ask:
    """A request: at most ``input`` nano-USD and ``input_tokens`` before its answer, ``rate`` nano-USD for one of up to
    ``cap`` output tokens. ``estimated`` is the share (of 100) of what was held that an expiry charges."""

    name: str
    at: int = UTC_2026
    scope: Scope = Scope()  # noqa: RUF009 - nobody changes it
    input: int | None = 1_000
    input_tokens: int = 100
    rate: Rate = Rate(10, 1)  # noqa: RUF009 - a tuple
    cap: int = 1_000
    likely: int = 200
    clampable: bool = True
    stream: bool = False
    final: bool = False
    task: TaskLimit | None = None
    estimated: int = 50
    patient: bool = True

    @property
    def opening(self) -> Opening:
        return Opening(
            attempt_id=f"{self.name}.1",
            call_id=self.name,
            kind="model",
            door="gateway",
            operation="chat_completions",
            started_us=self.at,
            provider="openai",
            model_asked="gpt-5",
            scope=self.scope,
            estimate=self.charge(None if self.input is None else self.input, 0),
            stream=self.stream,
        )

    def offer(self, changes: Changes) -> Offer:
        money = None if self.input is None else NanoUSD(self.input)
        return Offer(changes, money, self.input_tokens, self.rate, self.cap, self.likely, self.clampable)

    def opened(self, admitted: Admitted) -> Opening:
        """As admitted: the estimate is a part of what is held."""
        tokens = max(0, admitted.tokens - self.input_tokens) * self.estimated // 100
        amount = None if self.input is None else (admitted.amount or 0) * self.estimated // 100
        return replace(self.opening, estimate=self.charge(amount, tokens))

    def need(self, budgets: Sequence[Budget] = ()) -> NeedsHold:
        covering = tuple(budget for budget in budgets if budget.covers(self.scope))
        claim = Claim(
            covering, self.scope, self.at, self.offer, self.opened, "gpt-5", self.stream, self.final, self.task,
            self.patient,
        )  # fmt: skip
        return NeedsHold(self.opening, claim)

    def charge(self, amount: int | None, output_tokens: int, input_tokens: int | None = None) -> Charge:
        usage = Usage(
            input_tokens=self.input_tokens if input_tokens is None else input_tokens, output_tokens=output_tokens
        )
        if amount is None:
            return Charge(None, "no price", usage, (), "openai", "gpt-5", "test")
        return Charge(NanoUSD(amount), None, usage, (), "openai", "gpt-5", "test")

    def ended(
        self, held: Held | None, amount: int | None, output_tokens: int = 0, status: Status = "ok"
    ) -> NeedsSettlement:
        opening = (held.opening if held else None) or self.opening
        attempt = Attempt(opening, status, self.charge(amount, output_tokens), http_status=200)
        return NeedsSettlement(opening, attempt, held)

    def voided(self, held: Held | None = None) -> NeedsSettlement:
        return NeedsSettlement((held.opening if held else None) or self.opening, None, held)
