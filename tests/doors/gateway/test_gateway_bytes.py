"""What passes through stays what it was, byte for byte, both ways; and it goes where it belongs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
import pytest_asyncio
from house import (
    CHAT,
    EVERY,
    GPT,
    KEY,
    STREAMS,
    WHOLE,
    Ask,
    House,
    Script,
    assert_booked,
    gateway,
    price_of,
    scripted,
    task_name,
)

from bursar.config import ProviderSettings, Settings
from bursar.sim import Pace, Simulator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-bytes")]

CHAT_STREAM = STREAMS[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def script() -> AsyncIterator[Script]:
    async with scripted() as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory, script: Script) -> AsyncIterator[House]:
    """A gateway whose OpenAI, Anthropic and Google are one scripted provider; ``own`` is one nobody knows."""
    base = {"openai": "/v1", "anthropic": "/v1", "google": "/v1beta", "mistral": "/v1"}
    providers = {name: ProviderSettings(base_url=script.url + path) for name, path in base.items()}
    providers["own"] = ProviderSettings(base_url=f"{script.url}/deep/base")
    async with gateway(tmp_path_factory.mktemp("plain"), settings=Settings(providers=providers)) as house:
        yield house


@pytest.fixture(autouse=True)
def _fresh(script: Script) -> None:
    fresh = Script()
    script.seen, script.status, script.headers, script.body = [], fresh.status, fresh.headers, fresh.body


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [ask for ask in EVERY if ask is not CHAT_STREAM], ids=str)
async def test_the_client_gets_the_bytes_the_provider_sent(house: House, ask: Ask) -> None:
    """Every dialect, whole and streamed: the digest of what arrived is the digest of what was sent."""
    answer = await house.ask(ask)
    call = house.served(answer)
    assert answer.status_code == 200
    assert sha256(answer.content).hexdigest() == call.body_sha256
    assert len(answer.content) == call.body_bytes


async def test_a_stream_that_asks_for_usage_is_untouched(house: House) -> None:
    """Where the client itself asked for the usage, it gets the chunk and every other byte."""
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    answer = await house.ask(CHAT_STREAM, content=json.dumps(body).encode())
    assert sha256(answer.content).hexdigest() == house.served(answer).body_sha256
    assert b'"usage":{' in answer.content


async def test_only_the_usage_chunk_that_was_not_asked_for_is_missing(house: House) -> None:
    """Bursar asks for the usage of a chat stream; the client gets all the provider sent, but for that one chunk."""
    task = task_name()
    answer = await house.ask(CHAT_STREAM, x_bursar_task=task)
    call = house.served(answer)
    events = answer.content.split(b"\n\n")
    first = json.loads(events[0].removeprefix(b"data: "))
    usage = call.usage
    assert usage is not None
    hidden = call.body_bytes - len(answer.content)
    chunk = {**first, "choices": [], "usage": {"prompt_tokens": usage.input_tokens}}
    assert len(json.dumps(chunk)) / 2 < hidden < 1000, "one chunk is missing"
    assert len(events) == call.events, "one event fewer (the split adds an empty end)"
    assert b'"usage":{' not in answer.content
    assert events[-2:] == [b"data: [DONE]", b""]
    assert_booked((await house.row(task)), call, "openai")


async def test_hiding_takes_out_exactly_one_chunk(plain: House, script: Script) -> None:
    """With a stream whose bytes are known: odd line ends, comments and spacing stay; the usage chunk alone goes."""
    head = b': keep-alive\r\n\r\ndata:{"id":"c1","model":"gpt-4o-mini","choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}\n\n'
    last = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"total_tokens":12}}\n\n'
    end = b"data: [DONE]\n\n: bye"
    script.headers, script.body = [("content-type", "text/event-stream")], head + last + usage + end
    task = task_name()
    answer = await plain.ask(CHAT_STREAM, x_bursar_task=task)
    assert answer.content == head + last + end
    row = await plain.row(task)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (10, 2, False)


async def test_streams_flow_while_they_are_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each event reaches the client when the provider sends it, not when the stream has ended."""
    slow = Simulator(seed=7, pace=Pace(first_token_ms=10, tokens_per_second=150))
    async with gateway(tmp_path_factory.mktemp("flow"), sim=slow) as house:
        for ask in STREAMS[:3]:
            async with house.client.stream("POST", ask.target, headers=ask.headers, content=ask.content) as answer:
                sent = [slow.calls[-1].events_sent async for _ in answer.aiter_raw()]
            assert sent[0] < slow.calls[-1].events_sent / 3, str(ask)
            assert len(sent) > 10


