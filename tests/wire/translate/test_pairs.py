"""From every dialect to every other: what both can say is not lost, and the official SDKs take every result."""

from __future__ import annotations

import gzip
import json
import os
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import client_sdks as sdks
import conversations as said
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.usage import Usage
from bursar.wire.dialect import BadRequest
from bursar.wire.shaping import THOUGHT_TOKENS
from bursar.wire.translate.conversation import (
    Answered,
    Asked,
    Audio,
    Began,
    Counted,
    DialectId,
    Document,
    Event,
    Failed,
    Finished,
    Format,
    Image,
    Message,
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
    Untranslatable,
)
from bursar.wire.translate.speakers import SPEAKERS, StreamTranslation, translate_answer, translate_request

DIALECTS: Final[tuple[DialectId, ...]] = ("openai_chat", "anthropic", "gemini")
PAIRS: Final = list(permutations(DIALECTS, 2))

PLAIN: Final[dict[DialectId, str]] = {
    "openai_chat": "gpt-4.1", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash",
}  # fmt: skip
"""Models that take all of sampling."""
THINKERS: Final[dict[DialectId, str]] = {
    "openai_chat": "gpt-5.5", "anthropic": "claude-opus-4-8", "gemini": "gemini-2.5-pro",
}  # fmt: skip
"""Models that take an effort, or a budget for it."""
STRICTEST: Final[dict[DialectId, str]] = {
    **THINKERS,
    "anthropic": "claude-sonnet-4-5",
    "gemini": "gemini-3-pro-preview",
}
"""Models that want back what they signed."""

pairs = pytest.mark.parametrize(("from_", "to"), PAIRS, ids=["-".join(pair) for pair in PAIRS])


def heard(dialect: DialectId, asked: Asked, model: str) -> Asked:
    """The request as that dialect holds it: written, and read again."""
    speaker = SPEAKERS[dialect]
    sent = speaker.write_request(asked, model)
    return speaker.read_request(sent.path, sent.query, sent.body)


def passed_on(from_: DialectId, to: DialectId, asked: Asked, models: dict[DialectId, str]) -> tuple[Asked, Asked]:
    """The request as a client of one dialect means it, and as a provider of the other hears it."""
    client = SPEAKERS[from_].write_request(asked, models[from_])
    sent = translate_request(from_, to, client.path, client.query, client.body, models[to])
    meant = SPEAKERS[from_].read_request(client.path, client.query, client.body)
    return meant, SPEAKERS[to].read_request(sent.path, sent.query, sent.body)


# --- what is the same ---------------------------------------------------------------------------------------------


def same(asked: Asked) -> Asked:
    """The request without what the dialects say in different words: ids of tool uses, names of formats, the order of results
    in a turn, turns that follow each other, degrees of effort beyond those that all have, defaults that are said or not, marks
    of the cache, tools beside the one that must be used, who holds an answer to its schema."""
    ids: dict[str, str] = {}
    choice = replace(
        asked.tool_choice, mode=asked.tool_choice.mode or "auto", parallel=asked.tool_choice.parallel is not False
    )
    schema = asked.format.schema if asked.format is not None else None
    offered = [tool for tool in asked.tools if choice.mode != "tool" or tool.name == choice.named]
    return replace(
        asked,
        model="",
        asks_usage=False,
        show_thinking=False,
        effort=_effort(asked),
        thinking_tokens=None,
        top_p=None if asked.top_p == 1 else asked.top_p,
        system=tuple(replace(text, cache="") for text in asked.system),
        messages=_messages(asked.messages, ids),
        format=replace(asked.format, schema=_closed(schema), name="", strict=None, held=False)
        if asked.format
        else None,
        tools=tuple(replace(tool, strict=None, cache="", schema=_closed(tool.schema)) for tool in offered),
        tool_choice=choice if asked.tools else ToolChoice(),
    )


