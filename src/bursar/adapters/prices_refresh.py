"""Newer prices from a source outside: read, compare, write.

Rule 1: a source is read and checked whole before anything is written. A mistake in it names its place.
Rule 2: ``price-changes.jsonl`` is written before ``prices.json``: no price is ever in force without its record.
Rule 3: ``prices.json`` is replaced as a whole, and only when something changes.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from bursar.core.price_merge import Merged, merge_price_lists
from bursar.core.pricelist import check_price_list

from .prices_file import PRICES_FILE, bundled_price_list, price_list_text, read_price_list
from .prices_genai import convert, installed_price_list

__all__ = ["CHANGES_FILE", "PACKAGE", "plan_refresh", "read_source", "write_refresh"]

CHANGES_FILE: Final = "price-changes.jsonl"
PACKAGE: Final = "package"
"""The source that is the installed genai-prices package."""

SOURCE_BYTES_MAX: Final = 32_000_000
_CONNECT_TIMEOUT_S: Final = 15
_TOTAL_TIMEOUT_S: Final = 60


def read_source(source: str) -> dict[str, Any]:
    """The checked price list of a source: ``package``, an http(s) URL, or a file; ours or genai-prices' JSON.

    Raises ValueError naming the place of a mistake, OSError when it cannot be read.
    """
    if source == PACKAGE:
        document = installed_price_list()
    else:
        content = _download(source) if source.startswith(("http://", "https://")) else _file(Path(source))
        document = _document(content, source)
    check_price_list(document)
    return document


def plan_refresh(data_dir: Path, document: dict[str, Any], *, today: date) -> Merged:
    """What a refresh of the prices in force in ``data_dir`` with a checked document would change. Writes nothing."""
    current = read_price_list(data_dir / PRICES_FILE) or bundled_price_list()
    merged = merge_price_lists(current, document, today=today)
    check_price_list(merged.document)
    return merged


def write_refresh(data_dir: Path, merged: Merged, *, source: str, now: datetime) -> str:
    """Put a planned refresh in force; returns the version of the new list."""
    head = {key: value for key, value in merged.document.items() if key != "providers"}
    providers = merged.document["providers"]
    digest = hashlib.sha256(json.dumps(providers).encode()).hexdigest()[:8]
    version = f"{now.date().isoformat()}+{digest}"
    document = {**head, "version": version, "refreshed_from": source, "providers": providers}
    at = now.isoformat(timespec="seconds")
    records = [{"at": at, "version": version, "from_source": source, **asdict(change)} for change in merged.changes]
    _append(data_dir / CHANGES_FILE, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    _replace(data_dir / PRICES_FILE, price_list_text(document))
    return version


def _document(content: bytes, source: str) -> dict[str, Any]:
    try:
        raw: Any = json.loads(
            content, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if isinstance(raw, list):
        return convert(cast("list[Any]", raw), source=source)
    if isinstance(raw, dict) and "format" in raw:
        return cast("dict[str, Any]", raw)
    raise ValueError(f"{source}: neither a price list of ours (an object with 'format') nor genai-prices' array")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a price")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object: {str(found)[:120]}")
    return found


def _file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(SOURCE_BYTES_MAX + 1)
    _check_size(content, str(path))
    return content


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "bursar", "Accept": "application/json"})  # noqa: S310 - http(s) only, see read_source
    deadline = time.monotonic() + _TOTAL_TIMEOUT_S
    content = bytearray()
    try:
        with urllib.request.urlopen(  # noqa: S310 - http(s) only; urllib follows redirects to http(s) and ftp alone
            request, timeout=_CONNECT_TIMEOUT_S, context=ssl.create_default_context()
        ) as response:
            while chunk := response.read(1 << 16):
                content += chunk
                _check_size(content, url)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url}: no end after {_TOTAL_TIMEOUT_S} s")
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            raise OSError(f"{url}: HTTP status {error.code} {error.reason}") from None
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {type(error).__name__}: {error}") from None
    return bytes(content)


def _check_size(content: bytes | bytearray, source: str) -> None:
    if len(content) > SOURCE_BYTES_MAX:
        raise ValueError(f"{source}: larger than {SOURCE_BYTES_MAX:,} bytes; price lists are a few megabytes")


def _append(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
