"""Results of tools that are kept: when they are given again, to whom, and what that leaves in the books."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_room import Room, Script, answered, python

import bursar
from bursar.compose import make_rulebook
from bursar.config import Settings
from bursar.core.errors import CacheError
from bursar.doors.sdk.comparable import as_json, canonical, code_digest
from bursar.doors.sdk.session import required
from bursar.doors.sdk.tool_cache import ToolCache
from bursar.engine.asks import opening_of, settlement_of
from bursar.engine.messages import TOLD


class Counted:
    """Counts how often something ran."""

    def __init__(self) -> None:
        self.ran = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self.ran += 1
            return self.ran


RUNS = Counted()


@pytest.fixture(autouse=True)
def runs() -> Iterator[Counted]:
    RUNS.ran = 0
    return RUNS


# --- what a hit is ----------------------------------------------------------------------------------------------


def test_the_same_call_is_not_paid_again(room: Room) -> None:
    """The first is charged; the second costs nothing, says what it avoided, and why it is free."""

    @bursar.tool(price="0.005", cache="10m")
    def look(query: str, most: int = 3) -> dict[str, Any]:
        RUNS()
        return {"query": query, "found": [1, 2.5, None, True, "é"]}

    with bursar.task("t", user="u_1"):
        first = look("a")
        second = look(query="a", most=3)
    assert first == second
    assert RUNS.ran == 1
    miss, hit = room.rows()
    assert (miss.cost_nanousd, miss.avoided_nanousd, miss.cache, miss.rung) == (5_000_000, None, "miss", "")
    assert (hit.kind, hit.model_asked, hit.status, hit.task, hit.user) == ("tool", "look", "ok", miss.task, "u_1")
    assert (hit.cost_nanousd, hit.avoided_nanousd, hit.cache, hit.rung) == (0, 5_000_000, "tool", "cached")
    assert (hit.unpriced_reason, hit.notes, hit.lines, hit.units) == (None, ("cached",), (), {})
    assert json.loads(hit.decision) == {"rung": "cached", "cache": {"tier": "tool", "age_s": 0}}
    assert (hit.labels or {})["tool"] == "look"
    spans = room.spans(kind="tool")
    assert len(spans) == 2
    assert room.held() == 0


async def test_the_same_for_asynchronous_tools(room: Room) -> None:
    """Awaited as before."""

    @bursar.tool(price="0.005", cache="pure")
    async def look(query: str) -> list[str]:
        RUNS()
        await asyncio.sleep(0)
        return [query]

    assert [await look("a"), await look("a"), await look("b")] == [["a"], ["a"], ["b"]]
    assert RUNS.ran == 2
    assert [row.cache for row in room.rows()] == ["miss", "tool", "miss"]


def test_who_gets_a_result_may_change_it(room: Room) -> None:
    """Everybody gets one of their own."""

    @bursar.tool(cache="10m")
    def look() -> list[int]:
        return [RUNS()]

    for _ in range(3):
        found = look()
        assert found == [1]
        found.append(2)


def test_a_hit_needs_no_money(closed_room: Room) -> None:
    """A budget that has no more refuses what must be paid, and not what is kept."""
    closed_room.configure("budgets:\n  all: {limit: $0.01, per: lifetime}\n")
    closed_room.init()

    @bursar.tool(price="0.006", cache="10m")
    def look(query: str) -> str:
        return query

    look("a")
    with pytest.raises(bursar.BudgetExceeded):
        look("b")
    assert look("a") == "a"
    assert [row.cache for row in closed_room.rows()] == ["miss", "tool"]


def test_an_unknown_cost_is_no_known_saving(room: Room) -> None:
    """What could not be priced when it ran avoids nothing that anybody knows."""

    @bursar.tool(price=lambda result: result["cost"], cache="10m")
    def look() -> dict[str, int]:
        return {}

    look()
    look()
    miss, hit = room.rows()
    assert (miss.cost_nanousd, hit.cost_nanousd, hit.avoided_nanousd, hit.cache) == (None, 0, None, "tool")


def test_without_a_session_nothing_is_kept() -> None:
    """Before ``bursar.init()`` a tool is its function."""

    @bursar.tool(cache="10m")
    def look() -> int:
        return RUNS()

    assert [look(), look()] == [1, 2]


def test_observing_keeps_too(closed_room: Room) -> None:
    """The tool asks for it, whatever budgets do."""
    closed_room.init(mode="observe")

    @bursar.tool(price="0.001", cache="10m")
    def look() -> int:
        return RUNS()

    assert [look(), look()] == [1, 1]
    assert [row.cache for row in closed_room.rows()] == ["miss", "tool"]


# --- how long ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seconds"), [("30s", 30), ("10m", 600), ("1h", 3_600), ("2d", 172_800), ("pure", 10**10)]
)
def test_a_result_is_given_for_so_long(room: Room, said: str, seconds: int) -> None:
    """Counted from when the call began. ``age_s`` says how old it is."""
    session = required()
    clock = [session.now_us()]
    session.now_us = lambda: clock[0]

    @bursar.tool(cache=said, version="1")
    def look() -> int:
        clock[0] += 1_000_000  # it takes a second
        return RUNS()

    look()
    clock[0] += seconds * 1_000_000 - 1_000_001
    assert look() == 1
    clock[0] += 1
    assert look() == (1 if said == "pure" else 2)
    hit = room.rows(cache="tool")[0]
    assert json.loads(hit.decision)["cache"]["age_s"] == seconds - 1


@pytest.mark.parametrize("said", ["10", "m", "0s", "-1m", "10 m", "1w", "forever", 600, "1.5h", "9999999d"])
def test_a_duration_that_cannot_be_is_said_where_it_is_written(said: Any) -> None:
    """When the decorator runs, with the ways to write one."""

    def look() -> None: ...

    with pytest.raises(ValueError, match=r"cache: .*10m.*pure"):
        bursar.tool(look, cache=said)


# --- for whom ---------------------------------------------------------------------------------------------------


def asked(look: Callable[[], int], **columns: Any) -> int:
    labels = columns.pop("labels", None)
    with bursar.task("t", id=columns.pop("task", ""), labels=labels, **columns):
        return look()


def test_no_user_gets_anothers(room: Room) -> None:
    """Nor anybody of another org, team or project; agents, sessions and tasks of one user share."""

    @bursar.tool(cache="10m")
    def look() -> int:
        return RUNS()

    assert asked(look, user="a") == 1
    assert asked(look, user="a", agent="x", session="s", task="t2") == 1
    for number, other in enumerate(
        ({"user": "b"}, {}, {"user": "a", "team": "x"}, {"user": "a", "org": "x"}, {"user": "a", "project": "x"}), 2
    ):
        assert asked(look, **other) == number
    assert asked(look, org="a/b", user="c") != asked(look, org="a", team="b/", user="c")


def test_a_tool_may_share_its_results(room: Room) -> None:
    """Within a team, or an org; never beyond."""

    @bursar.tool(cache="10m", share="team")
    def of_team() -> int:
        return RUNS()

    @bursar.tool(cache="10m", share="org")
    def of_org() -> int:
        return RUNS()

    one = asked(of_team, org="o", team="x", user="a")
    assert asked(of_team, org="o", team="x", user="b", project="p") == one
    assert asked(of_team, org="o", team="y", user="a") != one
    assert asked(of_team, org="p", team="x", user="a") != one
    one = asked(of_org, org="o", team="x", user="a")
    assert asked(of_org, org="o", team="y", user="b") == one
    assert asked(of_org, org="p", team="x", user="a") != one


def test_vary_divides_further(room: Room) -> None:
    """By columns of the scope and by labels; never less than by user."""

    @bursar.tool(cache="10m", vary=["task", "label:tier"])
    def look() -> int:
        return RUNS()

    one = asked(look, task="t1", user="a", labels={"tier": "gold"})
    assert asked(look, task="t1", user="a", labels={"tier": "gold", "x": "y"}) == one
    assert asked(look, task="t2", user="a", labels={"tier": "gold"}) != one
    assert asked(look, task="t1", user="a", labels={"tier": "tin"}) != one
    assert asked(look, task="t1", user="b", labels={"tier": "gold"}) != one


def test_tools_do_not_meet(room: Room) -> None:
    """Another name, another version, another function, another closure: another result."""

    def made(version: str, name: str, captured: int) -> Callable[[], int]:
        @bursar.tool(name=name, cache="10m", version=version)
        def look() -> int:
            return captured + 0 * RUNS()

        return look

    def other() -> int:
        RUNS()
        return 7

    one = made("", "look", 1)
    assert one() == one() == made("", "look", 1)() == 1
    assert RUNS.ran == 1
    assert made("", "look", 2)() == 2
    assert made("2", "look", 1)() == 1
    assert made("", "seek", 1)() == 1
    assert RUNS.ran == 4
    assert bursar.tool(name="look", cache="10m")(other)() == 7
    assert bursar.tool(name="look", cache="10m")(functools.partial(added, 9))(4) == 13
    assert bursar.tool(name="look", cache="10m")(functools.partial(added, 3))(4) == 7
    with pytest.raises(ValueError, match="arguments"):
        bursar.tool(max, cache="10m")


def added(one: int, other: int) -> int:
    return one + other


def test_what_captures_something_needs_a_version(room: Room, caplog: Any) -> None:
    """What a closure holds may be anything. Who gives a version answers for it."""

    def made(captured: object, **more: str) -> Callable[[], int]:
        @bursar.tool(cache="10m", **more)
        def look() -> int:
            assert captured
            return RUNS()

        return look

    plain, versioned = made(object()), made(object(), version="1")
    with caplog.at_level(logging.ERROR):
        assert [plain(), plain(), plain()] == [1, 2, 3]
    assert len(caplog.records) == 1
    assert "version=" in caplog.text
    assert [versioned(), versioned()] == [4, 4]


# --- arguments --------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    "values",
    [
        [1, True, "1", 1.0, None, "None", b"1", Decimal(1), [1], (1,), {"1": 1}, {1}, frozenset({1})],
        [0.0, -0.0, 0, False, "", [], (), {}],
        [Colour.RED, 1, "RED", Point(1), Point(2), {"x": 1}],
        [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone.utc), "2026-01-01T00:00:00", UUID(int=1)],
        [["a", ["b"]], ["a", "b"], [["a"], "b"], "ab"],
        [["list", [1]], [1], ["dict", {}], {}],
    ],
)
def test_arguments_that_differ_are_not_the_same(room: Room, values: list[Any]) -> None:
    """Also where they are equal, or print alike. The same again is."""

    @bursar.tool(cache="10m")
    def look(value: Any) -> int:
        return RUNS()

    found = [look(value) for value in values]
    assert found == list(range(1, len(values) + 1))
    assert [look(value) for value in values] == found


def test_however_they_are_passed_they_are_the_same(room: Room) -> None:
    """By position, by name, by default; dicts and sets in any order."""

    @bursar.tool(cache="10m")
    def look(a: Any, /, b: int = 2, *rest: int, c: Any = None, **more: Any) -> int:
        return RUNS()

    assert look(1) == look(1, 2) == look(1, b=2) == look(1, 2, c=None) == 1
    assert look({"x": 1, "y": 2}, c={"p", "q"}) == look({"y": 2, "x": 1}, c={"q", "p"}) == 2
    assert look(1, 2, 3) == 3
    assert look(1, x=3) == look(1, 2, x=3) == 4


@pytest.mark.parametrize("value", [object(), float("nan"), math.inf, {1: 2}, lambda: RUNS, "\ud800", "x" * 1_000_001])
def test_what_cannot_be_compared_is_not_cached(room: Room, caplog: Any, value: Any) -> None:
    """The call goes on each time, and it is said once."""
    if callable(value):
        keep = [value]
        value = lambda: keep  # noqa: E731

    @bursar.tool(price="0.001", cache="10m")
    def look(value: Any) -> int:
        return RUNS()

    with caplog.at_level(logging.ERROR):
        assert [look(value), look(value)] == [1, 2]
    assert len(caplog.records) == 1
    assert "not cached" in caplog.text
    assert "Traceback" not in caplog.text  # it happens to many a tool: the reason is enough
    assert [(row.cache, row.cost_nanousd) for row in room.rows()] == [("", 1_000_000)] * 2


def test_arguments_may_be_left_out(room: Room) -> None:
    """``self``, a connection, an id of the request: what no result depends on."""

    class Desk:
        @bursar.tool(cache="10m", ignore=["self", "request"])
        def look(self, query: str, request: object = None) -> int:
            return RUNS()

    assert Desk().look("a") == Desk().look("a", object()) == 1
    assert Desk().look("b") == 2


def test_a_call_that_cannot_be_fails_as_it_did(room: Room) -> None:
    """A wrong argument is the function's own error."""

    @bursar.tool(cache="10m")
    def look(a: int) -> int:
        return a

    with pytest.raises(TypeError, match="unexpected keyword"):
        look(b=1)  # type: ignore[call-arg]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(one=VALUES, other=VALUES)
