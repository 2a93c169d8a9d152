"""Log records and metrics of coding agents: what they say of calls and tools, and what is counted of a counter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from bursar.core.observations import Observation
from bursar.wire.otlp import read_metrics
from bursar.wire.otlp_metrics import metric_observations
from telemetry_making import START_NS, metrics_json, metrics_proto, recorded, set_attributes

SECOND = 1_000_000_000
START_US = START_NS // 1_000
EVENTS = "com.anthropic.claude_code.events"
SESSION = {"session.id": "s-1", "user.id": "hash", "user.email": "ana@example.com", "organization.id": "org-1"}
REQUEST = {
    **SESSION,
    "event.name": "api_request",
    "model": "claude-sonnet-4-5-20250929",
    "cost_usd": "0.0451",
    "duration_ms": "2500",
    "input_tokens": "4",
    "output_tokens": "310",
    "cache_read_tokens": "21000",
    "cache_creation_tokens": "1500",
    "request_id": "req_011",
    "query_source": "main",
}


def counts(observation: Observation) -> dict[str, int]:
    assert observation.reading is not None
    assert observation.reading.usage is not None, observation.reading.reason
    return observation.reading.usage.counts()


def test_claude_code_says_for_how_long_it_writes() -> None:
    """Newer ones state the two lifetimes of a cache apart: nothing is assumed then."""
    split = {**REQUEST, "cache_creation_5m_tokens": "1200", "cache_creation_1h_tokens": "300"}
    [found] = recorded(split, body="claude_code.api_request", scope=EVENTS, resource={"service.name": "claude-code"})
    assert counts(found) == {
        "input_tokens": 22_504, "cache_read_tokens": 21_000, "cache_write_tokens": 1_500,
        "cache_write_5m_tokens": 1_200, "cache_write_1h_tokens": 300, "output_tokens": 310,
    }  # fmt: skip
    assert not [note for note in found.notes if note.startswith("price_assumption")]


def test_claude_code_requests() -> None:
    """An API request: digits as text, cached tokens beside the input, an hour's cache, the time before the record."""
    [found] = recorded(REQUEST, body="claude_code.api_request", scope=EVENTS, resource={"service.name": "claude-code"})
    assert (found.source, found.name, found.kind) == ("log", "claude_code.api_request", "model")
    assert (found.provider, found.model_asked) == ("anthropic", "claude-sonnet-4-5-20250929")
    assert counts(found) == {
        "input_tokens": 22_504, "cache_read_tokens": 21_000, "cache_write_tokens": 1_500,
        "cache_write_1h_tokens": 1_500, "output_tokens": 310,
    }  # fmt: skip
    assert (found.started_us, found.ended_us) == (START_US - 2_500_000, START_US)
    assert found.reading is not None
    assert (found.reading.response_id, found.reading.reported) == ("req_011", 45_100_000)
    assert (found.scope.user, found.scope.org, found.scope.session) == ("ana@example.com", "org-1", "s-1")
    assert (found.scope.project, found.scope.agent, found.group) == ("claude-code", "main", "s-1")
    assert found.notes == ("counts=exclusive:claude_code", "price_assumption=cache_ttl_1h")
    assert "reported_by=provider" not in found.notes


@pytest.mark.parametrize(
    ("body", "scope"), [("claude_code.api_request", ""), ("", EVENTS), ("claude_code.api_request", EVENTS)]
)
def test_claude_code_is_known_by_its_text_or_its_scope(body: str, scope: str) -> None:
    """Either is enough: collectors drop the one or the other."""
    [found] = recorded(REQUEST, body=body, scope=scope)
    assert found.name == "claude_code.api_request"


def test_claude_code_on_bedrock() -> None:
    """The model's name says that Bedrock answered."""
    [found] = recorded({**REQUEST, "model": "us.anthropic.claude-sonnet-4-5-20250929-v1:0"}, scope=EVENTS)
    assert found.provider == "aws"


def test_claude_code_errors() -> None:
    """A failed request is a call without usage: nothing to pay for, but seen."""
    said = {
        **SESSION,
        "event.name": "api_error",
        "model": "claude-sonnet-4-5",
        "error": "Overloaded",
        "status_code": "529",
    }
    [found] = recorded({**said, "duration_ms": "800"}, scope=EVENTS)
    assert (found.name, found.kind, found.status, found.error) == (
        "claude_code.api_error",
        "model",
        "error",
        "Overloaded",
    )
    assert found.reading is None


def test_claude_code_tools() -> None:
    """A tool's result: its name, time, size and whether it failed."""
    said = {
        **SESSION,
        "event.name": "tool_result",
        "tool_name": "Bash",
        "duration_ms": "120",
        "tool_result_size_bytes": "2048",
    }
    [found] = recorded({**said, "success": "true", "tool_parameters": '{"command": "a secret"}'}, scope=EVENTS)
    assert (found.kind, found.tool, found.size_bytes, found.status) == ("tool", "Bash", 2_048, "ok")
    assert (found.ended_us - found.started_us, found.reading) == (120_000, None)
    assert "secret" not in str(found)
    [failed] = recorded({**said, "success": "false", "error": "exit 1"}, scope=EVENTS)
    assert (failed.status, failed.error) == ("error", "exit 1")


