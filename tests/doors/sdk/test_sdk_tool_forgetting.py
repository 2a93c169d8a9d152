"""Results of cached tools that are forgotten while calls are under way: they are neither kept nor given to who asks afterwards."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sdk_room import Room

import bursar
from bursar.core.scopes import VALUE_LENGTH_MAX
from bursar.doors.sdk.session import required


class Steps:
    """A tool whose first run fails, and whose next ones say when they are inside and wait for leave to go on."""

    def __init__(self) -> None:
        self.ran = 0
        self.began, self.fail, self.inside, self.go = (threading.Event() for _ in range(4))

    def look(self) -> int:
        self.ran += 1
        number = self.ran
        if number == 1:
            self.began.set()
            assert self.fail.wait(10)
            raise RuntimeError("no")
        if number == 2:
            self.inside.set()
            assert self.go.wait(10)
        return number


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("what", [{"tool": "look"}, {"tag": "x", "tool": "look"}, {"tag": "x"}])
def test_what_is_forgotten_while_a_follower_runs_is_not_kept(room: Room, what: dict[str, str], is_async: bool) -> None:
    """It ran because the one it waited for failed; its result is its caller's, and nobody else's."""
    steps = Steps()
    tool = bursar.tool(name="look", cache="10m", version="1", tags=["x"])

    if is_async:

        @tool
        async def looked() -> int:
            return await asyncio.to_thread(steps.look)

        def look() -> int:
            return asyncio.run(looked())
    else:
        look = tool(lambda: steps.look())

    with ThreadPoolExecutor() as pool:
        first = pool.submit(look)
        assert steps.began.wait(10)
        follower = pool.submit(look)
        threading.Event().wait(0.1)  # it waits for the first
        steps.fail.set()
        assert steps.inside.wait(10)
        assert bursar.forget(**what) == 0
        late = pool.submit(look).result(10)
        steps.go.set()
        with pytest.raises(RuntimeError):
            first.result(10)
        assert (follower.result(10), late) == (2, 3)
    assert look() == 3


def test_a_follower_that_runs_is_waited_for(room: Room) -> None:
    """Where nothing is forgotten it is as good as the first: its result is kept, and given to who asks meanwhile."""
    steps = Steps()
    look = bursar.tool(name="look", cache="10m", version="1")(lambda: steps.look())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(look)
        assert steps.began.wait(10)
        follower = pool.submit(look)
        threading.Event().wait(0.1)
        steps.fail.set()
        assert steps.inside.wait(10)
        late = pool.submit(look)
        threading.Event().wait(0.1)
        steps.go.set()
        assert [follower.result(10), late.result(10), look()] == [2, 2, 2]
        assert isinstance(first.exception(10), RuntimeError)


def test_what_is_forgotten_inside_of_the_same_call_is_not_kept(room: Room) -> None:
    """Neither by the call that it is part of, nor by itself."""
    ran: list[int] = []

    @bursar.tool(name="look", cache="10m", version="1")
    def look() -> int:
        ran.append(1)
        if len(ran) == 1:
            return look()
        if len(ran) == 2:
            bursar.forget(tool="look")
        return len(ran)

    assert [look(), look(), look()] == [2, 3, 3]


def test_what_is_forgotten_while_it_is_stored_is_removed(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes into the store before what is forgotten is removed, or not at all."""
    cache = required().cache
    assert cache is not None
    store = cache.store()
    put, forgetting = store.put, threading.Thread(target=lambda: bursar.forget(tool="look"))
    ran: list[int] = []

    def put_late(entry: Any) -> None:
        if not forgetting.ident:
            forgetting.start()
            forgetting.join(0.2)
        put(entry)

    monkeypatch.setattr(store, "put", put_late)

    @bursar.tool(cache="10m", version="1")
    def look() -> int:
        ran.append(1)
        return len(ran)

    assert look() == 1
    forgetting.join(10)
    assert [look(), look()] == [2, 2]


def test_a_long_name_is_forgotten_as_it_was_kept(room: Room) -> None:
    """Names are cut to one length, in both places."""
    name = "look" * VALUE_LENGTH_MAX
    look = bursar.tool(name=name, cache="10m")(lambda: 1)
    assert look() == 1
    assert bursar.forget(tool=name) == 1
