"""The agents' HTTP client: what a real agent does with a provider's API, pointed at the gateway.

Rule 1: a call says who it is for in ``x-bursar-*`` headers; nothing else tells it from a call to the provider.
Rule 2: what fails is tried again, as agents do; every try is a call of its own and counted in ``calls``.
Rule 3: no proxy of the environment is used: everything here is on loopback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
from pyreqwest.client import Client as HttpClient
from pyreqwest.client import ClientBuilder

from bursar.core.errors import BursarError

__all__ = ["Client", "DemoError", "Said", "scope"]

_RETRIES_MAX: Final = 2
_RETRY_S: Final = 0.5
_TIMEOUT_S: Final = 60
_KEY: Final = "demo-key"

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class DemoError(BursarError):
    """The demo cannot go on."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered: its text or the arguments of its tool call, and the response's id where it is whole."""

    text: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class _Failed:
    what: str
    wait_s: float


def scope(columns: Mapping[str, str], *, step: str) -> dict[str, str]:
    """The headers of who a call is for: columns as the ledger names them, and what the call does as the label ``step``."""
    return {f"x-bursar-{name.replace('_', '-')}": value for name, value in columns.items()} | {
        "x-bursar-label-step": step
    }


class Client:
    """Calls the gateway at ``url``. ``speed`` shortens the waits before a new try."""

    def __init__(self, url: str, *, speed: float) -> None:
        self.calls = 0
        self._url = url
        self._speed = speed
        self._http: HttpClient = ClientBuilder().no_proxy().timeout(timedelta(seconds=_TIMEOUT_S)).build()

    async def close(self) -> None:
        await self._http.close()

    async def call(
        self,
        who: Mapping[str, str],
        path: str,
        body: Mapping[str, Any],
        *,
        fault: str | None = None,
    ) -> Said:
        """Make a call until it is answered. ``fault`` is what the simulator does to the first try. Raises DemoError."""
        said = await self._try(who, path, body, fault)
        for _ in range(_RETRIES_MAX):
            if isinstance(said, Said):
                return said
            await asyncio.sleep(said.wait_s / self._speed)
            said = await self._try(who, path, body, None)
        if isinstance(said, Said):
            return said
        raise DemoError(f"{path} failed {_RETRIES_MAX + 1} times, last with: {said.what}")

    async def leave(self, who: Mapping[str, str], path: str, body: Mapping[str, Any]) -> None:
        """Start a stream and go away before its first word, as people do who close the window."""
        request = self._request(who, path, body, "slow=600000").streamed_read_buffer_limit(0)
        async with request.build_streamed() as response:
            self.calls += 1
            await response.body_reader.read_chunk()

    def _request(self, who: Mapping[str, str], path: str, body: Mapping[str, Any], fault: str | None) -> Any:
        headers = {"content-type": "application/json", **_key(path), **who}
        if fault:
            headers["x-sim-fault"] = fault
        return self._http.post(self._url + path).headers(headers).body_bytes(_encode(body))

    async def _try(
        self, who: Mapping[str, str], path: str, body: Mapping[str, Any], fault: str | None
    ) -> Said | _Failed:
        async with self._request(who, path, body, fault).build_streamed() as response:
            self.calls += 1
            data = bytes(await response.bytes())
        if response.status >= 400:
            wait_s = float(response.get_header("retry-after") or _RETRY_S)
            return _Failed(f"{response.status} {data[:300].decode(errors='replace')}", wait_s)
        return _read_stream(data) if body.get("stream") else Said(id=str(_decode(data).get("id", "")))


def _key(path: str) -> dict[str, str]:
    """The provider's key, where its own SDK puts it."""
    if path.startswith("/v1/messages"):
        return {"x-api-key": _KEY, "anthropic-version": "2023-06-01"}
    if path.startswith("/v1beta/"):
        return {"x-goog-api-key": _KEY}
    return {"authorization": f"Bearer {_KEY}"}


def _read_stream(data: bytes) -> Said | _Failed:
    """The text of a stream of events, in any of the dialects; a stream that ends with an error failed."""
    parts: list[str] = []
    for line in data.splitlines():
        if not line.startswith(b"data: {"):
            continue
        event = _decode(line[6:])
        if event.get("error"):
            return _Failed(str(event["error"]), _RETRY_S)
        parts.append(_text(event))
    return Said("".join(parts))


def _text(event: dict[str, Any]) -> str:
    """The text or the piece of arguments in one event of Anthropic's messages or OpenAI's chat."""
    delta: Any = event.get("delta")
    if isinstance(delta, dict):
        return _first_text(delta, "text", "partial_json")
    for choice in event.get("choices") or ():
        delta = choice["delta"]
        for tool in delta.get("tool_calls") or ():
            return _first_text(tool["function"], "arguments")
        return _first_text(delta, "content")
    return ""


def _first_text(fields: Any, *names: str) -> str:
    return next((text for name in names if isinstance(text := fields.get(name), str)), "")
