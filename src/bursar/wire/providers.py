"""The provider table: ``providers.toml`` as objects, found by id, alias, host or URL.

Rule 1: every provider states how it counts and what its requests take; a row that leaves a field out does not load.
Rule 2: a host is matched with its port first, then without; exact names before globs, globs in the order of the file.
Rule 3: a path that no pattern knows gets the generic dialect, which assumes nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from bursar.core.prices import Terms

from . import anthropic, bedrock, cohere, gemini, generic, openai_media
from .dialect import Dialect, make_terms
from .openai_chat import DIALECT as OPENAI_CHAT
from .openai_chat import OpenAIChat
from .openai_embeddings import DIALECT as OPENAI_EMBEDDINGS
from .openai_embeddings import OpenAIEmbeddings
from .openai_responses import DIALECT as OPENAI_RESPONSES
from .openai_responses import OpenAIResponses
from .openai_usage import Quirks
from .shape_openai import ChatRequests

__all__ = ["Auth", "Provider", "dialect_by_id", "parse_providers", "provider", "providers", "split_url"]

Auth: TypeAlias = Literal["bearer", "x-api-key", "x-goog-api-key", "api-key"]
StreamUsage: TypeAlias = Literal["always", "on_request"]

_FILE: Final = Path(__file__).with_name("providers.toml")
_VERSION: Final = re.compile(r"^/v\d+(?:(?:alpha|beta)\d*)?(?=/)")

_SHARED: Final[dict[str, Dialect]] = {
    each.id: each
    for each in (
        OPENAI_CHAT,
        OPENAI_RESPONSES,
        OPENAI_EMBEDDINGS,
        openai_media.IMAGES,
        openai_media.AUDIO,
        anthropic.DIALECT,
        anthropic.COUNT_TOKENS,
        gemini.DIALECT,
        bedrock.CONVERSE,
        bedrock.INVOKE,
        cohere.DIALECT,
        generic.DIALECT,
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """One provider. ``prices`` is its id in the price book; self-hosted ones are priced by the user, under their id."""

    id: str
    name: str
    aliases: tuple[str, ...]
    hosts: tuple[str, ...]
    base_url: str
    prices: str
    router_prices: str
    region_host: str
    key_env: str
    auth: Auth
    stream_usage: StreamUsage
    quirks: Quirks
    paths: tuple[tuple[str, str], ...]
    dialects: Mapping[str, Dialect]
    cache_key: bool = False

    def dialect(self, path: str) -> Dialect:
        """The dialect spoken at a path, the generic one where nobody said."""
        return self.dialects[_dialect_id(self.paths, path.split("?", 1)[0].rstrip("/"))]

    def shape(self, body: bytes) -> Dialect:
        """The dialect a body is in, by its unmistakable shape. Raises one of ``dialect.UNREADABLE`` on bad JSON."""
        return self.dialects[generic.detect(body) or "generic"]

    def price_id(self, path: str) -> str:
        """The provider in the price book, which at a router depends on the path."""
        if self.router_prices:
            return self.router_prices + path.lstrip("/").split("/", 1)[0]
        return self.prices or self.id

    def host_terms(self, host: str) -> Terms:
        """What calling this host agrees to: ``(("region", "eu"),)`` at ``eu.api.openai.com``."""
        if not self.region_host or not fnmatchcase(host, self.region_host):
            return ()
        return make_terms("region", host.removesuffix(self.region_host.removeprefix("*")))

    def url(self, path: str, base_url: str = "") -> str:
        """Where a client's path goes: the base URL, then the path without its leading version (see the file)."""
        base = (base_url or self.base_url).rstrip("/")
        return base + _VERSION.sub("", path)


@lru_cache(maxsize=1024)
def _dialect_id(paths: tuple[tuple[str, str], ...], path: str) -> str:
    return next((name for pattern, name in paths if fnmatchcase(path, pattern)), generic.DIALECT.id)


