"""Calls over aiohttp: google-genai's asynchronous ones, and those of agents that use it themselves."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp
import httpx2
import pytest
from aiohttp import ClientResponse, ClientSession
from google.genai import errors, types
from sdk_room import CHAT, FLASH, GPT, MESSAGES, Room, Script, answered, price_of, python

import bursar
from bursar.doors.sdk import aiohttp_client

FAULT = "x-sim-fault"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": GPT}
USAGE = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
    }
).encode()


def stream_of(words: int) -> list[bytes]:
    """The events of a stream, one word in each, its usage last."""
    part = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    events: list[dict[str, Any]] = [{**CHUNK, "choices": [part]} for _ in range(words)]
    events.append({**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events.append({**CHUNK, "choices": [], "usage": USAGE})
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


def scripted(room: Room, script: Script, more: str = "", **options: Any) -> str:
    """Open the door on a provider of our own making. Where its chat is."""
    room.config.write_text(f"providers:\n  openai: {{base_url: '{script.url}/v1'}}\n" + more)
    room.init(**options)
    return f"{script.url}/v1/chat/completions"


def chat_url(room: Room) -> str:
    return f"{room.sims.openai.url}/v1/chat/completions"


def client(**options: Any) -> ClientSession:
    return ClientSession(headers={"authorization": "Bearer sk-test"}, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


STREAM: dict[str, Any] = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}


# --- google-genai -----------------------------------------------------------------------------------------------


async def test_google_genai_over_aiohttp_is_charged_once(room: Room) -> None:
    """Whole and streamed, each call is one row that costs what the provider bills; httpx has no part in it."""
    google = room.google()
    assert google._api_client._use_aiohttp()
    with bursar.task("gemini", budget="1") as t:
        await google.aio.models.generate_content(model=FLASH, contents="Hello")
        stream = await google.aio.models.generate_content_stream(model=FLASH, contents="Hello")
        texts = [chunk.text async for chunk in stream]
    await google.aio.aclose()
    assert "".join(text or "" for text in texts)
    rows = room.rows(task=t.id)
    assert [(row.provider, row.door, row.status, row.stream, row.estimated) for row in rows] == [
        ("google", "sdk", "ok", False, False),
        ("google", "sdk", "ok", True, False),
    ]
    assert sum(row.cost_nanousd or 0 for row in rows) == room.price("google") > 0
    assert len(room.served("google")) == len(room.rows()) == 2
    assert t.spent * 10**9 == room.price("google")


async def test_errors_of_google_genai_are_its_own(room: Room) -> None:
    """What the provider refuses costs nothing, and the SDK says it as ever."""
    google = room.google(headers={FAULT: "400"})
    with pytest.raises(errors.ClientError):
        await google.aio.models.generate_content(model=FLASH, contents="Hello")
    await google.aio.aclose()
    row = room.row()
    assert (row.status, row.http_status, row.cost_nanousd) == ("error", 400, 0)


async def test_google_genai_neither_swallows_nor_repeats_a_refusal(room: Room) -> None:
    """With its retries on, whole and streamed: it reaches the caller, and nothing is sent."""
    google = room.google(retry_options=types.HttpRetryOptions(attempts=3))
    with bursar.task("broke", budget="0.000001"):
        with pytest.raises(bursar.BudgetExceeded):
            await google.aio.models.generate_content(model=FLASH, contents="Hello")
        stream = await google.aio.models.generate_content_stream(model=FLASH, contents="Hello")
        with pytest.raises(bursar.BudgetExceeded):
            await anext(aiter(stream))
    await google.aio.aclose()
    assert room.sims.served() == 0
    assert room.rows() == []
    assert room.held() == 0


# --- aiohttp itself: whole answers ------------------------------------------------------------------------------


async def test_whole_answers_cost_what_charge_response_says(room: Room) -> None:
    """However they are asked for and read."""
    url = chat_url(room)
    bodies: list[bytes] = []
    async with client() as session:
        async with session.post(url, json=CHAT) as response:
            bodies.append(await response.read())
        async with session.post(url, data=json.dumps(CHAT).encode()) as response:
            bodies.append((await response.text()).encode())
        response = await session.request("POST", url, data=json.dumps(CHAT))
        bodies.append(json.dumps(await response.json()).encode())
        async with session.post(url, json=CHAT) as response:
            bodies.append(b"".join([chunk async for chunk in response.content.iter_chunked(7)]))
        headers = {"anthropic-version": "2023-06-01", "x-api-key": "k"}
        async with session.post(f"{room.sims.anthropic.url}/v1/messages", json=MESSAGES, headers=headers) as response:
            message = await response.read()
    rows = room.rows()
    assert [row.cost_nanousd for row in rows] == [
        *(bursar.charge_response("openai", body).amount for body in bodies),
        bursar.charge_response("anthropic", message).amount,
    ]
    assert all(row.cost_nanousd for row in rows)
    assert {(row.status, row.estimated, row.http_status) for row in rows} == {("ok", False, 200)}


async def test_a_row_is_there_before_its_client_has_the_answer(room: Room) -> None:
    """What a client has seen is in the books."""
    async with client() as session, session.post(chat_url(room), json=CHAT) as response:
        await response.read()
        assert len(room.rows()) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("decoded", [True, False])
async def test_a_compressed_answer_is_read(closed_room: Room, script: Script, encoding: str, decoded: bool) -> None:
    """Where aiohttp decodes it, and where the client does; it was asked for only in the first case."""
    url = scripted(closed_room, script)
    script.body = gzip.compress(ANSWER) if encoding == "gzip" else zlib.compress(ANSWER)
    script.headers.append(("content-encoding", encoding))
    async with ClientSession(auto_decompress=decoded) as session, session.post(url, json=CHAT) as response:
        body = await response.read()
    assert body == (ANSWER if decoded else script.body)
    assert closed_room.row().cost_nanousd == bursar.charge_response("openai", ANSWER).amount
    assert script.seen[0].header["accept-encoding"] == ("gzip, deflate" if decoded else "identity")


async def test_a_file_sent_as_a_form_arrives_whole(closed_room: Room, script: Script) -> None:
    """The model is found in it."""
    scripted(closed_room, script)
    usage = {"type": "tokens", "input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
    script.body = json.dumps({"text": "hello", "usage": usage}).encode()
    sound = b"RIFF" + bytes(range(256)) * 400
    form = aiohttp.FormData({"model": "gpt-4o-mini-transcribe"})
    form.add_field("file", sound, filename="a.wav")
    url = f"{script.url}/v1/audio/transcriptions"
    async with client() as session, session.post(url, data=form) as response:
        assert (await response.json())["text"] == "hello"
    assert sound in script.seen[0].body
    assert closed_room.row().model_asked == "gpt-4o-mini-transcribe"


async def test_a_body_sent_piece_by_piece_is_left_alone(closed_room: Room, script: Script) -> None:
    """Nothing of it is known before it leaves; its answer is charged all the same."""
    url = scripted(closed_room, script)
    script.body = ANSWER

    async def pieces() -> AsyncIterator[bytes]:
        yield json.dumps(CHAT).encode()

    headers = {"content-length": str(len(json.dumps(CHAT)))}
    async with client() as session, session.post(url, data=pieces(), headers=headers) as response:
        assert await response.read() == ANSWER
    assert json.loads(script.seen[0].body) == CHAT
    assert closed_room.row().cost_nanousd == bursar.charge_response("openai", ANSWER).amount


async def test_unknown_hosts_are_untouched(closed_room: Room, script: Script) -> None:
    """The request byte for byte, and the reader is aiohttp's own."""
    script.body = ANSWER

    async def ask() -> type[Any]:
        url = f"{script.url}/v1/chat/completions"
        headers = {"x-bursar-team": "mine"}
        async with client() as session, session.post(url, json=CHAT, headers=headers) as response:
            assert await response.read() == ANSWER
            return type(response.content)

    readers = [await ask()]
    closed_room.init()
    readers.append(await ask())
    assert readers == [aiohttp.StreamReader] * 2
    assert script.seen[0] == script.seen[1]
    assert closed_room.rows() == []


