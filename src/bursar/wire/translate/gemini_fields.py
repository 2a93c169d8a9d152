"""The members of a Gemini request, taken out one by one, so that what nobody took is seen.

Rule 1: every field may be spelled in camelCase or snake_case (JSON mapping of protocol buffers); here they have one name.
Rule 2: what is null, false, "" or [] says nothing: it is what the API takes for a field that is not there.
Rule 3: a member of the wrong type is ``BadRequest``; one that is left is ``Untranslatable``, with a reason where it is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from bursar.wire.dialect import BadRequest

from .conversation import Untranslatable

__all__ = ["Fields"]

_UNKNOWN: Final = "this field is not known here: nobody can say whether it may be left out"


@lru_cache(maxsize=512)
def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest) if head else name


class Fields:
    """One JSON object of a request at the JSON path ``path``. Raises BadRequest where the value is no object."""

    __slots__ = ("_left", "_names", "path")

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise BadRequest(path, "expected an object")
        self.path = path
        said = cast("dict[str, Any]", value)
        self._names = {_camel(name): name for name in said}
        self._left = {_camel(name): item for name, item in said.items()}

    def at(self, name: str) -> str:
        """The JSON path of a member, as the client spelled it."""
        spelled = self._names.get(name, name)
        return f"{self.path}.{spelled}" if self.path else spelled

    def take(self, name: str) -> Any:
        """The member, None where there is none."""
        return self._left.pop(name, None)

    def given(self, name: str) -> bool:
        """Whether the member is there and has not been taken."""
        return self._left.get(name) is not None

    def text(self, name: str) -> str:
        value = self.take(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise BadRequest(self.at(name), "expected a string")
        return value

    def word(self, name: str) -> str:
        """The value of an enumeration, in upper case; "" where it is not said. The API takes any case."""
        value = self.text(name).upper()
        return "" if value.endswith("_UNSPECIFIED") else value

    def number(self, name: str) -> float | None:
        value = self.take(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadRequest(self.at(name), "expected a number")
        return value

    def integer(self, name: str) -> int | None:
        """A whole number; the SDKs write some as floats, and the JSON mapping allows them as strings."""
        value = self.take(name)
        if isinstance(value, str) and value.lstrip("-").isdecimal():
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise BadRequest(self.at(name), "expected a whole number")
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise BadRequest(self.at(name), "expected true or false")
        return bool(value)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[Any]", value)):
            raise BadRequest(self.at(name), "expected a list of strings")
        return tuple(cast("list[str]", value))

    def object(self, name: str) -> Fields | None:
        value = self.take(name)
        return None if value is None else Fields(value, self.at(name))

    def objects(self, name: str) -> Iterator[Fields]:
        """The objects of a list; the API takes a single one as a list of one."""
        value = self.take(name)
        if isinstance(value, dict):
            yield Fields(value, self.at(name))
            return
        if value is not None and not isinstance(value, list):
            raise BadRequest(self.at(name), "expected a list of objects")
        for number, item in enumerate(cast("list[Any]", value or [])):
            yield Fields(item, f"{self.at(name)}[{number}]")

    def leave_out(self, *names: str) -> None:
        """Members that may be left out."""
        for name in names:
            self._left.pop(name, None)

    def end(self, reasons: Mapping[str, str], otherwise: str = _UNKNOWN) -> None:
        """Nothing may be left that says something. Raises Untranslatable with its reason."""
        for name, value in self._left.items():
            if value is None or value is False or value in ("", []):
                continue
            raise Untranslatable(self.at(name), reasons.get(name, otherwise))
