"""What makes two like-sounding questions two questions, and what does not."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.learn.guards import difference, signature, unknown_words

# No polite words, no two ways to say one thing, nothing that is layout at the end of a word.
WORDS = (
    "I", "you", "me", "my", "us", "US", "it", "IT", "to", "from", "by", "for", "and", "or", "a", "the", "A", "M", "not", "is", "was", "are",
    "what", "who", "can", "park", "parking", "plan", "plane", "news", "new", "C", "C#", "C++", "+", "*", "<", "5", "50", "7 km", "7 mi", "und",
    "Will", "will", "\U0001f44d", "\U0001f44e", "a.b", "x_y", "B12", "`x`", '"x"', "one", "six", "n\u0303\u0304", "Polish", "polish", "\u00d8l",
)  # fmt: skip


def between(one: str, other: str) -> str:
    return difference(signature(one), signature(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I verify my identity?", "how to verify my identity"),
        ("Where is my new card?", "Please, where is my new card"),
        ("Where is my new card?", "Hello! Where is  my new card? Thanks."),
        ("Where is my card?", "Quick question: where is my card"),
        ("Wo ist meine Karte?", "Bitte, wo ist meine Karte?"),
        ("I transferred money but it hasn't arrived", "I transferred money but it has not arrived."),
        ("I cannot log in.", "i can't log in"),
        ("Hi, what is Greek?", "What is Greek?"),
        ("Pay five dollars now", "Pay $5 now"),
        ("Convert twenty five miles", "convert 25 mi, please"),
        ("Is 250 enough", "Is two hundred and fifty enough?"),
        ("Pay $1000 to them", "Pay 1000 dollars to them"),
        ("What\u2019s the weather in Porto?", "what is the weather in Porto"),
        ("caf\u00e9 near me", "cafe\u0301 near me"),
        (
            "\u0433\u0434\u0435 \u043c\u043e\u044f \u043a\u0430\u0440\u0442\u0430",
            "\u0413\u0434\u0435  \u043c\u043e\u044f \u043a\u0430\u0440\u0442\u0430.",
        ),
    ],
)
def test_other_words_for_the_same(one: str, other: str) -> None:
    """Politeness, contractions, numbers in words and layout make no difference, whichever text comes first."""
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
        ("Run `ls -l`", "Run `ls -a`", "quoted words or code differ (`ls -l` / `ls -a`)"),
        ('Print "yes"', 'Print "no"', 'quoted words or code differ ("yes" / "no")'),
        ("Mail ops@a.example", "Mail hr@a.example", "names, codes or addresses differ (ops@a.example / hr@a.example)"),
        ("Where is AB-12?", "Where is AB-13?", "names, codes or addresses differ (AB-12 / AB-13)"),
        ("Who breaks it?", "When does it break?", "kinds of question differ (?, who / ?, when)"),
        ("What breaks it?", "Where does it break?", "kinds of question differ (?, what / ?, where)"),
        ("Can guests park?", "Must guests park?", "duties differ (none / must)"),
        ("Does he like her", "Does she like him", "people differ (he, her / she, him)"),
        ("Read my policy", "Read your policy", "people differ (my / your)"),
        ("My order shipped and was paid", "My order shipped and will be paid", "tenses differ (past / future)"),
        ("Rename all drafts", "Rename most drafts", "quantities differ (all / most)"),
        ("Wo ist der Zug und wann kommt er", "où est le train et quand est-ce qu'il vient", "languages differ (German / French)"),
        ("слово", "word", "scripts differ (CYRILLIC / LATIN)"),
        ("Is rye better than spelt?", "Is spelt better than rye?", "the order of words differs (is, rye, better, than, spelt / is, spelt, better, than, rye)"),
        ("Admit the guest", "Expel the guest", "words differ (admit / expel)"),
        ("Close my savings account", "Close my account", "words differ (savings / none)"),
        ("Is it at risk", "Is it not? At risk", "negations differ (0 / 1)"),
        ("Sort in C", "Sort in C++", "signs differ (none / ++)"),
        ("Size S of it", "Size M of it", "short names differ (S / M)"),
        ("Do you ship to us", "Do you ship to US", "short names differ (none / US)"),
        ("Moved to my pension", "Moved from my pension", "prepositions or conjunctions differ (to / from)"),
        ("Do I owe you", "Do you owe me", "people differ (i, you / you, me)"),
        ("Can I get one here", "How can I get one here", "kinds of question differ (? / ?, how)"),
        ("My card was sent", "My card was sent?", "kinds of question differ (none / ?)"),
        ("near a park", "near a parking", "words differ (park / parking)"),
        ("\u0431\u0430\u043d\u043a", "\u0431\u0430\u043a", "words differ (\u0431\u0430\u043d\u043a / \u0431\u0430\u043a)"),
    ],
)  # fmt: skip
def test_each_guard_says_what_differs(one: str, other: str, why: str) -> None:
    """Every guard refuses, in both directions, and names what it saw."""
    assert between(one, other) == why
    assert between(other, one)


def test_a_question_between_two_with_the_answer_has_it() -> None:
    """What one of them says it says, what it says the other says: in both directions, in their order, and in English."""
    less, more = signature("How do I reset my PIN?"), signature("My secret PIN, how do I reset it online?")
    most = signature("How do I reset my secret PIN online?")
    asked = signature("How do I reset my secret PIN?")
    assert difference(asked, less).startswith("words differ")
    assert difference(asked, less, [less, more]).startswith("words differ")
    assert difference(asked, less, [less, most]) == ""
    assert difference(asked, most, [most]).startswith("words differ")
    assert difference(asked, most, [most, less]) == ""
    assert difference(signature("How do I reset my own secret PIN?"), less, [less, most]).startswith("words differ")
    assert difference(signature("How do I reset my PIN secret?"), less, [less, most]).startswith("words differ")


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (("Can cats eat grapes?", "Can dogs eat apples?", "Can dogs eat beef?"), "Can dogs eat grapes?"),
        (("Can dogs eat potatoes?", "Can dogs eat raw beef?", "Can dogs eat raw fish?"), "Can dogs eat raw potatoes?"),
        (("Can dogs eat potatoes?", "Is it bad if dogs eat raw potatoes?"), "Can dogs eat raw potatoes?"),
        (("Can dogs eat potatoes?", "Why can dogs never eat raw potatoes?"), "Can dogs eat raw potatoes?"),
        (("Can I send you a parcel?", "Can you send me a bill?", "Can you send me a big parcel?"), "Can you send me a pink parcel?"),
        (("Can I send you a parcel?", "Can you call me?", "Can you bill me?"), "Can you send me a parcel?"),
        (("How do I pay from my savings?", "How do I pay to my savings at home?"), "How do I pay at my savings?"),
        (("How do I reset 2 PINs?", "How do I reset 2 secret PINs online?"), "How do I reset 3 secret PINs?"),
        (("How do I reset it?", "How do I not reset it online now?"), "How do I reset it online?"),
    ],
)  # fmt: skip
def test_questions_with_one_answer_do_not_excuse_another(known: tuple[str, ...], asked: str) -> None:
    """That words, or who does it to whom, were seen with the answer elsewhere says nothing of the question they make together."""
    read = [signature(each) for each in known]
    assert all(difference(signature(asked), each, read) for each in read)


def test_in_other_languages_no_word_is_waived() -> None:
    """Where small words are not known, standing between two questions is not enough."""
    less, more = signature("Wie kann ich die Karte sperren"), signature("Wie kann ich die neue Karte sofort sperren")
    assert difference(signature("Wie kann ich die neue Karte sperren"), less, [less, more]).startswith("words differ")


def test_words_that_no_question_with_the_answer_has() -> None:
    """They are named as the question has them."""
    known = [signature("Close the account"), signature("How can I close it")]
    assert unknown_words(signature("Please close the dormant accounts"), known) == ["dormant"]
    assert unknown_words(signature("close account"), known) == []


@given(st.lists(st.sampled_from(WORDS), min_size=2, max_size=9), st.data())
def test_every_word_counts_and_so_does_its_place(words: list[str], data: st.DataObject) -> None:
    """Whatever one word or sign of a text is replaced with, left out, or exchanged with: alone, no text stands for the other."""
    place, other = data.draw(st.integers(0, len(words) - 1)), data.draw(st.integers(0, len(words) - 1))
    replaced, exchanged = list(words), list(words)
    replaced[place] = data.draw(st.sampled_from(WORDS))
    exchanged[place], exchanged[other] = words[other], words[place]
    for changed in (replaced, exchanged, words[:place] + words[place + 1 :]):
        same = between(" ".join(["see", *words]), " ".join(["see", *changed])) == ""
        assert same == (words == changed)


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
    code = "from bursar.learn.guards import signature; print(signature('Pay Ann 3 euros, never Bob; all of it on May 3rd')[:4])"
    seen = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1
    assert "3 eur" in seen.pop()


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
