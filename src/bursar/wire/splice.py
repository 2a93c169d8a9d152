"""Changing a few values of a JSON object without touching its other bytes.

Rule 1: bytes outside the changed values stay what they were: spacing, number formats, escapes, key order.
Rule 2: a key that is not there is added at the end of the object.
Rule 3: an empty object, and one with a repeated key, is written anew, compactly; the last value wins, as JSON readers
        take it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = ["members", "splice"]

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KEY: Final = re.compile(rb'[\s,{]*"(?:[^"\\]|\\.)*"\s*:\s*', re.DOTALL)


def members(body: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """The values of a JSON object as raw bytes. Raises msgspec.DecodeError when it is none."""
    return _MEMBERS.decode(body)


def splice(body: bytes, changes: Mapping[str, bytes]) -> bytes:
    """The object with these values (JSON bytes) set. Raises msgspec.DecodeError when the body is no JSON object."""
    found = members(body)
    out: list[bytes] = []
    left = right = 0
    for key, raw in found.items():
        value = bytes(raw)
        match = _KEY.match(body, right)
        if match is None or not body.startswith(value, match.end()):
            return _anew(found, changes)
        right = match.end() + len(value)
        if key in changes:
            out += (body[left : match.end()], changes[key])
            left = right
    end = body.rindex(b"}")
    if body[right:end].strip():
        return _anew(found, changes)
    out.append(body[left:right])
    added = b",".join(msgspec.json.encode(key) + b":" + value for key, value in changes.items() if key not in found)
    if added:
        out.append(b"," + added)
    out.append(body[right:])
    return b"".join(out)


def _anew(found: Mapping[str, msgspec.Raw], changes: Mapping[str, bytes]) -> bytes:
    values = {**{key: bytes(raw) for key, raw in found.items()}, **changes}
    return b"{" + b",".join(msgspec.json.encode(key) + b":" + value for key, value in values.items()) + b"}"
