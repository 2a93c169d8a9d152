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
from bursar.doors.gateway.continuing import Continuation, Part
from bursar.sim import FaultRule
from bursar.wire import anthropic, gemini, openai_chat
from bursar.wire.translate.conversation import (
    Asked,
    Began,
    Event,
    Finished,
    Format,
    Message,
    StreamReader,
    Text,
    TextDelta,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    Untranslatable,
)
from bursar.wire.translate.gemini import GeminiSpeaker
from bursar.wire.translate.speakers import SPEAKERS

LLAMA = "llama-3.3-70b-versatile"
HELLO = Asked("m", (Message("user", (Text("hi"),)),), output_cap=100)
ERRORS = {
    dialect.id: dialect.error_event(502, "upstream_cut", "the provider broke off", {"code": "upstream_cut"})
    for dialect in (openai_chat.DIALECT, anthropic.DIALECT, gemini.DIALECT)
}
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
        assert answer.status_code == 402
        assert answer.json()["error"]["bursar"]["code"] == "budget_at"
        assert "budget all is used to" in answer.json()["error"]["message"]


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


# --- one part after another ---------------------------------------------------------------------------------------


def whole_of(dialect: str, asked: Asked = HELLO) -> Continuation:
    writer = SPEAKERS[dialect].writer(model="m", created_s=1, asks_usage=False)
    return Continuation(writer, lambda: asked)


def stream_of(dialect: str, *events: Event) -> bytes:
    writer = SPEAKERS[dialect].writer(model="m", created_s=1, asks_usage=False)
    return b"".join(map(writer.write, events)) + (writer.close() if isinstance(events[-1], Finished) else b"")


def sse(*events: dict[str, Any]) -> bytes:
    names = [f"event: {event['type']}\n" if "type" in event else "" for event in events]
    return "".join(f"{name}data: {json.dumps(each)}\n\n" for name, each in zip(names, events, strict=True)).encode()


