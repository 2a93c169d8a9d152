"""The official SDKs, unmodified but for their base URL, through the gateway: every call is booked as it was billed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types
from house import FLASH, GPT, HAIKU, KEY, House, assert_booked, gateway, task_name

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("gateway-sdks")]

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
RESPONSES_TOOL: Any = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}
CLAUDE_TOOL: Any = {"name": "get_weather", "input_schema": WEATHER}
GEMINI_TOOL = types.Tool(
    function_declarations=[types.FunctionDeclaration(name="get_weather", parameters_json_schema=WEATHER)]
)
QUESTION: Any = [{"role": "user", "content": "How is the weather?"}]
LONG: Any = [{"role": "user", "content": "The same words again. " * 400}]

Wrong = Callable[..., Awaitable[Any]]


def openai_options(house: House, task: str) -> dict[str, Any]:
    return {"api_key": KEY, "base_url": f"{house.url}/v1", "max_retries": 0, "default_headers": {"x-bursar-task": task}}


def anthropic_options(house: House, task: str) -> dict[str, Any]:
    return {"api_key": KEY, "base_url": house.url, "max_retries": 0, "default_headers": {"x-bursar-task": task}}


def gemini_client(house: House, task: str, key: str = KEY) -> genai.Client:
    options = types.HttpOptions(base_url=house.url, headers={"x-bursar-task": task})
    return genai.Client(api_key=key, http_options=options)


def booked(house: House, task: str, since: int, provider: str, count: int) -> list[dict[str, Any]]:
    """The task's rows, each checked against what the simulator billed for it."""
    rows = house.rows(task)
    billed = [call for call in house.calls[since:] if call.usage is not None]
    assert len(rows) == len(billed) == count
    for row, call in zip(rows, billed, strict=True):
        assert_booked(row, call, provider)
    return rows


async def test_openai_sync(house: House) -> None:
    """The sync client: chat whole and streamed, with and without asking for usage, tools, embeddings, responses."""
    task, since = task_name(), len(house.calls)

    def talk() -> list[Any]:
        with openai.OpenAI(**openai_options(house, task)) as client:
            whole = client.chat.completions.create(model=GPT, messages=QUESTION)
            plain = list(client.chat.completions.create(model=GPT, messages=QUESTION, stream=True))
            asked = list(
                client.chat.completions.create(
                    model=GPT, messages=QUESTION, stream=True, stream_options={"include_usage": True}
                )
            )
            tool = client.chat.completions.create(model=GPT, messages=QUESTION, tools=[CHAT_TOOL])
            vectors = client.embeddings.create(model="text-embedding-3-small", input=["a cat", "a dog"])
            answer = client.responses.create(model=GPT, input="Hello")
            return [whole, plain, asked, tool, vectors, answer]

    whole, plain, asked, tool, vectors, answer = await asyncio.to_thread(talk)
    text = whole.choices[0].message.content
    assert text == "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    assert text == "".join(chunk.choices[0].delta.content or "" for chunk in asked if chunk.choices)
    assert all(chunk.usage is None and chunk.choices for chunk in plain), "a usage that was not asked for is hidden"
    assert asked[-1].usage == whole.usage
    assert json.loads(tool.choices[0].message.tool_calls[0].function.arguments)
    assert len(vectors.data) == 2
    assert answer.output_text
    rows = booked(house, task, since, "openai", 6)
    assert [row["stream"] for row in rows] == [False, True, True, False, False, False]
    assert rows[3]["tools"] == ["get_weather"]
    assert [row["operation"] for row in rows[3:]] == ["chat_completions", "embeddings", "responses"]


async def test_openai_async(house: House) -> None:
    """The async client: the stream helpers with tools, and responses with reasoning; both from the prompt cache too."""
    task, since = task_name(), len(house.calls)
    async with openai.AsyncOpenAI(**openai_options(house, task)) as client:
        async with client.chat.completions.stream(model=GPT, messages=QUESTION, tools=[CHAT_TOOL]) as stream:
            final = await stream.get_final_completion()
        whole = await client.responses.create(model="gpt-5", input="Hello", reasoning={"effort": "low"})
        async with client.responses.stream(model=GPT, input="Weather?", tools=[RESPONSES_TOOL]) as events:
            called = await events.get_final_response()
        for _ in range(2):
            await client.chat.completions.create(model=GPT, messages=LONG)
    assert final.choices[0].message.tool_calls
    assert whole.output_text
    assert called.output[0].type == "function_call"
    rows = booked(house, task, since, "openai", 5)
    assert rows[0]["tools"] == rows[2]["tools"] == ["get_weather"]
    assert rows[1]["reasoning_tokens"] > 0
    assert rows[3]["cache_read_tokens"] == 0 < rows[4]["cache_read_tokens"]
    assert rows[4]["cost_nanousd"] < rows[3]["cost_nanousd"]