@pytest.mark.parametrize("name", ["user_prompt", "tool_decision", "api_request"])
def test_what_is_no_call_is_passed_over(name: str) -> None:
    """Prompts and decisions say nothing to us, and an event of the same short name from another is not Claude Code's."""
    scope = EVENTS if name != "api_request" else "com.example"
    assert recorded({**SESSION, "event.name": name, "model": "m", "input_tokens": 1}, scope=scope) == []


def test_codex_responses() -> None:
    """Codex states its tokens on one event of the stream: inclusive counts, the conversation as session."""
    said = {
        "event.name": "codex.sse_event", "event.kind": "response.completed", "conversation.id": "c-1", "model": "gpt-5-codex",
        "input_token_count": "9000", "output_token_count": "400", "cached_token_count": "8000",
        "reasoning_token_count": "250", "tool_token_count": "9400", "user.email": "bo@example.com",
    }  # fmt: skip
    [found] = recorded(said, scope="codex_otel")
    assert (found.kind, found.provider, found.model_asked, found.operation) == (
        "model",
        "openai",
        "gpt-5-codex",
        "responses",
    )
    assert counts(found) == {
        "input_tokens": 9_000, "cache_read_tokens": 8_000, "output_tokens": 400, "reasoning_tokens": 250,
    }  # fmt: skip
    assert (found.scope.session, found.scope.user) == ("c-1", "bo@example.com")
    assert recorded({**said, "event.kind": "response.output_item.done"}) == []
    assert recorded({"event.name": "codex.sse_event", "event.kind": "response.completed"}) == []


def test_codex_tools() -> None:
    """A tool of Codex, with the id of its call."""
    said = {
        "event.name": "codex.tool_result",
        "tool_name": "shell",
        "call_id": "call_1",
        "duration_ms": 30,
        "success": "false",
    }
    [found] = recorded({**said, "conversation.id": "c-1", "output": "a secret"})
    assert (found.kind, found.tool, found.status, found.group) == ("tool", "shell", "error", "c-1")
    assert found.notes == ("tool_call_id=call_1",)
    assert "secret" not in str(found)


# --- metrics ------------------------------------------------------------------------------------------------------

Points = list[tuple[str, dict[str, Any], Any, int, int]]
WHO = {"session.id": "s-1", "user.email": "ana@example.com", "model": "claude-sonnet-4-5"}


def tokens(kind: str, value: int, *, start: int = 0, at: int = 60) -> tuple[str, dict[str, Any], Any, int, int]:
    attributes = {**WHO, "type": kind}
    return "claude_code.token.usage", attributes, value, START_NS + start * SECOND, START_NS + at * SECOND


def exported(points: Points, *, cumulative: bool) -> Any:
    """The points of some counters, the same in both encodings."""
    ours = read_metrics(metrics_proto(points, cumulative=cumulative), as_json=False)
    assert ours == read_metrics(metrics_json(points, cumulative=cumulative), as_json=True)
    return ours


def test_deltas_of_one_moment_are_one_usage() -> None:
    """Kinds of token that differ in nothing else are one observation, with the cost beside it."""
    points: Points = [
        tokens("input", 10), tokens("output", 200), tokens("cacheRead", 5_000), tokens("cacheCreation", 700),
        ("claude_code.cost.usage", WHO, 0.0123, START_NS, START_NS + 60 * SECOND),
    ]  # fmt: skip
    found = exported(points, cumulative=False)
    assert (len(found.points), found.rejected) == (5, 0)
    [seen], _ = metric_observations(found.points, {})
    assert counts(seen) == {
        "input_tokens": 5_710, "cache_read_tokens": 5_000, "cache_write_tokens": 700, "cache_write_1h_tokens": 700,
        "output_tokens": 200,
    }  # fmt: skip
    assert seen.reading is not None
    assert (seen.reading.reported, seen.reading.estimated) == (12_300_000, True)
    assert (seen.source, seen.kind, seen.provider, seen.group) == ("metric", "model", "anthropic", "s-1")
    assert (seen.started_us, seen.ended_us) == (START_US, START_US + 60_000_000)
    assert seen.scope.user == "ana@example.com"


def test_cumulative_counters_are_counted_by_what_was_added() -> None:
    """The first point counts from its start; then the difference; the same point again adds nothing."""
    first = exported([tokens("input", 100)], cumulative=True).points
    added, known = metric_observations(first, {})
    assert [counts(each)["input_tokens"] for each in added] == [100]
    added, known = metric_observations(first, known)
    assert added == []
    later = exported([tokens("input", 130, at=120)], cumulative=True).points
    added, known = metric_observations(later, known)
    assert [counts(each)["input_tokens"] for each in added] == [30]
    assert added[0].started_us == START_US + 120_000_000
    assert set(known.values()) == {130}


