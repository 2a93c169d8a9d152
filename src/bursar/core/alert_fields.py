"""The ``alerts:`` section of a configuration: channels, rules, quiet hours.

Rule 1: what cannot be read exactly is refused; the error names the field, the value and the way out.
Rule 2: a secret is never in the file. It is named by its environment variable (``..._env``), and so is an address that
        is itself a secret: one with a user, a password or a query in it, or of a service whose addresses are.
Rule 3: without the section budgets are watched all the same; what fires is seen in the log, the CLI and the API.
Rule 4: in quiet hours notices wait until their end; critical ones and what goes to machines do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone, tzinfo
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import urlsplit

from .alert_rules import (
    DEFAULT_RULE,
    SEVERITIES,
    BudgetsRule,
    CountRule,
    DeadLettersRule,
    LagRule,
    PricesRule,
    Rule,
    Severity,
    ShareRule,
    SpendRule,
    What,
)
from .alerts import Condition
from .budget_fields import parse_money
from .budgets import LABEL_PREFIX
from .price_fields import clock_minutes
from .scopes import SCOPE_COLUMNS
from .tallies import MINUTE_US, SPAN_US_MAX
from .values import valueclass
from .windows import parse_window

__all__ = ["CHANNEL_KINDS", "NO_ALERTS", "AlertSettings", "ChannelKind", "ChannelSpec", "QuietHours", "alert_settings"]

ChannelKind: TypeAlias = Literal["webhook", "alertmanager", "slack", "email", "pagerduty", "apprise"]

CHANNELS_MAX: Final = 32
RULES_MAX: Final = 200
RECIPIENTS_MAX: Final = 50

# What each kind may say, and which of it it must; of alternatives ("url", "url_env") exactly one.
_COMMON: Final = ("kind", "severity", "resolved")
_CHANNEL_KEYS: Final[Mapping[ChannelKind, tuple[str, ...]]] = {
    "webhook": ("url", "url_env", "secret_env", "token_env", "format"),
    "alertmanager": ("url", "url_env", "token_env"),
    "slack": ("url", "url_env"),
    "email": ("host", "port", "security", "username", "password_env", "from", "to"),
    "pagerduty": ("token_env", "url", "url_env"),
    "apprise": ("url_env",),
}
CHANNEL_KINDS: Final = tuple(_CHANNEL_KEYS)
_ADDRESSED: Final = ("webhook", "alertmanager", "slack", "apprise")
_TO_MACHINES: Final = ("webhook", "alertmanager", "pagerduty")

# A literal secret in the file is told apart from a mistyped key: the answer is another one.
_SECRET_KEYS: Final = re.compile(r"(?i).*(secret|token|password|passwd|api_?key|routing_key|integration_key)$")
_SECRET_HOSTS: Final = (
    "hooks.slack.com",
    "hooks.slack-gov.com",
    "discord.com",
    "discordapp.com",
    "webhook.office.com",
    "chat.googleapis.com",
    "api.telegram.org",
    "outlook.office.com",
    "logic.azure.com",
)
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
_MAILBOX: Final = re.compile(r"[^\s@<>,;\"]{1,64}@[^\s@<>,;\"]{1,255}")
_DEFAULT_WITHIN: Final = "10m"
_ATTEMPTS_MIN: Final = 20


@valueclass
class ChannelSpec:
    """A channel as configured. ``env`` names the environment variables of its secrets, by field without ``_env``."""

    name: str
    kind: ChannelKind
    severity: Severity = "info"
    resolved: bool = True
    url: str = ""
    env: tuple[tuple[str, str], ...] = ()
    format: Literal["bursar", "alertmanager"] = "bursar"
    host: str = ""
    port: int = 0
    security: Literal["starttls", "ssl", "plain"] = "starttls"
    username: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()


@valueclass
class QuietHours:
    """Minutes of the day, in a time zone, in which people are not woken; the second is not included."""

    begin: int
    end: int
    zone: tzinfo

    def until(self, now_us: int) -> int | None:
        """When the quiet hours end that it is now, None when it is not quiet."""
        local = (_EPOCH + timedelta(microseconds=now_us)).astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        inside = self.begin <= minute < self.end if self.begin < self.end else not self.end <= minute < self.begin
        if not inside:
            return None
        last = local.replace(hour=self.end // 60, minute=self.end % 60, second=0, microsecond=0)
        if minute >= self.end:
            last += timedelta(days=1)
        return (last.astimezone(timezone.utc) - _EPOCH) // timedelta(microseconds=1)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


@valueclass
class AlertSettings:
    """All of ``alerts:``. ``source`` is what this installation is called in notices, ``console_url`` where they lead."""

    channels: tuple[ChannelSpec, ...] = ()
    rules: tuple[Rule, ...] = (DEFAULT_RULE,)
    quiet: QuietHours | None = None
    source: str = "bursar"
    console_url: str = ""

    def channels_for(self, condition: Condition) -> tuple[ChannelSpec, ...]:
        """Who hears of a condition: the channels of its rule, without those that it is not severe enough for."""
        rule = next((rule for rule in self.rules if rule.name == condition.label("rule")), None)
        named = rule.channels if rule is not None else None
        loud = _loudness(condition)
        return tuple(
            channel
            for channel in self.channels
            if (named is None or channel.name in named) and loud >= SEVERITIES.index(channel.severity)
        )

    def due_us(self, channel: ChannelSpec, condition: Condition, now_us: int) -> int:
        """When a notice may go out (rule 4)."""
        if self.quiet is None or channel.kind in _TO_MACHINES or condition.label("severity") == "critical":
            return now_us
        return self.quiet.until(now_us) or now_us


def _loudness(condition: Condition) -> int:
    severity = condition.label("severity")
    return next((index for index, known in enumerate(SEVERITIES) if known == severity), 0)


NO_ALERTS: Final = AlertSettings()


def alert_settings(raw: Mapping[str, Any], zone: Callable[[str], tzinfo]) -> AlertSettings:
    """The settings of an ``alerts:`` section. ``zone`` gives the time zone of an IANA name or raises ValueError.

    Raises ValueError that begins with the path of the mistake.
    """
    _known(raw, ("channels", "rules", "quiet_hours", "tz", "source", "console_url"), "alerts")
    tz = _zone(raw, zone)
    channels = tuple(
        _channel(name, item, f"alerts.channels.{name}")
        for name, item in _named(raw.get("channels"), "alerts.channels", CHANNELS_MAX)
    )
    names = tuple(channel.name for channel in channels)
    rules = tuple(
        _rule(name, item, f"alerts.rules.{name}", names, tz)
        for name, item in _named(raw.get("rules"), "alerts.rules", RULES_MAX)
    )
    quiet = None
    if raw.get("quiet_hours") is not None:
        begin, end = _clock(raw["quiet_hours"], "alerts.quiet_hours")
        quiet = QuietHours(begin, end, tz)
    console_url = raw.get("console_url", "")
    if console_url:
        console_url = _url(console_url, "alerts.console_url").rstrip("/")
    return AlertSettings(channels, (*rules, DEFAULT_RULE), quiet, _source(raw), console_url)


# --- channels ---------------------------------------------------------------------------------------------------


def _channel(name: str, item: Mapping[str, Any], where: str) -> ChannelSpec:
    kind = item.get("kind")
    if kind not in CHANNEL_KINDS:
        raise ValueError(f"{where}.kind: {_shown(kind)}; choose from {', '.join(CHANNEL_KINDS)}")
    keys = (*_COMMON, *_CHANNEL_KEYS[kind])
    for key in item:
        if key not in keys and _SECRET_KEYS.fullmatch(key):
            raise ValueError(
                f"{where}.{key}: secrets do not belong in the file: put it into an environment variable and name that, "
                f"{_env_key(key, keys)}: NAME"
            )
    _known(item, keys, where)
    env = {key.removesuffix("_env"): _env(item, key, where) for key in item if key.endswith("_env")}
    url = _address(kind, item, env, where)
    if kind == "pagerduty" and "token" not in env:
        raise ValueError(f"{where}.token_env: is missing: name the environment variable of the integration key")
    spec = ChannelSpec(
        name,
        kind,
        severity=_choice(item, "severity", SEVERITIES, "info", where),
        resolved=_flag(item, "resolved", where),
        url=url,
        env=tuple(sorted(env.items())),
        format=_choice(item, "format", ("bursar", "alertmanager"), "bursar", where),
    )
    return _email(spec, item, env, where) if kind == "email" else spec


def _env_key(key: str, keys: tuple[str, ...]) -> str:
    """The field that takes the place of a literal secret: the one that is named like it, else the only sensible one."""
    named = [k for k in keys if k.endswith("_env") and k.removesuffix("_env") in key.lower()]
    return (*named, *(k for k in ("token_env", "secret_env", "password_env", "url_env") if k in keys))[0]


def _env(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item[key]
    if not isinstance(value, str) or not _ENV_NAME.fullmatch(value):
        # The value is not repeated: it may be the secret itself.
        raise ValueError(f"{where}.{key}: is the name of an environment variable, never the secret itself")
    return value


def _address(kind: ChannelKind, item: Mapping[str, Any], env: Mapping[str, str], where: str) -> str:
    if "url" in env and "url" in item:
        raise ValueError(f"{where}.url: url and url_env exclude each other; give one of them")
    if "url" in item:
        return _url(item["url"], f"{where}.url")
    if kind in _ADDRESSED and "url" not in env:
        raise ValueError(f"{where}.url_env: is missing: name the environment variable that holds the address")
    return ""


def _url(value: object, where: str) -> str:
    """An address that is no secret. What is refused is not repeated."""
    if not isinstance(value, str) or not re.match(r"https?://[^/\s]+", value) or not value.isprintable():
        raise ValueError(f"{where}: is not an http(s) URL")
    try:
        parts = urlsplit(value)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise ValueError(f"{where}: is not an http(s) URL") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            f"{where}: a URL with a user, a password or a query is a secret: put it into an environment variable and "
            "name that, url_env: NAME"
        )
    if any(host == known or host.endswith(f".{known}") for known in _SECRET_HOSTS):
        raise ValueError(
            f"{where}: whoever knows a URL of {host} can post there: put it into an environment variable and name that, "
            "url_env: NAME"
        )
    return value


def _email(spec: ChannelSpec, item: Mapping[str, Any], env: Mapping[str, str], where: str) -> ChannelSpec:
    host = _text(item, "host", where)
    security = _choice(item, "security", ("starttls", "ssl", "plain"), "starttls", where)
    username = _text(item, "username", where, "")
    if bool(username) != ("password" in env):
        raise ValueError(f"{where}.{'password_env' if username else 'username'}: is missing: they belong together")
    if username and security == "plain" and host not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(f"{where}.security: plain would send the password in the clear; use starttls or ssl")
    port = item.get("port", {"starttls": 587, "ssl": 465, "plain": 25}[security])
    if type(port) is not int or not 1 <= port <= 65_535:
        raise ValueError(f"{where}.port: {_shown(port)}; it must be from 1 to 65535")
    to: Any = item.get("to")
    recipients = cast("list[Any]", to) if isinstance(to, list) else [to]
    if not 1 <= len(recipients) <= RECIPIENTS_MAX:
        raise ValueError(f"{where}.to: {len(recipients)} addresses; from 1 to {RECIPIENTS_MAX} are possible")
    for address in (item.get("from"), *recipients):
        if not isinstance(address, str) or not _MAILBOX.fullmatch(address):
            field = "from" if address is item.get("from") else "to"
            raise ValueError(f"{where}.{field}: {_shown(address)}; write an address such as ops@example.com")
    return ChannelSpec(
        spec.name,
        spec.kind,
        severity=spec.severity,
        resolved=spec.resolved,
        env=spec.env,
        host=host,
        port=port,
        security=security,
        username=username,
        sender=str(item["from"]),
        recipients=tuple(str(address) for address in recipients),
    )


# --- rules ------------------------------------------------------------------------------------------------------

_RULE_COMMON: Final = ("severity", "channels")
# The first key says what the rule is about.
_RULE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "budgets": (),
    "spend": ("per", "each", "match"),
    "unpriced": ("within",),
    "denied": ("within",),
    "failure_rate": ("within", "attempts_min"),
    "fallbacks": ("within", "attempts_min"),
    "breakers": ("within",),
    "prices": (),
    "ledger_lag": (),
    "dead_letters": (),
}


def _rule(name: str, item: Mapping[str, Any], where: str, channels: tuple[str, ...], zone: tzinfo) -> Rule:
    if name == DEFAULT_RULE.name:
        raise ValueError(f"{where}: the name {name!r} is that of the rule for all other budgets; choose another one")
    about = [key for key in _RULE_KEYS if key in item]
    if len(about) != 1:
        if not about:
            _known(item, (*_RULE_COMMON, *_RULE_KEYS, *{k for keys in _RULE_KEYS.values() for k in keys}), where)
        raise ValueError(f"{where}: a rule is about one of {', '.join(_RULE_KEYS)}; this is about {len(about)} of them")
    _known(item, (*_RULE_COMMON, about[0], *_RULE_KEYS[about[0]]), where)
    severity = None if item.get("severity") is None else _choice(item, "severity", SEVERITIES, "warning", where)
    return Rule(name, _what(about[0], item, where, zone), severity, _rule_channels(item, where, channels))


def _what(about: str, item: Mapping[str, Any], where: str, zone: tzinfo) -> What:
    at = f"{where}.{about}"
    match about:
        case "budgets":
            return BudgetsRule(_patterns(item[about], at))
        case "spend":
            return _spend(item, where, zone)
        case "unpriced" | "denied":
            return CountRule(about, _count(item[about], at), _within(item, where))
        case "failure_rate":
            return ShareRule("failed", _share(item[about], at), _within(item, where), _attempts_min(item, where))
        case "fallbacks":
            if isinstance(item[about], str):
                return ShareRule("fallback", _share(item[about], at), _within(item, where), _attempts_min(item, where))
            return CountRule("fallback", _count(item[about], at), _within(item, where))
        case "breakers":
            return CountRule("opened", _count(item[about], at), _within(item, where))
        case "prices":
            if item[about] != "changed":
                raise ValueError(f"{at}: {_shown(item[about])}; the one thing that can be told of prices is: changed")
            return PricesRule()
        case "ledger_lag":
            return LagRule(_count(item[about], at))
        case _:
            return DeadLettersRule(_count(item[about], at))


def _spend(item: Mapping[str, Any], where: str, zone: tzinfo) -> SpendRule:
    try:
        window = parse_window(_text(item, "per", where), zone)
    except ValueError as error:
        raise ValueError(f"{where}.per: {error}" if not str(error).startswith(where) else str(error)) from None
    each = _text(item, "each", where, "")
    if each:
        _column(each, f"{where}.each")
    raw: Any = item.get("match", {})
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}.match: {_shown(raw)}; write a mapping such as {{team: search}}")
    match = {str(key): value for key, value in cast("Mapping[Any, Any]", raw).items()}
    for column in match:
        _column(column, f"{where}.match")
    amount = parse_money(item["spend"], f"{where}.spend")
    if amount <= 0:
        raise ValueError(f"{where}.spend: {_shown(item['spend'])}; write an amount above 0, such as $20")
    pairs = ((column, _patterns(value, f"{where}.match.{column}")) for column, value in match.items())
    return SpendRule(amount, window, each, tuple(sorted(pairs)))


def _rule_channels(item: Mapping[str, Any], where: str, channels: tuple[str, ...]) -> tuple[str, ...] | None:
    if item.get("channels") is None:
        return None
    raw: Any = item["channels"]
    names = cast("list[Any]", raw) if isinstance(raw, list) else [raw]
    for name in names:
        if name not in channels:
            near = get_close_matches(str(name), channels, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(channels) or 'none yet'}"
            raise ValueError(f"{where}.channels: there is no channel {_shown(name)}; {hint}")
    return tuple(dict.fromkeys(str(name) for name in names))


# --- fields -----------------------------------------------------------------------------------------------------


def _known(raw: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in raw:
        if key not in keys:
            near = get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(dict.fromkeys(keys))}"
            raise ValueError(f"{where}: unknown key {_shown(key)}; {hint}")


def _shown(value: object) -> str:
    """A value in an error: bounded, because a file may hold anything."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _named(raw: Any, where: str, most: int) -> list[tuple[str, Mapping[str, Any]]]:
    if raw is None:
        return []
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: is not a mapping of names")
    found = cast("Mapping[Any, Any]", raw)
    if len(found) > most:
        raise ValueError(f"{where}: {len(found)} are too many; at most {most} are possible")
    items: list[tuple[str, Mapping[str, Any]]] = []
    for name, item in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{where}: {_shown(name)} is no name: use up to 64 letters, digits, - and _")
        if not isinstance(item, Mapping):  # it is not repeated: an address of a channel may be a secret
            raise ValueError(f"{where}.{name}: is not a mapping of keys and values")
        items.append((name, cast("Mapping[str, Any]", item)))
    return items


