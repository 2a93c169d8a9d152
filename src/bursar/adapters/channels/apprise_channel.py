"""Anything that apprise knows: https://github.com/caronc/apprise. An optional extra.

Rule 1: its URLs are secrets. Nothing of what it or its HTTP client says is logged below a warning, for they log addresses.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Final

from bursar.core.deliveries import NotSent, Outcome, Sent
from bursar.engine.ports import Notice

from .payloads import About, label, plain_text, title
from .redact import Redactor

__all__ = ["AppriseChannel"]

_MISSING: Final = 'apprise is not installed: pip install "bursar[apprise]"'


class AppriseChannel:
    """``engine.ports.Channel``."""

    def __init__(self, name: str, url: str, redact: Redactor, about: About) -> None:
        self.name: Final = name
        self._url = url
        self._redact = redact
        self._about = about
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"apprise-{name}")

    async def send(self, notice: Notice, *, now_us: int) -> Outcome:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._deliver, notice)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, notice: Notice) -> Outcome:
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        for name in ("urllib3", "requests", "requests_oauthlib"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            library: Any = import_module("apprise")
        except ImportError:
            return NotSent(_MISSING, retry=False)
        scheme = self._url.partition("://")[0][:20] if "://" in self._url else ""
        try:
            target = library.Apprise()
            if not target.add(self._url):
                return NotSent(
                    self._redact(f"apprise does not understand the address ({scheme or 'no scheme'})"), retry=False
                )
            severity = label(notice, "severity")
            kind = (
                "success"
                if notice.event == "resolved"
                else {"critical": "failure", "info": "info"}.get(severity, "warning")
            )
            taken = target.notify(title=title(notice), body=plain_text(notice, self._about), notify_type=kind)
        except Exception as error:  # noqa: BLE001 - two hundred services of somebody else: each fails in its own way
            return NotSent(self._redact(f"apprise failed ({scheme}): {type(error).__name__}"))
        # It does not say why, nor whether it is for good.
        return Sent() if taken else NotSent(self._redact(f"apprise could not deliver it ({scheme}://)"))
