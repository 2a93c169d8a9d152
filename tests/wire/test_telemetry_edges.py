"""The corners of reading telemetry: values in unusual forms, payloads in other clothes, figures where none belong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.core.observations import Observation
from bursar.wire.otlp import read_logs, read_metrics, read_traces
from bursar.wire.telemetry import provider_id
from telemetry_making import START_NS, a_span, metrics_proto, seen, traces_json

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5"}
USED = {**CHAT, "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 3}


def counts(observation: Observation) -> dict[str, int]:
    assert observation.reading is not None
    assert observation.reading.usage is not None, observation.reading.reason
    return observation.reading.usage.counts()


@pytest.mark.parametrize(
    ("value", "finish"),
    [
        (["stop", "length"], "stop,length"),
        ('["tool_calls"]', "tool_calls"),
        ("stop", "stop"),
        ("[broken", ""),
        (["", 7], "7"),
        (5, ""),
    ],
)
def test_reasons_to_finish(value: Any, finish: str) -> None:
    """A list, JSON of a list, or one word."""
    found = seen({**USED, "gen_ai.response.finish_reasons": value})
    assert found.reading is not None
    assert found.reading.finish == finish


@pytest.mark.parametrize("value", [{"high": 1}, {"low": "x", "high": 2}, "12a", "-", 2**70, None, 1.5, "9" * 30])
def test_numbers_in_json_that_are_none(value: Any) -> None:
    """What is no whole number of 64 bits is not there: the times of such a span cannot be true."""
    span = {**a_span(CHAT), "startTimeUnixNano": value, "endTimeUnixNano": value}
    export = read_traces(traces_json([span]), as_json=True)
    assert (export.observations, export.rejected) == ([], 1)


def test_lists_in_json_without_entries() -> None:
    """A list whose entries are none is empty."""
    span = a_span(USED)
    span["attributes"].append({"key": "tag.tags", "value": {"arrayValue": {"values": "x"}}})
    span["attributes"].append(
        {
            "key": "metadata",
            "value": {"kvlistValue": {"values": ["x", {"key": 1}, {"key": "a", "value": {"stringValue": "b"}}]}},
        }
    )
    [found] = read_traces(traces_json([span]), as_json=True).observations
    assert dict(found.scope.labels) == {"a": "b"}


def test_metadata_past_its_length_is_not_read() -> None:
    """Megabytes of JSON are not taken apart for a label."""
    assert seen({**USED, "metadata": json.dumps({"a": "b", "text": "x" * 5_000_000})}).scope.labels == ()


def test_frameworks_before_a_point_are_none_either() -> None:
    """The first word of a name decides where the whole name is not known."""
    assert provider_id("langchain.chat") == ""
    assert provider_id("acme.chat") == "acme.chat"


def test_records_and_points_without_a_time_are_rejected() -> None:
    """They are counted and named like spans."""
    record = {"eventName": "claude_code.api_request", "attributes": []}
    export = read_logs(json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode(), as_json=True)
    assert (export.rejected, export.problem) == (1, "claude_code.api_request has no time between 2000 and 2100")
    points = [
        ("claude_code.token.usage", {"type": "input"}, 5, 0, 0),
        ("claude_code.cost.usage", {}, -0.5, START_NS, START_NS),
    ]
    found = read_metrics(metrics_proto(points, cumulative=False), as_json=False)
    assert found.rejected == 2
    assert found.problem == "claude_code.token.usage: a point has no time between 2000 and 2100"


@pytest.mark.parametrize(
    "answer",
    [
        "no json",
        '{"parts": []}',
        '[{"role": "assistant"}]',
        json.dumps([{"parts": [{"type": "text", "content": "x" * 1_100_000}]}]),
    ],
)
def test_answers_that_cannot_be_measured(answer: str) -> None:
    """OpenLIT's count is then judged by the response's id alone."""
    resource = {"telemetry.sdk.name": "openlit"}
    known = seen({**USED, "gen_ai.response.id": "r", "gen_ai.output.messages": answer}, resource=resource)
    unknown = seen({**USED, "gen_ai.output.messages": answer}, resource=resource)
    assert known.reading is not None
    assert unknown.reading is not None
    assert (known.reading.estimated, unknown.reading.estimated) == (False, True)


def test_payloads_in_the_clothes_of_others() -> None:
    """An answer whose total is not Gemini's sum was counted by somebody else: the attributes are read instead."""
    usage = {"prompt_token_count": 1_000, "candidates_token_count": 20, "total_token_count": 5_000}
    said = {**USED, "gcp.vertex.agent.llm_response": json.dumps({"usage_metadata": usage})}
    assert counts(seen(said)) == {"input_tokens": 10, "output_tokens": 3}
    assert counts(seen({**USED, "gcp.vertex.agent.llm_response": "{}"})) == {"input_tokens": 10, "output_tokens": 3}
    assert counts(seen({**USED, "genkit:output": "{}"})) == {"input_tokens": 10, "output_tokens": 3}


