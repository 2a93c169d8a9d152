"""Checks of similar answers: which of a call's endings speak for or against what would have been served."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bursar.core.caching import SemanticPolicy
from bursar.core.ledger import Attempt, Opening
from bursar.core.money import NanoUSD
from bursar.core.prices import Charge
from bursar.core.scopes import NOBODY
from bursar.core.usage import Usage
from bursar.wire.questions import Question

pytest.importorskip("numpy", reason="similar questions need numpy (the extra `semantic`)")

from bursar.engine.similar import Asked, Similar
from bursar.learn.ngrams import hashed_ngrams

POLICY = SemanticPolicy(errors=100)
CHARGE = Charge(NanoUSD(10), None, Usage(input_tokens=5, output_tokens=2))
KEPT = "How do I reset my PIN?"
ASKED = "please, how do I reset my PIN"


class Words:
    """Vectors of n-grams, under any name."""

    def __init__(self, name: str) -> None:
        self.id = name

    async def vector(self, text: str, /) -> Any:
        return hashed_ngrams([text])[0]


class Desk:
    """A route with one kept answer. ``draw`` below the share of checks makes one due."""

    def __init__(self) -> None:
        self.draw = 0.99
        self.similar = Similar(lambda: self.draw)
        self.judged = 0

    async def look(
        self,
        text: str = ASKED,
        *,
        policy: SemanticPolicy = POLICY,
        embedder: str = "ngrams",
        made: str = "rungs",
        path: str = "path",
    ) -> Asked:
        asked = await self.similar.look(
            Question(text, "context"), policy, Words(embedder), tenant="t", route="route", path=path, made=made
        )
        assert asked is not None
        return asked

    async def judge(self, question: str, one: str, other: str) -> bool | None:
        self.judged += 1
        return None

    async def keep(self, answer: str = "Choose Reset.", **setting: Any) -> None:
        await self.similar.learn(await self.look(KEPT, **setting), "kept", answer, None, self.judge)

    async def teach(self, **setting: Any) -> None:
        """Checks that agree, until a hit would be served."""
        await self.keep(**setting)
        while (asked := await self.look(**setting)).match is not None and not asked.match.serve:
            await self.similar.learn(asked, None, "Choose Reset.", "Choose Reset.", self.judge)
        self.similar.changed = False

    @property
    def totals(self) -> tuple[int, int]:
        """Of checks, and how many of them failed."""
        evidence = self.similar.answers.evidence("route")
        return (0, 0) if evidence is None else evidence.totals(0)


def attempt(**more: Any) -> Attempt:
    opening = Opening("c.1", "c", "model", "gateway", "chat_completions", 1, "openai", "m", NOBODY, CHARGE)
    given: dict[str, Any] = {"status": "ok", "charge": CHARGE, "finish": "stop", "http_status": 200, **more}
    return Attempt(opening, **given)


@pytest.mark.parametrize(
    "more",
    [
        {"finish": "tool_calls", "tools": ("reset",)},
        {"finish": "content_filter"},
        {"finish": "refusal"},
        {"finish": "length"},
        {"finish": "stop"},
        {"finish": ""},
        {"finish": "tool_calls", "charge": replace(CHARGE, estimated=True)},
        {"finish": "tool_calls", "error": "the provider ended the stream without its last event"},
    ],
)
async def test_a_whole_answer_that_is_not_kept_fails_a_check(more: dict[str, Any]) -> None:
    """Whatever it is, it is not what would have been served."""
    desk = Desk()
    await desk.keep()
    asked = await desk.look()
    desk.similar.differed(asked, attempt(**more))
    assert desk.totals == (1, 1)
    assert desk.similar.changed
    assert len(desk.similar.answers) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"status": "error", "finish": ""},
        {"status": "cut", "finish": ""},
        {"status": "cancelled"},
        {"status": "ended"},
        {"http_status": 429, "finish": ""},
        {"finish": "", "error": "overloaded"},
        {"finish": "", "charge": replace(CHARGE, estimated=True)},
    ],
)
async def test_what_is_no_answer_says_nothing(more: dict[str, Any]) -> None:
    """An error, or an answer that broke off, is neither for nor against."""
    desk = Desk()
    await desk.keep()
    desk.similar.differed(await desk.look(), attempt(**more))
    assert (desk.totals, desk.similar.changed, len(desk.similar.answers)) == ((0, 0), False, 1)


async def test_where_no_check_is_due_nothing_is_counted() -> None:
    """No neighbour, or one that a guard refuses: there was nothing that could have been served."""
    desk = Desk()
    desk.similar.differed(await desk.look(), attempt(finish="tool_calls"))
    await desk.keep()
    desk.similar.differed(await desk.look("How do I not reset my PIN?"), attempt(finish="tool_calls"))
    assert desk.totals == (0, 0)
    assert len(desk.similar.answers) == 1


async def test_text_that_is_not_kept_is_compared() -> None:
    """The answer of a smaller model, say: it speaks for or against, and is no entry."""
    desk = Desk()
    await desk.keep()
    await desk.similar.learn(await desk.look(), None, "Choose reset", "Choose Reset.", desk.judge)
    assert (desk.totals, len(desk.similar.answers)) == ((1, 0), 1)
    await desk.similar.learn(await desk.look(), None, "Call us.", "Choose Reset.", desk.judge)
    assert (desk.totals, len(desk.similar.answers)) == ((2, 1), 0)


async def test_a_match_whose_answer_has_gone_is_forgotten() -> None:
    """It could not be served: a check of it says nothing, and there are no more of them."""
    desk = Desk()
    await desk.keep()
    await desk.similar.learn(await desk.look(), None, "Call us.", None, desk.judge)
    assert (desk.totals, len(desk.similar.answers)) == ((0, 0), 0)


async def test_a_hit_that_was_not_needed_can_only_speak_against() -> None:
    """Where the cache comes after the model, the model's answer is there all the same: one that agrees was not drawn and counts for
    nothing, one that differs ends what was known."""
    desk = Desk()
    await desk.teach()
    checks, _ = desk.totals
    asked = await desk.look()
    assert asked.compared
    await desk.similar.learn(asked, None, "Choose Reset.", "Choose Reset.", desk.judge)
    assert desk.totals == (checks, 0)
    desk.similar.differed(await desk.look(), attempt(finish="tool_calls"))
    assert desk.totals == (checks + 1, 1)
    await desk.keep()
    again = (await desk.look()).match
    assert again is not None
    assert not again.serve


@pytest.mark.parametrize(
    "change",
    [
        {"policy": replace(POLICY, errors=200)},
        {"policy": replace(POLICY, errors=50)},
        {"policy": replace(POLICY, verify="json")},
        {"policy": replace(POLICY, verify="judge", judge="openai/gpt-4o")},
        {"embedder": "local"},
        {"made": "other rungs"},
    ],
)
async def test_evidence_is_of_one_setting(change: dict[str, Any]) -> None:
    """Another bound, embedder, comparison, judge, or other rungs begin anew; and so does the first setting after them."""
    desk = Desk()
    await desk.teach()
    for setting in (change, {}):
        await desk.keep(**setting)
        found = (await desk.look(**setting)).match
        assert found is not None
        assert (found.serve, found.shadow) == (False, True)
        assert desk.totals == (0, 0)


async def test_what_clients_send_is_no_other_setting() -> None:
    """Another path or header means other answers, but no other evidence; nor does another share of checks."""
    desk = Desk()
    await desk.teach()
    settings: list[dict[str, Any]] = [{"path": "another"}, {"policy": replace(POLICY, shadow=10)}]
    for setting in settings:
        await desk.keep(**setting)
        found = (await desk.look(**setting)).match
        assert found is not None
        assert found.serve


async def test_what_somebody_found_wrong_stays_so_over_a_restart() -> None:
    """A served answer that was wrong ends what was known, and is in the state that is written down."""
    desk = Desk()
    await desk.teach()
    good = json.loads(json.dumps(desk.similar.answers.state()))
    asked = await desk.look()
    assert asked.match is not None
    assert asked.match.serve
    desk.similar.wrong(asked)
    assert desk.similar.changed
    bad = json.loads(json.dumps(desk.similar.answers.state()))
    for state, serves in ((good, True), (bad, False)):
        later = Desk()
        later.similar.answers.restore(state)
        await later.keep()
        found = (await later.look()).match
        assert found is not None
        assert found.serve is serves


async def test_evidence_of_earlier_releases_is_read_but_begins_anew() -> None:
    """It did not say what it is of, and had not counted the checks whose calls ended in no text."""
    desk = Desk()
    await desk.teach()
    state = json.loads(json.dumps(desk.similar.answers.state()))
    route = state["routes"]["route"]
    route["version"] = 1
    del route["setting"]
    later = Desk()
    later.similar.answers.restore(state)
    await later.keep()
    found = (await later.look()).match
    assert found is not None
    assert (found.serve, found.shadow) == (False, True)
