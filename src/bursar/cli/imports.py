"""``bursar import``: calls that already happened, from transcripts and files of rows.

Exit codes: 0 imported (skipped rows are counted and shown), 1 a file could not be imported, 2 a mistake in the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

import click

from bursar.core.ledger import Attempt
from bursar.core.money import decimal_text
from bursar.core.observations import Observation
from bursar.core.prices import PriceBook
from bursar.core.scopes import VALUE_LENGTH_MAX, Scope, make_labels
from bursar.doors.imports.claude_code import find_transcripts, read_transcripts
from bursar.doors.imports.codex import find_rollouts, read_rollouts
from bursar.doors.imports.feed import Summary, feed
from bursar.doors.imports.files import Progress, no_progress
from bursar.doors.imports.rows import Columns, FileType, OnError, RowError, read_rows
from bursar.doors.imports.tally import Tally

from . import output

__all__ = ["import_", "reading_progress"]

Reader = Callable[[PriceBook, Tally, Progress], Iterable[Attempt]]
Spans = Callable[[Tally, Progress], Iterable[Observation]]

_OVERRIDES: Final = ("org", "team", "project", "user", "agent")


@dataclass(frozen=True, slots=True)
class _Options:
    data: Path | None
    dry_run: bool
    as_json: bool
    overrides: Scope


@click.group("import")
def import_() -> None:
    """Book calls that already happened. Importing the same files again changes nothing."""


def _pairs(_: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param=parameter)
        pairs[name] = value
    return pairs


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """The options every import takes; the command gets them as one ``options``."""

    def with_options(data: Path | None, dry_run: bool, as_json: bool, label: Mapping[str, str], **rest: Any) -> None:
        columns = {name: rest.pop(name) or "" for name in _OVERRIDES}
        try:
            labels = make_labels(label)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--label") from None
        for name, value in columns.items():
            if len(value) > VALUE_LENGTH_MAX:
                raise click.BadParameter(f"longer than {VALUE_LENGTH_MAX} characters", param_hint=f"--{name}")
        command(options=_Options(data, dry_run, as_json, Scope(**columns, labels=labels)), **rest)

    with_options.__doc__ = command.__doc__
    decorated: Callable[..., None] = with_options
    for option in (
        click.option("--label", multiple=True, metavar="NAME=VALUE", callback=_pairs, help="Add a label; repeatable."),
        *(click.option(f"--{n}", help=f"Book under this {n}, whatever the files say.") for n in reversed(_OVERRIDES)),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
        click.option("--dry-run", is_flag=True, help="Read and price everything, book nothing."),
        output.data_option,
    ):
        decorated = option(decorated)
    return decorated


_PATHS: Final = click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(exists=True, path_type=Path)
)
_FILES: Final = click.argument(
    "paths", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


@import_.command("claude-code")
@_PATHS
@_shared
def claude_code(paths: tuple[Path, ...], options: _Options) -> None:
    """Import Claude Code sessions and their subagents, such as ~/.claude/projects."""
    tally = Tally()
    files = find_transcripts(paths, tally)
    _need_files(files, paths, "*.jsonl")

    def read(book: PriceBook, tally: Tally, progress: Progress) -> Iterator[Attempt]:
        now = datetime.now(timezone.utc)
        return read_transcripts(files, book=book, now=now, tally=tally, overrides=options.overrides, progress=progress)

    _run(read, files, options, tally)


@import_.command("codex")
@_PATHS
@_shared
def codex(paths: tuple[Path, ...], options: _Options) -> None:
    """Import Codex sessions, such as ~/.codex/sessions."""
    tally = Tally()
    files = find_rollouts(paths, tally)
    _need_files(files, paths, "rollout-*.jsonl")

    def read(book: PriceBook, tally: Tally, progress: Progress) -> Iterator[Attempt]:
        return read_rollouts(files, book=book, tally=tally, overrides=options.overrides, progress=progress)

    _run(read, files, options, tally)


def _rows(file_type: FileType) -> click.Command:
    @click.command(file_type)
    @_FILES
    @click.option("--map", "renamed", multiple=True, metavar="OLD=NEW", callback=_pairs, help="Rename a column.")
    @click.option("--ignore-unknown", is_flag=True, help="Pass over columns that are not known.")
    @click.option(
        "--on-error",
        type=click.Choice(["stop", "skip"]),
        default="stop",
        show_default=True,
        help="At a bad row: book nothing of its file, or skip the row.",
    )
    @_shared
    def command(
        paths: tuple[Path, ...],
        renamed: Mapping[str, str],
        ignore_unknown: bool,
        on_error: OnError,
        options: _Options,
    ) -> None:
        try:
            columns = Columns(renamed, ignore_unknown)
        except ValueError as error:
            raise click.UsageError(str(error)) from None

        def read(book: PriceBook, tally: Tally, progress: Progress) -> Iterator[Attempt]:
            for path in paths:
                yield from read_rows(
                    path,
                    file_type,
                    book=book,
                    tally=tally,
                    columns=columns,
                    on_error=on_error,
                    overrides=options.overrides,
                    progress=progress,
                )

        # A first pass looks for bad rows, the second imports.
        _run(read, paths * 2 if on_error == "stop" else paths, options, Tally())

    command.help = f"Import calls from {file_type.upper()} files in the columns of docs/imports.md."
    return command


import_.add_command(_rows("jsonl"))
import_.add_command(_rows("csv"))


@import_.command("otlp")
@_FILES
@click.option(
    "--signal",
    type=click.Choice(["traces", "logs", "metrics"]),
    default="traces",
    show_default=True,
    help="What files in protobuf hold; JSON says it itself.",
)
@_shared
def otlp(paths: tuple[Path, ...], signal: Literal["traces", "logs", "metrics"], options: _Options) -> None:
    """Import OpenTelemetry traces, logs and metrics, such as a Collector's file exporter writes."""
    from bursar.doors.imports.otlp import read_otlp

    def read(tally: Tally, progress: Progress) -> Iterator[Observation]:
        return read_otlp(paths, binary=signal, tally=tally, progress=progress)

    _run_spans(read, paths, options)


