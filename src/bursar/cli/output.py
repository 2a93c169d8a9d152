"""How answers are printed: money, counts, times, tables, JSON and CSV.

Rule 1: an amount that is not zero never prints as zero; one that is not known prints as a word.
Rule 2: text from the ledger was written by strangers: control characters never reach the terminal.
Rule 3: ``rich`` is loaded only for tables, so that ``--json`` answers at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

from bursar.core.money import NANO_PER_USD
from bursar.views.asking import BadQuestion, Span, moment, time_zone
from bursar.views.measures import time_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Column",
    "Line",
    "Question",
    "aligned",
    "ask",
    "bar",
    "clean",
    "compact",
    "data_option",
    "duration",
    "estimate",
    "money",
    "new_console",
    "percent",
    "plural",
    "print_csv",
    "print_json",
    "print_notes",
    "print_nothing",
    "print_table",
    "question_options",
    "usage_errors",
]

_EMPTY_LEDGER: Final = """\
The ledger is empty. To get calls into it:

  bursar demo                                    three simulated agents, no key needed
  bursar up                                      it says where clients are to send their calls
  bursar import claude-code ~/.claude/projects   what Claude Code did so far
"""

_Command = TypeVar("_Command", bound=Callable[..., Any])
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_GAP: Final = 2
_TEXT_MIN: Final = 4


# --- what is asked ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """The part of a question that every report has: a span of time, column values, and how to print the answer."""

    span: Span
    limit: int | None
    as_json: bool
    as_csv: bool
    data: Path | None
    tz: str


class _Directory(click.Path):
    """A directory. An empty text is refused: from an unset variable it would mean the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; name a directory, or leave the option out for the default one", param, ctx)
        return super().convert(value, param, ctx)


def data_option(command: _Command) -> _Command:
    """The ``--data`` option, as the argument ``data``."""
    return click.option(
        "--data",
        type=_Directory(file_okay=False, path_type=Path),
        help="Bursar's data directory (default: the configured one).",
    )(command)


def question_options(command: _Command) -> _Command:
    """The options that make a ``Question``; ``ask`` turns their values into one."""
    for option in reversed(
        (
            click.option("--since", metavar="TIME", help="From then on: 2026-01-31, today, yesterday, month, 7d, 24h."),
            click.option("--until", metavar="TIME", help="Before then; the same forms."),
            click.option(
                "--where", multiple=True, metavar="COLUMN=VALUE", help="Only these, e.g. team=search. Repeatable."
            ),
            click.option("--limit", type=click.IntRange(min=1), help="At most this many rows (tables: 25)."),
            click.option("--json", "as_json", is_flag=True, help="Exact figures as JSON."),
            click.option("--csv", "as_csv", is_flag=True, help="Exact figures as CSV."),
            data_option,
            click.option("--tz", default="UTC", show_default=True, help="Time zone of days and times (IANA name)."),
        )
    ):
        command = option(command)
    return command


def ask(
    *,
    since: str | None,
    until: str | None,
    where: Sequence[str],
    limit: int | None,
    as_json: bool,
    as_csv: bool,
    data: Path | None,
    tz: str,
) -> Question:
    """The question the options state. Raises click.UsageError that names the option and the way out."""
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other; give one of them")
    pairs: dict[str, str] = {}
    for text in where:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--where {text!r} has no '='; write --where COLUMN=VALUE")
        if pairs.get(name, value) != value:
            raise click.UsageError(f"--where {name} is given as {pairs[name]!r} and as {value!r}; give it once")
        pairs[name] = value
    with usage_errors():
        zone = time_zone(tz)
        now = datetime.now(timezone.utc)
        since_at = None if since is None else moment("since", since, now=now, zone=zone)
        until_at = None if until is None else moment("until", until, now=now, zone=zone)
    return Question(Span(since=since_at, until=until_at, where=pairs), limit, as_json, as_csv, data, tz)


@contextmanager
def usage_errors() -> Generator[None]:
    """Show a question that cannot be asked as a usage error of its option (exit code 2)."""
    try:
        yield
    except BadQuestion as problem:
        raise click.UsageError(f"--{problem.field}: {problem}") from problem


# --- text -------------------------------------------------------------------------------------------------------


def money(nanousd: int | None) -> str:
    """An amount for people: ``$12.34``, ``$0.0042``, ``$0.00000012``; "unpriced" when it is not known."""
    if nanousd is None:
        return "unpriced"
    size = abs(nanousd)
    # Below a dollar: at least four places, and at least two digits that are not leading zeros.
    places = 2 if size == 0 or size >= NANO_PER_USD else min(9, max(4, 11 - len(str(size))))
    step = 10 ** (9 - places)
    rounded = (2 * size + step) // (2 * step)
    whole, fraction = divmod(rounded, 10**places)
    return f"{'-' if nanousd < 0 else ''}${whole:,}.{fraction:0{places}d}"


def estimate(nanousd: int | None, estimated_calls: int) -> str:
    """An amount for people, marked ``~`` where a part of it is estimated."""
    return f"~{money(nanousd)}" if estimated_calls and nanousd is not None else money(nanousd)


def aligned(texts: Sequence[str]) -> list[str]:
    """The texts padded on the right so that their decimal points stand below each other when right-aligned."""
    places = [len(text) - text.index(".") if "." in text else 0 for text in texts]
    most = max(places, default=0)
    return [text + " " * (most - count) if count else text for text, count in zip(texts, places, strict=True)]


