"""What a call asks of its budgets: the request's bounds, priced, for every way the ladder may change it.

Rule 1: pure but for what is learned: the same request under the same rulebook and sizes makes the same offers.
Rule 2: nothing is priced before a budget looks at the call: without budgets a call costs no more than before.
Rule 3: what is learned comes from answers that ended by themselves, and from requests that are nothing but text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Final

import msgspec

from bursar.core.admission import Admitted, Claim, Offer
from bursar.core.budgets import Budget, TaskLimit
from bursar.core.ladder import UNCHANGED, Changes
from bursar.core.ledger import Attempt, Opening, admitted_opening
from bursar.core.money import NanoUSD, Rate
from bursar.core.policy import (
    OUTPUT_TOKENS_ASSUMED,
    OUTPUT_TOKENS_MAX,
    SEARCHES_ASSUMED,
    Bounds,
    estimate,
    worst_case,
)
from bursar.core.scopes import Scope
from bursar.core.values import valueclass
from bursar.learn.sizes import Sizes
from bursar.wire.dialect import RequestFacts

from .rulebook import Rulebook

__all__ = ["KIND_LABEL", "Asking", "Claims", "decision", "observed_claim", "thread_of"]

KIND_LABEL: Final = "kind"
"""The label that says what kind of task a call is for: calls of one kind have answers of like length."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_CONTEXT_TOKENS_ASSUMED: Final = 200_000
_IMAGE_TOKENS_MAX: Final = 16_384
"""Output tokens of one picture: the dearest of gpt-image-1 has 6,240 (OpenAI, image generation guide); newer ones larger."""
_SEARCH_TOKENS: Final = 10_000
"""What one search of the provider's own may add to the input: some ten results of a page each."""
_LONG_CACHE: Final = "cache_write_1h_tokens"
_CACHE_SHORT_S: Final = 240  # of five minutes, and of an hour: what is nearly over is not counted on
_CACHE_LONG_S: Final = 3_000


@valueclass
class Asking:
    """A request as the budgets need to know it. ``price_id`` is the provider's name in the price book; ``can_cap`` says
    whether a cap on the output can be sent; ``machine_ms_max`` is not 0 where a machine's time is what is paid."""

    facts: RequestFacts
    price_id: str
    at: datetime
    can_cap: bool
    machine_ms_max: int = 0


