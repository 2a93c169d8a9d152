"""The same agent through every door leaves the same charges; through several at once it is charged once.

Each run is the agent of ``parity_agent.py`` in a process of its own, with the official SDK, the official instrumentation and
exporter, a real server, and the simulated provider.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bursar.adapters.verify import verify
from bursar.compose import open_books_file, open_data, open_ledger, settings_of
from doors.parity_agent import PRICE, SUB_TASK, TASK

AGENT = Path(__file__).with_name("parity_agent.py")
ONE_DOOR = ("sdk", "sdk-async", "remote", "gateway", "otlp")
SEVERAL = ("sdk+otlp", "sdk-async+otlp", "gateway+sdk+otlp")


@contextmanager
def running(*command: str, cwd: Path) -> Iterator[str]:
    """A command of ours that prints where it listens. Stopped at the end, which must be clean."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bursar", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "http://127.0.0.1:" in line:
                port = line.partition("http://127.0.0.1:")[2].split()[0].strip("/. ()")
                break
        else:
            raise AssertionError(f"{command} ended before it listened")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def run_agent(doors: str, folder: Path) -> list[dict[str, Any]]:
    """The ledger after one run, in the order of the calls, and proved clean."""
    # So fast that it is soon over, and so slow that a stream is left before it has ended.
    with running("sim", "--port", "0", "--seed", "1", "--tokens-per-second", "400", cwd=folder) as simulator:
        config = folder / "bursar.yaml"
        config.write_text(
            f"server: {{port: 0}}\nproviders:\n  openai: {{base_url: '{simulator}/v1'}}\n"
            f"tools:\n  crm.search: {{per_call: {PRICE}}}\n"
        )
        with running("up", "--data", str(folder), "--config", str(config), cwd=folder) as server:
            environment = {**os.environ, "BURSAR_CONFIG": str(config)}
            subprocess.run(
                [sys.executable, str(AGENT), doors, str(folder), simulator, server],
                env=environment,
                check=True,
                timeout=50,
            )
            _at_rest(server)
    data = open_data(folder)
    with closing(open_books_file(data, settings_of(data, config))) as books:
        with open_ledger(data, books) as ledger:
            rows = ledger.rows(
                'SELECT door, kind, model, task, parent_task, agent, "user", team, units, cost_nanousd, status, estimated,'
                " unpriced_reason FROM attempt ORDER BY started_at"
            )
            assert verify(books, ledger).differences == ()
        assert books.open_holds() == 0
    return rows


def _at_rest(server: str) -> None:
    """Until nothing waits for its decision, which takes as long as a trace may still grow."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{server}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        backlog = next(line for line in text.splitlines() if line.startswith("bursar_telemetry_backlog"))
        if float(backlog.split()[-1]) == 0:
            return
        time.sleep(0.1)
    raise AssertionError("observations still wait for their decision")


def known(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was charged for answers: everything but who saw it."""
    columns = ("kind", "model", "task", "parent_task", "agent", "user", "team", "cost_nanousd", "status")
    return [
        (
            *(row[column] for column in columns),
            {n: c for n, c in row["units"].items() if n not in ("tool_ms", "tool_bytes")},
        )
        for row in rows
        if row["status"] == "ok" and row["cost_nanousd"]
    ]


@pytest.fixture(scope="module")
def by_sdk(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_agent("sdk", tmp_path_factory.mktemp("sdk"))


def test_what_the_agent_costs(by_sdk: list[dict[str, Any]]) -> None:
    """The run itself: two answers and a tool are paid for, an error costs nothing, a stream that was left is estimated."""
    kinds = [(row["kind"], row["task"], row["status"], row["estimated"]) for row in by_sdk]
    assert kinds == [
        ("model", TASK, "ok", False),
        ("tool", TASK, "ok", False),
        ("model", SUB_TASK, "ok", False),
        ("model", TASK, "error", False),
        ("model", TASK, "cancelled", True),
    ]
    assert [row["parent_task"] for row in by_sdk] == ["", "", TASK, "", ""]
    assert {(row["agent"], row["user"], row["team"]) for row in by_sdk} == {
        ("support", "ann", "care"),
        ("researcher", "ann", "care"),
    }
    assert by_sdk[1]["cost_nanousd"] == 5_000_000
    assert by_sdk[3]["cost_nanousd"] == 0
    assert by_sdk[4]["cost_nanousd"] > 0


@pytest.mark.xdist_group("parity")
@pytest.mark.parametrize("doors", [*ONE_DOOR[1:], *SEVERAL])
def test_every_door_leaves_the_same_charges(doors: str, by_sdk: list[dict[str, Any]], tmp_path: Path) -> None:
    """Units, amounts, tasks and who they were for are the same, each call once.

    What a source does not say stays unknown: an instrumentation tells nothing of the tokens of a stream that was left, and
    nothing of a request that was refused.
    """
    rows = run_agent(doors, tmp_path)
    nearest = doors.partition("+")[0].removesuffix("-async").replace("remote", "sdk")
    assert {row["door"] for row in rows if row["kind"] == "model"} == {nearest}
    assert known(rows) == known(by_sdk)
    rest = [row for row in rows if row["status"] != "ok" or not row["cost_nanousd"]]
    if doors == "otlp":
        assert [(row["cost_nanousd"], bool(row["unpriced_reason"])) for row in rest] == [(None, True)]
        return
    refused, left = rest
    assert (refused["status"], refused["cost_nanousd"]) == ("error", 0)
    assert (left["status"], left["estimated"]) == ("cancelled", True)
    assert left["units"]["input_tokens"] == by_sdk[4]["units"]["input_tokens"]
