"""Why an attempt did not answer, and what may be tried then. No I/O.

Rule 1: every cause has one way out (``WAYS``): the same again, elsewhere, or never, because every other would refuse it too.
Rule 2: a budget's refusal is no failure of a provider, and neither is a request that cannot be: they count against nobody.
Rule 3: a cause that says "wait" says how long; that is kept exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, get_args

__all__ = ["CAUSES", "COUNTED", "WAYS", "Cause", "Way"]

Cause: TypeAlias = Literal[
    "connect", "cut", "timeout", "first_token", "slow", "rate_limit", "overload", "server", "quota", "invalid", "model",
    "auth", "context", "content_policy", "request", "budget", "cost",
]  # fmt: skip
"""``connect``: it provably never left. ``cut``: broken off before anything was seen. ``timeout``: no answer in the time that the
client library waits. ``first_token``, ``slow``: over the route's own limit to the first token, to the whole answer.
``invalid``: an answer with nothing in it, or that cannot be read. ``model``: no such model there. ``request``: refused, as any provider would."""

Way: TypeAlias = Literal["same", "elsewhere", "named"]
"""``same``: the next rung, or the same once more where there is none. ``named``: only a rung that names the cause."""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)

WAYS: Final[Mapping[Cause, Way]] = {
    "connect": "same",
    "cut": "same",
    "timeout": "elsewhere",
    "first_token": "elsewhere",
    "slow": "elsewhere",
    "rate_limit": "elsewhere",
    "overload": "elsewhere",
    "server": "same",
    "quota": "elsewhere",
    "invalid": "elsewhere",
    "model": "elsewhere",
    "cost": "elsewhere",
    "auth": "named",
    "context": "named",
    "content_policy": "named",
    "request": "named",
    "budget": "named",
}

COUNTED: Final[frozenset[Cause]] = frozenset(
    {
        "connect",
        "cut",
        "timeout",
        "first_token",
        "slow",
        "rate_limit",
        "overload",
        "server",
        "quota",
        "invalid",
        "model",
    }
)
"""What counts against a target. A wrong key does not: it would be wrong for one caller only where callers bring their own."""
