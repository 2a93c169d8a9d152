"""Puts the parts together: the one file that knows every concrete class.

Rule 1: whoever asks the ledger ships first, so that an answer includes every call that ended before the question.
Rule 2: the ledger's file is open only while it is used: any process may take its turn, and memory goes back.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from bursar.adapters.books_file import BooksFile
from bursar.adapters.data_dir import DataDir, default_data_dir
from bursar.config import CONFIG_NAME, ProviderSettings, Settings, load_settings
from bursar.core.budgets import Budget
from bursar.core.errors import BursarError, ConfigError, LedgerError
from bursar.core.ledger import Attempt
from bursar.core.prices import PriceBook
from bursar.engine.ports import CacheStore, Embedder, HttpClient, Queries, SyncBooks, Treasury

if TYPE_CHECKING:  # a command that only asks the ledger does not need to know the providers
    from bursar.adapters.books_local import LocalBooks
    from bursar.adapters.trace_store import TraceStore
    from bursar.core.alert_fields import AlertSettings
    from bursar.core.routes import Routes
    from bursar.core.tool_prices import ToolPrices
    from bursar.doors.gateway.destinations import Destination
    from bursar.doors.gateway.side_calls import EmbedderOf
    from bursar.engine.rulebook import ProviderRule, Rulebook
    from bursar.engine.similar import Similar
    from bursar.wire.providers import Provider

__all__ = [
    "OpenTreasury",
    "alert_settings_of",
    "budgets_in_force",
    "configured_budgets",
    "embedder_of",
    "find_config",
    "keep_evidence",
    "make_rulebook",
    "now_us",
    "open_books",
    "open_books_file",
    "open_cache",
    "open_data",
    "open_ledger",
    "open_prices",
    "open_queries",
    "open_similar",
    "open_traces_file",
    "open_treasury",
    "routes_of",
    "settings_of",
    "stamp",
    "tool_prices",
    "watched_budgets",
]

_log = logging.getLogger("bursar")

_US: Final = 1_000_000
_LOOK_EVERY_S: Final = 1.0


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1_000


def open_data(path: Path | None) -> DataDir:
    """The data directory, made when it is not there."""
    return DataDir((path or default_data_dir()).absolute())


def find_config(data: DataDir, named: Path | None = None) -> Path | None:
    """The configuration file: the one named, ``$BURSAR_CONFIG``, ./bursar.yaml, or the one in the data directory."""
    if named is None and (text := os.environ.get("BURSAR_CONFIG")):
        named = Path(text)
    if named is not None:
        return named
    return next((p for p in (Path(CONFIG_NAME), data.path / CONFIG_NAME) if p.is_file()), None)


def settings_of(data: DataDir, config: Path | None = None) -> Settings:
    """The settings in force. Raises ConfigError."""
    return load_settings(find_config(data, config))


def open_prices(path: Path | None, settings: Settings | None = None) -> PriceBook:
    """The price book in force. Raises ConfigError for a bad override or a damaged price file."""
    from bursar.adapters.prices_file import load_book
    from bursar.core.pricelist import overrides_layer

    data = open_data(path)
    if settings is None:
        settings = settings_of(data)
    try:
        own = overrides_layer(settings.prices) if settings.prices else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    try:
        return load_book(data.path, own)
    except ValueError as error:
        way_out = "remove the file: the bundled prices apply then, until the next `bursar prices refresh`"
        raise ConfigError(f"{error}; {way_out}") from None


def open_books_file(data: DataDir, settings: Settings, *, any_thread: bool = False) -> BooksFile:
    """The books, for one thread; with ``any_thread`` for one at a time."""
    ttl_us = settings.hold_ttl_s * _US
    return BooksFile(
        data.books, clock_us=now_us, hold_ttl_us=ttl_us, durability=settings.durability, any_thread=any_thread
    )


@contextmanager
def open_books(path: Path | None) -> Generator[SyncBooks]:
    """The books, for what already happened; what was booked is in the ledger when this closes, if nobody else has it."""
    data = open_data(path)
    settings = settings_of(data)
    with closing(open_books_file(data, settings)) as books:
        yield _CountedBooks(books, (*budgets_in_force(settings, books), *watched_budgets(settings)))
        try:
            with open_ledger(data, books):
                pass
        except LedgerError:
            return  # a server has it and will ship


class _CountedBooks:
    """``engine.ports.SyncBooks``: what is booked counts toward these budgets."""

    def __init__(self, books: BooksFile, budgets: tuple[Budget, ...]) -> None:
        self._books = books
        self._budgets = budgets

    def observe(self, attempts: Iterable[Attempt]) -> int:
        from bursar.engine.claims import observed_claim

        if not self._budgets:
            return self._books.observe(attempts)
        return self._books.observe(attempts, budgets=partial(observed_claim, self._budgets))


@contextmanager
def open_queries(path: Path | None) -> Generator[Queries]:
    """The ledger, up to date with the books."""
    data = open_data(path)
    with closing(open_books_file(data, settings_of(data))) as books, open_ledger(data, books) as ledger:
        yield ledger


@contextmanager
def open_ledger(data: DataDir, books: BooksFile, *, wait_s: float = 10.0, threads: int | None = None) -> Generator[Any]:
    """The ledger's file, shipped to, for as long as this is open. Raises LedgerError when others keep it too long."""
    from bursar.adapters.ledger_duckdb import DuckLedger
    from bursar.engine.ship import ship, ship_traces

    with closing(DuckLedger(data.ledger, wait_s=wait_s, threads=threads)) as ledger:
        ship(books, ledger)
        if data.traces.exists():
            with closing(open_traces_file(data)) as traces:
                ship_traces(traces, ledger)
        yield ledger


