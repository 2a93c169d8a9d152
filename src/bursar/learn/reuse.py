"""How often a prefix is asked for again, and how soon: what a prompt cache is worth.

Rule 1: every request is a question: is its prefix asked for again within five minutes, within an hour? A question that nobody answers
        in five minutes counts as a no; an answer within the hour makes it a yes for the hour. Threads that end are counted so.
Rule 2: the prefix itself (a thread, or the digest of tools and system text) has its own count. While that is small, the count of its
        kind and group speaks for it, as ``_OTHERS`` questions would.
Rule 3: before anything is known of a group, the request says whether it goes on: with tools, or after an answer, one question in two is
        expected to be a yes (Laplace's rule of succession), else none. Marks set on that expectation are few: evidence comes in five minutes.
Rule 4: until they are answered, questions of a group count as half a no each, up to ``_OPEN_NOES``: many calls at once that nobody comes
        back to are found out after a few. Against evidence that is there they weigh little.
Rule 5: old evidence fades: past ``_FADE_AT`` questions all counts are halved.
Rule 6: keys are bounded; what has not been asked for longest is forgotten first. So are open questions: with more of them than that,
        the oldest count as a no. Nothing of a prompt is kept here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from bursar.core.prompt_cache import TTLS_S, Chance

__all__ = ["Reuse"]

_OTHERS: Final = 4
_FADE_AT: Final = 200
_OPEN_NOES: Final = 3
_KEYS_MAX: Final = 20_000
_GROUPS_MAX: Final = 4_000
_WAITING_MAX: Final = 200_000
_FIVE_US: Final = TTLS_S["5m"] * 1_000_000
_HOUR_US: Final = TTLS_S["1h"] * 1_000_000


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


class _Asked:
    """One prefix: its own count, and when it was last asked for. ``open``: the last question has no answer yet."""

    __slots__ = ("at_us", "count", "group", "open")

    def __init__(self, group: _Count) -> None:
        self.count = _Count()
        self.group = group
        self.at_us = 0
        self.open = False

    def add(self, five: int, hour: int, of: int) -> None:
        self.count.add(five, hour, of)
        self.group.add(five, hour, of)

    def opened(self, at_us: int) -> None:
        self.group.open += not self.open
        self.at_us, self.open = at_us, True

    def answered(self, yes: int) -> None:
        self.group.open -= self.open
        self.open = False
        self.add(yes, yes, 1)


class Reuse:
    """One per process. Times never run backwards by more than clocks do."""

    def __init__(self) -> None:
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()
        self._groups: dict[tuple[str, str], _Count] = {}
        self._waiting: deque[tuple[int, _Asked]] = deque()

    def saw(self, kind: str, group: str, key: str, at_us: int, *, again: bool = True) -> None:
        """A request with this prefix at this time. ``again`` False: it is of the same thread, and its prefix is another one."""
        self._give_up(at_us)
        asked = self._asked.get((kind, key))
        if asked is None:
            asked = self._asked[kind, key] = _Asked(self._group(kind, group))
            if len(self._asked) > _KEYS_MAX:
                self._asked.popitem(last=False)
        else:
            self._asked.move_to_end((kind, key))
            gap_us = at_us - asked.at_us
            if asked.open:
                asked.answered(int(again and gap_us <= _FIVE_US))
            elif again and gap_us <= _HOUR_US:
                asked.add(0, 1, 0)
        asked.opened(at_us)
        self._waiting.append((at_us, asked))

    def parted(self, kind: str, key: str) -> None:
        """Whoever asked for this prefix last has asked for another one since: its question is answered with a no."""
        asked = self._asked.get((kind, key))
        if asked is not None and asked.open:
            asked.answered(0)

    def chance(self, kind: str, group: str, key: str, *, goes_on: bool) -> Chance:
        """How likely this prefix is asked for again."""
        asked = self._asked.get((kind, key))
        found = self._groups.get((kind, group))
        five, hour, of = (found.five, found.hour, found.of) if found else (0, 0, 0)
        if goes_on:
            five, hour = five + 1, hour + 1
        of += 2
        if found is not None:
            of += min(_OPEN_NOES, max(0, found.open - 1) // 2)  # this request's own question is one of them
        if asked is None:
            return Chance(five, hour, of)
        own = asked.count
        return Chance(own.five * of + _OTHERS * five, own.hour * of + _OTHERS * hour, (own.of + _OTHERS) * of)

    def _group(self, kind: str, group: str) -> _Count:
        found = self._groups.get((kind, group))
        if found is None:
            found = _Count()
            if len(self._groups) < _GROUPS_MAX:
                self._groups[kind, group] = found
        return found

    def _give_up(self, now_us: int) -> None:
        while self._waiting and (now_us - self._waiting[0][0] > _FIVE_US or len(self._waiting) > _WAITING_MAX):
            at_us, asked = self._waiting.popleft()
            if asked.open and asked.at_us == at_us:
                asked.answered(0)
