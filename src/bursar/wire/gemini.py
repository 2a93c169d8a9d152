"""Gemini: generateContent, its stream as server-sent events or as one JSON array, embeddings. The model is in the path.

Rule 1: ``promptTokenCount`` contains ``cachedContentTokenCount``. ``candidatesTokenCount`` leaves out
        ``thoughtsTokenCount``, and ``toolUsePromptTokenCount`` is input on top of the prompt: we add both.
Rule 2: the lists by modality split the counts; documents are billed as images.
Rule 3: in a stream every chunk states the cumulative usage so far: the last one counts, none are added.
Rule 4: Google search is billed by grounded prompt up to Gemini 2.5, by search query from Gemini 3 on. What counts are
        the ``webSearchQueries`` that are not blank. (The price data has these prices, but no rule for the count.)
Rule 5: how the request was served (``trafficType``, ``serviceTier``) changes its price and becomes a term.
Rule 6: what runs at Google (search, maps, code, pages it reads) has no limit in a request; a grounded prompt up to
        Gemini 2.5 is billed once at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading, Terms
from bursar.core.usage import NO_USAGE, Usage

from .bounds import Bounds, count_of, effort_of, given, kind_of
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
from .finishes import worst_finish
from .meters import StreamMeter
from .shape_gemini import generate_edits
from .shaping import shapes
from .splice import splice
from .sse import EVENT_BYTES_MAX

__all__ = ["DIALECT", "Gemini", "convert"]

_PATH_MODEL: Final = re.compile(r"/(?:models|tunedModels)/([^/:?]+)|/(endpoints/[^/:?]+)")
_PROMPT_BILLED: Final = re.compile(r"gemini-(?:1|2)[.-]")
_STATUS: Final = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 402: "RESOURCE_EXHAUSTED", 403: "PERMISSION_DENIED",
    404: "NOT_FOUND", 409: "ABORTED", 413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 499: "CANCELLED",
    501: "UNIMPLEMENTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_TRAFFIC: Final = {
    "ON_DEMAND": "standard",
    "ON_DEMAND_PRIORITY": "priority",
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_OFFPEAK": "offpeak",
    "PROVISIONED_THROUGHPUT": "provisioned",
}


class _GenerationConfig(Struct):
    maxOutputTokens: Count | None = None  # noqa: N815 - the name on the wire
    max_output_tokens: Count | None = None
    candidateCount: Any = None  # noqa: N815 - the name on the wire
    candidate_count: Any = None
    responseModalities: Any = None  # noqa: N815 - the name on the wire
    response_modalities: Any = None
    thinkingConfig: Any = None  # noqa: N815 - the name on the wire
    thinking_config: Any = None


class _Request(Struct):
    """Google takes every field in both spellings."""

    generationConfig: _GenerationConfig | None = None  # noqa: N815 - the name on the wire
    generation_config: _GenerationConfig | None = None
    cachedContent: Any = None  # noqa: N815 - the name on the wire
    cached_content: Any = None
    serviceTier: str | None = None  # noqa: N815 - the name on the wire
    service_tier: str | None = None
    labels: Any = None


class _InPart(Struct, gc=False):
    inlineData: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the name on the wire
    inline_data: msgspec.Raw = msgspec.Raw()
    fileData: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the name on the wire
    file_data: msgspec.Raw = msgspec.Raw()
    functionResponse: msgspec.Raw = msgspec.Raw()  # noqa: N815 - the name on the wire
    function_response: msgspec.Raw = msgspec.Raw()


class _InContent(Struct):
    parts: list[_InPart] | _InPart | None = None


class _Inline(Struct, gc=False):
    mimeType: Any = None  # noqa: N815 - the name on the wire
    mime_type: Any = None


class _FunctionResponse(Struct):
    parts: list[_InPart] | None = None


class _FullRequest(_Request):
    contents: list[_InContent] | _InContent | None = None
    content: _InContent | None = None
    requests: msgspec.Raw = msgspec.Raw()
    tools: list[dict[str, msgspec.Raw]] | None = None


class _Modality(Struct, rename="camel", gc=False):
    modality: str | None = None
    token_count: Count | None = None


class _Usage(Struct, rename="camel"):
    prompt_token_count: Count | None = None
    candidates_token_count: Count | None = None
    response_token_count: Count | None = None  # the live API's name
    thoughts_token_count: Count | None = None
    tool_use_prompt_token_count: Count | None = None
    cached_content_token_count: Count | None = None
    total_token_count: Count | None = None
    prompt_tokens_details: list[_Modality] | None = None
    tool_use_prompt_tokens_details: list[_Modality] | None = None
    cache_tokens_details: list[_Modality] | None = None
    candidates_tokens_details: list[_Modality] | None = None
    response_tokens_details: list[_Modality] | None = None
    traffic_type: str | None = None
    service_tier: str | None = None


class _Call(Struct, gc=False):
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"")


class _Part(Struct, rename="camel"):
    text: str | None = None
    function_call: _Call | None = None


class _Content(Struct):
    parts: list[_Part] | None = None


class _Grounding(Struct, rename="camel", gc=False):
    web_search_queries: list[str] | None = None


class _Candidate(Struct, rename="camel"):
    index: Any = None
    content: _Content | None = None
    finish_reason: str | None = None
    grounding_metadata: _Grounding | None = None


class _Feedback(Struct, rename="camel", gc=False):
    block_reason: str | None = None


class _Response(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    total_tokens: Count | None = None
    error: Any = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_FULL_REQUEST: Final = msgspec.json.Decoder(_FullRequest)
_INLINE: Final = msgspec.json.Decoder(_Inline)
_FUNCTION_RESPONSE: Final = msgspec.json.Decoder(_FunctionResponse)
_CALLED: Final = frozenset({"functionDeclarations", "function_declarations"})
_SEARCH: Final = frozenset({"googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval"})
_RESPONSE: Final = msgspec.json.Decoder(_Response)
_RESPONSES: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Gemini:
    """The Gemini API and Vertex AI."""

    id = "gemini"
    can_cap = True

    def path_model(self, path: str) -> str:
        match = _PATH_MODEL.search(path)
        return unquote(match[1] or match[2]) if match else ""

    def with_model(self, path: str, model: str) -> str:
        match = _PATH_MODEL.search(path)
        if match is None or (match[1] is None and not model.startswith("endpoints/")):
            return path  # an endpoint of one's own serves one model
        group = 1 if match[1] is not None else 2
        return path[: match.start(group)] + quote(model, safe="/" if group == 2 else "") + path[match.end(group) :]

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _FULL_REQUEST.decode(body)
        except UNREADABLE:
            request = _lenient(body)
        model = self.path_model(path)
        if not model:
            raise BadRequest("path", f"{path[:100]!r} names no model: expected /models/MODEL:generateContent")
        config = request.generationConfig or request.generation_config or _GenerationConfig()
        tier = request.serviceTier or request.service_tier
        cap = config.maxOutputTokens
        thinking = mapping(config.thinkingConfig or config.thinking_config)
        return RequestFacts(
            operation=_operation(path),
            model=model,
            stream=":streamGenerateContent" in path,
            output_cap=config.max_output_tokens if cap is None else cap,
            terms=_terms(_Usage(service_tier=tier)),
            input_tokens_estimate=ceil_tokens(len(body)),
            choices=max(count_of(config.candidateCount), count_of(config.candidate_count)),
            searches_max=_searches_max(request, model),
            effort=effort_of(thinking.get("thinkingLevel") or thinking.get("thinking_level")),
            **_bounds(request, config).facts(len(body)),
            **scope_facts(None, request.labels),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        if not shapes(changes):
            return body
        try:
            edits = generate_edits(body, changes, model or "")
            return splice(body, edits) if edits else body
        except UNREADABLE as error:
            raise bad_request(error) from None

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            raw = as_bytes(body)
            if raw.lstrip()[:1] == b"[":
                return _read_array(raw)
            response = _RESPONSE.decode(raw)
            usage = _usage(response)
        except UNREADABLE as error:
            return unreadable(body, error)
        stated = response.usage_metadata
        if stated is None and response.total_tokens is not None and response.candidates is None:
            return Reading(NO_USAGE)  # countTokens costs nothing
        finish, tools = _outcome(response)
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            response.model_version or "",
            response.response_id or "",
            _terms(stated) if stated is not None else (),
            None,
            False,
            finish,
            error_text(response.error),
            tools,
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return _GeminiMeter(facts, self.read_response, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        name = _STATUS.get(status) or ("INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        error = {"code": status, "message": message, "status": name, "reason": code, "bursar": bursar}
        return msgspec.json.encode({"error": error})

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return b"data: " + self.error_body(status, code, message, bursar) + b"\r\n\r\n"


def _operation(path: str) -> str:
    if "enerateContent" in path:
        return "generate_content"
    if "mbedContent" in path:
        return "embeddings"
    return "count_tokens" if ":countTokens" in path else "passthrough"


# --- bounds -----------------------------------------------------------------------------------------------------


def _lenient(body: bytes) -> _FullRequest:
    """A request whose contents nobody understands: the rest of it, or BadRequest. What it may hold has no bound."""
    try:
        request = _REQUEST.decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    known = msgspec.structs.asdict(request)
    known["cachedContent"] = "unknown"
    return _FullRequest(**known, tools=[{"unknown": msgspec.Raw(b"{}")}])


def _bounds(request: _FullRequest, config: _GenerationConfig) -> Bounds:
    bounds = Bounds()
    bounds.unseen = bool(request.cachedContent or request.cached_content)
    contents = request.contents
    try:
        for content in contents if isinstance(contents, list) else (contents, request.content):
            parts = content.parts if content is not None else None
            for part in parts if isinstance(parts, list) else (parts,) if parts is not None else ():
                _add(bounds, part)
    except UNREADABLE:  # media of a shape that nobody knows
        bounds.unseen = True
    if given(request.requests) and b"nline" in bytes(request.requests):
        bounds.kinds.add("image")  # embeddings in a batch: their base64 stays text, which costs more
    asked = config.responseModalities or config.response_modalities
    if isinstance(asked, list):
        words = {str(each).lower() for each in cast("list[Any]", asked)}
        bounds.kinds.update(words & {"audio", "image", "video"})
    return bounds


def _add(bounds: Bounds, part: _InPart) -> None:
    for raw in (part.inlineData, part.inline_data):
        if raw and given(raw):
            inline = _INLINE.decode(raw)
            bounds.inline(kind_of(inline.mimeType or inline.mime_type), raw)
    if given(part.fileData) or given(part.file_data):
        bounds.unseen = True
    for raw in (part.functionResponse, part.function_response):
        if raw and given(raw):
            for inner in _FUNCTION_RESPONSE.decode(raw).parts or ():
                _add(bounds, inner)


def _searches_max(request: _FullRequest, model: str) -> int | None:
    kinds = {key for tool in request.tools or () for key in tool} - _CALLED
    if not kinds:
        return 0
    return 1 if kinds <= _SEARCH and _PROMPT_BILLED.match(model) else None


def _outcome(response: _Response) -> tuple[str, tuple[str, ...]]:
    candidates = response.candidates or ()
    finish = worst_finish([candidate.finish_reason or "" for candidate in candidates])
    if not finish and response.prompt_feedback:
        finish = response.prompt_feedback.block_reason or ""
    parts = [part for each in candidates for part in (each.content.parts if each.content else None) or ()]
    return finish, tuple([part.function_call.name for part in parts if part.function_call and part.function_call.name])


def _terms(stated: _Usage) -> Terms:
    traffic = _TRAFFIC.get(stated.traffic_type or "")
    if traffic and traffic != "standard":
        return make_terms("service_tier", traffic)
    tier = (stated.service_tier or "").lower().removeprefix("service_tier_")
    return make_terms("service_tier", tier or traffic)


def _usage(response: _Response) -> Usage | None:
    stated = response.usage_metadata
    if stated is None:
        return None
    queries = _queries([response])
    return convert(stated, _searches(response.model_version or "", queries))


def _queries(responses: list[_Response]) -> int:
    found: set[str] = set()
    for response in responses:
        for candidate in response.candidates or ():
            grounding = candidate.grounding_metadata
            if grounding is not None:
                found.update(query for query in grounding.web_search_queries or () if query.strip())
    return len(found)


def _searches(model: str, queries: int) -> int:
    return min(queries, 1) if _PROMPT_BILLED.match(model) else queries


def convert(stated: _Usage, web_searches: int) -> Usage | None:
    """Our usage of ``usageMetadata``, None when it holds no count. Raises Contradiction."""
    prompt = stated.prompt_token_count
    answer = stated.candidates_token_count
    if answer is None:
        answer = stated.response_token_count
    if prompt is None:
        if answer is None and stated.total_token_count is None:
            return None
        raise Contradiction("usageMetadata.promptTokenCount is missing")
    cached = stated.cached_content_token_count or 0
    if cached > prompt:
        raise Contradiction(f"usageMetadata: {cached} cachedContentTokenCount is more than {prompt} promptTokenCount")
    thoughts = stated.thoughts_token_count or 0
    tool_use = stated.tool_use_prompt_token_count or 0
    audio, image, video = _modalities(stated.prompt_tokens_details)
    if stated.tool_use_prompt_tokens_details:
        more = _modalities(stated.tool_use_prompt_tokens_details)
        audio, image, video = audio + more[0], image + more[1], video + more[2]
    read_audio, read_image, read_video = _modalities(stated.cache_tokens_details)
    out = stated.candidates_tokens_details or stated.response_tokens_details
    out_audio, out_image, out_video = _modalities(out)
    if audio + image + video > prompt + tool_use or read_audio + read_image + read_video > cached:
        raise Contradiction("usageMetadata: the tokens of its modalities are more than the tokens they are part of")
    return Usage(
        prompt + tool_use, cached, 0, 0, 0, audio, image, video, read_audio, read_image, read_video,
        (answer or 0) + thoughts, thoughts, out_audio, out_image, out_video, 0, 0, web_searches,
    )  # fmt: skip


def _modalities(details: list[_Modality] | None) -> tuple[int, int, int]:
    audio = image = video = 0
    for detail in details or ():
        match detail.modality:
            case "AUDIO":
                audio += detail.token_count or 0
            case "IMAGE" | "DOCUMENT":
                image += detail.token_count or 0
            case "VIDEO":
                video += detail.token_count or 0
            case _:
                pass
    return audio, image, video


def _read_array(raw: bytes) -> Reading:
    meter = _GeminiMeter(None, DIALECT.read_response)
    for element in _RESPONSES.decode(raw):
        meter.take_data(bytes(element))
    return meter.reading()


_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}"]', re.DOTALL)


class _Array:
    """Splits a JSON array of objects, incrementally: an element ends where its braces close.

    ``whole`` are the bytes up to the end of the last element that a chunk completed, separators included. ``closed`` says
    whether the array has ended.
    """

    __slots__ = ("_depth", "_rest", "_scanned", "_start", "closed", "whole")

    def __init__(self) -> None:
        self._rest = b""
        self._scanned = 0
        self._start = 0
        self._depth = 0
        self.closed = False
        self.whole = b""

    @property
    def empty(self) -> bool:
        """Whether nothing came after the last element."""
        return not self._rest

    def rest(self) -> bytes:
        """What came after the last element, taken out."""
        rest, self._rest = self._rest, b""
        return rest

    def feed(self, chunk: bytes) -> list[bytes]:
        """The elements that this chunk completes."""
        buffer = self._rest + chunk
        elements: list[bytes] = []
        at, start, end = self._scanned, self._start, 0
        for token in _TOKEN.finditer(buffer, at):
            text = token[0]
            if text == b'"':  # a text that has not ended yet: look again from its quote
                at = token.start()
                break
            at = token.end()
            if text == b"{":
                if self._depth == 0:
                    start = token.start()
                self._depth += 1
            elif text == b"}":
                self._depth = max(0, self._depth - 1)
                if self._depth == 0:
                    elements.append(buffer[start:at])
                    start = end = at
        else:
            at = len(buffer)
        if len(buffer) - end > EVENT_BYTES_MAX:  # nobody can count such an element; wait for the next one
            start = end = at = len(buffer)
            self._depth = 0
        self.whole, self._rest = buffer[:end], buffer[end:]
        self._scanned, self._start = at - end, max(0, start - end)
        self.closed = self._depth == 0 and self._rest.lstrip(b", \t\r\n").startswith(b"]")
        return elements


class _GeminiMeter(StreamMeter):
    __slots__ = ("_array", "_begun", "_blocked", "_ended", "_last", "_queries", "_stated")

    def __init__(self, facts: RequestFacts | None, read_body: Any, *, whole_events: bool = False) -> None:
        super().__init__(facts, read_body, whole_events=whole_events)
        self._array: _Array | None = None
        self._stated: _Usage | None = None
        self._begun: set[int] = set()
        self._ended: set[int] = set()
        self._blocked = False
        self._last = b""
        self._queries: list[_Response] = []

    def is_body(self, start: bytes) -> bool:
        if start == b"[":
            self._array = _Array()
        return start == b"{"

    def split(self, chunk: bytes) -> None:
        if self._array is None:
            super().split(chunk)
            return
        for element in self._array.feed(chunk):
            self.take_data(element)

    def split_whole(self, chunk: bytes) -> bytes:
        if self._array is None:
            return super().split_whole(chunk)
        elements = self._array.feed(chunk)
        for element in elements:
            self.take_data(element)
        self._torn = self._torn or bool(self._array.whole and not elements)
        return self._array.whole

    def finish(self) -> bytes:
        if self._array is None:
            return super().finish()
        return self._array.rest() if self._whole_events else b""

    def between_events(self) -> bool:
        return super().between_events() if self._array is None else self._array.empty

    def ending(self) -> bytes:
        if self.complete() or self.error:
            return b"]" if self._array is not None and self._whole_events else b""
        last = mapping(msgspec.json.decode(self._last)) if self._last else {}
        prompt, output = self.input_tokens(), self.output_tokens()
        usage = mapping(last.get("usageMetadata"))
        seen = max(0, output - ((self._stated.thoughts_token_count or 0) if self._stated else 0))
        usage.setdefault("promptTokenCount", prompt)
        usage |= {"candidatesTokenCount": seen, "totalTokenCount": prompt + output}
        said = {"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "MAX_TOKENS"}
        candidates = [{**said, "index": index} for index in sorted((self._begun or {0}) - self._ended)]
        event: dict[str, Any] = {"candidates": candidates, "usageMetadata": usage}
        event["modelVersion"] = self.model or (self.facts.model if self.facts else "")
        event["responseId"] = self.response_id
        data = msgspec.json.encode(event)
        if self._array is None:
            return b"data: " + data + b"\r\n\r\n"
        return (b",\n" if self._last else b"[") + data + b"]"

    def event(self, data: bytes) -> bool:
        response = _RESPONSE.decode(data)
        self._last = data
        self.model = response.model_version or self.model
        self.response_id = response.response_id or self.response_id
        if response.error:
            self.error = error_text(response.error)
        finish, tools = _outcome(response)
        self.tools += tools
        for place, candidate in enumerate(response.candidates or ()):
            index = candidate.index if isinstance(candidate.index, int) else place
            self._begun.add(index)
            if candidate.finish_reason:
                self._ended.add(index)
                self.finished(candidate.finish_reason)
            for part in (candidate.content.parts if candidate.content else None) or ():
                self.characters += len(part.text or "")
                if part.function_call is not None:
                    self.characters += len(bytes(part.function_call.args))
            if candidate.grounding_metadata is not None:
                self._queries.append(response)
        if response.usage_metadata is not None:
            self._stated = response.usage_metadata
            self.terms = _terms(self._stated)
        if finish and not self._ended:  # the prompt was blocked
            self._blocked = True
            self.finished(finish)
        return False

    def usage(self) -> Usage | None:
        if self._stated is None:
            return None
        return convert(self._stated, _searches(self.model, _queries(self._queries)))

    def complete(self) -> bool:
        return self._blocked or (bool(self._ended) and self._begun <= self._ended)

    def marked(self) -> bool:
        return self.complete() and (self._array is None or self._array.closed)


DIALECT: Final = Gemini()
