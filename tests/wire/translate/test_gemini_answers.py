"""Answers and streams of Gemini's generateContent, both ways, and every recorded interaction of that dialect."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import conversations
import pytest
from google.genai import types
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.core.call import Reply
from bursar.core.usage import Usage
from bursar.wire.failures import cause_of
from bursar.wire.gemini import DIALECT
from bursar.wire.translate.conversation import (
    FINISHES,
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
    Untranslatable,
)
from bursar.wire.translate.gemini import SPEAKER, wants_array
from bursar.wire.translate.gemini_marks import NOT_SIGNED

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data") / "wire"
SIGNATURE = base64.b64encode(b"\x12\x34 opaque").decode()
USAGE = Usage(
    input_tokens=100, cache_read_tokens=30, input_audio_tokens=10, input_image_tokens=20, cache_read_image_tokens=5,
    output_tokens=50, reasoning_tokens=15, output_audio_tokens=1,
)  # fmt: skip


def answer(*parts: Any, reason: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate = {"content": {"parts": list(parts), "role": "model"}, "finishReason": reason, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r1", **more}


def read(body: Any) -> Answered:
    return SPEAKER.read_answer(json.dumps(body).encode())


def read_stream(*chunks: bytes) -> list[Event]:
    reader = SPEAKER.reader()
    return [event for chunk in chunks for event in reader.feed(chunk)] + reader.finish()


def written(events: list[Event], *, array: bool = False) -> bytes:
    writer = SPEAKER.writer(model="asked-for", created_s=0, asks_usage=True, array=array)
    return b"".join([writer.write(event) for event in events]) + writer.close()


def by_the_sdk(data: bytes) -> list[types.GenerateContentResponse]:
    """The chunks of a stream of events, as the SDK's own types."""
    lines = [line for line in data.split(b"\r\n\r\n") if line]
    assert all(line.startswith(b"data: ") for line in lines)
    return [types.GenerateContentResponse.model_validate_json(line[6:]) for line in lines]


def sse(*chunks: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)


def test_an_answer_is_read() -> None:
    """Thoughts, texts, calls with and without an id, signatures, and the usage as our meters read it."""
    body = answer(
        {"text": "why", "thought": True},
        {"text": "It is", "thoughtSignature": SIGNATURE},
        {"functionCall": {"id": "c1", "name": "f", "args": {"a": [1, 2.0]}}, "thoughtSignature": SIGNATURE},
        {"functionCall": {"name": "g"}, "thoughtSignature": NOT_SIGNED},
        usageMetadata={
            "promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 5, "thoughtsTokenCount": 3,
            "totalTokenCount": 18,
        },
    )  # fmt: skip
    got = read(body)
    call = got.parts[-1]
    assert isinstance(call, ToolUse)
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)
    assert read(body) == got
    assert got == Answered(
        "r1",
        "gemini-x",
        (
            Thinking("why"),
            Text("It is"),
            Thinking("", SIGNATURE, "gemini"),
            ToolUse("c1", "f", '{"a":[1,2.0]}', SIGNATURE),
            ToolUse(call.id, "g", "{}"),
        ),
        "tool_calls",
        Usage(input_tokens=10, cache_read_tokens=4, output_tokens=8, reasoning_tokens=3),
    )
    assert got.usage == DIALECT.read_response(body).usage
    other = read({**body, "responseId": "r2"}).parts[-1]
    assert isinstance(other, ToolUse)
    assert other.id != call.id


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("CONTINUATION", "length"), ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"), ("MODEL_ARMOR", "content_filter"),
        ("SOMETHING_NEW", "content_filter"),
    ],
)  # fmt: skip
def test_why_an_answer_ended(reason: str, finish: str) -> None:
    """Every documented reason that is no fault has a finish; one that nobody knows is a filter's."""
    assert read(answer({"text": "x"}, reason=reason)).finish == finish


