"""What may be kept of an answer, for whom, how long, and what is worth keeping. No I/O.

Rule 1: an entry belongs to one tenant. Its key is made of the tenant, the route and all of the request that can change the
        answer; nothing is ever looked for across tenants.
Rule 2: only a whole, successful answer is kept: no error, no refusal, nothing that was cut short by a limit or a client.
Rule 3: an answer that asks for tools, and one that was drawn at random (a temperature above zero, or none said), is kept
        only where the route says so.
Rule 4: fresh until ``expires_us``, stale until ``stale_us``: a stale one is given only when nothing else answers, labelled.
Rule 5: when there is no room, what saves the least per byte goes first (``worth``).
Rule 6: what a hit avoids is what the answer cost when it was bought; it is never part of spend.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from .values import valueclass

__all__ = [
    "KEY_HEX_LENGTH",
    "CacheDirective",
    "CacheEntry",
    "CachePolicy",
    "CacheTier",
    "CacheUse",
    "SemanticPolicy",
    "Share",
    "Verify",
    "read_directive",
    "worth",
]

CacheTier: TypeAlias = Literal["exact", "template", "coalesced", "semantic", "tool", "stale"]
Share: TypeAlias = Literal["key", "user", "agent", "team", "org"]
Verify: TypeAlias = Literal["equal", "json", "judge"]
CacheDirective: TypeAlias = Literal["", "no-store", "refresh", "only"]
"""What a request says: nothing; neither look nor keep; do not look but keep; answer from the cache or not at all."""

KEY_HEX_LENGTH: Final = 40
"""Keys are 20 bytes of BLAKE2b, in hex: nobody finds two requests with one key."""

_DIRECTIVES: Final[tuple[CacheDirective, ...]] = ("no-store", "refresh", "only")


@valueclass
class SemanticPolicy:
    """Similar questions. ``errors`` is the largest share of hits that may be wrong, in thousandths; ``shadow`` the share of hits
    that are asked all the same and compared, in thousandths. ``embed`` is "ngrams", "local", a ``provider/model``,
    or a ``module:function``."""

    errors: int = 20
    shadow: int = 50
    embed: str = "ngrams"
    verify: Verify = "equal"
    judge: str = ""


@valueclass
class CachePolicy:
    """What a route keeps. Times are seconds. ``volatile`` are regular expressions of what may differ in a request without
    changing its answer: ids, timestamps."""

    ttl_s: int = 3_600
    stale_s: int = 0
    share: Share = "key"
    sampled: bool = False
    tool_calls: bool = False
    volatile: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    semantic: SemanticPolicy | None = None


@valueclass
class CacheEntry:
    """One kept answer. ``body`` is what is sent to the client, a whole answer or all bytes of a stream; ``cost`` nano-USD, None
    where it is not known what it cost. ``usage`` is what was billed then, by unit. ``attempt_id`` says where it comes from."""

    key: str
    tenant: str
    route: str
    body: bytes
    content_type: str
    stream: bool
    provider: str
    model: str
    cost: int | None
    usage: tuple[tuple[str, int], ...]
    attempt_id: str
    stored_us: int
    expires_us: int
    stale_us: int
    tags: tuple[str, ...] = ()
    response_id: str = ""
    finish: str = ""
    operation: str = ""

    @property
    def size_bytes(self) -> int:
        """What it takes up, what is beside the body included."""
        return len(self.body) + _OVERHEAD_BYTES

    def is_fresh(self, now_us: int) -> bool:
        return now_us < self.expires_us


_OVERHEAD_BYTES: Final = 400
_SAVED_MAX: Final = 1 << 40


@valueclass
class CacheUse:
    """What a store holds. ``limit_bytes`` None: somebody else limits it."""

    entries: int
    bytes: int
    limit_bytes: int | None
    evicted: int = 0


def worth(cost: int | None, size_bytes: int, hits: int, floor: int) -> int:
    """What an entry is worth keeping, in thousandths of a nano-USD per byte: what its hits save, above ``floor``, the worth of
    what had to go last. So what nobody asks for again is worth less with everything that goes before it, whatever it cost
    (GreedyDual-Size-Frequency: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
    Policy", HP Laboratories HPL-98-69R1, 1998; the cost is what the answer cost). It changes with a hit only."""
    return floor + min((cost or 1) * (hits + 1) * 1_000 // max(size_bytes, 1), _SAVED_MAX)


def read_directive(value: str | None) -> CacheDirective:
    """The request header ``x-bursar-cache``. Raises ValueError that lists what can be said."""
    text = (value or "").strip().lower()
    if not text:
        return ""
    for known in _DIRECTIVES:
        if text == known:
            return known
    raise ValueError(f"{text[:40]!r} is none of {', '.join(_DIRECTIVES)}")
