"""Imports of exported OTLP: every form a file comes in, what is charged of it, and that nothing is charged twice."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from bursar import Charge, charging
from bursar.adapters.prices_file import bundled_book
from bursar.core.ledger import Attempt
from bursar.core.prices import PriceBook, Reading, charge
from bursar.core.scopes import Scope
from bursar.core.tool_prices import ToolPrices
from bursar.core.usage import Usage
from bursar.doors.imports import otlp as otlp_module
from bursar.doors.imports import spans as spans_module
from bursar.doors.imports.otlp import read_otlp
from bursar.doors.imports.spans import charged, gathered, in_traces
from bursar.doors.imports.tally import Tally
from bursar.wire.providers import provider
from telemetry_making import (
    START_NS,
    a_span,
    attributes_json,
    metrics_json,
    metrics_proto,
    traces_json,
    traces_proto,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
AGENT, CALL, TOOL = "00000000000000a1", "00000000000000b1", "00000000000000c1"
USED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-test",
    "gen_ai.usage.input_tokens": 1_000,
    "gen_ai.usage.output_tokens": 100,
}
SPANS = [
    a_span({**USED, "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"}, name="agent", span=AGENT),
    a_span({**USED, "gen_ai.response.id": "r-1"}, name="chat", span=CALL, parent=AGENT),
    a_span({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}, span=TOOL, parent=AGENT),
]


def imported(
    *files: Path, book: PriceBook, tally: Tally | None = None, overrides: Scope | None = None, **more: Any
) -> list[Attempt]:
    """What some files are charged as."""
    tally = tally or Tally()
    found = gathered(read_otlp(files, tally=tally, **more), overrides or Scope())
    return list(charged(found, book, ToolPrices(), tally))


def framed(*messages: bytes) -> bytes:
    return b"".join(len(each).to_bytes(4, "big") + each for each in messages)


FORMS: dict[str, Callable[[], tuple[str, bytes]]] = {
    "lines": lambda: ("t.jsonl", b"\n".join(traces_json([span]) for span in SPANS) + b"\n"),
    "one line": lambda: ("t.json", traces_json(SPANS)),
    "many lines": lambda: ("t.json", json.dumps(json.loads(traces_json(SPANS)), indent=2).encode()),
    "a list": lambda: ("t.json", b"[" + b",\n ".join(traces_json([span]) for span in SPANS) + b"]"),
    "protobuf": lambda: ("t.pb", traces_proto(SPANS)),
    "protobuf with lengths": lambda: ("t.bin", framed(*(traces_proto([span]) for span in SPANS))),
    "compressed lines": lambda: ("t.jsonl.gz", gzip.compress(b"\n".join(traces_json([span]) for span in SPANS))),
    "compressed protobuf": lambda: ("t.pb.gz", gzip.compress(traces_proto(SPANS))),
    "compressed document": lambda: ("t.gz", gzip.compress(json.dumps(json.loads(traces_json(SPANS)), indent=1).encode())),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file(tmp_path, book, form):
    """One call is charged, for its agent, its trace its task; the agent's sum is not."""
    name, data = FORMS[form]()
    path = tmp_path / name
    path.write_bytes(data)
    tally = Tally()
    [attempt] = imported(path, book=book, tally=tally)
    assert (attempt.opening.door, attempt.opening.attempt_id) == ("import", f"otlp:{TRACE}:{CALL}")
    assert attempt.charge.amount == 1_000 * 2_000 + 100 * 10_000
    assert (attempt.opening.scope.agent, attempt.opening.scope.task) == ("helper", TRACE)
    assert attempt.opening.started_us == START_NS // 1_000
    assert tally.files == 1
    assert sum(tally.skipped.values()) == 1


def test_importing_again_changes_nothing(tmp_path, book, books):
    """The same ids, in whatever form the trace comes the second time."""
    first, second = tmp_path / "a.json", tmp_path / "b.pb"
    first.write_bytes(traces_json(SPANS))
    second.write_bytes(traces_proto(list(reversed(SPANS))))
    assert books.observe(imported(first, book=book)) == 1
    assert books.observe(imported(second, book=book)) == 0
    assert len(imported(first, second, book=book)) == 1


def test_the_person_importing_says_whose_it_is(tmp_path, book):
    """What is given on the command line wins over what the spans say, for calls and for their shape."""
    path = tmp_path / "a.json"
    path.write_bytes(traces_json(SPANS))
    [attempt] = imported(path, book=book, overrides=Scope(team="search", agent="other"))
    assert (attempt.opening.scope.team, attempt.opening.scope.agent) == ("search", "other")


