"""What makes two like-sounding questions two questions. No model, no I/O.

Rule 1: a guard can only refuse, and doubt refuses. Texts between which none finds a difference are not thereby the same question.
Rule 2: what is compared is read once per text (``signature``); a comparison then costs microseconds.
Rule 3: everything that is written counts, in its order: every word, sign, figure, quote, capital, comma. Two texts are the same only but for
        spaces, the capital and the stop or question mark of a sentence, contractions ("what's"), "how to" for "how do I",
        numbers in words, units in full ("5 mi"), and what is said out of politeness before or after (``POLITE``). No word stands for another, in any form:
        not a park for parking, nor a plan for a plane.
Rule 4: what no neighbour can excuse is the same in any two texts (``_EQUAL``: numbers, names, negations, signs ...; opposites).
Rule 5: beyond that, the closer two texts are, the more all of it is the point. Where no word of content differs but in its form, people,
        prepositions, conjunctions, tense and question words are the same too (``_FRAME``). Where words do, the kind of question is, and
        what stands before the same noun.
Rule 6: one or two words of content, and articles, auxiliaries and commas, differ only where questions with the same answer were seen with
        and without them, twice each, or where the question stands between two of them: all that one says it says, all that it says
        the other says. More words differ where questions with the answer say what is said, and not all of them what is not.
        Not where yes or no is asked for: many questions have that answer.
Rule 7: rules 5 and 6 are for English, whose small words are known. In other languages of Latin script every word is compared, and in other scripts
        the whole text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from .guard_words import (
    ASKING,
    ASKS,
    AXES,
    CONTRACTIONS,
    CURRENCIES,
    FUNCTION_WORDS,
    HOMOGRAPHS,
    LANGUAGES,
    LINKS,
    MONTHS,
    NEGATIONS,
    NUMBER_WORDS,
    PEOPLE,
    PLACES,
    POLITE,
    QUANTIFIERS,
    SPOKEN_OF,
    TIME_WORDS,
    UNITS,
    WEEKDAYS,
)
from .wording import duties, linked, question_kind, stem, tense

__all__ = ["Signature", "difference", "signature", "unknown_words"]


class Signature(NamedTuple):
    """What is compared of one text. Opaque but for that: it is hashable, and equal for equal texts."""

    spans: tuple[str, ...]
    codes: tuple[str, ...]
    numbers: tuple[str, ...]
    signs: tuple[str, ...]
    short: tuple[str, ...]
    times: tuple[str, ...]
    money_and_places: tuple[str, ...]
    negations: int
    quantities: frozenset[str]
    duties: frozenset[str]
    asking: tuple[str, ...]
    people: tuple[str, ...]
    links: tuple[str, ...]
    script: str
    language: str
    tense: str
    axes: tuple[tuple[str, frozenset[str]], ...]
    names: frozenset[str]
    words: frozenset[str]
    content: tuple[str, ...]
    stems: tuple[str, ...]
    linked: tuple[tuple[str, str], ...]
    question: str
    said: tuple[str, ...]


def difference(one: Signature, other: Signature, known: Sequence[Signature] = ()) -> str:
    """Why the other text's answer cannot stand for this one's, in words; "" where no guard says so. ``known`` are questions that have
    the other's answer (rule 6)."""
    if all(getattr(one, field) == getattr(other, field) for field in _WRITTEN):
        return ""
    if one.language and other.language and one.language != other.language:
        return f"languages differ ({one.language} / {other.language})"
    reason = _unequal(one, other, _EQUAL) or _opposites(one, other) or _names(one, other)
    if reason:
        return reason
    apart = _apart(one, other)
    if not apart or one.language not in _JUDGED:
        return _unequal(one, other, _FRAME) or _words(one, other, known)
    near = apart <= _FEW_WORDS
    if reason := _kinds(one, other, near=near):
        return reason
    if near:
        return _words(one, other, known)
    if _YES_OR_NO in (one.asking, other.asking):
        return "yes or no is asked for in other words"
    return _beside(one, other, known)


