"""The key of a request in the response cache.

Rule 1: two requests have one key only if no provider could tell them apart by what matters for the answer: keys of objects in
        any order, other spacing and other escapes are the same JSON; everything else is not.
Rule 2: what is left out cannot change an answer: who asks, how usage is reported, which tier serves. What an answer leaves behind at the provider (``store``) is
        no such thing, and one that goes on with what is left there has no key.
Rule 3: who may see the answer (the tenant) is part of the key, so nothing can be found across tenants.
Rule 4: declared volatile parts are replaced before hashing: a request that had some is found as a template.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from importlib import import_module
from typing import Any, Final, NamedTuple

import msgspec

from bursar.core.caching import KEY_HEX_LENGTH

from .dialect import UNREADABLE, bad_request

__all__ = ["CacheKey", "cache_key", "digest", "is_sampled", "volatile_pattern"]

_NEUTRAL: Final = frozenset(
    {
        "user", "metadata", "stream_options", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "service_tier", "labels",
    }
)  # fmt: skip
_STATEFUL: Final = ("conversation", "background", "container")
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode
_GENERATION: Final = ("generationConfig", "generation_config")
_MARK: Final = b"\0"


class CacheKey(NamedTuple):
    """``templated`` says whether volatile parts were taken out. ``sampled``: the answer is drawn at random. ``stateful`` names the
    field by which it depends on something that changes and is kept by the provider, "" where none does."""

    key: str
    templated: bool
    sampled: bool
    stateful: str


def cache_key(body: bytes, *, tenant: str, route: str, path: str, stream: bool, volatile: Sequence[str]) -> CacheKey:
    """Raises BadRequest where the body is no JSON object."""
    try:
        found = _decode(body)
    except UNREADABLE as error:
        raise bad_request(error) from None
    kept = {name: value for name, value in found.items() if name not in _NEUTRAL}
    canonical = _encode(kept)
    text = canonical
    for pattern in volatile:
        text = volatile_pattern(pattern).sub(_MARK, text)
    key = digest(tenant.encode(), route.encode(), path.encode(), b"stream" if stream else b"whole", text)
    stateful = next((name for name in _STATEFUL if found.get(name)), "")
    return CacheKey(key, text != canonical, is_sampled(found), stateful)


def is_sampled(body: dict[str, Any]) -> bool:
    """Whether a generated answer is drawn at random: every one is but with a temperature of 0, for that is what is said where
    nothing is said."""
    holder: Any = next((body[name] for name in _GENERATION if isinstance(body.get(name), dict)), body)
    return holder.get("temperature") != 0


def digest(*parts: bytes) -> str:
    """The key of these parts: each with its length, so that no two lists of parts are the same bytes."""
    made = blake2b(digest_size=KEY_HEX_LENGTH // 2)
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.hexdigest()


@lru_cache(maxsize=512)
def volatile_pattern(pattern: str) -> Any:
    """A compiled pattern, whose search takes a time in proportion to the text, whatever a client writes into it (RE2). Raises
    ValueError."""
    re2: Any = import_module("re2")  # only who declares volatile parts pays for loading it
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        text = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        raise ValueError(f"{pattern[:60]!r} is none that RE2 takes (it has no look-around): {text}") from None
