"""Any request to a provider: whether it can cost money, and what it says.

Rule 1: only a POST can cost money; a few POSTs are known to be free.
Rule 2: a form with a file in it is not read: its model is looked for in its first bytes, and its charge comes from the
        answer.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from .dialect import Dialect, RequestFacts

__all__ = ["free_facts", "is_free", "read_facts"]

_FREE: Final = re.compile(
    r"(/count_tokens|:countTokens|/files|/files/[^/]+/.*|/uploads(/.*)?|/batches/[^/]+/cancel|/moderations"
    r"|/traces/ingest|/responses/[^/]+/cancel|/responses/input_tokens|/vector_stores(/.*)?|/cachedContents(/.*)?)$"
)
_MULTIPART_MODEL: Final = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,200})\r\n')
_LOOKED_AT_BYTES: Final = 65_536


def is_free(method: str, path: str) -> bool:
    """Whether a request is known to cost nothing of itself."""
    return method != "POST" or _is_free_path(path)


@lru_cache(maxsize=1024)
def _is_free_path(path: str) -> bool:
    # A deployment may be called anything: what is asked of it is what counts.
    return "/deployments/" not in path and _FREE.search(path) is not None


def read_facts(dialect: Dialect, path: str, content_type: str, body: bytes) -> RequestFacts:
    """What a request says. Raises BadRequest."""
    if content_type.lower().startswith("multipart/") and not dialect.id.startswith("openai_images"):
        found = _MULTIPART_MODEL.search(body[:_LOOKED_AT_BYTES])
        model = found[1].decode(errors="replace") if found else ""
        return RequestFacts("passthrough", model)
    return dialect.read_request(path, body)


def free_facts(dialect: Dialect, path: str) -> RequestFacts:
    """What is known of a request that costs nothing."""
    return RequestFacts("passthrough", dialect.path_model(path))
