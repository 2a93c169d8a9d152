"""Conversations that OpenAI chat, Anthropic messages and Gemini can all say, as Hypothesis strategies, and how streams are read.

What only some can say is off unless asked for: thoughts, reasoning tokens, efforts, a format. Never here, because one of
the three cannot say it: results marked as errors, images in results, linked images, audio, parallel uses forbidden, several
answers, seeds, penalties, ``top_k``, cache marks, names of speakers, cache writes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, get_args

import msgspec
from hypothesis import strategies as st

from bursar.core.usage import Usage
from bursar.wire.translate.conversation import (
    Answered,
    Asked,
    Began,
    Counted,
    Document,
    Event,
    Failed,
    Finished,
    Format,
    Image,
    Message,
    Part,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolBegan,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolUse,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text.strip())
"""Texts that say something: a block of blanks is refused by some."""

NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,11}", fullmatch=True)
IDS = st.from_regex(r"call_[a-zA-Z0-9]{8}", fullmatch=True)

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=4
)
ARGUMENTS = st.dictionaries(NAMES, _VALUES, max_size=3).map(lambda value: msgspec.json.encode(value).decode())
"""The compact JSON text of an object, as every reader writes it again."""

_KINDS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "boolean"},
        {"type": "string", "enum": ["a", "b"]},
        {"type": "array", "items": {"type": "number"}},
        {"type": "object", "properties": {"x": {"type": "string", "description": "inner"}}, "required": ["x"]},
    ]
)


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    """The JSON Schema of an object, closed as strict modes want it."""
    properties = draw(st.dictionaries(NAMES, _KINDS, min_size=1, max_size=3))
    return {
        "type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False,
    }  # fmt: skip


@st.composite
def tools(draw: st.DrawFn) -> tuple[Tool, ...]:
    """One to three tools with different names."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return tuple(Tool(name, draw(TEXTS), draw(schemas())) for name in names)


def _data(start: bytes) -> st.SearchStrategy[str]:
    return st.binary(max_size=12).map(lambda rest: base64.b64encode(start + rest).decode())


IMAGES = st.builds(Image, st.sampled_from(["image/png", "image/jpeg", "image/webp"]), _data(b"\x89PNG"))
DOCUMENTS = st.builds(Document, st.just("application/pdf"), _data(b"%PDF-1.7\n"))


@st.composite
def _turns(draw: st.DrawFn, offered: tuple[Tool, ...]) -> tuple[Message, ...]:
    """Turns by turns: the user's first and last. Every tool use is answered at once, in its order."""
    said: list[Message] = []
    results: list[Part] = []
    for turn in range(draw(st.integers(0, 3))):
        said.append(Message("user", (*results, *draw(_spoken(required=not results)))))
        names = draw(st.lists(st.sampled_from(offered), max_size=2)) if offered else []
        uses = [ToolUse(f"call_{turn}{place}abcdef", tool.name, draw(ARGUMENTS)) for place, tool in enumerate(names)]
        texts = draw(st.lists(TEXTS.map(Text), min_size=0 if uses else 1, max_size=1))
        said.append(Message("assistant", (*texts, *uses)))
        results = [ToolResult(use.id, use.name, (Text(draw(TEXTS)),)) for use in uses]
    said.append(Message("user", (*results, *draw(_spoken(required=not results)))))
    return tuple(said)


def _spoken(*, required: bool) -> st.SearchStrategy[list[Any]]:
    return st.lists(TEXTS.map(Text) | IMAGES | DOCUMENTS, min_size=int(required), max_size=2)


