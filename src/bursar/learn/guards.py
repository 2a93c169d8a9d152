"""What makes two like-sounding questions two questions: numbers, negation, names, quotes, code, order. No model, no I/O.

Rule 1: a guard can only refuse. Texts between which none finds a difference are not thereby the same question.
Rule 2: what is compared is read once per text (``signature``); a comparison then costs microseconds.
Rule 3: where next to everything is the same, what is not is the point: texts that differ in one or two words of content are
        refused whatever the words are, so that an opposite nobody listed is no hole ("admit the guest", "expel the guest").
        Only inflections, listed synonyms, and words that questions with the same answer were seen with and without pass.
Rule 4: doubt refuses. Words are told apart by lists and shapes, in English first; texts of other languages pass the guards of
        numbers, spans, names, script and words, and a few of their negations are known.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from .guard_words import (
    AXES,
    CURRENCIES,
    FUNCTION_WORDS,
    LANGUAGES,
    MONTHS,
    NEGATIONS,
    NUMBER_WORDS,
    PLACES,
    QUANTIFIERS,
    SAME_WORDS,
    TIME_WORDS,
    UNITS,
    WEEKDAYS,
)

__all__ = ["Signature", "difference", "signature", "unknown_words"]


class Signature(NamedTuple):
    """What is compared of one text. Opaque but for that: it is hashable, and equal for equal texts."""

    spans: tuple[str, ...]
    codes: tuple[str, ...]
    numbers: tuple[str, ...]
    times: tuple[str, ...]
    money_and_places: tuple[str, ...]
    negations: int
    quantities: frozenset[str]
    duties: frozenset[str]
    tense: str
    owner: str
    people: tuple[str, ...]
    question: str
    script: str
    language: str
    axes: tuple[tuple[str, frozenset[str]], ...]
    directed: bool
    names: frozenset[str]
    words: frozenset[str]
    content: tuple[str, ...]


def difference(one: Signature, other: Signature, known: Sequence[Signature] = ()) -> str:
    """Why the other text's answer cannot stand for this one's, in words; "" where no guard says so. ``known`` are questions that have
    the other's answer: what they say in either way is not what the answer depends on (rule 3)."""
    if one == other:
        return ""
    for name, field in _EQUAL:
        mine, theirs = getattr(one, field), getattr(other, field)
        if mine != theirs:
            return f"{name} differ ({_shown(mine)} / {_shown(theirs)})"
    return _kinds(one, other) or _opposites(one, other) or _names(one, other) or _words(one, other, known)


def unknown_words(asked: Signature, known: Iterable[Signature]) -> list[str]:
    """Words of content of a question that none of the others has, as they stand in it."""
    stems = frozenset[str]().union(*(each.content for each in known))
    missing = [stem for stem in asked.content if stem not in stems]
    return sorted(word for word in asked.words if _stem(word) in missing)


_EQUAL: Final = (
    ("quoted words or code", "spans"),
    ("names, codes or addresses", "codes"),
    ("numbers", "numbers"),
    ("times", "times"),
    ("places or currencies", "money_and_places"),
    ("negations", "negations"),
    ("quantities", "quantities"),
    ("duties", "duties"),
    ("scripts", "script"),
)

_PLAIN: Final = frozenset({"", "how", "what"})


def _kinds(one: Signature, other: Signature) -> str:
    if one.question != other.question and not {one.question, other.question} <= _PLAIN:
        return f"kinds of question differ ({one.question or 'none'} / {other.question or 'none'})"
    if one.language and other.language and one.language != other.language:
        return f"languages differ ({one.language} / {other.language})"
    if {one.tense, other.tense} == {"past", "future"}:
        return f"tenses differ ({one.tense} / {other.tense})"
    if one.owner and other.owner and one.owner != other.owner:
        return f"whose it is differs ({one.owner} / {other.owner})"
    if one.people != other.people:
        return f"people differ ({_shown(one.people)} / {_shown(other.people)})"
    return ""


