"""Answers to similar questions: which kept answer may stand for a new one, and how that is known.

Rule 1: a candidate is the nearest entry's answer, if the ``_NEIGHBOURS`` nearest speak for it: every neighbour votes with
        exp(similarity / ``_SOFTNESS``) for its own answer, and one more, who is ``_STRANGER`` similar, for none of them. The
        odds of the vote are the stratum. Similarity alone is no evidence: where neighbours disagree, an answer depends on more.
Rule 2: an entry is a candidate only where no guard finds a difference (``guards``), and every word of content that the question
        has is known from a neighbour with that answer.
Rule 3: whether candidates of a stratum are served is for ``evidence`` to say. What is served is not checked, what is checked is not
        served: whoever asked gets the model's own answer then.
Rule 4: spaces are the caller's: tenant, route, what came before in the conversation, tools, embedder. Nothing is looked
        for in another one.
Rule 5: memory is bounded: past ``entries_max`` the entry goes that was of no use for longest.
Rule 6: evidence is of one route in one setting (the bound, and what the caller names so). Under another one it is collected anew, and what
        there was is gone: back in the first one, nothing of it comes back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import exp, log
from typing import Any, Final

from bursar.core.values import valueclass

from .evidence import Evidence
from .guards import Signature, difference, signature, unknown_words
from .nearest import Near, Nearest

__all__ = ["STATE_VERSION", "TEXT_LENGTH_MAX", "Match", "SimilarAnswers"]

STATE_VERSION: Final = 1
TEXT_LENGTH_MAX: Final = 1_000
"""Longer texts are not compared: vectors of whole pages are alike whatever a page's one odd sentence says, and models cut them."""

_NEIGHBOURS: Final = 16
_SOFTNESS: Final = 0.07
_STRANGER: Final = 0.5
_ODDS: Final = (4.0, 3.0, 2.0, 1.0)
"""The lowest natural logarithm of the odds in a stratum, the surest first: 98 %, 95 %, 88 %, 73 % of the vote."""

_SHOWN_MAX: Final = 3


@valueclass
class Match:
    """A candidate and what is to be done. ``serve``: its answer may go out. ``shadow``: ask the model and tell ``record`` whether
    the answers agree. Neither: as if there were none. ``answer`` names its answer; ``stratum`` is -1 where there is none;
    ``setting`` and ``tries`` say to which evidence a check belongs."""

    key: str
    similarity: float
    answer: str
    stratum: int
    serve: bool
    shadow: bool
    why: str
    tries: int = 0
    setting: str = ""


class _Entry:
    __slots__ = ("answer", "read", "space")

    def __init__(self, space: str, answer: str, read: Signature) -> None:
        self.space = space
        self.answer = answer
        self.read = read


