"""What each task cost, alone and with the tasks it started.

Rule 1: a parent's cost "with all" is its own plus that of every task below it, each task once.
Rule 2: links between tasks are what callers said. A circle of links is cut where it closes, and reported.
Rule 3: what a limit leaves out is counted; figures are always over everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._sql import statement
from .asking import BadQuestion, make_filter
from .feed import Step
from .measures import EMPTY, Measures, cost_text, share, time_text
from .spend import DEAREST_FIRST, ROWS_MAX, spend

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = [
    "Node",
    "NoTask",
    "SeveralTasks",
    "TaskAnswer",
    "TaskList",
    "TaskRow",
    "TaskTree",
    "TopTask",
    "TopTasks",
    "task",
    "tasks",
    "top_tasks",
]

_DEPTH_MAX: Final = 64
"""Deeper tasks are listed beside their parents, so that the nesting of an answer has a limit."""

_NODES_MAX: Final = 100_000
_STEPS_MAX: Final = 10_000
_CANDIDATES_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task of a list. ``own`` is what it spent itself, the ``all_`` figures include every task below it."""

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
    columns = statement("tasks", "task_columns")
    rows = queries.rows(
        statement("tasks", "tasks", task_columns=columns, condition=matching.condition),
        {**matching.parameters, "limit": max(1, min(limit, ROWS_MAX)), "depth_max": _DEPTH_MAX},
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
        ordering=", ".join(DEAREST_FIRST),
    )
    rows = queries.rows(sql, {**matching.parameters, "limit": max(1, min(limit, ROWS_MAX)), "depth_max": _DEPTH_MAX})
    found = tuple(TopTask(row["task"], Measures.of(row), row["sub_tasks"]) for row in rows)
    return TopTasks(found, rows[0]["task_count"] if rows else 0)


