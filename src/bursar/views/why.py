"""Why a call took the rung it took: everything its choice was made of, and what became of each attempt.

Rule 1: a call is told as a whole: an attempt's decision was stored before it left, so what became of it is taken from the rows.
        A rung that was not needed yet, of a call that nobody answered, was not tried.
Rule 2: what nobody stored is not known: a call that was only observed (telemetry, imports) has no candidates.
Rule 3: what is stored may have come from another process: what is not as expected is left out, never an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from bursar.core.money import decimal_text

from ._sql import statement
from .feed import Step
from .measures import cost_text, time_text

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = [
    "BEGINNING_LENGTH_MIN",
    "LAST",
    "BudgetPart",
    "CacheState",
    "CallAnswer",
    "CallAttempt",
    "Candidate",
    "NoCall",
    "PromptCachePart",
    "SeveralCalls",
    "WhyCall",
    "why",
]

LAST: Final = "last"
"""In the place of an id: the call that was booked last."""

BEGINNING_LENGTH_MIN: Final = 6
_CANDIDATES_MAX: Final = 10
_ATTEMPTS_MAX: Final = 200
_TOOK: Final = ("taken", "probe", "panic", "hedge")


@dataclass(frozen=True, slots=True)
class CallAttempt:
    """One attempt of a call. ``decision`` is what was stored before it left; ``cause`` why it is not on the first rung."""

    step: Step
    rung: str
    cache: str
    cause: str
    avoided_nanousd: int | None
    decision: Mapping[str, Any]

    @property
    def is_answer(self) -> bool:
        return self.step.status == "ok"

    @property
    def why(self) -> str:
        return _text(self.decision, "why")

    @property
    def verdict(self) -> str:
        """That of the candidate it is, "" where none was stored."""
        taken = _taken(self.decision)
        return "" if taken is None else _text(taken[1], "verdict")

    def to_json(self) -> dict[str, Any]:
        return {**self.step.to_json(), "decision": self.decision}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One rung as it was looked at, and what became of it.

    ``verdict``: taken, or taken as a probe, in panic, as a hedge; failed; passed (over); cancelled (another was faster); not
    needed; not tried; "" where none was stored. ``charged_nanousd`` is what its attempts cost together, None where it made none or none is
    priced. ``status`` and ``http_status`` are those of its last attempt.
    """

    rung: str
    provider: str
    model: str
    verdict: str
    why: str
    breaker: str
    expected_nanousd: int | None
    charged_nanousd: int | None = None
    estimated: bool = False
    attempts: tuple[str, ...] = ()
    status: str = ""
    http_status: int | None = None

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        expected_usd = cost_text(values.pop("expected_nanousd"))
        charged_usd = cost_text(values.pop("charged_nanousd"))
        return {**values, "attempts": list(self.attempts), "expected_usd": expected_usd, "charged_usd": charged_usd}


@dataclass(frozen=True, slots=True)
class CacheState:
    """What the response cache had. ``outcome``: a tier that answered, miss, or "" where it was not asked, ``why`` then says
    why. ``found``: fresh, stale, coalesced, similar, nothing. ``similar`` says what came of looking for a similar question."""

    outcome: str
    found: str
    why: str
    similar: str
    similarity_permille: int | None
    age_s: int | None
    avoided_nanousd: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "found": self.found,
            "why": self.why,
            "similar": self.similar,
            "similarity_permille": self.similarity_permille,
            "age_s": self.age_s,
            "avoided_usd": cost_text(self.avoided_nanousd),
        }


@dataclass(frozen=True, slots=True)
class BudgetPart:
    """What the tightest budget made of the call. ``share`` is used thousandths before its hold; ``left`` after it, nano-USD where
    ``unit`` is usd; ``changed`` names what is not as it was asked for."""

    name: str
    subject: str
    window: str
    unit: str
    share: int | None
    left: int | None
    held_nanousd: int | None
    output_cap: int | None
    changed: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        left = decimal_text(self.left) if self.unit == "usd" and self.left is not None else self.left
        return {
            "name": self.name,
            "subject": self.subject,
            "window": self.window,
            "unit": self.unit,
            "used_share": None if self.share is None else self.share / 1_000,
            "left": left,
            "held_usd": cost_text(self.held_nanousd),
            "output_cap": self.output_cap,
            "changed": list(self.changed),
        }


