"""Budgets under concurrency, through trees of tasks, and along streams."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from subprocess import PIPE, Popen
from typing import Any

import pytest
from sdk_room import CHAT, GPT, Room, Script, setup_of

import bursar

CALLS, PASS = 1_000, 50
FIFTY_CALLS = "budgets:\n  fifty: {match: {team: crowd}, limit: 50 calls}\n"


def counted_room(room: Room) -> Room:
    room.configure(FIFTY_CALLS)
    room.init(team="crowd")
    return room


# --- many at once -----------------------------------------------------------------------------------------------


def test_of_a_thousand_calls_from_32_threads_exactly_fifty_pass(closed_room: Room) -> None:
    """A budget of fifty calls admits fifty, whoever comes first; the provider is asked fifty times."""
    room = counted_room(closed_room)
    client = room.openai()
    came: Counter[str] = Counter()

    def ask(_: int) -> None:
        try:
            client.chat.completions.create(**CHAT)
            came["passed"] += 1
        except bursar.BudgetExceeded as refused:
            came[refused.code] += 1

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(CALLS)))
    assert came == {"passed": PASS, "budget_exceeded": CALLS - PASS}
    assert room.sims.openai.simulator.served == PASS
    assert len(room.rows()) == PASS


async def test_of_a_thousand_calls_from_200_tasks_exactly_fifty_pass(closed_room: Room) -> None:
    """The same on one event loop."""
    room = counted_room(closed_room)
    came: Counter[str] = Counter()
    async with room.openai_async() as client:

        async def ask() -> None:
            for _ in range(CALLS // 200):
                try:
                    await client.chat.completions.create(**CHAT)
                    came["passed"] += 1
                except bursar.BudgetExceeded as refused:
                    came[refused.code] += 1

        await asyncio.gather(*(ask() for _ in range(200)))
    assert came == {"passed": PASS, "budget_exceeded": CALLS - PASS}
    assert room.sims.openai.simulator.served == PASS


def test_a_thousand_paid_tools_on_a_dollar_and_a_half(room: Room) -> None:
    """Money is counted to the last nano-dollar: of three-cent calls from 32 threads exactly fifty fit into $1.50."""
    ran: list[int] = []

    @bursar.tool(price="0.03")
    def look_up(number: int) -> int:
        ran.append(number)
        return number

    def one(number: int) -> bool:
        try:
            return look_up(number) == number
        except bursar.BudgetExceeded:
            return False

    with bursar.task("crowd", budget="1.50") as t, ThreadPoolExecutor(32) as pool:
        passed = sum(pool.map(one, range(CALLS)))
        assert (passed, len(ran)) == (PASS, PASS)
        assert (t.spent, t.remaining) == (Decimal("1.50"), 0)
    assert sum(row.cost_nanousd or 0 for row in room.rows()) == 1_500_000_000


def test_four_processes_share_one_budget(closed_room: Room) -> None:
    """Each would use all of it: together they get fifty."""
    room = closed_room
    room.configure(FIFTY_CALLS)
    code = setup_of(room).replace("config=", 'team="crowd", config=') + (
        "passed = refused = 0\n"
        "for _ in range(100):\n"
        "    try:\n"
        "        ask(); passed += 1\n"
        "    except bursar.BudgetExceeded:\n"
        "        refused += 1\n"
        "print(passed, refused)\n"
    )
    workers = [Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True) for _ in range(4)]
    done = [worker.communicate(timeout=50) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, [err for _, err in done]
    counts = [tuple(map(int, out.split())) for out, _ in done]
    assert sum(passed for passed, _ in counts) == PASS
    assert sum(refused for _, refused in counts) == 400 - PASS
    assert len(room.rows()) == PASS
    assert room.sims.openai.simulator.served == PASS


# --- trees ------------------------------------------------------------------------------------------------------


def spend(price: str) -> None:
    """One tool call of this price."""
    bursar.charge("spend", price=price)


def test_a_child_draws_from_what_its_parent_has_left(room: Room) -> None:
    """Also where the parent itself has never called, and where a task without a limit is between them."""
    with bursar.task("parent", budget="0.10") as parent:
        with bursar.task("between"), bursar.agent("child", budget="5") as child:
            spend("0.07")
            assert (child.spent, child.remaining) == (Decimal("0.07"), Decimal("0.03"))
            with pytest.raises(bursar.BudgetExceeded) as caught:
                spend("0.04")
            assert caught.value.limit == Decimal("0.10")
        with bursar.task("second"), pytest.raises(bursar.BudgetExceeded):
            spend("0.04")
        spend("0.03")
        assert (parent.spent, parent.remaining) == (Decimal("0.10"), 0)
    rows = room.rows()
    assert [row.cost_nanousd for row in rows] == [70_000_000, 30_000_000]
    between, child_row = rows[0].parent_task, rows[0].task
    assert child_row == child.id
    assert between.startswith("between-")


def test_what_is_left_is_said_before_the_first_call(room: Room) -> None:
    """A task that nobody has called for has all of its budget, or its parent's rest."""
    with bursar.task("outer", budget="1") as outer:
        assert outer.remaining == 1
        with bursar.task("inner") as inner:
            assert inner.remaining == 1
            with bursar.task("least", budget="0.25") as least:
                assert least.remaining == Decimal("0.25")
        spend("0.90")
        with bursar.task("late", budget="0.50") as late:
            assert late.remaining == Decimal("0.10")
    with bursar.task("free") as free:
        assert free.remaining is None
        assert free.spent == 0


