"""The simulator without HTTP: determinism, billing, the prompt caches, limits, errors and introspection."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_requests import (
    ANTHROPIC,
    CHAT,
    GEMINI,
    GENERATE,
    LONG,
    MESSAGES,
    OPENAI,
    STREAM,
    Clock,
    chat,
    claude,
    data,
    gemini,
    post,
    sent,
    simulator,
)

from bursar.core.usage import Usage
from bursar.sim import Pace, Simulator
from bursar.sim.simulator import CALLS_KEPT


def get(sim: Simulator, path: str, query: str = "") -> dict:
    return json.loads(sim.respond("GET", path, query, {}, b"").body)


REQUESTS = [
    (CHAT, chat(), OPENAI),
    (CHAT, chat(stream=True), OPENAI),
    ("/v1/responses", {"model": "gpt-5", "input": "Hello", "stream": True}, OPENAI),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Hello"}, OPENAI),
    (MESSAGES, claude(stream=True), ANTHROPIC),
    (GENERATE, gemini(), GEMINI),
    (STREAM, gemini(), GEMINI),
]


def test_same_seed_and_order_give_the_same_bytes() -> None:
    """Two simulators of one seed send the same bytes for the same requests; another seed does not."""

    def run(seed: int) -> list[bytes]:
        sim = simulator(seed=seed)
        return [sent(post(sim, path, body, headers)) for path, body, headers in REQUESTS]

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_the_reply_depends_on_the_request_and_the_id_on_the_index() -> None:
    """The same request repeated gets the same text under a new id, streamed or not."""
    sim = simulator()
    first, second = data(post(sim, CHAT, chat())), data(post(sim, CHAT, chat()))
    streamed = sent(post(sim, CHAT, chat(stream=True))).decode()
    text = first["choices"][0]["message"]["content"]
    assert first["id"] != second["id"]
    assert second["choices"] == first["choices"]
    assert "".join(re.findall(r'"content":"([^"]*)"', streamed)) == text


def test_lengths_vary_and_usage_is_four_characters_a_token() -> None:
    """Output lengths are drawn; what is billed can be recomputed from the texts."""
    sim = simulator()
    lengths = set()
    for number in range(40):
        answer = data(post(sim, CHAT, chat(f"Question {number}")))
        usage, text = answer["usage"], answer["choices"][0]["message"]["content"]
        assert usage["completion_tokens"] == len(text) / 4
        assert usage["prompt_tokens"] == -(-len(f"<user>Question {number}") // 4)
        lengths.add(usage["completion_tokens"])
    assert len(lengths) > 25


@pytest.mark.parametrize(
    ("path", "headers", "body", "count"),
    [
        (CHAT, OPENAI, chat([{"type": "image_url", "image_url": {"url": "data:" + "a" * 9_000}}]), "prompt_tokens"),
        (MESSAGES, ANTHROPIC, claude([{"type": "image", "source": {"data": "a" * 9_000}}]), "input_tokens"),
        (
            GENERATE,
            GEMINI,
            {"contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "a" * 9_000}}]}]},
            "promptTokenCount",
        ),
    ],
)
def test_a_picture_counts_256_tokens(path: str, headers: dict, body: dict, count: str) -> None:
    """A medium has a fixed size in tokens whatever its bytes; the role in front of it counts two."""
    answer = data(post(simulator(), path, body, headers))
    assert (answer.get("usage") or answer["usageMetadata"])[count] == 258


@given(limit=st.integers(1, 300), number=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_output_never_exceeds_the_cap(limit: int, number: int) -> None:
    """Reasoning and text together stay within the cap in every dialect, and a cut answer says so."""
    sim = simulator()
    answers = [
        data(post(sim, CHAT, chat(f"{number}", model="o3", max_completion_tokens=limit)))["usage"]["completion_tokens"],
        data(post(sim, MESSAGES, claude(f"{number}", max_tokens=limit), ANTHROPIC))["usage"]["output_tokens"],
        sum(
            data(post(sim, GENERATE, gemini(f"{number}", generationConfig={"maxOutputTokens": limit}), GEMINI))[
                "usageMetadata"
            ].get(name, 0)
            for name in ("candidatesTokenCount", "thoughtsTokenCount")
        ),
    ]
    assert all(tokens <= limit for tokens in answers)


def test_openai_caches_prefixes_per_key_for_five_minutes() -> None:
    """From 1,024 tokens in steps of 128, for the same key only, until the lifetime has passed without use."""
    clock = Clock()
    sim = simulator(clock=clock)

    def cached(text: str, key: str = "sk-one-111", **fields) -> int:
        answer = data(post(sim, CHAT, chat(text, **fields), {"authorization": f"Bearer {key}"}))
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached(LONG + "first") == 0
    hit = cached(LONG + "second question")
    assert hit % 128 == 0
    assert 3_072 <= hit <= 3_200
    assert cached(LONG + "third", key="sk-two-222") == 0
    assert cached("short") == cached("short") == 0
    clock.now += 299
    assert cached(LONG + "fourth") == hit
    clock.now += 301
    assert cached(LONG + "fifth") == 0
    assert cached(LONG + "sixth", prompt_cache_retention="24h") == hit
    clock.now += 3_600
    assert cached(LONG + "seventh") == hit


def test_anthropic_creates_then_reads_at_marks() -> None:
    """A marked prefix is created once at its lifetime, then read; unmarked text is plain input."""
    clock = Clock()
    sim = simulator(clock=clock)

    def ask(ttl: str, text: str) -> dict:
        system = [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral", "ttl": ttl}}]
        return data(post(sim, MESSAGES, claude(text, system=system), ANTHROPIC))["usage"]

    first, second = ask("5m", "one"), ask("5m", "another question")
    created = first["cache_creation_input_tokens"]
    assert created == first["cache_creation"]["ephemeral_5m_input_tokens"] == -(-len("<system>" + LONG) // 4)
    assert (first["cache_read_input_tokens"], second["cache_read_input_tokens"]) == (0, created)
    assert second["cache_creation_input_tokens"] == 0
    assert 0 < second["input_tokens"] < 10
    clock.now += 301
    third = ask("1h", "three")
    assert third["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": created}
    clock.now += 3_599
    assert ask("1h", "four")["cache_read_input_tokens"] == created


def test_anthropic_growing_conversation_reads_its_shorter_self() -> None:
    """A mark on the last message reads what the mark of the turn before created, and creates the rest."""
    sim = simulator()
    mark = {"cache_control": {"type": "ephemeral"}}
    first = [{"role": "user", "content": [{"type": "text", "text": LONG, **mark}]}]
    longer = [
        {"role": "user", "content": [{"type": "text", "text": LONG}]},
        {"role": "assistant", "content": "A reply of some words."},
        {"role": "user", "content": [{"type": "text", "text": LONG, **mark}]},
    ]
    one = data(post(sim, MESSAGES, claude() | {"messages": first}, ANTHROPIC))["usage"]
    two = data(post(sim, MESSAGES, claude() | {"messages": longer}, ANTHROPIC))["usage"]
    assert two["cache_read_input_tokens"] == one["cache_creation_input_tokens"] > 3_000
    assert two["cache_creation_input_tokens"] > 3_000
    assert two["input_tokens"] == 0


def test_gemini_caches_by_itself() -> None:
    """Gemini's implicit cache shows in the usage of the second call."""
    sim = simulator()
    first, second = (data(post(sim, GENERATE, gemini(LONG + end), GEMINI))["usageMetadata"] for end in "ab")
    assert "cachedContentTokenCount" not in first
    assert second["cachedContentTokenCount"] >= 3_072


