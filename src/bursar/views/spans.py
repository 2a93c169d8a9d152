"""Where spans belong: which task each is of, and which span it is in.

Rule 1: a span is of the task it names, or of the nearest span above it that names one, or of what it paid for, or of the
        task that has the name of its trace.
Rule 2: a parent counts only within the same task; what begins a task is placed by the task's own link to its parent.
Rule 3: spans come from strangers' clocks and networks. A circle is cut where it was found to close, a parent that never
        came is none, a span that begins before its parent stays where it says it is; each is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Arranged", "Key", "Span", "arrange"]

Key: TypeAlias = tuple[str, str]
"""A span's name in the world: its trace and its id."""

_SKEW_US = 1_000
"""Two clocks of one machine may differ by this much without being wrong."""


@dataclass(frozen=True, slots=True)
class Span:
    """One span, by the row of it that counts. ``attempt_id`` is the charge it stands for, "" where there is none."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    door: str
    started_us: int
    ended_us: int
    status: str
    error: str
    agent: str
    user: str
    session: str
    task: str
    tool: str
    size_bytes: int | None
    attempt_id: str
    parent_known: bool

    @property
    def key(self) -> Key:
        return (self.trace_id, self.span_id)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Span:
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True)
class Arranged:
    """The spans of a tree of tasks: their tasks, and for those that are in another span of the same task, that one.

    ``begins`` is the span that is a task's own: the only one that begins it, when it says that it is a task or an agent; of
    several the SDK's, which is entered before a tracer's.
    ``entered`` is, for a task, the span that its first span names as its parent, whatever task that is of.
    """

    spans: Mapping[Key, Span]
    task_of: Mapping[Key, str]
    inside: Mapping[Key, Key]
    begins: Mapping[str, Key]
    entered: Mapping[str, Key]
    notes: tuple[str, ...]


def arrange(spans: Sequence[Span], tasks: Iterable[str], paid_by: Mapping[Key, str]) -> Arranged:
    """Place spans, which come in the order they started. ``paid_by`` has the tasks of the attempts in them."""
    mine = set(tasks)
    every = {span.key: span for span in spans}
    parents, notes = _parents(every)
    named: dict[Key, str] = {}
    task_of = {
        key: _named_task(key, every, parents, named) or paid_by.get(key) or span.trace_id for key, span in every.items()
    }
    kept = {key: span for key, span in every.items() if task_of[key] in mine}
    inside: dict[Key, Key] = {}
    first: dict[str, list[Key]] = {}
    for key in kept:
        parent = parents.get(key)
        if parent is not None and task_of[parent] == task_of[key]:
            inside[key] = parent
        else:
            first.setdefault(task_of[key], []).append(key)
    begins = {task: own for task, keys in first.items() if (own := _own_span([kept[key] for key in keys])) is not None}
    entered = {task: above for task, keys in first.items() if (above := parents.get(keys[0])) in kept}
    lost = sum(not span.parent_known for span in kept.values())
    early = sum(
        span.started_us < every[parent].started_us - _SKEW_US
        for key, span in kept.items()
        if (parent := parents.get(key)) is not None
    )
    if lost:
        notes.append(f"{_spans(lost)} whose parent never came: shown as a part of the task itself")
    if early:
        notes.append(f"{_spans(early)} began before what it is in: the clocks do not agree")
    return Arranged(kept, task_of, inside, begins, entered, tuple(notes))


def _own_span(first: Sequence[Span]) -> Key | None:
    """The span that is a task's own, of those that are in no other of it."""
    own = [span for span in first if span.kind in ("task", "agent")]
    if len(first) > 1:
        own = [span for span in own if span.door == "sdk"]
    return own[0].key if len(own) == 1 else None


def _spans(count: int) -> str:
    return "1 span" if count == 1 else f"{count:,} spans"


def _parents(spans: Mapping[Key, Span]) -> tuple[dict[Key, Key], list[str]]:
    """The parent of every span that has one among them, without circles, and what had to be cut."""
    parents: dict[Key, Key] = {}
    for key, span in spans.items():
        parent = (span.trace_id, span.parent_id)
        if span.parent_id and parent in spans:
            parents[key] = parent
    settled: set[Key] = set()
    cut: list[str] = []
    for start in spans:
        line: dict[Key, None] = {}
        key: Key | None = start
        while key is not None and key not in settled:
            if key in line:
                cut.append(f"span {spans[key].name!r} ({key[1]}) is above itself")
                del parents[key]
                break
            line[key] = None
            key = parents.get(key)
        settled.update(line)
    return parents, cut


def _named_task(key: Key, spans: Mapping[Key, Span], parents: Mapping[Key, Key], named: dict[Key, str]) -> str:
    """The task that a span or the nearest above it names. What was walked past is remembered: chains may be long."""
    line: list[Key] = []
    at: Key | None = key
    task = ""
    while at is not None:
        if task := spans[at].task:
            break
        if (known := named.get(at)) is not None:
            task = known
            break
        line.append(at)
        at = parents.get(at)
    named.update(dict.fromkeys(line, task))
    return task
