"""The JSON form of OTLP: the same messages with the same meaning, ids as hexadecimal, 64-bit numbers as text or numbers.

Rule 1: whoever wrote it may have used numbers or names for enumerations, and ids in either case.
Rule 2: a value of an attribute may be anything: what cannot be a value is as if the attribute were not there.
Rule 3: nesting is looked into two levels deep, lists up to ``LIST_MAX`` entries.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Struct

from .dialect import UNREADABLE, BadRequest, bad_request

__all__ = [
    "LIST_MAX", "KeyValue", "LogsRequest", "MetricsRequest", "Span", "TracesRequest", "decode_logs", "decode_metrics",
    "decode_traces", "enumerated", "hexadecimal", "plain", "whole",
]  # fmt: skip

LIST_MAX: Final = 128
_INT_MAX: Final = 2**64  # times are unsigned

T = TypeVar("T")


class KeyValue(Struct, gc=False):
    """An attribute. ``value`` is an object with one member, by the name of its type."""

    key: str | None = None
    value: Any = None


class _Resource(Struct):
    attributes: list[KeyValue] | None = None


class _Scope(Struct):
    """The instrumentation."""

    name: str | None = None
    attributes: list[KeyValue] | None = None


class _Event(Struct):
    name: str | None = None
    attributes: list[KeyValue] | None = None


class _Status(Struct):
    code: Any = 0
    message: str | None = None


class Span(Struct, rename="camel"):
    """A span."""

    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    start_time_unix_nano: Any = 0
    end_time_unix_nano: Any = 0
    attributes: list[KeyValue] | None = None
    events: list[_Event] | None = None
    status: _Status | None = None


class _ScopeSpans(Struct, rename="camel"):
    scope: _Scope | None = None
    spans: list[Span] | None = None


class _ResourceSpans(Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] | None = None


class TracesRequest(Struct, rename="camel"):
    """``ExportTraceServiceRequest``."""

    resource_spans: list[_ResourceSpans] | None = None


class _LogRecord(Struct, rename="camel"):
    time_unix_nano: Any = 0
    observed_time_unix_nano: Any = 0
    body: Any = None
    attributes: list[KeyValue] | None = None
    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None


class _ScopeLogs(Struct, rename="camel"):
    scope: _Scope | None = None
    log_records: list[_LogRecord] | None = None


class _ResourceLogs(Struct, rename="camel"):
    resource: _Resource | None = None
    scope_logs: list[_ScopeLogs] | None = None


class LogsRequest(Struct, rename="camel"):
    """``ExportLogsServiceRequest``."""

    resource_logs: list[_ResourceLogs] | None = None


class _DataPoint(Struct, rename="camel"):
    attributes: list[KeyValue] | None = None
    start_time_unix_nano: Any = 0
    time_unix_nano: Any = 0
    as_int: Any = None
    as_double: Any = None
    sum: Any = None


class _Sum(Struct, rename="camel"):
    data_points: list[_DataPoint] | None = None
    aggregation_temporality: Any = 0


class _Metric(Struct):
    name: str | None = None
    sum: _Sum | None = None
    histogram: _Sum | None = None


class _ScopeMetrics(Struct):
    scope: _Scope | None = None
    metrics: list[_Metric] | None = None


class _ResourceMetrics(Struct, rename="camel"):
    resource: _Resource | None = None
    scope_metrics: list[_ScopeMetrics] | None = None


class MetricsRequest(Struct, rename="camel"):
    """``ExportMetricsServiceRequest``."""

    resource_metrics: list[_ResourceMetrics] | None = None


_TRACES: Final = msgspec.json.Decoder(TracesRequest)
_LOGS: Final = msgspec.json.Decoder(LogsRequest)
_METRICS: Final = msgspec.json.Decoder(MetricsRequest)


def decode_traces(body: bytes) -> TracesRequest:
    """Raises BadRequest."""
    return _decoded(_TRACES, body)


def decode_logs(body: bytes) -> LogsRequest:
    """Raises BadRequest."""
    return _decoded(_LOGS, body)


def decode_metrics(body: bytes) -> MetricsRequest:
    """Raises BadRequest."""
    return _decoded(_METRICS, body)


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        found = bad_request(error)
        raise BadRequest(found.field, f"this is no OTLP/JSON: {found.message}") from None


# --- values -----------------------------------------------------------------------------------------------------


def whole(value: Any) -> int:
    """A 64-bit number, written as a number, as text, or in the halves of a JavaScript library; 0 where it is none."""
    if isinstance(value, str) and len(value) <= 20:
        digits = value.strip()
        if not digits.removeprefix("-").isdigit() or not digits.isascii():
            return 0
        value = int(digits)
    elif isinstance(value, dict):
        halves = cast("dict[str, Any]", value)
        low, high = halves.get("low"), halves.get("high", 0)
        if not isinstance(low, int) or not isinstance(high, int):
            return 0
        value = (high << 32) + (low & 0xFFFFFFFF)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= _INT_MAX:
        return 0
    return value


def plain(value: Any, depth: int = 2) -> Any:
    """An attribute's value as text, number, truth, list or mapping; None for what is none of these."""
    if not isinstance(value, dict):
        return None
    for kind, content in cast("dict[str, Any]", value).items():
        match kind:
            case "stringValue":
                return content if isinstance(content, str) else None
            case "intValue":
                return whole(content) if content not in (None, "") else None
            case "doubleValue":
                return content if isinstance(content, int | float) and not isinstance(content, bool) else None
            case "boolValue":
                return content if isinstance(content, bool) else None
            case "arrayValue" if depth and isinstance(content, dict):
                entries = cast("dict[str, Any]", content).get("values")
                if not isinstance(entries, list):
                    return []
                return [plain(each, depth - 1) for each in cast("list[Any]", entries)[:LIST_MAX]]
            case "kvlistValue" if depth and isinstance(content, dict):
                return _entries(cast("dict[str, Any]", content).get("values"), depth - 1)
            case _:
                pass
    return None


def _entries(pairs: Any, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in cast("list[Any]", pairs)[:LIST_MAX] if isinstance(pairs, list) else ():
        if isinstance(pair, dict):
            entry = cast("dict[str, Any]", pair)
            key = entry.get("key")
            if isinstance(key, str):
                found[key] = plain(entry.get("value"), depth)
    return found


def hexadecimal(text: str | None, digits: int) -> str:
    """An id in lower case, "" where it is none or all zeros."""
    if not text or len(text) != digits:
        return ""
    text = text.lower()
    return text if all(c in "0123456789abcdef" for c in text) and text.strip("0") else ""


def enumerated(value: Any, names: dict[str, int]) -> int:
    """The number of an enumeration's member, 0 where it is none."""
    if isinstance(value, str):
        return names.get(value, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
