"""Clients of three dialects that check all they are sent: an answer that the vendor's own types take, or an honest error."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import Any, Final

from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter, ValidationError
from pyreqwest.client import Client
from pyreqwest.exceptions import PyreqwestError

__all__ = ["DIALECTS", "Seen", "ask"]

DIALECTS: Final = ("openai", "anthropic", "gemini")
_claude_event: Final[TypeAdapter[Any]] = TypeAdapter(RawMessageStreamEvent)
_NO_USAGE: Final = {"input_tokens": 0, "output_tokens": 0}
_QUESTIONS: Final = [f"What is the {what} of line {n}?" for what in ("sum", "name", "date") for n in range(8)]


@dataclass
class Seen:
    """What a client has of one call. ``end``: ``answer`` (whole), ``broken`` (a stream that says that the rest will not come),
    ``theirs`` (a provider's error, passed on), ``ours`` (an error of the gateway's), ``left`` (the client went away),
    ``spoiled`` (a stream with an event that is no JSON). Anything else is said in ``wrong``."""

    route: str
    dialect: str
    stream: bool
    end: str = ""
    status: int = 0
    code: str = ""
    call_id: str = ""
    rung: str = ""
    cache: str = ""
    cost_usd: str = ""
    wrong: str = ""


def _request(dialect: str, route: str, text: str, *, stream: bool) -> tuple[str, dict[str, str], dict[str, Any]]:
    said = [{"role": "user", "content": text}]
    match dialect:
        case "openai":
            body: dict[str, Any] = {
                "model": route,
                "messages": said,
                "stream": stream,
                "temperature": 0,
                "max_tokens": 60,
            }
            return "/v1/chat/completions", {"authorization": "Bearer sk-client-own-123"}, body
        case "anthropic":
            body = {"model": route, "messages": said, "stream": stream, "temperature": 0, "max_tokens": 60}
            return "/v1/messages", {"x-api-key": "sk-client-own-123", "anthropic-version": "2023-06-01"}, body
        case _:
            config = {"temperature": 0, "maxOutputTokens": 200}
            body = {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}
            path = f"/v1beta/models/{route}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"
            return path, {"x-goog-api-key": "sk-client-own-123"}, body


async def ask(client: Client, url: str, route: str, chance: random.Random, *, leaves: float, worker: int) -> Seen:
    """One call, checked. With probability ``leaves`` the client goes away in the middle of it."""
    dialect, stream = chance.choice(DIALECTS), chance.random() < 0.5
    path, headers, body = _request(dialect, route, chance.choice(_QUESTIONS), stream=stream)
    seen = Seen(route, dialect, stream)
    headers |= {"x-bursar-session": f"s{worker}", "x-bursar-agent": f"a{worker % 4}", "x-bursar-user": f"u{worker % 8}"}
    call = asyncio.ensure_future(_exchange(client, url + path, headers, body, seen))
    if chance.random() < leaves:
        await asyncio.wait([call], timeout=chance.uniform(0.0, 0.4))
        if not call.done():
            call.cancel()
            await asyncio.wait([call])
            seen.end = "left"
            return seen
    try:
        text = await asyncio.wait_for(call, 30)
    except (PyreqwestError, TimeoutError) as error:
        seen.wrong = f"no answer: {error!r}"
        return seen
    _judge(seen, text)
    return seen


async def _exchange(client: Client, url: str, headers: dict[str, str], body: dict[str, Any], seen: Seen) -> str:
    request = client.post(url).header("content-type", "application/json")
    for name, value in headers.items():
        request = request.header(name, value)
    response = await request.body_text(json.dumps(body)).build().send()
    seen.status = response.status
    seen.call_id = response.get_header("x-bursar-call-id") or ""
    seen.rung = response.get_header("x-bursar-rung") or ""
    seen.cache = response.get_header("x-bursar-cache") or ""
    seen.cost_usd = response.get_header("x-bursar-cost-usd") or ""
    return await response.text()


def _judge(seen: Seen, text: str) -> None:
    try:
        if seen.status != 200:
            _judge_error(seen, text)
        elif seen.stream:
            _judge_stream(seen, text)
        else:
            _judge_whole(seen, text)
    except (ValueError, KeyError, ValidationError) as error:
        seen.wrong = f"{error!r} in {text[:300]!r}"


def _judge_error(seen: Seen, text: str) -> None:
    error = json.loads(text)["error"]
    assert isinstance(error["message"], str), text
    ours = _bursar(error)
    if ours is None:
        seen.end = "theirs"
        if not error["message"]:
            seen.wrong = f"an error without a word: {text!r}"
        return
    seen.end, seen.code = "ours", ours["code"]
    if seen.code != "too_many_calls":
        seen.call_id = seen.call_id or ours["call_id"]
    if not error["message"] or not seen.call_id:
        seen.wrong = f"an error of ours that does not say enough: {text!r}"


def _bursar(error: dict[str, Any]) -> dict[str, Any] | None:
    """The object of ours in an error; Gemini's dialect has it among the details."""
    if "bursar" in error:
        return error["bursar"]
    return next((each["metadata"] for each in error.get("details", ()) if "bursar" in str(each).lower()), None)


