"""Marks are placed where keeping a prompt gains, and an agent that is marked pays less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.adapters.prices_file import load_book
from bursar.core.prices import PriceBook, Reading, charge
from bursar.core.usage import Usage
from bursar.engine.prompt_cache import Planned, PromptCaching
from bursar.sim import Simulator
from bursar.wire.anthropic import DIALECT
from bursar.wire.dialect import RequestFacts

MODEL = "claude-sonnet-4-5"
SECOND = 1_000_000
MINUTE = 60 * SECOND
START = 1_780_000_000 * SECOND
TOOL = {"name": "read", "description": "Reads a file. " * 40, "input_schema": {"type": "object"}}
SYSTEM = "You look after the books. " * 400


BOOK = load_book(Path("no data directory: the bundled prices"))


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return BOOK


class Agent:
    """One that talks to the simulated provider through the planner (or past it)."""

    def __init__(self, book: PriceBook, *, marks: bool = True) -> None:
        self.now = [START]
        self.book, self.marks = book, marks
        self.simulator = Simulator(seed=1, clock=lambda: self.now[0] / SECOND)
        self.caching = PromptCaching()
        self.cost = 0
        self.plans: list[Planned] = []

    def ask(self, messages: list[Any], thread: str = "t", *, wait_us: int = 20 * SECOND, **fields: Any) -> Usage:
        self.now[0] += wait_us
        sent = body(messages, **fields)
        plan = self.plan(sent, thread)
        answer = self.simulator.respond(
            "POST", "/v1/messages", "", {"x-api-key": "k-agent-1234", "anthropic-version": "2023-06-01"},
            plan.body if self.marks else sent,
        )  # fmt: skip
        assert answer.call is not None
        assert answer.call.usage is not None, answer.body
        usage = answer.call.usage
        self.caching.settled(plan, usage)
        reading = Reading(usage._replace(output_tokens=0), model=MODEL)
        amount = charge(reading, self.book, provider="anthropic", model=MODEL, at=self.at).amount
        assert amount is not None
        self.cost += amount
        return usage

    def plan(self, sent: bytes, thread: str, **options: Any) -> Planned:
        facts = DIALECT.read_request("/v1/messages", sent)
        card = self.book.card("anthropic", facts.model, self.at)
        plan = self.caching.plan(thread, facts, "anthropic", sent, card, self.now[0], takes_key=False, **options)
        assert plan.facts == DIALECT.read_request("/v1/messages", plan.body)
        self.plans.append(plan)
        return plan

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.now[0] / SECOND, timezone.utc)

    @property
    def note(self) -> dict[str, Any]:
        note = self.plans[-1].note
        assert note is not None
        return note


def body(messages: list[Any], **fields: Any) -> bytes:
    asked = {"model": MODEL, "max_tokens": 16, "system": SYSTEM, "tools": [TOOL], "messages": messages, **fields}
    return json.dumps(asked).encode()


def turns(count: int) -> Iterator[list[Any]]:
    """A conversation that grows by a tool's result each time."""
    messages: list[Any] = [{"role": "user", "content": "Start."}]
    for number in range(count):
        yield list(messages)
        messages += [
            {"role": "assistant", "content": [{"type": "tool_use", "id": f"c{number}", "name": "read", "input": {}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": f"c{number}", "content": f"row {number} " * 300}],
            },
        ]


def test_an_agent_of_many_turns_pays_less(book: PriceBook) -> None:
    """Twenty turns with marks cost less than a third of the same without, and what is read is known beforehand."""
    marked, plain = Agent(book), Agent(book, marks=False)
    for messages in turns(20):
        usage = marked.ask(messages)
        assert abs(marked.plans[-1].read_tokens - usage.cache_read_tokens) <= 1
        plain.ask(messages)
    assert marked.cost * 3 < plain.cost
    assert all(plan.note is not None and plan.note["expected_nanousd"] > 0 for plan in marked.plans)


def test_the_facts_cover_what_the_marks_can_write(book: PriceBook) -> None:
    """What is held for a marked request is held at the price of a write: the facts name the units."""
    agent = Agent(book)
    for messages in turns(3):
        agent.ask(messages)
    assert agent.plans[-1].facts.writes_cache == ("cache_write_tokens", "cache_write_5m_tokens")


def test_single_questions_are_left_alone(book: PriceBook) -> None:
    """Questions without tools that nobody follows up: no marks, no cost beyond the plain one."""
    marked, plain = Agent(book), Agent(book, marks=False)
    for number in range(30):
        question = [{"role": "user", "content": f"{number} " + "x" * 8_000}]
        fields = {"tools": [], "system": f"You are number {number}."}
        marked.ask(question, f"t{number}", **fields)
        plain.ask(question, f"t{number}", **fields)
    assert marked.cost == plain.cost
    assert all(plan.note == {"marks": [], "why": "keeping it is not expected to gain"} for plan in marked.plans)


def test_what_learning_costs_is_bounded(book: PriceBook) -> None:
    """Sixty calls with tools that promise more and are never followed up: a few writes are paid for, then no mark is set."""
    marked, plain = Agent(book), Agent(book, marks=False)
    for number in range(60):
        question = [{"role": "user", "content": f"{number} " + "x" * 4_000}]
        marked.ask(question, f"t{number}", system=f"Number {number}. {SYSTEM}")
        plain.ask(question, f"t{number}", system=f"Number {number}. {SYSTEM}")
    assert sum(bool(plan.note and plan.note["marks"]) for plan in marked.plans) <= 6
    assert marked.cost * 100 <= plain.cost * 103


def test_a_shared_system_text_is_kept_for_single_questions(book: PriceBook) -> None:
    """Different questions behind one system text: it is marked from the third on, the questions are not."""
    marked, plain = Agent(book), Agent(book, marks=False)
    for number in range(30):
        question = [{"role": "user", "content": f"{number} " + "x" * 4_000}]
        marked.ask(question, f"t{number}", tools=[])
        plain.ask(question, f"t{number}", tools=[])
    assert marked.note["marks"] == ["system"]
    assert marked.cost < plain.cost


def test_a_tail_that_changes_is_not_kept(book: PriceBook) -> None:
    """A clock behind the last turn: after a few calls only what stays is marked, and the money is still saved."""
    marked, plain = Agent(book), Agent(book, marks=False)
    for number, messages in enumerate(turns(25)):
        messages[-1] = {"role": "user", "content": f"{messages[-1]['content']} at {number} o'clock"}
        marked.ask(messages)
        plain.ask(messages)
    assert "turn" not in marked.note["marks"]
    assert "stable" in marked.note["marks"]
    assert marked.note["diverged_at"].startswith("messages[")
    assert marked.cost * 3 < plain.cost * 2


def test_a_clock_in_the_system_text_stops_the_marks_behind_it(book: PriceBook) -> None:
    """Nothing behind a changing system text can be read again: only the tools before it are marked, where they are long enough."""
    marked, plain = Agent(book), Agent(book, marks=False)
    for number, messages in enumerate(turns(12)):
        fields = {"system": f"It is {number} o'clock. {SYSTEM}", "tools": [{**TOOL, "description": "Reads. " * 2_000}]}
        marked.ask(messages, **fields)
        plain.ask(messages, **fields)
    assert marked.note["marks"] == ["tools"]
    assert marked.note["diverged_at"] == "system:7"  # from 10 o'clock to 11
    assert marked.cost < plain.cost


def test_long_pauses_are_kept_for_an_hour(book: PriceBook) -> None:
    """A person who answers every ten minutes: after some turns the prompt is kept for an hour, and read."""
    agent = Agent(book)
    read = [agent.ask(messages, wait_us=10 * MINUTE).cache_read_tokens for messages in turns(16)]
    assert agent.note["ttl"] == "1h"
    assert "cache_write_1h_tokens" in agent.plans[-1].facts.writes_cache
    assert read[-1] > 0


def test_many_blocks_at_once_do_not_lose_what_is_kept(book: PriceBook) -> None:
    """Thirty results in one turn are further than a mark looks back: what was kept has a mark of its own and is read."""
    agent = Agent(book)
    messages = list(turns(3))[-1]
    agent.ask(messages)
    uses = [{"type": "tool_use", "id": f"p{n}", "name": "read", "input": {}} for n in range(30)]
    results = [{"type": "tool_result", "tool_use_id": f"p{n}", "content": "x"} for n in range(30)]
    usage = agent.ask([*messages, {"role": "assistant", "content": uses}, {"role": "user", "content": results}])
    assert agent.note["marks"] == ["system", "kept", "turn"]
    assert usage.cache_read_tokens > 0
    assert agent.plans[-1].read_tokens == pytest.approx(usage.cache_read_tokens, abs=2)


def test_a_client_that_marks_is_left_alone(book: PriceBook) -> None:
    """Its body goes out as it came, byte for byte, and the note says why."""
    agent = Agent(book)
    sent = body([{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}])
    plan = agent.plan(sent, "t")
    assert plan.body is sent
    assert plan.note == {"marks": [], "why": "the client set 1 mark itself"}


@pytest.mark.parametrize("sent", [b"", b"[]", b'{"messages":1}', b'{"messages":[1,2]}' + b" " * 9_000, b'{"model":"x","messages":[{"role":"user","content":[1]}]}' + b" " * 9_000])  # fmt: skip
def test_what_is_no_request_goes_out_as_it_came(sent: bytes, book: PriceBook) -> None:
    """The provider says what is wrong with it."""
    agent = Agent(book)
    card = book.card("anthropic", MODEL, agent.at)
    facts = RequestFacts("messages", MODEL)
    assert agent.caching.plan("t", facts, "anthropic", sent, card, START, takes_key=False).body is sent


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.sampled_from(["user", "text", "assistant"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(), st.sampled_from(["role", "content", "type", "text", "name"])), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["tools", "system", "messages", "thinking"]), JSON), min_size=2, max_size=4
    )
)
def test_nothing_a_client_sends_breaks_the_planner(made: list[dict[str, Any]]) -> None:
    """Whatever stands where a prompt should: no error, and bytes are only put in."""
    caching = PromptCaching()
    card = BOOK.card("anthropic", MODEL, datetime.fromtimestamp(START / SECOND, timezone.utc))
    for number, fields in enumerate(made * 2):
        sent = json.dumps({"model": MODEL, **fields, "padding": "x" * 9_000}).encode()
        facts = RequestFacts("messages", MODEL)
        plan = caching.plan("t", facts, "anthropic", sent, card, START + number * SECOND, takes_key=False)
        caching.settled(plan, Usage(input_tokens=9_000, cache_write_tokens=8_000, output_tokens=1))
        rest = iter(plan.body)
        assert all(byte in rest for byte in sent)
        json.loads(plan.body)


