"""Requests of OpenAI's chat completions, read into a conversation.

Rule 1: every documented field is carried, harmless (``HARMLESS``), says what is so anyway (``USUAL``), or refused with its
        reason (``REFUSED``). A field that nobody documented is refused as well; null says nothing, as the API takes it.
        (OpenAI API reference, "Create chat completion", as of version 3.54 of its Python SDK)
Rule 2: what the instructions say first is ``system``. A system or developer message further on stays where it is, marked
        (``Message.system``).
Rule 3: answers of tools are part of the user's turn that follows them. A tool's name is that of the last use with its id.
Rule 4: a thought that came through here to the client is read back with its signature: ``openai_thoughts``.
Rule 5: what an assistant refused with is what it said: text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

import msgspec

from bursar.core.ladder import EFFORTS
from bursar.wire.dialect import UNREADABLE, BadRequest, bad_request, mapping
from bursar.wire.openai_chat import deployment

from .conversation import (
    Asked,
    Audio,
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
from .openai_thoughts import read_thoughts, signature_of

__all__ = [
    "AUDIO_TYPES",
    "HARMLESS",
    "REFUSED",
    "UNNAMED_FILE",
    "UNNAMED_FORMAT",
    "USUAL",
    "read_request",
]

HARMLESS: Final = frozenset(
    {
        # Who asks, and what for: neither the answer nor its price depends on them.
        "user", "metadata", "safety_identifier", "store",
        # Where OpenAI keeps the prompt's prefix. The other provider's cache has marks or rules of its own.
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        # A guess at the answer, to have it sooner. Without it nothing is paid for the part guessed wrong.
        "prediction",
    }
)  # fmt: skip
"""Fields that may be left out: neither the answer changes nor does it cost more."""

USUAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "verbosity": ("medium",),
    "modalities": (["text"],),
    "functions": ([],),
    # A tier that buys speed: without it the answer is the same and costs the other provider's plain price, which is what
    # is held and charged. Flex is not among them: it says that the plain price is too much.
    "service_tier": ("auto", "default", "on_demand", "priority", "fast", "scale"),
}
"""Values that say what is so without them, by field."""

REFUSED: Final[Mapping[str, str]] = {
    "n": "one answer is translated",
    "logprobs": "only the provider itself can say how likely its tokens were",
    "top_logprobs": "only the provider itself can say how likely its tokens were",
    "logit_bias": "token numbers mean something to one tokenizer alone",
    "verbosity": "no other provider has it",
    "modalities": "answers in sound are not translated",
    "audio": "answers in sound are not translated",
    "functions": "is the older way to say tools; use tools",
    "function_call": "is the older way to say tool_choice; use tool_choice",
    "service_tier": "flex asks for half the price, which another provider does not give",
    "moderation": "the provider's own moderation of this request",
    "web_search_options": "the provider's own search",
}
"""Why a field is refused."""

_UNKNOWN: Final = "is not a field of chat completions that is known here"
_CARRIED: Final = frozenset(
    {
        "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "max_tokens", "max_completion_tokens",
        "temperature", "top_p", "stop", "seed", "presence_penalty", "frequency_penalty", "reasoning_effort",
        "response_format", "stream", "stream_options",
    }
)  # fmt: skip
_PASSED: Final = _CARRIED | HARMLESS

AUDIO_TYPES: Final[Mapping[str, str]] = {"wav": "audio/wav", "mp3": "audio/mp3"}
UNNAMED_FILE: Final = "document.pdf"
"""The name of a file that has none: the API wants one."""
UNNAMED_FORMAT: Final = "answer"
"""The name of a format that has none: the API wants one."""

_MARKS: Final = frozenset({"cache_control", "prompt_cache_breakpoint"})
_TEXT: Final = frozenset({"type", "text", *_MARKS})
_IN_TOOL: Final = frozenset({"type", "function", *_MARKS})
_FUNCTION: Final = frozenset({"name", "description", "parameters", "strict"})
_SCHEMA: Final = frozenset({"name", "description", "schema", "strict"})
_FORMATS: Final = {"text": {"type"}, "json_object": {"type"}, "json_schema": {"type", "json_schema"}}
_CALL: Final = frozenset({"id", "type", "function", "index", "extra_content"})
_CALLED: Final = frozenset({"name", "arguments", "parsed_arguments"})
_SYSTEM: Final = frozenset({"role", "content"})
_USER: Final = frozenset({"role", "content", "name"})
_TOOL: Final = frozenset({"role", "content", "tool_call_id", "name"})
_ASSISTANT: Final = frozenset(
    {
        "role", "content", "name", "refusal", "tool_calls", "reasoning_content", "reasoning", "reasoning_details",
        # What an answer has besides, as its client sends it back with the message: nothing that the model reads.
        "annotations", "extra_content", "parsed",
    }
)  # fmt: skip


def read_request(path: str, body: bytes) -> Asked:
    """Raises Untranslatable or BadRequest."""
    try:
        said = msgspec.json.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    if not isinstance(said, dict):
        raise BadRequest("", "send a JSON object")
    said = cast("dict[str, Any]", said)
    for field, value in said.items():
        if field in _PASSED or value is None:
            continue
        if value not in USUAL.get(field, ()):
            raise Untranslatable(field, REFUSED.get(field, _UNKNOWN))
    system, messages = _conversation(_list(said, "messages", ""))
    options = _options(said)
    return Asked(
        model=_text(said, "model", "") or deployment(path) or _missing("model"),
        messages=messages,
        system=system,
        tools=tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(_list(said, "tools", ""))),
        tool_choice=_choice(said),
        output_cap=_cap(said),
        temperature=_number(said, "temperature"),
        top_p=_number(said, "top_p"),
        stop=_stop(said.get("stop")),
        seed=_integer(said, "seed"),
        presence_penalty=_number(said, "presence_penalty") or None,
        frequency_penalty=_number(said, "frequency_penalty") or None,
        effort=_effort(said),
        format=_format(said.get("response_format")),
        stream=_flag(said, "stream") is True,
        asks_usage=_flag(options, "include_usage") is True,
    )


# --- values -----------------------------------------------------------------------------------------------------


def _missing(field: str) -> str:
    raise BadRequest(field, "is missing")


def _path(at: str, field: str) -> str:
    return f"{at}.{field}" if at else field


def _list(said: Mapping[str, Any], field: str, at: str) -> list[dict[str, Any]]:
    value = said.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in cast("list[Any]", value)):
        raise BadRequest(_path(at, field), "must be a list of objects")
    return cast("list[dict[str, Any]]", value)


def _text(said: Mapping[str, Any], field: str, at: str) -> str:
    """The text of a field, "" where it is missing."""
    value = said.get(field)
    if value is not None and not isinstance(value, str):
        raise BadRequest(_path(at, field), "must be a text")
    return value or ""


def _object(said: Mapping[str, Any], field: str, at: str) -> dict[str, Any]:
    """The object of a field, an empty one where it is missing."""
    value = said.get(field)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(_path(at, field), "must be an object")
    return cast("dict[str, Any]", value or {})


def _flag(said: Mapping[str, Any], field: str, at: str = "") -> bool | None:
    value = said.get(field)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(_path(at, field), "must be true or false")
    return value


def _number(said: Mapping[str, Any], field: str) -> float | None:
    value = said.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(field, "must be a number")
    return float(value)


def _integer(said: Mapping[str, Any], field: str) -> int | None:
    value = said.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise BadRequest(field, "must be an integer")
    return value


def _known(said: Mapping[str, Any], fields: AbstractSet[str], at: str) -> None:
    if said.keys() <= fields:
        return
    for field, value in said.items():
        if field not in fields and value is not None:
            raise Untranslatable(f"{at}.{field}", _UNKNOWN)


# --- the fields beside the messages -----------------------------------------------------------------------------


def _options(said: Mapping[str, Any]) -> dict[str, Any]:
    options = _object(said, "stream_options", "")
    _known(options, {"include_usage", "include_obfuscation"}, "stream_options")
    return options


def _cap(said: Mapping[str, Any]) -> int | None:
    caps = {cap for field in ("max_completion_tokens", "max_tokens") if (cap := _integer(said, field)) is not None}
    if len(caps) > 1:
        raise BadRequest("max_tokens", "differs from max_completion_tokens; send one of them")
    cap = caps.pop() if caps else None
    if cap is not None and cap < 1:
        raise BadRequest("max_tokens", "must be at least 1")
    return cap


def _stop(value: Any) -> tuple[str, ...]:
    stops: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value or ""]
    if not all(isinstance(stop, str) for stop in stops):
        raise BadRequest("stop", "must be a text or a list of texts")
    return tuple(stop for stop in stops if stop)


def _effort(said: Mapping[str, Any]) -> str:
    effort = _text(said, "reasoning_effort", "")
    if effort == "default":  # Groq
        return ""
    if effort and effort not in EFFORTS:
        raise Untranslatable("reasoning_effort", f"{effort!r} is none of {', '.join(EFFORTS)}")
    return effort


def _format(value: Any) -> Format | None:
    if value is None:
        return None
    said = mapping(value)
    kind = said.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise Untranslatable("response_format", f"{kind!r} is none of text, json_object and json_schema")
    _known(said, _FORMATS[kind], "response_format")
    if kind == "text":
        return None
    if kind == "json_object":
        return Format()
    inner = _object(said, "json_schema", "response_format")
    at = "response_format.json_schema"
    _known(inner, _SCHEMA, at)
    schema = _object(inner, "schema", at)
    if not schema:
        return Format()
    name = _text(inner, "name", at)
    return Format(
        schema, "" if name == UNNAMED_FORMAT else name, _text(inner, "description", at), _flag(inner, "strict", at)
    )


def _tool(tool: dict[str, Any], at: str) -> Tool:
    kind = tool.get("type", "function")
    if kind != "function":
        raise Untranslatable(f"{at}.type", f"only functions are translated, not {kind!r}")
    _known(tool, _IN_TOOL, at)
    function = _object(tool, "function", at)
    at = f"{at}.function"
    _known(function, _FUNCTION, at)
    parameters = function.get("parameters")
    return Tool(
        _text(function, "name", at) or _missing(f"{at}.name"),
        _text(function, "description", at),
        None if parameters is None else _object(function, "parameters", at),
        _flag(function, "strict", at),
        _mark(tool),
    )


def _choice(said: Mapping[str, Any]) -> ToolChoice:
    choice = said.get("tool_choice")
    choice = "required" if choice == "any" else choice  # Mistral
    parallel = _flag(said, "parallel_tool_calls")
    if choice is None or choice in ("auto", "none", "required"):
        return ToolChoice(choice, "", parallel)
    named = mapping(choice)
    if named.get("type", "function") != "function":
        raise Untranslatable("tool_choice", "only auto, none, required and one function are translated")
    _known(named, {"type", "function"}, "tool_choice")
    function = _object(named, "function", "tool_choice")
    _known(function, {"name"}, "tool_choice.function")
    name = _text(function, "name", "tool_choice.function") or _missing("tool_choice.function.name")
    return ToolChoice("tool", name, parallel)


# --- messages ---------------------------------------------------------------------------------------------------


def _conversation(said: Sequence[dict[str, Any]]) -> tuple[tuple[Text, ...], tuple[Message, ...]]:
    system: list[Text] = []
    messages: list[Message] = []
    results: list[ToolResult] = []
    names: dict[str, str] = {}
    for place, message in enumerate(said):
        at = f"messages[{place}]"
        role = message.get("role")
        if role == "tool":
            results.append(_result(message, names, at))
            continue
        if role == "user":
            _known(message, _USER, at)
            messages.append(Message("user", (*results, *_parts(message, at)), _text(message, "name", at)))
            results = []
            continue
        if results:
            messages.append(Message("user", tuple(results)))
            results = []
        if role == "assistant":
            messages.append(_assistant(message, names, at))
        elif role in ("system", "developer"):
            _known(message, _SYSTEM, at)
            texts = _texts(message, at)
            if messages:
                messages.append(Message("user", texts, system=True))
            else:
                system += texts
        else:
            raise Untranslatable(f"{at}.role", f"{role!r} is none of system, developer, user, assistant and tool")
    if results:
        messages.append(Message("user", tuple(results)))
    if not messages:
        raise BadRequest("messages", "say at least one of the user's")
    if messages[-1].role == "assistant":
        raise Untranslatable(f"messages[{len(said) - 1}]", "providers differ in whether a last answer is continued")
    return tuple(system), tuple(messages)


def _mark(part: Mapping[str, Any]) -> str:
    """The cache mark of a part: of the lifetimes that OpenAI has, the shorter is nearest to five minutes."""
    mark = mapping(part.get("cache_control") or part.get("prompt_cache_breakpoint"))
    if not mark:
        return ""
    return "1h" if mark.get("ttl") in ("1h", "12h") else "5m"


def _texts(message: Mapping[str, Any], at: str) -> tuple[Text, ...]:
    """A content that may only be text."""
    content = message.get("content")
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Text(content),)
    texts: list[Text] = []
    for place, part in enumerate(_list(message, "content", at)):
        here = f"{at}.content[{place}]"
        if part.get("type") != "text":
            raise Untranslatable(f"{here}.type", "only text is translated here")
        texts.append(_text_part(part, here))
    return tuple(texts)


def _text_part(part: Mapping[str, Any], at: str) -> Text:
    _known(part, _TEXT, at)
    return Text(_text(part, "text", at), _mark(part))


def _parts(message: Mapping[str, Any], at: str) -> tuple[Part, ...]:
    """The content of a user's message."""
    content = message.get("content")
    if content is None or content == "":
        return ()
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(part, f"{at}.content[{place}]") for place, part in enumerate(_list(message, "content", at)))


