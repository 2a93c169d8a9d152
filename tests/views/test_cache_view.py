"""What caches saved: hits, misses and money by tier, and what the cache itself cost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bursar.views.asking import BadQuestion
from bursar.views.cache import CacheReport, Tier, Upkeep, cache_report
from seeding import NOW, MemoryLedger


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


def hit(ledger: MemoryLedger, tier: str, avoided: int | None, **columns: object) -> None:
    ledger.attempt(cache=tier, rung="cached", cost_nanousd=0, avoided_nanousd=avoided, **columns)


def test_an_empty_ledger_has_an_empty_report(ledger: MemoryLedger) -> None:
    """Nothing was asked: no share, nothing saved."""
    ledger.attempt()
    report = cache_report(ledger)
    assert report == CacheReport((), Upkeep(), Upkeep())
    assert report.net_nanousd == 0


def test_hits_and_misses_by_tier(ledger: MemoryLedger) -> None:
    """Shares are of what was asked of the same kind. A miss that took two attempts is one; a stale answer is no hit."""
    for _ in range(3):
        hit(ledger, "exact", 1_000)
    hit(ledger, "semantic", 500)
    hit(ledger, "stale", 700, number=3)
    ledger.attempt(cache="miss")
    ledger.attempt(cache="miss", call_id="again")
    ledger.attempt(cache="miss", call_id="again", number=2)
    hit(ledger, "tool", 50, kind="tool")
    ledger.attempt(cache="miss", kind="tool")
    ledger.attempt()
    model, tool = cache_report(ledger).kinds
    assert (model.kind, model.hits, model.misses, model.lookups, model.share()) == ("model", 4, 2, 6, 6_667)
    assert [(tier.tier, tier.count, model.share(tier)) for tier in model.tiers] == [
        ("exact", 3, 5_000),
        ("semantic", 1, 1_667),
        ("stale", 1, None),
    ]
    assert (tool.kind, tool.share(), tool.tiers) == ("tool", 5_000, (Tier("tool", 1, 50, 0),))
    assert cache_report(ledger).avoided_nanousd == 4_250


def test_a_stale_answer_is_a_miss_whatever_was_tried_before_it(ledger: MemoryLedger) -> None:
    """Two rungs were tried, one, or none since their breakers were open: three calls that asked and were not answered in time.
    What the rung `cached` answers after others failed is one hit, and no miss."""
    for tried in (2, 1, 0):
        for number in range(1, tried + 1):
            ledger.attempt(cache="miss", call_id=f"stale{tried}", number=number, status="error")
        hit(ledger, "stale", 100, call_id=f"stale{tried}", number=tried + 1)
    ledger.attempt(cache="miss", call_id="kept", status="error")
    hit(ledger, "exact", 100, call_id="kept", number=2)
    (kind,) = cache_report(ledger).kinds
    assert (kind.lookups, kind.hits, kind.misses) == (4, 1, 3)
    assert [(tier.tier, tier.count) for tier in kind.tiers] == [("stale", 3), ("exact", 1)]
    (kind,) = cache_report(ledger, where={"status": "ok"}).kinds  # a part of their attempts: no figure is below zero
    assert (kind.lookups, kind.hits, kind.misses) == (1, 1, 0)


def test_shares_are_rounded_once(ledger: MemoryLedger) -> None:
    """14 of 41 are 34.15 % of ten thousand parts, and 34.1 % all the same."""
    for number in range(41):
        if number < 14:
            hit(ledger, "exact", 1)
        else:
            ledger.attempt(cache="miss")
    report = cache_report(ledger)
    (kind,) = report.kinds
    assert (kind.share(), kind.share(parts=1_000)) == (3_415, 341)
    assert report.to_json()["kinds"][0]["hit_share"] == 0.3415
    assert report.to_json()["kinds"][0]["tiers"][0]["share"] == 0.3415


def test_unknown_is_counted_and_not_zero(ledger: MemoryLedger) -> None:
    """A hit on an answer whose cost nobody knows, and upkeep without a price."""
    hit(ledger, "exact", None)
    hit(ledger, "exact", 1_000)
    hit(ledger, "coalesced", None)
    ledger.attempt(labels={"bursar_for": "cache"}, cost_nanousd=None)
    report = cache_report(ledger)
    assert (report.avoided_nanousd, report.unknown, report.unpriced) == (1_000, 2, 1)
    by_tier = {tier["tier"]: tier for tier in report.to_json()["kinds"][0]["tiers"]}
    assert by_tier["exact"]["avoided_usd"] == "0.000001"
    assert by_tier["coalesced"]["avoided_usd"] is None


def test_net_is_less_what_the_cache_cost(ledger: MemoryLedger) -> None:
    """Embeddings and verification apart; calls with another label are no upkeep."""
    hit(ledger, "semantic", 1_000)
    ledger.attempt(labels={"bursar_for": "cache"}, operation="embeddings", cost_nanousd=300)
    ledger.attempt(labels={"bursar_for": "cache"}, operation="embeddings", cost_nanousd=200)
    ledger.attempt(labels={"bursar_for": "cache"}, cost_nanousd=900)
    ledger.attempt(labels={"bursar_for": "other"}, cost_nanousd=9_000)
    report = cache_report(ledger)
    assert (report.embeddings, report.verification) == (Upkeep(2, 500, 0), Upkeep(1, 900, 0))
    assert report.net_nanousd == -400
    assert report.to_json()["net_saved_usd"] == "-0.0000004"


def test_only_what_was_asked_about(ledger: MemoryLedger) -> None:
    """A span of time and column values hold for all figures; a column that is none is refused."""
    hit(ledger, "exact", 1, team="a", ago=timedelta(days=3))
    hit(ledger, "exact", 10, team="a")
    hit(ledger, "exact", 100, team="b")
    ledger.attempt(labels={"bursar_for": "cache"}, team="b", cost_nanousd=5)
    report = cache_report(ledger, since=NOW - timedelta(days=1), where={"team": "a"})
    assert (report.avoided_nanousd, report.verification.calls) == (10, 0)
    assert cache_report(ledger, until=NOW - timedelta(days=1)).avoided_nanousd == 1
    with pytest.raises(BadQuestion):
        cache_report(ledger, where={"nothing": "x"})


def test_what_was_summed_up_still_counts(ledger: MemoryLedger) -> None:
    """Rollups keep tiers and what was avoided."""
    ledger.rollup(cache="exact", calls=5, attempts=5, avoided_nanousd=5_000, cost_nanousd=0)
    ledger.rollup(cache="miss", calls=4, attempts=7)
    (kind,) = cache_report(ledger).kinds
    assert (kind.hits, kind.misses, kind.tiers[0].avoided_nanousd) == (5, 4, 5_000)
