"""Telemetry that is broken, absurd or made to hurt: it costs at most itself."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from bursar.core.scopes import LABELS_MAX, VALUE_LENGTH_MAX
from bursar.wire.dialect import BadRequest
from bursar.wire.otlp import answer, read_logs, read_metrics, read_traces
from telemetry_making import START_NS, a_span, attributes_json, both, seen, traces_json, traces_proto

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}
YEAR_NS = 365 * 86_400 * 1_000_000_000


@pytest.mark.parametrize("value", [-1, 10**13, 1.5, -0.1, float("nan"), float("inf"), 39.0])
def test_counts_that_cannot_be(value: Any) -> None:
    """A negative, fractional or absurd count makes the usage unknown, and the reason names the attribute."""
    export = read_traces(
        traces_proto([a_span({**CHAT, "gen_ai.usage.input_tokens": value, "gen_ai.usage.output_tokens": 5})]),
        as_json=False,
    )
    [found] = export.observations
    assert found.reading is not None
    assert found.reading.usage is None
    assert found.reading.reason.startswith("usage: gen_ai.usage.input_tokens is ")


def test_a_bad_count_of_a_later_name_does_no_harm() -> None:
    """The first name that is present counts; what another says of the same is not looked at."""
    found = seen({**CHAT, "gen_ai.usage.input_tokens": 7, "gen_ai.usage.prompt_tokens": -3})
    assert found.reading is not None
    assert found.reading.usage is not None
    assert found.reading.usage.input_tokens == 7


def test_bad_counts_of_something_else_do_no_harm() -> None:
    """What is no part of this call's usage does not make it unknown."""
    others = {
        "tool_result_size_bytes": -1,
        "input_tokens": -1,
        "gen_ai.aggregated_usage.input_tokens": -1,
        "ai.usage.totalTokens": 1.5,
    }
    found = seen({**CHAT, "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 1, **others})
    assert found.reading is not None
    assert found.reading.usage is not None


@pytest.mark.parametrize("value", [True, [1, 2], {"a": 1}, "many", ""])
def test_values_of_the_wrong_type_are_not_there(value: Any) -> None:
    """They are ignored, everywhere, and never a crash."""
    names = [
        "gen_ai.usage.input_tokens", "gen_ai.usage.cost", "gen_ai.response.time_to_first_chunk", "bursar.cache_hit",
        "ai.response.providerMetadata", "langfuse.observation.usage_details", "metadata",
    ]  # fmt: skip
    stated = {"gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.output_tokens": 5}
    found = seen({**CHAT, **stated, **dict.fromkeys(names, value)})
    assert found.reading is not None
    if value is not True:
        assert found.reading.usage is not None
        assert found.reading.usage.counts() == {"input_tokens": 7, "output_tokens": 5}
    assert found.reading.reported is None
    assert found.first_token_ms is None


def test_text_is_cut_to_what_a_scope_takes() -> None:
    """Ten megabytes in an attribute become a scope's longest value; the same in labels, whose number is bounded too."""
    huge = "x" * 10_000_000
    found = seen({**CHAT, "user.id": huge, "bursar.label.big": huge, "gen_ai.request.model": huge, "unknown": huge})
    assert found.scope.user == "x" * VALUE_LENGTH_MAX
    assert dict(found.scope.labels) == {"big": "x" * VALUE_LENGTH_MAX}
    assert len(found.model_asked) <= VALUE_LENGTH_MAX
    [many] = both([a_span({**CHAT, **{f"bursar.label.n{number}": "v" for number in range(500)}})]).observations
    assert len(many.scope.labels) == LABELS_MAX
    assert len(seen(CHAT, name="n" * 5_000).name) <= VALUE_LENGTH_MAX


def test_unprintable_text_is_cleaned() -> None:
    """Control characters do not reach a scope."""
    assert seen({**CHAT, "user.id": " a\x00b\n "}).scope.user == "ab"


@pytest.mark.parametrize(
    ("start", "end", "read_as", "note"),
    [
        (START_NS, START_NS - 5_000, (START_NS, START_NS), "clock: it ends before it starts"),
        (START_NS, 0, (START_NS, START_NS), "clock: it has no end"),
        (0, START_NS, (START_NS, START_NS), "clock: its start cannot be true"),
        (START_NS, START_NS + 300 * YEAR_NS, (START_NS, START_NS), "clock: its end cannot be true"),
        (1_000_000, START_NS, (START_NS, START_NS), "clock: its start cannot be true"),
    ],
)
def test_clocks(start: int, end: int, read_as: tuple[int, int], note: str) -> None:
    """A time that cannot be true is replaced by the other one, and noted."""
    found = seen(CHAT, start_ns=start, end_ns=end)
    assert (found.started_us, found.ended_us) == (read_as[0] // 1_000, read_as[1] // 1_000)
    assert note in found.notes


@pytest.mark.parametrize(("start", "end"), [(0, 0), (1, 1), (START_NS + 300 * YEAR_NS, START_NS + 301 * YEAR_NS)])
def test_spans_without_any_time(start: int, end: int) -> None:
    """Where no time can be true the span is rejected, and the others are taken."""
    export = both([a_span(CHAT, start_ns=start, end_ns=end), a_span(CHAT)])
    assert (len(export.observations), export.rejected) == (1, 1)
    assert export.problem == "a span or record has no time between 2000 and 2100"


@pytest.mark.parametrize(
    ("trace", "span"),
    [
        ("", "b7ad6b7169203331"),
        ("0" * 32, "b7ad6b7169203331"),
        ("ab" * 16, ""),
        ("ab" * 16, "0" * 16),
        ("ab" * 8, "cd" * 8),
        ("ab" * 16, "cd" * 16),
    ],
)
def test_spans_without_ids(trace: str, span: str) -> None:
    """A span that nobody can name is rejected, counted and explained."""
    export = both([a_span(CHAT, trace=trace, span=span), a_span(CHAT), a_span(CHAT, trace=trace, span=span)])
    assert (len(export.observations), export.rejected) == (1, 2)
    assert export.problem == "a span has no trace id or no span id"


def test_ids_in_json() -> None:
    """Hexadecimal in either case; anything else is no id."""
    body = traces_json([a_span(CHAT, trace="AB" * 16, span="CD" * 8), a_span(CHAT, trace="zz" * 16)])
    export = read_traces(body, as_json=True)
    assert [each.trace_id for each in export.observations] == ["ab" * 16]
    assert export.rejected == 1


@pytest.mark.parametrize("body", [b"", b"{}", b'{"resourceSpans": []}', b'{"resourceSpans": null, "more": 1}'])
def test_empty_requests(body: bytes) -> None:
    """Nothing in, nothing out."""
    if body:
        assert read_traces(body, as_json=True).observations == []
    assert read_traces(b"", as_json=False).observations == []
    assert read_logs(b"", as_json=False).observations == []
    assert read_metrics(b"", as_json=False).points == []


@pytest.mark.parametrize("body", [b"not otlp at all", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05\x0a"])
def test_what_is_no_protobuf(body: bytes) -> None:
    """It is refused whole."""
    for reader in (read_traces, read_logs, read_metrics):
        with pytest.raises(BadRequest, match="no OTLP in protobuf"):
            reader(body, as_json=False)


@pytest.mark.parametrize(
    "body", [b"", b"nothing", b"[]", b'{"resourceSpans": 5}', b'{"resourceSpans": [{"scopeSpans": "x"}]}', b"\xff\xfe"]
)
def test_what_is_no_json(body: bytes) -> None:
    """It is refused whole, with the field."""
    with pytest.raises(BadRequest, match="no OTLP/JSON"):
        read_traces(body, as_json=True)


def test_deep_nesting() -> None:
    """Values nested without end are refused or passed over, never followed."""
    deep = '{"arrayValue":{"values":[' * 20_000 + '{"intValue":"1"}' + "]}}" * 20_000
    body = '{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"metadata","value":' + deep + "}]}]}]}]}"
    with pytest.raises(BadRequest):
        read_traces(body.encode(), as_json=True)
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    value = span.attributes.add(key="metadata").value
    for _ in range(30):
        value = value.array_value.values.add()
    value.string_value = "x"
    export = read_traces(request.SerializeToString(), as_json=False)
    assert export.rejected == 1
    nested: Any = "x"
    for _ in range(40):
        nested = [nested]
    assert seen({**CHAT, "metadata": {"a": nested}, "tag.tags": nested}).scope.labels == ()


@pytest.mark.parametrize(
    ("value", "count"),
    [("39", 39), (39, 39), ({"low": 39, "high": 0, "unsigned": False}, 39), ({"low": -1, "high": 0}, 2**32 - 1)],
)
def test_whole_numbers_in_json(value: Any, count: int) -> None:
    """64-bit numbers as text, as numbers and in the halves of a JavaScript library."""
    span = a_span(CHAT)
    span["attributes"].append({"key": "gen_ai.usage.input_tokens", "value": {"intValue": value}})
    [found] = read_traces(traces_json([span]), as_json=True).observations
    assert found.reading is not None
    assert found.reading.usage is not None
    assert found.reading.usage.input_tokens == count


def test_nulls_in_json() -> None:
    """A field that is null is one that was not sent."""
    nothing = {
        **a_span(CHAT),
        "traceId": None,
        "spanId": None,
        "name": None,
        "attributes": None,
        "status": None,
        "events": None,
    }
    named = {
        **a_span(CHAT),
        "parentSpanId": None,
        "attributes": [{"key": None, "value": None}, {"key": "user.id", "value": None}],
    }
    export = read_traces(traces_json([nothing, named]), as_json=True)
    assert (len(export.observations), export.rejected) == (1, 1)


@pytest.mark.parametrize("code", [2, "STATUS_CODE_ERROR"])
def test_enumerations_in_json(code: Any) -> None:
    """By number and by name."""
    span = {**a_span(CHAT), "status": {"code": code, "message": "no"}}
    [found] = read_traces(traces_json([span]), as_json=True).observations
    assert (found.status, found.error) == ("error", "no")
    for fine in (0, 1, "STATUS_CODE_OK", "nonsense", None, {}):
        [found] = read_traces(traces_json([{**span, "status": {"code": fine}}]), as_json=True).observations
        assert found.status == "ok"


def test_answers() -> None:
    """The answer is in the request's encoding; a partial success has its count and its reason."""
    assert answer("traces", rejected=0, problem="", as_json=True) == b"{}"
    assert answer("traces", rejected=0, problem="", as_json=False) == b""
    assert json.loads(answer("logs", rejected=2, problem="why", as_json=True)) == {
        "partialSuccess": {"rejectedLogRecords": "2", "errorMessage": "why"}
    }
    spans = ExportTraceServiceResponse.FromString(answer("traces", rejected=3, problem="why", as_json=False))
    assert (spans.partial_success.rejected_spans, spans.partial_success.error_message) == (3, "why")
    logs = ExportLogsServiceResponse.FromString(answer("logs", rejected=3, problem="why", as_json=False))
    assert logs.partial_success.rejected_log_records == 3
    points = ExportMetricsServiceResponse.FromString(answer("metrics", rejected=3, problem="why", as_json=False))
    assert points.partial_success.rejected_data_points == 3


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes(body: bytes) -> None:
    """Bytes are read or refused; nothing else happens."""
    for as_json in (False, True):
        for reader in (read_traces, read_logs, read_metrics):
            with suppress(BadRequest):
                reader(body, as_json=as_json)


KEYS = [
    "gen_ai.operation.name", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.request.model",
    "gen_ai.usage.cache_read.input_tokens", "llm.token_count.prompt", "metadata", "user.id", "bursar.label.x", "tag.tags",
    "ai.response.providerMetadata", "gen_ai.usage.cost", "langfuse.observation.usage_details", "output.value",
    "gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.total_tokens", "openinference.span.kind", "bursar.usage.input_tokens",
]  # fmt: skip
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
    | st.sampled_from(["chat", "LLM", "gpt-5", "claude-x", '{"input": 3, "output": -2}', "12"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=10))
@settings(max_examples=150, deadline=None)
def test_any_attributes(attributes: dict[str, Any]) -> None:
    """Whatever the values are, both encodings read the same, in any order, and every usage's parts fit into their whole."""
    try:
        json.dumps(attributes_json(attributes)).encode()
        for text in str(attributes):
            text.encode()
    except UnicodeEncodeError:
        return
    found = seen(attributes)
    usage = found.reading.usage if found.reading is not None else None
    if usage is not None:
        assert min(usage) >= 0
        assert usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
        assert usage.reasoning_tokens <= usage.output_tokens
