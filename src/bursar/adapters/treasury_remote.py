"""Holds and settlements of an agent's process through a Bursar server.

Rule 1: what happened is on disk before anybody goes on, in a file of this process (the spool), and leaves it when the
        server has it. A process that dies leaves its spool to the next one with the same data directory.
Rule 2: a server that cannot be reached is asked again no sooner than ``_AWAY_S`` later, where nobody listens a moment later;
        until then calls go on where the last answer for their scope said how much may be spent meanwhile, and stop where it
        did not.
Rule 3: only the standard library: an agent's process must stay light.
Rule 4: a spool that cannot be written costs nobody their answer: what happened waits in memory then, and this is said.
"""

from __future__ import annotations

import fcntl
import http.client
import logging
import os
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from bursar.core.admission import Crowded
from bursar.core.budgets import TaskLimit
from bursar.core.call import NotHeld
from bursar.core.errors import BooksFailedError, ConfigError
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.scopes import Scope
from bursar.core.tool_prices import ToolPrice
from bursar.engine.asks import opening_of
from bursar.engine.messages import (
    EXTENDED,
    PERMISSION,
    PREFIX,
    TASK_USE,
    TOLD,
    Extension,
    Told,
    encode,
)
from bursar.engine.permits import Ask, Ended, Permit
from bursar.engine.ports import TaskUse
from bursar.engine.rulebook import Rulebook

__all__ = ["RemoteTreasury"]

_log = logging.getLogger("bursar.sdk")

_TIMEOUT_S: Final = 10.0
_HOLD_TIMEOUT_S: Final = 3_700.0  # the server lets a call wait for money that others hold, up to an hour
_AWAY_S: Final = 2.0
_REFUSED_S: Final = 0.1  # a connection that is refused at once costs nothing to try
_LINGER_S: Final = 0.05
_BATCH_MAX: Final = 200
_BATCH_BYTES_MAX: Final = 4_000_000
_SPOOL_BYTES_MAX: Final = 200_000_000
_SCOPES_MAX: Final = 10_000
_IDLE_MAX: Final = 32
_LIVING: Final[weakref.WeakSet[RemoteTreasury]] = weakref.WeakSet()


class _AwayError(Exception):
    """The server cannot be reached, or cannot answer now."""


