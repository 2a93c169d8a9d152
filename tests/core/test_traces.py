"""What is charged of a trace: leaves, once, in whatever order they come."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.prices_file import bundled_book
from bursar.core.money import NanoUSD, Rate
from bursar.core.observations import Observation
from bursar.core.prices import Reading, charge
from bursar.core.scopes import Scope
from bursar.core.tool_prices import ToolPrice, ToolPrices
from bursar.core.traces import (
    PROVIDER_REPORTED,
    Holder,
    Nearer,
    Trace,
    Verdict,
    attempt_of,
    charges,
    claim,
    contest,
    nearest,
    price,
    source_of,
)
from tracing import AT_US, NAMES, OTHER, TRACE, model, observations, record, seen, usage

TOOLS = ToolPrices([ToolPrice("search", per_call=Rate(5_000_000, 1))])
NO_TOOLS = ToolPrices()


def fates(*observations: Observation, tools: ToolPrices = NO_TOOLS, **more: Any) -> dict[str, str]:
    return {each.key: each.fate for each in charges(observations, tools=tools, **more)}


def charged(*observations: Observation, **more: Any) -> set[str]:
    return {key for key, fate in fates(*observations, **more).items() if fate == "charged"}


# --- leaves -----------------------------------------------------------------------------------------------------


def test_of_nested_instrumentations_only_the_innermost_is_charged() -> None:
    """A framework's model span around an SDK's says the same usage again."""
    outer, inner = model("b", "a"), model("c", "b")
    assert fates(seen("a", kind="agent"), outer, inner) == {"a": "shape", "b": "contained", "c": "charged"}


def test_retries_below_one_model_span_are_each_charged() -> None:
    """Every leaf with usage was paid for, and the span that sums them was not."""
    assert charged(model("b", "a", 30), model("c", "b", 10), model("d", "b", 20), seen("a")) == {"c", "d"}


def test_sums_on_agents_and_steps_are_never_added() -> None:
    """An agent that states the usage of its calls is not charged beside them, at any depth."""
    tree = [
        seen("a", kind="agent", reading=usage(60)),
        seen("b", "a", reading=usage(60)),
        seen("c", "b"),
        model("d", "c"),
    ]
    assert charged(*tree) == {"d"}


def test_a_sum_is_charged_where_nothing_below_it_says_anything() -> None:
    """Of nested sums without a call the innermost counts."""
    assert charged(seen("a", kind="agent", reading=usage(60)), seen("b", "a", reading=usage(60)), seen("c", "b")) == {
        "b"
    }


def test_a_sum_waits_until_the_trace_rests() -> None:
    """Calls may still arrive below it."""
    trace = Trace(TRACE)
    trace.take(seen("a", kind="agent", reading=usage(60)))
    (verdict,) = trace.decide(at_rest=False, tools=NO_TOOLS)
    assert (verdict.fate, trace.waiting) == ("waiting", True)
    (verdict,) = trace.decide(at_rest=True, tools=NO_TOOLS)
    assert (verdict.fate, trace.waiting) == ("charged", False)


def test_figures_below_a_model_span_are_a_part_of_it() -> None:
    """A step inside a call that repeats its figures is not a second call."""
    assert charged(model("a"), seen("b", "a", reading=usage(10))) in ({"a"}, {"b"})
    assert len(charged(model("a"), seen("b", "a", reading=usage(10)))) == 1


def test_usage_that_is_not_understood_is_a_charge_without_an_amount() -> None:
    """Unknown is never nothing: it is charged, unpriced, unless something around it knows."""
    unknown = Reading(reason="input_tokens is -1")
    assert charged(seen("a", kind="model", reading=unknown)) == {"a"}
    assert charged(seen("a", kind="model", reading=unknown), model("b", "a")) == {"b"}
    assert charged(model("a"), seen("b", "a", kind="model", reading=unknown)) == {"a"}
    assert charged(seen("a", kind="model")) == set()


# --- tools ------------------------------------------------------------------------------------------------------


def test_a_tool_is_charged_when_its_price_is_known() -> None:
    """A model call inside a tool is paid beside the tool's own price."""
    tree = [seen("a", kind="tool", tool="search"), seen("b", kind="tool", tool="think"), model("c", "a")]
    assert charged(*tree, tools=TOOLS) == {"a", "c"}
    assert charged(*tree) == {"c"}


