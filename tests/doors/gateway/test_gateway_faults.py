"""What goes wrong on the way: passed on as it is, said in the client's dialect, and always settled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types
from house import DIALECTS, FLASH, GPT, HAIKU, KEY, STREAMS, WHOLE, Ask, House, assert_booked, gateway, task_name, until

from bursar.config import ProviderSettings, Server, Settings
from bursar.core.errors import BooksFailedError
from bursar.sim import Pace, Simulator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-faults")]

QUESTION: Any = [{"role": "user", "content": "How is the weather?"}]
SLOW = Pace(first_token_ms=20, tokens_per_second=40)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A gateway whose provider takes more than a second for an answer, and is given up on after one of silence."""
    settings = Settings(server=Server(port=0, drain_s=5, read_timeout_s=1))
    simulator = Simulator(seed=7, pace=SLOW)
    async with gateway(tmp_path_factory.mktemp("slow"), settings=settings, sim=simulator) as house:
        yield house


# --- the provider refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["400", "401", "429=7", "500", "503"])
@pytest.mark.parametrize("ask", [*WHOLE, *STREAMS], ids=str)
async def test_a_refusal_passes_unchanged_and_costs_nothing(house: House, ask: Ask, fault: str) -> None:
    """4xx and 5xx: status, Retry-After and bytes are the provider's; booked as an error at 0, with what it said."""
    task = task_name()
    direct = await house.client.post(
        house.sim.url + ask.target, headers={**ask.headers, "x-sim-fault": fault}, content=ask.content
    )
    answer = await house.ask(ask, x_sim_fault=fault, x_bursar_task=task)
    call = house.served(answer)
    assert answer.status_code == direct.status_code >= 400
    assert len(answer.content) == call.body_bytes
    assert answer.headers.get("retry-after") == direct.headers.get("retry-after") == ("7" if fault == "429=7" else None)
    row = await house.row(task)
    assert (row["status"], row["http_status"], row["cost_nanousd"]) == ("error", answer.status_code, 0)
    assert (row["units"], row["estimated"], row["unpriced_reason"]) == ({}, False, None)
    assert row["error"]


# --- the provider's answer is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("ask", WHOLE, ids=str)
@pytest.mark.parametrize("fault", ["wrong-json", "no-usage", "usage-negative", "usage-strings"])
async def test_an_answer_without_a_true_usage_is_unpriced(house: House, ask: Ask, fault: str) -> None:
    """Broken JSON, no usage, counts below zero or in words: passed on as it came; unpriced with a reason, never 0."""
    task = task_name()
    answer = await house.ask(ask, x_sim_fault=fault, x_bursar_task=task)
    assert (answer.status_code, len(answer.content)) == (200, house.served(answer).body_bytes)
    assert "x-bursar-cost-usd" not in answer.headers
    row = await house.row(task)
    assert (row["cost_nanousd"], row["input_tokens"], row["units"]) == (None, None, {})
    assert row["unpriced_reason"]


@pytest.mark.parametrize("ask", STREAMS, ids=str)
@pytest.mark.parametrize("fault", ["usage-negative", "usage-strings"])
async def test_a_stream_that_lies_about_usage_is_unpriced(house: House, ask: Ask, fault: str) -> None:
    """The lie reaches the client, not the books."""
    task = task_name()
    answer = await house.ask(ask, x_sim_fault=fault, x_bursar_task=task)
    assert answer.status_code == 200
    row = await house.row(task)
    assert (row["cost_nanousd"], row["units"], row["estimated"]) == (None, {}, False)
    assert "cannot be read" in row["unpriced_reason"]


