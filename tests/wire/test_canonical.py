"""The key of a request in the cache: the same for the same JSON, another for anything that could change an answer."""

from __future__ import annotations

import contextlib
import json
import random
import time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bursar.wire.canonical import cache_key, digest, volatile_pattern
from bursar.wire.dialect import BadRequest

NEUTRAL = (
    "user", "metadata", "stream_options", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
    "labels",
)  # fmt: skip

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
bodies = st.dictionaries(
    st.sampled_from(["model", "messages", "temperature", "tools", "seed", "contents"]) | texts, values, max_size=6
)


few = settings(max_examples=40)


def key(body: bytes | dict[str, Any], **more: Any) -> str:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    about = {"tenant": "t", "route": "r", "path": "/v1/x", "stream": False, "volatile": ()} | more
    return cache_key(raw, **about).key


def written(value: Any, draw: random.Random) -> str:
    """The same JSON in another writing: keys in any order, any spacing, any escapes."""

    def space() -> str:
        return draw.choice(["", "", " ", "\n", "\t \r\n"])

    match value:
        case dict():
            items = list(value.items())
            draw.shuffle(items)
            inner = ",".join(
                f"{space()}{text(name, draw)}{space()}:{space()}{written(each, draw)}{space()}" for name, each in items
            )
            return "{" + (inner or space()) + "}"
        case list():
            return "[" + (",".join(f"{space()}{written(each, draw)}{space()}" for each in value) or space()) + "]"
        case str():
            return text(value, draw)
        case _:
            return json.dumps(value)


def text(value: str, draw: random.Random) -> str:
    return (
        '"'
        + "".join(_escaped(each) if draw.random() < 0.3 or each in '"\\' or ord(each) < 32 else each for each in value)
        + '"'
    )


def _escaped(sign: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in _units(sign))


def _units(sign: str) -> list[int]:
    raw = sign.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


@few
@given(bodies, st.randoms(use_true_random=False))
def test_the_same_json_in_any_writing_has_one_key(body: dict[str, Any], draw: random.Random) -> None:
    assert key(written(body, draw).encode()) == key(body)


@few
@given(bodies, bodies)
def test_other_json_has_another_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    kept = [{name: value for name, value in body.items() if name not in NEUTRAL} for body in (one, other)]
    assume(_same(kept[0]) != _same(kept[1]))
    assert key(one) != key(other)


def _same(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@few
@given(bodies, texts, values)
def test_one_field_more_is_another_request_unless_it_is_neutral(body: dict[str, Any], name: str, value: Any) -> None:
    assume(name not in body)
    assert (key(body | {name: value}) == key(body)) == (name in NEUTRAL)


@few
@given(bodies, st.sampled_from(NEUTRAL), values)
def test_what_cannot_change_an_answer_changes_nothing(body: dict[str, Any], name: str, value: Any) -> None:
    assert key(body | {name: value}) == key({other: each for other, each in body.items() if other != name})


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_name_deeper_down_is_not_neutral(name: str) -> None:
    assert key({"messages": [{name: 1}]}) != key({"messages": [{name: 2}]})
    assert key({"generationConfig": {name: 1}}) != key({"generationConfig": {}})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a": 1}', b'{"a": "1"}'), (b'{"a": 0}', b'{"a": false}'), (b'{"a": null}', b"{}"), (b'{"a": [1, 2]}', b'{"a": [2, 1]}'),
        (b'{"a": 100000000000000000001}', b'{"a": 100000000000000000002}'), (b'{"a": "x"}', b'{"a": "x "}'),
        (b'{"a": "\\u00e9"}', b'{"a": "e\\u0301"}'), (b'{"a": "A"}', b'{"a": "a"}'), (b'{"a": {"b": 1}}', b'{"a": [{"b": 1}]}'),
        (b'{"a": "\\u0000"}', b'{"a": ""}'), (b'{"a": "1\\",\\"b\\":\\"2"}', b'{"a": "1", "b": "2"}'),
    ],
)  # fmt: skip
def test_what_looks_alike_is_not_the_same(one: bytes, other: bytes) -> None:
    assert key(one) != key(other)


@given(texts, texts, texts, texts, texts, texts)
def test_tenant_route_and_path_are_apart_whatever_their_names(a: str, b: str, c: str, d: str, e: str, f: str) -> None:
    """No text of one can stand in for a text of another: ``ab, c`` is not ``a, bc``."""
    assume((a, b, c) != (d, e, f))
    assert key({}, tenant=a, route=b, path=c) != key({}, tenant=d, route=e, path=f)


@few
@given(bodies)
def test_a_stream_is_kept_apart_from_a_whole_answer(body: dict[str, Any]) -> None:
    assert key(body, stream=True) != key(body)
    assert len(key(body)) == 40


