"""Questions of bank customers as a stream: what is kept, served and checked, and how much of what was served was wrong.

Rule 1: an answer is a question's intent; another intent is a wrong answer.
Rule 2: what is served is not kept: its own answer is never known. Everything else was asked of the model, and is.
Rule 3: the same questions in another order are another stream. A table of neighbours, made once, stands in for the search; it finds what
        the search finds.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bursar.learn.semantic as semantic
from bursar.learn.evidence import Evidence
from bursar.learn.guards import Signature, signature
from bursar.learn.nearest import Near

__all__ = ["DATA", "Bank", "Outcome", "Table", "plain_cosine", "stream"]

DATA = Path(__file__).parents[3] / "shared" / "data" / "banking77" / "train.csv"
_TABLE_WIDTH = 512


class Bank:
    """The questions and their intents."""

    def __init__(self) -> None:
        with DATA.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.texts = [row["text"] for row in rows]
        self.intents = [row["category"] for row in rows]
        self.signatures: dict[str, Signature] = {}

    def signature(self, text: str) -> Signature:
        found = self.signatures.get(text)
        if found is None:
            found = self.signatures[text] = signature(text)
        return found


class Table:
    """The nearest of every question's vector among all, by number."""

    def __init__(self, vectors: Any) -> None:
        self.vectors = vectors = np.asarray(vectors, np.float32)
        self.keys = [str(number) for number in range(len(vectors))]
        total = len(vectors)
        width = min(_TABLE_WIDTH, total)
        self.near = np.empty((total, width), np.int32)
        self.similar = np.empty((total, width), np.float32)
        for start in range(0, total, 500):
            rows = vectors[start : start + 500] @ vectors.T
            chosen = np.argpartition(-rows, width - 1, axis=1)[:, :width]
            found = np.take_along_axis(rows, chosen, axis=1)
            order = np.argsort(-found, axis=1)
            self.near[start : start + 500] = np.take_along_axis(chosen, order, axis=1)
            self.similar[start : start + 500] = np.take_along_axis(found, order, axis=1)


class _Search:
    """In place of ``Nearest``: keys and vectors are numbers of questions."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._kept = np.zeros(len(table.near), bool)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: str, vector: Any) -> None:
        self._kept[int(key)] = True
        self._count += 1

    def remove(self, key: str) -> bool:
        self._kept[int(key)] = False
        self._count -= 1
        return True

    def nearest(self, vector: int, count: int) -> list[Near]:
        table = self._table
        there = np.flatnonzero(self._kept[table.near[vector]])[:count]
        near, similar = table.near[vector][there], table.similar[vector][there]
        if len(near) < min(count, self._count):
            kept = np.flatnonzero(self._kept)
            all_similar = table.vectors[kept] @ table.vectors[vector]
            order = np.argsort(-all_similar)[:count]
            near, similar = kept[order], all_similar[order]
        keys = table.keys
        return [Near(keys[number], each) for number, each in zip(near.tolist(), similar.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Outcome:
    asked: int
    served: int
    false: int
    served_late: int
    """Of the last quarter of the stream."""
    checked: int
    evidence: Evidence | None

    @property
    def false_share(self) -> float:
        return self.false / self.served if self.served else 0.0


def stream(bank: Bank, table: Table, *, errors: float, seed: int, length: int | None = None) -> Outcome:
    """One order of the questions through ``SimilarAnswers``."""
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(bank.texts))[:length]
    answers = semantic.SimilarAnswers()
    answers._spaces["bank"] = _Search(table)  # type: ignore[assignment] - a search that is quicker
    served = false = late = checked = 0
    for place, number in enumerate(order):
        text, intent = bank.texts[number], bank.intents[number]
        match = answers.find("bank", "route", text, number, delta=errors, draw=float(draws.random())) if place else None
        if match is not None and match.serve:
            served += 1
            false += match.answer != intent
            late += place >= 0.75 * len(order)
            continue
        answers.add("bank", str(number), text, number, answer=intent)
        if match is not None and match.shadow:
            checked += 1
            answers.record("route", match, match.answer == intent)
    return Outcome(len(order), served, false, late, checked, answers.evidence("route"))


def plain_cosine(bank: Bank, table: Table, *, threshold: float, seed: int, length: int | None = None) -> Outcome:
    """The same stream through what caches usually do: the nearest question's answer, if it is that similar."""
    draws = np.random.default_rng(seed)
    order = draws.permutation(len(bank.texts))[:length]
    search = _Search(table)
    served = false = late = 0
    for place, number in enumerate(order):
        near = search.nearest(int(number), 1)
        if near and near[0].similarity >= threshold:
            served += 1
            false += bank.intents[int(near[0].key)] != bank.intents[number]
            late += place >= 0.75 * len(order)
        else:
            search.add(str(number), None)
    return Outcome(len(order), served, false, late, 0, None)
