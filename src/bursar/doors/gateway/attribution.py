"""Who a call is for: what headers, baggage, body and virtual key say, as one scope.

Rule 1: nearer wins: x-bursar-* headers, then W3C baggage, then the body's user and metadata, then the key's defaults.
Rule 2: hostile or oversized values are cut or left out: attribution never fails a call, and never invents a value.
Rule 3: x-bursar-* headers and baggage stop here; they are not the provider's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import unquote

from bursar.core.budget_fields import parse_money
from bursar.core.budgets import TaskLimit
from bursar.core.money import NanoUSD
from bursar.core.scopes import LABELS_MAX, NOBODY, VALUE_LENGTH_MAX, Scope
from bursar.core.values import valueclass
from bursar.wire.dialect import BadRequest, RequestFacts

__all__ = ["PREFIX", "Trace", "attribute", "is_final", "read_baggage", "read_task", "read_trace"]

PREFIX: Final = "x-bursar-"
TASK_BUDGET: Final = "x-bursar-task-budget"
TASK_RESERVE: Final = "x-bursar-task-reserve"
FINAL: Final = "x-bursar-final"

_HEADERS: Final[Mapping[str, str]] = {
    "x-bursar-task": "task",
    "x-bursar-parent-task": "parent_task",
    "x-bursar-session": "session",
    "x-bursar-agent": "agent",
    "x-bursar-user": "user",
    "x-bursar-team": "team",
    "x-bursar-project": "project",
    "x-bursar-org": "org",
}
_LABEL: Final = "x-bursar-label-"

# The names in use for the same thing: our own, OpenTelemetry's, and the common plain ones.
_BAGGAGE: Final[Mapping[str, str]] = {
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

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-[0-9a-f]{2}")


@valueclass
class Trace:
    """The caller's trace and span, hexadecimal, "" when it sent none."""

    trace_id: str = ""
    span_id: str = ""


NO_TRACE: Final = Trace()


def attribute(headers: Iterable[tuple[str, str]], baggage: str, facts: RequestFacts, defaults: Scope = NOBODY) -> Scope:
    """The scope of a call. ``headers`` are the request's, names in lower case; ``defaults`` the virtual key's scope."""
    columns: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(PREFIX):
            column = _HEADERS.get(name)
            if column is not None:
                columns[column] = _clean(value)
            elif name.startswith(_LABEL):
                _label(labels, name[len(_LABEL) :], value)
    if baggage:
        _take_baggage(baggage, columns, labels)
    for column in ("task", "session", "user", "agent", "team", "project"):
        if not columns.get(column) and (value := getattr(facts, column)):
            columns[column] = _clean(value)
    for name, value in facts.labels:
        _label(labels, name, value)
    if not columns and not labels:
        return defaults
    return Scope(labels=tuple(sorted(labels.items())), **columns).over(defaults)


def _label(labels: dict[str, str], name: str, value: str) -> None:
    name = _clean(name)
    if name and len(labels) < LABELS_MAX:
        labels.setdefault(name, _clean(value))


def _take_baggage(baggage: str, columns: dict[str, str], labels: dict[str, str]) -> None:
    for name, value in read_baggage(baggage):
        column = _BAGGAGE.get(name)
        if column is not None:
            columns.setdefault(column, _clean(value))
        elif name.startswith(_BAGGAGE_LABEL):
            _label(labels, name[len(_BAGGAGE_LABEL) :], value)


def read_baggage(header: str) -> list[tuple[str, str]]:
    """The members of a W3C ``baggage`` header; malformed ones are left out (https://www.w3.org/TR/baggage/)."""
    members: list[tuple[str, str]] = []
    for member in header[:8192].split(",", 180)[:180]:
        name, equals, value = member.partition(";")[0].partition("=")
        if equals and name.strip():
            members.append((name.strip(), unquote(value.strip())))
    return members


def read_trace(header: str | None) -> Trace:
    """The ids of a W3C ``traceparent`` header; nothing when it is malformed."""
    if not header:
        return NO_TRACE
    found = _TRACEPARENT.fullmatch(header.strip())
    return Trace(found["trace"], found["span"]) if found else NO_TRACE


def read_task(headers: Mapping[str, str], scope: Scope) -> TaskLimit | None:
    """What a request says of its task: under which one it stands, and the limit it opens. None: nothing.

    Raises BadRequest for a limit that is no amount, or one without a task.
    """
    stated = headers.get(TASK_BUDGET)
    if stated is None and not scope.parent_task:
        return None
    if not scope.task:
        if stated is None:
            return None
        raise BadRequest(TASK_BUDGET, f"a task budget needs a task: send {PREFIX}task as well")
    if stated is None:
        return TaskLimit(scope.task, scope.parent_task)
    limit = _amount(TASK_BUDGET, stated)
    reserve = _amount(TASK_RESERVE, headers.get(TASK_RESERVE, "0"))
    if reserve > limit:
        raise BadRequest(TASK_RESERVE, f"{headers[TASK_RESERVE]!r} is more than the task's budget of {stated!r}")
    return TaskLimit(scope.task, scope.parent_task, limit, reserve)


def is_final(headers: Mapping[str, str]) -> bool:
    """Whether a call says that it is its task's last: it may use what was kept for it."""
    return headers.get(FINAL, "").strip().lower() in ("true", "1", "yes")


def _amount(header: str, text: str) -> NanoUSD:
    try:
        return parse_money(text.strip()[:VALUE_LENGTH_MAX], header)
    except ValueError as error:
        raise BadRequest(header, str(error).removeprefix(f"{header}: ")) from None


def _clean(value: str) -> str:
    text = value.strip()[:VALUE_LENGTH_MAX]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())
