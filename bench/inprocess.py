"""What a call costs inside the process: the books, the price, the import of the package.

Rule 1: the reference does the least that could do the same: two commits of an insert and an update; ``json.loads``.
Rule 2: ours and the reference take turns within one run.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench import samples
from bench.measure import PYTHON, median, run, seconds, steady
from bench.report import Figure, Report, not_measured
from bursar.adapters.books_async import AsyncBooks
from bursar.adapters.books_file import BooksFile
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.zones import zone_of
from bursar.core.admission import Claim
from bursar.core.budget_fields import parse_budgets
from bursar.core.call import Arrived, Held, NeedsHold, NeedsProvider, NeedsSettlement, Reply
from bursar.core.ledger import Opening
from bursar.core.policy import estimate
from bursar.core.prices import charge
from bursar.core.scopes import Scope
from bursar.engine.claims import Asking, Claims
from bursar.engine.drive import drive
from bursar.engine.rulebook import Rulebook
from bursar.learn.sizes import Sizes
from bursar.wire.dialect import Dialect
from bursar.wire.providers import provider

__all__ = ["measure"]

_AT = datetime.now(timezone.utc)
_BOOK = bundled_book()
_SCOPE = Scope(team="search", agent="coder", user="ana", task="ticket-17", labels=(("env", "bench"),))


def measure(*, quick: bool) -> Report:
    calls = 1_000 if quick else 5_000
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
        directory = Path(name)
        books = asyncio.run(_books(directory, calls))
    figures = (*books, *_prices(50 if quick else 300), *_import(5 if quick else 15))
    return Report(
        "inprocess", figures, ("hold and settle are two durable transactions of one call (SQLite, WAL, NORMAL)",)
    )


# --- the books --------------------------------------------------------------------------------------------------


def _dialect(provider_id: str, path: str) -> Dialect:
    found = provider(provider_id)
    assert found is not None
    return found.dialect(path)


_CHAT = _dialect("openai", "/v1/chat/completions")


def _opening(name: str) -> Opening:
    facts = _CHAT.read_request("/v1/chat/completions", samples.CHAT_REQUEST)
    return Opening(
        attempt_id=f"{name}.1",
        call_id=name,
        kind="model",
        door="sdk",
        operation="chat_completions",
        started_us=time.time_ns() // 1000,
        provider="openai",
        model_asked=facts.model,
        scope=_SCOPE,
        estimate=estimate(
            _BOOK,
            provider="openai",
            model=facts.model,
            at=_AT,
            terms=facts.terms,
            input_tokens=facts.input_tokens_estimate,
            output_cap=facts.output_cap,
        ),
    )


def _reply(name: str) -> Reply:
    body = samples.CHAT.replace(samples.RESPONSE_ID.encode(), name.encode())
    return Reply(_CHAT.read_response(body), "ok", http_status=200, latency_ms=812.0)


def _price(opening: Opening, reply: Reply) -> Any:
    return charge(reply.reading, _BOOK, provider="openai", model=opening.model_asked, at=_AT)


_BUDGETS = parse_budgets(
    {
        "company": {"limit": "$1M", "per": "month", "tz": "Europe/Berlin"},
        "each-team": {"limit": "$1M", "per": "week", "each": "team"},
        "each-user": {"limit": "$1M", "per": "day", "each": "user"},
        "coders": {"limit": "$1M", "match": {"agent": "coder"}},
    },
    zone_of,
)
_RULEBOOK = Rulebook({}, _BOOK, require_keys=False, body_bytes_max=1, concurrency_max=1, budgets=_BUDGETS)
_CLAIMS = Claims(Sizes())
_FACTS = _CHAT.read_request("/v1/chat/completions", samples.CHAT_REQUEST)


def _claim(opening: Opening) -> Claim | None:
    """What the call asks of four budgets that all have enough."""
    asking = Asking(_FACTS, "openai", _AT, can_cap=True)
    return _CLAIMS.claim(_RULEBOOK, opening, asking, task=None, final=False)


def _needs(name: str) -> tuple[NeedsHold, NeedsSettlement]:
    opening, reply = _opening(name), _reply(name)
    held = Held(opening.estimate.amount)
    return NeedsHold(opening), NeedsProvider(opening, held).next(reply, _price(opening, reply))


class _Upstream:
    """Answers at once."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def send(self, _need: NeedsProvider, /) -> Reply:
        return _reply(self._name)

    def interrupted(self) -> Reply:
        raise AssertionError("nobody interrupts here")


