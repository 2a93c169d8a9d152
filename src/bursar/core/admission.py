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
    TASK_RULES,
    Budget,
    Check,
    TaskLimit,
    TotalsOf,
    Unit,
    Use,
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

    ``code``: budget_exceeded, budget_held (others hold what it needs), unpriced, cached_only, approval_required.
    """

    code: Literal["budget_exceeded", "budget_held", "unpriced", "cached_only", "approval_required"]
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
    largest share used before this hold, in thousandths.
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


def checks_of(claim: Claim, chain: Sequence[TaskLimit]) -> tuple[Check, ...]:
    """Every window of every budget that this call falls under. ``chain`` is its task and those above it."""
    checks: list[Check] = []
    for budget in claim.budgets:
        if budget.each == "task":
            subjects = tuple(task.task for task in chain)
        else:
            subjects = (scope_value(claim.scope, budget.each) if budget.each else "",)
        checks += [check_of(budget, limit, subject, claim.at_us) for subject in subjects for limit in budget.limits]
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
    """An enforced check with what is used of it."""

    check: Check
    use: Use
    limit: int

    @property
    def left(self) -> int:
        return self.limit - self.use.used

    @property
    def free(self) -> int:
        """What would be left if everybody gave back all they hold."""
        return self.limit - self.use.spent

    @property
    def share(self) -> int:
        return 1000 if self.check.limit <= 0 else max(0, self.use.used * 1000 // self.check.limit)


def admit(claim: Claim, checks: Sequence[Check], totals: TotalsOf, approved: Callable[[str], bool]) -> Admission:
    """Whether, and how, the attempt may be made. ``approved`` tells of an approval id whether somebody granted it."""
    cases = [
        _Case(check, use_of(check, totals), check.limit - (0 if claim.final else check.kept))
        for check in checks
        if check.budget.enforce
    ]
    active = [rung for case in cases for rung in case.check.budget.ladder if rung.at <= case.share]
    stopped = _stopped(claim, cases, approved)
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
    for tokens in (offer.output_tokens, _likely(cases, offer)):
        short = _short(cases, offer, tokens, free=False)
        if short is None:
            return _taken(claim, cases, offer, tokens)
        if not _can_shrink(claim, offer):
            break
    tokens = _likely(cases, offer) if _can_shrink(claim, offer) else offer.output_tokens
    return _not_now(cases, offer, tokens)


def _admit_tight(claim: Claim, cases: Sequence[_Case], offer: Offer) -> Admitted | None:
    """As many tokens as there is money for, if that is an answer at all."""
    for tokens in (offer.output_tokens, _likely(cases, offer)):
        if _short(cases, offer, tokens, free=False) is None:
            return _taken(claim, cases, offer, tokens)
        if not _can_shrink(claim, offer):
            return None
    tokens = min((_most(case, offer) for case in cases), default=offer.output_tokens)
    floor = max((case.check.budget.floor_tokens for case in cases), default=FLOOR_TOKENS)
    if tokens < min(floor, offer.output_tokens) or _short(cases, offer, tokens, free=False) is not None:
        return None
    return _taken(claim, cases, offer, tokens)


def _can_shrink(claim: Claim, offer: Offer) -> bool:
    """Whether the hold may be smaller than the worst case: a smaller cap is sent, or the stream asks for more."""
    return offer.clampable or (claim.stream and offer.output_tokens > 0)


def _likely(cases: Sequence[_Case], offer: Offer) -> int:
    floor = max((case.check.budget.floor_tokens for case in cases), default=FLOOR_TOKENS)
    return min(offer.output_tokens, max(offer.likely, floor))


def _most(case: _Case, offer: Offer) -> int:
    match case.check.budget.unit:
        case "usd":
            return offer.output_tokens if offer.input is None else offer.affordable(case.left)
        case "tokens":
            return min(offer.output_tokens, (case.left - offer.input_tokens) // offer.choices)
        case "calls":
            return offer.output_tokens if case.left >= 1 else -1


def _need(case: _Case, offer: Offer, tokens: int) -> int | None:
    """What the offer takes of one check, None where that is not known and the budget lets nothing unknown through."""
    budget = case.check.budget
    match budget.unit:
        case "usd" if offer.input is None:
            return {"deny": None, "allow": 0, "assume": budget.assume}[budget.on_unpriced]
        case "usd":
            return offer.cost(tokens)
        case "tokens":
            return offer.tokens(tokens)
        case "calls":
            return 1


def _short(cases: Sequence[_Case], offer: Offer, tokens: int, *, free: bool) -> _Case | None:
    """The first check that the offer does not fit, with what is left or what would be ``free``. What costs nothing fits."""
    for case in cases:
        need = _need(case, offer, tokens)
        if need is None or (need and need > (case.free if free else case.left)):
            return case
    return None


def _not_now(cases: Sequence[_Case], offer: Offer, tokens: int) -> Crowded | Denied:
    short = _short(cases, offer, tokens, free=True)
    if short is not None:
        # With the likely answer it cannot fit whatever is released; with the least answer it might.
        least = min(tokens, short.check.budget.floor_tokens) if offer.clampable else tokens
        still = _short(cases, offer, least, free=True)
        if still is not None:
            need = _need(still, offer, least)
            return Denied(_refusal("unpriced" if need is None else "budget_exceeded", still, need))
        tokens = least
    blocked = _short(cases, offer, tokens, free=False)
    if blocked is None:  # the least answer fits right now: it is for _admit_tight to give it
        assert short is not None
        return Denied(_refusal("budget_exceeded", short, _need(short, offer, tokens)))
    return Crowded(blocked.check.posted, _refusal("budget_exceeded", blocked, _need(blocked, offer, tokens)))


def _taken(claim: Claim, cases: Sequence[_Case], offer: Offer, tokens: int) -> Admitted:
    smaller = tokens < offer.output_tokens
    extend = smaller and claim.stream and (not offer.clampable or _extends(cases))
    if offer.input is None:
        amount = max((_need(case, offer, tokens) or 0 for case in cases if case.check.budget.unit == "usd"), default=0)
        held = NanoUSD(amount) if amount else None
    else:
        held = NanoUSD(offer.cost(tokens))
    lefts = [(case.left - (_need(case, offer, tokens) or 0), case) for case in cases]
    left, tightest = min(lefts, key=lambda pair: thousandths(pair[0], pair[1].check.limit), default=(None, None))
    return Admitted(
        offer=offer,
        amount=held,
        tokens=offer.tokens(tokens),
        output_tokens=tokens,
        output_cap=tokens if smaller and offer.clampable and not extend else None,
        extend=extend,
        rungs=offer.changes.names,
        tightest=tightest.check if tightest else None,
        left=left,
        share=max((case.share for case in cases), default=0),
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
        spent=case.use.spent,
        held=case.use.held,
        needed=needed,
        resets_us=None if check.window.kind == "rolling" else check.span.end_us,
        kept=check.limit - case.limit,
    )


def more(checks: Sequence[Check], totals: TotalsOf, *, amount: int, tokens: int) -> Refusal | None:
    """Whether a running attempt may hold this much more: None, or why not. It counts as no further call."""
    for check in checks:
        if not check.budget.enforce:
            continue
        use = use_of(check, totals)
        case = _Case(check, use, check.limit)
        need = {"usd": amount, "tokens": tokens, "calls": 0}[check.budget.unit]
        if need and need > case.left:
            return _refusal("budget_exceeded", case, need)
    return None
