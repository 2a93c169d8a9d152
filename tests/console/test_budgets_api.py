"""Budgets over the API: exact standings, changes, errors that name the field, and no way in for others."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from desks import NOW_US, Desk
from hypothesis import given
from hypothesis import strategies as st

from bursar.console.answers import ApiAnswer
from bursar.console.api import handle, methods_of
from bursar.console.api.openapi import OPENAPI
from bursar.console.site import Site
from bursar.core.errors import BooksBusyError
from bursar.engine.response_cache import ResponseCache
from seeding import MemoryLedger

_DAY = NOW_US // 86_400_000_000 * 86_400
_SPEC = {"limit": 5, "per": "day", "each": "user", "on_unpriced": "assume-0.05"}


def _ask(desk: Desk, method: str, path: str, body: Any = None, query: str = "") -> tuple[int, Any]:
    content = b"" if body is None else json.dumps(body).encode()
    answer = desk.request(method, f"/api/v1/{path}", query, content)
    return answer.status, json.loads(answer.body)


# --- what is answered -------------------------------------------------------------------------------------------


def test_a_budget_is_set_seen_changed_and_removed(desk: Desk) -> None:
    """201 for a new one, 200 for a change, and it is gone after DELETE; the spec comes back as it was written."""
    assert _ask(desk, "GET", "budgets") == (200, {"rows": []})
    status, made = _ask(desk, "PUT", "budgets/people", _SPEC)
    assert (status, made["spec"], made["source"], made["each"]) == (201, _SPEC, "set", "user")
    assert made["limits"] == [{"window": "day", "limit": "5", "now": "5"}]
    status, raised = _ask(desk, "PUT", "budgets/people", {**_SPEC, "raise": {"by": "2.50", "until": "2026-04-02"}})
    assert (status, raised["limits"][0]["now"]) == (200, "7.5")
    assert raised["raise"] == {"by": "2.5", "until": "2026-04-02T00:00:00Z", "in_force": True}
    assert _ask(desk, "GET", "budgets/people")[1] == raised
    assert _ask(desk, "DELETE", "budgets/people") == (200, {"removed": "people"})
    assert _ask(desk, "DELETE", "budgets/people")[0] == 404
    assert _ask(desk, "GET", "budgets/people")[0] == 404


def test_standings_are_exact_and_the_fullest_come_first(desk: Desk) -> None:
    """Money is decimal text to the nano-dollar, unpriced attempts stand beside it, what is left out is counted."""
    _ask(desk, "PUT", "budgets/people", _SPEC)
    desk.used(f"budget:people@{_DAY}-{_DAY + 86_400}=ann", spent=1_000_000_001, held=1, unpriced=2, assumed=100_000_000)
    desk.used(f"budget:people@{_DAY}-{_DAY + 86_400}=bob", spent=4_000_000_000)
    _, found = _ask(desk, "GET", "budgets", query="limit=1")
    (row,) = found["rows"]
    assert ([each["subject"] for each in row["standings"]], row["more_standings"]) == (["bob"], 1)
    ann = _ask(desk, "GET", "budgets/people")[1]["standings"][1]
    assert ann == {
        "budget": "people",
        "subject": "ann",
        "window": "day",
        "unit": "usd",
        "limit": "5",
        "spent": "1.100000001",
        "held": "0.000000001",
        "left": "3.899999998",
        "used_share": 0.22,
        "unpriced_attempts": 2,
        "starts_at": "2026-03-31T00:00:00Z",
        "resets_at": "2026-04-01T00:00:00Z",
    }


def test_tokens_are_whole_numbers_and_a_limit_of_nothing_has_no_share(desk: Desk) -> None:
    """Counts are integers; a rolling window resets at no moment; a share of nothing is null, not zero."""
    _ask(desk, "PUT", "budgets/tokens", {"limit": "2M tokens", "per": "24h"})
    _ask(desk, "PUT", "budgets/shut", {"limit": 0})
    found = {row["name"]: row["standings"][0] for row in _ask(desk, "GET", "budgets")[1]["rows"]}
    assert (found["tokens"]["limit"], found["tokens"]["left"], found["tokens"]["resets_at"]) == (
        2_000_000,
        2_000_000,
        None,
    )
    assert (found["shut"]["used_share"], found["shut"]["left"]) == (None, "0")


def test_an_amount_keeps_its_digits(desk: Desk) -> None:
    """A JSON number never passes through a float: seventeen digits come back as they went in."""
    body = b'{"limit": 12345678.123456789, "per": "month"}'
    answer = desk.request("PUT", "/api/v1/budgets/exact", "", body)
    assert json.loads(answer.body)["limits"][0]["limit"] == "12345678.123456789"


def test_a_budget_of_the_file_is_changed_there(desk: Desk) -> None:
    """It is listed with its source; PUT and DELETE are 409 and change nothing, whatever hides below it."""
    _ask(desk, "PUT", "budgets/team", {"limit": 1})
    desk.configured["team"] = {"limit": 2, "per": "month"}
    _, found = _ask(desk, "GET", "budgets")
    assert [(row["name"], row["source"], row["limits"][0]["limit"]) for row in found["rows"]] == [("team", "file", "2")]
    for method, body in (("PUT", {"limit": 9}), ("DELETE", None)):
        status, answer = _ask(desk, method, "budgets/team", body)
        assert (status, answer["error"]["field"], "bursar.yaml" in answer["error"]["message"]) == (409, "name", True)
    assert _ask(desk, "GET", "budgets/team")[1]["limits"][0]["limit"] == "2"


def test_a_task_gets_a_limit_keeps_its_reserve_and_loses_it(desk: Desk) -> None:
    """A raise leaves the reserve as it was; null takes the limit away; a task's id may hold any character."""
    name = "a/b <c>?ü"
    assert _ask(desk, "GET", f"task-budgets/{name}")[0] == 404
    status, made = _ask(desk, "PUT", f"task-budgets/{name}", {"limit": "0.50", "reserve": 0.125})
    assert (status, made["limit"], made["reserve"], made["left"]) == (201, "0.5", "0.125", "0.5")
    status, raised = _ask(desk, "PUT", f"task-budgets/{name}", {"limit": 2})
    assert (status, raised["limit"], raised["reserve"]) == (200, "2", "0.125")
    assert _ask(desk, "PUT", f"task-budgets/{name}", {"limit": "0.1"})[1]["reserve"] == "0.1"
    assert [row["task"] for row in _ask(desk, "GET", "task-budgets")[1]["rows"]] == [name]
    assert _ask(desk, "PUT", f"task-budgets/{name}", {"limit": None}) == (200, {"task": name, "limit": None})
    assert _ask(desk, "GET", "task-budgets")[1] == {"rows": [], "more_rows": 0}


