"""No budget can be overspent, whatever happens in whatever order: simulated worlds, each made of its seed."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sim_budgets import run_world
from sim_drive import run_lives

CYCLES = 10_000
SEEDS = tuple(range(60))
"""What CI runs; elsewhere one more is drawn each time, and printed when it fails."""


def _seeds(known: tuple[int, ...]) -> list[int]:
    return list(known) if os.environ.get("CI") else [*known, random.SystemRandom().randrange(1 << 30)]


@pytest.mark.parametrize("part", range(3))
def test_worlds(tmp_path: Path, part: int) -> None:
    """Two processes, a clock that errs, crashes, replays and late settlements: every account within its limit."""
    total: Counter[str] = Counter()
    for seed in _seeds(SEEDS[part::3]):
        total += run_world(seed, tmp_path, steps=200)
    print(summary(total))
    assert min(total[kind] for kind in ("admitted", "refused", "settled", "cancelled", "crashes", "expired")) > 0
    assert total["late"]
    assert total["extended"]
    assert total["compacted"]


@pytest.mark.parametrize("part", range(2))
def test_callers_on_a_loop(tmp_path: Path, part: int) -> None:
    """Callers that are cancelled in line, while held and while they stream: every call is answered in time and ends once."""
    total: Counter[str] = Counter()
    for seed in _seeds((part, part + 2, part + 4)):
        total += run_lives(seed, tmp_path, lives=5)
    print(summary(total))
    assert min(total[kind] for kind in ("settled", "refused", "cancelled", "broken", "crashes")) > 0


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_ten_thousand_crashes_and_cancellations(tmp_path: Path) -> None:
    """Until there were ten thousand of each way of running: in worlds, and on a loop."""
    worlds = _until(lambda seed: run_world(seed, tmp_path, steps=300))
    loops = _until(lambda seed: run_lives(seed, tmp_path, lives=10))
    print(f"\nworlds: {summary(worlds)}\nloops: {summary(loops)}")


def _until(run: Callable[[int], Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    seed = 1_000
    while total["crashes"] + total["cancelled"] < CYCLES:
        total += run(seed)
        seed += 1
    return total


def summary(count: Counter[str]) -> str:
    """One line of what happened. A world with something over or leaked does not get here."""
    cycles = count["crashes"] + count["cancelled"]
    admitted = count["admitted"] or count["settled"] + count["cancelled"] + count["broken"]
    return (
        f"{cycles:,} cycles ({count['crashes']:,} crashes, {count['cancelled']:,} cancellations): {admitted:,} admitted, "
        f"{count['refused']:,} refused, {count['expired']:,} expired, {count['late']:,} settled late, "
        f"{count['extended']:,} extended; 0 over, 0 leaked"
    )
