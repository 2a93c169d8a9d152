"""The options of ``bursar budgets set``, and the spec they make of the one there was.

Rule 1: an option that is not given changes nothing; ``none`` takes what an option says back to its default.
Rule 2: the grammar is that of bursar.yaml (``core.budget_fields``); here is only what a command line writes
        differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import click

__all__ = ["SetOptions", "merged"]

_NONE: Final = "none"
_RUNG: Final = re.compile(r"\s*at=(?P<at>\S+)\s+(?P<action>[a-z_]+)(?:=(?P<value>.*))?", re.DOTALL)
_WINDOWED: Final = re.compile(r"([a-z0-9]+)=(.+)")


@dataclass(frozen=True, slots=True)
class SetOptions:
    """What was given; None and () where nothing was."""

    limit: tuple[str, ...] = ()
    per: tuple[str, ...] = ()
    match: tuple[str, ...] = ()
    each: str | None = None
    tz: str | None = None
    on_unpriced: str | None = None
    on_store_failure: str | None = None
    alert_at: tuple[str, ...] = ()
    forecast: bool | None = None
    reserve: str | None = None
    floor_tokens: int | None = None
    streams: str | None = None
    input: str | None = None
    enforce: bool | None = None
    rung: tuple[str, ...] = ()
    ladder: str | None = None
    raise_by: str | None = None
    until: str | None = None


def merged(before: Mapping[str, Any], options: SetOptions) -> dict[str, Any]:
    """The spec with the options in it. Raises click.UsageError for what a command line cannot say so."""
    spec = dict(before)
    _limit(spec, options)
    for name in ("each", "tz", "on_unpriced", "on_store_failure", "forecast", "reserve", "floor_tokens", "streams",
                 "input", "enforce"):  # fmt: skip
        _put(spec, name, getattr(options, name))
    if options.match:
        _put(spec, "match", _NONE if options.match == (_NONE,) else _match(options.match))
    if options.alert_at:
        _put(spec, "alert_at", _NONE if options.alert_at == (_NONE,) else list(options.alert_at))
    if options.rung and options.ladder is not None:
        raise click.UsageError("--rung and --ladder exclude each other; give one of them")
    if options.rung:
        _put(spec, "ladder", _NONE if options.rung == (_NONE,) else [_rung(text) for text in options.rung])
    if options.ladder is not None:
        _put(spec, "ladder", _NONE if options.ladder == _NONE else _ladder(options.ladder))
    _raise(spec, options)
    return spec


def _put(spec: dict[str, Any], name: str, value: Any) -> None:
    if value == _NONE:
        spec.pop(name, None)
    elif value is not None:
        spec[name] = value


def _limit(spec: dict[str, Any], options: SetOptions) -> None:
    given, per = list(options.limit), list(options.per)
    windowed = [found for text in given if (found := _WINDOWED.fullmatch(text))]
    if len(given) > 1 and len(windowed) < len(given):
        raise click.UsageError(
            "--limit is given twice; give it once, or for each window: --limit day=5 --limit month=50"
        )
    if windowed:
        if per:
            raise click.UsageError("--limit names its windows already; leave --per out")
        named = {found[1]: found[2] for found in windowed}
        if len(named) < len(windowed):
            raise click.UsageError(f"--limit {windowed[0][1]}=... is given twice; give each window once")
        spec["limit"] = {**_by_window(spec), **named}
        spec.pop("per", None)
        return
    if given:
        if isinstance(spec.get("limit"), Mapping) and not per:
            raise click.UsageError(
                "this budget has a limit for each window; write --limit WINDOW=AMOUNT, or give --per as well"
            )
        spec["limit"] = given[0]
    if per:
        spec["per"] = per if len(per) > 1 else per[0]


def _by_window(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The limits there are, by window."""
    if "limit" not in spec:
        return {}
    limit, per = spec["limit"], spec.get("per")
    if isinstance(limit, Mapping):
        return dict(cast("Mapping[str, Any]", limit))
    windows = cast("list[Any]", per) if isinstance(per, list) else [per or "lifetime"]
    return {str(window): limit for window in windows}


def _match(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        column, equals, pattern = text.partition("=")
        if not equals:
            raise click.UsageError(f"--match {text!r} has no '='; write --match COLUMN=PATTERN, such as team=search")
        found.setdefault(column, []).append(pattern)
    return found


def _rung(text: str) -> dict[str, Any]:
    """``at=90% effort=low``: from which share on, and the one thing that it does."""
    found = _RUNG.fullmatch(text)
    if found is None:
        raise click.UsageError(
            f"--rung {text!r}: write from which share on and what is done, such as 'at=90% model=gpt-5:gpt-5-mini'"
        )
    action, value = found["action"], found["value"]
    return {"at": found["at"], action: True if value is None else _rung_value(action, value)}


def _rung_value(action: str, value: str) -> Any:
    match action:
        case "output_cap":
            return int(value) if value.isascii() and value.isdigit() else value
        case "tools":
            return value.split(",")
        case "model":
            pairs = [pair.split(":") for pair in value.split(",")]
            if any(len(pair) != 2 for pair in pairs):
                raise click.UsageError(
                    f"--rung model={value!r}: write MODEL:CHEAPER, with commas between several; names that have a ':' "
                    "themselves need --ladder with JSON"
                )
            return {name.strip(): cheaper.strip() for name, cheaper in pairs}
        case _:
            return value


def _ladder(text: str) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as problem:
        example = '[{"at": "90%", "model": {"gpt-5": "gpt-5-mini"}}]'
        raise click.UsageError(f"--ladder is no JSON: {problem}; write a list such as {example}") from None


def _raise(spec: dict[str, Any], options: SetOptions) -> None:
    if options.raise_by == _NONE:
        spec.pop("raise", None)
        return
    given = {name: value for name, value in (("by", options.raise_by), ("until", options.until)) if value is not None}
    if not given:
        return
    before = cast("Mapping[str, Any]", spec.get("raise") or {})
    after = {**before, **given}
    if len(after) < 2:
        missing = "--until DATE" if "by" in after else "--raise AMOUNT"
        raise click.UsageError(f"a raise needs an amount and an end: give {missing} as well")
    spec["raise"] = after