@st.composite
def asked(draw: st.DrawFn, *, efforts: Sequence[str] = ("",), formats: bool = False) -> Asked:
    """A request. With an effort nothing is said of sampling and no tool is forced, as Anthropic wants it."""
    effort = draw(st.sampled_from(list(efforts)))
    offered = draw(st.just(()) | tools())
    sampling = draw(st.sampled_from(["", "temperature", "top_p"])) if not effort else ""
    share = draw(st.integers(0, 4)) / 4
    return Asked(
        model="model-a",
        messages=draw(_turns(offered)),
        system=tuple(draw(st.lists(TEXTS.map(Text), max_size=2))),
        tools=offered,
        tool_choice=draw(_choices(offered, forced=not effort)),
        output_cap=draw(st.integers(2_000, 8_000)),
        temperature=share if sampling == "temperature" else None,
        top_p=share if sampling == "top_p" else None,
        stop=tuple(draw(st.lists(TEXTS, max_size=3, unique=True))),
        effort=effort,
        format=draw(st.none() | st.builds(Format, schemas())) if formats and not offered else None,
        stream=draw(st.booleans()),
    )


def _choices(offered: tuple[Tool, ...], *, forced: bool) -> st.SearchStrategy[ToolChoice]:
    if not offered:
        return st.just(ToolChoice())
    choices = [ToolChoice(), ToolChoice("auto"), ToolChoice("none")]
    if forced:
        choices += [ToolChoice("required"), ToolChoice("tool", offered[0].name)]
    return st.sampled_from(choices)


@st.composite
def usages(draw: st.DrawFn, *, reasoning: bool = False) -> Usage:
    """Input with cache reads, output; with ``reasoning`` some of the output is that."""
    read, fresh = draw(st.integers(0, 5_000)), draw(st.integers(1, 5_000))
    hidden, shown = draw(st.integers(0, 500)) if reasoning else 0, draw(st.integers(1, 500))
    return Usage(
        input_tokens=read + fresh, cache_read_tokens=read, output_tokens=hidden + shown, reasoning_tokens=hidden
    )


@st.composite
def answered(draw: st.DrawFn, *, thinking: bool = False, reasoning: bool = False) -> Answered:
    """A whole answer: a thought where asked for, a text, uses of tools, at least one of the latter two."""
    thoughts = draw(st.lists(TEXTS.map(Thinking), max_size=1)) if thinking else []
    uses = draw(st.lists(st.builds(ToolUse, IDS, NAMES, ARGUMENTS), max_size=2, unique_by=lambda use: use.id))
    texts = draw(st.lists(TEXTS.map(Text), min_size=0 if uses else 1, max_size=1))
    return Answered(
        id=draw(st.from_regex(r"msg_[a-z0-9]{6}", fullmatch=True)),
        model=draw(st.from_regex(r"model-[a-z]{1,4}", fullmatch=True)),
        parts=(*thoughts, *texts, *uses),
        finish="tool_calls" if uses else draw(st.sampled_from(["stop", "length"])),
        usage=draw(usages(reasoning=reasoning)),
    )


@st.composite
def events(draw: st.DrawFn, whole: Answered) -> list[Event]:
    """The answer as a provider would stream it: every text in pieces, the usage at the end, before or after its finish."""
    said: list[Event] = [Began(whole.id, whole.model)]
    index = 0
    for part in whole.parts:
        match part:
            case Text():
                said += [TextDelta(piece) for piece in draw(_pieces(part.text))]
            case Thinking():
                said += [ThinkingDelta(piece) for piece in draw(_pieces(part.text))]
            case ToolUse():
                said.append(ToolBegan(index, part.id, part.name, part.signature))
                said += [ToolDelta(index, piece) for piece in draw(_pieces(part.arguments))]
                index += 1
            case _:
                raise AssertionError(part)
    end: list[Event] = [Finished(whole.finish)]
    if whole.usage is not None:
        end.insert(draw(st.integers(0, 1)), Counted(whole.usage))
    return said + end


@st.composite
def streams(draw: st.DrawFn, *, thinking: bool = False, reasoning: bool = False) -> tuple[Answered, list[Event]]:
    """An answer and its events."""
    whole = draw(answered(thinking=thinking, reasoning=reasoning))
    return whole, draw(events(whole))


