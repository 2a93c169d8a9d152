"""Usage: every unit has one name, one place and one meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.prices import BASIS
from bursar.core.usage import NO_USAGE, UNIT_INDEX, UNITS, Unit, Usage, contains

ANY = st.sampled_from(UNITS)


def test_fields_and_units_are_the_same_in_the_same_order() -> None:
    """A count is found by the unit's index, so the two lists must not drift apart."""
    assert Usage._fields == tuple(unit.name for unit in UNITS)
    assert {name: index for index, name in enumerate(Usage._fields)} == UNIT_INDEX
    assert set(BASIS) == set(UNIT_INDEX)


def test_no_two_units_mean_the_same() -> None:
    """Dimensions are unique: otherwise a count would belong to two units."""
    assert len({unit.dimensions for unit in UNITS}) == len(UNITS)


@given(a=ANY, b=ANY, c=ANY)
def test_containment_is_a_partial_order(a: Unit, b: Unit, c: Unit) -> None:
    """A unit contains itself; two that contain each other are one; what is inside the inner is inside the outer."""
    assert contains(a, a)
    if contains(a, b) and contains(b, a):
        assert a == b
    if contains(a, b) and contains(b, c):
        assert contains(a, c)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("input_tokens", "cache_read_tokens", True),
        ("input_tokens", "cache_write_1h_tokens", True),
        ("cache_write_tokens", "cache_write_5m_tokens", True),
        ("cache_read_tokens", "cache_read_audio_tokens", True),
        ("input_audio_tokens", "cache_read_audio_tokens", True),
        ("output_tokens", "reasoning_tokens", True),
        ("output_tokens", "input_tokens", False),
        ("cache_read_tokens", "cache_write_tokens", False),
        ("audio_ms", "input_audio_ms", True),
        ("document_pages", "annotated_document_pages", True),
        ("machine_ms", "audio_ms", False),
    ],
)
def test_what_is_part_of_what(outer: str, inner: str, *, expected: bool) -> None:
    """The pairs a bill depends on."""
    assert contains(UNITS[UNIT_INDEX[outer]], UNITS[UNIT_INDEX[inner]]) is expected


def test_counts_names_what_is_there() -> None:
    """Zeros are left out; nothing is nothing."""
    usage = Usage(input_tokens=10, cache_read_tokens=4, cache_write_tokens=1, web_searches=2)
    assert usage.counts() == {"input_tokens": 10, "cache_read_tokens": 4, "cache_write_tokens": 1, "web_searches": 2}
    assert usage.uncached_input_tokens == 5
    assert NO_USAGE.counts() == {}
