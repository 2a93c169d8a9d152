"""What two wordings of one question have in common: the stems of words, the kind of question, tense and duty, what a preposition stands
before.

English, roughly: a stem that joins too much only means that texts are looked at as closer, and the closer they are the more of
them must be the same (``guards``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from .guard_words import FUNCTION_WORDS, LINKS, SAME_WORDS

__all__ = ["duties", "linked", "question_kind", "stem", "tense"]

_STEMS_MAX: Final = 16_384  # words come from strangers


@lru_cache(maxsize=_STEMS_MAX)
def stem(word: str) -> str:
    """A word without its inflection, roughly, and one word for listed synonyms."""
    word = SAME_WORDS.get(word, word)
    for ending in ("'s", "s'", "'"):
        word = word.removesuffix(ending)
    if len(word) > 4 and word.endswith(("ies", "ied")):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if (
            len(word) > len(ending) + 2
            and word.endswith(ending)
            and any(vowel in word[: -len(ending)] for vowel in "aeiouy")
        ):
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    word = SAME_WORDS.get(word, word)
    return word.removesuffix("e") if len(word) > 3 else word


_QUESTIONS: Final = (
    ("how many", re.compile(r"\bhow (?:many|much)\b|\bwhat (?:is|are|'s) the (?:price|cost|fee|amount|number)s?\b|\bwhat.{0,20} cost\b|\bcombien\b|\bwie ?viele?\b|\bcuánt[oa]s?\b")),
    ("how long", re.compile(r"\bhow (?:long|far|old|fast|big|large|tall|deep|wide|heavy)\b")),
    ("how often", re.compile(r"\bhow (?:often|frequently)\b|\bhow many times\b")),
    ("when", re.compile(r"\b(?:when|how soon|(?:at )?what (?:time|date|day|year|month))\b|^(?:wann|quand|cuándo|quando|wanneer)\b")),
    ("where", re.compile(r"\bwhere(?:'s|s)?\b|\bwhat (?:place|city|country)\b|^(?:wo|où|dónde|dove|onde|waar)\b")),
    ("why", re.compile(r"\bwhy\b|\bhow come\b|\bwhat (?:is|was|are|were|'s) the (?:reason|cause)s?\b|\bwhat (?:causes|caused)\b|\bthe reason\b|^(?:warum|wieso|pourquoi|perché|waarom)\b|\bpor qu[eé]\b")),
    ("who", re.compile(r"\bwho(?:m|se|'s)?\b|^(?:wer|qui|quién|chi|quem|wie is)\b")),
    ("which", re.compile(r"\bwhich\b")),
    ("how", re.compile(r"\bhow\b|^(?:comment|cómo|come|como|hoe)\b")),
    ("what", re.compile(r"\bwhat(?:'s|s)?\b")),
)  # fmt: skip


def question_kind(text: str) -> str:
    """What is asked for; the first kind in a fixed order. Telling, asking for yes or no, and bidding are ""."""
    return next((name for name, pattern in _QUESTIONS if pattern.search(text)), "")


def linked(words: list[str]) -> Iterator[tuple[str, str]]:
    """Words of content with the preposition or conjunction right before them, articles and the like aside, and "" with the last one."""
    link = ""
    for word in words:
        if word in LINKS:
            link = word
        elif word not in FUNCTION_WORDS and word[0].isalpha():
            if link:
                yield stem(word), link
            link = ""
    if link:
        yield "", link  # what a question ends with


_OBLIGED: Final = frozenset({"must", "mandatory", "required", "obliged", "obligatory", "compulsory"})


def duties(words: list[str]) -> Iterator[str]:
    """What must, should or may be."""
    for index, word in enumerate(words):
        if word in _OBLIGED:
            yield "must"
        elif word in {"should", "ought"}:
            yield "should"
        elif (
            word in {"have", "need", "has", "needs"}
            and words[index + 1 : index + 2] == ["to"]
            and {"do", "does"} & set(words[:index])
        ):
            yield "must"
        elif word in {"may", "might", "allowed", "permitted"}:
            yield "may"


def tense(words: frozenset[str]) -> str:
    """ "past", "future", or "" where it is neither or both."""
    future = not words.isdisjoint({"will", "wo", "ll", "gonna", "shall"})
    past = not words.isdisjoint({"did", "was", "were", "had", "has", "been", "ago"})
    return "" if future == past else "future" if future else "past"