def test_every_reason_of_the_sdk_is_known_or_a_fault() -> None:
    """The faults of a model are no answers, and name the reason."""
    faults: list[str] = []
    for reason in types.FinishReason:
        try:
            read(answer({"text": "x"}, reason=reason.value))
        except ValueError as error:
            faults.append(str(error).partition(":")[0].rpartition(" ")[2])
    assert sorted(faults) == [
        "LANGUAGE", "MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE", "NO_IMAGE",
        "PUP_LIMITED_DISABLED", "TOO_MANY_TOOL_CALLS", "UNEXPECTED_TOOL_CALL",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "reason", [reason.value for reason in types.BlockedReason if "UNSPECIFIED" not in reason.value]
)
def test_a_blocked_prompt_is_a_filters(reason: str) -> None:
    """There is no candidate then, whole or streamed; a route is left for the same cause, whoever the client is."""
    body = {"promptFeedback": {"blockReason": reason}, "usageMetadata": {"promptTokenCount": 5}, "responseId": "r"}
    assert read(body) == Answered("r", "", (), "content_filter", Usage(input_tokens=5))
    assert read_stream(sse(body))[-1] == Finished("content_filter")
    assert cause_of(Reply(DIALECT.read_response(body), "ok", http_status=200)) == "content_policy"


@pytest.mark.parametrize("parts", [(), ({"text": "It is"},)])
@pytest.mark.parametrize("reason", [reason.value for reason in types.FinishReason if "UNSPECIFIED" not in reason.value])
def test_a_route_and_a_translation_take_every_ending_alike(reason: str, parts: tuple[Any, ...]) -> None:
    """An error where the route looks elsewhere, a filter's finish where it is left for a filter, else an answer."""
    counts = {"promptTokenCount": 5, "candidatesTokenCount": 3}
    body = answer(*parts, reason=reason, usageMetadata=counts)
    cause = cause_of(Reply(DIALECT.read_response(body), "ok", http_status=200))
    if cause in (None, "content_policy"):
        assert (read(body).finish == "content_filter") == (cause == "content_policy")
    else:
        assert cause in ("invalid", "auth")
        with pytest.raises(ValueError, match=reason):
            read(body)
        assert isinstance(read_stream(sse(body))[-1], Failed)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"error": {"code": 500, "message": "no"}}', b'{"candidates": [{"content": {"parts": 1}}]}',
        json.dumps(answer({"inlineData": {"mimeType": "image/png", "data": "aGk="}})).encode(),
        json.dumps(answer({"functionCall": {"name": "f", "partialArgs": [{}]}})).encode(),
        json.dumps(answer({"text": "x"}, reason=None)).encode(),
    ],
)  # fmt: skip
def test_what_is_no_answer(body: bytes) -> None:
    """It is a ValueError, never half an answer."""
    with pytest.raises(ValueError):
        SPEAKER.read_answer(body)


def test_a_usage_that_cannot_be_true_is_unknown() -> None:
    """The answer is good all the same; unknown is never zero."""
    assert (
        read(answer({"text": "x"}, usageMetadata={"promptTokenCount": 1, "cachedContentTokenCount": 2})).usage is None
    )


def test_usage_is_said_as_gemini_counts() -> None:
    """The answer without its thoughts, the prompt with its cache, the modalities: our meters read the same usage."""
    body = SPEAKER.write_answer(Answered("r", "m", (Text("x"),), "stop", USAGE))
    assert DIALECT.read_response(body).usage == USAGE
    assert SPEAKER.read_answer(body).usage == USAGE
    stated = json.loads(body)["usageMetadata"]
    assert (stated["candidatesTokenCount"], stated["thoughtsTokenCount"], stated["totalTokenCount"]) == (35, 15, 150)
    assert "usageMetadata" not in json.loads(SPEAKER.write_answer(Answered("r", "m", (Text("x"),), "stop", None)))


@settings(max_examples=60)
@given(conversations.answered(thinking=True, reasoning=True))
def test_answers_come_back(said: Answered) -> None:
    """What is written is read as the same answer, and the SDK takes it."""
    body = SPEAKER.write_answer(said)
    assert SPEAKER.read_answer(body) == said
    taken = types.GenerateContentResponse.model_validate_json(body)
    assert taken.text == ("".join(part.text for part in said.parts if isinstance(part, Text)) or None)
    assert [call.name for call in taken.function_calls or []] == [
        part.name for part in said.parts if isinstance(part, ToolUse)
    ]


