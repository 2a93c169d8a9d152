"""The ``routes:`` and ``cache:`` sections of a configuration.

Rule 1: every error is a ValueError that names the path, the value and what is possible.
Rule 2: a rung is written ``provider/model``, ``asked``, ``cached``, ``stale`` or ``refuse``, or as keys with ``model`` among them.
        What a rung does not say, its route says for all of its rungs.
Rule 3: times are written with their unit (``2s``); a limit to them may be a quantile (``p95``, ``p95*2``) of what is seen. What is
        counted in whole seconds is written so: nothing is rounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal, cast

from .breaker import BreakerRules
from .budget_fields import parse_money
from .caching import CachePolicy, SemanticPolicy, Share, Verify
from .failures import CAUSES, Cause
from .fields import choice, duration_ms, flag, known_keys, mapping_of, share_of, whole
from .ladder import EFFORTS
from .money import NanoUSD, Rate, parse_decimal
from .routes import ASKED, Hedge, Limit, Route, RouteRung, Routes, RungKind

__all__ = ["ROUTES_MAX", "ROUTE_FIELDS", "RUNGS_MAX", "parse_routes"]

ROUTES_MAX: Final = 500
RUNGS_MAX: Final = 12
_RUNG_FIELDS: Final = ("model", "name", "when", "output_cap", "effort")
_LIMIT_FIELDS: Final = ("first_token", "total", "cost_per_call", "cost_per_mtok", "budget_at", "breaker")
ROUTE_FIELDS: Final = (
    "rungs", *_LIMIT_FIELDS, "deadline", "attempts", "cost_max", "retries", "hedge", "mid_stream", "cache", "prompt_cache",
)  # fmt: skip
_BREAKER_FIELDS: Final = ("in_a_row", "share", "calls_min", "within", "open", "open_max")
_CACHE_FIELDS: Final = ("ttl", "stale", "share", "sampled", "tool_calls", "volatile", "tags", "semantic")
_SEMANTIC_FIELDS: Final = ("errors", "shadow", "embed", "verify", "judge")
_HEDGE_FIELDS: Final = ("after", "spend")
_WORDS: Final[tuple[RungKind, ...]] = ("cached", "stale", "refuse")
_WHOLE: Final = 1_000
_ERRORS_MAX: Final = 200
_QUANTILE: Final = re.compile(r"p(\d{2}(?:\.\d)?)(?:\s*\*\s*(\d{1,3}(?:\.\d{1,2})?))?")
_FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NAME_LENGTH_MAX: Final = 200


def parse_routes(raw: Mapping[str, Any], path: str = "routes") -> Routes:
    """All routes of a mapping from names to specs. Raises ValueError."""
    if len(raw) > ROUTES_MAX:
        raise ValueError(
            f"{path}: {len(raw)} routes: at most {ROUTES_MAX} are possible; a pattern such as gpt-* is one"
        )
    routes = Routes([_route(str(name), spec, f"{path}.{name}") for name, spec in raw.items()])
    for route, before in routes.unreached():
        raise ValueError(f"{path}.{route}: {before} stands before it and takes all of its models: write {route} first")
    return routes


def _route(name: str, raw: Any, path: str) -> Route:
    if raw is None:
        raise ValueError(
            f"{path}: it says nothing: write its rungs, such as [openai/gpt-5-mini, stale], or {{cache: {{ttl: 1h}}}}"
        )
    if not 0 < len(name) <= _NAME_LENGTH_MAX:
        raise ValueError(f"{path}: a route's name has from 1 to {_NAME_LENGTH_MAX} characters")
    example = raw if isinstance(raw, str) and (raw in (ASKED, *_WORDS) or "/" in raw) else "openai/gpt-5-mini"
    way_out = f"write its rungs, such as [{example[:_NAME_LENGTH_MAX]}]"
    spec: dict[str, Any] = {"rungs": raw} if isinstance(raw, list) else mapping_of(raw, path, way_out)
    known_keys(spec, ROUTE_FIELDS, path)
    rungs = _rungs(spec, path)
    cache = _cache(spec["cache"], f"{path}.cache") if "cache" in spec else None
    for index, rung in enumerate(rungs):
        if rung.kind in ("cached", "stale") and cache is None:
            example = "{ttl: 1h}" if rung.kind == "cached" else "{ttl: 1h, stale: 1d}"
            raise ValueError(f"{path}.rungs[{index}]: nothing is kept on this route: say how with cache: {example}")
        if rung.kind == "stale" and cache is not None and not cache.stale_s:
            raise ValueError(
                f"{path}.rungs[{index}]: nothing is kept past its time: say how long with cache: {{stale: 1d}}"
            )
    return Route(
        name=name,
        rungs=rungs,
        deadline_ms=duration_ms(spec["deadline"], f"{path}.deadline") if "deadline" in spec else None,
        attempts_max=whole(spec.get("attempts", 3), 1, RUNGS_MAX, f"{path}.attempts"),
        cost_max=parse_money(spec["cost_max"], f"{path}.cost_max") if "cost_max" in spec else None,
        retry_share=share_of(spec.get("retries", "10%"), f"{path}.retries", least=0, most=_WHOLE),
        hedge=_hedge(spec["hedge"], f"{path}.hedge") if "hedge" in spec else None,
        mid_stream=cast(
            "Literal['end', 'continue']",
            choice(spec.get("mid_stream", "end"), ("end", "continue"), f"{path}.mid_stream"),
        ),
        cache=cache,
        prompt_cache=_prompt_cache(spec.get("prompt_cache", False), f"{path}.prompt_cache"),
    )


def _rungs(spec: Mapping[str, Any], path: str) -> tuple[RouteRung, ...]:
    raw: Any = spec.get("rungs", [ASKED])
    if not isinstance(raw, list) or not raw:
        raise ValueError(f"{path}.rungs: write a list, such as [openai/gpt-5-mini, anthropic/claude-haiku-4-5]")
    items = cast("list[Any]", raw)
    if len(items) > RUNGS_MAX:
        raise ValueError(f"{path}.rungs: {len(items)} rungs: at most {RUNGS_MAX} are possible")
    shared = {field: spec[field] for field in _LIMIT_FIELDS if field in spec}
    rungs: list[RouteRung] = []
    for index, item in enumerate(items):
        models = sum(rung.kind == "model" for rung in rungs)
        rungs.append(_rung(item, shared, models, path, f"{path}.rungs[{index}]"))
        if rungs[-1].kind == "refuse" and index < len(items) - 1:
            raise ValueError(f"{path}.rungs[{index}]: refuse is the last rung: nothing comes after it")
    return tuple(rungs)


def _rung(raw: Any, shared: Mapping[str, Any], models: int, route_path: str, path: str) -> RouteRung:
    words = (ASKED, *_WORDS)
    own = {"model": raw} if isinstance(raw, str) else mapping_of(raw, path, "write provider/model, or {model: ...}")
    if word := next((key for key in own if key in words), ""):
        raise ValueError(f"{path}.{word}: {word} is a rung itself: write {word}, or {{model: {word}}}")
    known_keys(own, (*_RUNG_FIELDS, *_LIMIT_FIELDS), path)
    if "model" not in own:
        raise ValueError(f"{path}: say model: provider/model, or model: asked for what the client asked for")
    model = own["model"]
    if not isinstance(model, str):
        raise ValueError(f"{path}.model: {str(model)[:60]!r} is no model: write provider/model")
    when = _causes(own.get("when", []), f"{path}.when")
    if model in _WORDS:
        extra = [key for key in own if key not in ("model", "when")]
        if extra:
            raise ValueError(f"{path}.{extra[0]}: {model} asks no provider: leave it out")
        return RouteRung(model, kind=cast("RungKind", model), when=when)
    provider, _, rest = model.partition("/")
    if model != ASKED and not (provider and rest):
        raise ValueError(
            f"{path}: {model[:60]!r} is no rung: write provider/model, such as openai/gpt-5-mini, or {', '.join(words)}"
        )
    # A limit of the route's is reported where it was written, one of the rung's there.
    values = {**shared, **{key: own[key] for key in _LIMIT_FIELDS if key in own}}
    where = {key: f"{path if key in own else route_path}.{key}" for key in values}
    first_token = _limit(values["first_token"], where["first_token"]) if "first_token" in values else None
    cost = parse_money(values["cost_per_call"], where["cost_per_call"]) if "cost_per_call" in values else None
    per_token = _per_mtok(values["cost_per_mtok"], where["cost_per_mtok"]) if "cost_per_mtok" in values else None
    return RouteRung(
        name=_label(own.get("name", "primary" if not models else "fallback"), f"{path}.name"),
        provider="" if model == ASKED else provider,
        model="" if model == ASKED else rest,
        when=when,
        first_token=first_token,
        total=_limit(values["total"], where["total"]) if "total" in values else None,
        cost_per_call=cost,
        budget_at=share_of(values["budget_at"], where["budget_at"], most=_WHOLE) if "budget_at" in values else None,
        output_cap=whole(own["output_cap"], 1, 10_000_000, f"{path}.output_cap") if "output_cap" in own else None,
        effort=choice(own["effort"], EFFORTS, f"{path}.effort") if "effort" in own else "",
        breaker=_breaker(
            values.get("breaker", {}),
            where.get("breaker", path),
            first_token,
            cost_per_call=cost,
            cost_per_token=per_token,
        ),
    )


def _breaker(
    raw: Any, path: str, first_token: Limit | None, *, cost_per_call: NanoUSD | None, cost_per_token: Rate | None
) -> BreakerRules:
    spec = mapping_of(raw, path, "write {in_a_row: 2}, or leave it out")
    known_keys(spec, _BREAKER_FIELDS, path)
    usual = BreakerRules()
    seconds = {
        key: _seconds(spec[key], f"{path}.{key}") if key in spec else default
        for key, default in (("within", usual.within_s), ("open", usual.open_s), ("open_max", usual.open_s_max))
    }
    return BreakerRules(
        in_a_row=whole(spec.get("in_a_row", usual.in_a_row), 1, 1_000, f"{path}.in_a_row"),
        share=share_of(spec["share"], f"{path}.share", most=_WHOLE) if "share" in spec else usual.share,
        calls_min=whole(spec.get("calls_min", usual.calls_min), 1, 200, f"{path}.calls_min"),
        within_s=seconds["within"],
        first_token_ms=first_token.ms if first_token else None,
        cost_per_call=cost_per_call,
        cost_per_token=cost_per_token,
        open_s=seconds["open"],
        open_s_max=max(seconds["open_max"], seconds["open"]),
    )


def _limit(value: Any, path: str) -> Limit:
    found = _QUANTILE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        try:
            return Limit(ms=duration_ms(value, path))
        except ValueError as error:
            raise ValueError(f"{error}, or a quantile of what is seen: p95, p95*2") from None
    factor = int(Decimal(found[2] or "1") * 1_000)
    if not factor:
        raise ValueError(f"{path}: {value!r} is no time: the factor must be above 0")
    return Limit(quantile=int(Decimal(found[1]) * 10), factor=factor)


def _per_mtok(value: Any, path: str) -> Rate:
    try:
        number = parse_decimal(str(value).strip().removeprefix("$"))
    except ValueError:
        number = Decimal(-1)
    if isinstance(value, bool) or not 0 < number <= 1_000_000:
        raise ValueError(
            f"{path}: {str(value)[:60]!r} is no price: write USD for a million tokens of output, such as 12.50"
        )
    return Rate.of(number, 1_000_000)


def _seconds(value: Any, path: str) -> int:
    seconds, rest = divmod(duration_ms(value, path), 1_000)
    if rest:
        raise ValueError(f"{path}: {value!r} is no whole number of seconds: write 1s or more")
    return seconds


def _label(value: Any, path: str) -> str:
    if value in _WORDS:
        raise ValueError(f"{path}: {value!r} is what an answer that is not a model's is called: choose another name")
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value):
        raise ValueError(f"{path}: {str(value)[:60]!r} is no name: use up to 64 of a-z, 0-9, . _ and -")
    return value


def _causes(raw: Any, path: str) -> frozenset[Cause]:
    items = cast("list[Any]", raw) if isinstance(raw, list) else [raw]
    for item in items:
        choice(item, CAUSES, path)
    return frozenset(cast("list[Cause]", items))


def _hedge(raw: Any, path: str) -> Hedge:
    spec = mapping_of(raw, path, "write {after: p95, spend: 5%}, or leave it out")
    known_keys(spec, _HEDGE_FIELDS, path)
    spend = share_of(spec.get("spend", "5%"), f"{path}.spend", least=0, most=_WHOLE)
    return Hedge(_limit(spec.get("after", "p95"), f"{path}.after"), spend)


def _prompt_cache(value: Any, path: str) -> bool:
    return choice(value, ("auto",), path) == "auto" if isinstance(value, str) else flag(value, path)


def _cache(raw: Any, path: str) -> CachePolicy:
    ttl = raw if isinstance(raw, str) and re.fullmatch(r"\d{1,9}[smhd]", raw) else "1h"
    spec = {} if raw is True else mapping_of(raw, path, f"write {{ttl: {ttl}}}, or leave it out")
    known_keys(spec, _CACHE_FIELDS, path)
    usual = CachePolicy()
    return CachePolicy(
        ttl_s=_seconds(spec["ttl"], f"{path}.ttl") if "ttl" in spec else usual.ttl_s,
        stale_s=_stale(spec.get("stale", usual.stale_s), f"{path}.stale"),
        share=cast("Share", choice(spec.get("share", "key"), ("key", "user", "agent", "team", "org"), f"{path}.share")),
        sampled=flag(spec.get("sampled", False), f"{path}.sampled"),
        tool_calls=flag(spec.get("tool_calls", False), f"{path}.tool_calls"),
        volatile=_volatile(spec.get("volatile", []), f"{path}.volatile"),
        tags=_tags(spec.get("tags", []), f"{path}.tags"),
        semantic=_semantic(spec["semantic"], f"{path}.semantic") if spec.get("semantic") else None,
    )


def _stale(value: Any, path: str) -> int:
    """Seconds; 0 for not at all."""
    if not isinstance(value, bool) and re.fullmatch(r"\s*0(ms|s|m|h|d)?\s*", str(value)):
        return 0
    try:
        return _seconds(value, path)
    except ValueError as error:
        raise ValueError(f"{error}, or 0 for not at all") from None


def _volatile(raw: Any, path: str) -> tuple[str, ...]:
    patterns = _texts(raw, path)
    for pattern in patterns:
        try:
            empty = re.compile(pattern).fullmatch("") is not None
        except re.error as error:
            raise ValueError(f"{path}: {pattern[:60]!r} is no regular expression: {error}") from None
        if empty:
            raise ValueError(f"{path}: {pattern[:60]!r} also matches an empty text: say what may differ")
    return patterns


def _tags(raw: Any, path: str) -> tuple[str, ...]:
    tags = _texts(raw, path)
    for tag in tags:
        if "," in tag or tag != tag.strip():  # the header that names tags parts them at commas, and leaves spaces out
            raise ValueError(f"{path}: {tag[:60]!r}: a tag has no comma, and no space around it: write [a, b] for two")
    return tags


def _semantic(raw: Any, path: str) -> SemanticPolicy:
    spec = {} if raw is True else mapping_of(raw, path, "write {errors: 2%}, or leave it out")
    known_keys(spec, _SEMANTIC_FIELDS, path)
    errors = share_of(spec.get("errors", "2%"), f"{path}.errors", most=_ERRORS_MAX)
    shadow = share_of(spec.get("shadow", "5%"), f"{path}.shadow", least=0, most=_WHOLE)
    embed, judge = str(spec.get("embed", "ngrams")), str(spec.get("judge", ""))
    if not (embed in ("ngrams", "local") or "/" in embed or _FUNCTION.fullmatch(embed)):
        hint = "write ngrams, local, provider/model of an embeddings endpoint, or package.module:function"
        raise ValueError(f"{path}.embed: {embed[:60]!r}: {hint}")
    if judge and "/" not in judge:
        raise ValueError(f"{path}.judge: {judge[:60]!r}: write provider/model")
    verify = cast("Verify", choice(spec.get("verify", "equal"), ("equal", "json", "judge"), f"{path}.verify"))
    if (verify == "judge") != bool(judge):
        example = "judge: openai/gpt-5-mini" if verify == "judge" else "verify: judge"
        raise ValueError(f"{path}.judge: a judge and verify: judge need each other: add {example}, or leave both out")
    return SemanticPolicy(errors, shadow, embed, verify, judge)


def _texts(raw: Any, path: str) -> tuple[str, ...]:
    items: Sequence[Any] = cast("list[Any]", raw) if isinstance(raw, list) else [raw]
    if len(items) > 32 or not all(isinstance(item, str) and 0 < len(item) <= 1_000 for item in items):
        raise ValueError(f"{path}: write a text, or a list of up to 32")
    return tuple(items)
