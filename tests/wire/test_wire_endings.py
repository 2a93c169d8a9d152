"""A stream that is ended early ends as if the model had reached its limit, and the official SDKs take it for that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import anthropic
import openai
import pytest
import wire_bodies as bodies
from google import genai
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from test_wire_streams import INVOKE_STREAM, STREAMS, chunks_of

from bursar.wire.dialect import RequestFacts
from bursar.wire.eventstream import Frames
from bursar.wire.providers import dialect_by_id

FACTS = RequestFacts("chat_completions", "asked", stream=True, input_tokens_estimate=7, asks_usage=True)

RESPONSE_OPENING = {**bodies.RESPONSE, "status": "in_progress", "usage": None, "output": []}
MESSAGE_ITEM = {"type": "message", "id": "m1", "role": "assistant", "status": "in_progress", "content": []}
CALL_ITEM = {"type": "function_call", "id": "f1", "call_id": "c1", "name": "weather", "arguments": ""}
PART = {"type": "output_text", "text": "", "annotations": []}
RESPONSE_EVENTS: tuple[dict[str, Any], ...] = tuple(
    {**event, "sequence_number": number}
    for number, event in enumerate(
        (
            {"type": "response.created", "response": RESPONSE_OPENING},
            {"type": "response.in_progress", "response": RESPONSE_OPENING},
            {"type": "response.output_item.added", "output_index": 0, "item": MESSAGE_ITEM},
            {
                "type": "response.content_part.added",
                "output_index": 0,
                "item_id": "m1",
                "content_index": 0,
                "part": PART,
            },
            *(
                {
                    "type": "response.output_text.delta",
                    "output_index": 0,
                    "item_id": "m1",
                    "content_index": 0,
                    "delta": text,
                    "logprobs": [],
                }
                for text in ("Ra", "in.")
            ),
            {
                "type": "response.output_text.done",
                "output_index": 0,
                "item_id": "m1",
                "content_index": 0,
                "text": "Rain.",
                "logprobs": [],
            },
            {
                "type": "response.content_part.done",
                "output_index": 0,
                "item_id": "m1",
                "content_index": 0,
                "part": {**PART, "text": "Rain."},
            },
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {**MESSAGE_ITEM, "status": "completed", "content": [{**PART, "text": "Rain."}]},
            },
            {"type": "response.output_item.added", "output_index": 1, "item": CALL_ITEM},
            {
                "type": "response.function_call_arguments.delta",
                "output_index": 1,
                "item_id": "f1",
                "delta": '{"city": ',
            },
        )
    )
)
MESSAGE_EVENTS = tuple(
    {**event, "content_block": {**event["content_block"], "input": {}}}
    if event.get("index") == 1 and "content_block" in event
    else event
    for event in bodies.MESSAGE_EVENTS
)


def closed(dialect_id: str, data: bytes, facts: RequestFacts | None = FACTS) -> bytes:
    """What the client gets of a stream that was ended after these bytes."""
    meter = dialect_by_id(dialect_id).meter(facts, whole_events=True)
    return meter.feed(data) + meter.close()


def events(data: bytes) -> list[dict[str, Any]]:
    """The objects of server-sent events; every event must be whole."""
    assert data.endswith(b"\n\n")
    found = [line[5:].strip() for line in data.splitlines() if line.startswith(b"data:")]
    return [json.loads(each) for each in found if each != b"[DONE]"]


@contextmanager
def serve(answer: bytes, content_type: str = "text/event-stream") -> Iterator[str]:
    """A server that answers every POST with these bytes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- the official SDKs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(len(bodies.CHAT_CHUNKS)))
def test_the_openai_sdk_reads_a_closed_chat(count: int) -> None:
    """Wherever the stream is cut, the last choice says ``length`` and the usage that was asked for comes."""
    answer = closed("openai_chat", bodies.sse(*bodies.CHAT_CHUNKS[:count]))
    with serve(answer) as url, openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
        request: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        # The helper that also parses answers has an error of its own for those that met their limit.
        with (
            client.chat.completions.stream(**request) as stream,
            pytest.raises(openai.LengthFinishReasonError) as caught,
        ):
            stream.get_final_completion()
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finishes == ["length"]
    assert caught.value.completion.choices[0].finish_reason == "length"
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens == 7


@pytest.mark.parametrize("count", range(len(RESPONSE_EVENTS) + 1))
def test_the_openai_sdk_reads_a_closed_response(count: int) -> None:
    """The last event is ``response.incomplete`` with all that was written so far."""
    answer = closed("openai_responses", bodies.sse(*RESPONSE_EVENTS[:count], named=True))
    with serve(answer) as url, openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client:
        seen: list[Any] = list(client.responses.create(model="m", input="hi", stream=True))
        with client.responses.stream(model="m", input="hi") as stream:
            helped: list[Any] = list(stream)
    last = seen[-1]
    assert last.type == helped[-1].type == "response.incomplete"
    assert last.response.status == "incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    texts = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert last.response.output_text == "".join(texts)
    numbers = [event.sequence_number for event in seen]
    assert numbers == sorted(set(numbers))
    begun = sum(event.type == "response.output_item.added" for event in seen)
    assert begun == sum(event.type == "response.output_item.done" for event in seen) == len(last.response.output)
    if count == len(RESPONSE_EVENTS):
        assert last.response.output[1].arguments == '{"city": '


