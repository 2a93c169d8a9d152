"""What the engine needs from the world, as Protocols. Adapters fulfil them; ``compose`` puts them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from bursar.core.admission import Claim, Crowded, Refusal
from bursar.core.budgets import Budget, Standing, TaskLimit
from bursar.core.caching import CacheEntry, CacheUse
from bursar.core.call import Held, NeedsHold, NeedsMore, NeedsProvider, NeedsSettlement, NotHeld, Reply
from bursar.core.deliveries import Outcome
from bursar.core.ledger import Attempt
from bursar.core.money import NanoUSD
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.scopes import Scope
from bursar.core.usage import Usage
from bursar.core.values import valueclass

if TYPE_CHECKING:  # stores do not need the wire
    from bursar.core.tool_prices import ToolPrice
    from bursar.wire.dialect import Dialect, RequestFacts
    from bursar.wire.otlp import Export, MetricExport

    from .permits import Ask, Ended, Permit

__all__ = [
    "Allowance",
    "AskedApproval",
    "Books",
    "BudgetDesk",
    "CacheDesk",
    "CacheStore",
    "Channel",
    "ClientGoneError",
    "Decision",
    "Embedded",
    "Embedder",
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
    "SyncCacheStore",
    "TaskStanding",
    "TaskUse",
    "ThreadBooks",
    "TraceIntake",
    "TraceLedger",
    "TraceOutbox",
    "TraceRows",
    "Traces",
    "Treasury",
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


@valueclass
class TaskUse:
    """What a task used, everything below it included, and what is left for it: the least that it and those above it have
    left. None: no limit. Nano-USD; ``unpriced`` counts calls without a known charge."""

    spent: NanoUSD
    held: NanoUSD
    left: int | None
    unpriced: int = 0


class ThreadBooks(Protocol):
    """The books for the threads of an agent's own process. Any thread may call. All but ``hold_later``, ``settle_later`` and
    ``observe`` raise BooksError."""

    def hold(self, need: NeedsHold) -> Held | NotHeld | Crowded:
        """All its budgets or none, committed before it returns. Never waits for others."""
        ...

    def extend(self, need: NeedsMore) -> Refusal | None: ...

    def hold_later(self, attempt_id: str, make: Callable[[], NeedsHold]) -> None:
        """Enter a hold that no budget looks at within a moment. It is only made if the call has not ended by then."""
        ...

    def settle_later(self, settlement: NeedsSettlement) -> None:
        """Enter an ending within a moment."""
        ...

    def observe(self, attempt: Attempt, claim: Claim | None) -> None:
        """Book what already happened, within a moment; it counts toward the budgets of the claim."""
        ...

    def place(self, tasks: Sequence[TaskLimit]) -> None:
        """Enter tasks with where they stand and what limit they have, the top first."""
        ...

    def task_use(self, task: str) -> TaskUse: ...

    def is_limited(self, tasks: Iterable[str]) -> bool:
        """Whether any of the tasks, or one above them, has a limit of its own."""
        ...

    def limited_tasks(self) -> AbstractSet[str]:
        """Tasks known to have limits of their own. Asks nobody."""
        ...

    def wake(self) -> None:
        """Something waits that the thread of the books is to write beside them."""
        ...

    def flush(self, timeout_s: float) -> bool: ...

    def close(self, timeout_s: float) -> bool: ...


class Treasury(Protocol):
    """Where a door in the agent's own process holds and settles: the books of this machine, or a server. Any thread may
    call; nothing but ``hold``, ``extend``, ``task_use``, ``flush`` and ``close`` waits for anything."""

    @property
    def remote(self) -> bool:
        """Whether these wait for a network: then an event loop must call them in a thread."""
        ...

    def hold(self, ask: Ask) -> Permit | NotHeld | Crowded:
        """Crowded: ask again a moment later. Never raises."""
        ...

    def extend(self, permit: Permit, to_tokens: int) -> str:
        """Hold for more output tokens of a running stream: "" when that is done, else why not. Never raises."""
        ...

    def settle(self, ended: Ended) -> None:
        """The ending of a permitted call."""
        ...

    def observe(self, ended: Ended) -> None:
        """A call that was made without asking."""
        ...

    def tool_price(self, tool: str) -> ToolPrice | None:
        """What is known of a tool's price without asking anybody: a permit knows more."""
        ...

    def note(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome] = ()) -> None:
        """The shape of tasks, and what became of them."""
        ...

    def place(self, tasks: Sequence[TaskLimit]) -> None:
        """Let the books know of tasks before anything is asked for them, the top first. Never raises."""
        ...

    def task_use(self, task: str) -> TaskUse:
        """Raises BooksError."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Whether everything is where it belongs."""
        ...

    def close(self, timeout_s: float) -> bool: ...


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

    @property
    def showing(self) -> bool:
        """Whether a stream has brought output that a client can see. Never for a whole answer."""
        ...

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


