"""OpenAI chat completions, the dialect that most providers speak, and the older completions.

Rule 1: counts are inclusive unless the provider's row says otherwise (``openai_usage``).
Rule 2: a stream states its usage once, in a last chunk without choices, and only if ``stream_options.include_usage``
        was set; Groq puts it into ``x_groq``, others into the last chunk or into every chunk. The last one counts.
Rule 3: where Bursar asked for the usage, only that chunk without choices is taken out of the client's stream.
Rule 4: newer models bill cache writes without being asked, so every request may cause them.
Rule 5: a model or a provider that searches by itself is known by its name or by a field that says so; nothing limits
        how often, and no field of this dialect can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import quote

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.money import NanoUSD
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from .bounds import CACHE_WRITES, Bounds, count_of, effort_of, given
from .dialect import (
    UNREADABLE,
    BadRequest,
    Count,
    Meter,
    RequestFacts,
    as_bytes,
    bad_request,
    ceil_tokens,
    error_text,
    error_type,
    make_terms,
    mapping,
    scope_facts,
    unreadable,
)
from .finishes import finish_said, worst_finish
from .meters import StreamMeter
from .openai_usage import INCLUSIVE, ChatUsage, Quirks, chat_usage, reported_cost
from .shape_openai import OPENAI_REQUESTS, ChatRequests, chat_edits
from .shaping import shapes
from .splice import members, splice

__all__ = [
    "DIALECT",
    "ChatMeter",
    "OpenAIChat",
    "chat_bound_facts",
    "deployment",
    "openai_error",
    "openai_error_event",
    "with_deployment",
]

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/?]+)/")


class _StreamOptions(Struct):
    include_usage: bool | None = None


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stream_options: _StreamOptions | None = None
    service_tier: str | None = None
    user: Any = None
    metadata: Any = None
    n: Any = None
    best_of: Any = None
    prompt: msgspec.Raw = msgspec.Raw()
    modalities: Any = None
    reasoning_effort: Any = None
    web_search_options: Any = None
    search_parameters: Any = None
    plugins: Any = None


class _Part(Struct, gc=False):
    """A part of a message: what it holds besides text. Mistral and Qwen have names of their own."""

    type: Any = None
    image_url: msgspec.Raw = msgspec.Raw()
    input_audio: msgspec.Raw = msgspec.Raw()
    audio_url: msgspec.Raw = msgspec.Raw()
    video_url: msgspec.Raw = msgspec.Raw()
    document_url: msgspec.Raw = msgspec.Raw()
    file: msgspec.Raw = msgspec.Raw()
    file_id: msgspec.Raw = msgspec.Raw()


class _InMessage(Struct):
    content: str | list[_Part | str] | None = None
    audio: msgspec.Raw = msgspec.Raw()


class _InTool(Struct, gc=False):
    type: Any = None


class _FullRequest(_Request):
    messages: list[_InMessage] | None = None
    tools: list[_InTool] | None = None


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    index: int | None = None
    function: _Function | None = None


class _Message(Struct):
    refusal: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(Struct):
    message: _Message | None = None
    finish_reason: str | None = None


class _Response(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = None
    error: Any = None


class _Delta(Struct):
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _ChunkChoice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Groq(Struct):
    usage: ChatUsage | None = None


class _Chunk(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_ChunkChoice] | None = None
    usage: ChatUsage | None = None
    x_groq: _Groq | None = None
    service_tier: str | None = None
    error: Any = None


class _ChunkUsage(Struct):
    """What must be understood of a chunk whose other fields have a shape of their own."""

    usage: ChatUsage | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FULL_REQUEST: Final = msgspec.json.Decoder(_FullRequest)
_LIST: Final = msgspec.json.Decoder(list[Any])
_SEARCHES: Final = re.compile(r"search|sonar|compound|:online")
_CALLED: Final = frozenset({"function", "custom"})
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_CHUNK_USAGE: Final = msgspec.json.Decoder(_ChunkUsage)


class OpenAIChat:
    """Chat completions with one provider's quirks, and what its requests take."""

    id = "openai_chat"
    can_cap = True

    def __init__(self, quirks: Quirks, takes: ChatRequests = OPENAI_REQUESTS) -> None:
        self.quirks = quirks
        self.takes = takes

    def path_model(self, path: str) -> str:
        return deployment(path)

    def with_model(self, path: str, model: str) -> str:
        return with_deployment(path, model)

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _FULL_REQUEST.decode(body)
        except UNREADABLE:
            request = _lenient(body)
        model = request.model or deployment(path)
        if not model:
            raise BadRequest("model", "the request names no model")
        cap = request.max_completion_tokens
        bounds = _bounds(request, model)
        return RequestFacts(
            operation="chat_completions",
            model=model,
            stream=bool(request.stream),
            # Of two caps nobody knows which one counts: the larger is what it can cost.
            output_cap=max((each for each in (cap, request.max_tokens) if each is not None), default=None),
            asks_usage=bool(request.stream_options and request.stream_options.include_usage),
            terms=make_terms("service_tier", request.service_tier),
            input_tokens_estimate=ceil_tokens(len(body)),
            choices=_choices(request),
            writes_cache=CACHE_WRITES[:1],
            searches_max=_searches_max(request, model),
            effort=effort_of(request.reasoning_effort),
            **bounds.facts(len(body)),
            **scope_facts(request.user, request.metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        try:
            request = _REQUEST.decode(body)
            name = request.model or "" if model is None else model
            edits = chat_edits(body, changes, name, self.takes) if shapes(changes) else {}
            if model is not None and model != request.model:
                edits["model"] = msgspec.json.encode(model)
            options = request.stream_options
            if ask_usage and request.stream and not (options and options.include_usage):
                given = bytes(members(body)["stream_options"]) if options else b"{}"
                edits["stream_options"] = splice(given, {"include_usage": b"true"})
            return splice(body, edits) if edits else body
        except UNREADABLE as error:
            raise bad_request(error) from None

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            response = _RESPONSE.decode(as_bytes(body))
            stated = response.usage
            usage = reported = None
            if stated is not None:
                usage = chat_usage(stated, self.quirks)
                reported = reported_cost(stated, self.quirks.reported)
        except UNREADABLE as error:
            return unreadable(body, error)
        finish, tools = "", ()
        if response.choices:
            finish = worst_finish([_finish(choice) for choice in response.choices])
            tools = _called(response.choices)
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            response.model or "",
            response.id or "",
            make_terms("service_tier", response.service_tier),
            reported,
            False,
            finish,
            error_text(response.error),
            tools,
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return ChatMeter(self, facts, hide_usage=hide_usage, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return openai_error(status, code, message, bursar)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return b"data: " + openai_error(status, code, message, bursar) + b"\n\n"


def deployment(path: str) -> str:
    """The deployment that an Azure path names, else ""."""
    match = _DEPLOYMENT.search(path)
    return match[1] if match else ""


def with_deployment(path: str, model: str) -> str:
    """An Azure path with another deployment; any other path as it is."""
    match = _DEPLOYMENT.search(path)
    return path if match is None else path[: match.start(1)] + quote(model, safe="") + path[match.end(1) :]


# --- bounds -----------------------------------------------------------------------------------------------------


def _lenient(body: bytes) -> _FullRequest:
    """A request whose messages nobody understands: the rest of it, or BadRequest. What it may hold has no bound."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    known = msgspec.structs.asdict(request)
    return _FullRequest(**known, messages=[_InMessage(audio=msgspec.Raw(b"{}"))], tools=[_InTool()])


def chat_bound_facts(body: bytes) -> dict[str, Any]:
    """The bounds of a chat request that came another way. Raises BadRequest."""
    try:
        request = _FULL_REQUEST.decode(body)
    except UNREADABLE:
        request = _lenient(body)
    return _bounds(request, "").facts(len(body))


def _bounds(request: _FullRequest, model: str) -> Bounds:
    bounds = Bounds(model)
    for message in request.messages or ():
        content = message.content
        if content.__class__ is list:
            for part in cast("list[_Part | str]", content):
                if isinstance(part, _Part) and part.type != "text":
                    _add(bounds, part)
        if message.audio and given(message.audio):  # an earlier answer, by its id
            bounds.unseen = True
    if isinstance(request.modalities, list):
        bounds.kinds.update(
            each for each in cast("list[Any]", request.modalities) if each in ("audio", "image", "video")
        )
    return bounds


def _add(bounds: Bounds, part: _Part) -> None:
    if given(part.image_url):
        bounds.either("image", part.image_url)
    if given(part.input_audio):
        bounds.inline("audio", part.input_audio)
    if given(part.audio_url):
        bounds.either("audio", part.audio_url)
    if given(part.video_url):
        bounds.either("video", part.video_url)
    if given(part.document_url):
        bounds.either("document", part.document_url)
    if given(part.file):
        inner = mapping(msgspec.json.decode(part.file))
        if inner.get("file_id") or not inner.get("file_data"):
            bounds.unseen = True
        else:
            bounds.inline("document", part.file)
    if given(part.file_id):
        bounds.unseen = True


def _choices(request: _Request) -> int:
    """The answers asked for: the older completions give ``n`` for each prompt, the best of ``best_of``."""
    choices = max(count_of(request.n), count_of(request.best_of))
    if bytes(memoryview(request.prompt)[:1]) == b"[":
        prompts = _LIST.decode(request.prompt)
        if prompts and not isinstance(prompts[0], int):  # a list of numbers is one prompt in tokens
            choices *= len(prompts)
    return choices


@lru_cache(maxsize=256)
def _searches_unasked(model: str) -> bool:
    return _SEARCHES.search(model) is not None


def _searches_max(request: _FullRequest, model: str) -> int | None:
    if request.web_search_options is not None or request.search_parameters or request.plugins:
        return None
    if _searches_unasked(model):
        return None
    for tool in request.tools or ():
        if not isinstance(tool.type, str) or tool.type not in _CALLED:
            return None
    return 0


def openai_error(status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
    """An error body that the ``openai`` SDK parses; its ``body["bursar"]`` is the object given."""
    error = {"message": message, "type": error_type(status), "param": None, "code": code, "bursar": bursar}
    return msgspec.json.encode({"error": error})


def openai_error_event(status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
    """An error event for streams whose events have a ``type``."""
    error = {"message": message, "type": error_type(status), "param": None, "code": code, "bursar": bursar}
    event = {"type": "error", "code": code, "message": message, "param": None, "sequence_number": 0, "error": error}
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _finish(choice: _Choice) -> str:
    return finish_said(choice.finish_reason, refused=bool(choice.message and choice.message.refusal))


def _called(choices: list[_Choice]) -> tuple[str, ...]:
    names: list[str] = []
    for choice in choices:
        message = choice.message
        if message is None or (message.tool_calls is None and message.function_call is None):
            continue
        names += [call.function.name for call in message.tool_calls or () if call.function and call.function.name]
        if message.function_call and message.function_call.name:
            names.append(message.function_call.name)
    return tuple(names)


def _text_length(content: str | list[Any]) -> int:
    """Characters of a delta's content; Mistral sends parts, whose thinking is itself a list of parts."""
    if isinstance(content, str):
        return len(content)
    count = 0
    for part in content:
        if isinstance(part, str):
            count += len(part)
        else:
            inner = mapping(part)
            for text in (inner.get("text"), inner.get("thinking")):
                if isinstance(text, str | list):
                    count += _text_length(cast("str | list[Any]", text))
    return count


class ChatMeter(StreamMeter):
    """Counts a stream of chat completion chunks, or of the older completions."""

    __slots__ = ("_calls", "_dialect", "_ended", "_first", "_refused", "_started", "_stated", "_tier", "_usage_sent")

    def __init__(
        self,
        dialect: OpenAIChat,
        facts: RequestFacts | None,
        *,
        hide_usage: bool = False,
        whole_events: bool = False,
    ) -> None:
        super().__init__(facts, dialect.read_response, hide_usage=hide_usage, whole_events=whole_events)
        self._dialect = dialect
        self._stated: ChatUsage | None = None
        self._tier: str | None = None
        self._calls: set[tuple[int, int]] = set()
        self._first = b""
        self._started: set[int] = set()
        self._ended: set[int] = set()
        self._refused: set[int] = set()
        self._usage_sent = False

    def event(self, data: bytes) -> bool:
        try:
            chunk = _CHUNK.decode(data)
        except msgspec.ValidationError:
            self._stated = _CHUNK_USAGE.decode(data).usage or self._stated
            return False
        if not self.response_id:
            self.response_id = chunk.id or ""
        if chunk.model:
            self.model = chunk.model
        if chunk.service_tier != self._tier and chunk.service_tier:
            self._tier = chunk.service_tier
            self.terms = make_terms("service_tier", chunk.service_tier)
        if chunk.error:
            self.error = error_text(chunk.error)
        stated = chunk.usage or (chunk.x_groq.usage if chunk.x_groq else None)
        if stated is not None:
            self._stated = stated
        if not chunk.choices:
            self._usage_sent = chunk.usage is not None
            return self._usage_sent
        if not self._first:
            self._first = data
        for choice in chunk.choices:
            index = choice.index or 0
            self._started.add(index)
            if choice.delta is not None:
                self._count(choice.delta, index)
            elif choice.text:
                self.characters += len(choice.text)
            if choice.finish_reason:
                self.finished(finish_said(choice.finish_reason, refused=index in self._refused))
                self._ended.add(index)
        return False

    def _count(self, delta: _Delta, choice: int) -> None:
        content = delta.content
        if content:
            self.characters += len(content) if isinstance(content, str) else _text_length(content)
        if delta.reasoning_content:
            self.characters += len(delta.reasoning_content)
        elif delta.reasoning:
            self.characters += len(delta.reasoning)
        if delta.refusal:
            self.characters += len(delta.refusal)
            self._refused.add(choice)
        if delta.tool_calls:
            for position, call in enumerate(delta.tool_calls):
                self._count_call(call.function, (choice, position if call.index is None else call.index))
        if delta.function_call:
            self._count_call(delta.function_call, (choice, 0))

    def _count_call(self, function: _Function | None, place: tuple[int, int]) -> None:
        if function is None:
            return
        self.characters += len(function.arguments or "")
        if function.name and place not in self._calls:
            self._calls.add(place)
            self.tools.append(function.name)

    def usage(self) -> Usage | None:
        return chat_usage(self._stated, self._dialect.quirks) if self._stated else None

    def complete(self) -> bool:
        return self.done or self._all_ended()

    def marked(self) -> bool:
        return self.done and self._all_ended()

    def _all_ended(self) -> bool:
        return bool(self._ended) and self._started <= self._ended

    def reported(self) -> NanoUSD | None:
        return reported_cost(self._stated, self._dialect.quirks.reported) if self._stated else None

    def ending(self) -> bytes:
        if self.done or self.error:
            return b""
        like = self._like()
        old = like["object"] == "text_completion"
        chunks: list[dict[str, Any]] = []
        for index in sorted((self._started or {0}) - self._ended):
            said: dict[str, Any] = {"text": ""} if old else {"delta": {}}
            choice = {"index": index, **said, "logprobs": None, "finish_reason": "length"}
            chunks.append({**like, "choices": [choice]})
        if self.facts is not None and self.facts.asks_usage and not self._usage_sent:
            prompt, completion = self.input_tokens(), self.output_tokens()
            usage = {
                "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion
            }  # fmt: skip
            chunks.append({**like, "choices": [], "usage": usage})
        return b"".join([b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks]) + b"data: [DONE]\n\n"

    def _like(self) -> dict[str, Any]:
        """The members that every chunk of this stream has, from the first one that had a choice."""
        like = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": self.model or "unknown"}
        if self.facts is not None and not self.model:
            like["model"] = self.facts.model
        if self._first:
            first = mapping(msgspec.json.decode(self._first))
            like.update({key: first[key] for key in (*like, "system_fingerprint", "service_tier") if key in first})
        return like


DIALECT: Final = OpenAIChat(INCLUSIVE)
"""OpenAI's own chat completions."""
