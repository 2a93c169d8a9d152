"""The gateway is killed without warning, again and again, under load. Nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from bursar.adapters.verify import verify
from bursar.compose import open_books_file, open_data, open_ledger, settings_of
from bursar.sim import Pace, Simulator, serve

CLIENTS = 16


def write_config(folder: Path, upstream: str) -> Path:
    path = folder / "bursar.yaml"
    path.write_text(f"providers:\n  openai: {{base_url: '{upstream}/v1'}}\n", encoding="utf-8")
    return path


async def start(data: Path, config: Path) -> tuple[asyncio.subprocess.Process, str]:
    """A gateway process that listens, and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bursar", "up", "--port", "0", "--data", str(data), "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    assert line.startswith("Bursar listens on "), line
    return process, line.split()[3]


async def call(client: Client, url: str, name: str, *, stream: bool) -> str | None:
    """One call through the gateway: the response id of a whole answer, None when it was cut off."""
    body = json.dumps({"model": "gpt-5-mini", "stream": stream, "messages": [{"role": "user", "content": name}]})
    request = (
        client.post(f"{url}/v1/chat/completions").header("authorization", "Bearer k").header("x-bursar-task", name)
    )
    try:
        response = await request.body_text(body).build().send()
        text = await response.text()
    except PyreqwestError:
        return None
    if response.status != 200:
        return None
    if not stream:
        return json.loads(text)["id"]
    return json.loads(text.split("data: ", 2)[1])["id"] if text.rstrip().endswith("[DONE]") else None


async def load(url: str, round_number: int, answered: set[str]) -> None:
    """Calls without end, half of them streamed; remembers which were answered in full."""
    client = ClientBuilder().build()

    async def one(worker: int) -> None:
        number = 0
        while True:
            name = f"r{round_number}-w{worker}-{number}"
            found = await call(client, url, name, stream=bool(number % 2))
            if found is None:
                return
            answered.add(found)
            number += 1

    await asyncio.gather(*(one(worker) for worker in range(CLIENTS)))


async def kill_many_times(folder: Path, rounds: int, seed: int) -> None:
    """``rounds`` kills at random moments; then every check there is."""
    chance = random.Random(seed)
    answered: set[str] = set()
    data_path = folder / "data"
    async with serve(Simulator(seed=seed, pace=Pace(1.0, 20_000.0))) as sim:
        config = write_config(folder, sim.url)
        for number in range(rounds):
            process, url = await start(data_path, config)
            clients = asyncio.create_task(load(url, number, answered))
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            await asyncio.wait_for(clients, 20)
        process, url = await start(data_path, config)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        served = {call.response_id for call in sim.simulator.calls if call.status == 200}
    check(data_path, answered, served, rounds)


def check(data_path: Path, answered: set[str], served: set[str], rounds: int) -> None:
    data = open_data(data_path)
    with closing(open_books_file(data, settings_of(data))) as books, open_ledger(data, books) as ledger:
        assert verify(books, ledger).differences == ()
        assert books.open_holds() == 0
        (holds,) = books.connection.execute("SELECT count(*) FROM entry WHERE stage = 0").fetchone()
        (endings,) = books.connection.execute(
            "SELECT count(*) FROM entry WHERE stage = 1 AND kind <> 'void'"
        ).fetchone()
        (voids,) = books.connection.execute("SELECT count(*) FROM entry WHERE kind = 'void'").fetchone()
        assert holds == endings + voids
        rows = ledger.rows("SELECT attempt_id, response_id, status, cost_nanousd FROM attempt")
        assert len(rows) == endings
        ids = [row["response_id"] for row in rows if row["response_id"]]
        assert len(ids) == len(set(ids)), "a response was booked twice"
        assert answered <= set(ids), "an answer that a client has was not booked"
        expired = sum(row["status"] == "expired" for row in rows)
        # What the provider served and nobody heard of any more was charged by its estimate.
        assert len(served - set(ids)) <= expired
        assert all(row["cost_nanousd"] is not None and row["cost_nanousd"] > 0 for row in rows)
    print(
        f"{rounds} kills: {len(rows)} attempts, {len(answered)} answered in full, {expired} expired, none lost or doubled"
    )


async def test_killed_a_few_times(tmp_path: Path) -> None:
    """Every answered call is booked once, every call that left is settled or charged its estimate."""
    await kill_many_times(tmp_path, rounds=4, seed=7)


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_killed_two_hundred_times(tmp_path: Path) -> None:
    """The same, two hundred times."""
    await kill_many_times(tmp_path, rounds=200, seed=11)
