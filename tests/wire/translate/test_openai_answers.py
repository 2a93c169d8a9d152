"""Answers and streams of OpenAI's chat completions through a conversation, and what the official SDK makes of them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import openai
import pytest
from conversations import answered, cuts, gathered, streams, wild_events
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai_speech import HI, accepted, accumulated, client_for, events_of, read, written

from bursar.core.usage import Usage
from bursar.wire.openai_usage import Quirks
from bursar.wire.shape_openai import ChatRequests
from bursar.wire.translate.conversation import (
    Answered,
    Began,
    Counted,
    Event,
    Failed,
    Finished,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    ToolUse,
)
from bursar.wire.translate.openai import SPEAKER, OpenAISpeaker, without_traces

KEYS = (
    "id", "model", "choices", "message", "delta", "content", "refusal", "reasoning_content", "reasoning", "type", "text",
    "reasoning_details", "tool_calls", "function", "name", "arguments", "index", "usage", "prompt_tokens", "error",
    "completion_tokens", "finish_reason", "x_groq", "signature", "format", "data", "extra_content", "google", "thinking",
)  # fmt: skip

# --- answers ----------------------------------------------------------------------------------------------------


@given(answered(thinking=True, reasoning=True))
def test_any_answer_survives_being_written_and_read(answer: Answered) -> None:
    """Text, thoughts, tool uses, finish and usage; the official SDK reads the same."""
    body = SPEAKER.write_answer(answer)
    assert SPEAKER.read_answer(body) == answer
    parsed = accepted(body).choices[0]
    texts = [part.text for part in answer.parts if isinstance(part, Text)]
    assert (parsed.message.content or "") == "".join(texts)
    assert len(parsed.message.tool_calls or []) == len([p for p in answer.parts if isinstance(p, ToolUse)])


@pytest.mark.parametrize(
    ("text", "reason"), [((Text("I cannot."),), "stop"), ((), "content_filter")], ids=["in words", "without words"]
)
def test_a_refusal_has_its_own_field(text: tuple[Text, ...], reason: str) -> None:
    """The SDK finds the words in ``refusal``, and both ways lead back."""
    answer = Answered("a", "m", text, "refusal", None)
    body = SPEAKER.write_answer(answer)
    choice = accepted(body).choices[0]
    assert (choice.message.refusal, choice.message.content) == (text[0].text if text else "", None)
    assert choice.finish_reason == reason
    assert SPEAKER.read_answer(body) == answer


def test_signatures_come_back_with_the_message() -> None:
    """A client that sends an answer back as the SDK gave it sends its proofs: thoughts of Claude, tool uses of Gemini."""
    parts = (
        Thinking("hm", "sig", "anthropic"),
        Thinking("", "", "anthropic", "sealed"),
        Text("a"),
        ToolUse("c", "f", "{}", "gemini's"),
    )
    message = accepted(SPEAKER.write_answer(Answered("a", "m", parts, "tool_calls", None))).choices[0].message
    back = read(
        {"messages": [HI, message.model_dump(), {"role": "tool", "tool_call_id": "c", "content": "1"}]},
    )
    assert back.messages[1].parts == parts


def test_traces_are_taken_out_for_a_strict_provider() -> None:
    """What earlier answers left in the messages goes, everything else stays byte for byte."""
    parts = (Thinking("hm", "sig", "anthropic"), Text("a"), ToolUse("c", "f", "{}", "gemini's"))
    message = json.loads(SPEAKER.write_answer(Answered("a", "m", parts, "tool_calls", None)))["choices"][0]["message"]
    other = {"role": "assistant", "content": "b", "reasoning_content": "DeepSeek's own"}
    body = json.dumps({"model": "m", "x": [1.0], "messages": [HI, message, other]}).encode()
    cleaned = without_traces(body)
    assert cleaned.startswith(b'{"model": "m", "x": [1.0], "messages": [')
    assert json.loads(cleaned)["messages"] == [
        HI,
        {
            "role": "assistant",
            "content": "a",
            "refusal": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        other,
    ]
    untouched = json.dumps({"model": "m", "messages": [HI, other]}).encode()
    assert without_traces(untouched) is untouched


def answer_of(message: dict[str, Any], finish: str | None = "stop", **fields: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    return json.dumps({"id": "a", "model": "m", "choices": [choice], **fields}).encode()


def test_dialects_of_the_dialect_are_read() -> None:
    """Thoughts under two names and in parts, forced tools that end with stop, arguments of nothing, a full context."""
    use = {"id": "c", "function": {"name": "f", "arguments": ""}}
    cases: list[tuple[bytes, tuple[Any, ...], str]] = [
        (answer_of({"content": "a", "reasoning_content": "t"}), (Thinking("t"), Text("a")), "stop"),
        (answer_of({"content": "a", "reasoning": "t"}), (Thinking("t"), Text("a")), "stop"),
        (
            answer_of({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"type": "text", "text": "a"}]}),
            (Thinking("t"), Text("a")),
            "stop",
        ),
        (answer_of({"tool_calls": [use]}), (ToolUse("c", "f", "{}"),), "tool_calls"),
        (answer_of({"content": "a", "tool_calls": []}, "model_length"), (Text("a"),), "length"),
        (answer_of({"content": "a", "refusal": ""}, ""), (Text("a"),), "stop"),
        (answer_of({"content": "a"}, "content_filter"), (Text("a"),), "content_filter"),
        (answer_of({"content": "a", "tool_calls": None}, "tool_calls"), (Text("a"),), "stop"),
    ]  # fmt: skip
    for body, parts, finish in cases:
        found = SPEAKER.read_answer(body)
        assert (found.parts, found.finish) == (parts, finish)


def test_usage_is_counted_as_the_provider_counts() -> None:
    """A provider's quirks are its own; figures that cannot be true are unknown, and nothing is zero unsaid."""
    beside = OpenAISpeaker(Quirks("excluded", "included", "included", "none"), ChatRequests("max_tokens", "last", ()))
    stated = {"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 9}}
    body = answer_of({"content": "a"}, usage=stated)
    counted = beside.read_answer(body).usage
    assert counted is not None
    assert (counted.output_tokens, counted.reasoning_tokens) == (11, 9)
    assert SPEAKER.read_answer(body).usage is None
    assert SPEAKER.read_answer(answer_of({"content": "a"}, usage=None)).usage is None
    assert b"usage" not in SPEAKER.write_answer(SPEAKER.read_answer(body))


def test_every_count_that_openai_states_is_stated_again() -> None:
    """Cached, written, heard, seen and thought tokens have their places in its counting, which is ours."""
    usage = Usage(
        input_tokens=900, cache_read_tokens=100, cache_write_tokens=50, input_audio_tokens=30, input_image_tokens=20,
        input_video_tokens=10, output_tokens=80, reasoning_tokens=40, output_audio_tokens=5, output_image_tokens=6,
    )  # fmt: skip
    body = SPEAKER.write_answer(Answered("a", "m", (Text("a"),), "stop", usage))
    assert SPEAKER.read_answer(body).usage == usage
    stated = accepted(body).usage
    assert stated is not None
    assert (stated.prompt_tokens, stated.completion_tokens, stated.total_tokens) == (900, 80, 980)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"error": {"message": "no", "type": "server_error"}}',
        b'{"choices": []}',
        answer_of({"content": "a"}, "error"),
        answer_of({"tool_calls": [{"id": "c"}]}),
    ],
)
def test_what_is_no_answer_raises(body: bytes) -> None:
    """An error, a page, nothing: no answer is made of it."""
    with pytest.raises(ValueError):
        SPEAKER.read_answer(body)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS), _JUNK, max_size=5))