def through(part: Part, body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join([part.feed(piece) for piece in pieces]) + part.finish()


def heard(reader: StreamReader, body: bytes) -> list[Event]:
    return [*reader.feed(body), *reader.finish()]


def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    start = {"type": "content_block_start", "index": index, "content_block": content}
    told = ({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
    return start, *told, {"type": "content_block_stop", "index": index}


def text_block(index: int, text: str) -> tuple[dict[str, Any], ...]:
    return block(index, {"type": "text", "text": "", "citations": []}, {"type": "text_delta", "text": text})


def chunk(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    odds = {"content": [{"token": "A", "logprob": -0.1, "bytes": [65], "top_logprobs": []}]}
    choice = {"index": index, "delta": delta, "logprobs": odds, "finish_reason": finish}
    return {"id": "c", "created": 5, "model": "gpt", "service_tier": "default", "choices": [choice]}


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": [], "usage": {"input_tokens": 1}}
START = {"type": "message_start", "message": MESSAGE}
SEARCH = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
ENDED = (
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
)
PICTURE = {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}
OWN = {
    "several choices": (
        "openai_chat",
        sse(chunk(0, {"content": "A"}), chunk(1, {"content": "B"}), chunk(0, {}, "stop"), chunk(1, {"content": "C"}, "stop")),
    ),
    "a server's own tool": (
        "anthropic",
        sse(START, *text_block(0, "Let me look."), *block(1, SEARCH), *block(2, FOUND), *text_block(3, "It rains."), *ENDED),
    ),
    "a picture": (
        "gemini",
        sse(*({"candidates": [{"content": {"parts": [part]}}], "responseId": "r"} for part in ({"text": "Look"}, PICTURE, {"text": "!"}))),
    ),
    "a chunk of another shape": (
        "openai_chat",
        sse(chunk(0, {"content": "A"}), chunk(0, {"reasoning_content": [1]}), chunk(0, {"content": "B"}), chunk(0, {}, "stop"))
        + b"data: [DONE]\n\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("case", OWN)
def test_a_provider_of_the_clients_own_dialect_speaks_to_it_itself(case: str, size: int) -> None:
    """Whatever it says, byte for byte: nobody here has to understand it. What was not understood is not gone on with."""
    dialect, body = OWN[case]
    for ending in (b"", b": the connection is closed"):
        whole = whole_of(dialect)
        assert through(Part(SPEAKERS[dialect].reader(), whole, same=True), body + ending, size) == body + ending
        assert (whole.finished, whole.can_go_on, whole.parts) == (True, False, 1)


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_json_array_is_passed_as_its_pieces_come(size: int) -> None:
    whole = Continuation(GeminiSpeaker().writer(model="m", created_s=1, asks_usage=False, array=True), lambda: HELLO)
    part = Part(SPEAKERS["gemini"].reader(), whole, same=True)
    assert part.feed(b'[{"candidates": [{"content": {"parts": [{"text": "a"}') != b""
    assert through(part, b"]}}]}", size) == b"]}}]}"
    assert (whole.finished, whole.can_go_on) == (True, False)


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("torn", [b"", b'data: {"candi', b'event: content_block_delta\ndata: {"type": "content_'])
@pytest.mark.parametrize("error", [True, False])
@pytest.mark.parametrize("second", SPEAKERS)
@pytest.mark.parametrize("dialect", SPEAKERS)
def test_what_a_provider_began_itself_goes_on_in_the_same_answer(
    dialect: str, second: str, error: bool, torn: bytes, size: int
) -> None:
    """With the same id, in the same block: neither what was torn nor its error is seen."""
    said = stream_of(dialect, Began("one", "x"), ThinkingDelta("t"), TextDelta("It "), TextDelta("rains"))
    whole = whole_of(dialect)
    first = Part(SPEAKERS[dialect].reader(), whole, same=True)
    out = through(first, said + torn + (ERRORS[dialect] if error else b""), size)
    assert out == said
    assert whole.can_go_on
    assert whole.asked(HELLO).messages[1] == Message("assistant", (Text("It rains"),))
    more = stream_of(second, Began("two", "y"), TextDelta(" today."), Finished("stop"))
    out += through(Part(SPEAKERS[second].reader(), whole, same=second == dialect), more, size)
    events = heard(SPEAKERS[dialect].reader(), out)
    assert [event.id for event in events if isinstance(event, Began)] == ["one"]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It rains today."
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert (whole.finished, whole.parts) == (True, 2)
    if dialect == "anthropic":
        blocks = [each for each in events_of_blocks(out) if each[0] != "content_block_delta"]
        assert blocks == [(f"content_block_{kind}", at) for at in (0, 1) for kind in ("start", "stop")]


def events_of_blocks(body: bytes) -> list[tuple[str, int]]:
    return [(each["type"], each["index"]) for each in events(body.decode()) if "index" in each]


NAMED = {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]}
OVER = {
    "a tool that was named": ("openai_chat", sse(chunk(0, {"content": "A"}), chunk(0, NAMED))),
    "a tool": ("gemini", stream_of("gemini", Began("a", "b"), TextDelta("A"), ToolBegan(0, "x", "f"), ToolDelta(0, "{}"), TextDelta("B"))),
    "a second text": ("anthropic", sse(START, *text_block(0, "A"), *text_block(1, "B")[:-1])),
    "a text that ended": ("anthropic", sse(START, *text_block(0, "A"))),
    "no text": ("openai_chat", sse(chunk(0, {"role": "assistant"}))),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("case", OVER)
def test_where_nobody_can_go_on_the_providers_own_end_is_the_clients(case: str, size: int) -> None:
    """As on any other route: its error comes last, and nothing of ours after it."""
    dialect, body = OVER[case]
    body += ERRORS[dialect]
    whole = whole_of(dialect)
    assert through(Part(SPEAKERS[dialect].reader(), whole, same=True), body, size) == body
    assert (whole.finished, whole.can_go_on) == (True, False)


def unreadable() -> Asked:
    raise Untranslatable("n", "one answer is translated")


@pytest.mark.parametrize("read", [unreadable, lambda: Asked("m", HELLO.messages, format=Format())])
@pytest.mark.parametrize("same", [True, False])
def test_a_request_that_cannot_be_said_again_is_not_gone_on_with(read: Any, same: bool) -> None:
    """The next rung could not be told what is wanted, or would begin a second JSON object."""
    whole = Continuation(SPEAKERS["anthropic"].writer(model="m", created_s=1, asks_usage=False), read)
    said = stream_of("anthropic", Began("one", "x"), TextDelta('{"a": "hel'))
    out = through(Part(SPEAKERS["anthropic"].reader(), whole, same=same), said + ERRORS["anthropic"], 10_000)
    assert not whole.can_go_on
    assert out == (said + ERRORS["anthropic"] if same else said)
    assert whole.finished is same  # else the client is told by ``break_off``


def test_what_is_asked_again_has_what_is_left_of_its_cap() -> None:
    """Thoughts are output too; at least one token is asked for, and without a cap there is none."""
    whole = whole_of("anthropic")
    through(
        Part(SPEAKERS["anthropic"].reader(), whole, same=True),
        stream_of("anthropic", Began("one", "x"), ThinkingDelta("t" * 40), TextDelta("a" * 120)),
        10_000,
    )
    assert whole.asked(HELLO).output_cap == 60
    assert whole.asked(Asked("m", HELLO.messages, output_cap=20)).output_cap == 1
    assert whole.asked(Asked("m", HELLO.messages)).output_cap is None


async def test_a_route_that_goes_on_passes_its_providers_own_stream(tmp_path: Path) -> None:
    """What OpenAI alone says is there, and the usage that its client did not ask for is not."""
    async with going_on(tmp_path, [f"openai/{GPT}"]) as house:
        found = events((await chat(house)).text)
        assert found[-1] == "[DONE]"
        assert {each["system_fingerprint"] for each in found[:-1]}
        assert not any(each.get("usage") for each in found[:-1])
        assert house.rows("t")[0]["units"]


async def test_an_answer_in_json_is_not_gone_on_with(tmp_path: Path) -> None:
    async with going_on(tmp_path, [f"openai/{GPT}", f"groq/{LLAMA}"]) as house:
        house.sim.simulator.faults = (FaultRule(fault="cut=6"),)
        answer = await chat(
            house, response_format={"type": "json_object"}, messages=[{"role": "user", "content": "in JSON"}]
        )
        assert ends_broken(answer.text)
        assert [row["status"] for row in house.rows("t")] == ["cut"]
