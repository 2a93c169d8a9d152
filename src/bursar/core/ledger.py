"""The books' entries and the ledger's rows.

Rule 1: entries are append-only; a balance is the sum of its entries, held and spent apart.
Rule 2: an attempt has at most one hold (which may be extended) and exactly one ending: settle, void or expire. Both are keyed by the attempt's
        id, which its caller makes; saying either again changes nothing.
Rule 3: an ending without a hold is an *observed* attempt: it happened elsewhere, only the books remain.
Rule 4: every ending but void leaves one ledger row, and the row is the ending's payload: the ledger can be rebuilt.
Rule 5: an attempt is posted to everything, its tasks and its budgets; its ending is posted where its hold was, also when
        a window has changed in between.
Rule 6: an observed attempt that turns out not to be one of its own (a nearer door has charged it, it was a sum of others) is
        *retracted*: an entry takes back all it changed, and the ledger's row goes with it. Nothing else is ever taken back.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from .money import NanoUSD
from .prices import Charge
from .scopes import Scope
from .values import valueclass

__all__ = [
    "ENDINGS",
    "MCP_PREFIX",
    "OWN_PROCESS",
    "SDK_PREFIX",
    "Attempt",
    "Door",
    "Ending",
    "EntryKind",
    "Opening",
    "Status",
    "accounts",
    "admitted_opening",
]

Door: TypeAlias = Literal["gateway", "sdk", "otlp", "import"]
EntryKind: TypeAlias = Literal["hold", "extend", "settle", "void", "expire", "adjust", "retract", "rollup"]
Ending: TypeAlias = Literal["settle", "void", "expire"]
Status: TypeAlias = Literal["ok", "error", "cancelled", "cut", "ended", "expired"]
"""How an attempt ended: answered; refused or failed by the provider; the client went away; the provider broke off; we
ended the stream because its budget had no more; the process died and the sweeper closed it."""

SDK_PREFIX: Final = "sdk-"
MCP_PREFIX: Final = "mcp-"
OWN_PROCESS: Final = (SDK_PREFIX, MCP_PREFIX)
"""What the ids begin with of attempts that processes of their own make: they live on when a server stops."""

ENDINGS: Final[tuple[Ending, ...]] = ("settle", "void", "expire")


@valueclass
class Opening:
    """What is known of an attempt before it leaves: enough to write its ledger row if nobody comes back.

    ``model_sent`` is the model that a budget or a route put in the place of the one asked for, "" where it is that one. ``number`` counts the attempts of one call from 1; views count a call by its first attempt.

    ``rung`` is that of the route it belongs to ("" without one), ``cause`` why it is not the first, ``cache`` what the response
    cache said: "" it was not asked, "miss", or the tier that answered.

    ``started_us`` is microseconds since 1970 UTC. ``estimate`` is the charge to book if the attempt is never settled.
    """

    attempt_id: str
    call_id: str
    kind: Literal["model", "tool"]
    door: Door
    operation: str
    started_us: int
    provider: str
    model_asked: str
    scope: Scope
    estimate: Charge
    number: int = 1
    stream: bool = False
    trace_id: str = ""
    span_id: str = ""
    decision: str = "{}"
    model_sent: str = ""
    rung: str = ""
    cache: str = ""
    cause: str = ""

    @property
    def model(self) -> str:
        """The model that it is sent to."""
        return self.model_sent or self.model_asked


def admitted_opening(opening: Opening, *, model_sent: str, estimate: Charge, decision: str) -> Opening:
    """The opening with what a budget decided. Written out: ``dataclasses.replace`` takes four times as long."""
    return Opening(
        opening.attempt_id,
        opening.call_id,
        opening.kind,
        opening.door,
        opening.operation,
        opening.started_us,
        opening.provider,
        opening.model_asked,
        opening.scope,
        estimate,
        opening.number,
        opening.stream,
        opening.trace_id,
        opening.span_id,
        decision,
        model_sent,
        opening.rung,
        opening.cache,
        opening.cause,
    )


@valueclass
class Attempt:
    """One ledger row: an attempt that ended, with its charge. ``finish`` is the provider's word for why its answer ended, the worst
    of several choices, "refusal" where it holds one, and "" where nothing was said. ``error`` beside the status "ok" says what was
    wrong with an answer that came."""

    opening: Opening
    status: Status
    charge: Charge
    latency_ms: float | None = None
    first_token_ms: float | None = None
    http_status: int | None = None
    error: str = ""
    response_id: str = ""
    finish: str = ""
    tools: tuple[str, ...] = ()
    avoided: NanoUSD | None = None
    request_id: str = ""


def accounts(scope: Scope) -> tuple[str, ...]:
    """The accounts an attempt is posted to where no budget covers it: everything, and its task when it has one."""
    return ("all", f"task:{scope.task}") if scope.task else ("all",)
