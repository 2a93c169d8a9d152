"""Every row of the mapping table, by hand: what the attribute says, and which of several that say the same counts."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bursar.wire.telemetry
from bursar.core.observations import Observation
from telemetry_making import a_span, both, recorded, seen

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}
TABLE = tomllib.loads((Path(bursar.wire.telemetry.__file__).with_name("telemetry.toml")).read_text())


def usage(unit: str) -> Callable[[Observation], Any]:
    """One count of the observation's usage."""

    def found(observation: Observation) -> Any:
        assert observation.reading is not None
        assert observation.reading.usage is not None, observation.reading.reason
        return getattr(observation.reading.usage, unit)

    return found


def reading(field: str) -> Callable[[Observation], Any]:
    return lambda observation: getattr(observation.reading, field)


def scope(column: str) -> Callable[[Observation], Any]:
    return lambda observation: getattr(observation.scope, column)


def label(name: str) -> Callable[[Observation], Any]:
    return lambda observation: dict(observation.scope.labels).get(name)


def field(name: str) -> Callable[[Observation], Any]:
    return lambda observation: getattr(observation, name)


# A row: what it is read as, the attributes beside it, and its names, the one that counts first.
COUNTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "input_tokens": (
        {"gen_ai.usage.output_tokens": 5},
        [
            "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "ai.usage.promptTokens",
            "ai.usage.inputTokens", "ai.usage.tokens", "gen_ai.token.usage.input", "langfuse.usage.input",
            "langfuse.usage.input_tokens", "langfuse.usage.prompt_tokens",
        ],
    ),
    "output_tokens": (
        {"gen_ai.usage.input_tokens": 5},
        [
            "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion",
            "ai.usage.completionTokens", "ai.usage.outputTokens", "gen_ai.token.usage.output", "langfuse.usage.output",
            "langfuse.usage.output_tokens", "langfuse.usage.completion_tokens",
        ],
    ),
    "cache_read_tokens": (
        {"gen_ai.usage.input_tokens": 1_000_000},
        [
            "gen_ai.usage.cache_read.input_tokens", "llm.token_count.prompt_details.cache_read",
            "llm.token_count.prompt_details.cache_input", "gen_ai.usage.cache_read_input_tokens",
            "gen_ai.usage.cache_read_tokens", "gen_ai.usage.details.cache_read_tokens",
            "gen_ai.usage.details.cache_read_input_tokens", "gen_ai.usage.input_cached_tokens",
            "gen_ai.usage.cached_input_tokens", "gen_ai.usage.input_tokens.cached",
            "gen_ai.usage.prompt_tokens_details.cached_tokens", "ai.usage.cachedInputTokens",
            "langfuse.usage.prompt_details.cache_read", "langfuse.usage.input_cache_read",
            "langfuse.usage.input_cached_tokens", "langfuse.usage.cache_read_input_tokens",
            "langfuse.usage.input_cache_read_tokens",
        ],
    ),
    "cache_write_tokens": (
        {"gen_ai.usage.input_tokens": 1_000_000},
        [
            "gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens",
            "llm.token_count.prompt_details.cache_write", "gen_ai.usage.cache_creation_input_tokens",
            "gen_ai.usage.cache_write_tokens", "gen_ai.usage.cache_write_input_tokens",
            "gen_ai.usage.details.cache_write_tokens", "gen_ai.usage.details.cache_creation_input_tokens",
            "gen_ai.usage.input_tokens.cache_write", "gen_ai.usage.prompt_tokens_details.cache_creation_tokens",
            "ai.usage.inputTokenDetails.cacheWriteTokens", "langfuse.usage.prompt_details.cache_write",
            "langfuse.usage.input_cache_creation", "langfuse.usage.cache_creation_input_tokens",
            "langfuse.usage.input_cache_write_tokens",
        ],
    ),
    "reasoning_tokens": (
        {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 1_000_000},
        [
            "gen_ai.usage.reasoning.output_tokens", "llm.token_count.completion_details.reasoning",
            "gen_ai.usage.reasoning_tokens", "llm.usage.reasoning_tokens", "gen_ai.usage.output_tokens.reasoning",
            "gen_ai.usage.completion_tokens_details.reasoning_tokens", "gen_ai.usage.details.reasoning_tokens",
            "ai.usage.reasoningTokens", "langfuse.usage.completion_details.reasoning", "langfuse.usage.output_reasoning",
            "langfuse.usage.output_reasoning_tokens",
        ],
    ),
    "input_audio_tokens": (
        {"gen_ai.usage.input_tokens": 1_000_000},
        [
            "gen_ai.usage.audio.input_tokens", "llm.token_count.prompt_details.audio",
            "gen_ai.usage.details.input_audio_tokens", "langfuse.usage.prompt_details.audio",
            "langfuse.usage.input_audio", "langfuse.usage.input_audio_tokens",
        ],
    ),
    "output_audio_tokens": (
        {"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 1_000_000},
        [
            "gen_ai.usage.audio.output_tokens", "llm.token_count.completion_details.audio",
            "gen_ai.usage.details.output_audio_tokens", "gen_ai.usage.completion_tokens_details.audio_tokens",
            "langfuse.usage.completion_details.audio",
            "langfuse.usage.output_audio", "langfuse.usage.output_audio_tokens",
        ],
    ),
    "cache_read_audio_tokens": (
        {
            "gen_ai.usage.input_tokens": 1_000_000,
            "gen_ai.usage.audio.input_tokens": 500_000,
            "gen_ai.usage.cache_read.input_tokens": 500_000,
        },
        ["gen_ai.usage.audio.cache_read.input_tokens", "gen_ai.usage.details.cache_audio_read_tokens"],
    ),
    "input_image_tokens": (
        {"gen_ai.usage.input_tokens": 1_000_000},
        ["gen_ai.usage.image.input_tokens", "llm.token_count.prompt_details.image"],
    ),
    "output_image_tokens": (
        {"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 1_000_000},
        ["gen_ai.usage.image.output_tokens", "llm.token_count.completion_details.image"],
    ),
    "cache_read_image_tokens": (
        {
            "gen_ai.usage.input_tokens": 1_000_000,
            "gen_ai.usage.image.input_tokens": 500_000,
            "gen_ai.usage.cache_read.input_tokens": 500_000,
        },
        ["gen_ai.usage.image.cache_read.input_tokens"],
    ),
}  # fmt: skip

TOOL = {"gen_ai.operation.name": "execute_tool"}
AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-5"}
USED = {**CHAT, "gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 1}

TEXTS: list[tuple[str, Callable[[Observation], Any], dict[str, Any], list[str]]] = [
    ("model_asked", field("model_asked"), {"gen_ai.operation.name": "chat"}, [
        "gen_ai.request.model", "llm.request.model_name", "llm.model_name", "embedding.model_name",
        "reranker.model_name", "ai.model.id", "langfuse.observation.model.name", "genkit:name", "model", "ls_model_name",
    ]),
    ("model_answered", reading("model"), USED, [
        "gen_ai.response.model", "llm.response.model_name", "ai.response.model",
    ]),
    ("response_id", reading("response_id"), USED, ["gen_ai.response.id", "ai.response.id"]),
    ("finish", reading("finish"), USED, [
        "gen_ai.response.finish_reasons", "llm.finish_reason", "ai.response.finishReason",
        "gen_ai.completion.0.finish_reason",
    ]),
    ("tier_answered", lambda seen: dict(seen.reading.terms).get("service_tier"), USED, [
        "openai.response.service_tier", "gen_ai.openai.response.service_tier",
        "openai.request.service_tier", "gen_ai.openai.request.service_tier",
    ]),
    ("org", scope("org"), CHAT, ["bursar.org", "organization.id"]),
    ("team", scope("team"), CHAT, ["bursar.team", "service.namespace"]),
    ("project", scope("project"), CHAT, ["bursar.project", "gen_ai.application_name", "service.name"]),
    ("user", scope("user"), CHAT, [
        "bursar.user", "enduser.id", "user.id", "langfuse.user.id", "gen_ai.user", "llm.user",
        "traceloop.association.properties.user_id", "gen_ai.user.id", "gen_ai.request.user",
        "ai.telemetry.metadata.userId", "user.email", "user.account_uuid", "user.account_id",
    ]),
    ("session", scope("session"), CHAT, [
        "bursar.session", "gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id",
        "traceloop.association.properties.chat_id", "traceloop.association.properties.thread_id", "conversation.id",
        "langfuse.session.id", "gen_ai.session.id", "langsmith.trace.session_id", "ai.telemetry.metadata.sessionId",
        "gcp.vertex.agent.session_id",
    ]),
    ("agent", scope("agent"), AGENT, [
        "bursar.agent", "gen_ai.agent.name", "agent.name", "agent_name", "graph.node.name", "graph.node.id",
        "gen_ai.agent.id", "query_source",
    ]),
    ("agent's entity", scope("agent"), {"traceloop.span.kind": "agent"}, ["traceloop.entity.name"]),
    ("task", scope("task"), CHAT, [
        "bursar.task", "gen_ai.agent.task.id", "gen_ai.agent.task_id", "gen_ai.task.id", "gen_ai.agent.call.id",
    ]),
    ("parent_task", scope("parent_task"), {**CHAT, "bursar.task": "t"}, ["bursar.parent_task", "gen_ai.task.parent.id"]),
    ("kind label", label("kind"), CHAT, ["gen_ai.workflow.name", "traceloop.workflow.name", "gen_ai.task.name"]),
    ("path label", label("entity_path"), CHAT, ["traceloop.entity.path"]),
    ("environment label", label("environment"), CHAT, [
        "deployment.environment.name", "deployment.environment", "gen_ai.environment", "langfuse.environment",
    ]),
    ("prompt label", label("prompt"), CHAT, ["gen_ai.prompt.name"]),
    ("tags label", label("tags"), CHAT, ["tag.tags", "langfuse.trace.tags"]),
    ("tool", field("tool"), TOOL, [
        "gen_ai.tool.name", "tool.name", "ai.toolCall.name", "mcp.tool.name", "tool_name", "traceloop.entity.name",
    ]),
    ("tool_call_id", lambda seen: seen.notes[0].removeprefix("tool_call_id="), TOOL, [
        "gen_ai.tool.call.id", "tool_call.id", "tool.id", "ai.toolCall.id",
    ]),
]  # fmt: skip

KINDS: list[tuple[str, dict[str, str]]] = [
    ("bursar.kind", {"model": "model", "tool": "tool", "agent": "agent", "task": "task", "step": "step"}),
    ("gen_ai.operation.name", {
        "chat": "model", "generate_content": "model", "text_completion": "model", "completion": "model",
        "embeddings": "model", "embedding": "model", "rerank": "model", "image": "model", "image_generation": "model",
        "audio": "model", "speech": "model", "transcription": "model", "execute_tool": "tool", "invoke_agent": "agent",
        "create_agent": "agent", "agent_step": "agent", "execute_task": "agent", "invoke_workflow": "task",
        "workflow": "task", "plan": "step", "retrieval": "step", "retrieve": "step", "fetch_response": "step",
        "framework": "step", "create_memory": "step", "update_memory": "step", "upsert_memory": "step",
        "delete_memory": "step", "search_memory": "step", "create_memory_store": "step", "delete_memory_store": "step",
    }),
    ("openinference.span.kind", {
        "LLM": "model", "EMBEDDING": "model", "RERANKER": "model", "TOOL": "tool", "AGENT": "agent", "CHAIN": "step",
        "RETRIEVER": "step", "GUARDRAIL": "step", "EVALUATOR": "step", "PROMPT": "step",
    }),
    ("llm.request.type", {"chat": "model", "completion": "model", "embedding": "model", "rerank": "model"}),
    ("traceloop.span.kind", {"tool": "tool", "agent": "agent", "workflow": "task", "task": "step"}),
    ("ai.operationId", {
        "ai.generateText.doGenerate": "model", "ai.streamText.doStream": "model",
        "ai.generateObject.doGenerate": "model", "ai.streamObject.doStream": "model", "ai.embed.doEmbed": "model",
        "ai.embedMany.doEmbed": "model", "ai.rerank.doRerank": "model", "ai.toolCall": "tool", "ai.generateText": "step",
        "ai.streamText": "step", "ai.generateObject": "step", "ai.streamObject": "step", "ai.embed": "step",
        "ai.embedMany": "step", "ai.rerank": "step", "agent_step": "agent",
    }),
    ("genkit:metadata:subtype", {"model": "model", "embedder": "model", "tool": "tool", "flow": "task"}),
    ("langfuse.observation.type", {
        "generation": "model", "embedding": "model", "tool": "tool", "agent": "agent", "chain": "step",
        "retriever": "step", "guardrail": "step", "evaluator": "step",
    }),
    ("sentry.op", {
        "gen_ai.chat": "model", "gen_ai.responses": "model", "gen_ai.messages": "model", "gen_ai.generate_text": "model",
        "gen_ai.generate_content": "model", "gen_ai.text_completion": "model", "gen_ai.embeddings": "model",
        "gen_ai.execute_tool": "tool", "gen_ai.invoke_agent": "agent", "gen_ai.create_agent": "agent",
        "gen_ai.handoff": "step", "gen_ai.pipeline": "step",
    }),
    ("mcp.method.name", {"tools/call": "tool"}),
]  # fmt: skip

PROVIDERS = [
    "bursar.provider", "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider",
    "ls_provider",
]  # fmt: skip

COSTS = [
    "gen_ai.usage.cost.amount", "llm.cost.total", "gen_ai.usage.cost", "operation.cost", "gen_ai.usage.total_cost",
    "gen_ai.cost.total_tokens",
]  # fmt: skip

# Rows whose tests are functions of their own below, or in test_telemetry_dialects and test_telemetry_logs.
ELSEWHERE = {
    "cost_usd", "tool_use_id", "call_id",
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.aggregated_usage.cache_write.input_tokens",
    "gen_ai.output.messages",
    "service.instance.id",
    "server.address", "request_id", "speed", "gen_ai.request.stream", "gen_ai.is_streaming", "llm.is_streaming",
    "gen_ai.request.is_stream", "gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token",
    "ai.response.msToFirstChunk", "ttft_ms", "langfuse.observation.completion_start_time", "error.type",
    "exception.type", "error", "error.message", "exception.message", "bursar.usage.*", "llm.token_count.total",
    "gen_ai.usage.total_tokens", "llm.usage.total_tokens", "ai.usage.totalTokens", "langfuse.usage.total",
    "gen_ai.aggregated_usage.input_tokens", "gen_ai.aggregated_usage.output_tokens",
    "gen_ai.aggregated_usage.cache_read.input_tokens", "gen_ai.aggregated_usage.details.cache_read_tokens",
    "gen_ai.aggregated_usage.details.cache_read_input_tokens", "gen_ai.aggregated_usage.cache_creation.input_tokens",
    "gen_ai.aggregated_usage.details.cache_write_tokens", "gen_ai.aggregated_usage.details.cache_creation_input_tokens",
    "ai.response.providerMetadata", "langfuse.observation.usage_details", "langfuse.observation.cost_details",
    "llm.invocation_parameters", "gcp.vertex.agent.llm_response", "genkit:output", "bursar.cache_hit",
    "gen_ai.cache.hit", "llm.cache_hit", "cache_hit", "bursar.estimated", "gen_ai.usage.estimated", "usage.cost",
    "llm.cost.prompt", "gen_ai.cost.input_tokens", "llm.cost.completion", "gen_ai.cost.output_tokens",
    "gen_ai.usage.cost.currency", "gen_ai.usage.cost.source", "bursar.label.*", "traceloop.association.properties.*",
    "ai.telemetry.metadata.*", "langfuse.trace.metadata.*", "metadata", "langfuse.trace.metadata",
    "gen_ai.tool.call.result", "ai.toolCall.result", "traceloop.entity.output", "tool_response", "output.value",
    "tool_result_size_bytes", "event.name", "event.kind", "input_tokens", "input_token_count", "output_tokens",
    "output_token_count", "cache_read_tokens", "cached_token_count", "cache_creation_tokens", "cache_creation_5m_tokens",
    "cache_creation_1h_tokens", "reasoning_token_count",
    "duration_ms", "success", "type", "token_type",
}  # fmt: skip


@pytest.mark.parametrize("unit", COUNTS)
def test_counts(unit: str) -> None:
    """Each name of a count is read, as a number and as digits; of two names the first of the row counts, never the sum."""
    beside, names = COUNTS[unit]
    found = usage(unit)
    for place, name in enumerate(names):
        others = {key: value for key, value in beside.items() if key != name}
        assert found(seen({**CHAT, **others, name: 100 + place})) == 100 + place
        assert found(seen({**CHAT, **others, name: str(100 + place)})) == 100 + place
        for later in names[place + 1 :]:
            assert found(seen({**CHAT, **others, name: 100 + place, later: 7})) == 100 + place, (name, later)


@pytest.mark.parametrize(("row", "found", "beside", "names"), TEXTS, ids=[row[0] for row in TEXTS])
def test_texts(row: str, found: Callable[[Observation], Any], beside: dict[str, Any], names: list[str]) -> None:
    """Each name of a text is read, and of two names the first of the row counts."""
    for place, name in enumerate(names):
        others = {key: value for key, value in beside.items() if key != name}
        assert found(seen({**others, name: f"said-{place}"})) == f"said-{place}", name
        for later in names[place + 1 :]:
            assert found(seen({**others, name: f"said-{place}", later: "other"})) == f"said-{place}", (name, later)


@pytest.mark.parametrize(("attribute", "values"), KINDS, ids=[row[0] for row in KINDS])
def test_kinds(attribute: str, values: dict[str, str]) -> None:
    """Each value of each attribute that says what a span is; an unknown value says nothing."""
    for value, kind in values.items():
        assert seen({attribute: value}).kind == kind, value
    assert seen({attribute: "something else"}).kind == "step"


def test_kinds_in_order() -> None:
    """Of two attributes that say what a span is, the first row counts."""
    for place, (attribute, values) in enumerate(KINDS):
        value, kind = next(iter(values.items()))
        for later, others in KINDS[place + 1 :]:
            other = next((word for word, its in others.items() if its != kind), None)
            if other is not None:
                assert seen({attribute: value, later: other}).kind == kind, (attribute, later)


def test_providers() -> None:
    """Each name of the provider is read, the first counts, and a framework that poses as one is passed over."""
    for place, name in enumerate(PROVIDERS):
        assert seen({**CHAT, name: "mistralai"}).provider == "mistral"
        for later in PROVIDERS[place + 1 :]:
            assert seen({**CHAT, name: "groq", later: "deepseek"}).provider == "groq", (name, later)
            assert seen({**CHAT, name: "Langchain", later: "deepseek"}).provider == "deepseek", (name, later)


@pytest.mark.parametrize(
    ("stated", "provider"),
    [
        ("openai", "openai"), ("anthropic", "anthropic"), ("aws.bedrock", "aws"), ("AWS", "aws"),
        ("azure.ai.openai", "azure"), ("az.ai.openai", "azure"), ("azure.ai.inference", "azure"),
        ("gcp.gemini", "google"), ("gcp.vertex_ai", "google"), ("gcp.gen_ai", "google"), ("gcp.vertex.agent", "google"),
        ("cohere", "cohere"), ("deepseek", "deepseek"), ("groq", "groq"), ("mistral_ai", "mistral"), ("x_ai", "xai"),
        ("perplexity", "perplexity"), ("moonshot_ai", "moonshot"), ("openai.responses", "openai"),
        ("anthropic.messages", "anthropic"), ("google.vertex.chat", "google"), ("google.generative-ai", "google"),
        ("amazon-bedrock", "aws"), ("azure-openai.chat", "azure"), ("ibm.watsonx.ai", "watsonx"), ("acme", "acme"),
    ],
)  # fmt: skip
def test_names_of_providers(stated: str, provider: str) -> None:
    """What telemetry calls a provider is an id of the provider table; an unknown name stays itself."""
    assert seen({**CHAT, "gen_ai.provider.name": stated}).provider == provider


def test_costs() -> None:
    """Each name of a reported cost is read exactly, also as text, and the first counts."""
    for place, name in enumerate(COSTS):
        assert reading("reported")(seen({**USED, name: 0.00006105})) == 61_050
        assert reading("reported")(seen({**USED, name: "0.00006105"})) == 61_050
        for later in COSTS[place + 1 :]:
            assert reading("reported")(seen({**USED, name: 0.25, later: 0.5})) == 250_000_000, (name, later)


def test_costs_in_two_parts() -> None:
    """Without a total the cost of input and output is their sum; a stated total counts before it."""
    for one, other in (
        ("llm.cost.prompt", "llm.cost.completion"),
        ("gen_ai.cost.input_tokens", "gen_ai.cost.output_tokens"),
    ):
        assert reading("reported")(seen({**USED, one: 0.1, other: 0.2})) == 300_000_000
        assert reading("reported")(seen({**USED, one: 0.1})) == 100_000_000
        assert reading("reported")(seen({**USED, one: 0.1, other: 0.2, "llm.cost.total": 0.4})) == 400_000_000


def test_a_cost_in_another_currency_is_not_kept() -> None:
    """An amount of unknown worth is no amount; the note says which currency it was in."""
    found = seen({**USED, "gen_ai.usage.cost.amount": 0.3, "gen_ai.usage.cost.currency": "EUR"})
    assert reading("reported")(found) is None
    assert "a cost in EUR is not kept" in found.notes
    same = seen({**USED, "gen_ai.usage.cost.amount": 0.3, "gen_ai.usage.cost.currency": "usd"})
    assert reading("reported")(same) == 300_000_000


def test_who_reported() -> None:
    """Only a cost that the provider itself stated is marked so."""
    amount = {"gen_ai.usage.cost.amount": 0.3}
    assert "reported_by=provider" in seen({**USED, **amount, "gen_ai.usage.cost.source": "provider"}).notes
    assert "reported_by=provider" not in seen({**USED, **amount, "gen_ai.usage.cost.source": "local"}).notes
    assert "reported_by=provider" not in seen({**USED, **amount}).notes
    own = seen({**USED, **amount, "usage.cost": 0.1})
    assert reading("reported")(own) == 100_000_000
    assert "reported_by=provider" in own.notes


def test_every_name_of_the_table_has_a_test() -> None:
    """The lists above, written by hand, are the table: nothing in it is untested, nothing tested is missing from it."""
    stated = {name for row in TABLE["row"] for name in row["names"]}
    tested = {name for _, names in COUNTS.values() for name in names}
    tested |= {name for *_, names in TEXTS for name in names} | {attribute for attribute, _ in KINDS}
    tested |= {*PROVIDERS, *COSTS, *ELSEWHERE}
    assert stated - tested == set()
    assert tested - stated == set()
    kinds: dict[str, dict[str, str]] = {}
    for row in TABLE["row"]:
        if row["form"] == "choice":
            kinds[row["names"][0]] = row["values"]
    assert kinds == {attribute: {word.lower(): kind for word, kind in values.items()} for attribute, values in KINDS}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ai.generateText.doGenerate", "model"), ("ai.streamText.doStream", "model"),
        ("ai.generateObject.doGenerate", "model"), ("ai.streamObject.doStream", "model"), ("ai.embed.doEmbed", "model"),
        ("ai.embedMany.doEmbed", "model"), ("ai.toolCall", "tool"), ("ai.generateText", "step"),
        ("ai.streamText", "step"), ("ai.generateObject", "step"), ("ai.streamObject", "step"), ("ai.embed", "step"),
        ("ai.embedMany", "step"), ("agent_step", "agent"), ("claude_code.interaction", "agent"),
        ("claude_code.llm_request", "model"), ("claude_code.tool", "tool"), ("GET /", "step"),
    ],
)  # fmt: skip
def test_names_of_spans(name: str, kind: str) -> None:
    """A span that no attribute explains is what its name says, else a step."""
    assert seen({}, name=name).kind == kind
    assert seen({"gen_ai.operation.name": "execute_tool"}, name=name).kind == "tool"


