"""The life of one task: where attempts and spans are put, what was critical, what was found, and what cannot break it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.views.critical import Part, critical_path
from bursar.views.findings import Finding
from bursar.views.tasks import tasks, top_tasks
from bursar.views.trace import Node, TaskTree, task
from route_stories import GPT, LLAMA, candidate, decided, fallback
from seeding import MemoryLedger, generate


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def _tree(ledger: MemoryLedger, name: str) -> TaskTree:
    answer = task(ledger, name)
    assert isinstance(answer, TaskTree)
    return answer


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _shape(node: Node) -> Any:
    """A node as nested names: attempts by their id, then what is in it."""
    return (node.kind, node.name, [step.attempt_id for step in node.steps], [_shape(child) for child in node.children])


def _ago(seconds: float) -> timedelta:
    return timedelta(seconds=100 - seconds)


def _agents(ledger: MemoryLedger) -> None:
    """A task of 20 s: a call, then a sub-agent with its own task, a paid tool and two calls, then a free step."""
    ledger.span("ticket", span_id="root", ago=_ago(0), ms=20_000, kind="task", task="ticket-1")
    ledger.attempt(ago=_ago(1), latency_ms=2000, task="ticket-1", trace_id="t", span_id="root", cost_nanousd=100)
    agent = {"task": "reader-1", "parent_task": "ticket-1", "agent": "reader"}
    ledger.span("reader", span_id="agent", parent_id="root", ago=_ago(4), ms=10_000, kind="agent", **agent)
    tool = ledger.attempt(
        ago=_ago(5), latency_ms=3000, kind="tool", model="search", trace_id="t", span_id="tool", cost_nanousd=5, **agent
    )
    ledger.span(
        "search", span_id="tool", parent_id="agent", ago=_ago(5), ms=3000, kind="tool", attempt_id=tool, **agent
    )
    ledger.attempt(ago=_ago(9), latency_ms=4000, trace_id="t", span_id="llm", cost_nanousd=10, **agent)
    ledger.span("chat", span_id="llm", parent_id="agent", ago=_ago(9), ms=4000, kind="model", door="otlp", **agent)
    ledger.attempt(ago=_ago(9), latency_ms=1000, cost_nanousd=20, status="error", **agent)
    ledger.span("save", span_id="save", parent_id="root", ago=_ago(15), ms=1000, task="ticket-1")


def test_spans_give_a_task_its_shape(ledger: MemoryLedger) -> None:
    """Tasks hold agents, tools and steps, those hold attempts; a task's first span is the task itself."""
    _agents(ledger)
    tree = _tree(ledger, "ticket-1")
    assert _shape(tree.root) == (
        "task",
        "ticket-1",
        ["a2"],
        [
            ("task", "reader-1", ["a8"], [("tool", "search", ["a4"], []), ("model", "chat", ["a6"], [])]),
            ("step", "save", [], []),
        ],
    )
    reader = tree.root.children[0]
    assert (tree.root.own.cost_nanousd, tree.root.total.cost_nanousd) == (100, 135)
    assert (reader.own.cost_nanousd, reader.total.cost_nanousd, reader.agent) == (35, 35, "reader")
    assert [child.total.cost_nanousd for child in reader.children] == [5, 10]
    assert (tree.root.all_errors, reader.errors, tree.root.errors) == (1, 1, 0)
    assert (tree.root.ended_us - tree.root.first_us, reader.ended_us - reader.first_us) == (20_000_000, 10_000_000)
    body = tree.to_json()
    assert (body["duration_ms"], body["children"][0]["offset_ms"], body["spans"]) == (20_000, 4000, 5)


def test_an_attempt_counts_once_however_many_spans_point_at_it(ledger: MemoryLedger) -> None:
    """Two instrumentations and the span it was made under name one charge: it is in the SDK's, and once in the sum."""
    ledger.span("ticket", span_id="root", kind="task", task="t-1")
    paid = ledger.attempt(task="t-1", trace_id="t", span_id="root", cost_nanousd=7)
    for number, door in enumerate(("otlp", "sdk", "otlp")):
        ledger.span(
            "chat", span_id=f"m{number}", parent_id="root", kind="model", door=door, task="t-1", attempt_id=paid
        )
    root = _tree(ledger, "t-1").root
    assert root.total.cost_nanousd == 7
    assert [(node.span_id, len(node.steps)) for node in root.children] == [("m0", 0), ("m1", 1), ("m2", 0)]