async def test_anthropic_sync(house: House) -> None:
    """The sync client: messages whole and streamed, thinking with tools; counting tokens costs nothing."""
    task, since = task_name(), len(house.calls)

    def talk() -> list[Any]:
        with anthropic.Anthropic(**anthropic_options(house, task)) as client:
            whole = client.messages.create(model=HAIKU, max_tokens=3000, messages=QUESTION)
            with client.messages.stream(model=HAIKU, max_tokens=3000, messages=QUESTION) as stream:
                final = stream.get_final_message()
            tool = client.messages.create(
                model=HAIKU,
                max_tokens=3000,
                messages=QUESTION,
                tools=[CLAUDE_TOOL],
                thinking={"type": "enabled", "budget_tokens": 1024},
            )
            counted = client.messages.count_tokens(model=HAIKU, messages=QUESTION)
            return [whole, final, tool, counted]

    whole, final, tool, counted = await asyncio.to_thread(talk)
    assert final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert [block.type for block in tool.content] == ["thinking", "tool_use"]
    assert counted.input_tokens == whole.usage.input_tokens
    rows = booked(house, task, since, "anthropic", 3)
    assert rows[2]["tools"] == ["get_weather"]
    assert rows[2]["reasoning_tokens"] > 0


async def test_anthropic_async_with_caching(house: House) -> None:
    """The async client: 5 minute and 1 hour cache writes and the reads after them are charged at their own prices."""
    task, since = task_name(), len(house.calls)

    def marked(ttl: str) -> Any:
        text = f"{ttl} " * 5000
        return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}]

    async with anthropic.AsyncAnthropic(**anthropic_options(house, task)) as client:
        for ttl in ("5m", "1h", "5m", "1h"):
            system = marked(ttl)
            async with client.messages.stream(
                model=HAIKU, max_tokens=300, messages=QUESTION, system=system, tools=[CLAUDE_TOOL]
            ) as stream:
                final = await stream.get_final_message()
    assert final.stop_reason == "tool_use"
    five, hour, *reads = booked(house, task, since, "anthropic", 4)
    assert five["units"]["cache_write_5m_tokens"] == five["cache_write_tokens"] > 0
    assert hour["cache_write_1h_tokens"] == hour["cache_write_tokens"] > 0
    assert hour["cost_cache_write_nanousd"] > five["cost_cache_write_nanousd"]
    assert all(row["cache_read_tokens"] > 0 == row["cache_write_tokens"] for row in reads)


async def test_gemini_sync(house: House) -> None:
    """The sync client: whole and streamed; counting tokens costs nothing."""
    task, since = task_name(), len(house.calls)

    def talk() -> list[Any]:
        client = gemini_client(house, task)
        whole = client.models.generate_content(model=FLASH, contents="Hello")
        chunks = list(client.models.generate_content_stream(model=FLASH, contents="Hello"))
        counted = client.models.count_tokens(model=FLASH, contents="Hello")
        client.close()
        return [whole, chunks, counted]

    whole, chunks, counted = await asyncio.to_thread(talk)
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert counted.total_tokens == whole.usage_metadata.prompt_token_count
    rows = booked(house, task, since, "google", 2)
    assert rows[0]["reasoning_tokens"] == whole.usage_metadata.thoughts_token_count > 0


async def test_gemini_async(house: House) -> None:
    """The async client: function calls whole and streamed. Embeddings state no usage: booked, unpriced, and said why."""
    task, since = task_name(), len(house.calls)
    config = types.GenerateContentConfig(
        tools=[GEMINI_TOOL], automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True)
    )
    client = gemini_client(house, task)
    whole = await client.aio.models.generate_content(model=FLASH, contents="Weather?", config=config)
    chunks = [
        c
        async for c in await client.aio.models.generate_content_stream(model=FLASH, contents="Weather?", config=config)
    ]
    embedded = await client.aio.models.embed_content(model="gemini-embedding-001", contents=["one", "two"])
    await client.aio.aclose()
    client.close()
    assert whole.function_calls
    assert chunks[-1].function_calls
    assert len(embedded.embeddings or ()) == 2
    *rows, vectors = house.rows(task)
    calls = [call for call in house.calls[since:] if call.usage is not None]
    for row, call in zip(rows, calls[:2], strict=True):
        assert_booked(row, call, "google")
        assert row["tools"] == ["get_weather"]
    assert (vectors["status"], vectors["operation"], vectors["cost_nanousd"]) == ("ok", "embeddings", None)
    assert vectors["unpriced_reason"]


async def test_models_are_listed_and_not_booked(house: House) -> None:
    """Every SDK lists its own provider's models through the gateway, and that is no paid call."""
    task, before = task_name(), len(house.rows())
    async with openai.AsyncOpenAI(**openai_options(house, task)) as client:
        assert GPT in [model.id async for model in client.models.list()]
    async with anthropic.AsyncAnthropic(**anthropic_options(house, task)) as claude:
        assert HAIKU in {model.id[: len(HAIKU)] async for model in claude.models.list()}
    gemini = gemini_client(house, task)
    names = [model.name async for model in await gemini.aio.models.list()]
    await gemini.aio.aclose()
    gemini.close()
    assert f"models/{FLASH}" in names
    assert [call.dialect for call in house.calls[-3:]] == ["openai", "anthropic", "gemini"]
    assert len(house.rows()) == before


