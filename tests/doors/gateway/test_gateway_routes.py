"""Routes through a running gateway: which rung answers, what the client sees of it, and what is booked."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from house import CHAT, GPT, HAIKU, House, gateway

from bursar.config import Cache, ProviderSettings, Settings
from bursar.sim import FaultRule, Pace, Simulator

LLAMA = "llama-3.3-70b-versatile"
FAST: dict[str, Any] = {**CHAT, "model": "fast"}


@asynccontextmanager
async def routed(path: Path, sim: Simulator | None = None, **routes: Any) -> AsyncIterator[House]:
    """A gateway with these routes; the server has a key for every provider."""
    providers = {
        name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "anthropic", "google", "groq")
    }
    async with gateway(path, settings=Settings(routes=routes, providers=providers), sim=sim) as house:
        yield house


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-of-the-server-1234")


def fail(house: House, *rules: FaultRule) -> None:
    house.sim.simulator.faults = rules


async def chat(house: House, task: str, body: dict[str, Any] = FAST, **headers: str) -> Any:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return await house.client.post(
        "/v1/chat/completions", headers={"authorization": "Bearer x", "x-bursar-task": task, **more}, json=body
    )


def decision(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads(row["decision"])


async def test_the_first_rung_answers(tmp_path: Path) -> None:
    """A route's name is asked for as a model; its first rung answers under the model's own name, at its price."""
    async with routed(tmp_path, fast=[f"openai/{GPT}", f"groq/{LLAMA}"]) as house:
        answer = await chat(house, "t")
        assert answer.status_code == 200
        assert answer.headers["x-bursar-rung"] == "primary"
        (row,) = house.rows("t")
        assert (row["model_asked"], row["provider"], row["rung"], row["number"], row["cause"]) == (
            "fast", "openai", "primary", 1, "",
        )  # fmt: skip
        assert row["cost_nanousd"] > 0
        assert [each["verdict"] for each in decision(row)["candidates"]] == ["taken", "not needed"]


@pytest.mark.parametrize(
    ("fault", "cause"), [("500", "server"), ("503", "overload"), ("429=30", "rate_limit"), ("wrong-json", "invalid")]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_goes_to_the_next_rung(tmp_path: Path, fault: str, cause: str, stream: bool) -> None:
    """The client sees one answer; both attempts are booked, and say why."""
    if stream and fault == "wrong-json":
        pytest.skip("the simulator spoils whole answers only")
    async with routed(tmp_path, fast=[f"openai/{GPT}", f"groq/{LLAMA}"]) as house:
        fail(house, FaultRule(fault=fault))
        answer = await chat(house, "t", {**FAST, "stream": stream})
        assert answer.status_code == 200
        assert answer.headers["x-bursar-rung"] == "fallback"
        first, second = house.rows("t")
        assert (first["number"], first["provider"], first["rung"]) == (1, "openai", "primary")
        assert (second["number"], second["provider"], second["rung"], second["cause"]) == (2, "groq", "fallback", cause)
        assert first["call_id"] == second["call_id"] == answer.headers["x-bursar-call-id"]
        assert decision(second)["candidates"][0] == {
            "rung": "primary", "provider": "openai", "model": GPT, "breaker": "closed",
            "expected_nanousd": decision(second)["candidates"][0]["expected_nanousd"], "verdict": "failed", "why": cause,
        }  # fmt: skip


async def test_nothing_is_tried_elsewhere_for_a_bad_request(tmp_path: Path) -> None:
    async with routed(tmp_path, fast=[f"openai/{GPT}", f"groq/{LLAMA}"]) as house:
        fail(house, FaultRule(fault="400"))
        answer = await chat(house, "t")
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "The simulator was told to refuse this request."
        assert len(house.rows("t")) == 1


async def test_another_dialect_answers_in_the_clients_own(tmp_path: Path) -> None:
    """OpenAI's SDK is answered by Claude, Anthropic's by GPT: both official clients take it, whole and streamed."""
    routes = {"smart": [f"anthropic/{HAIKU}"], "other": [f"openai/{GPT}"]}
    async with routed(tmp_path, **routes) as house:
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="x", max_retries=0) as client:
            whole = await client.chat.completions.create(model="smart", messages=CHAT["messages"])
            assert whole.choices[0].message.content
            assert whole.choices[0].finish_reason == "stop"
            assert whole.usage is not None
            assert whole.usage.completion_tokens > 0
            text = ""
            stream = await client.chat.completions.create(model="smart", messages=CHAT["messages"], stream=True)
            async for chunk in stream:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            assert text == whole.choices[0].message.content
        async with anthropic.AsyncAnthropic(base_url=house.url, api_key="x", max_retries=0) as client:
            answer = await client.messages.create(model="other", messages=CHAT["messages"], max_tokens=500)
            assert answer.content[0].type == "text"
            assert answer.stop_reason == "end_turn"
            async with client.messages.stream(model="other", messages=CHAT["messages"], max_tokens=500) as events:
                said = await events.get_final_message()
            assert said.content[0].text == answer.content[0].text
            assert said.usage.output_tokens == answer.usage.output_tokens
        rows = house.rows()
        assert [row["provider"] for row in rows] == ["anthropic", "anthropic", "openai", "openai"]
        assert all(row["cost_nanousd"] and not row["estimated"] for row in rows)


async def test_what_cannot_be_translated_is_passed_over_unasked(tmp_path: Path) -> None:
    """A request that the other dialect cannot say is refused with the reason, before anything is spent."""
    async with routed(tmp_path, smart=[f"anthropic/{HAIKU}"]) as house:
        answer = await chat(house, "t", {**CHAT, "model": "smart", "n": 2})
        assert answer.status_code == 400
        assert answer.headers["x-should-retry"] == "false"
        assert "n:" in answer.json()["error"]["message"]
        assert house.rows("t") == []
        assert not house.calls


async def test_an_error_of_another_dialect_is_said_in_the_clients(tmp_path: Path) -> None:
    async with routed(tmp_path, smart=[f"anthropic/{HAIKU}"]) as house:
        fail(house, FaultRule(fault="400"))
        answer = await chat(house, "t", {**CHAT, "model": "smart"})
        assert answer.status_code == 400
        assert "told to refuse" in answer.json()["error"]["message"]


async def test_a_failing_target_is_left_alone_and_probed(tmp_path: Path) -> None:
    """After two failures nothing goes there; when its time is over one call does, and it is back."""
    route = {"rungs": [f"openai/{GPT}", f"groq/{LLAMA}"], "breaker": {"open": "1s"}}
    async with routed(tmp_path, fast=route) as house:
        fail(house, FaultRule(fault="500"))
        for number in range(6):
            assert (await chat(house, f"t{number}")).status_code == 200
        assert len(house.calls) == 2
        assert "breaker" in decision(house.rows("t5")[0])["candidates"][0]
        assert "2 failures in a row" in decision(house.rows("t5")[0])["candidates"][0]["why"]
        fail(house)
        await asyncio.sleep(1.2)
        answers = await asyncio.gather(*(chat(house, f"p{number}") for number in range(5)))
        rungs = [answer.headers["x-bursar-rung"] for answer in answers]
        assert rungs.count("primary") >= 1
        assert (await chat(house, "last")).headers["x-bursar-rung"] == "primary"


async def test_retry_after_is_kept_exactly(tmp_path: Path) -> None:
    """A provider that says when to come again is not asked before, and is asked then. The client is told the same."""
    async with routed(tmp_path, fast=[f"openai/{GPT}"]) as house:
        fail(house, FaultRule(fault="429=2", last=0))
        answer = await chat(house, "a")
        assert answer.status_code == 429
        refused = await chat(house, "b")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] in ("1", "2")
        assert "asked to be left alone for 2 s" in refused.json()["error"]["message"]
        assert len(house.calls) == 1
        await asyncio.sleep(2.05)
        assert (await chat(house, "c")).status_code == 200


async def test_the_only_rung_is_tried_again_within_the_budget(tmp_path: Path) -> None:
    """Without another rung a server's error is tried once more, after a moment; not when the retries are used up."""
    async with routed(tmp_path, fast=[f"openai/{GPT}"]) as house:
        fail(house, FaultRule(fault="500", last=0))
        assert (await chat(house, "t")).status_code == 200
        assert [row["status"] for row in house.rows("t")] == ["error", "ok"]
        fail(house, FaultRule(fault="500"))
        assert (await chat(house, "u")).status_code == 500
        assert len(house.rows("u")) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hung_provider_is_left_in_time(tmp_path: Path, stream: bool) -> None:
    """What shows nothing within the limit is cancelled, settled, and the next rung answers."""
    route = {"rungs": [f"openai/{GPT}", f"groq/{LLAMA}"], "first_token": "300ms", "total": "300ms"}
    async with routed(tmp_path, fast=route) as house:
        fail(house, FaultRule(fault="hang"))
        began = time.perf_counter()
        answer = await chat(house, "t", {**FAST, "stream": stream})
        assert answer.status_code == 200
        assert 0.3 <= time.perf_counter() - began < 1.5
        first, second = house.rows("t")
        assert (first["status"], first["estimated"]) == ("cancelled", True)
        assert "within 300 ms" in first["error"]
        assert second["cause"] == ("first_token" if stream else "slow")


