"""The nearest of many vectors, by cosine. Grows and shrinks; no index to train.

Rule 1: up to ``_EXACT_MAX`` vectors all are compared. Above, the ``_CANDIDATES`` that agree in most of 320 signs of random
        projections are (SimHash, Charikar 2002), and of these the cosine is exact: reading 40 bytes a vector instead of 1,536.
Rule 2: what has gone is gone: the last row takes its place, nothing points to it any more.
Rule 3: vectors that are not of length one are made so when they come; one of zeros is near nothing.
Rule 4: it takes memory for at most four times what it holds: most spaces are a conversation that holds one question.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Near", "Nearest"]

_EXACT_MAX: Final = 4_096
_CANDIDATES: Final = 1_024
_SIGNS: Final = 320
_LANES: Final = _SIGNS // 64
_SEED: Final = 20_020_519


class Near(NamedTuple):
    key: str
    similarity: float


class Nearest:
    """Vectors of one space by their keys. For 100,000 of 384 dimensions a question takes about 2 ms on one core."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._keys: list[str] = []
        self._rows: dict[str, int] = {}
        self._vectors = np.zeros((1, dimensions), np.float32)
        # By lanes, not by rows: one lane of all vectors is read in one go.
        self._signs = np.zeros((_LANES, 1), np.uint64)
        self._planes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def add(self, key: str, vector: Any) -> None:
        """Keep a vector, in place of what has its key. Raises ValueError where it is not of this space."""
        unit = self._unit(vector)
        row = self._rows.get(key)
        if row is None:
            row = len(self._keys)
            if row == len(self._vectors):
                self._resize(2 * row)
            self._keys.append(key)
            self._rows[key] = row
        self._vectors[row] = unit
        if self._planes is not None:
            self._signs[:, row] = self._signed(self._vectors[row : row + 1])[:, 0]
        elif len(self._keys) > _EXACT_MAX:
            self._planes = np.random.default_rng(_SEED).standard_normal((self.dimensions, _SIGNS), np.float32)
            self._signs[:, : len(self._keys)] = self._signed(self._vectors[: len(self._keys)])

    def remove(self, key: str) -> bool:
        """Whether it was there."""
        row = self._rows.pop(key, None)
        if row is None:
            return False
        last = len(self._keys) - 1
        moved = self._keys.pop()
        if row != last:
            self._keys[row] = moved
            self._rows[moved] = row
            self._vectors[row] = self._vectors[last]
            self._signs[:, row] = self._signs[:, last]
        if 0 < last < len(self._vectors) // 4:
            self._resize(len(self._vectors) // 2)
        return True

    def nearest(self, vector: Any, count: int) -> list[Near]:
        """The nearest first, ``count`` at most. Raises ValueError where the vector is not of this space."""
        asked = self._unit(vector)
        total = len(self._keys)
        if total <= _EXACT_MAX or self._planes is None:
            return self._best(np.arange(total), self._vectors[:total] @ asked, count)
        signs = self._signed(asked[None])[:, 0]
        apart = np.zeros(total, np.uint16)
        for lane in range(_LANES):
            apart += np.bitwise_count(self._signs[lane, :total] ^ signs[lane])
        up_to = int(np.searchsorted(np.cumsum(np.bincount(apart, minlength=_SIGNS + 1)), _CANDIDATES))
        rows = np.flatnonzero(apart <= up_to)[: 4 * _CANDIDATES]
        return self._best(rows, self._vectors[rows] @ asked, count)

    def _best(self, rows: NDArray[np.int64], similarities: NDArray[np.float32], count: int) -> list[Near]:
        if len(rows) > count:
            chosen = np.argpartition(-similarities, count)[:count]
            rows, similarities = rows[chosen], similarities[chosen]
        order = np.lexsort((rows, -similarities))
        return [Near(self._keys[rows[index]], float(similarities[index])) for index in order]

    def _signed(self, vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
        assert self._planes is not None
        bits = np.packbits(vectors @ self._planes > 0, axis=1)
        return np.ascontiguousarray(bits).view(np.uint64).T

    def _unit(self, vector: Any) -> NDArray[np.float32]:
        found = np.asarray(vector, np.float32)
        if found.shape != (self.dimensions,) or not np.isfinite(found).all():
            raise ValueError(f"a vector of shape {found.shape} is none of {self.dimensions} finite numbers")
        length = float(np.linalg.norm(found))
        return found / np.float32(length) if length > 0 else found

    def _resize(self, rows: int) -> None:
        kept = min(rows, len(self._vectors))
        vectors = np.zeros((rows, self.dimensions), np.float32)
        vectors[:kept] = self._vectors[:kept]
        signs = np.zeros((_LANES, rows), np.uint64)
        signs[:, :kept] = self._signs[:, :kept]
        self._vectors, self._signs = vectors, signs
