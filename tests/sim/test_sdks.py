"""The official SDKs, unmodified, against the simulator: sync and async, whole and streamed, with and without tools."""

import asyncio
import json

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from bursar.sim import Served

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["city", "days"],
}
CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER}}
RESPONSES_TOOL = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": False}
CLAUDE_TOOL = {"name": "get_weather", "description": "Weather", "input_schema": WEATHER}
GEMINI_TOOL = types.Tool(
    function_declarations=[types.FunctionDeclaration(name="get_weather", parameters_json_schema=WEATHER)]
)
QUESTION = [{"role": "user", "content": "How is the weather?"}]
HAIKU = "claude-haiku-4-5"
GPT = "gpt-4o-mini"
FLASH = "gemini-2.5-flash"


def fits(arguments: dict) -> bool:
    return isinstance(arguments["city"], str) and 1 <= arguments["days"] <= 5


def sync_openai(sim: Served) -> openai.OpenAI:
    return openai.OpenAI(api_key="sk-test-key-1", base_url=f"{sim.url}/v1", max_retries=0)


def async_openai(sim: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="sk-test-key-1", base_url=f"{sim.url}/v1", max_retries=0)


async def test_openai_chat_sync(sim: Served) -> None:
    """The sync client gets the same text and usage whole and streamed."""

    def talk():
        with sync_openai(sim) as client:
            whole = client.chat.completions.create(model=GPT, messages=QUESTION)
            with client.chat.completions.create(
                model=GPT, messages=QUESTION, stream=True, stream_options={"include_usage": True}
            ) as stream:
                return whole, list(stream)

    whole, chunks = await asyncio.to_thread(talk)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert whole.choices[0].finish_reason == "stop"
    assert whole.model == "gpt-4o-mini-2024-07-18"
    assert len(text) == 4 * whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} != {whole.id}


async def test_openai_chat_async_tools(sim: Served) -> None:
    """A tool is called with fitting arguments, whole and streamed; after its result comes text."""
    async with async_openai(sim) as client:
        whole = await client.chat.completions.create(model=GPT, messages=QUESTION, tools=[CHAT_TOOL])
        call = whole.choices[0].message.tool_calls[0]
        async with client.chat.completions.stream(model=GPT, messages=QUESTION, tools=[CHAT_TOOL]) as stream:
            streamed = await stream.get_final_completion()
        again = await client.chat.completions.create(
            model=GPT,
            tools=[CHAT_TOOL],
            messages=[
                *QUESTION,
                whole.choices[0].message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "rain"},
            ],
        )
    assert whole.choices[0].finish_reason == "tool_calls"
    assert fits(json.loads(call.function.arguments))
    assert streamed.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    assert again.choices[0].finish_reason == "stop"
    assert again.choices[0].message.content


async def test_openai_chat_without_usage_asked(sim: Served) -> None:
    """A stream states usage only when it was asked to."""
    async with async_openai(sim) as client:
        stream = await client.chat.completions.create(model=GPT, messages=QUESTION, stream=True)
        chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_openai_responses(sim: Served) -> None:
    """Responses: text and reasoning, whole and streamed, agree; the helper's final response is complete."""
    async with async_openai(sim) as client:
        whole = await client.responses.create(model="gpt-5", input="Hello", reasoning={"effort": "low"})
        async with client.responses.stream(model="gpt-5", input="Hello", reasoning={"effort": "low"}) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
    assert final.output_text == whole.output_text != ""
    assert final.usage == whole.usage
    assert (
        whole.usage.output_tokens_details.reasoning_tokens % 64
        == 0
        < whole.usage.output_tokens_details.reasoning_tokens
    )
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [item.type for item in whole.output] == ["reasoning", "message"]


async def test_openai_responses_tools_and_previous_response(sim: Served) -> None:
    """A function call is streamed; its result is answered, and what came before is billed again."""

    def talk():
        with sync_openai(sim) as client:
            with client.responses.stream(model=GPT, input="Weather?", tools=[RESPONSES_TOOL]) as stream:
                first = stream.until_done().get_final_response()
            call = first.output[0]
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
            second = client.responses.create(model=GPT, input=[result], previous_response_id=first.id)
            return first, call, second

    first, call, second = await asyncio.to_thread(talk)
    assert call.type == "function_call"
    assert fits(json.loads(call.arguments))
    assert second.output_text
    assert second.usage.input_tokens > first.usage.input_tokens


async def test_openai_responses_incomplete(sim: Served) -> None:
    """A cap on output ends the response as incomplete, within the cap."""
    async with async_openai(sim) as client:
        whole = await client.responses.create(model="gpt-5", input="Hello", max_output_tokens=20)
        stream = await client.responses.create(model=GPT, input="Hello", max_output_tokens=16, stream=True)
        last = [event async for event in stream][-1]
    assert whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage.output_tokens == 20
    assert last.type == "response.incomplete"


