"""Answers to similar questions, for routes that opt in: find, check, learn.

Rule 1: what is found is served only where ``learn.semantic`` says that it may; else the model is asked, and where a check is due
        its answer is compared with the one that would have been given.
Rule 2: a check costs no extra call: whoever asked gets the model's answer. Only a judge, where the route names one, is a call; it
        is asked also where no check is due, because answers that are worded anew each time are one answer only by its word.
Rule 3: nothing here fails a call: without vectors, or with a judge that does not answer, there is nothing similar, and no evidence.
Rule 4: a check that is due is told of every whole answer, kept or not: one that asks for tools, was filtered or cut at its cap is not
        what would have been served. Only errors, and answers that broke off, say nothing: a check that ended in silence whenever
        it fails would find no errors at all.
Rule 5: evidence is for one setting of a route: bound, embedder, how answers are compared, who judges, and what the route makes of a
        request. Any other one begins anew, the one before it, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from bursar.core.caching import SemanticPolicy
from bursar.core.errors import CacheError
from bursar.core.ledger import Attempt
from bursar.core.values import valueclass
from bursar.learn.answers import answer_name, answers_equal
from bursar.learn.semantic import Match, SimilarAnswers
from bursar.wire.canonical import digest
from bursar.wire.questions import Question

__all__ = ["Asked", "Similar", "Vectors"]

_log = logging.getLogger("bursar.cache")

_MILLE: Final = 1_000
_COUNTS: Final = b"2"
"""What a check counts: with another one all evidence is of another setting. 1: answers that are no text were not counted."""


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
    def compared(self) -> bool:
        """Whether what the model says is to be compared: a check is due, or a hit was not needed in the end. Such a one can only speak
        against what is known (``SimilarAnswers.record``)."""
        return self.match is not None and (self.match.shadow or self.match.serve)

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
        self,
        question: Question,
        policy: SemanticPolicy,
        vectors: Vectors,
        *,
        tenant: str,
        route: str,
        path: str,
        made: str,
    ) -> Asked | None:
        """What is known of a question, None where nothing can be. ``path`` says beside the question what is asked, ``made`` what the
        route makes of it: its rungs."""
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
                setting=_setting(policy, vectors.id, made),
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
            self._record(asked, asked.match, False)

    def differed(self, asked: Asked, attempt: Attempt) -> None:
        """A question was answered by something that is not kept, or is not only text. If it came whole a check that is due has failed."""
        if asked.match is not None and asked.compared and _came_whole(attempt):
            self._record(asked, asked.match, False)

    async def learn(
        self,
        asked: Asked,
        key: str | None,
        answer: str,
        other: str | None,
        judge: Callable[[str, str, str], Awaitable[bool | None]],
    ) -> None:
        """A question was answered, under this key, None where the answer was not kept; ``other`` is the text of the answer that it
        was matched with."""
        match, how = asked.match, asked.policy.verify
        agreed: bool | None = None
        if match is not None and asked.compared and other is None:  # it has gone, and could not be served either
            self.answers.forget([match.key])
        if match is not None and other is not None:
            agreed = answers_equal(answer, other, "json" if how == "json" else "equal")
            if not agreed and how == "judge":
                agreed = await judge(asked.text, answer, other)
            if asked.compared and agreed is not None:
                self._record(asked, match, agreed)
        if key is None:
            return
        name = (
            match.answer if agreed and match is not None else answer_name(answer, "json" if how == "json" else "equal")
        )
        self.answers.add(asked.space, key, asked.text, asked.vector, answer=name)

    def _record(self, asked: Asked, match: Match, agreed: bool) -> None:
        self.answers.record(asked.route, match, agreed)
        self.changed = True


def _came_whole(attempt: Attempt) -> bool:
    """Whether this is all that the model had to say, whatever it was: no error, and not broken off."""
    if attempt.status != "ok" or (attempt.http_status or 200) >= 300:
        return False
    # A word why it ended is its end, also where the provider's last event or its usage is missing.
    return bool(attempt.finish) or not (attempt.error or attempt.charge.estimated)


def _setting(policy: SemanticPolicy, embedder: str, made: str) -> str:
    parts = (str(policy.errors), embedder, policy.verify, policy.judge, made)
    return digest(_COUNTS, *(part.encode() for part in parts))