@dataclass(frozen=True, slots=True)
class PromptCachePart:
    """What was done for the provider's own cache of prompts. ``marks`` are the places that were marked, for ``ttl``; ``keyed``: it
    was given a key instead; neither: ``why`` not. ``expected_nanousd`` is what the marks are expected to gain, ``chance_permille``
    how likely the prompt is to come again in time, ``read_tokens`` what of it should be there already. ``parted_at`` is the path
    and byte at which it parted from the prompt before it, "" where it only adds to that."""

    marks: tuple[str, ...]
    ttl: str
    keyed: bool
    why: str
    expected_nanousd: int | None
    chance_permille: int | None
    read_tokens: int | None
    parted_at: str

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        expected_usd = cost_text(values.pop("expected_nanousd"))
        return {**values, "marks": list(self.marks), "expected_usd": expected_usd}


@dataclass(frozen=True, slots=True)
class WhyCall:
    """A call with its attempts. ``by`` is the one that answered, else the last; ``asked_attempt`` the one asked for, "" for none.

    ``asked`` is the operation that the client asked for, "" where it is not known: that of an attempt may be its translation.
    ``elapsed_ms`` is from the start of the first attempt to the end of the last, None where no end is known.
    """

    call_id: str
    asked_attempt: str
    asked: str
    scope: Mapping[str, str]
    stream: bool
    route: str
    by: CallAttempt
    attempts: tuple[CallAttempt, ...]
    attempt_count: int
    cost_nanousd: int | None
    unpriced_count: int
    estimated_count: int
    first_us: int
    elapsed_ms: float | None
    candidates: tuple[Candidate, ...]
    cache: CacheState
    budget: BudgetPart | None
    prompt_cache: PromptCachePart | None

    def to_json(self) -> dict[str, Any]:
        step = self.by.step
        return {
            "call_id": self.call_id,
            "asked_attempt": self.asked_attempt,
            "started_at": time_text(self.first_us),
            "asked": self.asked,
            **{name: getattr(step, name) for name in ("kind", "door", "operation", "model_asked")},
            **self.scope,
            "stream": self.stream,
            "route": self.route,
            "answered": self.by.is_answer,
            "answered_by": step.attempt_id if self.by.is_answer else None,
            **{name: getattr(step, name) for name in ("provider", "model", "status", "http_status", "error")},
            **{name: getattr(self.by, name) for name in ("rung", "cause", "why")},
            "cost_usd": cost_text(self.cost_nanousd),
            "unpriced_attempts": self.unpriced_count,
            "estimated_attempts": self.estimated_count,
            "elapsed_ms": self.elapsed_ms,
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "cache": self.cache.to_json(),
            "budget": self.budget.to_json() if self.budget else None,
            "prompt_cache": self.prompt_cache.to_json() if self.prompt_cache else None,
            "attempts": [attempt.to_json() for attempt in self.attempts],
            "attempts_left_out": self.attempt_count - len(self.attempts),
        }


@dataclass(frozen=True, slots=True)
class NoCall:
    """No call has this id."""


@dataclass(frozen=True, slots=True)
class SeveralCalls:
    """Several calls begin so. ``more``: there are others."""

    candidates: tuple[str, ...]
    more: bool


CallAnswer: TypeAlias = WhyCall | NoCall | SeveralCalls


