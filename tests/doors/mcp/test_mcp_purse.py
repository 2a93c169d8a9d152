"""The money of a tool call: what is asked of the treasury, and what it is told in the end."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp_house import until

from bursar.core.admission import Crowded, Refusal
from bursar.core.call import NotHeld
from bursar.core.scopes import Scope
from bursar.core.tool_fields import parse_tools
from bursar.core.tool_prices import ToolPrice
from bursar.doors.mcp.messages import ToolRequest
from bursar.doors.mcp.metering import Call, Heard, Outcome, Refused
from bursar.doors.mcp.purse import Granted, Setting, TreasuryPurse, decide
from bursar.engine.permits import Ask, Ended, Permit

TOOLS = parse_tools({"s.scan": {"per_unit": "0.0015", "units": "pages"}, "s.search": {"per_call": "0.005"}})
REFUSAL = Refusal(
    code="budget_held", budget="b", subject="", window="lifetime", unit="usd", limit=1, spent=0, held=1, needed=2, resets_us=None
)  # fmt: skip


@dataclass
class FakeTreasury:
    """Answers holds from a list, then grants; remembers what it was asked and told."""

    answers: deque[Any] = field(default_factory=deque)
    asks: list[Ask] = field(default_factory=list)
    told: list[Ended] = field(default_factory=list)
    gate: threading.Event | None = None

    def hold(self, ask: Ask) -> Any:
        self.asks.append(ask)
        if self.gate is not None:
            self.gate.wait(5)
        answer = self.answers.popleft() if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer or Permit(ask.opening, price=self.tool_price(ask.tool))

    def settle(self, ended: Ended) -> None:
        self.told.append(ended)

    def tool_price(self, tool: str) -> ToolPrice | None:
        return TOOLS.find(tool)


def purse_of(treasury: Any, *, scope: Scope | None = None, wait_s: float = 5.0) -> TreasuryPurse:
    ids = iter(f"id{number}" for number in range(1_000))
    setting = Setting(scope or Scope(task="outer", parent_task="top", team="care"))
    return TreasuryPurse(treasury, setting, new_id=lambda: next(ids), now_us=lambda: 1_000_000, wait_s=wait_s)


def a_call(tool: str = "s.search", digest: str = "d", **meta: Any) -> Call:
    return Call("1", tool, ToolRequest(tool.partition(".")[2], meta, digest))


async def test_a_call_is_asked_for_with_its_scope_and_its_estimate() -> None:
    """Provider, tool, labels, trace and the most it costs; what the call says goes before what the proxy was told."""
    treasury = FakeTreasury()
    purse = purse_of(treasury)
    granted = await purse.begin(a_call(traceparent=f"00-{'a' * 32}-{'b' * 16}-01", baggage="user.id=u1"))
    assert isinstance(granted, Granted)
    [ask] = treasury.asks
    opening = ask.opening
    assert (opening.kind, opening.provider, opening.model_asked, opening.attempt_id) == ("tool", "tools", "s.search", "mcp-id0")  # fmt: skip
    assert (opening.scope.task, opening.scope.parent_task, opening.scope.user, opening.scope.team) == ("outer", "top", "u1", "care")  # fmt: skip
    assert opening.scope.labels == (("args", "d"), ("tool", "s.search"))
    assert (opening.trace_id, opening.span_id) == ("a" * 32, "b" * 16)
    assert (opening.estimate.amount, opening.estimate.estimated) == (5_000_000, True)
    assert ask.task is not None
    assert (ask.task.task, ask.task.parent) == ("outer", "top")
    other = await purse.begin(a_call(**{"bursar.task": "inner"}))
    assert isinstance(other, Granted)
    assert (other.ask.opening.scope.task, other.ask.opening.scope.parent_task) == ("inner", "")


async def test_what_hostile_metadata_says_is_cut_or_left_out() -> None:
    """Numbers, nests, endless text and too many labels do not break a call."""
    meta = {f"bursar.label.{number}": "x" for number in range(100)}
    treasury = FakeTreasury()
    await purse_of(treasury).begin(
        a_call(**meta, **{"bursar.task": 5, "baggage": ["x"], "traceparent": 7, "bursar.user": "u" * 9_999})
    )
    scope = treasury.asks[0].opening.scope
    assert (scope.task, len(scope.user), len(scope.labels)) == ("outer", 256, 32)


async def test_an_answer_is_settled_with_its_charge() -> None:
    """Units out of the answer, size and time of it."""
    treasury = FakeTreasury()
    purse = purse_of(treasury)
    granted = await purse.begin(a_call("s.scan"))
    assert isinstance(granted, Granted)
    body = b'{"content":[],"structuredContent":{"pages":3}}'
    await purse.end(granted, Outcome("ok", 12.4, body))
    [told] = treasury.told
    assert told.reply is not None
    assert told.charge is not None
    assert (told.charge.amount, told.reply.status, told.reply.latency_ms) == (4_500_000, "ok", 12.4)
    assert told.charge.usage is not None
    assert told.charge.usage.counts() == {"tool_calls": 1, "tool_units": 3, "tool_bytes": len(body), "tool_ms": 12}


@pytest.mark.parametrize(
    ("outcome", "amount", "left"),
    [
        (Outcome("error", 1, b"{}", "the tool says that it failed"), None, True),
        (Outcome("cancelled", 1), None, True),
        (Outcome("error", 1, b"{}", "-32602: no such tool", billed=False), 0, True),
        (Outcome("ok", 1, b"{}", left=False), None, False),
    ],
)
async def test_an_ending_without_its_quantity(outcome: Outcome, amount: int | None, *, left: bool) -> None:
    """Unknown is not zero; refused by the server is; what was not made is given back."""
    treasury = FakeTreasury()
    purse = purse_of(treasury)
    granted = await purse.begin(a_call("s.scan"))
    assert isinstance(granted, Granted)
    await purse.end(granted, outcome)
    [told] = treasury.told
    assert (told.reply is not None) == left
    if left:
        assert told.charge is not None
        assert told.charge.amount == amount
        assert (told.charge.reason is None) == (amount is not None)


async def test_a_crowded_call_waits_and_is_refused_when_it_has_waited_long_enough() -> None:
    """It is asked for again and again; the last time without patience, and that answer counts."""
    crowded = Crowded("a", REFUSAL)
    treasury = FakeTreasury(deque([crowded, crowded]))
    assert isinstance(await purse_of(treasury).begin(a_call()), Granted)
    assert len(treasury.asks) == 3
    late = FakeTreasury(deque([crowded, NotHeld("held by others", REFUSAL)]))
    refused = await purse_of(late, wait_s=0).begin(a_call())
    assert isinstance(refused, Refused)
    assert [ask.patient for ask in late.asks] == [True, False]
    assert "calls under way hold the rest" in refused.text
    assert (refused.details["code"], refused.details["retryable"]) == ("budget_held", True)


@pytest.mark.parametrize("answer", [NotHeld("the disk is full"), RuntimeError("broken")])
async def test_where_nobody_can_hold_the_call_is_refused(answer: Any) -> None:
    """The reason is said, and nothing is settled that was never held."""
    treasury = FakeTreasury(deque([answer]))
    refused = await purse_of(treasury).begin(a_call())
    assert isinstance(refused, Refused)
    assert refused.details["code"] == "books_unavailable"
    assert "the disk is full" in refused.text or "broken" in refused.text
    assert treasury.told == []


async def test_a_hold_that_comes_too_late_is_given_back() -> None:
    """The call was given up while the books were asked: what they granted then is voided, once."""
    treasury = FakeTreasury(gate=threading.Event())
    asking = asyncio.ensure_future(purse_of(treasury).begin(a_call()))
    await until(lambda: len(treasury.asks) == 1)
    asking.cancel()
    await asyncio.sleep(0.01)
    assert treasury.gate is not None
    treasury.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [told.reply for told in treasury.told] == [None]


async def test_a_message_that_is_given_up_gives_everything_back() -> None:
    """One of its calls was granted, the other still waits: the first is voided, the second never held."""
    treasury = FakeTreasury(deque([None, *[Crowded("a", REFUSAL)] * 1_000]))
    calls = (a_call("s.search"), a_call("s.scan"))
    asking = asyncio.ensure_future(decide(purse_of(treasury), Heard(b"", (), calls, ())))
    await until(lambda: len(treasury.asks) >= 3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert [(told.ask.tool, told.reply) for told in treasury.told] == [("s.search", None)]
