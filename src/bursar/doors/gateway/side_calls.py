"""Calls that the gateway makes for its own sake: vectors of questions, and judgements whether two answers say the same.

Rule 1: they are held, charged and booked like any other call, for whoever caused them, under the label ``bursar_for``: cache.
Rule 2: they are asked with the server's own keys. One that fails is no answer, and nothing else.
Rule 3: a judge sees the question and both answers, and says one word. Whatever else it says is not SAME: were that no judgement, one
        that explains itself where answers differ would never be heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeAlias

import msgspec

from bursar.core.call import NeedsProvider, Reply
from bursar.core.errors import CacheError
from bursar.core.ledger import Opening
from bursar.core.prices import Reading
from bursar.core.scopes import make_labels
from bursar.core.usage import Usage
from bursar.engine.asks import estimate_of
from bursar.engine.claims import decision
from bursar.engine.ports import Embedder, HttpRequest, Upstream
from bursar.engine.rulebook import ProviderRule
from bursar.wire.context import put_label
from bursar.wire.dialect import BadRequest, RequestFacts
from bursar.wire.requests import read_facts
from bursar.wire.translate.conversation import Asked, Message, Text, Untranslatable
from bursar.wire.translate.speakers import speaker

from .auth import NoKeyError, fallback_headers
from .candidates import native
from .destinations import Destination, destination
from .request import Calls, Request

__all__ = ["FOR_LABEL", "EmbedderOf", "SideCalls"]

FOR_LABEL: Final = "bursar_for"
"""The label that says what a call of the gateway's own was made for."""

EmbedderOf: TypeAlias = Callable[[str, Destination | None, tuple[tuple[str, str], ...]], Embedder]
"""Makes the embedder of this name: "ngrams", "local", or the model at a provider's endpoint with these headers."""

_JUDGE: Final = (
    "You compare two answers to the same question. Say SAME if a person who asked it is told the same by both, whatever the wording; "
    "say DIFFERENT if anything that matters to them differs: a fact, a figure, a name, a yes or no, an instruction. Say one word."
)
_JUDGE_TOKENS: Final = 16
_TEXT_MAX: Final = 8_000


