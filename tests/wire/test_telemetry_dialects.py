"""Spans as real tools emit them: whole attribute sets of each dialect, and what is read of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar.core.observations import Observation
from telemetry_making import a_span, both, seen


def counts(observation: Observation) -> dict[str, int]:
    """The usage of an observation that has one."""
    assert observation.reading is not None
    assert observation.reading.usage is not None, observation.reading.reason
    return observation.reading.usage.counts()


def test_opentelemetry_of_today() -> None:
    """The OpenAI instrumentation with the newest names: cached and reasoning tokens inside, tier, host, session."""
    found = seen(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.response.model": "gpt-5-2025-08-07",
            "gen_ai.response.id": "chatcmpl-Aa1",
            "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.conversation.id": "conv-1",
            "gen_ai.usage.input_tokens": 2_000,
            "gen_ai.usage.output_tokens": 300,
            "gen_ai.usage.cache_read.input_tokens": 1_536,
            "gen_ai.usage.reasoning.output_tokens": 128,
            "openai.request.service_tier": "auto",
            "openai.response.service_tier": "flex",
            "server.address": "api.openai.com",
            "server.port": 443,
            "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "a secret prompt"}]}]',
        },
        name="chat gpt-5",
        scope="opentelemetry.instrumentation.openai_v2",
    )
    assert (found.kind, found.operation, found.provider, found.model_asked) == ("model", "chat", "openai", "gpt-5")
    assert counts(found) == {
        "input_tokens": 2_000, "cache_read_tokens": 1_536, "output_tokens": 300, "reasoning_tokens": 128,
    }  # fmt: skip
    assert found.reading is not None
    assert (found.reading.model, found.reading.response_id) == ("gpt-5-2025-08-07", "chatcmpl-Aa1")
    assert found.reading.terms == (("service_tier", "flex"),)
    assert (found.reading.finish, found.scope.session, found.group) == ("stop", "conv-1", "conv-1")
    assert found.notes == ("counts=inclusive",)
    assert "secret" not in str(found)


def test_opentelemetry_of_yesterday() -> None:
    """The old names of the same things."""
    found = seen(
        {
            "gen_ai.system": "az.ai.openai",
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.prompt_tokens": 90,
            "gen_ai.usage.completion_tokens": 9,
            "gen_ai.openai.request.service_tier": "priority",
        }
    )
    assert (found.provider, counts(found)) == ("azure", {"input_tokens": 90, "output_tokens": 9})
    assert found.reading is not None
    assert found.reading.terms == (("service_tier", "priority"),)


def test_openinference() -> None:
    """An LLM span of OpenInference, with its cost and its metadata."""
    found = seen(
        {
            "openinference.span.kind": "LLM",
            "llm.provider": "anthropic",
            "llm.system": "anthropic",
            "llm.model_name": "claude-sonnet-4-5-20250929",
            "llm.invocation_parameters": '{"max_tokens": 900, "service_tier": "batch"}',
            "llm.token_count.prompt": 1_500,
            "llm.token_count.completion": 200,
            "llm.token_count.prompt_details.cache_read": 1_000,
            "llm.token_count.prompt_details.cache_write": 300,
            "llm.token_count.completion_details.reasoning": 50,
            "llm.token_count.total": 1_700,
            "llm.cost.total": 0.0123,
            "session.id": "s-1",
            "user.id": "u-1",
            "metadata": '{"customer": "acme"}',
            "tag.tags": ["beta", "eu"],
            "input.value": "a secret prompt",
            "output.value": "a secret answer",
        },
        name="ChatCompletion",
        scope="openinference.instrumentation.anthropic",
    )
    assert (found.kind, found.provider) == ("model", "anthropic")
    assert counts(found) == {
        "input_tokens": 1_500, "cache_read_tokens": 1_000, "cache_write_tokens": 300, "cache_write_5m_tokens": 300,
        "output_tokens": 200, "reasoning_tokens": 50,
    }  # fmt: skip
    assert found.reading is not None
    assert (found.reading.reported, found.reading.terms) == (12_300_000, (("processing", "batch"),))
    assert (found.scope.user, found.scope.session) == ("u-1", "s-1")
    assert dict(found.scope.labels) == {"customer": "acme", "tags": "beta,eu"}
    assert found.notes == ("counts=inclusive", "price_assumption=cache_ttl_5m")
    assert "secret" not in str(found)


def test_openinference_agents_and_tools() -> None:
    """Agents, chains and tools of OpenInference; token counts on an agent make no call."""
    agent = seen(
        {"openinference.span.kind": "AGENT", "graph.node.id": "planner", "llm.token_count.prompt": 5}, name="planner"
    )
    assert (agent.kind, agent.scope.agent, counts(agent)) == ("agent", "planner", {"input_tokens": 5})
    assert seen({"openinference.span.kind": "CHAIN", "llm.token_count.prompt": 5}).kind == "step"
    tool = seen({"openinference.span.kind": "TOOL", "tool.name": "search", "output.value": "four"}, name="search")
    assert (tool.kind, tool.tool, tool.size_bytes, tool.reading) == ("tool", "search", 4, None)


def test_traceloop() -> None:
    """OpenLLMetry: the model call, the workflow, the tool and what is associated."""
    shared = {"traceloop.workflow.name": "joke_creation", "traceloop.association.properties.user_id": "u-9"}
    found = seen(
        {
            **shared,
            "gen_ai.system": "Anthropic",
            "llm.request.type": "chat",
            "gen_ai.request.model": "claude-haiku-4-5",
            "gen_ai.usage.input_tokens": 700,
            "gen_ai.usage.output_tokens": 70,
            "gen_ai.usage.cache_creation_input_tokens": 600,
            "gen_ai.usage.cache_read_input_tokens": 0,
            "llm.usage.total_tokens": 770,
            "llm.is_streaming": True,
            "traceloop.association.properties.chat_id": "chat-4",
            "traceloop.association.properties.plan": "pro",
        },
        name="anthropic.chat",
    )
    assert counts(found) == {
        "input_tokens": 700, "cache_write_tokens": 600, "cache_write_5m_tokens": 600, "output_tokens": 70,
    }  # fmt: skip
    assert (found.stream, found.scope.user, found.scope.session) == (True, "u-9", "chat-4")
    assert dict(found.scope.labels) == {"kind": "joke_creation", "plan": "pro"}
    workflow = seen({**shared, "traceloop.span.kind": "workflow", "traceloop.entity.name": "joke_creation"})
    assert (workflow.kind, workflow.scope.agent) == ("task", "")
    agent = seen({**shared, "traceloop.span.kind": "agent", "traceloop.entity.name": "joker"})
    assert (agent.kind, agent.scope.agent) == ("agent", "joker")
    tool = seen({**shared, "traceloop.span.kind": "tool", "traceloop.entity.name": "rhymes"})
    assert (tool.kind, tool.tool) == ("tool", "rhymes")


def test_langchain_is_no_provider() -> None:
    """OpenLLMetry calls the provider Langchain where it does not know it: the model's name says who it is, noted."""
    said = {"gen_ai.system": "Langchain", "llm.request.type": "chat", "gen_ai.usage.input_tokens": 1}
    found = seen({**said, "gen_ai.request.model": "gpt-4o"})
    assert (found.provider, found.notes[0]) == ("openai", "provider_assumption=model_name")
    assert seen({**said, "gen_ai.request.model": "llama-4"}).provider == ""


