"""What Gemini models take, by their names: thinking, and what has come and gone.

Rule 1: what is not known is taken for the newest: Google's aliases (``gemini-flash-latest``) follow it. A name that is not
        Gemini's (a tuned endpoint) says nothing: what depends on the model is then written as it was asked for.
Rule 2: an effort becomes the highest level that the model has up to it, else its least; up to Gemini 2.5 a budget, by
        Google's own table (``THOUGHT_TOKENS``), where ``xhigh`` and ``max`` are the most a model can think.
Rule 3: from Gemini 3 on a budget becomes a level by the same table, as the newest models refuse budgets; -1 (as the model
        likes) is their default. A budget above the most a model can think is that most: it is a limit all the same.
Rule 4: thinking that cannot be turned off, or not as low as asked for, is refused.

Sources: Gemini API, thinking; OpenAI compatibility; what is new in Gemini 3, 3.8 and 4.
"""

from __future__ import annotations

import re
from typing import Any, Final

from bursar.core.ladder import EFFORTS
from bursar.wire.shaping import THOUGHT_TOKENS

from .conversation import Untranslatable

__all__ = ["generation", "thinking_config"]

_GENERATION: Final = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_NOT_TEXT: Final = re.compile(r"gemini-.*-(image|tts|live|native-audio|embedding)")
_NEWEST: Final = (99, 0)
_LEVELS: Final = ("minimal", "low", "medium", "high")
_MOST_TOKENS: Final = {"pro": 32_768, "flash": 24_576}
_LEAST_TOKENS: Final = {"pro": 128, "flash": 1, "lite": 512}


def generation(model: str) -> tuple[int, int] | None:
    """The version in a model's name, None for a name that is not Gemini's. Raises Untranslatable for what answers no text."""
    name = model.rpartition("/")[2].lower()
    if not name.startswith("gemini-"):
        return None
    if _NOT_TEXT.match(name):
        raise Untranslatable("model", f"{name} does not answer in text")
    found = _GENERATION.match(name)
    return (int(found[1]), int(found[2] or 0)) if found else _NEWEST


def thinking_config(model: str, effort: str, tokens: int | None, *, shown: bool) -> dict[str, Any]:
    """The ``thinkingConfig`` that says this, empty where there is nothing to say. Raises Untranslatable."""
    version = generation(model)
    name = model.rpartition("/")[2].lower()
    config: dict[str, Any] = {}
    if version is not None and version < (2, 5):
        if effort not in ("", "none") or tokens not in (None, 0, -1):
            raise Untranslatable("effort" if effort else "thinking_tokens", f"{name} does not think")
        return config
    if version is not None and version >= (3, 0):
        level = _level(name, version, effort, tokens)
        if level:
            config["thinkingLevel"] = level
    elif effort or tokens is not None:
        config["thinkingBudget"] = _budget(name, effort, tokens) if version else _plain_budget(effort, tokens)
    if shown:
        config["includeThoughts"] = True
    return config


def _level(name: str, version: tuple[int, int], effort: str, tokens: int | None) -> str:
    if effort == "none" or tokens == 0:
        raise Untranslatable("effort" if effort else "thinking_tokens", f"the thinking of {name} cannot be turned off")
    if tokens is not None and tokens > 0:
        effort = next((word for word in ("low", "medium") if tokens <= THOUGHT_TOKENS[word]), "high")
    if not effort:
        return ""
    takes = _levels(name, version)
    within = [level for level in takes if EFFORTS.index(level) <= EFFORTS.index(effort)]
    return within[-1] if within else takes[0]


def _levels(name: str, version: tuple[int, int]) -> tuple[str, ...]:
    if "flash" in name and version < (3, 8):
        return _LEVELS
    return ("low", "high") if version == (3, 0) and "flash" not in name else _LEVELS[1:]


def _plain_budget(effort: str, tokens: int | None) -> int:
    return tokens if tokens is not None else THOUGHT_TOKENS.get(effort, THOUGHT_TOKENS["high"])


def _budget(name: str, effort: str, tokens: int | None) -> int:
    """The budget of a 2.5 model, within its limits."""
    kind = "lite" if "lite" in name else "flash" if "flash" in name else "pro"
    most = _MOST_TOKENS.get(kind, _MOST_TOKENS["flash"])
    wanted = tokens if tokens is not None else THOUGHT_TOKENS.get(effort, most)
    if wanted == -1:
        return -1
    if wanted == 0 and kind != "pro":
        return 0
    if wanted < _LEAST_TOKENS[kind]:
        field = "effort" if effort else "thinking_tokens"
        raise Untranslatable(field, f"{name} thinks with {_LEAST_TOKENS[kind]} tokens at least, not {wanted}")
    return min(wanted, most)
