"""The console's REST API: what the views answer, over HTTP.

Rule 1: an answer is a function of the request, the ledger and the moment; nothing here holds state. What is about
        budgets is asked of the books instead and may change them (``budgets``).
Rule 2: a request that cannot be answered gets a JSON error that names the field and the way out.
Rule 3: every answer has a limit on its rows and says how many it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Final

from bursar.console.answers import ApiAnswer, failure, json_answer
from bursar.engine.ports import Queries
from bursar.views.asking import BadQuestion, Span, moment, time_zone
from bursar.views.feed import FEED_MAX, feed
from bursar.views.overview import overview
from bursar.views.routes import routes
from bursar.views.spend import spend
from bursar.views.tasks import tasks
from bursar.views.trace import NoTask, SeveralTasks, TaskTree, task
from bursar.views.why import NoCall, SeveralCalls, WhyCall, why

from .budgets import BUDGET_PATHS, Request, handle_budgets, methods_of
from .openapi import LIMITS, OPENAPI
from .query import SEPARATOR, Query, read_fields

__all__ = ["ApiAnswer", "Request", "handle", "handle_budgets", "methods_of"]

_PREFIX: Final = "/api/v1"


def handle(method: str, path: str, query: str, queries: Queries, *, now: datetime | None = None) -> ApiAnswer:
    """Answer one request. ``path`` is percent-decoded, ``query`` is not and has no ``?``; ``now`` is for tests.

    An error of ``queries`` itself passes through: the caller knows what it means.
    """
    if method not in ("GET", "HEAD"):
        return failure(405, f"{method} is not possible here; use GET", headers={"allow": "GET, HEAD"})
    try:
        asked = _Asked(read_fields(query), queries, now or datetime.now(timezone.utc))
        answer = _route(path, asked)
    except BadQuestion as problem:
        return failure(400, str(problem), field=problem.field)
    return answer if method == "GET" else ApiAnswer(answer.status, answer.headers, b"")


@dataclass(frozen=True, slots=True)
class _Asked(Query):
    queries: Queries
    now: datetime

    def span(self) -> Span:
        """The time span of the request, and the columns its other fields fix."""
        zone = time_zone(self.tz())
        times = {
            name: None if (text := self.fields.get(name)) is None else moment(name, text, now=self.now, zone=zone)
            for name in ("since", "until")
        }
        where: dict[str, str] = {}
        for pair in filter(None, self.fields.get("where", "").split(SEPARATOR)):
            name, equals, value = pair.partition("=")
            if not equals:
                raise BadQuestion("where", f"where {pair!r} has no '='; write where=team=search&where=user=ann")
            where[name] = value
        return Span(since=times["since"], until=times["until"], where=where)

    def tz(self) -> str:
        return self.fields.get("tz", "UTC")


def _route(path: str, asked: _Asked) -> ApiAnswer:
    rest = path.removeprefix(_PREFIX)
    if rest != path:
        if answer := _ROUTES.get(rest.rstrip("/")):
            return answer(asked)
        if rest.startswith("/tasks/"):
            return _task(asked, rest.removeprefix("/tasks/"))
        if rest.startswith("/calls/"):
            return _call(asked, rest.removeprefix("/calls/"))
    known = ", ".join(_PREFIX + name for name in (*_ROUTES, "/tasks/{id}", "/calls/{id}", *BUDGET_PATHS))
    return failure(404, f"nothing is at {path}; choose from {known}")


def _spend(asked: _Asked) -> ApiAnswer:
    asked.only("by", "since", "until", "where", "tz", "limit")
    limit = asked.number("limit", least=1, default=LIMITS["spend"][0], most=LIMITS["spend"][1])
    by = [name.strip() for name in asked.fields.get("by", "model").split(",")]
    report = spend(asked.queries, by=by, tz=asked.tz(), limit=limit, **asked.span())
    return json_answer({**report.to_json(), "more_rows": report.group_count - len(report.rows)})


def _tasks(asked: _Asked) -> ApiAnswer:
    asked.only("since", "until", "where", "tz", "limit")
    limit = asked.number("limit", least=1, default=LIMITS["tasks"][0], most=LIMITS["tasks"][1])
    answer = tasks(asked.queries, limit=limit, **asked.span())
    return json_answer({**answer.to_json(), "more_rows": answer.task_count - len(answer.rows)})


def _task(asked: _Asked, id: str) -> ApiAnswer:  # noqa: A002 -- the path's parameter
    asked.only()
    match task(asked.queries, id):
        case TaskTree() as tree:
            return json_answer(tree.to_json())
        case NoTask():
            return failure(404, f"no task has the id {id!r} or one that begins so; GET {_PREFIX}/tasks", field="id")
        case SeveralTasks(candidates=candidates):
            message = f"several tasks begin with {id!r}, such as {', '.join(candidates)}; give more of the id"
            return failure(409, message, field="id")


def _call(asked: _Asked, id: str) -> ApiAnswer:  # noqa: A002 -- the path's parameter
    asked.only()
    match why(asked.queries, id):
        case WhyCall() as call:
            return json_answer(call.to_json())
        case NoCall():
            message = f"no call or attempt has the id {id!r}; answers carry it as x-bursar-call-id, GET {_PREFIX}/feed"
            return failure(404, message, field="id")
        case SeveralCalls(candidates=candidates):
            message = f"several calls begin with {id!r}, such as {', '.join(candidates)}; give more of the id"
            return failure(409, message, field="id")


def _routes(asked: _Asked) -> ApiAnswer:
    asked.only("route", "since", "until", "where", "tz", "limit")
    limit = asked.number("limit", least=1, default=LIMITS["routes"][0], most=LIMITS["routes"][1])
    report = routes(asked.queries, route=asked.fields.get("route", ""), limit=limit, **asked.span())
    return json_answer(report.to_json())


def _feed(asked: _Asked) -> ApiAnswer:
    asked.only("after", "limit")
    after = asked.number("after", least=0, default=-1, most=2**62)
    limit = asked.number("limit", least=1, default=LIMITS["feed"][0], most=FEED_MAX)
    return json_answer(feed(asked.queries, after=after, limit=limit).to_json())


def _overview(asked: _Asked) -> ApiAnswer:
    asked.only("tz", "period")
    period = asked.fields.get("period", "30d")
    return json_answer(overview(asked.queries, now=asked.now, tz=asked.tz(), period=period).to_json())


def _openapi(asked: _Asked) -> ApiAnswer:
    asked.only()
    return json_answer(OPENAPI)


_ROUTES: Final[dict[str, Callable[[_Asked], ApiAnswer]]] = {
    "/spend": _spend,
    "/tasks": _tasks,
    "/routes": _routes,
    "/feed": _feed,
    "/overview": _overview,
    "/openapi.json": _openapi,
}
