"""The console's API: answers, errors that name the field, limits, and a description that is true."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from bursar.console.answers import ApiAnswer
from bursar.console.api import handle
from route_stories import CALL, fallback, hit
from seeding import NOW, MemoryLedger


def _get(ledger: Any, path: str, query: str = "") -> tuple[ApiAnswer, Any]:
    answer = handle("GET", path, query, ledger, now=NOW)
    assert answer.headers["content-type"].startswith("application/json")
    return answer, json.loads(answer.body)


@pytest.fixture
def filled(ledger: MemoryLedger) -> MemoryLedger:
    ledger.attempt(task="top", agent="boss", team="a b", model="large", cost_nanousd=3_000_000_000)
    ledger.attempt(task="part", parent_task="top", team="x=y", model="small", cost_nanousd=7, tools=["search"])
    ledger.attempt(task="part", parent_task="top", model="new", cost_nanousd=None, estimated=True)
    return ledger


def test_spend(filled: MemoryLedger) -> None:
    """Rows and a total, as the command line prints them, and how many rows were left out."""
    _, body = _get(filled, "/api/v1/spend", "by=model&limit=2")
    assert [(row["model"], row["cost_usd"]) for row in body["rows"]] == [("large", "3"), ("small", "0.000000007")]
    assert (body["total"]["cost_usd"], body["total"]["unpriced_calls"], body["more_rows"]) == ("3.000000007", 1, 1)


def test_where_may_be_repeated_and_hold_any_character(filled: MemoryLedger) -> None:
    """Spaces, '=' and ',' in a value are part of the value."""
    for value in ("a b", "x=y"):
        _, body = _get(filled, "/api/v1/spend", f"by=team&where={quote('team=' + value)}&where=kind%3Dmodel")
        assert [row["team"] for row in body["rows"]] == [value]


def test_tasks_and_a_task_tree(filled: MemoryLedger) -> None:
    """The list has own and whole cost, the tree nests; a part of an id will do when it is the only one."""
    _, body = _get(filled, "/api/v1/tasks")
    assert {row["task"]: row["all_cost_usd"] for row in body["rows"]} == {"top": "3.000000007", "part": "0.000000007"}
    _, tree = _get(filled, "/api/v1/tasks/to")
    assert (tree["task"], tree["children"][0]["task"], len(tree["children"][0]["steps"])) == ("top", "part", 2)
    answer, body = _get(filled, "/api/v1/tasks/nothing")
    assert (answer.status, body["error"]["field"]) == (404, "id")
    filled.attempt(task="topper")
    answer, body = _get(filled, "/api/v1/tasks/topp")
    assert answer.status == 200
    answer, body = _get(filled, "/api/v1/tasks/t")
    assert (answer.status, "topper" in body["error"]["message"]) == (409, True)


def test_a_task_id_may_hold_any_character(ledger: MemoryLedger) -> None:
    """Slashes, percent signs and markup are only text; the server has decoded the path, once."""
    name = "a/b%2F<img src=x>?ü"
    ledger.attempt(task=name)
    assert _get(ledger, f"/api/v1/tasks/{name}")[1]["task"] == name


def test_a_call(ledger: MemoryLedger) -> None:
    """By its id, its beginning, an attempt's id or as the last one; several are a conflict."""
    fallback(ledger)
    for name in (CALL, CALL[:9], f"{CALL}.1", "last"):
        _, body = _get(ledger, f"/api/v1/calls/{name}")
        assert (body["call_id"], body["answered_by"], body["cost_usd"]) == (CALL, f"{CALL}.2", "0.00123")
    answer, body = _get(ledger, "/api/v1/calls/nothing")
    assert (answer.status, body["error"]["field"]) == (404, "id")
    fallback(ledger, CALL[:9] + "f")
    answer, body = _get(ledger, f"/api/v1/calls/{CALL[:9]}")
    assert (answer.status, CALL in body["error"]["message"]) == (409, True)


def test_routes(ledger: MemoryLedger) -> None:
    """Where calls ended; one route when it is named."""
    fallback(ledger)
    hit(ledger, "h")
    _, body = _get(ledger, "/api/v1/routes", "route=fast&limit=2")
    (route,) = body["routes"]
    assert [(rung["rung"], rung["calls"]) for rung in route["rungs"]] == [("cached", 1), ("fallback", 1)]
    assert (route["calls"], route["causes"], body["more_rungs"]) == (2, {"overload": 1}, 1)
    assert _get(ledger, "/api/v1/routes", "route=other")[1] == {
        "routes": [], "more_rungs": 0, "rolled_up_attempts": 0,
    }  # fmt: skip


