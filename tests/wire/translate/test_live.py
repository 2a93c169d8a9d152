"""The official SDKs, unmodified, talking to providers of other dialects: whole and streamed, tools, images, thinking."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import errors, types
from translating_server import Translating, translating

GPT, GPT5, HAIKU, FLASH = "gpt-4o-mini", "gpt-5", "claude-haiku-4-5", "gemini-2.5-flash"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["city", "days"],
}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER},
}
CLAUDE_TOOL: Any = {"name": "get_weather", "description": "Weather", "input_schema": WEATHER}
GEMINI_TOOL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(name="get_weather", description="Weather", parameters_json_schema=WEATHER)
    ]
)
QUESTION: Any = [{"role": "user", "content": "How is the weather?"}]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n pixel").decode()


@pytest.fixture
def server() -> Iterator[Translating]:
    with translating() as running:
        yield running


@pytest.fixture
def chat(server: Translating) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-test", base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(server: Translating) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as client:
        yield client


@pytest.fixture
def gemini(server: Translating) -> Iterator[genai.Client]:
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=server.url))
    yield client
    client.close()


def fits(arguments: Any) -> bool:
    return isinstance(arguments["city"], str) and 1 <= arguments["days"] <= 5


def by_hand(**more: Any) -> types.GenerateContentConfig:
    """Settings of a client that runs its functions itself."""
    calling = types.AutomaticFunctionCallingConfig(disable=True)
    return types.GenerateContentConfig(automatic_function_calling=calling, **more)


# --- OpenAI's client ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [HAIKU, FLASH])
def test_openai_text(server: Translating, chat: openai.OpenAI, model: str) -> None:
    """Whole and streamed agree, and the usage is what the provider bills, thoughts and cache included."""
    options: Any = {"model": model, "messages": [{"role": "system", "content": "Be brief."}, *QUESTION]}
    whole = chat.chat.completions.create(**options, max_completion_tokens=4_000)
    stated, billed = whole.usage, server.usage
    assert stated is not None
    assert stated.prompt_tokens == billed.input_tokens
    assert stated.completion_tokens == billed.output_tokens
    with chat.chat.completions.stream(
        **options, max_completion_tokens=4_000, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    assert final.usage is not None
    assert final.usage.completion_tokens == server.usage.output_tokens
    cut = chat.chat.completions.create(**options, max_completion_tokens=3 if model == HAIKU else 1_600)
    assert cut.choices[0].finish_reason in ("length", "stop")
    assert "Be brief." in json.dumps(server.sent[-1])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", [HAIKU, FLASH, "gemini-3-flash-preview"])
def test_openai_tools(server: Translating, chat: openai.OpenAI, model: str, *, streamed: bool) -> None:
    """The client runs the tool that it is asked for and sends the result: the provider gets all of it and goes on."""
    messages: list[Any] = list(QUESTION)
    options: Any = {"model": model, "tools": [CHAT_TOOL], "reasoning_effort": "low"}

    def turn() -> Any:
        if not streamed:
            return chat.chat.completions.create(messages=messages, **options)
        with chat.chat.completions.stream(messages=messages, **options) as stream:
            return stream.get_final_completion()

    asked = turn().choices[0]
    assert asked.finish_reason == "tool_calls"
    (call,) = asked.message.tool_calls
    assert fits(json.loads(call.function.arguments))
    messages += [
        asked.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    answered = turn().choices[0]
    assert answered.finish_reason == "stop"
    assert answered.message.content
    told = json.dumps(server.sent[-1])
    assert '"rain"' in told
    assert all(json.dumps(value) in told for value in json.loads(call.function.arguments).values())


def test_openai_keeps_geminis_signature_of_a_call(server: Translating, chat: openai.OpenAI) -> None:
    """What Gemini signed comes back to Gemini with the next turn."""
    options: Any = {"model": FLASH, "tools": [CHAT_TOOL], "reasoning_effort": "high"}
    asked = chat.chat.completions.create(messages=QUESTION, **options).choices[0].message
    assert asked.tool_calls
    result: Any = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"}
    sent_back: Any = asked.model_dump(exclude_none=True)
    chat.chat.completions.create(messages=[*QUESTION, sent_back, result], **options)
    (part,) = (part for part in server.sent[-1]["contents"][1]["parts"] if "functionCall" in part)
    assert base64.b64decode(part["thoughtSignature"])
    assert part["thoughtSignature"] == sent_back["tool_calls"][0]["extra_content"]["google"]["thought_signature"]


@pytest.mark.parametrize("streamed", [False, True])
def test_openai_keeps_claudes_thoughts(server: Translating, chat: openai.OpenAI, *, streamed: bool) -> None:
    """A client that sends a message back as it came sends Claude its own thoughts, as Claude signed them."""
    options: Any = {"model": HAIKU, "tools": [CHAT_TOOL], "reasoning_effort": "low"}
    if streamed:
        with chat.chat.completions.stream(messages=QUESTION, **options) as stream:
            asked = stream.get_final_completion().choices[0].message
    else:
        asked = chat.chat.completions.create(messages=QUESTION, **options).choices[0].message
    assert asked.tool_calls
    sent_back: Any = asked.model_dump(exclude_none=True)
    result: Any = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "rain"}
    again = chat.chat.completions.create(messages=[*QUESTION, sent_back, result], **options)
    assert again.choices[0].message.content
    sent = server.sent[-1]
    block, use = sent["messages"][1]["content"]
    assert (block["type"], use["type"]) == ("thinking", "tool_use")
    assert block["thinking"]
    assert block["signature"]
    assert sent["thinking"]["type"] == "enabled"


@pytest.mark.parametrize("model", [HAIKU, FLASH])
def test_openai_images(server: Translating, chat: openai.OpenAI, model: str) -> None:
    """An image in a data URL reaches the provider as data of its type."""
    content: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    answer = chat.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
    assert answer.choices[0].message.content
    sent = json.dumps(server.sent[-1])
    assert PIXEL in sent
    assert '"image/png"' in sent
    assert "data:image" not in sent


# --- Anthropic's client -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [GPT, FLASH])
def test_anthropic_text(server: Translating, claude: anthropic.Anthropic, model: str) -> None:
    """Whole and streamed agree, also in their usage, which leaves the cache out of the input."""
    options: Any = {"model": model, "max_tokens": 4_000, "messages": QUESTION, "system": "Be brief."}
    whole = claude.messages.create(**options)
    billed = server.usage
    read = whole.usage.cache_read_input_tokens or 0
    assert (whole.usage.input_tokens + read, read) == (billed.input_tokens, billed.cache_read_tokens)
    assert whole.usage.output_tokens == billed.output_tokens
    with claude.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert [block.type for block in whole.content] == ["text"]
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason == "end_turn"
    assert final.usage.output_tokens == server.usage.output_tokens
    cut = claude.messages.create(**{**options, "max_tokens": 3})
    assert cut.stop_reason == "max_tokens"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", [GPT, FLASH])
def test_anthropic_tools(server: Translating, claude: anthropic.Anthropic, model: str, *, streamed: bool) -> None:
    """The tool loop of a client of Anthropic's."""
    messages: list[Any] = list(QUESTION)
    options: Any = {"model": model, "max_tokens": 4_000, "tools": [CLAUDE_TOOL]}

    def turn() -> anthropic.types.Message:
        if not streamed:
            return claude.messages.create(messages=messages, **options)
        with claude.messages.stream(messages=messages, **options) as stream:
            return stream.get_final_message()

    asked = turn()
    assert asked.stop_reason == "tool_use"
    use = next(block for block in asked.content if block.type == "tool_use")
    assert fits(use.input)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "rain"}]}
    messages += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in asked.content]},
        {"role": "user", "content": [result]},
    ]
    answered = turn()
    assert answered.stop_reason == "end_turn"
    assert answered.content[-1].type == "text"
    assert '"rain"' in json.dumps(server.sent[-1])


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_thinking_of_gemini(server: Translating, claude: anthropic.Anthropic, *, streamed: bool) -> None:
    """Gemini's thoughts are thinking blocks; with a tool's result the call goes back to Gemini as it was signed."""
    messages: list[Any] = list(QUESTION)
    options: Any = {
        "model": FLASH, "max_tokens": 8_000, "tools": [CLAUDE_TOOL], "thinking": {"type": "enabled", "budget_tokens": 2_000},
    }  # fmt: skip

    def turn() -> anthropic.types.Message:
        if not streamed:
            return claude.messages.create(messages=messages, **options)
        with claude.messages.stream(messages=messages, **options) as stream:
            return stream.get_final_message()

    asked = turn()
    assert server.sent[-1]["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 2_000, "includeThoughts": True}
    thinking, use = asked.content
    assert thinking.type == "thinking"
    assert thinking.thinking
    assert use.type == "tool_use"
    messages += [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in asked.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]},
    ]
    assert turn().content[-1].type == "text"
    called = next(part for part in server.sent[-1]["contents"][1]["parts"] if "functionCall" in part)
    assert base64.b64decode(called["thoughtSignature"])
    assert called["functionCall"]["name"] == "get_weather"


