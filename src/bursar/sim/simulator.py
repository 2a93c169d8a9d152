"""The simulated provider without HTTP: a request in, an answer out, nothing else touched.

Rule 1: the same seed and the same requests in the same order give the same bytes, apart from the time fields
        (``created``, ``created_at``, ``completed_at``). What is said depends on the request alone (see ``_reply``),
        what is read from the prompt cache on the requests before it, identifiers on the request's index.
Rule 2: nothing here sleeps. Delays and endings are part of the answer; the shell (``server``) carries them out.
Rule 3: memory is bounded: the last ``CALLS_KEPT`` calls, prompt cache and conversations have their limits.
Rule 4: keys are never kept: a call records the last four characters.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, Final, Literal, cast
from urllib.parse import parse_qs

import msgspec

from bursar.core.usage import NO_USAGE, Usage

from . import _anthropic, _gemini, _openai, _responses
from ._cache import CacheUse, PromptCache
from ._errors import MESSAGES, Dialect, error
from ._reply import Asked, Piece, RequestError, Stamp, reply_to, to_json
from .faults import Fault, FaultRule, parse_fault, parse_rules, pick, spoil_with

__all__ = ["BAD_KEY", "CALLS_KEPT", "Answer", "Call", "Pace", "Simulator"]

BAD_KEY: Final = "bad-key"
CALLS_KEPT: Final = 5_000
_CALLS_SHOWN: Final = 1_000
_HEADERS_KEPT: Final = 64
_CREDENTIALS: Final = ("authorization", "x-api-key", "x-goog-api-key", "cookie")
_GEMINI_PATH: Final = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(\w+)")
_OPERATIONS: Final[dict[str, tuple[Dialect, str]]] = {
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/responses": ("openai", "responses"),
    "/v1/embeddings": ("openai", "embeddings"),
    "/v1/messages": ("anthropic", "messages"),
    "/v1/messages/count_tokens": ("anthropic", "count"),
}
_GEMINI_OPERATIONS: Final = frozenset(
    ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
)
_OUTCOME_FAULTS: Final = frozenset(("400", "401", "429", "500", "503"))
_decode: Final = msgspec.json.Decoder().decode

Outcome = Literal["complete", "cut", "hang", "disconnected"]


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the model is. Zero is as fast as possible."""

    first_token_ms: float = 0.0
    tokens_per_second: float = 0.0

    def delays(self, pieces: Sequence[Piece], extra_s: float) -> list[tuple[float, bytes]]:
        """The wait before each piece. The first token's is added to the first piece that has tokens, or the last."""
        if not (self.first_token_ms or self.tokens_per_second or extra_s):
            return [(0.0, data) for _, data in pieces]
        first = next((number for number, piece in enumerate(pieces) if piece[0]), len(pieces) - 1)
        token_s = 1.0 / self.tokens_per_second if self.tokens_per_second else 0.0
        delayed = [(tokens * token_s, data) for tokens, data in pieces]
        delayed[first] = (delayed[first][0] + self.first_token_ms / 1000.0 + extra_s, delayed[first][1])
        return delayed

    def whole_s(self, tokens: int) -> float:
        return self.first_token_ms / 1000.0 + (tokens / self.tokens_per_second if self.tokens_per_second else 0.0)