def compact(count: int | None) -> str:
    """A count in at most five characters: ``950``, ``9,500``, ``12.3k``, ``1.25M``; "?" when it is not known."""
    if count is None:
        return "?"
    if count < 10_000:
        return f"{count:,}"
    for size, letter in ((10**3, "k"), (10**6, "M"), (10**9, "B"), (10**12, "T")):
        for places in (2, 1, 0):
            step = size // 10**places
            rounded = (2 * count + step) // (2 * step)
            if rounded < 1_000:
                whole, fraction = divmod(rounded, 10**places)
                return f"{whole}.{fraction:0{places}d}{letter}" if places else f"{whole}{letter}"
    return f"{count:,}"


def percent(part: int | None, whole: int | None) -> str:
    """The part of the whole as ``12%``, ``0.3%``; empty when either is not known."""
    if part is None or not whole or whole < 0:
        return ""
    permille = (2000 * part + whole) // (2 * whole)
    if permille < 10 and part > 0:
        return f"0.{permille}%" if permille else "<0.1%"
    return f"{(200 * part + whole) // (2 * whole)}%"


def duration(ms: float | None) -> str:
    """A length of time: ``850 ms``, ``12.3 s``, ``4m 05s``, ``2h 03m``, ``3d 04h``; empty when it is not known."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    if minutes < 60:
        return f"{minutes}m {seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 24 else f"{hours // 24}d {hours % 24:02d}h"


def plural(count: int, noun: str) -> str:
    """``1 call``, ``2,000 calls``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clean(text: str) -> str:
    """The text on one line without control characters, which could steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- machines ---------------------------------------------------------------------------------------------------


def print_json(answer: Mapping[str, Any]) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2))


def print_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows with a header line. What is not known is an empty field."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)


# --- people -----------------------------------------------------------------------------------------------------


def new_console() -> Console:
    from rich.console import Console

    stdout: Any = sys.stdout
    if isinstance(stdout, io.TextIOWrapper):  # a terminal without UTF-8 shows "?" where it cannot do better
        stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. ``spare`` columns are dropped to fit, highest first; then text is cut, nothing else: half an amount
    would read as another one.

    ``width_min`` is how wide the text shall stay as long as there are columns to drop.
    """

    name: str
    kind: Literal["text", "figure", "bar"] = "figure"
    spare: int = 0
    width_min: int = 14


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: a cell for every column, already clean."""

    cells: Sequence[str]
    style: str = ""


def print_table(console: Console, columns: Sequence[Column], lines: Sequence[Line], footer: Sequence[str] = ()) -> None:
    """Print a table that fits the terminal, where its figures do: spare columns are dropped, then text is cut."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[column.name for column in columns], *(line.cells for line in lines), *([footer] if footer else [])]
    widths = [max(cell_len(row[index]) for row in cells) for index in range(len(columns))]
    kept = list(range(len(columns)))

    def excess(*, cut: bool) -> int:
        least = (min(widths[i], columns[i].width_min) if cut and columns[i].kind == "text" else widths[i] for i in kept)
        return sum(least) + _GAP * (len(kept) - 1) - console.width

    while excess(cut=True) > 0 and (spare := [i for i in kept if columns[i].spare]):
        kept.remove(max(spare, key=lambda index: columns[index].spare))
    while excess(cut=False) > 0 and (text := [i for i in kept if columns[i].kind == "text" and widths[i] > _TEXT_MIN]):
        widest = max(text, key=lambda index: widths[index] - columns[index].width_min)
        widths[widest] -= 1
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_footer=bool(footer),
        header_style="bold",
        width=sum(widths[index] for index in kept) + _GAP * (len(kept) - 1),
    )
    for index in kept:
        table.add_column(
            columns[index].name,
            footer[index] if footer else "",
            footer_style="bold",
            justify="right" if columns[index].kind == "figure" else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=widths[index],
        )
    for line in lines:
        table.add_row(*(Text(line.cells[index]) for index in kept), style=line.style or None)
    console.print(table, crop=False)  # what is wider than the terminal goes on in its next line


def bar(part: int | None, whole: int | None, *, width: int, ascii_only: bool) -> str:
    """A bar as long as the part of the whole, in eighths of a character."""
    if not part or not whole or part < 0 or whole < 0:
        return ""
    eighths = max(1, min(8 * width, 8 * width * part // whole))
    if ascii_only:
        return "#" * ((eighths + 7) // 8)
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def print_notes(
    console: Console, unpriced: int, estimated: int, reasons: Sequence[tuple[str, int]], left_out: int
) -> None:
    """What the figures of a table leave out, in words."""
    if left_out:
        console.print(f"{plural(left_out, 'more row')} in the total but not shown; --limit shows more.", style="dim")
    if estimated:
        console.print(
            f"~ {plural(estimated, 'call')} estimated: the provider did not state the whole usage.", style="dim"
        )
    if unpriced:
        console.print(
            f"{plural(unpriced, 'call')} unpriced: the cost is not known and is missing from the sums.", style="yellow"
        )
        for reason, calls in reasons:
            console.print(f"  {calls:,}  {clean(reason) or 'no reason was kept'}", style="yellow")
        if (rest := unpriced - sum(calls for _, calls in reasons)) > 0:
            console.print(f"  {rest:,}  for other reasons", style="yellow")


def print_nothing(known: tuple[int, int] | None) -> None:
    """Why a report is empty, and the way out."""
    if known is None:
        click.echo(_EMPTY_LEDGER, nl=False)
        return
    first, last = (time_text(at) for at in known)
    click.echo(f"No call matches. The ledger has calls from {first} to {last}; widen --since, --until or --where.")
