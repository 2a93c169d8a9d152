"""Ids of calls: 32 hexadecimal digits that sort by time and cannot be guessed."""

from __future__ import annotations

import os
import time

__all__ = ["IdMaker"]


class IdMaker:
    """Ids grow even when the clock goes back: the time part never does."""

    def __init__(self) -> None:
        self._last_ms = 0

    def __call__(self) -> str:
        self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
        return f"{self._last_ms:012x}{os.urandom(10).hex()}"
