"""A conversation, written as a request to Anthropic's messages.

Rule 1: turns alternate; what tools answered stands first in its turn. A text without a sign in it is left out: Anthropic
        refuses it.
Rule 2: ``max_tokens`` is the request's cap, at most what the model can say. Without a cap it is ``OUTPUT_DEFAULT``, and the
        budget of thought beside it.
Rule 3: of an effort the model's nearest word is said, at most what is asked for, else its least. Where thinking has a budget
        the effort is one (``shaping.THOUGHT_TOKENS``), and where it has only an effort a budget is one. A budget leaves
        room for the answer.
Rule 4: with a budget Anthropic wants the thoughts of a turn back before the results of its tools, and does not let a tool
        be forced. Where the thoughts are lost, the turn goes on without thinking; adaptive thinking needs none of this.
Rule 5: what the model refuses is refused here, before it costs anything: ``anthropic_models`` says what that is.
Rule 6: the version sent is 2023-06-01: the later one takes away temperature, top_p and top_k, and adds nothing needed here.
"""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any, Final

import msgspec

from bursar.core.ladder import EFFORTS
from bursar.wire.dialect import UNREADABLE
from bursar.wire.shape_anthropic import BUDGET_MIN
from bursar.wire.shaping import THOUGHT_TOKENS

from .anthropic_marks import plain_id
from .anthropic_models import Takes, takes
from .anthropic_schema import check_schema
from .conversation import (
    Asked,
    Audio,
    Document,
    Image,
    Message,
    Part,
    Sent,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    Untranslatable,
)

__all__ = ["OUTPUT_DEFAULT", "arguments_object", "write_request"]

OUTPUT_DEFAULT: Final = 32_000
"""Tokens of an answer without a cap: what the smallest of the models that think can say."""

_MOST_THOUGHT: Final = 32_000  # an effort above "high", as a budget: beyond it Anthropic advises batches
_HEADERS: Final = (("anthropic-version", "2023-06-01"),)
_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_ENCODER: Final = msgspec.json.Encoder()
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def write_request(asked: Asked, model: str) -> Sent:
    """The request to ``model``. Raises Untranslatable."""
    can = takes(model)
    _refuse(asked)
    body: dict[str, Any] = {"model": model, "max_tokens": 0}
    if asked.system and (system := [_text(text) for text in asked.system if text.text.strip()]):
        plain = len(system) == 1 and "cache_control" not in system[0]
        body["system"] = system[0]["text"] if plain else system
    body["messages"] = _messages(asked.messages, can)
    _tools(asked, can, body)
    _thinking(asked, can, body)
    _sampling(asked, can, body)
    if asked.stop:
        for sequence in asked.stop:
            if not sequence.strip():
                raise Untranslatable("stop", "Anthropic stops at no sequence of blanks alone")
        body["stop_sequences"] = asked.stop
    if asked.format is not None:
        body.setdefault("output_config", {})["format"] = _format(asked, can)
    if asked.stream:
        body["stream"] = True
    return Sent("/v1/messages", "", _ENCODER.encode(body), _HEADERS)


def _refuse(asked: Asked) -> None:
    if asked.choices != 1:
        raise Untranslatable("n", "Anthropic gives one answer")
    if asked.seed is not None:
        raise Untranslatable("seed", "Anthropic takes no seed")
    if asked.presence_penalty or asked.frequency_penalty:
        field = "presence_penalty" if asked.presence_penalty else "frequency_penalty"
        raise Untranslatable(field, "Anthropic has no penalties")
    if asked.output_cap is not None and asked.output_cap < 1:
        raise Untranslatable("max_tokens", "Anthropic answers with at least one token")


# --- what is said -------------------------------------------------------------------------------------------------


def _messages(messages: tuple[Message, ...], can: Takes) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message.name:
            raise Untranslatable(f"{where}.name", "Anthropic's speakers have no names")
        role = "system" if message.system else message.role
        blocks = [block for part in message.parts if (block := _block(part, message.role, where)) is not None]
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    _in_order(turns, can)
    for turn in turns:
        content = turn["content"]
        if turn["role"] == "user":
            content.sort(key=_after_results)
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            turn["content"] = content[0]["text"]
    return turns


def _after_results(block: dict[str, Any]) -> bool:
    return block["type"] != "tool_result"


