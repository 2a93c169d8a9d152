"""The gateway beside a bare proxy made of the same server and client, with the same provider behind both.

Rule 1: sides take turns, run by run, and what a run left to do (shipping to the ledger) is done and counted before the
        next side's turn: processor time per request is all of it.
Rule 2: a run in which the process under test did not get its core is repeated a few times; if that does not help, the
        report says so. Processor time per request is the figure that other work on the machine disturbs least.
Rule 3: after the load the books must verify clean, and every answered request must have its row in the ledger.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench import samples
from bench.load import WARM_UP, Connection, Load, Request, hammer, one_by_one, tool
from bench.measure import (
    BURSAR,
    PYTHON,
    BenchError,
    Processes,
    cores,
    cpu_s,
    free_port,
    idle,
    median,
    memory_mib,
    percentile,
    pin,
    run,
    steady,
)
from bench.report import Figure, Report, not_measured
from bench.upstream import PAUSE_MS, Upstream, start_upstream

__all__ = [
    "CONNECTIONS",
    "Side",
    "chat_request",
    "cpu_us",
    "disturbed",
    "measure",
    "per_s",
    "run_once",
    "start_bursar",
    "wait_for_answer",
]

CONNECTIONS = 64
_ALL_ON = "Bursar, all on"
_BUDGETED = "Bursar, 4 budgets"
# Every call falls under all four, and there is always enough.
_BUDGETS = """budgets:
  company: {limit: $1M, per: month, tz: Europe/Berlin, ladder: [{at: 90%, effort: low}]}
  each-team: {limit: $1M, per: week, each: team}
  each-user: {limit: $1M, per: day, each: user}
  coders: {limit: $1M, match: {agent: coder, "label:env": bench}}
