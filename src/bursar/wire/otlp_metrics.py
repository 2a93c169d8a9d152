"""Metrics that are worth money: the counters of tools that send nothing better.

Rule 1: only the counters of ``_COUNTERS`` are read. The histograms of OpenTelemetry's GenAI conventions are never priced:
        they count the same tokens as spans do, without a call to hang them on.
Rule 2: what is charged is what was added since the last point: the value of a delta point, the difference of a cumulative
        one. A counter that starts again, or falls, begins from zero.
Rule 3: points of one moment that differ in their kind of token alone are one usage. It is a sum of calls, so it is marked
        as estimated: a price that depends on the length of one call cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

from bursar.core.money import nano_usd
from bursar.core.observations import Observation
from bursar.core.values import valueclass

from .telemetry import COUNT_MAX, Facts, take_all
from .telemetry_spans import NO_ORIGIN, Place, clock, observe

__all__ = ["Label", "MetricExport", "Point", "labelled", "metric_observations", "wanted"]

Label: TypeAlias = tuple[str, Any]
"""An attribute of a point or of its resource: a name and a plain value."""


class _Counter(NamedTuple):
    """A counter: the attribute with the kind of token and the slots of its values, "" for a sum of the others; a cost
    where there are none."""

    family: str
    kind: str
    slots: Mapping[str, str]


_CLAUDE_TYPES: Final = {
    "input": "event_input_tokens",
    "output": "event_output_tokens",
    "cacheRead": "event_cache_read_tokens",
    "cacheCreation": "event_cache_write_tokens",
}
_CODEX_TYPES: Final = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached_input": "cache_read_tokens",
    "reasoning_output": "reasoning_tokens",
    "total": "",
}
_COUNTERS: Final[Mapping[str, _Counter]] = {
    "claude_code.token.usage": _Counter("claude_code.token.usage", "type", _CLAUDE_TYPES),
    "claude_code.cost.usage": _Counter("claude_code.token.usage", "", {}),
    "codex.turn.token_usage": _Counter("codex.turn.token_usage", "token_type", _CODEX_TYPES),
}
_COST_MAX: Final = Decimal(1_000_000)
_SUMMED: Final = "a sum of calls: prices that depend on the length of one are those of the sum"


@valueclass
class Point:
    """One point. ``series`` is the same for every point of one counter with these attributes since this start.

    ``slot`` is what it counts: tokens of a kind, or ``reported`` nano-USD. ``labels`` are the other attributes.
    """

    series: str
    cumulative: bool
    value: int
    start_us: int
    at_us: int
    family: str
    slot: str
    labels: tuple[Label, ...]


@valueclass
class MetricExport:
    """What one request held. ``rejected`` points could not be taken; ``problem`` says why the first could not."""

    points: list[Point]
    rejected: int
    problem: str


def wanted(name: str) -> bool:
    """Whether a metric is one that is read."""
    return name in _COUNTERS


def labelled(
    name: str, labels: tuple[Label, ...], *, cumulative: bool, value: Any, start_ns: int, at_ns: int
) -> Point | str | None:
    """A point of a wanted metric, why it cannot be taken, or None for a kind of token that others contain."""
    counter = _COUNTERS[name]
    slot = "reported"
    if counter.kind:
        kind = next((str(said) for label, said in labels if label == counter.kind), "")
        if kind not in counter.slots:
            return f"{name}: {counter.kind} {kind[:40]!r} is not known"
        slot = counter.slots[kind]
        if not slot:
            return None
        labels = tuple(label for label in labels if label[0] != counter.kind)
    amount = _cost(value) if slot == "reported" else _tokens(value)
    if amount is None:
        return f"{name}: {str(value)[:40]} is no amount"
    times = clock(at_ns, at_ns)
    if times is None:
        return f"{name}: a point has no time between 2000 and 2100"
    start_us = min(max(start_ns // 1_000, 0), times[0])
    said = repr((name, slot, sorted((label, str(text)[:256]) for label, text in labels), start_us if cumulative else 0))
    series = blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Point(series, cumulative, amount, start_us, times[0], counter.family, slot, labels)


def _tokens(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= COUNT_MAX:
        return None
    return int(value) if value == int(value) else None


def _cost(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    amount = Decimal(str(value))
    return nano_usd(amount) if amount.is_finite() and 0 <= amount <= _COST_MAX else None


def metric_observations(
    points: Iterable[Point], previous: Mapping[str, int]
) -> tuple[list[Observation], dict[str, int]]:
    """What was added since the ``previous`` values of the series, and the values that are the previous ones next time."""
    known = dict(previous)
    added: dict[tuple[str, tuple[Label, ...], int, int], dict[str, int]] = {}
    for point in sorted(points, key=lambda each: each.at_us):
        more = point.value
        if point.cumulative:
            last = known.get(point.series, 0)
            known[point.series] = point.value
            more = point.value - last if point.value >= last else point.value
        if more:
            start_us = point.at_us if point.cumulative else point.start_us or point.at_us
            sums = added.setdefault((point.family, _hashable(point.labels), start_us, point.at_us), {})
            sums[point.slot] = sums.get(point.slot, 0) + more
    return [_observation(*key, sums) for key, sums in added.items()], known


def _hashable(labels: tuple[Label, ...]) -> tuple[Label, ...]:
    return tuple(sorted((label, value if isinstance(value, str | int) else str(value)) for label, value in labels))


def _observation(
    family: str, labels: tuple[Label, ...], start_us: int, at_us: int, sums: Mapping[str, int]
) -> Observation:
    facts = Facts()
    take_all(labels, facts)
    facts.values.update(sums)
    facts.values.update(kind="model", estimated=True)
    if family.startswith("codex."):
        facts.values.setdefault("provider", "openai")
    place = Place("metric", "otlp", family, "", "", "", start_us, at_us, False, "", (_SUMMED,))
    return observe(facts, NO_ORIGIN, place)
