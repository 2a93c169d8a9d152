"""Which answer a request means, through a running gateway: nothing is given again that was not asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from house import CHAT, GPT, HAIKU, MESSAGES, House, gateway, until

from bursar.config import Cache, ProviderSettings, Settings
from bursar.sim import FaultRule, Pace, Simulator

COLD: dict[str, Any] = {**CHAT, "temperature": 0}
EVERY: dict[str, Any] = {"*": {"cache": {"ttl": "1h"}}}
LLAMA = "llama-3.3-70b-versatile"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-of-the-server-1234")


@asynccontextmanager
async def caching(path: Path, routes: dict[str, Any] = EVERY, **more: Any) -> AsyncIterator[House]:
    providers = {name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "anthropic", "groq")}
    settings = Settings(
        routes=routes, providers=providers, cache=Cache(store="memory"), budgets=more.pop("budgets", {})
    )
    async with gateway(path, settings=settings, **more) as house:
        yield house


async def chat(house: House, task: str, body: dict[str, Any] = COLD, **headers: str) -> httpx2.Response:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return await house.client.post(
        "/v1/chat/completions", headers={"authorization": "Bearer x", "x-bursar-task": task, **more}, json=body
    )


def tier(answer: httpx2.Response) -> str:
    return answer.headers.get("x-bursar-cache", "")


async def test_every_key_that_a_caller_shows_tells_callers_apart(tmp_path: Path) -> None:
    """A proxy's authorization is the same for all behind it; the key of the API beside it is not."""
    async with caching(tmp_path) as house:

        async def ask(key: str) -> str:
            headers = {"authorization": "Basic cHJveHk6cHc=", "x-api-key": key, "anthropic-version": "2023-06-01"}
            answer = await house.client.post("/v1/messages", headers=headers, json={**MESSAGES, "temperature": 0})
            return tier(answer)

        assert [await ask(key) for key in ("sk-alice", "sk-bob", "sk-alice")] == ["miss", "miss", "exact"]


async def test_a_model_of_another_provider_is_another(tmp_path: Path) -> None:
    """Under the same name too, however the provider was named."""
    async with caching(tmp_path) as house:
        assert tier(await chat(house, "a", {**COLD, "model": f"openai/{GPT}"})) == "miss"
        other = await chat(house, "b", {**COLD, "model": f"groq/{GPT}"})
        assert tier(other) == "miss"
        assert tier(await chat(house, "c", x_bursar_provider="groq")) == "exact"
        assert [row["provider"] for row in house.rows()] == ["openai", "groq", "groq"]


