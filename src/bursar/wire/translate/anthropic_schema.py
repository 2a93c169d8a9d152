"""Schemas that Anthropic holds an answer or a tool's input to.

Rule 1: an object is closed: ``additionalProperties`` is false. Where a schema leaves it open without saying so, it is closed
        here; every answer to the closed one is an answer to the open one.
Rule 2: what Anthropic does not hold an answer to is refused and never left out (Anthropic, structured outputs: limits of
        numbers, lengths and lists, formats beyond those in ``_FORMATS``).
"""

from __future__ import annotations

from typing import Any, Final, cast

from bursar.wire.dialect import mapping

from .conversation import Untranslatable

__all__ = ["check_schema"]

_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_HELD: Final = frozenset(
    {
        "type", "properties", "required", "additionalProperties", "items", "minItems", "enum", "const", "anyOf", "allOf",
        "format", "pattern", "$ref", "$defs", "definitions",
    }
)  # fmt: skip
_SAID: Final = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment"})
_DEPTH_MAX: Final = 64


def check_schema(schema: dict[str, Any], where: str, depth: int = 0) -> dict[str, Any]:
    """The schema as Anthropic takes it: the same object where nothing changes. Raises Untranslatable."""
    if depth > _DEPTH_MAX:
        raise Untranslatable(where, "the schema is too deep")
    if unknown := next((key for key in schema if key not in _HELD and key not in _SAID), ""):
        raise Untranslatable(f"{where}.{unknown}", "Anthropic does not hold an answer to it")
    if schema.get("additionalProperties", False) is not False:
        raise Untranslatable(f"{where}.additionalProperties", "Anthropic holds answers to closed objects alone")
    if schema.get("format", "date") not in _FORMATS:
        raise Untranslatable(f"{where}.format", "Anthropic does not hold an answer to it")
    if schema.get("minItems", 0) not in (0, 1):
        raise Untranslatable(f"{where}.minItems", "Anthropic holds an answer to 0 or 1")
    changed: dict[str, Any] = {}
    for key in ("properties", "$defs", "definitions"):
        for name, inner in _objects(schema.get(key)).items():
            new = check_schema(inner, f"{where}.{key}.{name}", depth + 1)
            if new is not inner:
                changed.setdefault(key, {**schema[key]})[name] = new
    for key in ("anyOf", "allOf"):
        branches: list[Any] = schema[key] if isinstance(schema.get(key), list) else []
        new = [check_schema(mapping(each), f"{where}.{key}", depth + 1) for each in branches]
        if any(left is not right for left, right in zip(new, branches, strict=True)):
            changed[key] = new
    if isinstance(items := schema.get("items"), dict):
        new_items = check_schema(cast("dict[str, Any]", items), f"{where}.items", depth + 1)
        if new_items is not items:
            changed["items"] = new_items
    kind = schema.get("type")
    if (kind == "object" or (isinstance(kind, list) and "object" in kind)) and "additionalProperties" not in schema:
        changed["additionalProperties"] = False
    return {**schema, **changed} if changed else schema


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        return {}
    return {name: each for name, each in cast("dict[str, Any]", value).items() if isinstance(each, dict)}
