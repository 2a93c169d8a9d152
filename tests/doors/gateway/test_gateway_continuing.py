"""Streams that go on at another rung: the client has one answer with one beginning and one end, whatever happened behind it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, FLASH, GPT, HAIKU, House, gateway

from bursar.config import Cache, ProviderSettings, Settings
from bursar.sim import FaultRule

LLAMA = "llama-3.3-70b-versatile"
COLD: dict[str, Any] = {**CHAT, "model": "on", "temperature": 0, "max_tokens": 60}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-of-the-server-1234")


@asynccontextmanager
async def going_on(path: Path, rungs: list[str], **more: Any) -> AsyncIterator[House]:
    providers = {
        name: ProviderSettings(key_env="TEST_PROVIDER_KEY") for name in ("openai", "anthropic", "google", "groq")
    }
    budgets = more.pop("budgets", {})
    routes = {"on": {"rungs": rungs, "mid_stream": "continue", "retries": "0", **more}}
    settings = Settings(routes=routes, providers=providers, budgets=budgets, cache=Cache(store="memory"))
    async with gateway(path, settings=settings) as house:
        yield house


async def chat(house: House, **more: Any) -> Any:
    headers = {"authorization": "Bearer x", "x-bursar-task": "t"}
    return await house.client.post("/v1/chat/completions", headers=headers, json={**COLD, "stream": True, **more})


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def ends_broken(text: str) -> bool:
    """The last event says that the rest will not come, and is the only one that does."""
    found = events(text)
    return (
        "error" in found[-1]
        and not any("error" in each for each in found[:-1] if each != "[DONE]")
        and "[DONE]" not in found
    )


@pytest.mark.parametrize("fault", ["cut=1", "hang", "slow=3000", "500"])
async def test_an_attempt_that_showed_nothing_leaves_nothing_of_its_answer(tmp_path: Path, fault: str) -> None:
    """Anthropic's stream begins with an event of no text: the one that the client sees is that of the rung that answers."""
    async with going_on(tmp_path, [f"groq/{LLAMA}", f"anthropic/{HAIKU}"], first_token="300ms") as house:
        house.other.simulator.faults = (FaultRule(fault=fault),)
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01", "x-bursar-task": "t"}
        answer = await house.client.post("/v1/messages", headers=headers, json={**COLD, "stream": True})
        kinds = [event["type"] for event in events(answer.text)]
        assert kinds[0] == "message_start"
        assert (kinds.count("message_start"), kinds.count("message_stop"), kinds[-1]) == (1, 1, "message_stop")
        assert [row["status"] for row in house.rows("t")][-1] == "ok"


async def test_a_hedge_that_goes_on_has_the_client_to_itself(tmp_path: Path) -> None:
    """Two attempts run at once; what the loser said so far is nowhere in the answer."""
    async with going_on(
        tmp_path, [f"openai/{GPT}", f"groq/{LLAMA}"], hedge={"after": "50ms", "spend": "100%"}
    ) as house:  # fmt: skip
        for _ in range(3):
            await chat(house)
        house.sim.simulator.faults = (FaultRule(fault="slow=1500"),)
        found = events((await chat(house)).text)
        assert found[-1] == "[DONE]"
        assert sum("role" in each["choices"][0]["delta"] for each in found[:-1] if each["choices"]) == 1
        assert {row["status"] for row in house.rows("t")} == {"ok", "cancelled"}


async def test_a_kept_answer_does_not_go_on_with_a_part(tmp_path: Path) -> None:
    """The first broke off after some text, the second failed: the stale answer would begin again from the front."""
    rungs = [f"openai/{GPT}", f"groq/{LLAMA}", "stale"]
    async with going_on(tmp_path, rungs, cache={"ttl": "1s", "stale": "1h"}) as house:
        assert (await chat(house)).text.endswith("data: [DONE]\n\n")
        await asyncio.sleep(1.1)
        house.sim.simulator.faults = (FaultRule(fault="cut=6"),)
        house.other.simulator.faults = (FaultRule(fault="503"),)
        answer = await chat(house)
        assert answer.status_code == 200
        assert ends_broken(answer.text)
        assert [row["status"] for row in house.rows("t")] == ["ok", "cut", "error"]


