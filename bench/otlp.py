"""Spans per second into the OTLP receiver: from the request's bytes to the ledger, on one core.

Rule 1: nothing counts as taken before it is in the ledger, decided and priced. What is missing there is a failure.
Rule 2: the load is what instrumented agents send: an agent's run, three model calls with their prompts, four tools, four
        other spans; every trace and every response is a new one.
Rule 3: senders do what the receiver asks: 429 is waited out and sent again. They never go slower by themselves.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.measure import BURSAR, BenchError, Processes, cores, cpu_s, free_port, memory_mib, pin
from bench.report import Figure, Report
from bursar.adapters.verify import verify
from bursar.compose import open_books_file, open_data, open_ledger, settings_of
from bursar.wire.otlp import read_traces

__all__ = ["measure"]

GOAL_PER_S = 20_000
SPANS = 12
TRACES = 40  # in one request, as a collector batches them
CONNECTIONS = 4
CONNECTIONS_BEYOND = 64
_TAG = b"\xfebursar\xff"
_TEXT_TAG = "resp-tag00000000"
_PROMPT = "Where is my order? " * 40
_WITHIN_S = 180.0


@dataclass
class _Sent:
    """What the senders have seen."""

    spans: int = 0
    requests: int = 0
    refused: int = 0
    bytes: int = 0
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def measure(*, quick: bool) -> Report:
    split = cores()
    mine, others = split or (None, None)
    pin(others)
    try:
        with TemporaryDirectory() as name, Processes() as processes:
            return _measure(Path(name), processes, mine, others, 10 if quick else 30)
    finally:
        pin(mine | others if mine and others else None)


def _measure(
    directory: Path, processes: Processes, mine: set[int] | None, others: set[int] | None, seconds: float
) -> Report:
    port = free_port()
    command = [*BURSAR, "up", "--port", port, "--data", directory / "data"]
    server = processes.start(command, log=directory / "server.log", on=mine)
    _wait(port)
    template = _template()
    numbers = itertools.count(1)
    warm = _press(port, template, numbers, seconds=1.0, connections=1)  # the first use of a library is not the load
    before, _ = _settled(directory, warm.spans)
    memory_before, cpu_before = memory_mib(server.pid), cpu_s(server.pid)
    begin = time.monotonic()
    sent = _press(port, template, numbers, seconds=seconds, connections=CONNECTIONS)
    taken_s = time.monotonic() - begin
    memory_after = memory_mib(server.pid)
    _, reached = _settled(directory, before + sent.spans)
    took_s = reached - begin
    cpu = cpu_s(server.pid)
    beyond = _press(port, template, numbers, seconds=seconds / 3, connections=CONNECTIONS_BEYOND)
    memory_beyond = memory_mib(server.pid)
    found, _ = _settled(directory, before + sent.spans + beyond.spans)
    processes.stop(server)
    _prove(directory, found)
    per_s = sent.spans / took_s
    each_us = None if cpu is None or cpu_before is None else (cpu - cpu_before) / sent.spans * 1e6
    reading = _reading_us(template, mine, others)
    return Report(
        "otlp",
        (
            Figure(
                "spans into the ledger",
                per_s,
                "/s",
                goal=f"{GOAL_PER_S:,} /s on one core",
                goal_met=per_s >= GOAL_PER_S,
            ),
            Figure("spans answered", sent.spans / taken_s, "/s", note="while they were sent; the rest waits on disk"),
            Figure("CPU for a span", each_us, "us", reference="decoding and mapping alone", reference_value=reading),
            Figure("memory under load", memory_after, "MiB", reference="before", reference_value=memory_before),
            Figure("memory beyond it", memory_beyond, "MiB", reference="before", reference_value=memory_before),
            Figure(
                "told to come again (429)", float(beyond.refused), "", note=f"over {CONNECTIONS_BEYOND} connections"
            ),
        ),
        (_load_text(sent, CONNECTIONS), _load_text(beyond, CONNECTIONS_BEYOND)),
    )


def _press(port: int, template: bytes, numbers: Any, *, seconds: float, connections: int) -> _Sent:
    """Send for so long, over so many connections. Raises BenchError when an export was not taken as it should be."""
    sent = _Sent()
    until = time.monotonic() + seconds
    senders = [threading.Thread(target=_send, args=(port, template, numbers, sent, until)) for _ in range(connections)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    if sent.failures:
        raise BenchError(sent.failures[0])
    return sent


def _reading_us(template: bytes, mine: set[int] | None, others: set[int] | None) -> float:
    """Processor time of decoding a span and mapping it, on the core that the server had."""
    pin(mine)
    begin = time.process_time()
    for _ in range(40):
        read_traces(template, as_json=False)
    took = time.process_time() - begin
    pin(others)
    return took / (40 * TRACES * SPANS) * 1e6


def _load_text(sent: _Sent, connections: int) -> str:
    return (
        f"{sent.spans:,} spans in {sent.requests:,} requests of {sent.bytes // max(sent.requests, 1):,} bytes over {connections}"
        f" connections; all of them and a charge for each of their {sent.spans * 3 // SPANS:,} model calls are in the ledger"
    )


# --- the load ---------------------------------------------------------------------------------------------------


def _attributes(span: Any, values: dict[str, Any]) -> None:
    for key, value in values.items():
        made = span.attributes.add(key=key)
        if isinstance(value, int):
            made.value.int_value = value
        else:
            made.value.string_value = value


def _template() -> bytes:
    """An export of ``TRACES`` traces, with tags in the place of what must be new each time."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    _attributes(group.resource, {"service.name": "shop", "telemetry.sdk.name": "opentelemetry"})
    spans = group.scope_spans.add()
    spans.scope.name = "agents"
    for trace in range(TRACES):
        _trace(spans, trace)
    return request.SerializeToString()


