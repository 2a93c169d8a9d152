"""Server-sent events, incrementally, from chunks that may be cut anywhere.

Rule 1: an event ends at a blank line; lines end in LF, CRLF or CR, and a byte order mark may come first (WHATWG HTML, 9.2.6).
Rule 2: only ``data`` matters here; several data lines of one event are joined by LF. Comments and other fields pass.
Rule 3: an event longer than ``EVENT_BYTES_MAX`` is not kept. If it was the one with the usage, the stream is estimated.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["EVENT_BYTES_MAX", "Splitter", "event_data"]

EVENT_BYTES_MAX: Final = 32 * 1024 * 1024

_BLANK: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_MARK: Final = b"\xef\xbb\xbf"
_LINE: Final = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Splits a byte stream into raw events, each with the blank line that ends it."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    @property
    def empty(self) -> bool:
        """Whether nothing came after the last event."""
        return not self._rest

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes."""
        buffer = self._rest + chunk if self._rest else chunk
        if b"\r" not in buffer:
            *events, rest = buffer.split(b"\n\n")
        else:
            events, end = list[bytes](), 0
            for match in _BLANK.finditer(buffer):
                events.append(buffer[end : match.end()])
                end = match.end()
            rest = buffer[end:]
        if len(rest) > EVENT_BYTES_MAX:
            rest = b""
        self._rest = rest
        return events

    def feed_raw(self, chunk: bytes) -> list[bytes]:
        """As ``feed``, every event with its ending: joined, the events and ``rest`` are the stream byte for byte."""
        buffer = self._rest + chunk if self._rest else chunk
        if b"\r" not in buffer:
            *events, rest = buffer.split(b"\n\n")
            events = [event + b"\n\n" for event in events]
        else:
            events, end = list[bytes](), 0
            for match in _BLANK.finditer(buffer):
                events.append(buffer[end : match.end()])
                end = match.end()
            rest = buffer[end:]
        if len(rest) > EVENT_BYTES_MAX:  # the client must get it, even if nobody can judge it
            events.append(rest)
            rest = b""
        self._rest = rest
        return events

    def rest(self) -> bytes:
        """What came after the last event, taken out."""
        rest, self._rest = self._rest, b""
        return rest


def event_data(event: bytes) -> bytes:
    """The data of an event, b"" when it has none."""
    if b"\r" not in event:
        data = event
        if event.startswith(b"event:"):  # how Anthropic's begin, each with one line of data
            data = event[event.find(b"\n") + 1 :]
        if data.startswith(b"data:") and b"\n" not in data:
            return data[5:]
    lines = [
        line[5:].removeprefix(b" ") if line.startswith(b"data:") else b""
        for line in _LINE.split(event.removeprefix(_MARK))
        if line.startswith(b"data:") or line == b"data"
    ]
    return b"\n".join(lines)
