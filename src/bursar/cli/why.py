"""``bursar why``: one call, why it took the rung it took, and what that cost.

Rule 1: what was stored is said in words; the words of a provider or a rule are repeated as they are.
Rule 2: reasons and amounts are never cut: reasons go on in the next line. Everything else fits the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from bursar.core.alert_text import percent_text
from bursar.views.asking import time_zone
from bursar.views.why import (
    BEGINNING_LENGTH_MIN,
    LAST,
    BudgetPart,
    CallAttempt,
    Candidate,
    NoCall,
    PromptCachePart,
    SeveralCalls,
    WhyCall,
    why,
)

from . import output
from .output import Column, Line, clean, compact, money

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["why_command"]

_GAP: Final = 2
_VERDICT_WIDTH_MIN: Final = 20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_DOORS: Final = {
    "gateway": "through the gateway",
    "sdk": "in the agent's own process",
    "otlp": "told by OpenTelemetry",
    "import": "imported",
}
_MISSING: Final = """\
no call and no attempt has the id {id!r}, and no call's id begins so (from {least} characters on). Where ids of calls are:
  the header x-bursar-call-id of an answer, and the body of a refusal
  `bursar task ID --json`, for every attempt of a task
  `bursar why last`, the call that was booked last
A call that was refused before anything was sent leaves nothing here: its refusal said why."""
_EMPTY: Final = "no call is in the ledger; `bursar spend` says how calls get into it"


@click.command("why")
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Everything that was stored, exact.")
@output.data_option
@click.option("--tz", default="UTC", show_default=True, help="Time zone of times (IANA name).")
def why_command(id: str, as_json: bool, data: Path | None, tz: str) -> None:  # noqa: A002 -- the argument's name
    """Why a call took the rung it took: its candidates, its cache, its budget, its attempts.

    ID is a call's id (the header x-bursar-call-id), its beginning, an attempt's id, or `last`.

    \b
    bursar why last
    bursar why 0195f2c4a1b7
    """
    from bursar.compose import open_queries

    with output.usage_errors(), open_queries(data) as queries:
        zone = time_zone(tz)
        answer = why(queries, id)
    match answer:
        case NoCall() if id == LAST:
            raise click.ClickException(_EMPTY)
        case NoCall():
            raise click.ClickException(_MISSING.format(id=clean(id), least=BEGINNING_LENGTH_MIN))
        case SeveralCalls(candidates=candidates, more=more):
            listed = "".join(f"\n  {clean(name)}" for name in candidates) + ("\n  ..." if more else "")
            raise click.ClickException(f"several calls begin with {clean(id)!r}; give more of the id:{listed}")
        case WhyCall():
            if as_json:
                output.print_json(answer.to_json())
            else:
                _print(output.new_console(), answer, zone)


def _print(console: Console, call: WhyCall, zone: tzinfo) -> None:
    _print_head(console, call, zone)
    console.print(f"Why: {clean(_why(call))}.")
    if call.route or len(call.candidates) > 1:
        _print_candidates(console, call)
    for text in (_cache(call), _prompt_cache(call.prompt_cache), _budget(call)):
        if text:
            console.print(clean(text))
    _print_attempts(console, call)
    reasons = {attempt.step.unpriced_reason or "" for attempt in call.attempts if attempt.step.cost_nanousd is None}
    if call.unpriced_count:
        left = output.plural(call.unpriced_count, "attempt")
        text = "; ".join(sorted(clean(reason) for reason in reasons if reason)) or "no reason was kept"
        console.print(f"{left} unpriced, and not in the cost: {text}", style="yellow")
    if rest := call.attempt_count - len(call.attempts):
        console.print(f"{output.plural(rest, 'more attempt')} in the cost but not shown.", style="dim")


# --- the call ---------------------------------------------------------------------------------------------------


def _print_head(console: Console, call: WhyCall, zone: tzinfo) -> None:
    step = call.by.step
    console.print(f"Call {clean(call.call_id)}", style="bold")
    at = (_EPOCH + timedelta(microseconds=call.first_us)).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")
    names = ("task", "agent", "user", "team", "session", "key")
    who = [f"{name} {call.scope[name]}" for name in names if call.scope[name]]
    console.print(clean(", ".join([at, *who])))
    what = [f"asked for {step.model_asked or step.model or step.operation}"]
    what += [call.asked] if call.asked else []
    what += ["streamed"] if call.stream else []
    what += [f"on route {call.route}"] if call.route else []
    console.print(clean(", ".join([*what, _DOORS.get(step.door, step.door)])))
    cost = output.estimate(call.cost_nanousd, call.estimated_count)
    figures = [f"{cost} for {output.plural(call.attempt_count, 'attempt')}" if call.attempt_count > 1 else cost]
    if took := output.duration(call.elapsed_ms):
        figures.append(took)
    style = "bold" if call.by.is_answer else "bold red"
    console.print(f"{clean(_outcome(call))}: {', '.join(figures)}", style=style)


def _outcome(call: WhyCall) -> str:
    step = call.by.step
    where = f"{step.provider} {step.model}".strip() + (f" on rung {call.by.rung}" if call.by.rung else "")
    if call.by.is_answer:
        return f"Answered by the cache ({call.cache.outcome})" if _is_kept(call) else f"Answered by {where}"
    match step.status:
        case "cut":
            return f"Broken off by {where}"
        case "cancelled":
            return f"Given up at {where}"
        case "ended":
            return f"Ended by its budget at {where}"
        case "expired":
            return f"Never settled at {where}"
        case _:
            return f"Failed at {where}" + (f" with HTTP {step.http_status}" if step.http_status else "")


def _is_kept(call: WhyCall) -> bool:
    return call.cache.outcome not in ("", "miss")


_PROBE: Final = "its breaker had been open, and this call tried it again"


def _why(call: WhyCall) -> str:
    """The stored reason in words."""
    asked = next((each for each in call.attempts if each.step.attempt_id == call.asked_attempt), call.by)
    stored = asked.why
    match stored:
        case "asked" if call.route and asked.is_answer:
            return "the first rung of its route took it"
        case "asked" if call.route:
            return "it is the first rung of its route"
        case "asked":
            return "it is what was asked for; without a route there is no other candidate"
        case "kept":
            return "the cache had an answer, so nobody was asked"
        case "panic":
            return "every target of the route was known to fail, and one was tried all the same"
        case "probe":
            return _PROBE
        case "hedge":
            hedge = "the attempt before had shown nothing in its time, so this one was made as well"
            return f"{hedge}; {_PROBE}" if asked.verdict == "probe" else hedge
        case "":
            return _why_untold(call)
        case _:
            return stored


def _why_untold(call: WhyCall) -> str:
    if _is_kept(call):
        return "a kept result answered it"
    if call.by.step.door in ("otlp", "import"):
        return "not known: this was told afterwards, nothing was chosen here"
    return "nothing was to be chosen"


# --- candidates -------------------------------------------------------------------------------------------------


def _print_candidates(console: Console, call: WhyCall) -> None:
    if not call.candidates:
        return
    console.print()
    known = [each.expected_nanousd for each in call.candidates]
    expected = output.aligned(["" if amount is None else money(amount) for amount in known])
    charged = output.aligned([_charged(each) for each in call.candidates])
    lines = [
        _Looked(clean(each.rung), clean(_model(each)), clean(_verdict(each)), before, after, _style(each))
        for each, before, after in zip(call.candidates, expected, charged, strict=True)
    ]
    model_width = min(max(len(line.model) for line in lines), max(16, console.width * 3 // 8))
    whole = (("Rung", "rung"), ("Expected", "expected"), ("Charged", "charged"))
    others = [max(len(title), *(len(getattr(line, name)) for line in lines)) for title, name in whole]
    if console.width - model_width - sum(others) - 4 * _GAP < _VERDICT_WIDTH_MIN:
        _print_looked_below(console, lines)
    else:
        _print_looked(console, lines, model_width)
    console.print()


class _Looked(NamedTuple):
    """A candidate in words."""

    rung: str
    model: str
    verdict: str
    expected: str
    charged: str
    style: str | None


def _print_looked(console: Console, lines: Sequence[_Looked], model_width: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("Rung", no_wrap=True)
    table.add_column("Model", overflow="fold", width=model_width)
    table.add_column("Verdict", overflow="fold")
    table.add_column("Expected", justify="right", no_wrap=True)
    table.add_column("Charged", justify="right", no_wrap=True)
    for line in lines:
        cells = (line.rung, line.model, line.verdict, line.expected, line.charged)
        table.add_row(*map(Text, cells), style=line.style)
    console.print(table)


def _print_looked_below(console: Console, lines: Sequence[_Looked]) -> None:
    """Where a table has no room for reasons: what a rung asks, and below it what became of it."""
    from rich.padding import Padding

    for line in lines:
        amounts = (("expected", line.expected.strip()), ("charged", line.charged.strip()))
        words = "; ".join([line.verdict, *(f"{name} {amount}" for name, amount in amounts if amount)])
        console.print(f"{line.rung}  {line.model}".rstrip(), style=line.style)
        console.print(Padding(words, (0, 0, 0, 2), expand=False), style=line.style)


def _model(candidate: Candidate) -> str:
    return f"{candidate.provider}/{candidate.model}" if candidate.provider else ""


def _charged(candidate: Candidate) -> str:
    if not candidate.attempts:
        return ""
    return output.estimate(candidate.charged_nanousd, candidate.estimated)


def _style(candidate: Candidate) -> str | None:
    if candidate.verdict == "failed":
        return "red"
    return None if candidate.attempts or candidate.verdict in _TAKEN else "dim"


_TAKEN: Final = {
    "taken": "taken",
    "probe": "taken, to see whether it is back",
    "panic": "taken, although its breaker was open",
    "hedge": "taken, beside the one before",
}


def _verdict(candidate: Candidate) -> str:
    times = f", tried {len(candidate.attempts)} times" if len(candidate.attempts) > 1 else ""
    status = f" ({candidate.http_status})" if (candidate.http_status or 0) >= 400 else ""
    why = candidate.why
    match candidate.verdict:
        case "failed" if not candidate.attempts:
            return f"failed: {why}; nothing was charged"
        case "failed":
            return f"failed: {why}{status}{times}"
        case "cancelled":
            return f"cancelled: {why}{times}"
        case "passed" if candidate.breaker == "open":
            return f"passed over, breaker open: {why}"
        case "passed":
            return f"passed over: {why}"
        case "not tried" if why:
            return f"not tried: {why}"
        case verdict:
            return f"{_TAKEN.get(verdict, verdict or 'asked for')}{times}"


# --- caches and budget ------------------------------------------------------------------------------------------


def _cache(call: WhyCall) -> str:
    cache = call.cache
    age = "" if cache.age_s is None else f", {output.duration(cache.age_s * 1_000)} old"
    similar = f"; similar questions: {cache.similar}" if cache.similar else ""
    if _is_kept(call):
        avoided = cache.avoided_nanousd
        saved = "what it would have cost is not known" if avoided is None else f"it would have cost {money(avoided)}"
        if cache.outcome == "semantic" and cache.similar:
            similar = f"; {cache.similar}"
        return f"Cache: {cache.outcome}{age}{similar}; {saved}, which is not part of any spend."
    if cache.outcome == "miss":
        stale = f", only a stale answer was kept{age}" if cache.found == "stale" else ""
        return f"Cache: a miss{stale}{similar}."
    if cache.why:
        return f"Cache: not asked: {cache.why}."
    return "Cache: nothing is kept on this route." if call.route else ""


_MARKED: Final = {
    "tools": "the tools",
    "system": "the system text",
    "stable": "what the last request had too",
    "kept": "what is kept already",
    "turn": "the last turn",
}
_TTLS: Final = {
    "5m": "five minutes",
    "1h": "an hour",
    "5m+1h": "five minutes and an hour",
    "1h+5m": "an hour and five minutes",
}


def _prompt_cache(part: PromptCachePart | None) -> str:
    """What was done for the provider's own cache."""
    if part is None:
        return ""
    if part.keyed:
        said = ["it was given a key of its thread"]
    elif part.marks:
        *before, last = [_MARKED.get(name, name) for name in part.marks]
        marked = f"{', '.join(before)} and {last}" if before else last
        said = [f"marked behind {marked}, to be kept for {_TTLS.get(part.ttl, part.ttl)}"]
    else:
        said = [f"no mark is set: {part.why}"]
    if part.expected_nanousd is not None:
        said.append(f"expected to gain {money(part.expected_nanousd)}")
    if part.chance_permille is not None:
        said.append(f"{percent_text(part.chance_permille)} likely to come again in time")
    if part.read_tokens:
        said.append(f"{part.read_tokens:,} tokens should be there already")
    path, _, byte = part.parted_at.rpartition(":")
    parted = f" It parts from the prompt before it at {path}, byte {byte}." if path else ""
    return f"Prompt cache: {', '.join(said)}.{parted}"


