"""The price of one recorded response, in one call.

Rule 1: bad data never raises. What cannot be read or priced is a charge without an amount, and its reason.
Rule 2: the dialect is what the URL's path says; without a path it is the body's unmistakable shape.
Rule 3: this is the one place of the public functions that reads the clock, and only where no time was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Final, cast

import msgspec

from bursar.adapters.prices_file import bundled_book
from bursar.core.prices import Charge, PriceBook, Reading, charge
from bursar.wire import generic
from bursar.wire.dialect import UNREADABLE, Dialect, make_terms
from bursar.wire.eventstream import is_event_stream
from bursar.wire.meters import StreamMeter
from bursar.wire.providers import Provider, split_url
from bursar.wire.providers import provider as find_provider

__all__ = ["charge_response"]

_EVENT_START: Final = (b"data:", b"event:", b"id:", b"retry:", b":")


def charge_response(
    provider: str,
    body: Mapping[str, Any] | Sequence[Any] | bytes | str,
    *,
    model: str | None = None,
    at: datetime | str | None = None,
    service_tier: str | None = None,
    book: PriceBook | None = None,
) -> Charge:
    """The charge of a recorded response, with its usage and its lines. ``Charge.cost_usd`` is None when it is not known.

    ``provider`` is an id ("openai", "bedrock"), a host name, or the URL that was called, whose path says more.
    ``body`` is the parsed body, a list of stream events (parsed, or JSON text), JSON as text or bytes, the text of
    server-sent events, or the bytes of a Bedrock event stream. ``model`` is used where the response names none.
    ``at`` is the time of the call (a datetime or ISO 8601 text; without a zone it is UTC), now by default.
    ``service_tier`` ("flex", "priority", "batch", ...) overrides what the response says. ``book`` holds the prices,
    the bundled ones by default.

    Raises TypeError or ValueError for arguments that are of another type, or an ``at`` that is no time.
    """
    if not isinstance(provider, str):
        raise TypeError(f"provider must be a str, not {type(provider).__name__}")
    if not isinstance(body, Mapping | Sequence | bytearray | memoryview):
        raise TypeError(f"body must be a mapping, a list of events, bytes or a str, not {type(body).__name__}")
    for name, value in (("model", model), ("service_tier", service_tier)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a str or None, not {type(value).__name__}")
    when = _time(at)
    prices = book or bundled_book()
    host, path = split_url(provider)
    found = find_provider(provider)
    reading = _read(found, path, body)
    terms = reading.terms + (found.host_terms(host) if found else ())
    if service_tier:
        terms = tuple(term for term in terms if term[0] not in ("service_tier", "processing"))
        terms += make_terms("service_tier", service_tier)
    if terms != reading.terms:
        reading = replace(reading, terms=tuple(sorted(terms)))
    dialect = found.dialect(path) if found and path else generic.DIALECT
    name = model or dialect.path_model(path)
    # A name that the price book has and the table has not is still a provider: prices of the user's own.
    price_id = found.price_id(path) if found else host
    return charge(reading, prices, provider=price_id, model=name, at=when)


def _time(at: datetime | str | None) -> datetime:
    if at is None:
        return datetime.now(timezone.utc)
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    if not isinstance(at, datetime):
        raise TypeError(f"at must be a datetime, ISO 8601 text or None, not {type(at).__name__}")
    return at.replace(tzinfo=timezone.utc) if at.tzinfo is None else at


def _read(found: Provider | None, path: str, body: Any) -> Reading:
    try:
        if isinstance(body, Mapping):
            raw = msgspec.json.encode(dict(cast("Mapping[str, Any]", body)))
        elif isinstance(body, str):
            raw = body.encode()
        elif isinstance(body, bytes | bytearray | memoryview):
            raw = bytes(cast("bytes", body))
        else:
            return _read_events(found, path, cast("Sequence[Any]", body))
        dialect = _dialect(found, path, raw)
        if is_event_stream(raw) or raw.lstrip().startswith(_EVENT_START):
            meter = dialect.meter(None)
            meter.feed(raw)
            meter.finish()
            return meter.reading()
        return dialect.read_response(raw)
    except UNREADABLE as error:
        return Reading(None, f"the body cannot be read: {error}")


def _dialect(found: Provider | None, path: str, raw: bytes) -> Dialect:
    if found is None:
        return generic.DIALECT
    if path.strip("/"):
        known = found.dialect(path)
        if known is not generic.DIALECT:
            return known
    return found.shape(raw)


def _read_events(found: Provider | None, path: str, events: Iterable[Any]) -> Reading:
    """A stream that was recorded event by event, decoded or as text."""
    datas = [_event_bytes(event) for event in events]
    datas = [data for data in datas if data.strip() not in (b"", b"[DONE]")]
    if not datas:
        return Reading(None, "the body holds no events")
    dialect = _dialect(found, path, datas[0])
    for data in datas[1:]:
        if dialect is not generic.DIALECT and dialect.id != "generic":
            break
        dialect = _dialect(found, path, data)
    if dialect.id == "generic":
        return Reading(None, "the response is in no known dialect")
    meter = dialect.meter(None)
    assert isinstance(meter, StreamMeter)
    for data in datas:
        meter.take_data(data)
    return meter.reading()


def _event_bytes(event: Any) -> bytes:
    if isinstance(event, str | bytes):
        text = event.encode() if isinstance(event, str) else event
        return text.strip().removeprefix(b"data:")
    return msgspec.json.encode(event)
