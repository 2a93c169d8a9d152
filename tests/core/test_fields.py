"""Fields of a configuration: shares, and what an error calls a value."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.core.fields import choice, flag, mapping_of, share_of, whole


@pytest.mark.parametrize(
    ("written", "thousandths"),
    [
        ("80%", 800), ("80", 800), (80, 800), (" 80 % ", 800), (Decimal("99.5"), 995), (99.5, 995), (2, 20), ("1.1", 11),
        ("1%", 10), ("0.8%", 8), ("0.1%", 1), ("1000%", 10_000),
    ],
)  # fmt: skip
def test_a_share_is_a_percentage(written: Any, thousandths: int) -> None:
    assert share_of(written, "x") == thousandths


@pytest.mark.parametrize(
    ("written", "meanings"),
    [
        (0.8, "0.8% or as 80%"), ("0.8", "0.8% or as 80%"), (Decimal("0.80"), "0.8% or as 80%"), (1, "1% or as 100%"),
        ("1.0", "1% or as 100%"), (Decimal("0.05"), "0.05% or as 5%"), (0.001, "0.001% or as 0.1%"),
    ],
)  # fmt: skip
def test_a_bare_number_that_may_be_a_part_of_the_whole_is_refused(written: Any, meanings: str) -> None:
    """0.8 for 80 % would be a hundredth of what was meant."""
    with pytest.raises(ValueError, match=f"^x: '{written}' may be meant as {meanings}: write it with its %$"):
        share_of(written, "x")


@pytest.mark.parametrize(
    "written",
    [0, "0%", "-5", "1000.1%", "80.55%", "nan", "inf", "%", "", None, True, False, "1e-999999", "1e999999", "x"],
)
def test_what_is_no_share_is_told_what_one_is(written: Any) -> None:
    with pytest.raises(
        ValueError, match=r"is no share: write a percentage from 0\.1% to 1000%, in steps of 0\.1%$"
    ) as found:
        share_of(written, "x")
    assert len(str(found.value)) < 400


def test_a_field_says_its_own_bounds() -> None:
    assert [share_of(zero, "x", least=0) for zero in (0, "0", "0%", "0.0")] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="from 0% to 20%,"):
        share_of("20.1%", "x", least=0, most=200)


@given(st.integers(1, 10_000))
def test_every_share_can_be_written(thousandths: int) -> None:
    text = str(Decimal(thousandths) / 10)
    assert share_of(f"{text}%", "x") == thousandths
    if thousandths > 10:
        assert share_of(text, "x") == share_of(Decimal(text), "x") == thousandths


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"), (True, "true or false"), (3, "a whole number"), (Decimal("1.5"), "a number with decimals"),
        (1.5, "a number with decimals"), ("1h", "text"), ([1], "a list"),
    ],
)  # fmt: skip
def test_what_is_no_mapping_is_named_in_words(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"^x: expected keys with values, not {words}$"):
        mapping_of(value, "x")
    with pytest.raises(ValueError, match=f"not {words}: write this$"):
        mapping_of(value, "x", "write this")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "nothing"), (True, "true"), (Decimal("1.5"), "1.5"), (-3, "-3"), ("a" * 99, f"'{'a' * 60}'"), ([Decimal(1)], "a list"),
        ({}, "keys with values"),
    ],
)  # fmt: skip
def test_an_error_shows_a_value_as_it_was_written(value: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"^x: {shown} must be a whole number from 1 to 5$"):
        whole(value, 1, 5, "x")
    with pytest.raises(ValueError, match=f"^x: {shown} is not possible: use a, b$"):
        choice(value, ("a", "b"), "x")
    if value is not True:
        with pytest.raises(ValueError, match=f"^x: {shown} must be true or false$"):
            flag(value, "x")
