"""OTLP over gRPC: what exporters are told, in the codes they understand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from receiving import chat, export_of, receiving
from test_otlp_exporters import free_port

from bursar.config import Server, Settings
from bursar.core.errors import ConfigError
from bursar.doors.otlp.grpc import OtlpGrpc

SERVICE = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


async def export(channel: Any, body: bytes, path: str = SERVICE, **metadata: str) -> bytes:
    return await channel.unary_unary(path)(body, metadata=tuple(metadata.items()))


async def code_of(channel: Any, body: bytes, **metadata: str) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await export(channel, body, **metadata)
    return error.value.code()


async def test_what_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every signal is taken; what cannot be read, or comes without a key, is not sent again; what is too much is."""
    port = await free_port()
    server = Server(port=0, drain_s=2, otlp_grpc_port=port, body_bytes_max=1_000_000)
    async with (
        receiving(tmp_path, Settings(server=server)) as house,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", compression=grpc.Compression.Gzip) as channel,
    ):
        for path in (SERVICE, LOGS, METRICS):
            assert await export(channel, b"", path) == b""
        assert await export(channel, export_of([chat("c" * 32, "d" * 16)])) == b""
        (row,) = await house.until(lambda rows: len(rows) == 1)
        assert row["cost_nanousd"] == 156_000
        assert await code_of(channel, b"\x0a\xff\xff\xff\xff\x0f") == grpc.StatusCode.INVALID_ARGUMENT
        assert await code_of(channel, b"\0" * 1_500_000) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await code_of(channel, b"", authorization="Bearer bursar_no") == grpc.StatusCode.UNAUTHENTICATED
        monkeypatch.setattr("bursar.adapters.trace_worker.TraceWorker.retry_after_s", 3)
        assert await code_of(channel, b"") == grpc.StatusCode.UNAVAILABLE


async def test_a_port_that_is_taken_or_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does not start, and says why and what to do."""

    class Receiver:
        body_bytes_max = 1_000

    first = OtlpGrpc(Receiver(), "127.0.0.1", 0)  # type: ignore[arg-type]
    await first.start()
    second = OtlpGrpc(Receiver(), "127.0.0.1", first.port)  # type: ignore[arg-type]
    with pytest.raises(OSError, match=str(first.port)):
        await second.start()
    await second.stop(0)
    await first.stop(0)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigError, match=r"bursar\[grpc\]"):
        await first.start()
