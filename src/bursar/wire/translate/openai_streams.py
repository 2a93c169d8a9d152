"""Streams of OpenAI's chat completions, both ways.

Rule 1: the first choice is read. A tool call begins with its arguments, or when something else is said: until then its id and
        the pieces of its name come together. One more at the same place with another id is another call, as some compatible
        APIs count them all as the first.
Rule 2: a stream is whole once it has a finish reason, or ``[DONE]``; one that has neither broke off.
Rule 3: the usage comes last, in a chunk without choices, and only where it was asked for; read it is from any chunk.
Rule 4: an error is an event with an ``error``; nothing follows it, no ``[DONE]`` either.
Rule 5: a thought is written as it comes; when it ends, its signature follows with the whole text (``openai_thoughts``).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from bursar.core.usage import Usage
from bursar.wire.dialect import UNREADABLE, mapping
from bursar.wire.openai_chat import DIALECT
from bursar.wire.openai_usage import Quirks
from bursar.wire.sse import Splitter, event_data

from .conversation import (
    Began,
    Counted,
    Event,
    Failed,
    Finished,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ToolBegan,
    ToolDelta,
)
from .openai_answers import FINISH, ToolCall, content_parts, finish_of, made_id, stated_usage, usage_object
from .openai_thoughts import TRACE, detail, extra_content, origin_of, signature_of

__all__ = ["ChatReader", "ChatWriter", "failed"]


class _Delta(Struct):
    content: Any = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Any] | None = None
    tool_calls: list[ToolCall] | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Groq(Struct):
    usage: Raw = Raw()


class _Chunk(Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Raw = Raw()
    x_groq: _Groq | None = None
    error: Any = None


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_ENCODE: Final = msgspec.json.Encoder().encode
_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "overloaded_error": 503,
    "timeout_error": 504,
}


def failed(error: Any) -> Failed:
    """The event of an ``error`` in a stream: its status is what it says itself, else what its type is like."""
    said = mapping(error)
    message = said.get("message") if said else error
    status = 500
    for field in ("status_code", "status", "code"):
        value = said.get(field)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value <= 599:
            return Failed(value, str(message or "error"))
        if isinstance(value, str) and value in _STATUSES:
            status = _STATUSES[value]
    return Failed(_STATUSES.get(str(said.get("type")), status), str(message or "error"))


def _is_refusal(last: _Choice) -> bool:
    """Whether an answer that ends as filtered was refused: then its last chunk has a refusal, though without words."""
    return last.finish_reason == "content_filter" and last.delta is not None and last.delta.refusal is not None


class _Use:
    """A tool call as far as it was told; ``index`` is None until it has begun."""

    __slots__ = ("id", "index", "name", "signature")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.signature = ""
        self.index: int | None = None


class ChatReader:
    """A chat completion's stream as events."""

    __slots__ = (
        "_began", "_begun", "_ended", "_failed", "_id", "_quirks", "_refused", "_splitter", "_started", "_uses",
    )  # fmt: skip

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks
        self._splitter = Splitter()
        self._started = False
        self._began = False
        self._ended = False
        self._failed = False
        self._refused = False
        self._id = ""
        self._uses: dict[int, _Use] = {}  # by their place
        self._begun = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises ValueError for what is no stream of chat completions."""
        if not self._started:
            start = chunk.lstrip()[:1]
            self._started = bool(start)
            if start in (b"{", b"["):
                raise ValueError("the answer is one JSON body and no stream")
        events: list[Event] = []
        for each in self._splitter.feed(chunk):
            try:
                self._event(each, events)
            except UNREADABLE as error:
                message = f"a chunk cannot be read: {error}"
                if not self._began:
                    raise ValueError(message) from None
                if not self._ended:  # what was said so far was said: it is an error of the stream
                    self._fail(Failed(502, message), events)
        return events

    def finish(self) -> list[Event]:
        events: list[Event] = []
        with suppress(*UNREADABLE):  # a chunk that was cut
            self._event(self._splitter.rest(), events)
        self._begin_uses(events)
        return events

    def _event(self, raw: bytes, events: list[Event]) -> None:
        data = event_data(raw.strip(b"\r\n")).strip()
        if not data or self._failed:
            return
        if data != b"[DONE]":
            self._read(_CHUNK.decode(data), events)
        elif self._began and not self._ended:
            self._end("stop", events)

    def _fail(self, error: Failed, events: list[Event]) -> None:
        self._begin_uses(events)
        self._ended = self._failed = True
        events.append(error)

    def _read(self, chunk: _Chunk, events: list[Event]) -> None:
        if chunk.error:
            self._fail(failed(chunk.error), events)
            return
        if not self._began and (chunk.choices or chunk.id):
            self._began = True
            self._id = chunk.id or ""
            events.append(Began(self._id, chunk.model or ""))
        for choice in chunk.choices or ():
            if choice.index:
                continue
            if choice.delta is not None:
                self._delta(choice.delta, events)
            if choice.finish_reason and not self._ended:
                self._refused |= _is_refusal(choice)
                self._end(choice.finish_reason, events)
        usage = stated_usage(chunk.usage or (chunk.x_groq.usage if chunk.x_groq else Raw()), self._quirks)
        if usage is not None:
            events.append(Counted(usage))

    def _end(self, reason: str, events: list[Event]) -> None:
        self._begin_uses(events)
        self._ended = True
        try:
            events.append(Finished(finish_of(reason, refused=self._refused, uses=self._begun > 0)))
        except ValueError as error:
            self._fail(Failed(502, str(error)), events)

    def _delta(self, delta: _Delta, events: list[Event]) -> None:
        said: list[Event] = []
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            said.append(ThinkingDelta(thought))
        if delta.reasoning_details:
            self._details(delta.reasoning_details, said, shown=bool(thought))
        if delta.content:
            said += [
                TextDelta(text) if kind == "text" else ThinkingDelta(text)
                for kind, text in content_parts(delta.content)
            ]
        if delta.refusal:
            self._refused = True
            said.append(TextDelta(delta.refusal))
        if said:
            self._begin_uses(events)
            events += said
        for position, call in enumerate(delta.tool_calls or ()):
            self._call(call, position if call.index is None else call.index, events)

    def _details(self, details: list[Any], events: list[Event], *, shown: bool) -> None:
        for each in details:
            said = mapping(each)
            origin = origin_of(said.get("format")) or ""
            text, signature, data = said.get("text") or said.get("summary"), said.get("signature"), said.get("data")
            ours = str(said.get("id")).startswith(TRACE)  # its text came before
            if isinstance(text, str) and text and not shown and not ours:
                events.append(ThinkingDelta(text))
            if origin and isinstance(signature, str) and signature:
                events.append(ThinkingDelta("", signature, origin))
            elif origin and isinstance(data, str) and data:
                events.append(ThinkingDelta("", "", origin, data))

    def _call(self, call: ToolCall, place: int, events: list[Event]) -> None:
        name = (call.function.name if call.function else None) or ""
        arguments = (call.function.arguments if call.function else None) or ""
        use = self._uses.get(place)
        if use is not None and name and call.id and use.id and use.id != call.id:
            self._begin_uses(events)
            del self._uses[place]
            use = None
        if use is None:
            use = self._uses[place] = _Use()
        if use.index is None:
            use.id = use.id or call.id or ""
            use.name += name if name != use.name else ""  # some say all of it with every piece of the arguments
            use.signature = use.signature or signature_of(call.extra_content)
        if arguments:
            self._begin_uses(events)
            if use.index is None:
                raise ValueError("a tool call has arguments and names no function")
            events.append(ToolDelta(use.index, arguments))

    def _begin_uses(self, events: list[Event]) -> None:
        """Begin the tool calls that were named, in their order."""
        for use in self._uses.values():
            if use.index is None and use.name:
                use.index = self._begun
                use.id = use.id or made_id(self._id, use.index, use.name)
                events.append(ToolBegan(use.index, use.id, use.name, use.signature))
                self._begun += 1


class ChatWriter:
    """Events as a chat completion's stream."""

    __slots__ = (
        "_asks_usage", "_bare", "_created", "_failed", "_head", "_id", "_model", "_tail", "_thought", "_thoughts",
        "_usage",
    )  # fmt: skip

    def __init__(self, *, model: str, created_s: int, asks_usage: bool) -> None:
        self._model = model
        self._created = created_s
        self._asks_usage = asks_usage
        self._tail = b'],"usage":null}\n\n' if asks_usage else b"]}\n\n"
        self._head = b""
        self._id = ""
        self._usage: Usage | None = None
        self._thought: list[str] | None = None
        self._thoughts = 0
        self._bare: set[int] = set()
        self._failed = False

    @property
    def content_type(self) -> str:
        return "text/event-stream"

    def write(self, event: Event) -> bytes:
        if self._failed:
            return b""
        match event:
            case TextDelta():
                return self._ended_thought() + self._chunk(b'{"content":' + _ENCODE(event.text) + b"}")
            case ToolDelta():
                self._bare.discard(event.index)
                call = b'{"tool_calls":[{"index":%d,"function":{"arguments":%s}}]}'
                return self._chunk(call % (event.index, _ENCODE(event.arguments)))
            case ThinkingDelta():
                return self._think(event)
            case ToolBegan():
                return self._ended_thought() + self._begin_tool(event)
            case Began():
                self._usage = event.usage or self._usage
                return self._open(event.id, event.model) if not self._head else b""
            case Counted():
                self._usage = event.usage
                return b""
            case Finished():
                return self._finish(event)
            case Failed():
                self._failed = True
                return DIALECT.error_event(event.status, "upstream_error", event.message, {})

    def close(self) -> bytes:
        if self._failed:
            return b""
        done = b"data: [DONE]\n\n"
        if not self._asks_usage or self._usage is None:
            return done
        head = self._head or self._made_head("", "")
        return head + b'],"usage":' + _ENCODE(usage_object(self._usage)) + b"}\n\n" + done

    def _made_head(self, id_: str, model: str) -> bytes:
        said = {
            "id": id_ or "chatcmpl-0",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": model or self._model,
        }
        return b"data: " + _ENCODE(said)[:-1] + b',"choices":['

    def _open(self, id_: str, model: str) -> bytes:
        self._id = id_
        self._head = self._made_head(id_, model)
        return self._chunk(b'{"role":"assistant","content":"","refusal":null}')

    def _chunk(self, delta: bytes, finish: bytes = b"null") -> bytes:
        start = b"" if self._head else self._open("", "")
        choice = b'{"index":0,"delta":' + delta + b',"logprobs":null,"finish_reason":' + finish + b"}"
        return start + self._head + choice + self._tail

    def _think(self, event: ThinkingDelta) -> bytes:
        said = b""
        if event.hidden:
            hidden = Thinking("", "", event.origin, event.hidden)
            return self._ended_thought() + self._detail(hidden)
        if event.text:
            self._thought = self._thought or []
            self._thought.append(event.text)
            said = self._chunk(b'{"reasoning_content":' + _ENCODE(event.text) + b"}")
        if event.signature:
            self._thought = self._thought or []
            said += self._ended_thought(event)
        return said

    def _ended_thought(self, signed: ThinkingDelta | None = None) -> bytes:
        if self._thought is None:
            return b""
        text, self._thought = "".join(self._thought), None
        return self._detail(Thinking(text, signed.signature, signed.origin) if signed else Thinking(text))

    def _detail(self, thought: Thinking) -> bytes:
        index, self._thoughts = self._thoughts, self._thoughts + 1
        return self._chunk(_ENCODE({"reasoning_details": [detail(thought, index)]}))

    def _begin_tool(self, event: ToolBegan) -> bytes:
        self._bare.add(event.index)
        call = {
            "index": event.index,
            "id": event.id or made_id(self._id, event.index, event.name),
            "type": "function",
            "function": {"name": event.name, "arguments": ""},
        }
        return self._chunk(_ENCODE({"tool_calls": [{**call, **extra_content(event.signature)}]}))

    def _finish(self, event: Finished) -> bytes:
        said = self._ended_thought()
        for index in sorted(self._bare):
            # The client parses the arguments: nothing is no JSON.
            said += self.write(ToolDelta(index, "{}"))
        delta = b'{"refusal":""}' if event.finish == "refusal" else b"{}"
        return said + self._chunk(delta, _ENCODE(FINISH[event.finish]))
