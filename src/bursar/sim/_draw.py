"""Chance from a seed: numbers, lengths, identifiers, and text that is worth exactly so many tokens.

Rule 1: no generator is shared. Every draw comes from a digest of what it is for, so order and threads change nothing.
Rule 2: one token is four characters, rounded up (``count_tokens``), for prompts and answers alike. It is the providers'
        own rule of thumb for English, and every test can recompute it.
Rule 3: drawn text is ASCII without quotes, backslashes and control characters, so that it can be put between the quotes
        of a JSON string as it is.
"""

from __future__ import annotations

import math
from hashlib import blake2b
from itertools import accumulate
from typing import Final

__all__ = ["CHARACTERS_PER_TOKEN", "Draw", "answer_text", "count_tokens", "identifier", "phrase"]

CHARACTERS_PER_TOKEN: Final = 4

_PARTS: Final = """\
The team|The report|Each agent|The budget|A customer|The invoice|This task|The model|Our ledger|The query
explains|needs|shows|covers|replaces|confirms|reads|updates|compares|finds|keeps|changes|records
the open orders|a second source|the totals per day|three cases|the older rows|a short summary|the next step
before noon|in one pass|for every region|with little effort|after the release|as agreed|on the same page
"""
_WORDS: Final = (
    "amber", "river", "north", "garden", "signal", "copper", "meadow", "harbor", "winter", "orange", "stone", "paper",
    "silver", "forest", "summer", "bridge", "window", "market", "planet", "violet", "castle", "engine", "lantern",
    "valley", "cotton", "island", "pepper", "rocket", "saddle", "temple", "walnut", "zephyr",
)  # fmt: skip


def _corpus() -> tuple[str, tuple[int, ...]]:
    """Every sentence once in an order that repeats no neighbour, and where each begins."""
    parts = [line.split("|") for line in _PARTS.splitlines()]
    sentences = [" ".join(part[number % len(part)] for part in parts) + ". " for number in range(910)]
    return "".join(sentences), tuple(accumulate((len(sentence) for sentence in sentences[:-1]), initial=0))


_CORPUS, _STARTS = _corpus()


class Draw:
    """Numbers from a seed and a purpose, one after the other. The same arguments give the same numbers."""

    __slots__ = ("_at", "_digest", "_key")

    def __init__(self, seed: int, *purpose: str) -> None:
        key = blake2b(seed.to_bytes(8, "little", signed=True))
        for part in purpose:
            key.update(part.encode("utf-8", "surrogatepass"))
            key.update(b"\0")
        self._key = self._digest = key.digest()
        self._at = 0

    def bits(self) -> int:
        """The next 64 bits."""
        at = self._at
        if at == 64:
            self._digest = blake2b(self._digest, key=self._key).digest()
            at = 0
        self._at = at + 8
        return int.from_bytes(self._digest[at : at + 8], "little")

    def chance(self) -> float:
        """0 <= x < 1."""
        return (self.bits() >> 11) / (1 << 53)

    def between(self, lowest: int, highest: int) -> int:
        """Both ends included."""
        return lowest + self.bits() % (highest - lowest + 1)

    def length_tokens(self, median: float, spread: float, longest: int) -> int:
        """A length as answers have it: log-normal, at least 1, at most ``longest``."""
        normal = math.sqrt(-2.0 * math.log(1.0 - self.chance())) * math.cos(2.0 * math.pi * self.chance())
        return max(1, min(longest, round(median * math.exp(spread * normal))))


def count_tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def answer_text(draw: Draw, tokens: int, *, complete: bool) -> str:
    """Text of exactly ``tokens`` tokens; it ends with a full stop when it is ``complete``."""
    start = _STARTS[draw.bits() % len(_STARTS)]
    length = tokens * CHARACTERS_PER_TOKEN
    text = _CORPUS[start : start + length]
    while len(text) < length:
        text += _CORPUS[: length - len(text)]
    return text[:-1] + "." if complete and text else text


def phrase(draw: Draw, words: int) -> str:
    return " ".join(_WORDS[draw.bits() % len(_WORDS)] for _ in range(words))


def identifier(seed: int, index: int, purpose: str) -> str:
    """60 hex digits that no other call of this seed has."""
    return blake2b(b"%d/%d/%s" % (seed, index, purpose.encode()), digest_size=30).hexdigest()
