"""Where the money went: what of a task's spend looks as if it could have been less.

Rule 1: an amount here is a part of what was spent, never beside it. Findings overlap: a failed attempt may be a retry's,
        a cache miss is dearer for a grown context. They are not added up, with each other or with anything else.
Rule 2: an amount is what is known of it: None where no step's is, and ``unknown`` counts the steps missing from it.
        ``estimated`` says that it is a share of a row's charge or a bound, not a charge of its own.
Rule 3: a thread is the answered model calls of one task, agent and model, in the order they started.
Rule 4: growth. Of each later call's input, what is beyond the first call's, times what that call paid per input token on
        average (its input, cache reads and cache writes together). Without a cache that is the row's own rate, exact
        to the nano-USD that its charge was rounded to; with one it is an estimate.
Rule 5: cache misses. A call could have read from a cache as much as it shares with the call before it: at most the smaller
        of their inputs, when the conversation grew or a cache was in use. It is a miss when less than half of that was
        read, and that is at least 1,024 tokens: shorter beginnings are not cached (platform.openai.com/docs/guides/prompt-caching;
        docs.claude.com/en/docs/build-with-claude/prompt-caching). The amount is what these tokens cost at the rate of the
        call's other input, less what they cost at the cache-read rate of the row, or of the nearest in its thread
        that states one; not known where none does. It is the most that a cache could have saved.
Rule 6: repeated tools. What the calls of one tool with the same arguments cost beyond the first. Of a tool whose calls
        nobody recorded, as behind a gateway, what the model calls cost that asked for it again.
Rule 7: retries. What the attempts cost that did not answer their call: all but the one that did, or the last. A kept answer
        is no attempt at anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby, pairwise
from typing import Any, Final, Literal, TypeAlias, TypeVar

from bursar.core.money import Rate

from .feed import NOT_KEPT
from .measures import cost_text
from .spans import Span

__all__ = ["Brief", "Finding", "FindingStep", "findings"]

T = TypeVar("T")
Kind: TypeAlias = Literal["context_growth", "cache_miss", "repeated_tool", "failed_billed", "retry"]

_CACHED_MIN: Final = 1_024
_PER: Final = 1_000_000
_STEPS_MAX: Final = 20
_ASKED_MIN: Final = 3
"""A tool that a model asks for twice is ordinary work."""


@dataclass(frozen=True, slots=True)
class Brief:
    """One attempt, with what findings and the critical path look at.

    ``arguments`` is a digest of a tool call's, ``tools`` are those that a model asked for. The target is what it was for:
    ``model`` is as the answer names it. A hedge was made beside another attempt, not after it.
    """

    sequence: int
    attempt_id: str
    call_id: str
    number: int
    started_us: int
    latency_ms: float | None
    kind: str
    provider: str
    model: str
    operation: str
    agent: str
    task: str
    in_trace: str
    in_span: str
    tool: str
    arguments: str
    tools: tuple[str, ...]
    status: str
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cost_nanousd: int | None
    cost_input_nanousd: int | None
    cost_cache_read_nanousd: int | None
    cost_cache_write_nanousd: int | None
    cache_read_rate: str | None
    cache: str
    avoided_nanousd: int | None
    target_provider: str
    target_model: str
    is_hedge: bool

    @property
    def is_kept(self) -> bool:
        return self.cache not in NOT_KEPT

    @property
    def target(self) -> str:
        return self.tool or f"{self.target_provider}/{self.target_model}"

    @property
    def ended_us(self) -> int:
        return self.started_us + int((self.latency_ms or 0) * 1000)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Brief:
        values: dict[str, Any] = {**row, "tools": tuple(row["tools"])}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class FindingStep:
    """One call a finding is about. ``tokens`` are those of its input that the finding is about, ``amount`` what they cost
    (the whole call, where it is not about tokens); None where not known. ``span_id`` is of a call without a charge."""

    attempt_id: str
    span_id: str
    started_us: int
    input_tokens: int | None
    tokens: int | None
    amount_nanousd: int | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that cost money and perhaps need not have. ``steps`` are the dearest of ``step_count``, in order."""

    kind: Kind
    task: str
    agent: str
    model: str
    tool: str
    amount_nanousd: int | None
    estimated: bool
    unknown: int
    step_count: int
    text: str
    steps: tuple[FindingStep, ...]

    def to_json(self, begin_us: int) -> dict[str, Any]:
        """As JSON, times as milliseconds from ``begin_us`` on."""
        return {
            "kind": self.kind,
            "task": self.task,
            "agent": self.agent,
            "model": self.model,
            "tool": self.tool,
            "amount_usd": cost_text(self.amount_nanousd),
            "estimated": self.estimated,
            "unknown_steps": self.unknown,
            "text": self.text,
            "step_count": self.step_count,
            "steps": [
                {
                    "attempt_id": step.attempt_id,
                    "span_id": step.span_id,
                    "offset_ms": (step.started_us - begin_us) // 1000,
                    "input_tokens": step.input_tokens,
                    "tokens": step.tokens,
                    "amount_usd": cost_text(step.amount_nanousd),
                }
                for step in self.steps
            ],
        }


