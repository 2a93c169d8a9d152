"""A world for ``engine.climb``: rungs that do as they are told, in a time that passes when everybody waits."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from bursar.core.admission import Refusal
from bursar.core.call import Done, Refused, Settled
from bursar.core.failures import Cause
from bursar.core.ledger import Attempt, Opening, Status
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.routes import Route
from bursar.core.scopes import NOBODY
from bursar.core.usage import Usage
from bursar.engine.climb import Climb, Climbed, RouteStates
from bursar.engine.health import Health, Target
from bursar.engine.response_cache import NOTHING_KEPT
from bursar.engine.survey import Barred, Kept, Why

__all__ = ["SETTLE_S", "Does", "Made", "World", "run"]

T = TypeVar("T")
SETTLE_S = 0.001
_T0_US = 1_800_000_000_000_000
_LOOP_BEGINS_S = 1_000
START_US = _T0_US + _LOOP_BEGINS_S * 1_000_000
"""When a world begins, in microseconds."""
_REFUSAL = Refusal("budget_exceeded", "purse", "", "day", "usd", 1, 1, 0, 1, None)


class _Instant(selectors.SelectSelector):
    """Waits for nothing: what is not ready now is ready when the time has been put forward."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits for something that nobody does"
        self.loop.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = float(_LOOP_BEGINS_S)
        selector = _Instant()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.now_s


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it in a loop of its own. Fails if it leaves a task behind."""
    loop = VirtualLoop()

    async def whole() -> T:
        found = await work()
        await asyncio.sleep(2 * SETTLE_S)  # what the books have been told goes on without those who told them
        return found

    try:
        found = loop.run_until_complete(whole())
        assert asyncio.all_tasks(loop) == set(), "a task was left behind"
        return found
    finally:
        loop.close()


@dataclass(frozen=True)
class Does:
    """What an attempt does. It holds for ``hold_s``, then leaves; shows something after ``first_s`` more (streams), and ends after
    ``whole_s`` more. ``cause`` None: it answers. ``hangs``: it never says anything. ``refused``: a budget says no to its hold,
    ``unheld``: the books cannot write it.
    ``shows``: whether it shows anything before it fails."""

    cause: Cause | None = None
    hold_s: float = 0.0
    first_s: float = 0.05
    whole_s: float = 0.05
    hangs: bool = False
    refused: bool = False
    unheld: bool = False
    shows: bool = True
    goes_on: bool = False
    cost: int = 100
    retry_after_s: float | None = None
    raises: bool = False


@dataclass
class Made:
    """One attempt as it was made. ``end`` "" while it is under way."""

    index: int
    why: Why
    at_s: float
    does: Does
    left: bool = False
    shown_s: float | None = None
    told_no: bool = False
    replied: bool = False
    ended_s: float | None = None
    end: str = ""
    stopped: str = ""


class Fake:
    """``engine.climb.Candidate``."""

    def __init__(self, world: World, index: int, does: Does) -> None:
        self._world = world
        self._index = index
        self._does = does
        self.made: Made | None = None

    @property
    def target(self) -> Target:
        rung = self._world.route.rungs[self._index]
        return Target(rung.provider, rung.model, "key", "place")

    @property
    def expected(self) -> NanoUSD | None:
        return NanoUSD(self._does.cost)

    @property
    def context_window(self) -> int | None:
        return self._world.windows.get(self._index)

    @property
    def left(self) -> bool:
        return self.made is not None and self.made.left

    @property
    def replied(self) -> bool:
        return self.made is not None and self.made.replied

    async def make(self, why: Why, leaves: Callable[[], None], shows: Callable[[], bool]) -> Done:
        does, now = self._does, asyncio.get_running_loop().time
        made = self.made = Made(self._index, why, now(), does)
        self._world.made.append(made)
        try:
            done = await self._make(made, leaves, shows)
        except BaseException:
            # What ``engine.drive`` does: the settlement goes on whatever becomes of this task.
            await asyncio.shield(asyncio.ensure_future(self._settle(made, "cancelled")))
            raise
        made.replied = True
        end = done.attempt.status if isinstance(done, Settled) and done.attempt else "void"
        # The books have it from here on, whether or not anybody waits.
        await asyncio.shield(asyncio.ensure_future(self._settle(made, end)))
        return done

    async def _settle(self, made: Made, end: str) -> None:
        await asyncio.sleep(SETTLE_S)
        assert made.end == "", "settled twice"
        made.end, made.ended_s = end, asyncio.get_running_loop().time()

    async def _make(self, made: Made, leaves: Callable[[], None], shows: Callable[[], bool]) -> Done:
        does = self._does
        await asyncio.sleep(does.hold_s)
        opening = self._world.opening(self._index, made.why)
        if does.refused:
            return Refused(opening, "no", _REFUSAL)
        if does.unheld:
            return Refused(opening, "the disk is full")
        if does.raises:
            raise RuntimeError("a bug")
        if does.cause == "budget":
            return Settled(opening, None)
        made.left = True
        leaves()
        if does.hangs:
            await asyncio.sleep(3_600)
        if does.cause == "connect":
            await asyncio.sleep(does.first_s)
            made.left = False
            return Settled(opening, None)
        await asyncio.sleep(does.first_s)
        if self._world.stream and (does.cause is None or does.shows):
            if not shows():
                made.told_no = True
                return Settled(opening, self._attempt(opening, "cancelled"))
            made.shown_s = asyncio.get_running_loop().time()
        await asyncio.sleep(does.whole_s)
        return Settled(opening, self._attempt(opening, "ok" if does.cause is None else "error"))

    def _attempt(self, opening: Opening, status: Status) -> Attempt:
        charge = Charge(NanoUSD(self._does.cost), None, Usage(input_tokens=1, output_tokens=1))
        return Attempt(opening, status, charge, latency_ms=100.0, first_token_ms=50.0)

    def cause(self, done: Settled) -> Cause | None:
        if done.attempt is not None and done.attempt.status == "cancelled":
            return None
        return self._does.cause

    def retry_after_s(self) -> float | None:
        return self._does.retry_after_s

    @property
    def passed_over(self) -> str:
        return "its budget is used too far" if self._does.cause == "budget" else ""

    def goes_on(self) -> bool:
        return self._does.goes_on

    def stopping(self, reason: str, *, failed: bool) -> None:
        if self.made is not None:
            self.made.stopped = self.made.stopped or reason


@dataclass
class World:
    """The rungs of ``route``; ``script`` says what the attempts at each do, the last for ever."""

    route: Route
    script: Sequence[Sequence[Does | str]]
    stream: bool = False
    kept: Kept = NOTHING_KEPT
    windows: dict[int, int] = field(default_factory=dict)
    draw: Callable[[], float] = lambda: 0.5
    health: Health = field(default_factory=lambda: Health(lambda: 0.5))
    states: RouteStates = field(default_factory=RouteStates)
    made: list[Made] = field(default_factory=list)
    spent_s: float = 0
    client_left: bool = False
    asked: str = "chat_completions"

    def ready(self, index: int) -> Fake | Barred:
        does = self.script[index]
        number = sum(each.index == index for each in self.made)
        found = does[min(number, len(does) - 1)]
        return Barred(found, by_request=True) if isinstance(found, str) else Fake(self, index, found)

    def opening(self, index: int, why: Why) -> Opening:
        rung = self.route.rungs[index]
        return Opening(
            f"c.{why.serial}", "c", "model", "gateway", "chat_completions", self.now_us(), rung.provider, rung.model, NOBODY,
            Charge(NanoUSD(0), None, None), number=why.number, stream=self.stream, cause=why.cause,
        )  # fmt: skip

    def now_us(self) -> int:
        return _T0_US + round(asyncio.get_running_loop().time() * 1_000_000)

    async def climb(self) -> Climbed:
        return await Climb(
            self.route,
            self,
            self.health,
            self.states,
            kept=self.kept,
            stream=self.stream,
            now_us=self.now_us,
            draw=self.draw,
            spent_s=self.spent_s,
            gone=self.gone,
        ).run()

    async def gone(self) -> bool:
        return self.client_left

    def again(self) -> World:
        """The same world at its next call: how targets do is remembered."""
        return replace(self, made=[])
