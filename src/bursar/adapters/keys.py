"""Virtual keys in the books' file.

Rule 1: a key is shown once, when it is made; only its SHA-256 is kept. It has 256 random bits: nothing to guess, so no
        slow hash is needed.
Rule 2: a revoked key stays in the list, and its name is not used again: old calls keep their meaning.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from bursar.core.errors import ConfigError
from bursar.core.scopes import SCOPE_COLUMNS, Scope
from bursar.engine.ports import VirtualKey

from .books_errors import books_error
from .books_file import BooksFile

__all__ = ["KEY_PREFIX", "KeyCache", "KeyStore", "StoredKey"]

KEY_PREFIX: Final = "bursar_"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_CHECK_EVERY_S: Final = 0.5
_KNOWN_MAX: Final = 10_000
_SECRET_LENGTH_MAX: Final = 128  # ours have 50; what is remembered of strangers' attempts stays small


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it can be listed. Times are microseconds since 1970."""

    name: str
    hint: str
    scope: Scope
    pinned: tuple[str, ...]
    created_us: int
    revoked_us: int | None


class _Kept(msgspec.Struct):
    scope: Scope
    pinned: tuple[str, ...] = ()


class KeyStore:
    """Makes, lists, revokes and finds keys."""

    def __init__(self, books: BooksFile, clock_us: Callable[[], int]) -> None:
        self._books = books
        self._clock_us = clock_us

    def create(self, name: str, scope: Scope, pinned: tuple[str, ...] = ()) -> str:
        """Returns the secret, which is not kept. Raises ConfigError for a bad or used name or an unknown pin."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"key name {name!r}: use up to 64 letters, digits and . _ @ -")
        for column in pinned:
            if column not in SCOPE_COLUMNS or not getattr(scope, column, ""):
                raise ConfigError(f"--pin {column}: the key has no {column} to pin; give it one with --{column}")
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        kept = msgspec.json.encode(_Kept(scope, pinned)).decode()

        def insert() -> int:
            return self._books.connection.execute(
                "INSERT INTO virtual_key (name, digest, hint, scope, created_us) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO NOTHING",
                (name, _digest(secret), secret[-4:], kept, self._clock_us()),
            ).rowcount

        if not self._books.transaction(insert):
            raise ConfigError(
                f"a key named {name!r} exists already; choose another name, or revoke it and use a new one"
            )
        return secret

    def revoke(self, name: str) -> bool:
        """False when there is no such key in force."""

        def update() -> int:
            return self._books.connection.execute(
                "UPDATE virtual_key SET revoked_us = ? WHERE name = ? AND revoked_us IS NULL", (self._clock_us(), name)
            ).rowcount

        return bool(self._books.transaction(update))

    def list(self) -> list[StoredKey]:
        rows: list[tuple[Any, ...]] = self._books.connection.execute(
            "SELECT name, hint, scope, created_us, revoked_us FROM virtual_key ORDER BY created_us, name"
        ).fetchall()
        keys: list[StoredKey] = []
        for name, hint, text, created_us, revoked_us in rows:
            kept = msgspec.json.decode(text, type=_Kept)
            keys.append(StoredKey(name, hint, kept.scope, kept.pinned, created_us, revoked_us))
        return keys

    def find(self, secret: str) -> VirtualKey | None:
        """The key in force with this secret."""
        row = self._books.connection.execute(
            "SELECT name, scope FROM virtual_key WHERE digest = ? AND revoked_us IS NULL", (_digest(secret),)
        ).fetchone()
        if row is None:
            return None
        kept = msgspec.json.decode(row[1], type=_Kept)
        return VirtualKey(row[0], replace(kept.scope, key=row[0]), kept.pinned)


class KeyCache:
    """``engine.ports.Keys`` for the hot path: remembers keys until the books change, at most half a second late."""

    def __init__(self, store: KeyStore, books: BooksFile) -> None:
        self._store = store
        self._books = books
        self._known: dict[str, VirtualKey | None] = {}
        self._version = books.data_version()
        self._checked = time.monotonic()

    def find(self, secret: str) -> VirtualKey | None:
        """Raises BooksError when the books cannot be read."""
        if len(secret) > _SECRET_LENGTH_MAX:
            return None
        try:
            return self._find(secret)
        except sqlite3.Error as error:
            raise books_error(error) from error

    def _find(self, secret: str) -> VirtualKey | None:
        now = time.monotonic()
        if now - self._checked > _CHECK_EVERY_S:
            self._checked = now
            version = self._books.data_version()
            if version != self._version:
                self._version = version
                self._known.clear()
        if secret in self._known:
            return self._known[secret]
        found = self._store.find(secret)
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[secret] = found
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
