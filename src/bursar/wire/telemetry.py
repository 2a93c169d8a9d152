"""The mapping table of telemetry: which attribute says what, and how attributes become facts in our words.

Rule 1: the table is ``telemetry.toml``. Of the attributes that say the same the first of its row counts; they are never
        added up, since most are other names for one figure.
Rule 2: an attribute of the wrong type is as if it were not there. A count that cannot be one (negative, a fraction, past
        ``COUNT_MAX``) is remembered as ``bad``: the usage it belongs to is not known.
Rule 3: text is cut to what a scope takes. Prompts, answers and arguments are never read; of a result only its size.
Rule 4: what strangers name is remembered within bounds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec

from bursar.core.money import NanoUSD, nano_usd
from bursar.core.scopes import LABELS_MAX, VALUE_LENGTH_MAX
from bursar.core.usage import UNIT_INDEX

from .context import clean
from .dialect import UNREADABLE
from .providers import provider as find_provider
from .telemetry_payloads import read_payload

__all__ = ["COUNT_MAX", "Facts", "Form", "Rule", "Words", "provider_id", "rule_of", "take", "take_all", "words"]

Form: TypeAlias = Literal[
    "text", "count", "money", "flag", "number", "choice", "provider", "host", "label", "labels", "metadata", "list",
    "size", "payload", "own",
]  # fmt: skip

# No call has a trillion of anything; past it, an amount would not fit the books' 64 bits.
COUNT_MAX: Final = 10**12
_COST_MAX: Final = Decimal(1_000_000)
# Text past this is cut before it is looked at: the longest thing that is read is a scope's value, or JSON of it.
_TEXT_MAX: Final = 4 * VALUE_LENGTH_MAX
_JSON_MAX: Final = 4 * 1024 * 1024
_LIST_MAX: Final = 32
_NAMES_MAX: Final = 20_000

_FILE: Final = Path(__file__).with_name("telemetry.toml")


class Rule(NamedTuple):
    """What one attribute says: ``slot`` is our word, a lower ``rank`` wins. ``detail`` belongs to the form."""

    slot: str
    rank: int
    form: Form
    detail: Any = None


@dataclass(slots=True)
class Facts:
    """What the attributes of one span, record or resource say. ``bad`` says of a slot why its count is none."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    ranks: dict[str, int] = field(default_factory=dict[str, int])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    bad: dict[str, str] = field(default_factory=dict[str, str])

    def put(self, slot: str, rank: int, value: Any) -> None:
        """Take a value, unless one of a better rank is known."""
        have = self.ranks.get(slot)
        if have is None or rank < have:
            self.values[slot] = value
            self.ranks[slot] = rank
            if self.bad:
                self.bad.pop(slot, None)


class Words(NamedTuple):
    """The parts of the table beside its rows."""

    spans: Mapping[str, str]
    scopes: Mapping[str, Mapping[str, str]]
    present: Mapping[str, str]
    frameworks: frozenset[str]
    runs: tuple[str, ...]
    providers: Mapping[str, str]
    makers: Mapping[str, str]
    metadata: Mapping[str, str]
    bookkeeping: tuple[str, ...]


# --- the table --------------------------------------------------------------------------------------------------


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    to: str
    form: Form
    names: list[str]
    values: dict[str, str] = {}
    also: str = ""
    label: str = ""


class _Names(msgspec.Struct, forbid_unknown_fields=True):
    names: list[str]


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    row: list[_Row]
    spans: dict[str, str]
    scopes: dict[str, dict[str, str]]
    present: dict[str, str]
    frameworks: _Names
    runs: _Names
    providers: dict[str, str]
    makers: dict[str, str]
    metadata: dict[str, str]
    bookkeeping: _Names