@pytest.mark.parametrize(("model", "dimensions"), [("text-embedding-3-small", 1536), ("text-embedding-3-large", 3072)])
async def test_openai_embeddings(sim: Served, model: str, dimensions: int) -> None:
    """Vectors have the model's size and length 1, as floats and as base64; near texts are near."""
    texts = ["the cat sat on the mat", "a cat sat on the mat", "quarterly revenue grew by nine percent"]
    async with async_openai(sim) as client:
        packed = await client.embeddings.create(model=model, input=texts)
        floats = await client.embeddings.create(model=model, input=texts, encoding_format="float")
        short = await client.embeddings.create(model=model, input="hi", dimensions=256)
    vectors = [row.embedding for row in floats.data]
    assert [len(vector) for vector in vectors] == [dimensions] * 3
    assert packed.data[1].embedding == pytest.approx(vectors[1], abs=1e-6)
    assert len(short.data[0].embedding) == 256

    def near(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert near(vectors[0], vectors[0]) == pytest.approx(1)
    assert near(vectors[0], vectors[1]) > 0.6 > 0.2 > near(vectors[0], vectors[2])
    assert packed.usage.prompt_tokens == sum(-(-len(text) // 4) for text in texts)


async def test_models_are_listed_in_each_dialect(sim: Served) -> None:
    """Every SDK can list models; the two that share a path are told apart by their headers."""
    async with async_openai(sim) as client:
        assert GPT in [model.id async for model in client.models.list()]
    async with anthropic.AsyncAnthropic(api_key="k-anthropic", base_url=sim.url) as client:
        assert HAIKU in {model.id[: len(HAIKU)] async for model in client.models.list()}
    gemini = genai.Client(api_key="k-gemini", http_options=types.HttpOptions(base_url=sim.url))
    names = await asyncio.to_thread(lambda: [model.name for model in gemini.models.list()])
    gemini.close()
    assert f"models/{FLASH}" in names


async def test_anthropic_messages_sync(sim: Served) -> None:
    """The sync client's stream helper rebuilds the message that the whole answer gives; usage agrees."""

    def talk():
        with anthropic.Anthropic(api_key="k-anthropic", base_url=sim.url, max_retries=0) as client:
            whole = client.messages.create(model=HAIKU, max_tokens=5000, messages=QUESTION)
            with client.messages.stream(model=HAIKU, max_tokens=5000, messages=QUESTION) as stream:
                text = "".join(stream.text_stream)
                return whole, text, stream.get_final_message()

    whole, text, final = await asyncio.to_thread(talk)
    assert text == whole.content[0].text == final.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens == len(text) // 4
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert whole.stop_reason == final.stop_reason == "end_turn"
    assert whole.model == "claude-haiku-4-5-20251001"


async def test_anthropic_thinking_and_tools_async(sim: Served) -> None:
    """Thinking and a tool call come as blocks, whole and streamed; a tool's result is answered with text."""
    options = {
        "model": HAIKU,
        "max_tokens": 4000,
        "tools": [CLAUDE_TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    async with anthropic.AsyncAnthropic(api_key="k-anthropic", base_url=sim.url, max_retries=0) as client:
        whole = await client.messages.create(messages=QUESTION, **options)
        async with client.messages.stream(messages=QUESTION, **options) as stream:
            final = await stream.get_final_message()
        events = await client.messages.create(messages=QUESTION, stream=True, **options)
        kinds = [event.type async for event in events]
        result = {"type": "tool_result", "tool_use_id": whole.content[1].id, "content": "rain"}
        again = await client.messages.create(
            messages=[
                *QUESTION,
                {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in whole.content]},
                {"role": "user", "content": [result]},
            ],
            **options,
        )
    assert [block.type for block in whole.content] == ["thinking", "tool_use"]
    assert whole.stop_reason == "tool_use"
    assert fits(whole.content[1].input)
    assert final.content[1].input == whole.content[1].input
    assert final.content[0].thinking == whole.content[0].thinking
    assert whole.usage.output_tokens_details.thinking_tokens == len(whole.content[0].thinking) // 4
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert again.content[-1].type == "text"


async def test_anthropic_counts_tokens_as_it_bills_them(sim: Served) -> None:
    """count_tokens gives the input tokens that the same request is billed."""
    async with anthropic.AsyncAnthropic(api_key="k-anthropic", base_url=sim.url) as client:
        counted = await client.messages.count_tokens(model=HAIKU, messages=QUESTION, system="Be brief.")
        whole = await client.messages.create(model=HAIKU, messages=QUESTION, system="Be brief.", max_tokens=10)
    assert counted.input_tokens == whole.usage.input_tokens
    assert whole.stop_reason == "max_tokens"
    assert whole.usage.output_tokens == 10


async def test_gemini_sync(sim: Served) -> None:
    """The sync client gets the same text whole and streamed; usage grows from chunk to chunk up to the whole."""

    def talk():
        client = genai.Client(api_key="k-gemini", http_options=types.HttpOptions(base_url=sim.url))
        whole = client.models.generate_content(model=FLASH, contents="Hello")
        chunks = list(client.models.generate_content_stream(model=FLASH, contents="Hello"))
        counted = client.models.count_tokens(model=FLASH, contents="Hello")
        client.close()
        return whole, chunks, counted

    whole, chunks, counted = await asyncio.to_thread(talk)
    usage = whole.usage_metadata
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    counts = [chunk.usage_metadata.candidates_token_count for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == usage.candidates_token_count == len(whole.text) // 4
    assert (
        usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    )
    assert counted.total_tokens == usage.prompt_token_count
    assert chunks[-1].candidates[0].finish_reason == whole.candidates[0].finish_reason == types.FinishReason.STOP


async def test_gemini_async_tools_thoughts_and_embeddings(sim: Served) -> None:
    """Function calls fit, thoughts are shown on request, a zero budget stops them, embeddings have their size."""
    client = genai.Client(api_key="k-gemini", http_options=types.HttpOptions(base_url=sim.url)).aio
    config = types.GenerateContentConfig(
        tools=[GEMINI_TOOL],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        thinking_config=types.ThinkingConfig(include_thoughts=True),
    )
    whole = await client.models.generate_content(model=FLASH, contents="Weather?", config=config)
    stream = await client.models.generate_content_stream(model=FLASH, contents="Weather?", config=config)
    chunks = [chunk async for chunk in stream]
    brief = types.GenerateContentConfig(max_output_tokens=5, thinking_config=types.ThinkingConfig(thinking_budget=0))
    cut = await client.models.generate_content(model=FLASH, contents="Hi", config=brief)
    embedded = await client.models.embed_content(
        model="gemini-embedding-001", contents=["one", "two"], config={"output_dimensionality": 768}
    )
    await client.aclose()
    assert fits(whole.function_calls[0].args)
    assert chunks[-1].function_calls[0].args == whole.function_calls[0].args
    assert whole.candidates[0].content.parts[0].thought
    assert cut.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert cut.usage_metadata.thoughts_token_count is None
    assert [len(row.values) for row in embedded.embeddings] == [768, 768]


async def test_bad_key_and_faults_raise_the_sdks_own_errors(sim: Served) -> None:
    """Refusals and overload arrive as each SDK's own exception types, with Retry-After."""
    async with async_openai(sim) as client:
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model=GPT, messages=QUESTION, extra_headers={"x-sim-fault": "429=7"})
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="bad-key").models.list()
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model=GPT, input="a", extra_headers={"x-sim-fault": "500"})
        with pytest.raises(openai.BadRequestError, match="messages"):
            await client.chat.completions.create(model=GPT, messages=[])
    assert limited.value.response.headers["retry-after"] == "7"
    assert limited.value.code == "rate_limit_exceeded"
    async with anthropic.AsyncAnthropic(api_key="k-anthropic", base_url=sim.url, max_retries=0) as client:
        with pytest.raises(anthropic.OverloadedError):
            await client.messages.create(
                model=HAIKU, max_tokens=9, messages=QUESTION, extra_headers={"x-sim-fault": "529"}
            )
        with pytest.raises(anthropic.AuthenticationError):
            await client.with_options(api_key="bad-key").messages.create(model=HAIKU, max_tokens=9, messages=QUESTION)
    bad = genai.Client(api_key="bad-key", http_options=types.HttpOptions(base_url=sim.url))
    with pytest.raises(genai.errors.ClientError) as refused:
        await bad.aio.models.generate_content(model=FLASH, contents="Hi")
    await bad.aio.aclose()
    bad.close()
    assert refused.value.code == 401
    assert refused.value.status == "UNAUTHENTICATED"


async def test_sdk_retries_after_a_rate_limit(sim: Served) -> None:
    """A schedule that refuses the first call only is survived by the SDK's own retry."""
    sim.simulator.respond("POST", "/sim/faults", "", {}, b'[{"fault": "429=0", "last": 0}]')
    async with async_openai(sim).with_options(max_retries=1) as client:
        answer = await client.chat.completions.create(model=GPT, messages=QUESTION)
    assert answer.choices[0].message.content
    assert [call.status for call in sim.simulator.calls] == [429, 200]
