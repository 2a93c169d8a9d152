"""The models the simulator lists, and what it must know of a model by its name. Any other name is served as well."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ANTHROPIC_MODELS", "GEMINI_MODELS", "OPENAI_MODELS", "Model", "dated", "dimensions_of", "reasons"]


class Model(NamedTuple):
    """``dated`` is the name that the provider answers with when it is asked for ``name``."""

    name: str
    dated: str
    title: str
    created: int


OPENAI_MODELS: Final = (
    Model("gpt-5", "gpt-5-2025-08-07", "GPT-5", 1_754_425_777),
    Model("gpt-5-mini", "gpt-5-mini-2025-08-07", "GPT-5 mini", 1_754_425_928),
    Model("gpt-5-nano", "gpt-5-nano-2025-08-07", "GPT-5 nano", 1_754_426_384),
    Model("gpt-4.1", "gpt-4.1-2025-04-14", "GPT-4.1", 1_744_316_542),
    Model("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "GPT-4.1 mini", 1_744_318_173),
    Model("gpt-4o", "gpt-4o-2024-08-06", "GPT-4o", 1_715_367_049),
    Model("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "GPT-4o mini", 1_721_172_741),
    Model("o3", "o3-2025-04-16", "o3", 1_744_225_308),
    Model("o4-mini", "o4-mini-2025-04-16", "o4-mini", 1_744_225_351),
    Model("text-embedding-3-small", "text-embedding-3-small", "", 1_705_948_997),
    Model("text-embedding-3-large", "text-embedding-3-large", "", 1_705_953_180),
    Model("text-embedding-ada-002", "text-embedding-ada-002", "", 1_671_217_299),
)
ANTHROPIC_MODELS: Final = (
    Model("claude-opus-4-5", "claude-opus-4-5-20251101", "Claude Opus 4.5", 1_761_955_200),
    Model("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", 1_759_104_000),
    Model("claude-haiku-4-5", "claude-haiku-4-5-20251001", "Claude Haiku 4.5", 1_759_276_800),
)
GEMINI_MODELS: Final = (
    Model("gemini-2.5-pro", "gemini-2.5-pro", "Gemini 2.5 Pro", 0),
    Model("gemini-2.5-flash", "gemini-2.5-flash", "Gemini 2.5 Flash", 0),
    Model("gemini-2.5-flash-lite", "gemini-2.5-flash-lite", "Gemini 2.5 Flash-Lite", 0),
    Model("gemini-embedding-001", "gemini-embedding-001", "Gemini Embedding 001", 0),
)
_DATED: Final = {model.name: model.dated for model in (*OPENAI_MODELS, *ANTHROPIC_MODELS, *GEMINI_MODELS)}
_DIMENSIONS: Final = {"text-embedding-3-large": 3072, "gemini-embedding-001": 3072}
_REASONING: Final = ("gpt-5", "gpt-6", "o1", "o3", "o4")


def dated(name: str) -> str:
    return _DATED.get(name, name)


def dimensions_of(name: str) -> int:
    return _DIMENSIONS.get(name, 1536)


def reasons(name: str) -> bool:
    """Whether OpenAI's model of this name reasons."""
    return name.startswith(_REASONING) and "chat" not in name
