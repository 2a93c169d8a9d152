"""Results of tools that are kept, so that the same call is not paid again.

Rule 1: a result is kept for one function, as it and all that is wrapped around it are written, with these arguments, for whom
        it was asked: what cannot be compared (an argument, what a closure or an object holds) is not cached, and that is said
        once.
Rule 2: who it was asked for is the org, team, project and user of the call, unless the tool says that a team or an org shares
        its results. ``vary`` only ever divides further.
Rule 3: only what comes back from the store as it went in, type by type, is kept, and no error is.
Rule 4: of calls that ask the same at once one runs, in whatever thread or task; the others get its result, or run themselves
        where it has none to give. None waits for a call that it is part of.
Rule 5: after a tool that writes, whatever it became of, what has its tags is gone; what was asked for before is not kept, and
        not given to who asks afterwards.
Rule 6: a store that fails is a miss.
"""

from __future__ import annotations

import inspect
import os
import re
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from hashlib import blake2b
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeAlias, get_args

import msgspec

from bursar.core.caching import KEY_HEX_LENGTH, CacheEntry, CacheTier
from bursar.core.errors import CacheError
from bursar.core.money import NanoUSD
from bursar.core.scopes import SCOPE_COLUMNS, VALUE_LENGTH_MAX, Scope
from bursar.core.tool_prices import TOOL_PROVIDER
from bursar.engine.ports import SyncCacheStore

from .comparable import as_json, canonical, held, identity_of, layers_of
from .frames import Frame, current_frame
from .session import Session, required

if TYPE_CHECKING:
    from .tools import ToolCall

__all__ = ["Caching", "Lookup", "Share", "ToolCache", "forget", "names_of"]

Share: TypeAlias = Literal["user", "team", "org"]

_COLUMNS: Final[dict[Share, tuple[str, ...]]] = {
    "user": ("org", "team", "project", "user"),
    "team": ("org", "team"),
    "org": ("org",),
}
_DURATION: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS_US: Final = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_FOREVER_US: Final = 1 << 62
_FORMAT: Final = "1"
_KEY_BYTES_MAX: Final = 1_000_000
_WAIT_S: Final = 300.0
_NAMES_MAX: Final = 32
_LIVING: Final[weakref.WeakSet[ToolCache]] = weakref.WeakSet()


# --- what is said of a tool -------------------------------------------------------------------------------------


class Caching:
    """What a decorator says of one tool's results. Raises ValueError for what cannot be."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        *,
        cache: str,
        vary: Sequence[str],
        share: Share,
        ignore: Sequence[str],
        version: str,
        tags: Sequence[str],
    ) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError(f"cache: {name} is a generator, whose steps cannot be kept: cache what it is made of")
        if share not in _COLUMNS:
            raise ValueError(f"share: {share!r} is not possible: use {', '.join(get_args(Share))}")
        self.name = name
        self.route = _route(name)
        self.lifetime_us = _lifetime(cache)
        self.tags = names_of("tags", tags)
        self._share: Share = share
        self._vary = names_of("vary", vary)
        self._ignore = frozenset(names_of("ignore", ignore))
        self._version = version
        try:
            self._signature = inspect.signature(function)
        except (TypeError, ValueError):
            raise ValueError(
                f"cache: {name} does not say what arguments it has: wrap it in a function that does"
            ) from None
        for column in self._vary:
            if column not in SCOPE_COLUMNS and not (column.startswith("label:") and len(column) > len("label:")):
                raise ValueError(
                    f"vary: {column!r} says nothing of who a call is for: use {', '.join(SCOPE_COLUMNS)}, label:NAME; "
                    "arguments always count"
                )
        for argument in self._ignore - self._signature.parameters.keys():
            raise ValueError(f"ignore: {name} has no argument {argument!r}")
        self._layers = layers_of(function)
        self._is_as_written = not any(
            hasattr(each, "__wrapped__") or hasattr(each, "__signature__") for each in self._layers
        )
        self._identity = [_FORMAT, name, version, *map(identity_of, self._layers)]

    def tenant(self, scope: Scope) -> str:
        columns = (getattr(scope, column) for column in _COLUMNS[self._share])
        return "/".join((self._share, *(text.replace("%", "%25").replace("/", "%2F") for text in columns)))

    def key(self, scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """What the call is known by. Raises TypeError for what cannot be compared, and for a call that cannot be."""
        labels = dict(scope.labels)
        apart = [
            [name, labels.get(name[len("label:") :], "") if name.startswith("label:") else getattr(scope, name)]
            for name in self._vary
        ]
        said = [self._identity, self.tenant(scope), apart, self._captured(), self._arguments(args, kwargs)]
        try:
            data = msgspec.json.encode(said, order="sorted")
        except (ValueError, OverflowError, RecursionError) as error:
            raise TypeError(str(error)) from None
        if len(data) > _KEY_BYTES_MAX:
            raise TypeError(f"its arguments have {len(data):,} bytes, more than {_KEY_BYTES_MAX:,}")
        return blake2b(data, digest_size=KEY_HEX_LENGTH // 2, person=b"bursar tool").hexdigest()

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        bound = self._signature.bind(*args, **kwargs)
        if self._is_as_written:
            bound.apply_defaults()
        said = [
            [name, canonical(value, f"its argument {name!r}", "name it in ignore=[...] if no result depends on it")]
            for name, value in bound.arguments.items()
            if name not in self._ignore
        ]
        # A wrapper may have other defaults than it shows, and look at how something is passed.
        return said if self._is_as_written else [len(args), said]

    def _captured(self) -> list[Any]:
        """What the function has in hand besides its arguments. With a version its author answers for it."""
        if self._version:
            return []
        way_out = "give the tool a version=, and change it with what its results depend on"
        without = self._signature.parameters.keys() if self._is_as_written else self._ignore
        found: list[Any] = []
        for layer in self._layers:
            holding = held(layer, without=without)
            known = [each for each in self._layers if each is not holding]
            found.append(canonical(holding, "what it captured", way_out, known=known))
        return found


def names_of(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names as they were listed. Raises ValueError for what is no list of names."""
    if isinstance(names, str):
        raise ValueError(f'{what}: {names!r} is one text: write {what}=["{names}"]')
    if len(names) > _NAMES_MAX or not all(name and isinstance(name, str) for name in names):
        raise ValueError(f"{what}: write at most {_NAMES_MAX} names, none of them empty")
    return tuple(names)


