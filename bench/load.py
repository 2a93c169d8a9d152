"""Load on one address: as much as it takes (``hammer``), or request by request (``one_by_one``).

Rule 1: ``wrk`` where there is one; else a load generator in this process, which is slower than what it measures: its
        figures are a lower limit, and the report says so.
Rule 2: an answer other than 200 is an error and never a request served.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError, pin, run

__all__ = ["WARM_UP", "Connection", "Load", "Request", "hammer", "one_by_one", "tool"]

WARM_UP = 20  # exchanges with each target before ``one_by_one`` counts


@dataclass(frozen=True, slots=True)
class Request:
    """One POST, the same each time."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def encoded(self, port: int) -> bytes:
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw. ``errors`` are answers that were not 200 and connections that broke."""

    requests: int
    seconds: float
    errors: int

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def tool() -> str:
    return "wrk" if shutil.which("wrk") else "a load generator in Python (no wrk here): read rates as lower limits"


def hammer(
    port: int, request: Request, directory: Path, *, connections: int, seconds: int, on: set[int] | None
) -> Load:
    """Closed loop: every connection sends its next request when the last is answered."""
    if not shutil.which("wrk"):
        return asyncio.run(_hammer(port, request, connections, seconds))
    script = directory / "wrk.lua"
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items())
    body = request.body.decode().replace("]]", "] ]")
    script.write_text(f'wrk.method = "POST"\n{headers}\nwrk.body = [[{body}]]\n', encoding="utf-8")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script]
    out = run([*command, f"http://127.0.0.1:{port}{request.path}"], preexec_fn=lambda: pin(on))
    done = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", out)
    if done is None:
        raise BenchError(f"wrk said nothing of requests: {out[-300:]}")
    errors = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    for broken in re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out):
        errors += sum(map(int, broken))
    scale = {"ms": 0.001, "s": 1.0, "m": 60.0}[done[3]]
    return Load(int(done[1]) - errors, float(done[2]) * scale, errors)


async def _hammer(port: int, request: Request, connections: int, seconds: float) -> Load:
    raw = request.encoded(port)
    until = time.perf_counter() + seconds
    requests = errors = 0

    async def client() -> None:
        nonlocal requests, errors
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.perf_counter() < until:
                writer.write(raw)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                await (reader.readexactly(int(length[1])) if length else reader.readuntil(b"0\r\n\r\n"))
                if head[9:12] == b"200":
                    requests += 1
                else:
                    errors += 1
        except (OSError, EOFError):
            errors += 1
        finally:
            writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return Load(requests, time.perf_counter() - begin, errors)


class Connection:
    """One kept-open connection, blocking: nothing of ours stands between the answer and the clock."""

    def __init__(self, port: int, request: Request, *, timeout_s: float = 10) -> None:
        self._raw = request.encoded(port)
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def exchange(self) -> tuple[float, float]:
        """Milliseconds to the first byte of the body, and to the last. Raises BenchError when it is not a 200."""
        begin = time.perf_counter()
        self._socket.sendall(self._raw)
        data = b""
        first = None
        while True:
            received = self._socket.recv(262_144)
            if not received:
                raise BenchError(f"the connection was closed after {data[:200]!r}")
            data += received
            head, end, body = data.partition(b"\r\n\r\n")
            if not end or not body:
                continue
            if first is None:
                first = time.perf_counter()
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n"):
                break
        if data[9:12] != b"200":
            raise BenchError(f"answered {data[:300]!r}")
        return (first - begin) * 1000, (time.perf_counter() - begin) * 1000


def one_by_one(targets: Sequence[tuple[int, Request]], *, count: int, per_s: float) -> list[list[tuple[float, float]]]:
    """``count`` exchanges with each target, in turns, so that a disturbance meets them all. Milliseconds."""
    connections = [Connection(port, request) for port, request in targets]
    found: list[list[tuple[float, float]]] = [[] for _ in targets]
    try:
        for _ in range(WARM_UP):
            for connection in connections:
                connection.exchange()
        pause = 1 / per_s / len(targets)
        due = time.perf_counter()
        for _ in range(count):
            for connection, taken in zip(connections, found, strict=True):
                due = max(due + pause, time.perf_counter())
                time.sleep(max(0.0, due - time.perf_counter()))
                taken.append(connection.exchange())
    finally:
        for connection in connections:
            connection.close()
    return found
