"""Amazon's binary event stream (application/vnd.amazon.eventstream), incrementally and back.

    total length u32 | headers length u32 | CRC of these 8 bytes u32 | headers | payload | CRC of all before it u32

Rule 1: all numbers are big-endian. A header is: name length u8, name, type u8, value; only text values are kept.
Rule 2: checksums are not enforced while reading: the client checks them, and a wrong one must not lose a usage.
Rule 3: a frame that cannot be one (shorter than 16 bytes or longer than ``FRAME_BYTES_MAX``) ends the reading: after it
        nothing can be trusted, and ``broken`` says so.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import crc32

__all__ = ["FRAME_BYTES_MAX", "Frame", "Frames", "encode_frame", "is_event_stream"]

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024

_PRELUDE: Final = struct.Struct(">III")
_TEXT: Final = 7
# The sizes of the header value types of fixed length: true, false, byte, short, integer, long, timestamp, UUID.
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class Frame(NamedTuple):
    """One message: its text headers and its payload."""

    headers: dict[str, str]
    payload: bytes


class Frames:
    """Splits a byte stream into frames. ``whole`` are the bytes of those that the last chunk completed."""

    __slots__ = ("_rest", "broken", "whole")

    def __init__(self) -> None:
        self._rest = b""
        self.broken = False
        self.whole = b""

    @property
    def empty(self) -> bool:
        """Whether nothing came after the last frame."""
        return not self._rest

    def rest(self) -> bytes:
        """What came after the last frame, taken out."""
        rest, self._rest = self._rest, b""
        return rest

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that this chunk completes."""
        if self.broken:
            self.whole = chunk  # no frames any more: whoever reads them must get them as they are
            return []
        buffer = self._rest + chunk if self._rest else chunk
        frames: list[Frame] = []
        start = 0
        while len(buffer) - start >= _PRELUDE.size:
            total, headers_length, _ = _PRELUDE.unpack_from(buffer, start)
            if not 16 <= total <= FRAME_BYTES_MAX or headers_length > total - 16:
                self.broken, self.whole, self._rest = True, buffer, b""
                return frames
            if len(buffer) - start < total:
                break
            headers_end = start + _PRELUDE.size + headers_length
            headers = _headers(buffer[start + _PRELUDE.size : headers_end])
            frames.append(Frame(headers, buffer[headers_end : start + total - 4]))
            start += total
        self._rest = buffer[start:]
        self.whole = buffer[:start]
        return frames


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        if name_end >= len(data):
            break
        name, kind, at = data[at + 1 : name_end], data[name_end], name_end + 1
        if kind in _SIZES:
            at += _SIZES[kind]
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if kind == _TEXT:
            headers[name.decode(errors="replace")] = data[at + 2 : at + 2 + length].decode(errors="replace")
        at += 2 + length
    return headers


def encode_frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame with text headers, checksums included."""
    packed = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _TEXT, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    lengths = struct.pack(">II", len(packed) + len(payload) + 16, len(packed))
    message = lengths + struct.pack(">I", crc32(lengths)) + packed + payload
    return message + struct.pack(">I", crc32(message))


def is_event_stream(data: bytes) -> bool:
    """Whether bytes begin with a frame whose first checksum holds."""
    return len(data) >= _PRELUDE.size and int.from_bytes(data[8:12], "big") == crc32(data[:8])
