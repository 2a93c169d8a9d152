"""Recorded chat completions of OpenAI and of those who speak its dialect, through a conversation.

The data is not part of the project: it is looked for beside it, and without it these tests are skipped.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from conversations import gathered
from openai_speech import MODEL, accepted, accumulated, again, events_of, written

from bursar.wire.dialect import BadRequest
from bursar.wire.providers import provider
from bursar.wire.translate.conversation import (
    Answered,
    Asked,
    Audio,
    Failed,
    Finished,
    Message,
    Text,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    Untranslatable,
)
from bursar.wire.translate.openai import SPEAKER
from bursar.wire.translate.openai_schema import strict_schema
from bursar.wire.translate.speakers import speaker

DATA = Path(os.environ.get("BURSAR_SHARED_DATA") or Path(__file__).parents[3].parent / "shared" / "data") / "wire"


pytestmark = pytest.mark.skipif(
    not (DATA / "interactions.jsonl.gz").exists(), reason=f"no recorded answers in {DATA}: set BURSAR_SHARED_DATA"
)


@lru_cache(maxsize=1)
def recorded() -> list[dict[str, Any]]:
    """Every recorded chat completion."""
    with gzip.open(DATA / "interactions.jsonl.gz", "rt") as lines:
        rows = map(json.loads, lines)
        return [row for row in rows if (row["path"] or "").split("?")[0].rstrip("/").endswith("/chat/completions")]


# Why recorded requests are refused: the field without its places, and how many. Most are other providers' own fields.
RECORDED_REFUSALS = {
    # Groq, Z.AI, OpenRouter: fields of their own.
    "reasoning_format": 8, "thinking": 6, "clear_thinking": 1, "reasoning": 5, "provider": 5, "models": 1,
    # An advisor of OpenRouter's.
    "tools[].type": 1,
    # Mistral's documents by link, OpenRouter's videos, Mistral's thoughts in a history.
    "messages[].content[].type": 6,
    # A file that only its provider stores, and one behind a link.
    "messages[].content[].file.file_id": 1, "messages[].parts[]": 1,
    # OpenAI's own moderation.
    "moderation": 2,
}  # fmt: skip


def _place_free(field: str) -> str:
    return re.sub(r"\[\d+\]", "[]", field)


def test_recorded_requests_are_carried_or_refused_for_a_known_reason() -> None:
    """210 of 247 real requests, of 16 providers, survive being read, written and read again; every refusal is on the list."""
    carried = 0
    refused: Counter[str] = Counter()
    for row in recorded():
        try:
            found = SPEAKER.read_request(row["path"], "", json.dumps(row["request"]).encode())
        except (Untranslatable, BadRequest) as refusal:
            refused[_place_free(refusal.field)] += 1
            continue
        try:
            back = again(found, "gpt-4o" if found.effort == "" else MODEL)
        except Untranslatable as refusal:
            refused[_place_free(refusal.field)] += 1
            continue
        carried += 1
        assert without_marks(back) == without_marks(replace(found, model=back.model))
    assert dict(refused) == RECORDED_REFUSALS
    assert (carried, len(recorded())) == (210, 247)


def without_marks(asked: Asked) -> Asked:
    """The request as OpenAI is asked: without cache marks and thoughts, what is strict closed."""

    def bare(message: Message) -> Message:
        parts = [part for part in message.parts if not isinstance(part, Thinking)]
        return replace(message, parts=tuple(map(unmarked, parts)))

    def unmarked(part: Any) -> Any:
        if isinstance(part, ToolResult):
            return replace(part, parts=tuple(map(unmarked, part.parts)))
        if isinstance(part, ToolUse):
            return replace(part, signature="", cache="")
        return part if isinstance(part, Audio) else replace(part, cache="")

    return replace(
        asked,
        messages=tuple(map(bare, asked.messages)),
        system=tuple(map(unmarked, asked.system)),
        tools=tuple(replace(closed(tool), cache="") for tool in asked.tools),
    )


def closed(tool: Tool) -> Tool:
    return replace(tool, schema=strict_schema(tool.schema, "")) if tool.strict and tool.schema is not None else tool


def speaker_at(row: dict[str, Any]) -> Any:
    """The speaker of the provider that answered."""
    found = provider(row["url"])
    return SPEAKER if found is None else speaker(found.dialect(row["path"])) or SPEAKER


def test_recorded_answers_survive_and_the_sdk_accepts_them() -> None:
    """Every whole answer of every provider that speaks the dialect, written again in OpenAI's own way."""
    read_, errors = 0, 0
    for row in recorded():
        if row["response"] is None:
            continue
        body = json.dumps(row["response"]).encode()
        try:
            answer = speaker_at(row).read_answer(body)
        except ValueError:
            assert "error" in row["response"] or not row["response"].get("choices"), row["id"]
            errors += 1
            continue
        read_ += 1
        again_ = SPEAKER.write_answer(answer)
        accepted(again_)
        assert SPEAKER.read_answer(again_) == merged(answer), row["id"]
    assert (read_, errors) == (193, 11)


def merged(answer: Answered) -> Answered:
    """The answer as one message says it: one text."""
    texts = [part.text for part in answer.parts if isinstance(part, Text)]
    thoughts = [part for part in answer.parts if isinstance(part, Thinking)]
    if not any(thought.signature or thought.hidden for thought in thoughts):
        joined = "\n\n".join(thought.text for thought in thoughts)
        thoughts = [Thinking(joined)] if joined else []
    uses = [part for part in answer.parts if isinstance(part, ToolUse)]
    text = "".join(texts)
    return replace(answer, id=answer.id or "chatcmpl-0", parts=(*thoughts, *([Text(text)] if text else []), *uses))


def test_recorded_streams_are_read_the_same_however_they_are_cut() -> None:
    """Every stream: byte by byte or whole, the same events; written again, the same answer, and the SDK gathers it."""
    whole, failed, cut = 0, 0, 0
    for row in recorded():
        text = row["response_text"]
        if not text:
            continue
        body = text.encode()
        speaking = speaker_at(row)
        if len(body) >= 60_000:  # what is longer was cut when it was recorded, inside an event
            body = body[: body.rindex(b"\n\n") + 2]
        events = events_of([body], speaking.reader())
        pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
        assert events_of(pieces, speaking.reader()) == events, row["id"]
        if any(isinstance(event, Failed) for event in events):
            failed += 1
        elif not any(isinstance(event, Finished) for event in events):
            cut += 1
        else:
            whole += 1
            answer = gathered(events)
            again_ = written(events)
            assert merged(gathered(events_of([again_]))) == merged(answer), row["id"]
            if answer.finish != "length":  # the SDK's own helper raises there
                assert accumulated(again_).choices[0].message.content == "".join(
                    part.text for part in answer.parts if isinstance(part, Text)
                )
    assert (whole, failed, cut) == (39, 1, 3)
