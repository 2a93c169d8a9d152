"""Slack, by an incoming webhook. Whoever knows its address can post: it is a secret.

Rule 1: names that strangers chose are data: they mention nobody (``<!channel>``) and link nowhere.
"""

from __future__ import annotations

from typing import Any, Final

from bursar.core.deliveries import Outcome
from bursar.engine.ports import Notice

from .http import ChannelHttp
from .payloads import About, annotation, iso, json_bytes, title
from .redact import Redactor

__all__ = ["SlackChannel"]

# https://api.slack.com/reference/block-kit: header 150 characters, section text 3,000, context element 2,000.
_HEADER_LENGTH_MAX: Final = 150
_SECTION_LENGTH_MAX: Final = 2_900
_CONTEXT_LENGTH_MAX: Final = 1_900


class SlackChannel:
    """``engine.ports.Channel``."""

    def __init__(self, name: str, http: ChannelHttp, url: str, redact: Redactor, about: About) -> None:
        self.name: Final = name
        self._http = http
        self._url = url
        self._redact = redact
        self._about = about

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        return await self._http.post(self._url, {}, json_bytes(_message(notice, self._about)), self._redact)


def _message(notice: Notice, about: About) -> dict[str, Any]:
    text = annotation(notice, "description")
    if notice.event == "resolved" and notice.resolved_us is not None:
        text = f"Over since {iso(notice.resolved_us)}. When it fired: {text}"
    elif way_out := annotation(notice, "way_out"):
        text += f"\n{way_out}"
    labels = "  ".join(f"{name}={value}" for name, value in notice.labels)
    context = f"{labels}  source={about.source}" + (f"  {about.console_url}" if about.console_url else "")
    return {
        # Notifications show this one; the blocks are what is read.
        "text": _escaped(title(notice)),
        "blocks": [
            {"type": "header", "text": _plain(title(notice), _HEADER_LENGTH_MAX)},
            {"type": "section", "text": _plain(text, _SECTION_LENGTH_MAX)},
            {"type": "context", "elements": [_plain(context, _CONTEXT_LENGTH_MAX)]},
        ],
    }


def _plain(text: str, length_max: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": text[:length_max] or "-", "emoji": False}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
