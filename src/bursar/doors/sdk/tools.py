"""Tool calls as ledger rows: with what they cost, how long they took, how much they returned, and whether they failed.

Rule 1: what a tool costs is said where it is made (``price``), else in the tool price book, else it is taken as free.
Rule 2: the most that a call can cost is held before it runs; a refusal is raised before anything of it has happened.
Rule 3: a call that raised is charged as one that answered: the service was asked. A price that is worked out from the result
        has none then: the charge is unknown, not zero.
Rule 4: what went in and came out is not kept: of the arguments a digest, by which repeated calls are found, of the result its
        size. Only where the tool says so are its results (``tool_cache``), and a call that is answered by one costs nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from decimal import Decimal
from functools import partial, wraps
from hashlib import blake2b
from typing import Any, Final, ParamSpec, Self, TypeAlias, TypeVar, cast

import msgspec

from bursar.core.caching import CacheEntry, CacheTier
from bursar.core.call import Reply
from bursar.core.ledger import SDK_PREFIX, Opening, Status
from bursar.core.money import NanoUSD, Rate
from bursar.core.prices import Charge, Reading
from bursar.core.scopes import NOBODY, VALUE_LENGTH_MAX, make_labels
from bursar.core.tool_prices import TOOL_LABEL, TOOL_PROVIDER, ToolPrice, tool_charge, tool_worst
from bursar.core.usage import Usage
from bursar.engine.permits import Ask, Ended, Permit
from bursar.wire.context import put_label

from .amounts import Money, money, stated_money
from .calls import scope_of
from .frames import Frame, current_frame, inside, leave_frame, new_trace, otel_trace, set_frame
from .generators import Inside, resumed, resumed_async
from .session import Session, active, required
from .tasks import note_span
from .tool_cache import Caching, Lookup, Share, names_of

__all__ = ["ARGUMENTS_LABEL", "ToolCall", "charge", "tool"]

P = ParamSpec("P")
R = TypeVar("R")

Price: TypeAlias = "Money | Callable[[Any], Money] | None"

ARGUMENTS_LABEL: Final = "args"
"""The label that holds a digest of a tool call's arguments: equal ones were called with the same."""

_NOT_PRICED: Final = Charge(None, "not priced yet", None)
_SIZED_BYTES_MAX: Final = 1_000_000
_ERROR_LENGTH_MAX: Final = 400
_encode: Final = msgspec.json.Encoder().encode


