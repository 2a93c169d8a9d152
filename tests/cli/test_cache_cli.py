"""`bursar cache`: what kept answers saved, and making them void."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bursar
from bursar.adapters.cache_open import open_tool_cache_store
from bursar.cli.cache import cache
from bursar.compose import now_us
from bursar.core.errors import CacheError

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(
            cache, [*arguments, "--data", str(data)], env={"COLUMNS": "80"}, prog_name="bursar cache", **options
        )

    return invoke


@pytest.fixture
def used(data: Path) -> None:
    """Two users asked a tool the same twice, and one of them something else."""
    bursar.init(data=data)

    @bursar.tool(price="0.005", cache="10m", tags=["orders"])
    def look(query: str) -> str:
        return query

    for user in ("a", "b"):
        with bursar.task(user=user):
            look("x")
            look("x")
    look("y")
    bursar.shutdown()


def kept(data: Path) -> int:
    with closing(
        open_tool_cache_store(
            data / "cache.sqlite3",
            size_mb=1,
            memory_mb=1,
            encryption_env=None,
            environment={},
            clock_us=now_us,
        )
    ) as store:
        return store.use().entries


def test_stats_of_nothing_say_how_to_begin(run: Run) -> None:
    """And exit well."""
    result = run("stats")
    assert result.exit_code == 0
    assert "@bursar.tool(cache=" in result.stdout


@pytest.mark.usefixtures("used")
def test_stats_for_people(run: Run) -> None:
    """Tiers with their share and what they avoided; what is kept."""
    result = run("stats")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["Tools", "tool", "2", "40.0%", "$0.0100"] in lines
    assert ["Tools", "missed", "3"] in lines
    assert "Net saved $0.0100" in result.stdout
    assert "sqlite: 3 kept, 1.2 kB of 500.0 MB" in result.stdout
    assert "unknown" not in result.stdout


@pytest.mark.usefixtures("used")
def test_stats_for_machines(run: Run) -> None:
    """Exact, with what the stores hold; filters hold."""
    answer = json.loads(run("stats", "--json").stdout)
    assert answer["kinds"] == [
        {
            "kind": "tool",
            "lookups": 5,
            "hits": 2,
            "misses": 3,
            "hit_share": 0.4,
            "tiers": [{"tier": "tool", "count": 2, "share": 0.4, "avoided_usd": "0.01", "unknown_cost": 0}],
        }
    ]
    assert (answer["avoided_usd"], answer["net_saved_usd"]) == ("0.01", "0.01")
    (store,) = answer["stores"]
    assert (store["store"], store["entries"], store["evicted"]) == ("sqlite", 3, 0)
    answer = json.loads(run("stats", "--json", "--where", "user=a").stdout)
    assert answer["avoided_usd"] == "0.005"
    options = run("stats", "--help").stdout
    assert "--since" in options
    assert "--csv" not in options
    assert "--limit" not in options
    for asked in (("--csv",), ("--limit", "3"), ("--where", "x=y"), ("--since", "soon")):
        assert run("stats", *asked).exit_code == 2


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("said", "left"),
    [
        (("--tag", "orders"), 0),
        (("--tag", "others"), 3),
        (("--route", "tool:look"), 0),
        (("--tenant", "user////a"), 2),
        (("--tenant", "user////b", "--tag", "orders"), 2),
        (("--key", "nothing"), 3),
        (("--all", "--yes"), 0),
    ],
)
def test_clearing_what_is_described(run: Run, data: Path, said: tuple[str, ...], left: int) -> None:
    """All that is said must be true of what goes."""
    result = run("clear", *said, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer == {"removed": 3 - left, "stores": [{"store": "sqlite", "removed": 3 - left}]}
    assert kept(data) == left


@pytest.mark.usefixtures("used")
def test_all_of_it_is_asked_about(run: Run, data: Path) -> None:
    """Without a yes nothing goes."""
    assert run("clear", "--all", input="n\n").exit_code == 1
    assert run("clear", "--all", "--json", input="").exit_code == 1
    assert kept(data) == 3
    result = run("clear", "--all", input="y\n")
    assert result.exit_code == 0
    assert "Removed 3 answers." in result.stdout
    assert kept(data) == 0


@pytest.mark.parametrize("said", [(), ("--all", "--tag", "x"), ("--yes",)])
def test_saying_nothing_or_too_much_is_asked_wrongly(run: Run, said: tuple[str, ...]) -> None:
    """With the ways to say it."""
    result = run("clear", *said)
    assert result.exit_code == 2
    assert "--all" in result.output
    assert ("give one or the other" in result.output) == (said[1:] == ("--tag", "x"))


def test_a_damaged_file_is_told_and_the_rest_of_the_report_stays(run: Run, data: Path) -> None:
    """The next time there is a new one."""
    data.mkdir()
    (data / "cache.sqlite3").write_bytes(b"no database" * 1_000)
    result = run("stats")
    assert result.exit_code == 0
    assert "set aside" in result.stdout
    (data / "cache.sqlite3").write_bytes(b"no database" * 1_000)
    assert isinstance(run("clear", "--tag", "x").exception, CacheError)
    assert run("clear", "--tag", "x").exit_code == 0


def test_a_server_that_is_not_there_is_told(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its password."""
    data.mkdir()
    (data / "bursar.yaml").write_text("cache: {store: redis}\n")
    monkeypatch.setenv("BURSAR_CACHE_URL", "redis://:hunter2@127.0.0.1:9/0")
    result = run("stats")
    assert result.exit_code == 0
    assert "127.0.0.1" in result.stdout
    assert "hunter2" not in result.output
    answer = json.loads(run("stats", "--json").stdout)
    assert set(answer["stores"][0]) == {"store", "error"}


@pytest.mark.usefixtures("used")
def test_a_result_of_a_tool_is_forgotten_with_its_tool(run: Run) -> None:
    """No server knows it: it is said what it is, and what makes it void."""
    result = run("wrong", "last")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is one of a tool: `bursar cache clear --route tool:look` forgets its results" in result.stderr
    assert "Removed 3 answers." in run("clear", "--route", "tool:look").stdout
    assert "no server runs" in str(run("wrong", "nothing").exception)


def test_lint_is_part_of_the_group(run: Run) -> None:
    """Loaded when it is asked for."""
    result = CliRunner().invoke(cache, ["lint", "--help"])
    assert result.exit_code == 0
    assert "lint" in CliRunner().invoke(cache, ["--help"]).output
