"""What the books must say, worked out a second time: from their entries, by attempt, without their accounts.

Rule 1: an attempt belongs to groups: one for each window of each budget that covers it, one for its task and each above.
        Which ones, and where a window begins, is found here anew; names of accounts and ``core.admission`` are not used.
Rule 2: ``spent + held <= limit`` in every group, but for what is explained: of each attempt that was settled after its
        hold had expired, no more than what had been held of it above the estimate that the expiry charged; what was used
        when a limit was set or lowered, and what attempts that no budget had looked at before that then cost above their
        estimate; what a stream asked for under the limit it was admitted with; and what is observed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from budget_asks import Ask

from bursar.adapters.books_file import BooksFile
from bursar.core.budgets import FLOOR_TOKENS, Budget, Limit
from bursar.core.call import Held, NeedsSettlement

COLUMNS = "held_nanousd, spent_nanousd, unpriced, held_tokens, spent_tokens, held_calls, spent_calls, assumed_nanousd"
DEPTH_MAX = 32


@dataclass
class Group:
    """The attempts that share one limit. ``limit`` None: a task without one."""

    name: str
    unit: str = "usd"
    limit: int | None = None
    kept: int = 0
    budget: Budget | None = None
    rolling_us: int = 0
    totals: list[int] = field(default_factory=lambda: [0] * 8)
    members: list[Tracked] = field(default_factory=list)
    explained: int = 0

    @property
    def enforced(self) -> bool:
        return self.limit is not None and (self.budget is None or self.budget.enforce)

    def limit_at(self, at: int) -> int:
        assert self.limit is not None
        raised = self.budget.raised if self.budget else None
        return self.limit + (raised.by if raised and at < raised.until_us else 0)

    def use(self, at: int, *, widest: bool = False) -> tuple[int, int]:
        """What is spent and held; of a rolling window, in the time before ``at``. ``widest`` is what may be counted against
        a call: a sixtieth before the window too, and what came after it, with which it shares a window."""
        totals = self.totals
        if self.rolling_us:
            part = -(-self.rolling_us // 60_000_000) * 1_000_000
            since = at - self.rolling_us - (part if widest else 0)
            until = at + (self.rolling_us + 2 * part if widest else 0)
            inside = [one.totals for one in self.members if since < one.ask.at <= until]
            totals = [sum(column) for column in zip(*inside, strict=True)] if inside else [0] * 8
        held, spent, _, held_tokens, spent_tokens, held_calls, spent_calls, assumed = totals
        if self.unit == "tokens":
            return spent_tokens, held_tokens
        if self.unit == "calls":
            return spent_calls, held_calls
        return spent + (0 if self.budget and self.budget.on_unpriced == "allow" else assumed), held

    def need(self, ask: Ask, tokens: int, assumed: int = 0) -> int | None:
        """What a call with so long an answer takes of it, at most. ``assumed`` is what is held for one without a price."""
        if self.unit == "tokens":
            return ask.input_tokens + tokens
        if self.unit == "calls":
            return 1
        if ask.input is None:
            return None if self.budget is None or self.budget.on_unpriced == "deny" else assumed
        return ask.input - (-ask.rate.numerator * tokens // ask.rate.denominator)


@dataclass
class Tracked:
    """An attempt that was held. ``output`` is how many output tokens its hold pays for."""

    ask: Ask
    held: Held
    groups: list[Group]
    limits: list[int | None]
    kept: list[int]
    output: int
    ending: NeedsSettlement | None = None
    state: str = "open"
    held_at_most: list[int] = field(default_factory=lambda: [0, 0])
    totals: list[int] = field(default_factory=lambda: [0] * 8)
    spoken: int = 0
    compacted: bool = False

    @property
    def attempt_id(self) -> str:
        return self.ask.opening.attempt_id


class Model:
    """Follows the entries of a file and says what is wrong with them."""

    def __init__(self, budgets: Sequence[Budget], sequence: int = 0) -> None:
        self.budgets = budgets
        self.groups: dict[str, Group] = {}
        self.tracked: dict[str, Tracked] = {}
        self.parents: dict[str, str] = {}
        self.openers: dict[str, str] = {}
        self.sums: dict[str, list[int]] = defaultdict(lambda: [0] * 8)
        self.sequence = sequence
        self.kinds: dict[str, int] = defaultdict(int)
        self._endings: set[str] = set()
        self._changed: list[tuple[Group, int]] = []

    # --- who belongs where ------------------------------------------------------------------------------------

    def place(self, ask: Ask) -> None:
        """What a call says of its task, as far as it is believed: the first word counts, its own key may lower."""
        stated, name = ask.task, ask.scope.task
        if stated is None:
            return
        known = name in self.openers or f"task:{name}" in self.sums
        if known and self.openers.get(name, "") != ask.scope.key:
            return  # another key has begun it
        self.openers.setdefault(name, ask.scope.key)
        if stated.parent and not self.parents.get(name):
            above = self._above(stated.parent)
            if name not in above and len(above) < DEPTH_MAX:
                self.parents[name] = stated.parent
        group = self._task(name)
        lowers = group.limit is not None and stated.limit is not None and stated.limit < group.limit
        if stated.limit is None or (group.limit is not None and not lowers):
            return
        self._changed.append((group, ask.at))
        group.limit, group.kept = stated.limit, min(stated.reserve, stated.limit)

    def _above(self, task: str) -> list[str]:
        chain = []
        while task and len(chain) < DEPTH_MAX:
            chain.append(task)
            task = self.parents.get(task, "")
        return chain

    def _task(self, name: str) -> Group:
        return self.groups.setdefault(f"task {name}", Group(f"task {name}"))

    def groups_of(self, ask: Ask) -> list[Group]:
        chain = self._above(ask.scope.task)
        found = [self._task(name) for name in chain]
        for budget in self.budgets:
            if budget.covers(ask.scope):
                subjects = chain if budget.each == "task" else [getattr(ask.scope, budget.each) if budget.each else ""]
                found += [self._window(budget, limit, who, ask.at) for who in subjects for limit in budget.limits]
        return found

    def _window(self, budget: Budget, limit: Limit, subject: str, at: int) -> Group:
        window = limit.window
        local = datetime.fromtimestamp(at // 1_000_000, window.zone)
        form = {"hour": "%Y-%m-%d %H %z", "day": "%Y-%m-%d", "week": "%G-%V", "month": "%Y-%m"}.get(window.kind, "")
        name = f"{budget.name} {window.text} {subject} {local.strftime(form) if form else ''}"
        made = Group(name, budget.unit, limit.amount, budget.reserve, budget, window.length_us)
        return self.groups.setdefault(name, made)

    # --- following the entries --------------------------------------------------------------------------------

    def track(self, ask: Ask, held: Held, groups: list[Group]) -> Tracked:
        output = held.admitted.output_tokens if held.admitted else ask.cap
        if held.admitted and held.admitted.output_cap is None and not held.admitted.extend:
            output = ask.cap
        limits = [group.limit_at(ask.at) if group.enforced else None for group in groups]
        kept = [group.kept for group in groups]
        found = self.tracked[ask.opening.attempt_id] = Tracked(ask, held, groups, limits, kept, output)
        for group in groups:
            group.members.append(found)
        return found

    def read(self, books: BooksFile) -> None:
        """Take in the entries that are new."""
        rows = books.connection.execute(
            f"SELECT sequence, attempt_id, stage, kind, accounts, {COLUMNS} FROM entry WHERE sequence > ? ORDER BY sequence",
            (self.sequence,),
        )
        for sequence, attempt_id, stage, kind, accounts, *changes in rows:
            self.sequence = sequence
            self.kinds[kind] += 1
            for account in json.loads(accounts):
                self.sums[account] = _plus(self.sums[account], changes)
            tracked = self.tracked[attempt_id]
            tracked.totals = _plus(tracked.totals, changes)
            tracked.held_at_most[0] += max(0, changes[0])
            tracked.held_at_most[1] += max(0, changes[3])
            for group in tracked.groups:
                group.totals = _plus(group.totals, changes)
            if stage == 1 and tracked.held.admitted is None:
                self._unlimited(tracked, changes)
            if stage == 1:
                assert attempt_id not in self._endings, f"{attempt_id} ended twice"
                self._endings.add(attempt_id)
                tracked.state = "expired" if kind == "expire" else "ended"
            elif kind == "adjust":
                self._corrected(tracked, changes)
            elif kind == "extend":
                assert attempt_id not in self._endings, f"{attempt_id} was extended after its end"
        for group, at in self._changed:
            assert group.limit is not None
            group.explained = max(0, sum(group.use(at)) - group.limit)
        self._changed.clear()

    @staticmethod
    def _unlimited(tracked: Tracked, changes: list[int]) -> None:
        """What no budget looked at was held at its estimate; a limit that was opened since bears what it cost."""
        for group in tracked.groups:
            if group.unit == "usd":
                group.explained += max(0, changes[0] + changes[1])

    def _corrected(self, tracked: Tracked, changes: list[int]) -> None:
        """A late settlement: it may go over by what was held above the estimate, and by no more."""
        assert tracked.state == "expired", f"{tracked.attempt_id} was corrected without an expiry"
        tracked.state = "corrected"
        money, tokens = tracked.held_at_most
        if tracked.held.admitted is None:
            self._unlimited(tracked, changes)
            return
        if tracked.held.checks and tracked.ask.input is not None:
            assert tracked.totals[1] <= money, f"{tracked.attempt_id} spent more than was held"
            assert tracked.totals[4] <= tokens, f"{tracked.attempt_id} used more tokens than were held"
        for group in tracked.groups:
            if group.unit == "usd":
                group.explained += max(0, money - (tracked.totals[1] - changes[1]))
            elif group.unit == "tokens":
                group.explained += max(0, tokens - (tracked.totals[4] - changes[4]))

    def extended(self, tracked: Tracked, amount: int, tokens: int) -> None:
        """A stream asked for more under the limits it was admitted with; those may have been lowered since."""
        for group, limit in zip(tracked.groups, tracked.limits, strict=True):
            now = group.limit_at(tracked.ask.at) if group.limit is not None else None
            if now is not None and (limit is None or limit > now):
                group.explained += {"usd": amount, "tokens": tokens, "calls": 0}[group.unit]

    # --- what must hold ---------------------------------------------------------------------------------------

    def check(self, books: BooksFile, now: int) -> None:
        """Every invariant that holds after every step."""
        self.read(books)
        balances = {
            row[0]: list(row[1:]) for row in books.connection.execute(f"SELECT account, {COLUMNS} FROM balance")
        }
        for account in balances.keys() | self.sums.keys():
            expected, found = self.sums.get(account, [0] * 8), balances.get(account, [0] * 8)
            assert found == expected, f"{account}: {found} is not the sum of its entries {expected}"
            assert min(found[0], found[3], found[5]) >= 0, f"{account} holds less than nothing: {found}"
        opened, tokens, count = books.connection.execute(
            "SELECT coalesce(sum(amount_nanousd), 0), coalesce(sum(tokens), 0), count(*) FROM open_hold"
        ).fetchone()
        every = self.sums["all"]
        assert (opened, tokens, count) == (every[0], every[3], every[5]), "open holds are not what is held"
        for group in self.groups.values():
            if group.enforced:
                most = group.limit_at(0) + group.explained  # with a raise, should there have been one
                used = sum(group.use(now))
                assert used <= most, f"{group.name}: {used} of {group.limit} (+{group.explained} explained)"

    def check_held(self, tracked: Tracked, *, final: bool) -> None:
        """At the moment of an admission nothing is explained: what it is held under is within its limit."""
        ask, held = tracked.ask, tracked.held
        for group, limit, kept in zip(tracked.groups, tracked.limits, tracked.kept, strict=True):
            if limit is not None and group.need(ask, tracked.output):
                used, most = sum(group.use(ask.at)), limit - (0 if final else kept)
                assert used <= most, f"{ask.name} was admitted over {group.name}: {used} of {most}"
        if ask.input is not None and held.admitted is not None:
            assert (held.amount or 0) >= ask.input + ask.rate.numerator * tracked.output / ask.rate.denominator

    def check_refused(self, ask: Ask, code: str) -> None:
        """No refusal without need: its least answer does not fit although all that is held were released (of "held": now).
        One that waits ("crowded") does so for its usual answer."""
        cases = [group for group in self.groups_of(ask) if group.enforced]
        floor = max((g.budget.floor_tokens if g.budget else FLOOR_TOKENS for g in cases), default=FLOOR_TOKENS)
        least = max(floor, ask.likely) if code == "crowded" else floor
        tokens = min(least, ask.cap) if ask.clampable or (ask.stream and ask.cap) else ask.cap
        assumed = max((group.budget.assume for group in cases if group.budget), default=0)
        for group in cases:
            need = group.need(ask, tokens, assumed)
            if need is None:
                return
            left = group.limit_at(ask.at) - (0 if ask.final else group.kept) - need
            spent, held = group.use(ask.at, widest=True)
            if need and spent + (held if code in ("budget_held", "crowded") else 0) > left:
                return
        raise AssertionError(f"{ask.name} was refused ({code}) although it fits {[g.name for g in cases]}")

    def compacted(self, books: BooksFile) -> None:
        """Entries were summed up: no sum changes; what is forgotten begins anew."""
        db = books.connection
        known = {row[0] for row in db.execute("SELECT attempt_id FROM entry WHERE stage = 1")}
        for one in self.tracked.values():
            one.compacted |= one.state != "open" and one.attempt_id not in known
        accounts = {row[0] for row in db.execute("SELECT account FROM balance")}
        for account in [name for name in self.sums if name not in accounts]:
            del self.sums[account]
            if account.startswith("task:"):
                self._task(account.removeprefix("task:")).totals = [0] * 8
        tasks = {row[0] for row in db.execute("SELECT task FROM task")}
        self.parents = {name: parent for name, parent in self.parents.items() if name in tasks}
        self.openers = {name: key for name, key in self.openers.items() if name in tasks}
        sums: dict[str, list[int]] = defaultdict(lambda: [0] * 8)
        for text, *changes in db.execute(f"SELECT accounts, {COLUMNS} FROM entry"):
            for account in json.loads(text):
                sums[account] = _plus(sums[account], changes)
        for account in sums.keys() | self.sums.keys():
            assert sums.get(account, [0] * 8) == self.sums.get(account, [0] * 8), (
                f"compaction changed {account}: {self.sums.get(account)} -> {sums.get(account)}"
            )

    def open(self) -> list[Tracked]:
        return [one for one in self.tracked.values() if one.state == "open"]


def _plus(left: Iterable[int], right: Iterable[int]) -> list[int]:
    return [a + b for a, b in zip(left, right, strict=True)]


def fingerprint(books: BooksFile) -> Any:
    """Everything that a replay must leave as it was."""
    db = books.connection
    return [db.execute(f"SELECT * FROM {table}").fetchall() for table in ("balance", "open_hold", "task")] + [
        db.execute("SELECT count(*), max(sequence), sum(spent_nanousd) FROM entry").fetchall()
    ]
