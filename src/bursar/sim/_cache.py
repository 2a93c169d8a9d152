"""The providers' prompt caches: which prefixes of a prompt were seen before, per key and model.

Rule 1: OpenAI and Gemini cache by themselves: from 1,024 tokens, in steps of 128, and never the whole prompt.
        A prefix lives for 5 minutes after its last use (24 hours where the request asks for it).
Rule 2: Anthropic caches at marked blocks alone, from 1,024 tokens: what is new up to a mark is *created* at the mark's
        lifetime (5 minutes or 1 hour), what a mark finds is *read*, and reading starts the lifetime anew. A mark looks
        back over 20 blocks, which is how a growing conversation finds its shorter self.
Rule 3: prefixes are digests; the cache forgets its oldest beyond ``_ENTRIES_MAX``. Texts are not kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from ._draw import CHARACTERS_PER_TOKEN, count_tokens

__all__ = ["Block", "CacheUse", "PromptCache"]

_ENTRIES_MAX: Final = 65_536
_SMALLEST_TOKENS: Final = 1_024
_STEP_TOKENS: Final = 128
_LOOK_BACK_BLOCKS: Final = 20


class Block(NamedTuple):
    """Where a block of a prompt ends (characters), and the lifetime of its cache mark if it has one."""

    end: int
    mark_ttl_s: int | None


class CacheUse(NamedTuple):
    """Tokens of one prompt by how the cache served them."""

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0


class PromptCache:
    def __init__(self) -> None:
        self._expiries: OrderedDict[bytes, tuple[float, int]] = OrderedDict()

    def clear(self) -> None:
        self._expiries.clear()

    def automatic(self, owner: str, prompt: str, *, now: float, ttl_s: int) -> CacheUse:
        """Read what is known of ``prompt``'s beginning, and remember the rest of it."""
        tokens = count_tokens(prompt)
        if tokens < _SMALLEST_TOKENS:
            return CacheUse()
        data = prompt.encode("utf-32-le", "surrogatepass")  # four bytes a character: cut points are plain products
        step = _STEP_TOKENS * CHARACTERS_PER_TOKEN * 4
        digest = blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=16)
        digest.update(b"\0")
        read = 0
        for number in range(1, (tokens - 1) // _STEP_TOKENS + 1):
            digest.update(data[(number - 1) * step : number * step])
            prefix_tokens = number * _STEP_TOKENS
            if prefix_tokens < _SMALLEST_TOKENS:
                continue
            prefix = digest.digest()
            if self._alive(prefix, now):
                read = prefix_tokens
            self._remember(prefix, now, ttl_s)
        return CacheUse(read=read)

    def marked(self, owner: str, prompt: str, blocks: Sequence[Block], *, now: float) -> CacheUse:
        """Read and create at the marks of ``blocks``, as Anthropic does."""
        marks = [number for number, block in enumerate(blocks) if block.mark_ttl_s is not None]
        if not marks or count_tokens(prompt[: blocks[marks[-1]].end]) < _SMALLEST_TOKENS:
            return CacheUse()
        digest = blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=16)
        prefixes: list[bytes] = []
        start = 0
        for block in blocks[: marks[-1] + 1]:
            digest.update(prompt[start : block.end].encode("utf-8", "surrogatepass"))
            prefixes.append(digest.digest())
            start = block.end
        read = 0
        for mark in marks:
            for number in range(mark, max(-1, mark - _LOOK_BACK_BLOCKS), -1):
                if self._alive(prefixes[number], now):
                    self._remember(prefixes[number], now, self._expiries[prefixes[number]][1])
                    read = max(read, blocks[number].end)
                    break
        done, written = count_tokens(prompt[:read]), {300: 0, 3600: 0}
        read_tokens = done
        for mark in marks:
            block = blocks[mark]
            tokens = count_tokens(prompt[: block.end])
            if tokens > done and tokens >= _SMALLEST_TOKENS and block.mark_ttl_s is not None:
                written[block.mark_ttl_s] += tokens - done
                done = tokens
                self._remember(prefixes[mark], now, block.mark_ttl_s)
        return CacheUse(read_tokens, written[300], written[3600])

    def _alive(self, prefix: bytes, now: float) -> bool:
        entry = self._expiries.get(prefix)
        return entry is not None and entry[0] > now

    def _remember(self, prefix: bytes, now: float, ttl_s: int) -> None:
        self._expiries[prefix] = (now + ttl_s, ttl_s)
        self._expiries.move_to_end(prefix)
        while len(self._expiries) > _ENTRIES_MAX:
            self._expiries.popitem(last=False)
