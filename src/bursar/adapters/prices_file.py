"""Price lists in files: the bundled one, and the one a refresh leaves in the data directory.

Rule 1: the layers of a book are, first to last: the user's own prices, the refreshed list, the bundled list.
Rule 2: the bundled list is trusted (tests read all of it) and read when needed; a list in the data directory is
        checked whole when it is opened, so that no call fails later on a typo.
Rule 3: one model per line, so that a change of prices reads well in a diff.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from bursar.core.pricelist import check_price_list, parse_modifiers, parse_price_list
from bursar.core.prices import Multiplier, PriceBook, ProviderPrices

__all__ = ["PRICES_FILE", "bundled_book", "bundled_price_list", "load_book", "price_list_text", "read_price_list"]

PRICES_FILE: Final = "prices.json"

_DATA: Final = Path(__file__).parents[1] / "data"

Overrides = tuple[Mapping[str, ProviderPrices], Sequence[Multiplier]]


@lru_cache(maxsize=1)
def bundled_book() -> PriceBook:
    """The book of the bundled prices and surcharges."""
    document = bundled_price_list()
    return PriceBook([parse_price_list(document)], version=document["version"], multipliers=_bundled_multipliers())


def load_book(data_dir: Path | None, overrides: Overrides | None = None) -> PriceBook:
    """The book in force: overrides, then what a refresh left in ``data_dir``, then the bundled prices.

    Raises ValueError when the file in ``data_dir`` is damaged; its message names the file and the place.
    """
    own, discounts = overrides or ({}, ())
    refreshed = read_price_list(data_dir / PRICES_FILE) if data_dir else None
    if not own and not discounts and refreshed is None:
        return bundled_book()
    bundled = bundled_price_list()
    layers: list[Mapping[str, ProviderPrices]] = [own] if own else []
    version: str = bundled["version"]
    if refreshed is not None:
        layers.append(parse_price_list(refreshed))
        version = refreshed["version"]
    if own or discounts:
        version += "+custom"
    layers.append(parse_price_list(bundled))
    return PriceBook(layers, version=version, multipliers=(*_bundled_multipliers(), *discounts))


@lru_cache(maxsize=1)
def bundled_price_list() -> Mapping[str, Any]:
    """The bundled price list document. Do not change it."""
    return cast("dict[str, Any]", msgspec.json.decode(_bundled("prices.json")))


@lru_cache(maxsize=1)
def _bundled_multipliers() -> tuple[Multiplier, ...]:
    return parse_modifiers(cast("dict[str, Any]", msgspec.json.decode(_bundled("price_modifiers.json"))))


def _bundled(name: str) -> bytes:
    # Not importlib.resources: it takes longer to import than the prices take to read.
    return (_DATA / name).read_bytes()


def read_price_list(path: Path) -> dict[str, Any] | None:
    """The checked document in a file, or None when there is no such file. Raises ValueError naming file and place."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or not isinstance(cast("dict[str, Any]", document).get("version"), str):
            raise ValueError("price list: not an object with a version")
        check_price_list(cast("dict[str, Any]", document))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return cast("dict[str, Any]", document)


def price_list_text(document: Mapping[str, Any]) -> str:
    """The document as JSON text, one model per line."""
    head = {key: value for key, value in document.items() if key != "providers"}
    lines = [f" {_json(key)}: {_json(value)}" for key, value in head.items()]
    providers: list[str] = []
    for provider in document["providers"]:
        about = {key: value for key, value in provider.items() if key != "models"}
        models = ",\n".join(f"  {_json(model)}" for model in provider["models"])
        opening = _json(about)[:-1] + ', "models": ['
        providers.append(f"{opening}\n{models}\n ]}}" if models else f"{opening}]}}")
    lines.append(' "providers": [\n ' + ",\n ".join(providers) + "\n]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