async def test_error_bodies_and_headers_pass_unchanged(plain: House, script: Script) -> None:
    """A provider's refusal keeps its status, its headers, all of them, and its bytes, even where they are no JSON."""
    script.status, script.body = 418, b"<html>\xff teapot"
    script.headers = [("content-type", "text/html"), ("x-limit", "1"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
    answer = await plain.ask(WHOLE[0])
    assert (answer.status_code, answer.content) == (418, b"<html>\xff teapot")
    assert answer.headers["x-limit"] == "1"
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]


# --- requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", EVERY, ids=str)
async def test_the_provider_gets_the_bytes_the_client_sent(plain: House, script: Script, ask: Ask) -> None:
    """Odd spacing, escapes and numbers arrive as they were; only a chat stream's ``stream_options`` is added."""
    odd = json.dumps(ask.body, indent=3).encode()[:-1] + b', "extra"  : [1.50, 1e3, "\\u00e9\\/"]\n }\r\n'
    await plain.ask(ask, content=odd)
    (seen,) = script.seen
    if ask is CHAT_STREAM:
        added = b',"stream_options":{"include_usage":true}'
        assert seen.body.count(added) == 1
        assert seen.body.replace(added, b"") == odd
    else:
        assert seen.body == odd
    assert (seen.path, seen.query) == (ask.path, ask.query)


async def test_stream_options_of_the_client_stay(plain: House, script: Script) -> None:
    """Where the client has stream options of its own, ``include_usage`` joins them and nothing else changes."""
    await plain.ask(
        CHAT_STREAM, content=b'{"model":"m","stream":true,"stream_options":{"x":1, "include_usage": false},"a":1}'
    )
    assert script.seen[0].body == b'{"model":"m","stream":true,"stream_options":{"x":1, "include_usage": true},"a":1}'


async def test_headers_go_on_but_for_ours_and_the_connections(plain: House, script: Script) -> None:
    """The provider sees the client's headers, and nothing of Bursar's, of tracing baggage, or of this connection."""
    ask = WHOLE[2]
    await plain.ask(
        ask,
        x_bursar_task="t",
        x_bursar_label_a="b",
        baggage="user.id=ann",
        anthropic_beta="one,two",
        accept_encoding="gzip",
    )
    header = script.seen[0].header
    assert header["anthropic-beta"] == "one,two"
    assert header["anthropic-version"] == "2023-06-01"
    assert header["x-api-key"] == KEY
    assert header["host"] == script.url.removeprefix("http://")
    assert not [name for name in header if name.startswith("x-bursar-") or name in ("baggage", "accept-encoding")]


async def test_paths_and_queries_stay_what_they_were(plain: House, script: Script) -> None:
    """Percent-encoded characters that mean something in a URL are encoded again; queries pass untouched."""
    await plain.client.get(
        "/v1/models/a%3Fb%23c%25d%20e?after=x%2Fy&limit=2", headers={"authorization": f"Bearer {KEY}"}
    )
    assert (script.seen[0].path, script.seen[0].query) == ("/v1/models/a?b#c%d e", "after=x%2Fy&limit=2")


# --- where to ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "model", "headers"),
    [
        ("/groq/openai/v1/chat/completions", "llama-3.1-8b-instant", {}),
        ("/groq/v1/chat/completions", "llama-3.1-8b-instant", {}),
        ("/v1/chat/completions", "llama-3.1-8b-instant", {"x-bursar-provider": "groq"}),
        ("/v1/chat/completions", "groq/llama-3.1-8b-instant", {}),
    ],
)
async def test_every_way_to_name_a_provider(house: House, path: str, model: str, headers: dict[str, str]) -> None:
    """A path prefix, a header, or the model's own name: the call goes to that provider and is priced as its own."""
    task, served = task_name(), len(house.calls)
    answer = await house.client.post(
        path,
        headers={**WHOLE[0].headers, **headers, "x-bursar-task": task},
        content=json.dumps({**CHAT, "model": model}).encode(),
    )
    call = house.other.simulator.calls[-1]
    assert len(house.calls) == served
    assert call.model == "llama-3.1-8b-instant", "the provider's name is not part of the model it gets"
    assert sha256(answer.content).hexdigest() == call.body_sha256
    row = await house.row(task)
    assert (row["provider"], row["cost_nanousd"]) == ("groq", price_of("groq", call))


async def test_a_model_name_with_a_slash_is_only_split_at_a_provider(plain: House, script: Script) -> None:
    """``org/model`` goes where it would have gone anyway, and ``mistral/org/model`` keeps the rest of its name."""
    await plain.ask(WHOLE[0], content=json.dumps({**CHAT, "model": "meta-llama/Llama-3"}).encode())
    await plain.ask(WHOLE[0], content=json.dumps({**CHAT, "model": "mistral/org/small"}).encode())
    await plain.ask(
        Ask("own", "/own/v1/chat/completions", WHOLE[0].headers, CHAT),
        content=json.dumps({**CHAT, "model": "mistral/small"}).encode(),
    )
    assert [json.loads(seen.body)["model"] for seen in script.seen] == [
        "meta-llama/Llama-3",
        "org/small",
        "mistral/small",
    ]
    assert [seen.path for seen in script.seen][1:] == ["/v1/chat/completions", "/deep/base/chat/completions"]
    assert [row["provider"] for row in plain.rows()[-3:]] == ["openai", "mistral", "own"]