@pytest.mark.parametrize(
    ("library", "name", "kind"),
    [
        ("gcp.vertex.agent", "call_llm", "model"),
        ("gcp.vertex.agent", "generate_content gemini-3-pro", "model"),
        ("gcp.vertex.agent", "execute_tool say_hello", "tool"),
        ("gcp.vertex.agent", "invoke_agent greeter", "agent"),
        ("gcp.vertex.agent", "agent_run [greeter]", "agent"),
        ("gcp.vertex.agent", "invocation", "step"),
        ("pydantic-ai", "agent run", "agent"),
        ("pydantic-ai", "joke_agent run", "agent"),
        ("pydantic-ai", "running tool: search", "tool"),
        ("pydantic-ai", "running 2 tools", "step"),
        ("another", "call_llm", "step"),
    ],
)
def test_names_of_spans_by_instrumentation(library: str, name: str, kind: str) -> None:
    """Some instrumentations are told by the names of their spans; the same name from another says nothing."""
    assert seen({}, name=name, scope=library).kind == kind


def test_what_only_one_kind_has() -> None:
    """A tool call's id makes a tool; a model with usage of its own makes a call; sums alone make nothing."""
    assert seen({"gen_ai.tool.call.id": "call_1"}).kind == "tool"
    assert seen({"gen_ai.request.model": "gpt-5", "gen_ai.usage.input_tokens": 1}).kind == "model"
    assert seen({"gen_ai.request.model": "gpt-5", "gen_ai.aggregated_usage.input_tokens": 1}).kind == "step"
    assert seen({"gen_ai.request.model": "gpt-5"}).kind == "step"
    assert seen({"gen_ai.usage.input_tokens": 1}).kind == "step"


