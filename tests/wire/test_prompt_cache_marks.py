"""Marks in requests: where they may stand, and that nothing else changes."""

from __future__ import annotations

import gzip
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.prompt_cache import Ttl
from bursar.learn.prefixes import ORDERS, read_prompt
from bursar.wire.anthropic import DIALECT
from bursar.wire.prompt_cache import Layout, Placement, Spot, marks, place
from bursar.wire.shaping import with_short_cache

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
RECORDED = DATA / "wire/interactions.jsonl.gz"
TOOL = {"name": "read", "input_schema": {"type": "object"}}
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def claude(messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-4-5", "max_tokens": 10, **fields, "messages": messages}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def says(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def layout(body: bytes) -> Layout:
    prompt = read_prompt(body, ORDERS["anthropic"])
    assert prompt is not None
    return Layout(prompt)


def marked(body: bytes, *spots: tuple[Spot | None, Ttl]) -> bytes:
    return place("anthropic", body, Placement(tuple((spot, ttl) for spot, ttl in spots if spot is not None)))


def without_marks(value: Any) -> Any:
    """The value as it was: no marks, and a text where one was made a block to be marked."""
    if isinstance(value, dict):
        return {key: without_marks(each) for key, each in value.items() if key != "cache_control"}
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], dict) and set(value[0]) == {"type", "text", "cache_control"}:
            return ("was a text, or one block", value[0]["text"])
        return [without_marks(each) for each in value]
    return value


def test_each_place_is_marked() -> None:
    """The last tool, the system text, the last turn; an hour is written out, five minutes are the default."""
    body = json.dumps(
        claude([user(says("a"), says("b"))], system="be brief", tools=[TOOL, {**TOOL, "name": "b"}])
    ).encode()
    at = layout(body)
    got = json.loads(marked(body, (at.turn(), "5m"), (at.tools(), "1h"), (at.system(), "1h")))
    assert got["tools"] == [TOOL, {**TOOL, "name": "b", "cache_control": HOUR}]
    assert got["system"] == [{"type": "text", "text": "be brief", "cache_control": HOUR}]
    assert got["messages"] == [user(says("a"), {**says("b"), "cache_control": MARK})]


def test_a_bare_text_becomes_the_block_it_is_short_for() -> None:
    """Only a block can be marked: the text keeps its bytes, escapes and all."""
    body = b'{"model":"m","messages":[ {"role":"user","content": "caf\\u00e9 \\"x\\""} ]}'
    got = marked(body, (layout(body).turn(), "5m"))
    assert got == (
        b'{"model":"m","messages":[ {"role":"user","content": [{"type":"text","text":"caf\\u00e9 \\"x\\"",'
        b'"cache_control":{"type":"ephemeral"}}]} ]}'
    )


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        says(""),
        says(" \n"),
        {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}},
    ],
)
def test_what_cannot_be_marked_is_passed_over(block: dict[str, Any]) -> None:
    """Thoughts and blank texts are refused with a mark: the block before them has it."""
    body = json.dumps(claude([user(says("a"), block)])).encode()
    got = json.loads(marked(body, (layout(body).turn(), "5m")))
    assert got["messages"][0]["content"] == [{**says("a"), "cache_control": MARK}, block]
    alone = json.dumps(claude([user(block)])).encode()
    assert layout(alone).turn() is None


def test_a_deferred_tool_has_no_mark() -> None:
    """A tool that is looked up when it is needed is no part of the prefix."""
    body = json.dumps(claude([user(says("a"))], tools=[TOOL, {**TOOL, "name": "b", "defer_loading": True}])).encode()
    got = json.loads(marked(body, (layout(body).tools(), "5m")))
    assert ["cache_control" in tool for tool in got["tools"]] == [True, False]


@pytest.mark.parametrize("other", ["note", 'a"content', "contents"])
def test_the_content_is_marked_and_nothing_that_looks_like_it(other: str) -> None:
    """Another member of the same value behind it keeps its bytes."""
    same = [says("a")]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": same, other: same}]}).encode()
    got = json.loads(marked(body, (layout(body).turn(), "5m")))["messages"][0]
    assert got == {"role": "user", "content": [{**says("a"), "cache_control": MARK}], other: same}


def test_the_turn_is_the_users_last() -> None:
    """What the assistant's answer is begun with stands behind the mark."""
    body = json.dumps(claude([user(says("a")), {"role": "assistant", "content": "{"}])).encode()
    got = json.loads(marked(body, (layout(body).turn(), "5m")))
    assert "cache_control" in got["messages"][0]["content"][0]
    assert got["messages"][1] == {"role": "assistant", "content": "{"}


def test_boundary_is_the_last_block_within_what_is_shared() -> None:
    """A block is shared whole or not at all."""
    body = json.dumps(
        claude([user(says("a"), says("b")), {"role": "assistant", "content": "c"}, user(says("d"))])
    ).encode()
    at = layout(body)
    whole = at.prompt.size
    spots = {at.boundary(size) for size in range(whole + 1)}
    ends = sorted(spot.end for spot in spots if spot is not None)
    assert len(ends) == 4
    for size in range(whole + 1):
        spot = at.boundary(size)
        assert (spot.end if spot else 0) == max((end for end in ends if end <= size), default=0)


