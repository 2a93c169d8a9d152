"""From an ask to a claim on the budgets, and from how a call ended to its charge: the same for every door that is live.

Rule 1: prices are those of the rulebook at the time the call began, whoever made the call and wherever it is priced.
"""

from __future__ import annotations

from dataclasses import replace

from bursar.core.admission import Claim
from bursar.core.call import Held, NeedsSettlement, Reply, attempt_of
from bursar.core.ledger import Opening, admitted_opening
from bursar.core.policy import estimate
from bursar.core.prices import Charge, charge
from bursar.core.tool_prices import ToolPrice, tool_estimate, tool_worst
from bursar.wire.dialect import RequestFacts

from .claims import Asking, Claims, decision
from .permits import Ask, Ended, time_of
from .rulebook import Rulebook

__all__ = [
    "asking_of",
    "claim_of",
    "decided_opening",
    "estimate_of",
    "opening_of",
    "price_reply",
    "settlement_of",
    "tool_price",
]


def estimate_of(rulebook: Rulebook, provider: str, path: str, facts: RequestFacts, started_us: int) -> Charge:
    """What a model call is booked at if it is never heard of again."""
    return estimate(
        rulebook.book,
        provider=rulebook.providers[provider].provider.price_id(path),
        model=facts.model,
        at=time_of(started_us),
        terms=facts.terms,
        input_tokens=facts.input_tokens_estimate,
        output_cap=0 if facts.operation == "embeddings" else facts.output_cap,
    )


def asking_of(
    rulebook: Rulebook, provider: str, path: str, facts: RequestFacts, started_us: int, *, can_cap: bool
) -> Asking:
    """A request as the budgets need to know it. ``can_cap`` is what its dialect says."""
    return Asking(
        facts=facts,
        price_id=rulebook.providers[provider].provider.price_id(path),
        at=time_of(started_us),
        # A dialect's path for something else (a rerank, an unknown body) takes no cap, unless it has one already.
        can_cap=can_cap and (facts.operation != "passthrough" or facts.output_cap is not None),
        machine_ms_max=rulebook.call_timeout_s * 1_000 if provider in rulebook.machine_priced else 0,
    )


def price_reply(rulebook: Rulebook, opening: Opening, reply: Reply, path: str) -> Charge:
    """The charge of a model call, at the prices of the moment it began."""
    reading = reply.reading
    provider = opening.provider
    if provider in rulebook.machine_priced and reading.usage is not None and reply.latency_ms is not None:
        reading = replace(reading, usage=reading.usage._replace(machine_ms=round(reply.latency_ms)))
    return charge(
        reading,
        rulebook.book,
        provider=rulebook.providers[provider].provider.price_id(path),
        model=opening.model,
        at=time_of(opening.started_us),
    )


def tool_price(rulebook: Rulebook, ask: Ask) -> ToolPrice | None:
    return rulebook.tools.find(ask.tool)


def opening_of(rulebook: Rulebook, ask: Ask) -> Opening:
    """The opening of an ask with its estimate and the decision."""
    opening = ask.opening
    if ask.facts is None:
        charge = tool_estimate(ask.tool, tool_price(rulebook, ask))
        if ask.fee is not None:
            charge = replace(charge, amount=ask.fee, reason=None, lines=())
        return admitted_opening(opening, model_sent="", estimate=charge, decision=opening.decision)
    charge = estimate_of(rulebook, opening.provider, ask.path, ask.facts, opening.started_us)
    text = decision(opening.provider, opening.model_asked)
    return admitted_opening(opening, model_sent="", estimate=charge, decision=text)


def decided_opening(ask: Ask) -> Opening:
    """The same without the estimate, which costs as much as a charge: for what has ended, or that nothing is held for."""
    opening = ask.opening
    if ask.facts is None:
        return opening
    text = decision(opening.provider, opening.model_asked)
    return admitted_opening(opening, model_sent="", estimate=opening.estimate, decision=text)


def claim_of(rulebook: Rulebook, claims: Claims, ask: Ask, opening: Opening) -> Claim | None:
    """What an ask claims of the budgets, None where none can look at it. ``opening`` is that of ``opening_of``."""
    if ask.facts is None:
        fee = ask.fee if ask.fee is not None else tool_worst(tool_price(rulebook, ask))
        claim = claims.claim_fee(rulebook, opening, fee, task=ask.task, final=ask.final)
    else:
        asking = asking_of(rulebook, opening.provider, ask.path, ask.facts, opening.started_us, can_cap=ask.can_cap)
        claim = claims.claim(rulebook, opening, asking, task=ask.task, final=ask.final)
    return claim if claim is None or ask.patient else replace(claim, patient=False)


def settlement_of(rulebook: Rulebook, ended: Ended, held: Held | None) -> NeedsSettlement:
    """The settlement of a call that ended: its attempt with its charge, or a void where it never left."""
    if ended.reply is None:
        return NeedsSettlement(ended.opening, None, held)
    charge = ended.charge
    if charge is None:
        charge = price_reply(rulebook, ended.opening, ended.reply, ended.ask.path)
    attempt = attempt_of(ended.opening, ended.reply, charge) if ended.reply.left else None
    if attempt is not None and ended.avoided is not None:
        attempt = replace(attempt, avoided=ended.avoided)
    return NeedsSettlement(ended.opening, attempt, held)