@pytest.mark.parametrize(
    ("details", "reported"),
    [
        ({"total": 2}, 2_000_000_000),
        ({"input": 1, "output": 0.5}, 1_500_000_000),
        ({"total": -1}, None),
        ({"total": 10**9}, None),
        ({"total": "much"}, None),
        ({}, None),
    ],
)
def test_costs_of_langfuse(details: dict[str, Any], reported: int | None) -> None:
    """The total, the sum of the parts without one, and nothing for what is no amount."""
    found = seen({**USED, "langfuse.observation.cost_details": json.dumps(details)})
    assert found.reading is not None
    assert found.reading.reported == reported


def test_units_that_a_tool_counted() -> None:
    """A tool's own units are its usage; without them a tool has none."""
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
    assert counts(seen({**tool, "bursar.usage.tool_units": 4})) == {"tool_units": 4}
    assert seen({**tool, "gen_ai.usage.input_tokens": 4}).reading is None


def test_a_fetched_answer_that_poses_as_a_call() -> None:
    """Whatever else calls it a model call: it states the usage of another."""
    assert seen({**USED, "bursar.kind": "model", "gen_ai.operation.name": "fetch_response"}).reading is None


def test_costs_without_usage() -> None:
    """An agent's cost alone is kept, a step's says nothing of calls."""
    agent = seen({"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.cost": 0.5})
    assert agent.reading is not None
    assert (agent.reading.usage, agent.reading.reported, agent.reading.reason) == (
        None,
        500_000_000,
        "the span states no usage",
    )
    assert seen({"gen_ai.usage.cost": 0.5}, name="checkout").reading is None
    call = seen({**CHAT, "gen_ai.usage.cost": 0.5}, error="broke off")
    assert call.reading is not None
    assert (call.reading.usage, call.reading.reported) == (None, 500_000_000)


def test_a_bad_sum_is_not_known() -> None:
    """A sum with a count that cannot be one has a reason instead of a usage."""
    found = seen({"gen_ai.operation.name": "invoke_agent", "gen_ai.aggregated_usage.input_tokens": -4})
    assert found.reading is not None
    assert found.reading.usage is None
    assert "gen_ai.aggregated_usage.input_tokens is -4" in found.reading.reason


def test_reasoning_beside_and_cached_beside() -> None:
    """More reasoning than output, and a total that holds only with the cached tokens beside the input as well."""
    said = {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 175}
    parts = {"gen_ai.usage.cache_read.input_tokens": 60, "gen_ai.usage.reasoning.output_tokens": 10}
    found = seen({**CHAT, **said, **parts})
    assert counts(found) == {"input_tokens": 160, "cache_read_tokens": 60, "output_tokens": 15, "reasoning_tokens": 10}
    assert found.notes == ("counts=exclusive:total", "reasoning=beside_output:exceeds")