async def _books(directory: Path, calls: int) -> list[Figure]:
    bare = _Bare(directory / "bare.sqlite3")
    file = BooksFile(directory / "sync.sqlite3", clock_us=_now_us, hold_ttl_us=10**9)
    budgeted = BooksFile(directory / "budgeted.sqlite3", clock_us=_now_us, hold_ttl_us=10**9)
    elsewhere = BooksFile(directory / "budgeted.sqlite3", clock_us=_now_us, hold_ttl_us=10**9)
    budgeted.never_wait()  # as in the server, where another thread moves the log into the file
    books = AsyncBooks(BooksFile(directory / "async.sqlite3", clock_us=_now_us, hold_ttl_us=10**9))
    taken: dict[str, list[float]] = {"bare": [], "sync": [], "budgets": [], "async": [], "call": []}
    for number in range(calls):
        hold, settle = _needs(f"one-{number}")
        begin = time.perf_counter()
        bare.hold_and_settle(f"one-{number}")
        taken["bare"].append(_us(begin))
        begin = time.perf_counter()
        file.apply([hold])
        file.apply([settle])
        taken["sync"].append(_us(begin))
        opening, reply = _opening(f"budget-{number}"), _reply(f"budget-{number}")
        charge = _price(opening, reply)
        begin = time.perf_counter()
        (held,) = budgeted.apply([NeedsHold(opening, _claim(opening))])
        assert isinstance(held, Held)
        budgeted.apply([NeedsProvider(opening, held).next(reply, charge)])
        taken["budgets"].append(_us(begin))
        if number % 100 == 0:
            elsewhere.checkpoint()
        begin = time.perf_counter()
        await books.hold(hold)
        await books.settle(settle)
        taken["async"].append(_us(begin))
        begin = time.perf_counter()
        await drive(Arrived(_opening(f"call-{number}")), books, _Upstream(f"call-{number}"), _price)
        taken["call"].append(_us(begin))
    at_once = [await _at_once(books, f"many-{turn}", calls) for turn in range(3)]
    books.file.close()
    file.close()
    budgeted.close()
    elsewhere.close()
    bare.close()
    what = "bare sqlite3"
    p50, p99 = ({name: steady(each, percent, window=500) for name, each in taken.items()} for percent in (50, 99))
    met = p50["sync"] <= 100
    return [
        Figure("hold + settle, BooksFile, p50", p50["sync"], "us", what, p50["bare"], "<= 100 us", met),
        Figure("hold + settle, BooksFile, p99", p99["sync"], "us", what, p99["bare"]),
        Figure("hold + settle over 4 budgets, p50", p50["budgets"], "us", what, p50["bare"], "<= 100 us",
               p50["budgets"] <= 100),
        Figure("hold + settle over 4 budgets, p99", p99["budgets"], "us", what, p99["bare"], "<= 1000 us",
               p99["budgets"] <= 1_000),
        Figure("hold + settle, AsyncBooks, 1 at a time, p50", p50["async"], "us", what, p50["bare"], "<= 100 us",
               p50["async"] <= 100),
        Figure("hold + settle, AsyncBooks, 1 at a time, p99", p99["async"], "us", what, p99["bare"]),
        Figure("hold + settle, AsyncBooks, 64 at a time, each", median(at_once), "us", what, p50["bare"], "<= 100 us",
               median(at_once) <= 100),
        Figure("a call: hold, price, settle, record, p50", p50["call"], "us", what, p50["bare"], "<= 150 us",
               p50["call"] <= 150),
        Figure("a call: hold, price, settle, record, p99", p99["call"], "us", what, p99["bare"], "<= 1000 us",
               p99["call"] <= 1_000),
    ]  # fmt: skip


async def _at_once(books: AsyncBooks, name: str, calls: int) -> float:
    """Microseconds per call when 64 are under way at any time."""
    needs = iter([_needs(f"{name}-{number}") for number in range(calls)])

    async def client() -> None:
        for hold, settle in needs:
            await books.hold(hold)
            await books.settle(settle)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(64)))
    return _us(begin) / calls