@pytest.mark.parametrize(
    ("effort", "least", "most"), [("none", 0, 0), ("minimal", 0, 0), ("low", 64, 256), ("high", 512, 3_072)]
)
def test_reasoning_follows_effort(effort: str, least: int, most: int) -> None:
    """OpenAI's reasoning tokens lie in the effort's range; they are part of the completion tokens."""
    usage = data(post(simulator(), CHAT, chat(model="gpt-5-mini", reasoning_effort=effort)))["usage"]
    assert least <= usage["completion_tokens_details"]["reasoning_tokens"] <= most
    assert usage["completion_tokens"] > usage["completion_tokens_details"]["reasoning_tokens"]


def test_service_tiers_are_echoed() -> None:
    """The tier that was asked for is the tier that is answered; without one it is the provider's default."""
    sim = simulator()
    assert data(post(sim, CHAT, chat(service_tier="flex")))["service_tier"] == "flex"
    assert data(post(sim, CHAT, chat(service_tier="auto")))["service_tier"] == "default"
    assert data(post(sim, MESSAGES, claude(), ANTHROPIC))["usage"]["service_tier"] == "standard"
    assert (
        data(post(sim, GENERATE, gemini(serviceTier="priority"), GEMINI))["usageMetadata"]["serviceTier"] == "priority"
    )


