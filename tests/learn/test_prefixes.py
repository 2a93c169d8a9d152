"""Where prompts part, and how often prefixes come again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.prompt_cache import Chance
from bursar.learn.prefixes import ORDERS, Prefixes, element_spans, member_spans, read_prompt
from bursar.learn.reuse import Reuse

CLAUDE, CHAT = ORDERS["anthropic"], ORDERS["openai_chat"]
SECOND = 1_000_000
MINUTE = 60 * SECOND


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def body(*messages: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"messages": list(messages), "model": "m", **fields}).encode()


def parted(before: bytes, after: bytes, order: tuple[str, ...] = CLAUDE) -> tuple[str, int, str, str] | None:
    prefixes = Prefixes(excerpts=True)
    assert prefixes.saw("t", before, 0, order=order) is None
    step = prefixes.saw("t", after, SECOND, order=order)
    assert step is not None
    found = step.divergence
    return None if found is None else (found.path, found.offset, found.before, found.after)


def test_a_thread_that_goes_on_does_not_part() -> None:
    """More messages, other values beside the prompt: the whole earlier prompt comes again."""
    before = body(user("a"), system="s", max_tokens=1)
    after = body(user("a"), user("b"), system="s", max_tokens=2, stream=True)
    prefixes = Prefixes()
    prefixes.saw("t", before, 0, order=CLAUDE)
    step = prefixes.saw("t", after, 7 * SECOND, order=CLAUDE)
    assert step is not None
    assert (step.divergence, step.gap_us) == (None, 7 * SECOND)
    assert step.shared_bytes == step.before_bytes == len('"s"') + len(json.dumps([user("a")])) - 1


@pytest.mark.parametrize(
    ("before", "after", "path", "offset"),
    [
        (body(user("a"), system="It is 12:01."), body(user("a"), system="It is 12:02."), "system", 10),
        (body(user("ab")), body(user("ac")), "messages[0].content[0].text", 1),
        (body(user("a"), tools=[{"name": "x"}, {"name": "y"}]), body(user("a"), tools=[{"name": "y"}, {"name": "x"}]), "tools[0].name", 0),
        (body(user("a"), user("b")), body(user("a")), "messages", len(json.dumps([user("a")])) - 1),
        (body(user("a"), thinking={"budget_tokens": 1024}), body(user("a"), thinking={"budget_tokens": 2048}), "thinking.budget_tokens", 0),
        (body(user("a"), system="s"), body(user("a")), "system", 0),
        (body(user("é1")), body(user("é2")), "messages[0].content[0].text", len("\\u00e9")),
    ],
)  # fmt: skip
def test_the_first_byte_that_differs_is_named(before: bytes, after: bytes, path: str, offset: int) -> None:
    """The path of the innermost value, and the byte of its text; the order is that of the cache, not of the body."""
    found = parted(before, after)
    assert found is not None
    assert found[:2] == (path, offset)


def test_excerpts_are_for_those_who_ask() -> None:
    """Offline both sides' next characters are shown; a watcher keeps none."""
    before, after = body(user("a"), system="Now 12:01:33 x"), body(user("a"), system="Now 12:01:44 x")
    assert parted(before, after) == ("system", 10, '33 x"', '44 x"')
    watcher = Prefixes()
    watcher.saw("t", before, 0, order=CLAUDE)
    step = watcher.saw("t", after, 1, order=CLAUDE)
    assert step is not None
    assert step.divergence is not None
    assert (step.divergence.before, step.divergence.after) == ("", "")


