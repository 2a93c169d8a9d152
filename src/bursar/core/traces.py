"""What is charged of a trace: the calls at the ends of its branches, each once, whoever else has seen them.

Rule 1: a model span is charged when it states usage and no model span below it does: of nested instrumentations the
        innermost was nearest to the wire. A tool is charged when it has a price, once for a call that several saw.
Rule 2: figures on an agent, a task or a step are sums. They are charged only where nothing below them has any, and not
        before the trace has come to rest.
Rule 3: what a nearer door has charged is linked: an attempt made under the span itself or under one below it, or one with
        the same response. Of several that saw the same response the first of ``PRECEDENCE`` keeps the charge.
Rule 4: a column of the scope that an observation leaves open is that of the nearest one above it that has it. The task is
        the nearest one that is named, else the trace; its parent is the next one that is named differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Final

from .ledger import Attempt, Door, Opening
from .observations import PRECEDENCE, Observation
from .prices import Charge, PriceBook, Reading, charge
from .tool_prices import TOOL_PROVIDER, ToolPrices, tool_charge
from .trace_tree import Nearer, Trace, Verdict, figures, metrics_key, record_key, trace_key
from .values import valueclass

__all__ = [
    "PROVIDER_REPORTED",
    "Holder",
    "Nearer",
    "Trace",
    "Verdict",
    "attempt_base",
    "attempt_of",
    "charges",
    "claim",
    "contest",
    "figures",
    "in_groups",
    "metrics_key",
    "nearest",
    "price",
    "record_key",
    "response_key",
    "source_of",
    "trace_key",
]

PROVIDER_REPORTED: Final = "reported_by=provider"
"""The note of an observation whose reported cost was stated by the provider itself: then it is the amount."""

_RANK: Final[Mapping[str, int]] = {source: rank for rank, source in enumerate(PRECEDENCE)}

_SIZE_MAX: Final = 10**15
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NO_TOOLS: Final = ToolPrices()
_UNSAID: Final = Reading(reason="the source states no usage")


@valueclass
class Holder:
    """Who has been charged for a response: the attempt, and which of ``PRECEDENCE`` made it."""

    attempt_id: str
    source: str


def response_key(observation: Observation) -> str:
    """The provider and its response's id, as the books know it. "" when one of them is not known, or for a tool."""
    reading = observation.reading
    if observation.kind == "tool" or reading is None or not reading.response_id or not observation.provider:
        return ""
    return f"{observation.provider}:{reading.response_id}"[:256]


def attempt_base(trace: str, key: str) -> str:
    """The id of the attempt that an observation becomes; further versions of it append ``#2``, ``#3`` and so on."""
    return f"otlp:{trace}:{key}"


def claim(trace: str, verdicts: Sequence[Verdict], holders: dict[str, Holder]) -> None:
    """Enter these verdicts among those who claim to be charged for a response: the nearest source keeps it.

    ``holders`` says who has it, by ``response_key``.
    """
    for verdict in verdicts:
        if verdict.fate == "charged" and (key := response_key(verdict.observation)):
            mine = Holder(attempt_base(trace, verdict.key), _source(verdict.observation))
            holder = holders.get(key)
            if holder is None or _held_by(mine) < _held_by(holder):
                holders[key] = mine


def contest(trace: str, verdicts: Sequence[Verdict], holders: Mapping[str, Holder]) -> list[Verdict]:
    """The verdicts after everybody has claimed: whoever does not hold its response is linked to who does."""
    decided = list(verdicts)
    for index, verdict in enumerate(decided):
        if verdict.fate in ("charged", "waiting") and (key := response_key(verdict.observation)):
            holder = holders.get(key)
            if holder is not None and holder.attempt_id.partition("#")[0] != attempt_base(trace, verdict.key):
                decided[index] = Verdict(verdict.key, verdict.observation, verdict.scope, "linked", holder.attempt_id)
    return decided


def nearest(one: Holder, other: Holder) -> Holder:
    """Who of two keeps the charge of a response: the nearer source; of equal ones always the same."""
    return min(one, other, key=_held_by)


def source_of(attempt_id: str, door: str) -> str:
    """Which of ``PRECEDENCE`` made an attempt."""
    if door != "otlp":
        return door
    key = attempt_id.rpartition(":")[2]
    return next((source for source in ("log", "metric") if key.startswith(f"{source}.")), "span")


