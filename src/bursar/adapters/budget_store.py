"""Budgets, task limits and approvals in the books' file, and how they stand.

Rule 1: what people set is kept as they wrote it (JSON of ``core.budget_fields``) and read again at every use.
Rule 2: a budget of bursar.yaml is changed there: a stored one of the same name is refused.
Rule 3: a standing is read in one moment; with ``each`` there is one for every value that was seen in the window.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bursar.core.budget_fields import parse_budget
from bursar.core.budgets import (
    NO_TOTALS,
    TASK_RULES,
    Budget,
    Check,
    Limit,
    Standing,
    TaskLimit,
    Totals,
    account_prefix,
    check_of,
    task_budget,
    use_of,
)
from bursar.core.errors import ConfigError
from bursar.core.money import NanoUSD

from .books_batch import select_in
from .books_errors import books_error
from .books_file import BooksFile
from .zones import zone_of

__all__ = ["Approval", "BudgetStore", "Decision", "StoredBudget"]

_SUBJECTS_MAX: Final = 1_000
_ROWS_MAX: Final = 1_000
Decision: TypeAlias = Literal["granted", "declined"]


@dataclass(frozen=True, slots=True)
class StoredBudget:
    """A budget as it was set, and what it means."""

    budget: Budget
    spec: dict[str, Any]
    changed_us: int


@dataclass(frozen=True, slots=True)
class Approval:
    """What somebody must decide before calls go on. ``who`` is the scope of the call that asked first."""

    id: str
    budget: str
    account: str
    who: dict[str, str]
    state: str
    asked_us: int
    decided_us: int | None
    expires_us: int | None


class BudgetStore:
    """Not shared between threads. Every method raises BooksError when the books cannot be read or written."""

    def __init__(self, books: BooksFile, clock_us: Callable[[], int]) -> None:
        self._books = books
        self._clock_us = clock_us

    # --- budgets ----------------------------------------------------------------------------------------------

    def set(self, name: str, spec: dict[str, Any]) -> StoredBudget:
        """Set or replace a budget. Raises ConfigError for a spec that cannot be."""
        try:
            budget = parse_budget(name, spec, zone_of)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        text = msgspec.json.encode(spec).decode()
        now = self._clock_us()
        self._write(
            "INSERT INTO budget VALUES (?1, ?2, ?3) ON CONFLICT (name) DO UPDATE SET spec = ?2, changed_us = ?3",
            (name, text, now),
        )
        return StoredBudget(budget, spec, now)

    def remove(self, name: str) -> bool:
        """False when none of that name was set. What was spent under it stays in the books."""
        return bool(self._write("DELETE FROM budget WHERE name = ?", (name,)))

    def find(self, name: str) -> StoredBudget | None:
        return next((stored for stored in self.list() if stored.budget.name == name), None)

    def list(self) -> list[StoredBudget]:
        rows = self._read("SELECT name, spec, changed_us FROM budget ORDER BY name")
        stored: list[StoredBudget] = []
        for name, text, changed_us in rows:
            spec = msgspec.json.decode(text, type=dict[str, Any])
            try:
                stored.append(StoredBudget(parse_budget(name, spec, zone_of), spec, changed_us))
            except ValueError as error:
                raise ConfigError(f"a stored budget cannot be read: {error}; set it again") from None
        return stored

    # --- tasks ------------------------------------------------------------------------------------------------

    def set_task(self, task: str, limit: NanoUSD | None, reserve: NanoUSD) -> None:
        """Set, raise or lower a task's own limit, whoever opened it; None takes it away."""
        self._write(
            "INSERT INTO task VALUES (?1, '', ?2, ?3, '', ?4) ON CONFLICT (task) DO UPDATE SET limit_nanousd = ?2,"
            " reserve_nanousd = ?3",
            (task, limit, reserve, self._clock_us()),
        )

    def tasks(self, rules: Budget = TASK_RULES, limit: int = _ROWS_MAX) -> list[Standing]:
        """Tasks with a limit of their own, the latest opened first, by these rules."""
        rows = self._read(
            "SELECT task, parent, limit_nanousd, reserve_nanousd FROM task WHERE limit_nanousd IS NOT NULL"
            " ORDER BY opened_us DESC, task LIMIT ?",
            (limit,),
        )
        checks = [
            task_budget(TaskLimit(task, parent, NanoUSD(most), NanoUSD(kept)), rules)
            for task, parent, most, kept in rows
        ]
        return self._standings(checks)

    def task(self, name: str, rules: Budget = TASK_RULES) -> Standing | None:
        """One task with a limit of its own."""
        rows = self._read("SELECT parent, limit_nanousd, reserve_nanousd FROM task WHERE task = ?", (name,))
        if not rows or rows[0][1] is None:
            return None
        parent, most, kept = rows[0]
        return self._standings([task_budget(TaskLimit(name, parent, NanoUSD(most), NanoUSD(kept)), rules)])[0]

    # --- approvals --------------------------------------------------------------------------------------------

    def approvals(self, *, pending: bool = False, id: str | None = None) -> list[Approval]:  # noqa: A002 - the column
        """Those whose window is not over, the latest asked first; one of them when its ``id`` is given."""
        rows = self._read(
            "SELECT * FROM approval WHERE (?1 = 0 OR state = 'pending') AND (expires_us IS NULL OR expires_us > ?2)"
            " AND (?3 IS NULL OR id = ?3) ORDER BY asked_us DESC, id LIMIT ?4",
            (int(pending), self._clock_us(), id, _ROWS_MAX),
        )
        return [
            Approval(
                name, budget, account, msgspec.json.decode(who, type=dict[str, str]), state, asked, decided, expires
            )
            for name, budget, account, who, state, asked, decided, expires in rows
        ]

    def decide(self, approval: str, decision: Decision) -> Approval | None:
        """Grant or decline. None when nothing of that id is waiting or was decided."""
        self._write(
            "UPDATE approval SET state = ?1, decided_us = ?2 WHERE id = ?3 AND (expires_us IS NULL OR expires_us > ?2)",
            (decision, self._clock_us(), approval),
        )
        return next((one for one in self.approvals(id=approval) if one.state == decision), None)

    def prune(self, before_us: int) -> int:
        """Forget approvals whose window ended before then, and old ones that nobody granted. Returns how many."""
        return self._write(
            "DELETE FROM approval WHERE expires_us < ?1 OR (state <> 'granted' AND expires_us IS NULL AND asked_us < ?1)",
            (before_us,),
        )

    # --- how they stand ---------------------------------------------------------------------------------------

    def standings(self, budgets: Iterable[Budget]) -> list[Standing]:
        """How every window of these budgets stands now."""
        now = self._clock_us()
        checks: list[Check] = []
        for budget in budgets:
            for index, limit in enumerate(budget.limits):
                checks += [check_of(budget, index, subject, now) for subject in self._subjects(budget, limit, now)]
        return self._standings(checks)

    def _subjects(self, budget: Budget, limit: Limit, now: int) -> Sequence[str]:
        if not budget.each:
            return ("",)
        window = limit.window
        spans = window.rolling_spans(now) if window.kind == "rolling" else (window.span(now),)
        found: dict[str, None] = {}
        for span in spans:
            prefix = account_prefix(budget.name, window, span) + "="
            rows = self._read(
                "SELECT account FROM balance WHERE account >= ?1 AND account < ?2"
                " ORDER BY spent_nanousd + held_nanousd + spent_tokens + spent_calls DESC LIMIT ?3",
                (prefix, prefix[:-1] + chr(ord("=") + 1), _SUBJECTS_MAX),
            )
            found.update((row[0][len(prefix) :], None) for row in rows)
        return tuple(found)[:_SUBJECTS_MAX]

    def _standings(self, checks: Sequence[Check]) -> list[Standing]:
        names = [account for check in checks for account in check.accounts]
        totals: dict[str, Totals] = {}
        if names:
            with _books_errors():
                rows = select_in(self._books.connection, "SELECT * FROM balance WHERE account IN", names)
            totals = {row[0]: Totals(*row[1:]) for row in rows}
        return [
            Standing(
                check.budget,
                check.subject,
                check.window,
                check.span,
                check.limit,
                use_of(check, lambda account: totals.get(account, NO_TOTALS)),
                sum(totals.get(account, NO_TOTALS).unpriced for account in check.accounts),
            )
            for check in checks
        ]

    # --- the file ---------------------------------------------------------------------------------------------

    def _read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _books_errors():
            return self._books.connection.execute(sql, parameters).fetchall()

    def _write(self, sql: str, parameters: Sequence[Any]) -> int:
        return self._books.transaction(lambda: self._books.connection.execute(sql, parameters).rowcount)


@contextmanager
def _books_errors() -> Generator[None]:
    """What the database says, in the terms of the books."""
    try:
        yield
    except sqlite3.Error as error:
        raise books_error(error) from error
