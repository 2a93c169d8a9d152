"""Counters for Prometheus. Labels come from closed sets only: a client cannot make new time series.

Rule 1: a call adds to plain integers; the exposition format is made when somebody asks for it. The client library's
        own counters lock at every step, which is a twentieth of the gateway's time per call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bursar.core.budgets import Standing
from bursar.core.caching import CacheUse
from bursar.core.ledger import Attempt
from bursar.core.money import NanoUSD, decimal_text

__all__ = ["Metrics"]

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class _Histogram:
    __slots__ = ("counts", "total_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.total_ms = 0.0

    def observe(self, ms: float) -> None:
        self.counts[bisect_left(_SECONDS, ms / 1000)] += 1
        self.total_ms += ms


class _ProviderCounts:
    """What one provider's attempts add up to."""

    __slots__ = ("cost", "estimated", "first_token", "input_tokens", "latency", "output_tokens", "status", "unpriced")

    def __init__(self) -> None:
        self.status: defaultdict[str, int] = defaultdict(int)
        self.cost = 0
        self.unpriced = 0
        self.estimated = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.latency = _Histogram()
        self.first_token = _Histogram()

    def add(self, attempt: Attempt) -> None:
        charge = attempt.charge
        self.status[attempt.status] += 1
        if charge.amount is None:
            self.unpriced += 1
        else:
            self.cost += max(charge.amount, 0)
        if charge.estimated:
            self.estimated += 1
        if charge.usage is not None:
            self.input_tokens += charge.usage.input_tokens
            self.output_tokens += charge.usage.output_tokens
        if attempt.latency_ms is not None:
            self.latency.observe(attempt.latency_ms)
        if attempt.first_token_ms is not None:
            self.first_token.observe(attempt.first_token_ms)


