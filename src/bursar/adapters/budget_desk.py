"""Where people set, see and steer budgets: those of bursar.yaml and those kept in the books, as one.

Rule 1: a budget of bursar.yaml is changed there: it hides a stored one of the same name, and none of its name is stored.
Rule 2: a server asks from a thread with a connection of its own: how a thousand balances stand takes longer to read than
        a call may wait, and a write is seen by the gateway's connection as that of any other process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

from bursar.core.budget_fields import BUDGETS_MAX, parse_budget
from bursar.core.budgets import TASK_RULES, Budget, Standing, TaskLimit
from bursar.core.errors import ConfigError
from bursar.core.money import NanoUSD
from bursar.engine.ports import AskedApproval, Decision, KeptBudget, TaskStanding

from .books_batch import select_in
from .books_file import BooksFile
from .budget_store import Approval, BudgetStore
from .zones import zone_of

__all__ = ["BooksDesk", "DeskWorker"]

T = TypeVar("T")


class BooksDesk:
    """``engine.ports.BudgetDesk``. ``configured`` gives the budgets of bursar.yaml as they are written there."""

    def __init__(
        self, books: BooksFile, configured: Callable[[], Mapping[str, Any]], clock_us: Callable[[], int]
    ) -> None:
        self._books = books
        self._store = BudgetStore(books, clock_us)
        self._configured = configured

    def budgets(self) -> list[KeptBudget]:
        written = self._configured()
        found = [self._of_file(name, spec) for name, spec in written.items()]
        stored = (each for each in self._store.list() if each.budget.name not in written)
        return [*found, *(KeptBudget(each.budget, each.spec, "set", each.changed_us) for each in stored)]

    def find(self, name: str) -> KeptBudget | None:
        return next((kept for kept in self.budgets() if kept.budget.name == name), None)

    def set(self, name: str, spec: Mapping[str, Any]) -> KeptBudget:
        written = self._configured()
        if name in written:
            raise ConfigError(f"budget {name}: it is in bursar.yaml; change it there")
        stored = self._store.list()
        known = {each.budget.name for each in stored} | set(written)
        if name not in known and len(known) >= BUDGETS_MAX:
            raise ConfigError(f"budget {name}: there are {len(known)} budgets, at most {BUDGETS_MAX} are possible")
        found = self._store.set(name, dict(spec))
        return KeptBudget(found.budget, found.spec, "set", found.changed_us)

    def remove(self, name: str) -> bool:
        return self._store.remove(name)

    def standings(self, budgets: Iterable[Budget]) -> list[Standing]:
        return self._store.standings(budgets)

    def _task_rules(self) -> Budget:
        found = self.find(TASK_RULES.name)
        return found.budget if found is not None else TASK_RULES

    def tasks(self) -> list[TaskStanding]:
        return self._with_limits(self._store.tasks(self._task_rules()))

    def task(self, name: str) -> TaskStanding | None:
        standing = self._store.task(name, self._task_rules())
        return None if standing is None else self._with_limits([standing])[0]

    def set_task(self, name: str, limit: NanoUSD | None, reserve: NanoUSD) -> None:
        self._store.set_task(name, limit, reserve)

    def approvals(self, *, pending: bool) -> list[AskedApproval]:
        return [_asked(one) for one in self._store.approvals(pending=pending)]

    def decide(self, approval: str, decision: Decision) -> AskedApproval | None:
        found = self._store.decide(approval, decision)
        return None if found is None else _asked(found)

    def _of_file(self, name: str, spec: Any) -> KeptBudget:
        try:
            return KeptBudget(parse_budget(name, spec, zone_of, f"budgets.{name}"), spec, "file")
        except ValueError as error:  # the file was checked when it was loaded; settings made otherwise were not
            raise ConfigError(str(error)) from None

    def _with_limits(self, standings: Sequence[Standing]) -> list[TaskStanding]:
        rows = select_in(
            self._books.connection,
            "SELECT task, parent, reserve_nanousd FROM task WHERE task IN",
            [standing.subject for standing in standings],
        )
        about = {task: (parent, NanoUSD(reserve)) for task, parent, reserve in rows}
        nothing = ("", NanoUSD(0))
        found: list[TaskStanding] = []
        for standing in standings:
            parent, reserve = about.get(standing.subject, nothing)
            found.append(TaskStanding(TaskLimit(standing.subject, parent, NanoUSD(standing.limit), reserve), standing))
        return found


class DeskWorker:
    """A desk for an event loop (rule 2). ``open_books`` is called in the worker's own thread."""

    def __init__(
        self,
        open_books: Callable[[], BooksFile],
        configured: Callable[[], Mapping[str, Any]],
        clock_us: Callable[[], int],
    ) -> None:
        self._open_books = open_books
        self._configured = configured
        self._clock_us = clock_us
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="budgets")

    async def ask(self, question: Callable[[BooksDesk], T]) -> T:
        """Raises BooksError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, question)

    def close(self) -> None:
        self._thread.shutdown()

    def _ask(self, question: Callable[[BooksDesk], T]) -> T:
        with closing(self._open_books()) as books:
            return question(BooksDesk(books, self._configured, self._clock_us))


def _asked(one: Approval) -> AskedApproval:
    return AskedApproval(one.id, one.budget, one.who, one.state, one.asked_us, one.decided_us, one.expires_us)