async def test_a_request_that_need_not_change_keeps_its_bytes(closed_room: Room, script: Script) -> None:
    """A whole call without a budget is sent as it was written; headers of ours are not the provider's business."""
    script.body = ANSWER
    sent = json.dumps(CHAT, indent=3).encode()
    headers = {"content-type": "application/json"}
    url = f"{script.url}/v1/chat/completions?x=%2F1"
    async with ClientSession(headers=headers) as session:
        await (await session.post(url, data=sent)).read()
        scripted(closed_room, script)
        await (await session.post(url, data=sent, headers={"X-Bursar-Team": "search"})).read()
    first, second = script.seen
    assert first.body == second.body == sent
    assert first.path == second.path
    assert {name for name in second.header if first.header.get(name) != second.header[name]} <= {"accept-encoding"}
    assert closed_room.row().team == "search"


async def test_a_ladder_changes_what_is_sent(closed_room: Room) -> None:
    """Another model in the body, and for Gemini in the path."""
    room = closed_room
    models = "{gpt-4o: gpt-4o-mini, gemini-2.5-pro: gemini-2.5-flash}"
    room.configure(f"budgets:\n  f: {{match: {{team: f}}, limit: $10, ladder: [{{at: 1%, model: {models}}}]}}\n")
    room.init(team="f")
    bursar.charge("spend", price="0.20")
    async with client() as session, session.post(chat_url(room), json={**CHAT, "model": "gpt-4o"}) as response:
        assert (await response.json())["model"].startswith("gpt-4o-mini")
    google = room.google()
    await google.aio.models.generate_content(model="gemini-2.5-pro", contents="Hello")
    await google.aio.aclose()
    assert [call.model for call in room.served("google")] == [FLASH]
    rows = room.rows(kind="model")
    assert [row.model_asked for row in rows] == ["gpt-4o", "gemini-2.5-pro"]
    assert [row.cost_nanousd for row in rows] == [room.price(), room.price("google")]


