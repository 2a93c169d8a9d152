"""Google's own schemas, a part of OpenAPI 3.0, as JSON Schema.

Rule 1: Gemini takes JSON Schema too (``parametersJsonSchema``, ``responseJsonSchema``), and that is what is written: the
        dialects differ in one direction only.
Rule 2: names of types lose their upper case, ``nullable`` becomes the type null, ``example`` one of ``examples``, counts that
        are written as strings become numbers. The order of the properties is ``propertyOrdering``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from bursar.wire.dialect import BadRequest, mapping

from .gemini_fields import Fields

__all__ = ["json_schema"]

_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_SAME: Final = ("title", "description", "pattern", "default", "minimum", "maximum")
_NUMBERS: Final[dict[str, Callable[[str], Any]]] = {"integer": int, "number": float}


def json_schema(value: Any, path: str) -> dict[str, Any]:
    """Raises BadRequest for what is no schema, Untranslatable for a keyword that Google does not document."""
    fields = Fields(value, path)
    kind = fields.word("type").lower()
    made: dict[str, Any] = {"type": kind} if kind else {}
    for name in _SAME:
        if fields.given(name):
            made[name] = fields.take(name)
    for name in _COUNTS:
        count = fields.integer(name)
        if count is not None:
            made[name] = count
    form = fields.text("format")
    if form and form != "enum":
        made["format"] = form
    if fields.given("example"):
        made["examples"] = [fields.take("example")]
    required = fields.texts("required")
    if required:
        made["required"] = list(required)
    _inner(fields, made)
    _enumerated(fields, kind, made)
    if fields.flag("nullable"):
        _nullable(made)
    fields.end({})
    return made


def _inner(fields: Fields, made: dict[str, Any]) -> None:
    """The schemas inside a schema."""
    if fields.given("items"):
        made["items"] = json_schema(fields.take("items"), fields.at("items"))
    if fields.given("anyOf"):
        made["anyOf"] = _list(fields.take("anyOf"), fields.at("anyOf"))
    order = fields.texts("propertyOrdering")
    if fields.given("properties"):
        properties = _named(fields.take("properties"), fields.at("properties"))
        made["properties"] = {
            name: properties[name] for name in dict.fromkeys((*order, *properties)) if name in properties
        }
    if fields.given("additionalProperties"):
        more = fields.take("additionalProperties")
        made["additionalProperties"] = (
            more if isinstance(more, bool) else json_schema(more, fields.at("additionalProperties"))
        )
    for name in ("defs", "$defs"):
        if fields.given(name):
            made["$defs"] = _named(fields.take(name), fields.at(name))
    for name in ("ref", "$ref"):
        target = fields.text(name)
        if target:
            made["$ref"] = target.replace("#/defs/", "#/$defs/", 1)


def _list(value: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise BadRequest(path, "expected a list of schemas")
    return [json_schema(item, f"{path}[{number}]") for number, item in enumerate(cast("list[Any]", value))]


def _named(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(path, "expected an object of schemas")
    return {name: json_schema(item, f"{path}.{name}") for name, item in mapping(value).items()}


def _enumerated(fields: Fields, kind: str, made: dict[str, Any]) -> None:
    """Google writes the numbers of an enumeration as strings."""
    values = fields.take("enum")
    if not values:
        return
    if not isinstance(values, list):
        raise BadRequest(fields.at("enum"), "expected a list")
    number = _NUMBERS.get(kind)
    try:
        made["enum"] = [
            number(each) if number and isinstance(each, str) else each for each in cast("list[Any]", values)
        ]
    except ValueError:
        raise BadRequest(fields.at("enum"), f"expected values of the type {kind}") from None


def _nullable(made: dict[str, Any]) -> None:
    if "type" in made:
        made["type"] = [made["type"], "null"]
    if "anyOf" in made:
        made["anyOf"].append({"type": "null"})
    if "enum" in made:
        made["enum"].append(None)
