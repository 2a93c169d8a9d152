"""What telemetry says of one thing that happened: a span, a log record, a point of a metric; and what became of a task.

Rule 1: an observation is what was said, in our words; nothing in it is priced. What of it is charged is decided in
        ``core.traces``, when everything that is known of its trace has been looked at.
Rule 2: ``kind`` says what it is: only a model or a tool call is ever paid for by itself. Figures on an agent, a task or a
        step are sums of what is below it, and count only where nothing below it has any.
Rule 3: an absent id, name or time is "" or None, never a guess.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from .ledger import Door
from .money import NanoUSD
from .prices import Reading
from .scopes import NOBODY, Scope
from .values import valueclass

__all__ = ["PRECEDENCE", "Kind", "Observation", "Source", "TaskOutcome"]

Source: TypeAlias = Literal["span", "log", "metric"]
Kind: TypeAlias = Literal["model", "tool", "agent", "task", "step"]
"""A model call; a tool call; an agent's run; a task; anything else that has a time and a place in the tree."""

PRECEDENCE: Final = ("gateway", "sdk", "span", "log", "metric", "import")
"""Of several that saw the same call the first keeps the charge: it was nearest to the wire."""


@valueclass
class Observation:
    """One thing that happened. Ids are lower-case hexadecimal as in OpenTelemetry (32 and 16 digits).

    ``provider`` is an id of the provider table where it is known, else what was said. ``reading`` is the usage and what
    the source itself says it cost (``reported``), None where nothing was stated. ``scope`` is what the observation and
    its resource say themselves. ``tool`` is a tool's name. ``group`` is what ties records without a trace together: a
    session, or else ``service.instance.id``. ``units`` are what a tool counted by itself; ``size_bytes`` its answer's.
    """

    source: Source
    door: Door
    name: str
    kind: Kind
    started_us: int
    ended_us: int
    trace_id: str = ""
    span_id: str = ""
    parent_id: str = ""
    operation: str = ""
    provider: str = ""
    model_asked: str = ""
    reading: Reading | None = None
    scope: Scope = NOBODY
    tool: str = ""
    group: str = ""
    status: Literal["ok", "error"] = "ok"
    error: str = ""
    stream: bool = False
    first_token_ms: float | None = None
    size_bytes: int | None = None
    notes: tuple[str, ...] = ()


@valueclass
class TaskOutcome:
    """What became of a task, and what that was worth (nano-USD, None: not said). The latest word counts."""

    task: str
    outcome: str
    at_us: int
    value: NanoUSD | None = None
    note: str = ""
