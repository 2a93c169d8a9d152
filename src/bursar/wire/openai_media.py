"""OpenAI images and audio: read where the response states its usage, passed through where it does not.

Rule 1: images and newer transcriptions state tokens, inclusively; older transcriptions state seconds of audio.
Rule 2: image tokens that came out are what ``output_tokens_details`` says; without it all output tokens are image.
Rule 3: speech answers with audio alone. Nothing is stated, so nothing is known.
Rule 4: of a form, the files are media: each image at its most, audio by its bytes; the rest of it is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

import msgspec
from msgspec import Struct

from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.prices import Reading
from bursar.core.usage import Usage

from .bounds import IMAGE_TOKENS_MAX, count_of
from .dialect import (
    UNREADABLE,
    Contradiction,
    Meter,
    RequestFacts,
    as_bytes,
    ceil_tokens,
    error_text,
    scope_facts,
    unreadable,
)
from .meters import StreamMeter
from .openai_chat import DIALECT as _CHAT
from .openai_chat import deployment, openai_error, with_deployment
from .openai_responses import with_model
from .openai_usage import ResponsesUsage, responses_usage

__all__ = ["AUDIO", "IMAGES", "OpenAIMedia"]

_FORM_MODEL: Final = re.compile(rb'name="model"[^\r\n]*(?:\r?\n[^\r\n]+)*\r?\n\r?\n([^\r\n]{1,200})')
_FORM_COUNT: Final = re.compile(rb'name="n"[^\r\n]*\r?\n\r?\n(\d{1,3})\r?\n')
# A prompt beside files has at most 32,000 characters (OpenAI API reference, image edits).
_FORM_TEXT_MAX: Final = 128_000
_SECONDS_MAX: Final = Decimal(10_000_000)


class _Usage(ResponsesUsage, gc=False):
    seconds: Decimal | None = None


class _Response(Struct):
    """A whole answer, or the last event of a stream: both hold ``usage`` at the top."""

    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Request(Struct):
    model: str | None = None
    stream: bool | None = None
    user: Any = None
    n: Any = None


_REQUEST: Final = msgspec.json.Decoder(_Request)
_RESPONSE: Final = msgspec.json.Decoder(_Response)


class OpenAIMedia:
    """The image or the audio endpoints."""

    can_cap = False

    def __init__(self, dialect_id: str, *, images: bool) -> None:
        self.id = dialect_id
        self._images = images

    def path_model(self, path: str) -> str:
        return deployment(path)

    def with_model(self, path: str, model: str) -> str:
        return with_deployment(path, model)

    def read_request(self, path: str, body: bytes) -> RequestFacts:
        estimate, files = 0, 0
        try:
            request = _REQUEST.decode(body)
            estimate = ceil_tokens(len(body))
        except UNREADABLE:  # a multipart form, with the audio or the image inside
            form = _FORM_MODEL.search(body[:1_000_000]) or _FORM_MODEL.search(body[-1_000_000:])
            count = _FORM_COUNT.search(body[:1_000_000]) or _FORM_COUNT.search(body[-1_000_000:])
            request = _Request(form[1].decode(errors="replace") if form else None, n=int(count[1]) if count else None)
            files = body.count(b"filename=")
        return RequestFacts(
            operation="passthrough",
            model=request.model or deployment(path),
            stream=bool(request.stream),
            input_tokens_estimate=estimate,
            choices=count_of(request.n),
            text_bytes=min(len(body), _FORM_TEXT_MAX) if files else len(body),
            media_tokens=self._media_tokens(files, len(body)),
            modalities=("image",) if self._images else ("audio",),
            **scope_facts(request.user, None),
        )

    def _media_tokens(self, files: int, size: int) -> int:
        if self._images:
            return files * IMAGE_TOKENS_MAX
        return ceil_tokens(size) if files else 0  # 32 tokens a second, 128 bytes: no codec needs so few

    def prepare(self, body: bytes, *, model: str | None, ask_usage: bool, changes: Changes = UNCHANGED) -> bytes:
        return with_model(body, model) if body.lstrip()[:1] == b"{" else body

    def read_response(self, body: bytes | Mapping[str, Any]) -> Reading:
        try:
            response = _RESPONSE.decode(as_bytes(body))
            usage = self.convert(response.usage) if response.usage else None
        except UNREADABLE as error:
            return unreadable(body, error)
        reason = "" if usage is not None else "the response states no usage"
        return Reading(usage, reason, response.model or "", response.id or "", error=error_text(response.error))

    def convert(self, stated: _Usage) -> Usage:
        if stated.seconds is not None:
            if not stated.seconds.is_finite() or not 0 <= stated.seconds <= _SECONDS_MAX:
                raise Contradiction(f"usage.seconds {str(stated.seconds)[:40]} is not a duration")
            milliseconds = int((stated.seconds * 1000).to_integral_value(rounding=ROUND_CEILING))
            return Usage(input_audio_ms=milliseconds)
        usage = responses_usage(stated)
        if self._images and stated.output_tokens_details is None:
            return usage._replace(output_image_tokens=usage.output_tokens)
        return usage

    def meter(self, facts: RequestFacts | None, *, hide_usage: bool = False, whole_events: bool = False) -> Meter:
        return _MediaMeter(self, facts, whole_events=whole_events)

    def error_body(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return openai_error(status, code, message, bursar)

    def error_event(self, status: int, code: str, message: str, bursar: Mapping[str, Any]) -> bytes:
        return _CHAT.error_event(status, code, message, bursar)


class _MediaMeter(StreamMeter):
    __slots__ = ("_dialect", "_stated")

    def __init__(self, dialect: OpenAIMedia, facts: RequestFacts | None, *, whole_events: bool) -> None:
        super().__init__(facts, dialect.read_response, whole_events=whole_events)
        self._dialect = dialect
        self._stated: _Usage | None = None

    def event(self, data: bytes) -> bool:
        event = _RESPONSE.decode(data)
        self._stated = event.usage or self._stated
        if event.error:
            self.error = error_text(event.error)
        return False

    def shows_output(self) -> bool:
        return True  # sound and pictures from the first byte on

    def usage(self) -> Usage | None:
        return self._dialect.convert(self._stated) if self._stated else None

    def complete(self) -> bool:
        return self._stated is not None


IMAGES: Final = OpenAIMedia("openai_images", images=True)
AUDIO: Final = OpenAIMedia("openai_audio", images=False)