def test_own_counts_go_before_everything() -> None:
    """``bursar.usage.*`` is the whole usage in our own units; what else is stated is not added."""
    found = seen({**USED, "bursar.usage.input_tokens": 70, "bursar.usage.web_searches": 3, "bursar.usage.nonsense": 9})
    assert found.reading is not None
    assert found.reading.usage is not None
    assert found.reading.usage.counts() == {"input_tokens": 70, "web_searches": 3}
    bad = seen({**USED, "bursar.usage.input_tokens": -1})
    assert bad.reading is not None
    assert bad.reading.usage is None


@pytest.mark.parametrize(
    "beginning",
    ["bursar.label.", "traceloop.association.properties.", "ai.telemetry.metadata.", "langfuse.trace.metadata."],
)
def test_labels(beginning: str) -> None:
    """What follows the beginning is a label; truth and numbers are their words."""
    found = seen({**CHAT, f"{beginning}ticket": "T-1", f"{beginning}paid": True, f"{beginning}seats": 3})
    assert dict(found.scope.labels) == {"ticket": "T-1", "paid": "true", "seats": "3"}


@pytest.mark.parametrize("name", ["metadata", "langfuse.trace.metadata"])
def test_metadata(name: str) -> None:
    """Entries that name a column are it, bookkeeping of frameworks is nothing, the rest are labels; JSON or a mapping."""
    entries = {
        "user_id": "ana", "thread_id": "s-1", "taskId": "t-9", "team": "support", "plan": "pro",
        "langgraph_step": 3, "ls_model_type": "chat", "nested": {"a": 1},
    }  # fmt: skip
    for value in (entries, '{"user_id": "ana", "thread_id": "s-1", "taskId": "t-9", "team": "support", "plan": "pro"}'):
        who = seen({**CHAT, name: value}).scope
        assert (who.user, who.session, who.task, who.team) == ("ana", "s-1", "t-9", "support")
        assert who.labels == (("plan", "pro"),)
    assert seen({**CHAT, name: "no json"}).scope.labels == ()


