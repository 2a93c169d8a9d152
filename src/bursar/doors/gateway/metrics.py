"""Counters for Prometheus. Labels come from closed sets only: a client cannot make new time series."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from bursar.core.ledger import Attempt
from bursar.core.money import NANO_PER_USD

__all__ = ["Metrics"]

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """One registry for one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # they would double the series for times nobody asks for
        self.registry = CollectorRegistry()
        made = self.registry
        self.calls_total = Counter("bursar_attempts", "Attempts that ended.", ["provider", "status"], registry=made)
        self.cost_total = Counter(
            "bursar_cost_usd", "Charged, in USD (the ledger is exact, this is not).", ["provider"], registry=made
        )
        self.unpriced_total = Counter(
            "bursar_unpriced_attempts", "Attempts whose charge is not known.", ["provider"], registry=made
        )
        self.estimated_total = Counter(
            "bursar_estimated_attempts", "Attempts charged by estimate.", ["provider"], registry=made
        )
        self.tokens_total = Counter(
            "bursar_tokens", "Tokens, inclusive of cached and reasoning.", ["provider", "direction"], registry=made
        )
        self.latency_seconds = Histogram(
            "bursar_attempt_seconds", "From sending to the last byte.", ["provider"], buckets=_SECONDS, registry=made
        )
        self.first_seconds = Histogram(
            "bursar_first_token_seconds",
            "From sending to the first byte of a stream.",
            ["provider"],
            buckets=_SECONDS,
            registry=made,
        )
        self._refused = Counter(
            "bursar_refused_requests", "Requests answered by Bursar itself.", ["code"], registry=made
        )
        self.running = Gauge("bursar_running_calls", "Calls under way.", registry=made)
        self.books_pending = Gauge("bursar_books_pending", "Operations waiting for the books.", registry=made)
        self.ledger_lag = Gauge(
            "bursar_ledger_lag_entries", "Endings in the books that are not in the ledger yet.", registry=made
        )
        self.config_errors = Counter(
            "bursar_config_errors", "Reloads refused because of an error in the file.", registry=made
        )
        self._of = lru_cache(maxsize=512)(self._children)

    def settled(self, provider: str, attempt: Attempt | None) -> None:
        if attempt is None:
            self.calls_total.labels(provider, "void").inc()
            return
        children = self._of(provider, attempt.status)
        children.calls.inc()
        charge = attempt.charge
        if charge.amount is None:
            children.unpriced.inc()
        else:
            children.cost.inc(max(charge.amount, 0) / NANO_PER_USD)
        if charge.estimated:
            children.estimated.inc()
        if charge.usage is not None:
            children.input.inc(charge.usage.input_tokens)
            children.output.inc(charge.usage.output_tokens)
        if attempt.latency_ms is not None:
            children.latency.observe(attempt.latency_ms / 1000)
        if attempt.first_token_ms is not None:
            children.first.observe(attempt.first_token_ms / 1000)

    def cancelled(self, provider: str) -> None:
        self.calls_total.labels(provider, "cancelled").inc()

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _children(self, provider: str, status: str) -> _Children:
        return _Children(self, provider, status)


class _Children:
    """The time series of one provider and status, looked up once."""

    __slots__ = ("calls", "cost", "estimated", "first", "input", "latency", "output", "unpriced")

    def __init__(self, metrics: Metrics, provider: str, status: str) -> None:
        self.calls = metrics.calls_total.labels(provider, status)
        self.cost = metrics.cost_total.labels(provider)
        self.unpriced = metrics.unpriced_total.labels(provider)
        self.estimated = metrics.estimated_total.labels(provider)
        self.input = metrics.tokens_total.labels(provider, "input")
        self.output = metrics.tokens_total.labels(provider, "output")
        self.latency = metrics.latency_seconds.labels(provider)
        self.first = metrics.first_seconds.labels(provider)
