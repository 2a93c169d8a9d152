"""What a running gateway stored of its choices, as ``bursar why`` and ``bursar routes`` tell it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, GPT, HAIKU, House, gateway, task_name

from bursar.compose import open_books_file, open_ledger
from bursar.config import Cache, ProviderSettings, Settings
from bursar.sim import FaultRule
from bursar.views.routes import RouteReport, routes
from bursar.views.why import WhyCall, why

LLAMA = "llama-3.3-70b-versatile"


def _told(house: House, call_id: str) -> WhyCall:
    with closing(open_books_file(house.data, house.settings)) as books, open_ledger(house.data, books) as ledger:
        answer = why(ledger, call_id)
    assert isinstance(answer, WhyCall)
    return answer


def _report(house: House) -> RouteReport:
    with closing(open_books_file(house.data, house.settings)) as books, open_ledger(house.data, books) as ledger:
        return routes(ledger)


async def _chat(house: House, **body: Any) -> str:
    """Ask the route; the call's id."""
    answer = await house.client.post(
        "/v1/chat/completions",
        headers={"authorization": "Bearer x", "x-bursar-task": task_name()},
        json={**CHAT, "model": "fast", "temperature": 0, **body},
    )
    return answer.headers["x-bursar-call-id"]


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-of-the-server-1234")


def _settings(**more: Any) -> Settings:
    providers = {name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "groq", "anthropic")}
    return Settings(providers=providers, **more)


async def test_an_outage_as_it_was_stored(tmp_path: Path) -> None:
    """A failure with its status, then an open breaker, each with what the rung was expected to cost; the report agrees."""
    async with gateway(tmp_path, settings=_settings(routes={"fast": [f"openai/{GPT}", f"groq/{LLAMA}"]})) as house:
        house.sim.simulator.faults = (FaultRule(fault="503"),)
        ids = [await _chat(house) for _ in range(4)]
        first, last = _told(house, ids[0]), _told(house, ids[-1])
        assert [(each.verdict, each.why, each.http_status) for each in first.candidates] == [
            ("failed", "overload", 503), ("taken", "", 200),
        ]  # fmt: skip
        assert (first.by.why, first.by.cause) == ("the rung before it failed: overload", "overload")
        assert first.candidates[1].charged_nanousd == first.cost_nanousd
        assert (first.candidates[0].expected_nanousd or 0) > 0
        assert [(each.verdict, each.breaker, each.attempts) for each in last.candidates] == [
            ("passed", "open", ()), ("taken", "closed", (f"{ids[-1]}.1",)),
        ]  # fmt: skip
        (route,) = _report(house).routes
        assert (route.figures.calls, route.figures.attempts, route.amplification) == (4, 6, 1.5)
        assert [(rung.rung, rung.model, rung.figures.calls, rung.figures.errors) for rung in route.rungs] == [
            ("primary", GPT, 0, 2), ("fallback", LLAMA, 4, 0),
        ]  # fmt: skip
        assert route.figures.causes == {"open": 2, "overload": 2}


async def test_a_call_that_nobody_answered(tmp_path: Path) -> None:
    """A retry is called one, and what is left of the route was not tried."""
    routes = {"fast": {"rungs": [f"openai/{GPT}", {"model": f"groq/{LLAMA}", "when": ["auth"]}, "refuse"]}}
    async with gateway(tmp_path, settings=_settings(routes=routes)) as house:
        for _ in range(10):  # the retries of a route are a share of its calls
            await _chat(house)
        house.sim.simulator.faults = (FaultRule(fault="500"),)
        call = _told(house, await _chat(house))
        assert not call.by.is_answer
        assert [each.why for each in call.attempts] == ["asked", "retry: it failed before: server"]
        assert [(each.verdict, len(each.attempts)) for each in call.candidates] == [
            ("failed", 2), ("not tried", 0), ("not tried", 0),
        ]  # fmt: skip


async def test_rungs_for_other_causes_were_passed_over(tmp_path: Path) -> None:
    """They say what they are for; the reason is the failure right before."""
    rungs = [f"openai/{GPT}", {"model": "groq/other", "when": ["auth", "content_policy"]}, f"groq/{LLAMA}"]
    async with gateway(tmp_path, settings=_settings(routes={"fast": {"rungs": rungs}})) as house:
        house.sim.simulator.faults = (FaultRule(fault="503", model=GPT),)
        call = _told(house, await _chat(house))
        assert [(each.verdict, each.why) for each in call.candidates] == [
            ("failed", "overload"), ("passed", "only for auth, content_policy"), ("taken", ""),
        ]  # fmt: skip
        assert call.by.why == "the rung before it failed: overload"


async def test_what_the_client_asked_for(tmp_path: Path) -> None:
    """Its own operation is known, also where the answer came in another dialect."""
    async with gateway(tmp_path, settings=_settings(routes={"fast": [f"anthropic/{HAIKU}"]})) as house:
        call = _told(house, await _chat(house))
        assert (call.asked, call.by.step.operation) == ("chat_completions", "messages")


async def test_a_stale_answer_began_when_nothing_else_was_left(tmp_path: Path) -> None:
    """After the attempts that failed, and with the age of what is given."""
    route = {"rungs": [f"openai/{GPT}", "stale"], "cache": {"ttl": "1s", "stale": "1h"}}
    async with gateway(tmp_path, settings=_settings(routes={"fast": route}, cache=Cache(store="memory"))) as house:
        await _chat(house)
        await asyncio.sleep(1.1)
        house.sim.simulator.faults = (FaultRule(fault="503"),)
        call = _told(house, await _chat(house))
        failed, given = call.attempts
        assert (failed.cache, given.cache, (call.cache.age_s or 0) >= 1) == ("miss", "stale", True)
        assert given.step.started_us >= failed.step.started_us + (failed.step.latency_ms or 0) * 1_000


async def test_a_call_without_a_route(tmp_path: Path) -> None:
    """The one candidate is the model that was asked for, and it cost all that the call cost."""
    async with gateway(tmp_path, settings=_settings()) as house:
        call = _told(house, await _chat(house, model=GPT))
        (only,) = call.candidates
        assert (only.provider, only.model, only.verdict, only.charged_nanousd) == (
            "openai", GPT, "taken", call.cost_nanousd,
        )  # fmt: skip
        assert (call.route, call.by.why, call.cache.outcome) == ("", "asked", "")
        assert _report(house).routes == ()


async def test_what_a_budget_made_of_it(tmp_path: Path) -> None:
    """The cap that its ladder set, with the share and what is left."""
    ladder = [{"at": "1%", "output_cap": 20}]
    budgets = {"purse": {"limit": "$0.01", "per": "day", "ladder": ladder}}
    settings = _settings(routes={"fast": [f"openai/{GPT}"]}, budgets=budgets)
    async with gateway(tmp_path, settings=settings) as house:
        ids = [await _chat(house, messages=[{"role": "user", "content": f"Say {number}."}]) for number in range(12)]
        budget = next(found for found in (_told(house, each).budget for each in reversed(ids)) if found is not None)
        assert (budget.name, budget.window, budget.unit) == ("purse", "day", "usd")
        assert (budget.left or 0) < 10_000_000
        assert budget.changed == ("output_cap",)