@import_.command("langfuse")
@_FILES
@_shared
def langfuse(paths: tuple[Path, ...], options: _Options) -> None:
    """Import traces exported from Langfuse."""
    from bursar.doors.imports.langfuse import read_langfuse

    def read(tally: Tally, progress: Progress) -> Iterator[Observation]:
        return read_langfuse(paths, tally=tally, progress=progress)

    _run_spans(read, paths, options)


def _run_spans(spans: Spans, files: Sequence[Path], options: _Options) -> None:
    """Book what is paid for of some traces, then keep their shape."""
    from bursar.compose import open_data, open_traces_file, settings_of, tool_prices
    from bursar.doors.imports.spans import charged, gathered, in_traces

    data = open_data(options.data)
    tools = tool_prices(settings_of(data))
    found: list[Observation] = []

    def read(book: PriceBook, tally: Tally, progress: Progress) -> Iterator[Attempt]:
        found.extend(gathered(spans(tally, progress), options.overrides))
        yield from charged(found, book, tools, tally)

    def keep() -> None:
        with closing(open_traces_file(data)) as traces:
            for batch in in_traces(found):
                traces.take(batch)

    _run(read, files, options, Tally(), keep)


def _need_files(files: Sequence[Path], paths: Sequence[Path], pattern: str) -> None:
    if not files:
        raise click.UsageError(f"no files {pattern} (or .gz) under {', '.join(map(str, paths))}")


def _nothing() -> None:
    """For imports that keep nothing besides the calls."""


def _run(
    read: Reader, files: Sequence[Path], options: _Options, tally: Tally, keep: Callable[[], None] = _nothing
) -> None:
    # The glue to the rest of the program stays here, so that `bursar import --help` loads none of it.
    from bursar.compose import open_books, open_prices

    summary = Summary()
    failure = ""
    book = open_prices(options.data)
    with (
        nullcontext(None) if options.dry_run else open_books(options.data) as books,
        reading_progress(files) as progress,
    ):
        try:
            feed(read(book, tally, progress), books, summary)
            if books is not None:
                keep()
        except RowError as error:
            failure = (
                f"{error}\nNothing of this file was booked. Repair it, or pass over bad rows with --on-error skip."
            )
        except OSError as error:
            failure = str(error)
    if options.as_json:
        output.print_json(_document(summary, tally, options.dry_run, failure))
    elif summary.read or not failure:
        _print(summary, tally, options.dry_run)
        if not (summary.read or tally.skipped):
            click.echo("No call was found. Is this the right kind of file? See `bursar import --help`.", err=True)
    if failure:
        raise click.ClickException(failure)


def _is_terminal() -> bool:
    return sys.stderr.isatty()


@contextmanager
def reading_progress(files: Sequence[Path]) -> Generator[Progress]:
    """A bar over the bytes of these files on a terminal, nothing elsewhere."""
    if not _is_terminal():
        yield no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=sum(path.stat().st_size for path in files))
        yield lambda count: bar.advance(task, count)


def _document(summary: Summary, tally: Tally, dry_run: bool, failure: str) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "files": tally.files,
        "lines": tally.lines,
        "calls": summary.read,
        "new": summary.new,
        "known": summary.known,
        "skipped": dict(tally.skipped),
        "unpriced": dict(summary.unpriced),
        "cost_usd": decimal_text(summary.cost_nanousd),
        **({"error": failure} if failure else {}),
    }


def _print(summary: Summary, tally: Tally, dry_run: bool) -> None:
    from rich.table import Table

    table = Table.grid("", "", "", padding=(0, 2, 0, 0))
    table.columns[1].justify = "right"
    table.columns[2].overflow = "fold"
    unpriced = summary.unpriced.total()
    table.add_row("calls", f"{summary.read:,}", f"in {output.plural(tally.files, 'file')}")
    table.add_row("new", f"{summary.new:,}", "dry run: nothing was booked" if dry_run else "")
    table.add_row("known before", f"{summary.known:,}", "")
    table.add_row(
        "cost of all", output.money(summary.cost_nanousd), f"without {unpriced:,} unpriced" if unpriced else ""
    )
    for reason, count in summary.unpriced.most_common():
        table.add_row("unpriced", f"{count:,}", output.clean(reason))
    for reason, count in tally.skipped.most_common():
        place = tally.first_place.get(reason)
        table.add_row("not booked", f"{count:,}", output.clean(f"{reason}; first: {place}" if place else reason))
    output.new_console().print(table)
