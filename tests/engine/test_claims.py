"""What is offered to the budgets is never less than what the request, as it is sent, can cost."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from bursar.adapters.prices_file import bundled_book
from bursar.core.admission import Offer
from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.scopes import Scope
from bursar.engine.claims import Asking, Claims
from bursar.engine.rulebook import Rulebook
from bursar.learn.sizes import Sizes
from bursar.wire.dialect import RequestFacts
from making import an_opening

RULEBOOK = Rulebook({}, bundled_book(), require_keys=False, body_bytes_max=1, concurrency_max=1)
NOW = datetime.now(timezone.utc)


def offered(changes: Changes, *, can_cap: bool, **facts: Any) -> Offer:
    request = RequestFacts("passthrough", "gpt-4o", text_bytes=400, output_cap=9_000, **facts)
    opening = an_opening(model_asked="gpt-4o", scope=Scope(task="t"))
    asking = Asking(request, "openai", NOW, can_cap=can_cap)
    claim = Claims(Sizes()).claim(RULEBOOK, opening, asking, task=None, final=False)
    assert claim is not None
    return claim.offer(changes)


@pytest.mark.parametrize("changes", [Changes(output_cap=10), Changes(model="gpt-4o-mini")], ids=["cap", "model"])
def test_what_cannot_be_written_is_not_counted_on(changes: Changes) -> None:
    """A body that takes no cap is held at its own length and model, whatever a rung says, and sent as it came."""
    plain, lowered = offered(UNCHANGED, can_cap=False), offered(changes, can_cap=False)
    assert (lowered.input, lowered.output, lowered.output_tokens) == (plain.input, plain.output, plain.output_tokens)
    assert lowered.changes == UNCHANGED
    written = offered(changes, can_cap=True)
    assert written.cost(written.output_tokens) < plain.cost(plain.output_tokens)


def test_a_cheaper_tier_is_held_at_the_price_without_it() -> None:
    """Where a dialect has no tier to write, the call costs what it would have cost: that is what is held."""
    plain, flex = offered(UNCHANGED, can_cap=True), offered(Changes(tier="flex"), can_cap=True)
    assert (flex.input, flex.output) == (plain.input, plain.output)
