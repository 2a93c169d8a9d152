"""Arguments that fit a JSON Schema, for the tools that the simulated model calls.

Rule 1: what the schema asks for is kept: types, enums, constants, bounds, lengths, formats, required properties.
        ``pattern``, ``not`` and conditionals are not understood; the value then fits the type alone.
Rule 2: optional properties are left out, unless nothing is required: then all are given.
Rule 3: recursion ends at ``_DEPTH_MAX`` with the smallest value of the type.
"""

from __future__ import annotations

from typing import Any, Final, cast

from ._draw import Draw, phrase

__all__ = ["fitting"]

_DEPTH_MAX: Final = 8
_FORMATS: Final = {
    "date": "2026-03-14",
    "date-time": "2026-03-14T09:26:53Z",
    "time": "09:26:53Z",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/a",
    "uuid": "1b4e28ba-2fa1-41d2-883f-0016d3cca427",
}


def fitting(schema: Any, draw: Draw) -> Any:
    """A value that fits ``schema`` (JSON Schema, or Gemini's dialect of it with upper-case types)."""
    return _value(schema, schema, draw, 0)


def _value(schema: Any, root: Any, draw: Draw, depth: int) -> Any:
    if not isinstance(schema, dict):
        return phrase(draw, 1)
    rules = _resolved(cast("dict[str, Any]", schema), root)
    if "const" in rules:
        return rules["const"]
    if isinstance(rules.get("enum"), list) and rules["enum"]:
        return rules["enum"][draw.between(0, len(rules["enum"]) - 1)]
    for choice in ("anyOf", "oneOf"):
        if isinstance(rules.get(choice), list) and rules[choice]:
            return _value(rules[choice][0], root, draw, depth + 1) if depth < _DEPTH_MAX else None
    match _type(rules):
        case "object":
            return _object(rules, root, draw, depth)
        case "array":
            fewest = int(rules.get("minItems", 0))
            count = max(fewest, min(2, int(rules.get("maxItems", 2)))) if depth < _DEPTH_MAX else fewest
            return [_value(rules.get("items", {"type": "string"}), root, draw, depth + 1) for _ in range(count)]
        case "integer":
            return _integer(rules, draw)
        case "number":
            return _number(rules, draw)
        case "boolean":
            return draw.bits() % 2 == 1
        case "null":
            return None
        case _:
            return _string(rules, draw)


def _resolved(rules: dict[str, Any], root: Any) -> dict[str, Any]:
    for _ in range(_DEPTH_MAX):
        reference = rules.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        target: Any = root
        for part in reference.lstrip("#").strip("/").split("/"):
            if part and isinstance(target, dict):
                target = cast("dict[str, Any]", target).get(part)
        rules = cast("dict[str, Any]", target) if isinstance(target, dict) else {}
    merged = rules
    for part in cast("list[Any]", rules.get("allOf") or []):
        if isinstance(part, dict):
            merged = {**merged, **_resolved(cast("dict[str, Any]", part), root)}
    return merged


def _type(rules: dict[str, Any]) -> str:
    named = rules.get("type")
    if isinstance(named, list):
        named = next((name for name in cast("list[Any]", named) if name != "null"), "null")
    if isinstance(named, str):
        return named.lower()
    if "properties" in rules:
        return "object"
    return "array" if "items" in rules else "string"


def _object(rules: dict[str, Any], root: Any, draw: Draw, depth: int) -> dict[str, Any]:
    properties = cast("dict[str, Any]", rules.get("properties") or {})
    required = cast("list[str]", rules.get("required") or [])
    if depth >= _DEPTH_MAX:
        required = []
    names = required or ([] if depth >= _DEPTH_MAX else list(properties))
    return {name: _value(properties.get(name, {}), root, draw, depth + 1) for name in names}


def _integer(rules: dict[str, Any], draw: Draw) -> int:
    lowest = rules.get("minimum", rules.get("exclusiveMinimum"))
    highest = rules.get("maximum", rules.get("exclusiveMaximum"))
    low = int(lowest) + ("minimum" not in rules) if lowest is not None else min(1, int(highest or 1) - 1)
    high = int(highest) - ("maximum" not in rules) if highest is not None else low + 99
    step = int(rules.get("multipleOf") or 1)
    number = draw.between(low, max(low, high))
    return max(number - number % step, -(-low // step) * step)


def _number(rules: dict[str, Any], draw: Draw) -> float:
    lowest = rules.get("minimum", rules.get("exclusiveMinimum"))
    highest = rules.get("maximum", rules.get("exclusiveMaximum"))
    low = float(lowest) if lowest is not None else min(0.0, float(highest or 0) - 1)
    high = float(highest) if highest is not None else low + 100
    return low + (high - low) * draw.between(1, 99) / 100


def _string(rules: dict[str, Any], draw: Draw) -> str:
    text = _FORMATS.get(rules.get("format", ""), "") or phrase(draw, draw.between(1, 3))
    shortest, longest = int(rules.get("minLength") or 0), rules.get("maxLength")
    while len(text) < shortest:
        text += " " + phrase(draw, 1)
    return text[: int(longest)] if longest is not None else text