def test_openlit_counts_anthropic_exclusively() -> None:
    """OpenLIT leaves Anthropic's cached tokens out of the input; of other providers' it does not."""
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.id": "msg_1",
        "gen_ai.usage.input_tokens": 2_000,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.prompt_tokens_details.cached_tokens": 500,
        "gen_ai.usage.prompt_tokens_details.cache_creation_tokens": 300,
        "gen_ai.usage.cost": 0.002,
        "gen_ai.application_name": "bot",
        "gen_ai.environment": "prod",
        "gen_ai.agent.task.id": "task-3",
    }
    resource = {"telemetry.sdk.name": "openlit"}
    claude = seen(
        {**said, "gen_ai.system": "anthropic", "gen_ai.request.model": "claude-sonnet-4-5"}, resource=resource
    )
    assert counts(claude)["input_tokens"] == 2_800
    assert "counts=exclusive:openlit" in claude.notes
    assert (claude.scope.project, claude.scope.task) == ("bot", "task-3")
    gpt = seen({**said, "gen_ai.system": "openai", "gen_ai.request.model": "gpt-5"}, resource=resource)
    assert counts(gpt)["input_tokens"] == 2_000
    other = seen({**said, "gen_ai.system": "anthropic", "gen_ai.request.model": "claude-sonnet-4-5"})
    assert counts(other)["input_tokens"] == 2_000