def _in_order(turns: list[dict[str, Any]], can: Takes) -> None:
    if not turns:
        raise Untranslatable("messages", "Anthropic answers no conversation in which nothing is said")
    if turns[-1]["role"] == "assistant":
        raise Untranslatable("messages", "Anthropic would continue the last message in place of answering it")
    for number, turn in enumerate(turns):
        if turn["role"] != "system":
            continue
        if not can.instructions:
            raise Untranslatable("messages", "this model takes no instructions in the middle of a conversation")
        follows = turns[number + 1]["role"] if number + 1 < len(turns) else "assistant"
        if number == 0 or turns[number - 1]["role"] != "user" or follows != "assistant":
            raise Untranslatable("messages", "Anthropic takes instructions after a message of the user alone")


def _block(part: Part, role: str, where: str) -> dict[str, Any] | None:
    match part:
        case Text():
            return _text(part) if part.text.strip() else None
        case Thinking():
            if role != "assistant" or part.origin != "anthropic":
                return None
            if part.hidden:
                return {"type": "redacted_thinking", "data": part.hidden}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature} if part.signature else None
        case ToolUse():
            block: dict[str, Any] = {
                "type": "tool_use", "id": plain_id(part.id), "name": part.name, "input": arguments_object(part.arguments),
            }  # fmt: skip
            return _marked(block, part.cache)
        case ToolResult():
            return _result(part, where)
        case Image() | Document():
            if role == "assistant":
                raise Untranslatable(where, "Anthropic's assistant says no images or documents")
            return _image(part, where) if isinstance(part, Image) else _document(part, where)
        case Audio():
            raise Untranslatable(where, "Anthropic does not listen to audio")


def _marked(block: dict[str, Any], cache: str) -> dict[str, Any]:
    if cache:
        block["cache_control"] = {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}
    return block


def _text(text: Text) -> dict[str, Any]:
    return _marked({"type": "text", "text": text.text}, text.cache)


def arguments_object(arguments: str) -> msgspec.Raw | dict[str, str]:
    """The arguments of a tool use as the object that Anthropic wants: what is none is said inside one.

    ``INVALID_JSON`` is the key that Anthropic proposes for it (fine-grained tool streaming).
    """
    raw = arguments.strip().encode()
    if not raw:
        return {}
    try:
        _OBJECT.decode(raw)
    except UNREADABLE:
        return {"INVALID_JSON": arguments}
    return msgspec.Raw(raw)


def _result(part: ToolResult, where: str) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": plain_id(part.id)}
    content = [said for each in part.parts if (said := _block(each, "user", where)) is not None]
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        block["content"] = content[0]["text"]
    elif content:
        block["content"] = content
    if part.is_error:
        block["is_error"] = True
    return _marked(block, part.cache)


def _image(image: Image, where: str) -> dict[str, Any]:
    if image.detail == "low":
        raise Untranslatable(f"{where}.detail", "Anthropic looks at every image in full")
    if image.url:
        source = _linked(image.url, where)
    elif image.media_type in _IMAGES:
        source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    else:
        raise Untranslatable(where, f"Anthropic reads no images of the type {image.media_type!r}")
    return _marked({"type": "image", "source": source}, image.cache)


def _linked(url: str, where: str) -> dict[str, Any]:
    if not url.startswith(("https://", "http://")):
        raise Untranslatable(where, "Anthropic fetches from the web alone")
    return {"type": "url", "url": url}


def _document(document: Document, where: str) -> dict[str, Any]:
    if document.url and document.media_type in ("", "application/pdf"):
        source = _linked(document.url, where)
    elif document.media_type == "application/pdf" and not document.url:
        source = {"type": "base64", "media_type": document.media_type, "data": document.data}
    elif document.media_type == "text/plain" and not document.url:
        try:
            text = b64decode(document.data, validate=True).decode()
        except ValueError:
            raise Untranslatable(where, "a text that is no UTF-8") from None
        source = {"type": "text", "media_type": "text/plain", "data": text}
    else:
        raise Untranslatable(where, f"Anthropic reads no documents of the type {document.media_type!r}")
    block: dict[str, Any] = {"type": "document", "source": source}
    if document.name:
        block["title"] = document.name
    return _marked(block, document.cache)


