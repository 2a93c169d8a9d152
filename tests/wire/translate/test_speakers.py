"""Translation from one dialect to another, as the gateway calls it."""

from __future__ import annotations

import json

import pytest

from bursar.core.usage import Usage
from bursar.wire.providers import dialect_by_id, provider
from bursar.wire.translate.conversation import (
    FINISHES,
    Began,
    Counted,
    DialectId,
    Event,
    Failed,
    Finished,
    TextDelta,
    Untranslatable,
)
from bursar.wire.translate.speakers import (
    SPEAKERS,
    StreamTranslation,
    speaker,
    translate_answer,
    translate_request,
)

DIALECTS = ("openai_chat", "anthropic", "gemini")
CHAT = {
    "model": "gpt-4o",
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    "max_tokens": 50,
}
EVENTS: list[Event] = [
    Began("msg_1", "model-a"),
    TextDelta("Hello"),
    Finished("stop"),
    Counted(Usage(input_tokens=5, output_tokens=2)),
]


def streamed(dialect: str, events: list[Event]) -> bytes:
    """A whole stream of a provider's."""
    writer = SPEAKERS[dialect].writer(model="m", created_s=1, asks_usage=True)
    return b"".join(map(writer.write, events)) + writer.close()


def translation(from_: str, to: str) -> StreamTranslation:
    writer = SPEAKERS[to].writer(model="m", created_s=1, asks_usage=True)
    return StreamTranslation(SPEAKERS[from_].reader(), writer)


def test_every_translated_dialect_is_one_of_the_wire() -> None:
    """The ids are those of the dialects, and each knows its own."""
    assert set(SPEAKERS) == set(DIALECTS)
    for name in DIALECTS:
        assert SPEAKERS[name].id == name
        assert speaker(dialect_by_id(name)).id == name  # type: ignore[union-attr]  # it is known
    assert speaker(dialect_by_id("cohere")) is None


def test_a_provider_that_counts_differently_speaks_for_itself() -> None:
    """Thoughts that a provider leaves out of completion_tokens are in the usage that the client gets."""
    google = provider("google")
    assert google is not None
    own = speaker(google.dialect("/v1beta/openai/chat/completions"))
    assert own is not None
    choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 17}
    body = json.dumps({"id": "a", "model": "m", "choices": [choice], "usage": usage}).encode()
    assert json.loads(translate_answer(own, "anthropic", body))["usage"]["output_tokens"] == 12
    assert json.loads(translate_answer("openai_chat", "anthropic", body))["usage"]["output_tokens"] == 2


@pytest.mark.parametrize("to", DIALECTS)
def test_a_request_is_translated_for_the_model_that_is_to_answer(to: DialectId) -> None:
    """The body and the path are the other dialect's, and lead back to what was asked."""
    model = {"openai_chat": "gpt-4o", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}[to]
    sent = translate_request("openai_chat", to, "/v1/chat/completions", "", json.dumps(CHAT).encode(), model)
    assert sent.path.startswith("/")
    back = SPEAKERS[to].read_request(sent.path, sent.query, sent.body)
    asked = SPEAKERS["openai_chat"].read_request("/v1/chat/completions", "", json.dumps(CHAT).encode())
    assert (back.model, back.messages, back.system, back.output_cap) == (model, asked.messages, asked.system, 50)


def test_an_instruction_in_the_middle_is_never_said_by_the_user() -> None:
    """Who cannot say it there refuses it; who can, keeps it there."""
    messages = [*CHAT["messages"], {"role": "system", "content": "now in French"}]
    body = json.dumps({**CHAT, "messages": messages}).encode()
    with pytest.raises(Untranslatable):
        translate_request("openai_chat", "gemini", "/v1/chat/completions", "", body, "gemini-2.5-flash")
    again = translate_request("openai_chat", "openai_chat", "/v1/chat/completions", "", body, "gpt-4o")
    assert json.loads(again.body)["messages"] == messages