def test_values_are_equal_when_they_are_the_same(one: Any, other: Any) -> None:
    """Their canonical forms are equal exactly where they print alike, in whatever order a dict is."""

    def form(value: Any) -> str:
        return json.dumps(canonical(value, "x", ""), sort_keys=True)

    assert form(one) == form(json.loads(json.dumps(one)) if as_json(one) else one)
    assert (form(one) == form(other)) == (ordered(one) == ordered(other))


def ordered(value: Any) -> str:
    if isinstance(value, dict):
        return repr(sorted((key, ordered(each)) for key, each in value.items())) + "dict"
    if isinstance(value, list | tuple):
        return repr([ordered(each) for each in value]) + type(value).__name__
    return repr(value)


# --- results ----------------------------------------------------------------------------------------------------


@given(result=VALUES)
def test_what_is_kept_comes_back_the_same(result: Any) -> None:
    """In value and in type, and in the order of its keys; what would not is not kept."""
    data = as_json(result)
    if data is not None:
        assert repr(json.loads(data)) == repr(result)
    elif "(" not in repr(result):  # tuples alone, of these, come back as something else
        assert any(0xD800 <= ord(sign) < 0xE000 for sign in repr(result)) or "\\ud" in repr(result) or big(result)


def big(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(big, value.values()))
    if isinstance(value, list):
        return any(map(big, value))
    return isinstance(value, int) and not -(1 << 63) <= value < 1 << 64


