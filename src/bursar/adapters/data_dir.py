"""The data directory: what is in it, and who may run a server on it.

Rule 1: one server at a time, by a lock that the operating system drops when the process dies.
Rule 2: everything in it is readable by its owner alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any, Final, TextIO

from bursar.core.errors import DataDirError, DataDirInUseError

__all__ = ["DataDir", "default_data_dir"]

_LOCK_TRIES: Final = 10
_LOCK_WAIT_S: Final = 0.05


def default_data_dir() -> Path:
    """``$BURSAR_DATA``, else ``bursar`` in the user's data directory."""
    if named := os.environ.get("BURSAR_DATA"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "bursar"


class DataDir:
    """The files of one installation. Creating it makes the directory."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise DataDirError(
                f"the data directory {path} cannot be made: {error.strerror}; choose another with --data"
            ) from None
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise DataDirError(f"the data directory {path} is not writable by this user; choose another with --data")

    @property
    def books(self) -> Path:
        return self.path / "books.sqlite3"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.duckdb"

    @property
    def traces(self) -> Path:
        return self.path / "traces.sqlite3"

    @property
    def cache(self) -> Path:
        return self.path / "cache.sqlite3"

    @property
    def evidence(self) -> Path:
        """What was found of similar answers: figures, no texts."""
        return self.path / "cache-evidence.json"

    def admin_token(self) -> str:
        """The secret that opens the console where it is not on loopback. Made on first use."""
        path = self.path / "admin.token"
        if path.exists() and (token := path.read_text(encoding="ascii").strip()):
            return token
        token = secrets.token_urlsafe(32)
        # Whole or not at all: an empty file, left by a full disk, would be a token that anybody knows.
        new = path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(token)
        new.replace(path)
        return token

    def claim(self, about: dict[str, Any]) -> TextIO:
        """Become the one server of this directory until the returned file is closed. Raises DataDirInUseError."""
        file = (self.path / "server.lock").open("a+", encoding="utf-8")
        if not _lock(file):
            file.seek(0)
            who = _describe(file.read())
            file.close()
            raise DataDirInUseError(
                f"the data directory {self.path} is in use by another server{who}; stop it, or choose another with --data"
            ) from None
        self.describe(file, about)
        return file

    def describe(self, claim: TextIO, about: dict[str, Any]) -> None:
        """What ``server`` answers from now on."""
        claim.seek(0)
        claim.truncate()
        json.dump({"pid": os.getpid(), **about}, claim)
        claim.flush()

    def server(self) -> dict[str, Any] | None:
        """What the running server said about itself, or None when none runs."""
        path = self.path / "server.lock"
        if not path.exists():
            return None
        with path.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read()
                return json.loads(text) if text else {}
        return None


def _lock(file: TextIO) -> bool:
    for _ in range(_LOCK_TRIES):  # a command that asks whether a server runs holds the lock for an instant
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_WAIT_S)
        else:
            return True
    return False


def _describe(text: str) -> str:
    try:
        about = json.loads(text)
        return f" (process {about['pid']}, {about['url']})"
    except (ValueError, KeyError, TypeError):
        return ""
