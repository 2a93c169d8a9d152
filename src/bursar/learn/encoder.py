"""A small BERT on the processor: sentences to vectors, with numpy alone. No I/O: whoever has the weights passes them in.

Rule 1: the figures are those of the reference implementation to about 1e-5: uncased WordPiece, post-norm layers, the mean of the
        last layer over the words that are there, scaled to length one (BERT, arXiv 1810.04805; Sentence-BERT, 1908.10084).
Rule 2: a text past ``tokens_max`` tokens is cut, as the model was trained. Whoever compares texts keeps to shorter ones.
Rule 3: sentences of like length are worked on together, so that little is spent on padding.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Encoder", "Floats", "WordPieces"]

Floats = NDArray[np.float32]

_BATCH_TOKENS_MAX: Final = 2_048
_WORD_LENGTH_MAX: Final = 100
_EPSILON: Final = np.float32(1e-12)
# Code points that are words of their own: the CJK blocks of the reference tokenizer.
_IDEOGRAPHS: Final = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


class WordPieces:
    """The tokens of a text, by a vocabulary."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: index for index, piece in enumerate(vocabulary)}
        self._unknown, self._first, self._last = (self._ids[name] for name in ("[UNK]", "[CLS]", "[SEP]"))

    def ids(self, text: str) -> list[int]:
        """The whole text, its marks for start and end included."""
        found = [self._first]
        for word in _words(text):
            found.extend(self._pieces(word))
        found.append(self._last)
        return found

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _WORD_LENGTH_MAX:
            return [self._unknown]
        found: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self._ids.get(("##" if start else "") + word[start:end])
                if piece is not None:
                    found.append(piece)
                    start = end
                    break
            else:
                return [self._unknown]
        return found


class Encoder:
    """Sentences to vectors of length one. ``weights`` are named as the reference implementation names them.

    Raises KeyError where one is missing. Any thread may call; a sentence takes about 15 ms on one core with six layers of 384.
    """

    def __init__(self, weights: Mapping[str, Any], vocabulary: Sequence[str], *, heads: int, tokens_max: int) -> None:
        self._tokens_max = tokens_max
        self._pieces = WordPieces(vocabulary)
        found = {
            name: np.asarray(value, np.float32) for name, value in weights.items() if name.endswith(("weight", "bias"))
        }
        self._words = found["embeddings.word_embeddings.weight"]
        self._places = (
            found["embeddings.position_embeddings.weight"] + found["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _pair(found, "embeddings.LayerNorm")
        count = 1 + max(int(name.split(".")[2]) for name in found if name.startswith("encoder.layer."))
        self._layers = [_Layer(found, f"encoder.layer.{index}.", heads) for index in range(count)]
        self.dimensions = int(self._words.shape[1])

    def encode(self, texts: Sequence[str]) -> Floats:
        """One row a text, in their order."""
        tokens = [_cut(self._pieces.ids(text), self._tokens_max) for text in texts]
        result = np.empty((len(texts), self.dimensions), np.float32)
        for batch in _batches(tokens):
            result[batch] = self._forward([tokens[index] for index in batch])
        return result

    def _forward(self, tokens: list[list[int]]) -> Floats:
        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), np.int64)
        there = np.zeros((len(tokens), longest), np.float32)
        for row, sentence in enumerate(tokens):
            ids[row, : len(sentence)] = sentence
            there[row, : len(sentence)] = 1
        state = _normed(self._words[ids] + self._places[:longest], *self._norm)
        hidden = np.where(there[:, None, None, :] > 0, np.float32(0), np.float32(-1e9))
        for layer in self._layers:
            state = layer.forward(state, hidden)
        mean = (state * there[:, :, None]).sum(axis=1) / there.sum(axis=1, keepdims=True)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), _EPSILON)


class _Layer:
    __slots__ = ("_attended", "_combined", "_heads", "_narrow", "_norms", "_wide")

    def __init__(self, weights: Mapping[str, Floats], prefix: str, heads: int) -> None:
        self._heads = heads
        parts = [_pair(weights, f"{prefix}attention.self.{name}") for name in ("query", "key", "value")]
        self._combined = (
            np.ascontiguousarray(np.concatenate([weight for weight, _ in parts]).T),
            np.concatenate([bias for _, bias in parts]),
        )
        self._attended = _dense(weights, prefix + "attention.output.dense")
        self._wide = _dense(weights, prefix + "intermediate.dense")
        self._narrow = _dense(weights, prefix + "output.dense")
        self._norms = (
            _pair(weights, prefix + "attention.output.LayerNorm"),
            _pair(weights, prefix + "output.LayerNorm"),
        )

    def forward(self, state: Floats, hidden: Floats) -> Floats:
        count, length, width = state.shape
        size = width // self._heads
        parts = _times(state, self._combined).reshape(count, length, 3, self._heads, size)
        query, key, value = parts.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(size**0.5) + hidden
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        seen = (scores @ value).transpose(0, 2, 1, 3).reshape(count, length, width)
        state = _normed(state + _times(seen, self._attended), *self._norms[0])
        return _normed(state + _times(_gelu(_times(state, self._wide)), self._narrow), *self._norms[1])


def _pair(weights: Mapping[str, Floats], name: str) -> tuple[Floats, Floats]:
    return weights[name + ".weight"], weights[name + ".bias"]


def _dense(weights: Mapping[str, Floats], name: str) -> tuple[Floats, Floats]:
    weight, bias = _pair(weights, name)
    return np.ascontiguousarray(weight.T), bias


def _times(state: Floats, dense: tuple[Floats, Floats]) -> Floats:
    return state @ dense[0] + dense[1]


def _normed(state: Floats, weight: Floats, bias: Floats) -> Floats:
    centred = state - state.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + _EPSILON) * weight + bias


def _gelu(x: Floats) -> Floats:
    """x times the normal distribution's probability below x, by the error function's rational approximation 7.1.26 of
    Abramowitz and Stegun (largest error 1.5e-7)."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * np.float32(1.061405429))))
    )
    error = np.copysign(1 - series * np.exp(-z * z), x)
    return np.float32(0.5) * x * (1 + error)


def _cut(tokens: list[int], most: int) -> list[int]:
    return tokens if len(tokens) <= most else [*tokens[: most - 1], tokens[-1]]


def _batches(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * len(tokens[index]) > _BATCH_TOKENS_MAX:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _words(text: str) -> Iterator[str]:
    """Lower case without accents; punctuation and ideographs are words of their own."""
    plain = "".join([char for char in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(char) != "Mn"])
    word: list[str] = []
    for char in plain:
        alone = _stands_alone(char)
        if alone or char.isspace():
            if word:
                yield "".join(word)
                word.clear()
            if alone:
                yield char
        elif not (char in "\0\ufffd" or unicodedata.category(char).startswith("C")):
            word.append(char)
    if word:
        yield "".join(word)


def _stands_alone(char: str) -> bool:
    code = ord(char)
    if code < 128:
        return 33 <= code <= 126 and not char.isalnum()
    return unicodedata.category(char).startswith("P") or any(low <= code <= high for low, high in _IDEOGRAPHS)