def test_an_approval_is_decided(desk: Desk) -> None:
    """What waits is listed; a decision takes it off the list and may be taken back; an unknown id is 404."""
    desk.asked("a1", who='{"user":"ann"}')
    (row,) = _ask(desk, "GET", "approvals")[1]["rows"]
    assert (row["id"], row["who"], row["state"], row["decided_at"]) == ("a1", {"user": "ann"}, "pending", None)
    assert _ask(desk, "POST", "approvals/a1", {"decision": "granted"})[1]["state"] == "granted"
    assert _ask(desk, "GET", "approvals")[1]["rows"] == []
    assert _ask(desk, "GET", "approvals", query="state=all")[1]["rows"][0]["state"] == "granted"
    assert _ask(desk, "POST", "approvals/a1", {"decision": "declined"})[1]["state"] == "declined"
    assert _ask(desk, "POST", "approvals/zz", {"decision": "granted"})[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "budgets/b", {}, "limit"),
        ("PUT", "budgets/b", {"limit": "5 apples"}, "limit"),
        ("PUT", "budgets/b", {"limit": 5, "per": "fortnight"}, "per"),
        ("PUT", "budgets/b", {"limit": 5, "ladder": [{"at": "90%", "effort": "huge"}]}, "ladder[0].effort"),
        ("PUT", "budgets/b", {"limit": 5, "colour": 1}, "colour"),
        ("PUT", "budgets/B!", {"limit": 5}, "name"),
        ("PUT", "budgets/books", {"limit": 5}, "name"),
        ("PUT", "budgets/b", [1], "body"),
        ("PUT", "task-budgets/t", {}, "limit"),
        ("PUT", "task-budgets/t", {"limit": "2M tokens"}, "limit"),
        ("PUT", "task-budgets/t", {"limit": True}, "limit"),
        ("PUT", "task-budgets/t", {"limit": 1, "reserve": 2}, "reserve"),
        ("PUT", "task-budgets/t", {"limit": None, "reserve": 1}, "reserve"),
        ("PUT", "task-budgets/t", {"limit": 1, "each": "user"}, "each"),
        ("PUT", f"task-budgets/{'t' * 257}", {"limit": 1}, "task"),
        ("POST", "approvals/a1", {"decision": "maybe"}, "decision"),
        ("POST", "approvals/a1", {"decision": ["granted"]}, "decision"),
        ("POST", "approvals/a1", {}, "decision"),
    ],
)
def test_what_cannot_be_names_its_field(desk: Desk, method: str, path: str, body: Any, field: str) -> None:
    """400, the field, words that say what would do, and nothing has changed."""
    status, answer = _ask(desk, method, path, body)
    assert (status, answer["error"]["field"]) == (400, field)
    assert len(answer["error"]["message"]) > 15
    assert _ask(desk, "GET", "budgets")[1]["rows"] == []
    assert _ask(desk, "GET", "task-budgets")[1]["rows"] == []


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("budgets", "limit=0", "limit"),
        ("budgets", "by=x", "by"),
        ("approvals", "state=old", "state"),
        ("task-budgets", "x=1", "x"),
    ],
)
def test_a_bad_question_names_its_field(desk: Desk, path: str, query: str, field: str) -> None:
    """As everywhere in the API."""
    assert _ask(desk, "GET", path, query=query)[1]["error"]["field"] == field


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"limit": NaN}', b"[" * 60_000, b'"\\ud800"', b"null"])
def test_a_body_that_is_no_object_is_refused(desk: Desk, body: bytes) -> None:
    """Whatever bytes come, the answer is 400 and names the body."""
    answer = desk.request("PUT", "/api/v1/budgets/b", "", body)
    assert (answer.status, json.loads(answer.body)["error"]["field"]) == (400, "body")


