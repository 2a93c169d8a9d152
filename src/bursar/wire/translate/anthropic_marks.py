"""How a client of Anthropic's dialect keeps what another provider gave it, and gives it back.

Rule 1: what only another provider can read travels in fields that clients send back as they came: a signature of Gemini's
        function calls behind the id of the tool use, a signature of its thoughts as that of a thinking block.
Rule 2: an id stays an id that Anthropic takes (``^[a-zA-Z0-9_-]+$``): a conversation that goes on at Anthropic itself is
        valid as it is. A thinking block that is not Anthropic's is not: its signature begins with ``FOREIGN``, and
        ``without_foreign_thinking`` takes such blocks out of a request that is passed on as it came.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from bursar.wire.dialect import UNREADABLE, mapping
from bursar.wire.splice import elements, joined, members, splice

from .conversation import DialectId, Thinking

__all__ = [
    "FOREIGN",
    "foreign_signature",
    "id_with_signature",
    "id_without_signature",
    "plain_id",
    "thinking_of",
    "without_foreign_thinking",
]

FOREIGN: Final = "bursar:"
_FOREIGN_QUOTED: Final = b'"' + FOREIGN.encode()
_NOTHING: Final = msgspec.Raw(b"[]")
_ORIGINS: Final[dict[str, DialectId]] = {"openai_chat": "openai_chat", "gemini": "gemini"}
_SIGNED: Final = "__thought__"
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")


def plain_id(tool_id: str) -> str:
    """An id that Anthropic takes: the same one, or one that always stands for it."""
    if _ID.fullmatch(tool_id):
        return tool_id
    return "toolu_" + blake2b(tool_id.encode(errors="replace"), digest_size=12).hexdigest()


def id_with_signature(tool_id: str, signature: str) -> str:
    """The id that the client sees, with the signature of the tool use in it."""
    if not signature:
        return plain_id(tool_id)
    return plain_id(tool_id) + _SIGNED + urlsafe_b64encode(signature.encode()).decode().rstrip("=")


def id_without_signature(tool_id: str) -> tuple[str, str]:
    """The id and the signature that ``id_with_signature`` joined."""
    bare, mark, packed = tool_id.partition(_SIGNED)
    if not mark:
        return tool_id, ""
    try:
        return bare, urlsafe_b64decode(packed + "=" * (-len(packed) % 4)).decode()
    except ValueError:
        return tool_id, ""


def foreign_signature(thinking: Thinking) -> str:
    """The signature to show a client: Anthropic's own as it is."""
    if thinking.origin == "anthropic":
        return thinking.signature
    return f"{FOREIGN}{thinking.origin}:{thinking.signature}"


def thinking_of(text: str, signature: str, hidden: str = "") -> Thinking:
    """The thinking of a block, with where it came from."""
    sealed = hidden or signature
    if not sealed.startswith(FOREIGN):
        return Thinking(text, signature, "anthropic", hidden)
    origin, _, own = sealed[len(FOREIGN) :].partition(":")
    known: DialectId | Literal[""] = _ORIGINS.get(origin, "")
    return Thinking(text, "" if hidden else own, known, own if hidden else "")


def without_foreign_thinking(body: bytes) -> bytes:
    """A messages request without the thinking blocks of other providers: the same object where there are none.

    Anthropic refuses a thinking block that it did not sign. What cannot be read stays as it is: Anthropic says why.
    """
    if _FOREIGN_QUOTED not in body:
        return body
    try:
        messages = members(body).get("messages")
        kept = [left for message in elements(messages or _NOTHING) if (left := _own(message))]
    except UNREADABLE:
        return body
    return splice(body, {"messages": joined(kept)}) if messages is not None else body


def _own(message: bytes) -> bytes:
    """The message without foreign thinking, b"" where nothing is left of it."""
    content = members(message).get("content") if _FOREIGN_QUOTED in message else None
    if content is None or bytes(content)[:1] != b"[":
        return message
    blocks = elements(content)
    own = [block for block in blocks if not _is_foreign(block)]
    if len(own) == len(blocks):
        return message
    return splice(message, {"content": joined(own)}) if own else b""


def _is_foreign(block: bytes) -> bool:
    said = mapping(msgspec.json.decode(block))
    sealed = {"thinking": "signature", "redacted_thinking": "data"}.get(str(said.get("type")), "")
    return str(said.get(sealed)).startswith(FOREIGN)
