"""The view of spend: groups, totals, filters, days in a time zone, and what is not known."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from bursar.views.asking import BadQuestion, moment, time_zone
from bursar.views.spend import first_and_last, spend, unpriced_reasons
from seeding import NOW, MemoryLedger

UNKNOWN = dict.fromkeys(
    ("cost_nanousd", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def test_rows_are_ordered_by_cost_and_add_up_to_the_total(ledger: MemoryLedger) -> None:
    """Two models, two rows, dearest first; the total is their sum and its JSON has exactly the promised figures."""
    ledger.attempt(model="small", cost_nanousd=1)
    ledger.attempt(model="large", cost_nanousd=12_500_000_000)
    ledger.attempt(model="small", cost_nanousd=2)
    answer = spend(ledger, by=["model"]).to_json()
    assert [(row["model"], row["calls"], row["cost_usd"]) for row in answer["rows"]] == [
        ("large", 1, "12.5"),
        ("small", 2, "0.000000003"),
    ]
    assert answer["total"] == {
        "calls": 3,
        "input_tokens": 3000,
        "output_tokens": 300,
        "cache_read_tokens": 600,
        "cache_write_tokens": 0,
        "reasoning_tokens": 30,
        "unpriced_calls": 0,
        "cost_usd": "12.500000003",
    }
    assert set(answer["rows"][0]) == {"model", *answer["total"]}


def test_a_retry_is_one_call_and_two_attempts(ledger: MemoryLedger) -> None:
    """Calls are counted by their first attempt; money by every attempt."""
    ledger.attempt(call_id="c", number=1, cost_nanousd=5)
    ledger.attempt(call_id="c", number=2, cost_nanousd=7)
    total = spend(ledger, by=["model"]).total
    assert (total.calls, total.attempts, total.cost_nanousd) == (1, 2, 12)


def test_unknown_is_never_zero(ledger: MemoryLedger) -> None:
    """A group without a price has no cost and no tokens; a mixed one has the priced part and says what is missing."""
    ledger.attempt(model="known", agent="a", cost_nanousd=7)
    ledger.attempt(model="new", agent="a", **UNKNOWN)
    ledger.attempt(model="new", agent="b", **UNKNOWN)
    rows = {row.keys[0]: row.measures.to_json() for row in spend(ledger, by=["model"]).rows}
    assert rows["new"] == {
        "calls": 2,
        **dict.fromkeys(("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")),
        "reasoning_tokens": None,
        "unpriced_calls": 2,
        "cost_usd": None,
    }
    by_agent = {row.keys[0]: row.measures for row in spend(ledger, by=["agent"]).rows}
    assert (by_agent["a"].cost_nanousd, by_agent["a"].unpriced_calls, by_agent["a"].input_tokens) == (7, 1, 1000)
    assert spend(ledger, by=["model"]).total.unpriced_calls == 2
    assert unpriced_reasons(ledger) == (("no price for new", 2),)


def test_a_rollup_in_which_nothing_was_priced_has_no_cost(ledger: MemoryLedger) -> None:
    """A rollup keeps 0 where nothing was priced; the view says it is not known."""
    ledger.rollup(model="new", cost_nanousd=0, unpriced_calls=10)
    ledger.rollup(model="old", cost_nanousd=3)
    rows = {row.keys[0]: row.measures.cost_nanousd for row in spend(ledger, by=["model"]).rows}
    assert rows == {"new": None, "old": 3}
    assert spend(ledger, by=["session"]).rows[0].measures.calls == 20


def test_an_empty_ledger_costs_nothing(ledger: MemoryLedger) -> None:
    """No rows, and a total of zeros: nothing was spent, and that is known."""
    answer = spend(ledger, by=["model"]).to_json()
    assert answer["rows"] == []
    assert set(answer["total"].values()) == {0, "0"}
    assert first_and_last(ledger) is None


@pytest.mark.parametrize(
    "column",
    [
        "model",
        "agent",
        "task",
        "session",
        "user",
        "team",
        "org",
        "project",
        "provider",
        "key",
        "door",
        "kind",
        "status",
    ],
)
def test_every_scope_column_groups_and_filters(ledger: MemoryLedger, column: str) -> None:
    """The same column can be asked for and fixed to a value, and quotes in a value are only a value."""
    ledger.attempt(**{column: "o'ne"}, cost_nanousd=1)
    ledger.attempt(**{column: "two"}, cost_nanousd=2)
    assert [row.keys for row in spend(ledger, by=[column]).rows] == [("two",), ("o'ne",)]
    assert spend(ledger, by=[column], where={column: "o'ne"}).total.cost_nanousd == 1
    assert spend(ledger, by=[column], where={column: "' OR 1=1 --"}).total.attempts == 0


def test_labels_group_and_filter(ledger: MemoryLedger) -> None:
    """A label is asked for by name; a call without it is in the group of the empty value."""
    ledger.attempt(labels={"env": "prod", "tier": "gold"}, cost_nanousd=1)
    ledger.attempt(labels={"env": "test"}, cost_nanousd=2)
    ledger.attempt(cost_nanousd=4)
    rows = spend(ledger, by=["label:env"]).to_json()["rows"]
    assert [(row["label:env"], row["cost_usd"]) for row in rows] == [
        ("", "0.000000004"),
        ("test", "0.000000002"),
        ("prod", "0.000000001"),
    ]
    assert spend(ledger, by=[], where={"label:tier": "gold"}).total.cost_nanousd == 1
    assert spend(ledger, by=["label:a'b) --"]).rows[0].keys == ("",)


def test_several_columns_at_once(ledger: MemoryLedger) -> None:
    """Each combination that occurs is one row, its keys in the order asked."""
    for team, model in (("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")):
        ledger.attempt(team=team, model=model)
    rows = spend(ledger, by=["team", "model"]).rows
    assert [(row.keys, row.measures.calls) for row in rows] == [(("a", "x"), 2), (("a", "y"), 1), (("b", "x"), 1)]


def test_days_are_those_of_the_time_zone(ledger: MemoryLedger) -> None:
    """23:30 UTC is the next day in Berlin, half past is right in Kathmandu (+05:45), and summer time is kept."""
    ledger.attempt(started_at=datetime(2026, 3, 28, 23, 30))
    ledger.attempt(started_at=datetime(2026, 7, 28, 22, 30))

    def keys(by: str, tz: str) -> list[str]:
        return [row.keys[0] for row in spend(ledger, by=[by], tz=tz).rows]

    assert keys("day", "UTC") == ["2026-07-28", "2026-03-28"]
    assert keys("day", "Europe/Berlin") == ["2026-07-29", "2026-03-29"]
    assert keys("hour", "Asia/Kathmandu") == ["2026-07-29T04:00", "2026-03-29T05:00"]
    assert keys("hour", "Europe/Berlin") == ["2026-07-29T00:00", "2026-03-29T00:00"]
    assert keys("month", "UTC") == ["2026-07", "2026-03"]


def test_the_span_begins_with_since_and_ends_before_until(ledger: MemoryLedger) -> None:
    """Since is inclusive, until exclusive, in any time zone."""
    for hours in range(4):
        ledger.attempt(ago=timedelta(hours=hours), cost_nanousd=10**hours)
    plus_two = timezone(timedelta(hours=2))
    since, until = NOW - timedelta(hours=2), NOW.astimezone(plus_two)
    assert spend(ledger, by=[], since=since, until=until).total.cost_nanousd == 110


def test_the_total_is_over_everything_also_past_the_limit(ledger: MemoryLedger) -> None:
    """Five groups, two shown: the total has all five and says how many there are."""
    for number in range(5):
        ledger.attempt(model=f"m{number}", cost_nanousd=10**number)
    report = spend(ledger, by=["model"], limit=2)
    assert [row.keys[0] for row in report.rows] == ["m4", "m3"]
    assert (report.group_count, report.total.cost_nanousd) == (5, 11111)


@pytest.mark.parametrize(
    ("field", "question"),
    [
        ("by", {"by": ["colour"]}),
        ("by", {"by": ["label:"]}),
        ("by", {"by": ["model", "model"]}),
        ("by", {"by": ['model"; DROP TABLE attempt; --']}),
        ("where", {"by": [], "where": {"colour": "red"}}),
        ("tz", {"by": [], "tz": "Mars/Olympus"}),
        ("tz", {"by": [], "tz": "../../etc/passwd"}),
        ("until", {"by": [], "since": NOW, "until": NOW}),
    ],
)
def test_what_cannot_be_asked_names_the_field(ledger: MemoryLedger, field: str, question: dict) -> None:
    """A closed set of columns, known time zones, a span that is not empty; the error names the part."""
    with pytest.raises(BadQuestion) as caught:
        spend(ledger, **question)
    assert caught.value.field == field


def test_points_in_time() -> None:
    """Words, spans back from now, dates and times in the asker's zone."""
    berlin = time_zone("Europe/Berlin")

    def at(text: str) -> str:
        return moment("since", text, now=NOW, zone=berlin).strftime("%Y-%m-%dT%H:%M")

    assert at("today") == "2026-03-30T22:00"
    assert at("yesterday") == "2026-03-29T22:00"
    assert at("month") == "2026-02-28T23:00"
    assert at("24h") == "2026-03-30T12:00"
    assert at("7d") == "2026-03-24T12:00"
    assert at("2026-01-31") == "2026-01-30T23:00"
    assert at("2026-01-31T12:00Z") == "2026-01-31T12:00"
    for text in ("", "soon", "9999999d", "2026-13-01", "7", "0001-01-01"):
        with pytest.raises(BadQuestion, match="is not a time"):
            at(text)
