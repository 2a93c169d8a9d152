"""OpenAI's chat completions, spoken and understood.

The work is done in ``openai_read`` and ``openai_write`` (requests), ``openai_answers``, ``openai_streams``, and
``openai_thoughts`` (what others added to the dialect for reasoning).
"""

from __future__ import annotations

from typing import Final, Literal

from bursar.wire.openai_usage import INCLUSIVE, Quirks
from bursar.wire.shape_openai import OPENAI_REQUESTS, ChatRequests

from .conversation import Answered, Asked, Sent, Speaker
from .openai_answers import read_answer, write_answer
from .openai_read import read_request
from .openai_streams import ChatReader, ChatWriter
from .openai_thoughts import without_traces
from .openai_write import write_request

__all__ = ["SPEAKER", "OpenAISpeaker", "without_traces"]


class OpenAISpeaker:
    """Chat completions with one provider's way to count, and what its requests take."""

    __slots__ = ("_quirks", "_takes")

    def __init__(self, quirks: Quirks, takes: ChatRequests) -> None:
        self._quirks = quirks
        self._takes = takes

    @property
    def id(self) -> Literal["openai_chat"]:
        return "openai_chat"

    def read_request(self, path: str, query: str, body: bytes) -> Asked:
        return read_request(path, body)

    def write_request(self, asked: Asked, model: str) -> Sent:
        return write_request(asked, model, self._takes)

    def read_answer(self, body: bytes) -> Answered:
        return read_answer(body, self._quirks)

    def write_answer(self, answered: Answered, created_s: int = 0) -> bytes:
        return write_answer(answered, created_s)

    def reader(self) -> ChatReader:
        return ChatReader(self._quirks)

    def writer(self, *, model: str, created_s: int, asks_usage: bool) -> ChatWriter:
        return ChatWriter(model=model, created_s=created_s, asks_usage=asks_usage)


SPEAKER: Final[Speaker] = OpenAISpeaker(INCLUSIVE, OPENAI_REQUESTS)
"""OpenAI's own chat completions."""
