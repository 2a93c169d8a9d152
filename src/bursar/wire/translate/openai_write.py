"""Conversations, written as requests of OpenAI's chat completions.

Rule 1: what a model is known to refuse is refused before it is asked. Reasoning models take no sampling parameters while
        they reason, and those before GPT-5.5 no stop sequences. (OpenAI, reasoning guide; error messages of the API)
Rule 2: an effort is a word of degree, and each model has its own: the highest that it takes up to the one asked for, else
        its least. A budget of thinking becomes the effort that Google's compatible API gives it (``THOUGHT_TOKENS``). A
        model that cannot think is refused where thinking is asked for, and simply asked where none is.
Rule 3: what tools answered comes first in its turn, as the API wants it: right after the uses. Their results are text;
        the API cannot mark an error, so its text begins with "Error: ".
Rule 4: no thoughts are sent: the API has no field for them, and some that speak it refuse what they do not know. To show
        them cannot be asked for either; an answer without them is still the answer.
Rule 5: cache marks are left out: OpenAI caches prefixes by itself.
Rule 6: a file is a PDF; a file of text is sent as the text it is, as OpenAI advises, after its name. (OpenAI, "File inputs")
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from bursar.core.ladder import EFFORTS
from bursar.wire.shape_openai import ChatRequests
from bursar.wire.shaping import THOUGHT_TOKENS, openai_efforts

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
    ToolChoice,
    ToolResult,
    ToolUse,
    Untranslatable,
)
from .openai_read import AUDIO_TYPES, UNNAMED_FILE, UNNAMED_FORMAT
from .openai_schema import held_schema, strict_schema

__all__ = ["PATH", "tool_id", "write_request"]

PATH: Final = "/v1/chat/completions"

_ID_LENGTH_MAX: Final = 40
"""Of a tool use's id: "Expected a string with maximum length 40", says the API."""
_STOPS_MAX: Final = 4
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REASONERS: Final = re.compile(r"gpt-[5-9](?!\d)|o[134](?!\d)")
_PLAIN: Final = re.compile(r"gpt-[34]|chatgpt|gpt-5(\.\d+)?-chat")
_NO_STOP: Final = re.compile(r"gpt-5(\.[0-4])?(?![.\d])|o[134](?!\d)")
_USUAL: Final = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0}
_TOOLS_MAX: Final = 128
_NO_LINK: Final = "chat completions take no links to documents"
_IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_FORMATS: Final[Mapping[str, str]] = {
    **{kind: name for name, kind in AUDIO_TYPES.items()},
    "audio/mpeg": "mp3",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
}


