"""Decides what came in of traces and books it: the synchronous part, for one thread.

Rule 1: a trace is decided when its root has ended and it has been quiet for a moment, or quiet for longer, or after ten
        seconds at the latest; and again whenever something of it arrives late. What is decided differently then is taken
        back and booked anew.
Rule 2: the books first, then the store. What a crash leaves between the two is read from the books again: an attempt that
        was booked is never booked twice.
Rule 3: other doors are followed through the endings they leave in the books. They never wait for this.
Rule 4: memory holds what waits to be decided and the latest traces; older ones are read from the store when something of
        them arrives.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace

from bursar.core.ledger import Attempt
from bursar.core.observations import Observation
from bursar.core.scopes import Scope
from bursar.core.traces import (
    Holder,
    Verdict,
    attempt_base,
    attempt_of,
    claim,
    contest,
    figures,
    in_groups,
    metrics_key,
    nearest,
    price,
    response_key,
    source_of,
    trace_key,
)
from bursar.engine.claims import observed_claim
from bursar.engine.rulebook import Rulebook

from .books_batch import select_in
from .books_file import BooksFile
from .rows import encode_attempt
from .trace_open import LATEST_S, QUIET_S, UNDECIDED, OpenTrace, State, charged_attempt, meet, place_of, version_of
from .trace_rows import KeptSpan, kept_of
from .trace_store import NearerRow, Record, Segment, TraceStore

__all__ = ["TraceEvaluator"]

_REST_S: Final = 30.0
_BATCH: Final = 2_000
_TRACE_PLACES_MAX: Final = 200_000
"""Of one trace, about a kilobyte each. What comes for it beyond that is rejected, and its sender told."""
_PLACES_MAX: Final = 40_000  # in memory of traces that wait for nothing
_FOLLOW_MAX: Final = 5_000
_LOOK_BACK: Final = 5_000
_KEYS_MAX: Final = 10_000
_IMPORTED: Final = b'"door":"import"'  # as the books' rows have it; in a text the quotes would be escaped
_NOBODY_ELSE: Final[frozenset[str]] = frozenset()


class _Seen(msgspec.Struct, gc=False):
    """What of another door's ledger row matters here."""

    door: str
    provider: str
    kind: str = "model"
    trace_id: str = ""
    span_id: str = ""
    response_id: str = ""
    request_id: str = ""

    @property
    def request_key(self) -> str:
        """How records know the call that know it by its request's id only. "" where nobody was near enough to have seen it."""
        live = self.request_id and self.door in ("gateway", "sdk")
        return f"{self.provider}:{self.request_id}"[:256] if live else ""


_decode_seen: Final = msgspec.json.Decoder(_Seen).decode


class _Changes:
    """What one evaluation changes in the books and in the store."""

    def __init__(self) -> None:
        self.retracted: list[str] = []
        self.attempts: list[Attempt] = []
        self.record = Record()
        self.states: list[tuple[OpenTrace, dict[str, State]]] = []
        self.counts: Counter[str] = Counter()


