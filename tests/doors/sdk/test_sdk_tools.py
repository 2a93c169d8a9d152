"""Tools as ledger rows: their price, their time, their size, and their place."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from sdk_room import CHAT, Room

import bursar
from bursar.doors.sdk.tools import ARGUMENTS_LABEL

BOOK = """tools:
  search: {per_call: 0.005}
  pages: {per_unit: 0.002}
  files: {per_mb: 0.10}
  machine: {per_second: 0.36}
  priced: {cost: cost.usd}
"""


@pytest.fixture
def shop(closed_room: Room) -> Room:
    """A room with a tool price book."""
    closed_room.configure(BOOK)
    closed_room.init()
    return closed_room


# --- prices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("price", ["0.005", "$0.005", Decimal("0.005")])
def test_a_price_per_call(room: Room, price: Any) -> None:
    """As text or Decimal: exactly that."""

    @bursar.tool(price=price)
    def look() -> str:
        return "found"

    assert look() == "found"
    row = room.row()
    assert (row.kind, row.model_asked, row.cost_nanousd, row.status) == ("tool", "look", 5_000_000, "ok")


def test_a_price_worked_out_from_the_result(room: Room) -> None:
    """A function of the result; JSON's floats count as they are written."""

    @bursar.tool(price=lambda result: result["cost"])
    def buy(cost: Any) -> dict[str, Any]:
        return {"cost": cost}

    for cost in ("0.0042", Decimal("0.1"), 0.1, 2):
        buy(cost)
    assert [row.cost_nanousd for row in room.rows()] == [4_200_000, 100_000_000, 100_000_000, 2_000_000_000]


@pytest.mark.parametrize("result", [{}, {"cost": "much"}, {"cost": None}, {"cost": "-1"}, {"cost": float("nan")}])
def test_a_price_that_cannot_be_worked_out_is_unknown(room: Room, result: Any) -> None:
    """The caller gets the result; the charge is NULL with a reason, never zero."""

    @bursar.tool(price=lambda answer: answer["cost"])
    def buy() -> Any:
        return result

    assert buy() is result
    row = room.row()
    assert row.cost_nanousd is None
    assert row.unpriced_reason is not None
    assert "buy" in row.unpriced_reason


def test_the_price_book_knows_tools_by_name(shop: Room) -> None:
    """Per call, unit, megabyte and second, and from a field of the result; a tool that nobody prices is free."""

    @bursar.tool
    def search(query: str) -> list[str]:
        return [query]

    @bursar.tool(name="files")
    def read() -> bytes:
        return b"x" * 2_500_000

    @bursar.tool(name="machine")
    def run() -> None:
        time.sleep(0.05)

    @bursar.tool(name="priced")
    def ask() -> dict[str, Any]:
        return {"cost": {"usd": 0.0031}}

    @bursar.tool
    def free() -> None:
        pass

    search("a")
    read()
    run()
    ask()
    free()
    bursar.charge("pages", units=3)
    rows = {row.model_asked: row for row in shop.rows()}
    assert rows["search"].cost_nanousd == 5_000_000
    assert rows["files"].cost_nanousd == 250_000_000
    latency_ms, machine = rows["machine"].latency_ms, rows["machine"].cost_nanousd
    assert latency_ms is not None
    assert machine is not None
    assert 0.05 * 0.36 * 1e9 <= machine <= (latency_ms + 1) / 1000 * 0.36 * 1e9
    assert rows["priced"].cost_nanousd == 3_100_000
    assert rows["free"].cost_nanousd == 0
    assert rows["pages"].cost_nanousd == 6_000_000


def test_charge_says_what_it_cost(shop: Room) -> None:
    """By the price book or by a price of its own, in units or calls; unknown is None."""
    assert bursar.charge("pages", units=2) == Decimal("0.004")
    assert bursar.charge("search", units=3) == Decimal("0.015")
    assert bursar.charge("own", units=Decimal("1.5"), price="0.01") == Decimal("0.015")
    assert bursar.charge("files", size_bytes=1_000_000) == Decimal("0.10")
    assert bursar.charge("priced") is None
    rows = shop.rows()
    assert [row.cost_nanousd for row in rows[:4]] == [4_000_000, 15_000_000, 15_000_000, 100_000_000]
    assert rows[4].cost_nanousd is None
    assert rows[4].unpriced_reason


