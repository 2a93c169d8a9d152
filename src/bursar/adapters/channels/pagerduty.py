"""PagerDuty, by its Events API v2: what fires triggers an incident, its end resolves it.

https://developer.pagerduty.com/docs/events-api-v2/trigger-events/

Rule 1: the routing key travels in the body. An answer that repeats the body is redacted like any other.
"""

from __future__ import annotations

from typing import Any, Final

from bursar.core.deliveries import Outcome
from bursar.engine.ports import Notice

from .http import ChannelHttp
from .payloads import About, annotation, dedup_key, iso, json_bytes, label, title
from .redact import Redactor

__all__ = ["EVENTS_URL", "PagerDutyChannel"]

EVENTS_URL: Final = "https://events.pagerduty.com/v2/enqueue"
_SUMMARY_LENGTH_MAX: Final = 1_024


class PagerDutyChannel:
    """``engine.ports.Channel``. ``url`` is another one for accounts in the EU."""

    def __init__(
        self, name: str, http: ChannelHttp, url: str, redact: Redactor, about: About, *, routing_key: str
    ) -> None:
        self.name: Final = name
        self._http = http
        self._url = url
        self._redact = redact
        self._about = about
        self._routing_key = routing_key

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        event: dict[str, Any] = {
            "routing_key": self._routing_key,
            "event_action": "resolve" if notice.event == "resolved" else "trigger",
            "dedup_key": dedup_key(notice, self._about),
            "payload": {
                "summary": title(notice)[:_SUMMARY_LENGTH_MAX],
                "source": self._about.source,
                "severity": label(notice, "severity") or "warning",
                "timestamp": iso(notice.fired_us),
                "component": label(notice, "budget") or label(notice, "provider") or "bursar",
                "class": label(notice, "alertname"),
                "custom_details": {
                    **dict(notice.labels),
                    "description": annotation(notice, "description"),
                    "way_out": annotation(notice, "way_out"),
                },
            },
        }
        if self._about.console_url:
            event["client"], event["client_url"] = "Bursar", self._about.console_url
        return await self._http.post(self._url, {}, json_bytes(event), self._redact)
