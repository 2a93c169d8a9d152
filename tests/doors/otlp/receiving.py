"""A running server, the official exporters, and what telemetry left in its books."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from bursar.adapters.data_dir import DataDir
from bursar.adapters.verify import verify
from bursar.compose import now_us, open_books_file, open_ledger
from bursar.config import Settings
from bursar.core.errors import LedgerError
from bursar.server import serve

__all__ = ["House", "agent_run", "export_of", "receiving", "span_of"]

MODEL = "gpt-4o-mini"


@dataclass
class House:
    """A running server and its data."""

    url: str
    data: DataDir
    settings: Settings

    def _ask(self, sql: str) -> list[dict[str, Any]]:
        """In this process the server's connection and this one are one database: both may want to ship at once."""
        for _ in range(20):
            try:
                return self._ask_once(sql)
            except LedgerError:
                time.sleep(0.1)
        return self._ask_once(sql)

    def _ask_once(self, sql: str) -> list[dict[str, Any]]:
        with closing(open_books_file(self.data, self.settings)) as books, open_ledger(self.data, books) as ledger:
            return ledger.rows(sql)

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        """The ledger's answer, with everything in it that was decided."""
        return await asyncio.to_thread(self._ask, sql)

    async def attempts(self) -> list[dict[str, Any]]:
        return await self.rows("SELECT * FROM attempt ORDER BY attempt_id")

    async def until(self, done: Callable[[list[dict[str, Any]]], bool], within_s: float = 15) -> list[dict[str, Any]]:
        """The attempts, once they are as they should be."""
        async with asyncio.timeout(within_s):
            while not done(rows := await self.attempts()):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.1)
        return rows

    def prove(self) -> None:
        """Books and ledger agree, and nothing was charged twice."""
        with closing(open_books_file(self.data, self.settings)) as books, open_ledger(self.data, books) as ledger:
            assert verify(books, ledger).differences == ()


@asynccontextmanager
async def receiving(path: Path, settings: Settings) -> AsyncIterator[House]:
    """Start a server, end it, prove its books."""
    data, stop, ready = DataDir(path), asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(data, settings, started=ready.set_result, stop=stop))
    await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await serving
    house = House(ready.result().url, data, settings)
    try:
        yield house
    finally:
        stop.set()
        await serving
    house.prove()


def _value(value: Any) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case _:
            return AnyValue(string_value=str(value))


def span_of(
    trace: str, span: str, parent: str = "", *, name: str = "step", start_us: int | None = None, **attributes: Any
) -> Any:
    """A span as protobuf; attributes are written with ``__`` for dots."""
    begin = (start_us or now_us()) * 1_000
    request = ExportTraceServiceRequest()
    made = request.resource_spans.add().scope_spans.add().spans.add(
        trace_id=bytes.fromhex(trace), span_id=bytes.fromhex(span), parent_span_id=bytes.fromhex(parent), name=name,
        start_time_unix_nano=begin, end_time_unix_nano=begin + 5_000_000,
    )  # fmt: skip
    for key, value in attributes.items():
        made.attributes.append(KeyValue(key=key.replace("__", "."), value=_value(value)))
    return made


def export_of(spans: Iterable[Any], **resource: Any) -> bytes:
    """An export of these spans."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in resource.items():
        group.resource.attributes.append(KeyValue(key=key.replace("__", "."), value=_value(value)))
    group.scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


def chat(trace: str, span: str, parent: str = "", *, tokens: int = 1_000, response: str = "", **more: Any) -> Any:
    """A model call with usage, in the names of OpenTelemetry."""
    ids = {"gen_ai__response__id": response} if response else {}
    return span_of(
        trace, span, parent, name=f"chat {MODEL}", gen_ai__operation__name="chat", gen_ai__provider__name="openai",
        gen_ai__request__model=MODEL, gen_ai__response__model=MODEL, gen_ai__usage__input_tokens=tokens,
        gen_ai__usage__output_tokens=10, **ids, **more,
    )  # fmt: skip


def agent_run(tracer: Any, *, calls: int = 2, user: str = "u1") -> None:
    """What an instrumented agent leaves: a run that says the sum of its calls, the calls, and a tool."""
    attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper", "user.id": user}
    attributes |= {"gen_ai.usage.input_tokens": 1_000 * calls, "gen_ai.usage.output_tokens": 10 * calls}
    with tracer.start_as_current_span("invoke_agent helper", attributes=attributes):
        for _ in range(calls):
            with tracer.start_as_current_span(
                f"chat {MODEL}",
                attributes={
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": "openai",
                    "gen_ai.request.model": MODEL,
                    "gen_ai.response.model": MODEL,
                    "gen_ai.usage.input_tokens": 1_000,
                    "gen_ai.usage.output_tokens": 10,
                },
            ):
                pass
        with tracer.start_as_current_span(
            "execute_tool search", attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
        ):
            pass