@lru_cache(maxsize=1)
def _table() -> tuple[Mapping[str, Rule], tuple[tuple[str, Rule], ...], Words]:
    """The rules by the attribute's name, those of names that begin alike, and the words."""
    table = msgspec.convert(tomllib.loads(_FILE.read_text(encoding="utf-8")), _Table)
    exact: dict[str, Rule] = {}
    beginnings: list[tuple[str, Rule]] = []
    rank = 0
    for row in table.row:
        detail = (row.values, row.also) if row.form == "choice" else row.label
        for name in row.names:
            rank += 1
            rule = Rule(row.to, rank, row.form, detail)
            if name.endswith("*"):
                beginnings.append((name[:-1], rule))
            elif name in exact:
                raise ValueError(f"telemetry.toml: {name!r} stands in two rows")
            else:
                exact[name] = rule
    said = Words(
        table.spans,
        table.scopes,
        table.present,
        frozenset(table.frameworks.names),
        tuple(table.runs.names),
        table.providers,
        table.makers,
        table.metadata,
        tuple(table.bookkeeping.names),
    )
    return exact, tuple(beginnings), said


def words() -> Words:
    """The parts of the table beside its rows."""
    return _table()[2]


_KNOWN: Final[dict[str, Rule | None]] = {}


def rule_of(name: str) -> Rule | None:
    """What an attribute says, None for one that says nothing to us."""
    try:
        return _KNOWN[name]
    except KeyError:
        pass
    exact, beginnings, _ = _table()
    rule = exact.get(name)
    if rule is None:
        for beginning, found in beginnings:
            if name.startswith(beginning) and len(name) > len(beginning):
                rule = found._replace(detail=name[len(beginning) :][:VALUE_LENGTH_MAX])
                break
    if len(_KNOWN) < _NAMES_MAX and len(name) <= VALUE_LENGTH_MAX:
        _KNOWN[name] = rule
    return rule


# --- values -----------------------------------------------------------------------------------------------------


def take_all(pairs: Iterable[tuple[str, Any]], facts: Facts) -> None:
    """Read attributes whose values are those of JSON: text, numbers, lists and mappings."""
    for name, value in pairs:
        rule = rule_of(name)
        if rule is not None:
            take(rule, name, value, facts)


def take(rule: Rule, name: str, value: Any, facts: Facts) -> None:
    """Read one attribute."""
    slot, rank, form, detail = rule
    reader = _READERS.get(form)
    if reader is not None:
        found = reader(value)
    elif form == "count":
        found = _count(name, value)
        if isinstance(found, str):
            if facts.ranks.get(slot, rank) >= rank:
                facts.values[slot], facts.ranks[slot], facts.bad[slot] = None, rank, found
            return
    elif form == "choice":
        found = _text(value) if isinstance(value, str) else None
        choices, also = detail
        if found and also:
            facts.put(also, rank, found)
        found = choices.get(found.lower()) if found else None
    else:
        _take_many(rule, name, value, facts)
        return
    if found is not None and found != "":
        facts.put(slot, rank, found)


def _take_many(rule: Rule, name: str, value: Any, facts: Facts) -> None:
    """Attributes that say more than one thing."""
    match rule.form:
        case "label":
            _label(rule.detail, value, rule.rank, facts)
        case "labels":
            if name.startswith("bursar."):
                _label(rule.detail, value, rule.rank, facts)
            else:
                _metadata(rule.detail, value, rule.rank, facts)
        case "metadata":
            for key, entry in list(_mapping(value).items())[: 4 * LABELS_MAX]:
                _metadata(key, entry, rule.rank, facts)
        case "own":
            count = _count(name, value) if rule.detail in UNIT_INDEX else None
            if isinstance(count, str):
                facts.bad[rule.slot] = count
            elif count is not None:
                facts.values.setdefault(rule.slot, {})[rule.detail] = count
        case _:
            for slot, found in read_payload(name, value, _JSON_MAX):
                if slot.startswith("langfuse.usage."):
                    known = rule_of(slot)
                    if known is not None:
                        take(known, slot, found, facts)
                else:
                    facts.put(slot, rule.rank, found)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        if len(value) <= VALUE_LENGTH_MAX and value.isprintable() and value[:1] != " ":
            return value
        return clean(value[:_TEXT_MAX])
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**64 else None
    return None