"""
_ANSWER_WITHIN_S = 30
_SHARE_MIN = 0.85
_REPEATS_MAX = 3
_PATH = "/v1/chat/completions"
_OWN_KEY = "sk-the-client-brings-this-key-0123456789"
_SERVER_KEY = "sk-the-server-has-this-key-0123456789"


@dataclass(frozen=True, slots=True)
class Run:
    """One load. ``share`` is how much of its core the process under test got."""

    load: Load
    cpu_us: float | None
    share: float | None


@dataclass(slots=True)
class Side:
    """A process under test, and what was counted of it. ``answered`` are the 200s that its clients got."""

    name: str
    port: int
    key: str
    process: subprocess.Popen[bytes]
    data: Path | None = None
    starts_ms: list[float] = field(default_factory=list)
    chat: list[Run] = field(default_factory=list)
    streams: list[Run] = field(default_factory=list)
    answered: int = 0
    loads: int = 0
    provider_saw: int = 0
    memory_mib: float | None = None


def chat_request(key: str, bench: str = "") -> Request:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    if bench:
        headers["x-bench"] = bench
    return Request(_PATH, headers, samples.STREAM_REQUEST if bench else samples.CHAT_REQUEST)


def measure(*, quick: bool) -> Report:
    split = cores()
    mine, others = split or (None, None)
    pin(others)
    try:
        with Processes() as processes, tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
            directory = Path(name)
            upstream = start_upstream(processes, directory, others)
            wait_for_answer(upstream.port, chat_request(_OWN_KEY), None)
            sides = _start_sides(processes, directory, upstream, mine, starts=1 if quick else 3)
            _load(sides, upstream, directory, others, quick=quick)
            latency = one_by_one([(s.port, chat_request(s.key)) for s in sides], count=100 if quick else 500, per_s=50)
            paced = one_by_one(
                [(s.port, chat_request(s.key, "paced")) for s in sides], count=30 if quick else 100, per_s=8
            )
            for side in sides:
                _count(side, len(latency[0]) + len(paced[0]) + 2 * WARM_UP)
            proofs = [_prove(processes, side, upstream) for side in sides if side.data]
    finally:
        pin(mine | others if mine and others else None)
    where = "the process under test has one core, load and upstream the other" if split else "nothing is pinned here"
    notes = [
        f"load: {tool()}, {CONNECTIONS} connections; upstream: {upstream.name}; {where}",
        *proofs,
        *disturbed(sides),
    ]
    return Report("gateway", tuple(_figures(sides, latency, paced)), tuple(notes))


# --- the sides --------------------------------------------------------------------------------------------------


def _start_sides(
    processes: Processes, directory: Path, upstream: Upstream, mine: set[int] | None, *, starts: int
) -> list[Side]:
    sides: list[Side] = []
    for name in ("bare proxy", _ALL_ON, _BUDGETED, "Bursar, own key"):
        begun: list[float] = []
        while True:
            if name == "bare proxy":
                side = _start_bare(processes, directory, upstream, mine)
            else:
                data = directory / f"data-{name.rpartition(' ')[2]}-{len(begun)}"
                own_key, budgets = name.endswith("own key"), _BUDGETS if name == _BUDGETED else ""
                side = start_bursar(processes, name, data, upstream, mine, own_key=own_key, budgets=budgets)
            begun.append(wait_for_answer(side.port, chat_request(side.key), side.process))
            if len(begun) == starts:
                break
            processes.stop(side.process)
        side.starts_ms = begun
        _count(side, 1)
        sides.append(side)
    return sides


def _count(side: Side, exchanges: int) -> None:
    side.answered += exchanges
    side.provider_saw += exchanges


def _start_bare(processes: Processes, directory: Path, upstream: Upstream, mine: set[int] | None) -> Side:
    port = free_port()
    command = [PYTHON, "-m", "bench.bare_proxy", port, f"http://127.0.0.1:{upstream.port}"]
    return Side("bare proxy", port, _OWN_KEY, processes.start(command, log=directory / "bare.log", on=mine))


def start_bursar(
    processes: Processes,
    name: str,
    data: Path,
    upstream: Upstream,
    mine: set[int] | None,
    *,
    own_key: bool,
    budgets: str = "",
) -> Side:
    """With ``own_key`` the client's key goes on to the provider; else it has a virtual one, and the server the real one.

    ``budgets`` is that section of its configuration.
    """
    data.mkdir(parents=True)
    config = data.with_suffix(".yaml")
    config.write_text(
        f"providers:\n  openai:\n    base_url: http://127.0.0.1:{upstream.port}/v1\n    key_env: BURSAR_BENCH_KEY\n"
        + budgets,
        encoding="utf-8",
    )
    key = _OWN_KEY
    if not own_key:
        scope = ["--team", "search", "--agent", "coder", "--user", "ana", "--label", "env=bench"]
        key = json.loads(run([*BURSAR, "keys", "create", "bench", *scope, "--json", "--data", data]))["key"]
    port = free_port()
    process = processes.start(
        [*BURSAR, "up", "--port", port, "--config", config, "--data", data],
        log=data.with_suffix(".log"),
        on=mine,
        env={"BURSAR_BENCH_KEY": _SERVER_KEY},
    )
    return Side(name, port, key, process, data)


def wait_for_answer(
    port: int, request: Request, process: subprocess.Popen[bytes] | None, *, within_s: float = _ANSWER_WITHIN_S
) -> float:
    """Milliseconds until the first answer. Raises BenchError when there is none."""
    begin = time.perf_counter()
    why: object = "nothing listens"
    while time.perf_counter() - begin < within_s:
        if process is not None and process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with exit code {process.returncode}")
        try:
            connection = Connection(port, request)
            try:
                connection.exchange()
            finally:
                connection.close()
        except (OSError, BenchError) as error:
            why = error
            time.sleep(0.005)
        else:
            return (time.perf_counter() - begin) * 1000
    raise BenchError(f"no answer on port {port} within {within_s:g} s: {why}")


# --- the load ---------------------------------------------------------------------------------------------------


def _load(sides: list[Side], upstream: Upstream, directory: Path, on: set[int] | None, *, quick: bool) -> None:
    rounds, length_s = (1, 2) if quick else (3, 4)
    for kind in ("", "stream"):
        for side in sides:
            run_once(side, kind, upstream, directory, on, 1)
    for side in sides:
        side.chat.clear()
        side.streams.clear()
    for kind in ("", "stream"):
        for _ in range(rounds):
            for side in sides:
                run_once(side, kind, upstream, directory, on, length_s)
        for side in sides:
            runs = side.streams if kind else side.chat
            for _ in range(0 if quick else _REPEATS_MAX):
                if sum(not _is_disturbed(one) for one in runs) >= rounds:
                    break
                run_once(side, kind, upstream, directory, on, length_s)
    for side in sides:
        side.memory_mib = memory_mib(side.process.pid)


def run_once(
    side: Side,
    kind: str,
    upstream: Upstream,
    directory: Path,
    on: set[int] | None,
    length_s: int,
    *,
    may_fail: bool = False,
) -> None:
    """One load on one side; what was found is added to the side. Raises BenchError when requests fail."""
    before = upstream.served() if upstream.counts else 0
    cpu_before = cpu_s(side.process.pid)
    request = chat_request(side.key, kind)
    load = hammer(side.port, request, directory, connections=CONNECTIONS, seconds=length_s, on=on)
    cpu_loaded = cpu_s(side.process.pid)
    if (load.errors and not may_fail) or not load.requests:
        raise BenchError(f"{side.name}: {load.errors} requests failed, {load.requests} were answered")
    idle(side.process.pid)
    cpu_after = cpu_s(side.process.pid)
    cost = share = None
    if cpu_before is not None and cpu_loaded is not None and cpu_after is not None:
        cost = (cpu_after - cpu_before) / load.requests * 1e6
        share = (cpu_loaded - cpu_before) / load.seconds
    (side.streams if kind else side.chat).append(Run(load, cost, share))
    side.answered += load.requests
    side.loads += 1
    side.provider_saw += (upstream.served() if upstream.counts else 0) - before


def _is_disturbed(one: Run) -> bool:
    return one.share is not None and one.share < _SHARE_MIN


def disturbed(sides: list[Side]) -> list[str]:
    said: list[str] = []
    for side in sides:
        for what, runs in (("chat", side.chat), ("streams", side.streams)):
            if runs and all(map(_is_disturbed, runs)):
                most = max(one.share or 0 for one in runs)
                said.append(
                    f"disturbed: {side.name} got {most:.0%} of its core at best ({what}): other work on the machine, or the "
                    "load was the limit; compare processor time instead of requests/s"
                )
    return said


def _prove(processes: Processes, side: Side, upstream: Upstream) -> str:
    """Stop a side and check its books. Raises BenchError when they are wrong."""
    assert side.data is not None
    processes.stop(side.process)
    found = json.loads(run([*BURSAR, "verify", "--json", "--data", side.data]))
    rows = found["ledger_rows"]
    cut_max = side.loads * CONNECTIONS
    if found["open_holds"] or not side.answered <= rows <= side.answered + cut_max:
        raise BenchError(
            f"{side.name}: {side.answered} requests were answered, the ledger has {rows} rows, "
            f"{found['open_holds']} holds are open; up to {cut_max} requests were cut off by the load generator"
        )
    saw = f"; the provider saw {side.provider_saw:,}" if upstream.counts else ""
    return (
        f"{side.name}: verify is clean; {rows:,} ledger rows = {side.answered:,} answered requests + "
        f"{rows - side.answered} that the load generator cut off when it stopped{saw}"
    )


# --- the figures ------------------------------------------------------------------------------------------------


def _best(runs: list[Run]) -> list[Run]:
    return [one for one in runs if not _is_disturbed(one)] or runs


def per_s(runs: list[Run]) -> float:
    return median(one.load.per_s for one in _best(runs))


def cpu_us(runs: list[Run]) -> float | None:
    known = [one.cpu_us for one in runs if one.cpu_us is not None]
    return median(known) if known else None


def _figures(
    sides: list[Side], latency: list[list[tuple[float, float]]], paced: list[list[tuple[float, float]]]
) -> list[Figure]:
    bare, *ours = sides
    figures: list[Figure] = []
    for number, side in enumerate(ours, start=1):
        all_on = side.name == _ALL_ON
        for what, mine, its in (("requests/s", side.chat, bare.chat), ("streams/s", side.streams, bare.streams)):
            rate, limit = per_s(mine), per_s(its)
            met = rate >= 0.5 * limit if all_on else None
            figures.append(
                Figure(f"{side.name}: {what}", rate, "/s", bare.name, limit, ">= 0.5 x" if all_on else "", met)
            )
        for what, mine, its in (("a request", side.chat, bare.chat), ("a stream", side.streams, bare.streams)):
            name, cost, least = f"{side.name}: CPU for {what}", cpu_us(mine), cpu_us(its)
            if cost is None or least is None:
                figures.append(not_measured(name, "no /proc here"))
            else:
                met = cost <= 2 * least if all_on else None
                figures.append(Figure(name, cost, "us", bare.name, least, "<= 2 x" if all_on else "", met))
        if side.name == _BUDGETED:
            figures.append(_budget_cost(side, ours[0]))
        figures += _added(side, bare, latency[number], latency[0], paced[number], paced[0])
        start = median(side.starts_ms)
        figures.append(
            Figure(
                f"{side.name}: start to first answer",
                start,
                "ms",
                bare.name,
                median(bare.starts_ms),
                "< 1000 ms",
                start < 1_000,
            )
        )
        name = f"{side.name}: memory after the load"
        if side.memory_mib is None:
            figures.append(not_measured(name, "no /proc here"))
        else:
            met = side.memory_mib <= 150
            figures.append(Figure(name, side.memory_mib, "MiB", bare.name, bare.memory_mib, "<= 150 MiB", met))
    return figures


def _budget_cost(side: Side, without: Side) -> Figure:
    """What four budgets add to the processor time of a request."""
    name = "four budgets: CPU for a request, beside none"
    cost, least = cpu_us(side.chat), cpu_us(without.chat)
    if cost is None or least is None:
        return not_measured(name, "no /proc here")
    return Figure(name, cost, "us", without.name, least, "<= 1.15 x", cost <= 1.15 * least)


def _added(
    side: Side,
    bare: Side,
    latency: list[tuple[float, float]],
    latency_bare: list[tuple[float, float]],
    paced: list[tuple[float, float]],
    paced_bare: list[tuple[float, float]],
) -> list[Figure]:
    figures: list[Figure] = []
    for percent, limit in ((50, 0.5), (99, 2.0)):
        mine, its = (steady([total for _, total in taken], percent, window=100) for taken in (latency, latency_bare))
        added = mine - its
        name = f"{side.name}: p{percent} at 50 requests/s"
        goal = f"<= {limit:g} ms added"
        figures.append(Figure(name, mine, "ms", bare.name, its, goal, added <= limit, f"{added:+.2f} ms"))
    mine, its = (percentile([first for first, _ in taken], 50) for taken in (paced, paced_bare))
    added = mine - its
    note = f"{added:+.2f} ms; the provider pauses {PAUSE_MS} ms after the first event"
    name = f"{side.name}: p50 to a stream's first byte"
    figures.append(Figure(name, mine, "ms", bare.name, its, "<= 0.5 ms added", added <= 0.5, note))
    return figures
