"""The critical path: of all that happened at the same time, the chain that decided when the whole ended.

Rule 1: from the end backwards. At each moment the path is in the part that ended last before it; from that part's start
        it goes on with what ended last before that. Where nothing was under way it is in what contains the parts: its
        own work, or work that nobody recorded. Inside a part the same holds for its parts. This is the walk of CRISP
        (Zhang et al., "CRISP: Critical Path Analysis of Large-Scale Microservice Architectures", USENIX ATC 2022),
        which needs no more than starts, ends and nesting.
Rule 2: the stretches of the path cover the whole from its start to its end, once: their lengths add up to it.
Rule 3: a part that sticks out of what it is in (a clock that is off, work that went on after its starter had left)
        stretches it, so that the last end is always on the path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Part", "Stretch", "critical_path"]


Ref = TypeVar("Ref")


@dataclass(slots=True)
class Part(Generic[Ref]):
    """Something with a start and an end, and what happened in it. ``ref`` is whatever the caller calls it by."""

    ref: Ref
    started_us: int
    ended_us: int
    parts: list[Part[Ref]] = field(default_factory=list["Part[Ref]"])


@dataclass(frozen=True, slots=True)
class Stretch(Generic[Ref]):
    """A piece of the critical path, and what it is in."""

    ref: Ref
    started_us: int
    ended_us: int

    @property
    def length_us(self) -> int:
        return self.ended_us - self.started_us


def critical_path(whole: Part[Ref]) -> list[Stretch[Ref]]:
    """The stretches from start to end. Nesting must have a limit; what has no length is on no path."""
    _reach(whole)
    backwards: list[Stretch[Ref]] = []
    _walk(whole, backwards)
    return backwards[::-1]


def _reach(whole: Part[Ref]) -> None:
    """Stretch everything over what is in it."""
    for part in whole.parts:
        _reach(part)
        whole.started_us = min(whole.started_us, part.started_us)
        whole.ended_us = max(whole.ended_us, part.ended_us)


def _walk(whole: Part[Ref], path: list[Stretch[Ref]]) -> None:
    cursor = whole.ended_us
    # Of two that ended together the one that began first explains more.
    for part in sorted(whole.parts, key=lambda part: (-part.ended_us, part.started_us)):
        if part.ended_us > cursor or part.ended_us <= part.started_us:
            continue
        if part.ended_us < cursor:
            path.append(Stretch(whole.ref, part.ended_us, cursor))
        _walk(part, path)
        cursor = part.started_us
    if whole.started_us < cursor:
        path.append(Stretch(whole.ref, whole.started_us, cursor))
