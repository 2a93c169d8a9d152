"""`bursar why`: one call in words, exact for machines, and clear where it finds none."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.why import why_command
from route_stories import CALL, GPT, SONNET, candidate, decided, fallback, hit, primary
from seeding import MemoryLedger

Run = Callable[..., Result]


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def run(ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `bursar why` on the ledger in memory, in a terminal of some width."""

    @contextmanager
    def open_queries(path: Path | None) -> Iterator[MemoryLedger]:
        yield ledger

    compose = types.ModuleType("bursar.compose")
    monkeypatch.setattr(compose, "open_queries", open_queries, raising=False)
    monkeypatch.setitem(sys.modules, "bursar.compose", compose)

    def invoke(*arguments: str, width: int = 120) -> Result:
        return CliRunner().invoke(why_command, arguments, env={"COLUMNS": str(width)}, prog_name="bursar why")

    return invoke


def _line(text: str, begin: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(begin))


def test_a_fallback_in_words(ledger: MemoryLedger, run: Run) -> None:
    """Who, what, how it ended, every candidate with its verdict and its price, every attempt."""
    fallback(ledger, task="brief-9", agent="research", user="ann", stream=True)
    text = run(CALL).stdout
    assert "2026-03-31 12:00:00 UTC, task brief-9, agent research, user ann" in text
    assert "asked for fast, chat_completions, streamed, on route fast, through the gateway" in text
    assert "Answered by groq llama-3.3-70b-versatile on rung fallback: $0.0012 for 2 attempts, 1.1 s" in text
    assert "Why: the rung before it failed: overload." in text
    assert _line(text, "primary").split() == [
        "primary",
        "openai/gpt-5-mini",
        *["failed:", "overload", "(503)", "$0.0040", "$0.00"],
    ]
    assert "passed over, breaker open: 2 failures in a row, the last:" in text
    assert "taken                              " in text
    assert "Cache: a miss." in text
    assert "Budget: none changed this call." in text
    assert "Attempt 1: overloaded_error: The model is overloaded." in text
    assert _line(text, "2  +150 ms").split()[3:7] == ["fallback", "groq", "llama-3.3-70b-versatile", "ok"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_it_fits_and_cuts_no_reason(ledger: MemoryLedger, run: Run, width: int) -> None:
    """Verdicts go on in the next line; amounts are whole; nothing steers the terminal, also when it is piped."""
    fallback(ledger, task="\x1b[31mred\n")
    text = run("last", width=width).stdout
    assert max(len(line) for line in text.splitlines() if not line.startswith("Call")) <= width
    assert "\x1b" not in text
    assert "$0.0012" in text
    assert "…" not in text.partition("#")[0]
    for word in ("passed", "over,", "breaker", "open:", "failures", "server"):
        assert word in text


@pytest.mark.parametrize("width", [20, 30, 40, 60])
def test_a_narrow_terminal_breaks_no_word_and_no_amount(ledger: MemoryLedger, run: Run, width: int) -> None:
    """Where there is no room for a column of reasons each stands below its rung; figures are whole whatever becomes of the rest."""
    fallback(ledger)
    text = run("last", width=width).stdout
    looked = text.partition("overload.\n\n")[2].partition("Cache:")[0]
    words = looked.split()
    assert "overload" in words
    assert words[words.index("passed") :][:4] == ["passed", "over,", "breaker", "open:"]
    assert [word.rstrip(";") for word in words if "$" in word] == ["$0.0040", "$0.00", "$0.0090", "$0.0015", "$0.0012"]
    attempts = text.partition("#")[2].splitlines()
    assert [line.rpartition(" ")[2] for line in attempts[2:4]] == ["$0.00", "$0.0012"]
    if width >= 30:
        assert max(len(line) for line in text.splitlines() if not line.startswith("Call")) <= width


def test_a_tool_has_no_tokens(ledger: MemoryLedger, run: Run) -> None:
    """Nor a first one: there is no column for what cannot be."""
    tool = {"kind": "tool", "provider": "tool", "model": "look", "input_tokens": 0, "output_tokens": 0}
    ledger.attempt(call_id=CALL, door="sdk", first_token_ms=None, **tool)
    assert _line(run(CALL, width=200).stdout, "#").split() == [
        "#", "Start", "Rung", "Provider", "Model", "Result", "Took", "Cost",
    ]  # fmt: skip
    primary(ledger, "model")
    assert {"In/out", "First"} < set(_line(run("model", width=200).stdout, "#").split())


def test_a_hedge_that_is_a_probe_says_both(ledger: MemoryLedger, run: Run) -> None:
    """Why it was made, and why there of all places."""
    first = candidate("primary", GPT, "running")
    probe = decided("fallback", "hedge", first, candidate("fallback", SONNET, "probe"))
    primary(ledger, CALL, rung="fallback", provider="anthropic", model=SONNET[1], decision=probe)
    text = " ".join(run(CALL).stdout.split())
    assert (
        "Why: the attempt before had shown nothing in its time, so this one was made as well; its breaker had been open, "
        "and this call tried it again."
    ) in text
    assert "taken, to see whether it is back" in text
    hedge = decided("fallback", "hedge", first, candidate("fallback", SONNET, "hedge"))
    primary(ledger, "plain", rung="fallback", decision=hedge)
    assert "its breaker had been open" not in run("plain").stdout


def test_json_has_everything(ledger: MemoryLedger, run: Run) -> None:
    """Exact amounts, and every attempt with its decision as it was stored."""
    fallback(ledger)
    answer = json.loads(run(f"{CALL}.1", "--json").stdout)
    assert (answer["asked_attempt"], answer["cost_usd"], answer["answered_by"]) == (f"{CALL}.1", "0.00123", f"{CALL}.2")
    assert [each["expected_usd"] for each in answer["candidates"]] == ["0.004", "0.009", "0.0015"]
    assert [each["charged_usd"] for each in answer["candidates"]] == ["0", None, "0.00123"]
    assert answer["attempts"][1]["decision"]["propensity"] == 1
    assert answer["attempts"][1]["cause"] == "overload"


def test_an_attempts_id_tells_why_it_was_made(ledger: MemoryLedger, run: Run) -> None:
    """The call is told all the same."""
    fallback(ledger)
    text = run(f"{CALL}.1").stdout
    assert "Why: it is the first rung of its route." in text
    assert "Answered by groq" in text


def test_what_the_client_asked_for_is_not_what_a_provider_was_sent(ledger: MemoryLedger, run: Run) -> None:
    """An attempt in another dialect has the operation of that; where the client's is not known, none is named."""
    primary(ledger, CALL, operation="messages")
    assert "asked for fast, chat_completions, on route fast" in run(CALL).stdout
    unsaid = {"route": "fast", "candidates": []}
    primary(ledger, "before", operation="messages", decision=json.dumps(unsaid))
    assert "asked for fast, on route fast" in run("before").stdout
    hit(ledger, "from-cache", operation="messages", decision=json.dumps(unsaid))
    assert "asked for fast, messages, on route fast" in run("from-cache").stdout


def test_a_call_that_nobody_answered(ledger: MemoryLedger, run: Run) -> None:
    """What was left of its route was not tried; nothing took it."""
    one, other = candidate("primary", GPT, "taken"), candidate("stale", None, "not needed")
    primary(ledger, CALL, status="error", http_status=503, decision=decided("primary", "asked", one, other))
    text = run(CALL).stdout
    assert "Why: it is the first rung of its route." in text
    assert _line(text, "stale").split() == ["stale", "not", "tried"]


def test_rungs_that_were_not_tried_say_why(ledger: MemoryLedger, run: Run) -> None:
    skipped = candidate("begun", None, "not tried", why="nothing of it left")
    primary(ledger, CALL, decision=decided("last", "retry: it failed before: server", skipped,
                                           candidate("last", GPT, "taken")))  # fmt: skip
    text = run(CALL).stdout
    assert "not tried: nothing of it left" in _line(text, "begun")
    assert "Why: retry: it failed before: server." in text


def test_a_hit_says_what_it_spared(ledger: MemoryLedger, run: Run) -> None:
    """Beside what was spent, not in it."""
    hit(ledger, CALL)
    text = run(CALL).stdout
    assert "Answered by the cache (exact): $0.00, 1 ms" in text
    assert "Why: the cache had an answer, so nobody was asked." in text
    assert "Cache: exact, 1m 15s old; it would have cost $0.0042, which is not part of any spend." in text
    assert "kept (exact)" in text


@pytest.mark.parametrize(
    ("tier", "said", "words"),
    [
        (
            "semantic",
            {"found": "similar", "age_s": 180, "similar": "served: 0 of 312 were wrong at similarity 0.97"},
            "semantic, 3m 00s old; served: 0 of 312 were wrong at similarity 0.97; it would have cost $0.0042",
        ),
        ("stale", {"found": "stale", "age_s": 90}, "stale, 1m 30s old; it would have cost $0.0042"),
        (
            "coalesced",
            {"found": "coalesced", "similar": "declined: numbers differ (30 / 60)"},
            "coalesced; similar questions: declined: numbers differ (30 / 60); it would have cost $0.0042",
        ),
    ],
)
def test_a_hit_says_on_what_evidence(
    ledger: MemoryLedger, run: Run, tier: str, said: dict[str, Any], words: str
) -> None:
    """A similar question's answer with what spoke for it, every answer with its age where that is known."""
    hit(ledger, CALL, cache=tier, decision=decided("cached", "kept", cache={"asked": True, **said}))
    assert f"Cache: {words}" in " ".join(run(CALL).stdout.split())


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (
            {"marks": ["tools", "system", "turn"], "ttl": "5m", "expected_nanousd": 8_387_360, "chance_permille": 733,
             "read_tokens": 4_702, "shared_bytes": 9, "diverged_at": "messages[2].content:21"},
            ("marked behind the tools, the system text and the last turn, to be kept for five minutes, expected to gain "
             "$0.0084, 73.3 % likely to come again in time, 4,702 tokens should be there already. It parts from the prompt "
             "before it at messages[2].content, byte 21."),
        ),
        (
            {"marks": ["turn"], "ttl": "1h", "expected_nanousd": 10, "chance_permille": 1000, "read_tokens": 0},
            ("marked behind the last turn, to be kept for an hour, expected to gain $0.000000010, 100 % likely to come "
             "again in time."),
        ),
        ({"marks": [], "why": "the client set 1 mark itself"}, "no mark is set: the client set 1 mark itself."),
        ({"key": True}, "it was given a key of its thread."),
    ],
)  # fmt: skip
def test_what_was_done_for_the_providers_cache(
    ledger: MemoryLedger, run: Run, note: dict[str, Any], words: str
) -> None:
    """The marks with what they are expected to gain, or why there is none; and where the prompt parted from the one before."""
    primary(ledger, CALL, decision=decided("primary", "asked", candidate("primary", GPT, "taken"), prompt_cache=note))
    assert f"Prompt cache: {words}" in " ".join(run(CALL).stdout.split())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"asked": True, "found": "stale", "age_s": 90}, "Cache: a miss, only a stale answer was kept, 1m 30s old."),
        ({"asked": False, "why": "x-bursar-cache: no-store"}, "Cache: not asked: x-bursar-cache: no-store."),
        (
            {"asked": True, "found": "nothing", "similar": "too little evidence", "similarity_permille": 930},
            "Cache: a miss; similar questions: too little evidence.",
        ),
        ({}, "Cache: nothing is kept on this route."),
    ],
)
def test_what_the_cache_said(ledger: MemoryLedger, run: Run, said: dict[str, Any], words: str) -> None:
    """Why it did not answer."""
    stored = decided("primary", "asked", candidate("primary", GPT, "taken"), cache=said)
    primary(ledger, CALL, decision=stored, cache="miss" if said.get("asked") else "")
    assert words in run(CALL).stdout