class RemoteTreasury:
    """``engine.ports.Treasury`` over a server at ``url``. ``folder`` is where the spool is kept."""

    def __init__(self, url: str, key: str, folder: Path, rulebook: Callable[[], Rulebook]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"server: {url!r} is no URL of a Bursar server: write http://host:4000")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
        self._folder = folder
        self._rulebook = rulebook
        self._begin()
        if self._spool.has_orphans():
            self._start()
        _LIVING.add(self)

    def _begin(self) -> None:
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._lock = (
            threading.RLock()
        )  # the collector of garbage may settle a forgotten answer while this thread has it
        self._sending = threading.Lock()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._spool = _Spool(self._folder)
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        self._spool_failed = False
        self._away_until = 0.0
        self._said_away = False
        self._offline: dict[Scope, int | None] = {}
        self._offline_used: dict[Scope, int] = {}

    def forked(self) -> None:
        """This process is a child: what waits is its parent's, and so are the connections."""
        self._close_idle()
        self._begin()

    @property
    def remote(self) -> bool:
        return True

    # --- holding ----------------------------------------------------------------------------------------------

    def hold(self, ask: Ask) -> Permit | NotHeld | Crowded:
        try:
            found = PERMISSION.decode(self._post("hold", encode(ask), timeout_s=_HOLD_TIMEOUT_S))
        except _RefusedError as error:
            return NotHeld(str(error))
        except _AwayError as error:
            return self._hold_meanwhile(ask, str(error))
        except msgspec.MsgspecError as error:
            return NotHeld(f"the server's answer cannot be understood: {error}; is it of another version?")
        permit = found.permit
        if permit is None:
            return NotHeld(found.reason, found.refusal)
        who = _who(ask)
        if len(self._offline) < _SCOPES_MAX or who in self._offline:
            self._offline[who] = permit.offline_up_to
            self._offline_used.pop(who, None)
        return permit

    def _hold_meanwhile(self, ask: Ask, why: str) -> Permit | NotHeld:
        """Rule 2: as far as the last answer for this scope said; a task with a limit of its own waits for the server."""
        limited = [task for task in (ask.task, *ask.above) if task is not None and task.limit is not None]
        allowed = self._offline.get(_who(ask)) if not limited else None
        if allowed is None:
            return NotHeld(why)
        opening = opening_of(self._rulebook(), ask)
        if allowed >= 0:
            cost = opening.estimate.amount
            with self._lock:
                used = self._offline_used.get(_who(ask), 0)
                if cost is None or used + cost > allowed:
                    return NotHeld(f"{why}; what may be spent meanwhile is used up")
                self._offline_used[_who(ask)] = used + cost
        return Permit(opening, opening.estimate.amount)

    def extend(self, permit: Permit, to_tokens: int) -> str:
        try:
            return EXTENDED.decode(self._post("extend", encode(Extension(permit, to_tokens)))).reason
        except (_AwayError, msgspec.MsgspecError) as error:
            return f"the server cannot be asked: {error}"

    def tool_price(self, tool: str) -> ToolPrice | None:
        return self._rulebook().tools.find(tool)

    def task_use(self, task: str) -> TaskUse:
        if not self.flush(_TIMEOUT_S):
            raise BooksFailedError(f"what happened could not be told to {self._host}:{self._port} yet")
        try:
            return TASK_USE.decode(self._request("GET", f"tasks/{quote(task, safe='')}", b"", _TIMEOUT_S))
        except (_AwayError, msgspec.MsgspecError) as error:
            raise BooksFailedError(str(error)) from error

    # --- what happened ----------------------------------------------------------------------------------------

    def settle(self, ended: Ended) -> None:
        self._tell(Told(endings=(ended,)))

    def observe(self, ended: Ended) -> None:
        self._tell(Told(endings=(ended,)))

    def note(self, observations: Sequence[Observation], outcomes: Sequence[TaskOutcome] = ()) -> None:
        self._tell(Told(spans=tuple(observations), outcomes=tuple(outcomes)))

    def place(self, tasks: Sequence[TaskLimit]) -> None:
        if tasks:
            with suppress(_AwayError):  # the call itself says so
                self._post("told", encode(Told(tasks=tuple(tasks))))

    def _tell(self, told: Told) -> None:
        line = encode(told)
        with self._lock:
            self._waiting.append((line, self._spooled(line)))
            self._start()
        self._wake.set()

    def _spooled(self, line: bytes) -> int:
        """Where it ends in the spool, or where the spool ends without it (rule 4)."""
        try:
            end = self._spool.append(line)
        except (OSError, BooksFailedError) as error:
            if not self._spool_failed:
                _log.error("the spool in %s cannot be written, what happens is only in memory: %s", self._folder, error)
            self._spool_failed = True
            return self._spool.end
        self._spool_failed = False
        return end

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="bursar-teller", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        self._adopt()
        while not self._closed:
            self._wake.wait()
            time.sleep(_LINGER_S)
            self._wake.clear()
            try:
                self._send_waiting()
            except _AwayError:
                time.sleep(_AWAY_S)
                self._wake.set()

    def _send_waiting(self) -> None:
        """Tell the server in order. Raises _AwayError, and then what it does not have still waits."""
        with self._sending:
            while self._waiting:
                batch: list[bytes] = []
                size = 0
                for line, _ in self._waiting:
                    if batch and (len(batch) >= _BATCH_MAX or size + len(line) > _BATCH_BYTES_MAX):
                        break
                    batch.append(line)
                    size += len(line)
                self._send(batch)
                with self._lock:
                    end = 0
                    for _ in batch:
                        _, end = self._waiting.popleft()
                    self._spool.done(end, empty=not self._waiting)

    def _send(self, lines: Sequence[bytes]) -> None:
        try:
            self._post("told", encode(_together([TOLD.decode(line) for line in lines])), force=True)
        except (_RefusedError, msgspec.MsgspecError) as error:  # a spool may be damaged, or of another version
            if len(lines) == 1:
                _log.error("the server does not take what happened, it is left out: %s", error)
                return
            for line in lines:
                self._send([line])

    def _adopt(self) -> None:
        """Tell what processes before this one could not."""
        with self._lock:
            self._waiting.extend(self._spool.orphans())
            if self._waiting:
                self._wake.set()

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._send_waiting()
                return True
            except _AwayError as error:
                if time.monotonic() >= deadline:
                    _log.warning("%d endings wait in the spool for the server: %s", len(self._waiting), error)
                    return False
                time.sleep(min(0.2, timeout_s / 10))

    def close(self, timeout_s: float) -> bool:
        done = self.flush(timeout_s)
        self._closed = True
        self._wake.set()
        self._spool.close(keep=not done)
        self._close_idle()
        return done

    # --- HTTP -------------------------------------------------------------------------------------------------

    def _post(self, what: str, body: bytes, *, timeout_s: float = _TIMEOUT_S, force: bool = False) -> bytes:
        if not force and time.monotonic() < self._away_until:
            raise _AwayError(f"the Bursar server at {self._host}:{self._port} is away")
        return self._request("POST", what, body, timeout_s)

    def _request(self, method: str, what: str, body: bytes, timeout_s: float) -> bytes:
        try:
            status, answer = self._exchange(method, what, body, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self._away(
                f"{type(error).__name__}: {error}", _REFUSED_S if isinstance(error, ConnectionError) else _AWAY_S
            )
            raise _AwayError(
                f"the Bursar server at {self._host}:{self._port} cannot be reached: {error or type(error).__name__}"
            ) from error
        if status == 200:
            if self._said_away:
                self._said_away = False
                _log.warning("the Bursar server is back")
            return answer
        text = answer[:400].decode(errors="replace")
        if status in (400, 413, 422):
            raise _RefusedError(f"the Bursar server at {self._host}:{self._port} answered {status}: {text}")
        # A key that is not known (401) may be so again: what happened is not thrown away for it.
        self._away(text, _AWAY_S)
        raise _AwayError(f"the Bursar server at {self._host}:{self._port} answered {status}: {text}")

    def _exchange(self, method: str, what: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """One request. One on a connection that the server closed in the meantime is made anew, once: nothing changes by
        saying it again."""
        for attempt in (1, 2):
            connection = self._connection(timeout_s)
            fresh = connection.sock is None
            try:
                connection.request(method, self._path + PREFIX + what, body, self._headers)
                response = connection.getresponse()
                answer = response.status, response.read()
            except BaseException as error:
                connection.close()
                self._close_idle()  # what was closed over there is closed altogether
                if fresh or attempt == 2 or not isinstance(error, OSError | http.client.HTTPException):
                    raise
            else:
                if len(self._idle) < _IDLE_MAX and not self._closed:
                    self._idle.append(connection)
                else:
                    connection.close()
                return answer
        raise AssertionError("one of the two attempts returns or raises")

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """One that is free, or a new one."""
        with suppress(IndexError):
            found = self._idle.pop()
            found.timeout = timeout_s
            if found.sock is not None:
                found.sock.settimeout(timeout_s)
            return found
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _away(self, why: str, for_s: float) -> None:
        self._away_until = time.monotonic() + for_s
        if not self._said_away:
            self._said_away = True
            _log.error("the Bursar server at %s:%d is away, asking again: %s", self._host, self._port, why)


class _RefusedError(_AwayError):
    """The server answered, and does not take it."""


def _who(ask: Ask) -> Scope:
    """What the budgets of a scope are about, but for its task."""
    return replace(ask.opening.scope, task="", parent_task="", labels=())


def _together(told: Sequence[Told]) -> Told:
    return Told(
        tuple(ended for each in told for ended in each.endings),
        tuple(span for each in told for span in each.spans),
        tuple(outcome for each in told for outcome in each.outcomes),
        tuple(task for each in told for task in each.tasks),
    )


class _Spool:
    """What has not reached the server, as lines of a file that only this process writes.

    A file belongs to whoever holds its lock. The system drops the lock when the process dies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / f"spool-{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        self._file: Any = None
        self._end = 0

    @property
    def end(self) -> int:
        return self._end

    def append(self, line: bytes) -> int:
        """Returns where the line ends."""
        if self._file is None:
            self._file = self._locked()
        if self._end + len(line) > _SPOOL_BYTES_MAX:
            raise BooksFailedError(f"{self._path} has {self._end} bytes: the server has been away for too long")
        data = line + b"\n"
        if self._file.write(data) != len(data):  # the disk is full: half a line must not become part of the next one
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise BooksFailedError(f"{self._path} cannot take {len(data)} bytes more")
        self._end += len(data)
        return self._end

    def _locked(self) -> Any:
        """The file, under a name that others look for only when it is locked."""
        new = self._path.with_suffix(".new")
        file = os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 0)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(self._path)
        return file

    def done(self, end: int, *, empty: bool) -> None:
        """The server has everything up to there. The file is emptied when nothing waits any more."""
        if empty and self._file is not None and end:
            self._file.truncate(0)
            self._file.seek(0)
            self._end = 0

    def has_orphans(self) -> bool:
        """Whether there are files of others, who may be alive."""
        return any(path != self._path for path in self._folder.glob("spool-*.jsonl"))

    def orphans(self) -> list[tuple[bytes, int]]:
        """The lines of files whose processes are gone, taken over into this one, with where each ends in it."""
        found: list[tuple[bytes, int]] = []
        for path in sorted(self._folder.glob("spool-*.jsonl")):
            if path == self._path:
                continue
            with suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_nlink == 0:
                    continue  # another heir took it between our opening and our lock
                # What follows the last line break was cut off by the death of its process.
                found += [(line, self.append(line)) for line in file.read().split(b"\n")[:-1] if line]
                path.unlink()
        return found

    def close(self, *, keep: bool) -> None:
        if self._file is None:
            return
        if not keep:
            self._path.unlink(missing_ok=True)
        self._file.close()
        self._file = None


def _after_fork() -> None:
    for treasury in list(_LIVING):
        with suppress(Exception):  # a child must come to life whatever is wrong with its parent's treasury
            treasury.forked()


os.register_at_fork(after_in_child=_after_fork)
