"""The streams of answers, counted while the user's client reads them.

Rule 1: a fault in counting never costs the user the answer.
Rule 2: a stream that its client closes, leaves or forgets ends there, charged for what was seen of it.
Rule 3: a stream whose hold does not cover its whole length asks for more before it gets there, and ends cleanly without.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

from .calls import Answer, Outgoing

__all__ = ["counted", "extend", "fed", "finished", "left", "stream_classes"]


def stream_classes(library: ModuleType) -> tuple[type[Any], type[Any]]:
    """The streams of a library's answers, sync and async: each must be of the library's own kind."""

    class MeteredStream(library.SyncByteStream):
        def __init__(self, inner: Any, answer: Answer, call: Outgoing) -> None:
            self._inner = inner
            self._answer = answer
            self._call = call

        def __iter__(self) -> Iterator[bytes]:
            return counted(self._inner, self._answer, self._call)

        def close(self) -> None:
            left(self._answer, self._call)
            self._inner.close()

        def __del__(self) -> None:
            left(self._answer, self._call)

    class AsyncMeteredStream(library.AsyncByteStream):
        def __init__(self, inner: Any, answer: Answer, call: Outgoing) -> None:
            self._inner = inner
            self._answer = answer
            self._call = call

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _counted_async(self._inner, self._answer, self._call)

        async def aclose(self) -> None:
            left(self._answer, self._call)
            await self._inner.aclose()

        def __del__(self) -> None:
            left(self._answer, self._call)

    return MeteredStream, AsyncMeteredStream


def counted(inner: Any, answer: Answer, call: Outgoing) -> Iterator[bytes]:
    """The chunks of a stream, counted; ``inner`` is closed where it ends before its time."""
    try:
        for chunk in inner:
            if out := fed(answer, call, chunk):
                yield out
            while (to_tokens := answer.wants()) is not None:
                if why := extend(call, to_tokens):
                    yield answer.end_here(why)
                    inner.close()
                    return
                answer.extended(to_tokens)
    except Exception as error:
        answer.broken(f"{type(error).__name__}: {error}")
        raise
    except BaseException:
        answer.left()
        raise
    if rest := finished(answer, call):
        yield rest


async def _counted_async(inner: Any, answer: Answer, call: Outgoing) -> AsyncIterator[bytes]:
    try:
        async for chunk in inner:
            if out := fed(answer, call, chunk):
                yield out
            while (to_tokens := answer.wants()) is not None:
                remote = call.session.treasury.remote
                if why := await asyncio.to_thread(extend, call, to_tokens) if remote else extend(call, to_tokens):
                    yield answer.end_here(why)
                    await inner.aclose()
                    return
                answer.extended(to_tokens)
    except Exception as error:
        answer.broken(f"{type(error).__name__}: {error}")
        raise
    except BaseException:
        answer.left()
        raise
    if rest := finished(answer, call):
        yield rest


def extend(call: Outgoing, to_tokens: int) -> str:
    """Hold for more of a stream. Why that cannot be, "" when it is done."""
    assert call.permit is not None
    return call.session.treasury.extend(call.permit, to_tokens)


def fed(answer: Answer, call: Outgoing, chunk: bytes) -> bytes:
    """``Answer.feed`` under rule 1, as the two below are."""
    try:
        return answer.feed(chunk)
    except Exception as error:  # noqa: BLE001 - rule 1
        call.session.trouble("an answer could not be counted", error)
        answer.broken(f"it could not be counted: {error!r}")
        return chunk


def finished(answer: Answer, call: Outgoing) -> bytes:
    try:
        return answer.finished()
    except Exception as error:  # noqa: BLE001 - rule 1
        call.session.trouble("an answer could not be settled", error)
        return b""


def left(answer: Answer, call: Outgoing) -> None:
    try:
        answer.left()
    except Exception as error:  # noqa: BLE001 - rule 1; when the interpreter ends, nothing may be there any more
        call.session.trouble("an answer could not be settled", error)
