"""Arguments of simulated tool calls fit the schema that the request gave."""

import pytest

from bursar.sim._draw import Draw
from bursar.sim._schema import fitting

TREE = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}},
    "$ref": "#/$defs/node",
}


def drawn(schema, count: int = 30) -> list:
    return [fitting(schema, Draw(number, "schema")) for number in range(count)]


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 5}, lambda value: value in (3, 4, 5)),
        ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}, lambda value: value == 4),
        ({"type": "integer", "maximum": -10}, lambda value: value <= -10),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, lambda value: value >= 7 and value % 5 == 0),
        ({"type": "number", "minimum": 0, "maximum": 1}, lambda value: 0 <= value <= 1),
        ({"type": "number", "exclusiveMaximum": 0}, lambda value: value < 0),
        ({"type": "string", "minLength": 40, "maxLength": 44}, lambda value: 40 <= len(value) <= 44),
        ({"type": "string", "format": "date"}, lambda value: value == "2026-03-14"),
        ({"enum": ["a", "b"]}, lambda value: value in ("a", "b")),
        ({"const": 7}, lambda value: value == 7),
        ({"type": ["null", "boolean"]}, lambda value: isinstance(value, bool)),
        ({"type": "null"}, lambda value: value is None),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, lambda value: isinstance(value, int)),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 3}, lambda value: len(value) == 3),
        ({"type": "array", "maxItems": 1}, lambda value: len(value) <= 1),
        ({"type": "STRING"}, lambda value: isinstance(value, str)),
        ({"allOf": [{"type": "object"}, {"properties": {"a": {"const": 1}}}]}, lambda value: value == {"a": 1}),
        (True, lambda value: isinstance(value, str)),
    ],
)
def test_values_fit(schema, fits) -> None:
    """Bounds, lengths, enums, formats, unions and Gemini's upper-case types are kept, draw after draw."""
    assert all(fits(value) for value in drawn(schema))


def test_optional_properties_are_left_out_unless_nothing_is_required() -> None:
    """Required properties alone; all of them when none is required."""
    properties = {"a": {"type": "integer"}, "b": {"type": "integer"}}
    assert all(set(value) == {"a"} for value in drawn({"properties": properties, "required": ["a"]}))
    assert all(set(value) == {"a", "b"} for value in drawn({"type": "object", "properties": properties}))


def test_recursion_ends() -> None:
    """A schema that requires itself gives a value of bounded depth."""
    value, depth = fitting(TREE, Draw(1, "tree")), 0
    while value:
        value, depth = value["next"], depth + 1
    assert 1 < depth < 20
