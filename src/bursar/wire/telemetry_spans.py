"""From the facts of a span or a record to an observation.

Rule 1: what an attribute says of the kind counts before the span's name, and that before what its figures suggest. Usage
        on an agent, a task or a step never makes it a model call.
Rule 2: the host that was called says who bills, where it is known: clients of one provider call many others. A framework
        is no provider. Where nobody is named, a model's name that leaves no doubt is taken, and noted.
Rule 3: a model call that ended well and states no usage is unpriced, not free: its reading has the reason.
Rule 4: what somebody other than the provider says a call cost is kept beside our price; ``PROVIDER_REPORTED`` is noted
        where it was the provider itself.
Rule 5: an answer out of a cache in front of the provider cost nothing. What was not bought is noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec

from bursar.core.ledger import Door
from bursar.core.money import NanoUSD
from bursar.core.observations import Kind, Observation, Source
from bursar.core.prices import Reading, Terms
from bursar.core.scopes import LABELS_MAX, NOBODY, VALUE_LENGTH_MAX, Scope
from bursar.core.traces import PROVIDER_REPORTED
from bursar.core.usage import NO_USAGE, Usage
from bursar.core.values import valueclass

from .dialect import make_terms
from .providers import provider as find_provider
from .providers import split_url
from .telemetry import Facts, provider_id, rule_of, words
from .telemetry_payloads import text_length
from .telemetry_usage import COUNTS, Counted, count_usage

__all__ = ["CLAUDE_CODE", "NO_ORIGIN", "Origin", "Place", "clock", "failure", "observe", "origin_of"]

CLAUDE_CODE: Final = "claude_code."
"""How the names of everything that Claude Code sends begin."""

_COUNTED: Final = frozenset(COUNTS)
_FIGURES: Final = _COUNTED | {
    "reported",
    "reported_input",
    "charged",
    "aggregated_input_tokens",
    "aggregated_output_tokens",
}
_ANSWERED: Final = frozenset({"output_tokens", "raw_output_tokens", "own_usage"})
_AGGREGATED: Final = "aggregated_"
_EVENT: Final = "event_"
_NO_USAGE: Final = frozenset({"size_bytes", "total_tokens"})
_SCOPED: Final = frozenset(
    {"org", "team", "project", "user", "session", "agent", "task", "parent_task", "tags", "person", "entity"}
)
_ERROR_LENGTH_MAX: Final = 400
_ANSWER_MAX: Final = 1_048_576
# No span is older than this century's OpenTelemetry, nor from the next one: such a clock is wrong.
_NS_MIN: Final = 946_684_800 * 10**9
_NS_MAX: Final = 4_102_444_800 * 10**9


@valueclass
class Origin:
    """What a resource and an instrumentation say of everything under them.

    ``library`` is the instrumentation's scope, ``openlit`` whether the resource says that OpenLIT made it.
    """

    scope: Scope = NOBODY
    group: str = ""
    library: str = ""
    openlit: bool = False


NO_ORIGIN: Final = Origin()


class Place(NamedTuple):
    """Where and when something happened, in the words of an observation."""

    source: Source
    door: Door
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_us: int
    ended_us: int
    failed: bool
    error: str
    notes: tuple[str, ...]


def clock(start_ns: int, end_ns: int) -> tuple[int, int, tuple[str, ...]] | None:
    """Start and end in microseconds, with a note where one of them cannot be true; None where neither can."""
    if _NS_MIN <= start_ns <= end_ns <= _NS_MAX:
        return start_ns // 1_000, end_ns // 1_000, ()
    start_true, end_true = _NS_MIN <= start_ns <= _NS_MAX, _NS_MIN <= end_ns <= _NS_MAX
    if start_true:
        why = "it ends before it starts" if end_true else "its end cannot be true" if end_ns else "it has no end"
        return start_ns // 1_000, start_ns // 1_000, (f"clock: {why}",)
    if end_true:
        return end_ns // 1_000, end_ns // 1_000, ("clock: its start cannot be true",)
    return None


def failure(facts: Facts, message: str) -> str:
    """One short line of what went wrong: the type of the error, and what it says."""
    kind = str(facts.values.get("error_type", ""))
    text = message or str(facts.values.get("error_text", ""))
    return (f"{kind}: {text}" if kind and text and not text.startswith(kind) else text or kind or "error")[
        :_ERROR_LENGTH_MAX
    ]


def origin_of(resource: Facts, sdk_name: str, library: str) -> Origin:
    """The origin of a resource's facts."""
    said = resource.values
    if str(said.get("project", "")).startswith("unknown_service"):
        del said["project"]
    scope = _scope(resource, NO_ORIGIN)
    group = scope.session or str(said.get("instance", ""))
    return Origin(scope, group, library, sdk_name == "openlit")