@pytest.mark.parametrize("count", range(len(MESSAGE_EVENTS) - 2))
def test_the_anthropic_sdk_reads_a_closed_message(count: int) -> None:
    """The final message stopped for ``max_tokens``; open blocks were closed."""
    answer = closed("anthropic", bodies.sse(*MESSAGE_EVENTS[:count], named=True))
    with serve(answer) as url, anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client:
        request: Any = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}]}
        with client.messages.stream(**request) as stream:
            final = stream.get_final_message()
        seen = list(client.messages.create(**request, stream=True))
    assert final.stop_reason == "max_tokens"
    assert seen[-1].type == "message_stop"
    kinds = [event.type for event in seen]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    assert final.usage.output_tokens >= (2 if count > 3 else 0)


@pytest.mark.parametrize("count", [0, 1])
def test_the_gemini_sdk_reads_a_closed_stream(count: int) -> None:
    """The last candidate finished for ``MAX_TOKENS`` and states the usage."""
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in bodies.GEMINI_EVENTS[:count])
    with serve(closed("gemini", data)) as url:
        client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url))
        chunks = list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi"))
        client.close()
    assert len(chunks) == count + 1
    last = chunks[-1]
    assert last.candidates is not None
    assert last.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert last.usage_metadata is not None
    assert last.usage_metadata.prompt_token_count == (300 if count else 7)


# --- every dialect ----------------------------------------------------------------------------------------------