def _part(part: Mapping[str, Any], at: str) -> Part:
    match part.get("type"):
        case "text":
            return _text_part(part, at)
        case "image_url":
            _known(part, {"type", "image_url", *_MARKS}, at)
            return _image(part, f"{at}.image_url")
        case "input_audio":
            _known(part, {"type", "input_audio", *_MARKS}, at)
            audio = _object(part, "input_audio", at)
            _known(audio, {"data", "format"}, f"{at}.input_audio")
            kind = AUDIO_TYPES.get(str(audio.get("format")))
            if kind is None:
                raise Untranslatable(f"{at}.input_audio.format", "is neither wav nor mp3")
            return Audio(kind, _text(audio, "data", f"{at}.input_audio") or _missing(f"{at}.input_audio.data"))
        case "file":
            _known(part, {"type", "file", *_MARKS}, at)
            return _file(part, f"{at}.file")
        case other:
            raise Untranslatable(f"{at}.type", f"{other!r} is none of text, image_url, input_audio and file")


def _image(part: Mapping[str, Any], at: str) -> Image:
    given = part.get("image_url")
    image: dict[str, Any] = {"url": given} if isinstance(given, str) else _object(part, "image_url", at)
    _known(image, {"url", "detail"}, at)
    url, detail = _text(image, "url", at), _text(image, "detail", at)
    if url.startswith(("https://", "http://")):
        return Image(url=url, detail=detail, cache=_mark(part))
    kind, data = _data_url(url, f"{at}.url")
    return Image(kind, data, detail=detail, cache=_mark(part))


