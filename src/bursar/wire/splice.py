"""Changing a few values of a JSON object without touching its other bytes.

Rule 1: bytes outside the changed values stay what they were: spacing, number formats, escapes, key order.
Rule 2: a key that is not there is added at the end of the object; a value of None takes its member out.
Rule 3: an empty object, and one with a repeated key, is written anew, compactly; the last value wins, as JSON readers
        take it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = ["append", "elements", "joined", "members", "splice", "text"]

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_KEY: Final = re.compile(rb'[\s,{]*"(?:[^"\\]|\\.)*"\s*:\s*', re.DOTALL)


def members(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The values of a JSON object as raw bytes. Raises msgspec.DecodeError when it is none."""
    return _MEMBERS.decode(body)


def elements(array: bytes | msgspec.Raw) -> list[bytes]:
    """The values of a JSON array as raw bytes. Raises msgspec.DecodeError when it is none."""
    return [bytes(raw) for raw in _ELEMENTS.decode(array)]


def joined(values: list[bytes]) -> bytes:
    """A JSON array of these values."""
    return b"[" + b",".join(values) + b"]"


def append(array: bytes, value: bytes) -> bytes:
    """The array with one more value at its end, the bytes before it unchanged."""
    head = array.rstrip()[:-1]
    return head + (b"" if head.strip() == b"[" else b",") + value + b"]"


def text(value: str) -> bytes:
    """A JSON text."""
    return msgspec.json.encode(value)


def splice(body: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """The object with these values (JSON bytes) set. Raises msgspec.DecodeError when the body is no JSON object."""
    found = members(body)
    out: list[bytes] = []
    left = right = 0
    empty = True
    for key, raw in found.items():
        value = bytes(raw)
        match = _KEY.match(body, right)
        if match is None or not body.startswith(value, match.end()):
            return _anew(found, changes)
        start, right = right, match.end() + len(value)
        if key in changes:
            new = changes[key]
            if new is not None:
                out += (body[left : match.end()], new)
                empty = False
            elif empty:
                # The first member brought the brace; the next one must not bring its comma.
                out.append(body[left:start] if start else body[: body.index(b"{") + 1])
                right = _after_comma(body, right)
            else:
                out.append(body[left:start])
            left = right
        else:
            empty = False
    end = body.rindex(b"}")
    if body[right:end].strip():
        return _anew(found, changes)
    out.append(body[left:right])
    added = b",".join(
        text(key) + b":" + value for key, value in changes.items() if value is not None and key not in found
    )
    if added:
        out.append(added if empty else b"," + added)
    out.append(body[right:])
    return b"".join(out)


def _after_comma(body: bytes, at: int) -> int:
    """The place behind the comma that follows, or the same place where none does."""
    rest = body[at : at + 64].lstrip()
    return body.index(b",", at) + 1 if rest.startswith(b",") else at


def _anew(found: Mapping[str, msgspec.Raw], changes: Mapping[str, bytes | None]) -> bytes:
    values = {**{key: bytes(raw) for key, raw in found.items()}, **changes}
    return b"{" + b",".join(text(key) + b":" + value for key, value in values.items() if value is not None) + b"}"