def _trace(spans: Any, number: int) -> None:
    trace_id = _TAG + number.to_bytes(8, "big")
    begin = time.time_ns()

    def add(index: int, name: str, values: dict[str, Any]) -> None:
        parent = b"" if index == 0 else (1 << 40 | number << 8).to_bytes(8, "big")
        span = spans.spans.add(
            trace_id=trace_id, span_id=(1 << 40 | number << 8 | index).to_bytes(8, "big"), parent_span_id=parent, name=name,
            start_time_unix_nano=begin + index * 1_000_000, end_time_unix_nano=begin + (SPANS + index) * 1_000_000,
        )  # fmt: skip
        _attributes(span, values)

    for index in range(1, 4):
        add(index, "chat gpt-4o-mini", {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.response.model": "gpt-4o-mini-2024-07-18", "gen_ai.response.id": f"{_TEXT_TAG}-{number}-{index}",
            "gen_ai.usage.input_tokens": 900 + number, "gen_ai.usage.output_tokens": 40, "gen_ai.request.max_tokens": 500,
            "gen_ai.input.messages": _PROMPT, "server.address": "api.openai.com",
        })  # fmt: skip
    for index in range(4, 8):
        add(index, "execute_tool search", {
            "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search", "gen_ai.tool.call.id": f"call-{index}",
            "gen_ai.tool.call.arguments": _PROMPT[:200],
        })  # fmt: skip
    for index in range(8, 12):
        add(
            index,
            "GET",
            {"http.request.method": "GET", "url.full": "https://shop.example/orders", "http.response.status_code": 200},
        )
    add(0, "invoke_agent helper", {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper", "user.id": f"user-{number}",
        "gen_ai.conversation.id": f"{_TEXT_TAG}-{number}", "gen_ai.usage.input_tokens": 3 * (900 + number),
        "gen_ai.usage.output_tokens": 120,
    })  # fmt: skip


def _send(port: int, template: bytes, numbers: Any, sent: _Sent, until: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/x-protobuf"}
    while time.monotonic() < until:
        number = next(numbers)
        body = template.replace(_TAG, number.to_bytes(8, "big")).replace(
            _TEXT_TAG.encode(), f"resp-{number:011x}".encode()
        )
        while True:
            connection.request("POST", "/v1/traces", body, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status == 429:
                with sent.lock:
                    sent.refused += 1
                time.sleep(float(answer.headers["retry-after"]))
                continue
            break
        with sent.lock:
            if answer.status != 200 or said:
                sent.failures.append(f"an export was answered {answer.status} {said[:200]!r}")
                return
            sent.spans += TRACES * SPANS
            sent.requests += 1
            sent.bytes += len(body)
    connection.close()


# --- what became of it ------------------------------------------------------------------------------------------


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise BenchError("the server did not start")


def _settled(directory: Path, spans: int) -> tuple[int, float]:
    """Wait until so many spans are in the ledger and nothing waits. Returns how many there are, and when it had so many."""
    data = open_data(directory / "data")
    deadline = time.monotonic() + _WITHIN_S
    before, reached = -1, 0.0
    while time.monotonic() < deadline:
        books = open_books_file(data, settings_of(data))
        try:
            with open_ledger(data, books, wait_s=60) as ledger:
                found = int(ledger.rows("SELECT count(*) AS n FROM span")[0]["n"])
        finally:
            books.close()
        if found >= spans and before < spans:
            reached = time.monotonic()
        if found >= spans and found == before:
            return found, reached
        before = found
        time.sleep(0.5)
    raise BenchError(f"{before:,} of {spans:,} spans are in the ledger after {_WITHIN_S:.0f} s")


def _prove(directory: Path, spans: int) -> None:
    """Every model call was charged once, at its own place, and books and ledger agree."""
    data = open_data(directory / "data")
    books = open_books_file(data, settings_of(data))
    try:
        with open_ledger(data, books) as ledger:
            attempts = ledger.rows(
                "SELECT count(*) AS n, count(DISTINCT response_id) AS d, count(cost_nanousd) AS p FROM attempt"
            )[0]
            differences = verify(books, ledger).differences
    finally:
        books.close()
    expected = spans * 3 // SPANS
    if differences or set(attempts.values()) != {expected}:
        raise BenchError(f"{attempts} of {expected} charges, and {differences[:2]}")