def test_logs_and_metrics_in_json(tmp_path, book):
    """A file of a Collector may hold all three; a metric of a session that has records counts nothing more."""
    record = {"timeUnixNano": str(START_NS), "body": {"stringValue": "claude_code.api_request"}, "attributes": attributes_json({
        "session.id": "s", "model": "claude-test", "input_tokens": "10", "output_tokens": "1", "request_id": "req_1",
    })}  # fmt: skip
    group = {"scope": {"name": "com.anthropic.claude_code.events"}, "logRecords": [record]}
    logs = json.dumps({"resourceLogs": [{"scopeLogs": [group]}]}).encode()

    def metrics(session: str) -> bytes:
        attributes = {"session.id": session, "model": "claude-test", "type": "input"}
        return metrics_json([("claude_code.token.usage", attributes, 50, START_NS, START_NS + 1)], cumulative=False)

    path = tmp_path / "all.jsonl"
    path.write_bytes(b"\n".join([traces_json(SPANS), logs, metrics("s"), metrics("another")]))
    found = imported(path, book=book)
    amounts = sorted(each.charge.amount or 0 for each in found)
    assert amounts == sorted([3_000_000, 10 * 4_000 + 20_000, 50 * 4_000])


def test_protobuf_is_what_it_is_said_to_be(tmp_path, book):
    """Binary files do not say what they hold."""
    points = [
        (
            "claude_code.token.usage",
            {"session.id": "s", "model": "claude-test", "type": "output"},
            3,
            START_NS,
            START_NS,
        )
    ]
    path = tmp_path / "m.pb"
    path.write_bytes(metrics_proto(points, cumulative=True))
    [attempt] = imported(path, book=book, binary="metrics")
    assert attempt.charge.amount == 3 * 20_000
    assert attempt.charge.estimated


def test_what_cannot_be_read_is_counted_with_its_place(tmp_path, book):
    """Broken lines, broken spans, truncated files: the rest is read."""
    path = tmp_path / "a.jsonl"
    lines = [traces_json(SPANS), b'{"resourceSpans": 5}', b"{broken", traces_json([{**SPANS[0], "spanId": ""}])]
    path.write_bytes(b"\n".join(lines))
    tally = Tally()
    assert len(imported(path, book=book, tally=tally)) == 1
    assert tally.skipped["line is no OTLP/JSON"] == 1
    assert tally.skipped["request cannot be decoded"] == 1
    assert tally.skipped["a span has no trace id or no span id"] == 1
    assert tally.first_place["line is no OTLP/JSON"].startswith(f"{path}:3")
    cut = tmp_path / "cut.bin"
    cut.write_bytes(framed(traces_proto(SPANS), traces_proto(SPANS))[:-10])
    tally = Tally()
    assert len(imported(cut, book=book, tally=tally)) == 1
    assert tally.skipped["file cannot be read to its end"] == 1
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(traces_json(SPANS))[:-20])
    tally = Tally()
    assert imported(torn, book=book, tally=tally) == []
    assert tally.skipped["file cannot be read to its end"] == 1
    for name, data in (
        ("empty.json", b""),
        ("noise.bin", b"\x7f\x45\x4c\x46 noise"),
        ("prose.txt", b"{ prose\n and more"),
    ):
        (tmp_path / name).write_bytes(data)
        assert imported(tmp_path / name, book=book) == []


def test_too_many_spans_are_refused(tmp_path, book, monkeypatch):
    """Sums are only known when everything is in memory: past the limit the import says what to do, and charges nothing."""
    monkeypatch.setattr(spans_module, "OBSERVATIONS_MAX", 2)
    path = tmp_path / "a.json"
    path.write_bytes(traces_json(SPANS))
    with pytest.raises(OSError, match="more than 2 spans in one import: import fewer files"):
        imported(path, book=book)


def test_documents_past_the_limit(tmp_path, book, monkeypatch):
    """A document over many lines, and a request in protobuf, must fit into memory; the way out is said."""
    monkeypatch.setattr(otlp_module, "DOCUMENT_BYTES_MAX", 100)
    for name, data in (
        ("t.json", json.dumps(json.loads(traces_json(SPANS)), indent=2).encode()),
        ("t.pb", traces_proto(SPANS)),
    ):
        (tmp_path / name).write_bytes(data)
        tally = Tally()
        assert imported(tmp_path / name, book=book, tally=tally) == []
        assert tally.skipped["file cannot be read to its end"] == 1
    torn = tmp_path / "torn.pb.gz"
    torn.write_bytes(gzip.compress(traces_proto(SPANS))[:-9])
    assert imported(torn, book=book) == []


def test_traces_are_kept_whole():
    """Batches never tear a trace apart."""
    spans = [
        a_span(USED, trace=f"{trace:032x}", span=f"{span:016x}") for span in range(1, 4) for trace in range(1, 3_001)
    ]
    path_free = list(gathered(iter(_observations(spans))))
    batches = list(in_traces(path_free))
    assert len(batches) > 1
    assert sum(map(len, batches)) == 9_000
    where = [(each.trace_id, number) for number, batch in enumerate(batches) for each in batch]
    assert len(set(where)) == 3_000


