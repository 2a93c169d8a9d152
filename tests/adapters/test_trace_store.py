"""Traces kept and decided: any order, any crash, and what other doors charge, come to the same charges."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.adapters.books_file import BooksFile
from bursar.adapters.ledger_duckdb import DuckLedger
from bursar.adapters.prices_file import bundled_book
from bursar.adapters.retention import compact_books, compact_ledger
from bursar.adapters.rows import Row, decode_row
from bursar.adapters.trace_evaluator import TraceEvaluator
from bursar.adapters.trace_store import TraceStore
from bursar.adapters.verify import verify
from bursar.core.call import NeedsSettlement
from bursar.core.errors import BooksFailedError
from bursar.core.ledger import Attempt
from bursar.core.money import NanoUSD, Rate
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.scopes import Scope
from bursar.core.tool_prices import ToolPrice, ToolPrices
from bursar.core.traces import Nearer, attempt_base, attempt_of, charges, price, trace_key
from bursar.engine.rulebook import Rulebook
from bursar.engine.ship import ship, ship_traces
from making import an_attempt, an_opening
from tracing import AT_US, NAMES, OTHER, TRACE, model, observations, record, seen, usage

TOOLS = ToolPrices([ToolPrice("search", per_call=Rate(5_000_000, 1))])
BOOK = bundled_book()
RULES = Rulebook({}, BOOK, require_keys=False, body_bytes_max=1, concurrency_max=1, tools=TOOLS)
DAY_US = 86_400_000_000


class House:
    """Books, trace store and ledger in a folder, and the evaluator over them, which can die at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_us = AT_US
        self.now_s = 1_000.0
        self.start()

    @cached_property
    def ledger(self) -> DuckLedger:
        return DuckLedger(None, threads=1)

    def start(self) -> None:
        self.books = BooksFile(self.path / "books.sqlite3", clock_us=lambda: self.now_us, hold_ttl_us=DAY_US)
        self.store = TraceStore(self.path / "traces.sqlite3", clock_us=lambda: self.now_us)
        self.evaluator = TraceEvaluator(self.books, self.store, lambda: RULES)
        self.evaluator.resume(self.now_s)

    def die(self) -> None:
        """What was not written is gone."""
        self.store.close()
        self.books.close()
        self.start()

    def close(self) -> None:
        self.store.close()
        self.books.close()
        if "ledger" in self.__dict__:
            self.ledger.close()

    def take(self, *found: Observation) -> None:
        self.evaluator.take(found, self.store.arrive(found), self.now_s)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.now_us += int(seconds * 1_000_000)
        for _ in range(20):
            if not self.evaluator.evaluate(self.now_s):
                return
        raise AssertionError("it does not come to rest")

    def rest(self) -> None:
        for _ in range(4):
            self.pass_s(60)
        assert self.evaluator.backlog == 0
        assert self.store.arrivals_after(0) == []

    def live(
        self,
        name: str,
        span: str = "",
        *,
        door: str = "gateway",
        response: str = "",
        request: str = "",
        trace: str = TRACE,
    ) -> None:
        """A call that a nearer door has charged."""
        ids = {"trace_id": trace, "span_id": span} if span else {}
        attempt = an_attempt(name, opening=an_opening(name, door=door, **ids), response_id=response)
        attempt = replace(attempt, request_id=request)
        self.books.apply([NeedsSettlement(attempt.opening, attempt)])

    def charged(self) -> dict[str, Row]:
        """What the books have charged and not taken back, by the id without its version."""
        back = {row["retracts"] for row in self._payloads() if "retracts" in row}
        rows = [decode_row(entry.row) for entry in self.books.endings_after(0, 10_000)]
        kept = [row for row in rows if row.retracts is None and row.attempt_id not in back]
        found = {row.attempt_id.partition("#")[0]: row for row in kept}
        assert len(found) == len(kept), "nothing is charged twice"
        return found

    def _payloads(self) -> list[dict[str, Any]]:
        import json

        return [json.loads(entry.row) for entry in self.books.endings_after(0, 10_000)]

    def ids(self) -> set[str]:
        """The keys of the observations that are charged."""
        return {name.rpartition(":")[2] for name in self.charged() if name.startswith("otlp:")}

    def prove(self) -> None:
        """Books and ledger agree, and a ledger made anew is the same."""
        assert verify(self.books, self.ledger).differences == ()
        if self.books.connection.execute("SELECT 1 FROM entry WHERE stage = 3").fetchone():
            return  # what has been summed up is only in the ledger that took it
        again = DuckLedger(None, threads=1)
        for batch in (3 if self.books.last_sequence() < 300 else 400, 10_000):
            ship(self.books, again, batch=batch)
        question = "SELECT attempt_id, cost_nanousd FROM attempt ORDER BY ALL"
        assert again.rows(question) == self.ledger.rows(question)
        again.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.prove()
    made.close()


