"""Calls of the official SDKs through the door: what they cost, whatever way they end."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google.genai import types
from sdk_room import CHAT, EMBEDDING, FLASH, GPT, HAIKU, MESSAGES, QUESTION, Room, Script, price_of

import bursar

FAULT = "x-sim-fault"


def cost(room: Room) -> int:
    return sum(row.cost_nanousd or 0 for row in room.rows())


# --- whole answers ----------------------------------------------------------------------------------------------


def test_whole_answers_cost_what_charge_response_says(room: Room) -> None:
    """OpenAI, Anthropic and Gemini, chat and responses and embeddings: each row has the charge of the answer itself."""
    client = room.openai()
    raw = [
        client.chat.completions.with_raw_response.create(**CHAT),
        client.responses.with_raw_response.create(model=GPT, input="Hello"),
        client.embeddings.with_raw_response.create(model=EMBEDDING, input=["one", "two"]),
    ]
    bodies = [("openai", each.http_response.content) for each in raw]
    message = room.anthropic().messages.with_raw_response.create(**MESSAGES)
    bodies.append(("anthropic", message.http_response.content))
    expected = [bursar.charge_response(provider, body).amount for provider, body in bodies]
    room.google().models.generate_content(model=FLASH, contents="Hello")
    rows = room.rows()
    assert [row.cost_nanousd for row in rows[:4]] == expected
    assert None not in expected
    assert rows[4].cost_nanousd == room.price("google") > 0
    assert [row.provider for row in rows] == ["openai", "openai", "openai", "anthropic", "google"]
    assert [row.operation for row in rows[:3]] == ["chat_completions", "responses", "embeddings"]
    assert {(row.door, row.status, row.estimated, row.number) for row in rows} == {("sdk", "ok", False, 1)}


async def test_asynchronous_clients_cost_the_same(room: Room) -> None:
    """All three SDKs asynchronously, whole and streamed."""
    async with room.openai_async() as client:
        await client.chat.completions.create(**CHAT)
        async for _ in await client.chat.completions.create(**CHAT, stream=True):
            pass
        async with client.responses.stream(model=GPT, input="Hello") as stream:
            await stream.get_final_response()
    async with room.anthropic_async() as claude:
        await claude.messages.create(**MESSAGES)
        async with claude.messages.stream(**MESSAGES) as stream:
            await stream.get_final_message()
    http = httpx2.AsyncClient()
    google = room.google(httpx_async_client=http)
    await google.aio.models.generate_content(model=FLASH, contents="Hello")
    async for _ in await google.aio.models.generate_content_stream(model=FLASH, contents="Hello"):
        pass
    await google.aio.aclose()
    await http.aclose()  # the SDK leaves a client alone that it was given
    for provider, count in (("openai", 3), ("anthropic", 2), ("google", 2)):
        rows = room.rows(provider=provider)
        assert [row.cost_nanousd for row in rows] == [price_of(provider, call) for call in room.served(provider)]
        assert len(rows) == count
        assert {(row.status, row.estimated) for row in rows} == {("ok", False)}


# --- streams ----------------------------------------------------------------------------------------------------


def test_streams_read_to_their_end_cost_what_the_provider_bills(room: Room) -> None:
    """Plain iteration and the helpers of all three SDKs."""
    client = room.openai()
    for _ in client.chat.completions.create(**CHAT, stream=True):
        pass
    with client.chat.completions.stream(**CHAT) as stream:
        stream.get_final_completion()
    with client.responses.stream(model=GPT, input="Hello") as stream:
        stream.get_final_response()
    with room.anthropic().messages.stream(**MESSAGES) as stream:
        assert "".join(stream.text_stream)
    assert list(room.google().models.generate_content_stream(model=FLASH, contents="Hello"))
    rows = room.rows()
    assert [row.cost_nanousd for row in rows] == [
        *(price_of("openai", call) for call in room.served()),
        price_of("anthropic", room.served("anthropic")[0]),
        price_of("google", room.served("google")[0]),
    ]
    assert len(rows) == 5
    assert all(row.stream and row.status == "ok" and not row.estimated and row.first_token_ms for row in rows)


def test_a_client_that_did_not_ask_for_usage_sees_none(room: Room) -> None:
    """The usage event is asked for, counted and taken out: the chunks are those of a process without Bursar."""
    client = room.openai(default_headers={"x-sim-fault": "slow=0"})
    seen = [chunk.model_dump() for chunk in client.chat.completions.create(**CHAT, stream=True)]
    asked = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    bursar.shutdown()
    plain = [chunk.model_dump() for chunk in client.chat.completions.create(**CHAT, stream=True)]
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in seen)
    assert [chunk["choices"] for chunk in seen] != []
    assert [set(chunk) for chunk in seen][:1] == [set(chunk) for chunk in plain][:1]
    assert asked[-1].usage is not None
    assert asked[-1].choices == []
    rows = room.rows()
    assert [row.units["output_tokens"] > 0 for row in rows] == [True, True]  # type: ignore[index]
    assert not any(row.estimated for row in rows)


@pytest.mark.parametrize("how", ["closed", "left", "forgotten", "broken_out_of"])
def test_a_stream_left_early_is_charged_for_what_was_seen(room: Room, how: str) -> None:
    """Closed, left by an exception, dropped on the floor, or left with ``break``: an estimate, never nothing, and no hold."""
    client = room.openai()
    with bursar.task("left", budget="1"):
        stream = client.chat.completions.create(**CHAT, stream=True)
        chunks = iter(stream)
        next(chunks)
        next(chunks)
        match how:
            case "closed":
                stream.close()
            case "left":
                with pytest.raises(KeyError), stream:
                    raise KeyError("gone")
            case "forgotten":
                del stream, chunks
                gc.collect()
            case _:
                for _ in stream:
                    break
                stream.response.close()
    row = room.row()
    assert (row.status, row.estimated) == ("cancelled", True)
    assert row.cost_nanousd is not None
    assert row.cost_nanousd > 0
    assert room.held() == 0


async def test_an_asynchronous_stream_left_early_is_charged_for_what_was_seen(room: Room) -> None:
    """Closed, and cancelled while it waits for the next chunk."""
    async with room.openai_async() as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        await anext(aiter(stream))
        await stream.close()

        started = asyncio.Event()

        async def read() -> None:
            # The first chunk has a role and no token: what is waited for after it is the first token.
            async for _ in await client.chat.completions.create(
                **CHAT, stream=True, extra_headers={FAULT: "slow=30000"}
            ):
                started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    rows = room.rows()
    assert [(row.status, row.estimated) for row in rows] == [("cancelled", True)] * 2
    assert all(row.cost_nanousd for row in rows)


async def test_an_asynchronous_stream_that_is_forgotten_is_charged(room: Room) -> None:
    """The collector ends it."""
    async with room.openai_async() as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        await anext(aiter(stream))
        del stream
        async with asyncio.timeout(5):
            while not room.rows():  # the stream and its generator hold each other: the collector must come by
                await asyncio.sleep(0.01)
                gc.collect()
        assert (room.row().status, room.held()) == ("cancelled", 0)


def test_a_stream_that_the_provider_breaks_off_is_charged_as_cut(room: Room) -> None:
    """The client gets its error, the books an estimate of what came."""
    client = room.openai()
    with pytest.raises((httpx2.HTTPError, openai.APIError)):
        for _ in client.chat.completions.create(**CHAT, stream=True, extra_headers={FAULT: "cut=4"}):
            pass
    row = room.row()
    assert (row.status, row.estimated) == ("cut", True)
    assert row.cost_nanousd


def test_a_stream_without_usage_is_counted(room: Room) -> None:
    """A provider that states none costs what its text is worth, marked as estimated."""
    list(room.openai().chat.completions.create(**CHAT, stream=True, extra_headers={FAULT: "no-usage"}))
    row = room.row()
    assert row.estimated
    assert row.cost_nanousd


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("400", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("503", openai.InternalServerError),
    ],
)
def test_what_the_provider_refuses_is_a_row_that_costs_nothing(room: Room, fault: str, error: type[Exception]) -> None:
    """The SDK's own error reaches the caller; nothing stays held."""
    with bursar.task("refused", budget="1") as t, pytest.raises(error):
        room.openai().chat.completions.create(**CHAT, extra_headers={FAULT: fault})
    row = room.row(task=t.id)
    assert (row.status, row.http_status, row.cost_nanousd) == ("error", int(fault), 0)
    assert t.spent == 0
    assert room.held() == 0


