"""OTLP over gRPC, for exporters that speak nothing else. Needs the extra ``grpc``.

Rule 1: requests and answers are bytes here; what is in them is the wire's business.
Rule 2: what an exporter should send again is UNAVAILABLE, the one code that all of them try again without a hint
        (https://opentelemetry.io/docs/specs/otlp/, "OTLP/gRPC response"); everything else it must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final

from bursar.core.errors import ConfigError
from bursar.wire.otlp import Signal

from .receiver import Receiver, Refused

__all__ = ["OtlpGrpc"]

_SERVICES: Final[Mapping[str, Signal]] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "traces",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "metrics",
}
_CODES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    413: "INVALID_ARGUMENT",
    429: "UNAVAILABLE",
    503: "UNAVAILABLE",
}


class OtlpGrpc:
    """A server on a port of its own, in the running event loop. Port 0 takes a free one; ``port`` tells which."""

    def __init__(self, receiver: Receiver, host: str, port: int) -> None:
        self._receiver = receiver
        self._host = host
        self.port = port
        self._grpc: Any = None
        self._server: Any = None

    async def start(self) -> None:
        """Raises ConfigError where gRPC is not installed, OSError where the port cannot be had."""
        try:
            self._grpc = import_module("grpc")
        except ImportError:
            raise ConfigError('server.otlp_grpc_port needs gRPC: pip install "bursar[grpc]", or set it to 0') from None
        limit = self._receiver.body_bytes_max
        server = self._grpc.aio.server(
            options=(("grpc.max_receive_message_length", limit), ("grpc.so_reuseport", 0)), maximum_concurrent_rpcs=64
        )
        server.add_generic_rpc_handlers(tuple(self._handler(name, signal) for name, signal in _SERVICES.items()))
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self.port = server.add_insecure_port(f"{host}:{self.port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {host}:{self.port} for gRPC: {error}") from None
        await server.start()
        self._server = server

    async def stop(self, grace_s: float) -> None:
        """Stopping before a start does nothing."""
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    def _handler(self, service: str, signal: Signal) -> Any:
        export = self._grpc.unary_unary_rpc_method_handler(partial(self._export, signal))
        return self._grpc.method_handlers_generic_handler(service, {"Export": export})

    async def _export(self, signal: Signal, body: bytes, context: Any) -> bytes:
        headers = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        try:
            key = self._receiver.admit(headers)
            with self._receiver.room(len(body)):
                return await self._receiver.receive(signal, body, key, as_json=False, gzip=False)
        except Refused as refused:
            code = getattr(self._grpc.StatusCode, _CODES.get(refused.status, "INTERNAL"))
            await context.abort(code, refused.message)
            raise AssertionError("abort raises") from None