def expected(found: Sequence[Observation], nearer: Sequence[Nearer]) -> dict[str, tuple[Any, ...]]:
    """What everything at once is charged."""
    return {
        attempt_base(trace_key(v.observation), v.key): (
            price(v.observation, BOOK, TOOLS, price_id=v.observation.provider).amount,
            v.scope.task,
            v.scope.parent_task,
            v.scope.user,
            v.scope.agent,
        )
        for v in charges(found, nearer=nearer, tools=TOOLS)
        if v.fate == "charged"
    }


def booked(house: House) -> dict[str, tuple[Any, ...]]:
    return {
        name: (row.cost_nanousd, row.task, row.parent_task, row.user, row.agent)
        for name, row in house.charged().items()
        if row.door == "otlp"
    }


@settings(max_examples=30)
@given(observations(), st.integers(0, 1 << 30), st.lists(st.sampled_from(NAMES), max_size=2, unique=True))
def test_any_order_any_batches_and_any_crash_charge_the_same(
    found: list[Observation], seed: int, under: list[str]
) -> None:
    """Crashes between taking, booking and keeping, late parents, late children, late gateways: the charges are those of
    everything at once, and their sum is what the books say."""
    random = Random(seed)
    items: list[Observation | str] = [*found, *under, *random.sample(found, min(2, len(found)))]
    random.shuffle(items)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        house = House(Path(folder))
        stack.callback(house.close)
        while items:
            count = random.randint(1, 3)
            batch, items = items[:count], items[count:]
            for span in [each for each in batch if isinstance(each, str)]:
                house.live(f"call-{span}", span)
            house.take(*[each for each in batch if not isinstance(each, str)])
            match random.randint(0, 4):
                case 0:
                    house.pass_s(random.choice([0.6, 3, 40]))
                case 1:
                    house.die()
                case 2:  # it dies when the books have it and the store has not
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(house.store, "record", _fails)
                        try:
                            house.pass_s(40)
                        except BooksFailedError:
                            if random.random() < 0.5:
                                patch.undo()
                                house.pass_s(40)
                    house.die()
                case _:
                    pass
        house.rest()
        nearer = [Nearer(f"call-{span}.1", "model", TRACE, span) for span in under]
        assert booked(house) == expected(found, nearer)
        total = sum(row.cost_nanousd or 0 for row in house.charged().values())
        assert {b.account: b.spent for b in house.books.balances()}.get("all", 0) == total
        if seed % 8 == 0:
            house.prove()


def _fails(*_: Any) -> None:
    raise BooksFailedError("the disk is full")


