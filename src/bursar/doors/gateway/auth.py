"""Who calls, and with which key the call goes on.

Rule 1: a key of ours (``bursar_...``) must be known; the provider's key then comes from the server's environment.
Rule 2: any other key is the client's own and goes on to the provider as it came, never stored and never logged.
Rule 3: where keys are required, a call without one of ours is refused.
Rule 4: a key in a URL (Gemini's ``?key=``) is taken out of it and sent on as a header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final
from urllib.parse import parse_qsl, urlencode

from bursar.core.values import valueclass
from bursar.engine.ports import Keys, VirtualKey
from bursar.engine.rulebook import ProviderRule
from bursar.wire.context import HEADER_PREFIX

__all__ = ["Caller", "Unauthorized", "identify", "upstream_headers"]

KEY_PREFIX: Final = "bursar_"

# Where the SDKs put their keys, in the order they are looked for.
_KEY_HEADERS: Final = ("authorization", "x-api-key", "x-goog-api-key", "api-key")

_NOT_FORWARDED: Final = frozenset(
    {
        "host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
        "proxy-authorization", "proxy-connection", "accept-encoding", "expect", "baggage",
    }
)  # fmt: skip


class Unauthorized(Exception):  # noqa: N818 - it becomes an answer, not a failure of the program
    """The caller has no key that counts."""


@valueclass
class Caller:
    """A virtual key, or None when the caller brought a key of its own. ``query`` is without any key."""

    key: VirtualKey | None
    query: str
    query_key: str | None = field(default=None, repr=False)


def identify(headers: Mapping[str, str], query: str, keys: Keys, *, require_keys: bool) -> Caller:
    """Raises Unauthorized."""
    query_key = None
    if "key=" in query:
        pairs = parse_qsl(query, keep_blank_values=True)
        query_key = next((value for name, value in pairs if name == "key"), None)
        query = urlencode([pair for pair in pairs if pair[0] != "key"])
    secret = _secret(headers, query_key or "")
    if secret.startswith(KEY_PREFIX):
        key = keys.find(secret)
        if key is None:
            raise Unauthorized("this Bursar key is not known or was revoked; make one with `bursar keys create NAME`")
        return Caller(key, query)
    if require_keys:
        raise Unauthorized(
            "a Bursar key is required here (server.require_keys); make one with `bursar keys create NAME`"
        )
    return Caller(None, query, query_key)


def _secret(headers: Mapping[str, str], query_key: str) -> str:
    """The key that counts: one of ours wherever it is (clients may send two), else the first."""
    first = ""
    for name in _KEY_HEADERS:
        value = headers.get(name)
        if value:
            value = value[7:].strip() if name == "authorization" and value[:7].lower() == "bearer " else value
            if value.startswith(KEY_PREFIX):
                return value
            first = first or value
    return query_key if query_key.startswith(KEY_PREFIX) else first or query_key


def upstream_headers(
    headers: Sequence[tuple[str, str]], caller: Caller, rule: ProviderRule
) -> tuple[tuple[str, str], ...]:
    """The headers to send on. Raises Unauthorized when a virtual key needs a provider key that the server lacks."""
    ours = caller.key is not None
    kept = [
        (name, value)
        for name, value in headers
        if name not in _NOT_FORWARDED and not name.startswith(HEADER_PREFIX) and not (ours and name in _KEY_HEADERS)
    ]
    if ours:
        kept.extend(_provider_key(rule))
    elif caller.query_key is not None and all(name != "x-goog-api-key" for name, _ in kept):
        kept.append(("x-goog-api-key", caller.query_key))
    return tuple(kept)


def _provider_key(rule: ProviderRule) -> list[tuple[str, str]]:
    provider = rule.provider
    if not rule.key:
        if not provider.key_env:
            return []
        raise Unauthorized(
            f"the server has no key for {provider.id}: set {provider.key_env} in its environment and start it again"
        )
    if provider.auth == "bearer":
        return [("authorization", f"Bearer {rule.key}")]
    return [(provider.auth, rule.key)]