# --- what is asked ------------------------------------------------------------------------------------------------


def _tools(asked: Asked, can: Takes, body: dict[str, Any]) -> None:
    choice = asked.tool_choice
    if not asked.tools:
        if choice.mode in ("required", "tool"):
            raise Untranslatable("tool_choice", "there is no tool to use")
        used = {part.name for message in asked.messages for part in message.parts if isinstance(part, ToolUse)}
        if used:  # what an earlier message used must be defined, and may not be used again
            body["tools"] = [{"name": name, "input_schema": {"type": "object"}} for name in sorted(used)]
            body["tool_choice"] = {"type": "none"}
        return
    body["tools"] = [_tool(tool, can, f"tools[{number}]") for number, tool in enumerate(asked.tools)]
    said: dict[str, Any] | None = None
    match choice.mode:
        case "none":
            body["tool_choice"] = {"type": "none"}
            return
        case "required" | "tool" if not can.forced_tools:
            raise Untranslatable("tool_choice", "this model cannot be made to use a tool")
        case "required":
            said = {"type": "any"}
        case "tool":
            said = {"type": "tool", "name": choice.named}
        case "auto" | None:
            said = {"type": "auto"} if choice.mode is not None or choice.parallel is not None else None
    if said is not None:
        if choice.parallel is not None:
            said["disable_parallel_tool_use"] = not choice.parallel
        body["tool_choice"] = said


def _tool(tool: Tool, can: Takes, where: str) -> dict[str, Any]:
    if not _TOOL_NAME.fullmatch(tool.name):
        raise Untranslatable(f"{where}.name", "Anthropic takes letters, digits, _ and -, at most 128")
    schema = tool.schema if tool.schema is not None else {"type": "object"}
    if "type" not in schema:
        schema = {"type": "object", **schema}
    if schema["type"] != "object" or any(each in schema for each in ("anyOf", "oneOf", "allOf")):
        raise Untranslatable(f"{where}.input_schema", "Anthropic wants an object, and no choice of several")
    said: dict[str, Any] = {"name": tool.name, "input_schema": schema}
    if tool.description:
        said["description"] = tool.description
    if tool.strict and not can.schemas:
        raise Untranslatable(f"{where}.strict", "this model is not held to a tool's schema")
    if tool.strict:
        said["input_schema"] = check_schema(schema, f"{where}.input_schema")
    if tool.strict is not None and can.schemas:
        said["strict"] = tool.strict
    return _marked(said, tool.cache)


def _format(asked: Asked, can: Takes) -> dict[str, Any]:
    wanted = asked.format
    assert wanted is not None
    if wanted.schema is None:
        raise Untranslatable("response_format", "Anthropic answers in JSON by a schema alone")
    if not can.schemas:
        raise Untranslatable("response_format", "this model is not held to a schema")
    schema = check_schema(wanted.schema, "response_format")
    if wanted.description and "description" not in schema:
        schema = {"description": wanted.description, **schema}
    return {"type": "json_schema", "schema": schema}


# --- thinking -----------------------------------------------------------------------------------------------------


def _thinking(asked: Asked, can: Takes, body: dict[str, Any]) -> None:
    cap, effort, tokens = asked.output_cap, asked.effort, asked.thinking_tokens
    thinking: dict[str, Any] | None = None
    if tokens == 0 or effort == "none":
        if can.off is None:
            raise Untranslatable("thinking", "this model always thinks")
        thinking = {"type": can.off} if can.off else None
    elif can.thinking == "" and (effort or tokens):
        raise Untranslatable("thinking", "this model does not think")
    elif can.thinking == "budget" or (can.thinking == "both" and (tokens or 0) >= BUDGET_MIN):
        if effort and can.efforts:
            body["output_config"] = {"effort": _nearest(effort, can.efforts)}
        if (budget := _budget(asked)) and not _lost_thoughts(asked.messages):
            thinking, cap = _with_budget(budget, asked, can)
    elif effort or tokens is not None:
        thinking = {"type": "adaptive"}
        if effort or (tokens is not None and tokens > 0):
            wanted = effort or _effort_for(tokens or 0)
            body["output_config"] = {"effort": _nearest(wanted, can.efforts)}
    elif asked.show_thinking and can.thinks:
        thinking = {"type": "adaptive"}
    if thinking is not None:
        if thinking["type"] in ("enabled", "adaptive"):
            thinking["display"] = "summarized" if asked.show_thinking else "omitted"
        body["thinking"] = thinking
    most = OUTPUT_DEFAULT if cap is None else cap
    body["max_tokens"] = most if can.output_max is None else min(most, can.output_max)