# --- other doors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["gateway", "span"])
def test_a_call_seen_by_gateway_and_span_is_charged_once(house: House, first: str) -> None:
    """Whichever comes first the gateway's charge stays, by the span it was made under."""
    if first == "gateway":
        house.live("call-1", "b")
    house.take(seen("a", kind="agent", reading=usage(10)), model("b", "a"))
    house.pass_s(3)
    if first == "span":
        assert house.ids() == {"b"}
        house.live("call-1", "b")
        house.pass_s(1)
    house.rest()
    assert set(house.charged()) == {"call-1.1"}
    ship_traces(house.store, house.ledger)
    (row,) = house.ledger.rows("SELECT attempt_id FROM span WHERE span_id = 'b'")
    assert row["attempt_id"] == "call-1.1"


def test_a_new_store_knows_what_was_charged_just_before(tmp_path: Path) -> None:
    """The first trace may come with a call that was made before anybody took in traces."""
    books = BooksFile(tmp_path / "books.sqlite3", clock_us=lambda: AT_US, hold_ttl_us=DAY_US)
    attempt = an_attempt("call-1", opening=an_opening("call-1", trace_id=TRACE, span_id="b"))
    books.apply([NeedsSettlement(attempt.opening, attempt)])
    books.close()
    house = House(tmp_path)
    house.take(model("b"))
    house.pass_s(3)
    assert set(house.charged()) == {"call-1.1"}
    house.close()


@pytest.mark.parametrize("first", ["gateway", "span"])
def test_a_response_seen_by_gateway_and_span_is_charged_once(house: House, first: str) -> None:
    """By the response's id where the gateway knows no span."""
    if first == "gateway":
        house.live("call-1", response="r1")
    house.take(model("b", reading=replace(usage(10), response_id="r1")))
    house.pass_s(3)
    if first == "span":
        house.live("call-1", response="r1")
        house.pass_s(1)
    assert set(house.charged()) == {"call-1.1"}


@pytest.mark.parametrize("first", ["gateway", "record"])
@pytest.mark.parametrize("door", ["gateway", "sdk"])
def test_a_request_seen_by_gateway_and_record_is_charged_once(house: House, first: str, door: str) -> None:
    """By the request's id, where a record knows no trace and no response: in either order, after a restart too."""
    said = record(trace_id="", reading=replace(usage(10), response_id="req_1"))
    if first == "gateway":
        house.live("call-1", door=door, response="msg_1", request="req_1")
        house.pass_s(1)
        house.die()
    house.take(said, replace(said, reading=replace(usage(10), response_id="req_2")))
    house.pass_s(3)
    if first == "record":
        assert len(house.ids()) == 2
        house.die()
        house.live("call-1", door=door, response="msg_1", request="req_1")
        house.pass_s(1)
    house.rest()
    charged = house.charged()
    assert charged.pop("call-1.1").request_id == "req_1"
    assert [row.response_id for row in charged.values()] == ["req_2"]


def test_a_request_is_known_as_long_as_its_trace_would_be(house: House) -> None:
    """What names requests is pruned with the rest of the store."""
    house.live("call-1", response="msg_1", request="req_1")
    house.pass_s(1)
    assert house.store.requests(["openai:req_1"]) == [("openai:req_1", "call-1.1", "gateway")]
    house.store.prune(house.now_us + 1, shipped=0)
    assert house.store.requests(["openai:req_1"]) == []


def test_a_span_takes_the_charge_of_an_import(house: House) -> None:
    """Of the same response, or of the same span, in either order."""
    imported = an_attempt("import-1", opening=an_opening("import-1", door="import"), response_id="r1")
    same_span = an_attempt("import-2", opening=an_opening("import-2", door="import", trace_id=TRACE, span_id="c"))
    house.books.observe([imported])
    house.take(model("b", reading=replace(usage(10), response_id="r1")), model("c"))
    house.pass_s(3)
    house.books.observe([same_span])
    house.pass_s(1)
    assert house.ids() == {"b", "c"}
    assert not [name for name in house.charged() if name.startswith("import")]


