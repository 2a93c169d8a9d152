"""Similar questions through a running gateway: nothing is served before the evidence is there, and it is paid for in the open."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from house import House, Script, gateway

from bursar.adapters.http_server import HttpServer
from bursar.config import Cache, ProviderSettings, Settings
from bursar.core.errors import ConfigError
from bursar.engine.rsgi import HttpProtocol, HttpScope

pytest.importorskip("numpy", reason="similar questions need numpy (the extra `semantic`)")

QUESTIONS = [
    " ".join(words) + end
    for *words, end in itertools.product(
        ["How", "In what way", "By which steps"],
        ["do I", "can I", "may one"],
        ["reset", "renew", "reset again"],
        ["my password", "the password", "a forgotten password"],
        ["?", " please?", " today?"],
    )
]

SPACED = [QUESTIONS[0] + " " * number for number in range(160)]
"""No guard tells them apart, nor do their vectors."""


class Helpdesk(Script):
    """A model that knows one answer, words it in a few ways, makes vectors, and judges."""

    async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
        body = json.loads(await protocol())
        self.seen.append(body)
        usage = {"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28}
        if scope.path.endswith("/embeddings"):
            vector = [
                float(word in body["input"][0]) for word in ("How", "way", "steps", "my", "the", "password", "today")
            ]
            out: dict[str, Any] = {
                "object": "list", "model": body["model"], "usage": {"prompt_tokens": 9, "total_tokens": 9},
                "data": [{"object": "embedding", "index": 0, "embedding": vector}],
            }  # fmt: skip
        else:
            asked = body["messages"][-1]["content"]
            said = self.judge(asked) if body["model"] == "gpt-4o" else self.say(asked)
            message = {"role": "assistant", "content": said}
            out = {
                "id": f"c{len(self.seen)}", "object": "chat.completion", "created": 1, "model": body["model"], "usage": usage,
                "choices": [{"index": 0, "message": message, **self.end(body["messages"][-1]["content"])}],
            }  # fmt: skip
        protocol.response_bytes(200, self.headers, json.dumps(out).encode())

    def say(self, question: str) -> str:
        return "Open the settings and choose Reset."

    def judge(self, asked: str) -> str:
        return "SAME"

    def end(self, question: str) -> dict[str, Any]:
        return {"finish_reason": "stop"}


TOOL = {"id": "c", "type": "function", "function": {"name": "reset_now", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "reset_now"}}]
ASKS_FOR_TOOLS = {
    "finish_reason": "tool_calls",
    "message": {"role": "assistant", "content": None, "tool_calls": [TOOL]},
}


class Acting(Helpdesk):
    """A model that answers every other question of SPACED in a way that is no text to keep."""

    def __init__(self, ending: dict[str, Any]) -> None:
        super().__init__()
        self.ending = ending

    def end(self, question: str) -> dict[str, Any]:
        return self.ending if len(question) % 2 else super().end(question)


class Chatty(Helpdesk):
    def say(self, question: str) -> str:
        return f"Open the settings and choose Reset. ({len(self.seen)})"


@asynccontextmanager
async def asking(
    path: Path,
    script: Script,
    *,
    route: dict[str, Any] | None = None,
    cache: dict[str, Any] | None = None,
    **semantic: Any,
) -> AsyncIterator[House]:
    server = HttpServer(script, "127.0.0.1", 0)
    await server.start()
    try:
        settings = Settings(
            routes={"*": {**(route or {}), "cache": {**(cache or {}), "semantic": {"errors": "20%", **semantic}}}},
            cache=Cache(store="memory"),
            providers={"openai": ProviderSettings(base_url=f"{server.url}/v1", key_env="TEST_PROVIDER_KEY")},
        )
        async with gateway(path, settings=settings) as house:
            yield house
    finally:
        await server.stop(0)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "sk-of-the-server-1234")


async def ask(house: House, question: str, key: str = "x", **more: Any) -> str:
    body = {"model": "gpt-4o-mini", "temperature": 0, "messages": [{"role": "user", "content": question}], **more}
    answer = await house.client.post("/v1/chat/completions", headers={"authorization": f"Bearer {key}"}, json=body)
    assert answer.status_code == 200
    return answer.headers["x-bursar-cache"]


async def test_similar_questions_are_answered_once_there_is_evidence(tmp_path: Path) -> None:
    """First everything is asked and compared; then most is given. What no neighbour knows, or a guard refuses, is asked."""
    script = Helpdesk()
    async with asking(tmp_path, script, shadow="1%") as house:
        tiers = [await ask(house, question) for question in QUESTIONS]
        assert "semantic" not in tiers[:15]
        assert tiers[120:].count("semantic") > 60
        given = next(row for row in house.rows() if row["cache"] == "semantic")
        assert (given["cost_nanousd"], given["rung"]) == (0, "cached")
        assert given["avoided_nanousd"] > 0
        said = json.loads(given["decision"])["cache"]
        assert (said["found"], said["similar"][:12], said["age_s"] >= 0) == ("similar", "served: 0 of", True)
        assert await ask(house, "How do I not reset my password?") == "miss"
        assert await ask(house, QUESTIONS[0] + " Say it in 3 words.") == "miss"
        assert await ask(house, QUESTIONS[0], key="y") == "miss"
        assert await ask(house, QUESTIONS[1], tools=[{"type": "function", "function": {"name": "f"}}]) == "miss"
    assert json.loads((tmp_path / "cache-evidence.json").read_bytes())["routes"]


async def test_answers_that_differ_are_no_evidence(tmp_path: Path) -> None:
    """A model that never says the same twice is asked every time; nothing similar is ever served."""
    async with asking(tmp_path, Chatty()) as house:
        assert {await ask(house, question) for question in QUESTIONS[:80]} == {"miss"}


@pytest.mark.parametrize(
    ("ending", "cache"),
    [
        (ASKS_FOR_TOOLS, {}),
        (ASKS_FOR_TOOLS, {"tool_calls": True}),
        ({"finish_reason": "content_filter"}, {}),
        ({"finish_reason": "length"}, {}),
    ],
)
async def test_answers_that_are_no_text_fail_their_checks(
    tmp_path: Path, ending: dict[str, Any], cache: dict[str, Any]
) -> None:
    """Where half of the questions end in tool calls, or are filtered, no neighbour speaks for the other half: checks that find that
    out count, whether such answers are kept or not, and nothing false is served beyond the bound."""
    questions = random.Random(1).sample(SPACED, len(SPACED))
    async with asking(tmp_path, Acting(ending), cache=cache, shadow="5%") as house:
        tiers = [await ask(house, question, tools=TOOLS) for question in questions]
    served = [question for question, tier in zip(questions, tiers, strict=True) if tier == "semantic"]
    assert sum(len(question) % 2 for question in served) <= 0.2 * len(served)
    strata = json.loads((tmp_path / "cache-evidence.json").read_bytes())["routes"]["*"]["strata"]
    assert sum(stratum["mistaken"] for stratum in strata) > 20


async def test_calls_that_failed_are_no_evidence(tmp_path: Path) -> None:
    """An error is neither for nor against: what was known stays."""

    class Failing(Helpdesk):
        async def __call__(self, scope: HttpScope, protocol: HttpProtocol) -> None:
            if len(self.seen) == 10:
                self.seen.append({})
                protocol.response_bytes(
                    400, self.headers, b'{"error": {"message": "no", "type": "invalid_request_error"}}'
                )
                return
            await super().__call__(scope, protocol)

    script = Failing()
    async with asking(tmp_path, script) as house:
        for question in SPACED[:20]:
            body = {"model": "gpt-4o-mini", "temperature": 0, "messages": [{"role": "user", "content": question}]}
            await house.client.post("/v1/chat/completions", headers={"authorization": "Bearer x"}, json=body)
    strata = json.loads((tmp_path / "cache-evidence.json").read_bytes())["routes"]["*"]["strata"]
    assert sum(stratum["checked"] for stratum in strata) > 5
    assert sum(stratum["mistaken"] for stratum in strata) == 0


async def test_evidence_outlives_a_restart_but_no_other_rungs(tmp_path: Path) -> None:
    """What was learned is known to the next run; not to one whose route asks other models, nor to the one after that."""
    before: dict[str, Any] = {"rungs": ["openai/gpt-4o-mini"]}
    served: list[bool] = []
    for route in (before, before, {"rungs": ["openai/gpt-4.1-mini"]}, before):
        async with asking(tmp_path, Helpdesk(), route=route, shadow="0%") as house:
            tiers = [await ask(house, question) for question in SPACED[:60]]
            served.append("semantic" in tiers[:15])
            assert "semantic" in tiers
    assert served == [False, True, False, False]


async def test_a_judge_is_a_call_that_is_booked(tmp_path: Path) -> None:
    """Where the route names one, a model says whether two answers are the same; what it and the vectors cost is booked."""
    script = Chatty()
    async with asking(
        tmp_path, script, verify="judge", judge="openai/gpt-4o", embed="openai/text-embedding-3-small"
    ) as house:
        tiers = [await ask(house, question) for question in QUESTIONS[:120]]
        assert "semantic" in tiers
        own = [row for row in house.rows() if row["labels"].get("bursar_for") == "cache"]
        assert {row["model_asked"] for row in own} == {"gpt-4o", "text-embedding-3-small"}
        assert all(row["cost_nanousd"] and row["cost_nanousd"] > 0 for row in own)
        asked = [body for body in script.seen if body["model"] == "gpt-4o"]
        assert len(asked) == sum(row["model_asked"] == "gpt-4o" for row in own)


async def test_a_judge_that_explains_itself_is_heard(tmp_path: Path) -> None:
    """What it says instead of the one word that was asked for is not that the answers are the same."""

    class Explaining(Chatty):
        def judge(self, asked: str) -> str:
            question = asked.split("\n")[1]
            return "SAME" if len(question) % 2 else "They are different: the second one names another number."

    async with asking(tmp_path, Explaining(), verify="judge", judge="openai/gpt-4o") as house:
        assert {await ask(house, question) for question in SPACED[:80]} == {"miss"}
    strata = json.loads((tmp_path / "cache-evidence.json").read_bytes())["routes"]["*"]["strata"]
    assert sum(stratum["mistaken"] for stratum in strata) > 0


def first_words(texts: Sequence[str]) -> list[list[float]]:
    """The user's own embedder: which of a few words a text has."""
    return [[float(word in text) for word in ("How", "way", "steps", "my", "the", "today")] for text in texts]


async def test_a_function_may_make_the_vectors(tmp_path: Path) -> None:
    """``embed`` may name a function of the user's own."""
    async with asking(tmp_path, Helpdesk(), embed=f"{__name__}:first_words") as house:
        tiers = [await ask(house, question) for question in QUESTIONS[:100]]
        assert "semantic" in tiers


@pytest.mark.parametrize(
    ("embed", "said"), [("no.such.module:embed", "No module named"), ("nowhere/model", "'nowhere' is not known")]
)
async def test_what_cannot_make_vectors_is_said_at_the_start(tmp_path: Path, embed: str, said: str) -> None:
    """And not with every call."""
    with pytest.raises(ConfigError, match=said):
        async with asking(tmp_path, Helpdesk(), embed=embed):
            pass