class SimilarAnswers:
    """One per process, used by one thread. Evidence outlives the process by ``state`` and ``restore``; entries do not."""

    def __init__(self, *, entries_max: int = 50_000) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._spaces: dict[str, Nearest] = {}
        self._evidence: dict[str, Evidence] = {}
        self._kept: dict[str, Any] = {}
        """Evidence of earlier runs, as it was written, until its route is asked for."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, space: str, key: str, text: str, vector: Any, *, answer: str = "") -> bool:
        """Keep a question by its answer's key; keys are unique over all spaces. ``answer`` names what was answered
        (``answers.answer_name``): entries with one name are one answer. When a check agreed, it is the match's. Returns whether the text can be compared.
        Raises ValueError where the vector is not of the space."""
        if not 0 < len(text) <= TEXT_LENGTH_MAX:
            return False
        self.forget([key])
        nearest = self._spaces.get(space)
        if nearest is None:
            nearest = Nearest(len(vector))
        nearest.add(key, vector)
        self._spaces[space] = nearest
        self._entries[key] = _Entry(space, answer or key, signature(text))
        if len(self._entries) > self._entries_max:
            self.forget([next(iter(self._entries))])
        return True

    def forget(self, keys: Iterable[str]) -> None:
        """Entries that were evicted, have expired, or were wrong. Unknown ones are no mistake."""
        for key in keys:
            entry = self._entries.pop(key, None)
            if entry is None:
                continue
            nearest = self._spaces[entry.space]
            nearest.remove(key)
            if not nearest:
                del self._spaces[entry.space]

    def find(
        self,
        space: str,
        route: str,
        text: str,
        vector: Any,
        *,
        delta: float,
        draw: float,
        shadow: float = 0.05,
        setting: str = "",
    ) -> Match | None:
        """The candidate for a question, None without neighbours. ``delta`` is the largest share of false hits among hits,
        ``shadow`` the least share that is checked, ``draw`` a random number in [0, 1) of nobody else's choice.
        ``setting`` names what else the evidence depends on.
        Raises ValueError where the vector is not of the space."""
        nearest = self._spaces.get(space)
        if nearest is None or not 0 < len(text) <= TEXT_LENGTH_MAX:
            return None
        near = nearest.nearest(vector, _NEIGHBOURS)
        first = self._entries[near[0].key]
        odds = self._odds(near, first.answer)
        stratum = next((index for index, least in enumerate(_ODDS) if odds >= least), -1)
        if stratum < 0:
            why = f"declined: {_percent(odds)} of the nearest questions' vote is for one answer, {_percent(_ODDS[-1])} is needed"
            return Match(near[0].key, near[0].similarity, first.answer, -1, serve=False, shadow=False, why=why)
        chosen, refused = self._chosen(near, first.answer, signature(text))
        if refused:
            return Match(
                chosen.key, chosen.similarity, first.answer, -1, serve=False, shadow=False, why=f"declined: {refused}"
            )
        self._entries.move_to_end(chosen.key)
        evidence = self._evidence_of(route, delta, shadow, setting)
        return self._decided(evidence, chosen, first.answer, stratum, draw=draw)

    def record(self, route: str, match: Match, agreed: bool) -> None:
        """What a check of a match said; or, of one that was served, that somebody found it false. A false one is forgotten."""
        evidence = self._evidence.get(route)
        ours = evidence is not None and evidence.setting == match.setting  # or the route was set anew meanwhile
        if evidence is not None and ours and match.stratum >= 0 and (match.shadow or not agreed):
            evidence.checked(match.stratum, agreed, match.tries)
        if not agreed:
            self.forget([match.key])

    def evidence(self, route: str) -> Evidence | None:
        """What is known of a route, for reports."""
        return self._evidence.get(route)

    def state(self) -> dict[str, Any]:
        """The evidence, as plain values."""
        routes = {**self._kept, **{route: each.state() for route, each in self._evidence.items()}}
        return {"version": STATE_VERSION, "routes": routes}

    def restore(self, state: Any) -> None:
        """Evidence as it was. What cannot be read, or was collected for another bound or setting, is collected anew."""
        routes = state.get("routes") if isinstance(state, dict) and state.get("version") == STATE_VERSION else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - of strangers
        self._kept = dict(routes) if isinstance(routes, dict) else {}  # pyright: ignore[reportUnknownArgumentType] - of strangers
        self._evidence = {}

    def _odds(self, near: list[Near], answer: str) -> float:
        most = near[0].similarity
        votes = [(self._entries[each.key].answer == answer, exp((each.similarity - most) / _SOFTNESS)) for each in near]
        against = exp((_STRANGER - most) / _SOFTNESS) + sum(weight for same, weight in votes if not same)
        return log(sum(weight for same, weight in votes if same) / against)

    def _chosen(self, near: list[Near], answer: str, asked: Signature) -> tuple[Near, str]:
        """The nearest entry with this answer that no guard refuses, and "" or what the first one was refused for."""
        same = [each for each in near if self._entries[each.key].answer == answer]
        if not asked.content:
            return same[0], "the question has no words of its own"
        known = [self._entries[each.key].read for each in same]
        if unknown := unknown_words(asked, known):
            return same[0], f"no question with that answer says {', '.join(unknown[:_SHOWN_MAX])}"
        reasons: list[str] = []
        for each, read in zip(same, known, strict=True):
            reason = difference(asked, read, known)
            if not reason:
                return each, ""
            reasons.append(reason)
        return same[0], reasons[0]

    def _decided(self, evidence: Evidence, chosen: Near, answer: str, stratum: int, *, draw: float) -> Match:
        shadowed = draw < evidence.check_chance(stratum)
        right, wrong = evidence.counts(stratum)
        where = f"similarity {chosen.similarity:.2f}, at least {_percent(_ODDS[stratum])} of the vote"
        if not evidence.promoted(stratum):
            why = f"declined: {evidence.missing(stratum)} more checks must agree; {wrong} of {right + wrong} were wrong at {where}"
        elif shadowed:
            why = f"checked: drawn for it; {wrong} of {right + wrong} were wrong at {where}"
        else:
            why = f"served: {wrong} of {right + wrong} were wrong at {where}"
            evidence.served(stratum)
        return Match(
            chosen.key, chosen.similarity, answer, stratum, serve=not shadowed, shadow=shadowed, why=why,
            tries=evidence.tries(stratum), setting=evidence.setting,
        )  # fmt: skip

    def _evidence_of(self, route: str, delta: float, shadow: float, setting: str) -> Evidence:
        found = self._evidence.get(route)
        if found is None or found.errors != delta or found.setting != setting:
            # What was kept is taken out: there is one state of a route's evidence, the one that goes on.
            found = self._evidence[route] = Evidence.restored(self._kept.pop(route, None), delta, shadow, setting)
        found.shadow = shadow
        return found


def _percent(odds: float) -> str:
    return f"{100 / (1 + exp(-odds)):.3g} %"