async def test_a_broken_stream_ends_honestly_after_output_and_elsewhere_before(tmp_path: Path) -> None:
    """What was seen stays seen: the client is told that the rest will not come. Before that, nobody notices."""
    async with routed(tmp_path, fast=[f"openai/{GPT}", f"groq/{LLAMA}"]) as house:
        fail(house, FaultRule(fault="cut=4"))
        answer = await chat(house, "late", {**FAST, "stream": True})
        assert "upstream_cut" in answer.text
        assert [row["status"] for row in house.rows("late")] == ["cut"]
        fail(house, FaultRule(fault="cut=1"))
        answer = await chat(house, "early", {**FAST, "stream": True})
        assert "upstream_cut" not in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        assert [row["status"] for row in house.rows("early")] == ["cut", "ok"]


async def test_a_hedge_answers_first_and_the_loser_is_settled(tmp_path: Path) -> None:
    """After the limit the next rung is asked as well; the first to answer wins, the other is cancelled and booked."""
    route = {
        "rungs": [f"openai/{GPT}", f"groq/{LLAMA}"], "hedge": {"after": "100ms", "spend": "100%"}, "total": "20s",
    }  # fmt: skip
    async with routed(tmp_path, fast=route) as house:
        for number in range(3):  # a hedge is paid for out of what was spent
            await chat(house, f"warm{number}", {**FAST, "max_tokens": 20})
        fail(house, FaultRule(fault="slow=3000"))
        began = time.perf_counter()
        answer = await chat(house, "t", {**FAST, "max_tokens": 20})
        assert answer.headers["x-bursar-rung"] == "fallback"
        assert time.perf_counter() - began < 2
        rows = house.rows("t")
        assert sorted(row["status"] for row in rows) == ["cancelled", "ok"]
        assert {row["provider"]: row["status"] for row in rows} == {"openai": "cancelled", "groq": "ok"}


