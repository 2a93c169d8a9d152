"""An MCP server behind the proxy, with a purse that only counts, for tests of what passes by."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bursar.adapters.http_server import HttpServer
from bursar.doors.mcp.http import McpProxy, make_client
from bursar.doors.mcp.metering import Call, Outcome, Refused, ServerName

SERVER = Path(__file__).with_name("tool_server.py")


@dataclass
class CountingPurse:
    """Grants what it has room for, and remembers everything."""

    room: int = 1_000_000
    began: list[str] = field(default_factory=list)
    ended: list[tuple[str, Outcome]] = field(default_factory=list)

    async def begin(self, call: Call, /) -> str | Refused:
        if len(self.began) >= self.room:
            return Refused("there is no more money", {"budget": "test", "left": 0})
        self.began.append(call.tool)
        return call.tool

    async def end(self, granted: str, outcome: Outcome, /) -> None:
        self.ended.append((granted, outcome))

    def statuses(self) -> list[tuple[str, str]]:
        return [(tool, outcome.status) for tool, outcome in self.ended]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        await asyncio.sleep(0.02)


def ran(log: Path) -> list[str]:
    """The tools that the server ran, in order."""
    return log.read_text().split() if log.exists() else []


@asynccontextmanager
async def http_server(log: Path, *flags: str) -> AsyncIterator[str]:
    """The tool server over HTTP in a process of its own; its URL."""
    port = free_port()
    command = (sys.executable, str(SERVER), str(log), "http", str(port), *flags)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        with suppress(ProcessLookupError):  # a tool may have ended it
            process.kill()
        await process.wait()


@asynccontextmanager
async def proxied(url: str, purse: CountingPurse, name: str = "") -> AsyncIterator[str]:
    """The proxy in front of a server; its URL."""
    client = make_client()
    proxy = McpProxy(url, purse, ServerName(name, "host"), client, clock_s=time.monotonic)
    server = HttpServer(proxy, "127.0.0.1", 0)
    await server.start()
    try:
        yield f"{server.url}/mcp"
    finally:
        await server.stop(0.5)
        await proxy.close()
        await client.close()
