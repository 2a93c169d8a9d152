"""An MCP server as a child process, its messages metered on their way both ways.

Rule 1: lines are passed on as they came. Only a tool call waits, and only for its own money: everything else overtakes it.
Rule 2: an answer goes to the client after its call is settled: what a client has seen is in the books.
Rule 3: when the client closes its end, so does the child's; a child that stays is told to end, then killed.
Rule 4: the child's standard error is the caller's, and so is its exit code: 128 and the number where a signal ended it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Generic, TypeVar

from bursar.core.ledger import Status

from .lines import Line, Lines
from .messages import Id, batch_of, error_message
from .metering import Conversation, Ended, Heard, Purse, Refused, ServerName
from .purse import decide

__all__ = ["run_stdio"]

T = TypeVar("T")

_log = logging.getLogger("bursar.mcp")

_CHUNK_BYTES: Final = 64 * 1024
_WAITING_MAX: Final = 1_000
_LEAVE_S: Final = 10.0  # for a child whose input was closed, before it is told to end
_END_S: Final = 5.0  # for a child that was told to end, before it is killed


async def run_stdio(
    command: Sequence[str],
    purse: Purse[T],
    name: ServerName,
    *,
    environment: Mapping[str, str],
    clock_s: Callable[[], float],
    client_in: int = 0,
    client_out: int = 1,
) -> int:
    """Run ``command`` and relay until one side is gone. Returns its exit code. Raises OSError when it cannot be started."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
    relay = _Relay(child, purse, name, clock_s, client_in, client_out)
    return await relay.run()


class _Relay(Generic[T]):
    def __init__(
        self,
        child: asyncio.subprocess.Process,
        purse: Purse[T],
        name: ServerName,
        clock_s: Callable[[], float],
        client_in: int,
        client_out: int,
    ) -> None:
        self._child = child
        self._purse = purse
        self._clock_s = clock_s
        self._conversation = Conversation[T](name)
        # One thread each: what is read and written keeps its order, and a slow client stops nothing else.
        self._reading, self._writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._client_in, self._client_out = client_in, client_out
        self._waiting: dict[asyncio.Task[None], tuple[Id, ...]] = {}
        self._room = asyncio.Semaphore(_WAITING_MAX)
        self._stopped = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        upward, downward = loop.create_task(self._upward()), loop.create_task(self._downward())
        stopping = loop.create_task(self._stopped.wait())
        try:
            await asyncio.wait({upward, downward, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not (downward.done() or stopping.done()):  # the client closed its end: the child may still answer
                await asyncio.wait({downward, stopping}, timeout=_LEAVE_S, return_when=asyncio.FIRST_COMPLETED)
            stopped = self._stopped.is_set()
            by_itself = downward.done() and not upward.done() and not stopped
            code = await self._end_child(at_once=stopped or not downward.done())
            if not downward.done():
                await asyncio.wait({downward}, timeout=_END_S)
            upward.cancel()
            await asyncio.gather(upward, return_exceptions=True)
            await self._settle_open(by_itself=by_itself, code=code)
            for task in (upward, downward):
                if task.done() and not task.cancelled():
                    task.result()  # what went wrong on our side is said
            return code
        finally:
            for task in (upward, downward, stopping):
                task.cancel()
            await asyncio.gather(upward, downward, stopping, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            self._reading.shutdown(wait=False)
            self._writing.shutdown(wait=False)

    async def _end_child(self, *, at_once: bool) -> int:
        """The child's exit code; it is told to end at once, or where it stays, and killed where it does not listen."""
        child = self._child
        waits = (0.0 if at_once else _END_S, _END_S)
        for wait_s, end in zip(waits, (child.terminate, child.kill), strict=True):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await child.wait()
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    end()
        code = await child.wait()
        return code if code >= 0 else 128 - code

    async def _settle_open(self, *, by_itself: bool, code: int) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        error = f"the server ended with exit code {code} before it answered" if by_itself else ""
        status: Status = "error" if by_itself else "cancelled"
        await self._settle(self._conversation.close(status, error, self._clock_s()))

    # --- from the client --------------------------------------------------------------------------------------

    async def _upward(self) -> None:
        loop, lines = asyncio.get_running_loop(), Lines()
        try:
            while chunk := await loop.run_in_executor(self._reading, os.read, self._client_in, _CHUNK_BYTES):
                for line in lines.feed(chunk):
                    await self._from_client(line)
            for line in lines.rest():
                await self._from_client(line)
            while self._waiting:
                await asyncio.wait(self._waiting)
        finally:
            if self._child.stdin is not None:
                self._child.stdin.close()

    async def _from_client(self, line: Line) -> None:
        if not line.whole:
            if line.first:
                await self._to_client(error_message("", "the message is too long to be passed on") + b"\n")
            return
        heard = self._conversation.from_client(line.data)
        if heard.calls:
            await self._room.acquire()
            task = asyncio.get_running_loop().create_task(self._decide(heard))
            self._waiting[task] = tuple(call.id for call in heard.calls)
            task.add_done_callback(self._decided)
            return
        for request in heard.cancels:
            for task, ids in self._waiting.items():
                if ids == (request,):  # it waits for its money still, and needs none any more
                    task.cancel()
        await self._settle(self._conversation.give_up(heard.cancels, "cancelled", "", self._clock_s()))
        await self._pass_on(heard, [])

    def _decided(self, task: asyncio.Task[None]) -> None:
        del self._waiting[task]
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, BrokenPipeError):  # a client that reads no more is about to be noticed anyway
                _log.error("a message could not be passed on", exc_info=error)
            self._stopped.set()

    async def _decide(self, heard: Heard) -> None:
        """Ask for the money of every call in a message, then pass on what was granted."""
        decisions = await decide(self._purse, heard)
        await self._pass_on(heard, decisions)

    async def _pass_on(self, heard: Heard, decisions: Sequence[T | Refused]) -> None:
        onward, answers = self._conversation.decided(heard, decisions, self._clock_s())
        if answers:
            await self._to_client(batch_of(answers, single=heard.single) + b"\n")
        if onward is not None:
            await self._to_child(onward)

    async def _to_child(self, data: bytes) -> None:
        pipe = self._child.stdin
        assert pipe is not None
        # A batch that lost a call has lost its line's ending as well.
        pipe.write(data if data.endswith(b"\n") else data + b"\n")
        with suppress(ConnectionError):  # it has ended: what is open ends with it
            await pipe.drain()

    # --- from the server --------------------------------------------------------------------------------------

    async def _downward(self) -> None:
        pipe, lines = self._child.stdout, Lines()
        assert pipe is not None
        try:
            while chunk := await pipe.read(_CHUNK_BYTES):
                for line in lines.feed(chunk):
                    await self._from_child(line)
            for line in lines.rest():
                await self._from_child(line)
        except BrokenPipeError:
            self._stopped.set()  # the client reads no more

    async def _from_child(self, line: Line) -> None:
        if line.whole:
            await self._settle(self._conversation.from_server(line.data, self._clock_s()))
        await self._to_client(line.data)

    async def _to_client(self, data: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writing, _write, self._client_out, data)

    async def _settle(self, ended: Sequence[Ended[T]]) -> None:
        for each in ended:
            await self._purse.end(each.granted, each.outcome)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
