"""Answers to clients: a provider's, with what we say of the call beside it, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from bursar.core.call import Settled
from bursar.core.money import decimal_text
from bursar.engine.ports import ClientGoneError, HttpAnswer
from bursar.engine.rsgi import HttpProtocol

from .outgoing import budget_headers
from .problems import Problem
from .request import Request

__all__ = ["answer", "failure_text", "is_gone", "our_headers", "until_gone"]

_REASON_LENGTH_MAX: Final = 400
_GONE_S: Final = 0.01


def answer(
    request: Request, given: HttpAnswer | None, failure: str, done: Settled, headers: Sequence[tuple[str, str]]
) -> None:
    """Send a provider's whole answer. Raises Problem where there is none: ``failure`` says why."""
    if given is not None:
        request.protocol.response_bytes(given.status, [*given.headers, *headers], given.body)
        return
    code = "upstream_failed" if done.attempt else "upstream_unreachable"
    more = {"call_id": done.opening.call_id, "provider": done.opening.provider}
    raise Problem(502, code, failure_text(failure), more, headers=headers)


def failure_text(failure: str) -> str:
    return failure[:_REASON_LENGTH_MAX]


def our_headers(done: Settled, rung: str) -> list[tuple[str, str]]:
    """What a client is told of its call once that is settled."""
    headers = [("x-bursar-call-id", done.opening.call_id), ("x-bursar-rung", rung)]
    amount = done.attempt.charge.amount if done.attempt is not None else None
    if amount is not None:
        headers.append(("x-bursar-cost-usd", decimal_text(amount)))
    if done.admitted is not None:
        headers += budget_headers(done.admitted, charge=done.attempt.charge if done.attempt else None)
    return headers


async def is_gone(protocol: HttpProtocol) -> bool:
    """Whether the client has gone away, as far as the server knows of it within a moment."""
    left = asyncio.ensure_future(protocol.client_disconnect())
    await asyncio.wait([left], timeout=_GONE_S)
    return left.done() or not left.cancel()


@contextmanager
def until_gone(protocol: HttpProtocol, *, watched: bool) -> Generator[None]:
    """Raises ClientGoneError in here when the client goes away, however long the provider stays silent.

    A stream that has begun is stopped with it. Before its first byte the HTTP client cannot abort the provider's request: that
    one ends when the provider begins to answer, or at the read timeout.
    """
    if not watched:
        yield
        return
    call = asyncio.current_task()
    assert call is not None

    async def watch() -> None:
        await protocol.client_disconnect()
        call.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if watcher.done():
            call.uncancel()
            raise ClientGoneError from None
        raise
    finally:
        watcher.cancel()
