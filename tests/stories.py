"""Tasks with everything in them, for tests and for the examples of the documentation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from seeding import MemoryLedger

__all__ = ["ticket"]

_TICKET = {"task": "resolve-ticket-4f2a91c0", "team": "support", "user": "ann"}
_RESEARCHER = {**_TICKET, "task": "researcher-88aa01bb", "parent_task": _TICKET["task"], "agent": "researcher"}
_REVIEWER = {**_TICKET, "task": "reviewer-77c0d1e2", "parent_task": _TICKET["task"], "agent": "reviewer"}


def _at(second: float) -> timedelta:
    return timedelta(seconds=3600 - second)


def _call(ledger: MemoryLedger, second: float, seconds: float, tokens: tuple[int, int, int], **columns: Any) -> None:
    """A model call with so many input, cached and output tokens, at 1.25, 0.125 and 10 USD a million."""
    size, read, output = tokens
    parts = {
        "cost_input_nanousd": 1250 * (size - read),
        "cost_cache_read_nanousd": 125 * read,
        "cost_cache_write_nanousd": 0,
        "cost_output_nanousd": 10_000 * output,
    }
    line = {
        "unit": "cache_read_tokens",
        "units": read,
        "rate_usd": "0.125",
        "price_row": "p",
        "cost_nanousd": 125 * read,
    }
    counts = {"input_tokens": size, "cache_read_tokens": read, "output_tokens": output}
    row = {"cost_nanousd": sum(parts.values()), "lines": [line] if read else [], "model": "gpt-5", "trace_id": "t"}
    ledger.attempt(ago=_at(second), latency_ms=seconds * 1000, **{**row, **counts, **parts, **columns})


def ticket(ledger: MemoryLedger) -> None:
    """A ticket of 31 s: a researcher that searches twice for the same and is refused once, a reviewer beside it, a tool
    that fails, an answer that is cut, a model without a price, and an outcome."""
    ledger.span("resolve-ticket", span_id="root", ago=_at(0), ms=31_000, kind="task", **_TICKET)
    _call(ledger, 0.3, 3.1, (2100, 0, 240), span_id="root", tools=["research"], **_TICKET)
    ledger.span("researcher", span_id="r", parent_id="root", ago=_at(3.6), ms=19_500, kind="agent", **_RESEARCHER)
    for number, (second, digest) in enumerate(((6.2, "d1"), (9.9, "d1"), (13.9, "d2"))):
        tool = {"kind": "tool", "model": "serpapi.search", "provider": "tools", "operation": "execute_tool"}
        nothing = dict.fromkeys(("input_tokens", "output_tokens", "cache_read_tokens"))
        place = {"ago": _at(second), "trace_id": "t", "span_id": f"tool-{number}", **_RESEARCHER}
        paid = ledger.attempt(
            latency_ms=1400.0, cost_nanousd=5_000_000, labels={"args": digest}, **tool, **nothing, **place
        )
        ledger.span("serpapi.search", parent_id="r", ms=1400, kind="tool", attempt_id=paid, **place)
    _call(ledger, 3.8, 2.2, (5200, 0, 180), span_id="r", **_RESEARCHER)
    _call(ledger, 7.8, 2.0, (11_900, 4096, 210), span_id="r", **_RESEARCHER)
    _call(ledger, 11.5, 2.2, (17_800, 0, 190), span_id="r", **_RESEARCHER)
    refused = {"cost_nanousd": 0, "status": "error", "error": "overloaded", "http_status": 529}
    _call(ledger, 15.4, 0.4, (21_000, 0, 0), span_id="r", call_id="again", **refused, **_RESEARCHER)
    _call(ledger, 16.2, 6.6, (21_000, 17_408, 820), span_id="r", call_id="again", number=2, **_RESEARCHER)
    ledger.span("reviewer", span_id="v", parent_id="root", ago=_at(10), ms=6000, kind="agent", **_REVIEWER)
    _call(ledger, 10.2, 5.5, (6400, 0, 500), span_id="v", model="claude-sonnet-4-5", provider="anthropic", **_REVIEWER)
    ledger.span("load-customer", span_id="step", parent_id="root", ago=_at(23.4), ms=900, **_TICKET)
    failed = {"kind": "tool", "status": "error", "error": "timeout"}
    ledger.span("crm.lookup", span_id="crm", parent_id="step", ago=_at(23.5), ms=700, **failed, **_TICKET)
    _call(ledger, 24.5, 5.9, (9800, 0, 700), span_id="root", status="cut", error="stream broke off", **_TICKET)
    unknown = {"model": "my-own-llama", "cost_nanousd": None, "trace_id": "t", "span_id": "root"}
    ledger.attempt(ago=_at(30.5), latency_ms=300.0, **unknown, **_TICKET)
    ledger.outcome(_TICKET["task"], "resolved", 3_200_000_000, note="refunded")
