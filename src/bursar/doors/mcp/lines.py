"""Lines out of a byte stream, as they came.

Rule 1: what goes in comes out, byte for byte, each line with its ending.
Rule 2: a line longer than ``LINE_BYTES_MAX`` is not kept whole: it comes in pieces that say so.
"""

from __future__ import annotations

from typing import Final

from bursar.core.values import valueclass

__all__ = ["LINE_BYTES_MAX", "Line", "Lines"]

LINE_BYTES_MAX: Final = 64 * 1024 * 1024


@valueclass
class Line:
    """A line with its ending, or a piece of one that is too long. ``first`` is True for its first piece."""

    data: bytes
    whole: bool = True
    first: bool = True


class Lines:
    """Cuts chunks into lines."""

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._max = line_bytes_max
        self._parts: list[bytes] = []
        self._size = 0
        self._long = False

    def feed(self, chunk: bytes) -> list[Line]:
        """What this chunk completes."""
        found: list[Line] = []
        *ends, rest = _cut(chunk)
        for end in ends:
            found += self._take(end, ended=True)
        if rest:
            found += self._take(rest, ended=False)
        return found

    def rest(self) -> list[Line]:
        """What came after the last line, at the end of the stream."""
        return self._take(b"", ended=True) if self._parts or self._long else []

    def _take(self, data: bytes, *, ended: bool) -> list[Line]:
        if not self._long:
            self._parts.append(data)
            self._size += len(data)
            if self._size <= self._max:
                return [Line(self._joined())] if ended else []
        first = not self._long
        data = self._joined() if first else data
        self._long = not ended
        return [Line(data, whole=False, first=first)] if data else []

    def _joined(self) -> bytes:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        return data


def _cut(chunk: bytes) -> list[bytes]:
    """Every line with its LF, then what follows the last."""
    *lines, rest = chunk.split(b"\n")
    return [*(line + b"\n" for line in lines), rest]
