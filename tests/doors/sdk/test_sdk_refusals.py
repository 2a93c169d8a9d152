"""Retries of the SDKs, and refusals that none of them repeats or swallows."""

from __future__ import annotations

import asyncio
import pickle
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from google.genai import types
from sdk_room import CHAT, FLASH, GPT, MESSAGES, Room

import bursar
from bursar.sim import FaultRule

NOTHING = "0.000001"
HUGE: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "word " * 20_000}]}


def fails(room: Room, provider: str, fault: str, times: int) -> None:
    """The provider fails so many times, then answers."""
    getattr(room.sims, provider).simulator.faults = (FaultRule(fault, last=times - 1),)


# --- retries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["500", "429=0"])
def test_a_retried_call_is_one_call_of_several_attempts(room: Room, fault: str) -> None:
    """Two failures and an answer: three rows, numbered, of one call; only the answer costs."""
    fails(room, "openai", fault, 2)
    with bursar.task("retried", budget="1") as t:
        room.openai(max_retries=2).chat.completions.create(**CHAT)
    rows = room.rows()
    assert [row.number for row in rows] == [1, 2, 3]
    assert [row.status for row in rows] == ["error", "error", "ok"]
    assert len({row.call_id for row in rows}) == 1
    assert len({row.attempt_id for row in rows}) == 3
    assert [row.cost_nanousd for row in rows] == [0, 0, room.price()]
    assert t.spent * 10**9 == room.price()


async def test_retries_of_the_other_sdks(room: Room) -> None:
    """Anthropic synchronously, OpenAI asynchronously, Google with its own retry options."""
    for provider in ("openai", "anthropic", "google"):
        fails(room, provider, "503", 1)
    await asyncio.to_thread(lambda: room.anthropic(max_retries=1).messages.create(**MESSAGES))
    async with room.openai_async(max_retries=1) as client:
        await client.responses.create(model=GPT, input="Hello")
    retry = types.HttpRetryOptions(attempts=2, initial_delay=0.01, max_delay=0.02)
    room.google(retry_options=retry).models.generate_content(model=FLASH, contents="Hello")
    for provider in ("openai", "anthropic", "google"):
        first, second = room.rows(provider=provider)
        assert (first.status, first.number, second.status, second.number) == ("error", 1, "ok", 2)
        assert first.call_id == second.call_id


