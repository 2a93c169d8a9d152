"""An MCP server behind the proxy, with a purse that only counts, for tests of what passes by."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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


class HttpServers:
    """Tool servers over HTTP, one process for each set of flags, started when it is asked for."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self._running: dict[tuple[str, ...], tuple[subprocess.Popen[bytes], str, Path]] = {}

    def get(self, *flags: str) -> tuple[str, Log]:
        """The server's URL, and what it runs from now on."""
        if flags not in self._running:
            port, log = free_port(), self._where / f"log{len(self._running)}"
            command = (sys.executable, str(SERVER), str(log), "http", str(port), *flags)
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            self._running[flags] = process, f"http://127.0.0.1:{port}/mcp", log
            _wait_for(port)
        _, url, log = self._running[flags]
        return url, Log(log)

    def stop(self, *flags: str) -> None:
        process, _, _ = self._running.pop(flags)
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        for flags in tuple(self._running):
            self.stop(*flags)


class Log:
    """The tools that a server ran since this was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = len(ran(path))

    def ran(self) -> list[str]:
        return ran(self._path)[self._before :]


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < deadline, "the tool server did not start"
            time.sleep(0.02)
        else:
            return


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