def test_without_prices_nothing_is_marked(book: PriceBook) -> None:
    """What a write costs is not known: it is not worth it. Without a thread nothing is known of reuse."""
    agent = Agent(book)
    sent = body(list(turns(2))[-1])
    facts = DIALECT.read_request("/v1/messages", sent)
    unknown = book.card("deepseek", "deepseek-chat", agent.at)
    assert unknown is not None
    card = book.card("anthropic", MODEL, agent.at)
    plan = agent.caching.plan("t", facts, "anthropic", sent, unknown, START, takes_key=False)
    assert plan.body is sent
    assert plan.note == {"marks": [], "why": "no price for reads and writes of a cache"}
    for thread, rates in (("t", None), ("", card)):
        assert agent.caching.plan(thread, facts, "anthropic", sent, rates, START, takes_key=False).body is sent


def test_what_the_provider_did_not_keep_is_not_counted_on(book: PriceBook) -> None:
    """The answer states no reads and no writes, or none at all: the next call does not expect to read."""
    agent = Agent(book)
    first, second, third = turns(3)
    plan = agent.plan(body(first), "t")
    agent.caching.settled(plan, Usage(input_tokens=3_000, output_tokens=1))
    plan = agent.plan(body(second), "t")
    assert plan.read_tokens == 0
    agent.caching.settled(plan, None)
    assert agent.plan(body(third), "t").read_tokens == 0


