"""The gateway is killed without warning, again and again, under load and under budgets. Nothing is lost, nothing is doubled,
nothing is spent over a limit."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
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
CONFIG = """
providers:
  openai: {{base_url: '{upstream}/v1'}}
budget_wait_s: 1
budgets:
  purse: {{limit: ${purse}, floor_tokens: 64}}
  users: {{limit: {{hour: $0.10, day: $0.15}}, each: user, tz: Europe/Berlin}}
  tokens: {{limit: 40M tokens, per: month}}
"""
LIMITS = {"users@hour": 100_000_000, "users@day": 150_000_000}
TASK_LIMIT = 5_000_000
HOUR_S = 3_600


def write_config(folder: Path, upstream: str, purse: int) -> Path:
    path = folder / "bursar.yaml"
    path.write_text(CONFIG.format(upstream=upstream, purse=purse / 1_000_000_000), encoding="utf-8")
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


async def call(client: Client, url: str, name: str, task: dict[str, str], *, stream: bool) -> tuple[int, str | None]:
    """One call through the gateway: its status (0: none came) and the response id of a whole answer."""
    body = json.dumps({"model": "gpt-5-mini", "stream": stream, "messages": [{"role": "user", "content": name}]})
    request = client.post(f"{url}/v1/chat/completions").header("authorization", "Bearer k")
    for header, value in task.items():
        request = request.header(header, value)
    try:
        response = await request.body_text(body).build().send()
        text = await response.text()
    except PyreqwestError:
        return 0, None
    if response.status != 200:
        return response.status, None
    if not stream:
        return 200, json.loads(text)["id"]
    return 200, json.loads(text.split("data: ", 2)[1])["id"] if text.rstrip().endswith("[DONE]") else None


def who(round_number: int, worker: int, number: int) -> dict[str, str]:
    """Four workers share a task with a limit; every second call is that of a child or a grandchild of it."""
    root = f"r{round_number}-{worker % 4}-{number // 8}"
    user = {"x-bursar-user": f"u{round_number // 25}-{worker % 3}"}
    match number % 4:
        case 0 | 1:
            return {**user, "x-bursar-task": root, "x-bursar-task-budget": f"{TASK_LIMIT / 1_000_000_000}"}
        case 2:
            return {**user, "x-bursar-task": f"{root}-c{worker}", "x-bursar-parent-task": root}
        case _:
            return {**user, "x-bursar-task": f"{root}-g{worker}", "x-bursar-parent-task": f"{root}-c{worker}"}


async def load(url: str, round_number: int, answered: set[str], refused: list[int]) -> None:
    """Calls without end, half of them streamed; remembers which were answered in full, and counts the refused."""
    client = ClientBuilder().build()

    async def one(worker: int) -> None:
        number = 0
        while True:
            name, stream = f"r{round_number}-w{worker}-{number}", bool(number % 3)
            status, found = await call(client, url, name, who(round_number, worker, number), stream=stream)
            if found is not None:
                answered.add(found)
            elif status == 402:
                refused.append(status)
            else:
                return
            number += 1

    await asyncio.gather(*(one(worker) for worker in range(CLIENTS)))


async def kill_many_times(folder: Path, rounds: int, seed: int, purse: int) -> None:
    """``rounds`` kills at random moments, on a purse of so many nano-USD; then every check there is."""
    chance = random.Random(seed)
    answered: set[str] = set()
    refused: list[int] = []
    data_path = folder / "data"
    async with serve(Simulator(seed=seed, pace=Pace(1.0, 20_000.0))) as sim:
        config = write_config(folder, sim.url, purse)
        for number in range(rounds):
            process, url = await start(data_path, config)
            check_limits(data_path, purse, started=True)
            clients = asyncio.create_task(load(url, number, answered, refused))
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            process.send_signal(signal.SIGKILL)
            await process.wait()
            check_limits(data_path, purse, started=False)
            await asyncio.wait_for(clients, 20)
        process, url = await start(data_path, config)
        await use_up(url, data_path, purse, answered, refused, rounds)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        served = {call.response_id for call in sim.simulator.calls if call.status == 200}
    used = check_limits(data_path, purse, started=True)
    check(data_path, answered, served, rounds)
    print(
        f"{rounds} kills under budgets: purse at {used * 100 // purse}% of ${purse / 1e9}, {len(refused)} calls refused; 0 over,"
        " 0 held"
    )


async def use_up(url: str, data_path: Path, purse: int, answered: set[str], refused: list[int], rounds: int) -> None:
    """Call until the purse is nearly empty, with users that have not spent anything."""
    clients = asyncio.gather(*(load(url, 25 * (rounds + more), answered, refused) for more in range(1, 7)))
    async with asyncio.timeout(60):
        while not refused or check_limits(data_path, purse, started=False) < purse * 9 // 10:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    clients.cancel()
    await asyncio.gather(clients, return_exceptions=True)


def check_limits(data_path: Path, purse: int, *, started: bool) -> int:
    """Every account is within its limit; after a start nothing is held any more. Returns what is used of the purse."""
    with closing(sqlite3.connect(data_path / "books.sqlite3")) as books:
        rows = books.execute("SELECT account, spent_nanousd, held_nanousd, held_calls FROM balance").fetchall()
        limits = dict(books.execute("SELECT task, limit_nanousd FROM task WHERE limit_nanousd IS NOT NULL"))
        broken = [row for row in rows if row[1] + row[2] > limit_of(row[0], purse, limits)]
        assert broken == [], "spent and held are over the limit"
        assert set(limits.values()) <= {TASK_LIMIT}
        assert all(row[2] >= 0 for row in rows)
        if started:
            assert [row for row in rows if row[2] or row[3]] == [], "held although nothing runs"
    return next((spent + held for account, spent, held, _ in rows if account == "budget:purse"), 0)


def limit_of(account: str, purse: int, tasks: dict[str, int]) -> int:
    """The limit of an account, from its name."""
    if account == "budget:purse":
        return purse
    if found := re.match(r"budget:users@(\d+)-(\d+)=", account):
        return LIMITS["users@hour" if int(found[2]) - int(found[1]) == HOUR_S else "users@day"]
    return tasks.get(account.removeprefix("task:"), 1 << 62)


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
    await kill_many_times(tmp_path, rounds=4, seed=7, purse=80_000_000)


@pytest.mark.long
@pytest.mark.timeout(1_200)
async def test_killed_two_hundred_times(tmp_path: Path) -> None:
    """The same, two hundred times."""
    await kill_many_times(tmp_path, rounds=200, seed=11, purse=2_500_000_000)
