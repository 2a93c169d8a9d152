"""Proves that balances are the sums of their entries, and the ledger what the books say.

Rule 1: every figure is computed again from the rows below it; nothing is taken from the projection that is checked.
Rule 2: a difference names what it is about and both figures. No difference is too small to print.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from bursar.core.budgets import NO_TOTALS, Totals
from bursar.engine.ports import Queries
from bursar.engine.ship import ship

from .books_file import BooksFile
from .ledger_duckdb import DuckLedger

__all__ = ["Difference", "Verification", "verify"]

_CHUNK: Final = 50_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Two figures that should be equal. Amounts are nano-USD."""

    about: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and every difference."""

    entries: int
    accounts: int
    open_holds: int
    ledger_rows: int
    differences: tuple[Difference, ...]


def verify(books: BooksFile, ledger: DuckLedger, progress: Callable[[str], None] = lambda _: None) -> Verification:
    """Compare books and ledger. Raises LedgerError when they do not belong together."""
    db = books.connection
    db.execute("BEGIN")  # one moment in time, while others go on writing
    try:
        ship(books, ledger)  # of this very moment: what ends later is in neither
        progress("balances")
        found = [*_balances(books), *_holds(books), *_payloads(books)]
        progress("ledger")
        found.extend(_ledger(books, ledger))
        (entries,) = db.execute("SELECT count(*) FROM entry").fetchone()
        accounts = len(books.balances())
        holds = books.open_holds()
    finally:
        db.execute("COMMIT")
    rows = ledger.rows("SELECT count(*) AS n FROM attempt")[0]["n"]
    return Verification(entries, accounts, holds, rows, tuple(found))


def _balances(books: BooksFile) -> Iterator[Difference]:
    sums = {
        row[0]: Totals(*row[1:])
        for row in books.connection.execute(
            "SELECT a.value, sum(held_nanousd), sum(spent_nanousd), sum(unpriced), sum(held_tokens), sum(spent_tokens),"
            " sum(held_calls), sum(spent_calls), sum(assumed_nanousd) FROM entry, json_each(entry.accounts) a GROUP BY a.value"
        )
    }
    kept = {row[0]: Totals(*row[1:]) for row in books.connection.execute("SELECT * FROM balance")}
    for account in sorted(sums.keys() | kept.keys()):
        expected, found = sums.get(account, NO_TOTALS), kept.get(account, NO_TOTALS)
        for name, left, right in zip(Totals._fields, expected, found, strict=True):
            if left != right:
                yield Difference(f"{name} of account {account}", f"{left} (sum of entries)", f"{right} (balance)")
            if name.startswith("held") and left < 0:
                yield Difference(f"{name} of account {account}", "not negative", str(left))


def _holds(books: BooksFile) -> Iterator[Difference]:
    unended: dict[str, int] = dict(
        books.connection.execute(
            "SELECT attempt_id, sum(held_nanousd) FROM entry e WHERE (stage = 0 OR stage > 3)"
            " AND NOT EXISTS (SELECT 1 FROM entry x WHERE x.attempt_id = e.attempt_id AND x.stage = 1) GROUP BY attempt_id"
        )
    )
    kept: dict[str, int] = dict(books.connection.execute("SELECT attempt_id, amount_nanousd FROM open_hold"))
    for attempt in sorted(unended.keys() | kept.keys()):
        if unended.get(attempt) != kept.get(attempt):
            left, right = str(unended.get(attempt, "ended")), str(kept.get(attempt, "none"))
            yield Difference(f"open hold of attempt {attempt}", f"{left} (entries)", f"{right} (open holds)")


def _payloads(books: BooksFile) -> Iterator[Difference]:
    rows = books.connection.execute(
        "SELECT attempt_id, spent_nanousd, json_extract(payload, '$.cost_nanousd') FROM entry WHERE stage IN (1, 2)"
        " AND payload IS NOT NULL AND spent_nanousd <> coalesce(json_extract(payload, '$.cost_nanousd'), 0)"
    )
    for attempt, spent, cost in rows:
        yield Difference(f"charge of attempt {attempt}", f"{spent} (entry)", f"{cost} (its row)")


def _ledger(books: BooksFile, ledger: Queries) -> Iterator[Difference]:
    low, high = books.connection.execute(
        "SELECT min(sequence), max(sequence) FROM entry WHERE stage IN (1, 2) AND payload IS NOT NULL"
    ).fetchone()
    for row in ledger.rows("SELECT attempt_id, count(*) AS n FROM attempt GROUP BY ALL HAVING count(*) > 1 LIMIT 1000"):
        yield Difference(f"rows of attempt {row['attempt_id']}", "1", f"{row['n']} (ledger)")
    wrong = ledger.rows(
        "SELECT attempt_id, cost_nanousd AS cost, list_sum([x.cost_nanousd FOR x IN lines]) AS lines FROM attempt"
        " WHERE len(lines) > 0 AND cost_nanousd <> list_sum([x.cost_nanousd FOR x IN lines]) LIMIT 1000"
    )
    for row in wrong:
        yield Difference(
            f"charge of attempt {row['attempt_id']}", f"{row['lines']} (sum of lines)", f"{row['cost']} (ledger)"
        )
    spent = next((int(b.spent) for b in books.balances() if b.account == "all"), 0)
    total = ledger.rows("SELECT sum(cost_nanousd)::BIGINT AS cost FROM spend")[0]["cost"] or 0
    if spent != total:
        yield Difference("spent on everything", f"{spent} (books)", f"{total} (ledger)")
    if low is None:
        # Nothing to compare with; rows whose entries were rolled up keep their sequence below any that is left.
        return
    # Days that the ledger has summed up: a row that is missing there is in the sum, which is compared above.
    summed_us = ledger.rows("SELECT epoch_us(max(started_at)) + 86_400_000_000 AS us FROM rollup")[0]["us"] or 0
    back = _taken_back(books)
    position = low - 1
    while position < high:
        upto = min(position + _CHUNK, high)
        yield from _range(books, ledger, position, upto, summed_us, back)
        position = upto
    for row in ledger.rows("SELECT attempt_id FROM attempt WHERE sequence > $high LIMIT 1000", {"high": high}):
        yield Difference(f"attempt {row['attempt_id']}", "no entry in the books", "a row in the ledger")


def _taken_back(books: BooksFile) -> dict[int, int]:
    """Entries without a row in the ledger of their own: those taken back and what took them, with the attempt's time."""
    found = books.connection.execute(
        "SELECT sequence, json_extract(payload, '$.retracts_sequence'), json_extract(payload, '$.started_us') FROM entry"
        " WHERE stage = 2 AND kind = 'retract'"
    )
    return {each: started_us for sequence, other, started_us in found for each in (sequence, other)}