def _lifetime(text: str) -> int:
    if text == "pure":
        return _FOREVER_US
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError(f"cache: {text!r} is no duration: write 30s, 10m, 1h, 1d, or pure for what never changes")
    return int(found[1]) * _UNITS_US[found[2]]


# --- what is kept -----------------------------------------------------------------------------------------------


class _Flight(NamedTuple):
    """A call under way, for which others may wait."""

    key: str
    future: Future[CacheEntry | None]
    frame: Frame
    route: str
    tags: tuple[str, ...]


class ToolCache:
    """The kept results of one session. Any thread may use it. The store is opened when there is something to look for."""

    def __init__(self, open_store: Callable[[], SyncCacheStore]) -> None:
        self._open_store = open_store
        self._store: SyncCacheStore | None = None
        self._closed = False
        self.forked()
        _LIVING.add(self)

    def forked(self) -> None:
        """This process is a child: what is under way is its parent's."""
        self._lock = threading.Lock()
        self._keeping = threading.Lock()
        self._flights: dict[str, _Flight] = {}
        self._running: set[_Flight] = set()

    def store(self) -> SyncCacheStore:
        """Raises CacheError, or ConfigError where it cannot be opened as bursar.yaml says."""
        with self._lock:
            if self._closed:
                raise CacheError("the session has ended")
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()

    def join(self, flight: _Flight) -> _Flight:
        """The flight to wait for: that of a call that was there before, or this one, which then runs."""
        with self._lock:
            found = self._flights.setdefault(flight.key, flight)
            if found is flight:
                self._running.add(flight)
            return found

    def run(self, flight: _Flight) -> None:
        """It runs whoever else does. Who asks from now on waits for it where there is no other."""
        with self._lock:
            self._flights.setdefault(flight.key, flight)
            self._running.add(flight)

    def land(self, flight: _Flight, entry: CacheEntry | None) -> None:
        with self._lock:
            self._leave(flight)
        if not flight.future.done():
            flight.future.set_result(entry)

    def _leave(self, flight: _Flight) -> None:
        self._running.discard(flight)
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def keep(self, flight: _Flight, entry: CacheEntry) -> None:
        """Nothing, where what it brings has been forgotten since it began. Raises CacheError."""
        with self._keeping:  # what is forgotten meanwhile is removed after it is in the store
            with self._lock:
                is_forgotten = flight not in self._running
            if not is_forgotten:
                self.store().put(entry)

    def forget(self, *, tag: str = "", route: str = "") -> int:
        """Remove what all of these describe. Returns how many went. Raises CacheError."""
        with self._keeping, self._lock:
            for flight in list(self._running):
                if (not tag or tag in flight.tags) and (not route or flight.route == route):
                    self._leave(flight)
        return self.store().remove(tag=tag, route=route)