def observe(facts: Facts, origin: Origin, place: Place) -> Observation:
    """The observation of what was said at a place."""
    said = facts.values
    get = said.get
    name = place.name
    claude = name.startswith(CLAUDE_CODE)
    kind = cast("Kind", get("kind") or _named_kind(origin.library, name) or _suggested_kind(said))
    notes = place.notes
    tool = ""
    if kind == "tool":
        tool = get("tool") or get("entity") or _after(name, "execute_tool ", "tools/call ", "running tool: ")
        if call_id := get("tool_call_id") or get("event_call_id"):
            notes = (*notes, f"tool_call_id={call_id}")
    scope = _scope(facts, origin, name if kind == "agent" else "", claude=claude)
    who = _NOBODY
    reading = first = None
    if kind == "model":
        who = _who(said, claude)
        reading, more = _reading(facts, origin, who, place, claude)
        notes = notes + who.notes + more if who.notes or more else notes
        first = _first_token(said, place.started_us)
    elif kind == "tool":
        if "own_usage" in said and not facts.bad:
            own = count_usage(said, cache_beside="", reasoning_beside="", lifetime="", in_parts=False)
            reading = Reading(own.usage, own.reason)
    elif facts.bad or not _FIGURES.isdisjoint(said):
        called = _who(said, claude)
        reading, more = _sum(facts, called, kind)
        if reading is not None:
            who = called
        notes = notes + more
    status: Literal["ok", "error"] = "error" if place.failed else "ok"
    return Observation(
        place.source,
        place.door,
        name,
        kind,
        place.started_us,
        place.ended_us,
        place.trace_id,
        place.span_id,
        place.parent_id,
        get("operation", ""),
        who.provider,
        who.asked,
        reading,
        scope,
        tool,
        scope.session or origin.group,
        status,
        place.error if place.failed else "",
        first is not None or bool(get("stream")) or "stream" in get("operation", ""),
        first,
        _size(said) if kind == "tool" else None,
        notes,
    )


# --- what it is -------------------------------------------------------------------------------------------------


def _named_kind(library: str, name: str) -> str | None:
    found = words().spans.get(name)
    if found is None and library in words().scopes:
        found = _scoped_kind(library, name[:VALUE_LENGTH_MAX])
    return found


@lru_cache(maxsize=1_024)
def _scoped_kind(library: str, name: str) -> str | None:
    return next((kind for pattern, kind in words().scopes[library].items() if fnmatchcase(name, pattern)), None)


def _suggested_kind(said: Mapping[str, Any]) -> str:
    for slot, kind in words().present.items():
        if slot in said:
            return kind
    # A model and its own figures, and nothing that calls it a sum.
    named = "model_asked" in said or "model_answered" in said
    return "model" if named and not _COUNTED.isdisjoint(said) and not _summed(said) else "step"


def _after(name: str, *beginnings: str) -> str:
    """A name without the word of its operation."""
    for beginning in beginnings:
        if name.startswith(beginning):
            name = name[len(beginning) :]
            break
    return name[:VALUE_LENGTH_MAX]


# --- where it went ----------------------------------------------------------------------------------------------


class _Who(NamedTuple):
    provider: str
    asked: str
    answered: str
    terms: Terms
    lifetime: Literal["5m", "1h", ""]
    notes: tuple[str, ...]