def test_gemini_streams_as_a_json_array_without_alt_sse() -> None:
    """Without alt=sse the stream is one JSON array of the same chunks."""
    sim = simulator()
    array = post(sim, STREAM, gemini(), GEMINI)
    events = post(sim, STREAM, gemini(), GEMINI, query="alt=sse")
    chunks = json.loads(sent(array))
    lines = [json.loads(line[6:]) for line in sent(events).decode().split("\r\n\r\n") if line]
    assert dict(array.headers)["content-type"] == "application/json"
    assert [chunk["candidates"] for chunk in chunks] == [line["candidates"] for line in lines]
    assert len(chunks) > 1


def test_tool_choice_is_kept() -> None:
    """A named tool is the one that is called; ``none`` and a tool's result give text."""
    tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("one", "two")]
    sim = simulator()
    forced = chat(tools=tools, tool_choice={"type": "function", "function": {"name": "two"}})
    assert data(post(sim, CHAT, forced))["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "two"
    answer = data(post(sim, CHAT, chat(tools=tools, tool_choice="none")))
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "says"),
    [
        (CHAT, b"{not json", OPENAI, "could not parse"),
        (CHAT, b"[]", OPENAI, "JSON object"),
        (CHAT, {"messages": []}, OPENAI, "model parameter"),
        (CHAT, chat(n=2), OPENAI, "'n' must be 1"),
        (CHAT, chat(max_tokens=0), OPENAI, "above 0"),
        (CHAT, chat() | {"messages": ["hi"]}, OPENAI, "array of objects"),
        ("/v1/embeddings", {"model": "e", "input": ""}, OPENAI, "none of them empty"),
        ("/v1/responses", {"model": "m", "input": "a", "previous_response_id": "resp_1"}, OPENAI, "not found"),
        (MESSAGES, {"model": "c", "messages": []}, ANTHROPIC, "max_tokens: Field required"),
        (MESSAGES, claude(), {"x-api-key": "k"}, "anthropic-version"),
        (MESSAGES, claude(thinking={"type": "enabled", "budget_tokens": 9999}), ANTHROPIC, "must be greater"),
        (MESSAGES, claude(thinking="much"), ANTHROPIC, "wrong type"),
        (
            MESSAGES,
            claude([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}] * 5),
            ANTHROPIC,
            "maximum of 4",
        ),
        (GENERATE, {"contents": []}, GEMINI, "contents"),
    ],
)
def test_bad_requests_get_a_400_that_names_the_field(path: str, body, headers: dict, says: str) -> None:
    """A request that the provider would refuse is refused with a reason, and billed nothing."""
    sim = simulator()
    answer = post(sim, path, body, headers)
    assert answer.status == 400
    assert says in answer.body.decode()
    assert sim.calls[-1].usage is None


@pytest.mark.parametrize(
    ("path", "headers", "shape"),
    [
        (CHAT, {"authorization": "Bearer bad-key"}, ("error", "code", "invalid_api_key")),
        (CHAT, {}, ("error", "code", "invalid_api_key")),
        (MESSAGES, {"x-api-key": "bad-key"}, ("error", "type", "authentication_error")),
        (GENERATE, {"x-goog-api-key": "bad-key"}, ("error", "status", "UNAUTHENTICATED")),
    ],
)
def test_bad_keys_get_the_dialects_401(path: str, headers: dict, shape: tuple[str, str, str]) -> None:
    """No key, or ``bad-key``, is refused in the dialect of the path."""
    answer = post(simulator(), path, {}, headers)
    assert answer.status == 401
    assert json.loads(answer.body)[shape[0]][shape[1]] == shape[2]


def test_gemini_takes_its_key_from_the_query() -> None:
    """``?key=`` is a key too."""
    assert post(simulator(), GENERATE, gemini(), {}, query="key=k").status == 200