def why(queries: Queries, name: str) -> CallAnswer:
    """The call with this id, or of this attempt, or the one whose id begins so (from ``BEGINNING_LENGTH_MIN`` characters on), or
    the ``LAST``."""
    asked_attempt = ""
    if name == LAST:
        found = queries.rows(statement("why", "last_call"))
    else:
        parameters = {"id": name, "beginning": len(name) >= BEGINNING_LENGTH_MIN, "limit": _CANDIDATES_MAX + 1}
        found = queries.rows(statement("why", "find_call"), parameters)
        if len(found) > 1 and not (found[0]["is_call"] or found[0]["is_attempt"]):
            names = tuple(row["call_id"] for row in found)
            return SeveralCalls(names[:_CANDIDATES_MAX], len(names) > _CANDIDATES_MAX)
        asked_attempt = name if found and found[0]["is_attempt"] and not found[0]["is_call"] else ""
    if not found:
        return NoCall()
    call_id: str = found[0]["call_id"]
    sql = statement("why", "attempts", step_columns=statement("feed", "step_columns"))
    return _call(queries.rows(sql, {"call_id": call_id, "limit": _ATTEMPTS_MAX}), asked_attempt)


_SCOPE: Final = ("org", "team", "project", "user", "agent", "session", "task", "parent_task", "key", "trace_id")


def _call(rows: Sequence[Mapping[str, Any]], asked_attempt: str) -> WhyCall:
    attempts = tuple(_attempt(row) for row in rows)
    by = next((attempt for attempt in reversed(attempts) if attempt.is_answer), attempts[-1])
    row = rows[attempts.index(by)]
    ended_us: int | None = row["ended_us"]
    return WhyCall(
        call_id=row["call_id"],
        asked_attempt=asked_attempt,
        asked=_asked(by),
        scope={name: row[name] for name in _SCOPE},
        stream=row["stream"],
        route=_text(by.decision, "route"),
        by=by,
        attempts=attempts,
        attempt_count=row["attempt_count"],
        cost_nanousd=row["sum_nanousd"],
        unpriced_count=row["unpriced_count"],
        estimated_count=row["estimated_count"],
        first_us=row["first_us"],
        elapsed_ms=None if ended_us is None else (ended_us - row["first_us"]) / 1_000,
        candidates=_candidates(attempts, by),
        cache=_cache(by),
        budget=_budget(by),
        prompt_cache=_prompt_cache(by),
    )


def _asked(by: CallAttempt) -> str:
    """Without a route, and from the cache, the call is booked as the client made it; on a route it may have been translated."""
    as_it_came = not _text(by.decision, "route") or by.cache not in ("", "miss")
    return _text(by.decision, "asked") or (by.step.operation if as_it_came else "")


def _attempt(row: Mapping[str, Any]) -> CallAttempt:
    step = Step.of({name: row[name] for name in Step.__slots__})
    return CallAttempt(step, row["rung"], row["cache"], row["cause"], row["avoided_nanousd"], _parsed(row["decision"]))


# --- candidates -------------------------------------------------------------------------------------------------

_Key: TypeAlias = tuple[int, str, str]


def _candidates(attempts: Sequence[CallAttempt], by: CallAttempt) -> tuple[Candidate, ...]:
    """The candidates of the last decision, which knows most, with what became of those that were taken."""
    found = {key: _candidate(raw) for key, raw in _listed(attempts[-1].decision)}
    made: dict[_Key, list[CallAttempt]] = {}
    for attempt in attempts:
        taken = _taken(attempt.decision)
        if taken is not None:
            key, raw = taken
            found.setdefault(key, _candidate(raw))
            made.setdefault(key, []).append(attempt)
    return tuple(_ended(found[key], made.get(key, ()), by) for key in sorted(found, key=lambda key: key[0]))


def _listed(decision: Mapping[str, Any]) -> list[tuple[_Key, Mapping[str, Any]]]:
    raw = decision.get("candidates")
    items = cast("list[Any]", raw) if isinstance(raw, list) else []
    maps = [cast("Mapping[str, Any]", item) for item in items if isinstance(item, Mapping)]
    return [((index, _text(item, "provider"), _text(item, "model")), item) for index, item in enumerate(maps)]


