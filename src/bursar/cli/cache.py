"""``bursar cache``: what kept answers saved, and making them void."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import click

from bursar.core.caching import CacheUse
from bursar.core.errors import CacheError
from bursar.views.cache import CacheReport, Kind, Tier, cache_report

from . import output
from .output import Column, Line, clean, data_option, money, plural

if TYPE_CHECKING:
    from rich.console import Console

    from bursar.adapters.data_dir import DataDir

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
    from bursar.compose import open_queries

    question = output.ask(**options, limit=None, as_csv=False)

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


_FOR_ROWS: Final = ("limit", "as_csv")
stats.params = [option for option in stats.params if option.name not in _FOR_ROWS]  # this answer is no list of rows


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
        lines += [_tier_line(name, kind, tier) for tier in kind.tiers if tier.is_hit]
        lines.append(Line([name, "all hits", *_figures(kind.hits, kind.share(parts=1_000)), "", ""], style="bold"))
        lines.append(Line([name, "missed", *_figures(kind.misses, None), "", ""], style="dim"))
        lines += [_tier_line(name, kind, tier) for tier in kind.tiers if not tier.is_hit]
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


def _tier_line(name: str, kind: Kind, tier: Tier) -> Line:
    avoided = "unknown" if tier.unknown == tier.count else money(tier.avoided_nanousd)
    figures = _figures(tier.count, kind.share(tier, parts=1_000))
    return Line([name, tier.tier, *figures, avoided, f"{tier.unknown:,}"])


def _figures(count: int, permille: int | None) -> list[str]:
    return [f"{count:,}", "" if permille is None else f"{permille // 10}.{permille % 10}%"]


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
    if not wanted and not everything:
        raise click.UsageError("say what to clear: --tag, --route, --tenant, --key, or all of it with --all")
    if wanted and everything:
        options = " and ".join(f"--{name}" for name in wanted)
        raise click.UsageError(f"--all clears everything, {options} only a part of it: give one or the other")
    if everything:
        if not yes:
            click.confirm("Remove every kept answer?", abort=True, err=True)
        wanted = {"everything": True}
    removed = _cleared(data, wanted)
    count = sum(removed.values())
    if as_json:
        output.print_json(
            {"removed": count, "stores": [{"store": name, "removed": each} for name, each in removed.items()]}
        )
    else:
        click.echo(f"Removed {plural(count, 'answer')}.")


# --- stores -----------------------------------------------------------------------------------------------------


class _Use(NamedTuple):
    store: str
    use: CacheUse | None
    problem: str = ""

    def is_like(self, other: _Use) -> bool:
        """Whether both tell of the same: what has no limit is a store that estimates its bytes."""
        use, its = self.use, other.use
        if use is None or its is None:
            return False
        return use == its if use.limit_bytes is not None else (use.entries, None) == (its.entries, its.limit_bytes)

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
        limit = "" if use.limit_bytes is None else f" of {_size(use.limit_bytes)}"
        evicted = f", {use.evicted:,} had to go for others" if use.evicted else ""
        return f"{self.store}: {use.entries:,} kept, {_size(use.bytes)}{limit}{evicted}"


def _size(count: int) -> str:
    return f"{count / 1_000:,.1f} kB" if count < _MB else f"{count / _MB:,.1f} MB"


_MB: Final = 1_000_000


class _Store(Protocol):
    """What is asked of a store here."""

    async def remove(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int: ...

    async def use(self) -> CacheUse: ...

    async def close(self) -> None: ...


class _InServer:
    """The cache as the running server has it: what is in its memory, and what is under way."""

    def __init__(self, directory: DataDir) -> None:
        self._directory = directory

    async def remove(self, *, everything: bool = False, **said: str) -> int:
        query = urlencode({"all": "true"} if everything else {name: value for name, value in said.items() if value})
        return _asked(self._directory, "DELETE", f"/api/v1/cache?{query}")["removed"]

    async def use(self) -> CacheUse:
        return CacheUse(**_asked(self._directory, "GET", "/api/v1/cache"))

    async def close(self) -> None:
        pass


def _uses(data: Path | None) -> list[_Use]:
    """What each store holds, or why that cannot be told: the rest of the report is worth having. A running server may have been
    given another bursar.yaml than this command: what it has is shown, too, where it is not one of these stores."""
    from bursar.compose import open_data

    found: list[_Use] = []

    async def use(store: _Store) -> CacheUse:
        return await store.use()

    directory = open_data(data)
    stores = _stores(data)
    if _is_unseen(directory, stores):
        stores.append(("server", lambda: _InServer(directory)))
    for name, opened in stores:
        try:
            told = _Use(name, asyncio.run(_used(opened, use)))
        except CacheError as error:
            told = _Use(name, None, str(error))
        if not (name == "server" and any(map(told.is_like, found))):
            found.append(told)
    return found


def _is_unseen(directory: DataDir, stores: list[tuple[str, Callable[[], _Store]]]) -> bool:
    """Whether a server runs that is not among the stores."""
    return directory.server() is not None and all(name != "memory" for name, _ in stores)


def _cleared(data: Path | None, wanted: Mapping[str, Any]) -> Counter[str]:
    """How many went from each store. A running server is told first: it keeps nothing then of what is under way."""
    from bursar.compose import open_data

    removed: Counter[str] = Counter()
    directory = open_data(data)
    stores = _stores(data)
    if _is_unseen(directory, stores):
        try:
            removed["server"] = asyncio.run(_InServer(directory).remove(**wanted))
        except CacheError as error:
            click.echo(f"Answers that are under way may be kept: {error}", err=True)
    for name, opened in stores:
        removed[name] += asyncio.run(_used(opened, lambda store: store.remove(**wanted)))
    return removed


async def _used(opened: Callable[[], _Store], work: Callable[[_Store], Coroutine[Any, Any, Any]]) -> Any:
    store = opened()
    try:
        return await work(store)
    finally:
        await store.close()


def _stores(data: Path | None) -> list[tuple[str, Callable[[], _Store]]]:
    """The file, where there is one (results of tools are kept in it whatever ``cache.store`` is), and what bursar.yaml names."""
    from bursar.adapters.cache_open import open_cache_store
    from bursar.compose import now_us, open_data, settings_of

    where = open_data(data)
    settings = settings_of(where).cache

    def opened(store: str) -> Callable[[], _Store]:
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

    found = [("sqlite", opened("sqlite"))] if where.cache.exists() else []
    if settings.store == "redis":
        found.append(("redis", opened("redis")))
    if settings.store == "memory" and where.server() is not None:  # without one there is no memory
        found.append(("memory", lambda: _InServer(where)))
    return found


# --- the running server -----------------------------------------------------------------------------------------


_SERVER_S: Final = 10


def _asked(directory: DataDir, method: str, path: str, body: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the server that runs on this data directory answers. Raises CacheError."""
    url = (directory.server() or {}).get("url")
    if not url:
        raise CacheError("no server runs on this data directory")
    headers = {"content-type": "application/json", "authorization": f"Bearer {directory.admin_token()}"}
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{url}{path}", data=data, headers=headers, method=method)  # noqa: S310 - our own server
    try:
        with urlopen(request, timeout=_SERVER_S) as answer:  # noqa: S310 - our own server
            return json.loads(answer.read())
    except HTTPError as error:
        raise CacheError(_said(error)) from None
    except (OSError, ValueError) as error:
        raise CacheError(f"the server at {url} does not answer: {error}") from None


