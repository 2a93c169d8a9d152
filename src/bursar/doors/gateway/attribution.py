"""Who a call is for: what headers, baggage, body and virtual key say, as one scope.

Rule 1: nearer wins: x-bursar-* headers, then W3C baggage, then the body's user and metadata, then the key's defaults.
Rule 2: hostile or oversized values are cut or left out: attribution never fails a call, and never invents a value.
Rule 3: x-bursar-* headers and baggage stop here; they are not the provider's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bursar.core.budget_fields import parse_money
from bursar.core.budgets import TaskLimit
from bursar.core.money import NanoUSD
from bursar.core.scopes import NOBODY, VALUE_LENGTH_MAX, Scope
from bursar.wire.context import HEADER_COLUMNS, HEADER_LABEL, HEADER_PREFIX, clean, put_label, take_baggage
from bursar.wire.dialect import BadRequest, RequestFacts

__all__ = ["attribute", "is_final", "read_task"]

TASK_BUDGET: Final = "x-bursar-task-budget"
TASK_RESERVE: Final = "x-bursar-task-reserve"
FINAL: Final = "x-bursar-final"


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
        raise BadRequest(TASK_BUDGET, f"a task budget needs a task: send {HEADER_PREFIX}task as well")
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
