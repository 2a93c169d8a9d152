"""A process with the SDK door open in front of simulated providers, and what it left in the books."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import openai
from google import genai
from google.genai import types

import bursar
from bursar.adapters.data_dir import DataDir
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.rows import Row, decode_row
from bursar.adapters.verify import verify
from bursar.compose import open_books_file, open_ledger
from bursar.config import Settings
from bursar.core.prices import Reading, charge
from bursar.sim import Call, Served, Simulator, serve

GPT, HAIKU, FLASH, EMBEDDING = "gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash", "text-embedding-3-small"
QUESTION: list[Any] = [{"role": "user", "content": "How is the weather?"}]
CHAT: dict[str, Any] = {"model": GPT, "messages": QUESTION}
MESSAGES: dict[str, Any] = {"model": HAIKU, "messages": QUESTION, "max_tokens": 3000}


@dataclass(frozen=True)
class Sims:
    """The three providers, each at a port of its own."""

    openai: Served
    anthropic: Served
    google: Served

    @property
    def all(self) -> tuple[Served, ...]:
        return (self.openai, self.anthropic, self.google)

    def served(self) -> int:
        return sum(each.simulator.served for each in self.all)


@contextmanager
def simulated() -> Iterator[Sims]:
    """The simulators in a thread of their own, so that synchronous clients can ask them."""
    ready: threading.Event = threading.Event()
    found: list[Sims] = []
    stop: list[Callable[[], None]] = []

    async def run() -> None:
        async with serve(Simulator(seed=7)) as one, serve(Simulator(seed=8)) as two, serve(Simulator(seed=9)) as three:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            stop.append(lambda: loop.call_soon_threadsafe(ended.set))
            found.append(Sims(one, two, three))
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="simulators")
    thread.start()
    assert ready.wait(20)
    yield found[0]
    stop[0]()
    thread.join(20)
    assert not thread.is_alive()


@dataclass
class Room:
    """One data directory, the simulators, and the clients of the official SDKs."""

    path: Path
    sims: Sims
    more: str = ""
    proved: bool = True
    clients: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = DataDir(self.path)
        self.config = self.path / "bursar.yaml"
        self.configure(self.more)

    # --- setting up -------------------------------------------------------------------------------------------

    def configure(self, more: str = "") -> None:
        """Write bursar.yaml: the simulators as providers, and ``more``."""
        self.config.write_text(
            "providers:\n"
            f"  openai: {{base_url: '{self.sims.openai.url}/v1'}}\n"
            f"  anthropic: {{base_url: '{self.sims.anthropic.url}'}}\n"
            f"  google: {{base_url: '{self.sims.google.url}'}}\n" + more
        )

    def init(self, **options: Any) -> None:
        bursar.init(**{"data": self.path, "config": self.config, **options})

    def openai(self, **options: Any) -> openai.OpenAI:
        client = openai.OpenAI(**{**self._openai, **options})
        self.clients.append(client)
        return client

    def openai_async(self, **options: Any) -> openai.AsyncOpenAI:
        """For ``async with``: it must be closed in its own loop."""
        return openai.AsyncOpenAI(**{**self._openai, **options})

    @property
    def _openai(self) -> dict[str, Any]:
        return {"api_key": "sk-test", "base_url": f"{self.sims.openai.url}/v1", "max_retries": 0}

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        client = anthropic.Anthropic(
            **{"api_key": "sk-test", "base_url": self.sims.anthropic.url, "max_retries": 0, **options}
        )
        self.clients.append(client)
        return client

    def anthropic_async(self, **options: Any) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            **{"api_key": "sk-test", "base_url": self.sims.anthropic.url, "max_retries": 0, **options}
        )

    def google(self, **options: Any) -> genai.Client:
        client = genai.Client(
            api_key="k-test", http_options=types.HttpOptions(base_url=self.sims.google.url, **options)
        )
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        bursar.shutdown()
        if self.proved:
            self.prove()

    # --- what is in the books ---------------------------------------------------------------------------------

    def rows(self, **columns: Any) -> list[Row]:
        """The attempts that ended, in the order of their endings; those whose columns are as given."""
        if bursar_is_on():
            assert bursar.flush(10)
        with closing(self.books()) as books:
            rows = [decode_row(entry.row) for entry in books.endings_after(0, 1_000_000)]
        return [row for row in rows if all(getattr(row, name) == value for name, value in columns.items())]

    def row(self, **columns: Any) -> Row:
        (row,) = self.rows(**columns)
        return row

    def books(self) -> Any:
        return open_books_file(self.data, Settings())

    def held(self) -> int:
        """Holds that have not ended."""
        if bursar_is_on():
            assert bursar.flush(10)
        with closing(self.books()) as books:
            return books.open_holds()

    def spans(self, **columns: Any) -> list[dict[str, Any]]:
        """What was noted of tasks, agents and tools, by the time they began."""
        if bursar_is_on():
            assert bursar.flush(10)
        with closing(self.books()) as books, open_ledger(self.data, books) as ledger:
            rows = ledger.rows("SELECT * FROM span ORDER BY started_at, sequence")
        return [row for row in rows if all(row[name] == value for name, value in columns.items())]

    def outcomes(self) -> list[dict[str, Any]]:
        if bursar_is_on():
            assert bursar.flush(10)
        with closing(self.books()) as books, open_ledger(self.data, books) as ledger:
            return ledger.rows("SELECT * FROM outcome ORDER BY sequence")

    def prove(self, *, open_holds: int = 0) -> None:
        """Books and ledger agree to the last figure, and nothing is held any more."""
        with closing(self.books()) as books, open_ledger(self.data, books) as ledger:
            found = verify(books, ledger)
            assert found.differences == ()
            assert found.open_holds == open_holds

    def served(self, provider: str = "openai") -> list[Call]:
        return list(getattr(self.sims, provider).simulator.calls)

    def price(self, provider: str = "openai") -> int:
        """What the provider has billed so far, in nano-USD, worked out beside the door."""
        return sum(price_of(provider, call) or 0 for call in self.served(provider) if call.usage is not None)


def bursar_is_on() -> bool:
    from bursar.doors.sdk.session import active

    return active() is not None


def price_of(provider: str, call: Call) -> int | None:
    """The charge of what the simulator billed, worked out beside the door, in nano-USD."""
    reading = Reading(usage=call.usage, model=call.model)
    return charge(reading, bundled_book(), provider=provider, model=call.model, at=datetime.now(timezone.utc)).amount


# --- a provider of our own making -------------------------------------------------------------------------------


@dataclass
class Seen:
    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def header(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}


class Script:
    """An HTTP server that answers as it is told and remembers what it was sent, byte for byte."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.status = 200
        self.headers: list[tuple[str, str]] = [("content-type", "application/json")]
        self.body: bytes | list[bytes] = b"{}"
        self.delay_s = 0.0
        self.pause_s = 0.0
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("content-length", "0"))
                body = self.rfile.read(length)
                script.seen.append(Seen(self.command, self.path, list(self.headers.items()), body))
                time.sleep(script.delay_s)
                parts = script.body if isinstance(script.body, list) else [script.body]
                self.send_response_only(script.status)
                for name, value in script.headers:
                    self.send_header(name, value)
                self.send_header("content-length", str(sum(map(len, parts))))
                self.end_headers()
                with suppress(OSError):  # a client that goes away is what some tests are about
                    for part in parts:
                        self.wfile.write(part)
                        time.sleep(script.pause_s)

            do_GET = answer  # noqa: N815 - the name that http.server looks for
            do_POST = answer  # noqa: N815 - as above

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # connections that clients reset

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Returns when the condition holds; raises TimeoutError when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s")
        time.sleep(0.02)


# --- other processes --------------------------------------------------------------------------------------------


def python(code: str, *, env: dict[str, str] | None = None, timeout_s: float = 50) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONWARNINGS": "default", **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def answered(done: subprocess.CompletedProcess[str]) -> Any:
    """What a process printed last, as JSON; what went wrong otherwise."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def setup_of(room: Room) -> str:
    """The first lines of a process that shares this room: an open door, and ``ask`` that makes one call. It loads no SDK, which
    would take longer than all that it does."""
    return f"""
import json, os, sys, time
import bursar, httpx2
bursar.init(data={str(room.path)!r}, config={str(room.config)!r})
client = httpx2.Client(base_url={room.sims.openai.url!r}, headers={{"authorization": "Bearer sk-test"}}, timeout=30)
def ask(headers=None, **more):
    answer = client.post("/v1/chat/completions", json={{**{CHAT!r}, **more}}, headers=headers)
    assert answer.status_code == 200, answer.text
"""
