"""What a door in the agent's own process asks for, and what it gets: a call, and the permission to make it.

Rule 1: an ask and a permit are plain values that can cross a wire: no closure, no secret, no connection.
Rule 2: a permit says all that the door must do to the request; the door decides nothing.
Rule 3: what ended is told as it was read. Who holds the prices makes the charge, so that there is one price book.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Final

from bursar.core.admission import Admitted
from bursar.core.budget_fields import amount_text
from bursar.core.budgets import TaskLimit, Unit
from bursar.core.call import Held, Reply
from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.ledger import Opening
from bursar.core.money import NanoUSD, Rate
from bursar.core.prices import Charge
from bursar.core.tool_prices import ToolPrice
from bursar.core.values import valueclass
from bursar.wire.dialect import RequestFacts

__all__ = [
    "CHUNK_TOKENS",
    "LOOK_AHEAD_TOKENS",
    "Ask",
    "Ended",
    "Permit",
    "final_changes",
    "is_degraded",
    "permit_of",
    "time_of",
]

CHUNK_TOKENS: Final = 2_048
"""Output tokens by which the hold of a running stream is extended."""
LOOK_AHEAD_TOKENS: Final = 512
"""So many tokens before a stream reaches what is held, more is asked for."""


@valueclass
class Ask:
    """A call that wants to be made. The estimate in its opening is filled in by whoever has the prices.

    A model call comes with its ``facts``, its provider's name in the price book and its ``path``. A tool call comes with
    ``fee``, the most it costs where the caller says so (None: the tool price book knows, or nobody does).
    ``above`` are the tasks above this one that have a limit of their own and may not be in the books yet, the top first.
    """

    opening: Opening
    facts: RequestFacts | None = None
    path: str = ""
    can_cap: bool = False
    tool: str = ""
    fee: NanoUSD | None = None
    task: TaskLimit | None = None
    above: tuple[TaskLimit, ...] = ()
    final: bool = False
    patient: bool = True


@valueclass
class Permit:
    """A call as it was admitted. ``changes`` is what must be done to the request, its output cap and note filled in.

    ``covers_tokens`` output tokens are held for, of at most ``output_tokens_max``; where ``extend`` is True a stream must
    ask for more before it goes on, at ``output`` nano-USD for a token of every choice together.
    ``left`` is what the tightest budget has left after this hold, None where no budget looked at the call.
    ``price`` is the tool's, where the price book has one. ``offline_up_to`` is what may be spent under this scope while
    nobody can be asked: None is nothing, -1 without a limit.
    """

    opening: Opening
    amount: NanoUSD | None = None
    changes: Changes = UNCHANGED
    covers_tokens: int = 0
    output_tokens_max: int = 0
    output: Rate = Rate(0, 1)
    choices: int = 1
    priced: bool = True
    extend: bool = False
    budget: str = ""
    unit: Unit = "usd"
    left: int | None = None
    rungs: tuple[str, ...] = ()
    price: ToolPrice | None = None
    offline_up_to: int | None = None

    def more_cost(self, to_tokens: int) -> int:
        """What it costs to go on from the tokens that are covered to ``to_tokens``, rounded up."""
        if not self.priced:
            return 0
        top, bottom = self.output.numerator, self.output.denominator
        return -(-top * to_tokens // bottom) + (-top * self.covers_tokens // bottom)


@valueclass
class Ended:
    """How a permitted call ended. ``reply`` None: it provably never left. ``charge`` is that of a tool call, whose answer
    the door has seen; a model call's charge is made from its reply. ``held`` is whether it was held for: else it is booked as
    what happened. ``avoided`` is what a kept answer cost when it was bought, None where it was not kept or that is not known."""

    ask: Ask
    opening: Opening
    reply: Reply | None
    charge: Charge | None = None
    held: bool = True
    avoided: NanoUSD | None = None


def final_changes(admitted: Admitted) -> Changes:
    """What is done to the request: the offer's changes with the cap that was settled on, and the note's figure."""
    changes = admitted.offer.changes
    if admitted.output_cap is not None:
        changes = replace(changes, output_cap=admitted.output_cap)
    if changes.note:
        assert admitted.tightest is not None
        left = amount_text(admitted.tightest.budget.unit, max(0, admitted.left or 0))
        changes = replace(changes, note=changes.note.replace("{left}", left))
    return changes


def is_degraded(admitted: Admitted | None) -> bool:
    """Whether a budget made of a request something that has another answer. A lower cap alone has not, as long as the answer ended
    below it."""
    return admitted is not None and replace(admitted.offer.changes, output_cap=None) != UNCHANGED


def permit_of(opening: Opening, held: Held) -> Permit:
    """The permit for what was held."""
    admitted = held.admitted
    if admitted is None:
        return Permit(held.opening or opening, held.amount)
    tightest = admitted.tightest
    return Permit(
        opening=held.opening or opening,
        amount=held.amount,
        changes=final_changes(admitted),
        covers_tokens=admitted.output_tokens,
        output_tokens_max=admitted.offer.output_tokens,
        output=admitted.offer.output,
        choices=admitted.offer.choices,
        priced=admitted.offer.input is not None,
        extend=admitted.extend,
        budget="" if tightest is None else tightest.budget.name,
        unit="usd" if tightest is None else tightest.budget.unit,
        left=admitted.left,
        rungs=admitted.rungs,
    )


def time_of(at_us: int) -> datetime:
    """Microseconds since 1970 as a UTC time."""
    return datetime.fromtimestamp(at_us / 1_000_000, timezone.utc)
