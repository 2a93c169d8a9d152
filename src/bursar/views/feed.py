"""Single attempts: the newest ones, for people who watch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ._sql import statement
from .measures import cost_text, time_text

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = ["FEED_MAX", "NOT_KEPT", "Feed", "Step", "feed"]

FEED_MAX: Final = 500
"""The most attempts one answer holds."""

NOT_KEPT: Final = ("", "miss")
"""What the column ``cache`` says of an attempt that a provider, or a tool, was asked for."""


@dataclass(frozen=True, slots=True)
class Step:
    """One attempt, without its wide columns. None is "not known".

    ``rung`` is "" where no route was asked for, ``cause`` why it is not on the first one. ``cache`` is the tier that answered,
    miss, or "" where it was not asked; ``avoided_nanousd`` what a kept answer would have cost, which is part of no spend.
    """

    sequence: int
    attempt_id: str
    call_id: str
    number: int
    started_us: int
    kind: str
    door: str
    operation: str
    provider: str
    model_asked: str
    model: str
    agent: str
    user: str
    session: str
    task: str
    parent_task: str
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost_nanousd: int | None
    unpriced_reason: str | None
    estimated: bool
    latency_ms: float | None
    first_token_ms: float | None
    status: str
    http_status: int | None
    error: str
    finish: str
    tools: tuple[str, ...]
    rung: str
    cache: str
    cause: str
    avoided_nanousd: int | None

    @property
    def is_kept(self) -> bool:
        """A kept answer: nobody was asked."""
        return self.cache not in NOT_KEPT

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Step:
        values: dict[str, Any] = {**row, "tools": tuple(row["tools"])}
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Every field by name, the time as ``started_at``, amounts as ``cost_usd`` and ``avoided_usd``."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        started_at = time_text(values.pop("started_us"))
        amounts = {
            "cost_usd": cost_text(values.pop("cost_nanousd")),
            "avoided_usd": cost_text(values.pop("avoided_nanousd")),
        }
        return {**values, "tools": list(self.tools), "started_at": started_at, **amounts}


@dataclass(frozen=True, slots=True)
class Feed:
    """The newest attempts, newest first. Ask for what is past ``last_sequence`` next."""

    steps: tuple[Step, ...]
    last_sequence: int

    def to_json(self) -> dict[str, Any]:
        return {"rows": [step.to_json() for step in self.steps], "last_sequence": self.last_sequence}


def feed(queries: Queries, *, after: int = -1, limit: int = 50) -> Feed:
    """At most ``limit`` attempts booked past the sequence ``after``; of more, the newest."""
    sql = statement("feed", "feed", step_columns=statement("feed", "step_columns"))
    rows = queries.rows(sql, {"after": after, "limit": max(1, min(limit, FEED_MAX))})
    steps = tuple(Step.of(row) for row in rows)
    return Feed(steps, max((step.sequence for step in steps), default=after))
