"""JSON-RPC messages as far as money is concerned: tool calls, their answers, cancellations, the server's name.

Rule 1: what is passed on is what came, byte for byte; this module only reads. What is no JSON says nothing.
Rule 2: ids are told apart by type and value: ``1`` and ``"1"`` are two requests.
Rule 3: numbers of an answer keep their digits: money may be among them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, TypeAlias, cast

import msgspec

from bursar.core.values import valueclass

__all__ = [
    "Answer",
    "Id",
    "Message",
    "ToolRequest",
    "answer_json",
    "batch_of",
    "error_message",
    "refusal_message",
    "read_messages",
]

Id: TypeAlias = str
"""A request's id as JSON, spelled the same however it was spelled."""

_CALL: Final = "tools/call"
_CANCELLED: Final = "notifications/cancelled"
_SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"
REFUSAL_KEY: Final = "bursar/refusal"
_INVALID_REQUEST: Final = -32600
_NOT_TAKEN: Final = frozenset({-32700, -32600, -32601, -32602})
"""No JSON, no request, no such method, no such parameters: no tool has run (https://www.jsonrpc.org/specification)."""
_DIGEST_BYTES: Final = 8
_ERROR_LENGTH_MAX: Final = 300
_UNREAD: Final = msgspec.Raw(b"null")
_ABSENT: Final = msgspec.Raw()


@valueclass
class ToolRequest:
    """A request to call a tool: its name there, what the request says about itself (``_meta``), and a digest of its
    arguments: equal arguments have equal ones."""

    tool: str
    meta: Mapping[str, Any]
    digest: str = ""


@valueclass
class Answer:
    """The answer to a request, whatever it asked for. ``body`` is the result as JSON, or the error.

    ``refused`` is True where the server did not take the request, ``unfinished`` where it asks for something first: the
    client will send the request again.
    """

    body: bytes
    failed: bool = False
    error: str = ""
    refused: bool = False
    unfinished: bool = False
    server: str = ""


@valueclass
class Message:
    """One message. ``id`` is "" where there is none; of ``call``, ``cancels`` and ``answer`` at most one is set."""

    raw: bytes
    id: Id = ""
    method: str = ""
    call: ToolRequest | None = None
    cancels: Id = ""
    answer: Answer | None = None


class _Envelope(msgspec.Struct, gc=False):
    method: Any = None
    id: msgspec.Raw = _UNREAD
    params: msgspec.Raw = _UNREAD
    result: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


class _Params(msgspec.Struct, gc=False):
    name: Any = None
    meta: Any = msgspec.field(name="_meta", default=None)
    request_id: msgspec.Raw = msgspec.field(name="requestId", default=_UNREAD)
    arguments: msgspec.Raw = _UNREAD


class _Info(msgspec.Struct, gc=False):
    name: str = ""


class _Result(msgspec.Struct, gc=False):
    is_error: Any = msgspec.field(name="isError", default=False)
    result_type: Any = msgspec.field(name="resultType", default=None)
    server_info: msgspec.Raw = msgspec.field(name="serverInfo", default=_UNREAD)
    meta: msgspec.Raw = msgspec.field(name="_meta", default=_UNREAD)


class _Error(msgspec.Struct, gc=False):
    code: Any = None
    message: Any = None


class _Block(msgspec.Struct, gc=False):
    text: Any = None


class _Content(msgspec.Struct, gc=False):
    structured: msgspec.Raw = msgspec.field(name="structuredContent", default=_UNREAD)
    content: list[_Block] = []


_envelopes: Final = msgspec.json.Decoder(_Envelope)
_arrays: Final = msgspec.json.Decoder(list[msgspec.Raw])
_params: Final = msgspec.json.Decoder(_Params)
_results: Final = msgspec.json.Decoder(_Result)
_errors: Final = msgspec.json.Decoder(_Error)
_stamps: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_infos: Final = msgspec.json.Decoder(_Info)
_contents: Final = msgspec.json.Decoder(_Content)
_exact: Final[Any] = msgspec.json.Decoder(float_hook=Decimal)
_encode: Final = msgspec.json.Encoder().encode


def read_messages(data: bytes) -> tuple[Message, ...]:
    """The messages of one line or body: one, those of a batch, or none where it is no JSON-RPC."""
    text = data.strip()
    if text[:1] == b"[":
        return tuple(message for part in _parts(text) for message in _read(bytes(part)))
    return _read(text)