def test_memory_is_bounded() -> None:
    """Threads and bytes have a limit; what was not used for longest is forgotten first, and a giant is not kept at all."""
    prefixes = Prefixes(threads_max=3, bytes_max=2_000)
    for name in "abcd":
        prefixes.saw(name, body(user("x")), 0, order=CLAUDE)
    assert len(prefixes) == 3
    assert prefixes.saw("a", body(user("x")), 1, order=CLAUDE) is None
    prefixes.saw("big", body(user("x" * 3_000)), 1, order=CLAUDE)
    assert prefixes.saw("big", body(user("x")), 2, order=CLAUDE) is None
    for name in "efg":
        prefixes.saw(name, body(user("x" * 900)), 3, order=CLAUDE)
    assert len(prefixes) == 2


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":1}', b'{"messages":[],"messages":[1]}', b"\xff"])
def test_what_is_no_prompt_is_passed_over(data: bytes) -> None:
    """No JSON object, none of the members, a key that comes twice."""
    prefixes = Prefixes()
    assert prefixes.saw("t", data, 0, order=CLAUDE) is None
    assert read_prompt(data, CLAUDE) is None


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.lists(JSON, max_size=5), st.sampled_from([None, 0, 3]))
def test_spans_hold_the_values(members: dict[str, Any], elements: list[Any], indent: int | None) -> None:
    """Every span of an object and of an array is exactly one value, whatever the spacing."""
    text = json.dumps(members, indent=indent).encode()
    assert {key: json.loads(text[a:b]) for key, (a, b) in member_spans(text).items()} == members
    text = json.dumps(elements, indent=indent).encode()
    assert [json.loads(text[a:b]) for a, b in element_spans(text)] == elements


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4), st.text(max_size=4))
def test_what_is_shared_is_equal_and_what_follows_is_not(left: list[str], right: list[str], system: str) -> None:
    """For any two requests: the shared bytes are the longest equal beginning of both prompts."""
    bodies = [body(*map(user, texts), system=system) for texts in (left, right)]
    prompts = [read_prompt(each, CLAUDE) for each in bodies]
    flat = [b"".join(part.data for part in prompt.parts) for prompt in prompts if prompt is not None]
    prefixes = Prefixes()
    prefixes.saw("t", bodies[0], 0, order=CLAUDE)
    step = prefixes.saw("t", bodies[1], 1, order=CLAUDE)
    assert step is not None
    assert flat[0][: step.shared_bytes] == flat[1][: step.shared_bytes]
    if step.divergence is not None:
        assert flat[0][step.shared_bytes : step.shared_bytes + 1] != flat[1][step.shared_bytes : step.shared_bytes + 1]
    else:
        assert right[: len(left)] == left


# --- reuse ------------------------------------------------------------------------------------------------------


def share(chance: Chance) -> tuple[float, float]:
    return chance.five / chance.of, chance.hour / chance.of


def test_before_anything_is_known_the_request_says_whether_it_goes_on() -> None:
    """With tools or an answer one in two, else none."""
    reuse = Reuse()
    assert share(reuse.chance("turn", "g", "t", goes_on=True)) == (0.5, 0.5)
    assert share(reuse.chance("turn", "g", "t", goes_on=False)) == (0.0, 0.0)


def test_a_thread_that_comes_back_is_learned() -> None:
    """Twenty calls twenty seconds apart: nearly certain within five minutes; for another thread of the group too."""
    reuse = Reuse()
    for number in range(20):
        reuse.saw("turn", "g", "t", number * 20 * SECOND)
    assert share(reuse.chance("turn", "g", "t", goes_on=False))[0] > 0.9
    assert share(reuse.chance("turn", "g", "other", goes_on=False))[0] > 0.85
    assert share(reuse.chance("turn", "elsewhere", "t2", goes_on=False))[0] == 0.0


def test_threads_that_end_are_counted() -> None:
    """A hundred threads of one call each: nobody comes back, and that is known five minutes later."""
    reuse = Reuse()
    for number in range(100):
        reuse.saw("turn", "g", f"t{number}", number * SECOND)
    reuse.saw("turn", "g", "late", 10 * MINUTE)
    assert share(reuse.chance("turn", "g", "new", goes_on=True)) < (0.02, 0.02)


def test_gaps_between_five_minutes_and_an_hour_speak_for_an_hour() -> None:
    """Every ten minutes: never within five, always within the hour. Every two hours: never."""
    reuse = Reuse()
    for number in range(30):
        reuse.saw("turn", "g", "t", number * 10 * MINUTE)
        reuse.saw("turn", "h", "u", number * 120 * MINUTE)
    five, hour = share(reuse.chance("turn", "g", "t", goes_on=False))
    assert five == 0.0
    assert hour > 0.9
    assert share(reuse.chance("turn", "h", "u", goes_on=False)) == (0.0, 0.0)


def test_a_prefix_that_changes_is_no_reuse() -> None:
    """The thread comes back at once, but with another prompt."""
    reuse = Reuse()
    for number in range(20):
        reuse.saw("turn", "g", "t", number * SECOND, again=False)
    assert share(reuse.chance("turn", "g", "t", goes_on=True))[0] < 0.05


def test_old_evidence_fades() -> None:
    """After three hundred returns, some fifty partings are enough to stop."""
    reuse = Reuse()
    for number in range(300):
        reuse.saw("turn", "g", "t", number * SECOND)
    for number in range(300, 700):
        reuse.saw("turn", "g", "t", number * SECOND, again=False)
    assert share(reuse.chance("turn", "g", "t", goes_on=True))[0] < 0.22


@given(st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 3), st.booleans()), max_size=80))
def test_chances_are_chances(events: list[tuple[int, int, bool]]) -> None:
    """Whatever happens: between nothing and certainty, and an hour is never less likely than five minutes."""
    reuse = Reuse()
    now = 0
    for gap_s, key, again in events:
        now += gap_s * SECOND
        reuse.saw("turn", "g", str(key), now, again=again)
        found = reuse.chance("turn", "g", str(key), goes_on=again)
        assert 0 <= found.five <= found.hour <= found.of
        assert found.of > 0
