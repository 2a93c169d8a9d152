"""``bursar cache lint`` names the byte where prompts part, what it looks like and what it cost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bursar.cli.cache_lint import lint

BOOKS = "You look after the books. " * 800
MODEL = "claude-sonnet-4-5"
TOOLS = [{"name": name, "description": "Does things.", "input_schema": {"type": "object"}} for name in "abc"]


def claude(*said: Any, system: Any = BOOKS, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": each} for each in said]
    return {"model": MODEL, "max_tokens": 9, "system": system, **fields, "messages": messages}


def chat(*said: str, system: str = BOOKS, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, *({"role": "user", "content": each} for each in said)]
    return {"model": "gpt-5", **fields, "messages": messages}


def in_thread(request: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"thread": "t", "request": request, **fields}


def run(tmp_path: Path, *rows: Any, options: tuple[str, ...] = ()) -> Result:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return CliRunner().invoke(lint, [str(path), "--data", str(tmp_path / "data"), *options], catch_exceptions=False)


def found(tmp_path: Path, *rows: Any) -> dict[str, Any]:
    result = run(tmp_path, *rows, options=("--json",))
    assert result.exit_code in (0, 1), result.output
    document = json.loads(result.stdout)
    assert result.exit_code == bool(document["parted"])
    return document


def only(tmp_path: Path, *rows: Any) -> dict[str, Any]:
    """The one finding."""
    document = found(tmp_path, *rows)
    assert document["parted"] == 1, document
    return document["findings"][0]


def test_a_thread_that_only_grows_is_clean(tmp_path: Path) -> None:
    """Exit 0: more messages, other caps, moved marks, other spacing and a step back are no differences."""
    mark = {"cache_control": {"type": "ephemeral"}}
    first = claude([{"type": "text", "text": "a", **mark}])
    second = claude([{"type": "text", "text": "a"}], [{"type": "text", "text": "b", **mark}], stream=True)
    rows = (
        in_thread(first),
        json.dumps(in_thread(second), indent=None, separators=(",", ":")) + "\n",
        in_thread(first),
    )
    document = found(tmp_path, *rows)
    assert (document["requests"], document["threads"], document["pairs"], document["parted"]) == (3, 1, 2, 0)
    result = run(tmp_path, *rows)
    assert "every prompt begins with the one before it" in result.output


def test_a_clock_is_named_with_its_byte_and_cost(tmp_path: Path) -> None:
    """A time at the start of the system text: the byte, both sides, the tokens paid again at the difference to a read."""
    rows = [in_thread(claude("q", system=f"Now: 07:0{n}:00. {BOOKS}"), at=f"2026-11-26T07:0{n}:00Z") for n in (1, 2)]
    finding = only(tmp_path, *rows)
    assert (finding["cause"], finding["path"], finding["byte"]) == ("timestamp", "system", 9)
    assert finding["shared"].endswith("Now: 07:0")
    assert finding["text_before"].startswith("1:00.")
    assert finding["text_after"].startswith("2:00.")
    tokens = finding["tokens_again"]
    assert 5_000 < tokens < 5_300
    assert finding["cost_usd"] == f"{tokens * 2_700 / 1e9:.9f}".rstrip("0")  # 3 USD a million, less 0.30 for a read
    result = run(tmp_path, *rows)
    assert result.exit_code == 1
    assert "line 1 -> line 2 (thread t, claude-sonnet-4-5)\n  system, byte 9: timestamp\n" in result.output
    assert "Now: 07:0|2:00." in result.output
    assert "put the time behind everything that stays" in result.output


UUIDS = ("3f2b8c1e-9a4d-4f7e-8b1c-2d3e4f5a6b7c", "3f2b8c1e-9a4d-4f7e-8b1c-2d3e4f5a6b7d")


@pytest.mark.parametrize(
    ("before", "after", "cause", "path"),
    [
        (claude("q", system=f"Run {UUIDS[0]}. {BOOKS}"), claude("q", system=f"Run {UUIDS[1]}. {BOOKS}"), "uuid", "system"),
        (claude("q", system=f"Call 41 of many. {BOOKS}"), claude("q", system=f"Call 42 of many. {BOOKS}"), "counter", "system"),
        (claude("q", system=f"Id req_9fk2a81b. {BOOKS}"), claude("q", system=f"Id req_7dk3b82c. {BOOKS}"), "id", "system"),
        (claude("q", system=f"Today is Monday. {BOOKS}"), claude("q", system=f"Today is Tuesday. {BOOKS}"), "timestamp", "system"),
        (claude("q", system=f"At 1764140000. {BOOKS}"), claude("q", system=f"At 1764140060. {BOOKS}"), "timestamp", "system"),
        (claude("q", system=f"Be brief. {BOOKS}"), claude("q", system=f"Be kind. {BOOKS}"), "changed system text", "system"),
        (claude("q", tools=TOOLS), claude("q", tools=TOOLS[::-1]), "reordered tools", "tools[0].name"),
        (claude("q", tools=TOOLS), claude("q", tools=TOOLS[:2]), "changed tools", "tools"),
        (claude("q", tools=TOOLS), claude("q", tools=[dict(reversed(TOOLS[0].items())), *TOOLS[1:]]), "reordered keys", "tools[0]"),
        (claude("q", "r", thinking={"type": "enabled", "budget_tokens": 1024}), claude("q", "r", thinking={"type": "adaptive"}), "changed settings", "thinking.type"),
        (claude("q", "r", "s"), claude("r", "s", "t"), "history cut", "messages[0].content"),
        (claude("q", "r, it rains"), claude("q", "r, it snows", "s"), "changed last message", "messages[1].content"),
        (claude("q", "r", "s"), claude("q", "x", "s", "t"), "edited history", "messages[1].content"),
        (chat("q", system=f"At 07:01. {BOOKS}"), chat("q", system=f"At 07:02. {BOOKS}"), "timestamp", "messages[0].content"),
        (chat("q", system=f"Be brief. {BOOKS}"), chat("q", system=f"Be kind. {BOOKS}"), "changed system text", "messages[0].content"),
        ({"model": "gpt-5", "instructions": "a" + BOOKS, "input": "q"}, {"model": "gpt-5", "instructions": "b" + BOOKS, "input": "q"}, "changed system text", "instructions"),
        ({"systemInstruction": {"parts": [{"text": "a"}]}, "contents": []}, {"systemInstruction": {"parts": [{"text": "b"}]}, "contents": []}, "changed system text", "systemInstruction.parts[0].text"),
    ],
)  # fmt: skip
def test_what_parts_them_is_named(
    before: dict[str, Any], after: dict[str, Any], cause: str, path: str, tmp_path: Path
) -> None:
    """Each kind of thing has its name, in every dialect."""
    finding = only(tmp_path, in_thread(before), in_thread(after))
    assert (finding["cause"], finding["path"]) == (cause, path)


def test_threads_are_kept_apart(tmp_path: Path) -> None:
    """Two conversations in one file, named or not: each is compared with itself."""
    rows = [claude("first", "a"), claude("second", "x"), claude("first", "a", "b"), claude("second", "x", "y")]
    document = found(tmp_path, *rows)
    assert (document["threads"], document["parted"]) == (2, 0)
    named = [{**claude("q", str(n)), "metadata": {"session_id": name}} for n, name in enumerate("ab")]
    assert found(tmp_path, *named)["threads"] == 2


def test_a_clock_between_two_conversations_is_found(tmp_path: Path) -> None:
    """Each conversation is one call: the system text in front of them could have been shared. Two agents are no finding."""
    finding = only(tmp_path, *(claude(f"q{n}", system=f"Now: 07:0{n}. {BOOKS}") for n in (1, 2)))
    assert (finding["cause"], finding["across_threads"]) == ("timestamp", True)
    assert (
        found(tmp_path, claude("a", system="You add. " + BOOKS), claude("b", system="You subtract. " + BOOKS))["parted"]
        == 0
    )


def test_usage_says_how_many_tokens_there_are(tmp_path: Path) -> None:
    """With a recorded usage the tokens are those that the provider counted, not a guess by bytes."""
    usage = {"input_tokens": 10_000, "output_tokens": 1}
    response = {"type": "message", "model": MODEL, "content": [], "usage": usage}
    rows = [in_thread(claude("q", system=f"{n} is the number. {BOOKS}"), response=response) for n in (1, 2, 3)]
    assert found(tmp_path, *rows)["tokens_again"] == pytest.approx(20_000, rel=0.01)


def test_what_no_cache_would_have_held_costs_nothing(tmp_path: Path) -> None:
    """A short prompt, and one that comes hours later: the byte is named, nothing is counted."""
    short = only(tmp_path, *(in_thread(claude("q", system=f"Now {n}.")) for n in (1, 2)))
    assert (short["tokens_again"], short["cost_usd"]) == (0, "0")
    assert "shorter than 1,024 tokens" in short["not_counted"]
    late = only(tmp_path, *(in_thread(claude("q", system=f"Now {n}. {BOOKS}"), at=n * 7_200) for n in (1, 2)))
    assert "more than an hour" in late["not_counted"]


def test_an_unknown_price_is_not_zero(tmp_path: Path) -> None:
    """A model without a price: the tokens are counted, the cost is null and said to be missing."""
    rows = [in_thread({**claude("q", system=f"Now {n}. {BOOKS}"), "model": "claude-of-my-own"}) for n in (1, 2)]
    document = found(tmp_path, *rows)
    assert document["findings"][0]["cost_usd"] is None
    assert document["unpriced"] == 1
    assert document["tokens_again"] > 0
    assert "without a price" in run(tmp_path, *rows).output


def test_causes_are_summed_up(tmp_path: Path) -> None:
    """By cause, the dearest first; the list is cut, the sums are not."""
    rows = [in_thread(claude("q", system=f"Now: 07:0{n}. {BOOKS}")) for n in range(6)]
    rows += [{"thread": "u", "request": claude("q", tools=tools)} for tools in (TOOLS, TOOLS[::-1])]
    result = run(tmp_path, *rows, options=("--json", "--limit", "2"))
    document = json.loads(result.stdout)
    assert [(each["cause"], each["times"]) for each in document["causes"]] == [("timestamp", 5), ("reordered tools", 1)]
    assert len(document["findings"]) == 2
    assert sum(each["tokens_again"] for each in document["causes"]) == document["tokens_again"]
    assert "and 4 more places" in run(tmp_path, *rows, options=("--limit", "2")).output


def test_bad_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    """What is no request is said with its line; the rest is looked at."""
    result = run(
        tmp_path, "nonsense\n", [1], {"hello": 1}, in_thread(claude("q")), {"request": 7}, in_thread(claude("q"))
    )
    assert result.exit_code == 0
    assert "passed over" in result.stderr
    assert "line 1" in result.stderr
    assert "2 requests in 1 thread" in result.stdout


@pytest.mark.parametrize("rows", [(), ("nonsense\n",), ({"type": "user", "message": {"role": "user"}},)])
def test_a_file_without_requests_was_asked_wrongly(rows: tuple[Any, ...], tmp_path: Path) -> None:
    """Exit 2: an empty file, nonsense, a transcript (which has neither system text nor tools)."""
    result = run(tmp_path, *rows)
    assert result.exit_code == 2
    assert "no request in" in result.output


def test_no_file_and_no_provider_are_asked_wrongly(tmp_path: Path) -> None:
    """Exit 2 with the way out."""
    result = CliRunner().invoke(lint, [])
    assert result.exit_code == 2
    assert "name the files" in result.output
    assert run(tmp_path, claude("q"), options=("--provider", "nobody")).exit_code == 2


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """Names and prompts were written by strangers."""
    rows = [{"thread": "t\x1b[31m", "request": claude("q", system=f"{n}\x1b[2J {BOOKS}")} for n in (1, 2)]
    assert "\x1b" not in run(tmp_path, *rows).output


def test_compressed_files_are_read(tmp_path: Path) -> None:
    """``.jsonl.gz``, and places with the file's name where there are several files."""
    paths = []
    for number in (1, 2):
        path = tmp_path / f"{number}.jsonl.gz"
        path.write_bytes(gzip.compress(json.dumps(in_thread(claude("q", system=f"{number} now. {BOOKS}"))).encode()))
        paths.append(str(path))
    result = CliRunner().invoke(lint, [*paths, "--data", str(tmp_path / "data")], catch_exceptions=False)
    assert result.exit_code == 1
    assert "1.jsonl.gz:1 -> 2.jsonl.gz:1" in result.output


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_times_are_seconds_milliseconds_or_microseconds(tmp_path: Path, unit: int) -> None:
    """Whichever it is, two hours are two hours."""
    at = 1_764_000_000
    rows = [in_thread(claude("x", system=f"{n} {BOOKS}"), at=(at + 7_200 * n) * unit) for n in range(2)]
    assert only(tmp_path, *rows)["not_counted"].startswith("more than an hour later")


@pytest.mark.parametrize("at", [10**18, -(10**17), 10**30, 10**400, "soon"])
def test_a_time_that_is_none_is_passed_over(tmp_path: Path, at: Any) -> None:
    """Its line is named, the others are looked at."""
    good = [in_thread(claude("x", system=f"{n} {BOOKS}"), at=1_764_000_000 + n) for n in range(2)]
    result = run(tmp_path, in_thread(claude("x"), at=at), *good)
    assert result.exit_code == 1
    assert "1 line passed over: cannot be read: " in result.stderr
    assert "(first: line 1)" in result.stderr
    assert "2 requests in 1 thread" in result.stdout