@pytest.mark.parametrize("ask", STREAMS, ids=str)
async def test_a_stream_without_usage_is_estimated(house: House, ask: Ask) -> None:
    """Where a whole stream states no usage, what was seen of it is charged and marked as an estimate."""
    task = task_name()
    answer = await house.ask(ask, x_sim_fault="no-usage", x_bursar_task=task)
    call = house.served(answer)
    row = await house.row(task)
    assert call.usage is not None
    assert row["estimated"]
    assert row["cost_nanousd"] > 0
    visible = call.usage.output_tokens - call.usage.reasoning_tokens
    assert row["output_tokens"] == visible, "the simulator's token is four characters, as the estimate's"


@pytest.mark.parametrize("ask", STREAMS, ids=str)
async def test_one_broken_event_does_not_break_the_stream(house: House, ask: Ask) -> None:
    """An event that is no JSON passes through, and the usage that comes later is charged exactly."""
    task = task_name()
    answer = await house.ask(ask, x_sim_fault="wrong-json", x_bursar_task=task)
    call = house.served(answer)
    if ask is not STREAMS[0]:
        assert len(answer.content) == call.body_bytes
    assert_booked(await house.row(task), call, ask.provider)


@pytest.mark.parametrize("ask", WHOLE, ids=str)
async def test_a_whole_answer_that_breaks_off(house: House, ask: Ask) -> None:
    """Half an answer is none: 502 in the dialect; it may have been billed, so the request's size is charged, estimated."""
    task = task_name()
    answer = await house.ask(ask, x_sim_fault="cut", x_bursar_task=task)
    assert answer.status_code == 502
    bursar = answer.json()["error"]["bursar"]
    row = await house.row(task)
    assert bursar == {"code": "upstream_failed", "call_id": row["call_id"], "provider": ask.provider}
    assert (row["status"], row["estimated"]) == ("error", True)
    assert row["cost_nanousd"] > 0
    assert "the provider failed" in row["error"]


async def test_a_cut_stream_raises_in_the_openai_sdk(house: House) -> None:
    """A broken chat stream ends with an error event: APIError with the bursar object; settled with what was streamed."""
    task = task_name()
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{house.url}/v1", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=GPT, messages=QUESTION, stream=True, extra_headers={"x-sim-fault": "cut=5", "x-bursar-task": task}
        )
        seen: list[Any] = []
        with pytest.raises(openai.APIError) as caught:
            await collect(stream, seen)
    assert len(seen) == 5
    assert caught.value.body["bursar"]["code"] == "upstream_cut"  # type: ignore[index,call-overload]
    await assert_cut(house, task, output_tokens=4)


async def test_a_cut_response_stream_raises_in_the_openai_sdk(house: House) -> None:
    """The responses dialect has an error event of its own; the SDK's helper ends with it."""
    task = task_name()
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{house.url}/v1", max_retries=0) as client:
        stream = await client.responses.create(
            model=GPT, input="Hello", stream=True, extra_headers={"x-sim-fault": "cut=6", "x-bursar-task": task}
        )
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert "broke off" in str(caught.value)
    await assert_cut(house, task)


async def test_a_cut_stream_raises_in_the_anthropic_sdk(house: House) -> None:
    """A broken message stream ends with Anthropic's error event: APIStatusError with the bursar object."""
    task = task_name()
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=house.url, max_retries=0) as client:
        stream = await client.messages.create(
            model=HAIKU,
            max_tokens=3000,
            messages=QUESTION,
            stream=True,
            extra_headers={"x-sim-fault": "cut=6", "x-bursar-task": task},
        )
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for _ in stream:
                pass
    assert caught.value.body["error"]["bursar"]["code"] == "upstream_cut"  # type: ignore[index,call-overload]
    await assert_cut(house, task)


async def test_a_cut_stream_raises_in_the_gemini_sdk(house: House) -> None:
    """A broken Gemini stream ends with an error object: the SDK's APIError."""
    task = task_name()
    options = types.HttpOptions(base_url=house.url, headers={"x-sim-fault": "cut=1", "x-bursar-task": task})
    client = genai.Client(api_key=KEY, http_options=options)
    with pytest.raises(genai.errors.APIError) as caught:
        async for _ in await client.aio.models.generate_content_stream(model=FLASH, contents="Hello"):
            pass
    await client.aio.aclose()
    client.close()
    assert "broke off" in str(caught.value)
    await assert_cut(house, task)


