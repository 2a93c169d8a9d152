"""The sentence model in numpy: its tokens and its figures are those of the reference implementation."""

from __future__ import annotations

import numpy as np
import pytest

from bursar.adapters.embedders import LocalEmbedder
from bursar.core.errors import ConfigError
from bursar.learn.encoder import Encoder, WordPieces
from minilm import minilm

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##lock", "##ed", "cafe", "!", "中", "a", "lock"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Unlocked!", ["un", "##lock", "##ed", "!"]),
        ("CAFÉ\u00a0a", ["cafe", "a"]),
        ("中a中", ["中", "a", "中"]),
        ("lock\u0000ed locks", ["lock", "##ed", "[UNK]"]),
        ("a" * 101, ["[UNK]"]),
        ("  \t\n", []),
        ("a\u200b!", ["a", "!"]),
    ],
)
def test_words_become_pieces(text: str, pieces: list[str]) -> None:
    """Lower case, without accents and control characters, the longest piece first; what has no pieces is unknown as a whole."""
    assert [VOCABULARY[each] for each in WordPieces(VOCABULARY).ids(text)] == ["[CLS]", *pieces, "[SEP]"]


def tiny() -> Encoder:
    """Random weights of the right shapes."""
    draw = np.random.default_rng(1)
    width, wide = 8, 16
    shapes = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), width),
        "embeddings.position_embeddings.weight": (12, width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    for prefix in (
        "embeddings.LayerNorm",
        *(f"encoder.layer.{n}.{part}.LayerNorm" for n in (0, 1) for part in ("attention.output", "output")),
    ):
        shapes |= {prefix + ".weight": (width,), prefix + ".bias": (width,)}
    for number in (0, 1):
        dense = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        dense |= {
            "attention.output.dense": (width, width),
            "intermediate.dense": (wide, width),
            "output.dense": (width, wide),
        }
        for name, shape in dense.items():
            shapes |= {f"encoder.layer.{number}.{name}.weight": shape, f"encoder.layer.{number}.{name}.bias": shape[:1]}
    weights = {name: draw.standard_normal(shape) for name, shape in shapes.items()}
    return Encoder(weights, VOCABULARY, heads=2, tokens_max=10)


def test_company_does_not_matter() -> None:
    """A sentence has the same vector alone and among others of any length, of length one; a long one is cut."""
    encoder = tiny()
    texts = ["a", "unlocked cafe !", "lock", "中 " * 30, "", "a a a a a"]
    together = encoder.encode(texts)
    assert together.shape == (6, 8)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    for text, row in zip(texts, together, strict=True):
        assert encoder.encode([text])[0] == pytest.approx(row, abs=1e-5)
    assert encoder.encode(["中 " * 8])[0] == pytest.approx(together[3], abs=1e-5)
    assert encoder.encode(["a lock"])[0] != pytest.approx(encoder.encode(["lock a"])[0], abs=1e-3)


def test_the_packaged_model_gives_the_published_similarities() -> None:
    """The three sentences of the reference library's own introduction are as similar as it says: 0.6660, 0.1046, 0.1411."""
    try:
        encoder = LocalEmbedder(minilm())._encoder
    except ConfigError as error:
        pytest.skip(f"the local model is an optional part: {error}")
    rows = encoder.encode(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    similar = rows @ rows.T
    assert [similar[0, 1], similar[0, 2], similar[1, 2]] == pytest.approx([0.6660, 0.1046, 0.1411], abs=1e-4)
