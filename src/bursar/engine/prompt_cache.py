"""Placing marks for a provider's prompt cache in the requests of agents: watch, weigh, write, learn.

Rule 1: marks are set only where keeping the prefix is expected to gain (``core.prompt_cache``), at the prices in force. Where a read or a
        write has no price, none is set: what is not known is not worth it.
Rule 2: a client that marks its requests itself is left alone.
Rule 3: what is kept at the provider, and what is asked for again, is known from the usage it stated, never from what was asked of it.
        It holds for a later prompt as far as that has the very same bytes; a later answer is not undone by an earlier one.
Rule 4: the facts of a marked request name the units that the marks can cause: what is held for it covers them.
Rule 5: nothing of a prompt goes into a note: counts, and the path and byte at which it parted from the one before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import replace
from hashlib import blake2b
from itertools import count
from typing import Any, Final

from bursar.core.prices import RateCard
from bursar.core.prompt_cache import (
    TTLS_S,
    CacheRates,
    Candidate,
    Kept,
    Kind,
    Marks,
    Ttl,
    cache_rates,
    choose,
    minimum_tokens,
)
from bursar.core.usage import Usage
from bursar.core.values import valueclass
from bursar.learn.prefixes import ORDERS, Prefixes, Prompt, Step, read_prompt
from bursar.learn.reuse import Question, Reuse
from bursar.wire.bounds import CACHE_WRITES
from bursar.wire.dialect import UNREADABLE, RequestFacts, ceil_tokens
from bursar.wire.prompt_cache import KEYED, MARKED, Layout, Placement, Spot, marks, place

__all__ = ["Planned", "PromptCaching", "Ticket"]

_THREADS_MAX: Final = 10_000
_BYTES_MAX: Final = 64 * 2**20
_BYTES_PER_TOKEN: Final = 4
_BYTES_PER_TOKEN_MIN: Final = 2
_STANDING: Final[tuple[Kind, Kind]] = ("tools", "system")
_GROWING: Final[tuple[Kind, Kind]] = ("stable", "turn")
_MARGIN_US: Final = 10_000_000
"""What is kept for less than this is not counted on: the request is read by the provider some time after it left."""
_KEY_BYTES: Final = 16
_CARDS_MAX: Final = 256
_ON_THEIR_WAY_MAX: Final = 16
"""So many requests of one thread at a time are told apart; the answers of older ones say nothing of what is kept."""


@valueclass
class Ticket:
    """What one request leaves to be learned from its answer: the questions it asks (``learn.reuse``), where its turn and what it had in
    common with the one before end, and ``shared``, the bytes it has in common with earlier requests, by their serials."""

    thread: str
    serial: int
    at_us: int
    prompt_bytes: int
    questions: dict[Kind, Question]
    ends: dict[Kind, int]
    shared: dict[int, int]
    ttl: Ttl
    spots: tuple[Spot, ...] = ()


@valueclass
class Planned:
    """A request as it goes out, with its facts. ``note`` is for the stored decision: None where there was nothing to decide.

    ``read_tokens`` is what should come out of the provider's cache. ``ticket`` goes to ``settled`` with the usage.
    """

    body: bytes
    facts: RequestFacts
    note: dict[str, Any] | None = None
    read_tokens: int = 0
    ticket: Ticket | None = None


@valueclass
class _Last:
    """The request of a thread that was seen last: where marks may stand in it, and the digests of what stands before its messages."""

    serial: int
    step: Step | None
    spots: dict[Kind, Spot]
    digests: dict[Kind, tuple[int, str]]


class _Thread:
    """What is known of one thread at one model: the last request, the last one that was answered, and how many bytes of that, and of
    those that are on their way, all requests since have had too. ``kept`` are the ends of what the provider keeps of the answered one,
    ``kept_tokens`` up to the last."""

    __slots__ = (
        "answered", "ends", "input_tokens", "kept", "kept_tokens", "kept_ttl", "kept_until_us", "last", "prompt_bytes", "shared",
    )  # fmt: skip

    def __init__(self) -> None:
        self.input_tokens, self.prompt_bytes = 1, _BYTES_PER_TOKEN
        self.last: _Last | None = None
        self.answered: Ticket | None = None
        self.ends: dict[Kind, int] = {}
        self.shared: dict[int, int] = {}
        self.kept: tuple[Spot, ...] = ()
        self.kept_tokens = self.kept_until_us = 0
        self.kept_ttl: Ttl = "5m"

    def tokens(self, size: int) -> int:
        return size * self.input_tokens // self.prompt_bytes

    def again(self, kind: Kind, shared: dict[int, int]) -> bool:
        """Whether a request with so much in common has all that the answered one had; what is not known is not held against it."""
        end = self.ends.get(kind, 0)
        return self.answered is None or shared.get(self.answered.serial, end) >= end

    def sent(self, serial: int, size: int, shared: dict[int, int], step: Step | None) -> None:
        """One more request is on its way; ``shared`` was true before it."""
        self.shared = {}
        if step is not None:
            self.shared = {each: min(known, step.shared_bytes) for each, known in shared.items()}
        self.shared[serial] = size
        if len(self.shared) > _ON_THEIR_WAY_MAX:
            answered = self.answered.serial if self.answered is not None else 0
            del self.shared[next(each for each in self.shared if each != answered)]


@valueclass
class _Case:
    """One request that may be marked. ``place`` is the model at its provider, ``cache`` that for those who share one."""

    thread: str
    group: str
    place: str
    cache: str
    model: str
    serial: int
    facts: RequestFacts
    body: bytes
    prompt: Prompt
    at_us: int
    known: _Thread
    last: _Last | None
    step: Step | None

    @property
    def shared(self) -> int:
        return self.step.shared_bytes if self.step is not None else 0

    def left(self, ticket: Ticket, why: str) -> Planned:
        """It goes out as it came."""
        return Planned(self.body, self.facts, _unmarked(why) | _stepped(self.step), 0, ticket)


class PromptCaching:
    """One per process; not for several threads at once."""

    def __init__(self, *, threads_max: int = _THREADS_MAX, bytes_max: int = _BYTES_MAX) -> None:
        self._prefixes = Prefixes(threads_max=threads_max, bytes_max=bytes_max)
        self._reuse = Reuse()
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._threads_max = threads_max
        self._serials = count(1)
        self._cards: dict[tuple[str, str], tuple[RateCard, list[int], dict[int, CacheRates | None]]] = {}

    def plan(
        self,
        thread: str,
        facts: RequestFacts,
        dialect_id: str,
        body: bytes,
        card: RateCard | None,
        at_us: int,
        *,
        takes_key: bool,
        model: str = "",
        group: str = "",
        owner: str = "",
    ) -> Planned:
        """The request to send. ``thread`` is a tenant's agent in a session or a task ("" none), ``card`` the prices in force of the model
        that is sent, ``model``, where it is not the one asked for. ``group`` are the threads that are alike (default: the agent's).
        ``owner`` names the key that is sent: each has a cache of its own at the provider, and threads of its own.
        ``takes_key`` says whether the provider takes ``prompt_cache_key``."""
        if dialect_id in KEYED:
            thread = f"{owner}\0{thread}" if owner and thread else thread
            return self._keyed(thread, facts, dialect_id, body) if takes_key and thread else Planned(body, facts)
        if dialect_id not in MARKED or card is None or not thread:
            return Planned(body, facts)
        try:
            own = marks(body)
            model = model or facts.model
            if not own and len(body) < minimum_tokens(model) * _BYTES_PER_TOKEN_MIN:
                return Planned(body, facts)  # however dense it is, no provider would keep it
            prompt = None if own else read_prompt(body, ORDERS[dialect_id])
            if prompt is None:
                return Planned(
                    body, facts, _unmarked(f"the client set {own} mark{'s' * (own > 1)} itself") if own else None
                )
            place_id = f"{card.provider}\0{model}"  # each model at each provider has a cache of its own
            cache = f"{place_id}\0{owner}"
            name, group = f"{cache}\0{thread}", f"{owner}\0{group or facts.agent}"
            known = self._known(name)
            serial, last, step = self._compared(name, known, prompt, at_us, ORDERS[dialect_id])
            case = _Case(name, group, place_id, cache, model, serial, facts, body, prompt, at_us, known, last, step)
            return self._marked(case, dialect_id, card)
        except UNREADABLE:
            return Planned(body, facts)  # the provider will say what is wrong with it

    def settled(self, planned: Planned, usage: Usage | None) -> None:
        """What became of a planned request: the usage that the provider stated, None where there was none."""
        ticket = planned.ticket
        known = self._threads.get(ticket.thread) if ticket is not None else None
        if ticket is None or known is None or usage is None or usage.input_tokens <= 0:
            return
        known.input_tokens, known.prompt_bytes = usage.input_tokens, ticket.prompt_bytes
        latest = ticket.serial in known.shared
        self._learn(ticket, known, latest=latest)
        if not latest:
            return  # a later one was answered before it, or its thread was forgotten
        known.answered = ticket
        known.ends = {**known.ends, **ticket.ends}
        known.shared = {serial: size for serial, size in known.shared.items() if serial >= ticket.serial}
        kept = usage.cache_read_tokens + usage.cache_write_tokens
        known.kept, known.kept_tokens = ticket.spots if kept else (), kept
        if usage.cache_write_1h_tokens:
            known.kept_ttl = "1h"
        elif usage.cache_write_tokens:
            known.kept_ttl = "5m" if usage.cache_write_5m_tokens else ticket.ttl
        known.kept_until_us = ticket.at_us + TTLS_S[known.kept_ttl] * 1_000_000

    def _keyed(self, thread: str, facts: RequestFacts, dialect_id: str, body: bytes) -> Planned:
        key = blake2b(thread.encode(errors="replace"), digest_size=_KEY_BYTES).hexdigest()
        try:
            sent = place(dialect_id, body, Placement(key=key))
        except UNREADABLE:
            return Planned(body, facts)
        if sent is body:
            return Planned(body, facts)
        return Planned(sent, _grown(facts, body, sent, facts.writes_cache), {"key": True})

    def _compared(
        self, name: str, known: _Thread, prompt: Prompt, at_us: int, order: tuple[str, ...]
    ) -> tuple[int, _Last | None, Step | None]:
        """A serial for the request, the one before it, and the step from there."""
        serial = next(self._serials)
        last, shared = known.last, known.shared
        known.last, known.shared = None, {}  # until they are compared
        step = self._prefixes.took(name, prompt, at_us, order=order)
        known.sent(serial, prompt.size, shared, step)
        answered = known.answered.serial if known.answered is not None else 0
        if last is not None and last.serial > answered and step is not None and _is_repeated(step):
            step = last.step  # a second try: it is planned as the first one was
        return serial, last, step

    def _marked(self, case: _Case, dialect_id: str, card: RateCard) -> Planned:
        known, step = case.known, case.step
        layout = Layout(case.prompt, case.shared if step is not None and step.divergence is None else 0)
        least = minimum_tokens(case.model)
        every = _spots(layout, step, case.last.spots if case.last is not None else {})
        # What is too short to be kept need not be watched. A turn is: it grows.
        spots: dict[Kind, Spot] = {
            kind: spot for kind, spot in every.items() if kind == "turn" or known.tokens(spot.end) >= least
        }
        digests = _digests(case, spots)
        known.last = _Last(case.serial, step, every, digests)
        ticket = _ticket(case, spots, digests, goes_on=layout.goes_on())
        kept = None
        if known.answered is not None and case.at_us + _MARGIN_US <= known.kept_until_us:
            same = known.shared.get(known.answered.serial, 0)
            kept = next((spot for spot in reversed(known.kept) if spot.end <= same), None)
        rates = self._rates(card, known.tokens(case.prompt.size))
        if rates is None:
            return case.left(ticket, "no price for reads and writes of a cache")
        counted = _Counted(layout, known, kept)
        candidates = self._candidates(case, ticket, spots, counted)
        chosen = choose(candidates, rates, kept=counted.kept(), least_tokens=least)
        if not every:
            return case.left(ticket, "there is no place for a mark")
        if not chosen.marks:
            short = not any(each.tokens >= least for each in candidates)
            return case.left(ticket, f"shorter than {least} tokens" if short else "keeping it is not expected to gain")
        if kept is not None:
            spots["kept"] = kept
        placed: tuple[tuple[Spot, Ttl], ...] = tuple((spots[mark.kind], mark.ttl) for mark in chosen.marks)
        sent = place(dialect_id, case.body, Placement(placed), prompt=case.prompt)
        if sent is case.body:
            return case.left(ticket, "there is no place for a mark")
        hour = any(ttl == "1h" for _, ttl in placed)
        facts = _grown(case.facts, case.body, sent, CACHE_WRITES if hour else CACHE_WRITES[:2])
        ticket = replace(ticket, spots=tuple(spot for spot, _ in placed), ttl=placed[-1][1])
        return Planned(sent, facts, _note(chosen, step), chosen.read, ticket)

    def _candidates(self, case: _Case, ticket: Ticket, spots: dict[Kind, Spot], counted: _Counted) -> list[Candidate]:
        found: list[Candidate] = []
        for kind, spot in spots.items():
            again = kind in _STANDING or case.known.again(kind, ticket.shared)
            chance = self._reuse.chance(ticket.questions[kind], case.at_us, again=again)
            found.append(Candidate(kind, counted.tokens(spot.end), counted.block(spot), chance))
        return found

    def _rates(self, card: RateCard, input_tokens: int) -> CacheRates | None:
        """The rates of a card, remembered by tier: prices seldom change."""
        key = (card.provider, card.model)
        found = self._cards.get(key)
        if found is None or found[0] is not card:
            if len(self._cards) >= _CARDS_MAX:
                self._cards.clear()
            starts = sorted({start for row in card.rows for start, _ in row.tiers})
            found = self._cards[key] = (card, starts, {})
        _, starts, known = found
        tier = bisect_left(starts, input_tokens)
        if tier not in known:
            known[tier] = cache_rates(card, input_tokens)
        return known[tier]

    def _known(self, thread: str) -> _Thread:
        known = self._threads.get(thread)
        if known is None:
            known = self._threads[thread] = _Thread()
            if len(self._threads) > self._threads_max:
                self._threads.popitem(last=False)
        else:
            self._threads.move_to_end(thread)
        return known

    def _learn(self, ticket: Ticket, known: _Thread, *, latest: bool) -> None:
        """What an answered request says of the one that was answered before it, and what it is asked about itself."""
        before = known.answered.questions if known.answered is not None and latest else {}
        for kind, question in ticket.questions.items():
            if kind in _STANDING:
                old = before.get(kind)
                if old is not None and old.key != question.key:
                    self._reuse.parted(kind, old.key)
                self._reuse.saw(question, ticket.at_us)
            elif latest:
                self._reuse.saw(question, ticket.at_us, again=known.again(kind, ticket.shared))


def _is_repeated(step: Step) -> bool:
    return step.divergence is None and step.shared_bytes == step.before_bytes == step.bytes


def _ticket(case: _Case, spots: dict[Kind, Spot], digests: dict[Kind, tuple[int, str]], *, goes_on: bool) -> Ticket:
    ends: dict[Kind, int] = {kind: spots[kind].end for kind in _GROWING if kind in spots}
    questions: dict[Kind, Question] = {}
    for kind in (*_STANDING, *_GROWING):
        if kind in spots or (kind == "stable" and kind in case.known.ends):
            key = digests[kind][1] if kind in digests else case.thread
            questions[kind] = Question(kind, key, case.group, case.place, goes_on)
    shared = dict(case.known.shared)
    return Ticket(case.thread, case.serial, case.at_us, case.prompt.size, questions, ends, shared, case.known.kept_ttl)


def _digests(case: _Case, spots: dict[Kind, Spot]) -> dict[Kind, tuple[int, str]]:
    """Names for what stands before the messages, with their ends; those of the last request where that had the same."""
    found: dict[Kind, tuple[int, str]] = {}
    for kind in _STANDING:
        spot = spots.get(kind)
        if spot is None:
            continue
        before = case.last.digests.get(kind) if case.last is not None else None
        same = before is not None and before[0] == spot.end <= case.shared
        found[kind] = before if before is not None and same else (spot.end, _digest(case.cache, case.prompt, spot.end))
    return found


def _digest(cache: str, prompt: Prompt, end: int) -> str:
    """A name for the prompt's first bytes, for those who share a cache."""
    digest = blake2b(cache.encode(errors="replace"), digest_size=_KEY_BYTES)
    for part in prompt.parts:
        if part.base >= end:
            break
        digest.update(part.data[: end - part.base])
    return digest.hexdigest()


class _Counted:
    """Tokens and blocks of a prompt, counted from what is kept of it where that is known."""

    def __init__(self, layout: Layout, known: _Thread, kept: Spot | None) -> None:
        self._layout = layout
        self._known = known
        self._kept = kept

    def kept(self) -> Kept | None:
        return Kept(self.tokens(self._kept.end), 0) if self._kept is not None else None

    def tokens(self, end: int) -> int:
        known = self._known
        if self._kept is None:
            return known.tokens(end)
        stated = known.kept[-1].end  # the provider said how many tokens this far are
        if end <= stated:
            return known.kept_tokens * end // stated
        return known.kept_tokens + known.tokens(end - stated)

    def block(self, spot: Spot) -> int:
        """Blocks behind what is kept; -1 before it."""
        if self._kept is None or spot.end == self._kept.end:
            return 0
        return max(1, self._layout.blocks_between(self._kept, spot)) if spot.end > self._kept.end else -1


def _spots(layout: Layout, step: Step | None, before: dict[Kind, Spot]) -> dict[Kind, Spot]:
    """Where marks may stand, in the order of the prompt; ``before`` are the spots of the request before this one."""
    shared = step.shared_bytes if step is not None else 0
    tools, system = (spot if spot is not None and spot.end < shared else None for spot in map(before.get, _STANDING))
    turn = layout.turn()
    parted = step is not None and step.divergence is not None
    places: tuple[tuple[Kind, Spot | None], ...] = (
        ("tools", tools or layout.tools()),
        ("system", system or layout.system()),
        ("stable", layout.boundary(step.shared_bytes) if step is not None and parted else None),
        ("turn", turn),
    )
    return {
        kind: spot
        for kind, spot in places
        if spot is not None and (kind == "turn" or turn is None or spot.end < turn.end)
    }


def _grown(facts: RequestFacts, body: bytes, sent: bytes, writes: tuple[str, ...]) -> RequestFacts:
    """The facts of the request that is sent: the same as reading it again, without reading it."""
    return replace(
        facts,
        writes_cache=writes,
        text_bytes=facts.text_bytes + len(sent) - len(body),
        input_tokens_estimate=ceil_tokens(len(sent)),
    )


def _unmarked(why: str) -> dict[str, Any]:
    return {"marks": [], "why": why}


def _stepped(step: Step | None) -> dict[str, Any]:
    if step is None:
        return {}
    said: dict[str, Any] = {"shared_bytes": step.shared_bytes}
    if step.divergence is not None:
        said["diverged_at"] = step.divergence.text
    return said


def _note(chosen: Marks, step: Step | None) -> dict[str, Any]:
    lives: list[Ttl] = list(dict.fromkeys(mark.ttl for mark in chosen.marks))
    chance = chosen.chance
    return {
        "marks": [mark.kind for mark in chosen.marks],
        "ttl": "+".join(lives),
        "expected_nanousd": chosen.expected,
        "chance_permille": 1_000 * chance.within(lives[-1]) // chance.of,
        "read_tokens": chosen.read,
        **_stepped(step),
    }
