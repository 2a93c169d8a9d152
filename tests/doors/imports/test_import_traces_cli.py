"""``bursar import otlp`` and ``bursar import langfuse`` on a data directory of their own, up to what reports show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bursar.cli.imports import import_
from bursar.compose import open_queries
from telemetry_making import a_span, traces_json, traces_proto

TRACE = "0af7651916cd43dd8448eb211c80319c"
AGENT, CALL, TOOL = "00000000000000a1", "00000000000000b1", "00000000000000c1"
USED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.input_tokens": 1_000,
    "gen_ai.usage.output_tokens": 100,
}
SPANS = [
    a_span({**USED, "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"}, name="agent", span=AGENT),
    a_span({**USED, "operation.cost": 0.5}, name="chat", span=CALL, parent=AGENT),
    a_span(
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}, name="search", span=TOOL, parent=AGENT
    ),
]
LIST_PRICE = 1_000 * 150 + 100 * 600


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose configuration prices one tool."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURSAR_CONFIG", raising=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bursar.yaml").write_text('tools: {search: {per_call: "0.005"}}\n')
    return tmp_path / "data"


def run(data: Path, *arguments: object) -> Result:
    result = CliRunner().invoke(import_, [*map(str, arguments), "--data", str(data)])
    assert result.exit_code == 0, result.output
    return result


def attempts(data: Path) -> list[tuple[str, str, str, int]]:
    """What the ledger holds: kind, agent, task and cost."""
    with open_queries(data) as ledger:
        rows = ledger.rows("SELECT kind, agent, task, cost_nanousd, reported_nanousd FROM attempt ORDER BY kind")
        return [(row["kind"], row["agent"], row["task"], row["cost_nanousd"]) for row in rows]


def spans(data: Path) -> dict[str, tuple[str, str, str, str]]:
    with open_queries(data) as ledger:
        rows = ledger.rows("SELECT span_id, parent_id, kind, task, agent FROM span")
    assert len({row["span_id"] for row in rows}) == len(rows)
    return {row["span_id"]: (row["parent_id"], row["kind"], row["task"], row["agent"]) for row in rows}


def test_calls_tools_and_the_shape_of_their_task(data, tmp_path):
    """The call at its list price, the tool at the price of bursar.yaml, and every span in its place."""
    path = tmp_path / "traces.jsonl"
    path.write_bytes(traces_json(SPANS))
    summary = json.loads(run(data, "otlp", path, "--json").output)
    assert (summary["calls"], summary["new"], summary["files"]) == (2, 2, 1)
    assert summary["cost_usd"] == "0.00521"
    expected = [("model", "helper", TRACE, LIST_PRICE), ("tool", "helper", TRACE, 5_000_000)]
    assert attempts(data) == expected
    shape = {
        AGENT: ("", "agent", TRACE, "helper"),
        CALL: (AGENT, "model", TRACE, "helper"),
        TOOL: (AGENT, "tool", TRACE, "helper"),
    }
    assert spans(data) == shape
    again = tmp_path / "traces.pb"
    again.write_bytes(traces_proto(SPANS))
    summary = json.loads(run(data, "otlp", again, "--json").output)
    assert (summary["new"], summary["known"]) == (0, 2)
    assert attempts(data) == expected
    assert spans(data) == shape


def test_overrides_and_dry_runs(data, tmp_path):
    """A dry run keeps nothing at all; what the person importing says holds for calls and shape."""
    path = tmp_path / "traces.json"
    path.write_bytes(traces_json(SPANS))
    assert json.loads(run(data, "otlp", path, "--dry-run", "--json").output)["calls"] == 2
    assert attempts(data) == []
    assert spans(data) == {}
    run(data, "otlp", path, "--agent", "other")
    assert {agent for _, agent, _, _ in attempts(data)} == {"other"}
    assert {agent for *_, agent in spans(data).values()} == {"other"}


def test_reported_costs_are_kept_beside(data, tmp_path):
    """What a tool says the call cost is in the ledger, and is not its cost."""
    path = tmp_path / "traces.json"
    path.write_bytes(traces_json(SPANS))
    run(data, "otlp", path)
    with open_queries(data) as ledger:
        [row] = ledger.rows("SELECT cost_nanousd, reported_nanousd FROM attempt WHERE kind = 'model'")
    assert (row["cost_nanousd"], row["reported_nanousd"]) == (LIST_PRICE, 500_000_000)


def test_langfuse(data, tmp_path):
    """One generation below a trace; a second import changes nothing."""
    observation = {
        "id": CALL, "type": "GENERATION", "traceId": TRACE, "name": "chat", "model": "gpt-4o-mini",
        "startTime": "2026-02-10T10:00:00.000Z", "endTime": "2026-02-10T10:00:02.500Z",
        "usageDetails": {"input": 1_000, "output": 100, "total": 1_100},
    }  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"trace": {"id": TRACE}, "observations": [observation]}, indent=2))
    assert json.loads(run(data, "langfuse", path, "--json").output)["new"] == 1
    assert json.loads(run(data, "langfuse", path, "--json").output)["known"] == 1
    assert attempts(data) == [("model", "", TRACE, LIST_PRICE)]
    assert list(spans(data)) == [CALL]


def test_what_was_left_out_is_shown(data, tmp_path):
    """The agent's sum is counted under its reason, with its place."""
    path = tmp_path / "traces.json"
    path.write_bytes(traces_json(SPANS))
    words = " ".join(run(data, "otlp", path).output.split())
    assert "calls 2 in 1 file" in words
    assert "not booked 1 a sum of what lies below it" in words