async def test_a_route_that_says_something_else_by_now_means_other_answers(tmp_path: Path) -> None:
    """Other rungs, a shorter life, or no answers that ask for tools: what was kept for the old ones is none of it."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    body = {**COLD, "model": "fast", "tools": tools, "tool_choice": "required"}
    kept = {"store": "sqlite", "memory_mb": 1}
    before = {"rungs": [f"openai/{GPT}"], "cache": {"ttl": "1d", "tool_calls": True}}
    for route, found in (
        (before, "miss"),
        (before, "exact"),
        ({**before, "rungs": [f"anthropic/{HAIKU}"]}, "miss"),
        ({**before, "cache": {"ttl": "1m", "tool_calls": True}}, "miss"),
        ({**before, "cache": {"ttl": "1d"}}, "miss"),
    ):
        providers = {name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "anthropic")}
        settings = Settings(routes={"fast": route}, providers=providers, cache=Cache(**kept))  # type: ignore[arg-type]
        async with gateway(tmp_path, settings=settings) as house:
            assert tier(await chat(house, "t", body)) == found


async def test_what_a_provider_goes_on_with_is_asked_anew(tmp_path: Path) -> None:
    """A conversation that it keeps has moved on; an answer that was not stored there is none that was."""
    async with caching(tmp_path) as house:

        async def ask(**more: Any) -> str:
            body = {"model": GPT, "input": "go on", "temperature": 0, **more}
            return tier(await house.client.post("/v1/responses", headers={"authorization": "Bearer x"}, json=body))

        assert [await ask(conversation="conv_1") for _ in range(2)] == ["", ""]
        assert "conversation" in json.loads(house.rows()[0]["decision"])["cache"]["why"]
        assert [await ask(store=stored) for stored in (False, True, False)] == ["miss", "miss", "exact"]


async def test_a_stream_with_usage_is_another_than_one_without(tmp_path: Path) -> None:
    """Who did not ask for a chunk without choices cannot read one."""
    async with caching(tmp_path) as house:
        told = {**COLD, "stream": True, "stream_options": {"include_usage": True}}
        assert [tier(await chat(house, "a", body)) for body in (told, {**COLD, "stream": True}, told)] == [
            "miss", "miss", "exact",
        ]  # fmt: skip


async def test_what_a_budget_made_cheaper_is_not_kept_for_others(tmp_path: Path) -> None:
    ladder = [{"at": "1%", "model": {"gpt-4o": GPT}}]
    budgets = {"u": {"limit": "$1", "each": "user", "ladder": ladder}}
    async with caching(tmp_path, budgets=budgets) as house:
        body = {**COLD, "model": "gpt-4o", "max_tokens": 50}
        while (
            "x-bursar-budget-changed"
            not in (await chat(house, "burn", {**CHAT, "model": "gpt-4o"}, x_bursar_user="a")).headers
        ):
            pass
        first = await chat(house, "a", body, x_bursar_user="a")
        assert first.json()["model"].startswith(GPT)
        other = await chat(house, "b", body, x_bursar_user="b")
        assert (tier(other), other.json()["model"].startswith(GPT)) == ("miss", False)
        assert tier(await chat(house, "c", body, x_bursar_user="b")) == "exact"


async def test_a_tag_that_comes_with_a_hit_forgets_it_too(tmp_path: Path) -> None:
    async with caching(tmp_path) as house:
        assert tier(await chat(house, "a", x_bursar_cache_tag="a")) == "miss"
        assert tier(await chat(house, "b", x_bursar_cache_tag="b")) == "exact"
        for tag, removed in (("b", 1), ("a", 0)):
            answer = await house.client.request("DELETE", f"/api/v1/cache?tag={tag}")
            assert answer.json()["removed"] == removed
        assert tier(await chat(house, "c")) == "miss"


async def test_who_asks_after_a_clear_is_not_given_what_was_under_way(tmp_path: Path) -> None:
    async with caching(tmp_path, sim=Simulator(seed=7, pace=Pace(first_token_ms=500))) as house:
        first = asyncio.create_task(chat(house, "a", x_bursar_cache_tag="a"))
        await until(lambda: len(house.calls) == 1)
        await house.client.request("DELETE", "/api/v1/cache?tag=a")
        assert tier(await chat(house, "b")) == "miss"
        assert tier(await first) == "miss"


@pytest.mark.parametrize("what", ["all=true", "route=*", "tag=b"])
async def test_what_was_under_way_at_a_clear_is_not_kept(tmp_path: Path, what: str) -> None:
    """Perhaps it is what was meant; to ask once more is cheaper than to give it for an hour."""
    async with caching(tmp_path, sim=Simulator(seed=7, pace=Pace(first_token_ms=500))) as house:
        first = asyncio.create_task(chat(house, "a"))
        await until(lambda: len(house.calls) == 1)
        await house.client.request("DELETE", f"/api/v1/cache?{what}")
        assert tier(await first) == "miss"
        assert [tier(await chat(house, task)) for task in "bc"] == ["miss", "exact"]


async def test_who_waits_for_a_budget_until_the_deadline_is_told_of_the_budget(tmp_path: Path) -> None:
    """And no breaker opens: nobody was asked."""
    budgets = {"all": {"limit": "$0.001"}}
    routes = {"slow": [f"openai/{GPT}"], "fast": {"rungs": [f"openai/{GPT}"], "deadline": "1s"}}
    async with caching(
        tmp_path, routes, budgets=budgets, sim=Simulator(seed=7, pace=Pace(first_token_ms=2_500))
    ) as house:
        holder = asyncio.create_task(chat(house, "a", {**CHAT, "model": "slow", "max_tokens": 1_500}))
        await until(lambda: len(house.calls) == 1)
        answer = await chat(house, "b", {**CHAT, "model": "fast", "max_tokens": 1_500})
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_held")
        assert "waited for its budget until the deadline of 1000 ms" in answer.json()["error"]["message"]
        assert (await holder).status_code == 200
        assert "bursar_breaker_openings_total{" not in (await house.client.get("/metrics")).text


async def test_a_client_that_leaves_before_its_body_has_come_is_no_bug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with caching(tmp_path) as house:
        _, writer = await asyncio.open_connection("127.0.0.1", house.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 99\r\n\r\n{"
        )
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.close()
        await asyncio.sleep(0.2)
        assert (await chat(house, "t")).status_code == 200
        assert "inside Bursar" not in caplog.text
        assert "internal_error" not in (await house.client.get("/metrics")).text


@pytest.mark.parametrize("rungs", [["cached", "asked"], ["asked", "cached"]])
async def test_only_gives_what_is_kept_whatever_the_rungs(tmp_path: Path, rungs: list[str]) -> None:
    async with caching(tmp_path, {"*": {"rungs": rungs, "cache": {"ttl": "1h"}}}) as house:
        await chat(house, "a")
        assert tier(await chat(house, "b", x_bursar_cache="only")) == "exact"
        assert (await chat(house, "c", {**COLD, "seed": 1}, x_bursar_cache="only")).status_code == 504
        assert len(house.calls) == 1


async def test_cached_as_the_first_rung_is_what_every_route_does(tmp_path: Path) -> None:
    """Equal calls at once are one, and a hit is no miss."""
    route = {"*": {"rungs": ["cached", "asked"], "cache": {"ttl": "1h"}}}
    async with caching(tmp_path, route, sim=Simulator(seed=7, pace=Pace(first_token_ms=300))) as house:
        answers = await asyncio.gather(*(chat(house, f"t{n}") for n in range(4)))
        assert sorted(map(tier, answers)) == ["coalesced", "coalesced", "coalesced", "miss"]
        assert tier(await chat(house, "later")) == "exact"
        metrics = (await house.client.get("/metrics")).text
        assert 'bursar_cache_lookups_total{outcome="miss",route="*"} 1.0' in metrics


async def test_when_the_first_goes_away_one_of_those_who_wait_asks(tmp_path: Path) -> None:
    async with caching(tmp_path, sim=Simulator(seed=7, pace=Pace(first_token_ms=700))) as house:
        body = {**COLD, "stream": True}
        first = asyncio.create_task(chat(house, "a", body))
        await until(lambda: len(house.calls) == 1)
        others = [asyncio.create_task(chat(house, f"t{n}", body)) for n in range(6)]
        await asyncio.sleep(0.3)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        tiers = sorted([tier(await each) for each in others])
        assert tiers == ["coalesced"] * 5 + ["miss"]
        assert len(house.calls) == 2


async def test_who_waits_for_anothers_answer_waits_for_half_of_its_time(tmp_path: Path) -> None:
    """Then it asks for itself, with the time that it still has."""
    route = {"*": {"cache": {"ttl": "1h"}, "deadline": "2s"}}
    async with caching(tmp_path, route, sim=Simulator(seed=7, pace=Pace(first_token_ms=1_600))) as house:
        answers = await asyncio.gather(*(chat(house, f"t{n}") for n in range(2)))
        assert min((answer.status_code, tier(answer)) for answer in answers) == (200, "miss")
        assert len(house.calls) == 2


async def test_nothing_more_is_asked_for_a_client_that_has_left(tmp_path: Path) -> None:
    """A whole answer that nobody waits for is not bought a second time; what was under way is settled."""
    async with caching(tmp_path, {"fast": {"rungs": [f"openai/{GPT}", f"groq/{LLAMA}"], "total": "2s"}}) as house:
        house.sim.simulator.faults = (FaultRule(fault="hang"),)
        call = asyncio.create_task(chat(house, "t", {**CHAT, "model": "fast"}))
        await until(lambda: len(house.calls) == 1)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        await until(lambda: house.rows("t") != [])
        await asyncio.sleep(0.3)
        assert [(row["provider"], row["status"]) for row in house.rows("t")] == [("openai", "cancelled")]
        assert not house.other.simulator.calls


async def test_what_was_left_for_being_late_is_in_the_figures(tmp_path: Path) -> None:
    """Its estimate is spent money, and its provider has failed."""
    route = {"fast": {"rungs": [f"openai/{GPT}", f"groq/{LLAMA}"], "first_token": "300ms"}}
    async with caching(tmp_path, route) as house:
        house.sim.simulator.faults = (FaultRule(fault="hang"),)
        assert (await chat(house, "t", {**CHAT, "model": "fast", "stream": True})).status_code == 200
        metrics = (await house.client.get("/metrics")).text
        assert 'bursar_attempts_total{provider="openai",status="cancelled"} 1.0' in metrics
        assert 'bursar_estimated_attempts_total{provider="openai"} 1.0' in metrics
        (late, _) = house.rows("t")
        spent = next(
            line for line in metrics.splitlines() if line.startswith('bursar_cost_usd_total{provider="openai"')
        )
        assert float(spent.rpartition(" ")[2]) == late["cost_nanousd"] / 1e9


async def test_a_bad_header_is_nobodys_failure(tmp_path: Path) -> None:
    """A probe is not used up by a request that never was one."""
    route = {"fast": {"rungs": [f"openai/{GPT}", f"groq/{LLAMA}"], "breaker": {"open": "1s"}}}
    async with caching(tmp_path, route) as house:
        house.sim.simulator.faults = (FaultRule(fault="500"),)
        for number in range(2):
            await chat(house, f"t{number}", {**CHAT, "model": "fast"})
        house.sim.simulator.faults = ()
        await asyncio.sleep(1.2)
        bad = await chat(house, "bad", {**CHAT, "model": "fast"}, x_bursar_task_budget="rubbish")
        assert bad.status_code == 400
        answer = await chat(house, "t", {**CHAT, "model": "fast"})
        assert answer.headers["x-bursar-rung"] == "primary"


async def test_a_refusal_for_good_is_told_as_one(tmp_path: Path) -> None:
    """The official clients would ask again for a 503: what no rung can say stays so, and a missing key does too."""
    routes = {"smart": [f"anthropic/{HAIKU}"], "keyless": ["mistral/mistral-small-latest"]}
    async with caching(tmp_path, routes) as house:
        answer = await chat(house, "a", {**CHAT, "model": "smart", "logprobs": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "cannot_be_asked")
        assert "logprobs" in answer.json()["error"]["message"]
        keyless = await chat(house, "b", {**CHAT, "model": "keyless"})
        assert keyless.status_code == 503
        for each in (answer, keyless):
            assert each.headers["x-should-retry"] == "false"
            assert each.headers["x-bursar-call-id"] == each.json()["error"]["bursar"]["call_id"]


async def test_a_budget_that_passes_all_rungs_over_is_named(tmp_path: Path) -> None:
    budgets = {"day": {"limit": "$0.01", "per": "day"}}
    async with caching(tmp_path, {"fast": {"rungs": [f"openai/{GPT}"], "budget_at": "5%"}}, budgets=budgets) as house:
        while (answer := await chat(house, "t", {**CHAT, "model": "fast"})).status_code == 200:
            pass
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "budget_at")
        message = answer.json()["error"]["message"]
        assert "budget day is used to " in message
        assert "budget_at is 5 %" in message


async def test_a_bug_is_said_to_the_client_and_to_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    async with caching(tmp_path) as house:
        monkeypatch.setattr("bursar.doors.gateway.app.Gateway._handle", broken)
        answer = await chat(house, "t")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert "ZeroDivisionError" in caplog.text
