"""A webhook of your own, signed as Standard Webhooks says.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Rule 1: ``webhook-id`` is the same however often a notice is sent: receivers know by it what they have seen.
Rule 2: what is signed is ``id.timestamp.body``, byte for byte what is sent; the timestamp is that of the attempt.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Any, Final, Literal

from bursar.core.deliveries import Outcome
from bursar.engine.ports import Notice

from .http import ChannelHttp
from .payloads import About, dedup_key, iso, json_bytes
from .redact import Redactor

__all__ = ["WebhookChannel", "signing_key"]

_PREFIX: Final = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key of a secret: base64 after ``whsec_``, the bytes of any other text. Raises ValueError."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    text = secret.removeprefix(_PREFIX)
    try:
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except Base64Error:
        key = b""
    if not key:
        raise ValueError("after whsec_ there must be base64")
    return key


class WebhookChannel:
    """``engine.ports.Channel``. ``key`` b"": not signed. ``token`` "": no Authorization header."""

    def __init__(
        self,
        name: str,
        http: ChannelHttp,
        url: str,
        redact: Redactor,
        about: About,
        *,
        key: bytes,
        token: str,
        format: Literal["bursar", "alertmanager"],  # noqa: A002 - the word of the configuration
    ) -> None:
        self.name: Final = name
        self._http = http
        self._url = url
        self._redact = redact
        self._about = about
        self._key = key
        self._token = token
        self._format = format

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        made = (
            _alertmanager(self.name, notice, self._about)
            if self._format == "alertmanager"
            else _own(notice, self._about)
        )
        body = json_bytes(made)
        timestamp = str(now_us // 1_000_000)
        headers = {"webhook-id": notice.id, "webhook-timestamp": timestamp}
        if self._key:
            signed = hmac.new(self._key, f"{notice.id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{b64encode(signed).decode()}"
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        return await self._http.post(self._url, headers, body, self._redact)


def _own(notice: Notice, about: About) -> dict[str, Any]:
    at_us = notice.resolved_us if notice.resolved_us is not None else notice.fired_us
    return {
        "type": f"alert.{notice.event}",
        "timestamp": iso(at_us),
        "data": {
            "id": notice.id,
            "key": notice.key,
            "status": notice.event,
            "labels": dict(notice.labels),
            "annotations": dict(notice.annotations),
            "fired_at": iso(notice.fired_us),
            "resolved_at": None if notice.resolved_us is None else iso(notice.resolved_us),
            "source": about.source,
            "url": about.console_url or None,
            "test": notice.test,
        },
    }


def _alertmanager(name: str, notice: Notice, about: About) -> dict[str, Any]:
    """What Alertmanager sends to its webhooks, version 4: what reads that reads this."""
    labels, annotations = dict(notice.labels), dict(notice.annotations)
    return {
        "version": "4",
        "groupKey": notice.key,
        "truncatedAlerts": 0,
        "status": notice.event,
        "receiver": name,
        "groupLabels": {"alertname": labels.get("alertname", "")},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": about.console_url,
        "alerts": [
            {
                "status": notice.event,
                "labels": labels,
                "annotations": annotations,
                "startsAt": iso(notice.fired_us),
                "endsAt": "0001-01-01T00:00:00Z" if notice.resolved_us is None else iso(notice.resolved_us),
                "generatorURL": about.console_url,
                "fingerprint": dedup_key(notice, about)[-16:],
            }
        ],
    }
