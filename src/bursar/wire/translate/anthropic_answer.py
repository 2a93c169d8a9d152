"""Anthropic's answers, whole and streamed, read into a conversation and written out of one.

Rule 1: usage is read by the meters of ``wire.anthropic`` and said again in Anthropic's way: ``input_tokens`` leaves out what
        was read from the cache and written to it, ``output_tokens`` contains thinking.
Rule 2: blocks come one after the other. What is meant for another block than the open one waits while the open one is a tool
        use whose arguments are not whole, and closes it otherwise.
Rule 3: the end of the message waits for ``close``: other dialects say their usage after they have finished.
Rule 4: the shape of a message demands counts: where none are known it says 0. Nothing is charged by what is written here.
Rule 5: thinking of another provider is shown in blocks that are marked as foreign (``anthropic_marks``).
Rule 6: arguments belong to the tool use at their index, for blocks may come interleaved. The input in a block's start counts
        where no other follows, as in the SDKs.
Rule 7: what was read before an event that cannot be read was said, however the stream was cut: the event is an error of the
        stream, and after its finish nothing at all.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from bursar.core.usage import Usage
from bursar.wire.anthropic import DIALECT, MessagesMeter
from bursar.wire.dialect import UNREADABLE, Contradiction, error_type
from bursar.wire.sse import Splitter, event_data

from .anthropic_marks import foreign_signature, id_with_signature, id_without_signature, thinking_of
from .anthropic_write import arguments_object
from .conversation import (
    Answered,
    Began,
    Counted,
    Event,
    Failed,
    Finish,
    Finished,
    Part,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
    ToolUse,
    Untranslatable,
)

__all__ = ["MessagesReader", "MessagesWriter", "read_answer", "write_answer"]

_FINISHES: Final[dict[str, Finish]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # a turn that is not at its end
    "tool_use": "tool_calls",
    "refusal": "refusal",
}
_STOP_REASONS: Final[dict[Finish, str]] = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal", "refusal": "refusal",
}  # fmt: skip
_STATUSES: Final = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
    "overloaded_error": 529,
}  # fmt: skip
_TEXT_DELTA: Final = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":%b}}\n\n'
)
_ENCODER: Final = msgspec.json.Encoder()


class _Content(Struct):
    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Message(Struct):
    id: str = ""
    model: str = ""
    content: list[_Content] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Delta(Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Error(Struct):
    type: str = ""
    message: str = ""


class _Event(Struct):
    type: str
    index: int | None = None
    delta: _Delta | None = None
    content_block: _Content | None = None
    message: _Message | None = None
    error: _Error | None = None


class _Whole(_Message):
    type: str = ""


_WHOLE: Final = msgspec.json.Decoder(_Whole)
_EVENT: Final = msgspec.json.Decoder(_Event)


# --- whole --------------------------------------------------------------------------------------------------------


def read_answer(body: bytes) -> Answered:
    """A whole message. Raises ValueError."""
    try:
        message = _WHOLE.decode(body)
    except UNREADABLE as error:
        raise ValueError(f"no message: {error}") from None
    if message.type != "message" or message.content is None:
        raise ValueError("no message: it has no content")
    return Answered(
        id=message.id,
        model=message.model,
        parts=tuple(_part(block) for block in message.content),
        finish=_FINISHES.get(message.stop_reason or "", "stop"),
        usage=DIALECT.read_response(body).usage,
        stopped_by=message.stop_sequence or "",
    )


def _part(block: _Content) -> Part:
    match block.type:
        case "text":
            return Text(block.text)
        case "thinking" | "redacted_thinking":
            return thinking_of(block.thinking, block.signature, block.data)
        case "tool_use":
            tool_id, signature = id_without_signature(block.id)
            return ToolUse(tool_id, block.name, bytes(block.input).decode(), signature)
        case _:
            raise ValueError(f"a block of the type {block.type!r}, for which no translated request asks")


def write_answer(answered: Answered) -> bytes:
    """A whole message."""
    content = [_block(part) for part in answered.parts if not (isinstance(part, Text) and not part.text)]
    uses = any(isinstance(part, ToolUse) for part in answered.parts)
    reason, sequence = _stop(answered.finish, answered.stopped_by, uses=uses)
    message = _message(answered.id, answered.model, content, _usage(answered.usage))
    message["stop_reason"], message["stop_sequence"] = reason, sequence
    return _ENCODER.encode(message)


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Thinking() if part.hidden:
            return {"type": "redacted_thinking", "data": _hidden(part)}
        case Thinking():
            return {"type": "thinking", "thinking": part.text, "signature": foreign_signature(part)}
        case ToolUse():
            tool_id = id_with_signature(part.id, part.signature)
            return {"type": "tool_use", "id": tool_id, "name": part.name, "input": arguments_object(part.arguments)}
        case _:
            raise Untranslatable("", f"Anthropic's answers hold no {type(part).__name__.lower()}")


def _hidden(part: Thinking) -> str:
    return part.hidden if part.origin == "anthropic" else foreign_signature(Thinking("", part.hidden, part.origin))


def _message(answer_id: str, model: str, content: list[Any], usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": answer_id or "msg_0", "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def _stop(finish: Finish, stopped_by: str, *, uses: bool) -> tuple[str, str | None]:
    if finish == "stop" and uses:
        return "tool_use", None  # clients run tools by this reason
    if finish == "stop" and stopped_by:
        return "stop_sequence", stopped_by
    return _STOP_REASONS[finish], None


def _usage(usage: Usage | None) -> dict[str, Any]:
    known = usage or Usage()
    said: dict[str, Any] = {
        "input_tokens": max(0, known.uncached_input_tokens),
        "cache_creation_input_tokens": known.cache_write_tokens,
        "cache_read_input_tokens": known.cache_read_tokens,
        "output_tokens": known.output_tokens,
    }
    if known.cache_write_5m_tokens or known.cache_write_1h_tokens:
        said["cache_creation"] = {
            "ephemeral_5m_input_tokens": known.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": known.cache_write_1h_tokens,
        }
    if known.reasoning_tokens:
        said["output_tokens_details"] = {"thinking_tokens": known.reasoning_tokens}
    if known.web_searches:
        said["server_tool_use"] = {"web_search_requests": known.web_searches, "web_fetch_requests": 0}
    return said


# --- streams, read ------------------------------------------------------------------------------------------------


def _data(event: bytes) -> bytes:
    """The data of an event: found at once where it has two lines, as Anthropic's all have."""
    first, _, rest = event.partition(b"\n")
    if rest.startswith(b"data:") and first.startswith(b"event:") and b"\n" not in rest and b"\r" not in event:
        return rest[5:]
    return event_data(event.strip(b"\r\n"))


