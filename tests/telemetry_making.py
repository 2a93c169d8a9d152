"""Telemetry as exporters send it, in both encodings, from plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bursar.core.observations import Observation
from bursar.wire.otlp import Export, read_logs, read_traces

START_NS = 1_760_000_000_000_000_000
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

Attributes: TypeAlias = Mapping[str, Any]


def value_json(value: Any) -> dict[str, Any]:
    """A value as OTLP/JSON has it: whole numbers are text."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": attributes_json(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [value_json(each) for each in value]}}
    return {"stringValue": value}


def attributes_json(attributes: Attributes) -> list[dict[str, Any]]:
    return [{"key": name, "value": value_json(value)} for name, value in attributes.items()]


def set_value(target: Any, value: Any) -> None:
    """A value as protobuf has it."""
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, Mapping):
        target.kvlist_value.SetInParent()
        set_attributes(target.kvlist_value.values, value)
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for each in value:
            set_value(target.array_value.values.add(), each)
    else:
        target.string_value = value


def set_attributes(target: Any, attributes: Attributes) -> None:
    for name, value in attributes.items():
        pair = target.add()
        pair.key = name
        set_value(pair.value, value)


def a_span(
    attributes: Attributes,
    *,
    name: str = "span",
    trace: str = TRACE,
    span: str = SPAN,
    parent: str = "",
    start_ns: int = START_NS,
    end_ns: int = START_NS + 2_000_000_000,
    error: str | None = None,
    exception: Attributes | None = None,
) -> dict[str, Any]:
    """One span in OTLP/JSON. ``error`` is the message of its failed status."""
    made: dict[str, Any] = {
        "traceId": trace,
        "spanId": span,
        "parentSpanId": parent,
        "name": name,
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(end_ns),
        "attributes": attributes_json(attributes),
    }
    if error is not None:
        made["status"] = {"code": "STATUS_CODE_ERROR", "message": error}
    if exception is not None:
        made["events"] = [{"name": "exception", "timeUnixNano": "1", "attributes": attributes_json(exception)}]
    return made


def traces_json(spans: Sequence[Mapping[str, Any]], *, scope: str = "", resource: Attributes | None = None) -> bytes:
    group = {"scope": {"name": scope}, "spans": list(spans)}
    each = {"resource": {"attributes": attributes_json(resource or {})}, "scopeSpans": [group]}
    return json.dumps({"resourceSpans": [each]}).encode()


def traces_proto(spans: Sequence[Mapping[str, Any]], *, scope: str = "", resource: Attributes | None = None) -> bytes:
    """The same spans in protobuf."""
    request = ExportTraceServiceRequest()
    each = request.resource_spans.add()
    set_attributes(each.resource.attributes, resource or {})
    group = each.scope_spans.add()
    group.scope.name = scope
    for span in spans:
        made = group.spans.add()
        made.trace_id, made.span_id = bytes.fromhex(span["traceId"]), bytes.fromhex(span["spanId"])
        made.parent_span_id = bytes.fromhex(span["parentSpanId"])
        made.name = span["name"]
        made.start_time_unix_nano, made.end_time_unix_nano = (
            int(span["startTimeUnixNano"]),
            int(span["endTimeUnixNano"]),
        )
        copy_attributes(made.attributes, span["attributes"])
        if "status" in span:
            made.status.code, made.status.message = 2, span["status"]["message"]
        for event in span.get("events", ()):
            added = made.events.add()
            added.name = event["name"]
            copy_attributes(added.attributes, event["attributes"])
    return request.SerializeToString()


def copy_attributes(target: Any, attributes: Sequence[Mapping[str, Any]]) -> None:
    for each in attributes:
        pair = target.add()
        pair.key = each["key"]
        copy_value(pair.value, each["value"])


def copy_value(target: Any, value: Mapping[str, Any]) -> None:
    [(kind, content)] = value.items()
    match kind:
        case "arrayValue":
            target.array_value.SetInParent()
            for each in content["values"]:
                copy_value(target.array_value.values.add(), each)
        case "kvlistValue":
            target.kvlist_value.SetInParent()
            copy_attributes(target.kvlist_value.values, content["values"])
        case "intValue":
            target.int_value = int(content)
        case "boolValue":
            target.bool_value = content
        case "doubleValue":
            target.double_value = content
        case _:
            target.string_value = content