def test_the_latest_row_of_a_span_counts(ledger: MemoryLedger) -> None:
    """A span that is told again replaces what was told of it before, also where it is."""
    ledger.span("early", span_id="one", kind="agent", task="t-1")
    ledger.span("open", span_id="two", parent_id="", task="t-1", status="error")
    ledger.span("done", span_id="two", parent_id="one", task="t-1", ms=9000)
    root = _tree(ledger, "t-1").root
    assert [(node.name, node.status) for node in _nodes(root)] == [("t-1", "ok"), ("done", "ok")]
    assert root.ended_us - root.first_us == 9_000_000


def test_a_task_without_calls_is_known_by_its_spans(ledger: MemoryLedger) -> None:
    """An agent between a task and its callers made no call itself: the chain of costs goes through it all the same."""
    ledger.span("boss", span_id="a", kind="task", task="boss-1")
    ledger.span("middle", span_id="b", parent_id="a", kind="agent", task="middle-1", parent_task="boss-1")
    ledger.attempt(task="leaf-1", parent_task="middle-1", cost_nanousd=9)
    assert _tree(ledger, "boss-1").root.total.cost_nanousd == 9
    assert _tree(ledger, "mid").root.total.calls == 1
    rows = {row.task: (row.parent, row.all_cost_nanousd) for row in tasks(ledger).rows}
    assert rows == {"boss-1": ("", 9), "middle-1": ("boss-1", 9), "leaf-1": ("middle-1", 9)}
    assert [(row.task, row.measures.cost_nanousd) for row in top_tasks(ledger).rows] == [("boss-1", 9)]
    ledger.span("idle", kind="task", task="idle-1", trace_id="other")
    assert _tree(ledger, "idle").root.total.calls == 0


def test_spans_that_name_no_task_are_found_by_what_they_are_in(ledger: MemoryLedger) -> None:
    """A step below a span with a task is of that task; a trace in which nothing names one is a task of its own name."""
    ledger.span("outer", span_id="a", kind="agent", task="t-1", trace_id="x")
    ledger.span("inner", span_id="b", parent_id="a", trace_id="x")
    ledger.span("innermost", span_id="c", parent_id="b", trace_id="x")
    assert [node.name for node in _nodes(_tree(ledger, "t-1").root)] == ["t-1", "inner", "innermost"]
    ledger.span("alone", span_id="d", kind="agent", trace_id="feed")
    ledger.attempt(task="feed", trace_id="feed", span_id="d", cost_nanousd=3)
    root = _tree(ledger, "feed").root
    assert (root.span_id, root.total.cost_nanousd) == ("d", 3)


def test_the_sdks_span_of_a_task_is_the_task_itself(ledger: MemoryLedger) -> None:
    """A tracer begins a trace of its own inside of the SDK's context: its spans are parts of the task, not beside it."""
    ledger.span("resolve", span_id="a", kind="task", task="t-1", trace_id="ours", ago=_ago(20), door="sdk")
    ledger.span("resolve", span_id="b", kind="agent", task="t-1", trace_id="theirs", ago=_ago(19), door="otlp")
    root = _tree(ledger, "t-1").root
    assert root.span_id == "a"
    assert [node.span_id for node in root.children if isinstance(node, Node)] == ["b"]


