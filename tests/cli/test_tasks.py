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
from route_stories import fallback, hit, primary
from seeding import MemoryLedger
from stories import ticket

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

    def invoke(*arguments: str, width: int = 150, charset: str = "utf-8") -> Result:
        return CliRunner(charset=charset).invoke(group, arguments, env={"COLUMNS": str(width)})

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


@pytest.fixture
def story(ledger: MemoryLedger) -> MemoryLedger:
    """A task of 10 s: a call of 2 s, then an agent with a tool called twice and a call that took two attempts."""

    def ago(seconds: float) -> timedelta:
        return timedelta(seconds=100 - seconds)

    own = {"task": "ticket-1", "trace_id": "t"}
    ledger.span("ticket", span_id="root", ago=ago(0), ms=10_000, kind="task", **own)
    ledger.attempt(ago=ago(0), latency_ms=2000.0, span_id="root", cost_nanousd=10_000_000, **own)
    agent = {"task": "reader-1", "parent_task": "ticket-1", "agent": "reader", "trace_id": "t"}
    ledger.span("reader", span_id="agent", parent_id="root", ago=ago(2), ms=8000, kind="agent", **agent)
    for number in (1, 2):
        place = {"ago": ago(1 + number), "span_id": f"tool{number}", **agent}
        tool = {"kind": "tool", "model": "web.search", "labels": {"args": "d1"}, "input_tokens": None}
        ledger.attempt(latency_ms=1000.0, cost_nanousd=5_000_000, **tool, **place)
        ledger.span("web.search", parent_id="agent", ms=1000, kind="tool", **place)
    for number, status in ((1, "error"), (2, "ok")):
        seconds = 3 + number
        ledger.attempt(
            ago=ago(seconds),
            call_id="again",
            number=number,
            status=status,
            error="busy" if number == 1 else "",
            latency_ms=5000.0 if number == 2 else 1000.0,
            span_id="agent",
            **agent,
        )
    ledger.outcome("ticket-1", "resolved", 3_200_000_000, note="refunded")
    return ledger


def _line(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if words in line)


def test_a_task_is_a_waterfall(story: MemoryLedger, run: Run) -> None:
    """Bars begin and end where their lines do; a tool's span shares the line of its charge; attempts have a line each."""
    text = run("task", "ticket-1").stdout
    column = _line(text, "When").index("When")
    bars = {
        words: _line(text, words)[column : column + 25].rstrip().replace(" ", ".")
        for words in ("+0 ms", "> reader-1", "+2.0 s    web.search", "+3.0 s", "attempt 1", "attempt 2")
    }
    assert bars == {
        "+0 ms": "█████",
        "> reader-1": ".....────────────────────",
        "+2.0 s    web.search": ".....███",
        "+3.0 s": ".......███",
        "attempt 1": "..........███",
        "attempt 2": "............█████████████",
    }
    assert text[: text.index("Critical path")].count("web.search") == 2
    assert "error busy" in _line(text, "attempt 1")
    assert "█ on the critical path" in text


def test_a_task_says_what_it_waited_for_and_where_the_money_went(story: MemoryLedger, run: Run) -> None:
    """The critical path by kind and in its longest pieces; findings apart, with the warning that they overlap."""
    text = run("task", "ticket-1").stdout
    assert "Critical path, 10.0 s: models 8.0 s (80%), tools 2.0 s (20%)" in text
    assert _line(text, "50%").split() == ["+5.0", "s", "gpt-5-mini", "reader-1", "5.0", "s", "50%"]
    assert "They overlap: do not add them up." in text
    assert _line(text, "repeated tool").split()[0] == "$0.0050"
    assert "called 2 times with the same arguments" in text
    assert _line(text, "retries").split()[0] == "$0.0042"


@pytest.fixture
def routed(ledger: MemoryLedger) -> MemoryLedger:
    """A task with a call that fell back to another dialect, a kept answer, a stale one after a failure, and an ordinary one."""
    own = {"task": "routed-1"}
    fallback(ledger, ago=timedelta(seconds=20), **own)
    ledger.connection.execute("UPDATE attempt SET operation = 'messages' WHERE number = 2")
    hit(ledger, "kept", ago=timedelta(seconds=15), **own)
    stale = {"rung": "stale", "cache": "stale", "cause": "rate_limit", "avoided_nanousd": None, "number": 2}
    hit(ledger, "stale", ago=timedelta(seconds=10), **own, **stale)
    primary(ledger, "plain", ago=timedelta(seconds=5), **own)
    return ledger