def _data_url(url: str, at: str) -> tuple[str, str]:
    """The media type and the base64 of a data URL (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise Untranslatable(at, "is neither a data URL nor a link")
    if not head.endswith(";base64"):
        raise Untranslatable(at, "is a data URL that is not in base64")
    return head[5:].partition(";")[0] or "text/plain", data


def _file(part: Mapping[str, Any], at: str) -> Document:
    file = _object(part, "file", at.removesuffix(".file"))
    _known(file, {"file_data", "file_id", "filename"}, at)
    if file.get("file_id"):
        raise Untranslatable(f"{at}.file_id", "only the provider that stores the file can read it")
    data, name = _text(file, "file_data", at), _text(file, "filename", at)
    name = "" if name == UNNAMED_FILE else name
    if data.startswith(("https://", "http://")):
        return Document(url=data, name=name, cache=_mark(part))
    kind, data = _data_url(data, f"{at}.file_data")
    return Document(kind, data, name=name, cache=_mark(part))


def _result(message: Mapping[str, Any], names: Mapping[str, str], at: str) -> ToolResult:
    _known(message, _TOOL, at)
    id_ = _text(message, "tool_call_id", at) or _missing(f"{at}.tool_call_id")
    return ToolResult(id_, names.get(id_) or _text(message, "name", at), _texts(message, at))


def _assistant(message: Mapping[str, Any], names: dict[str, str], at: str) -> Message:
    for field, value in message.items():
        if field in _ASSISTANT or value is None:
            continue
        if field == "audio":
            raise Untranslatable(f"{at}.audio", "only the provider that spoke it can hear it again")
        if field == "function_call":
            raise Untranslatable(f"{at}.function_call", "is the older way to say tool_calls; use tool_calls")
        if field == "prefix" and value is False:  # Mistral: this is not the beginning of the answer
            continue
        raise Untranslatable(f"{at}.{field}", _UNKNOWN)
    parts: list[Part] = [*read_thoughts(message)]
    content = message.get("content")
    if isinstance(content, str):
        if content:
            parts.append(Text(content))
    else:
        for place, part in enumerate(_list(message, "content", at)):
            here = f"{at}.content[{place}]"
            if part.get("type") == "refusal":
                parts.append(Text(_text(part, "refusal", here)))
            elif part.get("type") == "text":
                parts.append(_text_part(part, here))
            else:
                raise Untranslatable(f"{here}.type", "an answer is text or a refusal")
    refusal = _text(message, "refusal", at)
    if refusal:
        parts.append(Text(refusal))
    for place, call in enumerate(_list(message, "tool_calls", at)):
        use = _use(call, f"{at}.tool_calls[{place}]")
        names[use.id] = use.name
        parts.append(use)
    return Message("assistant", tuple(parts), _text(message, "name", at))


def _use(call: Mapping[str, Any], at: str) -> ToolUse:
    if call.get("type", "function") != "function":
        raise Untranslatable(f"{at}.type", f"only functions are translated, not {call['type']!r}")
    _known(call, _CALL, at)
    function = _object(call, "function", at)
    _known(function, _CALLED, f"{at}.function")
    return ToolUse(
        _text(call, "id", at) or _missing(f"{at}.id"),
        _text(function, "name", f"{at}.function") or _missing(f"{at}.function.name"),
        _text(function, "arguments", f"{at}.function") or "{}",
        signature_of(call.get("extra_content")),
    )
