"""The provider of the SDK benchmark: a transport that answers an `openai` client from memory. No socket is opened.

Rule 1: each answer has an id of its own; who counts nothing twice must not take two calls for one.
Rule 2: an answer comes as from a socket: unread, a whole one in one piece, a stream as its 33 events one by one, the last
        but one with the usage.

It runs in the environment of the tool that is measured: only that environment's `openai` and its HTTP client are there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from bench import samples

try:  # `openai` 3 speaks httpx2, older ones httpx; an environment may have both
    import httpx2 as http
except ImportError:
    import httpx as http

__all__ = ["MODES", "PLAIN_CALLS", "Calls", "clients"]

# What a mode is called, and whether it streams and awaits.
MODES = {
    "call": (False, False),
    "stream": (True, False),
    "async call": (False, True),
    "async stream": (True, True),
}
_ASKED = {
    "model": samples.MODEL,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
        {"role": "user", "content": "How is the weather in Lisbon today, and should I take an umbrella with me?"},
    ],
    "temperature": 0.2,
    "max_tokens": 256,
}
_STREAMED = {**_ASKED, "stream": True, "stream_options": {"include_usage": True}}
_TOKENS = 68  # what every answer says it used
_EVENTS = tuple(samples.stream_events())
_ID = samples.RESPONSE_ID.encode()


class _Pieces(http.SyncByteStream, http.AsyncByteStream):
    def __init__(self, pieces: tuple[bytes, ...], name: bytes) -> None:
        self._pieces = pieces
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            yield piece.replace(_ID, self._name)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece.replace(_ID, self._name)


class _Stub(http.BaseTransport, http.AsyncBaseTransport):
    def __init__(self, mode: str) -> None:
        streams, _ = MODES[mode]
        self._pieces = _EVENTS if streams else (samples.CHAT,)
        self._headers = {"content-type": "text/event-stream" if streams else "application/json"}
        self._first = list(MODES).index(mode)
        self._answered = 0

    def handle_request(self, request: http.Request) -> http.Response:
        self._answered += 1
        name = b"%02x%030x" % (self._first, self._answered)
        return http.Response(200, headers=self._headers, stream=_Pieces(self._pieces, name))

    async def handle_async_request(self, request: http.Request) -> http.Response:
        return self.handle_request(request)


class Calls:
    """One call in each mode; what comes back must be whole. ``create`` and ``acreate`` are given the client to use."""

    def __init__(self, create: Callable[..., Any], acreate: Callable[..., Any], openai: Any) -> None:
        self._create, self._acreate = create, acreate
        self._clients = clients(openai)

    def call(self) -> None:
        completion = self._create(self._clients["call"], **_ASKED)
        assert completion.usage.total_tokens == _TOKENS

    def stream(self) -> None:
        chunks = list(self._create(self._clients["stream"], **_STREAMED))
        assert chunks[-1].usage.total_tokens == _TOKENS

    async def async_call(self) -> None:
        completion = await self._acreate(self._clients["async call"], **_ASKED)
        assert completion.usage.total_tokens == _TOKENS

    async def async_stream(self) -> None:
        chunks = [chunk async for chunk in await self._acreate(self._clients["async stream"], **_STREAMED)]
        assert chunks[-1].usage.total_tokens == _TOKENS


def clients(openai: Any) -> dict[str, Any]:
    """An official client for each mode, made of the classes of ``openai`` or of a wrapper of it."""
    made: dict[str, Any] = {}
    for mode, (_, awaits) in MODES.items():
        stub = _Stub(mode)
        client = http.AsyncClient(transport=stub) if awaits else http.Client(transport=stub)
        make = openai.AsyncOpenAI if awaits else openai.OpenAI
        made[mode] = make(api_key="sk-nobody-checks-this", http_client=client, max_retries=0)
    return made


def _create(client: Any, **asked: Any) -> Any:
    return client.chat.completions.create(**asked)


PLAIN_CALLS = (_create, _create)
