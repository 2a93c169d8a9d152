"""Kept answers as bytes, encrypted where there is a key.

Rule 1: with a key, the body and the response's id are encrypted (AES-256-GCM). The entry's key and all that is kept beside the
        body is authenticated: an entry that somebody moved or changed is none.
Rule 2: what cannot be read (another key, no key, not encrypted where it should be, damaged) is not there. It is said once.
Rule 3: the first of several keys encrypts, all of them read: a new key goes in front of the old one, which goes when what it
        encrypted is gone.
Rule 4: a nonce is 96 random bits, so that one key is good for four billion entries (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import os
import re
from dataclasses import replace
from typing import Any, Final

import msgspec

from bursar.core.caching import CacheEntry
from bursar.core.errors import ConfigError

__all__ = ["Cipher", "Packing"]

_log = logging.getLogger("bursar.cache")

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_NAME_BYTES: Final = 4
_LENGTH_BYTES: Final = 4
_PLAIN, _SEALED = b"\x01", b"\x02"

_encode: Final = msgspec.msgpack.Encoder().encode
_entry: Final = msgspec.msgpack.Decoder(CacheEntry)
_secret: Final = msgspec.msgpack.Decoder(tuple[bytes, str])


class Cipher:
    """AES-256-GCM with one or several keys: ``keys`` is each of them as 32 bytes in base64, separated by commas or spaces.

    Raises ConfigError, which never shows a key. ``name`` is the environment variable that they come from.
    """

    def __init__(self, keys: str, name: str) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError:
            raise ConfigError(
                "the cache is to be encrypted, and the package for it is missing: install bursar[encryption]"
            ) from None
        self._invalid: type[Exception] = InvalidTag
        self._keys: dict[bytes, Any] = {}
        for number, text in enumerate(filter(None, re.split(r"[\s,]+", keys)), 1):
            secret = _decoded(text)
            if secret is None:
                raise ConfigError(
                    f"{name}: key {number} is not 32 bytes in base64; make one with: openssl rand -base64 32"
                )
            self._keys.setdefault(_name_of(secret), AESGCM(secret))
        if not self._keys:
            raise ConfigError(f"{name} has no key for the cache; make one with: openssl rand -base64 32")
        self._first = next(iter(self._keys))

    def seal(self, data: bytes, bound: bytes) -> bytes:
        """Encrypt ``data``; ``bound`` must be the same when it is opened."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._first + nonce + self._keys[self._first].encrypt(nonce, data, bound)

    def open(self, data: bytes, bound: bytes) -> bytes | None:
        """What was sealed, None where it was not with these keys and ``bound``."""
        key = self._keys.get(data[:_NAME_BYTES])
        nonce = data[_NAME_BYTES : _NAME_BYTES + _NONCE_BYTES]
        if key is None or len(nonce) < _NONCE_BYTES:
            return None
        try:
            return key.decrypt(nonce, data[_NAME_BYTES + _NONCE_BYTES :], bound)
        except self._invalid:
            return None


def _decoded(text: str) -> bytes | None:
    try:
        secret = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if len(secret) == _KEY_BYTES else None


def _name_of(secret: bytes) -> bytes:
    """What says which key it was, and nothing of it."""
    return hashlib.blake2b(secret, digest_size=_NAME_BYTES, person=b"bursar-cache-key").digest()


class Packing:
    """From entries to bytes and back, as every store keeps them."""

    def __init__(self, cipher: Cipher | None) -> None:
        self._cipher = cipher
        self._said = False

    def pack(self, entry: CacheEntry) -> bytes:
        if self._cipher is None:
            return _PLAIN + _encode(entry)
        head = _encode(replace(entry, body=b"", response_id=""))
        sealed = self._cipher.seal(_encode((entry.body, entry.response_id)), _bound(entry.key, head))
        return _SEALED + len(head).to_bytes(_LENGTH_BYTES, "big") + head + sealed

    def unpack(self, key: str, data: bytes) -> CacheEntry | None:
        """The entry that was packed under this key, None where it cannot be read (rule 2)."""
        try:
            entry = self._plain(data) if self._cipher is None else self._opened(self._cipher, key, data)
        except (msgspec.MsgspecError, RecursionError):
            entry = None
        if entry is None or entry.key != key:
            self._say()
            return None
        return entry

    def _plain(self, data: bytes) -> CacheEntry | None:
        return _entry.decode(memoryview(data)[1:]) if data[:1] == _PLAIN else None

    def _opened(self, cipher: Cipher, key: str, data: bytes) -> CacheEntry | None:
        begin = 1 + _LENGTH_BYTES
        end = begin + int.from_bytes(data[1:begin], "big")
        head = data[begin:end]
        secret = cipher.open(data[end:], _bound(key, head)) if data[:1] == _SEALED else None
        if secret is None:
            return None
        body, response_id = _secret.decode(secret)
        return replace(_entry.decode(head), body=body, response_id=response_id)

    def _say(self) -> None:
        if not self._said:
            self._said = True
            _log.warning(
                "an entry of the cache cannot be read with %s: it counts as a miss, and so does every other one like it",
                "the keys given" if self._cipher else "no key",
            )


def _bound(key: str, head: bytes) -> bytes:
    return key.encode() + b"\n" + head