@pytest.mark.parametrize(
    "result",
    [(1, 2), b"x", {1: 2}, {"a": (1,)}, Decimal(1), math.nan, object(), {1, 2}, "\ud800", Colour.RED, "x" * 4_000_001],
)
def test_a_result_that_would_change_is_not_kept(room: Room, caplog: Any, result: Any) -> None:
    """The caller gets it as it is, each time; it is said once."""

    @bursar.tool(cache="10m")
    def look() -> Any:
        RUNS()
        return result

    with caplog.at_level(logging.ERROR):
        assert look() is result
        assert look() is result
    assert RUNS.ran == 2
    assert len(caplog.records) == 1


def test_errors_are_not_kept(room: Room) -> None:
    """Each is its own; what comes after it is kept."""

    @bursar.tool(price="0.001", cache="10m")
    def look() -> int:
        if RUNS() < 3:
            raise RuntimeError("no")
        return RUNS.ran

    for _ in range(2):
        with pytest.raises(RuntimeError):
            look()
    assert [look(), look()] == [3, 3]
    assert [(row.status, row.cache) for row in room.rows()] == [
        ("error", "miss"),
        ("error", "miss"),
        ("ok", "miss"),
        ("ok", "tool"),
    ]


# --- what makes results void ------------------------------------------------------------------------------------


