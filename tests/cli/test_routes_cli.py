"""`bursar routes`: a table per route, exact for machines, and the breakers of a running server."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.routes import routes_command
from bursar.doors.gateway.metrics import Metrics
from route_stories import candidate, decided, fallback, hit, primary
from seeding import MemoryLedger

Run = Callable[..., Result]


class Running:
    """What the data directory says of the running server, and of the configuration."""

    def __init__(self) -> None:
        self.about: dict[str, Any] | None = None
        self.routes: dict[str, Any] = {}

    def server(self) -> dict[str, Any] | None:
        return self.about


@pytest.fixture
def running() -> Running:
    return Running()


@pytest.fixture
def ledger() -> MemoryLedger:
    ledger = MemoryLedger()
    for number in range(3):
        primary(ledger, f"p{number}", team="search")
    fallback(ledger)
    hit(ledger, "h0")
    return ledger


@pytest.fixture
def run(ledger: MemoryLedger, running: Running, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `bursar routes` on the ledger in memory, in a terminal of some width."""

    @contextmanager
    def open_queries(path: Path | None) -> Iterator[MemoryLedger]:
        yield ledger

    compose = types.ModuleType("bursar.compose")
    monkeypatch.setattr(compose, "open_queries", open_queries, raising=False)
    monkeypatch.setattr(compose, "open_data", lambda _path: running, raising=False)
    monkeypatch.setattr(compose, "settings_of", lambda data: data, raising=False)
    monkeypatch.setitem(sys.modules, "bursar.compose", compose)

    def invoke(*arguments: str, width: int = 130) -> Result:
        return CliRunner().invoke(routes_command, arguments, env={"COLUMNS": str(width)}, prog_name="bursar routes")

    return invoke


@contextmanager
def serving(running: Running, metrics: Metrics) -> Iterator[None]:
    """A server that answers /metrics with these."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(metrics.text())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    running.about = {"url": f"http://127.0.0.1:{server.server_port}", "pid": 1}
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_route_with_its_rungs(run: Run) -> None:
    """Calls and their share, errors, times, money, and why the first rung was left."""
    text = run().stdout
    assert (
        "5 calls, 5 attempts (1.25 for each call that asked a provider), $0.0138, $0.0042 avoided by the cache" in text
    )
    rungs = {
        line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("cached", "primary", "fall"))
    }
    assert rungs["cached"] == ["cached", "1", "20%", "1", "ms", "1", "ms", "$0.00"]
    assert rungs["primary"] == ["primary", "openai/gpt-5-mini", *["3", "60%", "1", "850", "ms", "850", "ms", "$0.0126"]]
    assert rungs["fallback"][2:] == ["1", "20%", "900", "ms", "900", "ms", "$0.0012", "overload", "1"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits(run: Run, width: int) -> None:
    """Names are cut, amounts and calls never."""
    text = run(width=width).stdout
    table = [line for line in text.splitlines() if line.startswith(("Rung", "cached", "primary", "fall"))]
    assert max(map(len, table)) <= width
    assert "$0.0126" in text


def test_machines_get_exact_figures(run: Run) -> None:
    """JSON has the routes and the breakers (null: not known), CSV a line for each rung."""
    answer = json.loads(run("--json").stdout)
    assert (answer["routes"][0]["amplification"], answer["more_rungs"], answer["breakers"]) == (1.25, 0, None)
    rows = list(csv.DictReader(io.StringIO(run("fast", "--csv").stdout)))
    assert [(row["route"], row["rung"], row["calls"], row["causes"]) for row in rows] == [
        ("fast", "cached", "1", ""), ("fast", "primary", "3", ""), ("fast", "fallback", "1", "overload=1"),
    ]  # fmt: skip


def test_the_breakers_of_a_running_server(run: Run, running: Running) -> None:
    """What is left alone, and whether it will be tried; a server that does not answer is said, not guessed."""
    metrics = Metrics()
    states = [("openai", "gpt-5-mini", "open"), ("anthropic", 'a "b"', "probe"), ("groq", "llama", "closed")]
    metrics.breakers = lambda: states
    with serving(running, metrics):
        text = run().stdout
        assert "Breaker of openai gpt-5-mini: open" in text
        assert 'Breaker of anthropic a "b": ready to be probed' in text
        assert "groq llama:" not in text
        assert json.loads(run("--json").stdout)["breakers"][1] == {
            "provider": "groq", "model": "llama", "state": "closed",
        }  # fmt: skip
        states[:] = states[2:]
        assert "No breaker is open (1 target in use)." in run().stdout
    for about in (running.about, None, {}):
        running.about = about
        assert "how its breakers stand is not known" in run().stdout


def test_the_breakers_of_one_route(run: Run, running: Running, ledger: MemoryLedger) -> None:
    """Those of its rungs, also of one that was only passed over, and of no other route's; the same of some calls."""
    mini = candidate("primary", ("openai", "gpt-4.1-mini"), "taken")
    primary(ledger, "other", team="care", decision=decided("primary", "asked", mini, route="other"))
    metrics = Metrics()
    metrics.breakers = lambda: [("openai", "gpt-4.1-mini", "open"), ("anthropic", "claude-sonnet-4-5", "open")]
    with serving(running, metrics):
        for asked, shown, hidden in (
            (("fast",), "claude-sonnet-4-5", "gpt-4.1-mini"),
            (("other",), "gpt-4.1-mini", "claude-sonnet-4-5"),
            (("--where", "team=care"), "gpt-4.1-mini", "claude-sonnet-4-5"),
        ):
            _, _, breakers = run(*asked).stdout.partition("Breaker of")
            assert (shown in breakers, hidden in breakers) == (True, False)
            assert [each["model"] for each in json.loads(run(*asked, "--json").stdout)["breakers"]] == [shown]
        assert run().stdout.count("Breaker of") == 2


