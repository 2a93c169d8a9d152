"""Many callers at once on one loop: they are cancelled anywhere, the provider fails anyhow, the books are busy, full, killed.

Rule 1: every call goes through ``engine.drive``; nothing else may hold or settle.
Rule 2: after every turn each account is within its limit; at the end of a life nothing is held; who waits is answered.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from budget_asks import Ask, a_budget, nano

from bursar.adapters import books_async
from bursar.adapters.books_async import AsyncBooks
from bursar.adapters.books_file import BooksFile
from bursar.core.budgets import TaskLimit
from bursar.core.call import Arrived, Held, NeedsMore, NeedsProvider, Reply, Settled
from bursar.core.errors import BooksFailedError
from bursar.core.money import NanoUSD, Rate
from bursar.core.prices import Reading
from bursar.core.scopes import Scope
from bursar.core.usage import Usage
from bursar.engine.drive import drive

WAIT_S = 0.04
LOOK_AGAIN_S = 0.01
SLACK_S = 2.0
CALLS = 60


class Provider:
    """``engine.ports.Upstream`` that streams, asks for more, and breaks in every way."""

    def __init__(self, ask: Ask, books: AsyncBooks, chance: random.Random) -> None:
        self._ask, self._books, self._chance = ask, books, chance
        self._given, self._written = 0, 0
        self.reached = 0.0

    async def send(self, need: NeedsProvider, /) -> Reply:
        chance, ask = self._chance, self._ask
        self.reached = asyncio.get_running_loop().time()
        fate = chance.random()
        if fate < 0.05:
            return Reply(Reading(billed=False, usage=Usage()), "error")
        if fate < 0.1:
            return Reply(Reading(error="not reached"), "error", left=False)
        self._given = chance.randrange(0, ask.input_tokens + 1)
        covered, most = self._covered(need.held), ask.cap
        admitted = need.held.admitted
        for _ in range(chance.randrange(1, 6)):
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))
            if admitted and admitted.extend and covered < most and chance.random() < 0.7:
                to = min(covered + 200, most)
                amount = admitted.offer.cost(to) - admitted.offer.cost(covered)
                if await self._books.extend(NeedsMore(need.opening, need.held, amount, to - covered)) is not None:
                    return self._reply("ended")
                covered = to
            self._written = max(self._written, chance.randrange(covered // 10 + 1))
            if chance.random() < 0.06:
                raise chance.choice([RuntimeError("broken"), KeyError("lost"), GeneratorExit(), MemoryError()])
        self._written = chance.choice([self._written] * 9 + [covered])
        return self._reply("ok")

    def _covered(self, held: Held) -> int:
        admitted = held.admitted
        if admitted is None or (admitted.output_cap is None and not admitted.extend):
            return self._ask.cap
        return admitted.output_tokens

    def interrupted(self) -> Reply:
        if not self.reached:
            return Reply(Reading(), "error", left=False)
        return self._reply("cancelled")

    def _reply(self, status: Any) -> Reply:
        return Reply(Reading(Usage(input_tokens=self._given, output_tokens=self._written)), status)


class Life:
    """One process: from its start to its drain or its death. ``path`` is the file that outlives it."""

    def __init__(self, seed: int, path: Path, number: int, count: Counter[str]) -> None:
        self.chance = random.Random(seed * 1_000 + number)
        self.path, self.number, self.count = path, number, count
        self.seed = seed
        chance = random.Random(seed)  # the same budgets in every life
        self.budgets = (
            a_budget("org", limit=nano(chance.randrange(200_000, 900_000)), streams="extend", floor_tokens=256),
            a_budget(
                "user", limit=nano(400_000), each="user", streams=chance.choice(["extend", "clamp"]), floor_tokens=256
            ),
            a_budget("tokens", limit="150k tokens", each="team", streams="extend", floor_tokens=256),
            a_budget("calls", limit="90 calls", each="user", streams="extend", floor_tokens=256),
            a_budget("watch", limit=nano(1_000), enforce=False, streams="extend", floor_tokens=256),
        )
        self.file = BooksFile(path, clock_us=lambda: number * 1_000_000, hold_ttl_us=1_000_000)
        self.count["expired"] += self.file.expire(before_us=None)
        self.books = AsyncBooks(self.file, wait_s=WAIT_S)
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    def an_ask(self, number: int) -> Ask:
        """A call of a tree of tasks: a root with a limit, children, grandchildren; each says where it stands."""
        chance = self.chance
        root = f"r{self.number}-{chance.randrange(3)}"
        child, grandchild = f"{root}-{chance.randrange(3)}", f"{root}-{chance.randrange(3)}-sub"
        task = chance.choice([
            TaskLimit(root, "", NanoUSD(150_000)), TaskLimit(child, root), TaskLimit(child, root, NanoUSD(10**6)),
            TaskLimit(grandchild, grandchild.removesuffix("-sub")), None,
        ])  # fmt: skip
        return Ask(
            name=f"s{self.seed}-{self.number}-{number}",
            scope=Scope(
                user=chance.choice("abcd"),
                team=chance.choice("xy"),
                task=task.task if task else "",
            ),
            input=chance.randrange(0, 4_000),
            input_tokens=chance.randrange(1, 500),
            rate=chance.choice([Rate(10, 1), Rate(7, 3)]),
            cap=chance.choice([100, 1_000, 5_000]),
            likely=chance.choice([100, 600]),
            clampable=chance.random() < 0.5,
            patient=True,
            stream=chance.random() < 0.5,
            final=chance.random() < 0.1,
            task=task,
        )

    def _open_roots(self) -> None:
        """A limit counts from when it is opened: the roots open theirs before anything is held below them."""
        for number in range(3):
            root = f"r{self.number}-{number}"
            stated = TaskLimit(root, "", NanoUSD(150_000), NanoUSD(5_000))
            ask = Ask(f"open-{root}", scope=Scope(task=root), task=stated, input=0, input_tokens=1, cap=0)
            (held,) = self.file.apply([ask.need()])
            assert isinstance(held, Held)
            self.file.apply([ask.voided(held)])

    async def run(self) -> None:
        self._open_roots()
        troubles = [asyncio.create_task(self._busy()), asyncio.create_task(self._full())]
        killed = self.chance.random() < 0.5
        callers = [asyncio.create_task(self._caller(number)) for number in range(CALLS)]
        if killed:
            await asyncio.sleep(self.chance.uniform(0.005, 0.15))
            await self._kill()
            return
        await asyncio.gather(*callers)
        for trouble in troubles:
            trouble.cancel()
        await asyncio.gather(*troubles, return_exceptions=True)
        await self._end()

    async def _caller(self, number: int) -> None:
        chance, ask = self.chance, self.an_ask(number)
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02, 0.05]))
        provider = Provider(ask, self.books, chance)
        need = ask.need(self.budgets)
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = asyncio.create_task(
            drive(
                Arrived(need.opening, need.claim), self.books, provider,
                lambda _, reply: ask.charge(*_bill(ask, reply)),
            )
        )  # fmt: skip
        canceller = (
            asyncio.create_task(self._cancel(task, provider, patient=ask.patient)) if chance.random() < 0.6 else None
        )
        refused = False
        try:
            refused = not isinstance(await task, Settled)
            self.count["refused" if refused else "settled"] += 1
        except asyncio.CancelledError:
            self.count["cancelled"] += 1
        except (RuntimeError, KeyError, GeneratorExit, MemoryError):  # passed on, after it was settled
            self.count["broken"] += 1
        answered = provider.reached or (loop.time() if refused else began)
        assert answered - began < WAIT_S + LOOK_AGAIN_S + SLACK_S, f"{ask.name} waited {answered - began:.3f} s"
        if canceller is not None:
            canceller.cancel()
        self.check()

    async def _cancel(self, task: asyncio.Task[Any], provider: Provider, *, patient: bool) -> None:
        for _ in range(self.chance.choice([0, 1, 2, 3, 5, 8])):
            await asyncio.sleep(0)
        await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.005, 0.03]))
        for _ in range(self.chance.choice([1, 1, 2])):
            task.cancel()
            await asyncio.sleep(0)

    # --- trouble ----------------------------------------------------------------------------------------------

    async def _busy(self) -> None:
        """Another process writes now and then."""
        while True:
            await asyncio.sleep(self.chance.uniform(0.002, 0.02))
            other = sqlite3.connect(self.path, isolation_level=None, timeout=0)
            with suppress(sqlite3.OperationalError):
                other.execute("BEGIN IMMEDIATE")
            try:
                await asyncio.sleep(self.chance.uniform(0, 0.006))
            finally:
                other.close()

    async def _full(self) -> None:
        """The disk is full for a moment."""
        while True:
            await asyncio.sleep(self.chance.uniform(0.02, 0.2))
            file: Any = self.file
            file.apply = _no_space
            try:
                await asyncio.sleep(self.chance.uniform(0, 0.01))
            finally:
                del file.apply

    async def _kill(self) -> None:
        """The process is gone: what was not committed never will be, and nobody settles what was."""
        books: Any = self.books
        books._schedule = books._look_again = lambda: None
        books._again = lambda _: None
        books._queue, books._lines = deque(), {}
        self.count["crashes"] += 1
        while others := asyncio.all_tasks() - {asyncio.current_task()}:  # type: ignore[arg-type]
            for task in others:
                task.cancel()
            await asyncio.sleep(0)
        self.check()
        self.file.close()

    # --- what must hold ---------------------------------------------------------------------------------------

    async def _end(self) -> None:
        async with asyncio.timeout(5):
            while self.books.pending or self.books.waiting:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)
        await asyncio.sleep(0)
        self.check()
        assert self.file.open_holds() == 0, "something is held and nobody will settle it"
        assert all(b.held == b.held_tokens == b.held_calls == 0 for b in self.file.balances())
        kinds = Counter(dict(self.file.connection.execute("SELECT kind, count(*) FROM entry GROUP BY kind").fetchall()))
        assert kinds["hold"] == kinds["settle"] + kinds["void"] + kinds["expire"], kinds
        assert self._sums() == {b.account: (b.held, b.spent) for b in self.file.balances()}
        self.file.close()

    def _sums(self) -> dict[str, tuple[int, int]]:
        sums: dict[str, tuple[int, int]] = {}
        for text, held, spent in self.file.connection.execute(
            "SELECT accounts, held_nanousd, spent_nanousd FROM entry"
        ):
            for account in json.loads(text):
                before = sums.get(account, (0, 0))
                sums[account] = (before[0] + held, before[1] + spent)
        return sums

    def check(self) -> None:
        """No account is over. Nothing is explained: what expired was charged less than was held, and nobody came late."""
        db = self.file.connection
        tasks = dict(db.execute("SELECT 'task:' || task, limit_nanousd FROM task WHERE limit_nanousd IS NOT NULL"))
        budgets = {budget.name: budget for budget in self.budgets if budget.enforce}
        for b in self.file.balances():
            assert min(b.held, b.held_tokens, b.held_calls) >= 0, b
            budget = budgets.get(b.account.removeprefix("budget:").partition("=")[0])
            if budget is not None:
                used = {
                    "usd": b.held + b.spent, "tokens": b.held_tokens + b.spent_tokens, "calls": b.held_calls + b.spent_calls,
                }[budget.unit]  # fmt: skip
                assert used <= budget.limits[0].amount, b
            if b.account in tasks:
                assert b.held + b.spent <= tasks[b.account], b


def _bill(ask: Ask, reply: Reply) -> tuple[int, int, int]:
    usage = reply.reading.usage or Usage()
    if not reply.reading.billed:
        return 0, 0, 0
    share = (ask.input or 0) * usage.input_tokens // ask.input_tokens
    return share + ask.rate.cost(usage.output_tokens), usage.output_tokens, usage.input_tokens


def _no_space(_operations: Any) -> Any:
    raise BooksFailedError("database or disk is full")


def run_lives(seed: int, folder: Path, *, lives: int) -> Counter[str]:
    """Several lives of one gateway on one file, each on a loop of its own."""
    count: Counter[str] = Counter()
    path = folder / f"lives-{seed}.sqlite3"
    before = books_async._LOOK_AGAIN_S, books_async._FAILED_RETRY_S
    books_async._LOOK_AGAIN_S, books_async._FAILED_RETRY_S = LOOK_AGAIN_S, 0.01  # type: ignore[misc]

    async def live(number: int) -> None:
        await Life(seed, path, number, count).run()

    try:
        for number in range(lives):
            asyncio.run(live(number))
    except BaseException:
        print(f"seed {seed} failed: {dict(count)}")
        raise
    finally:
        books_async._LOOK_AGAIN_S, books_async._FAILED_RETRY_S = before  # type: ignore[misc]
        for left in folder.glob(f"{path.name}*"):
            left.unlink()
    return count
