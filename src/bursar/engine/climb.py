"""Takes a call up the rungs of its route: the order of I/O, with what ``core.routes`` decides.

Rule 1: every attempt is a call of its own through the states of ``core.call``: held before, settled after, whatever becomes of it.
Rule 2: as long as the client has seen nothing, an attempt may be left for the next rung; after that only where the route lets
        another one go on with the answer. The first attempt that shows something
        has the client to itself: all others are cancelled and settled.
Rule 3: there is no waiting while another rung is there. Where there is none, the same is tried again within the retry budget.
Rule 4: the time that is left is split over the rungs that are left; one that shows nothing in its time is left. That time counts
        from when it left for its provider: an attempt that waits for its budget says nothing of anybody.
Rule 5: an answer is passed on, or an error as the provider said it, or a refusal that names every rung and why: one of them.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from bursar.core.alert_text import money_text
from bursar.core.caching import CacheEntry, CacheTier
from bursar.core.call import Done, Refused, Settled
from bursar.core.failures import WAYS, Cause
from bursar.core.retries import HedgeBudget, RetryBudget, backoff_s
from bursar.core.routes import Limit, Pick, Route, limit_ms, next_after
from bursar.core.values import valueclass

from .health import Health, TargetHealth
from .ports import ClientGoneError
from .survey import Barred, Candidate, Candidates, Kept, Survey, Why

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
    what is answered from the cache. Neither: nothing could be done, ``reason`` says why; ``wait_us`` is when to come again, ``waited``
    that it waited for its budget until the deadline, ``barred`` that there is no use in it, and ``done`` a budget's refusal. ``left_for`` is why the first rung, which is at ``left_provider``, does not answer, "" where it
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
    waited: bool = False
    barred: Barred | None = None
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
    """An attempt under way. It may take ``limit_s`` from when it left, and of what is left of ``deadline_s`` then the share that
    ``models`` rungs leave it; both None: as long as it likes."""

    __slots__ = (
        "began_us", "candidate", "deadline_s", "health", "index", "left_s", "limit_s", "models", "number", "stopped", "task",
    )  # fmt: skip

    def __init__(
        self, index: int, candidate: Candidate, health: TargetHealth, *, began_us: int, number: int, models: int
    ) -> None:
        self.index = index
        self.candidate = candidate
        self.health = health
        self.began_us = began_us
        self.number = number
        self.models = models
        self.limit_s: float | None = None
        self.deadline_s: float | None = None
        self.left_s: float | None = None
        self.stopped = False
        self.task: asyncio.Task[Done]

    def due_s(self) -> float | None:
        """When it is late (the loop's time), None where it cannot be: there is no limit, or its answer has come already."""
        if self.candidate.replied:
            return None
        if self.left_s is None:  # it waits for its budget, which the books limit too
            return self.deadline_s
        allowed_s = self.allowed_s(self.left_s)
        return None if allowed_s is None else self.left_s + allowed_s

    def allowed_s(self, left_s: float) -> float | None:
        """How long it may show nothing, having left then."""
        if self.deadline_s is None:
            return self.limit_s
        share_s = (self.deadline_s - left_s) / self.models
        return share_s if self.limit_s is None else min(self.limit_s, share_s)


@valueclass
class _Ended:
    index: int
    candidate: Candidate
    done: Done | None
    cause: Cause | None
    shown: bool = False


class Climb:
    """One call. ``draw`` gives numbers from 0 to 1, ``now_us`` microseconds since 1970. ``spent_s`` is how long ago the call began,
    ``gone`` whether the client has left: then no further attempt is made."""

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
        spent_s: float = 0,
        gone: Callable[[], Awaitable[bool]] | None = None,
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
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._deadline_s = (
            None if route.deadline_ms is None else self._loop.time() + route.deadline_ms / 1_000 - spent_s
        )
        self._woken: asyncio.Future[None] | None = None
        self._taken: set[int] = set()
        self._winner: _Running | None = None
        self._running: set[_Running] = set()
        self._serial = 0
        self._unasked = 0  # of them, those that nobody was asked for: a budget passed them over
        self._numbers: set[int] = set()  # of attempts that left, or may
        self._cost = 0
        self._last: _Ended | None = None
        self._waited = False  # an attempt waited for its budget until the deadline
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
                if rung.kind == "stale" or (rung.kind == "cached" and self._fresh() is not None):
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
                if self._serial and self._gone is not None and await self._gone():
                    raise ClientGoneError
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
        if self._asked >= route.attempts_max:
            return f"{self._asked} attempts were made, attempts is {route.attempts_max}"
        left = self._left_s()
        if left is not None and left <= 0:
            return f"the deadline of {route.deadline_ms} ms is over"
        if chosen.panic:
            health = self._survey.health_of(index)
            if not health.throttle.admits(self._now_us(), self._draw()):
                return f"{health.verdict(self._now_us()).why}; nothing else is left, and most calls to it fail"
            if self._asked and not self._again and not self._retries.take():
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
        if WAYS[cause] != "same" or self._asked >= route.attempts_max or self._survey.has_model(order):
            return order
        wait_s = ended.candidate.retry_after_s()
        if wait_s is None:
            wait_s = backoff_s(self._asked, self._draw())
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
        running = [first]
        last: _Ended | None = None
        while True:
            dues = [due_s for each in running if (due_s := each.due_s()) is not None]
            if hedge_s is not None and first.left_s is not None and not first.candidate.replied:
                dues.append(first.left_s + hedge_s)
            await self._wait(min(dues) if dues else None)
            if self._winner is not None:
                return await self._won(self._winner, running)
            over = [each for each in running if each.task.done()]
            running = [each for each in running if each not in over]
            found = [self._ended(each) for each in over]
            for ended in found:
                last = ended
                if ended.cause is not None:
                    self._survey.failed[ended.index] = ended.cause
                elif running and isinstance(ended.done, Refused):
                    continue  # the books could not hold it; another is under way
                else:
                    await self._stop(running, "another attempt was faster")
                    return ended
            now_s = self._loop.time()
            late = next((each for each in running if (due_s := each.due_s()) is not None and due_s <= now_s), None)
            if late is not None:  # one at a time: while it is settled, another may show something
                running.remove(late)
                last = await self._late(late)
                if running:
                    continue
            if not running:
                assert last is not None
                return last
            if hedge_s is not None and first.left_s is not None and now_s >= first.left_s + hedge_s:
                hedge_s = None
                if first in running and not first.candidate.replied and (other := self._hedge(order)) is not None:
                    running.append(other)

    async def _wait(self, until_s: float | None) -> None:
        """Until something became of an attempt, or the loop's time is that."""
        if self._winner is not None or any(each.task.done() for each in self._running):
            return
        self._woken = self._loop.create_future()
        timer = None if until_s is None else self._loop.call_at(until_s, self._wake)
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self, _task: object = None) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _start(self, index: int, chosen: Pick, *, hedges: bool) -> _Running:
        candidate, health = self._survey.candidate(index), self._survey.health_of(index)
        self._serial += 1
        kind = "retry" if self._again else _kind(chosen, hedges=hedges)
        self._states.attempts[self._route.name, kind] += 1
        self._again = False
        self._taken.add(index)
        number = self._next_number()
        why = self._why(index, chosen, number, hedges=hedges)
        rest = self._rest(index)
        models = 1 + sum(self._route.rungs[each].kind == "model" for each in rest)
        running = _Running(index, candidate, health, began_us=self._now_us(), number=number, models=models)
        running.limit_s, running.deadline_s = self._limit_s(index, health, rest), self._deadline_s
        self._numbers.add(number)
        health.sending(running.began_us, probe=chosen.probe)

        def leaves() -> None:
            running.left_s = self._loop.time()
            self._wake()

        def shows() -> bool:
            if self._winner is None:
                self._winner = running
                self._wake()
            return self._winner is running

        running.task = self._loop.create_task(candidate.make(why, leaves, shows))
        running.task.add_done_callback(self._wake)
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
        try:
            await asyncio.wait([winner.task])
        except asyncio.CancelledError:
            # The client left. If all of the answer had come by then, it is one.
            winner.candidate.stopping("it was left", failed=False)
            winner.task.cancel()
            await asyncio.wait([winner.task])
            done = None if winner.task.cancelled() or winner.task.exception() is not None else winner.task.result()
            if not isinstance(done, Settled) or done.attempt is None or done.attempt.status != "ok":
                raise
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        ended = self._ended(winner)
        return _Ended(ended.index, ended.candidate, ended.done, ended.cause, shown=True)

    def _ended(self, running: _Running) -> _Ended:
        """What became of an attempt that has ended by itself. Passes on what it raised."""
        self._running.discard(running)
        candidate, health, now_us = running.candidate, running.health, self._now_us()
        try:
            done = running.task.result()
        except BaseException:
            health.gone(running.began_us)
            raise
        attempt = None if isinstance(done, Refused) else done.attempt
        if attempt is None:
            self._numbers.discard(running.number)
        if isinstance(done, Refused):
            health.gone(running.began_us)
            return _Ended(running.index, candidate, done, "budget" if done.refusal else None)
        cause = candidate.cause(done)
        if cause == "budget":
            self._unasked += 1
            self._survey.passed[running.index] = candidate.passed_over
        if attempt is not None:
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
        cause: Cause = "budget" if running.left_s is None else "first_token" if self._stream else "slow"
        if running.left_s is None:
            self._waited = True
            self._survey.passed[running.index] = (
                f"it waited for its budget until the deadline of {self._route.deadline_ms} ms"
            )
            await self._stop([running])
        else:
            allowed_s = running.allowed_s(running.left_s)
            assert allowed_s is not None
            elapsed_ms = allowed_s * 1_000
            what = "nothing was shown" if self._stream else "no answer came"
            running.candidate.stopping(f"{what} within {elapsed_ms:.0f} ms", failed=True)
            await self._stop([running])
            running.health.late(self._now_us(), running.began_us, cause, elapsed_ms, stream=self._stream)
        self._survey.failed[running.index] = cause
        return _Ended(running.index, running.candidate, None, cause)

    async def _stop(self, running: Sequence[_Running] | set[_Running], why: str = "it was left") -> None:
        """Cancel attempts and wait until they are settled."""
        stopped = tuple(running)
        for each in stopped:
            if not each.stopped:
                each.stopped = True
                each.candidate.stopping(why, failed=False)
                each.task.cancel()
                each.health.gone(each.began_us)
        if not stopped:
            return
        # Whoever cancels us while we wait waits for the same in ``run``: no attempt is left behind unsettled.
        await asyncio.shield(asyncio.gather(*(each.task for each in stopped), return_exceptions=True))
        for each in stopped:
            self._running.discard(each)
            if each.candidate.left:
                self._cost += each.candidate.expected or 0
            else:
                self._numbers.discard(each.number)

    # --- figures ----------------------------------------------------------------------------------------------

    @property
    def _asked(self) -> int:
        """How many attempts were made, without those that a budget passed over."""
        return self._serial - self._unasked

    def _next_number(self) -> int:
        return next(number for number in itertools.count(1) if number not in self._numbers)

    def _left_s(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - self._loop.time()

    def _quantile(self, health: TargetHealth, limit: Limit | None) -> float | None:
        if limit is None or limit.quantile is None:
            return None
        return (health.first_token if self._stream else health.total).quantile(limit.quantile)

    def _rest(self, index: int) -> list[int]:
        """The rungs after this one that could still answer."""
        rungs = self._route.rungs
        return [each for each in range(index + 1, len(rungs)) if rungs[each].kind in ("model", "stale")]

    def _limit_s(self, index: int, health: TargetHealth, rest: Sequence[int]) -> float | None:
        """How long this attempt may show nothing, or (a whole answer) take, whatever the deadline."""
        rung = self._route.rungs[index]
        said = rung.first_token if self._stream else rung.total
        if said is not None and said.quantile is not None and not rest:
            said = None  # some are always slower than most: where there is nowhere to go, they are waited for
        found = limit_ms(said, self._quantile(health, said))
        if found is None and rest:
            least, most = _FIRST_TOKEN_MS if self._stream else _TOTAL_MS
            usual = limit_ms(_USUAL, self._quantile(health, _USUAL))
            found = float(most) if usual is None else min(max(usual, least), most)
        return None if found is None else found / 1_000

    # --- how it ends ------------------------------------------------------------------------------------------

    def _answered(self, ended: _Ended) -> Climbed:
        return self._end(ended.index, by=ended.candidate, done=ended.done, cause=ended.cause)

    def _fresh(self) -> CacheEntry | None:
        """What is fresh by now: the attempts before it may have taken their time."""
        fresh = self._kept.fresh
        return fresh if fresh is not None and fresh.is_fresh(self._now_us()) else None

    def _from_cache(self, index: int) -> Climbed:
        fresh = self._fresh()
        if fresh is not None:
            return self._end(index, kept=fresh, tier=self._kept.tier)
        return self._end(index, kept=self._kept.stale or self._kept.fresh, tier="stale")

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
            serial=self._serial + 1,
            number=self._next_number(),
            by=by,
            done=done,
            cause=cause,
            kept=kept,
            tier=tier,
            reason=reason,
            wait_us=wait_us,
            waited=self._waited,
            barred=self._survey.barred() if by is None and kept is None else None,
            left_for=self._survey.left_for(),
            left_provider=self._survey.first_provider(),
        )

    def _why(self, index: int, chosen: Pick, number: int, *, hedges: bool) -> Why:
        verdict = _kind(chosen, hedges=hedges)
        rung = self._route.rungs[index]
        decision = self._survey.decision(index, verdict, [each.index for each in self._running], hedges=hedges)
        return Why(self._serial, number, rung.name, self._survey.left_for(), decision)


def _kind(chosen: Pick, *, hedges: bool) -> str:
    """What an attempt is, for decisions and counts."""
    return "panic" if chosen.panic else "probe" if chosen.probe else "hedge" if hedges else "taken"
