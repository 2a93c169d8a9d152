"""What a mark for a provider's prompt cache is worth, and where marks go. No I/O.

Rule 1: a token that is kept is written once, at the price of a write. At each next call it is either read, or it has expired and
        is written again. With p the chance that the prefix is asked for again while it is kept, s what a read saves against the
        input price and m what a write costs above it, keeping a token gains ``p * s - (1 - p) * m`` a call. That is more than
        nothing exactly where p / (1 - p) reads at s each pay for one write: at Anthropic's prices (write 1.25 or 2 times the
        input, read a tenth) from 22 % on for five minutes and from 53 % on for an hour.
Rule 2: only what gains is marked. What is already kept is read at any odds: reading it costs less than sending it.
Rule 3: whoever asks for a longer prefix asks for the shorter one too: the chance never grows with the length.
Rule 4: at most four marks, those for an hour before those for five minutes; a mark finds what was kept up to 20 blocks before it
        (Anthropic, prompt caching: platform.claude.com/docs/en/build-with-claude/prompt-caching).
Rule 5: chances are whole numbers of times out of whole numbers, amounts are nano-USD, rounded down: no gain is claimed that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from math import lcm
from typing import Final, Literal, NamedTuple, TypeAlias

from .money import NanoUSD, Rate
from .prices import RateCard
from .usage import UNIT_INDEX
from .values import valueclass

__all__ = [
    "LOOK_BACK_BLOCKS",
    "MARKS_MAX",
    "TTLS_S",
    "CacheRates",
    "Candidate",
    "Chance",
    "Kept",
    "Kind",
    "Mark",
    "Marks",
    "Ttl",
    "cache_rates",
    "choose",
    "gain",
    "minimum_tokens",
]

Ttl: TypeAlias = Literal["5m", "1h"]
Kind: TypeAlias = Literal["tools", "system", "stable", "kept", "turn"]
"""Where a mark stands: behind the tools, the system text, what the last request had too, what is kept already, the last turn."""

TTLS_S: Final[dict[Ttl, int]] = {"5m": 300, "1h": 3_600}
MARKS_MAX: Final = 4
LOOK_BACK_BLOCKS: Final = 20

# The shortest prefix that is kept, in tokens (Anthropic, prompt caching, autumn 2026). Where sources disagree, the larger: a mark
# that is too early costs nothing, but takes the place of one that counts.
_MINIMUMS: Final = tuple(
    (re.compile(pattern), tokens)
    for pattern, tokens in (
        (r"(opus|fable|mythos)-5(?!\d)", 512),
        (r"opus-4-[567](?!\d)|haiku-4-5|mythos", 4_096),
        (r"haiku-3|3-5-haiku|3-haiku", 2_048),
        (r"sonnet|opus-4(?!-[567](?!\d))|3-opus", 1_024),
    )
)
_MINIMUM_UNKNOWN: Final = 4_096


@lru_cache(maxsize=1_024)
def minimum_tokens(model: str) -> int:
    """The shortest prefix that a Claude model keeps, in tokens; the longest known one for a model that is not known."""
    name = model.lower().replace(".", "-")
    return next((tokens for pattern, tokens in _MINIMUMS if pattern.search(name)), _MINIMUM_UNKNOWN)


class CacheRates(NamedTuple):
    """Prices of one input token, each in nano-USD times ``per``. None: there is no price for a write of that life."""

    input: int
    read: int
    write_5m: int
    write_1h: int | None
    per: int

    def write(self, ttl: Ttl) -> int | None:
        return self.write_5m if ttl == "5m" else self.write_1h


def cache_rates(card: RateCard, input_tokens: int) -> CacheRates | None:
    """What a prompt of so many tokens costs a token by how the cache serves it; None where reads or writes have no price."""
    found: dict[int, Rate] = {}
    for unit, tiers, _, _ in card.rows:
        if unit in _UNITS:
            over = [rate for start, rate in tiers if input_tokens > start]
            found[unit] = over[-1] if over else tiers[0][1]
    fresh, read, general, five, hour = map(found.get, _UNITS)
    five = five or general
    if fresh is None or read is None or five is None:
        return None
    # A price for writes in general says nothing of an hour: where an hour costs more, taking it for that would miscount.
    per = lcm(*(rate.denominator for rate in (fresh, read, five, hour) if rate is not None))

    def scaled(rate: Rate) -> int:
        return rate.numerator * (per // rate.denominator)

    return CacheRates(scaled(fresh), scaled(read), scaled(five), scaled(hour) if hour is not None else None, per)


_UNITS: Final = tuple(
    UNIT_INDEX[name]
    for name in (
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
    )
)


class Chance(NamedTuple):
    """How often a prefix is asked for again within five minutes, and within an hour, of so many times."""

    five: int
    hour: int
    of: int

    def within(self, ttl: Ttl) -> int:
        return self.five if ttl == "5m" else self.hour


class Candidate(NamedTuple):
    """A place where a mark may stand: ``tokens`` of the prompt before it, ``block`` counted from the start of the prompt."""

    kind: Kind
    tokens: int
    block: int
    chance: Chance


class Kept(NamedTuple):
    """The prefix that the provider keeps already: its tokens, and the block it ends with."""

    tokens: int
    block: int


class Mark(NamedTuple):
    """A mark to set. ``written`` tokens are expected to be written because of it, and to gain ``expected`` nano-USD a call."""

    kind: Kind
    ttl: Ttl
    written: int
    expected: NanoUSD


@valueclass
class Marks:
    """The marks of one request, in the order of the prompt. ``expected`` is nano-USD a call (rule 1), ``read`` the tokens that should
    come out of the cache, ``chance`` that of the longest prefix that is written."""

    marks: tuple[Mark, ...] = ()
    expected: NanoUSD = NanoUSD(0)
    read: int = 0
    chance: Chance = Chance(0, 0, 1)


def gain(tokens: int, chance: Chance, rates: CacheRates, ttl: Ttl) -> NanoUSD | None:
    """What keeping so many tokens gains a call, in nano-USD, rounded down; None where the write has no price."""
    write = rates.write(ttl)
    if write is None:
        return None
    hits = chance.within(ttl)
    per_token = hits * (rates.input - rates.read) - (chance.of - hits) * (write - rates.input)
    return NanoUSD(tokens * per_token // (chance.of * rates.per))


def choose(candidates: Sequence[Candidate], rates: CacheRates, *, kept: Kept | None, least_tokens: int) -> Marks:
    """The marks that gain most. ``candidates`` stand in the order of the prompt; the deepest of a place comes last.

    ``kept`` is read whatever else is chosen. Without anything that gains and anything to read there are no marks.
    """
    usable = _never_growing([each for each in candidates if each.tokens >= least_tokens])
    best: list[tuple[Candidate, Mark]] = []
    most = 0
    # An hour is dearer: it is looked at only where somebody came back between five minutes and one hour.
    for hours in range(len(usable) + 1 if any(each.chance.hour > each.chance.five for each in usable) else 1):
        found = _gaining(usable, hours, rates, kept)
        total = sum(mark.expected for _, mark in found)
        if total > most:  # of equals the shorter life, which holds less money
            best, most = found, total
    chance = best[-1][0].chance if best else Chance(0, 0, 1)
    if kept is not None:
        best = _with_reads(best, usable, kept)
    marks = tuple(mark for _, mark in best)
    return Marks(marks, NanoUSD(most), kept.tokens if kept else 0, chance)


def _with_reads(
    best: list[tuple[Candidate, Mark]], usable: list[Candidate], kept: Kept
) -> list[tuple[Candidate, Mark]]:
    """With the marks that only read: one for what is kept, where no other finds it (rule 4), and one that renews the part that stands
    before the messages, which is what is left when a history is cut. They write nothing, so their life is that of the mark behind."""
    reads: list[tuple[Candidate, Mark]] = []
    if not any(0 <= each.block - kept.block < LOOK_BACK_BLOCKS for each, _ in best):
        same: list[Kind] = [each.kind for each in usable if each[1:3] == kept]
        kind = same[0] if same else "kept"
        reads.append((Candidate(kind, kept.tokens, kept.block, Chance(0, 0, 1)), Mark(kind, "5m", 0, NanoUSD(0))))
    standing = [each for each in usable if each.kind in ("tools", "system") and each.tokens < kept.tokens]
    if standing and not any(mark.kind == standing[-1].kind for _, mark in best):
        reads.append((standing[-1], Mark(standing[-1].kind, "5m", 0, NanoUSD(0))))
    room = MARKS_MAX - len(best)
    ttl: Ttl = "5m"
    out: list[tuple[Candidate, Mark]] = []
    for each, mark in sorted([*reads[:room], *best], key=lambda pair: -pair[0].tokens):
        ttl = mark.ttl if mark.written else ttl
        out.append((each, mark._replace(ttl=ttl)))
    return out[::-1]


def _never_growing(candidates: list[Candidate]) -> list[Candidate]:
    """Rule 3: what was learned of the parts apart may say otherwise."""
    if len(candidates) < 2:
        return candidates
    out: list[Candidate] = []
    least = Chance(0, 0, 1)
    for each in reversed(candidates):
        own = each.chance
        five = own if own.five * least.of >= least.five * own.of else least
        hour = own if own.hour * least.of >= least.hour * own.of else least
        least = (
            own if five is own and hour is own else Chance(five.five * hour.of, hour.hour * five.of, five.of * hour.of)
        )
        out.append(each._replace(chance=least))
    return out[::-1]


def _gaining(
    candidates: list[Candidate], hours: int, rates: CacheRates, kept: Kept | None
) -> list[tuple[Candidate, Mark]]:
    """The marks that gain where the first ``hours`` candidates are kept for an hour and the rest for five minutes."""
    found: list[tuple[Candidate, Mark]] = []
    before = kept.tokens if kept else 0
    for number, each in enumerate(candidates):
        ttl: Ttl = "1h" if number < hours else "5m"
        written = each.tokens - before
        worth = gain(written, each.chance, rates, ttl) if written > 0 else None
        if worth is not None and worth > 0:
            found.append((each, Mark(each.kind, ttl, written, worth)))
            before = each.tokens
    return found
