"""``bursar.yaml``: one file, one frozen ``Settings``. An unknown key is an error; every error names its line.

Rule 1: no setting is needed: an absent file is the same as an empty one.
Rule 2: secrets are named, not written: ``key_env`` is the name of an environment variable.
Rule 3: numbers keep the digits they were written with; a price never passes through a float.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, cast

import msgspec

from bursar.core.errors import ConfigError

__all__ = [
    "CONFIG_NAME",
    "Cache",
    "ProviderSettings",
    "Retention",
    "Server",
    "Settings",
    "load_settings",
    "parse_settings",
]

CONFIG_NAME: Final = "bursar.yaml"


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway. Times are seconds, sizes bytes."""

    host: str = "127.0.0.1"
    port: int = 4000
    otlp_grpc_port: int = 0
    require_keys: bool = False
    body_bytes_max: int = 50_000_000
    body_timeout_s: int = 60
    answer_bytes_max: int = 200_000_000
    concurrency_max: int = 2_000
    connect_timeout_s: int = 10
    read_timeout_s: int = 600
    call_timeout_s: int = 1_800
    drain_s: int = 30


class ProviderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change about a known provider, or all of one of your own (then ``base_url`` is needed)."""

    base_url: str | None = None
    key_env: str | None = None
    prices: str | None = None
    like: str | None = None


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where answers are kept that routes keep. ``url_env`` and ``encryption_env`` are names of environment variables."""

    store: Literal["sqlite", "memory", "redis"] = "sqlite"
    size_mb: int = 500
    memory_mb: int = 64
    url_env: str = "BURSAR_CACHE_URL"
    encryption_env: str | None = None


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Days that single rows are kept; older ones are summed per day and scope."""

    ledger_days: int = 400
    books_days: int = 30


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything in ``bursar.yaml``."""

    server: Server = Server()
    durability: Literal["process", "power"] = "process"
    hold_ttl_s: int = 3_600
    retention: Retention = Retention()
    providers: dict[str, ProviderSettings] = {}
    budgets: dict[str, Any] = {}
    budget_wait_s: int = 30
    prices: dict[str, Any] = {}
    tools: dict[str, Any] = {}
    alerts: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    cache: Cache = Cache()


_LIMITS: Final[tuple[tuple[str, int, int], ...]] = (
    ("server.port", 0, 65_535),
    ("server.otlp_grpc_port", 0, 65_535),
    ("server.body_bytes_max", 1_000, 2_000_000_000),
    ("server.body_timeout_s", 1, 3_600),
    ("server.answer_bytes_max", 1_000, 8_000_000_000),
    ("server.concurrency_max", 1, 100_000),
    ("server.connect_timeout_s", 1, 600),
    ("server.read_timeout_s", 1, 86_400),
    ("server.call_timeout_s", 1, 86_400),
    ("server.drain_s", 0, 3_600),
    ("hold_ttl_s", 10, 7 * 86_400),
    ("budget_wait_s", 0, 3_600),
    ("cache.size_mb", 1, 1_000_000),
    ("cache.memory_mb", 0, 1_000_000),
    ("retention.ledger_days", 1, 36_500),
    ("retention.books_days", 1, 36_500),
)


def load_settings(path: Path | None) -> Settings:
    """Settings from a file, or the defaults when ``path`` is None. Raises ConfigError with the line."""
    if path is None:
        return Settings()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse_settings(text, name=str(path))


def parse_settings(text: str, *, name: str = CONFIG_NAME) -> Settings:
    """Settings from YAML text. Raises ConfigError that names the line, the key and the way out."""
    data, lines = _parse_yaml(text, name)
    try:
        settings = msgspec.convert(data, Settings, builtin_types=(Decimal,))
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), lines, name)) from None
    _check(settings, lines, name)
    for section, check in _SECTIONS.items():
        if raw := getattr(settings, section):
            _check_section(section, raw, check, lines, name)
    return settings


def _check_prices(raw: Mapping[str, Any]) -> None:
    from bursar.core.pricelist import overrides_layer  # not needed where there are no prices

    overrides_layer(raw)


def _check_tools(raw: Mapping[str, Any]) -> None:
    from bursar.core.tool_fields import parse_tools

    parse_tools(raw)


def _check_budgets(raw: Mapping[str, Any]) -> None:
    from bursar.adapters.zones import zone_of
    from bursar.core.budget_fields import parse_budgets

    parse_budgets(raw, zone_of)


def _check_alerts(raw: Mapping[str, Any]) -> None:
    from bursar.adapters.zones import zone_of
    from bursar.core.alert_fields import alert_settings

    alert_settings(raw, zone_of)


def _check_routes(raw: Mapping[str, Any]) -> None:
    from bursar.core.route_fields import parse_routes
    from bursar.wire.canonical import volatile_pattern

    for route in parse_routes(raw).all:
        for pattern in route.cache.volatile if route.cache is not None else ():
            try:
                volatile_pattern(pattern)
            except ValueError as error:
                raise ValueError(f"routes.{route.name}.cache.volatile: {error}") from None
            except ImportError:
                return  # an agent's own process, without the gateway: it reads no requests by them


_SECTIONS: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "prices": _check_prices,
    "tools": _check_tools,
    "budgets": _check_budgets,
    "alerts": _check_alerts,
    "routes": _check_routes,
}
"""Sections with a grammar of their own, and what raises ValueError, beginning with the path, when they do not follow it."""


