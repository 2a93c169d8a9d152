"""A recorded coding session, twenty times at once, against one budget: it is used up, and not filled up beforehand."""

from __future__ import annotations

import asyncio
import os
import random
from datetime import datetime, timezone
from pathlib import Path

import pytest

from bursar.adapters.books_async import AsyncBooks
from bursar.adapters.books_file import BooksFile
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.zones import zone_of
from bursar.compose import now_us
from bursar.core.budget_fields import parse_budget
from bursar.core.call import Held, NeedsHold, NeedsSettlement, NotHeld
from bursar.core.ledger import Attempt, Opening
from bursar.doors.imports.claude_code import find_transcripts, read_transcripts
from bursar.doors.imports.tally import Tally
from bursar.engine.claims import Asking, Claims
from bursar.engine.rulebook import Rulebook
from bursar.learn.sizes import Sizes
from bursar.wire.dialect import RequestFacts
from making import replaced

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
SESSIONS = DATA / "claude-code-sessions"
REPLAYS = 20
LIMIT_NANOUSD = 25_000_000_000
BYTES_PER_TOKEN = (3.2, 4.0)  # of one replay, at random; its calls differ by another half per cent
OUTPUT_CAP = 32_000  # what Claude Code asks for

pytestmark = pytest.mark.skipif(not SESSIONS.is_dir(), reason=f"no recorded sessions at {SESSIONS}")


def recorded() -> list[Attempt]:
    """The priced calls of the longest session, in their order."""
    files = find_transcripts([SESSIONS], Tally())
    calls = list(read_transcripts(files, book=bundled_book(), now=datetime.now(timezone.utc), tally=Tally()))
    sessions: dict[str, list[Attempt]] = {}
    for call in calls:
        if call.charge.amount is not None and call.charge.usage is not None:
            sessions.setdefault(call.opening.scope.session, []).append(call)
    return sorted(max(sessions.values(), key=len), key=lambda call: call.opening.started_us)


def facts_of(call: Attempt, bytes_per_token: float) -> RequestFacts:
    """The request as it must have been: all its context as text, marked for the cache as it was written."""
    usage = call.charge.usage
    assert usage is not None
    writes = ("cache_write_tokens", "cache_write_5m_tokens")
    if usage.cache_write_1h_tokens:
        writes += ("cache_write_1h_tokens",)
    return RequestFacts(
        "messages", call.charge.model, stream=True, output_cap=OUTPUT_CAP, writes_cache=writes,
        text_bytes=int(usage.input_tokens * bytes_per_token), input_tokens_estimate=usage.input_tokens,
    )  # fmt: skip


class Replay:
    """One budget, and everybody who draws from it. ``spent_at_refusal`` is what was spent when the first was refused."""

    def __init__(self, path: Path, wait_s: float) -> None:
        self.file = BooksFile(path / "books.sqlite3", clock_us=now_us, hold_ttl_us=10**12)
        self.books = AsyncBooks(self.file, wait_s=wait_s)
        budget = parse_budget("purse", {"limit": "$25"}, zone_of)
        self.rulebook = Rulebook(
            providers={},
            book=bundled_book(),
            require_keys=False,
            body_bytes_max=1,
            concurrency_max=1,
            budgets=(budget,),
        )
        self.claims = Claims(Sizes())
        self.spent_at_refusal: int | None = None
        self.capped = 0
        self.cut = 0
        self.calls = 0

    def spent(self) -> int:
        return next(int(b.spent) for b in self.file.balances() if b.account == "budget:purse")

    async def play(self, number: int, calls: list[Attempt]) -> None:
        draw = random.Random(number)
        bytes_per_token = draw.uniform(*BYTES_PER_TOKEN)
        for index, call in enumerate(calls):
            name = f"{number}-{index}"
            scope = replaced(call.opening.scope, session=f"replay-{number}")
            opening = replaced(call.opening, attempt_id=name, call_id=name, started_us=now_us(), scope=scope)
            facts = facts_of(call, bytes_per_token * draw.uniform(0.995, 1.005))
            held = await self.hold(opening, facts)
            if isinstance(held, NotHeld):
                if self.spent_at_refusal is None:
                    self.spent_at_refusal = self.spent()
                return
            usage = call.charge.usage
            assert held.admitted is not None
            assert usage is not None
            self.calls += 1
            cap = held.admitted.output_cap
            self.capped += cap is not None
            self.cut += cap is not None and usage.output_tokens > cap
            await asyncio.sleep((call.latency_ms or 5_000) / 1_000_000)  # a thousand times faster
            attempt = replaced(call, opening=held.opening or opening, response_id="")
            await self.books.settle(NeedsSettlement(opening, attempt, held))
            self.claims.learn(attempt, facts)

    async def hold(self, opening: Opening, facts: RequestFacts) -> Held | NotHeld:
        asking = Asking(facts, opening.provider, datetime.now(timezone.utc), can_cap=True)
        claim = self.claims.claim(self.rulebook, opening, asking, task=None, final=False)
        return await self.books.hold(NeedsHold(opening, claim))


async def test_the_budget_is_not_filled_before_it_is_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Contexts of 100,000 tokens, twenty agents at once: 97 % is spent when the first is refused, and never over 100 %."""
    calls = recorded()
    replay = Replay(tmp_path, wait_s=60)
    await asyncio.gather(*(replay.play(number, calls) for number in range(REPLAYS)))
    assert replay.spent_at_refusal is not None
    with capsys.disabled():
        print(
            f"\n{len(calls)} calls x {REPLAYS}: {replay.calls} made, {replay.capped} capped, {replay.cut} would be cut; first "
            f"refusal at {replay.spent_at_refusal / LIMIT_NANOUSD:.2%} spent, {replay.spent() / LIMIT_NANOUSD:.2%} at the end"
        )
    assert replay.spent_at_refusal >= 0.97 * LIMIT_NANOUSD
    assert replay.spent() <= LIMIT_NANOUSD
    assert replay.file.open_holds() == 0
    replay.file.close()
