"""The ``alerts:`` section: what can be said, and what every mistake is answered with."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

import pytest
from alert_house import HOUR_US, NOON_US, settings_from

from bursar.config import parse_settings
from bursar.core.alert_fields import CHANNEL_KINDS, NO_ALERTS
from bursar.core.alert_rules import DEFAULT_RULE, What
from bursar.core.alerts import Condition
from bursar.core.errors import ConfigError

SECRET = "T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"chanels": {}}, "alerts: unknown key 'chanels'; did you mean 'channels'?"),
        ({"channels": {"ops": {"kind": "slak"}}}, "alerts.channels.ops.kind: 'slak'; choose from webhook, alertmanager"),
        ({"channels": {"ops": {"kind": "slack"}}}, "alerts.channels.ops.url_env: is missing"),
        ({"channels": {"ops": {"kind": "slack", "url_evn": "A"}}}, "unknown key 'url_evn'; did you mean 'url_env'?"),
        ({"channels": {"p": {"kind": "pagerduty"}}}, "alerts.channels.p.token_env: is missing"),
        ({"channels": {"p": {"kind": "pagerduty", "token": "x"}}}, "alerts.channels.p.token: secrets do not belong"),
        ({"channels": {"p": {"kind": "pagerduty", "routing_key": "x"}}}, "and name that, token_env: NAME"),
        ({"channels": {"h": {"kind": "webhook", "url": "h"}}}, "alerts.channels.h.url: is not an http(s) URL"),
        ({"channels": {"h": {"kind": "webhook", "url": "https://u:p@h/"}}}, "alerts.channels.h.url: a URL with a user"),
        ({"channels": {"h": {"kind": "webhook", "url": "https://h/?k=1"}}}, "alerts.channels.h.url: a URL with a user"),
        ({"channels": {"h": {"kind": "webhook", "url": "http://h", "url_env": "A"}}}, "url and url_env exclude"),
        ({"channels": {"a": {"kind": "apprise", "url_env": "not a name"}}}, "alerts.channels.a.url_env: is the name of"),
        (
            {"channels": {"m": {"kind": "email", "host": "h", "from": "a@b", "to": "c"}}},
            "alerts.channels.m.to: 'c'; write an address",
        ),
        (
            {"channels": {"m": {"kind": "email", "host": "h", "from": "a@b", "to": "c@d", "username": "u"}}},
            "alerts.channels.m.password_env: is missing",
        ),
        (
            {"channels": {"m": {"kind": "email", "host": "h", "from": "a@b", "to": ["c@d"], "username": "u",
                                "password_env": "P", "security": "plain"}}},
            "alerts.channels.m.security: plain would send the password in the clear",
        ),
        ({"rules": {"r": {}}}, "alerts.rules.r: a rule is about one of budgets, spend"),
        ({"rules": {"r": {"spned": "$5"}}}, "alerts.rules.r: unknown key 'spned'; did you mean 'spend'?"),
        ({"rules": {"r": {"spend": "$5", "denied": 1}}}, "this is about 2 of them"),
        ({"rules": {"r": {"spend": "much", "per": "day"}}}, "alerts.rules.r.spend: "),
        ({"rules": {"r": {"spend": "$5"}}}, "alerts.rules.r.per: is missing"),
        ({"rules": {"r": {"spend": "$5", "per": "fortnight"}}}, "alerts.rules.r.per: 'fortnight' is no window"),
        ({"rules": {"r": {"spend": "$5", "per": "day", "each": "usr"}}}, "there is no 'usr'; did you mean 'user'?"),
        ({"rules": {"r": {"spend": "$5", "per": "day", "match": {"tem": "x"}}}}, "did you mean 'team'?"),
        ({"rules": {"r": {"failure_rate": 20}}}, 'alerts.rules.r.failure_rate: 20; write a share such as "20%"'),
        ({"rules": {"r": {"unpriced": 0}}}, "alerts.rules.r.unpriced: 0 is not a whole number above 0"),
        ({"rules": {"r": {"breakers": "20%"}}}, "alerts.rules.r.breakers: '20%' is not a whole number above 0"),
        ({"rules": {"r": {"breakers": 1, "attempts_min": 5}}}, "alerts.rules.r: unknown key 'attempts_min'"),
        ({"rules": {"r": {"denied": 1, "within": "2d"}}}, "alerts.rules.r.within: '2d'; write a span from 1m to 24h"),
        ({"rules": {"r": {"prices": "new"}}}, "alerts.rules.r.prices: 'new'"),
        ({"rules": {"r": {"denied": 1, "channels": ["opps"]}}}, "there is no channel 'opps'; known are none yet"),
        ({"rules": {"default": {"denied": 1}}}, "alerts.rules.default: the name 'default'"),
        ({"rules": {"a b": {"denied": 1}}}, "alerts.rules: 'a b' is no name"),
        ({"quiet_hours": "night"}, "alerts.quiet_hours: 'night'; write an interval"),
        ({"tz": "Mars/Olympus"}, "alerts.tz: 'Mars/Olympus' is no time zone"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_path(raw: dict[str, Any], message: str) -> None:
    """The path, the value where it cannot be a secret, and what would do."""
    with pytest.raises(ValueError) as caught:
        settings_from(**raw)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "channel",
    [
        {"kind": "slack", "url": f"https://hooks.slack.com/services/{SECRET}"},
        {"kind": "webhook", "url": f"https://user:{SECRET}@example.com"},
        {"kind": "webhook", "url": f"https://example.com/?token={SECRET}"},
        {"kind": "webhook", "url": "http://h", "secret": SECRET},
        {"kind": "webhook", "url": "http://h", "secret_env": SECRET},
        {"kind": "slack", "url_env": f"https://hooks.slack.com/services/{SECRET}"},
        {"kind": "slack", "url": f"hooks.slack.com/services/{SECRET}"},
        {"kind": "email", "password": SECRET},
        f"https://hooks.slack.com/services/{SECRET}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(channel: Any) -> None:
    """Whoever reads the error on a screen or in a log does not learn it."""
    with pytest.raises(ValueError) as caught:
        settings_from(channels={"ops": channel})
    assert SECRET not in str(caught.value)
    assert "XXXX" not in str(caught.value)


def test_the_file_names_the_line() -> None:
    """The errors of this section come out of bursar.yaml like all others."""
    with pytest.raises(ConfigError) as caught:
        parse_settings("alerts:\n  channels:\n    ops-1:\n      kind: slack\n      url_env: not one\n")
    assert str(caught.value).startswith("bursar.yaml:5: alerts.channels.ops-1.url_env: is the name of an environment")
    assert parse_settings("alerts:\n  rules:\n    big: {spend: 12.50, per: hour, match: {team: x}}\n").alerts


def test_without_a_section_budgets_are_watched() -> None:
    """Nothing has to be configured for alerts to be seen."""
    assert settings_from() == NO_ALERTS
    assert NO_ALERTS.rules == (DEFAULT_RULE,)


def _condition(severity: str, rule: str = "default") -> Condition:
    return Condition("k", (("rule", rule), ("severity", severity)), ())


def test_channels_hear_what_is_loud_enough_and_meant_for_them() -> None:
    """By the channel's least severity and the rule's channels; an empty list is nobody."""
    settings = settings_from(
        channels={
            "chat": {"kind": "slack", "url_env": "S"},
            "pager": {"kind": "pagerduty", "token_env": "P", "severity": "critical"},
        },
        rules={
            "quiet": {"denied": 1, "channels": []},
            "chat-only": {"unpriced": 1, "channels": ["chat"]},
        },
    )

    def names(condition: Condition) -> list[str]:
        return [channel.name for channel in settings.channels_for(condition)]

    assert names(_condition("info")) == ["chat"]
    assert names(_condition("critical")) == ["chat", "pager"]
    assert names(_condition("critical", "quiet")) == []
    assert names(_condition("critical", "chat-only")) == ["chat"]


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2025-10-09T21:59", None),
        ("2025-10-09T22:00", "2025-10-10T07:00"),
        ("2025-10-10T06:59", "2025-10-10T07:00"),
        ("2025-10-10T07:00", None),
    ],
)
def test_quiet_hours_hold_back_what_can_wait(at: str, until: str | None) -> None:
    """People get it in the morning; critical notices and machines do not wait."""
    settings = settings_from(
        channels={"chat": {"kind": "slack", "url_env": "S"}, "am": {"kind": "alertmanager", "url": "http://am:9093"}},
        quiet_hours="22:00-07:00",
    )
    chat, machine = settings.channels

    def us(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * 1_000_000

    now_us = us(at)
    assert settings.due_us(chat, _condition("warning"), now_us) == (us(until) if until else now_us)
    assert settings.due_us(chat, _condition("critical"), now_us) == now_us
    assert settings.due_us(machine, _condition("warning"), now_us) == now_us


def test_quiet_hours_follow_the_zone() -> None:
    """Noon UTC is night somewhere."""
    settings = settings_from(quiet_hours="20:00-22:00", tz="Asia/Tokyo")  # 21:00 there
    assert settings.quiet is not None
    assert settings.quiet.until(NOON_US) == NOON_US + HOUR_US


def test_the_examples_of_the_documentation_are_valid() -> None:
    """Everything docs/alerts.md shows can be written; every kind of channel and of rule is in it."""
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(examples) >= 3
    found = [settings_from(**parse_settings(example).alerts) for example in examples]
    assert {channel.kind for settings in found for channel in settings.channels} == set(CHANNEL_KINDS)
    assert {type(rule.what) for settings in found for rule in settings.rules} == set(get_args(What))
