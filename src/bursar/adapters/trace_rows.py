"""Observations as they are kept: what was decided of one, as a row of the ledger that can be decided again.

Rule 1: a row is one JSON object on one line. The ledger takes the columns it knows and passes over the rest.
Rule 2: from the rows of a trace everything the receiver knew of it can be made again, the scope that was charged too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from bursar.core.observations import Observation, TaskOutcome
from bursar.core.prices import Reading
from bursar.core.scopes import Scope
from bursar.core.traces import Verdict

__all__ = ["KeptSpan", "decode_arrival", "decode_lines", "encode_arrival", "encode_outcomes", "kept_of", "lines_of"]


class KeptSpan(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A verdict, flat. ``span_id`` is the observation's key in its trace; ``version`` counts the attempts it became."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    door: str
    started_us: int
    ended_us: int
    status: str = "ok"
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
    key: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    own: Scope | None = None
    source: str = "span"
    operation: str = ""
    provider: str = ""
    model_asked: str = ""
    reading: Reading | None = None
    group: str = ""
    stream: bool = False
    first_token_ms: float | None = None
    notes: tuple[str, ...] = ()
    version: int = 0
    charged: bool = False
    in_trace: bool = True

    @property
    def scope(self) -> Scope:
        """The complete scope, as it was decided."""
        return Scope(
            self.org,
            self.team,
            self.project,
            self.user,
            self.agent,
            self.session,
            self.task,
            self.parent_task,
            self.key,
            self.labels,
        )

    def observation(self) -> Observation:
        """What was said."""
        record = self.source != "span"
        return Observation(
            source=self.source,  # type: ignore[arg-type]
            door=self.door,  # type: ignore[arg-type]
            name=self.name,
            kind=self.kind,  # type: ignore[arg-type]
            started_us=self.started_us,
            ended_us=self.ended_us,
            trace_id=self.trace_id if self.in_trace else "",
            span_id=self.parent_id if record else self.span_id,
            parent_id="" if record else self.parent_id,
            operation=self.operation,
            provider=self.provider,
            model_asked=self.model_asked,
            reading=self.reading,
            scope=self.scope if self.own is None else self.own,
            tool=self.tool,
            group=self.group,
            status=self.status,  # type: ignore[arg-type]
            error=self.error,
            stream=self.stream,
            first_token_ms=self.first_token_ms,
            size_bytes=self.size_bytes,
            notes=self.notes,
        )


def kept_of(trace: str, verdict: Verdict, *, attempt_id: str, version: int, charged: bool, revised: bool) -> KeptSpan:
    """What is kept of a verdict."""
    seen, scope = verdict.observation, verdict.scope
    return KeptSpan(
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
        scope.key,
        scope.labels,
        None if seen.scope == scope else seen.scope,
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


class _KeptOutcome(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    task: str
    outcome: str
    at_us: int
    value_nanousd: int | None = None
    note: str = ""


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(KeptSpan)
_arrival_encoder: Final = msgspec.msgpack.Encoder()
_arrival_decoder: Final = msgspec.msgpack.Decoder(list[Observation])


def lines_of(spans: Iterable[KeptSpan]) -> bytes:
    return _encoder.encode_lines(spans)


def decode_lines(lines: bytes) -> list[KeptSpan]:
    """Raises msgspec.MsgspecError."""
    return _decoder.decode_lines(lines)


def encode_outcomes(outcomes: Iterable[TaskOutcome]) -> bytes:
    return _encoder.encode_lines(
        [_KeptOutcome(each.task, each.outcome, each.at_us, each.value, each.note) for each in outcomes]
    )


def encode_arrival(observations: Sequence[Observation]) -> bytes:
    return _arrival_encoder.encode(observations)


def decode_arrival(data: bytes) -> list[Observation]:
    """Raises msgspec.MsgspecError when another version wrote it in another way."""
    return _arrival_decoder.decode(data)
