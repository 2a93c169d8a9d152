"""Where the prompts of one thread part: the first byte in which a request differs from the one before it.

Rule 1: a prompt is compared in the order in which providers cache it (Anthropic: tools, system, messages), whatever the order of the
        body's members. ``ORDERS`` has that order by dialect; a member that is not in it is no part of the prompt.
Rule 2: what is compared are the bytes of the JSON as they were sent. Two spellings of one value differ: clients spell alike.
Rule 3: a request that only adds messages to its thread does not part from it.
Rule 4: the last prompt of each thread is kept in memory alone, within bounds of threads and bytes; what was not used for longest goes
        first. Nothing of it leaves, but for the excerpts that the offline linter asks for. Without these a path names the keys that
        every prompt has; any other one, which somebody may have written, is a ``*``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from bursar.core.values import valueclass

__all__ = ["ORDERS", "Divergence", "Part", "Prefixes", "Prompt", "Step", "element_spans", "member_spans", "read_prompt"]

# Anthropic: a choice of tools or a way of thinking that changes keeps tools and system text, and has the messages read anew
# (platform.claude.com/docs/en/build-with-claude/prompt-caching, what invalidates the cache). OpenAI: tools before messages, an output
# schema is a prefix of the system message (developers.openai.com/api/docs/guides/prompt-caching).
ORDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("tools", "system", "tool_choice", "thinking", "messages"),
    "openai_chat": ("tools", "functions", "response_format", "messages"),
    "openai_responses": ("tools", "text", "instructions", "input"),
    "gemini": ("tools", "systemInstruction", "system_instruction", "contents"),
}
"""The members of a body that are the prompt, in the order in which they are cached. The last one grows."""

_THREADS_MAX: Final = 10_000
_BYTES_MAX: Final = 64 * 2**20
_DEPTH_MAX: Final = 12
_EXCERPT: Final = 40
_PLAIN_KEYS: Final = frozenset({
    "arguments", "budget_tokens", "cache_control", "citations", "content", "context", "data", "defer_loading", "description", "file_id",
    "function", "id", "input", "input_schema", "is_error", "media_type", "name", "parameters", "parts", "properties", "required", "role",
    "signature", "source", "strict", "text", "thinking", "title", "tool_call_id", "tool_calls", "tool_use_id", "ttl", "type", "url",
})  # fmt: skip
_SPACE: Final = b" \t\r\n"
_GAP: Final = b" \t\r\n,"
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_KEY: Final = re.compile(rb'[\s,]*"(?:[^"\\]|\\.)*"\s*:\s*', re.DOTALL)


@valueclass
class Divergence:
    """Where two prompts part: the JSON path, the byte inside its value (of a text: behind the quote); the last characters that both
    have, and both sides' next ones, "" unless they were asked for."""

    path: str
    offset: int
    shared: str = ""
    before: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        return f"{self.path}:{self.offset}"


@valueclass
class Step:
    """From one request of a thread to the next. ``shared_bytes`` of the prompt are equal; the one before had ``before_bytes`` that
    could have come again, this one has ``bytes``. ``divergence`` None: it only adds to it."""

    shared_bytes: int
    before_bytes: int
    bytes: int
    gap_us: int
    divergence: Divergence | None


class Part(NamedTuple):
    """A member of a body that is part of its prompt: its JSON, where that begins in the body, and where in the prompt."""

    name: str
    data: bytes
    at: int
    base: int

    @property
    def end(self) -> int:
        """The bytes of the prompt up to its end."""
        return self.base + len(self.data)


class Prompt(NamedTuple):
    """The prompt of a body: its parts in the order in which they are cached."""

    parts: tuple[Part, ...]

    def part(self, name: str) -> Part | None:
        return next((each for each in self.parts if each.name == name), None)

    @property
    def size(self) -> int:
        return self.parts[-1].end


