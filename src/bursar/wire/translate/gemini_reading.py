"""Requests to Gemini's generateContent, read.

Rule 1: a call may have no id: it gets one by its place in the conversation, and a response without one answers the first open
        call of its name.
Rule 2: what a client kept of a stream is one content for each chunk: contents of the model in a row are one turn, and what
        was cut between them is joined. So are contents with function responses alone.
Rule 3: what a function answers has a schema here alone: it is said in the function's description.
Rule 4: Gemini holds every answer to the schema that is given for it: nobody has to ask for that.
Rule 5: tools that run at Google, caches and files that only Google has, and filters by category are refused, for nobody else
        has them. A filter that is switched off asks for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

import msgspec

from bursar.core.ladder import EFFORTS
from bursar.wire.bounds import kind_of
from bursar.wire.dialect import UNREADABLE, BadRequest, bad_request
from bursar.wire.gemini import DIALECT

from .conversation import (
    Asked,
    Audio,
    Document,
    Format,
    Image,
    Message,
    Part,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Untranslatable,
)
from .gemini_fields import Fields
from .gemini_marks import signed_thinking, tool_signature
from .gemini_schema import json_schema

__all__ = ["MEDIA_TYPES", "read_request"]

MEDIA_TYPES: Final[Mapping[str, str]] = {
    "png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
    "heic": "image/heic", "heif": "image/heif", "pdf": "application/pdf", "txt": "text/plain", "html": "text/html",
    "css": "text/css", "csv": "text/csv", "xml": "text/xml", "json": "application/json", "rtf": "text/rtf",
}  # fmt: skip
"""Media types by the ending of a file's name, for links that say none."""

# Rule 2 of the conversation: neither the answer nor its cost depends on these. ``model`` is in the path, ``labels`` are for
# Google's bill, ``store`` for Google's logs.
_HARMLESS: Final = ("model", "labels", "store")
_AT_GOOGLE: Final = "this tool runs at Google"
_KEPT_THERE: Final = "only Google has what this names"
_REASONS: Final[Mapping[str, str]] = {
    "cachedContent": _KEPT_THERE,
    "continuationToken": _KEPT_THERE,
    "safetySettings": "only Google filters by category and threshold",
    "modelArmorConfig": "only Google filters with Model Armor",
    "serviceTier": "a tier and its price are the provider's own",
    "generationOutputConfig": "only Google writes to its storage",
    "responseModalities": "a conversation is answered in text",
    "speechConfig": "a conversation is answered in text",
    "imageConfig": "a conversation is answered in text",
    "responseLogprobs": "log probabilities are not translated",
    "logprobs": "log probabilities are not translated",
    "mediaResolution": "others know only a low and a high resolution of images",
    "audioTimestamp": "only Google puts time stamps on sound",
    "routingConfig": "only Google chooses among its models",
    "modelSelectionConfig": "only Google chooses among its models",
    "enableEnhancedCivicAnswers": "only Google has these answers",
    "retrievalConfig": _AT_GOOGLE,
    "executableCode": _AT_GOOGLE,
    "codeExecutionResult": _AT_GOOGLE,
    "toolCall": _AT_GOOGLE,
    "toolResponse": _AT_GOOGLE,
    "videoMetadata": "video is not translated",
    "behavior": "a function that answers later is not translated",
    "scheduling": "a function that answers later is not translated",
    "willContinue": "a function that answers later is not translated",
}
# An image is read at the high resolution unless something is said.
_DETAILS: Final = {"": "", "MEDIA_RESOLUTION_LOW": "low", "MEDIA_RESOLUTION_HIGH": ""}
_GOOGLES_FILES: Final = re.compile(r"https?://(generativelanguage\.googleapis\.com|([a-z]+\.)?youtube\.com|youtu\.be)/")
_OPERATIONS: Final = {"generateContent": False, "streamGenerateContent": True}
_MODES: Final = {"": None, "AUTO": "auto", "VALIDATED": "auto", "ANY": "required", "NONE": "none"}


