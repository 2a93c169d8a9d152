"""One stream to a client over several attempts, on routes that say ``mid_stream: continue``.

Rule 1: an answer that broke off after it was seen goes on at the next rung only while it is nothing but text, and its request can
        be said again: the rung is told what was said so far and to go on from there. Tools that were asked for in part are not
        asked for again, and an answer in JSON would begin a second object.
Rule 2: the client sees one answer of its own dialect: one beginning, one end, the text of all parts in between.
Rule 3: a provider of the client's own dialect speaks to the client itself, for as long as it does not break off: its events are
        passed as they came, and only listened to. What is not understood is passed like the rest; nobody goes on after it.
Rule 4: where no rung is left, or none could go on, the client is told that the rest will not come, as without this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

import msgspec

from bursar.wire.dialect import UNREADABLE, BadRequest, ceil_tokens
from bursar.wire.sse import Splitter, event_data
from bursar.wire.translate.conversation import (
    Asked,
    Began,
    Event,
    Failed,
    Finished,
    Message,
    StreamReader,
    StreamWriter,
    Text,
    TextDelta,
    ThinkingDelta,
    ToolBegan,
    Untranslatable,
)

__all__ = ["Continuation", "Part"]

_GO_ON: Final = (
    "Your answer broke off here. Go on with it exactly where it ends, from the next character on: repeat nothing, and say nothing "
    "about the interruption."
)
# Anthropic's streams count their blocks: who goes on must be in the block that the client is in.
_BLOCKS: Final = (b'"content_block_start"', b'"content_block_stop"')


class _Problem(msgspec.Struct):
    error: Any = None


_PROBLEM: Final = msgspec.json.Decoder(_Problem)


class Continuation:
    """What the client has been sent. ``read`` reads its request, when that is to be said again; ``parts`` counts the attempts
    that the answer came from; ``finished`` is whether the client has its end, or has been told that there will be none."""

    __slots__ = ("_apart", "_began", "_only_text", "_read", "_said", "_thought", "_writer", "finished", "parts")

    def __init__(self, writer: StreamWriter, read: Callable[[], Asked]) -> None:
        self._writer = writer
        self._read = read
        self._said: list[str] = []
        self._thought = 0  # characters
        self._only_text = True
        self._began = False
        self._apart = [0] * len(_BLOCKS)
        self.finished = False
        self.parts = 0

    @property
    def can_go_on(self) -> bool:
        return (
            bool(self._said)
            and self._only_text
            and not self.finished
            and not any(self._apart)
            and self._can_be_asked_again()
        )

    def _can_be_asked_again(self) -> bool:
        try:
            return self._read().format is None
        except (Untranslatable, BadRequest):
            return False

    @property
    def content_type(self) -> str:
        return self._writer.content_type

    @property
    def in_events(self) -> bool:
        """Whether the client gets events, and not one JSON array (Gemini)."""
        return self.content_type.startswith("text/event-stream")

    def asked(self, asked: Asked) -> Asked:
        """The request that goes on with the answer, with what is left of its cap: as much as what was said is estimated at."""
        text = "".join(self._said)
        cap = asked.output_cap
        if cap is not None:
            cap = max(1, cap - ceil_tokens(len(text) + self._thought))
        said = Message("assistant", (Text(text),))
        messages = (*asked.messages, said, Message("user", (Text(_GO_ON),)))
        return replace(asked, messages=messages, output_cap=cap)

    def write(self, event: Event) -> bytes:
        match event:
            case Began():
                if self._began:
                    return b""
                self._began = True
            case TextDelta(text):
                self._said.append(text)
            case ThinkingDelta(text):
                self._thought += len(text)
            case ToolBegan():
                self._only_text = False
            case Finished():
                self.finished = True
            case _:
                pass
        return self._writer.write(event)

    def heard(self, sent: bytes, events: Iterable[Event]) -> None:
        """The client was sent this by a provider itself: the writer keeps up, as if it had written the events."""
        written = b"".join([self.write(event) for event in events])
        for place, block in enumerate(_BLOCKS):
            self._apart[place] += sent.count(block) - written.count(block)

    def lost(self) -> None:
        """The client was sent what nobody could go on after."""
        self._only_text = False

    def close(self) -> bytes:
        return self._writer.close()

    def break_off(self) -> bytes:
        """Tell the client that the rest will not come."""
        return self._writer.write(Failed(502, "the provider broke off, and no other could go on with the answer"))


class Part:
    """One attempt's stream as a part of the client's: what ``StreamTranslation`` is for a whole one. ``same`` says that its
    provider speaks the client's own dialect."""

    __slots__ = ("_reader", "_same", "_stream", "_whole")

    def __init__(self, reader: StreamReader, whole: Continuation, *, same: bool) -> None:
        self._reader = reader
        self._whole = whole
        self._same = same
        self._stream: _Stream | None = None

    @property
    def content_type(self) -> str:
        """ "" where it is the provider's own."""
        return "" if self._same else self._whole.content_type

    def feed(self, chunk: bytes) -> bytes:
        if self._stream is None:  # only now is it known to be the client's, and which part of its answer
            self._whole.parts += 1
            passes = self._same and self._whole.parts == 1
            self._stream = (_Passed if passes else _Written)(self._reader, self._whole)
        return self._stream.feed(chunk)

    def finish(self) -> bytes:
        return b"" if self._stream is None else self._stream.finish()