def test_only_what_is_new_is_looked_at() -> None:
    """With the end of the earlier prompt known, the same turn is found; also where nothing new is the user's."""
    first = [user(says("a" * 200)), {"role": "assistant", "content": "b"}]
    for more in ([user(says("c"))], [{"role": "assistant", "content": "{"}], []):
        body = json.dumps(claude([*first, *more])).encode()
        prompt = read_prompt(body, ORDERS["anthropic"])
        before = read_prompt(json.dumps(claude(first)).encode(), ORDERS["anthropic"])
        assert prompt is not None
        assert before is not None
        assert Layout(prompt, before.size - 1).turn() == layout(body).turn()


def test_blocks_between_are_never_too_few() -> None:
    """More blocks than there are only cost a mark that nobody needs; fewer would lose what is kept."""
    results = [{"type": "tool_result", "tool_use_id": str(n), "content": "x"} for n in range(19)]
    body = json.dumps(claude([user(says("a")), {"role": "assistant", "content": "b"}, user(*results)])).encode()
    at = layout(body)
    first = layout(json.dumps(claude([user(says("a"))])).encode()).turn()
    last = at.turn()
    assert first is not None
    assert last is not None
    assert at.blocks_between(first, last) >= 20


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (claude([user(says("a"))]), 0),
        (claude([user(says('"cache_control"'))]), 0),
        (claude([user(says("a"))], cache_control=MARK), 1),
        (claude([user(says("a"))], cache_control=None), 0),
        (claude([user({**says("a"), "cache_control": MARK})], system=[{**says("s"), "cache_control": HOUR}]), 2),
        (claude([user({"type": "tool_result", "content": [{**says("a"), "cache_control": MARK}]})]), 1),
        (claude([user(says("a"))], tools=[{**TOOL, "cache_control": MARK}]), 1),
        (claude([user(says("a"))], tools=[{"name": "x", "input_schema": {"properties": {"cache_control": {}}}}]), 0),
    ],
)
def test_a_clients_marks_are_counted(body: dict[str, Any], count: int) -> None:
    """Marks count, wherever they stand; words that look like one do not."""
    assert marks(json.dumps(body).encode()) == count


BLOCKS = st.one_of(
    st.builds(says, st.text()),
    st.builds(lambda text: {"type": "tool_result", "tool_use_id": "1", "content": text}, st.text()),
    st.just({"type": "thinking", "thinking": "hm", "signature": "s"}),
    st.builds(lambda text: {"text": text, "type": "text", "citations": []}, st.text()),
)
CONTENT = st.one_of(st.text(), st.lists(BLOCKS, max_size=4))
MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"content": content, "role": role}, st.sampled_from(["user", "assistant"]), CONTENT
    ),
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("claude-sonnet-4-5"), "messages": MESSAGES},
    optional={
        "system": CONTENT,
        "tools": st.lists(st.just(TOOL), max_size=3),
        "thinking": st.just({"type": "adaptive"}),
        "metadata": st.dictionaries(st.text(), st.text(), max_size=2),
    },
)