class ToolCall:
    """One call of a tool, from its hold to its charge. For what runs tools itself; ``tool`` decorates functions."""

    def __init__(
        self,
        session: Session,
        name: str,
        *,
        rule: ToolPrice | None = None,
        work_out: Callable[[Any], Money] | None = None,
        fee: NanoUSD | None = None,
        digest: str = "",
        writes: tuple[str, ...] = (),
    ) -> None:
        """``rule`` is the price that is said where the call is made, ``work_out`` what finds it in the result, ``fee`` the
        most to hold where the rule does not say it. ``writes`` are the tags of kept results that are void after it."""
        self.session = session
        self.name = name[:VALUE_LENGTH_MAX]
        self._rule = rule
        self._work_out = work_out
        self._writes = writes
        self.frame = _frame(self.name)
        parent = self.frame.parent
        self.ask = Ask(
            self._opening(digest),
            tool=self.name,
            fee=fee if fee is not None or rule is None else tool_worst(rule),
            task=parent.own_limit() if parent else None,
            above=parent.limits_above() if parent and parent.parent else (),
            final=self.frame.is_final(),
        )
        self._permit: Permit | None = None
        self._started = time.perf_counter()

    def _opening(self, digest: str) -> Opening:
        session, frame = self.session, self.frame
        call_id = session.new_id()
        scope = scope_of(session, frame)
        labels = dict(scope.labels)
        put_label(labels, TOOL_LABEL, self.name)
        if digest:
            put_label(labels, ARGUMENTS_LABEL, digest)
        scope = replace(scope, labels=make_labels(labels))
        return Opening(
            attempt_id=SDK_PREFIX + call_id,
            call_id=call_id,
            kind="tool",
            door="sdk",
            operation="tool",
            started_us=session.now_us(),
            provider=TOOL_PROVIDER,
            model_asked=self.name,
            scope=scope,
            estimate=_NOT_PRICED,
            trace_id=frame.trace.trace_id,
            span_id=frame.trace.span_id,
        )

    # --- before -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Hold for it. Raises BudgetExceeded."""
        if self.session.mode == "enforce":
            self._permitted(self.session.obtain(self.ask))
        self._started = time.perf_counter()

    async def begin_async(self) -> None:
        if self.session.mode == "enforce":
            self._permitted(await self.session.obtain_async(self.ask))
        self._started = time.perf_counter()

    def _permitted(self, permit: Permit | None) -> None:
        self._permit = permit
        self.frame.holds_money = bool(permit and permit.amount)

    # --- after ------------------------------------------------------------------------------------------------

    def void(self) -> None:
        """It was not made after all."""
        self._end(None, None)

    def end(
        self,
        result: Any,
        *,
        status: Status = "ok",
        error: str = "",
        calls: int = 1,
        units: int | Decimal | None = None,
        size_bytes: int | None = None,
        answer: Any = None,
    ) -> Charge:
        """Charge it. ``answer`` is the result as JSON-like data, for price book rules that look into it."""
        elapsed_ms = (time.perf_counter() - self._started) * 1000
        priced = self._priced(result, units, size_bytes, round(elapsed_ms), answer, calls, failed=status != "ok")
        reading = Reading(priced.usage, error=error[:_ERROR_LENGTH_MAX])
        self._end(Reply(reading, status, latency_ms=round(elapsed_ms, 3)), priced)
        self._written()
        return priced

    def missed(self) -> None:
        """Its result was looked for, and is not kept."""
        self.ask = replace(self.ask, opening=replace(self.ask.opening, cache="miss"))

    def found(self, entry: CacheEntry, tier: CacheTier) -> None:
        """It is not made: a kept result answers it. It costs nothing, and nothing is held."""
        started_us = self.ask.opening.started_us
        elapsed_ms = (time.perf_counter() - self._started) * 1000
        age_s = max(0, started_us - entry.stored_us) // 1_000_000
        text = _encode({"rung": "cached", "cache": {"tier": tier, "age_s": age_s}}).decode()
        opening = replace(self.ask.opening, rung="cached", cache=tier, decision=text)
        self.ask = replace(self.ask, opening=opening)
        nothing = Charge(NanoUSD(0), None, Usage(), (), TOOL_PROVIDER, self.name, notes=("cached",))
        reply = Reply(Reading(nothing.usage), "ok", latency_ms=round(elapsed_ms, 3))
        self._end(reply, nothing, avoided=None if entry.cost is None else NanoUSD(entry.cost))
        note_span(self.frame, started_us, None, size_bytes=len(entry.body))

    def _written(self) -> None:
        cache = self.session.cache
        if cache is None:
            return
        for tag in self._writes:
            try:
                cache.forget(tag=tag)
            except Exception as error:  # noqa: BLE001 - the tool has run: its result is the caller's
                self.session.trouble(f"what tool {self.name!r} has made void may still be given from the cache", error)

    def _priced(
        self,
        result: Any,
        units: int | Decimal | None,
        size: int | None,
        took_ms: int,
        answer: Any,
        calls: int,
        *,
        failed: bool,
    ) -> Charge:
        rule = self._rule or (self._permit.price if self._permit else None)
        if self._work_out is not None:
            return self._worked_out(result, units, size, took_ms, calls, failed=failed)
        if rule is None and self._permit is None:
            rule = self.session.treasury.tool_price(self.name)
        return tool_charge(
            self.name, rule, calls=calls, units=units, size_bytes=size, duration_ms=took_ms, stated=None, answer=answer
        )

    def _worked_out(
        self, result: Any, units: int | Decimal | None, size: int | None, took_ms: int, calls: int, *, failed: bool
    ) -> Charge:
        assert self._work_out is not None
        stated: NanoUSD | None = None
        try:
            stated = None if failed else stated_money(self._work_out(result), "price")
        except Exception as error:  # noqa: BLE001 - the user's own function: its fault must not cost them the result
            self.session.trouble(f"the price of tool {self.name!r} could not be worked out", error)
        made = tool_charge(
            self.name, None, calls=calls, units=units, size_bytes=size, duration_ms=took_ms, stated=stated, answer=None
        )
        if stated is not None:
            return made
        reason = f"the price of tool {self.name!r} is worked out from its result, and there is none"
        return replace(made, amount=None, reason=reason, notes=())

    def _end(self, reply: Reply | None, priced: Charge | None, avoided: NanoUSD | None = None) -> None:
        treasury, permit = self.session.treasury, self._permit
        try:
            if permit is None:
                treasury.observe(Ended(self.ask, self.ask.opening, reply, priced, held=False, avoided=avoided))
            else:
                treasury.settle(Ended(self.ask, permit.opening, reply, priced))
        except Exception as error:  # noqa: BLE001 - the tool has run: its result is the caller's whatever becomes of the books
            self.session.trouble("the end of a tool call could not be told", error)


