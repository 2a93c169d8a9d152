"""Contexts across threads, pools and processes.

Rule 1: what starts in a frame belongs to it: threads and pools get the frame of whoever started the thread or handed in the
        work, not of whoever made the pool.
Rule 2: only our own variable is carried; every other context variable is its owner's business.
Rule 3: a process is handed its frame in its environment, or with each piece of work (``carry``). A fork has it already.
        The limits of the tasks it is in are entered in the books before: there the other process finds them.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import update_wrapper, wraps
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from .frames import CONTEXT_VARIABLE, Frame, current_frame, environment, from_environment, set_frame
from .session import active

__all__ = ["carry", "environ", "hook_threads", "unhook_threads"]

P = ParamSpec("P")
R = TypeVar("R")

_MARK: Final = "_bursar_original"


def hook_threads() -> None:
    """Let threads and pools of threads go on where they were started. Doing it again changes nothing."""
    if not hasattr(threading.Thread.start, _MARK):
        _replace(threading.Thread, "start", _started)
    if not hasattr(ThreadPoolExecutor.submit, _MARK):
        _replace(ThreadPoolExecutor, "submit", _submitted)


def unhook_threads() -> None:
    for owner, name in ((threading.Thread, "start"), (ThreadPoolExecutor, "submit")):
        original = getattr(getattr(owner, name), _MARK, None)
        if original is not None:
            setattr(owner, name, original)


def _replace(owner: type[Any], name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    original = getattr(owner, name)
    replacement = wraps(original)(make(original))
    setattr(replacement, _MARK, original)
    setattr(owner, name, replacement)


def _started(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(thread: threading.Thread, *args: Any, **kwargs: Any) -> Any:
        frame = current_frame()
        if frame is not None:
            thread.run = _Inside(frame, thread.run)
        return original(thread, *args, **kwargs)

    return start


def _submitted(original: Callable[..., Any]) -> Callable[..., Any]:
    def submit(pool: Any, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        # Also outside of any frame: the pool's thread may have been started inside of one.
        return original(pool, _Inside(current_frame(), function), *args, **kwargs)

    return submit


class _Inside(Generic[P, R]):
    """A function that runs in a frame."""

    __slots__ = ("_frame", "_function")

    def __init__(self, frame: Frame | None, function: Callable[P, R]) -> None:
        self._frame = frame
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        before = set_frame(self._frame)
        try:
            return self._function(*args, **kwargs)
        finally:
            set_frame(before)


# --- processes --------------------------------------------------------------------------------------------------


class _Carried(Generic[P, R]):
    """A function with the frame it is to run in, as text: it can be sent to another process."""

    def __init__(self, context: str, function: Callable[P, R]) -> None:
        self._context = context
        self._function = function
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        frame = from_environment(self._context, "")
        if inspect.iscoroutinefunction(self._function):
            return cast("R", _awaited(frame, self._function(*args, **kwargs)))
        return _Inside(frame, self._function)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Carried, (self._context, self._function)


async def _awaited(frame: Frame | None, coroutine: Awaitable[Any]) -> Any:
    before = set_frame(frame)
    try:
        return await coroutine
    finally:
        set_frame(before)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """The function, to be run where this code is inside of now: for work that goes to another process
    (``pool.submit(bursar.carry(work), item)``). The function must be one that pickle can send."""
    return _Carried(environ().get(CONTEXT_VARIABLE, ""), function)


def environ() -> dict[str, str]:
    """The environment variables that let a child process go on where this code is inside of now:
    ``subprocess.run(command, env={**os.environ, **bursar.environ()})``."""
    frame, session = current_frame(), active()
    if frame is not None and session is not None:
        own = frame.own_limit()
        session.treasury.place((*frame.limits_above(), own) if own is not None else frame.limits_above())
    return environment(frame)