@pytest.mark.parametrize("finish", FINISHES)
def test_every_finish_is_one_that_the_sdk_knows(finish: Any) -> None:
    """An empty answer too keeps its place in a client's chat, which wants a part."""
    body = SPEAKER.write_answer(Answered("r", "m", (), finish, None))
    candidate = types.GenerateContentResponse.model_validate_json(body).candidates[0]
    assert candidate.finish_reason in set(types.FinishReason)
    assert candidate.content.parts == [types.Part(text="")]
    assert by_the_sdk(written([Began("r", "m"), Finished(finish)]))[-1].candidates[0] == candidate


@pytest.mark.parametrize(("finish", "reason"), [("tool_calls", "MALFORMED_FUNCTION_CALL"), ("length", "MAX_TOKENS")])
def test_arguments_that_are_no_object_are_said_to_be(finish: Any, reason: str) -> None:
    """A call that was cut is left out, as Gemini does it; one that is malformed is the reason of the end."""
    said = Answered("r", "m", (Text("x"), ToolUse("a", "f", '{"b": ')), finish, None)
    candidate = json.loads(SPEAKER.write_answer(said))["candidates"][0]
    assert (candidate["content"]["parts"], candidate["finishReason"]) == ([{"text": "x"}], reason)
    events: list[Event] = [
        Began("r", "m"),
        TextDelta("x"),
        ToolBegan(0, "a", "f"),
        ToolDelta(0, '{"b": '),
        Finished(finish),
    ]
    last = by_the_sdk(written(events))[-1].candidates[0]
    assert (last.finish_reason, last.content.parts) == (reason, [types.Part(text="")])


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_is_read() -> None:
    """Every chunk says what is new; the usage is told once, before the finish, and what is known of it at the start."""
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 1}
    final = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 2}
    assert read_stream(
        sse(
            answer({"text": "why", "thought": True}, reason=None, usageMetadata=counts),
            answer({"text": "A"}, reason=None, usageMetadata=counts),
            answer(
                {"functionCall": {"name": "f", "args": {"a": 1}, "id": "c1"}, "thoughtSignature": SIGNATURE},
                reason=None,
            ),
            answer({"text": "", "thoughtSignature": SIGNATURE}, usageMetadata=final),
        )
    ) == [
        Began("r1", "gemini-x", Usage(input_tokens=10, output_tokens=1)),
        ThinkingDelta("why"),
        TextDelta("A"),
        ToolBegan(0, "c1", "f", SIGNATURE),
        ToolDelta(0, '{"a":1}'),
        ThinkingDelta("", SIGNATURE, "gemini"),
        Counted(Usage(input_tokens=10, output_tokens=7, reasoning_tokens=2)),
        Finished("tool_calls"),
    ]


def test_a_stream_that_broke_off_has_no_finish() -> None:
    """Its usage so far is told."""
    events = read_stream(sse(answer({"text": "A"}, reason=None, usageMetadata={"promptTokenCount": 3})))
    assert events[1:] == [TextDelta("A"), Counted(Usage(input_tokens=3))]
    chunk = sse(answer({"text": "A"}))
    assert read_stream(chunk, chunk[:-40]) == read_stream(chunk)
    assert read_stream(chunk.rstrip()) == read_stream(chunk)


@pytest.mark.parametrize(
    ("data", "failed"),
    [
        (sse({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}), Failed(503, "busy")),
        (b'{\n  "error": {\n    "code": 429,\n    "message": "slow"\n  }\n}\n', Failed(429, "slow")),
        (sse({"error": {"message": "odd"}}), Failed(500, "odd")),
    ],
)
def test_errors_in_a_stream(data: bytes, failed: Failed) -> None:
    """As an event, or as the bare JSON that Google sends at times; nothing follows."""
    begun = sse(answer({"text": "A"}, reason=None))
    assert read_stream(begun, data, b"\r\n\r\n", sse(answer({"text": "B"}))) == [
        Began("r1", "gemini-x"),
        TextDelta("A"),
        failed,
    ]


