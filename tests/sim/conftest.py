"""A running simulator for tests that speak HTTP."""

from collections.abc import AsyncIterator

import pytest

from bursar.sim import Served, Simulator, serve


@pytest.fixture
async def sim() -> AsyncIterator[Served]:
    async with serve(Simulator(seed=7)) as served:
        yield served
