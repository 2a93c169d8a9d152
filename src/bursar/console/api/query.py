"""The fields of a request's query string.

Rule 1: a field that is not known, or given twice, is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from bursar.views.asking import BadQuestion

__all__ = ["SEPARATOR", "Query", "read_fields"]

SEPARATOR: Final = "\0"
"""Between the values of a field that may be repeated: no value can hold it."""

_QUERY_FIELDS_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Query:
    """The fields of a query string, by name."""

    fields: Mapping[str, str]

    def number(self, name: str, *, default: int, least: int, most: int) -> int:
        text = self.fields.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
            raise BadQuestion(name, f"{name} {text!r} is not a whole number from {least} to {most}")
        return int(text)

    def only(self, *allowed: str) -> None:
        for name in self.fields:
            if name not in allowed:
                raise BadQuestion(name, f"{name!r} is not known here; choose from {', '.join(allowed) or 'no fields'}")


def read_fields(query: str) -> dict[str, str]:
    """The fields of a query string without its ``?``. Raises BadQuestion."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX, errors="strict")
    except ValueError as problem:
        raise BadQuestion("query", f"the query string cannot be read: {problem}") from problem
    fields: dict[str, str] = {}
    for name, value in pairs:
        if SEPARATOR in value:
            raise BadQuestion(name, f"{name} holds a NUL character; leave it out")
        if name in fields and name != "where":
            raise BadQuestion(name, f"{name} is given twice; give it once")
        fields[name] = f"{fields[name]}{SEPARATOR}{value}" if name in fields else value
    return fields