def test_the_reserve_is_kept_for_the_last_call(room: Room) -> None:
    """Only inside of ``final()``: also in the tools and agents that run there, and nowhere else at the same time."""
    with bursar.task("reserved", budget="0.10", reserve="0.04") as t:
        spend("0.06")
        with pytest.raises(bursar.BudgetExceeded):
            spend("0.01")
        with t.final():
            spend("0.01")
            with bursar.agent("writer"):
                spend("0.01")
        with pytest.raises(bursar.BudgetExceeded):
            spend("0.01")
        with t.final(), pytest.raises(bursar.BudgetExceeded):
            spend("0.03")
        with t.final():
            spend("0.02")
        assert t.remaining == 0


def test_two_threads_in_final_do_not_leave_it_open(room: Room) -> None:
    """However they overlap, after both the reserve is kept again."""
    with bursar.task("overlap", budget="0.10", reserve="0.05") as t:
        first_in, second_in = threading.Event(), threading.Event()

        def first() -> None:
            with t.final():
                first_in.set()
                second_in.wait(5)

        def second() -> None:
            first_in.wait(5)
            with t.final():
                second_in.set()
                one.join(5)

        one, two = threading.Thread(target=first), threading.Thread(target=second)
        one.start()
        two.start()
        two.join(5)
        spend("0.05")
        with pytest.raises(bursar.BudgetExceeded):
            spend("0.01")


def test_a_model_call_in_the_tool_of_a_final_step_may_use_the_reserve(room: Room) -> None:
    """The tool is part of the last step."""
    client = room.openai()

    @bursar.tool
    def write() -> None:
        client.chat.completions.create(**{**CHAT, "max_tokens": 50})

    with bursar.task("report", budget="0.01", reserve="0.01") as t:
        with pytest.raises(bursar.BudgetExceeded):
            write()
        with t.final():
            write()
        assert t.spent * 10**9 == room.price()


def test_the_same_task_again_goes_on_with_what_is_left(room: Room) -> None:
    """A task is known by its id: entered anew it has not got its budget back."""
    with bursar.task("again", id="ticket-7", budget="0.10"):
        spend("0.06")
    with bursar.task("again", id="ticket-7", budget="0.10"), pytest.raises(bursar.BudgetExceeded) as caught:
        spend("0.06")
    assert caught.value.spent == Decimal("0.06")
    assert len(room.rows(task="ticket-7")) == 1


def test_two_sessions_of_one_directory_share_a_task(room: Room) -> None:
    """``init`` again, in the same process: the books are the same."""
    with bursar.task("shared", id="shared-1", budget="0.10"):
        spend("0.06")
    room.init()
    with bursar.task("shared", id="shared-1", budget="0.10") as t:
        assert t.spent == Decimal("0.06")
        with pytest.raises(bursar.BudgetExceeded):
            spend("0.06")


# --- streams ----------------------------------------------------------------------------------------------------


def test_a_stream_is_held_for_and_released(room: Room) -> None:
    """While it runs the most that it can cost is held; afterwards what it cost is spent."""
    client = room.openai()
    with bursar.task("streaming", budget="0.50") as t:
        stream = client.chat.completions.create(**CHAT, max_tokens=1000, stream=True)
        next(iter(stream))
        running = t.remaining
        for _ in stream:
            pass
        done = t.remaining
    assert running is not None
    assert done is not None
    assert running < done < Decimal("0.50")
    assert (Decimal("0.50") - done) * 10**9 == room.price()


