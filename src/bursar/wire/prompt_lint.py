"""Why a prompt was paid for again: each pair of consecutive requests of a thread, the byte where they part, and what that looks like.

Rule 1: requests are compared as their values are, in one spelling: spacing, escapes and cache marks are no difference, the order of
        keys and tools is one (it is what the model is given).
Rule 2: a thread is what the caller names, else the session, task or conversation that the request names, else the requests whose
        first message of the user is equal. The first request of a thread is compared with the first of the thread before it at the
        same model, up to the messages: what is in front of them could have been shared.
Rule 3: what was paid again is what the later prompt has behind the parting, as far as the earlier one went, in tokens: by the ratio
        of tokens to bytes of the last usage that is known of the thread, else four bytes a token. A prompt that the earlier one begins
        with (a step back, a second try) pays for nothing again.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec

from bursar.core.prompt_cache import minimum_tokens
from bursar.core.values import valueclass
from bursar.learn.prefixes import ORDERS, Divergence, Prefixes, Step

from .dialect import CHARACTERS_PER_TOKEN, UNREADABLE, BadRequest, RequestFacts, mapping
from .providers import dialect_by_id

__all__ = ["WAYS_OUT", "Cause", "Finding", "PromptLint", "Request", "request_dialect"]

Cause: TypeAlias = Literal[
    "timestamp", "uuid", "id", "counter", "reordered keys", "reordered tools", "changed tools", "changed settings", "changed system text",
    "history cut", "changed last message", "edited history",
]  # fmt: skip

WAYS_OUT: Final[Mapping[Cause, str]] = {
    "timestamp": "put the time behind everything that stays: into the last message, or let a tool tell it; or round it to the day",
    "uuid": "leave the id out of the prompt, or put it into the last message",
    "id": "leave the id out of the prompt, or put it into the last message",
    "counter": "put what counts up into the last message",
    "reordered keys": "write JSON with keys in one order (sort_keys=True), and keep sets out of it",
    "reordered tools": "send the tools sorted by name",
    "changed tools": "send the same tools in every request of a thread, and forbid some with tool_choice or in the last message",
    "changed settings": "keep thinking, tool_choice and the output schema as they are within a thread",
    "changed system text": "keep the system text as it is; put what changes behind the conversation, into the last message",
    "history cut": "cut seldom and much instead of a little at every turn: each cut has what is left read anew",
    "changed last message": "keep earlier messages as they were sent; put what is for one turn behind them, into a message of its own",
    "edited history": "send earlier messages as they were: byte for byte, with their ids and thoughts",
}

_STANDING_ROLES: Final = frozenset({"system", "developer"})
_THREADS_MAX: Final = 10_000
_OPENAI_LEAST: Final = 1_024  # developers.openai.com/api/docs/guides/prompt-caching
_GEMINI_LEAST: Final = 4_096  # ai.google.dev/gemini-api/docs/caching; 2,048 for 2.5
_MONTH: Final = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_TIMES: Final = (
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?",
    r"\d{1,2}:\d\d(?::\d\d)?(?:\s?[ap]m)?",
    r"\d{1,2}[./]\d{1,2}[./]\d{2,4}",
    r"\b1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?\b",  # seconds or milliseconds since 1970, from 2017 on
    r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b",
    rf"\b{_MONTH} \d{{1,2}}\b|\b\d{{1,2}} {_MONTH}\b",
)
_SHAPES: Final[tuple[tuple[Cause, re.Pattern[str]], ...]] = (
    ("uuid", re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)),
    ("timestamp", re.compile("|".join(_TIMES), re.IGNORECASE)),
    ("counter", re.compile(r"(?<![\w.])\d{1,9}(?!\w)")),
    ("id", re.compile(r"\b(?=\w*\d)(?=\w*[a-z])[\w-]{8,}", re.IGNORECASE)),
)
_CHANCE: Final[frozenset[Cause]] = frozenset(
    {"timestamp", "uuid", "id", "counter", "reordered keys", "reordered tools"}
)
"""What parts two threads of one agent. Other differences are those of two agents."""


@valueclass
class Request:
    """One request to look at. ``place`` says where it is from; ``model`` and ``response`` may be missing."""

    body: dict[str, Any]
    place: str
    thread: str = ""
    model: str = ""
    at_us: int | None = None
    response: Any = None


@valueclass
class Finding:
    """Two requests that part. ``total_tokens`` is the earlier prompt, ``tokens`` the part of it that was paid again; ``cached`` is
    False where no cache could have held it: too short, or more than an hour ago. ``why_not`` says so."""

    cause: Cause
    thread: str
    across_threads: bool
    dialect: str
    model: str
    before_place: str
    place: str
    divergence: Divergence
    shared_tokens: int
    tokens: int
    total_tokens: int
    gap_us: int | None
    why_not: str = ""


class _Last:
    __slots__ = ("at_us", "bytes", "body", "place", "tokens")

    def __init__(self, request: Request, body: dict[str, Any]) -> None:
        self.place, self.at_us, self.body = request.place, request.at_us, body
        self.tokens, self.bytes = 1, CHARACTERS_PER_TOKEN


class PromptLint:
    """Takes requests in their order; memory is bounded by threads and bytes."""

    def __init__(self) -> None:
        self._prefixes = Prefixes(excerpts=True)
        self._lasts: OrderedDict[str, _Last] = OrderedDict()
        self.requests = 0
        self.pairs = 0
        self.threads: set[str] = set()

    def take(self, request: Request) -> Finding | None:
        """What the request has its prompt paid again for; None where nothing is. Raises ValueError for what is no request."""
        dialect = request_dialect(request.body)
        if not dialect:
            raise ValueError("no request of OpenAI, Anthropic or Gemini: it has neither messages, input nor contents")
        body = cast("dict[str, Any]", _unmarked(request.body))
        model = request.model or str(body.get("model") or "")
        name = f"{dialect}\0{model}\0{_thread(request, body, dialect)}"
        self.requests += 1
        if name in self.threads:
            found = self._compared(name, request, body, dialect, model, across=False)
        else:
            if len(self.threads) < 100 * _THREADS_MAX:
                self.threads.add(name)
            standing = _standing(body, dialect)
            found = self._compared(f"{dialect}\0{model}\0\0", request, standing, dialect, model, across=True)
            found = found if found is not None and found.cause in _CHANCE else None
            self._compared(name, request, body, dialect, model, across=False)
        return found

    def _compared(
        self, name: str, request: Request, body: dict[str, Any], dialect: str, model: str, *, across: bool
    ) -> Finding | None:
        step = self._prefixes.saw(name, msgspec.json.encode(body), request.at_us or 0, order=ORDERS[dialect])
        before = self._lasts.pop(name, None)
        last = self._lasts[name] = _Last(request, body)
        if len(self._lasts) > _THREADS_MAX:
            self._lasts.popitem(last=False)
        if before is not None:
            last.tokens, last.bytes = before.tokens, before.bytes
        stated = _input_tokens(request.response, dialect)
        if stated and not across and step is not None:
            last.tokens, last.bytes = stated, step.bytes
        if step is None or before is None:
            return None
        self.pairs += 1
        if step.divergence is None or _begins(before.body, body, ORDERS[dialect]):
            return None
        return self._finding(name, request, before, last, step, dialect, model, across=across)

    def _finding(
        self,
        name: str,
        request: Request,
        before: _Last,
        last: _Last,
        step: Step,
        dialect: str,
        model: str,
        *,
        across: bool,
    ) -> Finding:
        assert step.divergence is not None
        again = min(step.before_bytes, step.bytes) - step.shared_bytes
        total, shared, again = (n * last.tokens // last.bytes for n in (step.before_bytes, step.shared_bytes, again))
        known = request.at_us is not None and before.at_us is not None
        gap_us = step.gap_us if known else None
        least = _least_tokens(dialect, model)
        why_not = ""
        if total < least:
            why_not = f"shorter than {least:,} tokens: no cache holds it"
        elif gap_us is not None and gap_us > 3_600_000_000:
            why_not = "more than an hour later: no cache would have held it"
        return Finding(
            _cause(step.divergence, before.body, last.body, dialect),
            name.rpartition("\0")[2],
            across,
            dialect,
            model,
            before.place,
            request.place,
            step.divergence,
            shared,
            again,
            total,
            gap_us,
            why_not,
        )


def request_dialect(body: Mapping[str, Any]) -> str:
    """The dialect of a request by its members, "" for none that is known."""
    if "contents" in body:
        return "gemini"
    if "messages" not in body:
        return "openai_responses" if "input" in body else ""
    tools = body.get("tools")
    tool = mapping(cast("list[Any]", tools)[0]) if isinstance(tools, list) and tools else {}
    claude = "claude" in str(body.get("model") or "").lower() and tool.get("type") != "function"
    if claude or "system" in body or "anthropic_version" in body or "input_schema" in tool:
        return "anthropic"
    return "openai_chat"


def _least_tokens(dialect: str, model: str) -> int:
    if dialect == "anthropic":
        return minimum_tokens(model)
    return (
        _GEMINI_LEAST if dialect == "gemini" and "2.5" not in model else 2_048 if dialect == "gemini" else _OPENAI_LEAST
    )


# --- one spelling -----------------------------------------------------------------------------------------------


def _unmarked(value: Any, depth: int = 0) -> Any:
    """The value without cache marks, where they can stand: not inside of schemas and arguments."""
    if isinstance(value, list):
        return [_unmarked(each, depth) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    known = cast("dict[str, Any]", value)
    inside = ("tools", "system", "messages", "content")
    return {
        key: _unmarked(each, depth + 1) if key in inside and depth < 4 else each
        for key, each in known.items()
        if key not in ("cache_control", "prompt_cache_breakpoint")
    }


def _standing(body: dict[str, Any], dialect: str) -> dict[str, Any]:
    """The request up to its messages; in a chat the system's messages are part of what stands."""
    name = ORDERS[dialect][-1]
    kept: list[Any] = []
    messages = body.get(name)
    for message in cast("list[Any]", messages) if isinstance(messages, list) else ():
        if mapping(message).get("role") not in _STANDING_ROLES:
            break
        kept.append(message)
    return {**body, name: kept}