@pytest.mark.parametrize("first", ["import", "span"])
def test_an_import_of_the_same_trace_changes_nothing(house: House, first: str) -> None:
    """Its attempts have the names they have here: one charge each, and a sum is taken back whoever charged it."""
    b, c = model("b", tokens=30), model("c", "b", tokens=20)

    def import_(span: Observation) -> None:
        (verdict,) = charges([span])
        priced = price(span, BOOK, TOOLS, price_id="openai")
        house.books.observe([attempt_of(verdict, priced, attempt_id=f"otlp:{TRACE}:{span.span_id}", door="import")])
        house.store.take([replace(span, door="import")])
        house.pass_s(1)

    if first == "import":
        import_(b)
        house.take(b, c)
        house.pass_s(3)
    else:
        house.take(b, c)
        house.pass_s(3)
        import_(b)  # somebody's file has only a part of the trace
    import_(c)
    house.die()
    house.rest()
    assert house.ids() == {"c"}
    assert house.store.followed() == house.books.last_sequence()


def test_whoever_stood_back_is_charged_when_the_holder_gives_up(house: House) -> None:
    """One response in two traces; then a call below the one that was charged shows that it was a sum."""
    named = replace(usage(10), response_id="r1")
    house.take(model("b", reading=named), model("e", trace_id=OTHER, reading=named))
    house.pass_s(3)
    assert house.ids() == {"b"}
    house.take(model("c", "b", tokens=7))
    house.rest()
    assert house.ids() == {"c", "e"}


def test_what_other_processes_write_gives_the_tree_its_shape(house: House, tmp_path: Path) -> None:
    """A task's span of the SDK arrives through its own process: calls of OTLP below it are charged to its user."""
    house.take(model("b", "a"))
    house.pass_s(3)
    other = TraceStore(tmp_path / "traces.sqlite3", clock_us=lambda: house.now_us)
    other.take([seen("a", kind="task", door="sdk", scope=Scope(user="u9", task="order-7"))])
    other.close()
    house.pass_s(1)
    (row,) = house.charged().values()
    assert (row.user, row.task, row.attempt_id) == ("u9", "order-7", f"otlp:{TRACE}:b#2")


# --- late, again, without a trace -------------------------------------------------------------------------------


def test_a_late_child_takes_back_the_charge_of_its_parent(house: House) -> None:
    """Hours later too, when the trace is in memory no more."""
    house.take(model("b", tokens=30))
    house.pass_s(3)
    house.die()
    house.take(model("c", "b", tokens=10), model("d", "b", tokens=20))
    house.pass_s(3)
    assert house.ids() == {"c", "d"}
    assert house.evaluator.counts == {"charged": 2, "retracted": 1}


def test_the_same_export_twice_changes_nothing(house: House) -> None:
    """Exporters send again what they got no answer to."""
    spans = [seen("a", kind="agent"), model("b", "a"), record("", trace_id="", group="s")]
    house.take(*spans)
    house.pass_s(3)
    before, last = house.charged(), house.store.last_sequence()
    house.take(*spans)
    house.die()
    house.rest()
    assert house.charged() == before
    assert house.store.last_sequence() == last


def test_a_sum_is_charged_only_when_the_trace_rests(house: House) -> None:
    """Without its root nobody knows: half a minute of silence is a rest. Until then it survives a crash undecided."""
    house.take(seen("b", "a", kind="agent", provider="openai", model_asked="gpt-4o-mini", reading=usage(10)))
    house.pass_s(3)
    assert house.ids() == set()
    house.die()
    house.pass_s(3)
    house.pass_s(31)
    assert house.ids() == {"b"}


def test_when_a_trace_is_decided(house: House) -> None:
    """Half a second after its root, two without one, ten at the latest."""
    house.take(model("b", "a"))
    house.pass_s(1)
    assert house.ids() == set()
    house.take(seen("a"))
    house.pass_s(0.6)
    assert house.ids() == {"b"}
    for n in range(11):
        house.take(model(f"c{n}", "x", trace_id=OTHER))
        house.pass_s(1)
    assert "c0" in house.ids()


