"""Observations as they are kept: what was decided of one, as a row of the ledger that can be decided again.

Rule 1: what the ledger takes is one JSON object on one line; what only deciding again needs is kept apart from it.
Rule 2: from the rows of a trace everything the receiver knew of it can be made again, the scope that was charged too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from bursar.core.ledger import Door
from bursar.core.observations import Kind, Observation, Source, TaskOutcome
from bursar.core.prices import Reading
from bursar.core.scopes import NOBODY, Scope
from bursar.core.traces import Verdict

__all__ = [
    "KeptSpan",
    "SpanRest",
    "SpanRow",
    "decode_arrival",
    "decode_spans",
    "encode_arrival",
    "encode_outcomes",
    "encode_spans",
    "kept_of",
]


class SpanRow(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the ledger takes of a verdict. ``span_id`` is the observation's key in its trace."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: Kind
    door: Door
    started_us: int
    ended_us: int
    status: Literal["ok", "error"] = "ok"
    error: str = ""
    org: str = ""
    team: str = ""
    project: str = ""
    user: str = ""
    agent: str = ""
    session: str = ""
    task: str = ""
    parent_task: str = ""
    tool: str = ""
    size_bytes: int | None = None
    attempt_id: str = ""
    revised: bool = False


class SpanRest(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What it takes besides to decide again. ``version`` counts the attempts it became; ``own`` is the scope that was said,
    None where that is the complete one, "" where nothing was."""

    key: str
    labels: tuple[tuple[str, str], ...]
    own: Scope | Literal[""] | None
    source: Source
    operation: str
    provider: str
    model_asked: str
    reading: Reading | None
    group: str
    stream: bool
    first_token_ms: float | None
    notes: tuple[str, ...]
    version: int
    charged: bool
    in_trace: bool


class KeptSpan(msgspec.Struct, frozen=True, gc=False):
    """A verdict as it is kept."""

    row: SpanRow
    rest: SpanRest

    @property
    def scope(self) -> Scope:
        """The complete scope, as it was decided."""
        row = self.row
        return Scope(
            row.org,
            row.team,
            row.project,
            row.user,
            row.agent,
            row.session,
            row.task,
            row.parent_task,
            self.rest.key,
            self.rest.labels,
        )

    def observation(self) -> Observation:
        """What was said."""
        row, rest = self.row, self.rest
        record = rest.source != "span"
        return Observation(
            source=rest.source,
            door=row.door,
            name=row.name,
            kind=row.kind,
            started_us=row.started_us,
            ended_us=row.ended_us,
            trace_id=row.trace_id if rest.in_trace else "",
            span_id=row.parent_id if record else row.span_id,
            parent_id="" if record else row.parent_id,
            operation=rest.operation,
            provider=rest.provider,
            model_asked=rest.model_asked,
            reading=rest.reading,
            scope=self.scope if rest.own is None else rest.own or NOBODY,
            tool=row.tool,
            group=rest.group,
            status=row.status,
            error=row.error,
            stream=rest.stream,
            first_token_ms=rest.first_token_ms,
            size_bytes=row.size_bytes,
            notes=rest.notes,
        )


def kept_of(trace: str, verdict: Verdict, *, attempt_id: str, version: int, charged: bool, revised: bool) -> KeptSpan:
    """What is kept of a verdict."""
    seen, scope = verdict.observation, verdict.scope
    row = SpanRow(
        seen.trace_id or trace,
        verdict.key,
        seen.parent_id if seen.source == "span" else seen.span_id,
        seen.name,
        seen.kind,
        seen.door,
        seen.started_us,
        seen.ended_us,
        seen.status,
        seen.error,
        scope.org,
        scope.team,
        scope.project,
        scope.user,
        scope.agent,
        scope.session,
        scope.task,
        scope.parent_task,
        seen.tool,
        seen.size_bytes,
        attempt_id,
        revised,
    )
    rest = SpanRest(
        scope.key,
        scope.labels,
        _own(seen.scope, scope),
        seen.source,
        seen.operation,
        seen.provider,
        seen.model_asked,
        seen.reading,
        seen.group,
        seen.stream,
        seen.first_token_ms,
        seen.notes,
        version,
        charged,
        bool(seen.trace_id),
    )
    return KeptSpan(row, rest)


def _own(said: Scope, complete: Scope) -> Scope | Literal[""] | None:
    if said is complete or said == complete:
        return None
    return "" if said is NOBODY else said


class _KeptOutcome(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    task: str
    outcome: str
    at_us: int
    value_nanousd: int | None = None
    note: str = ""


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(SpanRow)
_packer: Final = msgspec.msgpack.Encoder()
_rest_decoder: Final = msgspec.msgpack.Decoder(list[SpanRest])
_arrival_decoder: Final = msgspec.msgpack.Decoder(list[Observation])


def encode_spans(spans: Sequence[KeptSpan]) -> tuple[bytes, bytes]:
    """Rows for the ledger, one a line, and the rest."""
    return _encoder.encode_lines([each.row for each in spans]), _packer.encode([each.rest for each in spans])


def decode_spans(lines: bytes, rest: bytes) -> list[KeptSpan]:
    """Raises msgspec.MsgspecError."""
    return list(map(KeptSpan, _decoder.decode_lines(lines), _rest_decoder.decode(rest)))


def encode_outcomes(outcomes: Iterable[TaskOutcome]) -> bytes:
    return _encoder.encode_lines(
        [_KeptOutcome(each.task, each.outcome, each.at_us, each.value, each.note) for each in outcomes]
    )


def encode_arrival(observations: Sequence[Observation]) -> bytes:
    return _packer.encode(observations)


def decode_arrival(data: bytes) -> list[Observation]:
    """Raises msgspec.MsgspecError when another version wrote it in another way."""
    return _arrival_decoder.decode(data)
