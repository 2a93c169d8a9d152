"""What a running gateway stored of its choices, as ``bursar why`` and ``bursar routes`` tell it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, GPT, House, gateway, task_name

from bursar.compose import open_books_file, open_ledger
from bursar.config import ProviderSettings, Settings
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
    providers = {name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "groq")}
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
