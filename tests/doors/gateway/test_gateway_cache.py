"""The response cache through a running gateway: what is given again, to whom, and how that is booked."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types
from house import CHAT, FLASH, GENERATE, GPT, HAIKU, MESSAGES, House, gateway, make_key

from bursar.config import Cache, Settings
from bursar.core.scopes import Scope
from bursar.sim import FaultRule, Pace, Simulator

COLD: dict[str, Any] = {**CHAT, "temperature": 0}
EVERY = {"*": {"cache": {"ttl": "1h"}}}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-server-1234")


@asynccontextmanager
async def caching(path: Path, routes: dict[str, Any] = EVERY, **more: Any) -> AsyncIterator[House]:
    async with gateway(path, settings=Settings(routes=routes, cache=Cache(store="memory")), **more) as house:
        yield house


async def chat(house: House, task: str, body: dict[str, Any] = COLD, key: str = "x", **headers: str) -> Any:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return await house.client.post(
        "/v1/chat/completions", headers={"authorization": f"Bearer {key}", "x-bursar-task": task, **more}, json=body
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_is_answered_once(tmp_path: Path, stream: bool) -> None:
    """The second gets the same bytes; its row costs nothing and says what it would have cost."""
    async with caching(tmp_path) as house:
        body = {**COLD, "stream": stream}
        first, second = await chat(house, "a", body), await chat(house, "b", body)
        assert first.headers["x-bursar-cache"] == "miss"
        assert second.headers["x-bursar-cache"] == "exact"
        assert second.headers["x-bursar-rung"] == "cached"
        assert second.headers["x-bursar-cost-usd"] == "0"
        assert second.headers["content-type"] == first.headers["content-type"]
        assert second.content == first.content
        assert len(house.calls) == 1
        (bought,), (given,) = house.rows("a"), house.rows("b")
        assert bought["cost_nanousd"] > 0
        assert (bought["cache"], bought["avoided_nanousd"]) == ("miss", None)
        assert (given["cost_nanousd"], given["units"], given["cache"], given["status"]) == (0, {}, "exact", "ok")
        assert given["avoided_nanousd"] == bought["cost_nanousd"]
        assert given["model"] == bought["model"]
        assert json.loads(given["decision"])["cache"]["found"] == "fresh"


async def test_other_spacing_is_the_same_and_another_word_is_not(tmp_path: Path) -> None:
    """Keys in any order and other spacing are one request, as is who asks; a word, a tool or a seed more is another."""
    async with caching(tmp_path) as house:
        await chat(house, "a")
        turned = json.dumps(dict(reversed(list(COLD.items()))), indent=2)
        answer = await house.client.post("/v1/chat/completions", headers={"authorization": "Bearer x"}, content=turned)
        assert answer.headers["x-bursar-cache"] == "exact"
        assert (await chat(house, "b", {**COLD, "user": "u", "metadata": {"k": "v"}})).headers[
            "x-bursar-cache"
        ] == "exact"
        for change in ({"seed": 1}, {"temperature": 0.0, "top_p": 0.5}, {"max_tokens": 5}, {"model": "gpt-4o"}):
            assert (await chat(house, "c", {**COLD, **change})).headers["x-bursar-cache"] == "miss"


async def test_what_was_drawn_at_random_is_not_kept_unless_asked(tmp_path: Path) -> None:
    """No temperature, or one above 0, is chance; the decision says why nothing was looked for."""
    async with caching(tmp_path) as house:
        for body in (CHAT, {**CHAT, "temperature": 0.7}):
            answers = [await chat(house, "a", body) for _ in range(2)]
            assert all("x-bursar-cache" not in answer.headers for answer in answers)
        assert len(house.calls) == 4
        assert "sampled: true" in json.loads(house.rows("a")[0]["decision"])["cache"]["why"]
    async with caching(tmp_path / "b", {"*": {"cache": {"sampled": True}}}) as house:
        assert [(await chat(house, "a", CHAT)).headers["x-bursar-cache"] for _ in range(2)] == ["miss", "exact"]


async def test_errors_refusals_and_what_was_cut_are_not_kept(tmp_path: Path) -> None:
    """Only a whole answer is: no error, nothing that reached its limit, nothing that asks for tools."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    async with caching(tmp_path) as house:
        house.sim.simulator.faults = (FaultRule(fault="400", last=0), FaultRule(fault="cut=4", first=1, last=1))
        await chat(house, "a")
        await chat(house, "b", {**COLD, "stream": True})
        house.sim.simulator.faults = ()
        assert (await chat(house, "a")).headers["x-bursar-cache"] == "miss"
        assert (await chat(house, "b", {**COLD, "stream": True})).headers["x-bursar-cache"] == "miss"
        for body in ({**COLD, "max_tokens": 3}, {**COLD, "tools": tools, "tool_choice": "required"}):
            answers = [(await chat(house, "c", body)).headers["x-bursar-cache"] for _ in range(2)]
            assert answers == ["miss", "miss"]


