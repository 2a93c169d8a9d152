"""``prompt_cache: auto`` through a running gateway: what the provider keeps, and what an agent's turns cost with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, GPT, HAIKU, gateway

from bursar.config import Settings

SYSTEM = "You keep the books of a small shop, and answer in one sentence. " * 400


async def turns(path: Path, *, auto: bool) -> list[dict[str, Any]]:
    """An agent of six turns with a long system prompt: its rows."""
    async with gateway(path, settings=Settings(routes={"*": {"prompt_cache": auto}})) as house:
        messages: list[dict[str, str]] = []
        for number in range(6):
            messages.append({"role": "user", "content": f"Question {number}: what is the sum of row {number}?"})
            body = {"model": HAIKU, "max_tokens": 100, "system": SYSTEM, "messages": messages}
            headers = {
                "x-api-key": "k",
                "anthropic-version": "2023-06-01",
                "x-bursar-session": "s",
                "x-bursar-agent": "a",
            }
            answer = await house.client.post("/v1/messages", headers=headers, json=body)
            assert answer.status_code == 200
            messages.append({"role": "assistant", "content": answer.json()["content"][0]["text"]})
        return house.rows()


async def test_an_agents_turns_cost_less(tmp_path: Path) -> None:
    """The system prompt is written once and read five times; the decision says where the marks are and what they should gain."""
    plain, marked = await turns(tmp_path / "a", auto=False), await turns(tmp_path / "b", auto=True)
    assert sum(row["cache_read_tokens"] for row in plain) == 0
    assert sum(row["cache_read_tokens"] > 0 for row in marked) >= 4
    assert sum(row["cost_nanousd"] for row in marked) < sum(row["cost_nanousd"] for row in plain) // 2
    notes = [json.loads(row["decision"]).get("prompt_cache") for row in marked]
    assert any(note and note["marks"] and note["expected_nanousd"] > 0 for note in notes)
    assert all("prompt_cache" not in json.loads(row["decision"]) for row in plain)


@pytest.mark.parametrize("session", ["", "s"])
async def test_openai_is_told_which_requests_belong_together(tmp_path: Path, session: str) -> None:
    """A thread's requests carry one key, a digest; what belongs to no thread carries none."""
    async with gateway(tmp_path, settings=Settings(routes={"*": {"prompt_cache": "auto"}})) as house:
        headers = {"authorization": "Bearer x"} | ({"x-bursar-session": session} if session else {})
        await house.client.post("/v1/chat/completions", headers=headers, json={**CHAT, "model": GPT})
        (row,) = house.rows()
        assert json.loads(row["decision"]).get("prompt_cache") == ({"key": True} if session else None)


async def test_names_that_two_tenants_share_are_two_threads(tmp_path: Path) -> None:
    """The same session and agent with another key, or another user: nothing of the one's prompt is compared with the other's."""
    async with gateway(tmp_path, settings=Settings(routes={"*": {"prompt_cache": "auto"}})) as house:
        body = {"model": HAIKU, "max_tokens": 9, "system": SYSTEM, "messages": [{"role": "user", "content": "x"}]}
        headers = {"anthropic-version": "2023-06-01", "x-bursar-session": "s", "x-bursar-agent": "a"}
        for who in (
            {"x-api-key": "k"},
            {"x-api-key": "other"},
            {"x-api-key": "k", "x-bursar-user": "u"},
            {"x-api-key": "k"},
        ):
            await house.client.post("/v1/messages", headers=headers | who, json=body)
        notes = [json.loads(row["decision"])["prompt_cache"] for row in house.rows()]
        assert ["shared_bytes" in note for note in notes] == [False, False, False, True]