def _check_section(
    section: str,
    raw: Mapping[str, Any],
    check: Callable[[Mapping[str, Any]], None],
    lines: Mapping[str, int],
    name: str,
) -> None:
    try:
        check(raw)
    except ValueError as error:
        path = str(error).partition(": ")[0]
        path = path if path.startswith(section) else section
        while path not in lines and path != section:  # a key that is missing has no line: its parent has
            path = re.sub(r"(\.[\w-]+|\[\d+\]|.)$", "", path)
        raise ConfigError(f"{_at(name, lines, path)}: {error}") from None


def _check(settings: Settings, lines: Mapping[str, int], name: str) -> None:
    for path, low, high in _LIMITS:
        value: Any = settings
        for part in path.split("."):
            value = getattr(value, part)
        if not low <= value <= high:
            raise ConfigError(f"{_at(name, lines, path)}: {path} is {value}: it must be from {low} to {high}")
    for provider, own in settings.providers.items():
        path = f"providers.{provider}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", provider):
            raise ConfigError(f"{_at(name, lines, path)}: provider id {provider!r}: use a-z, 0-9, - and _")
        if own.base_url is not None and not re.match(r"https?://[^/]+", own.base_url):
            raise ConfigError(f"{_at(name, lines, path + '.base_url')}: {own.base_url!r} is not an http(s) URL")
        if own.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", own.key_env):
            where = _at(name, lines, path + ".key_env")
            raise ConfigError(f"{where}: key_env is the name of an environment variable, never the key itself")

    for field in ("url_env", "encryption_env"):
        value = getattr(settings.cache, field)
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            where = _at(name, lines, f"cache.{field}")
            raise ConfigError(f"{where}: {field} is the name of an environment variable, never what is in it")


def _at(name: str, lines: Mapping[str, int], path: str) -> str:
    line = lines.get(path)
    return f"{name}:{line}" if line else name


_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<field>[^`]+)`(?: - at `\$\.?(?P<path>[^`]*)`)?")
_KINDS: Final = re.compile(r"Expected (\w+)(?: \| null)?, got (\w+)")
_KIND_WORDS: Final = {
    "array": "a list",
    "bool": "true or false",
    "decimal": "a number with decimals",
    "int": "a whole number",
    "null": "nothing",
    "object": "keys with values",
    "str": "text",
}
_CHOICES: Final = {"durability": ("process", "power"), "cache.store": ("sqlite", "memory", "redis")}
_OTHER: Final = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$")


def _explain(message: str, lines: Mapping[str, int], name: str) -> str:
    if found := _UNKNOWN.match(message):
        parent = _clean(found["path"] or "", lines)
        path = f"{parent}.{found['field']}" if parent else found["field"]
        known = _fields_of(parent)
        near = get_close_matches(found["field"], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{_at(name, lines, path)}: unknown key {path!r}: {hint}"
    found = _OTHER.match(message)
    assert found is not None
    path = _clean(found["path"] or "", lines)
    what = found["what"].replace("`", "")
    if kinds := _KINDS.fullmatch(what):
        wanted, got = (_KIND_WORDS.get(kind, kind) for kind in kinds.groups())
        what = f"expected {wanted}, not {got}"
    elif path in _CHOICES:
        what += f"; choose from {', '.join(_CHOICES[path])}"
    return f"{_at(name, lines, path)}: {path or 'the file'}: {what[:1].lower()}{what[1:]}"


def _clean(path: str, lines: Mapping[str, int]) -> str:
    """msgspec writes ``[...]`` for a key of a mapping: find which one is meant by what is in the file."""
    if "[...]" not in path:
        return path
    pattern = re.compile(re.escape(path).replace(r"\[\.\.\.\]", r"\.[^.]+") + "$")
    return next((known for known in lines if pattern.match(known)), path)


def _fields_of(path: str) -> list[str]:
    kind: type[msgspec.Struct] = Settings
    for part in filter(None, path.split(".")):
        if kind is Settings and part == "providers":
            return list(ProviderSettings.__struct_fields__)
        kind = {"server": Server, "retention": Retention, "cache": Cache}.get(part, kind)
    return list(kind.__struct_fields__)


def _parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    import yaml  # not needed where there is no file

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    lines: dict[str, int] = {}
    if root is None:
        return {}, lines
    value = _plain(root, "", lines, name, depth=0)
    if not isinstance(value, dict):
        raise ConfigError(f"{name}:1: the file must hold keys and values")
    # A section of which everything is commented out is the same as an absent one.
    sections = {key: below for key, below in cast("dict[str, Any]", value).items() if below is not None}
    return sections, lines


def _plain(node: Any, path: str, lines: dict[str, int], name: str, depth: int) -> Any:
    import yaml

    lines.setdefault(path, node.start_mark.line + 1)
    if depth > 32:  # also ends what an alias to itself would start
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: nested too deep")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in result:
                raise ConfigError(f"{name}:{line}: {key!r} is there twice")
            below = f"{path}.{key}" if path else key
            lines[below] = line
            result[key] = _plain(value_node, below, lines, name, depth + 1)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}[{i}]", lines, name, depth + 1) for i, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:float":
        return (
            Decimal(node.value.replace("_", ""))
            if re.fullmatch(r"[-+]?[\d_.]+(e[-+]?\d+)?", node.value, re.IGNORECASE)
            else node.value
        )
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    loader: Any = yaml.SafeLoader("")
    return loader.construct_object(node)