def _apart(one: Signature, other: Signature) -> int:
    """In how many words of content two texts differ, whatever their forms."""
    mine, theirs = frozenset(one.stems), frozenset(other.stems)
    return max(len(mine - theirs), len(theirs - mine))


def _kinds(one: Signature, other: Signature, *, near: bool) -> str:
    """What must agree in two wordings: of two that are near, all that is no word too."""
    if near and (mine := _wordless(one)) != (theirs := _wordless(other)):
        return f"words differ ({_shown(mine)} / {_shown(theirs)})"
    if {one.tense, other.tense} == {"past", "future"}:
        return f"tenses differ ({one.tense} / {other.tense})"
    if one.question != other.question and (near or not {one.question, other.question} <= _PLAIN):
        return f"kinds of question differ ({one.question or 'none'} / {other.question or 'none'})"
    mine, theirs = dict(one.linked), dict(other.linked)
    for noun in mine.keys() & theirs.keys():
        if mine[noun] != theirs[noun]:
            return f"prepositions or conjunctions differ ({mine[noun]} / {theirs[noun]} {noun})"
    return ""


def _wordless(one: Signature) -> list[str]:
    return sorted(word for word in one.words if not word[0].isalpha() and not "\ue000" <= word[0] <= "\ue00b")


def _beside(one: Signature, other: Signature, known: Sequence[Signature]) -> str:
    """What one says beside that no question with the answer says, or the other and all of them."""
    mine, theirs = frozenset(one.stems), frozenset(other.stems)
    new = [word for word in one.stems if word not in theirs and not any(word in each.stems for each in known)]
    missed = [word for word in other.stems if word not in mine and all(word in each.stems for each in known)]
    return f"words differ ({_shown(sorted(new))} / {_shown(sorted(missed))})" if new or missed else ""


def unknown_words(asked: Signature, known: Iterable[Signature]) -> list[str]:
    """Words of content of a question that none of the others has, as they stand in it."""
    missing = frozenset(asked.stems).difference(*(each.stems for each in known))
    return sorted(word for word in asked.content if stem(word.lower()) in missing)


_EQUAL: Final = (
    ("quoted words or code", "spans"),
    ("names, codes or addresses", "codes"),
    ("numbers", "numbers"),
    ("signs", "signs"),
    ("scripts", "script"),
    ("short names", "short"),
    ("times", "times"),
    ("places or currencies", "money_and_places"),
    ("negations", "negations"),
    ("quantities", "quantities"),
    ("duties", "duties"),
)
_FRAME: Final = (
    ("tenses", "tense"),
    ("kinds of question", "asking"),
    ("people", "people"),
    ("prepositions or conjunctions", "links"),
)
_WRITTEN: Final = ("said", "spans", "codes", "asking", "script")
_YES_OR_NO: Final = ("?",)


def _unequal(one: Signature, other: Signature, fields: Sequence[tuple[str, str]]) -> str:
    for name, field in fields:
        mine, theirs = getattr(one, field), getattr(other, field)
        if mine != theirs:
            return f"{name} differ ({_shown(mine)} / {_shown(theirs)})"
    return ""


def _opposites(one: Signature, other: Signature) -> str:
    mine = dict(one.axes)
    for axis, theirs in other.axes:
        sides = mine.get(axis)
        if sides is not None and sides != theirs:
            return f"opposites: {axis}"
    return ""


def _names(one: Signature, other: Signature) -> str:
    missing = sorted((one.names - set(map(str.lower, other.words))) | (other.names - set(map(str.lower, one.words))))
    return f"names differ ({_shown(missing)})" if missing else ""


def _words(one: Signature, other: Signature, known: Sequence[Signature]) -> str:
    only_mine, only_theirs = sorted(one.words - other.words), sorted(other.words - one.words)
    if not only_mine and not only_theirs:
        return f"the order of words differs ({_shown(one.said)} / {_shown(other.said)})"
    if one.language in _JUDGED and one.asking != _YES_OR_NO:
        for each in known:
            if (_between(other, one, each) or _between(each, one, other)) and not (
                _unequal(one, each, _EQUAL) or _opposites(one, each) or _names(one, each)
            ):
                return ""
        only = (frozenset(one.stems) - frozenset(other.stems), frozenset(other.stems) - frozenset(one.stems))
        if (
            any(only)
            and _forms(one, other)
            and all(
                sum((word in each.stems) is said for each in known) >= _SAID_EITHER_WAY
                for words, said in zip(only, (True, False), strict=True)
                for word in words
            )
        ):
            return ""
    return f"words differ ({_shown(only_mine)} / {_shown(only_theirs)})"


