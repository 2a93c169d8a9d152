"""What an import saw besides the calls it hands on.

Rule 1: nothing is passed over in silence. A row that is not booked is counted under a reason a person understands.
Rule 2: the first place of each reason is kept, as ``file:line``, so that it can be looked at.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Counts of one import. ``bytes_read`` is of files as they lie on disk, compressed or not."""

    files: int = 0
    bytes_read: int = 0
    lines: int = 0
    skipped: Counter[str] = field(default_factory=Counter[str])
    first_place: dict[str, str] = field(default_factory=dict[str, str])

    def skip(self, reason: str, place: str = "", count: int = 1) -> None:
        """Count something that is not booked. ``place`` is ``file:line``."""
        self.skipped[reason] += count
        if place:
            self.first_place.setdefault(reason, place)