def test_our_own_names_go_before_all() -> None:
    """Every ``bursar.`` attribute counts before the names of others, also before those of the metadata."""
    found = seen(
        {
            **CHAT,
            "bursar.task": "t", "bursar.parent_task": "p", "bursar.agent": "a", "bursar.user": "u", "bursar.team": "tm",
            "bursar.session": "s", "bursar.project": "pr", "bursar.org": "o", "bursar.label.tier": "gold",
            "traceloop.association.properties.tier": "iron",
            "metadata": {"task": "x", "agent": "x", "user": "x", "team": "x", "session": "x", "project": "x", "org": "x"},
        },
        resource={"service.name": "svc", "service.namespace": "ns"},
    ).scope  # fmt: skip
    assert (found.task, found.parent_task, found.agent, found.user) == ("t", "p", "a", "u")
    assert (found.team, found.session, found.project, found.org) == ("tm", "s", "pr", "o")
    assert dict(found.labels) == {"tier": "gold"}


def test_the_resource_is_the_default() -> None:
    """What the resource says holds for every span that says nothing else; an unknown service is none."""
    resource = {
        "service.name": "support-bot", "service.namespace": "support", "service.instance.id": "i-7",
        "deployment.environment.name": "prod",
    }  # fmt: skip
    found = seen(CHAT, resource=resource)
    assert (found.scope.project, found.scope.team, found.group) == ("support-bot", "support", "i-7")
    assert dict(found.scope.labels) == {"environment": "prod"}
    spoken = seen(
        {**CHAT, "bursar.project": "other", "session.id": "s", "bursar.label.environment": "test"}, resource=resource
    )
    assert (spoken.scope.project, spoken.scope.team, spoken.group) == ("other", "support", "s")
    assert dict(spoken.scope.labels) == {"environment": "test"}
    assert seen(CHAT, resource={"service.name": "unknown_service:python"}).scope.project == ""