def _budget(call: WhyCall) -> str:
    budget = call.budget
    if budget is None:
        return "" if call.by.step.door in ("otlp", "import") or _is_kept(call) else "Budget: none changed this call."
    whose = f"{budget.subject}, per {budget.window}" if budget.subject else f"per {budget.window}"
    parts = [f"{percent_text(budget.share)} used before it"] if budget.share is not None else []
    if budget.left is not None:
        left = money(budget.left) if budget.unit == "usd" else f"{budget.left:,} {budget.unit}"
        parts.append(
            f"{left} left after its hold" + (f" of {money(budget.held_nanousd)}" if budget.held_nanousd else "")
        )
    return f"Budget {budget.name} ({whose}): {', '.join([*parts, _changed(budget)])}."


def _changed(budget: BudgetPart) -> str:
    cap = f"output capped at {budget.output_cap:,} tokens" if budget.output_cap is not None else ""
    others = [name.replace("_", " ") for name in budget.changed if not (cap and name == "output_cap")]
    changed = f"changed {', '.join(others)}" if others else ""
    return ", ".join(part for part in (changed, cap) if part) or "nothing changed"


# --- attempts ---------------------------------------------------------------------------------------------------


def _print_attempts(console: Console, call: WhyCall) -> None:
    console.print()
    is_tool = all(each.step.kind == "tool" for each in call.attempts)
    shows_first = any(each.step.first_token_ms is not None for each in call.attempts)
    columns = [
        Column("#"),
        Column("Start", spare=3),
        Column("Rung", "text", width_min=8),
        Column("Provider", "text", width_min=9, spare=1),
        Column("Model", "text", width_min=12),
        Column("Result", "text", width_min=10),
        *([] if is_tool else [Column("In/out", spare=4)]),
        *([Column("First", spare=5)] if shows_first else []),
        Column("Took", spare=2),
        Column("Cost"),
    ]
    costs = output.aligned([output.estimate(each.step.cost_nanousd, each.step.estimated) for each in call.attempts])
    lines = [
        Line(
            [
                _label(each, call),
                "+" + output.duration((each.step.started_us - call.first_us) / 1_000),
                *(clean(text) for text in (each.rung, each.step.provider, each.step.model, _result(each))),
                *([] if is_tool else [f"{compact(each.step.input_tokens)}/{compact(each.step.output_tokens)}"]),
                *([output.duration(each.step.first_token_ms)] if shows_first else []),
                output.duration(each.step.latency_ms),
                cost,
            ],
            "bold" if each.step.attempt_id == call.asked_attempt else "" if each.is_answer else "red",
        )
        for each, cost in zip(call.attempts, costs, strict=True)
    ]
    output.print_table(console, columns, lines)
    _print_errors(console, call.attempts, call)


def _print_errors(console: Console, attempts: Sequence[CallAttempt], call: WhyCall) -> None:
    for each in attempts:
        if each.step.error:
            console.print(f"Attempt {_label(each, call)}: {clean(each.step.error)}", style="red")


def _label(attempt: CallAttempt, call: WhyCall) -> str:
    """What tells it apart within its call: the end of its id, which asks for it."""
    step = attempt.step
    begin = f"{call.call_id}."
    return clean(step.attempt_id.removeprefix(begin)) if step.attempt_id.startswith(begin) else str(step.number)


def _result(attempt: CallAttempt) -> str:
    step = attempt.step
    if attempt.is_answer:
        return "ok" if attempt.cache in ("", "miss") else f"kept ({attempt.cache})"
    return f"{step.status} {step.http_status}" if (step.http_status or 0) >= 400 else step.status
