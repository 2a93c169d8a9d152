"""What an export over any transport comes to: who sends it, whether it can be taken now, and its answer.

Rule 1: an export is answered when what it held is on disk. What of it could not be taken is counted in the answer.
Rule 2: a sender is told to come again where too much waits, and nothing of its export has been read then.
Rule 3: bodies under way have a limit together, not only each.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Final

from bursar.core.errors import BooksError
from bursar.engine.callers import Unauthorized, identify
from bursar.engine.ports import Keys, TraceIntake, VirtualKey
from bursar.engine.rulebook import Rulebook
from bursar.wire.dialect import BadRequest
from bursar.wire.otlp import Export, MetricExport, Signal, answer, read_logs, read_metrics, read_traces

__all__ = ["Receiver", "Refused"]

_BYTES_MAX: Final = 64_000_000
"""Of all bodies under way, as they came. One is always let in, whatever its size."""
_RATIO_MAX: Final = 200
_RATIO_FROM: Final = 1_000_000
_BUSY_S: Final = 1
_DRAINING_S: Final = 5
_OWN_HEADER: Final = "x-bursar-key"


class Refused(Exception):  # noqa: N818 - it becomes an answer, not a failure of the program
    """An export that is not taken: the HTTP status, why, and when to come again where that helps."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s


class Receiver:
    """Takes exports for every transport. ``rulebook`` is asked for once per export."""

    def __init__(self, rulebook: Callable[[], Rulebook], keys: Keys, intake: TraceIntake) -> None:
        self._rulebook = rulebook
        self._keys = keys
        self._intake = intake
        self._bytes = 0
        self.draining = False

    @property
    def body_bytes_max(self) -> int:
        return self._rulebook().body_bytes_max

    def admit(self, headers: Mapping[str, str]) -> VirtualKey | None:
        """Who sends it, before its body is read. Raises Refused."""
        if self.draining:
            raise Refused(503, "this receiver is shutting down; send it again", _DRAINING_S)
        wait_s = self._intake.retry_after_s
        if wait_s is not None:
            raise Refused(429, "more waits to be evaluated than is kept; send it again later", wait_s)
        if own := headers.get(_OWN_HEADER):
            headers = {**headers, "authorization": own}
        try:
            return identify(headers, "", self._keys, require_keys=self._rulebook().require_keys).key
        except Unauthorized as error:
            raise Refused(401, str(error)) from None
        except BooksError as error:
            raise Refused(503, f"keys cannot be looked up: {error}", _BUSY_S) from None

    @contextmanager
    def room(self, size: int) -> Generator[None]:
        """Room for a body of this size while it is under way. Raises Refused where others take it all."""
        if self._bytes and self._bytes + size > _BYTES_MAX:
            raise Refused(429, "too many exports are under way; send it again later", _BUSY_S)
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    async def receive(self, signal: Signal, body: bytes, key: VirtualKey | None, *, as_json: bool, gzip: bool) -> bytes:
        """Take an export. Returns the body of its answer. Raises Refused."""
        unpack = partial(_unpack, body, self.body_bytes_max) if gzip else lambda: body
        taken: Export | MetricExport
        try:
            if signal == "metrics":
                taken = await self._intake.take_points(lambda: read_metrics(unpack(), as_json=as_json), key)
            else:
                read = read_traces if signal == "traces" else read_logs
                taken = await self._intake.take(signal, lambda: read(unpack(), as_json=as_json), key)
        except BadRequest as error:
            raise Refused(400, str(error)) from None
        except BooksError as error:
            raise Refused(503, f"it could not be kept: {error}; send it again", _BUSY_S) from None
        return answer(signal, rejected=taken.rejected, problem=taken.problem, as_json=as_json)


def _unpack(body: bytes, limit: int) -> bytes:
    """The body of a gzip member, no larger than the limit and no more of it than a body of text has. Raises Refused."""
    decoder = zlib.decompressobj(wbits=31)
    most = min(limit, max(_RATIO_FROM, len(body) * _RATIO_MAX))
    try:
        data = decoder.decompress(body, most + 1)
    except zlib.error as error:
        raise Refused(400, f"the body is not gzip: {error}") from None
    if len(data) > most:
        raise Refused(413, f"the body unpacks to more than {most} bytes; send less at once")
    if not decoder.eof:
        raise Refused(400, "the body ends in the middle of its gzip data")
    return data