class TraceEvaluator:
    """``counts`` adds up what became of observations: charged, linked, retracted; ``full`` are traces that take no more.
    Times are of one monotonic clock."""

    def __init__(self, books: BooksFile, store: TraceStore, rulebook: Callable[[], Rulebook]) -> None:
        self._books = books
        self._store = store
        self._rulebook = rulebook
        self._opens: OrderedDict[str, OpenTrace] = OrderedDict()
        self._pending: dict[str, OpenTrace] = {}
        self._resting: dict[str, float] = {}
        self._arrivals: dict[int, int] = {}
        self._recovered: dict[str, dict[str, State]] = {}
        self._places = 0
        self.backlog = 0
        self.counts: Counter[str] = Counter()
        self.full: set[str] = set()
        self._broken = False
        self._version = -1
        self._followed = self._kept_followed = store.followed()
        self._keys: dict[str, Scope | None] = {}
        self._known_groups: set[str] = set()
        self._others = store.last_sequence()
        if self._followed < 0:  # a new store: of what is in the books only the latest may belong to its first traces
            self._followed = self._kept_followed = max(0, books.last_sequence() - _LOOK_BACK)
            store.record(Record(followed=self._followed))
        else:
            self._recover()

    # --- what comes in ----------------------------------------------------------------------------------------

    def resume(self, now_s: float) -> None:
        """Take in what waited when the last process ended."""
        last = 0
        while found := self._store.arrivals_after(last):
            for arrival, observations in found:
                self.take(observations, arrival, now_s)
            last = found[-1][0]

    def take(self, observations: Iterable[Observation], arrival: int, now_s: float) -> None:
        """Observations that are in the store as this arrival."""
        touched: set[str] = set()
        count = 0
        for observation in observations:
            key = observation.trace_id if observation.source == "span" else ""
            key = key or trace_key(observation)
            open_ = self._opens.get(key)
            if open_ is None:
                open_ = self._opens[key] = OpenTrace(key)
            open_.fresh.append(observation)
            if observation.source == "span":
                open_.root_ended = open_.root_ended or not observation.parent_id
            else:
                open_.root_ended = open_.root_ended or not observation.trace_id
            touched.add(key)
            count += 1
        self.backlog += count
        for key in touched:
            open_ = self._opens[key]
            open_.arrivals.add(arrival)
            self._wait(open_, now_s, now_s)
        if touched:
            self._arrivals[arrival] = self._arrivals.get(arrival, 0) + len(touched)
        else:
            self._store.record(Record(decided=[arrival]))

    def _wait(self, open_: OpenTrace, first_s: float, last_s: float) -> None:
        if open_.key not in self._pending:
            self._pending[open_.key] = open_
            open_.first_s = first_s
        open_.last_s = last_s

    def _touch(self, trace: str, key: str, now_s: float) -> None:
        open_ = self._opens.get(trace)
        if open_ is None:
            open_ = self._opens[trace] = OpenTrace(trace)
        open_.touched.add(key)
        self._wait(open_, now_s - LATEST_S, now_s - QUIET_S)

    # --- evaluation -------------------------------------------------------------------------------------------

    def evaluate(self, now_s: float, *, everything: bool = False) -> bool:
        """Decide a batch of what is due. Returns whether more is. Raises BooksError, and then it is all still due."""
        if self._broken:
            self._again(now_s)
        self._follow(now_s)
        self._look_at_others(now_s)
        for key in [key for key, at_s in self._resting.items() if at_s <= now_s or everything]:
            del self._resting[key]
            if open_ := self._opens.get(key):
                open_.resting = True
                self._wait(open_, now_s - LATEST_S, now_s - QUIET_S)
        batch: list[OpenTrace] = []
        size = 0
        for open_ in self._pending.values():
            if size >= _BATCH:
                break
            if everything or open_.is_due(now_s):
                batch.append(open_)
                size += len(open_.fresh) + 1
        if not batch:
            return False
        self._evaluate(batch, now_s)
        return any(everything or open_.is_due(now_s) for open_ in self._pending.values())

    def _again(self, now_s: float) -> None:
        """Begin from what is on disk: something could not be written, and what is in memory may not be true."""
        self._opens.clear()
        self._pending.clear()
        self._resting.clear()
        self._arrivals.clear()
        self._places = self.backlog = 0
        self._recover()
        self.resume(now_s)
        self._broken = False

    def _evaluate(self, batch: Sequence[OpenTrace], now_s: float) -> None:
        before = sum(len(open_.trace) for open_ in batch)
        try:
            changes = self._decide(batch)
            if changes.retracted or changes.attempts:
                budgets = partial(observed_claim, self._rulebook().budgets)
                changes.counts["retracted"] += self._books.revise(changes.retracted, changes.attempts, budgets=budgets)
            self._end(batch, changes, now_s)
            self._store.record(changes.record)
        except BaseException:
            self._broken = True
            raise
        self.counts.update(changes.counts)
        for open_, states in changes.states:
            open_.states.update(states)
        waiting = self._followers(changes.retracted)
        for trace, key in waiting:
            self._touch(trace, key, now_s)
        self._touch_metrics(changes.record.figured, now_s)
        self._places += sum(len(open_.trace) for open_ in batch) - before
        self._forget_oldest()

    def _decide(self, batch: Sequence[OpenTrace]) -> _Changes:
        changes = _Changes()
        record = changes.record
        self._load([open_ for open_ in batch if not open_.loaded])
        tools = self._rulebook().tools
        decided: list[tuple[OpenTrace, list[Verdict]]] = []
        for open_ in batch:
            open_.trace.take_all(open_.fresh)
            if not open_.is_metrics:
                record.figured.update({each.group for each in open_.fresh if each.group and figures(each)})
            for key in open_.touched:
                open_.trace.touch(key)
            verdicts = open_.trace.decide(at_rest=open_.resting or open_.root_ended or open_.trace.ended, tools=tools)
            decided.append((open_, [each for each in verdicts if each.observation.door == "otlp"]))
        record.figured -= self._known_groups
        holders = self._holders([v for _, verdicts in decided for v in verdicts])
        before = dict(holders)
        for open_, verdicts in decided:
            claim(open_.key, verdicts, holders)
        for key, holder in before.items():
            if holders[key] != holder:
                changes.retracted.append(holder.attempt_id)
        groups = self._figured([v for _, verdicts in decided for v in verdicts], record.figured)
        for open_, verdicts in decided:
            states: dict[str, State] = {}
            final = in_groups(contest(open_.key, verdicts, holders), groups if open_.is_metrics else _NOBODY_ELSE)
            kept = [row for each in final if (row := self._change(open_, each, changes, states)) is not None]
            if kept:
                record.segments.append(Segment(open_.key, kept))
                changes.states.append((open_, states))
        self._touch_beaten(before, holders, record)
        return changes

    def _change(
        self, open_: OpenTrace, verdict: Verdict, changes: _Changes, states: dict[str, State]
    ) -> KeptSpan | None:
        """Enter what a verdict changes. Returns what is to be kept of it, None when it is as it was."""
        key, seen, scope = verdict.key, verdict.observation, verdict.scope
        if scope.key:
            scope = self._with_defaults(scope)
            verdict = Verdict(key, seen, scope, verdict.fate, verdict.link)
        state = open_.states.get(key, UNDECIDED)
        if state is UNDECIDED and verdict.fate not in ("charged", "linked"):  # most spans: nothing is paid for by them
            states[key] = State(0, "", seen, scope)
            return kept_of(open_.key, verdict, attempt_id="", version=0, charged=False, revised=False)
        attempt_id, version = "", state.version
        if verdict.fate == "charged":
            if state.attempt_id and state.seen == seen and state.scope == scope:
                attempt_id = state.attempt_id
            else:
                attempt_id, version = self._book(open_, verdict, state, changes)
            if key in open_.imports:
                changes.retracted.append(open_.imports[key])
        elif state.attempt_id:
            changes.retracted.append(state.attempt_id)
        if verdict.fate == "linked":
            self._follow_holder(open_, verdict, changes)
        stands_for = attempt_id
        if verdict.fate == "linked" and verdict.link not in open_.trace and seen.source != "metric":
            stands_for = verdict.link
        after = State(version, attempt_id, seen, scope, stands_for)
        if state is not UNDECIDED and after == state:
            return None
        if verdict.fate == "linked" and not state.stands_for:
            changes.counts["linked"] += 1
        states[key] = after
        return kept_of(
            open_.key, verdict, attempt_id=stands_for, version=version, charged=bool(attempt_id), revised=state.seen is not None,
        )  # fmt: skip

    def _book(self, open_: OpenTrace, verdict: Verdict, state: State, changes: _Changes) -> tuple[str, int]:
        """Charge an observation, in the place of what it was charged before."""
        seen = verdict.observation
        rulebook = self._rulebook()
        rule = rulebook.providers.get(seen.provider)
        price_id = rule.provider.price_id("/") if rule else seen.provider
        priced = price(seen, rulebook.book, rulebook.tools, price_id=price_id)
        base = attempt_base(open_.key, verdict.key)
        if state.attempt_id and state.payload:
            same = attempt_of(verdict, priced, attempt_id=state.attempt_id, door="otlp")
            if encode_attempt(same) == state.payload:
                return state.attempt_id, state.version
        if state.attempt_id:
            changes.retracted.append(state.attempt_id)
        version = state.version + 1
        attempt_id = base if version == 1 else f"{base}#{version}"
        changes.attempts.append(attempt_of(verdict, priced, attempt_id=attempt_id, door="otlp"))
        changes.counts["charged"] += 1
        return attempt_id, version

    def _follow_holder(self, open_: OpenTrace, verdict: Verdict, changes: _Changes) -> None:
        """Remember who is to be asked again should the holder of the same response give it up."""
        if verdict.link.startswith("otlp:"):
            changes.record.followers.append((verdict.link.partition("#")[0], open_.key, verdict.key))

    def _touch_beaten(self, before: dict[str, Holder], after: dict[str, Holder], record: Record) -> None:
        """Those that hold a response no more are decided again, and follow who does."""
        for key, holder in before.items():
            if after[key] != holder and (place := place_of(holder.attempt_id)):
                record.followers.append((after[key].attempt_id.partition("#")[0], *place))

    def _end(self, batch: Sequence[OpenTrace], changes: _Changes, now_s: float) -> None:
        """What waits no more."""
        for open_ in batch:
            self.backlog -= len(open_.fresh)
            open_.fresh = []
            open_.touched = set()
            del self._pending[open_.key]
            self._opens.move_to_end(open_.key)
            if len(open_.trace) >= _TRACE_PLACES_MAX:
                self.full.add(open_.key)
            if open_.trace.waiting and not open_.resting:
                self._resting[open_.key] = now_s + _REST_S
                continue
            open_.resting = False
            self._resting.pop(open_.key, None)
            for arrival in open_.arrivals:
                self._arrivals[arrival] -= 1
                if not self._arrivals[arrival]:
                    del self._arrivals[arrival]
                    changes.record.decided.append(arrival)
            open_.arrivals = set()
        if not self._recovered:  # until then it says where to read them again
            changes.record.followed = self._kept_followed = self._followed

    def _forget_oldest(self) -> None:
        while self._places > _PLACES_MAX:
            oldest = next(
                (o for o in self._opens.values() if o.key not in self._pending and o.key not in self._resting), None
            )
            if oldest is None:
                return
            self._places -= len(oldest.trace)
            del self._opens[oldest.key]

    # --- what is known already --------------------------------------------------------------------------------

    def _load(self, opens: Sequence[OpenTrace]) -> None:
        keys = [open_.key for open_ in opens]
        if not keys:
            return
        kept = self._store.traces(keys)
        nearer = self._store.nearer(keys)
        for open_ in opens:
            for row in kept.get(open_.key, ()):
                seen = row.observation()
                open_.trace.take(seen)
                if seen.door == "otlp":
                    open_.states[row.row.span_id] = State(
                        row.rest.version, charged_attempt(row), seen, row.scope, row.row.attempt_id
                    )
            for key, state in self._recovered.pop(open_.key, {}).items():
                before = open_.states.get(key, UNDECIDED)
                if state.version > before.version or state.attempt_id != before.attempt_id:
                    open_.states[key] = replace(state, seen=before.seen) if before.seen else state
            open_.loaded = True
        by_key = {open_.key: open_ for open_ in opens}
        for row in nearer:
            meet(by_key[row.trace], row)

    def _holders(self, verdicts: Sequence[Verdict]) -> dict[str, Holder]:
        """Who has been charged for the responses of these, in the books, or for the requests that brought them."""
        keys = list({k for v in verdicts if v.fate in ("charged", "waiting") and (k := response_key(v.observation))})
        holders: dict[str, Holder] = {}
        booked = select_in(
            self._books.connection,
            "SELECT response_key, attempt_id, json_extract(payload, '$.door') FROM entry e WHERE stage = 1 AND NOT EXISTS"
            " (SELECT 1 FROM entry r WHERE r.attempt_id = e.attempt_id AND r.stage = 2 AND r.kind = 'retract')"
            " AND response_key IN",
            keys,
        )
        for key, attempt_id, door in (*booked, *self._store.requests(keys)):
            found = Holder(attempt_id, source_of(attempt_id, door))
            holders[key] = nearest(holders[key], found) if key in holders else found
        return holders

    def _figured(self, verdicts: Sequence[Verdict], new: set[str]) -> set[str]:
        names = {v.observation.group for v in verdicts if v.observation.source == "metric"}
        return new | self._store.figured(list(names)) if names else new

    def _followers(self, retracted: Sequence[str]) -> list[tuple[str, str]]:
        bases = list({attempt_id.partition("#")[0] for attempt_id in retracted})
        places = [place for attempt_id in bases if (place := place_of(attempt_id))]
        return [*places, *self._store.followers(bases)] if bases else []

    def _touch_metrics(self, groups: set[str], now_s: float) -> None:
        """Groups that have sent something better than metrics: these are decided again."""
        keys = [metrics_key(group) for group in groups]
        known = self._store.known(keys)
        for key in keys:
            open_ = self._opens.get(key)
            if open_ is not None and open_.loaded:
                self._places -= len(open_.trace)
                open_.forget()
            if open_ is not None or key in known:
                self._touch(key, "", now_s)
        if len(self._known_groups) > _KEYS_MAX:
            self._known_groups.clear()
        self._known_groups |= groups

    def _with_defaults(self, scope: Scope) -> Scope:
        """What a virtual key says of columns that neither the observation nor anything above it says."""
        if scope.key not in self._keys:
            if len(self._keys) >= _KEYS_MAX:
                self._keys.clear()
            found = self._books.connection.execute(
                "SELECT scope FROM virtual_key WHERE name = ?", (scope.key,)
            ).fetchone()
            self._keys[scope.key] = msgspec.json.decode(found[0], type=_KeptKey).scope if found else None
        defaults = self._keys[scope.key]
        return scope.over(defaults) if defaults is not None else scope

    # --- other doors ------------------------------------------------------------------------------------------

    def _follow(self, now_s: float) -> None:
        """Take note of what other doors have charged since the last time."""
        last = self._books.last_sequence()
        while self._followed < last:
            rows = self._books.connection.execute(
                "SELECT sequence, attempt_id, payload FROM entry WHERE sequence > ? AND sequence <= ? AND stage = 1"
                " AND payload IS NOT NULL AND (attempt_id NOT GLOB 'otlp:*' OR instr(payload, ?)) ORDER BY sequence LIMIT ?",
                (self._followed, last, _IMPORTED, _FOLLOW_MAX),
            ).fetchall()
            self._meet_all([(attempt_id, _decode_seen(payload)) for _, attempt_id, payload in rows], now_s)
            self._followed = rows[-1][0] if len(rows) == _FOLLOW_MAX else last
        if self._followed - self._kept_followed > _FOLLOW_MAX and not self._recovered:
            self._kept_followed = self._followed
            self._store.record(Record(followed=self._followed))

    def _meet_all(self, found: Sequence[tuple[str, _Seen]], now_s: float) -> None:
        rows = [
            NearerRow(attempt_id, *place, seen.kind, seen.door)
            for attempt_id, seen in found
            if all(place := place_of(attempt_id) or (seen.trace_id, seen.span_id))
        ]
        requests = [(key, attempt_id, seen.door) for attempt_id, seen in found if (key := seen.request_key)]
        if rows or requests:
            self._store.record(Record(nearer=rows, requests=requests))
        if rows:
            known = self._store.known([row.trace for row in rows if row.trace not in self._opens])
            for row in rows:
                open_ = self._opens.get(row.trace)
                if open_ is not None and open_.loaded:
                    meet(open_, row)
                if open_ is not None or row.trace in known:
                    self._touch(row.trace, row.span_id, now_s)
        keys = [f"{seen.provider}:{seen.response_id}"[:256] for _, seen in found if seen.response_id]
        keys += [key for key, _, _ in requests]
        if keys:
            for (attempt_id,) in select_in(
                self._books.connection,
                "SELECT attempt_id FROM entry WHERE stage = 1 AND attempt_id GLOB 'otlp:*' AND response_key IN",
                keys,
            ):
                if place := place_of(attempt_id):
                    self._touch(*place, now_s)

    def _look_at_others(self, now_s: float) -> None:
        """Take in what other processes have written of the traces that are decided here."""
        version = self._store.data_version()
        if version == self._version:
            return
        self._version = version
        self._others, traces = self._store.others_after(self._others)
        known = self._store.known([trace for trace in traces if trace not in self._opens])
        for trace in traces:
            open_ = self._opens.get(trace)
            if open_ is None and trace not in known:
                continue
            if open_ is not None and open_.loaded:
                self._places -= len(open_.trace)
                open_.forget()
            self._touch(trace, "", now_s)

    def _recover(self) -> None:
        """Read from the books what was booked and may not have been kept."""
        self._recovered.clear()
        rows = self._books.connection.execute(
            "SELECT attempt_id, stage, payload FROM entry WHERE sequence > ? AND attempt_id GLOB 'otlp:*' ORDER BY sequence",
            (self._store.followed(),),
        )
        for attempt_id, stage, payload in rows:
            place = place_of(attempt_id)
            if place is None or _IMPORTED in payload:
                continue
            states = self._recovered.setdefault(place[0], {})
            version = version_of(attempt_id)
            if stage == 1:
                states[place[1]] = State(version, attempt_id, payload=payload)
            elif states.get(place[1], UNDECIDED).attempt_id in ("", attempt_id):
                states[place[1]] = State(version, "")
        for trace, kept in self._store.traces(list(self._recovered)).items():
            for row in kept:
                state = self._recovered[trace].get(row.row.span_id)
                if state and (state.version, state.attempt_id) == (row.rest.version, charged_attempt(row)):
                    del self._recovered[trace][row.row.span_id]
        self._recovered = {trace: states for trace, states in self._recovered.items() if states}


class _KeptKey(msgspec.Struct):
    scope: Scope
