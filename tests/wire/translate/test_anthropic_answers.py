"""Anthropic's answers and streams as a conversation and back, what others signed, and what was recorded."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import anthropic
import conversations as said
import pytest
from anthropic_speech import (
    HAIKU,
    PNG,
    RESULT,
    THOUGHT,
    TOOL,
    USE,
    accumulated,
    again,
    assistant,
    events_of,
    read,
    request,
    stream,
    user,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.usage import Usage
from bursar.wire.dialect import BadRequest
from bursar.wire.translate.anthropic import SPEAKER
from bursar.wire.translate.anthropic_marks import plain_id, without_foreign_thinking
from bursar.wire.translate.conversation import (
    Answered,
    Began,
    Counted,
    Event,
    Failed,
    Finished,
    Image,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    ToolResult,
    ToolUse,
    Untranslatable,
)

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data") / "wire"

# --- answers ------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(said.answered(thinking=True, reasoning=True))
def test_answers_are_written_and_read(answered: Answered) -> None:
    """Every answer of the shared strategy comes back as it was, and the SDK's types take it."""
    assert SPEAKER.read_answer(SPEAKER.write_answer(answered)) == answered
    message = whole(answered)
    assert (message.id, message.model, message.role) == (answered.id, answered.model, "assistant")
    assert answered.usage is not None
    assert message.usage.input_tokens == answered.usage.input_tokens - answered.usage.cache_read_tokens
    assert message.usage.output_tokens == answered.usage.output_tokens
    inputs = [block.input for block in message.content if block.type == "tool_use"]
    assert inputs == [json.loads(part.arguments) for part in answered.parts if isinstance(part, ToolUse)]


ANSWER = Answered(
    id="msg_1",
    model=HAIKU,
    parts=(
        Thinking("Hm.", "sig", "anthropic"), Thinking("", "", "anthropic", "xyz"), Text("Rain."),
        ToolUse("toolu_1", "weather", '{"city":"Oslo"}'),
    ),
    finish="tool_calls",
    usage=Usage(
        input_tokens=1_000, cache_read_tokens=500, cache_write_tokens=300, cache_write_5m_tokens=100,
        cache_write_1h_tokens=200, output_tokens=50, reasoning_tokens=20, web_searches=2,
    ),
)  # fmt: skip


def test_usage_is_said_in_anthropics_way() -> None:
    """Input without what was cached, the cache by its lifetimes, thinking inside the output; and read back the same."""
    body = SPEAKER.write_answer(ANSWER)
    assert json.loads(body)["usage"] == {
        "input_tokens": 200,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 500,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 20},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }
    assert SPEAKER.read_answer(body) == ANSWER
    assert whole(ANSWER).content[1].type == "redacted_thinking"


@pytest.mark.parametrize(
    ("reason", "sequence", "finish"),
    [
        ("end_turn", None, "stop"), ("stop_sequence", "END", "stop"), ("max_tokens", None, "length"),
        ("model_context_window_exceeded", None, "length"), ("pause_turn", None, "length"), ("tool_use", None, "tool_calls"),
        ("refusal", None, "refusal"), ("something_new", None, "stop"), (None, None, "stop"),
    ],
)  # fmt: skip
def test_reasons_to_stop_are_read(reason: str | None, sequence: str | None, finish: str) -> None:
    """Every reason that Anthropic documents has one in the conversation."""
    body = {
        "id": "m", "type": "message", "role": "assistant", "model": "c", "content": [{"type": "text", "text": "a"}],
        "stop_reason": reason, "stop_sequence": sequence, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    answered = SPEAKER.read_answer(json.dumps(body).encode())
    assert (answered.finish, answered.stopped_by) == (finish, sequence or "")


@pytest.mark.parametrize(
    ("finish", "stopped_by", "uses", "reason"),
    [
        ("stop", "", False, "end_turn"), ("stop", "END", False, "stop_sequence"), ("stop", "", True, "tool_use"),
        ("length", "", True, "max_tokens"), ("tool_calls", "", True, "tool_use"), ("content_filter", "", False, "refusal"),
        ("refusal", "", False, "refusal"),
    ],
)  # fmt: skip
def test_reasons_to_stop_are_written(finish: Any, stopped_by: str, uses: bool, reason: str) -> None:
    """Every finish has Anthropic's reason; a use of a tool is one whatever else is said."""
    parts = (Text("a"), ToolUse("t", "f", "{}")) if uses else (Text("a"),)
    message = whole(Answered("m", "c", parts, finish, Usage(1, output_tokens=1), stopped_by))
    assert (message.stop_reason, message.stop_sequence) == (reason, stopped_by or None)


def test_an_answer_without_usage_or_content_is_still_a_message() -> None:
    """The shape demands an id and counts: they are there, and arguments cut off stay readable."""
    message = whole(
        Answered(
            "",
            "c",
            (
                Text(""),
                ToolUse("t", "f", '{"a":'),
            ),
            "length",
            None,
        )
    )
    assert (message.id, message.usage.output_tokens) == ("msg_0", 0)
    assert [block.to_dict() for block in message.content] == [
        {"type": "tool_use", "id": "t", "name": "f", "input": {"INVALID_JSON": '{"a":'}}
    ]
    with pytest.raises(Untranslatable):
        SPEAKER.write_answer(Answered("m", "c", (Image("image/png", PNG),), "stop", None))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"type":"error","error":{"type":"api_error","message":"no"}}', b'{"type":"message"}',
        b'{"type":"message","content":[{"type":"server_tool_use","id":"a","name":"web_search","input":{}}]}',
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_value_error(body: bytes) -> None:
    """Errors, other bodies and blocks for which no translated request asks."""
    with pytest.raises(ValueError, match=r"."):
        SPEAKER.read_answer(body)