def dialect_by_id(dialect_id: str) -> Dialect:
    """A dialect with the quirks of the provider that invented it. Raises KeyError for an unknown id."""
    return _SHARED[dialect_id]


# --- the table --------------------------------------------------------------------------------------------------


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    name: str
    aliases: list[str]
    hosts: list[str]
    base_url: str
    prices: str
    key_env: str
    auth: Auth
    stream_usage: StreamUsage
    dialects: list[str]
    usage: Quirks
    request: ChatRequests
    router_prices: str = ""
    region_host: str = ""
    cache_key: bool = False


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    dialects: dict[str, dict[str, str]]
    provider: list[_Row]


def parse_providers(text: str) -> tuple[Provider, ...]:
    """The providers of a table. Raises ValueError that names the row and the field."""
    table = msgspec.convert(_with_quirks(tomllib.loads(text)), _Table)
    rows: list[Provider] = []
    for row in table.provider:
        paths: list[tuple[str, str]] = []
        for name in row.dialects:
            if name not in table.dialects:
                raise ValueError(f"provider {row.id!r}: no [dialects.{name}] in the table")
            paths += table.dialects[name].items()
        for pattern, dialect_id in paths:
            if dialect_id not in _SHARED:
                raise ValueError(f"provider {row.id!r}: path {pattern!r} has the unknown dialect {dialect_id!r}")
        rows.append(_provider(row, tuple(paths)))
    return tuple(rows)


def _with_quirks(table: dict[str, Any]) -> dict[str, Any]:
    """``usage`` as the ordered fields of ``Quirks``; a missing one is an error here, there are no defaults."""
    for row in table.get("provider", ()):
        usage = row.get("usage", {})
        if set(usage) != set(Quirks._fields):
            raise ValueError(f"provider {row.get('id')!r}: usage must state {', '.join(Quirks._fields)}")
        row["usage"] = [usage[name] for name in Quirks._fields]
    return table


def _provider(row: _Row, paths: tuple[tuple[str, str], ...]) -> Provider:
    own: tuple[Dialect, ...] = (
        OpenAIChat(row.usage, row.request),
        OpenAIResponses(row.usage, row.request),
        OpenAIEmbeddings(row.usage),
    )
    return Provider(
        id=row.id,
        name=row.name,
        aliases=tuple(row.aliases),
        hosts=tuple(row.hosts),
        base_url=row.base_url,
        prices=row.prices,
        router_prices=row.router_prices,
        region_host=row.region_host,
        key_env=row.key_env,
        auth=row.auth,
        stream_usage=row.stream_usage,
        quirks=row.usage,
        paths=paths,
        dialects={**_SHARED, **{each.id: each for each in own}},
        cache_key=row.cache_key,
    )


@lru_cache(maxsize=1)
def providers() -> tuple[Provider, ...]:
    """Every provider of the table, in its order."""
    return parse_providers(_FILE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _by_name() -> Mapping[str, Provider]:
    names: dict[str, Provider] = {}
    for each in providers():
        for name in (each.id, *each.aliases, *(host for host in each.hosts if "*" not in host)):
            names.setdefault(name, each)
    return names


def provider(id_or_host: str) -> Provider | None:
    """The provider of an id, an alias, a host name (with or without its port) or a URL; None when nobody knows it."""
    return _find(split_url(id_or_host)[0])


@lru_cache(maxsize=1024)
def _find(name: str) -> Provider | None:
    names = _by_name()
    bare = name.partition(":")[0]
    found = names.get(name) or names.get(bare)
    if found is not None:
        return found
    for each in providers():
        for pattern in each.hosts:
            if "*" in pattern and (fnmatchcase(name, pattern) or fnmatchcase(bare, pattern)):
                return each
    return None


def split_url(text: str) -> tuple[str, str]:
    """The host in lower case, with its port where one is written, and the path with its query, of a URL or a name."""
    rest = text.strip().partition("://")[2] or text.strip()
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    host = rest[:cut].rpartition("@")[2].lower()
    return host.removesuffix(":443").removesuffix(":80"), rest[cut:]
