"""What a request's content can cost at most, before it is sent.

Rule 1: every byte of a body is text, at most one token a byte, unless it is known to be media at its documented place.
        Whatever is not recognized stays text: the bound is then too high, never too low.
Rule 2: an image costs at most ``IMAGE_TOKENS_MAX``, whatever its size: providers scale it down. The largest documented
        figures: Anthropic 4,784 (high resolution, from Opus 4.7 on), Gemini 2.x 16 tiles x 258 = 4,128, Gemini 3
        2,240 (ultra high), OpenAI 1,445 (tiles) to 3,779 (1,536 patches x 2.46). Larger ones are in ``_HUNGRY``.
Rule 3: audio is billed by time, 10 tokens a second at OpenAI and 32 at Gemini, so its bytes are bounded by the lowest
        bit rate: eight base64 characters a token is 1.5 kbit/s, below any speech codec. A RIFF file is uncompressed,
        64 kbit/s and more; 64 characters a token assume a fifth of that.
Rule 4: a page of a document is at most 3,000 tokens of text and one image (Anthropic, PDF support). A page takes more
        than 2 kB in what people make, so two tokens a character bound it; a PDF made to deceive can have more.
Rule 5: video is billed by time, at most 300 tokens a second at a frame a second (Gemini); one token a character is
        2.4 kbit/s.
Rule 6: what only the provider can see (a stored file, an earlier response, a linked document) has no bound: ``unseen``.
Rule 7: text-only requests are the rule. The message list is decoded into types that keep no text, which costs less
        than two searches through the body would (measured at 400 kB: 20 to 80 us against 100 to 200 us each).
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

from msgspec import Raw

from bursar.core.ladder import EFFORTS

__all__ = [
    "CACHE_WRITES",
    "IMAGE_TOKENS_MAX",
    "Bounds",
    "Kind",
    "count_of",
    "effort_of",
    "given",
    "image_tokens_max",
    "is_inline",
    "kind_of",
]

Kind: TypeAlias = Literal["image", "audio", "video", "document"]

IMAGE_TOKENS_MAX: Final = 5_000
CACHE_WRITES: Final = ("cache_write_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")

# gpt-4o-mini bills 2,833 and 5,667 for each of up to 8 tiles; from GPT-5.4 on an image may have 10,000 patches.
_HUNGRY: Final = ((re.compile(r"gpt-4o-mini"), 48_169), (re.compile(r"gpt-5\.[4-9]|gpt-[6-9]"), 10_000))
_AUDIO_CHARACTERS: Final = 8
_RIFF_CHARACTERS: Final = 64
_DOCUMENT_TOKENS_PER_CHARACTER: Final = 2
_RIFF: Final = b"UklGR"
_HEAD: Final = 256


class Bounds:
    """Collects what was found in one request."""

    __slots__ = ("_model", "hour", "kinds", "media_bytes", "media_tokens", "unseen", "writes")

    def __init__(self, model: str = "") -> None:
        self._model = model
        self.media_bytes = 0
        self.media_tokens = 0
        self.kinds: set[str] = set()
        self.unseen = False
        self.writes = False
        self.hour = False

    def inline(self, kind: Kind, raw: Raw | bytes) -> None:
        """Media in base64; ``raw`` is the JSON value that holds it."""
        size = len(memoryview(raw))
        self.media_bytes += size
        match kind:
            case "image":
                self.media_tokens += image_tokens_max(self._model)
            case "audio":
                self.media_tokens += -(-size // (_RIFF_CHARACTERS if _RIFF in _head(raw) else _AUDIO_CHARACTERS))
            case "video":
                self.media_tokens += size
            case "document":
                self.media_tokens += max(image_tokens_max(self._model), size * _DOCUMENT_TOKENS_PER_CHARACTER)
        self._saw(kind)

    def linked(self, kind: Kind) -> None:
        """Media at an address: an image is bounded all the same, anything else has a length that nobody knows."""
        if kind == "image":
            self.media_tokens += image_tokens_max(self._model)
        else:
            self.unseen = True
        self._saw(kind)

    def either(self, kind: Kind, raw: Raw) -> None:
        """Media as a data URL or at an address."""
        if is_inline(raw):
            self.inline(kind, raw)
        else:
            self.linked(kind)

    def cache(self, raw: Raw) -> None:
        """A mark that asks to write the prompt cache."""
        if given(raw):
            self.writes = True
            self.hour = self.hour or b'"1h"' in bytes(raw)

    def _saw(self, kind: Kind) -> None:
        self.kinds.add("image" if kind == "document" else kind)

    @property
    def writes_cache(self) -> tuple[str, ...]:
        """The units that the marks can cause."""
        return (CACHE_WRITES if self.hour else CACHE_WRITES[:2]) if self.writes else ()

    def facts(self, size: int) -> dict[str, Any]:
        """The fields of ``RequestFacts`` for a body of this size."""
        return {
            "text_bytes": size - self.media_bytes,
            "media_tokens": self.media_tokens,
            "unseen_input": self.unseen,
            "modalities": tuple(sorted(self.kinds)) if self.kinds else (),
        }


def image_tokens_max(model: str) -> int:
    """The most tokens of one image at this model."""
    if "gpt-" in model:
        for pattern, tokens in _HUNGRY:
            if pattern.search(model):
                return tokens
    return IMAGE_TOKENS_MAX


def _head(raw: Raw | bytes) -> bytes:
    return bytes(memoryview(raw)[:_HEAD])


def is_inline(raw: Raw | bytes) -> bool:
    """Whether a JSON value is, or soon holds, a data URL. One that hides it stays text, which costs more."""
    return b";base64," in _head(raw)


def given(raw: Raw) -> bool:
    """Whether a member is there, and is not null."""
    return bool(raw) and bytes(memoryview(raw)[:4]) != b"null"


def kind_of(mime: Any) -> Kind:
    """The kind of a media type; what is no image, audio or video is a document."""
    head = mime.partition("/")[0].lower() if isinstance(mime, str) else ""
    return head if head in ("image", "audio", "video") else "document"


def count_of(value: Any, *, least: int = 1) -> int:
    """A count that a request states, ``least`` where it states none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return max(least, value) if isinstance(value, int) and not isinstance(value, bool) else least


def effort_of(value: Any) -> str:
    """A stated effort in our words, "" where it is none of them."""
    word = value.lower() if isinstance(value, str) else ""
    return word if word in EFFORTS else ""
