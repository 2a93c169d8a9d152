"""``bursar import``: options, summary, exit codes. The books and the prices are stand-ins for what compose opens."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.imports import import_

ROW = {"at": "2026-02-10T10:00:00Z", "provider": "openai", "model": "gpt-test", "input_tokens": 1000}


@pytest.fixture
def run(monkeypatch, book, books):
    """Runs the command with the test's own books."""
    compose = ModuleType("bursar.compose")
    stand_ins: dict[str, Any] = {"open_books": lambda _: nullcontext(books), "open_prices": lambda _: book}
    compose.__dict__.update(stand_ins)
    monkeypatch.setitem(sys.modules, "bursar.compose", compose)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(import_, [str(argument) for argument in arguments])

    return run


def test_a_second_import_books_nothing_and_says_so(run, write, books):
    """The JSON summary holds exact figures."""
    path = write("rows.jsonl", [ROW, {**ROW, "model": "other"}])
    first = run("jsonl", path, "--json")
    assert first.exit_code == 0
    assert json.loads(first.output) == {
        "dry_run": False,
        "files": 1,
        "lines": 2,
        "calls": 2,
        "new": 2,
        "known": 0,
        "skipped": {},
        "unpriced": {"no price for model 'other' of 'openai'": 1},
        "cost_usd": "0.002",
    }
    again = json.loads(run("jsonl", path, "--json").output)
    assert (again["new"], again["known"]) == (0, 2)
    assert len(books.attempts) == 2


def test_the_table_shows_calls_cost_and_every_reason(run, write):
    """What is unpriced or not booked is shown with its reason."""
    path = write("rows.jsonl", [ROW, {**ROW, "model": "other"}, "broken"])
    result = run("jsonl", path, "--on-error", "skip")
    assert result.exit_code == 0
    words = " ".join(result.output.split())
    assert "calls 2 in 1 file" in words
    assert "$0.0020 without 1 unpriced" in words
    assert "unpriced 1 no price for model 'other' of 'openai'" in words
    assert "not booked 1 bad row; first:" in words


def test_a_bad_row_stops_its_file_but_keeps_the_files_before_it(run, write, books):
    """Exit code 1; what was handed on before is booked, the bad file adds nothing."""
    good = write("a.jsonl", [{**ROW, "id": "good"}])
    bad = write("b.jsonl", [{**ROW, "id": "fine"}, {**ROW, "input_tokens": "x"}])
    result = run("jsonl", good, bad)
    assert result.exit_code == 1
    assert "b.jsonl:2: input_tokens 'x' is not a count" in result.output
    assert "--on-error skip" in result.output
    assert list(books.attempts) == ["import:openai:good"]


def test_a_dry_run_books_nothing(run, write, books):
    """It reads and prices everything."""
    result = run("jsonl", write("rows.jsonl", [ROW]), "--dry-run", "--json")
    assert json.loads(result.output)["calls"] == 1
    assert not books.attempts


def test_overrides_columns_and_labels_reach_the_scope(run, write, books):
    """The options of the scope win over the file; --map and --ignore-unknown read a foreign header."""
    path = write("rows.csv", ["when,provider,model,user,extra", "1770717600,openai,gpt-test,ana,1"])
    result = run(
        "csv", path, "--map", "when=at", "--ignore-unknown", "--user", "bob", "--team", "t", "--label", "env=prod"
    )
    assert result.exit_code == 0, result.output
    (attempt,) = books.attempts.values()
    scope = attempt.opening.scope
    assert (scope.user, scope.team, scope.labels) == ("bob", "t", (("env", "prod"),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jsonl", "nowhere.jsonl"), "does not exist"),
        (("claude-code", "."), "no files *.jsonl (or .gz) under ."),
        (("codex", "."), "no files rollout-*.jsonl (or .gz) under ."),
        (("jsonl", "rows.jsonl", "--map", "a"), "'a' is not NAME=VALUE"),
        (("jsonl", "rows.jsonl", "--map", "a=modle"), "nearest: 'model'"),
        (("jsonl", "rows.jsonl", "--label", "a"), "'a' is not NAME=VALUE"),
        (("jsonl", "rows.jsonl", "--user", "x" * 300), "longer than 256"),
    ],
)
def test_a_mistake_in_the_command_is_exit_code_2(run, tmp_path, monkeypatch, arguments, message):
    """Each names what is wrong."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    if "rows.jsonl" in arguments:
        (tmp_path / "empty" / "rows.jsonl").touch()
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_transcripts_and_rollouts_are_read_through_their_commands(run, write, books):
    """One call each, from a directory."""
    usage = {"input_tokens": 1, "output_tokens": 2}
    message = {"id": "msg_1", "model": "claude-test", "usage": usage, "stop_reason": "end_turn", "content": []}
    stamp = "2026-02-10T10:00:00Z"
    write("cc/s.jsonl", [{"type": "assistant", "timestamp": stamp, "sessionId": "s", "message": message}])
    count = {"type": "token_count", "info": {"total_token_usage": usage, "last_token_usage": usage}}
    path = write("cx/rollout-1.jsonl", [{"type": "event_msg", "timestamp": stamp, "payload": count}])
    assert run("claude-code", path.parents[1] / "cc").exit_code == 0
    assert run("codex", path.parent).exit_code == 0
    assert {a.opening.scope.agent for a in books.attempts.values()} == {"claude-code", "codex"}


def test_a_terminal_gets_a_progress_bar_by_bytes(run, write, monkeypatch):
    """On a terminal the bar runs to its end, and the summary is the same."""
    monkeypatch.setattr("bursar.cli.imports._is_terminal", lambda: True)
    result = run("jsonl", write("rows.jsonl", [ROW] * 200))
    assert result.exit_code == 0
    assert "calls" in result.output


def test_files_without_a_call_say_so(run, write, tmp_path):
    """A file of another kind holds no call: it is said, and is no failure."""
    result = run("codex", write("rollout-other.jsonl", [ROW]))
    assert result.exit_code == 0
    assert "No call was found. Is this the right kind of file?" in result.stderr


def test_a_failure_before_the_first_call_is_all_that_is_said(run, write):
    """Nothing was read, so there is no table of zeros beside the error."""
    result = run("jsonl", write("rows.jsonl", ["broken"]))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "rows.jsonl:1" in result.stderr
