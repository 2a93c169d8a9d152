"""Which calls of a cached tool are the same: what differs in anything that a result may depend on is not, or is not cached."""

from __future__ import annotations

import dataclasses
import enum
import functools
import io
import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import FunctionType
from typing import Any, cast
from zoneinfo import ZoneInfo

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr
from sdk_room import Room

import bursar
from bursar.doors.sdk.comparable import canonical, code_digest


def search(query: str, lang: str = "en") -> str:
    return f"{lang}:{query}"


# --- what is wrapped around a function --------------------------------------------------------------------------


def placed(region: str) -> Callable[[Any], Any]:
    """A decorator whose functions differ in what they capture alone."""

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return f"{region}:{function(*args, **kwargs)}"

        return inner

    return decorate


def by_default(region: str) -> Any:
    @functools.wraps(search)
    def inner(query: str, lang: str = "en", *, _region: str = region) -> str:
        return f"{_region}:{search(query, lang)}"

    return inner


def by_attribute(region: str) -> Any:
    @functools.wraps(search)
    def inner(query: str) -> str:
        return f"{cast('Any', inner).region}:{search(query)}"

    cast("Any", inner).region = region
    return inner


def by_update(region: str) -> Any:
    return functools.update_wrapper(functools.partial(search, lang=region), search)


def by_exec(region: str) -> Any:
    space: dict[str, Any] = {"__name__": __name__, "REGION": region}
    exec("def look(query): return f'{REGION}:{query}'", space)
    return space["look"]


def by_wrapper_elsewhere(region: str) -> Any:
    space: dict[str, Any] = {"__name__": f"plugin_{region}", "REGION": region, "wraps": functools.wraps}
    exec(
        "def made(f):\n @wraps(f)\n def inner(query): return f'{REGION}:{f(query)}'\n return inner",
        space,
    )
    return space["made"](search)


class Plain:
    def __init__(self, region: str) -> None:
        self.region = region

    def __call__(self, query: str) -> str:
        return f"{self.region}:{query}"

    @placed("x")
    def wrapped(self, query: str) -> str:
        return f"{self.region}:{query}"


@dataclasses.dataclass
class Recorded:
    region: str

    def __call__(self, query: str) -> str:
        return f"{self.region}:{query}"


class Partial(functools.partial[Any]):
    region = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return f"{self.region}:{super().__call__(*args, **kwargs)}"


def by_subclass(region: str) -> Any:
    made = Partial(search)
    made.region = region
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda region: placed(region)(search),
        lambda region: placed("x")(placed(region)(search)),
        lambda region: functools.lru_cache(placed(region)(search)),
        by_default,
        by_attribute,
        by_update,
        by_exec,
        by_wrapper_elsewhere,
        by_subclass,
        Plain,
        Recorded,
        lambda region: Plain(region).wrapped,
        lambda region: re.compile(region).fullmatch,
    ],
)
def test_functions_that_differ_do_not_meet(room: Room, make: Callable[[str], Any]) -> None:
    """Wherever the difference is kept: in a closure, a default, an attribute, an object, or the module it looks into."""
    eu, us = (bursar.tool(name="look", cache="10m")(make(region)) for region in ("eu", "us"))
    first = [str(eu("eu")), str(us("eu"))]
    assert first[0] != first[1]
    assert [str(eu("eu")), str(us("eu"))] == first


@pytest.mark.parametrize(
    "make",
    [
        lambda: placed("eu")(search),
        lambda: placed("eu")(placed("us")(search)),
        lambda: functools.lru_cache(placed("eu")(search)),
        lambda: by_default("eu"),
        lambda: by_attribute("eu"),
        lambda: by_update("eu"),
        lambda: Recorded("eu"),
        lambda: functools.partial(placed("eu")(search), lang="de"),
        lambda: staticmethod(search),
    ],
)
def test_what_is_made_anew_in_the_same_way_is_the_same(room: Room, make: Callable[[], Any]) -> None:
    """So that what one process kept is found by the next."""
    for _ in range(2):
        assert bursar.tool(name="look", cache="10m")(make())("x")
    assert [row.cache for row in room.rows()] == ["miss", "tool"]


def test_an_object_is_cached_with_a_version(room: Room, caplog: Any) -> None:
    """Without one the log says once what cannot be compared, and the way out."""
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert bursar.tool(name="look", cache="10m")(Plain("eu"))("x") == "eu:x"
    assert len(caplog.records) == 1
    assert "what it captured (Plain) cannot be compared: give the tool a version=" in caplog.text
    for _ in range(2):
        assert bursar.tool(name="look", cache="10m", version="eu")(Plain("eu"))("x") == "eu:x"
    assert [row.cache for row in room.rows()] == ["", "", "", "miss", "tool"]


