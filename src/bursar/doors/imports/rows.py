"""Rows of calls in JSONL or CSV, in the columns of ``docs/imports.md``.

Rule 1: a column has one meaning and one name; an unknown one is an error that names the nearest known one.
Rule 2: an empty value, or null, is an absent value.
Rule 3: input is counted one way in a file: ``input_tokens`` (with cache reads and writes) or
        ``uncached_input_tokens`` (without). A file that uses both is refused.
Rule 4: a row without an ``id`` is known by its content and by how many equal rows of the file came before it, so that
        the same file twice adds nothing and two equal rows are still two calls.
Rule 5: with ``on_error="stop"`` all rows of a file are read before the first is handed on: a file with a bad row
        adds nothing. With ``"skip"`` a bad row is counted and the others are handed on.
Rule 6: amounts are read as decimals; no float touches money.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_args

import msgspec

from bursar.core.ledger import Attempt, Status
from bursar.core.money import NanoUSD, nano_usd, parse_decimal
from bursar.core.prices import PriceBook, Reading
from bursar.core.scopes import NOBODY, SCOPE_COLUMNS, VALUE_LENGTH_MAX, Scope, make_labels
from bursar.core.usage import UNIT_INDEX, UNITS, Usage
from bursar.wire.dialect import UNREADABLE, make_terms

from .attempts import COUNT_MAX, observed, parse_time
from .files import Line, Progress, no_progress, read_lines
from .tally import Tally

__all__ = ["COLUMNS", "Columns", "FileType", "OnError", "RowError", "read_rows"]

OnError: TypeAlias = Literal["stop", "skip"]
FileType: TypeAlias = Literal["jsonl", "csv"]

_SCOPES: Final = tuple(name for name in SCOPE_COLUMNS if name != "key")
_NAMES: Final = ("id", "response_id", "provider", "model", "operation", "status", "service_tier", "tool", *_SCOPES)
_TEXTS: Final = frozenset(_NAMES)
_UNCACHED: Final = "uncached_input_tokens"
COLUMNS: Final = ("at", *_NAMES, "latency_ms", "cost_usd", *(unit.name for unit in UNITS), _UNCACHED, "labels")
"""Every column a row may have. In CSV ``label:NAME`` stands for ``labels``."""

_KNOWN: Final = frozenset(COLUMNS)
_STATUSES: Final[tuple[str, ...]] = get_args(Status)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Seconds until the year 5138, milliseconds since 1973: no time of a model call is on the wrong side.
_MILLISECONDS_FROM: Final = 10**11
_NUMBER_MAX: Final = 253_402_300_799_999  # milliseconds, the end of the year 9999
_USD_MAX: Final = 10**9
# Decimals instead of floats, so that a price in the file is the price that is booked.
_ROW: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


class RowError(ValueError):
    """A row, or a header, that cannot be read. Names the file and line, the field, the value and the way out."""


class _FieldError(ValueError):
    """What is wrong with one field; the reader adds where."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of a file are named: ``renamed`` maps its names to ours."""

    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    ignore_unknown: bool = False

    def __post_init__(self) -> None:
        for old, new in self.renamed.items():
            if new not in _KNOWN and not _is_label(new):
                raise ValueError(f"--map {old}={new}: {_unknown(new)}")

    def known(self, name: str) -> str | None:
        """Our name of a column of the file; None when it is to be ignored. Raises ValueError when it is unknown."""
        ours = self.renamed.get(name, name)
        if ours in _KNOWN or _is_label(ours):
            return ours
        if self.ignore_unknown:
            return None
        raise _FieldError(f"{_unknown(name)}; rename it with --map {name}=COLUMN or pass it over with --ignore-unknown")


def _is_label(name: str) -> bool:
    return name.startswith("label:") and len(name) > len("label:")


def _unknown(name: str) -> str:
    near = get_close_matches(name, COLUMNS, n=1, cutoff=0.5)
    return f"unknown column {name!r}" + (f" (nearest: {near[0]!r})" if near else "")


class _Row(NamedTuple):
    at: datetime
    provider: str
    reading: Reading
    scope: Scope
    id: str
    tool: str
    operation: str
    status: Status
    latency_ms: float | None


