"""Answers to similar questions, for routes that opt in: find, check, learn.

Rule 1: what is found is served only where ``learn.semantic`` says that it may; else the model is asked, and where a check is due
        its answer is compared with the one that would have been given.
Rule 2: a check costs no extra call: whoever asked gets the model's answer. Only a judge, where the route names one, is a call; it
        is asked also where no check is due, because answers that are worded anew each time are one answer only by its word.
Rule 3: nothing here fails a call: without vectors, or with a judge that does not answer, there is nothing similar, and no evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from bursar.core.caching import SemanticPolicy
from bursar.core.errors import CacheError
from bursar.core.values import valueclass
from bursar.learn.semantic import Match, SimilarAnswers, answer_name, answers_equal
from bursar.wire.canonical import digest
from bursar.wire.questions import Question

__all__ = ["Asked", "Similar", "Vectors"]

_log = logging.getLogger("bursar.cache")

_MILLE: Final = 1_000


class Vectors(Protocol):
    """Makes the vector of a text for one call; what that costs is the call's. ``id`` says which model makes it."""

    @property
    def id(self) -> str: ...

    async def vector(self, text: str, /) -> Any:
        """Raises CacheError."""
        ...


@valueclass
class Asked:
    """A question that was looked for. ``match`` None: there was nothing to compare it with."""

    route: str
    space: str
    text: str
    vector: Any
    policy: SemanticPolicy
    match: Match | None

    @property
    def said(self) -> dict[str, Any]:
        """For the decision."""
        if self.match is None:
            return {"similar": "no similar question is known"}
        return {"similar": self.match.why, "similarity_permille": round(self.match.similarity * _MILLE)}


class Similar:
    """One per process. ``draw`` gives numbers from 0 to 1."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.answers = SimilarAnswers()
        self._draw = draw
        self._failed = False
        self.changed = False
        """Whether there is evidence that was not written down yet."""

    async def look(
        self, question: Question, policy: SemanticPolicy, vectors: Vectors, *, tenant: str, route: str, path: str
    ) -> Asked | None:
        """What is known of a question, None where nothing can be."""
        try:
            vector = await vectors.vector(question.text)
            space = digest(
                tenant.encode(), route.encode(), path.encode(), question.context.encode(), vectors.id.encode()
            )
            match = self.answers.find(
                space,
                route,
                question.text,
                vector,
                delta=policy.errors / _MILLE,
                draw=self._draw(),
                shadow=policy.shadow / _MILLE,
            )
        except (CacheError, ValueError) as error:
            if not self._failed:
                _log.error("similar questions are not looked for: %s", error)
            self._failed = True
            return None
        self._failed = False
        return Asked(route, space, question.text, vector, policy, match)

    def forget(self, key: str) -> None:
        """An entry is not there any more."""
        self.answers.forget([key])

    def wrong(self, asked: Asked) -> None:
        """Somebody found that what was served for this question is wrong."""
        if asked.match is not None:
            self.answers.record(asked.route, asked.match, False)
            self.changed = True

    async def learn(
        self,
        asked: Asked,
        key: str,
        answer: str,
        other: str | None,
        judge: Callable[[str, str, str], Awaitable[bool | None]],
    ) -> None:
        """A question was answered, under this key; ``other`` is the text of the answer that it was matched with."""
        match, how = asked.match, asked.policy.verify
        agreed: bool | None = None
        if match is not None and other is not None:
            agreed = answers_equal(answer, other, "json" if how == "json" else "equal")
            if not agreed and how == "judge":
                agreed = await judge(asked.text, answer, other)
            if match.shadow and agreed is not None:
                self.answers.record(asked.route, match, agreed)
                self.changed = True
        name = (
            match.answer if agreed and match is not None else answer_name(answer, "json" if how == "json" else "equal")
        )
        self.answers.add(asked.space, key, asked.text, asked.vector, answer=name)
