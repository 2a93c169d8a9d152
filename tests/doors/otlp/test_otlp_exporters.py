"""The official exporters against the real server: traces, every transport and encoding, and what they come to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from receiving import MODEL, House, agent_run, receiving

from bursar.adapters.http_server import HttpServer
from bursar.adapters.prices_file import bundled_book
from bursar.config import Server, Settings
from bursar.core.prices import Reading, charge
from bursar.core.usage import Usage


def cost(tokens: int = 1_000) -> int:
    """What one call of ``agent_run`` costs, worked out beside the receiver."""
    from datetime import datetime, timezone

    reading = Reading(usage=Usage(input_tokens=tokens, output_tokens=10), model=MODEL)
    found = charge(reading, bundled_book(), provider="openai", model=MODEL, at=datetime.now(timezone.utc)).amount
    assert found
    return found


def tracer_to(exporter: Any) -> tuple[Any, TracerProvider]:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("agents"), provider


async def run_agent(exporter: Any) -> None:
    """An agent run in a thread, as its process would have it: exporters block."""

    def work() -> None:
        tracer, provider = tracer_to(exporter)
        agent_run(tracer)
        provider.shutdown()

    await asyncio.to_thread(work)


async def free_port() -> int:
    async def nothing(*_: Any) -> None: ...

    server = HttpServer(nothing, "127.0.0.1", 0)
    await server.start()
    await server.stop(0)
    return server.port


async def assert_charged(house: House) -> None:
    """Two calls were charged and nothing else, to the agent's user, in the task of the trace; the tree is all there."""
    rows = await house.until(lambda rows: len(rows) == 2)
    assert [row["cost_nanousd"] for row in rows] == [cost()] * 2
    assert {(row["door"], row["user"], row["agent"], row["status"]) for row in rows} == {("otlp", "u1", "helper", "ok")}
    spans = await house.rows("SELECT * FROM span")
    assert sorted(span["kind"] for span in spans) == ["agent", "model", "model", "tool"]
    assert {row["task"] for row in rows} == {spans[0]["trace_id"]} == {span["task"] for span in spans}
    paid = {span["attempt_id"] for span in spans if span["kind"] == "model"}
    assert paid == {row["attempt_id"] for row in rows}


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_the_http_exporter(tmp_path: Path, compression: Compression) -> None:
    """Protobuf over HTTP, plain and gzip: leaves are charged once, the agent's sum is not."""
    async with receiving(tmp_path, Settings(server=Server(port=0, drain_s=2))) as house:
        await run_agent(OTLPSpanExporter(endpoint=f"{house.url}/v1/traces", compression=compression))
        await assert_charged(house)


async def test_the_grpc_exporter(tmp_path: Path) -> None:
    """The same over gRPC, on a port of its own."""
    port = await free_port()
    async with receiving(tmp_path, Settings(server=Server(port=0, drain_s=2, otlp_grpc_port=port))) as house:
        exporter: Callable[..., Any] = GrpcExporter
        await run_agent(exporter(endpoint=f"127.0.0.1:{port}", insecure=True))
        await assert_charged(house)


async def test_what_waits_is_decided_before_the_server_ends(tmp_path: Path) -> None:
    """An export that was answered a moment before SIGTERM is in the books."""
    async with receiving(tmp_path, Settings(server=Server(port=0, drain_s=2))) as house:
        await run_agent(OTLPSpanExporter(endpoint=f"{house.url}/v1/traces"))
    rows = await house.attempts()
    assert [row["cost_nanousd"] for row in rows] == [cost()] * 2
