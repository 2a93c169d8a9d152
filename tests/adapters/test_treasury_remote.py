"""The treasury over a server: what is on disk, what is told, and what holds while nobody answers."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bursar.adapters import treasury_remote
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.treasury_remote import RemoteTreasury
from bursar.core.budgets import TaskLimit
from bursar.core.call import NotHeld, Reply
from bursar.core.errors import BooksFailedError, ConfigError
from bursar.core.money import NanoUSD
from bursar.core.observations import TaskOutcome
from bursar.core.prices import Reading
from bursar.core.scopes import Scope
from bursar.core.usage import Usage
from bursar.engine.messages import TOLD, Extended, Permission, encode
from bursar.engine.permits import Ask, Ended, Permit
from bursar.engine.ports import TaskUse
from bursar.engine.rulebook import ProviderRule, Rulebook
from bursar.wire.dialect import RequestFacts
from bursar.wire.providers import providers
from making import an_opening, replaced


class Desk:
    """A server that answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.keys: list[str | None] = []
        self.answers: dict[str, tuple[int, bytes]] = {
            "hold": (200, encode(Permission(Permit(an_opening(), NanoUSD(7))))),
            "extend": (200, encode(Extended())),
            "told": (200, b"{}"),
            "tasks": (200, encode(TaskUse(NanoUSD(5), NanoUSD(2), 3, 0))),
        }
        self.refuses: Callable[[bytes], bool] = lambda _body: False
        self.hangs_up = False
        self.delay_s = 0.0
        desk = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                what = self.path.removeprefix("/bursar/v1/").split("/")[0]
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                desk.asked.append((what, body))
                desk.keys.append(self.headers.get("authorization"))
                time.sleep(desk.delay_s)
                status, answer = desk.answers[what]
                if desk.refuses(body):
                    status, answer = 400, b"no"
                self.send_response_only(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                self.close_connection = desk.hangs_up

            do_GET = answer  # noqa: N815 - the name that http.server looks for
            do_POST = answer  # noqa: N815 - as above

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01))
        self._thread.start()

    def told(self) -> list[str]:
        """The attempts of which the server was told, in order."""
        bodies = [TOLD.decode(body) for what, body in self.asked if what == "told"]
        return [ended.opening.attempt_id for told in bodies for ended in told.endings]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


Make = Callable[..., RemoteTreasury]


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


@pytest.fixture
def make(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(treasury_remote, "_AWAY_S", 0.2)
    made: list[RemoteTreasury] = []

    def one(url: str = "", key: str = "secret") -> RemoteTreasury:
        treasury = RemoteTreasury(url or desk.url, key, tmp_path, a_rulebook)
        made.append(treasury)
        return treasury

    yield one
    for treasury in made:
        treasury.close(0)


def a_rulebook() -> Rulebook:
    return Rulebook(
        providers={row.id: ProviderRule(row, row.base_url, None, ()) for row in providers()},
        book=bundled_book(),
        require_keys=False,
        body_bytes_max=1,
        body_timeout_s=1,
        concurrency_max=1,
    )


def an_ask(name: str = "call-1", *, fee: int | None = None, **more: Any) -> Ask:
    opening = an_opening(name, door="sdk", model_asked="gpt-4o-mini", **more)
    if fee is not None:
        return Ask(replaced(opening, kind="tool", model_asked="look"), tool="look", fee=NanoUSD(fee))
    facts = RequestFacts("chat_completions", "gpt-4o-mini", input_tokens_estimate=100, output_cap=100)
    return Ask(opening, facts, "/v1/chat/completions", can_cap=True)


def an_end(name: str = "call-1") -> Ended:
    ask = an_ask(name)
    reading = Reading(Usage(input_tokens=10, output_tokens=5), model="gpt-4o-mini")
    return Ended(ask, ask.opening, Reply(reading, "ok", http_status=200, latency_ms=1.0))


def spool(folder: Path) -> list[Path]:
    return sorted(folder.glob("spool-*.jsonl"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- asking -----------------------------------------------------------------------------------------------------


def test_what_the_server_says_is_what_is_got(make: Make, desk: Desk) -> None:
    """Permit, extension, use of a task; the key goes along with each."""
    treasury = make()
    permit = treasury.hold(an_ask())
    assert isinstance(permit, Permit)
    assert permit.amount == 7
    assert treasury.extend(permit, 4_096) == ""
    assert treasury.task_use("a/b c").left == 3
    assert [what for what, _ in desk.asked] == ["hold", "extend", "tasks"]
    assert set(desk.keys) == {"Bearer secret"}
    assert treasury.remote


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"oops", "500"),
        (503, b"shutting down", "shutting down"),
        (401, b"a key is required", "401"),
        (404, b"", "404"),
        (400, b"of another version", "of another version"),
        (200, b"<html>", "cannot be understood"),
        (200, b"", "cannot be understood"),
        (200, b"{}", ""),
        (200, b'{"permit": 7}', "cannot be understood"),
    ],
)
def test_an_answer_that_is_none_holds_nothing(make: Make, desk: Desk, status: int, body: bytes, words: str) -> None:
    """It is said why, with the server's own words."""
    desk.answers["hold"] = (status, body)
    outcome = make().hold(an_ask())
    assert isinstance(outcome, NotHeld)
    assert outcome.refusal is None
    assert words in outcome.reason


