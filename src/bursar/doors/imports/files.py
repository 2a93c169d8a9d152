"""Finding and reading the files of an import.

Rule 1: a file is read as a stream of lines; memory is bounded by the longest line, and a line by ``LINE_BYTES_MAX``.
Rule 2: a file or directory is visited once, whichever links lead to it.
Rule 3: a last line without its line feed may still be being written: ``complete`` says so, the reader decides.
Rule 4: ``.gz`` files are read like plain ones.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

from .tally import Tally

__all__ = ["LINE_BYTES_MAX", "Line", "Progress", "find_files", "no_progress", "read_lines"]

# Transcripts hold pasted images on one line; 64 MiB is past the largest request a provider takes.
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_PROGRESS_BYTES: Final = 1024 * 1024

Progress = Callable[[int], None]
"""Told how many more bytes on disk were read."""


def no_progress(_: int) -> None:
    """For callers who show none."""


class Line(NamedTuple):
    """One line, without its end. ``number`` counts from 1."""

    number: int
    data: bytes
    complete: bool


def find_files(paths: Iterable[Path], matches: Callable[[str], bool], tally: Tally) -> list[Path]:
    """The files named, and those under the directories named whose name matches, each once, in order of path.

    A file named directly is taken whatever its name. Broken links and unreadable directories are counted.
    """
    found: dict[tuple[int, int], Path] = {}
    visited: set[tuple[int, int]] = set()
    pending = list(paths)
    named = set(pending)
    while pending:
        path = pending.pop()
        try:
            status = path.stat()
            identity = (status.st_dev, status.st_ino)
            if not path.is_dir():
                if path in named or matches(path.name):
                    known = found.get(identity)
                    found[identity] = path if known is None else min(known, path)
                continue
            if identity in visited:
                continue
            visited.add(identity)
            with os.scandir(path) as entries:
                pending += [path / e.name for e in entries if matches(e.name) or not e.is_file(follow_symlinks=False)]
        except OSError as error:
            tally.skip(f"cannot be read ({error.strerror})", str(path))
    return sorted(found.values())


def read_lines(path: Path, tally: Tally, progress: Progress = no_progress) -> Iterator[Line]:
    """The lines of a file that are not blank. Raises OSError when it cannot be read, or breaks off as a ``.gz`` file."""
    number = told = 0
    with path.open("rb") as raw:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        tally.files += 1
        try:
            while data := stream.readline(LINE_BYTES_MAX):
                number += 1
                complete = data.endswith(b"\n")
                if not complete and len(data) == LINE_BYTES_MAX:
                    tally.skip(f"line longer than {LINE_BYTES_MAX} bytes", f"{path}:{number}")
                    while (rest := stream.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                        pass
                    continue
                if not number & 63 and (position := raw.tell()) - told >= _PROGRESS_BYTES:
                    progress(position - told)
                    told = position
                data = (data.removeprefix(_BYTE_ORDER_MARK) if number == 1 else data).strip()
                if data:
                    yield Line(number, data, complete)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OSError(f"{path} breaks off after line {number}: {error}") from None
        finally:
            tally.bytes_read += raw.tell()
            tally.lines += number
            progress(raw.tell() - told)
