"""The part of the API that shows the response cache of the running server and makes kept answers void.

Rule 1: whoever calls this has made sure that the request may change things; here is only what it asks for.
Rule 2: what is made void is described: by key, tag, route or tenant, or all of it by name. Nothing goes by accident.
Rule 3: a wrong answer is reported by the call that was given it: it is forgotten, and counts against its kind.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bursar.console.answers import ApiAnswer, failure, json_answer
from bursar.core.errors import CacheError
from bursar.engine.ports import CacheDesk
from bursar.views.asking import BadQuestion

from .budgets import Request
from .query import Query, read_fields

__all__ = ["CACHE_PATHS", "cache_methods", "handle_cache"]

CACHE_PATHS: Final = ("/cache", "/cache/wrong")
_METHODS: Final = {"/api/v1/cache": ("GET", "HEAD", "DELETE"), "/api/v1/cache/wrong": ("POST",)}
_SAID: Final = ("key", "tag", "route", "tenant")


class _Wrong(msgspec.Struct, forbid_unknown_fields=True):
    call_id: str


def cache_methods(path: str) -> tuple[str, ...]:
    """What can be done at a path; () when it is not about the cache."""
    return _METHODS.get(path.rstrip("/"), ())


async def handle_cache(request: Request, desk: CacheDesk) -> ApiAnswer:
    """Answer one request at a path of ``CACHE_PATHS``."""
    allowed = cache_methods(request.path)
    if request.method not in allowed:
        text = ", ".join(allowed)
        return failure(405, f"{request.method} is not possible here; use {text}", headers={"allow": text})
    try:
        query = Query(read_fields(request.query))
        if request.method == "POST":
            return await _wrong(query, request.body, desk)
        if request.method == "DELETE":
            return await _clear(query, desk)
        answer = await _use(query, desk)
        return answer if request.method == "GET" else ApiAnswer(answer.status, answer.headers, b"")
    except BadQuestion as problem:
        return failure(400, str(problem), field=problem.field)
    except CacheError as error:
        return failure(503, f"the cache cannot answer now: {error}", headers={"retry-after": "1"})


async def _use(query: Query, desk: CacheDesk) -> ApiAnswer:
    query.only()
    use = await desk.use()
    if use is None:
        return failure(404, "this server keeps no answers: no route has `cache` (docs/caching.md)")
    found = {"entries": use.entries, "bytes": use.bytes, "limit_bytes": use.limit_bytes, "evicted": use.evicted}
    return json_answer(found)


async def _clear(query: Query, desk: CacheDesk) -> ApiAnswer:
    query.only(*_SAID, "all")
    said = {name: value for name in _SAID if (value := query.fields.get(name, ""))}
    everything = query.fields.get("all") == "true"
    if bool(said) == everything:
        raise BadQuestion("key", "say what to forget: key, tag, route, tenant, or all=true for all of it")
    return json_answer({"removed": await desk.clear(everything=everything, **said)})


async def _wrong(query: Query, body: bytes, desk: CacheDesk) -> ApiAnswer:
    query.only()
    try:
        call_id = msgspec.json.decode(body, type=_Wrong).call_id
    except msgspec.MsgspecError as problem:
        raise BadQuestion("body", f'{problem}; send {{"call_id": "..."}}') from None
    if not await desk.wrong(call_id):
        message = f"no kept answer was given to the call {call_id[:60]!r}, or not since this server started"
        return failure(404, message, field="call_id")
    return json_answer({"removed": 1})