def _text(raw: Mapping[str, Any], field: str, where: str, default: str | None = None) -> str:
    value = raw.get(field, default)
    if not isinstance(value, str) or (default is None and not value) or not value.isprintable():
        raise ValueError(f"{where}.{field}: " + ("is missing" if value is None else f"{_shown(value)} is not text"))
    return value


def _flag(raw: Mapping[str, Any], field: str, where: str) -> bool:
    value = raw.get(field, True)
    if not isinstance(value, bool):
        raise ValueError(f"{where}.{field}: {_shown(value)}; write true or false")
    return value


def _choice(raw: Mapping[str, Any], field: str, choices: tuple[Any, ...], default: str, where: str) -> Any:
    value = raw.get(field, default)
    if value not in choices:
        raise ValueError(f"{where}.{field}: {_shown(value)}; choose from {', '.join(choices)}")
    return value


def _count(value: object, where: str) -> int:
    if type(value) is not int or not 1 <= value <= 1_000_000_000:
        raise ValueError(f"{where}: {_shown(value)} is not a whole number above 0")
    return value


def _attempts_min(item: Mapping[str, Any], where: str) -> int:
    return _count(item.get("attempts_min", _ATTEMPTS_MIN), f"{where}.attempts_min")


def _share(value: object, where: str) -> int:
    """Thousandths from ``20%``."""
    found = re.fullmatch(r"(\d{1,3})(?:\.(\d))?\s*%", value) if isinstance(value, str) else None
    share = int(found[1]) * 10 + int(found[2] or "0") if found else 0
    if not 1 <= share <= 1000:
        raise ValueError(f'{where}: {_shown(value)}; write a share such as "20%", above 0 and at most 100%')
    return share


