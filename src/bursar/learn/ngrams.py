"""Vectors of texts without a model: hashed words, pairs of words and pieces of words. Candidates come from them, never decisions.

Rule 1: the same text has the same vector in every process and version of Python: hashes are CRC-32, weights are constants.
Rule 2: a feature adds to one place, with a sign of its own, so that collisions cancel on average (feature hashing,
        Weinberger et al. 2009, arXiv 0902.2206). Vectors have length one.
Rule 3: what every sentence has (articles, pronouns, polite words) weighs little: there are no counts of a corpus that would
        say so, since vectors that change with what was seen cannot be compared with older ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIMENSIONS", "hashed_ngrams"]

DIMENSIONS: Final = 512

# What is between spaces and punctuation: vowel signs, tones and joiners are no word characters to ``re``, and words of many scripts would
# fall apart at them.
_WORD: Final = re.compile(
    r"[^\s!-/:-@\[-^`{-~\u00a1-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u2000-\u200b\u200e-\u206f\u3000-\u303f]+"
)
_TEXT_LENGTH_MAX: Final = 8_000
_FREQUENT_TEXT: Final = """a an the this that these those it its i me my mine we us our you your he she they them their is are am was were be been
    being do does did have has had can could will would shall should may might must to of in on at for from by with about as
    and or but so if then than there here what which who how when where why please hi hello hey thanks thank just some any
    get got want need like know tell help im ive id"""
_FREQUENT: Final = frozenset(_FREQUENT_TEXT.split())
_FREQUENT_WEIGHT: Final = 0.25
_PAIR_WEIGHT: Final = 0.6
_PIECE_WEIGHT: Final = 0.35
_PIECE_LENGTHS: Final = (3, 4)


def hashed_ngrams(texts: Sequence[str], dimensions: int = DIMENSIONS) -> NDArray[np.float32]:
    """One row of length one a text; of zeros where there is nothing to hash. Only the first 8,000 characters count."""
    result = np.zeros((len(texts), dimensions), np.float32)
    for row, text in zip(result, texts, strict=True):
        sums: dict[int, float] = {}
        for feature, weight in _features(text[:_TEXT_LENGTH_MAX].casefold()):
            code = crc32(feature.encode())
            place = code % dimensions
            sums[place] = sums.get(place, 0.0) + (weight if code & 0x8000_0000 else -weight)
        if sums:
            row[list(sums)] = list(sums.values())
            row /= max(float(np.linalg.norm(row)), 1e-12)
    return result


def _features(text: str) -> Iterator[tuple[str, float]]:
    before = ""
    for word in _WORD.findall(text):
        weight = _FREQUENT_WEIGHT if word in _FREQUENT else 1.0
        yield word, weight
        if before:
            yield f"{before} {word}", _PAIR_WEIGHT * weight
        before = word
        if weight == 1.0:
            framed = f"<{word}>"
            for length in _PIECE_LENGTHS:
                for start in range(len(framed) - length + 1):
                    yield framed[start : start + length], _PIECE_WEIGHT
