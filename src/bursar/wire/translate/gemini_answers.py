"""Answers and streams of Gemini's generateContent, both ways.

Rule 1: every chunk of a stream is an answer with what is new. A function call comes whole, so it is written when its
        arguments are an object and something follows, or at the end.
Rule 2: the last chunk has the finish reason and the usage together: both are kept until the stream is closed.
Rule 3: an answer that did not finish for another cause than a filter's (``failures.ENDINGS``) is an error, however it was paid
        for; any reason that nobody knows is a filter's.
Rule 4: a call without an id gets one made of the answer's id, so that it stays the same and differs from all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct

from bursar.core.usage import Usage
from bursar.wire.dialect import UNREADABLE, Contradiction
from bursar.wire.failures import ENDINGS
from bursar.wire.gemini import (
    DIALECT,
    _Array,  # pyright: ignore[reportPrivateUsage] - two modules of one dialect
    _Usage,  # pyright: ignore[reportPrivateUsage] - two modules of one dialect
    convert,
)
from bursar.wire.sse import Splitter, event_data

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
from .gemini_marks import signature_of, signed_thinking, tool_signature
from .gemini_writing import answer_parts

__all__ = ["Reader", "Writer", "read_answer", "write_answer"]

_READ: Final[dict[str, Finish]] = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"}
_WRITTEN: Final[dict[Finish, str]] = {
    "stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "refusal": "SAFETY",
}  # fmt: skip
_MALFORMED: Final = "MALFORMED_FUNCTION_CALL"
_FAULT_STATUS: Final = 502


class _Call(Struct, rename="camel", gc=False):
    id: str | None = None
    name: str | None = None
    args: dict[str, Any] | None = None
    partial_args: Any = None
    will_continue: bool | None = None


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None
    inline_data: Any = None
    file_data: Any = None
    executable_code: Any = None
    code_execution_result: Any = None
    tool_call: Any = None
    tool_response: Any = None


class _Content(Struct):
    parts: list[_Part] | None = None


class _Candidate(Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None


class _Feedback(Struct, rename="camel", gc=False):
    block_reason: str | None = None


class _Error(Struct, gc=False):
    code: Any = None
    message: Any = None


class _Answer(Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: _Error | None = None


_DECODE: Final = msgspec.json.Decoder(_Answer).decode
_ENCODE: Final = msgspec.json.Encoder().encode
_PART_START: Final = b'{"candidates":[{"content":{"parts":['
_PART_END: Final = b'],"role":"model"},"index":0}]'


class _FaultError(ValueError):
    """The model ended its answer with a fault."""


# --- reading ------------------------------------------------------------------------------------------------------


def read_answer(body: bytes) -> Answered:
    """Raises ValueError."""
    answer = _decoded(body)
    if answer.error is not None:
        raise ValueError(f"an error is no answer: {answer.error.message}")
    answer_id = answer.response_id or ""
    parts: list[Part] = []
    calls = 0
    for part in _parts_of(answer):
        call = part.function_call
        if call is not None:
            use_id, name, arguments = _called(call, answer_id, calls)
            parts.append(ToolUse(use_id, name, arguments, tool_signature(part.thought_signature or "")))
            calls += 1
        elif part.thought:
            parts.append(signed_thinking(part.text or "", part.thought_signature or ""))
        else:
            parts += [Text(part.text)] if part.text else []
            parts += [signed_thinking("", part.thought_signature)] if part.thought_signature else []
    finish = _finish(answer, called=calls > 0)
    if finish is None:
        raise ValueError("the answer has neither a candidate nor a reason for that")
    return Answered(answer_id, answer.model_version or "", tuple(parts), finish, _usage(answer.usage_metadata))


def _decoded(data: bytes) -> _Answer:
    try:
        return _DECODE(data)
    except UNREADABLE as error:
        raise ValueError(f"no answer of Gemini's: {error}") from None


def _parts_of(answer: _Answer) -> Iterator[_Part]:
    """The parts of the first candidate; more are never asked for."""
    content = answer.candidates[0].content if answer.candidates else None
    for part in (content.parts if content is not None else None) or ():
        if (
            part.inline_data or part.file_data or part.executable_code or part.code_execution_result
            or part.tool_call or part.tool_response
        ):  # fmt: skip
            raise ValueError("an answer has media or runs tools at Google, which nobody asked for")
        yield part


def _called(call: _Call, answer_id: str, number: int) -> tuple[str, str, str]:
    """The id, the name and the arguments of a function call."""
    if not call.name or call.partial_args is not None or call.will_continue:
        raise ValueError("a function call comes in pieces, which nobody asked for")
    arguments = _ENCODE(call.args or {})
    if call.id:
        return call.id, call.name, arguments.decode()
    digest = blake2b(b"%s\0%d\0%s\0%s" % (answer_id.encode(), number, call.name.encode(), arguments), digest_size=12)
    return f"call_{digest.hexdigest()}", call.name, arguments.decode()


def _finish(answer: _Answer, *, called: bool) -> Finish | None:
    """How an answer ended, None where it has not. Raises _FaultError."""
    candidate = answer.candidates[0] if answer.candidates else None
    reason = (candidate.finish_reason if candidate is not None else None) or ""
    if candidate is None or not reason:
        blocked = answer.prompt_feedback.block_reason if answer.prompt_feedback is not None else None
        return "content_filter" if blocked else None
    if ENDINGS.get(reason, "content_policy") != "content_policy":
        raise _FaultError(f"the model ended its answer with {reason}: {candidate.finish_message or 'no more is known'}")
    finish = _READ.get(reason, "content_filter")
    return "tool_calls" if called and finish == "stop" else finish


def _usage(stated: _Usage | None) -> Usage | None:
    """The usage, None where it is not stated or cannot be true: the answer is good all the same."""
    try:
        return convert(stated, 0) if stated is not None else None
    except Contradiction:
        return None


def _data(event: bytes) -> bytes:
    """The data of an event. An error may come as bare JSON between the events."""
    plain = event.strip(b"\r\n")
    return event_data(plain) or (plain if plain.startswith(b"{") else b"")


class Reader:
    """A stream of server-sent events, or one JSON array of the same answers."""

    __slots__ = ("_array", "_began", "_calls", "_counted", "_failed", "_finished", "_id", "_splitter", "_stated")

    def __init__(self) -> None:
        self._splitter: Splitter | None = None
        self._array: _Array | None = None
        self._began = self._finished = self._failed = False
        self._calls = 0
        self._id = ""
        self._stated: _Usage | None = None
        self._counted: _Usage | None = None

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises ValueError."""
        if self._splitter is None and self._array is None:
            start = chunk.lstrip()[:1]
            if not start:
                return []
            if start == b"[":
                self._array = _Array()
            else:
                self._splitter = Splitter()
        events: list[Event] = []
        if self._array is not None:
            for element in self._array.feed(chunk):
                events += self._take(element)
        elif self._splitter is not None:
            for event in self._splitter.feed(chunk):
                events += self._take(_data(event))
        return events

    def finish(self) -> list[Event]:
        data = _data(self._splitter.rest()) if self._splitter is not None else b""
        try:
            _decoded(data)
        except ValueError:  # the beginning of an event that was cut
            data = b""
        return self._take(data) + self._count()

    def _count(self) -> list[Event]:
        """The usage, where it has not been told."""
        if self._stated is self._counted:
            return []
        self._counted = self._stated
        usage = _usage(self._stated)
        return [Counted(usage)] if usage is not None else []

    def _take(self, data: bytes) -> list[Event]:
        """The events of one chunk. What came before one that cannot be read stays, however the stream was cut; after the finish
        it breaks nothing."""
        if self._failed or not data.strip():
            return []
        try:
            return self._events(_decoded(data))
        except ValueError as error:
            if not self._began:
                raise
            self._failed = True
            failed = Failed(_FAULT_STATUS, f"the stream cannot be read any further: {error}")
            return self._count() if self._finished else [*self._count(), failed]

    def _events(self, answer: _Answer) -> list[Event]:
        if answer.error is not None:
            self._failed = True
            code = answer.error.code
            return [Failed(code if isinstance(code, int) and code >= 400 else 500, str(answer.error.message or ""))]
        self._stated = answer.usage_metadata or self._stated
        events: list[Event] = []
        if not self._began:
            self._began = True
            self._id = answer.response_id or ""
            events.append(Began(self._id, answer.model_version or "", _usage(self._stated)))
        for part in _parts_of(answer):
            events += self._said(part)
        try:
            finish = _finish(answer, called=self._calls > 0)
        except _FaultError as fault:
            self._failed = True
            return [*events, *self._count(), Failed(_FAULT_STATUS, str(fault))]
        if finish is not None and not self._finished:
            self._finished = True
            return [*events, *self._count(), Finished(finish)]
        return events + self._count() if self._finished else events

    def _said(self, part: _Part) -> list[Event]:
        signature, call = part.thought_signature or "", part.function_call
        if call is None and not part.thought and not signature:
            return [TextDelta(part.text)] if part.text else []
        if call is not None:
            use_id, name, arguments = _called(call, self._id, self._calls)
            self._calls += 1
            index = self._calls - 1
            return [ToolBegan(index, use_id, name, tool_signature(signature)), ToolDelta(index, arguments)]
        events: list[Event] = []
        if not part.thought and part.text:
            events.append(TextDelta(part.text))
        thought = signed_thinking((part.text or "") if part.thought else "", signature)
        if thought != Thinking(""):
            events.append(ThinkingDelta(thought.text, thought.signature, thought.origin, thought.hidden))
        return events


