"""Which task a call belongs to: across threads, loops, generators, processes, and with OpenTelemetry in use."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from sdk_room import Room, setup_of, until
from sdk_workers import here, pay, short_work, start_up, work

import bursar


def tasks(room: Room) -> dict[str, str]:
    """What was paid for, and the task that paid."""
    return {row.model_asked: row.task for row in room.rows(kind="tool")}


# --- threads ----------------------------------------------------------------------------------------------------


def test_a_thread_goes_on_where_it_was_started(room: Room) -> None:
    """Also one with a ``run`` of its own, and a timer; a thread that was started outside stays outside."""
    inside = threading.Event()

    class Own(threading.Thread):
        def run(self) -> None:
            pay("own")

    def outside() -> None:
        inside.wait(5)
        pay("outside")

    before = threading.Thread(target=outside)
    before.start()
    with bursar.task("threads", id="t1"):
        for thread in (threading.Thread(target=pay, args=("plain",)), Own(), threading.Timer(0, pay, ("timer",))):
            thread.start()
            thread.join(5)
        inside.set()
        before.join(5)
    assert tasks(room) == {"plain": "t1", "own": "t1", "timer": "t1", "outside": ""}


def test_a_thread_that_outlives_its_task_still_belongs_to_it(room: Room) -> None:
    """What was started in a task is its work, whenever it is done."""
    over = threading.Event()

    def late() -> None:
        over.wait(5)
        pay("late")

    with bursar.task("short", id="t1"):
        thread = threading.Thread(target=late)
        thread.start()
    over.set()
    thread.join(5)
    assert tasks(room) == {"late": "t1"}


def test_pools_belong_to_whoever_hands_in_the_work(room: Room) -> None:
    """A pool made in one task, used by two others and by nobody: each call is its own."""
    with bursar.task("maker", id="maker"):
        pool = ThreadPoolExecutor(1)
        pool.submit(pay, "warm").result()
    with bursar.task("one", id="one"):
        pool.submit(pay, "first").result()
    with bursar.task("two", id="two"):
        list(pool.map(pay, ["second", "third"]))
    pool.submit(pay, "nobody").result()
    pool.shutdown()
    assert tasks(room) == {"warm": "maker", "first": "one", "second": "two", "third": "two", "nobody": ""}


async def test_executors_and_threads_of_a_loop(room: Room) -> None:
    """``asyncio.to_thread``, ``run_in_executor`` with the loop's pool and with one of its own."""
    loop = asyncio.get_running_loop()
    with bursar.task("loop", id="t1"), ThreadPoolExecutor(2) as pool:
        await asyncio.to_thread(pay, "to_thread")
        await loop.run_in_executor(None, pay, "default")
        await loop.run_in_executor(pool, pay, "own")
        with bursar.task("inner", id="t2"):
            await loop.run_in_executor(pool, pay, "inner")
    await loop.run_in_executor(None, pay, "outside")
    assert tasks(room) == {"to_thread": "t1", "default": "t1", "own": "t1", "inner": "t2", "outside": ""}


def test_threads_stay_as_they_were_outside_of_any_task(closed_room: Room) -> None:
    """``shutdown`` gives threading and pools back exactly as they were."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit
    closed_room.init()
    assert threading.Thread.start is not start
    closed_room.init()
    bursar.shutdown()
    assert threading.Thread.start is start
    assert ThreadPoolExecutor.submit is submit


# --- asyncio ----------------------------------------------------------------------------------------------------


async def test_tasks_of_a_loop_keep_their_own_place(room: Room) -> None:
    """``gather`` and ``TaskGroup``, nested and interleaved: nobody gets another's place."""

    async def step(name: str) -> None:
        async with bursar.task(name, id=name):
            await asyncio.sleep(0.001)
            pay(f"{name}-a")
            with bursar.agent("helper", id=f"{name}/helper"):
                await asyncio.sleep(0.001)
                pay(f"{name}-b")
            await asyncio.sleep(0)
            pay(f"{name}-c")

    with bursar.task("all", id="all"):
        await asyncio.gather(*(step(f"w{number}") for number in range(20)))
        async with asyncio.TaskGroup() as group:
            for number in range(20, 30):
                group.create_task(step(f"w{number}"))
        assert here() == "all"
    assert here() == ""
    rows = room.rows(kind="tool")
    assert len(rows) == 90
    for row in rows:
        name, _, part = row.model_asked.partition("-")
        assert row.task == (f"{name}/helper" if part == "b" else name)
        assert row.parent_task == (name if part == "b" else "all")
        assert row.agent == ("helper" if part == "b" else "")


