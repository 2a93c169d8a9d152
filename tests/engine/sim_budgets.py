"""Budgets under everything that can happen: one seed is one world of agents, two processes and a clock that errs.

Rule 1: a world is made of its seed alone; whatever fails names it.
Rule 2: after every step the model (``sim_model``) reads the books and checks them.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from budget_asks import Ask, a_budget, at_us, nano
from sim_model import Model, Tracked, fingerprint

from bursar.adapters.books_file import BooksFile
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.retention import compact_books
from bursar.adapters.verify import verify
from bursar.core.admission import Crowded
from bursar.core.budgets import Budget, TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsMore, NotHeld
from bursar.core.errors import BooksBusyError, BooksFailedError
from bursar.core.money import NanoUSD, Rate
from bursar.core.scopes import Scope
from bursar.engine.ship import ship

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
TTL = 900 * SECOND
BERLIN = {"tz": "Europe/Berlin"}

STARTS = (
    "2026-03-28T20:00:00+01:00",
    "2026-10-24T21:00:00+02:00",
    "2028-02-28T20:00:00+01:00",
    "2026-12-31T12:00:00+01:00",
)


def some_budgets(chance: random.Random, now: int) -> tuple[Budget, ...]:
    """Several budgets at once: every unit, kind of window, ``each``, a raise that ends, and both ways of enforcing."""
    until = datetime.fromtimestamp(now // SECOND + chance.randrange(3_600, 200_000), timezone.utc).isoformat()
    raised = {"raise": {"by": nano(70_000), "until": until}} if chance.random() < 0.4 else {}
    streams = chance.choice(["extend", "extend", "clamp"])

    def spec(**more: Any) -> dict[str, Any]:
        floor = chance.choice([16, 64, 256])
        unpriced = chance.choice(["deny", "allow", "assume-$0.00002", "assume-$0.00001"])
        return {"floor_tokens": floor, "on_unpriced": unpriced, "streams": streams, **more}

    money = [
        a_budget("org", **spec(limit=nano(chance.randrange(150_000, 700_000)), **raised)),
        a_budget("clock", **spec(limit={"hour": nano(90_000), "day": nano(250_000)}, **BERLIN)),
        a_budget("month", **spec(limit=nano(400_000), per="month", reserve=nano(30_000), **BERLIN)),
        a_budget("user", **spec(limit=nano(60_000), per="day", each="user", **BERLIN)),
        a_budget("tasks", **spec(limit=nano(120_000), each="task")),
        a_budget("roll", **spec(limit={"90m": nano(80_000), "24h": nano(300_000)})),
        a_budget("watch", **spec(limit=nano(50_000), enforce=False)),
        a_budget("zero", **spec(limit=0, match={"user": "nobody"})),
    ]
    counts = [
        a_budget("tokens", **spec(limit=f"{chance.randrange(8_000, 40_000)} tokens", per="day", **BERLIN)),
        a_budget("calls", **spec(limit=f"{chance.randrange(5, 40)} calls", per="hour", each="team", **BERLIN)),
    ]
    chosen = chance.sample(money, chance.randrange(1, 5)) + chance.sample(counts, chance.randrange(0, 3))
    return tuple(chosen)


class World:
    """One file, two processes, one model."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.now = at_us(self.chance.choice(STARTS))
        self.budgets = some_budgets(self.chance, self.now)
        self.path = folder / f"books-{seed}.sqlite3"
        self.files = [self._open(), self._open()]
        self.ledger = DuckLedger(None)
        self.model = Model(self.budgets)
        self.tasks: list[str] = []
        self.count: Counter[str] = Counter()
        self.said: list[tuple[Tracked, Any]] = []
        self._number = 0

    def _open(self) -> BooksFile:
        file = BooksFile(self.path, clock_us=lambda: self.now, hold_ttl_us=TTL)
        file.never_wait()
        return file

    @property
    def file(self) -> BooksFile:
        return self.chance.choice(self.files)

    def close(self) -> None:
        for file in self.files:
            file.close()
        self.ledger.close()

    def run(self, steps: int) -> None:
        """``steps`` things that happen, and an end at which nothing is left."""
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.ask, 34), (self.settle, 18), (self.cancel, 10), (self.extend, 12), (self.again, 8), (self.crash, 6),
            (self.late, 9), (self.sweep, 3), (self.clock, 12), (self.busy, 2), (self.full, 3), (self.compact, 1),
        ]  # fmt: skip
        for _ in range(steps):
            step = self.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
            step()
            self.model.check(self.files[0], self.now)
        self.end()

    # --- calls ------------------------------------------------------------------------------------------------

    def an_ask(self) -> Ask:
        chance = self.chance
        self._number += 1
        task, stated = self._a_task()
        clampable = chance.random() < 0.7
        cap = chance.choice([0, 40, 300, 1_000, 4_000, 12_000])
        return Ask(
            name=f"c{self._number}",
            at=self.now,
            scope=Scope(
                team=chance.choice(["red", "blue"]),
                user=chance.choice(["ann", "bob", "eve", ""]),
                task=task,
                key=chance.choice(["k1", "k2"]),
            ),
            input=None if chance.random() < 0.12 else chance.randrange(0, 8_000),
            input_tokens=chance.randrange(1, 900),
            rate=chance.choice([Rate(0, 1), Rate(10, 1), Rate(7, 3), Rate(33, 1), Rate(25, 2)]),
            cap=cap,
            likely=chance.choice([50, 300, 900]),
            clampable=clampable,
            stream=chance.random() < 0.6,
            final=chance.random() < 0.15,
            task=stated,
            estimated=chance.choice([0, 30, 100]),
            patient=chance.random() < 0.5,
        )

    def _a_task(self) -> tuple[str, TaskLimit | None]:
        """A task that may be new, may open a limit, and may say (truly or not) where it stands."""
        chance = self.chance
        if chance.random() < 0.35:
            return "", None
        if not self.tasks or chance.random() < 0.2:
            self.tasks.append(f"t{len(self.tasks)}")
            name = self.tasks[-1]
            parent = chance.choice(self.tasks[-6:]) if chance.random() < 0.75 else ""
        else:
            name = chance.choice(self.tasks[-8:])
            parent = chance.choice(self.tasks) if chance.random() < 0.1 else ""
        limit = chance.choice([20_000, 60_000, 150_000, 10**9]) if chance.random() < 0.35 else None
        if limit is None and not parent:
            return name, None
        kept = NanoUSD(chance.choice([0, 0, 9_000])) if limit else NanoUSD(0)
        return name, TaskLimit(name, parent, None if limit is None else NanoUSD(limit), kept)

    def ask(self) -> None:
        """One call or several of one turn, some said twice, with the endings of others before them."""
        chance = self.chance
        asks = [self.an_ask() for _ in range(chance.choice([1, 1, 1, 2, 5]))]
        endings = [(one, self._ending(one)) for one in chance.sample(self.model.open(), min(len(self.model.open()), 2))]
        endings = endings if chance.random() < 0.3 else []
        needs = [ask.need(self.budgets) for ask in asks for _ in range(chance.choice([1, 1, 1, 1, 3]))]
        outcomes = self.file.apply([*(ending for _, ending in endings), *needs])
        for one, ending in endings:
            self._ended(one, ending)
        fresh: dict[str, Any] = {}
        for need, outcome in zip(needs, outcomes[len(endings) :], strict=True):
            fresh.setdefault(need.opening.attempt_id, outcome)
        self._answered(asks, fresh)

    def _answered(self, asks: list[Ask], outcomes: dict[str, Any]) -> None:
        held: list[Tracked] = []
        refused: list[tuple[Ask, str]] = []
        for ask in asks:
            outcome = outcomes[ask.opening.attempt_id]
            self.model.place(ask)
            if isinstance(outcome, Held):
                self.count["admitted"] += 1
                tracked = self.model.track(ask, outcome, self.model.groups_of(ask))
                held.append(tracked)
                self.said.append((tracked, ask.need(self.budgets)))
            else:
                refusal = outcome.refusal
                assert refusal is not None, outcome
                self.count["refused"] += 1
                crowded = isinstance(outcome, Crowded)
                assert not crowded or ask.patient
                refused.append((ask, "crowded" if crowded else refusal.code))
        self.model.read(self.files[0])
        for tracked in held:
            self.model.check_held(tracked, final=any(ask.final for ask in asks))
        for ask, code in refused:
            self.model.check_refused(ask, code)

    def _ending(self, one: Tracked, status: Any = "ok") -> Any:
        """Any cost up to what was allowed: input up to its bound, output up to the cap or what the stream asked for."""
        chance, ask = self.chance, one.ask
        tokens = chance.choice([0, one.output, chance.randrange(0, one.output + 1)])
        given = chance.choice([0, ask.input_tokens, chance.randrange(0, ask.input_tokens + 1)])
        amount = None
        if ask.input is not None:
            amount = chance.choice([0, ask.input, chance.randrange(0, ask.input + 1)]) + ask.rate.cost(tokens)
        if chance.random() < 0.08:
            amount, tokens, given, status = (None if amount is None else 0), 0, 0, "error"
        ended = ask.ended(one.held, amount, tokens, status)
        assert ended.attempt is not None
        charge = ask.charge(amount, tokens, given)
        return replace(ended, attempt=replace(ended.attempt, charge=charge))

    def _ended(self, one: Tracked, ending: Any) -> None:
        one.ending = ending
        self.said.append((one, ending))

    def settle(self) -> None:
        """An attempt that ends, however late."""
        if opened := self.model.open():
            one = self.chance.choice(opened)
            ending = self._ending(one)
            self.file.apply([ending] * self.chance.choice([1, 1, 2, 3]))
            self._ended(one, ending)
            self.count["settled"] += 1

    def cancel(self) -> None:
        """A caller that goes away: before anything left, or at any moment of the answer."""
        if opened := self.model.open():
            one = self.chance.choice(opened)
            ending = one.ask.voided(one.held) if self.chance.random() < 0.4 else self._ending(one, "cancelled")
            self.file.apply([ending] * self.chance.choice([1, 2]))
            self._ended(one, ending)
            self.count["cancelled"] += 1

    def extend(self) -> None:
        """A stream that asks for its next chunk."""
        running = [t for t in self.model.open() if t.held.admitted and t.held.admitted.extend and t.output < t.ask.cap]
        if not running:
            return
        one = self.chance.choice(running)
        to = min(one.output + self.chance.choice([50, 256, 2_000]), one.ask.cap)
        offer = one.held.admitted.offer if one.held.admitted else None
        assert offer is not None
        amount = offer.cost(to) - offer.cost(one.output) if offer.input is not None else 0
        need = NeedsMore(one.held.opening or one.ask.opening, one.held, amount, to - one.output)
        (outcome,) = self.file.apply([need])
        if outcome is None:
            self.count["extended"] += 1
            self.model.extended(one, amount, to - one.output)
            one.output = to
            return
        assert isinstance(outcome, NotHeld)
        assert outcome.refusal is not None
        self.model.read(self.files[0])
        final = one.held.admitted is not None and one.held.admitted.final
        most = [
            (group, limit - (0 if final else kept))
            for group, limit, kept in zip(one.groups, one.limits, one.kept, strict=True)
            if limit is not None
        ]
        needs = {"usd": amount, "tokens": to - one.output, "calls": 0}
        used = [sum(g.use(one.ask.at, widest=True)) + needs[g.unit] for g, _ in most]
        assert any(use > limit for use, (_, limit) in zip(used, most, strict=True)), "an extension refused without need"

    # --- trouble ----------------------------------------------------------------------------------------------

    def again(self) -> None:
        """What was said is said again: nothing changes."""
        said = [(one, operation) for one, operation in self.said if self._may_repeat(one, operation)]
        if said:
            before = fingerprint(self.files[0])
            for _, operation in self.chance.choices(said, k=3):
                self.file.apply([operation] * self.chance.choice([1, 2]))
            assert fingerprint(self.files[0]) == before, "a replay changed the books"

    @staticmethod
    def _may_repeat(one: Tracked, operation: Any) -> bool:
        """Holds always; endings once they were said. What is summed up is forgotten: nobody asks after so long."""
        return not one.compacted and (isinstance(operation, NeedsHold) or operation is one.ending)

    def crash(self) -> None:
        """Every process dies; the next start charges the estimate of what was open, also of what others had open."""
        for file in self.files if self.chance.random() < 0.5 else self.files[:1]:
            file.close()
            self.files[self.files.index(file)] = self._open()
        opened = len(self.model.open())
        assert self.files[0].expire(before_us=None) == opened
        assert self.files[0].open_holds() == 0
        self.count["crashes"] += 1
        self.count["expired"] += opened

    def late(self) -> None:
        """A settlement from before a crash or an expiry arrives: once, twice, or not at all."""
        expired = [one for one in self.model.tracked.values() if one.state == "expired" and not one.compacted]
        if expired:
            one = self.chance.choice(expired[-20:])
            ending = self._ending(one)
            self.file.apply([ending] * self.chance.choice([1, 2]))
            self._ended(one, ending)
            self.count["late"] += 1

    def sweep(self) -> None:
        """The sweeper ends what is past its time, but not what is alive."""
        alive = {one.attempt_id for one in self.model.open() if self.chance.random() < 0.3}
        self.count["expired"] += self.file.expire(before_us=self.now, keep=alive.__contains__)

    def clock(self) -> None:
        """Time goes on, jumps to and over the edges of windows, stands still, or goes back."""
        jump = self.chance.choice([0, 1, SECOND, 60 * SECOND, TTL + 1, HOUR, 5 * HOUR, DAY, -SECOND, -HOUR, -7 * HOUR])
        if self.chance.random() < 0.2:
            jump = HOUR - self.now % HOUR + self.chance.choice([-1, 0, 1])
        self.now += jump

    def busy(self) -> None:
        """Another process keeps the database: nothing happens, and that is said."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BooksBusyError):
            self.file.apply([self.an_ask().need(self.budgets)])
        other.execute("COMMIT")
        other.close()

    def full(self) -> None:
        """The disk is full when the balances are written: nothing of the transaction is there, not even its tasks."""
        file: Any = self.file
        before = fingerprint(file)

        def fail(*_: Any) -> None:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

        file._post_deltas = fail
        ask = self.an_ask()
        ending = [self._ending(one) for one in self.model.open()[:1]]
        try:
            file.apply([*ending, ask.need(self.budgets)])
        except BooksFailedError:
            assert fingerprint(file) == before
        else:
            self.model.place(ask)  # it was refused, and all that was written is what it says of its task
        finally:
            del file._post_deltas

    def compact(self) -> None:
        """Retention sums up what ended long ago, as far as the ledger has it."""
        file = self.files[0]
        self.model.read(file)
        ship(file, self.ledger)
        age = self.chance.choice([HOUR, DAY, 2 * DAY])
        done = compact_books(file, before_us=self.now - age, shipped=self.ledger.last_sequence(), batch=7)
        self.count["compacted"] += done.deleted
        self.model.compacted(file)

    # --- the end ----------------------------------------------------------------------------------------------

    def end(self) -> None:
        """After a drain, and the time that a hold may live, nothing is held; all said again changes nothing."""
        for one in self.model.open():
            if self.chance.random() < 0.5:
                ending = self._ending(one)
                self.file.apply([ending])
                self._ended(one, ending)
        self.now += 100 * DAY + TTL + SECOND
        self.count["expired"] += self.files[0].expire(before_us=self.now)
        self.model.check(self.files[0], self.now)
        assert self.files[0].open_holds() == 0
        assert all(not any(sums[column] for column in (0, 3, 5)) for sums in self.model.sums.values()), (
            "something leaked"
        )
        ended = sum(self.model.kinds[kind] for kind in ("settle", "void", "expire"))
        assert ended == self.model.kinds["hold"] == self.count["admitted"], "an admitted attempt did not end once"
        before = fingerprint(self.files[0])
        for one, operation in self.said:
            if self._may_repeat(one, operation):
                self.files[0].apply([operation])
        assert fingerprint(self.files[0]) == before, "saying all of it again changed the books"
        found = verify(self.files[0], self.ledger)
        assert found.differences == (), found.differences[:3]


def run_world(seed: int, folder: Path, *, steps: int) -> Counter[str]:
    """One world from its seed. What fails is told with it."""
    world = World(seed, folder)
    try:
        world.run(steps)
    except BaseException:
        print(f"seed {seed} failed after {sum(world.count.values())} events: {dict(world.count)}")
        raise
    finally:
        world.close()
        for path in folder.glob(f"books-{seed}.sqlite3*"):
            path.unlink()
    return world.count
