"""OpenAI responses: whole, streamed, compacted, and the ``response.done`` of the realtime API.

Rule 1: counts are inclusive, as in chat completions.
Rule 2: web searches are what ``tool_usage.web_search.num_requests`` says is billed; where it is silent, the calls whose
        action is ``search``. Opening a page or finding in it is free. Every file search call is billed.
Rule 3: code interpreter containers are billed per session, not per call: one response cannot tell, so none is counted.
Rule 4: an image tool is billed at its own model; ``tool_usage.image_gen`` becomes a part of the reading.
Rule 5: a stream ends with completed, incomplete or failed, and that event carries the whole response with its usage.
Rule 6: an earlier response, a conversation, a stored prompt, an item or a file by its id is input that nobody here sees.
Rule 7: tools but functions, custom ones and those that run at the client are calls on the provider's side;
        ``max_tool_calls`` limits them. (OpenAI API reference, responses)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.money import NanoUSD
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from .bounds import CACHE_WRITES, Bounds, effort_of, given
from .dialect import (
    UNREADABLE,
    BadRequest,
    Contradiction,
    Count,
    Meter,
    RequestFacts,
    as_bytes,
    bad_request,
    ceil_tokens,
    error_text,
    make_terms,
    mapping,
    scope_facts,
    unreadable,
)
from .finishes import finish_said
from .meters import StreamMeter
from .openai_chat import openai_error, openai_error_event
from .openai_usage import INCLUSIVE, Quirks, ResponsesUsage, reported_cost, responses_usage
from .responses_ending import Unfinished
from .shape_openai import OPENAI_REQUESTS, ChatRequests, responses_edits
from .shaping import shapes
from .splice import splice

__all__ = ["DIALECT", "OpenAIResponses", "ResponsesMeter", "read_whole", "with_model"]

_IMAGE_MODEL: Final = "gpt-image-1"
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.done"})


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    service_tier: str | None = None
    user: Any = None
    safety_identifier: Any = None
    metadata: Any = None
    prompt: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    reasoning: Any = None
    modalities: Any = None


class _Part(Struct, gc=False):
    type: Any = None
    image_url: msgspec.Raw = msgspec.Raw()
    file_id: msgspec.Raw = msgspec.Raw()
    file_data: msgspec.Raw = msgspec.Raw()
    file_url: msgspec.Raw = msgspec.Raw()
    input_audio: msgspec.Raw = msgspec.Raw()


class _InItem(Struct):
    type: Any = None
    content: str | list[_Part] | None = None
    output: str | list[_Part] | _Part | None = None
    result: msgspec.Raw = msgspec.Raw()


class _InTool(Struct, gc=False):
    type: Any = None


class _FullRequest(_Request):
    input: str | list[_InItem] | None = None
    tools: list[_InTool] | None = None


class _Action(Struct, gc=False):
    type: str | None = None


class _Item(Struct, gc=False):
    type: str | None = None
    name: str | None = None
    action: _Action | None = None
    content: msgspec.Raw = msgspec.Raw()


class _Said(Struct, gc=False):
    type: Any = None


class _Reason(Struct, gc=False):
    reason: str | None = None


class _Tool(Struct, gc=False):
    type: str | None = None
    model: str | None = None


class _WebSearch(Struct, gc=False):
    num_requests: Count | None = None


class _ToolUsage(Struct):
    image_gen: ResponsesUsage | None = None
    web_search: _WebSearch | None = None


class _Response(Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    usage: ResponsesUsage | None = None
    output: list[_Item] | None = None
    tools: list[_Tool] | None = None
    tool_usage: _ToolUsage | None = None
    incomplete_details: _Reason | None = None
    service_tier: str | None = None
    error: Any = None


class _Envelope(Struct):
    """A terminal stream event, or the realtime API's ``response.done``, handed in on its own."""

    type: str | None = None
    response: _Response | None = None


class _Event(Struct):
    type: str = ""
    delta: Any = None
    response: _Response | None = None
    item: _Item | None = None
    error: Any = None
    message: str | None = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FULL_REQUEST: Final = msgspec.json.Decoder(_FullRequest)
_AT_THE_CLIENT: Final = frozenset(
    {"function", "custom", "computer", "computer_use_preview", "local_shell", "apply_patch", "namespace"}
)
_SAID: Final = msgspec.json.Decoder(list[_Said])
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_EVENT: Final = msgspec.json.Decoder(_Event)


