"""Marks for providers' prompt caches in requests: where they may stand, and writing them.

Rule 1: bytes are only put in: every other byte of a body stays what it was and where it was. A text becomes the list of one text
        block that it is short for, because only a block can be marked.
Rule 2: a mark stands on a tool that is not deferred, a block of the system text, or a block of a message: text that is not blank,
        images, documents, tool uses and results. Elsewhere Anthropic refuses the request, thoughts among them
        (platform.claude.com/docs/en/build-with-claude/prompt-caching; ``thinking.cache_control: Extra inputs are not permitted``).
Rule 3: a client's own marks are never touched. Where there is one, in the body or for the body as a whole, none is added.
Rule 4: ``prompt_cache_key`` is put into an OpenAI body that has none, only where the caller knows that the provider takes it: Groq,
        Cerebras and others refuse it. A body with a repeated key is left as it is.
Rule 5: a mark is written only behind what is a whole block of this body, or around a whole text that is its content: a spot that was
        found elsewhere cannot break a body.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec
from msgspec import UNSET, Raw, Struct

from bursar.core.prompt_cache import Ttl
from bursar.core.values import valueclass
from bursar.learn.prefixes import ORDERS, Part, Prompt, element_spans, member_spans, read_prompt

from .bounds import given
from .dialect import UNREADABLE, mapping
from .splice import splice, text

__all__ = ["KEYED", "MARKED", "Layout", "Placement", "Spot", "marks", "place"]

MARKED: Final = frozenset({"anthropic"})
"""The dialects in which marks can be set."""
KEYED: Final = frozenset({"openai_chat", "openai_responses"})
"""The dialects that have a ``prompt_cache_key``."""

_MARKS: Final[dict[Ttl, bytes]] = {
    "5m": b',"cache_control":{"type":"ephemeral"}',
    "1h": b',"cache_control":{"type":"ephemeral","ttl":"1h"}',
}
_BLOCK_TYPES: Final = frozenset({"text", "image", "document", "tool_use", "tool_result"})
_SEPARATOR_MAX: Final = 64
_LOOKED_BACK: Final = 8
"""How many messages, and blocks of one, are looked at for one that can be marked: an agent's last ones can."""


class Spot(NamedTuple):
    """A value that can be marked: the part it is in, where it begins and ends in the prompt, and whether it is a bare text."""

    part: str
    start: int
    end: int
    bare: bool = False


@valueclass
class Placement:
    """What to write: marks with their lives, in any order, and a key ("" none)."""

    marks: tuple[tuple[Spot, Ttl], ...] = ()
    key: str = ""


class _Block(Struct, gc=False):
    type: Any = None
    text: Any = None
    cache_control: Any = UNSET


class _Message(Struct, gc=False):
    role: Any = None
    content: Raw = Raw()


class _Tool(Struct, gc=False):
    name: Any = None
    defer_loading: Any = None
    cache_control: Any = UNSET


_CONTENT_KEY: Final = re.compile(rb'(?<!\\)"content"\s*:\s*$')
_BLOCK: Final = msgspec.json.Decoder(_Block)
_MESSAGE: Final = msgspec.json.Decoder(_Message)
_TOOL: Final = msgspec.json.Decoder(_Tool)


def marks(body: bytes) -> int:
    """How many marks an Anthropic body has, the one for the whole body included. Raises one of ``dialect.UNREADABLE``."""
    if b'"cache_control"' not in body:
        return 0
    request = mapping(msgspec.json.decode(body))
    blocks = [*_objects(request.get("tools")), *_objects(request.get("system"))]
    for message in _objects(request.get("messages")):
        for block in _objects(message.get("content")):
            blocks += [block, *_objects(block.get("content"))]
    return sum(each.get("cache_control") is not None for each in (request, *blocks))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [mapping(each) for each in cast("list[Any]", value)] if isinstance(value, list) else []


class Layout:
    """Where marks may stand in an Anthropic prompt. Its methods raise one of ``dialect.UNREADABLE`` for what is none.

    ``known_bytes`` of the prompt are those of an earlier one, up to the end of its last message: only what is new is looked at.
    """

    def __init__(self, prompt: Prompt, known_bytes: int = 0) -> None:
        self.prompt = prompt
        messages = prompt.part("messages")
        self._messages = messages
        self._spans: list[tuple[int, int]] = []
        if messages is not None:
            known = max(0, known_bytes - messages.base)
            comma = messages.data.find(b",", known, known + _SEPARATOR_MAX) if known else -1
            at = max(0, comma)
            new = b"[" + messages.data[at + 1 :] if at else messages.data
            self._spans = [(at + start, at + end) for start, end in element_spans(new)]

    def tools(self) -> Spot | None:
        """The last tool."""
        part = self.prompt.part("tools")
        if part is None or part.data[:1] != b"[":
            return None
        for start, end in reversed(element_spans(part.data)):
            if _is_tool(part.data[start:end]):
                return Spot(part.name, part.base + start, part.base + end)
        return None

    def system(self) -> Spot | None:
        """The last block of the system text."""
        part = self.prompt.part("system")
        return _last_of(part, 0, len(part.data), None) if part is not None else None

    def turn(self) -> Spot | None:
        """The last block of the user's last turn."""
        found = self._last_before(None, user=True)
        if found is None and self._messages is not None and self._spans and self._spans[0][0] > _SEPARATOR_MAX:
            return Layout(self.prompt).turn()  # nothing that is new is the user's
        return found

    def boundary(self, shared_bytes: int) -> Spot | None:
        """The last block of a message that ends within so many bytes of the prompt."""
        return self._last_before(shared_bytes, user=False)

    def goes_on(self) -> bool:
        """Whether the request itself says that more will follow: it offers tools, or is not the first of its conversation."""
        tools = self.prompt.part("tools")
        answered = self._messages is not None and b'"assistant"' in self._messages.data
        return answered or (tools is not None and len(tools.data) > len(b"[]"))

    def blocks_between(self, first: Spot, last: Spot) -> int:
        """How many blocks of messages stand between two spots, at most: each has a type, or is the one text of a role."""
        part = self._messages
        if part is None or last.part != part.name:
            return 0
        between = max(0, first.end - part.base), last.end - part.base
        return part.data.count(b'"type"', *between) + part.data.count(b'"role"', *between)

    def _last_before(self, limit: int | None, *, user: bool) -> Spot | None:
        part = self._messages
        if part is None:
            return None
        looked = 0
        for start, end in reversed(self._spans):
            if limit is not None and part.base + start >= limit:
                continue
            looked += 1
            if looked > _LOOKED_BACK:
                return None
            message = _MESSAGE.decode(part.data[start:end])
            if user and message.role != "user":
                continue
            found = _last_in_message(part, start, end, bytes(message.content), limit)
            if found is not None:
                return found
            if user:
                return None  # nothing of the last turn can be marked
        return None