def findings(briefs: Sequence[Brief], free_tools: Iterable[Span]) -> list[Finding]:
    """Everything found in attempts, which come in the order they started, and in tool calls that had no charge.

    The dearest first; what has no known amount comes before what cost nothing.
    """
    found = [*_growth(briefs), *_misses(briefs), *_repeats(briefs, free_tools), *_failures(briefs), *_retries(briefs)]
    return sorted(found, key=_dearest_first)


def _dearest_first(finding: Finding) -> tuple[int, int]:
    amount = finding.amount_nanousd
    return (0, -amount) if amount else (2 if amount == 0 else 1, 0)


def _finding(
    kind: Kind,
    briefs: Sequence[Brief],
    steps: Sequence[FindingStep],
    text: str,
    *,
    estimated: bool,
    tool: str = "",
) -> Finding:
    """A finding with the sum of its steps, named by what all of its attempts have in common."""
    known = [step.amount_nanousd for step in steps if step.amount_nanousd is not None]
    shown = sorted(sorted(steps, key=lambda step: -(step.amount_nanousd or 0))[:_STEPS_MAX], key=lambda s: s.started_us)
    return Finding(
        kind=kind,
        task=_common(brief.task for brief in briefs),
        agent=_common(brief.agent for brief in briefs),
        model="" if tool else _common(brief.model for brief in briefs),
        tool=tool,
        amount_nanousd=sum(known) if known else None,
        estimated=estimated and bool(known),
        unknown=len(steps) - len(known),
        step_count=len(steps),
        text=text,
        steps=tuple(shown),
    )


def _common(names: Iterable[str]) -> str:
    found = set(names)
    return found.pop() if len(found) == 1 else ""


def _groups(items: Iterable[T], key: Callable[[T], object]) -> Iterator[list[T]]:
    grouped: dict[object, list[T]] = {}
    for item in items:
        grouped.setdefault(key(item), []).append(item)
    yield from grouped.values()


def _threads(briefs: Iterable[Brief]) -> Iterator[list[Brief]]:
    answered = (b for b in briefs if b.kind == "model" and b.status == "ok" and b.input_tokens)
    return _groups(answered, lambda brief: (brief.task, brief.agent, brief.provider, brief.model))


def _part(amount: int, units: int, of: int) -> int:
    """So much of an amount as ``units`` are of ``of``, rounded once, half up."""
    return Rate(amount, of).cost(units)


def _step(brief: Brief, amount: int | None, tokens: int | None = None) -> FindingStep:
    return FindingStep(brief.attempt_id, "", brief.started_us, brief.input_tokens, tokens, amount)


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# --- what grows --------------------------------------------------------------------------------------------------


def _growth(briefs: Iterable[Brief]) -> Iterator[Finding]:
    for thread in _threads(briefs):
        first = thread[0].input_tokens or 0
        steps: list[FindingStep] = []
        cached = False
        for brief in thread[1:]:
            size = brief.input_tokens or 0
            if size <= first:
                continue
            amount = None
            if brief.cost_nanousd is not None:
                amount = _part(_input_cost(brief), size - first, size)
                cached = cached or bool(brief.cache_read_tokens or brief.cache_write_tokens)
            steps.append(_step(brief, amount, size - first))
        if steps:
            most = max(brief.input_tokens or 0 for brief in thread)
            text = (
                f"The input of {_who(thread[0])} grew from {first:,} to {most:,} tokens over {len(thread):,} calls: "
                "this is what was paid for more input than the first call had."
            )
            yield _finding("context_growth", thread, steps, text, estimated=cached)


