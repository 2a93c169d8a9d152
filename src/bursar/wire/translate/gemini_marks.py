"""How a Gemini client keeps what another provider signed, and gives it back.

Rule 1: a signature of Gemini's own stays as it is. Any other goes into ``thoughtSignature`` with its origin before it, in
        base64, as the field is bytes: clients send it back with the part that it came on.
Rule 2: Gemini 3 and later refuse a turn of function calls whose first has no signature. Where another provider made the call
        there is none; ``NOT_SIGNED`` is what Google documents for such histories (Gemini API, thought signatures). Clients
        get it with the call, so that what they send back is valid at Gemini itself.
Rule 3: a signature that is not Gemini's is not: ``without_foreign_thoughts`` takes such parts out of a request that is passed
        on as it came.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Literal, cast

import msgspec

from bursar.wire.dialect import UNREADABLE, mapping

from .conversation import DialectId, Thinking

__all__ = ["NOT_SIGNED", "signature_of", "signed_thinking", "tool_signature", "without_foreign_thoughts"]

NOT_SIGNED: Final = base64.b64encode(b"skip_thought_signature_validator").decode()
_ACCEPTED_UNSIGNED: Final = frozenset({b"skip_thought_signature_validator", b"context_engineering_is_the_way_to_go"})
_FOREIGN: Final = b"bursar:"
_FOREIGN_ENCODED: Final = base64.b64encode(_FOREIGN[:6])  # whole groups of three bytes, whatever follows
_ORIGINS: Final[dict[str, DialectId]] = {"openai_chat": "openai_chat", "anthropic": "anthropic"}


def signature_of(thinking: Thinking) -> str:
    """The ``thoughtSignature`` of a thought, "" where it has none."""
    sealed = thinking.hidden or thinking.signature
    if not sealed or thinking.origin == "gemini":
        return sealed
    kind = "hidden" if thinking.hidden else "signature"
    return base64.b64encode(f"bursar:{thinking.origin}:{kind}:{sealed}".encode()).decode()


def signed_thinking(text: str, signature: str) -> Thinking:
    """The thought that has this ``thoughtSignature``, with where it came from."""
    if not signature:
        return Thinking(text)
    plain = _decoded(signature)
    if plain in _ACCEPTED_UNSIGNED:
        return Thinking(text)
    if plain.startswith(_FOREIGN):
        origin, _, rest = plain[len(_FOREIGN) :].decode(errors="replace").partition(":")
        kind, _, sealed = rest.partition(":")
        known: DialectId | Literal[""] = _ORIGINS.get(origin, "")
        return Thinking(text, "", known, sealed) if kind == "hidden" else Thinking(text, sealed, known)
    return Thinking(text, signature, "gemini")


def tool_signature(signature: str) -> str:
    """The signature of a function call, "" for one that says that there is none."""
    return "" if signature and _decoded(signature) in _ACCEPTED_UNSIGNED else signature


def without_foreign_thoughts(body: bytes) -> bytes:
    """A generateContent request without the thoughts that another provider signed: the same object where there are none."""
    if _FOREIGN_ENCODED not in body:
        return body
    try:
        request = msgspec.json.decode(body, type=dict[str, Any])
    except UNREADABLE:
        return body
    contents = request.get("contents")
    if not isinstance(contents, list):
        return body
    kept: list[Any] = []
    for content in cast("list[Any]", contents):
        parts = mapping(content).get("parts")
        own = [part for part in cast("list[Any]", parts) if not _foreign(part)] if isinstance(parts, list) else None
        if own is None or own == parts:
            kept.append(content)
        elif own:
            kept.append({**mapping(content), "parts": own})
    return msgspec.json.encode({**request, "contents": kept})


def _foreign(part: Any) -> bool:
    said = mapping(part)
    signature = said.get("thoughtSignature") or said.get("thought_signature")
    return isinstance(signature, str) and _decoded(signature).startswith(_FOREIGN)


def _decoded(signature: str) -> bytes:
    """The bytes of a signature in either alphabet of base64, b"" where it is neither."""
    plain = signature.translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""
