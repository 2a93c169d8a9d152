"""Anthropic's messages request, read as a conversation.

Rule 1: every field that Anthropic documents is a field here. What only Anthropic has is named with the reason in
        ``ANTHROPIC_ALONE``; what changes neither answer nor cost elsewhere in ``LEFT_OUT``. A field or a block that is not
        known raises Untranslatable, with its path.
Rule 2: turns of the same role that follow each other are one turn, as Anthropic reads them.
Rule 3: of an effort and a budget of thought the effort counts: the budget only bounds what the effort asks for.
Rule 4: a last message of the assistant is the beginning of its answer. No other dialect continues it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct

from bursar.core.ladder import EFFORTS
from bursar.wire.anthropic import DIALECT
from bursar.wire.dialect import UNREADABLE, BadRequest, bad_request, named

from .anthropic_marks import id_without_signature, thinking_of
from .anthropic_models import takes
from .conversation import (
    Asked,
    Document,
    Format,
    Image,
    Message,
    Part,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Untranslatable,
)

__all__ = ["ANTHROPIC_ALONE", "LEFT_OUT", "read_request"]

LEFT_OUT: Final = frozenset(
    {
        "metadata",  # who the end user is: Anthropic looks for abuse by it
        "service_tier",  # whether to use capacity that was bought at Anthropic
        "diagnostics",  # asks why Anthropic's cache was missed
        "anthropic_version", "anthropic_beta",  # how Bedrock and Vertex AI say the headers of those names
    }
)  # fmt: skip

ANTHROPIC_ALONE: Final[dict[str, str]] = {
    "container": "only Anthropic has containers and skills",
    "mcp_servers": "only Anthropic calls these servers itself",
    "inference_geo": "where the answer is made can only be said to Anthropic",
    "speed": "only Anthropic sells this speed",
    "compaction": "only Anthropic summarizes a conversation itself",
    "thread": "only Anthropic holds this conversation",
    "fallbacks": "only Anthropic tries other models of its own",
    "fallback_credit_token": "only Anthropic redeems it",
    "billing_policy": "only Anthropic bills somebody else",
}
_USUAL: Final = {"inference_geo": "global", "speed": "standard"}
"""What asks for nothing special."""


class _In(Struct, forbid_unknown_fields=True):
    pass


class _Cache(_In):
    type: Literal["ephemeral"] = "ephemeral"
    ttl: Literal["5m", "1h"] | None = None


class _Block(_In, tag_field="type", kw_only=True):
    cache_control: _Cache | None = None


class _Base64(_In, tag_field="type", tag="base64"):
    media_type: str
    data: str


class _Url(_In, tag_field="type", tag="url"):
    url: str


class _Plain(_In, tag_field="type", tag="text"):
    data: str
    media_type: str = "text/plain"


class _TextIn(_Block, tag="text"):
    text: str
    citations: Any = None


class _ImageIn(_Block, tag="image"):
    source: _Base64 | _Url
    transformations: dict[str, Any] | None = None


class _DocumentIn(_Block, tag="document"):
    source: _Base64 | _Url | _Plain
    citations: dict[str, Any] | None = None
    context: str | None = None
    title: str | None = None


class _ThinkingIn(_Block, tag="thinking"):
    thinking: str
    signature: str = ""


class _HiddenIn(_Block, tag="redacted_thinking"):
    data: str


class _UseIn(_Block, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw
    caller: dict[str, Any] | None = None
    toolset_name: str | None = None


class _ResultIn(_Block, tag="tool_result"):
    tool_use_id: str
    content: str | list[_TextIn | _ImageIn | _DocumentIn] | None = None
    is_error: bool | None = None
    toolset_name: str | None = None


_BlockIn: TypeAlias = _TextIn | _ImageIn | _DocumentIn | _ThinkingIn | _HiddenIn | _UseIn | _ResultIn


class _MessageIn(_In):
    role: str
    content: str | list[_BlockIn]


class _ToolIn(_In):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: _Cache | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None
    input_examples: list[Any] | None = None


class _ChoiceIn(_In):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _ThinkIn(_In):
    type: str
    budget_tokens: int | None = None
    display: str | None = None


class _FormatIn(_In):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _OutputIn(_In):
    effort: str | None = None
    format: _FormatIn | None = None
    task_budget: Any = None


class _RequestIn(_In):
    messages: list[_MessageIn]
    max_tokens: int
    model: str = ""
    system: str | list[_TextIn] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: _ChoiceIn | None = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    thinking: _ThinkIn | None = None
    output_config: _OutputIn | None = None
    output_format: _FormatIn | None = None
    cache_control: _Cache | None = None
    context_management: dict[str, Any] | None = None
    container: Any = None
    mcp_servers: Any = None
    inference_geo: Any = None
    speed: Any = None
    compaction: Any = None
    thread: Any = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    billing_policy: Any = None
    metadata: Any = None
    service_tier: Any = None
    diagnostics: Any = None
    anthropic_version: Any = None
    anthropic_beta: Any = None


_REQUEST: Final = msgspec.json.Decoder(_RequestIn)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field (\S+)")
_UNKNOWN_TYPE: Final = re.compile(r"Invalid value '(.*)'")


def read_request(path: str, body: bytes) -> Asked:
    """The conversation that a messages request asks to go on. Raises Untranslatable, BadRequest."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise _refusal(error) from None
    model = request.model or DIALECT.path_model(path)
    if not model:
        raise BadRequest("model", "the request names no model")
    _refuse(request)
    stream = bool(request.stream) or ":streamRawPredict" in path
    effort, thinking_tokens, show = _thinking(request, model)
    return Asked(
        model=model,
        messages=_messages(request),
        system=_system(request.system),
        tools=tuple(_tool(number, tool) for number, tool in enumerate(request.tools or ())),
        tool_choice=_choice(request.tool_choice),
        output_cap=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=tuple(request.stop_sequences or ()),
        effort=effort,
        thinking_tokens=thinking_tokens,
        show_thinking=show,
        format=_format(request),
        stream=stream,
        asks_usage=stream,
    )