@pytest.mark.parametrize("model", [GPT, FLASH])
def test_anthropic_images(server: Translating, claude: anthropic.Anthropic, model: str) -> None:
    """A block with an image reaches the provider as data of its type."""
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    claude.messages.create(model=model, max_tokens=4_000, messages=[{"role": "user", "content": content}])
    assert PIXEL in json.dumps(server.sent[-1])


# --- Google's client ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_gemini_text(server: Translating, gemini: genai.Client, model: str) -> None:
    """Whole and streamed agree, also in their usage."""
    config = types.GenerateContentConfig(system_instruction="Be brief.", temperature=0.5, max_output_tokens=4_000)
    whole = gemini.models.generate_content(model=model, contents="Hello", config=config)
    usage, billed = whole.usage_metadata, server.usage
    assert usage is not None
    assert usage.prompt_token_count == billed.input_tokens
    assert (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0) == billed.output_tokens
    chunks = list(gemini.models.generate_content_stream(model=model, contents="Hello", config=config))
    assert len(chunks) > 2
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text
    assert chunks[-1].candidates[0].finish_reason == whole.candidates[0].finish_reason == types.FinishReason.STOP
    assert chunks[-1].usage_metadata.total_token_count == server.usage.input_tokens + server.usage.output_tokens
    brief = types.GenerateContentConfig(max_output_tokens=3)
    cut = gemini.models.generate_content(model=model, contents="Hello", config=brief)
    assert cut.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_gemini_tools_in_a_chat(server: Translating, gemini: genai.Client, model: str, *, streamed: bool) -> None:
    """The SDK's chat keeps what came, one content for each chunk of a stream: the next turns are whole all the same."""
    talk = gemini.chats.create(model=model, config=by_hand(tools=[GEMINI_TOOL]))

    def turn(said: Any) -> list[types.GenerateContentResponse]:
        return list(talk.send_message_stream(said)) if streamed else [talk.send_message(said)]

    calls = [call for answer in turn("How is the weather?") for call in answer.function_calls or ()]
    (call,) = calls
    assert fits(call.args)
    response = types.FunctionResponse(id=call.id, name=call.name, response={"output": "rain"})
    texts = [answer.text or "" for answer in turn(types.Part(function_response=response))]
    assert "".join(texts)
    assert '"rain"' in json.dumps(server.sent[-1])
    turn("And tomorrow?")
    assert "".join(texts) in "".join(_strings(server.sent[-1]))


