"""Whether a call may be held under all its budgets, and how.

Rule 1: ``spent + held <= limit`` for every enforced budget, window and task, by construction: what is held is the most the
        call can cost, and the request that leaves cannot cost more (``Offer``).
Rule 2: a call is admitted under all its budgets or none; what it takes is the same amount in each.
Rule 3: what is held by others is not spent: where a call would fit if they gave back what they will not need, it is
        *crowded*, and may wait; it is *denied* only when no release can help, or when it has waited long enough.
Rule 4: nothing here does I/O. The books hand in totals as of one moment and do what the outcome says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Literal, NamedTuple, TypeAlias

from .budgets import (
    FLOOR_TOKENS,
    TASK_DEPTH_MAX,
    TASK_RULES,
    Budget,
    Check,
    TaskLimit,
    TotalsOf,
    Unit,
    check_of,
    scope_value,
    task_budget,
    thousandths,
    use_of,
)
from .ladder import UNCHANGED, Changes, Rung, changes_of
from .ledger import Opening
from .money import NanoUSD, Rate
from .scopes import Scope
from .values import valueclass

__all__ = [
    "Admission",
    "Admitted",
    "Claim",
    "Crowded",
    "Denied",
    "Offer",
    "Refusal",
    "admit",
    "checks_of",
    "more",
    "posted",
    "too_deep",
]


@valueclass
class Offer:
    """One way to make a call, and the most it can cost.

    ``input`` is its input at the dearest price it could land at, None where it has no price; ``likely_input`` the same where
    its prompt cache holds what it held a moment ago. ``output`` is nano-USD for
    one output token of every choice together, ``output_tokens`` the most that the request allows of them, ``likely`` how
    many nearly every answer of its kind has needed. ``clampable`` says whether a smaller cap can be sent.
    """

    changes: Changes
    input: NanoUSD | None
    input_tokens: int
    output: Rate
    output_tokens: int
    likely: int
    clampable: bool
    choices: int = 1
    likely_input: NanoUSD | None = None

    def cost(self, tokens: int) -> int:
        """The most it costs with an answer of ``tokens`` output tokens (of each choice), rounded up."""
        assert self.input is not None
        return self.input - (-self.output.numerator * tokens // self.output.denominator)

    def tokens(self, output_tokens: int) -> int:
        """All tokens with such an answer."""
        return self.input_tokens + output_tokens * self.choices

    def affordable(self, amount: int) -> int:
        """The most output tokens that an amount pays for; negative when it does not pay for the input."""
        assert self.input is not None
        left = amount - self.input
        if left < 0:
            return -1
        if not self.output.numerator:
            return self.output_tokens
        return min(self.output_tokens, left * self.output.denominator // self.output.numerator)


@valueclass
class Claim:
    """What one attempt asks of the budgets. ``offer`` makes the offer for given changes, ``opened`` the attempt's opening
    as admitted; ``final`` is what a task says of its last call; ``task`` is where this call says its task stands and what
    limit it opens for it; ``patient`` whether it may still wait; ``long_cache`` whether it writes a prompt cache for long."""

    budgets: tuple[Budget, ...]
    scope: Scope
    at_us: int
    offer: Callable[[Changes], Offer]
    opened: Callable[[Admitted], Opening]
    model: str
    stream: bool = False
    final: bool = False
    task: TaskLimit | None = None
    patient: bool = True
    long_cache: bool = False


@valueclass
class Refusal:
    """Why a call may not be made, with all its figures in the budget's unit. ``resets_us`` None: not by itself.

    ``code``: budget_exceeded, budget_held (others hold what it needs), unpriced, cached_only, approval_required; too_deep
    is a task whose place in the tree cannot be kept, ``needed`` its level and ``limit`` the deepest.
    """

    code: Literal["budget_exceeded", "budget_held", "unpriced", "cached_only", "approval_required", "too_deep"]
    budget: str
    subject: str
    window: str
    unit: Unit
    limit: int
    spent: int
    held: int
    needed: int | None
    resets_us: int | None
    approval: str = ""
    kept: int = 0


@valueclass
class Admitted:
    """The offer that is taken. ``amount`` is the money to hold (None: unpriced), ``tokens`` all tokens to hold.

    ``output_cap`` is the smaller cap that must be sent, None where the request's own stands. ``extend`` is True where the
    hold covers only ``output_tokens`` of a stream, which must ask for more before it goes on. ``tightest`` is the check
    with the least left, ``left`` what it has left after this hold; None where no budget is enforced. ``share`` is the
    largest share used before this hold, in thousandths. ``final`` is what the claim says.
    """

    offer: Offer
    amount: NanoUSD | None
    tokens: int
    output_tokens: int
    output_cap: int | None = None
    extend: bool = False
    rungs: tuple[str, ...] = ()
    tightest: Check | None = None
    left: int | None = None
    share: int = 0
    final: bool = False


@valueclass
class Crowded:
    """It would fit if others gave back what they will not need. ``account`` is where that must happen."""

    account: str
    refusal: Refusal


@valueclass
class Denied:
    refusal: Refusal


Admission: TypeAlias = Admitted | Crowded | Denied


# --- what a call falls under ------------------------------------------------------------------------------------


def checks_of(claim: Claim, chain: Sequence[TaskLimit], at_us: int) -> tuple[Check, ...]:
    """Every window of every budget that this call falls under at a moment. ``chain`` is its task and those above it."""
    checks: list[Check] = []
    for budget in claim.budgets:
        if budget.each == "task":
            subjects = tuple(task.task for task in chain)
        else:
            subjects = (scope_value(claim.scope, budget.each) if budget.each else "",)
        checks += [check_of(budget, i, subject, at_us) for subject in subjects for i in range(len(budget.limits))]
    rules = next((budget for budget in claim.budgets if budget.name == TASK_RULES.name), TASK_RULES)
    checks.extend(task_budget(task, rules) for task in chain if task.limit is not None)
    return tuple(checks)


def posted(claim: Claim, chain: Sequence[TaskLimit], checks: Iterable[Check]) -> tuple[str, ...]:
    """The accounts that the call is entered in: everything, its task and those above it, and its budgets'."""
    names = ["all"]
    if chain:
        names += [f"task:{task.task}" for task in chain]
    elif claim.scope.task:
        names.append(f"task:{claim.scope.task}")
    names += [check.posted for check in checks]
    return tuple(dict.fromkeys(names))