def _input_cost(brief: Brief) -> int:
    return (
        (brief.cost_input_nanousd or 0) + (brief.cost_cache_read_nanousd or 0) + (brief.cost_cache_write_nanousd or 0)
    )


def _who(brief: Brief) -> str:
    return f"{brief.agent} ({brief.model})" if brief.agent else brief.model


# --- what a cache did not serve ----------------------------------------------------------------------------------


def _misses(briefs: Iterable[Brief]) -> Iterator[Finding]:
    for thread in _threads(briefs):
        rates = _cache_rates(thread)
        steps: list[FindingStep] = []
        for index, (before, brief) in enumerate(pairwise(thread), start=1):
            missed = _missed(before, brief)
            if missed:
                steps.append(_step(brief, _dearer(brief, missed, rates[index]), missed))
        if steps:
            tokens = sum(step.tokens or 0 for step in steps)
            text = (
                f"{_times(len(steps), 'call')} of {_who(thread[0])} read less than half of the call before from a cache: "
                f"up to {tokens:,} input tokens were paid for at more than the cache-read rate."
            )
            yield _finding("cache_miss", thread, steps, text, estimated=True)


def _missed(before: Brief, brief: Brief) -> int:
    """How many input tokens a cache could have served and did not; 0 where it is no miss."""
    had, size, read = before.input_tokens or 0, brief.input_tokens or 0, brief.cache_read_tokens or 0
    shared = min(had, size)
    in_use = bool(before.cache_read_tokens or before.cache_write_tokens)
    if shared < _CACHED_MIN or 2 * read >= shared or not (in_use or size >= had):
        return 0
    return shared - read


def _cache_rates(thread: Sequence[Brief]) -> list[str | None]:
    """For each call the cache-read rate that its row states, or the nearest before it, or else the first after it."""
    following = next((brief.cache_read_rate for brief in thread if brief.cache_read_rate is not None), None)
    rates: list[str | None] = []
    for brief in thread:
        following = brief.cache_read_rate or following
        rates.append(following)
    return rates


def _dearer(brief: Brief, missed: int, rate_usd: str | None) -> int | None:
    """What tokens cost more than at a cache-read rate (USD per million); None when either is not known."""
    elsewhere = (brief.input_tokens or 0) - (brief.cache_read_tokens or 0)
    if rate_usd is None or brief.cost_nanousd is None or elsewhere <= 0:
        return None
    paid = _part((brief.cost_input_nanousd or 0) + (brief.cost_cache_write_nanousd or 0), missed, elsewhere)
    return max(0, paid - Rate.of(Decimal(rate_usd), _PER).cost(missed))


# --- what was done again -----------------------------------------------------------------------------------------


def _repeats(briefs: Iterable[Brief], free_tools: Iterable[Span]) -> Iterator[Finding]:
    # What was kept was not called again.
    paid = [brief for brief in briefs if brief.kind == "tool" and brief.number == 1 and not brief.is_kept]
    free: dict[str, list[FindingStep]] = {}
    for span in free_tools:
        free.setdefault(span.tool or span.name, []).append(
            FindingStep("", span.span_id, span.started_us, None, None, None),
        )
    recorded = {brief.tool for brief in paid} | set(free)
    for group in _groups(paid, lambda brief: (brief.tool, brief.arguments)):
        tool, arguments = group[0].tool, group[0].arguments
        steps = [_step(brief, brief.cost_nanousd) for brief in group]
        if not arguments:
            steps = sorted([*steps, *free.pop(tool, [])], key=lambda step: step.started_us)
        if len(steps) > 1:
            yield _repeated(tool, group, steps, same=bool(arguments))
    for tool, steps in free.items():
        if len(steps) > 1:
            yield _repeated(tool, [], steps, same=False)
    yield from _asked_again(briefs, recorded)


