"""Where the money went, from the views of the ledger, and whether everything agrees.

Rule 1: figures come from the views. Only the saving by prompt caches is computed here, and it is named an estimate.
Rule 2: the simulator's count of what it served is the truth. What it broke off, and what its client left, is left out
        of the comparison: there the ledger can only estimate.
Rule 3: no time and no made-up identifier is part of a summary: the same seed gives the same summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import median_low
from typing import Any, Final

from bursar.adapters.verify import Verification
from bursar.core.prices import PriceBook, Reading, charge
from bursar.core.usage import Usage
from bursar.engine.ports import Queries
from bursar.sim import Call
from bursar.views.feed import FEED_MAX, Step, feed
from bursar.views.measures import EMPTY, cost_text
from bursar.views.spend import Report, spend, unpriced_reasons
from bursar.views.tasks import TaskRow, tasks

__all__ = ["Caching", "Runaway", "Summary", "Truth", "summarize"]

_RUNAWAY_TIMES: Final = 3
_TASKS_MAX: Final = 10
_PROVIDERS: Final = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
_COUNTS: Final = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Runaway:
    """A task that made and cost several times what its agent's tasks do in the middle, and the tool it kept calling."""

    task: TaskRow
    median_nanousd: int
    tool: str
    tool_calls: int


@dataclass(frozen=True, slots=True)
class Caching:
    """Estimates in nano-USD at the price rows of each call: what its cache reads would have cost more as plain input,
    and what its cache writes would have cost less."""

    read_tokens: int
    saved_nanousd: int
    paid_more_nanousd: int


