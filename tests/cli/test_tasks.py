"""`bursar tasks` and `bursar task`: what tasks cost, alone and with all they started."""

from __future__ import annotations

import csv
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from bursar.cli.tasks import task_command, tasks_command
from seeding import MemoryLedger

Run = Callable[..., Result]


@pytest.fixture
def ledger() -> MemoryLedger:
    ledger = MemoryLedger()
    ledger.attempt(ago=timedelta(seconds=50), task="research-7", agent="boss", user="ann", cost_nanousd=900_000_000)
    ledger.attempt(
        ago=timedelta(seconds=40), task="read", parent_task="research-7", cost_nanousd=100_000_000, tools=["search"]
    )
    ledger.attempt(
        ago=timedelta(seconds=30),
        task="read",
        parent_task="research-7",
        cost_nanousd=None,
        status="error",
        error="busy",
    )
    ledger.attempt(cost_nanousd=5)
    return ledger


@pytest.fixture
def run(ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one of the two commands on the ledger in memory, in a terminal of some width."""

    @contextmanager
    def open_queries(path: Path | None) -> Iterator[MemoryLedger]:
        yield ledger

    compose = types.ModuleType("bursar.compose")
    monkeypatch.setattr(compose, "open_queries", open_queries, raising=False)
    monkeypatch.setitem(sys.modules, "bursar.compose", compose)
    group = click.Group(commands=[tasks_command, task_command])

    def invoke(*arguments: str, width: int = 150) -> Result:
        return CliRunner().invoke(group, arguments, env={"COLUMNS": str(width)})

    return invoke


def test_tasks_lists_own_cost_and_cost_with_all(run: Run) -> None:
    """One line per task; calls that name no task are counted below."""
    text = run("tasks").stdout
    line = next(line for line in text.splitlines() if line.startswith("research-7"))
    assert "boss" in line
    assert line.split()[-2:] == ["$0.9000", "$1.00"]
    assert "1 call ($0.000000005) without a task" in text
    assert "1 call unpriced" in text


def test_tasks_for_machines(run: Run) -> None:
    """JSON and CSV with exact amounts; the total is of everything, also of what names no task."""
    answer = json.loads(run("tasks", "--json").stdout)
    assert {row["task"]: row["all_cost_usd"] for row in answer["rows"]} == {"research-7": "1", "read": "0.1"}
    assert answer["total"]["cost_usd"] == "1.000000005"
    rows = list(csv.DictReader(io.StringIO(run("tasks", "--csv").stdout)))
    assert [(row["task"], row["cost_usd"], row["errors"]) for row in rows] == [
        ("research-7", "0.9", "0"),
        ("read", "0.1", "1"),
    ]


def test_tasks_fit_a_narrow_terminal(run: Run) -> None:
    """At 80 columns the costs stay."""
    text = run("tasks", width=80).stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "$0.9000" in text


def test_a_task_is_a_tree(run: Run) -> None:
    """The head has the sums; steps and sub-tasks follow in order with their share and their errors."""
    text = run("task", "research-7").stdout
    assert "$1.00 ($0.9000 itself), 2 tasks, 3 calls" in text
    lines = text.splitlines()
    sub_task = next(index for index, line in enumerate(lines) if "> read" in line)
    assert "90%" in lines[sub_task - 1]
    assert "10%" in lines[sub_task]
    assert "[search]" in lines[sub_task + 1]
    assert "error busy" in lines[sub_task + 2]
    assert "unpriced" in lines[sub_task + 2]
    assert "1  no price for gpt-5-mini" in text


def test_a_task_as_json(run: Run) -> None:
    """The whole tree."""
    tree = json.loads(run("task", "research", "--json").stdout)
    assert (tree["task"], tree["children"][0]["task"], tree["total"]["cost_usd"]) == ("research-7", "read", "1")


def test_a_limit_of_steps_is_told(run: Run) -> None:
    """What is not shown is counted."""
    assert "3 more lines" in run("task", "research-7", "--limit", "1").stdout


def test_a_task_that_is_not_there(ledger: MemoryLedger, run: Run) -> None:
    """Exit code 1; several candidates are listed."""
    missing = run("task", "nothing")
    assert (missing.exit_code, "no task has the id 'nothing'" in missing.stderr) == (1, True)
    assert run("task", "re").stdout.startswith("Task research-7\n")  # "read" is a part of it
    ledger.attempt(task="release")
    several = run("task", "re")
    assert several.exit_code == 1
    assert "research-7" in several.stderr
    assert "release" in several.stderr


def test_a_circle_of_parents_is_reported(ledger: MemoryLedger, run: Run) -> None:
    """Two tasks that name each other: shown once each, and said."""
    ledger.attempt(task="a", parent_task="b")
    ledger.attempt(task="b", parent_task="a")
    assert "A circle of parents was cut: a names b as its parent." in run("task", "a").stdout


def test_usage_errors_exit_2(run: Run) -> None:
    """A missing id, a filter that does not exist."""
    assert run("task").exit_code == 2
    assert run("task", "x", "--tz", "Mars").exit_code == 2
    assert run("tasks", "--where", "colour=red").exit_code == 2
