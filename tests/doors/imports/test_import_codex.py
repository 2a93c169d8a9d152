"""Codex rollouts become observed attempts: a call is a step of the running total."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bursar.core.ledger import Attempt
from bursar.core.scopes import Scope
from bursar.doors.imports.codex import find_rollouts, read_rollouts
from bursar.doors.imports.tally import Tally


def meta(thread: str, **more: Any) -> dict[str, Any]:
    payload = {"id": thread, "cwd": "/work/USER/app", "cli_version": "0.50.0", "git": {"branch": "main"}, **more}
    return {"timestamp": "2026-02-10T10:00:00Z", "type": "session_meta", "payload": payload}


def turn(model: str = "gpt-test-1") -> dict[str, Any]:
    return {"timestamp": "2026-02-10T10:00:01Z", "type": "turn_context", "payload": {"model": model}}


def tokens(fresh: int, cached: int, output: int, reasoning: int) -> dict[str, int]:
    return {
        "input_tokens": fresh,
        "cached_input_tokens": cached,
        "output_tokens": output,
        "reasoning_output_tokens": reasoning,
        "total_tokens": fresh + output,
    }


def count(total: Any, last: Any, at: str = "2026-02-10T10:00:02Z") -> dict[str, Any]:
    info = {name: value for name, value in (("total_token_usage", total), ("last_token_usage", last)) if value}
    return {"timestamp": at, "type": "event_msg", "payload": {"type": "token_count", "info": info or None}}


def record(response: str, usage: Any) -> dict[str, Any]:
    payload = {"response_id": response, "thread_id": "t1", "session_id": "t1", "usage": usage}
    return {"timestamp": "2026-02-10T10:00:02Z", "type": "token_usage_record", "payload": payload}


FIRST = tokens(1000, 400, 50, 20)
SECOND = tokens(1200, 1000, 10, 0)
BOTH = tokens(2200, 1400, 60, 20)


def read(*paths: Path, book: Any) -> tuple[list[Attempt], Tally]:
    tally = Tally()
    return list(read_rollouts(find_rollouts(paths, tally), book=book, tally=tally)), tally


def test_repeated_counts_are_one_call_and_caches_are_inside_the_input(write, book):
    """The same total again, or none at all, is no call; cached is part of input, reasoning part of output."""
    call = {"type": "response_item", "payload": {"type": "function_call", "name": "shell", "arguments": "{}"}}
    rows = [meta("t1"), turn(), count(None, None), call, count(FIRST, FIRST), count(FIRST, FIRST), count(BOTH, SECOND)]
    attempts, tally = read(write("rollout-1.jsonl", rows), book=book)
    first, second = attempts
    assert first.charge.usage is not None
    assert first.charge.usage.counts() == {
        "input_tokens": 1000,
        "cache_read_tokens": 400,
        "output_tokens": 50,
        "reasoning_tokens": 20,
    }
    assert first.charge.amount == 600 * 2_000 + 400 * 200 + 50 * 10_000
    assert (first.tools, second.tools) == (("shell",), ())
    assert second.charge.usage is not None
    assert second.charge.usage.input_tokens == 1200
    assert first.opening.scope == Scope(
        project="app",
        agent="codex",
        session="t1",
        task="codex:t1",
        labels=(("codex_version", "0.50.0"), ("git_branch", "main")),
    )
    assert not tally.skipped


def test_a_fork_that_replays_its_parent_at_new_times_adds_only_its_own_calls(write, book, books):
    """Replayed counts are known by total and last usage within the family, not by file or time; also file by file."""
    parent = write("d/rollout-1.jsonl", [meta("t1"), turn(), count(FIRST, FIRST)])
    replay = count(FIRST, FIRST, at="2026-02-11T09:00:00Z")
    own = count(BOTH, SECOND, at="2026-02-11T09:00:05Z")
    fork = write("d/rollout-2.jsonl", [meta("t2", forked_from_id="t1"), meta("t1"), turn(), replay, own])
    attempts, tally = read(parent.parent, book=book)
    assert [a.opening.scope.session for a in attempts] == ["t1", "t2"]
    assert list(tally.skipped.values()) == [1]
    assert books.observe(attempts) == 2
    assert books.observe(read(fork, book=book)[0]) == 0


def test_a_fork_of_a_fork_knows_its_root_from_the_history_it_copied(write, book, books):
    """Without the middle file, the replayed session_meta of the parent still leads to the root."""
    root = write("a/rollout-1.jsonl", [meta("t1"), turn(), count(FIRST, FIRST)])
    rows = [meta("t3", forked_from_id="t2"), meta("t2", forked_from_id="t1"), turn(), count(FIRST, FIRST)]
    leaf = write("b/rollout-3.jsonl", rows)
    assert books.observe(read(root, book=book)[0]) == 1
    assert books.observe(read(leaf, book=book)[0]) == 0


def test_equal_calls_of_strangers_are_two_calls(write, book):
    """Two threads without a common parent may cost the same."""
    one = write("rollout-1.jsonl", [meta("t1"), turn(), count(FIRST, FIRST)])
    write("rollout-2.jsonl", [meta("t2"), turn(), count(FIRST, FIRST)])
    assert len(read(one.parent, book=book)[0]) == 2


def test_a_spawned_subagent_is_a_child_task_in_its_parents_session(write, book):
    """The agent is its role; its session_meta names the parent."""
    spawn = {"subagent": {"thread_spawn": {"parent_thread_id": "t1", "depth": 1, "agent_role": "explorer"}}}
    path = write("rollout-2.jsonl", [meta("t2", source=spawn), turn(), count(FIRST, FIRST)])
    review = write("rollout-3.jsonl", [meta("t3", source={"subagent": "review"}), turn(), count(FIRST, FIRST)])
    (attempt,), _ = read(path, book=book)
    scope = attempt.opening.scope
    assert (scope.agent, scope.session, scope.task, scope.parent_task) == ("explorer", "t1", "codex:t2", "codex:t1")
    (attempt,), _ = read(review, book=book)
    assert attempt.opening.scope.agent == "review"


def test_usage_records_lend_their_response_id_and_are_not_counted_twice(write, book):
    """A record and a count of equal usage are one call; a record alone is a call known by its response id."""
    rows = [meta("t1"), turn(), record("resp_1", FIRST), count(FIRST, FIRST), record("resp_2", SECOND)]
    attempts, _ = read(write("rollout-1.jsonl", rows), book=book)
    assert [a.response_id for a in attempts] == ["resp_1", "resp_2"]
    assert attempts[1].opening.attempt_id == "openai:resp_2"


def test_totals_without_last_usage_count_by_their_difference(write, book):
    """Where only the running total is written, the call is the step; after a reset it is the total itself."""
    reset = tokens(5, 0, 1, 0)
    rows = [meta("t1"), turn(), count(FIRST, None), count(BOTH, None), count(reset, None)]
    attempts, _ = read(write("rollout-1.jsonl", rows), book=book)
    assert [a.charge.usage.input_tokens for a in attempts if a.charge.usage] == [1000, 1200, 5]


def test_a_full_context_window_is_not_a_call(write, book):
    """It is written as a count of zero units."""
    rows = [meta("t1"), turn(), count(FIRST, FIRST), count(tokens(0, 0, 0, 0), tokens(0, 0, 0, 0))]
    assert len(read(write("rollout-1.jsonl", rows), book=book)[0]) == 1


def test_without_a_model_or_a_known_provider_the_call_is_unpriced(write, book):
    """The model is not guessed; the provider is the one the session names."""
    path = write("rollout-1.jsonl", [meta("t1"), count(FIRST, FIRST)])
    (attempt,), _ = read(path, book=book)
    assert attempt.charge.amount is None
    assert attempt.charge.reason == "no price for model '' of 'openai'"
    path = write("rollout-2.jsonl", [meta("t2", model_provider="oss"), turn(), count(FIRST, FIRST)])
    (attempt,), _ = read(path, book=book)
    assert attempt.charge.reason == "no prices for provider 'oss'"


def test_broken_rows_are_counted(write, book):
    """A negative count, a row cut off at the end of a live file, and a row without a time."""
    negative = count(tokens(-1, 0, 0, 0), tokens(-1, 0, 0, 0))
    rows = [
        meta("t1"),
        turn(),
        negative,
        count(FIRST, FIRST, at="?"),
        '{"type": "event_msg", "token_count": "token_count"',
    ]
    attempts, tally = read(write("rollout-1.jsonl", rows, end=""), book=book)
    assert attempts == []
    assert tally.skipped == {
        "row is not what Codex writes": 1,
        "last line is not complete yet": 1,
        "row without a time": 1,
    }