@pytest.mark.parametrize("from_", DIALECTS)
@pytest.mark.parametrize("to", DIALECTS)
def test_a_whole_stream_ends_as_its_answer_did(from_: str, to: str) -> None:
    """In pieces of any size the client reads the same answer, and nothing after its end."""
    body = streamed(from_, EVENTS)
    for size in (1, 10, len(body)):
        moved = translation(from_, to)
        out = b"".join(moved.feed(body[at : at + size]) for at in range(0, len(body), size)) + moved.finish()
        assert (moved.finished, moved.failed) == (True, False)
        assert moved.content_type
        reader = SPEAKERS[to].reader()
        events = reader.feed(out) + reader.finish()
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
        assert [event for event in events if isinstance(event, Finished | Failed)] == [Finished("stop")]
        assert [event.usage for event in events if isinstance(event, Counted)][-1] == Usage(
            input_tokens=5, output_tokens=2
        )


@pytest.mark.parametrize("from_", DIALECTS)
@pytest.mark.parametrize("to", DIALECTS)
def test_a_stream_that_broke_off_ends_with_an_error(from_: str, to: str) -> None:
    """Wherever it was cut before its end, the client is told, and never that the answer is whole."""
    body = streamed(from_, EVENTS)
    told = 0
    for size in range(0, len(body), 7):
        moved = translation(from_, to)
        out = moved.feed(body[:size]) + moved.finish()
        if moved.finished:
            continue
        told += 1
        assert moved.failed
        reader = SPEAKERS[to].reader()
        events = reader.feed(out) + reader.finish()
        assert isinstance(events[-1], Failed)
        assert events[-1].status >= 500
        assert moved.feed(body) == b""
        assert moved.finish() == b""
    assert told > 3


@pytest.mark.parametrize("to", DIALECTS)
@pytest.mark.parametrize("body", [b"<html>no</html>\n\n" * 2, b"data: {nonsense}\n\n", b'{"error": {"message": "no"}}'])
def test_what_is_no_stream_is_an_error_to_the_client(to: str, body: bytes) -> None:
    """A page of a proxy, broken JSON, a body that is no stream: one error event, and nothing raised."""
    moved = translation("openai_chat", to)
    out = moved.feed(body) + moved.finish()
    assert moved.failed
    reader = SPEAKERS[to].reader()
    assert isinstance((reader.feed(out) + reader.finish())[-1], Failed)


@pytest.mark.parametrize("from_", DIALECTS)
@pytest.mark.parametrize("to", DIALECTS)
def test_an_error_of_the_provider_is_passed_on(from_: str, to: str) -> None:
    """Its words survive; nothing follows."""
    moved = translation(from_, to)
    out = moved.feed(streamed(from_, [*EVENTS[:2], Failed(529, "try later")])) + moved.finish()
    assert moved.failed
    reader = SPEAKERS[to].reader()
    last = (reader.feed(out) + reader.finish())[-1]
    assert isinstance(last, Failed)
    assert "try later" in last.message


@pytest.mark.parametrize("from_", DIALECTS)
@pytest.mark.parametrize("to", DIALECTS)
@pytest.mark.parametrize("finish", FINISHES)
def test_every_way_to_finish_is_one_in_every_dialect(from_: DialectId, to: DialectId, finish: str) -> None:
    """A stream that is whole stays whole, whatever ended it; what was withheld never looks like a plain end."""
    events = [*EVENTS[:2], Finished(finish), EVENTS[3]]  # type: ignore[arg-type]  # it is one of them
    moved = translation(from_, to)
    out = moved.feed(streamed(from_, events)) + moved.finish()
    assert (moved.finished, moved.failed) == (True, False)
    reader = SPEAKERS[to].reader()
    ends = [event.finish for event in reader.feed(out) + reader.finish() if isinstance(event, Finished)]
    assert len(ends) == 1
    if finish in ("content_filter", "refusal"):
        assert ends[0] in ("content_filter", "refusal")
    elif finish == "length":
        assert ends == ["length"]
