"""Takes a call up the rungs of its route: the order of I/O, with what ``core.routes`` decides.

Rule 1: every attempt is a call of its own through the states of ``core.call``: held before, settled after, whatever becomes of it.
Rule 2: as long as the client has seen nothing, an attempt may be left for the next rung; after that only where the route lets
        another one go on with the answer. The first attempt that shows something
        has the client to itself: all others are cancelled and settled.
Rule 3: there is no waiting while another rung is there. Where there is none, the same is tried again within the retry budget.
Rule 4: the time that is left is split over the rungs that are left; one that shows nothing in its time is left.
Rule 5: an answer is passed on, or an error as the provider said it, or a refusal that names every rung and why: one of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from bursar.core.alert_text import money_text
from bursar.core.caching import CacheEntry, CacheTier
from bursar.core.call import Done, Refused
from bursar.core.failures import WAYS, Cause
from bursar.core.retries import HedgeBudget, RetryBudget, backoff_s
from bursar.core.routes import Limit, Pick, Route, limit_ms, next_after
from bursar.core.values import valueclass

from .health import Health, TargetHealth
from .survey import Candidate, Candidates, Kept, Survey, Why

__all__ = ["Climb", "Climbed", "RouteStates"]

# Where a route says nothing, and others are left to go to: three times what all but one in a hundred take, at least and, before
# enough were seen, at most.
_USUAL: Final = Limit(quantile=990, factor=3_000)
_FIRST_TOKEN_MS: Final = (2_000, 30_000)
_TOTAL_MS: Final = (5_000, 300_000)
_RETRY_WAIT_S_MAX: Final = 20.0


@valueclass
class Climbed:
    """How a call ended. ``by`` is whose answer (or error, where ``cause`` says so) goes to the client, with ``done``; ``kept``
    what is answered from the cache. Neither: nothing could be done, ``reason`` says why; ``wait_us`` is when to come again, and
    ``done`` a budget's refusal. ``left_for`` is why the first rung, which is at ``left_provider``, does not answer, "" where it
    does. ``serial`` and ``number`` are what one more attempt would have."""

    rung: str
    decision: str
    serial: int
    number: int
    by: Candidate | None = None
    done: Done | None = None
    cause: Cause | None = None
    kept: CacheEntry | None = None
    tier: CacheTier | None = None
    reason: str = ""
    wait_us: int = 0
    left_for: str = ""
    left_provider: str = ""


class RouteStates:
    """What is remembered of routes: what of their retries and hedges is left. One per process."""

    def __init__(self) -> None:
        self._retries: dict[tuple[str, int], RetryBudget] = {}
        self._hedges: dict[tuple[str, int], HedgeBudget] = {}
        self.attempts: Counter[tuple[str, str]] = Counter()
        """By route, and what they were: taken, retry, hedge, probe, panic."""

    def retries(self, route: Route) -> RetryBudget:
        return self._retries.setdefault((route.name, route.retry_share), RetryBudget(route.retry_share))

    def hedges(self, route: Route) -> HedgeBudget:
        share = route.hedge.spend if route.hedge else 0
        return self._hedges.setdefault((route.name, share), HedgeBudget(share))


class _Running:
    """An attempt under way. ``first`` is done when the client begins to see it, or when it has ended."""

    __slots__ = ("began_s", "began_us", "candidate", "first", "health", "index", "limit_s", "shown", "stopped", "task")

    def __init__(
        self, index: int, candidate: Candidate, health: TargetHealth, *, began_us: int, limit_s: float | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.began_us = began_us
        self.index = index
        self.candidate = candidate
        self.health = health
        self.limit_s = limit_s
        self.began_s = loop.time()
        self.first: asyncio.Future[None] = loop.create_future()
        self.shown = False
        self.stopped = False
        self.task: asyncio.Task[Done]

    def left_s(self, now_s: float) -> float | None:
        """How long it may still show nothing, None where there is no limit, or its answer has come already."""
        return None if self.limit_s is None or self.candidate.replied else self.began_s + self.limit_s - now_s

    def ended(self, _task: object) -> None:
        if not self.first.done():
            self.first.set_result(None)


@valueclass
class _Ended:
    index: int
    candidate: Candidate
    done: Done | None
    cause: Cause | None
    shown: bool = False


class Climb:
    """One call. ``draw`` gives numbers from 0 to 1, ``now_us`` microseconds since 1970."""

    def __init__(
        self,
        route: Route,
        candidates: Candidates,
        health: Health,
        states: RouteStates,
        *,
        kept: Kept,
        stream: bool,
        now_us: Callable[[], int],
        draw: Callable[[], float],
    ) -> None:
        self._route = route
        self._survey = Survey(route, candidates, health, kept, now_us)
        self._states = states
        self._retries = states.retries(route)
        self._hedges = states.hedges(route)
        self._kept = kept
        self._stream = stream
        self._now_us = now_us
        self._draw = draw
        self._began_s = asyncio.get_running_loop().time()
        self._taken: set[int] = set()
        self._winner: _Running | None = None
        self._running: set[_Running] = set()
        self._attempts = 0
        self._left = 0
        self._cost = 0
        self._last: _Ended | None = None
        self._begun = False  # the client has seen a part
        self._again = False  # the next attempt is a retry that is paid for

    # --- the climb --------------------------------------------------------------------------------------------

    async def run(self) -> Climbed:
        self._retries.requested()
        route = self._route
        order: Sequence[int] = range(len(route.rungs))
        try:
            while True:
                chosen = self._survey.choose(order)
                self._survey.passed.update(chosen.passed)
                index = chosen.index
                if index is None:
                    return self._nothing(chosen.wait_us)
                rung = route.rungs[index]
                if rung.kind == "refuse":
                    return self._nothing(chosen.wait_us)
                if rung.kind == "stale" or (rung.kind == "cached" and self._kept.fresh is not None):
                    return self._from_cache(index)
                if rung.kind == "cached":
                    self._survey.passed[index] = "nothing fresh is kept for it"
                    order = [each for each in order if each != index]
                    continue
                if dear := self._over_cost_max(index):
                    self._survey.passed[index] = dear
                    order = [each for each in order if each != index]  # one after it may be cheap enough
                    continue
                if stop := self._must_stop(index, chosen):
                    self._survey.passed[index] = stop
                    order = [each for each in order if route.rungs[each].kind != "model"]
                    continue
                ended = await self._attempt(index, chosen, order)
                self._last = ended
                if ended.cause is None or (ended.shown and not ended.candidate.goes_on()):
                    return self._answered(ended)
                if ended.shown:
                    self._begun = True
                    self._winner = None
                    self._survey.forget()  # what is asked now is how it goes on
                self._survey.first_cause = self._survey.first_cause or ended.cause
                order = await self._after(ended)
                if self._begun:  # an answer that is kept is a whole one: it does not go on with a part
                    order = [each for each in order if route.rungs[each].kind == "model"]
        finally:
            await self._stop(self._running)

    def _must_stop(self, index: int, chosen: Pick) -> str:
        """Why no more attempts are made, "" where one is."""
        route = self._route
        if self._attempts >= route.attempts_max:
            return f"{self._attempts} attempts were made, attempts is {route.attempts_max}"
        left = self._left_s()
        if left is not None and left <= 0:
            return f"the deadline of {route.deadline_ms} ms is over"
        if chosen.panic:
            health = self._survey.health_of(index)
            if not health.throttle.admits(self._now_us(), self._draw()):
                return f"{health.verdict(self._now_us()).why}; nothing else is left, and most calls to it fail"
            if self._attempts and not self._again and not self._retries.take():
                return f"{health.verdict(self._now_us()).why}; the retries of this route are used up"
        return ""

    def _over_cost_max(self, index: int) -> str:
        """Why one more attempt at this rung would be too dear, beside those that were made; "" where it is not."""
        cost_max = self._route.cost_max
        cost = self._cost + sum(each.candidate.expected or 0 for each in self._running)
        if cost_max is None or not cost:
            return ""
        expected = self._survey.expected(index) or 0
        if cost + expected <= cost_max:
            return ""
        costs = f"its attempts cost {money_text(cost)} so far, one here is expected to cost {money_text(expected)}"
        return f"{costs}, cost_max is {money_text(cost_max)}"

    async def _after(self, ended: _Ended) -> Sequence[int]:
        """The rungs that may be tried after an attempt failed."""
        route, cause = self._route, ended.cause
        assert cause is not None
        self._survey.failed[ended.index] = cause
        order = next_after(
            route,
            ended.index,
            cause,
            roomier=self._survey.roomier(ended.index, ended.candidate) if cause == "context" else frozenset(),
        )
        order = tuple(index for index in order if index not in self._taken)
        if WAYS[cause] != "same" or self._attempts >= route.attempts_max or self._survey.has_model(order):
            return order
        wait_s = ended.candidate.retry_after_s()
        if wait_s is None:
            wait_s = backoff_s(self._attempts, self._draw())
        left = self._left_s()
        if (left is not None and wait_s >= left) or wait_s > _RETRY_WAIT_S_MAX or not self._retries.take():
            return order
        await asyncio.sleep(wait_s)
        self._again = True
        self._survey.forget(ended.index)
        return (ended.index, *order)

    # --- one attempt, or two ----------------------------------------------------------------------------------

    async def _attempt(self, index: int, chosen: Pick, order: Sequence[int]) -> _Ended:
        first = self._start(index, chosen, hedges=False)
        hedge = self._route.hedge
        hedge_s: float | None = None
        if hedge is not None:
            found = limit_ms(hedge.after, self._quantile(first.health, hedge.after))
            hedge_s = None if found is None else found / 1_000
        return await self._watch(first, hedge_s, [each for each in order if each > index])

    async def _watch(self, first: _Running, hedge_s: float | None, order: Sequence[int]) -> _Ended:
        loop = asyncio.get_running_loop()
        running = [first]
        last: _Ended | None = None
        while True:
            now_s = loop.time()
            waits = [left for each in running if (left := each.left_s(now_s)) is not None]
            if hedge_s is not None:
                waits.append(first.began_s + hedge_s - now_s)
            timeout = max(0.0, min(waits)) if waits else None
            await asyncio.wait([each.first for each in running], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if self._winner is not None:
                return await self._won(self._winner, running)
            over = [each for each in running if each.task.done()]
            running = [each for each in running if each not in over]
            found = [self._ended(each) for each in over]
            for ended in found:
                if ended.cause is None:
                    await self._stop(running, "another attempt was faster")
                    return ended
                self._survey.failed[ended.index] = ended.cause
                last = ended
            now_s = loop.time()
            late = next((each for each in running if (left := each.left_s(now_s)) is not None and left <= 0), None)
            if late is not None:  # one at a time: while it is settled, another may show something
                running.remove(late)
                last = await self._late(late)
                if running:
                    continue
            if not running:
                assert last is not None
                return last
            if hedge_s is not None and now_s >= first.began_s + hedge_s:
                hedge_s = None
                # What has not left yet waits for its budget, as a hedge would.
                if first.candidate.left and (other := self._hedge(order)) is not None:
                    running.append(other)

    def _start(self, index: int, chosen: Pick, *, hedges: bool) -> _Running:
        candidate, health = self._survey.candidate(index), self._survey.health_of(index)
        self._attempts += 1
        kind = "retry" if self._again else _kind(chosen, hedges=hedges)
        self._states.attempts[self._route.name, kind] += 1
        self._again = False
        self._taken.add(index)
        why = self._why(index, chosen, hedges=hedges)
        running = _Running(index, candidate, health, began_us=self._now_us(), limit_s=self._limit_s(index, health))
        health.sending(running.began_us, probe=chosen.probe)

        def shows() -> bool:
            if self._winner is None:
                self._winner = running
                running.shown = True
                running.ended(None)
            return self._winner is running

        running.task = asyncio.create_task(candidate.make(why, shows))
        running.task.add_done_callback(running.ended)
        self._running.add(running)
        return running

    def _hedge(self, order: Sequence[int]) -> _Running | None:
        models = [index for index in order if self._route.rungs[index].kind == "model" and index not in self._taken]
        chosen = self._survey.choose(models)
        index = chosen.index
        if index is None or chosen.panic or self._must_stop(index, chosen) or self._over_cost_max(index):
            return None
        if not self._hedges.take(self._survey.expected(index)):
            return None
        return self._start(index, chosen, hedges=True)

    async def _won(self, winner: _Running, running: Sequence[_Running]) -> _Ended:
        await self._stop([each for each in running if each is not winner], "another attempt was faster")
        await asyncio.wait([winner.task])
        ended = self._ended(winner)
        return _Ended(ended.index, ended.candidate, ended.done, ended.cause, shown=True)

    def _ended(self, running: _Running) -> _Ended:
        """What became of an attempt that has ended by itself. Passes on what it raised."""
        self._running.discard(running)
        candidate, health, now_us = running.candidate, running.health, self._now_us()
        done = running.task.result()
        if isinstance(done, Refused):
            health.gone(running.began_us)
            return _Ended(running.index, candidate, done, "budget" if done.refusal else None)
        cause = candidate.cause(done)
        attempt = done.attempt
        if attempt is not None:
            self._left += 1
            self._cost += attempt.charge.amount or 0
            self._hedges.spent(attempt.charge.amount or 0)
        if cause == "budget" or (attempt is not None and attempt.status in ("cancelled", "ended")):
            health.gone(running.began_us)
        else:
            wait_s = candidate.retry_after_s() if cause is not None else None
            health.ended(now_us, running.began_us, attempt, cause, retry_after_s=wait_s)
        # Passed over once its budget was looked at: nobody has refused anything that could be passed on.
        return _Ended(running.index, candidate, None if cause == "budget" else done, cause)

    async def _late(self, running: _Running) -> _Ended:
        """Leave an attempt that has shown nothing in its time."""
        cause: Cause = "first_token" if self._stream else "slow"
        assert running.limit_s is not None
        what = "nothing was shown" if self._stream else "no answer came"
        running.candidate.stopping(f"{what} within {running.limit_s * 1_000:.0f} ms")
        await self._stop([running])
        running.health.late(self._now_us(), running.began_us, cause, running.limit_s * 1_000, stream=self._stream)
        self._survey.failed[running.index] = cause
        return _Ended(running.index, running.candidate, None, cause)

    async def _stop(self, running: Sequence[_Running] | set[_Running], why: str = "it was left") -> None:
        """Cancel attempts and wait until they are settled."""
        stopped = tuple(running)
        for each in stopped:
            if not each.stopped:
                each.stopped = True
                each.candidate.stopping(why)
                each.task.cancel()
                each.health.gone(each.began_us)
        if not stopped:
            return
        # Whoever cancels us while we wait waits for the same in ``run``: no attempt is left behind unsettled.
        await asyncio.shield(asyncio.gather(*(each.task for each in stopped), return_exceptions=True))
        for each in stopped:
            self._running.discard(each)
            if each.candidate.left:
                self._left += 1
                self._cost += each.candidate.expected or 0

    # --- figures ----------------------------------------------------------------------------------------------

    def _left_s(self) -> float | None:
        if self._route.deadline_ms is None:
            return None
        return self._route.deadline_ms / 1_000 - (asyncio.get_running_loop().time() - self._began_s)

    def _quantile(self, health: TargetHealth, limit: Limit | None) -> float | None:
        if limit is None or limit.quantile is None:
            return None
        return (health.first_token if self._stream else health.total).quantile(limit.quantile)

    def _limit_s(self, index: int, health: TargetHealth) -> float | None:
        """How long this attempt may show nothing, or (a whole answer) take."""
        rung = self._route.rungs[index]
        said = rung.first_token if self._stream else rung.total
        rest = [
            each
            for each in range(index + 1, len(self._route.rungs))
            if self._route.rungs[each].kind in ("model", "stale")
        ]
        if said is not None and said.quantile is not None and not rest:
            said = None  # some are always slower than most: where there is nowhere to go, they are waited for
        found = limit_ms(said, self._quantile(health, said))
        if found is None and rest:
            least, most = _FIRST_TOKEN_MS if self._stream else _TOTAL_MS
            usual = limit_ms(_USUAL, self._quantile(health, _USUAL))
            found = float(most) if usual is None else min(max(usual, least), most)
        left = self._left_s()
        if left is None:
            return None if found is None else found / 1_000
        models = 1 + sum(self._route.rungs[each].kind == "model" for each in rest)
        share = max(left / models, 0.0)
        return share if found is None else min(found / 1_000, share)

    # --- how it ends ------------------------------------------------------------------------------------------

    def _answered(self, ended: _Ended) -> Climbed:
        return self._end(ended.index, by=ended.candidate, done=ended.done, cause=ended.cause)

    def _from_cache(self, index: int) -> Climbed:
        kept = self._kept
        tier: CacheTier = kept.tier if kept.fresh is not None else "stale"
        return self._end(index, kept=kept.fresh or kept.stale, tier=tier)

    def _nothing(self, wait_us: int) -> Climbed:
        """Nothing is left: the last provider's own error where there is one, a budget's refusal, or our own words."""
        last = self._last
        if last is not None and last.done is not None:
            return self._answered(last)
        return self._end(-1, cause=last.cause if last else None, reason=self._survey.reasons(), wait_us=wait_us)

    def _end(
        self,
        index: int,
        *,
        by: Candidate | None = None,
        done: Done | None = None,
        cause: Cause | None = None,
        kept: CacheEntry | None = None,
        tier: CacheTier | None = None,
        reason: str = "",
        wait_us: int = 0,
    ) -> Climbed:
        decision = ""
        if by is None:  # an attempt has its decision already
            verdict = "taken" if index >= 0 else "refused"
            decision = self._survey.decision(index, verdict, (), kept_tier=tier or "")
        return Climbed(
            rung=self._route.rungs[index].name if index >= 0 else "refused",
            decision=decision,
            serial=self._attempts + 1,
            number=self._left + 1,
            by=by,
            done=done,
            cause=cause,
            kept=kept,
            tier=tier,
            reason=reason,
            wait_us=wait_us,
            left_for=self._survey.left_for(),
            left_provider=self._survey.first_provider(),
        )

    def _why(self, index: int, chosen: Pick, *, hedges: bool) -> Why:
        verdict = _kind(chosen, hedges=hedges)
        rung = self._route.rungs[index]
        number = self._left + len(self._running) + 1
        decision = self._survey.decision(index, verdict, [each.index for each in self._running])
        return Why(self._attempts, number, rung.name, self._survey.left_for(), decision)


def _kind(chosen: Pick, *, hedges: bool) -> str:
    """What an attempt is, for decisions and counts."""
    return "panic" if chosen.panic else "probe" if chosen.probe else "hedge" if hedges else "taken"
