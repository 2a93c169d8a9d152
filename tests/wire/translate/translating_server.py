"""A provider that everybody can talk to: a small HTTP server that answers any dialect from the simulator of another one.

The model that a client names says which provider it is. What was sent to that provider is kept in ``Translating.sent``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bursar.core.usage import Usage
from bursar.sim import Answer, Simulator
from bursar.wire.dialect import BadRequest
from bursar.wire.providers import dialect_by_id
from bursar.wire.translate import gemini
from bursar.wire.translate.conversation import Asked, Sent, Untranslatable
from bursar.wire.translate.speakers import SPEAKERS, StreamTranslation

CHUNK_BYTES = 700
_KEYS = {"authorization": "Bearer sk-test-1", "x-api-key": "k-test-12345", "x-goog-api-key": "k-test-12345"}


def dialect_of(model: str) -> str:
    """Who serves a model."""
    return {"claude": "anthropic", "gemini": "gemini"}.get(model.partition("-")[0], "openai_chat")


class Translating(ThreadingHTTPServer):
    """The server. Its provider is a simulator, which plays all of them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.simulator = Simulator(seed=7)
        self.sent: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def usage(self) -> Usage:
        """What the provider bills for the last call."""
        usage = self.simulator.calls[-1].usage
        assert usage is not None
        return usage

    def provider(self, sent: Sent, fault: str) -> Answer:
        self.sent.append(json.loads(sent.body))
        headers = {**_KEYS, **dict(sent.headers)} | ({"x-sim-fault": fault} if fault else {})
        return self.simulator.respond("POST", sent.path, sent.query, headers, sent.body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Translating

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        path, _, query = self.path.partition("?")
        client = {"/v1/chat/completions": "openai_chat", "/v1/messages": "anthropic"}.get(path, "gemini")
        try:
            asked = SPEAKERS[client].read_request(path, query, body)
            provider = dialect_of(asked.model)
            sent = SPEAKERS[provider].write_request(asked, asked.model)
        except (BadRequest, Untranslatable) as refused:
            self._whole(400, dialect_by_id(client).error_body(400, "untranslatable", str(refused), {}))
            return
        answer = self.server.provider(sent, self.headers.get("x-sim-fault", ""))
        if answer.status != 200:
            message = f"the provider answered {answer.status}"
            self._whole(answer.status, dialect_by_id(client).error_body(answer.status, "provider_error", message, {}))
        elif answer.pieces is None:
            self._whole(200, SPEAKERS[client].write_answer(SPEAKERS[provider].read_answer(answer.body)))
        else:
            array = client == "gemini" and gemini.wants_array(query)
            self._stream(client, provider, asked, b"".join(data for _, data in answer.pieces), array=array)

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, client: str, provider: str, asked: Asked, raw: bytes, *, array: bool) -> None:
        told: dict[str, Any] = {"model": asked.model, "created_s": 1_700_000_000, "asks_usage": asked.asks_usage}
        writer = gemini.SPEAKER.writer(**told, array=True) if array else SPEAKERS[client].writer(**told)
        translation = StreamTranslation(SPEAKERS[provider].reader(), writer)
        self.send_response(200)
        self.send_header("content-type", translation.content_type)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for start in range(0, len(raw), CHUNK_BYTES):
            self._chunk(translation.feed(raw[start : start + CHUNK_BYTES]))
        self._chunk(translation.finish())
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextmanager
def translating() -> Iterator[Translating]:
    """The server, while it runs in a thread of its own."""
    server = Translating()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