def _taken(decision: Mapping[str, Any]) -> tuple[_Key, Mapping[str, Any]] | None:
    listed = _listed(decision)
    taken = next((each for each in listed if each[1].get("verdict") in _TOOK), None)
    return listed[0] if taken is None and len(listed) == 1 and "verdict" not in listed[0][1] else taken


def _candidate(raw: Mapping[str, Any]) -> Candidate:
    names = ("rung", "provider", "model", "verdict", "why", "breaker")
    return Candidate(*(_text(raw, name) for name in names), expected_nanousd=_whole(raw, "expected_nanousd"))


def _ended(candidate: Candidate, made: Sequence[CallAttempt], by: CallAttempt) -> Candidate:
    """The candidate with what its attempts came to."""
    if not made and candidate.verdict == "running":
        return replace(candidate, verdict="not tried", why="it was begun, and nothing of it left")
    if not made:
        is_void = candidate.verdict == "not needed" and not by.is_answer
        return replace(candidate, verdict="not tried") if is_void else candidate
    last = made[-1]
    verdict, reason = candidate.verdict, candidate.why
    if by in made and by.is_answer:
        verdict, reason = by.verdict or "taken", ""
    elif verdict != "failed" and last.step.status != "ended":
        # It was under way, or still to come, when the last decision was made.
        verdict, reason = "failed", last.step.status
        if last.step.status == "cancelled":
            verdict, reason = "cancelled", last.step.error
    costs = [attempt.step.cost_nanousd for attempt in made if attempt.step.cost_nanousd is not None]
    return replace(
        candidate,
        rung=candidate.rung or last.rung,
        verdict=verdict,
        why=reason,
        charged_nanousd=sum(costs) if costs else None,
        estimated=any(attempt.step.estimated for attempt in made),
        attempts=tuple(attempt.step.attempt_id for attempt in made),
        status=last.step.status,
        http_status=last.step.http_status,
    )


# --- the other parts of a decision --------------------------------------------------------------------------------


def _cache(by: CallAttempt) -> CacheState:
    said = _part(by.decision, "cache") or {}
    return CacheState(
        by.cache,
        found=_text(said, "found"),
        why=_text(said, "why"),
        similar=_text(said, "similar"),
        similarity_permille=_whole(said, "similarity_permille"),
        age_s=_whole(said, "age_s"),
        avoided_nanousd=by.avoided_nanousd,
    )


def _budget(by: CallAttempt) -> BudgetPart | None:
    raw = _part(by.decision, "budget")
    if raw is None:
        return None
    return BudgetPart(
        *(_text(raw, name) for name in ("name", "subject", "window", "unit")),
        share=_whole(raw, "share"),
        left=_whole(raw, "left"),
        held_nanousd=_whole(raw, "held_nanousd"),
        output_cap=_whole(raw, "output_cap"),
        changed=_names(raw, "changed"),
    )


def _prompt_cache(by: CallAttempt) -> PromptCachePart | None:
    raw = _part(by.decision, "prompt_cache")
    if raw is None:
        return None
    return PromptCachePart(
        marks=_names(raw, "marks"),
        ttl=_text(raw, "ttl"),
        keyed=raw.get("key") is True,
        why=_text(raw, "why"),
        expected_nanousd=_whole(raw, "expected_nanousd"),
        chance_permille=_whole(raw, "chance_permille"),
        read_tokens=_whole(raw, "read_tokens"),
        parted_at=_text(raw, "diverged_at"),
    )


def _parsed(decision: str) -> Mapping[str, Any]:
    try:
        found = json.loads(decision)
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _part(raw: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = raw.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else None


def _text(raw: Mapping[str, Any], name: str) -> str:
    found = raw.get(name)
    return found if isinstance(found, str) else ""


def _names(raw: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = raw.get(name)
    items = cast("list[Any]", found) if isinstance(found, list) else []
    return tuple(item for item in items if isinstance(item, str))


def _whole(raw: Mapping[str, Any], name: str) -> int | None:
    found = raw.get(name)
    return found if type(found) is int else None