def _begins(before: dict[str, Any], after: dict[str, Any], order: tuple[str, ...]) -> bool:
    """Whether the earlier prompt begins with the later one."""
    old, new = before.get(order[-1]), after.get(order[-1])
    if not (isinstance(old, list) and isinstance(new, list)):
        return False
    olds, news = cast("list[Any]", old), cast("list[Any]", new)
    pairs = [(before.get(name), after.get(name)) for name in order[:-1]]
    return all(
        msgspec.json.encode(left) == msgspec.json.encode(right) for left, right in (*pairs, (olds[: len(news)], news))
    )


def _thread(request: Request, body: dict[str, Any], dialect: str) -> str:
    if request.thread:
        return request.thread
    facts = _facts(body, dialect)
    key = body.get("prompt_cache_key") or body.get("conversation") or body.get("previous_response_id")
    if facts is not None and (facts.session or facts.task):
        return "/".join(filter(None, (facts.session, facts.task, facts.agent)))
    if isinstance(key, str) and key:
        return key
    messages = body.get(ORDERS[dialect][-1])
    first: Any = messages
    for message in cast("list[Any]", messages) if isinstance(messages, list) else ():
        first = message
        if mapping(message).get("role") not in _STANDING_ROLES:
            break
    return "first message " + blake2b(msgspec.json.encode(first), digest_size=4).hexdigest()