def read_request(path: str, query: str, body: bytes) -> Asked:
    """Raises Untranslatable and BadRequest."""
    stream = _OPERATIONS.get(path.rpartition(":")[2])
    model = DIALECT.path_model(path)
    if stream is None or not model:
        raise Untranslatable("path", f"{path[:100]!r} asks for no answer of a model")
    if parse_qs(query).get("alt", ["json"])[0] not in ("json", "sse"):
        raise Untranslatable("alt", "answers are JSON")
    try:
        return _asked(Fields(msgspec.json.decode(body), ""), model, stream=stream)
    except (BadRequest, Untranslatable):
        raise
    except UNREADABLE as error:
        raise bad_request(error) from None


def _asked(request: Fields, model: str, *, stream: bool) -> Asked:
    tools, choice = _tools(request)
    config = request.object("generationConfig") or Fields({}, "generationConfig")
    effort, tokens, shown = _thinking(config)
    messages = _messages(request)
    if config.given("mediaResolution"):
        path = config.at("mediaResolution")
        messages = _at_resolution(messages, config.word("mediaResolution"), path)
    asked = Asked(
        model=model,
        messages=messages,
        system=_system(request.object("systemInstruction")),
        tools=tools,
        tool_choice=choice,
        output_cap=config.integer("maxOutputTokens"),
        temperature=config.number("temperature"),
        top_p=config.number("topP"),
        top_k=config.integer("topK"),
        stop=config.texts("stopSequences"),
        seed=config.integer("seed"),
        presence_penalty=config.number("presencePenalty"),
        frequency_penalty=config.number("frequencyPenalty"),
        effort=effort,
        thinking_tokens=tokens,
        show_thinking=shown,
        format=_format(config),
        choices=config.integer("candidateCount") or 1,
        stream=stream,
        asks_usage=True,
    )
    if [each.upper() for each in config.texts("responseModalities")] not in ([], ["TEXT"]):
        raise Untranslatable(config.at("responseModalities"), _REASONS["responseModalities"])
    config.end(_REASONS)
    if request.word("serviceTier").removeprefix("SERVICE_TIER_") not in ("", "STANDARD"):
        raise Untranslatable(request.at("serviceTier"), _REASONS["serviceTier"])
    for setting in request.objects("safetySettings"):
        if setting.word("threshold") not in ("", "OFF", "BLOCK_NONE"):
            raise Untranslatable(setting.path, _REASONS["safetySettings"])
    request.leave_out(*_HARMLESS)
    request.end(_REASONS)
    return asked


def _system(content: Fields | None) -> tuple[Text, ...]:
    if content is None:
        return ()
    said: list[Text] = []
    for part in content.objects("parts"):
        text = part.text("text")
        part.end(_REASONS)
        if text:
            said.append(Text(text))
    content.leave_out("role")
    content.end(_REASONS)
    return tuple(said)


# --- what is set --------------------------------------------------------------------------------------------------


def _thinking(config: Fields) -> tuple[str, int | None, bool]:
    thinking = config.object("thinkingConfig")
    if thinking is None:
        return "", None, False
    level, budget = thinking.word("thinkingLevel").lower(), thinking.integer("thinkingBudget")
    if level and budget is not None:
        raise BadRequest(thinking.path, "thinkingLevel and thinkingBudget may not both be set")
    if level and level not in EFFORTS:
        raise BadRequest(thinking.at("thinkingLevel"), f"{level[:60]!r} is no level")
    if budget is not None and budget < -1:
        raise BadRequest(thinking.at("thinkingBudget"), "expected -1 or more")
    shown = thinking.flag("includeThoughts")
    thinking.end(_REASONS)
    return level, budget, shown


def _format(config: Fields) -> Format | None:
    kind = config.text("responseMimeType").lower()
    own, standard = config.take("responseSchema"), config.take("responseJsonSchema")
    if own is not None and standard is not None:
        raise BadRequest(config.at("responseSchema"), "responseSchema and responseJsonSchema may not both be set")
    if kind not in ("", "text/plain", "application/json"):
        raise Untranslatable(config.at("responseMimeType"), f"others do not answer in {kind[:60]}")
    if own is not None:
        return Format(json_schema(own, config.at("responseSchema")), held=True)
    if standard is not None:
        return Format(_schema(standard, config.at("responseJsonSchema")), held=True)
    return Format() if kind == "application/json" else None


