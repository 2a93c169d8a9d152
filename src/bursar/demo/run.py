"""One run: the simulated provider, the real server, the agents, and what the ledger says afterwards.

Rule 1: nothing but loopback is called. The server's configuration is the demo's own file, so that no bursar.yaml of the
        user and no later change of it can send a call to a real provider.
Rule 2: what the demo makes is in one temporary directory, removed however the run ends. ``data`` alone is kept.
Rule 3: SIGINT and SIGTERM stop everything in order: agents, server, simulator, files.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, cast

from pyreqwest.exceptions import PyreqwestError

from bursar.adapters.data_dir import DataDir
from bursar.adapters.verify import verify
from bursar.compose import open_books_file, open_data, open_ledger, open_prices
from bursar.config import Settings, load_settings
from bursar.core.errors import BursarError, LedgerError
from bursar.server import Running, serve
from bursar.sim import Pace, Served, Simulator
from bursar.sim import serve as serve_simulator

from .agents import AGENTS, Work
from .client import Client, DemoError
from .summary import Summary, all_booked, summarize

__all__ = ["DEFAULT_PORT", "Finished", "Options", "run"]

DEFAULT_PORT: Final = 4000
_FIRST_TOKEN_MS: Final = 20.0
_TOKENS_PER_SECOND: Final = 3_000.0
_DRAIN_S: Final = 2
_BOOKED_WAIT_S: Final = 10.0
_ASK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """``speed`` 1 is a time lapse of some seconds, 2 is twice as fast. ``port`` None is 4000, or a free one."""

    seed: int
    speed: float
    port: int | None
    data: Path | None


class Finished(NamedTuple):
    """The agents are done; the server still runs at ``url`` on the directory ``data``."""

    summary: Summary
    url: str
    data: Path


async def run(
    options: Options,
    *,
    progress: Callable[[str], None],
    finished: Callable[[Finished], Awaitable[None]],
    once: bool,
) -> Summary | None:
    """Run the agents, call ``finished``, and without ``once`` serve until a signal. None when it came before the end.

    ``progress`` is called with an agent's name after each of its calls. Raises BursarError or OSError.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(RuntimeError, ValueError):  # not in the main thread: nobody signals there
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    simulator = _simulator(options)
    with TemporaryDirectory(prefix="bursar-demo-") as temporary, _no_proxy():
        place = Path(temporary)
        data = open_data(options.data or place / "data")
        async with serve_simulator(simulator) as served:
            config = place / "bursar.yaml"
            config.write_text(_config(served.url, _port(options.port)), encoding="utf-8")
            settings = load_settings(config)
            _check_empty(data, settings)
            listening: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
            serving = asyncio.create_task(serve(data, settings, config=config, started=listening.set_result, stop=stop))
            try:
                await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
                if serving.done():
                    await serving
                    return None
                url = listening.result().url
                summary = await _until(stop, _work(options, served, url, data, settings, progress))
                if summary is not None:
                    await finished(Finished(summary, url, data.path))
                    if not once:
                        await stop.wait()
            finally:
                stop.set()
                await serving
    return summary


def _simulator(options: Options) -> Simulator:
    now = time.time()
    # Its clock stands still: what a prompt cache still holds must not depend on how fast the run is.
    return Simulator(
        seed=options.seed,
        clock=lambda: now,
        pace=Pace(_FIRST_TOKEN_MS / options.speed, _TOKENS_PER_SECOND * options.speed),
    )


def _config(provider_url: str, port: int) -> str:
    """``bursar.yaml`` (JSON is YAML): the three providers are the simulated one."""
    providers = {name: {"base_url": provider_url + path} for name, path in _PROVIDERS.items()}
    return json.dumps({"server": {"port": port, "drain_s": _DRAIN_S}, "providers": providers})


_PROVIDERS: Final = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta"}


def _port(asked: int | None) -> int:
    """The port to listen on: the one asked for, else 4000, else any that is free."""
    if asked:
        return asked
    for port in (DEFAULT_PORT, 0) if asked is None else (0,):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise DemoError("this machine has no free port; name one with --port")


@contextmanager
def _no_proxy() -> Generator[None]:
    """The server reaches the simulator directly, whatever proxy the environment names."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    os.environ.update(dict.fromkeys(before, "127.0.0.1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check_empty(data: DataDir, settings: Settings) -> None:
    with closing(open_books_file(data, settings)) as books:
        if books.last_sequence():
            raise DemoError(
                f"the data directory {data.path} holds calls already; the demo's would mix with them: "
                "give --data a new directory, or leave it out"
            )


async def _until(stop: asyncio.Event, work: Awaitable[Summary]) -> Summary | None:
    """The result of ``work``, or None when it was stopped."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _work(
    options: Options,
    served: Served,
    url: str,
    data: DataDir,
    settings: Settings,
    progress: Callable[[str], None],
) -> Summary:
    client = Client(url, speed=options.speed)
    try:
        async with asyncio.TaskGroup() as group:
            for agent in AGENTS:
                group.create_task(agent.run(Work(client, options.seed, partial(progress, agent.name))))
    except* (BursarError, PyreqwestError) as failed:
        raise DemoError(f"the agents could not finish: {_first(failed)}") from failed
    finally:
        await client.close()
    await asyncio.to_thread(_wait_booked, data, settings, client.calls)
    return await asyncio.to_thread(_ask, options, served.simulator, data, settings, client.calls)


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failed.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first


def _wait_booked(data: DataDir, settings: Settings, calls: int) -> None:
    """A stream is settled after its end: wait until the ledger has every call. What stays away shows in the summary."""
    deadline = time.monotonic() + _BOOKED_WAIT_S
    while time.monotonic() < deadline:
        with (
            suppress(LedgerError),  # the server ships at the same time
            closing(open_books_file(data, settings)) as books,
            open_ledger(data, books) as ledger,
        ):
            if all_booked(ledger, calls):
                return
        time.sleep(_ASK_AGAIN_S)


def _ask(options: Options, simulator: Simulator, data: DataDir, settings: Settings, calls: int) -> Summary:
    with closing(open_books_file(data, settings)) as books, open_ledger(data, books) as ledger:
        return summarize(
            ledger,
            seed=options.seed,
            calls_made=calls,
            served=tuple(simulator.calls),
            prices=open_prices(data.path, settings),
            verification=verify(books, ledger),
        )
