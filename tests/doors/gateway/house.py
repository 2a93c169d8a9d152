"""A real gateway in front of two simulated providers, in the test's own event loop, proved clean when it ends."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from bursar.adapters.books_file import BooksFile
from bursar.adapters.data_dir import DataDir
from bursar.adapters.http_server import HttpServer
from bursar.adapters.keys import KeyStore
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.rows import Row, decode_row
from bursar.adapters.verify import verify
from bursar.compose import now_us, open_books_file, open_ledger
from bursar.config import ProviderSettings, Server, Settings
from bursar.core.prices import Reading, charge
from bursar.core.scopes import Scope
from bursar.core.usage import Usage
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.server import serve
from bursar.sim import Call, Served, Simulator
from bursar.sim import serve as simulate

GPT = "gpt-4o-mini"
HAIKU = "claude-haiku-4-5"
FLASH = "gemini-2.5-flash"
KEY = "sk-client-own-key-1234567890"

_numbers = itertools.count(1)

CHAT: dict[str, Any] = {"model": GPT, "messages": [{"role": "user", "content": "How is the weather?"}]}
RESPONSES: dict[str, Any] = {"model": GPT, "input": "How is the weather?"}
MESSAGES: dict[str, Any] = {**CHAT, "model": HAIKU, "max_tokens": 3000}
GENERATE: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "How is the weather?"}]}]}


@dataclass(frozen=True)
class Ask:
    """One way to ask: a dialect, whole or streamed."""

    provider: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    stream: bool = False
    query: str = ""

    @property
    def target(self) -> str:
        return self.path + (f"?{self.query}" if self.query else "")

    @property
    def content(self) -> bytes:
        return json.dumps(self.body).encode()

    def __str__(self) -> str:
        return f"{self.path.rpartition('/')[2]}{'-stream' if self.stream else ''}{self.query and '-' + self.query[:3]}"


_OPENAI = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
_ANTHROPIC = {"x-api-key": KEY, "anthropic-version": "2023-06-01", "content-type": "application/json"}
_GEMINI = {"x-goog-api-key": KEY, "content-type": "application/json"}
_MODEL = f"/v1beta/models/{FLASH}"

WHOLE = (
    Ask("openai", "/v1/chat/completions", _OPENAI, CHAT),
    Ask("openai", "/v1/responses", _OPENAI, RESPONSES),
    Ask("anthropic", "/v1/messages", _ANTHROPIC, MESSAGES),
    Ask("google", f"{_MODEL}:generateContent", _GEMINI, GENERATE),
)
STREAMS = (
    Ask("openai", "/v1/chat/completions", _OPENAI, {**CHAT, "stream": True}, stream=True),
    Ask("openai", "/v1/responses", _OPENAI, {**RESPONSES, "stream": True}, stream=True),
    Ask("anthropic", "/v1/messages", _ANTHROPIC, {**MESSAGES, "stream": True}, stream=True),
    Ask("google", f"{_MODEL}:streamGenerateContent", _GEMINI, GENERATE, stream=True, query="alt=sse"),
)
EMBEDDINGS = Ask("openai", "/v1/embeddings", _OPENAI, {"model": "text-embedding-3-small", "input": ["a cat", "a dog"]})
EVERY = (*WHOLE, *STREAMS, EMBEDDINGS)
DIALECTS = (WHOLE[0], WHOLE[2], WHOLE[3])


def task_name() -> str:
    """A task of its own, by which a test finds its rows."""
    return f"task-{next(_numbers)}"


_COUNTS = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
)


def _columns(row: Row) -> dict[str, Any]:
    """A row as the ledger has it: with what its JSON leaves out, and the counts as columns."""
    columns = msgspec.structs.asdict(row)
    columns["lines"] = [msgspec.structs.asdict(line) for line in row.lines]
    columns["labels"] = row.labels or {}
    columns["tools"], columns["notes"] = list(row.tools), list(row.notes)
    columns["units"] = row.units or {}
    return columns | {name: None if row.units is None else row.units.get(name, 0) for name in _COUNTS}


@dataclass
class House:
    """A running gateway (``url``), its providers, and what it booked."""

    url: str
    data: DataDir
    settings: Settings
    sim: Served
    other: Served
    stop: asyncio.Event
    serving: asyncio.Task[None]
    client: httpx2.AsyncClient
    books: BooksFile = field(repr=False)

    @property
    def path(self) -> Path:
        return self.data.path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def calls(self) -> list[Call]:
        """What the first simulator served."""
        return list(self.sim.simulator.calls)

    def rows(self, task: str | None = None) -> list[dict[str, Any]]:
        """The booked rows, of one task or all, in the order of their ending."""
        rows = [_columns(decode_row(entry.row)) for entry in self.books.endings_after(0, 10_000)]
        gone = {row["retracts"] for row in rows}  # taken back: what a nearer door has charged
        rows = [row for row in rows if row["retracts"] is None and row["attempt_id"] not in gone]
        return [row for row in rows if task is None or row["task"] == task]

    async def row(self, task: str, *, within_s: float = 5.0) -> dict[str, Any]:
        """The one row of a task, waited for."""
        await until(lambda: self.rows(task) != [], within_s)
        (row,) = self.rows(task)
        return row

    async def ask(self, ask: Ask, *, content: bytes | None = None, **headers: str) -> httpx2.Response:
        """Send it through the gateway; ``x_sim_fault="429"`` and the like are headers."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        content = ask.content if content is None else content
        return await self.client.post(ask.target, headers={**ask.headers, **more}, content=content)

    def served(self, answer: httpx2.Response) -> Call:
        """The simulator's own record of what it answered."""
        index = int(answer.headers["x-sim-call"])
        return next(call for call in self.sim.simulator.calls if call.index == index)

    async def end(self) -> None:
        self.stop.set()
        await self.serving

    def prove(self) -> None:
        """Books and ledger agree to the last figure, and nothing is held any more."""
        with closing(open_books_file(self.data, self.settings)) as books, open_ledger(self.data, books) as ledger:
            found = verify(books, ledger)
            assert found.differences == ()
            assert found.open_holds == 0
            assert found.ledger_rows == len(self.rows())