def _last_in_message(part: Part, start: int, end: int, content: bytes, limit: int | None) -> Spot | None:
    if not content:
        return None
    at = end - 1 - len(content)
    if not (part.data.startswith(content, at) and _CONTENT_KEY.search(part.data[max(start, at - 32) : at])):
        # It is not the last member, as it mostly is.
        found = member_spans(part.data[start:end]).get("content")
        if found is None:
            return None  # a key comes twice
        at = start + found[0]
    return _last_of(part, at, at + len(content), limit)


def _last_of(part: Part, start: int, end: int, limit: int | None) -> Spot | None:
    """The last markable block of a content, a text or a list of blocks, that ends within the limit."""
    value = part.data[start:end]
    if value[:1] == b'"':
        fits = limit is None or part.base + end <= limit
        return Spot(part.name, part.base + start, part.base + end, bare=True) if fits and _is_text(value) else None
    if value[:1] != b"[":
        return None
    looked = 0
    for first, last in reversed(element_spans(value)):
        if limit is not None and part.base + start + last > limit:
            continue
        looked += 1
        if looked > _LOOKED_BACK:
            return None
        if _is_block(value[first:last]):
            return Spot(part.name, part.base + start + first, part.base + start + last)
    return None


def _is_tool(value: bytes) -> bool:
    tool = _TOOL.decode(value)
    return not tool.defer_loading and bool(tool.name) and tool.cache_control is UNSET


def _is_block(value: bytes) -> bool:
    """Whether it can be marked. Where a client has written the key, be it without a value, a second one would be one too many."""
    block = _BLOCK.decode(value)
    known = str(block.type) in _BLOCK_TYPES and (block.type != "text" or bool(str(block.text or "").strip()))
    return known and block.cache_control is UNSET


def _is_text(value: bytes) -> bool:
    return bool(msgspec.json.decode(value, type=str).strip())


def place(dialect_id: str, body: bytes, plan: Placement, *, prompt: Prompt | None = None) -> bytes:
    """The body with the marks, or the key, of a plan; the same object where there is nothing to write, or no place to write it.

    ``prompt`` is the one read from this body, if it was. Raises one of ``dialect.UNREADABLE`` for a key in no JSON object.
    """
    if dialect_id in KEYED and plan.key:
        return _with_key(body, plan.key)
    if dialect_id not in MARKED or not plan.marks:
        return body
    prompt = prompt or read_prompt(body, ORDERS[dialect_id])
    if prompt is None:
        return body
    parts = {part.name: part for part in prompt.parts}
    spots = [spot for spot, _ in plan.marks]
    if len(set(spots)) < len(spots) or not all(_is_here(parts.get(spot.part), spot) for spot in spots):
        return body
    inserted: list[tuple[int, bytes]] = []
    for spot, ttl in plan.marks:
        shift = parts[spot.part].at - parts[spot.part].base
        if spot.bare:
            inserted.append((spot.start + shift, b'[{"type":"text","text":'))
            inserted.append((spot.end + shift, _MARKS[ttl] + b"}]"))
        else:
            inserted.append((spot.end + shift - 1, _MARKS[ttl]))
    return _inserted(body, sorted(inserted))


def _is_here(part: Part | None, spot: Spot) -> bool:
    """Whether a spot is one of this prompt (rule 5). Within a JSON text each quote is escaped: no part of one reads as an object with
    a type or a name, or as a text behind the key of a content."""
    if part is None or not part.base <= spot.start < spot.end <= part.end:
        return False
    start, end = spot.start - part.base, spot.end - part.base
    value = part.data[start:end]
    try:
        if spot.bare:
            whole = start == 0 and end == len(part.data) and part.name == "system"
            return (whole or _CONTENT_KEY.search(part.data[max(0, start - 32) : start]) is not None) and _is_text(value)
        found = _is_tool(value) if part.name == "tools" else _is_block(value)
        return found and value[:1] == b"{" and value[-1:] == b"}"
    except UNREADABLE:
        return False


def _inserted(body: bytes, inserted: Sequence[tuple[int, bytes]]) -> bytes:
    out: list[bytes] = []
    done = 0
    for at, data in inserted:
        out += (body[done:at], data)
        done = at
    out.append(body[done:])
    return b"".join(out)


def _with_key(body: bytes, key: str) -> bytes:
    spans = member_spans(body)
    if not spans:
        return body
    if "prompt_cache_key" in spans:
        start, end = spans["prompt_cache_key"]
        if given(Raw(body[start:end])):
            return body
    return splice(body, {"prompt_cache_key": text(key)})