def test_the_description_of_calls_and_routes_is_true(ledger: MemoryLedger) -> None:
    """At every level; with and without what a call may lack."""
    schemas = _get(ledger, "/api/v1/openapi.json")[1]["components"]["schemas"]
    fallback(ledger)
    budget = {"name": "b", "subject": "", "window": "day", "unit": "usd", "share": 5, "left": 7, "changed": ["effort"]}
    note = {"marks": ["system"], "ttl": "5m", "expected_nanousd": 5, "chance_permille": 600, "read_tokens": 0}
    stored = {"budget": budget, "prompt_cache": note}
    ledger.attempt(call_id="other", cost_nanousd=None, decision=json.dumps(stored))
    for name in (CALL, "other"):
        _, call = _get(ledger, f"/api/v1/calls/{name}")
        _check(call, schemas["Call"], schemas, name)
        assert set(call) == _named(schemas["Call"], schemas)
        assert set(call["attempts"][0]) == _named(schemas["CallAttempt"], schemas)
    assert set(call["budget"]) == _named(schemas["CallBudget"], schemas)
    assert set(call["prompt_cache"]) == _named(schemas["CallPromptCache"], schemas)
    _, call = _get(ledger, f"/api/v1/calls/{CALL}")
    assert set(call["candidates"][0]) == _named(schemas["Candidate"], schemas)
    assert set(call["cache"]) == set(schemas["Call"]["properties"]["cache"]["properties"])
    _, body = _get(ledger, "/api/v1/routes")
    _check(body, schemas["Routes"], schemas, "routes")
    assert set(body) == _named(schemas["Routes"], schemas)
    assert set(body["routes"][0]) == _named(schemas["Route"], schemas)
    assert set(body["routes"][0]["rungs"][0]) == _named(schemas["RouteRung"], schemas)


def test_feed(filled: MemoryLedger) -> None:
    """Newest first, and only what is past the given sequence."""
    _, body = _get(filled, "/api/v1/feed", "after=1&limit=1")
    assert ([row["model"] for row in body["rows"]], body["last_sequence"]) == (["new"], 3)
    assert _get(filled, "/api/v1/feed", "after=3")[1] == {"rows": [], "last_sequence": 3}


def test_attempts_say_what_a_route_or_a_cache_made_of_them(ledger: MemoryLedger) -> None:
    """In the feed and in a task alike; what was avoided is beside the cost, and in no sum."""
    fallback(ledger, task="t-1")
    hit(ledger, "kept", task="t-1")
    ledger.attempt(task="t-1", cost_nanousd=1)
    told = [
        ("", "", "", None, "0.000000001"),
        ("cached", "exact", "", "0.0042", "0"),
        ("fallback", "miss", "overload", None, "0.00123"),
        ("primary", "miss", "", None, "0"),
    ]
    names = ("rung", "cache", "cause", "avoided_usd", "cost_usd")
    _, body = _get(ledger, "/api/v1/feed")
    assert [tuple(row[name] for name in names) for row in body["rows"]] == told
    _, tree = _get(ledger, "/api/v1/tasks/t-1")
    assert {tuple(step[name] for name in names) for step in tree["steps"]} == set(told)
    assert tree["total"]["cost_usd"] == "0.001230001"
    assert tree["kept"] == {"answers": 1, "avoided_usd": "0.0042", "unknown_cost": 0}


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("spend", "by=colour", "by"),
        ("spend", "by=", "by"),
        ("spend", "since=soon", "since"),
        ("spend", "until=2026-01-01&since=2026-02-01", "until"),
        ("spend", "where=team", "where"),
        ("spend", "where=colour=red", "where"),
        ("spend", "tz=Mars", "tz"),
        ("spend", "limit=0", "limit"),
        ("spend", "limit=10001", "limit"),
        ("spend", "limit=%C2%B2", "limit"),
        ("spend", "colour=red", "colour"),
        ("spend", "by=model&by=team", "by"),
        ("spend", "where=team%3D%00", "where"),
        ("spend", "by=%FF", "query"),
        ("feed", "after=-5", "after"),
        ("feed", "limit=501", "limit"),
        ("overview", "period=week", "period"),
        ("tasks", "by=model", "by"),
        ("tasks/top", "limit=3", "limit"),
        ("calls/last", "limit=3", "limit"),
        ("routes", "where=model%3Dx", "where"),
        ("routes", "limit=10001", "limit"),
        ("openapi.json", "x=1", "x"),
    ],
)
def test_a_bad_question_names_its_field(ledger: MemoryLedger, path: str, query: str, field: str) -> None:
    """400, the field, and words that say what would do."""
    answer, body = _get(ledger, f"/api/v1/{path}", query)
    assert (answer.status, body["error"]["field"]) == (400, field)
    assert len(body["error"]["message"]) > 15


