"""How much may be tried again, and how much may be spent on not waiting.

Rule 1: a retry is an attempt at a target that has just failed, or that is known to fail: it is what makes an outage worse.
        An attempt at another, healthy target is none.
Rule 2: retries are at most a share of requests (``RetryBudget``): each request pays in its share, each retry takes one out.
        Google's SRE book, "Handling Overload", has the same 10 %.
Rule 3: hedges are at most a share of what is spent (``HedgeBudget``), in money: a hedge of a dear call is dearer.
Rule 4: waiting before a retry grows and is drawn at random up to its limit ("full jitter"); what the provider asks for wins.
"""

from __future__ import annotations

from typing import Final

__all__ = ["HedgeBudget", "RetryBudget", "Throttle", "backoff_s"]

_MILLI: Final = 1_000
_BURST: Final = 10
_BACKOFF_MS: Final = 250
_BACKOFF_MS_MAX: Final = 8_000
_HALF_US: Final = 60_000_000


class RetryBudget:
    """One per route. ``share`` is thousandths of requests. It begins with one retry, and saves up at most ten."""

    __slots__ = ("_left", "_share")

    def __init__(self, share: int) -> None:
        self._share = share
        self._left = _MILLI if share else 0

    def requested(self) -> None:
        self._left = min(self._left + self._share, _BURST * _MILLI)

    def take(self) -> bool:
        """Whether one more may be made."""
        if self._left < _MILLI:
            return False
        self._left -= _MILLI
        return True


class HedgeBudget:
    """One per route. ``share`` is thousandths of spend; it saves up what 1,000 calls like the last ones pay in."""

    __slots__ = ("_left", "_share")

    def __init__(self, share: int) -> None:
        self._share = share
        self._left = 0

    def spent(self, cost: int) -> None:
        paid = cost * self._share // _MILLI
        self._left = min(self._left + paid, max(self._left, paid * _MILLI))

    def take(self, cost: int | None) -> bool:
        """Whether a hedge that is expected to cost so much may be made. What costs nobody knows how much may not."""
        if cost is None or cost > self._left:
            return False
        self._left -= cost
        return True


def backoff_s(retry: int, draw: float) -> float:
    """Seconds before the retry of this number, from 1; ``draw`` is from 0 to 1."""
    return draw * min(_BACKOFF_MS * 2 ** (retry - 1), _BACKOFF_MS_MAX) / _MILLI


class Throttle:
    """How much of what is sent to one target is answered, for when there is nobody else to send to.

    A call is held back with probability max(0, (sent - 2 answered) / (sent + 1)) over the last two minutes (Google, "Site
    Reliability Engineering", Handling Overload, client-side throttling): nothing while at least half is answered, nearly all
    in an outage, and some always go through, by which its end is found out.
    """

    __slots__ = ("_answered", "_began_us", "_sent")

    def __init__(self) -> None:
        self._began_us = 0
        self._sent = [0, 0]
        self._answered = [0, 0]

    def sent(self, now_us: int) -> None:
        self._turn(now_us)
        self._sent[0] += 1

    def answered(self, now_us: int) -> None:
        self._turn(now_us)
        self._answered[0] += 1

    def admits(self, now_us: int, draw: float) -> bool:
        self._turn(now_us)
        sent, answered = sum(self._sent), sum(self._answered)
        return draw >= (sent - 2 * answered) / (sent + 1)

    def _turn(self, now_us: int) -> None:
        if now_us - self._began_us < _HALF_US:
            return
        gone = now_us - self._began_us >= 2 * _HALF_US
        self._sent = [0, 0 if gone else self._sent[0]]
        self._answered = [0, 0 if gone else self._answered[0]]
        self._began_us = now_us