def _nearest(effort: str, efforts: tuple[str, ...]) -> str:
    below = [each for each in efforts if EFFORTS.index(each) <= EFFORTS.index(effort)]
    return below[-1] if below else efforts[0]


def _effort_for(tokens: int) -> str:
    return next((effort for effort in ("low", "medium", "high") if tokens <= THOUGHT_TOKENS[effort]), "xhigh")


def _budget(asked: Asked) -> int:
    if asked.effort:
        return THOUGHT_TOKENS.get(asked.effort, _MOST_THOUGHT)
    return THOUGHT_TOKENS["medium"] if asked.thinking_tokens == -1 else asked.thinking_tokens or 0


def _with_budget(budget: int, asked: Asked, can: Takes) -> tuple[dict[str, Any] | None, int | None]:
    """The thinking of a model that takes a budget, and the cap with it. A budget is less than the cap (Anthropic)."""
    cap = asked.output_cap
    if asked.tool_choice.mode in ("required", "tool") and asked.tools:
        if can.efforts and asked.effort:
            return None, cap
        raise Untranslatable("tool_choice", "with a budget of thought Anthropic lets no tool be forced")
    if cap is None:
        cap = OUTPUT_DEFAULT + budget if can.output_max is None else min(OUTPUT_DEFAULT + budget, can.output_max)
    room = min(cap, can.output_max or cap)
    if asked.effort or asked.thinking_tokens == -1:  # the size of the budget is ours: half of a small cap
        budget = budget if budget < room else max(BUDGET_MIN, room // 2)
        return ({"type": "enabled", "budget_tokens": budget} if budget < room else None), cap
    budget = min(budget, room - 1)
    if budget < BUDGET_MIN:
        raise Untranslatable(
            "thinking", f"Anthropic takes a budget of thought from {BUDGET_MIN:,} tokens on, below the cap"
        )
    return {"type": "enabled", "budget_tokens": budget}, cap


def _lost_thoughts(messages: tuple[Message, ...]) -> bool:
    """Whether tools have answered the last turn and its thoughts are not with it (rule 4)."""
    turn: Message | None = None  # the first message of the assistant's turn
    answered, before = False, "user"
    for message in messages:
        if message.role == "user":
            results = any(isinstance(part, ToolResult) for part in message.parts)
            answered = results or (answered and before == "user")
        elif before == "user" and not answered:
            turn = message
        before = message.role
    if turn is None or not answered:
        return False
    start = turn.parts[0] if turn.parts else None
    return not (isinstance(start, Thinking) and start.origin == "anthropic" and bool(start.signature or start.hidden))


def _sampling(asked: Asked, can: Takes, body: dict[str, Any]) -> None:
    temperature, top_p, top_k = asked.temperature, asked.top_p, asked.top_k
    if temperature is not None and not 0 <= temperature <= 1:
        raise Untranslatable("temperature", "Anthropic takes 0 to 1")
    if can.sampling == "default":
        said = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        for name, value in said.items():
            if value is not None and (value != 1 or name == "top_k"):
                raise Untranslatable(name, "this model takes the default alone")
        return
    if body.get("thinking", {}).get("type") in ("enabled", "adaptive"):
        if temperature not in (None, 1):
            raise Untranslatable("temperature", "with thinking Anthropic takes a temperature of 1 alone")
        if top_k is not None or (top_p is not None and top_p < 0.95):
            raise Untranslatable(
                "top_p" if top_k is None else "top_k", "with thinking Anthropic takes none, or 0.95 to 1"
            )
    if can.sampling == "one" and temperature is not None and top_p is not None:
        if top_p != 1 and temperature != 1:
            raise Untranslatable("top_p", "this model takes a temperature or a top_p, not both")
        temperature, top_p = (temperature, None) if top_p == 1 else (None, top_p)
    said = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    body.update({name: value for name, value in said.items() if value is not None})