def test_openlit_estimates_are_marked() -> None:
    """Where the provider stated nothing OpenLIT counts characters: its spans without a response's id are estimates."""
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "ollama",
        "gen_ai.request.model": "llama3",
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 13,
    }
    found = seen(said, resource={"telemetry.sdk.name": "openlit"})
    assert found.reading is not None
    assert found.reading.estimated
    assert any(note.startswith("estimated=openlit") for note in found.notes)
    stated = seen({**said, "gen_ai.response.id": "r"}, resource={"telemetry.sdk.name": "openlit"})
    assert stated.reading is not None
    assert not stated.reading.estimated
    other = seen(said)
    assert other.reading is not None
    assert not other.reading.estimated


@pytest.mark.parametrize(("tokens", "made_up"), [(11, True), (5, False)])
def test_openlit_counts_half_the_characters(tokens: int, made_up: bool) -> None:
    """An answer whose tokens are half its characters was counted by OpenLIT, also where the response has an id."""
    text = "grüße an die welt! no"
    messages = [{"role": "assistant", "parts": [{"type": "text", "content": text}, {"type": "tool_call"}]}]
    found = seen(
        {
            "gen_ai.operation.name": "chat", "gen_ai.system": "azure.ai.inference", "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.id": "r", "gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": tokens,
            "gen_ai.output.messages": json.dumps(messages),
        },
        resource={"telemetry.sdk.name": "openlit"},
    )  # fmt: skip
    assert found.reading is not None
    assert found.reading.estimated is made_up
    assert text not in str(found)


AI_SDK = {
    "operation.name": "ai.streamText.doStream",
    "ai.operationId": "ai.streamText.doStream",
    "ai.model.provider": "anthropic.messages",
    "ai.model.id": "claude-sonnet-4-5",
    "ai.response.model": "claude-sonnet-4-5-20250929",
    "ai.response.id": "msg_01",
    "ai.response.finishReason": "tool-calls",
    "ai.response.msToFirstChunk": 412.5,
    "ai.usage.inputTokens": 100,
    "ai.usage.outputTokens": 80,
    "ai.usage.cachedInputTokens": 900,
    "ai.telemetry.metadata.userId": "u-2",
    "ai.telemetry.metadata.sessionId": "s-2",
    "ai.prompt.messages": "[]",
}


def test_the_ai_sdk() -> None:
    """The leaf of the Vercel AI SDK; what Anthropic itself answered, in its metadata, is exact and by lifetime."""
    metadata = {
        "anthropic": {
            "usage": {
                "input_tokens": 100,
                "cache_creation_input_tokens": 500,
                "cache_read_input_tokens": 900,
                "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 300},
                "output_tokens": 80,
                "service_tier": "priority",
                "server_tool_use": {"web_search_requests": 2},
            },
            "cacheCreationInputTokens": 500,
        }
    }
    found = seen({**AI_SDK, "ai.response.providerMetadata": json.dumps(metadata)}, name="ai.streamText.doStream")
    assert counts(found) == {
        "input_tokens": 1_500, "cache_read_tokens": 900, "cache_write_tokens": 500, "cache_write_5m_tokens": 200,
        "cache_write_1h_tokens": 300, "output_tokens": 80, "web_searches": 2,
    }  # fmt: skip
    assert found.notes == ("counts=payload:anthropic",)
    assert found.reading is not None
    assert found.reading.terms == (("service_tier", "priority"),)
    assert (found.stream, found.first_token_ms) == (True, 412.5)
    assert (found.provider, found.model_asked) == ("anthropic", "claude-sonnet-4-5")
    assert (found.scope.user, found.scope.session) == ("u-2", "s-2")


def test_the_ai_sdk_without_metadata() -> None:
    """More cached tokens than input: they are counted beside it, by arithmetic."""
    found = seen(AI_SDK, name="ai.streamText.doStream")
    assert counts(found) == {"input_tokens": 1_000, "cache_read_tokens": 900, "output_tokens": 80}
    assert found.notes == ("counts=exclusive:exceeds",)


