"""What came of sending a notice, and when to try again. No I/O, no clock, no randomness.

Rule 1: a delivery is tried until the channel takes it, refuses it for good, or ``ATTEMPTS_MAX`` attempts have failed;
        then it is a dead letter, which people see and may put back.
Rule 2: the wait doubles with each failure up to ``WAIT_US_MAX``. It is lengthened by up to a quarter, drawn from a seed,
        so that what failed together is not tried together.
Rule 3: a receiver that says when to come back is not asked earlier; it cannot put us off for more than ``RETRY_AFTER_S_MAX``.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, Literal, TypeAlias

from .values import valueclass

__all__ = [
    "ATTEMPTS_MAX",
    "RETRY_AFTER_S_MAX",
    "WAIT_US_MAX",
    "DeliveryState",
    "NotSent",
    "Outcome",
    "Sent",
    "next_try",
    "notice_id",
]

DeliveryState: TypeAlias = Literal["pending", "sent", "dead"]

ATTEMPTS_MAX: Final = 12
"""With the waits below, the last attempt is four to five hours after the first."""
RETRY_AFTER_S_MAX: Final = 6 * 3_600
WAIT_US_MAX: Final = 3_600_000_000
_WAIT_US: Final = 15_000_000


@valueclass
class Sent:
    """The channel took it."""


@valueclass
class NotSent:
    """It did not, and why: without any secret. ``retry`` False: asking again would get the same answer."""

    reason: str
    retry: bool = True
    after_s: int = 0


Outcome: TypeAlias = Sent | NotSent


def next_try(failed: NotSent, *, attempts: int, now_us: int, seed: int) -> int | None:
    """When to send again after ``attempts`` failed attempts, None when it has become a dead letter."""
    assert attempts >= 1
    if not failed.retry or attempts >= ATTEMPTS_MAX:
        return None
    wait = min(_WAIT_US << (attempts - 1), WAIT_US_MAX)
    drawn = int.from_bytes(blake2b(f"{seed}:{attempts}".encode(), digest_size=8).digest(), "big")
    wait += drawn % (wait // 4)
    return now_us + max(wait, min(failed.after_s, RETRY_AFTER_S_MAX) * 1_000_000)


def notice_id(key: str, fired_us: int, event: str) -> str:
    """The id of a notice: the same however often it is sent, another one for every firing and every resolution."""
    return blake2b(f"{key}\n{fired_us}\n{event}".encode(), digest_size=16).hexdigest()
