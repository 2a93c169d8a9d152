"""The official clients of the three dialects, answered with given bytes: whole answers, streams, and what a client sends back.

Each reads with its own types and its own accumulator; nothing leaves the process.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import anthropic
import httpx
import httpx2
import openai
from anthropic.types import Message as AnthropicMessage
from google.genai import types
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from bursar.wire.translate.conversation import DialectId

__all__ = ["calls_in", "sends_back", "text_in", "whole_of_stream", "whole_with_sdk"]

_BODIES: list[bytes] = []
"""What the provider answers next."""


@lru_cache(maxsize=1)
def _anthropic() -> anthropic.Anthropic:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=_BODIES.pop())

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    return anthropic.Anthropic(api_key="k", max_retries=0, http_client=transport)


@lru_cache(maxsize=1)
def _openai() -> openai.OpenAI:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=_BODIES.pop())

    transport = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://provider.test/v1", max_retries=0, http_client=transport)


def whole_with_sdk(dialect: DialectId, body: bytes) -> Any:
    """A whole answer in the SDK's own types. Raises where they do not take it."""
    match dialect:
        case "openai_chat":
            return ChatCompletion.model_validate_json(body, strict=True)
        case "anthropic":
            return AnthropicMessage.model_validate_json(body, strict=True)
        case "gemini":
            return types.GenerateContentResponse.model_validate_json(body)


def whole_of_stream(dialect: DialectId, data: bytes) -> Any:
    """What the SDK makes of a stream, by its accumulator where it has one. Raises where it does not take it."""
    asked: Any = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}
    match dialect:
        case "openai_chat":
            for line in data.split(b"\n\n")[:-2]:
                ChatCompletionChunk.model_validate_json(line.removeprefix(b"data: "), strict=True)
            _BODIES.append(data)
            with _openai().chat.completions.stream(**asked, stream_options={"include_usage": True}) as running:
                try:
                    return running.get_final_completion()
                except openai.LengthFinishReasonError as error:  # how this SDK says that the cap was reached
                    return error.completion
        case "anthropic":
            _BODIES.append(data)
            with _anthropic().messages.stream(**asked, max_tokens=9) as running:
                return AnthropicMessage.model_validate(running.get_final_message().to_dict())
        case "gemini":
            return _gemini_joined(data)


def _gemini_joined(data: bytes) -> types.GenerateContentResponse:
    """google-genai has no accumulator: its users add up the parts of the pieces."""
    pieces = [
        types.GenerateContentResponse.model_validate_json(line.removeprefix("data: "))
        for line in data.decode().replace("\r\n", "\n").split("\n\n")
        if line
    ]
    last = pieces[-1]
    parts = [
        part
        for piece in pieces
        for candidate in piece.candidates or []
        if candidate.content
        for part in candidate.content.parts or []
    ]
    reasons = [each.finish_reason for piece in pieces for each in piece.candidates or [] if each.finish_reason]
    assert len(reasons) == 1
    content = types.Content(role="model", parts=parts)
    last.candidates = [types.Candidate(content=content, finish_reason=reasons[0])]
    return last


def text_in(dialect: DialectId, answer: Any) -> str:
    """What the answer says, thoughts left out."""
    match dialect:
        case "openai_chat":
            return answer.choices[0].message.content or ""
        case "anthropic":
            return "".join(block.text for block in answer.content if block.type == "text")
        case "gemini":
            parts = answer.candidates[0].content.parts or []
            return "".join(part.text for part in parts if part.text and not part.thought)


def calls_in(dialect: DialectId, answer: Any) -> list[tuple[str, Any]]:
    """The tools that the answer asks for, with their arguments."""
    match dialect:
        case "openai_chat":
            calls = answer.choices[0].message.tool_calls or []
            return [(call.function.name, json.loads(call.function.arguments)) for call in calls]
        case "anthropic":
            return [(block.name, block.input) for block in answer.content if block.type == "tool_use"]
        case "gemini":
            parts = answer.candidates[0].content.parts or []
            return [(part.function_call.name, part.function_call.args or {}) for part in parts if part.function_call]


def sends_back(dialect: DialectId, body: dict[str, Any], answer: Any, result: str) -> dict[str, Any]:
    """The client's next request: the answer as its SDK holds it, and the same result for every tool that it asked for."""
    match dialect:
        case "openai_chat":
            message = answer.choices[0].message
            results = [{"role": "tool", "tool_call_id": c.id, "content": result} for c in message.tool_calls or []]
            return {**body, "messages": [*body["messages"], message.model_dump(exclude_none=True), *results]}
        case "anthropic":
            results = [
                {"type": "tool_result", "tool_use_id": block.id, "content": result}
                for block in answer.content
                if block.type == "tool_use"
            ]
            said = [block.to_dict() for block in answer.content]
            more = [{"role": "assistant", "content": said}, {"role": "user", "content": results}]
            return {**body, "messages": [*body["messages"], *more]}
        case "gemini":
            content = answer.candidates[0].content
            results = [
                {"functionResponse": {"id": part.function_call.id, "name": part.function_call.name, "response": {"output": result}}}
                for part in content.parts
                if part.function_call
            ]  # fmt: skip
            said = content.model_dump(by_alias=True, exclude_none=True, mode="json")
            return {**body, "contents": [*body["contents"], said, {"role": "user", "parts": results}]}