async def test_a_model_that_costs_too_much_is_left_within_three_calls(tmp_path: Path) -> None:
    """Its cost for a token of output passes the cap: at most three calls, then the next rung; a probe tries it again."""
    route = {
        "rungs": [{"model": f"openai/{GPT}", "cost_per_mtok": "0.05"}, f"groq/{LLAMA}"], "breaker": {"open": "1s"},
    }  # fmt: skip
    async with routed(tmp_path, fast=route) as house:
        rungs = [(await chat(house, f"t{number}")).headers["x-bursar-rung"] for number in range(6)]
        assert rungs.count("primary") <= 3
        assert rungs[3:] == ["fallback"] * 3
        assert "cost_per_mtok" in decision(house.rows("t5")[0])["candidates"][0]["why"]
        await asyncio.sleep(1.2)
        again = [(await chat(house, f"p{number}")).headers["x-bursar-rung"] for number in range(3)]
        assert again == ["primary", "fallback", "fallback"]


async def test_a_budget_refusal_counts_against_nobody(tmp_path: Path) -> None:
    """Refused calls open no breaker; a rung for them may answer cheaper."""
    settings = Settings(
        routes={"fast": [f"openai/{GPT}", {"model": f"groq/{LLAMA}", "when": "server"}]},
        budgets={"all": {"limit": "$0.0000001", "per": "day"}},
    )
    async with gateway(tmp_path, settings=settings) as house:
        for number in range(5):
            assert (await chat(house, f"t{number}")).status_code == 402
        assert not house.calls
        text = (await house.client.get("/metrics")).text
        assert "bursar_breaker_openings_total{" not in text


