"""Whose cached answers a caller may be given.

Rule 1: two callers with different keys are different tenants, unless both keys are ours and the route shares them within the
        team or the organisation that the keys themselves state. What a caller says about itself only ever divides further.
Rule 2: a key is known by its name if it is ours, by a digest if it is the client's own; it is never kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

from bursar.core.caching import Share
from bursar.core.scopes import Scope
from bursar.engine.callers import KEY_HEADERS, Caller

__all__ = ["client_digest", "key_digest", "tenant_of"]


def tenant_of(caller: Caller, headers: Mapping[str, str], scope: Scope, share: Share) -> str:
    """The tenant, as text that is the same for the same one."""
    key = caller.key
    if key is not None and share in ("team", "org"):
        columns = (key.scope.org, key.scope.team) if share == "team" else (key.scope.org,)
        if all(columns[-1:]):
            return _joined(share, *columns)
    who = f"key {key.name}" if key is not None else f"client {client_digest(caller, headers)}"
    parts = [who, scope.org, scope.team, scope.project]
    if share in ("user", "agent"):
        parts += [scope.user] if share == "user" else [scope.user, scope.agent]
    return _joined(share, *parts)


def client_digest(caller: Caller, headers: Mapping[str, str]) -> str:
    """What tells clients with keys of their own apart, "" for one without any. All of their keys do: any may be the one that counts."""
    keys = [headers.get(name, "") for name in KEY_HEADERS]
    return key_digest("\n".join((*keys, caller.query_key or "")) if any(keys) or caller.query_key else "")


def key_digest(secret: str) -> str:
    return blake2b(secret.encode(), digest_size=16, person=b"bursar tenant").hexdigest() if secret else ""


def _joined(*parts: str) -> str:
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
