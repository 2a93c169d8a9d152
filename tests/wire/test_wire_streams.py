"""Streams: the same reading however the bytes are cut up, and what is known of one that broke off."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import wire_bodies as bodies
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.prices import Reading
from bursar.core.usage import Usage
from bursar.wire.dialect import Dialect, RequestFacts, ceil_tokens
from bursar.wire.eventstream import Frames, encode_frame, is_event_stream
from bursar.wire.openai_chat import DIALECT as CHAT
from bursar.wire.providers import dialect_by_id, provider
from bursar.wire.sse import Splitter, event_data

INVOKE_STREAM = b"".join(
    encode_frame({":event-type": "chunk", ":message-type": "event"}, json.dumps({"bytes": data, "p": "a"}).encode())
    for data in (b64encode(json.dumps(event).encode()).decode() for event in bodies.MESSAGE_EVENTS)
)
STREAMS: dict[str, tuple[str, bytes]] = {
    "chat": ("openai_chat", bodies.CHAT_STREAM),
    "chat, CRLF": ("openai_chat", bodies.CHAT_STREAM.replace(b"\n", b"\r\n")),
    "chat, generic": ("generic", bodies.CHAT_STREAM),
    "responses": ("openai_responses", bodies.RESPONSE_STREAM),
    "anthropic": ("anthropic", bodies.MESSAGE_STREAM),
    "anthropic, generic": ("generic", bodies.MESSAGE_STREAM),
    "gemini": ("gemini", bodies.GEMINI_STREAM),
    "gemini, array": ("gemini", bodies.GEMINI_ARRAY),
    "converse": ("bedrock_converse", bodies.CONVERSE_STREAM),
    "converse, generic": ("generic", bodies.CONVERSE_STREAM),
    "invoke": ("bedrock_invoke", INVOKE_STREAM),
    "cohere": ("cohere", bodies.COHERE_STREAM),
}
WHOLE: dict[str, dict[str, object]] = {
    "openai_chat": bodies.CHAT,
    "openai_responses": bodies.RESPONSE,
    "anthropic": bodies.MESSAGE,
    "gemini": bodies.GEMINI,
    "bedrock_converse": bodies.CONVERSE,
    "bedrock_invoke": bodies.MESSAGE,
    "cohere": bodies.COHERE,
}
FACTS = RequestFacts(operation="chat_completions", model="asked", stream=True, input_tokens_estimate=7)


def run(
    dialect: Dialect, chunks: Iterable[bytes], facts: RequestFacts | None = None, *, hide: bool = False
) -> tuple[Reading, bytes]:
    """The reading of a stream in these chunks, and the bytes that the client got."""
    meter = dialect.meter(facts, hide_usage=hide)
    out = b"".join([meter.feed(chunk) for chunk in chunks]) + meter.finish()
    return meter.reading(), out


def chunks_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize("name", STREAMS)
def test_a_whole_stream_says_what_the_whole_answer_says(name: str) -> None:
    """Usage, names, terms, tools and end are those of the same answer in one body; the bytes pass on untouched."""
    dialect_id, data = STREAMS[name]
    reading, out = run(dialect_by_id(dialect_id), [data])
    assert out == data
    source = {
        "chat, generic": "openai_chat",
        "anthropic, generic": "anthropic",
        "converse, generic": "bedrock_converse",
    }
    whole = dialect_by_id(source.get(name, dialect_id)).read_response(WHOLE[source.get(name, dialect_id)])
    assert reading.usage == whole.usage
    assert not reading.estimated
    assert reading.finish == whole.finish
    assert reading.response_id == whole.response_id
    assert "weather" in reading.tools


@pytest.mark.parametrize("name", STREAMS)
@given(cuts=st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=12))
def test_how_the_bytes_are_cut_up_changes_nothing(name: str, cuts: list[int]) -> None:
    """Any chunks give the reading of one chunk, and the client gets every byte."""
    dialect_id, data = STREAMS[name]
    dialect = dialect_by_id(dialect_id)
    expected, _ = run(dialect, [data])
    reading, out = run(dialect, chunks_of(data, cuts))
    assert out == data
    assert reading == expected


@pytest.mark.parametrize("name", STREAMS)
def test_one_byte_at_a_time(name: str) -> None:
    """The smallest chunks give the reading of the largest."""
    dialect_id, data = STREAMS[name]
    dialect = dialect_by_id(dialect_id)
    assert run(dialect, [data[i : i + 1] for i in range(len(data))])[0] == run(dialect, [data])[0]


@pytest.mark.parametrize("name", STREAMS)
@given(place=st.floats(min_value=0, max_value=1))
def test_a_stream_cut_anywhere_is_estimated_or_whole(name: str, place: float) -> None:
    """Nothing raises, the input is never more than the truth, and only a whole stream claims to be exact."""
    dialect_id, data = STREAMS[name]
    dialect = dialect_by_id(dialect_id)
    whole, _ = run(dialect, [data])
    assert whole.usage is not None
    reading, out = run(dialect, [data[: int(place * len(data))]])
    assert out == data[: int(place * len(data))]
    if reading.usage is None:
        assert reading.reason
        assert not reading.estimated
        return
    assert reading.usage.input_tokens <= whole.usage.input_tokens
    assert reading.usage.output_tokens <= whole.usage.output_tokens
    if not reading.estimated:
        assert reading.usage == whole.usage


def test_a_cut_chat_stream_counts_the_characters_it_saw() -> None:
    """Text and tool arguments count a token for four characters; the input is the request's size."""
    data = bodies.sse(*bodies.CHAT_CHUNKS[:5])
    reading, _ = run(CHAT, [data], FACTS)
    seen = len("Let me look. ") + len("Grüße aus Oslo \u2603") + len('{"city": "Oslo"}')
    assert reading.estimated
    assert reading.usage == Usage(input_tokens=7, output_tokens=ceil_tokens(seen))
    assert reading.tools == ("weather",)