async def collect(stream: AsyncIterator[Any], into: list[Any]) -> None:
    async for item in stream:
        into.append(item)  # noqa: PERF401 - what came before the error counts


async def assert_cut(house: House, task: str, output_tokens: int | None = None) -> None:
    row = await house.row(task)
    assert (row["status"], row["estimated"], row["http_status"]) == ("cut", True, 200)
    assert row["cost_nanousd"] > 0
    assert "broke off" in row["error"]
    if output_tokens is not None:
        assert row["output_tokens"] == output_tokens


# --- the provider is slow, silent or not there ------------------------------------------------------------------


async def test_a_slow_first_token_is_waited_for_and_measured(house: House) -> None:
    """A late first token is only late: exact charge, and the time to it is booked."""
    task = task_name()
    answer = await house.ask(STREAMS[2], x_sim_fault="slow=150", x_bursar_task=task)
    row = await house.row(task)
    assert_booked(row, house.served(answer), "anthropic")
    assert row["latency_ms"] >= 150
    assert row["first_token_ms"] <= row["latency_ms"]


@pytest.mark.parametrize("ask", DIALECTS, ids=str)
async def test_a_silent_provider_is_given_up_and_charged_by_estimate(slow: House, ask: Ask) -> None:
    """No byte within read_timeout_s: 502; the request did leave, so it is not free: estimated, never voided."""
    task = task_name()
    answer = await slow.ask(ask, x_sim_fault="hang", x_bursar_task=task)
    assert answer.status_code == 502
    assert "timed out" in answer.json()["error"]["message"]
    row = await slow.row(task)
    assert (row["status"], row["estimated"], row["output_tokens"]) == ("error", True, 0)
    assert row["cost_nanousd"] > 0


@pytest.mark.parametrize("ask", STREAMS, ids=str)
async def test_a_client_that_leaves_a_silent_stream_stops_it(house: House, ask: Ask) -> None:
    """The provider hangs, the client gives up: booked at once as cancelled, with the request's size as an estimate."""
    task = task_name()
    headers = {**ask.headers, "x-sim-fault": "hang", "x-bursar-task": task}
    with pytest.raises(httpx2.ReadTimeout):
        await house.client.post(ask.target, headers=headers, content=ask.content, timeout=0.1)
    row = await house.row(task, within_s=1)
    assert (row["status"], row["estimated"]) == ("cancelled", True)
    assert row["cost_nanousd"] > 0


