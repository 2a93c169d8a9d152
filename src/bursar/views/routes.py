"""What became of the calls on routes: which rungs answered, why others were left, what that cost.

Rule 1: a call is counted once, at the rung where it ended: the attempt that answered it, else its last one.
Rule 2: an answer from the cache is a call and no attempt. What never left a gateway is not in the ledger, and not here.
Rule 3: what a limit leaves out is counted; the figures of a route are over all of its rungs. What is older than the retention
        has no route any more: it is counted too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from ._sql import statement
from .asking import BadQuestion, Filter, make_filter
from .measures import cost_text
from .spend import ROWS_MAX

if TYPE_CHECKING:
    from bursar.engine.ports import Queries  # a report must not pay for loading the engine

__all__ = ["Figures", "RouteFigures", "RouteReport", "RungFigures", "names_of_routes", "routes", "targets"]

_OF_ATTEMPTS: Final = ("model", "provider", "status", "kind")
_ROUTES_MAX: Final = 1_000
_TARGETS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a route or one of its rungs.

    ``calls`` ended here, ``attempts`` asked a provider here, of which ``errors`` failed and ``cancelled`` were given up: too late,
    slower than another one, or the client went away. Times are those of answers; None: none is known. ``causes``: why calls that
    ended here had left the first rung, most frequent first.
    """

    calls: int
    attempts: int
    errors: int
    cancelled: int
    unpriced: int
    estimated: int
    cost_nanousd: int | None
    avoided_nanousd: int | None
    p50_ms: float | None
    p95_ms: float | None
    causes: Mapping[str, int]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Figures:
        pairs = sorted(zip(row["causes"], row["cause_calls"], strict=True), key=lambda pair: (-pair[1], pair[0]))
        values: dict[str, Any] = {name: row[name] for name in cls.__slots__ if name != "causes"}
        for name in ("p50_ms", "p95_ms"):  # interpolated: the digits past a microsecond tell nothing
            values[name] = None if row[name] is None else round(row[name], 3)
        return cls(**values, causes=dict(pairs))

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        amounts = {"cost_usd": values.pop("cost_nanousd"), "avoided_usd": values.pop("avoided_nanousd")}
        return {**values, **{name: cost_text(amount) for name, amount in amounts.items()}, "causes": dict(self.causes)}


@dataclass(frozen=True, slots=True)
class RungFigures:
    """One rung. ``provider`` and ``model`` are what it asks, "" for the cache."""

    rung: str
    provider: str
    model: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class RouteFigures:
    """One route. ``asking_calls`` are those that asked a provider at all."""

    route: str
    asking_calls: int
    figures: Figures
    rungs: tuple[RungFigures, ...]

    @property
    def amplification(self) -> float | None:
        """Attempts for each call that asked a provider; None where none did."""
        return round(self.figures.attempts / self.asking_calls, 4) if self.asking_calls else None


@dataclass(frozen=True, slots=True)
class RouteReport:
    """Routes, those with most calls first. ``rung_count`` counts all rungs, also those past the limit; ``rolled_up_attempts`` what is
    in no figure because it was summed up without its route, answers from the cache included."""

    routes: tuple[RouteFigures, ...]
    rung_count: int
    rolled_up_attempts: int

    @property
    def more_rungs(self) -> int:
        return self.rung_count - sum(len(route.rungs) for route in self.routes)

    def to_json(self) -> dict[str, Any]:
        return {
            "routes": [
                {
                    "route": route.route,
                    "asking_calls": route.asking_calls,
                    "amplification": route.amplification,
                    **route.figures.to_json(),
                    "rungs": [_rung_json(route, rung) for rung in route.rungs],
                }
                for route in self.routes
            ],
            "more_rungs": self.more_rungs,
            "rolled_up_attempts": self.rolled_up_attempts,
        }


def _rung_json(route: RouteFigures, rung: RungFigures) -> dict[str, Any]:
    share = round(rung.figures.calls / route.figures.calls, 4) if route.figures.calls else None
    names = {"rung": rung.rung, "provider": rung.provider, "model": rung.model, "share": share}
    return names | rung.figures.to_json()


def routes(
    queries: Queries,
    *,
    route: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    where: Mapping[str, str] | None = None,
    limit: int = ROWS_MAX,
) -> RouteReport:
    """The routes (or the one of this name) of the calls in the time span that have the given column values.

    At most ``limit`` rungs, those with most calls. Raises BadQuestion, also for columns that differ within a call.
    """
    matching = _matching(since, until, where or {})
    sql = statement("routes", "routes", condition=matching.condition)
    most = max(1, min(limit, ROWS_MAX))
    rows = queries.rows(sql, {**matching.parameters, "route": route, "limit": _ROUTES_MAX + most})
    rungs: dict[str, list[tuple[int, RungFigures]]] = {row["route"]: [] for row in rows if row["is_route"]}
    for row in [row for row in rows if not row["is_route"]][:most]:
        figures = RungFigures(row["rung"], row["target_provider"], row["target_model"], Figures.of(row))
        # An answer from the cache that was looked up before anything else has no place: it is the first.
        rungs[row["route"]].append((row["place"] or 0, figures))
    found = tuple(
        RouteFigures(
            row["route"],
            row["asking_calls"],
            Figures.of(row),
            tuple(figures for _, figures in sorted(rungs[row["route"]], key=lambda pair: pair[0])),
        )
        for row in rows
        if row["is_route"]
    )
    (old,) = queries.rows(statement("routes", "rolled_up", condition=matching.condition), matching.parameters)
    return RouteReport(found, rows[0]["rung_count"] if rows else 0, old["attempts"])


def targets(
    queries: Queries,
    *,
    route: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    where: Mapping[str, str] | None = None,
) -> frozenset[tuple[str, str]]:
    """Provider and model of what the rungs of the same routes ask, also where they were passed over. Raises BadQuestion."""
    matching = _matching(since, until, where or {})
    sql = statement("routes", "targets", condition=matching.condition)
    rows = queries.rows(sql, {**matching.parameters, "route": route, "limit": _TARGETS_MAX})
    return frozenset((row["provider"], row["model"]) for row in rows)


def _matching(since: datetime | None, until: datetime | None, where: Mapping[str, str]) -> Filter:
    for name in where:
        if name in _OF_ATTEMPTS:
            raise BadQuestion("where", f"a call on a route may have several of {name}; filter by who it is for")
    return make_filter(since, until, where)


def names_of_routes(queries: Queries) -> tuple[str, ...]:
    """The routes that have calls in the ledger."""
    return tuple(row["route"] for row in queries.rows(statement("routes", "names"), {"limit": _ROUTES_MAX}))