def test_a_cut_anthropic_stream_keeps_the_stated_input() -> None:
    """``message_start`` states the input exactly; only the output is an estimate."""
    data = bodies.sse(*bodies.MESSAGE_EVENTS[:4], named=True)
    reading, _ = run(dialect_by_id("anthropic"), [data], FACTS)
    assert reading.estimated
    assert reading.usage is not None
    assert reading.usage.counts() == {
        "input_tokens": 2710,
        "cache_read_tokens": 2000,
        "cache_write_tokens": 700,
        "cache_write_5m_tokens": 500,
        "cache_write_1h_tokens": 200,
        "output_tokens": 2,
    }


def test_a_chat_stream_that_never_states_usage_is_estimated() -> None:
    """``[DONE]`` without a usage chunk is a whole answer of unknown size."""
    reading, _ = run(CHAT, [bodies.sse(*bodies.CHAT_CHUNKS, "[DONE]")], FACTS)
    assert reading.estimated
    assert reading.model == "gpt-4o-2024-08-06"


def test_nothing_seen_and_nothing_asked_is_unknown() -> None:
    """Without a request and without a byte there is no estimate, and a request alone is worth its input."""
    assert run(CHAT, [])[0].usage is None
    reading, _ = run(CHAT, [], FACTS)
    assert (reading.usage, reading.estimated, reading.model) == (Usage(input_tokens=7), True, "asked")


def test_the_injected_usage_chunk_is_hidden() -> None:
    """The client gets the stream as it would have been without Bursar's question; the usage is read all the same."""
    plain = bodies.sse(*bodies.CHAT_CHUNKS, "[DONE]")
    for asked in (bodies.CHAT_STREAM, bodies.CHAT_STREAM.replace(b"\n", b"\r\n")):
        reading, out = run(CHAT, [asked], hide=True)
        assert out.replace(b"\r\n", b"\n") == plain
        assert reading.usage is not None
        assert reading.usage.input_tokens == 1200


@given(cuts=st.lists(st.integers(min_value=0, max_value=1 << 20), max_size=20))
def test_hiding_survives_any_cut(cuts: list[int]) -> None:
    """However the stream is cut up, exactly the usage chunk is missing."""
    reading, out = run(CHAT, chunks_of(bodies.CHAT_STREAM, cuts), hide=True)
    assert out == bodies.sse(*bodies.CHAT_CHUNKS, "[DONE]")
    assert not reading.estimated


def test_hiding_holds_back_no_whole_event() -> None:
    """A complete event leaves at once; only an incomplete one waits."""
    meter = CHAT.meter(None, hide_usage=True)
    first = bodies.sse(bodies.CHAT_CHUNKS[1])
    assert meter.feed(first) == first
    assert meter.feed(b"data: {") == b""
    assert meter.finish() == b"data: {"


def test_without_hiding_the_chunk_is_the_same_object() -> None:
    """Nothing is copied on the way."""
    meter = CHAT.meter(None)
    assert meter.feed(bodies.CHAT_STREAM) is bodies.CHAT_STREAM