class Lookup:
    """One call of a tool whose results are kept. ``result`` is what was found. To be left whatever happens."""

    def __init__(self, cache: ToolCache, caching: Caching, call: ToolCall, key: str) -> None:
        self._cache = cache
        self._caching = caching
        self._call = call
        self._key = key
        self._flight: _Flight | None = None
        self._tenant = caching.tenant(call.ask.opening.scope)
        self.result: Any = None

    @classmethod
    def of(cls, session: Session, caching: Caching | None, call: ToolCall, args: Any, kwargs: Any) -> Lookup | None:
        """None where the call is not to be looked for."""
        if caching is None or session.cache is None:
            return None
        try:
            key = caching.key(call.ask.opening.scope, args, kwargs)
        except TypeError as error:  # rule 1, and nobody's fault: the reason is enough
            session.trouble(f"a result of tool {caching.name!r} is not cached", error.with_traceback(None))
            return None
        except Exception as error:  # noqa: BLE001 - an argument's own code, too: the call goes on
            session.trouble(f"a result of tool {caching.name!r} is not cached", error)
            return None
        return cls(session.cache, caching, call, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._land(None)

    def is_found(self) -> bool:
        """Whether the result is kept, or comes from a call that is under way. Else it is this call that runs."""
        if self._is_kept():
            return True
        other = self._other()
        if other is None:
            return self._is_kept()  # another one may have landed a moment ago
        with suppress(TimeoutError):
            if self._is_given(other.result(_WAIT_S)):
                return True
        self._run()
        return False

    async def is_found_async(self) -> bool:
        """The same for an event loop, which is not held up."""
        import asyncio

        if self._is_kept():
            return True
        other = self._other()
        if other is None:
            return self._is_kept()
        with suppress(TimeoutError):
            if self._is_given(await asyncio.wait_for(asyncio.wrap_future(other), _WAIT_S)):
                return True
        self._run()
        return False

    def _is_kept(self) -> bool:
        now_us = self._call.session.now_us()
        try:
            entry = self._cache.store().get(self._key, now_us)
        except Exception as error:  # noqa: BLE001 - rule 6
            self._trouble(error)
            entry = None
        if entry is not None and entry.is_fresh(now_us) and self._is_taken(entry, "tool"):
            self._land(entry)  # who waits for this one is given it, too
            return True
        self._call.missed()
        return False

    def _other(self) -> Future[CacheEntry | None] | None:
        """Whom to wait for. None: this one runs."""
        own = self._own()
        flight = self._cache.join(own)
        if flight is own:
            self._flight = own
            return None
        frame = current_frame()
        if frame is None or not frame.is_below(flight.frame):
            return flight.future
        self._run()
        return None

    def _run(self) -> None:
        self._flight = self._own()
        self._cache.run(self._flight)

    def _own(self) -> _Flight:
        future: Future[CacheEntry | None] = Future()
        future.set_running_or_notify_cancel()  # who waits and is cancelled does not cancel it for the others
        return _Flight(self._key, future, self._call.frame, self._caching.route, self._caching.tags)

    def _is_given(self, entry: CacheEntry | None) -> bool:
        return entry is not None and self._is_taken(entry, "coalesced")

    def keep(self, result: Any, cost: NanoUSD | None) -> None:
        """Rule 3."""
        opening = self._call.ask.opening
        body = as_json(result)
        if body is None:
            error = TypeError(f"a {type(result).__name__} does not come back from JSON as it is")
            self._call.session.trouble(f"a result of tool {self._caching.name!r} is not cached", error)
            return
        until_us = min(opening.started_us + self._caching.lifetime_us, _FOREVER_US)
        entry = CacheEntry(
            key=self._key,
            tenant=self._tenant,
            route=self._caching.route,
            body=body,
            content_type="application/json",
            stream=False,
            provider=TOOL_PROVIDER,
            model=self._caching.name,
            cost=cost,
            usage=(),
            attempt_id=opening.attempt_id,
            stored_us=opening.started_us,
            expires_us=until_us,
            stale_us=until_us,
            tags=self._caching.tags,
            operation="tool",
        )
        assert self._flight is not None, "only who runs has something to keep"
        try:
            self._cache.keep(self._flight, entry)
        except Exception as error:  # noqa: BLE001 - the tool has run: its result is the caller's
            self._trouble(error)
        self._land(entry)

    def _is_taken(self, entry: CacheEntry, tier: CacheTier) -> bool:
        try:
            self.result = msgspec.json.decode(entry.body)
        except msgspec.MsgspecError:
            return False
        self._call.found(entry, tier)
        return True

    def _land(self, entry: CacheEntry | None) -> None:
        if self._flight is not None:
            self._cache.land(self._flight, entry)
            self._flight = None

    def _trouble(self, error: Exception) -> None:
        self._call.session.trouble("the cache of tool results is not used", error)


def forget(*, tag: str = "", tool: str = "") -> int:
    """Remove kept results of tools: those that have the tag, those of the tool, or both. Returns how many went.

    Raises ValueError where neither is said, CacheError, NotInitialized.
    """
    if not tag and not tool:
        raise ValueError("say what to forget: a tag, or a tool")
    cache = required().cache
    return 0 if cache is None else cache.forget(tag=tag, route=_route(tool) if tool else "")


def _route(tool: str) -> str:
    return f"tool:{tool[:VALUE_LENGTH_MAX]}"


def _after_fork() -> None:
    for cache in list(_LIVING):
        cache.forked()


os.register_at_fork(after_in_child=_after_fork)