_NOBODY: Final = _Who("", "", "", (), "", ())


def _who(said: Mapping[str, Any], claude: bool) -> _Who:
    get = said.get
    return _resolved(get("provider", ""), get("host", ""), get("model_asked", ""), get("model_answered", ""), claude)


@lru_cache(maxsize=4_096)
def _resolved(provider: str, host: str, asked: str, answered: str, claude: bool) -> _Who:
    """Who was called, by which name of the model, and what calling that host agrees to."""
    notes: tuple[str, ...] = ()
    terms: Terms = ()
    bare = split_url(host)[0] if host else ""
    called = find_provider(bare) if "." in bare else None
    if called is not None:
        terms = called.host_terms(bare)
        if provider and provider != called.id:
            notes = (f"provider={called.id}: the host that was called, not {provider}",)
        provider = called.id
    asked, answered = asked.removeprefix("models/"), answered.removeprefix("models/")
    head, slash, rest = asked.partition("/")
    maker = provider_id(head) if slash and (find_provider(head) or head in words().providers) else ""
    if maker and provider in ("", maker):
        provider, asked = maker, rest
        answered = answered.removeprefix(f"{head}/")
    if claude:
        asked = asked.partition("[")[0]  # claude-opus-4-6[1m]: the window it may use, not another model
    if not provider:
        model = (answered or asked).lower()
        provider = next((to for pattern, to in words().makers.items() if fnmatchcase(model, pattern)), "")
        if provider and not claude:
            notes = (*notes, "provider_assumption=model_name")
        elif claude:
            provider = provider or "anthropic"
    lifetime: Literal["5m", "1h", ""] = ""
    if claude:
        lifetime = "1h"
    elif provider == "anthropic" or "claude" in (answered or asked).lower():
        lifetime = "5m"
    return _Who(provider, asked, answered, terms, lifetime, notes)


# --- how much ---------------------------------------------------------------------------------------------------


def _reading(
    facts: Facts, origin: Origin, who: _Who, place: Place, claude: bool
) -> tuple[Reading | None, tuple[str, ...]]:
    """What a model call used and what it is said to have cost, and notes."""
    said = facts.values
    get = said.get
    if get("operation") == "fetch_response":
        return None, ()
    if claude:
        said.update({slot.removeprefix(_EVENT): said[slot] for slot in _EVENTS if said.get(slot) is not None})
    counted = _counted(facts, origin, who, claude, in_parts=place.source == "metric")
    reported, notes = _reported(said)
    response_id = get("response_id") or (get("request_id") if claude else None) or ""
    if response_id.startswith(words().runs):
        response_id = ""
    if counted is None:
        silent = place.failed or place.source == "log" or not (who.asked or who.answered)
        if silent and reported is None:
            return None, ()
        counted = Counted(None, f"the {place.source} states no usage")
    usage, notes = counted.usage, (counted.notes + notes if counted.notes or notes else ())
    estimated = bool(get("estimated"))
    if usage is not None and origin.openlit and _made_up(said, usage, response_id):
        estimated = True
        notes = (*notes, "estimated=openlit: it counts characters where the answer states no usage")
    if usage is not None and not estimated and _answer_unsaid(said, who):
        estimated = True
        notes = (*notes, "estimated=the output tokens are not stated")
    if get("cache_hit") and usage is not None:
        counts = ",".join(f"{unit}:{count}" for unit, count in usage.counts().items())
        usage, reported = NO_USAGE, None
        notes = (*notes, f"cache_hit: not bought {counts or 'nothing'}")
    terms = _terms(said, who, claude)
    finish = get("finish", "")
    if not estimated and not finish and reported is None and not terms:
        return Reading(usage, counted.reason, who.answered, response_id), notes
    return Reading(
        usage, counted.reason, who.answered, response_id, terms, reported, estimated, finish
    ), notes  # fmt: skip