@pytest.mark.parametrize("next_rung", [f"groq/{LLAMA}", f"anthropic/{HAIKU}"])
async def test_a_broken_stream_goes_on_where_the_route_says_so(tmp_path: Path, next_rung: str) -> None:
    """The client sees one answer with one end; the next rung was told what had been said. Both attempts are booked."""
    route = {"rungs": [f"openai/{GPT}", next_rung], "mid_stream": "continue"}
    async with routed(tmp_path, fast=route) as house:
        whole = await chat(house, "whole", {**FAST, "stream": True})
        assert whole.text.endswith("data: [DONE]\n\n")
        fail(house, FaultRule(fault="cut=6", model=GPT))
        async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="x", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="fast", messages=CHAT["messages"], stream=True, extra_headers={"x-bursar-task": "t"}
            )
            chunks = [chunk async for chunk in stream]
        assert len({chunk.id for chunk in chunks}) == 1
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        first, second = house.rows("t")
        assert (first["status"], second["status"], second["cause"]) == ("cut", "ok", "cut")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert len(text) > 20
        assert second["cost_nanousd"] > 0


async def test_without_a_rung_left_a_broken_stream_is_said_to_be_broken(tmp_path: Path) -> None:
    async with routed(tmp_path, fast={"rungs": [f"openai/{GPT}"], "mid_stream": "continue", "retries": "0%"}) as house:
        fail(house, FaultRule(fault="cut=6"))
        answer = await chat(house, "t", {**FAST, "stream": True})
        assert "broke off" in answer.text
        assert "[DONE]" not in answer.text


async def test_a_rung_is_passed_over_as_its_budget_runs_out(tmp_path: Path) -> None:
    """From ``budget_at`` on the dearer rung is not taken; nothing is charged for having looked."""
    providers = {name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "groq")}
    route = [{"model": "openai/gpt-4o", "budget_at": "50%"}, {"model": f"groq/{LLAMA}", "when": "budget"}]
    settings = Settings(
        routes={"fast": {"rungs": route}}, providers=providers, budgets={"all": {"limit": "$0.004", "per": "day"}}
    )
    async with gateway(tmp_path, settings=settings) as house:
        body = {**FAST, "max_tokens": 100}
        rungs = []
        for number in range(8):
            answer = await chat(house, f"t{number}", body)
            assert answer.status_code == 200
            rungs.append(answer.headers["x-bursar-rung"])
        assert rungs[0] == "primary"
        assert rungs[-1] == "fallback"
        assert rungs == sorted(rungs, reverse=True)
        last = house.rows("t7")
        assert [(row["provider"], row["number"], row["cause"]) for row in last] == [("groq", 1, "budget")]


async def test_a_refused_call_may_have_a_stale_answer(tmp_path: Path) -> None:
    """What no budget pays for may still be answered with what was kept, labelled."""
    route = {"rungs": [f"openai/{GPT}", "stale"], "cache": {"ttl": "1s", "stale": "1h"}}
    settings = Settings(
        routes={"fast": route}, cache=Cache(store="memory"), budgets={"all": {"limit": "$0.001", "per": "day"}}
    )
    async with gateway(tmp_path, settings=settings) as house:
        body = {**FAST, "temperature": 0, "max_tokens": 100}
        assert (await chat(house, "a", body)).status_code == 200
        number = 0
        while (await chat(house, "b", {**body, "seed": number})).status_code == 200:
            number += 1
        await asyncio.sleep(1.1)
        answer = await chat(house, "c", body)
        assert (answer.status_code, answer.headers["x-bursar-rung"]) == (200, "stale")
        assert (await chat(house, "d", {**body, "seed": 99})).status_code == 402


@pytest.mark.parametrize(("path", "model"), [("/v1/chat/completions", GPT), ("/v1/messages", HAIKU)])
async def test_the_first_token_is_the_first_that_says_something(tmp_path: Path, path: str, model: str) -> None:
    """A stream's opening events come at once and are none: a quantile of the first token leaves no healthy stream."""
    route = {model: {"rungs": ["asked", f"groq/{LLAMA}"], "first_token": "p95*3"}}
    async with routed(tmp_path, sim=Simulator(seed=7, pace=Pace(first_token_ms=80)), **route) as house:
        headers = {"authorization": "Bearer x", "x-api-key": "x", "anthropic-version": "2023-06-01"}
        body = {**CHAT, "model": model, "max_tokens": 50, "stream": True}
        for _ in range(26):
            answer = await house.client.post(path, headers=headers, json=body)
            assert answer.headers["x-bursar-rung"] == "primary"
        assert min(row["first_token_ms"] for row in house.rows()) >= 75
