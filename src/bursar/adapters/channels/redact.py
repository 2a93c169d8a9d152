"""Takes secrets out of text that people see: errors of channels, of servers, of libraries.

Rule 1: known secrets go first, whole and in the forms in which they travel: percent-encoded, JSON, base64, and the parts
        of a URL on their own. The longest goes first, so that no piece of it is left.
Rule 2: then every URL in the text loses all but its scheme and host, whether it is known or not.
Rule 3: text is cut after this, never before; a secret that was cut by somebody else is found by its beginning.
"""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

__all__ = ["HIDDEN", "Redactor"]

HIDDEN: Final = "***"

_REASON_LENGTH_MAX: Final = 300
_PART_LENGTH_MIN: Final = 4  # a shorter part of a URL ("v1", "api") says nothing, and is in every text
_WORD_LENGTH_MIN: Final = 8
_URL: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20}:(?:\\?/){2})([^\s\"'<>]+)")
_SEPARATOR: Final = re.compile(r"[/\\?#]")


class Redactor:
    """Knows the secrets of one channel."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        secrets = [secret for secret in secrets if secret]
        # A secret of a letter or two cannot be taken out of a text, only the text can.
        self._short = tuple(secret for secret in secrets if len(secret) < _PART_LENGTH_MIN)
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= _PART_LENGTH_MIN}
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))

    def __call__(self, text: str, length_max: int = _REASON_LENGTH_MAX) -> str:
        """The text on one line, without secrets, at most ``length_max`` characters long."""
        if any(secret in text for secret in self._short):
            return HIDDEN
        for form in self._forms:
            text = re.sub(re.escape(form), HIDDEN, text, flags=re.IGNORECASE)
        text = self._without_beginning(text)
        text = _URL.sub(_bare_url, text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= length_max else f"{text[: length_max - 3]}..."

    def _without_beginning(self, text: str) -> str:
        """Without the beginning of a secret at the end of the text, where somebody cut it."""
        for form in self._forms:
            for length in range(min(len(form) - 1, len(text)), _PART_LENGTH_MIN - 1, -1):
                if text[-length:].lower() == form[:length].lower():
                    return text[:-length] + HIDDEN
        return text


def _bare_url(found: re.Match[str]) -> str:
    authority = _SEPARATOR.split(found[2], maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    rest = "/" + HIDDEN if len(found[2]) > len(authority) + 1 else ""
    return f"{found[1]}{host}{rest}"


def _forms(secret: str) -> Iterator[str]:
    for part in (secret, secret.strip(), *_url_parts(secret)):
        for text in {part, unquote(part)}:
            yield text
            yield quote(text, safe="")
            yield quote(text)
            yield quote_plus(text)
            yield text.replace("/", "\\/")
            yield text.replace("\\", "\\\\").replace('"', '\\"')
            yield b64encode(text.encode()).decode().rstrip("=")
            yield urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _url_parts(secret: str) -> Iterator[str]:
    if "://" not in secret:
        return
    try:
        parts = urlsplit(secret)
        userinfo, at, host = parts.netloc.rpartition("@")
    except ValueError:
        return
    yield secret.partition("://")[2]
    if at:
        yield userinfo
        yield from userinfo.split(":", 1)
    # The host of http(s) is shown: it tells people which receiver failed. Of other schemes it may be a token.
    if parts.scheme not in ("http", "https") and len(host) >= _WORD_LENGTH_MIN:
        yield host
    if len(parts.path) >= _PART_LENGTH_MIN:
        yield parts.path
    yield from (segment for segment in parts.path.split("/") if len(segment) >= _WORD_LENGTH_MIN)
    yield parts.query
    yield from (value for _, value in parse_qsl(parts.query))
    yield parts.fragment
