"""Asks, extensions and what happened, over HTTP (``engine.messages``).

Rule 1: a door translates. Who asks is decided by the same keys as at the gateway, what is held by the same budgets.
Rule 2: prices are the server's own. What a client says it cost is only taken for tools, whose answers it alone has seen.
Rule 3: a client's clock may be wrong: a call that claims to begin in the future begins now.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol
from urllib.parse import unquote

import msgspec

from bursar.core.admission import Claim
from bursar.core.budgets import TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsSettlement
from bursar.core.errors import BooksError
from bursar.core.ledger import Attempt, Opening
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.refusals import refusal_text
from bursar.core.scopes import Scope
from bursar.core.tallies import Tallies
from bursar.engine.asks import claim_of, opening_of, settlement_of
from bursar.engine.callers import Caller, Unauthorized, identify
from bursar.engine.claims import Claims, observed_claim
from bursar.engine.messages import (
    ASK,
    EXTENSION,
    PREFIX,
    TOLD,
    Extended,
    Permission,
    Told,
    encode,
)
from bursar.engine.permits import Ask, Ended, permit_of
from bursar.engine.ports import Books, Keys, TaskUse
from bursar.engine.rsgi import HttpProtocol, HttpScope
from bursar.engine.rulebook import Rulebook
from bursar.engine.treasury import extension

__all__ = ["Place", "Remote", "TakeNotes"]

_JSON: Final = [("content-type", "application/json")]
_BODY_BYTES_MAX: Final = 16_000_000
_BODY_WAIT_S: Final = 30.0
_HELD_MAX: Final = 100_000
_FUTURE_US: Final = 60_000_000


class Place(Protocol):
    """What of the books is asked beside holding: all of it is short, and done in the event loop."""

    def place(self, tasks: Sequence[TaskLimit], key: str) -> None: ...

    def observe(self, attempts: Sequence[tuple[Attempt, Claim | None]]) -> None: ...

    def task_use(self, task: str) -> TaskUse: ...


TakeNotes = Callable[[Sequence[Observation], Sequence[TaskOutcome]], Awaitable[None]]


class _Problem(Exception):  # noqa: N818 - it becomes an answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Remote:
    """An RSGI application for the paths under ``engine.messages.PREFIX``."""

    def __init__(
        self,
        rulebook: Callable[[], Rulebook],
        books: Books,
        desk: Place,
        take_notes: TakeNotes,
        keys: Keys,
        claims: Claims,
        tallies: Tallies,
        now_us: Callable[[], int],
    ) -> None:
        self._rulebook = rulebook
        self._books = books
        self._desk = desk
        self._take_notes = take_notes
        self._keys = keys
        self._claims = claims
        self._tallies = tallies
        self._now_us = now_us
        self._held: OrderedDict[str, Held] = OrderedDict()
        self.draining = False

    def owns(self, path: str) -> bool:
        return path.startswith(PREFIX)

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        try:
            answer = await self._answer(scope, protocol)
        except _Problem as problem:
            _send(protocol, problem.status, {"error": {"message": str(problem)}})
        except Unauthorized as error:
            _send(protocol, 401, {"error": {"message": str(error)}})
        except BooksError as error:
            _send(protocol, 503, {"error": {"message": f"the books cannot be read or written: {error}"}})
        else:
            _send(protocol, 200, answer)

    async def _answer(self, scope: HttpScope, protocol: HttpProtocol) -> Any:
        rulebook = self._rulebook()
        headers: Mapping[str, str] = dict(scope.headers.items())
        caller = identify(headers, scope.query_string, self._keys, require_keys=rulebook.require_keys)
        what = scope.path[len(PREFIX) :]
        if scope.method == "GET" and what.startswith("tasks/"):
            return self._desk.task_use(unquote(what.removeprefix("tasks/")))
        if scope.method != "POST" or what not in ("hold", "extend", "told"):
            raise _Problem(404, f"there is nothing at {scope.method} {scope.path[:100]!r}")
        if self.draining:
            raise _Problem(503, "this server is shutting down; try again")
        body = await _read(headers, protocol)
        try:
            match what:
                case "hold":
                    return await self._hold(rulebook, ASK.decode(body), caller)
                case "extend":
                    asked = EXTENSION.decode(body)
                    held = self._held.get(asked.permit.opening.attempt_id)
                    if held is None:
                        return Extended("this server does not know the hold any more: it was started again")
                    refusal = await self._books.extend(extension(asked.permit, held, asked.to_tokens))
                    return Extended("" if refusal is None else refusal_text(refusal))
                case _:
                    return await self._told(rulebook, TOLD.decode(body), caller)
        except msgspec.MsgspecError as error:
            raise _Problem(
                400, f"the message cannot be understood: {error}; is the client of another version?"
            ) from None

    # --- holding ----------------------------------------------------------------------------------------------

    async def _hold(self, rulebook: Rulebook, ask: Ask, caller: Caller) -> Permission:
        ask = self._accepted(rulebook, ask, caller)
        key = ask.opening.scope.key
        if ask.above:
            self._desk.place(ask.above, key)
        opening = opening_of(rulebook, ask)
        claim = claim_of(rulebook, self._claims, ask, opening)
        outcome = await self._books.hold(NeedsHold(opening, claim))
        if not isinstance(outcome, Held):
            return Permission(None, outcome.refusal, outcome.reason)
        self._held[opening.attempt_id] = outcome
        if len(self._held) > _HELD_MAX:
            self._held.popitem(last=False)
        permit = permit_of(opening, outcome)
        return Permission(replace(permit, price=rulebook.tools.find(ask.tool), offline_up_to=_offline(claim)))

    def _accepted(self, rulebook: Rulebook, ask: Ask, caller: Caller) -> Ask:
        """The ask as this server takes it: its scope with the key's, its provider one that is known here."""
        opening = ask.opening
        if ask.facts is not None and opening.provider not in rulebook.providers:
            raise _Problem(
                400, f"provider {opening.provider[:60]!r} is not known here: name it under providers in bursar.yaml"
            )
        return replace(ask, opening=self._opened(opening, caller))

    def _opened(self, opening: Opening, caller: Caller) -> Opening:
        now = self._now_us()
        scope = _scope(opening.scope, caller)
        return replace(
            opening,
            scope=scope,
            door="sdk",
            started_us=now if opening.started_us > now + _FUTURE_US else opening.started_us,
        )

    # --- what happened ----------------------------------------------------------------------------------------

    async def _told(self, rulebook: Rulebook, told: Told, caller: Caller) -> dict[str, Any]:
        seen: list[tuple[Attempt, Claim | None]] = []
        settlements: list[NeedsSettlement] = []
        key = caller.key.scope.key if caller.key else ""
        if told.tasks:
            self._desk.place(told.tasks, key)
        for ended in told.endings:
            settlement = self._settlement(rulebook, ended, caller)
            attempt = settlement.attempt
            if not ended.held:
                if attempt is not None:
                    seen.append((attempt, observed_claim(rulebook.budgets, attempt)))
            else:
                settlements.append(settlement)
            if attempt is not None:
                self._tallies.settled(attempt, self._now_us())
                if ended.ask.facts is not None:
                    self._claims.learn(attempt, ended.ask.facts)
        if seen:
            self._desk.observe(seen)
        if settlements:
            await asyncio.gather(*(self._books.settle(settlement) for settlement in settlements))
        if told.spans or told.outcomes:
            spans = [replace(span, scope=_scope(span.scope, caller), door="sdk") for span in told.spans]
            await self._take_notes(spans, told.outcomes)
        return {}

    def _settlement(self, rulebook: Rulebook, ended: Ended, caller: Caller) -> NeedsSettlement:
        ask = self._accepted(rulebook, ended.ask, caller)
        opening = self._opened(ended.opening, caller)
        if not ended.held:
            opening = opening_of(rulebook, ask)
        ended = replace(ended, ask=ask, opening=opening, charge=None if ask.facts is not None else ended.charge)
        if ended.reply is not None and ask.facts is None and ended.charge is None:
            raise _Problem(400, f"the charge of tool call {ask.opening.attempt_id[:60]!r} is missing")
        return settlement_of(rulebook, ended, self._held.pop(opening.attempt_id, None))


