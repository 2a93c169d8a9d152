"""Answers of ours in the place of a provider's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

__all__ = ["NO_RETRY", "Problem"]

# The SDKs of OpenAI and Anthropic obey it; 402 is none that they would send again by themselves.
NO_RETRY: Final = (("x-should-retry", "false"),)


class Problem(Exception):  # noqa: N818 - it becomes an answer, not a failure of the program
    """An answer of ours instead of the provider's."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        more: Mapping[str, object],
        *,
        retry_after_s: int | None = None,
        rest: AsyncIterator[bytes] | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = more
        self.retry_after_s = retry_after_s
        self.rest = rest
        self.headers = headers