def test_an_attempt_that_never_left_is_not_counted(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection fails once, then works: one row, and it is the first of its call."""
    send, failed = httpx2.HTTPTransport.handle_request, []

    def flaky(transport: Any, request: Any) -> Any:
        if not failed:
            failed.append(1)
            raise httpx2.ConnectError("refused")
        return send(transport, request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", flaky)
    with bursar.task("flaky", budget="1"):
        room.openai(max_retries=1).chat.completions.create(**CHAT)
    assert [(row.number, row.status) for row in room.rows()] == [(1, "ok")]
    assert room.held() == 0


def test_asking_the_same_again_is_another_call(room: Room) -> None:
    """Only what failed is repeated: two equal questions that were answered are two calls; so is another one after a failure."""
    client = room.openai()
    client.chat.completions.create(**CHAT)
    client.chat.completions.create(**CHAT)
    fails(room, "openai", "500", 3)
    with pytest.raises(Exception, match="500"):
        client.chat.completions.create(**CHAT)
    room.sims.openai.simulator.faults = ()
    client.chat.completions.create(**{**CHAT, "temperature": 0})
    rows = room.rows()
    assert {row.number for row in rows} == {1}
    assert len({row.call_id for row in rows}) == 4


def test_a_key_against_repetition_names_the_call(room: Room) -> None:
    """What a program itself sends to make its retries one is taken as the call's id."""
    client = room.openai()
    for number in (0, 1):
        client.chat.completions.create(
            **CHAT, extra_headers={"idempotency-key": "order-7", "x-stainless-retry-count": str(number)}
        )
    assert [(row.call_id, row.number) for row in room.rows()] == [("order-7", 1), ("order-7", 2)]


# --- refusals ---------------------------------------------------------------------------------------------------


def refused_calls(room: Room) -> dict[str, Any]:
    client, claude = room.openai(max_retries=2), room.anthropic(max_retries=2)
    google = room.google(retry_options=types.HttpRetryOptions(attempts=3, initial_delay=0.01))
    return {
        "chat": lambda: client.chat.completions.create(**CHAT),
        "stream": lambda: client.chat.completions.create(**CHAT, stream=True),
        "helper": lambda: client.chat.completions.stream(**CHAT).__enter__(),
        "responses": lambda: client.responses.create(model=GPT, input="Hello"),
        "embeddings": lambda: client.embeddings.create(model="text-embedding-3-large", input="word " * 10_000),
        "messages": lambda: claude.messages.create(**MESSAGES),
        "messages-stream": lambda: claude.messages.stream(**MESSAGES).__enter__(),
        "google": lambda: google.models.generate_content(model=FLASH, contents="Hello"),
        "google-stream": lambda: next(google.models.generate_content_stream(model=FLASH, contents="Hello")),
    }


def test_no_sdk_repeats_or_swallows_a_refusal(room: Room) -> None:
    """It reaches the caller as it is, and the provider is never asked."""
    for name, call in refused_calls(room).items():
        with bursar.task(name, budget=NOTHING), pytest.raises(bursar.BudgetExceeded) as caught:
            call()
        assert caught.value.code == "budget_exceeded", name
        assert caught.value.task.startswith(name), name
    assert room.sims.served() == 0
    assert room.rows() == []


async def test_asynchronous_sdks_neither(room: Room) -> None:
    """The same with async clients, in tasks and groups."""
    http = httpx2.AsyncClient()
    google = room.google(httpx_async_client=http)
    async with room.openai_async(max_retries=2) as client, room.anthropic_async(max_retries=2) as claude:
        calls = [
            lambda: client.chat.completions.create(**CHAT),
            lambda: client.chat.completions.create(**CHAT, stream=True),
            lambda: client.responses.create(model=GPT, input="Hello"),
            lambda: claude.messages.create(**MESSAGES),
            lambda: google.aio.models.generate_content(model=FLASH, contents="Hello"),
        ]
        for call in calls:
            with bursar.task("broke", budget=NOTHING), pytest.raises(bursar.BudgetExceeded):
                await call()
    await google.aio.aclose()
    await http.aclose()  # the SDK leaves a client alone that it was given
    assert room.sims.served() == 0


def test_an_agent_that_catches_every_exception_is_stopped(room: Room) -> None:
    """``except Exception`` around a tool loop does not feed the refusal to the model."""
    client, caught = room.openai(), []

    def loop() -> None:
        for _ in range(5):
            try:
                client.chat.completions.create(**CHAT)
            except Exception as error:  # noqa: BLE001 - this is what frameworks do
                caught.append(error)

    with pytest.raises(bursar.BudgetExceeded), bursar.task("loop", budget=NOTHING):
        loop()
    assert caught == []


def test_a_refusal_has_all_numbers(room: Room) -> None:
    """Limit, spent, held, needed in USD; which budget and whose; and the text says it."""
    client = room.openai()
    with bursar.task("numbers", budget="0.01") as t:
        client.chat.completions.create(**CHAT)
        spent = t.spent
        with pytest.raises(bursar.BudgetExceeded) as caught:
            client.chat.completions.create(**HUGE)
    error = caught.value
    assert error.limit == Decimal("0.01")
    assert error.spent == spent > 0
    assert error.held == 0
    assert isinstance(error.needed, Decimal)
    assert error.needed > Decimal("0.01") - spent
    assert (error.code, error.unit, error.task) == ("budget_exceeded", "usd", t.id)
    assert t.id in error.subject or t.id in error.budget
    assert error.resets_at is None
    assert "0.01" in str(error)
    assert error.call_id


def test_a_refusal_crosses_processes(room: Room) -> None:
    """Pickled and unpickled it is the same."""
    with bursar.task("pickled", budget=NOTHING), pytest.raises(bursar.BudgetExceeded) as caught:
        room.openai().chat.completions.create(**CHAT)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.details == caught.value.details
    assert (again.limit, again.spent, again.held, again.needed) == (
        caught.value.limit, caught.value.spent, caught.value.held, caught.value.needed,
    )  # fmt: skip
    assert (again.call_id, again.task, again.code) == (caught.value.call_id, caught.value.task, caught.value.code)


def test_a_budget_of_the_configuration_refuses_with_its_name_and_window(closed_room: Room) -> None:
    """A window's end is said."""
    closed_room.configure("budgets:\n  team-day: {match: {team: support}, limit: $0.000001, per: day}\n")
    closed_room.init(team="support")
    with pytest.raises(bursar.BudgetExceeded) as caught:
        closed_room.openai().chat.completions.create(**CHAT)
    assert caught.value.budget == "team-day"
    assert caught.value.window == "day"
    assert caught.value.resets_at is not None
    assert closed_room.sims.served() == 0


def test_a_refused_call_can_be_asked_again_with_less(room: Room) -> None:
    """After a refusal nothing is held: what fits passes."""
    client = room.openai()
    with bursar.task("less", budget="0.01") as t:
        with pytest.raises(bursar.BudgetExceeded):
            client.chat.completions.create(**HUGE)
        client.chat.completions.create(**{**CHAT, "max_tokens": 50})
        assert t.spent * 10**9 == room.price()
