"""OpenAI's chat completions in tests: written, read, and given to the official SDK."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion

from bursar.wire.translate.conversation import (
    Asked,
    Event,
    StreamReader,
)
from bursar.wire.translate.openai import SPEAKER

PATH = "/v1/chat/completions"
MODEL = "gpt-5.2"
HI = {"role": "user", "content": "hi"}


def read(body: dict[str, Any]) -> Asked:
    return SPEAKER.read_request(PATH, "", json.dumps({"model": MODEL, "messages": [HI], **body}).encode())


def again(asked: Asked, model: str = MODEL) -> Asked:
    """The conversation after it was written and read."""
    sent = SPEAKER.write_request(asked, model)
    assert (sent.path, sent.query, sent.headers) == (PATH, "", ())
    return SPEAKER.read_request(sent.path, sent.query, sent.body)


def accepted(body: bytes) -> ChatCompletion:
    """The answer as the official SDK reads it, strictly."""
    return ChatCompletion.model_validate_json(body)


def written(events: list[Event], *, asks_usage: bool = True) -> bytes:
    writer = SPEAKER.writer(model="called", created_s=7, asks_usage=asks_usage)
    return b"".join(map(writer.write, events)) + writer.close()


def events_of(pieces: list[bytes], reader: StreamReader | None = None) -> list[Event]:
    reader = reader or SPEAKER.reader()
    return [event for piece in pieces for event in reader.feed(piece)] + reader.finish()


class _Canned(httpx.BaseTransport):
    """Answers every request with the same stream."""

    body = b""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=self.body)


_CANNED = _Canned()


@lru_cache(maxsize=1)
def _client() -> openai.OpenAI:
    return openai.OpenAI(
        api_key="sk-test",
        base_url="http://provider.test/v1",
        http_client=httpx.Client(transport=_CANNED),
        max_retries=0,
    )


def client_for(body: bytes) -> openai.OpenAI:
    """The official SDK, answered with this stream. There is one client: making one takes longer than using it."""
    _CANNED.body = body
    return _client()


def accumulated(body: bytes) -> ChatCompletion:
    """What the official SDK makes of a stream."""
    with client_for(body).chat.completions.stream(
        model="m", messages=[{"role": "user", "content": "hi"}], stream_options={"include_usage": True}
    ) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()
