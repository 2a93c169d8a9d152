"""Who calls a door of ours over HTTP, by the key that is shown.

Rule 1: a key of ours (``bursar_...``) must be known, wherever it is in the request.
Rule 2: where keys are required, a request without one of ours is refused.
Rule 3: a key in a URL (Gemini's ``?key=``) is taken out of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Final
from urllib.parse import parse_qsl, urlencode

from bursar.core.values import valueclass

from .ports import Keys, VirtualKey

__all__ = ["KEY_HEADERS", "KEY_PREFIX", "Caller", "Unauthorized", "identify"]

KEY_PREFIX: Final = "bursar_"

KEY_HEADERS: Final = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
"""Where the SDKs put their keys, in the order they are looked for."""


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
    for name in KEY_HEADERS:
        value = headers.get(name)
        if value:
            value = value[7:].strip() if name == "authorization" and value[:7].lower() == "bearer " else value
            if value.startswith(KEY_PREFIX):
                return value
            first = first or value
    return query_key if query_key.startswith(KEY_PREFIX) else first or query_key
