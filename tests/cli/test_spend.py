"""`bursar spend`: exact for machines, readable for people, and clear when it cannot answer."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bursar.cli import output
from bursar.cli.spend import spend_command
from seeding import MemoryLedger

Run = Callable[..., Result]


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def run(ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `bursar spend` on the ledger in memory, in a terminal of some width."""

    @contextmanager
    def open_queries(path: Path | None) -> Iterator[MemoryLedger]:
        assert path is None or path.name == "here"
        yield ledger

    compose = types.ModuleType("bursar.compose")
    monkeypatch.setattr(compose, "open_queries", open_queries, raising=False)
    monkeypatch.setitem(sys.modules, "bursar.compose", compose)

    def invoke(*arguments: str, width: int = 80) -> Result:
        return CliRunner().invoke(spend_command, arguments, env={"COLUMNS": str(width)}, prog_name="bursar spend")

    return invoke


def test_json_is_exact(ledger: MemoryLedger, run: Run) -> None:
    """Rows and a total, costs as decimal text to the nano-dollar, and nothing else on standard output."""
    ledger.attempt(team="a", model="m", cost_nanousd=1)
    ledger.attempt(team="b", model="m", cost_nanousd=2_000_000_000)
    answer = json.loads(run("--by", "team,model", "--json", "--data", "here").stdout)
    assert set(answer) == {"rows", "total"}
    assert [(row["team"], row["model"], row["cost_usd"]) for row in answer["rows"]] == [
        ("b", "m", "2"),
        ("a", "m", "0.000000001"),
    ]
    assert (answer["total"]["calls"], answer["total"]["cost_usd"]) == (2, "2.000000001")


def test_json_is_whole_unless_limited(ledger: MemoryLedger, run: Run) -> None:
    """A table has a limit of its own; JSON has every row, or says on standard error what it leaves out."""
    for number in range(40):
        ledger.attempt(model=f"m{number:02d}")
    assert len(json.loads(run("--json").stdout)["rows"]) == 40
    limited = run("--json", "--limit", "3")
    assert len(json.loads(limited.stdout)["rows"]) == 3
    assert "37 more rows" in limited.stderr
    assert "15 more rows" in run().stdout


def test_csv_has_a_header_and_empty_fields_for_unknown(ledger: MemoryLedger, run: Run) -> None:
    """The columns of the JSON; what is not known is empty, not zero."""
    ledger.attempt(team='a,"b"', cost_nanousd=None)
    (row,) = csv.DictReader(io.StringIO(run("--by", "team", "--csv").stdout))
    assert (row["team"], row["cost_usd"], row["unpriced_calls"]) == ('a,"b"', "", "1")


def test_a_table_fits_and_hides_no_figure(ledger: MemoryLedger, run: Run) -> None:
    """At 80 columns names are cut, amounts never; on a wide terminal everything is there, with bars."""
    ledger.attempt(agent="a" * 60, team="search", cost_nanousd=1_234_567_000_000)
    ledger.attempt(agent="b", cost_nanousd=120)
    for width in (40, 80, 160):
        result = run("--by", "agent,team", width=width)
        assert result.exit_code == 0
        assert max(len(line) for line in result.stdout.splitlines()) <= width
        assert "$1,234.57" in result.stdout
        assert "$0.00000012" in result.stdout
    assert "█" in result.stdout
    assert "a" * 60 in result.stdout
    assert "(none)" in result.stdout


def test_unpriced_and_estimated_are_said_in_words(ledger: MemoryLedger, run: Run) -> None:
    """How many, why, and a mark at amounts that are partly estimated."""
    ledger.attempt(model="new", cost_nanousd=None)
    ledger.attempt(model="old", cost_nanousd=4_200_000, estimated=True)
    text = run().stdout
    assert "1 call unpriced: the cost is not known" in text
    assert "1  no price for new" in text
    assert "~$0.0042" in text
    assert "1 call estimated" in text


def test_a_table_does_not_pass_on_control_characters(ledger: MemoryLedger, run: Run) -> None:
    """Escape sequences and markup in a name are shown as characters and change nothing."""
    ledger.attempt(task="\x1b[31mred\x1b[0m\n[bold]x[/bold]")
    text = run("--by", "task", width=150).stdout
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text