def test_other_methods_say_which_will_do(desk: Desk, ledger: MemoryLedger) -> None:
    """405 with ``allow``; HEAD has no body; what is not about budgets stays read-only; 404 lists these paths too."""
    answer = desk.request("POST", "/api/v1/budgets")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert desk.request("GET", "/api/v1/approvals/a1").headers["allow"] == "POST"
    assert desk.request("HEAD", "/api/v1/budgets").body == b""
    assert methods_of("/api/v1/spend") == methods_of("/api/v1/budgetsx") == methods_of("/budgets") == ()
    assert handle("PUT", "/api/v1/spend", "", ledger).status == 405
    assert b"/api/v1/budgets/{name}" in handle("GET", "/api/v1/nothing", "", ledger).body


# --- the description --------------------------------------------------------------------------------------------


def _hold(value: Any, schema: dict[str, Any], at: str) -> None:
    """Hold a value against the part of JSON Schema that the description uses, with no field undescribed."""
    if "$ref" in schema:
        return _hold(value, OPENAPI["components"]["schemas"][schema["$ref"].rpartition("/")[2]], at)
    if "enum" in schema:
        assert value in schema["enum"], at
    if kinds := schema.get("type"):
        names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
        kind = "null" if value is None else names[type(value)]
        assert kind in ([kinds] if isinstance(kinds, str) else kinds) or (kind == "integer" and "number" in kinds), at
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) == set(value), at
        for name, below in value.items():
            _hold(below, schema["properties"][name], f"{at}.{name}")
    if isinstance(value, list):
        for item in value:
            _hold(item, schema["items"], f"{at}[]")
    return None