class _Stream(Protocol):
    def feed(self, chunk: bytes, /) -> bytes: ...

    def finish(self) -> bytes: ...


class _Written:
    """A stream that is written anew."""

    __slots__ = ("_broken", "_reader", "_whole")

    def __init__(self, reader: StreamReader, whole: Continuation) -> None:
        self._reader = reader
        self._whole = whole
        self._broken = False

    def feed(self, chunk: bytes) -> bytes:
        if self._broken:
            return b""
        try:
            return self._write(self._reader.feed(chunk))
        except ValueError:
            self._broken = True
            return b""

    def finish(self) -> bytes:
        said = b""
        if not self._broken:
            try:
                said = self._write(self._reader.finish())
            except ValueError:  # the beginning of an event that was cut
                said = b""
        return said + self._whole.close() if self._whole.finished else said

    def _write(self, events: list[Event]) -> bytes:
        said: list[bytes] = []
        for event in events:
            if isinstance(event, Failed):
                self._broken = True
                break
            said.append(self._whole.write(event))
        return b"".join(said)


class _Passed:
    """A stream that is passed as it came, event by event. From one on that says that it broke off it is held back: another
    attempt may go on. One that is not understood may be one of these that was torn: what follows it tells."""

    __slots__ = ("_broke", "_held", "_listens", "_reader", "_splitter", "_whole")

    def __init__(self, reader: StreamReader, whole: Continuation) -> None:
        self._reader = reader
        self._whole = whole
        self._splitter = Splitter()
        self._held: list[bytes] = []
        self._broke = False
        self._listens = whole.in_events
        if not self._listens:
            whole.lost()

    def feed(self, chunk: bytes) -> bytes:
        if not self._listens:
            return self._splitter.rest() + chunk
        return b"".join([self._pass(event) for event in self._splitter.feed_raw(chunk)])

    def finish(self) -> bytes:
        """What came last, where no other can go on: it is the end, whatever it says."""
        rest = self._splitter.rest()
        if self._listens and not self._held:
            self._hear(rest, last=True)
        if self._whole.can_go_on:
            return b""
        self._whole.finished = True
        return b"".join(self._held) + rest

    def _pass(self, event: bytes) -> bytes:
        if not self._listens:
            return event
        if not self._held and self._hear(event, last=False):
            return event
        self._broke = self._broke or _says_error(event)
        if self._whole.can_go_on and (self._broke or not self._held):
            self._held.append(event)
            return b""
        held = b"".join(self._held) + event
        self._held.clear()
        self._listens = False
        self._whole.lost()
        return held

    def _hear(self, event: bytes, *, last: bool) -> bool:
        """Whether it was understood, and is no error."""
        try:
            events = self._reader.feed(event)
            if last:
                events += self._reader.finish()
        except ValueError:
            return False
        if any(isinstance(each, Failed) for each in events):
            if any(isinstance(each, ToolBegan) for each in events):  # it was named before, and had no arguments yet
                self._whole.lost()
            return False
        self._whole.heard(event, events)
        return True


def _says_error(event: bytes) -> bool:
    try:
        return bool(_PROBLEM.decode(event_data(event.strip(b"\r\n"))).error)
    except UNREADABLE:
        return False
