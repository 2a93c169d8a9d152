"""Placing marks for a provider's prompt cache in the requests of agents: watch, weigh, write, learn.

Rule 1: marks are set only where keeping the prefix is expected to gain (``core.prompt_cache``), at the prices in force. Where a read or a
        write has no price, none is set: what is not known is not worth it.
Rule 2: a client that marks its requests itself is left alone.
Rule 3: what is kept at the provider is known from what it said it read and wrote, never from what was asked of it.
Rule 4: the facts of a marked request name the units that the marks can cause: what is held for it covers them.
Rule 5: nothing of a prompt goes into a note: counts, and the path and byte at which it parted from the one before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from dataclasses import replace
from hashlib import blake2b
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
from bursar.learn.reuse import Reuse
from bursar.wire.bounds import CACHE_WRITES
from bursar.wire.dialect import UNREADABLE, RequestFacts, ceil_tokens
from bursar.wire.prompt_cache import KEYED, MARKED, Layout, Placement, Spot, marks, place

__all__ = ["Planned", "PromptCaching", "Ticket"]

_THREADS_MAX: Final = 10_000
_BYTES_MAX: Final = 64 * 2**20
_BYTES_PER_TOKEN: Final = 4
_BYTES_PER_TOKEN_MIN: Final = 2
_STANDING: Final[tuple[Kind, Kind]] = ("tools", "system")
_MARGIN_US: Final = 10_000_000
"""What is kept for less than this is not counted on: the request is read by the provider some time after it left."""
_KEY_BYTES: Final = 16
_CARDS_MAX: Final = 256


@valueclass
class Ticket:
    """What one request leaves to be learned from its answer."""

    thread: str
    at_us: int
    prompt_bytes: int
    spots: tuple[Spot, ...]
    ttl: Ttl


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


class _Thread:
    """What is known of one thread at one model. ``kept`` are the ends of what the provider keeps, ``kept_tokens`` up to the last."""

    __slots__ = (
        "digests", "input_tokens", "kept", "kept_tokens", "kept_ttl", "kept_until_us", "prompt_bytes", "spots", "stable_end", "turn_end",
    )  # fmt: skip

    def __init__(self) -> None:
        self.input_tokens, self.prompt_bytes = 1, _BYTES_PER_TOKEN
        self.kept: tuple[Spot, ...] = ()
        self.kept_tokens = self.kept_until_us = 0
        self.kept_ttl: Ttl = "5m"
        self.turn_end = self.stable_end = 0
        self.spots: dict[Kind, Spot] = {}
        self.digests: dict[str, tuple[int, str]] = {}

    def tokens(self, size: int) -> int:
        return size * self.input_tokens // self.prompt_bytes


@valueclass
class _Case:
    """One request that may be marked."""

    thread: str
    group: str
    model: str
    facts: RequestFacts
    body: bytes
    prompt: Prompt
    at_us: int
    known: _Thread
    step: Step | None

    @property
    def shared(self) -> int:
        return self.step.shared_bytes if self.step is not None else 0

    def left(self, why: str) -> Planned:
        """It goes out as it came."""
        ticket = Ticket(self.thread, self.at_us, self.prompt.size, (), self.known.kept_ttl)
        return Planned(self.body, self.facts, _unmarked(why) | _stepped(self.step), 0, ticket)


class PromptCaching:
    """One per process; not for several threads at once."""

    def __init__(self, *, threads_max: int = _THREADS_MAX, bytes_max: int = _BYTES_MAX) -> None:
        self._prefixes = Prefixes(threads_max=threads_max, bytes_max=bytes_max)
        self._reuse = Reuse()
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._threads_max = threads_max
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
    ) -> Planned:
        """The request to send. ``thread`` is an agent in a session or a task ("" none), ``card`` the prices in force of the model that
        is sent, ``model``, where it is not the one asked for. ``group`` are the threads that are alike (default: those of the agent).
        ``takes_key`` says whether the provider takes ``prompt_cache_key``."""
        if dialect_id in KEYED:
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
            place_id = f"{card.provider}\0{model}\0"  # each model at each provider has a cache of its own
            known = self._known(place_id + thread)
            step = self._prefixes.took(place_id + thread, prompt, at_us, order=ORDERS[dialect_id])
            group = place_id + (group or facts.agent)
            case = _Case(place_id + thread, group, model, facts, body, prompt, at_us, known, step)
            return self._marked(case, dialect_id, card)
        except UNREADABLE:
            return Planned(body, facts)  # the provider will say what is wrong with it

    def settled(self, planned: Planned, usage: Usage | None) -> None:
        """What became of a planned request: the usage that the provider stated, None where there was none."""
        ticket = planned.ticket
        known = self._threads.get(ticket.thread) if ticket is not None else None
        if ticket is None or known is None or usage is None:
            return
        if usage.input_tokens > 0:
            known.input_tokens, known.prompt_bytes = usage.input_tokens, ticket.prompt_bytes
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

    def _marked(self, case: _Case, dialect_id: str, card: RateCard) -> Planned:
        known, step = case.known, case.step
        layout = Layout(case.prompt, case.shared if step is not None and step.divergence is None else 0)
        least = minimum_tokens(case.model)
        every = _spots(layout, step, known.spots)
        # What is too short to be kept need not be watched. A turn is: it grows.
        spots: dict[Kind, Spot] = {
            kind: spot for kind, spot in every.items() if kind == "turn" or known.tokens(spot.end) >= least
        }
        known.spots = every
        kept = None
        if case.at_us + _MARGIN_US <= known.kept_until_us:
            kept = next((spot for spot in reversed(known.kept) if spot.end <= case.shared), None)
        self._learn(case, spots)
        rates = self._rates(card, known.tokens(case.prompt.size))
        if rates is None:
            return case.left("no price for reads and writes of a cache")
        counted = _Counted(layout, known, kept)
        candidates = self._candidates(case, spots, counted, goes_on=layout.goes_on())
        chosen = choose(candidates, rates, kept=counted.kept(), least_tokens=least)
        if not chosen.marks:
            short = not any(each.tokens >= least for each in candidates)
            return case.left(f"shorter than {least} tokens" if short else "keeping it is not expected to gain")
        if kept is not None:
            spots["kept"] = kept
        placed: tuple[tuple[Spot, Ttl], ...] = tuple((spots[mark.kind], mark.ttl) for mark in chosen.marks)
        sent = place(dialect_id, case.body, Placement(placed), prompt=case.prompt)
        hour = any(ttl == "1h" for _, ttl in placed)
        facts = _grown(case.facts, case.body, sent, CACHE_WRITES if hour else CACHE_WRITES[:2])
        ticket = Ticket(case.thread, case.at_us, case.prompt.size, tuple(spot for spot, _ in placed), placed[-1][1])
        return Planned(sent, facts, _note(chosen, step), chosen.read, ticket)

    def _candidates(self, case: _Case, spots: dict[Kind, Spot], counted: _Counted, *, goes_on: bool) -> list[Candidate]:
        found: list[Candidate] = []
        for kind, spot in spots.items():
            digest = case.known.digests.get(kind)
            key = digest[1] if digest is not None else case.thread
            chance = self._reuse.chance(kind, case.group, key, goes_on=goes_on)
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

    def _learn(self, case: _Case, spots: dict[Kind, Spot]) -> None:
        """What this request says of the one before it, and what it is asked about itself."""
        known, shared = case.known, case.shared
        if "turn" in spots:
            again = case.step is None or shared >= known.turn_end
            self._reuse.saw("turn", case.group, case.thread, case.at_us, again=again)
            known.turn_end = spots["turn"].end
        if "stable" in spots or known.stable_end:
            self._reuse.saw("stable", case.group, case.thread, case.at_us, again=shared >= known.stable_end)
            known.stable_end = spots["stable"].end if "stable" in spots else known.stable_end
        digests: dict[str, tuple[int, str]] = {}
        for kind in _STANDING:
            spot = spots.get(kind)
            if spot is None:
                continue
            before = known.digests.get(kind)
            if before is not None and before[0] == spot.end <= shared:
                digests[kind] = before
            else:
                digests[kind] = spot.end, _digest(case.thread, case.prompt, spot.end)
                if before is not None and before[1] != digests[kind][1]:
                    self._reuse.parted(kind, before[1])
            self._reuse.saw(kind, case.group, digests[kind][1], case.at_us)
        known.digests = digests


def _digest(thread: str, prompt: Prompt, end: int) -> str:
    """A name for the prompt's first bytes, at the thread's model and provider."""
    where = thread.split("\0", 2)[:2]
    digest = blake2b("\0".join(where).encode(errors="replace"), digest_size=_KEY_BYTES)
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
