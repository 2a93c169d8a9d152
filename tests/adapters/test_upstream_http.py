"""One attempt over HTTP: what it is known to be when it is left, or when its stream ends in its own way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest

from bursar.adapters.upstream_http import HttpAttempt, ProviderClient
from bursar.engine.ports import HttpRequest
from bursar.wire.dialect import RequestFacts
from bursar.wire.providers import dialect_by_id

FACTS = RequestFacts(operation="chat_completions", model="asked", stream=True, input_tokens_estimate=7)
USAGE: Final = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": choices, **more}).encode() + b"\n\n"


HELLO, STOP, STATED, DONE = (
    chunk({"content": "hello"}),
    chunk({}, "stop"),
    chunk(None, usage=USAGE),
    b"data: [DONE]\n\n",
)
ANTHROPIC: Final = [
    {"type": "message_start", "message": {"id": "m", "model": "m", "usage": {"input_tokens": 5, "output_tokens": 1}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
MESSAGES = [b"event: " + str(e["type"]).encode() + b"\ndata: " + json.dumps(e).encode() + b"\n\n" for e in ANTHROPIC]


class Listener:
    """The client's end: it keeps what it was sent."""

    def __init__(self) -> None:
        self.got = b""

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        assert status == 200

    async def write(self, chunk: bytes) -> None:
        self.got += chunk


@asynccontextmanager
async def attempt(
    parts: list[bytes],
    *,
    dialect: str = "openai_chat",
    ends: bool,
    resets: bool = False,
    kind: str = "text/event-stream",
) -> AsyncIterator[tuple[HttpAttempt, Listener]]:
    """An attempt at a provider that sends these parts, and then ends its answer, breaks the connection off, or just keeps it open."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
            writer.write(head.encode())
            for part in parts:
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            if ends:
                writer.write(b"0\r\n\r\n")
            await writer.drain()
            if not resets:
                await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = ProviderClient(connect_timeout_s=5, read_timeout_s=20, call_timeout_s=20, answer_bytes_max=1 << 20)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    listener = Listener()
    request = HttpRequest("POST", url, (), b"{}", stream=True)
    try:
        yield (
            client.attempt(request, dialect_by_id(dialect), FACTS, listener, hide_usage=False, allowance=None),
            listener,
        )
    finally:
        over.set()
        await client.close()
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("dialect", "parts", "status", "finish", "estimated"),
    [
        ("openai_chat", [HELLO, STOP, STATED, DONE], "ok", "stop", False),
        ("openai_chat", [HELLO, STOP, STATED], "cancelled", "stop", False),
        ("openai_chat", [HELLO, STOP, DONE], "cancelled", "stop", True),
        ("openai_chat", [HELLO], "cancelled", "", True),
        ("openai_chat", [HELLO, STOP, STATED, chunk(None, error={"message": "no"}), DONE], "cancelled", "stop", False),
        ("anthropic", MESSAGES, "ok", "end_turn", False),
        ("anthropic", MESSAGES[:-1], "cancelled", "end_turn", False),
    ],
)
async def test_what_is_left_after_its_end_was_answered(
    dialect: str, parts: list[bytes], status: str, finish: str, estimated: bool
) -> None:
    """Clients close a stream at its last event, while the provider's connection may stay open: once the end and the usage were
    seen nothing is missing. Before that, or with an error in it, the answer was cancelled."""
    async with attempt(parts, dialect=dialect, ends=False) as (made, listener):
        sending = asyncio.create_task(made.exchange())
        await until(lambda: listener.got == b"".join(parts))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        reply = made.interrupted()
        assert (reply.status, reply.reading.finish, reply.reading.estimated) == (status, finish, estimated)
        assert reply.reading.usage is not None


async def test_a_body_in_place_of_a_stream_is_whole_once_it_can_be_read() -> None:
    """Half of one is cancelled and estimated; all of it is an answer."""
    body = json.dumps({"id": "c", "model": "m", "usage": USAGE, "choices": [{"finish_reason": "stop"}]}).encode()
    for parts, status in (([body[:30]], "cancelled"), ([body[:30], body[30:]], "ok")):
        async with attempt(parts, ends=False, kind="application/json") as (made, listener):
            sending = asyncio.create_task(made.exchange())
            await until(lambda listener=listener, parts=parts: listener.got == b"".join(parts))
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert made.interrupted().status == status


@pytest.mark.parametrize(
    ("dialect", "parts", "error"),
    [
        ("openai_chat", [HELLO, STOP, STATED, DONE], ""),
        ("openai_chat", [HELLO, STOP, STATED], "the provider ended the stream without its last event"),
        ("anthropic", MESSAGES, ""),
        ("anthropic", MESSAGES[:-1], "the provider ended the stream without its last event"),
    ],
)
async def test_a_stream_without_its_last_event_says_so(dialect: str, parts: list[bytes], error: str) -> None:
    """All that counts came, and the client has it as it was sent: it is an answer, but not one to be given again."""
    async with attempt(parts, dialect=dialect, ends=True) as (made, listener):
        reply = await made.exchange()
        assert (reply.status, reply.reading.error, reply.reading.estimated) == ("ok", error, False)
        assert listener.got == b"".join(parts)


@pytest.mark.parametrize(
    ("parts", "status"), [([HELLO, STOP, STATED, DONE], "ok"), ([HELLO, STOP, STATED], "cut"), ([HELLO], "cut")]
)
async def test_a_connection_that_breaks_after_the_end_breaks_nothing(parts: list[bytes], status: str) -> None:
    """What was still to come is nothing that anybody waits for."""
    async with attempt(parts, ends=False, resets=True) as (upstream, listener):
        reply = await upstream.exchange()
        assert (reply.status, b"upstream_cut" in listener.got) == (status, status == "cut")
        assert reply.reading.error == "" if status == "ok" else reply.reading.error
