"""How the parts of a task are put together: a draft for every task and span, filled with what was spent in it.

Rule 1: the task's tree is the one of ``bursar tasks``: links between tasks alone decide what is below what, so that sums
        agree. Spans only say where in its parent a task began.
Rule 2: drafts are made breadth first: everything comes after what it is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from .feed import Step
from .measures import EMPTY, Measures
from .spans import Arranged, Key, Span

__all__ = ["DEPTH_MAX", "Draft", "Place", "draft_all", "place_of", "tree_of_tasks"]

DEPTH_MAX: Final = 64
"""Deeper tasks and spans are listed beside their parents, so that the nesting of an answer has a limit."""

_NO_ROW: Final[Mapping[str, Any]] = {}

Place: TypeAlias = str | Key
"""Where something is: a task by its id, or a span by its key."""


@dataclass(slots=True)
class Draft:
    """A task or span while its tree is put together: it adds up to what it is in, and is listed there or, where that is
    too deep, beside it. ``row`` has a task's own figures, ``span`` is a span's, or the one a task begins with."""

    place: Place
    task: str
    row: Mapping[str, Any]
    span: Span | None
    adds_to: Draft | None
    listed_in: Draft | None
    depth: int
    held: Measures = EMPTY
    total: Measures = EMPTY
    errors: int = 0
    all_errors: int = 0
    first_us: int | None = None
    last_us: int | None = None
    ended_us: int | None = None
    steps: list[Step] = field(default_factory=list[Step])
    children: list[Draft] = field(default_factory=list["Draft"])

    @property
    def is_task(self) -> bool:
        return isinstance(self.place, str)

    @property
    def kind(self) -> str:
        return "task" if self.span is None or self.is_task else self.span.kind

    @property
    def name(self) -> str:
        if self.span is None or self.is_task:
            return self.task
        return self.span.tool or self.span.name if self.kind == "tool" else self.span.name

    def hold(self, row: Mapping[str, Any]) -> None:
        """Take in the figures of the attempts that are in this very place."""
        self.held += Measures.of(row)
        self.errors += row["errors"]
        self.reach(row["first_us"], row["last_us"], row["ended_us"])

    def close(self) -> None:
        """Add the spans' own time and everything held to the sums, and those to what this is in."""
        span = self.span
        if span is not None:
            self.reach(span.started_us, None, span.ended_us)
            # A failure that was charged is counted as its attempt; one of an agent or a task is one of its parts.
            if span.status == "error" and span.kind in ("tool", "model") and not self.held.attempts:
                self.errors += 1
        self.total += self.held
        self.all_errors += self.errors
        if self.adds_to is not None:
            self.adds_to.total += self.total
            self.adds_to.all_errors += self.all_errors
            self.adds_to.reach(self.first_us, self.last_us, self.ended_us)

    def reach(self, first_us: int | None, last_us: int | None, ended_us: int | None) -> None:
        """Stretch over something that is in here."""
        self.first_us = min((at for at in (self.first_us, first_us) if at is not None), default=None)
        self.last_us = max((at for at in (self.last_us, last_us) if at is not None), default=None)
        self.ended_us = max((at for at in (self.ended_us, ended_us) if at is not None), default=None)


def tree_of_tasks(root: str, linked: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The parent of every task of a tree, breadth first ("" for the root), and the links that close a circle."""
    children: dict[str, list[str]] = {}
    for name, parent in linked.items():
        if parent:
            children.setdefault(parent, []).append(name)
    parents = {root: ""}
    circles: list[str] = []
    waiting = [root]
    for name in waiting:
        for child in children.get(name, ()):
            if child in parents:
                circles.append(f"{child} names {name} as its parent")
                continue
            parents[child] = name
            waiting.append(child)
    return parents, tuple(circles)


def place_of(task: str, key: Key, arranged: Arranged) -> Place:
    """Where an attempt of a task is counted that was found in a span ("" for none): there, when that is of the task."""
    if arranged.task_of.get(key) != task or key not in arranged.spans or arranged.begins.get(task) == key:
        return task
    return key


def draft_all(
    root: str, parents: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]], arranged: Arranged
) -> dict[Place, Draft]:
    """Drafts of all tasks and spans, breadth first."""
    inside: dict[Place, list[Place]] = {}
    for key in arranged.spans:
        of_task = arranged.task_of[key]
        if arranged.begins.get(of_task) != key:
            above = arranged.inside.get(key)
            inside.setdefault(of_task if above is None else place_of(of_task, above, arranged), []).append(key)
    for task, parent in parents.items():
        if parent:
            inside.setdefault(place_of(parent, arranged.entered.get(task, ("", "")), arranged), []).append(task)
    drafts: dict[Place, Draft] = {root: _draft(root, None, rows, arranged)}
    waiting: list[Place] = [root]
    for place in waiting:
        for inner in inside.get(place, ()):
            drafts[inner] = _draft(inner, drafts[place], rows, arranged)
            waiting.append(inner)
    return drafts


def _draft(place: Place, above: Draft | None, rows: Mapping[str, Mapping[str, Any]], arranged: Arranged) -> Draft:
    shown_in = above if above is None or above.depth < DEPTH_MAX else above.listed_in
    if isinstance(place, str):
        begins = arranged.begins.get(place)
        task, span = place, None if begins is None else arranged.spans[begins]
    else:
        task, span = arranged.task_of[place], arranged.spans[place]
    row = rows.get(task, _NO_ROW) if task == place else _NO_ROW
    depth = 0 if shown_in is None else shown_in.depth + 1
    draft = Draft(place, task, row, span, adds_to=above, listed_in=shown_in, depth=depth)
    if shown_in is not None:
        shown_in.children.append(draft)
    return draft
