"""Whether a kind of hit may be served: a bound on the share of false ones that holds at every look.

A *candidate* is a hit that could be served; a *check* asks the model all the same and compares. Candidates fall into strata by how
sure they look. Per stratum:

Rule 1: nothing is served before evidence. All candidates are checked; with ``right`` and ``wrong`` ones so far, the wealth of a bet
        against "the share of wrong ones is ``errors`` or more" is
            W = sum over p of weight(p) * (p / errors) ** wrong * ((1 - p) / (1 - errors)) ** right
        with p in ``_BETS`` times errors. While the running mean of the wrong ones' chances is ``errors`` or more, W is at most
        a martingale that starts at 1, whatever the order and drift, so it ever reaches 1/a with a chance of at most a (Ville
        1939; betting, Waudby-Smith and Ramdas 2024, arXiv 2010.09686). It is promoted when W does: looking often costs nothing.
Rule 2: the chance of a wrong promotion, ``ALPHA``, is for all strata of a route and all their tries together. Strata share it
        (``_SHARES``), and one that has passed hands its share down to the next (the fallback procedure, Wiens and Dmitrienko
        2005). The first try of a stratum has ``_FIRST_TRY`` of its share, the k-th after it 6 / (pi k) ** 2 of the rest.
Rule 3: a promoted stratum is still checked: candidate number i since its try began with a chance of at least
            q(i) = min(1, c / (i - 1)),  c = log(ALPHA) / log(1 - errors)
        and never less than ``shadow``. False hits that go unseen must have escaped all these draws. For their number to reach the
        share ``errors`` of n candidates, the cheapest way is to be the last ones, and the product of (1 - q(i)) over the last
        errors * n of n is at most (1 - errors) ** c = ALPHA. So however the world changes, on purpose too, false hits stay
        below ``errors`` times the candidates of a try at all times, with a chance of 1 - ALPHA.
Rule 4: one false hit ends the try, evidence and all. A try whose wealth has come to nothing ends, too.
"""

from __future__ import annotations

from math import exp, inf, log, pi
from typing import Any, Final

__all__ = ["ALPHA", "STATE_VERSION", "Evidence"]

ALPHA: Final = 0.05
STATE_VERSION: Final = 2
"""1: said of no setting; it is read as evidence for ""."""

_SHARES: Final = (0.5, 0.25, 0.15, 0.1)
"""By stratum, the surest first."""

_BETS: Final = ((0.0, 0.5), (0.1, 0.2), (0.25, 0.15), (0.45, 0.1), (0.65, 0.05))
"""Shares of ``errors`` that are bet on, and how much of the stake: most of it on none being wrong (first), which is what pays soonest."""

_FIRST_TRY: Final = 0.75
_HOPELESS: Final = 0.01
_EXPONENT_MAX: Final = 700.0  # below what a float can hold


class _Stratum:
    __slots__ = ("checked", "mistaken", "passed", "promoted", "right", "served", "tries", "wrong")

    def __init__(self) -> None:
        self.tries = 1
        self.right = 0
        self.wrong = 0
        self.served = 0
        self.promoted = False
        self.passed = False
        self.checked = 0
        self.mistaken = 0

    def again(self) -> None:
        self.tries += 1
        self.right = self.wrong = self.served = 0
        self.promoted = False

    @property
    def candidates(self) -> int:
        return self.right + self.wrong + self.served