def test_a_chunk_without_choices_that_states_no_usage_is_not_hidden() -> None:
    """Azure opens its streams with a chunk of filter results that has no choices."""
    opening = bodies.sse({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    assert run(CHAT, [opening], hide=True)[1] == opening


def test_usage_in_every_chunk_takes_the_last() -> None:
    """Cumulative usage is replaced, never added; before the end it is a lower bound."""
    chunks = [
        bodies.chunk({"content": "a" * 40}, None, usage={"prompt_tokens": 5, "completion_tokens": 3}),
        bodies.chunk({"content": "b"}, "stop", usage={"prompt_tokens": 5, "completion_tokens": 12}),
    ]
    assert run(CHAT, [bodies.sse(*chunks)])[0].usage == Usage(input_tokens=5, output_tokens=12)
    cut, _ = run(CHAT, [bodies.sse(chunks[0])])
    assert (cut.usage, cut.estimated) == (Usage(input_tokens=5, output_tokens=10), True)


def test_groq_states_usage_in_its_own_field() -> None:
    """``x_groq.usage`` of the last chunk counts."""
    data = bodies.sse(bodies.chunk({"content": "a"}), bodies.chunk({}, "stop", x_groq={"usage": bodies.CHAT["usage"]}))
    reading, _ = run(CHAT, [data])
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.estimated) == (1200, False)


def test_mistral_streams_parts() -> None:
    """Content that is a list of parts, thinking inside, is counted."""
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "abcd"}]}, {"type": "text", "text": "efgh"}]
    reading, _ = run(CHAT, [bodies.sse(bodies.chunk({"content": parts}))])
    assert reading.usage == Usage(output_tokens=2)


def test_reasoning_texts_count() -> None:
    """DeepSeek's and OpenRouter's names for a visible thought."""
    for name in ("reasoning_content", "reasoning", "refusal"):
        assert run(CHAT, [bodies.sse(bodies.chunk({name: "abcdefgh"}))])[0].usage == Usage(output_tokens=2)


def test_a_plain_answer_to_a_stream_request_is_read_whole() -> None:
    """Some servers ignore ``stream``; an error is plain JSON too."""
    body = json.dumps(bodies.CHAT).encode()
    for data in (body, b"\n " + body):
        reading, out = run(CHAT, [data[:40], data[40:]], FACTS, hide=True)
        assert out == data
        assert reading.usage is not None
        assert not reading.estimated
    refused, _ = run(CHAT, [b'{"error": {"message": "no", "type": "t"}}'], FACTS)
    assert (refused.usage, refused.error) == (None, "t: no")


def test_a_plain_answer_that_broke_off_is_estimated() -> None:
    """Half a body is billed in full by the provider: its size is the estimate."""
    reading, _ = run(CHAT, [json.dumps(bodies.CHAT).encode()[:80]], FACTS)
    assert (reading.usage, reading.estimated) == (Usage(input_tokens=7, output_tokens=20), True)


def test_a_stream_that_lies_is_unknown() -> None:
    """A usage that cannot be true is not replaced by a guess, and the field is named."""
    lie = bodies.sse(
        bodies.chunk({"content": "a"}, "stop"), bodies.chunk(usage={"prompt_tokens": -1, "completion_tokens": 1})
    )
    reading, _ = run(CHAT, [lie], FACTS)
    assert reading.usage is None
    assert "usage.prompt_tokens" in reading.reason
    events = [*bodies.MESSAGE_EVENTS[:-2], {"type": "message_delta", "delta": {}, "usage": {"output_tokens": "many"}}]
    reading, _ = run(dialect_by_id("anthropic"), [bodies.sse(*events)], FACTS)
    assert reading.usage is None
    assert "usage.output_tokens" in reading.reason


def test_an_unreadable_event_changes_nothing() -> None:
    """A stray event that is not JSON is passed on and passed over."""
    data = b"data: {nonsense}\n\n" + bodies.CHAT_STREAM
    assert run(CHAT, [data])[0].usage == run(CHAT, [bodies.CHAT_STREAM])[0].usage


def test_an_error_event_before_any_text_has_no_usage() -> None:
    """A stream that fails at once states nothing and is not estimated."""
    data = bodies.sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, named=True)
    reading, _ = run(dialect_by_id("anthropic"), [data], FACTS)
    assert (reading.usage, reading.error) == (None, "overloaded_error: Overloaded")


def test_a_bedrock_exception_frame_is_an_error() -> None:
    """Exceptions come as frames of their own kind."""
    frame = encode_frame(
        {":message-type": "exception", ":exception-type": "throttlingException"}, b'{"message":"slow"}'
    )
    reading, _ = run(dialect_by_id("bedrock_converse"), [frame])
    assert "throttlingException" in reading.error


def test_invoke_metrics_price_other_models() -> None:
    """The last chunk of any model carries Bedrock's own counts."""
    metrics = {"inputTokenCount": 12, "outputTokenCount": 30, "cacheReadInputTokenCount": 5}
    inner = json.dumps({"generation": "x", "amazon-bedrock-invocationMetrics": metrics}).encode()
    frame = encode_frame({":event-type": "chunk"}, json.dumps({"bytes": b64encode(inner).decode()}).encode())
    reading, _ = run(dialect_by_id("bedrock_invoke"), [frame])
    assert reading.usage == Usage(input_tokens=17, cache_read_tokens=5, output_tokens=30)