def test_a_tool_that_writes_makes_them_void(room: Room) -> None:
    """Those with its tags, for everybody, also where it failed."""

    @bursar.tool(cache="10m", tags=["orders", "customers"])
    def orders() -> int:
        return RUNS()

    @bursar.tool(cache="10m", tags=["stock"])
    def stock() -> int:
        return RUNS()

    @bursar.tool(price="0.001", writes=["orders"])
    def order(fail: bool = False) -> None:
        if fail:
            raise RuntimeError("no")

    assert [asked(orders, user="a"), asked(orders, user="b"), stock()] == [1, 2, 3]
    order()
    assert [asked(orders, user="a"), asked(orders, user="b"), stock()] == [4, 5, 3]
    with pytest.raises(RuntimeError):
        order(fail=True)
    assert asked(orders, user="a") == 6
    assert room.rows(model_asked="order")[0].cost_nanousd == 1_000_000


async def test_the_same_for_asynchronous_and_generator_tools(room: Room) -> None:
    """When they have ended."""

    @bursar.tool(cache="10m", tags=["x"])
    async def look() -> int:
        return RUNS()

    @bursar.tool(writes=["x"])
    async def write() -> None:
        await asyncio.sleep(0)

    @bursar.tool(writes=["x"])
    def writing() -> Iterator[int]:
        yield 1

    assert await look() == await look() == 1
    await write()
    assert await look() == await look() == 2
    assert list(writing()) == [1]
    assert await look() == 3


