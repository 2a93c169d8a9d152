"""JSONL and CSV rows become observed attempts, in documented columns."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.core.ledger import Attempt
from bursar.core.scopes import Scope
from bursar.core.usage import UNITS
from bursar.doors.imports.rows import COLUMNS, Columns, RowError, read_rows
from bursar.doors.imports.tally import Tally

BASE = {"at": "2026-02-10T10:00:00Z", "provider": "openai", "model": "gpt-test"}


def read(path: Path, book: Any, **options: Any) -> tuple[list[Attempt], Tally]:
    tally = Tally()
    settings = {"columns": Columns(), "on_error": "stop", **options}
    kind = "csv" if ".csv" in path.name else "jsonl"
    return list(read_rows(path, kind, book=book, tally=tally, **settings)), tally


def test_the_same_call_as_jsonl_and_as_csv_is_the_same_attempt(write, book):
    """Units, scope, labels and id are read alike; the charge comes from the price book at the time of the call."""
    rest = {
        "id": "r1", "user": "ana", "team": "search", "task": "t", "parent_task": "p", "status": "error",
        "latency_ms": 12.5, "input_tokens": 1000, "cache_read_tokens": 400, "output_tokens": 50,
    }  # fmt: skip
    lines = write("rows.jsonl", [{**BASE, **rest, "labels": {"env": "prod"}}])
    values = {**BASE, **rest, "label:env": "prod"}
    table = write("rows.csv", [",".join(values), ",".join(map(str, values.values()))])
    (one,), _ = read(lines, book)
    (other,), _ = read(table, book)
    assert one == other
    assert one.charge.amount == 600 * 2_000 + 400 * 200 + 50 * 10_000
    assert one.opening.attempt_id == "import:openai:r1"
    assert one.opening.scope == Scope(user="ana", team="search", task="t", parent_task="p", labels=(("env", "prod"),))
    assert (one.status, one.latency_ms, one.opening.door) == ("error", 12.5, "import")


def test_every_unit_of_usage_is_a_column():
    """What the providers bill can be imported by its own name."""
    assert {unit.name for unit in UNITS} <= set(COLUMNS)


@pytest.mark.parametrize(
    "value",
    ["2026-02-10T11:00:00+01:00", "2026-02-10T10:00:00.000Z", 1770717600, 1770717600000, "1770717600", 1770717600.0],
)
def test_times_are_iso_with_a_zone_or_seconds_or_milliseconds(write, book, value):
    """All of them name the same moment."""
    (attempt,), _ = read(write("rows.jsonl", [{**BASE, "at": value, "input_tokens": 1}]), book)
    assert attempt.opening.started_us == 1_770_717_600_000_000


def test_rows_without_id_are_known_by_content_and_occurrence(write, book, books):
    """Two equal rows are two calls; the same file again adds nothing, even with its columns in another order."""
    row = {**BASE, "input_tokens": 5, "labels": {"a": "1", "b": "2"}}
    path = write("rows.jsonl", [row, row, {**row, "input_tokens": 6}])
    assert books.observe(read(path, book)[0]) == 3
    assert books.observe(read(path, book)[0]) == 0
    turned = {name: row[name] for name in reversed(row)} | {"labels": {"b": "2", "a": "1"}}
    assert books.observe(read(write("other.jsonl", [turned]), book)[0]) == 0


def test_uncached_input_is_the_other_way_to_count_but_not_in_the_same_file(write, book):
    """input_tokens contains the caches, uncached_input_tokens does not; a file keeps to one of them."""
    caches = {"cache_read_tokens": 400, "cache_write_1h_tokens": 30}
    path = write(
        "rows.jsonl", [{**BASE, "provider": "anthropic", "model": "claude-test", "uncached_input_tokens": 70, **caches}]
    )
    (attempt,), _ = read(path, book)
    assert attempt.charge.usage is not None
    assert attempt.charge.usage.input_tokens == 500
    assert attempt.charge.amount == 70 * 4_000 + 400 * 400 + 30 * 8_000
    rows = [{**BASE, "uncached_input_tokens": 1}, {**BASE, "input_tokens": 1}]
    with pytest.raises(RowError, match=r"rows.jsonl:2: input_tokens beside uncached_input_tokens"):
        read(write("rows.jsonl", rows), book)


def test_what_the_provider_charged_is_the_amount_exactly(write, book):
    """cost_usd is a decimal, also where JSON writes a number, and also without any usage."""
    rows = [{**BASE, "cost_usd": 0.000000123}, {**BASE, "cost_usd": "1.5", "input_tokens": 1000}]
    (bare, counted), _ = read(write("rows.jsonl", rows), book)
    assert bare.charge.cost_usd == Decimal("0.000000123")
    assert counted.charge.cost_usd == Decimal("1.5")
    assert counted.charge.lines[0].cost == 2_000_000


def test_a_tool_row_is_a_tool_call_at_its_stated_cost(write, book):
    """Tools are not in the price book: such a row needs its cost and no model."""
    row = {"at": BASE["at"], "provider": "tavily", "tool": "search", "cost_usd": "0.008"}
    (attempt,), _ = read(write("rows.jsonl", [row]), book)
    assert (attempt.opening.kind, attempt.opening.operation, attempt.tools) == ("tool", "tool", ("search",))
    assert attempt.charge.cost_usd == Decimal("0.008")
    del row["cost_usd"]
    with pytest.raises(RowError, match="'cost_usd' is missing"):
        read(write("rows.jsonl", [row]), book)


def test_a_row_without_usage_or_cost_is_unpriced(write, book):
    """Unknown is never zero."""
    (attempt,), _ = read(write("rows.jsonl", [BASE]), book)
    assert attempt.charge.amount is None
    assert attempt.charge.reason == "the row states no usage"


def test_an_unknown_column_names_the_nearest_and_the_ways_out(write, book):
    """Rename it, or pass it over."""
    path = write("rows.jsonl", [{**BASE, "input_token": 5}])
    with pytest.raises(
        RowError, match=r"unknown column 'input_token' \(nearest: 'input_tokens'\).*--map.*--ignore-unknown"
    ):
        read(path, book)
    (attempt,), _ = read(path, book, columns=Columns({"input_token": "input_tokens"}))
    assert attempt.charge.amount == 10_000
    (attempt,), _ = read(path, book, columns=Columns(ignore_unknown=True))
    assert attempt.charge.amount is None
    with pytest.raises(ValueError, match="--map a=modle: unknown column 'modle' \\(nearest: 'model'\\)"):
        Columns({"a": "modle"})


def test_two_columns_for_one_meaning_are_refused(write, book):
    """A renamed column may not meet one of the same name."""
    path = write("rows.csv", ["at,provider,model,prompt,input_tokens", "1,a,b,3,4"])
    with pytest.raises(RowError, match=r"rows.csv:1: two columns for 'input_tokens'"):
        read(path, book, columns=Columns({"prompt": "input_tokens"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at": "2026-02-10 10:00"}, "at '2026-02-10 10:00': '2026-02-10 10:00' has no time zone"),
        ({"at": "soon"}, "at 'soon': 'soon' is not an ISO 8601 time"),
        ({"at": True}, "at True: is not a number"),
        ({"at": 10**30}, "is not a time"),
        ({"provider": ""}, "'provider' is missing"),
        ({"model": None}, "'model' is missing"),
        ({"input_tokens": -1}, "input_tokens '-1' is not a count"),
        ({"input_tokens": "many"}, "input_tokens 'many' is not a count"),
        ({"input_tokens": 1.5}, "input_tokens '1.5' is not a count"),
        ({"input_tokens": [1]}, r"input_tokens '\[1\]' is not a count"),
        ({"input_tokens": "1e999999999"}, "is not a count: a whole number from 0 to 1,000,000,000,000"),
        ({"cost_usd": "1e999999999"}, "is more than 1,000,000,000 USD for one call"),
        ({"at": "-5"}, "at '-5'"),
        ({"at": 253_402_300_800_000}, "is not a time: ISO 8601"),
        ({"cost_usd": "-1"}, "cost_usd '-1': is negative"),
        ({"cost_usd": "free"}, "'free' is not a decimal number"),
        ({"status": "fine"}, "status 'fine': one of ok, error"),
        ({"latency_ms": "-2"}, "latency_ms '-2': is not a duration"),
        ({"user": ["ana"]}, r"user \['ana'\] is not text"),
        ({"user": "x" * 300}, "user is 300 characters long"),
        ({"labels": "env=prod"}, "labels 'env=prod' is not an object"),
        ({"labels": {str(n): "x" for n in range(40)}}, "40 labels on one call"),
    ],
)
def test_a_bad_value_names_the_place_the_field_and_the_value(write, book, change, message):
    """The good row before it is not handed on: nothing of the file is imported."""
    path = write("rows.jsonl", [BASE, {**BASE, **change}])
    with pytest.raises(RowError, match=rf"rows\.jsonl:2: .*{message}"):
        next(read_rows(path, "jsonl", book=book, tally=Tally(), columns=Columns(), on_error="stop"))


def test_bad_rows_can_be_skipped_and_are_counted(write, book):
    """The others are imported, the first bad one is named."""
    rows = [BASE, {**BASE, "input_tokens": "x"}, "not json", {**BASE, "input_tokens": 2}]
    attempts, tally = read(write("rows.jsonl", rows), book, on_error="skip")
    assert len(attempts) == 2
    assert tally.skipped == {"bad row": 2}
    assert "rows.jsonl:2: input_tokens 'x'" in tally.first_place["bad row"]


def test_csv_with_quotes_line_breaks_byte_order_mark_and_spreadsheet_counts(tmp_path, book):
    """What spreadsheets write is read; a row of another length is an error with its line."""
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'\xef\xbb\xbfat,provider,model,input_tokens,label:note\r\n1770717600,openai,gpt-test,12.0,"a ""b"",\r\nc"\r\n'
    )
    (attempt,), _ = read(path, book)
    assert attempt.charge.amount == 24_000
    assert attempt.opening.scope.labels == (("note", 'a "b",\nc'),)
    path.write_text("at,provider,model\n1770717600,openai\n", encoding="utf-8")
    with pytest.raises(RowError, match=r"rows.csv:2: 2 values for 3 columns"):
        read(path, book)
    path.write_bytes(b"at,provider,model\n1770717600,openai,\xff\n")
    with pytest.raises(RowError, match=r"not CSV in UTF-8"):
        read(path, book)


def test_a_compressed_file_is_read_and_one_that_breaks_off_adds_nothing(tmp_path, book):
    """With --on-error stop even the rows before the break are held back."""
    whole = gzip.compress("".join(json.dumps({**BASE, "id": str(n)}) + "\n" for n in range(99)).encode())
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(whole)
    assert len(read(path, book)[0]) == 99
    path.write_bytes(whole[:-9])
    with pytest.raises(OSError, match="breaks off after line"):
        next(read_rows(path, "jsonl", book=book, tally=Tally(), columns=Columns(), on_error="stop"))
