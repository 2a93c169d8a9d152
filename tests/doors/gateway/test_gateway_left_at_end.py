"""Clients that close a stream at its last event, while the provider's connection is still open."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, GPT, House, gateway, until

from bursar.config import Cache, ProviderSettings, Settings

BODY: dict[str, Any] = {**CHAT, "temperature": 0, "stream": True}
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": GPT}
EVENTS = (
    {**CHUNK, "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": None}]},
    {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {**CHUNK, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}},
)
STREAM = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in EVENTS) + b"data: [DONE]\n\n"


@asynccontextmanager
async def lingering(fails: int = 0) -> AsyncIterator[str]:
    """A provider that fails so often, and then sends its whole stream and keeps the connection open."""
    left = [fails]
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not over.is_set():
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head.lower())[0]))
                if left[0]:
                    left[0] -= 1
                    writer.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                writer.write(b"%x\r\n%b\r\n" % (len(STREAM), STREAM))
                await writer.drain()
                await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        over.set()
        server.close()


async def ask_and_leave(house: House, task: str, body: dict[str, Any] = BODY) -> bytes:
    """Ask, and close the connection at [DONE], or at a refusal's end."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\nx-bursar-task: {task}\r\n"
    writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content)
    got = b""
    async with asyncio.timeout(5):
        while b"[DONE]" not in got and b"500" not in got[:20] and (more := await reader.read(65_536)):
            got += more
    writer.close()
    return got


@pytest.mark.parametrize("routes", [{}, {"*": {"cache": {"ttl": "1h"}}}], ids=["no route", "route"])
async def test_leaving_at_the_last_event_is_an_answer(tmp_path: Path, routes: dict[str, Any]) -> None:
    """It is booked as one, with the usage that was stated; on a route it is kept, and given to the next who asks."""
    async with lingering() as url:
        settings = Settings(
            routes=routes, cache=Cache(store="memory"), providers={"openai": ProviderSettings(base_url=url)}
        )
        async with gateway(tmp_path, settings=settings) as house:
            first = await ask_and_leave(house, "a")
            row = await house.row("a")
            assert (row["status"], row["finish"], row["estimated"], row["error"]) == ("ok", "stop", False, "")
            assert (row["input_tokens"], row["output_tokens"]) == (5, 2)
            if routes:
                again = await ask_and_leave(house, "b")
                assert b"x-bursar-cache: exact" in again
                stream = first[first.index(b"data: ") : first.index(b"[DONE]")]
                assert stream in again


async def test_a_probe_that_is_left_at_its_end_closes_the_breaker(tmp_path: Path) -> None:
    """The provider has answered it, whoever still listens."""

    async def state(house: House) -> str:
        text = (await house.client.get("/metrics")).text
        return re.findall(r"^bursar_breaker_state\{.*\} (\d)", text, re.MULTILINE)[0]

    async with lingering(fails=2) as url:
        route = {"rungs": [f"openai/{GPT}"], "attempts": 1, "breaker": {"in_a_row": 2, "open": "1s"}}
        settings = Settings(routes={"r": route}, providers={"openai": ProviderSettings(base_url=url)})
        async with gateway(tmp_path, settings=settings) as house:
            for task in ("a", "b"):
                await ask_and_leave(house, task, {**BODY, "model": "r"})
                await house.row(task)
            closed = "0"
            assert await state(house) != closed
            await asyncio.sleep(1.2)
            await ask_and_leave(house, "c", {**BODY, "model": "r"})
            await until(lambda: house.rows("c") != [])
            assert await state(house) == closed