EXTEND = "budgets:\n  stream: {{match: {{team: writers}}, limit: {limit}, streams: extend}}\n"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": GPT}
NOVEL = 8_000  # words of one token each


def novel() -> list[bytes]:
    """A stream that is far longer than what is held for at first, with its usage at its end."""
    parts = [{"index": 0, "delta": {"content": "word " * 50}, "finish_reason": None}] * (NOVEL // 50)
    events: list[dict[str, Any]] = [{**CHUNK, "choices": [part]} for part in parts]
    events.append({**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 20, "completion_tokens": NOVEL, "total_tokens": NOVEL + 20}
    events.append({**CHUNK, "choices": [], "usage": usage})
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("limit", "status"), [("$0.01", "ok"), ("$0.0025", "ended")])
async def test_a_stream_that_outgrows_its_hold_asks_for_more_and_ends_cleanly_without(
    closed_room: Room, script: Script, asynchronous: bool, limit: str, status: str
) -> None:
    """With money it runs to its end; without, it is ended in its own dialect. Both cost what came, within the limit."""
    room = closed_room
    script.headers, script.body, script.pause_s = [("content-type", "text/event-stream")], novel(), 0.002
    room.config.write_text(f"providers:\n  openai: {{base_url: '{script.url}/v1'}}\n" + EXTEND.format(limit=limit))
    room.init(team="writers")
    base = {"base_url": f"{script.url}/v1"}
    if asynchronous:
        async with room.openai_async(**base) as client:
            chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
    else:
        chunks = list(room.openai(**base).chat.completions.create(**CHAT, stream=True))
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    words = sum(len((choice.delta.content or "").split()) for chunk in chunks for choice in chunk.choices)
    row = room.row()
    assert row.status == status
    assert reasons == ["stop" if status == "ok" else "length"]
    assert row.cost_nanousd
    if status == "ok":
        assert words == NOVEL
        assert row.cost_nanousd == bursar.charge_response("openai", b"".join(novel())).amount
    else:
        assert 1_000 < words < NOVEL
        assert row.estimated
        assert row.cost_nanousd < 2_500_000
        assert "stream" in row.error
    assert room.held() == 0


def test_an_approval_lets_a_call_through(closed_room: Room) -> None:
    """Refused with an id; after ``bursar approve`` the same call passes."""
    room = closed_room
    room.configure("budgets:\n  asked: {match: {team: careful}, limit: $10, ladder: [{at: 1%, approve: true}]}\n")
    room.init(team="careful")
    client = room.openai()
    bursar.charge("spend", price="0.20")
    with bursar.task("careful", id="careful-1"):
        with pytest.raises(bursar.BudgetExceeded) as caught:
            client.chat.completions.create(**CHAT)
        assert caught.value.code == "approval_required"
        assert caught.value.approval_id
        approve = [sys.executable, "-m", "bursar", "approve", caught.value.approval_id, "--data", str(room.path)]
        worker = Popen(approve, stdout=PIPE, stderr=PIPE, text=True)
        out, err = worker.communicate(timeout=30)
        assert worker.returncode == 0, out + err
        client.chat.completions.create(**CHAT)
    assert len(room.rows(kind="model")) == 1
    assert room.sims.openai.simulator.served == 1


def test_a_budget_that_is_changed_while_the_process_runs_is_seen(closed_room: Room) -> None:
    """bursar.yaml is looked at every second: a new limit holds for the next call after that."""
    room = closed_room
    room.init(team="late")
    client = room.openai()
    client.chat.completions.create(**CHAT)
    room.configure("budgets:\n  none: {match: {team: late}, limit: $0.000001}\n")
    time.sleep(1.1)
    with pytest.raises(bursar.BudgetExceeded) as caught:
        client.chat.completions.create(**CHAT)
    assert caught.value.budget == "none"


def test_cheaper_models_of_a_ladder_are_what_is_asked(closed_room: Room) -> None:
    """A budget's rung sends another model: the provider gets it, the row says both."""
    room = closed_room
    room.configure(
        "budgets:\n  frugal: {match: {team: frugal}, limit: $10, ladder: [{at: 1%, model: {gpt-4o: gpt-4o-mini}}]}\n"
    )
    room.init(team="frugal")
    bursar.charge("spend", price="0.20")
    answer = room.openai().chat.completions.create(**{**CHAT, "model": "gpt-4o"})
    assert answer.model.startswith("gpt-4o-mini")
    row = room.row(kind="model")
    assert (row.model_asked, row.cost_nanousd) == ("gpt-4o", room.price())