def test_a_counter_that_starts_again_begins_from_zero() -> None:
    """A new start is another series; a value that fell without one is a counter that began again."""
    _, known = metric_observations(exported([tokens("input", 100)], cumulative=True).points, {})
    again = exported([tokens("input", 40, start=90, at=120)], cumulative=True).points
    added, known = metric_observations(again, known)
    assert [counts(each)["input_tokens"] for each in added] == [40]
    fell = exported([tokens("input", 15, at=180)], cumulative=True).points
    added, known = metric_observations(fell, known)
    assert [counts(each)["input_tokens"] for each in added] == [15]
    assert sorted(known.values()) == [15, 40]


def test_values_of_other_series_stay_known() -> None:
    """What is returned holds also the series that this request said nothing of."""
    _, known = metric_observations(exported([tokens("input", 5)], cumulative=True).points, {"other": 9})
    assert known["other"] == 9
    assert len(known) == 2


def test_codex_turns() -> None:
    """Codex's counter: the total is passed over, since the kinds are its parts."""
    name = "codex.turn.token_usage"
    points: Points = [
        (name, {"token_type": kind, "model": "gpt-5-codex"}, value, START_NS, START_NS + SECOND)
        for kind, value in (
            ("total", 1_100),
            ("input", 1_000),
            ("cached_input", 600),
            ("output", 100),
            ("reasoning_output", 30),
        )
    ]
    [seen], _ = metric_observations(exported(points, cumulative=False).points, {})
    assert counts(seen) == {
        "input_tokens": 1_000, "cache_read_tokens": 600, "output_tokens": 100, "reasoning_tokens": 30,
    }  # fmt: skip
    assert seen.provider == "openai"


def test_codex_histograms() -> None:
    """As a histogram the sum is what counts."""
    point = {
        "attributes": [{"key": "token_type", "value": {"stringValue": "input"}}, {"key": "model", "value": {"stringValue": "gpt-5"}}],
        "startTimeUnixNano": str(START_NS), "timeUnixNano": str(START_NS), "count": "3", "sum": 900.0,
    }  # fmt: skip
    metric = {"name": "codex.turn.token_usage", "histogram": {"aggregationTemporality": 1, "dataPoints": [point]}}
    body = json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}).encode()
    request = ExportMetricsServiceRequest()
    made = request.resource_metrics.add().scope_metrics.add().metrics.add(name="codex.turn.token_usage")
    made.histogram.aggregation_temporality = 1
    binary = made.histogram.data_points.add(count=3, sum=900.0, start_time_unix_nano=START_NS, time_unix_nano=START_NS)
    set_attributes(binary.attributes, {"token_type": "input", "model": "gpt-5"})
    ours = read_metrics(body, as_json=True)
    assert ours == read_metrics(request.SerializeToString(), as_json=False)
    [seen], _ = metric_observations(ours.points, {})
    assert counts(seen) == {"input_tokens": 900}


def test_a_kind_of_token_that_nobody_knows() -> None:
    """It is rejected by name: passed over, what it cost would be lost unseen."""
    found = exported([tokens("thought", 5), tokens("output", 1)], cumulative=False)
    assert (len(found.points), found.rejected) == (1, 1)
    assert found.problem == "claude_code.token.usage: type 'thought' is not known"


def test_histograms_of_the_conventions_are_never_priced() -> None:
    """OpenTelemetry's GenAI metrics count the tokens of spans again: no point of them is taken, none is rejected."""
    points: Points = [
        (name, {"gen_ai.token.type": "input", "gen_ai.request.model": "gpt-5"}, 5, START_NS, START_NS)
        for name in (
            "gen_ai.client.token.usage",
            "gen_ai.client.inference.usage.input_tokens",
            "claude_code.session.count",
        )
    ]
    found = exported(points, cumulative=False)
    assert (found.points, found.rejected) == ([], 0)


@pytest.mark.parametrize("value", [-5, 1.5, float("nan"), float("inf")])
def test_values_that_cannot_be(value: Any) -> None:
    """A count that is negative or no whole number is rejected, by name."""
    points: Points = [
        ("claude_code.token.usage", {**WHO, "type": "input"}, value, START_NS, START_NS),
        tokens("output", 3),
    ]
    found = read_metrics(metrics_proto(points, cumulative=False), as_json=False)
    assert (len(found.points), found.rejected) == (1, 1)
    assert found.problem.startswith("claude_code.token.usage")


def test_a_cost_without_tokens() -> None:
    """A cost alone is a reading without usage: it is known that something was used, not what."""
    points: Points = [("claude_code.cost.usage", WHO, 0.5, START_NS, START_NS + SECOND)]
    [seen], _ = metric_observations(exported(points, cumulative=False).points, {})
    assert seen.reading is not None
    assert (seen.reading.usage, seen.reading.reported) == (None, 500_000_000)
    assert seen.reading.reason == "the metric states no usage"
