"""An outage of the first provider of two, through our gateway and, with peers, through LiteLLM's proxy, at the same time.

Rule 1: everything runs at once and takes turns: no two requests of the script begin together, and whatever disturbs the machine
        meets all sides alike. Requests are sent at their time, whether or not those before them were answered.
Rule 2: what an answer of the fallback takes is asked all the time through the same gateway (``controls``); what an outage adds
        is the difference to the middle of these.
Rule 3: attempts are those that the providers counted, not those that a gateway says it made.
Rule 4: at the end the books must verify clean.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from bench.measure import BURSAR, BenchError, Processes, median, percentile, run
from bench.outage_providers import MODES, Knocks, Mode
from bench.outage_sides import BURSAR_SIDE, FALLBACK, LANES, PRIMARY, Exchange, Lane, Pair, Side, start_side
from bench.peers import install
from bench.report import Figure, Report, aligned, not_measured, shown

__all__ = ["WHOLE", "Outcome", "Script", "measure", "outcome", "play", "prove", "stop"]

_LITELLM = ("LiteLLM, default", "LiteLLM, tuned")
_TIMEOUT_S = 30
_STAGGER = 0.8  # of the time between two requests; in what is left the outage begins and ends
_ADDED_MS_MAX = 20.0
_FIRST_TEXT = re.compile(rb'"content": ?"[^"]')


@dataclass(frozen=True, slots=True)
class Script:
    """How many requests each lane sends in each phase, ``every_s``; before these some faster ones, from which gateways learn."""

    every_s: float
    healthy: int
    outage: int
    recovery: int
    warm: int = 25
    warm_every_s: float = 1.6
    paces_ms: tuple[float, float] = (200.0, 250.0)
    breaker_open: str = "30s"

    @property
    def requests(self) -> int:
        return self.healthy + self.outage + self.recovery

    def phase(self, number: int) -> Any:
        if number < self.healthy:
            return "healthy"
        return "outage" if number < self.healthy + self.outage else "recovery"


WHOLE = Script(every_s=4, healthy=5, outage=15, recovery=15)
_QUICK = Script(every_s=2.5, healthy=4, outage=12, recovery=16, warm_every_s=1.2, breaker_open="15s")


@dataclass(frozen=True, slots=True)
class Window:
    """The outage, in seconds since 1970, and the beginning and the end of what is looked at."""

    began_s: float
    down_s: float
    up_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one mode of failing came to on one side, over whole answers and streams. Times are milliseconds.

    ``attempts`` at the primary in the outage is the larger of the two kinds'. ``first`` and ``later`` are added to the fallback's
    own time; ``usual_p99`` is what the fallback's own answers took over their middle, which is the machine's doing. ``limit`` is
    what a hung primary may add: its 95th percentile. None: not known, or it did not happen.
    """

    attempts: int | None
    first: float | None
    later: tuple[float, ...]
    limit: float
    usual_p99: float
    errors: int
    left_healthy: int
    amplification_outage: float | None
    amplification: float | None
    recovery_s: float | None


def measure(*, quick: bool, peers: bool = False) -> Report:
    script = _QUICK if quick else WHOLE
    with Processes() as processes, tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
        return asyncio.run(_measure(processes, Path(name), script, peers=peers))


async def _measure(processes: Processes, directory: Path, script: Script, *, peers: bool) -> Report:
    version, why = install("litellm", "litellm[proxy]") if peers else ("", "only with --peers")
    names = (BURSAR_SIDE, *(_LITELLM if version else ()))
    found = await asyncio.gather(
        *(
            start_side(processes, name, directory, paces_ms=script.paces_ms, breaker_open=script.breaker_open)
            for name in names
        ),
        return_exceptions=True,
    )
    sides: list[Side] = []
    for side in found:
        if isinstance(side, BenchError):
            why = str(side)
        elif isinstance(side, BaseException):
            raise side
        else:
            sides.append(side)
    if not sides or sides[0].name != BURSAR_SIDE:
        raise BenchError(why)
    with Knocks() as knocks:
        window = await play(sides, script, knocks)
        outcomes = {(side.name, mode): outcome(side, mode, window, knocks) for side in sides for mode in MODES}
    proof = prove(processes, sides[0])
    await stop(sides)
    names = [side.name for side in sides]
    rows = [row for mode in MODES for row in _rows(mode, [outcomes[name, mode] for name in names])]
    figures = [figure for row in rows for figure in row.figures(names)]
    if len(names) <= len(_LITELLM):
        figures.append(not_measured("LiteLLM's proxy", why))
    notes = (
        f"1 request / {script.every_s:g} s in each of {len(LANES)} lanes of each side, {script.outage} of them in the outage",
        f"whole answers and streams; first token {script.paces_ms[0]:g} ms, at the fallback {script.paces_ms[1]:g} ms",
        f"LiteLLM {version}: {why}" if why else f"LiteLLM {version}, one process for each configuration, no database",
        proof,
        *_errors(sides),
    )
    return _Table("outage", tuple(figures), notes, names, rows)


