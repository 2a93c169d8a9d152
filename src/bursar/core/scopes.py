"""Who a call is for.

Rule 1: every scope column is optional text; an absent column is "", never a guess.
Rule 2: labels are sorted pairs, so that equal scopes are equal values.
Rule 3: what the caller says on the call wins over what its virtual key says, except where the key pins a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Final

from .values import valueclass

__all__ = ["LABELS_MAX", "NOBODY", "SCOPE_COLUMNS", "VALUE_LENGTH_MAX", "Scope", "make_labels"]

LABELS_MAX: Final = 32
VALUE_LENGTH_MAX: Final = 256


@valueclass
class Scope:
    """Who a call is for: the columns every view can group by, and free labels."""

    org: str = ""
    team: str = ""
    project: str = ""
    user: str = ""
    agent: str = ""
    session: str = ""
    task: str = ""
    parent_task: str = ""
    key: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    def over(self, defaults: Scope) -> Scope:
        """This scope, with the columns and labels it leaves open taken from ``defaults``."""
        changes: dict[str, str] = {
            name: value for name in SCOPE_COLUMNS if not getattr(self, name) and (value := getattr(defaults, name))
        }
        labels = self.labels
        if defaults.labels:
            labels = make_labels({**dict(defaults.labels), **dict(self.labels)}.items())
        if not changes and labels == self.labels:
            return self
        return replace(self, labels=labels, **changes)

    def pinned(self, defaults: Scope, columns: tuple[str, ...]) -> Scope:
        """This scope, with the named columns always those of ``defaults``, whatever the caller said."""
        if not columns:
            return self
        return replace(self, **{name: getattr(defaults, name) for name in columns})


SCOPE_COLUMNS: Final = tuple(f.name for f in fields(Scope) if f.name != "labels")

NOBODY: Final = Scope()


def make_labels(pairs: Iterable[tuple[str, str]] | Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Sorted, unique, bounded labels. Raises ValueError past ``LABELS_MAX`` labels or ``VALUE_LENGTH_MAX`` characters."""
    labels = dict(pairs)
    if len(labels) > LABELS_MAX:
        raise ValueError(f"{len(labels)} labels on one call: at most {LABELS_MAX} are kept")
    for name, value in labels.items():
        if len(name) > VALUE_LENGTH_MAX or len(value) > VALUE_LENGTH_MAX:
            raise ValueError(f"label {name[:40]!r} is longer than {VALUE_LENGTH_MAX} characters")
    return tuple(sorted(labels.items()))
