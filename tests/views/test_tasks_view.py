"""The views of tasks: own cost and cost with all, trees, circles, ids by their beginning; and the feed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from bursar.views.asking import BadQuestion
from bursar.views.feed import feed
from bursar.views.overview import overview
from bursar.views.spend import spend
from bursar.views.tasks import tasks, top_tasks
from bursar.views.trace import Node, NoTask, SeveralTasks, TaskTree, task
from seeding import NOW, MemoryLedger


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def _tree(ledger: MemoryLedger, name: str) -> TaskTree:
    answer = task(ledger, name)
    assert isinstance(answer, TaskTree)
    return answer


def _family(ledger: MemoryLedger) -> None:
    """A task (100) with two sub-tasks (10 each), one of which has its own (1, and one without a price)."""
    ledger.attempt(ago=timedelta(seconds=50), task="top", agent="boss", user="ann", cost_nanousd=100)
    for number in (1, 2):
        ago = timedelta(seconds=40 - number)
        ledger.attempt(ago=ago, task=f"child-{number}", parent_task="top", agent="reader", cost_nanousd=10)
    ledger.attempt(ago=timedelta(seconds=20), task="leaf", parent_task="child-1", cost_nanousd=1, tools=["search"])
    ledger.attempt(ago=timedelta(seconds=10), task="leaf", parent_task="child-1", cost_nanousd=None, status="error")


def test_a_task_costs_its_own_and_with_all_below(ledger: MemoryLedger) -> None:
    """Own cost and cost with every descendant, each once; errors and unpriced calls roll up too."""
    _family(ledger)
    ledger.attempt(cost_nanousd=5)
    answer = tasks(ledger)
    rows = {row.task: row for row in answer.rows}
    assert {name: (row.own.cost_nanousd, row.all_cost_nanousd) for name, row in rows.items()} == {
        "top": (100, 121),
        "child-1": (10, 11),
        "child-2": (10, 10),
        "leaf": (1, 1),
    }
    assert answer.rows[0].task == "top"
    assert (rows["top"].all_errors, rows["top"].all_unpriced_calls, rows["top"].task_count) == (1, 1, 4)
    assert (rows["top"].agent, rows["top"].user, rows["leaf"].status) == ("boss", "ann", "error")
    assert (answer.total.cost_nanousd, answer.without_task.cost_nanousd) == (126, 5)


def test_a_parent_without_calls_is_listed(ledger: MemoryLedger) -> None:
    """An orchestrator that calls no model itself has no own calls and the cost of what it started."""
    ledger.attempt(task="worker", parent_task="orchestrator", cost_nanousd=9)
    row = {row.task: row for row in tasks(ledger).rows}["orchestrator"]
    assert (row.own.calls, row.own.cost_nanousd, row.all_cost_nanousd) == (0, 0, 9)
    assert _tree(ledger, "orchestrator").root.total.cost_nanousd == 9


def test_tasks_can_be_filtered(ledger: MemoryLedger) -> None:
    """Sessions and any other column narrow the list; the limit is told."""
    for number in range(5):
        ledger.attempt(task=f"t{number}", session="s1" if number < 3 else "s2")
    assert {row.task for row in tasks(ledger, where={"session": "s1"}).rows} == {"t0", "t1", "t2"}
    answer = tasks(ledger, limit=2)
    assert (len(answer.rows), answer.task_count) == (2, 5)
    with pytest.raises(BadQuestion):
        tasks(ledger, where={"mood": "good"})


def test_a_tree_has_steps_in_order_and_sums_per_node(ledger: MemoryLedger) -> None:
    """Children are nested, steps carry offset and share, and each node adds up what is below it."""
    _family(ledger)
    tree = _tree(ledger, "top").to_json()
    assert (tree["own"]["cost_usd"], tree["total"]["cost_usd"], tree["tasks"]) == ("0.0000001", "0.000000121", 4)
    child = tree["children"][0]
    assert [node["task"] for node in tree["children"]] == ["child-1", "child-2"]
    assert (child["offset_ms"], child["share"], child["all_errors"]) == (11_000, 0.0909, 1)
    leaf = child["children"][0]
    assert [(step["offset_ms"], step["cost_usd"], step["tools"]) for step in leaf["steps"]] == [
        (30_000, "0.000000001", ["search"]),
        (40_000, None, []),
    ]
    assert leaf["steps"][1]["unpriced_reason"] == "no price for gpt-5-mini"
    assert leaf["steps"][1]["share"] is None


def test_a_circle_of_parents_is_cut_and_reported(ledger: MemoryLedger) -> None:
    """Tasks that name each other, or themselves, as parents are counted once each."""
    ledger.attempt(task="a", parent_task="b", cost_nanousd=1)
    ledger.attempt(task="b", parent_task="a", cost_nanousd=2)
    ledger.attempt(task="self", parent_task="self", cost_nanousd=4)
    assert {row.task: row.all_cost_nanousd for row in tasks(ledger).rows} == {"a": 3, "b": 3, "self": 4}
    tree = _tree(ledger, "a")
    assert tree.root.total.cost_nanousd == 3
    assert tree.circles == ("a names b as its parent",)
    assert _tree(ledger, "self").circles == ("self names self as its parent",)


def test_a_very_deep_chain_keeps_its_sum(ledger: MemoryLedger) -> None:
    """Nesting has a limit, money has none: deeper tasks are listed at the deepest level."""
    for number in range(200):
        ledger.attempt(task=f"n{number}", parent_task=f"n{number - 1}" if number else "", cost_nanousd=1)
    tree = _tree(ledger, "n0")
    assert (tree.root.total.cost_nanousd, tree.task_count) == (200, 200)

    def depth(node: Node) -> int:
        return 1 + max((depth(child) for child in node.children), default=0)

    assert depth(tree.root) == 65


def test_the_beginning_of_an_id_is_enough_when_it_is_unique(ledger: MemoryLedger) -> None:
    """An exact id wins; several candidates are listed; LIKE wildcards are only characters."""
    for name in ("run", "run-1", "run-2", "other"):
        ledger.attempt(task=name)
    assert _tree(ledger, "run").root.task == "run"
    assert _tree(ledger, "oth").root.task == "other"
    ambiguous = task(ledger, "run-")
    assert isinstance(ambiguous, SeveralTasks)
    assert set(ambiguous.candidates) == {"run-1", "run-2"}
    assert task(ledger, "%") == NoTask("%")
    with pytest.raises(BadQuestion):
        task(ledger, "")


def test_the_beginning_of_a_task_and_of_its_sub_tasks_is_that_task(ledger: MemoryLedger) -> None:
    """A session and its agents share their beginning: it opens the session, also past tasks of other names."""
    ledger.attempt(task="session-1", ago=timedelta(hours=1))
    for number in range(20):
        ledger.attempt(task=f"session-1/agent-{number}", parent_task="session-1")
    ledger.attempt(task="helper", parent_task="session-1/agent-3")
    ledger.attempt(task="session-1/leaf", parent_task="helper")
    assert _tree(ledger, "sess").root.task == "session-1"
    assert _tree(ledger, "session-1/l").root.task == "session-1/leaf"
    assert isinstance(task(ledger, "session-1/"), SeveralTasks)
    ledger.attempt(task="session-2")
    assert task(ledger, "sess") == SeveralTasks("sess", ("session-1", "session-2"), more=False)


def test_the_beginning_of_a_circle_is_ambiguous(ledger: MemoryLedger) -> None:
    """Of two tasks that name each other as parents neither stands for both."""
    ledger.attempt(task="loop-a", parent_task="loop-b")
    ledger.attempt(task="loop-b", parent_task="loop-a")
    answer = task(ledger, "loop")
    assert isinstance(answer, SeveralTasks)
    assert set(answer.candidates) == {"loop-a", "loop-b"}


def test_top_tasks_hold_everything_below_them(ledger: MemoryLedger) -> None:
    """Each call counts in one row: its top task's, also when that made no call, or else that of no task."""
    _family(ledger)
    ledger.attempt(task="worker", parent_task="silent", cost_nanousd=50)
    ledger.attempt(task="loop-a", parent_task="loop-b", cost_nanousd=3)
    ledger.attempt(task="loop-b", parent_task="loop-a", cost_nanousd=4)
    ledger.attempt(task="on-the-loop", parent_task="loop-b", cost_nanousd=5)
    ledger.attempt(task="own-parent", parent_task="own-parent", cost_nanousd=2)
    ledger.attempt(cost_nanousd=1)
    ledger.rollup(cost_nanousd=1_000)
    answer = top_tasks(ledger)
    assert [(row.task, row.measures.cost_nanousd, row.sub_tasks) for row in answer.rows] == [
        ("", 1_001, 0),
        ("top", 121, 3),
        ("silent", 50, 1),
        ("loop-a", 12, 2),
        ("own-parent", 2, 0),
    ]
    assert (answer.rows[1].measures.calls, answer.rows[1].measures.unpriced_calls) == (5, 1)
    shown = top_tasks(ledger, limit=2)
    assert ([row.task for row in shown.rows], shown.task_count) == (["", "top"], 5)
    assert top_tasks(ledger, since=NOW - timedelta(seconds=15)).rows[0].task == "silent"