async def stop(sides: Iterable[Side]) -> None:
    providers = [each for side in sides for pair in side.pairs.values() for each in (pair.primary, pair.fallback)]
    await asyncio.gather(*(provider.stop() for provider in providers))


def prove(processes: Processes, side: Side) -> str:
    """Stop our gateway and check its books. Raises BenchError when they are wrong."""
    assert side.data is not None
    processes.stop(side.process)
    found = json.loads(run([*BURSAR, "verify", "--json", "--data", side.data]))
    if found["open_holds"]:
        raise BenchError(f"{side.name}: {found['open_holds']} holds are open after the outage")
    return f"{side.name}: verify is clean, {found['ledger_rows']:,} ledger rows"


# --- the script -----------------------------------------------------------------------------------------------------


async def play(sides: Sequence[Side], script: Script, knocks: Knocks) -> Window:
    """All lanes of all sides through the whole script."""
    lanes = [(side, lane, side.pairs[lane]) for lane in sides[0].pairs for side in sides]
    knocks.watch(pair.primary.port for _, lane, pair in lanes if lane.mode == "refused")
    client = ClientBuilder().timeout(timedelta(seconds=_TIMEOUT_S)).no_proxy().build()
    loop = asyncio.get_running_loop()
    start = loop.time() + 0.1
    await asyncio.gather(
        *(
            _warm_up(client, *each, start + script.warm_every_s * number / len(lanes), script)
            for number, each in enumerate(lanes)
        )
    )
    began_s, start = time.time(), loop.time() + script.every_s / 4
    running = [
        asyncio.create_task(_lane(client, *each, start + _STAGGER * script.every_s * number / len(lanes), script))
        for number, each in enumerate(lanes)
    ]
    try:
        gap_s = (1 - _STAGGER) / 2 * script.every_s
        await _until(start + script.healthy * script.every_s - gap_s)
        down_s = time.time()
        await asyncio.gather(*(pair.primary.fail(lane.mode) for _, lane, pair in lanes))
        await _until(start + (script.healthy + script.outage) * script.every_s - gap_s)
        await asyncio.gather(*(pair.primary.heal(lane.mode) for _, lane, pair in lanes))
        up_s = time.time()
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await client.close()
    return Window(began_s, down_s, up_s, time.time())


async def _until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))


async def _warm_up(client: Client, side: Side, lane: Lane, pair: Pair, start: float, script: Script) -> None:
    speakers = pair.speakers()
    for number in range(script.warm):
        await _until(start + number * script.warm_every_s)
        pair.asked.append(await _exchange(client, side, lane, speakers, "warm", control=False))


async def _lane(client: Client, side: Side, lane: Lane, pair: Pair, start: float, script: Script) -> None:
    speakers = pair.speakers()

    async def ask(phase: Any, into: list[Exchange], *, control: bool) -> None:
        into.append(await _exchange(client, side, lane, speakers, phase, control=control))

    async with asyncio.TaskGroup() as group:
        for number in range(script.requests):
            await _until(start + number * script.every_s)
            group.create_task(ask(script.phase(number), pair.asked, control=False))
            await _until(start + (number + 0.5) * script.every_s)
            group.create_task(ask(script.phase(number), pair.controls, control=True))


async def _exchange(
    client: Client, side: Side, lane: Lane, speakers: Mapping[str, str], phase: Any, *, control: bool
) -> Exchange:
    request = side.request(lane, control=control)
    at_s, began = time.time(), time.perf_counter()
    first: float | None = None
    body = b""
    try:
        builder = client.post(f"http://127.0.0.1:{side.port}{request.path}").headers(dict(request.headers))
        builder = builder.body_bytes(request.body).streamed_read_buffer_limit(0)
        async with builder.build_streamed() as response:
            while (chunk := await response.body_reader.read_chunk()) is not None:
                body += bytes(chunk)
                if first is None and _FIRST_TEXT.search(body):
                    first = (time.perf_counter() - began) * 1000
            status = response.status
    except PyreqwestError as error:
        return Exchange(phase, at_s, None, "", f"{type(error).__name__} after {time.time() - at_s:.0f} s")
    total = (time.perf_counter() - began) * 1000
    said = _said(body, stream=lane.kind == "stream")
    if status != 200 or said is None or first is None:
        return Exchange(phase, at_s, None, "", f"HTTP {status}: {body[:200]!r}")
    return Exchange(phase, at_s, first if lane.kind == "stream" else total, speakers.get(said, ""))


