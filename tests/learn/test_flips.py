"""Questions that sound alike and want different answers: none is answered with the other's answer, however much is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from semantic_flips import HELD_OUT, flips
from semantic_small_flips import SMALL_FLIPS

from bursar.adapters.embedders import LocalEmbedder
from bursar.core.errors import ConfigError
from bursar.learn import guard_words
from bursar.learn.evidence import Evidence
from bursar.learn.guards import difference, signature
from bursar.learn.ngrams import hashed_ngrams
from bursar.learn.semantic import STATE_VERSION, SimilarAnswers
from minilm import minilm

FLIPS = tuple(flips(77))
OPENERS = ("", "Please, ", "Hello! ", "Thanks. ")


def promoted() -> SimilarAnswers:
    """As if a billion checks had agreed, in every stratum: nothing but the guards is left to refuse."""
    route = Evidence(0.05).state()
    for stratum in route["strata"]:
        stratum |= {"right": 10**9, "promoted": True, "passed": True, "checked": 10**9}
    answers = SimilarAnswers()
    answers.restore({"version": STATE_VERSION, "routes": {"route": route}})
    return answers


def served(embed: Callable[[Sequence[str]], Any], pairs: Sequence[tuple[Sequence[str], str]]) -> list[tuple[str, str]]:
    """The questions that got an answer, with what was found for them."""
    texts = list(dict.fromkeys(text for kept, asked in pairs for text in (*kept, asked)))
    vectors = dict(zip(texts, embed(texts), strict=True))
    found: list[tuple[str, str]] = []
    for kept, asked in pairs:
        answers = promoted()
        for number, text in enumerate(kept):
            answers.add("space", str(number), text, vectors[text], answer="the answer")
        match = answers.find("space", "route", asked, vectors[asked], delta=0.05, draw=0.999, shadow=0.0)
        if match is not None and match.serve:
            found.append((asked, match.why))
    return found


def spread(kept: Sequence[str]) -> list[str]:
    """Asked politely, too: the more questions agree, the surer a hit looks."""
    return [opener + text for text in kept for opener in OPENERS]


PAIRS = [(spread(flip.kept), flip.asked) for flip in FLIPS]
SMALL = [
    (kind, kept, asked) for kind, pairs in SMALL_FLIPS.items() for pair in pairs for kept, asked in (pair, pair[::-1])
]
SMALL_PAIRS = [(kept, asked) for _, one, asked in SMALL for kept in ([one], spread([one]))]
SAME = [
    (spread([flip.kept[0]]), "Kindly, " + flip.kept[0][:1].lower() + flip.kept[0][1:])
    for flip in FLIPS
    if flip.kind in {"held-out opposites", "number", "negation"}
]


def test_the_suite_is_large_and_holds_words_out() -> None:
    """More than a thousand pairs of many kinds; no guard's list has one of the opposites that are held out."""
    kinds = Counter(flip.kind for flip in FLIPS)
    assert sum(kinds.values()) >= 1_000
    assert len(kinds) >= 15
    listed = {*guard_words.AXES, *guard_words.NEGATIONS, *guard_words.QUANTIFIERS}
    assert not listed & {word for pair in HELD_OUT for word in pair}


def test_every_flip_is_a_difference() -> None:
    """The guards alone tell every pair apart, without what the vectors or the evidence say."""
    same = [
        (kept, flip.asked)
        for flip in FLIPS
        for kept in flip.kept
        if not difference(signature(kept), signature(flip.asked))
    ]
    assert same == []


def test_every_small_flip_is_a_difference() -> None:
    """A preposition, a pronoun, a letter, a sign, a form of a word: in all languages and from both sides, the guards see it."""
    assert len(SMALL) >= 300
    assert [each for each in SMALL if not difference(signature(each[1]), signature(each[2]))] == []


@pytest.mark.timeout(300)
def test_no_flip_is_served_by_ngrams() -> None:
    """With all evidence there could be, no flip gets the other question's answer; the question itself, worded a little differently,
    does."""
    assert served(hashed_ngrams, PAIRS) == []
    assert served(hashed_ngrams, SMALL_PAIRS) == []
    assert len(served(hashed_ngrams, SAME)) > len(SAME) * 0.9


@pytest.mark.timeout(900)
@pytest.mark.parametrize("each", [40, pytest.param(1, marks=pytest.mark.long)])
def test_no_flip_is_served_by_a_sentence_model(each: int) -> None:
    """The same with the local model, to which opposites are alike. It takes its time: the short run asks some of them."""
    try:
        model = LocalEmbedder(minilm())
    except ConfigError as error:
        pytest.skip(f"the local model is an optional part: {error}")
    assert served(model._encoder.encode, [(flip.kept, flip.asked) for flip in FLIPS[::each]]) == []
    assert served(model._encoder.encode, [([kept], asked) for _, kept, asked in SMALL[::each]]) == []
    assert len(served(model._encoder.encode, SAME[::each])) > len(SAME[::each]) * 0.9