def test_what_has_no_known_cost_comes_before_what_cost_nothing(ledger: MemoryLedger) -> None:
    """Refused calls cost $0.00 for sure; an unpriced one may be the dearest of all and must not be hidden by them."""
    for number in range(12):
        ledger.attempt(task=f"refused-{number}", model=f"m{number}", cost_nanousd=0, status="error", input_tokens=None)
    ledger.attempt(task="unknown", model="new", cost_nanousd=None)
    ledger.attempt(task="mixed", model="half", cost_nanousd=0)
    ledger.attempt(task="mixed", model="half", cost_nanousd=None)
    ledger.attempt(task="paid", model="known", cost_nanousd=1)
    assert [row.task for row in top_tasks(ledger, limit=3).rows] == ["paid", "mixed", "unknown"]
    assert {row.task for row in tasks(ledger, limit=3).rows} == {"paid", "mixed", "unknown"}
    models = [row.keys[0] for row in spend(ledger, by=["model"], limit=3).rows]
    assert models == ["known", "half", "new"]


def test_the_days_of_an_old_ledger_are_its_last_thirty(ledger: MemoryLedger) -> None:
    """After an import of old calls the figures are zero, and the days end with the last call's in the time zone."""
    ledger.attempt(at=datetime(2025, 6, 30, 23, 30, tzinfo=timezone.utc), cost_nanousd=7)
    ledger.attempt(at=datetime(2025, 6, 2, 12, tzinfo=timezone.utc), cost_nanousd=5)
    ledger.attempt(at=datetime(2025, 1, 1, tzinfo=timezone.utc), cost_nanousd=3)
    utc, berlin = (overview(ledger, now=NOW, tz=tz) for tz in ("UTC", "Europe/Berlin"))
    assert utc.figures["30d"].calls == 0
    assert (utc.days[0][0], utc.days[-1][0]) == ("2025-06-01", "2025-06-30")
    assert (berlin.days[0][0], berlin.days[-1][0]) == ("2025-06-02", "2025-07-01")
    assert [sum(m.cost_nanousd or 0 for _, m in days) for days in (utc.days, berlin.days)] == [12, 12]