@pytest.mark.parametrize(
    ("metadata", "counted"),
    [
        ({"bedrock": {"usage": {"cacheReadInputTokens": 30, "cacheWriteInputTokens": 20}}},
         {"cache_read_tokens": 30, "cache_write_tokens": 20}),
        ({"openai": {"cachedPromptTokens": 60, "reasoningTokens": 8}}, {"cache_read_tokens": 60, "reasoning_tokens": 8}),
        ({"anthropic": {"cacheCreationInputTokens": 40}}, {"cache_write_tokens": 40}),
    ],
)  # fmt: skip
def test_metadata_of_providers(metadata: dict[str, Any], counted: dict[str, int]) -> None:
    """What the AI SDK passes on of Bedrock, OpenAI and older Anthropic answers fills what its own attributes leave open."""
    said = {
        "ai.model.provider": "openai.chat",
        "ai.model.id": "m",
        "ai.usage.promptTokens": 100,
        "ai.usage.completionTokens": 9,
    }
    found = seen({**said, "ai.response.providerMetadata": json.dumps(metadata)}, name="ai.generateText.doGenerate")
    assert counts(found) == {"input_tokens": 100, "output_tokens": 9, **counted}


def test_the_tier_in_metadata() -> None:
    """OpenAI's tier out of the AI SDK's metadata."""
    said = {"ai.model.provider": "openai.responses", "ai.model.id": "gpt-5", "ai.usage.inputTokens": 1}
    found = seen(
        {**said, "ai.response.providerMetadata": '{"openai": {"serviceTier": "flex"}}'},
        name="ai.generateText.doGenerate",
    )
    assert found.reading is not None
    assert found.reading.terms == (("service_tier", "flex"),)


def test_the_ai_sdk_above_its_leaf() -> None:
    """What is above the leaf states the same tokens again: it is a step, its figures a sum."""
    found = seen(
        {"ai.operationId": "ai.streamText", "ai.model.id": "gpt-5", "ai.usage.promptTokens": 9}, name="ai.streamText"
    )
    assert (found.kind, counts(found)) == ("step", {"input_tokens": 9})
    tool = seen(
        {
            "ai.operationId": "ai.toolCall",
            "ai.toolCall.name": "weather",
            "ai.toolCall.id": "c1",
            "ai.toolCall.result": "{}",
        },
        name="ai.toolCall",
    )
    assert (tool.kind, tool.tool, tool.size_bytes, tool.notes) == ("tool", "weather", 2, ("tool_call_id=c1",))


def test_openrouter_says_what_it_charged() -> None:
    """OpenRouter's own cost in the AI SDK's metadata is what the provider reported."""
    said = {"ai.model.provider": "openrouter", "ai.model.id": "anthropic/claude-sonnet-4-5", "ai.usage.inputTokens": 10}
    found = seen(
        {**said, "ai.response.providerMetadata": '{"openrouter": {"usage": {"cost": 0.000123}}}'},
        name="ai.generateText.doGenerate",
    )
    assert (found.provider, found.model_asked) == ("openrouter", "anthropic/claude-sonnet-4-5")
    assert found.reading is not None
    assert found.reading.reported == 123_000
    assert "reported_by=provider" in found.notes


def test_langfuse_attributes() -> None:
    """What Langfuse's own SDK sends: buckets beside each other, whose total is their sum."""
    found = seen(
        {
            "langfuse.observation.type": "generation",
            "langfuse.observation.model.name": "gpt-4o",
            "langfuse.observation.usage_details": '{"input": 40, "output": 5, "input_cache_read": 60, "output_reasoning": 10, "total": 115}',
            "langfuse.observation.cost_details": '{"input": 0.001, "output": 0.0002}',
            "langfuse.observation.completion_start_time": '"2025-10-09T08:53:20.500Z"',
            "langfuse.user.id": "u",
            "langfuse.session.id": "s",
            "langfuse.trace.tags": ["a", "b"],
            "langfuse.trace.metadata.plan": "pro",
            "langfuse.environment": "staging",
        }
    )
    assert counts(found) == {"input_tokens": 100, "cache_read_tokens": 60, "output_tokens": 15, "reasoning_tokens": 10}
    assert "counts=exclusive:langfuse" in found.notes
    assert found.reading is not None
    assert found.reading.reported == 1_200_000
    assert found.first_token_ms == 500.0
    assert dict(found.scope.labels) == {"environment": "staging", "plan": "pro", "tags": "a,b"}


