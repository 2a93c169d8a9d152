"""The binary form of OTLP. It is the common one, and the one that is measured: 60,000 spans a second on one core.

Rule 1: fields are read where they lie; the attributes that the table does not name are never turned into objects.
Rule 2: text and whole numbers, nearly all there is, are read by their own member: an empty one is of another type, or
        empty, and only then the type is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from bursar.core.scopes import VALUE_LENGTH_MAX

from .dialect import BadRequest
from .otlp_json import LIST_MAX
from .telemetry import COUNT_MAX, Facts, Rule, provider_id, rule_of, take

__all__ = ["collect", "decode_logs", "decode_metrics", "decode_traces", "encode_answer", "plain_value", "text_of"]

_TEXT_MAX: Final = 4 * VALUE_LENGTH_MAX


def decode_traces(body: bytes) -> ExportTraceServiceRequest:
    """Raises BadRequest."""
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise _bad(error) from None


def decode_logs(body: bytes) -> ExportLogsServiceRequest:
    """Raises BadRequest."""
    try:
        return ExportLogsServiceRequest.FromString(body)
    except DecodeError as error:
        raise _bad(error) from None


def decode_metrics(body: bytes) -> ExportMetricsServiceRequest:
    """Raises BadRequest."""
    try:
        return ExportMetricsServiceRequest.FromString(body)
    except DecodeError as error:
        raise _bad(error) from None


def _bad(error: DecodeError) -> BadRequest:
    return BadRequest("", f"this is no OTLP in protobuf: {error}")


def encode_answer(signal: str, rejected: int, problem: str) -> bytes:
    """The answer to an export: what was rejected, and why."""
    match signal:
        case "traces":
            found = ExportTraceServiceResponse()
            if rejected:
                found.partial_success.rejected_spans = rejected
                found.partial_success.error_message = problem
            return found.SerializeToString()
        case "logs":
            logs = ExportLogsServiceResponse()
            if rejected:
                logs.partial_success.rejected_log_records = rejected
                logs.partial_success.error_message = problem
            return logs.SerializeToString()
        case _:
            metrics = ExportMetricsServiceResponse()
            if rejected:
                metrics.partial_success.rejected_data_points = rejected
                metrics.partial_success.error_message = problem
            return metrics.SerializeToString()


def collect(attributes: Iterable[KeyValue], facts: Facts) -> None:
    """Read the attributes that the table names."""
    values, ranks = facts.values, facts.ranks
    for pair in attributes:
        name = pair.key
        rule = rule_of(name)
        if rule is None:
            continue
        slot, rank, form, _ = rule
        if slot in ranks and ranks[slot] < rank and form != "choice":
            continue
        value = pair.value
        if form == "count":
            found = value.int_value
            if not 0 < found <= COUNT_MAX:
                take(rule, name, plain_value(value), facts)
                continue
        elif form == "size":
            found = value  # measured where it is a tool's, and only then
        else:
            text = value.string_value
            if not text or len(text) > VALUE_LENGTH_MAX or not text.isprintable() or text[0] == " ":
                take(rule, name, plain_value(value), facts)
                continue
            if form == "text":
                found = text
            elif form == "choice":
                found = _choice(rule, text, facts)
            elif form == "provider":
                found = provider_id(text)
            else:
                take(rule, name, text, facts)
                continue
            if not found:
                continue
        values[slot] = found
        ranks[slot] = rank
        if facts.bad:
            facts.bad.pop(slot, None)


def _choice(rule: Rule, text: str, facts: Facts) -> str | None:
    """What a word of a choice means, unless a better attribute has said it; the word itself is kept either way."""
    choices, also = rule.detail
    if also:
        facts.put(also, rule.rank, text)
    if facts.ranks.get(rule.slot, rule.rank) < rule.rank:
        return None
    return choices.get(text) or choices.get(text.lower())


def plain_value(value: AnyValue, depth: int = 2) -> Any:
    """An attribute's value as text, number, truth, list or mapping; None for what is none of these."""
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "bool_value":
            return value.bool_value
        case "array_value" if depth:
            return [plain_value(each, depth - 1) for each in value.array_value.values[:LIST_MAX]]
        case "kvlist_value" if depth:
            return {pair.key: plain_value(pair.value, depth - 1) for pair in value.kvlist_value.values[:LIST_MAX]}
        case _:
            return None


def text_of(attributes: Iterable[KeyValue], name: str) -> str:
    """One attribute that is no row of the table."""
    for pair in attributes:
        if pair.key == name:
            return pair.value.string_value[:_TEXT_MAX]
    return ""
