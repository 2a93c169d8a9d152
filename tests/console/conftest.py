"""What console tests share: the ledgers of the views' tests, a desk of budgets, and the page served on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from chromium import a_page
from desks import Desk
from playwright.sync_api import Page

from bursar.console.answers import failure
from bursar.console.api import handle, methods_of
from bursar.console.dashboard import page
from seeding import NOW, MemoryLedger


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "books.sqlite")


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture
def browser_page() -> Iterator[tuple[Page, list[str]]]:
    """A page in Chromium, and everything its console complained about."""
    with a_page() as opened:
        yield opened


class _Handler(BaseHTTPRequestHandler):
    queries: Any
    desk: Desk

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = unquote(path)
        try:
            if methods_of(path):
                answer = self.desk.request(self.command, path, query, body)
            else:
                answer = page(path) or handle("GET", path, query, self.queries, now=NOW)
        except RuntimeError as problem:
            answer = failure(503, str(problem))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it
        pass


@pytest.fixture
def serve(desk: Desk) -> Iterator[Callable[[Any], str]]:
    """Serve the console over some queries; returns its address."""
    with ExitStack() as stack:

        def start(queries: Any) -> str:
            handler = type("Handler", (_Handler,), {"queries": queries, "desk": desk})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield start
