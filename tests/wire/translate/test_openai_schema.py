"""Schemas at OpenAI's strict mode: refused where it would refuse them, closed where they were open."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.wire.translate.conversation import Asked, Format, Message, Text, Tool, Untranslatable
from bursar.wire.translate.openai import SPEAKER
from bursar.wire.translate.openai_schema import held_schema, strict_schema

HI = (Message("user", (Text("hi"),)),)
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WORDS = (
    "type", "object", "properties", "required", "additionalProperties", "items", "anyOf", "$defs", "definitions", "a",
)  # fmt: skip


def said(asked: Asked, model: str = "gpt-4o") -> dict[str, Any]:
    """The body that is sent."""
    return json.loads(SPEAKER.write_request(asked, model).body)


def an_object(required: Sequence[str] = ("a",), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties or {"a": {"type": "string"}}, "required": list(required)}


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({}, ""),
        ({"type": "array", "items": an_object()}, ""),
        ({**an_object(), "anyOf": [an_object()]}, ""),
        (an_object(()), ".required"),
        (an_object(a=an_object(())), ".properties.a.required"),
        (an_object(a={"type": "array", "items": an_object(())}), ".properties.a.items.required"),
        (an_object(a={"anyOf": [{"type": "null"}, an_object(())]}), ".properties.a.anyOf.required"),
        ({**an_object(), "$defs": {"d": an_object(())}}, ".$defs.d.required"),
        ({**an_object(), "additionalProperties": True}, ".additionalProperties"),
        (an_object(a={"type": ["object", "null"], "additionalProperties": {}}), ".properties.a.additionalProperties"),
        (an_object(a={"allOf": [{"type": "string"}]}), ".properties.a.allOf"),
        (an_object(a={"type": "string", "not": {"const": "b"}}), ".properties.a.not"),
        ({**an_object(), "required": True}, ".required"),
        (an_object(a={**an_object(), "required": 1}), ".properties.a.required"),
        (an_object(a={"type": "array", "items": {**an_object(), "required": "a"}}), ".properties.a.items.required"),
        ({**an_object(), "properties": [1]}, ".properties"),
        ({**an_object(), "$defs": True}, ".$defs"),
        (an_object(a={"anyOf": {}}), ".properties.a.anyOf"),
        ({**an_object(), "additionalProperties": 0}, ".additionalProperties"),
    ],
)
def test_a_schema_that_strict_mode_does_not_take_is_refused_first(schema: dict[str, Any], field: str) -> None:
    """In a format and in a tool; without ``strict`` it is sent as it is."""
    with pytest.raises(Untranslatable) as refusal:
        SPEAKER.write_request(Asked("m", HI, format=Format(schema, strict=True)), "gpt-4o")
    assert refusal.value.field == f"format.schema{field}"
    with pytest.raises(Untranslatable) as refusal:
        SPEAKER.write_request(Asked("m", HI, tools=(Tool("t", schema=schema, strict=True),)), "gpt-4o")
    assert refusal.value.field == f"tools[0].parameters{field}"
    body = said(Asked("m", HI, format=Format(schema), tools=(Tool("t", schema=schema),)), "gpt-4o")
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert body["tools"][0]["function"]["parameters"] == schema


def test_a_strict_schema_that_is_open_is_closed() -> None:
    """Objects that do not say whether they are open, at every depth; one that needs nothing stays the same object."""
    inner = an_object(("b",), b={"type": "string"})
    schema = {
        **an_object(("a", "l", "c", "t"), a=inner, l={"type": "array", "items": inner}, c={"anyOf": [inner]}, t=True),
        "$defs": {"d": inner},
    }
    shut = {**inner, "additionalProperties": False}
    found = said(Asked("m", HI, format=Format(schema, strict=True)), "gpt-4o")["response_format"]["json_schema"][
        "schema"
    ]
    assert found == {
        **schema,
        "additionalProperties": False,
        "properties": {"a": shut, "l": {"type": "array", "items": shut}, "c": {"anyOf": [shut]}, "t": True},
        "$defs": {"d": shut},
    }
    assert strict_schema(WEATHER, "") is WEATHER


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(WORDS), ANYTHING))
def test_whatever_is_sent_as_a_schema_is_taken_or_refused(fields: dict[str, Any]) -> None:
    """What is no schema at all is refused like any other that the strict mode does not take."""
    schema = {**fields, "type": "object"}
    with suppress(Untranslatable):
        strict_schema(schema, "schema")
    held_schema(schema)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (an_object(a={"type": ["string", "null"], "enum": ["x", None]}), True),
        (
            an_object(a={"type": "array", "items": {"anyOf": [{"type": "string", "format": "date"}, {"$ref": "#"}]}}),
            True,
        ),
        (an_object(()), False),
        (an_object(a={"type": "integer", "format": "int32"}), False),
        (an_object(a={"type": "string", "minLength": 1}), False),
        (an_object(a={"type": "array", "items": {"type": "string", "default": "x"}}), False),
        (an_object(a={"description": "anything"}), False),
        (an_object(a={"type": "array", "items": True}), False),
    ],
)
def test_a_schema_that_answers_are_held_to_elsewhere_is_strict_where_it_is_sure_to_be_taken(
    schema: dict[str, Any], strict: bool
) -> None:
    """Gemini holds every answer to its schema. What OpenAI may refuse is asked for, as it is."""
    inner = said(Asked("m", HI, format=Format(schema, held=True)))["response_format"]["json_schema"]
    if strict:
        assert inner == {"name": "answer", "schema": {**schema, "additionalProperties": False}, "strict": True}
    else:
        assert inner == {"name": "answer", "schema": schema}
    loose = said(Asked("m", HI, format=Format(schema, strict=False, held=True)))["response_format"]["json_schema"]
    assert (loose["schema"], loose["strict"]) == (schema, False)
