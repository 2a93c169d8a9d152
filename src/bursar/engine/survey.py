"""What a call knows of the rungs of its route: how each stands, what became of it, and the decision that is stored of it.

Rule 1: a rung is looked at when it is its turn, and no sooner: what is never needed costs nothing.
Rule 2: the decision holds everything the choice was made of: every rung with its verdict and why, its breaker, its expected
        price, and what the cache said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from bursar.core.breaker import Verdict
from bursar.core.caching import CacheEntry, CacheTier
from bursar.core.call import Done, Settled
from bursar.core.failures import Cause
from bursar.core.money import NanoUSD
from bursar.core.routes import Pick, Route, RouteRung, Standing, pick
from bursar.core.values import valueclass

from .health import Health, Target, TargetHealth

__all__ = ["Barred", "Candidate", "Candidates", "Kept", "Survey", "Why"]

_NO_VERDICT: Final = Verdict("closed")
_encode: Final = msgspec.json.Encoder().encode


@valueclass
class Kept:
    """What the response cache has for a call: a fresh entry with its tier, and one that is only good for want of another.
    ``said`` is for the decision."""

    fresh: CacheEntry | None
    tier: CacheTier
    stale: CacheEntry | None
    said: Mapping[str, Any]


@valueclass
class Why:
    """What the door writes into the attempt's opening. ``serial`` counts the attempts of the call, ``number`` those that left."""

    serial: int
    number: int
    rung: str
    cause: str
    decision: str


@valueclass
class Barred:
    """Why a rung cannot take a call at all. ``by_request``: for what the request asks, and not for something that we lack."""

    why: str
    by_request: bool = False


class Candidate(Protocol):
    """One attempt that a door could make."""

    @property
    def target(self) -> Target: ...

    @property
    def expected(self) -> NanoUSD | None:
        """What it is expected to cost."""
        ...

    @property
    def context_window(self) -> int | None: ...

    async def make(self, why: Why, leaves: Callable[[], None], shows: Callable[[], bool]) -> Done:
        """Hold, send, settle. ``leaves`` is called when its budgets have let it go, ``shows`` once, before the client sees the
        first of it; False: it must not."""
        ...

    @property
    def left(self) -> bool:
        """Whether it has left for its provider, of one that was cancelled."""
        ...

    @property
    def replied(self) -> bool:
        """Whether all of its answer, or of its failure, is there: it is only being settled."""
        ...

    def cause(self, done: Settled) -> Cause | None:
        """Why it is no answer."""
        ...

    def retry_after_s(self) -> float | None: ...

    @property
    def passed_over(self) -> str:
        """Why it was not made after all once its budgets were looked at, "" where it was."""
        ...

    def goes_on(self) -> bool:
        """Whether another attempt could go on with the answer of which the client has seen a part."""
        ...

    def stopping(self, reason: str, *, failed: bool) -> None:
        """It is about to be cancelled by us, for this reason. ``failed``: its provider took too long."""
        ...


class Candidates(Protocol):
    """The rungs of a route as attempts of one call."""

    @property
    def asked(self) -> str:
        """The operation that the client asked for: an attempt's may be another one's dialect."""
        ...

    def ready(self, index: int) -> Candidate | Barred:
        """The attempt, or why there is none."""
        ...


