"""``bursar mcp``: an MCP server behind a proxy that holds, prices and attributes its tool calls."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from bursar.cli.output import data_option

if TYPE_CHECKING:
    from bursar.doors.mcp.metering import ServerName
    from bursar.doors.mcp.purse import Setting, TreasuryPurse

__all__ = ["mcp"]

_COLUMNS: Final = ("task", "parent_task", "session", "agent", "user", "team", "project", "org")
_KEY: Final = "BURSAR_KEY"
_CLOSE_S: Final = 10.0
_GRACE_S: Final = 5.0


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--url", help="A server that runs already, spoken to over Streamable HTTP, instead of CMD.")
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    help="Where to serve a server of --url; port 0 takes a free one.",
)
@click.option(
    "--name", default="", help="What its tools are called by: NAME.TOOL (default: what the server calls itself)."
)
@click.option("--task", default="", help="The task that calls are for, where they say nothing else.")
@click.option("--parent-task", default="", help="The task that this one stands below.")
@click.option("--budget", help="A limit on what the task may cost, such as 0.50.")
@click.option("--agent", default="", help="Likewise the agent, ...")
@click.option("--user", default="", help="... the user,")
@click.option("--team", default="", help="... the team,")
@click.option("--project", default="", help="... the project,")
@click.option("--session", default="", help="... the session,")
@click.option("--org", default="", help="... the organization.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label; may be given several times.")
@click.option(
    "--server", metavar="URL", help="A Bursar server to hold money at (key: $BURSAR_KEY); default: own books."
)
@click.option("--config", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="bursar.yaml to use.")
@data_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD [ARGS]...")
def mcp(
    url: str | None,
    listen: str,
    name: str,
    budget: str | None,
    labels: tuple[str, ...],
    server: str | None,
    config: Path | None,
    data: Path | None,
    command: tuple[str, ...],
    **columns: Any,
) -> None:
    """Run an MCP server behind a metering proxy: put it in front of the server's command.

    \b
      bursar mcp --agent researcher -- npx -y firecrawl-mcp
      bursar mcp --url https://mcp.example.com/mcp --listen 127.0.0.1:4001

    Tool calls cost what the tools section of bursar.yaml says (docs/tools.md), are held before they reach the server, and
    are refused where a budget has no more. Everything else passes as it is. Who they are for is said here, by
    BURSAR_CONTEXT and BAGGAGE in the environment, or by the _meta of a call.
    """
    if bool(url) == bool(command):
        raise click.UsageError("Say which server: its command after --, or --url, and not both.")
    setting = _setting(columns, labels, budget)
    host, port = _address(listen)
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise click.BadParameter(f"{url!r} is not an http(s) URL", param_hint="--url")
    with _purse(setting, server, config, data) as purse:
        code = _run(command, url, host, port, name, purse)
    sys.exit(code)


@contextmanager
def _purse(setting: Setting, server: str | None, config: Path | None, data: Path | None) -> Generator[TreasuryPurse]:
    """The money of this machine's books, or of a server; everything is written when this closes."""
    from bursar.adapters.ids import IdMaker
    from bursar.compose import find_config, now_us, open_data, open_treasury, settings_of
    from bursar.doors.mcp.purse import TreasuryPurse

    where = open_data(data)
    settings = settings_of(where, config)
    at, key = server or os.environ.get("BURSAR_SERVER", ""), os.environ.get(_KEY, "")
    treasury = open_treasury(where, settings, find_config(where, config), at, key).treasury
    purse = TreasuryPurse(treasury, setting, new_id=IdMaker(), now_us=now_us, wait_s=settings.budget_wait_s)
    try:
        yield purse
    finally:
        purse.close()
        if not treasury.close(_CLOSE_S):
            click.echo("bursar: not everything could be written; what was held is charged by estimate", err=True)


def _run(command: tuple[str, ...], url: str | None, host: str, port: int, name: str, purse: TreasuryPurse) -> int:
    from bursar.adapters.event_loop import run
    from bursar.doors.mcp.metering import ServerName
    from bursar.doors.mcp.stdio import run_stdio

    try:
        if url:
            return run(_serve(url, host, port, purse, ServerName(name, urlsplit(url).hostname or "")))
        # A server is somebody else's program: what it spends with our key, nobody has asked it to.
        environment = {key: value for key, value in os.environ.items() if key != _KEY}
        return run(run_stdio(command, purse, ServerName(name), environment=environment, clock_s=time.monotonic))
    except (FileNotFoundError, PermissionError) as error:
        raise click.UsageError(f"{command[0] if command else url}: {error.strerror}") from None
    except OSError as error:
        raise click.ClickException(str(error.strerror or error)) from error


async def _serve(url: str, host: str, port: int, purse: TreasuryPurse, name: ServerName) -> int:
    from bursar.adapters.http_server import HttpServer
    from bursar.doors.mcp.http import McpProxy, make_client

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    client = make_client()
    proxy = McpProxy(url, purse, name, client, clock_s=time.monotonic)
    server = HttpServer(proxy, host, port)
    await server.start()
    try:
        click.echo(f"The tools of {url} are metered on {server.url}{urlsplit(url).path or '/'}   Ctrl-C stops.")
        await stopped.wait()
    finally:
        await server.stop(_GRACE_S)
        await proxy.close()
        await client.close()
    return 0


def _setting(columns: dict[str, Any], labels: tuple[str, ...], budget: str | None) -> Setting:
    """Who the calls are for: what is said here, else by the environment."""
    from bursar.core.budget_fields import parse_money
    from bursar.core.scopes import Scope, make_labels
    from bursar.doors.mcp.purse import Setting
    from bursar.doors.sdk.frames import CONTEXT_VARIABLE, from_environment
    from bursar.wire.context import NO_TRACE, clean

    pairs = [label.partition("=") for label in labels]
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise click.BadParameter(f"{wrong[0]!r} is not NAME=VALUE", param_hint="--label")
    frame = from_environment(os.environ.get(CONTEXT_VARIABLE, ""), os.environ.get("BAGGAGE", ""))
    try:
        own = {name: clean(value) for name in _COLUMNS if (value := columns[name])}
        scope = Scope(**own, labels=make_labels((name, value) for name, _, value in pairs))
        limit = None if budget is None else parse_money(budget, "--budget")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if frame is not None:
        below = frame.scope if not scope.task or scope.task == frame.scope.task else _parent_of(frame.scope)
        scope = scope.over(below)
    if limit is not None and not scope.task:
        raise click.UsageError("--budget limits a task: say which with --task")
    return Setting(scope, frame.trace if frame is not None else NO_TRACE, limit)


def _parent_of(scope: Any) -> Any:
    """The scope of a new task that is begun within this one."""
    from dataclasses import replace

    return replace(scope, task="", parent_task=scope.task)


def _address(listen: str) -> tuple[str, int]:
    """A loopback address and a port: what is spent here is nobody else's to spend."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        local, number = False, -1
    if not local or not 0 <= number <= 65_535:
        raise click.BadParameter(
            f"{listen!r} is not ADDRESS:PORT of this machine, such as 127.0.0.1:4001", param_hint="--listen"
        )
    return host, number
