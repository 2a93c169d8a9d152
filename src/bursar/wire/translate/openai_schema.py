"""Schemas that OpenAI holds an answer or a tool's arguments to (``strict``).

Rule 1: an object is closed. Where a schema leaves it open without saying so, it is closed here; every answer to the closed one
        is an answer to the open one.
Rule 2: every property is required. A schema with optional ones is refused: OpenAI has no word for a property that may be
        absent, and one that may be null gets other answers.
Rule 3: so are the words that the strict mode does not know. (OpenAI, structured outputs: supported schemas)
"""

from __future__ import annotations

from typing import Any, Final, cast

from bursar.wire.dialect import mapping

from .conversation import Untranslatable

__all__ = ["strict_schema"]

_UNKNOWN: Final = (
    "allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_DEPTH_MAX: Final = 64


def strict_schema(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The schema as OpenAI's strict mode takes it: the same object where nothing changes. Raises Untranslatable."""
    if schema.get("type") != "object" or "anyOf" in schema:
        raise Untranslatable(where, "OpenAI's strict mode takes one object, and no choice, at the top of a schema")
    return _checked(schema, where, 0)


def _checked(schema: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    if depth > _DEPTH_MAX:
        raise Untranslatable(where, "the schema is too deep")
    if unknown := next((key for key in _UNKNOWN if key in schema), ""):
        raise Untranslatable(f"{where}.{unknown}", "OpenAI's strict mode does not know it")
    changed: dict[str, Any] = {}
    for key in ("properties", "$defs", "definitions"):
        inner = mapping(schema.get(key))
        new = {name: _inner(each, f"{where}.{key}.{name}", depth) for name, each in inner.items()}
        if any(new[name] is not inner[name] for name in inner):
            changed[key] = new
    if isinstance(said := schema.get("anyOf"), list):
        branches = cast("list[Any]", said)
        new_branches = [_inner(each, f"{where}.anyOf", depth) for each in branches]
        if any(left is not right for left, right in zip(new_branches, branches, strict=True)):
            changed["anyOf"] = new_branches
    items = _inner(schema.get("items"), f"{where}.items", depth)
    if items is not schema.get("items"):
        changed["items"] = items
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        _close(schema, where, changed)
    return {**schema, **changed} if changed else schema


def _inner(schema: Any, where: str, depth: int) -> Any:
    return _checked(cast("dict[str, Any]", schema), where, depth + 1) if isinstance(schema, dict) else schema


def _close(schema: dict[str, Any], where: str, changed: dict[str, Any]) -> None:
    if schema.get("additionalProperties", False) is not False:
        raise Untranslatable(f"{where}.additionalProperties", "OpenAI's strict mode has closed objects alone")
    required: Any = schema.get("required") or []
    if optional := next((name for name in mapping(schema.get("properties")) if name not in required), ""):
        raise Untranslatable(f"{where}.required", f"{optional!r} is optional, OpenAI's strict mode requires them all")
    if "additionalProperties" not in schema:
        changed["additionalProperties"] = False