@pytest.mark.parametrize(
    "name", ["gen_ai.request.stream", "gen_ai.is_streaming", "llm.is_streaming", "gen_ai.request.is_stream"]
)
def test_streams(name: str) -> None:
    """Each name of the flag, as truth and as its word."""
    assert seen({**CHAT, name: True}).stream
    assert seen({**CHAT, name: "true"}).stream
    assert not seen({**CHAT, name: False}).stream


@pytest.mark.parametrize(
    ("name", "value", "ms"),
    [
        ("gen_ai.response.time_to_first_chunk", 0.25, 250.0),
        ("gen_ai.client.operation.time_to_first_chunk", 0.75, 750.0),
        ("gen_ai.server.time_to_first_token", 0.5, 500.0),
        ("ai.response.msToFirstChunk", 310.5, 310.5),
        ("ttft_ms", 42, 42.0),
        ("langfuse.observation.completion_start_time", "2025-10-09T08:53:20.750Z", 750.0),
    ],
)
def test_the_first_token(name: str, value: Any, ms: float) -> None:
    """Each way of saying when the answer began, in milliseconds after the start; who says so streamed."""
    found = seen({**CHAT, name: value})
    assert found.first_token_ms == pytest.approx(ms)
    assert found.stream
    assert seen({**CHAT, name: "not a time"}).first_token_ms is None


