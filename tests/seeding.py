"""Ledgers for tests, filled by SQL: rows shaped as the ledger's writer makes them, without the writer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb

import bursar.adapters

NOW = datetime(2026, 3, 31, 12, 0, tzinfo=timezone.utc)
"""The moment most tests take for now."""

_SCHEMA = Path(bursar.adapters.__file__).parent / "sql" / "ledger.sql"

_DEFAULTS: dict[str, Any] = {
    "number": 1,
    "kind": "model",
    "door": "gateway",
    "operation": "chat_completions",
    "provider": "openai",
    "model": "gpt-5-mini",
    **dict.fromkeys(("org", "team", "project", "user", "agent", "session", "task", "parent_task", "key"), ""),
    "labels": {},
    "input_tokens": 1000,
    "cache_read_tokens": 200,
    "cache_write_tokens": 0,
    "cache_write_1h_tokens": 0,
    "output_tokens": 100,
    "reasoning_tokens": 10,
    "units": {},
    "cost_nanousd": 4_200_000,
    "lines": [],
    "price_book": "test",
    "notes": [],
    "estimated": False,
    "latency_ms": 850.0,
    "first_token_ms": 120.0,
    "status": "ok",
    "http_status": 200,
    "error": "",
    "response_id": "",
    "finish": "stop",
    "tools": [],
    "stream": False,
    "trace_id": "",
    "span_id": "",
    "decision": "{}",
}


class MemoryLedger:
    """A ledger in memory that answers views, and takes rows."""

    def __init__(self, connection: duckdb.DuckDBPyConnection | None = None) -> None:
        self.connection = connection or duckdb.connect()
        self.connection.execute(_SCHEMA.read_text())
        self._sequence = 0

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        cursor = self.connection.cursor().execute(sql, dict(parameters) if parameters else None)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def attempt(self, *, ago: timedelta = timedelta(), at: datetime = NOW, **columns: Any) -> str:
        """Add one attempt that started ``ago`` before ``at``; other columns have plain defaults."""
        self._sequence += 1
        name = f"a{self._sequence}"
        started_at = (at - ago).astimezone(timezone.utc).replace(tzinfo=None)
        row = {"sequence": self._sequence, "attempt_id": name, "call_id": f"c{self._sequence}", **_DEFAULTS, **columns}
        row = {"started_at": started_at, "model_asked": row["model"], **row}
        if row["cost_nanousd"] is None:
            row.setdefault("unpriced_reason", f"no price for {row['model']}")
        row["labels"] = dict(row["labels"])
        self._insert("attempt", row)
        return name

    def span(
        self, name: str = "step", *, ago: timedelta = timedelta(), ms: int = 1000, at: datetime = NOW, **columns: Any
    ) -> str:
        """Add one span of ``ms`` that started ``ago`` before ``at``; its id, which is new unless it is given."""
        self._sequence += 1
        started_at = (at - ago).astimezone(timezone.utc).replace(tzinfo=None)
        row = {
            "sequence": self._sequence,
            "trace_id": "t",
            "span_id": f"s{self._sequence}",
            "parent_id": "",
            "name": name,
            "kind": "step",
            "door": "sdk",
            "started_at": started_at,
            "ended_at": started_at + timedelta(milliseconds=ms),
            "status": "ok",
            **dict.fromkeys(("error", "org", "team", "project", "user", "agent", "session", "task", "parent_task"), ""),
            "tool": name if columns.get("kind") == "tool" else "",
            "size_bytes": None,
            "attempt_id": "",
            **columns,
        }
        self._insert("span", row)
        return str(row["span_id"])

    def outcome(self, task: str, outcome: str, value_nanousd: int | None = None, *, note: str = "") -> None:
        """Say what became of a task; the latest word counts."""
        self._sequence += 1
        said_at = NOW.replace(tzinfo=None)
        row = {"task": task, "outcome": outcome, "value_nanousd": value_nanousd, "note": note, "said_at": said_at}
        self._insert("outcome", {"sequence": self._sequence, **row})

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        quoted = ", ".join(f'"{column}"' for column in row)
        values = ", ".join(f"${column}" for column in row)
        self.connection.cursor().execute(f"INSERT INTO {table} ({quoted}) VALUES ({values})", dict(row))

    def rollup(self, **columns: Any) -> None:
        """Add one row of attempts that were summed up after their retention."""
        row = {
            **{name: _DEFAULTS[name] for name in ("kind", "door", "provider", "model", "org", "team", "project")},
            **{name: _DEFAULTS[name] for name in ("user", "agent", "key", "status")},
            "started_at": datetime(2025, 1, 1),
            "calls": 10,
            "attempts": 10,
            "unpriced_calls": 0,
            "estimated_calls": 0,
            "input_tokens": 10_000,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "output_tokens": 1_000,
            "reasoning_tokens": 0,
            "cost_nanousd": 1_000_000_000,
            "avoided_nanousd": 0,
            **columns,
        }
        self._insert("rollup", row)


def generate(ledger: MemoryLedger, *, count: int, tasks: int) -> None:
    """Fill the ledger with ``count`` pseudo-random attempts of ``tasks`` tasks over 180 days."""
    days_us = 180 * 86_400 * 1_000_000
    ledger.connection.execute(
        """
        INSERT INTO attempt BY NAME
        SELECT i AS sequence, 'a' || i AS attempt_id, 'c' || (i - (i % 20 = 19)::INT) AS call_id,
               CASE WHEN i % 20 = 19 THEN 2 ELSE 1 END AS number, 'model' AS kind, 'gateway' AS door,
               'chat_completions' AS operation,
               TIMESTAMP '2026-01-01' + to_microseconds((i * $step)::BIGINT) AS started_at,
               'openai' AS provider, 'model-' || hash(i) % 40 AS model_asked, 'model-' || hash(i) % 40 AS model,
               'acme' AS org, 'team-' || hash(i + 1) % 8 AS team, 'project-' || hash(i + 2) % 5 AS project,
               'user-' || hash(i + 3) % 500 AS "user", 'agent-' || hash(i + 4) % 30 AS agent,
               'session-' || hash(i // 5000, i % 16) AS session,
               -- 64 tasks run at any time; one in four is a part of the one before it.
               'task-' || lpad((i // (64 * $per_task) * 64 + i % 64)::VARCHAR, 8, '0') AS task,
               CASE WHEN i % 4 = 3 THEN 'task-' || lpad((i // (64 * $per_task) * 64 + i % 64 - 1)::VARCHAR, 8, '0')
                    ELSE '' END AS parent_task,
               'key-' || hash(i + 5) % 9 AS key, MAP {'env': 'prod'} AS labels,
               hash(i + 6) % 20000 AS input_tokens, hash(i + 7) % 1000 AS cache_read_tokens,
               hash(i + 8) % 100 AS cache_write_tokens, 0 AS cache_write_1h_tokens,
               hash(i + 9) % 2000 AS output_tokens, hash(i + 10) % 200 AS reasoning_tokens,
               MAP {'input_tokens': (hash(i + 6) % 20000)::BIGINT} AS units,
               CASE WHEN hash(i + 11) % 50 > 0 THEN hash(i + 12) % 50000000 END AS cost_nanousd,
               CASE WHEN hash(i + 11) % 50 = 0 THEN 'no price for this model' END AS unpriced_reason,
               [] AS lines, 'book' AS price_book, [] AS notes, hash(i + 13) % 30 = 0 AS estimated,
               (hash(i + 15) % 9000)::DOUBLE AS latency_ms, 10.0 AS first_token_ms,
               CASE WHEN hash(i + 14) % 40 = 0 THEN 'error' ELSE 'ok' END AS status, 200 AS http_status, '' AS error,
               'r' || i AS response_id, 'stop' AS finish, [] AS tools, FALSE AS stream, '' AS trace_id, '' AS span_id,
               '{}' AS decision
        FROM range($count) AS source(i)
        """,
        {"count": count, "step": days_us // count, "per_task": max(1, count // tasks)},
    )