async def test_an_unknown_provider_is_named_with_the_known_ones(house: House) -> None:
    """A typo in x-bursar-provider is refused before anything is sent."""
    served = len(house.calls)
    answer = await house.ask(WHOLE[0], x_bursar_provider="gorq")
    assert answer.status_code == 400
    assert "'gorq' is not known" in answer.json()["error"]["message"]
    assert answer.json()["error"]["bursar"] == {"code": "bad_request", "field": "x-bursar-provider"}
    assert len(house.calls) == served


# --- what is booked ---------------------------------------------------------------------------------------------


async def test_images_are_priced_where_the_answer_states_usage(plain: House, script: Script) -> None:
    """An image's tokens are charged as the response states them; without usage the row is unpriced, with a reason."""
    details = {"text_tokens": 10, "image_tokens": 0}
    stated = {"input_tokens": 10, "output_tokens": 1056, "total_tokens": 1066, "input_tokens_details": details}
    request = {"model": "gpt-image-1", "prompt": "a cat"}
    paid, silent = task_name(), task_name()
    ask = Ask("openai", "/v1/images/generations", WHOLE[0].headers, request)
    script.body = json.dumps({"created": 1, "data": [], "usage": stated}).encode()
    answer = await plain.ask(ask, x_bursar_task=paid)
    script.body = b'{"created": 1, "data": []}'
    await plain.ask(ask, x_bursar_task=silent)
    assert answer.json()["usage"] == stated
    row = await plain.row(paid)
    assert row["units"] == {"input_tokens": 10, "output_tokens": 1056, "output_image_tokens": 1056}
    assert row["cost_nanousd"] == 10 * 5_000 + 1056 * 40_000, "USD 5 and 40 per million tokens"
    unpriced = await plain.row(silent)
    assert (unpriced["cost_nanousd"], unpriced["unpriced_reason"]) == (None, "the response states no usage")


async def test_an_unknown_path_is_passed_on_and_booked(plain: House, script: Script) -> None:
    """A POST nobody described: priced if its answer is unmistakable, else unpriced; never left out, never zero."""
    known, unknown, form = task_name(), task_name(), task_name()
    ask = Ask("openai", "/v1/new/thing", WHOLE[0].headers, {"model": GPT, "stuff": 1})
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    script.body = json.dumps({"object": "chat.completion", "model": GPT, "choices": [], "usage": usage}).encode()
    await plain.ask(ask, x_bursar_task=known)
    script.body = b"\x00\x01 not JSON"
    answer = await plain.ask(ask, x_bursar_task=unknown)
    upload = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b--\r\n'
    await plain.ask(
        Ask("openai", "/v1/audio/transcriptions", WHOLE[0].headers, {}),
        content=upload,
        content_type="multipart/form-data; boundary=b",
        x_bursar_task=form,
    )
    assert answer.content == b"\x00\x01 not JSON"
    priced, unpriced, audio = [await plain.row(task) for task in (known, unknown, form)]
    assert (priced["operation"], priced["cost_nanousd"]) == ("passthrough", 1000 * 150 + 10 * 600)
    assert unpriced["cost_nanousd"] is None
    assert unpriced["unpriced_reason"]
    assert (audio["model_asked"], audio["cost_nanousd"]) == ("whisper-1", None)
    assert script.seen[2].body == upload


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/gpt-4o-mini"),
        ("DELETE", "/v1/files/f1"),
        ("POST", "/v1/files"),
        ("POST", "/v1/messages/count_tokens"),
        ("POST", "/v1beta/models/gemini-2.5-flash:countTokens"),
        ("POST", "/v1/messages/batches/b_1/cancel"),
        ("POST", "/v1/responses/r1/cancel"),
        ("HEAD", "/v1/models"),
    ],
)
async def test_free_requests_pass_and_are_not_booked(plain: House, script: Script, method: str, path: str) -> None:
    """Reading, deleting, uploading, counting and giving up a batch cost nothing: passed on, no row."""
    before = len(plain.rows())
    body = b"" if method in ("GET", "HEAD") else b"any bytes at all \xff"
    answer = await plain.client.request(method, path, content=body, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert (script.seen[-1].method, script.seen[-1].path, script.seen[-1].body) == (method, path, body)
    assert len(plain.rows()) == before