def test_metrics_are_taken_back_when_something_better_comes(house: House) -> None:
    """A session's counters are charged until its records arrive."""
    house.take(model("", source="metric", trace_id="", group="s1"), model("", source="metric", trace_id="", group="s2"))
    house.pass_s(3)
    assert len(house.ids()) == 2
    house.take(record("", trace_id="", group="s1"))
    house.pass_s(3)
    assert sorted(key.partition(".")[0] for key in house.ids()) == ["log", "metric"]


def test_a_thousand_traces_at_once_leave_memory_when_they_are_decided(house: House, monkeypatch: Any) -> None:
    """What is forgotten is read again when something late arrives."""
    monkeypatch.setattr("bursar.adapters.trace_evaluator._PLACES_MAX", 50)
    for n in range(1_000):
        house.take(model("b", "a", trace_id=f"{n:032x}"), seen("a", trace_id=f"{n:032x}"))
    house.pass_s(3)
    assert len(house.charged()) == 1_000
    assert len(house.evaluator._opens) <= 50
    house.take(model("c", "b", trace_id=f"{3:032x}"))
    house.pass_s(3)
    assert {f"otlp:{3:032x}:c"} == {name for name in house.charged() if f"{3:032x}" in name}


# --- the books, the ledger, retention -----------------------------------------------------------------------------


def test_what_is_taken_back_leaves_no_trace_in_any_sum(house: House) -> None:
    """Spend, tokens, calls and unpriced of every account; twice changes nothing; the response is free again."""
    attempts = [
        an_attempt("i-1", opening=an_opening("i-1", door="import", task="t"), response_id="r1"),
        an_attempt("i-2", amount=None, opening=an_opening("i-2", door="import", task="t")),
    ]
    house.books.observe(attempts)
    ship(house.books, house.ledger)
    assert house.books.revise(["i-1.1", "i-2.1", "nobody"], []) == 2
    assert house.books.revise(["i-1.1", "i-2.1"], []) == 0
    for balance in house.books.balances():
        assert (balance.spent, balance.unpriced, balance.spent_tokens, balance.spent_calls) == (0, 0, 0, 0)
    assert house.books.observe(attempts) == 0
    again = an_attempt("i-3", opening=an_opening("i-3", door="import"), response_id="r1")
    assert house.books.observe([again]) == 1
    ship(house.books, house.ledger)
    assert [row["attempt_id"] for row in house.ledger.rows("SELECT attempt_id FROM attempt")] == ["i-3.1"]


def test_nearer_charges_are_never_taken_back(house: House) -> None:
    """What was paid through the gateway stays, whoever asks; and nothing else of the same transaction happens."""
    house.live("call-1")
    more: list[Attempt] = [an_attempt("i-1", opening=an_opening("i-1", door="import"))]
    with pytest.raises(ValueError, match=r"call-1\.1"):
        house.books.revise(["call-1.1"], more)
    assert set(house.charged()) == {"call-1.1"}


def test_a_row_that_was_summed_up_is_evened_out(house: House) -> None:
    """The ledger's retention is shorter than the books': the day's sum loses the amount all the same."""
    house.books.observe([an_attempt("i-1", opening=an_opening("i-1", door="import", started_us=AT_US - 9 * DAY_US))])
    ship(house.books, house.ledger)
    compact_ledger(house.ledger, before_us=AT_US - 3 * DAY_US)
    house.books.revise(["i-1.1"], [])
    assert verify(house.books, house.ledger).differences == ()
    compact_ledger(house.ledger, before_us=AT_US - 3 * DAY_US)
    assert house.ledger.rows("SELECT sum(cost_nanousd)::BIGINT AS c FROM spend") == [{"c": 0}]