# --- streams ----------------------------------------------------------------------------------------------------


async def by_line(response: ClientResponse) -> bytes:
    return b"".join([line async for line in response.content])


async def by_any(response: ClientResponse) -> bytes:
    return b"".join([chunk async for chunk in response.content.iter_any()])


async def by_chunk(response: ClientResponse) -> bytes:
    return b"".join([chunk async for chunk, _ in response.content.iter_chunks()])


async def by_number(response: ClientResponse) -> bytes:
    return b"".join([chunk async for chunk in response.content.iter_chunked(5)])


async def by_event(response: ClientResponse) -> bytes:
    events: list[bytes] = []
    while not response.content.at_eof():
        events.append(await response.content.readuntil(b"\n\n"))
    return b"".join(events)


async def exactly(response: ClientResponse) -> bytes:
    start = await response.content.readexactly(10)
    rest = await response.content.read()
    return start + rest


async def at_hand(response: ClientResponse) -> bytes:
    found = await response.content.readany()
    while not response.content.at_eof():
        await asyncio.sleep(0.005)
        found += response.content.read_nowait()
    return found


READERS = [by_line, by_any, by_chunk, by_number, by_event, exactly, at_hand]


@pytest.mark.parametrize("read", READERS)
async def test_streams_arrive_whole_however_they_are_read(
    closed_room: Room, script: Script, read: Callable[[ClientResponse], Awaitable[bytes]]
) -> None:
    """Every way to read gives the bytes that were sent, and costs what they say."""
    url = scripted(closed_room, script)
    script.headers, script.body = [("content-type", "text/event-stream")], stream_of(30)
    async with client() as session, session.post(url, json=STREAM) as response:
        found = await asyncio.wait_for(read(response), 10)
        assert response.content.at_eof()
    assert found == b"".join(script.body)
    row = closed_room.row()
    assert (row.status, row.stream, row.estimated) == ("ok", True, False)
    assert row.cost_nanousd == bursar.charge_response("openai", found).amount
    assert row.first_token_ms is not None


