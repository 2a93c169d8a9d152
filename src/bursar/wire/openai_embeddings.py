"""OpenAI embeddings, and those of everybody who copies them (Voyage states ``total_tokens`` alone).

Rule 1: all tokens are input: ``prompt_tokens``, or ``total_tokens`` where that stands alone. An embedding writes no
        token, so whatever else a compatible server fills in is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from .bounds import Bounds, given
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
    scope_facts,
    unreadable,
)
from .meters import StreamMeter
from .openai_chat import deployment, openai_error, with_deployment
from .openai_responses import with_model
from .openai_usage import INCLUSIVE, Costs, Quirks, reported_cost

__all__ = ["DIALECT", "OpenAIEmbeddings", "WholeMeter"]


class _Request(Struct):
    model: str | None = None
    user: Any = None
    inputs: msgspec.Raw = msgspec.Raw()


class _Part(Struct, gc=False):
    image_url: msgspec.Raw = msgspec.Raw()
    image_base64: msgspec.Raw = msgspec.Raw()
    video_url: msgspec.Raw = msgspec.Raw()
    video_base64: msgspec.Raw = msgspec.Raw()


class _Input(Struct):
    content: list[_Part] | None = None


class _Usage(Costs, gc=False):
    prompt_tokens: Count | None = None
    total_tokens: Count | None = None


class _Response(Struct):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_INPUTS: Final = msgspec.json.Decoder(list[_Input])
_RESPONSE: Final = msgspec.json.Decoder(_Response)


class OpenAIEmbeddings:
    """Embeddings with one provider's quirks."""

    id = "openai_embeddings"
    can_cap = False

    def __init__(self, quirks: Quirks) -> None:
        self.quirks = quirks

    def path_model(self, path: str) -> str:
        return deployment(path)

    def with_model(self, path: str, model: str) -> str:
        return with_deployment(path, model)

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        try:
            request = _REQUEST.decode(body)
        except UNREADABLE as error:
            raise bad_request(error) from None
        model = request.model or deployment(path)
        if not model:
            raise BadRequest("model", "the request names no model")
        return RequestFacts(
            operation="embeddings",
            model=model,
            output_cap=0,
            input_tokens_estimate=ceil_tokens(len(body)),
            **_bounds(request).facts(len(body)),
            **scope_facts(request.user, None),
        )

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        return with_model(body, model)

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            response = _RESPONSE.decode(as_bytes(body))
            stated = response.usage
            usage = reported = None
            if stated is not None:
                tokens = stated.total_tokens if stated.prompt_tokens is None else stated.prompt_tokens
                if tokens is None:
                    raise Contradiction("usage.prompt_tokens is missing")
                usage = Usage(tokens)
                reported = reported_cost(stated, self.quirks.reported)
        except UNREADABLE as error:
            return unreadable(body, error)
        return Reading(
            usage,
            "" if usage is not None else "the response states no usage",
            response.model or "",
            response.id or "",
            (),
            reported,
            False,
            "",
            error_text(response.error),
        )

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return WholeMeter(facts, self.read_response)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return openai_error(status, code, message, bursar)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return b""


def _bounds(request: _Request) -> Bounds:
    """Voyage embeds images and videos too, as parts of ``inputs``."""
    bounds = Bounds()
    if not given(request.inputs):
        return bounds
    try:
        inputs = _INPUTS.decode(request.inputs)
    except UNREADABLE:
        bounds.unseen = True
        return bounds
    for each in inputs:
        for part in each.content or ():
            for raw in (part.image_url, part.image_base64):
                if given(raw):
                    bounds.either("image", raw)
            for raw in (part.video_url, part.video_base64):
                if given(raw):
                    bounds.either("video", raw)
    return bounds


class WholeMeter(StreamMeter):
    """The meter of an API that has no streams: its bytes are one body."""

    __slots__ = ()

    def event(self, data: bytes) -> bool:
        return False

    def usage(self) -> None:
        return None

    def complete(self) -> bool:
        return False


DIALECT: Final = OpenAIEmbeddings(INCLUSIVE)
"""OpenAI's own embeddings."""