def _made_up(said: Mapping[str, Any], usage: Usage, response_id: str) -> bool:
    """Whether OpenLIT counted half the characters because the provider stated nothing. It does not say so itself."""
    answer = said.get("answer")
    answer = getattr(answer, "string_value", answer)
    length = text_length(answer, _ANSWER_MAX) if answer else None
    if length is not None:
        return usage.output_tokens == -(-length // 2)
    return not response_id and said.get("operation") != "embeddings"


def _answer_unsaid(said: Mapping[str, Any], who: _Who) -> bool:
    """Whether a call that has an answer states no tokens of it: a stream that was left, most often."""
    if not _ANSWERED.isdisjoint(said):
        return False
    what = f"{said.get('operation', '')} {said.get('word', '')} {who.asked} {who.answered}".lower()
    return "embed" not in what and "rerank" not in what


_LIFETIMES: Final = ("cache_write_5m_tokens", "cache_write_1h_tokens")
_EVENTS: Final = tuple(f"{_EVENT}{slot}" for slot in (*COUNTS, *_LIFETIMES, "reported"))
_SUMS: Final = tuple(f"{_AGGREGATED}{slot}" for slot in COUNTS)


def _summed(said: Mapping[str, Any]) -> bool:
    return "aggregated_input_tokens" in said or "aggregated_output_tokens" in said


def _counted(facts: Facts, origin: Origin, who: _Who, claude: bool, *, in_parts: bool) -> Counted | None:
    """The usage, the reason why it is not known, or None where none was stated."""
    said = facts.values
    if facts.bad and (bad := _bad(facts, _EVENT if claude else "")):
        return bad
    if _COUNTED.isdisjoint(said):
        return None
    cache_beside = reasoning_beside = ""
    if claude:
        cache_beside = "claude_code"
    elif origin.openlit and who.provider == "anthropic":
        cache_beside = "openlit"
    elif facts.ranks.get("input_tokens") in _langfuse_ranks() and _buckets(facts):
        cache_beside = reasoning_beside = "langfuse"
    return count_usage(
        said,
        cache_beside=cache_beside,
        reasoning_beside=reasoning_beside,
        lifetime=who.lifetime,
        in_parts=in_parts,
    )


def _bad(facts: Facts, beginning: str) -> Counted | None:
    """The reason of a count that cannot be one, where it is part of this usage; ``beginning`` is that of more slots."""
    whys = [
        why
        for slot, why in facts.bad.items()
        if slot not in _NO_USAGE
        and (not slot.startswith((_EVENT, _AGGREGATED)) or (beginning and slot.startswith(beginning)))
    ]
    return Counted(None, f"usage: {min(whys)}") if whys else None


@lru_cache(maxsize=1)
def _langfuse_ranks() -> frozenset[int]:
    """The ranks of an input that Langfuse itself states."""
    rules = (rule_of(f"langfuse.usage.{name}") for name in ("input", "input_tokens", "prompt_tokens"))
    return frozenset(rule.rank for rule in rules if rule is not None)


def _buckets(facts: Facts) -> bool:
    """Whether Langfuse's counts are buckets beside each other: those of its own names are, and their total is their sum.

    What it passed on from OpenInference (``prompt_details.``) still lies inside the input.
    """
    said = facts.values
    get = said.get
    inside = (get("input_tokens") or 0) + (get("output_tokens") or 0)
    parts = (get("cache_read_tokens") or 0) + (get("cache_write_tokens") or 0) + (get("reasoning_tokens") or 0)
    total = get("total_tokens")
    if total is not None and parts and total in (inside, inside + parts):
        return total == inside + parts
    passed_on = rule_of("langfuse.usage.prompt_details.cache_read")
    return passed_on is not None and facts.ranks.get("cache_read_tokens") != passed_on.rank


def _sum(facts: Facts, who: _Who, kind: Kind) -> tuple[Reading | None, tuple[str, ...]]:
    """The figures of what is no call by itself: sums of what is below. A cost alone is one on an agent or a task."""
    said = facts.values
    if said.get("operation") == "fetch_response":
        return None, ("the usage is that of the call whose answer was fetched",)
    if _COUNTED.isdisjoint(said) and _summed(said):
        said.update({slot.removeprefix(_AGGREGATED): said[slot] for slot in _SUMS if slot in said})
    counted = _bad(facts, _AGGREGATED) if facts.bad else None
    reported, notes = _reported(said)
    if counted is None and not _COUNTED.isdisjoint(said):
        counted = count_usage(said, cache_beside="", reasoning_beside="", lifetime=who.lifetime, in_parts=False)
    if counted is None:
        if reported is None or kind == "step":
            return None, ()
        counted = Counted(None, "the span states no usage")
    return Reading(counted.usage, counted.reason, who.answered, reported=reported), counted.notes + notes


def _reported(said: Mapping[str, Any]) -> tuple[NanoUSD | None, tuple[str, ...]]:
    charged = said.get("charged")
    if charged is not None:
        return charged, (PROVIDER_REPORTED,)
    reported = said.get("reported")
    if reported is None:
        if "reported_input" not in said and "reported_output" not in said:
            return None, ()
        reported = NanoUSD((said.get("reported_input") or 0) + (said.get("reported_output") or 0))
    currency = str(said.get("reported_currency", "USD"))
    if currency.upper() != "USD":
        return None, (f"a cost in {currency} is not kept",)
    return reported, (PROVIDER_REPORTED,) if said.get("reported_by") == "provider" else ()


def _terms(said: Mapping[str, Any], who: _Who, claude: bool) -> Terms:
    terms = who.terms
    tier = said.get("tier_answered") or said.get("tier_asked")
    if tier:
        terms += make_terms("service_tier", tier)
    if claude and said.get("speed") == "fast":
        terms += make_terms("speed", "fast")
    return tuple(sorted(terms)) if len(terms) > 1 else terms


def _first_token(said: Mapping[str, Any], started_us: int) -> float | None:
    seconds = said.get("first_token_s")
    if seconds is not None:
        return seconds * 1_000
    found = said.get("first_token_ms")
    if found is None and (at := said.get("first_token_at")):
        try:
            moment = datetime.fromisoformat(at.strip('"'))
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
        since = moment.timestamp() * 1_000 - started_us / 1_000
        found = since if since >= 0 else None
    return found


def _size(said: Mapping[str, Any]) -> int | None:
    stated = said.get("size_bytes")
    if stated is not None:
        return stated
    answer = said.get("size")
    answer = getattr(answer, "string_value", answer)  # of protobuf only now: most results are never measured
    if isinstance(answer, str):
        return len(answer) if answer.isascii() else len(answer.encode("utf-8", "surrogatepass"))
    return len(msgspec.json.encode(answer)) if isinstance(answer, dict | list) else None


# --- who it was for ---------------------------------------------------------------------------------------------


def _scope(facts: Facts, origin: Origin, agent_span: str = "", *, claude: bool = False) -> Scope:
    """The scope that the facts state, over that of their resource. ``agent_span`` is the name of an agent's span."""
    said = facts.values
    labels = facts.labels
    if not labels and not agent_span and _SCOPED.isdisjoint(said):
        return origin.scope
    get = said.get
    base = origin.scope
    agent = get("agent")
    if agent_span and not agent:
        named = _after(agent_span, "invoke_agent ", "create_agent ", "agent_run ")
        agent = get("entity") or ("" if named == agent_span else named.strip("[]"))
    user = (get("person") or get("user")) if claude else (get("user") or get("person"))
    if tags := get("tags"):
        labels.setdefault("tags", tags)
    pairs = base.labels
    if labels:
        for label, value in pairs:
            labels.setdefault(label, value)
        pairs = tuple(sorted(list(labels.items())[:LABELS_MAX]))
    return Scope(
        get("org") or base.org,
        get("team") or base.team,
        get("project") or base.project,
        user or base.user,
        agent or base.agent,
        get("session") or base.session,
        get("task") or base.task,
        get("parent_task") or base.parent_task,
        "",
        pairs,
    )