def both(spans: Sequence[Mapping[str, Any]], *, scope: str = "", resource: Attributes | None = None) -> Export:
    """What some spans are read as, the same in both encodings."""
    ours = read_traces(traces_proto(spans, scope=scope, resource=resource), as_json=False)
    other = read_traces(traces_json(spans, scope=scope, resource=resource), as_json=True)
    assert ours == other
    return ours


def seen(
    attributes: Attributes,
    *,
    name: str = "span",
    scope: str = "",
    resource: Attributes | None = None,
    **more: Any,
) -> Observation:
    """The observation of one span with these attributes, the same in both encodings and in any order of attributes."""
    export = both([a_span(attributes, name=name, **more)], scope=scope, resource=resource)
    turned = both([a_span(dict(reversed(attributes.items())), name=name, **more)], scope=scope, resource=resource)
    assert export == turned
    assert (export.rejected, export.problem) == (0, "")
    [observation] = export.observations
    return observation


def recorded(
    attributes: Attributes,
    *,
    body: str = "",
    event: str = "",
    scope: str = "",
    resource: Attributes | None = None,
    at_ns: int = START_NS,
    trace: str = "",
    span: str = "",
) -> list[Observation]:
    """What one log record says, the same in both encodings."""
    request = ExportLogsServiceRequest()
    each = request.resource_logs.add()
    set_attributes(each.resource.attributes, resource or {})
    group = each.scope_logs.add()
    group.scope.name = scope
    record = group.log_records.add()
    record.time_unix_nano, record.event_name, record.body.string_value = at_ns, event, body
    record.trace_id, record.span_id = bytes.fromhex(trace), bytes.fromhex(span)
    set_attributes(record.attributes, attributes)
    document = {
        "resourceLogs": [
            {
                "resource": {"attributes": attributes_json(resource or {})},
                "scopeLogs": [
                    {
                        "scope": {"name": scope},
                        "logRecords": [
                            {
                                "timeUnixNano": str(at_ns),
                                "eventName": event,
                                "body": {"stringValue": body},
                                "traceId": trace,
                                "spanId": span,
                                "attributes": attributes_json(attributes),
                            }
                        ],
                    }
                ],
            }
        ]
    }
    ours = read_logs(request.SerializeToString(), as_json=False)
    assert ours == read_logs(json.dumps(document).encode(), as_json=True)
    assert ours.rejected == 0
    return ours.observations


def metrics_proto(points: Sequence[tuple[str, Attributes, Any, int, int]], *, cumulative: bool) -> bytes:
    """Counters: (name, attributes, value, start, time), the times in nanoseconds."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add().scope_metrics.add()
    for name, attributes, value, start_ns, at_ns in points:
        metric = group.metrics.add()
        metric.name = name
        metric.sum.aggregation_temporality = 2 if cumulative else 1
        point = metric.sum.data_points.add()
        point.start_time_unix_nano, point.time_unix_nano = start_ns, at_ns
        if isinstance(value, float):
            point.as_double = value
        else:
            point.as_int = value
        set_attributes(point.attributes, attributes)
    return request.SerializeToString()


def metrics_json(points: Sequence[tuple[str, Attributes, Any, int, int]], *, cumulative: bool) -> bytes:
    """The same counters in JSON."""
    metrics = [
        {
            "name": name,
            "sum": {
                "aggregationTemporality": 2 if cumulative else "AGGREGATION_TEMPORALITY_DELTA",
                "dataPoints": [
                    {
                        "attributes": attributes_json(attributes),
                        "startTimeUnixNano": str(start_ns),
                        "timeUnixNano": at_ns,
                        **({"asDouble": value} if isinstance(value, float) else {"asInt": str(value)}),
                    }
                ],
            },
        }
        for name, attributes, value, start_ns, at_ns in points
    ]
    return json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}).encode()