def test_circles_orphans_and_wrong_clocks_do_not_break_a_tree(ledger: MemoryLedger) -> None:
    """Spans above each other or themselves, without their parent, or before it: all are shown, and it is said."""
    ledger.span("root", span_id="root", kind="task", task="t-1", ago=_ago(10))
    ledger.span("hen", span_id="hen", parent_id="egg", task="t-1", ago=_ago(11))
    ledger.span("egg", span_id="egg", parent_id="hen", task="t-1", ago=_ago(12))
    ledger.span("self", span_id="self", parent_id="self", task="t-1", ago=_ago(13))
    ledger.span("orphan", span_id="orphan", parent_id="never", task="t-1", ago=_ago(14))
    ledger.span("early", span_id="early", parent_id="root", task="t-1", ago=_ago(5), kind="tool", status="error")
    tree = _tree(ledger, "t-1")
    assert sorted(node.name for node in _nodes(tree.root)) == ["early", "egg", "hen", "orphan", "self", "t-1"]
    notes = "; ".join(tree.notes)
    assert "'hen' (hen) is above itself" in notes
    assert "'self' (self) is above itself" in notes
    assert "1 span whose parent never came" in notes
    assert "1 span began before what it is in" in notes
    assert tree.root.all_errors == 1
    assert sum(step.ended_us - step.started_us for step in tree.path) == tree.root.ended_us - tree.root.first_us


def test_a_very_deep_trace_has_a_limit_of_nesting(ledger: MemoryLedger) -> None:
    """Five hundred spans in each other: none is lost, no money is, and the answer nests 65 deep at most."""
    for number in range(500):
        ledger.span(f"n{number}", span_id=f"n{number}", parent_id=f"n{number - 1}" if number else "", task="t-1")
    ledger.attempt(task="t-1", trace_id="t", span_id="n499", cost_nanousd=4)

    def depth(node: Node) -> int:
        return 1 + max((depth(child) for child in node.children), default=0)

    root = _tree(ledger, "t-1").root
    assert (depth(root), sum(1 for _ in _nodes(root)), root.total.cost_nanousd) == (65, 501, 4)


