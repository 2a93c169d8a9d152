"""Where the running code is in the tree of tasks: one frame for each task, agent or tool that it is inside of.

Rule 1: the frame is a context variable: it follows ``await``, and the threads and pools that ``carrying`` reaches.
Rule 2: leaving a frame restores its parent where the frame, or one below it, is still the current one. What a generator
        left behind in somebody else's context is not touched.
Rule 3: a frame knows its own place in a trace, so that the tree has a shape without OpenTelemetry; where a span of
        OpenTelemetry is current, that one is the place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

from bursar.core.budgets import TaskLimit
from bursar.core.scopes import NOBODY, Scope, make_labels
from bursar.wire.context import NO_TRACE, Trace, read_trace, scope_baggage, take_baggage, take_members

__all__ = [
    "CONTEXT_VARIABLE",
    "Frame",
    "current_frame",
    "environment",
    "from_environment",
    "inside",
    "leave_frame",
    "new_trace",
    "otel_baggage",
    "otel_trace",
    "set_frame",
]

CONTEXT_VARIABLE: Final = "BURSAR_CONTEXT"
"""The environment variable that hands a frame to a process: a traceparent, a space, a baggage header."""

_RESOURCE_VARIABLE: Final = "OTEL_RESOURCE_ATTRIBUTES"
"""Its members are written as those of baggage
(https://opentelemetry.io/docs/specs/otel/resource/sdk/#specifying-resource-information-via-an-environment-variable)."""

_TRACE_DIGITS: Final = 16
_SPAN_DIGITS: Final = 8


@dataclass(slots=True, eq=False)
class Frame:
    """One task, agent's run or tool call that code is inside of. ``scope`` is everything said from the top down to here.

    ``limit`` is the task's own, where it opened one; ``tool`` frames are in the task of their parent, and ``holds_money`` is
    whether money is held for the tool while it runs.
    """

    kind: Literal["task", "agent", "tool"]
    name: str
    scope: Scope
    parent: Frame | None
    trace: Trace
    parent_span: str
    limit: TaskLimit | None = None
    final: bool = False
    holds_money: bool = False

    def limits_above(self) -> tuple[TaskLimit, ...]:
        """The tasks above this one that say where they stand or what limit they have, the top first."""
        found: list[TaskLimit] = []
        frame = self.parent
        while frame is not None:
            if frame.limit is not None and frame.limit.task != self.scope.task:
                found.append(frame.limit)
            frame = frame.parent
        return tuple(reversed(found))

    def own_limit(self) -> TaskLimit | None:
        """What is to be said of this frame's task with each of its calls."""
        frame: Frame | None = self
        while frame is not None and frame.limit is None and frame.kind == "tool":
            frame = frame.parent
        return frame.limit if frame is not None else None

    def is_final(self) -> bool:
        """Whether its task says that this is its last call."""
        frame: Frame | None = self
        while frame is not None and frame.kind == "tool":
            frame = frame.parent
        return frame.final if frame is not None else False

    def is_in_paid_tool(self) -> bool:
        """Whether money is held for a tool that this code is inside of: it is not given back before this code has ended."""
        frame: Frame | None = self
        while frame is not None and not frame.holds_money:
            frame = frame.parent
        return frame is not None

    def is_below(self, other: Frame) -> bool:
        frame: Frame | None = self
        while frame is not None:
            if frame is other:
                return True
            frame = frame.parent
        return False


_CURRENT: Final[ContextVar[Frame | None]] = ContextVar("bursar_frame", default=None)
_inherited: list[Frame | None] = []


def current_frame() -> Frame | None:
    """The innermost frame, or what the process was started with."""
    frame = _CURRENT.get()
    if frame is not None:
        return frame
    if not _inherited:
        _inherited.append(from_environment(os.environ.get(CONTEXT_VARIABLE, ""), os.environ.get("BAGGAGE", "")))
    return _inherited[0]


def set_frame(frame: Frame | None) -> Frame | None:
    """Make it the current one. Returns the one before, which may be None."""
    before = _CURRENT.get()
    _CURRENT.set(frame)
    return before


def leave_frame(frame: Frame, before: Frame | None) -> None:
    """Rule 2."""
    now = _CURRENT.get()
    if now is not None and now.is_below(frame):
        _CURRENT.set(before)


@contextmanager
def inside(frame: Frame) -> Generator[None]:
    """While code runs in a frame that is the current one only now and then."""
    before = set_frame(frame)
    try:
        yield
    finally:
        leave_frame(frame, before)


def new_trace(parent: Frame | None) -> Trace:
    """A place of its own in the trace of OpenTelemetry's current span, else in the parent's, else in a new one."""
    found = otel_trace()
    trace_id = found.trace_id or (parent.trace.trace_id if parent else "") or os.urandom(_TRACE_DIGITS).hex()
    return Trace(trace_id, os.urandom(_SPAN_DIGITS).hex())


# --- other processes --------------------------------------------------------------------------------------------


def environment(frame: Frame | None) -> dict[str, str]:
    """What a child process must be started with to go on in this frame. What speaks only telemetry (a coding agent, say) takes
    it from the attributes of its resource."""
    if frame is None:
        return {}
    members = scope_baggage(frame.scope)
    others = os.environ.get(_RESOURCE_VARIABLE, "")
    return {
        CONTEXT_VARIABLE: f"00-{frame.trace.trace_id}-{frame.trace.span_id}-01 {members}",
        _RESOURCE_VARIABLE: f"{others},{members}" if others and members else others or members,
    }


def from_environment(context: str, baggage: str) -> Frame | None:
    """The frame that a process was started in, None where it was started in none."""
    traceparent, _, members = context.partition(" ")
    columns: dict[str, str] = {}
    labels: dict[str, str] = {}
    take_baggage(members, columns, labels)
    take_baggage(baggage, columns, labels)
    trace = read_trace(traceparent)
    if not columns and not labels and trace == NO_TRACE:
        return None
    scope = Scope(**columns, labels=make_labels(labels))
    return Frame("task", scope.task, scope, None, trace, "")


# --- OpenTelemetry, where it is in use --------------------------------------------------------------------------


def otel_trace() -> Trace:
    """The current span of OpenTelemetry. Nothing is imported: what is not loaded has no current span."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return NO_TRACE
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return NO_TRACE
    return Trace(f"{context.trace_id:032x}", f"{context.span_id:016x}")


def otel_baggage() -> Scope:
    """What OpenTelemetry's baggage says of the scope."""
    api: Any = sys.modules.get("opentelemetry.baggage")
    members: Any = api.get_all() if api is not None else None
    if not members:
        return NOBODY
    columns: dict[str, str] = {}
    labels: dict[str, str] = {}
    take_members(((str(name), str(value)) for name, value in members.items()), columns, labels)
    return Scope(**columns, labels=make_labels(labels)) if columns or labels else NOBODY
