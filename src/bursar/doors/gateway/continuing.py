"""One stream to a client over several attempts, on routes that say ``mid_stream: continue``.

Rule 1: an answer that broke off after it was seen goes on at the next rung only while it is nothing but text: the rung is told what
        was said so far and to go on from there. Tools that were asked for in part are not asked for again.
Rule 2: the client sees one answer of its own dialect: one beginning, one end, the text of all parts in between.
Rule 3: where no rung is left, it is told that the rest will not come, as without this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

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
    ToolBegan,
)

__all__ = ["Continuation", "Part"]

_GO_ON: Final = (
    "Your answer broke off here. Go on with it exactly where it ends, from the next character on: repeat nothing, and say nothing "
    "about the interruption."
)


class Continuation:
    """What the client has been sent. ``parts`` counts the attempts that it came from."""

    __slots__ = ("_began", "_only_text", "_said", "_writer", "finished", "parts")

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        self._said: list[str] = []
        self._only_text = True
        self._began = False
        self.finished = False
        self.parts = 0

    @property
    def can_go_on(self) -> bool:
        return bool(self._said) and self._only_text and not self.finished

    @property
    def content_type(self) -> str:
        return self._writer.content_type

    def asked(self, asked: Asked) -> Asked:
        """The request that goes on with the answer."""
        said = Message("assistant", (Text("".join(self._said)),))
        return replace(asked, messages=(*asked.messages, said, Message("user", (Text(_GO_ON),))))

    def write(self, event: Event) -> bytes:
        match event:
            case Began():
                if self._began:
                    return b""
                self._began = True
            case TextDelta(text):
                self._said.append(text)
            case ToolBegan():
                self._only_text = False
            case Finished():
                self.finished = True
            case _:
                pass
        return self._writer.write(event)

    def close(self) -> bytes:
        return self._writer.close()

    def break_off(self) -> bytes:
        """Tell the client that the rest will not come."""
        return self._writer.write(Failed(502, "the provider broke off, and no other could go on with the answer"))


class Part:
    """One attempt's stream as a part of the client's: what ``StreamTranslation`` is for a whole one."""

    __slots__ = ("_began", "_broken", "_reader", "_whole")

    def __init__(self, reader: StreamReader, whole: Continuation) -> None:
        self._reader = reader
        self._whole = whole
        self._broken = False
        self._began = False

    @property
    def content_type(self) -> str:
        return self._whole.content_type

    def feed(self, chunk: bytes) -> bytes:
        if self._broken:
            return b""
        if not self._began:
            self._began = True
            self._whole.parts += 1
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
