"""The client's end of an attempt that may still be left for another one.

Rule 1: nothing goes to the client before the provider has said something that counts: until then another attempt may answer.
Rule 2: the first to have something has the client to itself; the others are told that nobody listens.
Rule 3: what is held back is translated when it is sent: until then the translation of another attempt may be the client's.
Rule 4: what is sent is kept as it is sent, within a limit, for the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bursar.engine.ports import ClientGoneError
from bursar.wire.translate.speakers import StreamTranslation

from .continuing import Part
from .sink import Sink

__all__ = ["Gate"]

_STREAM_HEADERS: Final = ("content-type", "content-length", "content-encoding")


class Gate:
    """``engine.ports.Sink``. ``shows`` asks whether the client is this attempt's, ``seen`` whether the provider has said
    something. ``headers`` are ours, sent with the provider's when it opens."""

    __slots__ = (
        "_ended", "_held", "_keep_max", "_kept", "_kept_bytes", "_seen", "_shows", "_sink", "_start", "_translation", "headers", "opened",
    )  # fmt: skip

    def __init__(
        self,
        sink: Sink,
        shows: Callable[[], bool],
        seen: Callable[[], bool],
        *,
        translation: StreamTranslation | Part | None,
        keep_max: int,
    ) -> None:
        self._sink = sink
        self._shows = shows
        self._seen = seen
        self._translation = translation
        self._keep_max = keep_max
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._held: list[bytes] = []
        self._ended = False
        self._start: tuple[int, tuple[tuple[str, str], ...]] | None = None
        self.headers: list[tuple[str, str]] = []
        self.opened = False

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        if self._translation is not None and self._translation.content_type:
            kept = tuple(pair for pair in headers if pair[0] not in _STREAM_HEADERS)
            headers = (("content-type", self._translation.content_type), *kept)
        self._start = (status, headers)

    async def write(self, chunk: bytes) -> None:
        if self.opened:
            await self._send(self._translated(chunk))
            return
        self._held.append(chunk)
        if self._seen():
            await self._open()

    async def finish(self) -> None:
        """What ends the stream, once the provider's has ended."""
        if self.opened and self._translation is not None:
            await self._send(self._translation.finish())
        self._ended = True

    async def flush(self) -> None:
        """Send what was held back although it says nothing: there is no other answer."""
        if not self.opened and self._start is not None:
            await self._open()

    @property
    def content_type(self) -> str:
        return next((value for name, value in (self._start[1] if self._start else ()) if name == "content-type"), "")

    @property
    def sent(self) -> bytes | None:
        """All that was sent, None where it is too much to keep."""
        return None if self._kept_bytes > self._keep_max else b"".join(self._kept)

    async def _open(self) -> None:
        assert self._start is not None
        if not self._shows():
            raise ClientGoneError
        self.opened = True
        if not self._sink.started:  # or it goes on with what another attempt began
            self._sink.headers += self.headers
            await self._sink.start(*self._start)
        held, self._held = self._translated(b"".join(self._held)), []
        if self._ended and self._translation is not None:
            held += self._translation.finish()
        await self._send(held)

    def _translated(self, chunk: bytes) -> bytes:
        return chunk if self._translation is None else self._translation.feed(chunk)

    async def _send(self, out: bytes) -> None:
        if not out:
            return
        self._kept_bytes += len(out)
        if self._kept_bytes <= self._keep_max:
            self._kept.append(out)
        else:
            self._kept.clear()
        await self._sink.write(out)
