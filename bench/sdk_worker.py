"""One side of the SDK benchmark, in the environment of the tool that it measures.

``python -m bench.sdk_worker start SIDE COLLECTOR DIRECTORY`` imports and starts the tool once and prints what that took.
``python -m bench.sdk_worker serve SIDE COLLECTOR DIRECTORY PORT`` makes rounds of calls as it is told over a connection.

Rule 1: a round ends when what its calls left to do in the background is done: its processor time is all of it.
Rule 2: nothing leaves this machine: every name but the loopback interface's is refused.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.sdk_sides import SIDES, Place, Ready

__all__ = ["main"]

_QUIET_S = 0.03
_QUIET_SHARE_MAX = 0.05
_QUIET_WITHIN_S = 10.0
_LOOPBACK = frozenset({"127.0.0.1", b"127.0.0.1", "localhost", b"localhost", None})


def main() -> int:
    verb, name, collector, directory, *rest = sys.argv[1:]
    place = Place(collector, Path(directory))
    _stay_here()
    if verb == "start":
        print(json.dumps(_start(name, place)), flush=True)
        os._exit(0)  # what the tool does at its end is not part of its start
    with socket.create_connection(("127.0.0.1", int(rest[0]))) as connection:
        _serve(name, place, connection)
    return 0


def _stay_here() -> None:
    look_up = socket.getaddrinfo

    def local(host: Any, *more: Any, **named: Any) -> Any:
        if host not in _LOOPBACK:
            raise OSError(f"{host!r} is not on this machine")
        return look_up(host, *more, **named)

    socket.getaddrinfo = local


def _start(name: str, place: Place) -> dict[str, float]:
    """The tool's import and start after those of `openai`, which its user has anyway."""
    importlib.import_module("openai")
    memory = _memory_kib()
    begin, cpu = time.perf_counter(), time.process_time()
    SIDES[name].set_up(place)
    return {
        "ms": (time.perf_counter() - begin) * 1000,
        "cpu_ms": (time.process_time() - cpu) * 1000,
        "memory_mib": (_memory_kib() - memory) / 1024,
    }


def _memory_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _serve(name: str, place: Place, connection: socket.socket) -> None:
    ready = SIDES[name].set_up(place)
    calls = _calls(ready)
    with asyncio.Runner() as runner, connection.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            asked = json.loads(line)
            done = _round(ready, calls, runner, asked["mode"], asked["calls"])
            lines.write(json.dumps(done) + "\n")
            lines.flush()


def _calls(ready: Ready) -> Any:
    from bench.sdk_stub import PLAIN_CALLS, Calls

    create, acreate = PLAIN_CALLS
    if ready.litellm:
        litellm = importlib.import_module("litellm")

        def create(client: Any, **asked: Any) -> Any:
            return litellm.completion(client=client, **asked)

        def acreate(client: Any, **asked: Any) -> Any:
            return litellm.acompletion(client=client, **asked)

    return Calls(create, acreate, importlib.import_module(ready.openai))


def _round(ready: Ready, calls: Any, runner: asyncio.Runner, mode: str, count: int) -> dict[str, Any]:
    from bench.sdk_stub import MODES

    work = getattr(calls, mode.replace(" ", "_"))
    cpu, wall = time.process_time(), time.perf_counter()
    _, awaits = MODES[mode]
    taken = runner.run(_awaited(ready, work, count)) if awaits else _called(ready, work, count)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    ready.flush()
    runner.run(_until_quiet())
    return {"taken_ns": taken, "cpu_us": (time.process_time() - cpu) * 1e6 / count, "share": share}


def _called(ready: Ready, work: Callable[[], None], count: int) -> list[int]:
    each, clock, taken = ready.around_each, time.perf_counter_ns, list[int]()
    with ready.around():
        for _ in range(count):
            begin = clock()
            if each is None:
                work()
            else:
                with each():
                    work()
            taken.append(clock() - begin)
    return taken


async def _awaited(ready: Ready, work: Callable[[], Awaitable[None]], count: int) -> list[int]:
    each, clock, taken = ready.around_each, time.perf_counter_ns, list[int]()
    with ready.around():
        for _ in range(count):
            begin = clock()
            if each is None:
                await work()
            else:
                with each():
                    await work()
            taken.append(clock() - begin)
    return taken


async def _until_quiet() -> None:
    """Until this process uses next to no processor time: its threads, and the tasks of its loop, have nothing to do."""
    deadline = time.monotonic() + _QUIET_WITHIN_S
    while time.monotonic() < deadline:
        before = time.process_time()
        await asyncio.sleep(_QUIET_S)
        if time.process_time() - before < _QUIET_S * _QUIET_SHARE_MAX:
            return


if __name__ == "__main__":
    sys.exit(main())