class SideCalls:
    """Made for one request of a client."""

    def __init__(self, calls: Calls, request: Request, embedder_of: EmbedderOf) -> None:
        self._calls = calls
        self._request = request
        self._embedder_of = embedder_of

    def vectors(self, name: str) -> _Vectors:
        """The embedder of this name. Raises CacheError."""
        provider, slash, model = name.partition("/")
        if not slash:
            return _Vectors(self, self._embedder_of(name, None, ()), "", None)
        to = destination(self._rule(provider), "/v1/embeddings", named=True)
        return _Vectors(self, self._embedder_of(model, to, self._headers(to.rule)), model, to)

    async def same(self, name: str, question: str, one: str, other: str) -> bool | None:
        """Whether two answers say the same, None where the judge did not answer."""
        provider, _, model = name.partition("/")
        text = f"Question:\n{question[:_TEXT_MAX]}\n\nFirst answer:\n{one[:_TEXT_MAX]}\n\nSecond answer:\n{other[:_TEXT_MAX]}"
        asked = Asked(
            model, (Message("user", (Text(text),)),), system=(Text(_JUDGE),), output_cap=_JUDGE_TOKENS, temperature=0.0
        )
        try:
            rule = self._rule(provider)
            theirs = speaker(rule.provider.dialects[native(rule.provider) or "generic"])
            if theirs is None:
                raise CacheError(f"{provider} is asked in no dialect that a judge speaks")
            sent = theirs.write_request(asked, model)
            to = destination(rule, sent.path, named=True)
            headers = (*self._headers(rule), *sent.headers, ("content-type", "application/json"))
            facts = replace(read_facts(to.dialect, to.path, "application/json", sent.body), model=model)
            url = f"{to.url}?{sent.query}" if sent.query else to.url
            attempt = self._calls.client.attempt(
                HttpRequest("POST", url, headers, sent.body, stream=False), to.dialect, facts, _NoSink(),
                hide_usage=False, allowance=None,
            )  # fmt: skip
            await self.drive(to, facts, attempt)
            answer = attempt.answer
            if answer is None or answer.status != 200:
                return None
            said = "".join(part.text for part in theirs.read_answer(answer.body).parts if isinstance(part, Text))
        except (CacheError, Untranslatable, BadRequest, ValueError):
            return None
        return said.strip().strip(".").upper() == "SAME"

    async def drive(self, to: Destination, facts: RequestFacts, upstream: Upstream) -> None:
        """Make the call, held before and settled after."""
        calls, request = self._calls, self._request
        rulebook, call_id, now_us = request.rulebook, calls.clock.new_id(), calls.clock.now_us()
        labels = dict(request.scope.labels)
        put_label(labels, FOR_LABEL, "cache")
        provider = to.rule.provider.id
        opening = Opening(
            attempt_id=f"{call_id}.1",
            call_id=call_id,
            kind="model",
            door="gateway",
            operation=facts.operation,
            started_us=now_us,
            provider=provider,
            model_asked=facts.model,
            scope=replace(request.scope, labels=make_labels(labels)),
            estimate=estimate_of(rulebook, provider, to.path, facts, now_us),
            decision=decision(provider, facts.model),
        )
        await calls.make(opening, upstream, rulebook, to, facts)

    def _rule(self, provider: str) -> ProviderRule:
        rule = self._request.rulebook.providers.get(provider)
        if rule is None:
            raise CacheError(f"provider {provider!r} is not known")
        return rule

    def _headers(self, rule: ProviderRule) -> tuple[tuple[str, str], ...]:
        try:
            return fallback_headers((), rule, own=(), kept=True)
        except NoKeyError as error:
            raise CacheError(str(error)) from None


class _Vectors:
    """``engine.similar.Vectors``: what a provider is paid for is booked."""

    def __init__(self, side: SideCalls, embedder: Embedder, model: str, to: Destination | None) -> None:
        self._side = side
        self._model = model
        self._embedder = embedder
        self._to = to
        self.id = embedder.id

    async def vector(self, text: str, /) -> Any:
        if self._to is None:
            return (await self._embedder.embed([text])).vectors[0]
        body = msgspec.json.encode({"model": self._model, "input": [text]})
        facts = read_facts(self._to.dialect, self._to.path, "application/json", body)
        upstream = _Embedding(self._embedder, text, facts)
        await self._side.drive(self._to, facts, upstream)
        if upstream.failure is not None:
            raise upstream.failure
        if upstream.vector is None:
            raise CacheError("the vector was not made: no budget, or no answer")
        return upstream.vector


class _Embedding:
    """``engine.ports.Upstream``: one text at an endpoint for embeddings."""

    def __init__(self, embedder: Embedder, text: str, facts: RequestFacts) -> None:
        self._embedder = embedder
        self._text = text
        self._facts = facts
        self.vector: Any = None
        self.failure: CacheError | None = None

    async def send(self, _need: NeedsProvider, /) -> Reply:
        try:
            made = await self._embedder.embed([self._text])
        except CacheError as error:
            self.failure = error
            reply: Reply | None = getattr(error, "reply", None)
            return reply or Reply(Reading(error=str(error)), "error", left=False)
        self.vector = made.vectors[0]
        return made.reply or Reply(Reading(made.usage, model=made.model), "ok")

    def interrupted(self) -> Reply:
        usage = Usage(input_tokens=self._facts.input_tokens_estimate)
        return Reply(Reading(usage, model=self._facts.model, estimated=True), "cancelled")


class _NoSink:
    """A whole answer is not streamed to anybody."""

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        raise AssertionError("it is no stream")

    async def write(self, chunk: bytes) -> None:
        raise AssertionError("it is no stream")
