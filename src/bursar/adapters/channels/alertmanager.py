"""A real Alertmanager, by ``POST /api/v2/alerts``: it groups, silences and routes.

Rule 1: an alert without an end is over for Alertmanager after its ``resolve_timeout``, unless it is sent again and again.
        We say once that it fires and once that it is over, so what fires ends far in the future.
"""

from __future__ import annotations

from typing import Final

from bursar.core.deliveries import Outcome
from bursar.engine.ports import Notice

from .http import ChannelHttp
from .payloads import About, iso, json_bytes
from .redact import Redactor

__all__ = ["AlertmanagerChannel"]

# The longest window that an alert can fire in is a year.
_ENDS_AFTER_US: Final = 366 * 86_400_000_000


class AlertmanagerChannel:
    """``engine.ports.Channel``."""

    def __init__(self, name: str, http: ChannelHttp, url: str, redact: Redactor, about: About, *, token: str) -> None:
        self.name: Final = name
        self._http = http
        self._url = f"{url.rstrip('/')}/api/v2/alerts"
        self._redact = redact
        self._about = about
        self._token = token

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        ends_us = notice.resolved_us if notice.resolved_us is not None else notice.fired_us + _ENDS_AFTER_US
        alert = {
            "labels": {**dict(notice.labels), "source": self._about.source},
            "annotations": dict(notice.annotations),
            "startsAt": iso(notice.fired_us),
            "endsAt": iso(ends_us),
        }
        if self._about.console_url:
            alert["generatorURL"] = self._about.console_url
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        return await self._http.post(self._url, headers, json_bytes([alert]), self._redact)
