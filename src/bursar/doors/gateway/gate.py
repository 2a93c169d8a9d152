"""The client's end of an attempt that may still be left for another one.

Rule 1: nothing goes to the client before the provider has said something that counts: until then another attempt may answer.
Rule 2: the first to have something has the client to itself; the others are told that nobody listens.
Rule 3: what is sent is kept as it is sent, within a limit, for the cache.
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
        "_held", "_keep_max", "_kept", "_kept_bytes", "_seen", "_shows", "_sink", "_start", "_translation", "headers", "opened",
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
        self._start: tuple[int, tuple[tuple[str, str], ...]] | None = None
        self.headers: list[tuple[str, str]] = []
        self.opened = False

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        if self._translation is not None:
            kept = tuple(pair for pair in headers if pair[0] not in _STREAM_HEADERS)
            headers = (("content-type", self._translation.content_type), *kept)
        self._start = (status, headers)

    async def write(self, chunk: bytes) -> None:
        out = self._translation.feed(chunk) if self._translation is not None else chunk
        if self.opened:
            await self._send(out)
            return
        if out:
            self._held.append(out)
        if self._seen():
            await self._open()

    async def finish(self) -> None:
        """What ends the stream, once the provider's has ended."""
        if self._translation is None:
            return
        out = self._translation.finish()
        if self.opened:
            await self._send(out)
        elif out:
            self._held.append(out)

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
        held, self._held = b"".join(self._held), []
        await self._send(held)

    async def _send(self, out: bytes) -> None:
        if not out:
            return
        self._kept_bytes += len(out)
        if self._kept_bytes <= self._keep_max:
            self._kept.append(out)
        else:
            self._kept.clear()
        await self._sink.write(out)