def test_the_description_is_true(desk: Desk) -> None:
    """Every path, method and answer is described, with each field it has and none it has not."""
    desk.configured["team"] = {"limit": 2, "per": "month", "raise": {"by": 1, "until": "2026-04-02"}}
    desk.asked("a1")
    _ask(desk, "PUT", "task-budgets/t", {"limit": 1})
    asked = [
        ("get", "budgets", "", None),
        ("put", "budgets/{name}", "b", {"limit": 5}),
        ("get", "budgets/{name}", "team", None),
        ("delete", "budgets/{name}", "b", None),
        ("get", "task-budgets", "", None),
        ("get", "task-budgets/{task}", "t", None),
        ("get", "approvals", "", None),
        ("post", "approvals/{id}", "a1", {"decision": "granted"}),
        ("get", "budgets/{name}", "nothing", None),
    ]
    for method, path, name, body in asked:
        described = OPENAPI["paths"][f"/api/v1/{path}"][method]
        status, answer = _ask(desk, method.upper(), path.partition("{")[0] + name, body)
        schema = described["responses"][str(status)]["content"]["application/json"]["schema"]
        _hold(answer, schema, path)
        assert ("requestBody" in described) == (body is not None)
    for path, found in OPENAPI["paths"].items():
        if methods := methods_of(path.replace("{name}", "x").replace("{task}", "x").replace("{id}", "x")):
            described_methods = {name.upper() for name in found} | ({"HEAD"} if "get" in found else set())
            assert described_methods == set(methods) or path == "/api/v1/tasks/{id}", path


# --- who may change something -----------------------------------------------------------------------------------


class _Headers(dict[str, str]):
    def get_all(self, key: str) -> list[str]:
        return [self[key]] if key in self else []


class _Scope:
    """A request as the HTTP server hands it over."""

    proto, http_version, client, scheme, authority = "http", "1.1", "127.0.0.1:5", "http", None

    def __init__(self, method: str, path: str, headers: dict[str, str]) -> None:
        self.method, self.path, self.query_string = method, path, ""
        self.headers = _Headers({"host": "localhost:4000", **headers})


class _Protocol:
    def __init__(self, *chunks: bytes, stuck: bool = False) -> None:
        self._chunks = chunks
        self._stuck = stuck
        self.status = 0
        self.body = b""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._stuck:
            await asyncio.Event().wait()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert all("access-control" not in name for name, _ in headers)
        self.status, self.body = status, body


class _Console:
    """The site over a desk, and how often it said that something changed."""

    def __init__(self, desk: Desk, token: str | None = None) -> None:
        self.changes = 0
        self.error: Exception | None = None
        self._desk = desk

        async def no_ledger(question: Any) -> ApiAnswer:
            raise AssertionError("budgets do not ask the ledger")

        self.site = Site(
            ask=no_ledger,
            ask_desk=self._ask,
            cache=ResponseCache(lambda: 0),
            changed=self._changed,
            ready=lambda: None,
            metrics=lambda: b"",
            token=token,
        )

    async def _ask(self, question: Callable[[Any], ApiAnswer]) -> ApiAnswer:
        if self.error is not None:
            raise self.error
        return self._desk.ask(question)

    def _changed(self) -> None:
        self.changes += 1

    def send(
        self, method: str, headers: dict[str, str], *chunks: bytes, path: str = "budgets/b", stuck: bool = False
    ) -> int:
        protocol = _Protocol(*(chunks or (b'{"limit": 5}',)), stuck=stuck)
        asyncio.run(self.site(_Scope(method, f"/api/v1/{path}", headers), protocol))  # type: ignore[arg-type]
        return protocol.status


_JSON = {"content-type": "application/json"}
_OWN = {**_JSON, "origin": "http://localhost:4000", "sec-fetch-site": "same-origin"}


@pytest.fixture
def console(desk: Desk) -> _Console:
    return _Console(desk)