def _said(body: bytes, *, stream: bool) -> str | None:
    """The text of an answer, None where there is no whole one."""
    try:
        if not stream:
            return json.loads(body)["choices"][0]["message"]["content"]
        *events, last = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
        if last.strip() != b"[DONE]":
            return None
        choices = [choice for event in events for choice in json.loads(event)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in choices)
    except (KeyError, IndexError, TypeError, ValueError):
        return None


# --- what came of it --------------------------------------------------------------------------------------------------


def outcome(side: Side, mode: Mode, window: Window, knocks: Knocks) -> Outcome:
    pairs = [pair for lane, pair in side.pairs.items() if lane.mode == mode]
    asked = [one for pair in pairs for one in pair.asked if one.phase != "warm"]
    refused = [_refused(mode, pair, window, knocks) for pair in pairs]
    inside = [_primary(pair, window.down_s, window.up_s, gone) for pair, gone in zip(pairs, refused, strict=True)]
    all_of_it = [
        _primary(pair, window.began_s, window.ended_s, gone) for pair, gone in zip(pairs, refused, strict=True)
    ]
    others = [_within(pair.fallback.times_s(FALLBACK), window.down_s, window.up_s) for pair in pairs]
    all_others = [_within(pair.fallback.times_s(FALLBACK), window.began_s, window.ended_s) for pair in pairs]
    added = [_added(pair) for pair in pairs]
    firsts = [times[0] for times in added if times]
    back = [
        next((at for at in sorted(pair.primary.times_s(PRIMARY, answered=True)) if at >= window.up_s), None)
        for pair in pairs
    ]
    limits = [
        one.ms for pair in pairs for one in pair.asked if one.by == PRIMARY and one.ms and one.at_s < window.down_s
    ]
    if not limits:
        raise BenchError(f"{side.name}: the primary never answered before the outage ({mode})")
    return Outcome(
        attempts=_known(max, inside),
        first=None if None in firsts else max(one for one in firsts if one is not None),
        later=tuple(one for times in added for one in times[1:] if one is not None),
        limit=percentile(limits, 95),
        usual_p99=max(_spread(pair) for pair in pairs),
        errors=sum(bool(one.error) for one in asked),
        left_healthy=sum(one.by != PRIMARY for one in asked if one.phase == "healthy"),
        amplification_outage=_share([*inside, *others], sum(one.phase == "outage" for one in asked)),
        amplification=_share([*all_of_it, *all_others], len(asked)),
        recovery_s=None if None in back else max(at for at in back if at is not None) - window.up_s,
    )


def _refused(mode: Mode, pair: Pair, window: Window, knocks: Knocks) -> int | None:
    """Attempts that came while nobody listened."""
    if mode != "refused":
        return 0
    return _within(knocks.times_s(pair.primary.port), window.down_s, window.up_s) if knocks.works else None


def _primary(pair: Pair, since_s: float, until_s: float, refused: int | None) -> int | None:
    """Attempts at the primary between two times."""
    return None if refused is None else refused + _within(pair.primary.times_s(PRIMARY), since_s, until_s)


def _within(times_s: Iterable[float], since_s: float, until_s: float) -> int:
    return sum(since_s <= at <= until_s for at in times_s)


def _known(of: Callable[[Iterable[int]], int], counts: Sequence[int | None]) -> int | None:
    return None if None in counts else of(count for count in counts if count is not None)


def _share(attempts: Sequence[int | None], requests: int) -> float | None:
    made = _known(sum, attempts)
    return None if made is None else made / requests


def _usual(pair: Pair) -> list[float]:
    answered = [one.ms for one in pair.controls if one.ms is not None]
    if not answered:
        raise BenchError(f"the fallback itself never answered: {pair.controls[0].error}")
    return answered


def _spread(pair: Pair) -> float:
    usual = _usual(pair)
    return percentile(usual, 99) - median(usual)