def _said(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (OSError, ValueError, LookupError, TypeError):
        return str(error)


# --- wrong ------------------------------------------------------------------------------------------------------


@cache.command()
@click.argument("call_id")
@data_option
def wrong(call_id: str, data: Path | None) -> None:
    """Say that the kept answer which a call was given is wrong.

    CALL_ID is a call's id (the header x-bursar-call-id), its beginning, or `last`, of a call since the server's last start.

    The running server forgets the answer. If it was found as similar, all answers of its kind are checked anew before one is given
    again.

    \b
    bursar cache wrong 01a216dbbfd277e72948b15bc8df301f
    """
    from bursar.compose import open_data

    call_id = _whole_id(data, call_id)
    directory = open_data(data)
    if not (directory.server() or {}).get("url"):
        raise CacheError("no server runs on this data directory: `bursar cache clear --key KEY` forgets an answer")
    _asked(directory, "POST", "/api/v1/cache/wrong", {"call_id": call_id})
    click.echo(f"The answer that call {clean(call_id)} was given is forgotten.")


def _whole_id(data: Path | None, call_id: str) -> str:
    """The call of a model that is meant, as `bursar why` finds it. What the ledger does not know, the server may."""
    from bursar.compose import open_queries
    from bursar.views.why import SeveralCalls, WhyCall, why

    with open_queries(data) as queries:
        found = why(queries, call_id)
    if isinstance(found, SeveralCalls):
        raise click.ClickException(f"several calls begin with {clean(call_id)!r}; give more of the id")
    if isinstance(found, WhyCall) and found.by.step.kind == "tool":
        route = shlex.quote(f"tool:{clean(found.by.step.model_asked)}")
        raise click.ClickException(
            f"call {clean(found.call_id)} is one of a tool: `bursar cache clear --route {route}` forgets its results"
        )
    return found.call_id if isinstance(found, WhyCall) else call_id
