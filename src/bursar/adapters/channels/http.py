"""How channels speak HTTP.

Rule 1: one request, no redirects, TLS verified; bounded in time and in what is read of the answer.
Rule 2: 2xx is taken, 408, 425, 429 and 5xx are tried again, anything else is refused for good: asking again would get
        the same answer.
Rule 3: a failure says who failed and how. It has gone through the channel's ``Redactor``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PyreqwestError, RequestTimeoutError

from bursar.core.deliveries import RETRY_AFTER_S_MAX, NotSent, Outcome, Sent

from .redact import Redactor

__all__ = ["ChannelHttp"]

TIMEOUT_S: Final = 20
_CONNECT_TIMEOUT_S: Final = 10
_ANSWER_BYTES_MAX: Final = 2_000
_RETRIED: Final = (408, 425, 429)


class ChannelHttp:
    """One client for all channels of a process."""

    def __init__(self, *, timeout_s: int = TIMEOUT_S) -> None:
        self._client: Client = (
            ClientBuilder()
            .connect_timeout(timedelta(seconds=min(_CONNECT_TIMEOUT_S, timeout_s)))
            .timeout(timedelta(seconds=timeout_s))
            .follow_redirects(False)
            .referer(False)
            .user_agent("bursar")
            .build()
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, redact: Redactor) -> Outcome:
        """Never raises but for cancellation."""
        try:
            builder = self._client.post(url).headers({"content-type": "application/json", **headers}).body_bytes(body)
            async with builder.build_streamed() as response:
                return await _outcome(response, url, redact)
        except BuilderError:
            # Its text repeats the address.
            return NotSent("the address is not a URL that can be asked", retry=False)
        except PyreqwestError as error:
            what = "did not answer in time" if isinstance(error, RequestTimeoutError) else "could not be reached"
            return NotSent(redact(f"{_host(url)} {what}: {_cause(error)}"))
        except ValueError:  # a header that cannot be: a token with a line break in it
            return NotSent("a header could not be made: is there a line break in a token?", retry=False)

    async def close(self) -> None:
        await self._client.close()


async def _outcome(response: Any, url: str, redact: Redactor) -> Outcome:
    status: int = response.status
    if 200 <= status < 300:
        return Sent()
    if 300 <= status < 400:
        return NotSent(
            f"{_host(url)} answers {status}, a redirect: put the final address into the configuration", retry=False
        )
    text = redact(await _beginning(response))
    reason = redact(f"{_host(url)} answers {status}" + (f": {text}" if text else ""))
    if status in _RETRIED or status >= 500:
        return NotSent(reason, after_s=_after_s(response.get_header("retry-after")))
    return NotSent(reason, retry=False)


async def _beginning(response: Any) -> str:
    body = b""
    try:
        while len(body) < _ANSWER_BYTES_MAX and (chunk := await response.body_reader.read_chunk()) is not None:
            body += bytes(chunk)
    except PyreqwestError:  # the status is known; what follows it only explains
        pass
    return body[:_ANSWER_BYTES_MAX].decode(errors="replace")


def _after_s(value: str | None) -> int:
    """Seconds from ``Retry-After``, a number or a date; 0 where there is none that can be read."""
    if value is None:
        return 0
    if value.strip().isdigit():
        return min(int(value.strip()[:9]), RETRY_AFTER_S_MAX)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return max(0, min(int((at - datetime.now(timezone.utc)).total_seconds()), RETRY_AFTER_S_MAX))


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the address"
    except ValueError:
        return "the address"


def _cause(error: PyreqwestError) -> str:
    causes = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    texts = [cause["message"] for cause in causes or ()]
    return (texts or [type(error).__name__])[-1]
