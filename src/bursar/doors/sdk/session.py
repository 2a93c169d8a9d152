"""What ``bursar.init()`` sets up: where money is held, which hosts are providers, what holds for every call.

Rule 1: there is one session in a process. Without one, contexts work and nothing is charged.
Rule 2: in "observe" nothing of ours may stand in a call's way: what goes wrong is logged once and the call goes on. In
        "enforce" a call that cannot be held for is refused, unless the failure policy is "open".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from bursar.core.admission import Crowded
from bursar.core.call import NotHeld
from bursar.core.errors import BursarError
from bursar.core.scopes import Scope
from bursar.engine.permits import Ask, Ended, Permit
from bursar.engine.ports import Treasury
from bursar.engine.rulebook import ProviderRule
from bursar.wire import generic
from bursar.wire.providers import provider, split_url

from .frames import current_frame
from .refusal import BudgetExceeded

if TYPE_CHECKING:
    from .tool_cache import ToolCache

__all__ = ["Hosts", "Mode", "NotInitialized", "Session", "active", "activate", "required"]

_log = logging.getLogger("bursar.sdk")

Mode: TypeAlias = Literal["enforce", "observe"]

_LOOK_AGAIN_S: Final = 0.05
_TOOL_WAIT_S: Final = 2.0
_HOSTS_MAX: Final = 1_000


class NotInitialized(BursarError):  # noqa: N818 - it says what is the matter
    """``bursar.init()`` has not been called in this process."""


class Hosts:
    """Which hosts are providers: those of the base URLs in bursar.yaml, else those of the provider table."""

    def __init__(self, rules: Mapping[str, ProviderRule], gateways: tuple[str, ...] = ()) -> None:
        self._rules = rules
        self._gateways = {split_url(url)[0] for url in gateways}
        self._own: dict[str, list[ProviderRule]] = {}
        for rule in rules.values():
            if rule.base_url != rule.provider.base_url:
                self._own.setdefault(split_url(rule.base_url)[0], []).append(rule)
        self._by_host: dict[str, ProviderRule | None] = {}

    def find(self, host: str, path: str) -> ProviderRule | None:
        """The provider of a host (with its port where it is not the scheme's own), None for every other host.

        Where several are behind one host, the one that knows the path.
        """
        own = self._own.get(host)
        if own is not None:
            return own[0] if len(own) == 1 else max(own, key=lambda rule: _knows(rule, path))
        try:
            return self._by_host[host]
        except KeyError:
            found = provider(host)
            rule = self._rules.get(found.id) if found is not None else None
            if len(self._by_host) < _HOSTS_MAX:
                self._by_host[host] = rule
            return rule

    def rule(self, provider_id: str) -> ProviderRule:
        return self._rules[provider_id]

    def is_gateway(self, host: str) -> bool:
        """Whether a Bursar answers there, which charges the call itself."""
        return host in self._gateways


def _knows(rule: ProviderRule, path: str) -> tuple[bool, int]:
    """Whether a provider speaks at a path, and how much of its base URL is in it."""
    base = urlsplit(rule.base_url).path.rstrip("/")
    return rule.provider.dialect(path) is not generic.DIALECT, len(base) if path.startswith(f"{base}/") else 0


@dataclass(slots=True, eq=False)
class Session:
    """Everything that a call needs to know. ``defaults`` are the scope columns of every call that says nothing else.

    ``wait_s`` is how long a call waits for money that others hold; ``now_us`` the clock, ``new_id`` a new call's id; ``cache``
    where results of tools are kept, None where none are.
    """

    treasury: Treasury
    hosts: Hosts
    mode: Mode
    defaults: Scope
    wait_s: float
    on_failure: Literal["closed", "open"]
    now_us: Callable[[], int]
    new_id: Callable[[], str]
    said: set[str]
    cache: ToolCache | None = None

    def trouble(self, what: str, error: Exception) -> None:
        """Say once what of ours went wrong. An error without a traceback has its reason alone."""
        text = f"{what}: {error!r}"
        if text not in self.said and len(self.said) < 100:
            self.said.add(text)
            _log.error("%s", text, exc_info=error if error.__traceback__ else None)

    # --- holding ----------------------------------------------------------------------------------------------

    def obtain(self, ask: Ask) -> Permit | None:
        """Hold for a call, waiting for others as long as it may. None: it goes on unheld. Raises BudgetExceeded."""
        patient = ask
        until = time.monotonic() + self._patience_s()
        while isinstance(outcome := self.treasury.hold(ask), Crowded):
            left = until - time.monotonic()
            ask = patient if left > 0 else replace(patient, patient=False)
            if left > 0:
                time.sleep(min(_LOOK_AGAIN_S, left))
        return self.decided(ask, outcome)

    async def obtain_async(self, ask: Ask) -> Permit | None:
        """The same for an event loop, which is not held up."""
        import asyncio

        patient = ask
        until = time.monotonic() + self._patience_s()
        while True:
            if self.treasury.remote:
                asked = _Hold(self.treasury, ask)
                try:
                    outcome = await asyncio.to_thread(asked)
                except asyncio.CancelledError:
                    asked.leave()
                    raise
            else:
                outcome = self.treasury.hold(ask)
            if not isinstance(outcome, Crowded):
                return self.decided(ask, outcome)
            left = until - time.monotonic()
            ask = patient if left > 0 else replace(patient, patient=False)
            if left > 0:
                await asyncio.sleep(min(_LOOK_AGAIN_S, left))

    def _patience_s(self) -> float:
        """How long to wait for money that others hold. Inside of a tool some of it is the tool's own, which waits for us."""
        frame = current_frame()
        return min(self.wait_s, _TOOL_WAIT_S) if frame is not None and frame.is_in_paid_tool() else self.wait_s

    def decided(self, ask: Ask, outcome: Permit | NotHeld) -> Permit | None:
        if isinstance(outcome, Permit):
            return outcome
        if outcome.refusal is None and self.on_failure == "open":
            return None
        opening = ask.opening
        raise BudgetExceeded.of(outcome.refusal, outcome.reason, call_id=opening.call_id, task=opening.scope.task)


class _Hold:
    """A hold that is asked for in another thread, for somebody who may have left by the time it is made: it is given back then,
    as nothing was sent."""

    def __init__(self, treasury: Treasury, ask: Ask) -> None:
        self._treasury = treasury
        self._ask = ask
        self._lock = Lock()
        self._left = False
        self._outcome: Permit | NotHeld | Crowded | None = None

    def __call__(self) -> Permit | NotHeld | Crowded:
        outcome = self._treasury.hold(self._ask)
        with self._lock:
            self._outcome = outcome
            if self._left:
                self._give_back()
        return outcome

    def leave(self) -> None:
        with self._lock:
            self._left = True
            self._give_back()

    def _give_back(self) -> None:
        outcome, self._outcome = self._outcome, None
        if isinstance(outcome, Permit):
            self._treasury.settle(Ended(self._ask, outcome.opening, None))


_active: list[Session] = []


def active() -> Session | None:
    """The session of this process."""
    return _active[0] if _active else None


def activate(session: Session | None) -> Session | None:
    """Make it the one of this process. Returns the one before."""
    before = active()
    _active[:] = [] if session is None else [session]
    return before


def required() -> Session:
    """Raises NotInitialized."""
    session = active()
    if session is None:
        raise NotInitialized("nothing is tracked in this process yet: call bursar.init() first")
    return session