@pytest.mark.parametrize(
    "name",
    ["gen_ai.tool.call.result", "ai.toolCall.result", "traceloop.entity.output", "tool_response", "output.value"],
)
def test_the_size_of_an_answer(name: str) -> None:
    """A tool's answer is measured in bytes and not kept; a model's is not even measured."""
    assert seen({**TOOL, name: "grüße"}).size_bytes == 7
    assert "grüße" not in str(seen({**TOOL, name: "grüße"}))
    assert seen({**CHAT, name: "grüße"}).size_bytes is None


def test_a_stated_size() -> None:
    """A size that was stated counts before one that was measured."""
    assert seen({**TOOL, "tool_result_size_bytes": "812", "output.value": "x"}).size_bytes == 812


@pytest.mark.parametrize("name", ["bursar.cache_hit", "gen_ai.cache.hit", "llm.cache_hit", "cache_hit"])
def test_an_answer_out_of_a_cache(name: str) -> None:
    """An answer out of a cache in front of the provider used nothing; what was not bought is noted, no cost is reported."""
    found = seen({**USED, "gen_ai.usage.input_tokens": 1200, name: True, "gen_ai.usage.cost": 0.5})
    assert found.reading is not None
    assert found.reading.usage is not None
    assert found.reading.usage.counts() == {}
    assert found.reading.reported is None
    assert "cache_hit: not bought input_tokens:1200,output_tokens:1" in found.notes
    plain = seen({**USED, name: False})
    assert usage("input_tokens")(plain) == 1


