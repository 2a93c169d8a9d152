"""An outage under load: the gateway does not make it worse by asking more often than it is asked."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from test_kill import start

from bursar.sim import FaultRule, Pace, Simulator, serve

# By route: its rungs, and which of their models fail in the outage. Each route has models of its own, so breakers of its own.
ROUTES = {
    "alone": (["openai/gpt-4o-mini"], ["gpt-4o-mini"]),
    "primary-down": (["openai/gpt-4.1-mini", "groq/llama-3.3-70b-versatile"], ["gpt-4.1-mini"]),
    "all-down": (["openai/gpt-4o", "groq/llama-3.1-8b-instant"], ["gpt-4o", "llama-3.1-8b-instant"]),
}
FAULTS = ("500", "503", "cut=1")


async def one(client: Client, url: str, route: str, statuses: Counter[int]) -> None:
    body = {"model": route, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30}
    request = client.post(f"{url}/v1/chat/completions").header("authorization", "Bearer k")
    try:
        response = await request.body_text(json.dumps(body)).build().send()
        await response.text()
        statuses[response.status] += 1
    except PyreqwestError:
        statuses[0] += 1


async def load(client: Client, url: str, routes: Iterable[str], rate: int, seconds: float) -> dict[str, Counter[int]]:
    """So many requests a second at each route, whether or not those before them have been answered; what came of them."""
    loop, found = asyncio.get_running_loop(), {route: Counter[int]() for route in routes}
    began, tasks = loop.time(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        tasks += [asyncio.create_task(one(client, url, route, found[route])) for route in found]
    await asyncio.gather(*tasks)
    return found


def calls_of(sim: Simulator, route: str, since: int) -> int:
    models = [rung.partition("/")[2] for rung in ROUTES[route][0]]
    return sum(call.model in models for call in list(sim.calls)[since:])


async def outage(
    folder: Path, fault: str, routes: list[str], *, rate: int, before_s: float, outage_s: float, after_s: float
) -> dict[str, dict[str, Any]]:
    """Figures by route: attempts at providers for each request of the outage, what clients got, and how it was afterwards."""
    sim = Simulator(seed=5, pace=Pace(2.0, 5_000.0))
    sim.calls = deque()
    async with serve(sim) as served:
        config = folder / "bursar.yaml"
        providers = {name: {"base_url": f"{served.url}/v1", "key_env": "OUTAGE_KEY"} for name in ("openai", "groq")}
        spec = {
            "providers": providers,
            "routes": {name: {"rungs": ROUTES[name][0], "breaker": {"open": "2s"}} for name in routes},
        }
        config.write_text(json.dumps(spec), encoding="utf-8")
        process, url = await start(folder / "data", config)
        client = ClientBuilder().build()
        try:
            await load(client, url, routes, rate, before_s)
            down = [model for name in routes for model in ROUTES[name][1]]
            sim.faults = tuple(FaultRule(fault=fault, model=model) for model in down)
            since = len(sim.calls)
            during = await load(client, url, routes, rate, outage_s)
            attempts = {name: calls_of(sim, name, since) for name in routes}
            sim.faults = ()
            await asyncio.sleep(0)
            after = await load(client, url, routes, rate, after_s)
        finally:
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
    return {
        name: {
            "requests": during[name].total(),
            "attempts": attempts[name],
            "amplification": attempts[name] / during[name].total(),
            "during": dict(during[name]),
            "after": dict(after[name]),
        }
        for name in routes
    }


def check(figures: dict[str, dict[str, Any]]) -> None:
    for name, each in figures.items():
        print(f"\n{name}: {each}")
        assert each["amplification"] <= 1.1, (name, each)
        assert 0 not in each["during"]
        if name == "primary-down":
            assert set(each["during"]) == {200}, "nobody notices"
        else:
            assert 200 not in each["during"]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTAGE_KEY", "sk-of-the-server-1234")


@pytest.mark.timeout(120)
async def test_a_short_outage_is_not_amplified(tmp_path: Path) -> None:
    """Of one rung that is alone, of a primary, and of all: at most 1.1 attempts for a request, from its first moment on."""
    check(await outage(tmp_path, "500", list(ROUTES), rate=25, before_s=0.5, outage_s=4, after_s=0.5))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("route", ROUTES)
async def test_an_outage_of_ten_seconds_at_two_hundred_requests_a_second(
    tmp_path: Path, route: str, fault: str
) -> None:
    figures = await outage(tmp_path, fault, [route], rate=200, before_s=5, outage_s=10, after_s=5)
    check(figures)
    after = figures[route]["after"]
    assert after[200] >= 0.4 * sum(after.values()), "it is found out soon that the outage is over"
