"""OTLP over HTTP as strangers send it: what is refused and how, what is taken all the same, and that it counts."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from receiving import House, chat, export_of, receiving, span_of

from bursar.adapters.alert_store import AlertStore
from bursar.adapters.keys import KeyStore
from bursar.adapters.trace_worker import TraceWorker
from bursar.compose import now_us, open_books_file
from bursar.config import Server, Settings
from bursar.core.scopes import Scope
from bursar.doors.otlp.receiver import Receiver, Refused

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("otlp")]

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
ids = iter(range(1, 1_000))


def trace() -> str:
    return f"{next(ids):032x}"


def settings(**more: Any) -> Settings:
    return Settings(server=Server(**{"port": 0, "drain_s": 2, **more.pop("server", {})}), **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with receiving(tmp_path_factory.mktemp("otlp"), settings(server={"body_bytes_max": 12_000_000})) as running:
        yield running


async def send(house: House, body: bytes, *, path: str = "/v1/traces", **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx2.AsyncClient(timeout=30) as client:
        return await client.post(house.url + path, content=body, headers={**PROTOBUF, **named})


async def rows_of(house: House, task: str, count: int = 1) -> list[dict[str, Any]]:
    rows = await house.until(lambda rows: len([row for row in rows if row["task"] == task]) >= count)
    return [row for row in rows if row["task"] == task]


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "headers", "status", "says"),
    [
        (b"\x0a\xff\xff\xff\xff\x0f", {}, 400, b""),
        (b"{", {"content-type": "application/json"}, 400, b""),
        (b'{"resourceSpans":' + b"[" * 100_000, {"content-type": "application/json"}, 400, b""),
        (b'{"resourceSpans":' * 100_000, {"content-type": "application/json"}, 400, b""),
        (gzip.compress(b"\0" * 11_000_000), {"content-encoding": "gzip"}, 413, b"unpacks"),
        (gzip.compress(b"\0" * 100_000_000, 1), {"content-encoding": "gzip"}, 413, b"unpacks"),
        (gzip.compress(b"x" * 5_000)[:-12], {"content-encoding": "gzip"}, 400, b"middle"),
        (b"not gzip", {"content-encoding": "gzip"}, 400, b"not gzip"),
        (b"", {"content-type": "text/plain"}, 415, b"text/plain"),
        (b"", {"content-encoding": "br"}, 415, b"br"),
        (b"\0" * 12_000_001, {}, 413, b"12000001"),
    ],
    ids=["protobuf", "json", "deep json", "deep objects", "bomb", "large bomb", "cut gzip", "no gzip", "type", "coding", "size"],
)  # fmt: skip
async def test_what_cannot_be_read_is_refused(
    house: House, body: bytes, headers: dict[str, str], status: int, says: bytes
) -> None:
    """With a status that an exporter does not try again, a reason, and the server goes on."""
    answer = await send(house, body, **headers)
    assert answer.status_code == status, answer.content[:300]
    assert says in answer.content
    assert "retry-after" not in answer.headers
    assert (await send(house, b"")).status_code == 200


async def test_other_methods(house: House) -> None:
    """The paths are the receiver's, also for what it does not do; others stay the gateway's."""
    async with httpx2.AsyncClient() as client:
        for path in ("/v1/traces", "/v1/logs", "/v1/metrics"):
            assert (await client.get(house.url + path)).status_code == 405
            answer = await client.options(house.url + path)
            assert (answer.status_code, answer.headers["allow"]) == (204, "POST, OPTIONS")


async def test_answers_are_in_the_encoding_of_the_request(house: House) -> None:
    """JSON to JSON, protobuf to protobuf; the count of what was rejected and why, the rest is taken."""
    good = {
        "traceId": (name := trace()), "spanId": "a" * 16, "name": "chat", "startTimeUnixNano": str(now_us() * 1_000),
        "endTimeUnixNano": str(now_us() * 1_000 + 1), "attributes": [
            {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
            {"key": "gen_ai.provider.name", "value": {"stringValue": "openai"}},
            {"key": "gen_ai.request.model", "value": {"stringValue": "gpt-4o-mini"}},
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "1000"}},
            {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "10"}},
        ],
    }  # fmt: skip
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [good, {**good, "spanId": ""}]}]}]}
    answer = await send(house, json.dumps(body).encode(), **JSON)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
    assert answer.json()["partialSuccess"]["errorMessage"]
    (row,) = await rows_of(house, name)
    assert row["cost_nanousd"] == 156_000
    answer = await send(house, export_of([chat(trace(), "b" * 16), chat(trace(), "0" * 16)]))
    assert answer.headers["content-type"] == "application/x-protobuf"
    partial_success = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert partial_success.rejected_spans == 1
    assert partial_success.error_message


# --- what is taken all the same ---------------------------------------------------------------------------------


async def test_ten_megabytes_in_an_attribute(house: House) -> None:
    """The call is charged; the text is nowhere in the stores."""
    name = trace()
    before = sum(file.stat().st_size for file in house.data.path.iterdir())
    answer = await send(house, export_of([chat(name, "c" * 16, gen_ai__input__messages="secret " * 1_500_000)]))
    assert answer.status_code == 200
    (row,) = await rows_of(house, name)
    assert row["cost_nanousd"] == 156_000
    assert sum(file.stat().st_size for file in house.data.path.iterdir()) - before < 3_000_000
    assert b"secret secret" not in house.data.traces.read_bytes()


async def test_circles_skewed_clocks_and_absurd_counts(house: House) -> None:
    """Spans that are each other's parent are charged once each; a time that cannot be is noted; a count is unpriced."""
    circle, skewed, absurd = trace(), trace(), trace()
    spans = [
        chat(circle, "1" * 16, "2" * 16),
        chat(circle, "2" * 16, "1" * 16),
        chat(skewed, "3" * 16, start_us=1),
        chat(absurd, "4" * 16, tokens=-5),
    ]
    assert (await send(house, export_of(spans))).status_code == 200
    assert [row["cost_nanousd"] for row in await rows_of(house, circle, 2)] == [156_000] * 2
    (row,) = await rows_of(house, absurd)
    assert row["cost_nanousd"] is None
    assert row["unpriced_reason"]


