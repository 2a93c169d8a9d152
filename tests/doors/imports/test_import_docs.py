"""The page of the imports names every column and shows rows that can be imported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bursar.doors.imports.rows import COLUMNS, Columns, read_rows
from bursar.doors.imports.tally import Tally

PAGE = (Path(__file__).parents[3] / "docs" / "imports.md").read_text(encoding="utf-8")


def test_every_column_is_documented():
    """A column that nobody can find does not exist."""
    assert [name for name in COLUMNS if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_examples_can_be_imported(tmp_path, book, kind):
    """The fenced rows parse."""
    block = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    path = tmp_path / "rows"
    path.write_text(block[1], encoding="utf-8")
    file_type = "csv" if kind == "csv" else "jsonl"
    rows = read_rows(path, file_type, book=book, tally=Tally(), columns=Columns(), on_error="stop")
    assert len(list(rows)) == 1
