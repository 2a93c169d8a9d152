"""Requests to Gemini's generateContent, written.

Rule 1: schemas are JSON Schema (``parametersJsonSchema``, ``responseJsonSchema``): every model that is served takes it.
Rule 2: a function's answer is ``{"output": text}`` or ``{"error": text}``, as documented; several texts are lines of one.
Rule 3: what a strict tool asks for, arguments that fit its schema, is the mode VALIDATED, and part of ANY.
Rule 4: thoughts that another provider signed are left out. A turn of function calls that Gemini did not make carries the mark
        ``NOT_SIGNED`` on the first one, from Gemini 3 on.
Rule 5: empty texts are left out, for Gemini refuses them; a prefix that is to be cached is cached by itself.
Rule 6: a document's name is said in a text before it: the API refuses the field that it has for it (``displayName``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from bursar.wire.dialect import UNREADABLE

from .conversation import (
    Asked,
    Audio,
    Document,
    Format,
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
from .gemini_marks import NOT_SIGNED, signature_of
from .gemini_models import generation, thinking_config
from .gemini_reading import MEDIA_TYPES

__all__ = ["answer_parts", "write_request"]

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_STOPS_MAX: Final = 5
_TEMPERATURE_MAX: Final = 2.0
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}


def write_request(asked: Asked, model: str) -> Sent:
    """Raises Untranslatable."""
    version = generation(model)
    body: dict[str, Any] = {"contents": _contents(asked, version)}
    system = [{"text": text.text} for text in asked.system if text.text]
    if system:
        body["systemInstruction"] = {"parts": system}
    if asked.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in asked.tools]}]
    calling = _calling(asked)
    if calling:
        body["toolConfig"] = {"functionCallingConfig": calling}
    config = _config(asked, model, version)
    if config:
        body["generationConfig"] = config
    operation = "streamGenerateContent" if asked.stream else "generateContent"
    path = f"/v1beta/models/{quote(model.removeprefix('models/'), safe='')}:{operation}"
    return Sent(path, "alt=sse" if asked.stream else "", msgspec.json.encode(body))


# --- what is set --------------------------------------------------------------------------------------------------


def _config(asked: Asked, model: str, version: tuple[int, int] | None) -> dict[str, Any]:
    _within_limits(asked, version)
    config: dict[str, Any] = {
        "maxOutputTokens": asked.output_cap,
        "temperature": asked.temperature,
        "topP": asked.top_p,
        "topK": asked.top_k,
        "stopSequences": list(asked.stop) or None,
        "seed": asked.seed,
        "presencePenalty": asked.presence_penalty,
        "frequencyPenalty": asked.frequency_penalty,
    }
    thinking = thinking_config(model, asked.effort, asked.thinking_tokens, shown=asked.show_thinking)
    config["thinkingConfig"] = thinking or None
    config["mediaResolution"] = _resolution(asked.messages)
    if asked.format is not None:
        if asked.tools and version is not None and version < (3, 0):
            raise Untranslatable("format", "before Gemini 3 an answer in JSON and tools exclude each other")
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = _described(asked.format)
    return {name: value for name, value in config.items() if value is not None}


def _within_limits(asked: Asked, version: tuple[int, int] | None) -> None:
    if asked.choices != 1:
        raise Untranslatable("choices", "a translated answer is one answer")
    if len(asked.stop) > _STOPS_MAX:
        raise Untranslatable("stop", f"Gemini takes {_STOPS_MAX} stop sequences, not {len(asked.stop)}")
    if asked.temperature is not None and not 0 <= asked.temperature <= _TEMPERATURE_MAX:
        raise Untranslatable("temperature", f"Gemini takes 0 to 2, not {asked.temperature}")
    for field in ("presence_penalty", "frequency_penalty"):
        penalty: float | None = getattr(asked, field)
        if penalty and version is not None and version >= (4, 0):
            raise Untranslatable(field, "Gemini 4 takes no penalties")
        if penalty is not None and not -2 <= penalty < 2:
            raise Untranslatable(field, f"Gemini takes -2 to less than 2, not {penalty}")
    if asked.seed is not None and not -(2**31) <= asked.seed < 2**31:
        raise Untranslatable("seed", "Gemini takes 32 bits")
    last = asked.messages[-1] if asked.messages else None
    if version is not None and version >= (4, 0) and last is not None and last.role == "assistant":
        raise Untranslatable("messages", "Gemini 4 does not go on with an answer that was begun")


def _described(form: Format) -> dict[str, Any] | None:
    """The schema of the answer, with what is said of it."""
    if form.schema is None or not form.description:
        return form.schema
    own = form.schema.get("description")
    return {**form.schema, "description": f"{form.description}\n{own}" if own else form.description}


def _resolution(messages: Iterable[Message]) -> str | None:
    """The resolution of all media; Gemini has one for each only in its newest versions."""
    media = [inner for message in messages for part in message.parts for inner in (part, *getattr(part, "parts", ()))]
    details = {part.detail for part in media if isinstance(part, Image)}
    if not details - {"", "auto", "high"}:
        return None
    if details == {"low"} and not any(isinstance(part, Document) for part in media):
        return "MEDIA_RESOLUTION_LOW"
    raise Untranslatable("detail", "Gemini reads all images of a request at its high resolution, or all at its low one")


def _declaration(tool: Tool) -> dict[str, Any]:
    if not _NAME.fullmatch(tool.name):
        raise Untranslatable("tools.name", f"Gemini does not take {tool.name[:60]!r} as the name of a function")
    declared: dict[str, Any] = {"name": tool.name}
    if tool.description:
        declared["description"] = tool.description
    if tool.schema is not None:
        declared["parametersJsonSchema"] = tool.schema
    return declared


def _calling(asked: Asked) -> dict[str, Any]:
    choice = asked.tool_choice
    if not asked.tools:
        if choice.mode in ("required", "tool"):
            raise Untranslatable("tool_choice", "there are no functions to call")
        return {}
    if choice.parallel is False:
        raise Untranslatable("tool_choice.parallel", "Gemini may call several functions at once")
    if any(tool.strict for tool in asked.tools) and choice.mode in (None, "auto"):
        return {"mode": "VALIDATED"}
    if choice.mode is None:
        return {}
    calling: dict[str, Any] = {"mode": _MODES[choice.mode]}
    if choice.mode == "tool":
        calling["allowedFunctionNames"] = [choice.named]
    return calling


# --- what was said ------------------------------------------------------------------------------------------------


def _contents(asked: Asked, version: tuple[int, int] | None) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    open_results = False
    for message in asked.messages:
        if message.system:
            raise Untranslatable("messages", "Gemini takes no instructions in the middle of a conversation")
        if message.name:
            raise Untranslatable("messages.name", "Gemini does not know speakers by name")
        kept = [part for part in message.parts if not _left_out(part)]
        called |= {part.id: part.name for part in kept if isinstance(part, ToolUse)}
        parts = list(_parts(_with_names(kept), called, version))
        if not parts:
            continue
        results = message.role == "user" and all(isinstance(part, ToolResult) for part in kept)
        if results and open_results:  # what answers the calls of one turn is one content
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": "model" if message.role == "assistant" else "user", "parts": parts})
        open_results = results
    if not contents:
        raise Untranslatable("messages", "Gemini takes no empty conversation")
    return contents


def _with_names(parts: Iterable[Part]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, Document) and part.name:
            yield Text(f"Document: {part.name}")
        yield part


def _left_out(part: Part) -> bool:
    return isinstance(part, Thinking) and part.origin not in ("", "gemini")


def _parts(parts: Iterable[Part], called: dict[str, str], version: tuple[int, int] | None) -> Iterator[dict[str, Any]]:
    marked = version is not None and version >= (3, 0)
    for part in answer_parts(parts, marked=marked):
        yield part if isinstance(part, dict) else _given(part, called, version)


def answer_parts(parts: Iterable[Part], *, marked: bool = True) -> Iterator[dict[str, Any] | Part]:
    """What a model can say, as Gemini's parts; what only a user can say, as it is.

    A signature without a text of its own belongs to the text before it. ``marked``: where the first function call has no
    signature, it says so. Raises Untranslatable for arguments of a tool that are no object.
    """
    text: dict[str, Any] | None = None
    for part in parts:
        match part:
            case Text():
                if text is not None:
                    yield text
                text = {"text": part.text} if part.text else None
                continue
            case Thinking(text="", origin="gemini", hidden="") if text is not None:
                text["thoughtSignature"] = part.signature
                said = None
            case Thinking():
                said = _thought(part)
            case ToolUse():
                said = _call(part, NOT_SIGNED if marked else "")
                marked = False
            case _:
                said = part
        if text is not None:
            yield text
            text = None
        if said is not None:
            yield said
    if text is not None:
        yield text


def _thought(thinking: Thinking) -> dict[str, Any] | None:
    said: dict[str, Any] = {"text": thinking.text}
    signature = signature_of(thinking)
    if signature:
        said["thoughtSignature"] = signature
    if thinking.text or thinking.origin != "gemini":
        said["thought"] = True
    return said if thinking.text or signature else None


def _call(use: ToolUse, mark: str) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(use.arguments or "{}", type=dict[str, Any])
    except UNREADABLE:
        raise Untranslatable("messages.arguments", f"the arguments of {use.id[:60]!r} are no JSON object") from None
    said: dict[str, Any] = {"functionCall": {"id": use.id, "name": use.name, "args": arguments}}
    if use.signature or mark:
        said["thoughtSignature"] = use.signature or mark
    return said


def _given(part: Part, called: dict[str, str], version: tuple[int, int] | None) -> dict[str, Any]:
    match part:
        case Image() | Document():
            return _medium(part)
        case Audio():
            return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
        case ToolResult():
            return _response(part, called, version)
        case Text() | Thinking() | ToolUse():
            raise AssertionError(part)  # answer_parts has written them


def _medium(part: Image | Document) -> dict[str, Any]:
    if not part.url:
        return {"inlineData": {"mimeType": part.media_type, "data": part.data}}
    ending = urlsplit(part.url).path.rpartition(".")[2].lower()
    media_type = part.media_type or MEDIA_TYPES.get(ending, "" if isinstance(part, Image) else "application/pdf")
    return {"fileData": {"fileUri": part.url, **({"mimeType": media_type} if media_type else {})}}


def _response(result: ToolResult, called: dict[str, str], version: tuple[int, int] | None) -> dict[str, Any]:
    name = result.name or called.get(result.id, "")
    if not name:
        raise Untranslatable("messages", f"no tool use comes before the result of {result.id[:60]!r}")
    media = [part for part in result.parts if not isinstance(part, Text)]
    if media and version is not None and version < (3, 0):
        raise Untranslatable("messages", "before Gemini 3 a function answers no images or documents")
    text = "\n".join(part.text for part in _with_names(result.parts) if isinstance(part, Text))
    said: dict[str, Any] = {"id": result.id, "name": name, "response": {"error" if result.is_error else "output": text}}
    if media:
        said["parts"] = [_medium(part) for part in media]
    return {"functionResponse": said}
