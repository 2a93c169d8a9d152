"""A newer price list merged into the one in force, so that no dated price changes.

Rule 1: what the list in force says of a date before the refresh stays. A rate that differs becomes a new entry that
        begins with the refresh (the day after, where that day has a price already); the old entry stays before it.
        Prices announced for later are not in force: what the source says of the future replaces them.
Rule 2: dated entries of the source that the list in force does not have are history it had missed: kept as stated.
Rule 3: what the source no longer lists stays in force: a model is marked ``vanished``, a unit is in ``kept``.
        A source speaks only for the providers that it lists.
Rule 4: the changes are found by comparing both lists at every moment at which either changes, not by trusting the
        merge: whatever a call would cost differently is listed.
Rule 5: a move by more than a fifth, to or from 0, or of a name to another model, needs to be accepted.
Rule 6: merging the same source again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, cast

from .money import parse_decimal
from .price_fields import clock_minutes
from .pricelist import parse_price_list
from .prices import PriceBook

__all__ = ["LARGE_MOVE", "Change", "Merged", "merge_price_lists"]

LARGE_MOVE: Final = Decimal("0.2")

Entry: TypeAlias = dict[str, Any]
Model: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["price", "price added", "model added", "model vanished", "details", "name moved"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a refresh changes. ``large`` ones need to be accepted. Prices are USD for ``BASIS[unit]`` units."""

    kind: Kind
    provider: str
    model: str
    unit: str = ""
    terms: str = ""
    start: str = ""
    hours: str = ""
    over: int = 0
    old: str = ""
    new: str = ""
    large: bool = False


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged document (without a version), what it changes, and what the source no longer prices but stays.

    ``kept`` is text for people: provider/model/unit.
    """

    document: dict[str, Any]
    changes: tuple[Change, ...]
    kept: tuple[str, ...]


def merge_price_lists(current: Mapping[str, Any], source: Mapping[str, Any], *, today: date) -> Merged:
    """Merge a checked ``source`` into the checked ``current`` list. Prices that differ begin ``today`` (UTC)."""
    listed: dict[str, dict[str, Any]] = {provider["id"]: _plain(provider) for provider in source["providers"]}
    providers: list[dict[str, Any]] = []
    changes: list[Change] = []
    kept: list[str] = []
    for provider in map(_plain, current["providers"]):
        if (newer := listed.pop(provider["id"], None)) is None:
            providers.append(provider)
        else:
            providers.append(_provider(provider, newer, today, changes))
            kept += _kept(provider, newer, today)
    for provider in listed.values():
        changes += (Change("model added", provider["id"], model["id"]) for model in provider["models"])
        providers.append(provider)
    document = {"format": current["format"], "source": "refreshed", "not_carried": source.get("not_carried", {})}
    document["providers"] = providers
    changes += _moved_names(current, document, today)
    return Merged(document, tuple(changes), tuple(kept))


def _plain(value: Any) -> Any:
    """A copy in which equal prices are equal text: ``2.50`` becomes ``2.5``."""
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    raw = cast("dict[str, Any]", value)
    copied = {key: _plain(item) for key, item in raw.items() if key != "rates"}
    if "rates" in raw:
        copied["rates"] = {unit: _plain_rate(rate) for unit, rate in raw["rates"].items()}
    return copied


def _plain_rate(rate: Any) -> Any:
    if isinstance(rate, str):
        return f"{parse_decimal(rate).normalize():f}"
    return {"base": _plain_rate(rate["base"]), "tiers": [[start, _plain_rate(step)] for start, step in rate["tiers"]]}


def _provider(current: dict[str, Any], source: dict[str, Any], today: date, changes: list[Change]) -> dict[str, Any]:
    name: str = current["id"]
    ours: dict[str, Model] = {model["id"]: model for model in current["models"]}
    models: list[Model] = []
    for newer in source["models"]:
        if (model := ours.pop(newer["id"], None)) is None:
            changes.append(Change("model added", name, newer["id"]))
            models.append(newer)
        else:
            models.append(_model(name, model, newer, today, changes))
    for model in ours.values():
        if "vanished" not in model:
            changes.append(Change("model vanished", name, model["id"]))
            model = {**model, "vanished": today.isoformat()}
        models.append(model)
    about = {key: value for key, value in {**current, **source}.items() if key != "models"}
    if any(about[key] != current.get(key) for key in about):
        changes.append(Change("details", name, ""))
    return {**about, "models": models}


def _kept(current: dict[str, Any], source: dict[str, Any], today: date) -> list[str]:
    """The units in force of a provider's models that its newer list does not price."""
    now = _moment(today.isoformat(), 0)
    newer: dict[str, Model] = {model["id"]: model for model in source["models"]}
    return [
        f"{current['id']}/{model['id']}/{unit}"
        for model in current["models"]
        if model["id"] in newer
        for unit in sorted(_last(model["prices"], now).keys() - _last(newer[model["id"]]["prices"], now).keys())
    ]


