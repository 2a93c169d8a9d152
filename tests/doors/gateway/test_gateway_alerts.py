"""Alerts of a running gateway: told once, whatever happens to the process in between."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from house import CHAT, GPT, WHOLE, House, Script, gateway, scripted, until

from bursar.config import ProviderSettings, Server, Settings
from bursar.sim import FaultRule

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-alerts")]

PRICES = {"models": [{"provider": "openai", "model": "dime-1", "input": 0, "output": 0, "requests": 100}]}


def settings(script: Script, **more: Any) -> Settings:
    alerts = {"channels": {"hook": {"kind": "webhook", "url": f"{script.url}/hook"}}, **more.pop("alerts", {})}
    return Settings(server=Server(port=0), prices=PRICES, alerts=alerts, **more)


async def dime(house: House, **headers: str) -> int:
    body = json.dumps({**CHAT, "model": "dime-1"}).encode()
    return (await house.ask(WHOLE[0], content=body, **headers)).status_code


def told(script: Script) -> list[dict[str, Any]]:
    return [json.loads(seen.body) for seen in script.seen]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bursar.server._EVALUATE_EVERY_S", 0.05)
    monkeypatch.setattr("bursar.server._DELIVER_EVERY_S", 0.05)


async def test_a_threshold_is_told_once_over_ten_restarts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One dime a restart on a dollar: 50, 80 and 100 % arrive once each, 95 % is crossed with 100 %."""
    path = tmp_path_factory.mktemp("restarts")
    async with scripted() as script:
        for count in range(10):
            async with gateway(path, settings=settings(script, budgets={"purse": {"limit": "$1"}})) as house:
                assert await dime(house) == 200
                expected = sum(count + 1 >= reached for reached in (5, 8, 10))
                await until(lambda expected=expected: len(script.seen) >= expected, 10)
                await asyncio.sleep(0.3)  # several more evaluations
        thresholds = [notice["data"]["labels"]["threshold"] for notice in told(script)]
    assert len(thresholds) == len(set(thresholds)) == 3, thresholds


async def test_denied_and_spending_users_are_told_of(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Rules on refusals and on a user's spend fire from what the gateway itself counts."""
    rules = {
        "refusals": {"denied": 3, "within": "10m"},
        "big-spender": {"spend": "$0.15", "per": "day", "each": "user"},
    }
    async with (
        scripted() as script,
        gateway(
            tmp_path_factory.mktemp("rules"),
            settings=settings(
                script, alerts={"rules": rules}, budgets={"none": {"limit": 0, "match": {"team": "x"}, "alert_at": []}}
            ),
        ) as house,
    ):
        for _ in range(3):
            assert await dime(house, x_bursar_team="x") == 402
        for user in ("zoe", "bob", "bob"):
            assert await dime(house, x_bursar_user=user) == 200
        await until(lambda: len(script.seen) >= 2, 10)
        await asyncio.sleep(0.3)
        text = json.dumps(told(script))
        assert len(script.seen) == 2
        assert "bob" in text
        assert "zoe" not in text
        metrics = (await house.client.get("/metrics")).text
        assert 'bursar_alert_deliveries_total{channel="hook",state="sent"} 2.0' in metrics


async def test_an_outage_is_told_by_breaker_and_by_fallbacks(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary fails twice, is left alone, and everything is answered elsewhere: both rules name who is left, once."""
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-of-the-server-1234")
    rules = {
        "breakers": {"breakers": 1, "within": "10m"},
        "fallbacks": {"fallbacks": "50%", "within": "10m", "attempts_min": 10},
    }
    routes = {"fast": [f"openai/{GPT}", "groq/llama-3.3-70b-versatile"]}
    providers = {name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "groq")}
    async with scripted() as script:
        chosen = settings(script, alerts={"rules": rules}, routes=routes, providers=providers)
        async with gateway(tmp_path_factory.mktemp("outage"), settings=chosen) as house:
            house.sim.simulator.faults = (FaultRule(fault="503"),)
            body = json.dumps({**CHAT, "model": "fast"}).encode()
            for _ in range(12):
                assert (await house.ask(WHOLE[0], content=body)).status_code == 200
            assert len(house.calls) == 2
            await until(lambda: len(script.seen) >= 2, 10)
            await asyncio.sleep(0.3)  # several more evaluations
    notices = {notice["data"]["labels"]["rule"]: notice["data"] for notice in told(script)}
    assert len(script.seen) == 2
    assert {rule: data["labels"]["alertname"] for rule, data in notices.items()} == {
        "breakers": "BursarBreakerOpen", "fallbacks": "BursarFallbacks",
    }  # fmt: skip
    assert {data["labels"]["provider"] for data in notices.values()} == {"openai"}
