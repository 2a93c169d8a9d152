"""Which answers the response cache keeps: only what came whole and ended by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bursar.core.caching import CachePolicy
from bursar.core.call import Settled
from bursar.core.ledger import Attempt, Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.scopes import NOBODY
from bursar.core.usage import Usage
from bursar.engine.response_cache import keepable

CHARGE = Charge(NanoUSD(10), None, Usage(input_tokens=5, output_tokens=2))


def settled(operation: str = "chat_completions", **more: Any) -> Settled:
    """A call that ended like this."""
    opening = Opening("c.1", "c", "model", "gateway", operation, 1, "openai", "m", NOBODY, CHARGE)
    return Settled(opening, Attempt(opening, **{"status": "ok", "charge": CHARGE, "finish": "stop", **more}))


@pytest.mark.parametrize("finish", ["stop", "end_turn", "stop_sequence", "STOP", "completed", "COMPLETE"])
def test_what_ended_by_itself_is_kept(finish: str) -> None:
    """In the words of every dialect."""
    assert keepable(CachePolicy(), settled(finish=finish), b"{}") == ""


@pytest.mark.parametrize(
    "more",
    [
        {"finish": ""},
        {"finish": "refusal"},
        {"finish": "length"},
        {"finish": "MAX_TOKENS"},
        {"finish": "content_filter"},
        {"finish": "failed"},
        {"finish": "a word of tomorrow"},
        {"error": "the provider ended the stream without its last event"},
        {"status": "cut"},
        {"status": "cancelled"},
        {"http_status": 400},
        {"charge": replace(CHARGE, estimated=True)},
        {"finish": "length", "tools": ("look",)},
    ],
)
@pytest.mark.parametrize("tool_calls", [False, True])
def test_nothing_else_is(more: dict[str, Any], tool_calls: bool) -> None:
    """No refusal, no error, nothing cut short, and nothing of which nobody knows why it ended."""
    assert keepable(CachePolicy(tool_calls=tool_calls), settled(**more), b"{}")


def test_what_asks_for_tools_is_kept_where_the_route_says_so() -> None:
    """By its finish or, where that is silent of it, by the tools themselves."""
    for more in ({"finish": "tool_calls", "tools": ("look",)}, {"finish": "STOP", "tools": ("look",)}):
        assert keepable(CachePolicy(), settled(**more), b"{}") == "it asks for tools"
        assert keepable(CachePolicy(tool_calls=True), settled(**more), b"{}") == ""


def test_embeddings_have_no_finish() -> None:
    """Nothing of them can be cut short."""
    assert keepable(CachePolicy(), settled("embeddings", finish=""), b"{}") == ""


def test_an_answer_has_a_size() -> None:
    """Nothing, and more than fits, is not kept."""
    assert keepable(CachePolicy(), settled(), b"")
    assert keepable(CachePolicy(), settled(), b" " * (8 * 1024 * 1024 + 1))
