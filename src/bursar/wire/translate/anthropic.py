"""Anthropic messages, both ways: requests, answers and streams as a conversation, and a conversation as those."""

from __future__ import annotations

from typing import Final

from .anthropic_answer import MessagesReader, MessagesWriter, read_answer, write_answer
from .anthropic_read import read_request
from .anthropic_write import write_request
from .conversation import Answered, Asked, DialectId, Sent, Speaker, StreamReader, StreamWriter

__all__ = ["SPEAKER", "AnthropicSpeaker"]


class AnthropicSpeaker:
    """See ``conversation.Speaker``."""

    id: DialectId = "anthropic"

    def read_request(self, path: str, query: str, body: bytes) -> Asked:
        return read_request(path, body)

    def write_request(self, asked: Asked, model: str) -> Sent:
        return write_request(asked, model)

    def read_answer(self, body: bytes) -> Answered:
        return read_answer(body)

    def write_answer(self, answered: Answered) -> bytes:
        return write_answer(answered)

    def reader(self) -> StreamReader:
        return MessagesReader()

    def writer(self, *, model: str, created_s: int, asks_usage: bool) -> StreamWriter:
        return MessagesWriter(model)


SPEAKER: Final[Speaker] = AnthropicSpeaker()
