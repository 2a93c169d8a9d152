"""A desk of budgets over books in a file, as calls would have left them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bursar.adapters.books_file import BooksFile
from bursar.adapters.budget_desk import BooksDesk
from bursar.console.answers import ApiAnswer
from bursar.console.api import Request, handle_budgets
from seeding import NOW

T = TypeVar("T")
NOW_US = int(NOW.timestamp()) * 1_000_000


@dataclass
class Desk:
    """The books in a file, opened for each question: the page is served by several threads."""

    path: Path
    configured: dict[str, Any] = field(default_factory=dict)
    now_us: int = NOW_US

    def ask(self, question: Callable[[BooksDesk], T]) -> T:
        with closing(BooksFile(self.path, clock_us=lambda: self.now_us, hold_ttl_us=1)) as books:
            return question(BooksDesk(books, lambda: self.configured, lambda: self.now_us))

    def request(self, method: str, path: str, query: str = "", body: bytes = b"") -> ApiAnswer:
        request = Request(method, path, query, body)
        return self.ask(lambda desk: handle_budgets(request, desk, now_us=self.now_us))

    def write(self, sql: str, *rows: tuple[Any, ...]) -> None:
        """What calls would have left in the books."""
        with closing(BooksFile(self.path, clock_us=lambda: self.now_us, hold_ttl_us=1)) as books:
            books.transaction(lambda: books.connection.executemany(sql, rows))

    def used(
        self, account: str, *, spent: int = 0, held: int = 0, unpriced: int = 0, tokens: int = 0, assumed: int = 0
    ) -> None:
        values = (account, held, spent, unpriced, 0, tokens, 0, 0, assumed)
        self.write("INSERT INTO balance VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def asked(self, name: str, *, budget: str = "support", who: str = '{"task":"t-12"}') -> None:
        """An approval that waits, until the end of the month."""
        values = (name, budget, "budget:x", who, "pending", self.now_us - 60_000_000, None, self.now_us + 10**11)
        self.write("INSERT INTO approval VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
