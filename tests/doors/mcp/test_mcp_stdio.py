"""``bursar mcp -- CMD``: the official client in front, the official server behind, real books in between."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_house import SERVER, ran

from bursar.compose import open_books_file, open_data, open_queries, settings_of

pytestmark = pytest.mark.xdist_group("mcp-stdio")

CONFIG = """
tools:
  shop.search: {per_call: 0.005}
  shop.scan: {per_unit: 0.0015, units: pages, most: 0.05}
  "shop.wait*": {per_second: 0.01, most: 1}
  shop.large: {per_mb: 0.002}
  shop.fail: {per_call: 0.001}
  priced.scan: {cost: metadata.costUsd}
budgets:
  tools-of-one: {limit: $0.05, each: agent, match: {agent: spender}}
"""
ROWS = "SELECT model, cost_nanousd AS cost, status, error, units, latency_ms, task, agent, team, door, kind, unpriced_reason AS reason FROM attempt ORDER BY started_at, attempt_id"  # fmt: skip


@dataclass
class Shop:
    """A data directory, what the server behind the proxy runs, and how the proxy is started."""

    data: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *options: str, server: tuple[str, ...] = ()) -> list[str]:
        behind = server or (sys.executable, str(SERVER), str(self.log), "stdio")
        return ["-m", "bursar", "mcp", "--data", str(self.data), *options, "--", *behind]

    def parameters(self, *options: str) -> StdioServerParameters:
        return StdioServerParameters(command=sys.executable, args=self.command(*options), env=self.environment)

    @property
    def errors(self) -> Path:
        return self.log.with_name("errors")

    def rows(self) -> list[dict[str, Any]]:
        with open_queries(self.data) as queries:
            return queries.rows(ROWS)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    data = tmp_path / "data"
    data.mkdir()
    (data / "bursar.yaml").write_text(CONFIG)
    return Shop(data, tmp_path / "log")


@asynccontextmanager
async def talking(shop: Shop, *options: str, mode: str = "auto") -> AsyncIterator[Client]:
    with shop.errors.open("w") as errors:
        async with Client(stdio_client(shop.parameters(*options), errors), mode=mode) as client:
            yield client


@asynccontextmanager
async def piped(shop: Shop, *options: str, server: tuple[str, ...] = ()) -> AsyncIterator[asyncio.subprocess.Process]:
    """The proxy with bare pipes: what is written and read is up to the test."""
    pipe = asyncio.subprocess.PIPE
    with shop.errors.open("w") as errors:  # a pipe would stay open for as long as any child of its lives
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *shop.command(*options, server=server),
            stdin=pipe,
            stdout=pipe,
            stderr=errors,
            limit=1 << 26,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


# --- the official client and server -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_calls_are_priced_and_in_the_ledger(shop: Shop, mode: str) -> None:
    """Per call, per unit, per second, per megabyte, failing and free: each row with its cost, time, size and scope."""
    async with talking(shop, "--task", "t1", "--agent", "clerk", "--team", "care", mode=mode) as client:
        assert (await client.call_tool("search", {"query": "tea"})).content[0].text == "found tea"
        assert (await client.call_tool("scan", {"pages": 3})).structured_content["pages"] == 3
        await client.call_tool("wait", {"seconds": 0.1})
        assert len((await client.call_tool("large", {"size": 5_000_000})).content[0].text) == 5_000_000
        assert (await client.call_tool("fail", {})).is_error
        await client.call_tool("environment", {"name": "HOME"})
    rows = {row["model"]: row for row in shop.rows()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "shop.search": "ok", "shop.scan": "ok", "shop.wait": "ok", "shop.large": "ok", "shop.fail": "error", "shop.environment": "ok",
    }  # fmt: skip
    assert rows["shop.search"]["cost"] == 5_000_000
    assert rows["shop.scan"]["cost"] == 4_500_000
    assert rows["shop.fail"]["cost"] == 1_000_000
    assert rows["shop.environment"]["cost"] == 0
    waited, large = rows["shop.wait"], rows["shop.large"]
    assert waited["cost"] == round(waited["latency_ms"]) * 10_000
    assert 100 <= waited["latency_ms"] < 10_000
    sizes = large["units"] if isinstance(large["units"], dict) else json.loads(large["units"])
    assert sizes["tool_bytes"] > 5_000_000
    assert large["cost"] == sizes["tool_bytes"] * 2
    for row in rows.values():
        assert (row["task"], row["agent"], row["team"], row["kind"]) == ("t1", "clerk", "care", "tool")


async def test_of_a_hundred_calls_at_once_exactly_ten_reach_the_server(shop: Shop) -> None:
    """A budget of ten calls: the others are refused before the server hears of them, and the agent reads why."""
    async with talking(shop, "--agent", "spender") as client:
        found = await asyncio.gather(*(client.call_tool("search", {"query": str(i)}) for i in range(100)))
    refused = [each for each in found if each.is_error]
    assert len(refused) == 90
    assert ran(shop.log) == ["search"] * 10
    text = refused[-1].content[0].text
    assert "budget 'tools-of-one' for 'spender' has $0.05" in text
    assert "This call needs up to $0.005" in text
    details = refused[-1].meta["bursar/refusal"]
    assert (details["code"], details["budget"], details["limit"], details["needed"]) == (
        "budget_exceeded", "tools-of-one", "0.05", "0.005",
    )  # fmt: skip
    rows = shop.rows()
    assert [row["cost"] for row in rows] == [5_000_000] * 10


async def test_a_task_has_its_limit_from_the_command(shop: Shop) -> None:
    """``--budget`` opens the task with it; the third call does not fit."""
    async with talking(shop, "--task", "small", "--budget", "0.01") as client:
        found = [(await client.call_tool("search", {"query": "x"})).is_error for _ in range(3)]
    assert found == [False, False, True]


async def test_who_a_call_is_for_is_said_by_it_or_by_the_environment(shop: Shop) -> None:
    """``_meta`` goes before options, options before BURSAR_CONTEXT and BAGGAGE."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    shop.environment = {
        "BURSAR_CONTEXT": f"00-{trace}-b7ad6b7169203331-01 bursar.task=outer,bursar.team=care",
        "BAGGAGE": "bursar.agent=planner,bursar.label.tier=gold",
    }
    async with talking(shop, "--team", "ops") as client:
        await client.call_tool("search", {"query": "a"})
        await client.call_tool("search", {"query": "b"}, meta={"baggage": "bursar.task=inner,bursar.agent=worker"})
        await client.call_tool("search", {"query": "c"}, meta={"bursar.user": "u1"})
    with open_queries(shop.data) as queries:
        found = queries.rows(
            'SELECT task, agent, team, "user" AS who, parent_task, trace_id, labels FROM attempt ORDER BY started_at'
        )
    assert [(row["task"], row["agent"], row["team"], row["who"], row["parent_task"]) for row in found] == [
        ("outer", "planner", "ops", "", ""),
        ("inner", "worker", "ops", "", ""),
        ("outer", "planner", "ops", "u1", ""),
    ]
    assert found[0]["trace_id"] == trace
    labels = [dict(row["labels"]) for row in found]
    assert [each["tier"] for each in labels] == ["gold"] * 3
    assert labels[0]["args"] != labels[1]["args"]