class Claims:
    """Makes claims and learns from what became of them. One per process."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes

    @property
    def breaches(self) -> int:
        """How many requests had more input tokens than their bound."""
        return self._sizes.breaches

    def claim(
        self, rulebook: Rulebook, opening: Opening, asking: Asking, *, task: TaskLimit | None, final: bool
    ) -> Claim | None:
        """None where no budget can look at the call."""
        scope = opening.scope
        budgets = tuple([budget for budget in rulebook.budgets if budget.covers(scope)]) if rulebook.budgets else ()
        if not budgets and not scope.task:
            return None
        return Claim(
            budgets=budgets,
            scope=scope,
            at_us=opening.started_us,
            offer=partial(self._offer, rulebook, opening, asking),
            opened=partial(_opened, rulebook, opening, asking),
            model=opening.model,
            stream=opening.stream,
            final=final,
            task=task,
            long_cache=_LONG_CACHE in asking.facts.writes_cache,
        )

    def claim_fee(
        self, rulebook: Rulebook, opening: Opening, fee: NanoUSD | None, *, task: TaskLimit | None, final: bool
    ) -> Claim | None:
        """The claim of a tool call that costs ``fee`` at most (None: nobody knows). None where no budget can look at it."""
        scope = opening.scope
        budgets = tuple([budget for budget in rulebook.budgets if budget.covers(scope)]) if rulebook.budgets else ()
        if not budgets and not scope.task:
            return None
        offer = Offer(UNCHANGED, fee, 0, Rate(0, 1), 0, 0, clampable=False)
        return Claim(
            budgets=budgets,
            scope=scope,
            at_us=opening.started_us,
            offer=lambda _changes: offer,
            opened=lambda _admitted: opening,
            model=opening.model,
            final=final,
            task=task,
        )

    def learn(self, attempt: Attempt, facts: RequestFacts) -> None:
        """Take in how an attempt ended."""
        usage = attempt.charge.usage
        if attempt.status != "ok" or usage is None or attempt.charge.estimated:
            return
        model = attempt.opening.model
        if usage.output_tokens and attempt.finish not in _CUT_SHORT:
            self._sizes.saw_output(_tag(attempt.opening.scope), model, usage.output_tokens // facts.choices)
        if usage.input_tokens and not (facts.media_tokens or facts.unseen_input):
            keeps_s = _CACHE_LONG_S if usage.cache_write_1h_tokens else _CACHE_SHORT_S
            self._sizes.saw_input(
                model,
                facts.text_bytes,
                usage.input_tokens,
                thread_of(attempt.opening.scope),
                cached_tokens=usage.cache_read_tokens + usage.cache_write_tokens,
                cached_until_us=attempt.opening.started_us + keeps_s * 1_000_000,
            )

    def _offer(self, rulebook: Rulebook, opening: Opening, asking: Asking, changes: Changes) -> Offer:
        facts = asking.facts
        if not asking.can_cap:  # the body is none that these can be written into: it must not be held as if they were
            changes = replace(changes, model="", output_cap=None)
        model = changes.model or opening.model
        bounds = self._bounds(rulebook, asking, model, changes, opening)
        # At the terms that the request came with: not every dialect has a tier to write, and a cheaper one settles lower.
        worst = worst_case(
            rulebook.book,
            provider=asking.price_id,
            model=model,
            at=asking.at,
            terms=facts.terms,
            bounds=bounds,
        )
        return Offer(
            changes,
            worst.input,
            bounds.input_tokens,
            worst.output,
            bounds.output_tokens,
            self._sizes.likely_tokens(_tag(opening.scope), model),
            asking.can_cap,
            bounds.choices,
            worst.likely_input,
        )

    def _bounds(self, rulebook: Rulebook, asking: Asking, model: str, changes: Changes, opening: Opening) -> Bounds:
        facts = asking.facts
        thread = thread_of(opening.scope)
        searches = SEARCHES_ASSUMED if facts.searches_max is None else facts.searches_max
        tokens = self._sizes.input_tokens_max(model, facts.text_bytes) + searches * _SEARCH_TOKENS
        output = 0 if facts.operation == "embeddings" else facts.output_cap
        if output is None and facts.operation == "passthrough" and "image" in facts.modalities:
            output = _IMAGE_TOKENS_MAX
        if facts.media_tokens or facts.unseen_input or output is None:
            prices = rulebook.book.find(asking.price_id, model) if model else None
            context = prices.context_window if prices else None
            tokens += min(facts.media_tokens, context or facts.media_tokens)
            if facts.unseen_input:
                tokens = max(tokens, context or _CONTEXT_TOKENS_ASSUMED)
            if output is None:
                output = min(OUTPUT_TOKENS_MAX, context or OUTPUT_TOKENS_MAX)
        if changes.output_cap is not None:
            output = min(output, changes.output_cap)
        writes = facts.writes_cache
        if changes.short_cache:
            writes = tuple(unit for unit in writes if unit != _LONG_CACHE)
        return Bounds(
            tokens,
            output,
            facts.choices,
            writes,
            facts.modalities,
            searches,
            asking.machine_ms_max,
            self._sizes.cached_tokens(model, facts.text_bytes, thread, opening.started_us) if thread else 0,
        )


_CUT_SHORT: Final = frozenset({"length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "incomplete"})


def _tag(scope: Scope) -> str:
    return (dict(scope.labels).get(KIND_LABEL) if scope.labels else None) or scope.agent


def thread_of(scope: Scope) -> str:
    """Whose requests follow each other: an agent in a session, or its task."""
    where = scope.session or scope.task
    return f"{where}/{scope.task}/{scope.agent}" if where else ""


def _opened(rulebook: Rulebook, opening: Opening, asking: Asking, admitted: Admitted) -> Opening:
    """The attempt as it was admitted: what is sent, what it is expected to cost, and why it is so."""
    changes = admitted.offer.changes
    if not (admitted.rungs or admitted.extend or admitted.output_cap is not None):
        return opening  # it goes as it came: nothing was decided that the opening does not say
    model = changes.model or opening.model
    charge = opening.estimate
    if changes.names or admitted.extend or admitted.output_cap is not None:
        cap = min(admitted.output_tokens, OUTPUT_TOKENS_ASSUMED)
        charge = estimate(
            rulebook.book, provider=asking.price_id, model=model, at=asking.at,
            terms=asking.facts.terms, input_tokens=asking.facts.input_tokens_estimate, output_cap=cap,
        )  # fmt: skip
    text = _with_budget(opening, model, admitted)
    return admitted_opening(opening, model_sent=changes.model or opening.model_sent, estimate=charge, decision=text)


def _with_budget(opening: Opening, model: str, admitted: Admitted) -> str:
    """The decision of an attempt, with what a budget made of it."""
    if admitted.tightest is None:
        return opening.decision
    budget: dict[str, Any] = {
        "name": admitted.tightest.budget.name,
        "subject": admitted.tightest.subject,
        "window": admitted.tightest.window.text,
        "share": admitted.share,
        "unit": admitted.tightest.budget.unit,
        "left": admitted.left,
        "held_nanousd": admitted.amount,
        "worst_output_tokens": admitted.offer.output_tokens,
        "held_output_tokens": admitted.output_tokens,
    }
    if admitted.output_cap is not None:
        budget["output_cap"] = admitted.output_cap
    if admitted.rungs:
        budget["changed"] = admitted.rungs
    found = _decode(opening.decision)
    if model != opening.model:
        budget["model"] = model
        if "route" not in found:
            found["rung"] = "cheaper"
            found["candidates"] = [{"provider": opening.provider, "model": model}]
    if admitted.rungs:
        found["why"] = f"budget {admitted.tightest.budget.name}"
    found["budget"] = budget
    return _encode(found).decode()


@lru_cache(maxsize=4096)
def decision(provider: str, model: str) -> str:
    """The stored reason for what was sent where no route chose, as JSON: there is one candidate, the model asked for."""
    found = {"rung": "primary", "why": "asked", "candidates": [{"provider": provider, "model": model}]}
    return _encode(found).decode()


def observed_claim(in_force: Sequence[Budget], attempt: Attempt) -> Claim | None:
    """The budgets that what already happened counts toward. It is never refused, so nothing is offered."""
    scope = attempt.opening.scope
    budgets = tuple(budget for budget in in_force if budget.covers(scope))
    if not budgets:
        return None
    return Claim(
        budgets, scope, attempt.opening.started_us, _no_offer, _no_opening, attempt.opening.model,
    )  # fmt: skip


def _no_offer(_changes: Changes) -> Offer:
    raise AssertionError("what already happened is not offered")


def _no_opening(_admitted: Admitted) -> Opening:
    raise AssertionError("what already happened is not admitted")
