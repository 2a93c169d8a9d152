"""How values are made: dataclasses with slots that nobody changes.

Rule 1: a value is never changed after it was made. The type checker holds everyone to it: to it they are frozen.
Rule 2: at run time they are not. A frozen dataclass sets each field through ``object.__setattr__``, which takes two to
        four times as long; over the dozen values of one call that was a tenth of the gateway's time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, dataclass_transform

__all__ = ["valueclass"]

T = TypeVar("T")

if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    def valueclass(cls: type[T]) -> type[T]:
        """A frozen dataclass with slots."""
        ...
else:
    valueclass = dataclass(slots=True, unsafe_hash=True)
