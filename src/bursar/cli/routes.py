"""``bursar routes``: what became of the calls on each route, and which targets are left alone now."""

from __future__ import annotations

import urllib.request
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.views.routes import Figures, RouteFigures, RouteReport, names_of_routes, routes, targets
from bursar.views.spend import ROWS_MAX, first_and_last

from . import output
from .output import Column, Line, clean, compact, money

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["routes_command"]

_TABLE_ROWS: Final = 25
_NAMES_MAX: Final = 20
_STATES: Final = ("closed", "ready to be probed", "open")
_SERVER_WAIT_S: Final = 2
_FIGURES: Final = (
    *("calls", "share", "attempts", "errors", "cancelled", "p50_ms", "p95_ms", "cost_usd", "unpriced", "estimated"),
    *("avoided_usd", "causes"),
)
_WORDS: Final = {"open": "breaker open", "barred": "passed over"}


@click.command("routes")
@click.argument("route", default="")
@output.question_options
def routes_command(route: str, **options: Any) -> None:
    """Which rungs of each route answer, why others are left, what that costs; and the breakers of a running server.

    \b
    bursar routes --since 24h
    bursar routes fast --where team=search
    """
    question = output.ask(**options)
    machine = question.as_json or question.as_csv
    from bursar.compose import open_data, open_queries, settings_of

    with output.usage_errors(), open_queries(question.data) as queries:
        limit = question.limit or (ROWS_MAX if machine else _TABLE_ROWS)
        report = routes(queries, route=route, limit=limit, **question.span)
        if route and not report.routes:
            _check_name(route, {*settings_of(open_data(question.data)).routes, *names_of_routes(queries)})
        is_empty = not report.routes and first_and_last(queries) is None
        asked = targets(queries, route=route, **question.span) if route or question.span["where"] else None
    if question.as_csv:
        rows = [
            {"route": each["route"], **rung, "causes": " ".join(f"{cause}={n}" for cause, n in rung["causes"].items())}
            for each in report.to_json()["routes"]
            for rung in each["rungs"]
        ]
        output.print_csv(rows, ("route", "rung", "provider", "model", *_FIGURES))
        if text := _rolled_up(report):
            click.echo(text, err=True)
        return
    breakers = _breakers(open_data(question.data).server())
    if breakers is not None and asked is not None:
        breakers = [each for each in breakers if each[:2] in asked]
    if question.as_json:
        listed = (
            None
            if breakers is None
            else [dict(zip(("provider", "model", "state"), each, strict=True)) for each in breakers]
        )
        output.print_json({**report.to_json(), "breakers": listed})
    elif is_empty:
        output.print_nothing(None)
    else:
        _print(output.new_console(), report, breakers, route)


def _check_name(route: str, known: Collection[str]) -> None:
    """Refuse a route that is neither set up nor in the ledger."""
    if route in known:
        return
    if not known:
        raise click.ClickException(f"there is no route {route!r}: none is set up under `routes:` in bursar.yaml")
    listed = ", ".join(clean(name) for name in sorted(known)[:_NAMES_MAX])
    more = f", and {len(known) - _NAMES_MAX} more" if len(known) > _NAMES_MAX else ""
    raise click.ClickException(f"there is no route {clean(route)!r}; known are {listed}{more}")


def _rolled_up(report: RouteReport) -> str:
    if not report.rolled_up_attempts:
        return ""
    is_one = report.rolled_up_attempts == 1
    return (
        f"{output.plural(report.rolled_up_attempts, 'attempt')} older than the retention {'is' if is_one else 'are'} in no "
        "figure: only sums without the route are kept."
    )


def _breakers(server: Mapping[str, Any] | None) -> list[tuple[str, str, str]] | None:
    """Provider, model and state of every target that the running server knows; None where none runs, or answers."""
    if server is None:
        return None
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urllib.request.urlopen(f"{server.get('url', '')}/metrics", timeout=_SERVER_WAIT_S) as answer:  # noqa: S310 - our own server's address
            text: str = answer.read().decode()
    except (OSError, ValueError):
        return None
    return sorted(
        (sample.labels["provider"], sample.labels["model"], _STATES[int(sample.value)])
        for family in text_string_to_metric_families(text)
        if family.name == "bursar_breaker_state"
        for sample in family.samples
    )


def _print(console: Console, report: RouteReport, breakers: list[tuple[str, str, str]] | None, asked: str) -> None:
    if not report.routes and asked:
        console.print(f"No call on route {clean(asked)} matches.")
    elif not report.routes:
        console.print("No call on a route matches. Routes are set up under `routes:` in bursar.yaml.")
    for number, route in enumerate(report.routes):
        if number:
            console.print()
        _print_route(console, route)
    if report.more_rungs:
        console.print(f"{output.plural(report.more_rungs, 'more rung')} not shown; --limit shows more.", style="dim")
    console.print()
    if text := _rolled_up(report):
        console.print(text, style="dim")
    if breakers is None:
        console.print("No server answers on this data directory: how its breakers stand is not known.", style="dim")
        return
    left = [each for each in breakers if each[2] != "closed"]
    for provider, model, state in left:
        console.print(f"Breaker of {clean(provider)} {clean(model)}: {state}", style="red")
    if not left:
        console.print(f"No breaker is open ({output.plural(len(breakers), 'target')} in use).", style="dim")


def _print_route(console: Console, route: RouteFigures) -> None:
    whole = route.figures
    facts = [output.plural(whole.calls, "call"), output.plural(whole.attempts, "attempt")]
    if route.amplification is not None:
        facts[-1] += f" ({route.amplification:.2f} for each call that asked a provider)"
    facts.append(output.estimate(whole.cost_nanousd, whole.estimated))
    if whole.avoided_nanousd:
        facts.append(f"{money(whole.avoided_nanousd)} avoided by the cache")
    console.print(f"Route {clean(route.route)}", style="bold")
    console.print(", ".join(facts))
    columns = [
        Column("Rung", "text", width_min=8),
        Column("Model", "text", width_min=18),
        Column("Calls"),
        Column("Share", spare=3),
        Column("Errors"),
        Column("Cancelled", spare=5 if whole.cancelled else 9),
        Column("p50", spare=4),
        Column("p95", spare=1),
        Column("Cost"),
        Column("First rung left for", "text", width_min=20, spare=2),
    ]
    costs = output.aligned([output.estimate(rung.figures.cost_nanousd, rung.figures.estimated) for rung in route.rungs])
    lines = [
        Line(
            [
                clean(rung.rung),
                clean(f"{rung.provider}/{rung.model}" if rung.provider else ""),
                compact(rung.figures.calls),
                output.percent(rung.figures.calls, whole.calls),
                *(compact(count) if count else "" for count in (rung.figures.errors, rung.figures.cancelled)),
                output.duration(rung.figures.p50_ms),
                output.duration(rung.figures.p95_ms),
                cost,
                _causes(rung.figures),
            ]
        )
        for rung, cost in zip(route.rungs, costs, strict=True)
    ]
    output.print_table(console, columns, lines)
    if whole.unpriced:
        console.print(f"{output.plural(whole.unpriced, 'attempt')} unpriced, and not in the cost.", style="yellow")


def _causes(figures: Figures) -> str:
    return clean(", ".join(f"{_WORDS.get(cause, cause)} {compact(count)}" for cause, count in figures.causes.items()))