async def test_spans_that_come_in_pieces(house: House) -> None:
    """The child a while after its parent, in another request: only it is charged in the end."""
    name = trace()
    await send(house, export_of([chat(name, "5" * 16, "6" * 16)]))
    await rows_of(house, name)
    await send(house, export_of([chat(name, "7" * 16, "5" * 16, tokens=500)]))
    await send(house, export_of([span_of(name, "6" * 16, user__id="ana")]))
    await house.until(
        lambda rows: [r["span_id"] for r in rows if r["task"] == name and r["user"] == "ana"] == ["7" * 16]
    )
    assert len(await rows_of(house, name)) == 1


# --- records and metrics ----------------------------------------------------------------------------------------


def log_export(**attributes: Any) -> bytes:
    record = {
        "timeUnixNano": str(now_us() * 1_000),
        "body": {"stringValue": "claude_code.api_request"},
        "attributes": [
            {"key": key.replace("__", "."), "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v}}
            for key, v in attributes.items()
        ],
    }
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).encode()


async def test_records_of_claude_code(house: House) -> None:
    """A request's record is a charge in its session; sent twice it is one."""
    body = log_export(
        event__name="api_request", session__id="cc-1", model="claude-haiku-4-5", input_tokens=100, output_tokens=20,
        cache_read_tokens=0, cache_creation_tokens=0, duration_ms=900, request_id="req_1",
    )  # fmt: skip
    for _ in range(2):
        assert (await send(house, body, path="/v1/logs", **JSON)).status_code == 200
    rows = await house.until(lambda rows: any(row["session"] == "cc-1" for row in rows))
    (row,) = [row for row in rows if row["session"] == "cc-1"]
    assert (row["provider"], row["input_tokens"], row["output_tokens"]) == ("anthropic", 100, 20)
    assert row["cost_nanousd"] == 200_000


def metric_export(value: int, start_us: int) -> bytes:
    point = {
        "startTimeUnixNano": str(start_us * 1_000), "timeUnixNano": str(now_us() * 1_000), "asInt": str(value),
        "attributes": [
            {"key": "type", "value": {"stringValue": "input"}},
            {"key": "model", "value": {"stringValue": "claude-haiku-4-5"}},
            {"key": "session.id", "value": {"stringValue": "cc-2"}},
        ],
    }  # fmt: skip
    data = {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [point]}
    metric = {"name": "claude_code.token.usage", "sum": data}
    return json.dumps({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}).encode()


async def test_counters_are_charged_by_what_they_grew(house: House) -> None:
    """A cumulative counter at 100, then at 250, is 250 tokens."""
    start_us = now_us() - 60_000_000
    for value in (100, 250, 250):
        assert (await send(house, metric_export(value, start_us), path="/v1/metrics", **JSON)).status_code == 200
    await house.until(lambda rows: sum(row["input_tokens"] or 0 for row in rows if row["session"] == "cc-2") == 250)


# --- who sends, and how much --------------------------------------------------------------------------------------