def test_errors_of_the_other_sdks(room: Room) -> None:
    """Anthropic's and Google's errors pass through as they are."""
    with pytest.raises(anthropic.RateLimitError):
        room.anthropic().messages.create(**MESSAGES, extra_headers={FAULT: "429"})
    from google.genai.errors import ServerError

    with pytest.raises(ServerError):
        room.google(headers={FAULT: "503"}).models.generate_content(model=FLASH, contents="Hello")
    assert {row.status for row in room.rows()} == {"error"}
    assert cost(room) == 0


def test_a_connection_that_cannot_be_made_costs_nothing(room: Room) -> None:
    """What provably never left is given back: no row, no spend, no hold."""
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        room.configure()
        room.config.write_text(f"providers:\n  openai: {{base_url: 'http://127.0.0.1:{port}/v1'}}\n")
        room.init()
        client = room.openai(base_url=f"http://127.0.0.1:{port}/v1")
        with bursar.task("nobody", budget="1") as t, pytest.raises(openai.APIConnectionError):
            client.chat.completions.create(**CHAT)
    assert t.spent == 0
    assert room.rows() == []
    assert room.held() == 0


def test_an_answer_that_does_not_come_in_time_is_charged_by_estimate(room: Room) -> None:
    """It was sent: the provider may bill it."""
    with bursar.task("slow", budget="1") as t, pytest.raises(openai.APITimeoutError):
        room.openai(timeout=0.2).chat.completions.create(**CHAT, extra_headers={FAULT: "hang"})
    row = room.row()
    assert (row.status, row.estimated) == ("error", True)
    assert "ReadTimeout" in row.error
    assert row.cost_nanousd
    assert t.spent > 0
    assert room.held() == 0