@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_gemini_functions_that_the_sdk_runs(server: Translating, gemini: genai.Client, model: str) -> None:
    """Automatic function calling: a Python function is offered, called and answered by the SDK."""
    asked: list[str] = []

    def get_weather(city: str) -> dict[str, Any]:
        """The weather of a city."""
        asked.append(city)
        return {"weather": "rain"}

    config = types.GenerateContentConfig(tools=[get_weather])
    answer = gemini.models.generate_content(model=model, contents="How is the weather?", config=config)
    assert answer.text
    assert len(asked) == 1
    assert len(server.sent) == 2
    assert "rain" in json.dumps(server.sent[-1])


@pytest.mark.parametrize("streamed", [False, True])
def test_gemini_thinking_of_claude(server: Translating, gemini: genai.Client, *, streamed: bool) -> None:
    """Claude's thoughts are shown as thoughts, and go back to Claude as Claude signed them, before the tool's result."""
    thinking = types.ThinkingConfig(thinking_budget=2_000, include_thoughts=True)
    talk = gemini.chats.create(
        model=HAIKU, config=by_hand(tools=[GEMINI_TOOL], thinking_config=thinking, max_output_tokens=8_000)
    )

    def turn(said: Any) -> list[types.Part]:
        answers = list(talk.send_message_stream(said)) if streamed else [talk.send_message(said)]
        return [part for answer in answers for part in answer.candidates[0].content.parts]

    parts = turn("How is the weather?")
    thought = "".join(part.text or "" for part in parts if part.thought)
    (call,) = (part.function_call for part in parts if part.function_call)
    assert thought
    response = types.FunctionResponse(id=call.id, name=call.name, response={"output": "rain"})
    turn(types.Part(function_response=response))
    sent = server.sent[-1]
    assert sent["thinking"]["type"] == "enabled"
    block, use = sent["messages"][1]["content"]
    assert (block["type"], block["thinking"]) == ("thinking", thought)
    assert block["signature"]
    assert not block["signature"].startswith("bursar")
    assert (use["type"], use["input"]) == ("tool_use", call.args)