def test_langfuse_passes_openinference_on() -> None:
    """Buckets named as OpenInference names them lie inside the input, and so does what the total says does."""
    said = {"langfuse.observation.type": "generation", "langfuse.observation.model.name": "gpt-4o"}
    inside = '{"input": 100, "output": 5, "prompt_details.cache_read": 60}'
    assert counts(seen({**said, "langfuse.observation.usage_details": inside}))["input_tokens"] == 100
    total = '{"input": 100, "output": 5, "input_cache_read": 60, "total": 105}'
    assert counts(seen({**said, "langfuse.observation.usage_details": total}))["input_tokens"] == 100
    unsaid = '{"input": 40, "output": 5, "input_cached_tokens": 60}'
    assert counts(seen({**said, "langfuse.observation.usage_details": unsaid}))["input_tokens"] == 100


def test_pydantic_ai() -> None:
    """Pydantic AI: details repeat what the attributes say and are not added; the agent's sum stays the agent's."""
    found = seen(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "openai",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
            "gen_ai.response.id": "chatcmpl-C",
            "gen_ai.usage.input_tokens": 417,
            "gen_ai.usage.output_tokens": 53,
            "gen_ai.usage.details.cache_read_tokens": 128,
            "gen_ai.usage.details.reasoning_tokens": 20,
            "gen_ai.usage.details.input_tokens": 417,
            "operation.cost": 0.00009435,
            "server.address": "api.openai.com",
        },
        scope="pydantic-ai",
    )
    assert counts(found) == {"input_tokens": 417, "cache_read_tokens": 128, "output_tokens": 53, "reasoning_tokens": 20}
    assert found.reading is not None
    assert found.reading.reported == 94_350
    assert "reported_by=provider" not in found.notes
    agent = seen(
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "joker",
            "gen_ai.agent.call.id": "call-77",
            "model_name": "gpt-4o-mini",
            "gen_ai.aggregated_usage.input_tokens": 900,
            "gen_ai.aggregated_usage.output_tokens": 100,
            "logfire.msg": "joker run",
        },
        scope="pydantic-ai",
    )
    assert (agent.kind, agent.scope.agent, agent.scope.task) == ("agent", "joker", "call-77")
    assert counts(agent) == {"input_tokens": 900, "output_tokens": 100}


def test_sentry() -> None:
    """Sentry's names."""
    found = seen(
        {
            "sentry.op": "gen_ai.chat",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.system": "openai",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.input_tokens.cached": 40,
            "gen_ai.usage.input_tokens.cache_write": 10,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.output_tokens.reasoning": 5,
            "gen_ai.usage.total_tokens": 120,
            "gen_ai.cost.total_tokens": 0.01,
        }
    )
    assert counts(found) == {
        "input_tokens": 100, "cache_read_tokens": 40, "cache_write_tokens": 10, "output_tokens": 20, "reasoning_tokens": 5,
    }  # fmt: skip
    assert found.reading is not None
    assert found.reading.reported == 10_000_000


def test_mastra_and_strands() -> None:
    """Mastra's cached input; Strands' written tokens, and the sum on its agent."""
    mastra = seen(
        {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5",
            "gen_ai.usage.input_tokens": 100, "gen_ai.usage.cached_input_tokens": "64", "gen_ai.usage.output_tokens": 1,
        }
    )  # fmt: skip
    assert counts(mastra) == {"input_tokens": 100, "cache_read_tokens": 64, "output_tokens": 1}
    strands = {
        "gen_ai.system": "strands-agents", "gen_ai.request.model": "us.anthropic.claude-sonnet-4-20250514-v1:0",
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_write_input_tokens": 40, "gen_ai.usage.output_tokens": 2,
    }  # fmt: skip
    call = seen({**strands, "gen_ai.operation.name": "chat"})
    assert (call.provider, counts(call)["cache_write_5m_tokens"]) == ("aws", 40)
    assert call.notes == ("provider_assumption=model_name", "counts=inclusive", "price_assumption=cache_ttl_5m")
    agent = seen({**strands, "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"})
    assert (agent.kind, agent.scope.agent) == ("agent", "helper")