def _frame(name: str) -> Frame:
    parent = current_frame()
    otel = otel_trace()
    trace = new_trace(parent)
    above = otel.span_id or (parent.trace.span_id if parent is not None else "")
    scope = parent.scope if parent is not None else NOBODY
    return Frame("tool", name, scope, parent, trace, above, final=parent is not None and parent.final)


# --- functions --------------------------------------------------------------------------------------------------


def tool(
    function: Callable[P, R] | None = None,
    *,
    name: str = "",
    price: Price = None,
    most: Money | None = None,
    cache: str = "",
    vary: Sequence[str] = (),
    share: Share = "user",
    ignore: Sequence[str] = (),
    version: str = "",
    tags: Sequence[str] = (),
    writes: Sequence[str] = (),
) -> Any:
    """Let each call of a function be charged: ``@bursar.tool(price="0.005")``.

    ``price`` is USD per call, or a function that works it out from the result; without one the tool price book of
    bursar.yaml knows it under ``name`` (the function's own by default), or it is free. ``most`` is what to hold for a call whose
    price is known only afterwards.

    ``cache`` is how long a result may be given again ("30s", "10m", "1h", "1d", "pure" for ever) for the same arguments of the
    same function, to the same user; to everybody of a team or an org with ``share``. ``vary`` divides further: scope columns
    ("task", ...) or "label:NAME". ``ignore`` are arguments that no result depends on, ``version`` says that others count now.
    ``tags`` name what the results are about: a tool that ``writes`` such tags makes them void.

    Raises ValueError for an amount or anything else that cannot be; calls raise BudgetExceeded.
    """
    work_out = price if callable(price) else None
    rule = None if price is None or callable(price) else ToolPrice("", per_call=Rate(money(price, "price"), 1))
    fee = None if most is None else money(most, "most")
    void = names_of("writes", writes)
    if void and cache:
        raise ValueError("cache: a tool that writes is not answered from a cache: take out cache, or writes")
    if not cache and (vary or ignore or version or tags or share != "user"):
        raise ValueError("cache: vary, share, ignore, version and tags say something of kept results: say cache, too")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        named = (name or getattr(function, "__name__", "tool"))[:VALUE_LENGTH_MAX]
        own = None if rule is None else replace(rule, name=named)
        caching = None
        if cache:
            caching = Caching(
                function, named, cache=cache, vary=vary, share=share, ignore=ignore, version=version, tags=tags
            )

        def made(session: Session, args: Any, kwargs: Any) -> ToolCall:
            digest = _digest(args, kwargs)
            return ToolCall(session, named, rule=own, work_out=work_out, fee=fee, digest=digest, writes=void)

        return _decorated(function, made, caching)

    return decorate if function is None else decorate(function)


def _decorated(
    function: Callable[P, R], made: Callable[[Session, Any, Any], ToolCall], caching: Caching | None
) -> Callable[P, R]:
    if inspect.isgeneratorfunction(function):
        return resumed(function, partial(_Resumed, made))
    if inspect.isasyncgenfunction(function):
        return resumed_async(function, partial(_Resumed, made))
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            session = active()
            if session is None:
                return await function(*args, **kwargs)
            call = made(session, args, kwargs)
            lookup = Lookup.of(session, caching, call, args, kwargs)
            with lookup or nullcontext():
                if lookup is not None and await lookup.is_found_async():
                    return lookup.result
                await call.begin_async()
                with _Running(call) as running:
                    result = await function(*args, **kwargs)
                    charged = running.answered(result)
                if lookup is not None:
                    lookup.keep(result, charged.amount)
            return result

        return cast("Callable[P, R]", run_async)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        session = active()
        if session is None:
            return function(*args, **kwargs)
        call = made(session, args, kwargs)
        lookup = Lookup.of(session, caching, call, args, kwargs)
        with lookup or nullcontext():
            if lookup is not None and lookup.is_found():
                return lookup.result
            call.begin()
            with _Running(call) as running:
                result = function(*args, **kwargs)
                charged = running.answered(result)
            if lookup is not None:
                lookup.keep(result, charged.amount)
        return result

    return run


