"""Whether attempts may be held, inside the books' transaction.

Rule 1: what is decided here was read in the transaction that writes the hold: nobody can spend the same money between.
Rule 2: a task's place in the tree and its limit are set once by the first call that states them, with the key that the task
        began with. A later call may lower the limit if it comes with the same key; nothing in a request raises it, or moves
        a task.
Rule 3: totals are those of the file with what this transaction has posted so far.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from bursar.core.admission import Admission, Claim, Denied, Refusal, admit, checks_of, posted, too_deep
from bursar.core.budgets import NO_TOTALS, TASK_DEPTH_MAX, Check, TaskLimit, Totals
from bursar.core.call import NeedsHold
from bursar.core.money import NanoUSD
from bursar.core.scopes import SCOPE_COLUMNS

from .books_batch import select_in

__all__ = ["Admissions", "Asked"]

_CHAINS_MAX: Final = 10_000
_PENDING_MAX: Final = 1_000  # approvals that wait: who asks for more is still refused, and nobody looks at so many


class Asked(NamedTuple):
    """One hold with the checks it must pass, and the accounts it is to be entered in; or why it cannot be asked for."""

    need: NeedsHold
    claim: Claim
    checks: tuple[Check, ...]
    accounts: tuple[str, ...]
    refusal: Refusal | None = None


class _TooDeepError(Exception):
    """A task would stand so many levels deep."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth


