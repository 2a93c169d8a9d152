"""``bursar mcp``: what it is asked, and what of it is refused. The conversations themselves are in tests/doors/mcp."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from bursar.cli import root
from bursar.cli.mcp import _address, _setting
from bursar.compose import open_queries
from bursar.config import parse_settings
from bursar.core.budget_fields import parse_budgets
from bursar.core.tool_fields import parse_tools

PAGE = Path(__file__).parents[2] / "docs" / "tools.md"
NO_COLUMNS = dict.fromkeys(("task", "parent_task", "session", "agent", "user", "team", "project", "org"), "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say which server: its command after --, or --url, and not both."),
        (["--url", "http://127.0.0.1:1/mcp", "--", "cat"], "Say which server"),
        (["--url", "ftp://x/mcp"], "'ftp://x/mcp' is not an http(s) URL"),
        (["--url", "http://x/mcp", "--listen", "0.0.0.0:4000"], "'0.0.0.0:4000' is not ADDRESS:PORT of this machine"),
        (["--url", "http://x/mcp", "--listen", "127.0.0.1"], "is not ADDRESS:PORT of this machine"),
        (["--label", "tier", "--", "cat"], "'tier' is not NAME=VALUE"),
        (["--budget", "0.50", "--", "cat"], "--budget limits a task: say which with --task"),
        (["--task", "t", "--budget", "5 calls", "--", "cat"], "'5 calls' must be money, such as $5"),
        (["--", "no-such-command-here"], "no-such-command-here: No such file or directory"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], message: str, tmp_path: Path) -> None:
    """Asked wrongly: exit 2, the value and what would do."""
    found = CliRunner().invoke(root, ["mcp", "--data", str(tmp_path), *words])
    assert found.exit_code == 2, found.output
    assert message in " ".join(found.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("localhost:4001", ("localhost", 4001)), ("[::1]:80", ("::1", 80))],
)
def test_it_listens_on_this_machine(listen: str, expected: tuple[str, int]) -> None:
    """Loopback addresses of both kinds."""
    assert _address(listen) == expected


def test_a_task_begun_within_another_stands_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says where the process was started; a task of its own has that one above it, and all else from it."""
    monkeypatch.setenv("BURSAR_CONTEXT", f"00-{'a' * 32}-{'b' * 16}-01 bursar.task=outer,bursar.team=care")
    own = _setting({**NO_COLUMNS, "task": "inner"}, ("tier=gold",), "0.50")
    assert (own.scope.task, own.scope.parent_task, own.scope.team) == ("inner", "outer", "care")
    assert (own.scope.labels, own.limit, own.trace.trace_id) == ((("tier", "gold"),), 500_000_000, "a" * 32)
    same = _setting({**NO_COLUMNS, "team": "ops"}, (), None)
    assert (same.scope.task, same.scope.parent_task, same.scope.team, same.limit) == ("outer", "", "ops", None)


def test_the_examples_of_the_page_are_valid() -> None:
    """Every price and budget in docs/tools.md is taken, and prices what it says."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    settings = [parse_settings(block) for block in blocks]
    tools = parse_tools(settings[0].tools)
    found = tools.find("browser.open")
    assert found is not None
    assert found.most == 50_000_000
    [budget] = parse_budgets(settings[1].budgets, lambda _: pytest.fail("no zone is named"))
    assert budget.match == (("label:tool", ("firecrawl.scrape",)),)


async def test_over_http_calls_are_priced_and_stopping_loses_nothing(tmp_path: Path) -> None:
    """``--url`` serves the same path on a port of this machine; SIGTERM ends it, and what was called is in the ledger."""
    (tmp_path / "bursar.yaml").write_text(
        "tools:\n  127.0.0.1.search: {per_call: 0.25}\n"
        "budgets:\n  one: {limit: $0.30, match: {label:tool: '*.search'}}\n"
    )
    seen: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))[15:])
        seen.append(await reader.readexactly(length))
        body = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    words = ("mcp", "--data", str(tmp_path), "--url", f"http://127.0.0.1:{port}/mcp?x=1", "--agent", "web")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bursar", *words, stdout=pipe)
    assert process.stdout is not None
    try:
        said = (await process.stdout.readline()).decode()
        address = re.search(r"http://127\.0\.0\.1:\d+/mcp(?=\s)", said)
        assert address, said
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {}}}
        async with httpx2.AsyncClient() as client:
            first = (await client.post(address[0], json=call)).json()
            second = (await client.post(address[0], json=call)).json()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        listener.close()
    assert first["result"] == {"content": []}
    assert second["result"]["isError"]
    assert second["result"]["_meta"]["bursar/refusal"]["budget"] == "one"
    assert len(seen) == 1
    with open_queries(tmp_path) as queries:
        rows = queries.rows("SELECT model, cost_nanousd AS cost, agent, kind FROM attempt")
    assert rows == [{"model": "127.0.0.1.search", "cost": 250_000_000, "agent": "web", "kind": "tool"}]