def _model(provider: str, current: Model, source: Model, today: date, changes: list[Change]) -> Model:
    merged: Model = {"id": current["id"]}
    for key in ("match", "context_window", "output_cap"):
        if (value := source.get(key, None if key == "match" else current.get(key))) is not None:
            merged[key] = value
    if "vanished" in current:
        changes.append(Change("model added", provider, current["id"]))
    if any(merged.get(key) != current.get(key) for key in ("match", "context_window", "output_cap")):
        changes.append(Change("details", provider, current["id"]))
    merged["prices"] = _standard(current["prices"], source["prices"], today)
    variants = _variants(current.get("variants", []), source.get("variants", []), today)
    if variants:
        merged["variants"] = variants
    changes += _price_changes(provider, current, merged, today)
    return merged


# --- the two kinds of entry lists -------------------------------------------------------------------------------


def _standard(current: list[Entry], source: list[Entry], today: date) -> list[Entry]:
    """Standard prices: of the active entries the last one applies."""
    merged = list(current)
    for entry in sorted(source, key=_start):  # oldest first: one may be needed only because of an older one
        start = _start(entry)
        if _missed(entry, merged, source, today, _last):
            earlier = [i for i, e in enumerate(merged) if _start(e) <= start and "daily" not in e]
            merged.insert(earlier[-1] + 1 if earlier else 0, entry)

    def wanted(moment: datetime) -> dict[str, Any]:
        return {**_last(merged, moment), **_last(source, moment)}

    start = _first_day(merged, source, today, _last, wanted)
    if start is None:
        return merged
    block: dict[tuple[str, str], Entry] = {}
    for entry in source:
        clamped: Entry = {**entry, "from": max(_start(entry), start)}
        block.pop(_key(clamped), None)  # the later of two takes its place in the order, too
        block[_key(clamped)] = clamped
    kept = _last(merged, _moment(start, 0))
    for entry in block.values():
        entry["rates"] = {**{unit: rate for unit, rate in kept.items() if unit not in entry["rates"]}, **entry["rates"]}
    return [entry for entry in merged if _start(entry) < start] + [_ordered(e) for e in block.values()]


def _variants(current: list[Entry], source: list[Entry], today: date) -> list[Entry]:
    """Prices under terms: for each unit the first active entry applies, so newer ones go in front."""
    groups: dict[tuple[tuple[str, str], ...], tuple[list[Entry], list[Entry]]] = {}
    for index, entries in enumerate((current, source)):
        for entry in entries:
            groups.setdefault(tuple(sorted(entry["when"].items())), ([], []))[index].append(entry)
    merged: list[Entry] = []
    for ours, theirs in groups.values():
        merged += _variant_group(ours, theirs, today)
    return merged


def _variant_group(current: list[Entry], source: list[Entry], today: date) -> list[Entry]:
    merged = list(current)
    for entry in sorted(source, key=_start):  # oldest first: one may be needed only because of an older one
        start = _start(entry)
        if _missed(entry, merged, source, today, _first):
            later = [i for i, e in enumerate(merged) if _start(e) > start]
            merged.insert(later[-1] + 1 if later else 0, entry)

    def wanted(moment: datetime) -> dict[str, Any]:
        return {**_first(merged, moment), **_first(source, moment)}

    start = _first_day(merged, source, today, _first, wanted)
    if start is None:
        return merged
    block: dict[tuple[str, str], Entry] = {}
    for entry in source:
        clamped: Entry = {**entry, "from": max(_start(entry), start)}
        earlier = block.get(_key(clamped))
        block[_key(clamped)] = (
            clamped if earlier is None else {**clamped, "rates": {**clamped["rates"], **earlier["rates"]}}
        )
    return [_ordered(e) for e in block.values()] + [e for e in merged if _start(e) < start]


Resolve: TypeAlias = Callable[[list[Entry], datetime], dict[str, Any]]


def _missed(entry: Entry, merged: list[Entry], source: list[Entry], today: date, resolve: Resolve) -> bool:
    """Whether a dated entry of the source began before today, had effect there when it began, and is not known here."""
    start = _start(entry)
    if not start or start > today.isoformat() or _key(entry) in {_key(known) for known in merged}:
        return False
    for moment in _moments([*merged, *source], start):
        if moment.date().isoformat() == start and _active(entry, moment):
            theirs, without = (resolve(listed, moment) for listed in (source, [e for e in source if e is not entry]))
            if theirs != without and {**resolve(merged, moment), **theirs} != resolve(merged, moment):
                return True
    return False


def _first_day(
    merged: list[Entry],
    source: list[Entry],
    today: date,
    resolve: Resolve,
    wanted: Callable[[datetime], dict[str, Any]],
) -> str | None:
    """The day on which new entries begin, or None when nothing differs from today on.

    That is today, or tomorrow where today has a price of its own. Announced prices are not in force yet: a newer
    source replaces them.
    """
    taken = {_start(entry) for entry in merged}
    for day in (today, today + timedelta(days=1)):
        start = day.isoformat()
        moments = [moment for moment in _moments([*merged, *source], start) if moment.date() >= day]
        if not source or all(resolve(merged, moment) == wanted(moment) for moment in moments):
            return None
        if start not in taken:
            break
    return start