def _effort(asked: Asked) -> str:
    effort, tokens = asked.effort, asked.thinking_tokens
    if not effort and tokens is not None:
        effort = next((each for each in ("none", "low", "medium") if tokens <= THOUGHT_TOKENS[each]), "high")
    return {"none": "", "minimal": "low", "xhigh": "high", "max": "high"}.get(effort, effort)


def _closed(schema: Any) -> Any:
    """The schema with its objects closed, as strict modes do: every answer to it is an answer to the open one."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(each) for name, each in schema.items()}
    kind = closed.get("type")
    return {"additionalProperties": False, **closed} if kind == "object" or kind == ["object", "null"] else closed


def _messages(messages: tuple[Message, ...], ids: dict[str, str]) -> tuple[Message, ...]:
    turns: list[Message] = []
    for message in messages:
        parts = tuple(_part(part, ids) for part in message.parts if not isinstance(part, Thinking))
        if turns and (turns[-1].role, turns[-1].system) == (message.role, message.system):
            turns[-1] = replace(turns[-1], parts=turns[-1].parts + parts)
        elif parts:
            turns.append(replace(message, parts=parts))
    return tuple(
        replace(turn, parts=tuple(sorted(turn.parts, key=lambda part: not isinstance(part, ToolResult))))
        for turn in turns
    )


def _part(part: Any, ids: dict[str, str]) -> Any:
    match part:
        case ToolUse():
            number = ids.setdefault(part.id, f"use {len(ids)}")
            return ToolUse(number, part.name, json.dumps(json.loads(part.arguments or "{}"), sort_keys=True))
        case ToolResult():
            parts: Any = tuple(_part(each, ids) for each in part.parts)
            return replace(part, id=ids.get(part.id, "?"), parts=parts, cache="")
        case Document():
            return replace(part, name="", cache="", media_type=part.media_type or "application/pdf")
        case Image():
            return replace(part, detail="", cache="", media_type="" if part.url else part.media_type)
        case Text():
            return replace(part, cache="")
        case Audio():
            return replace(part, media_type=part.media_type.replace("mpeg", "mp3"))
        case _:
            return part


def same_answer(answered: Answered) -> Answered:
    """The answer without the ids of its tool uses, and its arguments as values."""
    ids: dict[str, str] = {}
    return replace(answered, parts=tuple(_part(part, ids) for part in answered.parts))


# --- requests -----------------------------------------------------------------------------------------------------


@pairs
@settings(max_examples=15)
@given(asked=said.asked(formats=True))
def test_requests_that_both_can_say(from_: DialectId, to: DialectId, asked: Asked) -> None:
    """A conversation with tools, images, documents, sampling and formats: the provider hears what the client means, and
    on the way back it is still the same."""
    meant, understood = passed_on(from_, to, asked, PLAIN)
    assert same(meant) == same(asked)
    assert same(understood) == same(asked)
    assert same(heard(from_, understood, PLAIN[from_])) == same(asked)


@pairs
@settings(max_examples=15)
@given(asked=said.asked(efforts=("low", "high")))
def test_efforts_that_both_can_say(from_: DialectId, to: DialectId, asked: Asked) -> None:
    """An effort is the same degree in the other dialect, in its words or in its budget."""
    meant, understood = passed_on(from_, to, asked, THINKERS)
    assert same(meant) == same(asked)
    assert same(understood) == same(asked)


HELLO: Final = (Message("user", (Text("Hello."),)),)
LOOP: Final = (
    Message("user", (Text("Weather?"),)),
    Message("assistant", (Text("I look."), ToolUse("call_1", "weather", "{}"))),
)
TOOLS: Final = (Tool("weather", "The weather.", {"type": "object", "properties": {}, "additionalProperties": False}),)

SOME_CAN: Final[dict[str, tuple[Asked, set[DialectId]]]] = {
    "top_k": (Asked("m", HELLO, top_k=5, output_cap=99), {"anthropic", "gemini"}),
    "seed": (Asked("m", HELLO, seed=5, output_cap=99), {"openai_chat", "gemini"}),
    "penalties": (Asked("m", HELLO, presence_penalty=0.5, frequency_penalty=0.25, output_cap=99), {"openai_chat", "gemini"}),
    "a warm temperature": (Asked("m", HELLO, temperature=1.5, output_cap=99), {"openai_chat", "gemini"}),
    "one tool at a time": (
        Asked("m", HELLO, tools=TOOLS, tool_choice=ToolChoice("auto", parallel=False), output_cap=99),
        {"openai_chat", "anthropic"},
    ),
    "a linked image": (
        Asked("m", (Message("user", (Image(url="https://example.com/a.png"),)),), output_cap=99), set(DIALECTS),
    ),
    "JSON without a schema": (Asked("m", (Message("user", (Text("Answer in JSON."),)),), format=Format(), output_cap=99), {"openai_chat", "gemini"}),
    "a result that is an error": (
        Asked("m", (*LOOP, Message("user", (ToolResult("call_1", "weather", (Text("No."),), is_error=True),))), tools=TOOLS, output_cap=99),
        {"anthropic", "gemini"},
    ),
    "an instruction on the way": (
        Asked("m", (*HELLO, Message("user", (Text("Be brief."),), system=True)), output_cap=99), {"openai_chat", "anthropic"},
    ),
}  # fmt: skip


@pairs
@pytest.mark.parametrize("case", SOME_CAN)
def test_what_only_some_can_say(from_: DialectId, to: DialectId, case: str) -> None:
    """Where both can say it, it arrives; where the other cannot, it is refused before anything is spent or said in the
    other's nearest words, which this names."""
    asked, can = SOME_CAN[case]
    models = THINKERS if case == "an instruction on the way" else PLAIN
    if from_ not in can:
        return
    if to in can:
        meant, understood = passed_on(from_, to, asked, models)
        assert same(meant) == same(asked)
        assert same(understood) == same(asked)
    elif case == "a result that is an error":  # OpenAI has no mark of an error: the text says it
        _, understood = passed_on(from_, to, asked, models)
        assert same(understood) == same(in_text(asked, to))
    else:
        with pytest.raises(Untranslatable) as caught:
            passed_on(from_, to, asked, models)
        assert caught.value.field
        assert caught.value.message


