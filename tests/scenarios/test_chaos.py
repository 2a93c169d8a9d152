"""Everything goes wrong at once, for long: every call ends in exactly one of answer, honest error, refusal, and the books are
clean."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from chaos_clients import Seen, ask
from pyreqwest.client import ClientBuilder
from test_kill import start

from bursar.adapters.prices_file import bundled_book
from bursar.adapters.verify import verify
from bursar.compose import open_books_file, open_data, open_ledger, settings_of
from bursar.core.money import decimal_text
from bursar.core.prices import Reading, charge
from bursar.sim import Call, FaultRule, Pace, Simulator, serve

CLIENTS = 36
GPT, HAIKU, FLASH, LLAMA = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash", "groq/llama-3.3-70b-versatile"  # fmt: skip
FAULTS = (
    "400", "401", "429=1", "429=2", "500", "503", "529", "hang", "cut=0", "cut=2", "cut=5", "cut=9", "slow=300", "slow=1500",
    "wrong-json", "no-usage", "usage-negative", "usage-strings",
)  # fmt: skip
MISCOUNTED = ("no-usage", "usage-negative", "usage-strings")


def routes(chance: random.Random) -> dict[str, Any]:
    """Routes of every kind; some of their figures differ from one configuration to the next."""
    breaker = {"open": "1s", "open_max": f"{chance.randint(2, 5)}s", "in_a_row": chance.randint(1, 3)}
    quick = {"first_token": "500ms", "total": "900ms", "breaker": breaker}
    cache = {"ttl": "2s", "stale": "1h", "share": "key"}
    return {
        "across": {"rungs": [GPT, HAIKU, FLASH, LLAMA], **quick, "deadline": "4s", "attempts": chance.randint(2, 4)},
        "hedged": {"rungs": [HAIKU, LLAMA, GPT], **quick, "hedge": {"after": "60ms", "spend": "50%"}},
        "hedged-p": {"rungs": [FLASH, GPT, HAIKU], **quick, "hedge": {"after": "p50", "spend": "100%"}, "cost_max": "$0.001"},
        "solo": {"rungs": [GPT], **quick, "retries": "10%", "deadline": "3s"},
        "dead": {"rungs": ["nowhere/llama-3.3-70b-versatile", LLAMA, GPT], **quick},
        "kept": {"rungs": [GPT, "stale"], **quick, "cache": cache},
        "late": {"rungs": [FLASH, "cached", HAIKU, "stale", "refuse"], **quick, "cache": cache},
        "alike": {
            "rungs": [HAIKU, GPT], **quick, "prompt_cache": "auto",
            "cache": {**cache, "semantic": {"embed": "ngrams", "shadow": "50%", "errors": "20%"}},
        },
        "on": {"rungs": [LLAMA, HAIKU, GPT, "stale"], **quick, "mid_stream": "continue", "cache": {**cache, "ttl": "1s"}},
        "on-hedged": {
            "rungs": [HAIKU, FLASH, LLAMA, GPT], **quick, "mid_stream": "continue", "attempts": 4,
            "hedge": {"after": "80ms", "spend": "80%"},
        },
        "poor": {"rungs": [{"model": GPT, "budget_at": "30%"}, {"model": LLAMA, "when": ["budget", "server"]}], **quick},
        "dear": {"rungs": [{"model": HAIKU, "cost_per_mtok": "5.5"}, LLAMA], **quick, "prompt_cache": True},
    }  # fmt: skip


@dataclass
class Storm:
    """Simulators that are up to no good, and a gateway before them. ``seen`` is what its clients have."""

    url: str
    config: Path
    pid: int
    sims: dict[str, Simulator]
    upstreams: dict[str, str]
    chance: random.Random
    purse: float
    seen: list[Seen] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    reloads: int = 0

    async def weather(self) -> None:
        """Other faults every now and then: fair, gusty, or an outage of some."""
        while True:
            for name, sim in self.sims.items():
                kind = self.chance.choice(["fair", "gusty", "gusty", "outage" if name != "groq" else "fair"])
                if kind == "fair":
                    sim.faults = ()
                elif kind == "outage":
                    sim.faults = (FaultRule(fault=self.chance.choice(["500", "503", "hang", "429=2", "cut=1"])),)
                else:
                    chosen = self.chance.sample(FAULTS, 5)
                    sim.faults = tuple(
                        FaultRule(fault=fault, probability=self.chance.choice([0.03, 0.1, 0.2])) for fault in chosen
                    )
            await asyncio.sleep(self.chance.uniform(0.5, 3.0))

    async def reconfigure(self) -> None:
        """A new configuration every few seconds; some cannot be read, and change nothing."""
        while True:
            await asyncio.sleep(self.chance.uniform(1.5, 4.0))
            broken = self.chance.random() < 0.2
            self.config.write_text(
                config(self.upstreams, self.chance, self.purse) + ("routes: [" if broken else ""), encoding="utf-8"
            )
            self.reloads += 1
            self.rss_mb.append(_rss_mb(self.pid))

    async def load(self, *, seconds: float, pause_s: float) -> None:
        names, loop = list(routes(self.chance)), asyncio.get_running_loop()
        end_s = loop.time() + seconds
        client = ClientBuilder().build()

        async def one(worker: int) -> None:
            chance = random.Random(f"{self.chance.random()}/{worker}")
            while loop.time() < end_s:
                self.seen.append(await ask(client, self.url, chance.choice(names), chance, leaves=0.1, worker=worker))
                await asyncio.sleep(chance.uniform(0, 2 * pause_s))

        await asyncio.gather(*(one(worker) for worker in range(CLIENTS)))


def config(upstreams: dict[str, str], chance: random.Random, purse: float) -> str:
    """``bursar.yaml``; JSON is YAML. ``purse`` is what each user may spend, in dollars."""
    providers: dict[str, Any] = {name: {"base_url": url, "key_env": "CHAOS_KEY"} for name, url in upstreams.items()}
    providers["nowhere"] = {
        "base_url": "http://127.0.0.1:9/v1",
        "key_env": "CHAOS_KEY",
        "like": "groq",
        "prices": "groq",
    }
    budgets = {
        "all": {"limit": "$500", "per": "day"},
        "users": {"limit": f"${purse:.4f}", "per": "hour", "each": "user"},
    }
    return json.dumps(
        {
            "providers": providers, "routes": routes(chance), "budgets": budgets, "budget_wait_s": 1,
            "cache": {"size_mb": 5, "memory_mb": 2}, "server": {"drain_s": 5, "connect_timeout_s": 2, "read_timeout_s": 20},
        },
        indent=1,
    )  # fmt: skip


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@asynccontextmanager
async def storm(folder: Path, seed: int, purse: float) -> AsyncIterator[Storm]:
    chance = random.Random(seed)
    sims = {
        name: Simulator(seed=seed + number, pace=Pace(5.0, 2_000.0))
        for number, name in enumerate(("openai", "anthropic", "google", "groq"))
    }
    for sim in sims.values():
        sim.calls = deque()  # all of them: they are compared with the books
    one, two, three, four = sims.values()
    async with serve(one) as a, serve(two) as b, serve(three) as c, serve(four) as d:
        upstreams = {
            "openai": f"{a.url}/v1", "anthropic": f"{b.url}/v1", "google": f"{c.url}/v1beta", "groq": f"{d.url}/v1",
        }  # fmt: skip
        path = folder / "bursar.yaml"
        path.write_text(config(upstreams, chance, purse), encoding="utf-8")
        process, url = await start(folder / "data", path)
        try:
            yield Storm(url, path, process.pid, sims, upstreams, chance, purse)
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0


async def weathered(
    folder: Path, *, seconds: float, seed: int, pause_s: float
) -> tuple[Storm, dict[str, list[dict[str, Any]]]]:
    """Run it for so long; what the clients saw, and the rows that were booked, by call."""
    async with storm(folder, seed, purse=seconds * 0.0012) as gale:
        around = [asyncio.create_task(each) for each in (gale.weather(), gale.reconfigure())]
        try:
            await gale.load(seconds=seconds, pause_s=pause_s)
        finally:
            for each in around:
                each.cancel()
            found = await asyncio.gather(*around, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in found), found
    return gale, booked(folder / "data")


def booked(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows by call, in the order of their numbers, once books and ledger are proved."""
    data = open_data(path)
    with closing(open_books_file(data, settings_of(data))) as books, open_ledger(data, books) as ledger:
        found = verify(books, ledger)
        assert found.differences == ()
        assert found.open_holds == 0
        rows = ledger.rows(
            "SELECT call_id, attempt_id, number, status, provider, model, rung, cache, cause, estimated, cost_nanousd,"
            " response_id, input_tokens, output_tokens, http_status, error,"
            ' contains(decision, \'"why":"hedge"\') AS hedge FROM attempt ORDER BY number, attempt_id'
        )
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        calls[row["call_id"]].append(row)
    return calls


