"""The alert rules for Prometheus: Prometheus itself accepts them, and they fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool")
RULES = resources.files("bursar").joinpath("data/prometheus-rules.yml").read_text(encoding="utf-8")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (package prometheus)")


def promtool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    (folder / "prometheus-rules.yml").write_text(RULES, encoding="utf-8")
    return subprocess.run([PROMTOOL, *words], cwd=folder, capture_output=True, text=True, check=False)


@needs_promtool
def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    """Every expression parses and every template is one."""
    found = promtool(tmp_path, "check", "rules", "prometheus-rules.yml")
    assert found.returncode == 0, found.stdout + found.stderr


@needs_promtool
def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    """Series go in, alerts come out: prometheus_rules_test.yml beside this file."""
    shutil.copy(Path(__file__).with_name("prometheus_rules_test.yml"), tmp_path / "test.yml")
    found = promtool(tmp_path, "test", "rules", "test.yml")
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_rule_is_tested() -> None:
    """A rule without a case in the test file is not shipped."""
    cases = Path(__file__).with_name("prometheus_rules_test.yml").read_text(encoding="utf-8")
    names = re.findall(r"- alert: (\w+)", RULES)
    assert names
    assert not [name for name in names if f"alertname: {name}" not in cases]
