"""Holds and settlements for a door in the agent's own process, over the books of this machine.

Rule 1: a call that no budget looks at waits for nothing: its hold and its ending are entered within a moment.
Rule 2: while the books cannot be written, a call goes on only where every budget it falls under says so (``meanwhile``); one
        that falls under none goes on.
Rule 3: a tool whose price is known only afterwards is held at the most that one of its calls has cost so far, and at
        nothing before the first: what it then costs more is recorded, as every overrun is.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Final

from bursar.core.admission import Crowded
from bursar.core.budgets import TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsMore, NotHeld
from bursar.core.errors import BooksError
from bursar.core.money import NanoUSD
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.refusals import refusal_text
from bursar.core.tool_prices import ToolPrice, tool_worst

from .asks import claim_of, decided_opening, opening_of, settlement_of
from .claims import Claims, observed_claim
from .meanwhile import Meanwhile
from .permits import Ask, Ended, Permit, permit_of
from .ports import TaskUse, ThreadBooks, Traces
from .rulebook import Rulebook

__all__ = ["LocalTreasury", "Notes", "extension"]

_TOOLS_MAX: Final = 10_000
_NOTES_MAX: Final = 100_000
_NOTES_BATCH: Final = 1_000
_LIVING: Final[weakref.WeakSet[Notes | LocalTreasury]] = weakref.WeakSet()


class Notes:
    """What is to be told to the traces, by the thread that writes the books. Of too many the oldest are lost: no money is in
    them."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._waiting: deque[Observation | TaskOutcome] = deque(maxlen=_NOTES_MAX)
        self.forked()
        _LIVING.add(self)

    def forked(self) -> None:
        """This process is a child: what waits is its parent's, whose threads are not here."""
        self._lock = Lock()
        self._waiting.clear()

    def add(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome]) -> None:
        self._waiting.extend(observations)
        self._waiting.extend(outcomes)

    def close(self) -> None:
        """What waits is written first, by ``write``."""
        self._traces.close()

    def write(self) -> None:
        """Raises BooksError, and then everything still waits."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        while batch := [self._waiting[i] for i in range(min(len(self._waiting), _NOTES_BATCH))]:
            self._traces.take(
                [each for each in batch if isinstance(each, Observation)],
                [each for each in batch if isinstance(each, TaskOutcome)],
            )
            for _ in batch:
                self._waiting.popleft()


class LocalTreasury:
    """``engine.ports.Treasury``. ``rulebook`` is asked for once per call."""

    def __init__(self, rulebook: Callable[[], Rulebook], books: ThreadBooks, notes: Notes, claims: Claims) -> None:
        self._rulebook = rulebook
        self._books = books
        self._claims = claims
        self._meanwhile = Meanwhile()
        self.forked()
        self._dearest: dict[str, NanoUSD] = {}
        self._placed: set[str] = set()
        self._held: dict[str, Held] = {}
        self._notes = notes
        _LIVING.add(self)

    def forked(self) -> None:
        """This process is a child: nobody here would give its parent's lock back."""
        self._meanwhile_lock = Lock()

    @property
    def remote(self) -> bool:
        return False

    def hold(self, ask: Ask) -> Permit | NotHeld | Crowded:
        rulebook = self._rulebook()
        price = rulebook.tools.find(ask.tool) if ask.tool else None
        if ask.tool and ask.fee is None:
            ask = self._with_fee(ask, price)
        try:
            if not self._is_limited(rulebook, ask):
                opening = decided_opening(ask)
                self._books.hold_later(opening.attempt_id, lambda: self._need(rulebook, ask))
                return Permit(opening, price=price)
        except BooksError:
            pass  # who cannot be asked may have a limit to tell of
        need = self._need(rulebook, ask)
        opening, claim = need.opening, need.claim
        assert claim is not None
        try:
            self._place(ask.above)
            outcome = self._books.hold(need)
        except BooksError as error:
            with self._meanwhile_lock:
                held = self._meanwhile.hold(claim, self._books.limited_tasks())
            outcome = held or NotHeld(f"the books cannot be written: {error}")
        if isinstance(outcome, Held):
            self._held[opening.attempt_id] = outcome
            permit = permit_of(opening, outcome)
            return permit if price is None else replace(permit, price=price)
        return outcome

    def _is_limited(self, rulebook: Rulebook, ask: Ask) -> bool:
        """Whether a budget, or the limit of a task, can look at a call. Raises BooksError."""
        scope = ask.opening.scope
        if any(budget.covers(scope) for budget in rulebook.budgets):
            return True
        if not scope.task:
            return False
        if any(task.limit is not None for task in ask.above) or (ask.task and ask.task.limit is not None):
            return True
        return self._books.is_limited((scope.task, *(task.task for task in ask.above), scope.parent_task))

    def _need(self, rulebook: Rulebook, ask: Ask) -> NeedsHold:
        opening = opening_of(rulebook, ask)
        return NeedsHold(opening, claim_of(rulebook, self._claims, ask, opening))

    def extend(self, permit: Permit, to_tokens: int) -> str:
        held = self._held.get(permit.opening.attempt_id)
        if held is None:
            return ""
        try:
            refusal = self._books.extend(extension(permit, held, to_tokens))
        except BooksError as error:
            return f"the books cannot be written: {error}"
        return "" if refusal is None else refusal_text(refusal)

    def settle(self, ended: Ended) -> None:
        settlement = settlement_of(self._rulebook(), ended, self._held.pop(ended.opening.attempt_id, None))
        attempt = settlement.attempt
        if attempt is not None:
            if ended.ask.facts is not None:
                self._claims.learn(attempt, ended.ask.facts)
            elif attempt.charge.amount is not None:
                self._saw_fee(ended.ask.tool, attempt.charge.amount)
        self._books.settle_later(settlement)

    def observe(self, ended: Ended) -> None:
        rulebook = self._rulebook()
        ended = replace(ended, opening=decided_opening(ended.ask))
        attempt = settlement_of(rulebook, ended, None).attempt
        if attempt is not None:
            self.place(ended.ask.above)
            self._books.observe(attempt, observed_claim(rulebook.budgets, attempt))

    def tool_price(self, tool: str) -> ToolPrice | None:
        return self._rulebook().tools.find(tool)

    def note(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome] = ()) -> None:
        self._notes.add(observations, outcomes)
        self._books.wake()

    def place(self, tasks: Sequence[TaskLimit]) -> None:
        with suppress(BooksError):  # the call itself says so
            self._place(tasks)

    def task_use(self, task: str) -> TaskUse:
        return self._books.task_use(task)

    def flush(self, timeout_s: float) -> bool:
        return self._books.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        written = self._books.close(timeout_s)
        self._notes.close()
        return written

    # --- parts ------------------------------------------------------------------------------------------------

    def _place(self, tasks: Sequence[TaskLimit]) -> None:
        new = [task for task in tasks if task.task not in self._placed]
        if new:
            self._books.place(new)
            self._placed.update(task.task for task in new)

    def _with_fee(self, ask: Ask, price: ToolPrice | None) -> Ask:
        if price is not None and tool_worst(price) is not None:
            return ask
        return replace(ask, fee=self._dearest.get(ask.tool, NanoUSD(0)))

    def _saw_fee(self, tool: str, amount: NanoUSD) -> None:
        if amount > self._dearest.get(tool, -1) and (tool in self._dearest or len(self._dearest) < _TOOLS_MAX):
            self._dearest[tool] = amount


def extension(permit: Permit, held: Held, to_tokens: int) -> NeedsMore:
    """What is to be held in addition for a stream that goes on to so many output tokens."""
    tokens = (to_tokens - permit.covers_tokens) * permit.choices
    return NeedsMore(permit.opening, held, permit.more_cost(to_tokens), tokens)


def _after_fork() -> None:
    for each in list(_LIVING):
        each.forked()


os.register_at_fork(after_in_child=_after_fork)