# --- what others signed -------------------------------------------------------------------------------------------


def test_signatures_of_gemini_come_back() -> None:
    """What Gemini put on thoughts and tools survives a client of Anthropic's dialect, that sends back what it got."""
    answered = Answered(
        "m", "gemini-3-pro", (Thinking("Hm.", "s/1+=", "gemini"), ToolUse("call_1", "f", "{}", "sig/nature+=")),
        "tool_calls", None,
    )  # fmt: skip
    message = whole(answered)
    use = message.content[1]
    assert use.type == "tool_use"
    assert plain_id(use.id) == use.id, "an id that Anthropic itself takes"
    back = read(
        request(
            user({"type": "text", "text": "Hi"}),
            assistant(*[block.to_dict() for block in message.content]),
            user({"type": "tool_result", "tool_use_id": use.id, "content": "1"}),
        )
    )
    assert back.messages[1].parts == answered.parts
    assert back.messages[2].parts == (ToolResult("call_1", "f", (Text("1"),)),)
    assert SPEAKER.read_answer(SPEAKER.write_answer(answered)).parts == answered.parts


def test_foreign_thoughts_do_not_reach_anthropic() -> None:
    """A conversation that goes on at Anthropic as it came loses the blocks that Anthropic did not sign, and nothing else."""
    foreign = {"type": "thinking", "thinking": "a", "signature": "bursar:gemini:s"}
    hidden = {"type": "redacted_thinking", "data": "bursar::s"}
    body = request(
        user({"type": "text", "text": '"bursar:'}), assistant(foreign, hidden, THOUGHT, USE), assistant(foreign),
        user(RESULT), {"role": "user", "content": "plain"}, "odd",
    )  # fmt: skip
    left = json.loads(without_foreign_thinking(json.dumps(body).encode()))
    kept = [message for message in body["messages"] if message != assistant(foreign)]
    kept[1] = assistant(THOUGHT, USE)
    assert left == {**body, "messages": kept}
    plain = json.dumps(request(assistant(THOUGHT, USE), user(RESULT))).encode()
    assert without_foreign_thinking(plain) is plain
    assert without_foreign_thinking(b'{"bursar:') == b'{"bursar:'


@pytest.mark.parametrize("tool_id", ["a__thought__%", "a__thought__a", "__thought__"])
def test_an_id_that_only_looks_signed_stays(tool_id: str) -> None:
    """What cannot be taken apart is an id like any other."""
    asked = read(request(assistant({**USE, "id": tool_id}), user({**RESULT, "tool_use_id": tool_id})))
    use, result = asked.messages[0].parts[0], asked.messages[1].parts[0]
    assert isinstance(use, ToolUse)
    assert isinstance(result, ToolResult)
    assert use.id == result.id
    assert use.signature == ""


# --- streams ------------------------------------------------------------------------------------------------------


