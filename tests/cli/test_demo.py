"""``bursar demo``: one command, an honest summary, nothing left behind."""

import csv
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import bursar.demo
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.cli.demo import demo
from bursar.core.usage import Usage
from bursar.demo import AGENTS, figures
from bursar.demo.summary import _compare
from bursar.sim import Call

SHARED = Path(os.environ.get("BURSAR_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SECONDS_MAX = 60


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    (tmp_path / "temporary").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BURSAR_")}
    return {**kept, "TMPDIR": str(tmp_path / "temporary"), "HOME": str(tmp_path), **more}


def start(tmp_path: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """``bursar demo`` with a temporary directory of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bursar", "demo", "--port", "0", *arguments],
        env=environment(tmp_path, **more),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    process = start(tmp_path, *arguments, **more)
    out, err = process.communicate(timeout=SECONDS_MAX)
    return process.returncode, out, err


def left_behind(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "temporary").iterdir()]


def test_once_prints_the_whole_picture_as_json_and_leaves_nothing(tmp_path: Path) -> None:
    """Three agents, every fault, the runaway and the unpriced model are in the summary; all proofs hold; no file stays."""
    begun = time.monotonic()
    code, out, err = run(tmp_path, "--once", "--json", "--speed", "50")
    assert (code, err) == (0, "")
    assert time.monotonic() - begun < SECONDS_MAX
    found = json.loads(out)
    assert {row["agent"] for row in found["by_agent"]} == {agent.name for agent in AGENTS}
    assert {row["status"]: row["calls"] for row in found["by_status"]}.keys() == {"ok", "error", "cut", "cancelled"}
    assert [one["task"] for one in found["runaways"]] == ["fix-flaky-checkout-test"]
    assert found["unpriced_reasons"] == [{"reason": "no price for model 'orion-1-preview' of 'openai'", "calls": 2}]
    assert found["total"]["unpriced_calls"] == found["total"]["estimated_calls"] == 2
    assert float(found["cache_estimate"]["saved_usd"]) > float(found["cache_estimate"]["writes_paid_more_usd"]) > 0
    proof = found["proof"]
    assert proof["agrees"]
    assert proof["calls_made"] == proof["ledger_rows"] == found["total"]["calls"]
    # All but the two refusals, the cut and the left stream.
    assert proof["compared_with_provider"] == proof["calls_made"] - 4
    assert left_behind(tmp_path) == []


def test_the_same_seed_gives_the_same_summary_at_any_speed(tmp_path: Path) -> None:
    """Totals do not depend on how calls interleave; another seed gives others."""
    first = run(tmp_path, "--once", "--json", "--seed", "5", "--speed", "1000")[1]
    again = run(tmp_path, "--once", "--json", "--seed", "5", "--speed", "25")[1]
    other = run(tmp_path, "--once", "--json", "--seed", "6", "--speed", "1000")[1]
    assert json.loads(first) == json.loads(again)
    assert json.loads(first)["total"] != json.loads(other)["total"]


def test_the_printed_summary_fits_80_columns_and_data_is_kept_where_asked(tmp_path: Path) -> None:
    """Only lines to copy may be longer. The kept directory answers `bursar spend`, and a second demo there is refused."""
    kept = tmp_path / "kept"
    code, out, _ = run(tmp_path, "--once", "--speed", "50", "--data", str(kept), COLUMNS="80")
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines() if "--data" not in line)
    assert re.search(r"^(\d+) calls, ledger and books agree\.$", out, re.MULTILINE)
    assert "The provider's own count agrees, token by token" in out
    assert re.search(r"billed anyway, ~\$0\.\d+", out)
    assert f"bursar spend --by task --data {kept}" in out
    command = [sys.executable, "-m", "bursar", "spend", "--by", "agent", "--json", "--data", str(kept)]
    rows = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)["rows"]
    assert len(rows) == len(AGENTS)
    code, _, err = run(tmp_path, "--once", "--data", str(kept))
    assert code == 1
    assert "holds calls already" in err
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_the_console_until_a_signal(tmp_path: Path, number: int) -> None:
    """After the summary the printed address answers; a signal ends it with 0 and its files are gone."""
    process = start(tmp_path, "--no-browser", "--speed", "50")
    assert process.stdout is not None
    try:
        address = next(line.split()[1] for line in process.stdout if line.startswith("  Console: "))
        with urllib.request.urlopen(address, timeout=10) as page:
            assert b"Bursar" in page.read()
    finally:
        process.send_signal(number)
        _, err = process.communicate(timeout=SECONDS_MAX)
    assert (process.returncode, err) == (0, "Stopped; the demo's data is removed.\n")
    assert left_behind(tmp_path) == []


def test_a_signal_before_the_end_is_clean(tmp_path: Path) -> None:
    """Stopped while the agents work: no summary, exit code 1, no file stays."""
    process = start(tmp_path, "--once", "--speed", "0.1")
    deadline = time.monotonic() + 20
    while not any((tmp_path / "temporary").glob("*/data/ledger.duckdb")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS_MAX)
    assert (process.returncode, out) == (1, "")
    assert err == "Error: stopped before the agents were done; there is no summary\n"
    assert left_behind(tmp_path) == []


def test_a_users_configuration_sends_no_call_anywhere(tmp_path: Path) -> None:
    """A bursar.yaml in the directory and in the environment, and a proxy, do not reach the demo's calls."""
    (tmp_path / "bursar.yaml").write_text("providers:\n  openai:\n    base_url: http://127.0.0.1:9\n")
    dead = "http://127.0.0.1:9"
    proxies = {"HTTP_PROXY": dead, "http_proxy": dead, "ALL_PROXY": dead}
    code, out, _ = run(
        tmp_path, "--once", "--json", "--speed", "1000", BURSAR_CONFIG=str(tmp_path / "bursar.yaml"), **proxies
    )
    assert code == 0
    assert json.loads(out)["proof"]["agrees"]


def test_json_needs_once() -> None:
    """A server has no one answer to print."""
    outcome = CliRunner().invoke(demo, ["--json"])
    assert outcome.exit_code == 2
    assert "give --once" in outcome.output


def test_a_summary_that_does_not_agree_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the demo as a check sees the difference."""

    async def disagreeing(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(agrees=False)

    monkeypatch.setattr(bursar.demo, "run", disagreeing)
    level = logging.getLogger("bursar").level
    assert CliRunner().invoke(demo, ["--once"]).exit_code == 1
    assert logging.getLogger("bursar").level == level, "the demo is quiet for its own time only"


def test_what_the_ledger_misses_is_named() -> None:
    """A served call that the ledger does not have is a difference per figure; one that was cut is not compared."""
    usage = Usage(input_tokens=7, output_tokens=3)
    whole = Call(0, 0.0, "POST", "/v1/messages", "anthropic", {}, usage=usage)
    cut = Call(1, 0.0, "POST", "/v1/messages", "anthropic", {}, usage=usage, outcome="cut")
    left = Call(2, 0.0, "POST", "/v1/messages", "anthropic", {}, usage=usage, events=9, events_sent=3)
    truth = _compare(DuckLedger(None), [whole, cut, left])
    assert truth.calls == 1
    assert truth.differences == (
        "anthropic calls: served 1, in the ledger 0",
        "anthropic input_tokens: served 7, in the ledger 0",
        "anthropic output_tokens: served 3, in the ledger 0",
    )


def test_sizes_stay_within_their_quantiles_and_text_has_them() -> None:
    """A drawn size lies between the outer quantiles, half of them below the median; text is exactly that long."""
    random = Random(1)
    sizes = [figures.CHAT_CONTEXT.draw(random) for _ in range(2_000)]
    assert 207 <= min(sizes) <= max(sizes) <= 4_142
    assert 0.40 < sum(size <= 1_020 for size in sizes) / len(sizes) < 0.50
    assert len(figures.prose(random, 321)) == 4 * 321


def quantile(values: list[int], share: int) -> int:
    ordered = sorted(values)
    return ordered[len(ordered) * share // 100]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traffic is not here (set BURSAR_SHARED_DATA)")
@pytest.mark.parametrize(
    ("name", "context", "share", "output"),
    [
        ("conv", figures.CHAT_CONTEXT, 99, figures.ANSWER_TOKENS_MAX),
        ("code", figures.CODE_CONTEXT, 50, figures.LABEL_TOKENS_MAX),
    ],
)
def test_chat_figures_are_those_of_the_traces(name: str, context: figures.Quantiles, share: int, output: int) -> None:
    """The constants are the quantiles of Azure's traces."""
    with (SHARED / f"azure-llm-2023/AzureLLMInferenceTrace_{name}.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    contexts = [int(row["ContextTokens"]) for row in rows]
    assert context.points == tuple((at, quantile(contexts, at)) for at, _ in context.points)
    assert quantile([int(row["GeneratedTokens"]) for row in rows], share) == output


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traffic is not here (set BURSAR_SHARED_DATA)")
def test_coding_figures_are_those_of_the_sessions() -> None:
    """The constants are the quantiles of the recorded sessions, each API call counted once."""
    firsts: list[int] = []
    growth: list[int] = []
    outputs: list[int] = []
    for path in (SHARED / "claude-code-sessions").glob("**/*.jsonl"):
        calls: dict[str, dict[str, int]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            message = json.loads(line).get("message") or {}
            if "usage" in message and not message["model"].startswith("<"):
                calls[message["id"]] = message["usage"]
        kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        contexts = [sum(usage[kind] for kind in kinds) for usage in calls.values()]
        firsts += contexts[:1]
        growth += [after - before for before, after in pairwise(contexts) if after > before]
        outputs += [usage["output_tokens"] for usage in calls.values()]
    points = figures.CODING_GROWTH.points
    assert points == tuple((at, quantile(growth, at)) for at, _ in points)
    assert quantile(firsts, 10) == figures.CODING_PREAMBLE_TOKENS
    assert quantile(firsts, 50) == figures.CODING_PREAMBLE_TOKENS + figures.CODING_FILES_TOKENS
    assert quantile(outputs, 99) == figures.CODE_OUTPUT_TOKENS_MAX
