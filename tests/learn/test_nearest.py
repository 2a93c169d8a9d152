"""The nearest of many vectors: what is found, and what is no longer there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.learn.nearest import Nearest
from bursar.learn.ngrams import DIMENSIONS, hashed_ngrams


def vectors(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=150), st.integers(1, 20))
def test_it_finds_what_comparing_all_finds(events: list[tuple[bool, int]], count: int) -> None:
    """After any adding and removing, the nearest are those of the vectors that are left."""
    known, nearest, left = vectors(41, 8), Nearest(8), {}
    for keep, number in events:
        if keep:
            nearest.add(str(number), known[number] * 3)
            left[str(number)] = known[number]
        else:
            assert nearest.remove(str(number)) == (left.pop(str(number), None) is not None)
    asked = known[40]
    expected = sorted(left, key=lambda key: -float(left[key] @ asked))[:count]
    found = nearest.nearest(asked, count)
    assert [each.key for each in found] == expected
    assert [each.similarity for each in found] == pytest.approx(
        [float(left[key] @ asked) for key in expected], abs=1e-6
    )
    assert len(nearest) == len(left)


def test_among_many_the_near_ones_are_found() -> None:
    """Past the size at which all are compared, what is really near is still found, first things first, also after removals."""
    known = vectors(12_000, 64)
    nearest = Nearest(64)
    for number, vector in enumerate(known):
        nearest.add(str(number), vector)
    draw = np.random.default_rng(3)
    for number in range(0, 12_000, 400):
        noise = draw.standard_normal(64).astype(np.float32)
        asked = known[number] + 0.4 * noise / np.linalg.norm(noise)
        assert nearest.nearest(asked, 4)[0].key == str(number)
    for number in range(11_000):
        nearest.remove(str(number))
    assert nearest.nearest(known[5], 1)[0].key not in {str(number) for number in range(11_000)}
    assert nearest.nearest(known[11_500], 1)[0] == ("11500", pytest.approx(1.0))


def test_a_space_is_as_large_as_what_it_holds() -> None:
    """Most spaces hold one question: they take one row, and no more than four times what is left after removals."""
    nearest = Nearest(8)
    known = vectors(100, 8)
    for number in (*range(100), *range(99, 0, -1)):
        key = str(number)
        if key in nearest:
            nearest.remove(key)
        else:
            nearest.add(key, known[number])
        assert len(nearest) <= len(nearest._vectors) <= 4 * len(nearest)
        assert nearest._signs.shape[1] == len(nearest._vectors)
    assert nearest.nearest(known[0], 3) == [("0", pytest.approx(1.0))]
    assert len(Nearest(8)._vectors) == 1


def test_vectors_of_another_space_are_refused() -> None:
    """Another width, or what is no number, is a mistake of the caller's and changes nothing."""
    nearest = Nearest(4)
    for wrong in ([1, 2, 3], [[1, 2, 3, 4]], [1, 2, 3, float("nan")]):
        with pytest.raises(ValueError, match="none of 4 finite numbers"):
            nearest.add("one", wrong)
    assert len(nearest) == 0
    assert nearest.nearest([0, 0, 0, 0], 3) == []


def test_words_in_common_are_near() -> None:
    """Hashed n-grams put sentences with words in common, in whatever form, nearer than others; they do not change."""
    same, form, other, empty = hashed_ngrams(["cancel the order", "cancelling my orders", "what a lovely day", "?!"])
    assert same.shape == (DIMENSIONS,)
    assert float(same @ form) > 0.3 > abs(float(same @ other))
    assert not empty.any()
    assert np.linalg.norm(same) == pytest.approx(1.0)
    assert int(np.flatnonzero(same)[0]) == 6


@given(st.lists(st.text(max_size=100), max_size=5))
def test_any_text_has_a_vector(texts: list[str]) -> None:
    """A row for every text, of length one or of zeros."""
    rows = hashed_ngrams(texts, 64)
    assert rows.shape == (len(texts), 64)
    lengths = np.linalg.norm(rows, axis=1)
    assert all(length == pytest.approx(1.0, abs=1e-5) or length == 0 for length in lengths)
