"""What a route adds to a request, and what an answer from the cache costs: all through one gateway, in turns.

Rule 1: the same request each time but for the model's name; the provider behind is the one of ``gateway``.
Rule 2: processor time is all of the process, until what it leaves for later is done.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bench import samples
from bench.gateway import CONNECTIONS, Side, chat_request, start_bursar, wait_for_answer
from bench.load import Request, hammer, one_by_one, tool
from bench.measure import BenchError, Processes, cores, cpu_s, idle, median, percentile, pin
from bench.report import Figure, Report, not_measured
from bench.upstream import start_upstream

__all__ = ["measure"]

_PLAIN = "without a route"
_ASKED = {_PLAIN: samples.MODEL, "a route of two rungs": "two", "an answer from the cache": "kept"}
_RUNGS = f"[openai/{samples.MODEL}, groq/llama-3.3-70b-versatile]"
_SECTIONS = f"""  groq: {{key_env: BURSAR_BENCH_KEY}}
routes:
  two: {_RUNGS}
  kept: {{rungs: {_RUNGS}, cache: {{sampled: true}}}}
"""


@dataclass(slots=True)
class _Way:
    """One way of asking, and what it took: microseconds of processor time, and requests/s."""

    request: Request
    stream: Request
    cpu_us: list[float] = field(default_factory=list)
    cpu_stream_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)


def measure(*, quick: bool) -> Report:
    mine, others = cores() or (None, None)
    pin(others)
    rounds, length_s = (1, 2) if quick else (4, 3)
    try:
        with Processes() as processes, tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
            directory = Path(name)
            upstream = start_upstream(processes, directory, others)
            side = start_bursar(
                processes, "Bursar", directory / "data", upstream, mine, own_key=False, budgets=_SECTIONS
            )
            ways = {about: _way(side, model) for about, model in _ASKED.items()}
            for way in ways.values():
                wait_for_answer(side.port, way.request, side.process)
            for number in range(rounds + 1):
                for way in ways.values():
                    _load(side, way, directory, others, length_s, kept=number > 0)
            count = 100 if quick else 400
            latency = one_by_one([(side.port, way.request) for way in ways.values()], count=count, per_s=50)
            processes.stop(side.process)
    finally:
        pin(mine | others if mine and others else None)
    figures = _figures(ways, [median(total for _, total in taken) for taken in latency])
    p99 = ", ".join(
        f"{about} {percentile([total for _, total in taken], 99):.2f} ms"
        for about, taken in zip(ways, latency, strict=True)
    )
    return Report("routes", tuple(figures), (f"load: {tool()}, {CONNECTIONS} connections, in turns", f"p99: {p99}"))


def _way(side: Side, model: str) -> _Way:
    def asking(bench: str) -> Request:
        plain = chat_request(side.key, bench)
        named = f'"model":"{samples.MODEL}"'.encode()
        assert named in plain.body
        return Request(plain.path, plain.headers, plain.body.replace(named, f'"model":"{model}"'.encode()))

    return _Way(asking(""), asking("stream"))


def _load(side: Side, way: _Way, directory: Path, on: set[int] | None, length_s: int, *, kept: bool) -> None:
    for request, costs in ((way.request, way.cpu_us), (way.stream, way.cpu_stream_us)):
        before = cpu_s(side.process.pid)
        load = hammer(side.port, request, directory, connections=CONNECTIONS, seconds=length_s, on=on)
        if load.errors or not load.requests:
            raise BenchError(f"{load.errors} requests failed, {load.requests} were answered: {request.body[:80]!r}")
        idle(side.process.pid)
        after = cpu_s(side.process.pid)
        if not kept:
            continue
        if before is not None and after is not None:
            costs.append((after - before) / load.requests * 1e6)
        if request is way.request:
            way.per_s.append(load.per_s)


def _figures(ways: dict[str, _Way], p50_ms: list[float]) -> list[Figure]:
    plain = ways[_PLAIN]
    figures: list[Figure] = []
    for (about, way), milliseconds in zip(ways.items(), p50_ms, strict=True):
        if about == _PLAIN:
            continue
        for what, mine, its in (
            ("CPU for a request", way.cpu_us, plain.cpu_us),
            ("CPU for a stream", way.cpu_stream_us, plain.cpu_stream_us),
        ):
            name = f"{about}: {what}"
            if not mine or not its:
                figures.append(not_measured(name, "no /proc here"))
                continue
            note = f"{median(mine) - median(its):+.0f} us"
            figures.append(Figure(name, median(mine), "us", _PLAIN, median(its), note=note))
        figures.append(Figure(f"{about}: requests/s", median(way.per_s), "/s", _PLAIN, median(plain.per_s)))
        note = f"{milliseconds - p50_ms[0]:+.2f} ms"
        figures.append(Figure(f"{about}: p50 at 50 requests/s", milliseconds, "ms", _PLAIN, p50_ms[0], note=note))
    return figures