def test_agentops() -> None:
    """AgentOps' total cost."""
    found = seen(
        {"gen_ai.operation.name": "chat", "gen_ai.system": "OpenAI", "gen_ai.request.model": "gpt-5",
         "gen_ai.usage.prompt_tokens": 10, "gen_ai.usage.completion_tokens": 2, "gen_ai.usage.total_cost": "0.00031"}
    )  # fmt: skip
    assert found.reading is not None
    assert (found.reading.reported, found.provider) == (310_000, "openai")


def test_genkit() -> None:
    """Genkit names the model with its plugin, and its usage lies in the output, whose text is not kept."""
    output = {
        "message": {"content": [{"text": "a secret answer"}]},
        "usage": {
            "inputTokens": 50,
            "outputTokens": 7,
            "cachedContentTokens": 20,
            "thoughtsTokens": 30,
            "inputCharacters": 9,
        },
    }
    found = seen(
        {
            "genkit:metadata:subtype": "model",
            "genkit:name": "googleai/gemini-2.5-flash",
            "genkit:output": json.dumps(output),
        }
    )
    assert (found.kind, found.provider, found.model_asked) == ("model", "google", "gemini-2.5-flash")
    assert counts(found) == {"input_tokens": 50, "cache_read_tokens": 20, "output_tokens": 37, "reasoning_tokens": 30}
    assert found.notes == ("counts=inclusive", "reasoning=beside_output:exceeds")
    assert "secret" not in str(found)


def test_google_adk() -> None:
    """The ADK's span has Gemini's own answer: thoughts lie beside the candidates, tool prompts beside the prompt."""
    answer = {
        "content": {"parts": [{"text": "a secret answer"}]},
        "usage_metadata": {
            "prompt_token_count": 1_000, "cached_content_token_count": 600, "candidates_token_count": 20,
            "thoughts_token_count": 30, "tool_use_prompt_token_count": 5, "total_token_count": 1_055,
            "prompt_tokens_details": [{"modality": "TEXT", "token_count": 900}, {"modality": "AUDIO", "token_count": 100}],
        },
    }  # fmt: skip
    found = seen(
        {
            "gen_ai.system": "gcp.vertex.agent",
            "gen_ai.request.model": "gemini-2.5-flash",
            "gen_ai.usage.input_tokens": 1_000,
            "gen_ai.usage.output_tokens": 20,
            "gcp.vertex.agent.session_id": "s-5",
            "gcp.vertex.agent.llm_response": json.dumps(answer),
        },
        name="call_llm",
        scope="gcp.vertex.agent",
    )
    assert (found.kind, found.provider, found.scope.session) == ("model", "google", "s-5")
    assert counts(found) == {
        "input_tokens": 1_005, "cache_read_tokens": 600, "input_audio_tokens": 100, "output_tokens": 50, "reasoning_tokens": 30,
    }  # fmt: skip
    assert "secret" not in str(found)


def test_mcp() -> None:
    """An MCP client's call of a tool, named by the attribute or by the span."""
    found = seen({"mcp.method.name": "tools/call", "gen_ai.tool.name": "search"}, name="tools/call search")
    assert (found.kind, found.tool, found.operation) == ("tool", "search", "tools/call")
    assert seen({"mcp.method.name": "tools/call"}, name="tools/call search").tool == "search"
    assert seen({"mcp.method.name": "tools/list"}, name="tools/list").kind == "step"


def test_microsoft_agents() -> None:
    """A framework is no provider; the id of a run is shared by its calls and so no response's."""
    said = {
        "gen_ai.provider.name": "microsoft.agent_framework", "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.id": "run_9guM", "gen_ai.usage.input_tokens": 631, "gen_ai.usage.output_tokens": 35,
    }  # fmt: skip
    agent = seen({**said, "gen_ai.operation.name": "invoke_agent"}, name="invoke_agent helper")
    assert (agent.kind, agent.scope.agent) == ("agent", "helper")
    call = seen({**said, "gen_ai.operation.name": "chat"})
    assert call.reading is not None
    assert (call.provider, call.reading.response_id) == ("openai", "")


