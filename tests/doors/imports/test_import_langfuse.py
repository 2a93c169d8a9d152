"""Imports of traces exported from Langfuse: the leaves are charged, their sums are not, and Langfuse's prices stay beside."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.adapters.prices_file import bundled_book
from bursar.core.ledger import Attempt
from bursar.core.observations import Observation
from bursar.core.prices import PriceBook
from bursar.core.tool_prices import ToolPrices
from bursar.doors.imports import langfuse as langfuse_module
from bursar.doors.imports.langfuse import read_langfuse
from bursar.doors.imports.spans import charged, gathered
from bursar.doors.imports.tally import Tally

DATA = (
    Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data")
    / "langfuse-traces"
)
# USD per million tokens of input and output, as their providers list them.
PRICES = {
    "gemini-2.0-flash": ("0.1", "0.4"),
    "gpt-4o": ("2.5", "10"),
    "gpt-4o-2024-08-06": ("2.5", "10"),
    "gpt-4.1-2025-04-14": ("2", "8"),
    "gpt-4o-mini-2024-07-18": ("0.15", "0.6"),
}
EXPORTS = {
    "google-adk-2025-08-28.json": (2, 0),
    "langgraph-2025-08-22.json": (2, 0),
    "llamaindex-2025-06-05.json": (1, 0),
    "microsoft-agent-2025-10-14.json": (2, 1),
    "openai-agents-2025-09-30.json": (2, 0),
    "pydantic-ai-tools-2025-12-04.json": (4, 3),
}
"""Of each file: its model calls, and its sums that have figures."""

needs_exports = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no exported traces in {DATA}: set BURSAR_SHARED_DATA"
)  # fmt: skip


def observations(path: Path, tally: Tally | None = None) -> list[Observation]:
    return gathered(read_langfuse([path], tally=tally or Tally()))


def imported(path: Path, book: PriceBook, tally: Tally | None = None) -> list[Attempt]:
    tally = tally or Tally()
    return list(charged(observations(path, tally), book, ToolPrices(), tally))


def leaves(export: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The observations with usage that have none with usage below them, found by walking down from each."""
    below: dict[str | None, list[dict[str, Any]]] = {}
    for each in export["observations"]:
        below.setdefault(each["parentObservationId"], []).append(each)

    def used(each: dict[str, Any]) -> bool:
        return bool(each["usageDetails"])

    def any_below(each: dict[str, Any]) -> bool:
        return any(used(child) or any_below(child) for child in below.get(each["id"], ()))

    return (each for each in export["observations"] if used(each) and not any_below(each))


@needs_exports
@pytest.mark.parametrize("name", EXPORTS)
def test_the_total_is_the_sum_of_the_leaves(name):
    """Worked out here from the file itself, at list prices."""
    export = json.loads((DATA / name).read_text())
    expected = Decimal(0)
    tokens = [0, 0]
    calls = 0
    for leaf in leaves(export):
        price_in, price_out = PRICES[leaf["model"]]
        usage = leaf["usageDetails"]
        expected += (usage["input"] * Decimal(price_in) + usage["output"] * Decimal(price_out)) / 1_000_000
        tokens[0] += usage["input"]
        tokens[1] += usage["output"]
        calls += 1
    tally = Tally()
    found = imported(DATA / name, bundled_book(), tally)
    assert len(found) == calls == EXPORTS[name][0]
    assert sum((each.charge.cost_usd or Decimal(-1) for each in found), Decimal(0)) == expected
    usages = [each.charge.usage for each in found]
    assert [sum(u.input_tokens for u in usages if u), sum(u.output_tokens for u in usages if u)] == tokens
    assert sum(tally.skipped.values()) == EXPORTS[name][1]
    assert {each.opening.door for each in found} == {"import"}


@needs_exports
@pytest.mark.parametrize("name", EXPORTS)
def test_trees_times_and_scopes_are_those_of_the_export(name):
    """Every observation is one of ours, below the same parent, at the same time; the trace says who it was for."""
    export = json.loads((DATA / name).read_text())
    found = {each.span_id: each for each in observations(DATA / name)}
    assert set(found) == {each["id"] for each in export["observations"]}
    for each in export["observations"]:
        ours = found[each["id"]]
        assert ours.parent_id == (each["parentObservationId"] or "")
        assert ours.trace_id == export["trace"]["id"]
        assert ours.ended_us - ours.started_us == each["latency"] * 1_000
        if export["trace"]["userId"]:
            assert ours.scope.user == export["trace"]["userId"]
        assert ours.kind == {"GENERATION": "model", "TOOL": "tool", "AGENT": "agent"}.get(each["type"], ours.kind)
    text = str(list(found.values()))
    assert "Tokyo" not in text
    assert "joke writer" not in text


@needs_exports
def test_reported_costs_stay_beside_ours():
    """Langfuse had other prices for this model: ours is the amount, its is the reported one."""
    first, second = imported(DATA / "langgraph-2025-08-22.json", bundled_book())
    assert [first.charge.amount, second.charge.amount] == [300_000, 780_000]
    assert [first.charge.reported, second.charge.reported] == [75_000, 159_000]


