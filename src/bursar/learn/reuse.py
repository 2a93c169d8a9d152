"""How often a prefix is asked for again, and how soon: what a prompt cache is worth.

Rule 1: every answered request is a question: is its prefix asked for again within five minutes, within an hour? A question that nobody
        answers in five minutes counts as a no; an answer within the hour makes it a yes for the hour. Threads that end are counted so.
        A request without an answer neither asks nor answers: nothing was kept of it, and nothing was read.
Rule 2: the prefix itself (a thread, or the digest of tools and system text) has its own count. While that is small, the count of its
        kind and group speaks for it, as ``_OTHERS`` questions would; and for a small group those of all groups of its place.
Rule 3: before anything is known of a place, the request says whether it goes on: with tools, or after an answer, one question in two is
        expected to be a yes (Laplace's rule of succession), else none. Marks set on that expectation are few: evidence comes in five minutes.
Rule 4: until they are answered, questions and requests that are on their way count as half a no each, up to ``_OPEN_NOES``: many calls
        at once that nobody comes back to are found out after a few. Against evidence that is there they weigh little.
Rule 5: old evidence fades: past ``_FADE_AT`` questions all counts are halved.
Rule 6: keys and groups are bounded; what has not been asked for longest is forgotten first. So are open questions: with more of them
        than that, the oldest count as a no. Nothing of a prompt is kept here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final, NamedTuple

from bursar.core.prompt_cache import TTLS_S, Chance

__all__ = ["Question", "Reuse"]

_GROUP_OF: Final = 2
_OTHERS: Final = 4
_FADE_AT: Final = 200
_OPEN_NOES: Final = 3
_KEYS_MAX: Final = 20_000
_COUNTS_MAX: Final = 4_000
_WAITING_MAX: Final = 200_000
_FIVE_US: Final = TTLS_S["5m"] * 1_000_000
_HOUR_US: Final = TTLS_S["1h"] * 1_000_000


class Question(NamedTuple):
    """Is this prefix asked for again? ``key`` names it among those of its ``kind``, ``group`` those that are alike in a ``place`` (a
    model at a provider); ``goes_on`` says whether the request itself promises more."""

    kind: str
    key: str
    group: str
    place: str = ""
    goes_on: bool = False


class _Count:
    __slots__ = ("five", "hour", "of", "open")

    def __init__(self) -> None:
        self.five = self.hour = self.of = self.open = 0

    def add(self, five: int, hour: int, of: int) -> None:
        self.five += five
        self.hour = min(self.hour + hour, self.of + of)
        self.of += of
        if self.of >= _FADE_AT:
            self.five, self.hour, self.of = self.five // 2, self.hour // 2, self.of // 2

    def chance(self, before: Chance, weight: int, new: tuple[int, int, int], waiting: int = 0) -> Chance:
        """With what is expected beforehand, as so many questions would say it; ``new`` is the answer that is just coming."""
        of = self.of + new[2]
        five, hour = self.five + new[0], min(self.hour + new[1], of)
        noes = min(_OPEN_NOES, max(0, waiting) // 2)
        return Chance(
            five * before.of + weight * before.five,
            hour * before.of + weight * before.hour,
            (of + weight + noes) * before.of,
        )


class _Asked:
    """One prefix: its own count, and when it was last asked for. ``open``: that question has no answer yet. ``sent_us``: since when
    a request is on its way. ``over`` are the counts of the group and the place."""

    __slots__ = ("at_us", "count", "open", "over", "sent_us")

    def __init__(self) -> None:
        self.count = _Count()
        self.over: tuple[_Count, ...] = ()
        self.at_us: int | None = None
        self.sent_us: int | None = None
        self.open = False

    def answer(self, at_us: int, *, again: bool) -> tuple[int, int, int]:
        """What a request at this time says of the one before it."""
        if self.at_us is None:
            return 0, 0, 0
        gap_us = at_us - self.at_us
        if self.open:
            yes = int(again and gap_us <= _FIVE_US)
            return yes, yes, 1
        return 0, int(again and gap_us <= _HOUR_US), 0

    def add(self, five: int, hour: int, of: int) -> None:
        for each in (self.count, *self.over):
            each.add(five, hour, of)

    def wait(self, over: tuple[_Count, ...], *, is_open: bool, sent_us: int | None) -> None:
        waited = self.open or self.sent_us is not None
        for each in self.over:
            each.open -= waited
        self.over, self.open, self.sent_us = over, is_open, sent_us
        for each in over:
            each.open += is_open or sent_us is not None

    def close(self) -> None:
        """Nobody came back."""
        self.add(0, 0, 1)
        self.wait(self.over, is_open=False, sent_us=self.sent_us)


class Reuse:
    """One per process. Times never run backwards by more than clocks do."""

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()
        self._counts: OrderedDict[tuple[str, str, str | bool], _Count] = OrderedDict()
        self._waiting: deque[tuple[int, _Asked]] = deque()

    def chance(self, question: Question, at_us: int, *, again: bool = True) -> Chance:
        """How likely the prefix of a request that leaves now is asked for again. ``again`` as in ``saw``."""
        self._give_up(at_us)
        asked, (group, place) = self._of(question)
        if asked.sent_us is None:  # a second try is the same request
            asked.wait(asked.over if asked.open else (group, place), is_open=asked.open, sent_us=at_us)
            self._waiting.append((at_us, asked))
        new = asked.answer(at_us, again=again)
        goes_on = int(question.goes_on)
        found = Chance(goes_on, goes_on, _GROUP_OF)
        found = place.chance(found, _GROUP_OF, new, place.open - group.open)
        found = group.chance(found, _GROUP_OF, new, group.open - 1)  # this request's own question is one of them
        return asked.count.chance(found, _OTHERS, new)

    def saw(self, question: Question, at_us: int, *, again: bool = True) -> None:
        """A request with this prefix left at this time and was answered. ``again`` False: it is of the same thread, and its prefix is
        another one."""
        self._give_up(at_us)
        asked, over = self._of(question)
        asked.add(*asked.answer(at_us, again=again))
        asked.wait(over, is_open=True, sent_us=None)
        asked.at_us = at_us
        self._waiting.append((at_us, asked))

    def parted(self, kind: str, key: str) -> None:
        """Whoever asked for this prefix last has asked for another one since: its question is answered with a no."""
        asked = self._asked.get((kind, key))
        if asked is not None and asked.open:
            asked.close()

    def _of(self, question: Question) -> tuple[_Asked, tuple[_Count, _Count]]:
        key = (question.kind, question.key)
        asked = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = _Asked()
            if len(self._asked) > _KEYS_MAX:
                self._asked.popitem(last=False)
        else:
            self._asked.move_to_end(key)
        # A request that promises nothing says little of those that do.
        return asked, (self._count(question, question.group), self._count(question, question.goes_on))

    def _count(self, question: Question, which: str | bool) -> _Count:
        key = (question.kind, question.place, which)
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = _Count()
            if len(self._counts) > _COUNTS_MAX:
                self._counts.popitem(last=False)
        else:
            self._counts.move_to_end(key)
        return found

    def _give_up(self, now_us: int) -> None:
        while self._waiting and (now_us - self._waiting[0][0] > _FIVE_US or len(self._waiting) > _WAITING_MAX):
            at_us, asked = self._waiting.popleft()
            if asked.open and asked.at_us == at_us:
                asked.close()
            if asked.sent_us == at_us:  # it was never answered
                asked.wait(asked.over, is_open=asked.open, sent_us=None)
