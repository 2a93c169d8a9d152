"""Answers to similar questions: what is found, what is decided, and what is forgotten."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from bursar.learn.ngrams import hashed_ngrams
from bursar.learn.semantic import Match, SimilarAnswers

ERRORS = 0.1


class Desk:
    """A route whose questions come in by their texts."""

    def __init__(self, answers: SimilarAnswers | None = None) -> None:
        self.answers = SimilarAnswers() if answers is None else answers

    def find(
        self,
        text: str,
        *,
        space: str = "a",
        draw: float = 0.99,
        route: str = "route",
        errors: float = ERRORS,
        setting: str = "",
    ) -> Match | None:
        vector = hashed_ngrams([text])[0]
        return self.answers.find(space, route, text, vector, delta=errors, draw=draw, shadow=0.05, setting=setting)

    def add(self, key: str, text: str, *, space: str = "a", answer: str = "") -> bool:
        return self.answers.add(space, key, text, hashed_ngrams([text])[0], answer=answer)

    def teach(self, text: str, asked: str, checks: int = 300) -> None:
        """Checks that agree."""
        self.add("taught", text)
        for _ in range(checks):
            match = self.find(asked, draw=0.0)
            assert match is not None
            assert match.shadow
            self.answers.record("route", match, True)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_nothing_is_served_before_evidence(desk: Desk) -> None:
    """A candidate is checked, whatever the draw, and says how much evidence is missing."""
    desk.add("one", "How do I reset my PIN?")
    match = desk.find("please, how do I reset my PIN")
    assert match is not None
    assert (match.key, match.serve, match.shadow) == ("one", False, True)
    assert match.why.startswith("declined: ")
    assert "more checks must agree" in match.why


def test_with_evidence_it_is_served(desk: Desk) -> None:
    """After enough checks that agreed the answer goes out, but for the draws that check it; served and checked exclude each other."""
    desk.teach("How do I reset my PIN?", "please, how do I reset my PIN")
    served = desk.find("Hello, how do I reset my PIN?")
    checked = desk.find("Hello, how do I reset my PIN?", draw=0.0)
    assert served is not None
    assert checked is not None
    assert (served.serve, served.shadow) == (True, False)
    assert (checked.serve, checked.shadow) == (False, True)
    assert served.why.startswith("served: 0 of 300 were wrong at similarity 0.")
    assert checked.why.startswith("checked: ")


def test_guards_refuse_whatever_the_evidence(desk: Desk) -> None:
    """Another number, a negation, a word that no question with the answer has: declined, in words, and not even checked."""
    desk.teach("Transfer 30 euros to my landlord", "please transfer 30 euros to my landlord")
    for asked, why in (
        ("Transfer 60 euros to my landlord", "declined: numbers differ (60 eur / 30 eur)"),
        ("Don't transfer 30 euros to my landlord", "declined: negations differ (1 / 0)"),
        ("Transfer 30 euros to my ex landlord", "declined: no question with that answer says ex"),
    ):
        match = desk.find(asked, draw=0.0)
        assert match is not None
        assert (match.serve, match.shadow, match.why) == (False, False, why)


def test_neighbours_with_other_answers_speak_against(desk: Desk) -> None:
    """Where questions that are alike have different answers, none of them is a candidate."""
    desk.add("one", "Why was my card payment declined", answer="x")
    desk.add("two", "Why was my card payment declined?", answer="y")
    match = desk.find("why was my card payment declined!")
    assert match is not None
    assert match.stratum == -1
    assert not match.serve
    assert match.why == "declined: 50 % of the nearest questions' vote is for one answer, 73.1 % is needed"


def test_questions_that_agree_are_surer() -> None:
    """Of the same similarity, eight neighbours with one answer make a surer stratum than one of them alone."""
    answers, asked, kept = SimilarAnswers(), [1.0, 0.0], [0.7, 0.51**0.5]
    strata: list[int] = []
    for number in range(8):
        answers.add("a", str(number), "reset the PIN", kept, answer="x")
        match = answers.find("a", "route", "reset the PIN, please", asked, delta=ERRORS, draw=0.5)
        assert match is not None
        assert match.similarity == pytest.approx(0.7)
        strata.append(match.stratum)
    assert strata[0] == 2
    assert strata[-1] == 0
    assert strata == sorted(strata, reverse=True)


def test_spaces_do_not_know_each_other(desk: Desk) -> None:
    """What another tenant asked is not looked for; evidence of another route does not count."""
    desk.teach("How do I reset my PIN?", "please, how do I reset my PIN")
    assert desk.find("How do I reset my PIN?", space="b") is None
    other = desk.find("How do I reset my PIN?", route="other")
    assert other is not None
    assert not other.serve


def test_a_false_one_is_forgotten_and_demotes(desk: Desk) -> None:
    """One check that disagrees takes the entry away, and nothing of that kind is served until there is new evidence."""
    desk.teach("How do I reset my PIN?", "please, how do I reset my PIN")
    match = desk.find("Hi, how do I reset my PIN?", draw=0.0)
    assert match is not None
    desk.answers.record("route", match, False)
    assert desk.find("Hi, how do I reset my PIN?") is None
    desk.add("new", "How do I reset my PIN?")
    again = desk.find("Hi, how do I reset my PIN?")
    assert again is not None
    assert (again.serve, again.shadow) == (False, True)


def test_somebody_can_report_what_was_served(desk: Desk) -> None:
    """A served answer that somebody found false counts as a check that disagreed; one that somebody liked counts for nothing."""
    desk.teach("How do I reset my PIN?", "please, how do I reset my PIN")
    match = desk.find("Hi, how do I reset my PIN?")
    assert match is not None
    assert match.serve
    evidence = desk.answers.evidence("route")
    assert evidence is not None
    desk.answers.record("route", match, True)
    assert evidence.totals(match.stratum) == (300, 0)
    desk.answers.record("route", match, False)
    assert evidence.totals(match.stratum) == (301, 1)
    assert not evidence.promoted(match.stratum)
    assert len(desk.answers) == 0


def test_evidence_survives_a_restart(desk: Desk) -> None:
    """By way of JSON. Entries come from the store again; another bound, or another version, starts anew."""
    desk.teach("How do I reset my PIN?", "please, how do I reset my PIN")
    state = json.loads(json.dumps(desk.answers.state()))
    for kept, errors, serve in (
        (state, ERRORS, True),
        (state, 0.05, False),
        ({**state, "version": 0}, ERRORS, False),
        (None, ERRORS, False),
    ):
        later = Desk()
        later.answers.restore(kept)
        later.add("taught", "How do I reset my PIN?")
        match = later.find("Hi, how do I reset my PIN?", errors=errors)
        assert match is not None
        assert match.serve is serve
    untouched = SimilarAnswers()
    untouched.restore(state)
    assert untouched.state() == state


@pytest.mark.parametrize("other", [{"errors": 0.05}, {"setting": "another embedder"}])
def test_what_has_ended_does_not_come_back_with_its_setting(desk: Desk, other: dict[str, Any]) -> None:
    """A bound, or another setting, that is changed and changed back begins anew both times: also what was kept from an earlier run is
    gone, by whatever it was ended or replaced."""
    desk.teach("How do I reset my PIN?", "please, how do I reset my PIN")
    later = Desk()
    later.answers.restore(json.loads(json.dumps(desk.answers.state())))
    later.add("one", "How do I reset my PIN?")
    served = later.find("Hi, how do I reset my PIN?")
    assert served is not None
    assert served.serve
    for setting in (other, {}, other):
        match = later.find("Hi, how do I reset my PIN?", **setting)
        assert match is not None
        assert (match.serve, match.shadow) == (False, True)
        assert later.answers.state()["routes"]["route"]["errors"] == setting.get("errors", ERRORS)
    assert len(later.answers.state()["routes"]) == 1


def test_checks_of_another_setting_are_no_evidence(desk: Desk) -> None:
    """What was asked before a route was set anew says nothing of it when it comes back; one that was false is forgotten."""
    desk.add("one", "How do I reset my PIN?")
    before = desk.find("Hi, how do I reset my PIN?", setting="old")
    now = desk.find("Hi, how do I reset my PIN?", setting="new")
    evidence = desk.answers.evidence("route")
    assert before is not None
    assert now is not None
    assert evidence is not None
    desk.answers.record("route", before, True)
    assert evidence.totals(now.stratum) == (0, 0)
    desk.answers.record("route", now, True)
    assert evidence.totals(now.stratum) == (1, 0)
    desk.answers.record("route", before, False)
    assert evidence.totals(now.stratum) == (1, 0)
    assert len(desk.answers) == 0


def test_memory_is_bounded() -> None:
    """The entry of no use for longest goes; spaces without entries go with it."""
    desk = Desk(SimilarAnswers(entries_max=3))
    for number, text in enumerate(("renew passport", "boil lentils", "tune piano")):
        desk.add(str(number), text, space=str(number))
    assert desk.find("please renew passport", space="0") is not None
    desk.add("3", "mow lawns", space="3")
    assert len(desk.answers) == 3
    assert desk.find("boil lentils", space="1") is None
    assert desk.find("renew passport", space="0") is not None
    desk.answers.forget(["0", "2", "3", "unknown"])
    assert len(desk.answers) == 0
    assert desk.answers._spaces == {}


def test_long_texts_and_small_words_have_no_candidates(desk: Desk) -> None:
    """A page is not compared; nor is a question that means nothing by itself."""
    assert not desk.add("page", "word " * 300)
    assert desk.find("word " * 300) is None
    desk.add("it", "What about that, then?")
    match = desk.find("And what about that then?")
    assert match is not None
    assert match.why == "declined: the question has no words of its own"


def test_random_questions_change_nothing_that_was_decided() -> None:
    """Any order of adding, finding, recording and forgetting keeps the books of entries and spaces equal."""
    draw = random.Random(5)
    desk = Desk(SimilarAnswers(entries_max=40))
    words = ["open", "account", "card", "lost", "pin", "limit", "fee", "abroad", "cash", "late"]
    for step in range(1_500):
        text = " ".join(draw.choices(words, k=draw.randint(1, 4)))
        space = draw.choice("abc")
        match = desk.find(text, space=space, draw=draw.random(), errors=0.3)
        if match is not None:
            assert not (match.serve and match.shadow)
            if match.shadow:
                desk.answers.record("route", match, draw.random() < 0.98)
        if match is None or not match.serve:
            desk.add(f"{step % 60}", text, space=space)
        if draw.random() < 0.1:
            desk.answers.forget([str(draw.randrange(60))])
        assert sum(map(len, desk.answers._spaces.values())) == len(desk.answers) <= 40
        assert all(map(len, desk.answers._spaces.values()))