def _observations(spans: list[dict[str, Any]]) -> list[Any]:
    from bursar.wire.otlp import read_traces

    return read_traces(traces_proto(spans), as_json=False).observations


# --- recorded answers ---------------------------------------------------------------------------------------------

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data") / "wire"
AT = "2025-11-06T12:00Z"
AT_NS = 1_762_430_400_000_000_000
needs_recorded = pytest.mark.skipif(
    not (DATA / "interactions.jsonl.gz").exists(), reason=f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA"
)
# Whose price depends on what no span says: the path at a router, the model behind a part of the answer.
UNSAYABLE_TERMS = {"speed", "inference_geo", "region"}


@lru_cache(maxsize=1)
def recorded() -> list[tuple[dict[str, Any], Reading, Charge]]:
    """Interactions with usage, what their answers say, and what ``charge_response`` makes of them."""
    found: list[tuple[dict[str, Any], Reading, Charge]] = []
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            if not row["usage"]:
                continue
            body = next(row[key] for key in ("response", "response_text", "response_events") if row[key] is not None)
            known = provider(row["url"])
            path = row["url"].partition("://")[2].partition("/")[2]
            reading = charging._read(known, "/" + path, body)
            expected = charging.charge_response(row["url"], body, at=AT, model=row["req_model"] or None)
            if reading.usage is None or reading.parts or (known is not None and known.router_prices):
                continue
            found.append((row, reading, expected))
    return found