def test_unknown_paths_get_a_404() -> None:
    """A path that no provider has is answered in the dialect it looks like."""
    sim = simulator()
    assert post(sim, "/v1/nothing", {}).status == 404
    assert json.loads(post(sim, "/v1/messages/nothing", {}).body)["error"]["type"] == "not_found_error"
    assert json.loads(post(sim, "/v1beta/nothing", {}).body)["error"]["status"] == "NOT_FOUND"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "text", "type", "parts", "input_schema", "function", "name", "cache_control"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = [
    "messages",
    "contents",
    "input",
    "tools",
    "system",
    "tool_choice",
    "thinking",
    "stream",
    "max_tokens",
    "reasoning",
]


@given(body=st.dictionaries(st.sampled_from(FIELDS), ANYTHING), path=st.sampled_from([row[0] for row in REQUESTS]))
@settings(max_examples=300, deadline=None)
def test_any_json_is_answered(body: dict, path: str) -> None:
    """Whatever JSON a client sends, the answer is 200 or 400, never an exception."""
    headers = {**OPENAI, **ANTHROPIC, **GEMINI}
    assert post(simulator(), path, {"model": "m", "max_tokens": 5, **body}, headers).status in (200, 400)


def test_calls_tell_what_was_served_and_billed() -> None:
    """/sim/calls has the billed usage in Bursar's units, the response id, the digest, and no credentials."""
    sim = simulator()
    answer = data(post(sim, MESSAGES, claude(), ANTHROPIC, **{"x-bursar-task": "t1", "cookie": "c"}))
    post(sim, CHAT, chat(stream=True))
    rows = get(sim, "/sim/calls")["calls"]
    assert rows[0]["response_id"] == answer["id"]
    assert rows[0]["usage"] == {
        "input_tokens": answer["usage"]["input_tokens"],
        "output_tokens": answer["usage"]["output_tokens"],
        "requests": 1,
    }
    assert rows[0]["headers"] == {"anthropic-version": "2023-06-01", "x-bursar-task": "t1"}
    assert rows[0]["key"] == "opic"
    assert rows[1]["stream"]
    assert rows[1]["events"] > 3
    assert [row["index"] for row in get(sim, "/sim/calls", "since=1")["calls"]] == [1]


def test_stats_add_up_and_reset_starts_over() -> None:
    """/sim/stats sums what the calls say; after a reset the same request gets the same bytes as at the start."""
    sim = simulator()
    first = sent(post(sim, CHAT, chat(LONG)))
    post(sim, CHAT, chat(LONG), **{"x-sim-fault": "500"})
    stats = get(sim, "/sim/stats")
    billed: Usage = sim.calls[0].usage
    assert stats["by_status"] == {"200": 1, "500": 1}
    assert stats["by_fault"] == {"500": 1}
    assert stats["usage"]["output_tokens"] == billed.output_tokens
    assert post(sim, "/sim/reset", {}).status == 200
    assert get(sim, "/sim/calls") == {"calls": [], "served": 0, "kept": 0}
    assert sent(post(sim, CHAT, chat(LONG))) == first


def test_memory_is_bounded() -> None:
    """Only the last calls are kept; the count goes on."""
    sim = simulator()
    body = json.dumps({"model": "m", "input": "a", "dimensions": 1}).encode()
    for _ in range(CALLS_KEPT + 10):
        sim.respond("POST", "/v1/embeddings", "", OPENAI, body)
    assert (sim.served, len(sim.calls), sim.calls[0].index) == (CALLS_KEPT + 10, CALLS_KEPT, 10)


def test_pace_is_told_as_delays() -> None:
    """The first token waits, each further token takes its share, and a whole answer takes as long as its stream."""
    sim = simulator(pace=Pace(first_token_ms=200, tokens_per_second=50))
    streamed = post(sim, CHAT, chat(stream=True))
    whole = post(sim, CHAT, chat())
    delays = [delay for delay, _ in streamed.pieces]
    assert delays[0] == 0
    assert delays[1] == pytest.approx(0.22)
    assert delays[2] == pytest.approx(0.02)
    assert whole.delay_s == pytest.approx(sum(delays))


def test_a_plain_chat_completion_is_cheap() -> None:
    """One chat completion costs well under a millisecond of CPU, so that benchmarks measure the gateway."""
    sim, body = simulator(), json.dumps(chat()).encode()
    started = time.process_time()
    for _ in range(500):
        sim.respond("POST", CHAT, "", OPENAI, body)
    assert (time.process_time() - started) / 500 < 0.0005