def test_what_was_asked_before_a_write_is_not_given_after_it(room: Room) -> None:
    """Its result may be from before: it goes to who asked for it then, and is not kept."""
    reading, written = threading.Event(), threading.Event()

    @bursar.tool(cache="10m", tags=["x"], version="1")
    def look() -> int:
        number = RUNS()
        if number == 1:
            reading.set()
            assert written.wait(10)
        return number

    @bursar.tool(writes=["x"])
    def write() -> None: ...

    with ThreadPoolExecutor() as pool:
        early = pool.submit(look)
        assert reading.wait(10)
        write()
        late = pool.submit(look).result(10)
        written.set()
        assert (early.result(10), late) == (1, 2)
    assert look() == 2


def test_forgetting_by_hand(room: Room) -> None:
    """A tag, a tool, or what has both; how many went is told."""

    @bursar.tool(cache="10m", tags=["x"])
    def one(query: str) -> int:
        return RUNS()

    @bursar.tool(cache="10m", tags=["x"])
    def two(query: str) -> int:
        return RUNS()

    one("a"), one("b"), two("a")
    assert bursar.forget(tag="y") == bursar.forget(tool="three") == 0
    assert bursar.forget(tag="x", tool="two") == 1
    assert bursar.forget(tool="one") == 2
    assert one("a") == 4
    assert bursar.forget(tag="x") == 1
    with pytest.raises(ValueError, match="tag"):
        bursar.forget()
    bursar.shutdown()
    with pytest.raises(bursar.NotInitialized):
        bursar.forget(tag="x")


# --- at once ----------------------------------------------------------------------------------------------------


def test_threads_that_ask_the_same_wait_for_one(room: Room) -> None:
    """It is paid once; the others say that they waited."""
    inside = threading.Event()

    @bursar.tool(price="0.005", cache="10m", version="1")
    def look() -> list[int]:
        assert inside.wait(10)
        time.sleep(0.05)
        return [RUNS()]

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(look) for _ in range(8)]
        time.sleep(0.05)
        inside.set()
        found = [each.result(10) for each in asking]
    assert found == [[1]] * 8
    assert len({id(each) for each in found}) == 8
    rows = room.rows()
    assert sorted(row.cache for row in rows) == ["coalesced"] * 7 + ["miss"]
    assert sum(row.cost_nanousd or 0 for row in rows) == 5_000_000
    assert sum(row.avoided_nanousd or 0 for row in rows) == 35_000_000


