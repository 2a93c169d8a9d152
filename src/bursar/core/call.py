"""The life of one paid call, as states. No I/O, no clock, no logging.

Rule 1: everything that decides what happens next lives in this file.
Rule 2: this file does not know which door the call came through.
Rule 3: once money is held, every path ends in ``Settled``; what a crash leaves behind, the sweeper expires.
Rule 4: an attempt that provably never left is voided; any other is settled at what is known of it.

    Arrived -> NeedsHold -> NeedsProvider -> NeedsSettlement -> Settled
                        \\-> Refused (a budget said no, or the books could not hold)
"""

from __future__ import annotations

from typing import TypeAlias

from .admission import Admitted, Claim, Refusal
from .budgets import Check
from .ledger import Attempt, Opening, Status
from .money import NanoUSD
from .prices import Charge, Reading
from .values import valueclass

__all__ = [
    "Arrived",
    "Done",
    "Held",
    "NeedsHold",
    "NeedsMore",
    "NeedsProvider",
    "NeedsSettlement",
    "NotHeld",
    "Refused",
    "Reply",
    "Settled",
    "State",
    "attempt_of",
    "observed",
]


@valueclass
class Held:
    """The books set the amount aside (None where the price is not known: the attempt is tracked, no money is held).

    ``opening`` is the attempt as it was admitted, ``admitted`` how (None: no budget looked at it), ``checks`` and
    ``accounts`` the budgets it is held under and where it is entered.
    """

    amount: NanoUSD | None
    opening: Opening | None = None
    admitted: Admitted | None = None
    checks: tuple[Check, ...] = ()
    accounts: tuple[str, ...] = ()


@valueclass
class NotHeld:
    """The books did not set the money aside, and why: a budget's refusal, or else the books themselves failed."""

    reason: str
    refusal: Refusal | None = None


@valueclass
class Reply:
    """What came back from the provider. ``left`` is False only when the request provably never left.

    ``latency_ms`` runs from the start of the attempt to its last byte, ``first_token_ms`` to its first. ``request_id`` is what
    the provider called the request in its answer's headers.
    """

    reading: Reading
    status: Status
    left: bool = True
    http_status: int | None = None
    latency_ms: float | None = None
    first_token_ms: float | None = None
    request_id: str = ""


@valueclass
class Arrived:
    """A call as a door understood it, with the attempt it wants to make and what that asks of the budgets."""

    opening: Opening
    claim: Claim | None = None

    def next(self) -> NeedsHold:
        return NeedsHold(self.opening, self.claim)


@valueclass
class NeedsHold:
    opening: Opening
    claim: Claim | None = None

    def next(self, outcome: Held | NotHeld) -> NeedsProvider | Refused:
        match outcome:
            case Held():
                return NeedsProvider(outcome.opening or self.opening, outcome)
            case NotHeld(reason, refusal):
                return Refused(self.opening, reason, refusal)


@valueclass
class NeedsMore:
    """A running attempt whose hold does not cover what comes next: ``amount`` and ``tokens`` to hold in addition."""

    opening: Opening
    held: Held
    amount: int
    tokens: int


@valueclass
class NeedsProvider:
    opening: Opening
    held: Held

    def next(self, reply: Reply, charge: Charge) -> NeedsSettlement:
        """``charge`` is the price of ``reply.reading``. The same step serves an answer, an error and a cancellation."""
        return NeedsSettlement(self.opening, attempt_of(self.opening, reply, charge) if reply.left else None, self.held)


@valueclass
class NeedsSettlement:
    """``attempt`` is None when nothing left: the hold is voided. ``held`` is None for what was never held: it is observed."""

    opening: Opening
    attempt: Attempt | None
    held: Held | None = None

    def next(self) -> Settled:
        return Settled(self.opening, self.attempt, self.held.admitted if self.held else None)


@valueclass
class Settled:
    opening: Opening
    attempt: Attempt | None
    admitted: Admitted | None = None


@valueclass
class Refused:
    opening: Opening
    reason: str
    refusal: Refusal | None = None


State: TypeAlias = Arrived | NeedsHold | NeedsProvider | NeedsSettlement | Settled | Refused
Done: TypeAlias = Settled | Refused


def attempt_of(opening: Opening, reply: Reply, charge: Charge) -> Attempt:
    """The ledger row of an attempt that left."""
    reading = reply.reading
    return Attempt(
        opening=opening,
        status=reply.status,
        charge=charge,
        latency_ms=reply.latency_ms,
        first_token_ms=reply.first_token_ms,
        http_status=reply.http_status,
        error=reading.error,
        response_id=reading.response_id,
        finish=reading.finish,
        tools=reading.tools,
        request_id=reply.request_id,
    )


def observed(attempt: Attempt) -> NeedsSettlement:
    """Where imports and telemetry enter: the call already happened, only the books remain."""
    return NeedsSettlement(attempt.opening, attempt)
