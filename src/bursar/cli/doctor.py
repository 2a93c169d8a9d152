"""``bursar doctor``: is everything in place?"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import click

from bursar.cli.output import clean, data_option, print_json
from bursar.core.errors import BursarError

if TYPE_CHECKING:
    from bursar.adapters.data_dir import DataDir
    from bursar.config import Settings
    from bursar.engine.ports import CacheStore, HttpUpstream
    from bursar.engine.rulebook import Rulebook

__all__ = ["Finding", "doctor"]

_DISK_BYTES_MIN = 500_000_000
_PRICES_AGE_DAYS_MAX = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it is, and what to do about it."""

    check: str
    state: Literal["ok", "note", "problem"]
    text: str


@click.command()
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="bursar.yaml to check.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def doctor(config: Path | None, as_json: bool, data: Path | None) -> None:
    """Check the installation, the data directory, configuration, prices, books and keys. Exit 1 on a problem."""
    found = list(_findings(data, config))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in found]})
    else:
        marks = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
        for finding in found:
            click.echo(f"{marks[finding.state]}  {finding.check}: {clean(finding.text)}")
    if any(finding.state == "problem" for finding in found):
        sys.exit(1)


def _findings(path: Path | None, config: Path | None) -> Iterator[Finding]:
    from bursar.compose import open_data, settings_of

    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()}")
    try:
        data = open_data(path)
    except BursarError as error:
        yield Finding("data directory", "problem", str(error))
        return
    yield from _disk(data)
    try:
        settings = settings_of(data, config)
    except BursarError as error:
        yield Finding("configuration", "problem", str(error))
        return
    prices = _prices(data, settings)
    yield from _configuration(data, settings, config, readable=prices.state != "problem")
    yield prices
    yield from _stores(data, settings)
    yield from _server(data)


def _disk(data: DataDir) -> Iterator[Finding]:
    free = shutil.disk_usage(data.path).free
    text = f"{data.path}, {free // 1_000_000:,} MB free"
    yield Finding("data directory", "ok" if free >= _DISK_BYTES_MIN else "problem", text)
    mode = data.path.stat().st_mode & 0o077
    if mode:
        yield Finding("data directory", "note", f"others may read {data.path}: chmod 700 keeps names and spend private")


def _configuration(data: DataDir, settings: Settings, config: Path | None, *, readable: bool) -> Iterator[Finding]:
    from bursar.compose import find_config, make_rulebook
    from bursar.server import check_address

    used = find_config(data, config)
    yield Finding("configuration", "ok", str(used) if used else "none; the defaults are used")
    if not readable:
        return  # without prices there are no rules to look at
    try:
        check_address(settings)
        rulebook = make_rulebook(data, settings)
    except BursarError as error:
        yield Finding("configuration", "problem", str(error))
        return
    keyed = sorted(name for name, rule in rulebook.providers.items() if rule.key)
    text = ", ".join(keyed) if keyed else "none; clients bring their own, virtual keys need one (e.g. OPENAI_API_KEY)"
    yield Finding("provider keys", "ok" if keyed else "note", text)
    for name in settings.providers:
        wanted = rulebook.providers[name].provider.key_env
        if wanted and not os.environ.get(wanted):
            yield Finding("provider keys", "note", f"{name} is configured and {wanted} is not set")
        row, base_url = rulebook.providers[name].provider, rulebook.providers[name].base_url
        if (prefix := urlsplit(row.base_url).path) and not urlsplit(base_url).path:
            text = (
                f"{name}: base_url {base_url} has no path, the usual one of its kind ends in {prefix}: is it missing?"
            )
            yield Finding("configuration", "note", text)

    yield from _routes(data, settings, rulebook)


def _routes(data: DataDir, settings: Settings, rulebook: Rulebook) -> Iterator[Finding]:
    """Rungs that could not be asked, and whether the cache of the routes can be opened."""
    routes = rulebook.routes.all
    for route in routes:
        for index, rung in enumerate(route.rungs):
            if not rung.provider:
                continue
            rule, name = rulebook.providers[rung.provider], f"{rung.provider}/{rung.model}"
            if not rule.key and (wanted := rule.provider.key_env):
                text = f"route {route.name}: {name} is passed over for clients of others: {wanted} is not set"
                yield Finding("routes", "note", text)
            if rulebook.book.find(rule.provider.price_id("/"), rung.model) is None:
                text = f"route {route.name}, rung {index + 1}: {name} has no price, so no cost can make a call leave it"
                yield Finding("routes", "note", text)
    if any(route.cache is not None for route in routes):
        yield from _cache(data, settings, rulebook)


