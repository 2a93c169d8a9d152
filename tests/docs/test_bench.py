"""The benchmark starts, and its arithmetic is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _bench(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )


def test_list_names_every_part() -> None:
    """``--list`` names each part once, each is a module, and docs/benchmarks.md says something of it."""
    done = _bench("--list")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == ["gateway", "inprocess", "imports", "ledger", "peers"]
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in names:
        assert (ROOT / "bench" / f"{name}.py").is_file()
        assert f"`{name}`" in page


def test_an_unknown_part_is_refused_by_name() -> None:
    """A part that does not exist is an error that lists those that do."""
    done = _bench("--only", "gatway")
    assert done.returncode == 2
    assert "gatway" in done.stderr
    assert "gateway" in done.stderr


def test_a_figure_that_was_not_measured_has_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ratio is value over reference; what was not measured is null in the JSON and says so in the table, never zero."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.measure import percentile
    from bench.report import Figure, Report, not_measured, write_json

    assert (percentile(range(1, 101), 50), percentile(range(1, 101), 99), percentile([7.0], 99)) == (50, 99, 7.0)
    figure = Figure("a", 50.0, "/s", "bare", 200.0, ">= 0.5 x", False)
    report = Report("part", (figure, not_measured("b", "not installed")))
    write_json(tmp_path / "out" / "x.json", {"cores": 2}, [report])
    first, second = json.loads((tmp_path / "out" / "x.json").read_text())["parts"]["part"]["figures"]
    assert first["ratio"] == 0.25
    assert (second["value"], second["ratio"], second["goal_met"]) == (None, None, None)
    text = report.text()
    assert "MISSED" in text
    assert "not measured: not installed" in text