async def test_a_cancelled_task_leaves_no_hold(room: Room) -> None:
    """Cancelled while it waits for an answer: what was sent is charged by estimate."""
    async with room.openai_async() as client:
        with bursar.task("cancelled", budget="1"):
            before = room.sims.openai.simulator.served
            call = asyncio.create_task(client.chat.completions.create(**CHAT, extra_headers={FAULT: "hang"}))
            async with asyncio.timeout(5):
                while room.sims.openai.simulator.served == before:  # noqa: ASYNC110 - another thread's counter
                    await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    row = room.row()
    assert (row.status, row.estimated) == ("cancelled", True)
    assert row.cost_nanousd
    assert room.held() == 0


async def test_a_task_cancelled_before_it_begins_costs_nothing(room: Room) -> None:
    """Nothing was asked and nothing is booked."""
    async with room.openai_async() as client:
        call = asyncio.create_task(client.chat.completions.create(**CHAT))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert room.rows() == []


@pytest.mark.parametrize("fault", ["cut", "wrong-json"])
def test_a_whole_answer_that_is_broken_is_no_free_call(room: Room, fault: str) -> None:
    """Half an answer cannot be read: it is charged by estimate, or unpriced with a reason, never at zero."""
    with pytest.raises(Exception, match=r".") as caught:
        room.openai().chat.completions.create(**CHAT, extra_headers={FAULT: fault})
    assert isinstance(caught.value, openai.APIError | httpx2.HTTPError | json.JSONDecodeError)
    row = room.row()
    assert row.cost_nanousd != 0
    assert row.cost_nanousd is not None or row.unpriced_reason


def test_a_whole_answer_that_nobody_reads_is_no_free_call(room: Room) -> None:
    """Closed after its head: it was answered, and the provider bills it."""
    client = room.openai()
    with bursar.task("unread", budget="1"), client.chat.completions.with_streaming_response.create(**CHAT) as response:
        assert response.status_code == 200
    row = room.row()
    assert (row.status, row.estimated) == ("cancelled", True)
    assert row.cost_nanousd
    assert room.held() == 0


