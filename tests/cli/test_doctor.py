"""``bursar doctor`` and what every command says about a data directory or a price list that cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli import root
from bursar.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURSAR_CONFIG", raising=False)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(root, arguments)


def _findings(tmp_path: Path) -> tuple[int, list[dict[str, Any]]]:
    result = _run("doctor", "--json", "--data", str(tmp_path / "data"))
    return result.exit_code, json.loads(result.stdout)["findings"]


def test_a_new_installation_has_no_problem(tmp_path: Path) -> None:
    """Everything is looked at, nothing is wrong, exit 0."""
    code, found = _findings(tmp_path)
    assert code == 0
    assert {finding["state"] for finding in found} <= {"ok", "note"}
    assert {"python", "data directory", "configuration", "prices", "books", "ledger", "server"} <= {
        finding["check"] for finding in found
    }


def test_a_damaged_price_list_is_one_problem_with_its_way_out(tmp_path: Path) -> None:
    """doctor says it once and goes on; other commands say the same in one line."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prices.json").write_text("{")
    code, found = _findings(tmp_path)
    problems = [finding for finding in found if finding["state"] == "problem"]
    assert (code, [finding["check"] for finding in problems]) == (1, ["prices"])
    assert "prices.json: Expecting property name" in problems[0]["text"]
    assert "remove the file: the bundled prices apply then" in problems[0]["text"]
    assert "books" in {finding["check"] for finding in found}
    shown = _run("prices", "show", "o3", "--data", str(tmp_path / "data"))
    assert isinstance(shown.exception, ConfigError)
    assert "remove the file" in str(shown.exception)


def test_an_address_without_its_version_prefix_is_noted(tmp_path: Path) -> None:
    """SDKs are given Anthropic's host alone, bursar.yaml needs its /v1 too: who forgets it is told."""
    (tmp_path / "bursar.yaml").write_text("providers:\n  anthropic:\n    base_url: http://localhost:4010\n")
    _, found = _findings(tmp_path)
    texts = [finding["text"] for finding in found if finding["check"] == "configuration"]
    assert any("anthropic: base_url http://localhost:4010 has no path" in text and "/v1" in text for text in texts)
    (tmp_path / "bursar.yaml").write_text("providers:\n  anthropic:\n    base_url: http://localhost:4010/v1\n")
    assert not any("has no path" in finding["text"] for finding in _findings(tmp_path)[1])


def test_an_empty_data_directory_option_is_refused(tmp_path: Path) -> None:
    """From an unset shell variable it would mean the current directory, and leave books there."""
    result = _run("spend", "--data", "")
    assert result.exit_code == 2
    assert "leave the option out for the default one" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_rungs_that_cannot_be_asked_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rung without a key, or without a price, is named; so is a cache that cannot be opened."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    text = "routes:\n  fast:\n    rungs: [openai/gpt-4o-mini, anthropic/claude-haiku-4-5, openai/no-such-model, stale]\n    cache: {stale: 1d}\n"
    (tmp_path / "bursar.yaml").write_text(text, encoding="utf-8")
    found = {(each["check"], each["text"]) for each in _findings(tmp_path)[1]}
    texts = [text for check, text in found if check == "routes"]
    assert len(texts) == 2
    assert any("ANTHROPIC_API_KEY is not set" in text for text in texts)
    assert any("no-such-model has no price" in text for text in texts)
    assert ("cache", "sqlite, up to 500 MB") in found


def test_what_similar_questions_are_compared_with_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each route: a local model that is not installed, a function that is nowhere or fails, a provider without a key,
    a judge like that. The rest of the cache is fine."""
    pytest.importorskip("numpy")
    monkeypatch.setattr("bursar.adapters.embedders.local_model", lambda: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("MISTRAL_API_KEY", "x")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails_at_import.py").write_text("raise RuntimeError('no weights')\n", encoding="utf-8")
    policies = {
        "a": "embed: local",
        "b": "embed: 'no_such_module:embed'",
        "c": "embed: 'fails_at_import:embed'",
        "d": "embed: openai/text-embedding-3-small",
        "f": "verify: judge, judge: openai/gpt-5-mini",
        "g": "embed: ngrams",
        "h": "embed: mistral/mistral-embed",
    }
    routes = "".join(
        f"  {name}: {{rungs: [openai/gpt-4o-mini], cache: {{semantic: {{{policy}}}}}}}\n"
        for name, policy in policies.items()
    )
    (tmp_path / "bursar.yaml").write_text(f"routes:\n{routes}", encoding="utf-8")
    code, found = _findings(tmp_path)
    texts = [each["text"] for each in found if each["check"] == "cache" and each["state"] == "problem"]
    assert code == 1
    assert [text.partition(" gives")[0] for text in texts] == [f"route {name}" for name in "abcdf"]
    for text, part in zip(
        texts,
        ("pip install", "no_such_module", "no weights", "OPENAI_API_KEY is not set", "judge"),
        strict=True,
    ):
        assert part in text
    assert ("ok", "sqlite, up to 500 MB") in {(each["state"], each["text"]) for each in found}