_ID = st.sampled_from(["a", "b", "c", "d", "e"])
_TASK = st.sampled_from(["", "x", "y"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spans=st.lists(
        st.fixed_dictionaries(
            {
                "span_id": _ID,
                "parent_id": st.one_of(st.just(""), _ID),
                "task": _TASK,
                "kind": st.sampled_from(["task", "agent", "step", "tool", "model"]),
                "attempt_id": st.sampled_from(["", "p0", "p1", "p2"]),
                "ago": st.integers(0, 9).map(lambda seconds: timedelta(seconds=seconds)),
                "ms": st.integers(0, 5000),
            }
        ),
        max_size=7,
    ),
    attempts=st.lists(
        st.fixed_dictionaries(
            {
                "task": st.sampled_from(["x", "y"]),
                "trace_id": st.sampled_from(["", "t"]),
                "span_id": _ID,
                "cost_nanousd": st.one_of(st.none(), st.integers(0, 9)),
                "ago": st.integers(0, 9).map(lambda seconds: timedelta(seconds=seconds)),
                "latency_ms": st.one_of(st.none(), st.floats(0, 5000)),
            }
        ),
        max_size=4,
    ),
)
def test_whatever_spans_say_every_attempt_is_counted_once(
    spans: list[dict[str, Any]], attempts: list[dict[str, Any]]
) -> None:
    """Any spans, any links: the sums are those of the attempts, each of which is in one place, and the path is whole."""
    ledger = MemoryLedger()
    for number, columns in enumerate(attempts):
        parent = "x" if columns["task"] == "y" else ""
        ledger.attempt(**columns, attempt_id=f"p{number}", parent_task=parent)
    for columns in spans:
        ledger.span(**columns, parent_task="x" if columns["task"] == "y" else "")
    answer = task(ledger, "x")
    if not isinstance(answer, TaskTree):
        assert not any(columns["task"] for columns in attempts)
        return
    nodes = list(_nodes(answer.root))
    assert sorted(step.attempt_id for node in nodes for step in node.steps) == [f"p{n}" for n in range(len(attempts))]
    known = [columns["cost_nanousd"] for columns in attempts if columns["cost_nanousd"] is not None]
    assert answer.root.total.attempts == len(attempts)
    assert answer.root.total.cost_nanousd == (sum(known) if known or not attempts else None)
    owns = [node.own for node in nodes if node.kind == "task" and node.name == node.task]
    assert sum(own.attempts for own in owns) == len(attempts)
    assert sum(answer.path_us.values()) == answer.root.ended_us - answer.root.first_us


# --- the critical path -------------------------------------------------------------------------------------------


def test_the_critical_path_goes_through_what_ended_last(ledger: MemoryLedger) -> None:
    """Of calls side by side the one that ended last, then what ended before that began, with the gaps as own work."""
    for start, seconds in ((0, 3), (1, 1), (4, 5), (4, 6), (5, 2)):
        ledger.attempt(ago=_ago(start), latency_ms=seconds * 1000.0, task="t-1", model=f"m{start}-{seconds}")
    tree = _tree(ledger, "t-1")
    assert [(step.name, (step.ended_us - step.started_us) // 1_000_000) for step in tree.path] == [
        ("m0-3", 3),
        ("t-1", 1),
        ("m4-6", 6),
    ]
    assert tree.path_us == {"model": 9_000_000, "tool": 0, "own": 1_000_000}
    critical = tree.to_json()["critical_path"]
    assert [step["share"] for step in critical["steps"]] == [0.3, 0.1, 0.6]
    steps = {step["model"]: step["critical_ms"] for step in tree.to_json()["steps"]}
    assert steps == {"m0-3": 3000, "m1-1": 0, "m4-5": 0, "m4-6": 6000, "m5-2": 0}


def test_the_critical_path_goes_into_spans(ledger: MemoryLedger) -> None:
    """Through the agent's tool and call, with what the agent and the task did themselves between them."""
    _agents(ledger)
    path = [
        (step.kind, step.name, (step.ended_us - step.started_us) // 1_000_000) for step in _tree(ledger, "tick").path
    ]
    assert path == [
        ("task", "ticket-1", 1),
        ("model", "gpt-5-mini", 2),
        ("task", "ticket-1", 1),
        ("task", "reader-1", 1),
        ("tool", "search", 3),
        ("task", "reader-1", 1),
        ("model", "gpt-5-mini", 4),
        ("task", "reader-1", 1),
        ("task", "ticket-1", 1),
        ("step", "save", 1),
        ("task", "ticket-1", 4),
    ]


_PARTS: st.SearchStrategy[Part[str]] = st.recursive(
    st.builds(lambda start, length: Part("leaf", start, start + length), st.integers(0, 50), st.integers(0, 20)),
    lambda inner: st.builds(
        lambda start, length, parts: Part("node", start, start + length, parts),
        st.integers(0, 50),
        st.integers(0, 20),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


@given(_PARTS)
def test_a_critical_path_covers_the_whole_once(whole: Part[str]) -> None:
    """Whatever overlaps or sticks out: each stretch begins where the one before it ended, from first start to last end."""
    path = critical_path(whole)
    assert all(one.ended_us == next_one.started_us for one, next_one in pairwise(path))
    assert all(stretch.length_us > 0 for stretch in path)
    assert sum(stretch.length_us for stretch in path) == whole.ended_us - whole.started_us


# --- findings ----------------------------------------------------------------------------------------------------


def _found(ledger: MemoryLedger, kind: str) -> list[Finding]:
    return [finding for finding in _tree(ledger, "t-1").findings if finding.kind == kind]


def _call(ledger: MemoryLedger, second: float, tokens: int, *, read: int = 0, write: int = 0, **columns: Any) -> str:
    """A call at 2 USD a million input tokens, 0.20 read from a cache, 2.50 written to one."""
    parts = {
        "cost_input_nanousd": 2000 * (tokens - read - write),
        "cost_cache_read_nanousd": 200 * read,
        "cost_cache_write_nanousd": 2500 * write,
    }
    line = {"unit": "cache_read_tokens", "units": read, "rate_usd": "0.2", "price_row": "p", "cost_nanousd": 200 * read}
    row = {
        "task": "t-1",
        "agent": "boss",
        "input_tokens": tokens,
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "cost_nanousd": sum(parts.values()),
        "lines": [line] if read else [],
        **parts,
        **columns,
    }
    return ledger.attempt(ago=_ago(second), **row)


def test_context_growth_is_what_was_sent_beyond_the_first_call(ledger: MemoryLedger) -> None:
    """1,000 tokens, then 1,500 and 3,000: 2,500 tokens too many at the calls' own rate; other agents and models apart."""
    for second, tokens in enumerate((1000, 1500, 900, 3000)):
        _call(ledger, second, tokens)
    _call(ledger, 9, 50_000, agent="other")
    _call(ledger, 9, 50_000, model="other")
    (finding,) = _found(ledger, "context_growth")
    assert (finding.amount_nanousd, finding.estimated, finding.unknown) == (2500 * 2000, False, 0)
    assert [(step.input_tokens, step.tokens, step.amount_nanousd) for step in finding.steps] == [
        (1500, 500, 1_000_000),
        (3000, 2000, 4_000_000),
    ]
    assert (finding.agent, finding.model, finding.task) == ("boss", "gpt-5-mini", "t-1")
    assert "from 1,000 to 3,000 tokens over 4 calls" in finding.text


def test_growth_with_a_cache_is_an_estimate_and_unknown_stays_unknown(ledger: MemoryLedger) -> None:
    """What a cache served is averaged with the rest and marked; an unpriced call is counted, not taken as nothing."""
    _call(ledger, 0, 1000)
    _call(ledger, 1, 2000, read=1000)
    _call(ledger, 2, 3000, cost_nanousd=None, cost_input_nanousd=None)
    (finding,) = _found(ledger, "context_growth")
    assert (finding.amount_nanousd, finding.estimated, finding.unknown) == (1_100_000, True, 1)
    ledger.attempt(task="t-2", input_tokens=10, cost_nanousd=None)
    ledger.attempt(task="t-2", input_tokens=20, cost_nanousd=None)
    (unpriced,) = [finding for finding in _tree(ledger, "t-2").findings if finding.kind == "context_growth"]
    assert (unpriced.amount_nanousd, unpriced.unknown, unpriced.to_json(0)["amount_usd"]) == (None, 1, None)


def test_cache_misses_cost_what_the_cache_rate_would_have_saved(ledger: MemoryLedger) -> None:
    """A call that reads nothing of the 4,000 tokens before it pays 2.00 instead of 0.20 a million for them."""
    _call(ledger, 0, 4000)
    _call(ledger, 1, 5000, read=4000)
    _call(ledger, 2, 6000, read=0)
    (finding,) = _found(ledger, "cache_miss")
    assert [(step.tokens, step.amount_nanousd) for step in finding.steps] == [(5000, 5000 * 1800)]
    assert (finding.amount_nanousd, finding.estimated) == (9_000_000, True)


def test_a_cache_miss_without_a_cache_rate_has_no_amount(ledger: MemoryLedger) -> None:
    """No row states a rate for cache reads: the tokens are told, the amount is not known. Short prompts are no miss."""
    _call(ledger, 0, 4000)
    _call(ledger, 1, 5000)
    (finding,) = _found(ledger, "cache_miss")
    assert (finding.amount_nanousd, finding.unknown, finding.steps[0].tokens) == (None, 1, 4000)
    ledger.attempt(task="t-2", input_tokens=1000, cache_read_tokens=0)
    ledger.attempt(task="t-2", input_tokens=1001, cache_read_tokens=0)
    assert "cache_miss" not in {finding.kind for finding in _tree(ledger, "t-2").findings}


def test_repeated_tools_cost_all_calls_but_the_first(ledger: MemoryLedger) -> None:
    """The same arguments across sub-tasks; a tool whose arguments nobody noted; and one that was free."""
    tool = {"kind": "tool", "input_tokens": None, "cost_nanousd": 5}
    for number in range(3):
        place = {"task": f"sub-{number}", "parent_task": "t-1"}
        ledger.attempt(ago=_ago(number), model="search", labels={"args": "d1"}, **tool, **place)
    ledger.attempt(model="search", labels={"args": "d2"}, task="t-1", **tool)
    for cost in (7, 8):
        ledger.attempt(model="fetch", task="t-1", **{**tool, "cost_nanousd": cost})
    for _ in range(2):
        ledger.span("clock", kind="tool", task="t-1")
    found = {finding.tool: finding for finding in _found(ledger, "repeated_tool")}
    assert {name: (f.amount_nanousd, f.step_count, f.unknown) for name, f in found.items()} == {
        "search": (10, 2, 0),
        "fetch": (8, 1, 0),
        "clock": (None, 1, 1),
    }
    assert "3 times with the same arguments" in found["search"].text
    assert "arguments that nobody noted" in found["fetch"].text


def test_a_tool_call_told_twice_is_no_repetition(ledger: MemoryLedger) -> None:
    """A framework's span around the SDK's own is one call; so are a span and the attempt in it."""
    ledger.span("search", span_id="outer", kind="tool", task="t-1", door="otlp")
    ledger.span("search", span_id="inner", parent_id="outer", kind="tool", task="t-1")
    ledger.attempt(kind="tool", model="search", task="t-1", trace_id="t", span_id="inner", cost_nanousd=5)
    ledger.span("clock", span_id="c1", kind="tool", task="t-1", door="otlp")
    ledger.span("clock", span_id="c2", parent_id="c1", kind="tool", task="t-1")
    assert _found(ledger, "repeated_tool") == []


def test_tools_that_only_models_tell_of(ledger: MemoryLedger) -> None:
    """Behind a gateway nobody records tools: three requests for one are found with what asking again cost, two are not."""
    for cost in (10, 20, 30):
        ledger.attempt(task="t-1", cost_nanousd=cost, tools=["run_tests", "run_tests", "known"])
    for _ in range(2):
        ledger.attempt(task="t-1", tools=["read_file"])
    ledger.attempt(task="t-1", kind="tool", model="known", cost_nanousd=0)
    (finding,) = _found(ledger, "repeated_tool")
    assert (finding.tool, finding.amount_nanousd, finding.step_count) == ("run_tests", 50, 2)
    assert "asked for the tool run_tests 3 times" in finding.text


def test_failures_that_were_billed_and_retries(ledger: MemoryLedger) -> None:
    """A cancelled stream that cost money, refusals that did not, and a call that took three attempts."""
    ledger.attempt(task="t-1", status="cancelled", cost_nanousd=30)
    ledger.attempt(task="t-1", status="error", cost_nanousd=0, http_status=429)
    for number, (status, cost) in enumerate((("error", 0), ("cut", 12), ("ok", 50)), 1):
        ledger.attempt(ago=_ago(number), task="t-1", call_id="again", number=number, status=status, cost_nanousd=cost)
    failed = {finding.text: finding.amount_nanousd for finding in _found(ledger, "failed_billed")}
    assert failed == {
        "1 attempt of gpt-5-mini ended as cancelled and was billed.": 30,
        "1 attempt of gpt-5-mini ended as cut and was billed.": 12,
    }
    (retry,) = _found(ledger, "retry")
    assert (retry.amount_nanousd, retry.step_count) == (12, 2)
    assert "1 call of gpt-5-mini was tried again, 2 times in all" in retry.text
    assert "2,000 ms went by" in retry.text


def test_a_call_that_went_on_elsewhere_was_not_tried_again(ledger: MemoryLedger) -> None:
    """Where models differ both are named, as they were chosen and not as the answer names them; calls that went the same way
    are one finding, and what stayed with one model is another."""
    for number in (1, 2):
        fallback(ledger, f"moved{number}", ago=_ago(number), task="t-1")
    for number, (status, model) in enumerate((("error", "gpt-5-mini"), ("ok", "gpt-5-mini-2025-08-07")), 1):
        decision = decided(
            "primary", "asked", candidate("primary", GPT, "taken"), candidate("fallback", LLAMA, "passed")
        )
        row = {"model": model, "model_asked": "fast", "rung": "primary", "status": status, "cost_nanousd": 3}
        ledger.attempt(task="t-1", call_id="again", number=number, decision=decision, **row)
    assert sorted(finding.text for finding in _found(ledger, "retry")) == [
        "1 call of gpt-5-mini-2025-08-07 was tried again, once: this is what the attempts before the last cost, and 0 ms went by.",
        (
            "2 calls went on from openai/gpt-5-mini to groq/llama-3.3-70b-versatile: "
            "this is what the attempts before the last cost, and 300 ms went by."
        ),
    ]


def test_a_kept_answer_is_no_try(ledger: MemoryLedger) -> None:
    """It ends a call that two models failed without being a third, and one that a single model failed was not tried again."""
    failed = {"task": "t-1", "status": "error", "cost_nanousd": 7}
    kept = {
        "task": "t-1",
        "rung": "stale",
        "cache": "stale",
        "cost_nanousd": 0,
        "avoided_nanousd": 4_000,
        "model": "kept",
    }
    ledger.attempt(call_id="one", model="first", **failed)
    ledger.attempt(call_id="one", number=2, **kept)
    ledger.attempt(call_id="two", model="first", **failed)
    ledger.attempt(call_id="two", number=2, model="second", provider="groq", **failed)
    ledger.attempt(call_id="two", number=3, **{**kept, "avoided_nanousd": None})
    (retry,) = _found(ledger, "retry")
    assert (retry.amount_nanousd, retry.step_count) == (7, 1)
    assert "1 call went on from openai/first to groq/second" in retry.text
    tree = _tree(ledger, "t-1")
    assert tree.root.total.cost_nanousd == 21
    assert tree.kept.to_json() == {"answers": 2, "avoided_usd": "0.000004", "unknown_cost": 1}
    ledger.attempt(
        task="t-2", **{name: value for name, value in kept.items() if name not in ("task", "avoided_nanousd")}
    )
    assert _tree(ledger, "t-2").kept.to_json() == {"answers": 1, "avoided_usd": None, "unknown_cost": 1}


def test_kept_results_of_tools_are_no_repetition(ledger: MemoryLedger) -> None:
    """Neither one that was stored nor one that another call was waiting for."""
    for cache in ("miss", "tool", "coalesced"):
        row = {"kind": "tool", "model": "search", "labels": {"args": "d"}, "cost_nanousd": 5, "cache": cache}
        ledger.attempt(task="t-1", **row)
    assert _found(ledger, "repeated_tool") == []


@pytest.mark.parametrize("hedge", [("hedge", "hedge"), ("hedge", "probe")])
def test_a_hedge_costs_what_did_not_answer(ledger: MemoryLedger, hedge: tuple[str, str]) -> None:
    """The attempt beside it may answer although it was made before: then the hedge is what was paid for nothing."""
    why, verdict = hedge
    first, second = candidate("primary", GPT, "taken"), candidate("fallback", LLAMA, verdict)
    decisions = decided("primary", "asked", first), decided("fallback", why, {**first, "verdict": "running"}, second)
    ledger.attempt(task="t-1", call_id="c", cost_nanousd=50, decision=decisions[0])
    row = {"status": "cancelled", "cost_nanousd": 8, "provider": LLAMA[0], "model": LLAMA[1]}
    ledger.attempt(task="t-1", call_id="c", number=2, decision=decisions[1], **row)
    (retry,) = _found(ledger, "retry")
    assert (retry.amount_nanousd, [step.attempt_id for step in retry.steps]) == (8, ["a2"])
    assert retry.text == (
        "1 call that took long was asked of openai/gpt-5-mini and groq/llama-3.3-70b-versatile, a hedge: "
        "this is what the other attempts cost."
    )


@pytest.mark.parametrize(
    "decision", ["", "no JSON", "[]", '"x"', '{"candidates": "x"}', '{"candidates": [1, null, {"verdict": 3}]}']
)
def test_decisions_that_are_not_as_expected_harm_nothing(ledger: MemoryLedger, decision: str) -> None:
    """They came from another process: then what was asked for is what an attempt was for."""
    ledger.attempt(task="t-1", call_id="c", status="error", decision=decision)
    ledger.attempt(task="t-1", call_id="c", number=2, decision=decision, model="gpt-5-mini-x", model_asked="gpt-5-mini")
    (retry,) = _found(ledger, "retry")
    assert "1 call of gpt-5-mini-x was tried again, once" in retry.text


def test_findings_are_never_part_of_the_sums(ledger: MemoryLedger) -> None:
    """They come beside the tree, dearest first, what is not known before what cost nothing."""
    _call(ledger, 0, 4000)
    _call(ledger, 1, 5000)
    ledger.attempt(task="t-1", call_id="again", status="error", cost_nanousd=0, input_tokens=None)
    ledger.attempt(task="t-1", call_id="again", number=2, cost_nanousd=0, input_tokens=1)
    tree = _tree(ledger, "t-1")
    assert [finding.kind for finding in tree.findings] == ["context_growth", "cache_miss", "retry"]
    assert tree.root.total.cost_nanousd == 18_000_000


def test_calls_that_are_booked_while_one_asks_do_no_harm(ledger: MemoryLedger) -> None:
    """A live task grows between the questions of one answer: what came too late for the first is in the next answer."""
    ledger.attempt(task="t-1", cost_nanousd=1)

    class Growing:
        def rows(self, sql: str, parameters: Any = None) -> list[dict[str, Any]]:
            found = ledger.rows(sql, parameters)
            ledger.attempt(task="t-1", cost_nanousd=1)
            ledger.span("late", task="t-1")
            return found

    tree = task(Growing(), "t-1")
    assert isinstance(tree, TaskTree)
    assert (tree.steps_left_out, tree.attempts_left_out) == (0, 0)
    later = _tree(ledger, "t-1")
    assert len(later.root.steps) == later.root.total.attempts > tree.root.total.attempts


# --- outcomes and size -------------------------------------------------------------------------------------------


def test_the_latest_outcome_counts(ledger: MemoryLedger) -> None:
    """What was said last of a task, with its exact value, in the tree and in the list; none is none."""
    ledger.attempt(task="t-1", cost_nanousd=5)
    assert _tree(ledger, "t-1").to_json()["outcome"] is None
    ledger.outcome("t-1", "failed")
    ledger.outcome("t-1", "resolved", 3_200_000_000, note="by mail")
    body = _tree(ledger, "t-1").to_json()["outcome"]
    assert (body["outcome"], body["value_usd"], body["note"]) == ("resolved", "3.2", "by mail")
    assert [(row.outcome, row.value_nanousd) for row in tasks(ledger).rows] == [("resolved", 3_200_000_000)]


def test_a_task_of_a_hundred_thousand_attempts_has_a_bounded_answer() -> None:
    """Sums over all of it, at most 10,000 steps and 10,000 spans shown, the rest counted; within seconds."""
    ledger = MemoryLedger()
    generate(ledger, count=101_000, tasks=1)
    ledger.connection.execute(
        "UPDATE attempt SET task = 'big', parent_task = '', trace_id = 't', span_id = 's' || sequence % 25000"
    )
    ledger.connection.execute(
        """
        INSERT INTO span BY NAME
        SELECT i AS sequence, 't' AS trace_id, 's' || i AS span_id, CASE WHEN i > 0 THEN 's' || i // 3 ELSE '' END AS parent_id,
               'step' AS name, 'step' AS kind, 'otlp' AS door, TIMESTAMP '2026-01-01' + to_seconds(i) AS started_at,
               TIMESTAMP '2026-01-02' + to_seconds(i) AS ended_at, 'ok' AS status, '' AS error, '' AS org, '' AS team,
               '' AS project, '' AS "user", '' AS agent, '' AS session, 'big' AS task, '' AS parent_task, '' AS tool,
               NULL AS size_bytes, '' AS attempt_id
        FROM range(25000) AS source(i)
        """
    )
    (plain,) = ledger.rows("SELECT sum(cost_nanousd) AS cost FROM attempt")
    begin = time.perf_counter()
    tree = _tree(ledger, "big")
    seconds = time.perf_counter() - begin
    assert tree.root.total.cost_nanousd == plain["cost"]
    assert (tree.steps_left_out, tree.spans_left_out, tree.attempts_left_out) == (91_000, 15_000, 1_000)
    assert sum(1 for _ in _nodes(tree.root)) <= 10_001
    assert len(tree.path) <= 200
    assert len(tree.findings) <= 50
    assert all(len(finding.steps) <= 20 for finding in tree.findings)
    assert seconds < 30
