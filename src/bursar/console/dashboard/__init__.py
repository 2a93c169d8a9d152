"""The console's page: static files, and the headers they need.

Rule 1: nothing is loaded from anywhere else and nothing is inline, so that the policy below can be this strict.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from typing import Final

from bursar.console.answers import ApiAnswer

__all__ = ["page"]

_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "budgets.js": "text/javascript; charset=utf-8",
    "parts.js": "text/javascript; charset=utf-8",
    "task.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FILES: Final = {"/": "index.html", **{f"/console/{name}": name for name in _TYPES if name != "index.html"}}
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@cache
def page(path: str) -> ApiAnswer | None:
    """The file at ``/`` or ``/console/...``; None where there is none."""
    name = _FILES.get(path)
    if name is None:
        return None
    body = pkgutil.get_data(__name__, name)
    assert body is not None, f"{name} is part of this package"
    return ApiAnswer(200, {"content-type": _TYPES[name], **_HEADERS}, body)
