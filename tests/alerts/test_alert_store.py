"""Alerts in the books' file: fired once and delivered at least once, whoever restarts or evaluates beside."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from alert_house import DAY_US, HOUR_US, Clock, Standings, open_file, receiving, settings_from, standing, working

from bursar.adapters.alert_store import KEPT_US, AlertStore, Delivery, StoredDelivery
from bursar.adapters.books_file import BooksFile
from bursar.core.alerts import Condition, PriceChange, Transitions
from bursar.core.deliveries import ATTEMPTS_MAX, NotSent, Sent

CONDITION = Condition("k1", (("rule", "default"), ("severity", "info")), (("summary", "one"),), 7)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def books(tmp_path: Path, clock: Clock) -> Iterator[BooksFile]:
    file = open_file(tmp_path, clock)
    yield file
    file.close()


@pytest.fixture
def store(books: BooksFile) -> AlertStore:
    return AlertStore(books)


def fire(store: AlertStore, clock: Clock, *conditions: Condition, channels: tuple[str, ...] = ("ops",)) -> None:
    recorded = store.record(
        Transitions(conditions, ()),
        generation=store.generation(),
        now_us=clock.us,
        routes=lambda _: [(channel, clock.us) for channel in channels],
        resolved_routes=lambda _condition, _channel: clock.us,
    )
    assert recorded is not None


def resolve(store: AlertStore, clock: Clock, *keys: str) -> None:
    store.record(
        Transitions((), keys),
        generation=store.generation(),
        now_us=clock.us,
        routes=lambda _: [],
        resolved_routes=lambda _condition, _channel: clock.us,
    )


def take(store: AlertStore, clock: Clock, channel: str = "ops") -> list[Delivery]:
    return store.take(channel, now_us=clock.us, limit=10)


def states(store: AlertStore) -> list[tuple[str, str, str]]:
    return [(d.channel, d.event, d.state) for d in reversed(store.deliveries(limit=100, sent=True))]


def test_one_thing_fires_once_at_a_time(store: AlertStore, clock: Clock) -> None:
    """The key is unique while it fires; over, it may fire again as a new alert with a new id."""
    fire(store, clock, CONDITION)
    fire(store, clock, CONDITION)
    assert store.firing() == {"k1": CONDITION}
    (first,) = take(store, clock)
    store.ended(first, Sent(), now_us=clock.us, seed=0)
    resolve(store, clock, "k1")
    resolve(store, clock, "k1")
    assert store.firing() == {}
    (second,) = take(store, clock)
    assert (second.notice.event, second.notice.resolved_us) == ("resolved", clock.us)
    clock.us += 1
    fire(store, clock, CONDITION)
    assert states(store) == [("ops", "firing", "sent"), ("ops", "resolved", "pending"), ("ops", "firing", "pending")]
    assert len({d.notice.id for d in (first, second)}) == 2


def test_what_was_evaluated_on_old_facts_is_not_recorded(store: AlertStore, clock: Clock) -> None:
    """Another evaluator fired something in between: look again."""
    generation = store.generation()
    fire(store, clock, CONDITION)
    late = store.record(
        Transitions((CONDITION,), ()),
        generation=generation,
        now_us=clock.us,
        routes=lambda _: [("ops", clock.us)],
        resolved_routes=lambda _condition, _channel: None,
    )
    assert late is None
    assert len(states(store)) == 1


def test_firing_and_its_deliveries_are_one_transaction(store: AlertStore, clock: Clock) -> None:
    """Where the notices cannot be written, nothing has fired."""

    def broken(_: Condition) -> list[tuple[str, int]]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.record(
            Transitions((CONDITION,), ()), generation=0, now_us=clock.us, routes=broken, resolved_routes=lambda *_: None
        )
    assert store.firing() == {}
    assert store.generation() == 0


def test_a_taken_delivery_comes_back_when_its_taker_dies(store: AlertStore, clock: Clock) -> None:
    """Nobody else gets it for five minutes; then anybody does, with the same id."""
    fire(store, clock, CONDITION)
    (first,) = take(store, clock)
    assert take(store, clock) == []
    clock.us += 300_000_000
    (again,) = take(store, clock)
    assert (again.notice.id, again.attempts) == (first.notice.id, 2)


def test_notices_of_an_alert_keep_their_order(store: AlertStore, clock: Clock) -> None:
    """As long as the firing waits for its next attempt, the resolution does not overtake it."""
    fire(store, clock, CONDITION)
    resolve(store, clock, "k1")
    (first,) = take(store, clock)
    assert first.notice.event == "firing"
    store.ended(first, NotSent("503"), now_us=clock.us, seed=0)
    assert take(store, clock) == []
    clock.us += HOUR_US
    (again,) = take(store, clock)
    store.ended(again, Sent(), now_us=clock.us, seed=0)
    assert [d.notice.event for d in take(store, clock)] == ["resolved"]


def test_after_the_last_attempt_it_is_a_dead_letter_until_somebody_retries(store: AlertStore, clock: Clock) -> None:
    """Hours of failures end in a dead letter with its reason; `retry` puts it back, with what followed it."""
    fire(store, clock, CONDITION)
    begun = clock.us
    for _ in range(ATTEMPTS_MAX):
        (delivery,) = take(store, clock)
        store.ended(delivery, NotSent("ops answers 503"), now_us=clock.us, seed=delivery.id)
        clock.us += HOUR_US * 5 // 4
    assert clock.us - begun > 4 * HOUR_US
    assert take(store, clock) == []
    assert store.dead_letters() == 1
    (dead,) = store.deliveries(limit=10, sent=False)
    assert dead == StoredDelivery(1, 1, "ops", "firing", "dead", ATTEMPTS_MAX, dead.next_us, "ops answers 503", "one")
    resolve(store, clock, "k1")
    (over,) = take(store, clock)
    store.ended(over, Sent(), now_us=clock.us, seed=0)
    assert store.retry([99], now_us=clock.us) == 0
    assert store.retry(None, now_us=clock.us) == 1
    assert states(store) == [("ops", "firing", "pending"), ("ops", "resolved", "pending")]
    (again,) = take(store, clock)
    assert (again.notice.event, again.attempts) == ("firing", 1)


def test_a_refusal_is_a_dead_letter_at_once(store: AlertStore, clock: Clock) -> None:
    """What would be refused again is not tried again."""
    fire(store, clock, CONDITION)
    (delivery,) = take(store, clock)
    assert store.ended(delivery, NotSent("404", retry=False), now_us=clock.us, seed=0) == "dead"


def test_notices_of_a_channel_that_is_gone_are_dead_letters(store: AlertStore, clock: Clock) -> None:
    """Nothing waits for ever for somebody who does not exist."""
    fire(store, clock, CONDITION, channels=("ops", "old"))
    assert store.bury(["ops"], now_us=clock.us) == 1
    assert states(store) == [("ops", "firing", "pending"), ("old", "firing", "dead")]
    assert "there is no channel old" in store.deliveries(limit=10, sent=False)[0].error


def test_what_is_long_over_is_deleted(store: AlertStore, clock: Clock) -> None:
    """After thirty days; what fires or waits stays however old it is."""
    others = [Condition(f"k{n}", (), ()) for n in (2, 3)]
    fire(store, clock, CONDITION, *others, channels=())
    resolve(store, clock, "k1")
    fire(store, clock, Condition("k4", (), ()))
    resolve(store, clock, "k4")
    clock.us += KEPT_US + 1
    assert store.prune(now_us=clock.us) == 1
    assert {a.condition.key for a in store.alerts(limit=10)} == {"k2", "k3", "k4"}


def test_a_change_of_prices_is_remembered(store: AlertStore, clock: Clock) -> None:
    """The first version is no change; a later one is, with the moment it was first seen."""
    assert store.price_change("a", now_us=clock.us) is None
    assert store.price_change("a", now_us=clock.us) is None
    assert store.price_change("b", now_us=5) == PriceChange("a", "b", 5)
    assert store.price_change("b", now_us=9) == PriceChange("a", "b", 5)


HOOK = {"channels": {"hook": {"kind": "webhook", "url_env": "HOOK"}}}


async def test_ten_restarts_fire_once_and_deliver_once(tmp_path: Path, clock: Clock) -> None:
    """Each start evaluates and delivers; the receiver hears of one thing one time."""
    standings = Standings()
    standings.now = [standing(1_000, at_us=clock.us, forecast=False)]
    async with receiving() as receiver:
        for _ in range(10):
            async with working(
                tmp_path, settings_from(**HOOK), clock, standings, environ={"HOOK": receiver.url}
            ) as worker:
                await worker.evaluate(price_version="v", ledger_lag=0)
                await worker.deliver()
            clock.us += 1_000_000
        assert [r.json["type"] for r in receiver.received] == ["alert.firing"]
        standings.now = []
        clock.us += DAY_US
        async with working(tmp_path, settings_from(**HOOK), clock, standings, environ={"HOOK": receiver.url}) as worker:
            await worker.evaluate(price_version="v", ledger_lag=0)
            await worker.deliver()
        assert [r.json["type"] for r in receiver.received] == ["alert.firing", "alert.resolved"]
        assert receiver.received[0].json["data"]["key"] == receiver.received[1].json["data"]["key"]


async def test_restarts_before_anything_was_sent_lose_nothing(tmp_path: Path, clock: Clock) -> None:
    """It fired, the process died before, and while, it was sent: it arrives, with one id."""
    standings = Standings()
    standings.now = [standing(1_000, at_us=clock.us, forecast=False)]
    async with receiving() as receiver:
        environ = {"HOOK": receiver.url}
        async with working(tmp_path, settings_from(**HOOK), clock, standings, environ=environ) as worker:
            await worker.evaluate(price_version="v", ledger_lag=0)
        receiver.hang = asyncio.Event()
        async with working(tmp_path, settings_from(**HOOK), clock, standings, environ=environ, deliver_s=0.3) as worker:
            await worker.deliver()  # it hangs, and is broken off when the worker closes
        receiver.hang.set()
        receiver.hang = None
        clock.us += 300_000_000
        async with working(tmp_path, settings_from(**HOOK), clock, standings, environ=environ) as worker:
            await worker.deliver()
            await worker.deliver()
        assert len(receiver.received) == 2
        assert len({r.headers["webhook-id"] for r in receiver.received}) == 1


async def test_two_evaluators_at_once_fire_once(tmp_path: Path, clock: Clock) -> None:
    """Two processes on one file, again and again: every threshold of every subject one time."""
    standings = Standings()
    settings = settings_from(**HOOK)
    async with receiving() as receiver:
        environ = {"HOOK": receiver.url}
        async with (
            working(tmp_path, settings, clock, standings, environ=environ) as one,
            working(tmp_path, settings, clock, standings, environ=environ) as two,
        ):
            for cents in (1_000, 1_600, 1_900, 2_000):
                standings.now = [standing(cents, at_us=clock.us, subject=f"u{n}", forecast=False) for n in range(20)]
                await asyncio.gather(*(w.evaluate(price_version="v", ledger_lag=0) for w in (one, two) * 3))
            async with asyncio.timeout(30):
                while len(receiver.received) < 80:
                    await asyncio.gather(one.deliver(), two.deliver())
            await asyncio.gather(one.deliver(), two.deliver())
        keys = [r.json["data"]["key"] for r in receiver.received]
        assert len(keys) == len(set(keys)) == 80


async def test_a_window_that_ends_between_reading_and_recording_fires_nothing_old(tmp_path: Path, clock: Clock) -> None:
    """Somebody else recorded while we evaluated: we look again, at the new moment."""
    standings = Standings()
    standings.now = [standing(1_000, at_us=clock.us, forecast=False)]
    file = open_file(tmp_path, clock)
    store = AlertStore(file)
    fire(store, clock, Condition("x", (), ()), channels=())

    def meanwhile() -> None:
        standings.asked = lambda: None
        beside = open_file(tmp_path, clock)
        resolve(AlertStore(beside), clock, "x")
        beside.close()
        standings.now = []

    standings.asked = meanwhile
    async with working(tmp_path, settings_from(), clock, standings) as worker:
        recorded = await worker.evaluate(price_version="v", ledger_lag=0)
    assert recorded.fired == ()
    assert store.firing() == {}
    file.close()