def read_prompt(body: bytes, order: Sequence[str]) -> Prompt | None:
    """The prompt of a body; None where it is no JSON object, has a key twice, or has no such member."""
    try:
        found = _members(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    parts: list[Part] = []
    base = 0
    for name in order:
        if name in found:
            at, data = found[name]
            parts.append(Part(name, data, at, base))
            base += len(data)
    return Prompt(tuple(parts)) if parts else None


class Prefixes:
    """One per process, or one per file that is looked at. ``excerpts`` keeps a few characters at each parting: offline alone."""

    def __init__(self, *, threads_max: int = _THREADS_MAX, bytes_max: int = _BYTES_MAX, excerpts: bool = False) -> None:
        self._threads: OrderedDict[str, tuple[Prompt, int, int]] = OrderedDict()
        self._threads_max = threads_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._excerpts = excerpts

    def __len__(self) -> int:
        return len(self._threads)

    def saw(self, thread: str, body: bytes, at_us: int, *, order: Sequence[str]) -> Step | None:
        """How a request goes on from the last one of its thread; None for the first, and for a body that is none."""
        prompt = read_prompt(body, order)
        return self.took(thread, prompt, at_us, order=order) if prompt is not None else None

    def took(self, thread: str, prompt: Prompt, at_us: int, *, order: Sequence[str]) -> Step | None:
        """The same for a prompt that has been read."""
        last = self._threads.pop(thread, None)
        size = prompt.size
        if last is not None:
            self._bytes -= last[2]
        if size <= self._bytes_max:
            self._threads[thread] = prompt, at_us, size
            self._bytes += size
        while len(self._threads) > self._threads_max or self._bytes > self._bytes_max:
            _, (_, _, freed) = self._threads.popitem(last=False)
            self._bytes -= freed
        return _step(last[0], prompt, order, at_us - last[1], excerpts=self._excerpts) if last is not None else None


# --- comparing --------------------------------------------------------------------------------------------------


def _step(before: Prompt, after: Prompt, order: Sequence[str], gap_us: int, *, excerpts: bool) -> Step:
    olds = {part.name: part.data for part in before.parts}
    news = {part.name: part.data for part in after.parts}
    grows = before.parts[-1].name
    can_come = before.size
    shared = 0
    for name in order:
        old, new = olds.get(name, b""), news.get(name, b"")
        if old == new:
            shared += len(old)
            continue
        if name == grows and old[:1] == b"[":
            stop = _inner_end(old)
            can_come -= len(old) - stop
            if new.startswith(old[:stop]) and new[stop : stop + 1] in (b",", b"]", b" ", b"\n", b"\r", b"\t"):
                return Step(shared + stop, can_come, after.size, gap_us, None)
        common = _common(old, new)
        place, offset = _locate(new if len(new) > common else old, common, spelled=excerpts)
        found = Divergence(name + place, offset)
        if excerpts:
            shown = old[max(0, common - 4 * _EXCERPT) : common].decode(errors="ignore")[-_EXCERPT:]
            found = Divergence(found.path, offset, shown, _excerpt(old, common), _excerpt(new, common))
        return Step(shared + common, can_come, after.size, gap_us, found)
    return Step(shared, can_come, after.size, gap_us, None)


def _inner_end(array: bytes) -> int:
    """The end of the last element of an array."""
    stop = len(array) - 1
    while stop > 1 and array[stop - 1] in _SPACE:
        stop -= 1
    return stop


def _common(left: bytes, right: bytes) -> int:
    """How many bytes are equal from the start. Halving compares each byte about once, at the speed of memory."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _excerpt(data: bytes, at: int) -> str:
    while at and at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1  # never inside a character
    return data[at : at + 4 * _EXCERPT].decode(errors="ignore")[:_EXCERPT]


# --- places in JSON ---------------------------------------------------------------------------------------------


def _locate(value: bytes, at: int, *, spelled: bool) -> tuple[str, int]:
    """The path of the innermost value that holds a byte, and the byte in it. ``spelled``: with every key as it is."""
    path = ""
    for _ in range(_DEPTH_MAX):
        inner = _inner(value, at, spelled=spelled)
        if inner is None:
            break
        name, start, end = inner
        path += name
        value, at = value[start:end], at - start
    return path, max(0, at - 1) if value[:1] == b'"' else at


def _inner(value: bytes, at: int, *, spelled: bool) -> tuple[str, int, int] | None:
    if value[:1] == b"{":
        for key, (start, end) in member_spans(value).items():
            if start <= at < end:
                return f".{key if spelled or key in _PLAIN_KEYS else '*'}", start, end
        return None
    if value[:1] == b"[":
        for number, (start, end) in enumerate(element_spans(value)):
            if start <= at < end:
                return f"[{number}]", start, end
    return None


def member_spans(value: bytes) -> dict[str, tuple[int, int]]:
    """Where the values of a JSON object begin and end in it; {} where a key comes twice. Raises msgspec.MsgspecError for no object."""
    return {key: (at, at + len(data)) for key, (at, data) in _members(value).items()}


def _members(value: bytes) -> dict[str, tuple[int, bytes]]:
    """Where the values of a JSON object begin, and their bytes."""
    found = _MEMBERS.decode(value)
    members: dict[str, tuple[int, bytes]] = {}
    at = value.index(b"{") + 1
    for key, raw in found.items():
        match = _KEY.match(value, at)
        data = bytes(raw)
        if match is None or not value.startswith(data, match.end()):
            return {}
        members[key] = match.end(), data
        at = match.end() + len(data)
    return members if value[at:].strip() == b"}" else {}


def element_spans(value: bytes) -> list[tuple[int, int]]:
    """Where the values of a JSON array begin and end in it. Raises msgspec.MsgspecError for no array."""
    spans: list[tuple[int, int]] = []
    found = _ELEMENTS.decode(value)
    at = value.index(b"[") + 1
    for raw in found:
        while value[at] in _GAP:
            at += 1
        end = at + memoryview(raw).nbytes
        spans.append((at, end))
        at = end
    return spans
