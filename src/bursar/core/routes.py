"""Routes: the names clients ask for, and the rungs that a call may take.

Rule 1: a route's first rung is where calls go; each next one is for when those before it are passed over or have failed.
Rule 2: a rung is passed over, before anything is spent, for what is known: an open breaker, a price above the route's cap, a
        request it cannot take, or that none of the causes it is for is known of those before it. It is left, after an attempt,
        for what happened (``next_after``).
Rule 3: what everybody would refuse (a bad request, a wrong key, a policy) goes on only to a rung that names the cause.
Rule 4: nothing is tried after the client has seen part of an answer.
Rule 5: the choice is a function of the route, the call and how the targets stand: the same values, the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias

from .alert_text import money_text
from .breaker import BreakerRules, Verdict
from .caching import CachePolicy
from .failures import WAYS, Cause
from .money import NanoUSD
from .values import valueclass

__all__ = [
    "ASKED",
    "Hedge",
    "Limit",
    "Pick",
    "Route",
    "RouteRung",
    "Routes",
    "RungKind",
    "Standing",
    "limit_ms",
    "next_after",
    "pick",
    "too_dear",
]

RungKind: TypeAlias = Literal["model", "cached", "stale", "refuse"]

ASKED: Final = "asked"
"""As a model: the one that the client asked for, where it asked for it."""


@valueclass
class Limit:
    """A time: ``ms``, or a quantile (thousandths) of what the target took lately, times a factor in thousandths."""

    ms: int | None = None
    quantile: int | None = None
    factor: int = 1_000


@valueclass
class Hedge:
    """A second attempt at the next rung where the first has shown nothing after ``after``. ``spend`` is thousandths of spend."""

    after: Limit
    spend: int


@valueclass
class RouteRung:
    """One rung. ``provider`` and ``model`` are "" for what the client asked for. ``when`` are the causes it is for; empty: all
    that may go elsewhere. ``first_token`` and ``total`` are how long it may take, ``cost_per_call`` the most that a call is
    expected to cost there, ``budget_at`` the share of its tightest budget (thousandths) from which it is passed over."""

    name: str
    kind: RungKind = "model"
    provider: str = ""
    model: str = ""
    when: frozenset[Cause] = frozenset()
    first_token: Limit | None = None
    total: Limit | None = None
    cost_per_call: NanoUSD | None = None
    budget_at: int | None = None
    output_cap: int | None = None
    effort: str = ""
    breaker: BreakerRules = BreakerRules()

    @property
    def is_asked(self) -> bool:
        return self.kind == "model" and not self.provider


@valueclass
class Route:
    """``name`` is what clients ask for as the model, or a pattern of it. ``retry_share`` is thousandths of requests."""

    name: str
    rungs: tuple[RouteRung, ...]
    deadline_ms: int | None = None
    attempts_max: int = 3
    cost_max: NanoUSD | None = None
    retry_share: int = 100
    hedge: Hedge | None = None
    mid_stream: Literal["end", "continue"] = "end"
    cache: CachePolicy | None = None
    prompt_cache: bool = False

    @property
    def cache_first(self) -> bool:
        """Whether the cache is asked before anything else: it is, unless the route says at which later rung."""
        return self.cache is not None and not any(rung.kind == "cached" for rung in self.rungs[1:])


class Routes:
    """The routes in force, found by what a client calls the model: a name before a pattern, patterns in their order."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self.all = tuple(routes)
        self._names = {route.name: route for route in self.all if not _is_pattern(route.name)}
        self._patterns = tuple(route for route in self.all if _is_pattern(route.name))

    def find(self, model: str) -> Route | None:
        found = self._names.get(model)
        if found is not None:
            return found
        return next((route for route in self._patterns if fnmatchcase(model, route.name)), None)

    def unreached(self) -> Iterator[tuple[str, str]]:
        """Patterns that no model comes to, each with the one before it that takes them all."""
        for index, route in enumerate(self._patterns):
            for before in self._patterns[:index]:
                # A pattern with stars alone takes every text that another pattern stands for if it takes that pattern's own.
                if not any(sign in before.name for sign in "?[") and fnmatchcase(route.name, before.name):
                    yield route.name, before.name
                    break


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


