"""Tasks and agents as contexts and decorators, and the handle that code inside of one gets.

Rule 1: a context makes a new frame each time it is entered; a decorator each time its function is called. Generators are
        inside of theirs only while they run.
Rule 2: what is said on a task holds for everything below it, until something below says otherwise.
Rule 3: a task's end is noted with its time and its error. Its outcome may be said later, by anybody who knows its id.
"""

from __future__ import annotations

import inspect
import os
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial, wraps
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

from bursar.core.budgets import TaskLimit
from bursar.core.money import NanoUSD, usd
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.scopes import NOBODY, VALUE_LENGTH_MAX, Scope, make_labels
from bursar.engine.claims import KIND_LABEL

from .amounts import Money, money
from .calls import scope_of
from .frames import Frame, current_frame, inside, leave_frame, new_trace, otel_trace, set_frame
from .generators import Inside, resumed, resumed_async
from .refusal import BudgetExceeded
from .session import active, required

__all__ = ["Task", "TaskContext", "agent", "current", "note_span", "outcome", "task"]

P = ParamSpec("P")
R = TypeVar("R")

_ID_BYTES: Final = 5
_NOT_IN_IDS: Final = re.compile(r"[^\w.:/@-]+")
_NAME_LENGTH_MAX: Final = VALUE_LENGTH_MAX - 2 * _ID_BYTES - 1
_ERROR_LENGTH_MAX: Final = 400
_COLUMNS: Final = ("org", "team", "project", "user", "agent", "session")


@dataclass(frozen=True, slots=True)
class _Options:
    """What a context was made with: everything is checked before anything is entered."""

    kind: Literal["task", "agent"]
    name: str
    id: str
    scope: Scope
    limit: NanoUSD | None
    reserve: NanoUSD