def write_request(asked: Asked, model: str, takes: ChatRequests) -> Sent:
    """Raises Untranslatable."""
    name = model.rpartition("/")[2].lower()
    effort = _effort(asked, model, name)
    body: dict[str, Any] = {"model": model, "messages": _messages(asked)}
    if len(asked.tools) > _TOOLS_MAX:
        raise Untranslatable("tools", f"{len(asked.tools)} tools are more than {_TOOLS_MAX}")
    if asked.tools:
        body["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(asked.tools)]
    body |= _choice(asked.tool_choice, with_tools=bool(asked.tools))
    if asked.output_cap is not None:
        body["max_completion_tokens" if _REASONERS.match(name) else takes.output_cap] = asked.output_cap
    body |= _sampling(asked, name, effort)
    if effort:
        body["reasoning_effort"] = effort
    if asked.format is not None:
        body["response_format"] = _format(asked)
    if asked.choices != 1:
        raise Untranslatable("choices", "one answer is translated")
    if asked.stream:
        body["stream"] = True
        if asked.asks_usage:
            body["stream_options"] = {"include_usage": True}
    return Sent(PATH, "", msgspec.json.encode(body))


# --- the fields beside the messages -----------------------------------------------------------------------------


def _effort(asked: Asked, model: str, name: str) -> str:
    effort = asked.effort
    if not effort:
        tokens = asked.thinking_tokens
        if tokens is None or tokens < 0:
            return ""
        effort = "none" if tokens == 0 else next((e for e in ("low", "medium") if tokens <= THOUGHT_TOKENS[e]), "high")
    if _PLAIN.match(name):
        if effort != "none":
            raise Untranslatable("effort", f"{model} does not reason")
        return ""
    takes = [each for each in EFFORTS if each in openai_efforts(model)[0]]
    if effort == "none" and "none" not in takes and not _REASONERS.match(name):
        return ""  # nobody knows whether it reasons at all: what it does unasked is the nearest to nothing
    return next((each for each in reversed(takes) if EFFORTS.index(each) <= EFFORTS.index(effort)), takes[0])


def _sampling(asked: Asked, name: str, effort: str) -> dict[str, Any]:
    if asked.top_k is not None:
        raise Untranslatable("top_k", "chat completions have no such field")
    said: dict[str, Any] = {
        field: value
        for field, value in (
            ("temperature", asked.temperature),
            ("top_p", asked.top_p),
            ("presence_penalty", asked.presence_penalty),
            ("frequency_penalty", asked.frequency_penalty),
        )
        if value is not None
    }
    if said and _REASONERS.match(name) and not _PLAIN.match(name):
        rests = effort in ("", "none") and "none" in openai_efforts(name)[0]
        for field, value in () if rests else tuple(said.items()):
            if value != _USUAL[field]:
                raise Untranslatable(field, f"{name} takes it only while it does not reason")
            del said[field]
    if not 0 <= (asked.temperature or 0) <= 2:
        raise Untranslatable("temperature", f"{asked.temperature} is not between 0 and 2")
    if asked.seed is not None:
        said["seed"] = asked.seed
    if asked.stop:
        if _NO_STOP.match(name) and not _PLAIN.match(name):
            raise Untranslatable("stop", f"{name} takes no stop sequences")
        if len(asked.stop) > _STOPS_MAX:
            raise Untranslatable("stop", f"{len(asked.stop)} stop sequences are more than {_STOPS_MAX}")
        said["stop"] = list(asked.stop)
    return said


def _tool(tool: Tool, at: str) -> dict[str, Any]:
    if _NAME.fullmatch(tool.name) is None:
        raise Untranslatable(f"{at}.name", f"{tool.name!r} is not 1 to 64 letters, digits, dashes and underscores")
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.schema is not None:
        function["parameters"] = strict_schema(tool.schema, f"{at}.parameters") if tool.strict else tool.schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice, *, with_tools: bool) -> dict[str, Any]:
    if not with_tools:
        if choice.mode in ("required", "tool"):
            raise Untranslatable("tool_choice", "there are no tools to choose from")
        return {}
    said: dict[str, Any] = {}
    if choice.mode == "tool":
        said["tool_choice"] = {"type": "function", "function": {"name": choice.named}}
    elif choice.mode is not None:
        said["tool_choice"] = choice.mode
    if choice.parallel is not None:
        said["parallel_tool_calls"] = choice.parallel
    return said


def _format(asked: Asked) -> dict[str, Any]:
    format_ = asked.format or Format()
    if format_.schema is None:
        texts = (*asked.system, *(part for message in asked.messages for part in message.parts))
        if not any(isinstance(part, Text) and "json" in part.text.lower() for part in texts):
            raise Untranslatable(
                "format", "chat completions answer in JSON only where a text asks for JSON by its name"
            )
        return {"type": "json_object"}
    name = format_.name or UNNAMED_FORMAT
    if _NAME.fullmatch(name) is None:
        raise Untranslatable("format.name", f"{name!r} is not 1 to 64 letters, digits, dashes and underscores")
    schema, strict = format_.schema, format_.strict
    if strict:
        schema = strict_schema(schema, "format.schema")
    elif strict is None and format_.held and (held := held_schema(schema)) is not None:
        schema, strict = held, True
    inner: dict[str, Any] = {"name": name, "schema": schema}
    if format_.description:
        inner["description"] = format_.description
    if strict is not None:
        inner["strict"] = strict
    return {"type": "json_schema", "json_schema": inner}


# --- messages ---------------------------------------------------------------------------------------------------


def _messages(asked: Asked) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    if asked.system:
        said.append({"role": "system", "content": _texts(asked.system)})
    for place, message in enumerate(asked.messages):
        at = f"messages[{place}]"
        if message.system:
            said.append({"role": "system", "content": _texts(message.parts)})
        elif message.role == "user":
            said += _user(message, at)
        else:
            said.append(_assistant(message, at))
    if asked.messages and asked.messages[-1].role == "assistant":
        raise Untranslatable(f"messages[{len(asked.messages) - 1}]", "chat completions do not continue a last answer")
    return said


