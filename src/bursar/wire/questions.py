"""What of a request is its question, and what of an answer is its text: for finding questions that are alike.

Rule 1: the question is the text of the last turn, where that is a user's and nothing but text. All before it, who says it, the
        system prompt, the tools and every parameter are its context, and two contexts are equal or different.
Rule 2: an answer has a text where it is nothing but text: one that asks for tools has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from .canonical import digest
from .dialect import BadRequest
from .translate.conversation import Speaker, Text, TextDelta, Thinking, ToolBegan, Untranslatable

__all__ = ["Question", "answer_text", "question_of"]

_encode: Final = msgspec.json.Encoder(order="sorted").encode


class Question(NamedTuple):
    """``context`` is a digest: equal for questions that were asked in the same situation."""

    text: str
    context: str


def question_of(speaker: Speaker, path: str, query: str, body: bytes) -> Question | None:
    """The question of a request, None where it has none that could be compared."""
    try:
        asked = speaker.read_request(path, query, body)
    except (Untranslatable, BadRequest):
        return None
    last = asked.messages[-1] if asked.messages else None
    if last is None or last.role != "user" or asked.choices != 1:
        return None
    texts = [part.text for part in last.parts if isinstance(part, Text)]
    if not texts or len(texts) != len(last.parts):
        return None
    messages = (*asked.messages[:-1], replace(last, parts=()))
    context = replace(asked, messages=messages, stream=False, asks_usage=False)
    return Question("\n".join(texts), digest(_encode(context)))


def answer_text(speaker: Speaker, body: bytes, *, stream: bool) -> str | None:
    """The text of an answer as it was sent to a client, None where it is not only text."""
    try:
        if not stream:
            parts = speaker.read_answer(body).parts
            if not all(isinstance(part, Text | Thinking) for part in parts):
                return None
            return "".join(part.text for part in parts if isinstance(part, Text)) or None
        reader = speaker.reader()
        events = [*reader.feed(body), *reader.finish()]
    except ValueError:
        return None
    if any(isinstance(event, ToolBegan) for event in events):
        return None
    return "".join(event.text for event in events if isinstance(event, TextDelta)) or None