@dataclass(frozen=True, slots=True)
class Truth:
    """``calls`` complete calls were compared with what the simulator served; ``differences`` says what is not equal."""

    calls: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything the demo tells. ``tasks`` are those without a parent, dearest first."""

    seed: int
    calls_made: int
    by_agent: Report
    by_model: Report
    by_status: Report
    tasks: tuple[TaskRow, ...]
    dearest_step: Step
    runaways: tuple[Runaway, ...]
    reasons: Sequence[tuple[str, int]]
    caching: Caching
    truth: Truth
    verification: Verification

    @property
    def agrees(self) -> bool:
        """Whether every call is booked, books and ledger agree, and both agree with the simulator."""
        booked = self.by_agent.total.attempts == self.calls_made
        return booked and not self.verification.differences and not self.truth.differences

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "total": self.by_agent.total.to_full_json(),
            "by_agent": self.by_agent.to_json()["rows"],
            "by_model": self.by_model.to_json()["rows"],
            "by_status": self.by_status.to_json()["rows"],
            "tasks": [_task_json(row) for row in self.tasks[:_TASKS_MAX]],
            "dearest_step": _step_json(self.dearest_step),
            "runaways": [
                {
                    "task": one.task.task,
                    "calls": one.task.all_calls,
                    "cost_usd": cost_text(one.task.all_cost_nanousd),
                    "median_cost_usd": cost_text(one.median_nanousd),
                    "tool": one.tool,
                    "tool_calls": one.tool_calls,
                }
                for one in self.runaways
            ],
            "unpriced_reasons": [{"reason": reason, "calls": calls} for reason, calls in self.reasons],
            "cache_estimate": {
                "read_tokens": self.caching.read_tokens,
                "saved_usd": cost_text(self.caching.saved_nanousd),
                "writes_paid_more_usd": cost_text(self.caching.paid_more_nanousd),
            },
            "proof": {
                "agrees": self.agrees,
                "calls_made": self.calls_made,
                "ledger_rows": self.verification.ledger_rows,
                "ledger_differences": len(self.verification.differences),
                "compared_with_provider": self.truth.calls,
                "provider_differences": list(self.truth.differences),
            },
        }


def _task_json(row: TaskRow) -> dict[str, Any]:
    values = row.to_json()
    del values["first_at"], values["last_at"]
    return values


def _step_json(step: Step) -> dict[str, Any]:
    values = step.to_json()
    kept = ("operation", "provider", "model", "agent", "task", *_COUNTS, "cost_usd")
    return {name: values[name] for name in kept}


def summarize(
    ledger: Queries,
    *,
    seed: int,
    calls_made: int,
    served: Sequence[Call],
    prices: PriceBook,
    verification: Verification,
) -> Summary:
    """The summary of a ledger that holds one run and nothing else."""
    every_task = tasks(ledger).rows
    steps = feed(ledger, limit=FEED_MAX).steps
    return Summary(
        seed=seed,
        calls_made=calls_made,
        by_agent=spend(ledger, by=["agent"]),
        by_model=spend(ledger, by=["model"]),
        by_status=spend(ledger, by=["status"]),
        tasks=tuple(sorted((row for row in every_task if not row.parent), key=_dearest_first)),
        dearest_step=max(steps, key=lambda step: (step.cost_nanousd or 0, step.task, step.output_tokens or 0)),
        runaways=_runaways(every_task, steps),
        reasons=unpriced_reasons(ledger),
        caching=_caching(steps, prices),
        truth=_compare(ledger, served),
        verification=verification,
    )


def _dearest_first(row: TaskRow) -> tuple[int, str]:
    return -(row.all_cost_nanousd or 0), row.task


def _runaways(rows: Sequence[TaskRow], steps: Sequence[Step]) -> tuple[Runaway, ...]:
    of_agent: dict[str, list[TaskRow]] = {}
    for row in rows:
        if not row.parent:
            of_agent.setdefault(row.agent, []).append(row)
    found: list[Runaway] = []
    for others in of_agent.values():
        cost = median_low([row.all_cost_nanousd or 0 for row in others])
        calls = median_low([row.all_calls for row in others])
        for row in others:
            if (row.all_cost_nanousd or 0) >= _RUNAWAY_TIMES * cost and row.all_calls >= _RUNAWAY_TIMES * calls:
                tools = Counter(tool for step in steps if step.task == row.task for tool in step.tools)
                tool, times = max(tools.items(), key=lambda pair: (pair[1], pair[0]), default=("", 0))
                found.append(Runaway(row, cost, tool, times))
    return tuple(found)


def _caching(steps: Sequence[Step], prices: PriceBook) -> Caching:
    """A step is priced again without its writes, and without its reads as well: both then are plain input."""
    now = datetime.now(timezone.utc)
    read_tokens = saved = paid_more = 0
    for step in steps:
        reads = step.cache_read_tokens or 0
        if step.cost_nanousd is None or not (reads or step.cache_write_tokens):
            continue
        usage = Usage(input_tokens=step.input_tokens or 0, output_tokens=step.output_tokens or 0)
        plain, reading = (
            charge(Reading(usage=one), prices, provider=step.provider, model=step.model, at=now).amount
            for one in (usage, usage._replace(cache_read_tokens=reads))
        )
        if plain is None or reading is None:
            continue
        read_tokens += reads
        saved += plain - reading
        paid_more += step.cost_nanousd - reading
    return Caching(read_tokens, saved, paid_more)


def _compare(ledger: Queries, served: Sequence[Call]) -> Truth:
    expected: dict[str, Counter[str]] = {}
    compared = 0
    for call in served:
        if call.usage is None or call.outcome != "complete" or call.events_sent != call.events:
            continue
        compared += 1
        counts = expected.setdefault(_PROVIDERS[call.dialect], Counter())
        counts["calls"] += 1
        counts.update({name: getattr(call.usage, name) for name in _COUNTS})
    rows = spend(ledger, by=["provider"], where={"status": "ok"}).rows
    found = {row.keys[0]: row.measures for row in rows}
    differences: list[str] = []
    for provider in sorted(expected.keys() | found.keys()):
        for name in ("calls", *_COUNTS):
            theirs = expected.get(provider, Counter[str]())[name]
            ours = getattr(found.get(provider, EMPTY), name) or 0
            if theirs != ours:
                differences.append(f"{provider} {name}: served {theirs}, in the ledger {ours}")
    return Truth(compared, tuple(differences))