def strict_events(data: bytes) -> None:
    """The order that Anthropic documents: a start, blocks one after the other, a delta, a stop."""
    kinds: list[str] = []
    opened = -1
    for raw in data.decode().split("\n\n")[:-1]:
        name, _, payload = raw.partition("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        kinds.append(event["type"])
        if "index" in event:
            opened += event["type"] == "content_block_start"
            assert event["index"] == opened
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    blocks = "".join({"content_block_start": "<", "content_block_stop": ">"}.get(kind, "") for kind in kinds)
    assert not blocks.replace("<>", "")


@settings(max_examples=50)
@given(st.data())
def test_streams_cut_anywhere_are_the_answer(data: st.DataObject) -> None:
    """Events become bytes, the bytes cut anywhere the same answer; the SDK's accumulator makes the message of it."""
    answered, events = data.draw(said.streams(thinking=True, reasoning=True))
    raw = stream(events)
    strict_events(raw)
    read_back = events_of(data.draw(said.cuts(raw)))
    assert read_back == events_of([raw])
    assert events_of(data.draw(said.cuts(raw.replace(b"\n", b"\r\n")))) == read_back
    assert said.gathered(read_back) == said.gathered(events)
    message = accumulated(raw)
    assert message.stop_reason == whole(answered).stop_reason
    assert message.usage.output_tokens == whole(answered).usage.output_tokens
    assert [block.to_dict() for block in message.content] == [block.to_dict() for block in whole(answered).content]


@settings(max_examples=50)
@given(said.wild_events())
def test_events_in_any_order_make_a_stream(events: list[Event]) -> None:
    """Text after tools, thoughts between, tools fed in turns, usage anywhere: the blocks stay one after the other, no
    word of any of them is lost, and the SDK takes it."""
    raw = stream(events)
    strict_events(raw)
    back, meant = said.gathered(events_of([raw])), said.gathered(events)
    for kind in (Text, Thinking):
        assert text_of(back, kind) == text_of(meant, kind)
    uses = [part for part in meant.parts if isinstance(part, ToolUse)]
    assert [part for part in back.parts if isinstance(part, ToolUse)] == uses
    assert (back.finish, back.usage) == (meant.finish, meant.usage)
    message = accumulated(raw)
    assert [block.input for block in message.content if block.type == "tool_use"] == [
        json.loads(use.arguments) for use in uses
    ]


def text_of(answered: Answered, kind: type[Text | Thinking]) -> str:
    return "".join(part.text for part in answered.parts if isinstance(part, kind))


def test_every_kind_of_event() -> None:
    """Signatures, hidden thoughts, a tool without arguments, a first guess of the usage: as Anthropic sends them."""
    usage = Usage(input_tokens=10, cache_read_tokens=4, output_tokens=7)
    events: list[Event] = [
        Began("msg_1", HAIKU, Usage(input_tokens=10, cache_read_tokens=4)),
        ThinkingDelta("", "", "anthropic", "xyz"),
        ThinkingDelta("Hm."),
        ThinkingDelta("", "sig", "anthropic"),
        ThinkingDelta("", "sig2", "anthropic"),
        TextDelta("Rain."),
        ToolBegan(0, "toolu_1", "f", "sig3"),
        ToolDelta(0, "{}"),
        Finished("tool_calls"),
        Counted(usage),
    ]
    raw = stream(events)
    assert events_of([raw]) == events
    assert accumulated(raw).usage.cache_read_input_tokens == 4
    quiet = stream([ToolBegan(0, "t", "f"), Finished("stop", "END")])
    assert events_of([quiet]) == [
        Began("msg_0", HAIKU, Usage()), ToolBegan(0, "t", "f"), ToolDelta(0, "{}"), Finished("tool_calls"), Counted(Usage()),
    ]  # fmt: skip
    assert accumulated(quiet).content[0].to_dict() == {"type": "tool_use", "id": "t", "name": "f", "input": {}}


def test_arguments_that_stay_torn_hold_up_nothing_for_ever() -> None:
    """What waits for a tool use that is never whole goes out at the end, in its order."""
    torn: list[Event] = [
        ToolBegan(0, "a", "f"), ToolDelta(0, '{"x":'), TextDelta("Hm."), ToolBegan(1, "b", "g"), ToolDelta(1, '{"y'),
        ThinkingDelta("So."), Finished("length"), Counted(Usage(1, output_tokens=1)),
    ]  # fmt: skip
    raw = stream(torn)
    strict_events(raw)
    assert events_of([raw])[1:-2] == [
        ToolBegan(0, "a", "f"), ToolDelta(0, '{"x":'), TextDelta("Hm."), ToolBegan(1, "b", "g"), ToolDelta(1, '{"y'),
        ThinkingDelta("So."),
    ]  # fmt: skip


def test_thoughts_with_their_origin_in_every_piece_are_one_block() -> None:
    """Only a signature ends a thought; where none comes the origin is kept, and what says nothing makes no block."""
    events: list[Event] = [
        ThinkingDelta(), ThinkingDelta("H", "", "gemini"), ThinkingDelta("m.", "", "gemini"), TextDelta("a"),
        Finished("stop"), Counted(Usage(1, output_tokens=1)),
    ]  # fmt: skip
    message = accumulated(stream(events))
    assert [(block.type, getattr(block, "signature", "")) for block in message.content] == [
        ("thinking", "bursar:gemini:"), ("text", ""),
    ]  # fmt: skip


def test_an_error_ends_a_stream() -> None:
    """It is Anthropic's event, the SDK raises it by its status, and nothing follows."""
    events: list[Event] = [Began("m", HAIKU), TextDelta("Ra"), Failed(529, "busy"), TextDelta("in"), Finished("stop")]
    raw = stream(events)
    assert raw.endswith(
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    )
    with pytest.raises(anthropic.APIStatusError, match="busy"):
        accumulated(raw)
    assert events_of([raw])[-1] == Failed(529, "busy")
    assert events_of([b'data: {"type":"error"}\n\n']) == [Failed(500, "")]


def test_a_stream_that_broke_off_has_no_end() -> None:
    """Without its finish nothing is closed, and an event that is not whole says nothing."""
    assert stream([Began("m", HAIKU), TextDelta("Ra")]).count(b"message_stop") == 0
    raw = stream([Began("m", HAIKU, Usage(1)), TextDelta("Ra"), Finished("stop"), Counted(Usage(1, output_tokens=1))])
    cut = raw[: raw.index(b"end_turn")]
    assert events_of([cut]) == [Began("m", HAIKU, Usage(1)), TextDelta("Ra")]
    assert events_of([cut + b"}"]) == events_of([cut])
    assert isinstance(events_of([raw.rstrip(b"\n")])[-2], Finished)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"error","error":{"type":"api_error","message":"no"}}',
        b"data: {no json\n\n",
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"mcp_tool_use"}}\n\n',
    ],
)
def test_what_is_no_stream_is_a_value_error(body: bytes) -> None:
    """Bodies, events without JSON, and blocks for which no translated request asks."""
    with pytest.raises(ValueError, match=r"."):
        events_of([body])