def read_rows(
    path: Path,
    file_type: FileType,
    *,
    book: PriceBook,
    tally: Tally,
    columns: Columns,
    on_error: OnError,
    overrides: Scope = NOBODY,
    progress: Progress = no_progress,
) -> Iterator[Attempt]:
    """The calls of one file. Raises RowError at the first bad row, before any call is handed on, unless told to skip."""
    if on_error == "stop":
        for _ in _parsed(path, file_type, columns, None, Tally(), progress):
            pass
    seen: dict[int, int] = {}
    for values, row in _parsed(path, file_type, columns, tally if on_error == "skip" else None, tally, progress):
        name = row.id or _content_id(values, seen)
        yield observed(
            row.reading,
            book,
            attempt_id=f"import:{row.provider}:{name}",
            operation=row.operation,
            at=row.at,
            provider=row.provider,
            model=row.reading.model,
            scope=row.scope,
            overrides=overrides,
            kind="tool" if row.tool else "model",
            status=row.status,
            latency_ms=row.latency_ms,
        )


def _content_id(values: Mapping[str, Any], seen: dict[int, int]) -> str:
    text = repr([(name, _plain(values[name])) for name in sorted(values)])
    digest = blake2b(text.encode(), digest_size=12).digest()
    key = int.from_bytes(digest[:8], "big")
    occurrence = seen.get(key, 0)
    seen[key] = occurrence + 1
    return f"{digest.hex()}-{occurrence}"


def _plain(value: Any) -> Any:
    return sorted(cast("dict[str, Any]", value).items()) if isinstance(value, dict) else str(value)


def _parsed(
    path: Path,
    file_type: FileType,
    columns: Columns,
    skips: Tally | None,
    tally: Tally,
    progress: Progress,
) -> Iterator[tuple[dict[str, Any], _Row]]:
    """Every row as our columns and as values. A bad one raises RowError, or is counted in ``skips``."""
    lines = read_lines(path, tally, progress)
    convention = ""
    for number, found in _csv_rows(path, lines, columns) if file_type == "csv" else _json_rows(lines, columns):
        try:
            if isinstance(found, _FieldError):
                raise found
            for name in ("input_tokens", _UNCACHED):
                if name in found and convention != name:
                    if convention:
                        raise _FieldError(
                            f"{name} beside {convention}: input is counted one way in a file; keep one of the columns"
                        )
                    convention = name
            row = _row(found)
        except ValueError as error:
            if skips is None:
                raise RowError(f"{path}:{number}: {error}") from None
            skips.skip("bad row", f"{path}:{number}: {error}")
            continue
        yield found, row


# --- the two formats --------------------------------------------------------------------------------------------


def _json_rows(lines: Iterator[Line], columns: Columns) -> Iterator[tuple[int, dict[str, Any] | _FieldError]]:
    plain = not columns.renamed
    for number, data, complete in lines:
        try:
            values = _ROW.decode(data)
        except UNREADABLE as error:
            end = "" if complete else ": the last line has no end, is the file still being written?"
            yield number, _FieldError(f"not a JSON object ({error}){end}")
            continue
        if not (plain and _KNOWN.issuperset(values)) or None in values.values() or "" in values.values():
            try:
                values = _renamed(values.items(), columns)
            except _FieldError as error:
                yield number, error
                continue
        yield number, values


def _csv_rows(
    path: Path, lines: Iterator[Line], columns: Columns
) -> Iterator[tuple[int, dict[str, Any] | _FieldError]]:
    # One CSV row may span lines, so the number of the line is kept where lines are taken.
    number = 0

    def texts() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number = line.number
            yield line.data.decode() + "\n"

    reader = csv.reader(texts(), strict=True)
    names: list[str | None] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            yield number, _FieldError(f"not CSV in UTF-8 ({error})")
            return
        if not names:
            names = _header(path, cells, columns)
        elif len(cells) != len(names):
            yield number, _FieldError(f"{len(cells)} values for {len(names)} columns")
        else:
            yield number, {name: cell for name, cell in zip(names, cells, strict=True) if name and cell}


def _header(path: Path, cells: list[str], columns: Columns) -> list[str | None]:
    """Our names of the columns. An error here is one of the whole file, whatever is done about bad rows."""
    try:
        _renamed([(name.strip(), "x") for name in cells], columns)
    except _FieldError as error:
        raise RowError(f"{path}:1: {error}") from None
    return [columns.known(name.strip()) for name in cells]


def _renamed(items: Iterable[tuple[str, Any]], columns: Columns) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in items:
        ours = columns.known(name)
        if ours is None or value is None or value == "":
            continue
        if ours in values:
            raise _FieldError(f"two columns for {ours!r}: keep one of them")
        values[ours] = value
    return values


# --- one row ----------------------------------------------------------------------------------------------------