def _source(observation: Observation) -> str:
    return "import" if observation.door == "import" else observation.source


def _held_by(holder: Holder) -> tuple[int, str]:
    return _RANK[holder.source], holder.attempt_id.partition("#")[0]


def charges(
    observations: Iterable[Observation],
    *,
    nearer: Iterable[Nearer] = (),
    tools: ToolPrices = _NO_TOOLS,
) -> list[Verdict]:
    """The verdicts of everything there is of some traces that have come to rest."""
    traces: dict[str, Trace] = {}
    groups: set[str] = set()
    for observation in observations:
        key = trace_key(observation)
        traces.setdefault(key, Trace(key)).take(observation)
        if observation.source != "metric" and observation.group and figures(observation):
            groups.add(observation.group)
    for live in nearer:
        if live.trace_id in traces:
            traces[live.trace_id].take_nearer(live)
    decided = {key: trace.decide(at_rest=True, tools=tools) for key, trace in traces.items()}
    holders: dict[str, Holder] = {}
    for key, verdicts in decided.items():
        claim(key, verdicts, holders)
    found: list[Verdict] = []
    for key, verdicts in decided.items():
        found.extend(in_groups(contest(key, verdicts, holders), groups))
    return found


def in_groups(verdicts: Sequence[Verdict], groups: AbstractSet[str]) -> list[Verdict]:
    """Metrics count only where the ``groups`` that have spans or records with figures do not include theirs."""
    if not groups:
        return list(verdicts)
    return [
        replace(each, fate="linked", link=each.observation.group)
        if each.observation.source == "metric" and each.fate == "charged" and each.observation.group in groups
        else each
        for each in verdicts
    ]


def price(observation: Observation, book: PriceBook, tools: ToolPrices, *, price_id: str) -> Charge:
    """What an observation costs at its own time. ``price_id`` is its provider's name in the price book.

    What somebody other than the provider says it cost stands beside the charge and does not become it.
    """
    reading = observation.reading or _UNSAID
    if observation.kind == "tool" and (found := tools.find(observation.tool)) is not None:
        usage = reading.usage
        priced = tool_charge(
            observation.tool,
            found,
            units=usage.tool_units or None if usage is not None else None,
            size_bytes=None if observation.size_bytes is None else min(max(observation.size_bytes, 0), _SIZE_MAX),
            duration_ms=min(max(observation.ended_us - observation.started_us, 0) // 1_000, _SIZE_MAX),
            stated=None,
            answer=None,
        )
        return replace(priced, notes=(*priced.notes, *observation.notes)) if observation.notes else priced
    said = reading.reported
    if said is not None and PROVIDER_REPORTED not in observation.notes:
        reading = replace(reading, reported=None)
    at = _EPOCH + timedelta(microseconds=observation.started_us)
    priced = charge(reading, book, provider=price_id, model=observation.model_asked, at=at)
    if said is None and not observation.notes:
        return priced
    return replace(priced, reported=said, notes=(*priced.notes, *observation.notes))


def attempt_of(verdict: Verdict, priced: Charge, *, attempt_id: str, door: Door) -> Attempt:
    """The attempt that a charged observation becomes: it happened elsewhere, only the books remain."""
    seen = verdict.observation
    reading = seen.reading or _UNSAID
    tool = seen.kind == "tool"
    opening = Opening(
        attempt_id=attempt_id,
        call_id=attempt_id.partition("#")[0],
        kind="tool" if tool else "model",
        door=door,
        operation=seen.operation or seen.kind,
        started_us=seen.started_us,
        provider=seen.provider or (TOOL_PROVIDER if tool else ""),
        model_asked=seen.tool if tool else seen.model_asked,
        scope=verdict.scope,
        estimate=priced,
        stream=seen.stream,
        trace_id=seen.trace_id,
        span_id=seen.span_id,
    )
    return Attempt(
        opening,
        seen.status,
        priced,
        latency_ms=(seen.ended_us - seen.started_us) / 1_000,
        first_token_ms=seen.first_token_ms,
        error=seen.error or reading.error,
        response_id="" if tool else reading.response_id,  # ids of tool calls are unique within a conversation at most
        finish=reading.finish,
        tools=reading.tools,
    )
