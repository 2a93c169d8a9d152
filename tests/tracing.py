"""Observations for tests: spans of small traces, and every shape that a trace can have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from bursar.core.observations import Observation
from bursar.core.prices import Reading
from bursar.core.scopes import Scope
from bursar.core.usage import Usage

AT_US = 1_760_000_000_000_000
TRACE = "a" * 32
OTHER = "b" * 32
NAMES = "abcdefgh"


def usage(tokens: int) -> Reading:
    return Reading(usage=Usage(input_tokens=tokens, output_tokens=1), model="gpt-4o-mini")


def seen(span: str, parent: str = "", kind: str = "step", **more: Any) -> Observation:
    """A span of the one trace of these tests."""
    values: dict[str, Any] = {
        "source": "span", "door": "otlp", "name": span, "kind": kind, "started_us": AT_US, "ended_us": AT_US + 1_000,
        "trace_id": TRACE, "span_id": span, "parent_id": parent, "provider": "openai" if kind == "model" else "",
        "model_asked": "gpt-4o-mini" if kind == "model" else "",
    }  # fmt: skip
    return Observation(**{**values, **more})


def model(span: str, parent: str = "", tokens: int = 10, **more: Any) -> Observation:
    return seen(span, parent, "model", **{"reading": usage(tokens), **more})


def record(span: str = "", **more: Any) -> Observation:
    """A log record, written in a span."""
    return model("", source="log", span_id=span, **more)


@st.composite
def observations(draw: st.DrawFn) -> list[Observation]:
    """Traces of every shape: circles, orphans, spans that come again, records, sums, one response in several places."""
    found: list[Observation] = []
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["model", "tool", "agent", "step"]))
        source = "log" if kind in ("model", "tool") and draw(st.integers(0, 4)) == 0 else "span"
        reading = draw(
            st.sampled_from([None, usage(3), usage(5), Reading(reason="odd"), Reading(response_id="call-1")])
        )
        if kind == "model" and reading is not None and reading.usage and draw(st.booleans()):
            reading = replace(reading, response_id=draw(st.sampled_from(["r1", "r2"])))
        found.append(
            seen(
                draw(st.sampled_from(NAMES)),
                draw(st.sampled_from(["", *NAMES])),
                kind,
                source=source,
                reading=reading,
                tool=draw(st.sampled_from(["search", "other"])) if kind == "tool" else "",
                trace_id=draw(st.sampled_from([TRACE, OTHER])),
                ended_us=AT_US + draw(st.integers(0, 3)),
                scope=draw(st.sampled_from([Scope(), Scope(user="u"), Scope(task="t1"), Scope(task="t2", agent="g")])),
            )
        )
    return found
