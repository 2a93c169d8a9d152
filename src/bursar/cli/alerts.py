"""``bursar alerts``: what fires, which notices got where, and whether the channels work."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bursar.cli.output import Column, Line, clean, data_option, new_console, plural, print_json, print_table
from bursar.core.errors import ConfigError

if TYPE_CHECKING:
    from bursar.adapters.alert_store import AlertStore, StoredAlert, StoredDelivery
    from bursar.core.alert_fields import AlertSettings
    from bursar.core.deliveries import Outcome

__all__ = ["alerts"]

_LIMIT: Final = 500
_RECENT_US: Final = 86_400_000_000
_OPENING: Final = ("pagerduty", "alertmanager")


@contextmanager
def _store(data: Path | None) -> Generator[tuple[AlertStore, AlertSettings]]:
    from bursar.adapters.alert_store import AlertStore
    from bursar.compose import open_books_file, open_data, settings_of

    where = open_data(data)
    settings = settings_of(where)
    with closing(open_books_file(where, settings)) as books:
        yield AlertStore(books), _alerts_of(settings.alerts)


def _alerts_of(raw: dict[str, object]) -> AlertSettings:
    from bursar.adapters.zones import zone_of
    from bursar.core.alert_fields import alert_settings

    try:
        return alert_settings(raw, zone_of)
    except ValueError as error:  # the file was checked when it was loaded; settings made otherwise were not
        raise ConfigError(str(error)) from None


@click.group()
def alerts() -> None:
    """Alerts: what fires, the notices that were sent, and the channels they go to."""


@alerts.command("list")
@click.option("--all", "everything", is_flag=True, help="Also what is long over, and notices that were sent.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def list_(everything: bool, as_json: bool, data: Path | None) -> None:
    """List what fires and what was over in the last day, notices that wait, and dead letters."""
    from bursar.compose import now_us

    with _store(data) as (store, settings):
        since_us = 0 if everything else now_us() - _RECENT_US
        found = store.alerts(limit=_LIMIT, since_us=since_us)
        deliveries = store.deliveries(limit=_LIMIT, sent=everything)
    if as_json:
        print_json(
            {"alerts": [_alert_row(one) for one in found], "deliveries": [_delivery_row(one) for one in deliveries]}
        )
        return
    if found:
        _print_alerts(found)
    else:
        click.echo("Nothing fires." if everything else "Nothing fires, and nothing did in the last day.")
    if deliveries:
        _print_deliveries(deliveries)
    if dead := [one for one in deliveries if one.state == "dead"]:
        click.echo(f"{plural(len(dead), 'dead letter')}: send again with `bursar alerts retry`.", err=True)
    if not settings.channels:
        click.echo("No channel is configured: alerts are only seen here and in the log. See docs/alerts.md.", err=True)


def _print_alerts(found: list[StoredAlert]) -> None:
    columns = [
        Column("alert", "text", width_min=40),
        Column("severity", "text", spare=1),
        Column("since (UTC)", "text"),
        Column("state", "text"),
    ]
    lines = [
        Line(
            [
                clean(one.condition.annotation("summary")),
                clean(one.condition.label("severity")),
                _minute(one.fired_us),
                "firing" if one.resolved_us is None else f"over {_minute(one.resolved_us)}",
            ],
            style="" if one.resolved_us is None else "dim",
        )
        for one in found
    ]
    print_table(new_console(), columns, lines)


def _print_deliveries(found: list[StoredDelivery]) -> None:
    columns = [
        Column("notice"),
        Column("channel", "text"),
        Column("event", "text", spare=1),
        Column("state", "text"),
        Column("attempts", spare=2),
        Column("why", "text", width_min=40),
    ]
    lines = [
        Line(
            [
                str(one.id),
                clean(one.channel),
                one.event,
                one.state if one.state != "pending" else f"next {_minute(one.next_us)}",
                str(one.attempts),
                clean(one.error or one.summary),
            ]
        )
        for one in found
    ]
    click.echo()
    print_table(new_console(), columns, lines)


@alerts.command("test")
@click.argument("channel", required=False)
@click.option("--config", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="bursar.yaml to use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def test_(channel: str | None, config: Path | None, as_json: bool, data: Path | None) -> None:
    """Send a notice marked as a test to CHANNEL, or to every channel. Exit code 1 when one did not take it."""
    import asyncio

    from bursar.compose import open_data, settings_of

    settings = _alerts_of(settings_of(open_data(data), config).alerts)
    names = [spec.name for spec in settings.channels]
    if channel is not None and channel not in names:
        raise click.UsageError(f"there is no channel {channel!r}; configured are {', '.join(names) or 'none yet'}")
    if not names:
        raise click.ClickException("no channel is configured: add one under alerts.channels, see docs/alerts.md")
    outcomes = asyncio.run(_send_tests(settings, [channel] if channel is not None else names))
    failed = {name: reason for name, outcome in outcomes.items() if (reason := getattr(outcome, "reason", None))}
    if as_json:
        print_json({"channels": [{"name": n, "sent": n not in failed, "error": failed.get(n)} for n in outcomes]})
    else:
        kinds = {spec.name: spec.kind for spec in settings.channels}
        for name in outcomes:
            click.echo(f"{name} ({kinds[name]}): " + (f"NOT SENT: {clean(failed[name])}" if name in failed else "sent"))
    if failed:
        sys.exit(1)


async def _send_tests(settings: AlertSettings, names: list[str]) -> dict[str, Outcome]:
    import asyncio
    from dataclasses import replace
    from secrets import token_hex

    from bursar.adapters.channels import Channels
    from bursar.compose import now_us
    from bursar.engine.ports import Notice

    at_us = now_us()
    notice = Notice(
        id=token_hex(16),
        event="firing",
        key=f"BursarTest{{at={at_us}}}",
        labels=(("alertname", "BursarTest"), ("severity", "info")),
        annotations=(
            ("description", "This is a test: somebody ran `bursar alerts test`. Nothing is wrong."),
            ("summary", "Test of this channel"),
            ("way_out", "Nothing needs to be done."),
        ),
        fired_us=at_us,
        test=True,
    )
    channels = Channels(settings, os.environ)
    try:
        sent = await asyncio.gather(*(channels.by_name[name].send(notice, now_us=at_us) for name in names))
        # Where a notice opens something that stays open, the test closes it.
        over = replace(notice, id=token_hex(16), event="resolved", resolved_us=now_us())
        opened = [spec.name for spec in settings.channels if spec.name in names and spec.kind in _OPENING]
        await asyncio.gather(*(channels.by_name[name].send(over, now_us=now_us()) for name in opened))
    finally:
        await channels.close()
    return dict(zip(names, sent, strict=True))


@alerts.command()
@click.argument("ids", nargs=-1, type=click.IntRange(min=1), metavar="[NOTICE]...")
@data_option
def retry(ids: tuple[int, ...], data: Path | None) -> None:
    """Send dead letters again: those with these numbers (`bursar alerts list`), or all of them.

    A running server sends them within seconds.
    """
    from bursar.compose import now_us

    with _store(data) as (store, _):
        count = store.retry(list(ids) or None, now_us=now_us())
    if ids and count < len(set(ids)):
        raise click.ClickException(
            f"{count} of {len(set(ids))} were dead letters and will be sent; see `bursar alerts list` for the others"
        )
    click.echo(f"{plural(count, 'notice')} will be sent again." if count else "There are no dead letters.")


@alerts.command()
def rules() -> None:
    """Print alert rules for Prometheus over Bursar's metrics, to be saved and loaded under `rule_files`."""
    click.echo(resources.files("bursar").joinpath("data/prometheus-rules.yml").read_text(encoding="utf-8"), nl=False)


def _alert_row(one: StoredAlert) -> dict[str, object]:
    return {
        "id": one.id,
        "key": one.condition.key,
        "state": "firing" if one.resolved_us is None else "resolved",
        "labels": dict(one.condition.labels),
        "annotations": dict(one.condition.annotations),
        "fired_at": _iso(one.fired_us),
        "resolved_at": None if one.resolved_us is None else _iso(one.resolved_us),
    }


def _delivery_row(one: StoredDelivery) -> dict[str, object]:
    return {
        "id": one.id,
        "alert": one.alert,
        "channel": one.channel,
        "event": one.event,
        "state": one.state,
        "attempts": one.attempts,
        "next_at": _iso(one.next_us) if one.state == "pending" else None,
        "error": one.error or None,
    }


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, timezone.utc).isoformat().replace("+00:00", "Z")


def _minute(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, timezone.utc).strftime("%Y-%m-%d %H:%M")