def _forms(one: Signature, other: Signature) -> bool:
    """Whether what two texts both say has the same forms in both: a park is not parking."""
    shared = frozenset(one.stems) & frozenset(other.stems)
    return all(
        {word for word in one.content if stem(word.lower()) == each}
        == {word for word in other.content if stem(word.lower()) == each}
        for each in shared
    )


def _between(less: Signature, one: Signature, more: Signature) -> bool:
    """Whether a text says what another says and more, and nothing that a third does not say."""
    return (
        less.words & more.words <= one.words <= less.words | more.words
        and _within(less.content, one.content)
        and _within(one.content, more.content)
    )


def _within(some: Sequence[str], words: Sequence[str]) -> bool:
    """Whether some words stand among others in the same order."""
    left = iter(words)
    return all(word in left for word in some)


_JUDGED: Final = frozenset({"", "English"})
_FEW_WORDS: Final = 2
_SAID_EITHER_WAY: Final = 2
_PLAIN: Final = frozenset({"", "how", "what"})
_SHOWN_MAX: Final = 6
_KINDS_OF_CHARS_MAX: Final = 16_384  # texts come from strangers


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list, frozenset)):
        parts = [str(part).translate(_READABLE) for part in (sorted(value) if isinstance(value, frozenset) else value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - of strings
        return ", ".join(parts[:_SHOWN_MAX]) + (" ..." if len(parts) > _SHOWN_MAX else "") if parts else "none"
    return str(value) if value or value == 0 else "none"


_SPAN: Final = re.compile(
    r"```.+?```|`[^`]+`|\"[^\"]+\"|“[^”]+”|«[^»]+»|「[^」]+」|(?<!\w)'[^']+'(?!\w)|(?<!\w)\u2018[^\u2019]+\u2019(?!\w)",
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
    r"([$€£¥₹₩₽])?\s?([-\u2212]?(?:\d+(?:[.,:/]\d+)*|\.\d+))\s?(%|[$€£¥₹₩₽]|(?:st|nd|rd|th)\b|[a-zµ]+\b)?",
    re.IGNORECASE,
)
# What stands in a text for what is taken out of it (a quote, a code, a number), for a new line and each space it is indented by, and for what
# divides a sentence: a comma is said, but is no sign.
_QUOTE, _CODED, _COUNTED, _LINE, _INDENT = "\ue000", "\ue001", "\ue002", "\ue003", "\ue004"
_PAUSES: Final = {
    ",": "\ue005",
    ";": "\ue006",
    ".": "\ue007",
    ":": "\ue008",
    "!": "\ue009",
    "?": "\ue00a",
    "-": "\ue00b",
}
_STARTS: Final = frozenset({_LINE, *(_PAUSES[each] for each in ".:!?")})
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|[\ue000-\ue00b]| ?[^\w\s\ue000-\ue00b]+ ?|\S")
_READABLE: Final = str.maketrans(
    {**dict.fromkeys((_QUOTE, _CODED, _COUNTED, _LINE, _INDENT)), **{mark: sign for sign, mark in _PAUSES.items()}}
)
_LAST: Final = re.compile(r"(?<=\S)[.?]\s*$")
_PAUSE: Final = re.compile(
    r"(?:(?<=[^\W\d_]{2})|(?<=[\ue000-\ue002]))(?:[,;.:](?=\s)|[!?](?=\s+[^\W\d_a-z]|\s*$))|(?<=[^\W\d_]{2})-(?=[^\W\d_]{2})"
)
_LINES: Final = re.compile(r"\n([ \t]*)")
_SPOKEN: Final = str.maketrans(
    {"\u2019": "'", "\u00a0": " ", "\u202f": " ", **dict.fromkeys(map(chr, range(0xE000, 0xE00C)), "\ufffd")}
)


def signature(text: str) -> Signature:
    """What of a text is compared, for ``difference``. Some 0.3 ms for a sentence."""
    text = _impolite(unicodedata.normalize("NFC", text).translate(_SPOKEN).strip())
    script = _script(text)
    text = _LINES.sub(lambda match: f" {_LINE}{_INDENT * len(match.group(1))} ", text)
    if script != "LATIN":
        return _whole(text, script)
    spans, text = _taken(text)
    codes, text = _codes(text)
    figures, text = _numbers(text)
    said, numbers = _counted(list(_tokens(text)), figures)
    words = frozenset(said)
    lower = [word.lower() for word in said]
    content = dict.fromkeys(word for word in said if word[0].isalpha() and word not in FUNCTION_WORDS)
    axes: dict[str, set[str]] = {}
    for word in lower:
        if (axis := AXES.get(word)) is not None:
            axes.setdefault(axis[0], set()).add(axis[0].split(" / ")[axis[1]])
    return Signature(
        spans=tuple(spans),
        codes=tuple(codes),
        numbers=tuple(numbers),
        signs=tuple([word for word in said if _is_sign(word)]),
        short=tuple([word for word in said if len(word) <= 2 and word.isalpha() and word not in _SMALL]),
        times=tuple(_times(said, lower)),
        money_and_places=tuple([CURRENCIES.get(word, word) for word in lower if word in CURRENCIES or word in PLACES]),
        negations=sum(word in NEGATIONS for word in lower),
        quantities=frozenset(QUANTIFIERS[word] for word in lower if word in QUANTIFIERS),
        duties=frozenset(duties(lower)),
        asking=(*(["?"] if text.endswith("?") or (lower and lower[0] in ASKS) else []), *_asking(lower)),
        people=tuple([word for word in lower if word in PEOPLE]),
        links=tuple([word for word in lower if word in LINKS]),
        script=script,
        language=_language(lower),
        tense=tense(frozenset(lower)),
        axes=tuple(sorted((axis, frozenset(sides)) for axis, sides in axes.items())),
        names=frozenset(_capitalised(text)),
        words=words,
        content=tuple(content),
        stems=tuple(dict.fromkeys(map(stem, map(str.lower, content)))),
        linked=tuple(linked(lower)),
        question=question_kind(" ".join(lower)),
        said=tuple(said),
    )


_SMALL: Final = FUNCTION_WORDS | LINKS


_SHOUTED: Final = re.compile(r" ?[.?!]{2,} ?")


def _is_sign(word: str) -> bool:
    return not (
        word[0].isalnum()
        or "\ue000" <= word[0] <= "\ue00b"
        or (word[0] == "'" and len(word) > 1)
        or _SHOUTED.fullmatch(word)
    )


def _whole(text: str, script: str) -> Signature:
    """Of a text in which words cannot be told apart, all of it is compared but for spaces and a stop at its end."""
    said = tuple((text[:1].lower() + text[1:].rstrip(".。।")).split())
    none: frozenset[str] = frozenset()
    return Signature(
        (), (), (), (), (), (), (), 0, none, none, (), (), (), script, "", "", (), none, frozenset(said), tuple(dict.fromkeys(said)), tuple(dict.fromkeys(said)), (), "", said
    )  # fmt: skip


_BEFORE: Final = re.compile(
    r"\s*(?:(?:" + "|".join(POLITE["asking"]) + r")[,:]?\s+(?=\w)|(?:" + "|".join(POLITE["greeting"]) + r")\s*[,.!:]+\s+(?=\w)"
    r"|(?:" + "|".join(POLITE["opening"]) + r")\s*:\s+(?=\w))",
    re.IGNORECASE,
)  # fmt: skip
_AFTER: Final = re.compile(
    r"[,.!?]\s*(?:" + "|".join((*POLITE["asking"], *POLITE["greeting"])) + r")\s*[.!]*\s*$", re.IGNORECASE
)
_TALK: Final = re.compile(
    r"\b(?:" + "|".join((*POLITE["asking"], *POLITE["greeting"], *SPOKEN_OF)) + r")\b", re.IGNORECASE
)


def _impolite(text: str) -> str:
    """A text without the polite words around it. Where what is left speaks of such words, they are what it is about, and stay."""
    left, place = text, 0
    while (match := _BEFORE.match(left, place)) is not None:
        place = match.end()
    left = _AFTER.sub("", left[place:])
    return text if len(left) != len(text) and _TALK.search(left) else left


def _tokens(text: str) -> Iterator[str]:
    """The words and signs of a text, without layout."""
    text = _PAUSE.sub(lambda match: f" {_PAUSES[match.group()]} ", _LAST.sub("", text))
    start = True
    before = ""
    for token in _TOKEN.findall(" ".join(text.split())):
        for part in _parts(token, before):
            if part:
                before = _folded(part, start)
                start = part in _STARTS
                yield before


def _parts(token: str, before: str) -> Sequence[str]:
    """A word, and what is written together with it: n't, 's, 'll. "How to" is how one does it."""
    if not token[0].isalpha():
        return (token,)
    lower = token.lower()
    if lower == "to" and before == "how":
        return ("do", "i")
    if (parts := CONTRACTIONS.get(lower)) is not None:
        return (token[: len(parts[0])], *parts[1:]) if lower.startswith(parts[0]) else parts
    if "'" not in token:
        return (token,)
    if lower.endswith("n't"):
        return (token[:-3], "not")
    word, _, after = token.partition("'")
    return (word, _ENDINGS.get(after.lower(), "'" + after))


_ENDINGS: Final = {"m": "am", "re": "are", "ve": "have", "ll": "will"}


def _folded(word: str, start: bool) -> str:
    """A word without the capital of a sentence's beginning. Others say something: US and us, IT and it, Will and will, Polish and polish
    are not the same."""
    if word == "I" or (start and word.istitle() and word.lower() not in HOMOGRAPHS):
        return word.lower()
    return word


def _counted(words: list[str], figures: list[str]) -> tuple[list[str], list[str]]:
    """The words with every number in its place, in figures or in words, and the numbers. A lone "one" is a pronoun or an article."""
    said: list[str] = []
    numbers: list[str] = []
    left = iter(figures)
    place = 0
    while place < len(words):
        word = words[place]
        value, after = _value(words, place)
        if word == _COUNTED:
            number, place = next(left), place + 1
        elif after > place and value != 1:
            unit = _unit(words[after]) if after < len(words) else ""
            number, place = f"{value} {unit}".rstrip(), after + bool(unit)
        else:
            said.append(word)
            place += 1
            continue
        numbers.append(number)
        said.append(_COUNTED + number)
    return said, numbers


def _value(words: list[str], start: int) -> tuple[int, int]:
    """The number that begins there in words, and where it ends: two hundred and five is one number, five and six are two."""
    total = part = 0
    last, scale, place = -1, 1_000_000_000_000, start
    while place < len(words):
        linked = words[place] == "and" and last >= 100 and place + 1 < len(words)
        value = NUMBER_WORDS.get(words[place + linked])
        if value is None or (linked and value >= 100):
            break
        if value >= 1000:
            if last == 0 or last >= 1000 or value >= scale:
                break
            total, part, scale = total + max(part, 1) * value, 0, value
        elif value == 100:
            if not (last < 0 or 0 < last < 10) or part >= 10:
                break
            part = max(part, 1) * value
        elif last < 0 or (last >= 100 and value) or (20 <= last < 100 and 0 < value < 10):
            part += value
        else:
            break
        last, place = value, place + 1 + linked
    return total + part, place


def _taken(text: str) -> tuple[list[str], str]:
    """What is quoted, and the text without it."""
    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        found.append(match.group())
        return f" {_QUOTE}"

    return found, _SPAN.sub(take, text)


def _codes(text: str) -> tuple[list[str], str]:
    found: list[str] = []
    others: list[str] = []
    chunks = text.split()
    for place, chunk in enumerate(chunks, 1):
        bare = chunk.rstrip(".?") if place == len(chunks) else chunk.rstrip(",;:.")
        mixed = _MIXED.search(bare) and not _MEASURE.fullmatch(bare)
        if bare and (mixed or _CODE.search(bare) or _OPERATOR.fullmatch(bare)):
            found.append(bare)
            others.append(_CODED + chunk[len(bare) :])
        else:
            others.append(chunk)
    return found, " ".join(others)


def _numbers(text: str) -> tuple[list[str], str]:
    found: list[str] = []
    for match in _NUMBER.finditer(text):
        sign, digits, unit = match.groups()
        value = digits.replace("\u2212", "-")
        money = CURRENCIES.get(sign or "", "")
        found.append(" ".join(part for part in (value, money, _unit(unit or "")) if part))
    return found, _NUMBER.sub(
        lambda match: f" {_COUNTED} " + ("" if _unit(match.group(3) or "") else match.group(3) or "") + " ", text
    )


def _unit(word: str) -> str:
    """A unit's name, "" where it is another word. Short ones say with their capitals what they are: MB is not Mb. Single letters stand for
    several: 5 m may be metres, minutes or millions."""
    lower = word.lower()
    named = UNITS.get(lower) or CURRENCIES.get(lower) or ("th" if lower in {"st", "nd", "rd", "th"} else "")
    if not named and (lower in {"bn", "mio"} or lower in NUMBER_WORDS):
        named = lower
    if named and len(word) == 1:
        return word + "."
    return word if named and word != lower and len(word) <= 3 else named


def _times(said: list[str], lower: list[str]) -> Iterator[str]:
    for word, plain in zip(said, lower, strict=True):
        if word in {"May", "March"}:
            yield f"month {5 if word == 'May' else 3}"
        elif plain in MONTHS and plain != "march":
            yield f"month {MONTHS[plain]}"
        elif plain in WEEKDAYS:
            yield f"weekday {WEEKDAYS[plain]}"
        elif plain in TIME_WORDS:
            yield TIME_WORDS[plain]


def _asking(words: list[str]) -> Iterator[str]:
    """The question words, with what is asked for: how many, how long."""
    for word, after in zip(words, (*words[1:], ""), strict=True):
        if word in ASKING:
            yield f"{word} {after}" if word == "how" and after in _HOW else word


_HOW: Final = frozenset(
    ("many", "much", "long", "far", "often", "old", "big", "large", "fast", "tall", "deep", "wide", "heavy", "soon", "frequently", "come")
)  # fmt: skip


def _script(text: str) -> str:
    names = {_script_of(char) for char in text if char.isalpha()}
    return "+".join(sorted(names))


@lru_cache(maxsize=_KINDS_OF_CHARS_MAX)
def _script_of(char: str) -> str:
    return "LATIN" if char.isascii() else unicodedata.name(char, "OTHER").split()[0]


def _language(words: list[str]) -> str:
    """The language whose small words are in it at least twice, and more often than any other's."""
    counts = sorted(((sum(word in known for word in words), name) for name, known in LANGUAGES.items()), reverse=True)
    return counts[0][1] if counts[0][0] >= 2 and counts[0][0] > counts[1][0] else ""


def _capitalised(text: str) -> Iterator[str]:
    """Capitalised words inside sentences, as they are folded; none where nearly all are, as in headings and shouting."""
    words = list(_WORD.finditer(text))
    high = [match for match in words if match.group()[0].isupper()]
    if len(words) > 2 and len(high) > len(words) * 0.6:
        return
    for match in high:
        word = match.group()
        if word.lower() not in FUNCTION_WORDS and not _begins(text, match.start()):
            yield word.lower()


_WORD: Final = re.compile(r"[^\W\d_]+")
_SENTENCE_ENDS: Final = frozenset('.!?:;*("-\u2013•')


def _begins(text: str, start: int) -> bool:
    """Whether a sentence, or an item of a list, begins here."""
    while start and text[start - 1].isspace():
        if text[start - 1] == "\n":
            return True
        start -= 1
    return not start or text[start - 1] in _SENTENCE_ENDS