@pytest.mark.parametrize(
    "headers",
    [
        _JSON,
        {"content-type": "application/json; charset=utf-8"},
        _OWN,
        {**_JSON, "origin": "http://127.0.0.1:4000"},
        {**_JSON, "sec-fetch-site": "none"},
        {**_JSON, "host": "[::1]:4000", "origin": "http://[::1]:4000"},
        {**_JSON, "host": "LOCALHOST", "origin": "http://localhost"},
    ],
)
def test_the_own_page_and_programs_may_change(console: _Console, headers: dict[str, str]) -> None:
    """A change from the console's own page, or from no page at all, is made and told at once."""
    assert console.send("PUT", headers) == 201
    assert console.changes == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({**_JSON, "origin": "https://evil.example"}, 403),
        ({**_JSON, "origin": "null"}, 403),
        ({**_JSON, "origin": ""}, 403),
        ({**_JSON, "origin": "http://localhost:3000"}, 403),
        ({**_JSON, "origin": "http://localhost"}, 403),
        ({**_JSON, "origin": "http://localhost.evil.example:4000"}, 403),
        ({**_JSON, "origin": "http://evil.example@localhost:4000"}, 403),
        ({**_JSON, "origin": "file://localhost:4000"}, 403),
        ({**_JSON, "origin": "http://[::1"}, 403),
        ({**_JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**_JSON, "sec-fetch-site": "same-site"}, 403),
        ({**_OWN, "sec-fetch-site": "cross-site"}, 403),
        ({**_JSON, "host": "evil.example:4000", "origin": "http://evil.example:4000"}, 403),
        ({**_JSON, "host": "localhost.evil.example"}, 403),
        ({**_JSON, "host": ""}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 415),
        ({}, 415),
    ],
)
def test_other_sites_change_nothing(console: _Console, desk: Desk, headers: dict[str, str], status: int) -> None:
    """A page of another site, a DNS name of its own, a form: refused before the body is read, at every path."""
    desk.asked("a1")
    for method, path in (("PUT", "budgets/b"), ("POST", "approvals/a1"), ("PUT", "task-budgets/t")):
        assert console.send(method, headers, path=path) == status
    assert (console.changes, desk.ask(lambda d: d.budgets()), desk.ask(lambda d: d.tasks())) == (0, [], [])
    assert [one.state for one in desk.ask(lambda d: d.approvals(pending=True))] == ["pending"]


def test_a_removal_is_guarded_too(console: _Console) -> None:
    """DELETE has no body and needs no type, but the same origin; another site's preflight gets no yes."""
    assert console.send("PUT", _JSON) == 201
    assert console.send("DELETE", {"origin": "https://evil.example"}) == 403
    assert console.send("OPTIONS", {"origin": "https://evil.example", "access-control-request-method": "DELETE"}) == 405
    assert console.send("DELETE", {}) == 200
    assert console.changes == 2


def test_elsewhere_the_token_is_needed_and_not_enough_for_another_site(desk: Desk) -> None:
    """Without the token 401; with it, as a browser sends it by itself, a page of another site is still refused."""
    console = _Console(desk, token="s3cret")
    host = {"host": "bursar.example", **_JSON}
    assert console.send("PUT", host) == 401
    assert console.send("PUT", {**host, "authorization": "Bearer wrong"}) == 401
    basic = {"authorization": "Basic " + base64.b64encode(b"me:s3cret").decode()}
    assert console.send("PUT", {**host, **basic, "origin": "https://evil.example"}) == 403
    assert console.send("PUT", {**host, **basic, "origin": "http://localhost:4000"}) == 403
    assert console.changes == 0
    assert console.send("PUT", {**host, **basic, "origin": "https://bursar.example"}) == 201
    assert console.send("PUT", {**host, "authorization": "Bearer s3cret"}) == 200


def test_a_body_is_small_and_comes_soon(console: _Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 64,000 bytes is 413, stated or not; one that never ends is 408."""
    assert console.send("PUT", {**_JSON, "content-length": "64001"}) == 413
    assert console.send("PUT", {**_JSON, "content-length": "-1"}) == 413
    assert console.send("PUT", _JSON, b" " * 40_000, b" " * 40_000) == 413
    monkeypatch.setattr("bursar.console.site._BODY_WAIT_S", 0.01)
    assert console.send("PUT", _JSON, b"{", stuck=True) == 408
    assert console.changes == 0


def test_what_is_refused_or_only_asked_changes_nothing(console: _Console) -> None:
    """The server is told of changes alone; books that cannot answer are 503."""
    assert console.send("GET", {"origin": "https://evil.example"}, path="budgets") == 200
    assert console.send("PUT", _JSON, b"{}") == 400
    console.error = BooksBusyError("locked")
    assert console.send("PUT", _JSON) == 503
    assert console.changes == 0


@given(name=st.text(max_size=80), body=st.binary(max_size=60))
def test_whatever_is_sent_is_answered(tmp_path_factory: pytest.TempPathFactory, name: str, body: bytes) -> None:
    """Any name and any bytes: an answer in JSON below 500."""
    desk = Desk(tmp_path_factory.mktemp("any") / "books.sqlite")
    for method in ("GET", "PUT", "DELETE", "POST"):
        for collection in ("budgets", "task-budgets", "approvals"):
            if methods_of(f"/api/v1/{collection}/{name}"):
                answer = desk.request(method, f"/api/v1/{collection}/{name}", "", body)
                assert answer.status < 500
                json.loads(answer.body)
