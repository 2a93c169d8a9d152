"""Why a model stopped: what of it is good, and what counts where one answer has several of them.

Rule 1: a finish is the provider's own word for it, with one exception: an answer that holds a refusal and ends as if it were none
        has ``REFUSAL``, which is Anthropic's word.
Rule 2: of several choices of one answer the worst counts: one that is not known to be good before one that says nothing, that before
        one that asks for tools, that before a good one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["GOOD_FINISHES", "REFUSAL", "TOOL_FINISHES", "finish_said", "worst_finish"]

GOOD_FINISHES: Final = frozenset(
    {"stop", "end_turn", "stop_sequence", "STOP", "completed", "COMPLETE", "STOP_SEQUENCE"}
)
"""The model ended by itself, or where it was told to."""

TOOL_FINISHES: Final = frozenset({"tool_calls", "tool_use", "function_call", "TOOL_CALL"})

REFUSAL: Final = "refusal"


def finish_said(finish: str | None, *, refused: bool) -> str:
    """The finish of one choice; ``refused`` says that it holds a refusal. "" where nothing was said."""
    finish = finish or ""
    return REFUSAL if refused and _badness(finish) < _BAD else finish


def worst_finish(finishes: Iterable[str]) -> str:
    """The finish of an answer with choices that ended like this, "" where there is none. Of equals the first."""
    return max(finishes, key=_badness, default="")


_BAD: Final = 3


def _badness(finish: str) -> int:
    if finish in GOOD_FINISHES:
        return 0
    if finish in TOOL_FINISHES:
        return 1
    return _BAD if finish else 2
