"""The HTTP tool servers that the tests of a module share: each takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mcp_house import HttpServers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServers]:
    running = HttpServers(tmp_path_factory.mktemp("servers"))
    yield running
    running.stop_all()
