"""Hostile and broken lines end a row, never an import."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from bursar.doors.imports import files
from bursar.doors.imports.claude_code import read_transcripts
from bursar.doors.imports.codex import read_rollouts
from bursar.doors.imports.files import read_lines
from bursar.doors.imports.rows import Columns, read_rows
from bursar.doors.imports.tally import Tally

DEEP = b"[" * 200_000
NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("middle", [DEEP, b'"\xff"', b"1e", b'{"input_tokens": 1e400}', b"[1]", b'"text"'])
def test_no_line_breaks_an_import(tmp_path: Path, book: Any, middle: bytes) -> None:
    """Nesting past any stack, bytes that are no text, numbers past any size: counted or unpriced, never raised."""
    path = tmp_path / "rollout-1.jsonl"
    claude = b'{"type": "assistant", "timestamp": "2026-02-10T10:00:00Z", "message": {"id": "m", "model": "claude-test", "usage": %s}}'
    codex = b'{"type": "event_msg", "payload": {"type": "token_count", "info": {"last_token_usage": %s}}}'
    path.write_bytes(b"\n".join((claude % middle, codex % middle, middle)) + b"\n")
    tally = Tally()
    attempts = [
        *read_transcripts([path], book=book, now=NOW, tally=tally),
        *read_rollouts([path], book=book, tally=tally),
        *read_rows(path, "jsonl", book=book, tally=tally, columns=Columns(ignore_unknown=True), on_error="skip"),
    ]
    assert all(attempt.charge.amount is None for attempt in attempts)
    assert tally.skipped["bad row"] == 3


def test_a_line_past_the_limit_is_counted_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the longest line allowed."""
    monkeypatch.setattr(files, "LINE_BYTES_MAX", 10)
    path = tmp_path / "lines"
    path.write_bytes(b"one\n" + b"x" * 35 + b"\n\n  two \nend")
    tally = Tally()
    assert [(line.number, line.data, line.complete) for line in read_lines(path, tally)] == [
        (1, b"one", True),
        (4, b"two", True),
        (5, b"end", False),
    ]
    assert tally.skipped == {"line longer than 10 bytes": 1}
    assert (tally.files, tally.lines, tally.bytes_read) == (1, 5, path.stat().st_size)