def _scope(scope: Scope, caller: Caller) -> Scope:
    if caller.key is None:
        return replace(scope, key="")
    return replace(scope, key="").over(caller.key.scope).pinned(caller.key.scope, caller.key.pinned)


def _offline(claim: Claim | None) -> int | None:
    """What may be spent under a scope while this server cannot be asked, as far as its budgets say."""
    if claim is None or not claim.budgets:
        return -1
    lefts = [budget.open_up_to for budget in claim.budgets if budget.enforce]
    return min((left for left in lefts if left is not None), default=-1) if None not in lefts else None


def _send(protocol: HttpProtocol, status: int, answer: Any) -> None:
    protocol.response_bytes(status, _JSON, encode(answer))


async def _read(headers: Mapping[str, str], protocol: HttpProtocol) -> bytes:
    if not headers.get("content-type", "").startswith("application/json"):
        raise _Problem(415, "send application/json")  # which no page of a stranger can without asking first
    length = headers.get("content-length", "")
    if not length.isdigit() or int(length) > _BODY_BYTES_MAX:
        raise _Problem(413, f"a message must say its length, and have at most {_BODY_BYTES_MAX} bytes")
    try:
        async with asyncio.timeout(_BODY_WAIT_S):
            return await protocol()
    except TimeoutError:
        raise _Problem(408, f"the message did not arrive within {_BODY_WAIT_S:.0f} s") from None