@dataclass(frozen=True, slots=True)
class Node:
    """One task of a tree: its own figures, those with every task below it, its steps and its sub-tasks in order.

    ``status`` is how its last own attempt ended, "" when it has none.
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
    total: Measures
    errors: int
    all_errors: int
    steps: tuple[Step, ...]
    children: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class TaskTree:
    """A task with everything below it. ``circles`` names the links that were cut because they close a circle."""

    root: Node
    task_count: int
    circles: tuple[str, ...]
    steps_left_out: int
    tasks_left_out: bool

    def to_json(self) -> dict[str, Any]:
        return {
            **_node_json(self.root, self.root),
            "tasks": self.task_count,
            "circles": list(self.circles),
            "steps_left_out": self.steps_left_out,
            "tasks_left_out": self.tasks_left_out,
        }


@dataclass(frozen=True, slots=True)
class NoTask:
    """No task has this id, or an id that begins with it."""

    id: str


@dataclass(frozen=True, slots=True)
class SeveralTasks:
    """More than one task id begins with the text, and not all are below one of them: some, the latest first."""

    id: str
    candidates: tuple[str, ...]
    more: bool


TaskAnswer: TypeAlias = TaskTree | NoTask | SeveralTasks


def task(queries: Queries, id: str) -> TaskAnswer:  # noqa: A002 -- what it is
    """The tree of the task with this id, or of the only one whose id begins so, not counting tasks below it.

    Raises BadQuestion.
    """
    if not id:
        raise BadQuestion("id", "a task id is needed; `bursar tasks` lists them")
    sql = statement("tasks", "task_candidates")
    found = queries.rows(sql, {"id": id, "limit": _CANDIDATES_MAX + 1})
    if not found:
        return NoTask(id)
    root: str = found[0]["task"]
    # In a circle each is a part of another: then none stands for all.
    tops: list[str] = [row["task"] for row in found if not row["is_part"]] or [row["task"] for row in found]
    if root != id and len(tops) > 1:
        return SeveralTasks(id, tuple(tops[:_CANDIDATES_MAX]), more=len(tops) > _CANDIDATES_MAX)
    sql = statement("tasks", "subtree", task_columns=statement("tasks", "task_columns"))
    rows = {row["task"]: row for row in queries.rows(sql, {"id": root, "limit": _NODES_MAX + 1})}
    tasks_left_out = len(rows) > _NODES_MAX
    sql = statement("tasks", "steps", step_columns=statement("feed", "step_columns"))
    steps = [Step.of(row) for row in queries.rows(sql, {"tasks": list(rows), "limit": _STEPS_MAX})]
    drafts, circles = _link(root, rows)
    for step in steps:
        if step.task in drafts:
            drafts[step.task].steps.append(step)
    # Breadth first puts every task after its parent: backwards, children are complete before they are added up.
    for draft in reversed(drafts.values()):
        if draft.adds_to is not None:
            draft.adds_to.add(draft)
    top = drafts[root]
    return TaskTree(top.freeze(), len(drafts), circles, top.total.attempts - len(steps), tasks_left_out)


@dataclass(slots=True)
class _Draft:
    """A node while its tree is put together: it adds up to its parent and is listed in it, or where it is not too deep."""

    task: str
    row: Mapping[str, Any]
    adds_to: _Draft | None
    listed_in: _Draft | None
    depth: int
    own: Measures
    total: Measures
    all_errors: int
    first_us: int | None
    last_us: int | None
    steps: list[Step] = field(default_factory=list[Step])
    children: list[_Draft] = field(default_factory=list["_Draft"])

    @classmethod
    def of(cls, task: str, row: Mapping[str, Any] | None, parent: _Draft | None) -> _Draft:
        own = EMPTY if row is None else Measures.of(row)
        row = row or {}
        place = parent if parent is None or parent.depth < _DEPTH_MAX else parent.listed_in
        draft = cls(
            task=task,
            row=row,
            adds_to=parent,
            listed_in=place,
            depth=0 if place is None else place.depth + 1,
            own=own,
            total=own,
            all_errors=row.get("errors", 0),
            first_us=row.get("first_us"),
            last_us=row.get("last_us"),
        )
        if place is not None:
            place.children.append(draft)
        return draft

    def add(self, child: _Draft) -> None:
        self.total += child.total
        self.all_errors += child.all_errors
        self.first_us = min((at for at in (self.first_us, child.first_us) if at is not None), default=None)
        self.last_us = max((at for at in (self.last_us, child.last_us) if at is not None), default=None)

    def freeze(self) -> Node:
        text: dict[str, str] = {
            name: self.row.get(name, "") for name in ("parent", "agent", "user", "session", "status")
        }
        assert self.first_us is not None
        assert self.last_us is not None
        return Node(
            task=self.task,
            **text,
            first_us=self.first_us,
            last_us=self.last_us,
            own=self.own,
            total=self.total,
            errors=self.row.get("errors", 0),
            all_errors=self.all_errors,
            steps=tuple(self.steps),
            children=tuple(child.freeze() for child in self.children),
        )


def _link(root: str, rows: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, _Draft], tuple[str, ...]]:
    """The drafts of a tree, breadth first, and the links that close a circle."""
    children: dict[str, list[str]] = {}
    for name, row in rows.items():
        if row["parent"]:
            children.setdefault(row["parent"], []).append(name)
    drafts = {root: _Draft.of(root, rows.get(root), None)}
    circles: list[str] = []
    waiting = [root]
    for name in waiting:
        parent = drafts[name]
        for child in children.get(name, ()):
            if child in drafts:
                circles.append(f"{child} names {name} as its parent")
                continue
            drafts[child] = _Draft.of(child, rows[child], parent)
            waiting.append(child)
    return drafts, tuple(circles)


def _node_json(node: Node, root: Node) -> dict[str, Any]:
    whole = root.total.cost_nanousd
    return {
        "task": node.task,
        "parent_task": node.parent,
        "agent": node.agent,
        "user": node.user,
        "session": node.session,
        "status": node.status,
        "first_at": time_text(node.first_us),
        "last_at": time_text(node.last_us),
        "offset_ms": (node.first_us - root.first_us) // 1000,
        "share": share(node.total.cost_nanousd, whole),
        "errors": node.errors,
        "all_errors": node.all_errors,
        "own": node.own.to_full_json(),
        "total": node.total.to_full_json(),
        "steps": [
            {
                **step.to_json(),
                "offset_ms": (step.started_us - root.first_us) // 1000,
                "share": share(step.cost_nanousd, whole),
            }
            for step in node.steps
        ],
        "children": [_node_json(child, root) for child in node.children],
    }