async def test_a_context_may_be_left_in_another_task(room: Room) -> None:
    """Frameworks enter in one task and leave in another: the place of who leaves is not touched, and what ended is noted."""
    context = bursar.task("split", id="split")

    async def enter() -> None:
        context.__enter__()
        pay("entered")

    await asyncio.create_task(enter())
    with bursar.task("other", id="other"):
        context.__exit__(None, None, None)
        assert here() == "other"
        pay("after")
    assert tasks(room) == {"entered": "split", "after": "other"}
    assert [span["name"] for span in room.spans(kind="task")] == ["split", "other"]


async def test_one_context_object_entered_by_many(room: Room) -> None:
    """A context made once and entered by several tasks at once, in any order of leaving: each leaves its own."""
    shared = bursar.task("shared")
    seen: set[str] = set()
    gates = [asyncio.Event() for _ in range(4)]

    async def enter(number: int) -> None:
        with shared as t:
            seen.add(t.id)
            pay(f"n{number}")
            await gates[number].wait()
            assert here() == t.id
        assert here() == ""

    running = [asyncio.create_task(enter(number)) for number in range(4)]
    await asyncio.sleep(0)
    for gate in gates:  # the first that entered leaves first
        gate.set()
        await asyncio.sleep(0.001)
    await asyncio.gather(*running)
    assert len(seen) == 4
    assert set(tasks(room).values()) == seen


# --- generators -------------------------------------------------------------------------------------------------


@bursar.task("stream", id="g1")
def decorated() -> Iterator[int]:
    for number in range(3):
        pay(f"step{number}")
        yield number


def test_a_decorated_generator_is_inside_only_while_it_runs(room: Room) -> None:
    """Its consumer is not in its task, whether it reads on, leaves early, throws, or forgets it."""
    with bursar.task("consumer", id="c1"):
        for number in decorated():
            assert here() == "c1"
            pay(f"consumed{number}")
        generator = decorated()
        next(generator)
        assert here() == "c1"
        generator.close()
        assert here() == "c1"
        forgotten = decorated()
        next(forgotten)
        del forgotten
        gc.collect()
        assert here() == "c1"
        thrown = decorated()
        next(thrown)
        with pytest.raises(KeyError):
            thrown.throw(KeyError("x"))
        assert here() == "c1"
    paid = tasks(room)
    assert {paid[f"step{number}"] for number in range(3)} == {"g1"}
    assert {paid[f"consumed{number}"] for number in range(3)} == {"c1"}
    ends = [(span["status"], span["error"]) for span in room.spans(name="stream")]
    assert ends == [("ok", ""), ("ok", ""), ("ok", ""), ("error", "KeyError")]


def test_a_decorated_generator_gets_what_is_sent_and_returns(room: Room) -> None:
    """``send`` and the value of ``return`` pass through."""

    @bursar.task("talk")
    def talk() -> Any:
        got = yield "ready"
        return got * 2

    generator = talk()
    assert next(generator) == "ready"
    with pytest.raises(StopIteration) as stop:
        generator.send(21)
    assert stop.value.value == 42


