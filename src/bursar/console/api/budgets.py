"""The part of the API that shows budgets, task limits and approvals, and changes them.

Rule 1: whoever calls this has made sure that the request may change things; here is only what it asks for.
Rule 2: a budget of bursar.yaml is changed there: 409. A spec that cannot be is 400 with the field that is wrong.
Rule 3: numbers of a body keep the digits they were written with; an amount never passes through a float.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from bursar.console.answers import ApiAnswer, failure, json_answer
from bursar.core.budget_fields import amount_text, parse_money
from bursar.core.errors import ConfigError
from bursar.core.money import NanoUSD
from bursar.core.scopes import VALUE_LENGTH_MAX
from bursar.core.values import valueclass
from bursar.engine.ports import BudgetDesk, KeptBudget, TaskStanding
from bursar.views.asking import BadQuestion
from bursar.views.budgets import approval_json, budget_json, standings_by_budget, task_json

from .openapi import LIMITS
from .query import Query, read_fields

__all__ = ["BODY_BYTES_MAX", "BUDGET_PATHS", "Request", "handle_budgets", "methods_of"]

BODY_BYTES_MAX: Final = 64_000
BUDGET_PATHS: Final = (
    "/budgets",
    "/budgets/{name}",
    "/task-budgets",
    "/task-budgets/{task}",
    "/approvals",
    "/approvals/{id}",
)

_PREFIX: Final = "/api/v1/"
_DECISIONS: Final = ("granted", "declined")
_ABSENT: Final = object()


@valueclass
class Request:
    """``path`` is percent-decoded, ``query`` is not and has no ``?``; ``body`` is empty but for PUT and POST."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""


def methods_of(path: str) -> tuple[str, ...]:
    """What can be done at a path; () when it is not about budgets."""
    found = _find(path)
    return () if found is None else tuple(found[0])


def handle_budgets(request: Request, desk: BudgetDesk, *, now_us: int) -> ApiAnswer:
    """Answer one request at a path of ``BUDGET_PATHS``. Raises BooksError."""
    found = _find(request.path)
    assert found is not None, request.path
    handlers, name = found
    method = "GET" if request.method == "HEAD" else request.method
    handler = handlers.get(method)
    if handler is None:
        allowed = ", ".join(handlers)
        return failure(405, f"{request.method} is not possible here; use {allowed}", headers={"allow": allowed})
    try:
        answer = handler(_Asked(Query(read_fields(request.query)), desk, name, request.body, now_us))
    except BadQuestion as problem:
        answer = failure(400, str(problem), field=problem.field)
    return ApiAnswer(answer.status, answer.headers, b"") if request.method == "HEAD" else answer