def test_a_server_that_is_too_slow_is_away(make: Make, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call does not wait for it longer than it may."""
    monkeypatch.setattr(treasury_remote, "_HOLD_TIMEOUT_S", 0.1)
    desk.delay_s = 1.0
    began = time.monotonic()
    outcome = make().hold(an_ask())
    assert isinstance(outcome, NotHeld)
    assert "cannot be reached" in outcome.reason
    assert time.monotonic() - began < 0.9


def test_a_server_that_is_away_is_not_asked_again_at_once(make: Make, desk: Desk) -> None:
    """Calls meanwhile do not each wait for it; after a moment it is asked again."""
    treasury = make()
    desk.answers["hold"] = (503, b"")
    for _ in range(10):
        assert isinstance(treasury.hold(an_ask()), NotHeld)
    assert len(desk.asked) == 1
    time.sleep(0.25)
    desk.answers["hold"] = (200, encode(Permission(Permit(an_opening(), NanoUSD(7)))))
    assert isinstance(treasury.hold(an_ask()), Permit)


def test_connections_that_the_server_has_closed_are_made_anew(make: Make, desk: Desk) -> None:
    """Also where several were open."""
    treasury = make()
    desk.delay_s = 0.1
    threads = [threading.Thread(target=treasury.hold, args=(an_ask(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    desk.delay_s, desk.hangs_up = 0.0, True
    for _ in range(5):
        assert isinstance(treasury.hold(an_ask()), Permit)


@pytest.mark.parametrize("url", ["localhost:4000", "ftp://host", "http://", "", "4000"])
def test_a_url_that_is_none_is_said(tmp_path: Path, url: str) -> None:
    """With what to write."""
    with pytest.raises(ConfigError, match="http://"):
        RemoteTreasury(url, "", tmp_path, a_rulebook)


# --- while nobody answers ---------------------------------------------------------------------------------------


def allow(desk: Desk, up_to: int | None) -> None:
    desk.answers["hold"] = (200, encode(Permission(Permit(an_opening(), NanoUSD(7), offline_up_to=up_to))))


def test_meanwhile_as_much_may_be_spent_as_was_said_last(make: Make, desk: Desk) -> None:
    """For this scope, counted down; another scope, and a task with a limit of its own, may not."""
    treasury = make()
    allow(desk, 1_000)
    scope = Scope(team="t")
    assert isinstance(treasury.hold(an_ask(fee=1, scope=scope)), Permit)
    desk.answers["hold"] = (503, b"")
    assert isinstance(treasury.hold(an_ask(fee=600, scope=scope)), Permit)
    assert isinstance(treasury.hold(an_ask(fee=400, scope=replaced(scope, task="x"))), Permit)
    used_up = treasury.hold(an_ask(fee=1, scope=scope))
    assert isinstance(used_up, NotHeld)
    assert "used up" in used_up.reason
    assert isinstance(treasury.hold(an_ask(fee=1, scope=Scope(team="other"))), NotHeld)
    limited = replaced(an_ask(fee=1, scope=scope), task=TaskLimit("x", "", NanoUSD(5)))
    assert isinstance(treasury.hold(limited), NotHeld)


def test_meanwhile_without_a_limit_and_without_leave(make: Make, desk: Desk) -> None:
    """Where no budget looked, everything may go on; where one says nothing, nothing may. The next answer counts anew."""
    treasury = make()
    allow(desk, -1)
    treasury.hold(an_ask())
    desk.answers["hold"] = (503, b"")
    permit = treasury.hold(an_ask())
    assert isinstance(permit, Permit)
    assert permit.opening.estimate.amount
    time.sleep(0.25)
    allow(desk, None)
    treasury.hold(an_ask())
    desk.answers["hold"] = (503, b"")
    assert isinstance(treasury.hold(an_ask()), NotHeld)


def test_a_stream_cannot_be_extended_while_nobody_answers(make: Make, desk: Desk) -> None:
    """It ends cleanly with a reason."""
    desk.answers["extend"] = (503, b"later")
    assert "later" in make().extend(Permit(an_opening()), 4_096)


# --- telling ----------------------------------------------------------------------------------------------------


def test_what_happened_is_told_in_order_and_leaves_the_disk(make: Make, desk: Desk, tmp_path: Path) -> None:
    """Within a moment, in few messages; then the spool is empty, and gone when the process ends normally."""
    treasury = make()
    for number in range(50):
        treasury.settle(an_end(f"c{number}"))
    treasury.note((), (TaskOutcome("t", "done", 1),))
    assert treasury.flush(5)
    assert desk.told() == [f"c{number}.1" for number in range(50)]
    assert len(desk.asked) < 20
    (file,) = spool(tmp_path)
    assert file.stat().st_size == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert treasury.close(5)
    assert spool(tmp_path) == []


def test_what_happened_is_on_disk_before_anybody_goes_on(make: Make, desk: Desk, tmp_path: Path) -> None:
    """A kill at this moment loses nothing; what the server has is not kept twice."""
    desk.answers["told"] = (503, b"")
    treasury = make()
    treasury.settle(an_end("a"))
    treasury.observe(an_end("b"))
    (file,) = spool(tmp_path)
    told = [TOLD.decode(line) for line in file.read_bytes().splitlines()]
    assert [each.endings[0].opening.attempt_id for each in told] == ["a.1", "b.1"]
    assert treasury.flush(0.05) is False
    desk.answers["told"] = (200, b"{}")
    assert treasury.flush(5)
    assert file.read_bytes() == b""


def test_one_thing_that_the_server_refuses_does_not_hold_up_the_rest(
    make: Make, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left out and said; each of the others arrives."""
    desk.refuses = lambda body: b'"bad.1"' in body
    treasury = make()
    for name in ("a", "bad", "b"):
        treasury.settle(an_end(name))
    assert treasury.flush(5)
    arrived = [name for name in desk.told() if name != "bad.1"]
    assert set(arrived) == {"a.1", "b.1"}
    assert "left out" in caplog.text


@pytest.mark.parametrize("why", ["full", "gone"])
def test_a_spool_that_cannot_be_written_costs_nobody_their_answer(
    make: Make, desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """What happens is in memory then, said once, and told all the same."""
    treasury = make()
    desk.answers["told"] = (503, b"")
    if why == "full":
        monkeypatch.setattr(treasury_remote, "_SPOOL_BYTES_MAX", 10)
    else:
        tmp_path.rmdir()
    for number in range(3):
        treasury.settle(an_end(f"c{number}"))
    assert caplog.text.count("only in memory") == 1
    desk.answers["told"] = (200, b"{}")
    assert treasury.flush(5)
    assert desk.told()[-3:] == ["c0.1", "c1.1", "c2.1"]
    tmp_path.mkdir(exist_ok=True)


def test_the_use_of_a_task_includes_what_has_just_happened(make: Make, desk: Desk) -> None:
    """It is told first; where that cannot be, nothing is claimed."""
    treasury = make()
    treasury.settle(an_end("a"))
    assert treasury.task_use("t").spent == 5
    assert [what for what, _ in desk.asked][-2:] == ["told", "tasks"]
    desk.answers["tasks"] = (500, b"")
    with pytest.raises(BooksFailedError):
        treasury.task_use("t")


def test_tasks_are_placed_before_they_are_asked_about(make: Make, desk: Desk) -> None:
    """The server knows their limits then."""
    make().place([TaskLimit("t", "", NanoUSD(5))])
    (body,) = [body for what, body in desk.asked if what == "told"]
    assert TOLD.decode(body).tasks == (TaskLimit("t", "", NanoUSD(5)),)


# --- the spools of others ---------------------------------------------------------------------------------------


def line_of(name: str) -> bytes:
    from bursar.engine.messages import Told

    return encode(Told(endings=(an_end(name),)))


def test_the_spool_of_a_dead_process_is_taken_over(make: Make, desk: Desk, tmp_path: Path) -> None:
    """Its whole lines, without the half one at its end; its file goes."""
    orphan = tmp_path / "spool-1-aaaa.jsonl"
    orphan.write_bytes(line_of("a") + b"\n\n" + line_of("b") + b"\n" + line_of("c")[:40])
    make()
    until(lambda: desk.told() == ["a.1", "b.1"])
    until(lambda: not orphan.exists())


def test_the_spool_of_a_living_process_is_not(make: Make, desk: Desk, tmp_path: Path) -> None:
    """Its lock says that somebody has it."""
    living = tmp_path / "spool-1-aaaa.jsonl"
    living.write_bytes(line_of("a") + b"\n")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        treasury = make()
        treasury.settle(an_end("mine"))
        assert treasury.flush(5)
        time.sleep(0.1)
        assert desk.told() == ["mine.1"]
        assert living.exists()


def test_of_several_heirs_each_line_has_one(make: Make, desk: Desk, tmp_path: Path) -> None:
    """Two processes that start in one moment do not tell it twice."""
    for number in range(20):
        (tmp_path / f"spool-{number}-aaaa.jsonl").write_bytes(line_of(f"o{number}") + b"\n")
    make()
    make()
    until(lambda: len(desk.told()) >= 20)
    assert sorted(desk.told()) == sorted(f"o{number}.1" for number in range(20))
    until(lambda: not [path for path in spool(tmp_path) if path.name.endswith("aaaa.jsonl")])


def test_what_cannot_be_read_in_a_spool_is_left_out(
    make: Make, desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged line, or one of another version, holds nothing up."""
    text = b"nonsense\n" + line_of("a") + b"\n" + json.dumps({"endings": [7]}).encode() + b"\n" + line_of("b") + b"\n"
    (tmp_path / "spool-1-aaaa.jsonl").write_bytes(text)
    treasury = make()
    until(lambda: set(desk.told()) == {"a.1", "b.1"})
    assert treasury.flush(5)
    assert "left out" in caplog.text


def test_a_child_tells_nothing_of_its_parents(make: Make, desk: Desk, tmp_path: Path) -> None:
    """A fork begins with an empty spool of its own."""
    desk.answers["told"] = (503, b"")
    treasury = make()
    treasury.settle(an_end("parent"))
    child = os.fork()
    if child == 0:
        code = 9
        try:
            treasury.settle(an_end("child"))
            code = 0 if len(spool(tmp_path)) == 2 else 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    time.sleep(0.25)
    desk.answers["told"] = (200, b"{}")
    assert treasury.flush(5)
    assert desk.told()[-1] == "parent.1"
    assert "child.1" not in desk.told()