def test_a_route_that_is_not_there(run: Run, running: Running, ledger: MemoryLedger) -> None:
    """It is named, with those that are set up or have calls; one without calls is no mistake."""
    running.routes = {"slow": [], "\x1b[31m": []}
    for options in ((), ("--json",), ("--csv",)):
        wrong = run("nosuch", *options)
        assert (wrong.exit_code, wrong.stdout) == (1, "")
        assert "there is no route 'nosuch'; known are \N{REPLACEMENT CHARACTER}[31m, fast, slow" in wrong.stderr
    assert (run("slow").exit_code, "No call on route slow matches." in run("slow").stdout) == (0, True)
    assert "No call on route fast matches." in run("fast", "--until", "2020-01-01").stdout
    running.routes |= {f"r{number:02d}": [] for number in range(30)}
    assert run("nosuch").stderr.rstrip().endswith(", r17, and 13 more")
    running.routes.clear()
    ledger.connection.execute("DELETE FROM attempt")
    assert "none is set up under `routes:`" in run("nosuch").stderr


def test_what_was_summed_up_is_said(run: Run, ledger: MemoryLedger) -> None:
    """Sums have no route: how many attempts they are of stands at the end."""
    assert json.loads(run("--json").stdout)["rolled_up_attempts"] == 0
    assert "retention" not in run().stdout
    ledger.rollup(rung="primary", attempts=1_200)
    ledger.rollup(attempts=7)
    words = "1,200 attempts older than the retention are in no figure"
    assert words in run().stdout
    assert words in run("--csv").stderr
    assert json.loads(run("--json").stdout)["rolled_up_attempts"] == 1_200
    assert "retention" not in run("--since", "2026-01-01").stdout


def test_nothing_to_show(run: Run, ledger: MemoryLedger) -> None:
    """No route matches, or the ledger is empty; a question that cannot be asked names its option."""
    assert "No call on a route matches." in run("--where", "team=nobody").stdout
    assert "5 calls" in run("fast").stdout
    wrong = run("--where", "model=x")
    assert (wrong.exit_code, "--where" in wrong.stderr) == (2, True)
    assert "1 more rung not shown" in run("--limit", "2").stdout
    ledger.connection.execute("DELETE FROM attempt")
    assert "The ledger is empty." in run().stdout


def test_the_example_of_the_documentation(run: Run, ledger: MemoryLedger, running: Running) -> None:
    """The example of docs/reports.md is this very output."""
    ledger.connection.execute("DELETE FROM attempt")
    for number in range(211):
        primary(ledger, f"p{number}", cost_nanousd=3_900_000 + number * 7_000, latency_ms=600.0 + number * 7)
    for number in range(10):
        fallback(ledger, f"f{number}")
    for number in range(40):
        hit(ledger, f"h{number}")
    metrics = Metrics()
    metrics.breakers = lambda: [("openai", "gpt-5-mini", "closed"), ("anthropic", "claude-sonnet-4-5", "open")]
    with serving(running, metrics):
        text = run(width=106).stdout
    page = (Path(__file__).parents[2] / "docs/reports.md").read_text(encoding="utf-8")
    assert "\n".join(line.rstrip() for line in text.splitlines()) in page, text