async def test_chunks_of_the_transfer_stay_apart(room: Room) -> None:
    """``iter_chunks`` says where each ends, as without us."""
    async with client() as session:
        async with session.post(chat_url(room), json=STREAM) as response:
            parts = [(chunk, ends) async for chunk, ends in response.content.iter_chunks()]
        bursar.shutdown()
        async with session.post(chat_url(room), json=STREAM) as response:
            plain = [(chunk, ends) async for chunk, ends in response.content.iter_chunks()]
    assert sum(ends for _, ends in parts) == sum(ends for _, ends in plain) > 1


async def test_a_client_that_did_not_ask_for_usage_sees_none(room: Room) -> None:
    """The provider is asked for it, so that the row is exact."""
    async with client() as session, session.post(chat_url(room), json={**CHAT, "stream": True}) as response:
        text = await response.text()
    assert '"usage":{' not in text
    assert text.rstrip().endswith("[DONE]")
    row = room.row()
    assert (row.status, row.estimated, row.cost_nanousd) == ("ok", False, room.price())


@pytest.mark.filterwarnings("error:Sending a large body")
@pytest.mark.parametrize("words", [10, 400_000])
async def test_a_request_that_was_changed_arrives_whole(closed_room: Room, script: Script, words: int) -> None:
    """A short one, and one that aiohttp sends piece by piece; both may be sent again by the user's own middleware."""
    url = scripted(closed_room, script)
    asked = {**CHAT, "stream": True, "messages": [{"role": "user", "content": "word " * words}]}
    script.headers, script.body = [("content-type", "text/event-stream")], stream_of(3)

    async def twice(request: Any, handler: Any) -> ClientResponse:
        await (await handler(request)).read()
        return await handler(request)

    body = io.BytesIO(json.dumps(asked).encode())
    async with client(middlewares=(twice,)) as session, session.post(url, data=body) as response:
        await response.read()
    assert [json.loads(seen.body) for seen in script.seen] == [{**asked, "stream_options": {"include_usage": True}}] * 2
    assert [row.model_asked for row in closed_room.rows()] == [GPT, GPT]


async def test_a_stream_left_at_its_last_event_is_whole(closed_room: Room, script: Script) -> None:
    """Clients do not wait for the end of the body."""
    url = scripted(closed_room, script)
    script.headers, script.body = [("content-type", "text/event-stream")], stream_of(5)
    async with client() as session, session.post(url, json=STREAM) as response:
        async for line in response.content:
            if b"[DONE]" in line:
                break
    row = closed_room.row()
    assert (row.status, row.estimated) == ("ok", False)
    assert row.cost_nanousd == bursar.charge_response("openai", b"".join(script.body)).amount


@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")  # aiohttp's, of what is forgotten
@pytest.mark.parametrize("how", ["released", "closed", "cancelled", "forgotten", "timed out"])
async def test_a_stream_left_early_is_charged_for_what_was_seen(room: Room, how: str) -> None:
    """By leaving its context, by closing it, by cancelling its task, by dropping it, by the client's own limit."""
    headers = {FAULT: "slow=30000"}  # the first chunk comes at once, the next in half a minute
    limit = aiohttp.ClientTimeout(total=0.5 if how == "timed out" else 60)
    session = client(timeout=limit)

    async def read(started: asyncio.Event) -> None:
        async with session.post(chat_url(room), json=STREAM, headers=headers) as response:
            async for _ in response.content.iter_any():
                started.set()

    with bursar.task("left", budget="1") as t:
        match how:
            case "cancelled":
                started = asyncio.Event()
                task = asyncio.create_task(read(started))
                await started.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            case "timed out":
                with pytest.raises(TimeoutError):
                    await read(asyncio.Event())
            case "released":
                async with session.post(chat_url(room), json=STREAM, headers=headers) as response:
                    await response.content.readany()
            case _:
                response = await session.post(chat_url(room), json=STREAM, headers=headers)
                await response.content.readany()
                if how == "closed":
                    response.close()
                del response
    await session.close()  # a response that is forgotten is one of its session's until then
    await until(lambda: gc.collect() >= 0 and room.rows() != [])
    row = room.row()
    assert (row.status, row.estimated) == ("cut" if how == "timed out" else "cancelled", True)
    assert row.cost_nanousd
    assert t.spent * 10**9 == row.cost_nanousd
    assert room.held() == 0


