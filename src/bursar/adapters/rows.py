"""Ledger rows as JSON: what the books keep as an ending's payload and the ledger takes in.

Rule 1: a row holds everything of its attempt; the ledger can be rebuilt from the books' rows alone.
Rule 2: no ``units`` means the usage is not known, no ``cost_nanousd`` that the charge is not: neither becomes a zero.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, cast

import msgspec

from bursar.core.ledger import Attempt, Opening
from bursar.core.money import Rate
from bursar.core.prices import BASIS, Charge, Line
from bursar.core.usage import UNIT_INDEX, UNITS

__all__ = [
    "Row",
    "RowLine",
    "decode_opening",
    "decode_row",
    "encode_attempt",
    "encode_opening",
    "encode_retraction",
    "row_of",
]


class RowLine(msgspec.Struct, frozen=True, gc=False):
    unit: str
    units: int
    rate_usd: str | None
    price_row: str
    cost_nanousd: int


class Row(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An attempt as the ledger takes it in (``sql/ledger_append.sql``). What a call usually does not have is left out."""

    attempt_id: str
    call_id: str
    number: int = 1
    kind: str = "model"
    door: str
    operation: str
    started_us: int
    provider: str
    model_asked: str
    model: str
    org: str = ""
    team: str = ""
    project: str = ""
    user: str = ""
    agent: str = ""
    session: str = ""
    task: str = ""
    parent_task: str = ""
    key: str = ""
    labels: dict[str, str] | None = None
    units: dict[str, int] | None = None
    cost_nanousd: int | None = None
    cost_input_nanousd: int = 0
    cost_cache_read_nanousd: int = 0
    cost_cache_write_nanousd: int = 0
    cost_output_nanousd: int = 0
    cost_other_nanousd: int = 0
    unpriced_reason: str | None = None
    reported_nanousd: int | None = None
    avoided_nanousd: int | None = None
    lines: tuple[RowLine, ...] = ()
    price_book: str
    notes: tuple[str, ...] = ()
    estimated: bool = False
    latency_ms: float | None = None
    first_token_ms: float | None = None
    status: str = "ok"
    http_status: int | None = None
    error: str = ""
    response_id: str = ""
    request_id: str = ""
    finish: str = ""
    tools: tuple[str, ...] = ()
    stream: bool = False
    trace_id: str = ""
    span_id: str = ""
    decision: str = "{}"
    rung: str = ""
    cache: str = ""
    cause: str = ""
    retracts: str | None = None
    """The attempt whose row this takes away. Where that has been summed up already, the rest of this row evens it out."""
    retracts_sequence: int | None = None


_CLASSES = 5


def _cost_class(unit: str) -> int:
    """Which of the five cost columns a unit belongs to: input, cache read, cache write, output, other."""
    if unit.startswith("cache_read"):
        return 1
    if unit.startswith("cache_write"):
        return 2
    dimensions = UNITS[UNIT_INDEX[unit]].dimensions
    if "tokens" in dimensions:
        return 0 if "input" in dimensions else 3
    return 4


_COST_CLASS = {unit.name: _cost_class(unit.name) for unit in UNITS}


def _costs(charge: Charge) -> list[int]:
    sums = [0] * _CLASSES
    if charge.amount is not None:
        for line in charge.lines:
            sums[_COST_CLASS.get(line.unit, _CLASSES - 1)] += line.cost
    return sums


@lru_cache(maxsize=4096)
def _rate_text(unit: str, rate: Rate) -> str:
    return f"{rate.usd_per(BASIS[unit]):f}"


def _row_line(line: Line) -> RowLine:
    # A line has one rounding: rate and units are kept, so that anyone can do it again.
    rate = None if line.rate is None else _rate_text(line.unit, line.rate)
    return RowLine(line.unit, line.units, rate, line.price_row, line.cost)


