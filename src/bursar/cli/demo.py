"""``bursar demo``: three simulated agents through the real gateway, and where their money went."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import webbrowser
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bursar.views.measures import Measures
from bursar.views.spend import Report

from . import output
from .output import Column, Line, clean, compact, money, plural

if TYPE_CHECKING:
    from rich.console import Console

    from bursar.demo import Finished, Summary

__all__ = ["demo"]

_TASKS: Final = 6
_WIDE: Final = 110
_ENDED: Final = {
    "error": "refused or failed",
    "cut": "cut off by the provider",
    "ended": "ended by a budget",
    "cancelled": "left by the reader",
    "expired": "never ended",
}


@click.command()
@click.option("--once", is_flag=True, help="Print the summary and stop, instead of serving the console.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON (with --once).")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31), help="Same seed, same totals.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.05, 1_000),
    help="1 takes about ten seconds, 0.2 is for watching.",
)
@click.option("--port", type=click.IntRange(0, 65_535), help="Port (default 4000, or a free one when it is taken).")
@click.option("--no-browser", is_flag=True, help="Do not open the console in the browser.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the data in this new directory (default: a temporary one).",
)
def demo(
    once: bool, as_json: bool, seed: int, speed: float, port: int | None, no_browser: bool, data: Path | None
) -> None:
    """Three simulated agents through the real gateway, then where their money went. No key and no network are needed.

    \b
    bursar demo                 until Ctrl-C, with the console in the browser
    bursar demo --once          the summary alone
    bursar demo --data DIR      keep the data
    """
    if as_json and not once:
        raise click.UsageError("--json prints one answer and ends: give --once as well")
    from bursar.demo import AGENTS, DemoError, Options, run

    async def finished(now: Finished) -> None:
        stop_progress()
        if as_json:
            output.print_json(now.summary.to_json())
            return
        console = output.new_console()
        _print_summary(console, now.summary)
        _print_next(console, now, kept=data is not None)
        if now.url is not None and not no_browser and _has_display():
            await asyncio.to_thread(webbrowser.open, now.url)

    with _quiet(), _progress({agent.name: agent.calls for agent in AGENTS}) as (advance, stop_progress):
        try:
            summary = asyncio.run(run(Options(seed, speed, port, data), progress=advance, finished=finished, once=once))
        except OSError as error:
            raise click.ClickException(str(error.strerror or error)) from error
        except DemoError as error:
            raise click.ClickException(str(error)) from error
    if summary is None:
        raise click.ClickException("stopped before the agents were done; there is no summary")
    if not once:
        click.echo("Stopped." if data else "Stopped; the demo's data is removed.", err=True)
    if not summary.agrees:
        sys.exit(1)


def _has_display() -> bool:
    """Whether a browser has somewhere to open: not in a pipe, and not on a Linux without a desktop."""
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.stdout.isatty() and bool(desktop)


@contextmanager
def _quiet() -> Generator[None]:
    """No warnings among the lines of the demo: the failures that it shows are simulated."""
    ours = logging.getLogger("bursar")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)


@contextmanager
def _progress(calls: dict[str, int]) -> Generator[tuple[Callable[[str], None], Callable[[], None]]]:
    """What to call after each call of an agent, and to end it: bars on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("calls"))
    bars = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    known = {name: bars.add_task(name, total=count) for name, count in calls.items()}
    with bars:
        yield lambda name: bars.advance(known[name]), bars.stop


# --- the summary ------------------------------------------------------------------------------------------------


def _print_summary(console: Console, summary: Summary) -> None:
    total = summary.by_agent.total
    agents = plural(len(summary.by_agent.rows), "agent")
    console.print("Where the money went", style="bold")
    console.print(
        f"{money(total.cost_nanousd)} for {plural(total.calls, 'call')} in {plural(len(summary.tasks), 'task')} of "
        f"{agents}: simulated providers, real prices."
    )
    console.print()
    _print_groups(console, "Agent", summary.by_agent)
    _print_groups(console, "Model", summary.by_model)
    _print_tasks(console, summary)
    _print_findings(console, summary)
    console.print()
    _print_proof(console, summary)


def _print_groups(console: Console, name: str, report: Report) -> None:
    columns = [
        Column(name, "text", width_min=26),
        Column("Calls"),
        Column("Input", spare=2),
        Column("Cached", spare=3),
        Column("Output", spare=1),
        Column("Cost"),
        Column("Share", spare=4),
        Column("", "bar", spare=5),
    ]
    # A refused call names the model that was asked for; it has no usage and is told of below.
    rows = [row for row in report.rows if row.measures.input_tokens or row.measures.cost_nanousd != 0]
    costs = output.aligned([_cost(row.measures) for row in rows])
    dearest = max((row.measures.cost_nanousd or 0 for row in rows), default=0)
    width, ascii_only = 24 if console.width >= _WIDE else 8, console.options.ascii_only
    lines = [
        Line(
            [
                clean(row.keys[0]),
                *(compact(count) for count in (m.calls, m.input_tokens, m.cache_read_tokens, m.output_tokens)),
                cost,
                output.percent(m.cost_nanousd, report.total.cost_nanousd),
                output.bar(m.cost_nanousd, dearest, width=width, ascii_only=ascii_only),
            ]
        )
        for row, cost in zip(rows, costs, strict=True)
        for m in (row.measures,)
    ]
    output.print_table(console, columns, lines)
    console.print()


