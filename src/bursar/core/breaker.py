"""A circuit breaker for one target: a provider's model, under one key, in one place.

Rule 1: it opens after ``in_a_row`` failures, when the share of failures in the window is too large (once there are enough
        calls), when first tokens come too late, or when what it delivers costs too much.
Rule 2: the longer it has been failing, the longer it stays open: the base time, half as long again with each time in a row that it opens,
        up to a limit, with jitter, so that many gateways do not come back at once (Envoy's outlier detection has the
        same shape: base ejection time x times ejected, capped).
Rule 3: where the provider says when to come again (Retry-After), that is when: not earlier, not later, and not longer the next time.
Rule 4: after its time one call is let through as a probe; the others go elsewhere until it has ended. A probe that is never
        heard of again frees its place after a while.
Rule 5: what began before it last opened says nothing of now: it neither opens nor closes it, and frees no probe's place.
Rule 6: time comes from outside, in microseconds; so does chance (``draw``, from 0 to 1).
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, TypeAlias

from .failures import Cause
from .money import NanoUSD, Rate
from .values import valueclass

__all__ = ["Breaker", "BreakerRules", "State", "Verdict"]

State: TypeAlias = Literal["closed", "probe", "open"]

_US: Final = 1_000_000
_MILLE: Final = 1_000
_JITTER: Final = 100  # thousandths
_RECENT_MAX: Final = 200
_FIRST_TOKENS_KEPT: Final = 32
_FIRST_TOKENS_MIN: Final = 10
_QUANTILE: Final = 950
_COSTS_KEPT: Final = 3
_COSTS_MIN: Final = 2
_PROBE_LEASE_US: Final = 120 * _US
_WELL_FACTOR: Final = 10


@valueclass
class BreakerRules:
    """When it opens. ``share`` is thousandths; ``cost_per_token`` nano-USD for each token of output that was delivered, failed
    attempts included. None: that is no reason."""

    in_a_row: int = 2
    share: int = 500
    calls_min: int = 20
    within_s: int = 60
    first_token_ms: int | None = None
    cost_per_call: NanoUSD | None = None
    cost_per_token: Rate | None = None
    open_s: int = 30
    open_s_max: int = 600


@valueclass
class Verdict:
    """Whether a call may go there now. ``why`` says in words why not, ``cause`` in one; ``until_us`` is when it will be tried again.
    ``exact``: the provider itself said so."""

    state: State
    why: str = ""
    until_us: int = 0
    exact: bool = False
    cause: Cause | None = None


_CLOSED: Final = Verdict("closed")


class Breaker:
    """The health of one target. Not shared between threads."""

    __slots__ = (
        "_costs", "_exact", "_failures", "_first_tokens", "_opened_us", "_probe_began_us", "_probe_until_us", "_recent",
        "_times", "_until_us", "_well_since_us", "_why", "cause", "opened", "rules",
    )  # fmt: skip

    def __init__(self, rules: BreakerRules) -> None:
        self.rules = rules
        self.opened = 0  # ever
        self.cause: Cause | None = None
        self._failures = 0
        self._times = 0  # that it opened of itself since it was last well for long
        self._recent: deque[tuple[int, bool]] = deque(maxlen=_RECENT_MAX)
        self._first_tokens: deque[float] = deque(maxlen=_FIRST_TOKENS_KEPT)
        self._costs: deque[tuple[int, int]] = deque(maxlen=_COSTS_KEPT)
        self._until_us = 0
        self._exact = False
        self._why = ""
        self._probe_began_us = 0
        self._probe_until_us = 0
        self._opened_us = 0
        self._well_since_us = 0

    def verdict(self, now_us: int) -> Verdict:
        if not self._until_us:
            return _CLOSED
        if now_us < self._until_us:
            return Verdict("open", self._why, self._until_us, self._exact, self.cause)
        if now_us < self._probe_until_us:
            return Verdict("open", f"{self._why}; it is being probed", self._probe_until_us, cause=self.cause)
        return Verdict("probe", self._why)

    def probing(self, now_us: int) -> None:
        """A call goes there as the probe."""
        self._probe_began_us = now_us
        self._probe_until_us = now_us + _PROBE_LEASE_US

    def unknown(self, began_us: int) -> None:
        """An attempt ended without telling anything: the client left, or a budget refused it. If it was the probe, another may go."""
        if began_us == self._probe_began_us:
            self._probe_until_us = 0

    def answered(
        self, now_us: int, began_us: int, *, first_token_ms: float | None, cost: int | None, tokens: int, draw: float
    ) -> None:
        """An attempt that was answered; ``cost`` None where it is not known. ``tokens`` are those of its output."""
        if began_us < self._opened_us:
            return
        self._failures = 0
        self._recent.append((now_us, True))
        if first_token_ms is not None:
            self._first_tokens.append(first_token_ms)
        if self._until_us:
            self._costs.clear()  # a probe is judged by itself: it is one call, and the answer is wanted now
        if cost is not None:
            self._costs.append((cost, tokens))
        found = self._too_dear() or self._too_slow()
        if found is not None:
            if now_us >= self._until_us:
                self._open(now_us, *found, draw)
            return
        if self._until_us:  # the probe, or one that was sent there for want of any other
            self._until_us = self._probe_until_us = 0
            self._well_since_us = now_us
            self.cause = None

    def failed(
        self,
        now_us: int,
        began_us: int,
        cause: Cause,
        *,
        cost: int | None,
        retry_after_s: float | None,
        draw: float,
    ) -> None:
        """An attempt that failed for a reason that counts."""
        if retry_after_s is not None and retry_after_s > 0:
            self._wait(now_us, cause, retry_after_s)
            return
        if began_us < self._opened_us or now_us < self._until_us:
            return  # it is open already
        self._failures += 1
        self._recent.append((now_us, False))
        if cost:
            self._costs.append((cost, 0))
        if self._until_us:
            self._open(now_us, cause, f"the probe failed ({cause})", draw)
        elif self._failures >= self.rules.in_a_row:
            self._open(now_us, cause, f"{self._failures} failures in a row, the last: {cause}", draw)
        elif (share := self._failed_share(now_us)) is not None and share >= self.rules.share:
            self._open(
                now_us, cause, f"{share / 10:.0f}% of the calls of the last {self.rules.within_s} s failed", draw
            )

    def _wait(self, now_us: int, cause: Cause, retry_after_s: float) -> None:
        until_us = now_us + round(retry_after_s * _US)
        if now_us >= self._until_us:
            self._opens(now_us)
        if until_us > self._until_us or not self._exact:
            self._until_us = until_us
            self._why = f"{cause}: it asked to be left alone for {retry_after_s:g} s"
        self._opened_us = now_us
        self._exact, self._probe_until_us, self.cause = True, 0, cause

    def _open(self, now_us: int, cause: Cause, why: str, draw: float) -> None:
        self._opens(now_us)
        rules, times = self.rules, min(self._times, 16)
        self._times += 1
        seconds = (
            min(rules.open_s * 3**times / 2**times, rules.open_s_max) * (_MILLE + _JITTER * (2 * draw - 1)) / _MILLE
        )
        self._until_us, self._opened_us = now_us + round(seconds * _US), now_us
        self._exact, self._probe_until_us = False, 0
        self._why, self.cause = why, cause

    def _opens(self, now_us: int) -> None:
        """Count it, and judge what comes after by itself."""
        if self._well_since_us and now_us - self._well_since_us > _WELL_FACTOR * self.rules.open_s * _US:
            self._times = 0
        self._well_since_us = 0
        self.opened += 1
        self._failures = 0
        self._recent.clear()
        self._first_tokens.clear()
        self._costs.clear()

    def _failed_share(self, now_us: int) -> int | None:
        since_us = now_us - self.rules.within_s * _US
        while self._recent and self._recent[0][0] < since_us:
            self._recent.popleft()
        if len(self._recent) < self.rules.calls_min:
            return None
        return sum(not well for _, well in self._recent) * 1_000 // len(self._recent)

    def _too_dear(self) -> tuple[Cause, str] | None:
        per_call, per_token = self.rules.cost_per_call, self.rules.cost_per_token
        if per_call is None and per_token is None:
            return None
        if len(self._costs) < (1 if self._until_us else _COSTS_MIN):
            return None
        cost, tokens = sum(cost for cost, _ in self._costs), sum(tokens for _, tokens in self._costs)
        if per_call is not None and cost > per_call * len(self._costs):
            return "cost", f"the last {len(self._costs)} calls cost more than cost_per_call allows"
        # What has no output (embeddings) has no cost for it.
        if per_token is not None and tokens and cost * per_token.denominator > per_token.numerator * tokens:
            return (
                "cost",
                f"the last {len(self._costs)} calls cost more for a token of output than cost_per_mtok allows",
            )
        return None

    def _too_slow(self) -> tuple[Cause, str] | None:
        limit = self.rules.first_token_ms
        if limit is None or len(self._first_tokens) < _FIRST_TOKENS_MIN:
            return None
        times = sorted(self._first_tokens)
        found = times[-(-_QUANTILE * len(times) // _MILLE) - 1]
        return (
            ("first_token", f"p95 to the first token is {found:.0f} ms, the limit {limit} ms")
            if found > limit
            else None
        )
