"""Where the peers of the SDK benchmark export to: a server on the loopback interface that reads, counts and drops.

Rule 1: what a peer exports is counted, so that one that failed to export is not measured for doing less.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

__all__ = ["Collector"]


class Collector:
    """Serves while it is entered. ``received_bytes`` are the bodies of all requests so far."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(size := int(self.headers.get("content-length", 0)))
                collector.received_bytes += size
                # An empty body is the OTLP answer that everything was taken, in protobuf.
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
