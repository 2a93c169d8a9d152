"""A small price book with round rates, and books that dedupe as the real ones do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.core.ledger import Attempt
from bursar.core.money import Rate
from bursar.core.prices import ModelPrices, PriceBook, PriceEntry, ProviderPrices


class MemoryBooks:
    """The books' promise to imports: a known attempt id changes nothing, the new ones are counted."""

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}

    def observe(self, attempts: Iterable[Attempt]) -> int:
        before = len(self.attempts)
        for attempt in attempts:
            self.attempts.setdefault(attempt.opening.attempt_id, attempt)
        return len(self.attempts) - before


def _model(name: str, **usd_per_million: str) -> ModelPrices:
    rates = {unit: ((0, Rate.of(Decimal(price), 1_000_000)),) for unit, price in usd_per_million.items()}
    return ModelPrices(name, "test", lambda text: text.startswith(name), (PriceEntry("", None, (), rates),))


@pytest.fixture
def book() -> PriceBook:
    """claude-test: 4 in, 0.4 read, 5 / 8 write, 20 out. gpt-test: 2 in, 0.2 read, 10 out. USD per million."""
    claude = _model(
        "claude-test",
        input_tokens="4",
        cache_read_tokens="0.4",
        cache_write_tokens="5",
        cache_write_5m_tokens="5",
        cache_write_1h_tokens="8",
        output_tokens="20",
    )
    gpt = _model("gpt-test", input_tokens="2", cache_read_tokens="0.2", output_tokens="10")
    layer = {"anthropic": ProviderPrices("anthropic", (claude,)), "openai": ProviderPrices("openai", (gpt,))}
    return PriceBook([layer], version="test")


@pytest.fixture
def books() -> MemoryBooks:
    return MemoryBooks()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSON lines to a path below the test's directory."""

    def write(name: str, rows: Iterable[dict[str, Any] | str], end: str = "\n") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text(text + end, encoding="utf-8")
        return path

    return write