@pytest.mark.parametrize("price", [0.005, "five", "-1", "", float("inf")])
def test_a_price_that_cannot_be_is_said_where_it_is_written(price: Any) -> None:
    """When the decorator runs, with the value in the words."""
    with pytest.raises(ValueError, match="price"):
        bursar.tool(price=price)
    with pytest.raises(ValueError, match="budget"):
        bursar.task("x", budget=price)


# --- what is kept -----------------------------------------------------------------------------------------------


def test_counts_that_cannot_be_hold_nothing(room: Room) -> None:
    """They are refused before anything is entered, also for a tool without a price."""
    for units in (-1, float("nan")):
        with pytest.raises(ValueError, match="units"):
            bursar.charge("unpriced", units)  # type: ignore[arg-type]  # the wrong type is what is tried
    assert room.rows() == []


def test_arguments_are_a_digest_and_results_a_size(room: Room) -> None:
    """Equal arguments have equal digests, in any order of keywords; what cannot be compared has none; no content is kept."""

    @bursar.tool
    def look(*args: Any, **kwargs: Any) -> str:
        return "é" * 10

    look("secret-question", page=1, size=2)
    look("secret-question", size=2, page=1)
    look("another")
    look(object())
    rows = room.rows()
    digests = [(row.labels or {}).get(ARGUMENTS_LABEL, "") for row in rows]
    assert digests[0] == digests[1] != ""
    assert len(set(digests)) == 3
    assert digests[3] == ""
    assert [span["size_bytes"] for span in room.spans(kind="tool")] == [20] * 4
    assert b"secret-question" not in room.data.books.read_bytes()
    assert b"secret-question" not in room.data.traces.read_bytes()


@pytest.mark.parametrize(
    ("result", "size"),
    [(b"abc", 3), ("abc", 3), ({"a": 1}, 7), ([1, 2], 5), (None, None), (object(), None), (7, 1)],
)
def test_sizes_of_results(room: Room, result: Any, size: int | None) -> None:
    """Bytes, text and JSON-like data have one; anything else has none, and is returned as it is."""

    @bursar.tool
    def give() -> Any:
        return result

    assert give() is result
    (span,) = room.spans(kind="tool")
    assert span["size_bytes"] == size


def test_time_is_that_of_the_function(room: Room) -> None:
    """Latency is measured around it."""

    @bursar.tool
    def slow() -> None:
        time.sleep(0.03)

    slow()
    latency_ms = room.row().latency_ms
    assert latency_ms is not None
    assert latency_ms >= 30


# --- ways to write one ------------------------------------------------------------------------------------------


async def test_functions_of_every_kind(room: Room) -> None:
    """Sync, async, methods, static and class methods, with and without brackets; names and docstrings stay."""

    class Kit:
        @bursar.tool(price="0.001")
        def method(self, value: int) -> int:
            """Doubles."""
            return value * 2

        @staticmethod
        @bursar.tool(price="0.001")
        def static(value: int) -> int:
            return value * 2

        @classmethod
        @bursar.tool(price="0.001")
        def classy(cls, value: int) -> int:
            return value * 2

        @bursar.tool(price="0.001")
        async def coroutine(self, value: int) -> int:
            await asyncio.sleep(0)
            return value * 2

    kit = Kit()
    assert (kit.method(1), kit.static(2), kit.classy(3), await kit.coroutine(4)) == (2, 4, 6, 8)
    assert Kit.method.__doc__ == "Doubles."
    assert [row.model_asked for row in room.rows()] == ["method", "static", "classy", "coroutine"]


async def test_decorators_in_either_order(room: Room) -> None:
    """A tool that is a task, and a task that is a tool: charged once, in a task of its own."""

    @bursar.task("job", budget="1")
    @bursar.tool(price="0.01")
    def inner() -> None:
        pass

    @bursar.tool(price="0.01")
    @bursar.task("job")
    async def outer() -> None:
        bursar.charge("inside", price="0.001")

    inner()
    with bursar.task("caller", id="caller"):
        await outer()
    rows = {row.model_asked: row for row in room.rows()}
    assert rows["inner"].task.startswith("job-")
    assert rows["outer"].task == "caller"
    assert rows["inside"].parent_task == "caller"
    assert rows["inside"].task.startswith("job-")
    assert sum(row.cost_nanousd or 0 for row in rows.values()) == 21_000_000


def test_a_function_without_a_name_of_its_own(room: Room) -> None:
    """What is callable is a tool."""
    bursar.tool(partial(int, "7"), name="seven", price="0.001")()
    assert room.row().model_asked == "seven"