def test_days_come_newest_first(ledger: MemoryLedger, run: Run) -> None:
    """A table by day is in the order of time, in the zone asked for."""
    ledger.attempt(ago=timedelta(days=1), cost_nanousd=9)
    ledger.attempt(cost_nanousd=1)
    text = run("--by", "day", "--tz", "Pacific/Auckland").stdout
    assert text.index("2026-04-01") < text.index("2026-03-31")
    assert "Times are in Pacific/Auckland." in text


def test_an_empty_ledger_says_how_to_fill_it(run: Run) -> None:
    """Not an error: the ways to get calls in."""
    result = run()
    assert result.exit_code == 0
    assert "bursar import claude-code" in result.stdout
    assert "bursar up" in result.stdout
    assert json.loads(run("--json").stdout)["rows"] == []


def test_a_filter_without_matches_says_what_there_is(ledger: MemoryLedger, run: Run) -> None:
    """The span the ledger covers, so that the question can be widened."""
    ledger.attempt()
    assert "from 2026-03-31T12:00:00Z" in run("--since", "2999-01-01").stdout


def test_since_today_leaves_out_yesterday(ledger: MemoryLedger, run: Run) -> None:
    """Words for times are relative to the present moment."""
    now = datetime.now(timezone.utc)
    ledger.attempt(at=now, cost_nanousd=1)
    ledger.attempt(at=now, ago=timedelta(hours=49), cost_nanousd=10)
    assert json.loads(run("--since", "yesterday", "--json").stdout)["total"]["cost_usd"] == "0.000000001"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "colour"], "cannot group by 'colour'; choose from model, agent"),
        (["--by", "model,"], "cannot group by ''"),
        (["--where", "team"], "has no '='"),
        (["--where", "colour=red"], "cannot filter by 'colour'"),
        (["--where", "team=a", "--where", "team=b"], "give it once"),
        (["--since", "soon"], "since 'soon' is not a time"),
        (["--tz", "Mars"], "time zone 'Mars' is not known"),
        (["--json", "--csv"], "exclude each other"),
        (["--limit", "0"], "0 is not in the range"),
    ],
)
def test_usage_errors_exit_2_and_say_the_way_out(run: Run, arguments: list[str], words: str) -> None:
    """The value, what is wrong with it, and what would do."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [
        (None, "unpriced"),
        (0, "$0.00"),
        (1, "$0.000000001"),
        (120, "$0.00000012"),
        (4_200_000, "$0.0042"),
        (123_456_789, "$0.1235"),
        (999_999_999, "$1.0000"),
        (12_345_000_000, "$12.35"),
        (1_234_567_890_123_456, "$1,234,567.89"),
        (-4_200_000, "-$0.0042"),
    ],
)
def test_money_never_shows_zero_for_something(nanousd: int | None, text: str) -> None:
    """Enough digits for what is there, rounded half up, in whole numbers."""
    assert output.money(nanousd) == text


def test_short_forms_of_figures() -> None:
    """Counts in five characters, times in two units, shares that are never a false zero."""
    counts = {None: "?", 0: "0", 9_999: "9,999", 10_000: "10.0k", 999_950: "1.00M", 1_250_000: "1.25M"}
    assert {count: output.compact(count) for count in counts} == counts
    times = {None: "", 850.0: "850 ms", 12_340.0: "12.3 s", 245_000.0: "4m 05s", 7_380_000.0: "2h 03m"}
    assert {ms: output.duration(ms) for ms in times} == times
    assert [output.percent(part, 1000) for part in (0, 1, 9, 10, 126, 1000)] == [
        *("0%", "0.1%", "0.9%", "1%", "13%", "100%"),
    ]
    assert output.percent(1, 10**9) == "<0.1%"
    assert output.percent(None, 5) == ""
    assert output.aligned(["$12.35", "~$0.0042", "unpriced"]) == ["$12.35  ", "~$0.0042", "unpriced"]


def test_json_does_not_wait_for_rich() -> None:
    """Start-up: the command's module loads neither the database nor the table renderer."""
    code = (
        "import sys, bursar.cli.spend; print([n for n in ('rich', 'duckdb', 'bursar.core.prices') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