@valueclass
class _Asked:
    query: Query
    desk: BudgetDesk
    name: str
    body: bytes
    now_us: int

    def rows(self, view: str) -> int:
        self.query.only("limit")
        default, most = LIMITS[view]
        return self.query.number("limit", default=default, least=1, most=most)

    def fields(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        self.query.only()
        try:
            found = _DECODER.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise BadQuestion("body", f"the body is no JSON: {problem}") from None
        if not isinstance(found, dict):
            raise BadQuestion("body", 'the body must be a JSON object, such as {"limit": "50", "per": "month"}')
        return cast("dict[str, Any]", found)


_DECODER: Final = msgspec.json.Decoder(float_hook=Decimal)
_Handler = Callable[[_Asked], ApiAnswer]


def _find(path: str) -> tuple[Mapping[str, _Handler], str] | None:
    """The handlers of a path, and the name in it. A name may hold any character, also a slash."""
    if not path.startswith(_PREFIX):
        return None
    collection, _, name = path.removeprefix(_PREFIX).partition("/")
    found = _ONE.get(collection) if name else _ALL.get(collection)
    return None if found is None else (found, name)


# --- budgets ----------------------------------------------------------------------------------------------------


def _budgets(asked: _Asked) -> ApiAnswer:
    limit = asked.rows("budgets")
    kept = asked.desk.budgets()
    standings = standings_by_budget(asked.desk, kept)
    rows = [budget_json(each, standings[each.budget.name], limit=limit, now_us=asked.now_us) for each in kept]
    return json_answer({"rows": rows})


def _budget(asked: _Asked) -> ApiAnswer:
    limit = asked.rows("budget")
    kept = asked.desk.find(asked.name)
    return _no_budget(asked.name) if kept is None else _shown(asked, kept, limit)


def _put_budget(asked: _Asked) -> ApiAnswer:
    spec = asked.fields()
    before = asked.desk.find(asked.name)
    if before is not None and before.source == "file":
        return _in_file(asked.name)
    try:
        kept = asked.desk.set(asked.name, spec)
    except ConfigError as problem:
        return failure(400, str(problem), field=_field_of(str(problem), asked.name))
    return _shown(asked, kept, LIMITS["budget"][0], status=200 if before else 201)


def _delete_budget(asked: _Asked) -> ApiAnswer:
    asked.query.only()
    before = asked.desk.find(asked.name)
    if before is None:
        return _no_budget(asked.name)
    if before.source == "file":
        return _in_file(asked.name)
    asked.desk.remove(asked.name)
    return json_answer({"removed": asked.name})


def _shown(asked: _Asked, kept: KeptBudget, limit: int, *, status: int = 200) -> ApiAnswer:
    standings = standings_by_budget(asked.desk, [kept])[kept.budget.name]
    return json_answer(budget_json(kept, standings, limit=limit, now_us=asked.now_us), status=status)


def _no_budget(name: str) -> ApiAnswer:
    return failure(404, f"there is no budget {name[:100]!r}; GET {_PREFIX}budgets lists them", field="name")


def _in_file(name: str) -> ApiAnswer:
    return failure(409, f"budget {name!r} is in bursar.yaml: change it there", field="name")


def _field_of(message: str, name: str) -> str:
    """The part of the spec that an error of ``core.budget_fields`` begins with."""
    found = re.match(r"\.([^:]+):", message.removeprefix(f"budget {name}"))
    return found[1] if found else "name"


# --- task limits ------------------------------------------------------------------------------------------------


def _tasks(asked: _Asked) -> ApiAnswer:
    limit = asked.rows("task-budgets")
    found = asked.desk.tasks()
    return json_answer({"rows": [task_json(each) for each in found[:limit]], "more_rows": len(found[limit:])})


def _task(asked: _Asked) -> ApiAnswer:
    asked.query.only()
    found = asked.desk.task(asked.name)
    if found is None:
        return failure(404, f"task {asked.name[:100]!r} has no limit of its own", field="task")
    return json_answer(task_json(found))


def _put_task(asked: _Asked) -> ApiAnswer:
    fields = asked.fields()
    if len(asked.name) > VALUE_LENGTH_MAX:
        raise BadQuestion(
            "task", f"the task's id has {len(asked.name)} characters, at most {VALUE_LENGTH_MAX} are kept"
        )
    for name in fields:
        if name not in ("limit", "reserve"):
            raise BadQuestion(name, f"{name!r} is not known here; choose from limit, reserve")
    if "limit" not in fields:
        raise BadQuestion("limit", "say what the task may spend, such as 0.50, or null for no limit of its own")
    before = asked.desk.task(asked.name)
    if fields["limit"] is None:
        if "reserve" in fields and fields["reserve"] is not None:
            raise BadQuestion("reserve", "a task without a limit keeps nothing back; leave reserve out")
        asked.desk.set_task(asked.name, None, NanoUSD(0))
        return json_answer({"task": asked.name, "limit": None})
    limit = _money(fields["limit"], "limit")
    reserve = _reserve(fields.get("reserve", _ABSENT), limit, before)
    asked.desk.set_task(asked.name, limit, reserve)
    after = asked.desk.task(asked.name)
    assert after is not None
    return json_answer(task_json(after), status=200 if before else 201)


def _reserve(value: Any, limit: NanoUSD, before: TaskStanding | None) -> NanoUSD:
    """What is asked for; what was kept back before where nothing is said, as far as the limit goes."""
    if value is _ABSENT:
        return NanoUSD(min(before.limit.reserve, limit)) if before is not None else NanoUSD(0)
    reserve = NanoUSD(0) if value is None else _money(value, "reserve")
    if reserve > limit:
        text = amount_text("usd", reserve)
        raise BadQuestion("reserve", f"{text} is more than the limit of {amount_text('usd', limit)}")
    return reserve


def _money(value: Any, field: str) -> NanoUSD:
    try:
        return parse_money(value, field)
    except ValueError as problem:
        raise BadQuestion(field, str(problem)) from None


# --- approvals --------------------------------------------------------------------------------------------------


def _approvals(asked: _Asked) -> ApiAnswer:
    asked.query.only("state")
    state = asked.query.fields.get("state", "pending")
    if state not in ("pending", "all"):
        raise BadQuestion("state", f"state {state!r} is not possible; choose from pending, all")
    found = asked.desk.approvals(pending=state == "pending")
    return json_answer({"rows": [approval_json(one) for one in found]})


def _decide(asked: _Asked) -> ApiAnswer:
    fields = asked.fields()
    decision = fields.get("decision")
    if decision not in _DECISIONS or len(fields) > 1:
        raise BadQuestion("decision", 'write {"decision": "granted"} or {"decision": "declined"}')
    found = asked.desk.decide(asked.name, decision)
    if found is None:
        message = f"nothing of the id {asked.name[:100]!r} waits for a yes; GET {_PREFIX}approvals lists what does"
        return failure(404, message, field="id")
    return json_answer(approval_json(found))


_ALL: Final[Mapping[str, Mapping[str, _Handler]]] = {
    "budgets": {"GET": _budgets, "HEAD": _budgets},
    "task-budgets": {"GET": _tasks, "HEAD": _tasks},
    "approvals": {"GET": _approvals, "HEAD": _approvals},
}
_ONE: Final[Mapping[str, Mapping[str, _Handler]]] = {
    "budgets": {"GET": _budget, "HEAD": _budget, "PUT": _put_budget, "DELETE": _delete_budget},
    "task-budgets": {"GET": _task, "HEAD": _task, "PUT": _put_task},
    "approvals": {"POST": _decide},
}
