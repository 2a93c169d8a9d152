"""The simulated providers for all tests here, and for each test a data directory with the door open on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_room import Room, Script, Sims, simulated


@pytest.fixture(scope="session")
def running_sims() -> Iterator[Sims]:
    with simulated() as sims:
        yield sims


@pytest.fixture
def sims(running_sims: Sims) -> Sims:
    for each in running_sims.all:
        each.simulator.reset()
    return running_sims


@pytest.fixture
def closed_room(sims: Sims, tmp_path: Path) -> Iterator[Room]:
    """A room whose door the test opens. What it leaves is proved clean."""
    room = Room(tmp_path / "data", sims)
    yield room
    room.close()


@pytest.fixture
def room(closed_room: Room) -> Room:
    closed_room.init()
    return closed_room


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()
