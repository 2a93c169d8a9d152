"""Takes one call through its states. The order of I/O and nothing else: what happens next is decided in ``core.call``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias, assert_never

from bursar.core.call import Arrived, Done, NeedsHold, NeedsProvider, NeedsSettlement, Refused, Reply, Settled, State
from bursar.core.ledger import Opening
from bursar.core.prices import Charge

from .ports import Books, Upstream

__all__ = ["Price", "drive"]

Price: TypeAlias = Callable[[Opening, Reply], Charge]


async def drive(
    state: State,
    books: Books,
    upstream: Upstream,
    price: Price,
    settled: Callable[[NeedsSettlement], None] = lambda _: None,
) -> Done:
    """Drive a call to its end. A cancellation, or any failure of ours, is settled before it is passed on. ``settled`` is told of
    every settlement, also of such a one."""
    while True:
        match state:
            case Arrived():
                state = state.next()
            case NeedsHold():
                try:
                    state = state.next(await books.hold(state))
                except BaseException:
                    # The hold may be committed already. Nothing has left: it is given back.
                    await _settle(NeedsSettlement(state.opening, None), books, settled)
                    raise
            case NeedsProvider():
                try:
                    reply = await upstream.send(state)
                except BaseException as error:
                    reply = upstream.interrupted()
                    state = state.next(reply, price(state.opening, reply))
                    await _settle(state, books, settled)
                    if reply.status != "ok" or not isinstance(error, asyncio.CancelledError):
                        raise
                    # All of it had come: whoever left then is answered.
                    task = asyncio.current_task()
                    assert task is not None
                    task.uncancel()
                    state = state.next()
                    continue
                state = state.next(reply, price(state.opening, reply))
            case NeedsSettlement():
                settled(state)
                await books.settle(state)
                state = state.next()
            case Settled() | Refused():
                return state
            case _:
                assert_never(state)


async def _settle(settlement: NeedsSettlement, books: Books, settled: Callable[[NeedsSettlement], None]) -> None:
    """Settle although this task is being cancelled."""
    settled(settlement)
    await asyncio.shield(asyncio.ensure_future(books.settle(settlement)))