async def test_a_read_that_was_cancelled_may_be_made_again(closed_room: Room, script: Script) -> None:
    """As with aiohttp itself: nothing is lost, and the call has not ended."""
    url = scripted(closed_room, script)
    script.headers, script.body = [("content-type", "text/event-stream")], stream_of(6)
    script.pause_s = 0.05
    found = b""
    stopped = 0
    async with client() as session, session.post(url, json=STREAM) as response:
        while not response.content.at_eof():
            try:
                found += await asyncio.wait_for(response.content.readany(), 0.02)
            except TimeoutError:
                stopped += 1
    assert stopped > 2
    assert found == b"".join(script.body)
    row = closed_room.row()
    assert (row.status, row.cost_nanousd) == ("ok", bursar.charge_response("openai", found).amount)


async def test_a_stream_that_the_provider_breaks_off_is_charged_as_cut(room: Room) -> None:
    """The client gets its error, the books an estimate of what came."""
    async with client() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.post(chat_url(room), json=STREAM, headers={FAULT: "cut=4"}) as response:
                await response.read()
    row = room.row()
    assert (row.status, row.estimated) == ("cut", True)
    assert row.cost_nanousd


@pytest.mark.parametrize(("limit", "status"), [("$0.01", "ok"), ("$0.0025", "ended")])
async def test_a_stream_that_outgrows_its_hold_asks_for_more_and_ends_cleanly_without(
    closed_room: Room, script: Script, limit: str, status: str
) -> None:
    """With money it runs to its end; without, it is ended in its own dialect. Both cost what came, within the limit."""
    more = f"budgets:\n  stream: {{match: {{team: writers}}, limit: {limit}, streams: extend}}\n"
    url = scripted(closed_room, script, more, team="writers")
    part = {"index": 0, "delta": {"content": "word " * 50}, "finish_reason": None}
    event = b"data: " + json.dumps({**CHUNK, "choices": [part]}).encode() + b"\n\n"
    last = stream_of(0)
    last[1] = last[1].replace(b'"completion_tokens": 12, "total_tokens": 32', b'"completion_tokens": 8000')
    script.headers, script.body, script.pause_s = [("content-type", "text/event-stream")], [event] * 160 + last, 0.002
    async with client() as session, session.post(url, json=STREAM) as response:
        text = await response.text()
    row = closed_room.row()
    assert row.status == status
    assert text.rstrip().endswith("[DONE]")
    if status == "ok":
        assert text.encode() == b"".join(script.body)
        assert row.cost_nanousd == bursar.charge_response("openai", text.encode()).amount
    else:
        assert 1_000 < text.count("word") < 8_000
        assert '"length"' in text
        assert row.estimated
        assert row.cost_nanousd is not None
        assert 0 < row.cost_nanousd < 2_500_000
    assert closed_room.held() == 0


# --- what goes wrong --------------------------------------------------------------------------------------------


async def test_a_refusal_is_raised_before_anything_is_sent(room: Room) -> None:
    """Past every handler of an Exception."""
    async with client() as session:

        async def persist() -> None:
            for _ in range(3):
                with suppress(Exception):  # what an agent's loop does
                    await session.post(chat_url(room), json=CHAT)

        with bursar.task("broke", budget="0.000001"), pytest.raises(bursar.BudgetExceeded) as caught:
            await persist()
    assert caught.value.code == "budget_exceeded"
    assert room.sims.served() == 0
    assert room.rows() == []
    assert room.held() == 0