class _Bare:
    """What a hold and a settlement cost at least: an insert and an update in each of two transactions."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            "CREATE TABLE entry (sequence INTEGER PRIMARY KEY, attempt TEXT, stage INTEGER, amount INTEGER);"
            "CREATE TABLE balance (account TEXT PRIMARY KEY, amount INTEGER) WITHOUT ROWID;"
            "INSERT INTO balance VALUES ('all', 0);"
        )

    def hold_and_settle(self, name: str) -> None:
        execute = self._db.execute
        for stage in (0, 1):
            execute("BEGIN IMMEDIATE")
            execute("INSERT INTO entry (attempt, stage, amount) VALUES (?, ?, ?)", (name, stage, 1_500))
            execute("UPDATE balance SET amount = amount + ? WHERE account = 'all'", (1_500,))
            execute("COMMIT")

    def close(self) -> None:
        self._db.close()


def _now_us() -> int:
    return time.time_ns() // 1000


def _us(begin: float) -> float:
    return (time.perf_counter() - begin) * 1e6


# --- prices -----------------------------------------------------------------------------------------------------


def _turns(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Microseconds each work takes, the median of ``rounds`` turns of 50."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, mine in zip(works, taken, strict=True):
            begin = time.perf_counter()
            for _ in range(50):
                work()
            mine.append(_us(begin) / 50)
    return [median(each) for each in taken]


_BODIES = (
    ("OpenAI chat", "openai", "/v1/chat/completions", "gpt-4o-mini", "chat", samples.CHAT),
    ("Anthropic message", "anthropic", "/v1/messages", "claude-haiku-4-5", "default", samples.ANTHROPIC),
    ("Gemini answer", "google", "/v1beta/models/gemini-2.5-flash:generateContent", "gemini-2.5-flash", "default",
     samples.GEMINI),
)  # fmt: skip


def _prices(rounds: int) -> list[Figure]:
    figures: list[Figure] = []
    for name, provider_id, path, model, flavour, body in _BODIES:
        dialect = _dialect(provider_id, path)

        def ours(dialect: Dialect = dialect, body: bytes = body, at: str = provider_id, model: str = model) -> object:
            return charge(dialect.read_response(body), _BOOK, provider=at, model=model, at=_AT)

        peer = _peer(provider_id, flavour, body)
        mine, least, *its = _turns(rounds, ours, lambda body=body: json.loads(body), *([peer] if peer else []))
        figures.append(Figure(f"price: {name}", mine, "us", "json.loads", least, "<= 15 us", mine <= 15))
        label = f"price: {name}, genai-prices"
        figures.append(
            Figure(label, its[0], "us", "json.loads", least) if its else not_measured(label, "not installed")
        )
    events = list(samples.stream_events())
    datas = [event[len(b"data: ") :] for event in events[:-1]]

    def stream() -> object:
        meter = _CHAT.meter(None)
        for event in events:
            meter.feed(event)
        meter.finish()
        return charge(meter.reading(), _BOOK, provider="openai", model="gpt-4o-mini", at=_AT)

    mine, least = _turns(rounds // 10, stream, lambda: [json.loads(data) for data in datas])
    figures.append(Figure("meter and price: a stream event", mine / 33, "us", "json.loads", least / 33))
    return figures


def _peer(provider_id: str, flavour: str, body: bytes) -> Callable[[], object] | None:
    try:
        from genai_prices import extract_usage
    except ImportError:
        return None

    def work() -> object:
        return extract_usage(json.loads(body), provider_id=provider_id, api_flavor=flavour).calc_price()

    return work


# --- the import -------------------------------------------------------------------------------------------------


def _import(rounds: int) -> list[Figure]:
    codes = ("pass", "import bursar", "import bursar; bursar.charge_response")
    taken: dict[str, list[float]] = {code: [] for code in codes}
    for _ in range(rounds):
        for code in codes:
            taken[code].append(seconds(lambda code=code: run([PYTHON, "-c", code])) * 1000)
    empty, plain, first = (median(taken[code]) for code in codes)
    return [
        Figure("import bursar", plain, "ms", "python -c pass", empty, "< 50 ms added", plain - empty < 50,
               f"{plain - empty:+.1f} ms"),
        Figure("import bursar, charge_response loaded", first, "ms", "python -c pass", empty, note=f"{first - empty:+.1f} ms"),
    ]  # fmt: skip
