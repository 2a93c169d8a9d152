"""What of a conversation between an MCP client and a server costs money, and when. No I/O, no clock.

Rule 1: a tool call goes on only after somebody decided about it; everything else goes on untouched.
Rule 2: a call that was let through ends exactly once: by its answer, by its cancellation, or with the conversation.
Rule 3: a tool call without an id is not passed on: nobody could ever say what became of it.
Rule 4: an answer that asks for something first ends nothing: the call is given back, the client sends it again.
Rule 5: what a server calls itself is taken from its answers; a tool is ``SERVER.TOOL``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from bursar.core.ledger import Status
from bursar.core.values import valueclass
from bursar.wire.context import clean

from .messages import Id, Message, ToolRequest, read_messages, refusal_message

__all__ = ["Call", "Conversation", "Ended", "Heard", "Outcome", "Purse", "Refused", "ServerName"]

T = TypeVar("T")

UNNAMED: Final = "mcp"
_NAME_LENGTH_MAX: Final = 120  # the server's and the tool's together fit a scope value


@valueclass
class Call:
    """A tool call that wants to go on. ``tool`` is its full name."""

    id: Id
    tool: str
    request: ToolRequest


@valueclass
class Refused:
    """A decision against a call: what the agent reads, and the same as figures."""

    text: str
    details: Mapping[str, Any]


@valueclass
class Outcome:
    """How a call ended. ``body`` is its result as JSON, None where none came.

    ``billed`` is False where the server did not take the request; ``left`` where it has not been made at all, or will be
    made again.
    """

    status: Status
    latency_ms: float
    body: bytes | None = None
    error: str = ""
    billed: bool = True
    left: bool = True


@valueclass
class Heard:
    """What a client sent at once: its messages, those among them that need a decision, and what it gives up."""

    data: bytes
    messages: tuple[Message, ...]
    calls: tuple[Call, ...]
    cancels: tuple[Id, ...]

    @property
    def single(self) -> bool:
        return not self.data.lstrip().startswith(b"[")


class Ended(Generic[T]):
    """A call that was let through and is over. ``granted`` is what it was let through with."""

    __slots__ = ("granted", "outcome")

    def __init__(self, granted: T, outcome: Outcome) -> None:
        self.granted = granted
        self.outcome = outcome


class Purse(Protocol[T]):
    """Who decides about calls and pays for them."""

    async def begin(self, call: Call, /) -> T | Refused:
        """Hold the money of a call, or say why not. Never raises but for cancellation, and then nothing is held."""
        ...

    async def end(self, granted: T, outcome: Outcome, /) -> None:
        """Settle a call that was let through. Never raises but for cancellation."""
        ...


class ServerName:
    """What the server is called: as somebody said, else as it calls itself."""

    def __init__(self, stated: str = "", otherwise: str = UNNAMED) -> None:
        self._stated = stated
        self._own = ""
        self._otherwise = otherwise

    def learn(self, name: str) -> None:
        """The server says its name. The first one stays, so that a tool is called the same all along."""
        if not self._own:
            self._own = clean(name)[:_NAME_LENGTH_MAX]

    def tool(self, name: str) -> str:
        """The full name of one of its tools."""
        return f"{self._stated or self._own or self._otherwise}.{clean(name)[:_NAME_LENGTH_MAX]}"


class Conversation(Generic[T]):
    """One client's exchange with one server. ``T`` is what a call is let through with. Times are seconds of one clock."""

    def __init__(self, name: ServerName) -> None:
        self._name = name
        self._open: dict[Id, list[tuple[T, float]]] = {}

    @property
    def open_calls(self) -> int:
        """How many calls were let through and have not ended."""
        return sum(map(len, self._open.values()))

    def from_client(self, data: bytes) -> Heard:
        """What a client sent: decide about ``calls``, then ask ``decided`` what goes on."""
        messages = read_messages(data)
        calls = tuple(
            Call(each.id, self._name.tool(each.call.tool), each.call) for each in messages if each.call and each.id
        )
        return Heard(data, messages, calls, tuple(each.cancels for each in messages if each.cancels))

    def decided(
        self, heard: Heard, decisions: Sequence[T | Refused], now_s: float
    ) -> tuple[bytes | None, tuple[bytes, ...]]:
        """What goes on to the server, None where nothing does, and the answers that the client gets at once.

        ``decisions`` are those about ``heard.calls``, in order.
        """
        assert len(decisions) == len(heard.calls)
        refused = dict[int, Refused]()
        waiting = iter(decisions)
        for index, message in enumerate(heard.messages):
            if message.call and message.id:
                decision = next(waiting)
                if isinstance(decision, Refused):
                    refused[index] = decision
                else:
                    self._open.setdefault(message.id, []).append((decision, now_s))
        answers = tuple(
            refusal_message(heard.messages[index].id, each.text, each.details) for index, each in refused.items()
        )
        kept = [
            each for index, each in enumerate(heard.messages) if index not in refused and (each.id or each.call is None)
        ]
        if len(kept) == len(heard.messages):
            return heard.data, answers
        if not kept:
            return None, answers
        return b"[" + b",".join(each.raw for each in kept) + b"]", answers

    def from_server(self, data: bytes, now_s: float) -> list[Ended[T]]:
        """The calls that what a server sent brings to their end."""
        ended: list[Ended[T]] = []
        for message in read_messages(data):
            answer = message.answer
            if answer is None:
                continue
            if answer.server:
                self._name.learn(answer.server)
            for granted, since_s in self._taken(message.id):
                status: Status = "error" if answer.failed else "ok"
                latency_ms = _ms(now_s - since_s)
                outcome = Outcome(
                    status, latency_ms, answer.body, answer.error, billed=not answer.refused, left=not answer.unfinished
                )
                ended.append(Ended(granted, outcome))
        return ended

    def give_up(
        self,
        requests: Iterable[Id],
        status: Status,
        error: str,
        now_s: float,
        *,
        billed: bool = True,
        left: bool = True,
    ) -> list[Ended[T]]:
        """These calls end without an answer, where they have not ended. What the tool did until then was done."""
        return [
            Ended(granted, Outcome(status, _ms(now_s - since_s), None, error, billed, left))
            for request in requests
            for granted, since_s in self._taken(request)
        ]

    def is_open(self, request: Id) -> bool:
        """Whether a call of this id was let through and has not ended."""
        return request in self._open

    def close(self, status: Status, error: str, now_s: float) -> list[Ended[T]]:
        """Everything still open ends so."""
        requests = [request for request, calls in self._open.items() for _ in calls]
        return self.give_up(requests, status, error, now_s)

    def _taken(self, request: Id) -> list[tuple[T, float]]:
        """The oldest open call of this id, taken out."""
        calls = self._open.get(request)
        if not calls:
            return []
        first = calls.pop(0)
        if not calls:
            del self._open[request]
        return [first]


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 3)