class Admissions:
    """One per connection. ``pending`` tells what the open transaction has posted so far, by account."""

    def __init__(
        self, db: sqlite3.Connection, pending: Callable[[], Mapping[str, Totals]], clock_us: Callable[[], int]
    ) -> None:
        self._db = db
        self._pending = pending
        self._clock_us = clock_us
        self._chains: dict[str, tuple[TaskLimit, ...]] = {}
        self._below: dict[str, set[str]] = {}  # by task, whose chains it is in
        self._version = -1
        self.limited_tasks: set[str] = set()

    def ask(self, needs: Sequence[NeedsHold]) -> list[Asked]:
        """The checks of each claim; tasks that a claim opens are entered."""
        self._refresh()
        self._load(claim.scope.task for need in needs if (claim := need.claim) is not None)
        asked: list[Asked] = []
        now = self._clock_us()
        for need in needs:
            claim = need.claim
            assert claim is not None
            try:
                chain = self._chain(claim)
            except _TooDeepError as error:
                asked.append(Asked(need, claim, (), (), too_deep(claim.scope.task, error.depth)))
                continue
            checks = checks_of(claim, chain, now) if claim.budgets or chain else ()
            asked.append(Asked(need, claim, checks, posted(claim, chain, checks)))
        return asked

    def rule(self, asked: Asked, totals: Mapping[str, Totals]) -> Admission | None:
        """None where no budget looks at the call."""
        if asked.refusal is not None:
            return Denied(asked.refusal)
        if not asked.checks:
            return None
        outcome = admit(asked.claim, asked.checks, lambda account: totals.get(account, NO_TOTALS), self._approved)
        if isinstance(outcome, Denied) and outcome.refusal.approval:
            self._ask_approval(asked, outcome)
        return outcome

    def totals(self, accounts: Iterable[str]) -> dict[str, Totals]:
        """What the file says of these accounts, with what the transaction has posted since."""
        names = list(dict.fromkeys(accounts))
        rows = select_in(self._db, "SELECT * FROM balance WHERE account IN", names)
        make = Totals._make
        totals = dict.fromkeys(names, NO_TOTALS)
        totals.update([(row[0], make(row[1:])) for row in rows])
        for name, delta in self._pending().items():
            if name in totals:
                totals[name] = totals[name].plus(delta)
        return totals

    def place(self, task: TaskLimit, key: str = "") -> tuple[TaskLimit, ...]:
        """Enter where a task stands that nobody has held for, stated with this key. Returns it with those above it."""
        self._refresh()
        self._load([task.task])
        try:
            return self._enter(task, key)
        except _TooDeepError:
            return (task, TaskLimit(task.parent))

    def load(self, tasks: Iterable[str]) -> None:
        """Read what the books know of tasks that will be asked for, all at once."""
        self._refresh()
        self._load(tasks)

    def chain(self, task: str) -> tuple[TaskLimit, ...]:
        """A task, as the books know it, and those above it; () when they know nothing of it."""
        self._refresh()
        self._load([task])
        return self._chains.get(task, ())

    def forget(self) -> None:
        """What is remembered of tasks may not be true any more: a transaction was undone."""
        self._forget_chains()

    def _forget_chains(self) -> None:
        self._chains.clear()
        self._below.clear()

    # --- tasks ------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._chains) > _CHAINS_MAX:
            self._version = version
            self._forget_chains()

    def _load(self, tasks: Iterable[str]) -> None:
        """Remember the chains of tasks, all in one statement."""
        wanted = list({task for task in tasks if task and task not in self._chains})
        if not wanted:
            return
        known = {row.task for row in _select_tasks(self._db, wanted)}
        for name in wanted:
            self._remember(name, self._read_chain(name) if name in known else ())

    def _remember(self, name: str, chain: tuple[TaskLimit, ...]) -> None:
        self._chains[name] = chain
        for task in chain:
            self._below.setdefault(task.task, set()).add(name)

    def _read_chain(self, task: str) -> tuple[TaskLimit, ...]:
        chain: list[TaskLimit] = []
        name = task
        while name and len(chain) < TASK_DEPTH_MAX:
            rows = _select_tasks(self._db, [name])
            found = rows[0] if rows else TaskLimit(name)
            chain.append(found)
            if found.limit is not None:
                self.limited_tasks.add(name)
            name = found.parent
        return tuple(chain)

    def _chain(self, claim: Claim) -> tuple[TaskLimit, ...]:
        name = claim.scope.task
        if not name:
            return ()
        stated = claim.task or TaskLimit(name)
        known = self._chains.get(name, ())
        if stated.parent or stated.limit is not None:
            return self._enter(stated, claim.scope.key)
        return known or (stated,)

    def _enter(self, stated: TaskLimit, key: str) -> tuple[TaskLimit, ...]:
        name = stated.task
        known = self._chains.get(name, ())
        before = known[0] if known else None
        after = _merged(before, stated, lambda: self._opener(name) == key)
        if (before is None or after != before) and not self._may_state(name, key):
            return known or (TaskLimit(name),)
        try:
            if after.parent and (before is None or not before.parent) and not self._may_stand_below(name, after.parent):
                after = replace(after, parent="")
        except _TooDeepError:
            if before is None:  # nor may what names it as its parent stand below nothing
                self._write(TaskLimit(name, "", NanoUSD(0)), key)
            raise
        if before is not None and after == before:
            return known
        self._write(after, key)
        return self._chains[name]

    def _write(self, task: TaskLimit, key: str) -> None:
        name = task.task
        self._db.execute(
            "INSERT INTO task VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (task) DO UPDATE SET parent = ?2, limit_nanousd = ?3,"
            " reserve_nanousd = ?4",
            (name, task.parent, task.limit, task.reserve, key, self._clock_us()),
        )
        for other in {
            name,
            *self._below.get(name, ()),
        }:  # what is remembered of others stays: calls of the same batch need it
            self._remember(other, self._read_chain(other))

    def _opener(self, task: str) -> str:
        found = self._db.execute("SELECT opened_by FROM task WHERE task = ?", (task,)).fetchone()
        return found[0] if found else ""

    def _may_state(self, task: str, key: str) -> bool:
        """Whether a request with this key may say where a task stands or what limit it has: whoever began it may, and
        anybody as long as it has no calls."""
        if self._opener(task) == key:
            return True
        known = self._db.execute(
            "SELECT 1 FROM task WHERE task = ?1 UNION ALL SELECT 1 FROM balance WHERE account = 'task:' || ?1", (task,)
        ).fetchone()
        return known is None

    def _may_stand_below(self, task: str, parent: str) -> bool:
        """False where it would stand below itself. Raises _TooDeepError: a limit must not be lost out of sight."""
        above = self._read_chain(parent)
        if any(other.task == task for other in above):
            return False
        (below,) = self._db.execute(
            "WITH RECURSIVE below (task, depth) AS (SELECT ?1, 1 UNION ALL SELECT t.task, depth + 1 FROM task t"
            " JOIN below ON t.parent = below.task WHERE depth <= ?2) SELECT max(depth) FROM below",
            (task, TASK_DEPTH_MAX),
        ).fetchone()
        if len(above) + below > TASK_DEPTH_MAX:
            raise _TooDeepError(len(above) + below)
        return True

    # --- approvals --------------------------------------------------------------------------------------------

    def _approved(self, approval: str) -> bool:
        row = self._db.execute("SELECT state FROM approval WHERE id = ?", (approval,)).fetchone()
        return row is not None and row[0] == "granted"

    def _ask_approval(self, asked: Asked, denied: Denied) -> None:
        refusal, scope = denied.refusal, asked.claim.scope
        who = {column: value for column in SCOPE_COLUMNS if (value := getattr(scope, column))}
        account = next(check.posted for check in asked.checks if check.budget.name == refusal.budget)
        self._db.execute(
            "INSERT INTO approval SELECT ?, ?, ?, ?, 'pending', ?, NULL, ?"
            " WHERE (SELECT count(*) FROM approval WHERE state = 'pending') < ? ON CONFLICT (id) DO NOTHING",
            (
                refusal.approval,
                refusal.budget,
                account,
                msgspec.json.encode(who).decode(),
                self._clock_us(),
                refusal.resets_us,
                _PENDING_MAX,
            ),
        )


def _merged(before: TaskLimit | None, stated: TaskLimit, same_opener: Callable[[], bool]) -> TaskLimit:
    """What is known of a task after a request stated this (rule 2)."""
    if before is None:
        return stated
    parent = before.parent or stated.parent
    if stated.limit is None:
        return replace(before, parent=parent)
    if before.limit is None or (stated.limit < before.limit and same_opener()):
        return replace(stated, parent=parent)
    return replace(before, parent=parent)


def _select_tasks(db: sqlite3.Connection, names: Sequence[str]) -> list[TaskLimit]:
    rows = select_in(db, "SELECT task, parent, limit_nanousd, reserve_nanousd FROM task WHERE task IN", names)
    return [
        TaskLimit(task, parent, None if limit is None else NanoUSD(limit), NanoUSD(reserve))
        for task, parent, limit, reserve in rows
    ]