async def test_a_request_may_say_what_the_cache_is_to_do(tmp_path: Path) -> None:
    """no-store neither looks nor keeps, refresh keeps anew, only asks nobody; anything else is an error."""
    async with caching(tmp_path) as house:
        await chat(house, "a", x_bursar_cache="no-store")
        assert (await chat(house, "b", x_bursar_cache="only")).status_code == 504
        assert (await chat(house, "c")).headers["x-bursar-cache"] == "miss"
        assert (await chat(house, "d", x_bursar_cache="only")).headers["x-bursar-cache"] == "exact"
        assert len(house.calls) == 2
        await chat(house, "e", x_bursar_cache="refresh")
        assert len(house.calls) == 3
        wrong = await chat(house, "f", x_bursar_cache="maybe")
        assert wrong.status_code == 400
        assert "no-store, refresh, only" in wrong.json()["error"]["message"]


async def test_nobody_gets_an_answer_of_another_tenant(tmp_path: Path) -> None:
    """300 requests at random by six callers with keys of their own and of ours: a hit is always of the same one."""
    draw = random.Random(5)
    async with caching(tmp_path) as house:
        ours = [make_key(tmp_path, f"k{n}", Scope(team="t" if n < 2 else ""), ()) for n in range(3)]
        callers = [(key, "") for key in (*ours, "sk-one", "sk-two")] + [(ours[0], "team-b")]
        seen: set[tuple[tuple[str, str], str]] = set()
        for number in range(300):
            caller, question = draw.choice(callers), draw.choice(["a", "b", "c"])
            body = {**COLD, "messages": [{"role": "user", "content": question}]}
            more = {"x_bursar_team": caller[1]} if caller[1] else {}
            answer = await chat(house, f"t{number}", body, key=caller[0], **more)
            expected = "exact" if (caller, question) in seen else "miss"
            assert answer.headers["x-bursar-cache"] == expected
            seen.add((caller, question))
        assert len(house.calls) == len(seen) == 18


async def test_a_team_may_share(tmp_path: Path) -> None:
    """Keys that state the same team share where the route says so; a key without a team, or what a caller says, does not."""
    async with caching(tmp_path, {"*": {"cache": {"share": "team"}}}) as house:
        keys = [
            make_key(tmp_path, name, Scope(team=team), ())
            for name, team in (("a", "t"), ("b", "t"), ("c", "u"), ("d", ""))
        ]
        said = [(await chat(house, f"t{n}", key=key)).headers["x-bursar-cache"] for n, key in enumerate(keys)]
        assert said == ["miss", "exact", "miss", "miss"]
        assert (await chat(house, "x", key=keys[3], x_bursar_team="t")).headers["x-bursar-cache"] == "miss"


async def test_a_stale_answer_is_given_when_nothing_else_is(tmp_path: Path) -> None:
    """Past its time an answer is only for an outage, and labelled; its row says why."""
    route = {"fast": {"rungs": [f"openai/{GPT}", "stale"], "cache": {"ttl": "1s", "stale": "1h"}}}
    async with caching(tmp_path, route) as house:
        body = {**COLD, "model": "fast"}
        first = await chat(house, "a", body)
        await asyncio.sleep(1.1)
        assert (await chat(house, "b", body)).headers["x-bursar-cache"] == "miss"
        await asyncio.sleep(1.1)
        house.sim.simulator.faults = (FaultRule(fault="503"),)
        answer = await chat(house, "c", body)
        assert answer.status_code == 200
        assert (answer.headers["x-bursar-rung"], answer.headers["x-bursar-cache"]) == ("stale", "stale")
        assert int(answer.headers["age"]) >= 1
        assert answer.json()["choices"] == first.json()["choices"]
        failed, given = house.rows("c")
        assert (failed["status"], given["cache"], given["cause"], given["number"]) == ("error", "stale", "overload", 2)
        assert given["avoided_nanousd"] > 0


