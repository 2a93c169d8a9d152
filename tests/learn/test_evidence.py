"""Evidence that similar answers may be served: the bound holds at every look, after every restart, and while the world changes."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.learn.evidence import ALPHA, Evidence

STREAMS = 200
# Three standard deviations of a share of ALPHA among so many streams.
TOLERANCE = 3 * (ALPHA * (1 - ALPHA) / STREAMS) ** 0.5


def check(evidence: Evidence, stratum: int, agreed: bool) -> None:
    evidence.checked(stratum, agreed, evidence.tries(stratum))


@pytest.mark.parametrize(("share", "allowed"), [(0.1, ALPHA + TOLERANCE), (0.12, ALPHA), (0.2, ALPHA)])
def test_too_many_errors_are_never_promoted(share: float, allowed: float) -> None:
    """With a true share of false hits at the bound or above it, any of a route's strata is ever promoted in at most ALPHA of all
    streams: at the bound itself the rule spends all of it, so the count may be off by chance."""
    wronged = 0
    for seed in range(STREAMS):
        draw = random.Random(seed)
        evidence = Evidence(0.1)
        for _ in range(700):
            stratum = draw.randrange(Evidence.STRATA)
            check(evidence, stratum, draw.random() >= share)
            if evidence.promoted(stratum):
                wronged += 1
                break
    assert wronged / STREAMS <= allowed


@pytest.mark.parametrize(
    ("errors", "share", "within"), [(0.05, 0.0, 110), (0.05, 0.005, 400), (0.02, 0.002, 1_000), (0.01, 0.0, 480)]
)
def test_few_errors_are_promoted(errors: float, share: float, within: int) -> None:
    """With clearly fewer errors than the bound the surest stratum is promoted, in nine of ten streams within some hundred checks."""
    promoted = 0
    for seed in range(30):
        draw = random.Random(seed)
        evidence = Evidence(errors)
        for _ in range(within):
            check(evidence, 0, draw.random() >= share)
            if evidence.promoted(0):
                promoted += 1
                break
    assert promoted >= 27


@pytest.mark.parametrize(("errors", "quiet"), [(0.02, 2), (0.05, 1), (0.05, 6)])
def test_a_change_for_the_worse_costs_less_than_the_bound(errors: float, quiet: int) -> None:
    """All answers turn wrong at once, when it is least expected: false hits reach the bound's share of all candidates unseen in
    at most ALPHA of all streams. This adversary is the worst one: the rule is made so that he gets ALPHA and not more."""
    broken = 0
    for seed in range(STREAMS):
        draw = random.Random(seed)
        evidence = Evidence(errors, shadow=0.0)
        while not evidence.promoted(0):
            check(evidence, 0, True)
        candidates = sum(evidence.counts(0))
        false, turn = 0, candidates * quiet
        while evidence.promoted(0) and false < errors * candidates:
            candidates += 1
            if draw.random() < evidence.check_chance(0):
                check(evidence, 0, candidates <= turn)
            else:
                evidence.served(0)
                false += candidates > turn
        broken += false >= errors * candidates
    assert broken / STREAMS <= ALPHA + TOLERANCE


def test_a_creeping_change_is_found() -> None:
    """Errors that grow slowly past the bound end what was promoted before they are the bound's share of what was served."""
    for seed in range(20):
        draw = random.Random(seed)
        evidence = Evidence(0.05, shadow=0.05)
        false = served = 0
        for step in range(6_000):
            wrong = draw.random() < max(0, step - 2_000) / 4_000 * 0.3
            if draw.random() < evidence.check_chance(0):
                check(evidence, 0, not wrong)
            else:
                evidence.served(0)
                served += 1
                false += wrong
        assert served
        assert false / served <= 0.05
        assert not evidence.promoted(0)


def test_one_false_hit_demotes() -> None:
    """The first check that disagrees ends a promotion; what was known before is no evidence any more, and the next try needs more."""
    evidence = Evidence(0.05)
    needed = evidence.missing(0)
    for _ in range(needed):
        assert not evidence.promoted(0)
        assert evidence.check_chance(0) == 1.0
        check(evidence, 0, True)
    assert evidence.promoted(0)
    check(evidence, 0, False)
    assert not evidence.promoted(0)
    assert evidence.counts(0) == (0, 0)
    assert evidence.totals(0) == (needed + 1, 1)
    assert evidence.missing(0) > needed