class Evidence:
    """Of one route. ``errors`` is the largest share of false hits among hits, above 0 and below 1; ``shadow`` the share of hits
    that are checked at least; ``setting`` names what else it depends on. Raises ValueError for others."""

    STRATA: Final = len(_SHARES)

    def __init__(self, errors: float, shadow: float = 0.05, setting: str = "") -> None:
        if not 0 < errors < 1 or not 0 <= shadow <= 1:
            raise ValueError(f"errors {errors} and shadow {shadow} are no shares")
        self.errors = errors
        self.shadow = shadow
        self.setting = setting
        self._strata = [_Stratum() for _ in _SHARES]
        self._bets = [
            (log(weight), log((1 - share * errors) / (1 - errors)), log(share) if share else -inf)
            for share, weight in _BETS
        ]

    def promoted(self, stratum: int) -> bool:
        return self._strata[stratum].promoted

    def check_chance(self, stratum: int) -> float:
        """The chance with which the next candidate is to be checked instead of served; 1 before promotion."""
        found = self._strata[stratum]
        if not found.promoted:
            return 1.0
        return max(self.shadow, min(1.0, log(ALPHA) / log(1 - self.errors) / max(1, found.candidates)))

    def served(self, stratum: int) -> None:
        """A candidate was served unchecked."""
        self._strata[stratum].served += 1

    def tries(self, stratum: int) -> int:
        """The number of the current try, from 1: what ``checked`` wants to know of a candidate."""
        return self._strata[stratum].tries

    def checked(self, stratum: int, agreed: bool, tries: int) -> None:
        """A candidate of a try was checked. Of promoted strata only those may be told that the draw chose, or any that was wrong.
        One that agreed is no evidence for a later try than its own: it may be from before what went wrong."""
        found = self._strata[stratum]
        if agreed and tries != found.tries:
            return
        found.checked += 1
        found.mistaken += not agreed
        if found.promoted and not agreed:
            found.again()
            return
        found.right += agreed
        found.wrong += not agreed
        if found.promoted:
            return
        wealth = self._wealth(found)
        if wealth >= 1 / self._alpha(stratum):
            found.promoted = found.passed = True
        elif wealth <= _HOPELESS:
            found.again()

    def missing(self, stratum: int) -> int:
        """How many more checks in a row have to agree before a stratum is promoted; 0 where it is."""
        found = self._strata[stratum]
        if found.promoted:
            return 0
        low, high = 0, 1
        while self._wealth(found, high) < 1 / self._alpha(stratum):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._wealth(found, middle) >= 1 / self._alpha(stratum) else (middle, high)
        return high

    def counts(self, stratum: int) -> tuple[int, int]:
        """Checks of the current try that agreed, and that did not."""
        return self._strata[stratum].right, self._strata[stratum].wrong

    def totals(self, stratum: int) -> tuple[int, int]:
        """All checks that there ever were, and how many of them did not agree."""
        return self._strata[stratum].checked, self._strata[stratum].mistaken

    def _wealth(self, found: _Stratum, more: int = 0) -> float:
        right, wrong = found.right + more, found.wrong
        first, *others = self._bets
        total = 0.0 if wrong else exp(min(first[0] + right * first[1], _EXPONENT_MAX))
        for weight, gain, loss in others:
            total += exp(min(weight + right * gain + wrong * loss, _EXPONENT_MAX))
        return total

    def _alpha(self, stratum: int) -> float:
        share = 0.0
        for index in range(stratum + 1):
            share = _SHARES[index] + (share if index and self._strata[index - 1].passed else 0.0)
        later = self._strata[stratum].tries - 1
        return ALPHA * share * ((1 - _FIRST_TRY) * 6 / (pi * later) ** 2 if later else _FIRST_TRY)

    def state(self) -> dict[str, Any]:
        """What survives a restart, as plain values."""
        fields = _Stratum.__slots__
        return {
            "version": STATE_VERSION,
            "errors": self.errors,
            "setting": self.setting,
            "strata": [{name: getattr(each, name) for name in fields} for each in self._strata],
        }

    @classmethod
    def restored(cls, state: Any, errors: float, shadow: float, setting: str = "") -> Evidence:
        """As it was; empty where the state is of an unknown version, of another bound or setting, or cannot be read: evidence is not
        guessed."""
        fresh, found = cls(errors, shadow, setting), cls(errors, shadow, setting)
        try:
            of = (state["errors"], state.get("setting", ""))
            if state["version"] not in (1, STATE_VERSION) or of != (errors, setting):
                return fresh
            if len(state["strata"]) != cls.STRATA:
                return fresh
            for stratum, values in zip(found._strata, state["strata"], strict=True):
                for name in _Stratum.__slots__:
                    value = values[name]
                    if type(value) is not type(getattr(stratum, name)) or value < 0:
                        return fresh
                    setattr(stratum, name, value)
        except (AttributeError, TypeError, KeyError):
            return fresh
        return found