@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_gemini_images(server: Translating, gemini: genai.Client, model: str) -> None:
    """Data of a part reaches the provider as an image of its type."""
    image = types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")
    assert gemini.models.generate_content(model=model, contents=[image, "What is it?"]).text
    assert PIXEL in json.dumps(server.sent[-1])


def _strings(value: Any) -> Iterator[str]:
    """Every text inside JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


# --- what goes wrong ----------------------------------------------------------------------------------------------


def test_what_cannot_be_translated_is_refused_before_the_provider_is_asked(
    server: Translating, chat: openai.OpenAI, claude: anthropic.Anthropic, gemini: genai.Client
) -> None:
    """Every SDK raises its own error for a bad request, with the reason."""
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    config = types.GenerateContentConfig(tools=[types.Tool(google_search=types.GoogleSearch())])
    with pytest.raises(openai.BadRequestError, match="one answer"):
        chat.chat.completions.create(model=FLASH, messages=QUESTION, n=2)
    with pytest.raises(anthropic.BadRequestError, match="web_search"):
        claude.messages.create(model=FLASH, max_tokens=9, messages=QUESTION, tools=[search])
    with pytest.raises(errors.ClientError, match="googleSearch"):
        gemini.models.generate_content(model=HAIKU, contents="Hello", config=config)
    assert server.sent == []
    assert server.simulator.served == 0


@pytest.mark.parametrize("model", [HAIKU, FLASH])
def test_openai_stream_that_breaks_off(chat: openai.OpenAI, model: str) -> None:
    """It raises, after what had come."""
    stream = chat.chat.completions.create(
        model=model, messages=QUESTION, stream=True, extra_headers={"x-sim-fault": "cut=2"}
    )
    with pytest.raises(openai.APIError):
        list(stream)


@pytest.mark.parametrize("model", [GPT, FLASH])
def test_anthropic_stream_that_breaks_off(claude: anthropic.Anthropic, model: str) -> None:
    """It raises, after what had come."""
    headers = {"x-sim-fault": "cut=1"}
    with pytest.raises(anthropic.APIStatusError):
        list(
            claude.messages.create(model=model, max_tokens=4_000, messages=QUESTION, stream=True, extra_headers=headers)
        )


@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_gemini_stream_that_breaks_off(gemini: genai.Client, model: str) -> None:
    """It raises, after what had come."""
    config = types.GenerateContentConfig(http_options=types.HttpOptions(headers={"x-sim-fault": "cut=3"}))
    with pytest.raises(errors.ServerError):
        list(gemini.models.generate_content_stream(model=model, contents="Hello", config=config))


@pytest.mark.parametrize("fault", ["", "cut=3"])
@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_gemini_streams_without_events_are_one_array(server: Translating, model: str, fault: str) -> None:
    """A plain client that does not ask for events gets JSON that is whole, also where the provider broke off."""
    answer = httpx.post(
        f"{server.url}/v1beta/models/{model}:streamGenerateContent",
        json={"contents": [{"parts": [{"text": "Hello"}]}]},
        headers={"x-sim-fault": fault} if fault else {},
    )
    assert answer.headers["content-type"].startswith("application/json")
    *chunks, last = answer.json()
    assert all(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks)
    if fault:
        assert last["error"]["code"] == 502
    else:
        assert last["candidates"][0]["finishReason"] == "STOP"
        assert last["usageMetadata"]["promptTokenCount"] == server.usage.input_tokens


@pytest.mark.parametrize("model", [GPT, HAIKU])
def test_a_providers_refusal_is_each_sdks_own_error(gemini: genai.Client, model: str) -> None:
    """The status stays what it was."""
    config = types.GenerateContentConfig(http_options=types.HttpOptions(headers={"x-sim-fault": "429=1"}))
    with pytest.raises(errors.ClientError) as refused:
        gemini.models.generate_content(model=model, contents="Hello", config=config)
    assert refused.value.code == 429