def _refusal(error: Exception, prefix: str = "") -> Untranslatable | BadRequest:
    field, fault = named(error)
    field = ".".join(each for each in (prefix, field) if each)
    if isinstance(error, msgspec.ValidationError):
        if (match := _UNKNOWN_FIELD.match(fault)) is not None:
            return Untranslatable(f"{field}.{match[1]}".lstrip("."), "a field that only Anthropic reads")
        if field.endswith("type") and (match := _UNKNOWN_TYPE.match(fault)) is not None:
            return Untranslatable(field, f"only Anthropic reads {match[1]!r}")
    return BadRequest(field, fault) if field else bad_request(error)


def _refuse(request: _RequestIn) -> None:
    for field, why in ANTHROPIC_ALONE.items():
        said: Any = getattr(request, field)
        if said and said != _USUAL.get(field):
            raise Untranslatable(field, why)
    if request.max_tokens < 1:
        if request.max_tokens < 0:
            raise BadRequest("max_tokens", "must not be negative")
        raise Untranslatable("max_tokens", "0 asks to fill the cache without an answer, which only Anthropic does")
    if request.output_config is not None and request.output_config.task_budget is not None:
        raise Untranslatable("output_config.task_budget", "only Anthropic paces a task by it")
    edits: Any = (request.context_management or {}).get("edits") or []
    if not isinstance(edits, list):
        raise BadRequest("context_management.edits", "must be a list")
    for number, edit in enumerate(cast("list[Any]", edits)):
        kind: Any = cast("dict[str, Any]", edit).get("type") if isinstance(edit, dict) else None
        if not str(kind).startswith("clear_thinking_"):  # thinking is left out elsewhere in any case
            raise Untranslatable(f"context_management.edits[{number}]", "only Anthropic edits a conversation itself")


# --- what is said -------------------------------------------------------------------------------------------------


def _system(system: str | list[_TextIn] | None) -> tuple[Text, ...]:
    if not system:
        return ()
    if isinstance(system, str):
        return (Text(system),)
    return tuple(_text(block, f"system[{number}]") for number, block in enumerate(system))


def _messages(request: _RequestIn) -> tuple[Message, ...]:
    if not request.messages:
        raise BadRequest("messages", "at least one message is required")
    names: dict[str, str] = {}
    turns: list[tuple[str, list[Part]]] = []
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        if message.role not in ("user", "assistant", "system"):
            raise BadRequest(f"{where}.role", "must be user, assistant or system")
        if isinstance(message.content, str):
            parts: list[Part] = [Text(message.content)]
        else:
            parts = [_part(block, names, f"{where}.content[{at}]") for at, block in enumerate(message.content)]
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(parts)
        else:
            turns.append((message.role, parts))
    if turns[-1][0] == "assistant":
        raise Untranslatable(f"messages[{len(request.messages) - 1}]", "only Anthropic continues an answer begun here")
    if request.cache_control is not None:
        _mark_last(turns[-1][1], request.cache_control.ttl or "5m")
    return tuple(
        Message("assistant" if role == "assistant" else "user", tuple(parts), system=role == "system")
        for role, parts in turns
    )


def _mark_last(parts: list[Part], ttl: str) -> None:
    """A mark of the whole request stands at its last block."""
    if parts and isinstance(last := parts[-1], Text | Image | Document | ToolUse | ToolResult) and not last.cache:
        parts[-1] = replace(last, cache=ttl)