def test_what_a_budget_did(ledger: MemoryLedger, run: Run) -> None:
    """Its share, what is left, what it changed."""
    budget = {
        "name": "support", "subject": "ann", "window": "month", "share": 824, "unit": "usd", "left": 3_200_000_000,
        "held_nanousd": 12_000_000, "output_cap": 500, "changed": ["model", "output_cap"],
    }  # fmt: skip
    stored = {"rung": "cheaper", "why": "budget support", "candidates": [{"provider": "openai", "model": "gpt-5-mini"}]}
    ledger.attempt(call_id=CALL, model_asked="gpt-5", decision=json.dumps({**stored, "budget": budget}))
    text = " ".join(run(CALL).stdout.split())
    assert "Why: budget support." in text
    assert (
        "Budget support (ann, per month): 82.4 % used before it, $3.20 left after its hold of $0.0120, changed model, "
        "output capped at 500 tokens."
    ) in text


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": "error", "http_status": 400}, "Failed at openai gpt-5-mini with HTTP 400: "),
        ({"status": "cut"}, "Broken off by openai gpt-5-mini: "),
        ({"status": "cancelled"}, "Given up at openai gpt-5-mini: "),
        ({"status": "ended"}, "Ended by its budget at openai gpt-5-mini: "),
        ({"status": "expired", "estimated": True}, "Never settled at openai gpt-5-mini: ~$0.0042"),
        ({"door": "otlp"}, "Why: not known: this was told afterwards, nothing was chosen here."),
        ({"door": "import"}, "chat_completions, imported"),
        ({"door": "sdk", "kind": "tool"}, "Why: nothing was to be chosen."),
        ({"door": "sdk", "rung": "cached", "cache": "tool"}, "Why: a kept result answered it."),
        ({"cost_nanousd": None}, "1 attempt unpriced, and not in the cost: no price for gpt-5-mini"),
        ({"decision": json.dumps({"why": "asked"})}, "without a route there is no other candidate"),
    ],
)
def test_calls_of_all_kinds(ledger: MemoryLedger, run: Run, columns: dict[str, Any], words: str) -> None:
    """However it ended, and whoever told of it."""
    ledger.attempt(call_id=CALL, **columns)
    assert words in run(CALL).stdout


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("panic", "every target of the route was known to fail"),
        ("probe", "its breaker had been open"),
        ("hedge", "the attempt before had shown nothing in its time"),
        ("passed over primary: it is too dear", "Why: passed over primary: it is too dear."),
    ],
)
def test_other_reasons(ledger: MemoryLedger, run: Run, why: str, words: str) -> None:
    verdict = why if why in ("panic", "probe", "hedge") else "taken"
    primary(ledger, CALL, decision=decided("primary", why, candidate("primary", GPT, verdict)))
    text = run(CALL).stdout
    assert words in text
    assert "taken" in _line(text, "primary")


