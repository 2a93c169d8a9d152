"""What is measured beside each other: Bursar's SDK and its peers, each set up as its documentation says.

Rule 1: an environment holds one tool, the versions that run in a call are pinned here, and a plain `openai` of the same
        environment is the reference of what is measured in it.
Rule 2: who exports, exports in batches in the background to a collector on the loopback interface that drops everything.
Rule 3: what a tool would fetch from the network when it starts (prices, its maker's statistics) is given as a file or
        switched off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bench import samples

__all__ = ["ENVIRONMENTS", "SIDES", "Place", "Ready", "Side", "reference_of"]

_OPENAI = ("openai==3.57.0", "httpx2==2.16.2", "pydantic==2.14.4")
# These import httpx, which `openai` 3 no longer brings, or keep `openai` below 3.
_OPENAI_2 = ("openai==2.54.0", "httpx==0.28.1", "pydantic==2.14.4")

# Name -> what is installed. Bursar itself is the working copy.
ENVIRONMENTS = {
    "bursar": (*_OPENAI, "msgspec==0.22.0"),
    "otel": (
        *_OPENAI_2,
        "opentelemetry-instrumentation-openai-v2==2.4b0",
        "opentelemetry-util-genai==0.4b0",
        "opentelemetry-sdk==1.45.2",
        "opentelemetry-exporter-otlp-proto-http==1.45.2",
    ),
    "traceloop": (*_OPENAI_2, "traceloop-sdk==0.62.4", "opentelemetry-sdk==1.45.1"),
    "openlit": (*_OPENAI_2, "openlit==1.45.0", "opentelemetry-sdk==1.45.1"),
    "langfuse": (*_OPENAI, "langfuse==5.0.4", "opentelemetry-sdk==1.45.2"),
    "litellm": (*_OPENAI, "litellm==1.110.2"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a side may export to and keep its files."""

    collector: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Ready:
    """A side that is set up. ``around`` is entered around a round of calls, ``around_each`` around every call."""

    flush: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    around_each: Callable[[], AbstractContextManager[object]] | None = None
    openai: str = "openai"
    litellm: bool = False


@dataclass(frozen=True, slots=True)
class Side:
    """``set_up`` imports and starts the tool, and is what a start is timed by."""

    title: str
    environment: str
    set_up: Callable[[Place], Ready]
    exports: bool = False


def _plain(_place: Place) -> Ready:
    return Ready(flush=_nothing)


def _nothing() -> None:
    pass


def _bursar(mode: str, *, task: str = "") -> Callable[[Place], Ready]:
    """``task`` says where a task with a budget is opened: around a round or around each call."""

    def set_up(place: Place) -> Ready:
        import bursar

        bursar.init(mode=mode, data=place.directory)

        def work() -> AbstractContextManager[object]:
            return bursar.task("bench", user="ana", team="search", budget="1000")

        return Ready(
            flush=bursar.flush,
            around=work if task == "round" else nullcontext,
            around_each=work if task == "call" else None,
        )

    return set_up


def _otel(place: Place) -> Ready:
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{place.collector}/v1/traces")))
    trace.set_tracer_provider(provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{place.collector}/v1/metrics"))
    metrics.set_meter_provider(MeterProvider([reader]))
    OpenAIInstrumentor().instrument()
    return Ready(flush=_flush_telemetry)


def _flush_telemetry() -> None:
    from opentelemetry import _logs, metrics, trace

    for held in (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()):
        flush = getattr(held, "force_flush", None)
        if flush is not None:
            flush()


def _traceloop(place: Place) -> Ready:
    os.environ["TRACELOOP_TELEMETRY"] = "false"
    from traceloop.sdk import Traceloop

    Traceloop.init(app_name="bench", api_endpoint=place.collector, telemetry_enabled=False)
    return Ready(flush=_flush_telemetry)


def _openlit(place: Place) -> Ready:
    import openlit

    prices = place.directory / "prices.json"
    prices.write_text(json.dumps({"chat": {samples.MODEL: {"promptPrice": 0.00015, "completionPrice": 0.0006}}}))
    openlit.init(application_name="bench", otlp_endpoint=place.collector, pricing_json=str(prices))
    return Ready(flush=_flush_telemetry)


def _langfuse(place: Place) -> Ready:
    os.environ["LANGFUSE_PUBLIC_KEY"] = "pk-lf-bench"
    os.environ["LANGFUSE_SECRET_KEY"] = "sk-lf-bench"
    os.environ["LANGFUSE_BASE_URL"] = place.collector
    import langfuse
    import langfuse.openai  # imported to be found: it takes the place of `openai`

    return Ready(flush=langfuse.get_client().flush, openai="langfuse.openai")


def _litellm(_place: Place) -> Ready:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOG"] = "ERROR"
    import litellm

    litellm.telemetry = False
    return Ready(flush=_nothing, litellm=True)


_TOOLS = {
    "observe": Side("Bursar, observe", "bursar", _bursar("observe")),
    "enforce": Side("Bursar, enforce", "bursar", _bursar("enforce")),
    "task": Side("Bursar, enforce, in a task with a budget", "bursar", _bursar("enforce", task="round")),
    "tasks": Side("Bursar, enforce, each call a task with a budget", "bursar", _bursar("enforce", task="call")),
    "otel": Side("OpenTelemetry openai-v2 2.4b0", "otel", _otel, exports=True),
    "traceloop": Side("traceloop-sdk 0.62.4", "traceloop", _traceloop, exports=True),
    "openlit": Side("openlit 1.45.0", "openlit", _openlit, exports=True),
    "langfuse": Side("langfuse 5.0.4", "langfuse", _langfuse, exports=True),
    "litellm": Side("litellm 1.110.2, completion()", "litellm", _litellm),
}
# The plain client of each environment comes first.
SIDES = {f"plain-{name}": Side(f"plain {what[0]}", name, _plain) for name, what in ENVIRONMENTS.items()} | _TOOLS


def reference_of(name: str) -> str:
    """The plain client that a side is compared with."""
    return f"plain-{SIDES[name].environment}"
