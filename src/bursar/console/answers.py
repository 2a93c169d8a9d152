"""What the console gives back over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

__all__ = ["ApiAnswer", "failure", "json_answer"]

_HEADERS: Final = {
    "content-type": "application/json; charset=utf-8",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """A whole HTTP answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> ApiAnswer:
    return ApiAnswer(status, {**_HEADERS, **(headers or {})}, msgspec.json.encode(value))


def failure(
    status: int, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> ApiAnswer:
    """``{"error": {"message", "field"}}``; ``field`` is the part of the request to change, None when it is none."""
    return json_answer({"error": {"message": message, "field": field}}, status=status, headers=headers)