async def test_the_server_gets_the_environment_without_our_key(shop: Shop) -> None:
    """A server is somebody else's program: everything it is given but what could spend our money."""
    shop.environment = {"BURSAR_KEY": "secret", "SHOP": "open"}
    async with talking(shop) as client:
        found = [(await client.call_tool("environment", {"name": name})).content[0].text for name in shop.environment]
    assert found == ["", "open"]


async def test_what_the_service_says_is_the_cost(shop: Shop) -> None:
    """``cost`` names the field of the answer; under another ``--name`` the tools are other tools."""
    async with talking(shop, "--name", "priced") as client:
        await client.call_tool("scan", {"pages": 3})
    assert [(row["model"], row["cost"]) for row in shop.rows()] == [("priced.scan", 12_500_000)]


async def test_a_cancelled_call_is_settled_with_its_time(shop: Shop) -> None:
    """The client gives up after a while; the time until then is paid, and the conversation goes on."""
    async with talking(shop, mode="legacy") as client:
        with pytest.raises(MCPError):
            await client.call_tool("wait", {"seconds": 30}, read_timeout_seconds=0.4)
        assert not (await client.call_tool("search", {"query": "x"})).is_error
    rows = {row["model"]: row for row in shop.rows()}
    waited = rows["shop.wait"]
    assert waited["status"] == "cancelled"
    assert 3_500_000 <= waited["cost"] == round(waited["latency_ms"]) * 10_000
    assert "waited" not in ran(shop.log)


# --- the pipes --------------------------------------------------------------------------------------------------

ECHO = ("sh", "-c", "echo starting >&2; exec cat")


async def test_what_is_no_tool_call_passes_byte_for_byte(shop: Shop) -> None:
    """Both ways, whatever it is; standard error is the child's own, and so is the exit code."""
    lines = [
        b"not json\n",
        b'{ "jsonrpc":"2.0", "id":1,  "method":"tools/list" }\r\n',
        b"\n",
        b"\xff\x00\xfe\n",
        b'{"method":"notifications/initialized"}\n',
        b"[]\n",
        b"x" * 3_000_000 + b"\n",
        b"no end",
    ]
    async with piped(shop, server=ECHO) as process:
        out, _ = await process.communicate(b"".join(lines))
        assert out == b"".join(lines) + b"\n"
        assert shop.errors.read_text() == "starting\n"
        assert process.returncode == 0


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("cat >/dev/null; exit 3", 3)])
async def test_the_childs_exit_code_is_ours(shop: Shop, script: str, code: int) -> None:
    """Also where a signal ended it, and where it ends because its input did."""
    async with piped(shop, server=("sh", "-c", script)) as process:
        out, _ = await process.communicate(b"")
        assert (out, process.returncode) == (b"", code)


