"""Group-by over ten million ledger rows, through the views that the console and the command line use.

Rule 1: the rows are made by SQL in the ledger's own schema; what is timed runs in a process of its own, so that its
        memory is that of asking alone.
Rule 2: the reference is the barest sum over the same rows: one column, two aggregates, same process and settings.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb

from bench.measure import PYTHON, median, memory_mib, run, seconds
from bench.report import Figure, Report
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.views.spend import spend

__all__ = ["measure"]

_ROWS = 10_000_000
_ROWS_QUICK = 1_000_000
_BY = ("model", "agent", "day")
_BARE = "SELECT {}, count(*), sum(cost_nanousd) FROM attempt GROUP BY 1"
_BARE_KEYS = {"model": "model", "agent": "agent", "day": "date_trunc('day', started_at)"}


def measure(*, quick: bool) -> Report:
    rows = _ROWS_QUICK if quick else _ROWS
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as name:
        path = Path(name) / "ledger.duckdb"
        making = seconds(lambda: _make(path, rows))
        found = json.loads(run([PYTHON, "-m", "bench.ledger", path]))
        size_mib = path.stat().st_size / 2**20
    figures = [
        Figure(f"spend by {by}, {rows:,} rows", ms, "ms", "bare DuckDB", bare, "< 300 ms", ms < 300)
        for by, (ms, bare) in found["ms"].items()
    ]
    peak = found["peak_mib"]
    if peak is not None:
        what = "opened, nothing asked"
        figures.append(Figure("peak memory", peak, "MiB", what, found["opened_mib"], "< 1024 MiB", peak < 1024))
    return Report("ledger", tuple(figures), (f"made in {making:.0f} s, {size_mib:,.0f} MiB on disk",))


def _make(path: Path, rows: int) -> None:
    DuckLedger(path).close()
    with duckdb.connect(str(path)) as db:
        db.execute(
            """
            INSERT INTO attempt BY NAME
            SELECT i AS sequence, 'call-' || i || '.1' AS attempt_id, 'call-' || i AS call_id, 1 AS number, 'model' AS kind,
                'gateway' AS door, 'chat_completions' AS operation,
                TIMESTAMP '2026-01-01' + to_microseconds((i * $step)::BIGINT) AS started_at,
                'openai' AS provider, 'model-' || hash(i) % 40 AS model_asked, 'model-' || hash(i) % 40 AS model,
                'acme' AS org, 'team-' || hash(i + 1) % 8 AS team, 'project-' || hash(i + 2) % 5 AS project,
                'user-' || hash(i + 3) % 500 AS "user", 'agent-' || hash(i + 4) % 30 AS agent,
                'session-' || i // 200 AS session, 'task-' || i // 50 AS task, '' AS parent_task, 'key' AS key,
                MAP {'env': 'prod'} AS labels, hash(i + 6) % 20000 AS input_tokens, hash(i + 7) % 1000 AS cache_read_tokens,
                0 AS cache_write_tokens, 0 AS cache_write_1h_tokens, hash(i + 9) % 2000 AS output_tokens,
                hash(i + 10) % 200 AS reasoning_tokens, MAP {'input_tokens': (hash(i + 6) % 20000)::BIGINT} AS units,
                CASE WHEN hash(i + 11) % 50 > 0 THEN hash(i + 12) % 50000000 END AS cost_nanousd,
                CASE WHEN hash(i + 11) % 50 = 0 THEN 'no price' END AS unpriced_reason, [] AS lines, 'book' AS price_book,
                [] AS notes, FALSE AS estimated, (hash(i + 13) % 9000)::DOUBLE AS latency_ms, NULL AS first_token_ms,
                'ok' AS status, 200 AS http_status, '' AS error, 'r' || i AS response_id, 'stop' AS finish, [] AS tools,
                FALSE AS stream, '' AS trace_id, '' AS span_id, '{}' AS decision
            FROM range($rows) AS source(i)
            """,
            {"rows": rows, "step": 180 * 86_400 * 1_000_000 // rows},
        )


def _ask(path: Path) -> None:
    with closing(DuckLedger(path)) as ledger:
        opened = _memory_mib()
        times: dict[str, tuple[float, float]] = {}
        for by in _BY:
            ours = _median_ms(lambda by=by: spend(ledger, by=[by], limit=100))
            bare = _median_ms(lambda by=by: ledger.rows(_BARE.format(_BARE_KEYS[by])))
            times[by] = (ours, bare)
        print(json.dumps({"ms": times, "opened_mib": opened, "peak_mib": _memory_mib("VmHWM")}))


def _memory_mib(field: str = "VmRSS") -> float | None:
    return memory_mib(os.getpid(), field)


def _median_ms(ask: Callable[[], object]) -> float:
    ask()
    taken: list[float] = []
    for _ in range(7):
        begin = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - begin) * 1000)
    return median(taken)


if __name__ == "__main__":
    _ask(Path(sys.argv[1]))