# --- bytes ------------------------------------------------------------------------------------------------------


def scripted_room(room: Room, script: Script) -> Room:
    room.config.write_text(f"providers:\n  openai: {{base_url: '{script.url}/v1'}}\n")
    room.init()
    return room


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


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_answer_is_read(closed_room: Room, script: Script, encoding: str) -> None:
    """The client decodes it as ever; the meter reads the same."""
    import zlib

    room = scripted_room(closed_room, script)
    script.body = gzip.compress(ANSWER) if encoding == "gzip" else zlib.compress(ANSWER)
    script.headers.append(("content-encoding", encoding))
    answer = room.openai(base_url=f"{script.url}/v1").chat.completions.create(**CHAT)
    assert answer.choices[0].message.content == "Hi"
    assert room.row().cost_nanousd == bursar.charge_response("openai", ANSWER).amount


def test_a_compressed_stream_is_read(closed_room: Room, script: Script) -> None:
    """A provider that compresses a stream although it was asked not to is counted all the same."""
    room = scripted_room(closed_room, script)
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": GPT}
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    events = [
        {**chunk, "choices": [choice]},
        {**chunk, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
    ]
    text = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    script.body = gzip.compress(text)
    script.headers = [("content-type", "text/event-stream"), ("content-encoding", "gzip")]
    client = room.openai(base_url=f"{script.url}/v1")
    with bursar.task("compressed", budget="1"):
        chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert chunks[0].choices[0].delta.content == "Hi"
    row = room.row()
    assert row.cost_nanousd == bursar.charge_response("openai", events).amount
    assert not row.estimated


def test_unknown_hosts_are_untouched(closed_room: Room, script: Script) -> None:
    """Headers in their order and the body, byte for byte as without Bursar; the answer as well."""
    body = b'{"model": "gpt-4o",  "stream": true, "messages": []}'
    headers = {"x-bursar-team": "mine", "content-type": "application/json"}
    script.headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    script.body = gzip.compress(ANSWER)

    def ask() -> httpx2.Response:
        return httpx2.post(f"{script.url}/v1/chat/completions?x=1", content=body, headers=headers)

    plain = ask()
    closed_room.init()
    seen = ask()
    first, second = script.seen
    assert first == second
    assert second.body == body
    assert second.header["x-bursar-team"] == "mine"
    assert seen.content == plain.content == ANSWER
    assert closed_room.rows() == []


def test_free_paths_are_not_calls(closed_room: Room, script: Script) -> None:
    """A list of models costs nothing and is sent as it is, but for headers that are ours alone."""
    script.body = json.dumps({"object": "list", "data": []}).encode()
    plain_client = closed_room.openai(base_url=f"{script.url}/v1")
    list(plain_client.models.list())
    room = scripted_room(closed_room, script)
    list(plain_client.models.list())
    list(room.openai(base_url=f"{script.url}/v1", default_headers={"x-bursar-team": "t"}).models.list())
    assert script.seen[0] == script.seen[1]
    assert not [name for name in script.seen[2].header if name.startswith("x-bursar")]
    assert room.rows() == []


def test_headers_of_ours_say_the_scope_and_never_reach_a_provider(closed_room: Room, script: Script) -> None:
    """On the client or on one call; a task in the code is nearer than either."""
    room = scripted_room(closed_room, script)
    script.body = ANSWER
    client = room.openai(
        base_url=f"{script.url}/v1", default_headers={"x-bursar-team": "search", "x-bursar-user": "u1"}
    )
    client.chat.completions.create(**CHAT, extra_headers={"x-bursar-user": "u2"})
    with bursar.task("inner", user="u3"):
        client.chat.completions.create(**CHAT)
    assert not [name for seen in script.seen for name in seen.header if name.startswith(("x-bursar", "baggage"))]
    assert [(row.team, row.user) for row in room.rows()] == [("search", "u2"), ("search", "u3")]


def test_a_request_that_need_not_change_keeps_its_bytes(closed_room: Room, script: Script) -> None:
    """A whole call without a budget is sent as the SDK wrote it."""
    script.body = ANSWER
    client = closed_room.openai(base_url=f"{script.url}/v1")
    client.chat.completions.create(**CHAT)
    room = scripted_room(closed_room, script)
    client.chat.completions.create(**CHAT)
    first, second = script.seen
    assert first.body == second.body
    changed = {name for name in second.header if first.header.get(name) != second.header[name]}
    assert changed <= {"accept-encoding"}
    assert len(room.rows()) == 1


def test_multipart_bodies_pass(closed_room: Room, script: Script) -> None:
    """A file upload reaches the provider whole; the model is found in it."""
    room = scripted_room(closed_room, script)
    script.body = json.dumps(
        {"text": "hello", "usage": {"type": "tokens", "input_tokens": 20, "output_tokens": 5, "total_tokens": 25}}
    ).encode()
    sound = b"RIFF" + bytes(range(256)) * 400
    client = room.openai(base_url=f"{script.url}/v1")
    answer = client.audio.transcriptions.create(model="gpt-4o-mini-transcribe", file=("a.wav", sound))
    assert answer.text == "hello"
    assert sound in script.seen[0].body
    row = room.row()
    assert row.model_asked == "gpt-4o-mini-transcribe"
    assert row.cost_nanousd or row.unpriced_reason


def test_a_body_sent_piece_by_piece_is_left_alone(closed_room: Room, script: Script) -> None:
    """Nothing of it can be known before it leaves; its answer is charged all the same."""
    room = scripted_room(closed_room, script)
    script.body = ANSWER
    data = json.dumps(CHAT).encode()

    def pieces() -> Any:
        yield data[:10]
        yield data[10:]

    answer = httpx2.post(
        f"{script.url}/v1/chat/completions",
        content=pieces(),
        headers={"content-type": "application/json", "content-length": str(len(data))},
    )
    assert answer.status_code == 200
    assert script.seen[0].body == data
    assert room.row().cost_nanousd == bursar.charge_response("openai", ANSWER).amount


@pytest.mark.parametrize(
    "body",
    [b"not json", b"[]", b'{"model": 7, "messages": "x"}', b"\xff\xfe\x00", b'{"model": "gpt-4o-mini"' + b"[" * 50_000],
)
def test_a_body_that_cannot_be_read_reaches_the_provider(closed_room: Room, script: Script, body: bytes) -> None:
    """The provider says what is wrong with it; Bursar does not stand in the way."""
    room = scripted_room(closed_room, script)
    script.status, script.body = 400, b'{"error": {"message": "no"}}'
    answer = httpx2.post(
        f"{script.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert script.seen[0].body == body
    assert room.row().cost_nanousd == 0


def test_latency_is_that_of_the_provider(room: Room) -> None:
    """From the request to the end of the answer."""
    began = time.perf_counter()
    room.openai().chat.completions.create(**CHAT, extra_headers={FAULT: "slow=150"})
    whole_ms = (time.perf_counter() - began) * 1000
    latency_ms = room.row().latency_ms
    assert latency_ms is not None
    assert 150 <= latency_ms <= whole_ms


def test_many_dialects_in_one_stream_of_calls_leave_the_sum(room: Room) -> None:
    """The sum of the rows is the sum of what the providers bill."""
    client, claude = room.openai(), room.anthropic()
    with bursar.task("sum", budget="5") as t:
        for number in range(10):
            client.chat.completions.create(**{**CHAT, "messages": [{"role": "user", "content": "x" * number * 100}]})
            claude.messages.create(**{**MESSAGES, "messages": QUESTION, "model": HAIKU})
        total = room.price("openai") + room.price("anthropic")
        assert t.spent * 10**9 == total
        assert t.remaining is not None
        assert (5 - t.remaining) * 10**9 == total
    assert cost(room) == total


def test_google_stream_with_tools(room: Room) -> None:
    """Chat sessions with automatic function calls are attempts like any other."""

    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    config = types.GenerateContentConfig(tools=[get_weather])
    room.google().models.generate_content(model=FLASH, contents="How is the weather?", config=config)
    rows = room.rows()
    assert [row.cost_nanousd for row in rows] == [price_of("google", call) for call in room.served("google")]
    assert len(rows) >= 2