def test_each_model_at_each_provider_has_a_cache_of_its_own(book: PriceBook) -> None:
    """A call that falls back to another model does not expect to read what the first one keeps; the way back does."""
    agent = Agent(book)
    first, second, third, fourth = turns(4)
    agent.ask(first)
    agent.ask(second)
    facts = DIALECT.read_request("/v1/messages", body(third))
    other = book.card("anthropic", "claude-haiku-4-5", agent.at)
    assert other is not None
    plan = agent.caching.plan(
        "t", facts, "anthropic", body(third), other, agent.now[0], takes_key=False, model="claude-haiku-4-5"
    )
    assert plan.read_tokens == 0
    assert agent.ask(fourth).cache_read_tokens == pytest.approx(agent.plans[-1].read_tokens, abs=2)
    assert agent.plans[-1].read_tokens > 0


def test_an_openai_thread_gets_a_key_without_a_name(book: PriceBook) -> None:
    """The same key for each request of a thread, another one elsewhere; none where the provider refuses it."""
    caching = PromptCaching()
    facts = RequestFacts("chat_completions", "gpt-5", writes_cache=("cache_write_tokens",))
    sent = b'{"model":"gpt-5","messages":[]}'

    def key(thread: str, *, takes_key: bool = True) -> str | None:
        plan = caching.plan(thread, facts, "openai_chat", sent, None, START, takes_key=takes_key)
        assert plan.facts.writes_cache == facts.writes_cache
        return json.loads(plan.body).get("prompt_cache_key")

    assert key("alice/session-1") == key("alice/session-1") != key("alice/session-2")
    assert "alice" not in str(key("alice/session-1"))
    assert key("alice/session-1", takes_key=False) is None
    assert key("") is None


def test_threads_are_bounded(book: PriceBook) -> None:
    """Names come from strangers: the oldest thread is forgotten, and settling it changes nothing."""
    agent = Agent(book)
    agent.caching = PromptCaching(threads_max=2)
    sent = body(list(turns(2))[-1])
    first = agent.plan(sent, "t0")
    for number in range(1, 4):
        agent.plan(sent, f"t{number}")
    agent.caching.settled(first, Usage(input_tokens=9_000, cache_write_tokens=9_000, output_tokens=1))
    assert agent.plan(sent, "t0").read_tokens == 0


def test_no_prompt_is_in_a_note(book: PriceBook) -> None:
    """Counts, kinds and a path: nothing that somebody said."""
    agent = Agent(book)
    for number in range(3):
        agent.ask([{"role": "user", "content": f"secret {number}"}], system=f"secret{number} " + SYSTEM)
        assert "secret" not in json.dumps(agent.note)