async def test_keys_say_for_whom(tmp_path: Path) -> None:
    """Without one nothing is taken where keys are required; its pinned columns win, its others fill what is open."""
    async with receiving(tmp_path, settings(server={"require_keys": True})) as house:
        books = open_books_file(house.data, house.settings)
        scope = Scope(team="search", project="shop", user="nobody")
        secret = KeyStore(books, now_us).create("ci", scope, ("team",))
        books.close()
        for headers in ({}, {"authorization": "Bearer bursar_wrong"}):
            answer = await send(house, b"", **headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        name = trace()
        root = span_of(name, "a" * 16, user__id="ana", bursar__team="evil")
        body = export_of([root, chat(name, "b" * 16, "a" * 16)])
        for headers in ({"authorization": f"Bearer {secret}"}, {"x_bursar_key": secret}):
            assert (await send(house, body, **headers)).status_code == 200
        (row,) = await rows_of(house, name)
        assert (row["team"], row["project"], row["user"], row["key"]) == ("search", "shop", "ana", "ci")


async def test_too_much_is_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit of what waits: 429 with Retry-After; sent again later nothing is lost and nothing doubled."""
    monkeypatch.setattr("bursar.server.TraceWorker", partial(TraceWorker, backlog_max=5))
    async with receiving(tmp_path, settings()) as house:
        names = [trace() for _ in range(12)]
        refused = 0
        for name in names:
            body = export_of([chat(name, f"{n:016x}", "9" * 16) for n in range(1, 4)])
            async with asyncio.timeout(60):
                while (answer := await send(house, body)).status_code == 429:
                    refused += 1
                    assert int(answer.headers["retry-after"]) > 0
                    await asyncio.sleep(0.3)
            assert answer.status_code == 200
        rows = await house.until(lambda rows: len(rows) == 36, 30)
        assert {row["task"] for row in rows} == set(names)
        assert refused > 0
        async with httpx2.AsyncClient() as client:
            metrics = (await client.get(house.url + "/metrics")).text
        assert 'bursar_telemetry_observations_total{outcome="taken",signal="traces"} 36.0' in metrics
        assert 'bursar_telemetry_charges_total{outcome="charged"} 36.0' in metrics
        assert "bursar_telemetry_backlog 0.0" in metrics


async def test_a_trace_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit of one trace its spans are rejected, and counted in the answer; others are taken."""
    monkeypatch.setattr("bursar.adapters.trace_evaluator._TRACE_PLACES_MAX", 5)
    async with receiving(tmp_path, settings()) as house:
        name, other = trace(), trace()
        await send(house, export_of([chat(name, f"{n:016x}") for n in range(1, 7)]))
        await rows_of(house, name, 6)
        answer = await send(house, export_of([chat(name, "8" * 16), chat(other, "9" * 16)]))
        partial_success = ExportTraceServiceResponse.FromString(answer.content).partial_success
        assert (answer.status_code, partial_success.rejected_spans) == (200, 1)
        assert "more spans" in partial_success.error_message
        await rows_of(house, other)


class _Busy:
    """An intake with too much to do."""

    retry_after_s: int | None = 3

    async def take(self, *_: Any) -> Any:
        raise AssertionError("nothing is read while too much waits")

    take_points = take


class _Rules:
    body_bytes_max = 1_000
    require_keys = False


async def test_who_is_refused_before_anything_is_read() -> None:
    """While it ends, while too much waits, while others' bodies take all the room: each says when to come again."""
    receiver = Receiver(lambda: _Rules(), None, _Busy())  # type: ignore[arg-type, return-value]
    with pytest.raises(Refused) as refused:
        receiver.admit({})
    assert (refused.value.status, refused.value.retry_after_s) == (429, 3)
    receiver.draining = True
    with pytest.raises(Refused) as refused:
        receiver.admit({})
    assert refused.value.status == 503
    with receiver.room(60_000_000), pytest.raises(Refused, match="under way"), receiver.room(5_000_000):
        raise AssertionError("there is no room")
    with receiver.room(500_000_000):
        pass


# --- budgets ----------------------------------------------------------------------------------------------------


async def test_it_counts_toward_budgets_and_raises_alerts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What telemetry saw is spent: the budget stands at it, and its threshold is told."""
    monkeypatch.setattr("bursar.server._EVALUATE_EVERY_S", 0.1)
    budgets = {"team-search": {"limit": "$0.001", "match": {"team": "search"}, "alert_at": ["50%"]}}
    async with receiving(tmp_path, settings(budgets=budgets)) as house:
        name = trace()
        spans = [chat(name, f"{n:016x}", tokens=2_000, bursar__team="search") for n in range(1, 4)]
        await send(house, export_of(spans))
        await rows_of(house, name, 3)
        with closing(open_books_file(house.data, house.settings)) as books:
            async with asyncio.timeout(10):
                while not (found := AlertStore(books).firing()):  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.1)
        assert any("team-search" in key for key in found)
        async with httpx2.AsyncClient() as client:
            metrics = (await client.get(house.url + "/metrics")).text
        assert re.search(r'bursar_budget_spent_usd\{budget="team-search",window="\w+"\} 0.000918', metrics)
