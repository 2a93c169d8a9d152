"""What a budget does to calls as its money runs out, before it refuses them.

Rule 1: a rung takes effect when the share used (spent and held, of the limit) has reached ``at``; rungs add up.
Rule 2: of several budgets, or several rungs of one kind, the strictest counts: the smallest cap, the lowest effort.
Rule 3: when a call does not fit although its rungs apply, the rungs still to come are tried in order before it is
        refused: a cheaper answer is better than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias

from .values import valueclass

__all__ = ["ACTIONS", "EFFORTS", "UNCHANGED", "Action", "Changes", "Rung", "changes_of", "cheaper_model"]

Action: TypeAlias = Literal["note", "output_cap", "effort", "model", "tier", "cached", "tools", "approve", "refuse"]

ACTIONS: Final[tuple[Action, ...]] = (
    "note", "output_cap", "effort", "model", "tier", "cached", "tools", "approve", "refuse",
)  # fmt: skip
EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Reasoning efforts, least first."""


@valueclass
class Rung:
    """One step. ``at`` is the share used at which it takes effect, in thousandths.

    What the value is depends on the action: ``note`` a text (with ``{left}``), ``output_cap`` tokens, ``effort`` one of
    ``EFFORTS``, ``model`` pairs of patterns and models, ``tier`` a service tier, ``tools`` the patterns of those that stay.
    """

    at: int
    action: Action
    text: str = ""
    number: int = 0
    models: tuple[tuple[str, str], ...] = ()
    patterns: tuple[str, ...] = ()


@valueclass
class Changes:
    """How a request differs from the one that came. Empty and None mean: as it was.

    ``output_cap`` and ``effort`` are upper limits: a request that asks for less keeps what it asks for. A tool stays
    where every list of patterns in ``tools`` lets it stay. ``short_cache`` writes prompt caches for the shorter, cheaper
    time only.
    """

    model: str = ""
    output_cap: int | None = None
    effort: str = ""
    tier: str = ""
    note: str = ""
    tools: tuple[tuple[str, ...], ...] | None = None
    short_cache: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What is changed, for headers and decisions."""
        names = [name for name in ("model", "effort", "tier", "note") if getattr(self, name)]
        if self.output_cap is not None:
            names.append("output_cap")
        if self.tools is not None:
            names.append("tools")
        if self.short_cache:
            names.append("cache_ttl")
        return tuple(names)


UNCHANGED: Final = Changes()


def changes_of(rungs: Iterable[Rung], model: str) -> Changes:
    """What these rungs make of a request for ``model``, all together."""
    changes = UNCHANGED
    for rung in rungs:
        match rung.action:
            case "note":
                changes = replace(changes, note=rung.text)
            case "output_cap":
                cap = rung.number if changes.output_cap is None else min(changes.output_cap, rung.number)
                changes = replace(changes, output_cap=cap)
            case "effort":
                effort = min((e for e in (changes.effort, rung.text) if e), key=EFFORTS.index)
                changes = replace(changes, effort=effort)
            case "model":
                changes = replace(changes, model=cheaper_model(dict(rung.models), model) or changes.model)
            case "tier":
                changes = replace(changes, tier=rung.text)
            case "tools":
                changes = replace(changes, tools=(*(changes.tools or ()), rung.patterns))
            case "cached" | "approve" | "refuse":
                pass
    return changes


def cheaper_model(models: Mapping[str, str], model: str) -> str:
    """The model that takes the place of ``model``, "" when none does: the first pattern that fits decides."""
    name = next((cheaper for pattern, cheaper in models.items() if fnmatchcase(model, pattern)), "")
    return "" if name == model else name