def _texts(parts: Iterable[Part]) -> str | list[dict[str, Any]]:
    """A content of texts: one is said plainly."""
    texts = [part.text for part in parts if isinstance(part, Text)]
    if len(texts) < 2:
        return texts[0] if texts else ""
    return [{"type": "text", "text": text} for text in texts]


def _named(message: Message) -> dict[str, Any]:
    return {"name": message.name} if message.name else {}


def _user(message: Message, at: str) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for place, part in enumerate(message.parts):
        here = f"{at}.parts[{place}]"
        if isinstance(part, ToolResult):
            said.append({"role": "tool", "tool_call_id": tool_id(part.id), "content": _result(part, here)})
        else:
            parts += _parts(part, here)
    if not parts and said:
        return said
    plain = not parts or (len(parts) == 1 and parts[0]["type"] == "text")
    content = (parts[0]["text"] if parts else "") if plain else parts
    return [*said, {"role": "user", "content": content, **_named(message)}]


def _parts(part: Part, at: str) -> list[dict[str, Any]]:
    match part:
        case Text():
            return [{"type": "text", "text": part.text}]
        case Image():
            return [{"type": "image_url", "image_url": _image(part, at)}]
        case Document(media_type=kind) if kind.startswith("text/"):
            return [{"type": "text", "text": text.text} for text in _document_texts(part, at)]
        case Document():
            return [{"type": "file", "file": _file(part, at)}]
        case Audio():
            kind = _FORMATS.get(part.media_type)
            if kind is None:
                raise Untranslatable(at, f"chat completions take wav and mp3, not {part.media_type}")
            return [{"type": "input_audio", "input_audio": {"data": part.data, "format": kind}}]
        case ToolUse() | ToolResult() | Thinking():
            raise Untranslatable(at, "is not what a user says")


def _image(image: Image, at: str) -> dict[str, Any]:
    detail = {"detail": image.detail} if image.detail else {}
    if image.url:
        if not image.url.startswith(("https://", "http://")):
            raise Untranslatable(at, "the image is no link that anybody can follow")
        return {"url": image.url, **detail}
    if image.media_type not in _IMAGES:
        raise Untranslatable(at, f"chat completions take png, jpeg, gif and webp, not {image.media_type}")
    return {"url": f"data:{image.media_type};base64,{image.data}", **detail}


def _file(document: Document, at: str) -> dict[str, Any]:
    if document.url:
        raise Untranslatable(at, _NO_LINK)
    if document.media_type != "application/pdf":
        raise Untranslatable(at, f"chat completions take PDF files, not {document.media_type}")
    data = f"data:{document.media_type};base64,{document.data}"
    return {"filename": document.name or UNNAMED_FILE, "file_data": data}


def _document_texts(document: Document, at: str) -> list[Text]:
    """A file of text, after its name where it has one."""
    if document.url:
        raise Untranslatable(at, _NO_LINK)
    try:
        text = base64.b64decode(document.data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Untranslatable(at, "the document's text is not UTF-8 in base64") from None
    return [Text(f"Document: {document.name}"), Text(text)] if document.name else [Text(text)]


def _result(result: ToolResult, at: str) -> str | list[dict[str, Any]]:
    texts: list[Text] = []
    for part in result.parts:
        match part:
            case Text():
                texts.append(part)
            case Document(media_type=kind) if kind.startswith("text/"):
                texts += _document_texts(part, at)
            case Image() | Document():
                raise Untranslatable(at, "chat completions take text alone from a tool")
    if result.is_error and not (texts and texts[0].text.lower().lstrip().startswith("error")):
        first = texts[0].text if texts else ""
        texts = [Text(f"Error: {first}" if first else "Error"), *texts[1:]]
    return _texts(texts)


def _assistant(message: Message, at: str) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    for place, part in enumerate(message.parts):
        match part:
            case ToolUse():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": tool_id(part.id), "type": "function", "function": function})
            case Text() | Thinking():
                pass
            case Image() | Document() | Audio() | ToolResult():
                raise Untranslatable(
                    f"{at}.parts[{place}]", "chat completions take text and tool calls of an assistant"
                )
    said: dict[str, Any] = {"role": "assistant", "content": _texts(message.parts) or (None if calls else "")}
    if calls:
        said["tool_calls"] = calls
    return {**said, **_named(message)}


def tool_id(id_: str) -> str:
    """The id itself, or one that is short enough: always the same for the same."""
    if len(id_) <= _ID_LENGTH_MAX:
        return id_
    return f"call_{blake2b(id_.encode(), digest_size=16).hexdigest()}"
