"""Vectors of texts by their words."""

from __future__ import annotations

import numpy as np
import pytest

from bursar.learn.ngrams import hashed_ngrams


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\u092c\u0947\u091f\u093e", "\u092c\u0947\u091f\u0940"),
        ("\u0e02\u0e49\u0e32\u0e27", "\u0e02\u0e48\u0e32\u0e27"),
        ("\u0995\u09bf", "\u0995\u09c0"),
        ("\U0001f44d", "\U0001f44e"),
    ],
)
def test_words_with_marks_are_whole(one: str, other: str) -> None:
    """Vowel signs, tones and emoji are part of what is hashed: words that differ in them alone have other vectors."""
    first, second = hashed_ngrams([f"a {one}", f"a {other}"])
    assert float(first @ second) < 0.9


def test_punctuation_is_no_part_of_a_word() -> None:
    """Signs around words change nothing."""
    first, second = hashed_ngrams(["\u00bfwhere is my card?", "where, is \u00abmy\u00bb (card)\u2026"])
    assert np.array_equal(first, second)
