"""Gemini: generateContent, streamGenerateContent, countTokens and embeddings, as the API answers them."""

from __future__ import annotations

import base64
from typing import Any, Final, cast

from ._draw import CHARACTERS_PER_TOKEN, count_tokens
from ._models import GEMINI_MODELS, dimensions_of
from ._openai import embedding
from ._reply import (
    Asked,
    Piece,
    Reasoning,
    Reply,
    RequestError,
    Spoil,
    Stamp,
    Tool,
    limit,
    objects,
    part_text,
    to_json,
)

__all__ = ["ask_generate", "count", "embed", "list_models", "stream_generate", "whole_generate"]

_TEXT_STEP: Final = 32 * CHARACTERS_PER_TOKEN
_THOUGHTS: Final = {
    "minimal": None,
    "low": Reasoning(32, 256),
    "medium": Reasoning(64, 768),
    "high": Reasoning(64, 1_536),
}


def _field(body: Any, name: str) -> Any:
    """A field by its JSON name, or by the name in the protocol definition: the API takes both."""
    if not isinstance(body, dict):
        return None
    fields = cast("dict[str, Any]", body)
    if name in fields:
        return fields[name]
    return fields.get("".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name))


def _content_text(content: dict[str, Any]) -> str:
    texts: list[str] = []
    for part in objects(content.get("parts") or [], "contents.parts"):
        text = part.get("text")
        texts.append(text if isinstance(text, str) else part_text(part))
    return "".join(texts)


def _contents(body: dict[str, Any]) -> list[dict[str, Any]]:
    contents = objects(body.get("contents"), "contents")
    if not contents:
        raise RequestError("* GenerateContentRequest.contents: contents is not specified", "contents")
    return contents


def _prompt(body: dict[str, Any]) -> str:
    parts: list[str] = []
    if body.get("tools"):
        parts.append(to_json(body["tools"]).decode())
    system = _field(body, "systemInstruction")
    if isinstance(system, dict):
        parts.append(f"<system>{_content_text(cast('dict[str, Any]', system))}")
    parts += [f"<{content.get('role', 'user')}>{_content_text(content)}" for content in _contents(body)]
    return "".join(parts)


def ask_generate(body: dict[str, Any], model: str, *, stream: bool) -> Asked:
    config = cast("dict[str, Any]", _field(body, "generationConfig") or {})
    return Asked(
        model=model,
        prompt=_prompt(body),
        stream=stream,
        body=body,
        tools=_callable(body),
        output_max=limit(_field(config, "maxOutputTokens"), "generation_config.max_output_tokens"),
        reasoning=_reasoning(model, _field(config, "thinkingConfig")),
        tier=str(_field(body, "serviceTier") or "standard"),
    )


def _callable(body: dict[str, Any]) -> tuple[Tool, ...]:
    last = _contents(body)[-1]
    answered = any(_field(part, "functionResponse") for part in objects(last.get("parts") or [], "contents.parts"))
    choice = _field(_field(body, "toolConfig"), "functionCallingConfig")
    if last.get("role", "user") != "user" or answered or _field(choice, "mode") == "NONE":
        return ()
    allowed = _field(choice, "allowedFunctionNames")
    found: list[Tool] = []
    for tool in objects(body.get("tools") or [], "tools"):
        for function in objects(_field(tool, "functionDeclarations") or [], "tools.function_declarations"):
            schema = _field(function, "parametersJsonSchema") or function.get("parameters") or {"type": "object"}
            if not allowed or function.get("name") in allowed:
                found.append(Tool(str(function.get("name")), schema))
    return tuple(found)


def _reasoning(model: str, config: Any) -> Reasoning | None:
    budget, shown = _field(config, "thinkingBudget"), _field(config, "includeThoughts") is True
    thinks = model.startswith(("gemini-2.5", "gemini-3", "gemini-4")) and "image" not in model
    if not thinks or budget == 0 or ("lite" in model and budget is None):
        return None
    level = str(_field(config, "thinkingLevel") or "high").lower()
    reasoning = _THOUGHTS.get(level, _THOUGHTS["high"])
    if reasoning is None:
        return None
    most = min(reasoning.most, budget) if isinstance(budget, int) and budget > 0 else reasoning.most
    return Reasoning(min(reasoning.least, most), most, shown=shown)


