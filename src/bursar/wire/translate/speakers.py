"""Who speaks which dialect, and translation from one to another: requests, answers, streams.

Rule 1: a provider that speaks OpenAI's dialect counts in its own way: its speaker is made of its own dialect (``speaker``).
Rule 2: a stream ends as its answer did. One that broke off, or that cannot be read any further, ends with an error of the
        client's dialect, never as if the answer were whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from bursar.wire.dialect import Dialect
from bursar.wire.openai_chat import OpenAIChat

from . import anthropic, gemini, openai
from .conversation import Event, Failed, Finished, Sent, Speaker, StreamReader, StreamWriter

__all__ = [
    "SPEAKERS",
    "StreamTranslation",
    "Who",
    "speaker",
    "translate_answer",
    "translate_request",
]

SPEAKERS: Final[Mapping[str, Speaker]] = {each.id: each for each in (openai.SPEAKER, anthropic.SPEAKER, gemini.SPEAKER)}
"""Those who can translate, by the id of their dialect."""

Who: TypeAlias = str | Speaker
"""The id of a dialect in ``SPEAKERS``, or a provider's own speaker."""

_BROKEN_OFF: Final = Failed(502, "the provider's stream ended before its answer did")


def speaker(dialect: Dialect) -> Speaker | None:
    """The speaker of a provider's dialect, None where nobody translates it."""
    if isinstance(dialect, OpenAIChat):
        return openai.OpenAISpeaker(dialect.quirks, dialect.takes)
    return SPEAKERS.get(dialect.id)


def _of(who: Who) -> Speaker:
    return SPEAKERS[who] if isinstance(who, str) else who


def translate_request(from_: Who, to: Who, path: str, query: str, body: bytes, model: str) -> Sent:
    """A client's request as one to ``model``. Raises Untranslatable or wire.dialect.BadRequest, before anything is sent."""
    return _of(to).write_request(_of(from_).read_request(path, query, body), model)


def translate_answer(from_: Who, to: Who, body: bytes, *, created_s: int = 0) -> bytes:
    """A provider's whole answer (HTTP 200) as the client's dialect says it. Raises ValueError where it is none.

    ``created_s`` is when, in seconds since 1970: OpenAI's dialect says it, and the others do not know it.
    """
    answered, client = _of(from_).read_answer(body), _of(to)
    if isinstance(client, openai.OpenAISpeaker):
        return client.write_answer(answered, created_s)
    return client.write_answer(answered)


class StreamTranslation:
    """A provider's stream, chunk by chunk, as the client's."""

    __slots__ = ("_reader", "_writer", "failed", "finished")

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.finished = False
        """Whether the answer has come to its end."""
        self.failed = False
        """Whether the client was told of an error: nothing follows."""

    @property
    def content_type(self) -> str:
        return self._writer.content_type

    def feed(self, chunk: bytes) -> bytes:
        """What the client gets for this chunk. Never raises for what a provider may send."""
        if self.failed:
            return b""
        try:
            events = self._reader.feed(chunk)
        except ValueError as error:
            return self._write([Failed(502, f"the provider's stream cannot be read: {error}"[:400])])
        return self._write(events)

    def finish(self) -> bytes:
        """What the client gets when the provider's stream has ended, whole or cut. Call it once."""
        if self.failed:
            return b""
        try:
            said = self._write(self._reader.finish())
        except ValueError:  # the beginning of an event that was cut
            said = b""
        if self.failed:
            return said
        return said + (self._writer.close() if self.finished else self._write([_BROKEN_OFF]))

    def _write(self, events: list[Event]) -> bytes:
        said: list[bytes] = []
        for event in events:
            said.append(self._writer.write(event))
            if isinstance(event, Failed):
                self.failed = True
                break
            self.finished = self.finished or isinstance(event, Finished)
        return b"".join(said)
