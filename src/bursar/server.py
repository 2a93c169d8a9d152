"""The running server: starts everything in order, keeps the workers going, stops without losing anything.

Rule 1: ready means: the books are open, what a crash left behind is expired, the port is ours.
Rule 2: at SIGTERM or SIGINT new calls are refused, running ones get ``server.drain_s``, then they are cancelled and settled.
Rule 3: a worker that fails says so once, tries again, and takes nothing else down.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bursar.adapters.alert_worker import AlertWorker
from bursar.adapters.books_async import AsyncBooks
from bursar.adapters.books_desk import PlainDesk
from bursar.adapters.books_file import BooksFile
from bursar.adapters.budget_desk import DeskWorker
from bursar.adapters.budget_store import BudgetStore
from bursar.adapters.data_dir import DataDir
from bursar.adapters.http_server import HttpServer
from bursar.adapters.ids import IdMaker
from bursar.adapters.keys import KeyCache, KeyStore
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.ledger_worker import LedgerWorker
from bursar.adapters.prices_file import PRICES_FILE
from bursar.adapters.trace_worker import TraceWorker
from bursar.adapters.traces_local import LocalTraces
from bursar.adapters.upstream_http import ProviderClient
from bursar.compose import (
    alert_settings_of,
    budgets_in_force,
    embedder_of,
    find_config,
    keep_evidence,
    make_rulebook,
    now_us,
    open_books_file,
    open_cache,
    open_similar,
    open_traces_file,
    stamp,
    watched_budgets,
)
from bursar.config import Cache, Retention, Settings, load_settings
from bursar.console.site import Site
from bursar.core.budgets import TASK_RULES, Budget, Standing
from bursar.core.errors import BooksError, BooksFailedError, BursarError, ConfigError
from bursar.core.failures import Cause
from bursar.core.ledger import OWN_PROCESS
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.tallies import Tallies
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.metrics import Metrics
from bursar.doors.gateway.request import Clock
from bursar.doors.gateway.routed import Routing
from bursar.doors.otlp.grpc import OtlpGrpc
from bursar.doors.otlp.http import OtlpHttp
from bursar.doors.otlp.receiver import Receiver
from bursar.doors.remote.app import Remote
from bursar.engine.claims import Claims
from bursar.engine.climb import RouteStates
from bursar.engine.health import Health, Target
from bursar.engine.response_cache import ResponseCache
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.engine.rulebook import Rulebook
from bursar.learn.sizes import Sizes

if TYPE_CHECKING:
    from bursar.engine.similar import Similar

__all__ = ["Running", "check_address", "serve"]

_log = logging.getLogger("bursar")

_SHIP_EVERY_S: Final = 1.0
_SHIP_ROWS: Final = 20_000
_SHIP_LATEST_S: Final = 10.0
_SWEEP_EVERY_S: Final = 30.0
_COMPACT_EVERY_S: Final = 3_600.0
_RELOAD_EVERY_S: Final = 1.0
_EVALUATE_EVERY_S: Final = 5.0
_DELIVER_EVERY_S: Final = 1.0
_DECIDE_EVERY_S: Final = 0.25
_MEASURE_EVERY_S: Final = 10.0
_FAILED_WAIT_S: Final = 5.0
_LEDGER_WAIT_S: Final = 5.0
_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_DAY_US: Final = 86_400_000_000
_GC_THRESHOLD: Final = 20_000


@dataclass(frozen=True, slots=True)
class Running:
    """What a started server tells: where it listens and what was cleaned up."""

    url: str
    expired: int
    config: Path | None


def check_address(settings: Settings) -> None:
    """Raises ConfigError when the address is open to others and keys are not required."""
    host = settings.server.host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not settings.server.require_keys:
        raise ConfigError(
            f"server.host is {host}: others could spend through it. Set server.require_keys: true "
            "(or --require-keys) and make keys with `bursar keys create NAME`, or keep 127.0.0.1"
        )


async def serve(
    data: DataDir,
    settings: Settings,
    *,
    config: Path | None = None,
    started: Callable[[Running], Awaitable[None] | None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or ``stop``. Raises BursarError or OSError when it cannot start.

    Raises BooksFailedError after it has stopped when settlements could not be written: their holds stand.
    """
    check_address(settings)
    claim = data.claim({"url": f"http://{settings.server.host}:{settings.server.port}"})

    def listening(running: Running) -> Awaitable[None] | None:
        data.describe(claim, {"url": running.url})  # port 0 has become a real one
        return started(running)

    try:
        await _Server(data, settings, config).run(listening, stop or asyncio.Event())
    finally:
        claim.close()


