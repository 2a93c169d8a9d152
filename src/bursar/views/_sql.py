"""Statements of SQL, kept in ``sql/*.sql`` with a name and a description each.

Rule 1: what a user typed reaches a statement only as a parameter; a ``{part}`` is filled from this package alone.
Rule 2: parameters and results are numbers, text, booleans, None and lists of them, so that a statement may be asked
        over a wire. Times go in as text and come out as microseconds since 1970 UTC.
"""

from __future__ import annotations

import pkgutil
import re
from functools import cache

__all__ = ["statement"]

_HEAD = re.compile(r"^-- name: (\w+)\n((?:--.*\n)*)", re.MULTILINE)


def statement(file: str, name: str, **parts: str) -> str:
    """The statement ``name`` of ``sql/{file}.sql`` with its ``{parts}`` filled in."""
    return _statements(file)[name].format(**parts)


@cache
def _statements(file: str) -> dict[str, str]:
    data = pkgutil.get_data(__package__ or "", f"sql/{file}.sql")
    assert data is not None, f"sql/{file}.sql is part of this package"
    pieces = _HEAD.split(data.decode())
    return {name: body.strip() for name, body in zip(pieces[1::3], pieces[3::3], strict=True)}