class OpenAIResponses:
    """Responses with one provider's quirks (``reported``, and the tiers that it takes)."""

    id = "openai_responses"
    can_cap = True

    def __init__(self, quirks: Quirks, takes: ChatRequests = OPENAI_REQUESTS) -> None:
        self.quirks = quirks
        self.takes = takes

    def path_model(self, path: str) -> str:
        return ""

    def with_model(self, path: str, model: str) -> str:
        return path

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _FULL_REQUEST.decode(body)
        except UNREADABLE:
            request = _lenient(body)
        if not request.model and not request.prompt:
            raise BadRequest("model", "the request names no model")
        bounds = _bounds(request)
        return RequestFacts(
            operation="responses",
            model=request.model or "",
            stream=bool(request.stream),
            output_cap=request.max_output_tokens,
            terms=make_terms("service_tier", request.service_tier),
            input_tokens_estimate=ceil_tokens(len(body)),
            writes_cache=CACHE_WRITES[:1],
            searches_max=_searches_max(request),
            effort=effort_of(mapping(request.reasoning).get("effort")),
            **bounds.facts(len(body)),
            **scope_facts(request.user or request.safety_identifier, request.metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        if not shapes(changes):
            return with_model(body, model)
        try:
            name = _MODEL.decode(body).model or "" if model is None else model
            edits = responses_edits(body, changes, name, self.takes)
            return with_model(splice(body, edits) if edits else body, model)
        except UNREADABLE as error:
            raise bad_request(error) from None

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            raw = as_bytes(body)
            response = _RESPONSE.decode(raw)
            if response.usage is None:
                envelope = _ENVELOPE.decode(raw)
                response = envelope.response or response
            return read_whole(response, self.quirks)
        except UNREADABLE as error:
            return unreadable(body, error)

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return ResponsesMeter(self, facts, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return openai_error(status, code, message, bursar)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return openai_error_event(status, code, message, bursar)


class _Model(Struct):
    model: str | None = None


_MODEL: Final = msgspec.json.Decoder(_Model)


def with_model(body: bytes, model: str | None) -> bytes:
    """The body with another ``model``; the same object when it is already that one. Raises BadRequest."""
    try:
        if model is None or _MODEL.decode(body).model == model:
            return body
        return splice(body, {"model": msgspec.json.encode(model)})
    except UNREADABLE as error:
        raise bad_request(error) from None


def _lenient(body: bytes) -> _FullRequest:
    """A request whose input nobody understands: the rest of it, or BadRequest. What it may hold has no bound."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    known = msgspec.structs.asdict(request)
    known["conversation"] = "unknown"
    return _FullRequest(**known, tools=[_InTool()])


def _bounds(request: _FullRequest) -> Bounds:
    bounds = Bounds(request.model or "")
    bounds.unseen = bool(request.previous_response_id or request.conversation or request.prompt)
    for item in request.input if isinstance(request.input, list) else ():
        if item.type == "item_reference":
            bounds.unseen = True
        if item.type == "image_generation_call" and given(item.result):
            bounds.inline("image", item.result)
        for parts in (item.content, item.output):
            if isinstance(parts, list):
                for part in parts:
                    _add(bounds, part)
            elif isinstance(parts, _Part):
                _add(bounds, parts)
    if isinstance(request.modalities, list) and "audio" in cast("list[Any]", request.modalities):
        bounds.kinds.add("audio")
    if any(tool.type == "image_generation" for tool in request.tools or ()):
        bounds.kinds.add("image")
    return bounds


def _add(bounds: Bounds, part: _Part) -> None:
    if part.type in ("input_text", "output_text", "text"):
        return
    if given(part.image_url):
        bounds.either("image", part.image_url)
    if given(part.file_data):
        bounds.inline("document", part.file_data)
    if given(part.input_audio):
        bounds.inline("audio", part.input_audio)
    if given(part.file_id) or given(part.file_url):
        bounds.unseen = True


def _searches_max(request: _FullRequest) -> int | None:
    if all(isinstance(tool.type, str) and tool.type in _AT_THE_CLIENT for tool in request.tools or ()):
        return 0 if not request.prompt else None  # a stored prompt has tools of its own
    limit = request.max_tool_calls
    return limit if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else None


def read_whole(response: _Response, quirks: Quirks) -> Reading:
    """The reading of a whole response. Raises Contradiction."""
    tools: list[str] = []
    web = files = 0
    refused = False
    for item in response.output or ():
        kind = item.type
        if kind == "web_search_call":
            web += item.action is None or item.action.type in (None, "search")
        elif kind == "file_search_call":
            files += 1
        elif kind == "message":
            refused = refused or _refuses(item.content)
        if kind is not None and kind.endswith("_call"):
            tools.append(item.name or kind.removesuffix("_call"))
    parts: tuple[Reading, ...] = ()
    if response.tool_usage is not None:
        if response.tool_usage.web_search and response.tool_usage.web_search.num_requests is not None:
            web = response.tool_usage.web_search.num_requests
        parts = _image_parts(response)
    stated = response.usage
    usage = reported = None
    if stated is not None:
        usage = responses_usage(stated, web_searches=web, file_searches=files)
        reported = reported_cost(stated, quirks.reported)
    details = response.incomplete_details
    return Reading(
        usage,
        "" if usage is not None else "the response states no usage",
        response.model or "",
        response.id or "",
        make_terms("service_tier", response.service_tier),
        reported,
        False,
        finish_said((details.reason if details else None) or response.status, refused=refused),
        error_text(response.error),
        tuple(tools),
        parts=parts if usage is not None else (),
    )


def _refuses(content: msgspec.Raw) -> bool:
    """Whether a message holds a refusal. Few do: others are not decoded."""
    if b'"refusal"' not in bytes(content):
        return False
    try:
        return any(part.type == "refusal" for part in _SAID.decode(content))
    except UNREADABLE:
        return False


def _image_parts(response: _Response) -> tuple[Reading, ...]:
    stated = response.tool_usage.image_gen if response.tool_usage else None
    if stated is None or not (stated.input_tokens or stated.output_tokens):
        return ()
    usage = responses_usage(stated)
    if stated.output_tokens_details is None:
        usage = usage._replace(output_image_tokens=usage.output_tokens)
    models = [tool.model for tool in response.tools or () if tool.type == "image_generation" and tool.model]
    return (Reading(usage, "", models[0] if models else _IMAGE_MODEL),)


class ResponsesMeter(StreamMeter):
    """Counts a stream of responses events."""

    __slots__ = ("_dialect", "_final", "_refused", "_unfinished")

    def __init__(self, dialect: OpenAIResponses, facts: RequestFacts | None, *, whole_events: bool = False) -> None:
        super().__init__(facts, dialect.read_response, whole_events=whole_events)
        self._dialect = dialect
        self._final: Reading | None = None
        self._refused = False
        self._unfinished = Unfinished() if whole_events else None

    def event(self, data: bytes) -> bool:
        event = _EVENT.decode(data)
        if self._unfinished is not None:
            self._unfinished.take(event.type, data)
        if isinstance(event.delta, str):
            self._refused = self._refused or event.type == "response.refusal.delta"
            if "audio" not in event.type or "transcript" in event.type:  # audio is base64: its length says nothing
                self.characters += len(event.delta)
        elif event.response is not None:
            self._response(event.type, event.response)
        elif event.type == "response.output_item.added":
            if event.item and event.item.type and event.item.type.endswith("_call"):
                self.tools.append(event.item.name or event.item.type.removesuffix("_call"))
        elif event.error or event.type == "error":
            self.error = error_text(event.error or event.message or "error")
        return False

    def _response(self, kind: str, response: _Response) -> None:
        self.response_id = response.id or self.response_id
        self.model = response.model or self.model
        if response.service_tier:
            self.terms = make_terms("service_tier", response.service_tier)
        if kind not in _ENDS and response.status not in ("completed", "incomplete", "failed"):
            return
        if response.error:
            self.error = error_text(response.error)
        if response.usage is None:
            return
        try:
            final = read_whole(response, self._dialect.quirks)
        except Contradiction as contradiction:
            self.fault = str(contradiction)
            return
        self._add(final)

    def _add(self, final: Reading) -> None:
        """A realtime session has many responses, each billed; their usages are added up."""
        self.finish_reason = finish_said(final.finish, refused=self._refused)  # some end without their output
        self.tools = list(final.tools) if self._final is None else [*self.tools, *final.tools]
        before = self._final
        if before is None or before.usage is None or final.usage is None:
            self._final = final
            return
        usage = Usage(*map(sum, zip(before.usage, final.usage, strict=True)))
        reported = None
        if before.reported is not None and final.reported is not None:
            reported = NanoUSD(before.reported + final.reported)
        self._final = Reading(usage, reported=reported, parts=before.parts + final.parts)

    def usage(self) -> Usage | None:
        return self._final.usage if self._final else None

    def complete(self) -> bool:
        return self._final is not None

    def reported(self) -> NanoUSD | None:
        return self._final.reported if self._final else None

    def parts(self) -> tuple[Reading, ...]:
        return self._final.parts if self._final else ()

    def ending(self) -> bytes:
        if self._unfinished is None or self._final is not None:
            return b""
        model = self.model or (self.facts.model if self.facts else "")
        return self._unfinished.ending(model, self.input_tokens(), self.output_tokens())


DIALECT: Final = OpenAIResponses(INCLUSIVE)
"""OpenAI's own responses."""