def _count(name: str, value: Any) -> int | str | None:
    """A count, why it is none, or None for what was not meant as one."""
    if isinstance(value, str):
        digits = value.strip()
        if not digits.isascii() or not digits.isdigit() or len(digits) > 20:
            return None
        value = int(digits)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if isinstance(value, int) and 0 <= value <= COUNT_MAX:
        return value
    return f"{name} is {str(value)[:40]}, which is no count"


def _money(value: Any) -> NanoUSD | None:
    """Through the shortest decimal that is this double, so that what was written is what is counted."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        amount = Decimal(str(value)[:64].strip())
    except InvalidOperation:
        return None
    return nano_usd(amount) if amount.is_finite() and 0 <= amount <= _COST_MAX else None


def _flag(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) and len(value) < 8 else None


def _number(value: Any) -> float | None:
    if isinstance(value, str) and len(value) <= 32:
        try:
            value = Decimal(value.strip())
        except InvalidOperation:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = float(value)
    return number if 0 <= number < 1e12 else None


def _joined(value: Any) -> str | None:
    if isinstance(value, str):
        if value[:1] != "[":
            return _text(value)
        try:
            value = msgspec.json.decode(value[:_TEXT_MAX])
        except UNREADABLE:
            return None
    if not isinstance(value, list):
        return None
    texts = [text for each in cast("list[Any]", value)[:_LIST_MAX] if (text := _text(each))]
    return clean(",".join(texts)) or None


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        if len(value) > _JSON_MAX:
            return {}
        try:
            value = msgspec.json.decode(value)
        except UNREADABLE:
            return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _label(label: str, value: Any, rank: int, facts: Facts) -> None:
    text = str(value).lower() if isinstance(value, bool) else _text(value)
    key = f"label.{label}"
    if text and (key in facts.ranks or len(facts.labels) < LABELS_MAX):
        have = facts.ranks.get(key)
        if have is None or rank < have:
            facts.labels[clean(label)] = text
            facts.ranks[key] = rank


def _metadata(name: str, value: Any, rank: int, facts: Facts) -> None:
    said = words()
    column = said.metadata.get(name[:64].lower().replace("_", "").replace("-", ""))
    if column is not None:
        text = _text(value)
        if text:
            facts.put(column, rank, text)
    elif not any(fnmatchcase(name.lower(), pattern) for pattern in said.bookkeeping):
        _label(name[:VALUE_LENGTH_MAX], value, rank, facts)


def _host(value: Any) -> str | None:
    return value[:VALUE_LENGTH_MAX].lower() if isinstance(value, str) else None


def _provider(value: Any) -> str | None:
    return provider_id(value) if isinstance(value, str) else None


def _as_it_is(value: Any) -> Any:
    return value


_READERS: Final[Mapping[Form, Callable[[Any], Any]]] = {
    "text": _text,
    "money": _money,
    "flag": _flag,
    "number": _number,
    "list": _joined,
    "host": _host,
    "provider": _provider,
    "size": _as_it_is,
}

_PROVIDERS: Final[dict[str, str]] = {}


def provider_id(stated: str) -> str:
    """The provider's id in the table for a name that telemetry uses, the name itself where it is not known.

    "" for what is no provider: a framework, or nothing.
    """
    try:
        return _PROVIDERS[stated]
    except KeyError:
        pass
    said = words()
    name = clean(stated[:_TEXT_MAX]).lower()
    found = "" if name in said.frameworks else name
    for text in (name, name.partition(".")[0]):
        if not found:
            break
        known = find_provider(text)
        listed = said.providers.get(text) or (known.id if known is not None else "")
        if listed:
            found = listed
            break
        if text in said.frameworks:
            found = ""
    if len(_PROVIDERS) < 1_000 and len(stated) <= VALUE_LENGTH_MAX:
        _PROVIDERS[stated] = found
    return found