# --- errors of ours ---------------------------------------------------------------------------------------------


async def fail_openai(house: House, key: str, size: int) -> Any:
    options = {**openai_options(house, "errors"), "api_key": key, "max_retries": 2}
    async with openai.AsyncOpenAI(**options) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": "x" * size}])
    return type(caught.value), caught.value.status_code, caught.value.body["bursar"]  # type: ignore[index,call-overload]


async def fail_responses(house: House, key: str, size: int) -> Any:
    options = {**openai_options(house, "errors"), "api_key": key, "max_retries": 2}
    async with openai.AsyncOpenAI(**options) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model=GPT, input="x" * size, stream=True)
    return type(caught.value), caught.value.status_code, caught.value.body["bursar"]  # type: ignore[index,call-overload]


async def fail_anthropic(house: House, key: str, size: int) -> Any:
    options = {**anthropic_options(house, "errors"), "api_key": key, "max_retries": 2}
    async with anthropic.AsyncAnthropic(**options) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(
                model=HAIKU, max_tokens=9, messages=[{"role": "user", "content": "x" * size}], stream=True
            )
    return type(caught.value), caught.value.status_code, caught.value.body["error"]["bursar"]  # type: ignore[index,call-overload]


async def fail_gemini(house: House, key: str, size: int) -> Any:
    client = gemini_client(house, "errors", key)
    with pytest.raises(genai.errors.APIError) as caught:
        await client.aio.models.generate_content(model=FLASH, contents="x" * size)
    await client.aio.aclose()
    client.close()
    return type(caught.value), caught.value.code, caught.value.details["error"]["bursar"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """A gateway that takes small bodies only."""
    async with gateway(tmp_path_factory.mktemp("strict"), body_bytes_max=10_000) as running:
        yield running


async def refused(house: House, code: str) -> int:
    lines = (await house.client.get("/metrics")).text.splitlines()
    name = f'bursar_refused_requests_total{{code="{code}"}} '
    return int(float(next((line for line in lines if line.startswith(name)), "x 0").rpartition(" ")[2]))


WRONG_KEY = [
    (fail_openai, openai.AuthenticationError),
    (fail_responses, openai.AuthenticationError),
    (fail_anthropic, anthropic.AuthenticationError),
    (fail_gemini, genai.errors.ClientError),
]
TOO_LARGE = [
    (fail_openai, openai.APIStatusError),
    (fail_responses, openai.APIStatusError),
    (fail_anthropic, anthropic.RequestTooLargeError),
    (fail_gemini, genai.errors.ClientError),
]
BUSY = [
    (fail_openai, openai.InternalServerError),
    (fail_responses, openai.InternalServerError),
    (fail_anthropic, anthropic.ServiceUnavailableError),
    (fail_gemini, genai.errors.ServerError),
]


@pytest.mark.parametrize(("fail", "error"), WRONG_KEY)
async def test_an_unknown_key_is_an_authentication_error(strict: House, fail: Wrong, error: type) -> None:
    """A key of ours that nobody made: 401 in the dialect, the SDK's own exception, asked once and not retried."""
    before = await refused(strict, "unauthorized")
    assert await fail(strict, "bursar_nobody_made_this", 5) == (error, 401, {"code": "unauthorized"})
    assert await refused(strict, "unauthorized") == before + 1


@pytest.mark.parametrize(("fail", "error"), TOO_LARGE)
async def test_a_body_that_is_too_large_is_said_so(strict: House, fail: Wrong, error: type) -> None:
    """413 with the limit, readable by the SDK although it was still sending, and not retried."""
    before = await refused(strict, "body_too_large")
    kind, status, bursar = await fail(strict, KEY, 3_000_000)
    assert (kind, status, bursar) == (error, 413, {"code": "body_too_large", "limit_bytes": 10_000})
    assert await refused(strict, "body_too_large") == before + 1


@pytest.mark.parametrize(("fail", "error"), BUSY)
async def test_too_many_calls_is_an_overload(
    tmp_path_factory: pytest.TempPathFactory, fail: Wrong, error: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After: a passing state, so the SDKs that retry may do so; then it is their overload error."""
    for module in (openai, anthropic):
        monkeypatch.setattr(f"{module.__name__}._base_client.MAX_RETRY_DELAY", 0.0)
        monkeypatch.setattr(f"{module.__name__}._base_client.BaseClient._parse_retry_after_header", lambda *_: None)
    async with gateway(tmp_path_factory.mktemp("busy"), concurrency_max=0) as busy:
        kind, status, bursar = await fail(busy, KEY, 5)
        assert (kind, status, bursar) == (error, 503, {"code": "too_many_calls"})
        assert await refused(busy, "too_many_calls") in (1, 3)
        answer = await busy.client.post("/v1/messages", content=b"{}")
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"] == "error"
