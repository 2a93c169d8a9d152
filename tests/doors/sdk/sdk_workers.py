"""What runs in other processes: light to import, for those that start from nothing."""

from __future__ import annotations

import bursar

__all__ = ["here", "pay", "short_work", "start_up", "work"]


def pay(name: str) -> None:
    """One paid thing, to be found again by its name."""
    bursar.charge(name, price="0.001")


def here() -> str:
    """The task that code is inside of, "" outside."""
    found = bursar.current()
    return found.id if found is not None else ""


def work(name: str) -> tuple[str, bool]:
    """Pays, and says where it was."""
    pay(name)
    return here(), bursar.flush(10)


def start_up(path: str, config: str) -> None:
    """What a worker that is no fork does first."""
    bursar.init(data=path, config=config)


def short_work(path: str, config: str, initialize: bool) -> None:
    """Pays three times and is gone."""
    if initialize:
        start_up(path, config)
    for number in range(3):
        pay(f"worker{number}")