def _opposites(one: Signature, other: Signature) -> str:
    mine = dict(one.axes)
    for axis, theirs in other.axes:
        sides = mine.get(axis)
        if sides is not None and sides != theirs:
            return f"opposites: {axis}"
    return ""


def _names(one: Signature, other: Signature) -> str:
    missing = sorted((one.names - other.words) | (other.names - one.words))
    return f"names differ ({_shown(missing)})" if missing else ""


def _words(one: Signature, other: Signature, known: Sequence[Signature]) -> str:
    mine, theirs = frozenset(one.content), frozenset(other.content)
    only_mine, only_theirs = sorted(mine - theirs), sorted(theirs - mine)
    most = max(len(only_mine), len(only_theirs))
    if most == 0 or one.directed or other.directed:
        order = [word for word in one.content if word in theirs]
        if order != [word for word in other.content if word in mine]:
            return f"the order of words differs ({_shown(one.content)} / {_shown(other.content)})"
    if 0 < most <= _FEW_WORDS and not (
        all(sum(word in each.content for each in known) >= _SAID_EITHER_WAY for word in only_mine)
        and all(sum(word not in each.content for each in known) >= _SAID_EITHER_WAY for word in only_theirs)
    ):
        return f"only a few words differ ({_shown(only_mine)} / {_shown(only_theirs)})"
    return ""


