"""Alerts for an event loop: evaluates, records, and sends what is due.

Rule 1: the event loop never touches the file; one thread with a connection of its own does, one thing after the other.
Rule 2: each channel is served by a task of its own, a few notices at a time: one that hangs keeps nobody else waiting.
        ``deliver`` waits for the quick ones and comes back to the others the next time.
Rule 3: what is evaluated is what is stored, at one moment: when somebody else has recorded something in between, it is
        evaluated again (``AlertStore`` rule 2).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from bursar.core.alert_fields import AlertSettings
from bursar.core.alert_rules import spans_of
from bursar.core.alerts import Condition, Facts, Transitions, evaluate, loudest, transitions
from bursar.core.budgets import Standing
from bursar.core.deliveries import NotSent, Outcome
from bursar.core.tallies import Counts, Tallies
from bursar.engine.ports import Channel

from .alert_store import AlertStore, Delivery, Recorded
from .books_file import BooksFile
from .channels import Channels

__all__ = ["AlertWorker"]

T = TypeVar("T")

_log = logging.getLogger("bursar.alerts")

_EVALUATIONS_MAX: Final = 5
_AT_ONCE: Final = 4  # notices at one channel
_BATCHES_MAX: Final = 25  # in one turn of a channel: then the turn ends, the rest is due the next time
_DELIVER_S: Final = 5.0
_SEND_TIMEOUT_S: Final = 30.0
_PRUNE_EVERY_US: Final = 3_600_000_000


class AlertWorker:
    """Made in a running event loop. ``open_books`` and ``standings`` are called in the worker's own thread.

    ``standings`` tells how every budget stands at a moment, those of ``core.alert_rules.watching`` among them.
    ``environ`` is where channels find their secrets. ``outcomes`` counts, by channel, what was sent, retried or dead.
    """

    def __init__(
        self,
        open_books: Callable[[], BooksFile],
        standings: Callable[[BooksFile, int], Sequence[Standing]],
        tallies: Tallies,
        clock_us: Callable[[], int],
        *,
        settings: AlertSettings,
        environ: Mapping[str, str],
        send_timeout_s: float = _SEND_TIMEOUT_S,
        deliver_s: float = _DELIVER_S,
    ) -> None:
        self._open_books = open_books
        self._standings = standings
        self._tallies = tallies
        self._clock_us = clock_us
        self._environ = environ
        self._send_timeout_s = send_timeout_s
        self._deliver_s = deliver_s
        self._settings = settings
        self._channels = Channels(settings, environ)
        self._replaced: list[Channels] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="alerts")
        self._store: AlertStore | None = None
        self._books: BooksFile | None = None
        self._pruned_us = 0
        self._turns: dict[str, asyncio.Task[None]] = {}
        self.outcomes: Final[Counter[tuple[str, str]]] = Counter()

    def use(self, settings: AlertSettings) -> None:
        """Take new settings. What is being sent is still sent by the old channels."""
        if settings != self._settings:
            self._settings = settings
            self._replaced.append(self._channels)
            self._channels = Channels(settings, self._environ)

    async def evaluate(self, *, price_version: str, ledger_lag: int | None) -> Recorded:
        """Record what begins and ends to fire, with its notices. Raises BooksError, and then nothing has changed."""
        settings, now_us = self._settings, self._clock_us()
        counts = {span: self._tallies.counts(span, now_us) for span in spans_of(settings.rules)}
        return await self._run(lambda: self._evaluate(settings, counts, price_version, ledger_lag))

    async def deliver(self) -> None:
        """Send what is due, and wait a little for it. Raises BooksError of a turn that ended with one."""
        channels = self._channels
        await self._run(lambda: self._alerts().bury(tuple(channels.by_name), now_us=self._clock_us()))
        for name, channel in channels.by_name.items():
            if name not in self._turns:
                self._turns[name] = asyncio.create_task(self._turn(channel))
        if self._turns:
            await asyncio.wait(self._turns.values(), timeout=self._deliver_s)
        ended = [self._turns.pop(name) for name, turn in tuple(self._turns.items()) if turn.done()]
        if not self._turns:
            await self._close_replaced()
        for turn in ended:
            turn.result()

    async def close(self) -> None:
        """What is being sent is broken off; it is sent again when somebody delivers."""
        for turn in self._turns.values():
            turn.cancel()
        await asyncio.gather(*self._turns.values(), return_exceptions=True)
        self._replaced.append(self._channels)
        await self._close_replaced()
        await self._run(self._close_books)
        self._thread.shutdown()

    # --- sending ----------------------------------------------------------------------------------------------

    async def _turn(self, channel: Channel) -> None:
        for _ in range(_BATCHES_MAX):
            due = await self._run(lambda: self._alerts().take(channel.name, now_us=self._clock_us(), limit=_AT_ONCE))
            if not due:
                return
            ended = await asyncio.gather(*(self._send(channel, delivery) for delivery in due), return_exceptions=True)
            if failure := next((one for one in ended if one is not None), None):
                raise failure  # the books: what was sent and not noted is sent again

    async def _send(self, channel: Channel, delivery: Delivery) -> None:
        outcome = await self._attempt(channel, delivery)
        # Not drawn but derived: deliveries of one moment are spread, and a test can say when each comes back.
        seed = int(delivery.notice.id[:8], 16) + delivery.id
        state = await self._run(lambda: self._alerts().ended(delivery, outcome, now_us=self._clock_us(), seed=seed))
        self.outcomes[channel.name, "retried" if state == "pending" else state] += 1
        if isinstance(outcome, NotSent):
            what = "will be tried again" if state == "pending" else "is a dead letter, see `bursar alerts list`"
            _log.warning("the notice %d to %s was not sent and %s: %s", delivery.id, channel.name, what, outcome.reason)

    async def _attempt(self, channel: Channel, delivery: Delivery) -> Outcome:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                return await channel.send(delivery.notice, now_us=self._clock_us())
        except TimeoutError:
            return NotSent(f"it did not take the notice within {self._send_timeout_s:.0f} s")
        except Exception as error:  # noqa: BLE001 - a channel with a bug must not stop the others; its text may hold secrets
            return NotSent(f"the channel failed: {type(error).__name__}")

    async def _close_replaced(self) -> None:
        while self._replaced:
            await self._replaced.pop().close()

    # --- in the thread ----------------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _alerts(self) -> AlertStore:
        if self._store is None:
            self._books = self._open_books()
            self._store = AlertStore(self._books)
        return self._store

    def _evaluate(
        self, settings: AlertSettings, counts: Mapping[int, Counts], price_version: str, ledger_lag: int | None
    ) -> Recorded:
        store = self._alerts()
        assert self._books is not None
        for _ in range(_EVALUATIONS_MAX):
            generation = store.generation()
            now_us = self._clock_us()
            firing = store.firing()
            facts = Facts(
                standings=tuple(self._standings(self._books, now_us)),
                counts=counts,
                counting_since_us=self._tallies.since_us,
                prices=store.price_change(price_version, now_us=now_us),
                ledger_lag=ledger_lag,
                dead_letters=store.dead_letters(),
                firing=firing,
            )
            change = transitions(firing, evaluate(settings.rules, facts, now_us))
            loud = loudest(change.fired)
            recorded = _record(store, settings, change, loud, generation=generation, now_us=now_us)
            if recorded is not None:
                self._tell(recorded, loud)
                self._prune(store, now_us)
                return recorded
        return Recorded((), ())  # others are evaluating all the time, and record what there is

    def _tell(self, recorded: Recorded, loud: frozenset[str]) -> None:
        for condition in recorded.fired:
            if condition.key not in loud:
                continue
            _log.warning("alert: %s (%s)", condition.annotation("summary"), condition.label("severity"))
        for key in recorded.resolved:
            _log.info("alert is over: %s", key)

    def _prune(self, store: AlertStore, now_us: int) -> None:
        if now_us - self._pruned_us >= _PRUNE_EVERY_US:
            self._pruned_us = now_us
            store.prune(now_us=now_us)

    def _close_books(self) -> None:
        if self._books is not None:
            self._books.close()
            self._books = self._store = None


def _record(
    store: AlertStore,
    settings: AlertSettings,
    change: Transitions,
    loud: frozenset[str],
    *,
    generation: int,
    now_us: int,
) -> Recorded | None:
    return store.record(
        change,
        generation=generation,
        now_us=now_us,
        routes=lambda condition: _routes(settings, condition, now_us) if condition.key in loud else [],
        resolved_routes=lambda condition, channel: _resolved_due(settings, condition, channel, now_us),
    )


def _routes(settings: AlertSettings, condition: Condition, now_us: int) -> list[tuple[str, int]]:
    channels = settings.channels_for(condition)
    return [(channel.name, settings.due_us(channel, condition, now_us)) for channel in channels]


def _resolved_due(settings: AlertSettings, condition: Condition, name: str, now_us: int) -> int | None:
    channel = next((channel for channel in settings.channels if channel.name == name), None)
    if channel is None or not channel.resolved:
        return None
    return settings.due_us(channel, condition, now_us)