class _Use:
    """A tool use, the how-manieth it is, and its arguments as the start of its block says them, until they are told."""

    __slots__ = ("number", "untold")

    def __init__(self, number: int, untold: str) -> None:
        self.number = number
        self.untold = untold


class MessagesReader:
    """A stream of messages as events."""

    __slots__ = ("_began", "_block", "_finished", "_meter", "_over", "_splitter", "_tools", "_uses")

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._meter = MessagesMeter(DIALECT.read_response, None)
        self._tools = 0
        self._uses: dict[int, _Use] = {}
        self._block = -1  # the index of the block that began last
        self._began = self._finished = self._over = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises ValueError for what is no stream of messages."""
        events: list[Event] = []
        for event in self._splitter.feed(chunk):
            try:
                self._read(_data(event), events)
            except ValueError as error:
                if not (self._began or events):
                    raise
                self._over = True
                if not self._finished:
                    events.append(Failed(502, f"the stream cannot be read any further: {error}"))
        self._began = self._began or bool(events)
        return events

    def finish(self) -> list[Event]:
        rest = self._splitter.rest().strip()
        if not self._began and rest[:1] in (b"{", b"["):
            raise ValueError("no stream: a JSON body")
        events: list[Event] = []
        data = event_data(rest)
        if data.rstrip().endswith(b"}"):  # the last event of a stream that ends without its blank line
            with suppress(ValueError):  # it broke off inside the event
                self._read(data, events)
        return events

    def _read(self, data: bytes, events: list[Event]) -> None:
        if not data or self._over:
            return
        try:
            event = _EVENT.decode(data)
        except UNREADABLE as error:
            raise ValueError(f"an event cannot be read: {error}") from None
        match event.type:
            case "content_block_delta" if event.delta is not None:
                self._delta(event.delta, self._uses.get(self._at(event)), events)
            case "content_block_start" if event.content_block is not None:
                self._block = self._block + 1 if event.index is None else event.index
                self._start(event.content_block, events)
            case "content_block_stop":
                self._tell(self._uses.get(self._at(event)), events)
            case "message_start" if event.message is not None:
                usage = self._usage(data)
                if usage is not None:  # the output is a first guess at this place
                    usage = usage._replace(output_tokens=0, reasoning_tokens=0)
                events.append(Began(event.message.id, event.message.model, usage))
            case "message_delta" if event.delta is not None:
                if reason := event.delta.stop_reason:
                    for use in self._uses.values():
                        self._tell(use, events)
                    self._finished = True
                    events.append(Finished(_FINISHES.get(reason, "stop"), event.delta.stop_sequence or ""))
                usage = self._usage(data)
                if usage is not None and self._meter.complete():
                    events.append(Counted(usage))
            case "error":
                self._over = True
                error = event.error or _Error()
                events.append(Failed(_STATUSES.get(error.type, 500), error.message or error.type))
            case _:
                pass

    def _at(self, event: _Event) -> int:
        return self._block if event.index is None else event.index

    def _start(self, block: _Content, events: list[Event]) -> None:
        self._tell(self._uses.pop(self._block, None), events)
        match block.type:
            case "text":
                if block.text:
                    events.append(TextDelta(block.text))
            case "thinking":
                if block.thinking or block.signature:
                    self._thought(block.thinking, block.signature, "", events)
            case "redacted_thinking":
                self._thought("", "", block.data, events)
            case "tool_use":
                tool_id, signature = id_without_signature(block.id)
                events.append(ToolBegan(self._tools, tool_id, block.name, signature))
                arguments = bytes(block.input).decode()
                self._uses[self._block] = _Use(self._tools, "{}" if arguments == "null" else arguments)
                self._tools += 1
            case _:
                raise ValueError(f"a block of the type {block.type!r}, for which no translated request asks")

    def _delta(self, delta: _Delta, use: _Use | None, events: list[Event]) -> None:
        match delta.type:
            case "text_delta":
                if delta.text:
                    events.append(TextDelta(delta.text))
            case "input_json_delta":
                if delta.partial_json:
                    if use is None:
                        raise ValueError("arguments come for a block that is no tool use")
                    use.untold = ""
                    events.append(ToolDelta(use.number, delta.partial_json))
            case "thinking_delta":
                if delta.thinking:
                    events.append(ThinkingDelta(delta.thinking))
            case "signature_delta":
                self._thought("", delta.signature, "", events)
            case _:
                pass

    def _tell(self, use: _Use | None, events: list[Event]) -> None:
        """Nothing more comes for this tool use: its arguments are those of its start, unless others were told."""
        if use is not None and use.untold:
            events.append(ToolDelta(use.number, use.untold))
            use.untold = ""

    def _thought(self, text: str, signature: str, hidden: str, events: list[Event]) -> None:
        part = thinking_of(text, signature, hidden)
        if part.text or part.signature or part.hidden or part.origin:
            events.append(ThinkingDelta(part.text, part.signature, part.origin, part.hidden))

    def _usage(self, data: bytes) -> Usage | None:
        try:
            self._meter.event(data)
            return self._meter.usage()
        except (Contradiction, *UNREADABLE):
            return None


# --- streams, written ---------------------------------------------------------------------------------------------

_Open: TypeAlias = Thinking | ToolBegan | Text | None


class MessagesWriter:
    """Events as a stream of messages."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = False
        self._ended = False
        self._index = -1
        self._open: _Open = None
        self._arguments: list[str] = []
        self._waiting: list[Event] = []
        self._uses = False
        self._finished: Finished | None = None
        self._usage: Usage | None = None

    @property
    def content_type(self) -> str:
        return "text/event-stream; charset=utf-8"

    def write(self, event: Event) -> bytes:
        if self._ended:
            return b""
        if isinstance(event, TextDelta) and isinstance(self._open, Text) and event.text:
            return self._text_delta(event.text)  # nothing waits while no tool use is open
        out: list[bytes] = []
        self._write(event, out)
        return b"".join(out)

    def close(self) -> bytes:
        if self._ended or self._finished is None:
            return b""
        out: list[bytes] = []
        self._begin(Began("", self._model), out)
        self._flush(out)
        reason, sequence = _stop(self._finished.finish, self._finished.stopped_by, uses=self._uses)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        out.append(_sse("message_delta", {"type": "message_delta", "delta": delta, "usage": _usage(self._usage)}))
        out.append(_sse("message_stop", {"type": "message_stop"}))
        self._ended = True
        return b"".join(out)

    def _write(self, event: Event, out: list[bytes]) -> None:
        match event:
            case Began():
                self._begin(event, out)
            case Counted():
                self._usage = event.usage
            case Finished():
                self._finished = event
            case Failed():
                self._ended = True
                error = {"type": error_type(event.status), "message": event.message}
                out.append(_sse("error", {"type": "error", "error": error}))
            case ToolDelta() if self._is_open(event.index):
                self._say(event, out)
                self._drain(out)
            case TextDelta() | ThinkingDelta() | ToolBegan() | ToolDelta():
                self._begin(Began("", self._model), out)
                self._waiting.append(event)
                self._drain(out)

    def _begin(self, began: Began, out: list[bytes]) -> None:
        if self._started:
            return
        self._started = True
        self._usage = began.usage
        message = _message(began.id, began.model or self._model, [], _usage(began.usage))
        out.append(_sse("message_start", {"type": "message_start", "message": message}))

    # --- what waits (rule 2) ---

    def _is_open(self, tool: int) -> bool:
        return isinstance(self._open, ToolBegan) and self._open.index == tool

    def _is_torn(self) -> bool:
        """Whether a tool use is open whose arguments are not whole."""
        if not isinstance(self._open, ToolBegan):
            return False
        if not (self._arguments and self._arguments[-1].rstrip().endswith("}")):
            return True
        try:
            msgspec.json.decode("".join(self._arguments))
        except UNREADABLE:
            return True
        return False

    def _drain(self, out: list[bytes]) -> None:
        """Say what waits, as far as the open tool use lets it. A tool use goes out with all that waits for it."""
        while self._waiting and not self._is_torn():
            event = self._waiting.pop(0)
            self._say(event, out)
            if isinstance(event, ToolBegan) and self._waiting:
                for each in self._waiting:
                    if isinstance(each, ToolDelta):
                        self._say(each, out)
                self._waiting = [
                    each for each in self._waiting if not (isinstance(each, ToolDelta) and self._is_open(each.index))
                ]

    def _flush(self, out: list[bytes]) -> None:
        """Say everything: nothing more comes, whole or not."""
        self._drain(out)
        while self._waiting:
            self._stop_block(out)
            self._drain(out)
        self._stop_block(out)

    # --- blocks ---

    def _say(self, event: Event, out: list[bytes]) -> None:
        match event:
            case TextDelta():
                if event.text:
                    if not isinstance(self._open, Text):
                        self._start_block(Text(""), {"type": "text", "text": ""}, out)
                    out.append(self._text_delta(event.text))
            case ThinkingDelta():
                self._say_thought(event, out)
            case ToolBegan():
                self._uses = True
                tool_id = id_with_signature(event.id, event.signature)
                block: dict[str, Any] = {"type": "tool_use", "id": tool_id, "name": event.name, "input": {}}
                self._start_block(event, block, out)
                self._arguments = []
            case ToolDelta():
                if self._is_open(event.index) and event.arguments:
                    self._arguments.append(event.arguments)
                    self._block_delta({"type": "input_json_delta", "partial_json": event.arguments}, out)
            case _:
                pass

    def _say_thought(self, event: ThinkingDelta, out: list[bytes]) -> None:
        if event.hidden:
            data = _hidden(Thinking("", "", event.origin, event.hidden))
            self._start_block(None, {"type": "redacted_thinking", "data": data}, out)
            out.append(_sse("content_block_stop", {"type": "content_block_stop", "index": self._index}))
            return
        if not (event.text or event.signature):
            return
        if not isinstance(self._open, Thinking):
            self._start_block(Thinking(""), {"type": "thinking", "thinking": "", "signature": ""}, out)
        if event.text:
            self._block_delta({"type": "thinking_delta", "thinking": event.text}, out)
        if event.signature:
            self._sign(Thinking("", event.signature, event.origin), out)
        elif event.origin:
            self._open = Thinking("", "", event.origin)

    def _sign(self, thinking: Thinking, out: list[bytes]) -> None:
        """A signature ends its block."""
        self._block_delta({"type": "signature_delta", "signature": foreign_signature(thinking)}, out)
        self._open = None
        out.append(_sse("content_block_stop", {"type": "content_block_stop", "index": self._index}))

    def _start_block(self, opened: _Open, block: dict[str, Any], out: list[bytes]) -> None:
        self._stop_block(out)
        self._index += 1
        self._open = opened
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        out.append(_sse("content_block_start", start))

    def _text_delta(self, text: str) -> bytes:
        """Most of a stream is these: written without a detour."""
        return _TEXT_DELTA % (self._index, _ENCODER.encode(text))

    def _block_delta(self, delta: dict[str, Any], out: list[bytes]) -> None:
        out.append(_sse("content_block_delta", {"type": "content_block_delta", "index": self._index, "delta": delta}))

    def _stop_block(self, out: list[bytes]) -> None:
        if self._open is None:
            return
        if isinstance(self._open, Thinking):
            self._sign(self._open, out)
            return
        self._open = None
        out.append(_sse("content_block_stop", {"type": "content_block_stop", "index": self._index}))


def _sse(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _ENCODER.encode(data))