@pairs
def test_names_of_documents_arrive(from_: DialectId, to: DialectId) -> None:
    """Where the dialect has no field for one, a text before the document says it."""
    report = Document("application/pdf", b64encode(b"%PDF-1.7").decode(), name="report.pdf")
    years = [Document("text/plain", b64encode(f"revenue {at}".encode()).decode(), name=f"202{at}.txt") for at in (3, 4)]
    documents = {"openai_chat": [report], "anthropic": [*years, report], "gemini": []}[from_]
    asked = Asked("m", (Message("user", (*documents, Text("What does 2024.txt say?"))),), output_cap=99)
    meant, understood = passed_on(from_, to, asked, PLAIN)
    assert [part.name for part in meant.messages[0].parts if isinstance(part, Document)] == [
        each.name for each in documents
    ]
    assert same(understood) == same(in_text(meant, to))
    named = {part.name for part in understood.messages[0].parts if isinstance(part, Document)}
    said_before = {part.text for part in understood.messages[0].parts if isinstance(part, Text)}
    assert all(each.name in named or f"Document: {each.name}" in said_before for each in documents)


# --- answers ------------------------------------------------------------------------------------------------------


@pairs
@settings(max_examples=15)
@given(answered=said.answered(thinking=True, reasoning=True))
def test_answers_that_both_can_say(from_: DialectId, to: DialectId, answered: Answered) -> None:
    """What a provider of one dialect answers is what a client of the other reads, and the client's SDK takes it."""
    body = SPEAKERS[from_].write_answer(answered)
    translated = translate_answer(from_, to, body)
    assert same_answer(SPEAKERS[to].read_answer(translated)) == same_answer(answered)
    back = translate_answer(to, from_, translated)
    assert same_answer(SPEAKERS[from_].read_answer(back)) == same_answer(answered)
    seen = sdks.whole_with_sdk(to, translated)
    assert sdks.text_in(to, seen) == "".join(part.text for part in answered.parts if isinstance(part, Text))
    assert sdks.calls_in(to, seen) == calls(answered)


