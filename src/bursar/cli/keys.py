"""``bursar keys``: virtual keys for the gateway."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bursar.cli.output import Column, Line, clean, data_option, new_console, print_json, print_table
from bursar.core.scopes import SCOPE_COLUMNS, Scope, make_labels

if TYPE_CHECKING:
    from bursar.adapters.keys import KeyStore, StoredKey

__all__ = ["keys"]

_COLUMNS = tuple(name for name in SCOPE_COLUMNS if name not in ("key", "parent_task"))


@contextmanager
def _store(data: Path | None) -> Generator[KeyStore]:
    from bursar.adapters.keys import KeyStore
    from bursar.compose import now_us, open_books_file, open_data, settings_of

    where = open_data(data)
    with closing(open_books_file(where, settings_of(where))) as books:
        yield KeyStore(books, now_us)


@click.group()
def keys() -> None:
    """Virtual keys: what a call with one is for, without the provider's key leaving the server."""


def _labels(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        pairs[name] = text
    return make_labels(pairs)


@keys.command()
@click.argument("name")
@click.option("--org", default="", help="Organisation its calls are for.")
@click.option("--team", default="", help="Team.")
@click.option("--project", default="", help="Project.")
@click.option("--user", default="", help="User.")
@click.option("--agent", default="", help="Agent.")
@click.option("--session", default="", help="Session.")
@click.option("--task", default="", help="Task.")
@click.option("--label", "labels", multiple=True, callback=_labels, metavar="NAME=VALUE", help="Label; repeatable.")
@click.option("--pin", "pinned", multiple=True, type=click.Choice(_COLUMNS), help="Column that callers cannot change.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def create(
    name: str,
    labels: tuple[tuple[str, str], ...],
    pinned: tuple[str, ...],
    as_json: bool,
    data: Path | None,
    **columns: str,
) -> None:
    """Make a key named NAME. It is shown once; only its hash is kept."""
    with _store(data) as store:
        secret = store.create(name, Scope(labels=labels, **columns), pinned)
    if as_json:
        print_json({"name": name, "key": secret})
        return
    click.echo(secret)
    click.echo("This key is shown once. Use it where the provider's key would go.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def list_(as_json: bool, data: Path | None) -> None:
    """List keys, without their secrets."""
    with _store(data) as store:
        found = store.list()
    if as_json:
        print_json({"rows": [_row(key) for key in found]})
        return
    if not found:
        click.echo("No keys yet. Make one: bursar keys create NAME --team TEAM")
        return
    columns = [Column(name, "text") for name in ("name", "ends in", "calls are for", "made (UTC)", "state")]
    lines = [
        Line([key.name, f"...{key.hint}", clean(_scope_text(key)), _minute(key.created_us), _state(key)])
        for key in found
    ]
    print_table(new_console(), columns, lines)


@keys.command()
@click.argument("name")
@data_option
def revoke(name: str, data: Path | None) -> None:
    """Revoke the key NAME. A running gateway takes notice within a second."""
    with _store(data) as store:
        if not store.revoke(name):
            raise click.ClickException(f"no key named {name!r} is in force; see `bursar keys list`")
    click.echo(f"Revoked {name}.")


def _row(key: StoredKey) -> dict[str, object]:
    scope = {column: value for column in _COLUMNS if (value := getattr(key.scope, column))}
    return {
        "name": key.name,
        "hint": key.hint,
        "scope": scope,
        "labels": dict(key.scope.labels),
        "pinned": list(key.pinned),
        "created_at": _minute(key.created_us),
        "revoked": key.revoked_us is not None,
    }


def _state(key: StoredKey) -> str:
    return "revoked" if key.revoked_us is not None else "in force"


def _scope_text(key: StoredKey) -> str:
    parts = [f"{c}={getattr(key.scope, c)}{'!' if c in key.pinned else ''}" for c in _COLUMNS if getattr(key.scope, c)]
    return " ".join([*parts, *(f"label:{name}={value}" for name, value in key.scope.labels)]) or "-"


def _minute(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, timezone.utc).strftime("%Y-%m-%d %H:%M")
