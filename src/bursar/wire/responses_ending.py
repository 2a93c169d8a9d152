"""The end of a responses stream that is ended early: what was begun is finished as incomplete.

Rule 1: the last event is ``response.incomplete`` for ``max_output_tokens``, with the response as its first event gave
        it and with all output so far: whole items as they came, begun ones with what of them was seen.
Rule 2: begun texts, parts and items get their ``done`` events first, as the API itself ends them.
Rule 3: deltas are kept as raw bytes until the end, which seldom comes; decoding them is not for the hot path.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .dialect import mapping

__all__ = ["Unfinished"]

_ADDED: Final = frozenset({"response.output_item.added", "response.content_part.added"})
_TEXTS: Final = {"response.output_text.delta": "text", "response.refusal.delta": "refusal"}
_ARGUMENTS: Final = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}
_DONE: Final = frozenset({"response.output_item.done", "response.content_part.done"})
_KEPT: Final = _ADDED | _DONE | _TEXTS.keys() | _ARGUMENTS.keys()
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_OPENINGS: Final = frozenset({"response.created", "response.in_progress", "response.queued"})


class Unfinished:
    """What a stream has begun and not finished."""

    __slots__ = ("_count", "_ended", "_events", "_opening")

    def __init__(self) -> None:
        self._count = 0
        self._ended = False
        self._events: list[bytes] = []
        self._opening = b""

    def take(self, kind: str, data: bytes) -> None:
        """One event that passed."""
        self._count += 1
        if kind in _KEPT:
            self._events.append(data)
        elif kind in _OPENINGS:
            self._opening = data
        elif kind in _ENDS:
            self._ended = True

    def ending(self, model: str, input_tokens: int, output_tokens: int) -> bytes:
        """The events that are missing."""
        if self._ended:
            return b""
        opening = mapping(msgspec.json.decode(self._opening)) if self._opening else {}
        last = mapping(msgspec.json.decode(self._events[-1])) if self._events else opening
        number = max([self._count - 1, *(n for n in (last.get("sequence_number"),) if isinstance(n, int))])
        response: dict[str, Any] = {
            "id": "resp_0", "object": "response", "created_at": 0, "model": model, "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [], "error": None, "metadata": {},
            **mapping(opening.get("response")),
        }  # fmt: skip
        out: list[dict[str, Any]] = []
        if not self._opening:
            begun: dict[str, Any] = {**response, "status": "in_progress", "output": [], "usage": None}
            out.append({"type": "response.created", "response": begun})
        items, finished = self._items()
        for index, item in sorted(items.items()):
            if index not in finished:
                out += _finish(index, item)
        response |= {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [item for _, item in sorted(items.items())],
            "usage": {
                "input_tokens": input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": input_tokens + output_tokens,
            },
        }
        out.append({"type": "response.incomplete", "response": response})
        return b"".join([_event({**event, "sequence_number": number + place}) for place, event in enumerate(out, 1)])

    def _items(self) -> tuple[dict[int, dict[str, Any]], set[int]]:
        """Every item by its place, as far as it was seen, and the places of those that are whole."""
        items: dict[int, dict[str, Any]] = {}
        finished: set[int] = set()
        for data in self._events:
            event = mapping(msgspec.json.decode(data))
            index, kind = event.get("output_index"), event.get("type", "")
            if not isinstance(index, int):
                continue
            if kind in ("response.output_item.added", "response.output_item.done"):
                items[index] = mapping(event.get("item"))
                if kind == "response.output_item.done":
                    finished.add(index)
            elif index in items:
                _extend(items[index], kind, event)
        return items, finished


def _extend(item: dict[str, Any], kind: str, event: dict[str, Any]) -> None:
    delta = event.get("delta")
    if kind in _ARGUMENTS and isinstance(delta, str):
        item[_ARGUMENTS[kind]] = (item.get(_ARGUMENTS[kind]) or "") + delta
        return
    content: list[dict[str, Any]] = item.setdefault("content", [])
    place = event.get("content_index")
    if not isinstance(place, int):
        return
    if kind == "response.content_part.added" and place == len(content):
        content.append(mapping(event.get("part")))
    elif kind == "response.content_part.done" and place < len(content):
        content[place] = {**mapping(event.get("part")), "": True}
    elif kind in _TEXTS and place < len(content) and isinstance(delta, str):
        content[place][_TEXTS[kind]] = (content[place].get(_TEXTS[kind]) or "") + delta


def _finish(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The ``done`` events of a begun item, and the item marked incomplete."""
    place = {"item_id": item.get("id") or "", "output_index": index}
    out: list[dict[str, Any]] = []
    for number, part in enumerate(item.get("content") or ()):
        if part.pop("", False):  # the part was whole, only its item was not
            continue
        at = {**place, "content_index": number}
        if part.get("type") == "output_text":
            part.setdefault("annotations", [])
            done: dict[str, Any] = {
                "type": "response.output_text.done",
                **at,
                "text": part.get("text") or "",
                "logprobs": [],
            }
            out.append(done)
        elif part.get("type") == "refusal":
            out.append({"type": "response.refusal.done", **at, "refusal": part.get("refusal") or ""})
        out.append({"type": "response.content_part.done", **at, "part": part})
    item["status"] = "incomplete"
    return [*out, {"type": "response.output_item.done", "output_index": index, "item": item}]


def _event(event: dict[str, Any]) -> bytes:
    return b"event: " + event["type"].encode() + b"\ndata: " + msgspec.json.encode(event) + b"\n\n"