def test_claude_code_spans() -> None:
    """Claude Code's beta spans: cached tokens beside the input, an hour's cache, its request's id."""
    found = seen(
        {
            "model": "claude-opus-4-6[1m]", "query_source": "subagent", "input_tokens": 3, "output_tokens": 200,
            "cache_read_tokens": 50_000, "cache_creation_tokens": 1_000, "ttft_ms": 900, "request_id": "req_1",
            "session.id": "s", "user.id": "hash", "user.email": "ana@example.com", "speed": "fast",
        },
        name="claude_code.llm_request",
        scope="com.anthropic.claude_code.tracing",
    )  # fmt: skip
    assert counts(found) == {
        "input_tokens": 51_003, "cache_read_tokens": 50_000, "cache_write_tokens": 1_000, "cache_write_1h_tokens": 1_000,
        "output_tokens": 200,
    }  # fmt: skip
    assert (found.provider, found.model_asked, found.first_token_ms) == ("anthropic", "claude-opus-4-6", 900.0)
    assert (found.scope.agent, found.scope.user) == ("subagent", "ana@example.com")
    assert found.reading is not None
    assert (found.reading.response_id, found.reading.terms) == ("req_1", (("speed", "fast"),))
    assert found.notes == ("counts=exclusive:claude_code", "price_assumption=cache_ttl_1h")


def test_a_request_id_of_an_application_is_no_response() -> None:
    """Elsewhere the attribute is an application's own, the same for many calls: taken as a response's it would lose them."""
    found = seen(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-5",
            "gen_ai.usage.input_tokens": 1,
            "request_id": "r",
        }
    )
    assert found.reading is not None
    assert found.reading.response_id == ""


# --- counts -------------------------------------------------------------------------------------------------------


def read(
    input_tokens: int, output: int, *, read: int = 0, reasoning: int = 0, total: int | None = None
) -> tuple[int, int, tuple[str, ...]]:
    said: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output,
        "gen_ai.usage.cache_read.input_tokens": read,
        "gen_ai.usage.reasoning.output_tokens": reasoning,
    }
    found = seen(said if total is None else {**said, "gen_ai.usage.total_tokens": total})
    usage = counts(found)
    return usage["input_tokens"], usage["output_tokens"], tuple(n for n in found.notes if "assumption" not in n)


@pytest.mark.parametrize(
    ("stated", "read_as"),
    [
        # Inclusive is the rule, also with a total that says so.
        ({"input_tokens": 100, "output": 10, "read": 60}, (100, 10, ("counts=inclusive",))),
        ({"input_tokens": 100, "output": 10, "read": 60, "total": 110}, (100, 10, ("counts=inclusive",))),
        # More parts than whole can only be beside it.
        ({"input_tokens": 50, "output": 10, "read": 60}, (110, 10, ("counts=exclusive:exceeds",))),
        ({"input_tokens": 50, "output": 10, "reasoning": 30}, (50, 40, ("reasoning=beside_output:exceeds",))),
        # A total that holds only with the parts beside.
        ({"input_tokens": 100, "output": 10, "read": 60, "total": 170}, (160, 10, ("counts=exclusive:total",))),
        ({"input_tokens": 100, "output": 10, "reasoning": 5, "total": 115}, (100, 15, ("reasoning=beside_output:total",))),
        (
            {"input_tokens": 100, "output": 10, "read": 60, "reasoning": 5, "total": 175},
            (160, 15, ("counts=exclusive:total", "reasoning=beside_output:total")),
        ),
        # A total that nothing explains is noted, and decides nothing.
        ({"input_tokens": 100, "output": 10, "read": 60, "total": 999}, (100, 10, ("total=disagrees", "counts=inclusive"))),
    ],
)  # fmt: skip
def test_inclusive_or_exclusive(stated: dict[str, int], read_as: tuple[int, int, tuple[str, ...]]) -> None:
    """Which reading of the counts is taken, and the note of the rule that decided it."""
    assert read(**stated) == read_as


def test_counts_that_contradict_each_other() -> None:
    """Parts of one whole that are more than it are no usage; the reason says which."""
    found = seen(
        {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5", "gen_ai.usage.input_tokens": 10,
         "gen_ai.usage.audio.input_tokens": 11}
    )  # fmt: skip
    assert found.reading is not None
    assert found.reading.usage is None
    assert found.reading.reason == "usage: 11 audio, image and video tokens are more than the input tokens, 10"