@st.composite
def wild_events(draw: st.DrawFn) -> list[Event]:
    """Events in orders that no dialect's own streams have: text after tools, thoughts between, the usage anywhere,
    tools that are fed in turns; still one beginning and one end."""
    middle: list[Event] = []
    open_: list[list[str]] = []
    for kind in draw(st.lists(st.sampled_from(["text", "thought", "signed", "tool", "piece", "usage"]), max_size=10)):
        match kind:
            case "text":
                middle.append(TextDelta(draw(TEXTS)))
            case "thought":
                middle.append(ThinkingDelta(draw(TEXTS)))
            case "signed":
                middle += [ThinkingDelta(draw(TEXTS)), ThinkingDelta(signature="c2lnbmVk", origin="anthropic")]
            case "tool":
                middle.append(ToolBegan(len(open_), f"call_{len(open_)}", draw(NAMES)))
                open_.append(draw(_pieces(draw(ARGUMENTS))))
            case "usage":
                middle.append(Counted(draw(usages())))
            case _:
                waiting = [index for index, pieces in enumerate(open_) if pieces]
                if waiting:
                    index = draw(st.sampled_from(waiting))
                    middle.append(ToolDelta(index, open_[index].pop(0)))
    middle += [ToolDelta(index, piece) for index, pieces in enumerate(open_) for piece in pieces]
    end: list[Event] = [Finished("tool_calls" if open_ else "stop")]
    end.insert(draw(st.integers(0, 1)), Counted(draw(usages())))
    return [Began("msg_1", "model-a"), *middle, *end]


def _pieces(text: str) -> st.SearchStrategy[list[str]]:
    def cut(places: list[int]) -> list[str]:
        edges = [0, *sorted(set(places)), len(text)]
        return [text[left:right] for left, right in pairwise(edges) if left < right]

    return st.lists(st.integers(0, len(text)), max_size=3).map(cut)


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The bytes in pieces, cut anywhere."""
    edges = [0, *sorted(draw(st.lists(st.integers(0, len(data)), max_size=8))), len(data)]
    return [data[left:right] for left, right in pairwise(edges)]


def gathered(said: Iterable[Event]) -> Answered:
    """The whole answer that a stream's events make: what came in pieces joined, tool uses in their order at the end.

    A signature ends a thought. Raises AssertionError where the events contradict each other or an error is among them.
    """
    id_, model, finish, stopped_by = "", "", None, ""
    usage: Usage | None = None
    parts: list[Text | Thinking] = []
    uses: dict[int, ToolUse] = {}
    for event in said:
        assert isinstance(event, get_args(Event))
        match event:
            case Began():
                assert not parts
                assert not uses
                id_, model, usage = event.id, event.model, event.usage
            case TextDelta():
                last = parts.pop() if parts and isinstance(parts[-1], Text) else Text("")
                assert isinstance(last, Text)
                parts.append(Text(last.text + event.text))
            case ThinkingDelta():
                open_ = bool(parts) and isinstance(parts[-1], Thinking) and not parts[-1].signature
                last = parts.pop() if open_ and not event.hidden else Thinking("")
                assert isinstance(last, Thinking)
                parts.append(
                    Thinking(last.text + event.text, event.signature, event.origin or last.origin, event.hidden)
                )
            case ToolBegan():
                assert event.index == len(uses)
                uses[event.index] = ToolUse(event.id, event.name, "", event.signature)
            case ToolDelta():
                use = uses[event.index]
                uses[event.index] = ToolUse(use.id, use.name, use.arguments + event.arguments, use.signature)
            case Finished():
                assert finish is None
                finish, stopped_by = event.finish, event.stopped_by
            case Counted():
                usage = event.usage
            case Failed():
                raise AssertionError(event)
    assert finish is not None
    whole = [ToolUse(use.id, use.name, use.arguments or "{}", use.signature) for _, use in sorted(uses.items())]
    return Answered(id_, model, (*parts, *whole), finish, usage, stopped_by)
