"""Three agents with work to do: a support bot, a research agent with sub-agents, a coding agent that once runs away.

Rule 1: what an agent asks depends on the seed and on earlier answers alone. Calls that run side by side share no cached
        prefix, and identifiers that the provider makes up never go back into a prompt: totals do not depend on order.
Rule 2: every call has a task. A sub-agent's task names its parent.
Rule 3: faults are placed, not left to chance: one 429, one 500, one stream cut by the provider, one left by its reader.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from . import figures
from .client import Client, scope
from .figures import chance, prose

__all__ = ["AGENTS", "UNPRICED_MODEL", "Agent", "Work"]

UNPRICED_MODEL: Final = "orion-1-preview"
"""A model that no price list has: what it costs is not known, and everything must say so."""

_MESSAGES: Final = "/v1/messages"
_CHAT: Final = "/v1/chat/completions"
_RESPONSES: Final = "/v1/responses"


class Work(NamedTuple):
    """What an agent works with. ``done`` is called after every finished call."""

    client: Client
    seed: int
    done: Callable[[], None]

    async def call(
        self, who: Mapping[str, str], path: str, body: Mapping[str, Any], *, fault: str | None = None
    ) -> tuple[str, str]:
        """The text and the id of the answer."""
        said = await self.client.call(who, path, body, fault=fault)
        self.done()
        return said.text, said.id


class Agent(NamedTuple):
    """``calls`` is how many times ``done`` will be called."""

    name: str
    calls: int
    run: Callable[[Work], Any]


# --- support: many short tasks ------------------------------------------------------------------------------------

_TICKETS: Final = 30
_DESKS: Final = 3
_CUSTOMERS: Final = ("amira", "bruno", "chen", "dalia", "emil", "freya")
_REPEATED: Final = 0.3
_LIMITED, _BROKEN, _LEFT = 4, 11, 17


async def _support(work: Work) -> None:
    random = chance(work.seed, "support")
    questions: list[str] = []
    customers: list[str] = []
    for _ in range(_TICKETS):
        if questions and random.random() < _REPEATED:
            questions.append(random.choice(questions))
        else:
            questions.append(prose(random, figures.CHAT_CONTEXT.draw(random)))
        customers.append(random.choice(_CUSTOMERS))

    async def desk(first: int) -> None:
        for number in range(first, _TICKETS, _DESKS):
            await _ticket(work, number, customers[number], questions[number])

    async with asyncio.TaskGroup() as group:
        for first in range(_DESKS):
            group.create_task(desk(first))


async def _ticket(work: Work, number: int, customer: str, question: str) -> None:
    task = f"ticket-{1_000 + number}"
    known = {"agent": "support-bot", "team": "customer-care", "project": "helpdesk", "user": customer, "task": task}
    label = {
        "model": "claude-haiku-4-5",
        "max_tokens": figures.LABEL_TOKENS_MAX,
        "system": "Name the one queue this message belongs to: billing, delivery, account, other.",
        "messages": [{"role": "user", "content": question}],
    }
    limited = "429=1" if number == _LIMITED else None
    await work.call(scope(known, step="classify"), _MESSAGES, label, fault=limited)
    answer = {
        "model": "claude-sonnet-4-5",
        "max_tokens": figures.ANSWER_TOKENS_MAX,
        "stream": True,
        "system": "Answer the customer in a few friendly sentences.",
        "messages": [{"role": "user", "content": question}],
    }
    who = scope(known, step="answer")
    if number == _LEFT:
        await work.client.leave(who, _MESSAGES, answer)
        work.done()
        return
    await work.call(who, _MESSAGES, answer, fault="500" if number == _BROKEN else None)


# --- research: a task with sub-tasks ------------------------------------------------------------------------------

_STUDIES: Final = (("battery-recycling", 3, 0), ("grid-storage-prices", 2, 2))  # topic, rounds, second opinions
_READERS: Final = ("papers", "filings", "news")
_CUT_READER: Final = ("battery-recycling", "filings")


def _function(name: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {
        "type": "function",
        "function": {"name": name, "description": f"{name} by {argument}", "parameters": schema},
    }


_READER_TOOLS: Final = (_function("search_web", "query"), _function("read_page", "url"))


async def _research(work: Work) -> None:
    for topic, rounds, opinions in _STUDIES:
        await _study(work, topic, rounds, opinions)


async def _study(work: Work, topic: str, rounds: int, opinions: int) -> None:
    random = chance(work.seed, f"research/{topic}")
    task = f"study-{topic}"
    known = {"agent": "research-agent", "team": "research", "project": "market-study", "user": "greta", "session": task}
    plan = {
        "model": "o3",
        "reasoning": {"effort": "high"},
        "instructions": f"Plan a study of {topic}. Say who should read what.",
        "input": prose(random, figures.CODE_CONTEXT.draw(random)),
    }
    _, plan_id = await work.call(scope({**known, "task": task}, step="plan"), _RESPONSES, plan)
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_reader(work, known, task, topic, kind, rounds)) for kind in _READERS]
    findings = [reader.result() for reader in readers]
    report = {
        "model": "gpt-5",
        "reasoning": {"effort": "medium"},
        "stream": True,
        "previous_response_id": plan_id,
        "input": "Write the report from these findings.\n" + "\n".join(findings),
    }
    await work.call(scope({**known, "task": task}, step="report"), _RESPONSES, report)
    for number in range(opinions):
        body = {
            "model": UNPRICED_MODEL,
            "messages": [
                {"role": "user", "content": f"Second opinion {number + 1}: is this sound?\n{findings[number]}"}
            ],
        }
        await work.call(scope({**known, "task": task}, step="second-opinion"), _CHAT, body)


async def _reader(work: Work, known: Mapping[str, str], parent: str, topic: str, kind: str, rounds: int) -> str:
    """One sub-agent: it searches and reads in turns, and says what it found."""
    random = chance(work.seed, f"research/{topic}/{kind}")
    # The topic comes first: readers that run side by side then share no prefix that the provider could have cached.
    head = f"{kind} on {topic}. You read sources and note what they say."
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": head},
        {"role": "user", "content": prose(random, figures.CODE_CONTEXT.draw(random))},
    ]
    mine = {**known, "task": f"{parent}/{kind}", "parent_task": parent}
    text = ""
    for number in range(rounds):
        tool = _READER_TOOLS[number % len(_READER_TOOLS)]["function"]["name"]
        body = {"model": "gpt-5-mini", "stream": True, "messages": messages, "tools": _READER_TOOLS}
        choice = {"type": "function", "function": {"name": tool}}
        arguments, _ = await work.call(scope(mine, step="search"), _CHAT, {**body, "tool_choice": choice})
        function = {"name": tool, "arguments": arguments}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}]}
        )
        page = prose(random, figures.CODE_CONTEXT.draw(random))
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": page})
        cut = "cut=40" if (topic, kind) == _CUT_READER and number == 0 else None
        text, _ = await work.call(scope(mine, step="read"), _CHAT, body, fault=cut)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "Go on with the next source."}]
    embedded = {"model": "text-embedding-3-small", "input": text}
    await work.call(scope(mine, step="embed"), "/v1/embeddings", embedded)
    return text


# --- coding: long contexts that grow ------------------------------------------------------------------------------


class _Job(NamedTuple):
    """A coding task: every second step calls a tool. One that loops runs the same tests again and again."""

    task: str
    model: str
    steps: int
    loops: bool = False


_JOBS: Final = (
    _Job("add-invoice-export", "claude-opus-4-5", 12),
    _Job("upgrade-http-client", "claude-opus-4-5", 10),
    _Job("fix-flaky-checkout-test", "claude-opus-4-5", 64, loops=True),
    _Job("rename-order-states", "claude-sonnet-4-5", 12),
)
_LOOPING_TOKENS: Final = 900


def _tool(name: str, argument: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"name": name, "description": f"{name} on a {argument}", "input_schema": schema}


_CODE_TOOLS: Final = (_tool("read_file", "path"), _tool("edit_file", "path"), _tool("run_tests", "target"))
_HOUR: Final = {"type": "ephemeral", "ttl": "1h"}
_FIVE_MINUTES: Final = {"type": "ephemeral"}


async def _coding(work: Work) -> None:
    preamble = prose(chance(work.seed, "coding"), figures.CODING_PREAMBLE_TOKENS)
    for job in _JOBS:
        await _job(work, job, preamble)


async def _job(work: Work, job: _Job, preamble: str) -> None:
    random = chance(work.seed, f"coding/{job.task}")
    known = {
        "agent": "coding-agent",
        "team": "platform",
        "project": "checkout",
        "user": "henri",
        "task": job.task,
        "session": f"session-{job.task}",
    }
    who = scope(known, step="code")
    files = {"type": "text", "text": prose(random, figures.CODING_FILES_TOKENS), "cache_control": _HOUR}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [files, {"type": "text", "text": f"Please {job.task.replace('-', ' ')}."}]}
    ]
    failure = prose(random, _LOOPING_TOKENS)
    for step in range(job.steps):
        body: dict[str, Any] = {
            "model": job.model,
            "max_tokens": figures.CODE_OUTPUT_TOKENS_MAX,
            "stream": True,
            "tools": _CODE_TOOLS,
            "system": [{"type": "text", "text": preamble, "cache_control": _HOUR}],
            "messages": _marked(messages),
        }
        if step % 2:
            text, _ = await work.call(who, _MESSAGES, body)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
            messages.append({"role": "user", "content": [{"type": "text", "text": "Go on."}]})
            continue
        tool = "run_tests" if job.loops else random.choice(_CODE_TOOLS)["name"]
        body["tool_choice"] = {"type": "tool", "name": tool}
        arguments, _ = await work.call(who, _MESSAGES, body)
        use = {"type": "tool_use", "id": f"toolu_{step}", "name": tool, "input": json.loads(arguments)}
        result = failure if job.loops else prose(random, figures.CODING_GROWTH.draw(random))
        messages.append({"role": "assistant", "content": [use]})
        messages.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": result}]}
        )
    if not job.loops:
        asked = {"role": "user", "parts": [{"text": prose(random, figures.CODE_CONTEXT.draw(random))}]}
        path = "/v1beta/models/gemini-2.5-flash:generateContent"
        await work.call(scope(known, step="summary"), path, {"contents": [asked]})


def _marked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with a 5 minute cache mark on the last block, so that the next step reads what this one wrote."""
    *before, last = messages
    *blocks, block = last["content"]
    return [*before, {**last, "content": [*blocks, {**block, "cache_control": _FIVE_MINUTES}]}]


AGENTS: Final = (
    Agent("support-bot", 2 * _TICKETS, _support),
    Agent(
        "research-agent",
        sum(2 + opinions + len(_READERS) * (2 * rounds + 1) for _, rounds, opinions in _STUDIES),
        _research,
    ),
    Agent("coding-agent", sum(job.steps + (not job.loops) for job in _JOBS), _coding),
)
