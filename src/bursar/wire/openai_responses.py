"""OpenAI responses: whole, streamed, compacted, and the ``response.done`` of the realtime API.

Rule 1: counts are inclusive, as in chat completions.
Rule 2: web searches are what ``tool_usage.web_search.num_requests`` says is billed; where it is silent, the calls whose
        action is ``search``. Opening a page or finding in it is free. Every file search call is billed.
Rule 3: code interpreter containers are billed per session, not per call: one response cannot tell, so none is counted.
Rule 4: an image tool is billed at its own model; ``tool_usage.image_gen`` becomes a part of the reading.
Rule 5: a stream ends with completed, incomplete or failed, and that event carries the whole response with its usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from bursar.core.money import NanoUSD
from bursar.core.prices import Reading
from bursar.core.usage import Usage

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
    scope_facts,
    unreadable,
)
from .meters import StreamMeter
from .openai_chat import openai_error, openai_error_event
from .openai_usage import INCLUSIVE, Quirks, ResponsesUsage, reported_cost, responses_usage
from .splice import splice

__all__ = ["DIALECT", "OpenAIResponses", "read_whole", "with_model"]

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


class _Action(Struct, gc=False):
    type: str | None = None


class _Item(Struct, gc=False):
    type: str | None = None
    name: str | None = None
    action: _Action | None = None


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
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_EVENT: Final = msgspec.json.Decoder(_Event)


class OpenAIResponses:
    """Responses with one provider's quirks (only ``reported`` differs between providers)."""

    id = "openai_responses"

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks

    def path_model(self, path: str) -> str:
        return ""

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _REQUEST.decode(body)
        except UNREADABLE as error:
            raise bad_request(error) from None
        if not request.model and not request.prompt:
            raise BadRequest("model", "the request names no model")
        return RequestFacts(
            operation="responses",
            model=request.model or "",
            stream=bool(request.stream),
            output_cap=request.max_output_tokens,
            terms=make_terms("service_tier", request.service_tier),
            input_tokens_estimate=ceil_tokens(len(body)),
            **scope_facts(request.user or request.safety_identifier, request.metadata),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool) -> bytes:
        return with_model(body, model)

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

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False) -> Meter:
        return _ResponsesMeter(self, facts)

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


def read_whole(response: _Response, quirks: Quirks) -> Reading:
    """The reading of a whole response. Raises Contradiction."""
    tools: list[str] = []
    web = files = 0
    for item in response.output or ():
        kind = item.type
        if kind == "web_search_call":
            web += item.action is None or item.action.type in (None, "search")
        elif kind == "file_search_call":
            files += 1
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
        (details.reason if details else None) or response.status or "",
        error_text(response.error),
        tuple(tools),
        parts=parts if usage is not None else (),
    )


def _image_parts(response: _Response) -> tuple[Reading, ...]:
    stated = response.tool_usage.image_gen if response.tool_usage else None
    if stated is None or not (stated.input_tokens or stated.output_tokens):
        return ()
    usage = responses_usage(stated)
    if stated.output_tokens_details is None:
        usage = usage._replace(output_image_tokens=usage.output_tokens)
    models = [tool.model for tool in response.tools or () if tool.type == "image_generation" and tool.model]
    return (Reading(usage, "", models[0] if models else _IMAGE_MODEL),)


class _ResponsesMeter(StreamMeter):
    __slots__ = ("_dialect", "_final")

    def __init__(self, dialect: OpenAIResponses, facts: RequestFacts | None) -> None:
        super().__init__(facts, dialect.read_response)
        self._dialect = dialect
        self._final: Reading | None = None

    def event(self, data: bytes) -> bool:
        event = _EVENT.decode(data)
        if isinstance(event.delta, str):
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
        self.finish_reason = final.finish
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


DIALECT: Final = OpenAIResponses(INCLUSIVE)
"""OpenAI's own responses."""