# --- writing ------------------------------------------------------------------------------------------------------


def write_answer(answered: Answered) -> bytes:
    reason = _WRITTEN[answered.finish]
    parts: list[Any] = []
    for part in answered.parts:
        if isinstance(part, ToolUse) and not _whole(part.arguments):
            reason = reason if answered.finish == "length" else _MALFORMED
        else:
            parts.append(part)
    said: list[dict[str, Any]] = []
    for part in answer_parts(parts):
        assert isinstance(part, dict), "a model says texts, thoughts and tool uses"
        said.append(part)
    answer = _answer(said or [{"text": ""}], reason)
    if answered.usage is not None:
        answer["usageMetadata"] = _stated(answered.usage)
    return _ENCODE(answer | {"modelVersion": answered.model, "responseId": answered.id})


def _answer(parts: list[dict[str, Any]], reason: str) -> dict[str, Any]:
    """A client's chat keeps no turn of the model that has no parts."""
    return {"candidates": [{"content": {"parts": parts, "role": "model"}, "finishReason": reason, "index": 0}]}


def _whole(arguments: str) -> bool:
    """Whether the text of a tool's arguments is an object."""
    try:
        msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except UNREADABLE:
        return False
    return True


def _stated(usage: Usage) -> dict[str, Any]:
    """``usageMetadata``: the answer without its thoughts, the prompt with what was cached."""
    prompt, output = usage.input_tokens, usage.output_tokens
    stated: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output - usage.reasoning_tokens,
        "totalTokenCount": prompt + output,
    }
    cached = usage.cache_read_tokens
    if cached:
        stated["cachedContentTokenCount"] = cached
    if usage.reasoning_tokens:
        stated["thoughtsTokenCount"] = usage.reasoning_tokens
    for name, total, audio, image, video in (
        ("promptTokensDetails", prompt, usage.input_audio_tokens, usage.input_image_tokens, usage.input_video_tokens),
        (
            "cacheTokensDetails", cached,
            usage.cache_read_audio_tokens, usage.cache_read_image_tokens, usage.cache_read_video_tokens,
        ),
        (
            "candidatesTokensDetails", output - usage.reasoning_tokens,
            usage.output_audio_tokens, usage.output_image_tokens, usage.output_video_tokens,
        ),
    ):  # fmt: skip
        if audio or image or video:
            split = {"TEXT": total - audio - image - video, "AUDIO": audio, "IMAGE": image, "VIDEO": video}
            stated[name] = [{"modality": kind, "tokenCount": count} for kind, count in split.items() if count > 0]
    return stated


