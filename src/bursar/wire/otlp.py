"""OTLP, both ways: what exporters send, as observations; what they are answered.

Rule 1: one broken span or record is rejected, counted and named, and the others are taken. What cannot be decoded at all
        raises BadRequest.
Rule 2: a span needs its ids and one time that can be true. A time that cannot be is replaced by the other one, and noted.
Rule 3: a resource and an instrumentation are read once for everything under them.
Rule 4: of a record only those are observations that say something of a call or a tool; the rest is passed over, which is
        no rejection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bursar.core.ledger import Door
from bursar.core.observations import Observation
from bursar.core.scopes import VALUE_LENGTH_MAX
from bursar.core.values import valueclass

from . import otlp_json, otlp_proto
from .otlp_json import KeyValue, enumerated, hexadecimal, plain, whole
from .otlp_metrics import Label, MetricExport, Point, labelled, wanted
from .telemetry import Facts, take_all
from .telemetry_logs import read_record
from .telemetry_spans import Origin, Place, clock, failure, observe, origin_of

__all__ = ["Export", "MetricExport", "Signal", "answer", "read_logs", "read_metrics", "read_traces"]

Signal: TypeAlias = Literal["traces", "logs", "metrics"]

_ERROR: Final = 2
_STATUS: Final = {"STATUS_CODE_ERROR": _ERROR}
_CUMULATIVE: Final = 2
_TEMPORALITY: Final = {"AGGREGATION_TEMPORALITY_CUMULATIVE": _CUMULATIVE, "AGGREGATION_TEMPORALITY_DELTA": 1}
_NAME_MAX: Final = VALUE_LENGTH_MAX
_SDK: Final = "telemetry.sdk.name"
_NO_IDS: Final = "a span has no trace id or no span id"
_NO_TIME: Final = "a span or record has no time between 2000 and 2100"

Pairs: TypeAlias = Iterable[KeyValue] | None


@valueclass
class Export:
    """What one request held. ``rejected`` could not be taken; ``problem`` says why the first could not, "" for none."""

    observations: list[Observation]
    rejected: int
    problem: str


def read_traces(body: bytes, *, as_json: bool, door: Door = "otlp") -> Export:
    """The spans of an ``ExportTraceServiceRequest``. Raises BadRequest."""
    found: list[Observation] = []
    rejected = 0
    problem = ""
    for made in _json_spans(body, door) if as_json else _proto_spans(body, door):
        if isinstance(made, str):
            rejected += 1
            problem = problem or made
        else:
            found.append(made)
    return Export(found, rejected, problem)


def read_logs(body: bytes, *, as_json: bool, door: Door = "otlp") -> Export:
    """What the records of an ``ExportLogsServiceRequest`` say of calls and tools. Raises BadRequest."""
    found: list[Observation] = []
    rejected = 0
    problem = ""
    for made in _json_records(body, door) if as_json else _proto_records(body, door):
        if isinstance(made, str):
            rejected += 1
            problem = problem or made
        elif made is not None:
            found.append(made)
    return Export(found, rejected, problem)


def read_metrics(body: bytes, *, as_json: bool) -> MetricExport:
    """The points of an ``ExportMetricsServiceRequest`` that are worth money. Raises BadRequest."""
    found: list[Point] = []
    rejected = 0
    problem = ""
    for made in _json_points(body) if as_json else _proto_points(body):
        if isinstance(made, str):
            rejected += 1
            problem = problem or made
        elif made is not None:
            found.append(made)
    return MetricExport(found, rejected, problem)


def answer(signal: Signal, *, rejected: int, problem: str, as_json: bool) -> bytes:
    """The answer to an export that was taken, but for what was rejected."""
    if not as_json:
        return otlp_proto.encode_answer(signal, rejected, problem)
    if not rejected:
        return b"{}"
    name = {"traces": "rejectedSpans", "logs": "rejectedLogRecords", "metrics": "rejectedDataPoints"}[signal]
    return msgspec.json.encode({"partialSuccess": {name: str(rejected), "errorMessage": problem}})


# --- protobuf ---------------------------------------------------------------------------------------------------


def _proto_spans(body: bytes, door: Door) -> Iterator[Observation | str]:
    collect = otlp_proto.collect
    for each in otlp_proto.decode_traces(body).resource_spans:
        origin = _proto_origin(each.resource.attributes)
        for group in each.scope_spans:
            here = origin(group.scope.name)
            for span in group.spans:
                trace, own, above = span.trace_id, span.span_id, span.parent_span_id
                if len(trace) != 16 or len(own) != 8 or not any(own) or not any(trace):
                    yield _NO_IDS
                    continue
                times = clock(span.start_time_unix_nano, span.end_time_unix_nano)
                if times is None:
                    yield _NO_TIME
                    continue
                facts = Facts({}, {}, {}, {})
                collect(span.attributes, facts)
                failed = False
                error = ""
                if span.HasField("status") and span.status.code == _ERROR:
                    failed = True
                    for event in span.events:
                        if event.name == "exception":
                            collect(event.attributes, facts)
                    error = failure(facts, span.status.message)
                parent = above.hex() if len(above) == 8 else ""
                yield observe(
                    facts,
                    here,
                    Place(
                        "span", door, span.name[:_NAME_MAX], trace.hex(), own.hex(), parent, times[0], times[1], failed, error,
                        times[2],
                    ),
                )  # fmt: skip


def _proto_origin(attributes: Any) -> Callable[[str], Origin]:
    facts = Facts()
    otlp_proto.collect(attributes, facts)
    sdk = otlp_proto.text_of(attributes, _SDK)
    return lambda library: origin_of(facts, sdk, library)


def _proto_records(body: bytes, door: Door) -> Iterator[Observation | str | None]:
    for each in otlp_proto.decode_logs(body).resource_logs:
        origin = _proto_origin(each.resource.attributes)
        for group in each.scope_logs:
            here = origin(group.scope.name)
            for record in group.log_records:
                facts = Facts()
                otlp_proto.collect(record.attributes, facts)
                trace, own = record.trace_id, record.span_id
                yield read_record(
                    facts,
                    here,
                    door,
                    event=record.event_name or facts.values.get("event") or "",
                    text=record.body.string_value[:_NAME_MAX],
                    at_ns=record.time_unix_nano or record.observed_time_unix_nano,
                    trace_id=trace.hex() if len(trace) == 16 and any(trace) else "",
                    span_id=own.hex() if len(own) == 8 and any(own) else "",
                )


def _proto_points(body: bytes) -> Iterator[Point | str | None]:
    for each in otlp_proto.decode_metrics(body).resource_metrics:
        for group in each.scope_metrics:
            for metric in group.metrics:
                name = metric.name
                if not wanted(name):
                    continue
                resource = _proto_labels(each.resource.attributes)
                counted: Any = metric.sum if metric.HasField("sum") else metric.histogram
                for point in counted.data_points:
                    value = point.sum if metric.HasField("histogram") else _proto_number(point)
                    yield labelled(
                        name,
                        resource + _proto_labels(point.attributes),
                        cumulative=counted.aggregation_temporality == _CUMULATIVE,
                        value=value,
                        start_ns=point.start_time_unix_nano,
                        at_ns=point.time_unix_nano,
                    )


def _proto_number(point: Any) -> int | float:
    return point.as_int if point.WhichOneof("value") == "as_int" else point.as_double


def _proto_labels(attributes: Any) -> tuple[Label, ...]:
    return tuple((pair.key, otlp_proto.plain_value(pair.value)) for pair in attributes)


# --- JSON -------------------------------------------------------------------------------------------------------


def _json_spans(body: bytes, door: Door) -> Iterator[Observation | str]:
    for each in otlp_json.decode_traces(body).resource_spans or ():
        origin = _json_origin(each.resource.attributes if each.resource else None)
        for group in each.scope_spans or ():
            here = origin(group.scope.name or "" if group.scope else "")
            for span in group.spans or ():
                yield _json_span(span, here, door)


def _json_span(span: otlp_json.Span, here: Origin, door: Door) -> Observation | str:
    trace, own = hexadecimal(span.trace_id, 32), hexadecimal(span.span_id, 16)
    if not trace or not own:
        return _NO_IDS
    times = clock(whole(span.start_time_unix_nano), whole(span.end_time_unix_nano))
    if times is None:
        return _NO_TIME
    facts = Facts()
    take_all(_pairs(span.attributes), facts)
    failed = span.status is not None and enumerated(span.status.code, _STATUS) == _ERROR
    error = ""
    if failed and span.status is not None:
        for event in span.events or ():
            if event.name == "exception":
                take_all(_pairs(event.attributes), facts)
        error = failure(facts, span.status.message or "")
    parent = hexadecimal(span.parent_span_id, 16)
    name = (span.name or "")[:_NAME_MAX]
    return observe(
        facts, here, Place("span", door, name, trace, own, parent, times[0], times[1], failed, error, times[2])
    )


def _json_records(body: bytes, door: Door) -> Iterator[Observation | str | None]:
    for each in otlp_json.decode_logs(body).resource_logs or ():
        origin = _json_origin(each.resource.attributes if each.resource else None)
        for group in each.scope_logs or ():
            here = origin(group.scope.name or "" if group.scope else "")
            for record in group.log_records or ():
                facts = Facts()
                take_all(_pairs(record.attributes), facts)
                text = plain(record.body)
                yield read_record(
                    facts,
                    here,
                    door,
                    event=record.event_name or facts.values.get("event") or "",
                    text=text[:_NAME_MAX] if isinstance(text, str) else "",
                    at_ns=whole(record.time_unix_nano) or whole(record.observed_time_unix_nano),
                    trace_id=hexadecimal(record.trace_id, 32),
                    span_id=hexadecimal(record.span_id, 16),
                )


def _json_points(body: bytes) -> Iterator[Point | str | None]:
    for each in otlp_json.decode_metrics(body).resource_metrics or ():
        resource = _json_labels(each.resource.attributes if each.resource else None)
        for group in each.scope_metrics or ():
            for metric in group.metrics or ():
                counted = metric.sum or metric.histogram
                if counted is None or not wanted(metric.name or ""):
                    continue
                for point in counted.data_points or ():
                    value: Any = point.sum if metric.sum is None else point.as_double
                    if point.as_int is not None:
                        value = whole(point.as_int)
                    yield labelled(
                        metric.name or "",
                        resource + _json_labels(point.attributes),
                        cumulative=enumerated(counted.aggregation_temporality, _TEMPORALITY) == _CUMULATIVE,
                        value=value,
                        start_ns=whole(point.start_time_unix_nano),
                        at_ns=whole(point.time_unix_nano),
                    )


def _json_origin(attributes: Pairs) -> Callable[[str], Origin]:
    facts = Facts()
    pairs = list(_pairs(attributes))
    take_all(pairs, facts)
    sdk = next((str(value) for name, value in pairs if name == _SDK), "")
    return lambda library: origin_of(facts, sdk, library)


def _json_labels(attributes: Pairs) -> tuple[Label, ...]:
    return tuple(_pairs(attributes))


def _pairs(attributes: Pairs) -> Iterator[tuple[str, Any]]:
    for pair in attributes or ():
        yield pair.key or "", plain(pair.value)