@dataclass(slots=True)
class Call:
    """What was served. ``usage`` is what is billed, in Bursar's own units; None when the call failed."""

    index: int
    at_s: float
    method: str
    path: str
    dialect: Dialect
    headers: dict[str, str]
    model: str = ""
    key: str = ""
    stream: bool = False
    fault: str | None = None
    status: int = 0
    usage: Usage | None = None
    tier: str | None = None
    response_id: str | None = None
    body_bytes: int = 0
    body_sha256: str = ""
    events: int = 0
    events_sent: int = 0
    outcome: Outcome = "complete"

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {
            "usage": None if self.usage is None else self.usage.counts()
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` at once after ``delay_s``, or else ``pieces``, each after its own delay in seconds.

    ``ends`` says how: ``complete``; ``cut`` breaks the connection off after the last byte; ``hang`` sends nothing.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    pieces: list[tuple[float, bytes]] | None = None
    delay_s: float = 0.0
    ends: Literal["complete", "cut", "hang"] = "complete"
    call: Call | None = field(default=None, compare=False)


class Simulator:
    """Plays OpenAI, Anthropic and Gemini. ``clock`` gives seconds since 1970."""

    def __init__(
        self,
        *,
        seed: int = 1,
        clock: Callable[[], float] = time.time,
        pace: Pace | None = None,
        faults: Sequence[FaultRule] = (),
    ) -> None:
        self.seed = seed
        self.faults: Sequence[FaultRule] = tuple(faults)
        self._faults_at_start = self.faults
        self._clock = clock
        self._pace = pace or Pace()
        self._cache = PromptCache()
        self._conversations = _responses.Conversations()
        self.reset()

    def reset(self) -> None:
        """Everything as at the start: index 0, empty caches, the first schedule."""
        self.faults = self._faults_at_start
        self.calls: deque[Call] = deque(maxlen=CALLS_KEPT)
        self._served = 0
        self._totals: Counter[str] = Counter()
        self._cache.clear()
        self._conversations.clear()
        self._started = self._clock()

    @property
    def served(self) -> int:
        """Calls since the start or the last reset."""
        return self._served

    def respond(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """``headers`` has lower-case names. Never raises for what a client sent."""
        if path.startswith("/sim/"):
            return self._introspect(method, path, query, body)
        now = self._clock()
        dialect, operation, model = _route(method, path, headers)
        call = Call(self._served, now - self._started, method, path, dialect, _kept(headers), model)
        self._served += 1
        self.calls.append(call)
        stamp = Stamp(self.seed, call.index, now)
        try:
            answer = self._answer(operation, query, headers, body, call, stamp)
        except RequestError as problem:
            answer = _failed(call, stamp, "400", problem.message, problem.field)
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            # A stranger's JSON may hold any type anywhere; where a rule names no field, this still answers in form.
            answer = _failed(call, stamp, "400", f"Your request has a field of the wrong type: {problem!r}.")
        self._count(call)
        return answer

    def _answer(
        self, operation: str, query: str, headers: Mapping[str, str], body: bytes, call: Call, stamp: Stamp
    ) -> Answer:
        if not operation:
            return _failed(call, stamp, "404")
        key = _key(headers, query)
        call.key = key[-4:] if len(key) > 8 else "*" * len(key)
        if not key or key == BAD_KEY:
            return _failed(call, stamp, "401")
        if operation == "models":
            listed = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}[call.dialect].list_models()
            return _sent(call, stamp, listed)
        fields = _fields(body)
        if not call.model:
            call.model = _model(fields)
        fault = self._fault(headers, call, key)
        call.fault = None if fault is None else fault.kind
        if fault is not None and fault.kind in _OUTCOME_FAULTS:
            return _failed(call, stamp, fault.kind, wait_s=fault.value)
        if fault is not None and fault.kind == "hang":
            call.status, call.outcome = 0, "hang"
            return Answer(0, [], ends="hang", call=call)
        if call.dialect == "anthropic" and "anthropic-version" not in headers:
            raise RequestError("anthropic-version: header is required", "anthropic-version")
        match operation:
            case "embeddings":
                tokens, data = _openai.embeddings(fields, call.model, partial(spoil_with, fault))
                call.usage = Usage(input_tokens=tokens, requests=1)
            case "embedContent" | "batchEmbedContents":
                tokens, data = _gemini.embed(fields, call.model, batch=operation == "batchEmbedContents")
                call.usage = Usage(input_tokens=tokens, requests=1)
            case "count":
                data = _anthropic.count(fields)
            case "countTokens":
                data = _gemini.count(fields)
            case _:
                return self._generate(operation, query, fields, key, call, stamp, fault)
        return self._whole(call, stamp, data, 0, fault)

    def _generate(
        self,
        operation: str,
        query: str,
        fields: dict[str, Any],
        key: str,
        call: Call,
        stamp: Stamp,
        fault: Fault | None,
    ) -> Answer:
        asked = self._asked(operation, fields, call.model)
        reply = reply_to(asked, self.seed, self._cached(asked, key, stamp.now))
        spoil = partial(spoil_with, fault)
        call.stream, call.usage, call.tier = asked.stream, reply.usage, asked.tier
        events = True
        match operation:
            case "chat":
                call.response_id = stamp.id("chatcmpl-", 29)
                whole, stream = _openai.whole_chat, _openai.stream_chat
            case "responses":
                call.response_id = stamp.id("resp_", 50)
                self._conversations.keep(call.response_id, asked, reply)
                whole, stream = _responses.whole_responses, _responses.stream_responses
            case "messages":
                call.response_id = stamp.id("msg_01", 22)
                whole, stream = _anthropic.whole_messages, _anthropic.stream_messages
            case _:
                call.response_id = stamp.id("", 22, "response")
                events = parse_qs(query).get("alt") == ["sse"]
                whole, stream = _gemini.whole_generate, partial(_gemini.stream_generate, sse=events)
        if not asked.stream:
            return self._whole(call, stamp, whole(asked, reply, stamp, spoil), reply.usage.output_tokens, fault)
        pieces = stream(asked, reply, stamp, spoil)
        return self._streamed(call, stamp, pieces, fault, "text/event-stream" if events else "application/json")

    def _asked(self, operation: str, fields: dict[str, Any], model: str) -> Asked:
        match operation:
            case "chat":
                return _openai.ask_chat(fields, model)
            case "responses":
                return _responses.ask_responses(fields, model, self._conversations)
            case "messages":
                return _anthropic.ask_messages(fields, model)
            case _:
                return _gemini.ask_generate(fields, model, stream=operation == "streamGenerateContent")

    def _cached(self, asked: Asked, key: str, now: float) -> CacheUse:
        owner = f"{key}\0{asked.model}"
        if asked.blocks is not None:
            return self._cache.marked(owner, asked.prompt, asked.blocks, now=now)
        return self._cache.automatic(owner, asked.prompt, now=now, ttl_s=asked.cache_ttl_s)

    def _fault(self, headers: Mapping[str, str], call: Call, key: str) -> Fault | None:
        asked = headers.get("x-sim-fault")
        if asked is not None:
            try:
                fault = parse_fault(asked)
            except ValueError as problem:
                raise RequestError(f"x-sim-fault: {problem}", "x-sim-fault") from problem
        elif self.faults:
            found = pick(
                self.faults,
                seed=self.seed,
                index=call.index,
                elapsed_s=call.at_s,
                path=call.path,
                model=call.model,
                key=key,
            )
            if found is None:
                return None
            fault = found
        else:
            return None
        return fault._replace(kind="503") if fault.kind == "529" else fault

    def _whole(self, call: Call, stamp: Stamp, data: bytes, tokens: int, fault: Fault | None) -> Answer:
        kind, value = fault or Fault("", 0)
        if kind in ("wrong-json", "cut"):
            data = data[: len(data) // 2]
        delay_s = self._pace.whole_s(tokens) + (value / 1000.0 if kind == "slow" else 0.0)
        return _sent(call, stamp, data, delay_s=delay_s, cut=kind == "cut")

    def _streamed(
        self, call: Call, stamp: Stamp, pieces: list[Piece], fault: Fault | None, content_type: str
    ) -> Answer:
        kind, value = fault or Fault("", 0)
        if kind == "wrong-json":
            middle = len(pieces) // 2
            tokens, data = pieces[middle]
            pieces[middle] = (tokens, data[: len(data) * 2 // 3] + b"\n\n")
        elif kind == "cut":
            pieces = pieces[:value]
            call.outcome = "cut"
        sent = b"".join([data for _, data in pieces])
        call.status, call.events = 200, len(pieces)
        call.body_bytes, call.body_sha256 = len(sent), sha256(sent).hexdigest()
        extra_s = value / 1000.0 if kind == "slow" else 0.0
        return Answer(
            200,
            _headers(call, stamp, content_type),
            pieces=self._pace.delays(pieces, extra_s) if pieces else [],
            ends="cut" if kind == "cut" else "complete",
            call=call,
        )

    def _count(self, call: Call) -> None:
        totals, usage = self._totals, call.usage or NO_USAGE
        totals[f"status {call.status}"] += 1
        totals[f"path {call.path}"] += 1
        if call.fault is not None:
            totals[f"fault {call.fault}"] += 1
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"):
            totals[name] += getattr(usage, name)

    def _introspect(self, method: str, path: str, query: str, body: bytes) -> Answer:
        match method, path:
            case "GET", "/sim/calls":
                asked = parse_qs(query)
                since = int((asked.get("since") or ["0"])[0])
                rows = [call.row() for call in self.calls if call.index >= since][:_CALLS_SHOWN]
                return _json({"calls": rows, "served": self._served, "kept": len(self.calls)})
            case "GET", "/sim/stats":
                return _json({"seed": self.seed, "served": self._served, **self._stats()})
            case "POST", "/sim/faults":
                try:
                    self.faults = parse_rules(body)
                except ValueError as problem:
                    return _json({"error": str(problem)}, 400)
                return _json({"faults": list(self.faults)})
            case "POST", "/sim/reset":
                self.reset()
                return _json({"served": 0})
            case _:
                return _json({"error": "try GET /sim/calls, GET /sim/stats, POST /sim/faults, POST /sim/reset"}, 404)

    def _stats(self) -> dict[str, Any]:
        grouped: dict[str, Any] = {"by_status": {}, "by_path": {}, "by_fault": {}, "usage": {}}
        for name, count in sorted(self._totals.items()):
            group, _, value = name.partition(" ")
            grouped[f"by_{group}" if value else "usage"][value or group] = count
        return {"elapsed_s": round(self._clock() - self._started, 3), **grouped}


def _route(method: str, path: str, headers: Mapping[str, str]) -> tuple[Dialect, str, str]:
    """Dialect, operation (empty: there is none) and the model where the path names it."""
    if method == "POST":
        if path in _OPERATIONS:
            return (*_OPERATIONS[path], "")
        found = _GEMINI_PATH.fullmatch(path)
        if found is not None and found[2] in _GEMINI_OPERATIONS:
            return "gemini", found[2], found[1]
    elif method == "GET" and path in ("/v1/models", "/v1beta/models"):
        return _spoken(path, headers), "models", ""
    return _spoken(path, headers), "", ""


def _spoken(path: str, headers: Mapping[str, str]) -> Dialect:
    """The dialect of a path that several providers share, or that none has."""
    if path.startswith("/v1beta") or "x-goog-api-key" in headers:
        return "gemini"
    by_headers = "anthropic-version" in headers or "x-api-key" in headers
    return "anthropic" if by_headers or path.startswith("/v1/messages") else "openai"


def _key(headers: Mapping[str, str], query: str) -> str:
    bearer = headers.get("authorization", "")
    if bearer[:7].lower() == "bearer ":
        return bearer[7:].strip()
    given = headers.get("x-api-key") or headers.get("x-goog-api-key")
    return given or (parse_qs(query).get("key") or [""])[0]


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in [*headers.items()][:_HEADERS_KEPT] if name not in _CREDENTIALS}


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = _decode(body)
    except msgspec.DecodeError as problem:
        raise RequestError(f"We could not parse the JSON body of your request: {problem}.") from problem
    if not isinstance(fields, dict):
        raise RequestError("The body of your request must be a JSON object.")
    return cast("dict[str, Any]", fields)


def _model(fields: dict[str, Any]) -> str:
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError("you must provide a model parameter", "model")
    return model


def _headers(call: Call, stamp: Stamp, content_type: str) -> list[tuple[str, str]]:
    name = "request-id" if call.dialect == "anthropic" else "x-request-id"
    return [("content-type", content_type), (name, stamp.id("req_01", 22)), ("x-sim-call", str(call.index))]


def _sent(
    call: Call, stamp: Stamp, data: bytes, *, status: int = 200, delay_s: float = 0.0, cut: bool = False
) -> Answer:
    call.status = status
    call.body_bytes, call.body_sha256 = len(data), sha256(data).hexdigest()
    headers = _headers(call, stamp, "application/json")
    if cut:
        call.outcome = "cut"
        return Answer(status, headers, pieces=[(delay_s, data)], ends="cut", call=call)
    return Answer(status, headers, data, delay_s=delay_s, call=call)


def _failed(
    call: Call, stamp: Stamp, kind: str, message: str | None = None, field: str | None = None, *, wait_s: int = 1
) -> Answer:
    status, data = error(call.dialect, kind, message or MESSAGES[kind], field, wait_s, stamp)
    answer = _sent(call, stamp, data, status=status)
    if kind == "429":
        answer.headers.append(("retry-after", str(wait_s)))
    return answer


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, [("content-type", "application/json")], to_json(value))
