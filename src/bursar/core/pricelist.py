"""The price list document, and the providers it describes.

    {"format": 1, "version": "2026-11-23", "source": "genai-prices-0.2.3", "providers": [
     {"id": "openai", "fallback": [], "models": [
      {"id": "o3", "match": {"starts_with": "o3-2025"}, "context_window": 200000,
       "prices": [{"rates": {"input_tokens": "10"}}, {"from": "2025-06-10", "rates": {"input_tokens": "2"}}],
       "variants": [{"when": {"service_tier": "flex"}, "rates": {"input_tokens": {"base": "1", "tiers": [[200000, "2"]]}}}]}]}]}

Rule 1: a rate is decimal text, USD for ``BASIS[unit]`` units. JSON numbers are refused: they may have lost digits.
Rule 2: of ``prices`` the last active one applies, else the first; of ``variants`` the first active one per unit.
Rule 3: a ``match`` clause sees the name in lower case. Without one the model answers to its own id.
Rule 4: an error names the provider, the model, the field and the bad value.
Rule 5: a provider is built when it is first asked for. ``check_price_list`` builds them all, for documents of others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

from .money import parse_decimal
from .price_fields import Tiers, clock_minutes, day_text, known_keys, parse_rate
from .price_overrides import overrides_layer
from .prices import ModelPrices, Multiplier, PriceEntry, ProviderPrices, Terms

__all__ = [
    "FORMAT",
    "Matcher",
    "check_price_list",
    "compile_match",
    "overrides_layer",
    "parse_modifiers",
    "parse_price_list",
]

FORMAT: Final = 1

Matcher: TypeAlias = Callable[[str], bool]

_DOCUMENT_KEYS: Final = frozenset({"format", "version", "source", "refreshed_from", "not_carried", "providers"})
_MODEL_KEYS: Final = frozenset(
    {"id", "name", "match", "context_window", "output_cap", "prices", "variants", "vanished"}
)
_ENTRY_KEYS: Final = frozenset({"from", "daily", "when", "rates"})
_MODIFIER_KEYS: Final = frozenset({"provider", "models", "factor", "when", "from", "source", "note"})
_PROVIDER_KEYS: Final = frozenset({"id", "name", "fallback", "models"})


def parse_price_list(document: Mapping[str, Any]) -> Mapping[str, ProviderPrices]:
    """The providers of a document by id, each built on first use. Raises ValueError, then or on use (see rule 4)."""
    if document.get("format") != FORMAT:
        raise ValueError(f"price list: format is {document.get('format')!r}, this version reads format {FORMAT}")
    return _Providers(_text(document, "source", "price list"), _items(document, "providers", "price list"))


def check_price_list(document: Mapping[str, Any]) -> Mapping[str, ProviderPrices]:
    """As ``parse_price_list``, with every provider built at once, so that no error is left for later."""
    known_keys(document, _DOCUMENT_KEYS, "price list")
    providers = parse_price_list(document)
    for provider in providers.values():
        for other in provider.fallback:
            if other not in providers:
                raise ValueError(f"price list: {provider.id}: fallback {other!r} is not a provider of this list")
    return providers


class _Providers(Mapping[str, ProviderPrices]):
    """Providers by id, built when first asked for."""

    def __init__(self, source: str, raw: list[dict[str, Any]]) -> None:
        self._source = source
        self._raw: dict[str, dict[str, Any]] = {}
        self._built: dict[str, ProviderPrices] = {}
        for number, item in enumerate(raw, 1):
            name = _text(item, "id", f"price list: provider {number}")
            if name in self._raw:
                raise ValueError(f"price list: provider {name!r} is listed twice")
            self._raw[name] = item

    def __getitem__(self, name: str) -> ProviderPrices:
        found = self._built.get(name)
        if found is None:
            found = self._built[name] = _provider(name, self._raw[name], self._source)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def _provider(name: str, raw: dict[str, Any], source: str) -> ProviderPrices:
    where = f"price list: {name}"
    known_keys(raw, _PROVIDER_KEYS, where)
    models: dict[str, ModelPrices] = {}
    for number, item in enumerate(_items(raw, "models", where), 1):
        model = _text(item, "id", f"{where}: model {number}")
        if model in models:
            raise ValueError(f"{where}: model {model!r} is listed twice")
        models[model] = _model(model, item, source, f"{where}/{model}")
    return ProviderPrices(name, tuple(models.values()), tuple(_texts(raw, "fallback", where)))


def _model(name: str, raw: dict[str, Any], source: str, where: str) -> ModelPrices:
    known_keys(raw, _MODEL_KEYS, where)
    clause = raw.get("match")
    return ModelPrices(
        name,
        source,
        compile_match({"equals": name} if clause is None else clause, where),
        _entries(raw, "prices", where),
        _entries(raw, "variants", where) if "variants" in raw else (),
        _count(raw, "context_window", where),
        _count(raw, "output_cap", where),
    )


def _entries(raw: dict[str, Any], field: str, where: str) -> tuple[PriceEntry, ...]:
    entries: list[PriceEntry] = []
    seen: set[tuple[str, tuple[int, int] | None, Terms]] = set()
    for number, item in enumerate(_items(raw, field, where), 1):
        at = f"{where}: {field}[{number}]"
        known_keys(item, _ENTRY_KEYS, at)
        entry = PriceEntry(
            day_text(item["from"], f"{at}.from") if "from" in item else "",
            clock_minutes(item["daily"], f"{at}.daily") if "daily" in item else None,
            _terms(item, at, needed=field == "variants"),
            _rates(item, at),
        )
        if entry[:3] in seen:
            raise ValueError(f"{at}: a second entry for the same date, hours and terms")
        seen.add(entry[:3])
        entries.append(entry)
    return tuple(entries)


def _terms(item: dict[str, Any], where: str, *, needed: bool) -> Terms:
    raw: Any = item.get("when", {})
    if not isinstance(raw, dict) or (needed and not raw):
        raise ValueError(f"{where}.when: {raw!r} is not an object of terms, such as {{'service_tier': 'flex'}}")
    if raw and not needed:
        raise ValueError(f"{where}.when: {raw!r}: prices under terms belong in 'variants'")
    for term, value in cast("dict[Any, Any]", raw).items():
        if not isinstance(term, str) or not isinstance(value, str):
            raise ValueError(f"{where}.when: {term!r}: {value!r} is not text")
    return tuple(sorted(cast("dict[str, str]", raw).items()))


def _rates(item: dict[str, Any], where: str) -> dict[str, Tiers]:
    raw: Any = item.get("rates")
    if not isinstance(raw, dict):
        raise ValueError(f"{where}.rates: {raw!r} is not an object of unit: price")
    return {unit: parse_rate(unit, value, f"{where}.rates") for unit, value in cast("dict[str, Any]", raw).items()}


def compile_match(clause: object, where: str) -> Matcher:
    """A function that says whether a lower-case model name matches the clause. Raises ValueError."""
    if not isinstance(clause, dict) or len(cast("dict[Any, Any]", clause)) != 1:
        raise ValueError(f"{where}: match {clause!r} is not one of {', '.join(_LEAVES)}, or, and")
    ((kind, value),) = cast("dict[str, Any]", clause).items()
    if kind in ("or", "and"):
        if not isinstance(value, list) or not value:
            raise ValueError(f"{where}: match {kind} {value!r} is not a list of clauses")
        parts = tuple(compile_match(part, where) for part in cast("list[Any]", value))
        if kind == "or":
            return lambda text: any(part(text) for part in parts)
        return lambda text: all(part(text) for part in parts)
    if kind not in _LEAVES or not isinstance(value, str) or not value:
        raise ValueError(f"{where}: match {kind!r}: {value!r} is not one of {', '.join(_LEAVES)}, or, and with text")
    try:
        return _LEAVES[kind](value)
    except re.error as error:
        raise ValueError(f"{where}: match regex {value!r}: {error}") from None


def _equals(value: str) -> Matcher:
    return value.lower().__eq__


def _starts_with(value: str) -> Matcher:
    wanted = value.lower()
    return lambda text: text.startswith(wanted)


def _ends_with(value: str) -> Matcher:
    wanted = value.lower()
    return lambda text: text.endswith(wanted)


def _contains(value: str) -> Matcher:
    wanted = value.lower()
    return lambda text: wanted in text


def _regex(value: str) -> Matcher:
    pattern = re.compile(value, re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


_LEAVES: Final[dict[str, Callable[[str], Matcher]]] = {
    "equals": _equals,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "contains": _contains,
    "regex": _regex,
}


def _text(raw: Mapping[str, Any], field: str, where: str) -> str:
    value = raw.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {field} {value!r} is not text")
    return value


def _texts(raw: Mapping[str, Any], field: str, where: str) -> list[str]:
    value = raw.get(field, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[Any]", value)):
        raise ValueError(f"{where}: {field} {value!r} is not a list of texts")
    return cast("list[str]", value)


def _count(raw: dict[str, Any], field: str, where: str) -> int | None:
    value = raw.get(field)
    if value is None or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{where}: {field} {value!r} is not a whole number above 0")


def _items(raw: Mapping[str, Any], field: str, where: str) -> list[dict[str, Any]]:
    value = raw.get(field)
    if not isinstance(value, list):
        raise ValueError(f"{where}: {field} {value!r} is not a list")
    for item in cast("list[Any]", value):
        if not isinstance(item, dict):
            raise ValueError(f"{where}: {field} holds {item!r}, which is not an object")
    return cast("list[dict[str, Any]]", value)


def parse_modifiers(document: Mapping[str, Any]) -> tuple[Multiplier, ...]:
    """The surcharges of a document ``{"multipliers": [{provider, models, factor, when, from, source, note}]}``.

    ``models`` are globs and ``when`` is one term with the values it may have; each pair becomes one multiplier.
    A source is required. Raises ValueError.
    """
    found: list[Multiplier] = []
    for number, item in enumerate(_items(document, "multipliers", "modifiers"), 1):
        where = f"modifiers: multipliers[{number}]"
        known_keys(item, _MODIFIER_KEYS, where)
        factor = parse_decimal(_text(item, "factor", where))
        if factor <= 0:
            raise ValueError(f"{where}: factor {factor} is not above 0")
        start = day_text(item["from"], f"{where}.from") if "from" in item else ""
        provider, source = _text(item, "provider", where), _text(item, "source", where)
        when: Any = item.get("when")
        if not isinstance(when, dict) or len(cast("dict[Any, Any]", when)) != 1:
            raise ValueError(f"{where}: when {when!r} is not one term with a list of values")
        ((term, _),) = cast("dict[str, Any]", when).items()
        values = _texts(cast("dict[str, Any]", when), term, f"{where}: when")
        for model in _texts(item, "models", where):
            found += (Multiplier(provider, model, factor, ((term, value),), start, source) for value in values)
    return tuple(found)