class Task:
    """A task that code is inside of. It stays usable after its end, for ``outcome``."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    @property
    def id(self) -> str:
        return self._frame.scope.task

    @property
    def name(self) -> str:
        return self._frame.name

    @property
    def spent(self) -> Decimal:
        """USD spent on this task and everything below it, as far as calls have ended. Calls without a known price are not
        in it. Raises NotInitialized, or BooksError when the books cannot be read."""
        return usd(required().treasury.task_use(self.id).spent)

    @property
    def remaining(self) -> Decimal | None:
        """USD that is left for this task: the least that it and the tasks above it have left, what is held counted as gone.
        None where none of them has a limit. Raises as ``spent`` does."""
        session = required()
        limits = [limit for limit in (*self._frame.limits_above(), self._frame.own_limit()) if limit is not None]
        session.treasury.place([limit for limit in limits if limit.limit is not None or limit.parent])
        left = session.treasury.task_use(self.id).left
        return None if left is None else usd(max(0, left))

    def outcome(self, outcome: str, *, value: Money | None = None, note: str = "") -> None:
        """Say what became of it, and what that was worth in USD. The latest word counts. Raises ValueError."""
        _outcome(self.id, outcome, value, note)

    @contextmanager
    def final(self) -> Generator[None]:
        """Calls in here may use what was kept back for the task's last one (``reserve``). It is for code inside of the task;
        what else runs in it at the same time may not."""
        here = current_frame()
        if here is None or not here.is_below(self._frame):
            yield
            return
        last = replace(here, parent=here, final=True)
        before = set_frame(last)
        try:
            yield
        finally:
            leave_frame(last, before)

    def __repr__(self) -> str:
        return f"Task({self.id!r})"


class TaskContext:
    """``with``, ``async with`` or a decorator (rule 1)."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._entered: list[tuple[Frame, Frame | None, int]] = []

    def __enter__(self) -> Task:
        frame = _frame(self._options)
        before = set_frame(frame)
        self._entered.append((frame, before, time.time_ns() // 1_000))
        return Task(frame)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        here = current_frame()
        # One context may be entered by several threads and tasks at once: each leaves what it has entered itself.
        mine = (i for i in range(len(self._entered) - 1, -1, -1) if here and here.is_below(self._entered[i][0]))
        frame, before, started_us = self._entered.pop(next(mine, -1))
        leave_frame(frame, before)
        note_span(frame, started_us, error)

    async def __aenter__(self) -> Task:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        options = self._options
        if not options.name:
            options = replace(options, name=_short(function.__name__))
        if inspect.isasyncgenfunction(function):
            wrapper: Any = resumed_async(function, lambda _args, _kwargs: _Resumed(options))
        elif inspect.isgeneratorfunction(function):
            wrapper = resumed(function, lambda _args, _kwargs: _Resumed(options))
        elif inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with TaskContext(options):
                    return await cast("Any", function(*args, **kwargs))

            wrapper = run_async
        else:

            @wraps(function)
            def run(*args: P.args, **kwargs: P.kwargs) -> R:
                with TaskContext(options):
                    return function(*args, **kwargs)

            wrapper = run
        return cast("Callable[P, R]", wrapper)


def task(
    name: str | Callable[..., Any] = "",
    *,
    id: str = "",  # noqa: A002 - what it is called everywhere
    user: str = "",
    team: str = "",
    project: str = "",
    org: str = "",
    session: str = "",
    agent: str = "",
    budget: Money | None = None,
    reserve: Money | None = None,
    labels: Mapping[str, str] | None = None,
) -> Any:
    """A unit of agent work: everything inside is charged to it. ``with bursar.task("resolve-ticket") as t:`` or a decorator.

    ``name`` is its kind; its id is made from it unless one is given. Inside of another task it is a part of that: it draws
    from what that has left. ``budget`` is the most that it and everything below it may cost, in USD ("0.50");
    ``reserve`` the part of it that only ``t.final()`` may use. The columns and ``labels`` say who it is for.

    Raises ValueError for a value that cannot be.
    """
    if callable(name):
        return TaskContext(_options("task", "", "", {}, None, None, None))(name)
    columns = {"user": user, "team": team, "project": project, "org": org, "session": session, "agent": agent}
    return TaskContext(_options("task", name, id, columns, budget, reserve, labels))


def agent(
    name: str | Callable[..., Any] = "",
    *,
    id: str = "",  # noqa: A002 - as in ``task``
    user: str = "",
    team: str = "",
    project: str = "",
    org: str = "",
    session: str = "",
    budget: Money | None = None,
    reserve: Money | None = None,
    labels: Mapping[str, str] | None = None,
) -> Any:
    """One run of an agent: a task of its own, below the one it is started in, whose calls name the agent.

    As ``task`` otherwise.
    """
    if callable(name):
        function = name
        return TaskContext(_options("agent", function.__name__, "", {"agent": function.__name__}, None, None, None))(
            function
        )
    columns = {"user": user, "team": team, "project": project, "org": org, "session": session, "agent": name}
    return TaskContext(_options("agent", name, id, columns, budget, reserve, labels))


def current() -> Task | None:
    """The task that this code is inside of."""
    frame = current_frame()
    while frame is not None and frame.kind == "tool":
        frame = frame.parent
    return None if frame is None or not frame.scope.task else Task(frame)


def outcome(task_id: str, outcome: str, *, value: Money | None = None, note: str = "") -> None:
    """Say what became of a task that may have ended long ago, in another process. Raises ValueError, NotInitialized."""
    _outcome(task_id, outcome, value, note)


def _outcome(task_id: str, outcome: str, value: Money | None, note: str) -> None:
    if not outcome:
        raise ValueError("an outcome needs a name, such as 'resolved'")
    worth = None if value is None else money(value, "value")
    session = required()
    said = TaskOutcome(
        task_id[:VALUE_LENGTH_MAX], outcome[:VALUE_LENGTH_MAX], session.now_us(), worth, note[:_ERROR_LENGTH_MAX]
    )
    session.treasury.note((), (said,))


# --- frames -----------------------------------------------------------------------------------------------------


def _options(
    kind: Literal["task", "agent"],
    name: str,
    id: str,  # noqa: A002 - as above
    columns: Mapping[str, str],
    budget: Money | None,
    reserve: Money | None,
    labels: Mapping[str, str] | None,
) -> _Options:
    for column, value in (("name", name), ("id", id), *columns.items()):
        if not isinstance(value, str):
            raise ValueError(f"{column} must be text, not {type(value).__name__}")
        if len(value) > VALUE_LENGTH_MAX:
            raise ValueError(f"{column} has {len(value)} characters, at most {VALUE_LENGTH_MAX} are kept")
    scope = Scope(**{column: columns.get(column, "") for column in _COLUMNS}, labels=make_labels(labels or {}))
    limit = None if budget is None else money(budget, "budget")
    kept = NanoUSD(0) if reserve is None else money(reserve, "reserve")
    if kept and (limit is None or kept > limit):
        raise ValueError(f"reserve {reserve!r} is more than the task's budget ({budget!r})")
    return _Options(kind, _short(name), id, scope, limit, kept)


def _short(name: str) -> str:
    return name[:_NAME_LENGTH_MAX]


def _frame(options: _Options) -> Frame:
    parent = current_frame()
    above = parent.scope if parent is not None else NOBODY
    name = options.name or options.kind
    task_id = options.id or f"{_NOT_IN_IDS.sub('-', name)}-{os.urandom(_ID_BYTES).hex()}"
    scope = options.scope
    if options.name and all(label != KIND_LABEL for label, _ in scope.labels):
        scope = replace(scope, labels=make_labels({**dict(scope.labels), KIND_LABEL: options.name}))
    scope = scope.over(replace(above, task="", parent_task=""))
    parent_task = above.task if above.task != task_id else above.parent_task
    scope = replace(scope, task=task_id, parent_task=parent_task)
    limit = TaskLimit(task_id, parent_task, options.limit, options.reserve)
    stated = limit if limit.limit is not None or parent_task else None
    trace = new_trace(parent)
    final = parent is not None and parent.final
    return Frame(options.kind, name, scope, parent, trace, _parent_span(parent), stated, final)


def _parent_span(parent: Frame | None) -> str:
    return otel_trace().span_id or (parent.trace.span_id if parent is not None else "")


def note_span(frame: Frame, started_us: int, error: BaseException | None, *, size_bytes: int | None = None) -> None:
    """Note that a frame has ended. Nothing is noted before ``bursar.init()``."""
    session = active()
    if session is None:
        return
    failed = error is not None and not isinstance(error, GeneratorExit)
    text = ""
    if failed:
        # What an exception says may hold what nobody wants to keep; its kind is enough, and a budget's own words are ours.
        text = str(error) if isinstance(error, BudgetExceeded) else type(error).__name__
    observation = Observation(
        source="span",
        door="sdk",
        name=frame.name,
        kind=frame.kind,
        started_us=started_us,
        ended_us=max(started_us, session.now_us()),
        trace_id=frame.trace.trace_id,
        span_id=frame.trace.span_id,
        parent_id=frame.parent_span,
        scope=scope_of(session, frame),
        tool=frame.name if frame.kind == "tool" else "",
        status="error" if failed else "ok",
        error=text[:_ERROR_LENGTH_MAX],
        size_bytes=size_bytes,
    )
    try:
        session.treasury.note((observation,))
    except Exception as told:  # noqa: BLE001 - the task is done: nothing of ours may take that back
        session.trouble("the end of a task could not be told", told)


# --- generators -------------------------------------------------------------------------------------------------


class _Resumed:
    """A frame that is the current one only now and then, and ends once."""

    def __init__(self, options: _Options) -> None:
        self._options = options

    def __enter__(self) -> Inside:
        self._frame = _frame(self._options)
        self._started_us = time.time_ns() // 1_000
        return partial(inside, self._frame)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        note_span(self._frame, self._started_us, error)

    async def __aenter__(self) -> Inside:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)