def open_traces_file(data: DataDir, settings: Settings | None = None, *, any_thread: bool = False) -> TraceStore:
    """The store of traces, for one thread at a time."""
    from bursar.adapters.trace_store import TraceStore

    durability = settings.durability if settings else "process"
    return TraceStore(data.traces, clock_us=now_us, durability=durability, any_thread=any_thread)


def open_cache(data: DataDir, settings: Settings) -> CacheStore:
    """The store of the response cache. Raises ConfigError."""
    from bursar.adapters.cache_open import open_cache_store

    cache = settings.cache
    return open_cache_store(
        data.cache,
        store=cache.store,
        size_mb=cache.size_mb,
        memory_mb=cache.memory_mb,
        url_env=cache.url_env,
        encryption_env=cache.encryption_env,
        environment=os.environ,
        clock_us=now_us,
    )


def open_similar(data: DataDir) -> Similar:
    """What is known of similar questions, with the evidence of earlier runs. Raises ConfigError without numpy."""
    try:
        from bursar.engine.similar import Similar
    except ImportError:
        raise ConfigError(
            "similar questions (cache: semantic) need numpy: pip install 'bursar[server,semantic]'"
        ) from None
    similar = Similar(random.random)
    try:
        similar.answers.restore(msgspec.json.decode(data.evidence.read_bytes()))
    except FileNotFoundError:
        pass
    except (OSError, msgspec.DecodeError) as error:
        _log.error("%s cannot be read, the evidence for similar answers is collected anew: %s", data.evidence, error)
    return similar


def keep_evidence(data: DataDir, similar: Similar) -> None:
    """Write down what has changed. Raises OSError."""
    if not similar.changed:
        return
    made = data.evidence.with_suffix(".new")
    made.write_bytes(msgspec.json.encode(similar.answers.state()))
    made.replace(data.evidence)
    similar.changed = False


def embedder_of(client: HttpClient) -> EmbedderOf:
    """Makes embedders, each once: a local model takes a while to load."""

    @lru_cache(maxsize=64)
    def make(name: str, to: Destination | None, headers: tuple[tuple[str, str], ...]) -> Embedder:
        from bursar.adapters.embedders import EndpointEmbedder, FunctionEmbedder, LocalEmbedder, NgramEmbedder

        if to is not None:
            provider = to.rule.provider.id
            return EndpointEmbedder(client, to.dialect, url=to.url, headers=headers, model=name, provider=provider)
        module, colon, function = name.partition(":")
        if colon:
            try:
                return FunctionEmbedder(getattr(import_module(module), function), id=name)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's own code: whatever it raises, it is not there
                raise ConfigError(f"cache: semantic: embed: {name} cannot be loaded: {error}") from None
        return LocalEmbedder() if name == "local" else NgramEmbedder()

    return make