def _part(block: _BlockIn, names: dict[str, str], where: str) -> Part:
    match block:
        case _TextIn():
            return _text(block, where)
        case _ImageIn() | _DocumentIn():
            return _media(block, where)
        case _ThinkingIn():
            return thinking_of(block.thinking, block.signature)
        case _HiddenIn():
            return thinking_of("", "", block.data)
        case _UseIn():
            arguments = bytes(block.input).decode()
            if (block.caller or {}).get("type", "direct") != "direct" or block.toolset_name:
                raise Untranslatable(where, "a tool that something at Anthropic called")
            if arguments[:1] != "{":
                raise BadRequest(f"{where}.input", "must be an object")
            names[block.id] = block.name
            tool_id, signature = id_without_signature(block.id)
            return ToolUse(tool_id, block.name, arguments, signature, _cache(block))
        case _ResultIn():
            if block.toolset_name:
                raise Untranslatable(where, "a result of a tool that is Anthropic's own")
            content: list[Any] = [Text(block.content)] if block.content and isinstance(block.content, str) else []
            if isinstance(block.content, list):
                content = [
                    _text(each, where) if isinstance(each, _TextIn) else _media(each, where) for each in block.content
                ]
            tool_id = id_without_signature(block.tool_use_id)[0]
            name = names.get(block.tool_use_id, "")
            return ToolResult(tool_id, name, tuple(content), bool(block.is_error), _cache(block))


def _cache(block: _Block | _ToolIn) -> str:
    return (block.cache_control.ttl or "5m") if block.cache_control is not None else ""


def _text(block: _TextIn, where: str) -> Text:
    if block.citations:
        raise Untranslatable(f"{where}.citations", "only Anthropic reads citations")
    return Text(block.text, _cache(block))


def _media(block: _ImageIn | _DocumentIn, where: str) -> Image | Document:
    cache = _cache(block)
    if isinstance(block, _ImageIn):
        if (block.transformations or {}).get("oversized_image", "downsize") != "downsize":
            raise Untranslatable(f"{where}.transformations", "only Anthropic refuses images by their size")
        if isinstance(block.source, _Url):
            return Image(url=block.source.url, cache=cache)
        return Image(media_type=block.source.media_type, data=block.source.data, cache=cache)
    if (block.citations or {}).get("enabled"):
        raise Untranslatable(f"{where}.citations", "only Anthropic cites documents")
    if block.context:
        raise Untranslatable(f"{where}.context", "only Anthropic takes a context beside a document")
    name = block.title or ""
    match source := block.source:
        case _Base64():
            return Document(media_type=source.media_type, data=source.data, name=name, cache=cache)
        case _Url():
            return Document(media_type="application/pdf", url=source.url, name=name, cache=cache)
        case _Plain():
            data = b64encode(source.data.encode()).decode()
            return Document(media_type=source.media_type, data=data, name=name, cache=cache)


# --- what is asked ------------------------------------------------------------------------------------------------


def _tool(number: int, said: dict[str, Any]) -> Tool:
    where = f"tools[{number}]"
    if said.get("type") not in (None, "custom"):
        raise Untranslatable(f"{where}.type", f"{said['type']!r} is a tool that only Anthropic has")
    try:
        tool = msgspec.convert(said, _ToolIn)
    except UNREADABLE as error:
        raise _refusal(error, where) from None
    if tool.defer_loading:
        raise Untranslatable(f"{where}.defer_loading", "only Anthropic loads tools when it has found them")
    if tool.allowed_callers not in (None, [], ["direct"]):
        raise Untranslatable(f"{where}.allowed_callers", "only Anthropic's own code calls tools")
    if tool.input_examples:
        raise Untranslatable(f"{where}.input_examples", "only Anthropic takes examples of a tool's input")
    schema = None if tool.input_schema == {"type": "object"} else tool.input_schema
    return Tool(tool.name, tool.description or "", schema, tool.strict, _cache(tool))


def _choice(choice: _ChoiceIn | None) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    parallel = None if choice.disable_parallel_tool_use is None else not choice.disable_parallel_tool_use
    match choice.type:
        case "auto" | "none":
            return ToolChoice(choice.type, "", parallel)
        case "any":
            return ToolChoice("required", "", parallel)
        case "tool" if choice.name:
            return ToolChoice("tool", choice.name, parallel)
        case "tool":
            raise BadRequest("tool_choice.name", "the tool to use must be named")
        case _:
            raise BadRequest("tool_choice.type", "must be auto, any, tool or none")


def _format(request: _RequestIn) -> Format | None:
    said = (request.output_config.format if request.output_config is not None else None) or request.output_format
    return Format(schema=said.schema, held=True) if said is not None else None


def _thinking(request: _RequestIn, model: str) -> tuple[str, int | None, bool]:
    effort = (request.output_config.effort if request.output_config is not None else None) or ""
    if effort and effort not in EFFORTS:
        raise BadRequest("output_config.effort", f"must be one of {', '.join(EFFORTS)}")
    thinking = request.thinking
    if thinking is None:
        return effort, None, False
    show = thinking.display != "omitted" if thinking.display else takes(model).shows
    match thinking.type:
        case "disabled" | "between_tools":
            if effort not in ("", "high"):
                raise Untranslatable("output_config.effort", "only Anthropic takes an effort without thinking")
            return "", 0, False
        case "adaptive":
            return effort, None if effort else -1, show
        case "enabled" if thinking.budget_tokens is not None and thinking.budget_tokens > 0:
            return effort, None if effort else thinking.budget_tokens, show
        case "enabled":
            raise BadRequest("thinking.budget_tokens", "must be a number of tokens")
        case _:
            raise Untranslatable("thinking.type", f"only Anthropic reads {thinking.type!r}")