def row_of(attempt: Attempt) -> Row:
    """The ledger row of an attempt."""
    opening, charge = attempt.opening, attempt.charge
    scope, usage = opening.scope, charge.usage
    costs = _costs(charge)
    return Row(
        attempt_id=opening.attempt_id,
        call_id=opening.call_id,
        number=opening.number,
        kind=opening.kind,
        door=opening.door,
        operation=opening.operation,
        started_us=opening.started_us,
        provider=opening.provider,
        model_asked=opening.model_asked,
        model=charge.model or opening.model_sent or opening.model_asked,
        org=scope.org,
        team=scope.team,
        project=scope.project,
        user=scope.user,
        agent=scope.agent,
        session=scope.session,
        task=scope.task,
        parent_task=scope.parent_task,
        key=scope.key,
        labels=dict(scope.labels) if scope.labels else None,
        units=None if usage is None else usage.counts(),
        cost_nanousd=charge.amount,
        cost_input_nanousd=costs[0],
        cost_cache_read_nanousd=costs[1],
        cost_cache_write_nanousd=costs[2],
        cost_output_nanousd=costs[3],
        cost_other_nanousd=costs[4],
        unpriced_reason=charge.reason,
        reported_nanousd=charge.reported,
        avoided_nanousd=attempt.avoided,
        lines=tuple(map(_row_line, charge.lines)),
        price_book=charge.price_book,
        notes=charge.notes,
        estimated=charge.estimated,
        latency_ms=attempt.latency_ms,
        first_token_ms=attempt.first_token_ms,
        status=attempt.status,
        http_status=attempt.http_status,
        error=attempt.error,
        response_id=attempt.response_id,
        request_id=attempt.request_id,
        finish=attempt.finish,
        tools=attempt.tools,
        stream=opening.stream,
        trace_id=opening.trace_id,
        span_id=opening.span_id,
        decision=opening.decision,
        rung=opening.rung,
        cache=opening.cache,
        cause=opening.cause,
    )


_encoder = msgspec.json.Encoder()
_opening_decoder = msgspec.json.Decoder(Opening)
_row_decoder = msgspec.json.Decoder(Row)


# A row of a call has one or two kilobytes. What makes it longer than this is somebody else's text.
_ROW_BYTES_MAX: Final = 128 * 1024
_TEXT_LENGTH_MAX: Final = 512
_LIST_LENGTH_MAX: Final = 64


def encode_attempt(attempt: Attempt) -> bytes:
    row = row_of(attempt)
    data = _encoder.encode(row)
    return data if len(data) <= _ROW_BYTES_MAX else _encoder.encode(_shortened(row))


def _shortened(row: Row) -> Row:
    """The same figures with every text and list cut: what was sent to us must not stop the ledger, or fill it."""
    changes: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(row).items():
        if isinstance(value, str):
            changes[name] = value[:_TEXT_LENGTH_MAX]
        elif isinstance(value, tuple) and name != "lines":
            texts = cast("tuple[str, ...]", value)
            changes[name] = tuple(text[:_TEXT_LENGTH_MAX] for text in texts[:_LIST_LENGTH_MAX])
    if len(row.decision) > _TEXT_LENGTH_MAX:
        changes["decision"] = "{}"
    if len(row.lines) > _LIST_LENGTH_MAX:
        rest = row.lines[_LIST_LENGTH_MAX:]
        text = f"{len(rest)} more lines"
        last = RowLine("other", len(rest), None, text, sum(line.cost_nanousd for line in rest))
        changes["lines"] = (*row.lines[:_LIST_LENGTH_MAX], last)
    return msgspec.structs.replace(row, **changes)


def encode_opening(opening: Opening) -> bytes:
    return _encoder.encode(opening)


def encode_retraction(payload: bytes, sequence: int) -> bytes:
    """The row that takes back the one of an entry. Raises msgspec.MsgspecError when that cannot be read."""
    row = decode_row(payload)
    back = msgspec.structs.replace(
        row,
        attempt_id=f"{row.attempt_id}+retracted",
        number=0,
        units=None,
        cost_nanousd=None if row.cost_nanousd is None else -row.cost_nanousd,
        cost_input_nanousd=-row.cost_input_nanousd,
        cost_cache_read_nanousd=-row.cost_cache_read_nanousd,
        cost_cache_write_nanousd=-row.cost_cache_write_nanousd,
        cost_output_nanousd=-row.cost_output_nanousd,
        cost_other_nanousd=-row.cost_other_nanousd,
        reported_nanousd=None,
        avoided_nanousd=None,
        lines=(),
        response_id="",
        latency_ms=None,
        first_token_ms=None,
        retracts=row.attempt_id,
        retracts_sequence=sequence,
    )
    return _encoder.encode(back)


def decode_row(data: bytes) -> Row:
    """Raises msgspec.DecodeError when the bytes are not a row."""
    return _row_decoder.decode(data)


def decode_opening(data: bytes) -> Opening:
    """Raises msgspec.DecodeError when the bytes are not an opening."""
    return _opening_decoder.decode(data)