def calls(answered: Answered) -> list[tuple[str, Any]]:
    return [(part.name, json.loads(part.arguments)) for part in answered.parts if isinstance(part, ToolUse)]


@pytest.mark.parametrize("finish", ["content_filter", "refusal"])
@pairs
def test_refusals_stay_refusals(from_: DialectId, to: DialectId, finish: Any) -> None:
    """A dialect that has one word for a filter and a refusal says it; nobody makes an ordinary end of it."""
    answered = Answered("a", "m", (Text("I will not."),), finish, Usage(input_tokens=1, output_tokens=1))
    translated = translate_answer(from_, to, SPEAKERS[from_].write_answer(answered))
    sdks.whole_with_sdk(to, translated)
    back = SPEAKERS[to].read_answer(translated)
    assert back.finish in ("content_filter", "refusal")
    assert back.parts == answered.parts


# --- the next turn ------------------------------------------------------------------------------------------------

SIGNED: Final[dict[DialectId, tuple[Any, ...]]] = {
    "openai_chat": (Text("I look."), ToolUse("call_a", "weather", '{"city":"Oslo"}'), ToolUse("call_b", "weather", "{}")),
    "anthropic": (
        Thinking("Hm.", "c2lnLzE9", "anthropic"), Thinking("", "", "anthropic", "aGlkZGVu"), Text("I look."),
        ToolUse("toolu_a", "weather", '{"city":"Oslo"}'), ToolUse("toolu_b", "weather", "{}"),
    ),
    "gemini": (
        Thinking("Hm."), Text("I look."), ToolUse("fc_a", "weather", '{"city":"Oslo"}', "c2lnbmF0dXJlLw=="),
        ToolUse("fc_b", "weather", "{}"),
    ),
}  # fmt: skip
"""What a provider of each dialect answers in the middle of a turn, signed in its way."""


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "provider"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_the_next_turn_is_valid_at_the_provider(client: DialectId, provider: DialectId, streamed: bool) -> None:
    """A client runs the tools and sends back what its SDK holds. The provider gets what it signed, unchanged and in its
    place, and every result with the use that it answers; thinking goes on."""
    first = Asked("m", HELLO, tools=TOOLS, output_cap=4_000, effort="low", show_thinking=client != "openai_chat")
    body = json.loads(SPEAKERS[client].write_request(first, THINKERS[client]).body)
    answered = Answered("a1", "m", SIGNED[provider], "tool_calls", Usage(input_tokens=9, output_tokens=9))
    if streamed:
        seen = sdks.whole_of_stream(client, through(provider, client, events_of_parts(answered)))
    else:
        translated = translate_answer(provider, client, SPEAKERS[provider].write_answer(answered))
        seen = sdks.whole_with_sdk(client, translated)
    path = SPEAKERS[client].write_request(first, THINKERS[client]).path
    next_body = json.dumps(sdks.sends_back(client, body, seen, "Rain.")).encode()
    sent = translate_request(client, provider, path, "", next_body, STRICTEST[provider])
    heard_by = SPEAKERS[provider].read_request(sent.path, sent.query, sent.body)
    assert {part.name for part in heard_by.messages[2].parts if isinstance(part, ToolResult)} == {"weather"}
    spoken = heard_by.messages[1].parts
    uses = [part for part in spoken if isinstance(part, ToolUse)]
    assert [(use.name, json.loads(use.arguments), use.signature) for use in uses] == [
        (part.name, json.loads(part.arguments), part.signature) for part in answered.parts if isinstance(part, ToolUse)
    ]
    assert [part.id for part in heard_by.messages[2].parts if isinstance(part, ToolResult)] == [use.id for use in uses]
    proven = [part for part in answered.parts if isinstance(part, Thinking) and (part.signature or part.hidden)]
    assert [part for part in spoken if isinstance(part, Thinking) and (part.signature or part.hidden)] == proven
    if provider == "anthropic":
        assert json.loads(sent.body)["thinking"]["type"] == "enabled"