def make_key(path: Path, name: str, scope: Scope, pinned: tuple[str, ...] = ()) -> str:
    """A new virtual key, made as the command line does it: beside the running server."""
    with closing(open_books_file(DataDir(path), Settings())) as books:
        return KeyStore(books, now_us).create(name, scope, pinned)


def revoke_key(path: Path, name: str) -> None:
    with closing(open_books_file(DataDir(path), Settings())) as books:
        assert KeyStore(books, now_us).revoke(name)


def with_sims(sim: Served, other: Served, **server: Any) -> Settings:
    """Settings whose providers are the simulators: OpenAI, Anthropic and Google at one, Groq at another."""
    providers = {name: ProviderSettings(base_url=f"{sim.url}/v1") for name in ("openai", "anthropic")}
    providers["google"] = ProviderSettings(base_url=f"{sim.url}/v1beta")
    providers["groq"] = ProviderSettings(base_url=f"{other.url}/v1")
    return Settings(server=Server(**{"port": 0, "drain_s": 2, **server}), providers=providers)


@asynccontextmanager
async def gateway(
    path: Path, *, settings: Settings | None = None, sim: Simulator | None = None, **server: Any
) -> AsyncIterator[House]:
    """Start it all, end it all, and prove the books."""
    async with simulate(sim or Simulator(seed=7)) as first, simulate(Simulator(seed=8)) as other:
        chosen = settings or with_sims(first, other, **server)
        if settings is not None:
            providers = with_sims(first, other).providers
            for name, own in settings.providers.items():
                here = own.base_url or (providers[name].base_url if name in providers else None)
                providers[name] = msgspec.structs.replace(own, base_url=here)
            free_port = msgspec.structs.replace(settings.server, port=0)
            chosen = msgspec.structs.replace(settings, server=free_port, providers=providers)
        async with running(path, chosen, first, other) as house:
            yield house


@asynccontextmanager
async def running(path: Path, settings: Settings, sim: Served, other: Served) -> AsyncIterator[House]:
    data, stop, ready = DataDir(path), asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(data, settings, started=ready.set_result, stop=stop))
    await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await serving
    url = ready.result().url
    async with httpx2.AsyncClient(base_url=url, timeout=20, limits=httpx2.Limits(max_connections=200)) as client:
        with closing(open_books_file(data, settings)) as books:
            house = House(url, data, settings, sim, other, stop, serving, client, books)
            try:
                yield house
            finally:
                await house.end()
            house.prove()


# --- what a call must have cost ---------------------------------------------------------------------------------


def units(usage: Usage) -> dict[str, int]:
    """A simulator's bill in the ledger's units: that one request is one request goes without saying."""
    return {name: count for name, count in usage.counts().items() if name != "requests"}


def price_of(provider: str, call: Call) -> int | None:
    """The charge of what the simulator billed, worked out beside the gateway, in nano-USD."""
    reading = Reading(usage=call.usage, model=call.model)
    at = datetime.now(timezone.utc)
    return charge(reading, bundled_book(), provider=provider, model=call.model, at=at).amount


def assert_booked(row: dict[str, Any], call: Call, provider: str) -> None:
    """The row says what the simulator billed, to the token and to the nano-dollar."""
    assert call.usage is not None
    assert (row["status"], row["provider"], row["estimated"]) == ("ok", provider, False)
    assert row["units"] == units(call.usage)
    assert row["cost_nanousd"] == price_of(provider, call) != 0
    assert row["cost_nanousd"] == sum(line["cost_nanousd"] for line in row["lines"])


# --- a provider of our own making -------------------------------------------------------------------------------


@dataclass
class Seen:
    """A request as it came to a provider."""

    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def header(self) -> dict[str, str]:
        return dict(self.headers)


@dataclass
class Script:
    """A provider that answers as it is told and remembers what it was sent."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("content-type", "application/json")])
    body: bytes = b"{}"

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        body = await protocol() if scope.method not in ("GET", "HEAD") else b""
        self.seen.append(Seen(scope.method, scope.path, scope.query_string, scope.headers.items(), body))
        protocol.response_bytes(self.status, self.headers, self.body)


@asynccontextmanager
async def scripted() -> AsyncIterator[Script]:
    script = Script()
    server = HttpServer(script, "127.0.0.1", 0)
    await server.start()
    script.url = server.url
    try:
        yield script
    finally:
        await server.stop(0)


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    """Returns when the condition holds; raises TimeoutError when it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def send_raw(port: int, *parts: bytes, within_s: float = 5.0) -> bytes:
    """Bytes straight to the port, and what comes back until the other side closes or falls silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(within_s):
            for part in parts:
                writer.write(part)
                await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            answer = head + await reader.readexactly(int(length[1]) if length else 0)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return answer