class Metrics(Collector):
    """One registry for one process."""

    def __init__(self) -> None:
        self._providers: defaultdict[str, _ProviderCounts] = defaultdict(_ProviderCounts)
        self._refused: defaultdict[str, int] = defaultdict(int)
        self._denied: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._routed: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._opened: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._avoided: defaultdict[str, int] = defaultdict(int)
        self.breakers: Callable[[], Iterable[tuple[str, str, str]]] = tuple
        self.route_attempts: Mapping[tuple[str, str], int] = {}
        self.lookups: Mapping[tuple[str, str], int] = {}
        self.cache_use: CacheUse | None = None
        self.config_errors = 0
        self.standings: Sequence[Standing] = ()
        self.deliveries: Mapping[tuple[str, str], int] = {}
        self.observations: Mapping[tuple[str, str], int] = {}
        self.verdicts: Mapping[str, int] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.running = Gauge("bursar_running_calls", "Calls under way.", registry=self.registry)
        self.books_pending = Gauge("bursar_books_pending", "Operations waiting for the books.", registry=self.registry)
        self.books_waiting = Gauge(
            "bursar_budget_waiting", "Calls that wait for money that others hold.", registry=self.registry
        )
        self.bound_breaches = Gauge(
            "bursar_input_bound_breaches", "Requests with more input tokens than their bound.", registry=self.registry
        )
        self.traces_backlog = Gauge(
            "bursar_telemetry_backlog", "Spans, records and points kept and not yet evaluated.", registry=self.registry
        )
        self.ledger_lag = Gauge(
            "bursar_ledger_lag_entries", "Endings in the books, not yet in the ledger.", registry=self.registry
        )

    def settled(self, provider: str, attempt: Attempt | None) -> None:
        counts = self._providers[provider]
        if attempt is None:
            counts.status["void"] += 1
        else:
            counts.add(attempt)

    def routed(self, route: str, rung: str, cause: str) -> None:
        """A call on a route ended on this rung; ``cause`` is why it left the first."""
        self._routed[route, rung, cause] += 1

    def opened(self, provider: str, model: str, cause: str) -> None:
        """A breaker opened."""
        self._opened[provider, model, cause] += 1

    def avoided(self, tier: str, cost: int | None) -> None:
        """A cached answer was given in the place of one that cost so much."""
        self._avoided[tier] += cost or 0

    def denied(self, budget: str, code: str) -> None:
        self._denied[budget, code] += 1

    def refused(self, code: str) -> None:
        self._refused[code] += 1

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        attempts = CounterMetricFamily("bursar_attempts", "Attempts that ended.", labels=["provider", "status"])
        cost = CounterMetricFamily("bursar_cost_usd", "Charged, in USD; the ledger is exact.", labels=["provider"])
        unpriced = CounterMetricFamily("bursar_unpriced_attempts", "Charge not known.", labels=["provider"])
        estimated = CounterMetricFamily("bursar_estimated_attempts", "Charged by estimate.", labels=["provider"])
        tokens = CounterMetricFamily(
            "bursar_tokens", "Tokens, inclusive of cached and reasoning.", labels=["provider", "direction"]
        )
        latency = HistogramMetricFamily("bursar_attempt_seconds", "Sending to last byte.", labels=["provider"])
        first = HistogramMetricFamily("bursar_first_token_seconds", "Sending to first byte.", labels=["provider"])
        for provider, counts in self._providers.items():
            for status, count in counts.status.items():
                attempts.add_metric([provider, status], count)
            cost.add_metric([provider], float(decimal_text(counts.cost)))
            unpriced.add_metric([provider], counts.unpriced)
            estimated.add_metric([provider], counts.estimated)
            tokens.add_metric([provider, "input"], counts.input_tokens)
            tokens.add_metric([provider, "output"], counts.output_tokens)
            for family, histogram in ((latency, counts.latency), (first, counts.first_token)):
                family.add_metric([provider], *_buckets(histogram))
        refused = CounterMetricFamily("bursar_refused_requests", "Answered by Bursar itself.", labels=["code"])
        for code, count in self._refused.items():
            refused.add_metric([code], count)
        denied = CounterMetricFamily("bursar_budget_denials", "Calls a budget refused.", labels=["budget", "code"])
        for (budget, code), count in self._denied.items():
            denied.add_metric([budget, code], count)
        yield denied
        yield from _budget_gauges(self.standings)
        deliveries = CounterMetricFamily(
            "bursar_alert_deliveries", "Notices sent, tried again or given up.", labels=["channel", "state"]
        )
        for (channel, state), count in self.deliveries.items():
            deliveries.add_metric([channel, state], count)
        yield deliveries
        taken = CounterMetricFamily(
            "bursar_telemetry_observations",
            "Spans, records and points taken or rejected.",
            labels=["signal", "outcome"],
        )
        for (signal, outcome), count in self.observations.items():
            taken.add_metric([signal, outcome], count)
        verdicts = CounterMetricFamily(
            "bursar_telemetry_charges", "Charged, linked to a nearer door's charge, retracted.", labels=["outcome"]
        )
        for outcome, count in self.verdicts.items():
            verdicts.add_metric([outcome], count)
        yield from (taken, verdicts)
        yield from self._routes()
        yield from self._cache()
        errors = CounterMetricFamily("bursar_config_errors", "Reloads refused because of an error in the file.")
        errors.add_metric([], self.config_errors)
        yield from (attempts, cost, unpriced, estimated, tokens, latency, first, refused, errors)

    def _routes(self) -> Iterator[Metric]:
        routed = CounterMetricFamily(
            "bursar_route_calls", "Calls on routes, by where they ended.", labels=["route", "rung", "cause"]
        )
        for labels, count in self._routed.items():
            routed.add_metric(labels, count)
        opened = CounterMetricFamily(
            "bursar_breaker_openings", "Times that a breaker opened.", labels=["provider", "model", "cause"]
        )
        for labels, count in self._opened.items():
            opened.add_metric(labels, count)
        states = GaugeMetricFamily(
            "bursar_breaker_state", "0 closed, 1 ready to be probed, 2 open.", labels=["provider", "model"]
        )
        worst: dict[tuple[str, str], int] = {}
        for provider, model, state in self.breakers():
            worst[provider, model] = max(worst.get((provider, model), 0), _STATES[state])
        for labels, state in worst.items():
            states.add_metric(labels, state)
        attempts = CounterMetricFamily(
            "bursar_route_attempts", "Attempts on routes: taken, retry, hedge, probe, panic.", labels=["route", "kind"]
        )
        for labels, count in self.route_attempts.items():
            attempts.add_metric(labels, count)
        yield from (routed, attempts, opened, states)

    def _cache(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            "bursar_cache_lookups",
            "Requests looked for in the cache: the tier that had it, or miss.",
            labels=["route", "outcome"],
        )
        for labels, count in self.lookups.items():
            lookups.add_metric(labels, count)
        avoided = CounterMetricFamily(
            "bursar_cache_avoided_usd", "What cached answers would have cost. Not part of any spend.", labels=["tier"]
        )
        for tier, amount in self._avoided.items():
            avoided.add_metric([tier], float(decimal_text(NanoUSD(amount))))
        yield from (lookups, avoided)
        if self.cache_use is not None:
            entries = GaugeMetricFamily("bursar_cache_entries", "Answers kept.")
            entries.add_metric([], self.cache_use.entries)
            size = GaugeMetricFamily("bursar_cache_bytes", "What they take up.")
            size.add_metric([], self.cache_use.bytes)
            evicted = CounterMetricFamily("bursar_cache_evictions", "Answers that went for want of room.")
            evicted.add_metric([], self.cache_use.evicted)
            yield from (entries, size, evicted)


_STATES: Final = {"closed": 0, "probe": 1, "open": 2}

_GAUGES: Final = (
    ("bursar_budget_limit_usd", "What a budget has in its current window."),
    ("bursar_budget_spent_usd", "Spent of it."),
    ("bursar_budget_held_usd", "Held of it for calls under way."),
    ("bursar_budget_utilization_ratio", "Spent of the limit, from 0 to 1 and beyond."),
)


def _budget_gauges(standings: Sequence[Standing]) -> Iterator[Metric]:
    """Budgets with one balance; those with one for each value would make a time series for each."""
    families = [GaugeMetricFamily(name, text, labels=["budget", "window"]) for name, text in _GAUGES]
    for standing in standings:
        labels = [standing.budget.name, standing.window.text]
        families[3].add_metric(labels, standing.share / 1_000)
        if standing.budget.unit == "usd":
            amounts = (standing.limit, standing.use.spent, standing.use.held)
            for family, amount in zip(families, amounts, strict=False):
                family.add_metric(labels, float(decimal_text(amount)))
    yield from families


def _buckets(histogram: _Histogram) -> tuple[list[tuple[str, float]], float]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, _SECONDS), "+Inf"), histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets, histogram.total_ms / 1000
