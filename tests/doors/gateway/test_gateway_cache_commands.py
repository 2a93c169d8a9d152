"""`bursar cache` beside a running server: what it clears is not given again, and it leaves the server its file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from house import CHAT, House, gateway

from bursar.adapters.cache_open import open_tool_cache_store
from bursar.compose import now_us
from bursar.config import Cache, Settings
from bursar.core.caching import KEY_HEX_LENGTH, CacheEntry

COLD: dict[str, Any] = {**CHAT, "temperature": 0}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-server-1234")


def settings(store: Any) -> Settings:
    return Settings(routes={"*": {"cache": {"ttl": "1h"}}}, cache=Cache(store=store))


async def asked(house: House, seed: int = 0) -> Any:
    body = {**COLD, "seed": seed}
    answer = await house.client.post("/v1/chat/completions", headers={"authorization": "Bearer x"}, json=body)
    return answer.headers


async def run(data: Path, *arguments: str, store: str = "sqlite") -> subprocess.CompletedProcess[str]:
    config = data.with_name(f"{store}.yaml")
    config.write_text(f"cache: {{store: {store}}}\n", encoding="utf-8")
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "bursar", "cache", *arguments, "--data", str(data)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BURSAR_CONFIG": str(config)},
    )


def open_files() -> list[str]:
    """What this process has open, where the system tells."""
    folder = Path("/proc/self/fd")
    return [str(each.readlink()) for each in folder.iterdir() if each.is_symlink()] if folder.exists() else []


async def test_the_file_stays_the_servers(tmp_path: Path) -> None:
    """Commands open and close it: its log is not taken away, and what they clear the server does not give again."""
    data = tmp_path / "data"
    async with gateway(data, settings=settings("sqlite")) as house:
        assert [(await asked(house))["x-bursar-cache"] for _ in range(2)] == ["miss", "exact"]
        for _ in range(2):
            done = await run(data, "stats")
            assert done.returncode == 0, done.stderr
            assert "sqlite: 1 kept" in done.stdout
        assert (await asked(house))["x-bursar-cache"] == "exact"
        done = await run(data, "clear", "--route", "*")
        assert (done.returncode, done.stdout) == (0, "Removed 1 answer.\n")
        await asyncio.sleep(1)  # what is in memory is looked up again by then
        assert [(await asked(house))["x-bursar-cache"] for _ in range(2)] == ["miss", "exact"]
        assert [name for name in open_files() if str(data) in name and "deleted" in name] == []


async def test_what_the_server_has_in_memory_is_seen_and_cleared(tmp_path: Path) -> None:
    """Through its API: nobody else can. What it refuses is told."""
    data = tmp_path / "data"
    async with gateway(data, settings=settings("memory")) as house:
        for seed in (0, 1, 0):
            headers = await asked(house, seed)
        assert headers["x-bursar-cache"] == "exact"
        stats = json.loads((await run(data, "stats", "--json", store="memory")).stdout)
        assert [(each["store"], each["entries"]) for each in stats["stores"]] == [("memory", 2)]
        done = await run(data, "clear", "--route", "nothing", "--json", store="memory")
        assert json.loads(done.stdout) == {"removed": 0, "stores": [{"store": "memory", "removed": 0}]}
        done = await run(data, "clear", "--all", "--yes", store="memory")
        assert (done.returncode, done.stdout) == (0, "Removed 2 answers.\n")
        assert (await asked(house))["x-bursar-cache"] == "miss"
    async with gateway(data, settings=Settings()) as house:
        done = await run(data, "clear", "--all", "--yes", store="memory")
        assert (done.returncode, done.stdout) == (0, "Removed 0 answers.\n")
        assert "no route has `cache`" in (await run(data, "stats", store="memory")).stdout
    done = await run(data, "clear", "--all", "--yes", store="memory")  # without a server there is no memory
    assert (done.returncode, done.stdout) == (0, "Removed 0 answers.\n")


async def test_a_server_with_another_configuration_is_seen_and_cleared(tmp_path: Path) -> None:
    """What the commands' own bursar.yaml does not say, the server does: its memory is shown beside the file, and a file that both
    use once."""
    data = tmp_path / "data"
    async with gateway(data, settings=settings("memory")) as house:
        for seed in (0, 1, 0):
            await asked(house, seed)
        stats = json.loads((await run(data, "stats", "--json")).stdout)
        assert [(each["store"], each["entries"]) for each in stats["stores"]] == [("server", 2)]
        await asyncio.to_thread(keep_a_result, data)
        done = await run(data, "stats")
        assert ["sqlite: 1 kept" in done.stdout, "server: 2 kept" in done.stdout] == [True, True]
        done = await run(data, "clear", "--all", "--yes", "--json")
        stores = [{"store": "server", "removed": 2}, {"store": "sqlite", "removed": 1}]
        assert json.loads(done.stdout) == {"removed": 3, "stores": stores}
        assert (await asked(house))["x-bursar-cache"] == "miss"
    async with gateway(data, settings=settings("sqlite")) as house:
        await asked(house)
        stats = json.loads((await run(data, "stats", "--json")).stdout)
        assert [(each["store"], each["entries"]) for each in stats["stores"]] == [("sqlite", 1)]


def keep_a_result(data: Path) -> None:
    store = open_tool_cache_store(
        data / "cache.sqlite3", size_mb=500, memory_mb=1, encryption_env=None, environment={}, clock_us=now_us
    )
    with closing(store):
        store.put(
            CacheEntry(
                key="00" * (KEY_HEX_LENGTH // 2), tenant="", route="tool:look", body=b"1", content_type="application/json",
                stream=False, provider="tool", model="look", cost=None, usage=(), attempt_id="a", stored_us=now_us(),
                expires_us=now_us() + 10**9, stale_us=now_us() + 10**9, tags=(), operation="tool",
            )
        )  # fmt: skip


async def test_a_wrong_answer_is_named_as_for_why(tmp_path: Path) -> None:
    """By the beginning of the call's id, or as the last one; what the server does not know is told."""
    data = tmp_path / "data"
    async with gateway(data, settings=settings("memory")) as house:
        await asked(house)
        given = (await asked(house))["x-bursar-call-id"]
        done = await run(data, "wrong", given[:-1])
        assert (done.returncode, done.stderr) == (0, "")
        assert given in done.stdout
        assert [(await asked(house))["x-bursar-cache"] for _ in range(2)] == ["miss", "exact"]
        assert (await run(data, "wrong", "last")).returncode == 0
        missed = (await asked(house))["x-bursar-call-id"]
        for name in (missed, "last", "nope"):
            done = await run(data, "wrong", name)
            assert done.returncode == 1
            assert "no kept answer was given" in done.stderr
    done = await run(data, "wrong", given)
    assert done.returncode == 1
    assert "no server runs" in done.stderr