def _judge_whole(seen: Seen, text: str) -> None:
    answer = _without_usage(json.loads(text))
    match seen.dialect:
        case "openai":
            said = ChatCompletion.model_validate(answer)
            good = bool(said.choices and said.choices[0].finish_reason)
        case "anthropic":
            good = bool(Message.model_validate({**answer, "usage": _NO_USAGE}).stop_reason)
        case _:
            found = GenerateContentResponse.model_validate(answer)
            good = bool(found.candidates and found.candidates[0].finish_reason)
    seen.end = "answer"
    if not good:
        seen.wrong = f"an answer without an end: {text[:300]!r}"


def _without_usage(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without its counts, which faults spoil: they are passed on as the provider gave them."""
    return {name: value for name, value in answer.items() if name not in ("usage", "usageMetadata")}


def _judge_stream(seen: Seen, text: str) -> None:
    """Every event is of the dialect, and the last is its end, or an error; nothing comes after it."""
    events = [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]
    if not events:
        seen.wrong = f"a stream without an event: {text[:200]!r}"
        return
    ended = ""
    for number, data in enumerate(events):
        broke_off = '"upstream_cut"' in data  # it may, after the last event and before the end of the body
        if ended and not broke_off and not (ended == "finished" and seen.dialect == "openai"):
            seen.wrong = f"{data[:200]!r} after the {ended} end"
            return
        if data == "[DONE]":
            ended = "whole"
            continue
        try:
            event = json.loads(data)
        except ValueError:
            seen.end = "spoiled"
            return
        if "error" in event:
            ended = "broken"
            seen.code = (_bursar(event["error"]) or {}).get("code", "")
            continue
        ended = _judge_event(seen, event, first=number == 0) or ended
    seen.end = "broken" if ended == "broken" else "answer"
    if ended in ("", "finished"):
        seen.wrong = f"a stream without an end: {text[-300:]!r}"


def _judge_event(seen: Seen, event: dict[str, Any], *, first: bool) -> str:
    event = _without_usage(event)
    match seen.dialect:
        case "openai":
            chunk = ChatCompletionChunk.model_validate(event)
            return "finished" if chunk.choices and chunk.choices[0].finish_reason else ""
        case "anthropic":
            if event["type"] == "ping":  # the SDK passes over it before it looks for a type
                return ""
            if event["type"] == "message_start":
                event = {**event, "message": {**event["message"], "usage": _NO_USAGE}}
            if event["type"] == "message_delta":
                event = {**event, "usage": _NO_USAGE}
            found = _claude_event.validate_python(event)
            if first and found.type != "message_start":
                seen.wrong = f"a stream that begins with {found.type}"
            return "whole" if found.type == "message_stop" else ""
        case _:
            answer = GenerateContentResponse.model_validate(event)
            return "whole" if answer.candidates and answer.candidates[0].finish_reason else ""