def test_who_waits_for_a_call_that_finds_a_kept_result_is_given_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call lands between another one's two looks into the store; a third, which joined that one, does not pay again."""
    looked = {name: threading.Event() for name in ("second", "third")}
    landed, looks_again, joined = threading.Event(), threading.Event(), threading.Event()

    @bursar.tool(price="0.005", cache="10m", version="1")
    def look() -> int:
        assert all(each.wait(10) for each in looked.values())
        return RUNS()

    class Gated:
        """The store, with what happens between the looks."""

        def __init__(self, store: Any) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def get(self, key: str, now_us: int) -> Any:
            name = threading.current_thread().name
            if name not in looked:
                return self._store.get(key, now_us)
            if looked[name].is_set():  # the second one's second look
                looks_again.set()
                assert joined.wait(10)
                return self._store.get(key, now_us)
            found = self._store.get(key, now_us)
            looked[name].set()
            assert (landed if name == "second" else looks_again).wait(10)
            return found

    def join(cache: ToolCache, flight: Any) -> Any:
        found = real_join(cache, flight)
        if threading.current_thread().name == "third":
            joined.set()
        return found

    real_join, cache = ToolCache.join, required().cache
    assert cache is not None
    gated = Gated(cache.store())
    monkeypatch.setattr(ToolCache, "store", lambda _cache: gated)
    monkeypatch.setattr(ToolCache, "join", join)
    found: dict[str, int] = {}
    threads = {
        name: threading.Thread(target=lambda name=name: found.update({name: look()}), name=name)
        for name in ("first", "second", "third")
    }
    threads["first"].start()
    while not cache._flights:
        time.sleep(0.001)
    threads["second"].start(), threads["third"].start()
    threads["first"].join(10)
    landed.set()
    for each in threads.values():
        each.join(10)
    assert found == {"first": 1, "second": 1, "third": 1}
    assert sorted(row.cache for row in room.rows()) == ["coalesced", "miss", "tool"]


async def test_tasks_that_ask_the_same_wait_for_one(room: Room) -> None:
    """The loop goes on meanwhile; who is cancelled does not take it from the others."""

    @bursar.tool(price="0.005", cache="10m")
    async def look() -> int:
        await asyncio.sleep(0.1)
        return RUNS()

    asking = [asyncio.create_task(look()) for _ in range(6)]
    await asyncio.sleep(0.02)
    asking[3].cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found.pop(3), asyncio.CancelledError)
    assert found == [1] * 5
    assert sorted(row.cache for row in room.rows()) == ["coalesced"] * 4 + ["miss"]


async def test_when_the_one_that_runs_is_cancelled_another_runs(room: Room) -> None:
    """Nobody waits for what will not come."""

    @bursar.tool(cache="10m")
    async def look() -> int:
        RUNS()
        await asyncio.sleep(0.1)
        return RUNS.ran

    first = asyncio.create_task(look())
    await asyncio.sleep(0.02)
    second = asyncio.create_task(look())
    await asyncio.sleep(0.02)
    first.cancel()
    assert await asyncio.wait_for(second, 5) == 2
    assert await look() == 2


def test_when_the_one_that_runs_fails_the_others_run(room: Room) -> None:
    """An error is its own; so is a result that cannot be kept."""
    gate = threading.Barrier(3, timeout=10)  # the first is inside, and the others are about to ask

    @bursar.tool(cache="10m", version="1")
    def look(fails: bool) -> Any:
        number = RUNS()
        if number == 1:
            gate.wait()
            time.sleep(0.05)
            if fails:
                raise RuntimeError("no")
            return (number,)
        return number

    for fails in (True, False):
        RUNS.ran = 0
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(look, fails)
            while not RUNS.ran:
                time.sleep(0.001)
            others = [pool.submit(lambda fails=fails: (gate.wait(), look(fails))[1]) for _ in range(2)]
            if fails:
                with pytest.raises(RuntimeError):
                    first.result(10)
            else:
                assert first.result(10) == (1,)
            assert {each.result(10) for each in others} <= {2, 3}