def test_one_tool_call_that_two_instrumentations_saw_is_one() -> None:
    """The framework's span and the protocol's below it are the same call; two call ids are two."""
    tree = [seen("a", kind="tool", tool="search"), seen("s", "a"), seen("b", "s", kind="tool", tool="search")]
    for order in (tree, tree[::-1], [tree[1], tree[2], tree[0]]):
        assert charged(*order, tools=TOOLS) == {"b"}
    named = [replace(each, reading=Reading(response_id=each.span_id)) for each in (tree[0], tree[2])]
    assert charged(named[0], tree[1], named[1], tools=TOOLS) == {"a", "b"}


def test_a_tool_called_by_an_agent_inside_the_same_tool_is_a_second_call() -> None:
    """Between them stands an agent's own work."""
    tree = [
        seen("a", kind="tool", tool="search"),
        seen("g", "a", kind="agent"),
        seen("b", "g", kind="tool", tool="search"),
    ]
    assert charged(*tree, tools=TOOLS) == {"a", "b"}


# --- other doors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("under", ["b", "c"])
def test_what_a_nearer_door_charged_under_a_span_is_linked(under: str) -> None:
    """The gateway knows the caller's span: the model's own, or the HTTP client's below it."""
    tree = [seen("a", kind="agent", reading=usage(10)), model("b", "a"), seen("c", "b")]
    found = {v.key: v for v in charges(tree, nearer=[Nearer("call-1.1", "model", TRACE, under)])}
    assert (found["b"].fate, found["b"].link) == ("linked", "call-1.1")
    assert found["a"].fate == "linked"


def test_a_nearer_charge_under_another_span_links_nothing() -> None:
    """The gateway's call was made by the agent's second step; the first one's is still to be paid."""
    tree = [seen("a", kind="agent"), model("b", "a"), seen("c", "a")]
    assert charged(*tree, nearer=[Nearer("call-1.1", "model", TRACE, "c")]) == {"b"}


def test_a_tool_that_the_sdk_charged_is_linked() -> None:
    """A model call of a nearer door below a tool does not pay the tool."""
    tool = seen("a", kind="tool", tool="search")
    assert charged(tool, tools=TOOLS, nearer=[Nearer("t", "tool", TRACE, "a")]) == set()
    assert charged(tool, tools=TOOLS, nearer=[Nearer("m", "model", TRACE, "a")]) == {"a"}


def test_one_response_is_charged_once_in_all_traces() -> None:
    """The same response in two traces: one keeps it, the same one in either order."""
    one = model("b", reading=replace(usage(10), response_id="resp-1"))
    two = replace(one, trace_id="f" * 32, span_id="e")
    for order in ([one, two], [two, one]):
        assert fates(*order) == {"b": "charged", "e": "linked"}
    assert fates(one, replace(two, provider="azure")) == {"b": "charged", "e": "charged"}


def test_holders_keep_their_response_by_nearness() -> None:
    """A gateway's charge keeps it from a span, a span takes it from an import."""
    verdict = Verdict("b", model("b", reading=replace(usage(1), response_id="r")), Scope(), "charged")
    for holder, fate, after in (
        (Holder("call-1.1", "gateway"), "linked", "call-1.1"),
        (Holder("import-1", "import"), "charged", f"otlp:{TRACE}:b"),
        (Holder(f"otlp:{TRACE}:b#3", "span"), "charged", f"otlp:{TRACE}:b#3"),
    ):
        holders = {"openai:r": holder}
        claim(TRACE, [verdict], holders)
        assert holders["openai:r"].attempt_id == after
        assert contest(TRACE, [verdict], holders)[0].fate == fate
    assert nearest(Holder("x", "log"), Holder("y", "span")).attempt_id == "y"
    assert [source_of(f"otlp:t:{key}", "otlp") for key in ("ab", "log.ab", "metric.ab")] == ["span", "log", "metric"]
    assert source_of("x", "sdk") == "sdk"


