"""With which key a call goes on (who calls: ``engine.callers``).

Rule 1: where the caller showed a key of ours, the provider's key comes from the server's environment.
Rule 2: any other key is the client's own and goes on to the provider as it came, never stored and never logged.
Rule 3: a key that was in the URL is sent on as a header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bursar.engine.callers import KEY_HEADERS, Caller, Unauthorized
from bursar.engine.rulebook import ProviderRule
from bursar.wire.context import HEADER_PREFIX

__all__ = ["NoKeyError", "fallback_headers", "upstream_headers"]

_NOT_FORWARDED: Final = frozenset(
    {
        "host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade",
        "proxy-authorization", "proxy-connection", "accept-encoding", "expect", "baggage",
    }
)  # fmt: skip


# What belongs to one provider's own API, and says nothing to another's.
_OF_A_DIALECT: Final = (
    "anthropic-",
    "openai-",
    "x-goog-",
    "x-stainless-",
    "content-type",
    "accept",
    "authorization",
    "x-api-key",
)


class NoKeyError(Exception):
    """The server has no key for a provider that it is to ask for itself."""


def fallback_headers(
    headers: Sequence[tuple[str, str]], rule: ProviderRule, *, own: Sequence[tuple[str, str]], kept: bool
) -> tuple[tuple[str, str], ...]:
    """The headers to send to another provider than the one that was asked: its key is the server's, never the client's.

    ``own`` are what its dialect needs; ``kept``: it speaks the client's, whose other headers go along. Raises NoKeyError.
    """
    try:
        key = _provider_key(rule)
    except Unauthorized as error:
        raise NoKeyError(str(error)) from None
    made = [
        (name, value)
        for name, value in headers
        if name not in _NOT_FORWARDED
        and name not in KEY_HEADERS
        and not name.startswith(HEADER_PREFIX)
        and not (not kept and name.startswith(_OF_A_DIALECT))
    ]
    if not kept:
        made += [("content-type", "application/json"), *own]
    return (*made, *key)


def upstream_headers(
    headers: Sequence[tuple[str, str]], caller: Caller, rule: ProviderRule
) -> tuple[tuple[str, str], ...]:
    """The headers to send on. Raises Unauthorized when a virtual key needs a provider key that the server lacks."""
    ours = caller.key is not None
    kept = [
        (name, value)
        for name, value in headers
        if name not in _NOT_FORWARDED and not name.startswith(HEADER_PREFIX) and not (ours and name in KEY_HEADERS)
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
