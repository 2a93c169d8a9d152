"""Gemini's generateContent, spoken and understood: requests (``gemini_reading``, ``gemini_writing``), answers and streams
(``gemini_answers``)."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from .conversation import Answered, Asked, DialectId, Sent
from .gemini_answers import Reader, Writer, read_answer, write_answer
from .gemini_reading import read_request
from .gemini_writing import write_request

__all__ = ["SPEAKER", "GeminiSpeaker", "wants_array"]


def wants_array(query: str) -> bool:
    """Whether a client of a stream gets one JSON array: the API sends events only where it is asked to."""
    return "sse" not in parse_qs(query).get("alt", [])


class GeminiSpeaker:
    """The Gemini API. What it writes are paths of the Gemini API, not of Vertex AI."""

    @property
    def id(self) -> DialectId:
        return "gemini"

    def read_request(self, path: str, query: str, body: bytes, /) -> Asked:
        return read_request(path, query, body)

    def write_request(self, asked: Asked, model: str, /) -> Sent:
        return write_request(asked, model)

    def read_answer(self, body: bytes, /) -> Answered:
        return read_answer(body)

    def write_answer(self, answered: Answered, /) -> bytes:
        return write_answer(answered)

    def reader(self) -> Reader:
        return Reader()

    def writer(self, *, model: str, created_s: int, asks_usage: bool, array: bool = False) -> Writer:
        """``array``: see ``wants_array``. Gemini's streams always state their usage."""
        return Writer(model, array=array)


SPEAKER: Final = GeminiSpeaker()