def _added(pair: Pair) -> list[float | None]:
    """What each request of the outage took longer than the fallback's own answers, in the order they were sent."""
    usual = median(_usual(pair))
    sent = sorted((one for one in pair.asked if one.phase == "outage"), key=lambda one: one.at_s)
    return [None if one.ms is None else one.ms - usual for one in sent]


def _errors(sides: Iterable[Side]) -> list[str]:
    """The first error of each lane, in the words that the client was given."""
    said: list[str] = []
    for side in sides:
        for lane, pair in side.pairs.items():
            for kind, exchanges in (("", pair.asked), ("control ", pair.controls)):
                failed = [one for one in exchanges if one.error]
                if failed:
                    said.append(
                        f"{side.name}, {kind}{lane.name}: {len(failed)} errors, the first: {failed[0].error[:200]}"
                    )
    return said


_NOT_SEEN = "not seen within the script"
_UNSEEN = not_measured("", _NOT_SEEN).note
_MEASURES: tuple[tuple[str, str, str, Callable[[Outcome], float | None], Callable[[Outcome], float] | None], ...] = (
    ("attempts at the primary in the outage", "", "<= 3", lambda o: o.attempts, lambda _: 3),
    ("first request, added", "ms", "one fast failure", lambda o: o.first, lambda _: _ADDED_MS_MAX),
    ("later ones, added, p50", "ms", "+0 ms", lambda o: _later(o, 50), lambda _: 1.0),
    ("later ones, added, p99", "ms", "<= 20 ms", lambda o: _later(o, 99), lambda _: _ADDED_MS_MAX),
    ("the fallback asked by name, p99 over its p50", "ms", "", lambda o: o.usual_p99, None),
    ("errors that clients saw", "", "0", lambda o: o.errors, lambda _: 0),
    ("attempts for a request, whole run", "", "<= 1.1", lambda o: o.amplification, lambda _: 1.1),
    ("attempts for a request, in the outage", "", "", lambda o: o.amplification_outage, None),
    ("from its end to the primary's next answer", "s", "", lambda o: o.recovery_s, None),
    ("healthy requests that left the primary", "", "", lambda o: o.left_healthy, None),
)


def _later(found: Outcome, percent: float) -> float | None:
    return percentile(found.later, percent) if found.later else None


@dataclass(frozen=True, slots=True)
class _Row:
    """One measure of one mode, for each side; the goal is ours."""

    title: str
    unit: str
    values: tuple[float | None, ...]
    goal: str
    met: bool | None

    def figures(self, names: Sequence[str]) -> Iterable[Figure]:
        for side, value in zip(names, self.values, strict=True):
            name = self.title if side == BURSAR_SIDE else f"{self.title} ({side})"
            if value is None:
                yield not_measured(name, _NOT_SEEN)
            elif side == BURSAR_SIDE:
                yield Figure(name, value, self.unit, goal=self.goal, goal_met=self.met)
            else:
                yield Figure(name, value, self.unit)

    def cells(self) -> tuple[str, ...]:
        told = ["-" if value is None else f"{shown(value)} {self.unit}".strip() for value in self.values]
        return (self.title, *told, self.goal, {True: "met", False: "MISSED", None: ""}[self.met])


def _rows(mode: Mode, outcomes: Sequence[Outcome]) -> Iterable[_Row]:
    ours = outcomes[0]
    for name, unit, goal, value, limit_of in _MEASURES:
        values = tuple(value(found) for found in outcomes)
        limit = None if limit_of is None else limit_of(ours)
        if mode == "hang" and unit == "ms" and limit == _ADDED_MS_MAX:
            # Nothing is known of a hung provider before the time is over in which it usually answers.
            limit += ours.limit
            goal = f"<= its p95, {ours.limit:.0f} ms, + {_ADDED_MS_MAX:g} ms"
        met = None if limit is None or values[0] is None else values[0] <= limit
        yield _Row(f"{mode}: {name}", unit, values, goal, met)


@dataclass(frozen=True, slots=True)
class _Table(Report):
    """The sides beside each other."""

    names: Sequence[str] = ()
    rows: Sequence[_Row] = ()

    def text(self) -> str:
        head = ("", *self.names, "goal", "")
        lines = aligned([head, *(row.cells() for row in self.rows)], right=range(1, 1 + len(self.names)))
        said = [f"  {each.name}: {each.note}" for each in self.figures if each.value is None and each.note != _UNSEEN]
        return "\n".join([f"== {self.part} ==", *lines, *said, *(f"  {note}" for note in self.notes)])