# --- errors -----------------------------------------------------------------------------------------------------


async def test_a_tool_that_fails_is_charged_and_its_error_passes(room: Room) -> None:
    """The service was asked. What the error says is not kept, its kind is."""

    @bursar.tool(price="0.005")
    def fail() -> None:
        raise ValueError("private words")

    @bursar.tool(price=lambda result: result["cost"])
    async def fail_later() -> dict[str, str]:
        raise KeyError("private words")

    with pytest.raises(ValueError, match="private words"):
        fail()
    with pytest.raises(KeyError):
        await fail_later()
    fixed, worked_out = room.rows()
    assert (fixed.status, fixed.error, fixed.cost_nanousd) == ("error", "ValueError", 5_000_000)
    assert (worked_out.status, worked_out.error, worked_out.cost_nanousd) == ("error", "KeyError", None)
    assert worked_out.unpriced_reason
    assert b"private words" not in room.data.books.read_bytes()
    assert {span["status"] for span in room.spans(kind="tool")} == {"error"}


async def test_a_cancelled_tool_is_charged_as_cancelled(room: Room) -> None:
    """Nothing stays held."""

    @bursar.tool(price="0.005")
    async def wait() -> None:
        await asyncio.sleep(30)

    with bursar.task("t", budget="1"):
        running = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    row = room.row()
    assert (row.status, row.cost_nanousd) == ("cancelled", 5_000_000)
    assert room.held() == 0


async def test_a_refused_tool_does_not_run(room: Room) -> None:
    """Sync and async: the refusal comes before anything of it has happened."""
    ran: list[str] = []

    @bursar.tool(price="0.02")
    def sync() -> None:
        ran.append("sync")

    @bursar.tool(price="0.02")
    async def asynchronous() -> None:
        ran.append("async")

    with bursar.task("poor", budget="0.01") as t:
        with pytest.raises(bursar.BudgetExceeded) as caught:
            sync()
        with pytest.raises(bursar.BudgetExceeded):
            await asynchronous()
        with pytest.raises(bursar.BudgetExceeded):
            bursar.charge("service", price="0.02")
        assert t.remaining == Decimal("0.01")
    assert caught.value.needed == Decimal("0.02")
    assert ran == []
    assert room.rows() == []


def test_the_dearest_so_far_is_held_for_what_is_priced_afterwards(room: Room) -> None:
    """The first call is admitted unseen; then what it cost must be left. ``most`` says it before the first."""
    prices = iter(["0.04", "0.04", "0.04"])

    @bursar.tool(price=lambda _: next(prices))
    def seen() -> None:
        pass

    @bursar.tool(price=lambda _: "0.04", most="0.04")
    def said() -> None:
        pass

    with bursar.task("seen", budget="0.10") as t:
        seen()
        seen()
        with pytest.raises(bursar.BudgetExceeded):
            seen()
        assert t.spent == Decimal("0.08")
    with bursar.task("said", budget="0.03"), pytest.raises(bursar.BudgetExceeded):
        said()


# --- place ------------------------------------------------------------------------------------------------------


async def test_a_model_call_in_a_tool_is_in_its_span_and_on_the_tasks_account(room: Room) -> None:
    """Nested tools as well: each is the child of the one around it, all draw from one task."""
    client = room.openai()

    @bursar.tool(price="0.001")
    def inner() -> None:
        client.chat.completions.create(**CHAT)

    @bursar.tool(price="0.002")
    async def outer() -> None:
        inner()

    with bursar.task("nest", id="n1", budget="1") as t:
        await outer()
        assert t.spent * 10**9 == 3_000_000 + room.price()
    rows = {row.model_asked: row for row in room.rows()}
    spans = {span["name"]: span for span in room.spans()}
    assert {row.task for row in rows.values()} == {"n1"}
    assert {row.parent_task for row in rows.values()} == {""}
    assert rows["gpt-4o-mini"].span_id == spans["inner"]["span_id"]
    assert spans["inner"]["parent_id"] == spans["outer"]["span_id"]
    assert spans["outer"]["parent_id"] == spans["nest"]["span_id"]
    assert rows["inner"].span_id == spans["inner"]["span_id"]