# --- admission --------------------------------------------------------------------------------------------------


class _Case(NamedTuple):
    """An enforced check with what is used of it; ``left`` is what a hold may take, ``share`` what is used in thousandths."""

    check: Check
    spent: int
    held: int
    limit: int
    left: int
    share: int

    @property
    def free(self) -> int:
        """What would be left if everybody gave back all they hold."""
        return self.limit - self.spent


class _Demand(NamedTuple):
    """What an offer takes with an answer of some length: nano-USD, assumed where it has no price, and tokens."""

    amount: int
    tokens: int
    priced: bool


def _case(check: Check, totals: TotalsOf, final: bool) -> _Case:
    spent, held = use_of(check, totals)
    whole = check.limit
    limit = whole if final else whole - check.kept
    used = spent + held
    return _Case(check, spent, held, limit, limit - used, used * 1000 // whole if whole > 0 else 1000)


def admit(claim: Claim, checks: Sequence[Check], totals: TotalsOf, approved: Callable[[str], bool]) -> Admission:
    """Whether, and how, the attempt may be made. ``approved`` tells of an approval id whether somebody granted it."""
    cases = [_case(check, totals, claim.final) for check in checks if check.budget.enforce]
    active = [
        rung for case in cases if case.check.budget.ladder for rung in case.check.budget.ladder if rung.at <= case.share
    ]
    stopped = _stopped(claim, cases, approved) if active else None
    if stopped is not None:
        return Denied(stopped)
    offers = [claim.offer(changes_of(active, claim.model) if active else UNCHANGED)]
    first = _admit_offer(claim, cases, offers[0])
    if isinstance(first, Admitted) or (isinstance(first, Crowded) and claim.patient):
        return first
    offers += _thriftier(claim, offers[0]) + _deeper(claim, cases, active, offers[0])
    if all(case.check.budget.input == "likely" for case in cases):
        offers += [replace(offer, input=offer.likely_input) for offer in offers if offer.likely_input is not None]
    for offer in offers:
        tight = _admit_tight(claim, cases, offer)
        if tight is not None:
            return tight
    if claim.patient:
        for offer in offers[1:]:
            later = _admit_offer(claim, cases, offer)
            if isinstance(later, Crowded):
                return later
    return first if isinstance(first, Denied) else Denied(replace(first.refusal, code="budget_held"))


def _thriftier(claim: Claim, first: Offer) -> list[Offer]:
    """The same with its prompt cache written for the shorter time, which is the cheaper one."""
    return [claim.offer(replace(first.changes, short_cache=True))] if claim.long_cache else []


def _stopped(claim: Claim, cases: Sequence[_Case], approved: Callable[[str], bool]) -> Refusal | None:
    """The refusal of a rung that lets nothing through."""
    for case in cases:
        for rung in case.check.budget.ladder:
            if rung.at > case.share:
                continue
            if rung.action == "refuse":
                return _refusal("budget_exceeded", case, None)
            if rung.action == "cached":
                return _refusal("cached_only", case, None)
            if rung.action == "approve":
                approval = _approval_id(claim, case.check)
                if not approved(approval):
                    return replace(_refusal("approval_required", case, None), approval=approval)
    return None


def _approval_id(claim: Claim, check: Check) -> str:
    """One approval for one window of a budget and whoever asks: the nearest thing a person can name."""
    scope = claim.scope
    who = next((f"{c}={v}" for c in ("task", "session", "user", "agent", "key") if (v := getattr(scope, c))), "")
    return blake2b(f"{check.posted}\n{who}".encode(), digest_size=8).hexdigest()


def _deeper(claim: Claim, cases: Sequence[_Case], active: Sequence[Rung], first: Offer) -> list[Offer]:
    """The offers of the rungs still to come, one more rung at a time (``ladder`` rule 3)."""
    waiting = [r for case in cases for r in case.check.budget.ladder if r.at > case.share]
    offers: list[Offer] = []
    rungs, last = list(active), first.changes
    for rung in sorted(waiting, key=lambda r: r.at):
        if rung.action not in ("output_cap", "effort", "model", "tier"):
            continue
        rungs.append(rung)
        changes = replace(changes_of(rungs, claim.model), short_cache=claim.long_cache)
        if changes != last:
            offers.append(claim.offer(changes))
            last = changes
    return offers


def _admit_offer(claim: Claim, cases: Sequence[_Case], offer: Offer) -> Admission:
    """The whole worst case, else what nearly every answer needs, else crowded or denied."""
    demand = _demand(cases, offer, offer.output_tokens)
    if _short(cases, demand) is None:
        return _taken(claim, cases, offer, offer.output_tokens, demand)
    if not _can_shrink(claim, offer):
        return _not_now(cases, offer, offer.output_tokens, shrinks=False)
    tokens = _likely(cases, offer)
    demand = _demand(cases, offer, tokens)
    if _short(cases, demand) is None:
        return _taken(claim, cases, offer, tokens, demand)
    return _not_now(cases, offer, tokens, shrinks=True)


def _admit_tight(claim: Claim, cases: Sequence[_Case], offer: Offer) -> Admitted | None:
    """As many tokens as there is money for, if that is an answer at all."""
    floor = offer.output_tokens
    wanted = [offer.output_tokens]
    if _can_shrink(claim, offer):
        floor = min(floor, _floor(cases))
        wanted += [_likely(cases, offer), min((_most(case, offer) for case in cases), default=offer.output_tokens)]
    for tokens in wanted:
        demand = _demand(cases, offer, tokens)
        if tokens >= floor and _short(cases, demand) is None:
            return _taken(claim, cases, offer, tokens, demand)
    return None


def _can_shrink(claim: Claim, offer: Offer) -> bool:
    """Whether the hold may be smaller than the worst case: a smaller cap is sent, or the stream asks for more."""
    return offer.clampable or (claim.stream and offer.output_tokens > 0)


def _floor(cases: Sequence[_Case]) -> int:
    return max((case.check.budget.floor_tokens for case in cases), default=FLOOR_TOKENS)


def _likely(cases: Sequence[_Case], offer: Offer) -> int:
    return min(offer.output_tokens, max(offer.likely, _floor(cases)))


def _most(case: _Case, offer: Offer) -> int:
    """The most output tokens that one check has room for; negative when it has none for the input."""
    match case.check.budget.unit:
        case "usd":
            return offer.output_tokens if offer.input is None else offer.affordable(case.left)
        case "tokens":
            return min(offer.output_tokens, (case.left - offer.input_tokens) // offer.choices)
        case "calls":
            return offer.output_tokens if case.left >= 1 else -1


def _demand(cases: Sequence[_Case], offer: Offer, tokens: int) -> _Demand:
    """What an offer takes with so many output tokens. Without a price it takes the most that any of its budgets assumes:
    what is held is one amount, the same in each."""
    if offer.input is None:
        assumed = [case.check.budget.assume for case in cases if case.check.budget.on_unpriced == "assume"]
        return _Demand(max(assumed, default=0), offer.tokens(tokens), priced=False)
    return _Demand(offer.cost(tokens) if tokens >= 0 else 0, offer.tokens(tokens), priced=True)


def _need(case: _Case, demand: _Demand) -> int | None:
    """What is taken of one check, None where that is not known and the budget lets nothing unknown through."""
    budget = case.check.budget
    if budget.unit == "usd":
        return demand.amount if demand.priced or budget.on_unpriced != "deny" else None
    return demand.tokens if budget.unit == "tokens" else 1


def _short(cases: Sequence[_Case], demand: _Demand, *, free: bool = False) -> _Case | None:
    """The first check that the demand does not fit, of what is left or of what would be ``free``. What costs nothing fits."""
    for case in cases:
        need = _need(case, demand)
        if need is None or (need and need > (case.free if free else case.left)):
            return case
    return None


def _not_now(cases: Sequence[_Case], offer: Offer, tokens: int, *, shrinks: bool) -> Crowded | Denied:
    short = _short(cases, _demand(cases, offer, tokens), free=True)
    if short is not None:
        # With the likely answer it cannot fit whatever is released; with the least answer it might.
        tokens = min(tokens, _floor(cases)) if shrinks else tokens
        still = _short(cases, _demand(cases, offer, tokens), free=True)
        if still is not None:
            need = _need(still, _demand(cases, offer, tokens))
            return Denied(_refusal("unpriced" if need is None else "budget_exceeded", still, need))
    demand = _demand(cases, offer, tokens)
    blocked = _short(cases, demand)
    if blocked is None:  # the least answer fits right now: it is for _admit_tight to give it
        assert short is not None
        return Denied(_refusal("budget_exceeded", short, _need(short, demand)))
    return Crowded(blocked.check.posted, _refusal("budget_exceeded", blocked, _need(blocked, demand)))


def _taken(claim: Claim, cases: Sequence[_Case], offer: Offer, tokens: int, demand: _Demand) -> Admitted:
    tightest: _Case | None = None
    left = share = least = 0
    for case in cases:
        need = _need(case, demand) or 0
        remaining = case.left - need
        part = thousandths(remaining, case.check.limit)
        if tightest is None or part < least:
            tightest, left, least = case, remaining, part
        share = max(share, case.share)
    smaller = tokens < offer.output_tokens
    extend = smaller and claim.stream and (not offer.clampable or _extends(cases))
    return Admitted(
        offer=offer,
        amount=NanoUSD(demand.amount) if demand.priced or demand.amount else None,
        tokens=demand.tokens,
        output_tokens=tokens,
        output_cap=tokens if smaller and offer.clampable and not extend else None,
        extend=extend,
        rungs=offer.changes.names,
        tightest=tightest.check if tightest else None,
        left=left if tightest else None,
        share=share,
        final=claim.final,
    )


def _extends(cases: Sequence[_Case]) -> bool:
    return all(case.check.budget.streams == "extend" for case in cases)


def _refusal(
    code: Literal["budget_exceeded", "unpriced", "cached_only", "approval_required"], case: _Case, needed: int | None
) -> Refusal:
    check = case.check
    return Refusal(
        code=code,
        budget=check.budget.name,
        subject=check.subject,
        window=check.window.text,
        unit=check.budget.unit,
        limit=check.limit,
        spent=case.spent,
        held=case.held,
        needed=needed,
        resets_us=None if check.window.kind == "rolling" else check.span.end_us,
        kept=check.limit - case.limit,
    )


def more(checks: Sequence[Check], totals: TotalsOf, *, amount: int, tokens: int, final: bool) -> Refusal | None:
    """Whether a running attempt may hold this much more: None, or why not. It counts as no further call."""
    for check in checks:
        if not check.budget.enforce:
            continue
        case = _case(check, totals, final)
        need = {"usd": amount, "tokens": tokens, "calls": 0}[check.budget.unit]
        if need and need > case.left:
            return _refusal("budget_exceeded", case, need)
    return None


def too_deep(task: str, depth: int) -> Refusal:
    """The refusal of a call whose task would stand deeper below others than their limits can be kept for."""
    return Refusal("too_deep", TASK_RULES.name, task, "lifetime", "calls", TASK_DEPTH_MAX, 0, 0, depth, None)