def test_a_model_call_without_usage_is_not_free() -> None:
    """A call that ended well and states nothing is unpriced, with the reason; one that failed is nothing to pay for."""
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}
    found = seen(said)
    assert found.reading is not None
    assert (found.reading.usage, found.reading.reason) == (None, "the span states no usage")
    assert seen(said, error="429").reading is None
    billed = seen({**said, "gen_ai.usage.input_tokens": 10}, error="broke off")
    assert (counts(billed), billed.status) == ({"input_tokens": 10}, "error")


def test_an_input_that_nobody_states() -> None:
    """It is no zero: the total leaves it, or the usage is not known."""
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5", "gen_ai.usage.output_tokens": 30}
    found = seen(said)
    assert found.reading is not None
    assert (found.reading.usage, found.reading.reason) == (None, "usage: the input tokens are not stated")
    total = seen({**said, "gen_ai.usage.total_tokens": 130})
    assert counts(total) == {"input_tokens": 100, "output_tokens": 30}
    assert "input_tokens=what the total leaves" in total.notes
    absurd = seen({**said, "gen_ai.usage.total_tokens": 20})
    assert absurd.reading is not None
    assert absurd.reading.usage is None


def test_an_answer_that_nobody_counts() -> None:
    """A call with input alone is an estimate, and says so; what has no answer, embeddings and ranks, is exact."""
    said = {"gen_ai.request.model": "gpt-5", "gen_ai.usage.input_tokens": 30}
    found = seen({**said, "gen_ai.operation.name": "chat"})
    assert found.reading is not None
    assert (counts(found), found.reading.estimated) == ({"input_tokens": 30}, True)
    assert "estimated=the output tokens are not stated" in found.notes
    for exact in (
        {"gen_ai.operation.name": "embeddings"},
        {"openinference.span.kind": "RERANKER"},
        {"langfuse.observation.type": "embedding"},
        {"llm.request.type": "embedding"},
        {"ai.operationId": "ai.embedMany.doEmbed"},
        {"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": 0},
    ):
        answerless = seen({**said, **exact})
        assert answerless.reading is not None
        assert not answerless.reading.estimated, exact


def test_fetching_an_answer_is_no_call() -> None:
    """An answer that is fetched again states the usage of the call that made it."""
    found = seen(
        {"gen_ai.operation.name": "fetch_response", "gen_ai.request.model": "gpt-5", "gen_ai.usage.input_tokens": 9}
    )
    assert (found.kind, found.reading) == ("step", None)


def test_the_host_says_who_bills() -> None:
    """An OpenAI client that calls somebody else: the host is the provider, noted; an unknown host changes nothing."""
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 1,
    }
    groq = seen({**said, "server.address": "api.groq.com"})
    assert (groq.provider, groq.notes[0]) == ("groq", "provider=groq: the host that was called, not openai")
    assert seen({**said, "server.address": "llm-proxy.internal"}).provider == "openai"
    europe = seen({**said, "server.address": "eu.api.openai.com"})
    assert europe.reading is not None
    assert (europe.provider, europe.reading.terms) == ("openai", (("region", "eu"),))


def test_models_with_their_makers() -> None:
    """A maker before the model's name is taken off where it is the provider, and stays where a router needs it."""
    said = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 1}
    assert seen({**said, "gen_ai.request.model": "openai/gpt-5"}).model_asked == "gpt-5"
    assert seen({**said, "gen_ai.request.model": "openai/gpt-5"}).provider == "openai"
    routed = seen({**said, "gen_ai.request.model": "openai/gpt-5", "gen_ai.provider.name": "openrouter"})
    assert (routed.provider, routed.model_asked) == ("openrouter", "openai/gpt-5")
    assert seen({**said, "gen_ai.request.model": "models/gemini-3-pro"}).model_asked == "gemini-3-pro"


def test_a_tree() -> None:
    """Ids and times of parents and children are those that were sent."""
    spans = [
        a_span({"gen_ai.operation.name": "invoke_agent"}, span="00000000000000a1", end_ns=1_760_000_000_000_003_999),
        a_span({"gen_ai.operation.name": "chat"}, span="00000000000000a2", parent="00000000000000a1"),
    ]
    root, child = both(spans).observations
    assert (root.parent_id, child.parent_id, child.trace_id) == ("", root.span_id, root.trace_id)
    assert (root.started_us, root.ended_us) == (1_760_000_000_000_000, 1_760_000_000_000_003)