def test_whatever_a_provider_answers_is_read_or_raises_value_error(answer: dict[str, Any]) -> None:
    """Wrong types in any place are no answer and no stream; nothing else is raised."""
    for field in ("message", "delta"):
        body = json.dumps({"choices": [{field: answer}], **answer}).encode()
        with suppress(ValueError):
            SPEAKER.read_answer(body)
        with suppress(ValueError):
            events_of([b"data: " + body + b"\n\n"])


# --- streams ----------------------------------------------------------------------------------------------------


@given(streams(thinking=True, reasoning=True), st.data())
def test_any_stream_survives_being_written_and_read_cut_anywhere(
    stream: tuple[Answered, list[Event]], data: st.DataObject
) -> None:
    """The events say the same answer, and where the bytes are cut makes no difference to them."""
    answer, events = stream
    body = written(events)
    whole = events_of([body])
    assert gathered(whole) == answer
    assert events_of(data.draw(cuts(body))) == whole
    assert events_of(data.draw(cuts(body.replace(b"\n", b"\r\n")))) == whole


def signed_thoughts(events: list[Event]) -> list[Thinking]:
    """The thoughts that a signature ended; a text or a tool ends one without."""
    found: list[Thinking] = []
    text = ""
    for event in events:
        if isinstance(event, ThinkingDelta):
            text += event.text
            if event.signature:
                found.append(Thinking(text, event.signature, event.origin))
                text = ""
        elif isinstance(event, TextDelta | ToolBegan):
            text = ""
    return found


