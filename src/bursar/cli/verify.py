"""``bursar verify``: do balances, books and ledger agree?"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click

from bursar.cli.output import clean, data_option, plural, print_json

__all__ = ["verify"]

_SHOWN_MAX = 50


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
def verify(as_json: bool, data: Path | None) -> None:
    """Compute balances again from entries, and the ledger from the books; print every difference. Exit 1 on any."""
    from bursar.adapters.verify import verify as compare
    from bursar.compose import open_books_file, open_data, open_ledger, settings_of

    where = open_data(data)
    with closing(open_books_file(where, settings_of(where))) as books, open_ledger(where, books) as ledger:
        found = compare(books, ledger, lambda what: click.echo(f"checking {what} ...", err=True))
    if as_json:
        print_json(asdict(found))
    else:
        click.echo(
            f"{plural(found.entries, 'entry').replace('entrys', 'entries')}, {plural(found.accounts, 'account')}, "
            f"{plural(found.open_holds, 'open hold')}, {plural(found.ledger_rows, 'ledger row')}"
        )
        for difference in found.differences[:_SHOWN_MAX]:
            click.echo(f"  {clean(difference.about)}: {difference.expected} is not {difference.found}")
        if len(found.differences) > _SHOWN_MAX:
            click.echo(f"  ... and {len(found.differences) - _SHOWN_MAX} more (--json lists all)")
        click.echo(f"{plural(len(found.differences), 'difference')}" if found.differences else "No difference.")
    if found.differences:
        sys.exit(1)