def _cost(m: Measures) -> str:
    return output.estimate(m.cost_nanousd, m.estimated_calls)


def _print_tasks(console: Console, summary: Summary) -> None:
    columns = [
        Column("Dearest tasks", "text", width_min=24),
        Column("Agent", "text", spare=2),
        Column("User", "text", spare=4),
        Column("Sub-tasks", spare=3),
        Column("Calls"),
        Column("Cost"),
        Column("Share", spare=1),
    ]
    shown = summary.tasks[:_TASKS]
    runaways = {one.task.task for one in summary.runaways}
    costs = output.aligned([output.estimate(row.all_cost_nanousd, row.all_estimated_calls) for row in shown])
    lines = [
        Line(
            [
                *(clean(text) for text in (row.task, row.agent, row.user)),
                compact(row.task_count - 1) if row.task_count > 1 else "",
                compact(row.all_calls),
                cost,
                output.percent(row.all_cost_nanousd, summary.by_agent.total.cost_nanousd),
            ],
            "yellow" if row.task in runaways else "",
        )
        for row, cost in zip(shown, costs, strict=True)
    ]
    output.print_table(console, columns, lines)
    console.print()


def _print_findings(console: Console, summary: Summary) -> None:
    for one in summary.runaways:
        row = one.task
        console.print(
            f"Runaway: {clean(row.task)} made {plural(row.all_calls, 'call')}, {one.tool_calls:,} of them asked for "
            f"{clean(one.tool)} again. It cost {money(row.all_cost_nanousd)}; the median task of {clean(row.agent)} "
            f"cost {money(one.median_nanousd)}.",
            style="yellow",
        )
    step = summary.dearest_step
    console.print(
        f"Most expensive step: {money(step.cost_nanousd)} in {clean(step.task)}, {clean(step.model)} with "
        f"{compact(step.input_tokens)} tokens in ({compact(step.cache_write_tokens)} written to the cache, "
        f"{compact(step.cache_read_tokens)} read) and {compact(step.output_tokens)} out."
    )
    caching = summary.caching
    console.print(
        f"Prompt caches: {compact(caching.read_tokens)} tokens read, about {money(caching.saved_nanousd)} less than as "
        f"plain input; writing them cost about {money(caching.paid_more_nanousd)} more (estimates at each call's own "
        "price rows)."
    )
    for row in summary.by_status.rows:
        if row.keys[0] == "ok":
            continue
        m = row.measures
        billed = "nothing was billed" if m.cost_nanousd == 0 else f"billed anyway, {_cost(m)}"
        console.print(f"{plural(m.calls, 'call')} {_ENDED.get(row.keys[0], clean(row.keys[0]))}: {billed}.")
    total = summary.by_agent.total
    output.print_notes(console, total.unpriced_calls, total.estimated_calls, summary.reasons, 0)


def _print_proof(console: Console, summary: Summary) -> None:
    truth, differences = summary.truth, summary.verification.differences
    booked = summary.verification.ledger_rows
    if booked != summary.calls_made:
        console.print(f"The agents made {plural(summary.calls_made, 'call')}, the ledger has {booked:,}.", style="red")
    if differences:
        console.print(
            f"{plural(len(differences), 'difference')} between ledger and books; see `bursar verify`.", style="red"
        )
    else:
        console.print(f"{plural(booked, 'call')}, ledger and books agree.", style="green")
    if truth.differences:
        _print_lines(console, ["The ledger is not what the provider served:", *truth.differences], "red")
    else:
        console.print(
            f"The provider's own count agrees, token by token, in all {truth.calls:,} calls it completed.",
            style="green",
        )


def _print_next(console: Console, now: Finished, *, kept: bool) -> None:
    console.print()
    console.print("What next", style="bold")
    if now.url is not None:
        _print_lines(console, [f"  Console: {now.url}/"])
    if now.url is not None or kept:
        task = clean(now.summary.tasks[0].task)
        lines = [f"spend --by task --data {now.data}", f"task {task} --data {now.data}"]
        _print_lines(console, [f"  bursar {line}" for line in lines])
    if now.url is None:
        again = (
            [f"bursar up --data {now.data}"] if kept else ["bursar demo     the same with the console, until Ctrl-C"]
        )
        _print_lines(console, [f"  {line}" for line in again])
    else:
        console.print("Point a client here; any key will do, the answers are simulated:")
        _print_lines(console, [f"  export OPENAI_BASE_URL={now.url}/v1", f"  export ANTHROPIC_BASE_URL={now.url}"])
    console.print("Your own agents, with their own keys:")
    _print_lines(console, ["  bursar up", "  export OPENAI_BASE_URL=http://localhost:4000/v1"])
    if now.url is not None:
        console.print("Ctrl-C stops the demo" + ("." if kept else " and removes its data."), style="dim")


def _print_lines(console: Console, lines: Sequence[str], style: str = "") -> None:
    """Lines that may be copied: never wrapped."""
    for line in lines:
        console.print(line, style=style, soft_wrap=True)
