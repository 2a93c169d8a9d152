"""Anthropic's streams as those that speak the dialect send them: interleaved, said twice, broken; cut anywhere."""

from __future__ import annotations

import json
from typing import Any

import client_sdks as sdks
import conversations as said
import pytest
from anthropic_speech import events_of

from bursar.wire.translate.conversation import (
    Began,
    Failed,
    Finished,
    TextDelta,
    ToolBegan,
    ToolDelta,
    ToolUse,
)
from bursar.wire.translate.speakers import SPEAKERS


def events_as_sse(*events: Any) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


START: dict[str, Any] = {"type": "message_start", "message": {"id": "m", "model": "c"}}
END: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}}


def block(index: int | None, content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "content_block": content} | ({} if index is None else {"index": index})


def more(index: int | None, kind: str, **delta: str) -> dict[str, Any]:
    event = {"type": "content_block_delta", "delta": {"type": kind, **delta}}
    return event | ({} if index is None else {"index": index})


def use(tool_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": tool_id, "name": "f", "input": arguments}


def json_piece(index: int | None, piece: str) -> dict[str, Any]:
    return more(index, "input_json_delta", partial_json=piece)


def test_arguments_of_blocks_that_come_interleaved_stay_with_their_tool() -> None:
    """A block is known by its index, not by its turn, whatever lies between; every dialect is told the same."""
    raw = events_as_sse(
        START, block(0, {"type": "text", "text": ""}), block(1, use("a")), block(2, use("b")), block(3, use("c")),
        json_piece(2, '{"y"'), json_piece(1, '{"x":'), more(0, "text_delta", text="Hm."), json_piece(1, "1}"),
        {"type": "content_block_stop", "index": 1}, json_piece(2, ":2}"), {"type": "content_block_stop", "index": 3},
        {"type": "content_block_stop", "index": 2}, {"type": "content_block_stop", "index": 0}, END,
    )  # fmt: skip
    heard = said.gathered(events_of([raw]))
    uses = [(part.id, part.arguments) for part in heard.parts if isinstance(part, ToolUse)]
    assert uses == [("a", '{"x":1}'), ("b", '{"y":2}'), ("c", "{}")]
    for dialect in ("openai_chat", "anthropic", "gemini"):
        writer = SPEAKERS[dialect].writer(model="m", created_s=0, asks_usage=True)
        once = b"".join([*map(writer.write, events_of([raw])), writer.close()])
        seen = sdks.calls_in(dialect, sdks.whole_of_stream(dialect, once))
        assert seen == [("f", {"x": 1}), ("f", {"y": 2}), ("f", {})]


@pytest.mark.parametrize("index", [0, None])
@pytest.mark.parametrize(
    ("given", "pieces", "arguments"),
    [
        ({"x": 1}, ['{"x":', " 1}"], '{"x": 1}'),
        ({"x": 1}, [], '{"x": 1}'),
        ({"x": 1}, [""], '{"x": 1}'),
        ({}, ["", '{"x": 1}'], '{"x": 1}'),
        ({}, [], "{}"),
    ],
)
@pytest.mark.parametrize("stopped", [True, False])
def test_arguments_in_the_start_of_a_block_are_told_once(
    given: Any, pieces: list[str], arguments: str, *, index: int | None, stopped: bool
) -> None:
    """As the SDK has it: what follows is all of them. Where nothing does, and no stop either, the start's are."""
    stop = [{"type": "content_block_stop"} | ({} if index is None else {"index": index})] if stopped else []
    raw = events_as_sse(
        START, block(index, use("a", **given)), *(json_piece(index, each) for each in pieces), *stop, END
    )
    told = events_of([raw])
    assert told[1] == ToolBegan(0, "a", "f")
    assert "".join(event.arguments for event in told if isinstance(event, ToolDelta)) == arguments
    assert told[-1] == Finished("tool_calls")


BROKEN = [
    events_as_sse(block(1, {"type": "container_upload", "file_id": "x"})),
    b"event: x\ndata: {no json\n\n",
    events_as_sse({**END, "delta": {"stop_reason": 5}}),
    events_as_sse(json_piece(0, "{}")),
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("start", [(START,), ()])
def test_what_came_before_a_broken_event_was_said_however_it_is_cut(broken: bytes, start: tuple[Any, ...]) -> None:
    """The client is told it and then of the error, in one chunk as in many; what follows is nothing."""
    whole = events_as_sse(*start, block(0, {"type": "text", "text": "Hello"})) + broken
    whole += events_as_sse(more(0, "text_delta", text="more"), END)
    *before, failed = events_of([whole])
    assert before == [*([Began("m", "c", None)] if start else []), TextDelta("Hello")]
    assert isinstance(failed, Failed)
    assert failed.status == 502
    for unit in (1, 7, 100):
        assert events_of([whole[at : at + unit] for at in range(0, len(whole), unit)]) == [*before, failed]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_comes_after_the_finish_breaks_nothing(broken: bytes) -> None:
    """The answer was whole."""
    whole = events_as_sse(START, block(0, {"type": "text", "text": "Hello"}), END)
    assert events_of([whole + broken]) == events_of([whole])