@pytest.mark.parametrize("name", ["bursar.estimated", "gen_ai.usage.estimated"])
def test_estimates_are_marked(name: str) -> None:
    """Who says that its counts are estimates is believed."""
    assert reading("estimated")(seen({**USED, name: True})) is True
    assert reading("estimated")(seen(USED)) is False


@pytest.mark.parametrize(("name", "said"), [("error.type", "RateLimitError"), ("exception.type", "RateLimitError")])
def test_errors(name: str, said: str) -> None:
    """A failed span says what failed; the attribute alone, on a span that did not fail, is no failure."""
    failed = seen({**CHAT, name: said}, error="too many")
    assert (failed.status, failed.error) == ("error", "RateLimitError: too many")
    assert (seen({**CHAT, name: said}).status, seen({**CHAT, name: said}).error) == ("ok", "")


@pytest.mark.parametrize("name", ["error", "error.message", "exception.message"])
def test_messages_of_errors(name: str) -> None:
    """Where the status has no message the attribute's is taken, else the event's."""
    assert seen({**CHAT, name: "went away"}, error="").error == "went away"
    exception = {"exception.type": "TimeoutError", "exception.message": "read timed out", "exception.stacktrace": "..."}
    assert seen(CHAT, error="", exception=exception).error == "TimeoutError: read timed out"


