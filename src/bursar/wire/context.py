"""What calls are for and which trace they belong to, as HTTP headers, W3C baggage and the environment say it.

Rule 1: our own names are ``x-bursar-COLUMN`` headers and ``bursar.COLUMN`` baggage; the common names of others are read too.
Rule 2: nearer wins: x-bursar-* headers, then W3C baggage, then the body's user and metadata, then the defaults.
Rule 3: hostile or oversized values are cut or left out: attribution never fails a call, and never invents a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, unquote

from bursar.core.scopes import LABELS_MAX, NOBODY, SCOPE_COLUMNS, VALUE_LENGTH_MAX, Scope
from bursar.core.values import valueclass

from .dialect import RequestFacts

__all__ = [
    "BAGGAGE_COLUMNS",
    "HEADER_COLUMNS",
    "HEADER_LABEL",
    "HEADER_PREFIX",
    "NO_TRACE",
    "Trace",
    "attribute",
    "clean",
    "put_label",
    "read_baggage",
    "read_trace",
    "scope_baggage",
    "scope_headers",
    "take_baggage",
    "take_members",
]

HEADER_PREFIX: Final = "x-bursar-"
HEADER_LABEL: Final = "x-bursar-label-"
HEADER_COLUMNS: Final[Mapping[str, str]] = {
    "x-bursar-task": "task",
    "x-bursar-parent-task": "parent_task",
    "x-bursar-session": "session",
    "x-bursar-agent": "agent",
    "x-bursar-user": "user",
    "x-bursar-team": "team",
    "x-bursar-project": "project",
    "x-bursar-org": "org",
}

# The names in use for the same thing: our own, OpenTelemetry's, and the common plain ones.
BAGGAGE_COLUMNS: Final[Mapping[str, str]] = {
    "bursar.task": "task",
    "bursar.parent_task": "parent_task",
    "bursar.session": "session",
    "bursar.agent": "agent",
    "bursar.user": "user",
    "bursar.team": "team",
    "bursar.project": "project",
    "bursar.org": "org",
    "task.id": "task",
    "session.id": "session",
    "gen_ai.conversation.id": "session",
    "gen_ai.agent.name": "agent",
    "user.id": "user",
    "enduser.id": "user",
}
_BAGGAGE_LABEL: Final = "bursar.label."
_SENT_COLUMNS: Final = tuple(column for column in SCOPE_COLUMNS if column != "key")

_BAGGAGE_LENGTH_MAX: Final = 8_192  # what every implementation must pass on (https://www.w3.org/TR/baggage/#limits)
_BAGGAGE_MEMBERS_MAX: Final = 180
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}")


@valueclass
class Trace:
    """The caller's trace and span, hexadecimal, "" when it sent none."""

    trace_id: str = ""
    span_id: str = ""


NO_TRACE: Final = Trace()


def clean(value: str) -> str:
    """A value that fits a scope column or a label."""
    text = value.strip()[:VALUE_LENGTH_MAX]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())


def put_label(labels: dict[str, str], name: str, value: str) -> None:
    """Add a label unless there is one of that name, or too many."""
    name = clean(name)
    if name and len(labels) < LABELS_MAX:
        labels.setdefault(name, clean(value))


def attribute(headers: Iterable[tuple[str, str]], baggage: str, facts: RequestFacts, defaults: Scope = NOBODY) -> Scope:
    """The scope of a call. ``headers`` are the request's, names in lower case; ``defaults`` the virtual key's scope."""
    columns: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(HEADER_PREFIX):
            column = HEADER_COLUMNS.get(name)
            if column is not None:
                columns[column] = clean(value)
            elif name.startswith(HEADER_LABEL):
                put_label(labels, name[len(HEADER_LABEL) :], value)
    if baggage:
        take_baggage(baggage, columns, labels)
    for column in ("task", "session", "user", "agent", "team", "project"):
        if not columns.get(column) and (value := getattr(facts, column)):
            columns[column] = clean(value)
    for name, value in facts.labels:
        put_label(labels, name, value)
    if not columns and not labels:
        return defaults
    return Scope(labels=tuple(sorted(labels.items())), **columns).over(defaults)


def read_baggage(header: str) -> list[tuple[str, str]]:
    """The members of a W3C ``baggage`` header; malformed ones are left out (https://www.w3.org/TR/baggage/)."""
    members: list[tuple[str, str]] = []
    for member in header[:_BAGGAGE_LENGTH_MAX].split(",", _BAGGAGE_MEMBERS_MAX)[:_BAGGAGE_MEMBERS_MAX]:
        name, equals, value = member.partition(";")[0].partition("=")
        if equals and name.strip():
            members.append((name.strip(), unquote(value.strip())))
    return members


def take_baggage(header: str, columns: dict[str, str], labels: dict[str, str]) -> None:
    """Add the scope columns and labels that a baggage header names, where they are not known yet."""
    take_members(read_baggage(header), columns, labels)


def take_members(members: Iterable[tuple[str, str]], columns: dict[str, str], labels: dict[str, str]) -> None:
    """The same for the members of baggage that was read already."""
    for name, value in members:
        column = BAGGAGE_COLUMNS.get(name)
        if column is not None:
            columns.setdefault(column, clean(value))
        elif name.startswith(_BAGGAGE_LABEL):
            put_label(labels, name[len(_BAGGAGE_LABEL) :], value)


def read_trace(header: str | None) -> Trace:
    """The ids of a W3C ``traceparent`` header; nothing when it is malformed."""
    if not header:
        return NO_TRACE
    found = _TRACEPARENT.fullmatch(header.strip())
    return Trace(found["trace"], found["span"]) if found else NO_TRACE


def scope_baggage(scope: Scope) -> str:
    """A scope as the value of a ``baggage`` header."""
    members = [(f"bursar.{column}", value) for column in _SENT_COLUMNS if (value := getattr(scope, column))]
    members += [(_BAGGAGE_LABEL + name, value) for name, value in scope.labels]
    return ",".join(f"{quote(name, safe='.-_')}={quote(value, safe='')}" for name, value in members)


def scope_headers(scope: Scope) -> list[tuple[str, str]]:
    """A scope as ``x-bursar-*`` headers; what a header cannot hold is left to ``scope_baggage``."""
    return [
        (name, value)
        for name, column in HEADER_COLUMNS.items()
        if (value := getattr(scope, column)) and value.isascii() and value.isprintable()
    ]
