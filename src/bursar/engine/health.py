"""How the targets of routes are doing: their breakers, how long they take, and how much of what is sent to them is answered.

Rule 1: a target is a provider's model under one key in one place; routes with the same rules share its breaker.
Rule 2: only what a provider did counts against it: a budget's refusal, a client that left and a bad request do not.
Rule 3: it is bounded: of more than ``TARGETS_MAX`` targets the one not used for longest is forgotten.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from bursar.core.breaker import Breaker, BreakerRules, Verdict
from bursar.core.failures import COUNTED, Cause
from bursar.core.ledger import Attempt
from bursar.core.retries import Throttle
from bursar.learn.latencies import Latencies

__all__ = ["TARGETS_MAX", "Health", "Target", "TargetHealth"]

_log = logging.getLogger("bursar.routes")

TARGETS_MAX: Final = 5_000


class Target(NamedTuple):
    """``key`` is a digest of the key that is used, ``place`` the host."""

    provider: str
    model: str
    key: str
    place: str


class TargetHealth:
    """One target under one set of rules."""

    __slots__ = ("_draw", "_opened", "breaker", "first_token", "target", "throttle", "total")

    def __init__(
        self, target: Target, rules: BreakerRules, draw: Callable[[], float], opened: Callable[[Target, Cause], None]
    ) -> None:
        self.target = target
        self.breaker = Breaker(rules)
        self.first_token = Latencies()
        self.total = Latencies()
        self.throttle = Throttle()
        self._draw = draw
        self._opened = opened

    def verdict(self, now_us: int) -> Verdict:
        return self.breaker.verdict(now_us)

    def sending(self, now_us: int, *, probe: bool) -> None:
        if probe:
            self.breaker.probing(now_us)
        self.throttle.sent(now_us)

    def ended(
        self, now_us: int, began_us: int, attempt: Attempt | None, cause: Cause | None, *, retry_after_s: float | None
    ) -> None:
        """What became of an attempt; None where it never left. ``cause`` None: it was answered. ``began_us`` is the time at
        which ``sending`` was told of it."""
        before = self.breaker.opened
        cost = attempt.charge.amount if attempt else None
        usage = attempt.charge.usage if attempt else None
        if cause is None and attempt is not None:
            self.throttle.answered(now_us)
            self._took(attempt)
            self.breaker.answered(
                now_us,
                began_us,
                first_token_ms=attempt.first_token_ms,
                cost=cost,
                tokens=usage.output_tokens if usage else 0,
                draw=self._draw(),
            )
        elif cause in COUNTED:
            self.breaker.failed(now_us, began_us, cause, cost=cost, retry_after_s=retry_after_s, draw=self._draw())
        else:  # refused, as anybody would have been: it is there, and that is all a probe wants to know
            self.throttle.answered(now_us)
            self.breaker.unknown(began_us)
        self._tell(before, now_us)

    def _tell(self, before: int, now_us: int) -> None:
        if self.breaker.opened > before and self.breaker.cause is not None:
            _log.warning(
                "%s %s is left alone: %s", self.target.provider, self.target.model, self.breaker.verdict(now_us).why
            )
            self._opened(self.target, self.breaker.cause)

    def late(self, now_us: int, began_us: int, cause: Cause, elapsed_ms: float, *, stream: bool) -> None:
        """It was left because it had shown nothing for so long."""
        before = self.breaker.opened
        (self.first_token if stream else self.total).add(elapsed_ms)
        self.breaker.failed(now_us, began_us, cause, cost=None, retry_after_s=None, draw=self._draw())
        self._tell(before, now_us)

    def gone(self, began_us: int) -> None:
        """The client left, or a budget refused: nothing is learned."""
        self.breaker.unknown(began_us)

    def _took(self, attempt: Attempt) -> None:
        if attempt.latency_ms is None:
            return
        if attempt.opening.stream:
            self.first_token.add(attempt.first_token_ms if attempt.first_token_ms is not None else attempt.latency_ms)
        else:
            self.total.add(attempt.latency_ms)


class Health:
    """All targets of one process. ``draw`` gives a number from 0 to 1; ``opened`` is told of every breaker that opens."""

    def __init__(
        self, draw: Callable[[], float], opened: Callable[[Target, Cause], None] = lambda _target, _cause: None
    ) -> None:
        self._draw = draw
        self._opened = opened
        self._targets: OrderedDict[tuple[Target, BreakerRules], TargetHealth] = OrderedDict()

    def of(self, target: Target, rules: BreakerRules) -> TargetHealth:
        found = self._targets.get((target, rules))
        if found is None:
            if len(self._targets) >= TARGETS_MAX:
                self._targets.popitem(last=False)
            found = self._targets[target, rules] = TargetHealth(target, rules, self._draw, self._opened)
        else:
            self._targets.move_to_end((target, rules))
        return found

    def __iter__(self) -> Iterator[TargetHealth]:
        return iter(tuple(self._targets.values()))
