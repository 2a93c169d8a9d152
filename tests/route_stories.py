"""Calls on routes for tests and for the examples of the documentation: rows as the gateway's decisions make them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from seeding import MemoryLedger

__all__ = ["CALL", "GPT", "LLAMA", "SONNET", "candidate", "decided", "fallback", "hit", "primary"]

CALL = "0195f2c4a1b7e93d5c02aa41f0d6b8e2"
GPT = ("openai", "gpt-5-mini")
SONNET = ("anthropic", "claude-sonnet-4-5")
LLAMA = ("groq", "llama-3.3-70b-versatile")


def candidate(rung: str, target: tuple[str, str] | None, verdict: str, **more: Any) -> dict[str, Any]:
    where = {} if target is None else {"provider": target[0], "model": target[1]}
    return {"rung": rung, **where, **more, "verdict": verdict}


def decided(rung: str, why: str, *candidates: Mapping[str, Any], route: str = "fast", **more: Any) -> str:
    """The stored decision of an attempt."""
    head = {
        "rung": rung,
        "why": why,
        "route": route,
        "asked": "chat_completions",
        "candidates": candidates,
        "propensity": 1,
    }
    return json.dumps({**head, "cache": {"asked": True, "found": "nothing"}, **more})


def _row(target: tuple[str, str], rung: str, **more: Any) -> dict[str, Any]:
    provider, model = target
    return {"provider": provider, "model": model, "model_asked": "fast", "rung": rung, "cache": "miss", **more}


def primary(ledger: MemoryLedger, call_id: str, **columns: Any) -> None:
    """A call that its first rung answered."""
    rungs = (candidate("primary", GPT, "taken", breaker="closed", expected_nanousd=4_000_000),
             candidate("fallback", LLAMA, "not needed"))  # fmt: skip
    row = _row(GPT, "primary", decision=decided("primary", "asked", *rungs))
    ledger.attempt(**{**row, "attempt_id": f"{call_id}.1", "call_id": call_id, **columns})


def fallback(ledger: MemoryLedger, call_id: str = CALL, *, ago: timedelta = timedelta(), **columns: Any) -> None:
    """A call whose first rung is overloaded, whose second is left alone, and that the third answers."""
    first = candidate("primary", GPT, "taken", breaker="closed", expected_nanousd=4_000_000)
    why = "2 failures in a row, the last: server"
    second = candidate("fallback", SONNET, "passed", breaker="open", expected_nanousd=9_000_000, why=why)
    third = candidate("fallback", LLAMA, "taken", breaker="closed", expected_nanousd=1_500_000)
    ledger.attempt(
        ago=ago,
        **_row(
            GPT, "primary", attempt_id=f"{call_id}.1", call_id=call_id, status="error", http_status=503,
            error="overloaded_error: The model is overloaded.", cost_nanousd=0, latency_ms=140.0, first_token_ms=None,
            input_tokens=0, output_tokens=0, finish="",
            decision=decided("primary", "asked", first, candidate("fallback", SONNET, "not needed"),
                             candidate("fallback", LLAMA, "not needed")),
            **columns,
        ),
    )  # fmt: skip
    failed = {**first, "verdict": "failed", "why": "overload"}
    ledger.attempt(
        ago=ago - timedelta(milliseconds=150),
        **_row(
            LLAMA, "fallback", attempt_id=f"{call_id}.2", call_id=call_id, number=2, cause="overload",
            cost_nanousd=1_230_000, latency_ms=900.0,
            decision=decided("fallback", "the rung before it failed: overload", failed, second, third),
            **columns,
        ),
    )  # fmt: skip


def hit(ledger: MemoryLedger, call_id: str, **columns: Any) -> None:
    """A call that the cache answered before anybody was asked."""
    said = {"asked": True, "found": "fresh", "age_s": 75}
    row: dict[str, Any] = {
        "attempt_id": f"{call_id}.1", "call_id": call_id, "cache": "exact", "cost_nanousd": 0, "latency_ms": 1.0,
        "avoided_nanousd": 4_200_000, "input_tokens": 0, "output_tokens": 0,
        "decision": decided("cached", "kept", cache=said),
    }  # fmt: skip
    ledger.attempt(**{**_row(GPT, "cached"), **row, **columns})