async def test_volatile_parts_make_a_template(tmp_path: Path) -> None:
    """What is declared to be of no matter may differ; the rest may not."""
    route = {"*": {"cache": {"volatile": [r"request [0-9a-f]{8}", r"\d{4}-\d\d-\d\dT[\d:]+Z"]}}}

    def ask(text: str) -> dict[str, Any]:
        return {**COLD, "messages": [{"role": "user", "content": text}]}

    async with caching(tmp_path, route) as house:
        texts = ["At 2026-11-26T08:00:00Z, request 0123abcd: sum 3", "At 2026-11-27T09:11:12Z, request ffff0000: sum 3"]
        assert [(await chat(house, "a", ask(text))).headers["x-bursar-cache"] for text in texts] == ["miss", "template"]
        assert (await chat(house, "b", ask(texts[0].replace("sum 3", "sum 4")))).headers["x-bursar-cache"] == "miss"


@pytest.mark.parametrize("stream", [False, True])
async def test_equal_calls_at_once_are_one(tmp_path: Path, stream: bool) -> None:
    """Forty callers ask the same at once: the provider is asked once, all have the answer, and each is booked."""
    async with caching(tmp_path, sim=Simulator(seed=7, pace=Pace(first_token_ms=300))) as house:
        body = {**COLD, "stream": stream}
        answers = await asyncio.gather(*(chat(house, f"t{n}", body) for n in range(40)))
        assert len(house.calls) == 1
        assert len({answer.content for answer in answers}) == 1
        tiers = [answer.headers["x-bursar-cache"] for answer in answers]
        assert (tiers.count("miss"), tiers.count("coalesced")) == (1, 39)
        assert sum(row["cost_nanousd"] for row in house.rows()) == max(row["cost_nanousd"] for row in house.rows())


async def test_equal_calls_go_on_alone_when_the_first_fails(tmp_path: Path) -> None:
    async with caching(tmp_path, sim=Simulator(seed=7, pace=Pace(first_token_ms=200))) as house:
        house.sim.simulator.faults = (FaultRule(fault="400", last=0),)
        answers = await asyncio.gather(*(chat(house, f"t{n}") for n in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 400]


async def test_a_hit_needs_no_money(tmp_path: Path) -> None:
    """What is kept is given although the budget is used up; nothing else is."""
    settings = Settings(routes=EVERY, cache=Cache(store="memory"), budgets={"all": {"limit": "$0.002", "per": "day"}})
    async with gateway(tmp_path, settings=settings) as house:
        assert (await chat(house, "a", {**COLD, "max_tokens": 200})).status_code == 200
        while (
            await chat(house, "b", {**COLD, "max_tokens": 3000, "seed": random.randrange(10**9)})
        ).status_code == 200:
            pass
        assert (await chat(house, "c", {**COLD, "max_tokens": 200})).headers["x-bursar-cache"] == "exact"


async def test_official_clients_take_what_is_given_again(tmp_path: Path) -> None:
    """OpenAI's, Anthropic's and Google's SDKs read replayed answers, whole and streamed, as they read the first."""
    async with caching(tmp_path) as house:
        gpt = openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="x", max_retries=0)
        claude = anthropic.AsyncAnthropic(base_url=house.url, api_key="x", max_retries=0)
        options = types.HttpOptions(base_url=house.url)
        async with gpt, claude, genai.Client(api_key="x", http_options=options).aio as gemini:
            config = types.GenerateContentConfig(temperature=0)
            for _ in range(2):
                whole = await gpt.chat.completions.create(model=GPT, messages=CHAT["messages"], temperature=0)
                parts = [
                    chunk.choices[0].delta.content or ""
                    async for chunk in await gpt.chat.completions.create(
                        model=GPT, messages=CHAT["messages"], temperature=0, stream=True
                    )
                    if chunk.choices
                ]
                assert "".join(parts) == whole.choices[0].message.content
                said = await claude.messages.create(**MESSAGES, extra_body={"temperature": 0})
                async with claude.messages.stream(**MESSAGES, extra_body={"temperature": 0}) as stream:
                    assert (await stream.get_final_text()) == said.content[0].text
                text = GENERATE["contents"][0]["parts"][0]["text"]
                answer = await gemini.models.generate_content(model=FLASH, contents=text, config=config)
                streamed = [
                    part.text or ""
                    async for part in await gemini.models.generate_content_stream(
                        model=FLASH, contents=text, config=config
                    )
                ]
                assert "".join(streamed) == answer.text
        assert len(house.calls) == 6
        assert [row["cache"] for row in house.rows()] == ["miss"] * 6 + ["exact"] * 6
        assert HAIKU


