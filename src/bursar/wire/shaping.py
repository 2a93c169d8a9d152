"""What shaping a request means in every dialect: a smaller cap, less effort, fewer tools, a note.

Rule 1: a cap and an effort are upper limits. What already asks for no more stays as it is, byte for byte.
Rule 2: nothing is written that the provider would refuse: an effort is one that the model takes, a budget of thought
        fits its limits, a choice that names a removed tool goes with it.
Rule 3: shaping twice is shaping once: a note that is already there is not added again.
Rule 4: a model's efforts and its default are facts of its provider's documentation; of an unknown model only
        what the request itself states is lowered, to one of the three words that everybody takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from bursar.core.ladder import EFFORTS, Changes

from .dialect import mapping
from .splice import elements, splice

__all__ = [
    "THOUGHT_TOKENS",
    "capped",
    "decoded",
    "keep_tools",
    "lowered",
    "number",
    "openai_efforts",
    "shapes",
    "stays",
    "with_short_cache",
    "within",
]

COMMON_EFFORTS: Final = ("low", "medium", "high")
THOUGHT_TOKENS: Final[Mapping[str, int]] = {
    "none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576,
}  # fmt: skip
"""Tokens of thought for an effort: Google's own table (Gemini API, OpenAI compatibility). More effort has no bound."""

# Efforts by model and the default, "" where it is not known or where nothing may be added (OpenAI, reasoning guide and
# model pages). The first pattern that fits decides.
_OPENAI: Final[tuple[tuple[re.Pattern[str], tuple[str, ...], str], ...]] = tuple(
    (re.compile(pattern), tuple(efforts.split()), default)
    for pattern, efforts, default in (
        (r"gpt-5(\.\d)?-chat", "", ""),
        (r"gpt-5-pro", "high", "high"),
        (r"gpt-5\.\d-pro", "medium high xhigh", ""),
        (r"gpt-5\.1-codex-max|gpt-5\.[2-9]-codex", "low medium high xhigh", "medium"),
        (r"gpt-5(\.1)?-codex", "low medium high", "medium"),
        (r"gpt-5\.1", "none low medium high", ""),
        (r"gpt-5\.[2-9]", "none low medium high xhigh", ""),
        (r"gpt-5", "minimal low medium high", "medium"),
        (r"o[134](-mini|-pro)?(-20\d\d-.*)?$", "low medium high", "medium"),
    )
)


def shapes(changes: Changes) -> bool:
    """Whether there is anything to change but the model."""
    return bool(
        changes.output_cap is not None or changes.effort or changes.tier or changes.note or changes.tools is not None
    )


_LONG_CACHE: Final = re.compile(rb'("(?:cache_control|cachePoint)"\s*:\s*\{[^{}]*"ttl"\s*:\s*)"1h"')


def with_short_cache(body: bytes) -> bytes:
    """The body with every mark that keeps a prompt cache for an hour set to five minutes, Anthropic's and Bedrock's.

    In a text of the conversation the quotes of such a mark are escaped: it is not touched.
    """
    return _LONG_CACHE.sub(rb'\1"5m"', body) if b'"1h"' in body else body


def decoded(raw: msgspec.Raw | bytes | None) -> Any:
    """The value of raw JSON, None where there is none."""
    return msgspec.json.decode(raw) if raw is not None else None


def number(value: Any) -> int | None:
    """A count, None where the value is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def within(value: bytes | msgspec.Raw | None, changes: Mapping[str, bytes | None]) -> bytes:
    """An object inside a body with these values set; made where it is missing or null."""
    raw = bytes(value) if value is not None else b"null"
    return splice(raw if raw[:1] == b"{" else b"{}", changes)


def capped(stated: Any, cap: int) -> int | None:
    """The cap to write, None where what is stated is no larger."""
    known = number(stated)
    return cap if known is None or known > cap else None


# --- effort -----------------------------------------------------------------------------------------------------


def openai_efforts(model: str) -> tuple[tuple[str, ...], str]:
    """The efforts an OpenAI model takes, and its default where one may be lowered unasked."""
    name = model.rpartition("/")[2].lower()
    return next(((takes, default) for pattern, takes, default in _OPENAI if pattern.match(name)), (COMMON_EFFORTS, ""))


def lowered(stated: str, limit: str, takes: Iterable[str]) -> str:
    """The effort to write: the most that the model takes up to the limit, else its least; "" to leave it."""
    efforts = [effort for effort in EFFORTS if effort in takes]
    if stated not in EFFORTS or not efforts or EFFORTS.index(stated) <= EFFORTS.index(limit):
        return ""
    allowed = [effort for effort in efforts if EFFORTS.index(effort) <= EFFORTS.index(limit)]
    chosen = allowed[-1] if allowed else efforts[0]
    return chosen if EFFORTS.index(chosen) < EFFORTS.index(stated) else ""


# --- tools ------------------------------------------------------------------------------------------------------


def stays(name: str, lists: Iterable[Iterable[str]]) -> bool:
    """Whether a pattern of every list fits a tool's name."""
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for patterns in lists)


def keep_tools(
    array: msgspec.Raw, name_of: Callable[[dict[str, Any]], str], patterns: tuple[tuple[str, ...], ...]
) -> tuple[list[bytes], set[str]] | None:
    """The tools that stay and the names of those that go; None when all stay. A tool without a name stays."""
    kept: list[bytes] = []
    gone: set[str] = set()
    for raw in elements(array):
        name = name_of(mapping(decoded(raw)))
        if not name or stays(name, patterns):
            kept.append(raw)
        else:
            gone.add(name)
    return (kept, gone) if gone else None