def _row(values: dict[str, Any]) -> _Row:
    texts: dict[str, str] = {}
    counts: dict[str, int] = {}
    labels: dict[str, str] = {}
    for name, value in values.items():
        if name in _TEXTS:
            texts[name] = _text(name, value)
        elif name in UNIT_INDEX or name == _UNCACHED:
            counts[name] = _count(name, value)
        elif name == "labels":
            labels |= _labels(value)
        elif name.startswith("label:"):
            labels[name.removeprefix("label:")] = _text(name, value)
    tool = texts.get("tool", "")
    for name in ("at", "provider") if tool else ("at", "provider", "model"):
        if name not in values:
            raise _FieldError(f"{name!r} is missing: a row needs at, provider and model")
    if tool and "cost_usd" not in values:
        raise _FieldError(f"'cost_usd' is missing: the price of tool {tool!r} is not in the price book")
    at = _field(values, "at", _time)
    assert at is not None, "checked above"
    status = texts.get("status", "ok")
    if status not in _STATUSES:
        raise _FieldError(f"status {status!r}: one of {', '.join(_STATUSES)}")
    reading = Reading(
        usage=_usage(counts),
        reason="the row states no usage",
        model=texts.get("model", ""),
        response_id=texts.get("response_id", ""),
        terms=make_terms("service_tier", texts.get("service_tier")),
        reported=_field(values, "cost_usd", _amount),
        tools=(tool,) if tool else (),
    )
    return _Row(
        at=at,
        provider=texts["provider"],
        reading=reading,
        scope=Scope(**{n: texts[n] for n in _SCOPES if n in texts}, labels=make_labels(labels) if labels else ()),
        id=texts.get("id", ""),
        tool=tool,
        operation=texts.get("operation") or ("tool" if tool else "chat_completions"),
        status=cast("Status", status),
        latency_ms=_field(values, "latency_ms", _latency),
    )


_T = TypeVar("_T")


def _field(values: Mapping[str, Any], name: str, read: Callable[[Any], _T]) -> _T | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        return read(value)
    except ValueError as error:
        raise _FieldError(f"{name} {value!r}: {error}") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
            raise _FieldError(f"{name} {value!r} is not text")
        value = str(value)
    if len(value) > VALUE_LENGTH_MAX:
        raise _FieldError(f"{name} is {len(value)} characters long, at most {VALUE_LENGTH_MAX} are kept")
    return value


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _FieldError(f"labels {value!r} is not an object of texts; in CSV use columns label:NAME")
    given = cast("dict[str, Any]", value)
    return {name: _text(f"label {name!r}", text) for name, text in given.items() if text is not None}


def _usage(counts: dict[str, int]) -> Usage | None:
    """Counts in our convention: input with its caches, cache writes with both of their kinds."""
    if not counts:
        return None
    if "cache_write_tokens" not in counts:
        written = counts.get("cache_write_5m_tokens", 0) + counts.get("cache_write_1h_tokens", 0)
        if written:
            counts["cache_write_tokens"] = written
    uncached = counts.pop(_UNCACHED, None)
    if uncached is not None:
        counts["input_tokens"] = uncached + counts.get("cache_read_tokens", 0) + counts.get("cache_write_tokens", 0)
    return Usage(**counts)


def _count(name: str, value: Any) -> int:
    if type(value) is int:
        count = value
    elif isinstance(value, str) and value.strip().isdecimal():
        count = int(value)
    elif isinstance(value, (str, Decimal)):
        try:
            exact = Decimal(value)  # spreadsheets write counts as 12.0
            count = int(exact) if 0 <= exact <= COUNT_MAX and exact == exact.to_integral_value() else -1
        except (ArithmeticError, ValueError):
            count = -1
    else:
        count = -1
    if not 0 <= count <= COUNT_MAX:
        raise _FieldError(f"{name} {str(value)!r} is not a count: a whole number from 0 to {COUNT_MAX:,}")
    return count


def _time(value: Any) -> datetime:
    if isinstance(value, str) and not value.replace(".", "", 1).isdecimal():
        return parse_time(value)
    number = _decimal(value)
    if not 0 <= number < _NUMBER_MAX:
        raise ValueError("is not a time: ISO 8601 with a zone, or seconds or milliseconds since 1970")
    if number >= _MILLISECONDS_FROM:
        number /= 1000
    return _EPOCH + timedelta(microseconds=int(number * 1_000_000))


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise ValueError("is not a number")
    return parse_decimal(str(value))


def _amount(value: Any) -> NanoUSD:
    amount = _decimal(value)
    if amount < 0:
        raise ValueError("is negative: credits and refunds are not calls")
    if amount > _USD_MAX:
        raise ValueError(f"is more than {_USD_MAX:,} USD for one call")
    return nano_usd(amount)


def _latency(value: Any) -> float:
    latency = float(_decimal(value))
    if latency < 0 or math.isinf(latency):
        raise ValueError("is not a duration in milliseconds")
    return latency
