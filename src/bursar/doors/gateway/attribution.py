"""What a request says of its task: where it stands, what limit it opens, and whether it is its last call.

Rule 1: nothing in a request raises a limit that stands (``adapters/books_admission``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bursar.core.budget_fields import parse_money
from bursar.core.budgets import TaskLimit
from bursar.core.money import NanoUSD
from bursar.core.scopes import VALUE_LENGTH_MAX, Scope
from bursar.wire.context import HEADER_PREFIX
from bursar.wire.dialect import BadRequest

__all__ = ["is_final", "read_task"]

TASK_BUDGET: Final = "x-bursar-task-budget"
TASK_RESERVE: Final = "x-bursar-task-reserve"
FINAL: Final = "x-bursar-final"


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
