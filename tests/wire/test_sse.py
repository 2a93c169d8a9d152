"""A stream that begins with a byte order mark is the stream without it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.wire.sse import Splitter, event_data
from bursar.wire.translate.conversation import Began, StreamReader
from bursar.wire.translate.speakers import SPEAKERS

MARK = b"\xef\xbb\xbf"
FIRST: dict[str, dict[str, Any]] = {
    "openai_chat": {"id": "a", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant"}}]},
    "anthropic": {"type": "message_start", "message": {"id": "a", "model": "m", "content": [], "usage": {"input_tokens": 1}}},
    "gemini": {"responseId": "a", "modelVersion": "m", "candidates": []},
}  # fmt: skip


@pytest.mark.parametrize("dialect", FIRST)
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_first_event_is_not_lost(dialect: str, named: bool, end: bytes) -> None:
    """Wherever the mark is cut."""
    line = b"data: " + json.dumps(FIRST[dialect]).encode()
    stream = MARK + (b"event: first" + end if named else b"") + line + end + end

    def began(reader: StreamReader, pieces: list[bytes]) -> list[str]:
        events = [event for piece in pieces for event in reader.feed(piece)]
        return [event.id for event in events if isinstance(event, Began)]

    for at in (0, 1, 2, 3, 4):
        assert began(SPEAKERS[dialect].reader(), [stream[:at], stream[at:]]) == ["a"]


def test_the_bytes_of_an_event_keep_the_mark() -> None:
    """Who passes events on passes what came."""
    event = MARK + b"data: x\n\n"
    assert Splitter().feed_raw(event) == [event]
    assert event_data(event.strip(b"\n")) == b"x"
    assert event_data(b": " + MARK + b"data: y\ndata: x") == b"x"
