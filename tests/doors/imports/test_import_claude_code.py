"""Claude Code transcripts become observed attempts, each API call once."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter, defaultdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from bursar.core.ledger import Attempt
from bursar.core.scopes import Scope
from bursar.doors.imports.claude_code import find_transcripts, read_transcripts
from bursar.doors.imports.tally import Tally

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def row(name: str, output: int, *, second: int = 0, block: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A row as Claude Code writes it: one content block of one call."""
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 300,
        "cache_read_input_tokens": 1000,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": output,
        "service_tier": "standard",
    }
    return {
        "type": "assistant",
        "uuid": f"{name}-{second}",
        "timestamp": f"2026-02-10T10:00:{second:02d}.500Z",
        "sessionId": "s1",
        "requestId": f"req_{name}",
        "isSidechain": False,
        "cwd": "/home/USER/projects/spotter",
        "gitBranch": "main",
        "version": "2.1.38",
        "message": {
            "id": f"msg_{name}",
            "model": "claude-test-1",
            "role": "assistant",
            "content": [block or {"type": "text", "text": "hello"}],
            "stop_reason": None,
            "usage": usage,
            **more.pop("message", {}),
        },
        **more,
    }


def read(*paths: Path, book: Any, now: datetime = NOW, overrides: Scope | None = None) -> tuple[list[Attempt], Tally]:
    tally = Tally()
    files = find_transcripts(paths, tally)
    return list(read_transcripts(files, book=book, now=now, tally=tally, overrides=overrides or Scope())), tally


def test_one_call_in_three_rows_is_counted_once_with_the_output_of_the_last(write, book):
    """Input and cache units repeat in each row, output grows: the last row is the call, priced by each cache TTL."""
    tool = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    path = write("s1.jsonl", [row("a", 1), row("a", 5, second=1, block=tool), row("a", 50, second=2)])
    (attempt,), tally = read(path, book=book)
    usage = attempt.charge.usage
    assert usage is not None
    assert usage.counts() == {
        "input_tokens": 1310,
        "cache_read_tokens": 1000,
        "cache_write_tokens": 300,
        "cache_write_5m_tokens": 100,
        "cache_write_1h_tokens": 200,
        "output_tokens": 50,
    }
    # 10 x 4000 + 1000 x 400 + 100 x 5000 + 200 x 8000 + 50 x 20000 nano-USD
    assert attempt.charge.amount == 40_000 + 400_000 + 500_000 + 1_600_000 + 1_000_000
    assert attempt.opening.attempt_id == attempt.opening.call_id == "anthropic:msg_a"
    assert attempt.response_id == "msg_a"
    assert attempt.tools == ("Bash",)
    assert attempt.latency_ms is None
    assert attempt.opening.started_us == 1_770_717_600_500_000
    assert not tally.skipped


def test_the_scope_is_the_session_its_project_branch_and_version(write, book):
    """A call of the session itself: the session is its task, the last part of the directory its project."""
    (attempt,), _ = read(write("s1.jsonl", [row("a", 1, message={"stop_reason": "end_turn"})]), book=book)
    assert attempt.opening.scope == Scope(
        project="spotter",
        agent="claude-code",
        session="s1",
        task="claude-code:s1",
        labels=(("claude_code_version", "2.1.38"), ("git_branch", "main")),
    )
    assert attempt.finish == "end_turn"
    assert (attempt.opening.door, attempt.opening.kind, attempt.status) == ("import", "model", "ok")


def test_a_subagent_is_a_child_task_named_by_what_started_it(write, book):
    """Its type comes from the tool call that started it, the file beside it, or its own name; else it is 'subagent'."""
    start = {"type": "tool_use", "id": "t1", "name": "Task", "input": {"subagent_type": "Explore", "prompt": "x"}}
    answer = {
        "type": "user",
        "sessionId": "s1",
        "message": {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]},
        "toolUseResult": {"status": "completed", "agentId": "aaa111"},
    }
    main = write("p/s1.jsonl", [row("a", 1, block=start), answer])
    for name in ("aaa111", "acompact-f00d", "bbb222", "ccc333"):
        write(f"p/s1/subagents/agent-{name}.jsonl", [row(name, 1, agentId=name, isSidechain=True)])
    write("p/s1/subagents/agent-bbb222.meta.json", [{"agentType": "Plan"}])
    attempts, _ = read(main.parent, book=book)
    found = {a.opening.scope.task: (a.opening.scope.agent, a.opening.scope.parent_task) for a in attempts}
    parent = "claude-code:s1"
    assert found == {
        parent: ("claude-code", ""),
        f"{parent}/aaa111": ("Explore", parent),
        f"{parent}/acompact-f00d": ("compact", parent),
        f"{parent}/bbb222": ("Plan", parent),
        f"{parent}/ccc333": ("subagent", parent),
    }


