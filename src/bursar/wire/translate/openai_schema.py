"""Schemas that OpenAI holds an answer or a tool's arguments to (``strict``).

Rule 1: an object is closed. Where a schema leaves it open without saying so, it is closed here; every answer to the closed one
        is an answer to the open one.
Rule 2: every property is required. A schema with optional ones is refused: OpenAI has no word for a property that may be
        absent, and one that may be null gets other answers.
Rule 3: so are the words that the strict mode does not know, and a list of which nothing is said. (OpenAI, structured outputs:
        supported schemas; error messages of the API)
Rule 4: and so is what is no schema, such as the ``required: true`` of JSON Schema's third draft.
Rule 5: where nobody asked for the strict mode, but the client's own API would hold an answer to its schema, it is used for what
        its documentation names: another word, which it may refuse, is no reason to have no answer (``held_schema``).
"""

from __future__ import annotations

from typing import Any, Final, cast

from .conversation import Untranslatable

__all__ = ["held_schema", "strict_schema"]

_UNKNOWN: Final = (
    "allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties",
    "propertyNames", "unevaluatedProperties", "unevaluatedItems", "default", "minLength", "maxLength", "uniqueItems",
    "prefixItems", "contains", "minContains", "maxContains", "minProperties", "maxProperties",
)  # fmt: skip
_DEPTH_MAX: Final = 64
_DOCUMENTED: Final = frozenset(
    {
        "type", "title", "description", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const",
        "$ref", "$defs", "definitions", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum",
        "exclusiveMaximum", "minItems", "maxItems",
    }
)  # fmt: skip
_FORMATS: Final = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")


def strict_schema(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The schema as OpenAI's strict mode takes it: the same object where nothing changes. Raises Untranslatable."""
    if schema.get("type") != "object" or "anyOf" in schema:
        raise Untranslatable(where, "OpenAI's strict mode takes one object, and no choice, at the top of a schema")
    return _checked(schema, where, 0)


def held_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema as the strict mode is known to take it, None where it may not."""
    try:
        strict = strict_schema(schema, "")
    except Untranslatable:
        return None
    return strict if _is_documented(strict) else None


def _is_documented(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    said = cast("dict[str, Any]", schema)
    if not said.keys() <= _DOCUMENTED or not said.keys() & {"type", "anyOf", "$ref"}:
        return False
    if said.get("format", _FORMATS[0]) not in _FORMATS:
        return False
    named = [each for key in ("properties", "$defs", "definitions") for each in _object(said, key, "").values()]
    inner = [*named, *_list(said, "anyOf", ""), *([said["items"]] if "items" in said else ())]
    return all(map(_is_documented, inner))


def _checked(schema: dict[str, Any], where: str, depth: int) -> dict[str, Any]:
    if depth > _DEPTH_MAX:
        raise Untranslatable(where, "the schema is too deep")
    if unknown := next((key for key in _UNKNOWN if key in schema), ""):
        raise Untranslatable(f"{where}.{unknown}", "OpenAI's strict mode does not know it")
    changed: dict[str, Any] = {}
    for key in ("properties", "$defs", "definitions"):
        inner = _object(schema, key, where)
        new = {name: _inner(each, f"{where}.{key}.{name}", depth) for name, each in inner.items()}
        if any(new[name] is not inner[name] for name in inner):
            changed[key] = new
    if branches := _list(schema, "anyOf", where):
        new_branches = [_inner(each, f"{where}.anyOf", depth) for each in branches]
        if any(left is not right for left, right in zip(new_branches, branches, strict=True)):
            changed["anyOf"] = new_branches
    items = _inner(schema.get("items"), f"{where}.items", depth)
    if items is not schema.get("items"):
        changed["items"] = items
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        _close(schema, where, changed)
    if (kind == "array" or (isinstance(kind, list) and "array" in kind)) and not isinstance(schema.get("items"), dict):
        raise Untranslatable(f"{where}.items", "OpenAI's strict mode wants to know what is in a list")
    return {**schema, **changed} if changed else schema


def _inner(schema: Any, where: str, depth: int) -> Any:
    return _checked(cast("dict[str, Any]", schema), where, depth + 1) if isinstance(schema, dict) else schema


def _object(schema: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    said = schema.get(key)
    if said is not None and not isinstance(said, dict):
        raise Untranslatable(f"{where}.{key}", "is no object")
    return cast("dict[str, Any]", said or {})


def _list(schema: dict[str, Any], key: str, where: str) -> list[Any]:
    said = schema.get(key)
    if said is not None and not isinstance(said, list):
        raise Untranslatable(f"{where}.{key}", "is no list")
    return cast("list[Any]", said or [])


def _close(schema: dict[str, Any], where: str, changed: dict[str, Any]) -> None:
    if schema.get("additionalProperties", False) is not False:
        raise Untranslatable(f"{where}.additionalProperties", "OpenAI's strict mode has closed objects alone")
    required = _list(schema, "required", where)
    if optional := next((name for name in _object(schema, "properties", where) if name not in required), ""):
        raise Untranslatable(f"{where}.required", f"{optional!r} is optional, OpenAI's strict mode requires them all")
    if "additionalProperties" not in schema:
        changed["additionalProperties"] = False
