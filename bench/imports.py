"""Calls that already happened: imported end to end, then asked about.

Rule 1: the reference is what no importer can leave out: every line decoded, every call inserted into a bare SQLite
        table, in transactions of the same size.
Rule 2: the figures are of whole commands, start of Python included.
"""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from bench.measure import BURSAR, PYTHON, BenchError, median, run, seconds
from bench.report import Figure, Report
from bench.samples import dumps

__all__ = ["measure"]

_BATCH = 1_000
_MODELS = (
    ("openai", "gpt-5-mini"),
    ("openai", "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"),
    ("google", "gemini-2.5-flash"),
)
_BEGIN = datetime(2026, 2, 1, tzinfo=timezone.utc)


def measure(*, quick: bool) -> Report:
    calls = 20_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
        directory = Path(name)
        rows = directory / "calls.jsonl"
        _write_rows(rows, calls)
        data = directory / "data"
        figures = [_imported("bursar import jsonl", ["jsonl", rows], data, calls, [rows])]
        figures += _spend(data, calls, 3 if quick else 7)
        transcripts = directory / "projects"
        found = _write_transcripts(transcripts, 20 if quick else 100, 200)
        files = sorted(transcripts.rglob("*.jsonl"))
        figures.append(
            _imported(
                "bursar import claude-code", ["claude-code", transcripts], directory / "data-claude", found, files
            )
        )
    return Report("imports", tuple(figures), (f"{calls:,} rows; {found:,} calls in {len(files)} transcripts",))


def _imported(name: str, what: list[str | Path], data: Path, calls: int, files: list[Path]) -> Figure:
    took = seconds(lambda: _import(what, data, calls))
    least = seconds(lambda: run([PYTHON, "-m", "bench.imports", data.with_suffix(".sqlite3"), *files]))
    rate, limit = calls / took, calls / least
    return Figure(name, rate, "calls/s", "decode and insert, bare", limit, ">= 50,000 calls/s", rate >= 50_000)


def _import(what: list[str | Path], data: Path, calls: int) -> None:
    done = json.loads(run([*BURSAR, "import", *what, "--json", "--data", data]))
    if done["new"] != calls or done["skipped"] or done["unpriced"]:
        raise BenchError(f"{calls} calls should be new and priced, the import says {done}")


def _spend(data: Path, calls: int, rounds: int) -> list[Figure]:
    def ours() -> None:
        total = json.loads(run([*BURSAR, "spend", "--json", "--data", data]))["total"]
        if total["calls"] != calls:
            raise BenchError(f"bursar spend counts {total['calls']} of {calls} calls")

    sql = "SELECT model, count(*), sum(cost_nanousd) FROM attempt GROUP BY model"
    bare = f"import duckdb; duckdb.connect({str(data / 'ledger.duckdb')!r}, read_only=True).execute({sql!r}).fetchall()"
    took = _turns(rounds, ours, lambda: run([PYTHON, "-c", bare]))
    name = f"bursar spend over {calls:,} calls"
    return [Figure(name, took[0], "ms", "the same sum, bare DuckDB", took[1], "< 300 ms", took[0] < 300)]


def _turns(rounds: int, *works: Callable[[], object]) -> list[float]:
    taken = [[seconds(work) * 1000 for work in works] for _ in range(rounds)]
    return [median(each) for each in zip(*taken, strict=True)]


# --- what is imported -------------------------------------------------------------------------------------------


def _write_rows(path: Path, count: int) -> None:
    draw = random.Random(1)
    with path.open("wb") as file:
        for number in range(count):
            provider, model = draw.choice(_MODELS)
            tokens = draw.randrange(200, 20_000)
            row = {
                "at": (_BEGIN + timedelta(seconds=number * 30)).isoformat(),
                "id": f"row-{number}",
                "provider": provider,
                "model": model,
                "input_tokens": tokens,
                "cache_read_tokens": tokens // 2,
                "output_tokens": draw.randrange(10, 2_000),
                "team": f"team-{number % 5}",
                "user": f"user-{number % 200}",
                "agent": f"agent-{number % 20}",
                "task": f"task-{number // 20}",
                "latency_ms": draw.randrange(300, 9_000),
                "labels": {"env": "prod"},
            }
            file.write(dumps(row) + b"\n")


def _write_transcripts(directory: Path, sessions: int, calls: int) -> int:
    """Sessions in the shape of Claude Code's: per call a user row and two rows of one answer. Returns the calls."""
    draw = random.Random(2)
    project = directory / "-home-ana-shop"
    project.mkdir(parents=True)
    text = "The function returns early when the list is empty, so the total is never reset. " * 4
    for number in range(sessions):
        session = f"00000000-0000-4000-8000-{number:012d}"
        common = {
            "sessionId": session,
            "cwd": "/home/ana/shop",
            "gitBranch": "main",
            "version": "2.0.1",
            "isSidechain": False,
        }
        with (project / f"{session}.jsonl").open("wb") as file:
            for turn in range(calls):
                at = (_BEGIN + timedelta(hours=number, seconds=turn * 12)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                asked = {"role": "user", "content": text}
                file.write(
                    dumps({**common, "type": "user", "uuid": f"u{turn}", "timestamp": at, "message": asked}) + b"\n"
                )
                usage = {
                    "input_tokens": draw.randrange(1, 50),
                    "cache_creation_input_tokens": 800,
                    "cache_read_input_tokens": draw.randrange(5_000, 90_000),
                    "cache_creation": {"ephemeral_5m_input_tokens": 800, "ephemeral_1h_input_tokens": 0},
                    "output_tokens": 1,
                    "service_tier": "standard",
                }
                blocks = (({"type": "text", "text": text}, 1), ({"type": "tool_use", "id": f"t{turn}", "name": "Read",
                          "input": {"file_path": "/home/ana/shop/cart.py"}}, draw.randrange(20, 900)))  # fmt: skip
                for part, (block, output) in enumerate(blocks):
                    message = {
                        "id": f"msg_{number}_{turn}",
                        "type": "message",
                        "role": "assistant",
                        "model": "claude-sonnet-4-5-20250929",
                        "content": [block],
                        "stop_reason": "tool_use" if part else None,
                        "usage": {**usage, "output_tokens": output},
                    }
                    row = {**common, "type": "assistant", "uuid": f"a{turn}-{part}", "timestamp": at,
                           "requestId": f"req_{number}_{turn}", "message": message}  # fmt: skip
                    file.write(dumps(row) + b"\n")
    return sessions * calls


# --- the reference, run as a process of its own -----------------------------------------------------------------


def _bare(database: Path, files: list[Path]) -> None:
    db = sqlite3.connect(database, isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
        "CREATE TABLE call (sequence INTEGER PRIMARY KEY, at TEXT, payload BLOB);"
    )
    batch: list[tuple[str, bytes]] = []
    for path in files:
        with path.open("rb") as file:
            for line in file:
                row = json.loads(line)
                # A transcript has two rows of each answer, and rows that are no answer.
                if (
                    row.get("type", "assistant") == "assistant"
                    and row.get("message", {}).get("stop_reason", "") is not None
                ):
                    batch.append((row.get("at") or row["timestamp"], line))
                if len(batch) == _BATCH:
                    _insert(db, batch)
                    batch.clear()
    _insert(db, batch)
    db.close()


def _insert(db: sqlite3.Connection, batch: list[tuple[str, bytes]]) -> None:
    db.execute("BEGIN")
    db.executemany("INSERT INTO call (at, payload) VALUES (?, ?)", batch)
    db.execute("COMMIT")


if __name__ == "__main__":
    import sys

    _bare(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