def test_an_older_agent_file_beside_the_session_is_a_subagent_by_its_name(write, book):
    """Older versions write agent-*.jsonl next to the session, and sidechain rows without an agent id."""
    write("p/agent-9f.jsonl", [row("a", 1, isSidechain=True)])
    attempts, _ = read(write("p/s1.jsonl", [row("b", 1, isSidechain=True)]).parent, book=book)
    assert {a.opening.scope.task for a in attempts} == {"claude-code:s1/9f", "claude-code:s1/sidechain"}


def test_a_resumed_session_that_copies_its_history_adds_only_what_is_new(write, book, books):
    """The older file owns the call, the copy is counted as such; a row marked as forked belongs to where it is from."""
    old = write("p/z-old.jsonl", [row("a", 7)])
    new = write("p/new.jsonl", [row("a", 7, sessionId="s2"), row("b", 1, sessionId="s2")])
    os.utime(old, (1_000, 1_000))
    attempts, tally = read(old.parent, book=book)
    assert {a.opening.attempt_id: a.opening.scope.session for a in attempts} == {
        "anthropic:msg_a": "s1",
        "anthropic:msg_b": "s2",
    }
    assert list(tally.skipped.values()) == [1]
    assert books.observe(attempts) == 2
    assert books.observe(read(new, book=book)[0]) == 0
    fork = write("q/fork.jsonl", [row("c", 1, sessionId="s3", forkedFrom={"sessionId": "s1", "messageUuid": "m"})])
    assert read(fork, book=book)[0][0].opening.scope.session == "s1"


def test_rows_that_claude_code_wrote_itself_are_not_calls(write, book):
    """Synthetic notices and API errors are counted, not booked."""
    rows = [
        row("a", 0, message={"model": "<synthetic>"}),
        row("b", 0, isApiErrorMessage=True),
        {"type": "assistant", "message": {"id": "msg_c", "model": "claude-test", "content": []}},
        row("d", 1, message={"usage": None}),
        {"type": "user", "message": {"role": "user", "content": 'says "usage" and "assistant"'}},
    ]
    attempts, tally = read(write("s1.jsonl", rows), book=book)
    assert attempts == []
    assert tally.skipped == {"written by Claude Code itself: an error or a notice, not a call": 2}


def test_calls_known_only_from_progress_rows_are_counted_not_booked(write, book):
    """A progress row copies a subagent's call with its first output count: booking it would shut out the real one."""
    rows = [
        {"type": "progress", "data": {"type": "agent_progress", "agentId": "x", "message": row(name, 1)}}
        for name in ("a", "lost", "lost")
    ]
    attempts, tally = read(write("s1.jsonl", [row("a", 9), *rows]), book=book)
    assert [a.opening.attempt_id for a in attempts] == ["anthropic:msg_a"]
    assert tally.skipped == {"subagent call known only from progress rows: its transcript is not among the files": 1}


def test_a_call_whose_rows_are_still_coming_is_left_for_the_next_import(write, book):
    """While its last row is fresh and says no end, booking it would freeze an output count that still grows."""
    path = write("s1.jsonl", [row("a", 1, message={"stop_reason": "tool_use"}), row("b", 1, second=3)])
    attempts, tally = read(path, book=book, now=datetime(2026, 2, 10, 10, 5, tzinfo=timezone.utc))
    assert [a.opening.attempt_id for a in attempts] == ["anthropic:msg_a"]
    assert tally.skipped == {"still being written: the next import takes it": 1}
    assert len(read(path, book=book)[0]) == 2


def test_a_last_line_that_is_not_complete_is_said_and_the_rest_imported(write, book):
    """A live transcript may end in the middle of a row; a broken row elsewhere is another matter."""
    text = json.dumps(row("b", 1))
    attempts, tally = read(write("s1.jsonl", [text[:-9], row("a", 1), text[:-9]], end=""), book=book)
    assert len(attempts) == 1
    assert tally.skipped == {"row is not what Claude Code writes": 1, "last line is not complete yet": 1}


def test_a_row_without_a_usable_time_is_counted(write, book):
    """A call cannot be priced without the day it happened."""
    attempts, tally = read(write("s1.jsonl", [row("a", 1, timestamp="yesterday")]), book=book)
    assert attempts == []
    assert tally.skipped == {"row without a time": 1}


def test_an_unknown_model_is_booked_unpriced_with_the_reason(write, book):
    """Unknown is never zero."""
    (attempt,), _ = read(write("s1.jsonl", [row("a", 1, message={"model": "glm-9"})]), book=book)
    assert attempt.charge.amount is None
    assert attempt.charge.reason == "no price for model 'glm-9' of 'anthropic'"


def test_a_call_without_a_message_id_is_known_by_its_request_or_row(write, book):
    """Without any id at all it is not booked: the next import could not know it again."""
    nameless = {"message": {"id": None}}
    rows = [
        row("a", 1, requestId="req_1", **nameless),
        row("a", 2, requestId="req_1", uuid="other", **nameless),
        row("b", 1, requestId=None, **nameless),
        row("c", 1, requestId=None, uuid=None, **nameless),
    ]
    attempts, tally = read(write("s1.jsonl", rows), book=book)
    assert [a.opening.attempt_id for a in attempts] == ["claude-code:req_1", "claude-code:b-0"]
    assert tally.skipped == {"call without an id: importing it again would book it again": 1}


