"""A file of kept answers for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cache_stores import a_sqlite

from bursar.adapters.cache_sqlite import SqliteCache


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.sqlite3"


@pytest.fixture
def cache(path: Path) -> Iterator[SqliteCache]:
    cache = a_sqlite(path)
    yield cache
    cache.close()
