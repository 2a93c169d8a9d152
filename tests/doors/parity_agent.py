"""One small agent, run through the doors that are named: for ``test_parity``. Each run is a process of its own.

It asks two models, uses a tool, starts a sub-agent that streams, meets an error, and leaves a stream in its middle.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import openai

import bursar

TASK, SUB_TASK = "ticket-1", "ticket-1/research"
QUESTION = [{"role": "user", "content": "Why is the invoice twice as high as last month? Look it up."}]
WHOLE = {"model": "gpt-4o-mini", "messages": QUESTION}
STREAM = {"model": "gpt-4o", "messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}}
REFUSED = {**WHOLE, "extra_headers": {"x-sim-fault": "400"}}
LEFT = {**STREAM, "model": "gpt-4o-mini"}
PRICE = "0.005"


@bursar.tool(name="crm.search", price=PRICE)
def search(query: str) -> str:
    return f'{{"found": "{query}"}}'


def agent(client: openai.OpenAI, telemetry: Any) -> None:
    with telemetry.span("resolve", "invoke_agent", task=TASK, agent="support", user="ann", team="care"):
        client.chat.completions.create(**WHOLE)
        with telemetry.tool("crm.search"):
            search("invoice")
        with telemetry.span("research", "invoke_agent", task=SUB_TASK, agent="researcher"):
            for _ in client.chat.completions.create(**STREAM):
                pass
        with suppress(openai.BadRequestError):
            client.chat.completions.create(**REFUSED)
        stream = client.chat.completions.create(**LEFT)
        next(iter(stream))
        stream.close()


async def agent_async(client: openai.AsyncOpenAI, telemetry: Any) -> None:
    with telemetry.span("resolve", "invoke_agent", task=TASK, agent="support", user="ann", team="care"):
        await client.chat.completions.create(**WHOLE)
        with telemetry.tool("crm.search"):
            search("invoice")
        with telemetry.span("research", "invoke_agent", task=SUB_TASK, agent="researcher"):
            async for _ in await client.chat.completions.create(**STREAM):
                pass
        with suppress(openai.BadRequestError):
            await client.chat.completions.create(**REFUSED)
        stream = await client.chat.completions.create(**LEFT)
        await anext(aiter(stream))
        await stream.close()


class Said:
    """What the agent says of itself: to the SDK, to OpenTelemetry, or to both."""

    def __init__(self, *, sdk: bool, tracer: Any) -> None:
        self._sdk = sdk
        self._tracer = tracer

    @contextmanager
    def span(self, name: str, operation: str, **columns: str) -> Any:
        with ExitStack() as stack:
            if self._sdk:
                stack.enter_context(
                    bursar.task(id=columns["task"], **{k: v for k, v in columns.items() if k != "task"})
                )
            if self._tracer is not None:
                attributes = {f"bursar.{column}": value for column, value in columns.items()}
                attributes |= {"gen_ai.operation.name": operation, "gen_ai.agent.name": columns["agent"]}
                stack.enter_context(self._tracer.start_as_current_span(name, attributes=attributes))
            yield

    @contextmanager
    def tool(self, name: str) -> Any:
        if self._tracer is None:
            yield
            return
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        with self._tracer.start_as_current_span(f"execute_tool {name}", attributes=attributes):
            yield


def tracer(url: str) -> Any:
    """The official instrumentation and exporter."""
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    trace.set_tracer_provider(provider)
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return provider


def main(doors: set[str], data: str, simulator: str, server: str) -> None:
    provider = tracer(server) if "otlp" in doors else None
    sdk = bool(doors & {"gateway", "sdk", "sdk-async", "remote"})
    if "remote" in doors:
        bursar.init(data=f"{data}/of-the-agent", server=server)
    elif sdk:
        bursar.init(data=data)
    base_url = f"{server}/v1" if "gateway" in doors else f"{simulator}/v1"
    telemetry = Said(sdk=sdk, tracer=provider.get_tracer("agent") if provider else None)
    if "sdk-async" in doors:
        asyncio.run(agent_async(openai.AsyncOpenAI(api_key="any", base_url=base_url, max_retries=0), telemetry))
    else:
        agent(openai.OpenAI(api_key="any", base_url=base_url, max_retries=0), telemetry)
    if provider is not None:
        provider.shutdown()
    bursar.shutdown()


if __name__ == "__main__":
    main(set(sys.argv[1].split("+")), *sys.argv[2:])