async def test_asynchronous_generators_left_early(room: Room) -> None:
    """Decorated ones, and with a context inside: after ``break`` and the collector the loop's code is where it was."""

    @bursar.agent("reader", id="a1")
    async def read() -> AsyncIterator[int]:
        try:
            for number in range(3):
                pay(f"read{number}")
                await asyncio.sleep(0)
                yield number
        finally:
            pay("cleanup")

    async def inner() -> AsyncIterator[int]:
        with bursar.task("inside", id="i1"):
            for number in range(3):
                pay(f"inside{number}")
                yield number

    with bursar.task("main", id="m1"):
        async for _ in read():
            assert here() == "m1"
            break
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0.01)
        assert here() == "m1"
        generator = inner()
        await anext(generator)
        await generator.aclose()
        assert here() == "m1"
        pay("after")
    assert here() == ""
    paid = tasks(room)
    assert (paid["read0"], paid["cleanup"], paid["inside0"], paid["after"]) == ("a1", "a1", "i1", "m1")


def test_a_generator_with_a_context_inside_left_early(room: Room) -> None:
    """Closed, or dropped: the place of its consumer is back."""

    def inner() -> Iterator[int]:
        with bursar.task("inside", id="i1"):
            yield 1
            yield 2

    with bursar.task("outer", id="o1"):
        generator = inner()
        next(generator)
        generator.close()
        assert here() == "o1"
        for _ in inner():
            break
        gc.collect()
        assert here() == "o1"
    assert here() == ""


def test_a_generator_finished_in_another_thread_touches_nobody(room: Room) -> None:
    """Begun here and ended there: the other thread's place stays its own."""

    def inner() -> Iterator[int]:
        with bursar.task("inside", id="i1"):
            yield 1

    generator = inner()
    contextvars.copy_context().run(next, generator)
    found: list[str] = []

    def end() -> None:
        with bursar.task("elsewhere", id="e1"):
            list(generator)
            found.append(here())

    thread = threading.Thread(target=end)
    thread.start()
    thread.join(5)
    assert found == ["e1"]


def test_nested_tasks_of_one_id_are_one_task(room: Room) -> None:
    """A task that is entered again inside of itself is not its own parent."""
    with bursar.task("outer", id="outer"), bursar.task("same", id="x", budget="0.01"), bursar.task("same", id="x"):
        pay("inner")
    row = room.row(kind="tool")
    assert (row.task, row.parent_task) == ("x", "outer")


def test_what_is_said_above_holds_below(room: Room) -> None:
    """Columns and labels are inherited, the nearest wins, and ``init`` says what nobody else does."""
    room.init(team="everybody", project="p", labels={"env": "test"})
    with bursar.task("top", user="u1", team="support", session="s1", labels={"tier": "gold", "x": "1"}):
        with bursar.agent("researcher", user="u2", labels={"x": "2"}):
            pay("below")
        pay("above")
    below, above = room.rows(kind="tool")
    assert (below.team, below.user, below.session, below.project) == ("support", "u2", "s1", "p")
    assert (below.agent, above.agent) == ("researcher", "")
    assert below.labels is not None
    assert {name: below.labels[name] for name in ("tier", "x", "env")} == {"tier": "gold", "x": "2", "env": "test"}
    assert (above.user, above.labels and above.labels["x"]) == ("u1", "1")