def test_the_feed_gives_the_newest_after_a_sequence(ledger: MemoryLedger) -> None:
    """Newest first; asking again after the last sequence gives only what is new."""
    for number in range(5):
        ledger.attempt(task=f"t{number}")
    first = feed(ledger, limit=2)
    assert ([step.task for step in first.steps], first.last_sequence) == (["t4", "t3"], 5)
    assert feed(ledger, after=5).steps == ()
    ledger.attempt(task="t5", cost_nanousd=None)
    news = feed(ledger, after=first.last_sequence).to_json()
    assert news["last_sequence"] == 6
    assert [(row["task"], row["cost_usd"], row["started_at"]) for row in news["rows"]] == [
        ("t5", None, "2026-03-31T12:00:00Z")
    ]


def test_the_overview_counts_days_of_the_time_zone(ledger: MemoryLedger) -> None:
    """Today, 7 and 30 days are calendar days of the asker; the days add up to the figures."""
    ledger.attempt(ago=timedelta(hours=11), cost_nanousd=1)  # 01:00 UTC today, yesterday evening in New York
    ledger.attempt(ago=timedelta(days=6), cost_nanousd=10)
    ledger.attempt(ago=timedelta(days=29), cost_nanousd=100)
    ledger.attempt(ago=timedelta(days=90), cost_nanousd=1000, model="old")
    utc, new_york = (overview(ledger, now=NOW, tz=tz) for tz in ("UTC", "America/New_York"))
    assert {name: m.cost_nanousd for name, m in utc.figures.items()} == {"today": 1, "7d": 11, "30d": 111}
    assert new_york.figures["today"].cost_nanousd == 0
    assert new_york.figures["7d"].cost_nanousd == 11
    assert len(utc.days) == 30
    assert (utc.days[0][0], utc.days[-1][0]) == ("2026-03-02", "2026-03-31")
    assert sum(m.cost_nanousd or 0 for _, m in utc.days) == 111
    assert utc.tables["model"].total.cost_nanousd == 111
    assert overview(ledger, now=NOW, period="all").tables["model"].total.cost_nanousd == 1111
    assert overview(ledger, now=NOW, period="today").tables["model"].total.cost_nanousd == 1
    with pytest.raises(BadQuestion):
        overview(ledger, now=NOW, period="week")
