"""How large calls are, and text of a given size.

Rule 1: sizes come from quantiles of recorded traffic; the source is named beside them. No recorded text is used.
Rule 2: chance comes from the seed and a purpose; the same seed gives the same sizes and the same text in any order.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Final, NamedTuple

__all__ = [
    "ANSWER_TOKENS_MAX",
    "CHAT_CONTEXT",
    "CODE_CONTEXT",
    "CODE_OUTPUT_TOKENS_MAX",
    "CODING_FILES_TOKENS",
    "CODING_GROWTH",
    "CODING_PREAMBLE_TOKENS",
    "LABEL_TOKENS_MAX",
    "Quantiles",
    "chance",
    "prose",
]

_CHARACTERS_PER_TOKEN: Final = 4


class Quantiles(NamedTuple):
    """A distribution by some of its quantiles: (share in percent, tokens), both rising."""

    points: tuple[tuple[int, int], ...]

    def draw(self, random: Random) -> int:
        """A size between the first and the last quantile, straight lines between them."""
        at = random.uniform(self.points[0][0], self.points[-1][0])
        for (left, low), (right, high) in pairwise(self.points):
            if at <= right:
                return low + round((high - low) * (at - left) / (right - left))
        return self.points[-1][1]


# Azure's production traces of 2023-11-16 (AzureLLMInferenceTrace_conv, 19,366 requests; _code, 8,819).
CHAT_CONTEXT: Final = Quantiles(((10, 207), (25, 396), (50, 1_020), (75, 1_189), (90, 2_735), (99, 4_142)))
CODE_CONTEXT: Final = Quantiles(((10, 147), (25, 578), (50, 1_469), (75, 2_745), (90, 5_194), (99, 7_436)))
ANSWER_TOKENS_MAX: Final = 601  # p99 of the tokens generated in conversations
LABEL_TOKENS_MAX: Final = 13  # median of the tokens generated for code, the shortest answers in the traces

# Four recorded Claude Code sessions with their sub-agents (February 2026), 321 API calls: how much the context grows
# from one call to the next, the first call's context, and the longest answers.
CODING_GROWTH: Final = Quantiles(((10, 149), (25, 250), (50, 481), (75, 1_195), (90, 3_840), (99, 19_501)))
CODING_PREAMBLE_TOKENS: Final = 12_121  # p10 of first calls: little but tools and system text
CODING_FILES_TOKENS: Final = 26_450 - 12_121  # median of first calls, without the preamble
CODE_OUTPUT_TOKENS_MAX: Final = 2_237  # p99


def chance(seed: int, purpose: str) -> Random:
    """A generator of its own for every purpose."""
    return Random(f"{seed}/{purpose}")  # noqa: S311 - sizes and text of a demo are no secret


_SUBJECTS: Final = (
    "the parcel", "my invoice", "this order", "the export job", "a second account", "the refund", "our test suite",
    "the price list", "an older release", "the summary page", "the upload", "the weekly report",
)  # fmt: skip
_VERBS: Final = (
    "does not match", "was sent before", "still waits for", "should replace", "is shown beside", "depends on",
    "was changed with", "comes right after", "is missing from", "stays the same as",
)  # fmt: skip
_ENDS: Final = (
    "since Monday", "in the new version", "for two customers", "on every second try", "as far as I can see",
    "in the European region", "without any message", "when it is opened twice",
)  # fmt: skip


def prose(random: Random, tokens: int) -> str:
    """Plain sentences of exactly ``tokens`` tokens as the simulator counts them (four characters each)."""
    length = tokens * _CHARACTERS_PER_TOKEN
    parts: list[str] = []
    size = 0
    while size < length:
        subject, other = random.choice(_SUBJECTS), random.choice(_SUBJECTS)
        sentence = f"{subject.capitalize()} {random.choice(_VERBS)} {other} {random.choice(_ENDS)}. "
        parts.append(sentence)
        size += len(sentence)
    return "".join(parts)[:length]