def test_checks_from_before_a_demotion_are_no_evidence_after_it() -> None:
    """What was asked before the false hit and comes back after it says nothing of the new try; unless it is false, too."""
    evidence = Evidence(0.05)
    before = evidence.tries(0)
    for _ in range(evidence.missing(0)):
        check(evidence, 0, True)
    check(evidence, 0, False)
    evidence.checked(0, True, before)
    assert evidence.counts(0) == (0, 0)
    evidence.checked(0, False, before)
    assert evidence.counts(0) == (0, 1)


def test_a_stratum_that_passed_hands_its_share_down() -> None:
    """The second stratum needs less once the first has passed, also when that one is demoted later."""
    evidence = Evidence(0.02)
    alone = evidence.missing(1)
    for _ in range(evidence.missing(0)):
        check(evidence, 0, True)
    after = evidence.missing(1)
    assert after < alone
    check(evidence, 0, False)
    assert evidence.missing(1) == after


def test_checks_go_on_and_grow_rarer() -> None:
    """After promotion checks thin out with the candidates, down to the share that was asked for."""
    evidence = Evidence(0.05, shadow=0.03)
    for _ in range(evidence.missing(0)):
        check(evidence, 0, True)
    chances = []
    for _ in range(3_000):
        chances.append(evidence.check_chance(0))
        evidence.served(0)
    assert chances == sorted(chances, reverse=True)
    assert 0.5 < chances[0] <= 1
    assert chances[-1] == 0.03


def test_evidence_against_is_dropped_when_it_is_hopeless() -> None:
    """A stratum that was bad for long and is good now gets there: a hopeless try ends, and the next one costs a little more."""
    evidence = Evidence(0.05)
    for number in range(400):
        check(evidence, 2, number % 4 != 0)
    assert evidence.tries(2) > 1
    for _ in range(1_000):
        check(evidence, 2, True)
    assert evidence.promoted(2)


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=300), st.sampled_from([0.01, 0.05, 0.2]))
def test_state_survives_a_restart(events: list[tuple[int, bool]], errors: float) -> None:
    """Evidence through JSON is the same evidence: it decides alike, whatever comes."""
    evidence = Evidence(errors, 0.1)
    for stratum, agreed in events:
        if evidence.promoted(stratum) and not agreed:
            evidence.served(stratum)
        check(evidence, stratum, agreed)
    restored = Evidence.restored(json.loads(json.dumps(evidence.state())), errors, 0.1)
    for stratum in range(Evidence.STRATA):
        assert restored.promoted(stratum) == evidence.promoted(stratum)
        assert restored.missing(stratum) == evidence.missing(stratum)
        assert restored.check_chance(stratum) == evidence.check_chance(stratum)
        assert restored.totals(stratum) == evidence.totals(stratum)


@pytest.mark.parametrize("state", [None, 3, [], {}, {"version": 0}, {"version": 1, "errors": 0.05, "strata": [{}] * 4}])
def test_state_that_cannot_be_read_is_no_evidence(state: object) -> None:
    """Another version, another bound, or nonsense: everything is collected anew."""
    assert Evidence.restored(state, 0.05, 0.1).missing(0) == Evidence(0.05).missing(0)


def test_another_bound_or_setting_is_other_evidence() -> None:
    """What was promoted for 5 % is not for 1 %; nor, for one way to compare answers, for another."""
    evidence = Evidence(0.05, 0.1, "json")
    for _ in range(evidence.missing(0)):
        check(evidence, 0, True)
    state = json.loads(json.dumps(evidence.state()))
    assert Evidence.restored(state, 0.05, 0.1, "json").promoted(0)
    assert not Evidence.restored(state, 0.01, 0.1, "json").promoted(0)
    assert not Evidence.restored(state, 0.05, 0.1, "judge").promoted(0)
    assert not Evidence.restored(state, 0.05, 0.1).promoted(0)


def test_states_of_version_1_are_read() -> None:
    """They said of no setting, and are evidence where there is none."""
    evidence = Evidence(0.05)
    for _ in range(evidence.missing(0)):
        check(evidence, 0, True)
    old = {**evidence.state(), "version": 1}
    del old["setting"]
    assert Evidence.restored(old, 0.05, 0.1).promoted(0)
    assert not Evidence.restored(old, 0.05, 0.1, "json").promoted(0)


@pytest.mark.parametrize("errors", [0.0, 1.0, -0.1])
def test_a_bound_is_a_share(errors: float) -> None:
    """A bound of none or of all is no bound."""
    with pytest.raises(ValueError, match="no shares"):
        Evidence(errors)