def configured_budgets(settings: Settings) -> tuple[Budget, ...]:
    """The budgets of bursar.yaml."""
    if not settings.budgets:
        return ()
    from bursar.adapters.zones import zone_of
    from bursar.core.budget_fields import parse_budgets

    return parse_budgets(settings.budgets, zone_of)


def budgets_in_force(settings: Settings, books: BooksFile) -> tuple[Budget, ...]:
    """Those of bursar.yaml and those that were set by command or API. Raises ConfigError or BooksError."""
    from bursar.adapters.budget_store import BudgetStore

    configured = configured_budgets(settings)
    names = {budget.name for budget in configured}
    stored = (each.budget for each in BudgetStore(books, now_us).list())
    return (*configured, *(budget for budget in stored if budget.name not in names))


def watched_budgets(settings: Settings) -> tuple[Budget, ...]:
    """The budgets that only count, for the alert rules on spend."""
    from bursar.core.alert_rules import watching

    return tuple(watched for rule in alert_settings_of(settings).rules if (watched := watching(rule)) is not None)


def alert_settings_of(settings: Settings) -> AlertSettings:
    """The alert rules and channels of bursar.yaml. Raises ConfigError."""
    from bursar.adapters.zones import zone_of
    from bursar.core.alert_fields import alert_settings

    try:
        return alert_settings(settings.alerts, zone_of)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def make_rulebook(data: DataDir, settings: Settings, budgets: tuple[Budget, ...] = ()) -> Rulebook:
    """The rulebook of these settings; provider keys are read from the environment here and nowhere else."""
    from bursar.engine.rulebook import Rulebook
    from bursar.wire.providers import providers

    rules = {row.id: _rule(row, row.base_url) for row in providers()}
    for name, own in settings.providers.items():
        rules[name] = _own_provider(name, own, rules)
    machine = {name for name, rule in rules.items() if _priced_by_machine(settings, rule.provider.price_id("/"))}
    return Rulebook(
        providers=rules,
        book=open_prices(data.path, settings),
        require_keys=settings.server.require_keys,
        body_bytes_max=settings.server.body_bytes_max,
        body_timeout_s=settings.server.body_timeout_s,
        concurrency_max=settings.server.concurrency_max,
        machine_priced=frozenset(machine),
        budgets=budgets,
        call_timeout_s=settings.server.call_timeout_s,
        tools=tool_prices(settings),
        routes=routes_of(settings, rules),
    )


def routes_of(settings: Settings, providers: Mapping[str, ProviderRule]) -> Routes:
    """The routes of bursar.yaml. Raises ConfigError, also for a rung at a provider that is not known."""
    from bursar.core.route_fields import parse_routes
    from bursar.core.routes import Routes

    if not settings.routes:
        return Routes()
    try:
        routes = parse_routes(settings.routes)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for route in routes.all:
        asked = {f"rungs[{index}]": rung.provider for index, rung in enumerate(route.rungs)}
        if route.cache is not None and (semantic := route.cache.semantic) is not None:
            for field, name in (("embed", semantic.embed), ("judge", semantic.judge)):
                asked[f"cache.semantic.{field}"] = name.partition("/")[0] if "/" in name else ""
        for field, provider in asked.items():
            if provider and provider not in providers:
                known = ", ".join(sorted(providers))
                raise ConfigError(f"routes.{route.name}.{field}: provider {provider!r} is not known; known are {known}")
    return routes


def tool_prices(settings: Settings) -> ToolPrices:
    """The tool price book of bursar.yaml. Raises ConfigError."""
    from bursar.core.tool_fields import parse_tools
    from bursar.core.tool_prices import ToolPrices

    try:
        return parse_tools(settings.tools) if settings.tools else ToolPrices()
    except ValueError as error:
        raise ConfigError(str(error)) from None


class OpenTreasury(NamedTuple):
    """Where an agent's own process holds and settles, and which providers its calls may be to."""

    treasury: Treasury
    providers: Mapping[str, ProviderRule]


