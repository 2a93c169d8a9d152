"""What two calls have in common: values, functions and results as bytes that are equal when they are.

Rule 1: nothing that differs is equal: 1 is not True, nor "1", nor 1.0; a list is no tuple. A record is all that it has, not only
        its fields, and a function what it holds, too.
Rule 2: what cannot be compared says so, with the way out. Nothing is guessed from how it is printed, but where a printed value
        says all that it is.
Rule 3: equal in one process is equal in every other one of the same Python version. So a class is known by its name only where
        it is found under it, and a function by its module only where it looks its names up there.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import struct
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Final, cast

import msgspec

__all__ = ["as_json", "canonical", "code_digest", "held", "identity_of", "layers_of"]

_RESULT_BYTES_MAX: Final = 4_000_000
_PRINTED: Final = frozenset(
    {
        *("datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone"),
        *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "zoneinfo.ZoneInfo"),
        *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath"),
    }
)
"""Types whose values say all that they are when they are printed, under the package that they come from."""
_POINTER_BYTES: Final = struct.calcsize("P")
_PASSED_ON: Final = (staticmethod, type(functools.lru_cache(len)))
"""Callables that hold nothing but what they wrap."""


def canonical(value: Any, what: str, way_out: str, *, known: Sequence[object] = ()) -> Any:
    """The value as JSON in which nothing that differs is equal; what is ``known`` is its number. Raises TypeError."""
    kind = _kind(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value

    def inside(each: Any) -> Any:
        return canonical(each, what, way_out, known=known)

    for number, each in enumerate(known):
        if value is each:
            return ["known", number]
    if kind in (list, tuple):
        return [kind.__name__, [inside(each) for each in value]]
    if kind is dict and all(type(key) is str for key in value):
        return ["dict", {key: inside(each) for key, each in value.items()}]
    if kind in (set, frozenset):
        return [kind.__name__, sorted((inside(each) for each in value), key=repr)]
    if kind in (bytes, bytearray) or _is_printed(value):
        return [kind.__name__, repr(value)]
    made = _made_of(value, _kind(value), inside)
    if isinstance(made, str):
        raise TypeError(f"{what} ({kind.__qualname__}) cannot be compared{made}: {way_out}")
    return made


def _made_of(value: Any, kind: type[Any], inside: Callable[[Any], Any]) -> list[Any] | str:
    """A function, a class, or an object of one; or why it is not to be compared."""
    if kind is FunctionType:
        return _why_apart(value) or ["function", *identity_of(value), inside(held(value) | _said_of(value))]
    if why := _why_unknown(value if issubclass(kind, type) else kind):
        return why
    if issubclass(kind, enum.Enum):
        return ["enum", *_place_of(kind), value.name, inside(value.value)]
    if issubclass(kind, type):
        return ["class", *_place_of(value)]
    fields = _fields(kind)
    if fields is None:
        return ""
    return _why_more(kind) or ["record", *_place_of(kind), inside(_having(value, kind, fields))]


def _kind(value: object) -> Any:
    """What it is, also where it says that it is something else, as proxies do."""
    return type(value)


def _is_printed(value: Any) -> bool:
    kind = _kind(value)
    if f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}" not in _PRINTED:
        return False
    zone = getattr(value, "tzinfo", None)
    is_file = getattr(value, "key", "") is None  # a zone that was read from a file, and prints as that
    return not is_file and (zone is None or _is_printed(zone))


# --- records ----------------------------------------------------------------------------------------------------


def _why_unknown(kind: Any) -> str:
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return "" if found is kind else ", as its class is not found under its name"


def _why_more(kind: type[Any]) -> str:
    """Why an object may be more than its attributes, as a list is: its memory is more than they need."""
    pointers = len(_slots(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    is_more = kind.__itemsize__ or kind.__basicsize__ > object.__basicsize__ + pointers * _POINTER_BYTES
    return ", as it is more than its attributes" if is_more else ""


def _fields(kind: type[Any]) -> Sequence[str] | None:
    """The fields of a record, None where it is none."""
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    return list(kind.model_fields) if hasattr(kind, "model_fields") else None  # pydantic's


def _having(value: Any, kind: type[Any], fields: Sequence[str]) -> dict[str, Any]:
    """All attributes of an object: also those that are no fields, as what pydantic takes in beyond them."""
    found = dict(getattr(value, "__dict__", {}))
    for number, (name, slot) in enumerate(_slots(kind)):
        with suppress(AttributeError):  # nothing is in it
            found[f"{number} {name}" if name in found else name] = slot.__get__(value, kind)
    return {name: getattr(value, name) for name in fields if name not in found} | found


def _slots(kind: type[Any]) -> list[tuple[str, MemberDescriptorType]]:
    return [
        (name, each)
        for base in kind.__mro__
        for name, each in vars(base).items()
        if isinstance(each, MemberDescriptorType)
    ]


def _place_of(value: Any) -> tuple[str, str]:
    return getattr(value, "__module__", None) or "", getattr(value, "__qualname__", None) or ""


# --- functions --------------------------------------------------------------------------------------------------


def layers_of(function: Any) -> list[Any]:
    """What a call goes through, the outermost first: wrappers and what they wrap, a method's or a partial's function."""
    found: list[Any] = []
    ahead = [function]
    while ahead:
        layer = ahead.pop()
        if any(layer is each for each in found):
            continue
        found.append(layer)
        kind = _kind(layer)
        if kind is MethodType:  # it has the attributes of its function, too
            ahead.append(layer.__func__)
            continue
        if kind is functools.partial:
            ahead.append(layer.func)
        if hasattr(layer, "__wrapped__"):
            ahead.append(layer.__wrapped__)
        called = getattr(kind, "__call__", None)  # noqa: B004 - what an object of the class runs
        if isinstance(called, FunctionType):
            ahead.append(called)
    return found


def identity_of(layer: Any) -> list[str]:
    """Where it is, and its code. ``functools.wraps`` changes what a function says of its place, not where it looks names up."""
    place = _place_of(layer if hasattr(layer, "__qualname__") else _kind(layer))
    if _kind(layer) is not FunctionType:
        return [*place, "", ""]
    return [*place, layer.__globals__.get("__name__", ""), code_digest(layer.__code__)]


def held(layer: Any, *, without: Collection[str] = ()) -> Any:
    """What one layer has in hand besides its code, to be compared; the defaults of some arguments are left out. Itself where it
    can only be compared as a whole."""
    kind = _kind(layer)
    if kind is FunctionType and not _is_elsewhere(layer):
        return _held_by_function(layer, without)
    if kind in (MethodType, BuiltinFunctionType):
        return [] if layer.__self__ is None or isinstance(layer.__self__, ModuleType) else [layer.__self__]
    if kind is functools.partial:
        return [layer.args, layer.keywords]
    return [] if kind in _PASSED_ON else layer


def _held_by_function(function: FunctionType, without: Collection[str]) -> dict[str, Any]:
    code = function.__code__
    cells: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is filled later, or never
            cells[name] = cell.cell_contents
    names = code.co_varnames[: code.co_argcount]
    defaults = dict(zip(reversed(names), reversed(function.__defaults__ or ()), strict=False))
    defaults |= function.__kwdefaults__ or {}
    kept = {name: value for name, value in defaults.items() if name not in without}
    return {"cells": cells, "defaults": kept, "attributes": vars(function)}


def _is_elsewhere(function: FunctionType) -> bool:
    """Whether it looks names up in another place than the module of that name, as what ``exec`` makes does."""
    module = sys.modules.get(function.__globals__.get("__name__", ""))
    return module is None or vars(module) is not function.__globals__


def _why_apart(function: FunctionType) -> str:
    """Why a function that is handed over may be more than its code and what it holds."""
    if _is_elsewhere(function):
        return ", as its names are not those of a module"
    return ", as it holds variables of another function" if function.__closure__ else ""


def _said_of(function: FunctionType) -> dict[str, Any]:
    """What those may look at who are given the function. Where it is found under its name, its annotations are as written."""
    notes = function.__annotations__ if _why_unknown(function) else {}
    return {"name": function.__name__, "doc": function.__doc__, "annotations": notes}


def code_digest(code: CodeType) -> str:
    """Equal for code that does the same, in every process of one Python version."""
    digest = blake2b(digest_size=16)
    _feed(digest.update, code)
    return digest.hexdigest()


def _feed(update: Callable[[bytes], object], part: Any) -> None:
    if isinstance(part, CodeType):
        counts = (part.co_argcount, part.co_posonlyargcount, part.co_kwonlyargcount, part.co_flags)
        names = (part.co_name, part.co_qualname, part.co_names, part.co_varnames, part.co_cellvars, part.co_freevars)
        _feed(update, (part.co_code, part.co_exceptiontable, counts, names, part.co_consts))
    elif isinstance(part, tuple):
        each_of = cast("tuple[Any, ...]", part)
        update(f"tuple {len(each_of)};".encode())
        for each in each_of:
            _feed(update, each)
    elif isinstance(part, frozenset):  # its order is another one in each process
        update(repr(sorted(map(repr, cast("frozenset[Any]", part)))).encode(errors="backslashreplace"))
    else:
        update(f"{type(part).__name__} {part!r};".encode(errors="backslashreplace"))


# --- results ----------------------------------------------------------------------------------------------------


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
