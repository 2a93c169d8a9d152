"""``bursar cache lint``: where consecutive prompts part, what that cost, and the way out.

Exit codes: 0 nothing parts, 1 something does, 2 it was asked wrongly (no file, no request in it).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, cast

import click
import msgspec

from bursar.core.money import decimal_text
from bursar.core.prices import PriceBook, Reading, charge
from bursar.core.usage import Usage
from bursar.doors.imports.attempts import parse_time
from bursar.doors.imports.files import Progress, read_lines
from bursar.doors.imports.tally import Tally
from bursar.wire.dialect import UNREADABLE, mapping
from bursar.wire.prompt_lint import WAYS_OUT, Cause, Finding, PromptLint, Request

from . import output
from .imports import reading_progress

__all__ = ["lint"]

_SHOWN: Final = 20
_SECONDS_MAX: Final = 1e11  # of the year 5138; as milliseconds, 1973
_MILLIS_MAX: Final = 1e14
_PROVIDERS: Final = {
    "anthropic": "anthropic",
    "openai_chat": "openai",
    "openai_responses": "openai",
    "gemini": "google",
}


@dataclass(slots=True)
class _Sum:
    times: int = 0
    tokens: int = 0
    cost: int = 0
    unpriced: int = 0


@dataclass(slots=True)
class _Found:
    """What one run has found. ``shown`` are the findings to print, all are in the sums."""

    lint: PromptLint = field(default_factory=PromptLint)
    shown: list[tuple[Finding, int | None]] = field(default_factory=list[tuple[Finding, int | None]])
    causes: dict[Cause, _Sum] = field(default_factory=dict[Cause, _Sum])
    count: int = 0

    @property
    def whole(self) -> _Sum:
        sums = self.causes.values()
        return _Sum(
            sum(each.times for each in sums),
            sum(each.tokens for each in sums),
            sum(each.cost for each in sums),
            sum(each.unpriced for each in sums),
        )


@click.command("lint")
@click.argument("files", nargs=-1, metavar="[FILES]...", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", help="Price as this provider's (default: by the dialect: openai, anthropic, google).")
@click.option(
    "--limit", type=click.IntRange(min=0), default=_SHOWN, show_default=True, help="Show so many; sum up all."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@output.data_option
def lint(files: tuple[Path, ...], provider: str | None, limit: int, as_json: bool, data: Path | None) -> None:
    """Name the byte where consecutive prompts of a thread part, and what that cost.

    FILES are JSONL (or .jsonl.gz): each line a request body of OpenAI, Anthropic or Gemini, or an object with "request" and, if
    known, "response", "thread", "at" (ISO 8601, or seconds, milliseconds or microseconds since 1970) and "model".
    """
    from bursar.compose import open_prices

    if not files:
        raise click.UsageError("name the files to look at: JSONL, a request body a line")
    book = open_prices(data)
    if provider is not None and provider not in book.providers():
        raise click.UsageError(f"--provider {provider!r} has no prices; see `bursar prices show`")
    tally = Tally()
    try:
        with reading_progress(files) as progress:
            found = _look(_requests(files, tally, progress), tally, book, provider, limit)
    except OSError as error:
        raise click.UsageError(str(error)) from None
    if not found.lint.requests:
        why = (
            "; ".join(f"{count:,} lines: {reason}" for reason, count in tally.skipped.most_common(3))
            or "they are empty"
        )
        raise click.UsageError(f"no request in {', '.join(map(str, files))} ({output.clean(why)})")
    if as_json:
        output.print_json(_document(found, tally))
    else:
        _print(found, tally, limit)
    if found.count:
        sys.exit(1)


def _look(requests: Iterator[Request], tally: Tally, book: PriceBook, provider: str | None, limit: int) -> _Found:
    found = _Found()
    for request in requests:
        try:
            finding = found.lint.take(request)
        except (*UNREADABLE, KeyError) as error:
            tally.skip(f"not a request: {error}"[:200], request.place)
            continue
        if finding is None:
            continue
        cost = _cost(finding, request, book, provider)
        found.count += 1
        if len(found.shown) < limit:
            found.shown.append((finding, cost))
        total = found.causes.setdefault(finding.cause, _Sum())
        total.times += 1
        if not finding.why_not:
            total.tokens += finding.tokens
            total.cost += cost or 0
            total.unpriced += cost is None
    return found


def _cost(finding: Finding, request: Request, book: PriceBook, provider: str | None) -> int | None:
    """What the tokens cost above reading them from a cache, in nano-USD; None where the model has no price."""
    if finding.why_not:
        return 0
    at = (
        datetime.now(timezone.utc)
        if request.at_us is None
        else datetime.fromtimestamp(request.at_us / 1e6, timezone.utc)
    )
    name = provider or _PROVIDERS[finding.dialect]
    costs: list[int] = []
    for read in (0, finding.tokens):
        usage = Usage(input_tokens=finding.total_tokens, cache_read_tokens=read)
        found = charge(Reading(usage, model=finding.model), book, provider=name, model=finding.model, at=at).amount
        if found is None:
            return None
        costs.append(found)
    return costs[0] - costs[1]


# --- reading ----------------------------------------------------------------------------------------------------


def _requests(files: Sequence[Path], tally: Tally, progress: Progress) -> Iterator[Request]:
    for path in files:
        for line in read_lines(path, tally, progress):
            place = f"{path.name}:{line.number}" if len(files) > 1 else f"line {line.number}"
            try:
                row = msgspec.json.decode(line.data)
                if not isinstance(row, dict):
                    raise TypeError("a line is no JSON object")
                yield _request(cast("dict[str, Any]", row), place)
            except UNREADABLE as error:
                tally.skip(f"cannot be read: {error}"[:200], place)


def _request(row: dict[str, Any], place: str) -> Request:
    wrapped = "request" in row and not {"messages", "input", "contents"} & row.keys()
    if not wrapped:
        return Request(row, place)
    body = mapping(row["request"])
    if not body:
        raise TypeError("its request is no JSON object")
    return Request(
        body,
        place,
        thread=str(row.get("thread") or ""),
        model=str(row.get("model") or ""),
        at_us=_time_us(row.get("at")),
        response=row.get("response"),
    )


def _time_us(value: Any) -> int | None:
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float):
        return int(parse_time(str(value)).timestamp() * 1_000_000)
    at_us = int(value if abs(value) > _MILLIS_MAX else value * (1_000 if abs(value) > _SECONDS_MAX else 1_000_000))
    try:
        datetime.fromtimestamp(at_us / 1e6, timezone.utc)
    except (ValueError, OverflowError, OSError):
        shown = str(value)[:40]
        raise ValueError(f"{shown} is out of range for seconds, milliseconds or microseconds since 1970") from None
    return at_us


# --- printing ---------------------------------------------------------------------------------------------------


def _document(found: _Found, tally: Tally) -> dict[str, Any]:
    whole = found.whole
    return {
        "requests": found.lint.requests,
        "threads": len(found.lint.threads),
        "pairs": found.lint.pairs,
        "parted": found.count,
        "tokens_again": whole.tokens,
        "cost_usd": decimal_text(whole.cost),
        "unpriced": whole.unpriced,
        "causes": [
            {
                "cause": cause,
                "times": each.times,
                "tokens_again": each.tokens,
                "cost_usd": decimal_text(each.cost),
                "unpriced": each.unpriced,
                "way_out": WAYS_OUT[cause],
            }
            for cause, each in _by_cost(found)
        ],
        "findings": [_finding(finding, cost) for finding, cost in found.shown],
        "skipped": dict(tally.skipped),
    }


def _finding(finding: Finding, cost: int | None) -> dict[str, Any]:
    at = finding.divergence
    return {
        "cause": finding.cause,
        "thread": finding.thread,
        "across_threads": finding.across_threads,
        "model": finding.model,
        "before": finding.before_place,
        "after": finding.place,
        "path": at.path,
        "byte": at.offset,
        "shared": at.shared,
        "text_before": at.before,
        "text_after": at.after,
        "tokens_shared": finding.shared_tokens,
        "tokens_again": 0 if finding.why_not else finding.tokens,
        "cost_usd": None if cost is None else decimal_text(cost),
        **({"not_counted": finding.why_not} if finding.why_not else {}),
    }


def _by_cost(found: _Found) -> list[tuple[Cause, _Sum]]:
    return sorted(found.causes.items(), key=lambda pair: (-pair[1].cost, -pair[1].tokens, pair[0]))


def _print(found: _Found, tally: Tally, limit: int) -> None:
    for finding, cost in found.shown:
        _print_finding(finding, cost)
    if 0 < limit < found.count:
        click.echo(f"... and {output.plural(found.count - limit, 'more place')}; --limit shows more.\n")
    whole = found.whole
    looked = f"{output.plural(found.lint.requests, 'request')} in {output.plural(len(found.lint.threads), 'thread')}"
    if not found.count:
        click.echo(f"{looked}: every prompt begins with the one before it.")
    else:
        columns = (output.Column("what parts them", "text"), *map(output.Column, ("times", "tokens again", "cost")))
        lines = [
            output.Line([cause, f"{each.times:,}", output.compact(each.tokens), output.estimate(each.cost, 1)])
            for cause, each in _by_cost(found)
        ]
        footer = ["all", f"{whole.times:,}", output.compact(whole.tokens), output.estimate(whole.cost, 1)]
        output.print_table(output.new_console(), columns, lines, footer)
        click.echo(f"\n{looked}. The cost is what the tokens cost above reading them from a cache.")
        for cause, _ in _by_cost(found):
            click.echo(f"  {cause}: {WAYS_OUT[cause]}")
    if whole.unpriced:
        click.echo(f"{output.plural(whole.unpriced, 'place')} without a price: their cost is missing from the sum.")
    for reason, count in tally.skipped.most_common(5):
        place = tally.first_place.get(reason, "")
        click.echo(output.clean(f"{output.plural(count, 'line')} passed over: {reason} (first: {place})"), err=True)


def _print_finding(finding: Finding, cost: int | None) -> None:
    at = finding.divergence
    where = "two threads" if finding.across_threads else f"thread {finding.thread}"
    click.echo(output.clean(f"{finding.before_place} -> {finding.place} ({where}, {finding.model or 'no model'})"))
    click.echo(output.clean(f"  {at.path}, byte {at.offset}: {finding.cause}"))
    click.echo(output.clean(f"    before  {at.shared}|{at.before}"))
    click.echo(output.clean(f"    after   {at.shared}|{at.after}"))
    if finding.why_not:
        click.echo(f"  {finding.why_not}\n")
        return
    click.echo(
        f"  {finding.tokens:,} tokens paid again, {output.money(cost)}; {finding.shared_tokens:,} before it are shared\n"
    )
