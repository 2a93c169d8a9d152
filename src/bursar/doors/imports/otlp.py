"""Exported OTLP: what a Collector's file exporter writes, or a request kept as it was sent.

Rule 1: a file is JSON or protobuf, as its first bytes say, and may be compressed with gzip. JSON is one request a line,
        one request over many lines, or a list of them; protobuf is one request, or many, each behind four bytes of length.
Rule 2: JSON says itself what it is of; protobuf does not, and is taken as what the person importing says.
Rule 3: what cannot be read is counted with its place; the rest of the file is read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from bursar.core.observations import Observation
from bursar.wire.dialect import UNREADABLE, BadRequest
from bursar.wire.otlp import Signal, read_logs, read_metrics, read_traces
from bursar.wire.otlp_metrics import Point, metric_observations

from .files import LINE_BYTES_MAX, Progress, no_progress, read_lines
from .tally import Tally

__all__ = ["DOCUMENT_BYTES_MAX", "read_otlp"]

# A document that is no line must be in memory whole.
DOCUMENT_BYTES_MAX: Final = 4 * LINE_BYTES_MAX
_LENGTH_BYTES: Final = 4
_HEAD_BYTES: Final = 512
_CONTROL: Final = ord("\t")


class _Kinds(msgspec.Struct, rename="camel"):
    resource_spans: msgspec.Raw = msgspec.Raw()
    resource_logs: msgspec.Raw = msgspec.Raw()
    resource_metrics: msgspec.Raw = msgspec.Raw()


_KINDS: Final = msgspec.json.Decoder(_Kinds)
_MANY: Final = msgspec.json.Decoder(list[msgspec.Raw])


def read_otlp(
    files: Iterable[Path], *, binary: Signal = "traces", tally: Tally, progress: Progress = no_progress
) -> Iterator[Observation]:
    """The observations of some files. ``binary`` is what those in protobuf hold."""
    points: list[Point] = []
    for path in files:
        try:
            yield from _read_file(path, binary, points, tally, progress)
        except OSError as error:
            tally.skip("file cannot be read to its end", str(error))
    found, _ = metric_observations(points, {})
    for each in found:
        yield replace(each, door="import")


def _read_file(
    path: Path, binary: Signal, points: list[Point], tally: Tally, progress: Progress
) -> Iterator[Observation]:
    with _opened(path) as stream:
        head = _bounded(stream, path, _HEAD_BYTES)
    if not _is_json(head):
        for number, body in enumerate(_requests(path, tally, progress), 1):
            yield from _take(body, binary, points, tally, f"{path}:{number}")
        return
    whole = False
    for line in read_lines(path, tally, progress):
        try:
            found = list(_documents(line.data))
        except UNREADABLE as error:
            if line.number == 1 or not line.complete:
                whole = line.number == 1
                if whole:
                    break
            tally.skip("line is no OTLP/JSON", f"{path}:{line.number} ({error})")
            continue
        for signal, body in found:
            yield from _take(body, signal, points, tally, f"{path}:{line.number}", as_json=True)
    if whole:
        yield from _read_document(path, points, tally)


def _is_json(head: bytes) -> bool:
    """A request in protobuf begins with a line feed too, and its next bytes may be anything; JSON has no zeros and ones."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[") and min(head) >= _CONTROL


def _read_document(path: Path, points: list[Point], tally: Tally) -> Iterator[Observation]:
    """A file of one document over many lines."""
    body = _contents(path)
    try:
        found = list(_documents(body))
    except UNREADABLE as error:
        tally.skip("file is no OTLP/JSON", f"{path} ({error})")
        return
    for signal, part in found:
        yield from _take(part, signal, points, tally, str(path), as_json=True)


def _documents(data: bytes) -> Iterator[tuple[Signal, bytes]]:
    """The requests in some JSON. Raises one of ``UNREADABLE``."""
    if data.lstrip()[:1] == b"[":
        for each in _MANY.decode(data):
            yield from _documents(bytes(each))
        return
    kinds = _KINDS.decode(data)
    if bytes(kinds.resource_spans):
        yield "traces", data
    if bytes(kinds.resource_logs):
        yield "logs", data
    if bytes(kinds.resource_metrics):
        yield "metrics", data


def _take(
    body: bytes, signal: Signal, points: list[Point], tally: Tally, place: str, *, as_json: bool = False
) -> Iterator[Observation]:
    try:
        if signal == "metrics":
            metrics = read_metrics(body, as_json=as_json)
            points.extend(metrics.points)
            rejected, problem = metrics.rejected, metrics.problem
        else:
            export = (read_traces if signal == "traces" else read_logs)(body, as_json=as_json, door="import")
            yield from export.observations
            rejected, problem = export.rejected, export.problem
    except BadRequest as error:
        tally.skip("request cannot be decoded", f"{place} ({error})")
        return
    if rejected:
        tally.skip(problem, place, count=rejected)


def _requests(path: Path, tally: Tally, progress: Progress) -> Iterator[bytes]:
    """The requests of a file in protobuf: a request begins with its first field, whose tag is no likely length."""
    tally.files += 1
    size = path.stat().st_size
    try:
        with _opened(path) as stream:
            head = _bounded(stream, path, _LENGTH_BYTES)
            if head[:1] == b"\n":
                yield head + _bounded(stream, path)
                return
            while len(head) == _LENGTH_BYTES:
                length = int.from_bytes(head, "big")
                body = _bounded(stream, path, length) if length <= DOCUMENT_BYTES_MAX else b""
                if len(body) < length:
                    break
                tally.lines += 1
                yield body
                head = _bounded(stream, path, _LENGTH_BYTES)
            if head:
                raise OSError(f"{path} breaks off inside a request")
    finally:
        tally.bytes_read += size
        progress(size)


def _contents(path: Path) -> bytes:
    with _opened(path) as stream:
        return _bounded(stream, path)


def _bounded(stream: IO[bytes], path: Path, size: int = DOCUMENT_BYTES_MAX + 1) -> bytes:
    try:
        body = stream.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"{path} breaks off: {error}") from None
    if len(body) > DOCUMENT_BYTES_MAX:
        raise OSError(f"{path} is one document of more than {DOCUMENT_BYTES_MAX} bytes: write one request a line")
    return body


@contextmanager
def _opened(path: Path) -> Generator[IO[bytes]]:
    with path.open("rb") as raw:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
