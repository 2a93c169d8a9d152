"""One run: the simulated provider, the real server, the agents, and what the ledger says afterwards.

Rule 1: nothing but loopback is called. The server's configuration is the demo's own file, so that no bursar.yaml of the
        user and no later change of it can send a call to a real provider.
Rule 2: what the demo makes is in one temporary directory, removed however the run ends. ``data`` alone is kept.
Rule 3: SIGINT and SIGTERM stop everything in order: agents, server, simulator, files.
Rule 4: the ledger is asked when the agents' server has stopped; the console is served by a second one.
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
from bursar.config import CONFIG_NAME, Settings, load_settings
from bursar.core.errors import BursarError
from bursar.server import Running, serve
from bursar.sim import Pace, Simulator
from bursar.sim import serve as serve_simulator

from .agents import AGENTS, Work
from .client import Client, DemoError
from .summary import Summary, summarize

__all__ = ["DEFAULT_PORT", "Finished", "Options", "run"]

DEFAULT_PORT: Final = 4000
_FIRST_TOKEN_MS: Final = 20.0
_TOKENS_PER_SECOND: Final = 3_000.0
_DRAIN_S: Final = 2


@dataclass(frozen=True, slots=True)
class Options:
    """``speed`` 1 is a time lapse of some seconds, 2 is twice as fast. ``port`` None is 4000, or a free one."""

    seed: int
    speed: float
    port: int | None
    data: Path | None


class Finished(NamedTuple):
    """The agents are done. ``url`` is where the console is served, None where it is not; ``data`` is the directory."""

    summary: Summary
    url: str | None
    data: Path


async def run(
    options: Options, *, progress: Callable[[str], None], finished: Callable[[Finished], Awaitable[None]], once: bool
) -> Summary | None:
    """Run the agents, call ``finished``, and without ``once`` serve until a signal. None when it came before the end.

    ``progress`` is called with an agent's name after each of its calls. Raises BursarError or OSError.
    """
    stop = asyncio.Event()
    _on_signals(stop)
    simulator = _simulator(options)
    with TemporaryDirectory(prefix="bursar-demo-") as temporary, _no_proxy():
        data = open_data(options.data or Path(temporary) / "data")
        async with serve_simulator(simulator) as served:
            config = Path(temporary) / CONFIG_NAME
            config.write_text(_config(served.url, _port(options.port)), encoding="utf-8")
            place = _Place(data, config, load_settings(config))
            _check_empty(place)
            calls = await _agents_at_work(options, place, stop, progress)
            if calls is None:
                return None
            # The server has stopped: every call is settled, and nobody else has the ledger.
            summary = await asyncio.to_thread(_ask, options, simulator, place, calls)
            if once:
                await finished(Finished(summary, None, data.path))
            else:
                await place.serve(lambda running: finished(Finished(summary, running.url, data.path)), stop)
    return summary


class _Place(NamedTuple):
    data: DataDir
    config: Path
    settings: Settings

    async def serve(self, started: Callable[[Running], Awaitable[None] | None], stop: asyncio.Event) -> None:
        await serve(self.data, self.settings, config=self.config, started=started, stop=stop)


def _on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(RuntimeError, ValueError):  # not in the main thread: nobody signals there
            asyncio.get_running_loop().add_signal_handler(number, stop.set)


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


def _check_empty(place: _Place) -> None:
    with closing(open_books_file(place.data, place.settings)) as books:
        if books.last_sequence():
            raise DemoError(
                f"the data directory {place.data.path} holds calls already; the demo's would mix with them: "
                "give --data a new directory, or leave it out"
            )


async def _agents_at_work(
    options: Options, place: _Place, stop: asyncio.Event, progress: Callable[[str], None]
) -> int | None:
    """How many calls the agents made through a server of their own, which has stopped; None when ``stop`` came first."""
    halt = asyncio.Event()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def started(running: Running) -> None:
        _on_signals(stop)  # the server took the signals for its own event, but the agents stop first
        listening.set_result(running.url)

    serving = asyncio.create_task(place.serve(started, halt))
    stopping = asyncio.create_task(stop.wait())
    working: asyncio.Task[int] | None = None
    try:
        await asyncio.wait((serving, listening), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving  # it raises what kept it from listening
        working = asyncio.create_task(_work(options, listening.result(), progress))
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        if working is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        halt.set()
        await serving


async def _work(options: Options, url: str, progress: Callable[[str], None]) -> int:
    client = Client(url, speed=options.speed)
    try:
        async with asyncio.TaskGroup() as group:
            for agent in AGENTS:
                group.create_task(agent.run(Work(client, options.seed, partial(progress, agent.name))))
    except* (BursarError, PyreqwestError) as failed:
        raise DemoError(f"the agents could not finish: {_first(failed)}") from failed
    finally:
        await client.close()
    return client.calls


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failed.exceptions[0]
    return _first(cast("BaseExceptionGroup[BaseException]", first)) if isinstance(first, BaseExceptionGroup) else first


def _ask(options: Options, simulator: Simulator, place: _Place, calls: int) -> Summary:
    with closing(open_books_file(place.data, place.settings)) as books, open_ledger(place.data, books) as ledger:
        return summarize(
            ledger,
            seed=options.seed,
            calls_made=calls,
            served=tuple(simulator.calls),
            prices=open_prices(place.data.path, place.settings),
            verification=verify(books, ledger),
        )
