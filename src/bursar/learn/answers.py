"""Whether two answers say the same, and a name for what an answer says.

Rule 1: what counts as equal is evidence for serving, so doubt is difference: only layout is left out (how many spaces, capitals of
        ordinary words, stops and commas at the ends of words). Every other sign is said.
Rule 2: code is compared as it stands; JSON by its values, its numbers exactly, whatever their size.
Rule 3: nothing here raises: what cannot be read as JSON is text, and is equal to nothing where JSON was asked for.
"""

from __future__ import annotations

import json
import re
import unicodedata
from hashlib import blake2b
from typing import Any, Final, Literal

__all__ = ["answer_name", "answers_equal"]

_FENCE: Final = re.compile(r"^\s*```\w*\n(.*?)\n?```\s*$", re.DOTALL)
# A stop or a comma after a word and before a space. After a figure only before a letter or the end: "1, 2" is not "1 2"; and
# "!" only after a word, because "n!" and "5!" are numbers. "?" stays: who asks does not say.
_STOPS: Final = re.compile(r"(?<=[^\W\d_]{2})[.,;:!]+(?=\s|$)|(?<=\w)[.,;:]+(?=\s|$)(?!\s+[^\s\w]*\d)")
_SPACES: Final = re.compile(r"[ \t]*\n(?P<indent>[ \t]*)|[^\S\n]+")
_WORD: Final = re.compile(r"\w+")
_NUMBER: Final = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([-+]?\d+))?")


def answers_equal(one: str, other: str, how: Literal["equal", "json"]) -> bool:
    """Whether two answers say the same: by their words, figures and signs ("equal": spaces, case and stops between words aside; code
    as it stands), or as JSON values. What is no JSON is equal to nothing."""
    return (name := answer_name(one, how)) == answer_name(other, how) and (how != "json" or name.startswith("json"))


def answer_name(answer: str, how: Literal["equal", "json"]) -> str:
    """What ``answers_equal`` compares of an answer, and entries are named by: a hash, nothing of it can be read."""
    kind, said = _said(answer, how)
    return f"{kind}:{blake2b(f'{kind} {said}'.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


def _said(answer: str, how: str) -> tuple[str, str]:
    if how == "json":
        fenced = _FENCE.match(answer)
        try:
            value = json.loads(
                fenced.group(1) if fenced else answer,
                parse_constant=_no_number,
                parse_float=_Number,
                parse_int=_Number,
                object_pairs_hook=_members,
            )
            return "json", json.dumps(value, sort_keys=True, default=_marked)
        except (ValueError, RecursionError):
            return "text", answer
    if "`" in answer:
        return "code", "\n".join(line.rstrip() for line in answer.strip().splitlines())
    text = _STOPS.sub("", unicodedata.normalize("NFC", answer).strip())
    return "words", _WORD.sub(_folded, _SPACES.sub(_space, text))


def _space(match: re.Match[str]) -> str:
    """One space for any; but what is indented says what it belongs to."""
    indent = match.group("indent")
    return "\n" + indent if indent else " "


def _folded(match: re.Match[str]) -> str:
    """A word without its capitals, where they are those of a sentence's beginning or of a heading: mW, MW and aB3 stay."""
    word = match.group()
    return word.lower() if word.isalpha() and (word.istitle() or (word.isupper() and len(word) > 2)) else word


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key twice: which value counts depends on the reader")
    return found


class _Number:
    """A number of JSON, in the one way to write it: 1.0, 10e-1 and 1 are "1e0". Floats would make 1e400 and 1e401 one."""

    def __init__(self, text: str) -> None:
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:20]} is no number")
        sign, whole, part, power = match.groups("")
        digits = (whole + part).lstrip("0")
        bare = digits.rstrip("0")
        exponent = int(power or 0) - len(part) + len(digits) - len(bare)
        self.written = f"{sign}{bare}e{exponent}" if bare else "0e0"


def _marked(number: _Number) -> list[object]:
    """A number as ``json.dumps`` is to write it: the only zero that it writes, so that no string can be taken for one."""
    return [0, number.written]
