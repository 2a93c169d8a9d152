"""Channels: where notices go. One small file for each kind; here they are made from the configuration.

Rule 1: secrets are read from the given environment, here and nowhere else.
Rule 2: a channel that cannot be made is one that says so whenever something is sent: its notices wait, or are dead
        letters, and nothing else is kept from working.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bursar.core.alert_fields import AlertSettings, ChannelSpec
from bursar.core.deliveries import NotSent, Outcome
from bursar.engine.ports import Channel, Notice

from .alertmanager import AlertmanagerChannel
from .apprise_channel import AppriseChannel
from .http import ChannelHttp
from .pagerduty import EVENTS_URL, PagerDutyChannel
from .payloads import About
from .redact import HIDDEN, Redactor
from .slack import SlackChannel
from .smtp import EmailChannel
from .webhook import WebhookChannel, signing_key

__all__ = ["HIDDEN", "ChannelHttp", "Channels", "Redactor", "UnreadyChannel"]


class UnreadyChannel:
    """``engine.ports.Channel`` that cannot send, and why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name: Final = name
        self._reason = reason

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        return NotSent(self._reason)


class Channels:
    """All channels of a configuration, with what they share. Made in a running event loop; closed when it ends."""

    def __init__(self, settings: AlertSettings, environ: Mapping[str, str], *, timeout_s: int = 20) -> None:
        self._http = ChannelHttp(timeout_s=timeout_s)
        about = About(settings.source, settings.console_url)
        # Every channel hides the secrets of all: two of them may point at the same receiver.
        redact = Redactor(environ.get(name, "").strip() for spec in settings.channels for _, name in spec.env)
        self.by_name: Final[Mapping[str, Channel]] = {
            spec.name: _make(spec, self._http, redact, about, environ, timeout_s) for spec in settings.channels
        }

    async def close(self) -> None:
        for channel in self.by_name.values():
            if isinstance(channel, EmailChannel | AppriseChannel):
                channel.close()
        await self._http.close()


def _make(
    spec: ChannelSpec, http: ChannelHttp, redact: Redactor, about: About, environ: Mapping[str, str], timeout_s: int
) -> Channel:
    names = dict(spec.env)
    secrets = {field: environ.get(name, "").strip() for field, name in names.items()}
    for field, secret in secrets.items():
        if not secret:
            return UnreadyChannel(spec.name, f"the environment variable {names[field]} ({field}_env) is not set")
    url = secrets.get("url") or spec.url
    match spec.kind:
        case "webhook":
            try:
                key = signing_key(secrets.get("secret", ""))
            except ValueError as error:
                return UnreadyChannel(spec.name, f"the secret in {names['secret']} cannot be used: {error}")
            token = secrets.get("token", "")
            return WebhookChannel(spec.name, http, url, redact, about, key=key, token=token, format=spec.format)
        case "alertmanager":
            return AlertmanagerChannel(spec.name, http, url, redact, about, token=secrets.get("token", ""))
        case "slack":
            return SlackChannel(spec.name, http, url, redact, about)
        case "pagerduty":
            key_text = secrets["token"]
            return PagerDutyChannel(spec.name, http, url or EVENTS_URL, redact, about, routing_key=key_text)
        case "email":
            return EmailChannel(spec, redact, about, password=secrets.get("password", ""), timeout_s=timeout_s)
        case "apprise":
            return AppriseChannel(spec.name, url, redact, about)
