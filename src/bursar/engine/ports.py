"""What the engine needs from the world, as Protocols. Adapters fulfil them; ``compose`` puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from bursar.core.admission import Refusal
from bursar.core.budgets import Budget, Standing, TaskLimit
from bursar.core.call import Held, NeedsHold, NeedsMore, NeedsProvider, NeedsSettlement, NotHeld, Reply
from bursar.core.deliveries import Outcome
from bursar.core.ledger import Attempt
from bursar.core.money import NanoUSD
from bursar.core.scopes import Scope
from bursar.core.values import valueclass

if TYPE_CHECKING:  # stores do not need the wire
    from bursar.wire.dialect import Dialect, RequestFacts

__all__ = [
    "Allowance",
    "AskedApproval",
    "Books",
    "BudgetDesk",
    "Channel",
    "ClientGoneError",
    "Decision",
    "Entry",
    "HttpAnswer",
    "HttpClient",
    "HttpRequest",
    "HttpUpstream",
    "KeptBudget",
    "Keys",
    "Ledger",
    "Notice",
    "Outbox",
    "Queries",
    "Sink",
    "SyncBooks",
    "TaskStanding",
    "Upstream",
    "VirtualKey",
]


class Books(Protocol):
    """Where money is held and settled, durably, before the answer to either call comes back."""

    async def hold(self, need: NeedsHold) -> Held | NotHeld:
        """All its budgets or none. A call that only others' holds keep out waits here for a while."""
        ...

    async def extend(self, need: NeedsMore) -> Refusal | None:
        """Hold more for a running attempt: None when that is done, else why not. Never waits for others."""
        ...

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


class Allowance(Protocol):
    """What of a stream is paid for."""

    @property
    def refusal(self) -> str:
        """Why there is no more, once ``covers`` said so."""
        ...

    async def covers(self, tokens: int, /) -> bool:
        """Whether the stream may go on after so many output tokens. It asks for more when they come near what is held."""
        ...


class HttpClient(Protocol):
    """Makes attempts over HTTP."""

    def attempt(
        self,
        request: HttpRequest,
        dialect: Dialect,
        facts: RequestFacts,
        sink: Sink,
        *,
        hide_usage: bool,
        allowance: Allowance | None,
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


@valueclass
class Notice:
    """An alert that began to fire or is over, on its way to a channel. ``id`` is the same however often it is sent."""

    id: str
    event: Literal["firing", "resolved"]
    key: str
    labels: tuple[tuple[str, str], ...]
    annotations: tuple[tuple[str, str], ...]
    fired_us: int
    resolved_us: int | None = None
    test: bool = False


class Channel(Protocol):
    """Where notices go: a webhook, a chat, a mailbox, a pager."""

    @property
    def name(self) -> str: ...

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        """Never raises but for cancellation; a failure is a value, and no secret is in it."""
        ...


Decision: TypeAlias = Literal["granted", "declined"]


@valueclass
class KeptBudget:
    """A budget in force with the words it was written in. ``source`` says where it is changed: in bursar.yaml ("file") or
    by command and API ("set")."""

    budget: Budget
    spec: Mapping[str, Any]
    source: Literal["file", "set"]
    changed_us: int | None = None


@valueclass
class TaskStanding:
    """A task with a limit of its own, and how that stands."""

    limit: TaskLimit
    standing: Standing


@valueclass
class AskedApproval:
    """What somebody must decide before calls go on. ``who`` is the scope of the call that asked first; ``expires_us`` None:
    it does not end by itself."""

    id: str
    budget: str
    who: Mapping[str, str]
    state: str
    asked_us: int
    decided_us: int | None
    expires_us: int | None


class BudgetDesk(Protocol):
    """Where people set, see and steer budgets. Every method raises BooksError when the books cannot be read or written."""

    def budgets(self) -> Sequence[KeptBudget]:
        """Those of bursar.yaml, then those that were set, by name."""
        ...

    def find(self, name: str) -> KeptBudget | None: ...

    def set(self, name: str, spec: Mapping[str, Any]) -> KeptBudget:
        """Set or replace one that is not of bursar.yaml. Raises ConfigError for a spec that cannot be."""
        ...

    def remove(self, name: str) -> bool:
        """False when none of that name was set. What was spent under it stays in the books."""
        ...

    def standings(self, budgets: Iterable[Budget]) -> Sequence[Standing]:
        """How every window of these budgets stands now; with ``each``, for every value seen in it."""
        ...

    def tasks(self) -> Sequence[TaskStanding]:
        """Tasks with a limit of their own, the latest opened first."""
        ...

    def task(self, name: str) -> TaskStanding | None: ...

    def set_task(self, name: str, limit: NanoUSD | None, reserve: NanoUSD) -> None:
        """Set, raise or lower a task's own limit, whoever opened it; None takes it away."""
        ...

    def approvals(self, *, pending: bool) -> Sequence[AskedApproval]: ...

    def decide(self, approval: str, decision: Decision) -> AskedApproval | None:
        """None when nothing of that id waits or was decided."""
        ...
