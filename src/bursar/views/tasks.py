"""What each task cost, alone and with the tasks it started.

Rule 1: a parent's cost "with all" is its own plus that of every task below it, each task once.
Rule 2: links between tasks are what callers said, with their calls or with the spans of tasks that made none. A circle of
        links counts each task once.
Rule 3: what a limit leaves out is counted; figures are always over everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ._sql import statement
from ._tree import DEPTH_MAX
from .asking import make_filter
from .measures import EMPTY, Measures, cost_text, time_text
from .spend import DEAREST_FIRST, ROWS_MAX, spend

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = ["TaskList", "TaskRow", "TopTask", "TopTasks", "tasks", "top_tasks"]


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task of a list. ``own`` is what it spent itself, the ``all_`` figures include every task below it.

    ``outcome`` is the latest word on what became of it, "" when there is none, and ``value_nanousd`` what that was worth.
    """

    task: str
    parent: str
    agent: str
    user: str
    session: str
    status: str
    first_us: int
    last_us: int
    own: Measures
    errors: int
    task_count: int
    all_calls: int
    all_errors: int
    all_unpriced_calls: int
    all_estimated_calls: int
    all_cost_nanousd: int | None
    outcome: str
    value_nanousd: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "parent_task": self.parent,
            "agent": self.agent,
            "user": self.user,
            "session": self.session,
            "status": self.status,
            "first_at": time_text(self.first_us),
            "last_at": time_text(self.last_us),
            **self.own.to_json(),
            "errors": self.errors,
            "sub_tasks": self.task_count - 1,
            "all_calls": self.all_calls,
            "all_errors": self.all_errors,
            "all_unpriced_calls": self.all_unpriced_calls,
            "all_cost_usd": cost_text(self.all_cost_nanousd),
            "outcome": self.outcome,
            "value_usd": cost_text(self.value_nanousd),
        }


@dataclass(frozen=True, slots=True)
class TaskList:
    """Tasks, dearest first. ``total`` is of everything that matches; ``without_task`` is its part that names none."""

    rows: tuple[TaskRow, ...]
    total: Measures
    without_task: Measures
    task_count: int

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [row.to_json() for row in self.rows],
            "total": self.total.to_json(),
            "without_task": self.without_task.to_json(),
        }


def tasks(
    queries: Queries,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    where: Mapping[str, str] | None = None,
    limit: int = ROWS_MAX,
) -> TaskList:
    """The tasks with attempts in the time span that have the given column values. Raises BadQuestion."""
    where = where or {}
    matching = make_filter(since, until, where)
    columns, links = statement("tasks", "task_columns"), statement("tasks", "quiet_links")
    rows = queries.rows(
        statement("tasks", "tasks", task_columns=columns, condition=matching.condition, quiet_links=links),
        {**matching.parameters, "limit": max(1, min(limit, ROWS_MAX)), "depth_max": DEPTH_MAX},
    )
    total = spend(queries, by=(), since=since, until=until, where=where).total
    if where.get("task"):
        without = EMPTY
    else:
        without = spend(queries, by=(), since=since, until=until, where={**where, "task": ""}).total
    return TaskList(tuple(_task_row(row) for row in rows), total, without, rows[0]["task_count"] if rows else 0)


def _task_row(row: Mapping[str, Any]) -> TaskRow:
    own = Measures.of(row)
    below: dict[str, int] = {name: row[f"below_{name}"] or 0 for name in _BELOW}
    attempts = own.attempts + below["attempts"]
    unpriced = own.unpriced_calls + below["unpriced_calls"]
    return TaskRow(
        task=row["task"],
        parent=row["parent"] or "",
        agent=row["agent"] or "",
        user=row["user"] or "",
        session=row["session"] or "",
        status=row["status"] or "",
        first_us=min(at for at in (row["first_us"], row["below_first_us"]) if at is not None),
        last_us=max(at for at in (row["last_us"], row["below_last_us"]) if at is not None),
        own=own,
        errors=row["errors"] or 0,
        task_count=1 + below["tasks"],
        all_calls=own.calls + below["calls"],
        all_errors=(row["errors"] or 0) + below["errors"],
        all_unpriced_calls=unpriced,
        all_estimated_calls=own.estimated_calls + below["estimated_calls"],
        all_cost_nanousd=None if unpriced >= attempts else (own.cost_nanousd or 0) + below["cost_nanousd"],
        outcome=row["outcome"] or "",
        value_nanousd=row["value_nanousd"],
    )


_BELOW: Final = ("tasks", "calls", "attempts", "errors", "unpriced_calls", "estimated_calls", "cost_nanousd")


@dataclass(frozen=True, slots=True)
class TopTask:
    """A task that is no part of another, with the figures of everything below it; "" is what names no task."""

    task: str
    measures: Measures
    sub_tasks: int


@dataclass(frozen=True, slots=True)
class TopTasks:
    """The dearest of them. ``task_count`` counts also those past the limit."""

    rows: tuple[TopTask, ...]
    task_count: int


def top_tasks(queries: Queries, *, since: datetime | None = None, limit: int = ROWS_MAX) -> TopTasks:
    """Spend by top task, dearest first. All rows together are everything that was spent, each call once."""
    matching = make_filter(since, None, {})
    sql = statement(
        "tasks",
        "top_tasks",
        measures=statement("spend", "measures"),
        condition=matching.condition,
        quiet_links=statement("tasks", "quiet_links"),
        ordering=", ".join(DEAREST_FIRST),
    )
    rows = queries.rows(sql, {**matching.parameters, "limit": max(1, min(limit, ROWS_MAX)), "depth_max": DEPTH_MAX})
    found = tuple(TopTask(row["task"], Measures.of(row), row["sub_tasks"]) for row in rows)
    return TopTasks(found, rows[0]["task_count"] if rows else 0)