def test_a_refusal_in_a_tool_passes_through_it(closed_room: Room) -> None:
    """The tool is charged as one that failed, its task's own words say why."""
    room = closed_room
    room.configure(
        "budget_wait_s: 0\n"
    )  # what the tool itself holds does not come back while its own call waits for it
    room.init()
    client = room.openai()

    @bursar.tool(price="0.001")
    def think() -> None:
        client.chat.completions.create(**CHAT)

    with pytest.raises(bursar.BudgetExceeded), bursar.task("poor", budget="0.0010001"):
        think()
    row = room.row()
    assert (row.kind, row.status, row.error, row.cost_nanousd) == ("tool", "error", "BudgetExceeded", 1_000_000)
    (task_span,) = room.spans(kind="task")
    assert task_span["status"] == "error"
    assert "0.001" in task_span["error"]


def test_a_call_in_a_paid_tool_does_not_wait_for_its_own_tool(room: Room) -> None:
    """What the tool holds comes back when the tool has ended, which waits for the call: it is refused soon."""
    client = room.openai()

    @bursar.tool(price="0.001")
    def think() -> None:
        client.chat.completions.create(**CHAT)

    began = time.monotonic()
    with pytest.raises(bursar.BudgetExceeded) as caught, bursar.task("poor", budget="0.0010001"):
        think()
    assert time.monotonic() - began < 15
    assert (caught.value.code, caught.value.retryable) == ("budget_held", True)


def test_generators_are_tools_for_as_long_as_they_run(room: Room) -> None:
    """Held when it begins, charged when it ends; what it calls is inside of it, what its consumer calls is not."""
    client = room.openai()

    @bursar.tool(price="0.001")
    def pages() -> Any:
        time.sleep(0.05)
        client.chat.completions.create(**CHAT)
        yield 1
        yield 2

    with bursar.task("reading"):
        found = pages()
        assert next(found) == 1
        client.chat.completions.create(**CHAT)
        found.close()
    tool = room.row(kind="tool")
    inside, outside = room.rows(kind="model")
    assert (tool.cost_nanousd, tool.status) == (1_000_000, "ok")
    assert tool.latency_ms is not None
    assert tool.latency_ms >= 50
    assert inside.span_id == tool.span_id
    assert outside.span_id != tool.span_id


async def test_asynchronous_generators_that_fail_are_charged_as_failed(room: Room) -> None:
    """The error of a step is the error of the call."""

    @bursar.tool(price="0.001")
    async def pages() -> Any:
        yield 1
        raise KeyError("gone")

    with pytest.raises(KeyError):
        _ = [page async for page in pages()]
    assert (room.row().status, room.row().error, room.row().cost_nanousd) == ("error", "KeyError", 1_000_000)


async def test_without_init_everything_runs_and_nothing_is_charged(closed_room: Room) -> None:
    """Decorated code works in tests and scripts that never call ``init``; only what asks for the books says so."""

    @bursar.tool(price="0.005")
    def sync() -> int:
        return 1

    @bursar.tool(price="0.005")
    async def asynchronous() -> int:
        return 2

    @bursar.task("t", budget="1")
    def job() -> int:
        return sync()

    assert (job(), await asynchronous()) == (1, 2)
    with bursar.task("t") as t:
        assert t.id.startswith("t-")
        with pytest.raises(bursar.NotInitialized, match=r"bursar\.init"):
            _ = t.spent
    for call in (lambda: bursar.charge("x"), lambda: bursar.flush(), lambda: bursar.outcome("t", "done")):
        with pytest.raises(bursar.NotInitialized):
            call()
    assert bursar.shutdown() is True
    assert closed_room.rows() == []


# --- outcomes ---------------------------------------------------------------------------------------------------


def test_outcomes_are_said_and_the_latest_counts(room: Room) -> None:
    """Inside, afterwards, and from anywhere with the id; worth is exact."""
    with bursar.task("ticket", id="t1") as t:
        t.outcome("open")
    t.outcome("resolved", value="3.20", note="refund")
    assert [(row["outcome"], row["value_nanousd"], row["note"]) for row in room.outcomes()] == [
        ("resolved", 3_200_000_000, "refund")
    ]
    bursar.outcome("t1", "reopened", value=Decimal("0.1"))
    said = [(row["task"], row["outcome"], row["value_nanousd"], row["note"]) for row in room.outcomes()]
    assert said == [("t1", "reopened", 100_000_000, "")]
    with pytest.raises(ValueError, match=r"3\.2"):
        t.outcome("resolved", value=3.2)  # type: ignore[arg-type] - what people write
    with pytest.raises(ValueError, match="outcome"):
        t.outcome("")