def open_treasury(data: DataDir, settings: Settings, config: Path | None, server: str, key: str) -> OpenTreasury:
    """The books of this machine, or with ``server`` those of a Bursar there. Raises ConfigError or BooksError."""
    if server:
        from bursar.adapters.treasury_remote import RemoteTreasury

        plain = make_rulebook(data, settings)
        return OpenTreasury(RemoteTreasury(server, key, data.path, lambda: plain), plain.providers)
    from bursar.adapters.books_local import LocalBooks
    from bursar.adapters.traces_local import LocalTraces
    from bursar.engine.claims import Claims
    from bursar.engine.treasury import LocalTreasury, Notes
    from bursar.learn.sizes import Sizes

    notes = Notes(LocalTraces(lambda: open_traces_file(data, settings, any_thread=True)))
    books = LocalBooks(
        lambda: open_books_file(data, settings, any_thread=True),
        sweep=lambda file, alive: file.expire(before_us=now_us(), keep=alive.__contains__),
        beside=notes.write,
    )
    rulebook = _WatchedRulebook(data, settings, config, books)
    treasury = LocalTreasury(rulebook, books, notes, Claims(Sizes()))
    return OpenTreasury(treasury, rulebook().providers)


class _WatchedRulebook:
    """The rulebook of a process without a server: it looks every second whether somebody has changed what it is made of."""

    def __init__(self, data: DataDir, settings: Settings, config: Path | None, books: LocalBooks) -> None:
        self._data = data
        self._settings = settings
        self._config = config
        self._books = books
        self._stamp = self._seen()
        self._version = -1
        self._plain = make_rulebook(data, settings)
        self._current = self._plain
        self._looked_s = -_LOOK_EVERY_S
        self._look()

    def __call__(self) -> Rulebook:
        # No lock: a fork would leave it taken. Two who look at once find the same.
        if time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
            try:
                self._look()
            except BursarError as error:
                if not self._books.closed:
                    _log.error("what has changed is not used: %s", error)
        return self._current

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        stamp = self._seen()
        if stamp != self._stamp:
            self._stamp = stamp
            self._settings = load_settings(find_config(self._data, self._config))
            self._plain = make_rulebook(self._data, self._settings)
            self._version = -1
        version = self._books.ask(lambda file: file.data_version())
        if version != self._version:
            in_force = self._books.ask(lambda file: budgets_in_force(self._settings, file))
            self._version = version
            budgets = (*in_force, *watched_budgets(self._settings))
            self._current = replace(self._plain, budgets=budgets)

    def _seen(self) -> tuple[object, ...]:
        from bursar.adapters.prices_file import PRICES_FILE

        config = find_config(self._data, self._config)
        return config, stamp(config), stamp(self._data.path / PRICES_FILE)


def stamp(path: Path | None) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        about = path.stat() if path is not None else None
    except OSError:
        return None
    return None if about is None else (about.st_mtime_ns, about.st_size)


def _own_provider(name: str, own: ProviderSettings, rules: dict[str, ProviderRule]) -> ProviderRule:
    like = own.like or (name if name in rules else "openai")
    if like not in rules:
        raise ConfigError(
            f"providers.{name}.like: provider {like!r} is not known; known are {', '.join(sorted(rules))}"
        )
    if name not in rules and own.base_url is None:
        raise ConfigError(f"providers.{name}: Bursar does not know this provider: give its base_url")
    row = rules[like].provider
    if name not in rules:
        row = replace(row, id=name, prices="", router_prices="", key_env="")
    row = replace(row, key_env=own.key_env or row.key_env, prices=own.prices or row.prices)
    return _rule(row, (own.base_url or row.base_url).rstrip("/"))


def _rule(row: Provider, base_url: str) -> ProviderRule:
    from bursar.engine.rulebook import ProviderRule
    from bursar.wire.providers import split_url

    return ProviderRule(row, base_url, _key(row.key_env), row.host_terms(split_url(base_url)[0]))


def _key(name: str) -> str | None:
    return os.environ.get(name) or None if name else None


def _priced_by_machine(settings: Settings, provider: str) -> bool:
    models: list[dict[str, Any]] = settings.prices.get("models", [])
    return any(model.get("provider") == provider and "machine_per_hour" in model for model in models)