def _within(item: Mapping[str, Any], where: str) -> int:
    value = item.get("within", _DEFAULT_WITHIN)
    try:
        length = parse_window(value).length_us if isinstance(value, str) else 0
    except ValueError:
        length = 0
    if not MINUTE_US <= length <= SPAN_US_MAX or length % MINUTE_US:
        raise ValueError(f"{where}.within: {_shown(value)}; write a span from 1m to 24h, such as 10m")
    return length


def _patterns(value: object, where: str) -> tuple[str, ...]:
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise ValueError(f'{where}: {_shown(items)}; write a pattern such as "team-*", or a list of them')
    return tuple(str(item) for item in items)


def _column(name: str, where: str) -> None:
    if name in SCOPE_COLUMNS or (name.startswith(LABEL_PREFIX) and len(name) > len(LABEL_PREFIX)):
        return
    near = get_close_matches(name, SCOPE_COLUMNS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SCOPE_COLUMNS)} and label:NAME"
    raise ValueError(f"{where}: there is no {_shown(name)}; {hint}")


def _zone(raw: Mapping[str, Any], zone: Callable[[str], tzinfo]) -> tzinfo:
    name = raw.get("tz", "UTC")
    try:
        return zone(name if isinstance(name, str) else "")
    except ValueError:
        raise ValueError(f"alerts.tz: {_shown(name)} is no time zone; write one such as Europe/Berlin") from None


def _clock(value: object, where: str) -> tuple[int, int]:
    try:
        return clock_minutes(value, where)
    except ValueError:
        raise ValueError(f'{where}: {_shown(value)}; write an interval of the day such as "22:00-07:00"') from None


def _source(raw: Mapping[str, Any]) -> str:
    value = raw.get("source", "bursar")
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"alerts.source: {_shown(value)} is no name: use up to 64 letters, digits, - and _")
    return value