def _names(answer_id: str, model: str) -> bytes:
    """The end of every chunk."""
    return b"," + _ENCODE({"modelVersion": model, "responseId": answer_id})[1:]


class _Use:
    """A tool use that is being told."""

    __slots__ = ("began", "pieces")

    def __init__(self, began: ToolBegan) -> None:
        self.began = began
        self.pieces: list[str] = []

    def part(self) -> dict[str, Any] | None:
        """The function call, None as long as its arguments are no object."""
        use = ToolUse(self.began.id, self.began.name, "".join(self.pieces), self.began.signature)
        try:
            (said,) = answer_parts((use,), marked=self.began.index == 0)
        except Untranslatable:
            return None
        return said if isinstance(said, dict) else None


class Writer:
    """``array``: one JSON array, which is what the API sends without ``alt=sse``; else server-sent events."""

    __slots__ = ("_array", "_empty", "_failed", "_finish", "_model", "_names", "_usage", "_uses")

    def __init__(self, model: str, *, array: bool) -> None:
        self._array = array
        self._model = model
        self._names = _names("", model)
        self._usage: Usage | None = None
        self._uses: dict[int, _Use] = {}
        self._finish: Finish | None = None
        self._empty = True
        self._failed = False

    @property
    def content_type(self) -> str:
        return "application/json; charset=UTF-8" if self._array else "text/event-stream"

    def write(self, event: Event) -> bytes:
        if self._failed:
            return b""
        match event:
            case TextDelta():
                return self._waiting() + self._part({"text": event.text}) if event.text else b""
            case ThinkingDelta():
                return self._thought(event)
            case ToolBegan():
                self._uses[event.index] = _Use(event)
            case ToolDelta():
                use = self._uses.get(event.index)
                if use is not None:  # else it has gone out whole, and only blanks can follow
                    use.pieces.append(event.arguments)
            case Began():
                self._names = _names(event.id, event.model or self._model)
                self._usage = event.usage
            case Finished():
                self._finish = event.finish
            case Counted():
                self._usage = event.usage
            case Failed():
                self._failed = True
                error = self._framed(DIALECT.error_body(event.status, "provider_error", event.message, {}))
                return error + b"]" if self._array else error
        return b""

    def close(self) -> bytes:
        """The finish reason and the usage; only what ends the array where there was no finish."""
        if self._failed:
            return b""
        said = self._end(self._finish) if self._finish is not None else b""
        if not self._array:
            return said
        return said + (b"[]" if self._empty else b"]")

    def _thought(self, delta: ThinkingDelta) -> bytes:
        signature = signature_of(Thinking(delta.text, delta.signature, delta.origin, delta.hidden))
        if not delta.text and not signature:
            return b""
        said: dict[str, Any] = {"text": delta.text}
        if delta.text or delta.origin != "gemini":
            said["thought"] = True
        if signature:
            said["thoughtSignature"] = signature
        return self._waiting() + self._part(said)

    def _waiting(self) -> bytes:
        """The function calls that are whole, before what follows them. Arguments that are an object cannot go on."""
        return self._calls(last=False) if self._uses else b""

    def _calls(self, *, last: bool) -> bytes:
        """The function calls in their order, up to the first that is not whole; at the ``last`` all that are."""
        said: list[bytes] = []
        for index, use in sorted(self._uses.items()):
            part = use.part() if use.pieces or last else None
            if part is not None:
                said.append(self._part(part))
                del self._uses[index]
            elif not last:
                break
        return b"".join(said)

    def _end(self, finish: Finish) -> bytes:
        calls = self._calls(last=True)
        reason = _MALFORMED if self._uses and finish != "length" else _WRITTEN[finish]
        answer = _answer([{"text": ""}], reason)
        if self._usage is not None:
            answer["usageMetadata"] = _stated(self._usage)
        return calls + self._framed(_ENCODE(answer)[:-1] + self._names)

    def _part(self, part: dict[str, Any]) -> bytes:
        return self._framed(_PART_START + _ENCODE(part) + _PART_END + self._names)

    def _framed(self, data: bytes) -> bytes:
        first, self._empty = self._empty, False
        if self._array:
            return (b"[" if first else b",\r\n") + data
        return b"data: " + data + b"\r\n\r\n"
