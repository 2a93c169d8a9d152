"""Traces exported from Langfuse: a trace with its observations, as its pages and its API give them.

Rule 1: a file holds one trace, a list of traces, or one trace a line, and may be compressed with gzip. A trace is
        ``{"trace": ..., "observations": [...]}``, or an object with its observations inside.
Rule 2: what an observation was told by OpenTelemetry lies in its metadata, and is read like a span's attributes; Langfuse's
        own type, model, usage and cost are attributes after those.
Rule 3: Langfuse prices by itself. Its cost is kept beside ours.
Rule 4: inputs and outputs are passed over.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from bursar.core.observations import Observation
from bursar.wire.dialect import UNREADABLE
from bursar.wire.otlp_json import hexadecimal
from bursar.wire.telemetry import Facts, rule_of, take_all
from bursar.wire.telemetry_spans import Origin, Place, clock, failure, observe, origin_of

from .attempts import parse_time
from .files import LINE_BYTES_MAX, Progress, no_progress, read_lines
from .tally import Tally

__all__ = ["read_langfuse"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)
_PARTS: Final = frozenset({"attributes", "resourceAttributes", "scope"})


class _Observation(msgspec.Struct, rename="camel"):
    id: str
    type: str = ""
    trace_id: str | None = None
    parent_observation_id: str | None = None
    name: str | None = None
    start_time: str | None = None
    end_time: str | None = None
    completion_start_time: str | None = None
    level: str | None = None
    status_message: str | None = None
    model: str | None = None
    environment: str | None = None
    metadata: Any = None
    usage_details: dict[str, Any] | None = None
    cost_details: dict[str, Any] | None = None
    provided_cost_details: dict[str, Any] | None = None


class _Trace(msgspec.Struct, rename="camel"):
    id: str = ""
    user_id: str | None = None
    session_id: str | None = None
    environment: str | None = None
    tags: list[Any] | None = None
    metadata: Any = None
    observations: list[_Observation] | None = None


class _Export(msgspec.Struct):
    trace: _Trace
    observations: list[_Observation]


_EXPORT: Final = msgspec.json.Decoder(_Export)
_TRACE: Final = msgspec.json.Decoder(_Trace)
_MANY: Final = msgspec.json.Decoder(list[msgspec.Raw])


def read_langfuse(files: Iterable[Path], *, tally: Tally, progress: Progress = no_progress) -> Iterator[Observation]:
    """The observations of some files."""
    for path in files:
        try:
            for place, data in _documents(path, tally, progress):
                yield from _read(data, tally, place)
        except OSError as error:
            tally.skip("file cannot be read to its end", str(error))


def _documents(path: Path, tally: Tally, progress: Progress) -> Iterator[tuple[str, bytes]]:
    """One document a line, or the whole file where its first line is none."""
    for line in read_lines(path, tally, progress):
        if line.number == 1 and not _is_json(line.data):
            break
        yield f"{path}:{line.number}", line.data
    else:
        return
    with path.open("rb") as raw:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        try:
            data = stream.read(LINE_BYTES_MAX + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise OSError(f"{path} breaks off: {error}") from None
    if len(data) > LINE_BYTES_MAX:
        raise OSError(f"{path} is one document of more than {LINE_BYTES_MAX} bytes: write one trace a line")
    yield str(path), data


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except UNREADABLE:
        return False
    return True


def _read(data: bytes, tally: Tally, place: str) -> Iterator[Observation]:
    try:
        if data.lstrip()[:1] == b"[":
            for each in _MANY.decode(data):
                yield from _read(bytes(each), tally, place)
            return
        export = _decoded(data)
    except UNREADABLE as error:
        tally.skip("not a trace that Langfuse exports", f"{place} ({error})")
        return
    for each in export.observations:
        made = _observation(each, export.trace)
        if made is None:
            tally.skip("observation without an id or a time", f"{place}:{each.id}")
        else:
            yield made


def _decoded(data: bytes) -> _Export:
    try:
        return _EXPORT.decode(data)
    except msgspec.ValidationError:
        trace = _TRACE.decode(data)
        if trace.observations is None:
            raise
        return _Export(trace, trace.observations)


def _observation(each: _Observation, trace: _Trace) -> Observation | None:
    times = clock(_nanoseconds(each.start_time), _nanoseconds(each.end_time))
    if not each.id or times is None:
        return None
    metadata = _object(each.metadata)
    facts = Facts()
    take_all(_object(metadata.get("attributes")).items(), facts)
    take_all(_attributes(each, trace, metadata), facts)
    failed = each.level == "ERROR"
    parent = each.parent_observation_id
    place = Place(
        "span",
        "import",
        (each.name or "")[:256],
        _identity(each.trace_id or trace.id, 32),
        _identity(each.id, 16),
        _identity(parent, 16) if parent else "",
        times[0],
        times[1],
        failed,
        failure(facts, each.status_message or "") if failed else "",
        times[2],
    )
    return observe(facts, _origin(metadata), place)


def _attributes(each: _Observation, trace: _Trace, metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What Langfuse itself says, under the names its own exporters use."""
    yield "langfuse.observation.type", each.type.lower()
    yield "langfuse.observation.model.name", each.model
    yield "langfuse.observation.usage_details", each.usage_details or {}
    yield "langfuse.observation.cost_details", each.provided_cost_details or each.cost_details or {}
    yield "langfuse.observation.completion_start_time", each.completion_start_time
    yield "langfuse.session.id", trace.session_id
    yield "langfuse.user.id", trace.user_id
    if (environment := each.environment or trace.environment) != "default":
        yield "langfuse.environment", environment
    if trace.tags:
        yield "langfuse.trace.tags", trace.tags
    for name, value in metadata.items():
        if name not in _PARTS and rule_of(name) is not None:
            yield name, value
    yield "langfuse.trace.metadata", metadata
    yield "metadata", _object(trace.metadata)


def _origin(metadata: dict[str, Any]) -> Origin:
    resource = _object(metadata.get("resourceAttributes"))
    facts = Facts()
    take_all(resource.items(), facts)
    library = _object(metadata.get("scope")).get("name")
    return origin_of(facts, str(resource.get("telemetry.sdk.name", "")), library if isinstance(library, str) else "")


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except UNREADABLE:
            return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _identity(text: str, digits: int) -> str:
    """The id where it is one of OpenTelemetry's, else one made of it: the same each time."""
    return hexadecimal(text, digits) or blake2b(text.encode(), digest_size=digits // 2).hexdigest()


def _nanoseconds(text: str | None) -> int:
    try:
        at = parse_time(text or "")
    except ValueError:
        return 0
    return (at - _EPOCH) // _MICROSECOND * 1_000
