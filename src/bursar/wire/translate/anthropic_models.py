"""What each Claude model takes of a request, as Anthropic documents it.

Rule 1: a model is known by its line and its version. A Claude that is not known here is read as the newest one: newer
        models have only ever taken less. Any other model is behind a provider that speaks this dialect: it is asked for
        what all of them document, a budget of thought.
Rule 2: up to 4.5 thinking has a budget; 4.6 takes both; from 4.7 on it is adaptive alone and its depth is an effort.
        From 5 on models think unasked, and some of them always (Anthropic, thinking by model; models overview).
Rule 3: from 4.7 on nothing but the default temperature, top_p and top_k is taken, from 4.1 on only one of the first two.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal

from bursar.core.values import valueclass

__all__ = ["Takes", "takes"]

_NAMED: Final = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d)(?:[-.](\d)(?!\d))?")
_NAMED_BEFORE: Final = re.compile(r"claude-(\d)(?:[-.](\d))?-(opus|sonnet|haiku)")
_NEWEST: Final[tuple[int, int]] = (9, 9)


@valueclass
class Takes:
    """``off`` is the ``thinking.type`` that turns thinking off, "" where leaving it out does, None where nothing does.

    ``thinks`` says that it thinks unasked, ``shows`` that thinking has its text unless ``display`` says otherwise.
    ``efforts`` are those that it takes, least first. ``output_max`` is the most that ``max_tokens`` may be.
    ``instructions`` says whether it takes instructions of the system in the middle of a conversation.
    """

    output_max: int | None
    thinking: Literal["", "budget", "both", "adaptive"]
    off: str | None
    thinks: bool
    shows: bool
    efforts: tuple[str, ...]
    sampling: Literal["both", "one", "default"]
    forced_tools: bool
    schemas: bool
    instructions: bool


_ANYTHING: Final = Takes(
    output_max=None, thinking="budget", off="disabled", thinks=False, shows=True, efforts=(),
    sampling="both", forced_tools=True, schemas=True, instructions=False,
)  # fmt: skip


@lru_cache(maxsize=256)
def takes(model: str) -> Takes:
    """What the model takes: the name may have a provider's prefix and a date."""
    known = _known(model.lower())
    if known is None:
        return _ANYTHING
    line, version = known
    return Takes(
        output_max=_output_max(line, version),
        thinking=""
        if version < (3, 7)
        else "budget"
        if version < (4, 6)
        else "both"
        if version < (4, 7)
        else "adaptive",
        off=_off(line, version),
        thinks=version >= (5, 0),
        shows=version < (4, 7),
        efforts=_efforts(line, version),
        sampling="both" if version < (4, 1) else "one" if version < (4, 7) else "default",
        forced_tools=line == "haiku" or version < (5, 1),
        schemas=version >= (4, 5),
        instructions=version >= ((5, 1) if line == "sonnet" else (4, 8)),
    )


def _known(name: str) -> tuple[str, tuple[int, int]] | None:
    if (match := _NAMED.search(name)) is not None:
        return match[1], (int(match[2]), int(match[3] or 0))
    if (match := _NAMED_BEFORE.search(name)) is not None:
        return match[3], (int(match[1]), int(match[2] or 0))
    if "claude" not in name:
        return None
    return "", ((2, 0) if re.search(r"claude-(2|instant)", name) else _NEWEST)


def _output_max(line: str, version: tuple[int, int]) -> int | None:
    if version < (3, 7):
        return 8_192 if version == (3, 5) else 4_096
    if version == _NEWEST:
        return None
    if line == "opus" and version < (4, 5):
        return 32_000
    return 64_000 if version < (4, 6) or (line, version) == ("sonnet", (4, 6)) else 128_000


def _off(line: str, version: tuple[int, int]) -> str | None:
    if version < (3, 7):
        return ""
    if version <= (5, 0) and line not in ("fable", "mythos"):
        return "disabled"
    return {"sonnet": "between_tools", "haiku": "disabled"}.get(line)


def _efforts(line: str, version: tuple[int, int]) -> tuple[str, ...]:
    if version >= (4, 7):
        return ("low", "medium", "high", "xhigh", "max")
    if version == (4, 6):
        return ("low", "medium", "high", "max")
    return ("low", "medium", "high") if (line, version) == ("opus", (4, 5)) else ()