@valueclass
class Standing:
    """How a rung stands for one call. ``barred`` says why it cannot take it at all, "" where it can; ``expected`` is what it
    would cost, None where that is not known."""

    verdict: Verdict
    barred: str = ""
    expected: NanoUSD | None = None


@valueclass
class Pick:
    """The rung to take: ``index`` None where there is none left. ``why`` the others before it were passed over, by index;
    ``panic``: every target is known to fail, and one is tried all the same; ``wait_us`` when the first will be tried again.
    ``causes`` are all that are known of why rungs do not answer this call."""

    index: int | None
    passed: Mapping[int, str]
    panic: bool = False
    probe: bool = False
    wait_us: int = 0
    causes: frozenset[Cause] = frozenset()


def pick(
    route: Route,
    order: Sequence[int],
    standing_of: Callable[[int], Standing],
    *,
    has_stale: bool,
    causes: frozenset[Cause] = frozenset(),
) -> Pick:
    """The first of these rungs that may be taken now. ``standing_of`` is asked for a rung when it is its turn, ``causes``
    are what is known already of why others do not answer this call.

    Where every model is passed over for its breaker alone, the one that failed longest ago is taken (panic), unless a stale
    answer is there, or it asked to be left alone until a time.
    """
    passed: dict[int, str] = {}
    opened: dict[int, Verdict] = {}
    known = set(causes)
    for index in order:
        rung = route.rungs[index]
        if rung.kind == "stale" and not has_stale:
            passed[index] = "nothing is kept for it"
            continue
        if rung.kind != "model":
            return Pick(index, passed, wait_us=_first_wait(opened), causes=frozenset(known))
        if rung.when and not rung.when & known:
            passed[index] = f"only for {', '.join(sorted(rung.when))}"
            continue
        standing = standing_of(index)
        why = standing.barred
        if not why and (why := too_dear(rung, standing)):
            known.add("cost")
        if not why and standing.verdict.state == "open":
            why = standing.verdict.why
            opened[index] = standing.verdict
            if standing.verdict.cause is not None:
                known.add(standing.verdict.cause)
        if not why:
            return Pick(index, passed, probe=standing.verdict.state == "probe", causes=frozenset(known))
        passed[index] = why
    tried = [index for index, verdict in opened.items() if not verdict.exact]
    if tried:
        index = min(tried, key=lambda each: opened[each].until_us)
        del passed[index]
        return Pick(index, passed, panic=True, causes=frozenset(known))
    return Pick(None, passed, wait_us=_first_wait(opened), causes=frozenset(known))


def _first_wait(opened: Mapping[int, Verdict]) -> int:
    return min((verdict.until_us for verdict in opened.values()), default=0)


def too_dear(rung: RouteRung, standing: Standing) -> str:
    """Why a rung is passed over for what the call is expected to cost there, "" where it is not."""
    if rung.cost_per_call is None or standing.expected is None or standing.expected <= rung.cost_per_call:
        return ""
    return f"expected to cost {money_text(standing.expected)}, cost_per_call is {money_text(rung.cost_per_call)}"


def next_after(route: Route, index: int, cause: Cause, *, roomier: frozenset[int] = frozenset()) -> tuple[int, ...]:
    """The rungs that may follow the one at ``index`` after it failed for this cause. ``roomier`` are those whose context window
    is known to be larger than that of the one that failed. What a rung is for (``when``) is looked at when it is picked."""
    named_only = WAYS[cause] == "named"
    found: list[int] = []
    for after in range(index + 1, len(route.rungs)):
        rung = route.rungs[after]
        if rung.kind != "model":
            # A bad request stays a bad request; an answer that is kept is one also for what no budget pays for.
            if not named_only or cause in rung.when or cause == "budget":
                found.append(after)
        elif not named_only or cause in rung.when or (not rung.when and cause == "context" and after in roomier):
            found.append(after)
    return tuple(found)


def limit_ms(limit: Limit | None, quantile_ms: float | None) -> float | None:
    """A limit in milliseconds, None where there is none (yet). ``quantile_ms`` is the quantile it names, as far as known."""
    if limit is None:
        return None
    if limit.ms is not None:
        return limit.ms
    return None if quantile_ms is None else quantile_ms * limit.factor / 1_000
