"""`bursar budgets`, `approvals` and `approve`: what is set is in force, figures are exact, errors say the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.adapters.data_dir import DataDir
from bursar.cli import root
from bursar.cli.budget_options import SetOptions, merged
from bursar.compose import budgets_in_force, now_us, open_books_file, settings_of
from bursar.core.budgets import Budget
from bursar.core.errors import ConfigError

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BURSAR_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    """Run a command on a data directory of its own, in a terminal of some width."""

    def invoke(*arguments: str, width: int = 120) -> Result:
        return CliRunner().invoke(
            root, [*arguments, "--data", str(data)], env={"COLUMNS": str(width)}, prog_name="bursar"
        )

    return invoke


def _write(data: Path, sql: str, *rows: tuple[Any, ...]) -> None:
    """What calls would have left in the books."""
    where = DataDir(data)
    with closing(open_books_file(where, settings_of(where))) as books:
        books.transaction(lambda: books.connection.executemany(sql, rows))


def _used(data: Path, account: str, *, spent: int, held: int = 0, unpriced: int = 0) -> None:
    _write(data, "INSERT INTO balance VALUES (?, ?, ?, ?, 0, 0, 0, 0, 0)", (account, held, spent, unpriced))


def _asked(data: Path, name: str) -> None:
    values = (name, "support", "budget:support", '{"user":"ann"}', "pending", now_us(), None, now_us() + 10**12)
    _write(data, "INSERT INTO approval VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)


def _in_force(data: Path) -> dict[str, Budget]:
    """As a server would take them."""
    where = DataDir(data)
    settings = settings_of(where)
    with closing(open_books_file(where, settings)) as books:
        return {budget.name: budget for budget in budgets_in_force(settings, books)}


# --- set --------------------------------------------------------------------------------------------------------


def test_a_budget_is_set_and_only_what_is_given_changes(run: Run, data: Path) -> None:
    """A new one is in force as it was said; a raise alone leaves everything else as it was; `none` takes it back."""
    told = run("budgets", "set", "support", "--limit", "50", "--per", "month", "--match", "team=support", "--watch")
    assert told.stdout == "Set support: $50 per month where team is support (watched, not enforced).\n"
    before = _in_force(data)["support"]
    assert (before.limits[0].amount, before.match, before.enforce) == (50 * 10**9, (("team", ("support",)),), False)
    told = run("budgets", "set", "support", "--raise", "30", "--until", "2999-12-01")
    assert told.stdout.startswith("Changed support: $80 per month")
    after = _in_force(data)["support"]
    assert after.raised is not None
    assert (after.raised.by, after.limits, after.match) == (30 * 10**9, before.limits, before.match)
    run("budgets", "set", "support", "--raise", "none", "--match", "none", "--enforce")
    assert _in_force(data)["support"] == Budget("support", "usd", before.limits)


def test_every_option_reaches_the_budget(run: Run, data: Path) -> None:
    """What the command line can say is what the grammar means."""
    done = run(
        *("budgets", "set", "b", "--limit", "day=5", "--limit", "month=50", "--each", "user", "--tz", "Europe/Berlin"),
        *("--match", "team=a*", "--match", "team=b", "--match", "label:env=prod", "--on-unpriced", "assume-$0.05"),
        *("--on-store-failure", "open-up-to-$1", "--alert-at", "70%", "--alert-at", "90", "--no-forecast"),
        *("--reserve", "0.5", "--floor-tokens", "99", "--streams", "extend", "--rung", "at=50% output_cap=100"),
        *("--rung", "at=80% model=gpt-5:gpt-5-mini,big*:small", "--rung", "at=90% note=You have {left} = little"),
        *("--rung", "at=95% tools=read,search", "--rung", "at=99% approve", "--json"),
    )
    assert done.exit_code == 0, done.stderr
    budget = _in_force(data)["b"]
    assert [(limit.window.text, limit.amount) for limit in budget.limits] == [("day", 5 * 10**9), ("month", 50 * 10**9)]
    assert dict(budget.match) == {"team": ("a*", "b"), "label:env": ("prod",)}
    assert (budget.each, budget.on_unpriced, budget.assume, budget.open_up_to) == ("user", "assume", 5 * 10**7, 10**9)
    assert (budget.thresholds, budget.forecast, budget.reserve, budget.floor_tokens) == (
        (700, 900),
        False,
        5 * 10**8,
        99,
    )
    assert (budget.streams, str(budget.limits[0].window.zone)) == ("extend", "Europe/Berlin")
    assert [(rung.at, rung.action) for rung in budget.ladder] == [
        (500, "output_cap"), (800, "model"), (900, "note"), (950, "tools"), (990, "approve"),
    ]  # fmt: skip
    assert budget.ladder[1].models == (("gpt-5", "gpt-5-mini"), ("big*", "small"))
    assert budget.ladder[2].text == "You have {left} = little"
    assert json.loads(done.stdout)["limits"][0] == {"window": "day", "limit": "5", "now": "5"}


def test_limits_by_window_change_one_by_one() -> None:
    """One window of several is raised alone; a plain limit becomes one for each window where that is said."""
    assert merged({"limit": {"day": "5", "month": "50"}}, SetOptions(limit=("day=6",))) == {
        "limit": {"day": "6", "month": "50"}
    }
    assert merged({"limit": "5", "per": ["day", "week"]}, SetOptions(limit=("day=6",))) == {
        "limit": {"day": "6", "week": "5"}
    }
    assert merged({"limit": {"day": "5"}}, SetOptions(limit=("9",), per=("week",))) == {"limit": "9", "per": "week"}
    assert merged({"limit": "5", "raise": {"by": "1", "until": "2026-01-01"}}, SetOptions(until="2027-01-01")) == {
        "limit": "5",
        "raise": {"by": "1", "until": "2027-01-01"},
    }


def test_how_the_limits_of_tasks_behave(run: Run, data: Path) -> None:
    """The budget named `task` has no limit of its own: tasks state theirs. It is shown, and has no balance."""
    done = run("budgets", "set", "task", "--rung", "at=80% effort=low", "--input", "likely")
    assert done.stdout == "Set task: how the limits behave that tasks have of their own.\n"
    assert (_in_force(data)["task"].limits, _in_force(data)["task"].input) == ((), "likely")
    assert "task: how the limits of tasks behave." in run("budgets", "list").stdout
    assert "what each task states for itself" in run("budgets", "show", "task").stdout
    assert json.loads(run("budgets", "list", "--json").stdout)["rows"][0]["standings"] == []


def test_a_ladder_as_json(run: Run, data: Path) -> None:
    """For models whose names have a colon; it replaces the ladder there was."""
    ladder = [{"at": "90%", "model": {"llama3:70b": "llama3:8b"}}]
    run("budgets", "set", "b", "--limit", "1", "--rung", "at=10% refuse")
    run("budgets", "set", "b", "--ladder", json.dumps(ladder))
    (rung,) = _in_force(data)["b"].ladder
    assert rung.models == (("llama3:70b", "llama3:8b"),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("b",), "a new one needs --limit"),
        ((), "name one"),
        (("b", "--task", "t", "--limit", "1"), "name one"),
        (("b", "--limit", "1", "--limit", "2"), "--limit day=5 --limit month=50"),
        (("b", "--limit", "day=1", "--limit", "day=2"), "give each window once"),
        (("b", "--limit", "day=1", "--per", "day"), "leave --per out"),
        (("b", "--limit", "1", "--match", "team"), "--match COLUMN=PATTERN"),
        (("b", "--limit", "1", "--rung", "effort=low"), "at=90%"),
        (("b", "--limit", "1", "--rung", "at=90% model=a:b:c"), "--ladder"),
        (("b", "--limit", "1", "--ladder", "{"), "no JSON"),
        (("b", "--limit", "1", "--ladder", "[]", "--rung", "at=1% refuse"), "exclude each other"),
        (("b", "--limit", "1", "--raise", "2"), "--until DATE"),
        (("b", "--limit", "1", "--until", "2999-01-01"), "--raise AMOUNT"),
        (("b", "--limit", "1", "--raise", "2", "--until", "2020-01-01"), "over already"),
        (("b", "--limit", "1", "--raise", "2", "--until", "soon"), "no date"),
        (("--task", "t", "--limit", "1", "--each", "user"), "--limit and --reserve only"),
        (("--task", "t"), "no limit yet"),
        (("--task", "", "--limit", "1"), "from 1 to 256"),
        (("--task", "t", "--limit", "1", "--limit", "2"), "one limit"),
        (("--task", "t", "--limit", "2M tokens"), "must be money"),
        (("--task", "t", "--limit", "1", "--reserve", "2"), "more than the limit"),
        (("--task", "t", "--limit", "none", "--reserve", "2"), "leave --reserve out"),
    ],
)
def test_what_cannot_be_is_a_usage_error(run: Run, data: Path, options: tuple[str, ...], words: str) -> None:
    """Exit code 2, the way out in words, and nothing is set."""
    done = run("budgets", "set", *options)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert _in_force(data) == {}


def test_what_the_grammar_refuses_is_a_configuration_error(run: Run) -> None:
    """The command line leaves it to the one grammar, whose errors `main` turns into exit code 2."""
    done = run("budgets", "set", "b", "--limit", "1", "--each", "usr")
    assert isinstance(done.exception, ConfigError)
    assert "did you mean 'user'?" in str(done.exception)


def test_a_budget_of_the_file_is_shown_and_changed_there(run: Run, data: Path) -> None:
    """It is listed with its source; set and remove fail and say where it is."""
    data.mkdir()
    (data / "bursar.yaml").write_text("budgets:\n  team: {limit: 2.50, per: month}\n")
    assert json.loads(run("budgets", "list", "--json").stdout)["rows"][0]["source"] == "file"
    assert "bursar.yaml" in run("budgets", "show", "team").stdout
    for command in (("set", "team", "--limit", "9"), ("remove", "team")):
        done = run("budgets", *command)
        assert (done.exit_code, "bursar.yaml" in done.stderr) == (1, True)


def test_a_task_gets_a_limit_keeps_its_reserve_and_loses_it(run: Run) -> None:
    """Raising the limit leaves the reserve; `none` takes the limit away."""
    run("budgets", "set", "--task", "t-1", "--limit", "0.50", "--reserve", "0.10")
    raised = json.loads(run("budgets", "set", "--task", "t-1", "--limit", "2", "--json").stdout)
    assert (raised["limit"], raised["reserve"], raised["left"]) == ("2", "0.1", "2")
    assert "$0.1000 of the limit is kept for its last call" in run("budgets", "show", "--task", "t-1").stdout
    assert "no limit of its own" in run("budgets", "set", "--task", "t-1", "--limit", "none").stdout
    gone = run("budgets", "show", "--task", "t-1")
    assert (gone.exit_code, "bursar budgets set --task TASK --limit AMOUNT" in gone.stderr) == (1, True)


# --- see --------------------------------------------------------------------------------------------------------


def test_nothing_yet_says_how_to_begin(run: Run) -> None:
    """The first command to type; JSON is an empty list."""
    assert "bursar budgets set support --limit 50 --per month" in run("budgets", "list").stdout
    assert json.loads(run("budgets", "list", "--json").stdout) == {"rows": []}
    assert run("approvals").stdout == "Nothing waits for a yes.\n"


def test_the_list_says_what_is_left(run: Run, data: Path) -> None:
    """Spent, held, left, used of every window; the fullest first, the rest counted; unpriced is never zero."""
    run("budgets", "set", "all", "--limit", "10")
    run("budgets", "set", "people", "--limit", "5", "--each", "user")
    run("budgets", "set", "tokens", "--limit", "2M tokens", "--per", "24h")
    run("budgets", "set", "quiet", "--limit", "5", "--each", "agent")
    run("budgets", "set", "--task", "t-1", "--limit", "1")
    _used(data, "budget:all", spent=8_500_000_001, held=10**9, unpriced=3)
    for number in range(7):
        _used(data, f"budget:people=user-{number}", spent=number * 10**9)
    text = run("budgets", "list").stdout
    lines = text.splitlines()
    everything = next(line for line in lines if line.startswith("all")).split()
    assert everything[:8] == ["all", "lifetime", "$10.00", "$8.50", "$1.00", "3", "$0.5000", "95%"]
    assert [line.split()[1] for line in lines if line.startswith("people ")] == [f"user-{n}" for n in (6, 5, 4, 3, 2)]
    assert "3 attempts unpriced: the cost is not known" in text
    assert "2 more lines: bursar budgets show people" in text
    assert "quiet: no call of any agent yet" in text
    assert "1 task with a limit of its own: add --tasks." in text
    assert "t-1" in run("budgets", "list", "--tasks").stdout
    assert all(len(line) <= 60 for line in run("budgets", "list", "--tasks", width=60).stdout.splitlines()[:10])
    rows = {row["name"]: row for row in json.loads(run("budgets", "list", "--json").stdout)["rows"]}
    found = rows["all"]["standings"][0]
    assert (found["spent"], found["held"], found["left"], found["unpriced_attempts"]) == (
        "8.500000001",
        "1",
        "0.499999999",
        3,
    )
    assert (len(rows["people"]["standings"]), rows["tokens"]["standings"][0]["limit"]) == (7, 2_000_000)


def test_a_subject_cannot_steer_the_terminal(run: Run, data: Path) -> None:
    """Names come from calls: control characters never reach the terminal."""
    run("budgets", "set", "people", "--limit", "5", "--each", "user")
    _used(data, "budget:people=\x1b[31mred\n", spent=1)
    _write(
        data,
        "INSERT INTO approval VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        ("a1", "people", "x", '{"user":"\\u001b[31mred\\n"}', "pending", 0, None, None),
    )
    for command in (("budgets", "list"), ("budgets", "show", "people"), ("approvals",), ("approve", "a1")):
        assert "\x1b" not in run(*command).stdout


def test_a_budget_shows_what_it_says(run: Run) -> None:
    """Its definition in words, its ladder, its raise with its end, and every balance."""
    run(
        "budgets",
        "set",
        "b",
        "--limit",
        "5",
        "--per",
        "day",
        "--rung",
        "at=80% model=gpt-5:gpt-5-mini",
        "--rung",
        "at=95% approve",
    )
    run(
        "budgets",
        "set",
        "b",
        "--raise",
        "2",
        "--until",
        "2999-12-01",
        "--on-unpriced",
        "assume-0.05",
        "--match",
        "team=a",
    )
    text = run("budgets", "show", "b").stdout
    for words in (
        "$7 per day",
        "where team is a",
        "$2 more, until 2999-12-01 00:00 UTC",
        "a call without a price counts $0.05",
        "from 80% on: gpt-5-mini takes the place of gpt-5",
        "from 95% on: calls need somebody's yes",
        "by command or API",
    ):
        assert words in text
    assert json.loads(run("budgets", "show", "b", "--json").stdout)["spec"]["ladder"][1] == {
        "at": "95%",
        "approve": True,
    }


def test_a_budget_is_removed_and_an_unknown_one_is_said(run: Run, data: Path) -> None:
    """Exit code 1 with the command that lists what there is."""
    run("budgets", "set", "b", "--limit", "5")
    assert run("budgets", "remove", "b").stdout == "Removed b.\n"
    assert _in_force(data) == {}
    for command in (("remove", "b"), ("show", "b")):
        done = run("budgets", *command)
        assert (done.exit_code, "bursar budgets list" in done.stderr) == (1, True)
    assert run("budgets", "show").exit_code == 2


# --- approvals --------------------------------------------------------------------------------------------------


def test_what_waits_is_listed_and_decided(run: Run, data: Path) -> None:
    """A yes takes it off the list; a no takes the yes back; an unknown id is exit code 1 with the way out."""
    _asked(data, "a1")
    assert json.loads(run("approvals", "--json").stdout)["rows"][0]["who"] == {"user": "ann"}
    listed = run("approvals")
    assert ("a1" in listed.stdout, "bursar approve ID" in listed.stderr) == (True, True)
    assert run("approve", "a1").stdout.startswith("Approved: user=ann, budget support until ")
    assert run("approvals").stdout == "Nothing waits for a yes.\n"
    assert "granted" in run("approvals", "--all").stdout
    assert json.loads(run("approve", "a1", "--decline", "--json").stdout)["state"] == "declined"
    unknown = run("approve", "zz")
    assert (unknown.exit_code, "bursar approvals" in unknown.stderr) == (1, True)
