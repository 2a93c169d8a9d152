"""What makes two like-sounding questions two questions, and what does not."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.learn.guards import difference, signature, unknown_words


def between(one: str, other: str) -> str:
    return difference(signature(one), signature(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I verify my identity?", "how to verify my identity"),
        ("Where do I find my new card?", "Please, where can I locate my new card"),
        ("Why can I not do a transfer", "Why can I not make a transfer?"),
        ("I transferred some money but it hasn't arrived", "I transferred money but it has not arrived!"),
        ("Has my top-up gone through?", "has my top up gone through"),
        ("Convert twenty five miles", "convert 25 mi please"),
        ("Pay $1,000 to them", "Pay 1000 dollars to them"),
        ("What\u2019s the weather in Porto?", "what is the weather in porto"),
        ("My cards were lost", "My card was lost"),
        ("WHERE IS MY CARD", "where is my card"),
        ("Does one card do?", "Does a card do?"),
        ("Where is my card?", "Please tell me where my card is"),
    ],
)
def test_other_words_for_the_same(one: str, other: str) -> None:
    """Politeness, inflection, spelling and small words make no difference, whichever text comes first."""
    assert between(one, other) == ""
    assert between(other, one) == ""


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("Take 30 mg", "Take 60 mg", "numbers differ (30 mg / 60 mg)"),
        ("Take thirty drops", "Take forty drops", "numbers differ (30 / 40)"),
        ("Wait 5 minutes", "Wait 5 hours", "numbers differ (5 min / 5 h)"),
        ("between 5 and 10", "between 10 and 5", "numbers differ (5, 10 / 10, 5)"),
        ("It works on Monday", "It works on Friday", "times differ (weekday 1 / weekday 5)"),
        ("Is it safe?", "Isn't it safe?", "negations differ (0 / 1)"),
        ("Bread with nuts", "Bread without nuts", "negations differ (0 / 1)"),
        ("Please enable the alarm", "Please disable the alarm", "opposites: enable / disable"),
        ("Does it go up at noon", "Does it go down at noon", "opposites: increase / decrease"),
        ("Call Okonkwo about the lease", "Call Halvorsen about the lease", "names differ (halvorsen, okonkwo)"),
        ("Flights to Oslo", "Flights to Rome", "places or currencies differ (oslo / rome)"),
        ("Change euros to dollars", "Change dollars to euros", "places or currencies differ (eur, usd / usd, eur)"),
        ("Run `ls -l`", "Run `ls -a`", "quoted words or code differ (ls -l / ls -a)"),
        ('Print "yes"', 'Print "no"', "quoted words or code differ (yes / no)"),
        ("Mail ops@a.example", "Mail hr@a.example", "names, codes or addresses differ (ops@a.example / hr@a.example)"),
        ("Where is AB-12?", "Where is AB-13?", "names, codes or addresses differ (AB-12 / AB-13)"),
        ("Who broke it?", "When did it break?", "kinds of question differ (who / when)"),
        ("What breaks it?", "Where does it break?", "kinds of question differ (what / where)"),
        ("Can guests park?", "Must guests park?", "duties differ (none / must)"),
        ("Does he like her", "Does she like him", "people differ (he, her / she, him)"),
        ("Read my policy", "Read your policy", "whose it is differs (mine / yours)"),
        ("Did it rain", "Will it rain", "tenses differ (past / future)"),
        ("Rename all drafts", "Rename most drafts", "quantities differ (all / most)"),
        ("Wo ist der Zug und wann kommt er", "où est le train et quand est-ce qu'il vient", "languages differ (German / French)"),
        ("слово", "word", "scripts differ (CYRILLIC / LATIN)"),
        ("Is rye better than spelt?", "Is spelt better than rye?", "the order of words differs (rye, better, spelt / spelt, better, rye)"),
        ("Admit the guest", "Expel the guest", "only a few words differ (admit / expel)"),
        ("Close my savings account", "Close my account", "only a few words differ (sav / none)"),
    ],
)  # fmt: skip
def test_each_guard_says_what_differs(one: str, other: str, why: str) -> None:
    """Every guard refuses, in both directions, and names what it saw."""
    assert between(one, other) == why
    assert between(other, one)


def test_a_word_that_others_with_the_answer_say_or_not_is_no_difference() -> None:
    """A few differing words pass once two questions with the answer have them, and two have not."""
    asked, kept = signature("How do I reset my secret PIN?"), signature("How do I reset my PIN?")
    assert difference(asked, kept).startswith("only a few words differ")
    said = [signature("Reset of a secret PIN"), signature("My secret PIN must be reset, how?")]
    assert difference(asked, kept, [kept, said[0]]).startswith("only a few words differ")
    assert difference(asked, kept, [kept, *said]) == ""
    assert difference(signature("How do I reset 2 PINs?"), kept, [kept, *said]) == "numbers differ (2 / none)"


def test_words_that_no_question_with_the_answer_has() -> None:
    """They are named as the question has them."""
    known = [signature("Close the account"), signature("How can I close it")]
    assert unknown_words(signature("Please close the dormant accounts"), known) == ["dormant"]
    assert unknown_words(signature("closing accounts"), known) == []


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_can_be_compared(one: str, other: str) -> None:
    """Whatever is written: a signature is made, is the same the next time, has no difference to itself, and can be a key."""
    first = signature(one)
    assert first == signature(one)
    assert hash(first) == hash(signature(one))
    assert difference(first, first) == ""
    assert isinstance(difference(first, signature(other)), str)
    assert pickle.loads(pickle.dumps(first)) == first


@given(
    st.text(alphabet="abc 123.,'`\"-_/$€%éß中", max_size=60), st.text(alphabet="abc 123.,'`\"-_/$€%éß中", max_size=60)
)
def test_refusing_does_not_depend_on_who_was_first(one: str, other: str) -> None:
    """A difference is one from both sides."""
    assert bool(between(one, other)) == bool(between(other, one))


def test_signatures_are_the_same_in_every_process() -> None:
    """Nothing of a signature depends on the process's hash seed."""
    code = "from bursar.learn.guards import signature; print(signature('Pay Ann 3 euros, never Bob; all of it on May 3rd')[:-1])"
    seen = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout.count("eur")
        for seed in ("1", "2")
    }  # fmt: skip
    assert seen == {1}


def test_no_text_takes_long() -> None:
    """No pattern goes back and forth: whatever repeats, ten thousand characters are read in a moment."""
    for text in (
        "a" * 40_000,
        "a_" * 20_000,
        "1." * 20_000,
        "a-" * 20_000,
        "'" * 40_000,
        "/a" * 20_000,
        "a.a" * 13_000,
    ):
        signature(text[:10_000])