# --- records and metrics ----------------------------------------------------------------------------------------


def test_a_record_inside_a_charged_span_says_it_again() -> None:
    """Written in the span, or in one below it, or of the same response."""
    assert charged(model("a"), record("a")) == {"a"}
    assert charged(model("a"), seen("b", "a"), record("b")) == {"a"}
    named = replace(usage(10), response_id="r")
    found = charges([model("a", reading=named), record("", trace_id="", reading=named)])
    assert [v.fate for v in found if v.observation.source == "span"] == ["charged"]
    assert [v.fate for v in found if v.observation.source == "log"] == ["linked"]


def test_a_record_is_charged_where_its_span_says_nothing() -> None:
    """Usage that only events carry is not lost, and the sum above is none beside it."""
    (key,) = charged(seen("a", kind="agent", reading=usage(10)), seen("b", "a", kind="model"), record("b"))
    assert key.startswith("log.")


def test_records_without_a_trace_are_each_a_charge() -> None:
    """Two calls that differ are two; the same record sent again is one."""
    one = record("", trace_id="", group="s")
    assert len(charged(one, one, replace(one, started_us=AT_US + 1))) == 2


def test_metrics_count_only_where_their_group_sent_nothing_better() -> None:
    """Claude Code's counters beside its records would count everything twice."""
    point = model("", source="metric", span_id="", trace_id="", group="session-1")
    assert len(charged(point)) == 1
    assert len(charged(point, record("", trace_id="", group="session-2"))) == 2
    (key,) = charged(point, record("", trace_id="", group="session-1"))
    assert key.startswith("log.")


# --- scopes -----------------------------------------------------------------------------------------------------


def scope_of(span: str, *observations: Observation) -> Scope:
    return next(v.scope for v in charges(observations) if v.key == span)


def test_open_columns_are_those_of_the_nearest_above() -> None:
    """Column by column, labels too; what a span says itself stays."""
    root = seen("a", scope=Scope(user="u", team="t", agent="main", labels=(("env", "prod"), ("x", "1"))))
    step = seen("b", "a", scope=Scope(agent="helper", labels=(("x", "2"),)))
    found = scope_of("c", root, step, model("c", "b", scope=Scope(session="s")))
    assert found == Scope(
        user="u", team="t", agent="helper", session="s", task=TRACE, labels=(("env", "prod"), ("x", "2"))
    )


def test_the_task_is_the_nearest_named_one_else_the_trace() -> None:
    """A task below another one names it as its parent; the same name again is the same task."""
    root, leaf = seen("a", scope=Scope(task="order-1")), model("d", "c")
    assert scope_of("d", seen("c"), leaf).task == TRACE
    again = seen("c", "b", scope=Scope(task="order-1"))
    assert scope_of("d", root, seen("b", "a"), again, leaf) == Scope(task="order-1")
    below = seen("c", "b", scope=Scope(task="item-7"))
    assert scope_of("d", root, seen("b", "a"), below, leaf) == Scope(task="item-7", parent_task="order-1")
    assert scope_of("d", seen("c", scope=Scope(task="item-7")), leaf) == Scope(task="item-7")


def test_more_labels_than_are_kept_lose_the_farthest() -> None:
    """A span's own labels stay; nothing raises."""
    many = tuple((f"a{n:02}", "x") for n in range(32))
    found = scope_of("b", seen("a", scope=Scope(labels=many)), model("b", "a", scope=Scope(labels=(("z", "1"),))))
    assert len(found.labels) == 32
    assert ("z", "1") in found.labels


# --- hostile trees ----------------------------------------------------------------------------------------------


def test_circles_orphans_and_self_parents_are_charged_once() -> None:
    """A span on a circle stands below nothing; nothing is lost and nothing goes round."""
    assert charged(model("a", "b"), model("b", "a")) == {"a", "b"}
    assert charged(model("a", "a")) == {"a"}
    assert charged(model("a", "gone")) == {"a"}
    assert charged(model("a", "c"), seen("b", "a"), seen("c", "b"), model("d", "b")) == {"a", "d"}