def test_the_code_of_every_layer_counts(room: Room) -> None:
    """Also with a version, which answers for what is captured only."""

    def shout(function: Any) -> Any:
        @functools.wraps(function)
        def inner(query: str) -> str:
            return cast("str", function(query)).upper()

        return inner

    def whisper(function: Any) -> Any:
        @functools.wraps(function)
        def inner(query: str) -> str:
            return cast("str", function(query)).lower()

        return inner

    loud, quiet = (bursar.tool(name="look", cache="10m", version="1")(each(search)) for each in (shout, whisper))
    assert [loud("x"), quiet("x"), loud("x")] == ["EN:X", "en:x", "EN:X"]


def test_a_wrapper_may_have_other_defaults_than_it_shows(room: Room) -> None:
    """What it was given counts, not what its signature adds; an argument that is ignored has a default that is."""

    def made(connection: object) -> Any:
        @functools.wraps(search)
        def inner(query: str, lang: str = "fr", conn: object = connection) -> str:
            return search(query, lang) if conn else ""

        inner.__wrapped__ = shown  # type: ignore[attr-defined]
        return bursar.tool(name="look", cache="10m", ignore=["conn"])(inner)

    def shown(query: str, lang: str = "en", conn: object = None) -> str: ...

    for _ in range(2):
        look = made(object())
        assert [look("x"), look("x", "en"), look("x", lang="fr")] == ["fr:x", "en:x", "fr:x"]
    assert [row.cache for row in room.rows()] == ["miss"] * 3 + ["tool"] * 3


def test_variables_that_are_empty_keep_their_place(room: Room) -> None:
    """One that is filled and one that is not are told apart by name."""

    def made(first: bool) -> Any:
        if first:
            one = "eu"
        else:
            other = "eu"

        def look() -> list[str]:
            found = []
            with suppress(NameError):
                found.append(f"one {one}")
            with suppress(NameError):
                found.append(f"other {other}")
            return found

        return bursar.tool(cache="10m")(look)

    assert [made(True)(), made(False)()] == [["one eu"], ["other eu"]]


# --- arguments --------------------------------------------------------------------------------------------------


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    query: str = "x"
    _region: str = PrivateAttr(default="")

    def at(self, region: str) -> Open:
        self._region = region
        return self


@dataclasses.dataclass
class Initialized:
    query: str
    region: dataclasses.InitVar[str]

    def __post_init__(self, region: str) -> None:
        self._region = region


@dataclasses.dataclass
class Slotted:
    __slots__ = ("__hidden", "query")
    query: str

    def at(self, region: str) -> Slotted:
        self.__hidden = region
        return self


class Loose(msgspec.Struct, dict=True):
    query: str

    def at(self, region: str) -> Loose:
        self.__dict__["region"] = region
        return self


@dataclasses.dataclass
class Items(list[int]):
    name: str = "n"


@dataclasses.dataclass
class Table(dict[str, int]):
    name: str = "n"


@dataclasses.dataclass
class Failed(Exception):  # noqa: N818 - what it is called does not matter
    name: str = "n"


class Bits(enum.IntFlag):
    ONE = 1


