"""Why an answer ended: a refusal is one however it is dressed, the worst of several choices counts, and a stream has an end."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
import wire_bodies as bodies
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.prices import Reading
from bursar.wire.dialect import Meter, RequestFacts
from bursar.wire.eventstream import encode_frame
from bursar.wire.finishes import GOOD_FINISHES, TOOL_FINISHES, finish_said, worst_finish
from bursar.wire.providers import dialect_by_id

FACTS = RequestFacts(operation="chat_completions", model="asked", stream=True, input_tokens_estimate=7)
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
STOP = {"finish_reason": "stop", "message": {"role": "assistant", "content": "a", "refusal": None}}
REFUSES = {"finish_reason": "stop", "message": {"role": "assistant", "content": None, "refusal": "I cannot"}}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": 'the word "refusal"'}]}
REFUSED = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot"}]}


def choices(*given: dict[str, Any]) -> dict[str, Any]:
    """A chat completion with these choices."""
    return {
        "id": "c", "model": "gpt-4o-mini", "usage": USAGE,
        "choices": [{"index": index, **choice} for index, choice in enumerate(given)],
    }  # fmt: skip


def response(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole response of the responses API."""
    return {**bodies.RESPONSE, "tool_usage": None, "status": "completed", "output": list(output), **more}


def candidates(*finishes: str | None, **more: Any) -> dict[str, Any]:
    """A Gemini answer whose candidates ended like this."""
    said = {"content": {"role": "model", "parts": [{"text": "a"}]}}
    found = [{**said, **({"finishReason": each} if each else {}), "index": n} for n, each in enumerate(finishes)]
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
    return {"candidates": found, "usageMetadata": usage, "modelVersion": "gemini-2.5-flash", **more}