def _usage(asked: Asked, reply: Reply, candidates: int) -> dict[str, Any]:
    usage = reply.usage
    answer: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens,
        "candidatesTokenCount": candidates,
        "totalTokenCount": usage.input_tokens + usage.reasoning_tokens + candidates,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input_tokens}],
    }
    if usage.cache_read_tokens:
        answer["cachedContentTokenCount"] = usage.cache_read_tokens
        answer["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": usage.cache_read_tokens}]
    if usage.reasoning_tokens:
        answer["thoughtsTokenCount"] = usage.reasoning_tokens
    answer["serviceTier"] = asked.tier
    return answer


def _thoughts(reply: Reply) -> list[dict[str, Any]]:
    return [{"text": reply.reasoning, "thought": True}] if reply.reasoning else []


def _signed(part: dict[str, Any], reply: Reply, stamp: Stamp) -> dict[str, Any]:
    if reply.usage.reasoning_tokens:
        part["thoughtSignature"] = base64.b64encode(stamp.id("", 48, "signature").encode()).decode()
    return part


def _call(reply: Reply, stamp: Stamp) -> list[dict[str, Any]]:
    assert reply.tool is not None
    return [_signed({"functionCall": {"name": reply.tool.name, "args": reply.tool.arguments}}, reply, stamp)]


def _answer(asked: Asked, stamp: Stamp, parts: list[Any], finish: str | None, usage: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}}
    if finish is not None:
        candidate["finishReason"] = finish
    candidate["index"] = 0
    answer: dict[str, Any] = {"candidates": [candidate]}
    if usage is not None:
        answer["usageMetadata"] = usage
    return answer | {"modelVersion": asked.model, "responseId": stamp.id("", 22, "response")}


def _finish(reply: Reply) -> str:
    return "MAX_TOKENS" if reply.finish == "length" else "STOP"


def whole_generate(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil) -> bytes:
    parts = _thoughts(reply)
    if reply.tool is not None:
        parts += _call(reply, stamp)
    elif reply.text:
        parts.append({"text": reply.text})
    usage = spoil(_usage(asked, reply, reply.text_tokens))
    return to_json(_answer(asked, stamp, parts, _finish(reply), usage))


def stream_generate(asked: Asked, reply: Reply, stamp: Stamp, spoil: Spoil, *, sse: bool) -> list[Piece]:
    """Events, or with ``sse`` false the elements of one JSON array. Every chunk states the usage so far."""
    chunks: list[tuple[int, list[dict[str, Any]]]] = []
    if reply.reasoning:
        chunks.append((0, _thoughts(reply)))
    if reply.tool is not None:
        chunks.append((reply.text_tokens, _call(reply, stamp)))
    for start in range(0, len(reply.text), _TEXT_STEP):
        part = reply.text[start : start + _TEXT_STEP]
        chunks.append((count_tokens(part), [{"text": part}]))
    chunks = chunks or [(0, [{"text": ""}])]
    pieces: list[Piece] = []
    candidates = 0
    for number, (tokens, parts) in enumerate(chunks):
        candidates += tokens
        finish = _finish(reply) if number == len(chunks) - 1 else None
        usage = spoil(_usage(asked, reply, candidates))
        data = to_json(_answer(asked, stamp, parts, finish, usage))
        thought = reply.usage.reasoning_tokens if number == 0 else 0
        pieces.append((tokens + thought, b"data: %s\r\n\r\n" % data if sse else (b",\r\n" if number else b"[") + data))
    return pieces if sse else [*pieces, (0, b"]")]


def count(body: dict[str, Any]) -> bytes:
    inner = _field(body, "generateContentRequest")
    tokens = count_tokens(_prompt(cast("dict[str, Any]", inner) if isinstance(inner, dict) else body))
    return to_json({"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]})


def embed(body: dict[str, Any], model: str, *, batch: bool) -> tuple[int, bytes]:
    """Tokens and the answer to ``:embedContent`` or ``:batchEmbedContents``. The API states no usage here."""
    tokens, vectors = 0, list[dict[str, Any]]()
    for request in objects(body.get("requests"), "requests") if batch else [body]:
        content = request.get("content")
        if not isinstance(content, dict):
            raise RequestError("* EmbedContentRequest.content: content is not specified", "content")
        text = _content_text(cast("dict[str, Any]", content))
        dimensions = limit(_field(request, "outputDimensionality"), "output_dimensionality") or dimensions_of(model)
        tokens += count_tokens(text)
        vectors.append({"values": embedding(text, dimensions)})
    return tokens, to_json({"embeddings": vectors} if batch else {"embedding": vectors[0]})


def list_models() -> bytes:
    rows = [
        {
            "name": f"models/{model.name}",
            "version": "001",
            "displayName": model.title,
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["embedContent"] if "embedding" in model.name else ["generateContent"],
        }
        for model in GEMINI_MODELS
    ]
    return to_json({"models": rows})