async def test_a_connection_that_cannot_be_made_costs_nothing(room: Room) -> None:
    """What was held is given back."""
    room.config.write_text("providers:\n  openai: {base_url: 'http://127.0.0.1:9/v1'}\n")
    room.init()
    async with client() as session:
        with bursar.task("nobody", budget="1") as t, pytest.raises(aiohttp.ClientConnectorError):
            await session.post("http://127.0.0.1:9/v1/chat/completions", json=CHAT)
    assert t.spent == 0
    assert room.rows() == []
    assert room.held() == 0


@pytest.mark.parametrize("limit", [aiohttp.ClientTimeout(total=0.2), aiohttp.ClientTimeout(sock_read=0.2)])
async def test_an_answer_that_does_not_come_in_time_is_charged_by_estimate(
    room: Room, limit: aiohttp.ClientTimeout
) -> None:
    """It may have been made: the input is charged, and the row says what happened."""
    async with client(timeout=limit) as session:
        with pytest.raises(TimeoutError):
            await session.post(chat_url(room), json=CHAT, headers={FAULT: "slow=30000"})
    row = room.row()
    assert (row.status, row.estimated) == ("error", True)
    assert "Timeout" in row.error
    assert row.cost_nanousd
    assert room.held() == 0


async def test_a_call_cancelled_before_its_answer_is_charged_by_estimate(room: Room) -> None:
    """And leaves no hold."""
    async with client() as session:
        with bursar.task("cancelled", budget="1"):
            task = asyncio.create_task(
                session._request("POST", chat_url(room), json=CHAT, headers={FAULT: "slow=30000"})
            )
            await until(lambda: room.sims.served() > 0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    row = room.row()
    assert (row.status, row.estimated) == ("cancelled", True)
    assert room.held() == 0


@pytest.mark.parametrize("fault", ["outgoing", "Answer"])
async def test_a_fault_of_ours_breaks_nothing(closed_room: Room, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """In "observe" the call goes on, whatever fails beside it."""
    closed_room.init(mode="observe")

    def fail(*arguments: Any, **options: Any) -> Any:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(aiohttp_client, fault, fail)
    async with client() as session, session.post(chat_url(closed_room), json=CHAT) as response:
        assert (await response.json())["choices"]


async def test_observed_calls_are_counted_and_never_refused(closed_room: Room) -> None:
    """A budget that has nothing left does not stand in their way."""
    closed_room.init(mode="observe")
    async with client() as session:
        with bursar.task("broke", budget="0.000001"):
            async with session.post(chat_url(closed_room), json=CHAT) as response:
                await response.read()
    assert closed_room.row().cost_nanousd == closed_room.price()


# --- together with others ---------------------------------------------------------------------------------------


class OverAiohttp(httpx2.AsyncBaseTransport):
    """A transport as some SDKs have it: httpx above, aiohttp below."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async with self._session.request(
            request.method, str(request.url), headers=dict(request.headers), data=await request.aread()
        ) as response:
            content = await response.read()
        return httpx2.Response(response.status, headers={"content-type": response.content_type}, content=content)


async def test_httpx_over_aiohttp_is_charged_once(room: Room) -> None:
    """The call is the one that the SDK made; what aiohttp does beside it is still seen."""
    async with client() as session:
        http = httpx2.AsyncClient(transport=OverAiohttp(session))
        async with room.openai_async(http_client=http) as openai:
            await openai.chat.completions.create(**CHAT)
        assert len(room.rows()) == 1
        await (await session.post(chat_url(room), json=CHAT)).read()
    assert [row.cost_nanousd for row in room.rows()] == [price_of("openai", call) for call in room.served()]


async def test_middlewares_of_the_user_come_first(closed_room: Room, script: Script) -> None:
    """What they make of a request is what is charged; one that tries again makes two attempts."""
    url = scripted(closed_room, script)
    script.body, script.status = b'{"error": {"message": "busy"}}', 503

    async def twice(request: Any, handler: Any) -> ClientResponse:
        await request.update_body(json.dumps({**CHAT, "model": "gpt-4o"}).encode())
        first = await handler(request)
        first.release()
        script.body, script.status = ANSWER, 200
        return await handler(request)

    async with ClientSession(middlewares=(twice,)) as session, session.post(url, json=CHAT) as response:
        assert await response.read() == ANSWER
    rows = closed_room.rows()
    assert [(row.model_asked, row.status, row.http_status) for row in rows] == [
        ("gpt-4o", "error", 503),
        ("gpt-4o", "ok", 200),
    ]
    assert [row.cost_nanousd for row in rows] == [0, bursar.charge_response("openai", ANSWER).amount]


async def test_an_attempt_that_a_middleware_gave_up_is_charged(closed_room: Room, script: Script) -> None:
    """It may have been made, although the answer came from the next one."""
    url = scripted(closed_room, script)
    script.body, script.delay_s = ANSWER, 0.5

    async def impatient(request: Any, handler: Any) -> ClientResponse:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                return await handler(request)
        script.delay_s = 0
        return await handler(request)

    async with client(middlewares=(impatient,)) as session, session.post(url, json=CHAT) as response:
        assert await response.read() == ANSWER
    rows = closed_room.rows()
    assert sorted((row.status, row.estimated) for row in rows) == [("cancelled", True), ("ok", False)]
    assert all(row.cost_nanousd for row in rows)
    assert closed_room.held() == 0


async def test_two_that_read_at_once_are_told_and_the_answer_is_counted(closed_room: Room, script: Script) -> None:
    """aiohttp refuses the second reader; the first goes on."""
    url = scripted(closed_room, script)
    script.headers, script.body, script.pause_s = [("content-type", "text/event-stream")], stream_of(6), 0.05
    async with client() as session, session.post(url, json=STREAM) as response:
        first = asyncio.create_task(response.content.read())
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="another coroutine"):
            await response.content.readany()
        assert await first == b"".join(script.body)
    assert (closed_room.row().status, closed_room.row().estimated) == ("ok", False)


async def test_a_gateway_of_ours_is_told_what_a_request_is_for(closed_room: Room, script: Script) -> None:
    """It charges the call; here nothing is."""
    script.body = ANSWER
    closed_room.init(team="search")
    from bursar.doors.sdk.session import required

    hosts = required().hosts
    hosts._gateways.add(script.url.removeprefix("http://"))
    async with client() as session:
        with bursar.task("told", id="told-1"):
            await (await session.post(f"{script.url}/v1/chat/completions", json=CHAT)).read()
    assert script.seen[0].header["x-bursar-task"] == "told-1"
    assert script.seen[0].header["x-bursar-team"] == "search"
    assert closed_room.rows() == []


def test_shutdown_leaves_the_library_as_it_was(closed_room: Room) -> None:
    """And opening the door twice hooks it once."""
    before = ClientSession._request
    closed_room.init()
    closed_room.init()
    hooked = ClientSession._request
    assert hooked is not before
    assert hooked._bursar_original is before  # type: ignore[attr-defined]
    bursar.shutdown()
    assert ClientSession._request is before


def test_nothing_is_imported_for_it_and_a_later_import_is_seen(closed_room: Room) -> None:
    """The library is hooked when the program imports it."""
    done = python(
        f"""
import json, sys, bursar
bursar.init(data={str(closed_room.path)!r}, config={str(closed_room.config)!r})
before = [name for name in ("aiohttp", "botocore") if name in sys.modules]
import aiohttp
hooked = hasattr(aiohttp.ClientSession._request, "_bursar_original")
import botocore.client
botocore_hooked = hasattr(botocore.client.BaseClient._make_request, "_bursar_original")
bursar.shutdown()
after = [hasattr(each, "_bursar_original") for each in (aiohttp.ClientSession._request, botocore.client.BaseClient._make_request)]
print(json.dumps([before, hooked, botocore_hooked, after]))
"""
    )
    assert answered(done) == [[], True, True, [False, False]]
