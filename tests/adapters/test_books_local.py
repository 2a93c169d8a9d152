"""The books of an agent's own process: shared by its threads, its forks, and the other processes of the machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bursar.adapters import books_local
from bursar.adapters.books_file import BooksFile
from bursar.adapters.books_local import LocalBooks
from bursar.adapters.rows import decode_row
from bursar.core.budgets import TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsSettlement, NotHeld
from bursar.core.errors import BooksBusyError, BooksFailedError
from bursar.core.money import NanoUSD
from making import STARTED_US, an_attempt, an_opening

Make = Callable[..., LocalBooks]


def nothing(*_args: Any) -> None:
    pass


def open_file(path: Path) -> BooksFile:
    return BooksFile(path, clock_us=lambda: STARTED_US, hold_ttl_us=60_000_000, any_thread=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "books.sqlite3"


@pytest.fixture
def make(path: Path) -> Iterator[Make]:
    made: list[LocalBooks] = []

    def one(**parts: Any) -> LocalBooks:
        books = LocalBooks(lambda: open_file(path), **{"sweep": nothing, "beside": nothing, **parts})
        made.append(books)
        return books

    yield one
    for books in made:
        books.close(5)


def need(name: str) -> NeedsHold:
    return NeedsHold(an_opening(name), None)


def begins(books: LocalBooks, name: str) -> None:
    """A hold that no budget looks at."""
    books.hold_later(f"{name}.1", lambda: need(name))


def ending(name: str, amount: int = 1_500) -> NeedsSettlement:
    return NeedsSettlement(an_opening(name), an_attempt(name, amount=amount), None)


def rows(path: Path) -> list[Any]:
    with closing(open_file(path)) as file:
        return [decode_row(entry.row) for entry in file.endings_after(0, 100_000)]


def held(path: Path) -> int:
    with closing(open_file(path)) as file:
        return file.open_holds()


def breaks(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """From now on every transaction fails."""

    def failing(*_args: Any, **_more: Any) -> Any:
        raise error

    monkeypatch.setattr(BooksFile, "apply", failing)
    monkeypatch.setattr(BooksFile, "observe", failing)


# --- holding and ending -----------------------------------------------------------------------------------------


def test_a_hold_is_committed_before_it_is_granted(make: Make, path: Path) -> None:
    """Another process sees it at once."""
    books = make()
    assert isinstance(books.hold(need("a")), Held)
    assert held(path) == 1
    assert books.alive == {"a.1"}
    books.settle_later(ending("a"))
    assert books.alive == set()
    assert books.flush(5)
    assert held(path) == 0
    assert [row.cost_nanousd for row in rows(path)] == [1_500]


def test_endings_are_written_within_a_moment(make: Make, path: Path) -> None:
    """By the thread of the books, without anybody asking for it."""
    books = make()
    begins(books, "a")
    books.settle_later(ending("a"))
    deadline = time.monotonic() + 5
    while not rows(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert held(path) == 0


def test_who_holds_next_commits_what_ended_before(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same transaction, so that what was given back is there for it."""
    monkeypatch.setattr(books_local, "_LINGER_S", 60.0)
    books = make()
    books.hold(need("a"))
    books.settle_later(ending("a"))
    assert rows(path) == []
    books.hold(need("b"))
    assert len(rows(path)) == 1
    assert held(path) == 1
    books.settle_later(NeedsSettlement(an_opening("b"), None, None))