def _facts(body: dict[str, Any], dialect: str) -> RequestFacts | None:
    try:
        return dialect_by_id(dialect).read_request("", msgspec.json.encode({"model": "unknown", **body}))
    except (*UNREADABLE, BadRequest):
        return None


def _input_tokens(response: Any, dialect: str) -> int:
    if not isinstance(response, dict):
        return 0
    usage = dialect_by_id(dialect).read_response(cast("dict[str, Any]", response)).usage
    return usage.input_tokens if usage is not None else 0


# --- causes -----------------------------------------------------------------------------------------------------


def _cause(found: Divergence, before: dict[str, Any], after: dict[str, Any], dialect: str) -> Cause:
    part = re.split(r"[.\[]", found.path, maxsplit=1)[0]
    old, new = before.get(part), after.get(part)
    if part in ("tools", "functions"):
        return _of_tools(old, new)
    if old is not None and old != new:
        shape = _shape(found)
        if shape is not None:
            return shape
    if _sorted(old) == _sorted(new):
        return "reordered keys"
    if part != ORDERS[dialect][-1]:
        return "changed system text" if "ystem" in part or part == "instructions" else "changed settings"
    return _of_messages(found, part, old, new)


def _of_tools(old: Any, new: Any) -> Cause:
    if not (isinstance(old, list) and isinstance(new, list)):
        return "changed tools"
    olds = [_sorted(each) for each in cast("list[Any]", old)]
    news = [_sorted(each) for each in cast("list[Any]", new)]
    if olds == news:
        return "reordered keys"
    return "reordered tools" if sorted(olds) == sorted(news) else "changed tools"


def _of_messages(found: Divergence, part: str, old: Any, new: Any) -> Cause:
    olds = cast("list[Any]", old) if isinstance(old, list) else []
    news = cast("list[Any]", new) if isinstance(new, list) else []
    match = re.match(re.escape(part) + r"\[(\d+)\]", found.path)
    index = int(match[1]) if match else len(news)
    standing = mapping(olds[index]).get("role") in _STANDING_ROLES if index < len(olds) else False
    if standing:
        return "changed system text"
    if len(news) < len(olds) or (index < len(olds) and news[index : index + 1] and news[index] in olds[index + 1 :]):
        return "history cut"
    return "changed last message" if index == len(olds) - 1 else "edited history"


def _shape(found: Divergence) -> Cause | None:
    """What stands at the place where two texts part, if both sides have the same kind of thing there."""
    at = len(found.shared)
    sides = (found.shared + found.before, found.shared + found.after)
    for name, pattern in _SHAPES:
        if all(any(m.start() <= at < m.end() for m in pattern.finditer(side)) for side in sides):
            return name
    return None


def _sorted(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