def test_a_call_that_is_not_there(ledger: MemoryLedger, run: Run) -> None:
    """Exit code 1 and where ids come from; of several with the same beginning, which."""
    missing = run("nothing")
    assert missing.exit_code == 1
    assert "no call and no attempt has the id 'nothing'" in missing.stderr
    assert "x-bursar-call-id" in missing.stderr
    assert "bursar task ID --json" in missing.stderr
    for number in range(12):
        primary(ledger, f"abcdef{number:02d}", ago=timedelta(seconds=number))
    several = run("abcdef")
    assert several.exit_code == 1
    assert several.stderr.splitlines()[1:3] == ["  abcdef00", "  abcdef01"]
    assert several.stderr.splitlines()[-1] == "  ..."
    assert run(CALL, "--tz", "Mars").exit_code == 2


def test_an_empty_ledger_has_no_last_call(run: Run) -> None:
    """It does not ask for what was just asked."""
    missing = run("last")
    assert missing.exit_code == 1
    assert "no call is in the ledger" in missing.stderr
    assert "bursar why last" not in missing.stderr


def test_times_are_in_the_zone_asked_for(ledger: MemoryLedger, run: Run) -> None:
    primary(ledger, CALL)
    assert "2026-03-31 14:00:00 CEST" in run(CALL, "--tz", "Europe/Berlin").stdout


def test_the_example_of_the_documentation(ledger: MemoryLedger, run: Run) -> None:
    """The example of docs/reports.md is this very output."""
    fallback(ledger, task="brief-9f2c", agent="research", user="ann")
    page = (Path(__file__).parents[2] / "docs/reports.md").read_text(encoding="utf-8")
    text = run(CALL[:12], width=80).stdout
    assert "\n".join(line.rstrip() for line in text.splitlines()) in page