class _Server:
    def __init__(self, data: DataDir, settings: Settings, config: Path | None) -> None:
        self._data = data
        self._settings = settings
        self._config = find_config(data, config)
        self._last_seen = self._seen(self._config)
        self._rulebook: Rulebook
        self._current = settings
        self._books_version = -1
        self._metrics = Metrics()
        self._claims = Claims(Sizes())
        self._tallies = Tallies(now_us())
        self._notes = LocalTraces(lambda: open_traces_file(data, settings, any_thread=True))
        self._health = Health(random.random, self._breaker_opened)
        self._cache = ResponseCache(now_us)
        self._similar: Similar | None = None
        self._cache_settings: Cache | None = None  # with which its store was opened
        self._metrics.lookups = self._cache.lookups
        self._metrics.breakers = self._breakers
        self._lag: int | None = None
        self._shipped_s = 0.0
        self._ledger = LedgerWorker(
            lambda: open_books_file(data, settings),
            lambda: DuckLedger(data.ledger, wait_s=_LEDGER_WAIT_S),
            lambda: open_traces_file(data, settings),
        )
        self._traces = TraceWorker(
            lambda: open_books_file(data, settings), lambda: open_traces_file(data, settings), lambda: self._rulebook
        )

    async def run(self, started: Callable[[Running], Awaitable[None] | None], stop: asyncio.Event) -> None:
        file = open_books_file(self._data, self._settings)
        # Calls of agents' own processes go on without a server.
        expired = file.expire(before_us=None, keep=lambda attempt_id: attempt_id.startswith(OWN_PROCESS))
        if expired:
            _log.warning(
                "%d attempts were under way when the last server stopped: their estimates are charged", expired
            )
        self._rulebook = make_rulebook(self._data, self._settings, _all_budgets(self._settings, file))
        self._books = AsyncBooks(file, wait_s=self._settings.budget_wait_s)
        server = self._settings.server
        client = ProviderClient(
            connect_timeout_s=server.connect_timeout_s,
            read_timeout_s=server.read_timeout_s,
            call_timeout_s=server.call_timeout_s,
            answer_bytes_max=server.answer_bytes_max,
        )
        self._embedders = embedder_of(client)
        self._open_cache(self._rulebook, self._settings)
        keys = KeyCache(KeyStore(file, now_us), file)
        receiver = Receiver(lambda: self._rulebook, keys, self._traces)
        otlp = OtlpHttp(receiver)
        remote = Remote(
            lambda: self._rulebook,
            self._books,
            PlainDesk(lambda: file),
            self._take_notes,
            keys,
            self._claims,
            self._tallies,
            now_us,
        )
        states = RouteStates()
        self._metrics.route_attempts = states.attempts
        self._gateway = Gateway(
            lambda: self._rulebook,
            self._books,
            client,
            keys,
            Clock(now_us, IdMaker()),
            self._metrics,
            self._claims,
            self._tallies,
            Routing(self._health, states, self._cache, self._similar_answers, self._embedders),
        )
        self._alerts = AlertWorker(
            self._open_books,
            self._standings,
            self._tallies,
            now_us,
            settings=alert_settings_of(self._settings),
            environ=os.environ,
        )
        desk = DeskWorker(self._open_books, lambda: self._current.budgets, now_us)
        site = self._site(desk)

        async def app(scope: HttpScope, protocol: HttpProtocol) -> None:
            if site.owns(scope.path):
                await site(scope, protocol)
            elif otlp.owns(scope.path):
                await otlp(scope, protocol)
            elif remote.owns(scope.path):
                await remote(scope, protocol)
            else:
                await self._gateway(scope, protocol)

        http = HttpServer(app, server.host, server.port)
        grpc = OtlpGrpc(receiver, server.host, server.otlp_grpc_port) if server.otlp_grpc_port else None
        workers: list[asyncio.Task[None]] = []
        try:
            self._install_signals(stop)
            await http.start()
            if grpc is not None:
                await grpc.start()
            _settle_memory()
            workers.extend(asyncio.create_task(self._worker(*worker)) for worker in self._workers())
            told = started(Running(http.url, expired, self._config))
            if told is not None:
                await told
            await stop.wait()
        finally:
            gc.unfreeze()  # or the libraries' own leak checks complain at exit
            self._gateway.draining = receiver.draining = True
            if grpc is not None:
                await grpc.stop(server.drain_s)
            await http.stop(server.drain_s)
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._books.drain()
            unsettled, failure = self._books.pending, self._books.failure
            with suppress(BursarError):  # what is not decided now is kept, and decided at the next start
                await self._traces.evaluate(everything=True)
            await self._traces.close()
            with suppress(BursarError):  # the books have it; the next start ships it
                await self._ledger.ship()
            await self._ledger.close()
            desk.close()
            self._notes.close()
            await self._alerts.close()
            if self._similar is not None:
                with suppress(OSError):
                    keep_evidence(self._data, self._similar)
            if self._cache.store is not None:
                await self._cache.store.close()
            await client.close()
            file.close()
            self._remove_signals()
        if unsettled:
            raise BooksFailedError(
                f"{unsettled} settlements could not be written ({failure}): their holds stand, and the next start charges "
                "their estimates"
            )

    def _open_cache(self, rulebook: Rulebook, settings: Settings) -> None:
        """The store of the cache, once there is a route that keeps something, and what makes its vectors. Raises ConfigError."""
        for route in rulebook.routes.all:
            if route.cache is not None and (semantic := route.cache.semantic) is not None:
                self._similar_answers()
                if "/" not in semantic.embed:
                    self._embedders(semantic.embed, None, ())
        if self._cache.store is None and any(route.cache is not None for route in rulebook.routes.all):
            self._cache.store, self._cache_settings = open_cache(self._data, settings), settings.cache

    def _similar_answers(self) -> Similar:
        """What is known of similar questions, made when a route asks for it first. Raises ConfigError."""
        if self._similar is None:
            self._similar = open_similar(self._data)
        return self._similar

    def _breaker_opened(self, target: Target, cause: Cause) -> None:
        self._metrics.opened(target.provider, target.model, cause)
        self._tallies.add("opened", target.provider, now_us())

    def _breakers(self) -> list[tuple[str, str, str]]:
        at_us = now_us()
        return [(each.target.provider, each.target.model, each.verdict(at_us).state) for each in self._health]

    async def _take_notes(self, spans: Sequence[Observation], outcomes: Sequence[TaskOutcome]) -> None:
        await asyncio.to_thread(self._notes.take, spans, outcomes)

    def _open_books(self) -> BooksFile:
        return open_books_file(self._data, self._settings)

    def _standings(self, books: BooksFile, _now_us: int) -> list[Standing]:
        """How everything stands that alerts are about; of tasks only where somebody asked to be told of them."""
        budgets = self._rulebook.budgets
        store = BudgetStore(books, now_us)
        rules = next((budget for budget in budgets if budget.name == TASK_RULES.name), TASK_RULES)
        return [*store.standings(budgets), *(store.tasks(rules) if rules.thresholds else ())]

    def _site(self, desk: DeskWorker) -> Site:
        return Site(
            ask=self._ledger.ask,
            ask_desk=desk.ask,
            cache=self._cache,
            changed=self._reload_budgets,
            ready=self._ready,
            metrics=self._metrics_text,
            token=None if _is_loopback(self._settings.server.host) else self._data.admin_token(),
        )

    def _install_signals(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            with suppress(RuntimeError, ValueError):  # not in the main thread: whoever runs us there sets the event
                loop.add_signal_handler(number, stop.set)

    def _remove_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            with suppress(RuntimeError, ValueError):
                loop.remove_signal_handler(number)

    # --- workers ----------------------------------------------------------------------------------------------

    def _workers(self) -> list[tuple[str, float, Callable[[], Awaitable[object]]]]:
        retention = self._settings.retention
        return [
            ("ledger", _SHIP_EVERY_S, self._ship),
            ("sweeper", _SWEEP_EVERY_S, self._sweep),
            ("reload", _RELOAD_EVERY_S, self._reload),
            ("alerts", _EVALUATE_EVERY_S, self._evaluate),
            ("notices", _DELIVER_EVERY_S, self._alerts.deliver),
            ("cache", _MEASURE_EVERY_S, self._measure_cache),
            ("traces", _DECIDE_EVERY_S, self._traces.evaluate),
            (
                "retention",
                _COMPACT_EVERY_S,
                lambda: self._compact(retention),
            ),
        ]

    async def _worker(self, name: str, every_s: float, work: Callable[[], Awaitable[object]]) -> None:
        failed = False
        while True:
            await asyncio.sleep(_FAILED_WAIT_S if failed else every_s)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - a worker outlives every error; it is said once and tried again
                if not failed:
                    _log.error("%s failed, trying again: %s", name, error)
                failed = True
            else:
                failed = False

    async def _ship(self) -> None:
        # Opening the ledger costs as much as shipping thousands of rows; whoever asks it ships first anyway.
        now = asyncio.get_running_loop().time()
        due = now - self._shipped_s >= _SHIP_LATEST_S
        self._lag = await self._ledger.ship(at_least=1 if due else _SHIP_ROWS)
        self._metrics.ledger_lag.set(self._lag)
        if due:
            self._shipped_s = now

    async def _compact(self, retention: Retention) -> None:
        BudgetStore(self._books.file, now_us).prune(now_us() - retention.books_days * _DAY_US)
        await self._ledger.compact(now_us(), books_days=retention.books_days, ledger_days=retention.ledger_days)

    async def _evaluate(self) -> None:
        await self._alerts.evaluate(price_version=self._rulebook.book.version, ledger_lag=self._lag)

    async def _sweep(self) -> None:
        expired = self._books.file.expire(before_us=now_us(), keep=self._gateway.alive.__contains__)
        if expired:
            _log.warning("%d holds outlived their time: their estimates are charged", expired)

    def _seen(self, config: Path | None) -> tuple[object, ...]:
        return config, stamp(config), stamp(self._data.path / PRICES_FILE)

    async def _reload(self) -> None:
        self._reload_budgets()
        config = find_config(self._data, self._config)
        seen = self._seen(config)
        if seen == self._last_seen:
            return
        self._last_seen = seen
        try:
            settings = load_settings(config)
            check_address(settings)
            rulebook = make_rulebook(self._data, settings, _all_budgets(settings, self._books.file))
            alerts = alert_settings_of(settings)
            self._open_cache(rulebook, settings)
            self._alerts.use(alerts)
            self._rulebook, self._current = rulebook, settings
        except ConfigError as error:
            self._metrics.config_errors += 1
            _log.error("the new configuration is not used: %s", error)
            return
        if (settings.server.host, settings.server.port) != (self._settings.server.host, self._settings.server.port):
            _log.warning("server.host and server.port take effect at the next start")
        if self._cache_settings not in (None, settings.cache):
            _log.warning("what cache says of its store takes effect at the next start")
        _log.info("configuration and prices loaded again")

    def _reload_budgets(self) -> None:
        """Budgets that another process has set take effect with the next look; those that cannot be read change nothing."""
        version = self._books.file.data_version()
        if version == self._books_version:
            return
        budgets = _all_budgets(self._current, self._books.file)
        self._books_version = version
        if budgets != self._rulebook.budgets:
            self._rulebook = replace(self._rulebook, budgets=budgets)
            _log.info("%d budgets in force", len(budgets))

    # --- what the site asks -----------------------------------------------------------------------------------

    def _ready(self) -> str | None:
        if self._gateway.draining:
            return "shutting down"
        return None if self._books.failure is None else f"the books cannot be written: {self._books.failure}"

    async def _measure_cache(self) -> None:
        if self._similar is not None:
            keep_evidence(self._data, self._similar)
        if self._cache.store is not None:
            self._metrics.cache_use = await self._cache.store.use()

    def _metrics_text(self) -> bytes:
        self._metrics.running.set(self._gateway.running)
        self._metrics.books_pending.set(self._books.pending)
        self._metrics.books_waiting.set(self._books.waiting)
        self._metrics.bound_breaches.set(self._claims.breaches)
        self._metrics.traces_backlog.set(self._traces.backlog)
        self._metrics.observations = dict(self._traces.taken)
        self._metrics.verdicts = dict(self._traces.counts)
        with suppress(BooksError):  # the other figures are told all the same
            single = [budget for budget in self._rulebook.budgets if not budget.each and budget.enforce]
            self._metrics.deliveries = self._alerts.outcomes
            self._metrics.standings = BudgetStore(self._books.file, now_us).standings(single)
        return self._metrics.text()


def _all_budgets(settings: Settings, file: BooksFile) -> tuple[Budget, ...]:
    """Those that hold, and those that only count for an alert."""
    return (*budgets_in_force(settings, file), *watched_budgets(settings))


def _settle_memory() -> None:
    """Leave what lives as long as the process out of garbage collections: they took a sixth of the time of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