def _parts(text: bytes) -> Sequence[msgspec.Raw]:
    try:
        return _arrays.decode(text)
    except msgspec.MsgspecError:
        return ()


def _read(text: bytes) -> tuple[Message, ...]:
    try:
        found = _envelopes.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        found = _decoded(_envelopes, _plain_json(text))
        if found is None:
            return ()
    if isinstance(found.method, str):
        return (_asked(text, found, found.method),)
    if found.error is not _ABSENT and bytes(found.error) != b"null":
        return (Message(text, _id(found.id), answer=_failed(bytes(found.error))),)
    if found.result is not _ABSENT:
        return (Message(text, _id(found.id), answer=_answered(bytes(found.result))),)
    return (Message(text, _id(found.id)),)


def _plain_json(text: bytes) -> bytes:
    """What others take for JSON (``NaN``, lone surrogates) as what it means: a tool call must not pass unseen."""
    if not text.startswith(b"{"):
        return b""
    try:
        return json.dumps(json.loads(text, parse_constant=lambda _: None)).encode()
    except (ValueError, RecursionError):
        return b""


def _asked(text: bytes, found: _Envelope, method: str) -> Message:
    name = _id(found.id)
    if method == _CALL:
        params = _decoded(_params, found.params) or _Params()
        tool = params.name if isinstance(params.name, str) else ""
        meta = cast("dict[str, Any]", params.meta) if isinstance(params.meta, dict) else {}
        return Message(text, name, method, call=ToolRequest(tool, meta, _digest(params.arguments)))
    if method == _CANCELLED:
        params = _decoded(_params, found.params) or _Params()
        return Message(text, name, method, cancels=_id(params.request_id))
    return Message(text, name, method)


def _digest(arguments: msgspec.Raw) -> str:
    try:
        data = msgspec.json.encode(msgspec.json.decode(arguments), order="sorted")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _answered(body: bytes) -> Answer:
    result = _decoded(_results, body)
    if result is None:
        return Answer(body)
    failed = result.is_error is True
    unfinished = isinstance(result.result_type, str) and result.result_type != "complete"
    info: bytes | msgspec.Raw = result.server_info
    if stamps := _decoded(_stamps, result.meta):
        info = stamps.get(_SERVER_INFO, info)
    named = _decoded(_infos, info)
    error = "the tool says that it failed" if failed else ""  # not in its own words: answers are not stored
    return Answer(body, failed, error, unfinished=unfinished, server=named.name if named else "")


def _failed(body: bytes) -> Answer:
    found = _decoded(_errors, body) or _Error()
    error = f"{found.code}: {found.message}"[:_ERROR_LENGTH_MAX]
    return Answer(body, failed=True, error=error, refused=found.code in _NOT_TAKEN)


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes | msgspec.Raw) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _id(raw: msgspec.Raw) -> Id:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return bytes(raw).decode(errors="replace")
    return "" if value is None else _encode(value).decode()


def answer_json(body: bytes) -> Any | None:
    """What a tool's result says as data: its structured content, else its one text where that is JSON; None else."""
    found = _decoded(_contents, body)
    if found is None:
        return None
    if bytes(found.structured) != b"null":
        return _decoded(_exact, found.structured)
    text: Any = found.content[0].text if len(found.content) == 1 else None
    return _decoded(_exact, text.encode(errors="replace")) if isinstance(text, str) else None


def refusal_message(request: Id, text: str, details: Mapping[str, Any]) -> bytes:
    """The answer to a tool call that was not let through: a tool's result, so that the agent reads why.

    The figures are in ``_meta``: structured content would be held against the tool's own output schema.
    """
    result = {
        "content": [{"type": "text", "text": text}],
        "isError": True,
        "resultType": "complete",
        "_meta": {REFUSAL_KEY: dict(details)},
    }
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (request.encode() or b"null", _encode(result))


def error_message(request: Id, text: str) -> bytes:
    """A JSON-RPC error for a message that is not passed on."""
    error = {"code": _INVALID_REQUEST, "message": text}
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (request.encode() or b"null", _encode(error))


def batch_of(messages: Sequence[bytes], *, single: bool) -> bytes:
    """Messages as one text: alone where what they answer came alone, else a batch."""
    return messages[0] if single else b"[" + b",".join(messages) + b"]"