def _last(entries: list[Entry], moment: datetime) -> dict[str, Any]:
    active = [entry for entry in entries if _active(entry, moment)]
    return active[-1]["rates"] if active else entries[0]["rates"] if entries else {}


def _first(entries: list[Entry], moment: datetime) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for entry in entries:
        if _active(entry, moment):
            rates = {**entry["rates"], **rates}
    return rates


def _active(entry: Entry, moment: datetime) -> bool:
    if _start(entry) > moment.date().isoformat():
        return False
    if "daily" not in entry:
        return True
    begin, end = clock_minutes(entry["daily"], "daily")
    minute = moment.hour * 60 + moment.minute
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _moments(entries: Iterable[Entry], *starts: str) -> list[datetime]:
    """Every moment at which one of the entries begins or ends to apply; the first is before all of them."""
    days, minutes = {"2000-01-01", *starts}, {0}
    for entry in entries:
        days |= {entry["from"]} if "from" in entry else set()
        minutes |= set(clock_minutes(entry["daily"], "daily")) if "daily" in entry else set()
    return [_moment(day, minute) for day in sorted(days) for minute in sorted(minutes)]


def _moment(day: str, minute: int) -> datetime:
    return datetime.combine(date.fromisoformat(day), time(minute // 60, minute % 60), timezone.utc)


def _start(entry: Entry) -> str:
    return entry.get("from", "")


def _key(entry: Entry) -> tuple[str, str]:
    return _start(entry), entry.get("daily", "")


def _ordered(entry: Entry) -> Entry:
    return {key: entry[key] for key in ("when", "from", "daily", "rates") if key in entry}


# --- what changes -----------------------------------------------------------------------------------------------


def _price_changes(provider: str, old: Model, new: Model, today: date) -> list[Change]:
    found = _entry_changes(provider, old["id"], "", old["prices"], new["prices"], today, _last)
    groups = {tuple(sorted(e["when"].items())) for model in (old, new) for e in model.get("variants", [])}
    for when in sorted(groups):
        ours = [e for e in old.get("variants", []) if tuple(sorted(e["when"].items())) == when]
        theirs = [e for e in new.get("variants", []) if tuple(sorted(e["when"].items())) == when]
        terms = ",".join(f"{term}={value}" for term, value in when)
        found += _entry_changes(provider, old["id"], terms, ours, theirs, today, _first)
    return found


def _entry_changes(
    provider: str,
    model: str,
    terms: str,
    old: list[Entry],
    new: list[Entry],
    today: date,
    resolve: Resolve,
) -> list[Change]:
    found: list[Change] = []
    seen: dict[tuple[str, int, int], tuple[str, str]] = {}
    for moment in _moments([*old, *new], today.isoformat()):
        before, after = resolve(old, moment), resolve(new, moment)
        minute = moment.hour * 60 + moment.minute
        for unit in sorted(before.keys() | after.keys()):
            for over in _steps(before.get(unit), after.get(unit)):
                prices = _price_at(before.get(unit), over), _price_at(after.get(unit), over)
                is_new = prices[0] != prices[1] and seen.get((unit, over, minute)) != prices
                seen[unit, over, minute] = prices
                if is_new:
                    kind: Kind = "price" if prices[0] else "price added"
                    start, hours = moment.date().isoformat(), f"{moment:%H:%M}" if minute else ""
                    found.append(
                        Change(kind, provider, model, unit, terms, start, hours, over, *prices, large=_large(*prices))
                    )
    return found


def _steps(*rates: object) -> list[int]:
    starts = {0}
    for rate in rates:
        if isinstance(rate, dict):
            starts |= {step[0] for step in cast("dict[str, Any]", rate)["tiers"]}
    return sorted(starts)


def _price_at(rate: object, over: int) -> str:
    if not isinstance(rate, dict):
        return cast("str", rate or "")
    raw = cast("dict[str, Any]", rate)
    return next((price for start, price in reversed(raw["tiers"]) if over >= start), raw["base"])


def _large(old: str, new: str) -> bool:
    if not old or not new:
        return False
    before, after = parse_decimal(old), parse_decimal(new)
    if not before or not after:
        return before != after
    return abs(after - before) > LARGE_MOVE * before


def _moved_names(old: Mapping[str, Any], new: Mapping[str, Any], today: date) -> list[Change]:
    """Models of the old list whose own id now finds another model: another's clause has become too wide."""
    before = PriceBook([parse_price_list(old)], version="")
    after = PriceBook([parse_price_list(new)], version="")
    found: list[Change] = []
    for provider in before.providers():
        for model in before.models(provider):
            was, now = before.find(provider, model.id), after.find(provider, model.id)
            if was is not None and now is not None and was.id != now.id:
                found.append(
                    Change(
                        "name moved", provider, model.id, start=today.isoformat(), old=was.id, new=now.id, large=True
                    )
                )
    return found
