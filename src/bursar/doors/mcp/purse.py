"""The money of tool calls: held with a treasury before they go on, settled with their charge when they end.

Rule 1: what a call says of itself (``_meta``) goes before what the proxy was told and its environment say.
Rule 2: a call that others' holds keep out waits for a while, as everywhere; one that is refused never reaches the server.
Rule 3: a hold that was granted while its call was being given up is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, TypeVar

from bursar.core.admission import Crowded
from bursar.core.budgets import TaskLimit
from bursar.core.call import NotHeld, Reply
from bursar.core.ledger import MCP_PREFIX, Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge, Reading
from bursar.core.refusals import refusal_details, refusal_text
from bursar.core.scopes import Scope, make_labels
from bursar.core.tool_prices import TOOL_LABEL, TOOL_PROVIDER, ToolPrice, tool_charge, tool_estimate
from bursar.core.usage import NO_USAGE
from bursar.core.values import valueclass
from bursar.engine.permits import Ask, Ended, Permit
from bursar.engine.ports import Treasury
from bursar.wire.context import NO_TRACE, Trace, put_label, read_trace, take_baggage, take_members

from .messages import answer_json
from .metering import Call, Heard, Outcome, Purse, Refused

__all__ = ["Granted", "Setting", "TreasuryPurse", "decide", "meta_scope"]

T = TypeVar("T")

_log = logging.getLogger("bursar.mcp")

_BROKEN: Final[Mapping[str, Any]] = {"code": "books_unavailable", "retryable": True}
_ERROR_LENGTH_MAX: Final = 300
_PAUSE_S: Final = 0.02
_PAUSE_S_MAX: Final = 0.25
_THREADS: Final = 4
_ARGUMENTS_LABEL: Final = "args"  # by it repeated calls are found, whichever door they came through


@valueclass
class Granted:
    """A call that may go on, and what was held for it."""

    ask: Ask
    permit: Permit


@valueclass
class Setting:
    """Who the calls of a proxy are for where they do not say so, and what its task is limited to (None: nothing)."""

    scope: Scope
    trace: Trace = NO_TRACE
    limit: NanoUSD | None = None


class TreasuryPurse:
    """``metering.Purse`` over a treasury. ``now_us`` is microseconds since 1970, ``wait_s`` how long a call may wait."""

    def __init__(
        self,
        treasury: Treasury,
        setting: Setting,
        *,
        new_id: Callable[[], str],
        now_us: Callable[[], int],
        wait_s: float,
    ) -> None:
        self._treasury = treasury
        self._setting = setting
        self._new_id = new_id
        self._now_us = now_us
        self._wait_s = wait_s
        self._threads = ThreadPoolExecutor(_THREADS, "bursar-mcp")

    async def begin(self, call: Call) -> Granted | Refused:
        try:
            return await self._obtained(self._ask(call))
        except Exception as error:  # noqa: BLE001 - whatever it is: the client must get an answer, and the server not the call
            _log.exception("a call of %s could not be held for", call.tool)
            return Refused(f"its money could not be held: {error!r}"[:_ERROR_LENGTH_MAX], _BROKEN)

    async def end(self, granted: Granted, outcome: Outcome) -> None:
        try:
            self._treasury.settle(_ended(granted, outcome))
        except Exception:  # noqa: BLE001 - the answer goes on; its hold is charged by estimate
            _log.exception("a call of %s could not be settled", granted.ask.tool)

    async def _obtained(self, ask: Ask) -> Granted | Refused:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + self._wait_s, _PAUSE_S
        while True:
            outcome = await self._held(ask)
            match outcome:
                case Permit():
                    return Granted(ask, outcome)
                case NotHeld(reason, refusal):
                    if refusal is None:
                        return Refused(reason, _BROKEN)
                    return Refused(refusal_text(refusal), {"code": refusal.code, **refusal_details(refusal)})
                case Crowded() if loop.time() < deadline:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _PAUSE_S_MAX)
                case Crowded():
                    ask = replace(ask, patient=False)

    def close(self) -> None:
        """No more calls."""
        self._threads.shutdown(wait=False)

    async def _held(self, ask: Ask) -> Permit | NotHeld | Crowded:
        """Asks in a thread: the books may be locked, a server far away."""
        asking = asyncio.get_running_loop().run_in_executor(self._threads, self._treasury.hold, ask)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            outcome = await asking
            if isinstance(outcome, Permit):
                self._treasury.settle(Ended(ask, outcome.opening, None))
            raise

    def _ask(self, call: Call) -> Ask:
        own, others = meta_scope(call.request.meta), self._setting.scope
        if own.task and own.task != others.task:
            others = replace(others, parent_task="")  # that is where another task stands
        scope = own.over(others)
        labels = dict(scope.labels)
        put_label(labels, TOOL_LABEL, call.tool)
        if call.request.digest:
            put_label(labels, _ARGUMENTS_LABEL, call.request.digest)
        scope = replace(scope, labels=make_labels(labels))
        stated = call.request.meta.get("traceparent")
        trace = read_trace(stated) if isinstance(stated, str) else NO_TRACE
        trace = trace if trace.trace_id else self._setting.trace
        call_id = self._new_id()
        opening = Opening(
            attempt_id=MCP_PREFIX + call_id,
            call_id=call_id,
            kind="tool",
            door="gateway",
            operation="tool",
            started_us=self._now_us(),
            provider=TOOL_PROVIDER,
            model_asked=call.tool,
            scope=scope,
            estimate=tool_estimate(call.tool, self._treasury.tool_price(call.tool)),
            trace_id=trace.trace_id,
            span_id=trace.span_id,
        )
        task = None
        if scope.task:
            limit = self._setting.limit if scope.task == others.task else None
            task = TaskLimit(scope.task, scope.parent_task, limit)
        return Ask(opening, tool=call.tool, task=task)


async def decide(purse: Purse[T], heard: Heard) -> list[T | Refused]:
    """Ask about every call of a message. Cancelled, it gives back what was granted."""
    asked = [asyncio.ensure_future(purse.begin(call)) for call in heard.calls]
    try:
        return await asyncio.gather(*asked)
    except asyncio.CancelledError:
        for task in asked:
            task.cancel()
        for decision in await asyncio.gather(*asked, return_exceptions=True):
            if not isinstance(decision, Refused | BaseException):
                await purse.end(decision, Outcome("cancelled", 0, left=False))
        raise


def _ended(granted: Granted, outcome: Outcome) -> Ended:
    ask, opening = granted.ask, granted.permit.opening
    if not outcome.left:
        return Ended(ask, opening, None)
    charge = _charge(ask.tool, granted.permit.price, outcome)
    reading = Reading(charge.usage, error=outcome.error)
    return Ended(ask, opening, Reply(reading, outcome.status, latency_ms=outcome.latency_ms), charge)


def _charge(tool: str, price: ToolPrice | None, outcome: Outcome) -> Charge:
    if not outcome.billed:
        notes = ("the server refused the request: not billed",)
        return Charge(NanoUSD(0), None, NO_USAGE, (), TOOL_PROVIDER, tool, notes=notes)
    stated = price is not None and (price.units_field or price.cost_field)
    return tool_charge(
        tool,
        price,
        units=None,
        size_bytes=None if outcome.body is None else len(outcome.body),
        duration_ms=round(outcome.latency_ms),
        stated=None,
        answer=answer_json(outcome.body) if stated and outcome.body is not None else None,
    )


def meta_scope(meta: Mapping[str, Any]) -> Scope:
    """Who a message says that it is for: ``baggage`` as in HTTP, and the names of its members by themselves."""
    columns: dict[str, str] = {}
    labels: dict[str, str] = {}
    take_members(((name, value) for name, value in meta.items() if isinstance(value, str)), columns, labels)
    if isinstance(baggage := meta.get("baggage"), str):
        take_baggage(baggage, columns, labels)
    return Scope(labels=tuple(sorted(labels.items())), **columns)
