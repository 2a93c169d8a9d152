"""What the engine needs from the world, as Protocols. Adapters fulfil them; ``compose`` puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bursar.core.call import Held, NeedsHold, NeedsProvider, NeedsSettlement, NotHeld, Reply
from bursar.core.ledger import Attempt
from bursar.core.scopes import Scope
from bursar.core.values import valueclass

if TYPE_CHECKING:  # stores do not need the wire
    from bursar.wire.dialect import Dialect, RequestFacts

__all__ = [
    "Books",
    "ClientGoneError",
    "Entry",
    "HttpAnswer",
    "HttpClient",
    "HttpRequest",
    "HttpUpstream",
    "Keys",
    "Ledger",
    "Outbox",
    "Queries",
    "Sink",
    "SyncBooks",
    "Upstream",
    "VirtualKey",
]


class Books(Protocol):
    """Where money is held and settled, durably, before the answer to either call comes back."""

    async def hold(self, need: NeedsHold) -> Held | NotHeld: ...

    async def settle(self, need: NeedsSettlement) -> None:
        """Never refused and never given up: it waits until the books have it."""


class SyncBooks(Protocol):
    """The books for callers without an event loop: imports, the CLI."""

    def observe(self, attempts: Iterable[Attempt]) -> int:
        """Book attempts that already happened. Returns how many were new; known ids change nothing."""
        ...


class Upstream(Protocol):
    """The provider's side of one attempt. It streams to the client and meters while it does."""

    async def send(self, need: NeedsProvider, /) -> Reply:
        """Never raises but for cancellation, which is honoured at once; a failure is a ``Reply`` that says so."""
        ...

    def interrupted(self) -> Reply:
        """What is known of the attempt at this moment, when it was cut off from our side."""
        ...


@valueclass
class HttpRequest:
    """One request to a provider, complete. ``headers`` carry the provider's key: never log them."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    stream: bool


@valueclass
class HttpAnswer:
    """A whole answer of a provider, for the door to pass on."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class ClientGoneError(Exception):
    """The client does not listen any more."""


class Sink(Protocol):
    """The door's end of a stream: what is written goes to the client at once."""

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None: ...

    async def write(self, chunk: bytes) -> None:
        """Raises ClientGoneError."""
        ...


class HttpUpstream(Upstream, Protocol):
    """An attempt over HTTP. ``answer`` is the provider's whole answer, None when it was streamed or never came.

    ``failure`` says why there is none, "" where there is.
    """

    @property
    def answer(self) -> HttpAnswer | None: ...

    @property
    def failure(self) -> str: ...

    async def exchange(self) -> Reply:
        """The same request without the books: for what is known to cost nothing."""
        ...


class HttpClient(Protocol):
    """Makes attempts over HTTP."""

    def attempt(
        self, request: HttpRequest, dialect: Dialect, facts: RequestFacts, sink: Sink, *, hide_usage: bool
    ) -> HttpUpstream: ...


@valueclass
class Entry:
    """One ending on its way from the books to the ledger: its sequence and its ledger row as JSON."""

    sequence: int
    row: bytes


class Outbox(Protocol):
    """The books' endings, in the order they were committed."""

    def last_sequence(self) -> int: ...

    def endings_after(self, sequence: int, limit: int) -> list[Entry]: ...


@valueclass
class VirtualKey:
    """A key of ours: what it is called, the scope its calls get, and which of its columns a caller cannot change."""

    name: str
    scope: Scope
    pinned: tuple[str, ...] = ()


class Keys(Protocol):
    """The virtual keys in force."""

    def find(self, secret: str) -> VirtualKey | None:
        """Raises BooksError when the keys cannot be read."""
        ...


class Ledger(Protocol):
    """The analytical store. One writer at a time."""

    def last_sequence(self) -> int: ...

    def append(self, entries: Sequence[Entry]) -> int:
        """Append rows and remember the last sequence, in one transaction. Rows already taken are passed over."""
        ...


class Queries(Protocol):
    """How views ask: one statement of SQL, named columns back."""

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[dict[str, Any]]: ...