class _Running:
    """The time in which a tool runs: its frame is the current one, and it ends with a charge."""

    def __init__(self, call: ToolCall) -> None:
        self._call = call
        self._size: int | None = None

    def __enter__(self) -> Self:
        self._started_us = self._call.session.now_us()
        self._before = set_frame(self._call.frame)
        return self

    def answered(self, result: Any) -> Charge:
        leave_frame(self._call.frame, self._before)
        self._size, answer = _looked_at(result)
        return self._call.end(result, size_bytes=self._size, answer=answer)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        call = self._call
        if error is not None:
            leave_frame(call.frame, self._before)
            gone = isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit)
            call.end(None, status="cancelled" if gone else "error", error=type(error).__name__)
        note_span(call.frame, self._started_us, error, size_bytes=self._size)


class _Resumed:
    """The same for a generator, whose frame is the current one only while it runs. Before ``bursar.init()`` it is nothing."""

    def __init__(self, made: Callable[[Session, Any, Any], ToolCall], args: Any, kwargs: Any) -> None:
        session = active()
        self._call = None if session is None else made(session, args, kwargs)

    def __enter__(self) -> Inside:
        if self._call is not None:
            self._call.begin()
        return self._began()

    async def __aenter__(self) -> Inside:
        if self._call is not None:
            await self._call.begin_async()
        return self._began()

    def _began(self) -> Inside:
        call = self._call
        if call is None:
            return nullcontext
        self._started_us = call.session.now_us()
        return partial(inside, call.frame)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        call = self._call
        if call is None:
            return
        # Its consumer may leave it when it has what it needs: that is how generators end.
        failed = error is not None and not isinstance(error, GeneratorExit)
        call.end(None, status="error" if failed else "ok", error=type(error).__name__ if failed else "")
        note_span(call.frame, self._started_us, error)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)


def _looked_at(result: Any) -> tuple[int | None, Any]:
    """How many bytes a result has, and itself where it is JSON-like data. What is none has neither."""
    if isinstance(result, bytes | bytearray):
        return len(result), None
    if isinstance(result, str):
        return len(result.encode(errors="replace")), _decoded(result)
    if result is None or not isinstance(result, dict | list | tuple | int | float | Decimal | bool):
        return None, None
    try:
        return len(msgspec.json.encode(cast("Any", result))), cast("Any", result)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return None, None


def _decoded(text: str) -> Any:
    if text[:1] not in "{[" or len(text) > _SIZED_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _digest(args: Any, kwargs: Any) -> str:
    """Equal arguments have equal digests; what cannot be compared has none."""
    try:
        data = msgspec.json.encode([args, kwargs], order="sorted")
    except (TypeError, ValueError, RecursionError, OverflowError):
        return ""
    return blake2b(data, digest_size=8).hexdigest()


def charge(
    tool: str,
    units: int | Decimal = 1,
    *,
    price: Money | None = None,
    error: str = "",
    size_bytes: int | None = None,
) -> Decimal | None:
    """Charge what was used of a paid service: ``bursar.charge("serpapi.search", units=1)``. Returns USD, None where unknown.

    ``price`` is USD per unit, else the tool price book's. A budget that has not that much left raises BudgetExceeded: call
    it before the service where that should keep it from being used. Raises ValueError, NotInitialized.
    """
    session = required()
    rule = session.treasury.tool_price(tool)
    if price is not None:
        rule = ToolPrice(tool, per_unit=Rate(money(price, "price"), 1))
    counts: dict[str, Any] = {"units": units, "size_bytes": size_bytes}
    if rule is not None and rule.per_unit is None and isinstance(units, int):
        counts["calls"] = units  # a price per call: so many of them
    # Counts that cannot be are found before anything is held for them.
    worst = tool_charge(tool, rule, **{"calls": 1, **counts}, duration_ms=None, stated=None, answer=None).amount
    fee = None if rule is None else worst
    call = ToolCall(session, tool, rule=rule, fee=fee)
    call.begin()
    done = call.end(None, status="error" if error else "ok", error=error, **counts)
    return done.cost_usd