async def test_a_provider_is_stopped_at_its_first_byte_when_nobody_listens(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The client left while the provider was thinking: its connection is closed as soon as it begins to answer."""
    began, closed = asyncio.Event(), asyncio.Event()

    async def think(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        began.set()
        await asyncio.sleep(0.15)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100000\r\n\r\ndata: {}\n\n"
        )
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(think, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        settings = Settings(server=Server(port=0), providers={"openai": ProviderSettings(base_url=url)})
        async with gateway(tmp_path_factory.mktemp("think"), settings=settings) as house:
            with pytest.raises(httpx2.ReadTimeout):
                await house.client.post(
                    STREAMS[0].target, headers=STREAMS[0].headers, content=STREAMS[0].content, timeout=0.1
                )
            await asyncio.wait_for(closed.wait(), 1)
            assert began.is_set()
            assert [row["status"] for row in house.rows()] == ["cancelled"]


@pytest.mark.parametrize("ask", STREAMS[:3], ids=str)
async def test_a_client_that_leaves_a_stream_pays_for_what_was_streamed(slow: House, ask: Ask) -> None:
    """Mid-stream: the provider is stopped within moments; input and seen output are charged, marked estimated."""
    task = task_name()
    async with slow.client.stream(
        "POST", ask.target, headers={**ask.headers, "x-bursar-task": task}, content=ask.content
    ) as answer:
        index = int(answer.headers["x-sim-call"])
        chunks = answer.aiter_raw()
        text = b""
        while text.count(b"\n\n") < 8:
            text += await anext(chunks)
    began = time.perf_counter()
    row = await slow.row(task, within_s=1)
    call = next(call for call in slow.calls if call.index == index)
    await until(lambda: call.outcome == "disconnected")
    assert time.perf_counter() - began < 0.5
    assert call.events_sent < call.events / 2
    assert (row["status"], row["estimated"]) == ("cancelled", True)
    assert row["cost_nanousd"] > 0
    assert 0 < row["output_tokens"] < 20


async def test_a_client_that_leaves_a_whole_call_pays_what_it_cost(slow: House) -> None:
    """The answer is on its way and will be billed: it is waited for and settled exactly."""
    task, served = task_name(), len(slow.calls)
    ask = Ask("openai", "/v1/embeddings", WHOLE[0].headers, {"model": "text-embedding-3-small", "input": "a cat"})
    headers = {**ask.headers, "x-bursar-task": task, "x-sim-fault": "slow=300"}
    with pytest.raises(httpx2.ReadTimeout):
        await slow.client.post(ask.target, headers=headers, content=ask.content, timeout=0.1)
    assert slow.rows(task) == []
    row = await slow.row(task)
    assert_booked(row, slow.calls[served], "openai")
    assert row["latency_ms"] >= 300


@pytest.mark.parametrize("ask", [*WHOLE, *STREAMS], ids=str)
async def test_a_provider_that_is_not_there(house: House, tmp_path_factory: pytest.TempPathFactory, ask: Ask) -> None:
    """A closed port: 502 in the dialect that says why; nothing left, so nothing is booked and nothing stays held."""
    nowhere = ProviderSettings(base_url="http://127.0.0.1:1/v1")
    settings = Settings(server=Server(port=0), providers=dict.fromkeys(("openai", "anthropic", "google"), nowhere))
    async with gateway(tmp_path_factory.mktemp("nowhere"), settings=settings) as alone:
        answer = await alone.ask(ask)
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert error["bursar"]["code"] == "upstream_unreachable"
        assert error["bursar"]["provider"] == ask.provider
        assert "could not be reached: Connection refused" in error["message"]
        assert alone.rows() == []
        with closing(sqlite3.connect(alone.data.books)) as books:
            kinds = [kind for (kind,) in books.execute("SELECT kind FROM entry ORDER BY rowid")]
    assert kinds == ["hold", "void"]


async def test_a_client_that_leaves_before_the_hold_holds_nothing(house: House) -> None:
    """The books are busy, the client goes, then the hold is committed: it is given back, and nothing was sent."""
    task, served = task_name(), len(house.calls)
    ask = STREAMS[0]
    with closing(sqlite3.connect(house.data.books, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(httpx2.ReadTimeout):
            await house.client.post(
                ask.target, headers={**ask.headers, "x-bursar-task": task}, content=ask.content, timeout=0.1
            )
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        await until(lambda: other.execute("SELECT count(*) FROM open_hold").fetchone() == (0,))
        await until(
            lambda: (
                other.execute("SELECT kind FROM entry ORDER BY rowid DESC LIMIT 2").fetchall() == [("void",), ("hold",)]
            )
        )
    assert len(house.calls) == served
    assert house.rows(task) == []


# --- stopping ---------------------------------------------------------------------------------------------------


async def start_streams(house: House, tasks: list[str]) -> list[asyncio.Task[bytes]]:
    """Streams under way, each past its first events."""
    under_way = asyncio.Semaphore(0)

    async def read(task: str, ask: Ask) -> bytes:
        headers = {**ask.headers, "x-bursar-task": task}
        got = b""
        async with house.client.stream("POST", ask.target, headers=headers, content=ask.content) as answer:
            async for chunk in answer.aiter_raw():
                if not got:
                    under_way.release()
                got += chunk
        return got

    reading = [asyncio.create_task(read(task, STREAMS[n % 3])) for n, task in enumerate(tasks)]
    for _ in tasks:
        await under_way.acquire()
    return reading


@pytest.mark.parametrize("by_signal", [False, True])
async def test_stopping_lets_streams_finish(tmp_path_factory: pytest.TempPathFactory, by_signal: bool) -> None:
    """At SIGTERM, or when told to stop, running streams come to their end, whole and exactly charged."""
    tasks = [task_name() for _ in range(6)]
    simulator = Simulator(seed=7, pace=Pace(10, 150))
    async with gateway(tmp_path_factory.mktemp("drain"), sim=simulator, drain_s=5) as house:
        reading = await start_streams(house, tasks)
        if by_signal:
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            house.stop.set()
        got = await asyncio.gather(*reading)
        await house.serving
        assert all(b"[DONE]" in text or b"completed" in text or b"message_stop" in text for text in got)
        rows = [house.rows(task)[0] for task in tasks]
    assert {(row["status"], row["estimated"]) for row in rows} == {("ok", False)}


async def test_past_the_drain_time_streams_are_cancelled_and_settled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is not done within drain_s is ended; it is charged by what was streamed, and nothing stays held."""
    tasks = [task_name() for _ in range(6)]
    simulator = Simulator(seed=7, pace=Pace(10, 20))
    async with gateway(tmp_path_factory.mktemp("cancel"), sim=simulator, drain_s=0) as house:
        reading = await start_streams(house, tasks)
        began = time.perf_counter()
        house.stop.set()
        await asyncio.gather(*reading, return_exceptions=True)
        await house.serving
        assert time.perf_counter() - began < 2
        rows = [house.rows(task)[0] for task in tasks]
    assert {(row["status"], row["estimated"]) for row in rows} == {("cancelled", True)}
    assert all(row["cost_nanousd"] > 0 for row in rows)


async def test_stopping_with_books_that_cannot_be_written_says_so(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settlements that are lost with the process are an error, not "all settled"; the next start charges their estimates."""
    monkeypatch.setattr("bursar.adapters.books_async._BUSY_MAX_S", 0.01)
    path, task = tmp_path_factory.mktemp("unsettled"), task_name()

    async def stop_while_another_process_writes() -> None:
        async with gateway(path, sim=Simulator(seed=7, pace=Pace(10, 20)), drain_s=0) as house:
            reading = await start_streams(house, [task])
            with closing(sqlite3.connect(house.data.books, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                house.stop.set()
                await asyncio.gather(*reading, return_exceptions=True)
                await asyncio.wait([house.serving])

    with pytest.raises(BooksFailedError, match="1 settlements could not be written"):
        await stop_while_another_process_writes()
    async with gateway(path) as house:
        assert [(row["status"], row["estimated"]) for row in house.rows(task)] == [("expired", True)]


async def test_new_calls_are_refused_while_draining(tmp_path_factory: pytest.TempPathFactory) -> None:
    """While the last streams run out, a new call on an open connection is told to try again: 503, not booked."""
    simulator = Simulator(seed=7, pace=Pace(10, 150))
    async with gateway(tmp_path_factory.mktemp("late"), sim=simulator, drain_s=5) as house:
        reading = await start_streams(house, [task_name()])
        house.stop.set()
        await asyncio.sleep(0.02)
        assert not house.serving.done()
        try:
            answer = await house.ask(WHOLE[0])
        except httpx2.TransportError:
            pass  # the port is closed already: as good a refusal
        else:
            assert answer.status_code == 503
            assert answer.json()["error"]["bursar"]["code"] == "shutting_down"
        await asyncio.gather(*reading)
        await house.serving
        assert len(house.rows()) == 1