def check_seen(gale: Storm, calls: dict[str, list[dict[str, Any]]]) -> None:
    """What each client has is what its rows say."""
    assert [each for each in gale.seen if each.wrong] == []
    wrong = [
        (each, calls.get(each.call_id, [])) for each in gale.seen if not _agrees(each, calls.get(each.call_id, []))
    ]
    assert wrong == []


def _agrees(seen: Seen, rows: list[dict[str, Any]]) -> bool:
    ok = [row for row in rows if row["status"] == "ok"]
    match seen.end:
        case "answer" if seen.cache not in ("", "miss"):
            return (rows[-1]["cache"], rows[-1]["cost_nanousd"]) == (seen.cache, 0)
        case "answer" if seen.stream:
            # A provider may break off when all has been said: the client has its end, and the row says how it went.
            return seen.rung in {row["rung"] for row in rows if row["status"] in ("ok", "cut")}
        case "answer":
            return seen.cost_usd in {_usd(row) for row in ok if row["rung"] == seen.rung}
        case "broken":
            return bool(rows) and seen.rung in {row["rung"] for row in rows}
        case "theirs":
            return any(row["status"] == "error" and row["http_status"] == seen.status for row in rows)
        case "ours":  # what nobody can read is no answer, and has no price
            return all(_usd(row) == "" or row["estimated"] for row in ok)
        case _:
            return seen.end in ("left", "spoiled")