def test_calls_through_bedrock_and_vertex_belong_to_those_providers(write, book):
    """The message id says who answered."""
    rows = [row("a", 1, message={"id": "msg_bdrk_1"}), row("b", 1, message={"id": "msg_vrtx_2"})]
    attempts, _ = read(write("s1.jsonl", rows), book=book)
    assert [(a.opening.provider, a.opening.attempt_id) for a in attempts] == [
        ("aws", "aws:msg_bdrk_1"),
        ("google", "google:msg_vrtx_2"),
    ]


def test_overrides_win_over_what_the_transcript_says(write, book):
    """The person importing knows the user and the team; labels are added."""
    overrides = Scope(user="ana", project="other", labels=(("machine", "m1"),))
    (attempt,), _ = read(write("s1.jsonl", [row("a", 1)]), book=book, overrides=overrides)
    scope = attempt.opening.scope
    assert (scope.user, scope.project, scope.session) == ("ana", "other", "s1")
    assert dict(scope.labels) == {"machine": "m1", "git_branch": "main", "claude_code_version": "2.1.38"}


def test_compressed_transcripts_and_link_loops_are_read_once(write, book, tmp_path):
    """A link back up ends, a link to a file already found adds nothing, .gz reads like plain."""
    path = write("p/s1.jsonl", [row("a", 1)])
    (tmp_path / "p" / "s2.jsonl.gz").write_bytes(gzip.compress(json.dumps(row("b", 1)).encode()))
    (tmp_path / "p" / "up").symlink_to(tmp_path / "p", target_is_directory=True)
    (tmp_path / "p" / "again.jsonl").symlink_to(path)
    (tmp_path / "p" / "gone.jsonl").symlink_to(tmp_path / "nothing")
    attempts, tally = read(tmp_path, book=book)
    assert {a.opening.attempt_id for a in attempts} == {"anthropic:msg_a", "anthropic:msg_b"}
    assert tally.files == 2
    assert list(tally.skipped) == ["cannot be read (No such file or directory)"]


def test_a_compressed_file_that_breaks_off_gives_what_it_has(tmp_path, book):
    """The calls before the break are booked, the break is said."""
    lines = "".join(json.dumps(row(str(n), 1)) + "\n" for n in range(200))
    whole = gzip.compress(lines.encode())
    (tmp_path / "s1.jsonl.gz").write_bytes(whole[:-20])
    attempts, tally = read(tmp_path, book=book)
    assert attempts
    assert tally.skipped["file cannot be read to its end"] == 1


def shared_data() -> Path:
    """Where real sessions lie; the test that needs them skips without."""
    default = Path(__file__).parents[4] / "shared" / "data"
    path = Path(os.environ.get("BURSAR_SHARED_DATA", default)) / "claude-code-sessions"
    if not path.is_dir():
        pytest.skip(f"no real sessions at {path}: set BURSAR_SHARED_DATA")
    return path


def test_real_sessions_agree_with_an_independent_count(book):
    """Unique message ids, output of last rows, cache writes by TTL and totals per session and agent, counted anew."""
    path = shared_data()
    last: dict[str, tuple[str, dict[str, Any]]] = {}
    for file in sorted(path.rglob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            line_row = json.loads(line)
            if line_row["type"] == "assistant":
                task = "/".join(filter(None, (line_row["sessionId"], line_row.get("agentId"))))
                last[line_row["message"]["id"]] = (task, line_row["message"]["usage"])
    expected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for task, usage in last.values():
        written = usage["cache_creation"]
        expected[task].update(
            calls=1,
            output_tokens=usage["output_tokens"],
            cache_read_tokens=usage["cache_read_input_tokens"],
            cache_write_5m_tokens=written["ephemeral_5m_input_tokens"],
            cache_write_1h_tokens=written["ephemeral_1h_input_tokens"],
            uncached_input_tokens=usage["input_tokens"],
        )
    attempts, _ = read(path, book=book)
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for attempt in attempts:
        usage = attempt.charge.usage
        assert usage is not None
        task = attempt.opening.scope.task.removeprefix("claude-code:")
        found[task].update(calls=1, uncached_input_tokens=usage.uncached_input_tokens)
        found[task].update({n: c for n, c in usage.counts().items() if n in expected[task]})
    assert found == expected
    total = sum(expected.values(), Counter())
    assert total["calls"] == 321
    assert (total["output_tokens"], total["cache_write_5m_tokens"], total["cache_write_1h_tokens"]) == (
        69_406,
        559_475,
        433_814,
    )
    assert len({a.opening.attempt_id for a in attempts}) == len(attempts) == 321
