"""Processes that are killed, servers that are away: what was spent is in the books, and nothing is held for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sdk_room import CHAT, Room, python, setup_of, until

import bursar
from bursar.adapters import books_local, treasury_remote
from bursar.doors.sdk.session import active


def killed(code: str, *, after: str) -> None:
    """Run code until it has printed ``after``, then end it as a crash does."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == after:
            break
    else:
        raise AssertionError(process.communicate()[1])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL


# --- the books of this machine ----------------------------------------------------------------------------------


def test_a_hold_of_a_dead_process_is_charged_its_estimate(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between hold and settlement: others see the money as held, and after its time as spent, marked."""
    code = setup_of(room) + (
        "import threading\n"
        "def run():\n"
        "    with bursar.task('dying', id='d1', budget='0.05'):\n"
        "        ask({'x-sim-fault': 'hang'}, max_tokens=1000)\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "time.sleep(1.0)\n"
        "print('asked', flush=True)\n"
        "time.sleep(60)\n"
    )
    killed(code, after="asked")
    assert room.held() == 1
    with bursar.task("dying", id="d1") as t:
        before = t.remaining
    assert before is not None
    assert before < Decimal("0.05")
    assert t.spent == 0
    with sqlite3.connect(room.data.books) as db:  # its time has passed
        db.execute("UPDATE open_hold SET expires_us = 1")
    db.close()
    monkeypatch.setattr(books_local, "_RENEW_EVERY_S", 0.01)
    room.init()
    until(lambda: bursar.charge("wake", price="0.001") is not None and room.held() == 0)
    row = room.row(task="d1")
    assert (row.status, row.estimated) == ("expired", True)
    assert row.cost_nanousd
    assert t.spent * 10**9 == row.cost_nanousd


def test_killed_after_calls_that_no_budget_holds(room: Room) -> None:
    """What ended more than a moment before the kill is in the books, exactly; nothing is there twice."""
    code = setup_of(room) + (
        "for _ in range(5): ask()\ntime.sleep(0.5)\nprint('done', flush=True)\nwhile True: time.sleep(1)\n"
    )
    killed(code, after="done")
    assert [row.cost_nanousd for row in room.rows()] == [room.price() // 5] * 5
    assert room.held() == 0


def test_killed_in_the_middle_of_calls_under_a_budget(room: Room) -> None:
    """At any moment: every call that was answered is either in the books or held, so that the budget is never passed."""
    code = setup_of(room) + (
        "with bursar.task('busy', id='busy', budget='1'):\n"
        "    for number in range(10_000):\n"
        "        ask()\n"
        "        if number == 20: print('going', flush=True)\n"
    )
    killed(code, after="going")
    served = room.sims.openai.simulator.served
    assert served >= 21
    assert len(room.rows(task="busy")) + room.held() >= served
    room.proved = False  # a hold may stand: its time has not passed


def test_a_process_that_ends_normally_loses_nothing(room: Room) -> None:
    """At the end of the interpreter, by an exception, by ``sys.exit``."""
    for ending in ("pass", "raise RuntimeError('end')", "sys.exit(3)"):
        python(setup_of(room) + f"ask()\nwith bursar.task('t', budget='1'): ask()\n{ending}\n")
    assert len(room.rows()) == 6
    assert room.held() == 0


# --- a server ---------------------------------------------------------------------------------------------------


class Server:
    """``bursar up`` in a process of its own, with its own books; it can be stopped, killed and started again."""

    def __init__(self, room: Room, path: Path, more: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.room = Room(path, room.sims, proved=False)
        self.room.configure(f"server: {{port: {self.port}}}\n{more}")
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "bursar",
            "up",
            "--data",
            str(self.room.path),
            "--config",
            str(self.room.config),
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.room.path
        )
        until(self._listens)

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.process.communicate()[0]
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.communicate(timeout=30)
            self.process = None

    def rows(self, **columns: Any) -> list[Any]:
        return [row for row in self.room.rows() if all(getattr(row, n) == v for n, v in columns.items())]


@pytest.fixture
def serve(closed_room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Starts a server and opens the door to it; away is asked again soon."""
    monkeypatch.setattr(treasury_remote, "_AWAY_S", 0.1)
    servers: list[Server] = []

    def begin(more: str = "", **options: Any) -> Server:
        server = Server(closed_room, tmp_path / "server", more)
        servers.append(server)
        closed_room.init(**{"server": server.url, **options})
        return server

    yield begin
    bursar.shutdown(0.2)
    for server in servers:
        server.stop()
        server.room.prove()


def spools(room: Room) -> list[Path]:
    return [path for path in room.path.glob("spool-*.jsonl") if path.stat().st_size]


def test_everything_through_a_server(serve: Callable[..., Server], closed_room: Room) -> None:
    """Calls, streams, tools, tasks, refusals: held by the server's budgets, in the server's books, at its prices."""
    server = serve("tools:\n  look: {per_call: 0.005}\n")
    client = closed_room.openai()

    @bursar.tool
    def look() -> str:
        return "found"

    with bursar.task("remote", user="u1", budget="0.50") as t:
        client.chat.completions.create(**CHAT)
        for _ in client.chat.completions.create(**CHAT, stream=True):
            pass
        look()
        with bursar.agent("poor", budget="0.000001"), pytest.raises(bursar.BudgetExceeded) as caught:
            client.chat.completions.create(**CHAT)
        assert t.spent * 10**9 == closed_room.price() + 5_000_000
        assert t.remaining is not None
        assert t.remaining + t.spent == Decimal("0.50")
        t.outcome("resolved", value="1")
    assert caught.value.code == "budget_exceeded"
    assert caught.value.needed is not None
    client.chat.completions.create(**CHAT)
    assert bursar.flush(10)
    assert [(row.door, row.status) for row in server.rows()] == [("sdk", "ok")] * 4
    assert {row.user for row in server.rows(task=t.id)} == {"u1"}
    assert not closed_room.data.books.exists()
    assert spools(closed_room) == []


def test_a_server_that_is_restarted(serve: Callable[..., Server], closed_room: Room) -> None:
    """Calls without a budget go on meanwhile and wait in the spool; those with one are refused; afterwards all is told, once."""
    server = serve()
    client = closed_room.openai()
    client.chat.completions.create(**CHAT)
    assert bursar.flush(10)
    server.stop()
    client.chat.completions.create(**CHAT)
    with bursar.task("limited", budget="1"), pytest.raises(bursar.BudgetExceeded) as caught:
        client.chat.completions.create(**CHAT)
    assert caught.value.code == "unavailable"
    assert str(server.port) in str(caught.value)
    assert bursar.flush(0.2) is False
    assert spools(closed_room)
    server.start()
    assert bursar.flush(10)
    assert spools(closed_room) == []
    with bursar.task("limited", budget="1"):
        client.chat.completions.create(**CHAT)
    assert bursar.flush(10)
    assert len(server.rows()) == 3
    assert sum(row.cost_nanousd or 0 for row in server.rows()) == closed_room.price()


def test_a_server_that_is_killed_while_a_call_runs(serve: Callable[..., Server], closed_room: Room) -> None:
    """The call was held, its server dies and is started again: the call ends in the books as it was."""
    server = serve()
    client = closed_room.openai()
    with bursar.task("long", id="long", budget="1"):
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(iter(stream))
        server.stop(signal.SIGKILL)
        for _ in stream:
            pass
    server.start()
    assert bursar.flush(10)
    rows = server.rows(task="long")
    assert [row.cost_nanousd for row in rows] == [closed_room.price()]
    assert server.room.held() == 0


def test_the_spool_of_a_killed_process_is_told_by_the_next(serve: Callable[..., Server], closed_room: Room) -> None:
    """What it could not tell, and what it was cut off in writing, is taken over whole or not at all."""
    server = serve()
    server.stop()
    code = setup_of(closed_room).replace("bursar.init(", f"bursar.init(server={server.url!r}, on_failure='open', ") + (
        "for _ in range(3): ask()\nprint('done', flush=True)\ntime.sleep(60)\n"
    )
    killed(code, after="done")
    (orphan,) = spools(closed_room)
    with orphan.open("ab") as file:
        file.write(b'{"endings": [{"as')
    server.start()
    closed_room.init(server=server.url)
    until(lambda: len(server.rows()) == 3)
    assert sum(row.cost_nanousd or 0 for row in server.rows()) == closed_room.price()
    until(lambda: spools(closed_room) == [])
    assert not orphan.exists()


def test_a_wrong_key_is_said_and_nothing_is_thrown_away(serve: Callable[..., Server], closed_room: Room) -> None:
    """A server that asks for keys refuses a stranger's calls; what was observed waits until the key is right."""
    server = serve("", key="bursar_wrong", mode="observe")
    server.stop()
    server.room.configure(f"server: {{port: {server.port}, require_keys: true}}\n")
    server.start()
    client = closed_room.openai()
    client.chat.completions.create(**CHAT)
    assert bursar.flush(0.3) is False
    command = [sys.executable, "-m", "bursar", "keys", "create", "agents", "--data", str(server.room.path)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert made.returncode == 0, made.stderr
    key = next(word for word in made.stdout.split() if word.startswith("bursar_"))
    bursar.shutdown(0.1)
    closed_room.init(server=server.url, key="bursar_wrong")
    with pytest.raises(bursar.BudgetExceeded) as caught:
        client.chat.completions.create(**CHAT)
    assert "401" in str(caught.value)
    bursar.shutdown(0.1)
    closed_room.init(server=server.url, key=key)
    until(lambda: len(server.rows()) == 1)
    client.chat.completions.create(**CHAT)
    assert bursar.flush(10)
    assert [row.key for row in server.rows()] == ["agents"] * 2


def test_a_gateway_of_ours_charges_once(serve: Callable[..., Server], closed_room: Room) -> None:
    """A client whose base URL is the server: it is told what the call is for, and the door counts nothing itself."""
    server = serve()
    client = closed_room.openai(base_url=f"{server.url}/openai/v1")
    with bursar.task("through", id="through", user="u9", budget="0.50"):
        client.chat.completions.create(**CHAT)
    assert bursar.flush(10)
    (row,) = server.rows()
    assert (row.door, row.task, row.user, row.cost_nanousd) == ("gateway", "through", "u9", closed_room.price())


def test_forks_of_a_remote_process(serve: Callable[..., Server], closed_room: Room) -> None:
    """Parent and child each tell their own."""
    server = serve()
    bursar.charge("parent", price="0.001")
    child = os.fork()
    if child == 0:
        try:
            bursar.charge("child", price="0.001")
            os._exit(0 if bursar.flush(10) else 7)
        except BaseException:  # noqa: BLE001 - the child must never return into pytest
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bursar.charge("parent-again", price="0.001")
    assert bursar.flush(10)
    assert sorted(row.model_asked for row in server.rows()) == ["child", "parent", "parent-again"]


async def test_a_caller_that_leaves_while_the_server_decides(serve: Callable[..., Server], closed_room: Room) -> None:
    """Cancelled while it waits for its hold: when the hold comes it is given back, and nothing was asked."""
    server = serve()
    session = active()
    assert session is not None
    hold = session.treasury.hold
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(ask: Any) -> Any:
        loop.call_soon_threadsafe(entered.set)
        time.sleep(0.2)
        return hold(ask)

    session.treasury.hold = slow  # type: ignore[method-assign]
    async with closed_room.openai_async() as client:
        with bursar.task("left", id="left", budget="1"):
            call = asyncio.create_task(client.chat.completions.create(**CHAT))
            await entered.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    await asyncio.sleep(0.5)
    assert bursar.flush(10)
    assert closed_room.sims.openai.simulator.served == 0
    assert server.room.held() == 0
    assert server.rows() == []
