"""The prices that the genai-prices project publishes, as our price list document.

Rule 1: both its installed package and its published JSON (an array of providers) pass through one converter.
Rule 2: numbers are exact: a JSON number is read as the decimal it was written as, never as a float.
Rule 3: an empty price means "free" only where the model's own name says so (``:free``); elsewhere it means "unknown"
        and no rate is written, so that a call of it stays unpriced instead of costing 0.
Rule 4: a unit that Bursar does not count is left out and listed in ``not_carried``; a unit nobody knows is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final, cast

from bursar.core.pricelist import FORMAT

__all__ = ["DEFAULT_URL", "convert", "installed_price_list"]

DEFAULT_URL: Final = (
    "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
)

UNITS_OF: Final = {
    "input_mtok": "input_tokens",
    "cache_read_mtok": "cache_read_tokens",
    "cache_write_mtok": "cache_write_tokens",
    "cache_write_5m_mtok": "cache_write_5m_tokens",
    "cache_write_1h_mtok": "cache_write_1h_tokens",
    "input_audio_mtok": "input_audio_tokens",
    "input_image_mtok": "input_image_tokens",
    "input_video_mtok": "input_video_tokens",
    "cache_audio_read_mtok": "cache_read_audio_tokens",
    "cache_image_read_mtok": "cache_read_image_tokens",
    "cache_video_read_mtok": "cache_read_video_tokens",
    "output_mtok": "output_tokens",
    "output_reasoning_mtok": "reasoning_tokens",
    "output_audio_mtok": "output_audio_tokens",
    "output_image_mtok": "output_image_tokens",
    "output_video_mtok": "output_video_tokens",
    "output_citation_mtok": "citation_tokens",
    "input_mchars": "input_characters",
    "input_text_messages_kcount": "input_messages",
    "audio_hours": "audio_ms",
    "input_audio_hours": "input_audio_ms",
    "output_audio_hours": "output_audio_ms",
    "input_document_kpages": "document_pages",
    "input_annotated_document_kpages": "annotated_document_pages",
    "rerank_searches_kcount": "rerank_searches",
    "web_searches_kcount": "web_searches",
    "social_searches_kcount": "social_searches",
    "storage_searches_kcount": "file_searches",
    "code_executions_kcount": "code_executions",
    "requests_kcount": "requests",
}
"""Our unit for each of its price keys. The amounts a price buys are the same on both sides (``BASIS``)."""

_NOT_CARRIED: Final = frozenset(
    {"input_gpixels", "input_text_mtok", "output_text_mtok", "input_tool_mtok"}
    | {f"cache_{kind}_write{ttl}_mtok" for kind in ("text", "audio", "image", "video") for ttl in ("", "_5m", "_1h")}
    | {"cache_text_read_mtok"}
    | {f"input_{kind}_tool_mtok" for kind in ("text", "audio", "image", "video")}
    | {
        f"output_{kind}_{what}_mtok"
        for kind in ("text", "audio", "image", "video")
        for what in ("reasoning", "citation")
    }
)


def installed_price_list() -> dict[str, Any]:
    """The price list of the installed genai-prices package. Raises ValueError when it is not installed."""
    try:
        from importlib.metadata import version

        from genai_prices.data import providers
    except ImportError:
        raise ValueError(
            "the package genai-prices is not installed: pip install 'bursar[prices]', or give a file or a URL"
        ) from None
    return convert(_plain(providers), source=f"genai-prices-{version('genai-prices')}")


def convert(raw: object, *, source: str) -> dict[str, Any]:
    """Our document from genai-prices' array of providers (JSON numbers as int or Decimal). Raises ValueError.

    The document has no ``version``: whoever stores it gives it one.
    """
    not_carried: dict[str, list[str]] = {}
    providers: list[dict[str, Any]] = []
    for provider in _list(raw, "genai-prices"):
        name = _name(provider, "genai-prices: provider")
        out: dict[str, Any] = {"id": name, "name": str(provider.get("name") or name)}
        if fallback := provider.get("fallback_model_providers"):
            out["fallback"] = list(fallback)
        where = f"genai-prices: {name}"
        out["models"] = [
            _model(name, model, not_carried) for model in _list(provider.get("models"), f"{where}: models")
        ]
        providers.append(out)
    return {"format": FORMAT, "source": source, "not_carried": not_carried, "providers": providers}


def _model(provider: str, raw: Mapping[str, Any], not_carried: dict[str, list[str]]) -> dict[str, Any]:
    name = _name(raw, f"genai-prices: {provider}: model")
    where = f"genai-prices: {provider}/{name}"
    out: dict[str, Any] = {"id": name}
    match = raw.get("match")
    if match != {"equals": name}:
        out["match"] = match
    if raw.get("context_window") is not None:
        out["context_window"] = raw["context_window"]
    listed: Any = raw.get("prices")
    entries = [{"prices": cast("Any", listed)}] if isinstance(listed, dict) else _list(listed, f"{where}: prices")
    dropped: set[str] = set()
    out["prices"] = [_entry(entry, name, where, dropped) for entry in entries]
    variants = [
        {"when": dict(variant["when"]), **_entry(variant, "", where, dropped)}
        for variant in _list(raw.get("price_variants") or [], f"{where}: price_variants")
        if any(price is not None for price in _object(variant.get("prices"), where).values())
    ]
    if variants:
        out["variants"] = variants
    for key in sorted(dropped):
        not_carried.setdefault(key, []).append(f"{provider}/{name}")
    return out


def _entry(raw: Mapping[str, Any], model: str, where: str, dropped: set[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    constraint = raw.get("constraint")
    if constraint is not None:
        limits = _object(constraint, where)
        if "start_date" in limits:
            out["from"] = _date(limits["start_date"], where)
        elif "start_time" in limits:
            out["daily"] = f"{_clock(limits['start_time'], where)}-{_clock(limits.get('end_time'), where)}"
        else:
            raise ValueError(f"{where}: constraint {constraint!r} is neither a start date nor hours of the day")
    rates: dict[str, Any] = {}
    for key, price in _object(raw.get("prices"), where).items():
        if price is None:
            continue
        if key in UNITS_OF:
            rates[UNITS_OF[key]] = _price(price, f"{where}: {key}")
        elif key in _NOT_CARRIED:
            dropped.add(key)
        else:
            raise ValueError(f"{where}: unknown price key {key!r}")
    if not rates and model.endswith(":free"):
        rates = {"input_tokens": "0", "output_tokens": "0"}
    out["rates"] = rates
    return out


def _price(value: object, where: str) -> object:
    if isinstance(value, Mapping):
        raw = cast("Mapping[str, Any]", value)
        steps = sorted(_list(raw.get("tiers"), f"{where}: tiers"), key=lambda step: cast("int", step.get("start", 0)))
        tiers = [[step.get("start"), _number(step.get("price"), where)] for step in steps]
        base = _number(raw.get("base"), where)
        return {"base": base, "tiers": tiers} if tiers else base
    return _number(value, where)


def _number(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"{where}: {value!r} is not a price")
    number = Decimal(value)
    if not number.is_finite() or number < 0:
        raise ValueError(f"{where}: {value} is not a price: it must be finite and not negative")
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _date(value: object, where: str) -> str:
    text = value.isoformat() if isinstance(value, date) else value
    if not isinstance(text, str):
        raise ValueError(f"{where}: start date {value!r} is not a date")
    return text


def _clock(value: object, where: str) -> str:
    try:
        at = value if isinstance(value, time) else time.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{where}: {value!r} is not a time of day") from None
    if at.second or at.microsecond:
        raise ValueError(f"{where}: {value!r}: hours are kept to the minute")
    minutes = at.hour * 60 + at.minute - (at.utcoffset() or timedelta()) // timedelta(minutes=1)
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"


def _list(value: object, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: {str(value)[:80]!r} is not a list")
    for item in cast("list[Any]", value):
        _object(item, where)
    return cast("list[Mapping[str, Any]]", value)


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {str(value)[:80]!r} is not an object")
    return cast("Mapping[str, Any]", value)


def _name(raw: Mapping[str, Any], where: str) -> str:
    value = raw.get("id")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: id {value!r} is not text")
    return value


def _plain(value: object) -> Any:
    """The package's objects as the JSON they were made from: attributes by name, without a trailing underscore."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if hasattr(value, "__dict__"):
        return {key.rstrip("_"): _plain(item) for key, item in vars(value).items() if key != "extractors"}
    return value