@given(wild_events())
def test_the_official_sdk_accepts_any_order(events: list[Event]) -> None:
    """Text after tools, thoughts between, tools fed in turns, the usage anywhere: the SDK gathers all of it."""
    expected = gathered(events)
    found = accumulated(written(events))
    message = found.choices[0].message
    texts = [event.text for event in events if isinstance(event, TextDelta)]
    thoughts = [event.text for event in events if isinstance(event, ThinkingDelta)]
    assert message.content == "".join(texts)
    assert (message.model_extra or {}).get("reasoning_content", "") == "".join(thoughts)
    uses = [part for part in expected.parts if isinstance(part, ToolUse)]
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or []] == [
        (use.id, use.name, use.arguments) for use in uses
    ]
    assert found.choices[0].finish_reason == expected.finish
    assert found.usage is not None
    assert found.usage.prompt_tokens == (expected.usage or Usage()).input_tokens
    # What the accumulated message proves is read back from it.
    back = read({"messages": [HI, message.model_dump(), HI]}).messages[1].parts
    assert [part for part in back if isinstance(part, Thinking) and part.signature] == signed_thoughts(events)


def test_every_chunk_is_one_that_the_sdk_knows() -> None:
    """Each chunk has the id, the time and the model of the first; the usage comes last and only if asked for."""
    events: list[Event] = [
        Began("a", ""), ThinkingDelta("t"), TextDelta('x"\n'), ToolBegan(0, "", "f"), Finished("tool_calls"),
        Counted(Usage(input_tokens=3, output_tokens=2)),
    ]  # fmt: skip
    for asks_usage in (True, False):
        lines = written(events, asks_usage=asks_usage).split(b"\n\n")
        assert lines[-2:] == [b"data: [DONE]", b""]
        chunks = [ChatCompletionChunk.model_validate_json(line.removeprefix(b"data: ")) for line in lines[:-2]]
        assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {("a", 7, "called")}
        assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - asks_usage) + [True] * asks_usage
        call = [c for chunk in chunks if chunk.choices for c in chunk.choices[0].delta.tool_calls or []]
        assert "".join(c.function.arguments or "" for c in call if c.function) == "{}"
        assert call[0].id


def test_an_error_in_a_stream_is_an_error_to_the_sdk_and_to_us() -> None:
    """Nothing follows it, no ``[DONE]`` either; its status survives."""
    body = written([Began("a", "m"), TextDelta("x"), Failed(529, "overloaded"), TextDelta("y"), Finished("stop")])
    assert b"[DONE]" not in body
    with pytest.raises(openai.APIError, match="overloaded"):
        list(
            client_for(body).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
        )
    events = events_of([body])
    assert events[:2] == [Began("a", "m"), TextDelta("x")]
    assert events[2:] == [Failed(503, "overloaded")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"message": "m", "code": 429}, 429),
        ({"message": "m", "code": "502"}, 502),
        ({"message": "m", "type": "invalid_request_error", "code": "tool_use_failed"}, 400),
        ({"message": "m", "type": "insufficient_quota"}, 429),
        ({"message": "m", "type": "server_error"}, 500),
        ("m", 500),
    ],
)
def test_the_status_of_an_error_is_what_it_says(error: Any, status: int) -> None:
    """By its number, else by its type."""
    assert events_of([b"data: " + json.dumps({"error": error}).encode() + b"\n\n"]) == [Failed(status, "m")]