def _usd(row: dict[str, Any]) -> str:
    return "" if row["cost_nanousd"] is None else decimal_text(row["cost_nanousd"])


def check_rows(gale: Storm, calls: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """Every row is numbered, and of what a simulator billed the same figure is booked, to the nano-dollar. Returns figures."""
    served: dict[str, tuple[str, Call]] = {
        call.response_id: (name, call) for name, sim in gale.sims.items() for call in sim.calls if call.response_id
    }
    book, at = bundled_book(), datetime.now(timezone.utc)
    compared = total = billed = gaps = unpriced = 0
    attempts: set[str] = set()
    for rows in calls.values():
        numbers = [row["number"] for row in rows]
        gaps += numbers != list(range(1, len(rows) + 1))
        for row in rows:
            assert row["attempt_id"] not in attempts
            attempts.add(row["attempt_id"])
            unpriced += row["cost_nanousd"] is None
            if row["status"] != "ok" or row["estimated"] or row["cache"] not in ("", "miss") or _usd(row) == "":
                continue
            provider, call = served[row["response_id"]]
            assert provider == row["provider"]
            assert call.fault not in MISCOUNTED
            usage = Reading(usage=call.usage, model=call.model)
            expected = charge(usage, book, provider=provider, model=call.model, at=at).amount
            assert row["cost_nanousd"] == expected, (row, call)
            compared, total, billed = compared + 1, total + row["cost_nanousd"], billed + (expected or 0)
    assert total == billed > 0
    faults = Counter(call.fault for sim in gale.sims.values() for call in sim.calls)
    assert unpriced <= sum(faults[each] for each in (*MISCOUNTED, "wrong-json")), (
        "only what cannot be read has no price"
    )
    ids = [
        row["response_id"]
        for rows in calls.values()
        for row in rows
        if row["response_id"] and row["cache"] in ("", "miss")
    ]
    assert len(ids) == len(set(ids)), "an answer of a provider was booked twice"
    sent = sum(row["cache"] in ("", "miss") for rows in calls.values() for row in rows)
    arrived = sum(len(sim.calls) for sim in gale.sims.values())
    assert arrived <= sent, "a provider was asked and nothing is booked"
    return {
        "compared": compared,
        "nanousd": total,
        "sent": sent,
        "arrived": arrived,
        "gaps": gaps,
        "unpriced": unpriced,
    }


def report(gale: Storm, calls: dict[str, list[dict[str, Any]]], figures: dict[str, int]) -> None:
    ends = Counter(each.end + (f" {each.code}" if each.code else "") for each in gale.seen)
    print(f"\n{len(gale.seen)} calls, {gale.reloads} configurations: {dict(ends.most_common())}")
    rows = [row for each in calls.values() for row in each]
    print(f"rows: {dict(Counter(row['status'] for row in rows).most_common())}")
    print(f"cache: {dict(Counter(row['cache'] for row in rows).most_common())}")
    print(f"causes: {dict(Counter(row['cause'] for row in rows).most_common())}")
    print(f"attempts by call: {dict(sorted(Counter(len(each) for each in calls.values()).items()))}")
    faults = Counter(call.fault for sim in gale.sims.values() for call in sim.calls)
    print(f"hedges: {sum(row['hedge'] for row in rows)}")
    print(f"faults: {dict(faults.most_common())}")
    print(
        f"{figures}; RSS of the gateway {[round(each) for each in gale.rss_mb[:: max(1, len(gale.rss_mb) // 12)]]} MB"
    )


def check(gale: Storm, calls: dict[str, list[dict[str, Any]]]) -> None:
    figures = check_rows(gale, calls)
    report(gale, calls, figures)
    check_seen(gale, calls)
    ends = {each.end for each in gale.seen}
    assert {"answer", "theirs", "ours", "left"} <= ends
    assert figures["gaps"] == 0
    spoiled = sum(each.end == "spoiled" for each in gale.seen)
    assert spoiled <= sum(call.fault == "wrong-json" for sim in gale.sims.values() for call in sim.calls)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_KEY", "sk-of-the-server-1234")


@pytest.mark.timeout(120)
async def test_a_storm(tmp_path: Path) -> None:
    """Some seconds of faults of every kind, with three dialects, clients that leave, and configurations that change."""
    gale, calls = await weathered(tmp_path, seconds=12, seed=3, pause_s=0.2)
    check(gale, calls)


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_a_storm_of_ten_minutes(tmp_path: Path) -> None:
    """The same for ten minutes. The gateway's memory does not grow with the calls."""
    gale, calls = await weathered(tmp_path, seconds=600, seed=11, pause_s=0.2)
    check(gale, calls)
    quarter = len(gale.rss_mb) // 4
    assert gale.rss_mb[-1] < 1.3 * gale.rss_mb[quarter] + 30