def events_of_parts(answered: Answered) -> list[Event]:
    """The answer as events, every part in one piece."""
    events: list[Event] = [Began(answered.id, answered.model)]
    number = 0
    for part in answered.parts:
        match part:
            case Text():
                events.append(TextDelta(part.text))
            case Thinking():
                events += [ThinkingDelta(part.text)] if part.text else []
                if part.signature or part.hidden:
                    events.append(ThinkingDelta("", part.signature, part.origin, part.hidden))
            case ToolUse():
                events += [ToolBegan(number, part.id, part.name, part.signature), ToolDelta(number, part.arguments)]
                number += 1
            case _:
                raise AssertionError(part)
    assert answered.usage is not None
    return [*events, Finished(answered.finish), Counted(answered.usage)]


# --- streams ------------------------------------------------------------------------------------------------------


def spoken(dialect: DialectId, events: list[Event]) -> bytes:
    """A provider's stream of these events."""
    writer = SPEAKERS[dialect].writer(model="m", created_s=7, asks_usage=True)
    return b"".join([*map(writer.write, events), writer.close()])


def translation(from_: DialectId, to: DialectId) -> StreamTranslation:
    return StreamTranslation(SPEAKERS[from_].reader(), SPEAKERS[to].writer(model="m", created_s=7, asks_usage=True))


def translated(from_: DialectId, to: DialectId, chunks: list[bytes]) -> bytes:
    stream = translation(from_, to)
    return b"".join([*map(stream.feed, chunks), stream.finish()])


def through(from_: DialectId, to: DialectId, events: list[Event]) -> bytes:
    return translated(from_, to, [spoken(from_, events)])


def read_stream(dialect: DialectId, data: bytes) -> list[Event]:
    reader = SPEAKERS[dialect].reader()
    return [*reader.feed(data), *reader.finish()]


@pairs
@settings(max_examples=12)
@given(data=st.data())
def test_streams_that_both_can_say(from_: DialectId, to: DialectId, data: st.DataObject) -> None:
    """A provider's stream, cut anywhere, is the same bytes to the client, the same answer, and its SDK gathers it."""
    answered, events = data.draw(said.streams(thinking=True, reasoning=True))
    raw = spoken(from_, events)
    once = translated(from_, to, [raw])
    assert translated(from_, to, data.draw(said.cuts(raw))) == once
    assert same_answer(said.gathered(read_stream(to, once))) == same_answer(answered)
    back = translated(to, from_, data.draw(said.cuts(once)))
    assert same_answer(said.gathered(read_stream(from_, back))) == same_answer(answered)
    seen = sdks.whole_of_stream(to, once)
    assert sdks.text_in(to, seen) == "".join(part.text for part in answered.parts if isinstance(part, Text))
    assert sdks.calls_in(to, seen) == calls(answered)


@pairs
@pytest.mark.parametrize("unit", [1, 2, 3, 7])
def test_streams_cut_into_single_bytes(from_: DialectId, to: DialectId, unit: int) -> None:
    """The smallest pieces, with characters of several bytes in them and line ends of two signs."""
    events: list[Event] = [
        Began("a1", "m"), ThinkingDelta("Grübel 🤔"), TextDelta("Es \u2028regnet 🌧️ "), TextDelta("\r\nin Oslo"),
        ToolBegan(0, "call_1", "wetter"), ToolDelta(0, '{"ort":"Tromsø","\\u00e4":1}'), Finished("tool_calls"),
        Counted(Usage(input_tokens=5, output_tokens=7)),
    ]  # fmt: skip
    raw = spoken(from_, events)
    once = translated(from_, to, [raw])
    assert translated(from_, to, [raw[at : at + unit] for at in range(0, len(raw), unit)]) == once
    windows = raw.replace(b"\n", b"\r\n")
    assert translated(from_, to, [windows[at : at + unit] for at in range(0, len(windows), unit)]) == once
    assert same_answer(said.gathered(read_stream(to, once))) == same_answer(said.gathered(events))