def chunks(*deltas: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    """A stream of deltas, the last with a finish reason."""
    made = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if made and finish is not None:
        made[-1]["choices"][0]["finish_reason"] = finish
    return b"".join(
        b"data: " + json.dumps({"id": "a", "model": "m", **each, **fields}).encode() + b"\n\n" for each in made
    )


def test_dialects_of_the_streams_are_read() -> None:
    """Calls without an index, all of them as the first, thoughts under other names, words of refusal."""
    use = {"function": {"name": "f", "arguments": "{}"}}
    began = Began("a", "m")
    assert events_of([chunks({"tool_calls": [{"id": "x", **use}, {"id": "y", **use}]}, finish="stop")]) == [
        began, ToolBegan(0, "x", "f"), ToolDelta(0, "{}"), ToolBegan(1, "y", "f"), ToolDelta(1, "{}"),
        Finished("tool_calls"),
    ]  # fmt: skip
    first, second = ({"index": 0, "id": id_, **use} for id_ in ("x", "y"))
    assert events_of([chunks({"tool_calls": [first]}, {"tool_calls": [second]}, finish="tool_calls")]) == [
        began, ToolBegan(0, "x", "f"), ToolDelta(0, "{}"), ToolBegan(1, "y", "f"), ToolDelta(1, "{}"),
        Finished("tool_calls"),
    ]  # fmt: skip
    details = [{"type": "reasoning.text", "format": "anthropic-claude-v1", "text": "t", "index": 0}]
    proof = [{"type": "reasoning.text", "format": "anthropic-claude-v1", "signature": "s", "index": 0}]
    assert events_of([chunks({"reasoning_details": details}, {"reasoning": "u", "reasoning_details": details},
                             {"reasoning_details": proof}, {"content": "a"}, finish="stop")]) == [
        began, ThinkingDelta("t"), ThinkingDelta("u"), ThinkingDelta("", "s", "anthropic"), TextDelta("a"),
        Finished("stop"),
    ]  # fmt: skip
    assert events_of([chunks({"refusal": "no"}, {}, finish="stop")]) == [began, TextDelta("no"), Finished("refusal")]
    assert events_of([chunks({"refusal": "", "content": "a"}, {}, finish="stop")])[-1] == Finished("stop")


@pytest.mark.parametrize("unsaid", [{}, {"id": ""}, {"id": None}])
def test_a_tool_use_without_an_id_has_another_in_every_turn(unsaid: dict[str, Any]) -> None:
    """Clients find results by their ids over a whole conversation: one that came again would be answered twice."""
    use = {**unsaid, "function": {"name": "f", "arguments": "{}"}}
    ids: list[str] = []
    for turn in ("a", "b"):
        whole = SPEAKER.read_answer(answer_of({"tool_calls": [use, use]}, id=turn))
        stream = chunks({"tool_calls": [{"index": 0, **use}, {"index": 1, **use}]}, finish="stop", id=turn)
        told = [event.id for event in events_of([stream]) if isinstance(event, ToolBegan)]
        assert told == [part.id for part in whole.parts if isinstance(part, ToolUse)]
        sent = written([Began(turn, "m"), ToolBegan(0, "", "f"), ToolBegan(1, "", "f"), Finished("tool_calls")])
        calls = accumulated(sent).choices[0].message.tool_calls or []
        assert [call.id for call in calls] == told
        unnamed = Answered(turn, "m", tuple(ToolUse("", "f", "{}") for _ in told), "tool_calls", None)
        again = accepted(SPEAKER.write_answer(unnamed)).choices[0].message.tool_calls or []
        assert [call.id for call in again] == told
        ids += told
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    "pieces",
    [
        [{"id": "x"}, {"function": {"name": "weather"}}, {"function": {"arguments": "{}"}}],
        [{"id": "x", "function": {"name": "wea", "arguments": ""}}, {"function": {"name": "ther", "arguments": "{}"}}],
        [{"function": {"name": "weather", "arguments": ""}}, {"id": "x", "function": {"arguments": "{}"}}],
        [{"id": "x", "function": {"name": "weather", "arguments": piece}} for piece in ("", "{", "}")],
    ],
)
def test_a_tool_call_is_put_together_until_its_arguments_start(pieces: list[dict[str, Any]]) -> None:
    """Its id alone, its name in pieces, its id after the name, all of it again with every piece of the arguments."""
    events = events_of([chunks(*({"tool_calls": [{"index": 0, **piece}]} for piece in pieces), finish="stop")])
    assert [event for event in events if isinstance(event, ToolBegan)] == [ToolBegan(0, "x", "weather")]
    assert "".join(event.arguments for event in events if isinstance(event, ToolDelta)) == "{}"
    assert events[-1] == Finished("tool_calls")