@pytest.mark.parametrize("second", ["hang", "cut=0", "cut=1", "503", "400", "wrong-json"])
async def test_where_no_rung_can_go_on_the_client_is_told(tmp_path: Path, second: str) -> None:
    """However the second fails: late, broken off before a word, refused. Never a second status line, never silence."""
    async with going_on(tmp_path, [f"openai/{GPT}", f"groq/{LLAMA}"], first_token="400ms") as house:
        house.sim.simulator.faults = (FaultRule(fault="cut=6"),)
        house.other.simulator.faults = (FaultRule(fault=second),)
        answer = await chat(house)
        assert answer.status_code == 200
        assert ends_broken(answer.text)
        assert len(house.rows("t")) == 2


async def test_a_budget_that_stops_the_second_does_not_answer_twice(tmp_path: Path) -> None:
    """The first part used up the budget: that is told at the end of the stream, not as another answer."""
    budgets = {"all": {"limit": "1 calls", "per": "day"}}
    async with going_on(tmp_path, [f"openai/{GPT}", f"groq/{LLAMA}"], budgets=budgets) as house:
        house.sim.simulator.faults = (FaultRule(fault="cut=6"),)
        answer = await chat(house)
        assert answer.status_code == 200
        assert len(house.rows("t")) == 1
        assert ends_broken(answer.text)


@pytest.mark.parametrize("mid_stream", ["end", "continue"])
@pytest.mark.parametrize("fault", ["cut=0", "cut=1"])
async def test_a_stream_that_breaks_off_before_a_word_is_an_error(tmp_path: Path, fault: str, mid_stream: str) -> None:
    """Nothing was seen yet, so the status can still say it."""
    async with going_on(tmp_path, [f"openai/{GPT}"], mid_stream=mid_stream) as house:
        house.sim.simulator.faults = (FaultRule(fault=fault),)
        answer = await chat(house)
        assert answer.status_code == 502
        assert answer.json()["error"]["bursar"]["code"] == "upstream_failed"
        assert answer.json()["error"]["message"]


async def test_an_answer_that_is_no_json_is_an_error_where_no_rung_is_left(tmp_path: Path) -> None:
    async with going_on(tmp_path, [f"openai/{GPT}"]) as house:
        house.sim.simulator.faults = (FaultRule(fault="wrong-json"),)
        answer = await chat(house, stream=False)
        assert answer.status_code == 502
        assert answer.json()["error"]["bursar"]["code"] == "upstream_unreadable"


async def test_a_route_that_only_its_budget_passes_over_says_so(tmp_path: Path) -> None:
    budgets = {"all": {"limit": "$0.01", "per": "day"}}
    rung: Any = {"model": f"openai/{GPT}", "budget_at": "1%"}
    async with going_on(tmp_path, [rung], budgets=budgets) as house:
        while (answer := await chat(house, stream=False)).status_code == 200:
            pass
        assert answer.status_code == 503
        assert answer.json()["error"]["bursar"]["code"] == "no_rung"
        assert "budget" in answer.json()["error"]["message"]


async def test_an_answer_that_cannot_be_said_in_the_clients_dialect_goes_to_the_next_rung(tmp_path: Path) -> None:
    """Gemini's counts are words: nobody can translate that. GPT answers, and the row says why it was not the first."""
    async with going_on(tmp_path, [f"google/{FLASH}", f"openai/{GPT}"]) as house:
        whole = await chat(house, stream=False)
        assert whole.headers["x-bursar-rung"] == "primary"
        assert abs(whole.json()["created"] - time.time()) < 60
        house.sim.simulator.faults = (FaultRule(fault="usage-strings", model=FLASH),)
        answer = await chat(house, stream=False)
        assert answer.status_code == 200
        assert [row["cause"] for row in house.rows("t")] == ["", "", "invalid"]
