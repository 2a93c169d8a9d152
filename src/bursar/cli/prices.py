"""``bursar prices``: what a model costs and why, and newer prices.

Exit codes: 0 done or nothing to do, 1 refused or failed (nothing has changed), 2 a mistake in the command.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click

from bursar.adapters.prices_genai import DEFAULT_URL
from bursar.cli import output
from bursar.core.price_merge import LARGE_MOVE, Change, Merged
from bursar.core.prices import BASIS, ModelPrices, PriceBook, PriceEntry, price_row
from bursar.core.usage import UNIT_INDEX, UNITS

__all__ = ["prices"]

_SHOWN_MAX: Final = 50
_SUGGESTED_MAX: Final = 8


def _day(_: click.Context, parameter: click.Parameter, text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a date: write YYYY-MM-DD", param=parameter) from None


@click.group()
def prices() -> None:
    """Show, compare and refresh prices. Past prices are never overwritten."""


@prices.command()
@click.argument("model", required=False)
@click.option("--provider", help="Only this provider's prices.")
@click.option("--at", metavar="DATE", callback=_day, help="Only what is in force then.")
@output.data_option
@click.option("--json", "as_json", is_flag=True, help="Exact figures as JSON.")
def show(model: str | None, provider: str | None, at: date | None, data: Path | None, as_json: bool) -> None:
    """Print every rate of MODEL.

    With its unit, tier, terms, dates and, on a wide terminal, the name of its price row. Without MODEL and --provider: the providers with prices.
    """
    from bursar.compose import open_prices

    book = open_prices(data)
    if provider is not None and provider not in book.providers():
        raise click.ClickException(f"no prices for provider {provider!r}; 'bursar prices show' lists the providers")
    if model is None and provider is None:
        _show_providers(book, as_json=as_json)
        return
    rows: list[dict[str, Any]] = []
    for name in (provider,) if provider else book.providers():
        found = book.models(name) if model is None else tuple(filter(None, [book.find(name, model)]))
        rows += (row for one in found for row in _rates(name, one, at))
    if model is not None and not rows:
        raise click.ClickException(_not_found(book, model, provider))
    factors = _factors(book, model, {row["provider"] for row in rows}) if model else []
    if as_json:
        output.print_json({"price_book": book.version, "rows": rows, "factors": factors})
        return
    _print_rates(rows)
    for factor in factors:
        conditions = ", ".join(
            filter(None, (factor["terms"], *(f"{k} {factor[k]}" for k in ("from", "until") if factor[k])))
        )
        click.echo(output.clean(f"x{factor['factor']} on tokens: {conditions or 'always'} ({factor['source']})"))
    click.echo(f"\nPrice book {book.version}. Calls under other terms than these cost the standard rates.")


_SOURCE: Final = click.option(
    "--from", "source", default=DEFAULT_URL, metavar="SOURCE", help="'package', a file, or an http(s) URL."
)


@prices.command()
@_SOURCE
@output.data_option
@click.option("--json", "as_json", is_flag=True, help="Every change as JSON.")
def diff(source: str, data: Path | None, as_json: bool) -> None:
    """Show what a refresh would change. Changes nothing.

    SOURCE is 'package' (the installed genai-prices), a file, or an http(s) URL; without it, what genai-prices publishes.
    """
    with _failures(source):
        _, merged = _planned(data, source)
    _print_changes(merged, source, as_json=as_json, done=None)


@prices.command()
@_SOURCE
@click.option("--accept", is_flag=True, help=f"Also take moves of more than {LARGE_MOVE:.0%}, and to or from 0.")
@output.data_option
@click.option("--json", "as_json", is_flag=True, help="Every change as JSON.")
def refresh(source: str, accept: bool, data: Path | None, as_json: bool) -> None:
    """Take newer prices, by default those that genai-prices publishes.

    A price that differs applies from today (UTC) on; calls of earlier days keep theirs.
    """
    from bursar.adapters.prices_refresh import write_refresh

    with _failures(source):
        directory, merged = _planned(data, source)
        refused = [change for change in merged.changes if change.large]
        if refused and not accept:
            _print_changes(Merged({}, tuple(refused), ()), source, as_json=as_json, done=None)
            raise click.ClickException(
                f"refused: {output.plural(len(refused), 'large move')} (more than {LARGE_MOVE:.0%}, to or from 0, or"
                " to another model); nothing has changed. Look at them, then add --accept"
            )
        version = ""
        if merged.changes:
            version = write_refresh(directory, merged, source=source, now=datetime.now(timezone.utc))
    _print_changes(merged, source, as_json=as_json, done=version)


def _planned(data: Path | None, source: str) -> tuple[Path, Merged]:
    from bursar.adapters.data_dir import DataDir, default_data_dir
    from bursar.adapters.prices_refresh import plan_refresh, read_source

    directory = DataDir(data or default_data_dir()).path
    return directory, plan_refresh(directory, read_source(source), today=datetime.now(timezone.utc).date())


@contextmanager
def _failures(source: str) -> Generator[None]:
    """A source that cannot be read or trusted is one line on standard error."""
    try:
        yield
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or reason
        said = str(reason) if source in str(reason) else f"{source}: {reason}"
        other = "; without a network: --from package (the installed genai-prices) or --from FILE"
        raise click.ClickException(f"{said}; no price has changed{other if '://' in source else ''}") from None
    except ValueError as error:
        raise click.ClickException(f"{error}; no price has changed") from None


# --- what there is ----------------------------------------------------------------------------------------------


def _rates(provider: str, model: ModelPrices, at: date | None) -> Iterator[dict[str, Any]]:
    standard, variants = model.standard, model.variants
    if at is not None:
        standard, variants = _in_force(model, at)
    for entry in (*standard, *variants):
        for unit, tiers in entry.rates.items():
            for over, rate in tiers:
                yield {
                    "provider": provider,
                    "model": model.id,
                    "unit": unit,
                    "usd": f"{rate.usd_per(BASIS[unit]):f}",
                    "per": _basis(unit),
                    "over_input_tokens": over,
                    "terms": ",".join(f"{term}={value}" for term, value in entry.when),
                    "from": entry.start,
                    "hours": _hours(entry),
                    "price_row": price_row(provider, model, unit, entry) + (f";over={over}" if over else ""),
                    "source": model.source,
                }


def _in_force(model: ModelPrices, at: date) -> tuple[Sequence[PriceEntry], Sequence[PriceEntry]]:
    """The entries that apply at some minute of a day."""
    midnight = datetime(at.year, at.month, at.day, tzinfo=timezone.utc)
    minutes = {0, *(minute for entry in model.standard for minute in entry.daily or ())}
    moments = [midnight + timedelta(minutes=minute) for minute in minutes]
    used: set[int] = set()
    for moment in moments:
        active = [i for i, entry in enumerate(model.standard) if entry.active(moment)]
        used |= set(active[-1:] or [0])
    standard = [entry for i, entry in enumerate(model.standard) if i in used]
    variants: dict[tuple[Any, ...], PriceEntry] = {}
    for entry in model.variants:
        if not entry.start or entry.start <= at.isoformat():
            variants.setdefault((entry.when, entry.daily), entry)
    return standard, list(variants.values())


def _factors(book: PriceBook, model: str, providers: set[str]) -> list[dict[str, str]]:
    return [
        {
            "provider": provider,
            "factor": f"{one.factor.normalize():f}",
            "terms": ",".join(f"{term}={value}" for term, value in one.when),
            "from": one.start,
            "until": one.end,
            "source": one.source,
        }
        for provider in sorted(providers)
        for one in book.multipliers(provider, model)
    ]


def _basis(unit: str) -> str:
    """What a listed price buys, in words: ``1M tokens``, ``hour``, ``1k searches``."""
    dimensions = UNITS[UNIT_INDEX[unit]].dimensions
    if unit.endswith("_ms"):
        return "hour"
    noun = "tokens" if "tokens" in dimensions else unit.replace("_", " ")
    return {1: noun.removesuffix("s"), 1_000: f"1k {noun}", 1_000_000: f"1M {noun}"}[BASIS[unit]]


def _hours(entry: PriceEntry) -> str:
    return "-".join(f"{m // 60:02d}:{m % 60:02d}" for m in entry.daily) + " UTC" if entry.daily else ""


def _not_found(book: PriceBook, model: str, provider: str | None) -> str:
    wanted = model.lower()
    names = (provider,) if provider else book.providers()
    known = {one.id.lower(): f"{name}/{one.id}" for name in names for one in book.models(name)}
    near = [title for key, title in known.items() if wanted in key] or [
        known[key] for key in get_close_matches(wanted, known, n=_SUGGESTED_MAX)
    ]
    listing = f"bursar prices show --provider {provider or 'PROVIDER'}"
    hint = f"; like it: {', '.join(near[:_SUGGESTED_MAX])}" if near else f"; `{listing}` lists what there is"
    return f"no price for model {model!r}{f' of {provider!r}' if provider else ''}{hint}"


def _show_providers(book: PriceBook, *, as_json: bool) -> None:
    rows = [{"provider": name, "models": len(book.models(name))} for name in book.providers()]
    if as_json:
        output.print_json({"price_book": book.version, "rows": rows})
        return
    columns = (output.Column("provider", "text"), output.Column("models"))
    lines = [output.Line((output.clean(str(row["provider"])), f"{row['models']:,}")) for row in rows]
    output.print_table(output.new_console(), columns, lines)
    click.echo(f"\nPrice book {book.version}. 'bursar prices show MODEL' shows the rates of a model.")


def _print_rates(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line per rate, below a line per model."""
    columns = (
        output.Column("unit", "text", width_min=30),
        output.Column("USD"),
        output.Column("per"),
        output.Column("over", spare=0 if any(row["over_input_tokens"] for row in rows) else 4),
        output.Column("terms", "text", width_min=22, spare=0 if any(row["terms"] for row in rows) else 5),
        output.Column("from", spare=0 if any(row["from"] for row in rows) else 3),
        output.Column("hours", spare=1 if any(row["hours"] for row in rows) else 6),
        output.Column("price row", "text", spare=7),
    )
    keys = ("over_input_tokens", "terms", "from", "hours", "price_row")
    lines: list[output.Line] = []
    for name, rates in groupby(rows, key=lambda row: f"{row['provider']}/{row['model']}"):
        lines.append(output.Line([output.clean(name), "", "", *("" for _ in keys)], "bold"))
        for row in rates:
            per = "1k" if row["per"].startswith("1k ") else row["per"]  # of what, says the unit
            cells = (f"  {row['unit']}", row["usd"], per, *(_cell(row[key]) for key in keys))
            lines.append(output.Line([output.clean(cell) for cell in cells]))
    output.print_table(output.new_console(), columns, lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and value else str(value or "")


# --- what changes -----------------------------------------------------------------------------------------------


def _print_changes(merged: Merged, source: str, *, as_json: bool, done: str | None) -> None:
    """``done`` is the new version, "" when there was nothing to change, None when nothing was to be written."""
    large = sum(change.large for change in merged.changes)
    if as_json:
        output.print_json(
            {
                "source": source,
                "version": done or None,
                "changes": [asdict(change) for change in merged.changes],
                "kept": list(merged.kept),
                "needs_accept": large > 0,
            }
        )
        return
    for change in merged.changes[:_SHOWN_MAX]:
        click.echo(output.clean(_sentence(change)))
    if (more := len(merged.changes) - _SHOWN_MAX) > 0:
        click.echo(f"... and {output.plural(more, 'more change')}; --json lists all.")
    for name in merged.kept[:_SUGGESTED_MAX]:
        click.echo(output.clean(f"kept: {name}: the source no longer prices it"))
    if not merged.changes:
        click.echo(f"No change: the prices in force are those of {source}.")
    elif done:
        click.echo(f"{output.plural(len(merged.changes), 'change')}. Price book {done} is in force.")
    elif done is None:
        click.echo(f"{output.plural(len(merged.changes), 'change')}, {large} of them large. Nothing has been written.")


def _sentence(change: Change) -> str:
    what = f"{change.provider}/{change.model}" if change.model else change.provider
    mark = "! " if change.large else "  "
    if change.kind not in ("price", "price added"):
        moved = f": now finds {change.new!r}" if change.kind == "name moved" else ""
        return f"{mark}{change.kind}: {what}{moved}"
    details = [change.terms, f"over {change.over:,} input tokens" if change.over else ""]
    details += [f"from {change.start}", f"at {change.hours} UTC" if change.hours else ""]
    move = f"{change.old or 'none'} -> {change.new} USD per {_basis(change.unit)}"
    return f"{mark}{what} {change.unit}: {move}{_percent(change)} ({', '.join(filter(None, details))})"


def _percent(change: Change) -> str:
    if not change.old or not change.new or not (old := Decimal(change.old)):
        return ""
    return f", {(Decimal(change.new) - old) / old:+.1%}"
