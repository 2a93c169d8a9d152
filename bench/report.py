"""Figures, the table of them, and the JSON.

Rule 1: a figure stands beside a reference that was measured in the same run; the ratio is what can be compared.
Rule 2: a goal is met or missed, in so many words. What was not measured says why and has no number.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Figure", "Report", "aligned", "not_measured", "shown", "write_json"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``goal_met`` is None where no goal was set or nothing was measured."""

    name: str
    value: float | None
    unit: str
    reference: str = ""
    reference_value: float | None = None
    goal: str = ""
    goal_met: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.value is None or not self.reference_value:
            return None
        return self.value / self.reference_value


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one part, and what else is worth saying."""

    part: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        rows = [("", "", "reference", "", "ratio", "goal", "")]
        for figure in self.figures:
            verdict = {True: "met", False: "MISSED", None: ""}[figure.goal_met]
            ratio = "" if figure.ratio is None else f"{shown(figure.ratio)} x"
            reference = "" if figure.reference_value is None else f"{shown(figure.reference_value)} {figure.unit}"
            value = "not measured" if figure.value is None else f"{shown(figure.value)} {figure.unit}"
            rows.append((figure.name, value, figure.reference, reference, ratio, figure.goal, verdict))
        lines = aligned(rows, right=(1, 3, 4))
        said = [f"  {f.name}: {f.note}" for f in self.figures if f.note]
        return "\n".join([f"== {self.part} ==", *lines, *said, *(f"  {note}" for note in self.notes)])


def aligned(rows: Sequence[Sequence[str]], *, right: Container[int]) -> list[str]:
    """A table's lines. ``right`` are the columns that end together."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            t.rjust(w) if i in right else t.ljust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def shown(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def not_measured(name: str, why: str) -> Figure:
    return Figure(name, None, "", note=f"not measured: {why}")


def write_json(path: Path, machine: dict[str, Any], reports: Iterable[Report]) -> None:
    parts = {
        report.part: {
            "figures": [{**asdict(figure), "ratio": figure.ratio} for figure in report.figures],
            "notes": report.notes,
        }
        for report in reports
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n", encoding="utf-8")
