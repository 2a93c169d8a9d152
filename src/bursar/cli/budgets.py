"""``bursar budgets``, ``bursar approvals`` and ``bursar approve``: set budgets, see how they stand, let calls go on.

Rule 1: what is set is in the books when the command ends; a running server takes notice within a second.
Rule 2: a budget of bursar.yaml is shown here and changed there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from bursar.cli.budget_options import SetOptions, merged
from bursar.cli.output import Column, Line, clean, data_option, money, new_console, plural, print_json, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from bursar.core.budgets import Budget
    from bursar.engine.ports import AskedApproval, BudgetDesk, TaskStanding

__all__ = ["approvals", "approve", "budgets"]

_SUBJECTS: Final = 5
_SUBJECTS_MAX: Final = 1_000
_TASKS: Final = 50
_Command = TypeVar("_Command", bound=Callable[..., Any])

_NOTHING: Final = """\
No budgets yet. Set one:

  bursar budgets set support --limit 50 --per month --match team=support
  bursar budgets set people --limit 5 --per day --each user
  bursar budgets set --task TASK --limit 0.50
"""


class _Open(NamedTuple):
    desk: BudgetDesk
    now_us: int


@contextmanager
def _open(data: Path | None) -> Generator[_Open]:
    from bursar.adapters.budget_desk import BooksDesk
    from bursar.compose import now_us, open_books_file, open_data, settings_of

    where = open_data(data)
    settings = settings_of(where)
    with closing(open_books_file(where, settings)) as books:
        yield _Open(BooksDesk(books, lambda: settings.budgets, now_us), now_us())


_json_option = click.option("--json", "as_json", is_flag=True, help="Exact figures as JSON.")
_task_option = click.option("--task", metavar="TASK", help="The limit of one task, in place of a budget.")


@click.group()
def budgets() -> None:
    """Budgets: set them, see how they stand, raise them, take them away."""


# --- set --------------------------------------------------------------------------------------------------------


def _set_options(command: _Command) -> _Command:
    for option in reversed(
        (
            click.option("--limit", multiple=True, metavar="AMOUNT",
                         help="At most this: 50, '2M tokens', '100 calls'; or for each window: day=5. Repeatable."),
            click.option("--per", multiple=True, metavar="WINDOW",
                         help="hour, day, week, month, quarter, year, lifetime, or rolling: 90m, 24h, 7d. Repeatable."),
            click.option("--match", multiple=True, metavar="COLUMN=PATTERN",
                         help="Only calls like this: team=search, label:env=prod*. Repeatable."),
            click.option("--each", metavar="COLUMN", help="A balance for every value of this: user, task, agent, ..."),
            click.option("--tz", metavar="ZONE", help="Whose days and months (IANA name)."),
            click.option("--on-unpriced", metavar="WHAT", help="Calls without a price: deny, allow, or assume-AMOUNT."),
            click.option("--on-store-failure", metavar="WHAT",
                         help="While the books cannot be written: closed, or open-up-to-AMOUNT."),
            click.option("--alert-at", multiple=True, metavar="SHARE", help="Alert when so much is spent: 80%."),
            click.option("--forecast/--no-forecast", default=None, help="Alert before the limit is reached, or not."),
            click.option("--reserve", metavar="AMOUNT", help="Kept for calls that say they are a task's last."),
            click.option("--floor-tokens", type=int, metavar="N", help="No answer is cut below this many tokens."),
            click.option("--streams", type=click.Choice(("clamp", "extend")),
                         help="Streams get a smaller cap at their start, or ask for more as they go on."),
            click.option("--input", type=click.Choice(("dearest", "likely")),
                         help="Hold input at its dearest, or as if the prompt cache still had it."),
            click.option("--watch/--enforce", "watch", default=None, help="Only watch, or refuse what does not fit."),
            click.option("--rung", multiple=True, metavar="RUNG",
                         help="What happens as money runs out: 'at=90% effort=low'. Repeatable, replaces the ladder."),
            click.option("--ladder", metavar="JSON", help="The whole ladder, as a JSON list."),
            click.option("--raise", "raise_by", metavar="AMOUNT", help="So much more, for a while."),
            click.option("--until", metavar="DATE", help="When the raise ends: 2026-12-01, 2026-12-01T18:00."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@budgets.command("set")
@click.argument("name", required=False)
@_task_option
@_set_options
@_json_option
@data_option
def set_(
    name: str | None, task: str | None, watch: bool | None, as_json: bool, data: Path | None, **given: Any
) -> None:
    """Set the budget NAME, or change what the given options say of it. A new one needs --limit.

    `none` as a value takes an option back to its default. A running server takes notice within a second.

    \b
    bursar budgets set support --limit 50 --per month --match team=support
    bursar budgets set support --raise 30 --until 2026-12-01
    bursar budgets set people --limit 5 --per day --each user --rung 'at=80% model=gpt-5:gpt-5-mini'
    bursar budgets set --task TASK --limit 0.50
    """
    if (name is None) == (task is None):
        raise click.UsageError("name one: bursar budgets set NAME ..., or --task TASK")
    options = SetOptions(**given, enforce=None if watch is None else not watch)
    if task is not None:
        _set_task(task, options, as_json, data)
    else:
        assert name is not None
        _set_budget(name, options, as_json, data)


def _set_budget(name: str, options: SetOptions, as_json: bool, data: Path | None) -> None:
    from bursar.cli.budget_words import one_line
    from bursar.core.budgets import TASK_RULES
    from bursar.views.budgets import kept_json

    with _open(data) as (desk, now_us):
        before = desk.find(name)
        if before is not None and before.source == "file":
            raise click.ClickException(f"budget {name!r} is in bursar.yaml: change it there, under budgets.{name}")
        if before is None and not options.limit and name != TASK_RULES.name:
            raise click.UsageError(f"there is no budget {name!r} yet; a new one needs --limit, such as --limit 50")
        spec = merged(before.spec if before is not None else {}, options)
        _check_raise(name, spec, options, now_us)
        kept = desk.set(name, spec)
    if as_json:
        print_json(kept_json(kept, now_us=now_us))
    else:
        click.echo(f"{'Changed' if before else 'Set'} {name}: {one_line(kept.budget, now_us)}.")


def _check_raise(name: str, spec: dict[str, Any], options: SetOptions, now_us: int) -> None:
    """A raise that ends before it begins is a slip of the keyboard."""
    from bursar.adapters.zones import zone_of
    from bursar.core.budget_fields import parse_budget

    if options.until is None or options.raise_by == "none":
        return
    try:
        raised = parse_budget(name, spec, zone_of).raised
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if raised is not None and raised.until_us <= now_us:
        raise click.UsageError(f"--until {options.until} is over already; give a moment to come")


def _set_task(task: str, options: SetOptions, as_json: bool, data: Path | None) -> None:
    from bursar.core.money import NanoUSD
    from bursar.core.scopes import VALUE_LENGTH_MAX
    from bursar.views.budgets import task_json

    if SetOptions(limit=options.limit, reserve=options.reserve) != options:
        raise click.UsageError("a task has --limit and --reserve only; other options are for budgets")
    if not task or len(task) > VALUE_LENGTH_MAX:
        raise click.UsageError(f"--task: an id has from 1 to {VALUE_LENGTH_MAX} characters")
    if len(options.limit) > 1:
        raise click.UsageError("--limit is given twice; a task has one limit")
    with _open(data) as (desk, _):
        before = desk.task(task)
        if options.limit == ("none",):
            if options.reserve is not None:
                raise click.UsageError("a task without a limit keeps nothing back; leave --reserve out")
            desk.set_task(task, None, NanoUSD(0))
            after = None
        else:
            limit, reserve = _task_amounts(task, options, before)
            desk.set_task(task, limit, reserve)
            after = desk.task(task)
    if as_json:
        print_json({"task": task, "limit": None} if after is None else task_json(after))
    elif after is None:
        click.echo(f"Task {clean(task)} has no limit of its own now.")
    else:
        use = after.standing.use
        click.echo(f"Task {clean(task)} may spend {money(after.standing.limit)}; {money(use.used)} of it is used.")


def _task_amounts(task: str, options: SetOptions, before: TaskStanding | None) -> tuple[Any, Any]:
    """The limit and the reserve: what is given, else what there is."""
    from bursar.core.budget_fields import parse_money
    from bursar.core.money import NanoUSD

    if not options.limit and before is None:
        raise click.UsageError(f"task {task!r} has no limit yet; give --limit, such as --limit 0.50")
    try:
        limit = parse_money(options.limit[0], "--limit") if options.limit else None
        reserve = None if options.reserve in (None, "none") else parse_money(options.reserve, "--reserve")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if limit is None:
        assert before is not None
        limit = NanoUSD(before.standing.limit)
    if reserve is None:
        kept = before.limit.reserve if before is not None and options.reserve is None else 0
        reserve = NanoUSD(min(kept, limit))
    if reserve > limit:
        raise click.UsageError(f"--reserve {options.reserve} is more than the limit of {money(limit)}")
    return limit, reserve


# --- see --------------------------------------------------------------------------------------------------------


@budgets.command("list")
@click.option("--tasks", "with_tasks", is_flag=True, help="Also tasks with a limit of their own.")
@_json_option
@data_option
def list_(with_tasks: bool, as_json: bool, data: Path | None) -> None:
    """How every budget in force stands: of bursar.yaml, and set by command or API."""
    from bursar.views.budgets import budget_json, shown, standings_by_budget, task_json

    with _open(data) as (desk, now_us):
        kept = desk.budgets()
        standings = standings_by_budget(desk, kept)
        tasks = desk.tasks()
    if as_json:
        rows = [budget_json(b, standings[b.budget.name], limit=_SUBJECTS_MAX, now_us=now_us) for b in kept]
        print_json({"rows": rows} | ({"tasks": [task_json(task) for task in tasks]} if with_tasks else {}))
        return
    if not kept and not tasks:
        click.echo(_NOTHING, nl=False)
        return
    from bursar.cli.budget_words import print_standings

    console = new_console()
    rows = [each for b in kept for each in shown(standings[b.budget.name], _SUBJECTS)]
    if rows:
        print_standings(console, rows)
    _print_quiet(console, [b.budget for b in kept if not standings[b.budget.name]])
    for b in kept:
        if left_out := len(standings[b.budget.name]) - len(shown(standings[b.budget.name], _SUBJECTS)):
            console.print(f"{plural(left_out, 'more line')}: bursar budgets show {b.budget.name}", style="dim")
    if with_tasks:
        _print_tasks(console, tasks)
    elif tasks:
        console.print(f"{plural(len(tasks), 'task')} with a limit of its own: add --tasks.", style="dim")


def _print_quiet(console: Console, quiet: Sequence[Budget]) -> None:
    """A budget with ``each`` has no balance before the first call under it; one without limits never has."""
    for budget in quiet:
        why = f"no call of any {budget.each} yet in its windows" if budget.limits else "how the limits of tasks behave"
        console.print(f"{budget.name}: {why}.", style="dim")


def _print_tasks(console: Console, tasks: Sequence[TaskStanding]) -> None:
    from bursar.cli.budget_words import print_standings

    if not tasks:
        click.echo("No task has a limit of its own. Give one: bursar budgets set --task TASK --limit 0.50")
        return
    click.echo()
    print_standings(console, [task.standing for task in tasks[:_TASKS]], names="Task")
    if len(tasks) > _TASKS:
        console.print(f"{plural(len(tasks) - _TASKS, 'more task')}: --json has them.", style="dim")


@budgets.command()
@click.argument("name", required=False)
@_task_option
@_json_option
@data_option
def show(name: str | None, task: str | None, as_json: bool, data: Path | None) -> None:
    """What the budget NAME says, in words, and how every one of its balances stands."""
    if (name is None) == (task is None):
        raise click.UsageError("name one: bursar budgets show NAME, or --task TASK")
    if task is not None:
        _show_task(task, as_json, data)
        return
    assert name is not None
    from bursar.views.budgets import budget_json, standings_by_budget

    with _open(data) as (desk, now_us):
        kept = desk.find(name)
        if kept is None:
            raise click.ClickException(f"there is no budget {name!r}; see `bursar budgets list`")
        standings = standings_by_budget(desk, [kept])[name]
    if as_json:
        print_json(budget_json(kept, standings, limit=_SUBJECTS_MAX, now_us=now_us))
        return
    from bursar.cli.budget_words import definition, print_standings

    console = new_console()
    console.print(f"Budget {name}", style="bold")
    for label, text in definition(kept, now_us):
        console.print(f"  {label:<10}  {clean(text)}")
    console.print()
    if standings:
        print_standings(console, standings)
    else:
        _print_quiet(console, [kept.budget])


def _show_task(task: str, as_json: bool, data: Path | None) -> None:
    from bursar.views.budgets import task_json

    with _open(data) as (desk, _):
        found = desk.task(task)
    if found is None:
        raise click.ClickException(
            f"task {task!r} has no limit of its own; give it one: bursar budgets set --task TASK --limit AMOUNT"
        )
    if as_json:
        print_json(task_json(found))
        return
    from bursar.cli.budget_words import print_standings

    print_standings(new_console(), [found.standing], names="Task")
    if found.limit.parent:
        click.echo(f"It is part of task {clean(found.limit.parent)} and draws from what that has left.")
    if found.limit.reserve:
        click.echo(f"{money(found.limit.reserve)} of the limit is kept for its last call.")


@budgets.command()
@click.argument("name")
@data_option
def remove(name: str, data: Path | None) -> None:
    """Take the budget NAME away. What was spent under it stays in the books."""
    with _open(data) as (desk, _):
        before = desk.find(name)
        if before is not None and before.source == "file":
            raise click.ClickException(f"budget {name!r} is in bursar.yaml: take it out there")
        if not desk.remove(name):
            raise click.ClickException(f"there is no budget {name!r}; see `bursar budgets list`")
    click.echo(f"Removed {name}.")


# --- approvals --------------------------------------------------------------------------------------------------


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also what was decided, as long as its window lasts.")
@_json_option
@data_option
def approvals(everything: bool, as_json: bool, data: Path | None) -> None:
    """What waits for somebody's yes before its calls go on."""
    from bursar.views.budgets import approval_json

    with _open(data) as (desk, _):
        found = desk.approvals(pending=not everything)
    if as_json:
        print_json({"rows": [approval_json(one) for one in found]})
        return
    if not found:
        click.echo("Nothing waits for a yes.")
        return
    columns = [
        Column("id", "text", width_min=16),
        Column("budget", "text"),
        Column("calls are for", "text", width_min=20),
        Column("asked (UTC)", "text", spare=2),
        Column("until (UTC)", "text", spare=1),
        *([Column("state", "text")] if everything else []),
    ]
    lines = [
        Line(
            [
                one.id,
                clean(one.budget),
                clean(_who(one)),
                _minute(one.asked_us),
                "-" if one.expires_us is None else _minute(one.expires_us),
                *([one.state] if everything else []),
            ]
        )
        for one in found
    ]
    print_table(new_console(), columns, lines)
    if any(one.state == "pending" for one in found):
        click.echo("Let them go on: bursar approve ID. Say no: bursar approve ID --decline", err=True)


@click.command()
@click.argument("approval", metavar="ID")
@click.option("--decline", is_flag=True, help="Say no. An earlier yes is taken back.")
@_json_option
@data_option
def approve(approval: str, decline: bool, as_json: bool, data: Path | None) -> None:
    """Say yes to what waits under ID (`bursar approvals`): its calls go on until the budget's window ends.

    A running server takes notice at the next call.
    """
    from bursar.views.budgets import approval_json

    with _open(data) as (desk, _):
        found = desk.decide(approval, "declined" if decline else "granted")
    if found is None:
        raise click.ClickException(f"nothing of the id {approval!r} waits for a yes; see `bursar approvals`")
    if as_json:
        print_json(approval_json(found))
        return
    until = "" if found.expires_us is None else f" until {_minute(found.expires_us)} UTC"
    word = "Declined" if decline else "Approved"
    click.echo(f"{word}: {clean(_who(found))}, budget {found.budget}{until}.")


def _who(one: AskedApproval) -> str:
    return " ".join(f"{column}={value}" for column, value in one.who.items()) or "calls that name nobody"


def _minute(at_us: int) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, timezone.utc).strftime("%Y-%m-%d %H:%M")