def test_of_spans_with_one_id_the_later_counts() -> None:
    """Also where it moves to another parent, or states no usage any more."""
    early, late = model("b", "a", 5), model("b", "a", 7, ended_us=AT_US + 9_000)
    for order in ([early, late], [late, early], [late, early, early]):
        (verdict,) = [v for v in charges([seen("a"), *order]) if v.fate == "charged"]
        assert verdict.observation == late
    moved = replace(late, parent_id="c")
    tree = [model("c"), model("a"), early, moved]
    assert charged(*tree) == charged(*tree[::-1]) == {"a", "b"}
    silent = replace(late, reading=None)
    assert charged(model("a"), early, silent) == {"a"}


@pytest.mark.parametrize("shape", ["chain", "chain from below", "star", "late root"])
def test_a_hundred_thousand_spans_are_decided_within_seconds(shape: str) -> None:
    """In batches, whatever the shape: what is new is looked at, not everything."""
    count = 100_000
    if shape.startswith("chain"):
        spans = [seen(f"{n:x}", f"{n - 1:x}" if n else "") for n in range(count)]
        spans = spans if shape == "chain" else spans[::-1]
    else:
        spans = [model(f"{n:x}", "root") for n in range(count)]
        spans.insert(count if shape == "late root" else 0, seen("root", scope=Scope(user="u")))
    trace = Trace(TRACE)
    decided: dict[str, str] = {}
    begin = time.process_time()
    for start in range(0, len(spans), 10_000):
        trace.take_all(spans[start : start + 10_000])
        decided.update((v.key, v.fate) for v in trace.decide(at_rest=True, tools=NO_TOOLS))
    assert time.process_time() - begin < 20
    assert len(decided) == len(spans)
    assert sum(fate == "charged" for fate in decided.values()) == (0 if shape.startswith("chain") else count)


# --- any order --------------------------------------------------------------------------------------------------


def told(verdicts: list[Verdict]) -> dict[tuple[str, str], Verdict]:
    return {(each.observation.trace_id, each.key): each for each in verdicts}


@given(observations(), st.randoms(use_true_random=False), st.lists(st.sampled_from(NAMES), max_size=2))
def test_any_order_and_any_batches_decide_the_same(found: list[Observation], random: Any, under: list[str]) -> None:
    """The verdicts after everything has come are those of everything at once; each is told when it changes."""
    nearer = [Nearer(f"call-{n}", "model", TRACE, span) for n, span in enumerate(under)]
    expected = told(charges(found, nearer=nearer, tools=TOOLS))
    items: list[Observation | Nearer] = [*found, *nearer, *random.sample(found, min(2, len(found)))]
    random.shuffle(items)
    traces = {key: Trace(key) for key in (TRACE, OTHER)}
    after: dict[tuple[str, str], Verdict] = {}
    for item in items:
        trace = traces[item.trace_id]
        if isinstance(item, Nearer):
            trace.take_nearer(item)
        else:
            trace.take(item)
        if random.random() < 0.4:
            after.update(told(trace.decide(at_rest=random.random() < 0.5, tools=TOOLS)))
    for trace in traces.values():
        after.update(told(trace.decide(at_rest=True, tools=TOOLS)))
    holders: dict[str, Holder] = {}
    for key in traces:
        claim(key, [v for v in after.values() if v.observation.trace_id == key], holders)
    ended = [
        v for key in traces for v in contest(key, [v for v in after.values() if v.observation.trace_id == key], holders)
    ]
    assert told(ended) == {place: verdict for place, verdict in expected.items() if place[0] in traces}