def test_a_tool_inside_of_itself_does_not_wait_for_itself(room: Room) -> None:
    """Nor in a thread that it started."""
    deep = [0]

    @bursar.tool(cache="10m", version="1")
    def look(query: str) -> int:
        deep[0] += 1
        if deep[0] < 3:
            with ThreadPoolExecutor(1) as pool:
                return look(query) if deep[0] == 1 else pool.submit(look, query).result(10)
        return deep[0]

    assert look("a") == 3


def opened(room: Room) -> str:
    """The first lines of a process that shares this room, and loads no client."""
    return f"import json, bursar\nbursar.init(data={str(room.path)!r}, config={str(room.config)!r})\n"


def test_processes_share_what_is_kept(room: Room) -> None:
    """Those of one data directory; a function that was changed is another one."""

    def code(more: str) -> str:
        return (
            opened(room)
            + f"@bursar.tool(cache='10m')\ndef look(query, seen={{'b', 'a'}}):\n    return query + {more!r}\n"
            + "print(json.dumps([look('a'), look('b')]))\nassert bursar.flush()\n"
        )

    assert answered(python(code("!"))) == ["a!", "b!"]
    assert answered(python(code("!"), env={"PYTHONHASHSEED": "7"})) == ["a!", "b!"]
    assert [row.cache for row in room.rows()] == ["miss", "miss", "tool", "tool"]
    assert answered(python(code("?"))) == ["a?", "b?"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_something_is_under_way(room: Room) -> None:
    """The child runs it itself: its parent's threads are not there."""
    code = (
        opened(room)
        + """
import os, threading
inside, go = threading.Event(), threading.Event()
@bursar.tool(cache="10m", version="1")
def look():
    if os.getpid() == parent:
        inside.set(); go.wait(20)
    return os.getpid() == parent
parent = os.getpid()
thread = threading.Thread(target=look); thread.start(); inside.wait(20)
child = os.fork()
if not child:
    ok = look() is False
    bursar.flush()
    os._exit(0 if ok else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go.set(); thread.join()
print(json.dumps(code)); bursar.shutdown()
"""
    )
    assert answered(python(code, env={"PYTHONWARNINGS": "ignore"})) == 0


# --- what goes wrong --------------------------------------------------------------------------------------------


def test_a_store_that_fails_is_a_miss(room: Room, caplog: Any) -> None:
    """Calls go on and are paid for; it is said once for each way it fails."""
    room.data.cache.mkdir()

    @bursar.tool(price="0.001", cache="10m")
    def look() -> int:
        return RUNS()

    with caplog.at_level(logging.ERROR):
        assert [look(), look(), look()] == [1, 2, 3]
    assert 1 <= len(caplog.records) <= 2
    assert "cache" in caplog.text
    assert [row.cost_nanousd for row in room.rows()] == [1_000_000] * 3
    with pytest.raises(CacheError):
        bursar.forget(tag="x")


def test_a_damaged_file_is_a_miss_once(room: Room) -> None:
    """Then there is a new one."""
    room.data.cache.write_bytes(b"no database" * 1_000)

    @bursar.tool(cache="10m")
    def look() -> int:
        return RUNS()

    found = [look() for _ in range(4)]
    assert found[-1] == found[-2]


def test_what_is_kept_may_be_encrypted(closed_room: Room, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """With the key that bursar.yaml names; without it nothing is kept, and that is said."""
    monkeypatch.setenv("CACHE_KEY", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=")
    closed_room.configure("cache: {encryption_env: CACHE_KEY}\n")
    closed_room.init()

    @bursar.tool(cache="10m")
    def look() -> str:
        return f"a secret {RUNS()}"

    assert look() == look() == "a secret 1"
    bursar.shutdown()
    assert b"a secret" not in closed_room.data.cache.read_bytes()
    monkeypatch.delenv("CACHE_KEY")
    closed_room.init()
    with caplog.at_level(logging.ERROR):
        assert [look(), look()] == ["a secret 2", "a secret 3"]
    assert "CACHE_KEY" in caplog.text


@pytest.mark.parametrize(
    "said",
    [
        {"cache": "10m", "writes": ["x"]},
        {"vary": ["task"]},
        {"tags": ["x"]},
        {"version": "1"},
        {"ignore": ["a"]},
        {"share": "org"},
        {"cache": "10m", "vary": ["a"]},
        {"cache": "10m", "vary": ["label:"]},
        {"cache": "10m", "ignore": ["b"]},
        {"cache": "10m", "share": "everybody"},
        {"cache": "10m", "tags": "orders"},
        {"cache": "10m", "tags": [""]},
        {"writes": "orders"},
        {"writes": [f"{number}" for number in range(40)]},
    ],
)
def test_what_cannot_be_is_said_where_it_is_written(said: dict[str, Any]) -> None:
    """When the decorator runs."""

    def look(a: int) -> None: ...

    with pytest.raises(ValueError, match=r"cache|vary|ignore|share|tags|writes"):
        bursar.tool(look, **said)


def test_generators_cannot_be_cached() -> None:
    """Their steps are not a result."""

    def steps() -> Iterator[int]:
        yield 1

    async def steps_async() -> Any:
        yield 1

    for function in (steps, steps_async):
        with pytest.raises(ValueError, match="generator"):
            bursar.tool(function, cache="10m")


def test_nothing_is_loaded_before_it_is_needed(room: Room) -> None:
    """Decorating loads no database, and opening the door no file."""
    code = (
        "import sys, json, bursar\n"
        "@bursar.tool(cache='10m')\n"
        "def look(): return 1\n"
        "before = 'sqlite3' in sys.modules\n"
        f"bursar.init(data={str(room.path)!r}, server='http://127.0.0.1:9', mode='observe')\n"
        "found = [look(), look()]\n"
        "bursar.shutdown(0)\n"
        "print(json.dumps([before, found, 'cryptography' in sys.modules, 'redis' in sys.modules]))"
    )
    assert not room.data.cache.exists()
    assert answered(python(code)) == [False, [1, 1], False, False]
    assert room.data.cache.exists()


def test_code_is_known_by_what_it_does() -> None:
    """The same text is the same in every process; another constant, name or inner function is another."""

    def compiled(text: str) -> str:
        space: dict[str, Any] = {}
        exec(text, space)
        return code_digest(space["f"].__code__)

    texts = [
        "def f(a): return a in {'x', 'y'}",
        "def f(a): return a in {'x', 'z'}",
        "def f(a): return a + 1",
        "def f(a): return a + 2",
        "def f(a): return len(a)",
        "def f(a): return max(a)",
        "def f(a): return (lambda b: b + 1)(a)",
        "def f(a): return (lambda b: b + 2)(a)",
    ]
    assert len({compiled(text) for text in texts}) == len(texts)
    assert compiled(texts[0]) == compiled("\n\n" + texts[0])


def test_a_hit_is_told_to_a_server_too(closed_room: Room, script: Script) -> None:
    """With what it avoided."""
    closed_room.init(server=script.url, mode="observe")

    @bursar.tool(price="0.005", cache="10m")
    def look() -> int:
        return RUNS()

    assert look() == look() == 1
    bursar.flush(5)
    told = [TOLD.decode(seen.body) for seen in script.seen if seen.path.endswith("told")]
    endings = [ended for each in told for ended in each.endings]
    rulebook = make_rulebook(closed_room.data, Settings())
    attempts = [
        settlement_of(rulebook, replace(ended, opening=opening_of(rulebook, ended.ask)), None).attempt
        for ended in endings
    ]
    assert [
        (each.opening.cache, each.opening.rung, each.charge.amount, each.avoided)
        for each in attempts
        if each is not None
    ] == [("miss", "", 5_000_000, None), ("tool", "cached", 0, 5_000_000)]