def test_a_task_shows_what_routes_and_caches_made_of_its_calls(routed: MemoryLedger, run: Run) -> None:
    """A mark where there is something to say; what was avoided stands in a column and a line of its own, in no sum."""
    text = run("task", "routed-1", width=200).stdout
    assert "fallback (overload)" in _line(text, "attempt 2")
    assert "$0.0042" in _line(text, "kept (exact)")
    assert "not known" in _line(text, "kept (stale, rate limit)")
    assert "primary" not in text
    assert "2 kept answers avoided $0.0042, which is in no sum; of 1 it is not known what it avoided." in text
    assert text.splitlines()[2].startswith("$0.0054,")
    plain = run("task", "research-7", width=200).stdout
    assert not {"Rung", "Avoided", "kept"} & set(plain.split())


@pytest.mark.parametrize("width", [80, 100, 130])
def test_what_routes_made_of_calls_stays_on_a_narrow_terminal(routed: MemoryLedger, run: Run, width: int) -> None:
    """The marks and the costs; no line is longer, and no amount is cut."""
    text = run("task", "routed-1", width=width).stdout
    assert max(len(line) for line in text.splitlines()) <= width
    assert "fallback (overload)" in text
    assert "kept (exact)" in text
    assert "avoided $0.0042" in text
    assert "$0.0…" not in text


def test_each_attempt_has_its_own_operation(routed: MemoryLedger, run: Run) -> None:
    """A fallback may be asked in another dialect: the first attempt was not."""
    text = run("task", "routed-1", width=200).stdout
    assert "attempt 1: chat_completions" in text
    assert "attempt 2: messages" in text


def test_an_outcome_stands_beside_its_cost(story: MemoryLedger, run: Run) -> None:
    """What became of the task, what that cost, and its part of what it was worth; the list shows it, too."""
    assert (
        "Outcome: resolved (refunded), for $0.0284; worth $3.20, of which it cost 0.9%"
        in run("task", "ticket-1").stdout
    )
    assert "resolved" in _line(run("tasks").stdout, "ticket-1 ")
    rows = {
        row["task"]: (row["outcome"], row["value_usd"]) for row in json.loads(run("tasks", "--json").stdout)["rows"]
    }
    assert (rows["ticket-1"], rows["reader-1"]) == (("resolved", "3.2"), ("", None))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_task_fits_its_terminal(story: MemoryLedger, run: Run, width: int) -> None:
    """The waterfall and the costs stay at every width, and no line is longer."""
    text = run("task", "ticket-1", width=width).stdout
    assert max(len(line) for line in text.splitlines()) <= width
    assert "When" in text
    assert "$0.0100" in text


def test_a_terminal_without_unicode_has_bars_too(story: MemoryLedger, run: Run) -> None:
    """Where the encoding is ASCII, bars are made of #, = and -."""
    text = run("task", "ticket-1", charset="ascii").stdout
    assert "#####" in _line(text, "+0 ms")
    assert "--------------------" in _line(text, "> reader-1")
    assert "# on the critical path, = beside it, - around others" in text


def test_a_task_without_spans_has_a_waterfall_too(run: Run) -> None:
    """Calls alone are enough for bars, the critical path, and what was billed for nothing."""
    text = run("task", "research-7").stdout
    assert "█" in _line(text, "+0 ms")
    assert "Critical path, 20.9 s: models 2.5 s" in text
    assert _line(text, "failed, billed").strip().startswith("not known")


def test_the_documentation_shows_what_the_command_prints(ledger: MemoryLedger, run: Run) -> None:
    """The example of docs/reports.md is this very output."""
    ticket(ledger)
    lines = run("task", "resolve", width=119).stdout.splitlines()
    page = (Path(__file__).parents[2] / "docs/reports.md").read_text(encoding="utf-8")
    assert "$ bursar task resolve\n" + "\n".join(line.rstrip() for line in lines) + "\n```" in page


def test_names_of_strangers_do_not_steer_the_terminal(ledger: MemoryLedger, run: Run) -> None:
    """Control characters in names of spans, tools and outcomes are shown as such."""
    ledger.span("evil\x1b[2J", task="evil-1", kind="step")
    for _ in range(2):
        ledger.span("tool\x1b[2J", task="evil-1", kind="tool")
    ledger.outcome("evil-1", "done\x1b[2J", note="\x1b]0;owned\x07")
    text = run("task", "evil-1").stdout
    assert "evil" in text
    assert "done" in text
    assert "\x1b" not in text


def test_usage_errors_exit_2(run: Run) -> None:
    """A missing id, a filter that does not exist."""
    assert run("task").exit_code == 2
    assert run("task", "x", "--tz", "Mars").exit_code == 2
    assert run("tasks", "--where", "colour=red").exit_code == 2