@given(st.lists(st.binary(max_size=5), max_size=5), st.lists(st.binary(max_size=5), max_size=5))
def test_a_digest_is_of_a_list_of_parts(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


# --- what the provider keeps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conversation", "background", "container"])
def test_what_depends_on_what_the_provider_keeps_is_said(name: str) -> None:
    """Asked again, the same words get another answer."""

    def stateful(**body: Any) -> str:
        raw = json.dumps(body).encode()
        return cache_key(raw, tenant="t", route="r", path="p", stream=False, volatile=()).stateful

    assert stateful(input="go on", **{name: "conv_1"}) == name
    assert stateful(input="go on", **{name: None}) == stateful(previous_response_id="r") == ""


def test_what_an_answer_leaves_behind_is_part_of_it() -> None:
    """An answer that was never stored has an id that leads nowhere."""
    assert key({"input": "a", "store": True}) != key({"input": "a", "store": False})


# --- volatile parts ---------------------------------------------------------------------------------------------

VOLATILE = (r"request [0-9a-f]{8}", r"\d{4}-\d\d-\d\d")


def test_declared_parts_may_differ_and_nothing_else() -> None:
    def of(text: str) -> tuple[str, bool]:
        found = cache_key(
            json.dumps({"q": text}).encode(), tenant="t", route="r", path="p", stream=False, volatile=VOLATILE
        )
        return found.key, found.templated

    one = of("on 2026-11-26, request 0123abcd: 3")
    assert one == of("on 1999-01-01, request ffffffff: 3")
    assert one[1]
    assert of("on 2026-11-26, request 0123abcd: 4")[0] != one[0]
    assert of("on , request 0123abcd: 3")[0] != one[0], "it has to be there"
    assert not of("nothing of the kind")[1]


def test_no_text_of_a_client_takes_long_whatever_the_pattern() -> None:
    """A pattern whose search doubles with each letter elsewhere."""
    began = time.perf_counter()
    for length in (28, 20_000):
        key({"q": "a" * length + "b"}, volatile=[r"(a+)+\$"])
    assert time.perf_counter() - began < 5
    with pytest.raises(ValueError, match=r"look-around\): invalid perl operator: \(\?=$"):
        volatile_pattern("(?=a)b")


@given(texts)
def test_no_text_can_pretend_to_be_a_part_that_was_taken_out(said: str) -> None:
    """What stands for a part is a byte that JSON never has."""
    taken = key({"q": "2026-11-26"}, volatile=VOLATILE)
    assume(said != "2026-11-26")
    assert key({"q": said}, volatile=VOLATILE) != taken
    assert key({"q": "\0"}, volatile=VOLATILE) != taken


# --- chance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sampled"),
    [
        ({}, True), ({"temperature": 0}, False), ({"temperature": 0.0}, False), ({"temperature": -0.0}, False),
        ({"temperature": 0.1}, True), ({"temperature": None}, True), ({"temperature": "0"}, True),
        ({"generationConfig": {"temperature": 0}}, False), ({"generationConfig": {}}, True),
        ({"generationConfig": {}, "temperature": 0}, True), ({"generation_config": {"temperature": 0}}, False),
        ({"generationConfig": "x", "temperature": 0}, False),
    ],
)  # fmt: skip
def test_an_answer_is_drawn_at_random_unless_the_temperature_is_zero(body: dict[str, Any], sampled: bool) -> None:
    found = cache_key(json.dumps(body).encode(), tenant="", route="", path="", stream=False, volatile=())
    assert found.sampled is sampled


# --- hostile bodies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'"x"', b"{", b'{"a":1}x', b'{"a":NaN}', b'{"a":1e999}', b'{"a":"\xff"}', b'{"a":"\\ud800"}',
        b'\xef\xbb\xbf{"a":1}', b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' * 100_000, b"\0" * 1_000,
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        key(body)


@given(st.binary(max_size=200))
def test_any_bytes_have_a_key_or_are_a_bad_request(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert len(key(body)) == 40


def test_a_deep_body_has_a_key() -> None:
    assert key(b'{"a":' + b"[" * 400 + b"]" * 400 + b"}") != key(b'{"a":' + b"[" * 399 + b"]" * 399 + b"}")


def test_a_large_body_takes_time_in_proportion() -> None:
    """Twenty megabytes in well under a second, and many keys that nearly collide."""
    body = {f"k{number:07}": "x" * 100 for number in range(150_000)}
    raw = json.dumps(body).encode()
    began = time.perf_counter()
    key(raw)
    assert time.perf_counter() - began < 5


def test_ten_kilobytes_take_less_than_three_hundred_microseconds() -> None:
    """The best of many, on a machine that does other things too."""
    messages = [{"role": "user", "content": f"line {number}: " + "hello world " * 8} for number in range(72)]
    raw = json.dumps({"model": "m", "temperature": 0, "messages": messages}).encode()
    assert 9_500 < len(raw) < 11_500
    best = min(_timed(raw) for _ in range(300))
    assert best < 300e-6


def _timed(raw: bytes) -> float:
    began = time.perf_counter()
    cache_key(raw, tenant="t", route="r", path="p", stream=False, volatile=())
    return time.perf_counter() - began
