"""The first provider of two is gone for a while: an error at once, nobody listening, or no answer ever. Clients hardly notice, and
what is down is left alone. The script is the benchmark's (``bench/outage.py``), here in seconds instead of minutes."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODES: Any = ("503", "refused", "hang")


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


async def outcomes(folder: Path, script: Any) -> dict[str, Any]:
    """What each mode of failing came to, whole answers and streams together; the books were proved clean."""
    from bench.measure import Processes
    from bench.outage import outcome, play, prove, stop
    from bench.outage_providers import Knocks
    from bench.outage_sides import BURSAR_SIDE, start_side

    with Processes() as processes, Knocks() as knocks:
        side = await start_side(
            processes, BURSAR_SIDE, folder, paces_ms=script.paces_ms, breaker_open=script.breaker_open
        )
        try:
            window = await play([side], script, knocks)
            found = {mode: outcome(side, mode, window, knocks) for mode in MODES}
        finally:
            await stop([side])
        prove(processes, side)
    return found


def check(found: dict[str, Any], *, busy_ms: float) -> None:
    """``busy_ms`` is what a busy machine may add to one answer without anybody being to blame."""
    for mode in MODES:
        one = found[mode]
        assert one.errors == 0, mode
        assert one.attempts is None or 1 <= one.attempts <= 3, (mode, one)
        assert median(one.later) <= 20, (mode, one)
        limit_ms = one.limit if mode == "hang" else 0.0
        assert max(one.first, *one.later) <= limit_ms + busy_ms, (mode, one)
    for mode in ("503", "refused"):
        one = found[mode]
        assert one.left_healthy == 0, mode
        assert one.amplification is None or one.amplification <= 1.1, (mode, one)
        assert one.recovery_s is not None, mode


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_an_outage_costs_three_attempts_and_no_answer(tmp_path: Path) -> None:
    """At most three attempts at what is down, 1.1 for a request over the run; no client sees an error; a hung provider costs no
    more than the time in which it usually answers. When it is back, it is asked again."""
    from bench.outage import Script

    script = Script(
        every_s=0.4, healthy=5, outage=15, recovery=15, warm=22, warm_every_s=0.15, paces_ms=(60, 80), breaker_open="3s"
    )
    check(await outcomes(tmp_path, script), busy_ms=400)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
async def test_a_minute_of_outage(tmp_path: Path) -> None:
    """The same with a request every 4 s and the breaker's usual times."""
    from bench.outage import WHOLE

    check(await outcomes(tmp_path, WHOLE), busy_ms=400)