def test_retention_keeps_what_is_charged_once(house: House) -> None:
    """After books and traces have forgotten a span, sending it again changes nothing."""
    named = replace(usage(10), response_id="r1")
    house.take(model("b", reading=named), model("x", tokens=5), seen("y", kind="agent"))
    house.pass_s(3)
    house.take(model("z", "x", tokens=5))
    house.pass_s(3)
    spent = house.books.balances()
    house.now_us += 40 * DAY_US
    house.live("later")  # the newest entries always stay
    ship(house.books, house.ledger)
    ship_traces(house.store, house.ledger)
    before_us = house.now_us - 30 * DAY_US
    assert compact_books(house.books, before_us=before_us, shipped=house.ledger.last_sequence()).deleted > 0
    assert house.store.prune(before_us, shipped=house.ledger.trace_position()) > 0
    house.die()
    house.take(model("b", reading=named), model("z", "x", tokens=5))
    house.rest()
    after = {b.account: b.spent for b in house.books.balances()}
    assert after["all"] == next(b.spent for b in spent if b.account == "all") + 1_500


def test_spans_and_outcomes_reach_the_ledger_and_leave_it(house: House) -> None:
    """Each span once, as it was decided last; the latest outcome of a task; until the retention."""
    house.take(seen("a", scope=Scope(task="t1")), model("b", "a"))
    house.pass_s(3)
    house.store.take(
        [], [TaskOutcome("t1", "failed", AT_US, NanoUSD(0)), TaskOutcome("t1", "resolved", AT_US + 1, None, "n")]
    )
    ship_traces(house.store, house.ledger)
    house.take(model("c", "b"))
    house.pass_s(3)
    for _ in range(2):
        ship_traces(house.store, house.ledger)
    rows = house.ledger.rows("SELECT span_id, parent_id, task, attempt_id FROM span ORDER BY span_id")
    assert [(row["span_id"], row["parent_id"], row["task"]) for row in rows] == [
        ("a", "", "t1"),
        ("b", "a", "t1"),
        ("c", "b", "t1"),
    ]
    assert [row["attempt_id"] for row in rows] == ["", "", f"otlp:{TRACE}:c"]
    assert house.ledger.rows("SELECT outcome, value_nanousd, note FROM outcome") == [
        {"outcome": "resolved", "value_nanousd": None, "note": "n"}
    ]
    compact_ledger(house.ledger, before_us=AT_US + 3 * DAY_US)
    assert house.ledger.rows("SELECT (SELECT count(*) FROM span) + (SELECT count(*) FROM outcome) AS n") == [{"n": 0}]


def test_a_new_trace_store_is_read_from_its_beginning(house: House, tmp_path: Path) -> None:
    """Somebody moved the old one away: the ledger goes on."""
    for _ in range(3):
        house.store.take([seen("a", door="sdk")])
    ship_traces(house.store, house.ledger)
    new = TraceStore(tmp_path / "new.sqlite3", clock_us=lambda: house.now_us)
    new.take([seen("n", door="sdk")])
    ship_traces(new, house.ledger)
    assert {row["span_id"] for row in house.ledger.rows("SELECT span_id FROM span")} == {"a", "n"}
    assert house.ledger.trace_position() == new.last_sequence()
    new.close()


def test_a_ledger_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """It gets the tables of traces, and keeps what it has."""
    path = tmp_path / "ledger.duckdb"
    DuckLedger(path).close()
    with duckdb.connect(str(path)) as db:
        for table in ("span", "outcome", "trace_position"):
            db.execute(f"DROP TABLE {table}")
        db.execute("UPDATE position SET last_sequence = 7")
        db.execute("COMMENT ON TABLE position IS '1'")
    ledger = DuckLedger(path)
    assert (ledger.last_sequence(), ledger.trace_position()) == (7, 0)
    assert ledger.rows("SELECT * FROM span") == []
    ledger.close()


def test_a_store_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """One sentence with the way out."""
    path = tmp_path / "traces.sqlite3"
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(BooksFailedError, match="Move it away"):
        TraceStore(path, clock_us=lambda: AT_US)