_FEW_WORDS: Final = 2
_STEMS_MAX: Final = 16_384  # words come from strangers
_SAID_EITHER_WAY: Final = 2
_SHOWN_MAX: Final = 6


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list, frozenset)):
        parts = [str(part) for part in (sorted(value) if isinstance(value, frozenset) else value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - of strings
        return ", ".join(parts[:_SHOWN_MAX]) + (" ..." if len(parts) > _SHOWN_MAX else "") if parts else "none"
    return str(value) if value or value == 0 else "none"


_SPAN: Final = re.compile(
    r"```(.+?)```|`([^`]+)`|\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|「([^」]+)」|(?<!\w)'([^']+)'(?!\w)|(?<!\w)\u2018([^\u2019]+)\u2019(?!\w)",
    re.DOTALL,
)
# What is compared as it stands, by the shape of what is between spaces: an address, a name of code or of a file, a version, letters
# and digits in one word, operators. Every pattern is read once from left to right.
_CODE: Final = re.compile(
    r"://|^www\.|@|^\#\w|^--?[A-Za-z]|^~?\.{0,2}/\w|\$[A-Za-z]|\w\(|::|->|\w_\w|[a-z][A-Z]|\w\.[a-z]|\d\.\d+\.\d|^v\d|[{}\[\];\\]"
)
_MIXED: Final = re.compile(r"[A-Za-z]-?\d|\d-?[A-Za-z]")
_MEASURE: Final = re.compile(r"[$€£¥₹₩₽]?-?\d+(?:[.,]\d+)*(?:[A-Za-z]{1,3}|%)?")
_OPERATOR: Final = re.compile(r"[=<>!+*/&|^%~]+")
_NUMBER: Final = re.compile(
    r"([$€£¥₹₩₽])?\s?([-\u2212]?\d+(?:[.,:/]\d+)*)\s?(%|[$€£¥₹₩₽]|(?:st|nd|rd|th)\b|[a-zµ]+\b)?", re.IGNORECASE
)
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_SENTENCE_ENDS: Final = frozenset('.!?:;*("-\u2013•')
_SPOKEN: Final = str.maketrans({"\u2019": "'", "\u00a0": " "})


@lru_cache(maxsize=_STEMS_MAX)
def _stem(word: str) -> str:
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


def signature(text: str) -> Signature:
    """What of a text is compared, for ``difference``. Some tens of microseconds for a sentence."""
    text = unicodedata.normalize("NFC", text).translate(_SPOKEN)
    spans, text = _taken(text)
    codes, text = _codes(text)
    numbers, text = _numbers(text)
    found = list(_WORD.finditer(text))
    lower = [match.group().casefold() for match in found]
    plain = [part for word in lower for part in _parts(word)]
    numbers += _spelled(plain)
    words = frozenset(plain)
    axes: dict[str, set[str]] = {}
    for word in plain:
        if (axis := AXES.get(word)) is not None:
            axes.setdefault(axis[0], set()).add(axis[0].split(" / ")[axis[1]])
    content = [
        _stem(word)
        for before, word in zip(("", *plain), plain, strict=False)
        if word not in FUNCTION_WORDS and word not in NUMBER_WORDS and not (word in UNITS and before in NUMBER_WORDS)
    ]
    return Signature(
        spans=tuple([" ".join(span.split()) for span in spans]),
        codes=tuple(codes),
        numbers=tuple(numbers),
        times=tuple(sorted(_times(plain, found))),
        money_and_places=tuple([CURRENCIES.get(word, word) for word in plain if word in CURRENCIES or word in PLACES]),
        negations=sum(word in NEGATIONS for word in plain),
        quantities=frozenset(QUANTIFIERS[word] for word in plain if word in QUANTIFIERS),
        duties=frozenset(_duties(plain)),
        tense=_tense(words),
        owner=_owner(words),
        people=_people(plain),
        question=_question(text.casefold()),
        script=_script(text),
        language=_language(plain),
        axes=tuple(sorted((axis, frozenset(sides)) for axis, sides in axes.items())),
        directed=not words.isdisjoint(_DIRECTED),
        names=frozenset(_capitalised(text, found)),
        words=words,
        content=tuple(dict.fromkeys(content)),
    )


def _parts(word: str) -> tuple[str, ...]:
    """A word, and what is written together with it: n't, 's, 'll."""
    if "'" not in word:
        return (word,)
    if word.endswith("n't"):
        return (word[:-3], "n't")
    before, _, after = word.partition("'")
    return (before, after) if after in {"s", "ll", "ve", "re", "m", "d"} else (word,)


_DIRECTED: Final = frozenset(
    {"than", "over", "from", "into", "instead", "against", "versus", "vs", "before", "after", "beats"}
)


def _taken(text: str) -> tuple[list[str], str]:
    """What is quoted, and the text without it."""
    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        found.append(match.group(match.lastindex or 0))
        return " "

    return found, _SPAN.sub(take, text)


def _codes(text: str) -> tuple[list[str], str]:
    found: list[str] = []
    others: list[str] = []
    for chunk in text.split():
        bare = chunk.strip(_AROUND).rstrip(".")
        mixed = _MIXED.search(bare) and not _MEASURE.fullmatch(bare)
        if bare and (mixed or _CODE.search(bare) or _OPERATOR.fullmatch(bare)):
            found.append(bare)
            # An end of a sentence stays one.
            others.append("." if chunk[-1] in ".!?" else " ")
        else:
            others.append(chunk)
    return found, " ".join(others)


_AROUND: Final = ",:!?\"'"


def _numbers(text: str) -> tuple[list[str], str]:
    found: list[str] = []
    for match in _NUMBER.finditer(text):
        sign, digits, unit = match.groups()
        value = re.sub(r"[,](?=\d{3}\b)", "", digits).replace("\u2212", "-").replace(",", ".")
        unit = (unit or "").casefold()
        named = UNITS.get(unit) or CURRENCIES.get(unit) or ("th" if unit in {"st", "nd", "rd", "th"} else "")
        if unit and not named and (unit in {"bn", "mio"} or unit in NUMBER_WORDS):
            named = unit
        money = CURRENCIES.get(sign or "", "")
        found.append(" ".join(part for part in (value, money, named) if part))
    return found, _NUMBER.sub(lambda match: " " + _kept(match.group(3)) + " ", text)


def _kept(unit: str | None) -> str:
    """The word after a number that is not its unit."""
    word = (unit or "").casefold()
    known = (
        not word
        or word in UNITS
        or word in CURRENCIES
        or word in NUMBER_WORDS
        or word in {"st", "nd", "rd", "th", "bn", "mio"}
    )
    return "" if known else unit or ""


def _spelled(words: list[str]) -> list[str]:
    """Numbers written as words, each run of them as one. A lone "one" is a pronoun or an article."""
    found: list[str] = []
    total = part = 0
    run = ""
    for word in (*words, "."):
        value = NUMBER_WORDS.get(word)
        if value is None:
            if run and word == "and":
                continue
            if run and total + part != 1:
                unit = UNITS.get(word, "")
                found.append(f"{total + part} {unit}".rstrip())
            total, part, run = 0, 0, ""
            continue
        run = word
        if value >= 1000:
            total, part = total + max(part, 1) * value, 0
        elif value == 100:
            part = max(part, 1) * value
        else:
            part += value
    return found


def _times(words: list[str], found: list[re.Match[str]]) -> Iterator[str]:
    for word in words:
        if word in MONTHS and word != "march":
            yield f"month {MONTHS[word]}"
        elif word in WEEKDAYS:
            yield f"weekday {WEEKDAYS[word]}"
        elif word in TIME_WORDS:
            yield TIME_WORDS[word]
    for match in found:
        if match.group() in {"May", "March"} and match.start():
            yield f"month {5 if match.group() == 'May' else 3}"


_OBLIGED: Final = frozenset({"must", "mandatory", "required", "obliged", "obligatory", "compulsory"})


def _duties(words: list[str]) -> Iterator[str]:
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


def _tense(words: frozenset[str]) -> str:
    future = not words.isdisjoint({"will", "wo", "ll", "gonna", "shall"})
    past = not words.isdisjoint({"did", "was", "were", "had", "has", "been", "ago"})
    return "" if future == past else "future" if future else "past"


def _owner(words: frozenset[str]) -> str:
    mine = not words.isdisjoint({"my", "mine", "our", "ours"})
    yours = not words.isdisjoint({"your", "yours"})
    return "" if mine == yours else "mine" if mine else "yours"


_THIRD: Final = frozenset(
    {"he", "him", "his", "she", "her", "hers", "they", "them", "their", "theirs", "himself", "herself", "themselves"}
)
_FIRST: Final = frozenset({"i", "me", "my", "we", "us", "our", "you", "your"})


def _people(words: list[str]) -> tuple[str, ...]:
    """Who does what to whom, where others than the two who talk are in it."""
    if _THIRD.isdisjoint(words):
        return ()
    return tuple(word for word in words if word in _THIRD or word in _FIRST)


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


def _question(text: str) -> str:
    """What is asked for; the first kind in a fixed order. Telling, asking for yes or no, and bidding are ""."""
    return next((name for name, pattern in _QUESTIONS if pattern.search(text)), "")


def _script(text: str) -> str:
    names = {_script_of(char) for char in text if char.isalpha()}
    return "+".join(sorted(names))


@lru_cache(maxsize=_STEMS_MAX)
def _script_of(char: str) -> str:
    return "LATIN" if char.isascii() else unicodedata.name(char, "OTHER").split()[0]


def _language(words: list[str]) -> str:
    """The language whose small words are in it at least twice, and more often than any other's."""
    counts = sorted(((sum(word in known for word in words), name) for name, known in LANGUAGES.items()), reverse=True)
    return counts[0][1] if counts[0][0] >= 2 and counts[0][0] > counts[1][0] else ""


def _capitalised(text: str, found: Iterable[re.Match[str]]) -> Iterator[str]:
    """Capitalised words inside sentences; none where nearly all are, as in headings and shouting."""
    words = list(found)
    high = [match for match in words if match.group()[0].isupper()]
    if len(words) > 2 and len(high) > len(words) * 0.6:
        return
    for match in high:
        word = match.group().casefold()
        if word in FUNCTION_WORDS or _parts(word)[0] in FUNCTION_WORDS or _begins(text, match.start()):
            continue
        yield _parts(word)[0]


def _begins(text: str, start: int) -> bool:
    """Whether a sentence, or an item of a list, begins here."""
    while start and text[start - 1].isspace():
        if text[start - 1] == "\n":
            return True
        start -= 1
    return not start or text[start - 1] in _SENTENCE_ENDS
