"""The benchmark starts, and its arithmetic is right."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )


def test_list_names_every_part() -> None:
    """``--list`` names each part once, each is a module, and docs/benchmarks.md says something of it."""
    done = _bench("--list")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["gateway", "inprocess", "imports", "otlp", "ledger", "routes", "peers", "outage", "sdk"]
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in names:
        assert (ROOT / "bench" / f"{name}.py").is_file()
        assert f"`{name}`" in page


def test_an_unknown_part_is_refused_by_name() -> None:
    """A part that does not exist is an error that lists those that do."""
    done = _bench("--only", "gatway")
    assert done.returncode == 2
    assert "gatway" in done.stderr
    assert "gateway" in done.stderr


def test_a_figure_that_was_not_measured_has_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ratio is value over reference; what was not measured is null in the JSON and says so in the table, never zero."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.measure import percentile
    from bench.report import Figure, Report, not_measured, write_json

    assert (percentile(range(1, 101), 50), percentile(range(1, 101), 99), percentile([7.0], 99)) == (50, 99, 7.0)
    figure = Figure("a", 50.0, "/s", "bare", 200.0, ">= 0.5 x", False)
    report = Report("part", (figure, not_measured("b", "not installed")))
    write_json(tmp_path / "out" / "x.json", {"cores": 2}, [report])
    first, second = json.loads((tmp_path / "out" / "x.json").read_text())["parts"]["part"]["figures"]
    assert first["ratio"] == 0.25
    assert (second["value"], second["ratio"], second["goal_met"]) == (None, None, None)
    text = report.text()
    assert "MISSED" in text
    assert "not measured: not installed" in text


def test_what_a_tool_adds_is_the_difference_to_its_neighbour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A round in which the machine was slow for both changes nothing; the median of the rounds' differences is reported."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.sdk import Runner, added

    process: Any = None
    plain, tool = (Runner(name, tmp_path, process, None) for name in ("plain-otel", "otel"))
    plain.rounds["call"] = [([100.0] * 100, 110.0), ([900.0] * 100, 950.0), ([100.0] * 99 + [500.0], 120.0)]
    tool.rounds["call"] = [([130.0] * 100, 190.0), ([930.0] * 100, 1030.0), ([131.0] * 99 + [600.0], 200.0)]
    found = added(plain, tool, "call")
    assert (found.p50_us, found.p99_us, found.cpu_us) == (30.0, 31.0, 80.0)


def test_a_disturbed_round_is_repeated_and_the_least_disturbed_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first round that got its core counts; where none did, the best one does and is counted as disturbed."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.sdk import Runner

    def lines(*shares: float) -> Any:
        return iter([{"taken_ns": [round(share * 1_000_000)], "cpu_us": 1.0, "share": share} for share in shares])

    process: Any = None
    runner = Runner("otel", tmp_path, process, None)
    for shares in ((0.5, 0.9, 0.95), (0.3, 0.6, 0.4, 0.2, 0.99)):
        answers = lines(*shares)
        monkeypatch.setattr(Runner, "_round", lambda _self, _mode, _calls, answers=answers: next(answers))
        runner.turn("call", 1, kept=True)
    assert [taken for taken, _ in runner.rounds["call"]] == [[900.0], [600.0]]
    assert runner.disturbed == 1


def test_a_goal_beside_peers_is_missed_when_one_of_them_adds_less(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ours carries the goal and the ratio to each peer; a peer carries neither; one faster peer is a missed goal."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.sdk import Runner, _compared

    process: Any = None
    runners = {name: Runner(name, tmp_path, process, None) for name in ("plain-bursar", "plain-otel", "plain-langfuse")}
    for runner in runners.values():
        runner.rounds["call"] = [([400.0] * 100, 500.0)]
    ours, *peers = _compared("call", "p50_us", {"enforce": 100.0, "otel": 200.0, "langfuse": 80.0}, runners)
    assert (ours.goal_met, ours.reference_value, ours.ratio) == (False, 400.0, 0.25)
    assert ours.note == "0.50 x OpenTelemetry openai-v2 2.4b0, 1.25 x langfuse 5.0.4"
    assert [(peer.goal, peer.goal_met, peer.note) for peer in peers] == [("", None, "")] * 2
    ours, _ = _compared("call", "p50_us", {"enforce": 100.0, "otel": 200.0}, runners)
    assert ours.goal_met is True


def test_a_peer_that_cannot_be_measured_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says why; it is not compared with."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.sdk import _call_figures
    from bench.sdk_sides import SIDES, reference_of

    tools = [name for name in SIDES if name != reference_of(name)]
    figures = list(_call_figures({}, dict.fromkeys(tools, "it did not start")))
    assert [figure.name for figure in figures] == [SIDES[name].title for name in tools]
    assert {(figure.value, figure.note) for figure in figures} == {(None, "not measured: it did not start")}


def test_every_version_beside_the_sdk_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each requirement names one version, each environment a plain client, and a peer's title the version it has."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.sdk_sides import ENVIRONMENTS, SIDES, reference_of

    pins = [pin for pinned in ENVIRONMENTS.values() for pin in pinned]
    assert all(pin.count("==") == 1 for pin in pins)
    assert {SIDES[reference_of(name)].environment for name in SIDES} == set(ENVIRONMENTS)
    peers = [side for side in SIDES.values() if side.environment != "bursar" and not side.title.startswith("plain")]
    assert len(peers) == 5
    for peer in peers:
        assert any(pin.split("==")[1] in peer.title.replace(",", "").split() for pin in ENVIRONMENTS[peer.environment])


async def test_the_stub_answers_each_mode_whole_and_no_id_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client reads the answers of all four modes; two answers never share an id."""
    monkeypatch.syspath_prepend(str(ROOT))
    import openai
    from bench.sdk_stub import PLAIN_CALLS, Calls

    create, acreate = PLAIN_CALLS
    ids: list[str] = []

    def noted(client: Any, **asked: Any) -> Any:
        answer = create(client, **asked)
        if not asked.get("stream"):
            ids.append(answer.id)
            return answer
        chunks = list(answer)
        assert len(chunks) == 32
        ids.append(chunks[0].id)
        return chunks

    calls = Calls(noted, acreate, openai)
    for _ in range(3):
        calls.call()
        calls.stream()
        await calls.async_call()
        await calls.async_stream()
    assert len(set(ids)) == len(ids) == 6