# --- processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_pools_go_on_with_carry(room: Room, method: str) -> None:
    """Each piece of work belongs to the task that handed it in, whatever started the process; its limit holds there."""
    context = multiprocessing.get_context(method)
    options: dict[str, Any] = {}
    if method != "fork":
        options = {"initializer": start_up, "initargs": (str(room.path), str(room.config))}
    with ProcessPoolExecutor(1, context, **options) as pool:
        with bursar.task("one", id="one"):
            assert pool.submit(bursar.carry(work), "first").result(40) == ("one", True)
        with bursar.task("two", id="two", budget="0.0015"):
            assert pool.submit(bursar.carry(work), "second").result(40) == ("two", True)
            with pytest.raises(bursar.BudgetExceeded) as caught:
                pool.submit(bursar.carry(work), "third").result(40)
    assert caught.value.task == "two"
    assert caught.value.needed is not None
    assert tasks(room) == {"first": "one", "second": "two"}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_worker_that_ends_at_once_loses_nothing(room: Room, method: str) -> None:
    """The last calls of a process of ``multiprocessing`` are written before it is gone."""
    context = multiprocessing.get_context(method)
    with bursar.task("worker", id="w1"):
        target = bursar.carry(short_work)
        process = context.Process(target=target, args=(str(room.path), str(room.config), method != "fork"))
        process.start()
        process.join(40)
    assert process.exitcode == 0
    assert tasks(room) == {"worker0": "w1", "worker1": "w1", "worker2": "w1"}


def test_a_fork_has_the_place_and_its_own_books(room: Room) -> None:
    """``os.fork`` in the middle of everything: parent and child go on, and nothing is written twice or lost."""
    with bursar.task("forked", id="f1", budget="1"):
        pay("before")
        child = os.fork()
        if child == 0:
            try:
                pay("child")
                done = bursar.flush(10)
                os._exit(0 if done and here() == "f1" else 7)
            except BaseException:  # noqa: BLE001 - the child must never return into pytest
                os._exit(8)
        pay("parent")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    rows = room.rows(kind="tool")
    assert sorted(row.model_asked for row in rows) == ["before", "child", "parent"]
    assert {row.task for row in rows} == {"f1"}
    assert room.held() == 0


def test_forks_while_other_threads_write(room: Room) -> None:
    """The locks of a parent's threads do not come along: twenty children of a busy process all end."""
    stop = threading.Event()

    def busy() -> None:
        number = 0
        while not stop.wait(0.001):
            number += 1
            with bursar.task("busy"):
                pay(f"busy{number}")

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes: list[int] = []
    for number in range(20):
        child = os.fork()
        if child == 0:
            try:
                with bursar.task("child", id=f"child{number}"):
                    pay("child")
                os._exit(0 if bursar.flush(10) else 7)
            except BaseException:  # noqa: BLE001 - the child must never return into pytest
                os._exit(8)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    for thread in threads:
        thread.join(5)
    assert codes == [0] * 20
    assert {row.task for row in room.rows(model_asked="child")} == {f"child{number}" for number in range(20)}


def test_a_fork_outlives_its_parent(room: Room) -> None:
    """A process that forks a daemon and ends takes nothing away from it: what the child pays afterwards stays paid."""
    go_read, go_write = os.pipe()
    code = setup_of(room) + (
        f"pay = lambda name: bursar.charge(name, price='0.001')\n"
        "pay('parent')\n"
        "assert bursar.flush()\n"
        "if os.fork():\n"
        "    bursar.shutdown()\n"
        "    sys.exit(0)\n"
        "with bursar.task('daemon', budget='1'):\n"
        "    pay('first')\n"
        f"    os.read({go_read}, 1)\n"
        "    pay('second')\n"
        "assert bursar.flush()\n"
        "os._exit(0)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], pass_fds=[go_read], stdout=subprocess.DEVNULL)
    os.close(go_read)
    assert parent.wait(40) == 0
    assert {row.model_asked for row in room.rows()} >= {"parent"}  # opens the books, and closes them as the last one
    os.write(go_write, b"x")
    os.close(go_write)
    until(lambda: {row.model_asked for row in room.rows()} == {"parent", "first", "second"})
    assert room.held() == 0


def test_a_subprocess_goes_on_with_the_environment(room: Room) -> None:
    """With ``bursar.environ()`` it is in the task, under its limit, with everything that was said above."""
    code = setup_of(room) + (
        "bursar.charge('first', price='0.001')\n"
        "with bursar.agent('child'):\n"
        "    bursar.charge('second', price='0.001')\n"
        "try:\n"
        "    bursar.charge('third', price='0.002')\n"
        "except bursar.BudgetExceeded as refused:\n"
        "    print(refused.task)\n"
    )
    with bursar.task("launcher", id="l1", user="u1", team="ops", budget="0.003", labels={"color": "blue"}):
        env = {**os.environ, **bursar.environ()}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=40
        )
    assert (done.returncode, done.stdout.strip()) == (0, "l1"), done.stderr
    first, second = room.rows(kind="tool")
    assert (first.task, first.user, first.team) == ("l1", "u1", "ops")
    assert first.labels is not None
    assert first.labels["color"] == "blue"
    assert (second.parent_task, second.agent, second.user) == ("l1", "child", "u1")