@pytest.mark.parametrize(
    "name",
    [
        "gen_ai.aggregated_usage.cache_read.input_tokens",
        "gen_ai.aggregated_usage.details.cache_read_tokens",
        "gen_ai.aggregated_usage.details.cache_read_input_tokens",
    ],
)
def test_sums_with_cache_reads(name: str) -> None:
    """Aggregated usage is a reading of an agent, with its cached part."""
    found = seen(
        {**AGENT, "gen_ai.aggregated_usage.input_tokens": 900, "gen_ai.aggregated_usage.output_tokens": 40, name: 300}
    )
    assert found.kind == "agent"
    assert (usage("input_tokens")(found), usage("cache_read_tokens")(found), usage("output_tokens")(found)) == (
        900,
        300,
        40,
    )


@pytest.mark.parametrize(
    "name",
    [
        "gen_ai.aggregated_usage.cache_write.input_tokens",
        "gen_ai.aggregated_usage.cache_creation.input_tokens",
        "gen_ai.aggregated_usage.details.cache_write_tokens",
        "gen_ai.aggregated_usage.details.cache_creation_input_tokens",
    ],
)
def test_sums_with_cache_writes(name: str) -> None:
    """The written part likewise; and on a model call the sum is not its usage."""
    found = seen({**AGENT, "gen_ai.aggregated_usage.input_tokens": 900, name: 300})
    assert usage("cache_write_tokens")(found) == 300
    call = seen({**USED, "gen_ai.aggregated_usage.input_tokens": 900, name: 300})
    assert usage("input_tokens")(call) == 1


def test_records_use_the_same_table() -> None:
    """An event of OpenTelemetry's own says what a span would, and belongs to the span it names."""
    [found] = recorded(
        {**USED, "gen_ai.response.id": "resp_1"},
        event="gen_ai.client.inference.operation.details",
        trace="0af7651916cd43dd8448eb211c80319c",
        span="b7ad6b7169203331",
    )
    [span] = both([a_span({**USED, "gen_ai.response.id": "resp_1"})]).observations
    assert found.reading == span.reading
    assert (found.source, found.trace_id, found.span_id) == ("log", span.trace_id, span.span_id)
