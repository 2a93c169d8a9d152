"""Where prompts part, and how often prefixes come again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.prompt_cache import Chance
from bursar.learn.prefixes import ORDERS, Prefixes, element_spans, member_spans, read_prompt
from bursar.learn.reuse import Question, Reuse

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


def turn(key: str, group: str = "g", *, place: str = "", goes_on: bool = False) -> Question:
    return Question("turn", key, group, place or f"the place of {group}", goes_on)


def test_before_anything_is_known_the_request_says_whether_it_goes_on() -> None:
    """With tools or an answer one in two, else none."""
    reuse = Reuse()
    assert share(reuse.chance(turn("t", goes_on=True), 0)) == (0.5, 0.5)
    assert share(reuse.chance(turn("t"), 0)) == (0.0, 0.0)


def test_a_thread_that_comes_back_is_learned() -> None:
    """Twenty calls twenty seconds apart: nearly certain within five minutes; for another thread of the group too."""
    reuse = Reuse()
    for number in range(20):
        reuse.saw(turn("t"), number * 20 * SECOND)
    now = 400 * SECOND
    assert share(reuse.chance(turn("t"), now))[0] > 0.9
    assert share(reuse.chance(turn("other"), now))[0] > 0.85
    assert share(reuse.chance(turn("t2", "elsewhere"), now))[0] == 0.0


def test_threads_that_end_are_counted() -> None:
    """A hundred threads of one call each: nobody comes back, and that is known five minutes later."""
    reuse = Reuse()
    for number in range(100):
        reuse.saw(turn(f"t{number}"), number * SECOND)
    assert share(reuse.chance(turn("new", goes_on=True), 10 * MINUTE)) < (0.02, 0.02)


def test_gaps_between_five_minutes_and_an_hour_speak_for_an_hour() -> None:
    """Every ten minutes: never within five, always within the hour. Every two hours: never."""
    for minutes, hourly in ((10, True), (120, False)):
        reuse = Reuse()
        for number in range(30):
            reuse.saw(turn("t"), number * minutes * MINUTE)
        five, hour = share(reuse.chance(turn("t"), 30 * minutes * MINUTE))
        assert five == 0.0
        assert hour > 0.9 if hourly else hour == 0.0


def test_a_prefix_that_changes_is_no_reuse() -> None:
    """The thread comes back at once, but with another prompt."""
    reuse = Reuse()
    for number in range(20):
        reuse.saw(turn("t"), number * SECOND, again=False)
    assert share(reuse.chance(turn("t", goes_on=True), 20 * SECOND, again=False))[0] < 0.05


def test_old_evidence_fades() -> None:
    """After three hundred returns, some fifty partings are enough to stop."""
    reuse = Reuse()
    for number in range(700):
        reuse.saw(turn("t"), number * SECOND, again=number < 300)
    assert share(reuse.chance(turn("t", goes_on=True), 700 * SECOND, again=False))[0] < 0.22


def test_other_groups_of_a_place_speak_for_a_new_one() -> None:
    """A hundred groups of one call each: nobody came back, and a new group starts from there; in another place it does not."""
    reuse = Reuse()
    for number in range(100):
        reuse.saw(turn(f"t{number}", f"g{number}", place="here", goes_on=True), number * SECOND)
    now = 10 * MINUTE
    assert share(reuse.chance(turn("new", "new", place="here", goes_on=True), now))[0] < 0.05
    assert share(reuse.chance(turn("new", "new", place="there", goes_on=True), now))[0] == 0.5
    for number in range(3):
        reuse.saw(turn("mine", "mine", place="here", goes_on=True), now + number * SECOND)
    assert share(reuse.chance(turn("next", "mine", place="here", goes_on=True), now + 5 * SECOND))[0] > 0.4


def test_groups_are_forgotten_in_turn() -> None:
    """Names come from strangers: the ten thousandth group is counted as the first one was."""
    reuse = Reuse()
    for number in range(10_000):
        reuse.saw(turn(f"t{number}", f"g{number}", place="here"), number * 1_000)
    now = 20 * MINUTE
    for number in range(20):
        reuse.saw(turn("t", "late", place="here"), now + number * SECOND)
    assert share(reuse.chance(turn("other", "late", place="here"), now + 20 * SECOND))[0] > 0.85
    assert len(reuse._counts) <= 4_000


def test_a_request_on_its_way_is_no_evidence() -> None:
    """It counts once however often it is tried, against more of its kind; five minutes later it never was."""
    reuse = Reuse()
    for number in range(9):
        for _ in range(3):
            reuse.chance(turn(f"t{number % 3}", goes_on=True), number * SECOND)
    assert share(reuse.chance(turn("new", goes_on=True), 9 * SECOND))[0] == pytest.approx(1 / 3)
    assert share(reuse.chance(turn("new", goes_on=True), 20 * MINUTE))[0] == 0.5


@given(st.lists(st.tuples(st.integers(-9, 4_000), st.integers(0, 3), st.booleans(), st.integers(0, 3)), max_size=80))
def test_chances_are_chances(events: list[tuple[int, int, bool, int]]) -> None:
    """Whatever happens: between nothing and certainty, an hour is never less likely than five minutes, and nobody waits for ever."""
    reuse = Reuse()
    now = 0
    for gap_s, key, again, what in events:
        now += gap_s * SECOND
        asked = turn(str(key), str(key % 2), place="here", goes_on=again)
        if what & 1:
            reuse.saw(asked, now, again=again)
        if what & 2:
            reuse.parted("turn", str(key))
        found = reuse.chance(asked, now, again=again)
        assert 0 <= found.five <= found.hour <= found.of
        assert found.of > 0
    reuse.chance(turn("last", "last", place="there"), now + 100 * MINUTE)
    assert sum(each.open for each in reuse._counts.values()) == 2
