"""``bursar cache``: what kept answers saved, and making them void."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click

from bursar.core.caching import CacheUse
from bursar.core.errors import CacheError
from bursar.views.cache import CacheReport, cache_report

from . import output
from .output import Column, Line, data_option, money, plural

if TYPE_CHECKING:
    from rich.console import Console

    from bursar.engine.ports import CacheStore

__all__ = ["cache"]

# name: module:attribute of the commands that are loaded when they are asked for.
_LAZY: Final = {"lint": "bursar.cli.cache_lint:lint"}
_NAMES: Final = {"model": "Model calls", "tool": "Tools"}


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _LAZY.get(cmd_name)
        if found is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = found.partition(":")
        return getattr(import_module(module), attribute)


@click.group(cls=_Group)
def cache() -> None:
    """Answers and results of tools that are kept: what they saved, and making them void."""


# --- stats ------------------------------------------------------------------------------------------------------


@cache.command()
@output.question_options
def stats(**options: Any) -> None:
    """What caches answered and saved, by tier, and what the stores hold.

    \b
    bursar cache stats --since 7d
    bursar cache stats --where team=search --json
    """
    question = output.ask(**options)
    if question.as_csv or question.limit:
        raise click.UsageError("--csv and --limit are not for this report: use --json")
    from bursar.compose import open_queries

    with output.usage_errors(), open_queries(question.data) as queries:
        report = cache_report(queries, **question.span)
    uses = _uses(question.data)
    if question.as_json:
        output.print_json({**report.to_json(), "stores": [use.to_json() for use in uses]})
        return
    if report.kinds:
        _print_report(output.new_console(), report)
    else:
        click.echo("No cache was asked yet. Routes keep answers with `cache` (docs/configuration.md),")
        click.echo("tools with @bursar.tool(cache=...) (docs/tools.md).")
    for use in uses:
        click.echo(use.to_text())


def _print_report(console: Console, report: CacheReport) -> None:
    columns = [
        Column("For", "text"),
        Column("Tier", "text"),
        Column("Answers"),
        Column("Share"),
        Column("Avoided"),
        *([Column("Cost unknown")] if report.unknown else []),
    ]
    lines: list[Line] = []
    for kind in report.kinds:
        name = _NAMES.get(kind.kind, kind.kind)
        for tier in kind.tiers:
            avoided = "unknown" if tier.unknown == tier.count else money(tier.avoided_nanousd)
            lines.append(Line([name, tier.tier, *_figures(tier.count, kind.share(tier)), avoided, f"{tier.unknown:,}"]))
        lines.append(Line([name, "all hits", *_figures(kind.hits, kind.share()), "", ""], style="bold"))
        lines.append(Line([name, "missed", *_figures(kind.misses, None), "", ""], style="dim"))
    output.print_table(console, columns, lines)
    paid = [
        f"{name} {money(upkeep.cost_nanousd)} ({plural(upkeep.calls, 'call')})"
        for name, upkeep in (("embeddings", report.embeddings), ("verification", report.verification))
        if upkeep.calls
    ]
    console.print(f"Avoided {money(report.avoided_nanousd)}; paid for it: {', '.join(paid) or 'nothing'}.")
    console.print(f"Net saved {money(report.net_nanousd)}. What was avoided is in no figure of spend.")
    if report.unknown or report.unpriced:
        console.print(
            f"Not known, and in no sum: what {plural(report.unknown, 'answer')} had cost, and what "
            f"{plural(report.unpriced, 'call')} for the cache cost.",
            style="yellow",
        )


def _figures(count: int, share: float | None) -> list[str]:
    return [f"{count:,}", "" if share is None else f"{share * 100:.1f}%"]


# --- clear ------------------------------------------------------------------------------------------------------


@cache.command()
@click.option("--tag", default="", help="What has this tag.")
@click.option("--route", default="", help="What was kept for this route; for a tool: tool:NAME.")
@click.option("--tenant", default="", help="What was kept for this tenant.")
@click.option("--key", default="", help="The entry with this key.")
@click.option("--all", "everything", is_flag=True, help="All of it.")
@click.option("--yes", is_flag=True, help="Do not ask before clearing all of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def clear(
    tag: str,
    route: str,
    tenant: str,
    key: str,
    everything: bool,
    yes: bool,
    as_json: bool,
    data: Path | None,
) -> None:
    """Remove kept answers that all of the options describe. Running processes notice within a second.

    \b
    bursar cache clear --tag orders
    bursar cache clear --route tool:crm.lookup --tenant user/acme/care//u_1
    """
    said = {"tag": tag, "route": route, "tenant": tenant, "key": key}
    wanted: dict[str, Any] = {name: value for name, value in said.items() if value}
    if bool(wanted) == everything:
        raise click.UsageError("say what to clear: --tag, --route, --tenant, --key, or all of it with --all")
    if everything:
        if not yes:
            click.confirm("Remove every kept answer?", abort=True, err=True)
        wanted = {"everything": True}
    removed = _on_each(data, lambda store: store.remove(**wanted))
    count = sum(each for _, each in removed)
    if as_json:
        output.print_json({"removed": count, "stores": [{"store": name, "removed": each} for name, each in removed]})
    else:
        click.echo(f"Removed {plural(count, 'answer')}.")
    if _is_in_memory(data):
        click.echo("cache.store is memory: what a running server keeps goes when it is started again.", err=True)


# --- stores -----------------------------------------------------------------------------------------------------


class _Use(NamedTuple):
    store: str
    use: CacheUse | None
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        if self.use is None:
            return {"store": self.store, "error": self.problem}
        use = self.use
        return {
            "store": self.store,
            "entries": use.entries,
            "bytes": use.bytes,
            "limit_bytes": use.limit_bytes,
            "evicted": use.evicted,
        }

    def to_text(self) -> str:
        if self.use is None:
            return f"{self.store}: {self.problem}"
        use = self.use
        limit = "" if use.limit_bytes is None else f" of {_megabytes(use.limit_bytes)}"
        evicted = f", {use.evicted:,} had to go for others" if use.evicted else ""
        return f"{self.store}: {use.entries:,} kept, {_megabytes(use.bytes)}{limit}{evicted}"


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"


def _uses(data: Path | None) -> list[_Use]:
    """What each store holds, or why that cannot be told: the rest of the report is worth having."""
    found: list[_Use] = []

    async def use(store: CacheStore) -> CacheUse:
        return await store.use()

    for name, opened in _stores(data):
        try:
            found.append(_Use(name, asyncio.run(_used(opened, use))))
        except CacheError as error:
            found.append(_Use(name, None, str(error)))
    return found


def _on_each(data: Path | None, work: Callable[[CacheStore], Coroutine[Any, Any, int]]) -> list[tuple[str, int]]:
    return [(name, asyncio.run(_used(opened, work))) for name, opened in _stores(data)]


async def _used(opened: Callable[[], CacheStore], work: Callable[[CacheStore], Coroutine[Any, Any, Any]]) -> Any:
    store = opened()
    try:
        return await work(store)
    finally:
        await store.close()


def _is_in_memory(data: Path | None) -> bool:
    from bursar.compose import open_data, settings_of

    return settings_of(open_data(data)).cache.store == "memory"


def _stores(data: Path | None) -> list[tuple[str, Callable[[], CacheStore]]]:
    """The file, where there is one, and the server that bursar.yaml names. What a process has in memory is its own."""
    from bursar.adapters.cache_open import open_cache_store
    from bursar.compose import now_us, open_data, settings_of

    where = open_data(data)
    settings = settings_of(where).cache

    def opened(store: str) -> Callable[[], CacheStore]:
        return lambda: open_cache_store(
            where.cache,
            store=store,
            size_mb=settings.size_mb,
            memory_mb=0,
            url_env=settings.url_env,
            encryption_env=None,  # nothing is read
            environment=os.environ,
            clock_us=now_us,
        )

    named = [("file", "sqlite")] if where.cache.exists() else []
    if settings.store == "redis":
        named.append(("server", "redis"))
    return [(name, opened(store)) for name, store in named]


# --- wrong ------------------------------------------------------------------------------------------------------


@cache.command()
@click.argument("call_id")
@data_option
def wrong(call_id: str, data: Path | None) -> None:
    """Say that the kept answer which a call was given is wrong.

    The running server forgets it. If it was found as similar, all answers of its kind are checked anew before one is given again.

    \b
    bursar cache wrong 01a216dbbfd277e72948b15bc8df301f
    """
    from bursar.compose import open_data

    directory = open_data(data)
    server = directory.server()
    if server is None or not server.get("url"):
        raise CacheError("no server runs on this data directory: `bursar cache clear --key KEY` forgets an answer")
    url = f"{server['url']}/api/v1/cache/wrong"
    headers = {"content-type": "application/json", "authorization": f"Bearer {directory.admin_token()}"}
    request = Request(url, data=json.dumps({"call_id": call_id}).encode(), headers=headers, method="POST")  # noqa: S310 - our own server
    try:
        with urlopen(request, timeout=_SERVER_S) as answer:  # noqa: S310 - our own server
            answer.read()
    except HTTPError as error:
        body = json.loads(error.read() or b"{}")
        raise CacheError(str(body.get("error", {}).get("message") or error)) from None
    except OSError as error:
        raise CacheError(f"the server at {server['url']} does not answer: {error}") from None
    click.echo(f"The answer that call {call_id} was given is forgotten.")


_SERVER_S: Final = 10
