"""An MCP server for the tests, over stdio or HTTP. It writes every tool it runs into a file, so that a test can count.

``python tool_server.py LOG stdio`` | ``python tool_server.py LOG http PORT [json] [stateless]``
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer

LOG = Path(sys.argv[1])
server = MCPServer("shop", version="1.0")


def ran(name: str) -> None:
    with LOG.open("a") as log:
        log.write(f"{name}\n")


@server.tool()
def search(query: str) -> str:
    """Prose."""
    ran("search")
    return f"found {query}"


@server.tool()
def scan(pages: int) -> dict[str, Any]:
    """What it counted, as data."""
    ran("scan")
    return {"pages": pages, "metadata": {"costUsd": 0.0125}}


@server.tool()
def fail() -> str:
    """Fails."""
    ran("fail")
    raise ValueError("no such thing")


@server.tool()
async def wait(seconds: float, ctx: Context) -> str:
    """Takes its time and tells how far it is."""
    ran("wait")
    await ctx.report_progress(1, 2)
    await asyncio.sleep(seconds)
    ran("waited")
    return "done"


@server.tool()
def large(size: int) -> str:
    """A large answer."""
    ran("large")
    return "x" * size


@server.tool()
def leave(code: int) -> str:
    """Ends the server without an answer."""
    ran("leave")
    os._exit(code)


@server.tool()
def environment(name: str) -> str:
    """What the server's environment says."""
    return os.environ.get(name, "")


def main() -> None:
    print("the server starts", file=sys.stderr, flush=True)
    if sys.argv[2] == "stdio":
        server.run("stdio")
        return
    server.run(
        "streamable-http",
        host="127.0.0.1",
        port=int(sys.argv[3]),
        json_response="json" in sys.argv[4:],
        stateless_http="stateless" in sys.argv[4:],
    )


if __name__ == "__main__":
    main()
