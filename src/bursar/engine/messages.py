"""What goes between an agent's process and the Bursar server that holds for it, as JSON over HTTP.

    POST /bursar/v1/hold      Ask            -> Permission
    POST /bursar/v1/extend    Extension      -> Extended
    POST /bursar/v1/told      Told           -> {}
    GET  /bursar/v1/tasks/ID                 -> TaskUse

Rule 1: saying anything again changes nothing: calls, spans and outcomes are known by their ids.
Rule 2: a message that a server does not understand is refused whole (400): nothing of it was taken.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bursar.core.admission import Refusal
from bursar.core.budgets import TaskLimit
from bursar.core.observations import Observation, TaskOutcome
from bursar.core.values import valueclass

from .permits import Ask, Ended, Permit
from .ports import TaskUse

__all__ = [
    "ASK",
    "EXTENDED",
    "EXTENSION",
    "PERMISSION",
    "PREFIX",
    "TASK_USE",
    "TOLD",
    "Extended",
    "Extension",
    "Permission",
    "Told",
    "encode",
]

PREFIX: Final = "/bursar/v1/"


@valueclass
class Permission:
    """The answer to an ask: a permit, or why there is none."""

    permit: Permit | None = None
    refusal: Refusal | None = None
    reason: str = ""


@valueclass
class Extension:
    """A running stream that must be paid for up to so many output tokens."""

    permit: Permit
    to_tokens: int


@valueclass
class Extended:
    """ "" when it is."""

    reason: str = ""


@valueclass
class Told:
    """What has happened: endings of calls, spans, outcomes, and tasks with their limits, the top first."""

    endings: tuple[Ended, ...] = ()
    spans: tuple[Observation, ...] = ()
    outcomes: tuple[TaskOutcome, ...] = ()
    tasks: tuple[TaskLimit, ...] = ()


encode: Final = msgspec.json.Encoder().encode

ASK: Final = msgspec.json.Decoder(Ask)
PERMISSION: Final = msgspec.json.Decoder(Permission)
EXTENSION: Final = msgspec.json.Decoder(Extension)
EXTENDED: Final = msgspec.json.Decoder(Extended)
TOLD: Final = msgspec.json.Decoder(Told)
TASK_USE: Final = msgspec.json.Decoder(TaskUse)
