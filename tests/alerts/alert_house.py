"""What tests of alerts share: a receiver that records, time that a test moves, a worker on a real books file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bursar.adapters.alert_worker import AlertWorker
from bursar.adapters.books_file import BooksFile
from bursar.adapters.http_server import HttpServer
from bursar.adapters.zones import zone_of
from bursar.core.alert_fields import AlertSettings, alert_settings
from bursar.core.budgets import Budget, Limit, Standing, Use
from bursar.core.money import NANO_PER_USD
from bursar.core.tallies import Tallies
from bursar.core.windows import parse_window
from bursar.engine.ports import Notice
from bursar.engine.rsgi import HttpProtocol, HttpScope

NOON_US = 1_760_011_200_000_000  # 2025-10-09 12:00 UTC
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US


class Clock:
    """Time that a test moves."""

    def __init__(self, us: int = NOON_US) -> None:
        self.us = us

    def __call__(self) -> int:
        return self.us


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Records what it is sent. ``answers`` are given in turn, the last one for ever."""

    url: str = ""
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=lambda: [(200, {}, b"ok")])
    received: list[Received] = field(default_factory=list)
    hang: asyncio.Event | None = None

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        path = scope.path + (f"?{scope.query_string}" if scope.query_string else "")
        self.received.append(Received(path, dict(scope.headers.items()), await protocol()))
        if self.hang is not None:
            await self.hang.wait()
        status, headers, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        protocol.response_bytes(status, list(headers.items()), body)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = HttpServer(receiver, "127.0.0.1", 0)
    await server.start()
    receiver.url = server.url
    try:
        yield receiver
    finally:
        await server.stop(0.1)


def settings_from(**raw: Any) -> AlertSettings:
    return alert_settings(raw, zone_of)


def standing(
    spent: int,
    *,
    limit: int = 20,
    at_us: int = NOON_US,
    per: str = "day",
    name: str = "search",
    subject: str = "",
    **more: Any,
) -> Standing:
    """How a budget of ``limit`` USD stands with ``spent`` cents."""
    window = parse_window(per)
    budget = Budget(name, "usd", (Limit(window, limit * NANO_PER_USD),), each="user" if subject else "", **more)
    use = Use(spent * NANO_PER_USD // 100, 0)
    return Standing(budget, subject, window, window.span(at_us), limit * NANO_PER_USD, use, 0)


def notice(event: str = "firing", **more: Any) -> Notice:
    values: dict[str, Any] = {
        "id": "0123456789abcdef0123456789abcdef",
        "event": event,
        "key": 'BursarBudgetThreshold{budget="search"}',
        "labels": (("alertname", "BursarBudgetThreshold"), ("budget", "search"), ("severity", "warning")),
        "annotations": (
            ("description", "Budget search has spent $16.00 of $20.00 per day: 80 %."),
            ("summary", "Budget search: 80 % of $20.00 spent"),
            ("way_out", "Raise the limit of search."),
        ),
        "fired_us": NOON_US,
        "resolved_us": NOON_US + HOUR_US if event == "resolved" else None,
    }
    return Notice(**{**values, **more})


class Standings:
    """How the budgets stand, as a test says."""

    def __init__(self) -> None:
        self.now: list[Standing] = []
        self.asked: Callable[[], None] = lambda: None

    def __call__(self, _books: BooksFile, _now_us: int) -> Iterable[Standing]:
        self.asked()
        return tuple(self.now)


def open_file(path: Path, clock: Clock) -> BooksFile:
    return BooksFile(path / "books.sqlite3", clock_us=clock, hold_ttl_us=1_000)


@asynccontextmanager
async def working(
    path: Path,
    settings: AlertSettings,
    clock: Clock,
    standings: Standings,
    *,
    environ: dict[str, str] | None = None,
    tallies: Tallies | None = None,
    **more: Any,
) -> AsyncIterator[AlertWorker]:
    worker = AlertWorker(
        lambda: open_file(path, clock),
        standings,  # type: ignore[arg-type]
        tallies or Tallies(clock.us - DAY_US),
        clock,
        settings=settings,
        environ=environ or {},
        **more,
    )
    try:
        yield worker
    finally:
        await worker.close()
