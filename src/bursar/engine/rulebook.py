"""The configuration in force, immutable. A change is a new rulebook, swapped whole; a call keeps the one it began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bursar.core.budgets import Budget
from bursar.core.prices import PriceBook, Terms
from bursar.core.routes import Routes
from bursar.core.tool_prices import ToolPrices
from bursar.wire.providers import Provider

__all__ = ["ProviderRule", "Rulebook"]

NO_TOOL_PRICES: Final = ToolPrices()
NO_ROUTES: Final = Routes()


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """One provider as this installation uses it: where it is, our own key for it (never in a repr), and the terms that
    calling that host agrees to."""

    provider: Provider
    base_url: str
    key: str | None = field(default=None, repr=False)
    terms: Terms = ()


@dataclass(frozen=True, slots=True)
class Rulebook:
    """What the gateway goes by. ``machine_priced`` are the providers whose price is by the hour of a machine."""

    providers: Mapping[str, ProviderRule]
    book: PriceBook
    require_keys: bool
    body_bytes_max: int
    concurrency_max: int
    body_timeout_s: int = 60
    machine_priced: frozenset[str] = frozenset()
    budgets: tuple[Budget, ...] = ()
    call_timeout_s: int = 1_800
    tools: ToolPrices = NO_TOOL_PRICES
    routes: Routes = NO_ROUTES