def test_a_worker_makes_the_rounds_it_is_told_to(tmp_path: Path) -> None:
    """Over its connection a side gives back the time of each call and the processor time of the round."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "bench.sdk_worker",
            "serve",
            "plain-bursar",
            "http://127.0.0.1:9",
            tmp_path,
            port,
        ]
        with subprocess.Popen([str(part) for part in command], cwd=ROOT) as worker:
            listener.settimeout(30)
            connection, _ = listener.accept()
            connection.settimeout(30)
            with connection, connection.makefile("rw", encoding="utf-8") as lines:
                for mode in ("call", "stream", "async call", "async stream"):
                    lines.write(json.dumps({"mode": mode, "calls": 3}) + "\n")
                    lines.flush()
                    done = json.loads(lines.readline())
                    assert len(done["taken_ns"]) == 3
                    assert min(done["taken_ns"]) > 0
                    assert done["cpu_us"] > 0
            assert worker.wait(30) == 0


def test_a_side_reaches_nothing_but_this_machine() -> None:
    """A tool that would fetch something by name is refused."""
    code = (
        "import socket; from bench import sdk_worker; sdk_worker._stay_here(); "
        "socket.getaddrinfo('127.0.0.1', 80); socket.getaddrinfo('prices.invalid', 443)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "OSError: 'prices.invalid' is not on this machine"


async def test_what_is_exported_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector takes every request, and knows how many bytes came."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.sdk_collector import Collector

    def send(url: str, body: bytes) -> int:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10) as answer:
            return answer.status

    with Collector() as collector:
        assert collector.received_bytes == 0
        for body in (b"12345", b"678"):
            assert await asyncio.to_thread(send, f"{collector.url}/v1/traces", body) == 200
        assert collector.received_bytes == 8
