"""A line of those who wait, tried from its head.

Rule 1: first come, first asked. One behind who needs less may get through where the head does not fit.
Rule 2: while the answers say that there is room (or none for anybody), each try asks twice as many at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

__all__ = ["Line"]

_WIDTH_MAX: Final = 256

T = TypeVar("T")


class Line(Generic[T]):
    """Not shared between threads."""

    def __init__(self) -> None:
        self._waiting: deque[T] = deque()
        self._width = 1

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, item: T) -> None:
        """Stand at the end."""
        self._waiting.append(item)

    def put_back(self, item: T) -> None:
        """Stand at the head again: it was tried and there was no room. Call it in reverse order for several."""
        self._waiting.appendleft(item)
        self._width = 1

    def next(self, *, more: bool) -> list[T]:
        """Who is to be tried now; ``more`` when all that were tried last had their answer."""
        self._width = min(self._width * 2, _WIDTH_MAX) if more else 1
        return [self._waiting.popleft() for _ in range(min(self._width, len(self._waiting)))]

    def take(self, which: Callable[[T], bool]) -> list[T]:
        """Take out those that do not wait any longer."""
        gone = [item for item in self._waiting if which(item)]
        if gone:
            self._waiting = deque(item for item in self._waiting if not which(item))
        return gone
