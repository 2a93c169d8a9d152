"""``bursar alerts``: what is listed, what a test says, what a retry does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_house import Clock, Receiver, open_file
from click.testing import CliRunner, Result

from bursar.adapters.alert_store import AlertStore
from bursar.adapters.http_server import HttpServer
from bursar.cli import root
from bursar.compose import now_us
from bursar.core.alerts import Condition, Transitions
from bursar.core.deliveries import NotSent


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURSAR_CONFIG", raising=False)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver in a thread of its own: the command runs its own event loop."""
    found, ready, stop = Receiver(), threading.Event(), threading.Event()

    async def serve() -> None:
        server = HttpServer(found, "127.0.0.1", 0)
        await server.start()
        found.url = server.url
        ready.set()
        while not stop.is_set():  # noqa: ASYNC110 - the event is another thread's
            await asyncio.sleep(0.01)
        await server.stop(0.1)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield found
    stop.set()
    thread.join()


def run(tmp_path: Path, *words: str) -> Result:
    return CliRunner().invoke(root, ["alerts", *words, "--data", str(tmp_path / "data")])


def configure(tmp_path: Path, **alerts: Any) -> None:
    (tmp_path / "bursar.yaml").write_text(yaml.safe_dump({"alerts": alerts}))


def fire_and_fail(tmp_path: Path) -> None:
    """One alert, of which the notice is a dead letter."""
    (tmp_path / "data").mkdir(exist_ok=True)
    with closing(open_file(tmp_path / "data", Clock())) as file:
        store = AlertStore(file)
        condition = Condition("k{a}", (("severity", "critical"),), (("summary", "Budget x:\x1b[31m 100 % spent"),))
        store.record(
            Transitions((condition,), ()),
            generation=0,
            now_us=now_us(),
            routes=lambda _: [("ops", 0)],
            resolved_routes=lambda *_: None,
        )
        (delivery,) = store.take("ops", now_us=now_us(), limit=1)
        store.ended(delivery, NotSent("ops answers 404", retry=False), now_us=now_us(), seed=0)


def test_list_of_a_new_installation(tmp_path: Path) -> None:
    """Nothing fires, and it is said how alerts could arrive somewhere."""
    result = run(tmp_path, "list")
    assert result.exit_code == 0
    assert "Nothing fires" in result.stdout
    assert "docs/alerts.md" in result.stderr
    assert json.loads(run(tmp_path, "list", "--json").stdout) == {"alerts": [], "deliveries": []}


def test_list_shows_what_fires_and_dead_letters(tmp_path: Path) -> None:
    """With why they could not be delivered, and how to send them again; control characters stay out."""
    fire_and_fail(tmp_path)
    result = run(tmp_path, "list", "--all")
    assert result.exit_code == 0
    assert "100 % spent" in result.stdout
    assert "\x1b" not in result.stdout
    assert "ops answers 404" in result.stdout
    assert "1 dead letter: send again with `bursar alerts retry`" in result.stderr
    found = json.loads(run(tmp_path, "list", "--json").stdout)
    assert found["alerts"][0]["state"] == "firing"
    assert found["alerts"][0]["labels"] == {"severity": "critical"}
    (delivery,) = found["deliveries"]
    assert (delivery["state"], delivery["error"], delivery["next_at"]) == ("dead", "ops answers 404", None)


def test_retry_puts_dead_letters_back(tmp_path: Path) -> None:
    """All, or those named; a number that is none is an error."""
    fire_and_fail(tmp_path)
    wrong = run(tmp_path, "retry", "7")
    assert wrong.exit_code == 1
    assert "0 of 1 were dead letters" in wrong.output
    assert run(tmp_path, "retry", "1").stdout == "1 notice will be sent again.\n"
    assert run(tmp_path, "retry").stdout == "There are no dead letters.\n"
    assert json.loads(run(tmp_path, "list", "--json").stdout)["deliveries"][0]["state"] == "pending"


def test_test_sends_to_every_channel_and_says_what_came_of_it(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marked as a test; exit code 1 when one failed, and no secret is printed."""
    monkeypatch.setenv("GOOD", f"{receiver.url}/services/s3cr3tp4th")
    monkeypatch.setenv("BAD", "http://127.0.0.1:1/s3cr3tp4th")
    configure(
        tmp_path,
        channels={"chat": {"kind": "slack", "url_env": "GOOD"}, "hook": {"kind": "webhook", "url_env": "BAD"}},
    )
    result = run(tmp_path, "test")
    assert result.exit_code == 1
    assert "chat (slack): sent\n" in result.stdout
    assert "hook (webhook): NOT SENT: 127.0.0.1 could not be reached" in result.stdout
    assert "s3cr3tp4th" not in result.output
    assert receiver.received[0].json["text"] == "[TEST INFO] Test of this channel"
    assert run(tmp_path, "test", "chat").exit_code == 0
    found = json.loads(run(tmp_path, "test", "chat", "--json").stdout)
    assert found == {"channels": [{"name": "chat", "sent": True, "error": None}]}
    assert "s3cr3tp4th" not in run(tmp_path, "list").output


def test_test_closes_what_it_opens(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """No incident stays open at the pager because of a test."""
    monkeypatch.setenv("KEY", "r" * 32)
    configure(tmp_path, channels={"p": {"kind": "pagerduty", "token_env": "KEY", "url": receiver.url}})
    assert run(tmp_path, "test").exit_code == 0
    assert [r.json["event_action"] for r in receiver.received] == ["trigger", "resolve"]
    assert len({r.json["dedup_key"] for r in receiver.received}) == 1


def test_test_without_a_channel_says_what_to_do(tmp_path: Path) -> None:
    """Nothing configured is a failure; an unknown name a usage error."""
    result = run(tmp_path, "test")
    assert result.exit_code == 1
    assert "add one under alerts.channels" in result.output
    configure(tmp_path, channels={"a": {"kind": "slack", "url_env": "X"}})
    result = run(tmp_path, "test", "b")
    assert result.exit_code == 2
    assert "there is no channel 'b'; configured are a" in result.output


def test_rules_prints_prometheus_rules() -> None:
    """As a file that Prometheus can load."""
    result = CliRunner().invoke(root, ["alerts", "rules"])
    assert result.exit_code == 0
    assert [group["name"] for group in yaml.safe_load(result.stdout)["groups"]] == [
        "bursar-budgets",
        "bursar-calls",
        "bursar-itself",
    ]
