"""Marks are placed where keeping a prompt gains, and an agent that is marked pays less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
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


def plain(value: Any) -> Any:
    """A request without its marks, and with each text written as the block it is short for."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    texts = {"content", "system"}
    return {
        key: [{"type": "text", "text": each}] if key in texts and isinstance(each, str) else plain(each)
        for key, each in value.items()
        if key != "cache_control"
    }


class Talk:
    """A conversation that grows, is cut or summed up; its requests are of several shapes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.messages: list[Any] = [{"role": "user", "content": f"{number}: start"}]

    def go(self, how: str, size: int) -> bytes:
        blocks: list[Any] = [{"type": "text", "text": 'a "quoted" {"type":"text"} text, ' * size}]
        if how == "cut":
            self.messages = self.messages[-1:]
        elif how == "sum":
            self.messages = [{"role": "user", "content": f"{self.number}: in short, " + "gamma " * 100 * size}]
        elif how != "same":
            content = blocks if how == "blocks" else 'said "so", ' * size
            turn = [{"role": "assistant", "content": content}, {"role": "user", "content": content}]
            self.messages += turn * (15 if how == "many" else 1)
        shapes: tuple[dict[str, Any], ...] = (
            {},
            {"system": [{"type": "text", "text": SYSTEM}]},
            {"tools": []},
            {"tools": [TOOL, TOOL], "system": ""},
        )
        return body(self.messages, **shapes[self.number % len(shapes)])


MOVES = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["text", "blocks", "many", "cut", "sum", "same"]),
        st.integers(1, 40),
        st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["kept", "read", "nothing", "failed"])), max_size=2),
    ),
    min_size=5,
    max_size=30,
)


OVERLAP: list[Any] = [(0, "text", 5, []), (4, "sum", 40, [(1, "kept"), (0, "kept")]), (4, "many", 3, [])]
FAILURE: list[Any] = [(0, "text", 5, [(0, "kept")]), (4, "sum", 40, [(0, "failed")]), (4, "many", 3, [])]


@settings(max_examples=150)
@example(OVERLAP, 1)
@example(FAILURE, 1)
@given(MOVES, st.integers(1, 2))
def test_whatever_overlaps_bodies_differ_in_marks_alone(moves: list[Any], threads: int) -> None:
    """Conversations of one thread, their answers in any order or missing: every body is the same JSON but for the marks."""
    caching = PromptCaching(threads_max=2)
    card = BOOK.card("anthropic", MODEL, datetime.fromtimestamp(START / SECOND, timezone.utc))
    talks = [Talk(number) for number in range(5)]
    pending: list[tuple[Planned, int]] = []
    for number, (which, how, size, answers) in enumerate(moves):
        sent = talks[which].go(how, size)
        facts = DIALECT.read_request("/v1/messages", sent)
        at_us = START + number * SECOND
        plan = caching.plan(f"t{which % (threads + 1)}", facts, "anthropic", sent, card, at_us, takes_key=False)
        assert plain(json.loads(plan.body)) == plain(json.loads(sent))
        assert plan.body.count(b'"cache_control"') == len((plan.note or {"marks": []})["marks"]) <= 4
        pending.append((plan, len(sent) // 4))
        for index, answer in answers:
            if pending:
                settle(caching, *pending.pop(index % len(pending)), answer)


def settle(caching: PromptCaching, plan: Planned, tokens: int, answer: str) -> None:
    kept = tokens - 1
    usages = {
        "kept": Usage(input_tokens=tokens, cache_write_tokens=kept, cache_write_5m_tokens=kept, output_tokens=1),
        "read": Usage(input_tokens=tokens, cache_read_tokens=kept, output_tokens=1),
        "nothing": Usage(input_tokens=tokens, output_tokens=1),
    }
    caching.settled(plan, usages.get(answer))


def test_an_earlier_answer_does_not_undo_a_later_one(book: PriceBook) -> None:
    """Two requests overlap: what the later one left is what the next one reads, whichever is answered last."""
    said = ["0 " + "word " * 2_000, "1 " + "word " * 4_000]
    reads: list[int] = []
    for order in ((0, 1), (1, 0)):
        agent = Agent(book)
        plans: list[Planned] = []
        for text in said:
            agent.now[0] += SECOND
            plans.append(agent.plan(body([{"role": "user", "content": text}]), "t"))
        for number in order:
            settle(agent.caching, plans[number], len(said[number]) // 4, "kept")
        more = [{"role": "assistant", "content": "ok"}, {"role": "user", "content": "next"}]
        sent = body([{"role": "user", "content": said[1]}, *more])
        plan = agent.plan(sent, "t")
        assert plain(json.loads(plan.body)) == plain(json.loads(sent))
        reads.append(plan.read_tokens)
    assert reads == [len(said[1]) // 4 - 1] * 2


def test_owners_share_nothing(book: PriceBook) -> None:
    """The same names of a session and an agent, other keys: neither what is kept nor a cache key is common to them."""
    agent = Agent(book)
    first, second, _ = turns(3)
    settle(agent.caching, agent.plan(body(first), "t", owner="one"), 3_000, "kept")
    assert agent.plan(body(second), "t", owner="other").read_tokens == 0
    assert "shared_bytes" not in agent.note
    assert agent.plan(body(second), "t", owner="one").read_tokens > 0
    facts = RequestFacts("chat_completions", "gpt-5")
    sent = b'{"model":"gpt-5","messages":[]}'
    keys = {
        agent.caching.plan("t", facts, "openai_chat", sent, None, START, takes_key=True, owner=owner).body
        for owner in ("", "one", "other")
    }
    assert len(keys) == 3


@pytest.mark.parametrize("failed", [None, Usage()])
def test_what_was_not_answered_is_no_reuse(failed: Usage | None, book: PriceBook) -> None:
    """Single calls of which the first attempts fail: their second tries are no evidence that anybody comes back."""
    agent = Agent(book)
    marked = 0
    for number in range(60):
        agent.now[0] += 30 * SECOND
        sent = body([{"role": "user", "content": f"{number} " + "x" * 4_000}], system=f"Number {number}. {SYSTEM}")
        tries = [agent.plan(sent, f"t{number}") for _ in range(3)]
        agent.caching.settled(tries[0], failed)
        agent.caching.settled(tries[1], failed)
        assert tries[0].note == tries[1].note == tries[2].note
        settle(agent.caching, tries[2], 4_000, "kept" if agent.note["marks"] else "nothing")
        marked += bool(agent.note["marks"])
    assert marked <= 6


def test_a_second_try_is_marked_as_the_first_was(book: PriceBook) -> None:
    """An attempt fails in the middle of a conversation whose tail changes: the next attempt sends the same bytes."""
    agent = Agent(book)
    for number, messages in enumerate(turns(8)):
        messages[-1] = {"role": "user", "content": f"{messages[-1]['content']} at {number} o'clock"}
        agent.now[0] += 20 * SECOND
        first = agent.plan(body(messages), "t")
        assert agent.plan(body(messages), "t").body == first.body
        assert agent.ask(messages, wait_us=0).input_tokens > 0
        assert agent.plans[-1].body == first.body
    assert "stable" in agent.note["marks"]


@pytest.mark.parametrize("others", [0, 4_100])
def test_agents_with_names_of_their_own_speak_for_each_other(others: int, book: PriceBook) -> None:
    """An agent name for each run, and single calls: a few are marked, then what the others said counts; also after many agents."""
    agent = Agent(book)
    for number in range(others):
        sent = body([{"role": "user", "content": "x"}], tools=[])
        settle(agent.caching, agent.plan(sent, f"w{number}", group=f"w{number}"), 3_000, "nothing")
    marked = 0
    for number in range(60):
        agent.now[0] += 30 * SECOND
        sent = body([{"role": "user", "content": f"{number} " + "x" * 4_000}], system=f"Number {number}. {SYSTEM}")
        plan = agent.plan(sent, f"t{number}", group=f"a{number}")
        settle(agent.caching, plan, 4_000, "kept" if agent.note["marks"] else "nothing")
        marked += bool(agent.note["marks"])
    assert marked <= 8


def test_many_calls_at_once_are_marked_a_few_times(book: PriceBook) -> None:
    """Fifty requests leave before any is answered: those on their way count against more marks."""
    agent = Agent(book)
    for number in range(50):
        agent.plan(body([{"role": "user", "content": "x"}], system=f"Number {number}. {SYSTEM}"), f"t{number}")
    assert sum(bool(plan.note and plan.note["marks"]) for plan in agent.plans) <= 8


def test_a_mark_without_a_value_gets_no_second_one(book: PriceBook) -> None:
    """Blocks that say ``cache_control: null`` stay as they are, and no key comes twice."""
    agent = Agent(book)
    says = {"type": "text", "text": SYSTEM, "cache_control": None}
    sent = body([{"role": "user", "content": [says]}], system=[says], tools=[{**TOOL, "cache_control": None}])
    plan = agent.plan(sent, "t")
    assert plan.body is sent
    assert plan.note == {"marks": [], "why": "there is no place for a mark"}


@pytest.mark.parametrize("name", ["alice@example.com", "K" * 100_000, "a.content", "0"])
def test_no_key_that_somebody_wrote_is_in_a_note(name: str, book: PriceBook) -> None:
    """The arguments of tools have names of all kinds: the path says where, not what they are called."""
    agent = Agent(book)
    for number in range(2):
        use = {"type": "tool_use", "id": "1", "name": "pay", "input": {"to": {name: {"iban": number}}}}
        result = {"type": "tool_result", "tool_use_id": "1", "content": "ok"}
        said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [use]}]
        agent.ask([*said, {"role": "user", "content": [result]}])
    assert agent.note["diverged_at"] == "messages[1].content[0].input.*.*.*:0"


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
