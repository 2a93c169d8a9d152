"""Similar answers on a stream of real questions to a bank, where another intent is a wrong answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import pytest
from semantic_stream import DATA, Bank, Table, plain_cosine, stream

import bursar.learn.semantic as semantic
from bursar.adapters.embedders import LocalEmbedder
from bursar.core.errors import ConfigError
from bursar.learn.ngrams import hashed_ngrams
from minilm import minilm

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="the questions are not part of this project: ../shared/data/banking77"
)

BOUNDS = (0.01, 0.02, 0.05)
IN_BOUND_LEAST = 0.95


@cache
def bank() -> Bank:
    return Bank()


@cache
def table(embed: Callable[[Sequence[str]], Any]) -> Table:
    return Table(embed(bank().texts))


@cache
def local() -> Callable[[Sequence[str]], Any]:
    try:
        return LocalEmbedder(minilm())._encoder.encode
    except ConfigError as error:
        pytest.skip(f"the local model is an optional part: {error}")


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same questions come in every stream: they are read once for all of them."""
    monkeypatch.setattr(semantic, "signature", bank().signature)


class Measured(NamedTuple):
    """Shares: of orders within the bound, of questions served, of the last quarter served, of what was served false."""

    within: float
    served: float
    late: float
    false_share: float


def measure(
    name: str, embed: Callable[[Sequence[str]], Any], bounds: Sequence[float], resamples: int
) -> list[Measured]:
    """For every bound, printed beside plain cosine."""
    for threshold in (0.8, 0.9, 0.95):
        plain = plain_cosine(bank(), table(embed), threshold=threshold, seed=0)
        print(
            f"{name}: cosine {threshold}: {plain.served / plain.asked:.1%} served, {plain.false_share:.2%} of it false"
        )
    results: list[Measured] = []
    for errors in bounds:
        found = [stream(bank(), table(embed), errors=errors, seed=seed) for seed in range(resamples)]
        within = sum(each.false <= errors * each.served for each in found) / resamples
        asked, served = sum(each.asked for each in found), sum(each.served for each in found)
        late = sum(each.served_late for each in found) / asked * 4
        false = sum(each.false for each in found) / max(1, served)
        print(
            f"{name}: bound {errors}: {served / asked:.1%} served ({late:.1%} late), {false:.2%} of it false, {within:.1%} in bound"
        )
        results.append(Measured(within, served / asked, late, false))
    return results


@pytest.mark.timeout(300)
def test_false_hits_stay_within_the_bound() -> None:
    """With hashed n-grams, at 5 %, questions are served in every order, more of them later on, and few enough of them wrongly."""
    ((within, served, late, _),) = measure("ngrams", hashed_ngrams, (0.05,), 2)
    assert within == 1.0
    assert served > 0.02
    assert late > served


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sentence_model_serves_more() -> None:
    """With the local model more is served within the same bound."""
    ((within, served, _, _),) = measure("local", local(), (0.05,), 1)
    assert within == 1.0
    assert served > 0.05


@pytest.mark.long
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", ["ngrams", "local"])
def test_the_bound_holds_in_two_hundred_orders(name: str) -> None:
    """For both embedders: at 2 % and 5 % false hits among hits are within the bound in at least 95 % of 200 orders. At 1 % an order
    ends soon after the first hit, and one false among thirty is more than 1 %: over all orders they are within the bound."""
    embed = hashed_ngrams if name == "ngrams" else local()
    tight, *others = measure(name, embed, BOUNDS, 200)
    assert all(each.within >= IN_BOUND_LEAST for each in others)
    assert tight.false_share <= BOUNDS[0]