def test_of_many_threads_nothing_is_lost(make: Make, path: Path) -> None:
    """Eight threads hold, end and observe as they like."""
    books = make()

    def work(thread: int) -> None:
        for number in range(100):
            name = f"{thread}-{number}"
            match number % 3:
                case 0:
                    assert isinstance(books.hold(need(name)), Held)
                    books.settle_later(ending(name))
                case 1:
                    begins(books, name)
                    books.settle_later(ending(name))
                case _:
                    books.observe(an_attempt(name), None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert books.flush(10)
    found = rows(path)
    assert len({row.attempt_id for row in found}) == len(found) == 800
    assert held(path) == 0


def test_a_void_leaves_nothing(make: Make, path: Path) -> None:
    """What never left: no row, no hold."""
    books = make()
    books.hold(need("a"))
    books.settle_later(NeedsSettlement(an_opening("a"), None, None))
    begins(books, "b")
    books.settle_later(NeedsSettlement(an_opening("b"), None, None))
    assert books.flush(5)
    assert (rows(path), held(path)) == ([], 0)


# --- trouble ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BooksFailedError("full"), BooksBusyError("locked"), OSError("gone"), MemoryError()])
def test_what_cannot_be_written_waits_and_is_written_once(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """In its order, when the books work again."""
    books = make()
    with monkeypatch.context() as broken:
        breaks(broken, error)
        for number in range(40):
            begins(books, f"a{number}")
        for number in range(40):
            books.settle_later(ending(f"a{number}", amount=number + 1))
        assert books.flush(0.05) is False
        assert rows(path) == []
    assert books.flush(5)
    assert [row.cost_nanousd for row in rows(path)] == list(range(1, 41))
    assert held(path) == 0


def test_an_operation_that_no_store_takes_is_left_out_and_said(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not keep the others from being written."""
    apply = BooksFile.apply

    def picky(file: BooksFile, operations: Any) -> Any:
        if any(each.opening.attempt_id == "bad.1" for each in operations):
            raise BooksFailedError("no") from sqlite3.IntegrityError("constraint")
        return apply(file, operations)

    monkeypatch.setattr(BooksFile, "apply", picky)
    books = make()
    for name in ("a", "bad", "b"):
        books.settle_later(ending(name))
    assert books.flush(5)
    assert [row.attempt_id for row in rows(path)] == ["a.1", "b.1"]
    assert "left out" in caplog.text


def test_while_too_much_waits_nothing_more_is_held(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit on what memory keeps."""
    monkeypatch.setattr(books_local, "_WAITING_MAX", 3)
    books = make()
    with monkeypatch.context() as broken:
        breaks(broken, BooksFailedError("full"))
        for number in range(3):
            books.settle_later(ending(f"a{number}"))
        deadline = time.monotonic() + 5
        while books.failure is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = books.hold(need("b"))
    assert isinstance(refused, NotHeld)
    assert "3 endings wait" in refused.reason
    assert "full" in refused.reason


def test_what_belongs_beside_the_books_is_tried_again(make: Make) -> None:
    """A flush that could not write it says so."""
    tries: list[int] = []

    def beside() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise BooksFailedError("traces")

    books = make(beside=beside)
    assert books.flush(0) is False
    assert books.flush(5) is True
    assert len(tries) >= 3


def test_a_thread_in_the_middle_of_a_turn_may_queue_but_not_wait(
    make: Make, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector of garbage may end a call inside of a transaction: queueing works, and asking says it is busy."""
    books = make()
    apply = BooksFile.apply
    said: list[str] = []

    def inside(file: BooksFile, operations: Any) -> Any:
        if not said:
            books.settle_later(ending("collected"))
            with pytest.raises(BooksBusyError) as busy:
                books.task_use("t")
            said.append(str(busy.value))
        return apply(file, operations)

    monkeypatch.setattr(BooksFile, "apply", inside)
    done = threading.Event()
    threading.Thread(target=lambda: (books.hold(need("a")), done.set()), daemon=True).start()
    assert done.wait(10)
    books.settle_later(ending("a"))
    assert books.flush(5)
    assert sorted(row.attempt_id for row in rows(path)) == ["a.1", "collected.1"]


# --- its end ----------------------------------------------------------------------------------------------------


def test_after_its_end_nothing_is_held_but_endings_are_written(make: Make, path: Path) -> None:
    """A stream may outlive the session."""
    books = make()
    books.hold(need("a"))
    assert books.close(5)
    with pytest.raises(BooksFailedError, match=r"bursar\.init"):
        books.hold(need("b"))
    books.settle_later(ending("a"))
    assert [row.attempt_id for row in rows(path)] == ["a.1"]
    assert held(path) == 0


def test_the_thread_ends_with_the_books(make: Make) -> None:
    """And there is none before something is to be written."""
    before = {thread for thread in threading.enumerate() if thread.name == "bursar-books"}
    books = make()
    assert {t for t in threading.enumerate() if t.name == "bursar-books"} == before
    books.settle_later(ending("a"))
    (thread,) = {t for t in threading.enumerate() if t.name == "bursar-books"} - before
    books.close(5)
    thread.join(5)
    assert not thread.is_alive()


# --- sweeping ---------------------------------------------------------------------------------------------------


def test_the_sweeper_is_told_what_is_alive(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a long call's hold is renewed and a dead process's expires."""
    monkeypatch.setattr(books_local, "_RENEW_EVERY_S", 0.01)
    told: list[set[str]] = []
    books = make(sweep=lambda _file, alive: told.append(alive))
    books.hold(need("a"))
    books.hold(need("b"))
    books.settle_later(ending("b"))
    deadline = time.monotonic() + 5
    while {"a.1"} not in told:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    books.settle_later(ending("a"))


# --- forks ------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], bool]) -> int:
    """How a forked child that does this ends: 0 where it was true."""
    child = os.fork()
    if child == 0:
        code = 9
        try:
            code = 0 if work() else 7
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_writes_its_own_and_leaves_its_parents(make: Make, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waited in the parent is written by the parent alone."""
    monkeypatch.setattr(books_local, "_LINGER_S", 60.0)
    books = make()
    books.settle_later(ending("parent"))

    def work() -> bool:
        books.settle_later(ending("child"))
        return books.flush(10) and books.alive == set()

    assert in_child(work) == 0
    assert [row.attempt_id for row in rows(path)] == ["child.1"]
    assert books.flush(5)
    assert [row.attempt_id for row in rows(path)] == ["child.1", "parent.1"]


def test_no_connection_is_open_while_a_process_forks(make: Make, path: Path) -> None:
    """A child of a parent that writes all the time can write at once, every time: no lock of the parent's came along."""
    books = make()
    stop = threading.Event()

    def busy() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            books.hold(need(f"busy{number}"))
            books.settle_later(NeedsSettlement(an_opening(f"busy{number}"), None, None))

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        codes = [
            in_child(lambda number=number: isinstance(books.hold(need(f"child{number}")), Held)) for number in range(15)
        ]
    finally:
        stop.set()
        thread.join(20)
    assert codes == [0] * 15
    assert held(path) >= 15


def test_limits_of_tasks_are_remembered_across_a_fork(make: Make) -> None:
    """While the books fail nobody could look them up."""
    books = make()
    books.place([TaskLimit("t", "", NanoUSD(1_000), NanoUSD(0))])
    assert books.limited_tasks() == {"t"}
    assert in_child(lambda: books.limited_tasks() == {"t"}) == 0
    assert books.limited_tasks() == {"t"}
