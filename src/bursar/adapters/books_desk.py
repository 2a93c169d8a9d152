"""What is asked of the books beside holding and settling, in one short transaction each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bursar.core.admission import Claim
from bursar.core.budgets import TaskLimit, Totals
from bursar.core.ledger import Attempt
from bursar.core.money import NanoUSD
from bursar.engine.ports import TaskUse

from .books_file import BooksFile

__all__ = ["PlainDesk", "task_totals", "use_of_task"]


class PlainDesk:
    """``doors.remote.app.Place`` over the file of an event loop's books."""

    def __init__(self, file: Callable[[], BooksFile]) -> None:
        self._file = file

    def place(self, tasks: Sequence[TaskLimit], key: str) -> None:
        file = self._file()
        file.transaction(lambda: [file.admissions.place(task, key) for task in tasks])

    def observe(self, attempts: Sequence[tuple[Attempt, Claim | None]]) -> None:
        claims = {attempt.opening.attempt_id: claim for attempt, claim in attempts}
        self._file().observe([attempt for attempt, _ in attempts], budgets=lambda each: claims[each.opening.attempt_id])

    def task_use(self, task: str) -> TaskUse:
        file = self._file()
        return use_of_task(*file.transaction(lambda: task_totals(file, task)))


def task_totals(file: BooksFile, task: str) -> tuple[Totals, list[tuple[TaskLimit, Totals]]]:
    """What is used of a task, and the tasks from it to the top with what is used of each."""
    chain = file.admissions.chain(task) or (TaskLimit(task),)
    totals = file.admissions.totals(f"task:{each.task}" for each in chain)
    return totals[f"task:{task}"], [(each, totals[f"task:{each.task}"]) for each in chain]


def use_of_task(used: Totals, chain: Sequence[tuple[TaskLimit, Totals]]) -> TaskUse:
    lefts = [
        each.limit - totals.spent - totals.held - totals.assumed for each, totals in chain if each.limit is not None
    ]
    return TaskUse(NanoUSD(used.spent), NanoUSD(used.held), min(lefts, default=None), used.unpriced)