def test_parallel_tool_calls_begin_in_their_order_and_before_what_follows() -> None:
    """Both are named before the second gets its arguments; a third gets none before a text; the last one is cut off."""
    named = [{"index": at, "id": f"i{at}", "function": {"name": "f"}} for at in range(4)]
    second, first = ({"index": at, "function": {"arguments": f'{{"a":{at}}}'}} for at in (1, 0))
    deltas = ({"tool_calls": named[:2]}, {"tool_calls": [second]}, {"tool_calls": [first]}, {"tool_calls": [named[2]]})
    body = chunks(*deltas, {"content": "so"}, {"tool_calls": [named[3]]})
    assert events_of([body])[1:] == [
        ToolBegan(0, "i0", "f"), ToolBegan(1, "i1", "f"), ToolDelta(1, '{"a":1}'), ToolDelta(0, '{"a":0}'),
        ToolBegan(2, "i2", "f"), TextDelta("so"), ToolBegan(3, "i3", "f"),
    ]  # fmt: skip
    broken = b'data: {"error": {"message": "m"}}\n\n'
    assert events_of([body, broken])[-2:] == [ToolBegan(3, "i3", "f"), Failed(500, "m")]


def test_arguments_of_a_tool_that_has_no_name_are_an_error_of_the_stream() -> None:
    body = chunks({"content": "a"}, {"tool_calls": [{"index": 0, "id": "x", "function": {"arguments": "{"}}]})
    assert isinstance(events_of([body])[-1], Failed)


def test_a_refusal_at_the_end_of_a_stream_is_one() -> None:
    """Its text has gone out by then; the fact of it remains."""
    body = written([Began("a", "m"), TextDelta("no"), Finished("refusal")])
    assert events_of([body]) == [Began("a", "m"), TextDelta("no"), Finished("refusal")]
    told = list(
        client_for(body).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
    )
    assert told[-1].choices[0].finish_reason == "content_filter"


def test_what_cannot_be_read_after_the_beginning_is_an_error_of_the_stream() -> None:
    """What was said before it, in the same piece or another, is not lost; after the end nobody minds it."""
    body, junk = chunks({"content": "a"}), b"data: {oops}\n\n"
    for pieces in ([body + junk + body], [body, junk, body]):
        events = events_of(pieces)
        assert events[:2] == [Began("a", "m"), TextDelta("a")]
        assert [type(event) for event in events[2:]] == [Failed]
    assert events_of([chunks({"content": "a"}, finish="stop") + junk])[-1] == Finished("stop")
    assert events_of([chunks({"content": "a"}, finish="error")])[-1] == Failed(
        502, "the provider ended the answer with an error"
    )


def test_done_ends_a_stream_that_forgot_its_reason_and_a_cut_ends_none() -> None:
    """``[DONE]`` says that all was said; without it and without a reason the answer is not whole."""
    body = chunks({"content": "a"})
    assert events_of([body, b"data: [DONE]\n\n"])[-1] == Finished("stop")
    assert not any(isinstance(event, Finished) for event in events_of([body]))


@pytest.mark.parametrize("body", [b' {"id": "a"}', b"[1]", b"data: nonsense\n\n", b'data: {"choices": 4}\n\n'])
def test_what_is_no_stream_raises(body: bytes) -> None:
    """A whole body, or an event that is no chunk."""
    with pytest.raises(ValueError):
        events_of([body])