def request(number: int, tool: str, **arguments: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    return json.dumps(message).encode() + b"\n"


async def test_a_server_that_dies_leaves_no_call_open(shop: Shop) -> None:
    """Its calls end as failed, charged as asked; the client sees the pipe close."""
    async with piped(shop, server=("sh", "-c", "read line; exit 5")) as process:
        assert process.stdin is not None
        process.stdin.write(request(1, "search"))
        await process.stdin.drain()
        assert await asyncio.wait_for(process.wait(), 20) == 5
    [row] = shop.rows()
    assert (row["model"], row["status"]) == ("mcp.search", "error")
    assert row["error"] == "the server ended with exit code 5 before it answered"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_child_and_settles_what_is_open(shop: Shop, number: signal.Signals) -> None:
    """The child is told to end as well; an open call is settled as cancelled."""
    async with piped(shop, "--name", "shop", server=("sh", "-c", "read line; echo got it; exec sleep 60")) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request(1, "search"))
        assert await process.stdout.readline() == b"got it\n"
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 20) == 128 + signal.SIGTERM
    [row] = shop.rows()
    assert (row["model"], row["status"], row["cost"]) == ("shop.search", "cancelled", 5_000_000)


async def test_a_child_that_does_not_listen_is_killed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM first, then SIGKILL."""
    script = "trap '' TERM; echo up; while :; do sleep 1; done"
    async with piped(shop, server=("sh", "-c", script)) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 137


async def test_a_client_that_reads_no_more_ends_the_server(shop: Shop) -> None:
    """Nobody hears what it says: it is told to end, and what is open is settled."""
    async with piped(
        shop, "--name", "shop", server=("sh", "-c", "read a; while :; do echo x; sleep 0.05; done")
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request(1, "search"))
        assert await process.stdout.readline() == b"x\n"
        process._transport.get_pipe_transport(1).close()
        assert await asyncio.wait_for(process.wait(), 20) == 143
    [row] = shop.rows()
    assert (row["status"], row["error"], row["cost"]) == ("cancelled", "", 5_000_000)


async def test_calls_answered_after_the_client_closed_its_end_are_settled(shop: Shop) -> None:
    """What was asked is answered, as if the server stood alone."""
    script = 'read line; sleep 0.3; echo \'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}\''
    async with piped(shop, "--name", "shop", server=("sh", "-c", script)) as process:
        out, _ = await process.communicate(request(1, "search"))
        assert json.loads(out)["id"] == 1
        assert process.returncode == 0
    [row] = shop.rows()
    assert (row["status"], row["cost"]) == ("ok", 5_000_000)


async def test_a_killed_proxy_leaves_a_hold_that_is_charged_by_estimate(shop: Shop) -> None:
    """Nothing is lost with the process: the money is held in the books."""
    async with piped(
        shop, "--name", "shop", "--agent", "spender", server=("sh", "-c", "read a; echo x; sleep 60")
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request(1, "search"))
        await process.stdout.readline()
        process.kill()
        await process.wait()
    data = open_data(shop.data)
    with closing(open_books_file(data, settings_of(data))) as books:
        books.expire(before_us=1 << 60)
    [row] = shop.rows()
    assert (row["model"], row["cost"], row["status"]) == ("shop.search", 5_000_000, "expired")


async def test_a_waiting_call_lets_everything_else_pass(shop: Shop) -> None:
    """A call waits for money that another holds; a ping behind it does not, and a cancellation takes it out of the queue."""
    options = ("--name", "shop", "--agent", "spender")
    async with piped(shop, *options, server=("cat",)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(1, 11):
            process.stdin.write(request(number, "search"))
        for _ in range(10):
            await process.stdout.readline()
        process.stdin.write(request(11, "search"))
        process.stdin.write(b'{"id":99,"method":"ping"}\n')
        assert json.loads(await process.stdout.readline())["id"] == 99
        process.stdin.write(b'{"method":"notifications/cancelled","params":{"requestId":11}}\n')
        assert json.loads(await process.stdout.readline())["params"] == {"requestId": 11}
        process.stdin.write(b'{"id":1,"result":{"content":[]}}\n')  # cat answers for the server
        assert json.loads(await process.stdout.readline())["id"] == 1
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert sorted((row["status"], row["cost"]) for row in shop.rows()) == [("cancelled", 5_000_000)] * 9 + [
        ("ok", 5_000_000)
    ]
