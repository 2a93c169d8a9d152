"""What the caches of answers saved, by tier, and what they cost.

Rule 1: what was avoided is no spend, and never added to any. A hit on an answer of which nobody knows the cost is counted as that.
Rule 2: a call asks a cache once, however many attempts it takes: what was no hit is a miss. A stale answer was given because
        nothing else answered: it is no hit, and has no share.
Rule 3: net is what was avoided less what was paid for the cache itself: embeddings, and calls that verify.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ._sql import statement
from .asking import make_filter
from .measures import cost_text

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = ["CacheReport", "Kind", "Tier", "Upkeep", "cache_report"]

_MISS: Final = "miss"
_PARTS: Final = 10_000
_STALE: Final = "stale"


@dataclass(frozen=True, slots=True)
class Tier:
    """What one tier answered. ``unknown`` counts the answers whose cost is not known."""

    tier: str
    count: int
    avoided_nanousd: int
    unknown: int

    @property
    def is_hit(self) -> bool:
        """Rule 2."""
        return self.tier != _STALE


@dataclass(frozen=True, slots=True)
class Kind:
    """Calls of models, or of tools, for which a cache was asked."""

    kind: str
    misses: int
    tiers: tuple[Tier, ...]

    @property
    def hits(self) -> int:
        return sum(tier.count for tier in self.tiers if tier.is_hit)

    @property
    def lookups(self) -> int:
        return self.hits + self.misses

    def share(self, tier: Tier | None = None, parts: int = _PARTS) -> int | None:
        """Of all that was asked, how much was answered (by one tier), in so many parts of the whole; None where nothing was."""
        part = self.hits if tier is None else tier.count
        if not self.lookups or (tier is not None and not tier.is_hit):
            return None
        return (2 * parts * part + self.lookups) // (2 * self.lookups)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """Calls made for the cache itself. ``cost_nanousd`` is of those that are priced."""

    calls: int = 0
    cost_nanousd: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class CacheReport:
    kinds: tuple[Kind, ...]
    embeddings: Upkeep
    verification: Upkeep

    @property
    def avoided_nanousd(self) -> int:
        return sum(tier.avoided_nanousd for kind in self.kinds for tier in kind.tiers)

    @property
    def unknown(self) -> int:
        return sum(tier.unknown for kind in self.kinds for tier in kind.tiers)

    @property
    def unpriced(self) -> int:
        return self.embeddings.unpriced + self.verification.unpriced

    @property
    def net_nanousd(self) -> int:
        """What was saved, as far as it is known: below zero where the cache cost more."""
        return self.avoided_nanousd - self.embeddings.cost_nanousd - self.verification.cost_nanousd

    def to_json(self) -> dict[str, Any]:
        """Shares are of lookups of the same kind, amounts exact decimals in USD."""
        return {
            "kinds": [
                {
                    "kind": kind.kind,
                    "lookups": kind.lookups,
                    "hits": kind.hits,
                    "misses": kind.misses,
                    "hit_share": _fraction(kind.share()),
                    "tiers": [
                        {
                            "tier": tier.tier,
                            "count": tier.count,
                            "share": _fraction(kind.share(tier)),
                            "avoided_usd": _known(tier),
                            "unknown_cost": tier.unknown,
                        }
                        for tier in kind.tiers
                    ],
                }
                for kind in self.kinds
            ],
            "avoided_usd": cost_text(self.avoided_nanousd),
            "unknown_cost": self.unknown,
            "embedding_calls": self.embeddings.calls,
            "embedding_usd": cost_text(self.embeddings.cost_nanousd),
            "verification_calls": self.verification.calls,
            "verification_usd": cost_text(self.verification.cost_nanousd),
            "unpriced_calls": self.unpriced,
            "net_saved_usd": cost_text(self.net_nanousd),
        }


def _fraction(share: int | None) -> float | None:
    return None if share is None else share / _PARTS


def _known(tier: Tier) -> str | None:
    return None if tier.unknown == tier.count else cost_text(tier.avoided_nanousd)


def _kind(kind: str, asked: int, tiers: tuple[Tier, ...]) -> Kind:
    """Rule 2. A question may be about a part of a call's attempts, its answer and not its first one."""
    return Kind(kind, max(0, asked - sum(tier.count for tier in tiers if tier.is_hit)), tiers)


def cache_report(
    queries: Queries,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    where: Mapping[str, str] | None = None,
) -> CacheReport:
    """What was asked of caches in the time span by calls that have the given column values. Raises BadQuestion."""
    matching = make_filter(since, until, where or {})
    rows = queries.rows(statement("cache", "tiers", condition=matching.condition), matching.parameters)
    asked: Counter[str] = Counter()
    tiers: dict[str, list[Tier]] = {}
    for row in rows:
        found = tiers.setdefault(row["kind"], [])
        asked[row["kind"]] += row["calls"]
        if row["tier"] != _MISS:
            found.append(Tier(row["tier"], row["attempts"], row["avoided_nanousd"] or 0, row["unknown"]))
    kinds = tuple(_kind(kind, asked[kind], tuple(found)) for kind, found in tiers.items())
    paid = {
        row["is_embedding"]: Upkeep(row["calls"], row["cost_nanousd"], row["unpriced"])
        for row in queries.rows(statement("cache", "upkeep", condition=matching.condition), matching.parameters)
    }
    return CacheReport(kinds, paid.get(True, Upkeep()), paid.get(False, Upkeep()))