def test_a_fault_of_the_model_is_an_error_of_the_stream() -> None:
    """It is no finish that a client could take for an answer; what it cost is told."""
    chunk = answer(reason="MALFORMED_FUNCTION_CALL", usageMetadata={"promptTokenCount": 3})
    chunk["candidates"][0]["finishMessage"] = "bad call"
    *_, counted, failed = read_stream(sse(chunk))
    assert counted == Counted(Usage(input_tokens=3))
    assert failed == Failed(502, "the model ended its answer with MALFORMED_FUNCTION_CALL: bad call")


def test_what_is_no_stream() -> None:
    """It is a ValueError; later in a stream an error that follows what was said."""
    with pytest.raises(ValueError):
        read_stream(b"data: nonsense\n\n")
    *said, failed = read_stream(
        sse(answer({"text": "A"}, reason=None)) + b"data: nonsense\n\n" + sse(answer({"text": "B"}))
    )
    assert said == [Began("r1", "gemini-x"), TextDelta("A")]
    assert isinstance(failed, Failed)
    assert failed.status == 502
    whole = sse(answer({"text": "A"}))
    assert read_stream(whole + b"data: nonsense\n\n") == read_stream(whole)


@settings(max_examples=60)
@given(st.data(), conversations.streams(thinking=True, reasoning=True), st.booleans())
def test_streams_come_back_however_they_are_cut(
    data: st.DataObject, stream: tuple[Answered, list[Event]], array: bool
) -> None:
    """Written as events or as one array, cut anywhere, a stream is read as the answer that it is."""
    whole, events = stream
    raw = written(events, array=array)
    got = read_stream(*data.draw(conversations.cuts(raw)))
    assert conversations.gathered(got) == whole
    assert got == read_stream(raw)


@settings(max_examples=60)
@given(conversations.wild_events())
def test_any_order_of_events_is_a_stream_that_the_sdk_takes(events: list[Event]) -> None:
    """Nothing is lost: texts and thoughts in their order, calls whole, the last usage with the finish at the end."""
    raw = written(events)
    got, expected = conversations.gathered(read_stream(raw)), conversations.gathered(events)
    assert got == expected
    chunks = by_the_sdk(raw)
    assert [bool(chunk.candidates[0].finish_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.candidates[0].content.parts for chunk in chunks)
    assert chunks[-1].usage_metadata.prompt_token_count == expected.usage.input_tokens
    assert json.loads(written(events, array=True)) == [json.loads(line[6:]) for line in raw.split(b"\r\n\r\n") if line]


def test_calls_that_are_whole_go_out_before_what_follows() -> None:
    """A call waits for its arguments, not for the end of the stream."""
    writer = SPEAKER.writer(model="m", created_s=0, asks_usage=True)
    assert writer.write(ToolBegan(0, "a", "f")) == b""
    assert writer.write(ToolDelta(0, "{}")) == b""
    assert writer.write(TextDelta("x")).count(b"functionCall") == 1
    assert writer.write(ToolDelta(0, "\n")) == b""
    assert writer.content_type == "text/event-stream"


def test_calls_that_gemini_did_not_make_say_so() -> None:
    """The first of an answer carries the documented mark, so that a client's history is valid at Gemini itself."""
    uses = (ToolUse("a", "f", "{}"), ToolUse("b", "f", "{}"))
    whole = json.loads(SPEAKER.write_answer(Answered("r", "m", uses, "tool_calls", None)))["candidates"][0]["content"]
    assert [part.get("thoughtSignature") for part in whole["parts"]] == [NOT_SIGNED, None]
    events: list[Event] = [ToolBegan(0, "a", "f"), ToolBegan(1, "b", "f"), Finished("tool_calls")]
    first, second, _ = (json.loads(line[6:]) for line in written(events).split(b"\r\n\r\n") if line)
    assert [first["candidates"][0]["content"]["parts"], second["candidates"][0]["content"]["parts"]] == [
        [part] for part in whole["parts"]
    ]


def test_a_call_without_arguments_has_none() -> None:
    """No delta at all is an empty object."""
    raw = written([Began("r", "m"), ToolBegan(0, "a", "f"), Finished("tool_calls")])
    assert by_the_sdk(raw)[0].function_calls[0].args == {}


@pytest.mark.parametrize("array", [False, True])
def test_a_stream_that_failed_says_so(*, array: bool) -> None:
    """The error is the last thing in it, in the API's own shape; nothing pretends to be an end."""
    raw = written(
        [Began("r", "m"), TextDelta("x"), Failed(529, "overloaded"), TextDelta("y"), Finished("stop")], array=array
    )
    chunks = json.loads(raw) if array else [json.loads(line[6:]) for line in raw.split(b"\r\n\r\n") if line]
    assert len(chunks) == 2
    assert chunks[1]["error"]["message"] == "overloaded"
    assert chunks[1]["error"]["code"] == 529
    assert b"finishReason" not in raw


def test_a_stream_without_a_finish_is_not_ended() -> None:
    """Whoever drives the writer says what went wrong; an array is closed as JSON."""
    assert b"finishReason" not in written([Began("r", "m"), TextDelta("x")])
    assert json.loads(written([Began("r", "m"), TextDelta("x")], array=True))[0]["responseId"] == "r"
    assert written([], array=True) == b"[]"
    assert written([]) == b""


def test_the_model_is_the_one_asked_for_where_no_event_says_one() -> None:
    """A chunk always names a model."""
    assert by_the_sdk(written([TextDelta("x"), Finished("stop")]))[0].model_version == "asked-for"


def test_which_streams_are_arrays() -> None:
    """The API sends events only where ``alt=sse`` asks for them."""
    assert wants_array("")
    assert wants_array("key=k&alt=json")
    assert not wants_array("alt=sse&key=k")
    writer = SPEAKER.writer(model="m", created_s=0, asks_usage=True, array=True)
    assert writer.content_type.startswith("application/json")


# --- what was recorded --------------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(
    not (DATA / "interactions.jsonl.gz").exists(), reason=f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA"
)
# What of the recorded requests nobody else can say, by the last name of the field.
REFUSED = {
    "googleSearch": 10, "fileData": 11, "file_data": 7, "inlineData": 5, "inline_data": 1, "fileSearch": 5,
    "codeExecution": 3, "urlContext": 1, "modelArmorConfig": 1, "logprobs": 1, "responseModalities": 1,
}  # fmt: skip