def test_what_providers_of_the_dialect_send() -> None:
    """Text in a block's start, arguments in it, line ends of two signs, pings and events that nobody knows."""
    raw = "".join(
        f"event: x\r\ndata: {json.dumps(event)}\r\n\r\n"
        for event in (
            {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {"input_tokens": "many"}}},
            {"type": "ping"},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Ra"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "in"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}},
            {"type": "content_block_stop", "index": 0},
            {"type": "content_block_start", "index": 1, "content_block": {**THOUGHT}},
            {"type": "content_block_stop", "index": 1},
            {"type": "content_block_start", "index": 2, "content_block": {**USE}},
            {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
            {"type": "content_block_stop", "index": 2},
            {"type": "something_new"},
            {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
            {"type": "message_stop"},
        )
    )
    assert events_of([b": hello\r\n\r\n", raw.encode()]) == [
        Began("m", "c", None), TextDelta("Ra"), TextDelta("in"), ThinkingDelta("Hm.", "sig", "anthropic"),
        ToolBegan(0, "toolu_1", "weather"), ToolDelta(0, '{"city": "Oslo"}'), Finished("tool_calls"),
    ]  # fmt: skip


# --- hostile ------------------------------------------------------------------------------------------------------

ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "id", "x"]), inner),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one at a path."""
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


FULL: dict[str, Any] = request(
    user({"type": "text", "text": "a"}, {"type": "image", "source": {"type": "url", "url": "https://a"}}),
    assistant(THOUGHT, USE), user(RESULT),
    system=[{"type": "text", "text": "s"}], tools=[TOOL], tool_choice={"type": "auto"}, thinking={"type": "adaptive"},
    output_config={"effort": "low"}, context_management={"edits": [{"type": "clear_thinking_20251015"}]},
    container=None, stop_sequences=["x"], cache_control={"type": "ephemeral"},
)  # fmt: skip


@settings(max_examples=150)
@given(st.data())
def test_odd_requests_are_refused_and_nothing_worse(data: st.DataObject) -> None:
    """Whatever stands anywhere in a request, it is read, refused with a reason, or called malformed."""
    body = with_value(FULL, data.draw(st.sampled_from(list(places(FULL)))), data.draw(ODD))
    raw = json.dumps(body).encode()
    without_foreign_thinking(raw)
    try:
        asked = SPEAKER.read_request("/v1/messages", "", raw)
        SPEAKER.write_request(asked, HAIKU)
    except (Untranslatable, BadRequest) as error:
        assert str(error)  # noqa: PT017 - either is right, and neither is silent


@settings(max_examples=100)
@given(st.data())
def test_odd_answers_are_value_errors_and_nothing_worse(data: st.DataObject) -> None:
    """Whatever stands anywhere in an answer or in an event."""
    answer = json.loads(SPEAKER.write_answer(ANSWER))
    odd = with_value(answer, data.draw(st.sampled_from(list(places(answer)))), data.draw(ODD))
    event = {"type": "message_start", "message": odd} if data.draw(st.booleans()) else odd
    for read_it in (
        SPEAKER.read_answer,
        lambda raw: events_of([b"data: " + raw + b"\n\n"]),
        lambda raw: events_of([raw]),
    ):
        try:
            read_it(json.dumps(event).encode())
        except ValueError as error:
            assert str(error)  # noqa: PT017 - it may be one, and nothing else


# --- recorded -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def recorded() -> list[dict[str, Any]]:
    """The recorded interactions with messages."""
    if not (DATA / "interactions.jsonl.gz").exists():
        pytest.skip(f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA")
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        rows = (json.loads(line) for line in lines if '/messages"' in line or "/messages?" in line)
        return [row for row in rows if row["method"] == "POST" and (row["path"] or "").endswith("/v1/messages")]


def bodies(key: str) -> Iterator[bytes]:
    for row in recorded():
        if row[key] is not None:
            yield row[key].encode() if isinstance(row[key], str) else json.dumps(row[key]).encode()


REFUSED = {
    "tools.type", "tools.defer_loading", "messages.content.type", "messages.content.content.type",
    "messages.content.content.source.type", "context_management.edits", "mcp_servers", "output_config.task_budget",
}  # fmt: skip
"""Why recorded requests are refused: tools, blocks and services that only Anthropic has."""


def test_recorded_requests_survive() -> None:
    """Every recorded request comes back as it was, or is refused because it asks for what only Anthropic has."""
    refusals: Counter[str] = Counter()
    translated = 0
    for body in bodies("request"):
        try:
            asked = SPEAKER.read_request("/v1/messages", "", body)
        except Untranslatable as error:
            refusals[re.sub(r"\[\d+\]", "", error.field)] += 1
            continue
        assert again(asked) == asked
        translated += 1
    assert refusals.keys() == REFUSED
    assert translated >= 90
    assert translated + refusals.total() >= 160


def test_recorded_answers_survive() -> None:
    """Every recorded answer without blocks of server tools comes back as it was, and the SDK's types take it."""
    translated, refusals = 0, 0
    for body in bodies("response"):
        if any(
            f'"{kind}"'.encode() in body for kind in ("server_tool_use", "mcp_tool_use", "web_search_tool_result")
        ) and (b"tool_result" in body):
            with pytest.raises(ValueError, match="for which no translated request asks"):
                SPEAKER.read_answer(body)
            refusals += 1
            continue
        answered = SPEAKER.read_answer(body)
        assert answered.usage is not None
        assert SPEAKER.read_answer(SPEAKER.write_answer(answered)) == answered
        whole(answered)
        translated += 1
    assert translated >= 140
    assert refusals <= 20


def test_recorded_streams_survive() -> None:
    """Recorded streams are the same events however they are cut, and come back as they were."""
    translated = 0
    for body in bodies("response_text"):
        if b'"server_tool_use"' in body or b'"compaction"' in body:
            failed = events_of([body])[-1]
            assert isinstance(failed, Failed)
            assert "for which no translated request asks" in failed.message
            continue
        events = events_of([body])
        step = max(1, len(body) // 97)
        assert events_of([body[at : at + step] for at in range(0, len(body), step)]) == events
        raw = stream(events)
        assert said.gathered(events_of([raw])) == said.gathered(events)
        accumulated(raw)
        translated += 1
    assert translated >= 2