@given(observations(), st.booleans(), st.sampled_from(["", *NAMES]))
def test_what_comes_whole_is_decided_as_if_it_came_one_by_one(
    found: list[Observation], rests: bool, under: str
) -> None:
    """A trace that is built in one pass is the same tree: for what is decided at once, and for what comes later."""
    here = [each for each in found if each.trace_id == TRACE]
    one, whole = Trace(TRACE), Trace(TRACE)
    for each in here:
        one.take(each)
    whole.take_all(here)
    if under:  # known before anything is decided
        for trace in (one, whole):
            trace.take_nearer(Nearer("call-1", "model", TRACE, under))
    assert whole.decide(at_rest=rests, tools=TOOLS) == one.decide(at_rest=rests, tools=TOOLS)
    assert (len(whole), whole.ended, whole.waiting) == (len(one), one.ended, one.waiting)
    for late in (model("h", "a"), seen("a", "h", "tool", tool="search"), record("b"), seen("c", scope=Scope(user="w"))):
        one.take(late)
        whole.take(late)
        assert whole.decide(at_rest=True, tools=TOOLS) == one.decide(at_rest=True, tools=TOOLS)


@given(observations())
def test_no_figure_is_charged_above_another_one(found: list[Observation]) -> None:
    """On no way from a root down are a sum or a model span charged together with a model span below them."""
    verdicts = told(charges(found))
    parents = {
        place: (place[0], v.observation.parent_id) for place, v in verdicts.items() if v.observation.source == "span"
    }
    for place, verdict in verdicts.items():
        if verdict.fate != "charged" or verdict.observation.kind != "model" or verdict.observation.source != "span":
            continue
        above, steps = parents.get(place), 0
        while above in parents and above != place and steps < len(parents):
            other = verdicts[above]
            on_circle = any(above == p for p in _way(parents, above))
            if (
                other.observation.reading
                and other.observation.reading.usage
                and not on_circle
                and verdict.observation.reading
            ):
                usages = verdict.observation.reading.usage is not None
                assert other.fate != "charged" or other.observation.kind == "tool" or not usages
            above, steps = parents.get(above), steps + 1


def _way(parents: dict[tuple[str, str], tuple[str, str]], start: tuple[str, str]) -> list[tuple[str, str]]:
    way: list[tuple[str, str]] = []
    place = parents.get(start)
    while place is not None and len(way) <= len(parents):
        way.append(place)
        place = parents.get(place)
    return way


# --- prices -----------------------------------------------------------------------------------------------------


def test_what_others_say_it_cost_stands_beside_our_charge() -> None:
    """A library's own figure never becomes the amount; the provider's does."""
    book = bundled_book()
    said = model("a", reading=replace(usage(1_000), reported=NanoUSD(7)))
    ours = charge(usage(1_000), book, provider="openai", model="gpt-4o-mini", at=_at()).amount
    priced = price(said, book, NO_TOOLS, price_id="openai")
    assert (priced.amount, priced.reported, sum(line.cost for line in priced.lines)) == (ours, 7, ours)
    theirs = price(replace(said, notes=(PROVIDER_REPORTED,)), book, NO_TOOLS, price_id="openai")
    assert (theirs.amount, theirs.reported) == (7, 7)
    unknown = price(
        replace(said, model_asked="m", reading=replace(said.reading, model="m")), book, NO_TOOLS, price_id="x"
    )
    assert (unknown.amount, unknown.reported) == (None, 7)
    assert unknown.reason


def test_a_tools_price_is_that_of_the_price_book() -> None:
    """Its attempt is a tool's, and an id of its call is no response of a provider."""
    (verdict,) = charges([seen("a", kind="tool", tool="search", reading=Reading(response_id="call-1"))], tools=TOOLS)
    priced = price(verdict.observation, bundled_book(), TOOLS, price_id="")
    attempt = attempt_of(verdict, priced, attempt_id="otlp:t:a#2", door="otlp")
    assert priced.amount == 5_000_000
    assert (attempt.opening.kind, attempt.opening.model_asked, attempt.response_id) == ("tool", "search", "")
    assert (attempt.opening.call_id, attempt.opening.scope.task, attempt.latency_ms) == ("otlp:t:a", TRACE, 1.0)


def _at() -> Any:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(AT_US // 1_000_000, timezone.utc)