@lru_cache(maxsize=1)
def recorded() -> list[dict[str, Any]]:
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        return [row for row in map(json.loads, lines) if "enerateContent" in (row["path"] or "")]


@needs_data
def test_every_recorded_request_is_carried_whole_or_refused() -> None:
    """171 of 217 come back as they were; the others use what only Google has."""
    refused: Counter[str] = Counter()
    for row in recorded():
        url = urlsplit(row["url"])
        try:
            asked = SPEAKER.read_request(url.path, url.query, json.dumps(row["request"]).encode())
        except Untranslatable as reason:
            refused[reason.field.rpartition(".")[2]] += 1
            continue
        sent = SPEAKER.write_request(asked, asked.model)
        assert SPEAKER.read_request(sent.path, sent.query, sent.body) == asked
    assert len(recorded()) == 217
    assert dict(refused) == REFUSED


@needs_data
def test_every_recorded_answer_is_carried_whole_or_an_error() -> None:
    """196 answers and 7 streams; the others have media or tools at Google in them, or ended with a fault of the model."""
    faults: Counter[str] = Counter()
    whole = streams = 0
    for row in recorded():
        text = row["response_text"]
        body = text.encode() if text else json.dumps(row["response"]).encode()
        try:
            got = conversations.gathered(read_stream(body)) if text else SPEAKER.read_answer(body)
        except (ValueError, AssertionError) as error:
            faults[str(error)[:40]] += 1
            continue
        whole, streams = whole + (not text), streams + bool(text)
        assert SPEAKER.read_answer(SPEAKER.write_answer(got)) == got
        meter = DIALECT.meter(None)
        meter.feed(body)
        metered = meter.reading().usage
        # Searches are counted from what was found; no conversation that is translated can ask for one.
        assert got.usage == (metered._replace(web_searches=0) if metered is not None else None)
    assert (whole, streams) == (196, 7)
    assert faults == {
        "an answer has media or runs tools at Goo": 8,
        "Failed(status=502, message='the stream c": 1,
        "the model ended its answer with UNEXPECT": 3,
        "an error is no answer: Cannot fetch cont": 2,
    }
