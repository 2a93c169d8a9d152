"""Codex rollouts: ``~/.codex/sessions/YYYY/MM/DD/rollout-*.jsonl``.

Rule 1: a ``token_count`` event repeats until something changes. It is a call only when ``total_token_usage`` moved,
        and then ``last_token_usage`` is the call.
Rule 2: a forked thread and a spawned subagent replay their parent's counts, often with new times. A call is therefore
        known by what does not change: the root of its thread's family, the total and the last usage.
Rule 3: newer versions also write a ``token_usage_record`` per response. It lends its response id to the count of the
        same usage; a record without such a count is a call of its own.
Rule 4: only the first ``session_meta`` of a file is the file's own; later ones are replayed, and tell of ancestors.
Rule 5: ``input_tokens`` contains ``cached_input_tokens``, ``output_tokens`` contains ``reasoning_output_tokens``.
Rule 6: the model is the one of the latest ``turn_context``. Where none was written the call is unpriced, never guessed.
Rule 7: a thread is the task ``codex:THREAD``; a spawned subagent is a child task of its parent's thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, cast

import msgspec

from bursar.core.ledger import Attempt
from bursar.core.prices import PriceBook, Reading
from bursar.core.scopes import NOBODY, Scope, make_labels
from bursar.core.usage import Usage
from bursar.wire.dialect import UNREADABLE

from .attempts import COUNT_MAX, last_part, observed, parse_time, short
from .files import Line, Progress, find_files, no_progress, read_lines
from .tally import Tally

__all__ = ["find_rollouts", "read_rollouts"]

_WORDS: Final = (
    b'"token_count"',
    b'"token_usage_record"',
    b'"turn_context"',
    b'"session_meta"',
    b'"function_call"',
    b'"custom_tool_call"',
    b'"local_shell_call"',
)

_Count = Annotated[int, msgspec.Meta(ge=0, le=COUNT_MAX)]


class _Tokens(msgspec.Struct, frozen=True):
    input_tokens: _Count = 0
    cached_input_tokens: _Count = 0
    cache_write_input_tokens: _Count | None = None
    output_tokens: _Count = 0
    reasoning_output_tokens: _Count = 0

    def counts(self) -> tuple[int, int, int, int, int]:
        return (
            self.input_tokens,
            self.cached_input_tokens,
            self.cache_write_input_tokens or 0,
            self.output_tokens,
            self.reasoning_output_tokens,
        )


class _Info(msgspec.Struct):
    total_token_usage: _Tokens | None = None
    last_token_usage: _Tokens | None = None


class _Git(msgspec.Struct):
    branch: str | None = None


class _Payload(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    cwd: str | None = None
    cli_version: str | None = None
    model_provider: str | None = None
    forked_from_id: str | None = None
    parent_thread_id: str | None = None
    source: Any = None
    git: _Git | None = None
    model: str | None = None
    name: str | None = None
    info: _Info | None = None
    response_id: str | None = None
    usage: _Tokens | None = None


class _Row(msgspec.Struct):
    type: str | None = None
    timestamp: str | None = None
    payload: _Payload | None = None


_ROW: Final = msgspec.json.Decoder(_Row)


class _Call(NamedTuple):
    """One response. ``total`` is None where the file gives no running total to know it by."""

    place: str
    timestamp: str
    model: str
    last: tuple[int, int, int, int, int]
    total: tuple[int, int, int, int, int] | None
    response_id: str
    tools: tuple[str, ...]


@dataclass(slots=True)
class _Thread:
    """One file: whose it is and the calls it holds."""

    meta: _Payload | None = None
    model: str = ""
    previous: tuple[int, int, int, int, int] | None = None
    counted: list[_Call] = field(default_factory=list[_Call])
    recorded: list[_Call] = field(default_factory=list[_Call])
    tools: list[str] = field(default_factory=list[str])


def find_rollouts(paths: Iterable[Path], tally: Tally) -> list[Path]:
    """The rollouts under some paths, oldest first: their names begin with their time, so parents precede forks."""
    files = find_files(
        paths, lambda name: name.startswith("rollout-") and name.endswith((".jsonl", ".jsonl.gz")), tally
    )
    return sorted(files, key=lambda path: (path.name, path))


def read_rollouts(
    files: Sequence[Path],
    *,
    book: PriceBook,
    tally: Tally,
    overrides: Scope = NOBODY,
    progress: Progress = no_progress,
) -> Iterator[Attempt]:
    """The calls of some rollouts (from ``find_rollouts``), each once."""
    parents: dict[str, str] = {}
    for path in files:
        _note_parent(path, parents)
    booked: set[str] = set()
    for path in files:
        thread = _read_file(path, parents, tally, progress)
        meta = thread.meta or _Payload()
        root = _root(meta.id or path.name, parents)
        scope = overrides.over(_scope(meta, path, root))  # one for all calls of the file
        for call in _matched(thread):
            attempt_id = _attempt_id(call, root)
            if attempt_id in booked:
                tally.skip("the same call again: forks and subagents replay their parent's history", call.place)
                continue
            attempt = _attempt(call, attempt_id, meta, scope, book, tally)
            if attempt is not None:
                booked.add(attempt_id)
                yield attempt


def _note_parent(path: Path, parents: dict[str, str]) -> None:
    try:
        row = _decode(next(read_lines(path, Tally())))
    except (OSError, StopIteration):
        return
    if row is not None and row.type == "session_meta" and row.payload is not None:
        _link(row.payload, parents)


def _link(meta: _Payload, parents: dict[str, str]) -> None:
    parent = meta.forked_from_id or _spawned_by(meta)
    if meta.id and parent and parent != meta.id:
        parents.setdefault(meta.id, parent)


def _root(thread_id: str, parents: dict[str, str]) -> str:
    seen = {thread_id}
    while (parent := parents.get(thread_id)) is not None and parent not in seen:
        seen.add(parent)
        thread_id = parent
    return thread_id


def _decode(line: Line) -> _Row | None:
    try:
        return _ROW.decode(line.data)
    except UNREADABLE:
        return None


def _read_file(path: Path, parents: dict[str, str], tally: Tally, progress: Progress) -> _Thread:
    thread = _Thread()
    try:
        for line in read_lines(path, tally, progress):
            if not any(word in line.data for word in _WORDS):
                continue
            row = _decode(line)
            if row is None:
                reason = "row is not what Codex writes" if line.complete else "last line is not complete yet"
                tally.skip(reason, f"{path}:{line.number}")
            elif row.payload is not None:
                _take_row(thread, row, row.payload, parents, f"{path}:{line.number}")
    except OSError as error:
        tally.skip("file cannot be read to its end", str(error))
    return thread


def _take_row(thread: _Thread, row: _Row, payload: _Payload, parents: dict[str, str], place: str) -> None:
    match row.type:
        case "session_meta":
            _link(payload, parents)
            if thread.meta is None:
                thread.meta = payload
        case "turn_context":
            thread.model = payload.model or thread.model
        case "response_item":
            if payload.name and payload.type in ("function_call", "custom_tool_call"):
                thread.tools.append(payload.name)
            elif payload.type == "local_shell_call":
                thread.tools.append("local_shell")
        case "event_msg" if payload.type == "token_count" and payload.info is not None:
            _take_count(thread, payload.info, row.timestamp or "", place)
        case "token_usage_record" if payload.usage is not None and payload.response_id:
            last, tools = payload.usage.counts(), tuple(dict.fromkeys(thread.tools))
            thread.recorded.append(
                _Call(place, row.timestamp or "", thread.model, last, None, payload.response_id, tools)
            )
        case _:
            pass


def _take_count(thread: _Thread, info: _Info, timestamp: str, place: str) -> None:
    last = info.last_token_usage.counts() if info.last_token_usage is not None else None
    total = info.total_token_usage.counts() if info.total_token_usage is not None else None
    if total is not None:
        if total == thread.previous:
            return
        if last is None:
            before = thread.previous or (0, 0, 0, 0, 0)
            step = tuple(now - then for now, then in zip(total, before, strict=True))
            last = total if min(step) < 0 else cast("tuple[int, int, int, int, int]", step)
        thread.previous = total
    # A full context window is reported as a count of nothing.
    if last is None or not any(last):
        return
    thread.counted.append(_Call(place, timestamp, thread.model, last, total, "", tuple(dict.fromkeys(thread.tools))))
    thread.tools.clear()


def _matched(thread: _Thread) -> Iterator[_Call]:
    """The calls of a file in order: counts, with the response id of the record of equal usage, then other records."""
    records: defaultdict[tuple[int, ...], list[_Call]] = defaultdict(list)
    for record in reversed(thread.recorded):
        records[record.last].append(record)
    for call in thread.counted:
        same = records[call.last]
        yield call._replace(response_id=same.pop().response_id) if same else call
    for left in records.values():
        yield from reversed(left)


def _attempt_id(call: _Call, root: str) -> str:
    if call.total is None and call.response_id:
        return f"openai:{call.response_id}"
    known_by = (call.total, call.last) if call.total is not None else (call.timestamp, call.last)
    return f"codex:{root}:{blake2b(repr(known_by).encode(), digest_size=12).hexdigest()}"


def _attempt(
    call: _Call, attempt_id: str, meta: _Payload, scope: Scope, book: PriceBook, tally: Tally
) -> Attempt | None:
    try:
        at = parse_time(call.timestamp)
    except ValueError as error:
        tally.skip("row without a time", f"{call.place} ({error})")
        return None
    fresh, cached, written, output, reasoning = call.last
    usage = Usage(
        input_tokens=fresh,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )
    return observed(
        Reading(usage=usage, model=call.model, response_id=call.response_id, tools=call.tools),
        book,
        attempt_id=attempt_id,
        operation="responses",
        at=at,
        provider=meta.model_provider or "openai",
        model=call.model,
        scope=scope,
        overrides=NOBODY,
    )


def _scope(meta: _Payload, path: Path, root: str) -> Scope:
    thread = meta.id or path.name.partition(".")[0]
    agent = _subagent(meta)
    spawned_by = _spawned_by(meta)
    labels = {"git_branch": short(meta.git.branch if meta.git else ""), "codex_version": short(meta.cli_version)}
    return Scope(
        project=last_part(meta.cwd),
        agent=agent or "codex",
        session=short(root if spawned_by else thread),
        task=short(f"codex:{thread}"),
        parent_task=short(f"codex:{spawned_by}") if spawned_by else "",
        labels=make_labels({name: value for name, value in labels.items() if value}),
    )


def _spawn(meta: _Payload) -> dict[str, Any] | str | None:
    """What started this thread when it is a subagent: ``{"thread_spawn": {...}}``, ``{"other": name}`` or a name."""
    if not isinstance(meta.source, dict):
        return None
    source = cast("dict[str, Any]", meta.source)
    found = source.get("subagent")
    return cast("dict[str, Any]", found) if isinstance(found, dict) else found if isinstance(found, str) else None


def _spawned_by(meta: _Payload) -> str:
    spawn = _spawn(meta)
    details: Any = spawn.get("thread_spawn") if isinstance(spawn, dict) else None
    parent: Any = cast("dict[str, Any]", details).get("parent_thread_id") if isinstance(details, dict) else None
    return parent if isinstance(parent, str) else meta.parent_thread_id or ""


def _subagent(meta: _Payload) -> str:
    spawn = _spawn(meta)
    if spawn is None:
        return "subagent" if _spawned_by(meta) else ""
    if isinstance(spawn, str):
        return short(spawn)
    details: Any = spawn.get("thread_spawn")
    role: Any = cast("dict[str, Any]", details).get("agent_role") if isinstance(details, dict) else spawn.get("other")
    return short(role) if isinstance(role, str) and role else "subagent"