@given(BODIES, st.sampled_from([None, 1]), st.booleans(), st.randoms(use_true_random=False))
def test_bytes_are_only_put_in(made: dict[str, Any], indent: int | None, ascii_only: bool, draw: Any) -> None:
    """Whatever the spelling: the bytes of the body are all there in their order, its meaning differs in marks alone."""
    items = list(made.items())
    draw.shuffle(items)
    body = json.dumps(dict(items), indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    if b"\xed" in body:
        return  # a lone surrogate is no UTF-8
    at = layout(body)
    spots = {
        spot for spot in (at.tools(), at.system(), at.boundary(at.prompt.size // 2), at.turn()) if spot is not None
    }
    got = marked(body, *((spot, "5m") for spot in spots))
    assert marks(got) == len(spots)
    rest = iter(got)
    assert all(byte in rest for byte in body)
    assert without_marks(json.loads(got)) == _with_texts_like(json.loads(got), made)
    facts = DIALECT.read_request("/v1/messages", got)
    assert facts.writes_cache == (("cache_write_tokens", "cache_write_5m_tokens") if spots else ())


def _with_texts_like(got: Any, made: Any) -> Any:
    """What was made, with a marked text written as ``without_marks`` writes it."""
    if isinstance(got, dict) and isinstance(made, dict):
        return {key: _with_texts_like(got.get(key), each) for key, each in made.items()}
    if isinstance(got, list):
        if without_marks(got).__class__ is tuple:
            return ("was a text, or one block", made if isinstance(made, str) else made[0]["text"])
        return [_with_texts_like(one, each) for one, each in zip(got, made, strict=True)]
    return deepcopy(made)


@given(st.lists(BODIES, min_size=2, max_size=2), st.booleans(), st.data())
def test_a_spot_of_another_body_breaks_nothing(made: list[dict[str, Any]], listed: bool, draw: st.DataObject) -> None:
    """A mark is written where a block ends in this very body, or not at all."""
    first, second = (json.dumps(each, indent=1 if listed else None).encode() for each in made)
    at = layout(first)
    found = (at.tools(), at.system(), at.boundary(at.prompt.size // 2), at.turn())
    spots: list[Spot] = [spot for spot in found if spot is not None]
    size = layout(second).prompt.size
    for part in ("tools", "system", "messages"):
        ends = sorted((draw.draw(st.integers(0, size)), draw.draw(st.integers(0, size))))
        spots.append(Spot(part, *ends, bare=draw.draw(st.booleans())))
    for spot in spots:
        got = marked(second, (spot, "5m"))
        assert got is second or marks(got) == 1
        assert without_marks(json.loads(got)) == _with_texts_like(json.loads(got), made[1])


@pytest.mark.parametrize("value", ['"x","content":"y"', '"{}","a":"content","b":"y"'])
def test_what_only_looks_like_a_block_is_none(value: str) -> None:
    """Each run of bytes that is taken for a spot: the body is what it was, or has one mark where one can stand."""
    body = f'{{"system":"s","messages":[{{"role":"user","content":{value}}}]}}'.encode()
    size = layout(body).prompt.size
    for start in range(size):
        for end in range(start + 1, size + 1):
            for bare in (False, True):
                got = marked(body, (Spot("messages", start, end, bare), "5m"))
                assert got is body or json.loads(got).keys() == json.loads(body).keys()


def test_two_marks_never_stand_in_one_place() -> None:
    """A key that comes twice would be refused."""
    body = json.dumps(claude([user(says("a"))])).encode()
    turn = layout(body).turn()
    assert marked(body, (turn, "5m"), (turn, "1h")) is body


@pytest.mark.parametrize("message", [b'{"content":"y","content":"x","role":"user"}', b'{"content":"x","role":"user","role":"user"}'])  # fmt: skip
def test_a_message_with_a_repeated_key_has_no_place(message: bytes) -> None:
    """Which of them counts is for the provider to say."""
    body = b'{"model":"m","messages":[{"role":"assistant","content":"\\"" },' + message + b"]}"
    assert layout(body).turn() is None


def test_an_hour_can_be_shortened_by_a_budget() -> None:
    """The rung of a budget that keeps caches short finds the marks that are written here."""
    body = json.dumps(claude([user(says("a"))], system="s")).encode()
    at = layout(body)
    got = json.loads(with_short_cache(marked(body, (at.system(), "1h"), (at.turn(), "5m"))))
    assert got["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "5m"}


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded requests in {RECORDED}: set BURSAR_SHARED_DATA")
def test_recorded_requests_can_be_marked() -> None:
    """Every recorded messages request without marks of its own: each place is found, and only marks are added."""
    seen = 0
    with gzip.open(RECORDED, "rt") as lines:
        for row in map(json.loads, lines):
            request = row["request"]
            if row["host"] != "api.anthropic.com" or not isinstance(request, dict) or "messages" not in request:
                continue
            body = json.dumps(request).encode()
            if marks(body):
                continue
            at = layout(body)
            spots = {spot for spot in (at.tools(), at.system(), at.turn()) if spot is not None}
            got = marked(body, *((spot, "1h") for spot in spots))
            assert marks(got) == len(spots) > 0
            assert without_marks(json.loads(got)) == _with_texts_like(json.loads(got), request)
            seen += 1
    assert seen > 100


def test_a_key_is_put_where_there_is_none() -> None:
    """An OpenAI body gets the key at its end; one that has its own keeps it, byte for byte."""
    body = b'{"model": "gpt-5", "messages": []}'
    got = place("openai_chat", body, Placement(key="abc"))
    assert got == b'{"model": "gpt-5", "messages": [],"prompt_cache_key":"abc"}'
    assert place("openai_responses", got, Placement(key="other")) is got
    for twice in (b'{"prompt_cache_key":"mine","seed":1,"seed":2}', b'{"seed":1,"seed":2}'):
        assert place("openai_chat", twice, Placement(key="abc")) is twice
    null = b'{"model":"gpt-5","prompt_cache_key":null}'
    assert json.loads(place("openai_chat", null, Placement(key="abc")))["prompt_cache_key"] == "abc"


@pytest.mark.parametrize("dialect", ["gemini", "bedrock_converse", "openai_embeddings", "anthropic_count_tokens"])
def test_other_dialects_stay_as_they_are(dialect: str) -> None:
    """Gemini caches by itself; a count of tokens caches nothing."""
    body = json.dumps(claude([user(says("a"))])).encode()
    assert place(dialect, body, Placement(((Spot("messages", 0, 1), "5m"),), "key")) is body
