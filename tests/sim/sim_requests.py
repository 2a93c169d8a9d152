"""Requests in each dialect, and what to do with an answer; shared by the tests of the simulator."""

import json

from bursar.sim import Answer, Simulator

OPENAI = {"authorization": "Bearer sk-test-1234"}
ANTHROPIC = {"x-api-key": "k-anthropic", "anthropic-version": "2023-06-01"}
GEMINI = {"x-goog-api-key": "k-gemini"}
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
GENERATE, STREAM = (
    "/v1beta/models/gemini-2.5-pro:generateContent",
    "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
)
LONG = "All prices are stated in cents. " * 400  # 3,200 tokens


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def simulator(**options) -> Simulator:
    return Simulator(**{"seed": 3, "clock": Clock()} | options)


def post(sim: Simulator, path: str, body, headers=OPENAI, query: str = "", **extra) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return sim.respond("POST", path, query, {**headers, **extra}, data)


def chat(text: str = "Hello", **fields) -> dict:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **fields}


def claude(content="Hello", **fields) -> dict:
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 5000,
        "messages": [{"role": "user", "content": content}],
    } | fields


def gemini(text: str = "Hello", **fields) -> dict:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **fields}


def data(answer: Answer) -> dict:
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def sent(answer: Answer) -> bytes:
    return answer.body if answer.pieces is None else b"".join(piece for _, piece in answer.pieces)