def test_other_paths_and_methods(ledger: MemoryLedger) -> None:
    """404 lists what there is, 405 says which method will do, HEAD has no body."""
    assert _get(ledger, "/api/v1/nothing")[0].status == 404
    assert _get(ledger, "/api/v2/spend")[0].status == 404
    refused = handle("POST", "/api/v1/spend", "", ledger)
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert handle("HEAD", "/api/v1/spend", "", ledger).body == b""


def _check(value: Any, schema: dict[str, Any], schemas: dict[str, Any], at: str) -> None:
    """Hold a value against the part of JSON Schema that the description uses."""
    if "$ref" in schema:
        return _check(value, schemas[schema["$ref"].rpartition("/")[2]], schemas, at)
    for part in schema.get("allOf", ()):
        _check(value, part, schemas, at)
    if "enum" in schema:
        assert value in schema["enum"], at
    kinds = schema.get("type")
    if kinds is not None:
        names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
        allowed = [kinds] if isinstance(kinds, str) else kinds
        kind = "null" if value is None else names[type(value)]
        assert kind in allowed or (kind == "integer" and "number" in allowed), f"{at}: {value!r} is not {allowed}"
    if isinstance(value, dict):
        for name in schema.get("required", ()):
            assert name in value, f"{at}.{name} is missing"
        for name, part in schema.get("properties", {}).items():
            _check(value[name], part, schemas, f"{at}.{name}")
    if isinstance(value, list):
        for item in value:
            _check(item, schema["items"], schemas, f"{at}[]")
    return None


def test_the_description_of_a_traced_task_is_true(ledger: MemoryLedger) -> None:
    """Spans, their attempts, the critical path, findings and the outcome are as described, at every level."""
    ledger.span("ticket", span_id="root", kind="task", task="t-1", ms=9000)
    ledger.span("search", span_id="s", parent_id="root", kind="tool", task="t-1", size_bytes=7)
    for _ in range(2):
        tool = {"kind": "tool", "model": "search", "labels": {"args": "d"}}
        ledger.attempt(task="t-1", trace_id="t", span_id="s", cost_nanousd=5, **tool)
    ledger.outcome("t-1", "resolved", 3_200_000_000)
    schemas = _get(ledger, "/api/v1/openapi.json")[1]["components"]["schemas"]
    _, tree = _get(ledger, "/api/v1/tasks/t-1")
    _check(tree, schemas["TaskTree"], schemas, "task")
    assert set(tree["children"][0]) == _named(schemas["Node"], schemas)
    assert set(tree["children"][0]["steps"][0]) == _named(schemas["Step"], schemas)
    assert set(tree["critical_path"]) == _named(schemas["CriticalPath"], schemas)
    assert set(tree["findings"][0]) == _named(schemas["Finding"], schemas)
    assert set(tree["outcome"]) == _named(schemas["Outcome"], schemas)
    assert (tree["outcome"]["value_usd"], tree["findings"][0]["amount_usd"]) == ("3.2", "0.000000005")
    assert (tree["children"][0]["name"], tree["children"][0]["own"]["cost_usd"]) == ("search", "0.00000001")


def _named(schema: dict[str, Any], schemas: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        return _named(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    names = set(schema.get("properties", {}))
    return names.union(*(_named(part, schemas) for part in schema.get("allOf", ())))


@pytest.mark.parametrize("path", ["spend", "tasks", "tasks/top", "feed", "overview"])
def test_the_description_is_true(filled: MemoryLedger, path: str) -> None:
    """Every answer has what the OpenAPI document says, in the types it says, and no field it does not."""
    document = _get(filled, "/api/v1/openapi.json")[1]
    schemas = document["components"]["schemas"]
    described = document["paths"]["/api/v1/" + path.replace("/top", "/{id}")]["get"]
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    _, body = _get(filled, f"/api/v1/{path}")
    _check(body, schema, schemas, path)
    assert set(body) == _named(schema, schemas)
    if "rows" in body and path != "spend":
        name = {"tasks": "TaskRow", "feed": "Attempt"}[path]
        assert set(body["rows"][0]) == _named(schemas[name], schemas)
    failed = handle("GET", f"/api/v1/{path}", "nonsense=1", filled)
    _check(json.loads(failed.body), schemas["Error"], schemas, path)
