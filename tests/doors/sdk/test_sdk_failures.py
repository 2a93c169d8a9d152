"""What of Bursar may fail, and what then becomes of the user's calls."""

from __future__ import annotations

import errno
import gc
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from sdk_room import CHAT, Room, Script, answered, python

import bursar
from bursar.adapters.books_file import BooksFile
from bursar.core.errors import BooksBusyError, BooksFailedError, BursarError
from bursar.doors.sdk.session import active

KEY = {"authorization": "Bearer sk-test"}
FULL = BooksFailedError("the disk is full")
FAILING = (FULL, BooksBusyError("another process keeps the books locked"), OSError(errno.ENOSPC, "no space left"))


def break_books(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on no transaction succeeds."""

    def fail(*_args: Any, **_more: Any) -> Any:
        raise error

    for name in ("apply", "observe", "transaction"):
        monkeypatch.setattr(BooksFile, name, fail)


@bursar.tool(price="0.001")
def look() -> str:
    return "found"


# --- observe ----------------------------------------------------------------------------------------------------


def test_observing_never_refuses_and_counts_everything(closed_room: Room) -> None:
    """Over its budget a task goes on; what it spent is in the books all the same."""
    room = closed_room
    room.configure("budgets:\n  tiny: {match: {team: seen}, limit: $0.000001}\n")
    room.init(mode="observe", team="seen")
    client = room.openai()
    with bursar.task("over", budget="0.000001") as t:
        client.chat.completions.create(**CHAT)
        for _ in client.chat.completions.create(**CHAT, stream=True):
            pass
        look()
        assert t.spent * 10**9 == room.price() + 1_000_000
    assert [row.status for row in room.rows()] == ["ok"] * 3
    assert room.held() == 0


@pytest.mark.parametrize("error", FAILING, ids=["full", "locked", "oserror"])
async def test_observing_with_broken_books_breaks_no_call(
    room: Room, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whole, streamed, async, a tool, a task, an error of the provider: all as without Bursar."""
    room.init(mode="observe")
    client = room.openai(max_retries=0)
    with monkeypatch.context() as broken:
        break_books(broken, error)
        with bursar.task("broken", budget="1") as t:
            assert client.chat.completions.create(**CHAT).choices
            assert list(client.chat.completions.create(**CHAT, stream=True))
            async with room.openai_async() as other:
                assert (await other.chat.completions.create(**CHAT)).choices
            assert look() == "found"
            t.outcome("done")
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(**CHAT, extra_headers={"x-sim-fault": "400"})
        assert bursar.flush(0.01) is False
    assert bursar.flush(10)  # what waited is written when the books work again
    assert len(room.rows()) == 5


@pytest.mark.parametrize(
    ("mode", "part"),
    [("observe", "observe"), ("observe", "hold"), ("observe", "note"), ("enforce", "settle"), ("enforce", "note")],
)
def test_a_fault_of_ours_costs_nobody_an_answer(
    room: Room, monkeypatch: pytest.MonkeyPatch, mode: Any, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever raises inside after a call was admitted: the answer reaches the caller, and it is said once."""
    room.init(mode=mode)
    session = active()
    assert session is not None

    def fail(*_args: Any, **_more: Any) -> Any:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(session.treasury, part, fail)
    client = room.openai()
    for _ in range(2):
        with bursar.task("t"):
            assert client.chat.completions.create(**CHAT).choices
            assert list(client.chat.completions.create(**CHAT, stream=True))
            assert look() == "found"
    said = [record for record in caplog.records if "a bug of ours" in record.getMessage()]
    assert len(said) <= 4
    monkeypatch.undo()
    room.proved = part != "settle"  # those holds stand, and are charged by estimate


# --- enforce ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", FAILING[:2], ids=["full", "locked"])
def test_enforcing_without_books_refuses(room: Room, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A call under a budget is refused as "unavailable"; the provider is not asked. Afterwards everything works."""
    client = room.openai()
    with monkeypatch.context() as broken:
        break_books(broken, error)
        with bursar.task("broken", budget="1"):
            with pytest.raises(bursar.BudgetExceeded) as caught:
                client.chat.completions.create(**CHAT)
            with pytest.raises(bursar.BudgetExceeded):
                look()
    assert caught.value.code == "unavailable"
    assert str(error) in str(caught.value)
    assert caught.value.details["retryable"]
    assert room.sims.openai.simulator.served == 0
    with bursar.task("again", budget="1"):
        client.chat.completions.create(**CHAT)
    assert len(room.rows()) == 1


def test_calls_that_no_budget_looks_at_go_on_without_books(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait in memory and are written when the books work again."""
    client = room.openai()
    with monkeypatch.context() as broken:
        break_books(broken, FULL)
        client.chat.completions.create(**CHAT)
        assert bursar.flush(0.01) is False
    assert bursar.flush(10)
    assert room.row().cost_nanousd == room.price()


def test_on_failure_open_lets_calls_go_on(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unheld, and counted afterwards."""
    room.init(on_failure="open")
    client = room.openai()
    with bursar.task("open", budget="1") as t:
        with monkeypatch.context() as broken:
            break_books(broken, FULL)
            client.chat.completions.create(**CHAT)
            assert look() == "found"
        assert t.spent * 10**9 == room.price() + 1_000_000
        with bursar.task("poor", budget="0.0000001"), pytest.raises(bursar.BudgetExceeded):
            client.chat.completions.create(**CHAT)  # what a budget says still holds


def test_a_budget_that_is_open_up_to_an_amount(closed_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the books fail it lets that much through, and not more; what was spent is booked later."""
    room = closed_room
    room.configure(
        "budgets:\n  lenient: {match: {team: t}, limit: $10, on_store_failure: open-up-to-$0.0025}\ntools: {look: {per_call: 0.001}}\n"
    )
    room.init(team="t")
    with monkeypatch.context() as broken:
        break_books(broken, FULL)
        assert look() == "found"
        assert look() == "found"
        with pytest.raises(bursar.BudgetExceeded) as caught:
            look()
        assert caught.value.code == "unavailable"
    assert [row.cost_nanousd for row in room.rows()] == [1_000_000] * 2


def test_books_that_another_process_locks(closed_room: Room) -> None:
    """Waited for, then refused; when the lock is gone, all is written."""
    room = closed_room
    room.init(mode="observe")
    client = room.openai()
    other = sqlite3.connect(room.data.books, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    client.chat.completions.create(**CHAT)
    other.execute("ROLLBACK")
    other.close()
    assert room.row().cost_nanousd == room.price()


def test_a_damaged_file_is_said_where_it_is_set_up(closed_room: Room) -> None:
    """With the path and the way out; and nothing is hooked."""
    closed_room.proved = False
    closed_room.data.books.write_bytes(b"this is no database " * 100)
    with pytest.raises(BooksFailedError, match=str(closed_room.data.books)):
        closed_room.init()
    assert active() is None
    assert not hasattr(httpx2.Client._send_single_request, "_bursar_original")


# --- the collector of garbage -----------------------------------------------------------------------------------


def test_an_answer_forgotten_in_the_middle_of_a_turn(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may settle one call while this very thread writes another: neither waits for the other for ever."""
    client = room.openai()
    forgotten = [client.chat.completions.create(**CHAT, stream=True) for _ in range(2)]
    iterators = list(map(iter, forgotten))
    assert all(map(next, iterators))
    apply = BooksFile.apply

    def collecting(file: BooksFile, operations: Any) -> Any:
        if forgotten:
            forgotten.pop()
            iterators.pop()
            gc.collect()
        return apply(file, operations)

    monkeypatch.setattr(BooksFile, "apply", collecting)
    done = threading.Event()

    def ask() -> None:
        with bursar.task("busy", budget="1"):
            client.chat.completions.create(**CHAT)
            client.chat.completions.create(**CHAT)
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    assert done.wait(20)
    assert sorted(row.status for row in room.rows()) == ["cancelled", "cancelled", "ok", "ok"]


def test_a_stream_that_outlives_the_session(room: Room) -> None:
    """Read on after ``shutdown`` and after another ``init``: it is charged, not lost."""
    client = room.openai()
    first = client.chat.completions.create(**CHAT, stream=True)
    next(iter(first))
    room.init()
    with bursar.task("held", budget="1"):
        second = client.chat.completions.create(**CHAT, stream=True)
        next(iter(second))
    bursar.shutdown()
    for stream in (first, second):
        for _ in stream:
            pass
    assert [row.cost_nanousd for row in room.rows()] == [room.price() // 2] * 2
    assert room.held() == 0


# --- setting up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "watch"}, ("watch", "enforce", "observe")),
        ({"team": "x" * 257}, ("team", "257", "256")),
        ({"server": "localhost:4000"}, ("localhost:4000", "http://")),
        ({"config": Path("/nowhere/bursar.yaml")}, ("/nowhere/bursar.yaml",)),
        ({"on_failure": "ajar"}, ("ajar", "closed", "open")),
    ],
)
def test_errors_of_init_name_the_value_and_the_way_out(
    closed_room: Room, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    """And leave nothing hooked."""
    with pytest.raises(BursarError) as caught:
        closed_room.init(**options)
    for word in words:
        assert word in str(caught.value)
    assert active() is None


def test_init_twice_hooks_once_and_shutdown_gives_everything_back(closed_room: Room) -> None:
    """Exactly the functions that were there."""
    before = [vars(kind)["_send_single_request"] for kind in (httpx2.Client, httpx2.AsyncClient)]
    path_hooks = list(sys.meta_path)
    closed_room.init()
    closed_room.init()
    assert len(sys.meta_path) == len(path_hooks) + 1
    closed_room.openai().chat.completions.create(**CHAT)
    assert len(closed_room.rows()) == 1
    bursar.shutdown()
    bursar.shutdown()
    assert [vars(kind)["_send_single_request"] for kind in (httpx2.Client, httpx2.AsyncClient)] == before
    assert sys.meta_path == path_hooks
    closed_room.openai().chat.completions.create(**CHAT)
    assert len(closed_room.rows()) == 1


async def test_clients_of_ones_own_without_patching(closed_room: Room) -> None:
    """With ``patch=False`` only clients from ``http_client`` and ``async_http_client`` are seen, each once; with it also once."""
    room = closed_room
    room.init(patch=False)
    room.openai().chat.completions.create(**CHAT)
    assert room.rows() == []
    room.openai(http_client=bursar.http_client()).chat.completions.create(**CHAT)
    async with room.openai_async(http_client=bursar.async_http_client(timeout=5)) as client:
        await client.chat.completions.create(**CHAT)
    with bursar.http_client(base_url=room.sims.openai.url) as own:
        assert isinstance(own, httpx2.Client)
        assert own.post("/v1/chat/completions", json=CHAT, headers=KEY).status_code == 200
    assert len(room.rows()) == 3
    client_before = bursar.http_client()
    room.init()
    room.openai(http_client=client_before).chat.completions.create(**CHAT)
    room.openai(http_client=bursar.http_client()).chat.completions.create(**CHAT)
    assert len(room.rows()) == 5


async def test_the_older_httpx_is_hooked_as_well(closed_room: Room) -> None:
    """Frameworks still use it: sync and async, whole and streamed, refused, and given back as it was."""
    httpx = pytest.importorskip("httpx")
    room, before = closed_room, httpx.Client._send_single_request
    room.init()
    url = f"{room.sims.openai.url}/v1/chat/completions"
    with httpx.Client(headers=KEY) as client:
        assert client.post(url, json=CHAT).status_code == 200
        with client.stream("POST", url, json={**CHAT, "stream": True}) as answer:
            assert b"prompt_tokens" not in answer.read()
        with bursar.task("poor", budget="0.000001"), pytest.raises(bursar.BudgetExceeded):
            client.post(url, json=CHAT)
    async with httpx.AsyncClient(headers=KEY) as client:
        assert (await client.post(url, json=CHAT)).status_code == 200
    async with bursar.async_http_client(httpx, headers=KEY) as client:
        assert isinstance(client, httpx.AsyncClient)
        async with client.stream("POST", url, json={**CHAT, "stream": True}) as answer:
            async for _ in answer.aiter_bytes():
                pass
    rows = room.rows()
    assert [row.status for row in rows] == ["ok"] * 4
    assert sum(row.cost_nanousd or 0 for row in rows) == room.price()
    bursar.shutdown()
    assert httpx.Client._send_single_request is before


def test_a_library_that_is_imported_after_init_is_hooked(closed_room: Room) -> None:
    """The import itself is as ever."""
    code = f"""
import sys, json
import bursar
bursar.init(data={str(closed_room.path)!r}, config={str(closed_room.config)!r})
assert "httpx2" not in sys.modules
import httpx2
httpx2.post({closed_room.sims.openai.url + "/v1/chat/completions"!r}, json={CHAT!r}, headers={KEY!r})
spec = httpx2.__spec__
print(json.dumps([spec.name, type(httpx2.__loader__).__name__, httpx2.__file__.endswith("__init__.py")]))
"""
    name, _, is_file = answered(python(code))
    assert (name, is_file) == ("httpx2", True)
    assert closed_room.row().cost_nanousd == closed_room.price()


def test_settings_of_the_environment(closed_room: Room) -> None:
    """BURSAR_MODE, BURSAR_DATA and BURSAR_CONFIG are used where nothing is given."""
    env = {
        "BURSAR_MODE": "observe",
        "BURSAR_DATA": str(closed_room.path),
        "BURSAR_CONFIG": str(closed_room.config),
    }
    code = f"""
import bursar, json
bursar.init()
import httpx2
with bursar.task("x", budget="0.0000001"):
    print(json.dumps(httpx2.post({closed_room.sims.openai.url + "/v1/chat/completions"!r}, json={CHAT!r}, headers={KEY!r}).status_code))
"""
    assert answered(python(code, env=env)) == 200
    assert closed_room.row().task.startswith("x-")


def test_a_process_that_only_imports_writes_nothing(tmp_path: Path) -> None:
    """No file, no thread, no hook before ``init``."""
    code = """
import json, sys, threading, pathlib
hooks = len(sys.meta_path)
import bursar
bursar.task, bursar.tool, bursar.init
print(json.dumps([threading.active_count(), len(sys.meta_path) - hooks, [p.name for p in pathlib.Path(".").iterdir()]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=40
    )
    assert done.stdout.strip() == "[1, 0, []]", done.stderr


def test_a_provider_that_answers_nonsense(closed_room: Room, script: Script) -> None:
    """The client gets the nonsense; the charge is unknown with a reason, or an estimate, never zero."""
    room = closed_room
    room.config.write_text(f"providers:\n  openai: {{base_url: '{script.url}/v1'}}\n")
    room.init()
    for body in (b"", b"<html>", b"[1, 2]", b'{"usage": {"prompt_tokens": "many"}}', b"\xff" * 100):
        script.body = body
        assert httpx2.post(f"{script.url}/v1/chat/completions", json=CHAT).content == body
    rows = room.rows()
    assert len(rows) == 5
    assert all(row.cost_nanousd is None and row.unpriced_reason for row in rows)
