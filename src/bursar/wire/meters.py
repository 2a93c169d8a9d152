"""The frame of every stream meter: bytes in, events to the dialect, bytes out.

Rule 1: bytes pass on untouched and at once. Only where an injected usage event must be hidden, or where the stream may
        have to be closed after any event, is an incomplete event held back until it is whole.
Rule 2: an answer that is plain JSON although a stream was asked for is read as a whole response.
Rule 3: what cannot be decoded is passed on and never stops the stream. A usage that cannot be read makes the whole
        usage unknown; any other event that cannot be read is only remembered as the reason if nothing else is known.
Rule 4: a stream is closed once, and only where its bytes so far end with an event: what ``ending`` says then is what
        the dialect sends when a model has reached its output limit, as far as it was not sent already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bursar.core.money import NanoUSD
from bursar.core.prices import Reading, Terms
from bursar.core.usage import Usage

from .dialect import UNREADABLE, Contradiction, RequestFacts, ceil_tokens, cut_usage, named, with_request
from .finishes import worst_finish
from .sse import Splitter, event_data

__all__ = ["BODY_BYTES_MAX", "StreamMeter"]

BODY_BYTES_MAX: Final = 64 * 1024 * 1024

_DONE: Final = b"[DONE]"
_SHORT: Final = 12


class StreamMeter:
    """What the meters of server-sent event dialects share. A dialect says what an event means in ``event``."""

    __slots__ = (
        "_body", "_body_bytes", "_facts", "_hide", "_read_body", "_splitter", "_torn", "_undecided", "_whole_events",
        "characters", "done", "error", "fault", "finish_reason", "model", "oddity", "response_id", "terms", "tools",
    )  # fmt: skip

    def __init__(
        self,
        facts: RequestFacts | None,
        read_body: Callable[[bytes], Reading],
        *,
        hide_usage: bool = False,
        whole_events: bool = False,
    ) -> None:
        self._facts = facts
        self._read_body = read_body
        self._hide = hide_usage
        self._whole_events = whole_events
        self._torn = False
        self._splitter = Splitter()
        self._undecided = True
        self._body: list[bytes] | None = None
        self._body_bytes = 0
        self.characters: int = 0
        self.done = False
        self.error = ""
        self.fault = ""
        self.oddity = ""
        self.finish_reason = ""
        self.model = ""
        self.response_id = ""
        self.terms: Terms = ()
        self.tools: list[str] = []

    # --- what a dialect fills in ---

    def event(self, data: bytes) -> bool:
        """Count one event. True when it is only the usage that the client did not ask for."""
        raise NotImplementedError

    def usage(self) -> Usage | None:
        """What the stream has stated so far. Raises Contradiction when it cannot be true."""
        raise NotImplementedError

    def complete(self) -> bool:
        """Whether the stream has stated its final usage."""
        raise NotImplementedError

    def marked(self) -> bool:
        """Whether the event that ends a stream has come. Where the dialect has none: whether all that was begun has ended."""
        return self.complete()

    def ending(self) -> bytes:
        """What is missing at the end of the stream (rule 4)."""
        return b""

    # --- the bytes ---

    def feed(self, chunk: bytes) -> bytes:
        if self._undecided:
            start = chunk.lstrip()[:1]
            if not start:
                return chunk  # blank space before the beginning says nothing, and nobody waits for it
            self._undecided = False
            self._body = [] if self.is_body(start) else None
        if self._body is not None:
            self._body_bytes += len(chunk)
            if self._body_bytes <= BODY_BYTES_MAX:
                self._body.append(chunk)
            return chunk
        if not (self._hide or self._whole_events):
            self.split(chunk)
            return chunk
        return self.split_whole(chunk)

    def finish(self) -> bytes:
        rest = self._splitter.rest()
        hidden = (self._take(rest) if rest else False) and self._hide
        return rest if (self._hide or self._whole_events) and not hidden else b""

    def close(self) -> bytes:
        if self._body is not None or self._torn or not (self._whole_events or self.between_events()):
            return b""
        return self.ending()

    def between_events(self) -> bool:
        """Whether no part of an event was passed on without its end."""
        return self._hide or self._splitter.empty

    def is_body(self, start: bytes) -> bool:
        """Whether an answer with this first byte is one JSON body and no stream."""
        return start in b"{["

    def split(self, chunk: bytes) -> None:
        """Count the events that this chunk completes."""
        for event in self._splitter.feed(chunk):
            self._take(event)

    def split_whole(self, chunk: bytes) -> bytes:
        """Count the events that this chunk completes, and pass on those that the client is to see."""
        events = self._splitter.feed_raw(chunk)
        if events and not events[-1].endswith((b"\n", b"\r")):
            self._torn = True  # too long to be held back: nobody knows where it ends
        return b"".join([event for event in events if not (self._take(event) and self._hide)])

    def _take(self, event: bytes) -> bool:
        data = event_data(event.strip(b"\r\n"))
        if len(data) < _SHORT:  # no object that says anything is this short
            self.done = self.done or data.strip() == _DONE
            return False
        return self.take_data(data)

    def take_data(self, data: bytes) -> bool:
        """Count the data of one event, wherever it was found. True when the client must not see it."""
        try:
            return self.event(data)
        except UNREADABLE as error:
            field, fault = named(error)
            text = f"{field} cannot be read: {fault}" if field else f"an event cannot be read: {fault}"
            if "usage" in field.lower() or isinstance(error, Contradiction):
                self.fault = text
            else:
                self.oddity = text
            return False

    # --- what is known ---

    def output_tokens(self) -> int:
        try:
            stated = self.usage()
        except Contradiction:
            stated = None
        return max(stated.output_tokens if stated is not None else 0, ceil_tokens(self.characters))

    def ended(self) -> bool:
        return self._body is not None or self.marked()

    def finished(self, finish: str) -> None:
        """One of the answer's choices has ended like this."""
        self.finish_reason = worst_finish((self.finish_reason, finish)) if self.finish_reason else finish

    def shows_output(self) -> bool:
        return self.characters > 0 or bool(self.tools)

    def input_tokens(self) -> int:
        """The input tokens stated so far, else the request's size."""
        try:
            stated = self.usage()
        except Contradiction:
            stated = None
        known = stated.input_tokens if stated is not None else 0
        return known or (self._facts.input_tokens_estimate if self._facts else 0)

    @property
    def facts(self) -> RequestFacts | None:
        return self._facts

    def reading(self) -> Reading:
        reading = self._known()
        return with_request(reading, self._facts) if self._facts else reading

    def _known(self) -> Reading:
        if self._body is not None:
            return self._whole()
        if self.fault:
            return self._reading(None, self.fault, estimated=False)
        try:
            stated = self.usage()
        except Contradiction as contradiction:
            return self._reading(None, str(contradiction), estimated=False)
        if self.complete() and stated is not None:
            return self._reading(stated, "", estimated=False)
        if self.error and stated is None and not self.characters:
            return self._reading(None, "the stream failed before it stated usage", estimated=False)
        cut = cut_usage(stated, self._facts, self.characters)
        reason = "" if cut is not None else self.oddity or "the stream was cut before it stated usage"
        return self._reading(cut, reason, estimated=cut is not None)

    def _whole(self) -> Reading:
        body = b"".join(self._body or ())
        reading = self._read_body(body)
        if reading.usage is None and not reading.error and not body.rstrip().endswith((b"}", b"]")):
            cut = cut_usage(None, self._facts, len(body))
            return Reading(cut, reading.reason, reading.model, reading.response_id, estimated=cut is not None)
        return reading

    def reported(self) -> NanoUSD | None:
        """What the provider says it charged, in nano-USD."""
        return None

    def parts(self) -> tuple[Reading, ...]:
        """Readings of other models that the same response was billed for."""
        return ()

    def _reading(self, usage: Usage | None, reason: str, *, estimated: bool) -> Reading:
        try:
            reported = self.reported()
        except Contradiction as contradiction:
            usage, reported, reason = None, None, str(contradiction)
        return Reading(
            usage,
            reason,
            self.model,
            self.response_id,
            self.terms,
            reported,
            estimated,
            self.finish_reason,
            self.error,
            tuple(self.tools),
            parts=self.parts() if usage is not None else (),
        )