class Survey:
    """One call's knowledge of its rungs. ``passed`` and ``failed`` say why, by the rung's place on the route."""

    def __init__(
        self, route: Route, candidates: Candidates, health: Health, kept: Kept, now_us: Callable[[], int]
    ) -> None:
        self._route = route
        self._candidates = candidates
        self._health = health
        self._kept = kept
        self._now_us = now_us
        self._ready: dict[int, Candidate | Barred] = {}
        self._standings: dict[int, Standing] = {}
        self._causes: frozenset[Cause] = frozenset()
        self.passed: dict[int, str] = {}
        self.failed: dict[int, Cause] = {}
        self.first_cause = ""
        """Why the first attempt that failed did."""

    # --- how rungs stand --------------------------------------------------------------------------------------

    def choose(self, order: Sequence[int]) -> Pick:
        """The rung to take now, of these."""
        now_us = self._now_us()

        def standing_of(index: int) -> Standing:
            found = self._standings[index] = self._standing(index, self._route.rungs[index], now_us)
            return found

        has_stale = self._kept.stale is not None or self._kept.fresh is not None
        found = pick(
            self._route, order, standing_of, has_stale=has_stale, causes=self._causes.union(self.failed.values())
        )
        self._causes = found.causes
        return found

    def has_model(self, order: Sequence[int]) -> bool:
        """Whether a model of these could be asked now."""
        found = self.choose([index for index in order if self._route.rungs[index].kind == "model"])
        return found.index is not None and not found.panic

    def roomier(self, at: int, than: Candidate) -> frozenset[int]:
        """The rungs after ``at`` whose context window is known to be larger than this one's."""
        window = than.context_window
        found: set[int] = set()
        for after in range(at + 1, len(self._route.rungs)):
            if self._route.rungs[after].kind == "model":
                self._standing(after, self._route.rungs[after], self._now_us())
                other = self._ready[after]
                if window is not None and not isinstance(other, Barred) and (other.context_window or 0) > window:
                    found.add(after)
        return frozenset(found)

    def _standing(self, index: int, rung: RouteRung, now_us: int) -> Standing:
        ready = self._ready.get(index)
        if ready is None:
            ready = self._ready[index] = self._candidates.ready(index)
        if isinstance(ready, Barred):
            return Standing(_NO_VERDICT, barred=ready.why)
        verdict = self._health.of(ready.target, rung.breaker).verdict(now_us)
        return Standing(verdict, expected=ready.expected)

    def candidate(self, index: int) -> Candidate:
        """The attempt that this rung would be. It was chosen: it can take the call."""
        ready = self._ready[index]
        assert not isinstance(ready, Barred)
        return ready

    def expected(self, index: int) -> NanoUSD | None:
        return self._standings[index].expected

    def forget(self, index: int | None = None) -> None:
        """A rung, or every one, is made ready anew: what is sent is something else now."""
        if index is None:
            self._ready.clear()
        else:
            self._ready.pop(index, None)

    def health_of(self, index: int) -> TargetHealth:
        return self._health.of(self.candidate(index).target, self._route.rungs[index].breaker)

    # --- what is said of them ---------------------------------------------------------------------------------

    def left_for(self) -> str:
        """Why the first rung does not answer: its failure, its open breaker, or that it cannot take the call."""
        if self.first_cause:
            return self.first_cause
        first = self._first_model()
        if first not in self.passed:
            return ""
        standing = self._standings.get(first)
        return "open" if standing is not None and standing.verdict.state == "open" else "barred"

    def _first_model(self) -> int:
        return next((index for index, rung in enumerate(self._route.rungs) if rung.kind == "model"), -1)

    def first_provider(self) -> str:
        """Whose the first model is, "" where that is not known."""
        ready = self._ready.get(self._first_model())
        return "" if ready is None or isinstance(ready, Barred) else ready.target.provider

    def barred(self) -> Barred | None:
        """Why no model of the route can take this call, now or later; None where one could."""
        models = [index for index, rung in enumerate(self._route.rungs) if rung.kind == "model"]
        found = [ready for index in models if isinstance(ready := self._ready.get(index), Barred)]
        if not found or len(found) < len(models):
            return None
        return next((each for each in found if each.by_request), found[0])

    def reasons(self) -> str:
        """Why no rung is left, for people."""
        reasons: list[str] = []
        for index, rung in enumerate(self._route.rungs):
            why = self.passed.get(index) or (f"failed: {self.failed[index]}" if index in self.failed else "")
            if why:
                reasons.append(f"{_named(rung)}: {why}")
        return "; ".join(reasons)

    def decision(
        self, taken: int, verdict: str, running: Collection[int], *, kept_tier: str = "", hedges: bool = False
    ) -> str:
        """Everything the choice was made of, as JSON. ``hedges``: that is why, also where it is a probe, too."""
        candidates: list[dict[str, Any]] = []
        for index, rung in enumerate(self._route.rungs):
            found: dict[str, Any] = {"rung": rung.name}
            ready = self._ready.get(index)
            if ready is not None and not isinstance(ready, Barred):
                found |= {"provider": ready.target.provider, "model": ready.target.model}
            elif rung.provider:
                found |= {"provider": rung.provider, "model": rung.model}
            standing = self._standings.get(index)
            if standing is not None:
                found["breaker"] = standing.verdict.state
                if standing.expected is not None:
                    found["expected_nanousd"] = standing.expected
            if index == taken:
                found["verdict"] = verdict
            elif index in running:
                found["verdict"] = "running"
            elif index in self.failed:
                found |= {"verdict": "failed", "why": self.failed[index]}
            elif index in self.passed:
                found |= {"verdict": "passed", "why": self.passed[index]}
            elif index < taken and rung.when and rung.when.isdisjoint(self.failed.values()):
                found |= {"verdict": "passed", "why": f"only for {', '.join(sorted(rung.when))}"}
            else:
                found["verdict"] = "not tried" if index < taken else "not needed"
            candidates.append(found)
        rung = self._route.rungs[taken].name if taken >= 0 else "refused"
        decision = {
            "rung": rung,
            "why": "hedge" if hedges else self._reason(taken, verdict),
            "route": self._route.name,
            "asked": self._candidates.asked,
            "candidates": candidates,
            "propensity": 1,
            "cache": {**self._kept.said, "tier": kept_tier} if kept_tier else self._kept.said,
        }
        return _encode(decision).decode()

    def _reason(self, taken: int, verdict: str) -> str:
        if verdict in ("panic", "probe", "refused"):
            return verdict
        if taken in self.failed:
            return f"retry: it failed before: {self.failed[taken]}"
        if failed := [index for index in self.failed if index < taken]:
            return f"the rung before it failed: {self.failed[max(failed)]}"
        passed = [f"{_named(self._route.rungs[index])}: {why}" for index, why in self.passed.items() if index < taken]
        return f"passed over {'; '.join(passed)}" if passed else "asked"


def _named(rung: RouteRung) -> str:
    return f"{rung.name} ({rung.provider}/{rung.model})" if rung.provider else rung.name
