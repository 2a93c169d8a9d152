"""What two calls have in common: values, functions and results as bytes that are equal when they are.

Rule 1: nothing that differs is equal: 1 is not True, nor "1", nor 1.0; a list is no tuple.
Rule 2: what cannot be compared says so, with the way out. Nothing is guessed from how it is printed, but where a printed value
        says all that it is.
Rule 3: equal in one process is equal in every other one of the same Python version.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from hashlib import blake2b
from types import CodeType, FunctionType, MappingProxyType
from typing import Any, Final, cast

import msgspec

__all__ = ["as_json", "canonical", "code_digest", "place_of"]

_RESULT_BYTES_MAX: Final = 4_000_000
_BY_REPR: Final = frozenset({"datetime", "decimal", "fractions", "pathlib", "uuid", "zoneinfo"})
"""Modules whose values say all that they are when they are printed."""


def canonical(value: Any, what: str, way_out: str) -> Any:
    """The value as JSON in which nothing that differs is equal. Raises TypeError."""
    kind = _kind(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value

    def inside(each: Any) -> Any:
        return canonical(each, what, way_out)

    if kind in (list, tuple):
        return [kind.__name__, [inside(each) for each in value]]
    if kind in (dict, MappingProxyType) and all(type(key) is str for key in value):
        return ["dict", {key: inside(each) for key, each in value.items()}]
    if kind in (set, frozenset):
        return [kind.__name__, sorted((inside(each) for each in value), key=repr)]
    if kind in (bytes, bytearray) or (kind.__module__.partition(".")[0] in _BY_REPR):
        return [kind.__name__, repr(value)]
    if isinstance(value, enum.Enum):
        return [*place_of(kind), value.name]
    if isinstance(value, type) or (isinstance(value, FunctionType) and not value.__closure__):
        return [*place_of(value), code_digest(getattr(value, "__code__", None))]
    fields = _fields(value, kind)
    if fields is not None:
        return [*place_of(kind), {name: inside(each) for name, each in fields.items()}]
    raise TypeError(f"{what} ({kind.__qualname__}) cannot be compared: {way_out}")


def _kind(value: object) -> Any:
    return type(value)


def _fields(value: Any, kind: type[Any]) -> dict[str, Any] | None:
    """What a record is made of, None where it is none."""
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if hasattr(kind, "model_fields"):  # pydantic's
        return {name: getattr(value, name) for name in kind.model_fields}
    return None


def place_of(value: Any) -> tuple[str, str]:
    return getattr(value, "__module__", None) or "", getattr(value, "__qualname__", None) or ""


def code_digest(code: CodeType | None) -> str:
    """Equal for code that does the same, in every process of one Python version."""
    digest = blake2b(digest_size=16)
    _feed(digest.update, code)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], object], part: Any) -> None:
    if isinstance(part, CodeType):
        update(part.co_code)
        for each in (part.co_names, part.co_consts):
            _feed(update, each)
    elif isinstance(part, tuple):
        for each in cast("tuple[Any, ...]", part):
            _feed(update, each)
    elif isinstance(part, frozenset):  # its order is another one in each process
        update(repr(sorted(map(repr, cast("frozenset[Any]", part)))).encode(errors="backslashreplace"))
    else:
        update(f"{type(part).__name__} {part!r};".encode(errors="backslashreplace"))


def as_json(result: Any) -> bytes | None:
    """The result as it is kept, None where it would not come back as it is."""
    try:
        data = msgspec.json.encode(result) if _is_plain(result) else None
        back = None if data is None or len(data) > _RESULT_BYTES_MAX else msgspec.json.decode(data)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return data if _is_same(result, back) else None


def _is_plain(value: Any) -> bool:
    kind = _kind(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return True
    if kind is list:
        return all(map(_is_plain, value))
    return kind is dict and all(type(key) is str and _is_plain(each) for key, each in value.items())


def _is_same(value: Any, other: Any) -> bool:
    kind = _kind(value)
    if kind is not _kind(other):
        return False
    if kind is list:
        return len(value) == len(other) and all(map(_is_same, value, other))
    if kind is dict:
        return list(value) == list(other) and all(map(_is_same, value.values(), other.values()))
    return value == other