async def test_a_coroutine_function_is_carried_as_long_as_it_runs(room: Room) -> None:
    """Also after it has waited; its caller stays where it is."""

    async def pay_later(name: str) -> str:
        await asyncio.sleep(0)
        pay(name)
        return here()

    with bursar.task("carrier", id="k1"):
        carried = bursar.carry(pay_later)
    assert await carried("late") == "k1"
    assert here() == ""
    assert tasks(room) == {"late": "k1"}


def test_outside_of_any_task_there_is_nothing_to_hand_on(room: Room) -> None:
    """No variable, and work that is carried from nowhere is nowhere."""
    assert bursar.environ() == {}
    with bursar.task("elsewhere"):
        name, _ = work("inside")
        assert name.startswith("elsewhere-")
    assert here() == ""


# --- OpenTelemetry ----------------------------------------------------------------------------------------------


def test_the_current_span_is_the_place_in_the_trace(room: Room) -> None:
    """Calls stand in the span that an instrumentation has opened; without one, in the task's own."""
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = sdk.TracerProvider().get_tracer("test")
    client = room.openai()
    with bursar.task("traced", id="t1"):
        client.embeddings.create(model="text-embedding-3-small", input="one")
        with tracer.start_as_current_span("step") as span:
            client.embeddings.create(model="text-embedding-3-small", input="two")
            with bursar.agent("below"):
                pass
    own, seen = room.rows(kind="model")
    context = span.get_span_context()
    assert (seen.trace_id, seen.span_id) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert own.trace_id
    assert own.trace_id != seen.trace_id
    (below,) = room.spans(name="below")
    assert (below["trace_id"], below["parent_id"]) == (seen.trace_id, seen.span_id)
    assert trace.get_current_span().get_span_context().is_valid is False


def test_baggage_says_what_nothing_nearer_does(room: Room) -> None:
    """OpenTelemetry's baggage gives columns to calls; a task in the code is nearer."""
    baggage = pytest.importorskip("opentelemetry.baggage")
    context_api = pytest.importorskip("opentelemetry.context")
    context = baggage.set_baggage("bursar.user", "from-baggage")
    context = baggage.set_baggage("bursar.team", "from-baggage", context)
    token = context_api.attach(context)
    try:
        pay("bare")
        with bursar.task("nearer", user="from-task"):
            pay("inside")
    finally:
        context_api.detach(token)
    bare, inside = room.rows(kind="tool")
    assert (bare.user, bare.team) == ("from-baggage", "from-baggage")
    assert (inside.user, inside.team) == ("from-task", "from-baggage")


def test_the_tree_has_its_shape_without_opentelemetry(room: Room) -> None:
    """Task, agent, tool: each span is the child of the one around it, in one trace."""

    @bursar.tool
    def look() -> None:
        pass

    with bursar.task("root"), bursar.agent("mid"):
        look()
    spans = {span["name"]: span for span in room.spans()}
    assert spans["mid"]["parent_id"] == spans["root"]["span_id"]
    assert spans["look"]["parent_id"] == spans["mid"]["span_id"]
    assert spans["root"]["parent_id"] == ""
    assert len({span["trace_id"] for span in spans.values()}) == 1