@pairs
@settings(max_examples=12)
@given(events=said.wild_events())
def test_events_in_any_order_reach_the_client(from_: DialectId, to: DialectId, events: list[Event]) -> None:
    """Whatever order one dialect makes of them, the other's SDK takes it and no word is lost."""
    once = through(from_, to, events)
    meant, arrived = said.gathered(events), said.gathered(read_stream(to, once))
    assert "".join(part.text for part in arrived.parts if isinstance(part, Text)) == "".join(
        part.text for part in meant.parts if isinstance(part, Text)
    )
    assert calls(arrived) == calls(meant)
    assert (arrived.finish, arrived.usage) == (meant.finish, meant.usage)
    assert sdks.calls_in(to, sdks.whole_of_stream(to, once)) == calls(meant)


@pairs
@pytest.mark.parametrize("status", [400, 429, 500, 529])
def test_errors_inside_a_stream_stay_errors(from_: DialectId, to: DialectId, status: int) -> None:
    """What was said before arrives, then the error, and nothing that looks like an end."""
    once = through(from_, to, [Began("a", "m"), TextDelta("Ra"), Failed(status, "trouble")])
    events = read_stream(to, once)
    assert [event for event in events if isinstance(event, TextDelta)] == [TextDelta("Ra")]
    assert not any(isinstance(event, Finished) for event in events)
    last = events[-1]
    assert isinstance(last, Failed)
    assert (last.status // 100, last.message) == (status // 100, "trouble")


@pairs
def test_a_stream_that_breaks_off_ends_in_an_error(from_: DialectId, to: DialectId) -> None:
    """However it is cut, a client is never told that the answer were whole."""
    raw = spoken(from_, [Began("a", "m"), TextDelta("Rain."), Finished("stop"), Counted(Usage(1, output_tokens=1))])
    for at in [*range(0, len(raw), 3), len(raw)]:
        stream = translation(from_, to)
        once = stream.feed(raw[:at]) + stream.finish()
        if stream.finished:
            break
        events = read_stream(to, once)
        assert isinstance(events[-1], Failed)
        assert not any(isinstance(event, Finished) for event in events)
    else:
        raise AssertionError("the whole stream has an end")


# --- recorded -----------------------------------------------------------------------------------------------------

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data") / "wire"
PATHS: Final[dict[str, DialectId]] = {
    "/chat/completions": "openai_chat", "/v1/messages": "anthropic", "enerateContent": "gemini",
}  # fmt: skip
REFUSED: Final[dict[DialectId, set[str]]] = {
    "openai_chat": {"messages.parts", "messages", "top_k", "tools.parameters.$defs.TreeNode.properties.children.default"},
    "anthropic": {
        "messages", "messages.detail", "response_format", "presence_penalty",
        "response_format.properties.metadata.additionalProperties", "response_format.properties.pet.oneOf",
        "response_format.properties.point.maxItems",
    },
    "gemini": {"messages", "format", "effort", "detail"},
}  # fmt: skip
"""What recorded requests ask for and the other dialect, or the model here, cannot do."""


@lru_cache(maxsize=1)
def recorded() -> list[tuple[DialectId, dict[str, Any]]]:
    """The recorded interactions in the three dialects."""
    if not (DATA / "interactions.jsonl.gz").exists():
        pytest.skip(f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA")
    found: list[tuple[DialectId, dict[str, Any]]] = []
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            path = (row["path"] or "").partition("?")[0]
            dialect = next((each for ending, each in PATHS.items() if path.endswith(ending)), None)
            if dialect is not None and row["method"] == "POST":
                found.append((dialect, row))
    return found


@pairs
def test_recorded_requests(from_: DialectId, to: DialectId) -> None:
    """What real clients asked arrives as they meant it, or is refused for one of the listed reasons."""
    arrived, refusals = 0, Counter[str]()
    for dialect, row in recorded():
        if dialect != from_ or not isinstance(row["request"], dict):
            continue
        path, _, query = row["path"].partition("?")
        try:
            meant = SPEAKERS[from_].read_request(path, query, json.dumps(row["request"]).encode())
        except (Untranslatable, BadRequest):
            continue  # the dialect's own tests say why
        models = THINKERS if meant.effort or meant.thinking_tokens is not None else PLAIN
        try:
            understood = heard(to, meant, models[to])
        except Untranslatable as error:
            refusals[re.sub(r"\[\d+\]", "", error.field)] += 1
            continue
        if meant.output_cap is None and to == "anthropic":  # it demands one
            assert understood.output_cap is not None
            meant = replace(meant, output_cap=understood.output_cap)
        assert same(understood) == same(in_text(meant, to)), row["id"]
        arrived += 1
    assert refusals.keys() <= REFUSED[to]
    assert arrived >= 75
    assert refusals.total() < arrived / 5


def in_text(asked: Asked, to: DialectId) -> Asked:
    """What a dialect has no words for is said in the text: at OpenAI that a result is an error, and files of plain text; their names
    there and at Gemini, which has none of any document."""

    def parts(given: tuple[Any, ...]) -> Iterator[Any]:
        for each in given:
            if isinstance(each, Document) and (
                to == "gemini" or (to == "openai_chat" and each.media_type == "text/plain")
            ):
                if each.name:
                    yield Text(f"Document: {each.name}")
                yield each if to == "gemini" else Text(b64decode(each.data).decode())
            elif isinstance(each, ToolResult) and to == "openai_chat":
                inner = list(parts(each.parts))
                if each.is_error:
                    inner[0] = Text(f"Error: {inner[0].text}")
                yield replace(each, parts=tuple(inner), is_error=False)
            else:
                yield each

    messages = tuple(replace(message, parts=tuple(parts(message.parts))) for message in asked.messages)
    return replace(asked, messages=messages)


@pairs
def test_recorded_answers_and_streams(from_: DialectId, to: DialectId) -> None:
    """What real providers answered reaches the client of the other dialect whole, and its SDK takes it."""
    arrived = Counter[str]()
    for dialect, row in recorded():
        if dialect != from_ or row["status"] not in (200, None):
            continue
        whole = isinstance(row["response"], dict)
        raw = json.dumps(row["response"]).encode() if whole else (row["response_text"] or "").encode()
        try:
            meant = SPEAKERS[from_].read_answer(raw) if whole else said.gathered(read_stream(from_, raw))
        except (ValueError, AssertionError):
            arrived["unread"] += 1  # the dialect's own tests say why
            continue
        if whole:
            once = translate_answer(from_, to, raw)
            understood, seen = SPEAKERS[to].read_answer(once), sdks.whole_with_sdk(to, once)
        else:
            once = translated(from_, to, [raw[at : at + 999] for at in range(0, len(raw), 999)])
            understood, seen = said.gathered(read_stream(to, once)), sdks.whole_of_stream(to, once)
        assert calls(understood) == calls(meant), row["id"]
        assert words(understood) == words(meant) == sdks.text_in(to, seen), row["id"]
        assert understood.finish == meant.finish or {understood.finish, meant.finish} <= {"refusal", "content_filter"}
        arrived["whole" if whole else "stream"] += 1
    assert arrived["whole"] >= 140
    assert arrived["stream"] >= 2
    assert arrived["unread"] <= 25


def words(answered: Answered) -> str:
    return "".join(part.text for part in answered.parts if isinstance(part, Text))