async def test_the_cache_outlives_the_server(tmp_path: Path) -> None:
    """With the default store, an answer that was kept is there after a restart; so is what was cleared, gone."""
    settings = Settings(routes=EVERY)
    async with gateway(tmp_path, settings=settings) as house:
        first = await chat(house, "a")
    async with gateway(tmp_path, settings=settings) as house:
        second = await chat(house, "b")
        assert second.headers["x-bursar-cache"] == "exact"
        assert second.content == first.content


async def test_people_see_and_make_void_what_is_kept(tmp_path: Path) -> None:
    """Over the API: how much is kept, forgotten by tag, route or key; a wrong answer by the call that was given it."""
    route = {"*": {"cache": {"tags": ["all"]}}}
    async with caching(tmp_path, route) as house:
        for number in range(3):
            await chat(house, f"t{number}", {**COLD, "seed": number}, x_bursar_cache_tag=f"n{number}")
        given = await chat(house, "again", {**COLD, "seed": 0})
        assert (await house.client.get("/api/v1/cache")).json()["entries"] == 3
        wrong = await house.client.post("/api/v1/cache/wrong", json={"call_id": given.headers["x-bursar-call-id"]})
        assert wrong.json() == {"removed": 1}
        assert (await house.client.post("/api/v1/cache/wrong", json={"call_id": "none"})).status_code == 404
        assert (await chat(house, "asked", {**COLD, "seed": 0})).headers["x-bursar-cache"] == "miss"
        assert (await house.client.delete("/api/v1/cache?tag=n1")).json() == {"removed": 1}
        assert (await house.client.delete("/api/v1/cache")).status_code == 400
        assert (await house.client.delete("/api/v1/cache?tag=all&route=*")).json() == {"removed": 2}
        assert (await house.client.put("/api/v1/cache")).status_code == 405
        evil = {"origin": "https://evil.example"}
        assert (await house.client.delete("/api/v1/cache?all=true", headers=evil)).status_code == 403


async def test_a_wrong_answer_is_reported_by_command(tmp_path: Path) -> None:
    async with caching(tmp_path) as house:
        await chat(house, "a")
        given = await chat(house, "b")
        command = [sys.executable, "-m", "bursar", "cache", "wrong", "--data", str(tmp_path)]
        done = await asyncio.to_thread(
            subprocess.run, [*command, given.headers["x-bursar-call-id"]], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert (await chat(house, "c")).headers["x-bursar-cache"] == "miss"
        done = await asyncio.to_thread(subprocess.run, [*command, "nope"], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "no kept answer was given" in done.stderr


async def test_metrics_count_hits_and_what_they_avoid(tmp_path: Path) -> None:
    async with caching(tmp_path) as house:
        for _ in range(3):
            await chat(house, "a")
        text = (await house.client.get("/metrics")).text
        assert 'bursar_cache_lookups_total{outcome="miss",route="*"} 1.0' in text
        assert 'bursar_cache_lookups_total{outcome="exact",route="*"} 2.0' in text
        bought = next(row for row in house.rows() if row["cache"] == "miss")
        assert f'bursar_cache_avoided_usd_total{{tier="exact"}} {2 * bought["cost_nanousd"] / 10**9}' in text