def _range(
    books: BooksFile, ledger: Queries, after: int, upto: int, summed_us: int, back: dict[int, int]
) -> Iterator[Difference]:
    expected: dict[int, tuple[str, int | None]] = {}
    summed: set[int] = set()
    for sequence, attempt_id, cost, started_us in books.connection.execute(
        "SELECT sequence, json_extract(payload, '$.attempt_id'), json_extract(payload, '$.cost_nanousd'),"
        " json_extract(payload, '$.started_us') FROM entry"
        " WHERE sequence > ? AND sequence <= ? AND stage IN (1, 2) AND payload IS NOT NULL",
        (after, upto),
    ):
        if sequence in back and started_us >= summed_us:
            continue
        expected[sequence] = (attempt_id, cost)
        if started_us < summed_us:
            summed.add(sequence)
    rows: list[dict[str, Any]] = ledger.rows(
        "SELECT sequence, attempt_id, cost_nanousd FROM attempt WHERE sequence > $after AND sequence <= $upto",
        {"after": after, "upto": upto},
    )
    found = {row["sequence"]: (row["attempt_id"], row["cost_nanousd"]) for row in rows}
    for sequence in sorted(expected.keys() | found.keys()):
        left, right = expected.get(sequence), found.get(sequence)
        if left != right and not (right is None and sequence in summed):
            attempt = (left or right or ("?", 0))[0]
            yield Difference(f"attempt {attempt}", _text(left, "the books"), _text(right, "the ledger"))


def _text(row: tuple[str, int | None] | None, where: str) -> str:
    if row is None:
        return f"not in {where}"
    return f"{'unpriced' if row[1] is None else row[1]} ({where})"
