"""Recorded answers of real providers, and an independent price for some of them.

The data is not part of the project: it is looked for beside it, and without it these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from bursar import Charge, charge_response
from bursar.core.money import nano_usd
from bursar.wire.providers import provider

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data") / "wire"
AT = "2025-11-06T12:00Z"

pytestmark = pytest.mark.skipif(
    not (DATA / "interactions.jsonl.gz").exists(), reason=f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA"
)

# Explained in docs/pricing-differences.md.
WE_DIFFER = {
    "pydantic-ai-00492": "an advisor of another model is billed beside the top-level usage",
    "pydantic-ai-01715": "thoughts that only total_tokens holds",
    "pydantic-ai-01716": "thoughts that only total_tokens holds",
}
# Usage, but no price: self-hosted, not in the price book, or hidden behind a name of the user's own.
UNPRICED_HOSTS = {
    "myorg-myaccount.snowflakecomputing.com", "localhost:8787", "localhost:11434", "ollama.com",
    "us.inference.heroku.com", "api.inference.crusoecloud.com",
}  # fmt: skip


@lru_cache(maxsize=1)
def recorded() -> dict[str, dict[str, Any]]:
    """The interactions whose answer holds a usage object, by id."""
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        return {row["id"]: row for row in map(json.loads, lines) if row["usage"]}


def body_of(row: dict[str, Any]) -> Any:
    """The answer in the form it was recorded in."""
    return next(row[key] for key in ("response", "response_text", "response_events") if row[key] is not None)


def charged(row: dict[str, Any], model: str | None = None) -> Charge:
    """The charge of an interaction, found by its URL."""
    return charge_response(row["url"], body_of(row), at=AT, model=model)


def golden() -> Iterator[dict[str, Any]]:
    """The rows with an independently computed price."""
    with (DATA / "golden_prices.jsonl").open() as lines:
        yield from map(json.loads, lines)


def test_every_recorded_usage_is_read() -> None:
    """930 answers, 76 of them streams: all are understood but one, which states no count; cuts are estimated."""
    unread: list[str] = []
    estimated: list[str] = []
    for row in recorded().values():
        charge = charged(row)
        if charge.usage is None:
            unread.append(row["id"])
        if charge.estimated:
            estimated.append(row["id"])
            assert row["stream"] or row["response_text"]
    assert len(recorded()) == 930
    # A prompt that was blocked: usageMetadata says {"trafficType": "ON_DEMAND"} and nothing else.
    assert [recorded()[each]["host"] for each in unread] == ["europe-west4-aiplatform.googleapis.com"]
    assert len(estimated) <= 4


def test_the_counts_are_those_that_were_recorded() -> None:
    """Input and output of every whole answer are the stated ones, by each dialect's own convention."""
    for row in recorded().values():
        usage = charged(row).usage
        path, stated = row["usage"][0]
        if row["response"] is None or usage is None or len(row["usage"]) > 1 or path != ".usage":
            continue
        if "prompt_tokens" in stated and "completion_tokens" in stated and "googleapis" not in row["host"]:
            assert (usage.input_tokens, usage.output_tokens) == (stated["prompt_tokens"], stated["completion_tokens"])
        elif "inputTokens" in stated:
            cached = stated.get("cacheReadInputTokens", 0) + stated.get("cacheWriteInputTokens", 0)
            assert (usage.input_tokens, usage.output_tokens) == (stated["inputTokens"] + cached, stated["outputTokens"])
        elif "cache_read_input_tokens" in stated and len(stated.get("iterations") or ()) <= 1:
            cached = stated["cache_read_input_tokens"] + stated["cache_creation_input_tokens"]
            assert (usage.input_tokens, usage.output_tokens) == (
                stated["input_tokens"] + cached,
                stated["output_tokens"],
            )


def test_nothing_with_units_costs_nothing() -> None:
    """An amount of 0 needs an answer without units, or a free model whose price rows say 0. The rest says why not."""
    for row in recorded().values():
        charge = charged(row, row["req_model"])
        if charge.amount is None:
            assert charge.reason
        elif charge.amount == 0:
            assert charge.usage is not None
            assert not charge.usage.counts() or (":free" in charge.model and charge.lines)


def test_known_models_of_known_providers_are_priced() -> None:
    """At least 965 of 1,000 recorded answers have a price; the hosts without any are those without a price list."""
    priced = unpriced = 0
    for row in recorded().values():
        charge = charged(row, row["req_model"])
        if charge.amount is not None:
            priced += 1
            assert row["host"] not in UNPRICED_HOSTS
        else:
            unpriced += 1
    assert priced / (priced + unpriced) >= 0.965


def token_lines(charge: Charge) -> int:
    """The cost of the tokens, without searches, requests and what the provider reported."""
    return sum(line.cost for line in charge.lines if line.unit.endswith("_tokens"))


def test_prices_agree_with_an_independent_computation() -> None:
    """Within 5 nano-dollars on at least 99.5 % of the golden rows; we know every one on which we differ.

    76 rows price a chat completion a second time as if it were an embedding, by its input alone. They are read the same
    way here; the same answers stand in the file as chat completions too, and are compared as those.
    """
    agreed = total = twins = 0
    differ: set[str] = set()
    for row in golden():
        source = recorded()[row["interaction_id"]]
        url = source["url"]
        found = provider(url)
        assert found is not None
        if row["api_flavor"] == "embeddings" and found.dialect(source["path"]).id != "openai_embeddings":
            assert "output_tokens" not in row["normalized_usage"]
            twins += 1
            url = f"https://{source['host']}/v1/embeddings"
        charge = charge_response(url, body_of(source), at=AT, model=row["model"])
        expected = nano_usd(Decimal(row["expected_input_price"]) + Decimal(row["expected_output_price"]))
        ours = token_lines(charge)
        total += 1
        if abs(ours - expected) <= 5:
            agreed += 1
        else:
            differ.add(row["interaction_id"])
    assert (total, twins) == (676, 76)
    assert differ == set(WE_DIFFER)
    assert agreed / total >= 0.995
    explained = (Path(__file__).parents[2] / "docs" / "pricing-differences.md").read_text()
    assert all(each in explained for each in WE_DIFFER)
