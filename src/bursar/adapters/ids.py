"""Ids of calls: 32 hexadecimal digits that sort by time and cannot be guessed."""

from __future__ import annotations

import os
import time
from typing import Final

__all__ = ["IdMaker"]

_DRAW: Final = 4_096  # asking the system for each id alone took a twentieth of a call
_SIZE: Final = 10


class IdMaker:
    """Ids grow even when the clock goes back: the time part never does."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._random = b""
        self._used = 0
        os.register_at_fork(after_in_child=self._forget)  # a child would draw its parent's ids again

    def __call__(self) -> str:
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        if self._used + _SIZE > len(self._random):
            self._random, self._used = os.urandom(_DRAW), 0
        self._used += _SIZE
        return f"{self._last_ms:012x}{self._random[self._used - _SIZE : self._used].hex()}"

    def _forget(self) -> None:
        self._random = b""
