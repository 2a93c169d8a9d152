"""Faults: what each does to an answer, and which requests a schedule picks."""

import json

import pytest
from sim_requests import (
    ANTHROPIC,
    CHAT,
    GEMINI,
    GENERATE,
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

from bursar.sim import parse_rules


def with_fault(fault: str, path: str = CHAT, body=None, headers=OPENAI, query: str = ""):
    return post(simulator(), path, body or chat(), headers, query, **{"x-sim-fault": fault})


@pytest.mark.parametrize(
    ("fault", "openai", "anthropic", "gemini_status"),
    [
        ("400", 400, 400, 400),
        ("401", 401, 401, 401),
        ("429", 429, 429, 429),
        ("500", 500, 500, 500),
        ("503", 503, 529, 503),
    ],
)
def test_error_faults_have_the_dialects_status(fault: str, openai: int, anthropic: int, gemini_status: int) -> None:
    """The same fault is each provider's own status; overloaded is 529 at Anthropic."""
    assert with_fault(fault).status == openai
    assert with_fault(fault, MESSAGES, claude(), ANTHROPIC).status == anthropic
    assert with_fault(fault, GENERATE, gemini(), GEMINI).status == gemini_status


def test_rate_limit_says_when_to_come_back() -> None:
    """429 carries Retry-After, and Gemini's body the same wait."""
    assert dict(with_fault("429=12").headers)["retry-after"] == "12"
    body = json.loads(with_fault("429=12", GENERATE, gemini(), GEMINI).body)
    assert body["error"]["details"][0]["retryDelay"] == "12s"


def test_cut_ends_after_so_many_events() -> None:
    """A cut stream has its first events only and is marked as broken off; a cut body is half of it."""
    answer = with_fault("cut=5", body=chat(stream=True))
    assert (len(answer.pieces), answer.ends) == (5, "cut")
    whole = with_fault("cut")
    assert whole.ends == "cut"
    with pytest.raises(json.JSONDecodeError):
        json.loads(sent(whole))


def test_hang_never_answers() -> None:
    """A hanging request has no bytes."""
    answer = with_fault("hang")
    assert (answer.ends, answer.body, answer.pieces) == ("hang", b"", None)


def test_slow_adds_to_the_first_token_alone() -> None:
    """The wait comes once, before the first token."""
    delays = [delay for delay, _ in with_fault("slow=1500", body=chat(stream=True)).pieces]
    assert delays[1] == 1.5
    assert sum(delays) == 1.5
    assert with_fault("slow=1500").delay_s == 1.5


@pytest.mark.parametrize("stream", [False, True])
def test_wrong_json_cannot_be_parsed(stream: bool) -> None:
    """The body, or one event of the stream, is not JSON; the rest of the stream still comes."""
    answer = with_fault("wrong-json", body=chat(stream=stream))
    lines = sent(answer).decode().split("\n\n") if stream else [sent(answer).decode()]
    broken = 0
    for line in filter(None, lines):
        text = line.removeprefix("data: ")
        try:
            json.loads(text) if text != "[DONE]" else None
        except json.JSONDecodeError:
            broken += 1
    assert broken == 1
    assert not stream or lines[-2] == "data: [DONE]"


@pytest.mark.parametrize(
    ("path", "body", "headers", "query"),
    [
        (CHAT, chat(), OPENAI, ""),
        (CHAT, chat(stream=True, stream_options={"include_usage": True}), OPENAI, ""),
        (MESSAGES, claude(), ANTHROPIC, ""),
        (MESSAGES, claude(stream=True), ANTHROPIC, ""),
        (GENERATE, gemini(), GEMINI, ""),
        (STREAM, gemini(), GEMINI, "alt=sse"),
        ("/v1/embeddings", {"model": "e", "input": "a"}, OPENAI, ""),
    ],
)
def test_usage_faults_are_sent_but_not_billed(path: str, body: dict, headers: dict, query: str) -> None:
    """Usage is missing, negative or text on the wire, while /sim/calls keeps what is true."""
    true = simulator()
    post(true, path, body, headers, query)
    for fault in ("no-usage", "usage-negative", "usage-strings"):
        sim = simulator()
        answer = sent(post(sim, path, body, headers, query, **{"x-sim-fault": fault})).decode()
        assert ("_tokens" in answer or "TokenCount" in answer) == (fault != "no-usage")
        assert ('":-' in answer) == (fault == "usage-negative")
        assert (' tokens"' in answer) == (fault == "usage-strings")
        assert sim.calls[0].usage == true.calls[0].usage


def statuses(rules: str, count: int = 12, step_s: float = 0.0, **request) -> list[int]:
    clock = Clock()
    sim = simulator(clock=clock, faults=parse_rules(rules))
    found = []
    for _ in range(count):
        found.append(post(sim, **({"path": CHAT, "body": chat()} | request)).status)
        clock.now += step_s
    return found


def test_a_schedule_picks_by_index() -> None:
    """Ranges include both ends; every n-th counts from the first; the first rule that fits decides."""
    assert statuses('{"fault": "500", "first": 2, "last": 3}', 5) == [200, 200, 500, 500, 200]
    assert statuses('[{"fault": "429", "first": 1, "every": 3}]', 6) == [200, 429, 200, 200, 429, 200]
    both = '[{"fault": "500", "last": 0}, {"fault": "503"}]'
    assert statuses(both, 3) == [500, 503, 503]


def test_a_schedule_picks_by_time_path_model_and_key() -> None:
    """Every condition of a rule must hold."""
    assert statuses('{"fault": "500", "after_s": 2, "until_s": 4}', 6, 1.0) == [200, 200, 500, 500, 200, 200]
    assert set(statuses('{"fault": "500", "path": "/v1/messages*"}')) == {200}
    assert set(statuses('{"fault": "500", "path": "/v1/chat/*", "model": "gpt-4o*"}')) == {500}
    assert set(statuses('{"fault": "500", "model": "gpt-5*"}')) == {200}
    assert set(statuses('{"fault": "500", "key": "sk-test-1234"}')) == {500}
    assert set(statuses('{"fault": "500", "key": "another"}')) == {200}


def test_chance_comes_from_the_seed() -> None:
    """A probability hits about its share of requests, the same ones in each run."""
    rule = '{"fault": "500", "probability": 0.25}'
    first = statuses(rule, 400)
    assert first == statuses(rule, 400)
    assert 70 <= first.count(500) <= 130


def test_schedules_can_be_replaced_while_it_runs() -> None:
    """POST /sim/faults sets the schedule; an empty list ends it; a header wins over it."""
    sim = simulator()
    post(sim, "/sim/faults", [{"fault": "500"}])
    assert post(sim, CHAT, chat()).status == 500
    assert post(sim, CHAT, chat(), **{"x-sim-fault": "429"}).status == 429
    post(sim, "/sim/faults", [])
    data(post(sim, CHAT, chat()))


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ('{"fault": "explode"}', "unknown fault 'explode'; known: 400"),
        ('{"fault": "cut=x"}', "whole number"),
        ('{"fault": "500", "evry": 2}', "evry"),
        ('{"fault": "500", "every": 0}', "at least 1"),
        ('{"fault": "500", "probability": 2}', "0..1"),
        ("nonsense", "malformed"),
    ],
)
def test_bad_schedules_name_what_is_wrong(rules: str, says: str) -> None:
    """A schedule with a mistake is refused as a whole, with the reason; over HTTP that is a 400."""
    with pytest.raises(ValueError, match=says):
        parse_rules(rules)
    sim = simulator()
    assert post(sim, "/sim/faults", rules.encode()).status == 400
    assert sim.faults == ()


def test_a_wrong_fault_header_is_refused() -> None:
    """A typo in the header is a 400 that lists the faults."""
    answer = with_fault("expldoe")
    assert answer.status == 400
    assert b"wrong-json" in answer.body
