"""What of a request is its question: two that could get different answers are never the same question in the same context."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.wire.questions import Question, answer_text, question_of
from bursar.wire.translate.speakers import SPEAKERS

CHAT = "/v1/chat/completions"
ASKED = "Where is my order?"


def question(*messages: dict[str, Any], **more: Any) -> Question | None:
    body = {"model": "m", "messages": list(messages), **more}
    return question_of(SPEAKERS["openai_chat"], CHAT, "", json.dumps(body).encode())


def user(content: Any = ASKED, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


SYSTEM = {"role": "system", "content": "You sell boats."}


@pytest.mark.parametrize(
    "other",
    [
        question(SYSTEM, user(name="alice")),
        question(SYSTEM, user(name="bob")),
        question(SYSTEM, user("hi"), {"role": "assistant", "content": "Hello."}, user()),
        question({**SYSTEM, "content": "You sell cars."}, user()),
        question(SYSTEM, user(), temperature=0),
        question(SYSTEM, user(), tools=[{"type": "function", "function": {"name": "orders"}}]),
    ],
)
def test_who_asks_and_everything_before_it_is_the_context(other: Question | None) -> None:
    assert other is not None
    plain = question(SYSTEM, user())
    assert plain is not None
    assert other.text == plain.text == ASKED
    assert other.context != plain.context


def test_two_speakers_are_two_contexts() -> None:
    """The names differ, the words do not."""
    found = [question(SYSTEM, user(name=name)) for name in ("alice", "bob", "alice")]
    assert found[0] == found[2] != found[1]


def test_an_instruction_is_no_question_of_the_users() -> None:
    """The same words at the end, said by the system and by the user."""
    said_by_system = question(SYSTEM, user("hi"), {"role": "system", "content": ASKED})
    said_by_user = question(SYSTEM, user("hi"), user())
    assert said_by_system is not None
    assert said_by_user is not None
    assert said_by_system.context != said_by_user.context


def test_how_an_answer_is_sent_is_no_part_of_the_context() -> None:
    plain = question(SYSTEM, user())
    assert plain is not None
    assert question(SYSTEM, user(), stream=True, stream_options={"include_usage": True}) == plain
    other = question(SYSTEM, user("Where is my boat?"))
    assert other is not None
    assert (other.text, other.context) == ("Where is my boat?", plain.context)


@pytest.mark.parametrize(
    "found",
    [
        question(user(), n=2),
        question(user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])),
        question(user(), {"role": "assistant", "content": "At"}),
        question({"role": "tool", "tool_call_id": "x", "content": "1"}),
        question(),
        question(user([])),
    ],
)
def test_what_cannot_be_compared_is_no_question(found: Question | None) -> None:
    """Several answers, pictures, beginnings of answers, results of tools, and nothing at all."""
    assert found is None


def test_the_text_of_an_answer_is_all_of_it_or_nothing() -> None:
    """Whole and as a stream; one that asks for a tool, or cannot be read, has none."""
    chat = SPEAKERS["openai_chat"]
    call = {"id": "x", "function": {"name": "f", "arguments": "{}"}}

    def whole(**message: Any) -> bytes:
        return json.dumps({"id": "a", "choices": [{"message": message, "finish_reason": "stop"}]}).encode()

    def stream(*deltas: dict[str, Any]) -> bytes:
        chunks = [{"id": "a", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)

    assert answer_text(chat, whole(content="It sails."), stream=False) == "It sails."
    assert answer_text(chat, whole(content="It", tool_calls=[call]), stream=False) is None
    assert answer_text(chat, b"{}", stream=False) is None
    assert answer_text(chat, stream({"content": "It "}, {"content": "sails."}), stream=True) == "It sails."
    assert answer_text(chat, stream({"content": "It"}, {"tool_calls": [{"index": 0, **call}]}), stream=True) is None
    assert answer_text(chat, b"{}", stream=True) is None