def shared(row: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """What every dialect's span says of an interaction besides its usage."""
    said: dict[str, Any] = {
        "server.address": row["host"],
        "openai.response.service_tier": "",
        "bursar.estimated": reading.estimated,
    }
    known = provider(row["url"])
    said["bursar.provider"] = known.id if known is not None else row["host"]
    for term, value in reading.terms:
        if term in ("service_tier", "processing"):
            said["openai.response.service_tier"] = value
    if reading.reported is not None:
        said["gen_ai.usage.cost.amount"] = reading.reported / 1_000_000_000
        said["gen_ai.usage.cost.source"] = "provider"
    return said


def opentelemetry(row: Mapping[str, Any], reading: Reading, usage: Usage) -> dict[str, Any]:
    """The newest names, and our own units for what they have no name for."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": row["req_model"] or reading.model,
        "gen_ai.response.model": reading.model,
        "gen_ai.response.id": row["id"],
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        **{f"bursar.usage.{unit}": count for unit, count in usage._asdict().items()},
    }


def openinference(row: Mapping[str, Any], reading: Reading, usage: Usage) -> dict[str, Any]:
    return {
        "openinference.span.kind": "LLM",
        "llm.model_name": row["req_model"] or reading.model,
        "llm.response.model_name": reading.model,
        "llm.token_count.prompt": usage.input_tokens,
        "llm.token_count.completion": usage.output_tokens,
        "llm.token_count.prompt_details.cache_read": usage.cache_read_tokens,
        "llm.token_count.prompt_details.cache_write": usage.cache_write_tokens,
        "llm.token_count.prompt_details.audio": usage.input_audio_tokens,
        "llm.token_count.prompt_details.image": usage.input_image_tokens,
        "llm.token_count.completion_details.reasoning": usage.reasoning_tokens,
        "llm.token_count.completion_details.audio": usage.output_audio_tokens,
        "llm.token_count.completion_details.image": usage.output_image_tokens,
        "llm.token_count.total": usage.input_tokens + usage.output_tokens,
    }


def ai_sdk(row: Mapping[str, Any], reading: Reading, usage: Usage) -> dict[str, Any]:
    """With Anthropic's own usage where there is any cached part: the input without it."""
    raw = {
        "input_tokens": usage.uncached_input_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "server_tool_use": {"web_search_requests": usage.web_searches},
    }
    if usage.cache_write_5m_tokens or usage.cache_write_1h_tokens:
        raw["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    return {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.model.id": row["req_model"] or reading.model,
        "ai.response.model": reading.model,
        "ai.response.id": row["id"],
        "ai.usage.inputTokens": usage.uncached_input_tokens,
        "ai.usage.outputTokens": usage.output_tokens,
        "ai.usage.reasoningTokens": usage.reasoning_tokens,
        "ai.response.providerMetadata": json.dumps({"anthropic": {"usage": raw}}),
    }


def langfuse(row: Mapping[str, Any], reading: Reading, usage: Usage) -> dict[str, Any]:
    """Buckets beside each other, whose total is their sum."""
    details = {
        "input": usage.uncached_input_tokens,
        "output": usage.output_tokens - usage.reasoning_tokens,
        "input_cache_read": usage.cache_read_tokens,
        "input_cache_creation": usage.cache_write_tokens,
        "output_reasoning": usage.reasoning_tokens,
        "total": usage.input_tokens + usage.output_tokens,
    }
    return {
        "langfuse.observation.type": "generation",
        "langfuse.observation.model.name": row["req_model"] or reading.model,
        "gen_ai.response.model": reading.model,
        "langfuse.observation.usage_details": json.dumps(details),
    }


INSIDE = {"input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"}
DIALECTS: dict[str, tuple[Callable[..., dict[str, Any]], set[str], dict[str, Any], int]] = {
    "opentelemetry": (opentelemetry, set(Usage._fields), {"gen_ai.operation.name": "invoke_agent"}, 920),
    "openinference": (
        openinference,
        INSIDE | {"input_audio_tokens", "output_audio_tokens", "input_image_tokens", "output_image_tokens"},
        {"openinference.span.kind": "AGENT"},
        880,
    ),
    "ai_sdk": (
        ai_sdk,
        INSIDE | {"cache_write_5m_tokens", "cache_write_1h_tokens", "web_searches"},
        {"ai.operationId": "ai.generateText"},
        870,
    ),
    "langfuse": (langfuse, INSIDE, {"langfuse.observation.type": "agent"}, 840),
}  # fmt: skip


def traces_of(dialect: str) -> tuple[list[dict[str, Any]], dict[str, Charge]]:
    """An agent span with the sum of a dialect's spans below it, and the charge that each must come to."""
    make, units, agent, _ = DIALECTS[dialect]
    spans: list[dict[str, Any]] = []
    expected: dict[str, Charge] = {}
    sums = Counter[str]()
    for number, (row, reading, charge_) in enumerate(recorded(), 1):
        usage = reading.usage
        assert usage is not None
        if not set(usage.counts()) <= units or any(term in UNSAYABLE_TERMS for term, _ in reading.terms):
            continue
        sums.update(input=usage.input_tokens, output=usage.output_tokens)
        span = f"{number:016x}"
        said = {
            name: value for name, value in {**shared(row, reading), **make(row, reading, usage)}.items() if value != ""
        }
        spans.append(a_span(said, span=span, parent="f" * 16, start_ns=AT_NS, end_ns=AT_NS + 1_000))
        expected[f"otlp:{TRACE}:{span}"] = charge_
    whole = {**agent, "gen_ai.usage.input_tokens": sums["input"], "gen_ai.usage.output_tokens": sums["output"],
             "gen_ai.request.model": "gpt-5", "gen_ai.provider.name": "openai", "llm.token_count.prompt": sums["input"]}  # fmt: skip
    spans.insert(0, a_span(whole, span="f" * 16, start_ns=AT_NS, end_ns=AT_NS + 2_000))
    return spans, expected


@needs_recorded
@pytest.mark.parametrize("dialect", DIALECTS)
def test_recorded_answers_come_to_the_same_charges(tmp_path, dialect):
    """As spans of each dialect below an agent that carries their sum: every call costs what its answer costs."""
    spans, expected = traces_of(dialect)
    assert len(expected) >= DIALECTS[dialect][3]
    path = tmp_path / ("t.jsonl" if dialect in ("openinference", "langfuse") else "t.pb.gz")
    if path.suffix == ".jsonl":
        path.write_bytes(b"\n".join(traces_json(spans[at : at + 100]) for at in range(0, len(spans), 100)))
    else:
        path.write_bytes(gzip.compress(traces_proto(spans)))
    tally = Tally()
    found = {each.opening.attempt_id: each.charge for each in imported(path, book=bundled_book(), tally=tally)}
    assert set(found) == set(expected)
    differ = {
        key: (found[key].amount, want.amount, found[key].usage, want.usage)
        for key, want in expected.items()
        if found[key].amount != want.amount
    }
    assert differ == {}
    priced = [charge_.amount for charge_ in expected.values() if charge_.amount is not None]
    assert len(priced) > 600
    assert sum(charge_.amount or 0 for charge_ in found.values()) == sum(priced) > 0
    # The agent's sum, which alone was not booked.
    assert sum(tally.skipped.values()) == 1


@needs_recorded
def test_a_sum_alone_is_charged(tmp_path):
    """Without anything below it the agent's figures are all there is."""
    spans, _ = traces_of("opentelemetry")
    path = tmp_path / "t.json"
    path.write_bytes(traces_json(spans[:1]))
    [attempt] = imported(path, book=bundled_book())
    usage = attempt.charge.usage
    assert usage is not None
    assert usage.input_tokens > 100_000
    assert (
        attempt.charge.amount
        == charge(Reading(usage), bundled_book(), provider="openai", model="gpt-5", at=charging._time(AT)).amount
    )