def test_a_gemini_array_is_closed() -> None:
    """Cut inside its second element the array is still JSON, and its last candidate says why it ended."""
    for cut in (1, len(bodies.GEMINI_ARRAY) // 2, len(bodies.GEMINI_ARRAY) - 9):
        found = json.loads(closed("gemini", bodies.GEMINI_ARRAY[:cut]))
        assert found[-1]["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert json.loads(closed("gemini", bodies.GEMINI_ARRAY[:-1]))[-1]["candidates"][0]["finishReason"] == "STOP"


def test_converse_is_closed_with_its_own_frames() -> None:
    """An open block is stopped, then the message, then the usage is stated."""
    for count in range(4):
        out = closed("bedrock_converse", bodies.frames(*bodies.CONVERSE_EVENTS[:count]))
        frames = Frames()
        found = [(each.headers[":event-type"], json.loads(each.payload)) for each in frames.feed(out)]
        assert frames.empty
        assert found[0][0] == "messageStart"
        assert found[-2] == ("messageStop", {"stopReason": "max_tokens"})
        assert found[-1][0] == "metadata"
        assert (("contentBlockStop", {"contentBlockIndex": 0}) in found) == (count == 2)


def test_invoke_is_closed_in_the_models_own_dialect() -> None:
    """Anthropic's last events, wrapped as Bedrock wraps them."""
    first = Frames()
    first.feed(INVOKE_STREAM[: len(INVOKE_STREAM) // 2])
    out = closed("bedrock_invoke", INVOKE_STREAM[: len(INVOKE_STREAM) // 2])
    assert out.startswith(first.whole)
    frames = Frames()
    last = frames.feed(out)[-1]
    assert frames.empty
    assert last.headers[":event-type"] == "chunk"
    assert "bytes" in json.loads(last.payload)
    assert closed("bedrock_invoke", b"") == b""


def test_cohere_is_closed() -> None:
    """The message ends for ``MAX_TOKENS`` with its billed units."""
    last = events(closed("cohere", bodies.COHERE_STREAM[:200]))[-1]
    assert last["delta"]["finish_reason"] == "MAX_TOKENS"
    assert last["delta"]["usage"]["billed_units"]["input_tokens"] == 7


@pytest.mark.parametrize("name", STREAMS)
@given(
    place=st.floats(min_value=0, max_value=1), cuts=st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=6)
)
def test_a_stream_is_closed_behind_a_whole_event(name: str, place: float, cuts: list[int]) -> None:
    """However it is cut up, what passes is a beginning of the stream that ends with an event; closing raises nothing."""
    dialect_id, data = STREAMS[name]
    begun = data[: int(place * len(data))]
    meter = dialect_by_id(dialect_id).meter(FACTS, whole_events=True)
    passed = b"".join([meter.feed(chunk) for chunk in chunks_of(begun, cuts)])
    assert begun.startswith(passed)
    assert passed == b"" or passed.endswith((b"\n\n", b"\r\n\r\n", b"}")) or "converse" in name or name == "invoke"
    assert isinstance(meter.close(), bytes)


@pytest.mark.parametrize("name", STREAMS)
@given(cuts=st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=6))
def test_holding_back_loses_nothing(name: str, cuts: list[int]) -> None:
    """A stream that is not ended early arrives whole, and is read as ever."""
    dialect_id, data = STREAMS[name]
    meter = dialect_by_id(dialect_id).meter(None, whole_events=True)
    out = b"".join([meter.feed(chunk) for chunk in chunks_of(data, cuts)]) + meter.finish()
    plain = dialect_by_id(dialect_id).meter(None)
    plain.feed(data)
    plain.finish()
    assert out == data
    assert meter.reading() == plain.reading()


@pytest.mark.parametrize("dialect_id", ["generic", "openai_chat", "openai_responses", "anthropic", "gemini", "cohere"])
@given(chunks=st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_loses_nothing_and_closes(dialect_id: str, chunks: list[bytes]) -> None:
    """Whatever comes: held back until the end, then passed on; closing it raises nothing."""
    meter = dialect_by_id(dialect_id).meter(FACTS, whole_events=True)
    assert b"".join([meter.feed(chunk) for chunk in chunks]) + meter.finish() == b"".join(chunks)
    other = dialect_by_id(dialect_id).meter(FACTS, whole_events=True)
    for chunk in chunks:
        other.feed(chunk)
    assert isinstance(other.close(), bytes)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_has_ended_needs_no_end(name: str) -> None:
    """After the last event there is nothing to add."""
    dialect_id, data = STREAMS[name]
    assert closed(dialect_id, data) == data.removesuffix(b"\n]") + (b"]" if data.endswith(b"]") else b"")


def test_only_what_is_missing_is_sent() -> None:
    """A stream cut between its finish and its end gets the end alone; a body that is no stream gets none."""
    out = closed("openai_chat", bodies.sse(*bodies.CHAT_CHUNKS))
    assert [choice["finish_reason"] for each in events(out) for choice in each["choices"]].count("length") == 0
    assert out.endswith(b"data: [DONE]\n\n")
    silent = RequestFacts("chat_completions", "m", stream=True)
    assert b'"usage"' not in closed("openai_chat", bodies.sse(*bodies.CHAT_CHUNKS[:2]), silent)
    assert closed("openai_chat", b'{"choices": []') == b'{"choices": []'
    assert closed("openai_embeddings", b"{}") == b"{}"
    cut = bodies.sse(*bodies.MESSAGE_EVENTS[:-1], named=True)
    assert closed("anthropic", cut) == cut + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_what_is_hidden_stays_hidden() -> None:
    """A usage that only Bursar asked for is neither passed on nor written at the end; nothing follows an error."""
    silent = RequestFacts("chat_completions", "m", stream=True)
    meter = dialect_by_id("openai_chat").meter(silent, hide_usage=True, whole_events=True)
    out = meter.feed(bodies.sse(*bodies.CHAT_CHUNKS, bodies.CHAT_USAGE_CHUNK)) + meter.close()
    assert out == bodies.sse(*bodies.CHAT_CHUNKS, "[DONE]")
    for dialect_id in ("openai_chat", "openai_responses", "anthropic", "gemini", "cohere"):
        error = dialect_by_id(dialect_id).error_event(500, "code", "message", {})
        assert closed(dialect_id, error) == error


def test_every_choice_is_finished() -> None:
    """Of several answers those that had not ended do so, and the older completions keep their shape."""
    second = {**bodies.chunk(), "choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": None}]}
    out = events(closed("openai_chat", bodies.sse(bodies.chunk({}, "stop"), second)))
    assert [each["choices"][0]["index"] for each in out[2:-1]] == [1]
    old = {"id": "cmpl-1", "object": "text_completion", "created": 5, "choices": [{"index": 0, "text": "a"}]}
    last = events(closed("openai_chat", bodies.sse(old), None))[-1]
    assert (last["object"], last["created"], last["choices"][0]["text"]) == ("text_completion", 5, "")
    assert last["choices"][0]["finish_reason"] == "length"


def test_inside_an_event_a_plain_meter_closes_nothing() -> None:
    """A meter that passes every byte on at once cannot end a stream in the middle of an event."""
    meter = dialect_by_id("openai_chat").meter(FACTS)
    meter.feed(b'data: {"id"')
    assert meter.close() == b""
    meter.feed(b': "x", "choices": []}\n\n')
    assert meter.close().endswith(b"data: [DONE]\n\n")


READ: dict[str, Callable[[], bytes]] = {
    "openai_chat": lambda: bodies.sse(*bodies.CHAT_CHUNKS[:3]),
    "anthropic": lambda: bodies.sse(*bodies.MESSAGE_EVENTS[:4], named=True),
    "gemini": lambda: bodies.GEMINI_STREAM[: bodies.GEMINI_STREAM.index(b"\r\n\r\n") + 4],
    "bedrock_converse": lambda: bodies.frames(*bodies.CONVERSE_EVENTS[:2]),
    "generic": lambda: bodies.sse(*bodies.CHAT_CHUNKS[:3]),
}


@pytest.mark.parametrize("dialect_id", READ)
def test_the_output_so_far_is_known(dialect_id: str) -> None:
    """After every chunk the meter says what was seen: stated or estimated, whichever is more."""
    meter = dialect_by_id(dialect_id).meter(FACTS)
    assert meter.output_tokens() == 0
    meter.feed(READ[dialect_id]())
    usage = meter.reading().usage
    assert usage is not None
    assert meter.output_tokens() == usage.output_tokens > 0