def _cache(data: DataDir, settings: Settings, rulebook: Rulebook) -> Iterator[Finding]:
    """Whether the store opens, and what the routes compare similar questions with."""
    from bursar.compose import open_cache, open_similar

    similar = [
        (route.name, route.cache.semantic)
        for route in rulebook.routes.all
        if route.cache is not None and route.cache.semantic is not None
    ]
    try:
        asyncio.run(_closed(open_cache(data, settings)))
        if similar:
            open_similar(data)
    except (BursarError, ImportError) as error:
        yield Finding("cache", "problem", str(error))
        return
    yield Finding("cache", "ok", f"{settings.cache.store}, up to {settings.cache.size_mb} MB")
    for name, policy in similar:
        for field, model in (("embed", policy.embed), ("judge", policy.judge)):
            if model and (trouble := _trouble_with(model, rulebook)):
                text = f"route {name} gives no similar answers: {field}: {model}: {trouble}"
                yield Finding("cache", "problem", text)


def _trouble_with(model: str, rulebook: Rulebook) -> str:
    """Why an embedder or a judge cannot be had, "" where it can."""
    from bursar.compose import embedder_of

    provider, slash, _ = model.partition("/")
    if slash:
        rule = rulebook.providers[provider]  # the configuration has been read: it is known
        wanted = rule.provider.key_env
        return f"{wanted} is not set" if wanted and not rule.key else ""
    try:
        embedder_of(_NoClient())(model, None, ())
    except Exception as error:  # noqa: BLE001 - a module of the user's may raise anything
        return str(error) or repr(error)
    return ""


class _NoClient:
    """The HTTP client of embedders that ask nobody."""

    def attempt(self, *_args: object, **_options: object) -> HttpUpstream:
        raise AssertionError("nobody is asked here")


async def _closed(store: CacheStore) -> None:
    await store.use()
    await store.close()


def _prices(data: DataDir, settings: Settings) -> Finding:
    from bursar.adapters.prices_file import PRICES_FILE
    from bursar.compose import open_prices

    try:
        book = open_prices(data.path, settings)
    except BursarError as error:
        return Finding("prices", "problem", str(error))
    refreshed = data.path / PRICES_FILE
    if not refreshed.exists():
        return Finding("prices", "ok", f"{book.version}, the bundled ones (`bursar prices refresh` gets newer)")
    days = (datetime.now(timezone.utc).timestamp() - refreshed.stat().st_mtime) / 86_400
    state: Literal["ok", "note"] = "ok" if days <= _PRICES_AGE_DAYS_MAX else "note"
    return Finding("prices", state, f"{book.version}, refreshed {days:.0f} days ago (`bursar prices refresh`)")


def _stores(data: DataDir, settings: Settings) -> Iterator[Finding]:
    from bursar.compose import open_books_file, open_ledger

    try:
        with closing(open_books_file(data, settings)) as books:
            (integrity,) = books.connection.execute("PRAGMA quick_check(1)").fetchone()
            yield Finding("books", "ok" if integrity == "ok" else "problem", f"integrity {integrity}")
            holds = books.open_holds()
            if holds and data.server() is None:
                text = f"{holds} attempts never ended; the next `bursar up` charges their estimates"
                yield Finding("books", "note", text)
            with open_ledger(data, books) as ledger:
                rows = ledger.rows(
                    "SELECT count(*) AS n, count(*) FILTER (cost_nanousd IS NULL) AS unpriced FROM attempt"
                )
        yield Finding("ledger", "ok", f"{rows[0]['n']:,} attempts, in step with the books")
        if rows[0]["unpriced"]:
            text = f"{rows[0]['unpriced']:,} attempts have no known price: `bursar spend` names the reasons"
            yield Finding("ledger", "note", text)
    except (BursarError, OSError) as error:
        yield Finding("books and ledger", "problem", str(error))


def _server(data: DataDir) -> Iterator[Finding]:
    running = data.server()
    if running is None:
        yield Finding("server", "note", "not running on this data directory (`bursar up` starts it)")
        return
    url = running.get("url", "")
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310 - our own server's address
            yield Finding("server", "ok" if answer.status == 200 else "problem", f"{url}, process {running.get('pid')}")
    except (urllib.error.URLError, OSError, ValueError) as error:
        yield Finding(
            "server", "problem", f"process {running.get('pid')} holds the directory, {url} does not answer: {error}"
        )