def part(index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of one choice of a chat stream."""
    return {**bodies.chunk(), "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}


def metered(dialect: str, data: bytes) -> tuple[Meter, Reading]:
    """The meter of a stream that has come like this, and its reading."""
    meter = dialect_by_id(dialect).meter(FACTS)
    meter.feed(data)
    return meter, meter.reading()


@pytest.mark.parametrize(
    ("dialect", "body", "finish"),
    [
        ("openai_chat", choices(STOP), "stop"),
        ("openai_chat", choices(REFUSES), "refusal"),
        ("openai_chat", choices({**REFUSES, "finish_reason": "content_filter"}), "content_filter"),
        ("openai_chat", choices({**STOP, "message": {"content": "a", "refusal": ""}}), "stop"),
        ("openai_chat", choices({**STOP, "message": {"content": "a", "refusal": {"odd": 1}}}), "refusal"),
        ("openai_chat", choices(STOP, {**STOP, "finish_reason": "length"}), "length"),
        ("openai_chat", choices(STOP, {**STOP, "finish_reason": "content_filter"}), "content_filter"),
        ("openai_chat", choices(STOP, REFUSES), "refusal"),
        ("openai_chat", choices(STOP, {**STOP, "finish_reason": None}), ""),
        ("openai_chat", choices(STOP, {**STOP, "finish_reason": "tool_calls"}), "tool_calls"),
        ("openai_responses", response(SAID), "completed"),
        ("openai_responses", response(SAID, REFUSED), "refusal"),
        ("openai_responses", response(REFUSED, status="failed"), "failed"),
        (
            "openai_responses",
            response(REFUSED, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "max_output_tokens",
        ),
        ("openai_responses", response({**REFUSED, "content": 'no list: "refusal"'}), "completed"),
        ("openai_responses", response({**REFUSED, "content": {"x": "refusal"}}), "completed"),
        ("gemini", candidates("STOP", "STOP"), "STOP"),
        ("gemini", candidates("STOP", "MAX_TOKENS"), "MAX_TOKENS"),
        ("gemini", candidates("STOP", "SAFETY"), "SAFETY"),
        ("gemini", candidates("STOP", None), ""),
        ("gemini", candidates(promptFeedback={"blockReason": "SAFETY"}), "SAFETY"),
    ],
)
def test_a_whole_answer_says_its_worst_finish(dialect: str, body: dict[str, Any], finish: str) -> None:
    """Whichever choice it is, and whatever word a refusal ends with; and nothing of it makes the usage unreadable."""
    reading = dialect_by_id(dialect).read_response(body)
    assert reading.finish == finish
    assert reading.usage is not None


@pytest.mark.parametrize(
    ("dialect", "events", "finish"),
    [
        ("openai_chat", [part(0, {"refusal": "I "}), part(0, {"refusal": "cannot"}), part(0, {}, "stop")], "refusal"),
        ("openai_chat", [part(0, {"content": "a"}, "length"), part(1, {"content": "b"}, "stop")], "length"),
        ("openai_chat", [part(0, {"content": "a"}, "stop"), part(1, {}, "content_filter")], "content_filter"),
        ("openai_chat", [part(1, {"refusal": "no"}, "stop"), part(0, {"content": "a"}, "stop")], "refusal"),
        ("gemini", [candidates("MAX_TOKENS", None), candidates(None, "STOP")], "MAX_TOKENS"),
        ("gemini", [candidates(promptFeedback={"blockReason": "OTHER"})], "OTHER"),
        (
            "openai_responses",
            [
                {"type": "response.refusal.delta", "delta": "I cannot"},
                {"type": "response.completed", "response": response()},
            ],
            "refusal",
        ),
        ("openai_responses", [{"type": "response.completed", "response": response(REFUSED)}], "refusal"),
    ],
)
def test_a_stream_says_its_worst_finish(dialect: str, events: list[dict[str, Any]], finish: str) -> None:
    """The same for deltas, in whatever order the choices end."""
    last = [bodies.chunk(usage=USAGE), "[DONE]"] if dialect == "openai_chat" else []
    meter, reading = metered(dialect, bodies.sse(*events, *last))
    assert (reading.finish, reading.estimated) == (finish, False)
    assert meter.ended()


@given(st.lists(st.sampled_from([*sorted(GOOD_FINISHES | TOOL_FINISHES), "", "length", "SAFETY", "new"])))
def test_nothing_good_hides_what_is_not(finishes: list[str]) -> None:
    """An answer counts as good only if all of it is, and as asking for tools only if the rest is good."""
    worst = worst_finish(finishes)
    assert worst in [*finishes, ""]
    assert (worst in GOOD_FINISHES) == (bool(finishes) and set(finishes) <= GOOD_FINISHES)
    if worst in TOOL_FINISHES:
        assert set(finishes) <= GOOD_FINISHES | TOOL_FINISHES
    assert finish_said(worst, refused=True) not in GOOD_FINISHES | TOOL_FINISHES | {""}


def wrapped(*events: dict[str, Any]) -> bytes:
    """Events of Anthropic's as InvokeModel sends them."""
    return b"".join(
        encode_frame(
            {":event-type": "chunk"}, json.dumps({"bytes": b64encode(json.dumps(each).encode()).decode()}).encode()
        )
        for each in events
    )


MARKED: dict[str, tuple[str, bytes, bytes]] = {
    "chat": ("openai_chat", bodies.sse(*bodies.CHAT_CHUNKS, bodies.CHAT_USAGE_CHUNK), b"data: [DONE]\n\n"),
    "chat, unknown": ("generic", bodies.sse(*bodies.CHAT_CHUNKS, bodies.CHAT_USAGE_CHUNK), b"data: [DONE]\n\n"),
    "anthropic": (
        "anthropic",
        bodies.sse(*bodies.MESSAGE_EVENTS[:-1], named=True),
        bodies.sse(bodies.MESSAGE_EVENTS[-1], named=True),
    ),
    "invoke": ("bedrock_invoke", wrapped(*bodies.MESSAGE_EVENTS[:-1]), wrapped(bodies.MESSAGE_EVENTS[-1])),
    "gemini, array": ("gemini", bodies.GEMINI_ARRAY[:-1], b"]"),
    "gemini, two candidates": (
        "gemini",
        bodies.sse(candidates("STOP", None)),
        bodies.sse(candidates(None, "STOP")),
    ),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_stream_has_ended_with_the_mark_of_its_dialect(name: str) -> None:
    """Not before it, though its finish and its usage were there; and its reading is the same without it."""
    dialect, before, mark = MARKED[name]
    meter, early = metered(dialect, before)
    assert early.finish
    assert not meter.ended()
    meter.feed(mark)
    assert meter.ended()
    assert meter.reading().finish == early.finish
    assert not meter.reading().estimated
    assert meter.reading().usage == early.usage


@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        ("openai_chat", bodies.CHAT_STREAM),
        ("openai_responses", bodies.RESPONSE_STREAM),
        ("anthropic", bodies.MESSAGE_STREAM),
        ("gemini", bodies.GEMINI_STREAM),
        ("gemini", bodies.GEMINI_ARRAY + b"\r\n"),
        ("bedrock_converse", bodies.CONVERSE_STREAM),
        ("cohere", bodies.COHERE_STREAM),
        ("openai_chat", json.dumps(bodies.CHAT).encode()),
    ],
)
def test_a_stream_has_ended_once_all_of_it_came(dialect: str, data: bytes) -> None:
    """In every dialect, in one chunk or byte by byte, and never before its last event."""
    meter, _ = metered(dialect, data)
    assert meter.ended()
    slow = dialect_by_id(dialect).meter(FACTS)
    for place in range(len(data)):
        slow.feed(data[place : place + 1])
        if slow.ended() and not data.startswith(b"{"):
            assert not slow.reading().estimated
            assert slow.reading().usage == meter.reading().usage
    assert slow.ended()


def test_a_choice_that_never_ended_is_no_end() -> None:
    """Where one of two choices broke off, the other's finish and a usage beside it are not the whole: it is estimated."""
    begun = [part(0, {"content": "a"}, usage=USAGE), part(1, {"content": "b"}, usage=USAGE), part(0, {}, "stop")]
    meter, reading = metered("openai_chat", bodies.sse(*begun))
    assert (reading.estimated, reading.finish, meter.ended()) == (True, "stop", False)
    meter, _ = metered("openai_chat", bodies.sse(*begun, "[DONE]"))
    assert not meter.ended()
    _, reading = metered("gemini", bodies.sse(candidates("STOP", None)))
    assert (reading.estimated, reading.finish) == (True, "STOP")


def test_only_candidates_that_have_not_ended_are_ended_early() -> None:
    """Gemini's end for want of money names those that are still going on."""
    meter = dialect_by_id("gemini").meter(FACTS, whole_events=True)
    meter.feed(bodies.sse(candidates("STOP", None)))
    last = json.loads(meter.close().removeprefix(b"data: "))
    assert [(each["index"], each["finishReason"]) for each in last["candidates"]] == [(1, "MAX_TOKENS")]
