"""The reference: what any gateway made of the same server and client costs before it does anything.

granian (RSGI, embedded) in, pyreqwest out, nothing parsed, counted or stored. ``python -m bench.bare_proxy PORT URL``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from granian.server.embed import Server
from pyreqwest.client import ClientBuilder

__all__ = ["make_app", "serve"]

_NOT_PASSED_ON = frozenset({"host", "content-length", "connection", "transfer-encoding", "keep-alive"})


def make_app(upstream: str) -> Any:
    client = ClientBuilder().build()

    async def app(scope: Any, protocol: Any) -> None:
        headers = [(name, value) for name, value in scope.headers.items() if name not in _NOT_PASSED_ON]
        request = client.post(upstream + scope.path).headers(headers).body_bytes(await protocol())
        if "x-bench" not in scope.headers:
            response = await request.build().send()
            kept = [(name, value) for name, value in response.headers.items() if name not in _NOT_PASSED_ON]
            protocol.response_bytes(response.status, kept, bytes(await response.bytes()))
            return
        async with request.streamed_read_buffer_limit(0).build_streamed() as response:
            kept = [(name, value) for name, value in response.headers.items() if name not in _NOT_PASSED_ON]
            transport = protocol.response_stream(response.status, kept)
            while (chunk := await response.body_reader.read_chunk()) is not None:
                await transport.send_bytes(bytes(chunk))

    return app


def serve(app: Any, port: int) -> None:
    # granian takes no more connections at a time than its backpressure, which is else its small backlog: the rest hang.
    options: dict[str, Any] = {"interface": "rsgi", "websockets": False, "log_enabled": False, "backpressure": 4096}
    server = Server(app, address="127.0.0.1", port=port, backlog=1024, **options)
    try:
        from uvloop import new_event_loop
    except ImportError:
        from asyncio import new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(server.serve())


if __name__ == "__main__":
    serve(make_app(sys.argv[2]), int(sys.argv[1]))