def _asked_again(briefs: Iterable[Brief], recorded: set[str]) -> Iterator[Finding]:
    asked: dict[str, list[Brief]] = {}
    for brief in briefs:
        for tool in sorted(set(brief.tools) - recorded):
            asked.setdefault(tool, []).append(brief)
    for tool, calls in asked.items():
        if len(calls) >= _ASKED_MIN:
            steps = [_step(brief, brief.cost_nanousd) for brief in calls[1:]]
            text = (
                f"Models asked for the tool {tool} {len(calls):,} times, and nobody recorded its calls: "
                "this is what the model calls cost that asked for it again."
            )
            yield _finding("repeated_tool", calls, steps, text, estimated=False, tool=tool)


def _repeated(tool: str, group: Sequence[Brief], steps: Sequence[FindingStep], *, same: bool) -> Finding:
    how = "with the same arguments" if same else "with arguments that nobody noted"
    text = f"The tool {tool} was called {len(steps):,} times {how}: this is what all calls but the first cost."
    return _finding("repeated_tool", group, steps[1:], text, estimated=False, tool=tool)


def _retries(briefs: Iterable[Brief]) -> Iterator[Finding]:
    tried = (brief for brief in briefs if not brief.is_kept)
    again = [sorted(call, key=lambda b: b.number) for call in _groups(tried, lambda b: b.call_id) if len(call) > 1]
    for calls in _groups(again, lambda call: (any(brief.is_hedge for brief in call), *_way(call))):
        lost = sorted((brief for call in calls for brief in _lost(call)), key=lambda brief: brief.started_us)
        steps = [_step(brief, brief.cost_nanousd) for brief in lost]
        yield _finding("retry", lost, steps, _tried(calls, len(lost)), estimated=False, tool=calls[0][-1].tool)


def _lost(call: Sequence[Brief]) -> list[Brief]:
    """The attempts of a call that did not answer it; of those that all failed, all but the last."""
    by = next((brief for brief in reversed(call) if brief.status == "ok"), call[-1])
    return [brief for brief in call if brief is not by]


def _way(call: Sequence[Brief]) -> list[str]:
    """What a call was tried at, one after the other: a name alone where it stayed there."""
    way = [target for target, _ in groupby(brief.target for brief in call)]
    return way if len(way) > 1 else [call[-1].tool or call[-1].model]


def _tried(calls: Sequence[Sequence[Brief]], lost: int) -> str:
    way = _way(calls[0])
    count = _times(len(calls), "call")
    cost = "this is what the attempts before the last cost"
    if any(brief.is_hedge for brief in calls[0]):
        asked = " and ".join(way) if len(way) > 1 else f"{way[0]} twice"
        return f"{count} that took long {_WAS[len(calls) > 1]} asked of {asked}, a hedge: this is what the other attempts cost."
    lost_ms = sum(max(0, call[-1].started_us - call[0].started_us) for call in calls) // 1000
    if len(way) > 1:
        return f"{count} went on from {' to '.join(way)}: {cost}, and {lost_ms:,} ms went by."
    times = "once" if lost == 1 else f"{lost:,} times in all"
    return f"{count} of {way[0]} {_WAS[len(calls) > 1]} tried again, {times}: {cost}, and {lost_ms:,} ms went by."


# --- what came to nothing ----------------------------------------------------------------------------------------


def _failures(briefs: Iterable[Brief]) -> Iterator[Finding]:
    failed = (brief for brief in briefs if brief.status != "ok" and brief.cost_nanousd != 0)
    for group in _groups(failed, lambda brief: (brief.tool or brief.model, brief.status)):
        name, status = group[0].tool or group[0].model, group[0].status
        steps = [_step(brief, brief.cost_nanousd) for brief in group]
        text = f"{_times(len(group), 'attempt')} of {name} ended as {status} and {_WAS[len(group) > 1]} billed."
        if all(step.amount_nanousd is None for step in steps):
            text = f"{_times(len(group), 'attempt')} of {name} ended as {status}; what was billed is not known."
        yield _finding("failed_billed", group, steps, text, estimated=False, tool=group[0].tool)


_WAS: Final = ("was", "were")