@needs_exports
def test_agents_and_tasks(books):
    """The agent is that of the nearest span above; the trace is the task; importing twice books nothing more."""
    path = DATA / "pydantic-ai-tools-2025-12-04.json"
    found = imported(path, bundled_book())
    assert [each.opening.scope.agent for each in found].count("joke_agent") == 3
    assert [each.opening.scope.agent for each in found].count("evaluator_agent") == 1
    assert {each.opening.scope.task for each in found} == {"7a38edd8123db47ad8dcb8aa4c5e3926"}
    assert books.observe(found) == 4
    assert books.observe(imported(path, bundled_book())) == 0


OBSERVATION = {
    "id": "9f1c-not-hex", "type": "GENERATION", "traceId": "trace-1", "parentObservationId": None, "name": "chat",
    "startTime": "2026-02-10T10:00:00.000Z", "endTime": "2026-02-10T10:00:02.500Z", "level": "DEFAULT",
    "model": "gpt-test", "completionStartTime": "2026-02-10T10:00:00.750Z", "metadata": {"ls_provider": "openai"},
    "usageDetails": {"input": 40, "output": 5, "input_cache_read": 60, "total": 105},
    "input": {"messages": ["a secret"]}, "output": "a secret",
}  # fmt: skip
TRACE = {
    "id": "trace-1",
    "userId": "u",
    "sessionId": "s",
    "tags": ["a", "b"],
    "environment": "prod",
    "metadata": {"plan": "pro"},
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one.json", json.dumps({"trace": TRACE, "observations": [OBSERVATION]}, indent=2)),
        ("inside.json", json.dumps({**TRACE, "observations": [OBSERVATION]})),
        ("list.json", json.dumps([{"trace": TRACE, "observations": [OBSERVATION]}], indent=1)),
        ("lines.jsonl", json.dumps({"trace": TRACE, "observations": []}) + "\n" + json.dumps({**TRACE, "observations": [OBSERVATION]})),
        ("lines.jsonl.gz", json.dumps({"trace": TRACE, "observations": [OBSERVATION]}) + "\n"),
        ("one.gz", json.dumps({"trace": TRACE, "observations": [OBSERVATION]}, indent=2)),
    ],
)  # fmt: skip
def test_every_form_of_a_file(tmp_path, book, name, content):
    """One trace or many, on a line or over many, compressed or not; ids of any kind, the same each time."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    [attempt] = imported(path, book)
    assert attempt.charge.usage is not None
    assert attempt.charge.usage.counts() == {"input_tokens": 100, "cache_read_tokens": 60, "output_tokens": 5}
    assert attempt.charge.amount == 40 * 2_000 + 60 * 200 + 5 * 10_000
    who = attempt.opening.scope
    assert (who.user, who.session, dict(who.labels)) == (
        "u",
        "s",
        {"environment": "prod", "plan": "pro", "tags": "a,b"},
    )
    assert (attempt.latency_ms, attempt.first_token_ms) == (2_500, 750)
    assert len(attempt.opening.trace_id) == 32
    assert len(attempt.opening.span_id) == 16
    [again] = imported(path, book)
    assert again == attempt
    assert "secret" not in str(attempt)


def test_metadata_as_text(tmp_path, book):
    """Metadata may be JSON in JSON; text that is none is passed over."""
    path = tmp_path / "t.json"
    for metadata, provider in (('{"ls_provider": "anthropic"}', "anthropic"), ("no json", "openai")):
        path.write_text(json.dumps({"trace": TRACE, "observations": [{**OBSERVATION, "metadata": metadata}]}))
        [seen] = observations(path)
        assert seen.provider == provider


def test_documents_past_the_limit(tmp_path, book, monkeypatch):
    """A document over many lines must fit into memory; the way out is said."""
    monkeypatch.setattr(langfuse_module, "LINE_BYTES_MAX", 100)
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"trace": TRACE, "observations": [OBSERVATION]}, indent=2))
    tally = Tally()
    assert imported(path, book, tally) == []
    assert "write one trace a line" in tally.first_place["file cannot be read to its end"]


def test_failures(tmp_path, book):
    """A failed generation without usage is nothing to pay for; one with usage is paid for and marked."""
    failed = {**OBSERVATION, "level": "ERROR", "statusMessage": "429 too many"}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"trace": TRACE, "observations": [{**failed, "usageDetails": {}}]}))
    assert imported(path, book) == []
    [seen] = observations(path)
    assert (seen.status, seen.error) == ("error", "429 too many")
    path.write_text(json.dumps({"trace": TRACE, "observations": [failed]}))
    [attempt] = imported(path, book)
    assert (attempt.status, attempt.error) == ("error", "429 too many")


def test_what_cannot_be_read_is_counted(tmp_path, book):
    """Observations without a time, documents of another shape, files that are none: each with its place."""
    path = tmp_path / "t.jsonl"
    timeless = {**OBSERVATION, "startTime": None, "endTime": "yesterday"}
    rows = [
        {"trace": TRACE, "observations": [timeless, OBSERVATION]},
        {"data": []},
        {"trace": TRACE, "observations": "none"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    tally = Tally()
    assert len(imported(path, book, tally)) == 1
    assert tally.skipped == {"observation without an id or a time": 1, "not a trace that Langfuse exports": 2}
    assert tally.first_place["not a trace that Langfuse exports"].startswith(f"{path}:2")
    torn = tmp_path / "torn.json.gz"
    torn.write_bytes(gzip.compress(b'{"trace": {')[:-4])
    tally = Tally()
    assert imported(torn, book, tally) == []
    assert sum(tally.skipped.values()) == 1