def _schema(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(path, "expected a JSON Schema")
    return cast("dict[str, Any]", value)


def _tools(request: Fields) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The functions that may be called, and how. Where some of them may be called, and not just one, only those are offered."""
    tools: list[Tool] = []
    for group in request.objects("tools"):
        tools += [_tool(declared) for declared in group.objects("functionDeclarations")]
        group.end({}, _AT_GOOGLE)
    config = request.object("toolConfig")
    calling = config.object("functionCallingConfig") if config is not None else None
    if config is not None:
        config.leave_out("includeServerSideToolInvocations")  # there are none
        config.end(_REASONS)
    if calling is None:
        return tuple(tools), ToolChoice()
    mode, allowed = calling.word("mode"), calling.texts("allowedFunctionNames")
    if mode not in _MODES:
        raise BadRequest(calling.at("mode"), f"{mode[:60]!r} is no mode")
    if allowed and mode in ("", "AUTO"):
        raise BadRequest(calling.at("allowedFunctionNames"), "only the modes ANY and VALIDATED have such a list")
    calling.leave_out("streamFunctionCallArguments")  # how arguments come says nothing of what they are
    calling.end(_REASONS)
    named = allowed[0] if mode == "ANY" and len(allowed) == 1 else ""
    if allowed and mode != "NONE" and not named:
        tools = [tool for tool in tools if tool.name in allowed]
    if mode == "VALIDATED":
        tools = [replace(tool, strict=True) for tool in tools]
    if not tools and mode != "ANY":
        return (), ToolChoice()
    if named:
        return tuple(tools), ToolChoice("tool", named)
    return tuple(tools), ToolChoice(cast("Any", _MODES[mode]))


def _one_schema(fields: Fields, name: str) -> dict[str, Any] | None:
    """A schema that may come as Google's own under this name, or as JSON Schema under another."""
    other = f"{name}JsonSchema"
    own, standard = fields.take(name), fields.take(other)
    if own is not None and standard is not None:
        raise BadRequest(fields.at(name), f"{name} and {other} may not both be set")
    if own is not None:
        return json_schema(own, fields.at(name))
    return _schema(standard, fields.at(other)) if standard is not None else None


def _tool(declared: Fields) -> Tool:
    name = declared.text("name")
    if not name:
        raise BadRequest(declared.at("name"), "a function has a name")
    schema, answers = _one_schema(declared, "parameters"), _one_schema(declared, "response")
    description = declared.text("description")
    if answers is not None:
        said = f"What it answers follows the JSON Schema {msgspec.json.encode(answers).decode()}"
        description = f"{description}\n{said}" if description else said
    if declared.word("behavior") not in ("", "BLOCKING"):
        raise Untranslatable(declared.at("behavior"), _REASONS["behavior"])
    declared.end(_REASONS)
    return Tool(name, description, schema)


# --- what was said ------------------------------------------------------------------------------------------------


class _Calls:
    """The function calls so far that nobody answered (rule 1)."""

    __slots__ = ("_count", "_open")

    def __init__(self) -> None:
        self._open: list[tuple[str, str, bool]] = []
        self._count = 0

    def asked(self, stated: str, name: str) -> str:
        self._count += 1
        call_id = stated or f"gemini_call_{self._count}"
        self._open.append((call_id, name, bool(stated)))
        return call_id

    def answered(self, stated: str, name: str, path: str) -> str:
        """An id that no call stated is one that the client made up for a call without one."""
        by_id = (number for number, (call_id, _, _) in enumerate(self._open) if call_id == stated)
        by_name = (
            number
            for number, (_, called, has_id) in enumerate(self._open)
            if called == name and not (stated and has_id)
        )
        found = next(by_id, None)
        found = next(by_name, None) if found is None else found
        if found is None:
            raise BadRequest(path, f"no open function call {(stated or name)[:60]!r} comes before this response")
        return self._open.pop(found)[0]


def _messages(request: Fields) -> tuple[Message, ...]:
    calls = _Calls()
    messages: list[Message] = []
    for content in request.objects("contents"):
        role = content.text("role").lower()
        if role not in ("", "user", "model", "function"):
            raise BadRequest(content.at("role"), f"{role[:60]!r} is no role: expected user or model")
        parts = _parts(content.objects("parts"), calls)
        content.end(_REASONS)
        if not parts:
            continue
        last = messages[-1] if messages else None
        if role == "model":
            if last is not None and last.role == "assistant":
                messages[-1] = Message("assistant", _joined(last.parts, parts))
            else:
                messages.append(Message("assistant", parts))
        elif last is not None and last.role == "user" and _results(last.parts) and _results(parts):
            messages[-1] = Message("user", last.parts + parts)
        else:
            messages.append(Message("user", parts))
    if not messages:
        raise BadRequest(request.at("contents"), "contents says nothing")
    return tuple(messages)


def _results(parts: Iterable[Part]) -> bool:
    return all(isinstance(part, ToolResult) for part in parts)


def _joined(before: tuple[Part, ...], after: tuple[Part, ...]) -> tuple[Part, ...]:
    """A turn of the model that goes on: a text or a thought that was cut is whole again."""
    match before[-1], after[0]:
        case Text() as cut, Text() as rest:
            return (*before[:-1], Text(cut.text + rest.text), *after[1:])
        case Thinking(signature="", hidden="") as cut, Thinking(hidden="") as rest if (
            rest.text or rest.origin != "gemini"
        ):
            return (*before[:-1], replace(rest, text=cut.text + rest.text), *after[1:])
        case _:
            return before + after


def _parts(found: Iterable[Fields], calls: _Calls) -> tuple[Part, ...]:
    parts: list[Part] = []
    for part in found:
        signature = part.text("thoughtSignature")
        part.leave_out("partMetadata")  # the client's own words about the part
        detail = _detail(part.object("mediaResolution"))
        if part.flag("thought"):
            thinking = signed_thinking(part.text("text"), signature)
            if thinking != Thinking(""):
                parts[-1:] = _joined((parts[-1],), (thinking,)) if parts else (thinking,)
        elif part.given("functionCall"):
            parts.append(_use(Fields(part.take("functionCall"), part.at("functionCall")), signature, calls))
        else:
            said = _said(part, detail, calls)
            if detail and not isinstance(said, Image):
                raise Untranslatable(part.at("mediaResolution"), _REASONS["mediaResolution"])
            parts += [said] if said is not None else []
            sealed = signed_thinking("", signature)
            parts += [sealed] if sealed != Thinking("") else []
        part.end(_REASONS)
    return tuple(parts)


def _said(part: Fields, detail: str, calls: _Calls) -> Part | None:
    if part.given("text"):
        text = part.text("text")
        return Text(text) if text else None
    if part.given("inlineData"):
        return _inline(Fields(part.take("inlineData"), part.at("inlineData")), detail)
    if part.given("fileData"):
        return _linked(Fields(part.take("fileData"), part.at("fileData")), detail)
    if part.given("functionResponse"):
        return _result(Fields(part.take("functionResponse"), part.at("functionResponse")), calls)
    return None


def _detail(resolution: Fields | None) -> str:
    if resolution is None:
        return ""
    level = resolution.word("level")
    if level not in _DETAILS or resolution.given("numTokens"):
        raise Untranslatable(resolution.path, _REASONS["mediaResolution"])
    return _DETAILS[level]


def _at_resolution(messages: tuple[Message, ...], level: str, path: str) -> tuple[Message, ...]:
    """The messages with what ``generationConfig`` says of all media; of documents nobody else can say it."""
    detail = _DETAILS.get(level)
    media = [inner for each in messages for part in each.parts for inner in (part, *getattr(part, "parts", ()))]
    if detail is None or (level and any(isinstance(part, Document) for part in media)):
        raise Untranslatable(path, _REASONS["mediaResolution"])
    if not detail:
        return messages

    def said(part: Any) -> Any:
        if isinstance(part, ToolResult):
            return replace(part, parts=tuple(said(inner) for inner in part.parts))
        return replace(part, detail=detail) if isinstance(part, Image) else part

    return tuple(replace(each, parts=tuple(said(part) for part in each.parts)) for each in messages)


def _inline(blob: Fields, detail: str) -> Image | Document | Audio:
    media_type, data = blob.text("mimeType"), blob.text("data")
    blob.leave_out("displayName")  # Gemini's API refuses it, Vertex AI shows it to nobody but the client
    blob.end(_REASONS)
    if not media_type or not data:
        raise BadRequest(blob.path, "expected mimeType and data")
    data = _plain_base64(data)
    match kind_of(media_type):
        case "image":
            return Image(media_type, data, detail=detail)
        case "audio":
            return Audio(media_type, data)
        case "document":
            return Document(media_type, data)
        case "video":
            raise Untranslatable(blob.path, _REASONS["videoMetadata"])


def _plain_base64(data: str) -> str:
    """Gemini takes the alphabet for URLs too, without padding; the others do not."""
    if ("-" not in data and "_" not in data) or _URL_BASE64.fullmatch(data) is None:
        return data
    plain = data.rstrip("=").translate(_FOR_URLS)
    return plain + "=" * (-len(plain) % 4)


_FOR_URLS: Final = str.maketrans("-_", "+/")
_URL_BASE64: Final = re.compile(r"[A-Za-z0-9_-]+=*")


def _linked(file: Fields, detail: str) -> Image | Document:
    media_type, url = file.text("mimeType"), file.text("fileUri")
    file.leave_out("displayName")
    file.end(_REASONS)
    if _GOOGLES_FILES.match(url) or not url.startswith(("http://", "https://")):
        raise Untranslatable(file.path, _KEPT_THERE)
    media_type = media_type or MEDIA_TYPES.get(urlsplit(url).path.rpartition(".")[2].lower(), "")
    if not media_type or kind_of(media_type) == "image":
        return Image(media_type, url=url, detail=detail)
    if kind_of(media_type) == "document":
        return Document(media_type, url=url)
    raise Untranslatable(file.path, "others take no links to sound or video")


def _use(call: Fields, signature: str, calls: _Calls) -> ToolUse:
    name, arguments = call.text("name"), call.take("args")
    if not name:
        raise BadRequest(call.at("name"), "a function call names its function")
    if arguments is not None and not isinstance(arguments, dict):
        raise BadRequest(call.at("args"), "expected an object")
    use_id = calls.asked(call.text("id"), name)
    call.end(_REASONS)
    return ToolUse(use_id, name, msgspec.json.encode(arguments or {}).decode(), tool_signature(signature))


def _result(response: Fields, calls: _Calls) -> ToolResult:
    name, said = response.text("name"), response.take("response")
    result_id = calls.answered(response.text("id"), name, response.path)
    if said is not None and not isinstance(said, dict):
        raise BadRequest(response.at("response"), "expected an object")
    media = [_said(part, "", calls) for part in response.objects("parts")]
    response.end(_REASONS)
    parts: list[Any] = [part for part in media if part is not None]
    if any(not isinstance(part, Image | Document) for part in parts):
        raise Untranslatable(response.at("parts"), "others take only images and documents from a tool")
    text, is_error = _output(cast("dict[str, Any]", said or {}))
    return ToolResult(result_id, name, (*((Text(text),) if text else ()), *parts), is_error)


def _output(said: dict[str, Any]) -> tuple[str, bool]:
    """The text of what a function answered: ``output`` or ``error`` where that is all there is, else all of it."""
    is_error = said.keys() == {"error"}
    value: Any = said
    if is_error or said.keys() == {"output"}:
        (value,) = said.values()
    elif not said:
        value = ""
    return (value if isinstance(value, str) else msgspec.json.encode(value).decode()), is_error