class Zone(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(0)

    def __repr__(self) -> str:
        return "Zone()"


def filled(made: Any, *values: Any) -> Any:
    made.extend(values) if isinstance(made, list) else made.update(values)
    return made


def with_default(region: str) -> Any:
    return lambda x, region=region: f"{region}{x}"


def with_keyword(region: str) -> Any:
    return lambda x, *, region=region: f"{region}{x}"


def with_attribute(region: str) -> Any:
    def found(x: str) -> str:
        return x

    cast("Any", found).region = region
    return found


def with_note(region: Any) -> Any:
    def found(x):  # type: ignore[no-untyped-def]
        return x

    found.__annotations__ = {"x": region}
    return found


def with_doc(region: str) -> Any:
    def found(x: str) -> str:
        return x

    found.__doc__ = region
    return found


def local(region: str) -> type[Any]:
    @dataclasses.dataclass
    class Local:
        query: str = "x"

        def at(self) -> str:
            return region

    return Local


class Posing:
    """Says that it is a function, as proxies do."""

    __closure__ = None
    __qualname__ = "posing"  # type: ignore[assignment]

    def __init__(self, region: str) -> None:
        self.region = region

    @property
    def __class__(self) -> type[Any]:  # type: ignore[override]
        return FunctionType

    def __call__(self) -> str:
        return self.region


PAIRS: dict[str, tuple[Any, Any]] = {
    "pydantic extra": (Open(lang="de"), Open(lang="fr")),  # type: ignore[call-arg]
    "pydantic private": (Open().at("eu"), Open().at("us")),
    "pydantic what was set": (Open(), Open(query="x")),
    "dataclass beyond its fields": (Initialized("x", "eu"), Initialized("x", "us")),
    "dataclass with hidden slots": (Slotted("x").at("eu"), Slotted("x").at("us")),
    "struct with a dict": (Loose("x").at("eu"), Loose("x").at("us")),
    "dataclass that is a list": (filled(Items(), 1), filled(Items(), 1, 2)),
    "dataclass that is a dict": (filled(Table(), ("a", 1)), filled(Table(), ("a", 2))),
    "dataclass that is an error": (Failed("n"), Failed.__new__(Failed, "other")),
    "class that was made twice": (local("eu"), local("us")),
    "object of a class that was made twice": (local("eu")(), local("us")()),
    "bits without a name": (Bits(8), Bits(16)),
    "default": (with_default("eu"), with_default("us")),
    "keyword default": (with_keyword("eu"), with_keyword("us")),
    "attribute": (with_attribute("eu"), with_attribute("us")),
    "annotation": (with_note(int), with_note(str)),
    "doc": (with_doc("eu"), with_doc("us")),
    "names of arguments": (lambda a, b: a - b, lambda b, a: b - a),
    "other names elsewhere": (by_exec("eu"), by_exec("us")),
    "proxy": (Posing("eu"), Posing("us")),
    "parents": (Path("a/b").parents, Path("c/d").parents),
    "zone": (datetime(2026, 1, 1, tzinfo=Zone()), datetime(2026, 1, 1, tzinfo=Zone())),
}


def form(value: Any) -> str:
    return json.dumps(canonical(value, "it", "no way"), sort_keys=True)


@pytest.mark.parametrize("name", PAIRS)
def test_values_that_differ_have_no_form_in_common(name: str) -> None:
    """They have other ones, or one of them cannot be compared."""
    one, other = PAIRS[name]
    try:
        assert form(one) != form(other)
    except TypeError as error:
        assert "cannot be compared" in str(error)  # noqa: PT017 - both ways are right


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dataclass that is a list", "more than its attributes"),
        ("dataclass that is an error", "more than its attributes"),
        ("object of a class that was made twice", "class is not found under its name"),
        ("other names elsewhere", "names are not those of a module"),
    ],
)
def test_what_cannot_be_compared_says_why(name: str, reason: str) -> None:
    """With its type and the way out."""
    with pytest.raises(TypeError, match=f"it .* cannot be compared, as .*{reason}: no way"):
        form(PAIRS[name][0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Open(lang="de"),  # type: ignore[call-arg]
        lambda: Initialized("x", "eu"),
        lambda: Slotted("x").at("eu"),
        lambda: Loose("x").at("eu"),
        lambda: Bits(8),
        lambda: with_default("eu"),
        lambda: with_note(int),
        lambda: search,
        lambda: datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
        lambda: datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        lambda: Path("a/b"),
        lambda: Open,
    ],
)
def test_values_that_are_made_in_the_same_way_have_one_form(make: Callable[[], Any]) -> None:
    """Whatever of them is counted."""
    assert form(make()) == form(make())


def test_a_zone_that_was_read_from_a_file_is_not_compared() -> None:
    """It prints as the file object that it came from."""
    source = next(
        (each for each in map(Path, ("/usr/share/zoneinfo/UTC", "/usr/share/zoneinfo/Etc/UTC")) if each.exists()), None
    )
    if source is None:
        pytest.skip("this machine has no time zone files")
    with pytest.raises(TypeError, match="cannot be compared"):
        form(ZoneInfo.from_file(io.BytesIO(source.read_bytes())))


def test_code_is_known_by_all_of_it() -> None:
    """Also by what is caught where, by the names of arguments, and by how constants are nested."""
    code = search.__code__
    others = [
        code.replace(co_exceptiontable=b"\x01\x02\x03\x04"),
        code.replace(co_varnames=("lang", "query")),
        code.replace(co_posonlyargcount=1),
        code.replace(co_consts=(*code.co_consts, ("a", "b"))),
        code.replace(co_consts=(*code.co_consts, "a", "b")),
        code.replace(co_qualname="other.search"),
    ]
    assert len({code_digest(each) for each in (code, *others)}) == len(others) + 1


def test_arguments_that_differ_beyond_their_fields_are_asked_for(room: Room) -> None:
    """As a tool's caller sees it."""

    @bursar.tool(cache="10m")
    def look(value: Any) -> Any:
        return value.model_dump() if isinstance(value, Open) else len(value)

    german, french = Open(lang="de"), Open(lang="fr")  # type: ignore[call-arg]
    assert [look(german), look(french)] == [{"query": "x", "lang": "de"}, {"query": "x", "lang": "fr"}]
    assert look(Open(lang="de")) == look(german)  # type: ignore[call-arg]
    assert [look(filled(Items(), 1)), look(filled(Items(), 1, 2))] == [1, 2]
    assert [row.cache for row in room.rows()] == ["miss", "miss", "tool", "tool", "", ""]
