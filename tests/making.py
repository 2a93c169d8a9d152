"""Values that many tests need, made in one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bursar.core.ledger import Attempt, Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge, Line
from bursar.core.scopes import Scope
from bursar.core.usage import Usage

STARTED_US = 1_760_000_000_000_000


def replaced(value: Any, **changes: Any) -> Any:
    """A value with some of its fields changed."""
    return replace(value, **changes)


def a_charge(amount: int | None = 1_500, *, estimated: bool = False, provider: str = "openai") -> Charge:
    """A charge of one line, or an unpriced one."""
    usage = Usage(input_tokens=100, output_tokens=20)
    if amount is None:
        return Charge(None, "no price for model 'x'", usage, (), provider, "x", "test", estimated)
    lines = (Line("input_tokens", 100, None, "test:row", NanoUSD(amount)),)
    return Charge(NanoUSD(amount), None, usage, lines, provider, "gpt-5", "test", estimated)


def an_opening(name: str = "call-1", *, estimate: int | None = 2_000, task: str = "", **more: Any) -> Opening:
    """The first attempt of a call."""
    values: dict[str, Any] = {
        "attempt_id": f"{name}.1",
        "call_id": name,
        "kind": "model",
        "door": "gateway",
        "operation": "chat_completions",
        "started_us": STARTED_US,
        "provider": "openai",
        "model_asked": "gpt-5",
        "scope": Scope(task=task),
        "estimate": a_charge(estimate, estimated=True),
    }
    return Opening(**{**values, **more})


def an_attempt(name: str = "call-1", *, amount: int | None = 1_500, status: str = "ok", **more: Any) -> Attempt:
    """An attempt that ended."""
    response_id = more.pop("response_id", "")
    opening = more.pop("opening", None) or an_opening(name, **more)
    return Attempt(opening, status, a_charge(amount), latency_ms=12.5, http_status=200, response_id=response_id)  # type: ignore[arg-type]
