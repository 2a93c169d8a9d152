"""Who may ask the console, and who may change something through it.

Rule 1: without a token only requests that name a loopback host are answered, so that no web page can reach in by a
        DNS name of its own (https://en.wikipedia.org/wiki/DNS_rebinding).
Rule 2: with a token it is needed, as a bearer token or as the password of basic authentication.
Rule 3: a change must not come from another site's page, whose requests carry what the browser knows of the user
        (https://owasp.org/www-community/attacks/csrf): where the browser says where a request comes from, it must be
        the console's own page, and a body must be JSON, which no form can send and no other site without a preflight.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final
from urllib.parse import urlsplit

from bursar.engine.rsgi import HttpScope

from .answers import ApiAnswer, failure

__all__ = ["refused", "refused_change"]

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_OWN_SITE: Final = ("same-origin", "none")
_PORTS: Final = {"http": "80", "https": "443"}


def refused(scope: HttpScope, token: str | None) -> ApiAnswer | None:
    """The answer to whoever may not ask. ``token`` None: on loopback, none is needed."""
    if token is not None:
        if _has_token(scope.headers.get("authorization", ""), token):
            return None
        challenge = {"www-authenticate": 'Basic realm="Bursar", charset="UTF-8"'}
        text = "the console needs the admin token here; it is in admin.token in the server's data directory"
        return failure(401, text, field="authorization", headers=challenge)
    name, _ = _split(_host(scope))
    if name in _LOOPBACK:
        return None
    return failure(403, f"this console answers on localhost only, not as {name[:100]!r}", field="host")


def refused_change(scope: HttpScope) -> ApiAnswer | None:
    """The answer to a request that may ask and must not change anything."""
    site = scope.headers.get("sec-fetch-site")
    if site is not None and site.lower() not in _OWN_SITE:
        return failure(403, "only the console's own page may change something, not one of another site", field="origin")
    origins = scope.headers.get_all("origin")
    if len(origins) > 1 or (origins and not _is_own(origins[0], _host(scope))):
        text = f"only the console's own page may change something, not {', '.join(origins)[:100]!r}"
        return failure(403, text, field="origin")
    kind = scope.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A DELETE has no body to be of a type; no form can send one.
    if scope.method != "DELETE" and kind != "application/json":
        return failure(415, f"content-type {kind[:60]!r} is not possible; use application/json", field="content-type")
    return None


def _is_own(origin: str, host: str) -> bool:
    """Whether an Origin header names the host that was asked: the same name, or both loopback, at the same port."""
    try:
        parts = urlsplit(origin)
        default = _PORTS[parts.scheme]
    except (ValueError, KeyError):  # "null", and what is no web page
        return False
    own, other = _split(host), _split(parts.netloc)
    # Behind a proxy that ends TLS the host's port is that of the page's scheme, as the browser left it out of both.
    same_port = (own[1] or default) == (other[1] or default)
    return same_port and (own[0] == other[0] or (own[0] in _LOOPBACK and other[0] in _LOOPBACK))


def _host(scope: HttpScope) -> str:
    return scope.headers.get("host") or scope.authority or ""


def _split(host: str) -> tuple[str, str]:
    """Name and port of ``name:port``; the port may be missing."""
    name, colon, port = host.lower().rpartition(":")
    return (name, port) if colon and port.isdigit() else (host.lower(), "")


def _has_token(authorization: str, token: str) -> bool:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode(), token.encode())