class Traces(Protocol):
    """Where the shape of tasks is kept: what happened when, below what, and what became of it."""

    def take(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome] = ()) -> None:
        """Durable before it returns. Raises BooksError, and then nothing was taken."""
        ...

    def close(self) -> None: ...


class TraceIntake(Protocol):
    """Takes in what telemetry says, to be decided in a while."""

    @property
    def retry_after_s(self) -> int | None:
        """When to come again, where too much waits already."""
        ...

    async def take(self, signal: str, read: Callable[[], Export], key: VirtualKey | None, /) -> Export:
        """Read, and keep before this returns. Raises what ``read`` raises, or BooksError, and then nothing was taken."""
        ...

    async def take_points(self, read: Callable[[], MetricExport], key: VirtualKey | None, /) -> MetricExport: ...


@valueclass
class TraceRows:
    """Part of a trace on its way to the ledger: one JSON object a line. ``revised``: some were there before; ``outcomes``:
    not spans, but what became of tasks."""

    sequence: int
    lines: bytes
    revised: bool
    outcomes: bool


class TraceOutbox(Protocol):
    """What is to be known of traces, in the order it was decided."""

    def last_sequence(self) -> int: ...

    def rows_after(self, sequence: int, limit: int) -> list[TraceRows]: ...


class TraceLedger(Protocol):
    """The ledger's side of traces. One writer at a time."""

    def trace_position(self) -> int: ...

    def append_traces(self, rows: Sequence[TraceRows]) -> None:
        """Rows that are there already are replaced, and the last sequence remembered, in one transaction."""
        ...

    def restart_traces(self) -> None: ...


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


class CacheStore(Protocol):
    """Where answers are kept. Every method raises CacheError when the store cannot be reached; a cache that fails is a miss."""

    async def get(self, key: str, now_us: int, /) -> CacheEntry | None:
        """The entry, fresh or stale; never one past its ``stale_us``. Being found counts for its worth."""
        ...

    async def put(self, entry: CacheEntry, /) -> None:
        """Keep it, replacing what has its key, unless that was asked for later. What has no room in the whole store is not kept."""
        ...

    async def remove(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int:
        """Forget what all of these describe. At least one is needed. Returns how many went."""
        ...

    async def use(self) -> CacheUse: ...

    async def close(self) -> None: ...


class SyncCacheStore(Protocol):
    """The same for threads without an event loop: tools in an agent's own process, commands. Any thread may call."""

    def get(self, key: str, now_us: int, /) -> CacheEntry | None: ...

    def put(self, entry: CacheEntry, /) -> None: ...

    def remove(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int: ...

    def use(self) -> CacheUse: ...

    def close(self) -> None: ...


@valueclass
class Embedded:
    """One vector a text. ``usage`` is what a provider says it counted, None where nobody was paid or it says nothing; ``reply`` is how
    the attempt at a provider went, for whoever books it."""

    vectors: Any
    usage: Usage | None
    model: str
    reply: Reply | None = None


class Embedder(Protocol):
    """Makes vectors."""

    @property
    def id(self) -> str:
        """Names the model and all that changes its vectors."""
        ...

    @property
    def dimensions(self) -> int:
        """Of one vector; 0 before that is known."""
        ...

    async def embed(self, texts: Sequence[str], /) -> Embedded:
        """In the order of the texts, at most as many as the embedder takes. Raises CacheError."""
        ...


class CacheDesk(Protocol):
    """Where people see and steer the response cache of a running server. Every method raises CacheError."""

    async def use(self) -> CacheUse | None:
        """What is kept; None where nothing is to be."""
        ...

    async def clear(
        self, *, key: str = "", tag: str = "", tenant: str = "", route: str = "", everything: bool = False
    ) -> int: ...

    async def wrong(self, call_id: str, /) -> bool:
        """The kept answer that a call was given is wrong. False where none is known to have been given."""
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
