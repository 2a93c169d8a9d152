"""What the simulated model is asked and what it replies, before any dialect writes it down.

Rule 1: the reply depends on the seed, the model and the prompt with its tools alone; not on whether it is streamed, nor
        on how often it was asked. Identifiers depend on the seed and the call's index, so that no two calls share one.
Rule 2: a request whose last message is the user's and that has tools gets one tool call. A tool's result, or
        ``tool_choice: none``, gets text.
Rule 3: ``output_max`` bounds reasoning and text together; what does not fit is cut off with the finish ``length``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec

from bursar.core.usage import Usage

from ._cache import Block, CacheUse
from ._draw import CHARACTERS_PER_TOKEN, Draw, answer_text, count_tokens, identifier
from ._schema import fitting

__all__ = [
    "MEDIA_TOKENS",
    "Asked",
    "Piece",
    "Reasoning",
    "Reply",
    "RequestError",
    "Spoil",
    "Stamp",
    "Tool",
    "ToolCall",
    "content_text",
    "limit",
    "objects",
    "part_text",
    "reply_to",
    "sse",
    "to_json",
]

_MEDIAN_TOKENS: Final = 120
_SPREAD: Final = 0.8
_LONGEST_TOKENS: Final = 4_096
_TOOL_CALL_TOKENS: Final = 8
MEDIA_TOKENS: Final = 256
_MEDIA_TYPES: Final = frozenset(
    ("image_url", "input_image", "input_audio", "input_file", "file", "image", "document", "computer_screenshot")
)
_MEDIA_FIELDS: Final = frozenset(("inlineData", "inline_data", "fileData", "file_data"))

Piece: TypeAlias = tuple[int, bytes]
"""One event of a stream: output tokens that had to be made for it, and its bytes."""

Spoil: TypeAlias = Callable[[dict[str, Any]], Any]
"""What a fault does to a usage object before it is sent."""

to_json: Final = msgspec.json.Encoder().encode


class RequestError(Exception):
    """The request is not one that the provider would take: what is wrong, and the field."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class Tool(NamedTuple):
    name: str
    schema: Any


class Reasoning(NamedTuple):
    """How much a model thinks before it answers: a count of tokens in steps. ``shown`` puts it into the answer."""

    least: int
    most: int
    step: int = 1
    shown: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the model sees it. ``tools`` are those it may call now; ``body`` is the request's JSON."""

    model: str
    prompt: str
    stream: bool
    body: dict[str, Any]
    tools: tuple[Tool, ...] = ()
    output_max: int | None = None
    reasoning: Reasoning | None = None
    blocks: tuple[Block, ...] | None = None
    cache_ttl_s: int = 300
    tier: str = "default"


class ToolCall(NamedTuple):
    name: str
    arguments: Any
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Reply:
    """``reasoning`` is the text of the thoughts, empty when they are not shown; ``usage`` is what is billed."""

    text: str
    reasoning: str
    tool: ToolCall | None
    finish: Literal["stop", "length", "tool"]
    usage: Usage

    @property
    def text_tokens(self) -> int:
        return self.usage.output_tokens - self.usage.reasoning_tokens


class Stamp(NamedTuple):
    """What sets one call apart from all others."""

    seed: int
    number: int
    now: float

    def id(self, prefix: str, digits: int, purpose: str = "") -> str:
        return prefix + identifier(self.seed, self.number, purpose or prefix)[:digits]


def reply_to(asked: Asked, seed: int, cached: CacheUse) -> Reply:
    draw = Draw(seed, asked.model, asked.prompt)
    room = asked.output_max if asked.output_max is not None else 1 << 40
    reasoning_tokens, reasoning = 0, ""
    if asked.reasoning is not None:
        least, most, step, shown = asked.reasoning
        reasoning_tokens = min(room, draw.between(least // step, most // step) * step)
        reasoning = answer_text(draw, reasoning_tokens, complete=True) if shown else ""
    room -= reasoning_tokens
    tool: ToolCall | None = None
    if asked.tools:
        chosen = asked.tools[draw.between(0, len(asked.tools) - 1)]
        arguments = fitting(chosen.schema, draw)
        text = to_json(arguments).decode()
        tokens = count_tokens(chosen.name) + count_tokens(text) + _TOOL_CALL_TOKENS
        if tokens <= room:
            tool, text, finish = ToolCall(chosen.name, arguments, text), "", "tool"
            return Reply(text, reasoning, tool, finish, _usage(asked, cached, reasoning_tokens, tokens))
    wanted = draw.length_tokens(_MEDIAN_TOKENS, _SPREAD, _LONGEST_TOKENS)
    tokens = min(wanted, room)
    finish = "stop" if wanted <= room else "length"
    text = answer_text(draw, tokens, complete=finish == "stop")
    return Reply(text, reasoning, None, finish, _usage(asked, cached, reasoning_tokens, tokens))


def _usage(asked: Asked, cached: CacheUse, reasoning_tokens: int, tokens: int) -> Usage:
    return Usage(
        input_tokens=count_tokens(asked.prompt),
        cache_read_tokens=cached.read,
        cache_write_tokens=cached.written_5m + cached.written_1h,
        cache_write_5m_tokens=cached.written_5m,
        cache_write_1h_tokens=cached.written_1h,
        output_tokens=reasoning_tokens + tokens,
        reasoning_tokens=reasoning_tokens,
        requests=1,
    )


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts. Media count as ``MEDIA_TOKENS`` each."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return "" if content is None else to_json(content).decode()
    texts: list[str] = []
    for part in cast("list[Any]", content):
        text = cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else part
        texts.append(text if isinstance(text, str) else part_text(part))
    return "".join(texts)


def part_text(part: Any) -> str:
    """A part that is not text: a medium as ``MEDIA_TOKENS`` of its digest, anything else as its JSON."""
    data = to_json(part)
    fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    if fields.get("type") in _MEDIA_TYPES or not _MEDIA_FIELDS.isdisjoint(fields):
        return blake2b(data, digest_size=16).hexdigest().ljust(MEDIA_TOKENS * CHARACTERS_PER_TOKEN, ".")
    return data.decode()


def objects(value: Any, field: str) -> list[dict[str, Any]]:
    """``value`` as a list of JSON objects; anything else is the caller's mistake in ``field``."""
    items = cast("list[Any]", value) if isinstance(value, list) else None
    if items is None or not all(isinstance(item, dict) for item in items):
        raise RequestError(f"Invalid type for '{field}': expected an array of objects.", field)
    return cast("list[dict[str, Any]]", items)


def limit(value: Any, field: str) -> int | None:
    """A bound on output tokens: absent, or an integer of at least 1."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"Invalid '{field}': expected an integer above 0, got {value!r}.", field)
    return value


def sse(name: str, data: dict[str, Any]) -> bytes:
    """A server-sent event with a name."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data))