def test_realtime_responses_add_up() -> None:
    """A session answers many times, and each answer is billed."""
    done = {"type": "response.done", "response": {**bodies.RESPONSE, "output": []}}
    reading, _ = run(dialect_by_id("openai_responses"), [bodies.sse(done, done)])
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (1000, 400)


def test_an_event_ends_at_any_kind_of_blank_line() -> None:
    """LF, CRLF and CR, comments and several data lines."""
    for ending in (b"\n", b"\r\n", b"\r"):
        stream = ending.join([b": hi", b"event: x", b"data: a", b"data:b", b"", b"data: c", b"", b""])
        events = Splitter().feed(stream)
        assert [event_data(event.strip(b"\r\n")).strip() for event in events] == [b"a\nb", b"c"]


def limited(monkeypatch: pytest.MonkeyPatch) -> Splitter:
    """A splitter that keeps at most 64 bytes."""
    monkeypatch.setattr("bursar.wire.sse.EVENT_BYTES_MAX", 64)
    return Splitter()


@pytest.mark.parametrize("feed", [Splitter.feed, Splitter.feed_raw])
def test_an_endless_event_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, feed: Callable[[Splitter, bytes], list[bytes]]
) -> None:
    """Past the limit an event is given up; with hiding on it still reaches the client."""
    splitter = limited(monkeypatch)
    passed = feed(splitter, b"data: " + b"x" * 100)
    assert splitter.rest() == b""
    assert passed == ([] if feed is Splitter.feed else [b"data: " + b"x" * 100])


@given(cuts=st.lists(st.integers(min_value=0, max_value=1 << 16), max_size=9))
def test_frames_survive_any_cut(cuts: list[int]) -> None:
    """Frames come out as they went in, wrong checksums included."""
    data = bytearray(bodies.CONVERSE_STREAM)
    data[-1] ^= 0xFF
    frames = Frames()
    found = [frame for chunk in chunks_of(bytes(data), cuts) for frame in frames.feed(chunk)]
    assert [(frame.headers[":event-type"], json.loads(frame.payload)) for frame in found] == list(
        bodies.CONVERSE_EVENTS
    )
    assert not frames.broken


@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_frames_end_the_reading(data: bytes) -> None:
    """Noise never raises; it is not taken for an event stream."""
    frames = Frames()
    frames.feed(data)
    frames.feed(data)
    assert not is_event_stream(b"data: " + data)


@pytest.mark.parametrize(
    "dialect_id", ["generic", *WHOLE, "openai_embeddings", "openai_images", "anthropic_count_tokens"]
)
@given(chunks=st.lists(st.binary(max_size=60), max_size=6))
def test_garbage_passes_through_and_never_raises(dialect_id: str, chunks: list[bytes]) -> None:
    """Whatever comes, the client gets it and the meter answers."""
    for facts in (None, FACTS):
        reading, out = run(dialect_by_id(dialect_id), chunks, facts, hide=True)
        assert out == b"".join(chunks)
        assert reading.usage is None or reading.estimated


def test_the_request_completes_a_silent_answer() -> None:
    """Terms that only the request states, and its model, complete the reading; what the response says wins."""
    facts = RequestFacts("chat_completions", "asked", terms=(("service_tier", "flex"),))
    silent = bodies.sse(
        bodies.chunk({"content": "a"}, "stop", model=None), bodies.chunk(usage=bodies.CHAT["usage"], model=None)
    )
    reading, _ = run(CHAT, [silent], facts)
    assert (reading.model, reading.terms) == ("asked", (("service_tier", "flex"),))
    stated = bodies.sse(bodies.chunk({"content": "a"}, "stop", service_tier="default"), bodies.CHAT_USAGE_CHUNK)
    assert run(CHAT, [stated], facts)[0].terms == (("service_tier", "default"),)


def test_a_provider_meter_uses_its_quirks() -> None:
    """xAI streams are converted like its whole answers, its cost included."""
    xai = provider("xai")
    assert xai is not None
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 16, "cost_in_usd_ticks": 20}
    usage["completion_tokens_details"] = {"reasoning_tokens": 10}  # type: ignore[assignment]
    reading, _ = run(
        xai.dialect("/v1/chat/completions"), [bodies.sse(bodies.chunk({}, "stop"), bodies.chunk(usage=usage))]
    )
    assert (reading.usage, reading.reported) == (Usage(4, output_tokens=12, reasoning_tokens=10), 2)
